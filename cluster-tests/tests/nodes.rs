//! Nodes that die, freeze and come back while people talk in many rooms, so
//! that the node in question is the home of some, the successor of others and
//! a mere mirror of the rest.

use std::time::{Duration, Instant};

use cluster_tests::check::{self, Message};
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::{self, *};
use cluster_tests::wait::ensure;
use cluster_tests::world::World;
use serde_json::json;

const ROOMS: u64 = 16;
const LISTENERS: [&str; 2] = ["bea", "cid"];
/// A room publishes again this long after its home died.
const TAKEOVER: Duration = Duration::from_secs(6);

fn room(number: u64) -> String {
    format!("room-{number}")
}

/// Listeners on nodes b and c, in all rooms.
fn talk() -> World {
    let mut world = World::new(3);
    world.play([
        Connect { client: "bea", sdk: Js, format: Json, node: 1 },
        Connect { client: "cid", sdk: Js, format: Protobuf, node: 2 },
    ]);
    world.check("both enter all rooms", |world| {
        for client in LISTENERS {
            for number in 0..ROOMS {
                world.clients.subscribe(client, &room(number)).map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    });
    world
}

/// One round: message `seq` into every room through the API of node c.
/// A room that has no home for the moment is tried again until `limit`.
fn round(world: &mut World, seq: u64, limit: Duration) -> Result<Vec<(u64, Message)>, String> {
    let deadline = Instant::now() + limit;
    let mut acked = Vec::new();
    for number in 0..ROOMS {
        // A key makes the repeat of an unanswered publish harmless.
        let body = json!({
            "channel": room(number), "data": {"from": "api", "seq": seq},
            "idempotency_key": format!("{number}-{seq}"),
        });
        loop {
            match world.cluster.api(2, "publish", &body) {
                Ok(_) => break acked.push((number, ("api".to_owned(), seq))),
                Err(why) if Instant::now() > deadline => return Err(why),
                Err(_) => {}
            }
        }
    }
    Ok(acked)
}

/// Plays `rounds`; what was acknowledged is added to `acked`.
fn rounds(
    world: &mut World,
    acked: &mut Vec<(u64, Message)>,
    rounds: std::ops::RangeInclusive<u64>,
) {
    for seq in rounds {
        world.check(&format!("message {seq} into every room"), |world| {
            acked.extend(round(world, seq, TAKEOVER)?);
            Ok(())
        });
    }
}

/// In every room: none twice, one order, and nothing missing that was not
/// announced as missing. Without a death nothing may be missing at all.
fn judge(world: &mut World, acked: &[(u64, Message)], gaps_allowed: bool) {
    world.eventually("every room is whole or has said so", Duration::from_secs(20), |world| {
        for number in 0..ROOMS {
            let logs = world.logs(&LISTENERS, &room(number));
            let own: Vec<Message> =
                acked.iter().filter(|(n, _)| *n == number).map(|(_, m)| m.clone()).collect();
            let verdict = if gaps_allowed {
                check::never_silent(&logs, &own)
            } else {
                check::complete(&logs, &own)
            };
            verdict.map_err(|why| format!("{}: {why}", room(number)))?;
        }
        Ok(())
    });
}

fn lists(world: &World, node: usize) -> usize {
    let info = world.cluster.api(node, "info", &json!({})).unwrap_or_default();
    info["nodes"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_home_is_killed_and_its_rooms_go_on_elsewhere() {
    let mut world = talk();
    let mut acked = Vec::new();
    rounds(&mut world, &mut acked, 1..=5);
    world.play([Kill { node: 0 }]);
    rounds(&mut world, &mut acked, 6..=10);
    world.check("every publish was acknowledged", |_| {
        let wanted = usize::try_from(ROOMS * 10).unwrap_or(0);
        ensure(acked.len() == wanted, || format!("{} of {wanted}", acked.len()))
    });
    // One node died and each room had two: nothing acknowledged is lost.
    judge(&mut world, &acked, false);
    world.check("the logs hold all of it", |world| {
        for number in 0..ROOMS {
            let request = json!({"channel": room(number), "limit": 100});
            let page = world.cluster.api(1, "history", &request)?;
            let kept = page["publications"].as_array().map_or(0, Vec::len);
            ensure(kept == 10, || format!("{}: {kept} of 10", room(number)))?;
        }
        Ok(())
    });
}

#[test]
fn a_killed_node_comes_back_under_its_name() {
    let mut world = talk();
    let mut acked = Vec::new();
    rounds(&mut world, &mut acked, 1..=3);
    world.play([Kill { node: 0 }, Restart { node: 0 }, Converge]);
    rounds(&mut world, &mut acked, 4..=6);
    judge(&mut world, &acked, false);
    world.play([
        Connect { client: "ada", sdk: Js, format: Json, node: 0 },
        Subscribe { client: "ada", room: "room-0" },
    ]);
    world.check("the newcomer reads what was said before it came", |world| {
        let fields = json!({"room": "room-0", "limit": 100});
        let page = world.clients.call("ada", "history", fields).map_err(|e| e.to_string())?;
        let kept = page["publications"].as_array().map_or(0, Vec::len);
        ensure(kept == 6, || format!("{kept} of 6"))
    });
}

#[test]
fn a_rolling_restart_loses_nothing() {
    let mut world = talk();
    let mut acked = Vec::new();
    rounds(&mut world, &mut acked, 1..=2);
    for (turn, node) in [0, 1].into_iter().enumerate() {
        let other = if node == 1 { 0 } else { 1 };
        let step: Step = TurnTo { client: "bea", node: other };
        world.play([step, Terminate { node }, Restart { node }, Converge]);
        let first = 3 + 2 * turn as u64;
        rounds(&mut world, &mut acked, first..=first + 1);
    }
    judge(&mut world, &acked, false);
}

#[test]
fn a_frozen_node_is_done_without_and_does_no_harm_when_it_thaws() {
    let mut world = talk();
    let mut acked = Vec::new();
    rounds(&mut world, &mut acked, 1..=3);
    world.play([Pause { node: 0 }]);
    world.eventually("the others go on without it", Duration::from_secs(30), |world| {
        let seen = (lists(world, 1), lists(world, 2));
        ensure(seen == (2, 2), || format!("b and c list {seen:?} nodes"))
    });
    rounds(&mut world, &mut acked, 4..=6);
    world.play([Resume { node: 0 }, Converge]);
    rounds(&mut world, &mut acked, 7..=9);
    judge(&mut world, &acked, true);
}
