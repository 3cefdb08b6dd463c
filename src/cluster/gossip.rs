//! SHELL. How gossip travels: UDP, sealed when the cluster has a secret.
//!
//! chitchat believes every datagram it gets, so with a secret none gets to it that was not sealed with it:
//! XChaCha20-Poly1305 over a random nonce, the sender's boot and clock, and a counter that may not repeat.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use chacha20poly1305::{
    Key, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, KeyInit as _},
};
use chitchat::{
    ChitchatMessage, Deserializable as _, Serializable as _,
    transport::{Socket, Transport},
};
use tokio::net::UdpSocket;

use super::secret::Keys;
use crate::{clock, metrics::Metrics};

const MAX_DATAGRAM: usize = 65_507;
const NONCE: usize = 24;
/// Boot id, wall clock in milliseconds and counter, 8 bytes each.
const HEADER: usize = 24;
/// How far the clocks of two nodes may be apart. A datagram captured before a restart is older soon.
const CLOCK_SKEW_MILLIS: u64 = 60_000;
/// Senders remembered for their counters; more only if someone who knows the secret makes them up.
const MAX_SENDERS: usize = 10_000;

/// The first seals, any opens; none: gossip is not sealed.
type Ciphers = Arc<[XChaCha20Poly1305]>;

/// Opens one socket: the one that was bound before, so that its port is known.
pub struct Gossip {
    socket: Mutex<Option<UdpSocket>>,
    ciphers: Ciphers,
    metrics: Metrics,
}

impl Gossip {
    /// Gossips over `socket`, sealed with the first of `keys` if there is one.
    pub fn new(socket: UdpSocket, keys: &Keys, metrics: Metrics) -> Self {
        let ciphers = keys.iter().map(|key| XChaCha20Poly1305::new(Key::from_slice(key)));
        Self { socket: Mutex::new(Some(socket)), ciphers: ciphers.collect(), metrics }
    }
}

#[async_trait]
impl Transport for Gossip {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take();
        let socket = socket.ok_or_else(|| anyhow::anyhow!("gossip is open already"))?;
        let mut boot = [0; 8];
        getrandom::fill(&mut boot)?;
        Ok(Box::new(GossipSocket {
            socket,
            seal: (!self.ciphers.is_empty())
                .then(|| Seal::new(self.ciphers.clone(), u64::from_be_bytes(boot))),
            metrics: self.metrics.clone(),
            buffer: vec![0; MAX_DATAGRAM],
        }))
    }
}

struct GossipSocket {
    socket: UdpSocket,
    seal: Option<Seal>,
    metrics: Metrics,
    buffer: Vec<u8>,
}

#[async_trait]
impl Socket for GossipSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let mut datagram = Vec::new();
        message.serialize(&mut datagram);
        if let Some(seal) = &mut self.seal {
            datagram = seal.seal(&datagram, clock::unix_millis())?;
        }
        // A datagram that is not sent is like one that is lost: gossip goes on.
        if let Err(error) = self.socket.send_to(&datagram, to).await {
            tracing::debug!(%to, %error, "a gossip datagram was not sent");
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        loop {
            let (length, from) = match self.socket.recv_from(&mut self.buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::debug!(%error, "can't receive gossip");
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    continue;
                }
            };
            match self.open(length) {
                Ok(message) => return Ok((from, message)),
                Err(reason) => {
                    self.metrics.gossip_dropped.with_label_values(&[reason]).inc();
                    tracing::debug!(%from, reason, "a gossip datagram was dropped");
                }
            }
        }
    }
}

impl GossipSocket {
    fn open(&mut self, length: usize) -> Result<ChitchatMessage, &'static str> {
        let datagram = &self.buffer[..length];
        let opened;
        let mut content = match &mut self.seal {
            None => datagram,
            Some(seal) => {
                opened = seal.open(datagram, clock::unix_millis())?;
                &opened
            }
        };
        ChitchatMessage::deserialize(&mut content).map_err(|_| "malformed")
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

struct Seal {
    ciphers: Ciphers,
    boot: u64,
    counter: u64,
    senders: HashMap<u64, Window>,
}

impl Seal {
    fn new(ciphers: Ciphers, boot: u64) -> Self {
        Self { ciphers, boot, counter: 0, senders: HashMap::new() }
    }

    fn seal(&mut self, content: &[u8], now: u64) -> anyhow::Result<Vec<u8>> {
        self.counter += 1;
        let mut plain = Vec::with_capacity(HEADER + content.len());
        for field in [self.boot, now, self.counter] {
            plain.extend(field.to_be_bytes());
        }
        plain.extend(content);
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let cipher = self.ciphers.first().ok_or_else(|| anyhow::anyhow!("there is no secret"))?;
        let sealed = cipher.encrypt(XNonce::from_slice(&nonce), &plain[..]);
        let sealed = sealed.map_err(|_| anyhow::anyhow!("a datagram could not be sealed"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    fn open(&mut self, datagram: &[u8], now: u64) -> Result<Vec<u8>, &'static str> {
        let (nonce, sealed) = datagram.split_first_chunk::<NONCE>().ok_or("malformed")?;
        let opened = |it: &XChaCha20Poly1305| it.decrypt(XNonce::from_slice(nonce), sealed).ok();
        let mut plain = self.ciphers.iter().find_map(opened).ok_or("not_sealed_by_us")?;
        let field = |index: usize| {
            let bytes = plain.get(index * 8..)?.first_chunk::<8>()?;
            Some(u64::from_be_bytes(*bytes))
        };
        let (Some(boot), Some(sent), Some(counter)) = (field(0), field(1), field(2)) else {
            return Err("malformed");
        };
        // Of a sender that is known the counter says enough, whatever has become of the clocks since.
        if now.abs_diff(sent) > CLOCK_SKEW_MILLIS && !self.senders.contains_key(&boot) {
            return Err("too_old");
        }
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(&boot) {
            self.senders.clear();
        }
        if !self.senders.entry(boot).or_default().accept(counter) {
            return Err("repeated");
        }
        Ok(plain.split_off(HEADER))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(key: u8, boot: u64) -> Seal {
        seal_with(&[key], boot)
    }

    fn seal_with(keys: &[u8], boot: u64) -> Seal {
        let cipher = |key: &u8| XChaCha20Poly1305::new(Key::from_slice(&[*key; 32]));
        Seal::new(keys.iter().map(cipher).collect(), boot)
    }

    #[test]
    fn either_secret_opens_while_one_is_being_changed() {
        let (mut old, mut new) = (seal_with(&[1, 2], 7), seal_with(&[2, 1], 8));
        let sealed = old.seal(b"hi", 1000).expect("seals");
        assert_eq!(new.open(&sealed, 1000), Ok(b"hi".to_vec()));
        let sealed = new.seal(b"ho", 1000).expect("seals");
        assert_eq!(old.open(&sealed, 1000), Ok(b"ho".to_vec()));
    }

    #[test]
    fn datagrams_open_once_in_any_order() {
        let (mut a, mut b) = (seal(1, 7), seal(1, 8));
        let sent: Vec<Vec<u8>> = (0..70).map(|it| a.seal(&[it], 1000).expect("seals")).collect();
        assert_eq!(b.open(&sent[65], 1000), Ok(vec![65]));
        assert_eq!(b.open(&sent[60], 1000), Ok(vec![60]));
        for again in [60, 65] {
            assert_eq!(b.open(&sent[again], 1000), Err("repeated"));
        }
        assert_eq!(b.open(&sent[0], 1000), Err("repeated"), "behind the window");
        assert_eq!(b.open(&sent[69], 1000), Ok(vec![69]));
    }

    #[test]
    fn junk_old_and_foreign_datagrams_are_dropped() {
        let mut b = seal(1, 8);
        let sealed = seal(1, 7).seal(b"hi", 1000).expect("seals");
        assert_eq!(b.open(&sealed, 1000 + 2 * CLOCK_SKEW_MILLIS), Err("too_old"));
        assert_eq!(b.open(&[], 1000), Err("malformed"));
        assert_eq!(b.open(&sealed[..30], 1000), Err("not_sealed_by_us"));
        let foreign = seal(2, 7).seal(b"hi", 1000).expect("seals");
        assert_eq!(b.open(&foreign, 1000), Err("not_sealed_by_us"));
        let mut flipped = sealed.clone();
        flipped[40] ^= 1;
        assert_eq!(b.open(&flipped, 1000), Err("not_sealed_by_us"));
        assert_eq!(b.open(&sealed, 1000), Ok(b"hi".to_vec()));
    }
}
