//! What nodes say to each other about rooms, and how it is written: bincode in length-prefixed frames.
//!
//! One of two modules that know bincode (RUSTSEC-2025-0141: it is complete and no longer maintained); the other is
//! [`crate::room::persisted`]. So it can be replaced there alone. What may be changed here, and how: see [`crate::cluster::mesh_version`].

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::{
    cluster::{
        mesh_version::{self, MeshVersion},
        node::{NodeId, NodeInfo},
    },
    room::{messages::Message, types::Failure},
    session::id::SessionId,
    shared_poll::peers::PollMessage,
};

/// The largest frame that a peer may send.
pub const MAX_FRAME: usize = 16 << 20;

/// What one node says to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<M = Message> {
    /// The first frame in either direction.
    Hello(Hello),
    /// I am here, and have nothing to say.
    Alive,
    /// About rooms.
    Rooms(M),
    /// Commands for a session of yours, that its client has brought to me.
    Emulation(SessionId, Bytes),
    /// About keys that clients track.
    Polls(PollMessage),
}

/// Who is on the other end. What later versions say behind this is not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The newest version that the sender speaks.
    pub newest: MeshVersion,
    /// Name of the cluster; links never cross clusters.
    pub cluster: String,
    /// The sender.
    pub node: NodeInfo,
    /// Whom the sender means to talk to. The dialled node refuses if it is another.
    pub to: Option<NodeId>,
    /// The oldest version that the sender speaks.
    pub oldest: MeshVersion,
}

impl Frame {
    /// The version since which there is such a frame.
    pub fn since(&self) -> MeshVersion {
        match self {
            Self::Rooms(message) => message.since(),
            _ => mesh_version::FIRST,
        }
    }
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
/// If the message is larger than [`MAX_FRAME`], which the peer would refuse. The caller has to fail what waits for it.
pub fn encode(message: &Frame) -> Result<Bytes, Failure> {
    write(message)
}

/// One frame with a message about rooms: [`Frame::Rooms`].
///
/// # Errors
/// As for [`encode`].
pub fn encode_rooms(message: &Message) -> Result<Bytes, Failure> {
    write(&Frame::Rooms(message))
}

/// One frame with a message about keys that clients track: [`Frame::Polls`].
///
/// # Errors
/// As for [`encode`].
pub fn encode_polls(message: PollMessage) -> Result<Bytes, Failure> {
    write(&Frame::<Message>::Polls(message))
}

fn write<M: Serialize>(message: &Frame<M>) -> Result<Bytes, Failure> {
    let mut frame = BytesMut::with_capacity(128);
    frame.put_u32(0);
    let mut writer = (&mut frame).writer();
    bincode::serde::encode_into_std_write(message, &mut writer, config())
        .map_err(|_| Failure::Unavailable)?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(Failure::LimitExceeded);
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame.freeze())
}

/// Takes the next message from the front of `bytes`; none while it is incomplete.
///
/// # Errors
/// See [`FrameError`]. The link is of no more use then.
pub fn decode(bytes: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
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
    if read != length && !matches!(message, Frame::Hello(_)) {
        return Err(FrameError::Trailing(length - read));
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use super::*;
    use crate::room::{
        messages::RoomMessage,
        types::{ClientId, ClientInfo, HomeRequest, NewPublication, Survey},
    };

    fn publish(data: Vec<u8>) -> Frame {
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
        let ask = HomeRequest::Publish(publication);
        let request = RoomMessage::Request { id: 3, run: 1, seq: 0, ask };
        Frame::Rooms(Message::Room("r".into(), request))
    }

    #[test]
    fn frames_that_lie_are_refused() {
        let mut huge = BytesMut::from(&u32::MAX.to_be_bytes()[..]);
        assert!(matches!(decode(&mut huge), Err(FrameError::Length(_))));
        let mut empty = BytesMut::from(&[0; 4][..]);
        assert!(matches!(decode(&mut empty), Err(FrameError::Length(0))));
        let mut trailing = BytesMut::from(&encode(&Frame::Alive).expect("small")[..]);
        trailing[3] += 1;
        trailing.put_u8(0);
        assert!(matches!(decode(&mut trailing), Err(FrameError::Trailing(1))));
    }

    proptest! {
        #[test]
        fn messages_survive_any_chunking(data in prop::collection::vec(any::<u8>(), 0..200), chunk in 1usize..50) {
            let survey = Frame::Rooms(Message::Survey(1, Survey::Info));
            let sent = [publish(data), Frame::Alive, survey];
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
