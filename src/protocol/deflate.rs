//! Messages of WebSockets that are compressed, each for itself (RFC 7692 without context takeover). Pure.
//!
//! Nothing is kept for a connection: a thread has one compressor, as large as it has to be, and what many clients get
//! is compressed once. In: what clients offer, messages. Out: what is agreed, messages.

use std::cell::RefCell;

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::websocket::Violation;

/// How messages to clients are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deflate {
    /// Messages of fewer bytes leave as they are.
    pub min_size: u16,
    /// From 1 (fast) to 9 (small).
    pub level: u8,
}

/// What ends a compressed message, and is not sent.
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];
/// Bytes that are made room for at a time while a message is inflated.
const STEP: usize = 16 << 10;

thread_local! {
    static PACKER: RefCell<Option<(u8, Compress)>> = const { RefCell::new(None) };
    static UNPACKER: RefCell<Option<Decompress>> = const { RefCell::new(None) };
}

/// The extension as it is agreed to, if a client offers it in a form that can be served. `offers` are the values of the
/// `Sec-WebSocket-Extensions` headers.
pub fn agree<'a>(offers: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let mut all = offers.flat_map(|it| it.split(','));
    all.any(is_served)
        .then_some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
}

/// Whether an offer asks for nothing that is not done here: windows of another size for what is sent to it.
fn is_served(offer: &str) -> bool {
    let mut parts = offer.split(';').map(str::trim);
    if !parts.next().is_some_and(|it| it.eq_ignore_ascii_case("permessage-deflate")) {
        return false;
    }
    let mut seen = Vec::new();
    parts.all(|part| {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        let bits = value.and_then(|it| it.parse::<u8>().ok()).filter(|it| (8..=15).contains(it));
        let is_new = !seen.contains(&name);
        seen.push(name);
        is_new
            && match name {
                "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
                "client_max_window_bits" => value.is_none() || bits.is_some(),
                // Among others, windows for what is sent from here: to agree to one is to say so.
                _ => false,
            }
    })
}

/// The message compressed, if it becomes smaller by that.
pub fn compress(message: &[u8], deflate: Deflate) -> Option<Vec<u8>> {
    if message.len() < usize::from(deflate.min_size) {
        return None;
    }
    PACKER.with_borrow_mut(|packer| {
        let fresh = || {
            let level = Compression::new(u32::from(deflate.level));
            (deflate.level, Compress::new(level, false))
        };
        let packer = match packer {
            Some((level, packer)) if *level == deflate.level => packer,
            other => &mut other.insert(fresh()).1,
        };
        packer.reset();
        // What does not fit into as much room as the message takes itself is not worth it.
        let mut packed = Vec::with_capacity(message.len());
        let status = packer.compress_vec(message, &mut packed, FlushCompress::Sync).ok()?;
        let whole = status == Status::Ok && packer.total_in() == message.len() as u64;
        let ends = whole && packed.len() < packed.capacity() && packed.ends_with(&TAIL);
        packed.truncate(packed.len().saturating_sub(TAIL.len()));
        ends.then_some(packed)
    })
}

/// A client's message as it was before it was compressed, which may have up to `limit` bytes.
///
/// # Errors
/// If it has more, or is no compressed message.
pub fn inflate(message: &[u8], limit: usize) -> Result<Bytes, Violation> {
    UNPACKER.with_borrow_mut(|unpacker| {
        let unpacker = unpacker.get_or_insert_with(|| Decompress::new(false));
        unpacker.reset(false);
        let input = [message, &TAIL].concat();
        let mut out = Vec::new();
        loop {
            // One byte more than is allowed tells that it is too much.
            out.reserve_exact(out.len().max(STEP).min(limit + 1 - out.len()));
            let taken = unpacker.total_in() as usize;
            let done = unpacker.decompress_vec(&input[taken..], &mut out, FlushDecompress::None);
            let status = done.map_err(|_| Violation::Protocol("a message is no deflate"))?;
            if out.len() > limit {
                return Err(Violation::TooBig);
            }
            // Some send a last block; what comes behind it says nothing.
            let is_over = unpacker.total_in() as usize == input.len() && out.len() < out.capacity();
            if status == Status::StreamEnd || is_over {
                return Ok(out.into());
            }
            if status == Status::BufError && out.len() < out.capacity() {
                return Err(Violation::Protocol("a message is no deflate"));
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAST: Deflate = Deflate { min_size: 10, level: 1 };

    #[test]
    fn only_offers_that_can_be_served_are_agreed_to() {
        for (offers, served) in [
            (&["permessage-deflate"][..], true),
            (&["permessage-deflate; client_max_window_bits"], true),
            (
                &["x, Permessage-Deflate; client_max_window_bits=10; server_no_context_takeover"],
                true,
            ),
            (&["permessage-deflate; server_max_window_bits=10, permessage-deflate"], true),
            (&["permessage-deflate; server_max_window_bits=10"], false),
            (&["permessage-deflate; server_max_window_bits=\"15\""], false),
            (&["permessage-deflate; client_max_window_bits=\"15\""], true),
            (&["permessage-deflate; client_max_window_bits=16"], false),
            (&["permessage-deflate; client_max_window_bits; client_max_window_bits"], false),
            (&["permessage-deflate; other"], false),
            (&["x-webkit-deflate-frame", "permessage-deflate"], true),
            (&["", "deflate"], false),
            (&[], false),
        ] {
            assert_eq!(agree(offers.iter().copied()).is_some(), served, "{offers:?}");
        }
    }

    #[test]
    fn small_messages_and_those_that_do_not_shrink_are_left_as_they_are() {
        assert_eq!(compress(&[b'x'; 9], FAST), None);
        assert!(compress(&[b'x'; 100], FAST).is_some_and(|it| it.len() < 20));
        let mut state = 1_u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(1_000)
        .collect();
        assert_eq!(compress(&noise, FAST), None);
    }

    #[test]
    fn what_inflates_to_more_than_is_allowed_is_refused_before_it_is_there() {
        let packed = compress(&vec![b'x'; 10_000_000], FAST).expect("smaller");
        assert!(packed.len() < 100_000);
        assert_eq!(inflate(&packed, 65_536), Err(Violation::TooBig));
        let packed = compress(&[b'x'; 65_536], FAST).expect("smaller");
        assert_eq!(inflate(&packed, 65_536).map(|it| it.len()), Ok(65_536));
        assert_eq!(inflate(&packed, 65_535), Err(Violation::TooBig));
    }

    #[test]
    fn what_others_send_is_read() {
        // The examples of RFC 7692: "Hello" in one block, stored, in a last block, and in two.
        for packed in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(packed, 100).as_deref(), Ok(&b"Hello"[..]), "{packed:x?}");
        }
        assert_eq!(inflate(&[], 100).as_deref(), Ok(&b""[..]));
        for wrong in [&[0xff; 9][..], &[0x07], b"Hello"] {
            assert!(matches!(inflate(wrong, 100), Err(Violation::Protocol(_))), "{wrong:x?}");
        }
    }

    proptest! {
        #[test]
        fn every_message_comes_back(words in prop::collection::vec("[a-c]{0,40}", 0..200), level in 1_u8..=9) {
            let message = words.concat().into_bytes();
            if let Some(packed) = compress(&message, Deflate { min_size: 0, level }) {
                prop_assert!(packed.len() < message.len());
                prop_assert_eq!(inflate(&packed, message.len()), Ok(message.into()));
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), limit in 0_usize..1_000) {
            if let Ok(message) = inflate(&bytes, limit) {
                prop_assert!(message.len() <= limit);
            }
        }
    }
}
