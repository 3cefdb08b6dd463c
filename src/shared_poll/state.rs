//! All rooms of a node whose keys are polled.
//!
//! In: [`In`]. Out: [`Out`]s, in the order in which they are to be done. No more requests are under way at a time than
//! are configured, over all rooms; rooms that wait for that take turns.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    hash::Hasher as _,
    sync::Arc,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use siphasher::sip::SipHasher13;

use super::{
    channel::{Channel, Source, Who},
    options::PolledNamespaces,
    peers::{Peers, PollMessage},
    schedule::Reason,
};
use crate::{
    backend::poll::{PollAnswer, PollRequest},
    cluster::{node::NodeId, view::View},
    protocol::codes::ErrorCode,
    room::types::{RoomName, SocketRef},
    runtime::time::Time,
};

/// Something that has to be dealt with.
#[derive(Debug)]
pub enum In {
    /// A client wants something of a room.
    Request(RoomName, Request),
    /// What was asked under this number is answered, or it is not.
    Answered(u64, Option<PollAnswer>),
    /// There is a link to another node that knows shared polls.
    LinkUp(NodeId),
    /// There is none any more.
    LinkDown(NodeId),
    /// Another node says something.
    Peer(NodeId, PollMessage),
    /// The cluster is this now.
    View(View),
    /// Time has passed.
    Tick,
}

/// What a client wants of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// It comes. Answered by [`Reply::Entered`].
    Enter {
        /// The client.
        socket: SocketRef,
        /// The number of the command.
        id: u32,
    },
    /// It goes.
    Leave {
        /// The client.
        socket: SocketRef,
        /// The number of the command that is answered by [`Reply::Left`], if one is.
        id: Option<u32>,
    },
    /// It tracks keys. Answered by [`Reply::Tracked`].
    Track {
        /// The client.
        socket: SocketRef,
        /// The number of the command.
        id: u32,
        /// The keys.
        items: Vec<Track>,
        /// Those among them, or tracked before, that it does not want.
        untrack: Vec<Box<str>>,
        /// When the first of their signatures expires, in Unix time; goes into the answer.
        expires_at: Option<i64>,
    },
    /// It does not track keys any more. Answered by [`Reply::Untracked`].
    Untrack {
        /// The client.
        socket: SocketRef,
        /// The number of the command.
        id: u32,
        /// The keys.
        keys: Vec<Box<str>>,
    },
}

/// A key to be tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Track {
    /// The key.
    pub key: Box<str>,
    /// The version that the client has; 0: none.
    pub version: u64,
    /// Until when.
    pub expires_at: Option<Time>,
}

/// What a client is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is in the room, or is not. Versions that it has of another epoch than this mean nothing.
    Entered(Result<String, ErrorCode>),
    /// It is not any more.
    Left,
    /// It tracks the keys until then, in Unix time, or does not.
    Tracked(Result<Option<i64>, ErrorCode>),
    /// It does not track them any more.
    Untracked,
}

/// What is new about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUpdate {
    /// The key.
    pub key: Arc<str>,
    /// The version of the data.
    pub version: u64,
    /// The data.
    pub data: Bytes,
    /// There is none any more, and nobody tracks the key.
    pub removed: bool,
}

/// What has to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Out {
    /// Tell a client what became of its command.
    Reply {
        /// The client.
        socket: SocketRef,
        /// The room.
        room: RoomName,
        /// The number of the command.
        id: u32,
        /// What became of it.
        reply: Reply,
    },
    /// Ask the backend; the answer is [`In::Answered`] with the same number.
    Ask(u64, PollRequest),
    /// Say this to another node.
    Send(NodeId, PollMessage),
    /// Give these clients what is new about a key.
    Push {
        /// The room.
        room: RoomName,
        /// What is new.
        update: KeyUpdate,
        /// To whom.
        to: Vec<SocketRef>,
    },
    /// These clients are out of the room, and have to subscribe again.
    Outdated {
        /// The room.
        room: RoomName,
        /// The clients.
        sockets: Vec<SocketRef>,
    },
    /// A backend has said more about a key than a client could take.
    TooLarge {
        /// The room.
        room: RoomName,
        /// The key.
        key: Box<str>,
        /// How much, in bytes.
        size: usize,
    },
}

/// What is the same for all rooms.
#[derive(Debug, Clone)]
pub struct PollSettings {
    /// Which rooms' keys are polled, and how.
    pub namespaces: Arc<PolledNamespaces>,
    /// The most requests under way.
    pub concurrency: usize,
    /// The most bytes of one key's data.
    pub item_limit: usize,
    /// Makes the epochs of this process different from those of any other.
    pub seed: u64,
    /// This node; none: it is in no cluster.
    pub me: Option<NodeId>,
}

pub(super) struct Room {
    pub(super) channel: Channel,
    /// Tells it from one of the same name that was forgotten.
    number: u64,
    /// It is among those that wait.
    waits: bool,
    /// What it has among the timers.
    timer: Option<Time>,
}

struct Call {
    room: RoomName,
    number: u64,
    reason: Reason,
}

/// All rooms whose keys are polled.
pub struct State {
    pub(super) settings: PollSettings,
    pub(super) rooms: BTreeMap<RoomName, Room>,
    timers: BTreeSet<(Time, RoomName)>,
    calls: FxHashMap<u64, Call>,
    /// Rooms that have something to ask, in turn.
    waiting: VecDeque<RoomName>,
    last_call: u64,
    last_room: u64,
    pub(super) last_run: u64,
    keys: usize,
    pub(super) peers: Peers,
    /// Rooms of which another node may have to be told something.
    pub(super) told: BTreeSet<RoomName>,
}

impl State {
    /// Nobody is in any room.
    pub fn new(settings: PollSettings) -> Self {
        Self {
            peers: Peers::new(settings.me),
            settings,
            rooms: BTreeMap::new(),
            timers: BTreeSet::new(),
            calls: FxHashMap::default(),
            waiting: VecDeque::new(),
            last_call: 0,
            last_room: 0,
            last_run: 0,
            keys: 0,
            told: BTreeSet::new(),
        }
    }

    /// How many rooms there are, and how many keys are tracked in them.
    pub fn counts(&self) -> (usize, usize) {
        (self.rooms.len(), self.keys)
    }

    /// When [`In::Tick`] has something to do.
    pub fn due(&self) -> Option<Time> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, now: Time) -> Vec<Out> {
        let mut out = Vec::new();
        match input {
            In::Request(room, request) => self.request(&room, request, now, &mut out),
            In::Answered(call, answer) => self.answered(call, answer, now, &mut out),
            In::LinkUp(node) => {
                out.push(Out::Send(node, PollMessage::Ready));
            }
            In::LinkDown(node) => self.link_down(node, now, &mut out),
            In::Peer(node, message) => self.peer(node, message, now, &mut out),
            In::View(view) => {
                if self.peers.see(&view) {
                    self.turn_all(now, &mut out);
                }
            }
            In::Tick => self.tick(now, &mut out),
        }
        self.ask(now, &mut out);
        self.tell(&mut out);
        out
    }

    fn tick(&mut self, now: Time, out: &mut Vec<Out>) {
        while self.due().is_some_and(|at| at <= now)
            && let Some((_, room)) = self.timers.pop_first()
        {
            if let Some(it) = self.rooms.get_mut(&room) {
                it.timer = None;
            }
            self.turn(&room, now, out);
            self.with(&room, now, |channel| channel.expire(now));
        }
    }

    fn request(&mut self, room: &RoomName, request: Request, now: Time, out: &mut Vec<Out>) {
        let answer = |socket, id, reply| Out::Reply { socket, room: room.clone(), id, reply };
        match request {
            Request::Enter { socket, id } => {
                self.open(room, now, out);
                let epoch = self.with(room, now, |it| it.enter(socket).to_owned());
                let reply = Reply::Entered(epoch.ok_or(ErrorCode::NotAvailable));
                // The name that all clients share from here on.
                let known = self.rooms.get_key_value(room).map_or(room, |(name, _)| name);
                out.push(Out::Reply { socket, room: known.clone(), id, reply });
            }
            Request::Leave { socket, id } => {
                self.with(room, now, |it| it.leave(Who::Socket(socket), now));
                out.extend(id.map(|id| answer(socket, id, Reply::Left)));
            }
            Request::Track { socket, id, items, untrack, expires_at } => {
                let tracked = self.with(room, now, |it| it.track(socket, items, &untrack, now));
                let tracked = tracked.unwrap_or(Err(ErrorCode::PermissionDenied));
                let reply = Reply::Tracked(tracked.map(|()| expires_at));
                out.push(answer(socket, id, reply));
            }
            Request::Untrack { socket, id, keys } => {
                self.with(room, now, |it| it.untrack(Who::Socket(socket), &keys));
                out.push(answer(socket, id, Reply::Untracked));
            }
        }
    }

    /// Begins to know a room, if its keys are polled at all.
    pub(super) fn open(&mut self, room: &RoomName, now: Time, out: &mut Vec<Out>) {
        if self.rooms.contains_key(room) {
            return;
        }
        let Some(options) = self.settings.namespaces.of(room).cloned() else { return };
        self.last_room += 1;
        let number = self.last_room;
        let channel = Channel::new(options, epoch(self.settings.seed, number));
        self.rooms.insert(room.clone(), Room { channel, number, waits: false, timer: None });
        self.turn(room, now, out);
    }

    fn answered(&mut self, call: u64, answer: Option<PollAnswer>, now: Time, out: &mut Vec<Out>) {
        let Some(Call { room, number, reason }) = self.calls.remove(&call) else { return };
        if self.rooms.get(&room).is_none_or(|it| it.number != number) {
            return;
        }
        let limit = self.settings.item_limit;
        let news = self.with(&room, now, |it| it.answered(reason, answer, limit, now));
        self.pass_on(&room, news.unwrap_or_default(), out);
    }

    /// Does something with a room that is known, and notes what is to be done with it next.
    pub(super) fn with<T>(
        &mut self,
        name: &RoomName,
        now: Time,
        act: impl FnOnce(&mut Channel) -> T,
    ) -> Option<T> {
        let room = self.rooms.get_mut(name)?;
        let before = room.channel.keys();
        let done = act(&mut room.channel);
        if room.channel.source() != Source::Backend {
            self.told.insert(name.clone());
        }
        self.keys = (self.keys + room.channel.keys()).saturating_sub(before);
        self.settle(name, now);
        Some(done)
    }

    fn settle(&mut self, name: &RoomName, now: Time) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.channel.is_gone(now) {
            if let Some(at) = room.timer {
                self.timers.remove(&(at, name.clone()));
            }
            self.rooms.remove(name);
            return;
        }
        let asks_at = room.channel.asks_at();
        if asks_at.is_some_and(|at| at <= now) && !std::mem::replace(&mut room.waits, true) {
            self.waiting.push_back(name.clone());
        }
        let later = asks_at.filter(|at| *at > now);
        let timer = later.into_iter().chain(room.channel.due()).min();
        if timer != room.timer {
            if let Some(at) = room.timer {
                self.timers.remove(&(at, name.clone()));
            }
            self.timers.extend(timer.map(|at| (at, name.clone())));
            room.timer = timer;
        }
    }

    /// Asks what can be asked now.
    fn ask(&mut self, now: Time, out: &mut Vec<Out>) {
        while self.calls.len() < self.settings.concurrency
            && let Some(name) = self.waiting.pop_front()
        {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            room.waits = false;
            if let Some((reason, items)) = room.channel.next_batch(now) {
                let (number, to) = (room.number, room.channel.options().backend);
                self.last_call += 1;
                self.calls.insert(self.last_call, Call { room: name.clone(), number, reason });
                let request = PollRequest { to, room: Box::from(&*name), items };
                out.push(Out::Ask(self.last_call, request));
            }
            self.settle(&name, now);
        }
    }
}

/// Eight characters that are others for every room and process.
fn epoch(seed: u64, number: u64) -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";
    let mut hasher = SipHasher13::new_with_keys(seed, number);
    hasher.write_u64(number);
    let hash = hasher.finish();
    (0..8).map(|at| char::from(DIGITS[(hash >> (at * 5)) as usize % 32])).collect()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
