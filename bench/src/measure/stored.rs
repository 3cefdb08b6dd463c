//! `stored`: a server that starts with very many publications on its disk. How long does it take, what is in memory, and
//! how fast does it come from disk?
//!
//! In: how many rooms, and publications in them. Out: [`Stored`].

use crate::dialect::Since;
use crate::fleet::Fleet;
use crate::limits;
use crate::stored::{self, NAMESPACE, Sample};
use crate::table::{Report, Table, count, median, quantile};
use crate::target::{Node, TargetArgs};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Publications of a page of history.
const PAGE: u64 = 1_000;
/// The longest that a server is waited for to have put its rooms out of memory.
const DORMANT_DEADLINE: Duration = Duration::from_secs(180);

/// The options of `stored`.
#[derive(Args, Clone, Debug)]
pub struct StoredArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rooms on disk
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    rooms: u64,
    /// Publications in each of them
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    publications: u64,
    /// Publications in one room more
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10_000..=100_000_000))]
    long: u64,
    /// Pages of that one's history that are read each way
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pages: u64,
    /// Clients that come at once, each to a room that nobody has used, and recover all that it has
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(2..))]
    clients: u64,
    /// Bytes of a publication's data
    #[arg(long, default_value_t = 100)]
    size: usize,
}

/// A server that has started.
#[derive(Clone, Copy, Debug)]
struct Started {
    took: Duration,
    /// CPU time.
    cpu: Duration,
    /// KiB.
    memory: u64,
}

/// What pages of history came to.
#[derive(Clone, Copy, Debug)]
struct Pages {
    per_second: f64,
    /// CPU time of the server for a publication, in µs.
    cpu: f64,
    p50: f64,
    p99: f64,
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Stored {
    args: StoredArgs,
    empty: Started,
    full: Started,
    dormant: f64,
    forward: Pages,
    backward: Pages,
    /// KiB once those pages were read.
    after_pages: u64,
    storm: Duration,
    recovered: u64,
    storm_cpu: Duration,
    /// KiB with the clients, and a while after they have gone.
    after_storm: [u64; 2],
}

/// Runs the measurement.
pub fn run(args: &StoredArgs) -> Result<Stored> {
    ensure!(!args.target.is_attached(), "it starts its own server, with what is on disk");
    ensure!(args.clients < args.rooms, "each client comes to a room of its own");
    limits::require_files(args.clients)?;
    let settings = args.target.settings_on_disk(stored::CONFIG)?;
    let data_dir = settings.data_dir_of(1).context("no directory for rooms on disk")?;
    let (sample, empty) = {
        let (node, started) = start(args, &settings)?;
        Sample::publish(&node, args.target.api_key(), &"x".repeat(args.size))?;
        drop(node);
        (Sample::of(&settings, &data_dir)?, started)
    };
    let rooms = (1..=args.rooms).map(|it| (stored::room(it), args.publications));
    let long = (stored::room(0), args.long);
    sample.fill(&settings, &data_dir, rooms.chain([long]))?;
    let (node, full) = start(args, &settings)?;
    let dormant = node.metric("roomcast_dormant_rooms")?;
    let (processes, mut fleet) = (node.processes()?, Fleet::new()?);
    let forward = args.pages(&node, &sample.epoch, false)?;
    let backward = args.pages(&node, &sample.epoch, true)?;
    let after_pages = processes.settled_memory(&mut fleet)?.memory.private;
    let (cpu, begun) = (processes.cpu_time()?, Instant::now());
    let plans: Vec<_> = (1..=args.clients)
        .map(|it| {
            let since = Since { epoch: sample.epoch.clone(), offset: 0 };
            Arc::new(node.returning_plan(&stored::room(it), since))
        })
        .collect();
    fleet.open_each(plans.into_iter())?;
    let (storm, storm_cpu) = (begun.elapsed(), processes.cpu_time()? - cpu);
    let recovered = fleet.counts().recovered;
    let with_clients = processes.settled_memory(&mut fleet)?.memory.private;
    drop(fleet);
    let mut nobody = Fleet::new()?;
    wait_until_dormant(&node, dormant, &mut nobody)?;
    let gone = processes.settled_memory(&mut nobody)?.memory.private;
    Ok(Stored {
        args: args.clone(),
        empty,
        full,
        dormant,
        forward,
        backward,
        after_pages,
        storm,
        recovered,
        storm_cpu,
        after_storm: [with_clients, gone],
    })
}

fn start(args: &StoredArgs, settings: &crate::server::Settings) -> Result<(Node, Started)> {
    let begun = Instant::now();
    let node = args.target.start(settings)?;
    let (took, processes) = (begun.elapsed(), node.processes()?);
    let cpu = processes.cpu_time()?;
    let memory = processes.settled_memory(&mut Fleet::new()?)?.memory.private;
    Ok((node, Started { took, cpu, memory }))
}

/// Waits until as many rooms are out of memory as before, but for the one whose history was read.
fn wait_until_dormant(node: &Node, before: f64, nobody: &mut Fleet) -> Result<()> {
    let deadline = Instant::now() + DORMANT_DEADLINE;
    while node.metric("roomcast_dormant_rooms")? < before - 1.0 {
        ensure!(Instant::now() < deadline, "rooms that nobody uses stay in memory");
        nobody.idle(Duration::from_millis(200))?;
    }
    Ok(())
}

impl StoredArgs {
    /// Reads pages of the long room's history.
    fn pages(&self, node: &Node, epoch: &str, reverse: bool) -> Result<Pages> {
        let processes = node.processes()?;
        let (cpu, begun, mut took) = (processes.cpu_time()?, Instant::now(), Vec::new());
        let pages = self.pages.min(self.long / PAGE - 3);
        for page in 0..pages {
            // The newest are in memory by then.
            let since = match reverse {
                false => page * PAGE,
                true => self.long - (page + 2) * PAGE,
            };
            let body = json!({
                "channel": stored::room(0), "limit": PAGE, "reverse": reverse,
                "since": {"offset": since, "epoch": epoch},
            });
            let asked = Instant::now();
            let answer = node.call("history", self.target.api_key(), &body)?;
            took.push(asked.elapsed().as_secs_f64() * 1e3);
            let read = answer["publications"].as_array().map_or(0, Vec::len) as u64;
            ensure!(read == PAGE, "a page from {since} on has {read} publications, not {PAGE}");
        }
        let publications = (pages * PAGE) as f64;
        let cpu = (processes.cpu_time()? - cpu).as_secs_f64() * 1e6 / publications;
        Ok(Pages {
            per_second: publications / begun.elapsed().as_secs_f64(),
            cpu,
            p50: median(took.iter().copied()),
            p99: quantile(took.iter().copied(), 0.99),
        })
    }
}

impl Stored {
    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let StoredArgs { rooms, publications, long, clients, size, .. } = self.args;
        let all = rooms * publications + long;
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        let kib = |it: u64| format!("{} KiB", count(it));
        let Started { took, cpu, memory } = self.full;
        row(
            "start, until it serves",
            format!("{:.2} s, {:.2} s of CPU time", took.as_secs_f64(), cpu.as_secs_f64()),
        );
        row("the same with nothing on disk", format!("{:.2} s", self.empty.took.as_secs_f64()));
        row("memory then", kib(memory));
        row("the same with nothing on disk", kib(self.empty.memory));
        let bytes = memory.saturating_sub(self.empty.memory) as f64 * 1024.0 / rooms as f64;
        row("memory for a room that nobody uses", format!("{bytes:.0} B"));
        row("rooms out of memory", count(self.dormant as u64));
        for (way, pages) in [("forward", self.forward), ("backward", self.backward)] {
            row(
                &format!("history, {way}, in pages of {}", count(PAGE)),
                format!(
                    "{} publications/s, {:.2} µs of CPU time each; a page {:.1} ms, p99 {:.1}",
                    count(pages.per_second as u64),
                    pages.cpu,
                    pages.p50,
                    pages.p99
                ),
            );
        }
        row("memory after that", kib(self.after_pages));
        let seconds = self.storm.as_secs_f64();
        row(
            &format!("{} clients recover {publications} each", count(clients)),
            format!("{seconds:.2} s; {} recovered", count(self.recovered)),
        );
        let micros = self.storm_cpu.as_secs_f64() * 1e6 / clients as f64;
        row("CPU time for each of them", format!("{micros:.0} µs"));
        let [with, gone] = self.after_storm;
        row(
            "memory with them, and a while after they have gone",
            format!("{}, {}", kib(with), kib(gone)),
        );
        let title = format!(
            "On disk: {} publications of {size} bytes in {} rooms, {} of them in one",
            count(all),
            count(rooms + 1),
            count(long)
        );
        let pages = |it: Pages| json!({"per_second": it.per_second, "cpu_us": it.cpu, "page_p50_ms": it.p50, "page_p99_ms": it.p99});
        let json = json!({
            "bench": "stored", "rooms": rooms, "publications": all, "start_seconds": took.as_secs_f64(),
            "memory_kib": memory, "empty_memory_kib": self.empty.memory, "bytes_per_room": bytes,
            "dormant_rooms": self.dormant, "forward": pages(self.forward), "backward": pages(self.backward),
            "memory_after_pages_kib": self.after_pages, "storm_seconds": seconds, "recovered": self.recovered,
            "storm_cpu_us_per_client": micros, "memory_after_storm_kib": gone,
        });
        let notes = vec![format!(
            "What is read was written shortly before: most of it comes from the kernel's memory, not from the disk. Rooms are in the namespace {NAMESPACE:?}."
        )];
        Report { title, table, notes, json }
    }
}
