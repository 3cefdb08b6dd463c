//! The Centrifuge client protocol in Protobuf: binary frames with length-delimited messages.
//!
//! Only what a load generator says and hears; every other field is skipped.

use super::{Answer, Cut, Dialect, Meaning, Since, Wanted, Who};
use anyhow::{Context, Result, bail, ensure};
use prost::Message;

/// The dialect.
#[derive(Debug)]
pub struct Protobuf;

#[derive(Clone, PartialEq, Message)]
struct Command {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "4")]
    connect: Option<Connect>,
    #[prost(message, optional, tag = "5")]
    subscribe: Option<Subscribe>,
    #[prost(message, optional, tag = "7")]
    publish: Option<Publish>,
}

#[derive(Clone, PartialEq, Message)]
struct Connect {
    #[prost(string, tag = "1")]
    token: String,
}

#[derive(Clone, PartialEq, Message)]
struct Subscribe {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bool, tag = "3")]
    recover: bool,
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(uint64, tag = "7")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Publish {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(bytes = "vec", tag = "2")]
    data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Reply {
    #[prost(uint32, tag = "1")]
    id: u32,
    #[prost(message, optional, tag = "2")]
    error: Option<Refused>,
    #[prost(message, optional, tag = "4")]
    push: Option<Push>,
    #[prost(message, optional, tag = "5")]
    connect: Option<Connected>,
    #[prost(message, optional, tag = "6")]
    subscribe: Option<Subscribed>,
}

#[derive(Clone, PartialEq, Message)]
struct Refused {
    #[prost(uint32, tag = "1")]
    code: u32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Push {
    #[prost(message, optional, tag = "4")]
    publication: Option<Publication>,
    #[prost(message, optional, tag = "7")]
    unsubscribe: Option<Unsubscribe>,
}

#[derive(Clone, PartialEq, Message)]
struct Unsubscribe {}

#[derive(Clone, PartialEq, Message)]
struct Publication {
    #[prost(uint64, tag = "6")]
    offset: u64,
}

#[derive(Clone, PartialEq, Message)]
struct Connected {
    #[prost(bool, tag = "8")]
    pong: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Subscribed {
    #[prost(string, tag = "6")]
    epoch: String,
    #[prost(message, repeated, tag = "7")]
    publications: Vec<Publication>,
    #[prost(bool, tag = "8")]
    recovered: bool,
    #[prost(uint64, tag = "9")]
    offset: u64,
}

impl Dialect for Protobuf {
    fn is_binary(&self) -> bool {
        true
    }

    fn subprotocol(&self) -> Option<&'static str> {
        Some("centrifuge-protobuf")
    }

    fn cut(&self, bytes: &[u8], _: bool) -> Result<Option<Cut>> {
        let mut rest = bytes;
        // Ten bytes hold any length; fewer may be the start of one.
        let length = match prost::decode_length_delimiter(&mut rest) {
            Ok(length) => length,
            Err(_) if bytes.len() < 10 => return Ok(None),
            Err(error) => bail!("no Protobuf message begins here: {error}"),
        };
        let start = bytes.len() - rest.len();
        let end = start.saturating_add(length);
        Ok((end <= bytes.len()).then_some(Cut { start, end, used: end }))
    }

    fn set_up(&self, step: usize, who: &Who) -> Option<Vec<u8>> {
        let mut command = Command { id: step as u32 + 1, ..Command::default() };
        if step == 0 {
            let token = who.token.clone().unwrap_or_default();
            command.connect = Some(Connect { token });
        } else {
            let Wanted { room, since } = who.rooms.get(step - 1)?.clone();
            let (channel, recover) = (room, since.is_some());
            let Since { epoch, offset } = since.unwrap_or_default();
            command.subscribe = Some(Subscribe { channel, recover, epoch, offset });
        }
        Some(command.encode_length_delimited_to_vec())
    }

    fn answer(&self, _: usize, message: &[u8]) -> Result<Option<Answer>> {
        let reply = Reply::decode(message).context("the server's answer is not Protobuf")?;
        if reply.id == 0 {
            return Ok(None);
        }
        let refused = reply.error.as_ref();
        let why = || refused.map(|it| format!("{} {}", it.code, it.message)).unwrap_or_default();
        ensure!(refused.is_none(), "the server answered {}", why());
        let subscribed = reply.subscribe.unwrap_or_default();
        let Subscribed { epoch, publications, recovered, offset } = subscribed;
        // What a recovery brings may go on from the position that the reply says.
        let offset = publications.iter().map(|it| it.offset).fold(offset, u64::max);
        let position = (!epoch.is_empty()).then_some(Since { epoch, offset });
        let pong = reply.connect.is_some_and(|connect| connect.pong);
        Ok(Some(Answer { pong, recovered, position }))
    }

    fn publish(&self, id: u32, room: &str, data: &str) -> Vec<u8> {
        let publish = Publish { channel: room.to_owned(), data: data.as_bytes().to_vec() };
        Command { id, publish: Some(publish), ..Command::default() }
            .encode_length_delimited_to_vec()
    }

    fn meaning(&self, message: &[u8]) -> Meaning {
        if message.is_empty() {
            return Meaning::Ping;
        }
        match Reply::decode(message) {
            Ok(Reply { push: Some(push), .. }) if push.publication.is_some() => Meaning::Delivery,
            Ok(Reply { push: Some(push), .. }) if push.unsubscribe.is_some() => {
                Meaning::Unsubscribed
            }
            Ok(Reply { push: Some(_), .. }) => Meaning::Other,
            Ok(Reply { error: None, .. }) => Meaning::Ack,
            Ok(_) | Err(_) => Meaning::Refusal,
        }
    }

    fn pong(&self) -> &'static [u8] {
        &[0]
    }

    fn offset(&self, message: &[u8]) -> Option<u64> {
        let publication = Reply::decode(message).ok()?.push?.publication?;
        Some(publication.offset).filter(|offset| *offset > 0)
    }
}
