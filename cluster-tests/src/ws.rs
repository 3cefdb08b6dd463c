//! A WebSocket client that can misbehave: frames are built by hand, so a test
//! can send what no library would.
//!
//! Comes in: bytes, frames, or commands. Goes out: what the server answered, as
//! [`Event`]s, each with a deadline. Masking uses a fixed key: the key's
//! randomness protects proxies, not servers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Opcodes of RFC 6455.
pub mod opcode {
    /// Continues a fragmented message.
    pub const CONTINUATION: u8 = 0;
    /// A text message.
    pub const TEXT: u8 = 1;
    /// A binary message.
    pub const BINARY: u8 = 2;
    /// The closing handshake.
    pub const CLOSE: u8 = 8;
    /// Asks for a pong.
    pub const PING: u8 = 9;
    /// Answers a ping.
    pub const PONG: u8 = 10;
}

/// The connection limit, and the limit of each write.
const LIMIT: Duration = Duration::from_secs(5);
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Something that the server did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A text frame.
    Text(String),
    /// A binary frame.
    Binary(Vec<u8>),
    /// A text or binary frame that is compressed.
    Deflated(Vec<u8>),
    /// A ping or pong frame.
    Control(u8, Vec<u8>),
    /// A close frame: its code (1005 without one) and reason.
    Close(u16, String),
    /// The TCP connection ended, cleanly or by a reset.
    End,
}

/// A raw connection to a server.
pub struct Socket {
    stream: TcpStream,
    unread: Vec<u8>,
}

/// A frame to be sent, right or wrong.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Whether it is the last fragment of its message.
    pub fin: bool,
    /// The three reserved bits, as a number from 0 to 7.
    pub reserved: u8,
    /// One of [`opcode`], or not.
    pub opcode: u8,
    /// Whether it is masked, as a client's frames must be.
    pub masked: bool,
    /// A length to declare in place of the true one.
    pub declared: Option<u64>,
    /// The bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A whole, correct message.
    pub fn new(opcode: u8, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            fin: true,
            reserved: 0,
            opcode,
            masked: true,
            declared: None,
            payload: payload.into(),
        }
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mask_bit = if self.masked { 0x80 } else { 0 };
        let length = self.declared.unwrap_or(self.payload.len() as u64);
        let first = (u8::from(self.fin) << 7) | (self.reserved << 4) | self.opcode;
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(mask_bit | length as u8),
            126..=0xffff => {
                bytes.push(mask_bit | 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask_bit | 127);
                bytes.extend(length.to_be_bytes());
            }
        }
        if self.masked {
            bytes.extend(MASK);
            let masked = self.payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m);
            bytes.extend(masked);
        } else {
            bytes.extend(&self.payload);
        }
        bytes
    }
}

impl Socket {
    /// Only the TCP connection.
    pub fn tcp(server: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect_timeout(&server, LIMIT).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(LIMIT)).map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { stream, unread: Vec::new() })
    }

    /// A WebSocket connection, with or without a subprotocol.
    pub fn open(server: SocketAddr, subprotocol: Option<&str>) -> Result<Self, String> {
        let extra: Vec<(&str, &str)> =
            subprotocol.iter().map(|p| ("Sec-WebSocket-Protocol", *p)).collect();
        let (socket, head) = Self::upgrade(server, "/connection/websocket", &extra)?;
        if head.starts_with("HTTP/1.1 101") {
            Ok(socket)
        } else {
            Err(format!("no upgrade: {head}"))
        }
    }

    /// Asks for an upgrade: the socket and the response's head, whatever it says.
    pub fn upgrade(
        server: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Self, String), String> {
        let mut socket = Self::tcp(server)?;
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        socket.send_raw(request.as_bytes())?;
        let head = socket.read_head(LIMIT)?;
        Ok((socket, head))
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|e| e.to_string())
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: &Frame) -> Result<(), String> {
        self.send_raw(&frame.bytes())
    }

    /// Sends a correct text message.
    pub fn send_text(&mut self, text: &str) -> Result<(), String> {
        self.send(&Frame::new(opcode::TEXT, text))
    }

    /// Sends a JSON command and waits for the reply with its id; pushes before
    /// it are dropped.
    pub fn command(&mut self, command: &Value) -> Result<Value, String> {
        self.send_text(&command.to_string())?;
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event(left)? {
                Event::Text(text) => {
                    let replies = text.lines().map(serde_json::from_str::<Value>);
                    let found = replies.flatten().find(|reply| reply["id"] == command["id"]);
                    if let Some(reply) = found {
                        return Ok(reply);
                    }
                }
                other => return Err(format!("{command} was answered by {other:?}")),
            }
        }
    }

    /// Connects the JSON session (command 1).
    pub fn connect(&mut self) -> Result<Value, String> {
        self.command(&serde_json::json!({"id": 1, "connect": {}}))
    }

    /// The next thing that the server does; `Err` if nothing within `limit`.
    pub fn event(&mut self, limit: Duration) -> Result<Event, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some((event, used)) = parse(&self.unread) {
                self.unread.drain(..used);
                return Ok(event);
            }
            if !self.read_more(deadline)? {
                return Ok(Event::End);
            }
        }
    }

    /// Reads until the server closes: the close code and reason, or `None` for
    /// a connection that ended without a close frame.
    pub fn close_code(&mut self, limit: Duration) -> Result<Option<(u16, String)>, String> {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.event(left)? {
                Event::Close(code, reason) => return Ok(Some((code, reason))),
                Event::End => return Ok(None),
                _ => {}
            }
        }
    }

    /// All messages that come until it has been quiet for `pause`.
    pub fn drain(&mut self, pause: Duration) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(event) = self.event(pause) {
            let end = matches!(event, Event::End | Event::Close(..));
            events.push(event);
            if end {
                break;
            }
        }
        events
    }

    /// Reads an HTTP response's head, up to the empty line.
    pub fn read_head(&mut self, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        loop {
            let end = self.unread.windows(4).position(|w| w == b"\r\n\r\n");
            if let Some(end) = end {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Ok(String::from_utf8_lossy(&head).into_owned());
            }
            if !self.read_more(deadline)? {
                return Err("the connection ended before the response did".to_owned());
            }
        }
    }

    /// Reads what comes until the connection ends.
    pub fn read_rest(&mut self, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        while self.read_more(deadline)? {}
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.unread)).into_owned())
    }

    /// Whether the connection still was there; `Err` at the deadline.
    fn read_more(&mut self, deadline: Instant) -> Result<bool, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the server said nothing in time".to_owned());
        }
        self.stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.unread.extend(&chunk[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Err("the server said nothing in time".to_owned()),
        }
    }
}

/// The first whole frame of `bytes` and its size. Servers don't mask.
fn parse(bytes: &[u8]) -> Option<(Event, usize)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (length, start) = match second & 0x7f {
        126 => {
            let field = bytes.get(2..4)?.try_into().ok()?;
            (usize::from(u16::from_be_bytes(field)), 4)
        }
        127 => {
            let field = bytes.get(2..10)?.try_into().ok()?;
            (usize::try_from(u64::from_be_bytes(field)).ok()?, 10)
        }
        short => (usize::from(short), 2),
    };
    let payload = bytes.get(start..start + length)?;
    let event = match first & 0x0f {
        _ if first & 0x40 != 0 => Event::Deflated(payload.to_vec()),
        opcode::TEXT => Event::Text(String::from_utf8_lossy(payload).into_owned()),
        opcode::BINARY => Event::Binary(payload.to_vec()),
        opcode::CLOSE => close(payload),
        other => Event::Control(other, payload.to_vec()),
    };
    Some((event, start + length))
}

fn close(payload: &[u8]) -> Event {
    match payload {
        [high, low, reason @ ..] => Event::Close(
            u16::from_be_bytes([*high, *low]),
            String::from_utf8_lossy(reason).into_owned(),
        ),
        _ => Event::Close(1005, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_three_length_forms() {
        for (size, header) in [(5, 6), (300, 8), (70_000, 14)] {
            let frame = Frame::new(opcode::TEXT, vec![b'x'; size]);
            assert_eq!(frame.bytes().len(), size + header);
            let unmasked = Frame { masked: false, ..frame };
            let bytes = unmasked.bytes();
            let (event, used) = parse(&bytes).unwrap();
            assert_eq!(used, bytes.len());
            assert_eq!(event, Event::Text("x".repeat(size)));
            assert_eq!(parse(&bytes[..used - 1]), None);
        }
    }

    #[test]
    fn a_close_frame_may_be_empty() {
        let frame = Frame { masked: false, ..Frame::new(opcode::CLOSE, vec![]) };
        assert_eq!(parse(&frame.bytes()).unwrap().0, Event::Close(1005, String::new()));
    }
}
