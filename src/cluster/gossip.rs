//! SHELL. How gossip travels: by UDP, in the datagrams that [`super::datagram`] makes.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use chitchat::{
    ChitchatMessage,
    transport::{Socket, Transport},
};
use tokio::{net::UdpSocket, sync::watch};

use super::{
    datagram::{Codec, NONCE},
    dedup::Deduplicator,
    membership::INTERVAL,
    secret::SealingKeys,
};
use crate::{metrics::Metrics, runtime::clock};

const MAX_DATAGRAM: usize = 65_507;

/// Opens one socket: the one that was bound before, so that its port is known.
pub struct Gossip {
    socket: Mutex<Option<UdpSocket>>,
    keys: watch::Sender<SealingKeys>,
    metrics: Metrics,
}

impl Gossip {
    /// Gossips over `socket`, sealed with the first of `keys` if there is one.
    pub fn new(socket: UdpSocket, keys: &SealingKeys, metrics: Metrics) -> Self {
        let keys = watch::Sender::new(keys.clone());
        Self { socket: Mutex::new(Some(socket)), keys, metrics }
    }

    /// Where other keys than those of the beginning are said.
    pub fn keys(&self) -> watch::Sender<SealingKeys> {
        self.keys.clone()
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
            codec: Codec::new(&self.keys.borrow(), u64::from_be_bytes(boot)),
            keys: self.keys.subscribe(),
            dedup: Deduplicator::new(INTERVAL),
            metrics: self.metrics.clone(),
            buffer: vec![0; MAX_DATAGRAM],
        }))
    }
}

struct GossipSocket {
    socket: UdpSocket,
    codec: Codec,
    keys: watch::Receiver<SealingKeys>,
    dedup: Deduplicator,
    metrics: Metrics,
    buffer: Vec<u8>,
}

impl GossipSocket {
    /// What seals and opens just now.
    fn codec(&mut self) -> &mut Codec {
        if self.keys.has_changed().unwrap_or(false) {
            self.codec.change_keys(&self.keys.borrow_and_update());
        }
        &mut self.codec
    }
}

#[async_trait]
impl Socket for GossipSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        if self.dedup.is_redundant(to, &message, clock::now()) {
            return Ok(());
        }
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let datagram = self.codec().encode(&message, nonce, clock::unix_millis());
        let datagram = datagram.ok_or_else(|| anyhow::anyhow!("too large to be sealed"))?;
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
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
            let buffer = std::mem::take(&mut self.buffer);
            let message = self.codec().decode(&buffer[..length], clock::unix_millis());
            self.buffer = buffer;
            match message {
                Ok(message) => {
                    self.dedup.received(from, &message, clock::now());
                    return Ok((from, message));
                }
                Err(why) => {
                    self.metrics.gossip_dropped.with_label_values(&[why.label()]).inc();
                    tracing::debug!(%from, reason = why.label(), "a gossip datagram was dropped");
                }
            }
        }
    }
}
