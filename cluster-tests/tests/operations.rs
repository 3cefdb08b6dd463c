//! What operators do and look at: draining, changing the secret, health, and a node that sees too few others.

use std::time::Duration;

use cluster_tests::check;
use cluster_tests::cluster::{API_KEY, CONFIG};
use cluster_tests::http;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

const ROOMS: u64 = 12;

fn room(number: u64) -> String {
    format!("room-{number}")
}

/// Where each room stands, as node `node` says.
fn positions(world: &World, node: usize) -> Result<Vec<(Value, Value)>, String> {
    (0..ROOMS)
        .map(|number| {
            let page = world.cluster.api(node, "history", &json!({"channel": room(number)}))?;
            Ok((page["epoch"].clone(), page["offset"].clone()))
        })
        .collect()
}

fn publish_everywhere(world: &mut World, node: usize, seq: u64) {
    world.check(&format!("message {seq} into every room"), |world| {
        for number in 0..ROOMS {
            let data = json!({"from": "api", "seq": seq});
            world.cluster.api(node, "publish", &json!({"channel": room(number), "data": data}))?;
        }
        Ok(())
    });
}

#[test]
fn a_node_that_drains_hands_every_room_over_with_its_epoch() {
    let mut world = World::new(3);
    world.play([
        Connect { client: "stays", sdk: Js, format: Json, node: 2 },
        Connect { client: "moves", sdk: Js, format: Protobuf, node: 0 },
    ]);
    world.check("both enter all rooms but the last, in which no one is", |world| {
        for number in 0..ROOMS - 1 {
            for client in ["stays", "moves"] {
                world.clients.subscribe(client, &room(number)).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    });
    publish_everywhere(&mut world, 1, 1);
    let before = positions(&world, 1).expect("every room answers");
    world.play([TurnTo { client: "moves", node: 1 }, Terminate { node: 0 }]);
    world.check("every room stands where it stood, in its old epoch", |world| {
        let after = positions(world, 1)?;
        ensure(after == before, || format!("before {before:?}, after {after:?}"))
    });
    publish_everywhere(&mut world, 2, 2);
    world.eventually("nobody missed anything, and nobody was told so", REACTION, |world| {
        for number in 0..ROOMS - 1 {
            let logs = world.logs(&["stays", "moves"], &room(number));
            check::complete(&logs, &check::messages_of("api", 2))?;
            ensure(!logs.iter().any(check::gap_announced), || {
                format!("{}: {logs:?}", room(number))
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_call_of_the_api_drains_a_node() {
    let mut world = World::new(2);
    world.api(0, "publish", json!({"channel": "kept", "data": 1}));
    world.api(0, "drain", json!({}));
    world.check("it ends by itself, and well", |world| {
        let status = world.cluster.node_mut(0).exit_status(Duration::from_secs(20))?;
        ensure(status.success(), || format!("it ended with {status}"))
    });
    let page = world.api(1, "history", json!({"channel": "kept", "limit": 10}));
    world.check("what it kept is with the other", |_| {
        let kept = page["publications"].as_array().map_or(0, Vec::len);
        ensure(kept == 1, || page.to_string())
    });
}

fn with_secrets(secret: &str, others: &[&str]) -> String {
    format!("{CONFIG}\n[cluster]\nsecret = {secret:?}\nother_secrets = {others:?}\n")
}

#[test]
fn the_secret_is_changed_while_the_cluster_runs() {
    let (old, new) = ("the old secret of the cluster", "the new secret of the cluster");
    let mut world = World::with(2, &with_secrets(old, &[]));
    world.api(0, "publish", json!({"channel": "log", "data": 1}));
    for (secret, others) in [(old, &[new][..]), (new, &[old]), (new, &[])] {
        let config = with_secrets(secret, others);
        world.check("the next configuration is written", |world| world.cluster.configure(&config));
        for node in [0, 1] {
            world.play([Terminate { node }, Restart { node }, Converge]);
        }
    }
    let page = world.api(1, "history", json!({"channel": "log", "limit": 10}));
    world.check("nothing is lost on the way", |_| {
        let kept = page["publications"].as_array().map_or(0, Vec::len);
        ensure(kept == 1, || page.to_string())
    });
}

fn health(world: &World, node: usize, query: &str) -> Result<(u16, Value), String> {
    let answer = http::get(world.cluster.node(node).http, &format!("/health{query}"))?;
    let report = answer.json()?;
    Ok((answer.status, report))
}

#[test]
fn a_node_that_sees_too_few_others_says_so_and_takes_nothing_that_it_could_lose() {
    let minority = "\n[cluster]\nexpected_nodes = 3\nminority = \"refuse\"\n";
    let mut world = World::with(3, &format!("{CONFIG}{minority}"));
    world.api(2, "publish", json!({"channel": "log", "data": 1}));
    world.play([Kill { node: 0 }, Kill { node: 1 }]);
    world.eventually("health says so", REACTION, |world| {
        let (status, report) = health(world, 2, "")?;
        let said = report["minority"] == json!({"sees": 1, "expected": 3});
        ensure(status == 503 && said, || format!("{status} {report}"))
    });
    let refused =
        world.cluster.api_answer(2, "publish", &json!({"channel": "log", "data": 2})).unwrap();
    assert_eq!(refused["error"]["code"], 100, "{refused}");
    world.api(2, "publish", json!({"channel": "plain:x", "data": 3}));
}

#[test]
fn verbose_health_tells_of_a_node_that_does_not_answer() {
    let mut world = World::new(3);
    world.eventually("all is well", REACTION, |world| {
        let (status, report) = health(world, 0, "?verbose")?;
        let all = report["reached"].as_array().map_or(0, Vec::len) == 3;
        ensure(status == 200 && all && report["missing"] == json!([]), || report.to_string())
    });
    world.play([Pause { node: 1 }]);
    world.eventually("what does not come back is reported", REACTION, |world| {
        let (status, report) = health(world, 0, "?verbose")?;
        ensure(status == 503 && report["missing"] == json!(["b"]), || report.to_string())
    });
    world.play([Resume { node: 1 }]);
    world.eventually("and then it is well again", REACTION, |world| {
        let (status, report) = health(world, 0, "?verbose")?;
        ensure(status == 200, || report.to_string())
    });
    world.check("the server API wants its key for draining", |world| {
        let node = world.cluster.node(0).http;
        let answer = http::post(node, "/api/drain", &[], &json!({}))?;
        ensure(answer.status == 401 && !API_KEY.is_empty(), || format!("{answer:?}"))
    });
}
