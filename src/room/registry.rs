//! All rooms of a node: the pure core that the registry actor drives.
//!
//! In: [`In`], with the time. Out: [`Out`]s. Every decision about rooms is made below this `handle`, and
//! nothing here reads a clock, a socket or a random number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rustc_hash::FxHashMap;

pub use super::node::{Out, Settings};
use super::{
    node::{LinkState, Node},
    options::Namespaces,
    room::Room,
    types::{Answer, Finding, Findings, NodeFacts, Request, RoomName, Survey},
};
use crate::{
    cluster::{node::NodeId, placement::Placement, view::View},
    mesh::wire::{Message, RoomMessage},
    pattern,
    protocol::codes::ErrorCode,
    time::Time,
};

/// How long the nodes have to answer a survey.
const SURVEY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

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
    /// What this node answers to `info`.
    Facts(NodeFacts),
    /// Time has passed.
    Tick,
}

/// A survey under way.
#[derive(Debug)]
struct Asked {
    to: u64,
    waiting: BTreeSet<NodeId>,
    found: Vec<(NodeId, Finding)>,
    deadline: Time,
}

/// The rooms of one node.
#[derive(Debug)]
pub struct State {
    node: Node,
    namespaces: Arc<Namespaces>,
    rooms: FxHashMap<RoomName, Room>,
    /// Which room is due when, as said by [`Room::next_due`] when it was last asked.
    agenda: BTreeSet<(Time, RoomName)>,
    surveys: BTreeMap<u64, Asked>,
    facts: NodeFacts,
}

impl State {
    /// A node that knows of no other. `seed` makes its epochs differ from all others.
    pub fn new(me: NodeId, namespaces: Arc<Namespaces>, settings: Settings, seed: u64) -> Self {
        Self {
            node: Node::new(me, settings, seed),
            namespaces,
            rooms: FxHashMap::default(),
            agenda: BTreeSet::new(),
            surveys: BTreeMap::new(),
            facts: NodeFacts::default(),
        }
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, now: Time) -> Vec<Out> {
        self.node.now = now;
        match input {
            In::Request(room, request) => self.request(&room, request),
            In::Survey(to, survey) => self.survey(to, survey),
            In::Peer(from, message) => self.peer(from, message),
            In::LinkUp(peer) => {
                self.node.links.insert(peer, LinkState::Up);
                self.route();
                self.settle_all();
            }
            In::LinkDown(peer) => self.link_down(peer),
            In::View(view) => self.see(view),
            In::Facts(facts) => self.facts = facts,
            In::Tick => self.tick(),
        }
        self.enforce_memory();
        std::mem::take(&mut self.node.out)
    }

    /// A room, if this node has anything to do with it.
    pub fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.get(name)
    }

    /// How many rooms this node has anything to do with.
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// The nodes that rooms are routed to.
    pub fn routable(&self) -> &BTreeSet<NodeId> {
        &self.node.routable
    }

    /// Subscriptions of this node's clients.
    pub fn subscriptions(&self) -> usize {
        self.rooms.values().map(|room| room.local().len()).sum()
    }

    /// Bytes of history kept.
    pub fn history_bytes(&self) -> usize {
        self.node.memory.bytes()
    }

    /// A node that is new in the view has the same grace to get its link as one whose link broke: else a
    /// node that has just started would think itself alone, and home to every room.
    fn see(&mut self, view: View) {
        let (links, now) = (&mut self.node.links, self.node.now);
        links.retain(|peer, link| *link == LinkState::Up || view.contains(*peer));
        for peer in view.nodes().keys().filter(|peer| **peer != self.node.me) {
            links.entry(*peer).or_insert(LinkState::Down(now));
        }
        self.node.view = view;
        self.route();
    }

    fn request(&mut self, name: &RoomName, request: Request) {
        match self.enter(name) {
            Some((room, node)) => room.request(request, node),
            None => self.refuse(name, request),
        }
        self.leave(name);
    }

    /// The namespace is not configured. Sessions check before they ask; API calls come here.
    fn refuse(&mut self, room: &RoomName, request: Request) {
        let error = ErrorCode::UnknownChannel;
        let out = match request {
            Request::Subscribe(it) => Out::Subscribed {
                socket: it.socket,
                id: it.id,
                room: room.clone(),
                flags: it.flags,
                result: Err(error),
            },
            Request::Unsubscribe { socket, reply, .. } => {
                Out::Unsubscribed { socket, reply, room: room.clone() }
            }
            Request::Publish(_, to) | Request::Query(_, to) => {
                Out::Answer { to, answer: Answer::Failed(error) }
            }
        };
        self.node.out.push(out);
    }

    fn peer(&mut self, from: NodeId, message: Message) {
        match message {
            Message::Room(name, message) => match self.enter(&name) {
                Some((room, node)) => {
                    room.message(from, message, node);
                    self.leave(&name);
                }
                None => self.refuse_peer(from, name, message),
            },
            Message::Survey(id, survey) => {
                let finding = self.find(&survey);
                self.node
                    .out
                    .push(Out::Send { to: vec![from], message: Message::Finding(id, finding) });
            }
            Message::Finding(id, finding) => {
                if let Some(asked) = self.surveys.get_mut(&id)
                    && asked.waiting.remove(&from)
                {
                    asked.found.push((from, finding));
                }
                self.close_surveys();
            }
            Message::Hello(_) | Message::Ping | Message::Pong => {}
        }
    }

    /// A peer whose configuration has a namespace that this node's has not.
    fn refuse_peer(&mut self, from: NodeId, name: RoomName, message: RoomMessage) {
        if let RoomMessage::Publish { id, .. } | RoomMessage::Query { id, .. } = message {
            let answer = Answer::Failed(ErrorCode::UnknownChannel);
            let message = Message::Room(name, RoomMessage::Answer { id, answer });
            self.node.out.push(Out::Send { to: vec![from], message });
        }
    }

    fn enter(&mut self, name: &RoomName) -> Option<(&mut Room, &mut Node)> {
        if !self.rooms.contains_key(name) {
            let options = self.namespaces.options(name)?.clone();
            let room = Room::new(name.clone(), options, self.node.now);
            self.rooms.insert(name.clone(), room);
        }
        Some((self.rooms.get_mut(name)?, &mut self.node))
    }

    /// Puts the room on the agenda, or forgets it if it is over.
    fn leave(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.is_over(self.node.now) {
            if let Some(due) = room.due {
                self.agenda.remove(&(due, name.clone()));
            }
            if let Some(room) = self.rooms.remove(name) {
                let bytes = room.stream().map_or(0, |stream| stream.history.bytes());
                self.node.memory.add(-(bytes as isize));
            }
            return;
        }
        // A room may come up earlier than needed, so only an earlier time has to be noted.
        if let Some(next) = room.next_due()
            && room.due.is_none_or(|due| next < due)
        {
            let name = name.clone();
            if let Some(due) = room.due.replace(next) {
                self.agenda.remove(&(due, name.clone()));
            }
            self.agenda.insert((next, name));
        }
    }

    fn tick(&mut self) {
        let now = self.node.now;
        while let Some((due, _)) = self.agenda.first()
            && *due <= now
        {
            let Some((_, name)) = self.agenda.pop_first() else { break };
            if let Some(room) = self.rooms.get_mut(&name) {
                room.due = None;
                room.settle(&mut self.node);
                // What is due now and still is after settling would come up for ever.
                self.leave_until(&name, now);
            }
        }
        self.route();
        self.close_surveys();
    }

    fn leave_until(&mut self, name: &RoomName, now: Time) {
        self.leave(name);
        if let Some(room) = self.rooms.get_mut(name)
            && let Some(due) = room.due
            && due <= now
        {
            self.agenda.remove(&(due, name.clone()));
            let later = now + std::time::Duration::from_millis(50);
            room.due = Some(later);
            self.agenda.insert((later, name.clone()));
        }
    }

    fn link_down(&mut self, peer: NodeId) {
        self.node.links.insert(peer, LinkState::Down(self.node.now));
        let names: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for name in names {
            if let Some((room, node)) = self.enter(&name) {
                room.link_down(peer, node);
            }
            self.leave(&name);
        }
        for asked in self.surveys.values_mut() {
            asked.waiting.remove(&peer);
        }
        self.close_surveys();
    }

    /// Rooms go to nodes in the view that have a link, or had one until just now: a closed link makes a
    /// peer suspect long before gossip declares it dead.
    fn route(&mut self) {
        let node = &self.node;
        let reachable = |peer: NodeId| match node.links.get(&peer) {
            Some(LinkState::Up) => true,
            Some(LinkState::Down(since)) => node.now.since(*since) < node.settings.link_grace,
            None => peer == node.me,
        };
        let here = node.view.nodes().iter().filter(|(id, _)| reachable(**id));
        let routable: BTreeSet<NodeId> = here.clone().map(|(id, _)| *id).collect();
        if routable == self.node.routable {
            return;
        }
        let view = View::new(here.map(|(_, info)| info.clone()));
        self.node.placement = Placement::new(&view);
        self.node.routable = routable;
        self.for_all(Room::view_changed);
    }

    fn settle_all(&mut self) {
        self.for_all(Room::settle);
    }

    fn for_all(&mut self, action: fn(&mut Room, &mut Node)) {
        let names: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for name in names {
            if let Some((room, node)) = self.enter(&name) {
                action(room, node);
            }
            self.leave(&name);
        }
    }

    fn survey(&mut self, to: u64, survey: Survey) {
        let me = self.node.me;
        let found = vec![(me, self.find(&survey))];
        let peers: Vec<NodeId> =
            self.node.peers().filter(|peer| self.node.reaches(*peer)).collect();
        let id = self.node.next_id();
        let deadline = self.node.now + SURVEY_TIMEOUT;
        let waiting = peers.iter().copied().collect();
        self.surveys.insert(id, Asked { to, waiting, found, deadline });
        if !peers.is_empty() {
            self.node.out.push(Out::Send { to: peers, message: Message::Survey(id, survey) });
        }
        self.close_surveys();
    }

    fn find(&self, survey: &Survey) -> Finding {
        let occupied = || self.rooms.iter().filter(|(_, room)| !room.local().is_empty());
        match survey {
            Survey::Info => Finding::Info(NodeFacts {
                num_subs: occupied().map(|(_, room)| room.local().len() as u32).sum(),
                num_channels: occupied().count() as u32,
                ..self.facts.clone()
            }),
            Survey::Channels(pattern) => Finding::Channels(
                occupied()
                    .filter(|(name, _)| pattern::matches(pattern, name))
                    .map(|(name, room)| (name.clone(), room.local().len() as u32))
                    .collect(),
            ),
        }
    }

    fn close_surveys(&mut self) {
        let now = self.node.now;
        let over: Vec<u64> = (self.surveys.iter())
            .filter(|(_, asked)| asked.waiting.is_empty() || asked.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        for asked in over.into_iter().filter_map(|id| self.surveys.remove(&id)) {
            let findings =
                Findings { found: asked.found, missing: asked.waiting.into_iter().collect() };
            self.node.out.push(Out::Findings { to: asked.to, findings });
        }
    }

    /// Drops the node's oldest publications while it keeps more than it may.
    fn enforce_memory(&mut self) {
        let memory = &mut self.node.memory;
        while memory.bytes() > self.node.settings.history_bytes {
            let Some((name, offset)) = memory.by_age.pop_front() else { break };
            if let Some(stream) = self.rooms.get_mut(&name).and_then(|room| room.stream.as_mut()) {
                memory.add(-stream.history.drop_through(offset));
            }
        }
        if memory.by_age.len() > memory.compact_at {
            let rooms = &self.rooms;
            memory.by_age.retain(|(name, offset)| {
                let stream = rooms.get(name).and_then(Room::stream);
                stream.is_some_and(|stream| *offset >= stream.history.first())
            });
            memory.compact_at = memory.by_age.len() * 2 + 1024;
        }
    }
}
