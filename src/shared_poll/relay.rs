//! How one node polls a room for others: what of it goes from node to node.
//!
//! In: which node polls, which keys other nodes track here. Out: what the node that polls has to be told, and for whom what is
//! heard is passed on.

use std::collections::BTreeSet;

use super::{
    channel::{Channel, Source, Tracked, Who},
    options::Mode,
    peers::PollMessage,
    state::Track,
};
use crate::{cluster::node::NodeId, room::types::RoomName, runtime::time::Time};

/// The most bytes of keys that one message to another node names.
const PAGE: usize = 64 * 1024;

impl Channel {
    /// Where the data of keys comes from.
    pub(super) fn source(&self) -> Source {
        self.source
    }

    /// From now on it comes from there.
    pub(super) fn set_source(&mut self, source: Source, now: Time) {
        self.retry_at = None;
        self.source = source;
        match source {
            Source::Backend => {
                self.changed.clear();
                if !self.keys.is_empty() {
                    // What the other has not passed on any more is asked for.
                    self.schedule.start_now(now);
                }
            }
            Source::Node(..) => {
                self.schedule.stop();
                self.changed = self.keys.keys().cloned().collect();
            }
        }
    }

    /// The node that is to poll does not. It may be asked again at that time; until then this one polls.
    pub(super) fn refused(&mut self, again_at: Time, now: Time) {
        self.set_source(Source::Backend, now);
        self.retry_at = Some(again_at);
    }

    /// Whether the node that is to poll has refused lately.
    pub(super) fn is_refused(&self, now: Time) -> bool {
        self.retry_at.is_some_and(|at| at > now)
    }

    /// Another node tracks keys under this number, and nothing under any other. It keeps to the limits by itself.
    pub(super) fn track_for(
        &mut self,
        node: NodeId,
        run: u64,
        keys: Vec<(Box<str>, u64)>,
        now: Time,
    ) {
        let who = Who::Node(node);
        if self.runs.insert(node, run).is_some_and(|before| before != run) {
            self.leave(who, now);
            self.runs.insert(node, run);
        }
        self.gone_at = None;
        self.members.entry(who).or_default();
        for (key, version) in keys {
            self.track_one(who, Track { key, version, expires_at: None });
        }
        self.start(now);
    }

    /// It needs some no more.
    pub(super) fn untrack_for(&mut self, node: NodeId, run: u64, keys: &[Box<str>], now: Time) {
        if self.runs.get(&node) != Some(&run) {
            return;
        }
        self.untrack(Who::Node(node), keys);
        if self.members.get(&Who::Node(node)).is_some_and(BTreeSet::is_empty) {
            self.leave(Who::Node(node), now);
        }
    }

    /// The nodes that track keys here, and what they call that.
    pub(super) fn nodes(&self) -> Vec<(NodeId, u64)> {
        self.runs.iter().map(|(node, run)| (*node, *run)).collect()
    }

    /// What another node calls what it tracks here.
    pub(super) fn run_of(&self, node: NodeId) -> Option<u64> {
        self.runs.get(&node).copied()
    }

    /// Within which versions are compared.
    pub(super) fn epoch(&self) -> &str {
        match self.options.mode {
            Mode::Versioned => &self.epoch,
            // Each node has its own.
            Mode::Versionless => "",
        }
    }

    /// What the node that polls has to be told, in parts.
    pub(super) fn changes(&mut self, room: &RoomName) -> Option<(NodeId, Vec<PollMessage>)> {
        let Source::Node(node, run) = self.source else { return None };
        if self.changed.is_empty() {
            return None;
        }
        let (mut messages, mut tracked, mut gone, mut bytes) = (Vec::new(), vec![], vec![], 0);
        let changed = std::mem::take(&mut self.changed);
        let mut left = changed.len();
        for key in changed {
            (bytes, left) = (bytes + key.len() + 16, left - 1);
            match self.keys.get(&key) {
                Some(it) => tracked.push((Box::from(&*key), self.known_version(it))),
                None => gone.push(Box::from(&*key)),
            }
            if bytes < PAGE && left > 0 {
                continue;
            }
            bytes = 0;
            let (keys, room) = (std::mem::take(&mut tracked), room.clone());
            if !keys.is_empty() {
                messages.push(PollMessage::Track { room: room.clone(), run, keys });
            }
            let keys = std::mem::take(&mut gone);
            if !keys.is_empty() {
                messages.push(PollMessage::Untrack { room, run, keys });
            }
        }
        Some((node, messages))
    }

    /// The version of a key that need not be said again; 0: any has to be.
    fn known_version(&self, it: &Tracked) -> u64 {
        match self.options.mode {
            Mode::Versionless => 0,
            Mode::Versioned if it.wanted => 0,
            Mode::Versioned if it.version > 0 => it.version,
            Mode::Versioned => it.trackers.values().map(|it| it.version).min().unwrap_or(0),
        }
    }
}
