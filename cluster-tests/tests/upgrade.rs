//! Nodes of this mesh version and of the one before, in one cluster: how an operator upgrades it.

use std::time::Duration;

use cluster_tests::older;
use cluster_tests::paths;
use cluster_tests::rooms::{self, Standing};
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{World, say_skipped};
use cluster_tests::writer::{self, Writer, Written};
use roomcast::cluster::mesh_version::OURS;
use serde_json::json;

const NODES: usize = 3;
/// Rooms with a publication each.
const ROOMS: usize = 3_000;
/// A room whose history is many pages: publications, and the bytes of each.
const LARGE: (usize, usize) = (60, 10_000);
/// How long a node may take to leave, on a machine that has other things to do.
const LEAVES: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(15);

/// A cluster of the version before, or none: then it is said why.
fn older_cluster() -> Option<World> {
    let server = match older::server() {
        Ok(server) => server,
        Err(why) => {
            say_skipped(&format!("no server of the mesh version before: {why}"));
            return None;
        }
    };
    // Built before there is any history that gets old meanwhile.
    paths::server();
    let mut world = World::new(0);
    world.cluster.serve_with(Some(server));
    world.check("a cluster of the version before", |world| {
        for _ in 0..NODES {
            world.cluster.add()?;
        }
        world.cluster.converged()
    });
    Some(world)
}

fn large_room(world: &World) -> Result<(), String> {
    let text = "x".repeat(LARGE.1);
    for number in 0..LARGE.0 {
        let body = json!({"channel": "large", "data": format!("{number} {text}")});
        world.cluster.api(number % NODES, "publish", &body)?;
    }
    Ok(())
}

/// Every node tells the same of every room, whichever version it and their homes are of.
fn as_before(world: &World, names: &[String], before: &[Standing]) -> Result<(), String> {
    for index in 0..NODES {
        let now = rooms::read(world.cluster.node(index).http, names, -1)?;
        rooms::same(names, before, &now).map_err(|why| format!("through node {index}: {why}"))?;
    }
    Ok(())
}

fn finish(writers: Vec<Writer>) -> Written {
    let mut all = Written::default();
    for writer in writers {
        all.acked.extend(writer.finish().acked);
    }
    all
}

#[test]
fn a_cluster_is_upgraded_node_by_node_and_loses_nothing() {
    let Some(mut world) = older_cluster() else { return };
    let mut names = rooms::names("room", ROOMS);
    let mut before = Vec::new();
    world.check("rooms are filled, one with many pages", |world| {
        rooms::fill(world.cluster.node(0).http, &names, &json!("before"))?;
        large_room(world)?;
        names.push("large".to_owned());
        before = rooms::read(world.cluster.node(1).http, &names, -1)?;
        Ok(())
    });
    world.cluster.serve_with(None);
    for upgraded in 0..NODES {
        let others = (0..NODES).filter(|it| *it != upgraded);
        let writers = others.map(|index| {
            let node = world.cluster.node(index);
            Writer::start(&format!("{upgraded}-{}", node.name), node.http, |number| {
                format!("busy-{}", number % 50)
            })
        });
        let writers: Vec<Writer> = writers.collect();
        world.check("one node leaves in good order, and starts as the new one", |world| {
            world.cluster.node(upgraded).terminate();
            let status = world.cluster.node_mut(upgraded).exit_status(LEAVES)?;
            ensure(status.success(), || format!("it ended with {status}"))?;
            world.cluster.restart(upgraded)?;
            world.cluster.converged()
        });
        world.check("rooms are as they were through every node", |world| {
            until(SOON, || as_before(world, &names, &before))
        });
        let written = finish(writers);
        world.check("all that was acknowledged meanwhile is there", |world| {
            ensure(written.acked.len() > 10, || format!("only {}", written.acked.len()))?;
            writer::all_kept(world.cluster.node(upgraded).http, &written.acked)
        });
    }
    world.check("links use the version that both ends speak", |world| {
        let log = world.cluster.node(NODES - 1).log();
        let used = |version: u32| log.contains(&format!("\"version\":{version}"));
        let first = world.cluster.node(0).log();
        let before = first.contains(&format!("\"version\":{}", OURS.newest - 1));
        ensure(used(OURS.newest) && before, || log.clone())
    });
}
