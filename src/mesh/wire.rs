//! What nodes say to each other about rooms, and how it is written: bincode in length-prefixed frames.
//!
//! The only module that knows bincode (RUSTSEC-2025-0141: it is complete and no longer maintained), so that
//! it can be replaced here alone, under a new [`VERSION`].

use std::{sync::Arc, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    cluster::node::{NodeId, NodeInfo},
    protocol::codes::ErrorCode,
    room::{
        keys::Aged,
        line::Line,
        stream::{Entry, Repeats, Snapshot},
        types::{
            Answer, Ask, ClientId, ClientInfo, Epoch, Finding, Position, Publication, RoomName,
            Survey,
        },
    },
    session::id::SessionId,
};

/// Version of everything in this module. Nodes of different versions refuse each other.
pub const VERSION: u32 = 6;
/// The largest frame that a peer may send.
pub const MAX_FRAME: usize = 16 << 20;
/// The most bytes of publications that one message carries; well below [`MAX_FRAME`].
pub const MAX_PUBLICATIONS: usize = 8 << 20;

/// What one node says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first frame in either direction.
    Hello(Hello),
    /// I am here, and have nothing to say.
    Alive,
    /// About one room.
    Room(RoomName, RoomMessage),
    /// A question to every node.
    Survey(u64, Survey),
    /// The answer to it.
    Finding(u64, Finding),
    /// Commands for a session of yours, that its client has brought to me.
    Emulation(SessionId, Bytes),
}

/// Who is on the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// See [`VERSION`].
    pub version: u32,
    /// Name of the cluster; links never cross clusters.
    pub cluster: String,
    /// The sender.
    pub node: NodeInfo,
    /// Whom the sender means to talk to. The dialled node refuses if it is another.
    pub to: Option<NodeId>,
}

/// What nodes say about one room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomMessage {
    /// To the home: do this.
    Request {
        /// The sender's number for it. Numbers rise.
        id: u64,
        /// Which run of requests it belongs to: a run ends with the first that is refused.
        run: u64,
        /// Its place in the run, from 0. The home takes a run in order or not at all.
        seq: u32,
        /// What is to be done.
        ask: Ask,
    },
    /// From the home, to a request.
    Answer {
        /// The number that it answers.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// To the home: send me what is said.
    Attach {
        /// The sender's number for it.
        id: u64,
        /// What I have already.
        position: Option<Position>,
        /// You have invited me to be a successor.
        invited: bool,
        /// My clients in the room; should there be very many, the rest follow as joins.
        clients: Vec<Arc<ClientInfo>>,
    },
    /// From the home: from here on I send you what is said.
    Attached {
        /// The number of the attach.
        id: u64,
        /// What you have not.
        catchup: Catchup,
        /// For a successor in a room that announces who comes and goes: who is there.
        present: Vec<Arc<ClientInfo>>,
    },
    /// To the home: I need nothing more.
    Detach,
    /// To the home: a client of mine came.
    Join(Arc<ClientInfo>),
    /// To the home: a client of mine went.
    Leave(ClientId),
    /// I'm not the room's home (any more). Ask whoever is.
    NotHome(Refused),
    /// From the home: a publication.
    Deliver(Option<Epoch>, Entry),
    /// From the home: someone came.
    Joined(Arc<ClientInfo>),
    /// From the home: someone went.
    Left(Arc<ClientInfo>),
    /// From the home: what was kept is forgotten.
    HistoryRemoved,
    /// From the home: you are a successor of mine. Attach, and say what you have.
    Invite,
    /// From the home: you are none any more.
    Dismiss,
    /// To the next home of a room without history: the idempotency keys that I have seen.
    Keys(Vec<Aged>),
    /// To the home, from a successor: I have everything up to here.
    Have(Position),
    /// I am becoming the room's home: what do you know of its stream? With the sender's number for it.
    Claim(u64),
    /// To a claim: this.
    Claimed {
        /// The number of the claim.
        claim: u64,
        /// The stream that I know, if I know one.
        line: Option<Line>,
        /// Whether I was its home until now and have stopped, so that it is complete.
        clean: bool,
    },
    /// Give me your copy of the stream. With the number of the claim.
    Fetch(u64),
    /// This is it.
    Fetched {
        /// The number of the claim.
        claim: u64,
        /// The stream, unless it is gone by now.
        snapshot: Option<Snapshot>,
    },
    /// You are the room's home as far as I know, and I hold this stream of it: take it over.
    Offer(Line),
    /// To an offer: what you hold is not needed.
    Taken,
}

/// What a home refused, so that the sender knows what to send to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The attach of this number, from its beginning or from now on.
    Attach(u64),
    /// This run of requests, all that are not answered.
    Run(u64),
}

/// What a mirror needs to follow its home's stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Catchup {
    /// The room keeps nothing: just listen.
    Nothing,
    /// You are on my line: these follow what you have, and then comes `position`.
    Follow {
        /// Where the stream stands.
        position: Position,
        /// Offset of the oldest publication that is still kept.
        first: u64,
        /// What you have missed, with ages.
        missed: Vec<(Duration, Arc<Publication>)>,
        /// What identifies repeats of those.
        repeats: Repeats,
    },
    /// You are not, or have nothing: begin with this.
    Afresh(Snapshot),
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Its length prefix is more than [`MAX_FRAME`], or 0.
    #[error("a frame of {0} bytes; allowed are 1 to {MAX_FRAME}")]
    Length(usize),
    /// Its content is no message.
    #[error("a frame that is no message: {0}")]
    Content(#[from] bincode::error::DecodeError),
    /// There were bytes after the message.
    #[error("a frame with {0} bytes too many")]
    Trailing(usize),
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX_FRAME>()
}

/// One frame with one message, to be sent to any number of peers.
///
/// # Errors
/// If the message is larger than [`MAX_FRAME`]: tell whoever waits, the peer would refuse it.
pub fn encode(message: &Message) -> Result<Bytes, ErrorCode> {
    let mut frame = BytesMut::with_capacity(128);
    frame.put_u32(0);
    let mut writer = (&mut frame).writer();
    bincode::serde::encode_into_std_write(message, &mut writer, config())
        .map_err(|_| ErrorCode::Internal)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(ErrorCode::LimitExceeded);
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame.freeze())
}

/// Takes the next message from the front of `bytes`; none while it is incomplete.
///
/// # Errors
/// See [`FrameError`]. The link is of no more use then.
pub fn decode(bytes: &mut BytesMut) -> Result<Option<Message>, FrameError> {
    let Some(length) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length == 0 || length > MAX_FRAME {
        return Err(FrameError::Length(length));
    }
    if bytes.len() < 4 + length {
        return Ok(None);
    }
    bytes.advance(4);
    let frame = bytes.split_to(length);
    let (message, read) = bincode::serde::decode_from_slice(&frame, config())?;
    if read != length {
        return Err(FrameError::Trailing(length - read));
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::room::types::NewPublication;

    fn publish(data: Vec<u8>) -> Message {
        let publication = NewPublication {
            data: data.into(),
            info: Some(Arc::new(ClientInfo {
                conn_info: b"{}"[..].into(),
                ..ClientInfo::new(ClientId(7), "ann")
            })),
            tags: [("a".to_owned(), "b".to_owned())].into_iter().collect(),
            idempotency_key: Some("k".into()),
            ..NewPublication::default()
        };
        let ask = Ask::Publish(publication);
        Message::Room("r".into(), RoomMessage::Request { id: 3, run: 1, seq: 0, ask })
    }

    #[test]
    fn frames_that_lie_are_refused() {
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(decode(&mut huge), Err(FrameError::Length(_))));
        let mut empty = BytesMut::from(&[0; 4][..]);
        assert!(matches!(decode(&mut empty), Err(FrameError::Length(0))));
        let mut trailing = BytesMut::from(&encode(&Message::Alive).expect("small")[..]);
        trailing[3] += 1;
        trailing.put_u8(0);
        assert!(matches!(decode(&mut trailing), Err(FrameError::Trailing(1))));
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(data in prop::collection::vec(any::<u8>(), 0..200), chunk in 1usize..50) {
            let sent = [publish(data), Message::Alive, Message::Survey(1, Survey::Info)];
            let bytes: Vec<u8> = sent.iter().flat_map(|message| encode(message).expect("small")).collect();
            let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(chunk) {
                buffer.extend_from_slice(piece);
                while let Some(message) = decode(&mut buffer).expect("valid") {
                    received.push(message);
                }
            }
            prop_assert_eq!(&received[..], &sent[..]);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut frame = BytesMut::from(&(bytes.len() as u32).to_be_bytes()[..]);
            frame.extend_from_slice(&bytes);
            let _ = decode(&mut frame);
        }
    }
}
