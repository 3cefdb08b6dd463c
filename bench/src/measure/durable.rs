//! `durable`: what it costs to acknowledge publications that are synced to disk, beside those in memory.
//!
//! In: how many publications are under way. Out: [`Durable`], figures of both kinds of rooms in one run, with JetStream
//! and Redis Streams beside them if they are installed.

use crate::durable::{Publication, jetstream::JetStream, redis::Redis};
use crate::peers::{self, Installed, Running};
use crate::server::ON_DISK;
use crate::table::{Report, Table, count, median, quantile};
use crate::target::{self, Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::{thread, time::Instant};

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
    /// Publications under way
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    under_way: u64,
    /// Callers, each with a connection of its own and its part of what is under way, all in one call of the server API
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=64))]
    callers: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Calls of each caller in a round
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u64).range(1..))]
    calls: u64,
    /// Rounds of each kind, in turn; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    installed: Installed,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Disk,
    /// Each publication by itself.
    JetStream,
    /// All of a caller's in one atomic batch.
    JetStreamBatches,
    Redis,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "Roomcast, in memory",
            Self::Disk => "Roomcast, on disk, synced",
            Self::JetStream => "JetStream, one node, synced",
            Self::JetStreamBatches => "JetStream, one node, synced, in atomic batches",
            Self::Redis => "Redis Streams, one node, synced",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::JetStream => "jetstream",
            Self::JetStreamBatches => "jetstream_batches",
            Self::Redis => "redis_streams",
        }
    }
}

/// Who does it, through one connection.
enum Server<'a> {
    Roomcast { namespace: &'static str, api_key: &'a str },
    JetStream(JetStream),
    JetStreamBatches(JetStream),
    Redis(Redis),
}

impl Server<'_> {
    /// Returns once all are acknowledged.
    fn publish(&mut self, node: &Node, publications: &[Publication<'_>]) -> Result<()> {
        match self {
            Self::JetStream(server) => server.publish(publications),
            Self::JetStreamBatches(server) => server.publish_atomically(publications),
            Self::Redis(server) => server.publish(publications),
            Self::Roomcast { namespace, api_key } => {
                let request = |it: &Publication<'_>| json!({"channel": format!("{namespace}:{}", it.room), "data": it.data});
                let requests = publications.iter().map(request).collect();
                let replies = node.calls("publish", api_key, requests)?;
                let refused = replies.iter().find(|it| it["publish"].is_null());
                ensure!(refused.is_none(), "a publication was refused: {refused:?}");
                Ok(())
            }
        }
    }
}

/// What a kind came to.
#[derive(Clone, Copy, Debug)]
struct Figures {
    acked_per_second: f64,
    /// CPU time of all nodes for a publication, in µs.
    cpu: f64,
    /// How long a call took, in ms: all of its publications were acknowledged then.
    p50: f64,
    p99: f64,
}

impl Figures {
    fn middle(rounds: &[Self]) -> Self {
        let of = |what: fn(&Self) -> f64| median(rounds.iter().map(what));
        Self {
            acked_per_second: of(|it| it.acked_per_second),
            cpu: of(|it| it.cpu),
            p50: of(|it| it.p50),
            p99: of(|it| it.p99),
        }
    }
}

/// All kinds.
#[derive(Clone, Debug)]
pub struct Durable {
    args: DurableArgs,
    kinds: Vec<(Kind, Figures)>,
    syncs: f64,
    /// The peers that could not be started, and why.
    missing: Vec<String>,
}

/// Runs the measurement.
pub fn run(args: &DurableArgs) -> Result<Durable> {
    ensure!(
        args.under_way >= args.callers,
        "each caller needs a publication (--under-way, --callers)"
    );
    let nodes = args.target.nodes_on_disk(args.nodes as usize)?;
    let (peers, missing) = args.start_peers();
    let own = [(Kind::Memory, &nodes[..]), (Kind::Disk, &nodes[..])];
    let others = peers.iter().map(|(kind, running)| (*kind, &running.nodes[..]));
    let mut kinds = Vec::new();
    for (kind, nodes) in own.into_iter().chain(others) {
        let callers: Result<Vec<_>> =
            (0..args.callers).map(|number| args.open(kind, &nodes[0], number)).collect();
        kinds.push((kind, callers?, nodes, Vec::new()));
    }
    // The first round is for rooms to be there, and to know their successors.
    for number in 0..=args.rounds {
        for (_, callers, nodes, rounds) in &mut kinds {
            let figures = args.round(callers, nodes)?;
            rounds.extend((number > 0).then_some(figures));
        }
    }
    let syncs = target::sum_of_metric(&nodes, "roomcast_log_syncs")?;
    let kinds = kinds.iter().map(|(kind, .., rounds)| (*kind, Figures::middle(rounds))).collect();
    Ok(Durable { args: args.clone(), kinds, syncs, missing })
}

impl DurableArgs {
    /// Each has a server of its own, so that none is slower for what another has left there. Also returns why some
    /// could not be started.
    fn start_peers(&self) -> (Vec<(Kind, Running)>, Vec<String>) {
        let (mut peers, mut missing) = (Vec::new(), Vec::new());
        for kind in [Kind::JetStream, Kind::JetStreamBatches, Kind::Redis] {
            let Some(places) = self.installed.places() else { break };
            let started = match kind {
                Kind::Redis => peers::start_durable_redis(&places),
                _ => peers::start_jetstream(&places),
            };
            match started {
                Ok(running) => peers.push((kind, running)),
                Err(why) => missing.push(format!("{}: {why:#}", kind.name())),
            }
        }
        (peers, missing)
    }

    /// A caller's connection.
    fn open(&self, kind: Kind, node: &Node, number: u64) -> Result<Server<'_>> {
        let roomcast = |namespace| Server::Roomcast { namespace, api_key: self.target.api_key() };
        Ok(match kind {
            Kind::Memory => roomcast(IN_MEMORY),
            Kind::Disk => roomcast(ON_DISK),
            Kind::Redis => Server::Redis(Redis::open(node.address())?),
            Kind::JetStream => Server::JetStream(JetStream::open(node, number)?),
            Kind::JetStreamBatches => Server::JetStreamBatches(JetStream::open(node, number)?),
        })
    }

    fn round(&self, callers: &mut [Server<'_>], nodes: &[Node]) -> Result<Figures> {
        let processes = target::processes(nodes)?;
        let (begun, cpu) = (Instant::now(), processes.cpu_time()?);
        let took: Result<Vec<Vec<f64>>> = thread::scope(|scope| {
            let calls =
                |(number, server)| scope.spawn(move || self.call(number, server, &nodes[0]));
            let calling: Vec<_> = (0..).zip(callers).map(calls).collect();
            let ended = calling.into_iter().map(|it| it.join().expect("a caller does not panic"));
            ended.collect()
        });
        let (took, seconds) = (took?.concat(), begun.elapsed().as_secs_f64());
        let publications = took.len() as u64 * self.of_a_call();
        let cpu = (processes.cpu_time()? - cpu).as_secs_f64() * 1e6 / publications as f64;
        Ok(Figures {
            acked_per_second: publications as f64 / seconds,
            cpu,
            p50: median(took.iter().copied()),
            p99: quantile(took.iter().copied(), 0.99),
        })
    }

    /// Publications of one call.
    fn of_a_call(&self) -> u64 {
        self.under_way / self.callers
    }

    /// What one caller does in a round. Returns how long each call took, in ms.
    fn call(&self, caller: u64, server: &mut Server<'_>, node: &Node) -> Result<Vec<f64>> {
        let (data, many) = ("x".repeat(self.size), self.of_a_call());
        let mut took = Vec::new();
        for call in 0..self.calls {
            // Far from each other, so that each call is of many rooms.
            let first = (call * self.callers + caller) * many;
            let room = |number: u64| (first + number).wrapping_mul(7_919) % self.rooms;
            let all: Vec<Publication<'_>> =
                (0..many).map(|number| Publication { room: room(number), data: &data }).collect();
            let sent = Instant::now();
            server.publish(node, &all)?;
            took.push(sent.elapsed().as_secs_f64() * 1e3);
        }
        Ok(took)
    }
}

impl Durable {
    /// How many times the CPU time of a publication in memory one on disk takes.
    pub fn ratio(&self) -> f64 {
        let cpu = |wanted| {
            let mut kinds = self.kinds.iter().filter(move |(kind, _)| *kind == wanted);
            kinds.next().map_or(f64::NAN, |(_, figures)| figures.cpu)
        };
        cpu(Kind::Disk) / cpu(Kind::Memory)
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let DurableArgs { nodes, rooms, callers, size, .. } = self.args;
        let many = self.args.of_a_call();
        let head = ["", "acked/s", "µs CPU per publication", "call p50, ms", "call p99, ms"];
        let (mut table, mut all) = (Table::new(head), serde_json::Map::new());
        for (kind, figures) in &self.kinds {
            table.row([
                kind.name().to_owned(),
                count(figures.acked_per_second as u64),
                format!("{:.1}", figures.cpu),
                format!("{:.1}", figures.p50),
                format!("{:.1}", figures.p99),
            ]);
            let json = json!({
                "acked_per_second": figures.acked_per_second, "cpu_us": figures.cpu,
                "call_p50_ms": figures.p50, "call_p99_ms": figures.p99,
            });
            all.insert(kind.key().to_owned(), json);
        }
        let title = format!(
            "Rooms on disk: {nodes} nodes, {} rooms, {callers} callers with {many} publications of {size} bytes each under way",
            count(rooms)
        );
        let mut notes = vec![
            format!("A publication on disk takes {:.2} × the CPU time of one in memory.", self.ratio()),
            format!("{} syncs on all of Roomcast's nodes.", count(self.syncs as u64)),
            "A caller's next call begins when all publications of its last one are acknowledged; this program and the nodes \
             share the machine."
                .to_owned(),
        ];
        notes.extend(self.missing.clone());
        all.insert("bench".to_owned(), json!("durable"));
        all.insert("cpu_ratio".to_owned(), json!(self.ratio()));
        Report { title, table, notes, json: all.into() }
    }
}
