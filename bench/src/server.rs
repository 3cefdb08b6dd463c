//! Server processes: started, waited for, and gone when the harness is gone.
//!
//! In: the path of a server and its settings. Out: [`Server`]s that are ready, killed on drop. A
//! server is started through this binary's hidden `guard` command, which asks the kernel to kill
//! the process that it turns into once the harness ends: also after Ctrl-C or a crash.

use crate::http;
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{self, Signal};
use nix::unistd::{Pid, getppid};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

const READY_DEADLINE: Duration = Duration::from_secs(20);
const MESH_DEADLINE: Duration = Duration::from_secs(30);
/// How long a server may take to hand its rooms over: as long as it needs, since that is measured.
pub const LEAVING_DEADLINE: Duration = Duration::from_secs(300);
/// More rooms than are ever measured: none is forgotten because nobody uses it.
const MOST_ROOMS: usize = 10_000_000;
const BETWEEN_ASKING: Duration = Duration::from_millis(50);
/// Lines of a server's log that are shown when it fails.
const LOG_TAIL: usize = 20;

type Tail = Arc<Mutex<VecDeque<String>>>;

/// How the servers of a run are started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server binary.
    pub path: PathBuf,
    /// The configuration file's text.
    pub config: String,
    /// The server API's key in it.
    pub api_key: String,
    /// Where rooms on disk are, if any are.
    pub data: Option<Arc<DataDir>>,
}

/// The namespace of rooms on disk, where there is one.
pub const ON_DISK: &str = "disk";
/// That of rooms with groups of consumers, in memory.
pub const QUEUE: &str = "queue";
/// The same, on disk.
pub const QUEUE_ON_DISK: &str = "queue-disk";

impl Settings {
    /// The same with namespaces whose rooms are on disk, and such that have groups of consumers.
    #[must_use]
    pub fn on_disk(mut self) -> Self {
        self.config += &format!(
            "[[channel.namespaces]]\nname = \"{ON_DISK}\"\nlog = \"disk\"\nhistory_size = 1000\n\
             history_ttl = \"1h\"\nforce_recovery = true\n"
        );
        for (name, log) in [(QUEUE, "memory"), (QUEUE_ON_DISK, "disk")] {
            self.config += &format!(
                "[[channel.namespaces]]\nname = \"{name}\"\nlog = \"{log}\"\nhistory_size = 20000\n\
                 history_ttl = \"1h\"\n[channel.namespaces.queue]\ngroups = [\"*\"]\n"
            );
        }
        let name = format!("roomcast-bench-{}", std::process::id());
        self.data = Some(Arc::new(DataDir::new(std::env::temp_dir().join(name))));
        self
    }

    /// Where the server of this number, from 1 on, has its rooms on disk.
    pub fn data_dir_of(&self, number: usize) -> Option<PathBuf> {
        Some(self.data.as_ref()?.0.join(name_of(number)))
    }
}

fn name_of(number: usize) -> String {
    format!("bench-{number}")
}

/// A directory that is removed when the servers are gone that have it.
#[derive(Debug)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// This one, which need not exist yet.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        // A leftover in the temporary directory does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server, killed on drop.
#[derive(Debug)]
pub struct Server {
    child: Child,
    name: String,
    /// Where it serves WebSocket and the API.
    pub http: SocketAddr,
    gossip: Option<String>,
    _data: Option<Arc<DataDir>>,
}

impl Server {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it to hand its rooms over and end.
    pub fn terminate(&self) -> Result<()> {
        let what = || format!("telling server {} to leave", self.name);
        let pid = i32::try_from(self.pid()).with_context(what)?;
        signal::kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(what)
    }

    /// Whether it has ended. If it did so with an error, that is one.
    pub fn has_ended(&mut self) -> Result<bool> {
        let name = &self.name;
        let status =
            self.child.try_wait().with_context(|| format!("looking whether {name} has ended"))?;
        let Some(status) = status else { return Ok(false) };
        ensure!(status.success(), "server {name} ended with an error ({status})");
        Ok(true)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

/// Ends a child for good. Both calls fail only if it has ended already, which is what is wanted.
pub fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// The configuration of the servers that are measured: everything permitted, `workers` threads.
pub fn default_config(workers: usize, api_key: &str) -> String {
    format!(
        "[client]\ninsecure = true\n[http_api]\nkey = {api_key:?}\n\
         [http_server]\nworkers = {workers}\n[log]\nlevel = \"info\"\n\
         [channel]\nmax_rooms = {MOST_ROOMS}\n[shutdown]\ntimeout = \"{}s\"\n\
         [[channel.namespaces]]\nname = \"kept\"\nhistory_size = 1000\nhistory_ttl = \"1h\"\n\
         force_recovery = true\n\
         [[channel.namespaces]]\nname = \"present\"\npresence = true\n",
        LEAVING_DEADLINE.as_secs()
    )
}

/// Starts `count` servers that form one mesh, and waits until each of them knows all of them.
pub fn start(settings: &Settings, count: usize) -> Result<Vec<Server>> {
    let path = &settings.path;
    ensure!(
        path.is_file(),
        "there is no server at {}: build it (cargo build --release) or name one with --server",
        path.display()
    );
    let config = ConfigFile::write(&settings.config)?;
    let mut servers: Vec<Server> = Vec::with_capacity(count);
    for _ in 0..count {
        servers.push(start_one(settings, &config.path, count > 1, &servers)?);
    }
    if count > 1 {
        for server in &servers {
            wait_for_mesh(server, count, &settings.api_key)?;
        }
    }
    Ok(servers)
}

/// Starts one server more, which joins the mesh of `servers`, and returns once it serves.
pub fn join<'a>(
    settings: &Settings,
    servers: impl IntoIterator<Item = &'a Server>,
) -> Result<Server> {
    let config = ConfigFile::write(&settings.config)?;
    start_one(settings, &config.path, true, servers)
}

fn start_one<'a>(
    settings: &Settings,
    config: &Path,
    clustered: bool,
    others: impl IntoIterator<Item = &'a Server>,
) -> Result<Server> {
    let joins: Vec<Option<&str>> =
        others.into_iter().map(|server| server.gossip.as_deref()).collect();
    let name = name_of(joins.len() + 1);
    let mut args: Vec<OsString> = vec!["serve".into(), "--config".into(), config.into()];
    args.extend(["--listen", "127.0.0.1:0", "--node-name", &name].map(OsString::from));
    if clustered {
        args.extend(["--gossip", "127.0.0.1:0", "--mesh", "127.0.0.1:0"].map(OsString::from));
    }
    for join in joins.into_iter().flatten() {
        args.extend(["--join", join].map(OsString::from));
    }
    let path = &settings.path;
    let mut command = guarded(path, &args)?;
    if let Some(data) = &settings.data {
        command.env("ROOMCAST_DISK_DATA_DIR", data.0.join(&name));
    }
    command.env("ROOMCAST_LOG_FORMAT", "json").stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("starting {}", path.display()))?;
    match wait_until_ready(&mut child) {
        Ok((http, gossip)) => {
            Ok(Server { child, name, http, gossip, _data: settings.data.clone() })
        }
        Err(error) => {
            kill(&mut child);
            Err(error.context(format!("server {name} ({}) did not become ready", path.display())))
        }
    }
}

/// Returns once the log says where the server can be reached: (http, gossip).
fn wait_until_ready(child: &mut Child) -> Result<(SocketAddr, Option<String>)> {
    let stderr = child.stderr.take().context("the server's log is not piped")?;
    let (sender, ready) = mpsc::channel();
    let tail = Tail::default();
    let tail_of_thread = Arc::clone(&tail);
    thread::spawn(move || drain_log(stderr, &sender, &tail_of_thread));
    let line = match ready.recv_timeout(READY_DEADLINE) {
        Ok(line) => line,
        Err(error) => {
            let why = match error {
                RecvTimeoutError::Timeout => {
                    format!("no \"ready\" in its log for {READY_DEADLINE:?}")
                }
                RecvTimeoutError::Disconnected => "it ended".to_owned(),
            };
            let lines = tail.lock().map(|tail| tail.iter().cloned().collect::<Vec<_>>());
            bail!("{why}; its log ends:\n{}", lines.unwrap_or_default().join("\n"))
        }
    };
    let field = |name: &str| line.get(name).and_then(Value::as_str);
    let http = field("http")
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("its ready line has no address in \"http\": {line}"))?;
    Ok((http, field("gossip").map(str::to_owned)))
}

/// Reads a log to its end, so that the server never waits for a reader.
fn drain_log(log: impl Read, ready: &Sender<Value>, tail: &Tail) {
    for line in BufReader::new(log).split(b'\n').map_while(Result::ok) {
        let text = String::from_utf8_lossy(&line).into_owned();
        if let Ok(entry) = serde_json::from_str::<Value>(&text)
            && entry["message"] == "ready"
        {
            // Nobody listens any more once the server is known to be ready.
            let _ = ready.send(entry);
        }
        if let Ok(mut tail) = tail.lock() {
            tail.push_back(text);
            if tail.len() > LOG_TAIL {
                tail.pop_front();
            }
        }
    }
}

fn wait_for_mesh(server: &Server, count: usize, api_key: &str) -> Result<()> {
    let deadline = Instant::now() + MESH_DEADLINE;
    loop {
        let info = http::post(server.http, "info", api_key, &json!({}))?;
        let seen = info["nodes"].as_array().map_or(0, Vec::len);
        // As long as it takes one for joining, rooms will move once more.
        let ready = http::metric(server.http, "roomcast_cluster_nodes_ready")?;
        if seen == count && ready == count as f64 {
            return Ok(());
        }
        if Instant::now() > deadline {
            let name = &server.name;
            bail!(
                "server {name} lists {seen} of {count} nodes, {ready} of them ready, after {MESH_DEADLINE:?}: {info}"
            );
        }
        thread::sleep(BETWEEN_ASKING);
    }
}

/// A configuration file that exists as long as this value: until the servers have read it.
struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    fn write(text: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("roomcast-bench-{}.toml", std::process::id()));
        // Never through a link or into a file that someone else has put there.
        fs::File::create_new(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| {
                format!("writing {} (if it's a leftover, remove it)", path.display())
            })?;
        Ok(Self { path })
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        // A leftover in the temporary directory does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// A command that runs `program` as a child that can't outlive this process.
pub fn guarded(program: &Path, args: &[OsString]) -> Result<Command> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let mut command = Command::new(own);
    command.arg("guard").arg(std::process::id().to_string()).arg(program).args(args);
    Ok(command)
}

/// The `guard` command: binds this process's life to its parent's, then becomes `command`.
pub fn guard(parent: u32, command: &[OsString]) -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("binding the server's life to the harness's")?;
    ensure!(u32::try_from(getppid().as_raw()) == Ok(parent), "the harness has ended already");
    let (program, args) = command.split_first().context("guard needs a command")?;
    let error = Command::new(program).args(args).exec();
    Err(anyhow!(error).context(format!("running {}", Path::new(program).display())))
}
