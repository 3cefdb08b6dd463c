//! `roomcast bench queue`: messages through a group of consumers of a server that runs.
//!
//! In: URLs, how many consumers and messages, how fast. Out: a table, and whether every message was acknowledged.

use super::outcome::{QUANTILES, millis};
use crate::conn::{Care, Plan, Speak};
use crate::dialect::{Protocol, Who};
use crate::http;
use crate::limits;
use crate::queue::{self, Done, Work};
use crate::table::{Report, Table, count};
use crate::target::{Url, parse_url};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;

/// The options of `roomcast bench queue`.
#[derive(Args, Clone, Debug)]
pub struct QueueLoadArgs {
    /// Where consumers connect, ws://HOST:PORT/PATH; with more than one URL they are spread over them
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000/connection/websocket")]
    urls: Vec<String>,
    /// Key of the server API, by which messages are published at the first URL's host and port
    #[arg(long, value_name = "KEY")]
    api_key: String,
    /// Connection token of every consumer
    #[arg(long)]
    token: Option<String>,
    /// What rooms' names begin with: a namespace with queues
    #[arg(long, value_name = "PREFIX", default_value = "jobs:bench-")]
    room_prefix: String,
    /// Rooms, named PREFIX0, PREFIX1, …
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rooms: u64,
    /// The group. It begins behind what the rooms have, and is removed in the end: none that is in use
    #[arg(long, default_value = "bench")]
    group: String,
    /// Consumers, each with a connection of its own, one room after the other
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    consumers: u64,
    /// Messages that a consumer has at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    prefetch: u64,
    /// Messages
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Messages a second; 0: as fast as they are taken
    #[arg(long, default_value_t = 0)]
    rate: u32,
    /// Bytes of a message's data
    #[arg(long, default_value_t = 256)]
    size: usize,
    /// Print one line of JSON after the table
    #[arg(long)]
    json: bool,
}

/// Runs the load and prints what came of it. Returns whether every message was acknowledged.
pub fn run(args: &QueueLoadArgs) -> Result<bool> {
    limits::raise_open_files()?;
    limits::require_files(args.consumers)?;
    let urls = args.urls.iter().map(|url| parse_url(url)).collect::<Result<Vec<_>>>()?;
    for url in &urls {
        ensure!(url.secure_host.is_none(), "queues are loaded without TLS: give ws:// URLs");
    }
    ensure!(
        args.consumers >= args.rooms,
        "{} consumers can't take from {} rooms: each consumes of one",
        args.consumers,
        args.rooms
    );
    let api = urls.first().context("there is no URL")?.address;
    let work = args.work();
    for room in &work.rooms {
        let begin = json!({"channel": room, "group": work.group, "to": "last"});
        http::post(api, "queue_seek", &args.api_key, &begin)?;
    }
    let plans = (0..args.consumers).map(|it| args.plan(&work, &urls, it)).collect();
    let done = queue::run(&work, plans, api, &args.api_key);
    for room in &work.rooms {
        let group = json!({"channel": room, "group": work.group});
        http::post(api, "queue_remove", &args.api_key, &group)?;
    }
    let done = done?;
    args.report(&done).print(args.json);
    Ok(done.acked == args.messages)
}

impl QueueLoadArgs {
    fn work(&self) -> Work {
        Work {
            rooms: (0..self.rooms).map(|it| format!("{}{it}", self.room_prefix)).collect(),
            group: self.group.clone(),
            prefetch: self.prefetch,
            messages: self.messages,
            rate: self.rate,
            size: self.size,
        }
    }

    fn plan(&self, work: &Work, urls: &[Url], consumer: u64) -> Plan {
        let Url { address, path, .. } = &urls[consumer as usize % urls.len()];
        let (rooms, data) = (vec![work.wanted(consumer)], Some(work.data()));
        let who = Who { rooms, token: self.token.clone(), data };
        let dialect = Protocol::Json.dialect();
        let speak = Speak::Client { path: path.clone(), dialect, who, care: Care::Need };
        Plan { server: *address, security: None, speak, deflate: false }
    }

    fn report(&self, done: &Done) -> Report {
        let Done { acked, again, stale, refused, .. } = *done;
        let (lost, seconds) = (self.messages.saturating_sub(acked), done.took.as_secs_f64());
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        let rate = count((acked as f64 / seconds.max(1e-9)) as u64);
        row("published, given and acknowledged", format!("{} ({rate}/s)", count(acked)));
        row("not acknowledged", count(lost));
        row(
            "given again, and acknowledged too late",
            format!("{}, {}", count(again), count(stale)),
        );
        row("refused for a while, since a room was full", count(refused));
        // Without a rate it is how long the queue was.
        if self.rate > 0 {
            for (name, quantile) in QUANTILES {
                let taken = format!("{:.3} ms", millis(&done.latency, quantile));
                row(&format!("from due to given, {name}"), taken);
            }
        }
        let title = format!(
            "{} consumers of group {} in {} rooms, {} messages",
            count(self.consumers),
            self.group,
            count(self.rooms),
            count(self.messages)
        );
        let latencies = QUANTILES.map(|(name, at)| (name.to_owned(), millis(&done.latency, at)));
        let latencies: serde_json::Map<String, serde_json::Value> =
            latencies.into_iter().map(|(name, it)| (name, it.into())).collect();
        let json = json!({
            "consumers": self.consumers, "rooms": self.rooms, "messages": self.messages,
            "seconds": seconds, "acked": acked, "lost": lost, "again": again, "stale": stale,
            "refused": refused, "latency_ms": latencies,
        });
        Report { title, table, notes: Vec::new(), json }
    }
}
