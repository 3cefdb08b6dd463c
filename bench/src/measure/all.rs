//! `all`: every measurement with the README's settings, summed up in one table. Only `join` and `drain` are left
//! out, which take minutes.
//!
//! In: a target. Out: one [`Report`], each figure beside the number to hold.

use crate::measure::connect::{self, ConnectArgs};
use crate::measure::fanout::{self, FanoutArgs};
use crate::measure::hot::{self, HotArgs};
use crate::measure::kill::{self, KillArgs};
use crate::measure::latency::{self, LatencyArgs};
use crate::measure::memory::{self, MemoryArgs};
use crate::measure::mesh::{self, MeshArgs};
use crate::measure::presence::{self, PresenceArgs};
use crate::measure::rooms::{self, RoomsArgs};
use crate::measure::storm::{self, StormArgs};
use crate::table::{Report, Table, count};
use crate::target::TargetArgs;
use anyhow::Result;
use serde_json::{Value, json};

/// The figures so far.
struct Summary {
    table: Table,
    parts: Vec<Value>,
    lost: u64,
}

impl Summary {
    fn row(&mut self, what: &str, measured: String, hold: &str) {
        self.table.row([what.to_owned(), measured, hold.to_owned()]);
    }

    /// Shows a measurement where it doesn't mix with the summary.
    fn done(&mut self, report: Report, lost: u64) {
        show(&report);
        self.parts.push(report.json);
        self.lost += lost;
    }
}

/// Runs all measurements, printing each as it's done, and sums them up.
pub fn run(target: &TargetArgs) -> Result<Report> {
    let table = Table::new(["figure", "measured", "to hold"]);
    let mut summary = Summary { table, parts: Vec::new(), lost: 0 };
    clients(target, &mut summary)?;
    deliveries(target, &mut summary)?;
    nodes(target, &mut summary)?;
    rooms(target, &mut summary)?;
    let lost = count(summary.lost);
    summary.row("deliveries lost, in all of it", lost, "0");
    let Summary { table, parts, .. } = summary;
    let title = "All, in one run on one machine".to_owned();
    let json = json!({"bench": "all", "parts": parts});
    Ok(Report { title, table, notes: Vec::new(), json })
}

fn clients(target: &TargetArgs, summary: &mut Summary) -> Result<()> {
    for clients in [10_000, 19_000] {
        let memory = memory::run(&MemoryArgs::of_readme(target.clone(), clients))?;
        let kib = memory.bytes_per_client() / 1024.0;
        let what = format!("memory per idle client, of {}", count(clients));
        summary.row(&what, format!("{kib:.2} KiB"), "≤ 3 KiB");
        summary.done(memory.report(), 0);
    }
    let connect = connect::run(&ConnectArgs::of_readme(target.clone()))?;
    let rate = count(connect.per_cpu_second() as u64);
    summary.row("connect + subscribe per CPU-second", rate, "≥ 12,000");
    summary.done(connect.report(), 0);
    Ok(())
}

fn deliveries(target: &TargetArgs, summary: &mut Summary) -> Result<()> {
    let paced = fanout::run(&FanoutArgs::of_readme(target.clone(), false))?;
    let what = "CPU per delivery, 20 msg/s × 1,000 subscribers × 128 B";
    summary.row(what, format!("{:.2} µs", paced.micros().0), "");
    summary.row("… against a plain send(2) loop", format!("{:.2} ×", paced.ratio()), "≤ 1.2 ×");
    summary.done(paced.report(), paced.lost());
    let saturated = fanout::run(&FanoutArgs::of_readme(target.clone(), true))?;
    let rate = count(saturated.per_cpu_second() as u64);
    summary.row("deliveries per CPU-second, saturated", rate, "≥ 550,000");
    summary.done(saturated.report(), saturated.lost());
    Ok(())
}

fn nodes(target: &TargetArgs, summary: &mut Summary) -> Result<()> {
    let mesh = mesh::run(&MeshArgs::of_readme(target.clone()))?;
    let what = "CPU per delivery of three nodes, against one";
    summary.row(what, format!("{:.2} ×", mesh.ratio()), "≤ 1.1 ×");
    summary.done(mesh.report(), mesh.lost());
    let latency = latency::run(&LatencyArgs::of_readme(target.clone()))?;
    for seen in latency.seen() {
        let what = format!("latency p50 / p99, {}", seen.label());
        let millis = format!("{:.2} / {:.2} ms", seen.millis(0.5), seen.millis(0.99));
        summary.row(&what, millis, "");
    }
    if let Some(added) = latency.added_by_mesh() {
        summary.row("… added to the median by the mesh", format!("{added:+.2} ms"), "≤ 0.5 ms");
    }
    summary.done(latency.report(), latency.seen().map(latency::Seen::lost).sum());
    let storm = storm::run(&StormArgs::of_readme(target.clone()))?;
    let (seconds, missing) = storm.outcome();
    let what = "10,000 clients of a killed node live again, 100 messages recovered each";
    summary.row(what, format!("{seconds:.2} s"), "≤ 5 s");
    let left = storm.memory_left();
    summary.row(
        "… the other nodes' memory once they have gone, against before",
        format!("{left:.2} ×"),
        "≤ 1.2 ×",
    );
    summary.done(storm.report(), missing);
    let kill = kill::run(&KillArgs::of_readme(target.clone()))?;
    let what = "rooms of a killed node publish and deliver again, the median";
    summary.row(what, format!("{:.2} s", kill.median_millis() / 1e3), "≤ 1 s");
    summary.row("… acknowledged publications lost", count(kill.lost()), "0");
    summary.done(kill.report(), kill.never());
    Ok(())
}

fn rooms(target: &TargetArgs, summary: &mut Summary) -> Result<()> {
    let rooms = rooms::run(&RoomsArgs::of_readme(target.clone()))?;
    let what = "200,000 rooms on three nodes: memory per room and node that knows it";
    summary.row(what, format!("{:.0} B", rooms.bytes_per_room()), "≤ 1,024 B");
    let what = "… CPU per publication and delivery";
    summary.row(what, format!("{:.1} µs", rooms.micros_per_delivery()), "≤ 3 × of one room");
    summary.done(rooms.report(), rooms.lost());
    let hot = hot::run(&HotArgs::of_readme(target.clone()))?;
    let (lost, out_of_order) = hot.faults();
    let what = "50 publishers × 100 msg/s in one room on three nodes: p99";
    summary.row(what, format!("{:.1} ms", hot.p99_millis()), "< 50 ms");
    summary.row("… deliveries out of the one order", count(out_of_order), "0");
    summary.done(hot.report(), lost);
    let presence = presence::run(&PresenceArgs::of_readme(target.clone()))?;
    let (visit, stats) = presence.ratios();
    let what = "coming and going in a room of 10,000, against 1,000";
    summary.row(what, format!("{visit:.2} ×"), "the same");
    summary.row("… presence_stats", format!("{stats:.2} ×"), "the same");
    summary.done(presence.report(), 0);
    Ok(())
}

/// Shows what is done so far where it doesn't mix with the summary.
fn show(report: &Report) {
    eprintln!("{}\n\n{}", report.title, report.table);
    for note in &report.notes {
        eprintln!("{note}");
    }
    eprintln!();
}
