//! Counts what clusters of 10, 100 and 1,000 nodes say to each other, and prints it as Markdown tables.
//!
//! `scale [traffic|death|costs|plan] [NODES,…]`; without a word, all of it. See `docs/scaling.md`.

use std::time::Duration;

use cluster_tests::sim::scale::{
    costs, gossip,
    model::{self, Plan},
    scenario::{Outcome, Scenario, Stage, Use},
};

const USES: [(Use, &str); 3] =
    [(Use::Hot, "hot room"), (Use::Chat, "chat"), (Use::Notices, "notifications")];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "all".into());
    let nodes = arguments.next().unwrap_or_else(|| "10,100,1000".into());
    let nodes: Vec<usize> = nodes.split(',').filter_map(|it| it.parse().ok()).collect();
    let wants = |part: &str| what == "all" || what == part;
    if wants("traffic") {
        traffic(&nodes);
    }
    if wants("death") {
        death(&nodes);
    }
    if wants("costs") {
        costs(&nodes);
    }
    if wants("plan") {
        plan(&nodes);
    }
}

fn micros(it: Duration) -> String {
    format!("{:.2}", it.as_secs_f64() * 1e6)
}

fn per(sum: u64, count: usize) -> f64 {
    sum as f64 / count.max(1) as f64
}

fn yes(it: bool) -> &'static str {
    if it { "yes" } else { "no" }
}

/// As many rooms as a cluster of this size takes in a minute or so.
fn rooms(what: Use, nodes: usize) -> usize {
    match what {
        Use::Hot => 1,
        Use::Chat => 1_000,
        Use::Notices if nodes >= 1_000 => 4_000,
        Use::Notices => 10_000,
    }
}

fn traffic(nodes: &[usize]) {
    println!(
        "\n| rooms | history | nodes | nodes that know a room | frames to open a room | bytes | frames per publication | bytes | … of its home, most | … of a link, most | CPU per frame, opening / publishing, µs |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for (what, name) in USES {
        for history in [false, true] {
            for nodes in nodes.iter().copied() {
                let rooms = rooms(what, nodes);
                row(name, &Stage::new(Scenario { nodes, what, rooms, history }).play());
            }
        }
    }
}

fn row(name: &str, outcome: &Outcome) {
    let Scenario { nodes, rooms, history, .. } = outcome.scenario;
    let (opening, publishing) = (outcome.opening.all(), outcome.publishing.all());
    let frame = |cpu: Duration, frames: u64| micros(cpu / frames.max(1) as u32);
    let most = publishing_share(outcome);
    println!(
        "| {name} | {} | {nodes} | {:.1} | {:.1} | {:.0} | {:.1} | {:.0} | {:.1} | {:.3} | {} / {} |",
        yes(history),
        per(outcome.known.1 as u64, rooms),
        per(opening.frames, rooms),
        per(opening.bytes, rooms),
        per(publishing.frames, outcome.publications),
        per(publishing.bytes, outcome.publications),
        most.0,
        most.1,
        frame(outcome.opening_cpu, opening.frames),
        frame(outcome.publishing_cpu, publishing.frames),
    );
}

/// Frames of the busiest node and of the busiest link, per publication.
fn publishing_share(outcome: &Outcome) -> (f64, f64) {
    let most = outcome.publishing.most_sent().frames;
    let link = outcome.publishing.busiest_link.frames;
    (per(most, outcome.publications), per(link, outcome.publications))
}

fn death(nodes: &[usize]) {
    println!(
        "\n| rooms | history | nodes | rooms, all | moved | frames, all | per room moved | bytes, all | frames to one node, most | CPU of one core, most: link down + rerouted, µs | what was said |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|");
    for (what, name) in USES {
        for history in [false, true] {
            for nodes in nodes.iter().copied() {
                let rooms = rooms(what, nodes);
                let mut stage = Stage::new(Scenario { nodes, what, rooms, history });
                stage.play();
                let death = stage.kill_a_home();
                let all = death.traffic.all();
                let down = death.work.iter().map(|it| it.link_down).max().unwrap_or_default();
                let rerouted = death.work.iter().map(|it| it.rerouted).max().unwrap_or_default();
                let said = death.traffic.kinds.iter();
                let said: Vec<String> =
                    said.map(|(kind, tally)| format!("{} {kind}", tally.frames)).collect();
                println!(
                    "| {name} | {} | {nodes} | {rooms} | {} | {} | {:.1} | {} | {} | {:.0} + {:.0} | {} |",
                    yes(history),
                    death.moved,
                    all.frames,
                    per(all.frames, death.moved),
                    all.bytes,
                    death.traffic.most_received().frames,
                    down.as_secs_f64() * 1e6,
                    rerouted.as_secs_f64() * 1e6,
                    said.join(", "),
                );
                let (delivered, expected) = stage.publish_everywhere();
                assert_eq!(delivered, expected, "not everyone is reached again");
            }
        }
    }
}

fn costs(nodes: &[usize]) {
    println!(
        "\n| nodes | place the slots, ms | a tick, µs | a link up, µs | greeting, bytes | written, µs | read, µs | every second: heartbeats | gossip, Mbit | gossip, ms of CPU | ticks, ms of CPU |"
    );
    println!("|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for it in nodes.iter().map(|nodes| costs::of_nodes(*nodes)) {
        let Some(greeting) = gossip::greeting(it.nodes) else { continue };
        // Every greeting is answered by one of the same size, and each node greets as often as it is greeted.
        let datagrams = 2.0 * gossip::GREETINGS;
        println!(
            "| {} | {:.1} | {} | {} | {} | {} | {} | {:.0} | {:.1} | {:.1} | {:.1} |",
            it.nodes,
            it.placement.as_secs_f64() * 1e3,
            micros(it.tick),
            micros(it.link_up),
            greeting.bytes,
            micros(greeting.written),
            micros(greeting.read),
            (it.nodes - 1) as f64 * model::HEARTBEATS,
            datagrams * greeting.bytes as f64 * 8e-6,
            datagrams * (greeting.written + greeting.read).as_secs_f64() * 1e3,
            it.tick.as_secs_f64() * model::TICKS * 1e3,
        );
    }
    let most =
        [8, 20, 40, 60].map(|it| format!("{} with names of {it} bytes", gossip::most_nodes(it)));
    println!("\nNodes whose greeting fits into a datagram: {}.", most.join(", "));
    println!(
        "\n| rooms that a node knows | link down, ms | rerouted, ms | per room, µs | gauges, ms |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for it in [10_000, 100_000, 1_000_000].map(costs::of_rooms) {
        let both = it.link_down + it.rerouted;
        println!(
            "| {} | {:.1} | {:.1} | {:.2} | {:.2} |",
            it.rooms,
            it.link_down.as_secs_f64() * 1e3,
            it.rerouted.as_secs_f64() * 1e3,
            both.as_secs_f64() * 1e6 / 2.0 / it.rooms.max(1) as f64,
            it.gauges.as_secs_f64() * 1e3,
        );
    }
    if let Some(it) = costs::of_frames() {
        println!(
            "\nA publication of 128 bytes on a link: {} bytes; encode {} µs, seal {} µs ({} µs with many others), open {} µs, decode {} µs.",
            it.bytes,
            micros(it.encode),
            micros(it.seal),
            micros(it.sealed_together),
            micros(it.open),
            micros(it.decode),
        );
    }
}

fn plan(nodes: &[usize]) {
    println!(
        "\n| 10 million clients | history | nodes | deliveries/s | cores for them | Gbit/s to clients | rooms known | memory, MiB | frames/s to others | Mbit/s | cores for the mesh | frames/s that a home sends |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for_all(nodes, |name, plan| {
        let (load, delivery, mesh) = (plan.load(), plan.delivery_cores(), plan.mesh_cores());
        println!(
            "| {name} | {} | {} | {:.0} | {:.2}–{:.1} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} | {:.2}–{:.2} | {:.0} |",
            yes(plan.history),
            plan.nodes,
            load.deliveries,
            delivery.0,
            delivery.1,
            load.to_clients * 8e-9,
            load.rooms,
            load.memory / (1 << 20) as f64,
            load.frames,
            load.frames * model::DELIVER * 8e-6,
            mesh.0,
            mesh.1,
            load.home,
        );
    });
    println!(
        "\n| a node dies | history | nodes | rooms that move | frames to each node | CPU for those, s | looking through rooms, s |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|");
    for_all(nodes, |name, plan| {
        let load = plan.load();
        println!(
            "| {name} | {} | {} | {:.0} | {:.0} | {:.2} | {:.2} |",
            yes(plan.history),
            plan.nodes,
            load.moved,
            load.death_frames,
            load.death_talk,
            load.death_walks,
        );
    });
}

fn for_all(nodes: &[usize], row: impl Fn(&str, Plan)) {
    for (what, name) in USES {
        for history in [false, true] {
            for nodes in nodes {
                row(name, Plan { nodes: *nodes as f64, clients: 1e7, what, history });
            }
        }
    }
}
