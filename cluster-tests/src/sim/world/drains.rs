//! Nodes that leave in good order: they drain, hand their rooms over, send their clients away and end.

use roomcast::cluster::node::Phase;

use super::{Happening, World};
use crate::sim::{Faults, client::Place};

/// How often it is seen whether a draining node is done; as in the shell.
const LOOK_AGAIN: u64 = 20;
/// The most rooms that are named of those that are left.
const MOST_NAMED: usize = 10;

impl World {
    /// How long a node may take to hand over, late views included. Where there are very many rooms, slow messages
    /// make most of it: the next rooms wait for the answers of the last.
    fn patience(&self) -> u64 {
        if self.faults == Faults::ManyRooms { 20_000 } else { 6_000 }
    }

    /// Some ready node drains, if another is ready to take its rooms and it knows that: else it would leave at
    /// once.
    pub(super) fn drain(&mut self, left: u8) {
        let all_ready = self.ready_ones();
        let knows = |node: &usize| self.knows_one_of(*node, &all_ready);
        let ready: Vec<usize> = all_ready.iter().copied().filter(knows).collect();
        let draining = self.alive().into_iter().any(|it| self.nodes[it].phase == Phase::Draining);
        if ready.is_empty() || draining {
            return self.later(200, Happening::Drain(left));
        }
        let node = ready[self.rng.usize(..ready.len())];
        self.nodes[node].phase = Phase::Draining;
        let (name, generation) = (self.nodes[node].name.clone(), self.nodes[node].generation);
        self.tell(|| format!("{name} drains"));
        self.everyone_looks();
        let since = self.now;
        self.later(LOOK_AGAIN, Happening::HandOver { node, generation, since, left });
    }

    /// Whether a node sees another of these as ready.
    fn knows_one_of(&self, node: usize, others: &[usize]) -> bool {
        let seen = self.nodes[node].view.nodes();
        others.iter().any(|it| {
            let seen = seen.get(&self.nodes[*it].id());
            *it != node && seen.is_some_and(|it| it.phase == Phase::Ready)
        })
    }

    /// As the shell does: a draining node stays until others have taken all that it has, if there are any.
    pub(super) fn hand_over(
        &mut self,
        node: usize,
        generation: u64,
        since: u64,
        left: u8,
    ) -> Result<(), String> {
        if !self.runs(node, generation) {
            return Ok(());
        }
        if !self.has_handed_over(node) {
            let waited = self.now - since;
            if waited > self.patience() {
                let left: Vec<_> = (self.rooms.iter())
                    .filter(|name| {
                        let Some(state) = &self.nodes[node].state else { return false };
                        let room = state.room(name);
                        state.is_dormant(name) || room.is_some_and(|it| it.is_to_be_taken())
                    })
                    .take(MOST_NAMED)
                    .collect();
                let name = &self.nodes[node].name;
                return Err(format!("{name} drains since {waited} ms, and has left: {left:?}"));
            }
            if waited % 1_000 < LOOK_AGAIN {
                let (name, state) = (self.nodes[node].name.clone(), &self.nodes[node].state);
                let left = state.as_ref().map_or(0, |it| it.to_be_taken());
                self.tell(|| format!("{name} drains, and {left} rooms are to be taken"));
            }
            self.later(LOOK_AGAIN, Happening::HandOver { node, generation, since, left });
            return Ok(());
        }
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} has handed over, and sends its clients away"));
        self.nodes[node].leaving = true;
        for client in 0..self.clients.len() {
            if self.clients[client].node == node && self.clients[client].place != Place::Away {
                let (delay, socket) = (self.rng.u64(0..300), self.clients[client].socket);
                self.later(delay, Happening::Dismiss(client, socket));
            }
        }
        let delay = self.rng.u64(400..700);
        self.later(delay, Happening::Stop { node, generation, left });
        Ok(())
    }

    fn has_handed_over(&self, node: usize) -> bool {
        let (me, view) = (self.nodes[node].id(), &self.nodes[node].view);
        let others = |phase| {
            view.nodes().iter().filter(move |(id, it)| **id != me && it.phase == phase).count()
        };
        if others(Phase::Ready) == 0 {
            return others(Phase::Joining) == 0;
        }
        let sees_it = view.nodes().get(&me).is_some_and(|it| it.phase == Phase::Draining);
        sees_it && self.nodes[node].state.as_ref().is_none_or(|it| it.to_be_taken() == 0)
    }

    pub(super) fn stop(&mut self, node: usize, generation: u64, left: u8) -> Result<(), String> {
        if !self.runs(node, generation) {
            return Ok(());
        }
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} ends"));
        self.nodes[node].disk.close();
        self.take_down(node)?;
        let delay = self.rng.u64(100..2_500);
        self.later(delay, Happening::Start(node));
        if left > 0 {
            let delay = self.rng.u64(500..6_000);
            self.later(delay, Happening::Drain(left - 1));
        }
        Ok(())
    }
}
