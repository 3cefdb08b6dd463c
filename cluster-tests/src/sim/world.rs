//! The clock of a simulated cluster, and what happens at each moment.
//!
//! `plan` is what a history of each kind consists of, `agenda` what is to happen. `nodes` is how nodes
//! start and end and what their cores say, `views` what they know of each other, `links` how they reach
//! each other, `drains` how they leave. `trouble` and `cuts` are what goes wrong, `people` and
//! `publishers` who uses the cluster, `consumers` who shares its rooms' messages in some histories, and `leases` what
//! they have of them, `maps` who has maps in some. `record` is what was promised, and `judge` the judgement at the end.

mod agenda;
mod consumers;
mod cuts;
mod drains;
mod judge;
mod leases;
mod links;
mod maps;
mod nodes;
mod people;
mod plan;
mod publishers;
mod record;
mod trouble;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use roomcast::{
    cluster::node::NodeId,
    room::types::{Position, RoomName, SocketRef},
};

use self::{
    agenda::{Agenda, Happening},
    consumers::Consumers,
    maps::Maps,
    nodes::Node,
    plan::Plan,
    record::Record,
};
use super::{
    Faults,
    client::{Client, Seen},
    mutants::Mutant,
    network::Network,
};

/// When histories begin, in milliseconds: not with the clock.
const BEGINNING: u64 = 10_000_000;
/// How long trouble may last at most.
const LONGEST: u64 = 300_000;
/// How long the cluster has to come to rest, then.
const REST: u64 = 12_000;
/// How long rooms have to go out of memory then, in histories in which they do.
const IDLE: u64 = 10_000;
/// How often it is seen whether a core wants to be told that time has passed, in milliseconds.
const TICK: u64 = roomcast::room::actor::TICK.as_millis() as u64;

/// A simulated cluster with its clients.
pub struct World {
    faults: Faults,
    mutant: Option<Mutant>,
    plan: Plan,
    outputs: u64,
    rng: Rng,
    now: u64,
    agenda: Agenda,
    nodes: Vec<Node>,
    /// Number of the latest view that has left for a node.
    version: u64,
    network: Network,
    /// Who is going to dial whom.
    dialling: BTreeSet<(NodeId, NodeId)>,
    clients: Vec<Client>,
    by_socket: BTreeMap<SocketRef, usize>,
    rooms: Vec<RoomName>,
    seen: Seen,
    sockets: u32,
    record: Record,
    /// Those who share the rooms' messages, in histories that have them.
    consumers: Option<Consumers>,
    /// Maps, in histories that have them.
    maps: Option<Maps>,
    /// Where rooms stood when it was noted.
    probed: BTreeMap<usize, Position>,
    /// When something last happened that the cluster has to recover from.
    disturbed: u64,
    /// Whether all trouble is over, and since when.
    healed: bool,
    healed_since: Option<u64>,
    /// Whether the story tells of every message between nodes.
    traced: bool,
    /// What happened, for people.
    pub story: Vec<String>,
}

impl World {
    /// The beginning of a history.
    pub fn new(seed: u64, faults: Faults, mutant: Option<Mutant>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let plan = Plan::new(seed, faults, &mut rng);
        let rooms = (0..plan.rooms).map(|it| format!("room-{it}").into()).collect();
        let mut network = Network::default();
        network.capacity = plan.capacity;
        let mut world = Self {
            faults,
            mutant,
            plan,
            outputs: 0,
            now: BEGINNING,
            agenda: Agenda::default(),
            nodes: Vec::new(),
            version: 0,
            network,
            dialling: BTreeSet::new(),
            clients: Vec::new(),
            by_socket: BTreeMap::new(),
            rooms,
            seen: Seen::new(),
            sockets: 0,
            record: Record::default(),
            consumers: None,
            maps: None,
            probed: BTreeMap::new(),
            disturbed: BEGINNING,
            healed: false,
            healed_since: None,
            traced: std::env::var_os("SIMULATOR_TRACE").is_some(),
            story: Vec::new(),
            rng,
        };
        world.prepare();
        world
    }

    /// The same with groups of consumers in every room.
    pub fn with_consumers(mut self, seed: u64) -> Self {
        // What is between their members and their homes is new.
        self.plan.mixed = false;
        self.plan_consumers(seed);
        self
    }

    /// The same with maps.
    pub fn with_maps(mut self, seed: u64) -> Self {
        self.plan.mixed = false;
        self.plan_maps(seed);
        self
    }

    /// The same with rooms on disk that are often out of memory.
    pub fn with_idle_rooms(mut self) -> Self {
        self.plan_idle_rooms();
        self
    }

    fn later(&mut self, delay: u64, happening: Happening) {
        self.agenda.add(self.now + delay, happening);
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        let at = self.now - BEGINNING;
        self.story.push(format!("{at:>6} ms  {}", line()));
    }

    /// Lets everything happen, and judges it.
    ///
    /// # Errors
    /// If a promise is broken.
    pub fn run(&mut self) -> Result<(), String> {
        self.pass_until(self.now + LONGEST, |world| world.healed)?;
        if !self.healed {
            return Err("the cluster does not come to rest between troubles".to_owned());
        }
        let end = self.now + REST + if self.plan.idle { IDLE } else { 0 };
        self.pass_until(end, |_| false)?;
        self.now = end;
        self.judge()
    }

    /// Lets everything happen up to `end`, or until `enough`.
    fn pass_until(&mut self, end: u64, enough: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !enough(self)
            && let Some((at, happening)) = self.agenda.next(end)
        {
            // What was to happen while someone waited for an answer happens late.
            self.now = self.now.max(at);
            self.happen(happening)?;
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        match happening {
            Happening::Tick(node, generation) => self.tick(node, generation)?,
            Happening::GoOn(node, generation) => self.go_on(node, generation)?,
            Happening::Arrive(frame) => self.arrive(frame)?,
            Happening::See { node, generation, version, view } => {
                self.see(node, generation, version, view)?;
            }
            Happening::Look => self.everyone_looks(),
            Happening::GetToKnow(node, generation) => self.get_to_know(node, generation),
            Happening::Dial(a, b) => self.dial(a, b)?,
            Happening::Silent { node, peer, link, since } => {
                self.silent_since(node, peer, link, since)?;
            }
            Happening::Closed { node, peer, link } => self.closed(node, peer, link)?,
            Happening::Publish => self.publish()?,
            Happening::PublishThrough(node, generation) => {
                self.publish_through(node, generation)?
            }
            Happening::PublishTo(room, size) => self.publish_to(room, size)?,
            Happening::Retry(number, tries) => self.try_to_publish(number, tries)?,
            Happening::Return(client) => self.come_back(client)?,
            Happening::Again(client, socket) => self.again(client, socket)?,
            Happening::Dismiss(client, socket) => self.dismiss(client, socket)?,
            Happening::LoseClient => self.lose_client()?,
            Happening::Start(node) => self.start(node),
            Happening::Written(node, generation) => self.written(node, generation)?,
            Happening::Scrubbed(node, generation) => self.scrubbed(node, generation)?,
            Happening::Drain(left) => self.drain(left),
            Happening::HandOver { node, generation, since, left } => {
                self.hand_over(node, generation, since, left)?;
            }
            Happening::Stop { node, generation, left } => self.stop(node, generation, left)?,
            Happening::Probe => self.probe()?,
            Happening::Consumer(act) => self.consumer_acts(act)?,
            Happening::Map(act) => self.map_acts(&act)?,
            trouble => self.go_wrong(trouble)?,
        }
        Ok(())
    }
}
