//! Who is here: the same answer from every node, joins and leaves announced
//! everywhere, and nobody left behind by a node that died.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::{Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::World;
use serde_json::{Value, json};

const FOUR: [&str; 4] = ["ann", "bob", "cleo", "dan"];
const SOON: Duration = Duration::from_secs(5);
/// A crash may take this long to be noticed and announced.
const CRASH: Duration = Duration::from_secs(10);

/// Four people in the room `hall` on three nodes.
fn hall() -> World {
    let mut world = World::new(3);
    world.play([
        Connect { client: "ann", sdk: Js, format: Json, node: 0 },
        Connect { client: "bob", sdk: Js, format: Protobuf, node: 1 },
        Connect { client: "cleo", sdk: Python, format: Json, node: 2 },
        Connect { client: "dan", sdk: Js, format: Json, node: 2 },
    ]);
    world.play(FOUR.map(|client| Subscribe { client, room: "hall" }));
    world
}

/// The client id of the newest session of a client.
fn id(world: &World, client: &str) -> String {
    let events = world.clients.events(client);
    let connected = events.iter().rfind(|e| e["state"] == "connected");
    connected.and_then(|e| e["id"].as_str()).unwrap_or_default().to_owned()
}

fn ids(world: &World, clients: &[&str]) -> BTreeSet<String> {
    clients.iter().map(|client| id(world, client)).collect()
}

fn keys(presence: &Value) -> BTreeSet<String> {
    presence.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
}

/// Presence and its statistics are exactly `expected` through the API of the
/// `nodes` and through the SDKs of the `askers`.
fn agrees(
    world: &mut World,
    expected: &BTreeSet<String>,
    nodes: &[usize],
    askers: &[&str],
) -> Result<(), String> {
    for &node in nodes {
        let seen = world.cluster.api(node, "presence", &json!({"channel": "hall"}))?;
        let seen = keys(&seen["presence"]);
        ensure(&seen == expected, || format!("node {node} sees {seen:?}, not {expected:?}"))?;
        let stats = world.cluster.api(node, "presence_stats", &json!({"channel": "hall"}))?;
        let clients = stats["num_clients"].as_u64();
        ensure(clients == Some(expected.len() as u64), || format!("node {node}: {stats}"))?;
    }
    for asker in askers {
        let room = json!({"room": "hall"});
        let seen = world.clients.call(asker, "presence", room.clone());
        let seen = keys(&seen.map_err(|e| e.to_string())?["clients"]);
        ensure(&seen == expected, || format!("{asker} sees {seen:?}, not {expected:?}"))?;
        let stats = world.clients.call(asker, "presence_stats", room);
        let stats = stats.map_err(|e| e.to_string())?;
        let same = stats["clients"].as_u64() == Some(expected.len() as u64);
        ensure(same, || format!("{asker}: {stats}"))?;
    }
    Ok(())
}

/// Each of `clients` has seen exactly one `kind` (join or leave) of the id.
fn announced(world: &World, kind: &str, who: &str, clients: &[&str]) -> Result<(), String> {
    for client in clients {
        let events = world.clients.events(client);
        let own = events.iter().filter(|e| e["ev"] == kind && e["info"]["client"] == who);
        let times = own.count();
        ensure(times == 1, || format!("{client} has seen {times} × {kind} of {who}"))?;
    }
    Ok(())
}

#[test]
fn presence_is_the_same_from_every_node() {
    let mut world = hall();
    world.eventually("all four are seen everywhere", SOON, |world| {
        let all = ids(world, &FOUR);
        agrees(world, &all, &[0, 1, 2], &FOUR)
    });
    let gone = id(&world, "bob");
    world.play([Unsubscribe { client: "bob", room: "hall" }]);
    world.eventually("bob has left everywhere", SOON, |world| {
        let rest = ids(world, &["ann", "cleo", "dan"]);
        agrees(world, &rest, &[0, 1, 2], &["ann", "cleo", "dan"])?;
        announced(world, "leave", &gone, &["ann", "cleo", "dan"])
    });
    let gone = id(&world, "dan");
    world.play([Unplug { client: "dan" }]);
    world.eventually("dan's cable was pulled, and all know", CRASH, |world| {
        let rest = ids(world, &["ann", "cleo"]);
        agrees(world, &rest, &[0, 1, 2], &["ann", "cleo"])?;
        announced(world, "leave", &gone, &["ann", "cleo"])
    });
}

#[test]
fn everyone_hears_each_join_once() {
    let mut world = hall();
    // Who came earlier hears of all who came later; everybody hears of himself.
    world.eventually("joins are announced", SOON, |world| {
        for (index, client) in FOUR.iter().enumerate() {
            announced(world, "join", &id(world, client), &FOUR[..=index])?;
        }
        Ok(())
    });
    world.check("nobody hears of a join before his own confirmation", |world| {
        for client in FOUR {
            let events = world.clients.events(client);
            let place = |ev: &str| events.iter().position(|e| e["ev"] == ev);
            ensure(place("subscribed") < place("join"), || format!("{client} heard too early"))?;
        }
        Ok(())
    });
}

#[test]
fn who_was_on_a_killed_node_is_gone_and_announced() {
    let mut world = hall();
    world.eventually("all four are seen everywhere", SOON, |world| {
        let all = ids(world, &FOUR);
        agrees(world, &all, &[0, 1, 2], &FOUR)
    });
    let dead = [id(&world, "cleo"), id(&world, "dan")];
    // They must not come back by themselves, or their new sessions would be seen.
    for client in ["cleo", "dan"] {
        world.check(&format!("{client} stays away"), |world| {
            let nowhere = json!({"url": "ws://127.0.0.1:9/", "cut": false});
            world.clients.call(client, "move", nowhere).map(drop).map_err(|e| e.to_string())
        });
    }
    world.play([Kill { node: 2 }]);
    world.eventually("the others no longer see them", CRASH, |world| {
        let rest = ids(world, &["ann", "bob"]);
        agrees(world, &rest, &[0, 1], &["ann", "bob"])
    });
    world.eventually("and were told that they left", CRASH, |world| {
        dead.iter().try_for_each(|who| announced(world, "leave", who, &["ann", "bob"]))
    });
}

#[test]
fn a_client_sits_in_many_rooms_and_leaves_them_all_at_once() {
    let mut world = hall();
    world.check("dan enters twenty rooms more", |world| {
        for number in 0..20 {
            let room = format!("room-{number}");
            world.clients.subscribe("dan", &room).map_err(|e| format!("{room}: {e}"))?;
        }
        Ok(())
    });
    let there = |world: &World, wanted: u64| {
        for number in 0..20 {
            let room = json!({"channel": format!("room-{number}")});
            let stats = world.cluster.api(number % 3, "presence_stats", &room)?;
            ensure(stats["num_clients"] == wanted, || format!("{room}: {stats}"))?;
        }
        Ok(())
    };
    world.eventually("he is seen in each of them", SOON, |world| there(world, 1));
    world.play([Unplug { client: "dan" }]);
    world.eventually("and then in none", CRASH, |world| there(world, 0));
}
