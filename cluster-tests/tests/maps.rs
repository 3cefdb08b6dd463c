//! Maps: rooms that keep the latest value of each key, for the JavaScript SDK, on several nodes, and on disk.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[client]
insecure = true
[http_api]
key = "test"
[[channel.namespaces]]
name = "map"
subscription_type = "map"
allow_tags_filter = true
allowed_delta_types = ["fossil"]
delta_publish = true
[channel.namespaces.map]
mode = "persistent"
stream_size = 50
min_page_size = 1
[[channel.namespaces]]
name = "brief"
subscription_type = "map"
[channel.namespaces.map]
mode = "recoverable"
key_ttl = "2s"
[[channel.namespaces]]
name = "scores"
subscription_type = "map"
[channel.namespaces.map]
mode = "ephemeral"
key_ttl = "1h"
ordered = true
max_keys = 3
[[channel.namespaces]]
name = "room"
map_clients_presence_channel_prefix = "clients:"
map_users_presence_channel_prefix = "users:"
[[channel.namespaces]]
name = "clients"
subscription_type = "map_clients"
[channel.namespaces.map]
mode = "ephemeral"
key_ttl = "1h"
[[channel.namespaces]]
name = "users"
subscription_type = "map_users"
[channel.namespaces.map]
mode = "ephemeral"
key_ttl = "1h"
"#;

/// All entries of a map, as a node reads them, page by page.
fn entries(world: &World, node: usize, map: &str) -> Result<BTreeMap<String, Value>, String> {
    let (mut entries, mut cursor) = (BTreeMap::new(), String::new());
    loop {
        let read = json!({"channel": map, "limit": 70, "cursor": cursor});
        let page = world.cluster.api(node, "map_read_state", &read)?;
        for entry in page["entries"].as_array().into_iter().flatten() {
            let key = entry["key"].as_str().unwrap_or_default().to_owned();
            let again = entries.insert(key.clone(), entry["data"].clone());
            ensure(again.is_none(), || format!("{key} comes twice"))?;
        }
        match page["cursor"].as_str() {
            Some(next) if !next.is_empty() => cursor = next.to_owned(),
            _ => return Ok(entries),
        }
    }
}

/// The values that a client has of a map.
fn values(world: &mut World, client: &str, map: &str) -> BTreeMap<String, Value> {
    let told = world.clients.call(client, "entries", json!({"room": map})).expect("it has it");
    let told = told["entries"].as_object().cloned().unwrap_or_default();
    told.into_iter().map(|(key, value)| (key, value["data"].clone())).collect()
}

fn put(world: &World, node: usize, map: &str, key: &str, data: Value) -> Value {
    let body = json!({"channel": map, "key": key, "data": data});
    until(REACTION, || world.cluster.api(node, "map_publish", &body)).expect("taken")
}

fn enter(world: &mut World, client: &str, map: &str, options: Value) -> Value {
    let asked = json!({"room": map, "options": options});
    world.clients.call(client, "map", asked).unwrap_or_else(|why| panic!("{client}: {why}"))
}

#[test]
fn all_clients_of_a_map_come_to_the_same_values_whatever_happens_to_its_home() {
    let mut world = World::with(3, CONFIG);
    let map = "map:game";
    for number in 0..130 {
        put(&world, number % 3, map, &format!("seed-{number}"), json!(number));
    }
    let clients = [("a", Json), ("b", Protobuf), ("c", Json)];
    for (node, (client, format)) in clients.into_iter().enumerate() {
        world.play([Connect { client, sdk: Js, format, node }]);
        let delta = if client == "c" { json!({}) } else { json!({"delta": "fossil"}) };
        let mut options = json!({"pageSize": 30});
        options
            .as_object_mut()
            .expect("it is one")
            .extend(delta.as_object().cloned().into_iter().flatten());
        let position = enter(&mut world, client, map, options);
        assert_eq!(position["recoverable"], true);
        assert_eq!(values(&mut world, client, map).len(), 130, "{client}");
    }
    let mut expected = entries(&world, 0, map).expect("read");
    for round in 0..200 {
        let key = format!("seed-{}", round % 7);
        let value = json!({"round": round, "text": "the same again ".repeat(20)});
        let put = json!({"room": map, "key": key, "data": value});
        world.clients.call(["a", "b", "c"][round % 3], "put", put).expect("taken");
        expected.insert(key, value);
    }
    world.clients.call("b", "remove", json!({"room": map, "key": "seed-100"})).expect("removed");
    expected.remove("seed-100");
    // The home is one of them: two of three rounds another node dies, which changes nothing either.
    for (victim, (client, _)) in clients.into_iter().enumerate().take(2) {
        world.play([Kill { node: victim }]);
        let survivor = 2;
        for number in 0..20 {
            let (key, value) = (format!("seed-{number}"), json!({"after": victim}));
            put(&world, survivor, map, &key, value.clone());
            expected.insert(key, value);
        }
        world.eventually("no value is lost", REACTION, |world| {
            let read = entries(world, survivor, map)?;
            ensure(read == expected, || format!("{read:?} is not {expected:?}"))
        });
        world.play([Restart { node: victim }, Converge, TurnTo { client, node: victim }]);
    }
    for (client, _) in clients {
        world.eventually("a client has all of it", REACTION, |world| {
            let values = values(world, client, map);
            ensure(values == expected, || format!("{client}: {values:?} is not {expected:?}"))
        });
    }
    let stats = world.api(1, "map_stats", json!({"channel": map}));
    assert_eq!(stats, json!({"num_keys": 129}));
}

#[test]
fn a_client_that_missed_too_much_loads_all_entries_again() {
    let mut world = World::with(1, CONFIG);
    let map = "map:away";
    world.play([Connect { client: "a", sdk: Js, format: Json, node: 0 }]);
    enter(&mut world, "a", map, json!({}));
    for (missed, recovered) in [(50, true), (51, false), (400, false)] {
        world.clients.call("a", "leave_map", json!({"room": map})).expect("left");
        for number in 0..missed {
            put(&world, 0, map, &format!("k{}", number % 60), json!([missed, number]));
        }
        let sub = json!({"room": map});
        let seen = world.clients.events("a").len();
        world.clients.call("a", "enter_map", sub).expect("back");
        let events = world.clients.events("a");
        let synced = events[seen..].iter().any(|it| it["ev"] == "sync");
        assert_eq!(synced, !recovered, "{missed} missed: {:?}", &events[seen..]);
        world.eventually("it has all of it", REACTION, |world| {
            let expected = entries(world, 0, map)?;
            let values = values(world, "a", map);
            ensure(values == expected, || format!("{values:?} is not {expected:?}"))
        });
    }
}

#[test]
fn puts_say_when_they_are_to_change_nothing() {
    let world = World::with(2, CONFIG);
    let ask = |node: usize, method: &str, body: Value| {
        world.cluster.api_answer(node, method, &body).expect("an answer")
    };
    let change = |node: usize, fields: Value| {
        let mut body = json!({"channel": "map:claims", "key": "k", "data": 1});
        body.as_object_mut().expect("one").extend(fields.as_object().cloned().expect("one"));
        ask(node, "map_publish", body)["result"].clone()
    };
    assert_eq!(change(0, json!({"key_mode": "if_exists"}))["suppress_reason"], "key_not_found");
    let first = change(0, json!({"key_mode": "if_new", "version": 5, "idempotency_key": "i"}));
    assert_eq!((&first["offset"], &first["suppressed"]), (&json!(1), &Value::Null), "{first}");
    assert_eq!(change(1, json!({"idempotency_key": "i"})), first, "it is the same again");
    assert_eq!(change(1, json!({"key_mode": "if_new"}))["suppress_reason"], "key_exists");
    assert_eq!(change(1, json!({"version": 5}))["suppress_reason"], "version");
    assert_eq!(change(0, json!({"version": 6}))["offset"], 2);
    let none = ask(1, "map_remove", json!({"channel": "map:claims", "key": "other"}));
    assert_eq!(none["result"]["suppress_reason"], "key_not_found");
    // What can't be: no key, no map, too many keys; and what is no map's.
    for (method, body, code) in [
        ("map_publish", json!({"channel": "map:a", "key": "", "data": 1}), 107),
        ("map_publish", json!({"channel": "map:a", "key": "k"}), 107),
        ("map_publish", json!({"channel": "room:a", "key": "k", "data": 1}), 107),
        ("map_publish", json!({"channel": "none:a", "key": "k", "data": 1}), 102),
        ("map_read_state", json!({"channel": "room:a"}), 107),
        ("publish", json!({"channel": "map:a", "data": 1}), 108),
        ("history", json!({"channel": "map:a", "limit": 1}), 108),
        (
            "map_read_stream",
            json!({"channel": "map:claims", "since_offset": 1, "since_epoch": "x"}),
            112,
        ),
    ] {
        let answer = ask(1, method, body.clone());
        assert_eq!(answer["error"]["code"], code, "{method} {body}: {answer}");
    }
    for (key, score) in [("ann", 7), ("bob", 9), ("cid", -1), ("dan", 3)] {
        let put = json!({"channel": "scores:a", "key": key, "data": 1, "score": score});
        let answer = ask(0, "map_publish", put);
        assert_eq!(answer["error"]["code"].as_u64(), (key == "dan").then_some(106), "{answer}");
    }
    for (ascending, expected) in [(false, ["bob", "ann", "cid"]), (true, ["cid", "ann", "bob"])] {
        let read = json!({"channel": "scores:a", "limit": -1, "asc": ascending});
        let page = ask(1, "map_read_state", read);
        let keys: Vec<&str> = page["result"]["entries"]
            .as_array()
            .expect("some")
            .iter()
            .filter_map(|it| it["key"].as_str())
            .collect();
        assert_eq!(keys, expected);
    }
    let changes = ask(0, "map_read_stream", json!({"channel": "map:claims", "limit": -1}));
    assert_eq!(changes["result"]["entries"].as_array().map(Vec::len), Some(2), "{changes}");
    ask(0, "map_clear", json!({"channel": "map:claims"}));
    assert_eq!(entries(&world, 1, "map:claims"), Ok(BTreeMap::new()));
}

#[test]
fn entries_expire_unless_they_are_put_again_and_clients_are_told() {
    let mut world = World::with(2, CONFIG);
    world.play([Connect { client: "a", sdk: Js, format: Json, node: 1 }]);
    enter(&mut world, "a", "brief:a", json!({}));
    put(&world, 0, "brief:a", "gone", json!(1));
    put(&world, 0, "brief:a", "kept", json!(1));
    let told = |world: &World, key: &str| {
        let removed =
            |it: &&Value| it["ev"] == "update" && it["key"] == key && it["removed"] == true;
        world.clients.events("a").iter().any(|it| removed(&it))
    };
    world.eventually("one expires", REACTION, |world| {
        put(world, 0, "brief:a", "kept", json!(2));
        ensure(told(world, "gone"), || "it does not".to_owned())
    });
    assert!(!told(&world, "kept"));
    assert_eq!(
        entries(&world, 1, "brief:a").map(|it| it.into_keys().collect()),
        Ok(vec!["kept".to_owned()])
    );
}

#[test]
fn who_is_in_a_room_is_a_map_as_well() {
    let mut world = World::with(2, CONFIG);
    for (client, node) in [("a", 0), ("b", 1), ("watcher", 1)] {
        world.play([Connect { client, sdk: Js, format: Json, node }]);
    }
    enter(&mut world, "watcher", "clients:room:x", json!({"presence": "clients"}));
    world.play([
        Subscribe { client: "a", room: "room:x" },
        Subscribe { client: "b", room: "room:x" },
    ]);
    let present = |world: &mut World, count: usize| {
        let there = values(world, "watcher", "clients:room:x").len();
        ensure(there == count, || format!("{there} are there"))
    };
    world.eventually("both are there", REACTION, |world| present(world, 2));
    world.play([Unsubscribe { client: "a", room: "room:x" }]);
    world.eventually("one has left", REACTION, |world| present(world, 1));
    world.clients.call("b", "disconnect", json!({})).expect("gone");
    world.eventually("both have", REACTION, |world| present(world, 0));
    let own = json!({"channel": "clients:room:x", "key": "k"});
    let refused = world.clients.call(
        "watcher",
        "put",
        json!({"room": "clients:room:x", "key": "k", "data": 1}),
    );
    assert!(refused.is_err(), "nobody can say that someone is there: {own}");
}

#[test]
fn a_map_on_disk_outlives_all_nodes_and_takes_no_more_than_its_entries() {
    let config = CONFIG.replacen("mode = \"persistent\"", "mode = \"persistent\"\n", 1);
    let config = config.replacen("name = \"map\"", "name = \"map\"\nlog = \"disk\"", 1);
    let mut world = World::with(3, &config);
    let map = "map:kept";
    let mut expected = BTreeMap::new();
    for number in 0..1_500_u64 {
        // Some are put once, and most of what is put is put again soon.
        let key =
            if number < 200 { format!("old-{number}") } else { format!("new-{}", number % 40) };
        put(&world, (number % 3) as usize, map, &key, json!(number));
        expected.insert(key, json!(number));
    }
    for round in 0..2 {
        (0..3).for_each(|node| world.cluster.node_mut(node).kill());
        world.check("all start again", |world| world.cluster.restart_all());
        for node in 0..3 {
            world.eventually("no value is lost", Duration::from_secs(30), |world| {
                let read = entries(world, node, map)?;
                ensure(read == expected, || format!("{} of {} values", read.len(), expected.len()))
            });
        }
        put(&world, round, map, "old-7", json!({"round": round}));
        expected.insert("old-7".to_owned(), json!({"round": round}));
    }
}
