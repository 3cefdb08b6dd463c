//! The application's backends: what they decide, and that no backend harms what does not need it.

use std::time::{Duration, Instant};

use cluster_tests::backend::{Act, Asked, Backend};
use cluster_tests::cluster::Cluster;
use cluster_tests::http;
use cluster_tests::wait::{ensure, until};
use cluster_tests::world::REACTION;
use cluster_tests::ws::{Event, Socket};
use serde_json::{Value, json};

/// Rooms of `chat:` and connections are for one backend to decide, calls and rooms of `slow:` for another.
fn config(good: &Backend, slow: &Backend) -> String {
    let (connect, refresh) = (good.url("connect"), good.url("refresh"));
    let (subscribe, publish) = (good.url("subscribe"), good.url("publish"));
    let (sub_refresh, slow) = (good.url("sub_refresh"), slow.url("slow"));
    format!(
        r#"
[uni_websocket]
enabled = true
[client.proxy.connect]
enabled = true
endpoint = "{connect}"
timeout = "2s"
http_headers = ["Cookie", "X-Real-Ip"]
emulated_headers = ["Authorization"]
http.static_headers = {{ "X-Key" = "static", "Cookie" = "none" }}
http.status_to_code_transforms = [{{ status_code = 404, to_error = {{ code = 1404, message = "nobody" }} }}]
[client.proxy.refresh]
enabled = true
endpoint = "{refresh}"
http_headers = ["Cookie"]
include_connection_meta = true
[channel.proxy.subscribe]
endpoint = "{subscribe}"
include_connection_meta = true
[channel.proxy.publish]
endpoint = "{publish}"
[channel.proxy.sub_refresh]
endpoint = "{sub_refresh}"
[[proxies]]
name = "slow"
endpoint = "{slow}"
timeout = "500ms"
concurrency = 4
[rpc.without_namespace]
proxy_enabled = true
proxy_name = "slow"
[[channel.namespaces]]
name = "chat"
presence = true
subscribe_proxy_enabled = true
publish_proxy_enabled = true
sub_refresh_proxy_enabled = true
[[channel.namespaces]]
name = "slow"
subscribe_proxy_enabled = true
subscribe_proxy_name = "slow"
[[channel.namespaces]]
name = "open"
allow_subscribe_for_client = true
allow_publish_for_client = true
[http_api]
key = "test"
"#
    )
}

/// A backend that lets everyone do everything.
fn permits(asked: &Asked) -> Act {
    match asked.path.as_str() {
        "/connect" => Act::Say(json!({"result": {"user": "ann", "meta": {"plan": "pro"}}})),
        _ => Act::Say(json!({"result": {}})),
    }
}

struct World {
    good: Backend,
    slow: Backend,
    cluster: Cluster,
}

fn world() -> Result<World, String> {
    let (good, slow) = (Backend::start(permits)?, Backend::start(permits)?);
    let cluster = Cluster::start_with(1, &config(&good, &slow))?;
    Ok(World { good, slow, cluster })
}

impl World {
    fn connect(&self) -> Result<Socket, String> {
        let mut socket = Socket::open(self.cluster.node(0).http, None)?;
        let reply = socket.connect()?;
        ensure(reply["connect"].is_object(), || reply.to_string())?;
        Ok(socket)
    }
}

fn code(reply: &Value) -> u64 {
    reply["error"]["code"].as_u64().unwrap_or_default()
}

#[test]
fn a_backend_says_who_connects_and_sees_only_the_headers_it_is_to_see() -> Result<(), String> {
    let world = world()?;
    world.good.now(|_| {
        Act::Say(json!({"result": {"user": "ann", "info": {"name": "Ann"}, "data": {"hi": 1},
            "channels": ["open:news"], "subs": {"chat:a": {"data": {"in": "chat"}}}}}))
    });
    let headers = [("cookie", "session=1"), ("X-Real-IP", "192.0.2.1"), ("X-Other", "secret")];
    let (mut socket, head) =
        Socket::upgrade(world.cluster.node(0).http, "/connection/websocket", &headers)?;
    ensure(head.starts_with("HTTP/1.1 101"), || head)?;
    let connect = json!({"data": {"a": 1}, "name": "js", "version": "1",
        "headers": {"authorization": "Bearer x", "cookie": "forged", "x-real-ip": "forged"}});
    let reply = socket.command(&json!({"id": 1, "connect": connect}))?;
    let result = &reply["connect"];
    ensure(result["data"] == json!({"hi": 1}), || reply.to_string())?;
    ensure(result["subs"]["chat:a"]["data"]["in"] == "chat", || reply.to_string())?;
    ensure(result["subs"]["open:news"].is_object(), || reply.to_string())?;

    let asked = world.good.asked("connect").remove(0);
    let expected = json!({"client": result["client"], "transport": "websocket", "protocol": "json",
        "encoding": "json", "data": {"a": 1}, "name": "js", "version": "1"});
    ensure(asked.json() == expected, || asked.body.clone())?;
    for (name, value) in [
        ("cookie", Some("session=1")),
        ("x-real-ip", Some("192.0.2.1")),
        ("authorization", Some("Bearer x")),
        ("x-key", Some("static")),
        ("content-type", Some("application/json")),
        ("x-other", None),
        ("sec-websocket-key", None),
    ] {
        ensure(asked.header(name) == value, || format!("{name}: {asked:?}"))?;
    }
    let presence = world.cluster.api(0, "presence", &json!({"channel": "chat:a"}))?;
    let client = result["client"].as_str().unwrap_or_default();
    let info = &presence["presence"][client];
    ensure(info["user"] == "ann" && info["conn_info"]["name"] == "Ann", || presence.to_string())
}

#[test]
fn who_only_listens_is_let_in_by_the_backend_too() -> Result<(), String> {
    let world = world()?;
    world.good.now(|_| Act::Say(json!({"result": {"user": "ann", "data": {"hi": 1}}})));
    let connect = "cf_connect=%7B%22data%22%3A%7B%22a%22%3A1%7D%7D";
    let path = format!("/connection/uni_websocket?{connect}");
    let headers = [("Cookie", "session=1")];
    let (mut socket, head) = Socket::upgrade(world.cluster.node(0).http, &path, &headers)?;
    ensure(head.starts_with("HTTP/1.1 101"), || head)?;
    let Event::Text(text) = socket.event(REACTION)? else { return Err("no text".into()) };
    ensure(text.contains("\"connect\"") && text.contains("\"hi\""), || text.clone())?;
    let asked = world.good.asked("connect").remove(0);
    ensure(asked.json()["transport"] == "uni_websocket", || asked.body.clone())?;
    ensure(asked.json()["data"]["a"] == 1, || asked.body.clone())?;
    ensure(asked.header("cookie") == Some("session=1"), || format!("{asked:?}"))
}

#[test]
fn refusals_reach_clients_in_the_backends_words() -> Result<(), String> {
    let world = world()?;
    let error = json!({"error": {"code": 1000, "message": "no such user"}});
    let close = json!({"disconnect": {"code": 4500, "reason": "banned"}});
    for (act, expected) in [
        (Act::Say(error.clone()), 1000),
        (Act::Status(404, String::new()), 1404),
        (Act::Status(500, String::new()), 100),
        (Act::Say(json!({"result": {"user": 7}})), 100),
        (Act::Flood(2 << 20), 100),
        (Act::Close, 100),
        (Act::Break, 100),
    ] {
        let what = format!("{act:?}");
        world.good.now(move |_| act.clone());
        let mut socket = Socket::open(world.cluster.node(0).http, None)?;
        let reply = socket.connect()?;
        let what = || format!("{}: {reply}", &what[..what.len().min(99)]);
        ensure(code(&reply) == expected, what)?;
    }
    let closing = close.clone();
    world.good.now(move |_| Act::Say(closing.clone()));
    let mut socket = Socket::open(world.cluster.node(0).http, None)?;
    socket.send_text(&json!({"id": 1, "connect": {}}).to_string())?;
    let closed = socket.close_code(REACTION)?;
    ensure(closed == Some((4500, "banned".to_owned())), || format!("{closed:?}"))?;

    world.good.now(permits);
    let mut socket = world.connect()?;
    world.good.now(move |_| Act::Say(error.clone()));
    for (name, body) in [
        ("subscribe", json!({"channel": "chat:a"})),
        ("publish", json!({"channel": "chat:a", "data": 1})),
    ] {
        let reply = socket.command(&json!({"id": 2, name: body}))?;
        ensure(code(&reply) == 1000 && reply["error"]["message"] == "no such user", || {
            format!("{name}: {reply}")
        })?;
    }
    world.good.now(move |_| Act::Say(close.clone()));
    socket.send_text(&json!({"id": 3, "publish": {"channel": "chat:a", "data": 1}}).to_string())?;
    let closed = socket.close_code(REACTION)?;
    ensure(closed == Some((4500, "banned".to_owned())), || format!("{closed:?}"))
}

#[test]
fn a_backend_decides_about_rooms_and_what_is_said_there() -> Result<(), String> {
    let world = world()?;
    world.good.now(|asked| match asked.path.as_str() {
        "/publish" => Act::Say(json!({"result": {"data": {"checked": asked.json()["data"]}}})),
        "/subscribe" => Act::Say(json!({"result": {"info": {"role": "guest"}, "data": {"hi": 1}}})),
        _ => permits(asked),
    });
    world.slow.now(|asked| Act::Say(json!({"result": {"data": [asked.json()["method"]]}})));
    let mut socket = world.connect()?;
    let subscribe = json!({"channel": "chat:a", "data": {"why": "not"}});
    let reply = socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
    ensure(reply["subscribe"]["data"]["hi"] == 1, || reply.to_string())?;
    let asked = world.good.asked("subscribe").remove(0).json();
    let right = asked["channel"] == "chat:a"
        && asked["user"] == "ann"
        && asked["data"]["why"] == "not"
        && asked["meta"]["plan"] == "pro";
    ensure(right, || asked.to_string())?;
    socket
        .send_text(&json!({"id": 3, "publish": {"channel": "chat:a", "data": "x"}}).to_string())?;
    let mut push = Value::Null;
    while push["push"]["pub"].is_null() {
        match socket.event(REACTION)? {
            Event::Text(text) => {
                push = serde_json::from_str(text.lines().last().unwrap_or_default())
                    .unwrap_or_default();
            }
            other => return Err(format!("{other:?}")),
        }
    }
    let publication = &push["push"]["pub"];
    let right = publication["data"]["checked"] == "x"
        && publication["info"]["chan_info"]["role"] == "guest";
    ensure(right, || push.to_string())?;
    let reply = socket.command(&json!({"id": 4, "rpc": {"method": "time", "data": {}}}))?;
    ensure(reply["rpc"]["data"] == json!(["time"]), || reply.to_string())
}

#[test]
fn the_node_asks_itself_whether_connections_and_subscriptions_go_on() -> Result<(), String> {
    let world = world()?;
    world.good.now(|asked| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let soon = now.unwrap_or_default().as_secs() + 2;
        match asked.path.as_str() {
            "/connect" => Act::Say(
                json!({"result": {"user": "ann", "expire_at": soon, "meta": {"plan": "pro"}}}),
            ),
            _ => Act::Say(json!({"result": {"expire_at": soon}})),
        }
    });
    let (mut socket, _) = Socket::upgrade(
        world.cluster.node(0).http,
        "/connection/websocket",
        &[("Cookie", "session=1")],
    )?;
    let reply = socket.connect()?;
    ensure(reply["connect"]["ttl"].is_null(), || reply.to_string())?;
    let reply = socket.command(&json!({"id": 2, "subscribe": {"channel": "chat:a"}}))?;
    ensure(reply["subscribe"]["ttl"].is_null(), || reply.to_string())?;
    let asked = world.good.wait_for("refresh", 2, REACTION + Duration::from_secs(4))?.remove(1);
    ensure(asked.json()["meta"]["plan"] == "pro", || asked.body.clone())?;
    ensure(asked.header("cookie") == Some("session=1"), || format!("{asked:?}"))?;
    let asked = world.good.wait_for("sub_refresh", 2, REACTION)?.remove(1);
    ensure(asked.json()["channel"] == "chat:a", || asked.body.clone())?;
    // A backend that is down ends nothing; one that says so, does.
    world.good.now(|asked| match asked.path.as_str() {
        "/sub_refresh" => Act::Say(json!({"result": {"expired": true}})),
        _ => Act::Status(500, String::new()),
    });
    let ended = until(REACTION + Duration::from_secs(4), || match socket.event(REACTION)? {
        Event::Text(text) if text.contains("\"unsubscribe\"") => Ok(text),
        other => Err(format!("{other:?}")),
    })?;
    ensure(ended.contains("2501"), || ended.clone())?;
    let reply = socket.command(&json!({"id": 3, "subscribe": {"channel": "open:a"}}))?;
    ensure(reply["subscribe"].is_object(), || reply.to_string())
}

/// The slow backend hangs: what does not need it is as fast as ever, what does is told soon.
#[test]
fn a_backend_that_hangs_harms_only_what_needs_it() -> Result<(), String> {
    let world = world()?;
    world.slow.now(|_| Act::Hang);
    let mut waiting = Vec::new();
    for _ in 0..40 {
        let mut socket = world.connect()?;
        for id in 2..6 {
            socket.send_text(&json!({"id": id, "rpc": {"method": "m", "data": {}}}).to_string())?;
        }
        socket.send_text(&json!({"id": 6, "subscribe": {"channel": "slow:a"}}).to_string())?;
        waiting.push(socket);
    }
    // The same connection goes on, and so do all others.
    let began = Instant::now();
    let mut other = world.connect()?;
    for (id, socket) in (10..30).zip(std::iter::once(&mut other).chain(&mut waiting)) {
        let room = format!("open:{id}");
        let reply = socket.command(&json!({"id": id, "subscribe": {"channel": room}}))?;
        ensure(reply["subscribe"].is_object(), || reply.to_string())?;
        let publish = json!({"channel": room, "data": 1});
        let reply = socket.command(&json!({"id": id + 100, "publish": publish}))?;
        ensure(reply["publish"].is_object(), || reply.to_string())?;
    }
    let took = began.elapsed();
    ensure(took < Duration::from_millis(1500), || format!("the others took {took:?}"))?;
    // By now it is given up: the answer comes at once.
    let name = "roomcast_backend_calls_total";
    let given_up = until(REACTION, || {
        let text = http::get(world.cluster.node(0).http, "/metrics")?.body;
        let line = text.lines().find(|it| it.starts_with(name) && it.contains("given_up"));
        line.map(str::to_owned).ok_or_else(|| text.clone())
    });
    ensure(given_up.is_ok(), || format!("not given up: {given_up:?}"))?;
    let answered = until(REACTION, || {
        let began = Instant::now();
        let reply = other.command(&json!({"id": 200, "rpc": {"method": "m"}}))?;
        ensure(code(&reply) == 100, || reply.to_string())?;
        ensure(began.elapsed() < Duration::from_millis(100), || format!("{:?}", began.elapsed()))
    });
    answered?;
    // It answers again, and is asked again, by one call first.
    world.slow.now(|_| Act::Say(json!({"result": {"data": "back"}})));
    until(REACTION, || {
        let reply = other.command(&json!({"id": 300, "rpc": {"method": "m"}}))?;
        ensure(reply["rpc"]["data"] == "back", || reply.to_string())
    })
}

#[test]
fn a_client_that_goes_while_it_is_being_asked_about_leaves_nothing() -> Result<(), String> {
    let world = world()?;
    world.good.now(|_| {
        Act::Late(Duration::from_millis(600), json!({"result": {"channels": ["open:a"]}}))
    });
    for _ in 0..20 {
        let mut socket = Socket::open(world.cluster.node(0).http, None)?;
        socket.send_text(&json!({"id": 1, "connect": {}}).to_string())?;
        drop(socket);
    }
    world.good.now(permits);
    until(REACTION, || {
        let left = world.cluster.metric(0, "roomcast_connections")?;
        ensure(left == 0.0, || format!("{left} connections"))
    })?;
    let mut socket = world.connect()?;
    let reply = socket.command(&json!({"id": 2, "subscribe": {"channel": "open:a"}}))?;
    ensure(reply["subscribe"].is_object(), || reply.to_string())?;
    until(REACTION, || {
        let subscriptions = world.cluster.metric(0, "roomcast_subscriptions")?;
        ensure(subscriptions == 1.0, || format!("{subscriptions} subscriptions"))
    })
}
