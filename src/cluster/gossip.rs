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
use tokio::net::UdpSocket;

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
    keys: SealingKeys,
    metrics: Metrics,
}

impl Gossip {
    /// Gossips over `socket`, sealed with the first of `keys` if there is one.
    pub fn new(socket: UdpSocket, keys: &SealingKeys, metrics: Metrics) -> Self {
        Self { socket: Mutex::new(Some(socket)), keys: keys.clone(), metrics }
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
            codec: Codec::new(&self.keys, u64::from_be_bytes(boot)),
            dedup: Deduplicator::new(INTERVAL),
            metrics: self.metrics.clone(),
            buffer: vec![0; MAX_DATAGRAM],
        }))
    }
}

struct GossipSocket {
    socket: UdpSocket,
    codec: Codec,
    dedup: Deduplicator,
    metrics: Metrics,
    buffer: Vec<u8>,
}

#[async_trait]
impl Socket for GossipSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        if self.dedup.is_redundant(to, &message, clock::now()) {
            return Ok(());
        }
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let datagram = self.codec.encode(&message, nonce, clock::unix_millis());
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
            match self.codec.decode(&self.buffer[..length], clock::unix_millis()) {
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
