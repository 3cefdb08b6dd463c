//! What rooms do with their streams: repeats, versions, filters, deltas, and recovery, with the official SDKs
//! on several nodes.

use cluster_tests::sdk::Format::{self, Json, Protobuf};
use cluster_tests::sdk::Sdk::{self, Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

/// Rooms that allow filters and deltas: `plain:` ones keep nothing, `cache:` ones recover the newest.
const CONFIG: &str = r#"
[client]
insecure = true
[channel.without_namespace]
history_size = 1000
history_ttl = "300s"
force_recovery = true
allow_tags_filter = true
allowed_delta_types = ["fossil"]
[[channel.namespaces]]
name = "plain"
allow_tags_filter = true
allowed_delta_types = ["fossil"]
delta_publish = true
[[channel.namespaces]]
name = "cache"
history_size = 1000
history_ttl = "300s"
force_recovery = true
force_recovery_mode = "cache"
allow_tags_filter = true
[[channel.namespaces]]
name = "object"
publication_data_format = "json_object"
[http_api]
key = "test"
"#;

const FOUR: [(&str, Sdk, Format); 4] =
    [("js", Js, Json), ("js-pb", Js, Protobuf), ("py", Python, Json), ("py-pb", Python, Protobuf)];

/// The four clients, on the nodes in turn.
fn world_of_four(nodes: usize) -> World {
    let mut world = World::with(nodes, CONFIG);
    for (index, (client, sdk, format)) in FOUR.into_iter().enumerate() {
        world.play([Connect { client, sdk, format, node: index % nodes }]);
    }
    world
}

fn subscribe(world: &mut World, client: &str, room: &str, options: Value) {
    world.check(&format!("{client} subscribes to {room} with {options}"), |world| {
        let done = world.clients.subscribe_with(client, room, options);
        done.map(drop).map_err(|refusal| refusal.to_string())
    });
}

/// What a client got of a room: the named field of each publication.
fn got(world: &World, client: &str, room: &str, field: &str) -> Vec<Value> {
    let events = world.clients.events(client).into_iter();
    let own = events.filter(|it| it["ev"] == "pub" && it["room"] == room);
    own.map(|it| it[field].clone()).collect()
}

fn gets(world: &mut World, client: &str, room: &str, field: &str, wanted: &[Value]) {
    world.eventually(&format!("{client} has {field}s {wanted:?} of {room}"), REACTION, |world| {
        let got = got(world, client, room, field);
        ensure(got == wanted, || format!("it has {got:?}"))
    });
}

/// Whether a client got what it missed when it subscribed to a room last.
fn last_recovered(world: &World, client: &str, room: &str) -> Option<bool> {
    let events = world.clients.events(client);
    let mut latest = events.iter().rev();
    latest.find(|it| it["ev"] == "subscribed" && it["room"] == room)?["recovered"].as_bool()
}

fn offset(answer: &Value) -> Option<u64> {
    answer["offset"].as_u64()
}

#[test]
fn a_repeat_is_known_through_every_node_also_where_nothing_is_kept() {
    let mut world = World::with(2, CONFIG);
    world.play([Connect { client: "js", sdk: Js, format: Json, node: 0 }]);
    let rooms = ["plain:a", "plain:b", "plain:c", "plain:d", "a", "b"];
    for room in rooms {
        subscribe(&mut world, "js", room, json!({}));
        let once = json!({"channel": room, "data": "once", "idempotency_key": "k"});
        let first = world.api(0, "publish", once.clone());
        for node in [1, 0, 1] {
            let again = world.api(node, "publish", once.clone());
            world.check("a repeat gets the first result", |_| {
                ensure(again == first, || format!("{again} after {first}"))
            });
        }
    }
    let all = json!({"channels": rooms, "data": "all", "idempotency_key": "all"});
    let first = world.api(0, "broadcast", all.clone());
    let again = world.api(1, "broadcast", all);
    world.check("so does a broadcast", |_| ensure(again == first, || again.to_string()));
    world.api(1, "broadcast", json!({"channels": rooms, "data": "last"}));
    for room in rooms {
        gets(&mut world, "js", room, "data", &[json!("once"), json!("all"), json!("last")]);
    }
}

#[test]
fn an_old_version_changes_nothing_whoever_is_home() {
    let mut world = World::with(3, CONFIG);
    let rooms = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let publish = |world: &mut World, node, room, version: u64, epoch: &str| {
        let body = json!({
            "channel": room, "data": version, "version": version, "version_epoch": epoch,
        });
        offset(&world.api(node, "publish", body))
    };
    let expect = |world: &mut World, what: &str, got, wanted| {
        world.check(what, |_| ensure(got == wanted, || format!("{got:?}, not {wanted:?}")));
    };
    for room in rooms {
        let first = publish(&mut world, 0, room, 5, "e");
        expect(&mut world, "the first version is placed", first, Some(1));
        for (node, version) in [(0, 5), (1, 4), (2, 1)] {
            let late = publish(&mut world, node, room, version, "e");
            expect(&mut world, "one that comes late gets the position of the top", late, Some(1));
        }
        let next = publish(&mut world, 1, room, 6, "e");
        expect(&mut world, "a later one is placed", next, Some(2));
    }
    world.play([Kill { node: 2 }, Converge]);
    for room in rooms {
        let late = publish(&mut world, 0, room, 6, "e");
        expect(&mut world, "the next home knows the version", late, Some(2));
    }
    world.play([Terminate { node: 1 }, Converge]);
    for room in rooms {
        let late = publish(&mut world, 0, room, 6, "");
        expect(&mut world, "and so does the one after it", late, Some(2));
        let other = publish(&mut world, 0, room, 1, "another");
        expect(&mut world, "another epoch begins anew", other, Some(3));
    }
}

#[test]
fn a_filter_holds_live_and_for_what_was_missed() {
    let mut world = world_of_four(2);
    let filter = json!({"op": "or", "nodes": [
        {"key": "kind", "cmp": "eq", "val": "goal"},
        {"op": "and", "nodes": [
            {"key": "kind", "cmp": "in", "vals": ["card", "corner"]},
            {"key": "minute", "cmp": "gte", "val": "45"},
        ]},
    ]});
    let publish = |world: &mut World, room: &str, kind: &str, minute: u32| {
        let tags = json!({"kind": kind, "minute": minute.to_string()});
        let data = format!("{kind} {minute}");
        world.api(1, "publish", json!({"channel": room, "data": data, "tags": tags}));
    };
    for room in ["match", "plain:match"] {
        for (client, ..) in FOUR {
            subscribe(&mut world, client, room, json!({"tagsFilter": filter}));
        }
        for (kind, minute) in [("goal", 3), ("card", 9), ("shot", 50), ("corner", 60), ("shot", 61)]
        {
            publish(&mut world, room, kind, minute);
        }
        publish(&mut world, room, "goal", 90);
        for (client, ..) in FOUR {
            let wanted = ["goal 3", "corner 60", "goal 90"].map(Value::from);
            gets(&mut world, client, room, "data", &wanted);
        }
    }
    for (client, ..) in FOUR {
        world.play([Unplug { client }]);
    }
    for (kind, minute) in [("card", 91), ("shot", 92), ("goal", 93), ("shot", 94)] {
        publish(&mut world, "match", kind, minute);
    }
    for (client, ..) in FOUR {
        world.play([MoveTo { client, node: 1, room: "match" }]);
        let wanted = ["goal 3", "corner 60", "goal 90", "card 91", "goal 93"].map(Value::from);
        gets(&mut world, client, "match", "data", &wanted);
        world.check(&format!("{client} has recovered"), |world| {
            ensure(last_recovered(world, client, "match") == Some(true), || "no".to_owned())
        });
    }
}

#[test]
fn a_filter_that_is_not_allowed_is_a_bad_request() {
    let mut world = world_of_four(1);
    let filter = json!({"key": "a", "cmp": "ex"});
    let invalid = json!({"key": "a", "cmp": "eq"});
    for (client, ..) in FOUR {
        for (room, filter) in [("object:a", &filter), ("a", &invalid)] {
            world.check(&format!("{client} gets 107 for {filter} in {room}"), |world| {
                let options = json!({"tagsFilter": filter});
                match world.clients.subscribe_with(client, room, options) {
                    Err(refusal) if refusal.code == 107 => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
        }
    }
}

/// A document of which little changes.
fn document(n: u64) -> Value {
    let names: Vec<String> = (0..20).map(|it| format!("участник № {it} – “{}”", it * 7)).collect();
    json!({"names": names, "score": {"home": n, "away": n / 2}, "note": "ж".repeat(n as usize % 5)})
}

#[test]
fn deltas_give_every_sdk_the_whole_and_cost_little() {
    let mut world = world_of_four(2);
    world.play([Connect { client: "whole", sdk: Js, format: Json, node: 0 }]);
    for room in ["doc", "plain:doc"] {
        for (client, ..) in FOUR {
            subscribe(&mut world, client, room, json!({"delta": "fossil"}));
        }
        subscribe(&mut world, "whole", room, json!({}));
        for n in 1..=20 {
            let delta = room == "doc";
            let body = json!({"channel": room, "data": document(n), "delta": delta});
            world.api(n as usize % 2, "publish", body);
        }
        let wanted: Vec<Value> = (1..=20).map(document).collect();
        for client in FOUR.map(|(client, ..)| client).into_iter().chain(["whole"]) {
            gets(&mut world, client, room, "data", &wanted);
        }
        for client in ["js", "js-pb"] {
            world.check(&format!("{client} got deltas, but for the first"), |world| {
                let fields = json!({"room": room});
                let stats = world.clients.call(client, "delta_stats", fields);
                let stats = stats.map_err(|refusal| refusal.to_string())?;
                let right = stats["numDeltaPayloads"] == 19 && stats["numFullPayloads"] == 1;
                let small = stats["compressionRatio"].as_f64().is_some_and(|it| it > 0.8);
                ensure(right && small, || stats.to_string())
            });
        }
    }
    world.play(FOUR.map(|(client, ..)| Unplug { client }));
    for n in 21..=25 {
        world.api(0, "publish", json!({"channel": "doc", "data": document(n), "delta": true}));
    }
    world.play(FOUR.map(|(client, ..)| MoveTo { client, node: 0, room: "doc" }));
    for n in 26..=30 {
        // What is not published so comes whole, and the next has it before it.
        let body = json!({"channel": "doc", "data": document(n), "delta": n != 28});
        world.api(1, "publish", body);
    }
    let wanted: Vec<Value> = (1..=30).map(document).collect();
    for client in FOUR.map(|(client, ..)| client).into_iter().chain(["whole"]) {
        gets(&mut world, client, "doc", "data", &wanted);
    }
}

#[test]
fn filters_and_deltas_go_over_http_too() {
    let mut world = World::with(2, CONFIG);
    let all =
        [("sse", "sse", Json), ("lines", "http_stream", Json), ("pb", "http_stream", Protobuf)];
    for (index, (client, transport, format)) in all.into_iter().enumerate() {
        world.check(&format!("{client} connects over {transport}"), |world| {
            let nodes = [0, 1].map(|node| world.cluster.node(node).http);
            let url = world.cluster.node(index % 2).ws_url();
            let id = world.clients.connect_over(client, transport, format, &url, &nodes);
            id.map(drop).map_err(|refusal| refusal.to_string())
        });
        subscribe(&mut world, client, "plain:doc", json!({"delta": "fossil"}));
        let filter = json!({"key": "t", "cmp": "eq", "val": "0"});
        subscribe(&mut world, client, "match", json!({"tagsFilter": filter}));
    }
    for n in 1..=10 {
        let node = n as usize % 2;
        world.api(node, "publish", json!({"channel": "plain:doc", "data": document(n)}));
        let tags = json!({"t": (n % 3).to_string()});
        world.api(node, "publish", json!({"channel": "match", "data": n, "tags": tags}));
    }
    let documents: Vec<Value> = (1..=10).map(document).collect();
    for (client, ..) in all {
        gets(&mut world, client, "plain:doc", "data", &documents);
        gets(&mut world, client, "match", "data", &[json!(3), json!(6), json!(9)]);
        world.check(&format!("{client} got deltas, but for the first"), |world| {
            let stats = world.clients.call(client, "delta_stats", json!({"room": "plain:doc"}));
            let stats = stats.map_err(|refusal| refusal.to_string())?;
            ensure(stats["numDeltaPayloads"] == 9, || stats.to_string())
        });
    }
}

/// Texts that have something in common, of letters of one byte and more.
fn related(random: &mut fastrand::Rng, letters: &[char]) -> (String, String) {
    let mut text = |most: usize| -> String {
        (0..random.usize(..=most)).map(|_| letters[random.usize(..letters.len())]).collect()
    };
    let parts: Vec<String> = (0..6).map(|_| text(60)).collect();
    let base = parts.concat();
    let mut target = String::new();
    for _ in 0..random.usize(..6) {
        target += &parts[random.usize(..parts.len())];
        target.extend((0..random.usize(..4)).map(|_| letters[random.usize(..letters.len())]));
    }
    (base, target)
}

#[test]
fn the_js_sdk_reads_every_delta() {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use roomcast::protocol::delta;

    let mut world = world_of_four(1);
    let mut random = fastrand::Rng::with_seed(7);
    for (client, binary) in [("js", false), ("js-pb", true)] {
        let mut pairs = Vec::new();
        while pairs.len() < 4_000 {
            let letters: Vec<char> = "ab0\"\n ж€😀".chars().take(random.usize(2..10)).collect();
            let (base, target) = related(&mut random, &letters);
            // What JSON clients get is JSON.
            let [base, target] = [base, target].map(|it| Value::from(it).to_string());
            let (cut, end) = (random.usize(..4), target.len());
            // Bytes may begin and end anywhere.
            let bytes = &target.as_bytes()[if binary { cut.min(end) } else { 0 }..];
            let delta = match binary {
                true => delta::of_bytes(base.as_bytes(), bytes),
                false => delta::of_text(&base, &target).map(String::into_bytes),
            };
            let Some(delta) = delta else { continue };
            let encode = |bytes: &[u8]| STANDARD.encode(bytes);
            let (base, target) = (encode(base.as_bytes()), encode(bytes));
            pairs.push(json!({"base": base, "target": target, "delta": encode(&delta)}));
        }
        world.check(&format!("{client} reads 4000 deltas"), |world| {
            let read = world.clients.call(client, "read_deltas", json!({"pairs": pairs}));
            let read = read.map_err(|refusal| refusal.to_string())?;
            ensure(read == json!({"wrong": []}), || read.to_string())
        });
    }
}

#[test]
fn a_cache_gives_the_newest_to_whoever_comes() {
    let mut world = world_of_four(2);
    let ask =
        |world: &mut World, client: &str, room: &str, filter: Option<&str>, recovered: bool| {
            let filter = filter.map(|it| json!({"key": "t", "cmp": "eq", "val": it}));
            let mut options = json!({"since": {"offset": 0, "epoch": ""}});
            options["tagsFilter"] = filter.into();
            world.check(&format!("{client} asks for the newest of {room}: {recovered}"), |world| {
                let done = world.clients.subscribe_with(client, room, options);
                let done = done.map_err(|refusal| refusal.to_string())?;
                let right = done["recovered"] == recovered && done["wasRecovering"] == true;
                ensure(right, || done.to_string())
            });
        };
    ask(&mut world, "js", "cache:empty", None, false);
    for n in 1..=5 {
        let tags = json!({"t": if n == 3 { "odd one" } else { "other" }});
        world.api(0, "publish", json!({"channel": "cache:a", "data": n, "tags": tags}));
    }
    for (client, ..) in &FOUR[..2] {
        ask(&mut world, client, "cache:a", None, true);
        gets(&mut world, client, "cache:a", "data", &[json!(5)]);
        world.play([Unsubscribe { client, room: "cache:a" }]);
    }
    for (index, (client, filter, wanted)) in
        [("c", "odd one", Some(3)), ("d", "other", Some(5)), ("e", "none", None)]
            .into_iter()
            .enumerate()
    {
        world.play([Connect { client, sdk: Js, format: Protobuf, node: index % 2 }]);
        ask(&mut world, client, "cache:a", Some(filter), wanted.is_some());
        let wanted: Vec<Value> = wanted.into_iter().map(Value::from).collect();
        gets(&mut world, client, "cache:a", "data", &wanted);
    }
}

#[test]
fn an_application_with_a_state_of_its_own_loads_it_again_when_it_has_to() {
    let mut world = world_of_four(2);
    for n in 1..=9 {
        world.api(n % 2, "publish", json!({"channel": "state", "data": n}));
    }
    let epoch = world.api(0, "history", json!({"channel": "state"}))["epoch"].clone();
    for (client, ..) in &FOUR[..2] {
        let states = json!([{"offset": 3, "epoch": "gone"}, {"offset": 6, "epoch": epoch}]);
        subscribe(&mut world, client, "state", json!({"states": states}));
        gets(&mut world, client, "state", "data", &[json!(7), json!(8), json!(9)]);
        world.check("its state was asked for again after 112", |world| {
            let events = world.clients.events(client);
            let asked = events.iter().filter(|it| it["ev"] == "state_asked").count();
            ensure(asked == 2, || format!("{asked} times"))
        });
    }
}

#[test]
fn sdks_page_through_a_history_and_are_told_what_is_wrong() {
    let mut world = world_of_four(2);
    for n in 1..=25 {
        world.api(n % 2, "publish", json!({"channel": "book", "data": n}));
    }
    for (client, ..) in FOUR {
        let read = |world: &mut World, limit: u64, since: Value, reverse: bool| {
            let fields =
                json!({"room": "book", "limit": limit, "since": since, "reverse": reverse});
            world.clients.call(client, "history", fields).map_err(|refusal| refusal.code)
        };
        let numbers = |page: &Value| -> Vec<u64> {
            let publications = page["publications"].as_array().cloned().unwrap_or_default();
            publications.iter().filter_map(|it| it["data"].as_u64()).collect()
        };
        for reverse in [false, true] {
            world.check(&format!("{client} pages, in reverse: {reverse}"), |world| {
                let (mut all, mut since) = (Vec::new(), Value::Null);
                while all.len() < 25 {
                    let page = read(world, 7, since, reverse).map_err(|code| code.to_string())?;
                    let offset = page["publications"].as_array().and_then(|it| it.last().cloned());
                    let offset = offset.ok_or_else(|| format!("it ends after {all:?}"))?;
                    since = json!({"offset": offset["offset"], "epoch": page["epoch"]});
                    all.extend(numbers(&page));
                }
                let mut wanted: Vec<u64> = (1..=25).collect();
                if reverse {
                    wanted.reverse();
                }
                ensure(all == wanted, || format!("{all:?}"))
            });
        }
        world.check("a limit of 0 gives the position", |world| {
            let page = read(world, 0, Value::Null, false).map_err(|code| code.to_string())?;
            ensure(page["offset"] == 25 && numbers(&page).is_empty(), || page.to_string())
        });
        for (since, reverse, code) in [
            (json!({"offset": 3, "epoch": "wrong"}), false, 112),
            (json!({"offset": 0, "epoch": ""}), true, 107),
        ] {
            world.check(&format!("{client} gets {code} for {since}"), |world| {
                let refused = read(world, 5, since, reverse);
                ensure(refused == Err(code), || format!("{refused:?}"))
            });
        }
    }
}

#[test]
fn a_history_that_was_removed_can_not_be_recovered() {
    let mut world = World::with(2, CONFIG);
    world.play([
        Connect { client: "behind", sdk: Js, format: Json, node: 0 },
        Connect { client: "at-top", sdk: Js, format: Json, node: 1 },
        Subscribe { client: "behind", room: "log" },
        Subscribe { client: "at-top", room: "log" },
    ]);
    world.api(0, "publish", json!({"channel": "log", "data": 1}));
    world.play([
        Receive { clients: vec!["behind", "at-top"], room: "log", count: 1 },
        Unplug { client: "behind" },
    ]);
    world.api(0, "publish", json!({"channel": "log", "data": 2}));
    world.play([
        Receive { clients: vec!["at-top"], room: "log", count: 2 },
        Unplug { client: "at-top" },
    ]);
    world.api(1, "history_remove", json!({"channel": "log"}));
    for (client, node, recovered) in [("behind", 1, false), ("at-top", 0, true)] {
        world.play([MoveTo { client, node, room: "log" }]);
        world.check(&format!("{client} has recovered: {recovered}"), |world| {
            let last = last_recovered(world, client, "log");
            ensure(last == Some(recovered), || format!("{last:?}"))
        });
    }
    world.api(0, "publish", json!({"channel": "log", "data": 3}));
    gets(&mut world, "behind", "log", "data", &[json!(1), json!(3)]);
    gets(&mut world, "at-top", "log", "data", &[json!(1), json!(2), json!(3)]);
}

#[test]
fn data_in_another_format_is_a_bad_request() {
    let mut world = world_of_four(1);
    world.api(0, "publish", json!({"channel": "object:a", "data": {}}));
    world.check("the API says so", |world| {
        let body = json!({"channel": "object:a", "data": [1]});
        let answer = world.cluster.api_answer(0, "publish", &body)?;
        ensure(answer["error"]["code"] == 107, || answer.to_string())?;
        let body = json!({"channels": ["object:a", "a"], "data": [1]});
        let answer = world.cluster.api_answer(0, "broadcast", &body)?;
        let responses = &answer["result"]["responses"];
        let right = responses[0]["error"]["code"] == 107 && responses[1]["result"]["offset"] == 1;
        ensure(right, || answer.to_string())
    });
    for (client, ..) in FOUR {
        world.check(&format!("{client} is told so"), |world| {
            match world.clients.publish(client, "object:a", json!("text")) {
                Err(refusal) if refusal.code == 107 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }
}
