//! Two nodes under one name: by mistake, at the same moment, after a crash, and on purpose, where a replacement
//! starts before the old node stops.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use cluster_tests::cluster::CONFIG;
use cluster_tests::control::{self, Control};
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

/// How long a node waits for its name in these scenarios.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a node takes to start or to leave, on a machine that has other things to do.
const SECONDS: Duration = Duration::from_secs(10);
const WAITING: &str = "the name of this node is taken by one that runs; waiting for it to leave";
const ROOMS: u64 = 12;

/// Nodes that wait for their names for `patience`.
fn world(nodes: usize, patience: Duration) -> World {
    let seconds = patience.as_secs();
    World::with(nodes, &format!("{CONFIG}\n[cluster]\nname_timeout = \"{seconds}s\"\n"))
}

/// Starts another node under the name of `of`, and waits until it has found that out.
fn namesake(world: &mut World, of: usize) -> usize {
    let mut index = 0;
    world.check("a node starts under a name that is taken", |world| {
        index = world.cluster.add_namesake(of)?;
        world.cluster.node_mut(index).await_bound()
    });
    world.eventually("it says by whom, and where that is", SECONDS, |world| {
        let said = world.cluster.node(index).logged(WAITING).ok_or("nothing yet")?;
        let bearer = world.cluster.node(of);
        let fields = said.get("fields").unwrap_or(&said);
        let right = fields["name"] == bearer.name.as_str()
            && fields["http"] == bearer.http.to_string()
            && fields["mesh"] == bearer.mesh.as_str();
        ensure(right, || said.to_string())
    });
    index
}

/// It gives up, with an error, and says what to do.
fn is_refused(world: &mut World, index: usize) {
    world.check("it gives up and says what to do", |world| {
        let node = world.cluster.node_mut(index);
        let status = node.exit_status(PATIENCE + SECONDS)?;
        ensure(status.code() == Some(1), || format!("it ended with {status}"))?;
        // The last words come through a pipe, after the end.
        until(Duration::from_secs(1), || {
            let log = world.cluster.node(index).log();
            ensure(
                log.contains("is taken by a node that runs") && log.contains("node.name"),
                || log,
            )
        })
    });
}

fn room(number: u64) -> String {
    format!("room-{number}")
}

fn publish_everywhere(world: &mut World, node: usize) {
    world.check("a message into every room", |world| {
        for number in 0..ROOMS {
            let body = json!({"channel": room(number), "data": number});
            until(SECONDS, || world.cluster.api(node, "publish", &body))?;
        }
        Ok(())
    });
}

/// What every room keeps: its epoch, and how many publications.
fn kept(world: &World, node: usize) -> Result<Vec<(Value, usize)>, String> {
    let page = |number| {
        let body = json!({"channel": room(number), "limit": 100});
        let page = world.cluster.api(node, "history", &body)?;
        Ok((page["epoch"].clone(), page["publications"].as_array().map_or(0, Vec::len)))
    };
    (0..ROOMS).map(page).collect()
}

#[test]
fn a_second_node_under_a_taken_name_is_refused_and_the_first_notices_nothing() {
    let mut world = world(3, PATIENCE);
    // Of a room that is at home on the node whose name is wanted, to a client of that node.
    let (a, b) = (world.cluster.node(0).http, world.cluster.node(1).http);
    let mut control = Control::start(b, a, &control::room_at(0, 1, 3)).expect("all is well yet");
    world.play([Hold(Duration::from_secs(3))]);
    control.fault_begins();
    let second = namesake(&mut world, 0);
    is_refused(&mut world, second);
    world.undisturbed(control);
    world.play([Converge]);
}

#[test]
fn the_same_where_there_is_no_third_node() {
    let mut world = world(1, PATIENCE);
    publish_everywhere(&mut world, 0);
    let before = kept(&world, 0).expect("every room answers");
    let second = namesake(&mut world, 0);
    publish_everywhere(&mut world, 0);
    is_refused(&mut world, second);
    publish_everywhere(&mut world, 0);
    world.check("the first has all that it was told, in the old epochs", |world| {
        let expected: Vec<_> =
            before.iter().map(|(epoch, kept)| (epoch.clone(), kept + 2)).collect();
        let after = kept(world, 0)?;
        ensure(after == expected, || format!("before {before:?}, after {after:?}"))
    });
}

#[test]
fn of_two_that_start_at_once_under_one_name_one_serves_and_the_other_ends() {
    let mut world = world(2, PATIENCE);
    let mut two = Vec::new();
    world.check("two nodes start under one name", |world| {
        for _ in 0..2 {
            two.push(world.cluster.add_namesake(2)?);
        }
        Ok(())
    });
    let mut ended = None;
    world.eventually("one of them ends", PATIENCE + 2 * SECONDS, |world| {
        ended = two.iter().copied().find(|it| !world.cluster.node_mut(*it).is_running());
        ensure(ended.is_some(), || "both run".to_owned())
    });
    let ended = ended.expect("one has ended");
    is_refused(&mut world, ended);
    let serves = two[usize::from(ended == two[0])];
    world.check("the other serves", |world| world.cluster.node_mut(serves).await_ready());
    world.play([Converge]);
    publish_everywhere(&mut world, serves);
}

#[test]
fn a_node_that_was_killed_is_back_at_once_under_its_name() {
    for nodes in [1, 3] {
        let mut world = world(nodes, Duration::from_secs(30));
        world.play([Kill { node: 0 }]);
        let began = Instant::now();
        world.play([Restart { node: 0 }]);
        let took = began.elapsed();
        world.check(&format!("it was ready after {took:?}"), |world| {
            ensure(took < Duration::from_secs(6), || "that is too long".to_owned())?;
            let waited = world.cluster.node(0).logged(WAITING);
            ensure(waited.is_none(), || "it has waited for itself".to_owned())
        });
        world.play([Converge]);
    }
}

#[test]
fn a_replacement_waits_for_the_old_node_and_takes_its_rooms_over() {
    for nodes in [1, 3] {
        let mut world = world(nodes, Duration::from_secs(60));
        publish_everywhere(&mut world, 0);
        let before = kept(&world, 0).expect("every room answers");
        let new = namesake(&mut world, 0);
        world.check("nobody gets into it while it waits", |world| {
            let refused = TcpStream::connect(world.cluster.node(new).http).map(drop);
            let refused = refused.err().map(|error| error.kind());
            ensure(refused == Some(std::io::ErrorKind::ConnectionRefused), || {
                format!("{refused:?}")
            })
        });
        publish_everywhere(&mut world, 0);
        let began = Instant::now();
        world.play([Terminate { node: 0 }]);
        let took = began.elapsed();
        world.check(&format!("the old one has left after {took:?}"), |world| {
            ensure(took < SECONDS, || "that is too long".to_owned())?;
            world.cluster.node_mut(new).await_ready()
        });
        world.play([Converge]);
        world.eventually(
            "nothing is lost, and every room is in its old epoch",
            REACTION,
            |world| {
                let expected: Vec<_> =
                    before.iter().map(|(epoch, kept)| (epoch.clone(), kept + 1)).collect();
                let after = kept(world, new)?;
                ensure(after == expected, || format!("before {before:?}, after {after:?}"))
            },
        );
        publish_everywhere(&mut world, new);
    }
}

#[test]
fn a_node_that_was_out_of_reach_yields_to_the_one_that_has_taken_its_name() {
    let mut world = world(2, PATIENCE);
    world.play([Pause { node: 0 }]);
    let mut new = 0;
    world.check("another node takes its name", |world| {
        new = world.cluster.add_namesake(0)?;
        world.cluster.node_mut(new).await_ready()
    });
    // For the first seconds it would yield itself.
    world.play([Hold(Duration::from_secs(6)), Resume { node: 0 }]);
    world.check("the first sees that, and ends", |world| {
        let status = world.cluster.node_mut(0).exit_status(2 * SECONDS)?;
        ensure(status.code() == Some(1), || format!("it ended with {status}"))
    });
    world.play([Converge]);
    publish_everywhere(&mut world, new);
}
