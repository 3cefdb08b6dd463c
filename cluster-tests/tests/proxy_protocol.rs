//! The PROXY protocol on the clients' port: headers of both versions as bytes, with and without TLS, and those that are
//! none.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use cluster_tests::authority::Authority;
use cluster_tests::backend::{Act, Backend};
use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::http;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::REACTION;
use cluster_tests::ws::Socket;
use serde_json::json;

const UPGRADE: &str = "GET /connection/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// A header of version 2 that names a client of IPv4.
fn binary(client: [u8; 4]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0f".to_vec();
    header.extend(client);
    // To where, the ports, and something more that the proxy says.
    header.extend([10, 0, 0, 1, 0x12, 0x67, 0x01, 0xbb, 0x04, 0, 0]);
    header
}

fn text(client: &str) -> Vec<u8> {
    let family = if client.contains(':') { "TCP6" } else { "TCP4" };
    let proxy = if client.contains(':') { "2001:db8::ff" } else { "10.0.0.1" };
    format!("PROXY {family} {client} {proxy} 4711 443\r\n").into_bytes()
}

const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// [`CONFIG`] with one client an address, and these options of `http_server`.
fn config(options: &str) -> String {
    CONFIG.replace("[client]", "[client]\nip_connection_limit = 1")
        + &format!("[http_server]\nproxy_protocol = true\n{options}\n")
}

/// One node. It is not asked whether it is well: who asks would have to send a header.
fn node(config: &str) -> Result<Cluster, String> {
    let mut cluster = Cluster::start_with(0, config)?;
    cluster.add()?;
    Ok(cluster)
}

/// What comes after these bytes and an upgrade request: the socket, to be held, and the status.
fn upgrade(server: SocketAddr, header: &[u8], more: &str) -> Result<(Socket, String), String> {
    let mut socket = Socket::tcp(server)?;
    socket.send_raw(header)?;
    socket.send_raw(format!("{UPGRADE}{more}\r\n").as_bytes())?;
    let head = socket.read_head(REACTION)?;
    Ok((socket, head.split(' ').nth(1).unwrap_or_default().to_owned()))
}

#[test]
fn clients_are_told_apart_by_what_the_proxy_says_of_them() -> Result<(), String> {
    let cluster = node(&config(""))?;
    let server = cluster.node(0).http;
    let mut open = Vec::new();
    for (header, status) in [
        (text("192.0.2.1"), "101"),
        (text("192.0.2.2"), "101"),
        (text("192.0.2.1"), "503"),
        (binary([192, 0, 2, 2]), "503"),
        (binary([192, 0, 2, 3]), "101"),
        (text("2001:db8::1"), "101"),
        (text("2001:db8::2"), "503"),
        (text("::ffff:192.0.2.3"), "503"),
        // The proxy itself, and then it is the second of its address.
        (b"PROXY UNKNOWN\r\n".to_vec(), "101"),
        (LOCAL.to_vec(), "503"),
    ] {
        let (socket, answer) = upgrade(server, &header, "")?;
        open.push(socket);
        ensure(answer == status, || format!("{}: {answer}", header.escape_ascii()))?;
    }
    Ok(())
}

#[test]
fn a_header_may_come_in_pieces_and_with_what_follows() -> Result<(), String> {
    let cluster = node(&config(""))?;
    let server = cluster.node(0).http;
    let request = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    for header in [text("192.0.2.1"), binary([192, 0, 2, 1]), LOCAL.to_vec()] {
        for pieces in [1, header.len() - 1, header.len() + request.len()] {
            let mut socket = Socket::tcp(server)?;
            for piece in [&header, request.as_bytes()].concat().chunks(pieces) {
                socket.send_raw(piece)?;
            }
            let head = socket.read_head(REACTION)?;
            ensure(head.starts_with("HTTP/1.1 200"), || head.clone())?;
        }
    }
    Ok(())
}

#[test]
fn what_is_no_header_ends_the_connection_and_is_logged() -> Result<(), String> {
    let cluster = node(&config(""))?;
    let server = cluster.node(0).http;
    let long = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 20_000]].concat();
    for bytes in [
        &b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"[..],
        b"PROXY TCP4 nowhere 10.0.0.1 1 2\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        &long,
    ] {
        let mut socket = Socket::tcp(server)?;
        // It may be closed while this goes.
        let _ = socket.send_raw(bytes);
        let answer = socket.read_rest(Duration::from_secs(3))?;
        ensure(answer.is_empty(), || format!("{}: {answer}", bytes.escape_ascii()))?;
    }
    for _ in 0..200 {
        let mut socket = Socket::tcp(server)?;
        let _ = socket.send_raw(b"SSH-2.0-x\r\n");
        let _ = socket.read_rest(Duration::from_secs(3))?;
    }
    // The log comes through a pipe.
    until(REACTION, || {
        let log = cluster.logs();
        let lines = log.lines().filter(|it| it.contains("a connection was closed")).count();
        ensure((3..=10).contains(&lines), || format!("{lines} lines: {log}"))?;
        for why in ["does not begin with", "is malformed", "proxy_protocol"] {
            ensure(log.contains(why), || format!("not {why}: {log}"))?;
        }
        Ok(())
    })
}

#[test]
fn who_never_sends_a_header_holds_no_connection() -> Result<(), String> {
    let cluster = node(&config(""))?;
    let server = cluster.node(0).http;
    let since = Instant::now();
    let open = |bytes: &[u8]| -> Result<Socket, String> {
        let mut socket = Socket::tcp(server)?;
        socket.send_raw(bytes)?;
        Ok(socket)
    };
    let silent = [open(b"")?, open(b"PROXY TCP4 192.0")?, open(&binary([1, 2, 3, 4])[..20])?];
    for mut socket in silent {
        socket.read_rest(Duration::from_secs(9))?;
    }
    let held = since.elapsed();
    ensure(held > Duration::from_secs(4), || format!("closed after {held:?}"))?;
    until(REACTION, || {
        let log = cluster.logs();
        ensure(log.contains("came within 5 s"), || log.clone())
    })
}

#[test]
fn only_named_proxies_speak_it_and_others_are_who_they_are() -> Result<(), String> {
    // Tests come from 127.0.0.1.
    let others = config("trusted_proxies = [\"192.0.2.0/24\"]");
    let cluster = node(&others)?;
    let server = cluster.node(0).http;
    let (_first, status) = upgrade(server, b"", "")?;
    ensure(status == "101", || status.clone())?;
    let (_second, status) = upgrade(server, b"", "X-Forwarded-For: 198.51.100.1\r\n")?;
    ensure(status == "503", || status.clone())?;
    // What begins with a header is no request.
    let (_third, status) = upgrade(server, &text("198.51.100.1"), "")?;
    ensure(status == "400", || status.clone())
}

#[test]
fn a_proxy_in_front_of_another_is_believed_as_far_as_it_is_named() -> Result<(), String> {
    let chain = config("trusted_proxies = [\"127.0.0.0/8\", \"192.0.2.0/24\"]");
    let cluster = node(&chain)?;
    let server = cluster.node(0).http;
    let said = "X-Forwarded-For: 198.51.100.1\r\n";
    let mut open = Vec::new();
    for (proxy, more, status) in [
        ("192.0.2.1", said, "101"),
        ("192.0.2.2", said, "503"),
        // No proxy: what it says, it may have made up.
        ("203.0.113.1", said, "101"),
        ("203.0.113.1", "X-Forwarded-For: 198.51.100.2\r\n", "503"),
    ] {
        let (socket, answer) = upgrade(server, &text(proxy), more)?;
        open.push(socket);
        ensure(answer == status, || format!("{proxy}: {answer}"))?;
    }
    Ok(())
}

#[test]
fn the_header_comes_before_tls() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let options = "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]";
    let backend = Backend::start(|_| Act::Say(json!({"result": {"user": "42"}})))?;
    let connect = format!(
        "[client.proxy.connect]\nenabled = true\nendpoint = \"{}\"\n\
         http_headers = [\"X-Real-IP\", \"X-Forwarded-For\"]\n",
        backend.url("connect")
    );
    let cluster = node(&(authority.config(options) + &connect))?;
    let server = cluster.node(0).http;
    let body = r#"{"id":1,"connect":{}}"#;
    let request = format!(
        "POST /connection/http_stream HTTP/1.1\r\nHost: a\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-For: 6.6.6.6\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    for (header, client) in
        [(text("192.0.2.1"), "192.0.2.1"), (binary([192, 0, 2, 2]), "192.0.2.2")]
    {
        // The stream goes on until the client has enough.
        let (_, answer) = authority.exchange(server, &header, &request)?;
        ensure(answer.starts_with("HTTP/1.1 200"), || answer.clone())?;
        until(REACTION, || {
            let asked = backend.asked("connect");
            let last = asked.last().ok_or("nobody asked")?;
            let seen = ["x-real-ip", "x-forwarded-for"].map(|it| last.header(it).unwrap_or("none"));
            ensure(seen == [client; 2], || format!("{seen:?}, not {client}"))
        })?;
    }
    // Within TLS it is nothing but noise, and without it nothing at all.
    let health = "GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    ensure(authority.exchange(server, b"", health).is_err(), || "it took one".to_owned())?;
    let (_, answer) = authority.exchange(server, LOCAL, health)?;
    ensure(answer.starts_with("HTTP/1.1 200"), || answer.clone())
}

#[test]
fn both_families_are_served_by_default_and_ipv4_is_shown_as_such() -> Result<(), String> {
    use cluster_tests::process::{Process, command, free_address};
    let address = free_address()?;
    let mut command = command(&["serve"]);
    command
        .env("ROOMCAST_HTTP_SERVER_PORT", address.port().to_string())
        .env("ROOMCAST_CLIENT_INSECURE", "true")
        .env("ROOMCAST_CLIENT_IP_CONNECTION_LIMIT", "1")
        .env("ROOMCAST_LOG_LEVEL", "info,roomcast::server::admission=debug")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut node = Process::start(command, address)?;
    let six = SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, address.port()));
    let mut expected = vec![(address, "127.0.0.1")];
    if TcpStream::connect(six).is_ok() {
        expected.push((six, "::1"));
    }
    let mut open = Vec::new();
    for (server, _) in &expected {
        ensure(http::get(*server, "/health")?.status == 200, || format!("not {server}"))?;
        for status in ["101", "503"] {
            let (socket, answer) = upgrade(*server, b"", "")?;
            open.push(socket);
            ensure(answer == status, || format!("{server}: {answer}"))?;
        }
    }
    let mut log = String::new();
    let stderr = node.take_stderr().ok_or("no log")?;
    node.leave()?;
    std::io::Read::read_to_string(&mut { stderr }, &mut log).map_err(|e| e.to_string())?;
    for (_, shown) in expected {
        let line = format!("address={shown} ");
        ensure(log.contains(&line), || format!("not {line}: {log}"))?;
    }
    ensure(!log.contains("::ffff:"), || log.clone())
}
