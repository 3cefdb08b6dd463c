//! The size of gossip's datagrams, and what they cost, in a cluster of any size.
//!
//! chitchat 0.11 sends what it knows of every node (its digest) with every greeting, and gets the same back:
//! `message.rs`, `digest.rs` and `serialize.rs` of its source. Here such a greeting is written by that
//! encoding, read by chitchat itself, and sealed as Roomcast does it, so the size is checked, not estimated.

use std::time::Duration;

use roomcast::cluster::{datagram::Codec, membership::INTERVAL};

use super::{cluster::info, timed};

/// The largest datagram that UDP carries over IPv4.
pub const MAX_DATAGRAM: usize = 65_507;
/// Greetings a second: three nodes every [`INTERVAL`]. A seed node is greeted besides, now and then; one that has just
/// greeted this node is not, which hardly ever happens where there are many.
pub const GREETINGS: f64 = 3e3 / INTERVAL.as_millis() as f64;

/// A greeting and its answer are of this size, and cost this much to read and to write.
#[derive(Debug, Clone, Copy)]
pub struct Greeting {
    /// The sealed datagram, in bytes.
    pub bytes: usize,
    /// To seal and write it.
    pub written: Duration,
    /// To open and read it. What chitchat then does with it is not in this.
    pub read: Duration,
}

/// The greeting of a node that knows `nodes` nodes; none if chitchat can't read it, or it can't be sealed.
pub fn greeting(nodes: usize) -> Option<Greeting> {
    const ROUNDS: u32 = 20;
    let keys = vec![[7; 32]];
    let message = || Codec::new(&Vec::new(), 0).decode(&digest(nodes), 0).ok();
    let (mut sender, mut receiver) = (Codec::new(&keys, 1), Codec::new(&keys, 2));
    let message = message()?;
    let (datagrams, written) = timed(|| {
        (0..ROUNDS).filter_map(|it| sender.encode(&message, [it as u8; 24], 0)).collect::<Vec<_>>()
    });
    let (opened, read) =
        timed(|| datagrams.iter().filter(|it| receiver.decode(it, 0).is_ok()).count());
    let bytes = datagrams.first()?.len();
    (opened == datagrams.len()).then_some(Greeting {
        bytes,
        written: written / ROUNDS,
        read: read / ROUNDS,
    })
}

/// The most nodes whose greeting fits into a datagram, where names have `name` bytes. Nodes that left within
/// the last five minutes count as well.
pub fn most_nodes(name: usize) -> usize {
    let around = sealed_length(0);
    (MAX_DATAGRAM - around) / (FIXED + name)
}

/// What the digest says of a node beside its name: the name's length (2), generation (8), address (1 + 4 + 2),
/// heartbeat, version and collected version (8 each).
pub const FIXED: usize = 2 + 8 + 7 + 24;

fn sealed_length(nodes: usize) -> usize {
    // Nonce, header of the seal, authentication tag.
    24 + 24 + 16 + digest(nodes).len()
}

/// An unsealed greeting.
fn digest(nodes: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(45_139_u16.to_le_bytes());
    // Version of the encoding, and that it is a greeting.
    bytes.extend([0, 0]);
    bytes.extend((nodes as u16).to_le_bytes());
    for number in 0..nodes {
        let info = info(number);
        bytes.extend((info.name.len() as u16).to_le_bytes());
        bytes.extend(info.name.as_bytes());
        bytes.extend(info.generation.to_le_bytes());
        bytes.extend([4, 10, 0, (number >> 8) as u8, number as u8]);
        bytes.extend(7946_u16.to_le_bytes());
        for field in [1_000_000_u64, 0, 5] {
            bytes.extend(field.to_le_bytes());
        }
    }
    let cluster = "roomcast";
    bytes.extend((cluster.len() as u16).to_le_bytes());
    bytes.extend(cluster.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chitchat_reads_what_is_said_to_be_its_greeting() {
        for nodes in [1, 10, 300] {
            let greeting = greeting(nodes).expect("a greeting");
            assert_eq!(greeting.bytes, sealed_length(0) + nodes * (FIXED + "node-0000".len()));
        }
    }

    #[test]
    fn the_last_node_that_fits_is_the_last() {
        let most = most_nodes(9);
        assert!(sealed_length(most) <= MAX_DATAGRAM && sealed_length(most + 1) > MAX_DATAGRAM);
    }
}
