//! Keys that clients track: one backend is asked for all of them, and each client gets what it lacks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster_tests::backend::{Act, Asked, Backend};
use cluster_tests::cluster::Cluster;
use cluster_tests::http;
use cluster_tests::sdk::{Clients, Format, Sdk};
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::world::REACTION;
use cluster_tests::ws::Socket;
use serde_json::{Value, json};

const SECRET: &str = "signs what may be tracked";
/// How often a key is asked for.
const INTERVAL: Duration = Duration::from_millis(200);

fn config(backend: &Backend) -> String {
    let (keys, stuck) = (backend.url("keys"), backend.url("stuck"));
    let namespace = |name: &str, proxy: &str, mode: &str| {
        format!(
            r#"
[[channel.namespaces]]
name = "{name}"
subscription_type = "shared_poll"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
shared_poll.proxy_name = "{proxy}"
shared_poll.mode = "{mode}"
shared_poll.refresh_interval = "{}ms"
shared_poll.refresh_batch_size = 3
shared_poll.max_keys_per_connection = 5
"#,
            INTERVAL.as_millis()
        )
    };
    format!(
        r#"
[client]
allow_anonymous_connect_without_token = true
[http_api]
key = "test"
[shared_poll]
hmac_secret_key = "{SECRET}"
[[proxies]]
name = "keys"
endpoint = "{keys}"
[[proxies]]
name = "stuck"
endpoint = "{stuck}"
timeout = "300ms"
[[channel.namespaces]]
name = "open"
allow_subscribe_for_client = true
allow_subscribe_for_anonymous = true
{}{}{}"#,
        namespace("versioned", "keys", "versioned"),
        namespace("content", "keys", "versionless"),
        namespace("stuck", "stuck", "versioned"),
    )
}

/// Versions and values by keys.
type Items = BTreeMap<String, (u64, Option<Value>)>;

/// What the application knows: the version and the data of each key; no data: the key is gone.
#[derive(Clone, Default)]
struct Table(Arc<Mutex<(String, Items)>>);

impl Table {
    fn set(&self, key: &str, version: u64, data: impl Into<Option<Value>>) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.1.insert(key.to_owned(), (version, data.into()));
    }

    /// Versions are of this epoch from now on.
    fn begin(&self, epoch: &str) {
        epoch.clone_into(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    /// Says what it knows of the keys, and nothing of those whose version the server has.
    fn answer(&self, asked: &Asked) -> Act {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = asked.json()["items"].as_array().cloned().unwrap_or_default();
        let items: Vec<Value> = (asked.iter())
            .filter_map(|item| {
                let key = item["key"].as_str()?;
                let (version, data) = table.1.get(key)?;
                let news = *version == 0 || item["version"].as_u64().unwrap_or(0) < *version;
                let removed = data.is_none();
                let it = json!({"key": key, "version": version, "data": data, "removed": removed});
                news.then_some(it)
            })
            .collect();
        Act::Say(json!({"result": {"items": items, "epoch": table.0}}))
    }
}

struct World {
    backend: Backend,
    table: Table,
    cluster: Cluster,
    clients: Clients,
}

fn world(nodes: usize) -> Result<World, String> {
    let table = Table::default();
    let known = table.clone();
    let backend = Backend::start(move |asked| known.answer(asked))?;
    let cluster = Cluster::start_with(nodes, &config(&backend))?;
    Ok(World { backend, table, cluster, clients: Clients::default() })
}

fn failed(why: impl std::fmt::Display) -> String {
    why.to_string()
}

impl World {
    /// A client of a node that is in a room of keys.
    fn poll(&mut self, name: &str, format: Format, node: usize, room: &str) -> Result<(), String> {
        let url = self.cluster.node(node).ws_url();
        self.clients.connect(name, (Sdk::Js, format), &url).map_err(failed)?;
        self.enter(name, room, json!({}))
    }

    fn enter(&mut self, name: &str, room: &str, mut more: Value) -> Result<(), String> {
        (more["room"], more["secret"]) = (room.into(), SECRET.into());
        self.clients.call(name, "poll", more).map(drop).map_err(failed)
    }

    fn track(&mut self, name: &str, room: &str, keys: &[&str]) -> Result<(), String> {
        let fields = json!({"room": room, "keys": keys});
        self.clients.call(name, "track", fields).map(drop).map_err(failed)
    }

    /// What a client was told of keys, oldest first, without the version.
    fn told(&self, name: &str) -> Vec<(String, Value)> {
        updates(&self.clients.events(name))
    }

    /// Waits until a client was told exactly this.
    fn expect(&self, name: &str, expected: &[(&str, Value)]) -> Result<(), String> {
        let expected: Vec<_> =
            expected.iter().map(|(key, data)| ((*key).to_owned(), data.clone())).collect();
        self.clients.until(name, REACTION, |events| {
            let events: Vec<Value> = events.iter().map(|it| (*it).clone()).collect();
            let told = updates(&events);
            ensure(told == expected, || format!("told {told:?}, not {expected:?}"))
        })
    }

    /// The keys of each request of the backend for a room, from the `first` on.
    fn asked(&self, room: &str, first: usize) -> Vec<Vec<String>> {
        let asked = self.backend.asked("keys").into_iter().skip(first).map(|it| it.json());
        let asked = asked.filter(|it| it["channel"] == room);
        let key = |it: &Value| it["key"].as_str().unwrap_or_default().to_owned();
        asked.map(|it| it["items"].as_array().into_iter().flatten().map(key).collect()).collect()
    }
}

fn updates(events: &[Value]) -> Vec<(String, Value)> {
    let updates = events.iter().filter(|it| it["ev"] == "update");
    let key = |it: &Value| it["key"].as_str().unwrap_or_default().to_owned();
    let updates = updates.map(|it| match it["removed"] == true {
        true => (key(it), "removed".into()),
        false => (key(it), it["data"].clone()),
    });
    updates.collect()
}

#[test]
fn one_backend_is_asked_for_all_and_each_client_gets_what_it_lacks() -> Result<(), String> {
    let (mut world, room) = (world(1)?, "versioned:a");
    for (key, version) in [("a", 1), ("b", 4), ("c", 2)] {
        world.table.set(key, version, json!({"of": key}));
    }
    world.poll("ann", Format::Json, 0, room)?;
    world.poll("bob", Format::Protobuf, 0, room)?;
    world.track("ann", room, &["a", "b"])?;
    world.expect("ann", &[("a", json!({"of": "a"})), ("b", json!({"of": "b"}))])?;
    // What is known already is there for whoever comes later, and is not told twice.
    world.track("bob", room, &["b", "c"])?;
    until(REACTION, || {
        let mut told = world.told("bob");
        told.sort_by(|one, other| one.0.cmp(&other.0));
        let expected = [("b".to_owned(), json!({"of": "b"})), ("c".to_owned(), json!({"of": "c"}))];
        ensure(told == expected, || format!("{told:?}"))
    })?;
    let first = world.backend.asked("keys").len();
    until(REACTION, || {
        let asked = world.asked(room, first);
        let all = ["a", "b", "c"].map(str::to_owned);
        ensure(asked.iter().any(|it| *it == all), || format!("{asked:?}"))
    })?;
    world.table.set("b", 5, json!("new"));
    world.expect(
        "ann",
        &[("a", json!({"of": "a"})), ("b", json!({"of": "b"})), ("b", json!("new"))],
    )?;
    world.table.set("b", 6, None);
    let removed = |told: Vec<(String, Value)>| told.last() == Some(&("b".into(), "removed".into()));
    for name in ["ann", "bob"] {
        until(REACTION, || {
            let told = world.told(name);
            ensure(removed(told.clone()), || format!("{name}: {told:?}"))
        })?;
    }
    // What nobody tracks is not asked for.
    world.clients.call("ann", "untrack", json!({"room": room, "keys": ["a"]})).map_err(failed)?;
    until(REACTION, || {
        let asked = world.asked(room, 0);
        ensure(asked.last() == Some(&vec!["c".to_owned()]), || format!("{asked:?}"))
    })?;
    ensure(world.cluster.metric(0, "roomcast_shared_poll_keys")? == 1.0, || "keys".to_owned())?;
    world.clients.call("bob", "disconnect", json!({})).map_err(failed)?;
    world.clients.call("ann", "disconnect", json!({})).map_err(failed)?;
    until(REACTION, || {
        let rooms = world.cluster.metric(0, "roomcast_shared_poll_rooms")?;
        ensure(rooms == 0.0, || format!("{rooms} rooms"))
    })
}

#[test]
fn without_versions_content_says_what_is_new() -> Result<(), String> {
    let (mut world, room) = (world(1)?, "content:a");
    (1..=5).for_each(|key| world.table.set(&key.to_string(), 0, json!(key)));
    world.poll("ann", Format::Json, 0, room)?;
    world.track("ann", room, &["1", "2", "3", "4", "5"])?;
    let mut expected: Vec<(String, Value)> =
        (1..=5).map(|key| (key.to_string(), json!(key))).collect();
    let told = |world: &World, expected: &[(String, Value)]| {
        until(REACTION, || {
            let told = world.told("ann");
            ensure(told == expected, || format!("{told:?}"))
        })
    };
    told(&world, &expected)?;
    let first = world.asked(room, 0).len();
    until(REACTION, || ensure(world.asked(room, 0).len() >= first + 8, || "asked".to_owned()))?;
    let sizes: Vec<usize> = world.asked(room, 0).iter().map(Vec::len).collect();
    ensure(sizes.iter().all(|it| [2, 3].contains(it)), || format!("batches: {sizes:?}"))?;
    world.table.set("3", 0, json!("new"));
    expected.push(("3".to_owned(), json!("new")));
    told(&world, &expected)
}

#[test]
fn a_client_that_was_away_gets_what_is_new_and_nothing_else() -> Result<(), String> {
    let (mut world, room) = (world(1)?, "versioned:a");
    world.table.set("a", 1, json!(1));
    world.table.set("b", 1, json!(1));
    // Somebody goes on tracking them.
    world.poll("other", Format::Json, 0, room)?;
    world.track("other", room, &["a", "b"])?;
    world.poll("ann", Format::Json, 0, room)?;
    world.track("ann", room, &["a", "b"])?;
    world.expect("ann", &[("a", json!(1)), ("b", json!(1))])?;
    world.clients.call("ann", "drop", json!({"offline": true})).map_err(failed)?;
    world.table.set("b", 2, json!(2));
    world.expect("other", &[("a", json!(1)), ("b", json!(1)), ("b", json!(2))])?;
    let url = world.cluster.node(0).ws_url();
    world.clients.call("ann", "move", json!({"url": url})).map_err(failed)?;
    world.expect("ann", &[("a", json!(1)), ("b", json!(1)), ("b", json!(2))])?;
    let asked = world.clients.events("ann");
    let asked = asked.iter().filter(|it| it["ev"] == "signature_asked").count();
    ensure(asked == 1, || format!("{asked} signatures: the first is still good"))
}

#[test]
fn an_expired_signature_is_refused_until_the_sdk_brings_a_new_one() -> Result<(), String> {
    let (mut world, room) = (world(1)?, "versioned:a");
    world.table.set("a", 1, json!(1));
    let url = world.cluster.node(0).ws_url();
    world.clients.connect("ann", (Sdk::Js, Format::Json), &url).map_err(failed)?;
    world.enter("ann", room, json!({"ttl": -60}))?;
    world.track("ann", room, &["a"])?;
    world.expect("ann", &[("a", json!(1))])?;
    let events = world.clients.events("ann");
    let asked = events.iter().filter(|it| it["ev"] == "signature_asked").count();
    ensure(asked == 2, || format!("{events:?}"))
}

#[test]
fn versions_of_another_epoch_make_clients_begin_again() -> Result<(), String> {
    let (mut world, room) = (world(1)?, "versioned:a");
    world.table.begin("one");
    world.table.set("a", 9, json!(9));
    world.poll("ann", Format::Json, 0, room)?;
    world.track("ann", room, &["a"])?;
    world.expect("ann", &[("a", json!(9))])?;
    world.table.set("a", 1, json!(1));
    world.table.begin("two");
    world.expect("ann", &[("a", json!(9)), ("a", json!(1))])?;
    let events = world.clients.events("ann");
    let again: Vec<&Value> = events.iter().filter(|it| it["ev"] == "subscribing").collect();
    ensure(again.iter().any(|it| it["code"] == 2500), || format!("{events:?}"))
}

#[test]
fn what_may_not_be_is_refused() -> Result<(), String> {
    let world = world(1)?;
    let mut socket = Socket::open(world.cluster.node(0).http, None)?;
    socket.connect()?;
    let mut refused = |command: Value, code: u64| {
        let reply = socket.command(&command)?;
        ensure(reply["error"]["code"] == code, || format!("{command}: {reply}"))
    };
    let subscribe =
        |room: &str, kind: u8| json!({"id": 2, "subscribe": {"channel": room, "type": kind}});
    refused(subscribe("versioned:a", 0), 107)?;
    refused(subscribe("open:a", 4), 108)?;
    refused(subscribe("none:a", 4), 102)?;
    let track = json!({"id": 3, "sub_refresh": {"channel": "versioned:a", "type": 1,
        "track": [{"items": [{"key": "a"}], "signature": "1:2:3"}]}});
    refused(track.clone(), 103)?;
    let reply = socket.command(&subscribe("versioned:a", 4))?;
    ensure(reply["subscribe"]["type"] == 4, || reply.to_string())?;
    let mut refused = |command: Value, code: u64| {
        let reply = socket.command(&command)?;
        ensure(reply["error"]["code"] == code, || format!("{command}: {reply}"))
    };
    refused(track, 103)?;
    refused(json!({"id": 4, "publish": {"channel": "versioned:a", "data": 1}}), 108)?;
    for method in ["publish", "history", "presence"] {
        let call = json!({"channel": "versioned:a", "data": 1});
        let answer = world.cluster.api_answer(0, method, &call)?;
        ensure(answer["error"]["code"] == 108, || format!("{method}: {answer}"))?;
    }
    Ok(())
}

#[test]
fn a_backend_that_hangs_or_fails_is_asked_less_and_holds_up_no_one() -> Result<(), String> {
    let (mut world, (fine, stuck)) = (world(1)?, ("versioned:a", "stuck:a"));
    world.table.set("a", 1, json!(1));
    let known = world.table.clone();
    world.backend.now(move |asked| match asked.path.as_str() {
        "/stuck" => Act::Hang,
        _ => known.answer(asked),
    });
    world.poll("ann", Format::Json, 0, stuck)?;
    world.track("ann", stuck, &["a", "b"])?;
    world.poll("bob", Format::Json, 0, fine)?;
    world.track("bob", fine, &["a"])?;
    world.expect("bob", &[("a", json!(1))])?;
    let mut stuck_before = 0;
    until(REACTION, || {
        let before = world.backend.asked("keys").len();
        hold(10 * INTERVAL);
        let good = world.backend.asked("keys").len() - before;
        let all_bad = world.backend.asked("stuck").len();
        let bad = all_bad - std::mem::replace(&mut stuck_before, all_bad);
        ensure(good >= 7, || format!("the other was asked {good} times"))?;
        ensure(all_bad >= 2 && bad <= 5, || format!("the one that hangs was asked {bad} times"))
    })?;
    for act in [Act::Status(500, String::new()), Act::Close, Act::Break, Act::Say(json!([]))] {
        let known = world.table.clone();
        let asked = world.backend.asked("stuck").len();
        world.backend.now(move |it| match it.path.as_str() {
            "/stuck" => act.clone(),
            _ => known.answer(it),
        });
        world.backend.wait_for("stuck", asked + 1, Duration::from_secs(15))?;
    }
    let known = world.table.clone();
    world.backend.now(move |asked| known.answer(asked));
    world.clients.until("ann", Duration::from_secs(15), |events| {
        let told = events.iter().filter(|it| it["ev"] == "update").count();
        ensure(told == 1, || format!("told {told} times"))
    })?;
    world.table.set("a", 2, json!(2));
    world.expect("ann", &[("a", json!(1)), ("a", json!(2))])
}

/// How often each node has asked the backend for keys.
fn polls(cluster: &Cluster, node: usize) -> Result<f64, String> {
    let text = http::get(cluster.node(node).http, "/metrics")?.body;
    let line = |it: &&str| {
        it.starts_with("roomcast_backend_calls_total") && it.contains("shared_poll_refresh")
    };
    let value = |it: &str| it.rsplit(' ').next().and_then(|it| it.parse::<f64>().ok());
    Ok(text.lines().filter(line).filter_map(value).sum())
}

#[test]
fn one_node_of_three_asks_for_all_and_another_goes_on_when_it_is_killed() -> Result<(), String> {
    let (mut world, room) = (world(3)?, "versioned:a");
    world.table.set("k", 1, json!(1));
    let names = ["ann", "bob", "cy"];
    for (node, name) in names.iter().enumerate() {
        world.poll(name, if node == 1 { Format::Protobuf } else { Format::Json }, node, room)?;
        world.track(name, room, &["k"])?;
        world.expect(name, &[("k", json!(1))])?;
    }
    let poller = until(REACTION, || {
        let (before, first) = (
            (0..3).map(|it| polls(&world.cluster, it)).collect::<Result<Vec<_>, _>>()?,
            world.asked(room, 0).len(),
        );
        hold(20 * INTERVAL);
        let asked = world.asked(room, 0).len() - first;
        ensure((15..=22).contains(&asked), || format!("asked {asked} times in 20 intervals"))?;
        let mut busy = Vec::new();
        for (node, before) in before.iter().enumerate() {
            if polls(&world.cluster, node)? > *before {
                busy.push(node);
            }
        }
        let [poller] = busy[..] else { return Err(format!("nodes {busy:?} ask")) };
        Ok(poller)
    })?;
    world.table.set("k", 2, json!(2));
    for name in names {
        world.expect(name, &[("k", json!(1)), ("k", json!(2))])?;
    }
    world.cluster.node_mut(poller).kill();
    world.table.set("k", 3, json!(3));
    let others: Vec<&str> =
        names.iter().enumerate().filter(|(node, _)| *node != poller).map(|(_, it)| *it).collect();
    for name in others {
        world.expect(name, &[("k", json!(1)), ("k", json!(2)), ("k", json!(3))])?;
    }
    // Once they have noticed, one of them asks for both.
    until(REACTION, || {
        let first = world.asked(room, 0).len();
        hold(10 * INTERVAL);
        let asked = world.asked(room, 0).len() - first;
        ensure((7..=11).contains(&asked), || format!("asked {asked} times in 10 intervals"))
    })
}
