//! Clients by gRPC that only listen: a program in Go, with code that others' description of the service makes.

use std::{net::SocketAddr, process::Command, time::Duration};

use cluster_tests::{
    cluster::{CONFIG, Cluster},
    driver::Driver,
    paths,
    wait::{ensure, until},
    world::say_skipped,
};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(10);
const UNI: &str = "[uni_grpc]\nenabled = true\naddress = \"127.0.0.1\"\nport = 0\n";

fn go() -> bool {
    let there = paths::go_uni_grpc().exists();
    if !there {
        say_skipped("the client of gRPC in Go is not built, for there is no Go");
    }
    there
}

fn config(client: &str) -> String {
    let client = format!("[client]\nsubscribe_to = [\"news\"]\n{client}");
    format!("{UNI}{}", CONFIG.replace("[client]\n", &client))
}

fn address(cluster: &Cluster, node: usize) -> SocketAddr {
    let said = "clients that only listen are served by gRPC";
    let line = cluster.node(node).logged(said).expect("it says so");
    let address = line["fields"]["address"].as_str().or(line["address"].as_str());
    address.expect("an address").parse().expect("an address")
}

/// A client, which leaves when this is dropped. What it is told are the driver's events.
fn listen(address: SocketAddr, connect: &Value, metadata: &[&str]) -> Result<Driver, String> {
    let mut command = Command::new(paths::go_uni_grpc());
    command.arg(address.to_string()).arg(connect.to_string()).args(metadata);
    Driver::start(command)
}

/// Waits for what is told under this name.
fn told(client: &Driver, name: &str) -> Result<Value, String> {
    client.until(LIMIT, |events| {
        let found = events.iter().find(|it| !it[name].is_null());
        found.cloned().ok_or_else(|| format!("no {name} in {events:?}"))
    })
}

fn count(cluster: &Cluster, clients: f64) -> Result<(), String> {
    until(LIMIT, || {
        let open = cluster.metric(0, "roomcast_connections")?;
        ensure(open == clients, || format!("{open} are open"))
    })
}

/// The end, after it was told this code.
fn ended(client: &Driver, code: u16) -> Result<(), String> {
    let last = told(client, "disconnect")?;
    ensure(last["disconnect"]["code"] == code, || last.to_string())?;
    let end = told(client, "end")?;
    // What Go says when a stream ends without an error.
    ensure(end["end"] == "Unknown" && end["message"] == "EOF", || end.to_string())
}

#[test]
fn what_is_said_in_rooms_is_pushed_in_order_until_the_end() -> Result<(), String> {
    if !go() {
        return Ok(());
    }
    let mut cluster = Cluster::start_with(2, &config(""))?;
    let client = listen(address(&cluster, 0), &json!({"name": "x"}), &[])?;
    let other = listen(address(&cluster, 1), &json!({}), &[])?;
    let connected = told(&client, "connect")?;
    let connect = &connected["connect"];
    ensure(connect["ping"] == 25 && connect["subs"]["news"].is_object(), || connected.to_string())?;
    told(&other, "connect")?;
    for number in 0..500 {
        let body = json!({"channel": "news", "data": {"n": number}});
        cluster.api(number % 2, "publish", &body)?;
    }
    for client in [&client, &other] {
        let read = client.until(LIMIT, |events| {
            let read: Vec<_> = events.iter().filter(|it| !it["pub"].is_null()).cloned().collect();
            ensure(read.len() == 500, || format!("{} publications", read.len())).map(|()| read)
        })?;
        let offsets = read.iter().map(|it| it["pub"]["offset"].as_str().unwrap_or_default());
        let wanted: Vec<_> = (1..=500).map(|it: u32| it.to_string()).collect();
        ensure(offsets.eq(wanted.iter().map(String::as_str)), || format!("{:?}", &read[..3]))?;
    }
    // `{"n":0}` in base64, as JSON has bytes.
    let first = told(&client, "pub")?;
    ensure(first["pub"]["data"] == "eyJuIjowfQ==", || first.to_string())?;
    let body = json!({"session": connect["session"], "disconnect": {"code": 4501, "reason": "x"}});
    cluster.api(1, "disconnect", &body)?;
    ended(&client, 4501)?;
    cluster.node(1).terminate();
    ended(&other, 3001)?;
    let status = cluster.node_mut(1).exit_status(LIMIT)?;
    ensure(status.success(), || format!("{status}"))
}

#[test]
fn a_client_that_goes_is_gone_at_once_and_one_that_comes_back_gets_what_it_missed()
-> Result<(), String> {
    if !go() {
        return Ok(());
    }
    let cluster = Cluster::start_with(1, &config(""))?;
    let address = address(&cluster, 0);
    let client = listen(address, &json!({}), &[])?;
    let connected = told(&client, "connect")?;
    count(&cluster, 1.0)?;
    let there = cluster.api(0, "presence_stats", &json!({"channel": "news"}))?;
    ensure(there["num_clients"] == 1, || there.to_string())?;
    drop(client);
    count(&cluster, 0.0)?;
    let there = cluster.api(0, "presence_stats", &json!({"channel": "news"}))?;
    ensure(there["num_clients"] == 0, || there.to_string())?;
    for number in 0..3 {
        cluster.api(0, "publish", &json!({"channel": "news", "data": number}))?;
    }
    let epoch = &connected["connect"]["subs"]["news"]["epoch"];
    let since = json!({"subs": {"news": {"recover": true, "epoch": epoch, "offset": "0"}}});
    let client = listen(address, &since, &[])?;
    let connected = told(&client, "connect")?;
    let news = &connected["connect"]["subs"]["news"];
    let missed = news["publications"].as_array().map(Vec::len);
    ensure(news["recovered"] == true && missed == Some(3), || connected.to_string())
}

#[test]
fn who_may_not_connect_is_told_why() -> Result<(), String> {
    if !go() {
        return Ok(());
    }
    let client = "connection_limit = 1\nuser_id_http_header = \"x-user\"\n";
    let config = config(client).replace("insecure = true\n", "");
    let cluster = Cluster::start_with(1, &config)?;
    let address = address(&cluster, 0);
    ended(&listen(address, &json!({"token": "nonsense"}), &[])?, 3500)?;
    ended(&listen(address, &json!({}), &[])?, 3501)?;
    count(&cluster, 0.0)?;
    // Metadata stands for the headers of HTTP.
    let client = listen(address, &json!({}), &["x-user", "ann"])?;
    told(&client, "connect")?;
    let second = told(&listen(address, &json!({}), &["x-user", "bob"])?, "end")?;
    ensure(second["end"] == "Unavailable", || second.to_string())?;
    let large = json!({"name": "x".repeat(70_000)});
    let third = listen(address, &large, &["x-user", "bob"])?;
    let refused = told(&third, "end")?;
    let right = refused["end"] == "Unavailable" || refused["end"] == "ResourceExhausted";
    ensure(right, || refused.to_string())
}
