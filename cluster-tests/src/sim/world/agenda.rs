//! What will happen, and when.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use roomcast::{
    cluster::{node::NodeId, view::View},
    room::types::SocketRef,
};

use super::{consumers::Act, maps};
use crate::sim::network::Frame;

/// Something that will happen. A node is meant by its index, one run of it by its generation too.
#[derive(Debug)]
pub(super) enum Happening {
    /// It is seen whether a core wants to be told that time has passed.
    Tick(usize, u64),
    /// A node goes on with what is left to do.
    GoOn(usize, u64),
    Arrive(Frame),
    /// A node sees who is there, or was when the view left.
    See {
        node: usize,
        generation: u64,
        version: u64,
        view: View,
    },
    /// Something that gossip notices late is on its way to all.
    Look,
    /// It is seen whether a joining node has come to know the others.
    GetToKnow(usize, u64),
    Dial(NodeId, NodeId),
    /// A node has heard nothing over this link since then, and closes its end.
    Silent {
        node: NodeId,
        peer: NodeId,
        link: u64,
        since: u64,
    },
    /// A node hears that its peer has closed its end.
    Closed {
        node: NodeId,
        peer: NodeId,
        link: u64,
    },
    Publish,
    /// A publication through this node, in this run of it.
    PublishThrough(usize, u64),
    /// A publication of so many bytes to this room.
    PublishTo(usize, usize),
    /// A publisher tries again.
    Retry(u64, u8),
    Return(usize),
    /// A client that was told to subscribes again.
    Again(usize, SocketRef),
    /// A node that leaves sends this client away.
    Dismiss(usize, SocketRef),
    Trouble,
    /// The disk of a node, in this run of it, does what it was asked first.
    Written(usize, u64),
    /// All that is on the disk of this run of a node was read.
    Scrubbed(usize, u64),
    /// All nodes crash at once.
    Blackout,
    /// The disk of a node takes no writes, or does again.
    Full(usize, bool),
    Start(usize),
    Crash,
    CrashOf(usize),
    Freeze,
    /// A node that stands still, since this moment, is taken for dead.
    Unheard(usize, u64),
    Unlinked(usize, u64),
    Thaw(usize, u64),
    /// Some node drains, and so many after it.
    Drain(u8),
    /// It is seen whether a draining node, since this moment, has handed over.
    HandOver {
        node: usize,
        generation: u64,
        since: u64,
        left: u8,
    },
    /// A node that has handed over ends.
    Stop {
        node: usize,
        generation: u64,
        left: u8,
    },
    LoseClient,
    /// The cluster is cut, and mended after so long.
    Cut(u64),
    /// So many troubles are left to a cluster with a quorum, once it is at rest.
    Episode(u8),
    /// Cuts are over, and every node runs; so many troubles are left.
    Mend(u8),
    /// Where every room stands is noted.
    Probe,
    /// A consumer does something.
    Consumer(Act),
    /// Something about maps.
    Map(maps::Act),
    /// All trouble is over.
    Heal,
}

/// All that will happen, in order.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    order: u64,
    times: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
}

impl Agenda {
    pub(super) fn add(&mut self, at: u64, happening: Happening) {
        self.order += 1;
        self.times.push(Reverse((at, self.order)));
        self.happenings.insert(self.order, happening);
    }

    /// What happens next, unless that is after `end`.
    pub(super) fn next(&mut self, end: u64) -> Option<(u64, Happening)> {
        let Reverse((at, order)) = self.times.peek().copied()?;
        if at > end {
            return None;
        }
        self.times.pop();
        Some((at, self.happenings.remove(&order)?))
    }
}
