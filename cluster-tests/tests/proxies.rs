//! What proxies in front of a node do, and what comes through them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cluster_tests::cluster::CONFIG;
use cluster_tests::http::{self, Connection, Response};
use cluster_tests::world::{REACTION, World};
use cluster_tests::ws::Socket;
use serde_json::json;

const KEY: (&str, &str) = ("X-API-Key", "test");
const ORIGIN: &str = "https://app.example";

fn with(options: &str) -> World {
    let client = format!("[client]\nallowed_origins = [\"{ORIGIN}\"]");
    World::with(1, &(CONFIG.replace("[client]", &client) + options))
}

#[test]
fn who_sends_all_of_a_body_first_still_learns_why_it_is_refused() {
    let world = with("");
    let server = world.cluster.node(0).http;
    let body = json!({"channel": "x", "data": "y".repeat(900_000)}).to_string();
    for _ in 0..20 {
        let key = [("X-API-Key", "wrong")];
        let answer = http::request(server, "POST", "/api/publish", &key, &body);
        let answer = answer.expect("the answer arrives");
        assert!(answer.status == 401 && answer.body.contains("X-API-Key"), "{answer:?}");
        let answer = http::request(server, "POST", "/emulation", &[], &body);
        assert_eq!(answer.expect("the answer arrives").status, 413);
    }
    let large = json!({"channel": "x", "data": "y".repeat(17 << 20)}).to_string();
    let answer = http::request(server, "POST", "/api/publish", &[KEY], &large);
    assert_eq!(answer.expect("the answer arrives").status, 413);
}

fn publish(connection: &mut Connection, headers: &[(&str, &str)]) -> Result<Response, String> {
    connection.post("/api/publish", headers, &json!({"channel": "x", "data": 1}))
}

#[test]
fn a_connection_is_kept_as_long_as_proxies_keep_it() {
    let world = with("");
    let mut kept = Connection::open(world.cluster.node(0).http, REACTION).expect("a connection");
    assert_eq!(publish(&mut kept, &[KEY]).expect("an answer").status, 200);
    // Longer than what HTTP servers commonly wait for the next request.
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(publish(&mut kept, &[KEY]).expect("an answer").status, 200);
}

#[test]
fn how_long_a_connection_is_kept_can_be_configured() {
    let world = with("[http_server]\nkeep_alive = \"1s\"\n");
    let server = world.cluster.node(0).http;
    let mut socket = Socket::tcp(server).expect("a connection");
    socket.send_raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let head = socket.read_head(REACTION).expect("an answer");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let since = Instant::now();
    let _ = socket.read_head(Duration::from_secs(10));
    let kept = since.elapsed();
    assert!((500..5_000).contains(&kept.as_millis()), "kept for {kept:?}");
}

#[test]
fn connection_upgrade_on_an_ordinary_request_is_harmless() {
    let world = with("");
    let server = world.cluster.node(0).http;
    for _ in 0..20 {
        let mut connection = Connection::open(server, REACTION).expect("a connection");
        let answer =
            publish(&mut connection, &[KEY, ("Connection", "upgrade")]).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        // A proxy that is told so sends the next request by another connection, and loses none.
        assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
    }
}

/// The answer to what is sent as it is.
fn answer(server: SocketAddr, request: &str) -> Response {
    let mut socket = Socket::tcp(server).expect("a connection");
    socket.send_raw(request.as_bytes()).expect("sent");
    let head = socket.read_head(REACTION).expect("an answer");
    let body = socket.read_rest(REACTION).expect("a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok());
    Response { status: status.expect("a status"), headers: head, body }
}

#[test]
fn a_websocket_that_lost_its_upgrade_on_the_way_is_told_what_the_proxy_must_pass() {
    let world = with("");
    let server = world.cluster.node(0).http;
    for headers in [
        "",
        "Connection: close\r\n",
        "Connection: upgrade\r\n",
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    ] {
        let request = format!("GET /connection/websocket HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        let answer = answer(server, &request);
        let told = answer.body.contains("Upgrade: websocket") && answer.body.contains("proxy");
        assert!(answer.status == 400 && told, "{headers:?}: {answer:?}");
    }
}

#[test]
fn pages_that_may_connect_may_read_why_they_are_refused() {
    let world = with("");
    let server = world.cluster.node(0).http;
    let large = json!({"node": "x", "session": "x", "data": "y".repeat(100_000)}).to_string();
    let nobody = r#"{"node":"0123456789abcdef","session":"x","data":""}"#;
    for (path, body, status) in [
        ("/emulation", nobody, 404),
        ("/emulation", &*large, 413),
        ("/emulation", "{", 400),
        ("/connection/nowhere", "{}", 404),
        ("/connection/websocket", "", 400),
    ] {
        let method = if body.is_empty() { "GET" } else { "POST" };
        let to = |origin| http::request(server, method, path, &[("Origin", origin)], body);
        let answer = to(ORIGIN).expect("an answer");
        assert_eq!(answer.status, status, "{path}: {answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN), "{path}");
        let foreign = to("https://other.example").expect("an answer");
        assert_eq!(foreign.header("access-control-allow-origin"), None, "{path}");
    }
}

#[test]
fn addresses_behind_a_proxy_are_told_apart_with_ports_and_brackets() {
    let config = "[http_server]\ntrusted_proxies = [\"127.0.0.0/8\"]\n";
    let limited = CONFIG.replace("[client]", "[client]\nip_connection_limit = 1");
    let world = World::with(1, &(limited + config));
    let server = world.cluster.node(0).http;
    let mut open = Vec::new();
    let mut connect = |header: (&str, &str)| {
        let (socket, head) =
            Socket::upgrade(server, "/connection/websocket", &[header]).expect("an answer");
        open.push(socket);
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    for (header, status) in [
        (("X-Forwarded-For", "192.0.2.1:1001"), "101"),
        (("X-Forwarded-For", "192.0.2.2:1001"), "101"),
        (("X-Forwarded-For", "192.0.2.1:1002"), "503"),
        (("X-Forwarded-For", "[2001:db8::1]:1001"), "101"),
        (("Forwarded", "for=192.0.2.3;proto=https"), "101"),
        (("Forwarded", "for=\"192.0.2.3:1002\""), "503"),
        (("Forwarded", "for=\"[2001:db8::1]:1002\""), "503"),
    ] {
        assert_eq!(connect(header), status, "{header:?}");
    }
}
