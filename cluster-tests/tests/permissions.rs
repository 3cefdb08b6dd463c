//! Who gets into which room, by what, and what the application does to connections: with the official SDK on
//! three nodes.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use cluster_tests::{
    driver::Refusal,
    sdk::{
        Format::{self, Json, Protobuf},
        Sdk,
    },
    wait::ensure,
    world::{REACTION, World},
    ws::Socket,
};
use roomcast::access::sign::sign;
use serde_json::{Value, json};

const SECRET: &str = "cluster-tests";

const CONFIG: &str = r#"
[client]
subscribe_to = ["news:all"]
expired_sub_close_delay = "0s"
[client.token]
hmac_secret_key = "cluster-tests"
[client.subscribe_to_user_personal_channel]
enabled = true
personal_channel_namespace = "user"
[channel.without_namespace]
allow_subscribe_for_client = true
[[channel.namespaces]]
name = "user"
allow_user_limited_channels = true
[[channel.namespaces]]
name = "news"
history_size = 100
history_ttl = "300s"
force_recovery = true
presence = true
allow_presence_for_subscriber = true
[[channel.namespaces]]
name = "named"
allow_subscribe_for_client = true
channel_regex = "^[a-z]+$"
[http_api]
key = "test"
"#;

fn token(claims: &Value) -> String {
    sign(SECRET, claims).expect("claims can be signed")
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs())
}

fn connect(world: &mut World, client: &str, node: usize, format: Format, claims: &Value) {
    let token = token(claims);
    world.check(&format!("{client} connects with {claims}"), |world| {
        let url = world.cluster.node(node).ws_url();
        let options = json!({"token": token});
        let connected = world.clients.connect_with(client, (Sdk::Js, format), &url, options);
        connected.map(drop).map_err(|it| it.to_string())
    });
}

/// Waits for an event of a client.
fn heard(world: &mut World, client: &str, what: &str, is_it: impl Fn(&Value) -> bool) {
    world.check(&format!("{client} hears {what}"), |world| {
        world.clients.until(client, REACTION, |events| {
            ensure(events.iter().any(|it| is_it(it)), || format!("only {events:?}"))
        })
    });
}

fn is(event: &Value, kind: &str, room: &str) -> bool {
    event["ev"] == kind && event["room"] == room
}

#[test]
fn the_server_puts_clients_into_rooms_and_what_they_missed_comes_with_them() {
    let mut world = World::with(3, CONFIG);
    connect(&mut world, "js", 0, Json, &json!({"sub": "42", "channels": ["mine"]}));
    connect(&mut world, "pb", 1, Protobuf, &json!({"sub": "43"}));
    for (client, rooms) in
        [("js", vec!["mine", "news:all", "user:#42"]), ("pb", vec!["news:all", "user:#43"])]
    {
        for room in rooms {
            heard(&mut world, client, &format!("that it is in {room}"), |it| {
                is(it, "subscribed", room)
            });
        }
    }
    world.api(2, "publish", json!({"channel": "news:all", "data": {"n": 1}}));
    world.api(2, "publish", json!({"channel": "user:#43", "data": {"n": 2}}));
    for client in ["js", "pb"] {
        heard(&mut world, client, "what is said to everyone", |it| {
            is(it, "pub", "news:all") && it["data"]["n"] == 1
        });
    }
    heard(&mut world, "pb", "what is said to it alone", |it| is(it, "pub", "user:#43"));
    let url = world.cluster.node(2).ws_url();
    world.check("js loses its connection", |world| {
        let offline = json!({"offline": true});
        world.clients.call("js", "drop", offline).map(drop).map_err(|it| it.to_string())
    });
    world.api(1, "publish", json!({"channel": "news:all", "data": {"n": 3}}));
    world.check("it comes back through another node", |world| {
        world.clients.call("js", "move", json!({"url": url})).map(drop).map_err(|it| it.to_string())
    });
    heard(&mut world, "js", "that nothing is missing", |it| {
        is(it, "subscribed", "news:all") && it["recovered"] == true
    });
    heard(&mut world, "js", "what it missed", |it| {
        is(it, "pub", "news:all") && it["data"]["n"] == 3
    });
}

#[test]
fn a_subscription_token_opens_a_private_room_for_its_user_for_its_time() {
    let mut world = World::with(3, CONFIG);
    connect(&mut world, "js", 0, Json, &json!({"sub": "42"}));
    let of = |user: &str, exp: u64| {
        token(&json!({"sub": user, "channel": "$news:vip", "exp": exp, "info": {"seat": 7}}))
    };
    for (token, code) in [(String::new(), 103), (of("42", now() - 9), 109)] {
        world.check(&format!("without a good one it answers {code}"), |world| {
            let mut socket = Socket::open(world.cluster.node(1).http, None)?;
            let credentials = json!({"token": self::token(&json!({"sub": "42"}))});
            socket.command(&json!({"id": 1, "connect": credentials}))?;
            let subscribe = json!({"channel": "$news:vip", "token": token});
            let reply = socket.command(&json!({"id": 2, "subscribe": subscribe}))?;
            ensure(reply["error"]["code"] == code, || reply.to_string())
        });
    }
    world.check("with one it is open", |world| {
        let options = json!({"token": of("42", now() + 3)});
        let subscribed = world.clients.subscribe_with("js", "$news:vip", options);
        subscribed.map(drop).map_err(|it| it.to_string())
    });
    world.check("those who look see what the token says of it", |world| {
        let seen = world.clients.call("js", "presence", json!({"room": "$news:vip"}));
        let seen = seen.map_err(|it| it.to_string())?;
        let infos: Vec<&Value> = seen["clients"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(_, it)| &it["chanInfo"])
            .collect();
        ensure(infos == [&json!({"seat": 7})], || seen.to_string())
    });
    heard(&mut world, "js", "that its time is over", |it| {
        is(it, "subscribing", "$news:vip") && it["code"] == 2501
            || it["ev"] == "error" && it["room"] == "$news:vip"
            || is(it, "unsubscribed", "$news:vip")
    });
}

#[test]
fn names_of_rooms_say_who_may_enter() {
    let mut world = World::with(1, CONFIG);
    connect(&mut world, "js", 0, Json, &json!({"sub": "42"}));
    for (room, code) in [
        ("user:team#41,42", None),
        ("user:team#41,43", Some(103)),
        ("user:team", Some(103)),
        ("named:abc", None),
        ("named:ABC", Some(107)),
        ("nope:abc", Some(102)),
    ] {
        world.check(&format!("{room} answers {code:?}"), |world| {
            let code_of = |it: Result<Value, Refusal>| it.err().map(|it| it.code);
            let answer = code_of(world.clients.subscribe("js", room));
            ensure(answer == code, || format!("{answer:?}"))
        });
    }
}

#[test]
fn the_application_reaches_a_users_connections_on_every_node() {
    let mut world = World::with(3, CONFIG);
    connect(&mut world, "one", 0, Json, &json!({"sub": "42"}));
    connect(&mut world, "two", 1, Protobuf, &json!({"sub": "42"}));
    connect(&mut world, "other", 1, Json, &json!({"sub": "43"}));
    for n in 1..=2 {
        world.api(0, "publish", json!({"channel": "news:a", "data": {"n": n}}));
    }
    let top = world.api(1, "history", json!({"channel": "news:a"}));
    let since = json!({"offset": 1, "epoch": top["epoch"]});
    let subscribe =
        json!({"user": "42", "channel": "news:a", "data": {"hi": 1}, "recover_since": since});
    world.api(2, "subscribe", subscribe);
    for client in ["one", "two"] {
        heard(&mut world, client, "that it is in a room", |it| is(it, "subscribed", "news:a"));
        heard(&mut world, client, "what it missed there", |it| {
            is(it, "pub", "news:a") && it["data"]["n"] == 2
        });
    }
    world.api(1, "unsubscribe", json!({"user": "42", "channel": "news:a"}));
    for client in ["one", "two"] {
        heard(&mut world, client, "that it is out of it", |it| is(it, "unsubscribed", "news:a"));
    }
    let refresh = json!({"user": "42", "expire_at": now() + 1_000, "info": {"new": true}});
    world.api(0, "refresh", refresh);
    let disconnect = json!({"user": "42", "disconnect": {"code": 4999, "reason": "go away"}});
    world.api(2, "disconnect", disconnect);
    for client in ["one", "two"] {
        heard(&mut world, client, "why it has to go", |it| {
            it["state"] == "disconnected" && it["code"] == 4999 && it["reason"] == "go away"
        });
    }
    world.check("no one else has noticed", |world| {
        let events = world.clients.events("other");
        ensure(!events.iter().any(|it| it["state"] == "disconnected"), || format!("{events:?}"))
    });
    world.check("a call that names nobody is refused", |world| {
        let answer = world.cluster.api_answer(0, "disconnect", &json!({}))?;
        ensure(answer["error"]["code"] == 107, || answer.to_string())
    });
}

#[test]
fn several_calls_go_in_one() {
    let mut world = World::with(3, CONFIG);
    let commands = json!([
        {"publish": {"channel": "news:b", "data": 1}},
        {"history": {"channel": "news:b", "limit": 1}},
        {"publish": {"channel": "nope:b", "data": 1}},
        {"rpc": {"method": "x"}},
    ]);
    for parallel in [false, true] {
        let batch = json!({"commands": commands, "parallel": parallel});
        world.check("each has its reply", |world| {
            let done = world.cluster.api_answer(1, "batch", &batch)?;
            let replies = &done["replies"];
            let right = replies[0]["publish"]["offset"].is_u64()
                && replies[1]["history"]["publications"].as_array().is_some_and(|it| it.len() == 1)
                && replies[2]["error"]["code"] == 102
                && replies[3]["error"]["code"] == 104;
            ensure(right, || done.to_string())
        });
    }
}

/// Answers every request with this JSON.
fn serve(json: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}/keys", listener.local_addr().expect("it is bound"));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\n";
            let _ = write!(stream, "{head}Content-Length: {}\r\n\r\n{json}", json.len());
        }
    });
    url
}

#[test]
fn tokens_are_checked_with_the_keys_that_an_issuer_publishes() {
    let keys = include_str!("../../src/access/vectors/jwks.json");
    let vectors: Value =
        serde_json::from_str(include_str!("../../src/access/vectors/vectors.json"))
            .expect("the vectors are JSON");
    let url = serve(keys);
    let mut world = World::with(
        1,
        &format!("[client.token]\njwks_public_endpoint = \"{url}\"\n[http_api]\nkey = \"test\"\n"),
    );
    for algorithm in ["RS256", "RS512", "ES256", "ES384", "ES512", "EdDSA"] {
        world.check(&format!("a token signed by {algorithm} connects"), |world| {
            let url = world.cluster.node(0).ws_url();
            let options = json!({"token": vectors["tokens"][algorithm]});
            let connected = world.clients.connect_with(algorithm, (Sdk::Js, Json), &url, options);
            connected.map(drop).map_err(|it| it.to_string())
        });
    }
    for wrong in ["confused", "cross", "enc", "nokid"] {
        world.check(&format!("the one called {wrong} does not"), |world| {
            let url = world.cluster.node(0).ws_url();
            let options = json!({"token": vectors["tokens"][wrong]});
            let connected = world.clients.connect_with(wrong, (Sdk::Js, Json), &url, options);
            let code = connected.err().map(|it| it.code);
            ensure(code == Some(3500), || format!("{code:?}"))
        });
    }
}

#[test]
fn while_the_keys_can_not_be_fetched_clients_are_told_to_try_again() {
    let cluster = cluster_tests::cluster::Cluster::start_with(
        1,
        "[client.token]\njwks_public_endpoint = \"http://127.0.0.1:1/keys\"\n[http_api]\nkey = \"test\"\n",
    );
    let outcome = cluster.and_then(|cluster| {
        let vectors: Value =
            serde_json::from_str(include_str!("../../src/access/vectors/vectors.json"))
                .map_err(|it| it.to_string())?;
        let mut socket = Socket::open(cluster.node(0).http, None)?;
        let connect = json!({"id": 1, "connect": {"token": vectors["tokens"]["RS256"]}});
        let reply = socket.command(&connect)?;
        let right = reply["error"]["code"] == 100 && reply["error"]["temporary"] == true;
        ensure(right, || reply.to_string())
    });
    assert_eq!(outcome, Ok(()));
}
