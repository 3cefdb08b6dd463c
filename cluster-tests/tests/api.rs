//! The server API and reading back: the same answers from every node.

use std::net::SocketAddr;

use cluster_tests::cluster::CONFIG;
use cluster_tests::http;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::{Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use serde_json::{Value, json};

/// Two readers on different nodes, neither of which need be the room's home.
fn readers(world: &mut World, room: &'static str) {
    world.play([
        Connect { client: "js", sdk: Js, format: Protobuf, node: 0 },
        Connect { client: "py", sdk: Python, format: Json, node: 1 },
        Subscribe { client: "js", room },
        Subscribe { client: "py", room },
    ]);
}

fn offsets(page: &Value) -> Vec<u64> {
    let publications = page["publications"].as_array().cloned().unwrap_or_default();
    publications.iter().filter_map(|p| p["offset"].as_u64()).collect()
}

#[test]
fn history_is_paged_forward_and_reverse_from_every_node() {
    let mut world = World::new(3);
    readers(&mut world, "book");
    world.play([Publish { clients: vec!["js"], room: "book", count: 25, pipelined: true }]);
    for node in 0..3 {
        let top = world.api(node, "history", json!({"channel": "book"}));
        world.check("without a limit it says the position only", |_| {
            ensure(top["offset"] == 25 && offsets(&top).is_empty(), || top.to_string())
        });
        world.check(&format!("node {node} pages forward"), |world| page(world, node, false));
        world.check(&format!("node {node} pages in reverse"), |world| page(world, node, true));
    }
    for client in ["js", "py"] {
        world.check(&format!("{client} reads the same"), |world| {
            let fields = json!({"room": "book", "limit": 3, "reverse": true});
            let page = world.clients.call(client, "history", fields).map_err(|e| e.to_string())?;
            ensure(offsets(&page) == [25, 24, 23], || page.to_string())?;
            let since = json!({"offset": 20, "epoch": page["epoch"]});
            let fields = json!({"room": "book", "limit": 100, "since": since});
            let page = world.clients.call(client, "history", fields).map_err(|e| e.to_string())?;
            ensure(offsets(&page) == [21, 22, 23, 24, 25], || page.to_string())?;
            let data = &page["publications"][0]["data"];
            ensure(data == &json!({"from": "js", "seq": 21}), || data.to_string())
        });
    }
}

/// Reads the 25 publications of `book` ten at a time.
fn page(world: &mut World, node: usize, reverse: bool) -> Result<(), String> {
    let mut read = Vec::new();
    let mut since = Value::Null;
    loop {
        let mut request = json!({"channel": "book", "limit": 10, "reverse": reverse});
        if !since.is_null() {
            request["since"] = since;
        }
        let page = world.cluster.api(node, "history", &request)?;
        let found = offsets(&page);
        let Some(&last) = found.last() else { break };
        read.extend(found);
        since = json!({"offset": last, "epoch": page["epoch"]});
        if read.len() >= 25 {
            break;
        }
    }
    let mut wanted: Vec<u64> = (1..=25).collect();
    if reverse {
        wanted.reverse();
    }
    ensure(read == wanted, || format!("read {read:?}"))
}

#[test]
fn a_wrong_position_is_refused() {
    let mut world = World::new(3);
    world.api(0, "publish", json!({"channel": "book", "data": 1}));
    let cases = [
        (json!({"channel": "book", "limit": 1, "since": {"offset": 0, "epoch": "no"}}), 112),
        (json!({"channel": "plain:book", "limit": 1}), 108),
    ];
    for node in 0..3 {
        for (request, code) in &cases {
            world.check(&format!("history {request} is refused with {code}"), |world| {
                let answer = world.cluster.api_answer(node, "history", request)?;
                ensure(answer["error"]["code"] == *code, || answer.to_string())
            });
        }
    }
}

#[test]
fn publishing_through_any_node_reaches_all() {
    let mut world = World::new(3);
    readers(&mut world, "news");
    for node in 0..3 {
        let data = json!({"from": "api", "seq": node + 1});
        let done = world.api(node, "publish", json!({"channel": "news", "data": data}));
        world.check("it says the position", |_| {
            ensure(done["offset"] == node + 1 && done["epoch"].is_string(), || done.to_string())
        });
    }
    let body = json!({"channels": ["news", "other", "plain:x"], "data": {"from": "api", "seq": 4}});
    let done = world.api(1, "broadcast", body);
    world.check("broadcast answers for each room", |_| {
        let offset = |i: usize| done["responses"][i]["result"]["offset"].as_u64();
        let right = offset(0) == Some(4) && offset(1) == Some(1) && offset(2).unwrap_or(0) == 0;
        ensure(right, || done.to_string())
    });
    world.play([Receive { clients: vec!["js", "py"], room: "news", count: 4 }]);
    world.check("publications of the API carry no client info", |world| {
        let events = world.clients.events("js");
        let with_info = events.iter().filter(|e| e["ev"] == "pub" && e["info"].is_object());
        ensure(with_info.count() == 0, || "one has".to_owned())
    });
}

#[test]
fn a_repeated_idempotency_key_publishes_once() {
    let mut world = World::new(3);
    readers(&mut world, "orders");
    let body = json!({
        "channel": "orders", "data": {"from": "shop", "seq": 1}, "idempotency_key": "order-1",
    });
    let first = world.api(0, "publish", body.clone());
    for node in [1, 2, 0] {
        let again = world.api(node, "publish", body.clone());
        world.check("the repeat has the first position", |_| {
            let same = again["offset"] == first["offset"] && again["epoch"] == first["epoch"];
            ensure(same, || format!("{first}, then {again}"))
        });
    }
    let mut other = body;
    other["idempotency_key"] = json!("order-2");
    other["data"]["seq"] = json!(2);
    world.api(2, "publish", other);
    world.play([Receive { clients: vec!["js", "py"], room: "orders", count: 2 }]);
    world.check("each is delivered once", |world| {
        for client in ["js", "py"] {
            let got = world.clients.log(client, "orders").messages();
            let right = got == cluster_tests::check::messages_of("shop", 2);
            ensure(right, || format!("{client}: {got:?}"))?;
        }
        Ok(())
    });
    let page = world.api(1, "history", json!({"channel": "orders", "limit": 10}));
    world.check("the log holds each once", |_| {
        ensure(offsets(&page) == [1, 2], || page.to_string())
    });
}

#[test]
fn info_and_channels_speak_for_the_whole_cluster() {
    let mut world = World::new(3);
    readers(&mut world, "news");
    for node in 0..3 {
        world.eventually(&format!("node {node} counts both clients"), REACTION, |world| {
            let info = world.cluster.api(node, "info", &json!({}))?;
            let nodes = info["nodes"].as_array().cloned().unwrap_or_default();
            ensure(nodes.len() == 3, || info.to_string())?;
            let mut names: Vec<_> = nodes.iter().filter_map(|n| n["name"].as_str()).collect();
            names.sort_unstable();
            ensure(names == ["a", "b", "c"], || info.to_string())?;
            let rooms = world.cluster.api(node, "channels", &json!({}))?;
            let count = &rooms["channels"]["news"]["num_clients"];
            ensure(*count == 2, || rooms.to_string())
        });
    }
}

#[test]
fn history_can_be_removed_through_any_node() {
    let mut world = World::new(3);
    world.api(0, "publish", json!({"channel": "notes", "data": 1}));
    world.api(1, "history_remove", json!({"channel": "notes"}));
    for node in 0..3 {
        let page = world.api(node, "history", json!({"channel": "notes", "limit": 10}));
        world.check("nothing is left", |_| ensure(offsets(&page).is_empty(), || page.to_string()));
    }
}

#[test]
fn the_api_wants_its_key() {
    let world = World::new(1);
    let server = world.cluster.node(0).http;
    let body = json!({"channel": "x", "data": {}});
    let status = |path: &str, headers: &[(&str, &str)]| {
        http::post(server, path, headers, &body).expect("an answer").status
    };
    assert_eq!(status("/api/publish", &[]), 401, "no key");
    assert_eq!(status("/api/publish", &[("X-API-Key", "")]), 401, "an empty key");
    assert_eq!(status("/api/publish", &[("X-API-Key", "tes")]), 401, "a shorter key");
    assert_eq!(status("/api/publish", &[("X-API-Key", "test2")]), 401, "a longer key");
    assert_eq!(status("/api/publish", &[("Authorization", "apikey no")]), 401, "a wrong key");
    assert_eq!(status("/api/publish?api_key=no", &[]), 401, "a wrong key in the query");
    assert_eq!(status("/api/info", &[]), 401, "no method is open");
    assert_eq!(status("/api/publish", &[("X-API-Key", "test")]), 200, "by header");
    assert_eq!(status("/api/publish", &[("Authorization", "apikey test")]), 200, "authorization");
    assert_eq!(status("/api/publish?api_key=test", &[]), 200, "by query");
    unpublished(server, "x", 3);
}

/// What was refused with 401 has not been done: only `published` messages are there.
fn unpublished(server: SocketAddr, room: &str, published: u64) {
    let key = [("X-API-Key", "test")];
    let answer = http::post(server, "/api/history", &key, &json!({"channel": room}));
    let answer = answer.and_then(|a| a.json()).expect("an answer");
    assert_eq!(answer["result"]["offset"], published, "{answer}");
}

#[test]
fn a_bad_api_request_is_refused_and_changes_nothing() {
    let mut world = World::new(1);
    let cases = [
        ("publish", json!({"data": {}}), 107),
        ("publish", json!({"channel": "x"}), 107),
        ("publish", json!({"channel": "nowhere:x", "data": {}}), 102),
        ("publish", json!({"channel": "x".repeat(256), "data": {}}), 107),
        ("publish", json!({"channel": "x", "data": "y".repeat(600_000)}), 106),
        ("publish", json!({"channel": "x", "data": 1, "idempotency_key": "k".repeat(257)}), 107),
        ("presence", json!({"channel": "plain:x"}), 108),
        ("history", json!({"channel": "nowhere:x"}), 102),
    ];
    for (method, body, code) in cases {
        world.check(&format!("{method} {body:.60} is refused with {code}"), |world| {
            let answer = world.cluster.api_answer(0, method, &body)?;
            ensure(answer["error"]["code"] == code, || answer.to_string())
        });
    }
    world.check("what is not JSON is refused", |world| {
        let node = world.cluster.node(0).http;
        let key = [("X-API-Key", "test")];
        let answer = http::request(node, "POST", "/api/publish", &key, "{\"channel\": ")?;
        ensure(answer.status == 400, || format!("{answer:?}"))
    });
    world.check("health needs no key", |world| {
        let answer = http::get(world.cluster.node(0).http, "/health")?;
        ensure(answer.status == 200 && answer.body.trim() == "{}", || format!("{answer:?}"))
    });
}

#[test]
fn a_broadcast_of_more_than_a_link_may_hold_goes_through() {
    // The least that is allowed: a twentieth of what goes over the link.
    let mut world = World::with(2, &format!("{CONFIG}\n[cluster]\nqueue_max_size = 2097152\n"));
    let rooms: Vec<String> = (0..4_000).map(|number| format!("plain:{number}")).collect();
    let data = "x".repeat(20_000);
    let answer = world.api(0, "broadcast", json!({"channels": rooms, "data": data}));
    world.check("every room has it", |world| {
        let responses = answer["responses"].as_array().cloned().unwrap_or_default();
        let failed = responses.iter().find(|it| it["result"].is_null());
        ensure(failed.is_none() && responses.len() == rooms.len(), || {
            format!("{} responses, {failed:?}", responses.len())
        })?;
        let taken = world.cluster.metric(0, "roomcast_mesh_bytes_total")?;
        ensure(taken > 20_000_000.0, || format!("only {taken} bytes went over the link"))
    });
    world.check("and the link has stood it", |world| {
        let text = http::get(world.cluster.node(0).http, "/metrics")?.body;
        let slow = text.lines().find(|it| it.contains("links_closed") && it.contains("slow"));
        ensure(slow.is_none(), || format!("{slow:?}"))
    });
}
