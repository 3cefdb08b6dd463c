//! Rooms on disk: what was acknowledged outlives every node. Each test is named for what it must survive.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::paths;
use cluster_tests::rooms::{self, Api};
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::world::skip;
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

/// Whether all that was acknowledged is there, each at its offset, as each node tells it.
fn all_there(cluster: &Cluster, nodes: &[usize], acked: &[writer::Acked]) {
    for node in nodes {
        let http = cluster.node(*node).http;
        until(SETTLED, || writer::all_at_their_offsets(http, acked)).unwrap_or_else(|why| {
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
        assert!(written.len() > 30, "{} were acknowledged in round {round}", written.len());
        acked.extend(written);
        cluster.restart_all().expect("all start again");
        all_there(&cluster, &[0, 1, 2], &acked);
        // Who knows only the epoch before the restart goes on from there.
        let mut api = Api::open(cluster.node(round).http).expect("it answers");
        for it in acked.iter().step_by(acked.len() / 20) {
            let (offset, epoch) = (it.position["offset"].as_u64(), &it.position["epoch"]);
            let since = json!({"offset": offset.unwrap_or(0) - 1, "epoch": epoch});
            let body = json!({"channel": it.room, "since": since, "limit": 1});
            let page = api.call("history", &body).expect("it is a position of the room's");
            assert_eq!(page["publications"][0]["data"], it.id, "{page}");
        }
    }
}

#[test]
fn with_a_quorum_rooms_are_in_their_epochs_after_all_nodes_were_killed() {
    for nodes in [3, 1] {
        let quorum = format!("[cluster]\nexpected_nodes = {nodes}\nminority = \"refuse\"\n");
        let mut cluster =
            Cluster::start_with(nodes, &(on_disk() + &quorum)).expect("the cluster starts");
        let names = rooms::names("room", 60);
        for said in ["one", "two"] {
            rooms::fill(cluster.node(0).http, &names, &json!(said)).expect("published");
            let before = rooms::read(cluster.node(0).http, &names, -1).expect("read");
            (0..nodes).for_each(|node| cluster.node_mut(node).kill());
            cluster.restart_all().expect("all start again");
            for node in 0..nodes {
                until(SETTLED, || {
                    let now = rooms::read(cluster.node(node).http, &names, -1)?;
                    rooms::same(&names, &before, &now)
                })
                .unwrap_or_else(|why| panic!("{nodes} nodes: {why}\n{}", cluster.logs()));
            }
        }
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
    until(SETTLED, || {
        let kept = |node| cluster.metric(node, "roomcast_history_bytes");
        let (whole, copied) = (kept(0)?, kept(1)?);
        ensure(copied == whole, || format!("it has {copied} of {whole} bytes"))
    })
    .expect("its copies are whole");
    cluster.node_mut(0).kill();
    all_there(&cluster, &[1], &acked);
}

#[test]
fn copies_go_as_a_whole_into_segments_of_the_smallest_size() {
    let config = on_disk() + "[disk]\nsegment_bytes = 1048576\n";
    let mut cluster = Cluster::start_with(2, &config).expect("the cluster starts");
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    // One is nearly as large as a segment, and one as several.
    let (rooms, pad) = ([("near", 48), ("large", 150)], "x".repeat(20_000));
    for (room, count) in rooms {
        for number in 0..count {
            publish(&mut api, room, json!(pad), &format!("{room}-{number}"));
        }
    }
    cluster.node_mut(1).kill();
    let data_dir = cluster.data_dir(1).expect("it has one");
    std::fs::remove_dir_all(&data_dir).expect("removed");
    cluster.restart(1).expect("it starts again");
    let bytes = (48 + 150) * pad.len();
    until(SETTLED, || {
        let has = cluster.metric(1, "roomcast_log_bytes")?;
        ensure(has >= bytes as f64, || format!("it has {has} of {bytes} bytes\n{}", cluster.logs()))
    })
    .expect("the copies are on its disk");
    hold(Duration::from_secs(1));
    cluster.node_mut(1).kill();
    let mut export = Command::new(paths::server());
    let exported = export.args(["log", "export", "--data-dir"]).arg(&data_dir).output();
    let exported = String::from_utf8_lossy(&exported.expect("it runs").stdout).into_owned();
    let copied = exported.lines().filter(|it| it.contains(&pad)).count();
    assert_eq!(copied, 48 + 150);
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
fn rooms_that_nobody_uses_are_out_of_memory_and_nobody_notices() {
    const MANY: usize = 2_000;
    // On three nodes each room has a home and a successor.
    const COPIES: f64 = MANY as f64 * 2.0;
    let config = on_disk() + "[disk]\nidle_timeout = \"1s\"\n";
    let mut cluster = Cluster::start_with(3, &config).expect("the cluster starts");
    let names = rooms::names("idle", MANY);
    rooms::fill(cluster.node(0).http, &names, &json!("first")).expect("published");
    let dormant = |cluster: &Cluster, nodes: &[usize], least: f64| {
        until(SETTLED, || {
            let of = |node: &usize| cluster.metric(*node, "roomcast_dormant_rooms");
            let all = nodes.iter().map(of).sum::<Result<f64, String>>()?;
            ensure(all >= least, || format!("{all} of {least} are out of memory"))
        })
    };
    dormant(&cluster, &[0, 1, 2], COPIES).expect("all go out of memory");
    // They go on in their epochs, whoever is asked.
    let before = rooms::read(cluster.node(1).http, &names, -1).expect("read");
    for node in [2, 0] {
        let now = rooms::read(cluster.node(node).http, &names, -1).expect("read");
        rooms::same(&names, &before, &now).expect("all is as it was");
    }
    dormant(&cluster, &[0, 1, 2], COPIES).expect("they go out of memory again");
    rooms::fill(cluster.node(2).http, &names, &json!("second")).expect("published");
    let before = rooms::read(cluster.node(0).http, &names, -1).expect("read");
    dormant(&cluster, &[0, 1, 2], COPIES).expect("they go out of memory once more");
    // A node drains, and takes nothing with it; then one dies. The last one has everything.
    cluster.node(2).terminate();
    let left = cluster.node_mut(2).exit_status(SETTLED).expect("it hands over");
    assert!(left.success(), "{left}");
    let now = rooms::read(cluster.node(1).http, &names, -1).expect("read");
    rooms::same(&names, &before, &now).expect("nothing is lost, no epoch changed");
    dormant(&cluster, &[0, 1], COPIES).expect("they are out of memory where they are now");
    cluster.node_mut(0).kill();
    until(SETTLED, || {
        let now = rooms::read(cluster.node(1).http, &names, -1)?;
        let has_all = now.iter().all(|it| it.kept.len() == 2);
        ensure(has_all, || "some rooms lack a publication".into())
    })
    .expect("the other one had copies of all");
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
fn memory_becomes_disk_by_a_rolling_restart() {
    let mut cluster = Cluster::start_with(2, CONFIG).expect("the cluster starts");
    let writers = write_through(&cluster, &[0, 1]);
    hold(WRITING);
    let acked: Vec<_> = writers.into_iter().flat_map(|it| it.finish().acked).collect();
    cluster.configure(&on_disk()).expect("written");
    for node in [0, 1] {
        cluster.node(node).terminate();
        cluster.node_mut(node).exit_status(SETTLED * 2).expect("it leaves");
        cluster.restart(node).expect("it starts again");
        cluster.converged().expect("one cluster");
    }
    all_there(&cluster, &[0, 1], &acked);
    hold(WRITING);
    let mut restart_with = |config: &str| {
        cluster.configure(config).expect("written");
        (0..2).for_each(|node| cluster.node_mut(node).kill());
        cluster.restart_all().expect("all start again");
        cluster.logs()
    };
    restart_with(&on_disk());
    // The other way nothing is served from there, and nothing is gone.
    let kept = "[[channel.namespaces]]\nname = \"kept\"\nlog = \"disk\"\nhistory_size = 1\nhistory_ttl = \"1m\"\n";
    let logs = restart_with(&format!("{CONFIG}{kept}"));
    assert!(logs.contains("are not kept on disk by this configuration"), "{logs}");
    restart_with(&on_disk());
    all_there(&cluster, &[0, 1], &acked);
}

/// Flips a bit in the last publication in a log that has this in it.
fn damage(data_dir: &std::path::Path, data: &str) {
    let files = std::fs::read_dir(data_dir).expect("it is there").flatten().map(|it| it.path());
    for file in files.filter(|it| it.extension().is_some_and(|it| it == "segment")) {
        let mut bytes = std::fs::read(&file).expect("it can be read");
        let last = bytes.windows(data.len()).rposition(|it| it == data.as_bytes());
        if let Some(at) = last {
            bytes[at + 2] ^= 4;
            return std::fs::write(&file, bytes).expect("written");
        }
    }
    panic!("{} has no {data:?}", data_dir.display());
}

/// What the command that looks for damage in a log says.
fn verified(data_dir: &std::path::Path) -> std::process::Output {
    let mut command = Command::new(paths::server());
    command.args(["log", "verify", "--data-dir"]).arg(data_dir).output().expect("it runs")
}

#[test]
fn what_is_damaged_on_one_disk_comes_back_from_another() {
    let config = on_disk() + "[disk]\nscrub_interval = \"2s\"\n";
    let mut cluster = Cluster::start_with(2, &config).expect("the cluster starts");
    let (names, count) = (rooms::names("room", 8), 30);
    for number in 0..count {
        let said = json!(format!("publication-{number:03}-{}", "x".repeat(100)));
        rooms::fill(cluster.node(0).http, &names, &said).expect("published");
    }
    (0..2).for_each(|node| cluster.node_mut(node).kill());
    let data_dirs = [0, 1].map(|node| cluster.data_dir(node).expect("it has one"));
    // In each only some, so that every publication is on one of them: of one room, the last that was written.
    let damaged = |node: usize| (0..count).filter(move |it| it % 5 == node);
    for (node, data_dir) in data_dirs.iter().enumerate() {
        damaged(node).for_each(|it| damage(data_dir, &format!("publication-{it:03}")));
        assert!(!verified(data_dir).status.success(), "it has to be damaged");
    }
    cluster.restart_all().expect("all start again");
    // The home finds it when it opens the room, the other when it reads all that it has.
    for node in [0, 1] {
        let many = damaged(node).count();
        until(SETTLED, || {
            let repaired = cluster.metric(node, "roomcast_log_repairs_total")?;
            let logs = || format!("{repaired} of {many} are repaired\n{}", cluster.logs());
            ensure(repaired >= many as f64, logs)
        })
        .expect("what is damaged is written again");
    }
    (0..2).for_each(|node| cluster.node_mut(node).kill());
    for data_dir in &data_dirs {
        let output = verified(data_dir);
        assert!(output.status.success(), "{output:?}");
    }
    cluster.restart_all().expect("all start again");
    for node in [0, 1] {
        let all = rooms::read(cluster.node(node).http, &names, -1).expect("it is read");
        let whole = names.iter().zip(&all).all(|(_, room)| room.kept.len() == count);
        assert!(whole, "node {node} has {all:?}");
    }
}

/// A file system of its own, of this size, which can grow.
struct Small(PathBuf);

impl Small {
    fn mount(size: &str) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("roomcast-small-{}", std::process::id()));
        Self::mount_at(path, size)
    }

    fn mount_at(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).ok()?;
        let it = Self(path);
        it.run(&["mount", "-t", "tmpfs", "-o", &format!("size={size}"), "roomcast"]).then_some(it)
    }

    fn grow(&self, size: &str) -> bool {
        self.run(&["mount", "-o", &format!("remount,size={size}")])
    }

    /// Nothing can be written any more.
    fn be_read_only(&self) -> bool {
        self.run(&["mount", "-o", "remount,ro"])
    }

    fn run(&self, words: &[&str]) -> bool {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&self.0).stderr(Stdio::null());
        command.status().is_ok_and(|it| it.success())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        self.run(&["umount", "-l"]);
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn a_full_disk_loses_nothing_and_goes_on_once_there_is_space() {
    let Some(disk) = Small::mount("8m") else {
        return skip("this user may not mount a file system");
    };
    let data_dir = disk.0.join("data");
    let sizes = format!("[disk]\ndata_dir = {data_dir:?}\nsegment_bytes = 1048576\n");
    let config = on_disk() + &sizes;
    let mut cluster = Cluster::start_with(1, &config).expect("the cluster starts");
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    let mut send = |room: &str, number: usize| {
        let data = format!("{number}-{}", "x".repeat(20_000));
        let body = json!({"channel": room, "data": data, "idempotency_key": number.to_string()});
        api.answer("publish", &body).expect("it answers")
    };
    let mut acked = 0;
    let refused = loop {
        assert!(acked < 1_000, "the disk is never full");
        let answer = send("room", acked);
        match answer["result"]["offset"].as_u64() {
            Some(offset) => acked = usize::try_from(offset).expect("few"),
            None => break answer,
        }
    };
    assert_eq!(refused["error"]["code"], 100, "{refused}");
    let in_memory = send("plain:room", 0);
    assert!(in_memory["error"].is_null(), "rooms in memory go on: {in_memory}");
    assert!(cluster.metric(0, "roomcast_log_errors_total").expect("counted") > 0.0);
    assert!(disk.grow("64m"), "it can't grow");
    until(SETTLED, || {
        let answer = send("room", acked);
        ensure(answer["error"].is_null(), || answer.to_string())
    })
    .expect("it takes publications again");
    cluster.node_mut(0).kill();
    cluster.restart(0).expect("it starts again");
    let kept = rooms::read(cluster.node(0).http, &["room".to_owned()], -1).expect("it is read");
    let numbers: Vec<usize> = (kept[0].kept.iter())
        .filter_map(|(_, data)| data.as_str()?.split('-').next()?.parse().ok())
        .collect();
    assert_eq!(numbers, (0..=acked).collect::<Vec<_>>(), "each once, and in order");
}

#[test]
fn a_node_whose_disk_is_full_is_done_without_until_it_has_space_and_then_has_everything() {
    let sizes = "[disk]\nsegment_bytes = 1048576\n[cluster]\nrestart_timeout = \"2s\"\n";
    let mut cluster = Cluster::start_with(2, &(on_disk() + sizes)).expect("the cluster starts");
    // Its disk is another, and a small one.
    cluster.node_mut(1).kill();
    let data_dir = cluster.data_dir(1).expect("it has one");
    let Some(disk) = Small::mount_at(data_dir, "6m") else {
        return skip("this user may not mount a file system");
    };
    cluster.restart(1).expect("it starts again");
    cluster.converged().expect("one cluster");
    let mut api = Api::open(cluster.node(0).http).expect("it answers");
    let mut acked = Vec::new();
    let mut fill = |count: usize| {
        let until_now = acked.len();
        for number in 0.. {
            assert!(number < 5_000, "{} of {count} were acknowledged", acked.len() - until_now);
            if acked.len() == until_now + count {
                break;
            }
            let (room, id) = (format!("room-{}", number % 8), format!("{until_now}-{number}"));
            let data = format!("{id}-{}", "x".repeat(20_000));
            let answer = api.answer("publish", &json!({"channel": room, "data": data}));
            // Those whose home is the full one are refused.
            if let Some(offset) = answer.expect("it answers")["result"]["offset"].as_u64() {
                acked.push((room, offset, data));
            }
        }
        acked.clone()
    };
    fill(600);
    let behind = |cluster: &Cluster| cluster.metric(0, "roomcast_rooms_behind");
    until(SETTLED, || ensure(behind(&cluster)? > 0.0, || "none is behind".into()))
        .expect("the home says that it does without");
    assert!(disk.grow("256m"), "it can't grow");
    until(SETTLED, || ensure(behind(&cluster)? == 0.0, || cluster.logs()))
        .expect("the other has caught up");
    let acked = fill(40);
    cluster.node_mut(0).kill();
    // Again, so that it has no more than what is on its disk.
    cluster.node_mut(1).kill();
    cluster.restart(1).expect("it starts again, and waits for the other in vain");
    let names: Vec<String> = (0..8).map(|it| format!("room-{it}")).collect();
    until(SETTLED * 3, || {
        let kept = rooms::read(cluster.node(1).http, &names, -1)?;
        let lost = acked.iter().filter(|(room, offset, data)| {
            let room = names.iter().position(|it| it == room).map(|it| &kept[it].kept);
            !room.is_some_and(|it| it.iter().any(|(at, it)| at == offset && it == data))
        });
        let lost = lost.count();
        ensure(lost == 0, || format!("{lost} of {} are lost", acked.len()))
    })
    .unwrap_or_else(|why| panic!("{why}\n{}", cluster.logs()));
}

#[test]
fn a_log_is_exported_and_imported_as_it_was() {
    let mut cluster = start(1);
    let names = rooms::names("room", 50);
    rooms::fill(cluster.node(0).http, &names, &json!({"n": 1})).expect("published");
    rooms::fill(cluster.node(0).http, &names, &json!("two")).expect("published");
    let before = rooms::read(cluster.node(0).http, &names, -1).expect("read");
    cluster.node(0).terminate();
    cluster.node_mut(0).exit_status(SETTLED).expect("it ends");
    let data_dir = cluster.data_dir(0).expect("it has one");
    let log = |words: &[&str], input: Stdio| {
        let mut command = Command::new(paths::server());
        command.args(["log", words[0], "--data-dir"]).arg(&data_dir).args(&words[1..]);
        command.stdin(input).output().expect("it runs")
    };
    let verified = log(&["verify"], Stdio::null());
    assert!(verified.status.success(), "{verified:?}");
    let inspected = log(&["inspect", "--json"], Stdio::null());
    let inspected = String::from_utf8_lossy(&inspected.stdout).into_owned();
    assert_eq!(inspected.lines().count(), names.len(), "{inspected}");
    let exported = log(&["export"], Stdio::null());
    assert!(exported.status.success(), "{exported:?}");
    let file = data_dir.with_extension("jsonl");
    std::fs::write(&file, &exported.stdout).expect("written");
    std::fs::remove_dir_all(&data_dir).expect("removed");
    let lines = std::fs::File::open(&file).expect("it is there");
    let imported = log(&["import"], lines.into());
    assert!(imported.status.success(), "{imported:?}");
    std::fs::remove_file(&file).expect("removed");
    cluster.restart(0).expect("it starts again");
    let after = rooms::read(cluster.node(0).http, &names, -1).expect("read");
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((before.offset, &before.kept), (after.offset, &after.kept));
    }
}

#[test]
fn a_log_on_a_disk_that_became_read_only_is_verified_and_exported() {
    let path = std::env::temp_dir().join(format!("roomcast-read-only-{}", std::process::id()));
    let Some(disk) = Small::mount_at(path, "64m") else {
        return skip("this user may not mount a file system");
    };
    let data_dir = disk.0.join("data");
    let own = format!("[disk]\ndata_dir = {data_dir:?}\nsegment_bytes = 1048576\n");
    let mut cluster = Cluster::start_with(1, &(on_disk() + &own)).expect("the node starts");
    let names = rooms::names("room", 50);
    rooms::fill(cluster.node(0).http, &names, &json!({"n": 1})).expect("published");
    // Just so: what would be tidied up at the next start is there.
    cluster.node_mut(0).kill();
    assert!(disk.be_read_only(), "it can't be");
    let log = |word: &str| {
        let mut command = Command::new(paths::server());
        command.args(["log", word, "--data-dir"]).arg(&data_dir).output().expect("it runs")
    };
    for word in ["verify", "inspect", "export"] {
        let output = log(word);
        assert!(output.status.success(), "{word}: {output:?}");
    }
    // Of each room, what it is and its publication.
    let lines = String::from_utf8_lossy(&log("export").stdout).lines().count();
    assert_eq!(lines, 2 * names.len());
}

#[test]
fn two_nodes_do_not_share_a_directory_and_the_second_says_so() {
    let mut cluster = start(1);
    let second = cluster.add_namesake_joining(0, &[]).expect("it is launched");
    let status = cluster.node_mut(second).exit_status(SETTLED).expect("it ends");
    assert!(!status.success());
    // Its log comes through a pipe.
    until(SETTLED, || {
        let log = cluster.node(second).log();
        ensure(log.contains("in use by another process"), || log)
    })
    .expect("it says so");
}
