//! Events for the application: each is told, signed, once as long as no node dies, and whatever happens to
//! nodes and endpoint at least once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use cluster_tests::backend::{Act, Backend};
use cluster_tests::cluster::Cluster;
use cluster_tests::wait::{ensure, until};
use cluster_tests::ws::Socket;
use roomcast::webhooks::sign;
use serde_json::{Value, json};

const SECRET: &str = "known to both sides";
/// How long until all nodes have noticed and told.
const LIMIT: Duration = Duration::from_secs(20);
const ROOMS: usize = 8;

fn config(endpoint: &str) -> String {
    format!(
        r#"
[client]
insecure = true
[webhooks]
endpoint = "{endpoint}"
secret = "{SECRET}"
timeout = "1s"
[[channel.namespaces]]
name = "chat"
webhooks = true
presence = true
join_leave = true
history_size = 10
history_ttl = "60s"
[[channel.namespaces]]
name = "quiet"
[http_api]
key = "test"
"#
    )
}

/// All events that came, each once, in the order in which they came first.
fn events(backend: &Backend) -> Result<Vec<Value>, String> {
    let (mut seen, mut events) = (BTreeSet::new(), Vec::new());
    for post in backend.asked("hook") {
        let signature = post.header("x-roomcast-signature").unwrap_or_default().to_owned();
        let time = signature.split([',', '=']).nth(1).and_then(|it| it.parse().ok());
        let expected = sign::signature(SECRET, time.unwrap_or(0), post.body.as_bytes());
        ensure(signature == expected, || format!("{signature} is not {expected}"))?;
        for event in post.json()["events"].as_array().into_iter().flatten() {
            if seen.insert(event["id"].to_string()) {
                events.push(event.clone());
            }
        }
    }
    Ok(events)
}

/// How often each kind of event came that is like this.
fn count(backend: &Backend, like: &Value) -> Result<BTreeMap<String, usize>, String> {
    let mut counts = BTreeMap::new();
    for event in events_like(backend, like)? {
        let kind = event["type"].as_str().unwrap_or_default().to_owned();
        *counts.entry(kind).or_default() += 1;
    }
    Ok(counts)
}

fn events_like(backend: &Backend, like: &Value) -> Result<Vec<Value>, String> {
    let like: Vec<_> = like.as_object().into_iter().flatten().collect();
    let mut events = events(backend)?;
    events.retain(|it| like.iter().all(|(key, value)| it[key.as_str()] == **value));
    Ok(events)
}

fn counted(backend: &Backend, like: &Value, expected: &[(&str, usize)]) -> Result<(), String> {
    let expected: BTreeMap<String, usize> =
        expected.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    until(LIMIT, || {
        let counts = count(backend, like)?;
        ensure(counts == expected, || {
            format!("{like}: {counts:?}, not {expected:?}: {:?}", events_like(backend, like))
        })
    })
}

/// A client on a node that is in all rooms: its socket and its id.
fn client(cluster: &Cluster, node: usize) -> Result<(Socket, Value), String> {
    let mut socket = Socket::open(cluster.node(node).http, None)?;
    let id = socket.connect()?["connect"]["client"].clone();
    for room in (0..ROOMS).map(|it| format!("chat:{it}")).chain(["quiet:0".to_owned()]) {
        let reply = socket.command(&json!({"id": 2, "subscribe": {"channel": room}}))?;
        ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    }
    Ok((socket, id))
}

#[test]
fn what_happens_is_told_once_and_when_a_node_dies_at_least_once() -> Result<(), String> {
    // The endpoint fails now and then: what it was told then is told again.
    let posts = AtomicUsize::new(0);
    let backend = Backend::start(move |_| match posts.fetch_add(1, Ordering::Relaxed) % 5 {
        0 => Act::Status(500, String::new()),
        3 => Act::Close,
        _ => Act::Status(204, String::new()),
    })?;
    let mut cluster = Cluster::start_with(3, &config(&backend.url("hook")))?;
    let info = cluster.api(0, "info", &json!({}))?;
    let dying = info["nodes"].as_array().into_iter().flatten().find(|it| it["name"] == "c");
    let dying = dying.map(|it| it["uid"].clone()).ok_or_else(|| info.to_string())?;

    let mut clients = Vec::new();
    for node in 0..3 {
        clients.push(client(&cluster, node)?);
    }
    let (_socket, lost) = clients.pop().ok_or("three clients")?;
    for (_, id) in &clients {
        counted(&backend, &json!({"client": id}), &[("connect", 1), ("join", ROOMS)])?;
    }
    counted(&backend, &json!({"client": lost}), &[("connect", 1), ("join", ROOMS)])?;
    counted(&backend, &json!({"channel": "chat:1"}), &[("join", 3), ("occupied", 1)])?;
    counted(&backend, &json!({"channel": "quiet:0"}), &[])?;

    cluster.node_mut(2).kill();
    until(LIMIT, || everyone_has_left(&backend, &json!({"client": lost}), ROOMS))?;
    until(LIMIT, || {
        let gone = count(&backend, &json!({"node": dying, "type": "node_gone"}))?;
        ensure(gone.contains_key("node_gone"), || format!("{:?}", count(&backend, &json!({}))))
    })?;
    // Their rooms had others in them all the time.
    ensure(!count(&backend, &json!({}))?.contains_key("vacated"), || "vacated too early".into())?;

    let ids: Vec<Value> = clients.iter().map(|(_, id)| id.clone()).collect();
    drop(clients);
    // The home that took a room over may tell again who it found there, but nothing is left out.
    for id in ids {
        counted(&backend, &json!({"client": id, "type": "disconnect"}), &[("disconnect", 1)])?;
        until(LIMIT, || everyone_has_left(&backend, &json!({"client": id}), ROOMS))?;
    }
    until(LIMIT, || {
        for room in (0..ROOMS).map(|it| json!({"channel": format!("chat:{it}")})) {
            everyone_has_left(&backend, &room, 3)?;
            let mut types = events_like(&backend, &room)?.into_iter().map(|it| it["type"].clone());
            let last = types.rfind(|it| it == "occupied" || it == "vacated");
            ensure(last == Some(json!("vacated")), || format!("{room}: {last:?}"))?;
        }
        Ok(())
    })
}

/// Of so many clients in rooms, each has come and then gone.
fn everyone_has_left(backend: &Backend, like: &Value, expected: usize) -> Result<(), String> {
    let mut there = BTreeMap::new();
    for event in events_like(backend, like)? {
        let who = format!("{} {}", event["channel"], event["client"]);
        match event["type"].as_str() {
            Some("join") => drop(there.insert(who, true)),
            Some("leave") => drop(there.insert(who, false)),
            _ => {}
        }
    }
    let gone = there.values().filter(|there| !**there).count();
    ensure(gone == expected && there.len() == expected, || format!("{like}: {there:?}"))
}

#[test]
fn a_node_that_leaves_tells_what_it_has_to_tell_first() -> Result<(), String> {
    let backend = Backend::start(|_| Act::Status(200, String::new()))?;
    let mut cluster = Cluster::start_with(1, &config(&backend.url("hook")))?;
    let (socket, id) = client(&cluster, 0)?;
    cluster.node(0).terminate();
    let status = cluster.node_mut(0).exit_status(LIMIT)?;
    ensure(status.success(), || status.to_string())?;
    drop(socket);
    let events = events(&backend)?;
    let last = events.iter().find(|it| it["type"] == "disconnect" && it["client"] == id);
    ensure(last.is_some_and(|it| it["code"] == 3001), || format!("{events:?}"))
}

#[test]
fn an_endpoint_that_is_down_costs_the_oldest_events_and_nothing_else() -> Result<(), String> {
    let backend = Backend::start(|_| Act::Hang)?;
    let config = config(&backend.url("hook"))
        .replace("timeout = \"1s\"", "timeout = \"1s\"\nbatch_size = 10\nqueue_max_events = 20");
    let cluster = Cluster::start_with(1, &config)?;
    for _ in 0..5 {
        client(&cluster, 0)?;
    }
    until(LIMIT, || {
        let waiting = cluster.metric(0, "roomcast_webhook_waiting")?;
        let dropped = cluster.metric(0, "roomcast_webhook_events_total")?;
        ensure(waiting == 20.0 && dropped > 0.0, || format!("{waiting} wait, {dropped} dropped"))
    })
}
