//! What every room needs of the node it is on, and what comes out of the rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    attendance::AttendanceEvent,
    control::Control,
    delivery::DeliveryOption,
    groups::Groups,
    logged::LogRequest,
    long_queue::LongQueue,
    memory::Memory,
    messages::{Message, RoomMessage, SlotMessage},
    moves::Moves,
    transfer::{Flow, Source, parts, weight_of_answer},
    types::{
        Answer, Epoch, Event, Failure, Findings, MemberFlags, Publication, ReplyTo, RoomName,
        SocketRef, Subscribed, Survey,
    },
};
use crate::{
    cluster::{
        node::{NodeId, Phase, mix},
        placement::Placement,
        slots::{Ownership, Quorum, Slots, Term},
        view::View,
    },
    runtime::time::Time,
};

/// What the registry wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// Tell the hub, and it the socket, what became of a subscribe.
    Subscribed {
        /// The subscriber.
        socket: SocketRef,
        /// The number of its command.
        id: u32,
        /// The room, by the one name that all of the node shares.
        room: RoomName,
        /// How it takes part.
        flags: MemberFlags,
        /// Its delivery options, unless it gets every publication in full.
        delivery: Option<DeliveryOption>,
        /// Whether it is in.
        result: Result<Subscribed, Failure>,
    },
    /// Tell the hub, and it the socket, that a subscription is over.
    Unsubscribed {
        /// The subscriber.
        socket: SocketRef,
        /// Who waits for it.
        reply: ReplyTo,
        /// The room.
        room: RoomName,
    },
    /// Answer a command or an API call.
    Answer {
        /// Who waits.
        to: ReplyTo,
        /// For what.
        answer: Answer,
    },
    /// Tell the members of a room on these workers (a bit for each).
    Event {
        /// The workers with members.
        workers: u64,
        /// The room.
        room: RoomName,
        /// What happened.
        event: Event,
    },
    /// Give a message to one member of a room, a consumer of its group.
    Push {
        /// The member.
        socket: SocketRef,
        /// The room.
        room: RoomName,
        /// The message.
        publication: Arc<Publication>,
    },
    /// Send to peers.
    Send {
        /// The peers.
        to: Vec<NodeId>,
        /// The message.
        message: Message,
    },
    /// Ask the log of this node about a room.
    Log {
        /// The room.
        room: RoomName,
        /// What is asked.
        request: LogRequest,
    },
    /// Do this to the connections of a user that are here.
    Control(Arc<Control>),
    /// Notify the application.
    Notify(AttendanceEvent),
    /// Answer a survey that an API call made.
    Findings {
        /// The API call.
        to: u64,
        /// What came back.
        findings: Findings,
    },
}

/// The limits and delays of a registry.
#[derive(Debug, Clone)]
pub struct RoomSettings {
    /// How many other nodes keep a copy of a room with history.
    pub replicas: usize,
    /// How long something may wait for a room's home before its client is told that it failed.
    pub publish_timeout: Duration,
    /// How long a publication waits for a successor that should have it.
    pub replica_timeout: Duration,
    /// How long a mirror stays attached after its last subscriber.
    pub linger: Duration,
    /// How long nobody has used a room on disk before it goes out of memory.
    pub idle_timeout: Duration,
    /// How long a home keeps the presence of a node whose link broke, and how long a node stays routable
    /// then.
    pub link_grace: Duration,
    /// How long a home that knows nothing of the one before takes clients that it did not know of for old ones.
    pub settling: Duration,
    /// After which time a slot that this node should have is claimed again, when it was refused.
    pub claim_again: Duration,
    /// The most bytes in one page of a copy, but for a single thing that is larger.
    pub page: usize,
    /// The most bytes of pages that are under way to one peer.
    pub window: usize,
    /// The most bytes of one write to the log where there is much to be written; a publication more where one is large. The
    /// smallest segment has twice as many. A copy that is larger takes the place of the one before when it begins.
    pub log_batch: usize,
    /// The most rooms that one input goes through, for each kind of work that is left.
    pub slice: usize,
    /// The most publications that a recovery may bring.
    pub recovery_limit: usize,
    /// The most bytes of history that the node keeps, over all rooms.
    pub history_bytes: usize,
    /// The most rooms that the node remembers while nobody uses them.
    pub room_limit: usize,
    /// Whether this node's disk answers before it syncs: a failure of the power loses what it said last.
    pub syncs_late: bool,
    /// How many nodes the cluster is made of, if what is acknowledged has to be on a majority of them.
    pub quorum_of: Option<usize>,
}

impl Default for RoomSettings {
    fn default() -> Self {
        Self {
            replicas: 1,
            publish_timeout: Duration::from_secs(2),
            replica_timeout: Duration::from_secs(1),
            linger: Duration::from_secs(3),
            idle_timeout: Duration::from_secs(60),
            link_grace: Duration::from_millis(500),
            settling: Duration::from_secs(2),
            claim_again: Duration::from_millis(200),
            page: 64 << 10,
            window: 1 << 20,
            log_batch: 1 << 19,
            slice: 128,
            recovery_limit: 300,
            history_bytes: 512 << 20,
            room_limit: 500_000,
            syncs_late: false,
            quorum_of: None,
        }
    }
}

/// The link to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkState {
    /// Which link it is, of all that this node has had; none: there is none now.
    pub up: Option<u64>,
    /// Since when.
    pub since: Time,
}

/// What every room needs of its node.
#[derive(Debug)]
pub struct Node {
    /// This node.
    pub me: NodeId,
    /// The moment of the input that is being handled.
    pub now: Time,
    /// The limits and delays.
    pub settings: RoomSettings,
    /// Where rooms should be at home; nowhere while the node does not know who else is there.
    pub placement: Placement,
    /// Where they are.
    pub slots: Slots,
    /// What is to be done.
    pub out: Vec<Out>,
    /// Bytes of history, over all rooms.
    pub memory: Memory,
    /// Pages under way to peers.
    pub flows: BTreeMap<NodeId, Flow>,
    /// Whether any of them may have something to send, so that not every input looks through them.
    pub(super) pages_wait: bool,
    /// Rooms whose copies are on their way here, or are to be.
    pub fetches: Fetches,
    /// Rooms on the move.
    pub moves: Moves,
    /// Groups of consumers.
    pub groups: Groups,
    /// This node's log has lost what may have been the end of any room that was found in it.
    pub lost_from_log: bool,
    pub(super) view: View,
    /// The nodes of the view that are reachable.
    pub(super) routable: BTreeSet<NodeId>,
    /// Those of them that rooms are placed on.
    pub(super) placed: BTreeSet<NodeId>,
    /// Those of them that rooms will be placed on, and are not yet: they join.
    pub(super) joining: BTreeSet<NodeId>,
    pub(super) links: BTreeMap<NodeId, LinkState>,
    /// Whether each peer has turned to this node with all rooms that it needs it for, after the claim of this
    /// number.
    settled: BTreeMap<NodeId, (u64, bool)>,
    /// Slots that have to be claimed anew, should they be this node's: it has learnt that they are another's, or the
    /// newest copy of a room is gone.
    pub(super) claim_anew: BTreeSet<u16>,
    /// Subscriptions of this node's clients, over all rooms.
    pub(super) subscriptions: usize,
    /// Rooms in which any of them are.
    pub(super) subscribed_rooms: usize,
    pub(super) ids: u64,
    randomness: u64,
}

impl Node {
    pub(super) fn new(me: NodeId, settings: RoomSettings, seed: u64) -> Self {
        let quorum = settings.quorum_of.map(|expected| Quorum { expected });
        Self {
            me,
            now: Time::default(),
            placement: Placement::default(),
            slots: Slots::new(me, quorum),
            settings,
            out: Vec::new(),
            memory: Memory::default(),
            flows: BTreeMap::new(),
            pages_wait: false,
            fetches: Fetches::default(),
            moves: Moves::default(),
            groups: Groups::default(),
            lost_from_log: false,
            view: View::default(),
            routable: BTreeSet::new(),
            placed: BTreeSet::new(),
            joining: BTreeSet::new(),
            links: BTreeMap::new(),
            settled: BTreeMap::new(),
            claim_anew: BTreeSet::new(),
            subscriptions: 0,
            subscribed_rooms: 0,
            ids: 0,
            randomness: seed,
        }
    }

    /// The link to `peer`, while there is one.
    pub fn link(&self, peer: NodeId) -> Option<u64> {
        self.links.get(&peer)?.up
    }

    /// Whether messages to `peer` go out now.
    pub fn reaches(&self, peer: NodeId) -> bool {
        self.link(peer).is_some()
    }

    /// Whether the link to `peer` is gone for longer than one may be.
    pub fn has_lost(&self, peer: NodeId) -> bool {
        let grace = self.settings.link_grace;
        self.links.get(&peer).is_none_or(|it| it.up.is_none() && self.now.since(it.since) >= grace)
    }

    /// Every peer that may hold something: those with a link, whatever gossip says of them, and those that
    /// should have one.
    pub fn peers(&self) -> BTreeSet<NodeId> {
        let linked = self.links.iter().filter(|(_, it)| it.up.is_some()).map(|(peer, _)| *peer);
        linked.chain(self.routable.iter().copied()).filter(|node| *node != self.me).collect()
    }

    /// `peer` is told of a claim that its rooms have to follow (0: of a link).
    pub(super) fn expect_settled(&mut self, peer: NodeId, claim: u64) {
        self.settled.insert(peer, (claim, false));
    }

    /// `peer` says that its rooms have followed.
    pub(super) fn has_settled(&mut self, peer: NodeId, claim: u64) {
        if let Some((expected, settled)) = self.settled.get_mut(&peer) {
            *settled |= claim >= *expected;
        }
    }

    /// Whether `peer` has turned to this node with all rooms that it needs it for.
    pub(super) fn is_settled(&self, peer: NodeId) -> bool {
        self.settled.get(&peer).is_some_and(|(_, settled)| *settled)
    }

    /// The node that owns a slot, as far as this one knows; the one that should, if it knows of none.
    pub fn owner(&self, slot: u16) -> Option<NodeId> {
        match self.slots.ownership(slot) {
            Ownership::Mine(_) | Ownership::Claimed(_) => Some(self.me),
            Ownership::Theirs(Some(owner)) if !self.has_lost(owner) => Some(owner),
            // Who is to be home next does not know yet what is here.
            Ownership::Theirs(_) if self.slots.is_given_up(slot) => None,
            Ownership::Theirs(_) => self.placement.home(slot),
        }
    }

    /// Who a slot belongs to, for a room that keeps history or does not. What is kept nowhere can't be lost, so in
    /// a minority a node serves such rooms for those that it reaches.
    pub fn ownership(&self, slot: u16, keeps_history: bool) -> Ownership {
        match self.slots.ownership(slot) {
            Ownership::Mine(term) => Ownership::Mine(term),
            _ if !keeps_history
                && self.is_in_minority()
                && self.placement.home(slot) == Some(self.me) =>
            {
                Ownership::Mine(Term { count: self.slots.promised(slot).count, node: self.me })
            }
            ownership => ownership,
        }
    }

    /// Whether this node is about to leave.
    pub fn is_draining(&self) -> bool {
        self.view.nodes().get(&self.me).is_some_and(|info| info.phase == Phase::Draining)
    }

    /// Whether acknowledged means on a majority.
    pub fn is_quorum(&self) -> bool {
        self.settings.quorum_of.is_some()
    }

    /// How many other nodes must have a publication before it is acknowledged, whatever becomes of them; none:
    /// those that live.
    pub fn acks_needed(&self) -> Option<usize> {
        self.settings.quorum_of.map(|expected| Quorum { expected }.majority() - 1)
    }

    /// Whether a peer has rooms, or is to have some in a moment.
    pub(super) fn stays(&self, peer: NodeId) -> bool {
        self.placed.contains(&peer) || self.joining.contains(&peer)
    }

    /// Whether nodes may be here that this one does not reach yet: it has seen them, or it joins itself.
    pub(super) fn has_yet_to_meet_some(&self) -> bool {
        let mut others = self.view.nodes().keys().filter(|it| **it != self.me);
        self.joining.contains(&self.me) || others.any(|it| !self.reaches(*it))
    }

    /// How many other nodes are to have a copy of a room, once those that are here have joined.
    pub(super) fn copies_to_come(&self) -> usize {
        let others = self.placed.iter().chain(&self.joining).filter(|peer| **peer != self.me);
        self.settings.replicas.min(others.filter(|peer| self.reaches(**peer)).count())
    }

    /// How long an acknowledgement waits for a successor: with a quorum until it fails, else until that one is done
    /// without.
    pub(super) fn patience(&self) -> Duration {
        match self.is_quorum() {
            true => self.settings.publish_timeout,
            false => self.settings.replica_timeout,
        }
    }

    /// Whether the node must not take publications into rooms with history: most of the others may go on
    /// without it.
    pub fn is_in_minority(&self) -> bool {
        let linked = || self.links.values().filter(|it| it.up.is_some()).count();
        self.acks_needed().is_some_and(|others| linked() < others)
    }

    /// Tells peers something about one room.
    pub fn send_to(&mut self, to: Vec<NodeId>, room: &RoomName, message: RoomMessage) {
        if !to.is_empty() {
            self.out.push(Out::Send { to, message: Message::Room(room.clone(), message) });
        }
    }

    /// Has something done to a connection of a node. Nobody waits for the answer.
    pub(super) fn control(&mut self, at: NodeId, control: Control) {
        let out = if at == self.me {
            Out::Control(Arc::new(control))
        } else {
            let message = Message::Survey(self.next_id(), Survey::Control(control));
            Out::Send { to: vec![at], message }
        };
        self.out.push(out);
    }

    /// Tells a peer something about slots.
    pub fn send_about_slots(&mut self, to: Vec<NodeId>, message: SlotMessage) {
        if !to.is_empty() {
            self.out.push(Out::Send { to, message: Message::Slots(message) });
        }
    }

    /// A page of a peer's is dealt with: it may send others.
    pub fn dealt_with(&mut self, from: NodeId, bytes: usize) {
        let window = self.settings.window;
        if let Some(bytes) = self.flows.entry(from).or_default().received(bytes, window) {
            self.out.push(Out::Send { to: vec![from], message: Message::Credit(bytes) });
        }
    }

    /// Answers the request `id` of a peer. What is large goes in parts, and as the link has room for it, if it may
    /// wait.
    pub fn answer(
        &mut self,
        (to, id): (NodeId, u64),
        room: &RoomName,
        answer: Answer,
        waits: bool,
    ) {
        if weight_of_answer(&answer).is_none() {
            return self.send_to(vec![to], room, RoomMessage::Answer { id, answer });
        }
        let parts = parts(answer, self.settings.page);
        let others = parts.len() - 1;
        for (at, answer) in parts.into_iter().enumerate() {
            let weight = weight_of_answer(&answer).unwrap_or_default();
            let message = match at < others {
                true => RoomMessage::Part { id, answer },
                false => RoomMessage::Answer { id, answer },
            };
            self.send_part(to, room, message, weight, waits);
        }
    }

    fn send_part(
        &mut self,
        to: NodeId,
        room: &RoomName,
        message: RoomMessage,
        weight: usize,
        waits: bool,
    ) {
        let window = self.settings.window;
        let flow = self.flow_to(to);
        if waits && flow.is_busy(window) {
            return flow.wait(room, message, weight);
        }
        flow.sent(weight);
        self.send_to(vec![to], room, message);
    }

    /// A room has pages for a peer.
    pub fn has_pages(&mut self, to: NodeId, room: &RoomName) {
        self.flow_to(to).ready(Source::Room(room.clone()));
    }

    /// The pages for a peer, of which there may be more now.
    pub(super) fn flow_to(&mut self, peer: NodeId) -> &mut Flow {
        self.pages_wait = true;
        self.flows.entry(peer).or_default()
    }

    /// A number that this run of the node has not used before.
    pub fn next_id(&mut self) -> u64 {
        next(&mut self.ids)
    }

    /// An epoch that no stream has had before.
    pub fn new_epoch(&mut self) -> Epoch {
        self.randomness = self.randomness.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Epoch(mix(self.randomness))
    }
}

/// The number after the last one.
pub(super) fn next(ids: &mut u64) -> u64 {
    *ids += 1;
    *ids
}

/// The most copies that are asked for at a time.
const MAX_FETCHES: usize = 512;

/// Rooms whose copies this node needs from others.
#[derive(Debug, Default)]
pub struct Fetches {
    under_way: BTreeSet<RoomName>,
    /// Those that someone waits for.
    urgent: LongQueue<RoomName>,
    waiting: LongQueue<RoomName>,
}

impl Fetches {
    /// `room` needs a copy; it is called when its turn comes. It may ask more than once.
    pub fn want(&mut self, room: &RoomName, urgent: bool) {
        match urgent {
            true => self.urgent.push_back(room.clone()),
            false => self.waiting.push_back(room.clone()),
        }
    }

    /// The next room that may fetch.
    pub(super) fn next(&mut self) -> Option<RoomName> {
        // What someone waits for does not wait for what nobody does.
        if let Some(room) = self.urgent.pop_front() {
            return Some(room);
        }
        (self.under_way.len() < MAX_FETCHES).then(|| self.waiting.pop_front()).flatten()
    }

    /// Whether a room may fetch now.
    pub(super) fn is_ready(&self) -> bool {
        let some = self.under_way.len() < MAX_FETCHES && !self.waiting.is_empty();
        some || !self.urgent.is_empty()
    }

    /// `room` has asked for its copy.
    pub fn begin(&mut self, room: &RoomName) {
        self.under_way.insert(room.clone());
    }

    /// `room` has what it fetched, or has given up.
    pub fn end(&mut self, room: &RoomName) {
        self.under_way.remove(room);
    }
}
