//! Messages that are compressed: for the SDKs that offer it by themselves, on the wire, and from clients that mean harm.

use std::time::Duration;

use cluster_tests::paths;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::{Go, Js, Python};
use cluster_tests::step::Step::*;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{REACTION, World};
use cluster_tests::ws::{Event, Frame, Socket, opcode};
use roomcast::protocol::deflate::{self, Deflate};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[websocket]
compression = true
[client]
insecure = true
[http_api]
key = "test"
[channel.without_namespace]
history_size = 100
history_ttl = "300s"
allow_recovery = true
"#;

const OFFER: &str = "permessage-deflate; client_max_window_bits";
const FAST: Deflate = Deflate { min_size: 0, level: 1 };

/// A socket that has offered these extensions, and whether they were agreed to.
fn open(world: &World, offer: Option<&str>) -> (Socket, bool) {
    let headers: Vec<(&str, &str)> =
        offer.iter().map(|it| ("Sec-WebSocket-Extensions", *it)).collect();
    let server = world.cluster.node(0).http;
    let opened = Socket::upgrade(server, "/connection/websocket", &headers);
    let (mut socket, head) = opened.expect("an answer");
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    let agreed = head.to_ascii_lowercase().contains(
        "sec-websocket-extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover",
    );
    socket.connect().expect("connected");
    (socket, agreed)
}

fn deflated(payload: &[u8], opcode: u8) -> Frame {
    let packed = deflate::compress(payload, FAST).expect("smaller");
    Frame { reserved: 4, ..Frame::new(opcode, packed) }
}

fn sent(world: &World) -> f64 {
    world.cluster.metric(0, "roomcast_sent_bytes_total").expect("counted")
}

#[test]
fn sdks_get_compressed_messages_by_themselves_and_the_others_whole_ones() {
    let mut world = World::with(1, CONFIG);
    let clients = [
        ("js", Js, Json),
        ("js-pb", Js, Protobuf),
        ("py", Python, Json),
        ("py-pb", Python, Protobuf),
        ("go", Go, Json),
    ];
    // Where there is no Go, the others are enough.
    let has_go = paths::go_driver().exists();
    let clients: Vec<_> = clients.into_iter().filter(|(_, sdk, _)| *sdk != Go || has_go).collect();
    for (client, sdk, format) in clients.iter().copied() {
        world.play([Connect { client, sdk, format, node: 0 }]);
        world.play([Subscribe { client, room: "a" }]);
    }
    let all: Vec<&str> = clients.iter().map(|(client, ..)| *client).collect();
    let before = sent(&world);
    let data = json!({"text": "the same again ".repeat(700)});
    for _ in 0..10 {
        world.api(0, "publish", json!({"channel": "a", "data": data}));
    }
    world.eventually("all have everything", REACTION, |world| {
        let counts: Vec<usize> = all.iter().map(|it| world.clients.count(it, "a")).collect();
        ensure(counts.iter().all(|it| *it == 10), || format!("{counts:?}"))
    });
    for client in all.iter().copied() {
        for event in world.clients.events(client).iter().filter(|it| it["ev"] == "pub") {
            assert_eq!(event["data"], data, "{client}");
        }
    }
    // The Go SDK does not offer it: it gets ten times ten kilobytes, and the four others together less than that.
    let bytes = sent(&world) - before;
    let whole = if has_go { 100_000.0 } else { 0.0 };
    let expected = whole + 5_000.0..whole + 40_000.0;
    assert!(expected.contains(&bytes), "{bytes} bytes were sent");
    // What they send themselves is compressed, too, where their library does that.
    for client in ["js", "py"] {
        let text = "and back ".repeat(1_000);
        let publish = json!({"room": "a", "data": {"text": text}});
        world.clients.call(client, "publish", publish).expect("taken");
    }
    world.eventually("all have these as well", REACTION, |world| {
        let counts: Vec<usize> = all.iter().map(|it| world.clients.count(it, "a")).collect();
        ensure(counts.iter().all(|it| *it == 12), || format!("{counts:?}"))
    });
}

#[test]
fn what_is_agreed_is_what_was_offered_and_can_be_served() {
    let world = World::with(1, CONFIG);
    for (offer, expected) in [
        (Some(OFFER), true),
        (Some("permessage-deflate; server_max_window_bits=9"), false),
        (Some("permessage-deflate; server_max_window_bits=9, permessage-deflate"), true),
        (Some("x-other"), false),
        (None, false),
    ] {
        let (mut socket, agreed) = open(&world, offer);
        assert_eq!(agreed, expected, "{offer:?}");
        let entered = socket.command(&json!({"id": 2, "subscribe": {"channel": "b"}}));
        entered.expect("subscribed");
        let publish = |size: usize| {
            let body = json!({"channel": "b", "data": "x".repeat(size)});
            world.cluster.api(0, "publish", &body).expect("published");
        };
        publish(10);
        assert!(matches!(socket.event(REACTION), Ok(Event::Text(_))), "small ones are not");
        publish(1_000);
        let large = match socket.event(REACTION) {
            Ok(Event::Deflated(packed)) if agreed && packed.len() < 150 => {
                deflate::inflate(&packed, 2_000).expect("whole").to_vec()
            }
            Ok(Event::Text(text)) if !agreed => text.into_bytes(),
            other => panic!("{offer:?}: {other:?}"),
        };
        let large: Value = serde_json::from_slice(&large).expect("JSON");
        assert_eq!(large["push"]["pub"]["data"].as_str().map(str::len), Some(1_000));
        socket.command(&json!({"id": 3, "unsubscribe": {"channel": "b"}})).expect("left");
    }
    drop(world);
    let plain = World::with(1, &CONFIG.replace("compression = true", "compression = false"));
    assert!(!open(&plain, Some(OFFER)).1, "it is off unless it is asked for");
}

#[test]
fn compressed_messages_of_clients_are_read_and_bombs_are_not() {
    let world = World::with(1, CONFIG);
    // In one frame, and in fragments of which the first says it.
    let (mut socket, _) = open(&world, Some(OFFER));
    let data = "x".repeat(30_000);
    let publish = json!({"id": 2, "publish": {"channel": "c", "data": data}}).to_string();
    socket.send(&deflated(publish.as_bytes(), opcode::TEXT)).expect("sent");
    assert!(matches!(socket.event(REACTION), Ok(Event::Text(it)) if it.contains("\"publish\"")));
    let whole = deflated(publish.replacen("2", "3", 1).as_bytes(), opcode::TEXT);
    let (first, rest) = whole.payload.split_at(20);
    let begin = Frame { fin: false, payload: first.to_vec(), ..whole.clone() };
    socket.send(&begin).expect("sent");
    socket.send(&Frame::new(opcode::CONTINUATION, rest)).expect("sent");
    assert!(matches!(socket.event(REACTION), Ok(Event::Text(it)) if it.contains("\"id\":3")));
    until(REACTION, || {
        let history = world.cluster.api(0, "history", &json!({"channel": "c", "limit": 10}))?;
        let all = history["publications"].as_array().cloned().unwrap_or_default();
        ensure(all.len() == 2 && all.iter().all(|it| it["data"] == data), || history.to_string())
    })
    .expect("both are there");
    // Ten megabytes in ten kilobytes; no deflate; text that is none; a bit that was not agreed to.
    let bomb = deflated(&vec![b' '; 10_000_000], opcode::TEXT);
    let broken = Frame { reserved: 4, ..Frame::new(opcode::TEXT, [0xff; 20]) };
    let no_text = deflated(&[0xff; 100], opcode::TEXT);
    let control = Frame { reserved: 4, ..Frame::new(opcode::PING, "a") };
    let again = Frame { reserved: 4, ..Frame::new(opcode::CONTINUATION, "a") };
    for (frame, offer, code) in [
        (&bomb, Some(OFFER), 1009),
        (&broken, Some(OFFER), 1002),
        (&no_text, Some(OFFER), 1007),
        (&control, Some(OFFER), 1002),
        (&again, Some(OFFER), 1002),
        (&deflated(b"{}            ", opcode::TEXT), None, 1002),
    ] {
        let (mut socket, _) = open(&world, offer);
        socket.send(frame).expect("sent");
        let closed = socket.close_code(Duration::from_secs(5)).expect("closed");
        assert_eq!(closed.map(|(code, _)| code), Some(code), "{offer:?}");
    }
}
