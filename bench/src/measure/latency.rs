//! `latency`: from publishing to delivery, on one node and across the mesh.
//!
//! In: how fast, for how long, on how many nodes. Out: [`Latency`], a histogram for one node alone
//! and, in a mesh, for the publisher's own node and for another one. Where the rooms have their
//! home is the mesh's choice, so many rooms are used: on its way a message crosses one link or two,
//! or none.

use crate::fleet::{Fleet, time_left};
use crate::publisher::{Clock, Publisher, SMALLEST_PAYLOAD, Via, payload, stamp};
use crate::table::{Report, Table, count};
use crate::target::{Node, TargetArgs};
use anyhow::{Context, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Histograms hold up to a minute, in nanoseconds, to three digits.
const LONGEST: u64 = 60_000_000_000;
/// Without any delivery for this long, what is missing counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// Times that each room is published to before anything is measured.
const WARM_UP: u64 = 2;

/// The options of `latency`.
#[derive(Args, Clone, Debug)]
pub struct LatencyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Publications a second, the rooms in turn
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Seconds of publishing that are measured, on one node and again on the mesh
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Nodes of the mesh; 1 leaves the mesh out
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Rooms to publish to
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u8).range(1..=100))]
    rooms: u8,
    /// Bytes of a publication's data, JSON
    #[arg(long, default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(SMALLEST_PAYLOAD as i64..=60_000))]
    size: u32,
}

impl LatencyArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, rate: 100, seconds: 10, nodes: 3, rooms: 32, size: 128 }
    }

    fn load(&self) -> Load<'_> {
        let Self { rate, seconds, rooms, size, .. } = *self;
        Load { rate, seconds, rooms, size, api_key: self.target.api_key() }
    }
}

/// What is published while latencies are taken.
pub(crate) struct Load<'a> {
    pub(crate) rate: u32,
    pub(crate) seconds: u32,
    pub(crate) rooms: u8,
    pub(crate) size: u32,
    pub(crate) api_key: &'a str,
}

/// The latencies that one subscriber saw.
#[derive(Clone, Debug)]
pub struct Seen {
    label: &'static str,
    histogram: Histogram<u64>,
    expected: u64,
}

impl Seen {
    pub(crate) fn new(label: &'static str) -> Result<Self> {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).context("making a histogram")?;
        Ok(Self { label, histogram, expected: 0 })
    }

    /// Which subscriber it was.
    pub fn label(&self) -> &str {
        self.label
    }

    /// The latency, in milliseconds, that this share of the deliveries stayed within.
    pub fn millis(&self, quantile: f64) -> f64 {
        self.histogram.value_at_quantile(quantile) as f64 / 1e6
    }

    /// Deliveries that did not come.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.histogram.len())
    }
}

/// The latencies of a run.
#[derive(Clone, Debug)]
pub struct Latency {
    args: LatencyArgs,
    /// The subscriber on a node of its own, or the first of those measured.
    pub alone: Option<Seen>,
    /// In the mesh: the subscriber on the publisher's node, and the one on another node.
    pub mesh: Option<(Seen, Seen)>,
}

/// Runs the measurement.
pub fn run(args: &LatencyArgs) -> Result<Latency> {
    let size_of_mesh = args.target.available(usize::from(args.nodes));
    let in_mesh = size_of_mesh > 1;
    // Of attached servers that form a mesh, none is a node alone.
    let alone = if in_mesh && args.target.is_attached() {
        None
    } else {
        let node = args.target.node()?;
        let mut seen = [Seen::new("one node")?];
        measure(&args.load(), &node, &[&node], &mut seen)?;
        let [seen] = seen;
        Some(seen)
    };
    let mesh = if in_mesh {
        let nodes = args.target.nodes(size_of_mesh)?;
        let mut seen = [Seen::new("mesh, publisher's node")?, Seen::new("mesh, another node")?];
        measure(&args.load(), &nodes[0], &[&nodes[0], &nodes[1]], &mut seen)?;
        let [local, remote] = seen;
        Some((local, remote))
    } else {
        None
    };
    Ok(Latency { args: args.clone(), alone, mesh })
}

/// Publishes on `from` and records when each node of `to` delivers.
pub(crate) fn measure(load: &Load<'_>, from: &Node, to: &[&Node], seen: &mut [Seen]) -> Result<()> {
    let rooms: Vec<String> = (0..load.rooms).map(|room| format!("latency-{room}")).collect();
    let mut fleet = Fleet::new()?;
    // The subscribers are the fleet's first connections: their numbers are those of `seen`.
    for node in to {
        fleet.open(node.client_plan(&rooms, true), 1)?;
    }
    let publisher = Publisher::open(&mut fleet, from, Via::Ws, load.api_key)?;
    let clock = Clock::start();
    let mut run = Run { fleet, publisher, rooms, clock, size: load.size as usize, seen };
    run.publish(WARM_UP * u64::from(load.rooms), load.rate)?;
    for seen in run.seen.iter_mut() {
        ensure!(
            seen.lost() == 0,
            "{}: {} messages did not come while warming up",
            seen.label,
            seen.lost()
        );
        seen.histogram.reset();
        seen.expected = 0;
    }
    run.publish(u64::from(load.rate) * u64::from(load.seconds), load.rate)
}

struct Run<'a> {
    fleet: Fleet,
    publisher: Publisher,
    rooms: Vec<String>,
    clock: Clock,
    size: usize,
    seen: &'a mut [Seen],
}

impl Run<'_> {
    /// Publishes `messages` at `rate` a second, whatever the answers, and waits for the deliveries.
    fn publish(&mut self, messages: u64, rate: u32) -> Result<()> {
        let start = Instant::now();
        for index in 0..messages {
            let due = start + Duration::from_secs_f64(index as f64 / f64::from(rate));
            while let Some(left) = time_left(due) {
                self.receive(left)?;
            }
            let room = &self.rooms[index as usize % self.rooms.len()];
            let data = payload(self.size, self.clock.now());
            self.publisher.publish(&mut self.fleet, room, &data)?;
            self.seen.iter_mut().for_each(|seen| seen.expected += 1);
        }
        let mut deadline = Instant::now() + GRACE;
        let mut missing = self.missing();
        while missing > 0 {
            let Some(left) = time_left(deadline) else { break };
            self.receive(left)?;
            if self.missing() < missing {
                (missing, deadline) = (self.missing(), Instant::now() + GRACE);
            }
        }
        Ok(())
    }

    fn missing(&self) -> u64 {
        self.seen.iter().map(Seen::lost).sum()
    }

    fn receive(&mut self, timeout: Duration) -> Result<()> {
        let Self { fleet, publisher, clock, seen, .. } = self;
        fleet.pump(timeout, |id, message| {
            if publisher.take(id, message) {
                return;
            }
            if let (Some(seen), Some(sent)) = (seen.get_mut(id), stamp(message)) {
                seen.histogram.saturating_record(clock.now().saturating_sub(sent));
            }
        })?;
        publisher.check()
    }
}

impl Latency {
    /// Every subscriber's figures.
    pub fn seen(&self) -> impl Iterator<Item = &Seen> {
        let mesh = self.mesh.iter().flat_map(|(local, remote)| [local, remote]);
        self.alone.iter().chain(mesh)
    }

    /// Milliseconds that the mesh adds to the median of one node alone.
    pub fn added_by_mesh(&self) -> Option<f64> {
        let (alone, (_, remote)) = (self.alone.as_ref()?, self.mesh.as_ref()?);
        Some(remote.millis(0.5) - alone.millis(0.5))
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let LatencyArgs { rate, rooms, size, .. } = self.args;
        let title = format!("Latency: {rate} messages/s, {rooms} rooms in turn, {size} B");
        let note = self.added_by_mesh().map(|added| {
            format!("The way to another node adds {added:+.3} ms to the median of one node.")
        });
        Report { title, table: self.table(), notes: note.into_iter().collect(), json: self.json() }
    }

    fn table(&self) -> Table {
        let head = ["subscriber on", "p50 ms", "p90 ms", "p99 ms", "max ms", "delivered", "lost"];
        let mut table = Table::new(head);
        for seen in self.seen() {
            let millis = |quantile| format!("{:.3}", seen.millis(quantile));
            table.row([
                seen.label.to_owned(),
                millis(0.5),
                millis(0.9),
                millis(0.99),
                millis(1.0),
                count(seen.histogram.len()),
                count(seen.lost()),
            ]);
        }
        table
    }

    fn json(&self) -> Value {
        let seen = |seen: &Seen| {
            json!({
                "p50_ms": seen.millis(0.5),
                "p90_ms": seen.millis(0.9),
                "p99_ms": seen.millis(0.99),
                "max_ms": seen.millis(1.0),
                "received": seen.histogram.len(),
                "lost": seen.lost(),
            })
        };
        json!({
            "bench": "latency",
            "rate": self.args.rate,
            "seconds": self.args.seconds,
            "nodes": self.args.target.available(usize::from(self.args.nodes)),
            "rooms": self.args.rooms,
            "size": self.args.size,
            "one_node": self.alone.as_ref().map(seen),
            "mesh_local": self.mesh.as_ref().map(|(local, _)| seen(local)),
            "mesh_remote": self.mesh.as_ref().map(|(_, remote)| seen(remote)),
            "added_by_mesh_ms": self.added_by_mesh(),
        })
    }
}
