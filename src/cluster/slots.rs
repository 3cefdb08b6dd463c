//! Who owns which slot: what this node has claimed, and what it has answered to the claims of others.
//!
//! In: what the placement wants, claims and answers of peers, and links that end. Out: claims to be sent, and
//! slots that have changed hands. Rooms follow their slot; nothing here knows of rooms.
//!
//! # The rule
//!
//! A node owns a slot by a **claim** of a term that is higher than any it knows, once every node that it waits
//! for has answered it. Whoever answers stops owning first, and from then on takes nothing of a lower term. A
//! claim is refused by whoever knows a higher term, by the owner that its own view still places first, and by
//! whoever reaches an owner that the claimer does not ask. So two nodes own a slot at the same time only if no
//! node reaches both.
//!
//! An owner tells whomever it meets. If that one owns the slot too, or reaches an owner that this one has not heard,
//! it refuses, and both owners give it up: neither knows what the other has acknowledged, and what is placed now would
//! pass for newer than that. The slot is claimed anew, by a claim that waits for all, and until then its last owners
//! ask nobody else for anything. With a quorum the higher term stands: an owner that has been succeeded can
//! acknowledge nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{node::NodeId, placement::SLOTS, slot_set::SlotSet};

/// Which claim of a slot this is. A later one is greater.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Term {
    /// How many claims there were before, as far as the claimer knew.
    pub count: u64,
    /// The claimer.
    pub node: NodeId,
}

impl Term {
    /// The term of the claim with which `node` follows this one. Counts come from peers, so they end somewhere.
    fn next(self, node: NodeId) -> Self {
        Self { count: self.count.saturating_add(1), node }
    }

    /// A number for it, greater than those of earlier ones, that no other has in practice: two nodes may claim a slot with one
    /// count.
    pub fn number(self) -> u64 {
        self.count.rotate_left(32) ^ (self.node.0 >> 32)
    }
}

/// A claim as it is sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The claimer's number for it.
    pub id: u64,
    /// The slots, by the count of the term in which they are claimed.
    pub slots: BTreeMap<u64, SlotSet>,
    /// The claimer owns these slots already, has heard the owner before, and tells one that it had not asked.
    pub held: bool,
    /// Whom the claimer asks: an owner among them has its say itself.
    pub asked: Vec<NodeId>,
}

/// Who a slot belongs to, as far as this node knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// This node, in this term.
    Mine(Term),
    /// Nobody yet: this node has claimed it in this term, and waits for answers.
    Claimed(Term),
    /// Another node, or nobody that is known.
    Theirs(Option<NodeId>),
}

/// What a node answers to a claim.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answered {
    /// The slots that were refused, with the terms that are in the way.
    pub refused: Vec<(u16, Term)>,
    /// The slots that are the claimer's from here on.
    pub granted: Vec<u16>,
    /// The slots that this node has owned or claimed until now.
    pub lost: Vec<u16>,
    /// The terms of claims of this node's that came to nothing, and of those that it gives up now.
    pub ended: Vec<(u16, Term)>,
    /// Quorum only: those of the granted about which this node may have forgotten something.
    pub unsure: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Stand {
    #[default]
    Follows,
    Claims,
    Owns,
}

#[derive(Debug, Clone, Default)]
struct Slot {
    /// The highest term that this node has used or answered.
    term: Term,
    /// The highest that its disk knows of, of an owner that may be another run by now: nothing lower is taken.
    floor: Term,
    /// What it was before this node's own claim, which may come to nothing.
    before: Term,
    /// The claim for which this node stopped owning it last; none if it does not know who has claimed it.
    given: Term,
    /// The term in which it owned it until then.
    owned: Term,
    /// This node's own claims of late that came to nothing.
    voids: Vec<Term>,
    /// For this node's own claim: earlier ones that came to nothing, or whose node has answered as the owner.
    ended: Vec<Term>,
    stand: Stand,
    /// The node of that term says that it does not own the slot.
    denied: bool,
    /// An owner before that none of this node's own claims has heard: a room that is new here may exist elsewhere.
    unheard: Option<NodeId>,
    /// Quorum only: this run of the node knows what earlier ones have answered.
    informed: bool,
    /// Quorum only: this run of the node knows all that was acknowledged and answered here.
    sure: bool,
}

/// The most claims that came to nothing which are remembered for a slot.
const MAX_VOIDS: usize = 4;

impl Slot {
    /// It is another's from here on, for the claim of `given`.
    fn end(&mut self, given: Term) {
        match self.stand {
            Stand::Follows => {}
            Stand::Owns => (self.owned, self.given) = (self.term, given),
            Stand::Claims => {
                self.voids.push(self.term);
                let excess = self.voids.len().saturating_sub(MAX_VOIDS);
                self.voids.drain(..excess);
            }
        }
    }

    /// The lowest term of which something is taken here. A term that `me` has only from its disk was another's when it was
    /// written, who may own the slot in it still.
    fn least(&self, me: NodeId) -> Term {
        let from_disk =
            self.stand == Stand::Follows && self.term == Term { node: me, ..self.floor };
        if from_disk { self.floor } else { self.term.max(self.floor) }
    }

    /// Another node owns it too, in the term `other`: neither does from here on.
    fn give_up_beside(&mut self, other: Term) {
        self.end(Term::default());
        (self.stand, self.denied) = (Stand::Follows, true);
        self.term = self.term.max(other);
    }
}

/// A claim under way.
#[derive(Debug)]
struct Pending {
    slots: SlotSet,
    waiting: BTreeSet<NodeId>,
    /// Those of them that it has not been sent to.
    unsent: BTreeSet<NodeId>,
    /// Only the owner was asked yet.
    first: bool,
    /// Those that are asked once the owner has answered.
    later: BTreeSet<NodeId>,
    heard: BTreeSet<NodeId>,
    /// Quorum only: of those heard, the ones that may have forgotten something, by slot.
    unsure: BTreeMap<u16, BTreeSet<NodeId>>,
}

/// How many of how many nodes a claim must have heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorum {
    /// The nodes that the cluster is made of.
    pub expected: usize,
}

impl Quorum {
    /// The least number of nodes of which any two such numbers share one.
    pub fn majority(self) -> usize {
        self.expected / 2 + 1
    }
}

/// The slots as one node knows them.
#[derive(Debug)]
pub struct Slots {
    me: NodeId,
    quorum: Option<Quorum>,
    slots: Vec<Slot>,
    pending: BTreeMap<u64, Pending>,
}

impl Slots {
    /// A node that has heard of no claim.
    pub fn new(me: NodeId, quorum: Option<Quorum>) -> Self {
        let sure = quorum.is_none();
        let slot = Slot { sure, informed: sure, ..Slot::default() };
        Self { me, quorum, slots: vec![slot; SLOTS], pending: BTreeMap::new() }
    }

    /// An earlier run of this node has seen this term for a slot: what anyone claims has to be higher.
    pub fn resume(&mut self, slot: u16, term: Term) {
        let it = &mut self.slots[usize::from(slot)];
        it.floor = it.floor.max(term);
        it.term = it.term.max(Term { node: self.me, ..term });
    }

    /// The highest term that this node has used or answered.
    pub fn term(&self, slot: u16) -> Term {
        self.slots[usize::from(slot)].term
    }

    /// The highest term that this node has answered, whatever it has claimed itself and does not own yet.
    pub fn promised(&self, slot: u16) -> Term {
        let it = &self.slots[usize::from(slot)];
        it.floor.max(if it.stand == Stand::Claims { it.before } else { it.term })
    }

    /// Who a slot belongs to.
    pub fn ownership(&self, slot: u16) -> Ownership {
        let it = &self.slots[usize::from(slot)];
        match it.stand {
            Stand::Owns => Ownership::Mine(it.term),
            Stand::Claims => Ownership::Claimed(it.term),
            Stand::Follows => {
                let known = it.term.count > 0 && !it.denied && it.term.node != self.me;
                Ownership::Theirs(known.then_some(it.term.node))
            }
        }
    }

    /// The claim for which this node stopped owning a slot last: nobody has owned it in between. None if that is
    /// not known.
    pub fn given(&self, slot: u16) -> Option<Term> {
        Some(self.slots[usize::from(slot)].given).filter(|term| term.count > 0)
    }

    /// Whether nobody can have changed anything in a slot of this node's since the claim of this term was answered:
    /// it is this node's own, or it came to nothing, or its claimer has owned the slot until this node's. Nor if this
    /// node owned it in that term, and whoever has claimed it then has owned it until this node's.
    pub fn nothing_since(&self, slot: u16, term: Term) -> bool {
        let it = &self.slots[usize::from(slot)];
        let nothing =
            |term| it.term == term || it.voids.contains(&term) || it.ended.contains(&term);
        nothing(term) || it.given.count > 0 && it.owned == term && nothing(it.given)
    }

    /// Whether this node has owned a slot in the highest term that it knows, and does no more: nobody owns it who has
    /// heard this node. With a quorum, where nothing can have been placed since, it does not matter.
    pub fn is_given_up(&self, slot: u16) -> bool {
        let it = &self.slots[usize::from(slot)];
        let own = it.term.count > 0 && it.term.node == self.me;
        self.quorum.is_none() && own && it.stand == Stand::Follows
    }

    /// Whether this node owns a slot.
    pub fn owns(&self, slot: u16) -> bool {
        self.slots[usize::from(slot)].stand == Stand::Owns
    }

    /// Whether the owner before was not heard when this node claimed the slot.
    pub fn is_blind(&self, slot: u16) -> bool {
        self.unheard(slot).is_some()
    }

    /// The owner before that was not heard when this node claimed the slot.
    pub fn unheard(&self, slot: u16) -> Option<NodeId> {
        self.slots[usize::from(slot)].unheard.filter(|_| self.quorum.is_none())
    }

    /// Quorum only: whether this run of the node knows what earlier ones have answered, so that an
    /// acknowledgement may count on it.
    pub fn is_informed(&self, slot: u16) -> bool {
        self.slots[usize::from(slot)].informed
    }

    /// Whether a claim of this node's is under way.
    pub fn is_claiming(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The slots that this node owns.
    pub fn owned(&self) -> Vec<u16> {
        self.standing(Stand::Owns)
    }

    fn standing(&self, stand: Stand) -> Vec<u16> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, it)| it.stand == stand).map(|(slot, _)| slot as u16).collect()
    }

    /// Claims slots that this node neither owns nor claims, in terms of its own. `peers` have to answer: first the
    /// owners that are among them, so that nobody turns away from an owner that stays, then the others.
    /// [`Self::to_send`] is what they are to be sent. `new_id` numbers claims.
    pub fn claim(
        &mut self,
        slots: &[u16],
        peers: &BTreeSet<NodeId>,
        mut new_id: impl FnMut() -> u64,
    ) {
        let mut by_owner: BTreeMap<Option<NodeId>, SlotSet> = BTreeMap::new();
        for slot in slots {
            let it = &mut self.slots[usize::from(*slot)];
            let before = it.term;
            let owner = Some(before.node).filter(|it| peers.contains(it));
            by_owner.entry(owner.filter(|_| before.count > 0)).or_default().insert(*slot);
            it.before = before;
            it.ended.clear();
            it.term = before.next(self.me);
            (it.stand, it.denied) = (Stand::Claims, false);
        }
        for (owner, slots) in by_owner {
            let first: BTreeSet<NodeId> = owner.map_or_else(|| peers.clone(), |it| [it].into());
            let pending = Pending {
                slots,
                later: peers.difference(&first).copied().collect(),
                unsent: first.clone(),
                first: owner.is_some(),
                waiting: first,
                heard: BTreeSet::new(),
                unsure: BTreeMap::new(),
            };
            self.pending.insert(new_id(), pending);
        }
    }

    /// The claims that are to be sent now, and to whom: to each that is reached, once on each link.
    pub fn to_send(&mut self, reaches: impl Fn(NodeId) -> bool) -> Vec<(Claim, Vec<NodeId>)> {
        let mut sent = Vec::new();
        for (id, pending) in &mut self.pending {
            if pending.waiting.is_empty() && std::mem::take(&mut pending.first) {
                pending.waiting = std::mem::take(&mut pending.later);
                pending.unsent = pending.waiting.clone();
            }
            let to: Vec<NodeId> =
                pending.unsent.iter().copied().filter(|peer| reaches(*peer)).collect();
            if !to.is_empty() {
                to.iter().for_each(|peer| _ = pending.unsent.remove(peer));
                let asked = pending.waiting.iter().chain(&pending.heard).chain(&pending.later);
                let asked = asked.copied().chain([self.me]).collect();
                sent.push((*id, pending.slots.clone(), asked, to));
            }
        }
        let claim = |(id, slots, asked, to): (u64, SlotSet, Vec<NodeId>, Vec<NodeId>)| {
            (Claim { id, slots: self.by_count(slots.iter()), held: false, asked }, to)
        };
        sent.into_iter().map(claim).collect()
    }

    /// There is a new link to `peer`, which every claim has to wait for. Returns what it is to be told of what this
    /// node owns already; where the owner before was not heard, it may know that one. `new_id` numbers claims.
    pub fn meet(&mut self, peer: NodeId, mut new_id: impl FnMut() -> u64) -> Vec<Claim> {
        for pending in self.pending.values_mut() {
            if pending.waiting.contains(&peer) || !pending.first {
                pending.waiting.insert(peer);
                pending.unsent.insert(peer);
            } else {
                pending.later.insert(peer);
            }
        }
        let (blind, known): (Vec<u16>, Vec<u16>) =
            self.owned().into_iter().partition(|slot| self.is_blind(*slot));
        let told =
            [(known, true), (blind, false)].into_iter().filter(|(slots, _)| !slots.is_empty());
        let claim = |(slots, held): (Vec<u16>, bool)| {
            let slots = self.by_count(slots.into_iter());
            Claim { id: new_id(), slots, held, asked: Vec::new() }
        };
        told.map(claim).collect()
    }

    fn by_count(&self, slots: impl Iterator<Item = u16>) -> BTreeMap<u64, SlotSet> {
        let mut by_count: BTreeMap<u64, SlotSet> = BTreeMap::new();
        for slot in slots {
            by_count.entry(self.term(slot).count).or_default().insert(slot);
        }
        by_count
    }

    /// Answers a claim. `keeps` are the slots that this node's own view places on it; `reaches` says whether it
    /// has a link to a node.
    pub fn answer(
        &mut self,
        from: NodeId,
        claim: &Claim,
        keeps: impl Fn(u16) -> bool,
        reaches: impl Fn(NodeId) -> bool,
    ) -> Answered {
        let mut answered = Answered::default();
        let claimed =
            claim.slots.iter().flat_map(|(count, slots)| slots.iter().map(|it| (it, *count)));
        for (slot, count) in claimed {
            let Some(it) = self.slots.get_mut(usize::from(slot)) else { continue };
            let term = Term { count, node: from };
            let owner = Some(it.term.node).filter(|_| it.term.count > 0 && !it.denied);
            let has_its_say = |owner: NodeId| {
                owner == from || owner == self.me || claim.asked.contains(&owner) || !reaches(owner)
            };
            let owns = it.stand == Stand::Owns;
            let refused = term < it.least(self.me)
                || !claim.held && (owns && keeps(slot) || !owner.is_none_or(has_its_say));
            let meets = owns && self.quorum.is_none() && !claim.asked.contains(&self.me);
            if refused || meets {
                answered.refused.push((slot, it.term));
                if meets {
                    it.give_up_beside(term);
                    answered.lost.push(slot);
                }
                continue;
            }
            answered.ended.extend(it.voids.iter().map(|term| (slot, *term)));
            if it.stand != Stand::Follows {
                answered.ended.push((slot, it.term));
                it.end(term);
                answered.lost.push(slot);
            }
            if !it.sure {
                answered.unsure.push(slot);
            }
            (it.term, it.stand, it.denied) = (term, Stand::Follows, false);
            answered.granted.push(slot);
        }
        self.forget_claims_of(&answered.lost);
        answered
    }

    /// Slots are refused, to a claim of this number or to something else that this node has said as their owner.
    /// A claim may have come to nothing meanwhile, and been followed by another. Returns those that this node has
    /// owned or claimed until now.
    pub fn refused(&mut self, claim: Option<u64>, refused: &[(u16, Term)]) -> Vec<u16> {
        let mut lost = Vec::new();
        for (slot, term) in refused {
            let Some(it) = self.slots.get_mut(usize::from(*slot)) else { continue };
            if claim.is_some() && it.stand == Stand::Owns && self.quorum.is_none() {
                // Who was told that this node owns it is or knows an owner that was not heard.
                it.give_up_beside(*term);
                lost.push(*slot);
                continue;
            }
            let pending = claim.and_then(|claim| self.pending.get(&claim));
            let asked = pending.is_some_and(|it| it.slots.contains(*slot));
            if *term <= it.term && !(asked && it.stand == Stand::Claims) {
                continue;
            }
            let own = match it.stand {
                // Nobody has taken anything in the term of a claim that is refused.
                Stand::Claims => it.before,
                _ => it.term,
            };
            it.end(Term::default());
            if it.stand != Stand::Follows {
                it.stand = Stand::Follows;
                lost.push(*slot);
            }
            (it.term, it.denied) = (own.max(*term), false);
        }
        self.forget_claims_of(&lost);
        lost
    }

    fn forget_claims_of(&mut self, slots: &[u16]) {
        self.pending.retain(|_, pending| {
            slots.iter().for_each(|slot| pending.slots.remove(*slot));
            !pending.slots.is_empty()
        });
    }

    /// The node of a slot's term says that it does not own it.
    pub fn denied(&mut self, from: NodeId, slot: u16) {
        let it = &mut self.slots[usize::from(slot)];
        it.denied |= it.stand == Stand::Follows && it.term.node == from;
    }

    /// In answer to a claim `from` has named terms of its own claims that came to nothing, or end now.
    pub fn ended(&mut self, from: NodeId, id: u64, ended: &[(u16, Term)]) {
        let Some(pending) = self.pending.get(&id).filter(|it| it.waiting.contains(&from)) else {
            return;
        };
        for (slot, term) in ended.iter().filter(|(slot, _)| pending.slots.contains(*slot)) {
            self.slots[usize::from(*slot)].ended.push(*term);
        }
    }

    /// `from` has said all that it holds in the slots of a claim.
    pub fn heard(&mut self, from: NodeId, id: u64, unsure: &[u16]) {
        let Some(pending) = self.pending.get_mut(&id) else { return };
        if pending.waiting.remove(&from) {
            pending.heard.insert(from);
            for slot in unsure {
                pending.unsure.entry(*slot).or_default().insert(from);
            }
        }
    }

    /// The link to `peer` is gone: it has to be asked again, should it come back.
    pub fn lose(&mut self, peer: NodeId) {
        for pending in self.pending.values_mut() {
            let heard = pending.heard.remove(&peer);
            if heard || pending.waiting.contains(&peer) {
                pending.waiting.insert(peer);
                pending.unsent.insert(peer);
            }
            if heard {
                for unsure in pending.unsure.values_mut() {
                    unsure.remove(&peer);
                }
            }
        }
    }

    /// The nodes that have to answer claims which are under way, now or later.
    pub fn waited_for(&self) -> BTreeSet<NodeId> {
        let all = self.pending.values().flat_map(|it| it.waiting.iter().chain(&it.later));
        all.copied().collect()
    }

    /// `peer` is no longer waited for.
    pub fn give_up_on(&mut self, peer: NodeId) {
        for pending in self.pending.values_mut() {
            pending.waiting.remove(&peer);
            pending.unsent.remove(&peer);
            pending.later.remove(&peer);
        }
    }

    /// The slots that this node owns from now on.
    pub fn complete(&mut self) -> Vec<u16> {
        let (quorum, mut owned) = (self.quorum, Vec::new());
        let slots = &mut self.slots;
        let answered = |it: &&mut Pending| it.waiting.is_empty() && !it.first;
        for pending in self.pending.values_mut().filter(answered) {
            let heard = pending.heard.len() + 1;
            for slot in pending.slots.clone().iter() {
                let it = &mut slots[usize::from(slot)];
                let unsure = pending.unsure.get(&slot).map_or(0, BTreeSet::len);
                let sure = heard - unsure - usize::from(!it.sure);
                // All there are know all there is, whatever single ones have forgotten.
                let enough = quorum.is_none_or(|it| sure >= it.majority() || heard >= it.expected);
                if enough {
                    // It is sure only once it has what it has heard of.
                    (it.stand, it.informed) = (Stand::Owns, true);
                    // What was given up for them counts for this claim, and for no later one.
                    let voids = std::mem::take(&mut it.voids);
                    it.ended.extend(voids);
                    let unheard = |it: &NodeId| !pending.heard.contains(it);
                    let before = Some(it.before).filter(|it| it.count > 0 && it.node != self.me);
                    let before = before.map(|it| it.node).filter(unheard);
                    it.unheard = before.or(it.unheard.filter(unheard));
                    owned.push(slot);
                    pending.slots.remove(slot);
                }
            }
        }
        self.pending.retain(|_, it| !it.slots.is_empty());
        owned
    }

    /// Gives up all that this node owns or claims, for it may have been taken from it without its knowledge.
    /// Returns those slots.
    pub fn stop(&mut self) -> Vec<u16> {
        self.pending.clear();
        let stopped = [self.standing(Stand::Owns), self.standing(Stand::Claims)].concat();
        for slot in &stopped {
            let it = &mut self.slots[usize::from(*slot)];
            // Until someone else claims it, only this node itself can.
            it.end(it.term.next(self.me));
            it.stand = Stand::Follows;
        }
        stopped
    }

    /// Gives up a slot of this node's, to claim it anew.
    pub fn give_up(&mut self, slot: u16) {
        let it = &mut self.slots[usize::from(slot)];
        if it.stand == Stand::Owns {
            it.end(Term::default());
            it.stand = Stand::Follows;
        }
    }

    /// Quorum only: the slots that this node owns, and may have forgotten something of.
    pub fn owned_unsure(&self) -> Vec<u16> {
        let all = self.slots.iter().enumerate();
        let unsure = all.filter(|(_, it)| it.stand == Stand::Owns && !it.sure);
        unsure.map(|(slot, _)| slot as u16).collect()
    }

    /// Of the slots that `wanted` lets through: those that this node neither owns nor claims.
    pub fn unclaimed(&self, wanted: impl Fn(u16) -> bool) -> Vec<u16> {
        let all = self.slots.iter().enumerate().map(|(slot, it)| (slot as u16, it));
        let mine = all.filter(|(slot, it)| it.stand == Stand::Follows && wanted(*slot));
        mine.map(|(slot, _)| slot).collect()
    }

    /// Quorum only: the highest term of every slot, and whether this node is sure of it, for one that has
    /// forgotten.
    pub fn known(&self) -> Vec<(Term, bool)> {
        self.slots.iter().map(|it| (it.term, it.sure)).collect()
    }

    /// Quorum only: takes over what others have answered, so that this run takes nothing that an earlier one
    /// would have refused.
    pub fn learn(&mut self, slot: u16, term: Term) {
        let Some(it) = self.slots.get_mut(usize::from(slot)) else { return };
        it.informed = true;
        if term > it.term && it.stand == Stand::Follows {
            (it.term, it.denied) = (term, false);
        }
    }

    /// Quorum only: from here on this run knows all of a slot, if its owner is the one in this term.
    pub fn become_sure(&mut self, slot: u16, term: Term) {
        if let Some(it) = self.slots.get_mut(usize::from(slot)) {
            it.sure |= it.informed && it.term == term;
        }
    }

    /// Quorum only: the slots of other owners that this run may have forgotten something of, with their terms.
    pub fn unsure(&self) -> Vec<(u16, Term)> {
        let all = self.slots.iter().enumerate();
        all.filter(|(_, it)| !it.sure && it.informed && it.term.count > 0)
            .filter(|(_, it)| it.stand == Stand::Follows)
            .map(|(slot, it)| (slot as u16, it.term))
            .collect()
    }

    /// Quorum only: whether there is a slot of which this run does not know what earlier ones have answered.
    pub fn is_uninformed(&self) -> bool {
        self.slots.iter().any(|it| !it.informed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const C: NodeId = NodeId(3);

    fn node(me: NodeId) -> Slots {
        Slots::new(me, None)
    }

    fn peers(peers: &[NodeId]) -> BTreeSet<NodeId> {
        peers.iter().copied().collect()
    }

    /// Claims slot 7 and lets `answering` answer as nodes that keep nothing.
    fn take(claimer: &mut Slots, answering: &mut [&mut Slots]) -> Vec<Answered> {
        let others = answering.iter().map(|it| it.me).collect();
        claimer.claim(&[7], &others, || 1);
        let mut answers = Vec::new();
        loop {
            let sent = claimer.to_send(|_| true);
            if sent.is_empty() {
                break;
            }
            for (claim, to) in sent {
                for other in answering.iter_mut().filter(|it| to.contains(&it.me)) {
                    let answered = other.answer(claimer.me, &claim, |_| false, |_| true);
                    claimer.refused(Some(claim.id), &answered.refused);
                    claimer.ended(other.me, 1, &answered.ended);
                    claimer.heard(other.me, 1, &answered.unsure);
                    answers.push(answered);
                }
            }
        }
        claimer.complete();
        answers
    }

    /// The one claim that a node has to send.
    fn sent(claimer: &mut Slots) -> Claim {
        let mut sent = claimer.to_send(|_| true);
        assert_eq!(sent.len(), 1);
        sent.remove(0).0
    }

    #[test]
    fn a_claim_waits_for_everyone_that_is_asked() {
        let mut a = node(A);
        a.claim(&[7], &peers(&[B, C]), || 1);
        a.heard(B, 1, &[]);
        assert_eq!(a.complete(), [0u16; 0]);
        a.heard(C, 1, &[]);
        assert_eq!(a.complete(), [7]);
        assert_eq!(a.ownership(7), Ownership::Mine(Term { count: 1, node: A }));
    }

    #[test]
    fn the_owner_is_asked_before_the_others_are_told() {
        let (mut a, mut b) = (node(A), node(B));
        take(&mut a, &mut [&mut b]);
        b.claim(&[7], &peers(&[A, C]), || 2);
        let first = b.to_send(|_| true);
        assert_eq!(first.iter().map(|(_, to)| to.clone()).collect::<Vec<_>>(), [[A]]);
        assert!(b.to_send(|_| true).is_empty(), "not again");
        b.heard(A, 2, &[]);
        let (then, to) = b.to_send(|_| true).remove(0);
        assert_eq!((to, then.asked), (vec![C], vec![C, A, B]));
        assert_eq!(b.complete(), [0u16; 0]);
        b.heard(C, 2, &[]);
        assert_eq!(b.complete(), [7]);
    }

    #[test]
    fn one_that_was_heard_and_lost_is_asked_again() {
        let mut a = node(A);
        a.claim(&[7], &peers(&[B, C]), || 1);
        a.heard(B, 1, &[]);
        a.lose(B);
        a.heard(C, 1, &[]);
        assert_eq!(a.complete(), [0u16; 0]);
        a.give_up_on(B);
        assert_eq!(a.complete(), [7]);
    }

    #[test]
    fn who_answers_owns_no_more_and_refuses_lower_terms() {
        let (mut a, mut b) = (node(A), node(B));
        take(&mut a, &mut [&mut b]);
        let answers = take(&mut b, &mut [&mut a]);
        assert_eq!(answers[0].lost, [7]);
        assert_eq!(a.ownership(7), Ownership::Theirs(Some(B)));
        let slots = BTreeMap::from([(1, SlotSet::from_iter([7]))]);
        let old = Claim { id: 9, slots, held: true, asked: vec![] };
        assert_eq!(a.answer(C, &old, |_| false, |_| true).refused, [(7, b.term(7))]);
    }

    #[test]
    fn nothing_lower_is_taken_than_what_is_on_disk_whoever_has_placed_it() {
        let (mut a, mut b) = (node(A), node(B));
        let old = Term { count: 1, node: C };
        a.resume(7, old);
        assert_eq!(a.promised(7), old);
        let answers = take(&mut b, &mut [&mut a]);
        assert_eq!(
            answers[0].refused,
            [(7, Term { count: 1, node: A })],
            "it is higher than that, but not than the last owner's"
        );
        take(&mut b, &mut [&mut a]);
        assert_eq!(a.ownership(7), Ownership::Theirs(Some(B)));
        assert!(b.term(7) > old && !b.is_blind(7));
    }

    #[test]
    fn an_owner_that_lives_is_known_again_by_a_node_that_comes_back() {
        for (owner, back) in [(A, B), (B, A)] {
            let (mut owner, mut back) = (node(owner), node(back));
            take(&mut owner, &mut []);
            back.resume(7, owner.term(7));
            let told = owner.meet(back.me, || 5).remove(0);
            assert_eq!(back.answer(owner.me, &told, |_| false, |_| true).granted, [7]);
            assert_eq!(back.ownership(7), Ownership::Theirs(Some(owner.me)));
        }
    }

    #[test]
    fn an_owner_that_is_placed_first_keeps_the_slot() {
        let (mut a, mut b) = (node(A), node(B));
        take(&mut a, &mut [&mut b]);
        b.claim(&[7], &peers(&[A]), || 2);
        let claim = sent(&mut b);
        let answered = a.answer(B, &claim, |slot| slot == 7, |_| true);
        assert_eq!(answered.refused, [(7, a.term(7))]);
        assert_eq!(b.refused(Some(2), &answered.refused), [7]);
        assert_eq!(b.complete(), [0u16; 0]);
        assert!(a.owns(7) && b.pending.is_empty());
    }

    #[test]
    fn nobody_answers_for_an_owner_that_is_reached_and_not_asked() {
        let (mut a, mut b, mut c) = (node(A), node(B), node(C));
        take(&mut a, &mut [&mut b]);
        c.claim(&[7], &peers(&[B]), || 1);
        let claim = sent(&mut c);
        let claim = Claim { slots: BTreeMap::from([(5, SlotSet::from_iter([7]))]), ..claim };
        assert_eq!(b.answer(C, &claim, |_| false, |_| true).refused.len(), 1);
        assert_eq!(b.answer(C, &claim, |_| false, |node| node != A).granted, [7]);
    }

    /// Two owners of slot 7 that have not heard each other; `b` has the greater term.
    fn owners_that_meet(quorum: Option<Quorum>) -> (Slots, Slots) {
        let (mut a, mut b) = (Slots::new(A, quorum), Slots::new(B, quorum));
        for it in [&mut a, &mut b] {
            it.slots[7].sure = true;
            it.claim(&[7], &BTreeSet::new(), || 1);
            it.complete();
        }
        (a, b)
    }

    #[test]
    fn two_owners_that_meet_have_to_claim_anew() {
        let (mut a, mut b) = owners_that_meet(None);
        let (of_a, of_b) = (a.meet(B, || 5).remove(0), b.meet(A, || 5).remove(0));
        let to_a = b.answer(A, &of_a, |_| true, |_| true).refused;
        let to_b = a.answer(B, &of_b, |_| true, |_| true).refused;
        let term = |node| Term { count: 1, node };
        assert_eq!((to_a.clone(), to_b.clone()), (vec![(7, term(B))], vec![(7, term(A))]));
        assert_eq!((a.refused(Some(5), &to_a), b.refused(Some(5), &to_b)), (vec![], vec![]));
        assert!(!a.owns(7) && !b.owns(7) && b.is_given_up(7) && !a.is_given_up(7));
        assert_eq!(a.ownership(7), Ownership::Theirs(None));
        take(&mut a, &mut [&mut b]);
        assert!(a.owns(7) && !a.is_blind(7));
    }

    #[test]
    fn with_a_quorum_an_owner_of_a_lower_term_yields_to_one_that_it_meets() {
        let (mut a, mut b) = owners_that_meet(Some(Quorum { expected: 1 }));
        let of_b = b.meet(A, || 5).remove(0);
        assert_eq!(a.answer(B, &of_b, |_| true, |_| true).granted, [7]);
        assert!(b.owns(7) && !a.owns(7));
    }

    #[test]
    fn nobody_turns_from_an_owner_that_it_reaches_to_one_that_has_not_heard_that_one() {
        let (mut a, mut b, mut c) = (node(A), node(B), node(C));
        take(&mut a, &mut [&mut b, &mut c]);
        take(&mut b, &mut []);
        let told = b.meet(C, || 5).remove(0);
        assert_eq!(c.answer(B, &told, |_| false, |node| node == A).refused, [(7, a.term(7))]);
        assert_eq!(b.refused(Some(5), &[(7, a.term(7))]), [7]);
        take(&mut b, &mut [&mut a, &mut c]);
        assert_eq!(c.ownership(7), Ownership::Theirs(Some(B)));
    }

    #[test]
    fn an_owner_that_was_not_heard_stays_so_until_it_is() {
        let (mut a, mut b) = (node(A), node(B));
        take(&mut a, &mut [&mut b]);
        for _ in 0..2 {
            take(&mut b, &mut []);
            assert_eq!(b.unheard(7), Some(A));
            b.give_up(7);
        }
        take(&mut b, &mut [&mut a]);
        assert!(b.owns(7) && !b.is_blind(7));
    }

    #[test]
    fn a_quorum_is_a_majority_that_has_forgotten_nothing_or_everyone() {
        let quorum = Some(Quorum { expected: 3 });
        let mut a = Slots::new(A, quorum);
        a.claim(&[7], &peers(&[B]), || 1);
        a.heard(B, 1, &[7]);
        assert_eq!(a.complete(), [0u16; 0], "two of three that may have forgotten all");
        a.meet(C, || 9);
        a.heard(C, 1, &[7]);
        assert_eq!(a.complete(), [7], "there is nobody else who could know more");
        let mut b = Slots::new(B, quorum);
        b.slots[7].sure = true;
        b.claim(&[7], &peers(&[A]), || 1);
        assert_eq!(b.complete(), [0u16; 0]);
        b.heard(A, 1, &[]);
        assert_eq!(b.complete(), [7]);
    }

    #[test]
    fn a_slot_whose_owner_was_not_heard_is_claimed_blindly() {
        let (mut a, mut b) = (node(A), node(B));
        take(&mut a, &mut [&mut b]);
        assert!(!a.is_blind(7));
        take(&mut b, &mut []);
        assert!(b.is_blind(7));
    }
}
