//! What has to be done for many rooms, in slices: no input goes through more than some hundred.
//!
//! Rooms of slots that have changed hands take their new roles; rooms that lack a copy fetch it; pages go to
//! peers as their links have room for them.

use std::collections::{BTreeMap, VecDeque};

use super::{
    messages::{Held, Message, SlotMessage},
    node::Out,
    registry::State,
    room::Room,
    survey::Searches,
    transfer::Source,
    types::RoomName,
};
use crate::cluster::{node::NodeId, placement, slot_set::SlotSet, slots::Term};

/// What a room counts in an inventory, beside its name.
const WEIGHT_HELD: usize = 64;

/// The most slots that are named in one message, each with a term: less than a page.
pub(super) const SLOTS_A_MESSAGE: usize = 2_048;

/// What is left to be done.
#[derive(Debug, Default)]
pub struct Work {
    /// Slots whose rooms are to settle, in turn.
    slots: SlotSet,
    /// Those of them that have changed hands: what their rooms are asked waits for it.
    changed: SlotSet,
    /// None are left.
    swept: bool,
    /// The rooms that are left of the slot whose turn it is.
    rooms: Vec<RoomName>,
    /// The peers that wait until all rooms have turned to them, with their last claims.
    owed: BTreeMap<NodeId, u64>,
    /// Answers to claims.
    inventories: BTreeMap<(NodeId, u64), Inventory>,
    /// Answers to surveys.
    pub(super) searches: Searches,
}

/// The answer to a claim, as far as it is not sent.
#[derive(Debug)]
struct Inventory {
    slots: SlotSet,
    rooms: VecDeque<RoomName>,
    ended: Vec<(u16, Term)>,
    unsure: Vec<u16>,
}

impl Work {
    /// The rooms of these slots, which have changed hands, are to settle, before all others.
    pub(super) fn sweep(&mut self, slots: impl IntoIterator<Item = u16>) {
        slots.into_iter().for_each(|slot| self.changed.insert(slot));
        self.swept = false;
    }

    /// So are all.
    pub(super) fn sweep_all(&mut self) {
        self.slots = SlotSet::all();
        self.swept = false;
    }

    /// A peer waits until all rooms have turned to it, after its claim of this number.
    pub(super) fn owe(&mut self, peer: NodeId, claim: u64) {
        self.owed.insert(peer, claim);
    }

    /// The link to a peer is gone.
    pub(super) fn lose(&mut self, peer: NodeId) {
        self.owed.remove(&peer);
        self.inventories.retain(|(to, _), _| *to != peer);
        self.searches.lose(peer);
    }

    fn is_left(&self) -> bool {
        !self.swept || !self.owed.is_empty()
    }

    /// The slot whose turn it is.
    fn next_slot(&mut self) -> Option<u16> {
        self.changed.pop_first().or_else(|| self.slots.pop_first())
    }
}

impl State {
    /// Whether there is something to do that needs no input.
    pub fn has_work(&self) -> bool {
        let window = self.node.settings.window;
        self.work.is_left()
            || self.agenda.next_due().is_some_and(|due| due <= self.node.now)
            || self.work.searches.is_left(self.node.me)
            || self.recovery.is_left()
            || self.node.groups.is_due()
            || self.node.fetches.is_ready()
            || self.node.moves.is_ready(self.node.now)
            || self.node.pages_wait && self.node.flows.values().any(|flow| flow.is_ready(window))
    }

    /// Does as much as this input may.
    pub(super) fn do_some_work(&mut self) {
        self.sweep_some();
        self.claim_anew();
        self.fetch_some();
        self.move_some();
        self.search_some();
        self.check_some();
        self.send_pages();
        self.claim_more();
    }

    /// The slots that this node has any rooms of.
    fn occupied_slots(&self) -> SlotSet {
        let mut occupied = self.rooms.occupied().clone();
        occupied.extend(self.dormant.occupied());
        occupied
    }

    fn sweep_some(&mut self) {
        if !self.work.is_left() {
            return;
        }
        let occupied = self.occupied_slots();
        self.work.changed.retain(&occupied);
        self.work.slots.retain(&occupied);
        for _ in 0..self.slice {
            while self.work.rooms.is_empty()
                && let Some(slot) = self.work.next_slot()
            {
                self.work.rooms = self.rooms.of_slot(slot).cloned().collect();
                let disturbed = self.disturbed(slot);
                self.work.rooms.extend(disturbed);
            }
            let Some(name) = self.work.rooms.pop() else { break };
            self.with_woken(&name, Room::settle);
        }
        if self.work.changed.is_empty() && self.work.slots.is_empty() && self.work.rooms.is_empty()
        {
            self.work.swept = true;
            for (peer, claim) in std::mem::take(&mut self.work.owed) {
                let message = Message::Settled(claim);
                self.node.out.push(Out::Send { to: vec![peer], message });
            }
        }
    }

    fn fetch_some(&mut self) {
        for _ in 0..self.slice {
            let Some(name) = self.node.fetches.next() else { break };
            self.with_room(&name, Room::fetch);
        }
    }

    fn move_some(&mut self) {
        for _ in 0..self.slice {
            let Some(name) = self.node.moves.next(self.node.now) else { break };
            self.with_room(&name, Room::change_successors);
        }
        self.ping_peers();
    }

    /// Once many rooms have begun to move, the next ones wait until the peers have dealt with what those made them
    /// do: else it would pile up at the slowest of them, with all that rooms in use need of it behind.
    fn ping_peers(&mut self) {
        self.node.moves.give_up_on_peers(self.node.now);
        if !self.node.moves.has_begun_many() || self.node.moves.waits_for_peers() {
            return;
        }
        let peers: Vec<NodeId> = self.node.links.keys().copied().collect();
        let id = self.node.next_id();
        self.node.moves.pinged(&peers, id, self.node.now);
        if !peers.is_empty() {
            self.node.out.push(Out::Send { to: peers, message: Message::Ping(id) });
        }
    }

    /// Pages go to each peer in turn, as many as its link has room for, and of no more rooms than one input may go
    /// through.
    fn send_pages(&mut self) {
        if !self.node.pages_wait {
            return;
        }
        let window = self.node.settings.window;
        let waiting = self.node.flows.iter().filter(|(_, flow)| !flow.is_idle());
        let peers: Vec<NodeId> = waiting.map(|(peer, _)| *peer).collect();
        for peer in peers {
            while let Some(flow) = self.node.flows.get_mut(&peer)
                && let Some((room, answer)) = flow.next_answer(window)
            {
                self.node.send_to(vec![peer], &room, answer);
            }
            let mut left = self.slice;
            while left > 0
                && let Some(flow) = self.node.flows.get_mut(&peer)
                && let Some(source) = flow.next(window)
            {
                let (more, rooms) = match &source {
                    Source::Inventory(claim) => self.send_inventory(peer, *claim, left),
                    Source::Room(name) => (self.send_page_of(peer, name), 1),
                    Source::Search(id) => (self.search(peer, *id), left),
                };
                left -= rooms.clamp(1, left);
                if more && let Some(flow) = self.node.flows.get_mut(&peer) {
                    flow.ready(source);
                }
            }
        }
        self.node.pages_wait = self.node.flows.values().any(|flow| !flow.is_idle());
    }

    fn send_page_of(&mut self, peer: NodeId, name: &RoomName) -> bool {
        let sent = self.with_room(name, |room, node| {
            room.follow_slot(node);
            room.send_page(peer, node)
        });
        sent.unwrap_or(false)
    }

    /// Begins to report what this node holds in slots to the node that owns them from now on.
    pub(super) fn begin_inventory(
        &mut self,
        to: NodeId,
        claim: u64,
        slots: SlotSet,
        ended: Vec<(u16, Term)>,
        unsure: Vec<u16>,
    ) {
        let inventory = Inventory { slots, rooms: VecDeque::new(), ended, unsure };
        self.work.inventories.insert((to, claim), inventory);
        self.node.flow_to(to).urgent(Source::Inventory(claim));
    }

    /// Sends the next page of an inventory, of no more than so many rooms: each of them may have a home here that
    /// ends with this. Returns whether there are more pages, and how many rooms it was.
    fn send_inventory(&mut self, to: NodeId, claim: u64, slice: usize) -> (bool, usize) {
        let Some(mut inventory) = self.work.inventories.remove(&(to, claim)) else {
            return (false, 0);
        };
        let (mut rooms, mut bytes) = (Vec::new(), 0);
        let most = self.node.settings.page;
        let mut looked = 0;
        inventory.slots.retain(&self.occupied_slots());
        while bytes < most && looked < slice {
            while inventory.rooms.is_empty()
                && let Some(slot) = inventory.slots.pop_first()
            {
                inventory.rooms = self.rooms.of_slot(slot).cloned().collect();
                inventory.rooms.extend(self.dormant.names(slot));
            }
            let Some(name) = inventory.rooms.pop_front() else { break };
            looked += 1;
            if let Some(held) = self.take_stock(&name) {
                bytes += name.len() + WEIGHT_HELD;
                rooms.push((name, held));
            }
        }
        let sent_all = inventory.slots.is_empty() && inventory.rooms.is_empty();
        let (mut ended, mut unsure) = (Vec::new(), Vec::new());
        if sent_all && rooms.is_empty() {
            let left = inventory.ended.len().saturating_sub(SLOTS_A_MESSAGE);
            ended = inventory.ended.split_off(left);
        }
        let last = sent_all && inventory.ended.is_empty();
        if last {
            unsure = std::mem::take(&mut inventory.unsure);
        } else {
            self.work.inventories.insert((to, claim), inventory);
        }
        self.node.flows.entry(to).or_default().sent(bytes);
        let message = SlotMessage::Inventory { claim, rooms, ended, unsure, last };
        self.node.send_about_slots(vec![to], message);
        (!last, looked)
    }

    /// What this node holds of a room, as one that is not its home.
    fn take_stock(&mut self, name: &RoomName) -> Option<Held> {
        let dormant = self.held_dormant(name);
        if dormant.is_some() {
            return dormant;
        }
        let held = self.with_woken(name, |room, node| {
            room.follow_slot(node);
            room.held()
        });
        held.flatten()
    }

    /// A peer has reported what it holds in slots that this node claims or owns.
    pub(super) fn inventory_came(
        &mut self,
        from: NodeId,
        claim: u64,
        rooms: Vec<(RoomName, Held)>,
        (ended, unsure): (&[(u16, Term)], &[u16]),
        last: bool,
    ) {
        let bytes = rooms.iter().map(|(name, _)| name.len() + WEIGHT_HELD).sum();
        self.node.dealt_with(from, bytes);
        self.pace.brought(rooms.len());
        for (name, held) in rooms {
            if self.node.owner(placement::slot(&name)) != Some(self.node.me) {
                continue;
            }
            self.in_room(&name, |room, node| {
                room.heard_of(from, held, node);
                room.settle(node);
            });
        }
        self.node.slots.ended(from, claim, ended);
        if last {
            self.node.slots.heard(from, claim, unsure);
            self.own_what_is_answered();
        }
    }
}
