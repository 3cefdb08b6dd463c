//! `presence`: what it costs to come and go in a large room, and to ask how many are there.
//!
//! In: two sizes of a room. Out: [`Presence`], costs at both.

use crate::fleet::Fleet;
use crate::limits;
use crate::table::{Report, Table, count, median};
use crate::target::{Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// A room of the namespace with presence; nobody asks for joins and leaves.
const ROOM: &str = "present:all";
const LEAVE_DEADLINE: Duration = Duration::from_secs(10);

/// The options of `presence`.
#[derive(Args, Clone, Debug)]
pub struct PresenceArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Clients of the small room
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    small: u64,
    /// Clients of the large room
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    large: u64,
    /// Clients that come and go in a round
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    visitors: u64,
    /// Questions of a round
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..))]
    questions: u64,
    /// Rounds; figures are the median round's
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
}

impl PresenceArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, small: 1_000, large: 10_000, visitors: 1_000, questions: 3_000, rounds: 5 }
    }
}

/// CPU time, in µs, at one size of the room.
#[derive(Clone, Copy, Debug)]
struct Cost {
    clients: u64,
    /// Of one client that comes and goes.
    visit: f64,
    /// Of one `presence_stats`.
    stats: f64,
}

/// Costs at two sizes.
#[derive(Clone, Debug)]
pub struct Presence {
    small: Cost,
    large: Cost,
}

/// Runs the measurement.
pub fn run(args: &PresenceArgs) -> Result<Presence> {
    limits::require_files(args.large + args.visitors)?;
    let node = args.target.node()?;
    let mut fleet = Fleet::new()?;
    let plan = || node.client_plan(&[ROOM.to_owned()], false);
    fleet.open(plan(), args.small as usize)?;
    let small = cost(args, &node, &mut fleet, args.small)?;
    fleet.open(plan(), args.large.saturating_sub(args.small) as usize)?;
    let large = cost(args, &node, &mut fleet, args.large)?;
    Ok(Presence { small, large })
}

fn cost(args: &PresenceArgs, node: &Node, fleet: &mut Fleet, clients: u64) -> Result<Cost> {
    let (mut visits, mut stats) = (Vec::new(), Vec::new());
    wait_for(args, node, fleet, clients)?;
    for _ in 0..args.rounds {
        visits.push(visit(args, node, fleet, clients)?);
        stats.push(ask(args, node)?);
    }
    Ok(Cost { clients, visit: median(visits), stats: median(stats) })
}

/// Clients come, and go again.
fn visit(args: &PresenceArgs, node: &Node, fleet: &mut Fleet, clients: u64) -> Result<f64> {
    let server = node.processes()?;
    let cpu = server.cpu_time()?;
    let mut visitors = Fleet::new()?;
    visitors.open(node.client_plan(&[ROOM.to_owned()], false), args.visitors as usize)?;
    drop(visitors);
    wait_for(args, node, fleet, clients)?;
    Ok((server.cpu_time()? - cpu).as_secs_f64() * 1e6 / args.visitors as f64)
}

fn ask(args: &PresenceArgs, node: &Node) -> Result<f64> {
    let server = node.processes()?;
    let cpu = server.cpu_time()?;
    for _ in 0..args.questions {
        present(args, node)?;
    }
    Ok((server.cpu_time()? - cpu).as_secs_f64() * 1e6 / args.questions as f64)
}

fn present(args: &PresenceArgs, node: &Node) -> Result<u64> {
    let room = json!({"channel": ROOM});
    let answer = node.call("presence_stats", args.target.api_key(), &room)?;
    Ok(answer["num_clients"].as_u64().unwrap_or(0))
}

/// Returns when the room has just `clients`.
fn wait_for(args: &PresenceArgs, node: &Node, fleet: &mut Fleet, clients: u64) -> Result<()> {
    let deadline = Instant::now() + LEAVE_DEADLINE;
    loop {
        let here = present(args, node)?;
        if here == clients {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{here} clients are in the room, not {clients}");
        fleet.idle(Duration::from_millis(20))?;
    }
}

impl Presence {
    /// How many times the cost in the small room a visit, and a question, cost in the large one.
    pub fn ratios(&self) -> (f64, f64) {
        (self.large.visit / self.small.visit, self.large.stats / self.small.stats)
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let head =
            ["clients in the room", "µs per client that comes and goes", "µs per presence_stats"];
        let mut table = Table::new(head);
        for cost in [self.small, self.large] {
            table.row([
                count(cost.clients),
                format!("{:.1}", cost.visit),
                format!("{:.1}", cost.stats),
            ]);
        }
        let (visits, stats) = self.ratios();
        table.row(["ratio".to_owned(), format!("{visits:.2}"), format!("{stats:.2}")]);
        let json = json!({
            "bench": "presence",
            "small": {"clients": self.small.clients, "visit_us": self.small.visit, "stats_us": self.small.stats},
            "large": {"clients": self.large.clients, "visit_us": self.large.visit, "stats_us": self.large.stats},
            "visit_ratio": visits, "stats_ratio": stats,
        });
        let note = "Each presence_stats is a request to the server API on a connection of its own; \
                    a visit is a connection, a subscription, and the end of both.";
        let title = "Presence: a small room and a large one, nobody asks for joins".to_owned();
        Report { title, table, notes: vec![note.to_owned()], json }
    }
}
