//! On what terms clients are in a room: who is seen and announced there, what they get unasked, and users with one
//! connection only. With the official SDK on three nodes.

use std::time::Duration;

use cluster_tests::{
    sdk::{
        Format::{self, Json, Protobuf},
        Sdk,
    },
    wait::{ensure, until},
    world::{REACTION, World},
    ws::Socket,
};
use roomcast::access::sign::sign;
use serde_json::{Value, json};

const CONFIG: &str = r#"
[client.token]
hmac_secret_key = "cluster-tests"
[client.subscribe_to_user_personal_channel]
enabled = true
single_connection = true
[channel.without_namespace]
presence = true
join_leave = true
force_push_join_leave = true
allow_subscribe_for_client = true
allow_presence_for_client = true
[[channel.namespaces]]
name = "quiet"
allow_subscribe_for_client = true
allow_presence_for_subscriber = true
[[channel.namespaces]]
name = "past"
allow_subscribe_for_client = true
allow_history_for_subscriber = true
allow_publish_for_subscriber = true
history_size = 100
history_ttl = "300s"
join_leave = true
[http_api]
key = "test"
"#;

/// How long a connection has for being closed, once the others are.
const LONG_ENOUGH: Duration = Duration::from_secs(1);
/// How long one look is whether a connection was closed.
const LOOK: Duration = Duration::from_millis(20);

fn token(claims: &Value) -> String {
    sign("cluster-tests", claims).expect("claims can be signed")
}

fn connect(world: &mut World, client: &str, user: &str, node: usize, format: Format) {
    let token = token(&json!({"sub": user}));
    world.check(&format!("{client} connects as {user}"), |world| {
        let url = world.cluster.node(node).ws_url();
        let options = json!({"token": token});
        let connected = world.clients.connect_with(client, (Sdk::Js, format), &url, options);
        connected.map(drop).map_err(|it| it.to_string())
    });
}

fn subscribe(world: &mut World, client: &str, room: &str, options: Value) {
    world.check(&format!("{client} subscribes to {room} with {options}"), |world| {
        let subscribed = world.clients.subscribe_with(client, room, options);
        subscribed.map(drop).map_err(|it| it.to_string())
    });
}

/// The options of a subscription with a token that says this.
fn with_overrides(user: &str, room: &str, overrides: Value) -> Value {
    let claims = json!({"sub": user, "channel": room, "override": overrides});
    json!({"token": token(&claims)})
}

fn heard(world: &mut World, client: &str, what: &str, is_it: impl Fn(&Value) -> bool) {
    world.check(&format!("{client} hears {what}"), |world| {
        world.clients.until(client, REACTION, |events| {
            ensure(events.iter().any(|it| is_it(it)), || format!("only {events:?}"))
        })
    });
}

/// Of whom a client has heard that they came or went, in order.
fn announced(world: &World, client: &str, room: &str) -> Vec<String> {
    let of_room = |it: &&Value| it["room"] == room && (it["ev"] == "join" || it["ev"] == "leave");
    let one = |it: &Value| format!("{} {}", it["ev"], it["info"]["user"]).replace('"', "");
    world.clients.events(client).iter().filter(of_room).map(one).collect()
}

fn hears(world: &mut World, client: &str, room: &str, expected: &[&str]) {
    world.eventually(&format!("{client} heard {expected:?} in {room}"), REACTION, |world| {
        let heard = announced(world, client, room);
        ensure(heard == expected, || format!("{heard:?}"))
    });
}

fn seen(world: &mut World, room: &str, expected: &[&str]) {
    world.eventually(&format!("{expected:?} are seen in {room}"), REACTION, |world| {
        for node in world.cluster.running() {
            let presence = world.cluster.api(node, "presence", &json!({"channel": room}))?;
            let clients = presence["presence"].as_object().cloned().unwrap_or_default();
            let mut users: Vec<&str> =
                clients.values().filter_map(|it| it["user"].as_str()).collect();
            users.sort_unstable();
            ensure(users == expected, || format!("node {node}: {presence}"))?;
            let stats = world.cluster.api(node, "presence_stats", &json!({"channel": room}))?;
            let right =
                stats["num_clients"] == expected.len() && stats["num_users"] == expected.len();
            ensure(right, || format!("node {node}: {stats}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_token_hides_a_client_and_keeps_quiet_of_it() {
    let mut world = World::with(3, CONFIG);
    connect(&mut world, "ann", "ann", 0, Json);
    subscribe(&mut world, "ann", "hall", json!({}));
    let hide = json!({"presence": {"value": false}});
    let hush = json!({"join_leave": {"value": false}});
    for (client, node, format, overrides) in
        [("hid", 1, Protobuf, hide), ("hushed", 2, Json, hush), ("open", 2, Protobuf, json!({}))]
    {
        connect(&mut world, client, client, node, format);
        let options = with_overrides(client, "hall", overrides);
        subscribe(&mut world, client, "hall", options);
        heard(&mut world, client, "that it is there", |it| it["ev"] == "subscribed");
    }
    hears(&mut world, "ann", "hall", &["join ann", "join hid", "join open"]);
    seen(&mut world, "hall", &["ann", "hushed", "open"]);
    let all = ["join ann", "join hid", "join open", "leave hid", "leave open"];
    for client in ["hushed", "hid", "open"] {
        world.check(&format!("{client} leaves"), |world| {
            let left = world.clients.call(client, "unsubscribe", json!({"room": "hall"}));
            left.map(drop).map_err(|it| it.to_string())
        });
        // Of what clients of different nodes do at the same time either may come first.
        if client == "hid" {
            hears(&mut world, "ann", "hall", &all[..4]);
        }
    }
    hears(&mut world, "ann", "hall", &all);
    seen(&mut world, "hall", &["ann"]);
}

#[test]
fn the_application_announces_one_client_where_no_one_is_announced() {
    let mut world = World::with(2, CONFIG);
    for (client, node) in [("ann", 0), ("bob", 1), ("cyd", 1)] {
        connect(&mut world, client, client, node, Json);
    }
    subscribe(&mut world, "bob", "quiet:a", json!({"joinLeave": true}));
    let (yes, room) = (json!({"value": true}), "quiet:a");
    let listen =
        json!({"user": "ann", "channel": room, "override": {"force_push_join_leave": yes}});
    world.api(1, "subscribe", listen);
    heard(&mut world, "ann", "that it is there", |it| {
        it["ev"] == "subscribed" && it["room"] == room
    });
    let announce = json!({"user": "cyd", "channel": room, "override": {"join_leave": yes}});
    world.api(0, "subscribe", announce);
    hears(&mut world, "ann", room, &["join cyd"]);
    world.api(0, "unsubscribe", json!({"user": "cyd", "channel": room}));
    hears(&mut world, "ann", room, &["join cyd", "leave cyd"]);
    hears(&mut world, "bob", room, &[]);
}

#[test]
fn a_user_has_one_connection_the_newest() {
    let mut world = World::with(3, CONFIG);
    connect(&mut world, "other", "43", 0, Json);
    for (client, node, format) in
        [("first", 0, Json), ("second", 1, Protobuf), ("third", 2, Json), ("fourth", 2, Json)]
    {
        connect(&mut world, client, "42", node, format);
    }
    for client in ["first", "second", "third"] {
        heard(&mut world, client, "that it has to go", |it| {
            it["state"] == "disconnected" && it["code"] == 3504
        });
    }
    world.api(0, "publish", json!({"channel": "#42", "data": 1}));
    heard(&mut world, "fourth", "what is said to its user", |it| {
        it["ev"] == "pub" && it["room"] == "#42"
    });
    world.check("fourth and another user's client are still there", |world| {
        for client in ["fourth", "other"] {
            let events = world.clients.events(client);
            let gone = events.iter().any(|it| it["state"] == "disconnected");
            ensure(!gone, || format!("{client}: {events:?}"))?;
        }
        Ok(())
    });
    world.eventually("its room has one client", REACTION, |world| {
        let stats = world.cluster.api(1, "presence_stats", &json!({"channel": "#42"}))?;
        ensure(stats["num_clients"] == 1, || stats.to_string())
    });
}

#[test]
fn of_connections_that_come_at_once_one_stays() {
    let mut world = World::with(2, CONFIG);
    for round in 0..10 {
        let connect = json!({"id": 1, "connect": {"token": token(&json!({"sub": "7"}))}});
        world.check(&format!("round {round}: four come at once and one stays"), |world| {
            let mut sockets = Vec::new();
            for n in 0..4 {
                let mut socket = Socket::open(world.cluster.node(n % 2).http, None)?;
                socket.send_text(&connect.to_string())?;
                sockets.push(socket);
            }
            let mut codes: Vec<u16> = Vec::new();
            let mut look = |limit: Duration| {
                sockets.retain_mut(|socket| match socket.close_code(limit) {
                    Ok(closed) => {
                        codes.extend(closed.map(|it| it.0));
                        false
                    }
                    // It says nothing, as the one that stays.
                    Err(_) => true,
                });
                (sockets.len(), codes.clone())
            };
            until(REACTION, || {
                let (open, codes) = look(LOOK);
                ensure(open <= 1, || format!("closed: {codes:?}"))
            })?;
            let (open, codes) = look(LONG_ENOUGH);
            ensure(open == 1 && codes == [3504; 3], || format!("closed: {codes:?}"))
        });
    }
}

#[test]
fn whoever_may_read_the_past_recovers_and_whoever_may_not_see_others_is_not_told_of_them() {
    let mut world = World::with(2, CONFIG);
    connect(&mut world, "ann", "ann", 0, Json);
    connect(&mut world, "bob", "bob", 1, Protobuf);
    subscribe(&mut world, "ann", "past:a", json!({"recoverable": true, "joinLeave": true}));
    subscribe(&mut world, "bob", "past:a", json!({}));
    heard(&mut world, "ann", "that it can recover", |it| {
        it["ev"] == "subscribed" && it["recoverable"] == true && it["positioned"] == true
    });
    world.check("ann loses its connection", |world| {
        let lost = world.clients.call("ann", "drop", json!({"offline": true}));
        lost.map(drop).map_err(|it| it.to_string())
    });
    world.api(1, "publish", json!({"channel": "past:a", "data": {"n": 1}}));
    world.check("it comes back", |world| {
        let url = world.cluster.node(1).ws_url();
        let moved = world.clients.call("ann", "move", json!({"url": url}));
        moved.map(drop).map_err(|it| it.to_string())
    });
    heard(&mut world, "ann", "what it missed", |it| it["ev"] == "pub" && it["data"]["n"] == 1);
    hears(&mut world, "ann", "past:a", &[]);
}
