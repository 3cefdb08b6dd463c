//! The table: hostile input and its documented answer.

use cluster_tests::ws::{Frame, opcode};
use serde_json::{Value, json};

/// On what connection the bytes are sent.
#[derive(Clone, Copy)]
pub enum On {
    /// A JSON session that has connected.
    Json,
    /// A fresh WebSocket, before `connect`.
    Fresh,
    /// A Protobuf session that has connected.
    Protobuf,
}

/// What must come of it.
#[derive(Debug)]
pub enum Expect {
    /// A close frame with this code.
    Close(u16),
    /// A close frame with one of these codes: where the RFC leaves a choice.
    CloseOneOf(&'static [u16]),
    /// A reply to command 2 with this error; the session goes on.
    Error(u64),
    /// A reply to command 2 that holds this field; the session goes on.
    Reply(&'static str),
    /// Any answer or a close; the server must only survive it.
    Survive,
}
use Expect::{Close, CloseOneOf, Reply, Survive};

/// A name, a connection, the bytes to send on it, and what must come of them.
pub struct Row(pub &'static str, pub On, pub Vec<u8>, pub Expect);

pub fn text(payload: impl Into<Vec<u8>>) -> Vec<u8> {
    Frame::new(opcode::TEXT, payload).bytes()
}

pub fn binary(payload: impl Into<Vec<u8>>) -> Vec<u8> {
    Frame::new(opcode::BINARY, payload).bytes()
}

fn command(body: Value) -> Vec<u8> {
    text(body.to_string())
}

fn frame(change: impl FnOnce(&mut Frame)) -> Vec<u8> {
    let mut frame = Frame::new(opcode::TEXT, "{}");
    change(&mut frame);
    frame.bytes()
}

fn control(opcode: u8, payload: impl Into<Vec<u8>>) -> Vec<u8> {
    Frame::new(opcode, payload).bytes()
}

/// Sessions in a wrong order, and commands that are none.
pub fn sessions() -> Vec<Row> {
    let publish = json!({"channel": "x", "data": {}});
    vec![
        Row(
            "first command is not connect",
            On::Fresh,
            command(json!({"id": 1, "rpc": {}})),
            Close(3501),
        ),
        Row("second connect", On::Json, command(json!({"id": 2, "connect": {}})), Close(3501)),
        Row("empty text frame", On::Json, text(""), Close(3501)),
        Row("empty binary frame", On::Protobuf, binary(""), Close(3501)),
        Row("empty first frame", On::Fresh, text(""), Close(3501)),
        Row("not JSON", On::Json, text("hello"), Close(3501)),
        Row("truncated JSON", On::Json, text("{\"id\":2,\"publish\":{\"chan"), Close(3501)),
        Row("a JSON array", On::Json, text("[]"), Close(3501)),
        Row("a JSON null", On::Json, text("null"), Survive),
        Row("id is a string", On::Json, command(json!({"id": "2", "rpc": {}})), Close(3501)),
        Row("id is negative", On::Json, command(json!({"id": -2, "rpc": {}})), Close(3501)),
        Row("id is a fraction", On::Json, command(json!({"id": 2.5, "rpc": {}})), Close(3501)),
        Row("id is huge", On::Json, text("{\"id\":99999999999999999999,\"rpc\":{}}"), Close(3501)),
        Row(
            "request is an array",
            On::Json,
            command(json!({"id": 2, "publish": [1]})),
            Close(3501),
        ),
        Row(
            "room is a number",
            On::Json,
            command(json!({"id": 2, "publish": {"channel": 5}})),
            Close(3501),
        ),
        Row("no request at all", On::Json, command(json!({"id": 2})), Close(3501)),
        Row(
            "subscribe with id 0",
            On::Json,
            command(json!({"subscribe": {"channel": "x"}})),
            Close(3501),
        ),
        Row(
            "publish with id 0",
            On::Json,
            command(json!({"id": 0, "publish": publish})),
            Close(3501),
        ),
        Row("extra pong", On::Json, text("{}"), Close(3501)),
        Row("extra pong, Protobuf", On::Protobuf, binary([0]), Close(3501)),
        Row("ping command", On::Json, command(json!({"id": 2, "ping": {}})), Close(3501)),
        Row("send without a handler", On::Json, command(json!({"send": {"data": 1}})), Close(3508)),
        Row(
            "unknown fields",
            On::Json,
            command(json!({"id": 2, "zig": 1, "publish": {"channel": "x", "data": {}, "zag": []}})),
            Reply("publish"),
        ),
        Row(
            "two requests in one command",
            On::Json,
            command(
                json!({"id": 2, "history": {"channel": "x"}, "presence_stats": {"channel": "x"}}),
            ),
            Reply("presence_stats"),
        ),
        Row(
            "binary frame with JSON on a JSON session",
            On::Json,
            binary(json!({"id": 2, "rpc": {}}).to_string()),
            Close(3501),
        ),
        Row(
            "text frame with JSON on a Protobuf session",
            On::Protobuf,
            text("{\"id\":2,\"rpc\":{}}"),
            Close(3501),
        ),
    ]
}

/// What RFC 6455 forbids.
pub fn frames() -> Vec<Row> {
    let fragment = |fin, opcode, payload: &str| {
        frame(|f| {
            (f.fin, f.opcode, f.payload) = (fin, opcode, payload.into());
        })
    };
    vec![
        Row(
            "invalid UTF-8 in a text frame",
            On::Json,
            text(*b"{\"id\":2,\"rpc\":{\"method\":\"\xff\xfe\"}}"),
            Close(1007),
        ),
        Row("a reserved bit", On::Json, frame(|f| f.reserved = 4), Close(1002)),
        Row("all reserved bits", On::Json, frame(|f| f.reserved = 7), Close(1002)),
        Row("an unmasked frame", On::Json, frame(|f| f.masked = false), Close(1002)),
        Row("opcode 3", On::Json, frame(|f| f.opcode = 3), Close(1002)),
        Row("opcode 15", On::Json, frame(|f| f.opcode = 15), Close(1002)),
        Row("a fragmented ping", On::Json, fragment(false, opcode::PING, "x"), Close(1002)),
        Row("a ping of 126 bytes", On::Json, control(opcode::PING, [0; 126]), Close(1002)),
        Row(
            "a continuation of nothing",
            On::Json,
            fragment(true, opcode::CONTINUATION, "x"),
            Close(1002),
        ),
        Row(
            "a message inside a message",
            On::Json,
            [fragment(false, opcode::TEXT, "{"), fragment(true, opcode::TEXT, "}")].concat(),
            Close(1002),
        ),
        Row("a close frame of one byte", On::Json, control(opcode::CLOSE, [3]), Close(1002)),
        Row("close code 999", On::Json, control(opcode::CLOSE, 999u16.to_be_bytes()), Close(1002)),
        Row(
            "close code 1005",
            On::Json,
            control(opcode::CLOSE, 1005u16.to_be_bytes()),
            Close(1002),
        ),
        Row(
            "a close reason that is not UTF-8",
            On::Json,
            control(opcode::CLOSE, *b"\x03\xe8\xff\xff"),
            CloseOneOf(&[1007, 1002]),
        ),
        Row("a good close", On::Json, control(opcode::CLOSE, *b"\x03\xe8bye"), Close(1000)),
        Row(
            "a length of 2^63",
            On::Json,
            frame(|f| f.declared = Some(1 << 63)),
            CloseOneOf(&[1002, 1009]),
        ),
        Row(
            "a length of 1 GiB and no byte of it",
            On::Json,
            frame(|f| f.declared = Some(1 << 30)),
            Close(1009),
        ),
        Row("a message of 70,000 bytes", On::Json, text(vec![b' '; 70_000]), Close(1009)),
        Row("a message of 70,000 bytes in fragments", On::Json, fragments(70), Close(1009)),
        Row(
            "a valid command in fragments",
            On::Json,
            [
                fragment(false, opcode::TEXT, "{\"id\":2,\"presence_stats\""),
                control(opcode::PING, "?"),
                fragment(true, opcode::CONTINUATION, ":{\"channel\":\"x\"}}"),
            ]
            .concat(),
            Reply("presence_stats"),
        ),
    ]
}

/// A text message of `count` kilobytes, a kilobyte at a time.
fn fragments(count: usize) -> Vec<u8> {
    let part = |index: usize| {
        frame(|f| {
            f.fin = index + 1 == count;
            f.opcode = if index == 0 { opcode::TEXT } else { opcode::CONTINUATION };
            f.payload = vec![b' '; 1000];
        })
    };
    (0..count).flat_map(part).collect()
}

/// Numbers and names at and beyond their limits.
pub fn sizes() -> Vec<Row> {
    let room = |name: &str| command(json!({"id": 2, "subscribe": {"channel": name}}));
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    let deep = format!("{{\"id\":2,\"publish\":{{\"channel\":\"x\",\"data\":{deep}}}}}");
    let many = |count: usize| {
        let one =
            |i: usize| format!("{{\"id\":{},\"presence_stats\":{{\"channel\":\"x\"}}}}\n", i + 2);
        text((0..count).map(one).collect::<String>())
    };
    vec![
        Row("a room name of 255 bytes", On::Json, room(&"r".repeat(255)), Reply("subscribe")),
        Row("a room name of 256 bytes", On::Json, room(&"r".repeat(256)), Expect::Error(107)),
        Row("a room name of 60,000 bytes", On::Json, room(&"r".repeat(60_000)), Expect::Error(107)),
        Row("a room name of 1 MB", On::Json, room(&"r".repeat(1_000_000)), Close(1009)),
        Row("a NUL in a room name", On::Json, room("a\0b"), Survive),
        Row("bidi characters in a room name", On::Json, room("a\u{202e}b\u{2066}"), Survive),
        Row(
            "an unpaired surrogate",
            On::Json,
            text("{\"id\":2,\"subscribe\":{\"channel\":\"\\ud800\"}}"),
            Survive,
        ),
        Row("data 10,000 levels deep", On::Json, text(deep), Survive),
        Row("an unclosed nest of 60,000", On::Json, text("[".repeat(60_000)), Close(3501)),
        Row("1,300 commands in one frame", On::Json, many(1300), Survive),
        Row("30,000 pongs in one frame", On::Json, text("{}\n".repeat(20_000)), Close(3501)),
        Row("a truncated varint", On::Protobuf, binary([0x80]), Close(3501)),
        Row("an endless varint", On::Protobuf, binary([0xff; 20]), Close(3501)),
        Row(
            "a length prefix of 4 GB",
            On::Protobuf,
            binary([0xff, 0xff, 0xff, 0xff, 0x0f]),
            Close(3501),
        ),
        Row("a message shorter than its prefix", On::Protobuf, binary([9, 0x08, 2]), Close(3501)),
        Row("a field with wire type 7", On::Protobuf, binary([2, 0x0f, 0]), Close(3501)),
        Row("a field number of 0", On::Protobuf, binary([2, 0x00, 0]), Close(3501)),
        Row(
            "a string that is not UTF-8",
            On::Protobuf,
            binary([8, 0x08, 2, 0x2a, 4, 0x0a, 2, 0xff, 0xfe]),
            Close(3501),
        ),
    ]
}

/// Refusals that leave the session alive.
pub fn refusals() -> Vec<Row> {
    let row = |name, body: Value, expect| Row(name, On::Json, command(body), expect);
    let error = Expect::Error;
    vec![
        row("a room without a name", json!({"id": 2, "subscribe": {"channel": ""}}), Survive),
        row(
            "an unknown namespace",
            json!({"id": 2, "subscribe": {"channel": "nowhere:x"}}),
            error(102),
        ),
        row(
            "history of a room that keeps none",
            json!({"id": 2, "history": {"channel": "plain:x"}}),
            error(108),
        ),
        row(
            "presence of a room that has none",
            json!({"id": 2, "presence": {"channel": "plain:x"}}),
            error(108),
        ),
        row(
            "reverse history since offset 0",
            json!({"id": 2, "history": {"channel": "x", "limit": 1, "reverse": true, "since": {"offset": 0, "epoch": ""}}}),
            error(107),
        ),
        row(
            "history since another epoch",
            json!({"id": 2, "history": {"channel": "x", "limit": 1, "since": {"offset": 0, "epoch": "zzz"}}}),
            error(112),
        ),
        row(
            "a map subscription",
            json!({"id": 2, "subscribe": {"channel": "x", "type": 1}}),
            error(108),
        ),
        row(
            "a token refresh for a room it is not in",
            json!({"id": 2, "sub_refresh": {"channel": "x", "token": "t"}}),
            Survive,
        ),
        row(
            "leaving a room it is not in",
            json!({"id": 2, "unsubscribe": {"channel": "never"}}),
            Reply("unsubscribe"),
        ),
    ]
}
