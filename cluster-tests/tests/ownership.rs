//! Who owns a room, and what it takes along: nodes that join, start at once, drain or lose each other, while very
//! many rooms, or very large ones, have a history. Each test is named for what broke.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{CONFIG, Cluster, SECRET};
use cluster_tests::control::room_at;
use cluster_tests::hosts::Cut;
use cluster_tests::http;
use cluster_tests::node::node_name;
use cluster_tests::rooms::{self, Api, Standing};
use cluster_tests::sdk::Format::Json;
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::world::World;
use cluster_tests::writer::{self, Writer, Written};
use cluster_tests::ws::{Event, Socket};
use serde_json::{Value, json};

/// In this time the cluster is settled again after what happened to it.
const SETTLED: Duration = Duration::from_secs(30);
/// Between two clients that come, and go, on each node.
const TURN: Duration = Duration::from_millis(2);
/// Long enough for what happens to show its effects.
const QUIET: Duration = Duration::from_secs(2);
/// How long a cut lasts: longer than links and gossip take to notice it, on either side.
const CUT: Duration = Duration::from_secs(16);

/// A publication of 50 bytes.
fn small() -> Value {
    json!("x".repeat(48))
}

/// [`CONFIG`] of nodes for which as little may wait as can be, with publications of up to 128 KiB, so that fewer
/// rooms have the effect of many.
fn narrow() -> String {
    let largest = 128 << 10;
    let client = format!("[client]\nqueue_max_size = {}", 2 * largest);
    let bytes = (1 << 20) + 2 * largest;
    let config = CONFIG.replacen("[client]", &client, 1);
    format!("{config}[cluster]\nqueue_max_size = {bytes}\n")
}

/// Rooms with one publication each, and how they stand.
fn filled(world: &mut World, names: &[String], data: &Value) -> Vec<Standing> {
    let mut before = Vec::new();
    let what =
        format!("{} rooms have a publication of {} bytes", names.len(), data.to_string().len());
    world.check(&what, |world| {
        let node = world.cluster.node(0).http;
        rooms::fill(node, names, data)?;
        before = rooms::read(node, names, 2)?;
        let odd = before.iter().find(|it| it.kept.len() != 1 || it.offset != 1);
        ensure(odd.is_none(), || format!("one has {}", odd.expect("there is one")))
    });
    before
}

/// Every room is as it was, whichever of the nodes is asked.
fn unchanged(world: &mut World, nodes: &[usize], names: &[String], before: &[Standing]) {
    for &node in nodes {
        let what = format!("node {}: every room is as it was", node_name(node));
        world.check(&what, |world| {
            let now = rooms::read(world.cluster.node(node).http, names, 2)?;
            rooms::same(names, before, &now)
        });
    }
}

/// No node has closed a link since it had too much to send.
fn no_link_was_cut(world: &mut World, nodes: &[usize]) {
    world.check("no link was cut as slow", |world| {
        let closed = links_closed(world, nodes);
        let slow = |it: &String| it.contains("reason=\"slow\"} ") && !it.contains("\"slow\"} 0");
        ensure(!closed.iter().any(slow), || format!("{closed:?}"))
    });
}

/// Waits until all nodes are one cluster again, also where moving very many rooms takes its time.
fn settle(world: &mut World) {
    let what = "all running nodes see each other";
    world.eventually(what, SETTLED * 3, |world| {
        let nodes = world.cluster.running();
        let settled = world.cluster.converged_now();
        settled.map_err(|why| format!("{why}; links closed: {:?}", links_closed(world, &nodes)))
    });
}

/// What each node counts of links that it has closed, by reason.
fn links_closed(world: &World, nodes: &[usize]) -> Vec<String> {
    let of = |node: &usize| {
        let metrics = http::get(world.cluster.node(*node).http, "/metrics").ok()?.body;
        let lines =
            metrics.lines().filter_map(|it| it.strip_prefix("roomcast_mesh_links_closed_total"));
        Some(format!("node {}: {}", node_name(*node), lines.collect::<Vec<_>>().join(", ")))
    };
    nodes.iter().filter_map(of).collect()
}

fn joins_into(config: &str, count: usize, data: &Value) {
    let mut world = World::with(1, config);
    let names = rooms::names("room", count);
    let before = filled(&mut world, &names, data);
    world.play([Add]);
    settle(&mut world);
    unchanged(&mut world, &[0, 1], &names, &before);
    no_link_was_cut(&mut world, &[0, 1]);
}

#[test]
fn a_node_that_joins_leaves_60_000_rooms_as_they_were() {
    joins_into(CONFIG, 60_000, &small());
}

#[test]
fn a_node_that_joins_leaves_more_rooms_than_may_wait_as_they_were() {
    joins_into(&narrow(), 20_000, &small());
}

#[test]
fn large_rooms_travel_without_the_link_being_cut() {
    joins_into(CONFIG, 3_000, &json!("x".repeat(100_000)));
}

#[test]
fn rooms_larger_than_may_wait_travel_without_the_link_being_cut() {
    joins_into(&narrow(), 40, &json!("x".repeat(100_000)));
}

/// Writers, by the nodes that they write through.
type Writers = Mutex<BTreeMap<usize, Writer>>;

fn ended(writers: Writers) -> BTreeMap<usize, Written> {
    let writers = writers.into_inner().expect("no one has panicked");
    writers.into_iter().map(|(node, it)| (node, it.finish())).collect()
}

/// All that was acknowledged through each of the writers is in the histories, as each of the nodes tells them.
fn kept(world: &mut World, nodes: &[usize], written: &BTreeMap<usize, Written>) {
    for (through, written) in written {
        for &node in nodes {
            let (through, by) = (node_name(*through), node_name(node));
            let count = written.acked.len();
            let what = format!("node {by} has all {count} that node {through} has acknowledged");
            world.check(&what, |world| {
                ensure(count > 0, || format!("none was: {:?}", written.refused))?;
                writer::all_kept(world.cluster.node(node).http, &written.acked)
            });
        }
    }
}

#[test]
fn nodes_that_start_at_once_lose_nothing_acknowledged() {
    for _ in 0..5 {
        let mut world = World::new(0);
        let writers = Writers::default();
        world.check(
            "three nodes start at once, and are written to as soon as they serve",
            |world| {
                world.cluster.add_at_once(3, |index, node| {
                    let served = until(SETTLED, || {
                        let health = http::get(node.http, "/health")?;
                        ensure(health.status == 200, || format!("{health:?}"))
                    });
                    served.expect("a node that is ready is healthy");
                    let name = node.name.clone();
                    let room = |number| format!("room-{}", number % 40);
                    let writer = Writer::start(&name, node.http, room);
                    writers.lock().expect("no one has panicked").insert(index, writer);
                })
            },
        );
        world.play([Hold(Duration::from_millis(1_500))]);
        let written = ended(writers);
        world.play([Converge]);
        kept(&mut world, &[0, 1, 2], &written);
    }
}

#[test]
fn rooms_that_open_while_two_nodes_join_lose_nothing_acknowledged() {
    for _ in 0..3 {
        rooms_open_while_two_nodes_join();
    }
}

fn rooms_open_while_two_nodes_join() {
    let mut world = World::new(5);
    let writers = Writers::default();
    for index in 0..5 {
        let node = world.cluster.node(index);
        let name = node.name.clone();
        // Three publications, and then another room.
        let room = move |number| format!("{name}-room-{}", number / 3);
        let writer = Writer::start(&node.name, node.http, room);
        writers.lock().expect("no one has panicked").insert(index, writer);
    }
    world.play([Hold(Duration::from_secs(1))]);
    world.check("two nodes more start at once", |world| world.cluster.add_at_once(2, |_, _| {}));
    world.play([Converge, Hold(Duration::from_secs(1))]);
    let written = ended(writers);
    kept(&mut world, &[0, 6], &written);
}

/// Nodes of which one alone refuses.
fn majority_only() -> String {
    format!("{CONFIG}[cluster]\nsecret = \"{SECRET}\"\nexpected_nodes = 3\nminority = \"refuse\"\n")
}

/// Three nodes are written to while a cut comes and goes: all that any of them has acknowledged is kept.
fn written_through(cut: Cut) {
    let Some(mut world) = World::on_hosts_with(3, &majority_only()) else { return };
    let writers = Writers::default();
    for index in 0..3 {
        let node = world.cluster.node(index);
        let room = |number| format!("room-{}", number % 40);
        let writer = Writer::start(&node.name, node.http, room);
        writers.lock().expect("no one has panicked").insert(index, writer);
    }
    world.play([Hold(QUIET), Cut(cut)]);
    let began = Instant::now();
    world.play([Hold(CUT), Heal, Converge, Hold(QUIET)]);
    let written = ended(writers);
    for (node, written) in &written {
        let late = written.acked.iter().filter(|it| it.sent > began && it.sent < began + CUT);
        let last = late.clone().map(|it| it.sent - began).max();
        let late = late.count();
        println!(
            "node {}: {late} sent during the cut were acked, the last {last:?} after its begin; refused: {:?}",
            node_name(*node),
            written.refused
        );
    }
    kept(&mut world, &[0, 1, 2], &written);
}

#[test]
fn a_majority_keeps_what_it_acknowledged() {
    written_through(Cut::Apart { node: 0 });
}

#[test]
fn two_nodes_that_only_a_third_one_reaches_keep_what_they_acknowledged() {
    written_through(Cut::Pair { a: 0, b: 2 });
}

/// A client of the JS SDK in all of these rooms.
fn member(world: &mut World, client: &'static str, node: usize, rooms: &[String]) {
    world.play([Connect { client, sdk: Js, format: Json, node }]);
    world.check(&format!("{client} is in {} rooms", rooms.len()), |world| {
        rooms.iter().try_for_each(|room| {
            let done = world.clients.subscribe(client, room);
            done.map(drop).map_err(|e| format!("{room}: {e}"))
        })
    });
}

/// Nobody was taken out of a room, for a moment or for good.
fn nobody_was_put_out(world: &mut World, clients: &[&str]) {
    for client in clients {
        world.check(&format!("{client} was put out of no room"), |world| {
            let events = world.clients.events(client);
            let odd = |it: &&Value| {
                (it["ev"] == "subscribing" || it["ev"] == "unsubscribed")
                    && it["code"].as_u64() >= Some(2000)
            };
            let (count, first) = (events.iter().filter(odd).count(), events.iter().find(odd));
            ensure(count == 0, || format!("{count} times, first {}", first.expect("there is one")))
        });
    }
}

fn drains_out_of(config: &str, count: usize) {
    let mut world = World::with(3, config);
    let names = rooms::names("room", count);
    let before = filled(&mut world, &names, &small());
    let empty = rooms::names("empty", 40);
    let mut subscribed = names[..40].to_vec();
    subscribed.extend(empty.iter().cloned());
    member(&mut world, "ann", 1, &subscribed);
    member(&mut world, "bob", 2, &subscribed);
    let mut empty_before = Vec::new();
    world.check("rooms in which nothing was said yet have an epoch", |world| {
        empty_before = rooms::read(world.cluster.node(1).http, &empty, 2)?;
        Ok(())
    });
    world.play([Terminate { node: 0 }]);
    settle(&mut world);
    unchanged(&mut world, &[1, 2], &names, &before);
    unchanged(&mut world, &[1, 2], &empty, &empty_before);
    nobody_was_put_out(&mut world, &["ann", "bob"]);
    world.check("whoever is in a room still hears what is said there", |world| {
        rooms::fill(world.cluster.node(1).http, &subscribed, &json!({"from": "after", "seq": 1}))?;
        for client in ["ann", "bob"] {
            world.clients.until(client, SETTLED, |events| {
                let heard = events.iter().filter(|it| it["ev"] == "pub").count();
                ensure(heard == subscribed.len(), || format!("{client} has heard {heard}"))
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_node_that_drains_hands_over_every_room_with_its_epoch() {
    drains_out_of(CONFIG, 60_000);
}

#[test]
fn a_node_that_drains_hands_over_more_rooms_than_may_wait() {
    drains_out_of(&narrow(), 40_000);
}

#[test]
fn nobody_seems_to_come_or_go_when_a_node_drains_and_returns() {
    let mut world = World::new(3);
    let rooms = rooms::names("room", 20);
    let six = ["ann", "bob", "cid", "dan", "eve", "fay"];
    for (index, client) in six.into_iter().enumerate() {
        member(&mut world, client, index % 2, &rooms);
    }
    let told = |world: &World, client: &str| {
        let events = world.clients.events(client);
        let of = |kind: &str| events.iter().filter(|it| it["ev"] == kind).count();
        (of("join"), of("leave"))
    };
    let mut before = BTreeMap::new();
    world.eventually("everyone was told of everyone who came after", SETTLED, |world| {
        for (index, client) in six.iter().enumerate() {
            let (joins, wanted) = (told(world, client).0, (six.len() - index) * rooms.len());
            ensure(joins == wanted, || format!("{client} was told of {joins}, not {wanted}"))?;
            before.insert(*client, told(world, client));
        }
        Ok(())
    });
    world.play([Terminate { node: 2 }, Hold(QUIET), Restart { node: 2 }, Converge, Hold(QUIET)]);
    world.check("and of nobody since, for nobody came or went", |world| {
        let now: BTreeMap<_, _> = six.iter().map(|it| (*it, told(world, it))).collect();
        ensure(now == before, || format!("joins and leaves were {before:?}, and are {now:?}"))
    });
    nobody_was_put_out(&mut world, &six);
}

/// Clients that come and go, some for a moment.
struct Churn {
    stop: Arc<AtomicBool>,
    came: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Churn {
    /// So many clients at a time on each of the nodes, each in one of the rooms.
    fn start(cluster: &Cluster, nodes: &[usize], clients: usize, rooms: &[String]) -> Self {
        let (stop, came) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let thread = |node: &usize| {
            let (stop, came) = (stop.clone(), came.clone());
            let (address, rooms) = (cluster.node(*node).http, rooms.to_vec());
            thread::spawn(move || {
                let mut here = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let room = &rooms[came.load(Ordering::Relaxed) % rooms.len()];
                    // A node that is away takes none.
                    if let Ok(socket) = enter(address, None, room) {
                        came.fetch_add(1, Ordering::Relaxed);
                        here.push(socket);
                    }
                    hold(TURN);
                    if here.len() > clients {
                        here.swap_remove(fastrand::usize(..here.len()));
                    }
                }
            })
        };
        let threads = nodes.iter().map(thread).collect();
        Self { stop, came, threads }
    }

    /// All have gone: how many had come.
    fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("the clients come and go without a panic");
        }
        self.came.load(Ordering::Relaxed)
    }
}

/// A client that connects, with a token if there is one, and enters a room.
fn enter(node: std::net::SocketAddr, token: Option<&str>, room: &str) -> Result<Socket, String> {
    let mut socket = Socket::open(node, None)?;
    let token = token.unwrap_or_default();
    let connected = socket.command(&json!({"id": 1, "connect": {"token": token}}))?;
    ensure(connected["error"].is_null(), || connected.to_string())?;
    let entered = socket.command(&json!({"id": 2, "subscribe": {"channel": room}}))?;
    ensure(entered["error"].is_null(), || entered.to_string())?;
    Ok(socket)
}

/// Who is in a room as the joins and leaves tell it that a client has heard since it subscribed last: who has to
/// subscribe anew asks who is there.
fn as_heard(events: &[Value], room: &str) -> BTreeSet<String> {
    let mut there = BTreeSet::new();
    for event in events.iter().filter(|it| it["room"] == room) {
        let who = event["info"]["client"].as_str().unwrap_or_default().to_owned();
        match event["ev"].as_str() {
            Some("subscribed") => there.clear(),
            Some("join") => drop(there.insert(who)),
            Some("leave") => drop(there.remove(&who)),
            _ => {}
        }
    }
    there
}

/// What the observer has heard of each room is the truth. Nobody but the observer is there.
fn heard_the_truth(world: &World, rooms: &[String], came: usize) -> Result<(), String> {
    let events = world.clients.events("observer");
    let mut ghosts = 0;
    for room in rooms {
        let seen = world.cluster.api(0, "presence", &json!({"channel": room}))?;
        let there = seen["presence"].as_object().ok_or_else(|| seen.to_string())?;
        let there: BTreeSet<String> = there.keys().cloned().collect();
        ensure(there.len() == 1, || format!("{} are in {room}, not 1", there.len()))?;
        let heard = as_heard(&events, room);
        ghosts += heard.difference(&there).count();
    }
    let anew = events.iter().filter(|it| it["ev"] == "subscribed").count() - rooms.len();
    ensure(ghosts == 0, || {
        format!(
            "{ghosts} of {came} stay joined for ever; the observer subscribed anew {anew} times"
        )
    })
}

#[test]
fn joins_and_leaves_end_in_the_truth() {
    let mut world = World::new(3);
    // So many that each node is the home of some.
    let halls = rooms::names("hall", 9);
    member(&mut world, "observer", 0, &halls);
    let mut came = 0;
    for (node, killed) in [(1, true), (2, false), (1, false), (2, true), (1, true), (2, true)] {
        let all = Churn::start(&world.cluster, &[0, 1, 2], 66, &halls);
        world.play([Hold(QUIET)]);
        world.play([if killed { Kill { node } } else { Terminate { node } }]);
        world.play([Hold(QUIET)]);
        // Clients find it where it was before, or not at all: others take their turn.
        world.play([Restart { node }, Converge]);
        came += all.end();
    }
    world.check("many came", |_| ensure(came > 200, || format!("{came}")));
    world.eventually("the observer has heard of all who went", SETTLED, |world| {
        heard_the_truth(world, &halls, came)
    });
}

const KEY: &str = "of the tokens";

/// Nodes that take what is said about a client from its token. Clients are not asked whether they are there: they
/// would have to answer for as long as the test takes.
fn with_tokens() -> String {
    format!(
        r#"
[client]
token = {{ hmac_secret_key = "{KEY}" }}
ping_interval = "300s"
[websocket]
message_size_limit = 131072
[channel.without_namespace]
presence = true
history_size = 100
history_ttl = "300s"
force_positioning = true
allow_subscribe_for_client = true
[http_api]
key = "test"
[cluster]
secret = "{SECRET}"
"#
    )
}

/// The token of a client of which 40 KB are said.
fn large_token(user: usize) -> String {
    let claims = json!({"sub": format!("user-{user}"), "info": {"about": "x".repeat(40_000)}});
    let key = jsonwebtoken::EncodingKey::from_secret(KEY.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).expect("it is signed")
}

/// Waits for a message, or until the client is told that it may have missed something: then it subscribes again.
fn served_or_told(socket: &mut Socket, room: &str, wanted: &str) -> Result<(), String> {
    let deadline = Instant::now() + SETTLED;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match socket.event(left)? {
            Event::Text(text) => {
                for line in text.lines() {
                    let line: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
                    let push = &line["push"];
                    if push["pub"]["data"] == wanted {
                        return Ok(());
                    }
                    if !push["unsubscribe"].is_null() {
                        let again = json!({"id": 3, "subscribe": {"channel": room}});
                        let entered = socket.command(&again)?;
                        return ensure(entered["error"].is_null(), || entered.to_string());
                    }
                }
            }
            other => return Err(format!("the client got {other:?}")),
        }
    }
}

/// 450 clients of 40 KB each on node a, and one on node b, whose link breaks and returns.
fn large_infos(home: usize) {
    let Some(mut world) = World::on_hosts_with(2, &with_tokens()) else { return };
    let room = room_at(home, 1 - home, 2);
    let [a, b] = [0, 1].map(|node| world.cluster.node(node).http);
    let mut crowd = Vec::new();
    world.check("450 clients of which 40 KB are said are on node a", |_| {
        for user in 0..450 {
            crowd.push(enter(a, Some(&large_token(user)), &room)?);
        }
        Ok(())
    });
    let mut listeners = Vec::new();
    world.check("and one is on node b", |_| {
        listeners.push(("b", enter(b, Some(&large_token(450)), &room)?));
        Ok(())
    });
    listeners.extend(crowd.pop().map(|one| ("a", one)));
    for turn in ["before", "after"] {
        for (from, by) in [(a, "a"), (b, "b")] {
            let said = format!("{turn} {by}");
            world.check(&format!("{turn} the link broke, node {by} takes a message"), |_| {
                let body = json!({"channel": room, "data": said, "idempotency_key": said});
                until(SETTLED, || Api::open(from)?.call("publish", &body).map(drop))
            });
            for (on, listener) in &mut listeners {
                world.check(&format!("who is on node {on} gets it, or is told"), |_| {
                    served_or_told(listener, &room, &said)
                });
            }
        }
        world.eventually(
            &format!("both nodes count all, {turn} the link broke"),
            SETTLED,
            |world| {
                for node in [0, 1] {
                    let stats =
                        world.cluster.api(node, "presence_stats", &json!({"channel": room}))?;
                    ensure(stats["num_clients"] == 451, || format!("node {node}: {stats}"))?;
                }
                Ok(())
            },
        );
        if turn == "before" {
            world.play([ResetLinks { node: 1 }, Converge]);
        }
    }
    drop(crowd);
}

#[test]
fn a_room_with_infos_larger_than_a_frame_is_served() {
    large_infos(0);
}

#[test]
fn a_room_with_infos_larger_than_a_frame_is_served_where_few_of_its_clients_are() {
    large_infos(1);
}

#[test]
fn a_broadcast_into_8_000_rooms_does_not_cut_a_narrow_link() {
    let Some(mut world) = World::on_hosts(2) else { return };
    let names = rooms::names("room", 8_000);
    world.play([Cut(Cut::Narrow { a: 0, b: 1 })]);
    world.check(
        "20 KB into 8,000 rooms at once: each is acknowledged, or refused for the moment",
        |world| {
            let mut api = Api::open(world.cluster.node(0).http)?;
            let body = json!({"channels": names, "data": "x".repeat(20_000)});
            let done = api.call("broadcast", &body)?;
            let done = done["responses"].as_array().ok_or_else(|| done.to_string())?;
            let odd = |it: &&Value| it["result"].is_null() && it["error"]["code"] != 100;
            let odd = done.iter().find(odd);
            ensure(odd.is_none() && done.len() == names.len(), || format!("{odd:?}"))
        },
    );
    no_link_was_cut(&mut world, &[0, 1]);
    world.play([Heal]);
    world.check("the nodes still have their link", |world| world.cluster.converged_now());
}
