//! As much HTTP/1.1 as the harness needs: requests as text, responses read incrementally.
//!
//! In: bytes of a kept-alive connection. Out: [`Response`]s. [`post`] and [`metric`] are the
//! blocking forms for what isn't measured.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const LARGEST_HEAD: usize = 16 << 10;
const LARGEST_BODY: usize = 16 << 20;

/// A response, complete.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body, empty for an upgrade.
    pub body: Vec<u8>,
}

/// Takes one response off the front of `buffer` if it is there in full.
pub fn take_response(buffer: &mut Vec<u8>) -> Result<Option<Response>> {
    let Some(end) = memchr::memmem::find(buffer, b"\r\n\r\n") else {
        ensure!(buffer.len() <= LARGEST_HEAD, "the response's head has no end");
        return Ok(None);
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let status: u16 =
        head.strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .with_context(|| format!("not an HTTP/1.1 response: {:?}", first_line(&head)))?;
    let length = match status {
        101 | 204 => 0,
        _ => content_length(&head)?,
    };
    let body_start = end + 4;
    if buffer.len() < body_start + length {
        return Ok(None);
    }
    let body = buffer[body_start..body_start + length].to_vec();
    buffer.drain(..body_start + length);
    Ok(Some(Response { status, body }))
}

fn content_length(head: &str) -> Result<usize> {
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok())
        .with_context(|| format!("a response without content-length: {:?}", first_line(head)))?;
    ensure!(length <= LARGEST_BODY, "a response announces {length} bytes");
    Ok(length)
}

fn first_line(head: &str) -> &str {
    head.lines().next().unwrap_or_default()
}

/// The text of a POST to the server API.
pub fn api_request(host: &str, method: &str, key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /api/{method} HTTP/1.1\r\nHost: {host}\r\nX-API-Key: {key}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The text of a call that publishes `data`, which is JSON, to `room`.
pub fn publish_request(host: &str, key: &str, room: &str, data: &str) -> Vec<u8> {
    let room = Value::from(room);
    api_request(host, "publish", key, &format!(r#"{{"channel":{room},"data":{data}}}"#))
}

/// Calls a method of the server API and returns its `result`, waiting for it.
pub fn post(server: SocketAddr, method: &str, key: &str, body: &Value) -> Result<Value> {
    let what = || format!("calling /api/{method} on {server}");
    let response = call(server, method, key, body).with_context(what)?;
    api_result(&response).with_context(what)
}

/// Calls a method for each of `requests` in one call. Returns an object for each, with the method's
/// name or `error` as its only key.
pub fn post_batch(
    server: SocketAddr,
    method: &str,
    key: &str,
    requests: Vec<Value>,
) -> Result<Vec<Value>> {
    let what = || format!("calling /api/{method} in a batch on {server}");
    let commands: Vec<_> = requests.into_iter().map(|request| json!({method: request})).collect();
    let body = json!({"commands": commands, "parallel": true});
    let response = call(server, "batch", key, &body).with_context(what)?;
    api_answer(&response, "replies")
        .and_then(|replies| serde_json::from_value(replies).context("the replies are no list"))
        .with_context(what)
}

fn call(server: SocketAddr, method: &str, key: &str, body: &Value) -> Result<Response> {
    exchange(server, &api_request(&server.to_string(), method, key, &body.to_string()))
}

/// The value of a metric without labels, waiting for it.
pub fn metric(server: SocketAddr, name: &str) -> Result<f64> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {server}\r\n\r\n");
    let response = exchange(server, request.as_bytes())?;
    let text = String::from_utf8_lossy(&response.body);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.with_context(|| format!("{server} has no metric {name}"))
}

fn exchange(server: SocketAddr, request: &[u8]) -> Result<Response> {
    let wait = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&server, wait)?;
    stream.set_read_timeout(Some(wait))?;
    stream.write_all(request)?;
    read_response(&mut stream)
}

fn read_response(stream: &mut TcpStream) -> Result<Response> {
    let (mut buffer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(response) = take_response(&mut buffer)? {
            return Ok(response);
        }
        let count = stream.read(&mut chunk)?;
        ensure!(count > 0, "the server closed the connection before it answered");
        buffer.extend_from_slice(&chunk[..count]);
    }
}

/// The `result` of an API response, or what the server says against it.
pub fn api_result(response: &Response) -> Result<Value> {
    api_answer(response, "result")
}

fn api_answer(response: &Response, key: &str) -> Result<Value> {
    if response.status != 200 {
        let body = String::from_utf8_lossy(&response.body);
        bail!("HTTP status {} ({})", response.status, body.trim());
    }
    answer(&response.body, key)
}

/// What the body of an API response has under this key, or what the server says against it.
pub fn answer(body: &[u8], key: &str) -> Result<Value> {
    let mut reply: Value = serde_json::from_slice(body).context("the answer is not JSON")?;
    match reply.get_mut(key) {
        Some(result) => Ok(result.take()),
        None => bail!("the server answered {reply}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_taken_one_by_one_and_only_when_complete() {
        let bytes =
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcHTTP/1.1 101 Switching\r\n\r\n\x81";
        for cut in 0..bytes.len() {
            let mut buffer = bytes[..cut].to_vec();
            let early = take_response(&mut buffer).expect("well-formed");
            assert_eq!(early.is_some(), cut >= 41, "cut at {cut}");
        }
        let mut buffer = bytes.to_vec();
        let first = take_response(&mut buffer).expect("well-formed");
        assert_eq!(first, Some(Response { status: 200, body: b"abc".to_vec() }));
        let second = take_response(&mut buffer).expect("well-formed");
        assert_eq!(second, Some(Response { status: 101, body: Vec::new() }));
        assert_eq!(buffer, b"\x81");
    }

    #[test]
    fn what_is_not_a_response_is_refused() {
        assert!(take_response(&mut b"SSH-2.0-x\r\n\r\n".to_vec()).is_err());
        assert!(take_response(&mut b"HTTP/1.1 200 OK\r\n\r\n".to_vec()).is_err());
    }
}
