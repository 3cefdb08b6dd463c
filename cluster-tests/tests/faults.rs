//! What goes wrong on one machine: no files left, a clock that jumps. Whoever is there already must not
//! notice, and when it is over everything must be as before.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster_tests::control::{Control, room_at};
use cluster_tests::node::cpu_seconds;
use cluster_tests::paths;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, hold};
use cluster_tests::world::{REACTION, World, skip};
use cluster_tests::ws::Socket;
use serde_json::{Value, json};

/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(6);
/// Files that a node may have open: enough for itself, some links and some clients.
const FILES: usize = 100;
/// A node that only waits for files takes less of a core than this.
const IDLE: f64 = 0.3;

fn start_control(world: &World, from: usize, to: usize, room: &str) -> Control {
    let node = |index| world.cluster.node(index).http;
    Control::start(node(from), node(to), room).expect("all is well yet")
}

#[test]
fn a_node_without_files_waits_for_some_and_its_clients_stay() {
    let mut world = World::new(1);
    world.cluster.start_under(&["prlimit", &format!("--nofile={FILES}")]);
    world.play([Add, Converge]);
    let mut control = start_control(&world, 0, 1, &room_at(0, 1, 2));
    hold(FAULT / 2);
    control.fault_begins();
    let node = world.cluster.node(1).http;
    let crowd: Vec<_> = (0..FILES * 2).filter_map(|_| Socket::tcp(node).ok()).collect();
    world.check("the crowd is let into the queue, and is larger than the node", |_| {
        ensure(crowd.len() > FILES, || format!("{} connections", crowd.len()))
    });
    world.eventually("the node says that it can't accept", REACTION, |world| {
        let log = world.cluster.node(1).log();
        ensure(log.contains("Too many open files") || log.contains("os error 24"), || log)
    });
    world.check("it waits, and does not burn time", |world| {
        let pid = world.cluster.node(1).pid();
        let (began, before) = (Instant::now(), cpu_seconds(pid)?);
        hold(FAULT / 2);
        let share = (cpu_seconds(pid)? - before) / began.elapsed().as_secs_f64();
        println!("{share:.3} of a core without files");
        ensure(share < IDLE, || format!("it took {share:.2} of a core"))
    });
    world.undisturbed(control);
    drop(crowd);
    world.eventually("it serves new clients again", REACTION, |_| {
        Socket::open(node, None)?.connect().map(drop)
    });
    world.play([Add, Converge]);
}

/// A server whose wall clock, and no other, is set by a file.
struct Clock(PathBuf);

impl Clock {
    /// How to start a node by this clock; none where there is no library for it.
    fn new() -> Option<(Self, Vec<String>)> {
        let library = ["x86_64", "aarch64"]
            .map(|it| format!("/usr/lib/{it}-linux-gnu/faketime/libfaketimeMT.so.1"));
        let library = library.iter().find(|it| Path::new(it).exists())?;
        let clock = Self(paths::scratch(".clock"));
        clock.set("+0");
        let words = vec![
            "env".to_owned(),
            format!("LD_PRELOAD={library}"),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.0.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
            "DONT_FAKE_MONOTONIC=1".to_owned(),
        ];
        Some((clock, words))
    }

    fn set(&self, offset: &str) {
        fs::write(&self.0, offset).expect("scratch files can be written");
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

const CONFIG: &str = r#"
[client]
allow_anonymous_connect_without_token = true
# The raw client answers no pings: it gets none in the time of the test, unless a clock that jumps brings them.
ping_interval = "5m"
[client.token]
hmac_secret_key = "cluster-tests"
[channel.without_namespace]
presence = true
history_size = 100
history_ttl = "300s"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
allow_publish_for_client = true
allow_publish_for_anonymous = true
[http_api]
key = "test"
"#;

/// For half an hour from now, by this process's clock, which is right.
fn token() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    let claims = json!({"sub": "42", "exp": now + 1800});
    let key = jsonwebtoken::EncodingKey::from_secret(b"cluster-tests");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("it is signed")
}

/// What a node says to the token: its reply, or how it closes.
fn enter(world: &World, node: usize, token: &str) -> Result<Value, String> {
    let mut socket = Socket::open(world.cluster.node(node).http, None)?;
    socket.command(&json!({"id": 1, "connect": {"token": token}}))
}

/// Nothing that lives by durations has expired.
fn all_there(world: &mut World, when: &str) {
    // Longer than gossip and links take to lose patience.
    hold(FAULT);
    world.check(&format!("{when}: history, presence, members and links are there"), |world| {
        for node in [0, 1] {
            let page =
                world.cluster.api(node, "history", &json!({"channel": "kept", "limit": 9}))?;
            let kept = page["publications"].as_array().map_or(0, Vec::len);
            let stats = world.cluster.api(node, "presence_stats", &json!({"channel": "kept"}))?;
            ensure(kept == 1 && stats["num_clients"] == 1, || format!("{page} {stats}"))?;
        }
        world.cluster.converged_now()
    });
}

#[test]
fn a_clock_that_jumps_ends_tokens_and_nothing_else() {
    let Some((clock, words)) = Clock::new() else {
        skip("no clock can be faked here: install libfaketime");
        return;
    };
    let mut world = World::with(1, CONFIG);
    world.cluster.start_under(&words.iter().map(String::as_str).collect::<Vec<_>>());
    world.play([Add, Converge]);
    let token = token();
    let mut socket = Socket::open(world.cluster.node(1).http, None).expect("a connection");
    world.check("a client is in", |_| {
        socket.connect()?;
        let entered = socket.command(&json!({"id": 2, "subscribe": {"channel": "kept"}}))?;
        ensure(entered["error"].is_null(), || entered.to_string())
    });
    world.api(1, "publish", json!({"channel": "kept", "data": 1}));
    let mut control = start_control(&world, 0, 1, &room_at(1, 0, 2));
    hold(FAULT / 2);
    control.fault_begins();
    for (offset, fits) in [("+3600", false), ("-3600", true), ("+0", true)] {
        clock.set(offset);
        all_there(&mut world, &format!("the clock is off by {offset} s"));
        world.eventually(&format!("a token fits: {fits}"), REACTION, |world| {
            let reply = enter(world, 1, &token);
            let entered = reply.as_ref().is_ok_and(|it| it["connect"]["client"].is_string());
            ensure(entered == fits, || format!("{reply:?}"))
        });
        world.check("and fits where the clock is right", |world| {
            let reply = enter(world, 0, &token)?;
            ensure(reply["connect"]["client"].is_string(), || reply.to_string())
        });
    }
    world.undisturbed(control);
    drop(socket);
}
