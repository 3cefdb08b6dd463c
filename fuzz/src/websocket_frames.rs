//! Bytes of a client into the WebSocket decoder, in chunks of any size.
//!
//! The first byte says how large chunks are, and whether messages may be compressed. Nothing may panic, no message may
//! be over the limit, and the size of the chunks must not change what is decoded.

use bytes::BytesMut;
use roomcast::protocol::websocket::{Decoded, Decoder, Violation, WebSocketMessage};

const LIMIT: usize = 4096;

/// Plays one input.
pub fn run(input: &[u8]) {
    let Some((&chunk, bytes)) = input.split_first() else { return };
    let deflate = chunk & 0x80 != 0;
    let in_chunks = decode(bytes.chunks(usize::from(chunk & 0x7f).max(1)), deflate);
    let at_once = decode([bytes].into_iter(), deflate);
    assert_eq!(in_chunks, at_once, "chunks of {chunk}");
}

/// All messages, and the violation that ended them, if one did.
fn decode<'a>(
    chunks: impl Iterator<Item = &'a [u8]>,
    deflate: bool,
) -> (Vec<WebSocketMessage>, Option<u16>) {
    let (mut decoder, mut buffer, mut messages) = (Decoder::default(), BytesMut::new(), Vec::new());
    for chunk in chunks {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.decode(&mut buffer, LIMIT, deflate) {
                Ok(Decoded::Message(message)) => messages.push(within_limit(message)),
                Ok(Decoded::Fragment) => {}
                Ok(Decoded::Incomplete) => break,
                Err(violation) => return (messages, Some(Violation::close_code(violation))),
            }
        }
    }
    (messages, None)
}

fn within_limit(message: WebSocketMessage) -> WebSocketMessage {
    let length = match &message {
        WebSocketMessage::Text(payload) => {
            assert!(std::str::from_utf8(payload).is_ok(), "text that is not UTF-8");
            payload.len()
        }
        WebSocketMessage::Binary(payload) => payload.len(),
        WebSocketMessage::Ping(payload) => {
            assert!(payload.len() <= 125, "a ping of {} bytes", payload.len());
            payload.len()
        }
        WebSocketMessage::Pong | WebSocketMessage::Close(_) => 0,
    };
    assert!(length <= LIMIT, "a message of {length} bytes");
    message
}
