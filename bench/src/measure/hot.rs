//! `hot`: one room with many publishers, over a mesh: is there one order, how long do messages take, and does
//! anything pile up?
//!
//! In: how many publishers and subscribers. Out: [`Hot`].

use crate::fleet::{Fleet, time_left};
use crate::limits;
use crate::publisher::{Clock, Publisher, Via, payload, stamp};
use crate::table::{Report, Table, count};
use crate::target::{TargetArgs, processes};
use anyhow::{Context, Result};
use clap::Args;
use hdrhistogram::Histogram;
use serde_json::json;
use std::time::{Duration, Instant};

/// A room with history: deliveries carry the offset that the order is checked by.
const ROOM: &str = "kept:hot";
const GRACE: Duration = Duration::from_secs(5);
const LONGEST: u64 = 60_000_000_000;

/// The options of `hot`.
#[derive(Args, Clone, Debug)]
pub struct HotArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Publishers, spread over the nodes
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    publishers: u32,
    /// Publications a second of each publisher
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Subscribers, spread over the nodes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    subscribers: u32,
    /// Nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    nodes: u8,
    /// Seconds of publishing
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

impl HotArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs) -> Self {
        Self { target, publishers: 50, rate: 100, subscribers: 30, nodes: 3, seconds: 10 }
    }
}

/// What a hot room came to.
#[derive(Clone, Debug)]
pub struct Hot {
    args: HotArgs,
    published: u64,
    received: u64,
    /// Deliveries that were not the one next in the room's order.
    out_of_order: u64,
    latency: Histogram<u64>,
    cpu: Duration,
    /// Memory of all nodes after a third of the time and at its end, in KiB.
    memory: (u64, u64),
}

/// Runs the measurement.
pub fn run(args: &HotArgs) -> Result<Hot> {
    limits::require_files(u64::from(args.publishers + args.subscribers))?;
    let nodes = args.target.nodes(args.target.available(usize::from(args.nodes)))?;
    let servers = processes(&nodes)?;
    let mut fleet = Fleet::new()?;
    for subscriber in 0..args.subscribers as usize {
        let node = &nodes[subscriber % nodes.len()];
        fleet.open(node.client_plan(&[ROOM.to_owned()], true), 1)?;
    }
    let publishers = (0..args.publishers as usize)
        .map(|index| {
            let node = &nodes[index % nodes.len()];
            Publisher::open(&mut fleet, node, Via::Ws, args.target.api_key())
        })
        .collect::<Result<Vec<_>>>()?;
    let orders = vec![Vec::new(); args.subscribers as usize];
    let latency = Histogram::new_with_bounds(1, LONGEST, 3).context("making a histogram")?;
    let dialect = nodes[0].dialect();
    let clock = Clock::start();
    let mut run = Run { args, fleet, publishers, orders, latency, clock, dialect };
    let cpu = servers.cpu_time()?;
    let total = u64::from(args.publishers * args.rate * args.seconds);
    let early = run.publish(0..total / 3, || Ok(servers.memory()?.private))?;
    let late = run.publish(total / 3..total, || Ok(servers.memory()?.private))?;
    run.finish(total)?;
    let cpu = servers.cpu_time()? - cpu;
    Ok(run.result(total, cpu, (early, late)))
}

struct Run<'a> {
    args: &'a HotArgs,
    fleet: Fleet,
    publishers: Vec<Publisher>,
    /// For every subscriber, the offset and the stamp of each delivery, as they came.
    orders: Vec<Vec<(u64, u64)>>,
    latency: Histogram<u64>,
    clock: Clock,
    dialect: &'static dyn crate::dialect::Dialect,
}

impl Run<'_> {
    /// The publishers in turn publish these, at the rate of all together; then reads a level.
    fn publish(
        &mut self,
        numbers: std::ops::Range<u64>,
        read: impl Fn() -> Result<u64>,
    ) -> Result<u64> {
        let (start, first) = (Instant::now(), numbers.start);
        let rate = f64::from(self.args.publishers * self.args.rate);
        for number in numbers {
            let due = start + Duration::from_secs_f64((number - first) as f64 / rate);
            while let Some(left) = time_left(due) {
                self.receive(left)?;
            }
            let data = payload(128, self.clock.now());
            let publisher = number as usize % self.publishers.len();
            self.publishers[publisher].publish(&mut self.fleet, ROOM, &data)?;
            // Without this a generator that is behind would only send.
            if number % 64 == 0 {
                self.receive(Duration::ZERO)?;
            }
        }
        read()
    }

    fn finish(&mut self, total: u64) -> Result<()> {
        let (mut seen, mut deadline) = (0, Instant::now() + GRACE);
        while self.received() < total * self.orders.len() as u64 {
            let Some(left) = time_left(deadline) else { break };
            self.receive(left)?;
            if self.received() > seen {
                (seen, deadline) = (self.received(), Instant::now() + GRACE);
            }
        }
        Ok(())
    }

    fn received(&self) -> u64 {
        self.orders.iter().map(|order| order.len() as u64).sum()
    }

    fn receive(&mut self, timeout: Duration) -> Result<()> {
        let Self { fleet, publishers, orders, latency, clock, dialect, .. } = self;
        let subscribers = orders.len();
        fleet.pump(timeout, |id, message| {
            if let Some(publisher) = id.checked_sub(subscribers) {
                return publishers[publisher].read(id, message);
            }
            if let (Some(offset), Some(sent)) = (dialect.offset(message), stamp(message)) {
                orders[id].push((offset, sent));
                latency.saturating_record(clock.now().saturating_sub(sent));
            }
        })?;
        publishers.iter().try_for_each(Publisher::check)
    }

    fn result(self, published: u64, cpu: Duration, memory: (u64, u64)) -> Hot {
        let Self { args, orders, latency, .. } = self;
        let received = orders.iter().map(|order| order.len() as u64).sum();
        // One order: everyone has what the first one has, and its offsets rise by one.
        let out_of_order = orders.iter().map(|order| out_of_order(&orders[0], order)).sum();
        Hot { args: args.clone(), published, received, out_of_order, latency, cpu, memory }
    }
}

/// Deliveries in `order` that don't follow the one before, or differ from those of `first`.
fn out_of_order(first: &[(u64, u64)], order: &[(u64, u64)]) -> u64 {
    let gaps = order.windows(2).filter(|pair| pair[1].0 != pair[0].0 + 1).count();
    let others = order.iter().zip(first).filter(|(own, theirs)| own != theirs).count();
    (gaps + others) as u64
}

impl Hot {
    /// The latency, in milliseconds, that 99 % of the deliveries stayed within.
    pub fn p99_millis(&self) -> f64 {
        self.latency.value_at_quantile(0.99) as f64 / 1e6
    }

    /// Deliveries that did not come, and those that came out of the one order.
    pub fn faults(&self) -> (u64, u64) {
        let expected = self.published * u64::from(self.args.subscribers);
        (expected.saturating_sub(self.received), self.out_of_order)
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let HotArgs { publishers, rate, subscribers, nodes, .. } = self.args;
        let millis = |quantile| self.latency.value_at_quantile(quantile) as f64 / 1e6;
        let (lost, _) = self.faults();
        let mut table = Table::new(["figure", "measured"]);
        let mut row = |what: &str, measured: String| table.row([what.to_owned(), measured]);
        row("publications", count(self.published));
        row("deliveries lost", count(lost));
        row("deliveries out of the one order", count(self.out_of_order));
        row(
            "latency p50 / p99 / max",
            [0.5, 0.99, 1.0].map(|q| format!("{:.2}", millis(q))).join(" / ") + " ms",
        );
        let micros = self.cpu.as_secs_f64() * 1e6 / self.received.max(1) as f64;
        row("CPU time of all nodes per delivery", format!("{micros:.2} µs"));
        let (early, late) = self.memory;
        row(
            "their memory after a third of the time and at its end",
            format!("{} and {} KiB", count(early), count(late)),
        );
        let title = format!(
            "Hot room: {publishers} publishers × {rate} messages/s to {subscribers} subscribers on {nodes} node(s)"
        );
        let json = json!({
            "bench": "hot", "publishers": publishers, "rate": rate, "subscribers": subscribers,
            "nodes": nodes, "lost": lost,
            "out_of_order": self.out_of_order, "p50_ms": millis(0.5), "p99_ms": millis(0.99),
            "us_per_delivery": micros, "memory_kib": {"early": early, "late": late},
        });
        Report { title, table, notes: Vec::new(), json }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_with_a_gap_or_with_other_messages_is_seen() {
        let first = [(1, 10), (2, 20), (3, 30)];
        assert_eq!(out_of_order(&first, &first), 0);
        assert_eq!(out_of_order(&first, &first[..2]), 0);
        assert_eq!(out_of_order(&first, &[(1, 10), (3, 30)]), 2);
        assert_eq!(out_of_order(&first, &[(1, 10), (2, 30), (3, 20)]), 2);
    }
}
