//! What a load came to, and how it is shown: a bar and a live line while it runs, tables at its end.

use super::book::{Book, Totals};
use super::{Load, LoadArgs};
use crate::table::{Report, Table, count};
use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressStyle};
use nix::time::{ClockId, clock_gettime};
use serde_json::json;
use std::time::{Duration, Instant};

/// Histograms hold up to a minute, in nanoseconds, to three digits.
const LONGEST: u64 = 60_000_000_000;
const BETWEEN_LINES: Duration = Duration::from_millis(500);
pub(super) const QUANTILES: [(&str, f64); 6] =
    [("p50", 0.5), ("p75", 0.75), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
/// The generator can't be trusted once it is busier than this.
const BUSY: f64 = 0.9;

/// What is counted while it runs.
pub struct Outcome {
    /// How long it took until all clients were connected.
    pub connected_in: Duration,
    /// Publications sent.
    pub published: u64,
    /// Publications that the server has taken.
    pub acked: u64,
    /// Connections that were cut on purpose.
    pub cut: u64,
    /// Connections that the server has closed.
    pub closed: u64,
    /// How long each storm lasted: from the cut until all were live again.
    pub storms: Vec<Duration>,
    first_close: Option<String>,
    histogram: Histogram<u64>,
    dice: fastrand::Rng,
    wall: Duration,
    missing: u64,
    counts_all: bool,
    cpu_at_start: Duration,
    busy: f64,
}

impl Outcome {
    /// Nothing yet.
    pub fn new() -> Result<Self> {
        Ok(Self {
            connected_in: Duration::ZERO,
            published: 0,
            acked: 0,
            cut: 0,
            closed: 0,
            storms: Vec::new(),
            first_close: None,
            histogram: Histogram::new_with_bounds(1, LONGEST, 3).context("making a histogram")?,
            // The same sizes in every run.
            dice: fastrand::Rng::with_seed(1),
            wall: Duration::ZERO,
            missing: 0,
            counts_all: true,
            cpu_at_start: own_cpu_time(),
            busy: 0.0,
        })
    }

    /// A size between these.
    pub fn size(&mut self, from: u32, to: u32) -> u32 {
        self.dice.u32(from..=to)
    }

    /// A delivery took so long.
    pub fn latency(&mut self, latency: Duration) {
        self.histogram.saturating_record(latency.as_nanos() as u64);
    }

    /// The server has closed a connection.
    pub fn closed(&mut self, why: &anyhow::Error) {
        self.closed += 1;
        self.first_close.get_or_insert_with(|| format!("{why:#}"));
    }

    /// The run that began at `start` is over, `missing` deliveries have not come.
    pub fn finish(&mut self, start: Instant, missing: u64, counts_all: bool) {
        (self.wall, self.missing, self.counts_all) = (start.elapsed(), missing, counts_all);
        let cpu = own_cpu_time().saturating_sub(self.cpu_at_start);
        self.busy = cpu.as_secs_f64() / (self.wall + self.connected_in).as_secs_f64();
    }

    fn millis(&self, quantile: f64) -> f64 {
        millis(&self.histogram, quantile)
    }

    /// Everything that can be said about it.
    pub fn load(&self, args: &LoadArgs, book: &Book) -> Load {
        let totals = Totals { lost: book.totals().lost + self.missing, ..book.totals() };
        let title = format!(
            "{} clients, {} room(s), {} messages/s",
            count(args.clients.into()),
            count(args.rooms.into()),
            count(args.rate.into())
        );
        let notes = self.notes(book);
        let json = self.json(args, totals);
        let report = Report { title, table: self.table(args, totals), notes, json };
        Load { report, has_loss: totals.lost + totals.told > 0 }
    }

    fn table(&self, args: &LoadArgs, totals: Totals) -> Table {
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        let seconds = self.connected_in.as_secs_f64();
        let rate = count((f64::from(args.clients) / seconds.max(1e-9)) as u64);
        row("connected and subscribed in", format!("{seconds:.2} s ({rate}/s)"));
        row("publications, and taken", format!("{}, {}", count(self.published), count(self.acked)));
        let per_second = totals.delivered as f64 / self.wall.as_secs_f64().max(1e-9);
        row("deliveries", format!("{} ({}/s)", count(totals.delivered), count(per_second as u64)));
        row("lost", count(totals.lost));
        if self.cut + self.closed > 0 {
            row("connections cut, and closed by the server", {
                format!("{}, {}", count(self.cut), count(self.closed))
            });
            row("recovered, and missed but told", {
                format!("{}, {}", count(totals.recovered), count(totals.told))
            });
        }
        if totals.repeated > 0 {
            row("delivered again", count(totals.repeated));
        }
        if let Some(longest) = self.storms.iter().max() {
            let storms = count(self.storms.len() as u64);
            row("storms, and the longest until all were live", {
                format!("{storms}, {:.2} s", longest.as_secs_f64())
            });
        }
        if !self.histogram.is_empty() {
            for (name, quantile) in QUANTILES {
                row(&format!("latency {name}"), format!("{:.3} ms", self.millis(quantile)));
            }
        }
        table
    }

    fn notes(&self, book: &Book) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.bars());
        if !self.counts_all && book.has_rooms_without_positions() {
            notes.push(
                "Clients were away and rooms have no history: what they missed is not counted."
                    .to_owned(),
            );
        }
        if let Some(why) = &self.first_close {
            notes.push(format!("The first connection that was closed: {why}"));
        }
        if self.busy > BUSY {
            notes.push(format!(
                "The load generator was busy for {:.0} % of the time: the figures may be its own limits.",
                self.busy * 100.0
            ));
        }
        notes
    }

    /// The latencies as a histogram of powers of two.
    fn bars(&self) -> Option<String> {
        if self.histogram.is_empty() {
            return None;
        }
        let mut lines = vec!["latency up to".to_owned()];
        let whole = self.histogram.len() as f64;
        for bucket in self.histogram.iter_log(62_500, 2.0) {
            let share = bucket.count_since_last_iteration() as f64 / whole;
            if share > 0.0 {
                let millis = bucket.value_iterated_to() as f64 / 1e6;
                let bar = "█".repeat((share * 50.0).ceil() as usize);
                lines.push(format!("{millis:>10.2} ms {:>6.2} % {bar}", share * 100.0));
            }
        }
        Some(lines.join("\n") + "\n")
    }

    fn json(&self, args: &LoadArgs, totals: Totals) -> serde_json::Value {
        let quantiles: serde_json::Map<String, serde_json::Value> = QUANTILES
            .iter()
            .map(|(name, at)| ((*name).to_owned(), self.millis(*at).into()))
            .collect();
        json!({
            "clients": args.clients, "rooms": args.rooms, "rate": args.rate,
            "seconds": self.wall.as_secs_f64(),
            "connect_seconds": self.connected_in.as_secs_f64(),
            "published": self.published, "acked": self.acked,
            "delivered": totals.delivered, "lost": totals.lost, "told": totals.told,
            "recovered": totals.recovered, "repeated": totals.repeated,
            "cut": self.cut, "closed": self.closed, "first_close": self.first_close,
            "storm_seconds": self.storms.iter().map(Duration::as_secs_f64).collect::<Vec<_>>(),
            "latency_ms": quantiles, "generator_busy": self.busy,
        })
    }
}

/// What a part of all latencies is no longer than, in milliseconds.
pub(super) fn millis(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e6
}

/// CPU time of this process.
fn own_cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Into::into)
}

/// A bar on standard error, where that is a terminal.
pub struct Progress {
    bar: ProgressBar,
    quiet: bool,
    shown_at: Instant,
    delivered: u64,
}

impl Progress {
    /// Nothing is shown yet, and nothing ever if `quiet`.
    pub fn new(quiet: bool) -> Self {
        Self { bar: ProgressBar::hidden(), quiet, shown_at: Instant::now(), delivered: 0 }
    }

    fn show(&mut self, length: u64, template: &str) {
        self.done();
        if self.quiet {
            return;
        }
        self.bar = ProgressBar::new(length);
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
    }

    /// So many clients connect.
    pub fn connecting(&mut self, clients: u64) {
        self.show(clients, "connecting {bar:30} {pos}/{len} {per_sec}");
    }

    /// So many are connected.
    pub fn connected(&self, clients: u64) {
        self.bar.set_position(clients);
    }

    /// Publishing takes so long.
    pub fn running(&mut self, total: Duration) {
        self.show(total.as_millis() as u64, "{bar:30} {elapsed}  {msg}");
    }

    /// Shows how far it is, now and then.
    pub fn tick(&mut self, start: Instant, live: u64, totals: Totals, outcome: &Outcome) {
        let since = self.shown_at.elapsed();
        if since < BETWEEN_LINES {
            return;
        }
        let rate = (totals.delivered - self.delivered) as f64 / since.as_secs_f64();
        self.bar.set_position(start.elapsed().as_millis() as u64);
        self.bar.set_message(format!(
            "{} live · {} deliveries/s · p50 {:.2} p99 {:.2} ms · {} lost",
            count(live),
            count(rate as u64),
            outcome.millis(0.5),
            outcome.millis(0.99),
            count(totals.lost)
        ));
        (self.shown_at, self.delivered) = (Instant::now(), totals.delivered);
    }

    /// Takes the bar away.
    pub fn done(&mut self) {
        self.bar.finish_and_clear();
    }
}
