//! Backends that are asked by gRPC: a program in Go, with code that others' description of the service makes, asks the
//! tests' backend in turn.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use cluster_tests::{
    backend::{Act, Asked, Backend},
    cluster::Cluster,
    driver::Driver,
    paths,
    wait::{ensure, hold, until},
    world::say_skipped,
    ws::{Event, Socket},
};
use serde_json::{Value, json};

/// A backend and what asks it.
struct Asking {
    backend: Backend,
    /// Where it is asked by gRPC.
    url: String,
    _bridge: Driver,
}

fn start() -> Result<Option<Asking>, String> {
    if !paths::go_grpc_backend().exists() {
        say_skipped("the backend by gRPC in Go is not built, for there is no Go");
        return Ok(None);
    }
    let backend = Backend::start(permits)?;
    let mut command = Command::new(paths::go_grpc_backend());
    command.arg(format!("http://{}", backend.address));
    let bridge = Driver::start(command)?;
    let address = bridge.until(Duration::from_secs(10), |events| {
        let address = events.first().and_then(|it| it["address"].as_str());
        address.map(str::to_owned).ok_or_else(|| "it says no address".to_owned())
    })?;
    Ok(Some(Asking { backend, url: format!("grpc://{address}"), _bridge: bridge }))
}

fn permits(asked: &Asked) -> Act {
    match asked.path.as_str() {
        "/connect" => Act::Say(json!({"result": {"user": "ann", "meta": in_base64(r#"{"m":1}"#)}})),
        _ => Act::Say(json!({"result": {}})),
    }
}

/// What is bytes in a message is that in JSON.
fn in_base64(text: &str) -> String {
    BASE64_STANDARD.encode(text)
}

fn config(url: &str) -> String {
    format!(
        r#"
[client.proxy.connect]
enabled = true
endpoint = "{url}"
timeout = "2s"
http_headers = ["Cookie"]
emulated_headers = ["Authorization"]
[client.proxy.connect.grpc]
static_metadata = {{ "x-static" = "yes", "Cookie" = "none" }}
credentials_key = "x-key"
credentials_value = "secret"
[client.proxy.refresh]
enabled = true
endpoint = "{url}"
[channel.proxy.subscribe]
endpoint = "{url}"
include_connection_meta = true
[channel.proxy.publish]
endpoint = "{url}"
[channel.proxy.sub_refresh]
endpoint = "{url}"
[rpc.proxy]
endpoint = "{url}"
timeout = "500ms"
binary_encoding = true
[rpc.without_namespace]
proxy_enabled = true
[[channel.namespaces]]
name = "chat"
presence = true
history_size = 10
history_ttl = "1m"
subscribe_proxy_enabled = true
publish_proxy_enabled = true
sub_refresh_proxy_enabled = true
[channel.proxy.subscribe_stream]
endpoint = "{url}"
[[channel.namespaces]]
name = "live"
subscribe_stream_proxy_enabled = true
[[channel.namespaces]]
name = "talk"
subscribe_stream_proxy_enabled = true
subscribe_stream_proxy_bidirectional = true
[http_api]
key = "test"
"#
    )
}

fn connect(cluster: &Cluster) -> Result<Socket, String> {
    let mut socket = Socket::open(cluster.node(0).http, None)?;
    let reply = socket.connect()?;
    ensure(reply["connect"].is_object(), || reply.to_string()).map(|()| socket)
}

#[test]
fn a_backend_says_who_connects_and_gets_what_belongs_to_it() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    it.backend.now(|_| {
        let info = in_base64(r#"{"name":"Ann"}"#);
        let subs = json!({"chat:a": {"data": in_base64(r#"{"in":"chat"}"#)}});
        Act::Say(json!({"result": {"user": "ann", "info": info, "data": in_base64(r#"{"hi":1}"#), "subs": subs}}))
    });
    let headers = [("cookie", "session=1"), ("X-Other", "secret")];
    let (mut socket, head) =
        Socket::upgrade(cluster.node(0).http, "/connection/websocket", &headers)?;
    ensure(head.starts_with("HTTP/1.1 101"), || head)?;
    let connect = json!({"data": {"a": 1}, "name": "js", "headers": {"authorization": "Bearer x"}});
    let reply = socket.command(&json!({"id": 1, "connect": connect}))?;
    let result = &reply["connect"];
    ensure(result["data"] == json!({"hi": 1}), || reply.to_string())?;
    ensure(result["subs"]["chat:a"]["data"]["in"] == "chat", || reply.to_string())?;
    let asked = it.backend.asked("connect").remove(0);
    let expected = json!({"client": result["client"], "transport": "websocket", "protocol": "json",
        "encoding": "json", "data": in_base64(r#"{"a":1}"#), "name": "js"});
    ensure(asked.json() == expected, || asked.body.clone())?;
    for (name, value) in [
        ("cookie", Some("session=1")),
        ("authorization", Some("Bearer x")),
        ("x-static", Some("yes")),
        ("x-key", Some("secret")),
        ("content-type", Some("application/grpc")),
        ("x-other", None),
    ] {
        ensure(asked.header(name) == value, || format!("{name}: {asked:?}"))?;
    }
    ensure(asked.header("x-deadline").is_some(), || format!("it has all the time: {asked:?}"))?;
    let presence = cluster.api(0, "presence", &json!({"channel": "chat:a"}))?;
    let info = &presence["presence"][result["client"].as_str().unwrap_or_default()];
    ensure(info["user"] == "ann" && info["conn_info"]["name"] == "Ann", || presence.to_string())
}

#[test]
fn it_decides_about_rooms_and_answers_calls() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    let mut socket = connect(&cluster)?;
    let subscribe = json!({"id": 2, "subscribe": {"channel": "chat:a"}});
    let reply = socket.command(&subscribe)?;
    ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    let asked = it.backend.asked("subscribe").remove(0).json();
    let right = asked["channel"] == "chat:a" && asked["meta"] == in_base64(r#"{"m":1}"#);
    ensure(right && asked["user"] == "ann", || asked.to_string())?;
    it.backend.now(|_| {
        let tags = json!({"k": "v"});
        Act::Say(json!({"result": {"data": in_base64(r#"{"other":1}"#), "tags": tags}}))
    });
    let publish = json!({"id": 3, "publish": {"channel": "chat:a", "data": {"mine": 1}}});
    let reply = socket.command(&publish)?;
    ensure(reply["publish"].is_object(), || reply.to_string())?;
    let page = cluster.api(0, "history", &json!({"channel": "chat:a", "limit": 1}))?;
    let publication = &page["publications"][0];
    let right = publication["data"]["other"] == 1 && publication["tags"]["k"] == "v";
    ensure(right, || page.to_string())?;
    it.backend.now(|_| Act::Say(json!({"result": {"data": in_base64("[1]")}})));
    let rpc = json!({"id": 4, "rpc": {"method": "m", "data": {"x": 1}}});
    let reply = socket.command(&rpc)?;
    ensure(reply["rpc"]["data"] == json!([1]), || reply.to_string())?;
    let asked = it.backend.asked("rpc").remove(0).json();
    let right = asked["b64data"] == in_base64(r#"{"x":1}"#) && asked["encoding"] == "binary";
    ensure(right && asked["method"] == "m", || asked.to_string())?;
    it.backend.now(|_| Act::Say(json!({"error": {"code": 1042, "message": "no"}})));
    let reply = socket.command(&json!({"id": 5, "rpc": {"method": "m", "data": {}}}))?;
    ensure(reply["error"] == json!({"code": 1042, "message": "no"}), || reply.to_string())?;
    it.backend.now(|_| Act::Say(json!({"disconnect": {"code": 4444, "reason": "away"}})));
    socket.send_text(&json!({"id": 6, "rpc": {"method": "m", "data": {}}}).to_string())?;
    let closed = socket.close_code(Duration::from_secs(10))?;
    ensure(closed.as_ref().is_some_and(|it| it.0 == 4444), || format!("{closed:?}"))
}

fn code(reply: &Value) -> u64 {
    reply["error"]["code"].as_u64().unwrap_or_default()
}

#[test]
fn one_that_does_not_answer_is_given_up_and_asked_again_when_it_does() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    let mut socket = connect(&cluster)?;
    let mut number = 1;
    let mut call = |socket: &mut Socket| {
        number += 1;
        socket.command(&json!({"id": number, "rpc": {"method": "m", "data": {}}}))
    };
    // A status of gRPC that is no answer: 13, internal.
    it.backend.now(|_| Act::Status(213, "broken".to_owned()));
    let reply = call(&mut socket)?;
    ensure(code(&reply) == 100, || reply.to_string())?;
    it.backend.now(|_| Act::Hang);
    let begun = Instant::now();
    let reply = call(&mut socket)?;
    let took = begun.elapsed();
    ensure(code(&reply) == 100 && took < Duration::from_secs(2), || format!("{took:?} {reply}"))?;
    until(Duration::from_secs(20), || {
        let reply = call(&mut socket)?;
        ensure(code(&reply) == 100, || reply.to_string())?;
        let metrics = cluster_tests::http::get(cluster.node(0).http, "/metrics")?.body;
        let given_up = metrics
            .lines()
            .any(|it| it.starts_with("roomcast_backend_calls_total") && it.contains("given_up"));
        ensure(given_up, || metrics)
    })?;
    it.backend.now(permits);
    until(Duration::from_secs(20), || {
        let reply = call(&mut socket)?;
        ensure(reply["rpc"].is_object(), || reply.to_string())
    })
}

/// What a client has heard so far.
struct Ear {
    socket: Socket,
    heard: Vec<Value>,
}

impl Ear {
    fn connect(cluster: &Cluster) -> Result<Self, String> {
        Ok(Self { socket: connect(cluster)?, heard: Vec::new() })
    }

    fn say(&mut self, command: &Value) -> Result<(), String> {
        self.socket.send_text(&command.to_string())
    }

    /// Listens until it has heard something like this, and gives that.
    fn hears(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Value, String> {
        loop {
            if let Some(index) = self.heard.iter().position(&is_it) {
                return Ok(self.heard.remove(index));
            }
            match self.socket.event(Duration::from_secs(10)) {
                Ok(Event::Text(text)) => {
                    self.heard.extend(text.lines().filter_map(|it| serde_json::from_str(it).ok()));
                }
                Ok(_) => {}
                Err(why) => return Err(format!("{what} is not heard: {why}; {:?}", self.heard)),
            }
        }
    }

    fn subscribe(&mut self, id: u32, room: &str) -> Result<Value, String> {
        self.say(&json!({"id": id, "subscribe": {"channel": room}}))?;
        self.hears("the answer", |it| it["id"] == id)
    }

    /// The data of the next publication in a room.
    fn publication(&mut self) -> Result<Value, String> {
        let push = self.hears("a publication", |it| it["push"]["pub"].is_object())?;
        Ok(push["push"]["pub"]["data"].clone())
    }
}

fn may() -> Act {
    Act::Say(json!({"subscribeResponse": {"result": {"data": in_base64(r#"{"hi":1}"#)}}}))
}

fn says(data: &str) -> Act {
    Act::Say(json!({"publication": {"data": in_base64(data), "tags": {"k": "v"}}}))
}

#[test]
fn a_subscriber_gets_what_its_stream_brings_and_what_the_room_does() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    // Each stream says two things, and then nothing for long.
    let nexts = std::sync::atomic::AtomicU32::new(0);
    let streams = move |asked: &Asked| match asked.path.as_str() {
        "/stream" => may(),
        "/stream_next" => match nexts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            number @ 0..2 => says(&number.to_string()),
            _ => Act::Hang,
        },
        _ => permits(asked),
    };
    it.backend.now(streams);
    let mut ear = Ear::connect(&cluster)?;
    let reply = ear.subscribe(2, "live:a")?;
    ensure(reply["subscribe"]["data"] == json!({"hi": 1}), || reply.to_string())?;
    for number in 0..2 {
        let data = ear.publication()?;
        ensure(data == number, || format!("{data} instead of {number}"))?;
    }
    let asked = it.backend.asked("stream").remove(0).json();
    ensure(asked["channel"] == "live:a" && asked["user"] == "ann", || asked.to_string())?;
    cluster.api(0, "publish", &json!({"channel": "live:a", "data": "to all"}))?;
    let data = ear.publication()?;
    ensure(data == "to all", || data.to_string())?;
    it.backend.now(|_| {
        Act::Say(json!({"subscribeResponse": {"error": {"code": 1042, "message": "no"}}}))
    });
    let reply = ear.subscribe(3, "live:refused")?;
    ensure(code(&reply) == 1042, || reply.to_string())?;
    it.backend.now(|_| Act::Status(213, "broken".to_owned()));
    let reply = ear.subscribe(4, "live:broken")?;
    ensure(code(&reply) == 100, || reply.to_string())
}

#[test]
fn the_end_of_a_stream_ends_the_subscription_and_the_other_way_round() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    for (end, code) in
        [(Act::Status(200, "end".to_owned()), 2000), (Act::Status(213, "broken".to_owned()), 2500)]
    {
        it.backend.now(move |asked| match asked.path.as_str() {
            "/stream" => may(),
            "/stream_next" => end.clone(),
            _ => permits(asked),
        });
        let mut ear = Ear::connect(&cluster)?;
        let reply = ear.subscribe(2, "live:a")?;
        ensure(reply["subscribe"].is_object(), || reply.to_string())?;
        let push = ear.hears("the end", |it| it["push"]["unsubscribe"].is_object())?;
        ensure(push["push"]["unsubscribe"]["code"] == code, || push.to_string())?;
    }
    // One that would go on for ever.
    let said = Duration::from_millis(50);
    it.backend.now(move |asked| match asked.path.as_str() {
        "/stream" => may(),
        "/stream_next" => Act::Late(said, json!({"publication": {"data": in_base64("1")}})),
        _ => permits(asked),
    });
    for leaves in [false, true] {
        let mut ear = Ear::connect(&cluster)?;
        ear.subscribe(2, "live:a")?;
        ear.publication()?;
        ear.say(&json!({"id": 3, "unsubscribe": {"channel": "live:a"}}))?;
        if !leaves {
            ear.hears("the answer", |it| it["id"] == 3)?;
        }
        drop(leaves.then_some(ear));
        // The backend is told: it says nothing more.
        until(Duration::from_secs(10), || {
            let before = it.backend.asked("stream_next").len();
            hold(said * 6);
            let after = it.backend.asked("stream_next").len();
            ensure(before == after, || format!("{before} and then {after}"))
        })?;
    }
    Ok(())
}

#[test]
fn what_a_client_publishes_goes_to_its_stream_and_back() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    it.backend.now(|asked| match asked.path.as_str() {
        "/stream" => may(),
        "/stream_published" => {
            Act::Say(json!({"publication": {"data": asked.json()["publication"]["data"]}}))
        }
        _ => permits(asked),
    });
    let (mut ear, mut other) = (Ear::connect(&cluster)?, Ear::connect(&cluster)?);
    for ear in [&mut ear, &mut other] {
        let reply = ear.subscribe(2, "talk:a")?;
        ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    }
    for number in 0..20 {
        ear.say(
            &json!({"id": 3 + number, "publish": {"channel": "talk:a", "data": {"n": number}}}),
        )?;
    }
    for number in 0..20 {
        let data = ear.publication()?;
        ensure(data == json!({"n": number}), || format!("{data} instead of {number}"))?;
    }
    cluster.api(0, "publish", &json!({"channel": "talk:a", "data": "to all"}))?;
    let data = other.publication()?;
    ensure(data == "to all", || format!("another's stream is no one else's: {data}"))
}

#[test]
fn a_client_that_publishes_more_than_its_backend_takes_loses_its_stream() -> Result<(), String> {
    let Some(it) = start()? else { return Ok(()) };
    let cluster = Cluster::start_with(1, &config(&it.url))?;
    it.backend.now(|asked| match asked.path.as_str() {
        "/stream" => may(),
        "/stream_published" => Act::Hang,
        _ => permits(asked),
    });
    let mut ear = Ear::connect(&cluster)?;
    let reply = ear.subscribe(2, "talk:a")?;
    ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    let data = "x".repeat(4_000);
    for number in 0..1_000 {
        ear.say(&json!({"id": 3 + number, "publish": {"channel": "talk:a", "data": data}}))?;
    }
    let push = ear.hears("the end", |it| it["push"]["unsubscribe"].is_object())?;
    ensure(push["push"]["unsubscribe"]["code"] == 2500, || push.to_string())
}
