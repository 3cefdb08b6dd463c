//! TLS on the clients' port: the official SDK over every transport, and certificates that change.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use cluster_tests::authority::Authority;
use cluster_tests::check::{self, Log, messages_of};
use cluster_tests::paths;
use cluster_tests::process::{Process, SECONDS, free_address, in_shell};
use cluster_tests::sdk::Clients;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::wait::{ensure, until};
use nix::sys::signal::Signal;
use rustls::pki_types::CertificateDer;

fn text<E: std::fmt::Display>(error: E) -> String {
    error.to_string()
}

#[test]
fn the_sdk_works_over_tls_on_every_transport() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let node = authority.start()?;
    let url = format!("wss://{}/connection/websocket", node.http);
    let mut clients = Clients::default();
    clients.authority = Some(authority.own.clone());
    let names = ["json", "proto", "sse", "lines"];
    clients.connect("json", (Js, Json), &url).map_err(text)?;
    clients.connect("proto", (Js, Protobuf), &url).map_err(text)?;
    clients.connect_over("sse", "sse", Json, &url, &[node.http]).map_err(text)?;
    clients.connect_over("lines", "http_stream", Protobuf, &url, &[node.http]).map_err(text)?;
    for name in names {
        clients.subscribe(name, "lobby").map_err(text)?;
    }
    // Large enough to fill what TLS and the kernel hold.
    let pad = "x".repeat(40_000);
    for (name, count) in names.map(|name| (name, 10)) {
        for seq in 1..=count {
            let data = serde_json::json!({"from": name, "seq": seq, "pad": pad});
            clients.publish(name, "lobby", data).map_err(text)?;
        }
    }
    for name in names {
        clients.until(name, Duration::from_secs(20), |events| {
            let count = events.iter().filter(|it| it["ev"] == "pub").count();
            ensure(count == 40, || format!("it has {count}"))
        })?;
    }
    let logs: Vec<Log> = names.iter().map(|name| clients.log(name, "lobby")).collect();
    let sent = names.map(|name| (name, 10));
    let sent: Vec<_> = sent.iter().flat_map(|(name, count)| messages_of(name, *count)).collect();
    check::complete(&logs, &sent)
}

#[test]
fn a_new_certificate_is_used_and_a_broken_one_is_not() -> Result<(), String> {
    let authority = Authority::new()?;
    let first = authority.issue()?;
    let node = authority.start()?;
    let (shown, answer) = authority.look(node.http)?;
    ensure(shown == first && answer.starts_with("HTTP/1.1 200"), || answer.clone())?;
    fs::write(&authority.chain, "-----BEGIN CERTIFICATE-----\nnonsense").map_err(text)?;
    until(Duration::from_secs(15), || {
        let log = node.log();
        ensure(log.contains("the old one stays"), || log.clone())
    })?;
    ensure(authority.look(node.http)?.0 == first, || "it shows another".to_owned())?;
    let second = authority.issue()?;
    until(Duration::from_secs(15), || {
        let (shown, _) = authority.look(node.http)?;
        ensure(shown == second, || "it shows the old one".to_owned())
    })
}

#[test]
fn a_certificate_that_is_named_anew_counts_at_a_hangup_and_no_client_hears_of_it()
-> Result<(), String> {
    let mut authority = Authority::new()?;
    let first = authority.issue()?;
    let (file, log) = (paths::scratch(".toml"), paths::scratch(".log"));
    fs::write(&file, authority.config("")).map_err(text)?;
    let http = free_address()?;
    let after = format!("-c {} 2>{}", file.display(), log.display());
    let node = Process::launch(in_shell("", http, &after), http)?;
    let shows = |authority: &Authority, expected: &CertificateDer<'_>| {
        let (shown, _) = authority.look(http)?;
        ensure(shown == *expected, || "it shows another".to_owned())
    };
    until(SECONDS, || shows(&authority, &first))?;
    let mut clients = Clients::default();
    clients.authority = Some(authority.own.clone());
    clients
        .connect("a", (Js, Json), &format!("wss://{http}/connection/websocket"))
        .map_err(text)?;
    clients.subscribe("a", "lobby").map_err(text)?;

    // Other files: those that are watched stay as they are.
    (authority.chain, authority.key) = (paths::scratch(".new.pem"), paths::scratch(".new.key.pem"));
    let second = authority.issue()?;
    fs::write(&file, authority.config("")).map_err(text)?;
    shows(&authority, &first)?;
    node.signal(Signal::SIGHUP as i32)?;
    until(SECONDS, || shows(&authority, &second))?;
    clients.publish("a", "lobby", serde_json::json!("still here")).map_err(text)?;
    clients.until("a", SECONDS, |events| {
        let connected = events.iter().filter(|it| it["state"] == "connected").count();
        let got = events.iter().filter(|it| it["ev"] == "pub").count();
        ensure((connected, got) == (1, 1), || format!("{events:?}"))
    })?;

    fs::write(&authority.chain, "nonsense").map_err(text)?;
    node.signal(Signal::SIGHUP as i32)?;
    until(SECONDS, || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        ensure(log.contains("the old one stays"), || log)
    })?;
    shows(&authority, &second)
}

#[test]
fn who_speaks_no_tls_gets_nothing() -> Result<(), String> {
    let authority = Authority::new()?;
    authority.issue()?;
    let node = authority.start()?;
    let mut plain = TcpStream::connect(node.http).map_err(text)?;
    plain.set_read_timeout(Some(Duration::from_secs(8))).map_err(text)?;
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").map_err(text)?;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).map_err(text)?;
    ensure(!answer.starts_with(b"HTTP"), || String::from_utf8_lossy(&answer).into_owned())?;
    let (_, answer) = authority.look(node.http)?;
    ensure(answer.starts_with("HTTP/1.1 200"), || answer.clone())
}
