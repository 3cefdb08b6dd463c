//! What a comparison prints: one table, the settings behind it, and where a peer is better.

use super::{Comparison, LATENCY_RATE, RATE, Row, SIZE, SUBSCRIBERS, WINDOW};
use crate::measure::latency::Seen;
use crate::peers::Kind;
use crate::rounds::Round;
use crate::table::{Report, Table, count, median};
use serde_json::{Value, json};

/// Differences smaller than this are the machine's noise, not the servers'.
const NOISE: f64 = 0.05;
const NOTHING: &str = "–";

/// A figure by which servers are told apart.
struct Figure {
    name: &'static str,
    of: fn(&Row) -> Option<f64>,
    more_is_better: bool,
    show: fn(f64) -> String,
}

const FIGURES: [Figure; 7] = [
    Figure {
        name: "CPU per delivery, as a ratio to the floor",
        of: |row| ratio(&row.paced),
        more_is_better: false,
        show: |value| format!("{value:.2}"),
    },
    Figure {
        name: "deliveries per CPU-second, saturated",
        of: |row| per_cpu_second(&row.saturated),
        more_is_better: true,
        show: |value| count(value as u64),
    },
    Figure {
        name: "memory per idle client",
        of: |row| row.kib("held_bytes_per_client"),
        more_is_better: false,
        show: |value| format!("{value:.1} KiB"),
    },
    Figure {
        name: "latency on one node, p50",
        of: |row| row.millis(0, 0.5),
        more_is_better: false,
        show: millis,
    },
    Figure {
        name: "latency on one node, p99",
        of: |row| row.millis(0, 0.99),
        more_is_better: false,
        show: millis,
    },
    Figure {
        name: "latency to the other node, p50",
        of: |row| row.millis(1, 0.5),
        more_is_better: false,
        show: millis,
    },
    Figure {
        name: "latency to the other node, p99",
        of: |row| row.millis(1, 0.99),
        more_is_better: false,
        show: millis,
    },
];

fn millis(value: f64) -> String {
    format!("{value:.2} ms")
}

type Pair = (Round, Round);

fn micros(pairs: &[Pair]) -> Option<f64> {
    median_of(pairs, |(server, _)| server.micros_per_delivery())
}

fn ratio(pairs: &[Pair]) -> Option<f64> {
    median_of(pairs, |(server, floor)| server.micros_per_delivery() / floor.micros_per_delivery())
}

fn per_cpu_second(rounds: &[Round]) -> Option<f64> {
    median_of(rounds, Round::per_cpu_second)
}

fn median_of<T>(rounds: &[T], of: impl Fn(&T) -> f64) -> Option<f64> {
    (!rounds.is_empty()).then(|| median(rounds.iter().map(of)))
}

impl Row {
    fn kib(&self, field: &str) -> Option<f64> {
        Some(self.memory.as_ref()?[field].as_f64()? / 1024.0)
    }

    fn millis(&self, node: usize, quantile: f64) -> Option<f64> {
        let rounds = self.seen.iter().filter_map(|nodes| nodes.get(node));
        let millis: Vec<f64> = rounds.map(|seen| seen.millis(quantile)).collect();
        median_of(&millis, |millis| *millis)
    }

    fn latency(&self, node: usize) -> String {
        match (self.millis(node, 0.5), self.millis(node, 0.99)) {
            (Some(median), Some(most)) => format!("{median:.2} / {most:.2}"),
            _ => NOTHING.to_owned(),
        }
    }

    fn lost(&self) -> u64 {
        let rounds = self.paced.iter().map(|(server, _)| server).chain(&self.saturated);
        let by_rounds: u64 = rounds.map(Round::lost).sum();
        by_rounds + self.seen.iter().flatten().map(Seen::lost).sum::<u64>()
    }

    fn cells(&self) -> [String; 9] {
        let name = self.contender.name.to_owned();
        if let (Some(failure), true) = (&self.failure, self.paced.is_empty()) {
            let why = failure.lines().next().unwrap_or_default().to_owned();
            let nothing = || NOTHING.to_owned();
            let (a, b, c) = (nothing(), nothing(), nothing());
            return [name, why, a, b, c, nothing(), nothing(), nothing(), nothing()];
        }
        let show = |value: Option<f64>, digits: usize| {
            value.map_or(NOTHING.to_owned(), |value| format!("{value:.digits$}"))
        };
        let memory = match (self.kib("bytes_per_client"), self.kib("held_bytes_per_client")) {
            (Some(first), Some(held)) => format!("{first:.1} / {held:.1}"),
            _ => NOTHING.to_owned(),
        };
        let saturated = per_cpu_second(&self.saturated);
        [
            name,
            self.version.clone(),
            show(micros(&self.paced), 1),
            show(ratio(&self.paced), 2),
            saturated.map_or(NOTHING.to_owned(), |value| count(value as u64)),
            memory,
            self.latency(0),
            self.latency(1),
            count(self.lost()),
        ]
    }

    fn json(&self) -> Value {
        let seen = |seen: &Seen| json!({"p50_ms": seen.millis(0.5), "p99_ms": seen.millis(0.99)});
        let latency = |nodes: &Vec<Seen>| nodes.iter().map(seen).collect::<Value>();
        let rounds: Vec<Value> = self.paced.iter().zip(&self.saturated).map(round_json).collect();
        json!({
            "name": self.contender.name,
            "version": self.version,
            "nodes": self.contender.nodes,
            "us_per_delivery": micros(&self.paced),
            "ratio": ratio(&self.paced),
            "deliveries_per_cpu_second": per_cpu_second(&self.saturated),
            "memory": self.memory,
            "latency": self.seen.iter().map(latency).collect::<Vec<_>>(),
            "lost": self.lost(),
            "closed": self.closed,
            "failure": self.failure,
            "rounds": rounds,
        })
    }
}

fn round_json((paced, saturated): (&Pair, &Round)) -> Value {
    json!({
        "us_per_delivery": paced.0.micros_per_delivery(),
        "floor_us_per_delivery": paced.1.micros_per_delivery(),
        "frame_bytes": paced.0.frame_bytes(),
        "saturated_per_cpu_second": saturated.per_cpu_second(),
        "saturated_per_second": saturated.per_second(),
    })
}

impl Comparison {
    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let title = format!(
            "Comparison: {} subscribers × {RATE} messages/s × {SIZE} B JSON; median of {} rounds",
            count(SUBSCRIBERS),
            self.effort.rounds
        );
        let mut table = Table::new([
            "server",
            "version",
            "CPU µs per delivery",
            "× floor",
            "deliveries per CPU-s, saturated",
            "KiB per idle client: at once / later",
            "p50 / p99 ms",
            "other node: p50 / p99 ms",
            "lost",
        ]);
        self.rows.iter().for_each(|row| table.row(row.cells()));
        let mut notes = self.how();
        notes.push(settings());
        notes.extend(self.failures());
        notes.extend(self.better());
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        let better: Vec<String> = self.better();
        let json = json!({"bench": "compare", "rows": rows, "peers_are_better": better});
        Report { title, table, notes, json }
    }

    fn how(&self) -> Vec<String> {
        let floors = self.rows.iter().flat_map(|row| &row.paced);
        let floors: Vec<f64> = floors.map(|(_, floor)| floor.micros_per_delivery()).collect();
        let floor = median_of(&floors, |micros| *micros);
        let (hold, idle) = (self.effort.hold, count(self.effort.idle_clients));
        let floor = floor.map(|floor| {
            format!(
                "The floor, one send(2) of as many bytes for each delivery, took {floor:.1} µs in the \
                 median; each round is divided by the floor's round right after it."
            )
        });
        let how = format!(
            "CPU is that of all processes of a row, Redis included. Saturated: {WINDOW} messages on their \
             way. Idle clients: {idle}, subscribed; memory as soon as it held still, and {hold} s later. \
             Latency: {LATENCY_RATE} messages/s, the median round's percentiles. Other node: subscribers \
             are spread over both, the publisher is on one."
        );
        floor.into_iter().chain([how]).collect()
    }

    fn failures(&self) -> Vec<String> {
        let text = |row: &Row| {
            let failure = row.failure.as_ref().map(|why| format!("{}: {why}", row.contender.name));
            let closed = (row.closed > 0)
                .then(|| format!("{} closed {} connections.", row.contender.name, row.closed));
            [failure, closed]
        };
        self.rows.iter().flat_map(text).flatten().collect()
    }

    /// Every figure in which a peer is better than Roomcast on as many nodes.
    fn better(&self) -> Vec<String> {
        let ours = |row: &&Row| matches!(row.contender.kind, Kind::Roomcast { .. });
        let (mut found, mut compared) = (Vec::new(), 0);
        for row in self.rows.iter().filter(|row| !ours(row)) {
            let nodes = row.contender.nodes;
            let Some(own) = self.rows.iter().filter(ours).find(|own| own.contender.nodes == nodes)
            else {
                continue;
            };
            for figure in &FIGURES {
                let (Some(theirs), Some(ours)) = ((figure.of)(row), (figure.of)(own)) else {
                    continue;
                };
                compared += 1;
                if is_better(theirs, ours, figure.more_is_better) {
                    let (show, name) = (figure.show, row.contender.name);
                    let (theirs, ours) = (show(theirs), show(ours));
                    found.push(format!("- {name}, {}: {theirs}; Roomcast {ours}", figure.name));
                }
            }
        }
        let head = match (compared, found.is_empty()) {
            (0, _) => return found,
            (_, true) => {
                "No peer was better than Roomcast in any of these figures by more than 5 %."
            }
            (_, false) => "Where a peer was better than Roomcast by more than 5 %:",
        };
        found.insert(0, head.to_owned());
        found
    }
}

fn is_better(theirs: f64, ours: f64, more_is_better: bool) -> bool {
    match more_is_better {
        true => theirs > ours * (1.0 + NOISE),
        false => theirs < ours * (1.0 - NOISE),
    }
}

fn settings() -> String {
    "Settings: bench/peers/centrifugo.json, nats.conf, socketio/server.js, redis.conf; Roomcast's are its \
     defaults with client.insecure and, where it says so, http_server.workers = 1. Nothing is compressed, \
     encrypted or kept as history."
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_is_more_or_less_by_more_than_noise() {
        assert!(is_better(106.0, 100.0, true) && !is_better(104.0, 100.0, true));
        assert!(is_better(94.0, 100.0, false) && !is_better(96.0, 100.0, false));
    }
}
