//! All rooms of a node: the pure core that the registry actor drives.
//!
//! In: [`In`], with the time. Out: [`Out`]s. Every decision about rooms is made below this `handle`, and
//! nothing here reads a clock, a socket or a random number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxHashMap;

pub use super::node::{Out, Settings};
use super::{
    node::{LinkState, Node},
    options::Namespaces,
    pattern,
    room::Room,
    survey::Surveys,
    types::{Answer, Finding, NodeFacts, Request, RoomName, Survey},
};
use crate::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        placement::Placement,
        view::View,
    },
    mesh::wire::{Message, RoomMessage},
    protocol::codes::ErrorCode,
    runtime::time::Time,
};

/// How long the core goes without being told that time has passed.
pub const LULL: Duration = Duration::from_millis(500);
/// A node that was told nothing for so long, and so much longer than [`LULL`], stood still.
const STANDSTILL: Duration = Duration::from_secs(2);
/// How long a node that stood still waits for the others before it goes on as home.
const AWAKENING: Duration = Duration::from_secs(2);
/// A room that is due and still is after settling comes up again after this.
const NOT_YET: Duration = Duration::from_millis(50);

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

/// The rooms of one node.
#[derive(Debug)]
pub struct State {
    node: Node,
    namespaces: Arc<Namespaces>,
    /// Boxed, so that a table that has just grown is not mostly empty rooms.
    rooms: FxHashMap<RoomName, Box<Room>>,
    /// Which room is due when, as said by [`Room::next_due`] when it was last asked.
    agenda: BTreeSet<(Time, RoomName)>,
    /// The rooms that nobody uses, by when they were used last.
    idle: BTreeSet<(Time, RoomName)>,
    surveys: Surveys,
    facts: NodeFacts,
    /// When it was last told that time has passed.
    ticked: Time,
    /// The nodes that are or were in the view, as long as their links live.
    known: BTreeMap<NodeId, NodeInfo>,
    /// When nodes whose links are down are to be given up, or waited for no longer.
    route_at: Option<Time>,
    /// After a standstill: until when, and the nodes whose links should come back before.
    awakening: Option<(Time, BTreeSet<NodeId>)>,
}

impl State {
    /// A node that knows of no other. `seed` makes its epochs differ from all others.
    pub fn new(me: NodeId, namespaces: Arc<Namespaces>, settings: Settings, seed: u64) -> Self {
        Self {
            node: Node::new(me, settings, seed),
            namespaces,
            rooms: FxHashMap::default(),
            agenda: BTreeSet::new(),
            idle: BTreeSet::new(),
            surveys: Surveys::default(),
            facts: NodeFacts::default(),
            ticked: Time::default(),
            known: BTreeMap::new(),
            route_at: None,
            awakening: None,
        }
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, now: Time) -> Vec<Out> {
        let stood_still =
            self.node.now != Time::default() && now.since(self.node.now) >= STANDSTILL;
        self.node.now = now;
        if stood_still {
            self.awake();
        }
        match input {
            In::Request(room, request) => self.request(&room, request),
            In::Survey(to, survey) => self.survey(to, survey),
            In::Peer(from, message) => self.peer(from, message),
            In::LinkUp(peer) => self.link_up(peer),
            In::LinkDown(peer) => self.link_down(peer),
            In::View(view) => self.see(view),
            In::Facts(facts) => self.facts = facts,
            In::Tick => self.tick(),
        }
        for name in std::mem::take(&mut self.node.fetches.next) {
            self.with_room(&name, Room::settle);
        }
        self.enforce_memory();
        std::mem::take(&mut self.node.out)
    }

    /// When it has to be told that time has passed.
    pub fn next_due(&self) -> Time {
        let room = self.agenda.first().map(|(due, _)| *due);
        let due = room.into_iter().chain(self.surveys.next_due()).chain(self.route_at);
        due.fold(self.ticked + LULL, Time::min)
    }

    /// When it was last told so.
    pub fn ticked(&self) -> Time {
        self.ticked
    }

    /// A room, if this node has anything to do with it.
    pub fn room(&self, name: &str) -> Option<&Room> {
        self.rooms.get(name).map(Box::as_ref)
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
        self.node.subscriptions
    }

    /// Rooms that would lose something if the node left now, because no other has taken them over yet.
    pub fn to_be_taken(&self) -> usize {
        self.rooms.values().filter(|room| room.is_to_be_taken()).count()
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
        self.known.extend(view.nodes().iter().map(|(id, info)| (*id, info.clone())));
        self.node.view = view;
        self.route();
    }

    /// The nodes that gossip sees, and those whose links live: a link has a heartbeat of its own, so gossip
    /// that does not come through ends nothing.
    fn alive(&mut self) -> View {
        let node = &self.node;
        self.known.retain(|id, _| node.view.contains(*id) || node.reaches(*id));
        View::new(self.known.values().cloned())
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
                wish: it.wish,
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
                self.surveys.answered(id, from, finding);
                self.close_surveys();
            }
            Message::Hello(_) | Message::Alive | Message::Emulation(..) => {}
        }
    }

    /// A peer whose configuration has a namespace that this node's has not.
    fn refuse_peer(&mut self, from: NodeId, name: RoomName, message: RoomMessage) {
        if let RoomMessage::Request { id, .. } = message {
            let answer = Answer::Failed(ErrorCode::UnknownChannel);
            let message = Message::Room(name, RoomMessage::Answer { id, answer });
            self.node.out.push(Out::Send { to: vec![from], message });
        }
    }

    fn enter(&mut self, name: &RoomName) -> Option<(&mut Room, &mut Node)> {
        if !self.rooms.contains_key(name) {
            let options = self.namespaces.options(name)?.clone();
            let room = Room::new(name.clone(), options, self.node.now);
            self.rooms.insert(name.clone(), Box::new(room));
        }
        Some((self.rooms.get_mut(name)?, &mut self.node))
    }

    /// Puts the room on the agenda, or forgets it if it is over.
    fn leave(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if room.is_over(self.node.now) {
            return self.forget(name);
        }
        let idle = room.idle_since();
        if idle != room.noted_idle {
            if let Some(since) = std::mem::replace(&mut room.noted_idle, idle) {
                self.idle.remove(&(since, name.clone()));
            }
            self.idle.extend(idle.map(|since| (since, name.clone())));
        }
        // A room may come up earlier than needed, so only an earlier time has to be noted.
        if let Some(next) = room.next_due(&self.node)
            && room.due.is_none_or(|due| next < due)
        {
            let name = name.clone();
            if let Some(due) = room.due.replace(next) {
                self.agenda.remove(&(due, name.clone()));
            }
            self.agenda.insert((next, name));
        }
    }

    fn forget(&mut self, name: &RoomName) {
        let Some(mut room) = self.rooms.remove(name) else { return };
        if let Some(due) = room.due {
            self.agenda.remove(&(due, name.clone()));
        }
        if let Some(since) = room.noted_idle {
            self.idle.remove(&(since, name.clone()));
        }
        room.end(&mut self.node);
    }

    fn tick(&mut self) {
        let now = self.node.now;
        self.ticked = now;
        while let Some((due, _)) = self.agenda.first()
            && *due <= now
        {
            let Some((_, name)) = self.agenda.pop_first() else { break };
            if let Some(room) = self.rooms.get_mut(&name) {
                room.due = None;
                room.settle(&mut self.node);
                self.leave_until(&name, now);
            }
        }
        if self.route_at.is_some_and(|at| at <= now) {
            self.route();
        }
        self.close_surveys();
    }

    fn leave_until(&mut self, name: &RoomName, now: Time) {
        self.leave(name);
        if let Some(room) = self.rooms.get_mut(name)
            && let Some(due) = room.due
            && due <= now
        {
            self.agenda.remove(&(due, name.clone()));
            let later = now + NOT_YET;
            room.due = Some(later);
            self.agenda.insert((later, name.clone()));
        }
    }

    fn link_up(&mut self, peer: NodeId) {
        self.node.links.insert(peer, LinkState::Up);
        if let Some((_, expected)) = &mut self.awakening {
            expected.remove(&peer);
        }
        self.route();
        self.for_all(Room::settle);
    }

    fn link_down(&mut self, peer: NodeId) {
        self.node.links.insert(peer, LinkState::Down(self.node.now));
        self.for_all(|room, node| room.link_down(peer, node));
        self.route();
        self.close_surveys();
    }

    /// The process stood still (stopped, suspended, or starved): others may have taken its rooms over, so
    /// it is home to none until it has heard of them again, or nobody has come.
    fn awake(&mut self) {
        let others = self.node.peers();
        if others.is_empty() {
            return;
        }
        let until = self.node.now + AWAKENING;
        self.awakening = Some((until, others));
        self.route_at = Some(until);
        self.node.placement = Placement::default();
        self.for_all(Room::stop_being_home);
    }

    /// Rooms go to nodes in the view that have a link, or had one until just now: a closed link makes a
    /// peer suspect long before gossip declares it dead.
    fn route(&mut self) {
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
        let node = &self.node;
        let grace = |since: &Time| *since + node.settings.link_grace;
        let reachable = |peer: NodeId| match node.links.get(&peer) {
            Some(LinkState::Up) => true,
            Some(LinkState::Down(since)) => node.now < grace(since),
            None => peer == node.me,
        };
        let graces = node.links.values().filter_map(|link| match link {
            LinkState::Up => None,
            LinkState::Down(since) => Some(grace(since)).filter(|until| node.now < *until),
        });
        self.route_at = graces.min();
        let here = alive.nodes().iter().filter(|(id, _)| reachable(**id));
        let routable: BTreeSet<NodeId> = here.clone().map(|(id, _)| *id).collect();
        // Those that are leaving take rooms only if there is no one else.
        let placed = [Phase::Ready, Phase::Draining].into_iter().map(|phase| {
            here.clone().map(|(_, info)| info).filter(move |it| it.phase == phase).collect()
        });
        let placed: Vec<_> =
            placed.into_iter().find(|it: &Vec<_>| !it.is_empty()).unwrap_or_default();
        let ids: BTreeSet<NodeId> = placed.iter().map(|info| info.id()).collect();
        if routable == node.routable && ids == node.placed {
            return;
        }
        let gone: Vec<NodeId> = node.routable.difference(&routable).copied().collect();
        if ids != node.placed {
            self.node.placement = Placement::new(placed, node.settings.replicas);
        }
        self.node.routable = routable;
        self.node.placed = ids;
        self.for_all(|room, node| {
            gone.iter().for_each(|peer| room.unroutable(*peer, node));
            room.view_changed(node);
        });
    }

    fn for_all(&mut self, action: impl Fn(&mut Room, &mut Node)) {
        let names: Vec<RoomName> = self.rooms.keys().cloned().collect();
        for name in names {
            self.with_room(&name, &action);
        }
    }

    fn with_room(&mut self, name: &RoomName, action: impl Fn(&mut Room, &mut Node)) {
        if let Some(room) = self.rooms.get_mut(name) {
            action(room, &mut self.node);
            self.leave(name);
        }
    }

    fn survey(&mut self, to: u64, survey: Survey) {
        let me = self.node.me;
        let found = vec![(me, self.find(&survey))];
        // Whoever can't be asked is missing from the answer, and that is said.
        let waiting: BTreeSet<NodeId> = self
            .node
            .view
            .nodes()
            .keys()
            .copied()
            .chain(self.node.peers())
            .filter(|node| *node != me)
            .collect();
        let peers: Vec<NodeId> =
            waiting.iter().copied().filter(|it| self.node.reaches(*it)).collect();
        let id = self.node.next_id();
        self.surveys.begin(id, to, found, waiting, self.node.now);
        if !peers.is_empty() {
            self.node.out.push(Out::Send { to: peers, message: Message::Survey(id, survey) });
        }
        self.close_surveys();
    }

    fn find(&mut self, survey: &Survey) -> Finding {
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
            Survey::Control(control) => {
                self.node.out.push(Out::Control(Arc::new(control.clone())));
                Finding::Controlled
            }
        }
    }

    fn close_surveys(&mut self) {
        let node = &self.node;
        for (to, findings) in self.surveys.over(node.now, |peer| node.reaches(peer)) {
            self.node.out.push(Out::Findings { to, findings });
        }
    }

    /// Forgets the rooms that were not used for the longest, and drops the oldest publications, while the node
    /// has more of them than it may.
    fn enforce_memory(&mut self) {
        while self.rooms.len() > self.node.settings.room_limit {
            let Some((_, name)) = self.idle.pop_first() else { break };
            self.forget(&name);
        }
        while let Some(name) = self.node.memory.too_many_keys(self.node.now) {
            if let Some(room) = self.rooms.get_mut(&name) {
                room.forget_oldest_key();
            }
        }
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
                let stream = rooms.get(name).and_then(|room| room.stream());
                stream.is_some_and(|stream| *offset >= stream.history.first())
            });
            memory.compact_at = memory.by_age.len() * 2 + 1024;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::{
        options::RoomOptions,
        types::{NewPublication, ReplyTo},
    };

    fn alone(settings: Settings) -> State {
        let keeps = RoomOptions {
            history_size: 10,
            history_ttl: Duration::from_secs(60),
            history_meta_ttl: Duration::from_secs(3_600),
            ..Default::default()
        };
        let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
        let me = NodeInfo {
            name: "a".into(),
            generation: 1,
            mesh: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 1).into(),
            phase: Phase::Ready,
        };
        let mut state = State::new(me.id(), Arc::new(namespaces), settings, 1);
        state.handle(In::View(View::new([me])), Time::from_millis(1_000));
        state
    }

    fn publish(state: &mut State, room: &str, bytes: usize, at: u64) -> Vec<Out> {
        let publication =
            NewPublication { data: vec![b'x'; bytes].into(), ..NewPublication::default() };
        let request = Request::Publish(publication, ReplyTo::Api(at));
        state.handle(In::Request(room.into(), request), Time::from_millis(1_000 + at))
    }

    #[test]
    fn the_rooms_that_nobody_used_for_the_longest_go_first() {
        let mut state = alone(Settings { room_limit: 3, ..Default::default() });
        for (at, room) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
            publish(&mut state, room, 10, at as u64);
        }
        let known: Vec<&str> =
            ["a", "b", "c", "d"].into_iter().filter(|it| state.room(it).is_some()).collect();
        assert_eq!(known, ["a", "c", "d"]);
        assert_eq!((state.idle.len(), state.agenda.len()), (3, 3));
    }

    #[test]
    fn the_oldest_publications_go_when_there_are_too_many_bytes() {
        let mut state = alone(Settings { history_bytes: 5_000, ..Default::default() });
        for at in 0..50 {
            publish(&mut state, ["a", "b"][at % 2], 1_000, at as u64);
            assert!(state.history_bytes() <= 5_000);
        }
        assert!(state.history_bytes() > 3_000, "{}", state.history_bytes());
    }

    #[test]
    fn a_room_that_nobody_uses_is_forgotten_in_time_and_leaves_nothing() {
        let mut state = alone(Settings::default());
        publish(&mut state, "a", 10, 0);
        for seconds in 0..3_700 {
            state.handle(In::Tick, Time::from_millis(1_100 + seconds * 1_000));
        }
        assert_eq!((state.rooms(), state.history_bytes()), (0, 0));
        assert!(state.agenda.is_empty() && state.idle.is_empty());
    }

    #[test]
    fn a_core_that_was_told_of_time_waits_for_what_is_due_or_a_lull() {
        let mut state = alone(Settings::default());
        let at = Time::from_millis(5_000);
        state.handle(In::Tick, at);
        assert_eq!((state.ticked(), state.next_due()), (at, at + LULL));
        let short = RoomOptions {
            history_size: 10,
            history_ttl: LULL / 5,
            history_meta_ttl: LULL / 5,
            ..Default::default()
        };
        let namespaces = Namespaces { default: Arc::new(short), named: BTreeMap::new() };
        state.namespaces = Arc::new(namespaces);
        publish(&mut state, "a", 10, 4_100);
        assert_eq!(state.next_due(), at + LULL / 5 * 2);
    }

    #[test]
    fn the_application_is_told_who_comes_and_goes() {
        use crate::{
            room::types::{ClientId, ClientInfo, MemberFlags, SocketRef, Subscribe},
            webhooks::event::Happening,
        };
        let mut state = alone(Settings::default());
        let told = RoomOptions { webhooks: true, ..Default::default() };
        let namespaces = Namespaces { default: Arc::new(told), named: BTreeMap::new() };
        state.namespaces = Arc::new(namespaces);
        let socket = |slot| SocketRef { worker: 0, slot, generation: 0 };
        let mut ask = |slot: u32, request: Request| {
            let now = Time::from_millis(2_000 + u64::from(slot));
            let out = state.handle(In::Request("a".into(), request), now);
            let kinds = out.into_iter().filter_map(|out| match out {
                Out::Tell(what) => Some(what),
                _ => None,
            });
            kinds.map(|it| Happening::kind(&it)).collect::<Vec<_>>()
        };
        let come = |slot: u32| {
            Request::Subscribe(Subscribe {
                socket: socket(slot),
                id: 1,
                info: Arc::new(ClientInfo::new(ClientId(slot.into()), "ann")),
                flags: MemberFlags::default(),
                recover: None,
                must_recover: false,
                wish: None,
            })
        };
        let go = |slot: u32| Request::Unsubscribe {
            socket: socket(slot),
            client: ClientId(slot.into()),
            reply: ReplyTo::Nobody,
        };
        assert_eq!(ask(1, come(1)), ["occupied", "join"]);
        assert_eq!(ask(2, come(2)), ["join"]);
        assert_eq!(ask(1, go(1)), ["leave"]);
        assert_eq!(ask(2, go(2)), ["leave", "vacated"]);
        assert_eq!(ask(3, come(3)), ["occupied", "join"]);
    }

    #[test]
    fn a_node_that_turns_to_another_home_takes_no_one_out_of_the_room() {
        use crate::room::types::{ClientId, ClientInfo, MemberFlags, SocketRef, Subscribe};
        let mut state = alone(Settings::default());
        let told = RoomOptions { webhooks: true, ..Default::default() };
        let namespaces = Namespaces { default: Arc::new(told), named: BTreeMap::new() };
        state.namespaces = Arc::new(namespaces);
        let (here, peer) = (state.node.view.nodes()[&state.node.me].clone(), "b".to_owned());
        let peer = NodeInfo { name: peer, phase: Phase::Joining, ..here.clone() };
        let from = peer.id();
        let mut told = |input: In, at: u64| {
            let out = state.handle(input, Time::from_millis(2_000 + at));
            let kinds = out.into_iter().filter_map(|out| match out {
                Out::Tell(what) => Some(what.kind()),
                _ => None,
            });
            kinds.collect::<Vec<_>>()
        };
        told(In::View(View::new([here, peer])), 0);
        told(In::LinkUp(from), 0);
        let said = |message| In::Peer(from, Message::Room("a".into(), message));
        let attach = |id| {
            let clients = vec![Arc::new(ClientInfo::new(ClientId(1), "ann"))];
            said(RoomMessage::Attach { id, position: None, invited: false, clients })
        };
        // Someone is there for so long that whoever comes is new.
        let subscribe = Subscribe {
            socket: SocketRef { worker: 0, slot: 9, generation: 0 },
            id: 1,
            info: Arc::new(ClientInfo::new(ClientId(9), "bob")),
            flags: MemberFlags::default(),
            recover: None,
            must_recover: false,
            wish: None,
        };
        told(In::Request("a".into(), Request::Subscribe(subscribe)), 0);
        (1..4).for_each(|seconds| assert!(told(In::Tick, seconds * 1_000).is_empty()));
        assert_eq!(told(attach(1), 3_001), ["join"]);
        // It knows that another is home, and this node does not yet.
        assert_eq!(told(said(RoomMessage::Detach), 3_002), Vec::<&str>::new());
        assert_eq!(told(attach(2), 3_003), Vec::<&str>::new(), "it was wrong, and is back");
        assert_eq!(told(said(RoomMessage::Leave(ClientId(1))), 3_004), ["leave"]);
        assert_eq!(told(said(RoomMessage::Detach), 3_005), Vec::<&str>::new());
        assert_eq!(told(attach(3), 3_006), ["join"]);
        told(said(RoomMessage::Detach), 3_007);
        assert_eq!(told(In::Tick, 4_000), ["leave"], "nobody has taken it over");
    }
}
