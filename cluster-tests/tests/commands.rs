//! What callers of the server API may send, and clients that write `null` for what they don't say.

use std::net::SocketAddr;
use std::time::Duration;

use cluster_tests::http::{self, Response};
use cluster_tests::sdk::Format::Json;
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::wait::ensure;
use cluster_tests::world::{REACTION, World};
use cluster_tests::ws::{Event, Socket};
use serde_json::{Value, json};

const KEY: (&str, &str) = ("X-API-Key", "test");

fn post(server: SocketAddr, path: &str, body: &str) -> Response {
    http::request(server, "POST", path, &[KEY], body).expect("an answer")
}

/// A connected raw JSON session on node 0.
fn session(world: &World) -> Socket {
    let mut socket = Socket::open(world.cluster.node(0).http, None).expect("an upgrade");
    socket.connect().expect("a connect reply");
    socket
}

/// The next message, read; pings are not meant.
fn next(socket: &mut Socket) -> Value {
    loop {
        match socket.event(REACTION).expect("a message") {
            Event::Text(text) if text == "{}" => {}
            Event::Text(text) => return serde_json::from_str(&text).expect("one message"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn commands_are_done_and_answered_one_to_a_line() {
    let world = World::new(1);
    let server = world.cluster.node(0).http;
    let body = concat!(
        r#"{"method":"publish","params":{"channel":"x","data":{"n":1}}}"#,
        "\n",
        r#"{"id":5,"method":"publish","params":{"channel":"x","data":{"n":2},"tags":null}}"#,
        "\n",
        r#"{"method":"publish","params":{"channel":1}}"#,
        "\n",
        r#"{"method":"history","params":{"channel":"x","limit":10}}"#,
        "\n",
        r#"{"method":"presence","params":{"channel":"plain:x"}}"#,
        "\n",
        r#"{"method":"no_such"}"#,
        "\n",
        r#"{"method":"info","params":{}}"#,
        "\n",
    );
    for key in [KEY, ("Authorization", "apikey test")] {
        let answer = http::request(server, "POST", "/api", &[key], body).expect("an answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        let replies = answer.body.lines().map(serde_json::from_str::<Value>);
        let replies: Vec<Value> = replies.collect::<Result<_, _>>().expect("JSON");
        assert_eq!(replies.len(), 7, "{}", answer.body);
        assert!(replies[0]["result"]["offset"].is_u64() && replies[0].get("id").is_none());
        assert_eq!(replies[1]["id"], 5);
        let offset = |index: usize| replies[index]["result"]["offset"].as_u64();
        assert_eq!(offset(1), offset(0).map(|it| it + 1), "one after the other");
        assert_eq!(offset(3), offset(1), "{}", replies[3]);
        let codes = [2, 4, 5].map(|index| replies[index]["error"]["code"].as_u64());
        assert_eq!(codes, [Some(107), Some(108), Some(104)]);
        assert_eq!(replies[6]["result"]["nodes"].as_array().map(Vec::len), Some(1));
    }
    let refused = http::request(server, "POST", "/api", &[("X-API-Key", "no")], body);
    assert_eq!(refused.expect("an answer").status, 401);
}

#[test]
fn what_is_malformed_is_refused_with_400_and_does_nothing() {
    let world = World::new(1);
    let server = world.cluster.node(0).http;
    let good = r#"{"method":"publish","params":{"channel":"x","data":1}}"#;
    let in_batch = r#"{"publish":{"channel":"x","data":1}}"#;
    for (path, body) in [
        ("/api", String::new()),
        ("/api", format!("{good}\n{{")),
        ("/api", format!("{good}\n[]")),
        ("/api", format!("{good}\n{{\"params\":{{}}}}")),
        ("/api/publish", r#"{"channel":"x","data":1,"tags":[]}"#.into()),
        ("/api/publish", r#"{"channel":["x"],"data":1}"#.into()),
        ("/api/publish", r#"{"channel":"x","data":"#.into()),
        ("/api/publish", r#"["x",[],1]"#.into()),
        ("/api/broadcast", r#"{"channels":"x","data":1}"#.into()),
        ("/api/disconnect", r#"{"user":42}"#.into()),
        ("/api/history", r#"{"channel":"x","limit":"10"}"#.into()),
        ("/api/info", "[]".into()),
        ("/api/batch", format!(r#"{{"commands":[{in_batch},{{"publish":{{"channel":1}}}}]}}"#)),
        ("/api/batch", r#"{"commands":{}}"#.into()),
    ] {
        let answer = post(server, path, &body);
        assert_eq!(answer.status, 400, "{path} {body}: {answer:?}");
        let error = answer.json().expect("JSON");
        assert_eq!(error["error"]["code"], 107, "{path} {body}: {error}");
    }
    let history = post(server, "/api/history", r#"{"channel":"x"}"#).json().expect("JSON");
    assert_eq!(history["result"]["offset"], 0, "{history}");
}

#[test]
fn null_in_an_option_is_as_good_as_nothing() {
    let mut world = World::new(1);
    let publish = json!({"channel": "x", "data": 1, "b64data": null, "skip_history": null, "tags": null,
        "idempotency_key": null, "delta": null, "version": null, "version_epoch": null});
    let target = json!({"user": "ann", "client": null, "session": null, "channel": "x"});
    for (method, body) in [
        ("publish", publish),
        ("broadcast", json!({"channels": ["x"], "data": 1, "tags": null, "b64data": null})),
        ("history", json!({"channel": "x", "limit": null, "since": null, "reverse": null})),
        (
            "subscribe",
            json!({"user": "ann", "channel": "x", "info": null, "b64info": null, "data": null,
            "expire_at": null, "override": null, "recover_since": null}),
        ),
        ("unsubscribe", target.clone()),
        ("disconnect", json!({"user": "ann", "whitelist": null, "disconnect": null})),
        ("refresh", json!({"user": "ann", "expired": null, "expire_at": null, "info": null})),
        ("channels", json!({"pattern": null})),
        ("info", Value::Null),
        // As with Centrifugo, no user is meant by no name.
        ("subscribe", json!({"user": "", "channel": "x"})),
        ("disconnect", json!({"user": "", "client": "nobody's"})),
    ] {
        world.api(0, method, body);
    }
    let mut socket = Socket::open(world.cluster.node(0).http, None).expect("an upgrade");
    let connect = json!({"token": null, "data": null, "name": null, "version": null, "subs": null,
        "headers": null});
    let reply = socket.command(&json!({"id": 1, "connect": connect})).expect("a reply");
    assert!(reply["connect"]["client"].is_string(), "{reply}");
    let subscribe = json!({"channel": "x", "token": null, "data": null, "recover": null, "offset": null,
        "epoch": null, "positioned": null, "recoverable": null, "join_leave": null, "delta": null,
        "tf": null, "flag": null, "type": null});
    let command = json!({"id": 2, "subscribe": subscribe, "publish": null});
    let reply = socket.command(&command).expect("a reply");
    assert!(reply["subscribe"].is_object(), "{reply}");
    let command = json!({"id": 3, "history": {"channel": "x", "since": null, "limit": null}});
    let reply = socket.command(&command).expect("a reply");
    assert!(reply["history"]["offset"].is_u64(), "{reply}");
}

#[test]
fn null_is_a_publication_and_base64_goes_first() {
    let mut world = World::new(1);
    let mut socket = session(&world);
    let plain = json!({"id": 2, "subscribe": {"channel": "plain:x"}});
    assert!(socket.command(&plain).expect("a reply")["subscribe"].is_object());
    world.api(0, "publish", json!({"channel": "plain:x", "data": null}));
    world.api(0, "publish", json!({"channel": "plain:x", "data": "", "b64data": "eyJ4IjoxfQ=="}));
    let publish = json!({"id": 3, "publish": {"channel": "plain:x", "data": null}});
    socket.send_text(&publish.to_string()).expect("sent");
    let mut got = Vec::new();
    while got.len() < 3 {
        let message = next(&mut socket);
        assert!(message.get("error").is_none(), "{message}");
        let push = &message["push"]["pub"];
        got.extend(push.is_object().then(|| push["data"].clone()));
    }
    assert_eq!(got, [json!(null), json!({"x": 1}), json!(null)]);
}

#[test]
fn the_limit_of_a_publication_is_the_one_that_is_documented() {
    let world = World::new(1);
    let server = world.cluster.node(0).http;
    let publish = |bytes: usize| {
        let body = json!({"channel": "x", "data": "y".repeat(bytes - 2)});
        http::post(server, "/api/publish", &[KEY], &body).expect("an answer").json().expect("JSON")
    };
    let answer = publish(512 << 10);
    assert!(answer["result"].is_object(), "{answer}");
    let error = &publish((512 << 10) + 1)["error"];
    let named = error["message"].as_str().is_some_and(|it| it.contains("client.queue_max_size"));
    assert!(error["code"] == 106 && named, "{error}");
}

#[test]
fn code_3000_drops_a_connection_without_a_close_frame() {
    let mut world = World::new(1);
    let mut socket = session(&world);
    let options = (Js, Json);
    let url = format!("ws://{}/connection/websocket", world.cluster.node(0).http);
    world.clients.connect("js", options, &url).expect("connected");
    world.api(0, "disconnect", json!({"user": "", "disconnect": {"code": 3000, "reason": "x"}}));
    assert_eq!(socket.close_code(REACTION), Ok(None), "no close frame");
    world.check("an SDK takes it for a network that failed, and comes back", |world| {
        world.clients.until("js", REACTION, |events| {
            let connected = events.iter().filter(|it| it["state"] == "connected").count();
            ensure(connected >= 2, || format!("{events:?}"))
        })
    });
    let mut socket = session(&world);
    world.api(0, "disconnect", json!({"user": ""}));
    let closed = socket.close_code(Duration::from_secs(5)).expect("a close");
    assert_eq!(closed, Some((3503, "force disconnect".to_owned())));
}
