//! `grow`: how costs grow with clients, rooms, message size and nodes, as tables and plots.
//!
//! In: a folder. Out: `measured.md` and four SVG files in it. Every point has servers of its own, so that none
//! carries what an earlier one left.

use crate::limits;
use crate::load::{LoadArgs, Session};
use crate::measure::rooms::{self, RoomsArgs};
use crate::plot::{Line, Plot};
use crate::publisher::Via;
use crate::rounds::{Pace, Served, Traffic};
use crate::table::{Report, Table, count, median};
use crate::target::{TargetArgs, processes};
use anyhow::{Context, Result};
use clap::Args;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// Deliveries a second at every point, so that points differ in nothing but what is varied.
const DELIVERIES: u64 = 20_000;
const CLIENTS: [u32; 5] = [1_000, 2_000, 5_000, 10_000, 19_000];
const NODES: [usize; 6] = [1, 2, 3, 5, 7, 9];
const ROOMS: [u64; 5] = [100, 1_000, 10_000, 50_000, 200_000];
const SIZES: [usize; 7] = [33, 128, 512, 2_048, 8_192, 32_768, 60_000];
/// Bytes a second to all subscribers, at most.
const BYTES_PER_SECOND: u64 = 100_000_000;
const IDLE: Duration = Duration::from_secs(5);
const ROUNDS: usize = 3;

/// The options of `grow`.
#[derive(Args, Clone, Debug)]
pub struct GrowArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Where to write the plots and the table
    #[arg(long, default_value = "docs/growth")]
    out: PathBuf,
    /// Every fourth point only, to try it
    #[arg(long)]
    quick: bool,
}

/// Runs the measurement.
pub fn run(args: &GrowArgs) -> Result<Report> {
    limits::require_files(u64::from(CLIENTS[CLIENTS.len() - 1]) + 1)?;
    let parts = [by_clients(args)?, by_rooms(args)?, by_size(args)?, by_nodes(args)?];
    let mut markdown = String::from(
        "# Growth, measured\n\nWritten by `roomcast-bench grow`. Each row had servers of its own.\n",
    );
    fs::create_dir_all(&args.out).with_context(|| format!("making {}", args.out.display()))?;
    for part in &parts {
        markdown += &format!("\n## {}\n\n{}\n{}\n", part.title, part.note, part.table);
        for plot in &part.plots {
            let file = args.out.join(format!("{}.svg", plot.name));
            let svg = plot.svg().with_context(|| format!("drawing {}", plot.name))?;
            fs::write(&file, svg).with_context(|| format!("writing {}", file.display()))?;
            markdown += &format!("\n![{}]({}.svg)\n", plot.title, plot.name);
        }
    }
    let file = args.out.join("measured.md");
    fs::write(&file, &markdown).with_context(|| format!("writing {}", file.display()))?;
    let mut table = Table::new(["series", "points"]);
    for part in &parts {
        table.row([part.title.to_owned(), count(part.points)]);
    }
    let title = format!("Growth: tables and plots are in {}", args.out.display());
    Ok(Report { title, table, notes: Vec::new(), json: json!({"bench": "grow"}) })
}

/// One thing that grows.
struct Part {
    title: &'static str,
    note: &'static str,
    points: u64,
    table: Table,
    plots: Vec<Plot>,
}

fn some<T: Copy>(args: &GrowArgs, points: &[T]) -> Vec<T> {
    points.iter().copied().step_by(if args.quick { 4 } else { 1 }).collect()
}

/// Costs of subscribers of one room, spread over `nodes`.
#[derive(Clone, Copy)]
struct Cost {
    bytes_per_client: f64,
    micros_per_connect: f64,
    micros_per_delivery: f64,
    p50: f64,
    p99: f64,
    lost: u64,
    /// CPU time a second of one node whose clients are idle, in ms.
    idle: f64,
}

fn cost(args: &GrowArgs, clients: u32, nodes: usize) -> Result<Cost> {
    let nodes = args.target.nodes(nodes)?;
    let servers = processes(&nodes)?;
    let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
    let rate = (DELIVERIES / u64::from(clients)).max(1) as u32;
    let before = servers.memory()?.private;
    let cpu = servers.cpu_time()?;
    let load = LoadArgs::one_room(urls, clients, rate, 10);
    let mut session = Session::connect(&load)?;
    let connected = servers.cpu_time()? - cpu;
    let after = servers.settled_memory(session.fleet())?.memory.private;
    let cpu = servers.cpu_time()?;
    session.fleet().idle(IDLE)?;
    let idle = (servers.cpu_time()? - cpu).as_secs_f64() * 1e3 / IDLE.as_secs_f64();
    let cpu = servers.cpu_time()?;
    session.publish()?;
    session.drain()?;
    let cpu = servers.cpu_time()? - cpu;
    let json = session.load().report.json;
    let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
    let clients = f64::from(clients);
    Ok(Cost {
        bytes_per_client: (after as f64 - before as f64) * 1024.0 / clients,
        micros_per_connect: connected.as_secs_f64() * 1e6 / clients,
        micros_per_delivery: cpu.as_secs_f64() * 1e6 / number(&json["delivered"]).max(1.0),
        p50: number(&json["latency_ms"]["p50"]),
        p99: number(&json["latency_ms"]["p99"]),
        lost: json["lost"].as_u64().unwrap_or(0),
        idle: idle / nodes.len() as f64,
    })
}

fn by_clients(args: &GrowArgs) -> Result<Part> {
    let clients = some(args, &CLIENTS);
    let costs: Vec<(f64, Cost)> = clients
        .iter()
        .map(|clients| Ok((f64::from(*clients), cost(args, *clients, 1)?)))
        .collect::<Result<_>>()?;
    let head = [
        "clients",
        "KiB per client",
        "µs per connect",
        "µs per delivery",
        "p50 ms",
        "p99 ms",
        "lost",
    ];
    let mut table = Table::new(head);
    for (clients, cost) in &costs {
        table.row([
            count(*clients as u64),
            format!("{:.2}", cost.bytes_per_client / 1024.0),
            format!("{:.1}", cost.micros_per_connect),
            format!("{:.2}", cost.micros_per_delivery),
            format!("{:.2}", cost.p50),
            format!("{:.2}", cost.p99),
            count(cost.lost),
        ]);
    }
    let line = |name, of: fn(&Cost) -> f64| Line::new(name, &costs, of);
    Ok(Part {
        title: "Clients of one room on one node",
        note: "20,000 deliveries a second of 128 B (one message a second at 19,000 clients); memory counts \
               from the server as it started. A delivery's latency includes its turn: the last of N clients \
               waits for the others.\n",
        points: costs.len() as u64,
        table,
        plots: vec![
            Plot {
                name: "clients-cost",
                title: "Cost by clients of a room",
                x: "clients",
                y: "µs of CPU per delivery · KiB per client",
                lines: vec![
                    line("µs per delivery", |cost| cost.micros_per_delivery),
                    line("KiB per client", |cost| cost.bytes_per_client / 1024.0),
                ],
            },
            Plot {
                name: "clients-latency",
                title: "Latency by clients of a room",
                x: "clients",
                y: "ms",
                lines: vec![line("p50", |cost| cost.p50), line("p99", |cost| cost.p99)],
            },
        ],
    })
}

fn by_nodes(args: &GrowArgs) -> Result<Part> {
    let costs: Vec<(f64, Cost)> = some(args, &NODES)
        .iter()
        .map(|nodes| Ok((*nodes as f64, cost(args, 1_000, *nodes)?)))
        .collect::<Result<_>>()?;
    let head = [
        "nodes",
        "µs per delivery, all nodes",
        "p50 ms",
        "p99 ms",
        "idle ms of CPU/s per node",
        "lost",
    ];
    let mut table = Table::new(head);
    for (nodes, cost) in &costs {
        table.row([
            count(*nodes as u64),
            format!("{:.2}", cost.micros_per_delivery),
            format!("{:.2}", cost.p50),
            format!("{:.2}", cost.p99),
            format!("{:.1}", cost.idle),
            count(cost.lost),
        ]);
    }
    let line = |name, of: fn(&Cost) -> f64| Line::new(name, &costs, of);
    Ok(Part {
        title: "Nodes, 1,000 clients of one room spread over them",
        note: "All nodes share the two cores, so latencies at many nodes are those of processes that wait for \
               a core.\n",
        points: costs.len() as u64,
        table,
        plots: vec![Plot {
            name: "nodes-cost",
            title: "Cost by nodes",
            x: "nodes",
            y: "µs of CPU per delivery, all nodes · idle ms/s per node",
            lines: vec![
                line("µs per delivery", |cost| cost.micros_per_delivery),
                line("idle ms/s per node", |cost| cost.idle),
            ],
        }],
    })
}

fn by_rooms(args: &GrowArgs) -> Result<Part> {
    let mut table =
        Table::new(["rooms", "µs per publication and delivery", "bytes per room", "lost"]);
    let mut costs = Vec::new();
    for rooms in some(args, &ROOMS) {
        let measured = rooms::run(&RoomsArgs::of_growth(args.target.clone(), rooms))?;
        let (micros, bytes) = (measured.micros_per_delivery(), measured.bytes_per_room());
        table.row([
            count(rooms),
            format!("{micros:.1}"),
            // A few rooms are lost in what the process grows by anyway.
            if rooms < 10_000 { "–".to_owned() } else { format!("{bytes:.0}") },
            count(measured.lost()),
        ]);
        costs.push((rooms as f64, micros));
    }
    Ok(Part {
        title: "Rooms with one subscriber each, on one node",
        note: "One publication to every room, as fast as the server takes them.\n",
        points: costs.len() as u64,
        table,
        plots: vec![Plot {
            name: "rooms-cost",
            title: "Cost by rooms",
            x: "rooms",
            y: "µs of CPU per publication and delivery",
            lines: vec![Line::new("µs", &costs, |micros| *micros)],
        }],
    })
}

fn by_size(args: &GrowArgs) -> Result<Part> {
    let mut table = Table::new(["bytes", "µs per delivery", "ns per byte", "lost"]);
    let mut costs = Vec::new();
    for size in some(args, &SIZES) {
        let nodes = args.target.nodes(1)?;
        let subscribers = 200;
        let traffic = Traffic { room: "grow".to_owned(), subscribers, size };
        let mut served = Served::set_up(traffic, &nodes, Via::Ws, args.target.api_key())?;
        let most = (BYTES_PER_SECOND / (size as u64 * subscribers)).max(1);
        let per_second = (DELIVERIES / subscribers).min(most) as u32;
        let pace = Pace::Rate { per_second, messages: u64::from(per_second) * 2 };
        let rounds = (0..ROUNDS).map(|_| served.round(pace)).collect::<Result<Vec<_>>>()?;
        let micros = median(rounds.iter().map(|round| round.micros_per_delivery()));
        table.row([
            count(size as u64),
            format!("{micros:.2}"),
            format!("{:.2}", micros * 1e3 / size as f64),
            count(rounds.iter().map(|round| round.lost()).sum()),
        ]);
        costs.push((size as f64, micros));
    }
    Ok(Part {
        title: "Message size, 200 subscribers on one node",
        note: "20,000 deliveries a second, or as many as make 100 MB.\n",
        points: costs.len() as u64,
        table,
        plots: vec![Plot {
            name: "size-cost",
            title: "Cost by message size",
            x: "bytes",
            y: "µs of CPU per delivery",
            lines: vec![Line::new("µs", &costs, |micros| *micros)],
        }],
    })
}
