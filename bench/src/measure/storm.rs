//! `storm`: a node is killed, and all of its clients come to the other two and recover what they missed.
//!
//! In: how many clients, rooms and messages. Out: [`Storm`], how long it took and what it cost.

use crate::dialect::Since;
use crate::fleet::Fleet;
use crate::limits;
use crate::reading::Processes;
use crate::table::{Report, Table, count};
use crate::target::{self, Node, TargetArgs};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Memory is back when it is this many times what it was before, or less.
const BACK: f64 = 1.2;
const BACK_DEADLINE: Duration = Duration::from_secs(30);
const BETWEEN_READINGS: Duration = Duration::from_millis(100);

/// The options of `storm`.
#[derive(Args, Clone, Debug)]
pub struct StormArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Clients of the node that is killed
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    clients: u64,
    /// Rooms that they are spread over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    rooms: u64,
    /// Messages that each of them has to recover
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=300))]
    messages: u64,
}

impl StormArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, clients: 10_000, rooms: 10, messages: 100 }
    }
}

/// What a storm came to.
#[derive(Clone, Debug)]
pub struct Storm {
    args: StormArgs,
    /// From the kill to the last client that is live.
    wall: Duration,
    /// CPU time of the other two nodes.
    cpu: Duration,
    recovered: u64,
    /// Memory of the other two in KiB: before, with the clients, and once they are gone again.
    memory: [u64; 3],
    /// How long after the clients went it was [`BACK`]; none: it was not in time.
    back: Option<Duration>,
}

/// Runs the measurement.
pub fn run(args: &StormArgs) -> Result<Storm> {
    ensure!(!args.target.is_attached(), "a storm kills a node, so it starts its own");
    limits::require_files(args.clients)?;
    let mut nodes = args.target.nodes(3)?;
    let killed = nodes.remove(0);
    let rooms: Vec<String> = (0..args.rooms).map(|room| format!("kept:{room}")).collect();
    // They have had as many clients, so that what a server takes to start is not in its memory before.
    let mut fleet = Fleet::new()?;
    for (room, node, share) in shares(args, &rooms, &nodes) {
        fleet.open(node.client_plan(std::slice::from_ref(room), false), share)?;
    }
    drop(fleet);
    target::wait_until_empty(&nodes)?;
    let mut fleet = Fleet::new()?;
    for room in &rooms {
        let share = (args.clients / args.rooms) as usize;
        fleet.open(killed.client_plan(std::slice::from_ref(room), false), share)?;
    }
    let epochs = publish(args, &nodes[0], &rooms)?;
    let others = target::processes(&nodes)?;
    let before = others.settled_memory(&mut fleet)?.memory.private;
    let cpu_before = others.cpu_time()?;
    let start = Instant::now();
    drop((killed, fleet));
    let mut fleet = Fleet::new()?;
    for (room, node, share) in shares(args, &rooms, &nodes) {
        let since = Since { epoch: epochs[room].clone(), offset: 0 };
        fleet.open(node.returning_plan(room, since), share)?;
    }
    let wall = start.elapsed();
    let cpu = others.cpu_time()? - cpu_before;
    let recovered = fleet.counts().recovered;
    let after = others.settled_memory(&mut fleet)?.memory.private;
    drop(fleet);
    target::wait_until_empty(&nodes)?;
    let mut nobody = Fleet::new()?;
    let back = wait_until_back(before, &others, &mut nobody)?;
    let gone = others.settled_memory(&mut nobody)?.memory.private;
    Ok(Storm { args: args.clone(), wall, cpu, recovered, memory: [before, after, gone], back })
}

/// How many clients of each room go to each of the nodes.
fn shares<'a>(
    args: &StormArgs,
    rooms: &'a [String],
    nodes: &'a [Node],
) -> impl Iterator<Item = (&'a String, &'a Node, usize)> {
    let share = (args.clients / args.rooms) as usize;
    rooms.iter().flat_map(move |room| {
        let shares = nodes.iter().zip([share / 2, share - share / 2]);
        shares.map(move |(node, share)| (room, node, share))
    })
}

fn wait_until_back(
    before: u64,
    processes: &Processes,
    fleet: &mut Fleet,
) -> Result<Option<Duration>> {
    let start = Instant::now();
    while start.elapsed() < BACK_DEADLINE {
        if processes.memory()?.private as f64 <= before as f64 * BACK {
            return Ok(Some(start.elapsed()));
        }
        fleet.idle(BETWEEN_READINGS)?;
    }
    Ok(None)
}

/// Publishes what is to be recovered. Returns the rooms' epochs.
fn publish<'a>(
    args: &StormArgs,
    node: &Node,
    rooms: &'a [String],
) -> Result<HashMap<&'a String, String>> {
    let data = "x".repeat(128);
    let key = args.target.api_key();
    let publish = |room: &'a String| {
        let mut epoch = String::new();
        for _ in 0..args.messages {
            let answer = node.call("publish", key, &json!({"channel": room, "data": data}))?;
            epoch = answer["epoch"].as_str().context("a publish without an epoch")?.to_owned();
        }
        Ok((room, epoch))
    };
    rooms.iter().map(publish).collect()
}

impl Storm {
    /// Seconds from the kill until all are live again, and how many have not recovered everything.
    pub fn outcome(&self) -> (f64, u64) {
        let clients = self.args.clients / self.args.rooms * self.args.rooms;
        (self.wall.as_secs_f64(), clients.saturating_sub(self.recovered))
    }

    /// The memory of the other two once the clients are gone, as a ratio to that of before.
    pub fn memory_left(&self) -> f64 {
        let [before, _, gone] = self.memory;
        gone as f64 / before as f64
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let StormArgs { clients, rooms, messages, .. } = self.args;
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        row("from the kill until all are live again", format!("{:.2} s", self.wall.as_secs_f64()));
        row(
            "recovered",
            format!("{} of {}", count(self.recovered), count(clients / rooms * rooms)),
        );
        let micros = self.cpu.as_secs_f64() * 1e6 / clients as f64;
        row("CPU time of the other two nodes per client", format!("{micros:.0} µs"));
        let [before, after, gone] = self.memory;
        row(
            "their memory before, with the clients, and once they are gone",
            format!("{}, {}, {} KiB", count(before), count(after), count(gone)),
        );
        let back = self.back.map_or_else(
            || format!("not within {} s", BACK_DEADLINE.as_secs()),
            |it| format!("{:.1} s", it.as_secs_f64()),
        );
        row("within 20 % of before, after the clients had gone for", back);
        let title = format!(
            "Storm: {} clients in {rooms} rooms lose their node and recover {messages} messages each",
            count(clients)
        );
        let json = json!({
            "bench": "storm", "clients": clients, "rooms": rooms, "messages": messages,
            "seconds": self.wall.as_secs_f64(), "recovered": self.recovered,
            "cpu_us_per_client": micros, "memory_kib": {"before": before, "after": after, "gone": gone},
            "memory_back_seconds": self.back.map(|it| it.as_secs_f64()),
        });
        let notes = vec![
            "Before, as many clients had come to the two and gone again, so what a server takes to start is not \
             in its memory."
                .to_owned(),
        ];
        Report { title, table, notes, json }
    }
}
