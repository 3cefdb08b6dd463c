//! What a node is to the others.

use std::{fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};

/// Identity of one run of a node: its name and its generation. A restarted node is a new one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The identity of the run of node `name` that began as `generation`.
    pub fn new(name: &str, generation: u64) -> Self {
        Self(stable_hash(&[name.as_bytes(), &generation.to_be_bytes()]))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// As it is displayed.
impl std::str::FromStr for NodeId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Nothing but the digits: no sign.
        let digits = if text.starts_with('+') { "" } else { text };
        u64::from_str_radix(digits, 16).map(Self)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How far a node is in its life.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub enum Phase {
    /// It is getting to know the others: no room is at home there yet.
    #[default]
    Joining,
    /// It takes part.
    Ready,
    /// It hands its rooms over, and then leaves.
    Draining,
}

impl Phase {
    /// The word for it in gossip.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }

    /// What a word means; one of a later version means a node that takes no rooms.
    pub fn from_word(word: &str) -> Self {
        match word {
            "ready" => Self::Ready,
            "draining" => Self::Draining,
            _ => Self::Joining,
        }
    }
}

/// What a node tells about itself by gossip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The name that its operator gave it; at most one live node has it.
    pub name: String,
    /// When this run began, by the wall clock; a later run has a greater one. Two that begin at the same
    /// moment differ, too: see [`generation`].
    pub generation: u64,
    /// Where it listens for links.
    pub mesh: SocketAddr,
    /// Where it listens for clients.
    pub http: SocketAddr,
    /// How far it is in its life.
    pub phase: Phase,
}

impl NodeInfo {
    /// Its identity.
    pub fn id(&self) -> NodeId {
        NodeId::new(&self.name, self.generation)
    }

    /// Whether it is this node that dials, of these two: the one with the smaller id. Of two runs under one
    /// name it is the later: whoever wants a name finds out at once whether its bearer lives.
    pub fn dials(&self, other: &Self) -> bool {
        match self.name == other.name {
            true => self.generation > other.generation,
            false => self.id() < other.id(),
        }
    }
}

/// The generation of a run that begins now: Unix time in milliseconds, and some chance below that.
pub fn generation(millis: u64, random: u64) -> u64 {
    millis * 1000 + random % 1000
}

/// A hash that is the same on every node and in every version: FNV-1a with a final mix, so that close
/// inputs differ in all bits.
pub fn stable_hash(parts: &[&[u8]]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in parts.iter().flat_map(|part| part.iter().chain(&[0xff])) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    mix(hash)
}

/// Spreads the bits of `x` (the finalizer of SplitMix64).
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
