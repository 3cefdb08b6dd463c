//! A cluster of any size in memory, to count what its nodes say to each other.
//!
//! What comes in: how many nodes, and which rooms with which subscribers. What goes out: the frames and
//! bytes that opening the rooms, publishing into them and the death of a node take, in all, per node and on
//! the busiest link; and CPU time where the core itself is asked. Registries and wire codec are the real
//! ones; links are queues that lose nothing and take no time. `docs/scaling.md` is made of this.
//!
//! [`cluster`] is the nodes and what they send, [`scenario`] the rooms and what is measured, [`gossip`] the
//! size of gossip's datagrams, [`costs`] what single steps cost, [`model`] the step from there to clusters
//! that no machine here can hold.

pub mod cluster;
pub mod costs;
pub mod gossip;
pub mod model;
pub mod scenario;

use std::{collections::BTreeMap, time::Duration};

use nix::time::{ClockId, clock_gettime};

/// What a frame of a sealed link has beside its content: the record's length and its authentication tag.
pub const SEAL: u64 = 2 + 16;

/// A count of frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub frames: u64,
    /// Their bytes, sealed, without what TCP and IP add.
    pub bytes: u64,
}

impl Tally {
    /// Counts one frame of `length` bytes, not yet sealed.
    pub fn add(&mut self, length: usize) {
        self.frames += 1;
        self.bytes += length as u64 + SEAL;
    }
}

/// What was said over some time.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// By what it was.
    pub kinds: BTreeMap<&'static str, Tally>,
    /// By who sent it.
    pub sent: Vec<Tally>,
    /// By who got it.
    pub received: Vec<Tally>,
    /// The most that one link carried in one direction.
    pub busiest_link: Tally,
    /// Publications that nodes gave to their own subscribers, one for each node.
    pub fan_outs: u64,
    /// Publications that were acknowledged to their publishers.
    pub acknowledged: u64,
}

impl Traffic {
    /// All of it.
    pub fn all(&self) -> Tally {
        let frames = self.kinds.values().map(|it| it.frames).sum();
        Tally { frames, bytes: self.kinds.values().map(|it| it.bytes).sum() }
    }

    /// What the node that sent most has sent.
    pub fn most_sent(&self) -> Tally {
        self.sent.iter().copied().max_by_key(|it| it.frames).unwrap_or_default()
    }

    /// What the node that got most has got.
    pub fn most_received(&self) -> Tally {
        self.received.iter().copied().max_by_key(|it| it.frames).unwrap_or_default()
    }
}

/// CPU time of this thread since some moment; what other processes take is not in it.
pub fn cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// CPU time that `action` takes.
pub fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let before = cpu();
    let result = action();
    (result, cpu().saturating_sub(before))
}
