//! The transports over HTTP: the official SDK over server-sent events and HTTP streams, with its commands on
//! any node; and the transports that go one way, as curl shows them.

use std::time::{Duration, Instant};

use cluster_tests::check::{self, messages_of};
use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::http;
use cluster_tests::node::cpu_seconds;
use cluster_tests::sdk::Format::{self, Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::stream::Stream;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::{REACTION, World};
use cluster_tests::ws::{Event, Socket};
use serde_json::{Value, json};

/// How each client is connected: name, transport, format, the node of its stream.
const CLIENTS: [(&str, &str, Format, usize); 3] = [
    ("sse", "sse", Json, 0),
    ("lines", "http_stream", Json, 1),
    ("proto", "http_stream", Protobuf, 2),
];

fn nodes(world: &World) -> Vec<std::net::SocketAddr> {
    (0..3).map(|node| world.cluster.node(node).http).collect()
}

/// Three clients over HTTP and one over WebSocket, all in `lobby`.
fn world() -> World {
    let mut world = World::new(3);
    for (name, transport, format, node) in CLIENTS {
        world.check(&format!("{name} connects over {transport}"), |world| {
            let (url, nodes) = (world.cluster.node(node).ws_url(), nodes(world));
            let id = world.clients.connect_over(name, transport, format, &url, &nodes);
            id.map(drop).map_err(|e| e.to_string())
        });
        world.play([Subscribe { client: name, room: "lobby" }]);
    }
    world.play([
        Connect { client: "ws", sdk: Js, format: Json, node: 0 },
        Subscribe { client: "ws", room: "lobby" },
    ]);
    world
}

const ALL: [&str; 4] = ["sse", "lines", "proto", "ws"];

#[test]
fn everything_works_over_http_with_commands_on_any_node() {
    let mut world = world();
    world.play([
        Publish { clients: ALL.to_vec(), room: "lobby", count: 50, pipelined: false },
        Receive { clients: ALL.to_vec(), room: "lobby", count: 200 },
    ]);
    world.check("all 200 everywhere, once, in one order", |world| {
        let expected: Vec<_> = ALL.iter().flat_map(|from| messages_of(from, 50)).collect();
        check::complete(&world.logs(&ALL, "lobby"), &expected)
    });
    for (name, ..) in CLIENTS {
        world.check(&format!("{name} sees who is there, and the past"), |world| {
            let ask = |world: &mut World, cmd: &str, fields: Value| {
                world.clients.call(name, cmd, fields).map_err(|e| e.to_string())
            };
            let presence = ask(world, "presence", json!({"room": "lobby"}))?;
            let here = presence["clients"].as_object().map_or(0, |it| it.len());
            ensure(here == 4, || presence.to_string())?;
            let history = ask(world, "history", json!({"room": "lobby", "limit": 10}))?;
            let got = history["publications"].as_array().map_or(0, Vec::len);
            ensure(got == 10 && history["offset"] == 200, || history.to_string())
        });
        world.check(&format!("{name}'s commands went to all nodes, and were taken"), |world| {
            let sent =
                world.clients.call(name, "commands", json!({})).map_err(|e| e.to_string())?;
            let sent = sent.as_array().cloned().unwrap_or_default();
            for node in nodes(world) {
                let node = node.to_string();
                ensure(sent.iter().any(|it| it["node"] == *node), || format!("none to {node}"))?;
            }
            ensure(sent.iter().all(|it| it["status"] == 204), || format!("{sent:?}"))
        });
    }
}

#[test]
fn a_stream_whose_node_is_killed_recovers_on_another() {
    let mut world = world();
    world.play([
        Publish { clients: vec!["ws"], room: "lobby", count: 10, pipelined: true },
        Receive { clients: ALL.to_vec(), room: "lobby", count: 10 },
        TurnTo { client: "lines", node: 2 },
        TurnTo { client: "sse", node: 2 },
        Kill { node: 1 },
        // One by one: requests that are sent at once may arrive in any order.
        Publish { clients: vec!["proto"], room: "lobby", count: 10, pipelined: false },
        Receive { clients: ALL.to_vec(), room: "lobby", count: 20 },
        Publish { clients: vec!["lines"], room: "lobby", count: 5, pipelined: false },
        Receive { clients: ALL.to_vec(), room: "lobby", count: 25 },
    ]);
    world.check("all 25 everywhere, once, in one order", |world| {
        let expected = [("ws", 10), ("proto", 10), ("lines", 5)];
        let expected: Vec<_> =
            expected.iter().flat_map(|(from, n)| messages_of(from, *n)).collect();
        check::complete(&world.logs(&ALL, "lobby"), &expected)
    });
}

#[test]
fn a_client_that_closes_its_stream_is_gone_at_once() {
    let mut world = world();
    world.check("they leave", |world| {
        for (name, ..) in CLIENTS {
            let left = world.clients.call(name, "disconnect", json!({}));
            left.map_err(|e| e.to_string())?;
        }
        Ok(())
    });
    world.eventually("only ws is left", Duration::from_secs(10), |world| {
        let presence = world.cluster.api(2, "presence_stats", &json!({"channel": "lobby"}))?;
        ensure(presence["num_clients"] == 1, || presence.to_string())
    });
}

#[test]
fn a_node_that_leaves_says_so_on_streams() {
    let mut world = world();
    world.play([TurnTo { client: "lines", node: 0 }, Terminate { node: 1 }]);
    world.check("lines was told 3001, and is back", |world| {
        world.clients.until("lines", REACTION, |events| {
            let told = |it: &&&Value| it["state"] == "connecting" && it["code"] == 3001;
            let back = events.iter().filter(|it| it["ev"] == "subscribed").count();
            ensure(events.iter().any(|it| told(&it)) && back == 2, || format!("{events:?}"))
        })
    });
}

/// One node, everything permitted, all transports on.
fn open_config() -> String {
    let one_way = ["uni_sse", "uni_http_stream", "uni_websocket"];
    let sections: String = one_way.map(|it| format!("[{it}]\nenabled = true\n")).concat();
    let client = "[client]\nsubscribe_to = [\"plain:news\"]\nallowed_origins = [\"https://*.example.com\"]\nqueue_max_size = 65536\n";
    format!("{sections}{}", CONFIG.replace("[client]\n", client))
}

const CONNECT: &str = r#"{"id":1,"connect":{}}"#;
const SSE: &str = "/connection/sse?cf_connect=%7B%22id%22%3A1%2C%22connect%22%3A%7B%7D%7D";

#[test]
fn what_breaks_the_protocol_ends_the_stream_with_its_code() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let server = cluster.node(0).http;
    let mut stream = Stream::post(server, "/connection/http_stream", "nonsense")?;
    let expected = json!({"push": {"disconnect": {"code": 3501, "reason": "bad request"}}});
    let last = stream.last(REACTION)?;
    ensure(last == expected, || last.to_string())?;
    let mut stream = Stream::get(server, SSE)?;
    let reply = stream.message(REACTION)?;
    let command = |data: &str| {
        let connect = &reply["connect"];
        json!({"session": connect["session"], "node": connect["node"], "data": data})
    };
    let taken = http::post(server, "/emulation", &[], &command(CONNECT))?;
    ensure(taken.status == 204, || format!("{taken:?}"))?;
    let last = stream.last(REACTION)?;
    ensure(last == expected, || last.to_string())?;
    let late = http::post(server, "/emulation", &[], &command("{}"))?;
    ensure(late.status == 204, || format!("{late:?}"))?;
    until(REACTION, || {
        let open = cluster.metric(0, "roomcast_connections")?;
        ensure(open == 0.0, || format!("{open} are open"))
    })
}

#[test]
fn requests_that_make_no_sense_are_refused() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let server = cluster.node(0).http;
    let cases = [
        ("GET", "/connection/sse", "", 400),
        ("GET", "/connection/http_stream", "", 405),
        ("POST", "/connection/http_stream", "", 400),
        ("POST", "/connection/uni_http_stream", "[]", 400),
        ("GET", "/connection/uni_sse?cf_connect=nonsense", "", 400),
        ("POST", "/emulation", "nonsense", 400),
        ("POST", "/emulation", r#"{"node":"0123456789abcdef","session":"x","data":""}"#, 404),
        ("POST", "/connection/nowhere", "{}", 404),
    ];
    for (method, path, body, status) in cases {
        let answer = http::request(server, method, path, &[], body)?;
        ensure(answer.status == status, || format!("{method} {path}: {answer:?}"))?;
    }
    let large = format!("{{\"data\":\"{}\"}}", "x".repeat(70_000));
    let answer = http::request(server, "POST", "/emulation", &[], &large)?;
    ensure(answer.status == 413, || format!("{answer:?}"))
}

#[test]
fn pages_of_other_sites_are_refused_and_browsers_are_told_who_may() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let server = cluster.node(0).http;
    let own = [("Origin", "https://app.example.com"), ("Access-Control-Request-Headers", "x-y")];
    let other = [("Origin", "https://example.org")];
    for path in ["/connection/http_stream", "/connection/uni_sse", "/connection/sse", "/emulation"]
    {
        let asked = http::request(server, "OPTIONS", path, &own, "")?;
        let header = |name| asked.header(name).unwrap_or_default();
        let right = header("access-control-allow-origin") == own[0].1
            && header("access-control-allow-headers") == "x-y"
            && header("access-control-allow-credentials") == "true";
        ensure(asked.status == 204 && right, || format!("{path}: {asked:?}"))?;
        for method in ["OPTIONS", "POST"] {
            let refused = http::request(server, method, path, &other, CONNECT)?;
            let silent = refused.header("access-control-allow-origin").is_none();
            ensure(refused.status == 403 && silent, || format!("{path}: {refused:?}"))?;
        }
    }
    let stream = Stream::open(server, "POST", "/connection/http_stream", &own, CONNECT)?;
    let allowed = "access-control-allow-origin: https://app.example.com";
    ensure(stream.head.contains(allowed), || stream.head.clone())
}

#[test]
fn a_slow_reader_is_let_go_and_holds_up_no_one() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let server = cluster.node(0).http;
    let first = format!("{CONNECT}\n{}", r#"{"id":2,"subscribe":{"channel":"plain:x"}}"#);
    let mut slow = Stream::post(server, "/connection/http_stream", &first)?;
    let mut quick = Stream::post(server, "/connection/http_stream", &first)?;
    for stream in [&mut slow, &mut quick] {
        stream.message(REACTION)?;
        let subscribed = stream.message(REACTION)?;
        ensure(subscribed["id"] == 2, || subscribed.to_string())?;
    }
    let data = "x".repeat(30 << 10);
    // More than the buffers of both kernels hold.
    for seq in 0..500 {
        cluster.api(
            0,
            "publish",
            &json!({"channel": "plain:x", "data": {"seq": seq, "data": data}}),
        )?;
        let push = quick.message(REACTION)?;
        ensure(push["push"]["pub"]["data"]["seq"] == seq, || push.to_string())?;
    }
    until(REACTION, || {
        let metrics = http::get(server, "/metrics")?.body;
        let gone = ["3008", "3009"].iter().any(|code| {
            metrics.contains(&format!("roomcast_disconnects_total{{code=\"{code}\"}} 1"))
        });
        let open = cluster.metric(0, "roomcast_connections")?;
        ensure(gone && open == 1.0, || format!("{open} are open"))
    })
}

#[test]
fn a_client_that_sends_on_the_connection_of_its_stream_costs_nothing() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let mut stream = Stream::post(cluster.node(0).http, "/connection/http_stream", CONNECT)?;
    stream.message(REACTION)?;
    // More than the dispatcher reads ahead, which then may look for room again and again: unless it does not,
    // the stream ends.
    stream.send_raw(&b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n".repeat(6000))?;
    let pid = cluster.node(0).pid();
    let (began, before) = (Instant::now(), cpu_seconds(pid)?);
    until(REACTION, || {
        let open = cluster.metric(0, "roomcast_connections")?;
        let (passed, taken) = (began.elapsed().as_secs_f64(), cpu_seconds(pid)? - before);
        let idle = passed > 3.0 && taken / passed < 0.3;
        ensure(open == 0.0 || idle, || format!("{open} are open, {taken} of {passed} s taken"))
    })
}

#[test]
fn transports_that_go_one_way_push_without_a_reply_around_it() -> Result<(), String> {
    let cluster = Cluster::start_with(1, &open_config())?;
    let server = cluster.node(0).http;
    let mut streams = vec![
        Stream::get(server, "/connection/uni_sse")?,
        Stream::get(server, "/connection/uni_sse?cf_connect=%7B%22name%22%3A%22x%22%7D")?,
        Stream::post(server, "/connection/uni_sse", "{}")?,
        Stream::post(server, "/connection/uni_http_stream", r#"{"name":"x"}"#)?,
    ];
    for stream in &mut streams {
        let connected = stream.message(REACTION)?;
        let connect = &connected["connect"];
        let right = connect["client"].is_string() && connect["session"].is_string();
        ensure(right && connect["pong"].is_null(), || connected.to_string())?;
    }
    let open = |path| {
        let (socket, head) = Socket::upgrade(server, path, &[])?;
        ensure(head.starts_with("HTTP/1.1 101"), || head.clone()).map(|()| socket)
    };
    let path = "/connection/uni_websocket";
    let mut sockets = [open(path)?, open("/connection/uni_websocket?cf_connect=%7B%7D")?];
    sockets[0].send_text("{}")?;
    let text = |socket: &mut Socket| match socket.event(REACTION)? {
        Event::Text(text) => serde_json::from_str::<Value>(&text).map_err(|e| e.to_string()),
        other => Err(format!("{other:?}")),
    };
    for socket in &mut sockets {
        let connected = text(socket)?;
        ensure(connected["connect"]["subs"]["plain:news"].is_object(), || connected.to_string())?;
        // What else such a client says is nothing to the server.
        socket.send_text("whatever")?;
    }
    cluster.api(0, "publish", &json!({"channel": "plain:news", "data": {"x": 1}}))?;
    let pushed = json!({"channel": "plain:news", "pub": {"data": {"x": 1}}});
    for stream in &mut streams {
        let push = stream.message(REACTION)?;
        ensure(push == pushed, || push.to_string())?;
    }
    for socket in &mut sockets {
        let push = text(socket)?;
        ensure(push == pushed, || push.to_string())?;
    }
    let mut last = Stream::post(server, "/connection/uni_http_stream", "{}")?;
    let own = last.message(REACTION)?["connect"]["session"].clone();
    cluster.api(0, "disconnect", &json!({"session": own}))?;
    let told = last.last(REACTION)?;
    ensure(told["disconnect"]["code"] == 3503, || told.to_string())?;
    cluster.node(0).terminate();
    let shutdown = json!({"disconnect": {"code": 3001, "reason": "shutdown"}});
    for stream in &mut streams {
        let told = stream.last(REACTION)?;
        ensure(told == shutdown, || told.to_string())?;
    }
    for socket in &mut sockets {
        let told = text(socket)?;
        ensure(told == shutdown, || told.to_string())?;
        let closed = socket.close_code(REACTION)?;
        ensure(closed.as_ref().is_some_and(|it| it.0 == 3001), || format!("{closed:?}"))?;
    }
    Ok(())
}

/// Expired in 2020; for the key `cluster-tests`.
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImV4cCI6MTYwMDAwMDAwMH0.Eqkyjk10Gp_dVi-0BqhKptlN0fUaidHBn_RfK0JXmWA";

#[test]
fn who_only_listens_is_told_by_a_disconnect_what_others_are_told_by_an_error() -> Result<(), String>
{
    let tokens = "[client.token]\nhmac_secret_key = \"cluster-tests\"\n";
    let config = "[uni_http_stream]\nenabled = true\n[http_api]\nkey = \"test\"\n";
    let cluster = Cluster::start_with(1, &format!("{tokens}{config}"))?;
    for (token, code) in [(EXPIRED, 3005), ("nonsense", 3500), ("", 3501)] {
        let connect = json!({"token": token}).to_string();
        let path = "/connection/uni_http_stream";
        let told = Stream::post(cluster.node(0).http, path, &connect)?.last(REACTION)?;
        ensure(told["disconnect"]["code"] == code, || format!("{token}: {told}"))?;
    }
    Ok(())
}
