//! How messages get onto the wire: a format, and what a transport puts around it. Pure.
//!
//! In: replies. Out: bytes that a socket or a response body takes as they are. What is pushed to many clients
//! is encoded once for each encoding among them.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::{
    codec::{self, Format},
    deflate::{self, Deflate},
    grpc::framing,
    message::{ConnectPush, ConnectResult, Push, PushBody, Reply, ReplyBody},
    websocket::{self, Opcode},
};

/// How the messages of a connection are written. *One-way* ones carry pushes without the reply around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// WebSocket text frames of JSON lines.
    SocketJson,
    /// WebSocket binary frames of Protobuf messages.
    SocketProtobuf,
    /// A stream of JSON lines.
    StreamJson,
    /// A stream of Protobuf messages.
    StreamProtobuf,
    /// Server-sent events, a JSON message each.
    Events,
    /// WebSocket text frames of pushes in JSON lines.
    OneWaySocket,
    /// A stream of pushes in JSON lines.
    OneWayStream,
    /// Server-sent events, a push in JSON each.
    OneWayEvents,
    /// A stream of gRPC, a push in Protobuf each.
    OneWayGrpc,
    /// [`Encoding::SocketJson`] with messages compressed.
    DeflatedJson(Deflate),
    /// [`Encoding::SocketProtobuf`] with messages compressed.
    DeflatedProtobuf(Deflate),
}

impl Encoding {
    /// How many there are.
    pub const COUNT: usize = 11;

    /// The encoding of a WebSocket connection that goes both ways; `deflate` if it was agreed to compress messages.
    pub const fn socket(format: Format, deflate: Option<Deflate>) -> Self {
        match (format, deflate) {
            (Format::Json, None) => Self::SocketJson,
            (Format::Protobuf, None) => Self::SocketProtobuf,
            (Format::Json, Some(deflate)) => Self::DeflatedJson(deflate),
            (Format::Protobuf, Some(deflate)) => Self::DeflatedProtobuf(deflate),
        }
    }

    /// Whether messages may be compressed.
    pub const fn is_deflated(self) -> bool {
        matches!(self, Self::DeflatedJson(_) | Self::DeflatedProtobuf(_))
    }

    /// The encoding of a streamed response that is one half of a connection.
    pub const fn stream(format: Format) -> Self {
        match format {
            Format::Json => Self::StreamJson,
            Format::Protobuf => Self::StreamProtobuf,
        }
    }

    /// Its place among all, below [`Encoding::COUNT`].
    pub const fn index(self) -> usize {
        match self {
            Self::SocketJson => 0,
            Self::SocketProtobuf => 1,
            Self::StreamJson => 2,
            Self::StreamProtobuf => 3,
            Self::Events => 4,
            Self::OneWaySocket => 5,
            Self::OneWayStream => 6,
            Self::OneWayEvents => 7,
            Self::DeflatedJson(_) => 8,
            Self::DeflatedProtobuf(_) => 9,
            Self::OneWayGrpc => 10,
        }
    }

    /// The format of its messages.
    pub const fn format(self) -> Format {
        match self {
            Self::SocketProtobuf
            | Self::StreamProtobuf
            | Self::DeflatedProtobuf(_)
            | Self::OneWayGrpc => Format::Protobuf,
            _ => Format::Json,
        }
    }

    /// The transport, as the path has it that the client connects to.
    pub const fn transport(self) -> &'static str {
        match self {
            Self::SocketJson
            | Self::SocketProtobuf
            | Self::DeflatedJson(_)
            | Self::DeflatedProtobuf(_) => "websocket",
            Self::StreamJson | Self::StreamProtobuf => "http_stream",
            Self::Events => "sse",
            Self::OneWaySocket => "uni_websocket",
            Self::OneWayStream => "uni_http_stream",
            Self::OneWayEvents => "uni_sse",
            Self::OneWayGrpc => "uni_grpc",
        }
    }

    /// Whether the client only listens.
    pub const fn is_one_way(self) -> bool {
        matches!(
            self,
            Self::OneWaySocket | Self::OneWayStream | Self::OneWayEvents | Self::OneWayGrpc
        )
    }

    /// What has to come before the first message: browsers take an event stream for open with its first bytes.
    /// No carriage return: `eventsource` 2 for Node.js then loses the end of a message in the same chunk.
    pub const fn prelude(self) -> &'static [u8] {
        match self {
            Self::Events | Self::OneWayEvents => b"\n",
            _ => b"",
        }
    }

    /// Adds a message to `batch`, which leaves as one; see [`Encoding::finish`].
    pub fn append(self, reply: &Reply, batch: &mut BytesMut) {
        match self {
            Self::SocketJson
            | Self::SocketProtobuf
            | Self::StreamProtobuf
            | Self::DeflatedJson(_)
            | Self::DeflatedProtobuf(_) => {
                codec::encode(self.format(), reply, batch);
            }
            Self::OneWaySocket => {
                if !batch.is_empty() {
                    batch.extend_from_slice(b"\n");
                }
                codec::write_json(&*push_of(reply), batch);
            }
            Self::OneWayGrpc => framing::append(&*push_of(reply), batch),
            Self::StreamJson | Self::OneWayStream => {
                self.write(reply, batch);
                batch.extend_from_slice(b"\n");
            }
            Self::Events | Self::OneWayEvents => {
                batch.extend_from_slice(b"data: ");
                self.write(reply, batch);
                batch.extend_from_slice(b"\n\n");
            }
        }
    }

    fn write(self, reply: &Reply, to: &mut BytesMut) {
        match self.is_one_way() {
            true => codec::write_json(&*push_of(reply), to),
            false => codec::write_json(reply, to),
        }
    }

    /// The bytes for the wire: a WebSocket frame, or the messages as they are.
    pub fn finish(self, batch: BytesMut) -> Bytes {
        match self {
            Self::SocketJson | Self::OneWaySocket => websocket::frame(Opcode::Text, &batch),
            Self::SocketProtobuf => websocket::frame(Opcode::Binary, &batch),
            Self::DeflatedJson(deflate) => deflated(Opcode::Text, &batch, deflate),
            Self::DeflatedProtobuf(deflate) => deflated(Opcode::Binary, &batch, deflate),
            _ => batch.freeze(),
        }
    }

    /// The bytes for the wire of one message.
    pub fn message(self, reply: &Reply) -> Bytes {
        let mut batch = BytesMut::new();
        self.append(reply, &mut batch);
        self.finish(batch)
    }
}

fn deflated(opcode: Opcode, message: &[u8], deflate: Deflate) -> Bytes {
    match deflate::compress(message, deflate) {
        Some(packed) => websocket::deflated_frame(opcode, &packed),
        None => websocket::frame(opcode, message),
    }
}

/// A client that only listens has asked for nothing, so it gets a connect's result as a push. Nothing else
/// is answered there; a ping is an empty push.
fn push_of(reply: &Reply) -> Cow<'_, Push> {
    match &reply.body {
        Some(ReplyBody::Push(push)) => Cow::Borrowed(push),
        Some(ReplyBody::Connect(result)) => {
            let event = Some(PushBody::Connect(result.into()));
            Cow::Owned(Push { event, ..Default::default() })
        }
        _ => Cow::Owned(Push::default()),
    }
}

impl From<&ConnectResult> for ConnectPush {
    fn from(result: &ConnectResult) -> Self {
        Self {
            client: result.client.clone(),
            version: result.version.clone(),
            data: result.data.clone(),
            subs: result.subs.clone(),
            expires: result.expires,
            ttl: result.ttl,
            ping: result.ping,
            pong: result.pong,
            session: result.session.clone(),
            node: result.node.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::protocol::message::Publication;

    const DEFLATE: Deflate = Deflate { min_size: 64, level: 1 };

    fn replies() -> [Reply; 3] {
        let publication = Publication { data: Bytes::from_static(b"1"), ..Default::default() };
        let push = Push { channel: "r".into(), event: Some(PushBody::Pub(publication)) };
        let connect =
            ConnectResult { client: "c".into(), version: "v".into(), ..Default::default() };
        [
            Reply { id: 1, body: Some(ReplyBody::Connect(connect)), ..Default::default() },
            Reply { body: Some(ReplyBody::Push(push)), ..Default::default() },
            Reply::default(),
        ]
    }

    fn written(encoding: Encoding) -> Bytes {
        let mut batch = BytesMut::new();
        replies().iter().for_each(|reply| encoding.append(reply, &mut batch));
        encoding.finish(batch)
    }

    const REPLIES: [&str; 3] = [
        r#"{"id":1,"connect":{"client":"c","version":"v"}}"#,
        r#"{"push":{"channel":"r","pub":{"data":1}}}"#,
        "{}",
    ];
    const PUSHES: [&str; 3] = [
        r#"{"connect":{"client":"c","version":"v"}}"#,
        r#"{"channel":"r","pub":{"data":1}}"#,
        "{}",
    ];

    #[test]
    fn each_transport_separates_messages_in_its_own_way() {
        let lines = |of: [&str; 3]| of.map(|it| format!("{it}\n")).concat();
        let events = |of: [&str; 3]| of.map(|it| format!("data: {it}\n\n")).concat();
        assert_eq!(written(Encoding::StreamJson), lines(REPLIES));
        assert_eq!(written(Encoding::OneWayStream), lines(PUSHES));
        assert_eq!(written(Encoding::Events), events(REPLIES));
        assert_eq!(written(Encoding::OneWayEvents), events(PUSHES));
        let frame = |of: [&str; 3]| websocket::frame(Opcode::Text, of.join("\n").as_bytes());
        assert_eq!(written(Encoding::SocketJson), frame(REPLIES));
        assert_eq!(written(Encoding::OneWaySocket), frame(PUSHES));
    }

    #[test]
    fn messages_that_shrink_are_compressed_and_others_are_not() {
        let push = |data: &'static [u8]| {
            let publication = Publication { data: Bytes::from_static(data), ..Default::default() };
            let event = Some(PushBody::Pub(publication));
            Reply {
                body: Some(ReplyBody::Push(Push { channel: "r".into(), event })),
                ..Default::default()
            }
        };
        let (small, large) = (push(b"1"), push(&[b'1'; 1_000]));
        for (plain, deflated) in [
            (Encoding::SocketJson, Encoding::DeflatedJson(DEFLATE)),
            (Encoding::SocketProtobuf, Encoding::DeflatedProtobuf(DEFLATE)),
        ] {
            assert_eq!(plain.message(&small), deflated.message(&small));
            let (whole, packed) = (plain.message(&large), deflated.message(&large));
            assert_eq!(packed[0], whole[0] | 0x40, "the bit that says it");
            assert!(packed.len() < 100, "{} bytes", packed.len());
            assert_eq!(deflate::inflate(&packed[2..], 2_000).as_deref(), Ok(&whole[4..]));
        }
    }

    #[test]
    fn a_common_reader_of_event_streams_lost_the_message_after_a_carriage_return() {
        for encoding in [Encoding::Events, Encoding::OneWayEvents] {
            let stream = [encoding.prelude(), &written(encoding)].concat();
            assert!(stream.starts_with(b"\n") && !stream.contains(&b'\r'));
        }
    }

    #[test]
    fn protobuf_messages_carry_their_length_so_they_need_nothing_around_them() {
        let stream = written(Encoding::StreamProtobuf);
        assert_eq!(websocket::frame(Opcode::Binary, &stream), written(Encoding::SocketProtobuf));
        assert_eq!(Encoding::StreamProtobuf.message(&Reply::default()), [0][..]);
    }

    #[test]
    fn a_stream_of_grpc_has_a_push_to_a_message() {
        let mut stream = written(Encoding::OneWayGrpc);
        for reply in replies() {
            let mut whole = BytesMut::new();
            framing::append(&*push_of(&reply), &mut whole);
            let message = framing::only_message(stream.split_to(whole.len())).expect("a message");
            assert_eq!(Push::decode(message), Ok(push_of(&reply).into_owned()));
        }
        assert!(stream.is_empty());
        assert_eq!(Encoding::OneWayGrpc.message(&Reply::default()), [0; 5][..], "a ping");
    }

    #[test]
    fn indices_are_distinct_and_below_the_count() {
        let all = [
            Encoding::SocketJson,
            Encoding::SocketProtobuf,
            Encoding::StreamJson,
            Encoding::StreamProtobuf,
            Encoding::Events,
            Encoding::OneWaySocket,
            Encoding::OneWayStream,
            Encoding::OneWayEvents,
            Encoding::DeflatedJson(DEFLATE),
            Encoding::DeflatedProtobuf(DEFLATE),
            Encoding::OneWayGrpc,
        ];
        assert!(all.iter().enumerate().all(|(index, it)| it.index() == index));
        assert_eq!(all.len(), Encoding::COUNT);
    }
}
