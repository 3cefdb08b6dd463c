//! Streams of backends: over one, a backend says what one subscriber gets, and may hear what it publishes.
//!
//! In: bytes of a call of gRPC, as they come. Out: what they mean, one message at a time. Pure.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{
    messages::{self, framed},
    response::{BackendResponse, InvalidResponse},
};
use crate::{
    protocol::grpc::{
        framing::{self, Unframed},
        proxy,
    },
    room::types::Tags,
};

/// The largest message, in bytes.
const LIMIT: usize = 1 << 20;

/// What a backend has for a subscriber.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPublication {
    /// What is published.
    pub data: Bytes,
    /// Its labels.
    pub tags: Tags,
}

/// What comes of a stream after it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromStream {
    /// A publication.
    Publication(StreamPublication),
    /// The backend has ended it: there is no more.
    Ended,
    /// It is broken: there may be more.
    Broken,
}

/// What a session has for a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToStream {
    /// Its client is in the room: it gets what comes from now on.
    Go,
    /// Its client publishes this.
    Publish(Bytes),
    /// It is not needed any more.
    End,
}

/// What a message of a backend's says.
#[derive(Debug, PartialEq)]
pub(super) enum Said {
    /// Whether the client may subscribe.
    Response(Box<BackendResponse>),
    /// Something for it.
    Publication(StreamPublication),
}

/// Reads the messages of a backend.
#[derive(Debug, Default)]
pub(super) struct Reader {
    bytes: BytesMut,
    opened: bool,
}

impl Reader {
    /// More has come.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.bytes.extend_from_slice(chunk);
    }

    /// The next that is there.
    ///
    /// # Errors
    /// If it can't be read: then nothing more can be.
    pub(super) fn next(&mut self) -> Result<Option<Said>, InvalidResponse> {
        while let Some(message) = framing::next_message(&mut self.bytes, LIMIT)? {
            let it = proxy::StreamSubscribeResponse::decode(message)?;
            if !std::mem::replace(&mut self.opened, true) {
                let response = it.subscribe_response.ok_or(InvalidResponse::Empty)?;
                return Ok(Some(Said::Response(messages::subscribed(response)?.into())));
            }
            // What says nothing is no reason to end it.
            if let Some(proxy::Publication { data, tags }) = it.publication {
                return Ok(Some(Said::Publication(StreamPublication { data, tags })));
            }
        }
        Ok(None)
    }

    /// Whether the stream may end here: what has come ends with a message.
    pub(super) fn is_whole(&self) -> Result<(), Unframed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Unframed::Malformed) }
    }
}

/// What the client publishes, as the backend reads it.
pub(super) fn publication(data: Bytes) -> Bytes {
    let publication = Some(proxy::Publication { data, ..Default::default() });
    framed(&proxy::StreamSubscribeRequest { publication, ..Default::default() })
}

/// The first message of a stream in both directions.
pub(super) fn opening(request: proxy::SubscribeRequest) -> Bytes {
    framed(&proxy::StreamSubscribeRequest { subscribe_request: Some(request), publication: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(publication: Option<&'static [u8]>, result: bool) -> Bytes {
        let publication = publication.map(|data| proxy::Publication {
            data: Bytes::from_static(data),
            ..Default::default()
        });
        let result = result.then(proxy::SubscribeResult::default);
        let subscribe_response =
            result.map(|it| proxy::SubscribeResponse { result: Some(it), ..Default::default() });
        framed(&proxy::StreamSubscribeResponse { subscribe_response, publication })
    }

    #[test]
    fn messages_are_read_however_they_come() {
        let all = [response(None, true), response(Some(b"1"), false), response(None, false)];
        let all: Vec<u8> =
            all.iter().chain([&response(Some(b"2"), false)]).flatten().copied().collect();
        for chunk in 1..all.len() {
            let (mut reader, mut said) = (Reader::default(), Vec::new());
            for piece in all.chunks(chunk) {
                reader.push(piece);
                while let Some(next) = reader.next().expect("it can be read") {
                    said.push(next);
                }
            }
            assert_eq!(reader.is_whole(), Ok(()));
            assert!(
                matches!(&said[0], Said::Response(it) if matches!(**it, BackendResponse::Subscribe(_)))
            );
            let data = said[1..].iter().map(|it| match it {
                Said::Publication(it) => it.data.clone(),
                Said::Response(_) => Bytes::new(),
            });
            assert_eq!(data.collect::<Vec<_>>(), ["1", "2"]);
        }
    }

    #[test]
    fn a_stream_has_to_begin_with_a_response() {
        let mut reader = Reader::default();
        reader.push(&response(Some(b"1"), false));
        assert!(matches!(reader.next(), Err(InvalidResponse::Empty)));
        let mut reader = Reader::default();
        reader.push(&[0, 0xff, 0, 0, 0]);
        assert!(reader.next().is_err(), "too large");
        let mut reader = Reader::default();
        reader.push(&response(None, true)[..6]);
        assert_eq!(reader.next().expect("a part of one"), None);
        assert!(reader.is_whole().is_err());
    }
}
