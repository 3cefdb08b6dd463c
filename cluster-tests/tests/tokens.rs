//! Tokens: who gets in, who doesn't, and with which code.
//!
//! The tokens are constants, so that no signing library stands between the test
//! and the bytes. All are for the key `cluster-tests`.

use cluster_tests::cluster::Cluster;
use cluster_tests::wait::ensure;
use cluster_tests::world::REACTION;
use cluster_tests::ws::Socket;
use serde_json::{Value, json};

const CONFIG: &str = r#"
[client.token]
hmac_secret_key = "cluster-tests"
[channel.without_namespace]
allow_subscribe_for_client = true
[http_api]
key = "test"
"#;

/// `sub` 42, HS256 with the configured key.
const GOOD: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.RdS4wendYwh5wNLsNEZ9rk6FXivlUdoeTVCNqs5bGxc";
/// The same, expired in 2020.
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImV4cCI6MTYwMDAwMDAwMH0.Eqkyjk10Gp_dVi-0BqhKptlN0fUaidHBn_RfK0JXmWA";
/// Signed with another key.
const OTHER_KEY: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiJ9.bym7LQ8ycFcCFtaXyXcXGfx_H4_gptw_S86uYpJqprI";
/// `alg: none`, without a signature.
const NO_ALGORITHM: &str = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiI0MiJ9.";
/// Not valid before 2100.
const NOT_YET: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsIm5iZiI6NDEwMjQ0NDgwMH0.zPFf28845eoe66aHloh3KFkrNUgm9ukT14aMHwEppwU";
/// A subscription token where a connection token belongs.
const WITH_CHANNEL: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiI0MiIsImNoYW5uZWwiOiJ4In0.dX9fsmuixPrxceRdcHIP6pK-0_O-65uQCZou1HaPsRc";
fn connect(cluster: &Cluster, token: &str) -> Result<(Socket, Value), String> {
    let mut socket = Socket::open(cluster.node(0).http, None)?;
    let connect = if token.is_empty() { json!({}) } else { json!({"token": token}) };
    let reply = socket.command(&json!({"id": 1, "connect": connect}))?;
    Ok((socket, reply))
}

/// Connecting with the token closes the connection with `code`.
fn refused(cluster: &Cluster, token: &str, code: u16) -> Result<(), String> {
    let mut socket = Socket::open(cluster.node(0).http, None)?;
    let connect = if token.is_empty() { json!({}) } else { json!({"token": token}) };
    socket.send_text(&json!({"id": 1, "connect": connect}).to_string())?;
    let closed = socket.close_code(REACTION)?;
    let right = closed.as_ref().is_some_and(|(c, _)| *c == code);
    ensure(right, || format!("{token}: expected {code}, got {closed:?}"))
}

#[test]
fn only_a_good_token_connects() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let (_, reply) = connect(&cluster, GOOD)?;
    ensure(reply["connect"]["client"].is_string(), || reply.to_string())?;
    for (token, code) in [
        ("", 3501),
        ("garbage", 3500),
        ("a.b.c", 3500),
        (OTHER_KEY, 3500),
        (NO_ALGORITHM, 3500),
        (NOT_YET, 3500),
        (WITH_CHANNEL, 3500),
    ] {
        refused(&cluster, token, code)?;
    }
    refused(&cluster, &format!("{GOOD}x"), 3500)?;
    refused(&cluster, &"x".repeat(60_000), 3500)
}

#[test]
fn after_an_expired_token_only_another_connection_helps() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let (mut socket, reply) = connect(&cluster, EXPIRED)?;
    ensure(reply["error"]["code"] == 109, || reply.to_string())?;
    socket.send_text(&json!({"id": 2, "connect": {"token": GOOD}}).to_string())?;
    let closed = socket.close_code(REACTION)?;
    let right = closed.as_ref().is_some_and(|(code, _)| *code == 3501);
    ensure(right, || format!("the next command was answered by {closed:?}"))
}

#[test]
fn a_private_room_is_closed_without_a_token_for_it() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let (mut socket, _) = connect(&cluster, GOOD)?;
    for token in ["", "garbage"] {
        let subscribe = json!({"channel": "$mine", "token": token});
        let reply = socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
        ensure(reply["error"]["code"] == 103, || format!("token {token:?}: {reply}"))?;
    }
    Ok(())
}

#[test]
fn nothing_is_permitted_that_is_not_configured() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let (mut socket, _) = connect(&cluster, GOOD)?;
    for room in ["exists", "never-seen"] {
        for request in ["publish", "presence", "presence_stats", "history"] {
            let body = json!({"id": 2, request: {"channel": room, "data": {}}});
            let reply = socket.command(&body)?;
            let code = &reply["error"]["code"];
            ensure(*code == 103 || *code == 108, || format!("{request}: {reply}"))?;
        }
    }
    Ok(())
}
