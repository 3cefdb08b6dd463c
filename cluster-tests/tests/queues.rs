//! Groups of consumers: with the official SDKs and by the server API, on several nodes, through kills of nodes and of
//! the whole cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cluster_tests::paths;
use cluster_tests::rooms::Api;
use cluster_tests::sdk::Format::{self, Json, Protobuf};
use cluster_tests::sdk::Sdk::{self, Go, Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::world::{REACTION, World};
use cluster_tests::writer::{Acked, Writer};
use cluster_tests::ws::Socket;
use serde_json::{Value, json};

/// Rooms with groups: `slow:` ones give messages back soon and give them up in the end, `held:` ones give them back to
/// nobody in the time of a test, `small:` ones are soon full.
const CONFIG: &str = r#"
[client]
insecure = true
[http_api]
key = "test"
[channel.without_namespace]
history_size = 100000
history_ttl = "300s"
[channel.without_namespace.queue]
groups = ["*"]
max_groups = 20
ack_wait = "10s"
[[channel.namespaces]]
name = "slow"
history_size = 100000
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["one", "other"]
ack_wait = "500ms"
max_deliveries = 2
dead_letter = "dead"
[[channel.namespaces]]
name = "held"
history_size = 100000
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["*"]
max_groups = 20
ack_wait = "60s"
[[channel.namespaces]]
name = "small"
history_size = 10
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["one"]
[[channel.namespaces]]
name = "many"
history_size = 100
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["*"]
max_groups = 10000
"#;

/// Each of the SDKs in each of their formats.
const ALL: [(&str, Sdk, Format); 6] = [
    ("js", Js, Json),
    ("js-pb", Js, Protobuf),
    ("py", Python, Json),
    ("py-pb", Python, Protobuf),
    ("go", Go, Json),
    ("go-pb", Go, Protobuf),
];

/// Where there is no Go, the others are enough.
fn is_there(sdk: Sdk) -> bool {
    sdk != Go || paths::go_driver().exists()
}

fn on_disk() -> String {
    CONFIG.replacen("history_size = 100000", "log = \"disk\"\nhistory_size = 100000", 1)
}

fn consume(world: &mut World, client: &str, room: &str, group: &str, prefetch: u32) {
    world.check(&format!("{client} consumes {group} of {room}"), |world| {
        let fields = json!({"room": room, "group": group, "prefetch": prefetch});
        let done = world.clients.call(client, "consume", fields);
        done.map(drop).map_err(|refusal| refusal.to_string())
    });
}

/// The messages that a client has settled, by room and offset.
fn settled(world: &World, client: &str) -> Vec<(String, u64)> {
    let events = world.clients.events(client).into_iter();
    let own = events.filter(|it| it["ev"] == "settled" && it["result"] == "ok");
    own.map(|it| (text(&it["room"]), offset(&it["message"]))).collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The offset in a message's name.
fn offset(message: &Value) -> u64 {
    let text = message.as_str().unwrap_or_default();
    text.rsplit_once('-').and_then(|(_, it)| it.parse().ok()).unwrap_or_default()
}

fn all_settled(world: &World, clients: &[&str]) -> BTreeSet<(String, u64)> {
    clients.iter().flat_map(|it| settled(world, it)).collect()
}

/// The same with those whose acknowledgement was not answered: it may hold all the same.
fn all_spoken_of(world: &World, clients: &[&str]) -> BTreeSet<(String, u64)> {
    let events = clients.iter().flat_map(|it| world.clients.events(it));
    let unsure = events.filter(|it| it["ev"] == "unsettled");
    let unsure = unsure.map(|it| (text(&it["room"]), offset(&it["message"])));
    all_settled(world, clients).into_iter().chain(unsure).collect()
}

/// Whether the groups of all rooms have nothing left to do.
fn all_done(world: &World, node: usize) -> Result<(), String> {
    for number in 0..ROOMS {
        let body = json!({"channel": room(number), "group": "workers"});
        let facts = world.cluster.api(node, "queue_info", &body)?;
        let done = facts["settled"] == facts["top"] && facts["leased"] == 0 && facts["parked"] == 0;
        ensure(done, || format!("{}: {facts}", room(number)))?;
    }
    Ok(())
}

/// Whether everything that was acknowledged to its publisher was settled by a consumer.
fn every_one(acked: &[Acked], settled: &BTreeSet<(String, u64)>) -> Result<(), String> {
    let place = |it: &Acked| (it.room.clone(), it.position["offset"].as_u64().unwrap_or_default());
    let missing: Vec<_> = acked.iter().map(place).filter(|it| !settled.contains(it)).collect();
    ensure(missing.is_empty(), || {
        let some = &missing[..missing.len().min(5)];
        format!("{} of {} are not settled: {some:?} …", missing.len(), acked.len())
    })
}

/// No message comes again to a consumer of one driver once one of them was told that it is settled.
fn none_again(world: &World, clients: &[&str]) -> Result<(), String> {
    let mut done = BTreeSet::new();
    let mut again = Vec::new();
    for event in world.clients.all_events(clients[0]) {
        let tag = &event["tags"]["roomcast-message"];
        if event["ev"] == "settled" && event["result"] == "ok" {
            done.insert((text(&event["room"]), text(&event["message"])));
        } else if event["ev"] == "pub" && done.contains(&(text(&event["room"]), text(tag))) {
            again.push(event.clone());
        }
    }
    ensure(again.is_empty(), || format!("{} came again: {}", again.len(), again[0]))
}

fn facts(world: &mut World, node: usize, room: &str, group: &str) -> Value {
    world.api(node, "queue_info", json!({"channel": room, "group": group}))
}

#[test]
fn consumers_of_every_sdk_share_the_messages() {
    let mut world = World::with(3, CONFIG);
    let all = ALL.into_iter().filter(|(_, sdk, _)| is_there(*sdk));
    let all: Vec<_> = all.collect();
    for (index, (client, sdk, format)) in all.iter().copied().enumerate() {
        world.play([Connect { client, sdk, format, node: index % 3 }]);
        consume(&mut world, client, "jobs", "mailer", 4);
    }
    let count = 400;
    for number in 0..count {
        world.api(number % 3, "publish", json!({"channel": "jobs", "data": number}));
    }
    let clients: Vec<&str> = all.iter().map(|(client, _, _)| *client).collect();
    world.eventually("all are settled", REACTION, |world| {
        let settled = all_settled(world, &clients).len();
        ensure(settled == count, || format!("{settled} are"))
    });
    for client in clients.iter().copied() {
        let own = settled(&world, client).len();
        world.check(&format!("{client} has settled some"), |_| {
            ensure(own > 4, || format!("only {own}"))
        });
    }
    let each: usize = clients.iter().map(|it| settled(&world, it).len()).sum();
    assert_eq!(each, count, "each once");
    let facts = facts(&mut world, 1, "jobs", "mailer");
    assert_eq!((&facts["settled"], &facts["waiting"]), (&json!(count), &json!(0)));
    assert_eq!(facts["consumers"].as_array().map(Vec::len), Some(all.len()));
}

#[test]
fn groups_of_one_room_are_independent_and_subscribers_get_everything() {
    let mut world = World::with(2, CONFIG);
    for (client, node) in [("a", 0), ("b", 1), ("c", 0)] {
        world.play([Connect { client, sdk: Js, format: Json, node }]);
    }
    consume(&mut world, "a", "jobs", "one", 4);
    consume(&mut world, "b", "jobs", "other", 4);
    world.play([Subscribe { client: "c", room: "jobs" }]);
    for number in 0..50 {
        world.api(0, "publish", json!({"channel": "jobs", "data": number}));
    }
    for client in ["a", "b"] {
        world.eventually(&format!("{client} has settled all"), REACTION, |world| {
            let settled = settled(world, client).len();
            ensure(settled == 50, || format!("{settled}"))
        });
    }
    world.eventually("c has got all", REACTION, |world| {
        let got = world.clients.count("c", "jobs");
        ensure(got == 50, || format!("{got}"))
    });
}

/// Rooms of the tests that kill nodes.
const ROOMS: usize = 8;

fn room(number: usize) -> String {
    format!("jobs-{}", number % ROOMS)
}

/// Three nodes and four consumers, each of all rooms.
fn at_work(config: &str, nodes: &[usize]) -> (World, Vec<&'static str>) {
    let mut world = World::with(3, config);
    let clients = vec!["c1", "c2", "c3", "c4"];
    for (index, client) in clients.iter().enumerate() {
        let node = nodes[index % nodes.len()];
        world.play([Connect { client, sdk: Js, format: Json, node }]);
        for number in 0..ROOMS {
            consume(&mut world, client, &room(number), "workers", 8);
        }
    }
    (world, clients)
}

#[test]
fn a_home_that_is_killed_loses_no_message_and_gives_none_again_that_was_settled() {
    let (mut world, clients) = at_work(CONFIG, &[1, 2]);
    let writers: Vec<Writer> = [1, 2]
        .map(|node| Writer::start(&format!("w{node}"), world.cluster.node(node).http, room))
        .into();
    for _ in 0..2 {
        hold(Duration::from_secs(2));
        world.cluster.node_mut(0).kill();
        hold(Duration::from_secs(2));
        world.check("the node comes back", |world| world.cluster.restart(0));
    }
    hold(Duration::from_secs(1));
    let acked: Vec<Acked> = writers.into_iter().flat_map(|it| it.finish().acked).collect();
    assert!(acked.len() > 50, "{}", acked.len());
    println!("{} messages were published", acked.len());
    world.eventually("all are settled", REACTION * 2, |world| {
        all_done(world, 1)?;
        every_one(&acked, &all_spoken_of(world, &clients))
    });
    world.check("none comes again that was settled", |world| none_again(world, &clients));
}

#[test]
fn a_queue_on_disk_outlives_all_nodes() {
    let (mut world, clients) = at_work(&on_disk(), &[0, 1, 2]);
    let mut acked = Vec::new();
    for _ in 0..2 {
        let writers = [0, 1, 2].map(|node| {
            let name = format!("w{node}-{}", acked.len());
            Writer::start(&name, world.cluster.node(node).http, room)
        });
        hold(Duration::from_secs(3));
        (0..3).for_each(|node| world.cluster.node_mut(node).kill());
        acked.extend(writers.into_iter().flat_map(|it| it.finish().acked));
        world.check("all nodes start again", |world| world.cluster.restart_all());
        // They have other ports now.
        for (node, client) in clients.iter().enumerate() {
            let url = world.cluster.node(node % 3).ws_url();
            world.clients.call(client, "move", json!({"url": url})).expect("moved");
        }
    }
    assert!(acked.len() > 100, "{}", acked.len());
    println!("{} messages were published", acked.len());
    world.eventually("all are settled", REACTION * 4, |world| {
        all_done(world, 1)?;
        every_one(&acked, &all_spoken_of(world, &clients))
    });
    world.check("none comes again that was settled", |world| none_again(world, &clients));
}

#[test]
fn what_a_consumer_had_that_is_killed_is_soon_given_to_another() {
    let mut world = World::with(2, CONFIG);
    world.play([Connect { client: "dies", sdk: Js, format: Json, node: 0 }]);
    let options = json!({"data": {"group": "one", "prefetch": 1000}});
    world.clients.subscribe_with("dies", "held:jobs", options).expect("subscribed");
    for number in 0..1_000 {
        world.api(1, "publish", json!({"channel": "held:jobs", "data": number}));
    }
    world.eventually("it has 1,000 messages", REACTION, |world| {
        let got = world.clients.count("dies", "held:jobs");
        ensure(got == 1_000, || format!("{got}"))
    });
    world.play([Connect { client: "lives", sdk: Js, format: Json, node: 1 }]);
    consume(&mut world, "lives", "held:jobs", "one", 100);
    world.clients.call("dies", "drop", json!({"offline": true})).expect("cut");
    let cut = Instant::now();
    world.eventually("another has settled all", REACTION, |world| {
        let settled = settled(world, "lives").len();
        ensure(settled == 1_000, || format!("{settled}"))
    });
    let took = cut.elapsed();
    println!(
        "1,000 messages of a consumer that was cut off were settled by another {took:?} later"
    );
    assert!(took < REACTION * 2, "{took:?}: that is near to ack_wait");
}

struct Caller(Api);

impl Caller {
    fn call(&mut self, method: &str, body: Value) -> Value {
        self.0.call(method, &body).unwrap_or_else(|why| panic!("{method} {body}: {why}"))
    }

    fn pull(&mut self, room: &str, limit: u32, wait: f64) -> Vec<Value> {
        let body = json!({"channel": room, "group": "one", "limit": limit, "wait": wait});
        self.call("queue_pull", body)["messages"].as_array().cloned().unwrap_or_default()
    }

    fn say(&mut self, word: &str, room: &str, messages: &[Value]) -> Vec<String> {
        let deliveries: Vec<&Value> =
            messages.iter().map(|it| &it["tags"]["roomcast-delivery"]).collect();
        let done = self.call(word, json!({"channel": room, "deliveries": deliveries}));
        done["results"].as_array().cloned().unwrap_or_default().iter().map(text).collect()
    }
}

fn caller(world: &World, node: usize) -> Caller {
    Caller(Api::open(world.cluster.node(node).http).expect("it answers"))
}

fn data(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|it| it["data"].clone()).collect()
}

#[test]
fn the_api_consumes_without_a_socket() {
    let world = World::with(2, CONFIG);
    let (mut one, mut other) = (caller(&world, 0), caller(&world, 1));
    for number in 1..=5 {
        one.call("publish", json!({"channel": "slow:a", "data": number}));
    }
    let first = other.pull("slow:a", 2, 1.0);
    assert_eq!(data(&first), [1, 2]);
    let second = one.pull("slow:a", 10, 1.0);
    assert_eq!(data(&second), [3, 4, 5]);
    assert_eq!(other.say("queue_ack", "slow:a", &first), ["ok", "ok"]);
    assert_eq!(other.say("queue_ack", "slow:a", &first), ["stale", "stale"]);
    assert_eq!(one.say("queue_reject", "slow:a", &second[..1]), ["ok"]);
    assert_eq!(one.say("queue_ack", "slow:a", &second[1..2]), ["ok"]);
    // The last is not settled in time, comes once more, and is a dead letter then.
    let again = other.pull("slow:a", 10, 5.0);
    assert_eq!(
        (data(&again), &again[0]["tags"]["roomcast-attempt"]),
        (vec![json!(5)], &json!("2"))
    );
    assert_eq!(again[0]["tags"]["roomcast-message"], second[2]["tags"]["roomcast-message"]);
    let letters = until(REACTION, || {
        let letters = one.0.call("history", &json!({"channel": "dead", "limit": 10}))?;
        let letters = letters["publications"].as_array().cloned().unwrap_or_default();
        ensure(letters.len() == 2, || format!("{letters:?}")).map(|()| letters)
    });
    let letters = letters.expect("two dead letters");
    let told: Vec<(Value, Value)> = letters
        .iter()
        .map(|it| (it["data"].clone(), it["tags"]["roomcast-dead-reason"].clone()))
        .collect();
    assert_eq!(told, [(json!(3), json!("rejected")), (json!(5), json!("max_deliveries"))]);
    let facts = one.call("queue_info", json!({"channel": "slow:a", "group": "one"}));
    assert_eq!((&facts["settled"], &facts["leased"]), (&json!(5), &json!(0)));
    // The other group has seen nothing of that.
    let body = json!({"channel": "slow:a", "group": "other", "limit": 10});
    let all = one.call("queue_pull", body)["messages"].as_array().cloned().unwrap_or_default();
    assert_eq!(data(&all), [1, 2, 3, 4, 5]);
}

#[test]
fn a_group_is_moved_purged_and_removed_by_the_api() {
    let world = World::with(2, CONFIG);
    let mut api = caller(&world, 1);
    for number in 1..=6 {
        api.call("publish", json!({"channel": "jobs", "data": number}));
    }
    let group = |more: Value| {
        let mut body = json!({"channel": "jobs", "group": "one"});
        let more = more.as_object().cloned().unwrap_or_default();
        more.into_iter().for_each(|(key, value)| body[key] = value);
        body
    };
    assert_eq!(data(&api.pull("jobs", 2, 0.0)), [1, 2]);
    api.call("queue_seek", group(json!({"offset": 5})));
    assert_eq!(data(&api.pull("jobs", 9, 0.0)), [5, 6]);
    api.call("queue_seek", group(json!({"to": "first"})));
    assert_eq!(data(&api.pull("jobs", 3, 0.0)), [1, 2, 3]);
    api.call("queue_seek", group(json!({"to": "last"})));
    assert!(api.pull("jobs", 3, 0.0).is_empty());
    api.call("queue_seek", group(json!({"age": "1h"})));
    assert_eq!(api.pull("jobs", 9, 0.0).len(), 6);
    api.call("queue_purge", group(json!({})));
    assert_eq!(api.call("queue_info", group(json!({})))["settled"], 6);
    api.call("queue_remove", group(json!({})));
    assert_eq!(data(&api.pull("jobs", 1, 0.0)), [1], "a new group begins with the first");
    for wrong in [json!({"channel": "slow:a", "group": "none"}), json!({"channel": "jobs"})] {
        let why = api.0.call("queue_info", &wrong).expect_err("there is no such group");
        assert!(why.contains("107"), "{why}");
    }
}

#[test]
fn a_consumer_that_is_there_before_the_room_gets_its_first_message() {
    let mut world = World::with(1, CONFIG);
    world.play([Connect { client: "early", sdk: Js, format: Json, node: 0 }]);
    for room in ["new-1", "new-2", "new-3"] {
        consume(&mut world, "early", room, "one", 4);
        world.api(0, "publish", json!({"channel": room, "data": 1}));
        world.eventually(&format!("it has settled that of {room}"), REACTION, |world| {
            let settled = settled(world, "early");
            ensure(settled.contains(&(room.to_owned(), 1)), || format!("{settled:?}"))
        });
    }
}

#[test]
fn a_group_that_goes_back_after_a_takeover_gives_messages_under_their_old_names() {
    let mut world = World::with(2, CONFIG);
    let names = |world: &World, node: usize| -> Vec<String> {
        let pulled = caller(world, node).pull("jobs", 9, 5.0);
        pulled.iter().map(|it| text(&it["tags"]["roomcast-message"])).collect()
    };
    let epoch = |world: &mut World, node: usize| {
        world.api(node, "history", json!({"channel": "jobs"}))["epoch"].clone()
    };
    for number in 1..=3 {
        world.api(0, "publish", json!({"channel": "jobs", "data": number}));
    }
    let (first, before) = (names(&world, 0), epoch(&mut world, 0));
    assert_eq!(first.len(), 3);
    // One of them is the room's home.
    for node in [0, 1] {
        world.play([Kill { node }, Converge, Restart { node }, Converge]);
    }
    assert_ne!(epoch(&mut world, 0), before, "another home goes on");
    let back = json!({"channel": "jobs", "group": "one", "to": "first"});
    world.api(0, "queue_seek", back);
    assert_eq!(names(&world, 1), first);
}

#[test]
fn messages_are_given_when_they_are_due_and_not_when_they_are_over() {
    let world = World::with(2, CONFIG);
    let mut api = caller(&world, 0);
    let began = Instant::now();
    api.call("publish", json!({"channel": "jobs", "data": "late", "delay": 1.2}));
    api.call("publish", json!({"channel": "jobs", "data": "over", "ttl": "100ms"}));
    api.call("publish", json!({"channel": "jobs", "data": "now"}));
    hold(Duration::from_millis(200));
    assert_eq!(data(&api.pull("jobs", 9, 0.0)), ["now"]);
    let late = api.pull("jobs", 9, 10.0);
    let took = began.elapsed();
    assert_eq!(data(&late), ["late"]);
    assert_eq!(late[0]["tags"].get("roomcast-delay"), None);
    let early = Duration::from_millis(1_190);
    // And not when the call would have ended without it.
    assert!((early..Duration::from_secs(5)).contains(&took), "{took:?}");
}

#[test]
fn a_full_queue_refuses_until_something_is_settled() {
    let world = World::with(2, CONFIG);
    let mut api = caller(&world, 0);
    api.call("publish", json!({"channel": "small:a", "data": 0}));
    let first = api.pull("small:a", 1, 1.0);
    for number in 1..10 {
        api.call("publish", json!({"channel": "small:a", "data": number}));
    }
    let body = json!({"channel": "small:a", "data": 10});
    let why = api.0.call("publish", &body).expect_err("it is full");
    assert!(why.contains("111"), "{why}");
    assert_eq!(api.say("queue_ack", "small:a", &first), ["ok"]);
    api.call("publish", body);
    assert_eq!(data(&api.pull("small:a", 10, 1.0)).len(), 10, "none was lost");
    // A group that is there no more holds nothing up, and does not come back by itself.
    api.call("queue_remove", json!({"channel": "small:a", "group": "one"}));
    for number in 11..40 {
        api.call("publish", json!({"channel": "small:a", "data": number}));
    }
    assert_eq!(data(&api.pull("small:a", 1, 1.0)), [30], "a new group begins with what is kept");
}

#[test]
fn those_who_consume_a_group_that_is_removed_are_told_and_it_holds_nothing_up() {
    let mut world = World::with(2, CONFIG);
    let names = ["here", "there"];
    for (node, client) in names.into_iter().enumerate() {
        world.play([Connect { client, sdk: Js, format: Json, node }]);
        consume(&mut world, client, "small:a", "one", 4);
    }
    let mut api = caller(&world, 0);
    api.call("queue_remove", json!({"channel": "small:a", "group": "one"}));
    world.eventually("both have heard of it", REACTION, |world| {
        let hears = |it: &&str| {
            let events = world.clients.events(it);
            events.iter().any(|it| it["ev"] == "unsubscribed" && it["code"] == 2000)
        };
        ensure(names.iter().all(hears), || "one has not".into())
    });
    // Others would be refused, for as long as the group has not settled what they would push out.
    for number in 0..30 {
        api.call("publish", json!({"channel": "small:a", "data": number}));
    }
    consume(&mut world, "there", "small:a", "one", 4);
    world.eventually("whoever comes after that begins it anew", REACTION, |world| {
        let settled = settled(world, "there").len();
        ensure(settled == 10, || format!("{settled} are settled"))
    });
    assert_eq!(settled(&world, "here"), []);
}

#[test]
fn hostile_consumers_harm_only_themselves() {
    let mut world = World::with(2, CONFIG);
    for (client, node) in [("greedy", 0), ("good", 1)] {
        world.play([Connect { client, sdk: Js, format: Json, node }]);
    }
    let data = |prefetch: Value| json!({"data": {"group": "one", "prefetch": prefetch}});
    world
        .clients
        .subscribe_with("greedy", "held:jobs", data(json!(18_446_744_073_709_551_615_u64)))
        .expect("as many as there may be");
    for number in 0..1_500 {
        world.api(0, "publish", json!({"channel": "held:jobs", "data": number}));
    }
    consume(&mut world, "good", "held:jobs", "one", 10);
    world.eventually(
        "the greedy one has as many as it may, and the other the rest",
        REACTION,
        |world| {
            let (greedy, good) =
                (world.clients.count("greedy", "held:jobs"), settled(world, "good").len());
            ensure((greedy, good) == (1_000, 500), || format!("{greedy} and {good}"))
        },
    );
    // Deliveries of others, and made up ones, settle nothing.
    let made_up: Vec<String> = (0..1_000).map(|it| format!("{it:x}.1.{it:x}.one")).collect();
    for _ in 0..20 {
        let data = json!({"channel": "held:jobs", "deliveries": made_up});
        let ack = json!({"method": "queue.ack", "data": data});
        let answer = world.clients.call("good", "rpc", ack).expect("answered");
        let results = answer["data"]["results"].as_array().cloned().unwrap_or_default();
        assert!(results.iter().all(|it| it == "stale"), "{results:?}");
    }
    assert_eq!(facts(&mut world, 0, "held:jobs", "one")["leased"], 1_000);
    for (deliveries, code) in [(json!([]), 107), (json!(["x"]), 107), (json!(["1.1.1.two"]), 107)] {
        let data = json!({"channel": "held:jobs", "deliveries": deliveries});
        let ack = json!({"method": "queue.ack", "data": data});
        let refused = world.clients.call("good", "rpc", ack).expect_err("no deliveries of it");
        assert_eq!(refused.code, code, "{refused}");
    }
    // No more groups than there may be.
    let mut api = caller(&world, 1);
    let mut refused = BTreeMap::<String, usize>::new();
    for number in 0..60 {
        let body = json!({"channel": "held:jobs", "group": format!("g{number}"), "limit": 1});
        if let Err(why) = api.0.call("queue_pull", &body) {
            *refused.entry(why).or_default() += 1;
        }
    }
    assert_eq!(refused.values().sum::<usize>(), 60 - 19, "{refused:?}");
}

/// Shorter than this, nobody notices that a node did one thing only.
const UNNOTICED: f64 = 0.25;

#[test]
fn a_million_foreign_acks_and_ten_thousand_groups_do_no_harm() {
    // Who has to wait for the machine is slow, too, but hardly each time.
    let mut tries = Vec::new();
    let harmless = (0..3).any(|_| {
        tries.push(longest_input_of_a_million_foreign_acks_and_ten_thousand_groups());
        tries.last() < Some(&UNNOTICED)
    });
    assert!(harmless, "one input kept all rooms waiting, each time, for {tries:?} s");
}

/// In seconds.
fn longest_input_of_a_million_foreign_acks_and_ten_thousand_groups() -> f64 {
    let world = World::with(1, CONFIG);
    let api = |method: &str, body: Value| world.cluster.api(0, method, &body).expect(method);
    let (mut socket, _) = Socket::upgrade(world.cluster.node(0).http, "/connection/websocket", &[])
        .expect("connected");
    socket.connect().expect("connected");
    let data = json!({"group": "one", "prefetch": 10});
    let subscribe = json!({"id": 2, "subscribe": {"channel": "held:jobs", "data": data}});
    socket.command(&subscribe).expect("subscribed");
    let pull = json!({"channel": "held:jobs", "group": "one", "limit": 100});
    // The consumer gets some, a backend the others, which are not the consumer's to acknowledge.
    for number in 0..50 {
        api("publish", json!({"channel": "held:jobs", "data": number}));
    }
    let pulled = api("queue_pull", pull)["messages"].as_array().cloned().unwrap_or_default();
    assert!(pulled.len() >= 40, "{} are with the backend", pulled.len());
    let foreign = pulled.iter().map(|it| it["tags"]["roomcast-delivery"].clone());
    let made_up = (100..1_050).map(|it| json!(format!("{it:x}.1.{it:x}.one")));
    let all: Vec<Value> = foreign.chain(made_up).cycle().take(1_000).collect();
    for id in 3..1_003 {
        let data = json!({"channel": "held:jobs", "deliveries": all});
        let ack = json!({"id": id, "rpc": {"method": "queue.ack", "data": data}});
        let reply = socket.command(&ack).expect("answered");
        let results = reply["rpc"]["data"]["results"].as_array().cloned().unwrap_or_default();
        assert!(results.len() == 1_000 && results.iter().all(|it| it == "stale"), "{reply}");
    }
    let info = || api("queue_info", json!({"channel": "held:jobs", "group": "one"}));
    assert_eq!((&info()["settled"], &info()["leased"]), (&json!(0), &json!(50)));
    // Groups that anyone may name, up to as many as there may be; then publications reach all of them.
    for number in (0..10_000).step_by(500) {
        let seek = |it: i32| json!({"queue_seek": {"channel": "many:a", "group": format!("g{it}"), "to": "first"}});
        let commands: Vec<Value> = (number..number + 500).map(seek).collect();
        let answer = world.cluster.api_answer(0, "batch", &json!({ "commands": commands }));
        let replies = answer.expect("answered")["replies"].as_array().cloned().unwrap_or_default();
        assert_eq!(replies.len(), 500);
        let failed = replies.iter().find(|it| !it["error"].is_null());
        assert_eq!(failed, None);
    }
    let more = json!({"channel": "many:a", "group": "more", "to": "first"});
    let refused = world.cluster.api(0, "queue_seek", &more).expect_err("one too many");
    assert!(refused.contains("\"code\":106"), "{refused}");
    for number in 0..20 {
        api("publish", json!({"channel": "many:a", "data": number}));
        api("publish", json!({"channel": "held:jobs", "data": number}));
    }
    for group in ["g0", "g4999", "g9999"] {
        let pull = json!({"channel": "many:a", "group": group, "limit": 100, "wait": 5});
        let messages = api("queue_pull", pull)["messages"].as_array().map(Vec::len);
        assert_eq!(messages, Some(20), "{group}");
    }
    let longest = world.cluster.metric(0, "roomcast_registry_longest_input_seconds");
    longest.expect("it is there")
}

#[test]
fn a_consumer_that_pulls_gets_what_it_asks_for_on_any_node() {
    let mut world = World::with(3, CONFIG);
    let all = [("js", Js, 0), ("py", Python, 1), ("go", Go, 2)].into_iter();
    let mut clients = Vec::new();
    for (client, sdk, node) in all.filter(|(_, sdk, _)| is_there(*sdk)) {
        world.play([Connect { client, sdk, format: Json, node }]);
        consume(&mut world, client, "pulled", "one", 0);
        clients.push(client);
    }
    let count = 3 * clients.len() as u64;
    for number in 0..count {
        world.api(0, "publish", json!({"channel": "pulled", "data": number}));
    }
    let call = |world: &mut World, client: &str, method: &str, data: Value| {
        let data = json!({"method": format!("queue.{method}"), "data": data});
        world.clients.call(client, "rpc", data).map(|it| it["data"].clone())
    };
    let mut all = Vec::new();
    for client in clients.iter().copied() {
        let pull = json!({"channel": "pulled", "limit": 3, "wait": 1});
        let pulled = call(&mut world, client, "pull", pull).expect("pulled");
        let messages = pulled["messages"].as_array().cloned().unwrap_or_default();
        assert_eq!(messages.len(), 3, "{client}: {pulled}");
        all.extend(messages.iter().map(|it| it["data"].as_u64().expect("a number")));
        let tags = messages.iter().map(|it| it["tags"]["roomcast-delivery"].clone());
        let ack = json!({"channel": "pulled", "deliveries": tags.collect::<Vec<_>>()});
        // What others have is not theirs to settle.
        let other = if client == "js" { "py" } else { "js" };
        let stale = call(&mut world, other, "ack", ack.clone()).expect("answered");
        assert_eq!(stale["results"], json!(["stale", "stale", "stale"]), "{other}");
        let done = call(&mut world, client, "ack", ack).expect("answered");
        assert_eq!(done["results"], json!(["ok", "ok", "ok"]), "{client}");
    }
    all.sort_unstable();
    assert_eq!(all, (0..count).collect::<Vec<_>>());
    let nothing = call(&mut world, "js", "pull", json!({"channel": "pulled"})).expect("answered");
    assert_eq!(nothing["messages"], json!([]));
    assert_eq!(facts(&mut world, 1, "pulled", "one")["settled"], count);
    // None was pushed.
    assert!(clients.iter().all(|it| world.clients.count(it, "pulled") == 0));
    let elsewhere = call(&mut world, "js", "pull", json!({"channel": "other"}));
    assert_eq!(elsewhere.expect_err("it is not there").code, 103);
}

/// Messages in memory of a room on disk: so many, and no more.
const RING: usize = 1_000;

#[test]
fn a_group_begins_and_goes_back_by_age_with_what_only_the_disk_has() {
    let mut world = World::with(2, &on_disk());
    let publish = |world: &World, count: usize| {
        let mut api = caller(world, 0);
        let one = |number: usize| json!({"publish": {"channel": "jobs", "data": number}});
        for from in (0..count).step_by(250) {
            let commands: Vec<Value> = (from..count.min(from + 250)).map(one).collect();
            api.0.answer("batch", &json!({ "commands": commands })).expect("published");
        }
    };
    publish(&world, RING);
    let older = Instant::now();
    hold(Duration::from_secs(6));
    let younger = Instant::now();
    publish(&world, RING * 2);
    // Half of the time in which nothing was published is older than that, and half younger.
    let age = || (older.elapsed() + younger.elapsed()).as_secs_f64() / 2.0;
    let first = |world: &World, node: usize, group: &str| -> u64 {
        let body = json!({"channel": "jobs", "group": group, "limit": 1, "wait": 5});
        let pulled = world.cluster.api(node, "queue_pull", &body).expect("pulled");
        offset(&pulled["messages"][0]["tags"]["roomcast-message"])
    };
    let seek = |world: &mut World, node: usize, group: &str, age: f64| {
        let body = json!({"channel": "jobs", "group": group, "age": age});
        world.api(node, "queue_seek", body);
    };
    let second = RING as u64 + 1;
    for (node, group) in [(0, "a"), (1, "b")] {
        seek(&mut world, node, group, age());
        assert_eq!(first(&world, node, group), second, "{group}");
    }
    // One that has got on is taken back.
    world.api(0, "queue_purge", json!({"channel": "jobs", "group": "a"}));
    seek(&mut world, 1, "a", age());
    assert_eq!(first(&world, 0, "a"), second);
    // Each node is killed, so that another home looks for it in what it has on its disk.
    for node in [0, 1] {
        world.play([Kill { node }, Converge]);
        seek(&mut world, 1 - node, "a", age());
        assert_eq!(first(&world, 1 - node, "a"), second);
        world.play([Restart { node }, Converge]);
    }
    // What was published before the nodes were there has its age all the same.
    (0..2).for_each(|node| world.cluster.node_mut(node).kill());
    world.check("all nodes start again", |world| world.cluster.restart_all());
    world.play([Converge]);
    seek(&mut world, 0, "new", age());
    assert_eq!(first(&world, 1, "new"), second);
    seek(&mut world, 0, "new", 3_600.0);
    assert_eq!(first(&world, 1, "new"), 1);
}
