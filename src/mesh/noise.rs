//! Sealed links: Noise with a pre-shared key made of the cluster's secret, pure.
//!
//! Who does not know the secret can't finish the handshake, and nothing else that arrives can be opened.
//! A link without a secret carries the same bytes as they are.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};
use snow::{Builder, HandshakeState, StatelessTransportState};

/// Fresh keys on both sides, bound to the secret.
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// The most that one sealed record carries.
const RECORD: usize = 65_535 - 16;

/// One side of a handshake.
#[derive(Debug)]
pub struct Handshake(HandshakeState);

/// The sealing half of a link.
#[derive(Debug)]
pub struct Sealer(Option<(Arc<StatelessTransportState>, u64)>);

/// The opening half of a link.
#[derive(Debug)]
pub struct Opener(Option<(Arc<StatelessTransportState>, u64)>);

impl Handshake {
    /// The side that dials, or the one that is dialled.
    ///
    /// # Errors
    /// If the pattern is not supported, which no input can bring about.
    pub fn new(key: &[u8; 32], dials: bool) -> Result<Self, snow::Error> {
        let builder = Builder::new(PATTERN.parse()?).psk(0, key)?;
        Ok(Self(if dials { builder.build_initiator()? } else { builder.build_responder()? }))
    }

    /// The side that is dialled, with whichever key the dialler's first message was made with.
    ///
    /// # Errors
    /// If it was made with none of them.
    pub fn answer(keys: &[[u8; 32]], message: &[u8]) -> Result<Self, snow::Error> {
        let mut refusal = snow::Error::Decrypt;
        for key in keys {
            let mut handshake = Self::new(key, false)?;
            match handshake.read(message) {
                Ok(()) => return Ok(handshake),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// The next message to send.
    ///
    /// # Errors
    /// If it is not this side's turn.
    pub fn write(&mut self) -> Result<Vec<u8>, snow::Error> {
        let mut message = vec![0; 128];
        let length = self.0.write_message(&[], &mut message)?;
        message.truncate(length);
        Ok(message)
    }

    /// Takes the other side's message.
    ///
    /// # Errors
    /// If it was not made with the same secret.
    pub fn read(&mut self, message: &[u8]) -> Result<(), snow::Error> {
        self.0.read_message(message, &mut [0; 128]).map(drop)
    }

    /// The halves of the link, once both messages are through.
    ///
    /// # Errors
    /// If they are not.
    pub fn finish(self) -> Result<(Sealer, Opener), snow::Error> {
        let state = Arc::new(self.0.into_stateless_transport_mode()?);
        Ok((Sealer(Some((state.clone(), 0))), Opener(Some((state, 0)))))
    }
}

/// The halves of a link without a secret.
pub fn plain() -> (Sealer, Opener) {
    (Sealer(None), Opener(None))
}

impl Sealer {
    /// Seals `bytes` and appends them to `out`.
    ///
    /// # Errors
    /// If the link has carried more than its keys may.
    pub fn seal(&mut self, bytes: &[u8], out: &mut BytesMut) -> Result<(), snow::Error> {
        let Some((state, nonce)) = &mut self.0 else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        for record in bytes.chunks(RECORD) {
            let start = out.len();
            out.put_u16((record.len() + 16) as u16);
            out.resize(start + 2 + record.len() + 16, 0);
            state.write_message(*nonce, record, &mut out[start + 2..])?;
            *nonce += 1;
        }
        Ok(())
    }
}

impl Opener {
    /// Takes whole records off `bytes`, opens them and appends the content to `out`.
    ///
    /// # Errors
    /// If a record was not sealed by the other side, or not as the next one.
    pub fn open(&mut self, bytes: &mut BytesMut, out: &mut BytesMut) -> Result<(), snow::Error> {
        let Some((state, nonce)) = &mut self.0 else {
            out.extend_from_slice(bytes);
            bytes.clear();
            return Ok(());
        };
        while let Some(length) = bytes.first_chunk::<2>().map(|it| u16::from_be_bytes(*it)) {
            let length = usize::from(length);
            if bytes.len() < 2 + length {
                break;
            }
            bytes.advance(2);
            let record = bytes.split_to(length);
            let start = out.len();
            out.resize(start + length, 0);
            let opened = state.read_message(*nonce, &record, &mut out[start..])?;
            out.truncate(start + opened);
            *nonce += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shake(dialer: &[u8; 32], dialled: &[u8; 32]) -> Result<(Sealer, Opener), snow::Error> {
        let (mut a, mut b) = (Handshake::new(dialer, true)?, Handshake::new(dialled, false)?);
        b.read(&a.write()?)?;
        a.read(&b.write()?)?;
        Ok((a.finish()?.0, b.finish()?.1))
    }

    #[test]
    fn what_is_sealed_opens_in_any_chunks() {
        let (mut sealer, mut opener) = shake(&[7; 32], &[7; 32]).expect("one secret");
        let sent: Vec<u8> = (0..200_000u32).map(|it| it as u8).collect();
        let (mut sealed, mut received) = (BytesMut::new(), BytesMut::new());
        sealer.seal(&sent, &mut sealed).expect("seals");
        let mut buffer = BytesMut::new();
        for chunk in sealed.chunks(1000) {
            buffer.extend_from_slice(chunk);
            opener.open(&mut buffer, &mut received).expect("opens");
        }
        assert_eq!(&received[..], &sent[..]);
    }

    #[test]
    fn another_secret_does_not_get_in() {
        assert!(shake(&[7; 32], &[8; 32]).is_err());
    }

    #[test]
    fn any_of_the_secrets_opens_while_one_is_being_changed() {
        for dialled in [[7; 32], [8; 32]] {
            let mut dialler = Handshake::new(&dialled, true).expect("a handshake");
            let message = dialler.write().expect("its turn");
            let mut answering =
                Handshake::answer(&[[7; 32], [8; 32]], &message).expect("one of the two");
            dialler.read(&answering.write().expect("its turn")).expect("the same secret");
            assert!(Handshake::answer(&[[9; 32]], &message).is_err());
        }
    }

    #[test]
    fn a_flipped_bit_or_a_record_sent_again_is_refused() {
        for spoil in [true, false] {
            let (mut sealer, mut opener) = shake(&[7; 32], &[7; 32]).expect("one secret");
            let mut sealed = BytesMut::new();
            sealer.seal(b"hello", &mut sealed).expect("seals");
            let mut again = sealed.clone();
            if spoil {
                again[5] ^= 1;
            } else {
                opener.open(&mut sealed, &mut BytesMut::new()).expect("opens once");
            }
            assert!(opener.open(&mut again, &mut BytesMut::new()).is_err());
        }
    }
}
