//! Links as the nodes have them: how they come up, carry what cores say, and break.

use roomcast::{
    cluster::{
        mesh_version::{MeshVersion, OURS},
        node::NodeId,
    },
    room::{messages::Message, registry::In},
};

use super::{Happening, World, judge::PAGE};
use crate::sim::network::{Dialled, Frame, Sent};

/// How long a node hears nothing before it closes its end of a link: the shell's silence, and up to a
/// heartbeat more.
pub(super) const SILENCE: u64 = 4_000;
const HEARTBEAT: u64 = 1_000;
/// The longest that a message is under way where nothing holds it up.
pub(super) const LONGEST_DELAY: u64 = 80;

fn shortened(message: &Message) -> String {
    format!("{message:?}").chars().take(300).collect()
}

impl World {
    /// Dials, unless that is going to happen anyway.
    pub(super) fn dial_later(&mut self, node: NodeId, peer: NodeId, delay: u64) {
        if self.dialling.insert((node, peer)) {
            self.later(delay, Happening::Dial(node, peer));
        }
    }

    pub(super) fn dial(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        self.dialling.remove(&(a, b));
        let Some(first) = self.index(a) else { return Ok(()) };
        let second = self.index(b).filter(|it| self.nodes[*it].frozen.is_none());
        let dialled = match second {
            _ if self.nodes[first].frozen.is_some() => Dialled::Blocked,
            Some(_) => self.network.connect(a, b),
            None => Dialled::Blocked,
        };
        match (dialled, second) {
            (Dialled::Up { replaced }, Some(second)) => {
                let version = self.version_of(first).min(self.version_of(second));
                self.network.agree((a, b), version);
                self.shake_consumers();
                self.input(first, In::LinkUp(b))?;
                if replaced {
                    self.input(second, In::LinkDown(a))?;
                }
                self.input(second, In::LinkUp(a))?;
            }
            (Dialled::Blocked, _) if self.nodes[first].view.contains(b) => self.redial(a, b),
            _ => {}
        }
        Ok(())
    }

    /// Where versions are mixed, every second node is one version behind.
    fn version_of(&self, node: usize) -> MeshVersion {
        if self.plan.mixed && node.is_multiple_of(2) { OURS.oldest } else { OURS.newest }
    }

    fn redial(&mut self, node: NodeId, peer: NodeId) {
        let delay = self.rng.u64(200..1_000);
        self.dial_later(node, peer, delay);
    }

    /// A link breaks at both ends, or at the one that can notice. What is under way on it is lost.
    pub(super) fn disconnect(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        for (node, peer) in [(a, b), (b, a)] {
            if !self.network.is_blocked(peer, node) {
                self.close(node, peer)?;
            }
        }
        Ok(())
    }

    /// One end of a link is closed.
    pub(super) fn close(&mut self, node: NodeId, peer: NodeId) -> Result<(), String> {
        if self.network.close(node, peer)
            && let Some(index) = self.index(node)
        {
            self.shake_consumers();
            self.input(index, In::LinkDown(peer))?;
            self.redial(node, peer);
        }
        Ok(())
    }

    /// Nothing comes over a link since then, if it is still blocked and up.
    pub(super) fn silent_since(
        &mut self,
        node: NodeId,
        peer: NodeId,
        link: u64,
        since: u64,
    ) -> Result<(), String> {
        let blocked = self.network.blocked_since(peer, node) == Some(since);
        if !blocked || self.network.link(node, peer) != Some(link) {
            return Ok(());
        }
        match self.index(node) {
            Some(index) if self.nodes[index].frozen.is_some() => {
                self.later(HEARTBEAT, Happening::Silent { node, peer, link, since });
                Ok(())
            }
            _ => self.silent(node, peer, link),
        }
    }

    /// A node hears that a link is closed at its other end.
    pub(super) fn closed(&mut self, node: NodeId, peer: NodeId, link: u64) -> Result<(), String> {
        if self.network.link(node, peer) == Some(link) {
            self.close(node, peer)?;
        }
        Ok(())
    }

    /// Ends whose other end is gone are refused what they send next, now that it gets there.
    pub(super) fn forget_dead_links(&mut self) {
        for (node, peer, link) in self.network.half_open() {
            let delay = self.rng.u64(1..HEARTBEAT);
            self.later(delay, Happening::Closed { node, peer, link });
        }
    }

    /// A node closes a link on which nothing comes any more. Its peer hears of that if it can.
    fn silent(&mut self, node: NodeId, peer: NodeId, link: u64) -> Result<(), String> {
        let (name, other) = (self.name_of(node), self.name_of(peer));
        self.tell(|| format!("{name} hears nothing from {other}, and closes its link"));
        self.close(node, peer)?;
        if !self.network.is_blocked(node, peer) {
            let delay = self.rng.u64(1..80);
            self.later(delay, Happening::Closed { node: peer, peer: node, link });
        }
        Ok(())
    }

    /// From now on nothing passes from one node to another. Who gets nothing notices in its own time.
    pub(super) fn block(&mut self, from: NodeId, to: NodeId, since: u64) {
        self.network.block(from, to, since);
        if let Some(link) = self.network.link(to, from) {
            let delay = SILENCE + self.rng.u64(0..HEARTBEAT);
            self.later(delay, Happening::Silent { node: to, peer: from, link, since });
        }
    }

    pub(super) fn arrive(&mut self, frame: Frame) -> Result<(), String> {
        let (from, to) = (frame.from, frame.to);
        match (self.network.receive(frame)?, self.index(to)) {
            (Some(message), Some(node)) => self.input(node, In::Peer(from, message)),
            _ => Ok(()),
        }
    }

    pub(super) fn send(
        &mut self,
        node: usize,
        to: &[NodeId],
        message: &Message,
    ) -> Result<(), String> {
        let from = self.nodes[node].id();
        if self.traced {
            self.trace(node, to, message);
        }
        let largest = self.network.traffic.largest;
        for peer in to {
            let delay = self.rng.u64(1..LONGEST_DELAY);
            match self.network.send((from, *peer), message, self.now, delay)? {
                Sent::Nowhere => {}
                Sent::UnderWay(at, frame) => self.later(at - self.now, Happening::Arrive(frame)),
                Sent::TooSlow => self.cut_off_as_slow(node, *peer),
            }
        }
        let now = self.network.traffic.largest;
        if now > largest && now > PAGE + self.record.largest {
            let (name, text) = (self.nodes[node].name.clone(), shortened(message));
            self.tell(|| format!("{name} sends {now} bytes at once: {text}"));
        }
        Ok(())
    }

    /// More waits for a link than may. What the core hears of it comes after all that it is saying now.
    fn cut_off_as_slow(&mut self, node: usize, peer: NodeId) {
        let (from, name, other) =
            (self.nodes[node].id(), self.nodes[node].name.clone(), self.name_of(peer));
        self.tell(|| format!("{name} cuts its link to {other} off as too slow"));
        if let Some(link) = self.network.link(from, peer) {
            self.later(0, Happening::Closed { node: from, peer, link });
            self.later(0, Happening::Closed { node: peer, peer: from, link });
        }
    }

    pub(super) fn name_of(&self, id: NodeId) -> String {
        self.index(id).map_or_else(|| id.to_string(), |it| self.nodes[it].name.clone())
    }

    fn trace(&mut self, node: usize, to: &[NodeId], message: &Message) {
        let name = self.nodes[node].name.clone();
        let to: Vec<String> = to.iter().map(|it| self.name_of(*it)).collect();
        let text = shortened(message);
        self.tell(|| format!("      {name} -> {to:?}: {text}"));
    }
}
