//! How a node becomes a room's home: it asks the others what they know of the room's stream, takes the best
//! answer, and serves. The same for a room that is new, whose home has left, has died, or has restarted.

use std::collections::BTreeSet;

use super::{
    node::Node,
    room::{Role, Room},
    stream::{Snapshot, Stream},
    types::Event,
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{MAX_PUBLICATIONS, RoomMessage},
    time::Time,
};

/// The most peer requests that wait for an activation; more are not answered, and their senders time out.
const MAX_HELD: usize = 10_000;

/// A claim under way.
#[derive(Debug)]
pub struct Activation {
    to_ask: BTreeSet<NodeId>,
    asked: BTreeSet<NodeId>,
    best: Option<Snapshot>,
    /// The former home has given the room over: its epoch goes on.
    clean: bool,
    pub(super) deadline: Time,
    held: Vec<(NodeId, RoomMessage)>,
}

impl Activation {
    /// Keeps a peer's request until it can be served.
    pub(super) fn hold(&mut self, from: NodeId, message: RoomMessage) {
        if self.held.len() < MAX_HELD {
            self.held.push((from, message));
        }
    }

    /// The link is gone, and the question or its answer with it: ask again if it comes back in time.
    pub(super) fn link_down(&mut self, peer: NodeId) {
        if self.asked.remove(&peer) {
            self.to_ask.insert(peer);
        }
        self.held.retain(|(from, _)| *from != peer);
    }

    pub(super) fn into_held(self) -> Vec<(NodeId, RoomMessage)> {
        self.held
    }
}

impl Room {
    /// Begins to become home. Where nothing is kept there is nothing to ask.
    pub(super) fn activate(&mut self, node: &mut Node) {
        if !self.options.keeps_history() {
            self.stream = None;
            return self.open(node);
        }
        self.role = Role::Activating(Activation {
            to_ask: node.peers().collect(),
            asked: BTreeSet::new(),
            best: self.stream.as_ref().map(|stream| stream.snapshot(node.now, MAX_PUBLICATIONS)),
            clean: false,
            deadline: node.now + node.settings.claim_timeout,
            held: Vec::new(),
        });
    }

    /// Asks who can be asked, and opens the room once all have answered or time is up.
    pub(super) fn advance_activation(&mut self, node: &mut Node) {
        let Role::Activating(activation) = &mut self.role else { return };
        let reachable: Vec<NodeId> =
            activation.to_ask.iter().copied().filter(|peer| node.reaches(*peer)).collect();
        activation.to_ask.retain(|peer| !reachable.contains(peer) && node.routable.contains(peer));
        activation.asked.extend(&reachable);
        let done = activation.asked.is_empty() && activation.to_ask.is_empty();
        let over = done || activation.clean || node.now >= activation.deadline;
        self.send_all(reachable, RoomMessage::Claim, node);
        if over {
            self.finish_activation(node);
        }
    }

    fn finish_activation(&mut self, node: &mut Node) {
        let Role::Activating(activation) = std::mem::replace(&mut self.role, Role::Guest) else {
            return;
        };
        let old = self.stream.take();
        if let Some(old) = &old {
            node.memory.add(-(old.history.bytes() as isize));
        }
        let mut stream = match activation.best {
            Some(snapshot) => Stream::from_snapshot(snapshot, &self.options, node.now),
            None => Stream::new(node.new_epoch()),
        };
        let taken_over = stream.history.top() > 0 || old.is_some();
        if !activation.clean && taken_over {
            let epoch = node.new_epoch();
            stream.succeed(epoch);
        }
        node.memory.kept(&self.name, stream.history.top(), stream.history.bytes() as isize);
        // This node's own subscribers were a mirror's until now.
        let missed = old.as_ref().and_then(|old| stream.after(old.position()));
        let epoch_goes_on =
            old.as_ref().is_none_or(|old| old.position().epoch == stream.position().epoch);
        self.stream = Some(stream);
        self.open(node);
        if !epoch_goes_on || (old.is_some() && missed.is_none()) {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
        for (from, message) in activation.held {
            self.serve_peer(from, message, node);
        }
        self.settle_home(node);
    }

    /// Another node is becoming home and asks what this one knows.
    pub(super) fn claimed_by(&mut self, from: NodeId, node: &mut Node) {
        let stream = self.stream.as_ref().map(|it| it.snapshot(node.now, MAX_PUBLICATIONS));
        let clean = self.is_home();
        if clean {
            // From here on the room is the other's, whatever this node's view still says.
            self.role = Role::Guest;
            self.handed_to = Some(from);
        }
        self.send(from, RoomMessage::Claimed { stream, clean }, node);
    }

    pub(super) fn claim_answered(&mut self, from: NodeId, stream: Option<Snapshot>, clean: bool) {
        let Role::Activating(activation) = &mut self.role else { return };
        if !activation.asked.remove(&from) {
            return;
        }
        if let Some(stream) = stream {
            let ahead = activation.best.as_ref().is_none_or(|best| stream.is_ahead_of(best));
            if clean || (ahead && !activation.clean) {
                activation.best = Some(stream);
            }
        }
        activation.clean |= clean;
    }
}
