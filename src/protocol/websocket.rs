//! RFC 6455 frames, pure: bytes from a client in, whole messages out; and server frames back.
//!
//! A connection keeps a [`Decoder`] of a word; bytes are buffered only while a frame or a message is
//! unfinished, and never more of them than the message limit allows. Text is checked as it comes, so what
//! can't become UTF-8 any more is refused before its frame has ended.

use bytes::{Buf, Bytes, BytesMut};

use super::deflate;

/// What a client's frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// The next fragment of a message.
    Continuation = 0,
    /// UTF-8 text.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The other side closes.
    Close = 8,
    /// Asks for a pong with the same payload.
    Ping = 9,
    /// Answers a ping.
    Pong = 10,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            _ => return None,
        })
    }

    fn is_control(self) -> bool {
        self as u8 >= 8
    }
}

/// A whole message, or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebSocketMessage {
    /// Text, checked to be UTF-8.
    Text(Bytes),
    /// Bytes.
    Binary(Bytes),
    /// A ping; answer it with the same payload.
    Ping(Bytes),
    /// A pong.
    Pong,
    /// The client closes, with its code if it gave one.
    Close(Option<u16>),
}

/// How a client broke RFC 6455. The connection is closed with [`Violation::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A reserved bit, opcode, length or sequence of frames.
    #[error("the frame breaks RFC 6455: {0}")]
    Protocol(&'static str),
    /// Text that is not UTF-8.
    #[error("a text message is not UTF-8")]
    Utf8,
    /// More than the configured limit.
    #[error("the message is larger than allowed")]
    TooBig,
}

impl Violation {
    /// Code for the close frame.
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::Utf8 => 1007,
            Self::TooBig => 1009,
        }
    }
}

struct Header {
    fin: bool,
    /// The message is compressed.
    deflated: bool,
    opcode: Opcode,
    mask: [u8; 4],
    /// Bytes of the header itself.
    size: usize,
    payload: usize,
}

/// The bit of a frame that says that its message is compressed (RFC 7692).
const DEFLATED: u8 = 0x40;

/// The most fragments without content that one message may have: they cost work and get it nowhere.
const EMPTY_FRAGMENTS: u8 = 100;

/// A message of which some is here: fragments, or a part of a frame.
#[derive(Debug)]
struct Partial {
    opcode: Opcode,
    /// It is compressed.
    deflated: bool,
    payload: BytesMut,
    /// How many bytes of a text are known to be UTF-8, so that each is looked at once.
    valid: usize,
    /// How many of the fragments were empty.
    empty: u8,
    /// What is to come of the frame that has begun.
    rest: Option<Rest>,
}

/// The end of a frame, yet to come.
#[derive(Debug, Clone, Copy)]
struct Rest {
    fin: bool,
    /// The mask, turned to where the next byte is.
    mask: [u8; 4],
    bytes: usize,
}

impl Partial {
    fn new(opcode: Opcode, deflated: bool) -> Self {
        Self { opcode, deflated, payload: BytesMut::new(), valid: 0, empty: 0, rest: None }
    }

    fn add_fragment(&mut self, fragment: BytesMut) -> Result<(), Violation> {
        if fragment.is_empty() {
            self.empty += 1;
            if self.empty > EMPTY_FRAGMENTS {
                return Err(Violation::Protocol("too many fragments without content"));
            }
        }
        self.add(fragment)
    }

    /// Takes what is here of the frame that has begun. Returns whether it was the last of the message, or none
    /// if the frame has not ended.
    fn go_on(&mut self, bytes: &mut BytesMut) -> Result<Option<bool>, Violation> {
        let Some(mut rest) = self.rest.take() else { return Ok(Some(false)) };
        let mut part = bytes.split_to(bytes.len().min(rest.bytes));
        unmask(&mut part, rest.mask);
        rest.mask.rotate_left(part.len() % 4);
        rest.bytes -= part.len();
        self.add(part)?;
        if rest.bytes == 0 {
            return Ok(Some(rest.fin));
        }
        self.rest = Some(rest);
        Ok(None)
    }

    fn add(&mut self, bytes: BytesMut) -> Result<(), Violation> {
        if self.payload.is_empty() {
            self.payload = bytes;
        } else {
            self.payload.extend_from_slice(&bytes);
        }
        self.check_text()
    }

    /// Text that can't become UTF-8 any more is refused with the bytes that spoil it.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.opcode != Opcode::Text || self.deflated {
            return Ok(());
        }
        match std::str::from_utf8(&self.payload[self.valid..]) {
            Ok(_) => self.valid = self.payload.len(),
            Err(error) if error.error_len().is_some() => return Err(Violation::Utf8),
            Err(error) => self.valid += error.valid_up_to(),
        }
        Ok(())
    }

    /// `limit` is for what a compressed message comes to; the others were measured as they came.
    fn finish(self, limit: usize) -> Result<WebSocketMessage, Violation> {
        if self.deflated {
            let payload = deflate::inflate(&self.payload, limit)?;
            return match self.opcode {
                Opcode::Text if std::str::from_utf8(&payload).is_err() => Err(Violation::Utf8),
                Opcode::Text => Ok(WebSocketMessage::Text(payload)),
                _ => Ok(WebSocketMessage::Binary(payload)),
            };
        }
        match self.opcode {
            Opcode::Text if self.valid < self.payload.len() => Err(Violation::Utf8),
            Opcode::Text => Ok(WebSocketMessage::Text(self.payload.freeze())),
            _ => Ok(WebSocketMessage::Binary(self.payload.freeze())),
        }
    }
}

/// What the next frame came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded {
    /// A message is complete.
    Message(WebSocketMessage),
    /// It was a fragment, and there may be more in the buffer: whoever decodes can let others have a turn.
    Fragment,
    /// Its end is not there yet.
    Incomplete,
}

/// Assembles a client's messages. Feed it the connection's bytes in order.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The message that is unfinished, if one is. Boxed: hardly any client sends fragments, or more than comes
    /// in one piece.
    partial: Option<Box<Partial>>,
}

impl Decoder {
    /// Takes the next frame from the front of `bytes`.
    ///
    /// After a [`Violation`] the connection is of no more use. `limit` is the largest message allowed; a
    /// header that declares more is refused before anything of its payload is kept. With `deflate`, messages may be
    /// compressed.
    pub fn decode(
        &mut self,
        bytes: &mut BytesMut,
        limit: usize,
        deflate: bool,
    ) -> Result<Decoded, Violation> {
        if self.partial.as_ref().is_some_and(|partial| partial.rest.is_some()) {
            return self.go_on(bytes, limit);
        }
        let Some(header) = parse_header(bytes, deflate)? else { return Ok(Decoded::Incomplete) };
        self.check(&header, limit)?;
        if bytes.len() < header.size + header.payload {
            if bytes.len() <= header.size || header.opcode.is_control() {
                return Ok(Decoded::Incomplete);
            }
            bytes.advance(header.size);
            let Header { fin, deflated, opcode, mask, payload, .. } = header;
            let partial =
                self.partial.get_or_insert_with(|| Box::new(Partial::new(opcode, deflated)));
            partial.rest = Some(Rest { fin, mask, bytes: payload });
            return self.go_on(bytes, limit);
        }
        bytes.advance(header.size);
        let mut payload = bytes.split_to(header.payload);
        unmask(&mut payload, header.mask);
        let message = self.accept(&header, payload, limit)?;
        Ok(message.map_or(Decoded::Fragment, Decoded::Message))
    }

    /// Goes on with the frame that has begun.
    fn go_on(&mut self, bytes: &mut BytesMut, limit: usize) -> Result<Decoded, Violation> {
        let Some(mut partial) = self.partial.take() else { return Ok(Decoded::Incomplete) };
        let ended = partial.go_on(bytes)?;
        if ended == Some(true) {
            return partial.finish(limit).map(Decoded::Message);
        }
        self.partial = Some(partial);
        Ok(if ended.is_some() { Decoded::Fragment } else { Decoded::Incomplete })
    }

    fn check(&self, header: &Header, limit: usize) -> Result<(), Violation> {
        let held = match (header.opcode, &self.partial) {
            (opcode, _) if opcode.is_control() => {
                return if !header.fin {
                    Err(Violation::Protocol("a control frame in fragments"))
                } else if header.payload > 125 {
                    Err(Violation::Protocol("a control frame of more than 125 bytes"))
                } else {
                    Ok(())
                };
            }
            (Opcode::Continuation, None) => {
                return Err(Violation::Protocol("a continuation of nothing"));
            }
            (Opcode::Continuation, Some(partial)) => partial.payload.len(),
            (_, Some(_)) => {
                return Err(Violation::Protocol("a new message inside an unfinished one"));
            }
            (_, None) => 0,
        };
        if header.payload > limit || held + header.payload > limit {
            return Err(Violation::TooBig);
        }
        Ok(())
    }

    fn accept(
        &mut self,
        header: &Header,
        payload: BytesMut,
        limit: usize,
    ) -> Result<Option<WebSocketMessage>, Violation> {
        match header.opcode {
            Opcode::Ping => Ok(Some(WebSocketMessage::Ping(payload.freeze()))),
            Opcode::Pong => Ok(Some(WebSocketMessage::Pong)),
            Opcode::Close => close_code(&payload).map(|code| Some(WebSocketMessage::Close(code))),
            Opcode::Continuation => {
                let Some(mut partial) = self.partial.take() else { return Ok(None) };
                partial.add_fragment(payload)?;
                if header.fin {
                    return partial.finish(limit).map(Some);
                }
                self.partial = Some(partial);
                Ok(None)
            }
            opcode => {
                let mut partial = Partial::new(opcode, header.deflated);
                partial.add_fragment(payload)?;
                if header.fin {
                    return partial.finish(limit).map(Some);
                }
                self.partial = Some(Box::new(partial));
                Ok(None)
            }
        }
    }
}

fn parse_header(bytes: &[u8], deflate: bool) -> Result<Option<Header>, Violation> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    let deflated = deflate && first & DEFLATED != 0;
    if first & 0x70 != 0 && !(deflated && first & 0x30 == 0) {
        return Err(Violation::Protocol("a reserved bit is set"));
    }
    let Some(opcode) = Opcode::from_bits(first & 0x0f) else {
        return Err(Violation::Protocol("an unknown opcode"));
    };
    // Only the first frame of a message says that it is compressed.
    if deflated && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(Violation::Protocol("a reserved bit is set"));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Protocol("a client's frame is not masked"));
    }
    let (payload, extended) = match second & 0x7f {
        126 => match rest.first_chunk::<2>() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 2),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(length) => (u64::from_be_bytes(*length), 8),
            None => return Ok(None),
        },
        length => (u64::from(length), 0),
    };
    let payload = usize::try_from(payload).map_err(|_| Violation::TooBig)?;
    if payload > usize::MAX / 4 {
        return Err(Violation::TooBig);
    }
    let Some(mask) = rest.get(extended..).and_then(|rest| rest.first_chunk::<4>()) else {
        // The length alone may say that it's too much already.
        let (fin, size) = (first & 0x80 != 0, usize::MAX / 4);
        return Ok(Some(Header { fin, deflated, opcode, mask: [0; 4], size, payload }));
    };
    let size = 2 + extended + 4;
    Ok(Some(Header { fin: first & 0x80 != 0, deflated, opcode, mask: *mask, size, payload }))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let word = u64::from_ne_bytes([
        mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3],
    ]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() {
            Ok(None)
        } else {
            Err(Violation::Protocol("a close frame of one byte"))
        };
    };
    match u16::from_be_bytes(*code) {
        code @ (1000..=1003 | 1007..=1014 | 3000..=4999) if std::str::from_utf8(reason).is_ok() => {
            Ok(Some(code))
        }
        1000..=1003 | 1007..=1014 | 3000..=4999 => Err(Violation::Utf8),
        _ => Err(Violation::Protocol("a close code that may not be sent")),
    }
}

/// One unfragmented server frame: header and payload in one buffer, ready to be written to any number of
/// sockets.
pub fn frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame_with(opcode as u8, payload)
}

/// The same of a compressed message.
pub fn deflated_frame(opcode: Opcode, payload: &[u8]) -> Bytes {
    frame_with(DEFLATED | opcode as u8, payload)
}

fn frame_with(first: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(payload.len() + 10);
    let first = 0x80 | first;
    match payload.len() {
        length @ 0..126 => frame.extend_from_slice(&[first, length as u8]),
        length @ 126..0x1_0000 => {
            frame.extend_from_slice(&[first, 126]);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.extend_from_slice(&[first, 127]);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame.freeze()
}

/// A close frame; a reason that would not fit is cut.
pub fn close_frame(code: u16, reason: &str) -> Bytes {
    let mut payload = Vec::from(code.to_be_bytes());
    payload.extend(reason.bytes().take(123));
    frame(Opcode::Close, &payload)
}

#[cfg(test)]
#[path = "websocket_tests.rs"]
mod tests;
