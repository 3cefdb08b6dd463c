//! Tokens: who gets in, who doesn't, and with which code.
//!
//! Most tokens are constants, so that no signing library stands between the test
//! and the bytes. All are for the key `cluster-tests`.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use cluster_tests::cluster::Cluster;
use cluster_tests::paths;
use cluster_tests::wait::{ensure, until};
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

/// Signs claims that depend on the time.
fn signed(claims: &Value) -> String {
    roomcast::access::sign::sign("cluster-tests", claims).expect("claims can be signed")
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("the clock is after 1970").as_secs()
}

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
        (WITH_CHANNEL, 3500),
    ] {
        refused(&cluster, token, code)?;
    }
    refused(&cluster, &format!("{GOOD}x"), 3500)?;
    refused(&cluster, &"x".repeat(60_000), 3500)
}

#[test]
fn a_token_that_is_not_valid_yet_is_worth_another_try() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let (_, reply) = connect(&cluster, NOT_YET)?;
    ensure(reply["error"]["code"] == 109, || reply.to_string())?;
    // The clock of the machine that signs may be a little ahead.
    let ahead = signed(&json!({"sub": "42", "nbf": now() + 2}));
    let (mut socket, reply) = connect(&cluster, &ahead)?;
    ensure(reply["connect"]["client"].is_string(), || reply.to_string())?;
    let later = signed(&json!({"sub": "42", "channel": "$mine", "nbf": now() + 600}));
    let subscribe = json!({"channel": "$mine", "token": later});
    let reply = socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
    ensure(reply["error"]["code"] == 109, || reply.to_string())
}

#[test]
fn claims_that_are_null_are_none() -> Result<(), String> {
    let cluster = Cluster::start_with(1, CONFIG)?;
    let claims = json!({"sub": "42", "exp": null, "nbf": null, "info": null, "b64info": null,
        "channels": null, "subs": null, "meta": null, "aud": null, "iss": null, "expire_at": null});
    let (_, reply) = connect(&cluster, &signed(&claims))?;
    ensure(reply["connect"]["client"].is_string(), || reply.to_string())
}

/// What a command of the server's says, and whether it went well.
fn run(arguments: &[&str], config: &str) -> Result<(bool, String), String> {
    let file = paths::scratch(".toml");
    std::fs::write(&file, config).map_err(|it| it.to_string())?;
    let mut command = Command::new(paths::server());
    // It is the tests' own, and would be taken for an option.
    command.env_remove("ROOMCAST_BIN");
    let done = command.args(arguments).arg("--config").arg(&file).output();
    let done = done.map_err(|it| it.to_string())?;
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((done.status.success(), said(&done.stdout) + &said(&done.stderr)))
}

#[test]
fn checktoken_says_why_a_token_is_refused() -> Result<(), String> {
    let (good, said) = run(&["checktoken", GOOD], CONFIG)?;
    ensure(good && said.contains("user \"42\""), || said.clone())?;
    for (token, why, told) in [
        (EXPIRED, "it has expired", "error 109"),
        (NOT_YET, "it is not valid yet", "error 109"),
        (OTHER_KEY, "not signed with the key of hmac_secret_key", "close code 3500"),
        (NO_ALGORITHM, "signed by \"none\"", "close code 3500"),
        (WITH_CHANNEL, "it is a subscription token", "close code 3500"),
        ("x", "no JSON web token", "close code 3500"),
    ] {
        let (good, said) = run(&["checktoken", token], CONFIG)?;
        let right = !good && said.contains(why) && said.contains(told);
        ensure(right, || format!("{token}: {said}"))?;
    }
    let (good, said) = run(&["checksubtoken", GOOD], CONFIG)?;
    ensure(!good && said.contains("names no room"), || said.clone())
}

#[test]
fn checkconfig_refuses_templates_and_warns_of_a_secret_beside_published_keys() -> Result<(), String>
{
    let template = "[client.token]\njwks_public_endpoint = \"https://example.com/{{tenant}}/keys\"";
    let (good, said) = run(&["checkconfig"], template)?;
    let named = said.contains("client.token.jwks_public_endpoint") && said.contains("template");
    ensure(!good && named, || said.clone())?;
    let published = "[client.token]\njwks_public_endpoint = \"https://example.com/keys\"\n";
    let (good, said) = run(&["checkconfig"], published)?;
    ensure(good && !said.contains("Warning"), || said.clone())?;
    let both = format!("{published}hmac_secret_key = \"secret\"");
    let (good, said) = run(&["checkconfig"], &both)?;
    ensure(good && said.contains("Warning: client.token: with hmac_secret_key"), || said.clone())
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

/// Rooms with groups, whose consumers may do more or less.
const QUEUES: &str = r#"
[client.token]
hmac_secret_key = "cluster-tests"
[http_api]
key = "test"
[[channel.namespaces]]
name = "closed"
history_size = 10
history_ttl = "60s"
allow_subscribe_for_client = true
queue = { groups = ["*"] }
[[channel.namespaces]]
name = "open"
history_size = 10
history_ttl = "60s"
allow_subscribe_for_client = true
queue = { groups = ["*"], allow_consume_for_client = true }
[[channel.namespaces]]
name = "watched"
history_size = 10
history_ttl = "60s"
allow_subscribe_for_client = true
[channel.namespaces.queue]
groups = ["*"]
allow_consume_for_client = true
allow_ack_for_consumer = false
allow_seek_for_consumer = true
"#;

#[test]
fn to_consume_to_acknowledge_and_to_seek_are_rights_of_their_own() -> Result<(), String> {
    let cluster = Cluster::start_with(1, QUEUES)?;
    let made = |room: &str, allow: &str| {
        let of = ["gensubtoken", "--user", "42", "--channel", room, "--allow", allow];
        run(&of, QUEUES).map(|(_, said)| said.trim().to_owned())
    };
    // To subscribe and nothing else, to consume, to acknowledge, to seek: 0 if it may, and otherwise with which error.
    for (room, token, expected) in [
        ("closed:a", String::new(), [0, 103, 103, 103]),
        ("open:a", String::new(), [0, 0, 0, 103]),
        ("watched:a", String::new(), [0, 0, 103, 0]),
        ("closed:b", made("closed:b", "consume")?, [0, 0, 103, 103]),
        ("closed:c", made("closed:c", "consume,ack")?, [0, 0, 0, 103]),
        ("closed:d", made("closed:d", "consume,seek")?, [0, 0, 103, 0]),
        ("open:e", made("open:e", "ack,seek")?, [0, 103, 103, 103]),
        // A token that does not speak of it leaves it to the namespace.
        ("open:f", signed(&json!({"sub": "42", "channel": "open:f"})), [0, 0, 0, 103]),
        ("closed:g", signed(&json!({"sub": "42", "channel": "closed:g"})), [0, 103, 103, 103]),
    ] {
        let subscribe = json!({"channel": room, "token": token, "data": {"group": "workers"}});
        let (mut socket, _) = connect(&cluster, GOOD)?;
        let mut code = |command: Value| -> Result<i64, String> {
            let reply = socket.command(&command)?;
            Ok(reply["error"]["code"].as_i64().unwrap_or(0))
        };
        let consumes = code(json!({"id": 2, "subscribe": subscribe}))?;
        let data = json!({"channel": room, "deliveries": ["1.1.1.workers"]});
        let acks = code(json!({"id": 3, "rpc": {"method": "queue.ack", "data": data}}))?;
        let data = json!({"channel": room, "to": "last"});
        let seeks = code(json!({"id": 4, "rpc": {"method": "queue.seek", "data": data}}))?;
        let (mut socket, _) = connect(&cluster, GOOD)?;
        let subscribe = json!({"channel": room, "token": token});
        let reply = socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
        let enters = reply["error"]["code"].as_i64().unwrap_or(0);
        let found = [enters, consumes, acks, seeks];
        ensure(found == expected, || format!("{room}, {token}: {found:?}, not {expected:?}"))?;
    }
    // A refreshed token says it anew.
    let (mut socket, _) = connect(&cluster, GOOD)?;
    let of = |allow: Value| {
        signed(&json!({"sub": "42", "channel": "closed:h", "exp": now() + 600, "allow": allow}))
    };
    let token = of(json!(["consume", "ack", "seek"]));
    let subscribe = json!({"channel": "closed:h", "token": token, "data": {"group": "workers"}});
    socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
    let mut code = |command: Value| -> Result<i64, String> {
        let reply = socket.command(&command)?;
        Ok(reply["error"]["code"].as_i64().unwrap_or(0))
    };
    let data = json!({"channel": "closed:h", "deliveries": ["1.1.1.workers"]});
    let ack = |id: u32| json!({"id": id, "rpc": {"method": "queue.ack", "data": data}});
    ensure(code(ack(3))? == 0, || "it may acknowledge".to_owned())?;
    let refresh = json!({"channel": "closed:h", "token": of(json!(["consume"]))});
    ensure(code(json!({"id": 4, "sub_refresh": refresh}))? == 0, || "refreshed".to_owned())?;
    ensure(code(ack(5))? == 103, || "it may not acknowledge any more".to_owned())?;
    let refresh = json!({"channel": "closed:h", "token": of(json!([]))});
    let refused = code(json!({"id": 6, "sub_refresh": refresh}))?;
    ensure(refused == 103, || format!("it may not consume any more, and is told {refused}"))?;
    // Who consumes is told by name.
    let (mut socket, _) = connect(&cluster, GOOD)?;
    let subscribe = json!({"channel": "open:a", "data": {"group": "workers", "prefetch": 1}});
    socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
    cluster.api(0, "publish", &json!({"channel": "open:a", "data": 1}))?;
    cluster.api(0, "publish", &json!({"channel": "open:a", "data": 2}))?;
    until(REACTION, || {
        let facts =
            cluster.api(0, "queue_info", &json!({"channel": "open:a", "group": "workers"}))?;
        let one = &facts["consumers"][0];
        let right = one["user"] == "42" && one["leased"] == 1 && facts["waiting"] == 1;
        ensure(right && facts["oldest"].as_f64().is_some(), || facts.to_string())
    })
}
