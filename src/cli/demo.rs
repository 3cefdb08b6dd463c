//! SHELL. `roomcast demo`: three nodes on loopback as processes of their own, so that any can be killed.

use std::{
    io::BufReader,
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

const NAMES: [&str; 3] = ["a", "b", "c"];
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// A node of the demo. Dropped, it is stopped.
struct Node {
    name: &'static str,
    child: Child,
    http: String,
}

/// A node that is not ready yet.
struct Starting {
    node: Node,
    is_ready: mpsc::Receiver<String>,
}

impl Starting {
    fn finish(self) -> anyhow::Result<Node> {
        match self.is_ready.recv_timeout(START_TIMEOUT) {
            Ok(http) => {
                let mut node = self.node;
                node.http = http;
                Ok(node)
            }
            Err(_) => bail!("node {} did not start; see above why", self.node.name),
        }
    }
}

/// Addresses for gossip that nobody has, one for each node.
fn free_addresses() -> anyhow::Result<Vec<String>> {
    // All are held until all are known.
    let sockets: Result<Vec<UdpSocket>, _> =
        NAMES.iter().map(|_| UdpSocket::bind(("127.0.0.1", 0))).collect();
    let addresses: Result<Vec<String>, _> =
        sockets?.iter().map(|it| it.local_addr().map(|it| it.to_string())).collect();
    Ok(addresses?)
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may be dead already: killed by whoever tries the demo.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs the demo until it is interrupted. The nodes listen on `port`, `port` + 1 and `port` + 2, or on any
/// free ports if it is 0.
///
/// # Errors
/// If a node does not start.
pub fn run(port: u16) -> anyhow::Result<()> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret)?;
    let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let gossip = free_addresses()?;
    // At any free ports it may be one of several.
    let data = (port != 0).then(|| std::env::temp_dir().join(format!("roomcast-demo-{port}")));
    let mut starting = Vec::new();
    // At once: a node with rooms on disk waits for those that it was with.
    for (index, name) in NAMES.into_iter().enumerate() {
        let port = if port == 0 { 0 } else { port + index as u16 };
        starting.push(start(name, port, index, &gossip, &secret, data.as_deref())?);
    }
    let nodes: Result<Vec<Node>, _> = starting.into_iter().map(Starting::finish).collect();
    let mut nodes = nodes?;
    println!(
        "Three nodes, one cluster, nothing else running. Open any of them, in two windows or more:\n"
    );
    for node in &nodes {
        println!("node {}  http://{}  pid {}", node.name, node.http, node.child.id());
    }
    println!(
        "\nKill the node you are on (kill -9 PID) and watch the page move. Ctrl-C stops them all."
    );
    if let Some(data) = data {
        println!("The chat is kept in {}, also for the next start.", data.display());
    }
    wait(&mut nodes)
}

fn start(
    name: &'static str,
    port: u16,
    index: usize,
    gossip: &[String],
    secret: &str,
    data: Option<&Path>,
) -> anyhow::Result<Starting> {
    let program = std::env::current_exe().context("can't find this program")?;
    let room = "ROOMCAST_CHANNEL_WITHOUT_NAMESPACE_";
    let mut command = Command::new(program);
    command
        .args(["serve", "--node-name", name, "--listen", &format!("127.0.0.1:{port}")])
        .args(["--gossip", &gossip[index], "--mesh", "127.0.0.1:0"])
        .args(gossip.iter().filter(|it| **it != gossip[index]).flat_map(|it| ["--join", it]))
        .env("ROOMCAST_DEMO_ENABLED", "true")
        .env("ROOMCAST_LOG_FORMAT", "json")
        .env("ROOMCAST_CLUSTER_SECRET", secret)
        .env("ROOMCAST_CLIENT_TOKEN_HMAC_SECRET_KEY", secret)
        .env("ROOMCAST_CLIENT_ALLOWED_ORIGINS", "http://127.0.0.1:*,http://localhost:*")
        .env("ROOMCAST_HTTP_SERVER_WORKERS", "1")
        .env(format!("{room}HISTORY_SIZE"), "1000")
        .env(format!("{room}HISTORY_TTL"), "1h");
    if let Some(data) = data {
        command.env(format!("{room}LOG"), "disk").env("ROOMCAST_DISK_DATA_DIR", data.join(name));
    }
    for on in [
        "PRESENCE",
        "JOIN_LEAVE",
        "FORCE_PUSH_JOIN_LEAVE",
        "FORCE_RECOVERY",
        "FORCE_POSITIONING",
        "ALLOW_SUBSCRIBE_FOR_CLIENT",
        "ALLOW_PUBLISH_FOR_SUBSCRIBER",
        "ALLOW_PRESENCE_FOR_SUBSCRIBER",
        "ALLOW_HISTORY_FOR_SUBSCRIBER",
    ] {
        command.env(format!("{room}{on}"), "true");
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("can't start a node")?;
    let logs = child.stderr.take().context("a node without a log")?;
    let (ready, is_ready) = mpsc::channel();
    std::thread::spawn(move || read_log(name, BufReader::new(logs), &ready));
    Ok(Starting { node: Node { name, child, http: String::new() }, is_ready })
}

/// Passes on when the node is ready, and what it warns of.
fn read_log(name: &str, log: impl std::io::BufRead, ready: &mpsc::Sender<String>) {
    for line in log.lines().map_while(Result::ok) {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        match (entry["level"].as_str(), entry["message"].as_str()) {
            (_, Some("ready")) => {
                // The demo may have given up on the node.
                let _ = ready.send(text("http"));
            }
            (Some("INFO" | "DEBUG" | "TRACE"), _) => {}
            _ => eprintln!("node {name}: {line}"),
        }
    }
}

/// Waits for the interrupt, and says so when a node dies.
fn wait(nodes: &mut Vec<Node>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        // The terminal is closed. To the nodes it means something else.
        let mut hangup = signal(SignalKind::hangup())?;
        let mut looking = tokio::time::interval(Duration::from_millis(500));
        loop {
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => break,
                _ = looking.tick() => nodes.retain_mut(|node| match node.child.try_wait() {
                    Ok(Some(status)) => {
                        println!("node {} is gone ({status})", node.name);
                        false
                    }
                    _ => true,
                }),
            }
        }
        anyhow::Ok(())
    })
}
