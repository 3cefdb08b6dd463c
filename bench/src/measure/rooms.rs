//! `rooms`: many rooms with one subscriber each, over a mesh: what a room costs in memory, and what a delivery
//! costs when every one is of another room.
//!
//! In: how many rooms and nodes. Out: [`Rooms`].

use crate::conn::{Care, Plan};
use crate::dialect::Who;
use crate::fleet::{Fleet, time_left};
use crate::limits;
use crate::publisher::{Publisher, Via, payload};
use crate::table::{Report, Table, count, median};
use crate::target::{Node, TargetArgs, processes, sum_of_metric};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rooms of one client, under the server's limit of 128.
const ROOMS_OF_A_CLIENT: u64 = 100;
/// Without any progress for this long, what is missing counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// The options of `rooms`.
#[derive(Args, Clone, Debug)]
pub struct RoomsArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rooms, each with one subscriber
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(100..=1_500_000))]
    rooms: u64,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Publications that may be on their way
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    window: u64,
    /// Bytes of a publication's data, JSON
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(33..=60_000))]
    size: u32,
    /// Rounds: in each, one publication to every room; figures are the median round's
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl RoomsArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { nodes: 3, ..Self::of_growth(target, 200_000) }
    }

    /// So many rooms, on one node.
    pub fn of_growth(target: TargetArgs, rooms: u64) -> Self {
        Self { target, rooms, nodes: 1, window: 256, size: 128, rounds: 3 }
    }
}

/// What many rooms cost.
#[derive(Clone, Debug)]
pub struct Rooms {
    args: RoomsArgs,
    /// Rooms that nodes know, added up over the nodes.
    known: u64,
    /// Bytes of all nodes' memory that came with the rooms.
    bytes: u64,
    /// CPU time and deliveries of each round.
    rounds: Vec<(Duration, u64)>,
}

/// Runs the measurement.
pub fn run(args: &RoomsArgs) -> Result<Rooms> {
    let clients = args.rooms / ROOMS_OF_A_CLIENT;
    limits::require_files(clients)?;
    let nodes = args.target.nodes(args.target.available(usize::from(args.nodes)))?;
    let servers = processes(&nodes)?;
    // Clients without rooms first, so that what is added are rooms and subscriptions alone.
    let mut fleet = Fleet::new()?;
    fleet.open_each(plans(&nodes, clients, |_| Vec::new()))?;
    let before = servers.settled_memory(&mut fleet)?.memory.private;
    drop(fleet);
    let mut fleet = Fleet::new()?;
    fleet.open_each(plans(&nodes, clients, rooms_of))?;
    let after = servers.settled_memory(&mut fleet)?.memory.private;
    let known = sum_of_metric(&nodes, "roomcast_rooms")? as u64;
    ensure!(known > 0, "the nodes say that they know no room");
    let mut publisher = Publisher::open(&mut fleet, &nodes[0], Via::Ws, args.target.api_key())?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let (cpu, delivered) = (servers.cpu_time()?, fleet.counts().deliveries);
        publish_to_each(args, &mut fleet, &mut publisher)?;
        let delivered = fleet.counts().deliveries - delivered;
        rounds.push((servers.cpu_time()? - cpu, delivered));
    }
    let bytes = after.saturating_sub(before) * 1024;
    Ok(Rooms { args: args.clone(), known, bytes, rounds })
}

/// Clients spread over the nodes.
fn plans(
    nodes: &[Node],
    clients: u64,
    rooms: impl Fn(u64) -> Vec<String>,
) -> impl ExactSizeIterator<Item = Arc<Plan>> {
    let plan = move |client: usize| {
        let who = Who::new(&rooms(client as u64));
        Arc::new(nodes[client % nodes.len()].plan(who, Care::Count))
    };
    (0..clients as usize).map(plan)
}

fn rooms_of(client: u64) -> Vec<String> {
    let first = client * ROOMS_OF_A_CLIENT;
    (first..first + ROOMS_OF_A_CLIENT).map(room).collect()
}

fn room(number: u64) -> String {
    format!("room-{number}")
}

/// One publication to every room, at most a window of them on their way.
fn publish_to_each(args: &RoomsArgs, fleet: &mut Fleet, publisher: &mut Publisher) -> Result<()> {
    let data = payload(args.size as usize, 0);
    let rooms = args.rooms / ROOMS_OF_A_CLIENT * ROOMS_OF_A_CLIENT;
    let (acked, delivered) = (publisher.acked, fleet.counts().deliveries);
    let (mut sent, mut arrived, mut arrived_at) = (0, 0, Instant::now());
    while arrived < rooms {
        while sent < rooms.min(arrived + args.window) {
            publisher.publish(fleet, &room(sent), &data)?;
            sent += 1;
        }
        fleet.pump(Duration::from_millis(100), |id, message| publisher.read(id, message))?;
        publisher.check()?;
        let now = (fleet.counts().deliveries - delivered).min(publisher.acked - acked);
        if now > arrived {
            (arrived, arrived_at) = (now, Instant::now());
        } else if time_left(arrived_at + GRACE).is_none() {
            break;
        }
    }
    Ok(())
}

impl Rooms {
    /// CPU time of all nodes for one publication and its delivery, in µs, in the median round.
    pub fn micros_per_delivery(&self) -> f64 {
        let micros = |(cpu, delivered): &(Duration, u64)| {
            cpu.as_secs_f64() * 1e6 / (*delivered).max(1) as f64
        };
        median(self.rounds.iter().map(micros))
    }

    /// Bytes that a room costs each node that knows it, its subscription included.
    pub fn bytes_per_room(&self) -> f64 {
        self.bytes as f64 / self.known as f64
    }

    /// Deliveries that did not come.
    pub fn lost(&self) -> u64 {
        let rooms = self.args.rooms / ROOMS_OF_A_CLIENT * ROOMS_OF_A_CLIENT;
        self.rounds.iter().map(|(_, delivered)| rooms.saturating_sub(*delivered)).sum()
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let RoomsArgs { rooms, nodes, .. } = self.args;
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        row("rooms known, added up over the nodes", count(self.known));
        row("memory per room and node that knows it", format!("{:.0} B", self.bytes_per_room()));
        row(
            "CPU time of all nodes per publication and delivery",
            format!("{:.1} µs", self.micros_per_delivery()),
        );
        row("deliveries lost", count(self.lost()));
        let title = format!("Rooms: {} with one subscriber each, on {nodes} node(s)", count(rooms));
        let json = json!({
            "bench": "rooms", "rooms": rooms, "nodes": nodes, "known": self.known,
            "bytes_per_room": self.bytes_per_room(),
            "us_per_delivery": self.micros_per_delivery(), "lost": self.lost(),
        });
        let note = format!(
            "A client has {ROOMS_OF_A_CLIENT} rooms; a room's memory includes its subscription."
        );
        Report { title, table, notes: vec![note], json }
    }
}
