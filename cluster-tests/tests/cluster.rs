//! The cluster seen from outside: official SDKs on every node, one order
//! everywhere, and what happens when clients and nodes come and go.

use std::time::Duration;

use cluster_tests::check::{self, Message, messages_of};
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::{Js, Python};
use cluster_tests::step::Step::{self, *};
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

const EIGHT: [&str; 8] = ["js-a", "js-a2", "js-b", "js-b2", "js-c", "js-c2", "py-b", "py-c"];

/// Six clients of the JS SDK and two of the Python SDK, at least two per node,
/// both formats mixed, all in `room`.
fn eight_clients(room: &'static str) -> Vec<Step> {
    let connect = |client, sdk, format, node| Connect { client, sdk, format, node };
    let mut steps = vec![
        connect("js-a", Js, Json, 0),
        connect("js-a2", Js, Protobuf, 0),
        connect("js-b", Js, Protobuf, 1),
        connect("js-b2", Js, Json, 1),
        connect("js-c", Js, Json, 2),
        connect("js-c2", Js, Protobuf, 2),
        connect("py-b", Python, Json, 1),
        connect("py-c", Python, Protobuf, 2),
    ];
    steps.extend(EIGHT.map(|client| Subscribe { client, room }));
    steps
}

fn publish(clients: &[&'static str], room: &'static str, count: u64) -> Step {
    Publish { clients: clients.to_vec(), room, count, pipelined: false }
}

fn expected(from: &[&str], count: u64) -> Vec<Message> {
    from.iter().flat_map(|from| messages_of(from, count)).collect()
}

#[test]
fn three_publishers_on_three_nodes_reach_all_in_one_order() {
    let mut world = World::new(3);
    let publishers = ["js-a", "js-b", "py-c"];
    world.play(eight_clients("lobby"));
    world.play([
        Publish { clients: publishers.to_vec(), room: "lobby", count: 1000, pipelined: true },
        Receive { clients: EIGHT.to_vec(), room: "lobby", count: 3000 },
    ]);
    world.check("all 3,000 everywhere, once, in one order", |world| {
        check::complete(&world.logs(&EIGHT, "lobby"), &expected(&publishers, 1000))
    });
}

#[test]
fn a_room_that_keeps_nothing_is_ordered_too() {
    let mut world = World::new(3);
    let publishers = ["js-a2", "js-b2", "py-b"];
    world.play(eight_clients("plain:score"));
    world.play([
        Publish { clients: publishers.to_vec(), room: "plain:score", count: 300, pipelined: true },
        Receive { clients: EIGHT.to_vec(), room: "plain:score", count: 900 },
    ]);
    world.check("all 900 everywhere, once, in one order", |world| {
        let logs = world.logs(&EIGHT, "plain:score");
        for log in &logs {
            check::no_duplicates(log)?;
            check::nothing_lost(log, &expected(&publishers, 300))?;
            check::publishers_order(log)?;
        }
        check::same_order(&logs)
    });
}

#[test]
fn what_passed_while_a_client_was_away_is_recovered_on_another_node() {
    let mut world = World::new(3);
    let moved = ["js-a", "js-a2", "py-b", "py-c"];
    world.play(eight_clients("lobby"));
    world.play([publish(&["js-c"], "lobby", 10)]);
    world.play([Receive { clients: EIGHT.to_vec(), room: "lobby", count: 10 }]);
    world.play(moved.map(|client| Unplug { client }));
    world.play([publish(&["js-b"], "lobby", 50)]);
    let targets = [1, 2, 0, 0];
    for (client, node) in moved.into_iter().zip(targets) {
        world.play([MoveTo { client, node, room: "lobby" }]);
    }
    world.play([Receive { clients: EIGHT.to_vec(), room: "lobby", count: 60 }]);
    for client in moved {
        world.check(&format!("{client} was told recovered: true"), |world| {
            let back = last_confirmation(world, client, "lobby");
            ensure(back["wasRecovering"] == true && back["recovered"] == true, || back.to_string())
        });
    }
    world.check("all 60 everywhere, once, in one order", |world| {
        let mut all = expected(&["js-c"], 10);
        all.extend(expected(&["js-b"], 50));
        check::complete(&world.logs(&EIGHT, "lobby"), &all)
    });
}

#[test]
fn a_client_that_missed_more_than_the_limit_is_told_so() {
    let mut world = World::new(3);
    world.play([
        Connect { client: "away", sdk: Js, format: Json, node: 0 },
        Connect { client: "busy", sdk: Js, format: Json, node: 1 },
        Subscribe { client: "away", room: "lobby" },
        Unplug { client: "away" },
        Publish { clients: vec!["busy"], room: "lobby", count: 301, pipelined: true },
        MoveTo { client: "away", node: 2, room: "lobby" },
    ]);
    world.check("wasRecovering without recovered, and no old message", |world| {
        let back = last_confirmation(world, "away", "lobby");
        let told = back["wasRecovering"] == true && back["recovered"] == false;
        ensure(told && back["offset"] == 301, || back.to_string())?;
        ensure(world.clients.count("away", "lobby") == 0, || "old messages came".to_owned())
    });
}

#[test]
fn a_node_that_leaves_hands_its_clients_over() {
    let mut world = World::new(3);
    world.play(eight_clients("lobby"));
    world.play([
        publish(&["js-b"], "lobby", 40),
        Receive { clients: EIGHT.to_vec(), room: "lobby", count: 40 },
    ]);
    let epoch = world.api(1, "history", json!({"channel": "lobby", "limit": 0}))["epoch"].clone();
    // Whichever node is the room's home, each in turn is asked to leave.
    let on_a = ["js-a", "js-a2"];
    world.play(on_a.map(|client| turn_to(client, 1)));
    world.play([Terminate { node: 0 }]);
    closed_with(&mut world, &on_a, 3001);
    world.play([publish(&["js-c"], "lobby", 40)]);
    on_all_but(&mut world, &[1, 2]);
    let on_b = ["js-a", "js-a2", "js-b", "js-b2", "py-b"];
    world.play(on_b.map(|client| turn_to(client, 2)));
    world.play([Terminate { node: 1 }]);
    closed_with(&mut world, &on_b, 3001);
    world.play([publish(&["py-c"], "lobby", 40)]);
    let mut all = expected(&["js-b", "js-c", "py-c"], 40);
    all.sort();
    world.eventually("nobody misses anything silently", REACTION, |world| {
        check::never_silent(&world.logs(&EIGHT, "lobby"), &all)
    });
    world.check(
        "the history is still there, in its first epoch, and nobody was told of a gap",
        |world| {
            let page =
                world.cluster.api(2, "history", &json!({"channel": "lobby", "limit": -1}))?;
            let kept = page["publications"].as_array().map_or(0, Vec::len);
            ensure(kept == 120, || format!("{kept} of 120 kept"))?;
            ensure(page["epoch"] == epoch, || format!("epoch {}, first {epoch}", page["epoch"]))?;
            let logs = world.logs(&EIGHT, "lobby");
            let told = logs.iter().find(|log| check::gap_announced(log));
            ensure(told.is_none(), || format!("told of a gap: {told:?}"))
        },
    );
}

#[test]
fn a_killed_node_costs_no_acknowledged_message() {
    let mut world = World::new(3);
    world.play(eight_clients("lobby"));
    world.play([publish(&["js-b", "js-c", "py-c"], "lobby", 50)]);
    let on_a = ["js-a", "js-a2"];
    world.play(on_a.map(|client| turn_to(client, 1)));
    let pending = world.clients.start_publishing("js-c2", "lobby", 300, false);
    world.play([Kill { node: 0 }]);
    let outcome = world.clients.finish_publishing("js-c2", pending).expect("the driver answers");
    world.check("the cluster went on taking messages", |_| {
        ensure(outcome.acked >= 290, || format!("{outcome:?}"))
    });
    let refused: Vec<u64> = outcome.refused.iter().map(|(seq, _)| *seq).collect();
    let acked = messages_of("js-c2", 300).into_iter().filter(|(_, seq)| !refused.contains(seq));
    let mut all = expected(&["js-b", "js-c", "py-c"], 50);
    all.extend(acked);
    world.eventually("whoever was not told of a gap has all of it", REACTION, |world| {
        check::never_silent(&world.logs(&EIGHT, "lobby"), &all)
    });
    on_all_but(&mut world, &[1, 2]);
    world.play([Restart { node: 0 }, Converge]);
    world.play([Connect { client: "new-a", sdk: Js, format: Json, node: 0 }]);
    world.play([Subscribe { client: "new-a", room: "lobby" }, publish(&["js-b2"], "lobby", 5)]);
    world.play([Receive { clients: vec!["new-a"], room: "lobby", count: 5 }]);
}

#[test]
fn a_node_joins_and_everything_goes_on() {
    let mut world = World::new(2);
    world.play([
        Connect { client: "one", sdk: Js, format: Json, node: 0 },
        Connect { client: "two", sdk: Js, format: Protobuf, node: 1 },
        Subscribe { client: "one", room: "lobby" },
        Subscribe { client: "two", room: "lobby" },
    ]);
    let first = world.clients.start_publishing("one", "lobby", 400, false);
    let second = world.clients.start_publishing("two", "lobby", 400, false);
    world.play([Add, Converge]);
    for (client, pending) in [("one", first), ("two", second)] {
        let outcome = world.clients.finish_publishing(client, pending).expect("the driver answers");
        world.check(&format!("{client} was refused nothing"), |_| {
            ensure(outcome.acked == 400, || format!("{outcome:?}"))
        });
    }
    let both = ["one", "two"];
    world.play([Receive { clients: both.to_vec(), room: "lobby", count: 800 }]);
    world.check("all 800, once, in one order, without a gap", |world| {
        check::complete(&world.logs(&both, "lobby"), &expected(&both, 400))
    });
    world.play([
        Connect { client: "three", sdk: Js, format: Json, node: 2 },
        Subscribe { client: "three", room: "lobby" },
        publish(&["one"], "lobby", 1),
        Receive { clients: vec!["three"], room: "lobby", count: 1 },
    ]);
}

/// Where this client goes when it loses its connection.
fn turn_to(client: &'static str, node: usize) -> Step {
    TurnTo { client, node }
}

fn last_confirmation(world: &World, client: &str, room: &str) -> Value {
    let events = world.clients.events(client);
    let own = events.iter().rfind(|e| e["ev"] == "subscribed" && e["room"] == room);
    own.cloned().unwrap_or_default()
}

/// The SDKs name the close code in the state that follows it.
fn closed_with(world: &mut World, clients: &[&str], code: u64) {
    for client in clients {
        let what = format!("{client} was told {code}, and is connected again");
        world.check(&what, |world| {
            world.clients.until(client, REACTION, |events| {
                let mut states = events.iter().filter(|e| e["ev"] == "state");
                let told = states.clone().any(|e| e["code"] == code);
                let last = states.next_back().map_or(&Value::Null, |e| &e["state"]);
                ensure(told && last == "connected", || format!("told: {told}, now {last}"))
            })
        });
    }
}

fn on_all_but(world: &mut World, left: &[usize]) {
    world.eventually("the others know", Duration::from_secs(10), |world| {
        for &node in left {
            let info = world.cluster.api(node, "info", &json!({}))?;
            let listed = info["nodes"].as_array().map_or(0, Vec::len);
            ensure(listed == left.len(), || format!("node {node} lists {listed} nodes"))?;
        }
        Ok(())
    });
}
