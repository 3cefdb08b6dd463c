//! Which node of a cluster polls which rooms, and what nodes say to each other about that.
//!
//! In: who is in the cluster, and to whom there are links. Out: who polls a room for all. It is the node that would be the
//! room's home among those that this one can reach, so that of two nodes that see the same, both turn to the same one.
//! Nodes that don't see the same may both poll for a while; none polls for another that is not turned to it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        placement::{self, Placement},
        view::View,
    },
    room::types::RoomName,
};

/// What the shared polls of one node say to those of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PollMessage {
    /// I can poll for you. The first thing on a link.
    Ready,
    /// Poll for me.
    Track {
        /// The room.
        room: RoomName,
        /// The sender's number for what it tracks there; a new one replaces all that it tracked under others.
        run: u64,
        /// The keys, and the version of each that the sender has; 0: it needs the data in any case.
        keys: Vec<(Box<str>, u64)>,
    },
    /// I need these keys no more.
    Untrack {
        /// The room.
        room: RoomName,
        /// See [`Self::Track`].
        run: u64,
        /// The keys.
        keys: Vec<Box<str>>,
    },
    /// I don't poll this room for you. Do it yourself.
    NotMine {
        /// The room.
        room: RoomName,
        /// What it is said of.
        run: u64,
    },
    /// What the backend says of keys that you track. A page.
    Items {
        /// The room.
        room: RoomName,
        /// What it is for.
        run: u64,
        /// The backend's epoch.
        epoch: String,
        /// What it says.
        items: Vec<PeerItem>,
    },
}

/// What a backend says of a key, passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerItem {
    /// The key.
    pub key: Box<str>,
    /// Its data.
    pub data: Bytes,
    /// The version of that; 0: the backend gives none.
    pub version: u64,
    /// There is no such key any more.
    pub removed: bool,
}

/// The other nodes, as far as they can poll.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// This node; none: it is in no cluster.
    me: Option<NodeId>,
    /// Those that have said so, on a link that is up.
    ready: BTreeSet<NodeId>,
    /// Those that take part, as gossip says.
    view: BTreeMap<NodeId, NodeInfo>,
    /// Whom the rooms are placed on.
    candidates: BTreeSet<NodeId>,
    placement: Placement,
}

impl Peers {
    pub(super) fn new(me: Option<NodeId>) -> Self {
        Self { me, ..Self::default() }
    }

    /// Another node can poll. Returns whether that changes who polls what.
    pub(super) fn add(&mut self, node: NodeId) -> bool {
        self.ready.insert(node);
        self.place()
    }

    /// The link to another node is gone. Returns the same.
    pub(super) fn remove(&mut self, node: NodeId) -> bool {
        self.ready.remove(&node);
        self.place()
    }

    /// The cluster is this now. Returns the same.
    pub(super) fn see(&mut self, view: &View) -> bool {
        let ready = view.nodes().iter().filter(|(_, info)| info.phase == Phase::Ready);
        self.view = ready.map(|(id, info)| (*id, info.clone())).collect();
        self.place()
    }

    fn place(&mut self) -> bool {
        let can = |id: &NodeId| self.me == Some(*id) || self.ready.contains(id);
        let infos: Vec<&NodeInfo> =
            self.view.iter().filter(|(id, _)| can(id)).map(|(_, info)| info).collect();
        let candidates: BTreeSet<NodeId> = infos.iter().map(|it| it.id()).collect();
        if candidates == self.candidates {
            return false;
        }
        self.placement = Placement::new(infos, 0);
        self.candidates = candidates;
        true
    }

    /// The other node that polls this room; none: this one does.
    pub(super) fn poller(&self, room: &str) -> Option<NodeId> {
        let home = self.placement.home(placement::slot(room));
        home.filter(|it| self.me != Some(*it))
    }
}
