//! Quorum: what a run of a node may have forgotten that an earlier one under its name has answered.
//!
//! A node keeps in memory what it has acknowledged and which claims it has answered. One that has started again
//! counts for no majority until it knows both: it asks the others which claims they have answered, and the
//! owners whether what was acknowledged is on a majority without it. (This is the recovery of Viewstamped
//! Replication: Liskov and Cowling, 2012.) A claim that *every* node of the cluster has answered needs no
//! majority, so a cluster that starts for the first time can begin.

use std::collections::BTreeMap;

use super::{messages::SlotMessage, registry::State, work::SLOTS_A_MESSAGE};
use crate::cluster::{
    node::NodeId,
    placement::SLOTS,
    slots::{Ownership, Quorum, Term},
};

/// What others have said that they know.
#[derive(Debug, Default)]
pub struct Recovery {
    known: BTreeMap<NodeId, Vec<(Term, bool)>>,
    /// Slots of this node's of which it has to be seen whether all that was acknowledged is on a majority: for
    /// the peer that asks, or for this node itself.
    checks: BTreeMap<(u16, NodeId), Term>,
}

impl Recovery {
    /// The link to a peer is gone: what it has said may be out of date when it is back.
    pub(super) fn lose(&mut self, peer: NodeId) {
        self.known.remove(&peer);
        self.checks.retain(|(_, asker), _| *asker != peer);
    }

    /// Whether there is something to be looked at.
    pub(super) fn is_left(&self) -> bool {
        !self.checks.is_empty()
    }
}

impl State {
    /// Asks peers what this run may have forgotten.
    pub(super) fn ask_what_was_forgotten(&mut self, to: Vec<NodeId>) {
        if self.node.is_quorum() && self.node.slots.is_uninformed() {
            self.node.send_about_slots(to, SlotMessage::Forgot);
        }
    }

    pub(super) fn say_what_is_known(&mut self, to: NodeId) {
        let known = SlotMessage::Known(self.node.slots.known());
        self.node.send_about_slots(vec![to], known);
    }

    /// A peer has said what it knows. A slot for which a majority of those that have forgotten nothing has
    /// spoken, or everyone, holds no surprise.
    pub(super) fn learn_what_was_forgotten(&mut self, from: NodeId, known: Vec<(Term, bool)>) {
        let Some(expected) = self.node.settings.quorum_of.filter(|_| known.len() == SLOTS) else {
            return;
        };
        self.recovery.known.insert(from, known);
        let majority = Quorum { expected }.majority();
        for slot in 0..SLOTS {
            let said = self.recovery.known.values().map(|known| known[slot]);
            let sure = said.clone().filter(|(_, sure)| *sure).count();
            if sure >= majority || self.recovery.known.len() + 1 >= expected {
                let highest = said.map(|(term, _)| term).max().unwrap_or_default();
                self.node.slots.learn(slot as u16, highest);
            }
        }
        // Acknowledgements may count on this node from here on.
        self.work.sweep_all();
        self.ask_owners();
    }

    /// Asks the owners whether what was acknowledged is on a majority without this node.
    pub(super) fn ask_owners(&mut self) {
        let mut by_owner: BTreeMap<NodeId, Vec<(u16, Term)>> = BTreeMap::new();
        for (slot, term) in self.node.slots.unsure() {
            by_owner.entry(term.node).or_default().push((slot, term));
        }
        for (owner, slots) in by_owner {
            if !self.node.reaches(owner) {
                continue;
            }
            for slots in slots.chunks(SLOTS_A_MESSAGE) {
                self.node.send_about_slots(vec![owner], SlotMessage::Ask(slots.to_vec()));
            }
        }
    }

    /// A peer asks whether what was acknowledged in slots of this node is on a majority without it: it is where
    /// no room has anything that waits.
    pub(super) fn asked_whether_sure(&mut self, from: NodeId, slots: Vec<(u16, Term)>) {
        let known = slots.into_iter().filter(|(slot, _)| usize::from(*slot) < SLOTS);
        self.recovery.checks.extend(known.map(|(slot, term)| ((slot, from), term)));
    }

    /// Looks at as many rooms as one input may, and tells whoever has asked of their slots.
    pub(super) fn check_some(&mut self) {
        if !self.recovery.is_left() {
            return;
        }
        let (mut looked, mut sure) = (0, BTreeMap::<NodeId, Vec<(u16, Term)>>::new());
        while looked < self.slice
            && let Some(((slot, asker), term)) = self.recovery.checks.pop_first()
        {
            looked += 1 + self.rooms.of_slot(slot).count();
            if self.node.slots.ownership(slot) == Ownership::Mine(term) && self.is_settled(slot) {
                sure.entry(asker).or_default().push((slot, term));
            }
        }
        for (asker, slots) in sure {
            match asker == self.node.me {
                true => self.become_sure(slots),
                false => self.node.send_about_slots(vec![asker], SlotMessage::Sure(slots)),
            }
        }
    }

    /// Whether all that was acknowledged in a slot of this node's is on a majority.
    fn is_settled(&self, slot: u16) -> bool {
        let needed = self.node.acks_needed();
        let settled = |name| self.rooms.get(name).is_none_or(|room| room.is_on_a_majority(needed));
        let dormant = self.dormant.are_all_of(slot, self.node.slots.term(slot));
        dormant && self.rooms.of_slot(slot).all(|name| settled(name))
    }

    /// A node that owns slots which it may have forgotten something of is sure of them once it has what it has
    /// heard of, and a majority has too.
    pub(super) fn look_at_own_slots(&mut self) {
        let (me, slots) = (self.node.me, &self.node.slots);
        let unsure = slots.owned_unsure().into_iter().map(|slot| ((slot, me), slots.term(slot)));
        self.recovery.checks.extend(unsure);
    }

    pub(super) fn become_sure(&mut self, slots: Vec<(u16, Term)>) {
        for (slot, term) in slots {
            self.node.slots.become_sure(slot, term);
        }
    }
}
