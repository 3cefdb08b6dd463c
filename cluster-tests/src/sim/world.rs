//! The clock of a simulated cluster, what happens at each moment, and the judgement at the end.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use roomcast::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        view::View,
    },
    mesh::wire::Message,
    room::{
        options::{Namespaces, RoomOptions},
        registry::{In, Out, Settings, State},
        types::{
            Answer, ClientId, ClientInfo, Event, HistoryFilter, MemberFlags, NewPublication, Query,
            ReplyTo, Request, RoomName, SocketRef, Subscribe,
        },
    },
    time::Time,
};

use super::{
    Faults,
    client::{Client, Place, Seen},
    mutants::Mutant,
    network::{Frame, Network},
};

/// How long things go wrong, in milliseconds.
const TROUBLE: u64 = 6_000;
/// How long the cluster then has to come to rest.
const REST: u64 = 10_000;
/// How long a node can stand still before gossip takes it for dead, and then its peers close their links.
const UNHEARD: u64 = 3_000;
const UNLINKED: u64 = 4_000;
/// How often a publisher tries again.
const RETRIES: u8 = 5;
const TICK: u64 = 50;
/// API calls of the final judgement; publishes have smaller numbers.
const JUDGEMENT: u64 = 1 << 40;

/// Something that will happen.
#[derive(Debug)]
enum Happening {
    Tick(usize),
    Arrive(Frame),
    /// A node sees who is there.
    See(usize),
    Dial(NodeId, NodeId),
    Publish,
    Return(usize),
    /// A client that was told to subscribes again.
    Again(usize, SocketRef),
    Trouble,
    Start(usize),
    Crash,
    Freeze,
    /// A node that stands still, since this moment, is taken for dead.
    Unheard(usize, u64),
    Unlinked(usize, u64),
    Thaw(usize, u64),
    /// A publisher tries again.
    Retry(u64, u8),
    Heal,
}

struct Node {
    name: String,
    generation: u64,
    state: Option<State>,
    /// Since when it stands still, and what has come in meanwhile.
    frozen: Option<(u64, Vec<In>)>,
    /// Which sockets are in which room: what hubs know.
    members: BTreeMap<RoomName, BTreeSet<SocketRef>>,
}

impl Node {
    fn info(&self) -> NodeInfo {
        let address = ([127, 0, 0, 1], 1).into();
        NodeInfo {
            name: self.name.clone(),
            generation: self.generation,
            mesh: address,
            http: address,
            phase: Phase::Ready,
        }
    }

    fn id(&self) -> NodeId {
        self.info().id()
    }
}

/// A simulated cluster with its clients.
pub struct World {
    faults: Faults,
    mutant: Option<Mutant>,
    outputs: u64,
    rng: Rng,
    now: u64,
    order: u64,
    agenda: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    nodes: Vec<Node>,
    network: Network,
    clients: Vec<Client>,
    rooms: Vec<RoomName>,
    seen: Seen,
    published: u64,
    sockets: u32,
    /// Publications by number: the room, and whether it was acknowledged.
    acked: BTreeMap<u64, RoomName>,
    asked: BTreeMap<u64, RoomName>,
    answers: BTreeMap<u64, Answer>,
    tries: BTreeMap<u64, u8>,
    /// What happened, for people.
    pub story: Vec<String>,
}

impl World {
    /// The beginning of a history.
    pub fn new(seed: u64, faults: Faults, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let rooms: Vec<RoomName> =
            (0..rng.usize(1..4)).map(|it| format!("room-{it}").into()).collect();
        let clients =
            (0..rng.usize(3..9)).map(|_| Client::new(rooms[rng.usize(..rooms.len())].clone()));
        let clients = clients.collect();
        let mut world = Self {
            faults,
            mutant,
            outputs: 0,
            now: 10_000_000,
            order: 0,
            agenda: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            nodes: Vec::new(),
            network: Network::default(),
            clients,
            rooms,
            seen: Seen::new(),
            published: 0,
            sockets: 0,
            acked: BTreeMap::new(),
            asked: BTreeMap::new(),
            answers: BTreeMap::new(),
            tries: BTreeMap::new(),
            story: Vec::new(),
            rng,
        };
        world.prepare();
        world
    }

    fn prepare(&mut self) {
        let nodes = self.rng.usize(2..6);
        let some_come_late = matches!(self.faults, Faults::Joins | Faults::Everything);
        let late = if some_come_late { nodes / 2 } else { 0 };
        for index in 0..nodes {
            let name = format!("node-{index}");
            let members = BTreeMap::new();
            self.nodes.push(Node { name, generation: 0, state: None, frozen: None, members });
            let at = if index < nodes - late { 0 } else { self.rng.u64(500..TROUBLE) };
            self.later(at, Happening::Start(index));
        }
        for index in 0..self.clients.len() {
            let at = self.rng.u64(500..2_000);
            self.later(at, Happening::Return(index));
        }
        for _ in 0..self.rng.usize(5..60) {
            let at = self.rng.u64(600..TROUBLE);
            self.later(at, Happening::Publish);
        }
        self.plan_trouble();
        self.later(TROUBLE, Happening::Heal);
    }

    fn plan_trouble(&mut self) {
        match self.faults {
            Faults::Delays => {}
            // One after the other: a room has two copies again before the next node dies.
            Faults::Deaths => {
                for at in [1_200, 5_200] {
                    let at = at + self.rng.u64(0..800);
                    self.later(at, Happening::Crash);
                }
            }
            Faults::Standstills => {
                let at = self.rng.u64(1_000..2_500);
                self.later(at, Happening::Freeze);
            }
            Faults::Links | Faults::Joins | Faults::Everything => {
                for _ in 0..self.rng.usize(1..8) {
                    let at = self.rng.u64(700..TROUBLE);
                    self.later(at, Happening::Trouble);
                }
            }
        }
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.order += 1;
        self.agenda.push(Reverse((self.now + delay, self.order)));
        self.happenings.insert(self.order, happening);
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = self.now - 10_000_000;
        self.story.push(format!("{at:>6} ms  {}", line()));
    }

    /// Lets everything happen, and judges it.
    ///
    /// # Errors
    /// If a promise is broken.
    pub fn run(&mut self) -> Result<(), String> {
        let end = self.now + TROUBLE + REST;
        self.pass_until(end, |_| false)?;
        self.now = end;
        self.judge()
    }

    /// Lets everything happen up to `end`, or until `enough`.
    fn pass_until(&mut self, end: u64, enough: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !enough(self)
            && let Some(Reverse((at, order))) = self.agenda.peek().copied()
            && at <= end
        {
            self.agenda.pop();
            self.now = at;
            if let Some(happening) = self.happenings.remove(&order) {
                self.happen(happening)?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick(node) => {
                self.input(node, In::Tick)?;
                self.later(TICK, Happening::Tick(node));
            }
            Happening::Arrive(frame) => {
                let message = self.network.receive(&frame)?;
                if let (Some(message), Some(node)) = (message, self.index(frame.to)) {
                    self.input(node, In::Peer(frame.from, message))?;
                }
            }
            Happening::See(node) => self.see(node)?,
            Happening::Dial(a, b) => self.dial(a, b)?,
            Happening::Publish => self.publish()?,
            Happening::Return(client) => self.come_back(client)?,
            Happening::Again(client, socket) => {
                if self.clients[client].socket == socket
                    && self.clients[client].place != Place::Away
                {
                    self.unsubscribe(client)?;
                    self.subscribe(client)?;
                }
            }
            Happening::Trouble => self.trouble()?,
            Happening::Start(node) => self.start(node),
            Happening::Crash => self.crash()?,
            Happening::Freeze => self.freeze(),
            Happening::Unheard(node, since) => {
                if self.is_frozen(node, since) {
                    self.everyone_looks();
                }
            }
            Happening::Unlinked(node, since) => {
                if self.is_frozen(node, since) {
                    let id = self.nodes[node].id();
                    for peer in self.network.peers(id) {
                        self.disconnect(id, peer)?;
                    }
                }
            }
            Happening::Thaw(node, since) => {
                if self.is_frozen(node, since) {
                    self.thaw(node)?;
                }
            }
            Happening::Retry(number, tries) => self.try_to_publish(number, tries)?,
            Happening::Heal => {
                self.tell(|| "every cut heals".to_owned());
                self.network.heal();
                for node in 0..self.nodes.len() {
                    self.thaw(node)?;
                }
                self.everyone_looks();
                for node in 0..self.nodes.len() {
                    if self.nodes[node].state.is_none() {
                        self.start(node);
                    }
                }
            }
        }
        Ok(())
    }

    fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.state.is_some() && node.id() == id)
    }

    fn start(&mut self, index: usize) {
        if self.nodes[index].state.is_some() {
            return;
        }
        let keeps = RoomOptions {
            presence: true,
            join_leave: true,
            history_size: 1_000,
            history_ttl: Duration::from_secs(3_600),
            history_meta_ttl: Duration::from_secs(36_000),
            force_recovery: true,
            force_positioning: true,
            ..Default::default()
        };
        let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
        let node = &mut self.nodes[index];
        node.generation = self.now;
        node.members.clear();
        let seed = self.rng.u64(..);
        let settings = Settings { replicas: Mutant::replicas(self.mutant), ..Default::default() };
        let state = State::new(node.id(), Arc::new(namespaces), settings, seed);
        node.state = Some(state);
        let name = node.name.clone();
        self.tell(|| format!("{name} starts"));
        let phase = self.rng.u64(1..TICK);
        self.later(phase, Happening::Tick(index));
        self.everyone_looks();
    }

    /// Gossip takes its time, and a different one to each node.
    fn everyone_looks(&mut self) {
        for node in 0..self.nodes.len() {
            let delay = self.rng.u64(1..400);
            self.later(delay, Happening::See(node));
        }
    }

    fn see(&mut self, index: usize) -> Result<(), String> {
        if self.nodes[index].state.is_none() {
            return Ok(());
        }
        let me = self.nodes[index].id();
        let silent = |node: &Node| {
            node.frozen.as_ref().is_some_and(|(since, _)| self.now - since >= UNHEARD)
        };
        let here = self.nodes.iter().filter(|node| node.state.is_some());
        let here = here.filter(|node| node.id() == me || !silent(node));
        let here: Vec<NodeInfo> =
            here.filter(|node| !self.network.is_cut(me, node.id())).map(Node::info).collect();
        // Gossip may lose sight of one for a moment.
        let unseen = (self.faults == Faults::Everything && self.rng.u8(..10) == 0)
            .then(|| here[self.rng.usize(..here.len())].id())
            .filter(|it| *it != me);
        if unseen.is_some() {
            let delay = self.rng.u64(100..1_500);
            self.later(delay, Happening::See(index));
        }
        let view = View::new(here.into_iter().filter(|it| Some(it.id()) != unseen));
        let peers: Vec<NodeId> = view.nodes().keys().copied().filter(|id| *id != me).collect();
        self.input(index, In::View(view))?;
        for peer in peers {
            let delay = self.rng.u64(1..50);
            self.later(delay, Happening::Dial(me, peer));
        }
        Ok(())
    }

    fn dial(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        let (Some(first), Some(second)) = (self.index(a), self.index(b)) else { return Ok(()) };
        if self.network.connect(a, b) {
            self.input(first, In::LinkUp(b))?;
            self.input(second, In::LinkUp(a))?;
        }
        Ok(())
    }

    fn disconnect(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        if self.network.disconnect(a, b) {
            for (node, peer) in [(a, b), (b, a)] {
                if let Some(index) = self.index(node) {
                    self.input(index, In::LinkDown(peer))?;
                }
            }
        }
        Ok(())
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].state.is_some()).collect()
    }

    fn any_alive(&mut self) -> Option<usize> {
        let alive = self.alive();
        (!alive.is_empty()).then(|| alive[self.rng.usize(..alive.len())])
    }

    fn trouble(&mut self) -> Result<(), String> {
        let everything = self.faults == Faults::Everything;
        match self.rng.u8(..12) {
            0..3 => self.lose_client(),
            3..5 if everything => self.crash(),
            5..7 if everything => self.cut_off(),
            7..9 if everything => {
                self.freeze();
                Ok(())
            }
            _ => self.break_link(),
        }
    }

    fn is_frozen(&self, node: usize, since: u64) -> bool {
        self.nodes[node].frozen.as_ref().is_some_and(|(it, _)| *it == since)
    }

    fn freeze(&mut self) {
        let Some(node) = self.any_alive() else { return };
        if self.nodes[node].frozen.is_some() {
            return;
        }
        let since = self.now;
        self.nodes[node].frozen = Some((since, Vec::new()));
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} stands still"));
        self.later(UNHEARD, Happening::Unheard(node, since));
        self.later(UNLINKED, Happening::Unlinked(node, since));
        let delay = self.rng.u64(500..6_000);
        self.later(delay, Happening::Thaw(node, since));
    }

    fn thaw(&mut self, node: usize) -> Result<(), String> {
        let Some((since, missed)) = self.nodes[node].frozen.take() else { return Ok(()) };
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} goes on"));
        if self.now - since >= UNHEARD && self.rng.bool() {
            // It has not heard of the others either.
            let alone = View::new([self.nodes[node].info()]);
            self.input(node, In::View(alone))?;
        }
        for input in missed {
            self.input(node, input)?;
        }
        self.everyone_looks();
        Ok(())
    }

    fn lose_client(&mut self) -> Result<(), String> {
        let client = self.rng.usize(..self.clients.len());
        if self.clients[client].place != Place::Away {
            self.tell(|| format!("client {client} is cut off"));
            self.unsubscribe(client)?;
            self.send_away(client);
        }
        Ok(())
    }

    fn send_away(&mut self, client: usize) {
        self.clients[client].place = Place::Away;
        let delay = self.rng.u64(1..1_500);
        self.later(delay, Happening::Return(client));
    }

    fn unsubscribe(&mut self, client: usize) -> Result<(), String> {
        let Client { socket, id, node, room, .. } = &self.clients[client];
        let request = Request::Unsubscribe { socket: *socket, client: *id, reply: ReplyTo::Nobody };
        let (node, room) = (*node, room.clone());
        self.input(node, In::Request(room, request))
    }

    fn break_link(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let id = self.nodes[node].id();
        let peers = self.network.peers(id);
        if peers.is_empty() {
            return Ok(());
        }
        let peer = peers[self.rng.usize(..peers.len())];
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("a link of {name} breaks"));
        self.disconnect(id, peer)?;
        // Shorter than the grace that a broken link has.
        let delay = self.rng.u64(1..300);
        self.later(delay, Happening::Dial(id, peer));
        Ok(())
    }

    fn crash(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        if self.alive().len() == 1 {
            return Ok(());
        }
        self.nodes[node].frozen = None;
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("{name} crashes"));
        let id = self.nodes[node].id();
        let peers = self.network.peers(id);
        self.nodes[node].state = None;
        for peer in peers {
            self.disconnect(id, peer)?;
        }
        for client in 0..self.clients.len() {
            if self.clients[client].node == node && self.clients[client].place != Place::Away {
                self.send_away(client);
            }
        }
        self.everyone_looks();
        let longest = if self.faults == Faults::Deaths { 1_500 } else { 3_000 };
        let delay = self.rng.u64(200..longest);
        self.later(delay, Happening::Start(node));
        Ok(())
    }

    fn cut_off(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let id = self.nodes[node].id();
        let mut others: Vec<NodeId> =
            self.alive().into_iter().map(|it| self.nodes[it].id()).filter(|it| *it != id).collect();
        if others.len() > 1 && self.rng.bool() {
            others.truncate(1);
        }
        let (name, count) = (self.nodes[node].name.clone(), others.len());
        self.tell(|| format!("{name} is cut off from {count} others"));
        for other in others {
            self.network.set_cut(id, other, true);
            self.disconnect(id, other)?;
        }
        self.everyone_looks();
        Ok(())
    }

    fn publish(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let room = self.rooms[self.rng.usize(..self.rooms.len())].clone();
        self.published += 1;
        let number = self.published;
        self.asked.insert(number, room.clone());
        self.try_on(node, room, number)?;
        Ok(())
    }

    fn try_to_publish(&mut self, number: u64, tries: u8) -> Result<(), String> {
        let (Some(node), Some(room)) = (self.any_alive(), self.asked.get(&number).cloned()) else {
            return Ok(());
        };
        self.tries.insert(number, tries);
        self.try_on(node, room, number)
    }

    fn try_on(&mut self, node: usize, room: RoomName, number: u64) -> Result<(), String> {
        let publication = NewPublication {
            data: Bytes::from(format!("message {number}")),
            // Every other publisher tries again when it is told that it failed.
            idempotency_key: number.is_multiple_of(2).then(|| format!("key {number}").into()),
            ..NewPublication::default()
        };
        let request = Request::Publish(publication, ReplyTo::Api(number));
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("message {number} to {room} through {name}"));
        self.input(node, In::Request(room, request))
    }

    fn come_back(&mut self, index: usize) -> Result<(), String> {
        let Some(node) = self.any_alive() else {
            self.later(100, Happening::Return(index));
            return Ok(());
        };
        if self.clients[index].place != Place::Away {
            return Ok(());
        }
        self.sockets += 1;
        let id = ClientId(u128::from(self.sockets));
        let client = &mut self.clients[index];
        client.socket = SocketRef { worker: 0, slot: self.sockets, generation: 0 };
        (client.id, client.node) = (id, node);
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("client {index} comes to {name}"));
        self.subscribe(index)
    }

    fn subscribe(&mut self, index: usize) -> Result<(), String> {
        let client = &mut self.clients[index];
        client.place = Place::Asking;
        let info = ClientInfo::new(client.id, &format!("user {index}"));
        let subscribe = Subscribe {
            socket: client.socket,
            id: index as u32,
            info: Arc::new(info),
            flags: MemberFlags { positioned: true, join_leave: true },
            wish: None,
            recover: client.since(),
            must_recover: false,
        };
        let (node, room) = (client.node, client.room.clone());
        self.input(node, In::Request(room, Request::Subscribe(subscribe)))
    }

    /// Gives a node an input and does what it says.
    fn input(&mut self, node: usize, input: In) -> Result<(), String> {
        let now = Time::from_millis(self.now);
        if let Some((_, missed)) = &mut self.nodes[node].frozen {
            // Time does not pass for it, so it misses no ticks.
            if !matches!(input, In::Tick) {
                missed.push(input);
            }
            return Ok(());
        }
        let Some(state) = &mut self.nodes[node].state else { return Ok(()) };
        let outs = state.handle(input, now);
        for out in outs {
            self.outputs += 1;
            let spoiled = match self.mutant {
                None => vec![out],
                Some(mutant) => mutant.spoil(out, self.outputs),
            };
            for out in spoiled {
                self.perform(node, out)?;
            }
        }
        Ok(())
    }

    fn perform(&mut self, node: usize, out: Out) -> Result<(), String> {
        match out {
            Out::Send { to, message } => self.send(node, &to, &message),
            Out::Subscribed { socket, room, result, .. } => {
                let Some(client) = self.client_of(node, socket) else { return Ok(()) };
                match result {
                    Ok(subscribed) => {
                        self.nodes[node].members.entry(room).or_default().insert(socket);
                        let (it, seen) = (&mut self.clients[client], &mut self.seen);
                        it.subscribed(&subscribed, seen)
                            .map_err(|it| format!("client {client}: {it}"))
                    }
                    Err(_) => {
                        self.send_away(client);
                        Ok(())
                    }
                }
            }
            Out::Unsubscribed { socket, room, .. } => {
                self.nodes[node].members.entry(room).or_default().remove(&socket);
                Ok(())
            }
            Out::Event { room, event, .. } => self.event(node, &room, &event),
            Out::Answer { to: ReplyTo::Api(number), answer } => {
                self.answered(number, answer);
                Ok(())
            }
            Out::Answer { .. } | Out::Findings { .. } | Out::Control(_) | Out::Tell(_) => Ok(()),
        }
    }

    fn answered(&mut self, number: u64, answer: Answer) {
        if number >= JUDGEMENT {
            self.answers.insert(number, answer);
        } else if let (Answer::Published(position), Some(room)) =
            (&answer, self.asked.get(&number).cloned())
        {
            let position = *position;
            self.tell(|| format!("message {number} is acknowledged at {position:?}"));
            self.acked.insert(number, room);
        } else if number.is_multiple_of(2) {
            let tries = self.tries.get(&number).copied().unwrap_or_default();
            if tries < RETRIES {
                let delay = self.rng.u64(1..300);
                self.later(delay, Happening::Retry(number, tries + 1));
            }
        }
    }

    fn send(&mut self, node: usize, to: &[NodeId], message: &Message) -> Result<(), String> {
        let from = self.nodes[node].id();
        if std::env::var_os("SIMULATOR_TRACE").is_some() {
            let to: Vec<String> = to
                .iter()
                .map(|it| match self.index(*it) {
                    Some(i) => self.nodes[i].name.clone(),
                    None => it.to_string(),
                })
                .collect();
            let name = self.nodes[node].name.clone();
            let text = format!("{message:?}");
            self.tell(|| {
                format!("      {name} -> {to:?}: {}", text.chars().take(300).collect::<String>())
            });
        }
        for peer in to {
            let arrival = self.now + self.rng.u64(1..80);
            if let Some((at, frame)) = self.network.send(from, *peer, message, arrival)? {
                self.later(at - self.now, Happening::Arrive(frame));
            }
        }
        Ok(())
    }

    fn client_of(&self, node: usize, socket: SocketRef) -> Option<usize> {
        self.clients.iter().position(|client| {
            client.node == node && client.socket == socket && client.place != Place::Away
        })
    }

    fn event(&mut self, node: usize, room: &RoomName, event: &Event) -> Result<(), String> {
        let members = self.nodes[node].members.entry(room.clone()).or_default();
        let sockets: Vec<SocketRef> = members.iter().copied().collect();
        if *event == Event::InsufficientState {
            members.clear();
        }
        for socket in sockets {
            let Some(client) = self.client_of(node, socket) else { continue };
            match event {
                Event::Publication(publication) => {
                    let (it, seen) = (&mut self.clients[client], &mut self.seen);
                    it.publication(publication, seen)
                        .map_err(|it| format!("client {client}: {it}"))?;
                }
                Event::InsufficientState => {
                    self.tell(|| format!("client {client} has to subscribe again"));
                    self.clients[client].place = Place::Asking;
                    let delay = self.rng.u64(0..20);
                    self.later(delay, Happening::Again(client, socket));
                }
                Event::Join(_) | Event::Leave(_) => {}
            }
        }
        Ok(())
    }

    /// At rest, everyone must agree, and nothing that was promised may be missing.
    fn judge(&mut self) -> Result<(), String> {
        for (number, room) in self.rooms.clone().into_iter().enumerate() {
            let history = self.ask(JUDGEMENT + 2 * number as u64, &room, || {
                let limit = usize::MAX;
                Query::History(HistoryFilter { limit, since: None, reverse: false })
            })?;
            let Answer::History(publications, top) = history else {
                return Err(format!("{room} can't be read at the end: {history:?}"));
            };
            let kept: BTreeSet<String> = (publications.iter())
                .map(|it| String::from_utf8_lossy(&it.data).into_owned())
                .collect();
            if kept.len() != publications.len() {
                return Err(format!("{room} has a message twice"));
            }
            for (message, _) in self.acked.iter().filter(|(_, at)| **at == room) {
                let there = kept.contains(&format!("message {message}"));
                if self.faults.keep_what_is_acked() && !there {
                    return Err(format!("message {message} was acknowledged and is not in {room}"));
                }
            }
            for (index, client) in self.clients.iter().enumerate().filter(|(_, it)| it.room == room)
            {
                let end = Some((top.epoch.to_string(), top.offset));
                if client.place != Place::In || client.position() != end {
                    let at = client.position();
                    return Err(format!(
                        "client {index} is {:?} at {at:?}, {room} at {end:?}",
                        client.place
                    ));
                }
                let gaps = client.gaps_told;
                if self.faults.leave_no_gap() && gaps > 0 {
                    return Err(format!("client {index} was told of {gaps} gaps without need"));
                }
            }
            self.judge_presence(number, &room)?;
        }
        Ok(())
    }

    fn judge_presence(&mut self, number: usize, room: &RoomName) -> Result<(), String> {
        let answer = self.ask(JUDGEMENT + 2 * number as u64 + 1, room, || Query::Presence)?;
        let Answer::Presence(present) = answer else {
            return Err(format!("who is in {room} can't be read at the end: {answer:?}"));
        };
        let present: BTreeSet<ClientId> = present.iter().map(|info| info.client).collect();
        let clients = self.clients.iter().filter(|client| client.room == *room);
        let expected: BTreeSet<ClientId> = clients.map(|client| client.id).collect();
        if present != expected {
            return Err(format!("in {room} are {expected:?}, but presence says {present:?}"));
        }
        Ok(())
    }

    /// Asks through any node, and lets as much happen as the answer takes.
    fn ask(
        &mut self,
        number: u64,
        room: &RoomName,
        query: impl FnOnce() -> Query,
    ) -> Result<Answer, String> {
        let node = self.any_alive().ok_or("no node is left")?;
        let request = Request::Query(query(), ReplyTo::Api(number));
        self.input(node, In::Request(room.clone(), request))?;
        self.pass_until(self.now + 3_000, |world| world.answers.contains_key(&number))?;
        self.answers.remove(&number).ok_or_else(|| format!("no answer about {room} at the end"))
    }
}
