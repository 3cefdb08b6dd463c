//! `roomcast bench`: load for a server that runs, and what its clients see of it.
//!
//! In: URLs, how many clients and rooms, how fast. Out: a [`Report`], and whether anything was lost. One thread
//! and one epoll are all clients; [`book`] says what each should have had, `outcome` what is printed.

pub mod book;
mod outcome;
pub mod queue;
mod session;

pub use session::Session;

use crate::conn::{Care, Plan, Speak};
use crate::dialect::{Protocol, Who};
use crate::limits;
use crate::table::Report;
use crate::target::{Url, parse_url};
use crate::wire::Security;
use anyhow::{Result, ensure};
use clap::{Args, Subcommand};
use std::str::FromStr;

/// The smallest payload: room for its time, its room's number and its own.
const SMALLEST: u32 = 80;

/// `roomcast bench`, and what there is of it for queues.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    other: Option<Other>,
    #[command(flatten)]
    load: LoadArgs,
}

#[derive(Subcommand, Clone, Debug)]
enum Other {
    /// Messages through a group of consumers: published, given to one of them, acknowledged. Exits with 3 if one was not.
    Queue(queue::QueueLoadArgs),
}

impl BenchArgs {
    /// Puts the load on the server and prints what came of it. Returns whether nothing was lost.
    pub fn run(&self) -> Result<bool> {
        match &self.other {
            Some(Other::Queue(args)) => queue::run(args),
            None => run(&self.load),
        }
    }
}

/// The options of a load on rooms.
#[derive(Args, Clone, Debug)]
pub struct LoadArgs {
    /// Where clients connect, ws://HOST:PORT/PATH or wss://…; with more than one URL they are spread over them
    #[arg(value_name = "URL", default_value = "ws://127.0.0.1:8000/connection/websocket")]
    urls: Vec<String>,
    /// Clients that subscribe
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Rooms, named PREFIX0, PREFIX1, …
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rooms: u32,
    /// Rooms that each client is in
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rooms_per_client: u32,
    /// What rooms' names begin with, for example a namespace: chat:
    #[arg(long, value_name = "PREFIX", default_value = "bench-")]
    room_prefix: String,
    /// Connections that publish, to one room after the other
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    publishers: u32,
    /// Publications a second, all publishers together; 0: none
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Bytes of a publication's data; FROM..TO for sizes between
    #[arg(long, default_value = "128", value_name = "BYTES")]
    size: Sizes,
    /// Seconds of publishing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    seconds: u32,
    /// What clients speak: json or protobuf
    #[arg(long, default_value = "json", value_parser = centrifuge)]
    protocol: Protocol,
    /// Take any certificate of wss:// servers
    #[arg(long)]
    insecure: bool,
    /// Connection token of every client
    #[arg(long)]
    token: Option<String>,
    /// Publish by the server API with this key, rather than as clients
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Clients a second that lose their connection and come back
    #[arg(long, default_value_t = 0)]
    churn: u32,
    /// Every so many seconds all clients lose their connections and come back at once; 0: never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    storm_every: u32,
    /// Print one line of JSON after the tables
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, short)]
    quiet: bool,
}

/// Sizes of publications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sizes {
    from: u32,
    to: u32,
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (from, to) = text.split_once("..").unwrap_or((text, text));
        let number = |text: &str| {
            text.parse().map_err(|_| format!("{text:?} is no size: give BYTES, or FROM..TO"))
        };
        let (from, to) = (number(from)?, number(to)?);
        if from < SMALLEST || to < from {
            return Err(format!("sizes are at least {SMALLEST} bytes, and FROM is not above TO"));
        }
        Ok(Self { from, to })
    }
}

fn centrifuge(text: &str) -> Result<Protocol, String> {
    match text {
        "json" => Ok(Protocol::Json),
        "protobuf" => Ok(Protocol::Protobuf),
        _ => Err("clients speak json or protobuf".to_owned()),
    }
}

/// What a load came to.
#[derive(Debug)]
pub struct Load {
    /// To be printed.
    pub report: Report,
    /// Whether publications were lost, also where the clients that missed them were told.
    pub has_loss: bool,
}

/// Puts the load on the server and prints what came of it. Returns whether nothing was lost.
pub fn run(args: &LoadArgs) -> Result<bool> {
    limits::raise_open_files()?;
    limits::require_files(u64::from(args.clients) + u64::from(args.publishers))?;
    ensure!(
        args.rooms_per_client <= args.rooms,
        "a client can't be in {} of {} rooms",
        args.rooms_per_client,
        args.rooms
    );
    let mut session = Session::connect(args)?;
    session.publish()?;
    session.drain()?;
    let load = session.load();
    load.report.print(args.json);
    Ok(!load.has_loss)
}

impl LoadArgs {
    /// Clients of one room of these servers, which a client of the first one publishes to.
    pub fn one_room(urls: Vec<String>, clients: u32, rate: u32, seconds: u32) -> Self {
        Self {
            urls,
            clients,
            rooms: 1,
            rooms_per_client: 1,
            room_prefix: "bench-".to_owned(),
            publishers: 1,
            rate,
            size: Sizes { from: 128, to: 128 },
            seconds,
            protocol: Protocol::Json,
            insecure: false,
            token: None,
            api_key: None,
            churn: 0,
            storm_every: 0,
            json: false,
            quiet: true,
        }
    }
}

/// Where clients can connect.
#[derive(Debug)]
struct Servers {
    all: Vec<Place>,
    protocol: Protocol,
}

#[derive(Debug)]
struct Place {
    url: Url,
    security: Option<Security>,
}

impl Servers {
    fn new(args: &LoadArgs) -> Result<Self> {
        let place = |url: &String| {
            let url = parse_url(url)?;
            let secure = url.secure_host.as_deref();
            let security = secure.map(|host| Security::new(host, args.insecure)).transpose()?;
            Ok(Place { url, security })
        };
        let all = args.urls.iter().map(place).collect::<Result<_>>()?;
        Ok(Self { all, protocol: args.protocol })
    }

    /// Whose turn it is.
    fn of(&self, client: usize) -> &Place {
        &self.all[client % self.all.len()]
    }

    /// A client of the server that is its turn.
    fn plan(&self, client: usize, who: Who, care: Care) -> Plan {
        let Place { url, security } = self.of(client);
        let (path, dialect) = (url.path.clone(), self.protocol.dialect());
        let speak = Speak::Client { path, dialect, who, care };
        Plan { server: url.address, security: security.clone(), speak, deflate: false }
    }

    fn api(&self, caller: usize) -> Plan {
        let Place { url, security } = self.of(caller);
        Plan { server: url.address, security: security.clone(), speak: Speak::Api, deflate: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_one_or_a_range() {
        assert_eq!("128".parse(), Ok(Sizes { from: 128, to: 128 }));
        assert_eq!("80..4096".parse(), Ok(Sizes { from: 80, to: 4096 }));
        for bad in ["", "12", "200..100", "a..b", "100..", "1e3"] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
    }
}
