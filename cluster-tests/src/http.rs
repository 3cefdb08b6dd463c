//! The smallest HTTP client that can test a server: one request per
//! connection, with a deadline, bytes in and bytes out; and a [`Connection`]
//! for those who ask very much.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long a request may take, from connecting to the last byte.
const LIMIT: Duration = Duration::from_secs(10);

/// A server's answer.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header lines as sent, without the status line.
    pub headers: String,
    /// The body, with chunked encoding undone.
    pub body: String,
}

impl Response {
    /// The body as JSON, or what it was instead.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|e| {
            let Self { status, body, .. } = self;
            format!("status {status}, and not JSON ({e}): {body}")
        })
    }

    /// A header's value, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// GETs `path`.
pub fn get(server: SocketAddr, path: &str) -> Result<Response, String> {
    request(server, "GET", path, &[], "")
}

/// POSTs JSON to `path` with extra headers.
pub fn post(
    server: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Result<Response, String> {
    request(server, "POST", path, headers, &body.to_string())
}

/// Any request; a body is sent as JSON.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Result<Response, String> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += "Content-Type: application/json\r\n";
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += body;
    exchange(server, text.as_bytes())
        .map_err(|e| format!("{method} {path}: {e}"))
        .and_then(|bytes| parse(&bytes))
}

/// A connection that is kept for the next request.
pub struct Connection {
    server: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects. No answer may take longer than `limit` to go on.
    pub fn open(server: SocketAddr, limit: Duration) -> Result<Self, String> {
        let open = || {
            let stream = TcpStream::connect_timeout(&server, LIMIT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            Ok(stream)
        };
        let stream = open().map_err(|e: std::io::Error| format!("connecting: {e}"))?;
        Ok(Self { server, stream: BufReader::new(stream) })
    }

    /// POSTs JSON to `path`. After an error the connection is of no use any more.
    pub fn post(
        &mut self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Result<Response, String> {
        let body = body.to_string();
        let mut text = format!("POST {path} HTTP/1.1\r\nHost: {}\r\n", self.server);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "Content-Type: application/json\r\n";
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        self.exchange(text.as_bytes())
            .map_err(|e| format!("POST {path}: {e}"))
            .and_then(|it| parse(&it))
    }

    fn exchange(&mut self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        self.stream.get_mut().write_all(request)?;
        let mut answer = Vec::new();
        let mut length = 0;
        loop {
            let begin = answer.len();
            if self.stream.read_until(b'\n', &mut answer)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = String::from_utf8_lossy(&answer[begin..]).to_ascii_lowercase();
            if line.trim_end().is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        let head = answer.len();
        answer.resize(head + length, 0);
        self.stream.read_exact(&mut answer[head..])?;
        Ok(answer)
    }
}

fn exchange(server: SocketAddr, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn parse(bytes: &[u8]) -> Result<Response, String> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) =
        text.split_once("\r\n\r\n").ok_or_else(|| format!("not an HTTP response: {text}"))?;
    let (first, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| format!("no status in {first:?}"))?;
    let mut response = Response { status, headers: headers.to_owned(), body: body.to_owned() };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = unchunk(body);
    }
    Ok(response)
}

fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        body += &after[..size];
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunked_body_is_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n";
        let response = parse(bytes).unwrap();
        assert_eq!(response.status, 200);
        assert_eq!(response.json().unwrap()["a"], 1);
    }
}
