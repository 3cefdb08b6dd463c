//! The client's side of WebSocket framing, no more than a load generator needs.
//!
//! In: bytes as they come from the server, cut anywhere. Out: [`Piece`]s of frames, borrowed from
//! those bytes, and masked frames to send. Nothing here allocates per message.

use std::fmt;

/// What a server has no reason to exceed; a larger length means that the stream is out of step.
const LARGEST_FRAME: u64 = 16 << 20;

/// The masking key of every frame sent. A constant one is valid, and it keeps runs comparable.
const MASK: [u8; 4] = [0x5a, 0x17, 0xc3, 0x88];

/// The bit of a compressed message's first frame.
const DEFLATED: u8 = 0x40;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, binary, or the continuation of either.
    Data,
    /// The peer ends the connection: two bytes of code, then a reason.
    Close,
    /// To be answered with a pong of the same payload.
    Ping,
    /// The answer to a ping.
    Pong,
}

/// A run of one frame's payload.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What the frame carries.
    pub kind: Kind,
    /// The run itself, empty for a frame without payload.
    pub bytes: &'a [u8],
    /// The frame ends with this run.
    pub frame_ends: bool,
    /// The message ends with this run: its last frame does.
    pub message_ends: bool,
    /// It is of a compressed message's first frame.
    pub deflated: bool,
}

/// The server broke the framing rules; the connection can't be read any further.
#[derive(Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Reserved bits or an opcode that RFC 6455 does not define.
    UnknownOpcode(u8),
    /// Frames from a server are never masked.
    Masked,
    /// Longer than anything the server has a reason to send.
    TooLong(u64),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownOpcode(byte) => {
                write!(f, "a frame starts with the undefined byte {byte:#04x}")
            }
            Self::Masked => write!(f, "a frame from the server is masked"),
            Self::TooLong(length) => write!(f, "a frame announces {length} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Reads frames from bytes that arrive in arbitrary runs; 24 bytes of state per connection.
#[derive(Debug, Default)]
pub struct Parser {
    header: [u8; 10],
    header_len: u8,
    in_payload: bool,
    remaining: u64,
}

impl Parser {
    /// Takes the next piece off the front of `input`; `None` once all of it is used up.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, FrameError> {
        if !self.in_payload && !self.read_header(input)? {
            return Ok(None);
        }
        if input.is_empty() && self.remaining > 0 {
            return Ok(None);
        }
        let length = self.remaining.min(input.len() as u64);
        let (bytes, rest) = input.split_at(length as usize);
        *input = rest;
        self.remaining -= length;
        let frame_ends = self.remaining == 0;
        let (kind, last) = (kind_of(self.header[0])?, self.header[0] & 0x80 != 0);
        let deflated = self.header[0] & DEFLATED != 0;
        if frame_ends {
            *self = Self::default();
        }
        Ok(Some(Piece { kind, bytes, frame_ends, message_ends: frame_ends && last, deflated }))
    }

    /// Moves bytes into the header until it is complete; false if `input` ends before that.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<bool, FrameError> {
        while usize::from(self.header_len) < self.header_size()? {
            let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
            *input = rest;
            self.header[usize::from(self.header_len)] = byte;
            self.header_len += 1;
        }
        self.remaining = self.payload_length();
        if self.remaining > LARGEST_FRAME {
            return Err(FrameError::TooLong(self.remaining));
        }
        self.in_payload = true;
        Ok(true)
    }

    /// How long the header is, as far as its bytes so far tell.
    fn header_size(&self) -> Result<usize, FrameError> {
        if self.header_len >= 1 {
            kind_of(self.header[0])?;
        }
        if self.header_len < 2 {
            return Ok(2);
        }
        if self.header[1] & 0x80 != 0 {
            return Err(FrameError::Masked);
        }
        Ok(match self.header[1] {
            127 => 10,
            126 => 4,
            _ => 2,
        })
    }

    fn payload_length(&self) -> u64 {
        let h = &self.header;
        match h[1] {
            127 => u64::from_be_bytes([h[2], h[3], h[4], h[5], h[6], h[7], h[8], h[9]]),
            126 => u64::from(u16::from_be_bytes([h[2], h[3]])),
            short => u64::from(short),
        }
    }
}

fn kind_of(first: u8) -> Result<Kind, FrameError> {
    match first & 0x7f {
        0..=2 | 0x41 | 0x42 => Ok(Kind::Data),
        8 => Ok(Kind::Close),
        9 => Ok(Kind::Ping),
        10 => Ok(Kind::Pong),
        _ => Err(FrameError::UnknownOpcode(first)),
    }
}

/// Appends a masked frame of one of the opcodes below.
fn push_masked(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.push(0x80 | opcode);
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | short as u8),
        medium @ 126..=0xffff => {
            out.push(0x80 | 126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// Appends `data` to `out` as one masked frame, text or binary.
pub fn push_data(out: &mut Vec<u8>, data: &[u8], binary: bool) {
    push_masked(out, if binary { 2 } else { 1 }, data);
}

/// Appends the answer to a ping that carried `payload`.
pub fn push_pong(out: &mut Vec<u8>, payload: &[u8]) {
    push_masked(out, 10, payload);
}

/// A whole unmasked text frame, as a server writes it; the floor server sends these.
pub fn server_text_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        short @ 0..=125 => frame.push(short as u8),
        medium @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// The request that asks for a WebSocket at `path`.
pub fn upgrade_request(
    host: &str,
    path: &str,
    subprotocol: Option<&str>,
    deflate: bool,
) -> Vec<u8> {
    let mut more =
        subprotocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    if deflate {
        more += "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n";
    }
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a frame carries, all of its payload, and whether its message ends with it.
    type Frame = (Kind, Vec<u8>, bool);

    /// What `parser` makes of `chunks`, with the pieces of a frame joined again.
    fn frames(chunks: &[&[u8]]) -> Result<Vec<Frame>, FrameError> {
        let (mut parser, mut out, mut payload) = (Parser::default(), Vec::new(), Vec::new());
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(piece) = parser.next(&mut input)? {
                payload.extend_from_slice(piece.bytes);
                if piece.frame_ends {
                    out.push((piece.kind, std::mem::take(&mut payload), piece.message_ends));
                }
            }
            assert!(input.is_empty(), "the parser left {} bytes", input.len());
        }
        Ok(out)
    }

    fn sample() -> (Vec<u8>, Vec<Frame>) {
        let (medium, long) = (vec![b'm'; 300], vec![b'l'; 66_000]);
        let mut bytes = server_text_frame(b"{}");
        bytes.extend([0x01, 3, b'o', b'n', b'e']);
        bytes.extend([0x89, 1, b'p']);
        bytes.extend([0x80, 0]);
        bytes.extend(server_text_frame(&medium));
        bytes.extend(server_text_frame(&long));
        bytes.extend([0x88, 4, 0x0b, 0xb8, b'b', b'y']);
        let expected = vec![
            (Kind::Data, b"{}".to_vec(), true),
            (Kind::Data, b"one".to_vec(), false),
            (Kind::Ping, b"p".to_vec(), true),
            (Kind::Data, Vec::new(), true),
            (Kind::Data, medium, true),
            (Kind::Data, long, true),
            (Kind::Close, b"\x0b\xb8by".to_vec(), true),
        ];
        (bytes, expected)
    }

    #[test]
    fn frames_split_at_every_byte_boundary_read_the_same() {
        let (bytes, expected) = sample();
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(frames(&[head, tail]).as_ref(), Ok(&expected), "cut at {cut}");
        }
    }

    #[test]
    fn frames_read_one_byte_at_a_time() {
        let (bytes, expected) = sample();
        let chunks: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(frames(&chunks), Ok(expected));
    }

    #[test]
    fn broken_frames_are_refused() {
        assert_eq!(frames(&[&[0x83]]), Err(FrameError::UnknownOpcode(0x83)));
        assert_eq!(frames(&[&[0x81, 0x81]]), Err(FrameError::Masked));
        let huge = [0x82, 127, 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(frames(&[&huge]), Err(FrameError::TooLong(1 << 32)));
    }

    #[test]
    fn sent_frames_are_masked_and_have_the_right_length() {
        for (length, header) in [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)] {
            let mut out = Vec::new();
            push_data(&mut out, &vec![b'x'; length], false);
            assert_eq!(out.len(), header + 4 + length);
            assert_eq!((out[0], out[1] & 0x80), (0x81, 0x80));
            let unmasked =
                out[header + 4..].iter().zip(MASK.iter().cycle()).all(|(b, m)| b ^ m == b'x');
            assert!(unmasked, "length {length}");
        }
    }
}
