//! What a gossip datagram is: a message of chitchat's, sealed when the cluster has a secret.
//!
//! In: a message and what the shell knows (the time, a random nonce), or a datagram from anyone. Out: the
//! datagram to be sent, or the message in it, or why it is dropped.
//!
//! chitchat believes every message that it gets, so with a secret none gets to it that was not sealed with
//! it: XChaCha20-Poly1305 over a random nonce, the sender's boot and clock, and a counter that may not repeat.

use std::collections::HashMap;

use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _},
};
use chitchat::{ChitchatMessage, Deserializable as _, Serializable as _};

use super::secret::SealingKeys;

/// Bytes of a nonce. It goes ahead of what is sealed.
pub const NONCE: usize = 24;
/// Boot id, wall clock in milliseconds and counter, 8 bytes each.
const HEADER: usize = 24;
/// How far the clocks of two nodes may be apart. A datagram captured before a restart is older soon.
const CLOCK_SKEW_MILLIS: u64 = 60_000;
/// Senders remembered for their counters; more only if someone who knows the secret makes them up.
const MAX_SENDERS: usize = 10_000;

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// It is no message.
    Malformed,
    /// Its sender does not know the secret, or it was changed on its way.
    NotSealedByUs,
    /// A stranger's, and from another time: one that was captured, or a node whose clock is wrong.
    TooOld,
    /// It has been here before.
    Repeated,
}

impl Dropped {
    /// What it is counted as.
    pub fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NotSealedByUs => "not_sealed_by_us",
            Self::TooOld => "too_old",
            Self::Repeated => "repeated",
        }
    }
}

/// Turns messages into datagrams and datagrams into messages.
pub struct Codec {
    /// None: the cluster has no secret.
    seal: Option<Seal>,
}

impl Codec {
    /// For a node that began as `boot`, a random number. The first of `keys` seals, any opens; without
    /// one, messages go as they are.
    pub fn new(keys: &SealingKeys, boot: u64) -> Self {
        Self { seal: (!keys.is_empty()).then(|| Seal::new(keys, boot)) }
    }

    /// Seals and opens with these keys from now on, if it does with any: nodes with and without a secret can't hear
    /// each other.
    pub fn change_keys(&mut self, keys: &SealingKeys) {
        if let Some(seal) = self.seal.as_mut().filter(|_| !keys.is_empty()) {
            seal.ciphers = ciphers(keys);
        }
    }

    /// The datagram for a message, none if it is too large to be sealed. `nonce` must be random, `now` is
    /// Unix time in milliseconds.
    pub fn encode(
        &mut self,
        message: &ChitchatMessage,
        nonce: [u8; NONCE],
        now: u64,
    ) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        message.serialize(&mut content);
        match &mut self.seal {
            None => Some(content),
            Some(seal) => seal.seal(&content, nonce, now),
        }
    }

    /// The message in a datagram.
    ///
    /// # Errors
    /// If it has to be dropped.
    pub fn decode(&mut self, datagram: &[u8], now: u64) -> Result<ChitchatMessage, Dropped> {
        let opened;
        let mut content = match &mut self.seal {
            None => datagram,
            Some(seal) => {
                opened = seal.open(datagram, now)?;
                &opened
            }
        };
        ChitchatMessage::deserialize(&mut content).map_err(|_| Dropped::Malformed)
    }
}

/// The last counters of one sender's boot: a window of 64 behind the newest.
#[derive(Default)]
struct Window {
    newest: u64,
    seen: u64,
}

impl Window {
    fn accept(&mut self, counter: u64) -> bool {
        if counter > self.newest {
            let shift = counter - self.newest;
            self.seen = if shift < 64 { self.seen << shift | 1 } else { 1 };
            self.newest = counter;
            return true;
        }
        let behind = self.newest - counter;
        let fresh = behind < 64 && self.seen & (1 << behind) == 0;
        if fresh {
            self.seen |= 1 << behind;
        }
        fresh
    }
}

/// What seals, and what it remembers so that nothing opens twice.
pub struct Seal {
    /// At least one.
    ciphers: Box<[XChaCha20Poly1305]>,
    boot: u64,
    counter: u64,
    senders: HashMap<u64, Window>,
}

impl Seal {
    /// See [`Codec::new`].
    pub fn new(keys: &SealingKeys, boot: u64) -> Self {
        Self { ciphers: ciphers(keys), boot, counter: 0, senders: HashMap::new() }
    }

    /// See [`Codec::encode`].
    pub fn seal(&mut self, content: &[u8], nonce: [u8; NONCE], now: u64) -> Option<Vec<u8>> {
        self.counter += 1;
        let mut plain = Vec::with_capacity(HEADER + content.len());
        for field in [self.boot, now, self.counter] {
            plain.extend(field.to_be_bytes());
        }
        plain.extend(content);
        let sealed = self.ciphers.first()?.encrypt(XNonce::from_slice(&nonce), &plain[..]).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    /// What was sealed.
    ///
    /// # Errors
    /// If it was not sealed with one of the keys, or not lately, or has been opened before.
    pub fn open(&mut self, datagram: &[u8], now: u64) -> Result<Vec<u8>, Dropped> {
        let (nonce, sealed) = datagram.split_first_chunk::<NONCE>().ok_or(Dropped::Malformed)?;
        let opened = |it: &XChaCha20Poly1305| it.decrypt(XNonce::from_slice(nonce), sealed).ok();
        let mut plain = self.ciphers.iter().find_map(opened).ok_or(Dropped::NotSealedByUs)?;
        let field = |index: usize| {
            let bytes = plain.get(index * 8..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*bytes))
        };
        let (Some(boot), Some(sent), Some(counter)) = (field(0), field(1), field(2)) else {
            return Err(Dropped::Malformed);
        };
        // Of a sender that is known the counter says enough, whatever has become of the clocks since.
        if now.abs_diff(sent) > CLOCK_SKEW_MILLIS && !self.senders.contains_key(&boot) {
            return Err(Dropped::TooOld);
        }
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&boot) {
            self.senders.clear();
        }
        if !self.senders.entry(boot).or_default().accept(counter) {
            return Err(Dropped::Repeated);
        }
        Ok(plain.split_off(HEADER))
    }
}

fn ciphers(keys: &SealingKeys) -> Box<[XChaCha20Poly1305]> {
    keys.iter().map(|key| XChaCha20Poly1305::new(Key::from_slice(key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal_with(keys: &[u8], boot: u64) -> Seal {
        Seal::new(&keys.iter().map(|key| [*key; 32]).collect(), boot)
    }

    fn sealed(seal: &mut Seal, content: &[u8]) -> Vec<u8> {
        seal.seal(content, [9; NONCE], 1000).expect("seals")
    }

    #[test]
    fn either_secret_opens_while_one_is_being_changed() {
        let (mut old, mut new) = (seal_with(&[1, 2], 7), seal_with(&[2, 1], 8));
        assert_eq!(new.open(&sealed(&mut old, b"hi"), 1000), Ok(b"hi".to_vec()));
        assert_eq!(old.open(&sealed(&mut new, b"ho"), 1000), Ok(b"ho".to_vec()));
    }

    #[test]
    fn keys_change_and_what_was_opened_does_not_open_again() {
        let keys = |keys: &[u8]| keys.iter().map(|key| [*key; 32]).collect::<SealingKeys>();
        let message = ChitchatMessage::BadCluster;
        let (mut a, mut b) = (Codec::new(&keys(&[1]), 7), Codec::new(&keys(&[1, 2]), 8));
        let heard = |a: &mut Codec, b: &mut Codec| {
            let datagram = a.encode(&message, [9; NONCE], 1000).expect("seals");
            (b.decode(&datagram, 1000).map(drop), b.decode(&datagram, 1000).map(drop))
        };
        let once = (Ok(()), Err(Dropped::Repeated));
        assert_eq!(heard(&mut a, &mut b), once);
        a.change_keys(&keys(&[2]));
        assert_eq!(heard(&mut a, &mut b), once);
        a.change_keys(&keys(&[]));
        assert_eq!(heard(&mut a, &mut b), once);
        b.change_keys(&keys(&[1]));
        assert_eq!(heard(&mut a, &mut b).0, Err(Dropped::NotSealedByUs));
    }

    #[test]
    fn datagrams_open_once_in_any_order() {
        let (mut a, mut b) = (seal_with(&[1], 7), seal_with(&[1], 8));
        let sent: Vec<Vec<u8>> = (0..70).map(|it| sealed(&mut a, &[it])).collect();
        assert_eq!(b.open(&sent[65], 1000), Ok(vec![65]));
        assert_eq!(b.open(&sent[60], 1000), Ok(vec![60]));
        for again in [60, 65] {
            assert_eq!(b.open(&sent[again], 1000), Err(Dropped::Repeated));
        }
        assert_eq!(b.open(&sent[0], 1000), Err(Dropped::Repeated), "behind the window");
        assert_eq!(b.open(&sent[69], 1000), Ok(vec![69]));
    }

    #[test]
    fn junk_old_and_foreign_datagrams_are_dropped() {
        let mut b = seal_with(&[1], 8);
        let good = sealed(&mut seal_with(&[1], 7), b"hi");
        assert_eq!(b.open(&good, 1000 + 2 * CLOCK_SKEW_MILLIS), Err(Dropped::TooOld));
        assert_eq!(b.open(&[], 1000), Err(Dropped::Malformed));
        assert_eq!(b.open(&good[..30], 1000), Err(Dropped::NotSealedByUs));
        let foreign = sealed(&mut seal_with(&[2], 7), b"hi");
        assert_eq!(b.open(&foreign, 1000), Err(Dropped::NotSealedByUs));
        let mut flipped = good.clone();
        flipped[40] ^= 1;
        assert_eq!(b.open(&flipped, 1000), Err(Dropped::NotSealedByUs));
        assert_eq!(b.open(&good, 1000), Ok(b"hi".to_vec()));
    }

    #[test]
    fn messages_come_out_as_they_went_in() {
        for keys in [vec![], vec![[1; 32]]] {
            let (mut a, mut b) = (Codec::new(&keys, 7), Codec::new(&keys, 8));
            let sent = a.encode(&ChitchatMessage::BadCluster, [9; NONCE], 1000).expect("small");
            assert_eq!(b.decode(&sent, 1000), Ok(ChitchatMessage::BadCluster));
            assert_eq!(b.decode(b"junk", 1000), Err(Dropped::Malformed));
        }
    }
}
