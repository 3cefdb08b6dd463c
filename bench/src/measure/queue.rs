//! `queue`: messages through a group of consumers: published, given to one of them, acknowledged.
//!
//! In: how many consumers, and how many messages. Out: [`Queue`], from the first publication to the last
//! acknowledgement, with rooms in memory and on disk in one run, and JetStream's beside them if it is installed.

use crate::conn::Care;
use crate::dialect::Who;
use crate::peers::{self, Installed};
use crate::queue::{self, Done, Work, jetstream};
use crate::server::{QUEUE, QUEUE_ON_DISK};
use crate::table::{Report, Table, count, median};
use crate::target::{self, Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};

/// The options of `queue`.
#[derive(Args, Clone, Debug)]
pub struct QueueArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Nodes; with two, what is published and what is acknowledged is on both before it is answered
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=8))]
    nodes: u64,
    /// Consumers, each with a connection of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    consumers: u64,
    /// Messages that a consumer has at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    prefetch: u64,
    /// Rooms that the consumers are spread over
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rooms: u64,
    /// Messages in a round
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Bytes of a message's data
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Rounds of each kind, in turn; figures are the median round's
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    installed: Installed,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Memory,
    Disk,
    JetStreamMemory,
    JetStreamDisk,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "Roomcast, in memory",
            Self::Disk => "Roomcast, on disk, synced",
            Self::JetStreamMemory => "JetStream, in memory",
            Self::JetStreamDisk => "JetStream, on disk, synced",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::JetStreamMemory => "jetstream_memory",
            Self::JetStreamDisk => "jetstream_disk",
        }
    }
}

/// What a kind came to.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    /// CPU time of all nodes for a message, in µs.
    cpu: f64,
}

/// All kinds.
#[derive(Clone, Debug)]
pub struct Queue {
    args: QueueArgs,
    kinds: Vec<(Kind, Figures)>,
}

/// Runs the measurement.
pub fn run(args: &QueueArgs) -> Result<Queue> {
    let nodes = args.target.nodes_on_disk(args.nodes as usize)?;
    let places = args.installed.places();
    let jetstream = places.map(|it| peers::start_jetstream(&it)).transpose()?;
    let mut kinds = vec![(Kind::Memory, Vec::new()), (Kind::Disk, Vec::new())];
    if jetstream.is_some() {
        kinds.extend([(Kind::JetStreamMemory, Vec::new()), (Kind::JetStreamDisk, Vec::new())]);
    }
    for number in 0..args.rounds {
        for (kind, rounds) in &mut kinds {
            let nodes = match (&*kind, &jetstream) {
                (Kind::JetStreamMemory | Kind::JetStreamDisk, Some(it)) => &it.nodes,
                _ => &nodes,
            };
            rounds.push(args.round(*kind, nodes, number)?);
        }
    }
    let middle = |rounds: &[Figures]| {
        let of = |what: fn(&Figures) -> f64| median(rounds.iter().map(what));
        Figures { per_second: of(|it| it.per_second), cpu: of(|it| it.cpu) }
    };
    let kinds = kinds.into_iter().map(|(kind, rounds)| (kind, middle(&rounds))).collect();
    Ok(Queue { args: args.clone(), kinds })
}

impl QueueArgs {
    fn round(&self, kind: Kind, nodes: &[Node], number: u32) -> Result<Figures> {
        let namespace = if kind == Kind::Disk { QUEUE_ON_DISK } else { QUEUE };
        let room = |of| format!("{namespace}:{}-{number}-{of}", kind.key());
        let work = Work {
            rooms: (0..self.rooms).map(room).collect(),
            group: "bench".to_owned(),
            prefetch: self.prefetch,
            messages: self.messages,
            rate: 0,
            size: self.size,
        };
        let processes = target::processes(nodes)?;
        let cpu = processes.cpu_time()?;
        let done = self.work(kind, nodes, &work)?;
        let (acked, again) = (done.acked, done.again + done.stale);
        ensure!(acked == self.messages, "{acked} of {} were acknowledged", self.messages);
        ensure!(again == 0, "{again} messages were given again, without a reason");
        let cpu = (processes.cpu_time()? - cpu).as_secs_f64() * 1e6 / self.messages as f64;
        Ok(Figures { per_second: self.messages as f64 / done.took.as_secs_f64(), cpu })
    }

    fn work(&self, kind: Kind, nodes: &[Node], work: &Work) -> Result<Done> {
        match kind {
            Kind::JetStreamMemory => jetstream::run(work, self.consumers, &nodes[0], "memory"),
            Kind::JetStreamDisk => jetstream::run(work, self.consumers, &nodes[0], "file"),
            Kind::Memory | Kind::Disk => {
                let plan = |consumer: u64| {
                    let (rooms, data) = (vec![work.wanted(consumer)], Some(work.data()));
                    let who = Who { rooms, token: None, data };
                    nodes[consumer as usize % nodes.len()].plan(who, Care::Need)
                };
                let plans = (0..self.consumers).map(plan).collect();
                queue::run(work, plans, nodes[0].address(), self.target.api_key())
            }
        }
    }
}

impl Queue {
    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let QueueArgs { nodes, consumers, prefetch, rooms, size, messages, .. } = self.args;
        let mut table = Table::new(["rooms", "messages/s", "µs CPU per message"]);
        for (kind, figures) in &self.kinds {
            let cpu = format!("{:.1}", figures.cpu);
            table.row([kind.name().to_owned(), count(figures.per_second as u64), cpu]);
        }
        let title = format!(
            "Queue: {nodes} node(s), {consumers} consumers with a prefetch of {prefetch} in {rooms} rooms, {} messages of {size} bytes",
            count(messages)
        );
        let mut notes = vec![
            "From the first publication to the last acknowledgement. Each message was published by the server API, 500 in a \
             call, given to one consumer, and acknowledged with others that had come by then. This program and the nodes \
             share the machine."
                .to_owned(),
        ];
        if self.args.installed.places().is_some() {
            notes.push(
                "JetStream: one server, a stream and a durable pull consumer for each room, 500 publications on their way; \
                 each message is acknowledged with an answer."
                    .to_owned(),
            );
        }
        let json = |(kind, it): &(Kind, Figures)| {
            (kind.key().to_owned(), json!({"per_second": it.per_second, "cpu_us": it.cpu}))
        };
        let data = Value::Object(self.kinds.iter().map(json).collect());
        Report { title, table, notes, json: data }
    }
}
