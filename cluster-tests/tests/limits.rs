//! Who is turned away because there are too many.

use cluster_tests::cluster::{CONFIG, Cluster};
use cluster_tests::stream::Stream;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::REACTION;
use cluster_tests::ws::Socket;
use roomcast::access::sign::sign;
use serde_json::json;

const PATH: &str = "/connection/websocket";
const STREAM: &str = "/connection/http_stream";
const CONNECT: &str = r#"{"id":1,"connect":{}}"#;

fn start(server: &str, client: &str) -> Result<Cluster, String> {
    let config =
        CONFIG.replace("[client]\n", &format!("[http_server]\n{server}\n[client]\n{client}\n"));
    Cluster::start_with(1, &config)
}

/// A WebSocket, or the first line of the refusal.
fn socket(cluster: &Cluster, headers: &[(&str, &str)]) -> Result<Socket, String> {
    let (socket, head) = Socket::upgrade(cluster.node(0).http, PATH, headers)?;
    let status = head.lines().next().unwrap_or_default();
    if status.contains(" 101 ") { Ok(socket) } else { Err(status.to_owned()) }
}

fn stream(cluster: &Cluster, headers: &[(&str, &str)]) -> Result<Stream, String> {
    let stream = Stream::open(cluster.node(0).http, "POST", STREAM, headers, CONNECT)?;
    let status = stream.head.lines().next().unwrap_or_default().to_owned();
    if status.contains(" 200 ") { Ok(stream) } else { Err(status) }
}

fn full<T>(result: Result<T, String>) -> Result<(), String> {
    match result {
        Ok(_) => Err("it was let in".to_owned()),
        Err(why) => ensure(why.contains(" 503 "), || why.clone()),
    }
}

#[test]
fn a_full_node_turns_clients_away_until_some_leave() -> Result<(), String> {
    let cluster = start("", "connection_limit = 3")?;
    let first = socket(&cluster, &[])?;
    let _others = (socket(&cluster, &[])?, stream(&cluster, &[])?);
    full(socket(&cluster, &[]))?;
    full(stream(&cluster, &[]))?;
    drop(first);
    until(REACTION, || stream(&cluster, &[]).map(drop))
}

#[test]
fn so_many_come_in_a_second() -> Result<(), String> {
    let cluster = start("", "connection_rate_limit = 5")?;
    let came: Vec<_> = (0..20).map(|_| socket(&cluster, &[])).collect();
    let count = came.iter().filter(|it| it.is_ok()).count();
    // A test machine may take a while for twenty.
    ensure((5..15).contains(&count), || format!("{count} came"))?;
    full(came.into_iter().find(Result::is_err).unwrap_or(Err("none was refused".to_owned())))
}

#[test]
fn addresses_are_limited_and_proxies_say_whose_they_are() -> Result<(), String> {
    let cluster = start("trusted_proxies = [\"127.0.0.0/8\"]", "ip_connection_limit = 2")?;
    let ann = [("X-Forwarded-For", "6.6.6.6, 192.0.2.1")];
    let bob = [("X-Real-IP", "192.0.2.2")];
    let held = (socket(&cluster, &ann)?, stream(&cluster, &ann)?);
    full(socket(&cluster, &ann))?;
    full(stream(&cluster, &[("X-Forwarded-For", "192.0.2.1")]))?;
    let _bob = (socket(&cluster, &bob)?, stream(&cluster, &bob)?);
    full(stream(&cluster, &bob))?;
    drop(held);
    until(REACTION, || socket(&cluster, &ann).map(drop))
}

#[test]
fn who_is_no_proxy_is_not_believed() -> Result<(), String> {
    let cluster = start("", "ip_connection_limit = 1")?;
    let _first = socket(&cluster, &[("X-Forwarded-For", "192.0.2.1")])?;
    full(socket(&cluster, &[("X-Forwarded-For", "192.0.2.2")]))
}

#[test]
fn a_user_with_too_many_connections_is_told_3504() -> Result<(), String> {
    let config = "[client]\nuser_connection_limit = 2\nuser_id_http_header = \"X-User-Id\"\n\
                  subscribe_to = [\"news\"]\n[http_api]\nkey = \"test\"\n";
    let cluster = Cluster::start_with(1, config)?;
    let ann = [("X-User-Id", "ann")];
    let mut first = socket(&cluster, &ann)?;
    first.connect()?;
    let mut second = stream(&cluster, &ann)?;
    let connected = second.message(REACTION)?;
    ensure(connected["connect"]["subs"]["news"].is_object(), || connected.to_string())?;
    let mut third = socket(&cluster, &ann)?;
    third.send_text(CONNECT)?;
    let told = third.close_code(REACTION)?;
    ensure(told == Some((3504, "connection limit".to_owned())), || format!("{told:?}"))?;
    let last = stream(&cluster, &ann)?.last(REACTION)?;
    ensure(last["push"]["disconnect"]["code"] == 3504, || last.to_string())?;
    let mut bob = socket(&cluster, &[("X-User-Id", "bob")])?;
    bob.connect()?;
    drop(first);
    until(REACTION, || {
        let reply = stream(&cluster, &ann)?.message(REACTION)?;
        ensure(reply["connect"].is_object(), || reply.to_string())
    })
}

#[test]
fn who_asks_for_more_presence_than_fits_is_told_so_and_stays() -> Result<(), String> {
    let config = "[client.token]\nhmac_secret_key = \"cluster-tests\"\n\
                  [channel.without_namespace]\npresence = true\n\
                  allow_subscribe_for_client = true\nallow_presence_for_client = true\n\
                  [http_api]\nkey = \"test\"\n";
    let cluster = Cluster::start_with(1, config)?;
    let enter = |number: usize| {
        let claims = json!({"sub": format!("user-{number}"), "info": "x".repeat(40_000)});
        let token = sign("cluster-tests", &claims).map_err(|error| error.to_string())?;
        let mut socket = socket(&cluster, &[])?;
        socket.command(&json!({"id": 1, "connect": {"token": token}}))?;
        let subscribed = socket.command(&json!({"id": 2, "subscribe": {"channel": "hall"}}))?;
        ensure(subscribed["error"].is_null(), || subscribed.to_string())?;
        Ok::<_, String>(socket)
    };
    let mut there: Vec<Socket> = (0..20).map(enter).collect::<Result<_, _>>()?;
    let asked = |socket: &mut Socket, id: u32| {
        socket.command(&json!({"id": id, "presence": {"channel": "hall"}}))
    };
    let fits = asked(&mut there[0], 3)?;
    let seen = fits["presence"]["presence"].as_object().map_or(0, |it| it.len());
    ensure(seen == 20, || format!("{seen} of 20 in {} bytes", fits.to_string().len()))?;
    let more: Vec<Socket> = (20..40).map(enter).collect::<Result<_, _>>()?;
    let refused = asked(&mut there[0], 4)?;
    ensure(refused["error"]["code"] == 106, || refused.to_string())?;
    let stats = there[0].command(&json!({"id": 5, "presence_stats": {"channel": "hall"}}))?;
    ensure(stats["presence_stats"]["num_clients"] == 40, || stats.to_string())?;
    let all = cluster.api(0, "presence", &json!({"channel": "hall"}))?;
    let seen = all["presence"].as_object().map_or(0, |it| it.len());
    ensure(seen == 40, || format!("the API tells of {seen}"))?;
    drop((there, more));
    Ok(())
}
