//! The clock of a simulated cluster, and what happens at each moment.
//!
//! `nodes` is what becomes of nodes and what they say, `people` what clients and publishers do, `faults`
//! what goes wrong, `judge` the judgement at the end.

mod faults;
mod judge;
mod nodes;
mod people;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use fastrand::Rng;
use roomcast::{
    cluster::node::NodeId,
    room::{
        registry::In,
        types::{Answer, ClientId, RoomName, SocketRef},
    },
};

use self::nodes::Node;
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
/// How often it is seen whether a core wants to be told that time has passed, in milliseconds.
const TICK: u64 = roomcast::room::actor::TICK.as_millis() as u64;

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
    /// Who is where, as the application was told.
    told: BTreeSet<(RoomName, ClientId)>,
    /// How often it was told of someone of whom it knew.
    repeats: u32,
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
            told: BTreeSet::new(),
            repeats: 0,
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
                if self.nodes[node].is_due(self.now) {
                    self.input(node, In::Tick)?;
                }
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
}
