//! How a node becomes a room's home, and how it stops being one.
//!
//! ```text
//! the claimer                                           whoever answers
//!    │ Claim(slots, terms) ─────────────────────────────────► stops owning them
//!    │ ◄──────────────────────────────── Inventory(rooms, how far each reaches)
//!    │    from all: the slots are its own
//!    │ Fetch(room) ───────────────► who has the newest copy, if it is not the claimer
//!    │ ◄──────────────────────────────────────────────────── Page, Page, …, the last
//!    │    the room is open: it serves, and has its successors attach
//!    │ Release ───────────────────► who held a copy and is no successor, once the successors have it
//! ```
//!
//! A node that holds the copy of a home or a successor keeps it until it is released.

use std::collections::VecDeque;

use super::{
    home::Home,
    line::{Root, Standing},
    messages::{Held, Page, Refused, RoomMessage},
    node::Node,
    room::{Role, Room},
    stream::Stream,
    transfer::{self, Incoming, Outgoing, What},
    types::{Event, Position},
    warming::Warming,
};
use crate::{
    cluster::{
        node::NodeId,
        slots::{Ownership, Term},
    },
    runtime::time::Time,
};

/// The most requests of peers that wait for an opening; more are refused, and come again.
const MAX_HELD: usize = 1_000;

/// A home that is not open yet.
#[derive(Debug, Default)]
pub struct Opening {
    /// What others hold.
    heard: Vec<(NodeId, Held)>,
    fetch: Option<Fetch>,
    /// What this node's own log has is being read.
    warming: Option<Box<Warming>>,
    /// It waits for its turn to fetch; whether among those that someone waits for.
    queued: Option<bool>,
    /// Where this node's subscribers stand.
    stood_at: Option<Position>,
    /// What peers have asked meanwhile, each on a link: one that breaks takes it along, since nobody says then what
    /// has changed.
    held: VecDeque<(NodeId, u64, RoomMessage)>,
    /// The room was opened without the owner before, and another knows more than is here: until when it waits for
    /// that owner, who may know more still.
    waits_until: Option<Time>,
}

/// A copy on its way.
#[derive(Debug)]
struct Fetch {
    from: NodeId,
    link: u64,
    id: u64,
    incoming: Incoming,
}

impl Opening {
    /// Keeps a peer's message until it can be dealt with, or gives it back: there are too many.
    pub(super) fn hold(
        &mut self,
        (from, link): (NodeId, u64),
        message: RoomMessage,
    ) -> Option<RoomMessage> {
        let asks = matches!(message, RoomMessage::Request { .. } | RoomMessage::Attach { .. });
        if asks && self.held.len() >= MAX_HELD {
            return Some(message);
        }
        self.held.push_back((from, link, message));
        None
    }

    /// Whether a peer waits for the room.
    pub(super) fn is_waited_for(&self) -> bool {
        !self.held.is_empty()
    }

    /// Who holds a copy, as far as was heard.
    pub(super) fn holders(&self) -> Vec<NodeId> {
        self.heard.iter().map(|(from, _)| *from).collect()
    }

    /// Until when it waits although nothing is to come.
    pub(super) fn next_due(&self) -> Option<Time> {
        let read_again = self.warming.as_ref().and_then(|it| it.again_at());
        [self.waits_until, read_again].into_iter().flatten().min()
    }

    /// The copy that is on its way.
    pub(super) fn incoming(&self) -> Option<&Incoming> {
        self.fetch.as_ref().map(|it| &it.incoming)
    }

    /// The same, to take more of it.
    pub(super) fn incoming_mut(&mut self) -> Option<&mut Incoming> {
        self.fetch.as_mut().map(|it| &mut it.incoming)
    }

    /// What is being read of this node's own log.
    pub(super) fn warming(&mut self) -> &mut Option<Box<Warming>> {
        &mut self.warming
    }

    /// `from` has no such copy (any more).
    /// Returns whether that was waited for.
    pub(super) fn has_no_copy(&mut self, from: NodeId, id: u64) -> bool {
        let is_it = self.fetch.take_if(|it| (it.from, it.id) == (from, id)).is_some();
        if is_it {
            self.heard.retain(|(node, _)| *node != from);
        }
        is_it
    }

    /// Whether one of the copies that others hold is known to be of the room's stream, and begins as this one does.
    fn vouches_for(&self, root: &Root) -> bool {
        let mut roots = self.heard.iter().map(|(_, held)| held.standing.root);
        roots.any(|it| !it.tentative && it.is_same(root))
    }

    /// A copy that others or this node hold, which is not tentative if another copy of the stream is not.
    fn judged(&self, copy: Standing) -> Standing {
        let tentative = copy.root.tentative && !self.vouches_for(&copy.root);
        Standing { root: Root { tentative, ..copy.root }, ..copy }
    }

    /// The newest of the copies that others hold.
    fn newest(&self) -> Option<(NodeId, Standing)> {
        let mut newest: Option<(NodeId, Standing, bool)> = None;
        for (from, held) in &self.heard {
            let (copy, whole) = (self.judged(held.standing), held.given.is_some());
            let newer = |(_, known, known_whole): (NodeId, Standing, bool)| {
                // Of several that are the same, that of the last home.
                copy.is_newer_than(&known) || !known.is_newer_than(&copy) && whole && !known_whole
            };
            if newest.is_none_or(newer) {
                newest = Some((*from, copy, whole));
            }
        }
        newest.map(|(from, copy, _)| (from, copy))
    }
}

impl Room {
    pub(super) fn begin_to_open_unless_home(&mut self, node: &mut Node) {
        if matches!(self.role, Role::Home(_) | Role::Opening(_)) {
            return;
        }
        self.last_used = node.now;
        self.owed |= matches!(&self.role, Role::Mirror(mirror) if mirror.is_invited());
        let stood_at = self.stream.as_deref().map(Stream::visible);
        self.role = Role::Opening(Box::new(Opening { stood_at, ..Opening::default() }));
    }

    /// A peer has reported what it holds of the room, in answer to a claim.
    pub(super) fn heard_of(&mut self, from: NodeId, held: Held, node: &mut Node) {
        self.follow_slot(node);
        self.last_used = node.now;
        let mut waits_until = None;
        if matches!(&self.role, Role::Home(_)) {
            let newer = held.standing.is_newer_than(&self.standing());
            let Role::Home(home) = &mut self.role else { return };
            if !newer {
                return home.holds_a_copy(from);
            }
            // It was not reached when the slot was claimed, and knows more.
            self.stop_being_home(node);
            // Both ends of a cut hear of each other one link after the other.
            waits_until =
                node.slots.is_blind(self.slot).then_some(node.now + node.settings.replica_timeout);
        }
        self.begin_to_open_unless_home(node);
        if let Role::Opening(opening) = &mut self.role {
            opening.waits_until = opening.waits_until.or(waits_until);
            opening.heard.retain(|(node, _)| *node != from);
            opening.heard.push((from, held));
        }
    }

    /// Opens the room once its slot is this node's and no other has a newer copy.
    pub(super) fn try_to_open(&mut self, node: &mut Node) {
        let Ownership::Mine(term) = self.ownership(node) else { return };
        if self.options.keeps_history() && node.is_in_minority() {
            // Another may have claimed the slot without this node's knowledge, and hold what is missing here.
            return;
        }
        let (name, own) = (self.name.clone(), self.held().map(|held| held.standing));
        let (is_cold, replaced) = (self.is_cold(), self.has_been_replaced());
        let urgent = self.is_waited_for() || !self.local.is_empty();
        let Role::Opening(opening) = &mut self.role else { return };
        opening.held.retain(|(from, link, _)| node.link(*from) == Some(*link));
        if let Some(fetch) = &opening.fetch {
            if node.link(fetch.from) == Some(fetch.link) {
                return;
            }
            opening.fetch = None;
            node.fetches.end(&name);
        }
        let before = node.slots.unheard(self.slot);
        let has_told = opening.heard.iter().any(|(from, _)| Some(*from) == before);
        opening.waits_until = opening.waits_until.filter(|until| !has_told && node.now < *until);
        if opening.waits_until.is_some() {
            return;
        }
        let own = own.map(|own| opening.judged(own));
        let newest = opening.newest();
        opening.heard.retain(|(from, _)| !node.has_lost(*from));
        if node.is_quorum() && newest != opening.newest() {
            // A lesser copy may lack what was acknowledged. Another majority may know more.
            node.claim_anew.insert(self.slot);
            return;
        }
        let newer =
            |(_, it): &(NodeId, Standing)| own.is_none_or(|own| is_better(it, &own, replaced));
        let newer = opening.newest().filter(newer);
        if newer.is_none() && is_cold && opening.warming.is_some() {
            return self.warm(node);
        }
        match newer {
            None if !is_cold => self.open(term, node),
            _ if opening.queued.is_some_and(|it| it >= urgent) => {}
            _ => {
                opening.queued = Some(urgent);
                node.fetches.want(&name, urgent);
            }
        }
    }

    /// Whether this node's copy is no more on its disk, since another has begun to take its place.
    fn has_been_replaced(&self) -> bool {
        self.stream.as_deref().is_some_and(Stream::is_replaced)
    }

    /// The room's turn has come to fetch its copy, or to read it.
    pub(super) fn fetch(&mut self, node: &mut Node) {
        let (name, id) = (self.name.clone(), node.next_id());
        let own = self.held().map(|held| held.standing);
        let replaced = self.has_been_replaced();
        let Role::Opening(opening) = &mut self.role else { return };
        if opening.fetch.is_some() {
            return;
        }
        opening.queued = None;
        let own = own.map(|own| opening.judged(own));
        let newer =
            |(_, it): &(NodeId, Standing)| own.is_none_or(|own| is_better(it, &own, replaced));
        let Some((from, _)) = opening.newest().filter(newer) else {
            // What is newest is here, and may have to be read first.
            if self.is_cold() {
                node.fetches.begin(&name);
                return self.warm(node);
            }
            return self.try_to_open(node);
        };
        if let Some(link) = node.link(from) {
            let incoming = Incoming::default();
            opening.fetch = Some(Fetch { from, link, id, incoming });
            node.fetches.begin(&name);
            self.send_to(from, RoomMessage::Fetch(id), node);
        }
    }

    /// Another node asks for this one's copy.
    pub(super) fn fetched_by(&mut self, from: NodeId, id: u64, node: &mut Node) {
        if let Role::Home(home) = &self.role {
            let refused = Refused::Delivery(home.term);
            return self.send_to(from, RoomMessage::NotHome(refused), node);
        }
        match node.link(from) {
            Some(link) if self.held().is_some() => {
                self.leave_what_was_not_synced(node);
                self.outgoing.retain(|it| it.to != from || it.id != id);
                self.outgoing.push(Outgoing::new(from, link, id, What::Fetched));
                node.has_pages(from, &self.name);
            }
            _ => {
                self.send_to(from, RoomMessage::NotHome(Refused::Fetch(id)), node);
            }
        }
    }

    /// A page of a copy has come: to a home that is opening, or to a mirror.
    pub(super) fn page_came(&mut self, from: NodeId, page: Page, node: &mut Node) {
        node.dealt_with(from, transfer::weight(&page.items));
        let Role::Opening(opening) = &mut self.role else {
            return self.page_for_mirror(from, page, node);
        };
        if opening.fetch.as_ref().is_none_or(|it| (it.from, it.id) != (from, page.id)) {
            return;
        }
        let from_the_beginning =
            page.begin.map(|begin| (self.log_begin(&begin), Incoming::begin(begin)));
        let Role::Opening(opening) = &mut self.role else { return };
        let Some(mut fetch) = opening.fetch.take() else { return };
        if let Some((logged, incoming)) = from_the_beginning {
            fetch.incoming = Incoming { logged, ..incoming };
        }
        self.log_copy(&mut fetch.incoming, &page.items, node);
        fetch.incoming.take(page.items, &self.options, node.now);
        let Some(end) = page.end else {
            if let Role::Opening(opening) = &mut self.role {
                opening.fetch = Some(fetch);
            }
            return;
        };
        if let (Some(stream), Some(have)) = (&mut fetch.incoming.stream, end.have) {
            stream.reach(have.term);
        }
        fetch.incoming.committed = node.is_quorum().then_some(end.committed);
        self.owed = true;
        self.attendance = end.attendance;
        self.install(fetch.incoming, true, node);
        // By now it may be another copy than the one that was reported.
        let standing = self.standing();
        if let Role::Opening(opening) = &mut self.role {
            let fetched = opening.heard.iter_mut().filter(|(node, _)| *node == from);
            fetched.for_each(|(_, held)| held.standing = standing);
        }
        node.fetches.end(&self.name.clone());
    }

    fn open(&mut self, term: Term, node: &mut Node) {
        let Role::Opening(opening) = std::mem::replace(&mut self.role, Role::Guest) else { return };
        let vouched = self.is_vouched_for(&opening, node);
        if let Some(stream) = self.stream.as_deref_mut()
            && opening.vouches_for(&stream.standing().root)
        {
            stream.doubt(false);
        }
        // Where the owner before was heard, nobody had the room: it is new, and so is everyone in it.
        let unknown =
            self.held().is_none() && opening.heard.is_empty() && node.slots.is_blind(self.slot);
        self.open_stream(term, vouched, node);
        let mut home = Home::new(term, unknown.then_some(node.now + node.settings.settling));
        opening.heard.iter().for_each(|(from, _)| home.holds_a_copy(*from));
        home.occupied = self.present.as_ref().is_some_and(|it| !it.is_empty());
        home.acked = self.top();
        (self.owed, self.given) = (false, None);
        self.role = Role::Home(Box::new(home));
        self.begin_group(node);
        self.begin_map(node);
        node.groups.wake_all_of(&self.name);
        self.own_clients_are_there(node);
        // Before anything is served, so that the first publication waits for them too.
        self.choose_successors(node);
        self.tell_own(opening.stood_at, node);
        for (from, _, message) in opening.held {
            self.asked_by_peer(from, message, node);
        }
        if self.is_home() {
            self.settle_home(node);
        }
    }

    /// Whether this node's copy is complete: all that the last home has said.
    fn is_vouched_for(&self, opening: &Opening, node: &Node) -> bool {
        let own = self.standing();
        let mut all = self.held().into_iter().chain(opening.heard.iter().map(|(_, held)| *held));
        all.any(|it| {
            let nothing_since = |given| node.slots.nothing_since(self.slot, given);
            it.given.is_some_and(nothing_since) && it.standing.is_level_with(&own)
        })
    }

    fn open_stream(&mut self, term: Term, vouched: bool, node: &mut Node) {
        let keeps_history = self.options.keeps_history();
        if !keeps_history || self.copy().is_none() {
            self.forget_stream(node);
        }
        if !keeps_history {
            return;
        }
        if let Some(stream) = &mut self.stream
            && !node.slots.is_blind(self.slot)
        {
            stream.doubt(false);
        }
        let begins = self.stream.is_none();
        match &mut self.stream {
            None => {
                // A group begins without anyone who waits for that to be acknowledged.
                let tentative = node.slots.is_blind(self.slot) || self.is_group();
                let root = Root { tentative, term, serial: node.next_id() };
                let mut stream = Stream::new(node.new_epoch(), root);
                if node.is_quorum() {
                    stream.commit(0);
                }
                self.stream = Some(Box::new(stream));
            }
            // Nothing acknowledged can be missing, and nobody has had what is not.
            Some(_) if node.is_quorum() => {
                self.leave_what_was_not_synced(node);
                let Some(stream) = &mut self.stream else { return };
                stream.mark(term);
                stream.commit(0);
            }
            Some(_) if vouched => {}
            Some(stream) => stream.succeed(node.new_epoch()),
        }
        self.log_again(node);
        self.begin_to_log(begins, node);
        self.log_head(node);
    }

    /// This node's own subscribers stood at `old` until now, a mirror's or an earlier home's.
    fn tell_own(&mut self, old: Option<Position>, node: &mut Node) {
        self.keep_uncommitted();
        let (Some(old), Some(stream)) = (old, &self.stream) else { return };
        let missed = stream.after(old);
        if old.epoch != stream.position().epoch || missed.is_none() {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
    }

    /// Another node has claimed the slot: from here on the room is that one's.
    pub(super) fn stop_being_home(&mut self, node: &mut Node) {
        let Role::Home(home) = std::mem::replace(&mut self.role, Role::Guest) else { return };
        if let Some(stream) = &mut self.stream
            && stream.standing().root.term == home.term
            && stream.history.top() > 0
            && !home.replication.has_acknowledged()
            // Nobody sees what is said in a group's room before it is acknowledged.
            && (self.options.group.is_some() || !home.has_listeners())
        {
            // What waited here is published again through the next home, and no other node has it.
            stream.doubt(true);
        }
        self.leave_proof_to_others();
        self.log_head(node);
        self.owed = true;
        self.given = node.slots.given(self.slot).map(Box::new);
        self.last_used = node.now;
        self.outgoing.clear();
        if !self.needs_copies() {
            self.present = None;
        }
        self.give_up(*home, node);
    }

    /// The slot is another's after all.
    pub(super) fn stop_opening(&mut self, node: &mut Node) {
        let Role::Opening(opening) = std::mem::replace(&mut self.role, Role::Guest) else { return };
        node.fetches.end(&self.name);
        self.last_used = node.now;
        for (from, _, message) in opening.held {
            self.refuse_peer(from, &message, node);
        }
        if let Some(owner) = self.owner(node).filter(|it| *it != node.me) {
            // To that one it may be listening, as it was before: it has heard nothing since.
            self.send_to(owner, RoomMessage::Detach, node);
        }
    }
}

/// Whether a copy is to be fetched rather than that the node goes on from its own: it is newer, or as new and the own one has
/// been replaced on disk.
fn is_better(copy: &Standing, own: &Standing, replaced: bool) -> bool {
    copy.is_newer_than(own) || replaced && copy.is_level_with(own)
}
