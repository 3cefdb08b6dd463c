//! Bugs that were found once: one short test each, named by what broke.

use std::time::Duration;

use cluster_tests::cluster::Cluster;
use cluster_tests::http;
use cluster_tests::ws::Socket;
use serde_json::json;

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
