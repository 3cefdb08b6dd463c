//! What is measured: servers of our own, or ones that run already.
//!
//! In: the options all measurements share. Out: [`Node`]s with their addresses and process ids.

use crate::conn::{Plan, Since, Speak};
use crate::http;
use crate::server::{self, Server, Settings};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

const WEBSOCKET_PATH: &str = "/connection/websocket";

/// The options all measurements share.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The server binary to start [default: `roomcast` beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,
    /// A configuration for the server instead of the harness's own (which permits everything)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Threads serving sockets, in the harness's own configuration
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Key of the server API
    #[arg(long, default_value = "bench")]
    api_key: String,
    /// Measure a running server instead: ws://HOST:PORT/PATH (for `latency` again for more nodes)
    #[arg(long, value_name = "URL", conflicts_with_all = ["server", "config"])]
    attach: Vec<String>,
    /// Process id of the (first) running server, for its memory and CPU time
    #[arg(long, requires = "attach")]
    pid: Option<u32>,
}

/// A server that is up.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    path: String,
    pid: Option<u32>,
    _server: Option<Server>,
}

impl Node {
    /// The process to read memory and CPU time of.
    pub fn pid(&self) -> Result<u32> {
        self.pid.context("which process is measured? Add --pid to --attach")
    }

    /// Clients of this node that subscribe to `rooms`; `keep` to be given every message.
    pub fn client_plan(&self, rooms: &[String], keep: bool) -> Plan {
        let (path, rooms) = (self.path.clone(), rooms.to_vec());
        let speak = Speak::Client { path, rooms, since: None, keep };
        Plan { server: self.address, speak }
    }

    /// Clients that come back to `room`, where they had seen everything up to `since`.
    pub fn returning_plan(&self, room: &str, since: Since) -> Plan {
        let (path, rooms) = (self.path.clone(), vec![room.to_owned()]);
        let speak = Speak::Client { path, rooms, since: Some(since), keep: false };
        Plan { server: self.address, speak }
    }

    /// Calls the server API.
    pub fn call(&self, method: &str, api_key: &str, body: &Value) -> Result<Value> {
        http::post(self.address, method, api_key, body)
    }

    /// Users of this node's server API.
    pub fn api_plan(&self) -> Plan {
        Plan { server: self.address, speak: Speak::Api }
    }

    /// Host and port as they stand in a request.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    fn attached(url: &str, pid: Option<u32>) -> Result<Self> {
        let (address, path) = parse_url(url)?;
        Ok(Self { address, path, pid, _server: None })
    }
}

impl From<Server> for Node {
    fn from(server: Server) -> Self {
        let (address, pid) = (server.http, Some(server.pid()));
        Self { address, path: WEBSOCKET_PATH.to_owned(), pid, _server: Some(server) }
    }
}

impl TargetArgs {
    /// The servers run already, and nothing is started.
    pub fn is_attached(&self) -> bool {
        !self.attach.is_empty()
    }

    /// The server API's key.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// How many servers can be measured together, of the `wanted` ones.
    pub fn available(&self, wanted: usize) -> usize {
        if self.is_attached() { wanted.min(self.attach.len()) } else { wanted }
    }

    /// Starts (or finds) the one server of a measurement.
    pub fn node(&self) -> Result<Node> {
        self.nodes(1)?.pop().context("no server was started")
    }

    /// Starts (or finds) `count` servers that know each other.
    pub fn nodes(&self, count: usize) -> Result<Vec<Node>> {
        if !self.is_attached() {
            return Ok(server::start(&self.settings()?, count)?
                .into_iter()
                .map(Node::from)
                .collect());
        }
        ensure!(count <= self.attach.len(), "{count} nodes need --attach {count} times");
        let pids = [self.pid].into_iter().chain(std::iter::repeat(None));
        self.attach
            .iter()
            .zip(pids)
            .take(count)
            .map(|(url, pid)| Node::attached(url, pid))
            .collect()
    }

    fn settings(&self) -> Result<Settings> {
        let path = match &self.server {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("finding this program's own file")?
                .with_file_name("roomcast"),
        };
        let config = match &self.config {
            Some(file) => fs::read_to_string(file)
                .with_context(|| format!("reading the configuration {}", file.display()))?,
            None => server::default_config(self.workers, &self.api_key),
        };
        Ok(Settings { path, config, api_key: self.api_key.clone() })
    }
}

/// The address and path that a WebSocket URL names.
fn parse_url(url: &str) -> Result<(SocketAddr, String)> {
    let rest = url
        .strip_prefix("ws://")
        .with_context(|| format!("{url:?} is not a ws:// URL (TLS is not supported)"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, WEBSOCKET_PATH),
    };
    let address =
        host.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).with_context(
            || format!("{url:?} needs a host that exists and a port: ws://HOST:PORT"),
        )?;
    ensure!(
        address.ip().is_loopback(),
        "{url:?} is not on this machine: only loopback is measured"
    );
    Ok((address, path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        let parsed = |url| parse_url(url).expect("a good URL");
        assert_eq!(parsed("ws://127.0.0.1:8000"), (address, WEBSOCKET_PATH.to_owned()));
        assert_eq!(parsed("ws://127.0.0.1:8000/ws?x=1"), (address, "/ws?x=1".to_owned()));
    }

    #[test]
    fn urls_that_cannot_be_measured_are_refused() {
        for url in ["wss://127.0.0.1:8000", "ws://127.0.0.1", "ws://192.0.2.1:80", "8000"] {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }
}
