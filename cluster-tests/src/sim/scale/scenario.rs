//! Which rooms there are, who is in them, and what opening them, publishing into them and a death take.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use fastrand::Rng;
use roomcast::{
    cluster::placement::{self, Placement},
    room::{options::RoomOptions, registry::RoomSettings, types::RoomName},
};

use super::{
    Traffic,
    cluster::{Cluster, Work},
};

/// Bytes of a publication's data.
pub const SIZE: usize = 128;
/// Members of a chat room.
const MEMBERS: usize = 100;
/// Publications into the hot room.
const HOT: usize = 100;

/// What the rooms are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// One room, with subscribers on every node.
    Hot,
    /// Rooms of 100 members, who are on any nodes.
    Chat,
    /// A room for each client.
    Notices,
}

/// A cluster and its rooms.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// How many nodes.
    pub nodes: usize,
    /// What the rooms are for.
    pub what: Use,
    /// How many rooms.
    pub rooms: usize,
    /// Whether they keep what is said.
    pub history: bool,
}

/// What it took.
#[derive(Debug)]
pub struct Outcome {
    /// The cluster and its rooms.
    pub scenario: Scenario,
    /// Subscriptions.
    pub subscriptions: usize,
    /// The most rooms that one node knows, and how many all do, each counted where it is known.
    pub known: (usize, usize),
    /// What was said while everyone subscribed.
    pub opening: Traffic,
    /// CPU time of all cores and codecs meanwhile.
    pub opening_cpu: Duration,
    /// How many publications there were.
    pub publications: usize,
    /// What was said of them.
    pub publishing: Traffic,
    /// CPU time of all cores and codecs meanwhile.
    pub publishing_cpu: Duration,
    /// Publications that were to be given to subscribers, counted by node.
    pub expected: u64,
}

/// What the death of a node took.
#[derive(Debug)]
pub struct Death {
    /// Rooms that it was home of.
    pub moved: usize,
    /// What was said.
    pub traffic: Traffic,
    /// What each core had to do.
    pub work: Vec<Work>,
    /// CPU time of all cores and codecs.
    pub cpu: Duration,
}

/// A cluster with rooms in it.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    scenario: Scenario,
    rng: Rng,
    /// The rooms, and where their members are.
    rooms: Vec<(RoomName, Vec<usize>)>,
}

impl Stage {
    /// Nodes that know each other, and nobody there yet.
    pub fn new(scenario: Scenario) -> Self {
        let Scenario { nodes, what, rooms, history } = scenario;
        let mut rng = Rng::with_seed(7);
        let mut members = || match what {
            Use::Hot => (0..nodes).collect(),
            Use::Chat => (0..MEMBERS).map(|_| rng.usize(..nodes)).collect(),
            Use::Notices => vec![rng.usize(..nodes)],
        };
        let rooms = (0..rooms).map(|it| (room_name(it), members())).collect();
        Self { cluster: Cluster::new(nodes, options(history)), scenario, rng, rooms }
    }

    /// Everyone subscribes, and messages are published.
    pub fn play(&mut self) -> Outcome {
        let (opening, opening_cpu) = super::timed(|| {
            for (room, members) in &self.rooms {
                members.iter().for_each(|node| self.cluster.subscribe(*node, room));
            }
            self.cluster.pass(1_000);
            self.cluster.take_traffic()
        });
        let nodes = 0..self.scenario.nodes;
        let known = nodes.filter_map(|it| self.cluster.state(it)).map(|it| it.rooms());
        let known = known.fold((0, 0), |(most, all), it| (most.max(it), all + it));
        let publishers = self.publishers();
        let expected = publishers.iter().map(|(_, room)| self.nodes_of(*room) as u64).sum();
        let (publishing, publishing_cpu) = super::timed(|| {
            for (node, room) in &publishers {
                self.cluster.publish(*node, &self.rooms[*room].0, SIZE);
            }
            self.cluster.take_traffic()
        });
        Outcome {
            scenario: self.scenario,
            subscriptions: self.rooms.iter().map(|(_, members)| members.len()).sum(),
            known,
            opening,
            opening_cpu,
            publications: publishers.len(),
            publishing,
            publishing_cpu,
            expected,
        }
    }

    /// Who publishes into which room: one of a chat's members, else the application, by any node.
    fn publishers(&mut self) -> Vec<(usize, usize)> {
        let (nodes, rng) = (self.scenario.nodes, &mut self.rng);
        match self.scenario.what {
            Use::Hot => (0..HOT).map(|_| (rng.usize(..nodes), 0)).collect(),
            Use::Chat => (0..self.rooms.len())
                .map(|room| (self.rooms[room].1[rng.usize(..MEMBERS)], room))
                .collect(),
            Use::Notices => (0..self.rooms.len()).map(|room| (rng.usize(..nodes), room)).collect(),
        }
    }

    fn nodes_of(&self, room: usize) -> usize {
        let living = self.rooms[room].1.iter().filter(|it| self.cluster.state(**it).is_some());
        living.collect::<BTreeSet<_>>().len()
    }

    /// A node dies that is home to rooms.
    pub fn kill_a_home(&mut self) -> Death {
        let replicas = RoomSettings::default().replicas;
        let placement = Placement::new(self.cluster.infos(), replicas);
        let home = |room: &RoomName| placement.home(placement::slot(room));
        let first = self.rooms.first().and_then(|(room, _)| home(room));
        let moved = self.rooms.iter().filter(|(room, _)| home(room) == first).count();
        let dead = self.cluster.infos().position(|info| Some(info.id()) == first);
        self.cluster.take_traffic();
        let (work, cpu) = super::timed(|| self.cluster.kill(dead.unwrap_or_default()));
        Death { moved, traffic: self.cluster.take_traffic(), work, cpu }
    }

    /// Publishes once into every room through a node that lives. Returns how many nodes gave how many
    /// publications to their subscribers, and how many should have.
    pub fn publish_everywhere(&mut self) -> (u64, u64) {
        let living = (0..self.cluster.len()).find(|it| self.cluster.state(*it).is_some());
        let expected = (0..self.rooms.len()).map(|room| self.nodes_of(room) as u64).sum();
        for (room, _) in &self.rooms {
            self.cluster.publish(living.unwrap_or_default(), room, SIZE);
        }
        self.cluster.pass(1_000);
        (self.cluster.take_traffic().fan_outs, expected)
    }
}

fn options(history: bool) -> RoomOptions {
    if !history {
        return RoomOptions::default();
    }
    RoomOptions {
        history_size: 100,
        history_ttl: Duration::from_secs(3_600),
        history_meta_ttl: Duration::from_secs(36_000),
        force_recovery: true,
        force_positioning: true,
        ..RoomOptions::default()
    }
}

/// A room's name, as all scenarios have them; without a colon, which would name a namespace.
pub fn room_name(number: usize) -> RoomName {
    Arc::from(format!("room-{number:08}"))
}
