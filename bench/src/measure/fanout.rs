//! `fanout`: the server's CPU time per delivery, beside that of a plain `send(2)` loop.
//!
//! In: how many subscribers, how fast, how large. Out: [`Fanout`], the figures of rounds that
//! alternate between the server and the floor, so that both see the same machine.

use crate::cores::Apart;
use crate::floor::Floor;
use crate::limits;
use crate::publisher::Via;
use crate::rounds::{Pace, RoomLoad, Round, Served, Traffic, WARM_UP_MESSAGES, floor_round};
use crate::table::{Report, Table, count, median};
use crate::target::{Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

const ROOM: &str = "fanout";

/// The options of `fanout`.
#[derive(Args, Clone, Debug)]
pub struct FanoutArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    load: RoomLoad,
    /// Seconds of publishing that are measured, all rounds together
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
    /// Rounds that the time is divided into; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Which way publications go in
    #[arg(long, value_enum, default_value_t = Via::Ws)]
    via: Via,
    /// Publish as fast as the server delivers, rather than at --rate
    #[arg(long)]
    saturate: bool,
    /// With --saturate: publications on their way at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    window: u64,
}

impl FanoutArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs, saturate: bool) -> Self {
        Self {
            target,
            load: RoomLoad::of_readme(),
            seconds: 10,
            rounds: 5,
            via: Via::Ws,
            saturate,
            window: 64,
        }
    }

    fn traffic(&self) -> Traffic {
        self.load.traffic(ROOM)
    }

    /// The pace of one round.
    fn pace(&self) -> Pace {
        if self.saturate {
            let time = Duration::from_secs(self.seconds.into()) / self.rounds;
            return Pace::Saturate { window: self.window, time };
        }
        let messages = u64::from(self.load.rate) * u64::from(self.seconds) / u64::from(self.rounds);
        Pace::Rate { per_second: self.load.rate, messages: messages.max(1) }
    }
}

/// The figures of a fan-out.
#[derive(Clone, Debug)]
pub struct Fanout {
    args: FanoutArgs,
    /// Rounds of the server, and beside each its round of the floor.
    rounds: Vec<(Round, Round)>,
    closed: u64,
    first_close: Option<String>,
}

/// Runs the measurement.
pub fn run(args: &FanoutArgs) -> Result<Fanout> {
    // Each subscriber has a connection here to the server and one to the floor server.
    limits::require_files(2 * args.load.subscribers)?;
    let cores = Apart::servers()?;
    let node = args.target.node()?;
    let nodes = std::slice::from_ref(&node);
    let mut bench = Bench::set_up(args.traffic(), nodes, args.via, args.target.api_key())?;
    cores.as_ref().map(Apart::load).transpose()?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(bench.pair_of_rounds(args.pace())?);
    }
    let counts = bench.served.fleet.counts().clone();
    let received: u64 = rounds.iter().map(|(server, _)| server.received).sum();
    let why =
        || counts.first_close.clone().unwrap_or_else(|| "no connection was closed".to_owned());
    ensure!(received > 0, "the server delivered nothing ({})", why());
    Ok(Fanout {
        args: args.clone(),
        rounds,
        closed: counts.closed,
        first_close: counts.first_close,
    })
}

/// A server with its clients and the floor with its own, connected and warm.
pub(crate) struct Bench {
    pub(crate) served: Served,
    floor: Floor,
}

impl Bench {
    /// Connects subscribers, spread over `nodes`, a publisher to the first of these, and as many clients to the
    /// floor.
    pub(crate) fn set_up(
        traffic: Traffic,
        nodes: &[Node],
        via: Via,
        api_key: &str,
    ) -> Result<Self> {
        let clients = traffic.subscribers;
        let mut served = Served::set_up(traffic, nodes, via, api_key)?;
        // The floor sends as many bytes as the server was seen to send.
        let mut floor = Floor::start(clients as usize, served.frame_bytes as usize)?;
        served.fleet.open(floor.plan(), clients as usize)?;
        floor_round(&mut served.fleet, &mut floor, clients, WARM_UP_MESSAGES, 0)?;
        Ok(Self { served, floor })
    }

    /// A round of the server, then one of the floor with as many messages.
    pub(crate) fn pair_of_rounds(&mut self, pace: Pace) -> Result<(Round, Round)> {
        let server = self.served.round(pace)?;
        let Self { served: Served { fleet, traffic, .. }, floor } = self;
        let rate = match pace {
            Pace::Rate { per_second, .. } => per_second,
            Pace::Saturate { .. } => 0,
        };
        let floor = floor_round(fleet, floor, traffic.subscribers, server.messages, rate)?;
        Ok((server, floor))
    }
}

impl Fanout {
    /// CPU time per delivery of the median round, in microseconds: (server, floor).
    pub fn micros(&self) -> (f64, f64) {
        let server = median(self.rounds.iter().map(|(server, _)| server.micros_per_delivery()));
        let floor = median(self.rounds.iter().map(|(_, floor)| floor.micros_per_delivery()));
        (server, floor)
    }

    /// How many times the floor's CPU time the server takes, in the median pair of rounds.
    pub fn ratio(&self) -> f64 {
        let ratio = |(server, floor): &(Round, Round)| {
            server.micros_per_delivery() / floor.micros_per_delivery()
        };
        median(self.rounds.iter().map(ratio))
    }

    /// The server's deliveries per CPU-second, in the median round.
    pub fn per_cpu_second(&self) -> f64 {
        median(self.rounds.iter().map(|(server, _)| server.per_cpu_second()))
    }

    /// The server's deliveries a second by the wall clock, in the median round.
    pub fn per_second(&self) -> f64 {
        median(self.rounds.iter().map(|(server, _)| server.per_second()))
    }

    /// Deliveries of the server that did not come.
    pub fn lost(&self) -> u64 {
        self.rounds.iter().map(|(server, _)| server.lost()).sum()
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        Report { title: self.title(), table: self.table(), notes: self.notes(), json: self.json() }
    }

    fn title(&self) -> String {
        let RoomLoad { subscribers, rate, size } = self.args.load;
        let subscribers = count(subscribers);
        match self.args.saturate {
            true => format!("Fan-out, saturated: {subscribers} subscribers, {size} B"),
            false => format!("Fan-out: {rate} messages/s to {subscribers} subscribers, {size} B"),
        }
    }

    fn table(&self) -> Table {
        let head = [
            "round",
            "server µs/delivery",
            "floor µs/delivery",
            "ratio",
            "server per CPU-s",
            "server per s",
            "delivered",
            "lost",
        ];
        let mut table = Table::new(head);
        for (index, (server, floor)) in self.rounds.iter().enumerate() {
            let (ours, least) = (server.micros_per_delivery(), floor.micros_per_delivery());
            table.row([
                (index + 1).to_string(),
                format!("{ours:.2}"),
                format!("{least:.2}"),
                format!("{:.2}", ours / least),
                count(server.per_cpu_second() as u64),
                count(server.per_second() as u64),
                count(server.received),
                count(server.lost()),
            ]);
        }
        let ((server, floor), received) = (self.micros(), self.received());
        table.row([
            "median".to_owned(),
            format!("{server:.2}"),
            format!("{floor:.2}"),
            format!("{:.2}", self.ratio()),
            count(self.per_cpu_second() as u64),
            count(self.per_second() as u64),
            format!("{} in all", count(received)),
            format!("{} in all", count(self.lost())),
        ]);
        table
    }

    fn received(&self) -> u64 {
        self.rounds.iter().map(|(server, _)| server.received).sum()
    }

    fn notes(&self) -> Vec<String> {
        let (server, floor) = self.rounds[0];
        let mut notes = vec![format!(
            "A delivery is {} bytes on the wire; the floor sends {} by one send(2) each.",
            server.frame_bytes(),
            floor.frame_bytes()
        )];
        if floor.lost() > 0 {
            notes.push(format!(
                "The floor server lost {} deliveries: don't trust this run.",
                floor.lost()
            ));
        }
        if let Some(why) = &self.first_close {
            notes
                .push(format!("{} connections were closed, the first because: {why}", self.closed));
        }
        notes
    }

    fn json(&self) -> Value {
        let (server, floor) = self.micros();
        let rounds: Vec<Value> = self.rounds.iter().map(round_json).collect();
        json!({
            "bench": if self.args.saturate { "fanout-saturated" } else { "fanout" },
            "subscribers": self.args.load.subscribers,
            "rate": (!self.args.saturate).then_some(self.args.load.rate),
            "size": self.args.load.size,
            "server_us_per_delivery": server,
            "floor_us_per_delivery": floor,
            "ratio": self.ratio(),
            "deliveries_per_cpu_second": self.per_cpu_second(),
            "deliveries_per_second": self.per_second(),
            "received": self.received(),
            "lost": self.lost(),
            "closed": self.closed,
            "rounds": rounds,
        })
    }
}

fn round_json((server, floor): &(Round, Round)) -> Value {
    json!({
        "server_us_per_delivery": server.micros_per_delivery(),
        "floor_us_per_delivery": floor.micros_per_delivery(),
        "server_frame_bytes": server.frame_bytes(),
        "floor_frame_bytes": floor.frame_bytes(),
        "expected": server.expected,
        "received": server.received,
        "wall_seconds": server.wall.as_secs_f64(),
    })
}
