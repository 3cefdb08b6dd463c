//! A streamed HTTP response, read line by line, or not at all.
//!
//! Comes in: a request. Goes out: the response's head, and its lines, each with a deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The limit of connecting and of the response's head.
const LIMIT: Duration = Duration::from_secs(5);

/// A response that goes on.
pub struct Stream {
    io: TcpStream,
    raw: Vec<u8>,
    body: Vec<u8>,
    ended: bool,
    /// The first line and the headers.
    pub head: String,
}

impl Stream {
    /// Sends a request and reads the head of the response.
    pub fn open(
        server: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Self, String> {
        let mut io = TcpStream::connect_timeout(&server, LIMIT).map_err(|e| e.to_string())?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\n");
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        io.write_all(request.as_bytes()).map_err(|e| e.to_string())?;
        let (raw, body, head) = (Vec::new(), Vec::new(), String::new());
        let mut stream = Self { io, raw, body, ended: false, head };
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(end) = stream.raw.windows(4).position(|it| it == b"\r\n\r\n") {
                let head: Vec<u8> = stream.raw.drain(..end + 4).collect();
                stream.head = String::from_utf8_lossy(&head).into_owned();
                return Ok(stream);
            }
            if !stream.read_more(deadline)? {
                return Err("the connection ended before the response's head did".to_owned());
            }
        }
    }

    /// A POST whose response must be a stream.
    pub fn post(server: SocketAddr, path: &str, body: &str) -> Result<Self, String> {
        Self::open(server, "POST", path, &[], body)?.streaming()
    }

    /// A GET whose response must be a stream.
    pub fn get(server: SocketAddr, path: &str) -> Result<Self, String> {
        Self::open(server, "GET", path, &[], "")?.streaming()
    }

    fn streaming(self) -> Result<Self, String> {
        if self.head.starts_with("HTTP/1.1 200") { Ok(self) } else { Err(self.head) }
    }

    /// The next line that is not empty; none if the response has ended, or its connection.
    pub fn line(&mut self, limit: Duration) -> Result<Option<String>, String> {
        let deadline = Instant::now() + limit;
        loop {
            self.unchunk();
            if let Some(end) = self.body.iter().position(|it| *it == b'\n') {
                let line: Vec<u8> = self.body.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line).trim().to_owned();
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.ended || !self.read_more(deadline)? {
                return Ok(None);
            }
        }
    }

    /// The next message: a line of JSON, or an event with one.
    pub fn message(&mut self, limit: Duration) -> Result<Value, String> {
        let line = self.line(limit)?.ok_or("the response has ended")?;
        let json = line.strip_prefix("data: ").unwrap_or(&line);
        serde_json::from_str(json).map_err(|error| format!("{line}: {error}"))
    }

    /// Reads to the end: the last message.
    pub fn last(&mut self, limit: Duration) -> Result<Value, String> {
        let (deadline, mut last) = (Instant::now() + limit, Value::Null);
        while let Some(line) = self.line(deadline.saturating_duration_since(Instant::now()))? {
            let json = line.strip_prefix("data: ").unwrap_or(&line);
            last = serde_json::from_str(json).map_err(|error| format!("{line}: {error}"))?;
        }
        Ok(last)
    }

    /// Sends what does not belong there.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.io.write_all(bytes).map_err(|e| e.to_string())
    }

    fn unchunk(&mut self) {
        while let Some(end) = self.raw.windows(2).position(|it| it == b"\r\n") {
            let size = String::from_utf8_lossy(&self.raw[..end]).into_owned();
            let Ok(size) = usize::from_str_radix(size.trim(), 16) else { return };
            if self.raw.len() < end + 4 + size {
                return;
            }
            self.body.extend_from_slice(&self.raw[end + 2..end + 2 + size]);
            self.raw.drain(..end + 4 + size);
            self.ended |= size == 0;
        }
    }

    /// Whether the connection still was there; `Err` at the deadline.
    fn read_more(&mut self, deadline: Instant) -> Result<bool, String> {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("the server said nothing in time".to_owned());
        }
        self.io.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        let mut chunk = [0; 16 * 1024];
        match self.io.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.raw.extend(&chunk[..n]);
                Ok(true)
            }
            Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(e) if e.kind() == ErrorKind::Interrupted => Ok(true),
            Err(_) => Err("the server said nothing in time".to_owned()),
        }
    }
}
