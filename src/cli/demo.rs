//! SHELL. `roomcast demo`: three nodes on loopback as processes of their own, so that any can be killed.

use std::{
    io::BufReader,
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
    gossip: String,
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
    let mut nodes: Vec<Node> = Vec::new();
    for (index, name) in NAMES.into_iter().enumerate() {
        let port = if port == 0 { 0 } else { port + index as u16 };
        let join = nodes.iter().map(|node| node.gossip.clone()).collect();
        nodes.push(start(name, port, join, &secret)?);
    }
    println!(
        "Three nodes, one cluster, nothing else running. Open any of them, in two windows or more:\n"
    );
    for node in &nodes {
        println!("node {}  http://{}  pid {}", node.name, node.http, node.child.id());
    }
    println!(
        "\nKill the node you are on (kill -9 PID) and watch the page move. Ctrl-C stops them all."
    );
    wait(&mut nodes)
}

fn start(name: &'static str, port: u16, join: Vec<String>, secret: &str) -> anyhow::Result<Node> {
    let program = std::env::current_exe().context("can't find this program")?;
    let room = "ROOMCAST_CHANNEL_WITHOUT_NAMESPACE_";
    let mut command = Command::new(program);
    command
        .args(["serve", "--node-name", name, "--listen", &format!("127.0.0.1:{port}")])
        .args(["--gossip", "127.0.0.1:0", "--mesh", "127.0.0.1:0"])
        .args(join.iter().flat_map(|it| ["--join", it]))
        .env("ROOMCAST_DEMO_ENABLED", "true")
        .env("ROOMCAST_LOG_FORMAT", "json")
        .env("ROOMCAST_CLUSTER_SECRET", secret)
        .env("ROOMCAST_CLIENT_TOKEN_HMAC_SECRET_KEY", secret)
        .env("ROOMCAST_CLIENT_ALLOWED_ORIGINS", "http://127.0.0.1:*,http://localhost:*")
        .env("ROOMCAST_HTTP_SERVER_WORKERS", "1")
        .env(format!("{room}HISTORY_SIZE"), "1000")
        .env(format!("{room}HISTORY_TTL"), "1h");
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
    let mut node = Node { name, child, http: String::new(), gossip: String::new() };
    match is_ready.recv_timeout(START_TIMEOUT) {
        Ok(addresses) => (node.http, node.gossip) = addresses,
        Err(_) => bail!("node {name} did not start; see above why"),
    }
    Ok(node)
}

/// Passes on when the node is ready, and what it warns of.
fn read_log(name: &str, log: impl std::io::BufRead, ready: &mpsc::Sender<(String, String)>) {
    for line in log.lines().map_while(Result::ok) {
        let entry: Value = serde_json::from_str(&line).unwrap_or_default();
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        match (entry["level"].as_str(), entry["message"].as_str()) {
            (_, Some("ready")) => {
                // The demo may have given up on the node.
                let _ = ready.send((text("http"), text("gossip")));
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
