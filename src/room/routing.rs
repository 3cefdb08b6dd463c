//! Who is there, where rooms should be, and who owns which slot.
//!
//! In: views, links, phases, claims and answers to them. Out: claims, answers, and slots whose rooms have to
//! take another role.

use std::{collections::BTreeSet, time::Duration};

use super::{
    messages::{Message, SlotMessage},
    node::{LinkState, Node, Out, next},
    registry::State,
    transfer::Flow,
    work::SLOTS_A_MESSAGE,
};
use crate::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        placement::Placement,
        slots::{Claim, Ownership},
        view::View,
    },
    runtime::time::Time,
};

/// How long a node that stood still waits for the others before it goes on as home.
const AWAKENING: Duration = Duration::from_secs(2);

impl State {
    /// A node that is new in the view has the same grace to get its link as one whose link broke: else a
    /// node that has just started would think itself alone, and owner of every slot.
    pub(super) fn see(&mut self, view: View) {
        let (links, now) = (&mut self.node.links, self.node.now);
        links.retain(|peer, link| link.up.is_some() || view.contains(*peer));
        for peer in view.nodes().keys().filter(|peer| **peer != self.node.me) {
            links.entry(*peer).or_insert(LinkState { up: None, since: now });
        }
        self.known.extend(view.nodes().iter().map(|(id, info)| (*id, info.clone())));
        let before = self.own_phase();
        self.node.view = view;
        let phase = self.own_phase();
        if phase != before {
            let linked = self.node.links.iter().filter(|(_, it)| it.up.is_some());
            let to: Vec<NodeId> = linked.map(|(peer, _)| *peer).collect();
            self.say_phase(to, phase);
            self.work.sweep_all();
        }
        self.route();
    }

    fn own_phase(&self) -> Phase {
        self.node.view.nodes().get(&self.node.me).map_or(Phase::Joining, |info| info.phase)
    }

    fn say_phase(&mut self, to: Vec<NodeId>, phase: Phase) {
        if !to.is_empty() {
            self.node.out.push(Out::Send { to, message: Message::Phase(phase) });
        }
    }

    /// A peer says how far it is. Gossip may bring an earlier word later, and where that came first this is no news:
    /// with 1,000 nodes, all of which say so to all when they start, looking through them each time would take seconds.
    pub(super) fn phase_of(&mut self, peer: NodeId, phase: Phase) {
        let gossiped = self.known.get(&peer).map(|info| info.phase).unwrap_or_default();
        let said = self.phases.entry(peer).or_default();
        let before = gossiped.max(*said);
        *said = phase.max(*said);
        if *said > before {
            self.route();
        }
    }

    pub(super) fn link_up(&mut self, peer: NodeId) {
        let (link, now) = (self.node.next_id(), self.node.now);
        self.node.links.insert(peer, LinkState { up: Some(link), since: now });
        self.node.flows.insert(peer, Flow::default());
        self.node.moves.lose(peer);
        self.node.expect_settled(peer, 0);
        if let Some((_, expected)) = &mut self.awakening {
            expected.remove(&peer);
        }
        let phase = self.own_phase();
        self.say_phase(vec![peer], phase);
        self.ask_what_was_forgotten(vec![peer]);
        let Node { slots, ids, .. } = &mut self.node;
        for claim in slots.meet(peer, || next(ids)) {
            self.send_claim(claim, vec![peer]);
        }
        self.send_claims();
        self.work.owe(peer, 0);
        self.work.sweep_all();
        self.route();
    }

    pub(super) fn link_down(&mut self, peer: NodeId) {
        let since = self.node.now;
        self.node.links.insert(peer, LinkState { up: None, since });
        self.node.flows.remove(&peer);
        self.node.moves.lose(peer);
        self.node.expect_settled(peer, u64::MAX);
        self.node.slots.lose(peer);
        self.recovery.lose(peer);
        self.work.lose(peer);
        self.work.sweep_all();
        self.stop_in_minority();
        self.route();
    }

    /// Quorum: a majority may go on without this node and never tell it, so it owns nothing until one has answered
    /// its claims again.
    fn stop_in_minority(&mut self) {
        if self.node.is_in_minority() {
            self.node.slots.stop();
            self.claim_later();
        }
    }

    /// Gives up slots that have to be claimed anew.
    pub(super) fn claim_anew(&mut self) {
        while let Some(slot) = self.node.claim_anew.pop_first() {
            self.node.slots.give_up(slot);
            self.work.sweep([slot]);
            self.claim_later();
        }
    }

    fn claim_later(&mut self) {
        let at = self.node.now + self.node.settings.claim_again;
        self.claim_at = Some(self.claim_at.map_or(at, |known| known.min(at)));
    }

    /// The nodes that gossip sees, and those whose links live: a link has a heartbeat of its own, so gossip
    /// that does not come through ends nothing.
    fn alive(&mut self) -> View {
        let node = &self.node;
        self.known.retain(|id, _| node.view.contains(*id) || node.reaches(*id));
        let known = &self.known;
        self.phases.retain(|id, _| known.contains_key(id) || node.reaches(*id) || *id == node.me);
        let phase = |info: &NodeInfo| {
            let said = self.phases.get(&info.id()).copied().unwrap_or_default();
            said.max(info.phase)
        };
        View::new(self.known.values().map(|info| NodeInfo { phase: phase(info), ..info.clone() }))
    }

    /// The process stood still (stopped, suspended, or starved): others may have taken its slots, so it owns
    /// none until it has heard of them again, or nobody has come.
    pub(super) fn awake(&mut self) {
        let others = self.node.peers();
        if others.is_empty() {
            return;
        }
        let until = self.node.now + AWAKENING;
        self.awakening = Some((until, others));
        self.route_at = Some(until);
        self.node.placement = Placement::default();
        let stopped = self.node.slots.stop();
        self.work.sweep(stopped);
    }

    /// Rooms go to nodes in the view that have a link, or had one until just now: a closed link makes a
    /// peer suspect long before gossip declares it dead.
    pub(super) fn route(&mut self) {
        if let Some((until, expected)) = &self.awakening {
            if self.node.now < *until && !expected.is_empty() {
                self.route_at = Some(*until);
                return;
            }
            self.awakening = None;
            self.node.routable.clear();
            self.node.placed.clear();
        }
        let alive = self.alive();
        self.route_at = self.next_grace();
        let node = &self.node;
        let here = alive.nodes().iter().filter(|(id, _)| **id == node.me || !node.has_lost(**id));
        let routable: BTreeSet<NodeId> = here.clone().map(|(id, _)| *id).collect();
        // Those that are leaving take rooms only if there is no one else.
        let placed = [Phase::Ready, Phase::Draining].into_iter().map(|phase| {
            here.clone().map(|(_, info)| info).filter(move |it| it.phase == phase).collect()
        });
        let placed: Vec<&NodeInfo> =
            placed.into_iter().find(|it: &Vec<_>| !it.is_empty()).unwrap_or_default();
        let ids: BTreeSet<NodeId> = placed.iter().map(|info| info.id()).collect();
        let joining = here.filter(|(_, info)| info.phase == Phase::Joining);
        let joining: BTreeSet<NodeId> = joining.map(|(id, _)| *id).collect();
        // Also those that had a link and were never in the view.
        let gone = node.slots.waited_for().into_iter();
        let gone: Vec<NodeId> =
            gone.filter(|it| !routable.contains(it) && node.has_lost(*it)).collect();
        let changed = routable != node.routable || ids != node.placed || joining != node.joining;
        if !changed && gone.is_empty() {
            return;
        }
        if ids != node.placed {
            self.node.placement = Placement::new(placed, node.settings.replicas);
        }
        self.node.routable = routable;
        self.node.placed = ids;
        self.node.joining = joining;
        for peer in gone {
            self.node.slots.give_up_on(peer);
        }
        if changed {
            self.work.sweep_all();
        }
        self.claim_slots();
        self.own_what_is_answered();
    }

    /// When the first of the links that are gone will have been for too long.
    fn next_grace(&self) -> Option<Time> {
        let (now, grace) = (self.node.now, self.node.settings.link_grace);
        let down = self.node.links.values().filter(|it| it.up.is_none()).map(|it| it.since + grace);
        down.filter(|until| now < *until).min()
    }

    /// Claims the slots that this node should own and does not.
    pub(super) fn claim_slots(&mut self) {
        self.claim_at = None;
        if self.awakening.is_some() {
            return;
        }
        if self.node.is_in_minority() {
            return self.claim_later();
        }
        let Node { me, placement, slots, .. } = &self.node;
        let unclaimed = slots.unclaimed(|slot| placement.home(slot) == Some(*me));
        // Those that nobody serves are claimed at once.
        let (served, mut unclaimed): (Vec<u16>, Vec<u16>) =
            unclaimed.into_iter().partition(|slot| self.is_served(*slot));
        let moving = self.moving();
        unclaimed.extend(self.pace.choose(served, moving, self.node.now));
        if unclaimed.is_empty() {
            return;
        }
        let peers = self.node.peers();
        let Node { slots, ids, .. } = &mut self.node;
        slots.claim(&unclaimed, &peers, || next(ids));
        self.work.sweep(unclaimed);
        self.own_what_is_answered();
    }

    /// Whether another node serves a slot, as far as this one knows.
    fn is_served(&self, slot: u16) -> bool {
        match self.node.slots.ownership(slot) {
            Ownership::Theirs(Some(owner)) => self.node.reaches(owner),
            _ => false,
        }
    }

    /// Rooms that are on the move; not none while a claim is under way.
    fn moving(&self) -> usize {
        match self.node.slots.is_claiming() {
            true => usize::MAX,
            false => self.node.moves.under_way(),
        }
    }

    /// Goes on with claims that were left for later.
    pub(super) fn claim_more(&mut self) {
        if self.pace.is_left() && self.pace.is_due(self.moving(), self.node.now) {
            self.claim_slots();
        }
    }

    /// Sends what claims are to be sent now.
    fn send_claims(&mut self) {
        let Node { slots, links, .. } = &mut self.node;
        let reaches = |node| links.get(&node).is_some_and(|it: &LinkState| it.up.is_some());
        for (claim, to) in slots.to_send(reaches) {
            self.send_claim(claim, to);
        }
    }

    fn send_claim(&mut self, claim: Claim, to: Vec<NodeId>) {
        for peer in &to {
            self.node.expect_settled(*peer, claim.id);
            // An owner that leaves may be the last to see it by gossip, and would keep its slots.
            if self.known.get(peer).is_some_and(|info| info.phase == Phase::Draining) {
                let message = Message::YourPhase(Phase::Draining);
                self.node.out.push(Out::Send { to: vec![*peer], message });
            }
        }
        self.node.send_about_slots(to, SlotMessage::Claim(claim));
    }

    /// Slots that everyone has answered for are this node's.
    pub(super) fn own_what_is_answered(&mut self) {
        self.send_claims();
        let owned = self.node.slots.complete();
        self.work.sweep(owned);
    }

    /// A peer says something about who owns which slots.
    pub(super) fn about_slots(&mut self, from: NodeId, message: SlotMessage) {
        match message {
            SlotMessage::Claim(claim) => self.claimed_by(from, &claim),
            SlotMessage::Refused { claim, slots } => {
                let lost = self.node.slots.refused(Some(claim), &slots);
                self.lose(lost);
            }
            SlotMessage::Inventory { claim, rooms, ended, unsure, last } => {
                self.inventory_came(from, claim, rooms, (&ended, &unsure), last);
            }
            SlotMessage::Forgot => self.say_what_is_known(from),
            SlotMessage::Known(known) => self.learn_what_was_forgotten(from, known),
            SlotMessage::Ask(slots) => self.asked_whether_sure(from, slots),
            SlotMessage::Sure(slots) => self.become_sure(slots),
        }
    }

    fn claimed_by(&mut self, from: NodeId, claim: &Claim) {
        let Node { me, placement, slots, links, .. } = &mut self.node;
        let answered = slots.answer(
            from,
            claim,
            |slot| placement.home(slot) == Some(*me),
            |node| links.get(&node).is_some_and(|it| it.up.is_some()),
        );
        for refused in answered.refused.chunks(SLOTS_A_MESSAGE) {
            let refused = SlotMessage::Refused { claim: claim.id, slots: refused.to_vec() };
            self.node.send_about_slots(vec![from], refused);
        }
        self.work.sweep(answered.granted.iter().copied());
        self.work.owe(from, claim.id);
        let granted = answered.granted.into_iter().collect();
        self.begin_inventory(from, claim.id, granted, answered.ended, answered.unsure);
        self.lose(answered.lost);
    }

    /// Slots that this node owned or claimed are another's.
    fn lose(&mut self, slots: Vec<u16>) {
        if slots.is_empty() {
            return;
        }
        self.work.sweep(slots);
        self.claim_later();
        self.own_what_is_answered();
    }
}
