//! `memory`: what an idle, connected, subscribed client costs the server.
//!
//! In: how many clients. Out: [`MemoryCost`], the server's memory at three moments.

use crate::fleet::Fleet;
use crate::limits;
use crate::reading::{Level, Memory};
use crate::table::{Report, Table, count};
use crate::target::{Node, TargetArgs};
use anyhow::{Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::time::Duration;

const ROOM: &str = "memory";

/// The options of `memory`.
#[derive(Args, Clone, Debug)]
pub struct MemoryArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Idle clients, each subscribed to the same room
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    clients: u64,
    /// Clients that connect and leave before the baseline is read
    #[arg(long, default_value_t = 500)]
    warm_up: u64,
    /// Seconds to keep the clients before their memory is read once more: a garbage collector may need minutes
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=600))]
    hold: u64,
}

impl MemoryArgs {
    /// The settings that the README's figures are from.
    pub fn of_readme(target: TargetArgs, clients: u64) -> Self {
        Self { target, clients, warm_up: 500, hold: 0 }
    }
}

/// The server's memory before and with its clients.
#[derive(Clone, Debug)]
pub struct MemoryCost {
    clients: u64,
    fresh: Level,
    warm: Level,
    loaded: Level,
    /// After the clients had been there for so many seconds.
    held: Option<(u64, Level)>,
}

/// Runs the measurement.
pub fn run(args: &MemoryArgs) -> Result<MemoryCost> {
    limits::require_files(args.clients.max(args.warm_up))?;
    let node = args.target.node()?;
    let server = node.processes()?;
    let fresh = server.settled_memory(&mut Fleet::new()?)?;
    // Dropping the fleet closes its connections.
    drop(fleet_of(&node, args.warm_up)?);
    let warm = server.settled_memory(&mut Fleet::new()?)?;
    let mut fleet = fleet_of(&node, args.clients)?;
    let loaded = server.settled_memory(&mut fleet)?;
    let held = if args.hold > 0 {
        fleet.idle(Duration::from_secs(args.hold))?;
        Some((args.hold, server.settled_memory(&mut fleet)?))
    } else {
        None
    };
    let counts = fleet.counts();
    ensure!(
        counts.closed == 0,
        "the server closed {} of {} idle clients, the first because: {}",
        counts.closed,
        args.clients,
        counts.first_close.as_deref().unwrap_or("unknown")
    );
    Ok(MemoryCost { clients: args.clients, fresh, warm, loaded, held })
}

fn fleet_of(node: &Node, clients: u64) -> Result<Fleet> {
    let mut fleet = Fleet::new()?;
    fleet.open(node.client_plan(&[ROOM.to_owned()], false), clients as usize)?;
    Ok(fleet)
}

impl MemoryCost {
    /// Bytes of the server's own memory per client, counted from the warmed-up baseline.
    pub fn bytes_per_client(&self) -> f64 {
        self.per_client(&self.warm, |memory| memory.private)
    }

    fn per_client(&self, before: &Level, of: impl Fn(&Memory) -> u64) -> f64 {
        self.grown(before, &self.loaded, of)
    }

    fn grown(&self, before: &Level, after: &Level, of: impl Fn(&Memory) -> u64) -> f64 {
        let grown = of(&after.memory) as f64 - of(&before.memory) as f64;
        grown * 1024.0 / self.clients as f64
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let levels = [self.fresh, self.warm, self.loaded];
        let mut notes =
            vec!["Bytes per client count from the warmed-up server, which reuses what the first clients \
             left; raw ones count from the fresh one, so the allocator's start is in them."
                .to_owned()];
        if levels.iter().any(|level| !level.settled) {
            notes.push("The memory was still moving when it was read: repeat the run.".to_owned());
        }
        let title = format!("Memory: {} idle clients, each in one room", count(self.clients));
        Report { title, table: self.table(), notes, json: self.json() }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(["server", "private KiB", "PSS KiB", "RSS KiB"]);
        let mut moments = vec![
            ("fresh".to_owned(), self.fresh),
            ("warmed up".to_owned(), self.warm),
            (format!("with {} clients", count(self.clients)), self.loaded),
        ];
        moments.extend(self.held.map(|(hold, level)| (format!("… {hold} s later"), level)));
        for (moment, Level { memory, .. }) in moments {
            table.row([moment, count(memory.private), count(memory.pss), count(memory.rss)]);
        }
        for (name, before) in
            [("bytes per client", &self.warm), ("raw bytes per client", &self.fresh)]
        {
            let of = |field: fn(&Memory) -> u64| format!("{:.0}", self.per_client(before, field));
            table.row([name.to_owned(), of(|m| m.private), of(|m| m.pss), of(|m| m.rss)]);
        }
        table
    }

    fn json(&self) -> Value {
        let level = |Level { memory, settled }: Level| {
            json!({"private_kib": memory.private, "pss_kib": memory.pss,
                   "rss_kib": memory.rss, "settled": settled})
        };
        json!({
            "bench": "memory",
            "clients": self.clients,
            "bytes_per_client": self.bytes_per_client(),
            "pss_bytes_per_client": self.per_client(&self.warm, |memory| memory.pss),
            "rss_bytes_per_client": self.per_client(&self.warm, |memory| memory.rss),
            "raw_rss_bytes_per_client": self.per_client(&self.fresh, |memory| memory.rss),
            "fresh": level(self.fresh),
            "warm": level(self.warm),
            "loaded": level(self.loaded),
            "held": self.held.map(|(_, held)| level(held)),
            "held_bytes_per_client":
                self.held.map(|(_, held)| self.grown(&self.warm, &held, |memory| memory.private)),
        })
    }
}
