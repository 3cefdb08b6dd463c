//! The two formats of the protocol: JSON lines and length-delimited Protobuf.
//!
//! In: the payload of one WebSocket message, or a [`Reply`]. Out: [`Command`]s, one at a time, or bytes.

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use serde::Serialize;

use super::{
    message::{Command, ConnectRequest, Reply},
    nulls,
};

/// How a connection's messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// Text frames; messages separated by line feeds.
    Json,
    /// Binary frames; messages preceded by their length as a varint.
    Protobuf,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 2] = [Self::Json, Self::Protobuf];
}

/// Why a payload is not a sequence of commands.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// There was nothing in it.
    #[error("the frame is empty")]
    Empty,
    /// A line was JSON, but not an object.
    #[error("not a JSON object")]
    NotAnObject,
    /// A line was not a JSON command.
    #[error("not a JSON command: {0}")]
    Json(#[from] serde_json::Error),
    /// A message was not a Protobuf command.
    #[error("not a Protobuf command: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

/// Commands that are not read yet: a payload, or what is left of it. They are decoded one by one, since
/// decoded they take many times their bytes.
///
/// So those before one that can't be read are done; that one ends the connection (3501).
#[derive(Debug, Default)]
pub struct Commands(Bytes);

impl Commands {
    /// Adds a payload.
    ///
    /// # Errors
    /// If there is no command in it.
    pub fn push(&mut self, format: Format, payload: Bytes) -> Result<(), DecodeError> {
        if payload.is_empty() || (format == Format::Json && payload.iter().all(|it| *it == b'\n')) {
            return Err(DecodeError::Empty);
        }
        if self.0.is_empty() {
            self.0 = payload;
            return Ok(());
        }
        let separator: &[u8] = if format == Format::Json { b"\n" } else { b"" };
        self.0 = [&self.0[..], separator, &payload].concat().into();
        Ok(())
    }

    /// Whether there is nothing to be read any more.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next command; none after the last.
    ///
    /// # Errors
    /// If it can't be read. Then the rest can't either.
    pub fn next(&mut self, format: Format) -> Result<Option<Command>, DecodeError> {
        let command = match format {
            Format::Json => self.next_line().map(|line| decode_json(&line)),
            Format::Protobuf if self.0.is_empty() => None,
            Format::Protobuf => {
                Some(Command::decode_length_delimited(&mut self.0).map_err(Into::into))
            }
        };
        if self.0.is_empty() {
            // Lets go of the buffer that the payload was a part of.
            self.0 = Bytes::new();
        }
        command.transpose()
    }

    fn next_line(&mut self) -> Option<Bytes> {
        while !self.0.is_empty() {
            let end = self.0.iter().position(|it| *it == b'\n');
            let line = self.0.split_to(end.unwrap_or(self.0.len()));
            self.0.advance(usize::from(end.is_some()));
            if !line.is_empty() {
                return Some(line);
            }
        }
        None
    }
}

fn decode_json(line: &[u8]) -> Result<Command, DecodeError> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(DecodeError::NotAnObject);
    }
    Ok(nulls::from_slice(line)?)
}

/// Reads the request with which a client begins that only listens: JSON; nothing at all asks for nothing.
///
/// # Errors
/// If it is anything else.
pub fn decode_connect(format: Format, payload: &[u8]) -> Result<ConnectRequest, DecodeError> {
    if format == Format::Protobuf {
        return Ok(ConnectRequest::decode(payload)?);
    }
    match payload.trim_ascii() {
        b"" | b"null" => Ok(ConnectRequest::default()),
        request if request.starts_with(b"{") => Ok(nulls::from_slice(request)?),
        _ => Err(DecodeError::NotAnObject),
    }
}

/// Appends one message to `frame`, which may hold others already.
pub fn encode(format: Format, reply: &Reply, frame: &mut BytesMut) {
    match format {
        Format::Json => {
            if !frame.is_empty() {
                frame.extend_from_slice(b"\n");
            }
            write_json(reply, frame);
        }
        Format::Protobuf => {
            frame.reserve(reply.encoded_len() + 10);
            // The only error is a buffer that can't grow, and this one can.
            let _ = reply.encode_length_delimited(frame);
        }
    }
}

/// Appends one message as JSON, and nothing around it.
pub fn write_json<T: Serialize>(message: &T, to: &mut BytesMut) {
    let start = to.len();
    if serde_json::to_writer(bytes::BufMut::writer(&mut *to), message).is_err() {
        // No message of ours fails to serialize; should one, a ping says nothing wrong.
        to.truncate(start);
        to.extend_from_slice(b"{}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::message::{
        ChannelRequest, ConnectResult, Publication, PublishRequest, Push, PushBody, ReplyBody,
        Request, Sub, SubscribeResult,
    };

    fn decode(format: Format, payload: Bytes) -> Result<Vec<Command>, DecodeError> {
        let (mut commands, mut decoded) = (Commands::default(), Vec::new());
        commands.push(format, payload)?;
        while let Some(command) = commands.next(format)? {
            decoded.push(command);
        }
        Ok(decoded)
    }

    fn encoded(format: Format, replies: &[Reply]) -> Bytes {
        let mut frame = BytesMut::new();
        replies.iter().for_each(|reply| encode(format, reply, &mut frame));
        frame.freeze()
    }

    fn publication(data: &'static [u8]) -> Reply {
        let publication =
            Publication { data: Bytes::from_static(data), offset: 7, ..Default::default() };
        let push = Push { channel: "r".into(), event: Some(PushBody::Pub(publication)) };
        Reply { body: Some(ReplyBody::Push(push)), ..Default::default() }
    }

    #[test]
    fn json_commands_are_separated_by_line_feeds() {
        let payload = b"{\"id\":1,\"connect\":{}}\n{}\n{\"id\":2,\"publish\":{\"channel\":\"r\",\"data\":{\"a\": [1]}}}\n";
        let commands = decode(Format::Json, Bytes::from_static(payload)).expect("valid");
        assert_eq!(commands.len(), 3);
        assert!(matches!(commands[0].clone().into_request(), (1, Some(Request::Connect(_)))));
        assert_eq!(commands[1].clone().into_request(), (0, None));
        let (_, Some(Request::Publish(publish))) = commands[2].clone().into_request() else {
            panic!("not a publish")
        };
        assert_eq!(publish.data, Bytes::from_static(b"{\"a\": [1]}"));
    }

    #[test]
    fn the_first_request_of_a_command_wins() {
        let payload = br#"{"id":1,"publish":{"channel":"b"},"subscribe":{"channel":"a"}}"#;
        let command = decode(Format::Json, Bytes::from_static(payload)).expect("valid").remove(0);
        assert!(matches!(command.into_request().1, Some(Request::Subscribe(_))));
    }

    #[test]
    fn null_is_as_good_as_nothing_in_json() {
        let nulls = br#"{"id":1,"connect":{"token":"t","data":null,"name":null,"version":null,"headers":null,"subs":null}}
{"id":2,"subscribe":{"channel":"r","token":null,"recover":null,"epoch":null,"offset":null,"data":null,"positioned":null,"recoverable":null,"join_leave":null,"delta":null,"tf":null,"flag":null,"type":null},"publish":null}
{"id":3,"history":{"channel":"r","limit":null,"since":null,"reverse":null}}
{"id":4,"history":{"channel":"r","since":{"offset":null,"epoch":null}}}
{"id":null,"connect":null}"#;
        let plain = br#"{"id":1,"connect":{"token":"t"}}
{"id":2,"subscribe":{"channel":"r"}}
{"id":3,"history":{"channel":"r"}}
{"id":4,"history":{"channel":"r","since":{}}}
{}"#;
        let decode = |it: &'static [u8]| decode(Format::Json, Bytes::from_static(it));
        assert_eq!(decode(nulls).expect("valid"), decode(plain).expect("valid"));
        assert_eq!(
            decode_connect(Format::Json, br#"{"subs":null,"token":null}"#).expect("valid"),
            ConnectRequest::default()
        );
    }

    #[test]
    fn null_is_data_of_its_own() {
        let payload = br#"{"id":1,"publish":{"channel":"r","data":null}}"#;
        let command = decode(Format::Json, Bytes::from_static(payload)).expect("valid").remove(0);
        assert_eq!(command.publish.expect("a publish").data, Bytes::from_static(b"null"));
        let nothing = decode(Format::Json, Bytes::from_static(br#"{"publish":{"channel":"r"}}"#));
        assert!(nothing.expect("valid").remove(0).publish.expect("a publish").data.is_empty());
    }

    #[test]
    fn bad_payloads_are_refused() {
        for payload in [
            "",
            "\n",
            "{",
            "[]",
            "1",
            "{\"id\":-1}",
            "{\"id\":1,\"connect\":3}",
            "{}x",
            "{\"connect\":[\"t\"]}",
        ] {
            assert!(decode(Format::Json, Bytes::from(payload)).is_err(), "{payload:?}");
        }
        for payload in [&b""[..], b"\x05", b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"] {
            assert!(decode(Format::Protobuf, Bytes::from_static(payload)).is_err(), "{payload:?}");
        }
    }

    #[test]
    fn what_comes_while_some_are_left_is_read_after_them() {
        for (format, one, other) in [
            (Format::Json, &b"{\"id\":1}\n{\"id\":2}"[..], &b"{\"id\":3}"[..]),
            (Format::Protobuf, b"\x02\x08\x01\x02\x08\x02", b"\x02\x08\x03"),
        ] {
            let mut commands = Commands::default();
            commands.push(format, Bytes::from_static(one)).expect("commands");
            let mut ids = Vec::new();
            while let Some(command) = commands.next(format).expect("valid") {
                ids.push(command.id);
                if command.id == 1 {
                    commands.push(format, Bytes::from_static(other)).expect("commands");
                }
            }
            assert_eq!((ids, commands.is_empty()), (vec![1, 2, 3], true), "{format:?}");
        }
    }

    #[test]
    fn json_carries_embedded_json_as_it_is() {
        let json = encoded(Format::Json, &[publication(b"{\"x\":1}"), Reply::default()]);
        assert_eq!(
            json,
            "{\"push\":{\"channel\":\"r\",\"pub\":{\"data\":{\"x\":1},\"offset\":7}}}\n{}"
        );
    }

    #[test]
    fn data_cannot_break_the_framing_of_json() {
        let lines = encoded(Format::Json, &[publication(b"{\n\"x\":\n1}")]);
        assert!(!lines.contains(&b'\n') && lines.ends_with(b"{ \"x\": 1},\"offset\":7}}}"));
        let binary = encoded(Format::Json, &[publication(b"\x00\xff")]);
        assert!(binary.ends_with(b"\"data\":\"AP8=\",\"offset\":7}}}"));
    }

    #[test]
    fn a_room_with_nothing_to_say_of_it_is_not_left_out() {
        let sub = Sub { channel: "r".into(), result: Some(SubscribeResult::default()) };
        let result = ConnectResult { subs: vec![sub], ..Default::default() };
        let reply = Reply { id: 1, body: Some(ReplyBody::Connect(result)), ..Default::default() };
        let json = encoded(Format::Json, std::slice::from_ref(&reply));
        assert!(json.ends_with(b"\"subs\":{\"r\":{}}}}"), "{json:?}");
        // Field 6, five bytes: field 1 is "r", field 2 is there and empty.
        let protobuf = encoded(Format::Protobuf, &[reply]);
        assert!(protobuf.ends_with(b"\x32\x05\x0a\x01r\x12\x00"), "{protobuf:?}");
    }

    #[test]
    fn a_ping_is_one_zero_byte_in_protobuf() {
        assert_eq!(&encoded(Format::Protobuf, &[Reply::default()])[..], &[0]);
    }

    proptest! {
        #[test]
        fn commands_survive_protobuf(ids in prop::collection::vec(any::<u32>(), 1..5),
                                     channel in ".{0,20}", data in prop::collection::vec(any::<u8>(), 0..50)) {
            let commands: Vec<Command> = ids.into_iter().map(|id| Command {
                id,
                publish: Some(PublishRequest { channel: channel.clone(), data: data.clone().into(), ..PublishRequest::default() }),
                presence: Some(ChannelRequest { channel: channel.clone() }),
                ..Default::default()
            }).collect();
            let mut payload = BytesMut::new();
            for command in &commands {
                command.encode_length_delimited(&mut payload).expect("grows");
            }
            prop_assert_eq!(decode(Format::Protobuf, payload.freeze()).expect("valid"), commands);
        }

        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            for format in Format::ALL {
                let _ = decode(format, payload.clone().into());
            }
        }
    }
}
