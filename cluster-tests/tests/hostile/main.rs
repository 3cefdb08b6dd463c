//! Input that no SDK sends: every row has its documented answer, and after each
//! one a healthy client still gets its messages.

use std::time::Duration;

use cluster_tests::sdk::Format::Json;
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::World;
use cluster_tests::ws::{Event, Frame, Socket, opcode};
use serde_json::{Value, json};

mod rows;
use rows::Expect::{self, Close, CloseOneOf, Reply, Survive};
use rows::{On, Row, binary, text};

const SOON: Duration = Duration::from_secs(5);
/// A connect command: length 4, `id = 1`, `connect = {}`.
const PROTOBUF_CONNECT: [u8; 5] = [4, 0x08, 1, 0x22, 0];

#[test]
fn malformed_and_hostile_input_gets_its_documented_answer() {
    let mut world = World::new(2);
    world.play([
        Connect { client: "control", sdk: Js, format: Json, node: 0 },
        Subscribe { client: "control", room: "control" },
    ]);
    let mut wrong = Vec::new();
    let tables = [rows::sessions(), rows::frames(), rows::sizes(), rows::refusals()];
    let rows: Vec<Row> = tables.into_iter().flatten().collect();
    for (index, row) in rows.iter().enumerate() {
        if let Err(why) = judge(&mut world, row) {
            wrong.push(format!("{}: {why}", row.0));
        }
        world.check(&format!("control client after: {}", row.0), |world| {
            healthy(world, index as u64 + 1)
        });
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Sends a row's bytes on its kind of connection and compares what comes back.
fn judge(world: &mut World, Row(_, on, bytes, expect): &Row) -> Result<(), String> {
    let mut socket = open(world, *on)?;
    // A server may close before it has read all of a message that is too long.
    let sent = socket.send_raw(bytes);
    match expect {
        Close(code) => closes(&mut socket, &[*code]),
        CloseOneOf(codes) => closes(&mut socket, codes),
        Survive => {
            socket.drain(Duration::from_millis(300));
            Ok(())
        }
        Reply(field) => sent.and(answers(&mut socket, |reply| reply.get(*field).is_some())),
        Expect::Error(code) => sent.and(answers(&mut socket, |r| r["error"]["code"] == *code)),
    }
}

fn open(world: &World, on: On) -> Result<Socket, String> {
    let server = world.cluster.node(0).http;
    match on {
        On::Fresh => Socket::open(server, None),
        On::Json => {
            let mut socket = Socket::open(server, None)?;
            socket.connect()?;
            Ok(socket)
        }
        On::Protobuf => {
            let mut socket = Socket::open(server, Some("centrifuge-protobuf"))?;
            socket.send(&Frame::new(opcode::BINARY, PROTOBUF_CONNECT))?;
            match socket.event(SOON)? {
                Event::Binary(_) => Ok(socket),
                other => Err(format!("connect was answered by {other:?}")),
            }
        }
    }
}

fn closes(socket: &mut Socket, codes: &[u16]) -> Result<(), String> {
    let closed = socket.close_code(SOON)?;
    let right = closed.as_ref().is_some_and(|(code, _)| codes.contains(code));
    ensure(right, || format!("expected close {codes:?}, got {closed:?}"))
}

/// The reply to command 2 is `right`, and the session still takes commands.
fn answers(socket: &mut Socket, right: impl Fn(&Value) -> bool) -> Result<(), String> {
    let reply = loop {
        match socket.event(SOON)? {
            Event::Text(lines) => {
                let replies = lines.lines().filter_map(|l| serde_json::from_str(l).ok());
                if let Some(reply) = replies.into_iter().find(|r: &Value| r["id"] == 2) {
                    break reply;
                }
            }
            Event::Control(..) => {}
            other => return Err(format!("answered by {other:?}")),
        }
    };
    ensure(right(&reply), || format!("the reply was {reply}"))?;
    let after = json!({"id": 3, "presence_stats": {"channel": "x"}});
    let after = socket.command(&after).map_err(|e| format!("the session is over: {e}"))?;
    ensure(after["presence_stats"].is_object(), || format!("afterwards: {after}"))
}

/// A client that behaves gets its own message back, in time.
fn healthy(world: &mut World, count: u64) -> Result<(), String> {
    let data = json!({"from": "control", "seq": count});
    world.clients.publish("control", "control", data.clone()).map_err(|e| e.to_string())?;
    world.clients.until("control", Duration::from_secs(2), |events| {
        let got = events.iter().rfind(|e| e["ev"] == "pub").map_or(&Value::Null, |e| &e["data"]);
        ensure(*got == data, || format!("the newest message is {got}"))
    })
}

#[test]
fn random_bytes_harm_nobody() {
    let mut world = World::new(2);
    world.play([
        Connect { client: "control", sdk: Js, format: Json, node: 0 },
        Subscribe { client: "control", room: "control" },
    ]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    for round in 0..100 {
        world.check(&format!("round {round}"), |world| {
            let on = [On::Fresh, On::Json, On::Protobuf][round % 3];
            let mut socket = open(world, on)?;
            let noise: Vec<u8> = (0..64).flat_map(|_| random()).collect();
            // Half of the rounds are frames with random content, half are noise.
            let bytes = match round % 6 {
                0..3 => noise,
                3..5 => text(noise),
                _ => binary(noise),
            };
            let _ = socket.send_raw(&bytes);
            socket.drain(Duration::from_millis(10));
            healthy(world, round as u64 + 1)
        });
    }
}
