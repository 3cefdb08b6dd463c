//! `compare`: Roomcast beside its peers, all measured by the same load generator in the same run.
//!
//! In: where the peers were installed. Out: [`Comparison`], a row for each server. All are up at once, and
//! idle while another is measured; they take turns, so that all see the same machine, and beside each of their
//! rounds at a rate is one of the floor.

mod report;

use crate::limits;
use crate::measure::fanout::Bench;
use crate::measure::latency::{self, Load, Seen};
use crate::peers::{self, API_KEY, CONTENDERS, Contender, Places, Running};
use crate::publisher::Via;
use crate::rounds::{Pace, Round, Traffic};
use crate::server;
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

const SUBSCRIBERS: u64 = 1000;
const RATE: u32 = 20;
const SIZE: u32 = 128;
const WINDOW: u64 = 64;
const LATENCY_RATE: u32 = 100;
const LATENCY_ROOMS: u8 = 32;

/// The options of `compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// The Roomcast binary [default: `roomcast` beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// Where `bench/compare` has installed the peers
    #[arg(long, value_name = "FOLDER", default_value = "target/peers")]
    peers: PathBuf,
    /// The peers' configuration files
    #[arg(long, value_name = "FOLDER", default_value = "bench/peers")]
    configs: PathBuf,
    /// Measure only the rows whose name has this in it; again for more
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Fewer and shorter rounds, fewer clients: to see that it works
    #[arg(long)]
    quick: bool,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    rounds: usize,
    /// Publications of a paced round.
    messages: u64,
    saturated: Duration,
    /// Seconds of a round's latencies.
    latency: u32,
    idle_clients: u64,
    /// Seconds after which idle clients' memory is read again. Go collects garbage every two minutes.
    hold: u64,
}

impl CompareArgs {
    fn effort(&self) -> Effort {
        let rate = u64::from(RATE);
        match self.quick {
            false => Effort {
                rounds: 5,
                messages: 2 * rate,
                saturated: Duration::from_millis(1500),
                latency: 3,
                idle_clients: 10_000,
                hold: 130,
            },
            true => Effort {
                rounds: 2,
                messages: rate,
                saturated: Duration::from_millis(500),
                latency: 1,
                idle_clients: 1000,
                hold: 2,
            },
        }
    }

    fn places(&self) -> Result<Places> {
        let roomcast = match &self.server {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("finding this program's own file")?
                .with_file_name("roomcast"),
        };
        Ok(Places { roomcast, installed: self.peers.clone(), configs: self.configs.clone() })
    }

    fn contenders(&self) -> Vec<Contender> {
        let name = |contender: &Contender| contender.name.to_lowercase();
        let wanted = |contender: &Contender| {
            let mut only = self.only.iter().map(|part| part.to_lowercase());
            self.only.is_empty() || only.any(|part| name(contender).contains(&part))
        };
        CONTENDERS.into_iter().filter(wanted).collect()
    }
}

/// What one server came to.
#[derive(Debug)]
pub struct Row {
    contender: Contender,
    version: String,
    /// Rounds at a rate, and beside each its round of the floor.
    paced: Vec<(Round, Round)>,
    /// Rounds as fast as the server goes.
    saturated: Vec<Round>,
    /// Latencies of each round: of a subscriber on each node, the publisher's first.
    seen: Vec<Vec<Seen>>,
    /// What `memory` printed as JSON.
    memory: Option<Value>,
    /// Subscribers that the server disconnected.
    closed: u64,
    /// Why (some of) its figures are missing.
    failure: Option<String>,
}

/// What the comparison came to.
#[derive(Debug)]
pub struct Comparison {
    effort: Effort,
    rows: Vec<Row>,
}

/// Runs the measurement.
pub fn run(args: &CompareArgs) -> Result<Comparison> {
    limits::require_files(2 * SUBSCRIBERS)?;
    let (effort, places, contenders) = (args.effort(), args.places()?, args.contenders());
    ensure!(!contenders.is_empty(), "no row has any of {:?} in its name", args.only);
    let mut rows = contenders.iter().map(|one| Row::new(one, &places)).collect::<Vec<Row>>();
    measure_memory(&mut rows, &places, effort);
    let mut running: Vec<Option<Running>> = rows.iter_mut().map(|row| row.start(&places)).collect();
    for round in 0..effort.rounds {
        for step in 0..rows.len() {
            // Whoever begins a round follows on a pause, so they take turns at that, too.
            let index = (round + step) % rows.len();
            let (row, Some(servers)) = (&mut rows[index], &running[index]) else { continue };
            eprintln!("round {} of {}: {}", round + 1, effort.rounds, row.contender.name);
            if let Err(error) = row.visit(servers, effort) {
                row.fail(&error);
                running[index] = None;
            }
        }
    }
    Ok(Comparison { effort, rows })
}

impl Row {
    fn new(contender: &Contender, places: &Places) -> Self {
        Self {
            contender: *contender,
            version: places.version(contender),
            paced: Vec::new(),
            saturated: Vec::new(),
            seen: Vec::new(),
            memory: None,
            closed: 0,
            failure: None,
        }
    }

    fn fail(&mut self, error: &anyhow::Error) {
        eprintln!("{}: {error:#}", self.contender.name);
        self.failure.get_or_insert_with(|| format!("{error:#}"));
    }

    /// Its servers, if they start.
    fn start(&mut self, places: &Places) -> Option<Running> {
        if self.failure.is_some() {
            return None;
        }
        let running = peers::start(&self.contender, places);
        running.map_err(|error| self.fail(&error)).ok()
    }

    /// One round of everything.
    fn visit(&mut self, servers: &Running, effort: Effort) -> Result<()> {
        let traffic =
            Traffic { room: "fanout".to_owned(), subscribers: SUBSCRIBERS, size: SIZE as usize };
        let mut bench = Bench::set_up(traffic, &servers.nodes, Via::Ws, API_KEY)?;
        let pace = Pace::Rate { per_second: RATE, messages: effort.messages };
        self.paced.push(bench.pair_of_rounds(pace)?);
        let pace = Pace::Saturate { window: WINDOW, time: effort.saturated };
        self.saturated.push(bench.served.round(pace)?);
        self.closed += bench.served.fleet.counts().closed;
        drop(bench);
        self.visit_latency(servers, effort)
    }

    fn visit_latency(&mut self, servers: &Running, effort: Effort) -> Result<()> {
        let load = Load {
            rate: LATENCY_RATE,
            seconds: effort.latency,
            rooms: LATENCY_ROOMS,
            size: SIZE,
            api_key: API_KEY,
        };
        let nodes: Vec<_> = servers.nodes.iter().collect();
        let new = |index| Seen::new(if index == 0 { "own node" } else { "other node" });
        let mut seen = (0..nodes.len()).map(new).collect::<Result<Vec<Seen>>>()?;
        latency::measure(&load, nodes[0], &nodes, &mut seen)?;
        self.seen.push(seen);
        Ok(())
    }
}

/// Reads the memory of all that run on one node, all at the same time: the wait is long. Each gets a process
/// of its own for its clients, since a process may have only so many open files.
fn measure_memory(rows: &mut [Row], places: &Places, effort: Effort) {
    let mut started = Vec::new();
    for row in rows.iter_mut().filter(|row| row.contender.nodes == 1) {
        let Some(running) = row.start(places) else { continue };
        match start_memory(&running, row, effort) {
            Ok(child) => started.push((row, running, child)),
            Err(error) => row.fail(&error),
        }
    }
    for (row, _running, child) in started {
        match finish_memory(child) {
            Ok(memory) => row.memory = Some(memory),
            // The row's other figures can still be had.
            Err(error) => eprintln!("memory of {}: {error:#}", row.contender.name),
        }
    }
}

fn start_memory(running: &Running, row: &Row, effort: Effort) -> Result<Child> {
    eprintln!("memory: {}", row.contender.name);
    let node = &running.nodes[0];
    let mut args: Vec<OsString> = ["memory", "--json", "--attach"].map(OsString::from).to_vec();
    args.extend([node.url().into(), "--protocol".into(), node.protocol_name().into()]);
    for pid in node.pids() {
        args.extend(["--pid".into(), pid.to_string().into()]);
    }
    args.extend(["--clients".into(), effort.idle_clients.to_string().into()]);
    args.extend(["--hold".into(), effort.hold.to_string().into()]);
    let own = std::env::current_exe().context("finding this program's own file")?;
    let mut command = server::guarded(&own, &args)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command.spawn().context("starting the clients")
}

fn finish_memory(child: Child) -> Result<Value> {
    let output = child.wait_with_output().context("waiting for the clients")?;
    ensure!(output.status.success(), "the clients failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().context("the clients printed nothing")?;
    serde_json::from_str(line).context("reading what the clients printed")
}
