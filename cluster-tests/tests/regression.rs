//! Bugs that were found once: one short test each, named by what broke.

use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::http;
use cluster_tests::ws::{Event, Frame, Socket, opcode};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(5);
const KEY: (&str, &str) = ("X-API-Key", "test");

/// A connected raw JSON session on node 0.
fn session(cluster: &Cluster) -> Socket {
    let mut socket = Socket::open(cluster.node(0).http, None).expect("an upgrade");
    socket.connect().expect("a connect reply");
    socket
}

#[test]
fn the_api_kept_bodies_of_callers_without_a_key_and_waited_for_them() {
    let cluster = Cluster::start(1).expect("a node");
    let server = cluster.node(0).http;
    let head = |key: &str| {
        format!("POST /api/publish HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 16000000\r\n\r\n")
    };
    let mut stranger = Socket::tcp(server).expect("a connection");
    stranger.send_raw(head("").as_bytes()).expect("sent");
    let answer = stranger.read_head(SOON).expect("an answer before the body");
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let mut slow = Socket::tcp(server).expect("a connection");
    slow.send_raw(head("X-API-Key: test\r\n").as_bytes()).expect("sent");
    let answer = slow.read_head(Duration::from_secs(20)).expect("an answer to half a request");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[test]
fn the_api_rounded_numbers_and_lost_what_it_could_not_hold() {
    let cluster = Cluster::start(1).expect("a node");
    let mut socket = session(&cluster);
    for (id, data) in [(2, "1e999"), (3, "{\"b\":1.10,\"a\":12345678901234567890123}")] {
        let publish =
            format!("{{\"id\":{id},\"publish\":{{\"channel\":\"odd\",\"data\":{data}}}}}");
        socket.send_text(&publish).expect("sent");
        socket.event(SOON).expect("a reply");
    }
    let history = json!({"channel": "odd", "limit": 10});
    let answer = http::post(cluster.node(0).http, "/api/history", &[KEY], &history);
    let body = answer.expect("an answer").body;
    for data in ["{\"data\":1e999,", "{\"data\":{\"b\":1.10,\"a\":12345678901234567890123},"] {
        assert!(body.contains(data), "{body}");
    }
}

#[test]
fn the_api_took_a_key_only_unescaped_and_in_lower_case() {
    let cluster = Cluster::start(1).expect("a node");
    let server = cluster.node(0).http;
    let status = |path: &str, headers: &[(&str, &str)]| {
        http::post(server, path, headers, &json!({})).expect("an answer").status
    };
    assert_eq!(status("/api/info?api_key=%74est", &[]), 200);
    assert_eq!(status("/api/info", &[("Authorization", "ApiKey test")]), 200);
    assert_eq!(status("/api/info?api_key=%74es", &[]), 401);
}

#[test]
fn health_knew_no_head_and_upgrades_no_version() {
    let cluster = Cluster::start(1).expect("a node");
    let server = cluster.node(0).http;
    let answer = http::request(server, "HEAD", "/health", &[], "").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let mut old = Socket::tcp(server).expect("a connection");
    let request = "GET /connection/websocket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Version: 8\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    old.send_raw(request.as_bytes()).expect("sent");
    let head = old.read_head(SOON).expect("an answer").to_lowercase();
    assert!(
        head.starts_with("http/1.1 426") && head.contains("sec-websocket-version: 13"),
        "{head}"
    );
}

/// [`CONFIG`] with options of its own for `section`.
fn with(section: &str, options: &str) -> String {
    let header = format!("[{section}]\n");
    match CONFIG.contains(&header) {
        true => CONFIG.replace(&header, &format!("{header}{options}\n")),
        false => format!("{header}{options}\n{CONFIG}"),
    }
}

#[test]
fn a_stopping_node_dropped_most_of_its_clients_without_a_word() {
    let mut cluster = Cluster::start_with(1, &with("http_server", "workers = 1")).expect("a node");
    let mut sockets: Vec<Socket> = (0..500).map(|_| session(&cluster)).collect();
    let began = Instant::now();
    cluster.node(0).terminate();
    for (index, socket) in sockets.iter_mut().enumerate() {
        let closed = socket.close_code(SOON).expect("an end");
        assert_eq!(closed.map(|(code, _)| code), Some(3001), "socket {index}");
    }
    drop(sockets);
    let status = cluster.node_mut(0).exit_status(SOON).expect("it ends");
    assert!(status.success() && began.elapsed() < SOON, "{status} after {:?}", began.elapsed());
}

#[test]
fn a_burst_closed_the_readers_that_took_it() {
    let patient = with("client", "write_timeout = \"60s\"");
    let cluster = Cluster::start_with(1, &patient).expect("a node");
    let reader = |mut socket: Socket| {
        let subscribe = json!({"id": 2, "subscribe": {"channel": "plain:x"}});
        socket.command(&subscribe).expect("a reply");
        thread::spawn(move || {
            let mut got = 0;
            while got < 60 {
                match socket
                    .event(Duration::from_secs(20))
                    .map_err(|it| format!("{it} after {got}"))?
                {
                    Event::Text(text) => got += text.matches("\"pub\"").count(),
                    other => return Err(format!("{other:?} after {got}")),
                }
            }
            Ok(())
        })
    };
    let readers: Vec<_> = (0..3).map(|_| reader(session(&cluster))).collect();
    let data = "x".repeat(50_000);
    let publish = |id: u64| json!({"id": id, "publish": {"channel": "plain:x", "data": data}});
    let burst: Vec<u8> =
        (2..62).flat_map(|id| Frame::new(opcode::TEXT, publish(id).to_string()).bytes()).collect();
    let mut publisher = session(&cluster);
    publisher.send_raw(&burst).expect("sent");
    for reader in readers {
        assert_eq!(reader.join().expect("a thread"), Ok(()));
    }
}

#[test]
fn replies_that_nobody_reads_were_made_all_the_same() {
    // The reader shares a small machine with the server, and may get no turn for a while.
    let patient = with("client", "write_timeout = \"60s\"");
    let cluster = Cluster::start_with(1, &patient).expect("a node");
    let padding = json!({"channel": "large", "data": "x".repeat(50_000)});
    for _ in 0..10 {
        cluster.api(0, "publish", &padding).expect("published");
    }
    let mut socket = session(&cluster);
    // Each is answered with 500 KB.
    let command = |id: u64| json!({"id": id, "history": {"channel": "large", "limit": 100}});
    let commands: Vec<String> = (2..102).map(|id| command(id).to_string()).collect();
    socket.send_text(&commands.join("\n")).expect("sent");
    let mut ids = Vec::new();
    while ids.len() < 100 {
        let event = socket.event(Duration::from_secs(20)).expect("replies");
        let Event::Text(text) = event else { panic!("{event:?} after {ids:?}") };
        let replies = text.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
        ids.extend(replies.filter_map(|reply| reply["id"].as_u64()));
    }
    assert_eq!(ids, (2..102).collect::<Vec<_>>());
}

#[test]
fn a_client_that_takes_nothing_stayed_until_its_next_ping() {
    let cluster = Cluster::start_with(1, &with("client", "queue_max_size = 100000000"));
    let cluster = cluster.expect("a node");
    let mut silent = session(&cluster);
    silent.command(&json!({"id": 2, "subscribe": {"channel": "plain:x"}})).expect("a reply");
    let padding = json!({"channel": "plain:x", "data": "x".repeat(1_000_000)});
    // More than the buffers of both kernels.
    for _ in 0..20 {
        cluster.api(0, "publish", &padding).expect("published");
    }
    let closed = || -> Result<(), String> {
        let text = http::get(cluster.node(0).http, "/metrics")?.body;
        let line = "roomcast_disconnects_total{code=\"3009\"} 1";
        cluster_tests::wait::ensure(text.contains(line), || "not closed".to_owned())
    };
    cluster_tests::wait::until(SOON, closed).expect("it is let go");
    let closed = silent.close_code(SOON).expect("an end");
    assert_eq!(closed.map(|(code, _)| code), Some(3009), "it reads again in time");
}

#[test]
fn an_older_alarm_cut_the_close_handshake() {
    let cluster = Cluster::start_with(1, &with("client", "stale_close_delay = \"3s\""));
    let cluster = cluster.expect("a node");
    let mut socket = session(&cluster);
    thread::sleep(Duration::from_millis(1500));
    socket.send_text("").expect("sent");
    let closed = socket.close_code(SOON).expect("an end");
    assert_eq!(closed.map(|(code, _)| code), Some(3501));
    let began = Instant::now();
    assert_eq!(socket.event(Duration::from_secs(10)), Ok(Event::End));
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(4), "the client had only {waited:?} to answer");
}

#[test]
fn whoever_broke_the_protocol_had_to_wait_for_the_end() {
    let cluster = Cluster::start(1).expect("a node");
    let mut socket = session(&cluster);
    socket.send(&Frame::new(opcode::TEXT, [0xff])).expect("sent");
    let began = Instant::now();
    assert_eq!(socket.close_code(SOON).map(|it| it.map(|(code, _)| code)), Ok(Some(1007)));
    socket.send(&Frame::new(opcode::CLOSE, 1007_u16.to_be_bytes())).expect("sent");
    assert_eq!(socket.event(SOON), Ok(Event::End));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[test]
fn fragments_without_content_held_up_everyone() {
    let cluster = Cluster::start_with(1, &with("http_server", "workers = 1")).expect("a node");
    let mut healthy = session(&cluster);
    let mut hostile = session(&cluster);
    let begin = Frame { fin: false, ..Frame::new(opcode::TEXT, "é".repeat(32_000)) };
    let go_on = |payload: &str| Frame { fin: false, ..Frame::new(opcode::CONTINUATION, payload) };
    hostile.send(&begin).expect("sent");
    let fragments = go_on("x").bytes().repeat(1000);
    hostile.send_raw(&fragments).expect("sent");
    let empty = go_on("").bytes().repeat(20_000);
    let _ = hostile.send_raw(&empty);
    let began = Instant::now();
    healthy.command(&json!({"id": 2, "presence_stats": {"channel": "x"}})).expect("a reply");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    let closed = hostile.close_code(SOON).expect("an end");
    assert_eq!(closed.map(|(code, _)| code), Some(1002));
}

#[test]
fn what_was_sent_was_counted_for_pushes_only() {
    let cluster = Cluster::start(1).expect("a node");
    let before = cluster.metric(0, "roomcast_sent_bytes_total").expect("counted");
    let mut socket = session(&cluster);
    socket.command(&json!({"id": 2, "presence_stats": {"channel": "x"}})).expect("a reply");
    let after = cluster.metric(0, "roomcast_sent_bytes_total").expect("counted");
    assert!(after > before + 100.0, "{before} {after}");
    assert_eq!(cluster.metric(0, "roomcast_messages_sent_total"), Ok(2.0));
    let text = http::get(cluster.node(0).http, "/metrics").expect("an answer").body;
    for code in [1009, 3001, 3008, 3009, 3012, 3501] {
        let line = format!("roomcast_disconnects_total{{code=\"{code}\"}} 0");
        assert!(text.contains(&line), "{line} is missing");
    }
}
