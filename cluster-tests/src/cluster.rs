//! Several nodes that found each other.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::hosts::Hosts;
use crate::http;
use crate::node::{self, Node, NodeArgs, node_name};
use crate::paths;
use crate::wait::{ensure, until};

/// The API key of every test cluster.
pub const API_KEY: &str = "test";
/// What the nodes of a cluster with [`sealed_config`] know.
pub const SECRET: &str = "known to the test and its nodes";
/// How long nodes may take to find and link each other.
const CONVERGE_LIMIT: Duration = Duration::from_secs(15);

/// Rooms keep everything by default, so that scenarios can ask for everything;
/// `plain:` rooms keep nothing.
pub const CONFIG: &str = r#"
[client]
insecure = true
[channel.without_namespace]
presence = true
join_leave = true
force_push_join_leave = true
history_size = 10000
history_ttl = "300s"
force_recovery = true
force_positioning = true
[[channel.namespaces]]
name = "plain"
[http_api]
key = "test"
"#;

/// [`CONFIG`] of nodes that seal what they say to each other.
pub fn sealed_config() -> String {
    format!("{CONFIG}[cluster]\nsecret = \"{SECRET}\"\n")
}

/// One cluster runs at a time in a test process: scenarios measure reactions,
/// and two clusters on a small machine would disturb each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Running nodes named a, b, c, … by index.
pub struct Cluster {
    // Nodes before the hosts that they run on: fields drop in order.
    nodes: Vec<Node>,
    /// Where the nodes run, if not on this host.
    pub hosts: Option<Hosts>,
    config: PathBuf,
    /// What nodes that start are, if not the server under test.
    server: Option<PathBuf>,
    under: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Starts `size` nodes with [`CONFIG`] and waits until they are one cluster.
    pub fn start(size: usize) -> Result<Self, String> {
        Self::start_with(size, CONFIG)
    }

    /// The same with another configuration.
    pub fn start_with(size: usize, config: &str) -> Result<Self, String> {
        Self::begin(size, config, || Ok(None))
    }

    /// The same with each node on a host of its own. The nodes have to know a secret: see [`sealed_config`].
    pub fn start_on_hosts(size: usize, config: &str) -> Result<Self, String> {
        Self::begin(size, config, || Hosts::new().map(Some))
    }

    fn begin(
        size: usize,
        config: &str,
        hosts: impl FnOnce() -> Result<Option<Hosts>, String>,
    ) -> Result<Self, String> {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (nodes, hosts, file) = (Vec::new(), hosts()?, paths::scratch(".toml"));
        let (server, under) = (None, Vec::new());
        let mut cluster = Self { nodes, hosts, config: file, server, under, _turn: turn };
        fs::write(&cluster.config, config).map_err(|e| e.to_string())?;
        for _ in 0..size {
            cluster.add()?;
        }
        cluster.converged()?;
        Ok(cluster)
    }

    /// Nodes that start from now on have this configuration.
    pub fn configure(&self, config: &str) -> Result<(), String> {
        fs::write(&self.config, config).map_err(|e| e.to_string())
    }

    /// Nodes that start from now on are this server; none: the one under test.
    pub fn serve_with(&mut self, server: Option<PathBuf>) {
        self.server = server;
    }

    /// Nodes that start from now on are started by this program, such as `prlimit --nofile=99`.
    pub fn start_under(&mut self, words: &[&str]) {
        self.under = words.iter().map(|it| (*it).to_owned()).collect();
    }

    /// Starts one node more, which joins all that run; does not wait for the view.
    pub fn add(&mut self) -> Result<usize, String> {
        let index = self.nodes.len();
        let node = self.start_node(index, None)?;
        self.nodes.push(node);
        Ok(index)
    }

    /// The same, told to join `seed` as well: the node gossips to whoever that is.
    pub fn add_with_seed(&mut self, seed: &str) -> Result<usize, String> {
        let index = self.nodes.len();
        let node = self.start_node(index, Some(seed))?;
        self.nodes.push(node);
        Ok(index)
    }

    /// Starts so many nodes more at the same moment: each joins all that run, and the others. `ready` is called
    /// with a node's index as soon as it is ready, whether or not the others are.
    pub fn add_at_once(
        &mut self,
        count: usize,
        ready: impl Fn(usize, &Node) + Sync,
    ) -> Result<(), String> {
        let first = self.nodes.len();
        for node in self.start_at_once(first..first + count, ready)? {
            self.nodes.push(node);
        }
        Ok(())
    }

    /// Starts all nodes again at the same moment, with their old names and new ports: each joins the others.
    pub fn restart_all(&mut self) -> Result<(), String> {
        self.nodes = self.start_at_once(0..self.nodes.len(), |_, _| {})?;
        Ok(())
    }

    fn start_at_once(
        &mut self,
        indexes: Range<usize>,
        ready: impl Fn(usize, &Node) + Sync,
    ) -> Result<Vec<Node>, String> {
        let first = indexes.start;
        let mut all = Vec::new();
        for (index, port) in indexes.clone().zip(free_ports(indexes.len())?) {
            all.push(NodeArgs { gossip_port: port, ..self.args(index, None)? });
        }
        let gossip = |args: &NodeArgs| {
            let address = args.host.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |it| it.address);
            SocketAddr::new(address, args.gossip_port).to_string()
        };
        let addresses: Vec<String> = all.iter().map(gossip).collect();
        for (args, own) in all.iter_mut().zip(&addresses) {
            args.join.extend(addresses.iter().filter(|it| *it != own).cloned());
        }
        let (server, ready) = (server()?, &ready);
        let started: Vec<Result<Node, String>> = thread::scope(|scope| {
            let start = |(index, args)| {
                scope.spawn(move || Node::start(server, args).inspect(|node| ready(index, node)))
            };
            let starting: Vec<_> = (first..).zip(&all).map(start).collect();
            starting.into_iter().map(|it| it.join().expect("starting does not panic")).collect()
        });
        started.into_iter().collect()
    }

    /// The directory of the node at `index`, if its rooms are on disk.
    pub fn data_dir(&mut self, index: usize) -> Result<PathBuf, String> {
        Ok(node::data_dir(&self.args(index, None)?))
    }

    /// Starts one node more, told to join these and no others.
    pub fn add_joining(&mut self, join: &[&str]) -> Result<usize, String> {
        let index = self.launch_joining(join)?;
        self.nodes[index].await_ready()?;
        Ok(index)
    }

    /// The same; does not wait until it is ready.
    pub fn launch_joining(&mut self, join: &[&str]) -> Result<usize, String> {
        let index = self.nodes.len();
        let mut args = self.args(index, None)?;
        args.join = join.iter().map(|it| (*it).to_owned()).collect();
        self.nodes.push(Node::launch(server()?, &args)?);
        Ok(index)
    }

    /// Starts one node more, under the name of the node at `of`. It may never be ready: does not wait for it.
    pub fn add_namesake(&mut self, of: usize) -> Result<usize, String> {
        let index = self.nodes.len();
        let args = NodeArgs { name: node_name(of), ..self.args(index, None)? };
        self.nodes.push(Node::launch(server()?, &args)?);
        Ok(index)
    }

    /// The same, told to join these and no others.
    pub fn add_namesake_joining(&mut self, of: usize, join: &[&str]) -> Result<usize, String> {
        let index = self.nodes.len();
        let join = join.iter().map(|it| (*it).to_owned()).collect();
        let args = NodeArgs { name: node_name(of), join, ..self.args(index, None)? };
        self.nodes.push(Node::launch(server()?, &args)?);
        Ok(index)
    }

    /// Starts the node at `index` again, with its old name and new ports.
    pub fn restart(&mut self, index: usize) -> Result<(), String> {
        let node = self.start_node(index, None)?;
        self.nodes[index] = node;
        Ok(())
    }

    fn start_node(&mut self, index: usize, seed: Option<&str>) -> Result<Node, String> {
        let args = self.args(index, seed)?;
        match &self.server {
            Some(server) => Node::start(server, &args),
            None => Node::start(server()?, &args),
        }
    }

    fn args(&mut self, index: usize, seed: Option<&str>) -> Result<NodeArgs, String> {
        let host = self.hosts.as_mut().map(|hosts| hosts.host(index)).transpose()?;
        let running = self.nodes.iter_mut().filter(|n| !n.gossip.is_empty());
        let running = running.filter_map(|n| n.is_running().then_some(&*n));
        Ok(NodeArgs {
            join: running.map(|n| n.gossip.clone()).chain(seed.map(str::to_owned)).collect(),
            config: self.config.clone(),
            name: node_name(index),
            host,
            gossip_port: 0,
            under: self.under.clone(),
        })
    }

    /// The node at `index`.
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// The node at `index`, to be stopped or waited for.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The nodes whose process runs.
    pub fn running(&mut self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|&i| self.nodes[i].is_running()).collect()
    }

    /// Waits until every running node lists exactly the running nodes, takes all of them
    /// for ready, and has a mesh link to each of the others.
    pub fn converged(&mut self) -> Result<(), String> {
        until(CONVERGE_LIMIT, || self.converged_now())
    }

    /// The same at this moment.
    pub fn converged_now(&mut self) -> Result<(), String> {
        let running = self.running();
        running.iter().try_for_each(|&i| self.sees(i, &running))
    }

    fn sees(&self, index: usize, expected: &[usize]) -> Result<(), String> {
        let node = &self.nodes[index];
        let info = self.api(index, "info", &json!({}))?;
        let mut seen: Vec<&str> = info["nodes"]
            .as_array()
            .map(|nodes| nodes.iter().filter_map(|n| n["name"].as_str()).collect())
            .unwrap_or_default();
        seen.sort_unstable();
        let mut names: Vec<&str> = expected.iter().map(|&i| &*self.nodes[i].name).collect();
        names.sort_unstable();
        ensure(seen == names, || format!("node {} lists {seen:?}, not {names:?}", node.name))?;
        let links = self.metric(index, "roomcast_mesh_links")?;
        // As long as it takes one for joining, rooms will move once more.
        let ready = self.metric(index, "roomcast_cluster_nodes_ready")?;
        ensure(ready == names.len() as f64, || {
            format!("node {} takes {ready} nodes for ready, not {}", node.name, names.len())
        })?;
        let wanted = expected.len() - 1;
        ensure(links == wanted as f64, || {
            format!("node {} has {links} mesh links, not {wanted}", node.name)
        })
    }

    /// Calls the server API of a node: the result, or the error as text.
    pub fn api(&self, index: usize, method: &str, body: &Value) -> Result<Value, String> {
        let answer = self.api_answer(index, method, body)?;
        match answer.get("result") {
            Some(result) => Ok(result.clone()),
            None => Err(format!("api {method} on node {index}: {answer}")),
        }
    }

    /// Calls the server API of a node: the whole answer, `result` or `error`.
    pub fn api_answer(&self, index: usize, method: &str, body: &Value) -> Result<Value, String> {
        let key = [("X-API-Key", API_KEY)];
        http::post(self.nodes[index].http, &format!("/api/{method}"), &key, body)?.json()
    }

    /// The value of a metric that has no labels (or the sum over its labels).
    pub fn metric(&self, index: usize, name: &str) -> Result<f64, String> {
        let text = http::get(self.nodes[index].http, "/metrics")?.body;
        sum_of(&text, name).ok_or_else(|| format!("no metric {name} on node {index}"))
    }

    /// Everything the nodes logged, for a failure's report.
    pub fn logs(&self) -> String {
        let log = |node: &Node| format!("  -- log of node {} --\n{}", node.name, node.log());
        self.nodes.iter().map(log).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Who runs still writes there.
        self.nodes.clear();
        let _ = fs::remove_dir_all(self.config.with_extension("data"));
        let _ = fs::remove_file(&self.config);
    }
}

/// Ports of datagrams that nobody has, each another one.
fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    // All are held until all are known.
    let sockets: Result<Vec<UdpSocket>, _> =
        (0..count).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).collect();
    let ports =
        sockets.and_then(|all| all.iter().map(|it| it.local_addr().map(|it| it.port())).collect());
    ports.map_err(|e: std::io::Error| format!("no free ports: {e}"))
}

/// The first of so many ports, one after the other, at which nothing listens.
pub fn free_ports_in_a_row(count: u16) -> Result<u16, String> {
    let are_free = |first: u16| {
        let all: Result<Vec<TcpListener>, _> = (first..first.saturating_add(count))
            .map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
            .collect();
        all.is_ok()
    };
    let found = (0..50).find_map(|_| {
        let one = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
        let first = one.local_addr().ok()?.port();
        drop(one);
        Some(first).filter(|it| are_free(*it))
    });
    found.ok_or_else(|| format!("no {count} free ports in a row"))
}

fn server() -> Result<&'static Path, String> {
    let server = paths::server();
    ensure(server.exists(), || format!("no server at {}", server.display()))?;
    Ok(server)
}

fn sum_of(text: &str, name: &str) -> Option<f64> {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with([' ', '{']))
        .filter_map(|rest| rest.rsplit(' ').next()?.parse().ok())
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels() {
        let text = "# TYPE x gauge\nx{a=\"1\"} 2\nx{a=\"2\"} 3\nx_total 9\ny 1\n";
        assert_eq!(sum_of(text, "x"), Some(5.0));
        assert_eq!(sum_of(text, "y"), Some(1.0));
        assert_eq!(sum_of(text, "z"), None);
    }
}
