//! What every room needs of the node it is on, and what comes out of the rooms.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    keys,
    types::{
        Answer, Epoch, Event, Findings, MemberFlags, ReplyTo, RoomName, SocketRef, Subscribed,
    },
    wishes::Wish,
};
use crate::{
    access::control::Control,
    cluster::{
        node::{NodeId, mix},
        placement::Placement,
        view::View,
    },
    mesh::wire::Message,
    protocol::codes::ErrorCode,
    runtime::time::Time,
    webhooks::event::Happening,
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
        /// What it wants otherwise than most.
        wish: Option<Wish>,
        /// Whether it is in.
        result: Result<Subscribed, ErrorCode>,
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
    /// Send to peers.
    Send {
        /// The peers.
        to: Vec<NodeId>,
        /// The message.
        message: Message,
    },
    /// Do this to the connections of a user that are here.
    Control(Arc<Control>),
    /// Tell the application.
    Tell(Happening),
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
pub struct Settings {
    /// How many other nodes keep a copy of a room with history.
    pub replicas: usize,
    /// How long something may wait for a room's home before its client is told that it failed.
    pub publish_timeout: Duration,
    /// How long a new home waits for what the others know.
    pub claim_timeout: Duration,
    /// How long a publication waits for a successor that should have it.
    pub replica_timeout: Duration,
    /// How long a mirror stays attached after its last subscriber.
    pub linger: Duration,
    /// How long a home keeps the presence of a node whose link broke, and how long a node stays routable
    /// then.
    pub link_grace: Duration,
    /// How long after it opened a home takes clients that it did not know of for old ones.
    pub settling: Duration,
    /// The most publications that a recovery may bring.
    pub recovery_limit: usize,
    /// The most bytes of history that the node keeps, over all rooms.
    pub history_bytes: usize,
    /// The most rooms that the node remembers while nobody uses them.
    pub room_limit: usize,
    /// How many nodes there should be, if the node has to refuse publishes to rooms with history when it
    /// sees less than half of them.
    pub quorum_of: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 1,
            publish_timeout: Duration::from_secs(2),
            claim_timeout: Duration::from_secs(1),
            replica_timeout: Duration::from_secs(1),
            linger: Duration::from_secs(3),
            link_grace: Duration::from_millis(500),
            settling: Duration::from_secs(2),
            recovery_limit: 300,
            history_bytes: 512 << 20,
            room_limit: 500_000,
            quorum_of: None,
        }
    }
}

/// How a peer can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It can.
    Up,
    /// Not since then.
    Down(Time),
}

/// What every room needs of its node.
#[derive(Debug)]
pub struct Node {
    /// This node.
    pub me: NodeId,
    /// The moment of the input that is being handled.
    pub now: Time,
    /// The limits and delays.
    pub settings: Settings,
    /// Where rooms are at home; nowhere while the node does not know who else is there.
    pub placement: Placement,
    /// What is to be done.
    pub out: Vec<Out>,
    /// Bytes of history, over all rooms.
    pub memory: Memory,
    /// Copies of streams that are on their way here.
    pub fetches: Fetches,
    pub(super) view: View,
    /// The nodes of the view that are reachable.
    pub(super) routable: BTreeSet<NodeId>,
    /// Those of them that rooms are placed on.
    pub(super) placed: BTreeSet<NodeId>,
    pub(super) links: BTreeMap<NodeId, LinkState>,
    /// Subscriptions of this node's clients, over all rooms.
    pub(super) subscriptions: usize,
    ids: u64,
    randomness: u64,
}

impl Node {
    pub(super) fn new(me: NodeId, settings: Settings, seed: u64) -> Self {
        Self {
            me,
            now: Time::default(),
            settings,
            placement: Placement::default(),
            out: Vec::new(),
            memory: Memory::default(),
            fetches: Fetches::default(),
            view: View::default(),
            routable: BTreeSet::new(),
            placed: BTreeSet::new(),
            links: BTreeMap::new(),
            subscriptions: 0,
            ids: 0,
            randomness: seed,
        }
    }

    /// Whether messages to `peer` go out now.
    pub fn reaches(&self, peer: NodeId) -> bool {
        self.links.get(&peer) == Some(&LinkState::Up)
    }

    /// Every peer that may hold something: those with a link, whatever gossip says of them, and those that
    /// should have one.
    pub fn peers(&self) -> BTreeSet<NodeId> {
        let linked = self.links.keys().copied().filter(|peer| self.reaches(*peer));
        linked.chain(self.routable.iter().copied()).filter(|node| *node != self.me).collect()
    }

    /// Whether the node must not take publications into rooms with history: most of the others may go on
    /// without it.
    pub fn is_in_minority(&self) -> bool {
        self.settings.quorum_of.is_some_and(|expected| self.routable.len() * 2 < expected)
    }

    /// A number that this run of the node has not used before.
    pub fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// An epoch that no stream has had before.
    pub fn new_epoch(&mut self) -> Epoch {
        self.randomness = self.randomness.wrapping_add(0x9e37_79b9_7f4a_7c15);
        Epoch(mix(self.randomness))
    }
}

/// The most copies of streams that are under way to a node at a time: the link's queue has to hold them.
const MAX_FETCHES: usize = 32;

/// Copies of streams under way to this node.
#[derive(Debug, Default)]
pub struct Fetches {
    under_way: BTreeSet<RoomName>,
    waiting: BTreeSet<RoomName>,
    /// Rooms whose turn has come.
    pub(super) next: Vec<RoomName>,
}

impl Fetches {
    /// Whether `room` may fetch now; if not, it is called when its turn comes.
    pub fn begin(&mut self, room: &RoomName) -> bool {
        if self.under_way.contains(room) {
            return true;
        }
        if self.under_way.len() >= MAX_FETCHES {
            self.waiting.insert(room.clone());
            return false;
        }
        self.under_way.insert(room.clone());
        true
    }

    /// `room` has what it fetched, or has given up.
    pub fn end(&mut self, room: &RoomName) {
        self.waiting.remove(room);
        if self.under_way.remove(room) {
            self.next.extend(self.waiting.pop_first());
        }
    }
}

/// How much history the node keeps, and which is the oldest.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: usize,
    /// Every publication kept, oldest first; some are gone already.
    pub(super) by_age: VecDeque<(RoomName, u64)>,
    /// Length of `by_age` at which it is worth looking for those that are gone.
    pub(super) compact_at: usize,
    /// The rooms that have remembered an idempotency key, oldest first, one entry for each key.
    keys: VecDeque<(Time, RoomName)>,
}

/// The most idempotency keys that a node remembers, over all rooms.
const MAX_KEYS: usize = 1_000_000;

impl Memory {
    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of a change.
    pub fn add(&mut self, change: isize) {
        self.bytes = self.bytes.saturating_add_signed(change);
    }

    /// Takes note of an idempotency key that `room` remembers.
    pub fn keyed(&mut self, room: &RoomName, now: Time) {
        self.keys.push_back((now, room.clone()));
    }

    /// A room that is to forget its oldest key, because the node has too many.
    pub(super) fn too_many_keys(&mut self, now: Time) -> Option<RoomName> {
        while self.keys.front().is_some_and(|(at, _)| now.since(*at) >= keys::WINDOW) {
            self.keys.pop_front();
        }
        if self.keys.is_empty() {
            self.keys = VecDeque::new();
        }
        if self.keys.len() <= MAX_KEYS {
            return None;
        }
        self.keys.pop_front().map(|(_, room)| room)
    }

    /// Takes note of a publication kept.
    pub fn kept(&mut self, room: &RoomName, offset: u64, change: isize) {
        self.add(change);
        self.by_age.push_back((room.clone(), offset));
    }
}
