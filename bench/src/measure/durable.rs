//! `durable`: what it costs to acknowledge publications that are synced to disk, beside those in memory.
//!
//! In: how many publications are under way. Out: [`Durable`], figures of both kinds of rooms in one run.

use crate::server::ON_DISK;
use crate::table::{Report, Table, count, median, quantile};
use crate::target::{self, Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::time::Instant;

/// The namespace that keeps its rooms in memory.
const IN_MEMORY: &str = "kept";

/// The options of `durable`.
#[derive(Args, Clone, Debug)]
pub struct DurableArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes; with two, a publication is on both before it is acknowledged
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=8))]
    nodes: u64,
    /// Rooms
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    rooms: u64,
    /// Publications under way: all of one call of the server API
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    under_way: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Calls in a round
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Rounds of each kind, in turn; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

/// One kind of rooms.
#[derive(Clone, Copy, Debug)]
struct Kind {
    acked_per_second: f64,
    /// CPU time of all nodes for a publication, in µs.
    cpu: f64,
    /// How long a call took, in ms: all of its publications were acknowledged then.
    p50: f64,
    p99: f64,
}

/// Both.
#[derive(Clone, Debug)]
pub struct Durable {
    args: DurableArgs,
    memory: Kind,
    disk: Kind,
    syncs: f64,
}

/// Runs the measurement.
pub fn run(args: &DurableArgs) -> Result<Durable> {
    let nodes = args.target.nodes_on_disk(args.nodes as usize)?;
    let (mut memory, mut disk) = (Vec::new(), Vec::new());
    // Rooms are there, and know their successors.
    round(args, &nodes, IN_MEMORY)?;
    round(args, &nodes, ON_DISK)?;
    for _ in 0..args.rounds {
        memory.push(round(args, &nodes, IN_MEMORY)?);
        disk.push(round(args, &nodes, ON_DISK)?);
    }
    let syncs = target::sum_of_metric(&nodes, "roomcast_log_syncs")?;
    let (memory, disk) = (middle(&memory), middle(&disk));
    Ok(Durable { args: args.clone(), memory, disk, syncs })
}

fn middle(rounds: &[Kind]) -> Kind {
    let of = |what: fn(&Kind) -> f64| median(rounds.iter().map(what));
    Kind {
        acked_per_second: of(|it| it.acked_per_second),
        cpu: of(|it| it.cpu),
        p50: of(|it| it.p50),
        p99: of(|it| it.p99),
    }
}

fn round(args: &DurableArgs, nodes: &[Node], namespace: &str) -> Result<Kind> {
    let data = "x".repeat(args.size);
    let processes = target::processes(nodes)?;
    let (begun, cpu, mut took) = (Instant::now(), processes.cpu_time()?, Vec::new());
    let publications = args.calls * args.under_way;
    for call in 0..args.calls {
        let request = |number: u64| {
            // Far from each other, so that each call is of many rooms.
            let room = (call * args.under_way + number).wrapping_mul(7_919) % args.rooms;
            json!({"channel": format!("{namespace}:{room}"), "data": data})
        };
        let requests: Vec<Value> = (0..args.under_way).map(request).collect();
        let sent = Instant::now();
        let replies = nodes[0].calls("publish", args.target.api_key(), requests)?;
        took.push(sent.elapsed().as_secs_f64() * 1e3);
        let refused = replies.iter().find(|it| it["publish"].is_null());
        ensure!(refused.is_none(), "a publication was refused: {refused:?}");
    }
    let seconds = begun.elapsed().as_secs_f64();
    let cpu = (processes.cpu_time()? - cpu).as_secs_f64() * 1e6 / publications as f64;
    Ok(Kind {
        acked_per_second: publications as f64 / seconds,
        cpu,
        p50: median(took.iter().copied()),
        p99: quantile(took.iter().copied(), 0.99),
    })
}

impl Durable {
    /// How many times the CPU time of a publication in memory one on disk takes.
    pub fn ratio(&self) -> f64 {
        self.disk.cpu / self.memory.cpu
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let DurableArgs { nodes, rooms, under_way, size, .. } = self.args;
        let head = ["rooms", "acked/s", "µs CPU per publication", "call p50, ms", "call p99, ms"];
        let mut table = Table::new(head);
        let kinds = [("in memory", self.memory), ("on disk, synced", self.disk)];
        for (name, kind) in kinds {
            table.row([
                name.to_owned(),
                count(kind.acked_per_second as u64),
                format!("{:.1}", kind.cpu),
                format!("{:.1}", kind.p50),
                format!("{:.1}", kind.p99),
            ]);
        }
        let json = |kind: Kind| {
            json!({
                "acked_per_second": kind.acked_per_second, "cpu_us": kind.cpu,
                "call_p50_ms": kind.p50, "call_p99_ms": kind.p99,
            })
        };
        let title = format!(
            "Rooms on disk: {nodes} nodes, {} rooms, {under_way} publications of {size} bytes under way",
            count(rooms)
        );
        let notes = vec![
            format!("A publication on disk takes {:.2} × the CPU time of one in memory.", self.ratio()),
            format!("{} syncs on all nodes.", count(self.syncs as u64)),
            "Each call is of so many publications, and answered when all are acknowledged; this program and the \
             nodes share the machine."
                .to_owned(),
        ];
        let json = json!({
            "bench": "durable", "memory": json(self.memory), "disk": json(self.disk), "cpu_ratio": self.ratio(),
        });
        Report { title, table, notes, json }
    }
}
