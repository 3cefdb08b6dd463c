//! Rooms on disk: what was acknowledged outlives every node. Each test is named for what it must survive.

use std::time::Duration;

use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::rooms::{self, Api};
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::writer::{self, Writer};
use serde_json::{Value, json};

/// How long writers write before something happens.
const WRITING: Duration = Duration::from_secs(3);
/// In this time a cluster serves again after a restart.
const SETTLED: Duration = Duration::from_secs(20);
/// Rooms that writers write into.
const ROOMS: usize = 40;

/// [`CONFIG`] with rooms on disk.
fn on_disk() -> String {
    CONFIG.replacen("history_size = 10000", "log = \"disk\"\nhistory_size = 10000", 1)
}

fn start(nodes: usize) -> Cluster {
    Cluster::start_with(nodes, &on_disk()).expect("the cluster starts")
}

fn write_through(cluster: &Cluster, nodes: &[usize]) -> Vec<Writer> {
    let start = |node: &usize| {
        let name = format!("writer-{node}");
        let room = |number: usize| format!("room-{}", number * 7 % ROOMS);
        Writer::start(&name, cluster.node(*node).http, room)
    };
    nodes.iter().map(start).collect()
}

/// Whether all that was acknowledged is there, as each node tells it.
fn all_there(cluster: &Cluster, nodes: &[usize], acked: &[writer::Acked]) {
    for node in nodes {
        let http = cluster.node(*node).http;
        until(SETTLED, || writer::all_kept(http, acked)).unwrap_or_else(|why| {
            panic!("node {node}: {why}\n{}", cluster.logs());
        });
    }
}

fn publish(api: &mut Api, room: &str, data: Value, key: &str) -> Value {
    let body = json!({"channel": room, "data": data, "idempotency_key": key});
    until(SETTLED, || api.call("publish", &body)).expect("published")
}

#[test]
fn what_was_acknowledged_outlives_kill_9_of_all_nodes_at_once() {
    let mut cluster = start(3);
    let mut acked = Vec::new();
    for round in 0..2 {
        let writers = write_through(&cluster, &[0, 1, 2]);
        hold(WRITING);
        (0..3).for_each(|node| cluster.node_mut(node).kill());
        let written: Vec<_> = writers.into_iter().flat_map(|it| it.finish().acked).collect();
        assert!(written.len() > 100, "{} were acknowledged in round {round}", written.len());
        acked.extend(written);
        cluster.restart_all().expect("all start again");
        all_there(&cluster, &[0, 1, 2], &acked);
    }
}

#[test]
fn a_node_that_is_killed_comes_back_with_an_old_disk_and_the_others_win() {
    let mut cluster = start(3);
    let writers = write_through(&cluster, &[0, 1]);
    hold(WRITING);
    cluster.node_mut(2).kill();
    hold(WRITING);
    cluster.restart(2).expect("it starts again");
    hold(WRITING);
    let acked: Vec<_> = writers.into_iter().flat_map(|it| it.finish().acked).collect();
    cluster.converged().expect("one cluster");
    all_there(&cluster, &[0, 1, 2], &acked);
}

#[test]
fn a_node_whose_disk_is_lost_fetches_what_it_should_hold() {
    let mut cluster = start(2);
    let writers = write_through(&cluster, &[0, 1]);
    hold(WRITING);
    let acked: Vec<_> = writers.into_iter().flat_map(|it| it.finish().acked).collect();
    cluster.node_mut(1).kill();
    std::fs::remove_dir_all(cluster.data_dir(1).expect("it has one")).expect("removed");
    cluster.restart(1).expect("it starts again");
    cluster.converged().expect("one cluster");
    all_there(&cluster, &[0, 1], &acked);
    // From here on the other one has what this one has fetched.
    let what = "the node without a disk has the rooms";
    until(SETTLED, || ensure(cluster.metric(1, "roomcast_rooms")? >= ROOMS as f64, || what.into()))
        .expect(what);
    hold(Duration::from_secs(1));
    cluster.node_mut(0).kill();
    all_there(&cluster, &[1], &acked);
}

#[test]
fn history_is_read_from_disk_both_ways_past_what_memory_has() {
    let mut cluster = start(1);
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    let count = 5_000_u64;
    let names = vec!["large".to_owned(); 100];
    for _ in 0..count / 100 {
        rooms::fill(cluster.node(0).http, &names, &json!("x".repeat(200))).expect("published");
    }
    for restarted in [false, true] {
        if restarted {
            cluster.node_mut(0).kill();
            cluster.restart(0).expect("it starts again");
            api = Api::open(cluster.node(0).http).expect("it answers");
        }
        let mut page = |since: Option<u64>, reverse: bool, limit: u64| {
            let mut body = json!({"channel": "large", "limit": limit, "reverse": reverse});
            if let Some(offset) = since {
                body["since"] = json!({"offset": offset, "epoch": ""});
            }
            let page = until(SETTLED, || api.call("history", &body)).expect("it is read");
            let all = page["publications"].as_array().cloned().unwrap_or_default();
            all.iter().map(|it| it["offset"].as_u64().unwrap_or(0)).collect::<Vec<u64>>()
        };
        assert_eq!(page(None, false, 3), [1, 2, 3]);
        assert_eq!(page(None, true, 3), [count, count - 1, count - 2]);
        assert_eq!(page(Some(2_000), true, 2), [1_999, 1_998]);
        assert_eq!(page(Some(3_998), false, 4), [3_999, 4_000, 4_001, 4_002]);
        let mut all = Vec::new();
        loop {
            let next = page(all.last().copied().or(Some(0)), false, 700);
            if next.is_empty() {
                break;
            }
            all.extend(next);
        }
        assert_eq!(all, (1..=count).collect::<Vec<_>>(), "restarted: {restarted}");
    }
}

#[test]
fn keys_and_versions_outlive_the_node() {
    let mut cluster = start(1);
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    let first = publish(&mut api, "room", json!(1), "key");
    let versioned = |api: &mut Api, version: u64| {
        let body = json!({"channel": "room", "data": version, "version": version});
        until(SETTLED, || api.call("publish", &body)).expect("published")["offset"].clone()
    };
    assert_eq!(versioned(&mut api, 7), 2);
    cluster.node_mut(0).kill();
    cluster.restart(0).expect("it starts again");
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    let again = publish(&mut api, "room", json!(2), "key");
    assert_eq!(again["offset"], first["offset"], "it was placed before");
    assert_eq!(versioned(&mut api, 6), 2, "the room has a later version");
    assert_eq!(versioned(&mut api, 8), 3);
}

#[test]
fn what_was_removed_stays_removed() {
    let mut cluster = start(1);
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    publish(&mut api, "room", json!(1), "a");
    api.call("history_remove", &json!({"channel": "room"})).expect("removed");
    let next = publish(&mut api, "room", json!(2), "b");
    assert_eq!(next["offset"], 2);
    cluster.node_mut(0).kill();
    cluster.restart(0).expect("it starts again");
    let kept = rooms::read(cluster.node(0).http, &["room".to_owned()], -1).expect("it is read");
    assert_eq!(kept[0].kept, [(2, json!(2))]);
}

#[test]
fn two_nodes_do_not_share_a_directory_and_the_second_says_so() {
    let mut cluster = start(1);
    let second = cluster.add_namesake_joining(0, &[]).expect("it is launched");
    let status = cluster.node_mut(second).exit_status(SETTLED).expect("it ends");
    assert!(!status.success());
    let log = cluster.node(second).log();
    assert!(log.contains("in use by another process"), "{log}");
}
