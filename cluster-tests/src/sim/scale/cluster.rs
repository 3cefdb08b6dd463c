//! The nodes of a large cluster, and a count of what they send each other.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use roomcast::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        view::View,
    },
    mesh::wire::{self, Frame as WireFrame},
    room::{
        messages::{Message, RoomMessage, SlotMessage},
        options::{Namespaces, RoomOptions},
        registry::{In, Out, RoomSettings, State},
        types::{
            Answer, ClientId, ClientInfo, Event, MemberFlags, NewPublication, ReplyTo, Request,
            RoomName, SocketRef, Subscribe,
        },
    },
    runtime::time::Time,
};

use super::{Tally, Traffic, timed};

/// A frame on its way: who sent it, who gets it.
type Frame = (usize, usize, Bytes);

struct Member {
    id: NodeId,
    info: NodeInfo,
    state: Option<State>,
}

/// A cluster whose links lose nothing and take no time.
pub struct Cluster {
    members: Vec<Member>,
    index: HashMap<NodeId, usize>,
    /// In milliseconds.
    now: u64,
    under_way: VecDeque<Frame>,
    links: Vec<Tally>,
    traffic: Traffic,
    sockets: u32,
    published: u64,
}

/// What the death of a node made the core of another one do.
#[derive(Debug, Clone, Copy, Default)]
pub struct Work {
    /// When its link broke.
    pub link_down: Duration,
    /// When its grace was over, and rooms moved.
    pub rerouted: Duration,
}

impl Cluster {
    /// Nodes that all know and reach each other, with rooms of one kind.
    pub fn new(nodes: usize, options: RoomOptions) -> Self {
        let namespaces = Namespaces { default: Arc::new(options), named: BTreeMap::new() };
        let namespaces = Arc::new(namespaces);
        let infos: Vec<NodeInfo> = (0..nodes).map(info).collect();
        let member = |(number, info): (usize, &NodeInfo)| {
            let settings = RoomSettings::default();
            let state = State::new(info.id(), namespaces.clone(), settings, number as u64);
            Member { id: info.id(), info: info.clone(), state: Some(state) }
        };
        let members: Vec<Member> = infos.iter().enumerate().map(member).collect();
        let index = members.iter().enumerate().map(|(at, member)| (member.id, at)).collect();
        let mut cluster = Self {
            members,
            index,
            now: 1_000_000,
            under_way: VecDeque::new(),
            links: vec![Tally::default(); nodes * nodes],
            traffic: Traffic::default(),
            sockets: 0,
            published: 0,
        };
        cluster.meet(&View::new(infos));
        cluster.take_traffic();
        cluster
    }

    /// Links first: a node without a view has nothing to look through at each of them.
    fn meet(&mut self, view: &View) {
        let ids: Vec<NodeId> = self.members.iter().map(|it| it.id).collect();
        for node in 0..self.members.len() {
            for peer in ids.iter().filter(|peer| **peer != ids[node]) {
                self.input(node, In::LinkUp(*peer));
            }
            self.input(node, In::View(view.clone()));
        }
        self.deliver();
    }

    /// How many nodes there were at the beginning.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// A node's registry, while it lives.
    pub fn state(&self, node: usize) -> Option<&State> {
        self.members[node].state.as_ref()
    }

    /// The node that is home to a room.
    pub fn home(&self, room: &str) -> Option<usize> {
        let is_home = |state: &State| state.room(room).is_some_and(|room| room.is_home());
        self.members.iter().position(|member| member.state.as_ref().is_some_and(is_home))
    }

    /// A client of `node` enters `room`.
    pub fn subscribe(&mut self, node: usize, room: &RoomName) {
        self.sockets += 1;
        let subscribe = Subscribe {
            socket: SocketRef { worker: 0, slot: self.sockets, generation: 0 },
            id: 1,
            info: Arc::new(ClientInfo::new(ClientId(u128::from(self.sockets)), "user-1234567")),
            flags: MemberFlags::default(),
            delivery: None,
            recover: None,
            must_recover: false,
        };
        self.input(node, In::Request(room.clone(), Request::Subscribe(subscribe)));
        self.deliver();
    }

    /// A message of `size` bytes to `room` through `node`.
    pub fn publish(&mut self, node: usize, room: &RoomName, size: usize) {
        self.published += 1;
        let data = Bytes::from(vec![b'x'; size]);
        let publication = NewPublication { data, ..NewPublication::default() };
        let request = Request::Publish(publication, ReplyTo::Api(self.published));
        self.input(node, In::Request(room.clone(), request));
        self.deliver();
    }

    /// Lets time pass, in steps that no node takes for a standstill.
    pub fn pass(&mut self, millis: u64) {
        let end = self.now + millis;
        while self.now < end {
            self.now = end.min(self.now + 500);
            for node in 0..self.members.len() {
                self.input(node, In::Tick);
            }
            self.deliver();
        }
    }

    /// A node dies: its links break at once, and after their grace its rooms move. Returns what the core of
    /// each of the others had to do.
    pub fn kill(&mut self, dead: usize) -> Vec<Work> {
        self.members[dead].state = None;
        let peer = self.members[dead].id;
        let alive: Vec<usize> =
            (0..self.members.len()).filter(|it| self.members[*it].state.is_some()).collect();
        let mut work = vec![Work::default(); alive.len()];
        for (node, work) in alive.iter().zip(&mut work) {
            work.link_down = self.input(*node, In::LinkDown(peer));
        }
        self.deliver();
        self.now += RoomSettings::default().link_grace.as_millis() as u64;
        for (node, work) in alive.iter().zip(&mut work) {
            work.rerouted = self.input(*node, In::Tick);
        }
        self.deliver();
        self.pass(1_000);
        work
    }

    /// Gives a node an input and puts on the links what it says. Returns the CPU time of its core.
    pub fn input(&mut self, node: usize, input: In) -> Duration {
        let now = Time::from_millis(self.now);
        let Some(state) = &mut self.members[node].state else { return Duration::ZERO };
        // Asking the clock costs more than most inputs.
        let rare = matches!(input, In::Tick | In::LinkDown(_));
        let (outs, took) = match rare {
            true => timed(|| state.handle(input, now)),
            false => (state.handle(input, now), Duration::ZERO),
        };
        outs.into_iter().for_each(|out| self.perform(node, out));
        took
    }

    fn perform(&mut self, node: usize, out: Out) {
        match out {
            Out::Send { to, message } => self.send(node, &to, message),
            Out::Event { event: Event::Publication(_), .. } => self.traffic.fan_outs += 1,
            Out::Answer { answer: Answer::Published(_), .. } => self.traffic.acknowledged += 1,
            _ => {}
        }
    }

    /// Encoded once, as the registry's actor does it.
    fn send(&mut self, from: usize, to: &[NodeId], message: Message) {
        let kind = kind(&message);
        let Ok(frame) = wire::encode(&WireFrame::Rooms(message)) else { return };
        let nodes = self.members.len();
        self.traffic.sent.resize(nodes, Tally::default());
        self.traffic.received.resize(nodes, Tally::default());
        for peer in to {
            let Some(to) = self.index.get(peer).copied() else { continue };
            self.traffic.kinds.entry(kind).or_default().add(frame.len());
            self.traffic.sent[from].add(frame.len());
            self.traffic.received[to].add(frame.len());
            self.links[from * nodes + to].add(frame.len());
            self.under_way.push_back((from, to, frame.clone()));
        }
    }

    /// Until nobody has anything to say.
    fn deliver(&mut self) {
        loop {
            while let Some((from, to, frame)) = self.under_way.pop_front() {
                let from = self.members[from].id;
                let decoded = wire::decode(&mut BytesMut::from(&frame[..]));
                if let Ok(Some(WireFrame::Rooms(message))) = decoded {
                    self.input(to, In::Peer(from, message));
                }
            }
            let has_work = |it: &Member| it.state.as_ref().is_some_and(State::has_work);
            let busy: Vec<usize> =
                (0..self.members.len()).filter(|it| has_work(&self.members[*it])).collect();
            if busy.is_empty() {
                return;
            }
            for node in busy {
                self.input(node, In::Tick);
            }
        }
    }

    /// What was said since this was asked last.
    pub fn take_traffic(&mut self) -> Traffic {
        let mut traffic = std::mem::take(&mut self.traffic);
        traffic.busiest_link =
            self.links.iter().copied().max_by_key(|it| it.frames).unwrap_or_default();
        self.links.fill(Tally::default());
        traffic
    }

    /// What every node knows of the others.
    pub fn infos(&self) -> impl Iterator<Item = &NodeInfo> {
        self.members.iter().map(|member| &member.info)
    }
}

/// The node of a number, named as operators name them.
pub fn info(number: usize) -> NodeInfo {
    let address = ([10, 0, (number >> 8) as u8, number as u8], 7947).into();
    NodeInfo {
        name: format!("node-{number:04}"),
        generation: 1_760_000_000_000,
        mesh: address,
        http: address,
        phase: Phase::Ready,
    }
}

fn kind(message: &Message) -> &'static str {
    let message = match message {
        Message::Room(_, message) => message,
        Message::Slots(SlotMessage::Claim(_)) => return "claim",
        Message::Slots(_) => return "claimed",
        _ => return "about nodes",
    };
    match message {
        RoomMessage::Request { .. } => "request",
        RoomMessage::Answer { .. } => "answer",
        RoomMessage::Attach { .. } => "attach",
        RoomMessage::Clients { .. } => "clients",
        RoomMessage::Page(_) => "page",
        RoomMessage::Deliver { .. } => "deliver",
        RoomMessage::Has(_) => "has",
        RoomMessage::Invite => "invite",
        RoomMessage::Fetch(_) => "fetch",
        RoomMessage::NotHome(_) => "not home",
        _ => "other",
    }
}
