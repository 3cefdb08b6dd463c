//! The client protocol as a page of behaviours, each seen from the wire.

use std::time::{Duration, Instant};

use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::{Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use cluster_tests::ws::{Event, Socket};
use cluster_tests::{check, cluster};
use serde_json::{Value, json};

/// A connected raw JSON session on node 0.
fn session(world: &World) -> Socket {
    let mut socket = Socket::open(world.cluster.node(0).http, None).expect("an upgrade");
    socket.connect().expect("a connect reply");
    socket
}

fn with_client_options(options: &str) -> String {
    cluster::CONFIG.replace("[client]", &format!("[client]\n{options}"))
}

#[test]
fn the_upgrade_takes_what_sdks_send_and_nothing_else() {
    let world = World::new(1);
    let server = world.cluster.node(0).http;
    let status = |path: &str, headers: &[(&str, &str)]| {
        let (_, head) = Socket::upgrade(server, path, headers).expect("an answer");
        head.split(' ').nth(1).unwrap_or_default().to_owned() + " " + &head.to_lowercase()
    };
    let protocol = "Sec-WebSocket-Protocol";
    let path = "/connection/websocket";
    assert!(status(path, &[]).starts_with("101"), "the JS SDK sends no subprotocol");
    for name in ["centrifuge-json", "centrifuge-protobuf"] {
        let head = status(path, &[(protocol, name)]);
        assert!(head.starts_with("101") && head.contains(&format!(": {name}\r\n")), "{head}");
    }
    assert!(status(path, &[("Origin", "http://evil.example")]).starts_with("403"));
    assert!(status("/connection/nothing", &[]).starts_with("404"));
    let mut plain = Socket::tcp(server).expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    plain.send_raw(request.as_bytes()).expect("sent");
    let head = plain.read_head(REACTION).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 4"), "not an upgrade: {head}");
}

#[test]
fn connect_says_how_to_keep_alive() {
    let world = World::new(1);
    let mut socket = Socket::open(world.cluster.node(0).http, None).expect("an upgrade");
    let reply = socket.connect().expect("a reply");
    let connect = &reply["connect"];
    assert!(connect["client"].as_str().is_some_and(|id| !id.is_empty()), "{reply}");
    assert_eq!((&connect["ping"], &connect["pong"]), (&json!(25), &json!(true)), "{reply}");
}

#[test]
fn silence_is_ended_and_answers_keep_alive() {
    let options = "ping_interval = \"1s\"\npong_timeout = \"500ms\"\nstale_close_delay = \"1s\"";
    let world = World::with(1, &with_client_options(options));
    let server = world.cluster.node(0).http;
    let mut half = Socket::tcp(server).expect("a connection");
    half.send_raw(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\n").expect("sent");
    let mut stale = Socket::open(server, None).expect("an upgrade");
    let mut silent = session(&world);
    let code = |socket: &mut Socket| socket.close_code(REACTION).expect("a close").map(|c| c.0);
    assert_eq!(code(&mut stale), Some(3502), "no connect");
    assert_eq!(code(&mut silent), Some(3012), "no pong");
    // Only now: from its first ping on it has to be answered for.
    let mut lively = session(&world);
    for _ in 0..4 {
        let ping = lively.event(REACTION).expect("a ping");
        assert_eq!(ping, Event::Text("{}".to_owned()));
        lively.send_text("{}").expect("the session lives");
    }
    lively.command(&json!({"id": 2, "history": {"channel": "x"}})).expect("the session lives");
    let ended = half.close_code(Duration::from_secs(30));
    assert!(ended.is_ok() || half.read_head(REACTION).is_ok(), "a half-sent request hangs");
}

#[test]
fn commands_of_one_frame_are_all_answered() {
    let world = World::new(2);
    let mut socket = session(&world);
    let command = |id: u64| format!("{{\"id\":{id},\"presence_stats\":{{\"channel\":\"r{id}\"}}}}");
    let frame: Vec<String> = (2..52).map(command).collect();
    socket.send_text(&frame.join("\n")).expect("sent");
    let mut answered = Vec::new();
    while answered.len() < 50 {
        if let Event::Text(text) = socket.event(REACTION).expect("replies") {
            let replies = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            answered.extend(replies.filter_map(|reply| reply["id"].as_u64()));
        }
    }
    answered.sort_unstable();
    assert_eq!(answered, (2..52).collect::<Vec<_>>());
}

#[test]
fn a_subscription_is_confirmed_before_anything_of_it_comes() {
    let mut world = World::new(3);
    for number in 0..20 {
        world.api(1, "publish", json!({"channel": format!("r{number}"), "data": 1}));
    }
    let mut socket = session(&world);
    for number in 0..20 {
        let room = format!("r{number}");
        socket
            .send_text(&json!({"id": number + 2, "subscribe": {"channel": room}}).to_string())
            .expect("sent");
        world.api(2, "publish", json!({"channel": room, "data": 2}));
    }
    let mut confirmed = Vec::new();
    for event in socket.drain(Duration::from_millis(500)) {
        let Event::Text(text) = event else { panic!("{event:?}") };
        for line in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
            if line["subscribe"].is_object() {
                confirmed.push(format!("r{}", line["id"].as_u64().unwrap_or(0) - 2));
            } else if let Some(room) = line["push"]["channel"].as_str() {
                assert!(confirmed.iter().any(|c| c == room), "{room} pushed too early");
            }
        }
    }
    assert_eq!(confirmed.len(), 20);
}

#[test]
fn the_same_room_twice_and_too_many_rooms() {
    let world = World::new(1);
    let mut socket = session(&world);
    let mut subscribe = |id: u64, room: String| {
        let reply = socket.command(&json!({"id": id, "subscribe": {"channel": room}}));
        reply.expect("a reply")
    };
    assert!(subscribe(2, "r0".to_owned())["subscribe"].is_object());
    assert_eq!(subscribe(3, "r0".to_owned())["error"]["code"], 105);
    for number in 1..128 {
        let reply = subscribe(number + 3, format!("r{number}"));
        assert!(reply["subscribe"].is_object(), "{number}: {reply}");
    }
    assert_eq!(subscribe(200, "r128".to_owned())["error"]["code"], 106);
}

#[test]
fn recovery_says_exactly_what_it_did() {
    let mut world = World::new(3);
    world.play([Connect { client: "js", sdk: Js, format: Json, node: 2 }]);
    world.play([Publish { clients: vec!["js"], room: "log", count: 10, pipelined: true }]);
    let top = world.api(1, "history", json!({"channel": "log"}));
    let epoch = top["epoch"].clone();
    let ask = |body: Value| {
        let mut subscribe = json!({"channel": "log", "recover": true});
        let fields = body.as_object().cloned().unwrap_or_default();
        subscribe.as_object_mut().expect("an object").extend(fields);
        let reply = session(&world).command(&json!({"id": 2, "subscribe": subscribe}));
        reply.expect("a reply")
    };
    let missed = |reply: &Value| reply["subscribe"]["publications"].as_array().map_or(0, Vec::len);

    let reply = ask(json!({"epoch": epoch, "offset": 4}));
    let said = &reply["subscribe"];
    assert!(said["was_recovering"] == true && said["recovered"] == true, "{reply}");
    assert_eq!((missed(&reply), &said["offset"]), (6, &json!(4)), "{reply}");

    let reply = ask(json!({"epoch": epoch, "offset": 10}));
    assert!(reply["subscribe"]["recovered"] == true && missed(&reply) == 0, "{reply}");

    let reply = ask(json!({"epoch": "", "offset": 0}));
    assert!(reply["subscribe"]["recovered"] == true && missed(&reply) == 10, "{reply}");

    for lost in [json!({"epoch": "zzz", "offset": 4}), json!({"epoch": epoch, "offset": 11})] {
        let reply = ask(lost);
        let said = &reply["subscribe"];
        assert!(said["was_recovering"] == true && said["recovered"] != true, "{reply}");
        assert_eq!((missed(&reply), &said["offset"]), (0, &json!(10)), "{reply}");
    }
    let reply = ask(json!({"epoch": "zzz", "offset": 4, "flag": 2}));
    assert_eq!(reply["error"]["code"], 112, "{reply}");
}

#[test]
fn rpc_and_send_without_a_handler() {
    let mut world = World::new(1);
    world.play([
        Connect { client: "js", sdk: Js, format: Protobuf, node: 0 },
        Connect { client: "py", sdk: Python, format: Json, node: 0 },
    ]);
    for client in ["js", "py"] {
        let refused = world.clients.call(client, "rpc", json!({"method": "m", "data": 1}));
        let code = refused.expect_err("no handler").code;
        assert!(code == 104 || code == 108, "{client}: {code}");
    }
    world.clients.call("js", "send", json!({"data": 1})).expect("send has no reply");
    world.eventually("send closes with 3508, for good", REACTION, |world| {
        let events = world.clients.events("js");
        let last = events.iter().rfind(|e| e["ev"] == "state").cloned().unwrap_or_default();
        ensure(last["state"] == "disconnected" && last["code"] == 3508, || last.to_string())
    });
}

#[test]
fn a_reader_that_stops_reading_is_let_go_and_nobody_else_notices() {
    let mut world = World::new(2);
    let healthy = ["near", "far", "py"];
    world.play([
        Connect { client: "near", sdk: Js, format: Json, node: 0 },
        Connect { client: "far", sdk: Js, format: Protobuf, node: 1 },
        Connect { client: "py", sdk: Python, format: Json, node: 0 },
    ]);
    world.play(healthy.map(|client| Subscribe { client, room: "flood" }));
    let mut slow = session(&world);
    let reply = slow.command(&json!({"id": 2, "subscribe": {"channel": "flood"}}));
    assert!(reply.expect("a reply")["subscribe"].is_object());
    // More than the server's outbox and both kernels' buffers can hold.
    let padding = "x".repeat(50_000);
    let mut slow_ones = Vec::new();
    for seq in 1..=400 {
        let data = json!({"from": "api", "seq": seq, "pad": padding});
        let began = Instant::now();
        let done = world.cluster.api(1, "publish", &json!({"channel": "flood", "data": data}));
        done.expect("published");
        slow_ones.extend(Some(began.elapsed()).filter(|it| *it > Duration::from_secs(1)));
        // On a busy machine the healthy would be slow as well.
        if seq % 10 == 0 {
            world.play([Receive { clients: healthy.to_vec(), room: "flood", count: seq }]);
        }
    }
    world.check("the healthy have all 400, in order", |world| {
        check::complete(&world.logs(&healthy, "flood"), &check::messages_of("api", 400))
    });
    // The machine may hold up one or two.
    world.check("no publisher waited", |_| {
        ensure(slow_ones.len() <= 2, || format!("some waited: {slow_ones:?}"))
    });
    world.check("the slow one is closed with 3008 or 3009, or cut off", |_| {
        let closed = slow.close_code(Duration::from_secs(10))?;
        let right = closed.as_ref().is_none_or(|(code, _)| [3008, 3009].contains(code));
        ensure(right, || format!("{closed:?}"))
    });
}
