//! What is spoken on a WebSocket: the client protocol in JSON and Protobuf, and what the servers that
//! Roomcast is compared with speak.
//!
//! In: bytes of data frames, cut anywhere. Out: messages and what they mean; commands to send. Nothing here
//! has state: a connection ([`crate::conn`]) keeps its own.

mod json;
mod nats;
mod protobuf;
mod socketio;

use anyhow::Result;
use clap::ValueEnum;
use std::fmt::Debug;

/// A protocol on WebSocket.
pub trait Dialect: Debug + Sync {
    /// Commands go in binary frames rather than text.
    fn is_binary(&self) -> bool {
        false
    }

    /// The WebSocket subprotocol to ask for.
    fn subprotocol(&self) -> Option<&'static str> {
        None
    }

    /// Where the first message in `bytes` is; `None` if it isn't complete. `message_ends` says that a
    /// WebSocket message ends with `bytes`.
    fn cut(&self, bytes: &[u8], message_ends: bool) -> Result<Option<Cut>>;

    /// The step of the set-up that is the first subscription.
    fn first_subscription(&self) -> usize {
        1
    }

    /// What `who` sends as step `step` of its set-up, which may be nothing (then the server speaks
    /// first); `None` once the set-up is done.
    fn set_up(&self, step: usize, who: &Who) -> Option<Vec<u8>>;

    /// The server's answer to step `step`, if `message` is that. A refusal is an error.
    fn answer(&self, step: usize, message: &[u8]) -> Result<Option<Answer>>;

    /// A command that publishes `data`, which is JSON, to `room`.
    fn publish(&self, id: u32, room: &str, data: &str) -> Vec<u8>;

    /// What a message means once the set-up is done.
    fn meaning(&self, message: &[u8]) -> Meaning;

    /// The answer to a ping.
    fn pong(&self) -> &'static [u8];

    /// The offset that a delivery carries, where deliveries carry one.
    fn offset(&self, message: &[u8]) -> Option<u64>;
}

/// The dialects by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    /// The Centrifuge client protocol in JSON
    #[default]
    Json,
    /// The Centrifuge client protocol in Protobuf
    Protobuf,
    /// NATS over WebSocket
    Nats,
    /// The same for JetStream, where only requests are answered
    JetStream,
    /// Socket.IO, with the events of the comparison's server
    SocketIo,
}

impl Protocol {
    /// How it is spoken.
    pub fn dialect(self) -> &'static dyn Dialect {
        match self {
            Self::Json => &json::Json,
            Self::Protobuf => &protobuf::Protobuf,
            Self::Nats => &nats::Nats { verbose: true },
            Self::JetStream => &nats::Nats { verbose: false },
            Self::SocketIo => &socketio::SocketIo,
        }
    }
}

/// Where a message is in a run of bytes: `bytes[start..end]`, and what follows it begins at `used`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Where the message begins.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Where the next one begins.
    pub used: usize,
}

impl Cut {
    /// All of a WebSocket message that has `length` bytes, if it ends here.
    fn whole(length: usize, message_ends: bool) -> Option<Self> {
        (message_ends && length > 0).then_some(Self { start: 0, end: length, used: length })
    }
}

/// Who connects, and what for.
#[derive(Clone, Debug, Default)]
pub struct Who {
    /// Rooms to subscribe to, one after the other.
    pub rooms: Vec<Wanted>,
    /// The connection token.
    pub token: Option<String>,
    /// What every subscribe says as its data, in JSON dialects.
    pub data: Option<serde_json::Value>,
}

impl Who {
    /// A client that comes to these rooms for the first time.
    pub fn new<'a>(rooms: impl IntoIterator<Item = &'a String>) -> Self {
        let wanted = |room: &String| Wanted { room: room.clone(), since: None };
        Self { rooms: rooms.into_iter().map(wanted).collect(), token: None, data: None }
    }
}

/// A room to subscribe to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub room: String,
    /// Where the client was in its stream, if it is to recover.
    pub since: Option<Since>,
}

/// A position in a room's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The stream's epoch.
    pub epoch: String,
    /// The last offset seen.
    pub offset: u64,
}

/// What the server answered to a step of the set-up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Pings are to be answered.
    pub pong: bool,
    /// Everything that was missed has been recovered.
    pub recovered: bool,
    /// The stream's position at the time of the subscription, in a room that has one.
    pub position: Option<Since>,
}

/// What a message means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// To be answered by a pong.
    Ping,
    /// A publication.
    Delivery,
    /// A publication of our own was taken.
    Ack,
    /// The server said no.
    Refusal,
    /// The server has ended a subscription; a client may ask for it again.
    Unsubscribed,
    /// Nothing that is counted.
    Other,
}

/// The number that `bytes` begin with.
pub fn digits(bytes: &[u8]) -> Option<u64> {
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit());
    digits.copied().fold(None, |value: Option<Option<u64>>, digit| {
        let value = value.unwrap_or(Some(0));
        let digit = u64::from(digit - b'0');
        Some(value.and_then(|value| value.checked_mul(10)?.checked_add(digit)))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All messages in `bytes`, which are one WebSocket message.
    fn messages(protocol: Protocol, bytes: &[u8]) -> Vec<Vec<u8>> {
        let (dialect, mut rest, mut found) = (protocol.dialect(), bytes, Vec::new());
        while let Some(cut) = dialect.cut(rest, true).expect("well-formed") {
            found.push(rest[cut.start..cut.end].to_vec());
            rest = &rest[cut.used..];
        }
        assert!(rest.is_empty(), "{protocol:?} leaves {rest:?}");
        found
    }

    fn meanings(protocol: Protocol, bytes: &[u8]) -> Vec<Meaning> {
        let dialect = protocol.dialect();
        messages(protocol, bytes).iter().map(|message| dialect.meaning(message)).collect()
    }

    #[test]
    fn every_dialect_tells_deliveries_pings_acks_and_refusals_apart() {
        use Meaning::{Ack, Delivery, Other, Ping, Refusal, Unsubscribed};
        let push = br#"{"push":{"channel":"r","pub":{"data":{"t":1},"offset":7}}}"#;
        let join = br#"{"push":{"channel":"r","join":{"info":{}}}}"#;
        let over = br#"{"push":{"channel":"r","unsubscribe":{"code":2500}}}"#;
        let (ack, no) = (br#"{"id":9,"publish":{}}"#, br#"{"id":9,"error":{}}"#);
        let json = [&push[..], b"{}", join, over, ack, no].join(&b'\n');
        let expected = [Delivery, Ping, Other, Unsubscribed, Ack, Refusal];
        assert_eq!(meanings(Protocol::Json, &json), expected);
        let nats = b"MSG r 1 4\r\n\r\n{}\r\nPING\r\n+OK\r\n-ERR 'no'\r\nINFO {}\r\n";
        assert_eq!(meanings(Protocol::Nats, nats), [Delivery, Ping, Ack, Refusal, Other]);
        let socketio = [&b"42[\"message\",1]"[..], b"2", b"437[]", b"44{}", b"6"];
        let socketio: Vec<_> =
            socketio.iter().flat_map(|one| meanings(Protocol::SocketIo, one)).collect();
        assert_eq!(socketio, [Delivery, Ping, Ack, Refusal, Other]);
        // push {pub {offset 7}}, ping, reply to id 9, error in reply to id 9, push {join}, push {unsubscribe}
        let protobuf = [
            &[6, 0x22, 4, 0x22, 2, 0x30, 7][..],
            &[0],
            &[2, 0x08, 9],
            &[4, 0x08, 9, 0x12, 0],
            &[4, 0x22, 2, 0x2a, 0],
            &[4, 0x22, 2, 0x3a, 0],
        ]
        .concat();
        let expected = [Delivery, Ping, Ack, Refusal, Other, Unsubscribed];
        assert_eq!(meanings(Protocol::Protobuf, &protobuf), expected);
        assert_eq!(Protocol::Protobuf.dialect().offset(&protobuf[1..7]), Some(7));
        assert_eq!(Protocol::Json.dialect().offset(push), Some(7));
    }

    #[test]
    fn a_message_that_is_not_complete_is_waited_for() {
        let nats = b"MSG r 1 4\r\nabcd\r\n";
        let protobuf = [3, 0x08, 0x80, 0x01];
        for (protocol, bytes) in [(Protocol::Nats, &nats[..]), (Protocol::Protobuf, &protobuf)] {
            for end in 0..bytes.len() {
                let cut = protocol.dialect().cut(&bytes[..end], true).expect("a good start");
                assert_eq!(cut, None, "{protocol:?} cut at {end}");
            }
        }
        for protocol in [Protocol::Json, Protocol::SocketIo] {
            assert_eq!(protocol.dialect().cut(b"42[", false).expect("a good start"), None);
        }
    }

    #[test]
    fn what_is_no_message_is_refused() {
        assert!(Protocol::Protobuf.dialect().cut(&[0xff; 10], true).is_err());
        assert!(Protocol::Nats.dialect().cut(b"MSG r 1 x\r\n", true).is_err());
    }

    #[test]
    fn numbers_are_read_up_to_what_fits() {
        let read = ["", "x", "7,", "18446744073709551615", "18446744073709551616"]
            .map(|text| digits(text.as_bytes()));
        assert_eq!(read, [None, None, Some(7), Some(u64::MAX), None]);
    }
}
