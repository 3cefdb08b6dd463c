//! `connect`: what it costs the server to take a client in: connect and subscribe.
//!
//! In: how many clients. Out: [`Connect`], the CPU time of rounds that start with a server without clients.

use crate::fleet::Fleet;
use crate::limits;
use crate::table::{Report, Table, count, median};
use crate::target::{TargetArgs, wait_until_empty};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

const ROOM: &str = "connect";

/// The options of `connect`.
#[derive(Args, Clone, Debug)]
pub struct ConnectArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Clients of each round, each subscribed to one room
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// Rounds; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl ConnectArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, clients: 5_000, rounds: 5 }
    }
}

/// What taking clients in came to, round by round.
#[derive(Clone, Debug)]
pub struct Connect {
    args: ConnectArgs,
    /// CPU time and wall time of each round.
    rounds: Vec<(Duration, Duration)>,
}

/// Runs the measurement.
pub fn run(args: &ConnectArgs) -> Result<Connect> {
    limits::require_files(args.clients)?;
    let nodes = args.target.nodes(1)?;
    let server = nodes[0].processes()?;
    let mut rounds = Vec::new();
    // The first round warms the server up.
    for _ in 0..=args.rounds {
        let (cpu, start) = (server.cpu_time()?, Instant::now());
        let mut fleet = Fleet::new()?;
        fleet.open(nodes[0].client_plan(&[ROOM.to_owned()], false), args.clients as usize)?;
        rounds.push((server.cpu_time()? - cpu, start.elapsed()));
        drop(fleet);
        wait_until_empty(&nodes)?;
    }
    rounds.remove(0);
    Ok(Connect { args: args.clone(), rounds })
}

impl Connect {
    /// Clients taken in for each second of CPU time, in the median round.
    pub fn per_cpu_second(&self) -> f64 {
        median(self.rounds.iter().map(|(cpu, _)| self.args.clients as f64 / cpu.as_secs_f64()))
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let clients = self.args.clients as f64;
        let mut table = Table::new(["round", "µs of CPU per client", "per CPU-s", "per s"]);
        for (index, (cpu, wall)) in self.rounds.iter().enumerate() {
            table.row([
                (index + 1).to_string(),
                format!("{:.1}", cpu.as_secs_f64() * 1e6 / clients),
                count((clients / cpu.as_secs_f64()) as u64),
                count((clients / wall.as_secs_f64()) as u64),
            ]);
        }
        let per_cpu_second = self.per_cpu_second();
        let micros = format!("{:.1}", 1e6 / per_cpu_second);
        table.row(["median".to_owned(), micros, count(per_cpu_second as u64), String::new()]);
        let title = format!("Connect and subscribe: {} clients a round", count(self.args.clients));
        let json = json!({
            "bench": "connect",
            "clients": self.args.clients,
            "clients_per_cpu_second": per_cpu_second,
        });
        let note = "A client is a TCP connection, a WebSocket upgrade, a connect and a subscribe.";
        Report { title, table, notes: vec![note.to_owned()], json }
    }
}
