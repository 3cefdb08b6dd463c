//! What goes wrong, as far as [`Faults`] lets it.

use roomcast::{
    cluster::{node::NodeId, view::View},
    room::registry::In,
};

use super::{Happening, TROUBLE, World, nodes::UNHEARD};
use crate::sim::{Faults, client::Place};

/// How long it can before its peers close their links.
const UNLINKED: u64 = 4_000;

impl World {
    pub(super) fn plan_trouble(&mut self) {
        match self.faults {
            Faults::Delays => {}
            // One after the other: a room has two copies again before the next node dies.
            Faults::Deaths => {
                for at in [1_200, 5_200] {
                    let at = at + self.rng.u64(0..800);
                    self.later(at, Happening::Crash);
                }
            }
            Faults::Standstills => {
                let at = self.rng.u64(1_000..2_500);
                self.later(at, Happening::Freeze);
            }
            Faults::Links | Faults::Joins | Faults::Everything => {
                for _ in 0..self.rng.usize(1..8) {
                    let at = self.rng.u64(700..TROUBLE);
                    self.later(at, Happening::Trouble);
                }
            }
        }
    }

    pub(super) fn trouble(&mut self) -> Result<(), String> {
        let everything = self.faults == Faults::Everything;
        match self.rng.u8(..12) {
            0..3 => self.lose_client(),
            3..5 if everything => self.crash(),
            5..7 if everything => self.cut_off(),
            7..9 if everything => {
                self.freeze();
                Ok(())
            }
            _ => self.break_link(),
        }
    }

    pub(super) fn lose_client(&mut self) -> Result<(), String> {
        let client = self.rng.usize(..self.clients.len());
        if self.clients[client].place != Place::Away {
            self.tell(|| format!("client {client} is cut off"));
            self.unsubscribe(client)?;
            self.send_away(client);
        }
        Ok(())
    }

    pub(super) fn break_link(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let id = self.nodes[node].id();
        let peers = self.network.peers(id);
        if peers.is_empty() {
            return Ok(());
        }
        let peer = peers[self.rng.usize(..peers.len())];
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("a link of {name} breaks"));
        self.disconnect(id, peer)?;
        // Shorter than the grace that a broken link has.
        let delay = self.rng.u64(1..300);
        self.later(delay, Happening::Dial(id, peer));
        Ok(())
    }

    pub(super) fn crash(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        if self.alive().len() == 1 {
            return Ok(());
        }
        self.nodes[node].frozen = None;
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} crashes"));
        let id = self.nodes[node].id();
        let peers = self.network.peers(id);
        self.nodes[node].state = None;
        for peer in peers {
            self.disconnect(id, peer)?;
        }
        for client in 0..self.clients.len() {
            if self.clients[client].node == node && self.clients[client].place != Place::Away {
                self.send_away(client);
            }
        }
        self.everyone_looks();
        let longest = if self.faults == Faults::Deaths { 1_500 } else { 3_000 };
        let delay = self.rng.u64(200..longest);
        self.later(delay, Happening::Start(node));
        Ok(())
    }

    pub(super) fn cut_off(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let id = self.nodes[node].id();
        let mut others: Vec<NodeId> =
            self.alive().into_iter().map(|it| self.nodes[it].id()).filter(|it| *it != id).collect();
        if others.len() > 1 && self.rng.bool() {
            others.truncate(1);
        }
        let (name, count) = (self.nodes[node].name.clone(), others.len());
        self.tell(|| format!("{name} is cut off from {count} others"));
        for other in others {
            self.network.set_cut(id, other, true);
            self.disconnect(id, other)?;
        }
        self.everyone_looks();
        Ok(())
    }

    pub(super) fn is_frozen(&self, node: usize, since: u64) -> bool {
        self.nodes[node].frozen.as_ref().is_some_and(|(it, _)| *it == since)
    }

    pub(super) fn freeze(&mut self) {
        let Some(node) = self.any_alive() else { return };
        if self.nodes[node].frozen.is_some() {
            return;
        }
        let since = self.now;
        self.nodes[node].frozen = Some((since, Vec::new()));
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} stands still"));
        self.later(UNHEARD, Happening::Unheard(node, since));
        self.later(UNLINKED, Happening::Unlinked(node, since));
        let delay = self.rng.u64(500..6_000);
        self.later(delay, Happening::Thaw(node, since));
    }

    pub(super) fn thaw(&mut self, node: usize) -> Result<(), String> {
        let Some((since, missed)) = self.nodes[node].frozen.take() else { return Ok(()) };
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} goes on"));
        if self.now - since >= UNHEARD && self.rng.bool() {
            // It has not heard of the others either.
            let alone = View::new([self.nodes[node].info()]);
            self.input(node, In::View(alone))?;
        }
        for input in missed {
            self.input(node, input)?;
        }
        self.everyone_looks();
        Ok(())
    }
}
