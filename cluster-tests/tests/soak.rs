//! Nothing grows without bound: the memory of a node through thousands of clients that come and go, and
//! through a hundred restarts of its peer.
//!
//! `SOAK=10 cargo test -p cluster-tests --test soak` does ten times as much.

use std::fs;
use std::time::Duration;

use cluster_tests::cluster::Cluster;
use cluster_tests::wait::{ensure, until};
use cluster_tests::ws::Socket;
use serde_json::json;

const CYCLES: usize = 10_000;
const RESTARTS: usize = 100;
/// The most that a node may have grown between the middle and the end, in KiB: less than 1 KiB for each of
/// the cycles between, which would be a leak of any of its tables.
const GROWTH: u64 = 4_000;

fn times() -> usize {
    std::env::var("SOAK").ok().and_then(|it| it.parse().ok()).unwrap_or(1)
}

/// Memory of a node that is its own, in KiB.
fn memory(cluster: &Cluster, node: usize) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(node).pid()));
    let status = status.expect("the node runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("Linux says so");
    line.split_whitespace().nth(1).and_then(|it| it.parse().ok()).expect("a number")
}

/// A client comes, enters a room, says something, and goes; every other one without a word.
fn cycle(cluster: &Cluster, number: usize) -> Result<(), String> {
    let mut socket = Socket::open(cluster.node(number % 2).http, None)?;
    socket.connect()?;
    let room = format!("room-{}", number % 50);
    let reply = socket.command(&json!({"id": 2, "subscribe": {"channel": room}}))?;
    ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    if number.is_multiple_of(10) {
        let publish = json!({"id": 3, "publish": {"channel": "plain:x", "data": number}});
        let reply = socket.command(&publish)?;
        ensure(reply["publish"].is_object(), || reply.to_string())?;
    }
    if number.is_multiple_of(2) {
        socket.command(&json!({"id": 4, "unsubscribe": {"channel": room}}))?;
    }
    Ok(())
}

fn nobody_is_left(cluster: &Cluster) -> Result<(), String> {
    until(Duration::from_secs(20), || {
        for node in 0..2 {
            for name in ["roomcast_connections", "roomcast_subscriptions"] {
                let left = cluster.metric(node, name)?;
                ensure(left == 0.0, || format!("{name} of node {node} is {left}"))?;
            }
        }
        Ok(())
    })
}

#[test]
fn clients_that_come_and_go_leave_nothing_behind() -> Result<(), String> {
    let cluster = Cluster::start(2)?;
    let cycles = CYCLES * times();
    let half = |from: usize| (from..from + cycles / 2).try_for_each(|it| cycle(&cluster, it));
    half(0)?;
    nobody_is_left(&cluster)?;
    let before = [memory(&cluster, 0), memory(&cluster, 1)];
    half(cycles / 2)?;
    nobody_is_left(&cluster)?;
    let after = [memory(&cluster, 0), memory(&cluster, 1)];
    println!("after {} and {cycles} cycles: {before:?} and {after:?} KiB", cycles / 2);
    ensure(before.iter().zip(after).all(|(before, after)| after < before + GROWTH), || {
        format!("the nodes have grown from {before:?} to {after:?} KiB")
    })
}

#[test]
fn a_peer_that_restarts_leaves_nothing_behind() -> Result<(), String> {
    let mut cluster = Cluster::start(2)?;
    for number in 0..200 {
        let publish = json!({"channel": format!("room-{number}"), "data": "x".repeat(100)});
        cluster.api(0, "publish", &publish)?;
    }
    let restarts = RESTARTS * times();
    let mut before = 0;
    for restart in 0..restarts {
        if restart == restarts / 2 {
            before = memory(&cluster, 0);
        }
        cluster.node_mut(1).kill();
        cluster.restart(1)?;
        cluster.converged()?;
    }
    let after = memory(&cluster, 0);
    println!("after {} and {restarts} restarts: {before} and {after} KiB", restarts / 2);
    ensure(after < before + GROWTH, || format!("it has grown from {before} to {after} KiB"))?;
    for number in 0..200 {
        let request = json!({"channel": format!("room-{number}"), "limit": 10});
        let page = cluster.api(1, "history", &request)?;
        let kept = page["publications"].as_array().map_or(0, Vec::len);
        ensure(kept == 1, || format!("room-{number} has {kept} of 1 after all that"))?;
    }
    Ok(())
}
