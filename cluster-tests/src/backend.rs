//! An application's backend, for servers that ask one: a real HTTP server on a port of the system, that
//! answers as a test wants, or does not.
//!
//! Comes in: what to do with each request. Goes out: every request that was made, with its headers.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::wait::until;

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Act {
    /// Answer 200 with this.
    Say(Value),
    /// Answer with this status and body.
    Status(u16, String),
    /// Take the request and never answer.
    Hang,
    /// Answer only after this time.
    Late(Duration, Value),
    /// Close the connection instead of answering.
    Close,
    /// Announce an answer and close in the midst of it.
    Break,
    /// Answer with so many bytes.
    Flood(usize),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its path.
    pub path: String,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Asked {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }
}

type Rule = dyn Fn(&Asked) -> Act + Send + Sync;

struct Shared {
    rule: Mutex<Box<Rule>>,
    asked: Mutex<Vec<Asked>>,
    /// Connections are kept open as long as this, so that who hangs is not who closes.
    hanging: Mutex<Vec<TcpStream>>,
}

/// A backend. Its thread lives as long as the test process.
pub struct Backend {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend {
    /// Starts one that does this with each request.
    pub fn start(rule: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Result<Self, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared {
            rule: Mutex::new(Box::new(rule)),
            asked: Mutex::default(),
            hanging: Mutex::default(),
        });
        let mine = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = mine.clone();
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on it does this.
    pub fn now(&self, rule: impl Fn(&Asked) -> Act + Send + Sync + 'static) {
        *lock(&self.shared.rule) = Box::new(rule);
    }

    /// URL of a path of it.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// All that was asked of a path.
    pub fn asked(&self, path: &str) -> Vec<Asked> {
        lock(&self.shared.asked)
            .iter()
            .filter(|it| it.path == format!("/{path}"))
            .cloned()
            .collect()
    }

    /// Waits until a path was asked so often, and gives what was asked.
    pub fn wait_for(
        &self,
        path: &str,
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Asked>, String> {
        until(limit, || {
            let asked = self.asked(path);
            let so_far = asked.len();
            (so_far >= count)
                .then_some(asked)
                .ok_or_else(|| format!("{path}: asked {so_far} times"))
        })
    }
}

/// Serves a connection, request after request.
fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut unread = Vec::new();
    while let Some(asked) = read(&mut stream, &mut unread) {
        lock(&shared.asked).push(asked.clone());
        let act = (lock(&shared.rule))(&asked);
        if !perform(&mut stream, act, shared) {
            return;
        }
    }
}

/// Whether the connection goes on.
fn perform(stream: &mut TcpStream, act: Act, shared: &Shared) -> bool {
    let (status, body) = match act {
        Act::Say(answer) => (200, answer.to_string()),
        Act::Status(status, body) => (status, body),
        Act::Late(time, answer) => {
            thread::sleep(time);
            (200, answer.to_string())
        }
        Act::Hang => {
            lock(&shared.hanging).extend(stream.try_clone());
            return false;
        }
        Act::Close => return false,
        Act::Break => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"result\":");
            return false;
        }
        Act::Flood(size) => (200, format!("{{\"result\":{{\"data\":\"{}\"}}}}", "x".repeat(size))),
    };
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).is_ok()
}

fn read(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some((asked, used)) = parse(unread) {
            unread.drain(..used);
            return Some(asked);
        }
        let mut chunk = [0; 16 * 1024];
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(count) => unread.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The first whole request, and how many bytes it has.
fn parse(bytes: &[u8]) -> Option<(Asked, usize)> {
    let end = bytes.windows(4).position(|it| it == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let headers = lines.filter_map(|it| it.split_once(':'));
    let headers: Vec<(String, String)> =
        headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length: usize = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let body = bytes.get(end + 4..end + 4 + length)?;
    let body = String::from_utf8_lossy(body).into_owned();
    Some((Asked { path, headers, body }, end + 4 + length))
}
