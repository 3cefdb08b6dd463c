//! One server process: started, watched, signalled and always cleaned up.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::hosts::Host;
use crate::wait;

/// How long a node may take from start to its "ready" line.
const READY_LIMIT: Duration = Duration::from_secs(20);
/// Log lines kept for a failure's report.
const KEPT_LINES: usize = 400;

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct NodeArgs {
    /// The node's name in the cluster.
    pub name: String,
    /// The configuration file.
    pub config: PathBuf,
    /// The gossip addresses of nodes to join.
    pub join: Vec<String>,
    /// The host to run on; none: this one, on loopback.
    pub host: Option<Host>,
    /// The port of its gossip; 0: any that is free.
    pub gossip_port: u16,
    /// The program that starts it, with arguments, if one does. It has to replace itself by the server.
    pub under: Vec<String>,
}

/// A running (or ended) server process.
pub struct Node {
    /// The node's name in the cluster.
    pub name: String,
    /// Where clients and the API connect.
    pub http: SocketAddr,
    /// Where other nodes find it.
    pub gossip: String,
    /// Where other nodes link to it.
    pub mesh: String,
    child: Child,
    log: Log,
}

type Log = Arc<Mutex<VecDeque<String>>>;

impl Node {
    /// Starts a node and waits until it says that it is ready.
    pub fn start(server: &std::path::Path, args: &NodeArgs) -> Result<Self, String> {
        let mut node = Self::launch(server, args)?;
        node.await_ready()?;
        Ok(node)
    }

    /// Starts a node that may take long to be ready, or never is.
    pub fn launch(server: &std::path::Path, args: &NodeArgs) -> Result<Self, String> {
        let mut child = spawn_bound(command(server, args))
            .map_err(|e| format!("{} does not start: {e}", server.display()))?;
        let log = Log::default();
        watch(&mut child, log.clone());
        Ok(Self {
            name: args.name.clone(),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            gossip: String::new(),
            mesh: String::new(),
            child,
            log,
        })
    }

    /// Waits until it says that it is ready, and where it is.
    pub fn await_ready(&mut self) -> Result<(), String> {
        let name = self.name.clone();
        let line = wait::until(READY_LIMIT, || match self.logged("ready") {
            Some(line) => Ok(Ok(line)),
            None if !self.is_running() => {
                Ok(Err(format!("node {name} has ended:\n{}", self.log())))
            }
            None => Err(format!("node {name} did not say ready:\n{}", self.log())),
        })??;
        self.locate(&line)
    }

    /// Waits until it has bound its ports, and says where: before it is ready.
    pub fn await_bound(&mut self) -> Result<(), String> {
        let look = || self.logged("starting").ok_or_else(|| "it is not bound".to_owned());
        let line = wait::until(READY_LIMIT, look)?;
        self.locate(&line)
    }

    fn locate(&mut self, line: &Value) -> Result<(), String> {
        self.http =
            field(line, "http")?.parse().map_err(|e| format!("http address in {line}: {e}"))?;
        self.gossip = field(line, "gossip")?.to_owned();
        self.mesh = field(line, "mesh")?.to_owned();
        Ok(())
    }

    /// The first line that it logged with this message, of those that are kept.
    pub fn logged(&self, message: &str) -> Option<Value> {
        let log = self.log.lock().expect("the log's lock");
        let mut lines = log.iter().filter(|line| line.contains(message));
        lines.find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            (line["message"] == message || line["fields"]["message"] == message).then_some(line)
        })
    }

    /// The address that SDKs connect to.
    pub fn ws_url(&self) -> String {
        format!("ws://{}/connection/websocket", self.http)
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: the machine is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    /// SIGTERM: please leave.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// SIGSTOP: alive, connected and silent.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT: goes on as if nothing had happened.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid is small");
        // A process that has already ended needs no signal.
        let _ = kill(Pid::from_raw(pid), signal);
    }

    /// Waits for the process to end by itself.
    pub fn exit_status(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let name = self.name.clone();
        wait::until(limit, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err(format!("node {name} is still running")),
            Err(e) => Err(format!("node {name}: {e}")),
        })
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The newest log lines, for a failure's report.
    pub fn log(&self) -> String {
        text(&self.log)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A stopped process still dies of SIGKILL.
        self.kill();
    }
}

/// The name of the node at `index`: a, b, c, …
pub fn node_name(index: usize) -> String {
    let letter = u8::try_from(index).ok().and_then(|i| b'a'.checked_add(i));
    char::from(letter.expect("few nodes")).to_string()
}

fn command(server: &std::path::Path, args: &NodeArgs) -> Command {
    // setpriv ties the server's life to the test process, so a killed test run
    // leaves nothing behind. It execs, so the pid is the server's.
    // So does ip.
    let mut words: Vec<&OsStr> = Vec::new();
    if setpriv_works() {
        words.extend(["setpriv", "--pdeathsig", "KILL"].map(OsStr::new));
    }
    if let Some(host) = &args.host {
        words.extend(["ip", "netns", "exec", &host.namespace].map(OsStr::new));
    }
    words.extend(args.under.iter().map(OsStr::new));
    words.push(server.as_os_str());
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.arg("serve").arg("--config").arg(&args.config);
    command.args(["--node-name", &args.name]);
    let address = args.host.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |host| host.address);
    for (plane, port) in [("--listen", 0), ("--gossip", args.gossip_port), ("--mesh", 0)] {
        command.arg(plane).arg(SocketAddr::new(address, port).to_string());
    }
    for peer in &args.join {
        command.args(["--join", peer]);
    }
    // Only where rooms are on disk, and it is not said where: an earlier server has no such option.
    let config = std::fs::read_to_string(&args.config).unwrap_or_default();
    if config.contains("log = \"disk\"") && !config.contains("data_dir") {
        command.env("ROOMCAST_DISK_DATA_DIR", data_dir(args));
    }
    command
        .env("ROOMCAST_LOG_FORMAT", "json")
        // Ours, and no option of the server, which would refuse it.
        .env_remove("ROOMCAST_BIN")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The directory of a node with rooms on disk: beside its configuration, the same for all its runs.
pub fn data_dir(args: &NodeArgs) -> PathBuf {
    args.config.with_extension("data").join(&args.name)
}

fn setpriv_works() -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let mut probe = Command::new("setpriv");
        probe.args(["--pdeathsig", "KILL", "true"]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// A command for a program that ends when the test process does, once it is started by [`spawn_bound`].
pub fn bound(program: &std::path::Path) -> Command {
    if !setpriv_works() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

type Request = (Command, Sender<std::io::Result<Child>>);

/// Spawns from one thread that lives as long as the process: a parent-death
/// signal is sent when the spawning *thread* ends, and test threads do.
pub fn spawn_bound(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Request>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (answer, child) = channel();
    let request = (command, answer);
    let sent = spawner.lock().expect("the spawner's lock").send(request);
    sent.expect("the spawner runs as long as the process");
    child.recv().expect("the spawner answers every request")
}

/// SIGINT: what Ctrl-C sends.
pub fn interrupt_process(process: &Child) {
    let _ = kill(Pid::from_raw(process.id() as i32), Signal::SIGINT);
}

/// SIGKILL for a process that a started program started.
pub fn kill_process(pid: i32) {
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Keeps the log.
fn watch(child: &mut Child, log: Log) {
    let stderr = child.stderr.take().expect("stderr is piped");
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut log = log.lock().expect("the log's lock");
            if log.len() == KEPT_LINES {
                log.pop_front();
            }
            log.push_back(line);
        }
    });
}

fn field<'a>(line: &'a Value, name: &str) -> Result<&'a str, String> {
    let found = line.get(name).or_else(|| line["fields"].get(name));
    found.and_then(Value::as_str).ok_or_else(|| format!("the ready line has no {name}: {line}"))
}

fn text(log: &Log) -> String {
    let log = log.lock().expect("the log's lock");
    log.iter().map(|line| format!("    {line}\n")).collect()
}

/// CPU time that a process has taken so far.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|e| e.to_string())?;
    // The name, in parentheses, may hold anything; what follows it does not.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |index: usize| after.split_whitespace().nth(index)?.parse::<f64>().ok();
    let (user, system) = ticks(11).zip(ticks(12)).ok_or(stat.clone())?;
    // The kernel counts in hundredths of a second, on every machine that this runs on.
    Ok((user + system) / 100.0)
}
