//! `all`: every measurement with the README's settings, summed up in one table.
//!
//! In: a target. Out: one [`Report`], each figure beside the number to hold.

use crate::measure::fanout::{self, FanoutArgs};
use crate::measure::latency::{self, LatencyArgs};
use crate::measure::memory::{self, MemoryArgs};
use crate::table::{Report, Table, count};
use crate::target::TargetArgs;
use anyhow::Result;
use serde_json::json;

/// Runs all measurements, printing each as it's done, and sums them up.
pub fn run(target: &TargetArgs) -> Result<Report> {
    let memory = memory::run(&MemoryArgs::of_readme(target.clone()))?;
    show(&memory.report());
    let paced = fanout::run(&FanoutArgs::of_readme(target.clone(), false))?;
    show(&paced.report());
    let saturated = fanout::run(&FanoutArgs::of_readme(target.clone(), true))?;
    show(&saturated.report());
    let latency = latency::run(&LatencyArgs::of_readme(target.clone()))?;
    show(&latency.report());

    let mut table = Table::new(["figure", "measured", "to hold"]);
    let mut row = |what: &str, measured: String, hold: &str| {
        table.row([what.to_owned(), measured, hold.to_owned()]);
    };
    let kib = memory.bytes_per_client() / 1024.0;
    row("memory per idle client, of 10,000", format!("{kib:.2} KiB"), "≤ 4 KiB");
    let what = "CPU per delivery, 20 msg/s × 1,000 subscribers × 128 B";
    row(what, format!("{:.2} µs", paced.micros().0), "");
    row("… against a plain send(2) loop", format!("{:.2} ×", paced.ratio()), "≤ 1.3 ×");
    let saturated_rate = count(saturated.per_cpu_second() as u64);
    row("deliveries per CPU-second, saturated", saturated_rate, "≥ 500,000");
    for seen in latency.seen() {
        let what = format!("latency p50 / p99, {}", seen.label());
        row(&what, format!("{:.2} / {:.2} ms", seen.millis(0.5), seen.millis(0.99)), "");
    }
    if let Some(added) = latency.added_by_mesh() {
        row("… added to the median by the mesh", format!("{added:+.2} ms"), "≤ 1 ms a hop");
    }
    let lost_latency: u64 = latency.seen().map(latency::Seen::lost).sum();
    row("deliveries lost", count(paced.lost() + saturated.lost() + lost_latency), "0");

    let json = json!({
        "bench": "all",
        "memory": memory.report().json,
        "fanout": paced.report().json,
        "saturated": saturated.report().json,
        "latency": latency.report().json,
    });
    let title = "All, in one run on one machine".to_owned();
    Ok(Report { title, table, notes: Vec::new(), json })
}

/// Shows what is done so far where it doesn't mix with the summary.
fn show(report: &Report) {
    eprintln!("{}\n\n{}", report.title, report.table);
    for note in &report.notes {
        eprintln!("{note}");
    }
    eprintln!();
}
