//! What is measured: servers of our own, or ones that run already.
//!
//! In: the options all measurements share. Out: [`Node`]s with their addresses and process ids.

use crate::conn::{Care, Plan, Speak};
use crate::dialect::{Dialect, Protocol, Since, Wanted, Who};
use crate::http;
use crate::reading::Processes;
use crate::server::{self, Server, Settings};
use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const EMPTY_DEADLINE: Duration = Duration::from_secs(30);
const BETWEEN_ASKING: Duration = Duration::from_millis(50);
const NOT_OURS: &str = "the server was started by someone else";
/// Where Roomcast has its WebSocket.
pub const WEBSOCKET_PATH: &str = "/connection/websocket";

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
    /// Process id of the (first) running server, for its memory and CPU time; again for every process that
    /// is to be counted with it
    #[arg(long, requires = "attach")]
    pid: Vec<u32>,
    /// What clients speak
    #[arg(long, value_enum, default_value_t)]
    protocol: Protocol,
    /// Compress messages, for clients that are counted
    #[arg(long)]
    compress: bool,
}

/// A server that is up.
#[derive(Debug)]
pub struct Node {
    address: SocketAddr,
    path: String,
    protocol: Protocol,
    /// Whether clients that are counted offer compression.
    deflate: bool,
    pids: Vec<u32>,
    server: Option<Server>,
}

impl Node {
    /// The processes to read memory and CPU time of.
    pub fn processes(&self) -> Result<Processes> {
        ensure!(!self.pids.is_empty(), "which process is measured? Add --pid to --attach");
        Ok(Processes::new(self.pids.clone()))
    }

    /// What clients speak here.
    pub fn dialect(&self) -> &'static dyn Dialect {
        self.protocol.dialect()
    }

    /// Clients of this node that subscribe to `rooms`; `keep` to be given every message.
    pub fn client_plan(&self, rooms: &[String], keep: bool) -> Plan {
        self.plan(Who::new(rooms), if keep { Care::Need } else { Care::Count })
    }

    /// Clients that come back to `room`, where they had seen everything up to `since`.
    pub fn returning_plan(&self, room: &str, since: Since) -> Plan {
        let rooms = vec![Wanted { room: room.to_owned(), since: Some(since) }];
        self.plan(Who { rooms, token: None, data: None }, Care::Count)
    }

    /// Clients of this node, whoever they are.
    pub fn plan(&self, who: Who, care: Care) -> Plan {
        let (path, dialect) = (self.path.clone(), self.dialect());
        let deflate = self.deflate && care == Care::Count;
        let speak = Speak::Client { path, dialect, who, care };
        Plan { server: self.address, security: None, speak, deflate }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Calls the server API.
    pub fn call(&self, method: &str, api_key: &str, body: &Value) -> Result<Value> {
        http::post(self.address, method, api_key, body)
    }

    /// Calls a method of the server API for each of these requests, in one.
    pub fn calls(&self, method: &str, api_key: &str, requests: Vec<Value>) -> Result<Vec<Value>> {
        http::post_batch(self.address, method, api_key, requests)
    }

    /// A metric without labels.
    pub fn metric(&self, name: &str) -> Result<f64> {
        http::metric(self.address, name)
    }

    /// Tells it to hand its rooms over and end.
    pub fn terminate(&self) -> Result<()> {
        self.own_server()?.terminate()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> Result<bool> {
        self.server.as_mut().context(NOT_OURS)?.has_ended()
    }

    fn own_server(&self) -> Result<&Server> {
        self.server.as_ref().context(NOT_OURS)
    }

    /// Users of this node's server API.
    pub fn api_plan(&self) -> Plan {
        Plan { server: self.address, security: None, speak: Speak::Api, deflate: false }
    }

    /// Host and port as they stand in a request.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// A server that someone else keeps, which runs as the processes `pids`.
    pub fn at(address: SocketAddr, path: &str, protocol: Protocol, pids: Vec<u32>) -> Self {
        Self { address, path: path.to_owned(), protocol, deflate: false, pids, server: None }
    }

    /// Where clients connect.
    pub fn url(&self) -> String {
        format!("ws://{}{}", self.address, self.path)
    }

    /// The processes' ids.
    pub fn pids(&self) -> &[u32] {
        &self.pids
    }

    /// What clients speak here, as it is named in arguments.
    pub fn protocol_name(&self) -> String {
        self.protocol
            .to_possible_value()
            .map_or_else(String::new, |name| name.get_name().to_owned())
    }

    fn attached(url: &str, protocol: Protocol, pids: Vec<u32>) -> Result<Self> {
        let Url { address, path, secure_host } = parse_url(url)?;
        ensure!(secure_host.is_none(), "{url:?}: what TLS costs is not measured here");
        ensure!(
            address.ip().is_loopback(),
            "{url:?} is not on this machine: only loopback is measured"
        );
        Ok(Self::at(address, &path, protocol, pids))
    }

    fn started(server: Server, args: &TargetArgs) -> Self {
        let (address, pids, path) = (server.http, vec![server.pid()], WEBSOCKET_PATH.to_owned());
        let (protocol, deflate, server) = (args.protocol, args.compress, Some(server));
        Self { address, path, protocol, deflate, pids, server }
    }
}

/// Waits until no client is left at the nodes, as their metrics say.
pub fn wait_until_empty(nodes: &[Node]) -> Result<()> {
    let deadline = Instant::now() + EMPTY_DEADLINE;
    while sum_of_metric(nodes, "roomcast_connections")? > 0.0 {
        ensure!(Instant::now() < deadline, "clients that left are still there");
        std::thread::sleep(BETWEEN_ASKING);
    }
    Ok(())
}

/// A metric without labels, added up over the nodes.
pub fn sum_of_metric(nodes: &[Node], name: &str) -> Result<f64> {
    nodes.iter().map(|node| node.metric(name)).sum()
}

/// The processes of several nodes.
pub fn processes(nodes: &[Node]) -> Result<Processes> {
    nodes.iter().map(Node::processes).collect()
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
                .map(|server| Node::started(server, self))
                .collect());
        }
        ensure!(count <= self.attach.len(), "{count} nodes need --attach {count} times");
        let pids = std::iter::once(self.pid.clone()).chain(std::iter::repeat(Vec::new()));
        self.attach
            .iter()
            .zip(pids)
            .take(count)
            .map(|(url, pids)| Node::attached(url, self.protocol, pids))
            .collect()
    }

    /// The same with a namespace whose rooms are on disk.
    pub fn nodes_on_disk(&self, count: usize) -> Result<Vec<Node>> {
        if self.is_attached() {
            return self.nodes(count);
        }
        let settings = self.settings_on_disk("")?;
        let servers = server::start(&settings, count)?;
        Ok(servers.into_iter().map(|server| Node::started(server, self)).collect())
    }

    /// Settings of servers with a directory for rooms on disk, and this much more of a configuration.
    pub fn settings_on_disk(&self, more: &str) -> Result<Settings> {
        let mut settings = self.settings()?.on_disk();
        settings.config += more;
        Ok(settings)
    }

    /// Starts one server that is alone.
    pub fn start(&self, settings: &Settings) -> Result<Node> {
        let server = server::start(settings, 1)?.pop().context("no server was started")?;
        Ok(Node::started(server, self))
    }

    /// Starts one server more, which joins `nodes`; returns once it serves.
    pub fn join(&self, nodes: &[Node]) -> Result<Node> {
        let servers = nodes.iter().map(Node::own_server).collect::<Result<Vec<_>>>()?;
        Ok(Node::started(server::join(&self.settings()?, servers)?, self))
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
            None => {
                let compress = format!("[websocket]\ncompression = {}\n", self.compress);
                server::default_config(self.workers, &self.api_key) + &compress
            }
        };
        Ok(Settings { path, config, api_key: self.api_key.clone(), data: None })
    }
}

/// What a WebSocket URL says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Where to connect.
    pub address: SocketAddr,
    /// The path and query.
    pub path: String,
    /// The host's name, if by TLS.
    pub secure_host: Option<String>,
}

/// Takes a WebSocket URL apart.
pub fn parse_url(url: &str) -> Result<Url> {
    let (secure, rest) = url
        .strip_prefix("ws://")
        .map(|rest| (false, rest))
        .or_else(|| url.strip_prefix("wss://").map(|rest| (true, rest)))
        .with_context(|| format!("{url:?} is no ws:// or wss:// URL"))?;
    let (host, path) = match rest.find('/') {
        Some(at) => (&rest[..at], &rest[at..]),
        None => (rest, WEBSOCKET_PATH),
    };
    let address =
        host.to_socket_addrs().ok().and_then(|mut addresses| addresses.next()).with_context(
            || format!("{url:?} needs a host that exists and a port: ws://HOST:PORT"),
        )?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    Ok(Url { address, path: path.to_owned(), secure_host: secure.then(|| name.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let address = SocketAddr::from(([127, 0, 0, 1], 8000));
        let parsed = |url| parse_url(url).expect("a good URL");
        let url = |path: &str, secure_host: Option<&str>| Url {
            address,
            path: path.to_owned(),
            secure_host: secure_host.map(str::to_owned),
        };
        assert_eq!(parsed("ws://127.0.0.1:8000"), url(WEBSOCKET_PATH, None));
        assert_eq!(parsed("ws://127.0.0.1:8000/ws?x=1"), url("/ws?x=1", None));
        assert_eq!(parsed("wss://127.0.0.1:8000/ws"), url("/ws", Some("127.0.0.1")));
    }

    #[test]
    fn urls_that_cannot_be_measured_are_refused() {
        for url in ["wss://127.0.0.1:8000", "ws://127.0.0.1", "ws://192.0.2.1:80", "8000"] {
            let attached = Node::attached(url, Protocol::Json, Vec::new());
            assert!(attached.is_err(), "{url}");
        }
    }
}
