//! `join` and `drain`: a node comes to two others, or leaves two others, that have very many rooms with history.
//! What is lost, how long does it take, and what does a publisher notice?
//!
//! In: how many rooms, and how fast to publish meanwhile. Out: [`Moved`].

use crate::fleet::time_left;
use crate::kept::{self, Fate};
use crate::limits;
use crate::server::LEAVING_DEADLINE;
use crate::settling::{self, LONGEST_INPUT, Watch};
use crate::steady::{Latencies, Published, Steady, SteadyLoad};
use crate::table::{Report, Table, count};
use crate::target::{Node, TargetArgs};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::thread;
use std::time::{Duration, Instant};

/// How long is published before anything moves, to compare with.
const BEFORE: Duration = Duration::from_secs(10);
/// How long nodes keep what only the load has asked after, and then some.
const FORGOTTEN: Duration = Duration::from_secs(5);
/// How long it may take: for so many rooms.
const GOAL: (u64, Duration) = (200_000, Duration::from_secs(10));
/// How finely the timeline tells.
const STEP: Duration = Duration::from_millis(500);
/// What 99 % of the publications have to stay within, in milliseconds.
const GOAL_P99: f64 = 100.0;

/// The options of `join` and `drain`.
#[derive(Args, Clone, Debug)]
pub struct MovesArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rooms with one acknowledged publication each
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(100..=3_000_000))]
    rooms: u32,
    /// Bytes of that publication's data, JSON
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(33..=4096))]
    size: u32,
    /// Also say what a publisher noticed in each half second
    #[arg(long)]
    timeline: bool,
    #[command(flatten)]
    load: SteadyLoad,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    Join,
    Drain,
}

/// What a node's coming or going came to.
#[derive(Clone, Debug)]
pub struct Moved {
    args: MovesArgs,
    what: Move,
    /// Until the new node served, or the old one had ended.
    node: Duration,
    /// Until every room was where it should be.
    rooms: Duration,
    /// Of all publications, those of the load too.
    fate: Fate,
    published: Published,
    before: Latencies,
    meanwhile: Latencies,
    /// Of each [`STEP`] from when the node was started or told to leave.
    timeline: Vec<Latencies>,
    /// The longest input of a registry in milliseconds, before and from then on.
    longest_input: (f64, f64),
    /// Rooms known in the end, added up over the nodes.
    copies: u64,
}

/// Measures a node that joins two others.
pub fn join(args: &MovesArgs) -> Result<Moved> {
    run(args, Move::Join)
}

/// Measures a node that leaves two others.
pub fn drain(args: &MovesArgs) -> Result<Moved> {
    run(args, Move::Drain)
}

fn run(args: &MovesArgs, what: Move) -> Result<Moved> {
    ensure!(!args.target.is_attached(), "nodes come and go, so they are started here");
    limits::require_files(args.load.connections() as u64)?;
    let (key, rooms, busy) = (args.target.api_key(), args.rooms as usize, args.load.load_rooms);
    let mut nodes = args.target.nodes(if what == Move::Join { 2 } else { 3 })?;
    let mut acked = kept::fill(&nodes[0], key, rooms + busy as usize, args.size as usize)?;
    let watch = || Watch::new(args.rooms.into(), busy.into());
    watch().wait(&nodes, LEAVING_DEADLINE)?;
    settling::wait_until_calm(&nodes)?;
    let load = Steady::start(args.load, &nodes[0], key, rooms);
    let started = Instant::now();
    thread::sleep(BEFORE);
    let longest_before = settling::longest_input(&nodes)?;
    let (mut watch, begun) = (watch(), Instant::now());
    match what {
        Move::Join => nodes.push(args.target.join(&nodes)?),
        Move::Drain => {
            let leaving = nodes.pop().context("there is no node to leave")?;
            wait_until_gone(leaving, &nodes, &mut watch)?;
        }
    }
    let node = Instant::now();
    let settled = watch.wait(&nodes, LEAVING_DEADLINE)?;
    let published = load.finish()?;
    thread::sleep(FORGOTTEN);
    let copies = settling::copies(&nodes)?;
    acked.extend(published.acked().cloned());
    Ok(Moved {
        args: args.clone(),
        what,
        node: node - begun,
        rooms: settled - begun,
        fate: kept::fate(acked, &nodes, key)?,
        before: published.latencies(started..begun),
        meanwhile: published.latencies(begun..settled.max(node)),
        timeline: published.timeline(begun..settled.max(node), STEP),
        published,
        longest_input: (longest_before, watch.longest_input),
        copies,
    })
}

/// Tells a node to leave, and looks at all until it has ended.
fn wait_until_gone(mut leaving: Node, others: &[Node], watch: &mut Watch) -> Result<()> {
    let deadline = Instant::now() + 2 * LEAVING_DEADLINE;
    leaving.terminate()?;
    while !leaving.has_ended()? {
        ensure!(time_left(deadline).is_some(), "the node that was told to leave is still there");
        watch.look(others)?;
        // It stops answering before it ends.
        if let Ok(longest) = settling::longest_input(std::slice::from_ref(&leaving)) {
            watch.longest_input = watch.longest_input.max(longest);
        }
        watch.pause();
    }
    Ok(())
}

impl Moved {
    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let MovesArgs { rooms, load, .. } = self.args;
        let what = match self.what {
            Move::Join => "Join: a node comes to two",
            Move::Drain => "Drain: one of three nodes leaves",
        };
        let title = format!(
            "{what} that have {} rooms with history, at {} publications/s",
            count(rooms.into()),
            load.rate
        );
        let mut notes = vec![
            "Nodes count their rooms once a second, so a move is seen to be over up to a second late. \
             Publications count from when they were due."
                .to_owned(),
        ];
        let refusal = self.published.first_refusal.iter();
        notes.extend(refusal.map(|it| format!("The first refusal: {it}")));
        if self.args.timeline {
            notes.extend(self.timeline.iter().enumerate().map(|(step, it)| {
                let at = STEP.as_secs_f64() * step as f64;
                format!("From {at:.1} s: {}", millis(*it))
            }));
        }
        Report { title, table: self.table(), notes, json: self.json() }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(["figure", "measured", "goal"]);
        let mut row = |what: &str, measured: String, goal: &str| {
            table.row([what.to_owned(), measured, goal.to_owned()]);
        };
        let seconds = |it: Duration| format!("{:.1} s", it.as_secs_f64());
        let (most, time) = GOAL;
        let goal =
            if u64::from(self.args.rooms) > most { String::new() } else { format!("≤ {time:?}") };
        match self.what {
            Move::Join => row("until the new node serves", seconds(self.node), &goal),
            Move::Drain => row("until the old node has ended", seconds(self.node), &goal),
        }
        row("until every room is where it should be", seconds(self.rooms), &goal);
        row("acknowledged publications lost", count(self.fate.lost), "0");
        row("rooms with another epoch", count(self.fate.new_epochs), "0");
        row("publish to ack before: p50 / p99 / max", millis(self.before), "");
        let goal = format!("p99 < {GOAL_P99} ms");
        row("publish to ack meanwhile: p50 / p99 / max", millis(self.meanwhile), &goal);
        row("publications acknowledged", count(self.published.acked().count() as u64), "");
        row(
            "publications refused / not answered",
            format!("{} / {}", self.published.refused(), self.published.unanswered),
            "0 / 0",
        );
        let (before, meanwhile) = self.longest_input;
        row("longest input of a registry before", format!("{before:.1} ms"), "");
        let goal = format!("≤ {LONGEST_INPUT} ms");
        row("longest input of a registry meanwhile", format!("{meanwhile:.1} ms"), &goal);
        let at_rest =
            settling::copies_at_rest((self.args.rooms + self.args.load.load_rooms).into());
        row("rooms known in the end, over all nodes", count(self.copies), &count(at_rest));
        table
    }

    fn json(&self) -> Value {
        let latencies =
            |Latencies { p50, p99, max }: Latencies| json!({"p50": p50, "p99": p99, "max": max});
        let bench = if self.what == Move::Join { "join" } else { "drain" };
        json!({
            "bench": bench, "rooms": self.args.rooms, "rate": self.args.load.rate,
            "node_seconds": self.node.as_secs_f64(), "rooms_seconds": self.rooms.as_secs_f64(),
            "lost": self.fate.lost, "new_epochs": self.fate.new_epochs,
            "before_ms": latencies(self.before), "meanwhile_ms": latencies(self.meanwhile),
            "acked": self.published.acked().count(), "refused": self.published.refused(),
            "unanswered": self.published.unanswered,
            "longest_input_ms": {"before": self.longest_input.0, "meanwhile": self.longest_input.1},
            "known": self.copies,
        })
    }
}

/// Latencies for people.
fn millis(Latencies { p50, p99, max }: Latencies) -> String {
    format!("{p50:.1} / {p99:.1} / {max:.1} ms")
}
