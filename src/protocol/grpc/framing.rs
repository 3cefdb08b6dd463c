//! What gRPC puts before each message: whether it is compressed, and how long it is.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message;

/// So many bytes.
pub const PREFIX: usize = 5;

/// Appends a message, with what comes before it.
pub fn append(message: &impl Message, to: &mut BytesMut) {
    let length = message.encoded_len();
    to.reserve(PREFIX + length);
    to.put_u8(0);
    // No message here has 4 GiB.
    to.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // The only error is a buffer that can't grow, and this one can.
    let _ = message.encode(to);
}

/// Why there is not one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unframed {
    /// It has to be inflated first.
    #[error("compressed messages are not read")]
    Compressed,
    /// There is none, more than one, or a part of one.
    #[error("there is not one whole message")]
    Malformed,
}

/// The only message in these bytes.
///
/// # Errors
/// If it is not there as it should be.
pub fn only_message(mut bytes: Bytes) -> Result<Bytes, Unframed> {
    if bytes.len() < PREFIX {
        return Err(Unframed::Malformed);
    }
    let (flag, length) = (bytes.get_u8(), bytes.get_u32());
    match usize::try_from(length) {
        Ok(length) if length == bytes.len() && flag == 0 => Ok(bytes),
        Ok(length) if length == bytes.len() && flag == 1 => Err(Unframed::Compressed),
        _ => Err(Unframed::Malformed),
    }
}

/// Takes the next message from the front of bytes that still come; none while it is not all there.
///
/// # Errors
/// If it is compressed, or longer than `limit`.
pub fn next_message(bytes: &mut BytesMut, limit: usize) -> Result<Option<Bytes>, Unframed> {
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) else { return Ok(None) };
    let length = prefix.last_chunk().map_or(0, |it| u32::from_be_bytes(*it) as usize);
    match prefix[0] {
        0 if length > limit => Err(Unframed::Malformed),
        0 if rest.len() < length => Ok(None),
        0 => {
            bytes.advance(PREFIX);
            Ok(Some(bytes.split_to(length).freeze()))
        }
        1 => Err(Unframed::Compressed),
        _ => Err(Unframed::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::message::StreamPosition;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let message = StreamPosition { offset: 7, epoch: "e".into() };
        let mut bytes = BytesMut::new();
        append(&message, &mut bytes);
        let read = only_message(bytes.freeze()).expect("a message");
        assert_eq!(StreamPosition::decode(read), Ok(message));
    }

    #[test]
    fn anything_else_is_refused() {
        for (bytes, expected) in [
            (&b"\0\0\0\0\0"[..], Ok(Bytes::new())),
            (b"\0\0\0\0\x01a", Ok(Bytes::from_static(b"a"))),
            (b"\x01\0\0\0\x01a", Err(Unframed::Compressed)),
            (b"\x02\0\0\0\x01a", Err(Unframed::Malformed)),
            (b"\0\0\0\0\x02a", Err(Unframed::Malformed)),
            (b"\0\0\0\0\x01ab", Err(Unframed::Malformed)),
            (b"\0\xff\xff\xff\xff", Err(Unframed::Malformed)),
            (b"\0\0\0\0", Err(Unframed::Malformed)),
            (b"", Err(Unframed::Malformed)),
        ] {
            assert_eq!(only_message(Bytes::copy_from_slice(bytes)), expected, "{bytes:?}");
        }
    }
}
