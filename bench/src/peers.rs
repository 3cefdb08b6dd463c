//! The servers that are compared: Roomcast, and the peers that `bench/compare` has installed.
//!
//! In: which one, on how many nodes. Out: [`Running`] nodes that deliver to each other's clients, killed on
//! drop, with the Redis between them where they need one.

use crate::dialect::Protocol;
use crate::fleet::{Fleet, time_left};
use crate::publisher::{Publisher, SMALLEST_PAYLOAD, Via, payload, stamp};
use crate::server::{self, DataDir, Server, Settings};
use crate::target::{Node, WEBSOCKET_PATH};
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Roomcast's key of the server API; the peers' clients publish.
pub const API_KEY: &str = "bench";
/// How long a server may take until it accepts connections.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long nodes may take until they deliver to each other's clients.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);
const BETWEEN_ASKING: Duration = Duration::from_millis(50);
const BETWEEN_PROBES: Duration = Duration::from_millis(100);
/// Lines of a server's log that are shown when it fails.
const LOG_TAIL: usize = 20;
const PROBE_ROOM: &str = "probe";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Roomcast with so many threads that serve sockets; 0: one for each core.
    Roomcast {
        /// The threads.
        workers: usize,
    },
    /// Centrifugo; its nodes are joined by Redis.
    Centrifugo,
    /// The NATS server; its nodes are joined by a mesh of their own.
    Nats,
    /// Socket.IO; its nodes are joined by Redis.
    SocketIo,
}

impl Kind {
    fn needs_redis(self) -> bool {
        matches!(self, Self::Centrifugo | Self::SocketIo)
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::Roomcast { .. } | Self::Centrifugo => Protocol::Json,
            Self::Nats => Protocol::Nats,
            Self::SocketIo => Protocol::SocketIo,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Self::Roomcast { .. } | Self::Centrifugo => WEBSOCKET_PATH,
            Self::Nats => "/",
            Self::SocketIo => "/socket.io/?EIO=4&transport=websocket",
        }
    }
}

/// One row of the comparison.
#[derive(Clone, Copy, Debug)]
pub struct Contender {
    /// What the row is called.
    pub name: &'static str,
    /// Which server it is.
    pub kind: Kind,
    /// How many of it.
    pub nodes: usize,
}

/// All rows; those of one and of two nodes begin with what the others are compared to.
pub const CONTENDERS: [Contender; 9] = [
    Contender { name: "Roomcast", kind: Kind::Roomcast { workers: 0 }, nodes: 1 },
    Contender { name: "Roomcast, 1 worker", kind: Kind::Roomcast { workers: 1 }, nodes: 1 },
    Contender { name: "Centrifugo", kind: Kind::Centrifugo, nodes: 1 },
    Contender { name: "NATS server", kind: Kind::Nats, nodes: 1 },
    Contender { name: "Socket.IO", kind: Kind::SocketIo, nodes: 1 },
    Contender { name: "Roomcast, 2 nodes", kind: Kind::Roomcast { workers: 0 }, nodes: 2 },
    Contender { name: "Centrifugo, 2 nodes + Redis", kind: Kind::Centrifugo, nodes: 2 },
    Contender { name: "NATS server, 2 nodes", kind: Kind::Nats, nodes: 2 },
    Contender { name: "Socket.IO, 2 nodes + Redis", kind: Kind::SocketIo, nodes: 2 },
];

/// Where things are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The Roomcast binary.
    pub roomcast: PathBuf,
    /// What `bench/compare` has installed.
    pub installed: PathBuf,
    /// The peers' configuration files.
    pub configs: PathBuf,
}

/// Where peers are that some measurements set beside Roomcast.
#[derive(Args, Clone, Debug)]
pub struct Installed {
    /// Where `bench/compare` has installed the peers that are measured beside Roomcast
    #[arg(long, value_name = "FOLDER")]
    peers: Option<PathBuf>,
    /// Their configuration files' folder
    #[arg(long, value_name = "FOLDER", default_value = "bench/peers")]
    configs: PathBuf,
}

impl Installed {
    /// The places of the peers, if there are any.
    pub fn places(&self) -> Option<Places> {
        let (roomcast, configs) = (PathBuf::new(), self.configs.clone());
        self.peers.clone().map(|installed| Places { roomcast, installed, configs })
    }
}

impl Places {
    fn binary(&self, name: &str) -> Result<PathBuf> {
        let path = self.installed.join("bin").join(name);
        ensure!(path.is_file(), "not measured: there is no {}", path.display());
        Ok(path)
    }

    /// What a peer's processes run.
    fn program(&self, kind: Kind) -> Result<PathBuf> {
        match kind {
            Kind::Roomcast { .. } => Ok(self.roomcast.clone()),
            Kind::Centrifugo => self.binary("centrifugo"),
            Kind::Nats => self.binary("nats-server"),
            Kind::SocketIo => self.socket_io().and_then(|_| on_path("node")),
        }
    }

    fn socket_io(&self) -> Result<PathBuf> {
        let folder = self.installed.join("socketio");
        let server = folder.join("server.js");
        let installed = server.is_file() && folder.join("node_modules/socket.io").is_dir();
        ensure!(installed, "not measured: not installed in {}", folder.display());
        Ok(server)
    }

    /// Which versions `contender` consists of.
    pub fn version(&self, contender: &Contender) -> String {
        let own = match contender.kind {
            Kind::Roomcast { .. } => {
                said(Command::new(&self.roomcast).arg("--version"), "roomcast ")
            }
            Kind::Centrifugo => self.binary("centrifugo").ok().and_then(|path| {
                // Built by `go install`, it doesn't know its own version.
                said(Command::new("go").args(["version", "-m"]).arg(path), "centrifugo/v6\tv")
            }),
            Kind::Nats => self
                .binary("nats-server")
                .ok()
                .and_then(|path| said(Command::new(path).arg("--version"), "nats-server: v")),
            Kind::SocketIo => {
                let package = self.installed.join("socketio/node_modules/socket.io/package.json");
                let text = fs::read_to_string(package).unwrap_or_default();
                let node = said(Command::new("node").arg("--version"), "v").unwrap_or_default();
                word_after(&text, "\"version\": \"")
                    .map(|own| format!("{}, Node.js {node}", own.trim_end_matches(['"', ','])))
            }
        };
        let own = own.unwrap_or_else(|| "unknown".to_owned());
        if contender.nodes == 1 || !contender.kind.needs_redis() {
            return own;
        }
        let redis = said(Command::new("redis-server").arg("--version"), "v=");
        format!("{own}, Redis {}", redis.unwrap_or_else(|| "unknown".to_owned()))
    }
}

/// What `command` prints behind `mark`, up to the next space.
fn said(command: &mut Command, mark: &str) -> Option<String> {
    let output = command.output().ok()?;
    word_after(&String::from_utf8_lossy(&output.stdout), mark)
}

fn word_after(text: &str, mark: &str) -> Option<String> {
    let (_, rest) = text.split_once(mark)?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn on_path(name: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|p| p.is_file());
    found.with_context(|| format!("not measured: there is no {name} on this machine"))
}

/// A process of someone else's, killed on drop.
struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Drop for Process {
    fn drop(&mut self) {
        server::kill(&mut self.child);
    }
}

impl Process {
    /// Starts `program` and waits until it accepts connections on `port`.
    fn start(
        name: &str,
        program: &Path,
        args: &[OsString],
        env: &[(&str, String)],
        port: u16,
        places: &Places,
    ) -> Result<Self> {
        let logs = places.installed.join("logs");
        fs::create_dir_all(&logs).with_context(|| format!("creating {}", logs.display()))?;
        let log = logs.join(format!("{name}-{port}.log"));
        let file = File::create(&log).with_context(|| format!("writing {}", log.display()))?;
        let mut command = server::guarded(program, args)?;
        command.envs(env.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        command.stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let mut process = Self { child, name: name.to_owned(), log };
        process.wait_for(port)?;
        Ok(process)
    }

    fn wait_for(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("{} ended ({status}); its log ends:\n{}", self.name, self.tail());
            }
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(());
            }
            if time_left(deadline).is_none() {
                bail!("{} does not accept connections; its log ends:\n{}", self.name, self.tail());
            }
            thread::sleep(BETWEEN_ASKING);
        }
    }

    fn tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }
}

/// The nodes of one contender, up and joined.
pub struct Running {
    /// The nodes; the first one counts the processes between them as its own.
    pub nodes: Vec<Node>,
    _servers: Vec<Server>,
    _processes: Vec<Process>,
    _data: Option<DataDir>,
}

/// Starts `contender` and waits until each of its nodes delivers what the first one is given.
pub fn start(contender: &Contender, places: &Places) -> Result<Running> {
    let running = match contender.kind {
        Kind::Roomcast { workers } => start_roomcast(workers, contender.nodes, places)?,
        _ => start_peer(contender, places)?,
    };
    wait_until_joined(&running.nodes)?;
    Ok(running)
}

fn start_roomcast(workers: usize, count: usize, places: &Places) -> Result<Running> {
    let config = server::default_config(workers, API_KEY);
    let path = places.roomcast.clone();
    let servers =
        server::start(&Settings { path, config, api_key: API_KEY.to_owned(), data: None }, count)?;
    let node =
        |server: &Server| Node::at(server.http, WEBSOCKET_PATH, Protocol::Json, vec![server.pid()]);
    let nodes = servers.iter().map(node).collect();
    Ok(Running { nodes, _servers: servers, _processes: Vec::new(), _data: None })
}

fn start_peer(contender: &Contender, places: &Places) -> Result<Running> {
    let (kind, mut processes) = (contender.kind, Vec::new());
    let program = places.program(kind)?;
    let redis = match contender.nodes > 1 && kind.needs_redis() {
        true => Some(start_redis(places, &mut processes)?),
        false => None,
    };
    let routes = (0..contender.nodes).map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
    let mut nodes = Vec::new();
    for index in 0..contender.nodes {
        let port = free_port()?;
        let process = match kind {
            Kind::Centrifugo => start_centrifugo(&program, port, redis, places)?,
            Kind::Nats => start_nats(&program, port, index, &routes, places)?,
            Kind::SocketIo => start_socket_io(&program, port, redis, places)?,
            Kind::Roomcast { .. } => bail!("Roomcast is no peer of its own"),
        };
        let mut pids = vec![process.child.id()];
        // Redis, which has been the only process until now.
        pids.extend(
            processes.iter().filter(|_| index == 0).map(|redis: &Process| redis.child.id()),
        );
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        nodes.push(Node::at(address, kind.path(), kind.protocol(), pids));
        processes.push(process);
    }
    Ok(Running { nodes, _servers: Vec::new(), _processes: processes, _data: None })
}

fn start_redis(places: &Places, processes: &mut Vec<Process>) -> Result<u16> {
    let (port, program) = (free_port()?, on_path("redis-server")?);
    let config = places.configs.join("redis.conf").into_os_string();
    let args = [config, "--port".into(), port.to_string().into()];
    processes.push(Process::start("redis", &program, &args, &[], port, places)?);
    Ok(port)
}

fn start_centrifugo(
    program: &Path,
    port: u16,
    redis: Option<u16>,
    places: &Places,
) -> Result<Process> {
    let config = places.configs.join("centrifugo.json").into_os_string();
    let mut env = vec![("CENTRIFUGO_HTTP_SERVER_PORT", port.to_string())];
    if let Some(redis) = redis {
        env.push(("CENTRIFUGO_ENGINE_TYPE", "redis".to_owned()));
        env.push(("CENTRIFUGO_ENGINE_REDIS_ADDRESS", format!("127.0.0.1:{redis}")));
    }
    let args = ["--config".into(), config];
    Process::start("centrifugo", program, &args, &env, port, places)
}

/// Node number `index` of a cluster whose nodes listen for each other on `routes`, if there are several.
fn start_nats(
    program: &Path,
    port: u16,
    index: usize,
    routes: &[u16],
    places: &Places,
) -> Result<Process> {
    let config = places.configs.join("nats.conf").into_os_string();
    let mut args = vec!["-c".into(), config, "-p".into(), free_port()?.to_string().into()];
    if routes.len() > 1 {
        let url = |route: &u16| format!("nats://127.0.0.1:{route}");
        let others: Vec<String> = routes.iter().map(url).collect();
        args.extend(["--cluster_name", "bench", "--cluster"].map(OsString::from));
        args.extend([others[index].clone().into(), "--routes".into(), others.join(",").into()]);
    }
    let env = [("WS_PORT", port.to_string())];
    Process::start("nats", program, &args, &env, port, places)
}

/// A NATS server with JetStream, whose folder is removed when it is gone.
pub fn start_jetstream(places: &Places) -> Result<Running> {
    let (port, program) = (free_port()?, places.program(Kind::Nats)?);
    let store = std::env::temp_dir().join(format!("jetstream-bench-{port}"));
    let config = places.configs.join("jetstream.conf").into_os_string();
    let args = ["-c".into(), config, "-p".into(), free_port()?.to_string().into()];
    let env = [("WS_PORT", port.to_string()), ("STORE_DIR", store.display().to_string())];
    let process = Process::start("jetstream", &program, &args, &env, port, places)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let nodes = vec![Node::at(address, "/", Protocol::JetStream, vec![process.child.id()])];
    let (_servers, _processes) = (Vec::new(), vec![process]);
    Ok(Running { nodes, _servers, _processes, _data: Some(DataDir::new(store)) })
}

/// A Redis whose every write is synced to disk before it is answered.
pub fn start_durable_redis(places: &Places) -> Result<Running> {
    let (port, program) = (free_port()?, on_path("redis-server")?);
    let folder = std::env::temp_dir().join(format!("redis-bench-{port}"));
    fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    let mut args = vec![places.configs.join("redis.conf").into_os_string()];
    args.extend(["--port".into(), port.to_string().into(), "--dir".into(), folder.clone().into()]);
    args.extend(["--appendonly", "yes", "--appendfsync", "always"].map(OsString::from));
    let process = Process::start("redis-durable", &program, &args, &[], port, places)?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let nodes = vec![Node::at(address, "/", Protocol::Json, vec![process.child.id()])];
    let (_servers, _processes) = (Vec::new(), vec![process]);
    Ok(Running { nodes, _servers, _processes, _data: Some(DataDir::new(folder)) })
}

fn start_socket_io(
    program: &Path,
    port: u16,
    redis: Option<u16>,
    places: &Places,
) -> Result<Process> {
    let mut env = vec![("PORT", port.to_string()), ("NODE_ENV", "production".to_owned())];
    env.extend(redis.map(|redis| ("REDIS_PORT", redis.to_string())));
    let args = [places.socket_io()?.into_os_string()];
    Process::start("socketio", program, &args, &env, port, places)
}

/// A port that nothing listens on. Another process could take it before the server does; then the server
/// says so and the row is not measured.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("looking for a port")?;
    Ok(listener.local_addr()?.port())
}

/// Publishes on the first node until a subscriber of each node has heard of it.
fn wait_until_joined(nodes: &[Node]) -> Result<()> {
    let (mut fleet, room) = (Fleet::new()?, [PROBE_ROOM.to_owned()]);
    for node in nodes {
        fleet.open(node.client_plan(&room, true), 1)?;
    }
    let mut publisher = Publisher::open(&mut fleet, &nodes[0], Via::Ws, API_KEY)?;
    let mut heard = vec![false; nodes.len()];
    let deadline = Instant::now() + JOIN_DEADLINE;
    while heard.contains(&false) {
        ensure!(
            time_left(deadline).is_some(),
            "what the first node is given does not come from each of them: {heard:?}"
        );
        publisher.publish(&mut fleet, PROBE_ROOM, &payload(SMALLEST_PAYLOAD, 0))?;
        let next = Instant::now() + BETWEEN_PROBES;
        while let Some(left) = time_left(next) {
            fleet.pump(left, |id, message| {
                if !publisher.take(id, message)
                    && stamp(message).is_some()
                    && let Some(heard) = heard.get_mut(id)
                {
                    *heard = true;
                }
            })?;
        }
        publisher.check()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        let go =
            "bin/centrifugo: go1.26\n\tmod\tgithub.com/centrifugal/centrifugo/v6\tv6.9.1\th1:x=\n";
        assert_eq!(word_after(go, "centrifugo/v6\tv").as_deref(), Some("6.9.1"));
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc";
        assert_eq!(word_after(redis, "v=").as_deref(), Some("7.0.15"));
        assert_eq!(word_after("nothing", "v="), None);
    }

    #[test]
    fn what_is_not_installed_is_said() {
        let nowhere = PathBuf::from("/nonexistent");
        let places = Places {
            roomcast: nowhere.clone(),
            installed: nowhere.clone(),
            configs: nowhere.clone(),
        };
        for contender in CONTENDERS {
            assert!(start(&contender, &places).is_err(), "{}", contender.name);
        }
        assert_eq!(places.version(&CONTENDERS[2]), "unknown");
    }
}
