//! `queue`: messages through a group of consumers: published, given to one of them, acknowledged.
//!
//! In: how many consumers, and how many messages. Out: [`Queue`], from the first publication to the last
//! acknowledgement, with rooms in memory and on disk in one run.

use crate::conn::Care;
use crate::dialect::Who;
use crate::fleet::Fleet;
use crate::http;
use crate::server::{QUEUE, QUEUE_ON_DISK};
use crate::table::{Report, Table, count, median};
use crate::target::{self, Node, TargetArgs};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// The group.
const GROUP: &str = "bench";
/// Without an acknowledgement for so long, some are lost.
const PATIENCE: Duration = Duration::from_secs(30);

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
}

/// One kind of rooms.
#[derive(Clone, Copy, Debug)]
struct Kind {
    per_second: f64,
    /// CPU time of all nodes for a message, in µs.
    cpu: f64,
}

/// Both.
#[derive(Clone, Debug)]
pub struct Queue {
    args: QueueArgs,
    memory: Kind,
    disk: Kind,
}

/// Runs the measurement.
pub fn run(args: &QueueArgs) -> Result<Queue> {
    let nodes = args.target.nodes_on_disk(args.nodes as usize)?;
    let (mut memory, mut disk) = (Vec::new(), Vec::new());
    for number in 0..args.rounds {
        memory.push(round(args, &nodes, QUEUE, number)?);
        disk.push(round(args, &nodes, QUEUE_ON_DISK, number)?);
    }
    Ok(Queue { args: args.clone(), memory: middle(&memory), disk: middle(&disk) })
}

fn middle(rounds: &[Kind]) -> Kind {
    let of = |what: fn(&Kind) -> f64| median(rounds.iter().map(what));
    Kind { per_second: of(|it| it.per_second), cpu: of(|it| it.cpu) }
}

/// What comes between this text and the next quote.
fn quoted<'a>(message: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let at = message.windows(before.len()).position(|it| it == before)? + before.len();
    let length = message[at..].iter().position(|it| *it == b'"')?;
    Some(&message[at..at + length])
}

fn round(args: &QueueArgs, nodes: &[Node], namespace: &str, number: u32) -> Result<Kind> {
    let room = |of: u64| format!("{namespace}:queue-{number}-{}", of % args.rooms);
    let mut fleet = Fleet::new()?;
    for consumer in 0..args.consumers {
        let data = json!({"group": GROUP, "prefetch": args.prefetch});
        let who = Who { data: Some(data), ..Who::new(&[room(consumer)]) };
        let node = &nodes[consumer as usize % nodes.len()];
        fleet.open(node.plan(who, Care::Need), 1)?;
    }
    let processes = target::processes(nodes)?;
    let (begun, cpu) = (Instant::now(), processes.cpu_time()?);
    let publisher = publish(args, &nodes[0], room);
    let (mut acked, mut given, mut last) =
        (0_u64, vec![Vec::new(); args.consumers as usize], begun);
    let mut id = 100_u32;
    while acked < args.messages {
        let mut stale = None;
        fleet.pump(Duration::from_millis(100), |consumer, message| {
            match quoted(message, br#""roomcast-delivery":""#) {
                Some(delivery) => {
                    given[consumer].push(String::from_utf8_lossy(delivery).into_owned())
                }
                None if message.windows(9).any(|it| it == b"\"results\"") => {
                    acked += message.windows(4).filter(|it| it == b"\"ok\"").count() as u64;
                    last = Instant::now();
                    if message.windows(7).any(|it| it == b"\"stale\"") {
                        stale = Some(String::from_utf8_lossy(message).into_owned());
                    }
                }
                None => {}
            }
        })?;
        ensure!(stale.is_none(), "an acknowledgement came too late: {stale:?}");
        for (consumer, given) in given.iter_mut().enumerate().filter(|(_, it)| !it.is_empty()) {
            id += 1;
            let deliveries = std::mem::take(given);
            let data = json!({"channel": room(consumer as u64), "deliveries": deliveries});
            let ack = json!({"id": id, "rpc": {"method": "queue.ack", "data": data}});
            fleet.send(consumer, ack.to_string().as_bytes())?;
        }
        if last.elapsed() > PATIENCE {
            bail!("{acked} of {} messages were acknowledged, then none", args.messages);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    publisher.join().ok().context("the publisher has panicked")??;
    let cpu = (processes.cpu_time()? - cpu).as_secs_f64() * 1e6 / args.messages as f64;
    Ok(Kind { per_second: args.messages as f64 / seconds, cpu })
}

/// Publishes all messages, in calls of some, on a thread of its own. A room that is full is tried again.
fn publish(
    args: &QueueArgs,
    node: &Node,
    room: impl Fn(u64) -> String + Clone,
) -> thread::JoinHandle<Result<()>> {
    let rooms: Vec<String> = (0..args.rooms).map(room).collect();
    let (address, key) = (node.address(), args.target.api_key().to_owned());
    let (data, messages) = ("x".repeat(args.size), args.messages);
    thread::spawn(move || {
        let mut left: Vec<Value> = Vec::new();
        let mut next = 0;
        while next < messages || !left.is_empty() {
            while left.len() < 500 && next < messages {
                let room = &rooms[(next % rooms.len() as u64) as usize];
                left.push(json!({"channel": room, "data": data}));
                next += 1;
            }
            let replies = http::post_batch(address, "publish", &key, left.clone())?;
            let refused = replies.iter().map(|it| it["publish"].is_null());
            left = std::mem::take(&mut left)
                .into_iter()
                .zip(refused)
                .filter(|(_, refused)| *refused)
                .map(|(it, _)| it)
                .collect();
        }
        Ok(())
    })
}

impl Queue {
    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let QueueArgs { nodes, consumers, prefetch, rooms, size, messages, .. } = self.args;
        let mut table = Table::new(["rooms", "messages/s", "µs CPU per message"]);
        for (name, kind) in [("in memory", self.memory), ("on disk, synced", self.disk)] {
            let cpu = format!("{:.1}", kind.cpu);
            table.row([name.to_owned(), count(kind.per_second as u64), cpu]);
        }
        let title = format!(
            "Queue: {nodes} node(s), {consumers} consumers with a prefetch of {prefetch} in {rooms} rooms, {} messages of {size} bytes",
            count(messages)
        );
        let notes = vec![
            "From the first publication to the last acknowledgement; each message was published by the server API, given to \
             one consumer, and acknowledged with others that had come by then. This program and the nodes share the machine."
                .to_owned(),
        ];
        let json = |kind: Kind| json!({"per_second": kind.per_second, "cpu_us": kind.cpu});
        let data = json!({"memory": json(self.memory), "disk": json(self.disk)});
        Report { title, table, notes, json: data }
    }
}
