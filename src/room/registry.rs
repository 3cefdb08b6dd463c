//! All rooms of a node: the pure core that the registry actor drives.
//!
//! In: [`In`], with the time. Out: [`Out`]s. Every decision about rooms is made below this `handle`, and
//! nothing here reads a clock, a socket or a random number. Who is there and who owns which slot is in
//! [`super::routing`], what has to be done for many rooms in [`super::work`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use super::node::{Out, RoomSettings};
use super::{
    agenda::{Agenda, Fate},
    dormant::DormantRooms,
    groups::Groups,
    logged::{LogReply, LoggedRoom},
    messages::{Message, RoomMessage},
    node::Node,
    options::Namespaces,
    pace::Pace,
    recovery::Recovery,
    room::Room,
    rooms::Rooms,
    survey::Surveys,
    types::{Answer, Failure, NodeFacts, Request, RoomName, Survey},
    work::Work,
};
use crate::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        placement,
        view::View,
    },
    queue::name,
    runtime::time::Time,
};

/// How long the core goes without being told that time has passed.
pub const LULL: Duration = Duration::from_millis(500);
/// A node that was told nothing for so long, and so much longer than [`LULL`], stood still.
const STANDSTILL: Duration = Duration::from_secs(2);
/// The most publications that some group has not settled that one input passes over, where others are to be dropped.
const HELD: usize = 64;
/// Which share of [`Settings::slice`] is gone through with an input that is about something else.
const SHARE: usize = 32;

/// Something that the registry has to deal with.
#[derive(Debug, Clone)]
pub enum In {
    /// A socket or an API call asks something of a room.
    Request(RoomName, Request),
    /// An API call asks every node.
    Survey(u64, Survey),
    /// A peer says something.
    Peer(NodeId, Message),
    /// A link to a peer is up; nothing was sent on it yet.
    LinkUp(NodeId),
    /// The link to a peer is down; what was under way on it is lost.
    LinkDown(NodeId),
    /// Gossip has a new view.
    View(View),
    /// The log answers about a room.
    Log(RoomName, LogReply),
    /// What this node answers to `info`.
    Facts(NodeFacts),
    /// Time has passed.
    Tick,
}

/// The rooms of one node.
#[derive(Debug)]
pub struct State {
    pub(super) node: Node,
    pub(super) namespaces: Arc<Namespaces>,
    pub(super) rooms: Rooms,
    pub(super) dormant: DormantRooms,
    pub(super) agenda: Agenda,
    pub(super) surveys: Surveys,
    pub(super) facts: NodeFacts,
    /// When it was last told that time has passed.
    ticked: Time,
    /// The nodes that are or were in the view, as long as their links live.
    pub(super) known: BTreeMap<NodeId, NodeInfo>,
    /// How far the peers are, as they have said on their links.
    pub(super) phases: BTreeMap<NodeId, Phase>,
    /// When nodes whose links are down are to be given up, or waited for no longer.
    pub(super) route_at: Option<Time>,
    /// When slots that this node should have are to be claimed again.
    pub(super) claim_at: Option<Time>,
    /// Quorum: when owners are asked again.
    ask_at: Time,
    /// After a standstill: until when, and the nodes whose links should come back before.
    pub(super) awakening: Option<(Time, BTreeSet<NodeId>)>,
    pub(super) work: Work,
    /// How many rooms the input that is being handled may go through for what is left to be done.
    pub(super) slice: usize,
    /// How fast this node takes slots over from others.
    pub(super) pace: Pace,
    /// Quorum: what others have said of what this run may have forgotten.
    pub(super) recovery: Recovery,
}

impl State {
    /// A node that knows of no other. `seed` makes its epochs differ from all others.
    pub fn new(me: NodeId, namespaces: Arc<Namespaces>, settings: RoomSettings, seed: u64) -> Self {
        Self {
            node: Node::new(me, settings, seed),
            namespaces,
            rooms: Rooms::new(seed),
            dormant: DormantRooms::new(seed),
            agenda: Agenda::default(),
            surveys: Surveys::default(),
            facts: NodeFacts::default(),
            ticked: Time::default(),
            known: BTreeMap::new(),
            phases: BTreeMap::new(),
            route_at: None,
            claim_at: None,
            ask_at: Time::default(),
            awakening: None,
            work: Work::default(),
            slice: 0,
            pace: Pace::default(),
            recovery: Recovery::default(),
        }
    }

    /// This node's log has lost what may have been the end of any room that was found in it.
    pub fn has_lost_from_log(&mut self) {
        self.node.lost_from_log = true;
    }

    /// Takes in a room that was found in this node's log, before any input. What it has may be newer than what others
    /// have, so it is kept until they say that it is not needed. Returns whether rooms of its namespace are on disk.
    pub fn find_in_log(&mut self, found: LoggedRoom, now: Time) -> bool {
        let Some(options) = self.namespaces.options(&found.name) else { return false };
        if !options.is_on_disk() {
            return false;
        }
        self.node.now = now;
        if !options.is_made_of_changes() {
            let keep = options.history_meta_ttl;
            return self.find_dormant(found, keep);
        }
        let (name, options) = (found.name.clone(), options.clone());
        let Self { rooms, node, agenda, .. } = self;
        let room = rooms.get_or_insert(&name, || Some(Room::new(found.name.clone(), options, now)));
        let Some(room) = room else { return false };
        room.found_in_log(found, node);
        node.groups.note(room);
        agenda.note(room, node);
        true
    }

    /// New rooms are of these namespaces. Those that are there stay as they are.
    pub fn set_namespaces(&mut self, namespaces: Arc<Namespaces>) {
        self.namespaces = namespaces;
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, now: Time) -> Vec<Out> {
        let stood_still =
            self.node.now != Time::default() && now.since(self.node.now) >= STANDSTILL;
        self.node.now = now;
        // What others wait for should not wait for a slice with every input that comes before it.
        self.slice = match &input {
            In::Tick => self.node.settings.slice,
            _ => self.node.settings.slice.div_ceil(SHARE),
        };
        if stood_still {
            self.awake();
        }
        match input {
            In::Request(room, request) => self.request(&room, request),
            In::Survey(to, survey) => self.survey(to, survey),
            In::Peer(from, message) => self.peer(from, message),
            In::LinkUp(peer) => self.link_up(peer),
            In::LinkDown(peer) => {
                self.link_down(peer);
                self.close_surveys();
            }
            In::View(view) => self.see(view),
            In::Log(name, reply) => {
                self.with_woken(&name, |room, node| room.log_answered(reply, node));
            }
            In::Facts(facts) => self.facts = facts,
            In::Tick => self.tick(),
        }
        self.settle_groups();
        self.do_some_work();
        self.settle_groups();
        self.enforce_memory();
        std::mem::take(&mut self.node.out)
    }

    /// When it has to be told that time has passed: at once while there is work left, so that other inputs come
    /// in between.
    pub fn next_due(&self) -> Time {
        if self.has_work() {
            return self.node.now;
        }
        let room = self.agenda.next_due().into_iter().chain(self.dormant.next_due());
        let due = room.chain(self.surveys.next_due());
        let due = due.chain(self.route_at).chain(self.claim_at);
        due.fold(self.ticked + LULL, Time::min)
    }

    /// When it was last told so.
    pub fn ticked(&self) -> Time {
        self.ticked
    }

    /// Whether a room is out of memory.
    pub fn is_dormant(&self, name: &str) -> bool {
        self.dormant.contains(placement::slot(name), name)
    }

    /// How many rooms on disk are out of memory.
    pub fn dormant_rooms(&self) -> usize {
        self.dormant.len()
    }

    /// How many rooms are in memory.
    pub fn rooms_in_memory(&self) -> usize {
        self.rooms.len()
    }

    /// A room, if it is in memory.
    pub fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.get(name)
    }

    /// The names of the nodes that are here, this one included.
    pub fn companions(&self) -> BTreeSet<String> {
        let here = |id: &NodeId| *id == self.node.me || self.node.reaches(*id);
        self.known.iter().filter(|(id, _)| here(id)).map(|(_, it)| it.name.clone()).collect()
    }

    /// How many rooms this node has anything to do with.
    pub fn rooms(&self) -> usize {
        self.rooms.len() + self.dormant.len()
    }

    /// The nodes that rooms are routed to.
    pub fn routable(&self) -> &BTreeSet<NodeId> {
        &self.node.routable
    }

    /// The groups of consumers that this node has anything to do with.
    pub fn groups(&self) -> &Groups {
        &self.node.groups
    }

    /// Subscriptions of this node's clients.
    pub fn subscriptions(&self) -> usize {
        self.node.subscriptions
    }

    /// Rooms that would lose something if the node left now, or a copy, because no other has it yet. Not 0 either
    /// while rooms may come: of a claim that is under way, or in a slot that another has yet to claim.
    pub fn to_be_taken(&self) -> usize {
        let Node { me, slots, placement, .. } = &self.node;
        let to_be_claimed =
            |slot| placement.home(slot).is_some_and(|home| home != *me && self.node.reaches(home));
        let more = slots.is_claiming() || slots.owned().into_iter().any(to_be_claimed);
        (self.agenda.to_be_taken + self.dormant.len()).max(usize::from(more))
    }

    /// Rooms at home here whose acknowledgements do without a successor that is too slow.
    pub fn rooms_behind(&self) -> usize {
        self.agenda.behind
    }

    /// Bytes of history kept.
    pub fn history_bytes(&self) -> usize {
        self.node.memory.bytes()
    }

    pub(super) fn request(&mut self, name: &RoomName, request: Request) {
        if self.namespaces.options(name).is_none() {
            return self.refuse(name, request, Failure::UnknownNamespace);
        }
        if self.has_too_many_groups(name) {
            return self.refuse(name, request, Failure::LimitExceeded);
        }
        self.in_room(name, |room, node| room.request(request, node));
    }

    /// Whether this would be one group more than a room may have.
    fn has_too_many_groups(&self, name: &str) -> bool {
        let (room, Some(_)) = name::split(name) else { return false };
        let options = self.namespaces.options(name).and_then(|it| it.group.as_ref());
        options.is_some_and(|it| {
            self.node.groups.of_room(room) >= it.max_groups && self.rooms.get(name).is_none()
        })
    }

    /// It can't be asked of the room. Sessions check before they ask; API calls come here.
    fn refuse(&mut self, room: &RoomName, request: Request, error: Failure) {
        let out = match request {
            Request::Subscribe(it) => Out::Subscribed {
                socket: it.socket,
                id: it.id,
                room: room.clone(),
                flags: it.flags,
                delivery: it.delivery,
                result: Err(error),
            },
            Request::Unsubscribe { socket, reply, .. } => {
                Out::Unsubscribed { socket, reply, room: room.clone() }
            }
            Request::Publish(_, to)
            | Request::Query(_, to)
            | Request::Group(_, to)
            | Request::Map(_, to) => Out::Answer { to, answer: Answer::Failed(error) },
        };
        self.node.out.push(out);
    }

    fn peer(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Room(name, message) if self.namespaces.options(&name).is_none() => {
                self.refuse_peer(from, name, message, Failure::UnknownNamespace);
            }
            Message::Room(name, message) if self.has_too_many_groups(&name) => {
                self.refuse_peer(from, name, message, Failure::LimitExceeded);
            }
            Message::Room(name, message) => {
                self.in_room(&name, |room, node| room.message(from, message, node));
            }
            Message::Slots(message) => self.about_slots(from, message),
            Message::Phase(phase) => self.phase_of(from, phase),
            Message::YourPhase(phase) => self.phase_of(self.node.me, phase),
            Message::Credit(bytes) => {
                self.node.flows.entry(from).or_default().credit(bytes as usize);
            }
            Message::Settled(claim) => self.node.has_settled(from, claim),
            Message::Ping(id) => {
                self.node.out.push(Out::Send { to: vec![from], message: Message::Pong(id) });
            }
            Message::Pong(id) => self.node.moves.answered(from, id, self.node.now),
            Message::Survey(id, survey) => self.find(from, id, &survey),
            Message::Finding(id, finding) => self.finding_came(from, id, finding, true),
            Message::FindingPart(id, finding) => self.finding_came(from, id, finding, false),
        }
    }

    /// A peer asks something that can't be asked of the room: this node's configuration has not its namespace, say.
    fn refuse_peer(&mut self, from: NodeId, name: RoomName, message: RoomMessage, why: Failure) {
        if let RoomMessage::Request { id, .. } = message {
            let answer = Answer::Failed(why);
            self.node.send_to(vec![from], &name, RoomMessage::Answer { id, answer });
        }
    }

    /// Does something with a room, which may be new. Returns whether it can be: its namespace is configured.
    pub(super) fn in_room(
        &mut self,
        name: &RoomName,
        action: impl FnOnce(&mut Room, &mut Node),
    ) -> bool {
        self.wake(name);
        let Self { rooms, node, namespaces, agenda, .. } = self;
        let room = rooms.get_or_insert(name, || {
            Some(Room::new(name.clone(), namespaces.options(name)?.clone(), node.now))
        });
        let Some(room) = room else { return false };
        action(room, node);
        node.groups.note(room);
        let fate = agenda.note(room, node);
        self.leave(name, fate);
        true
    }

    /// The same with a room that is known.
    pub(super) fn with_room<T>(
        &mut self,
        name: &RoomName,
        action: impl FnOnce(&mut Room, &mut Node) -> T,
    ) -> Option<T> {
        let Self { rooms, node, agenda, .. } = self;
        let room = rooms.get_mut(name)?;
        let done = action(room, node);
        node.groups.note(room);
        let fate = agenda.note(room, node);
        self.leave(name, fate);
        Some(done)
    }

    /// Nothing more is to be done with a room now.
    fn leave(&mut self, name: &RoomName, fate: Fate) {
        match fate {
            Fate::Stays => {}
            Fate::Sleeps => self.put_to_sleep(name),
            Fate::Over => self.forget(name),
        }
    }

    fn forget(&mut self, name: &RoomName) {
        if let Some(mut room) = self.rooms.remove(name) {
            self.agenda.forget(&room, &mut self.node);
            self.node.groups.forget(name);
            room.end(&mut self.node);
        }
    }

    /// Settles rooms that are due, up to as many as one input may go through.
    fn tick(&mut self) {
        let now = self.node.now;
        self.ticked = now;
        for _ in 0..self.node.settings.slice {
            let Some(name) = self.agenda.pop_due(now) else { break };
            self.with_room(&name, |room, node| {
                room.due = None;
                room.settle(node);
            });
            if let Some(room) = self.rooms.get_mut(&name) {
                self.agenda.not_before(room, now);
            }
        }
        self.look_for_old_rooms();
        if self.route_at.is_some_and(|at| at <= now) {
            self.route();
        }
        if self.claim_at.is_some_and(|at| at <= now) {
            self.claim_slots();
        }
        if self.node.is_quorum() && self.ask_at <= now {
            self.ask_at = now + LULL;
            self.ask_owners();
            self.look_at_own_slots();
        }
        self.close_surveys();
    }

    /// Forgets the rooms that were not used for the longest, and drops the oldest publications, while the node
    /// has more of them than it may.
    fn enforce_memory(&mut self) {
        while self.rooms.len() > self.node.settings.room_limit {
            let Some(name) = self.agenda.longest_idle() else { break };
            self.forget(&name);
        }
        while let Some(name) = self.node.memory.too_many_keys(self.node.now) {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.forget_oldest_key();
            }
        }
        let Node { memory, groups, settings, .. } = &mut self.node;
        let mut held = Vec::new();
        while memory.bytes() > settings.history_bytes && held.len() < HELD {
            let Some((name, offset)) = memory.pop_oldest() else { break };
            if groups.floor(&name).is_some_and(|floor| offset > floor) {
                held.push((name, offset));
                continue;
            }
            if let Some(stream) = self.rooms.get_mut(&name).and_then(|room| room.stream.as_mut()) {
                memory.add(-stream.history.drop_through(offset));
            }
        }
        held.into_iter().for_each(|(name, offset)| memory.kept(&name, offset, 0));
        let rooms = &self.rooms;
        memory.sift(|name, offset| {
            let stream = rooms.get(name).and_then(|room| room.stream());
            stream.is_some_and(|stream| offset >= stream.history.first())
        });
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
