//! Hosts of their own for the nodes: network namespaces on a bridge, whose cables can be cut.
//!
//! In: which node to give a host, and which [`Cut`] to make. Out: a namespace and
//! an address to start the node with. The test and its clients stay outside, on
//! the bridge's own address, so a cut between nodes leaves them connected.
//!
//! ```text
//!            bridge rcastX 10.213.X.1 ── the test, its clients
//!          ┌──────────┼──────────┐       nft table rcastX: what is not forwarded
//!     rcastX-a     rcastX-b   rcastX-c   host ends of the cables
//!          │          │          │
//!        eth0       eth0       eth0      10.213.X.10, .11, .12
//! ```
//!
//! It takes root, `ip` and `nft` (and `tc`, `ss` and `iptables` for links that are slow or
//! reset and for gossip that is late). Where those are missing, [`available`] says so
//! and the scenarios are skipped, or fail in CI: see [`crate::world::skip`].

use std::fmt;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::node::node_name;
use crate::rough::Rough;
use crate::wait::ensure;

/// Ends everything that belongs to the network `$0` when its standard input
/// ends: when the owner is dropped, has panicked, or was killed.
const CLEAN_UP: &str = r#"
cat >/dev/null
nft delete table bridge "$0"
for link in /sys/class/net/"$0"-*; do ip link delete "${link##*/}"; done
for host in /run/netns/"$0"-*; do ip netns delete "${host##*/}"; done
ip link delete "$0"
"#;

/// What a slow link carries: a modem's worth.
const SLOW: &str = "512kbit";
/// What a narrow one carries: less than a burst, more than enough for all that follows.
const NARROW: &str = "300mbit";

/// What can be wrong with the network between the nodes. Clients still reach
/// every node, but for [`Cut::Unplugged`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// No node reaches this one, and it reaches none.
    Apart {
        /// Which node.
        node: usize,
    },
    /// These two don't reach each other; all others reach both.
    Pair {
        /// The one.
        a: usize,
        /// The other.
        b: usize,
    },
    /// Nothing goes from the one to the other; the way back is open.
    OneWay {
        /// Who is not heard.
        from: usize,
        /// By whom.
        to: usize,
    },
    /// No datagram goes between nodes, but links stay.
    Gossip,
    /// Links stand still and none opens, but gossip goes on.
    Mesh,
    /// The node's cable is pulled: its clients don't reach it either.
    Unplugged {
        /// Which node.
        node: usize,
    },
    /// Datagrams are late, out of order, lost and repeated; see [`crate::rough`].
    Rough,
    /// The links between these two carry little.
    Slow {
        /// The one.
        a: usize,
        /// The other.
        b: usize,
    },
    /// The links between these two carry much, and not as much as nodes can send at once.
    Narrow {
        /// The one.
        a: usize,
        /// The other.
        b: usize,
    },
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apart { node } => write!(f, "node {} is cut off the others", node_name(*node)),
            Self::Pair { a, b } => {
                let (a, b) = (node_name(*a), node_name(*b));
                write!(f, "nodes {a} and {b} are cut off each other")
            }
            Self::OneWay { from, to } => {
                let (from, to) = (node_name(*from), node_name(*to));
                write!(f, "nothing goes from node {from} to node {to} any more")
            }
            Self::Gossip => f.write_str("gossip stops: no UDP between nodes"),
            Self::Mesh => f.write_str("links stand still: no TCP between nodes"),
            Self::Unplugged { node } => write!(f, "node {}'s cable is pulled", node_name(*node)),
            Self::Rough => f.write_str("gossip is late, out of order, lost and repeated"),
            Self::Slow { a, b } => {
                let (a, b) = (node_name(*a), node_name(*b));
                write!(f, "links between nodes {a} and {b} carry {SLOW} each way")
            }
            Self::Narrow { a, b } => {
                let (a, b) = (node_name(*a), node_name(*b));
                write!(f, "links between nodes {a} and {b} carry {NARROW} each way")
            }
        }
    }
}

/// A node's own host.
#[derive(Clone, Debug)]
pub struct Host {
    /// The namespace to run in.
    pub namespace: String,
    /// Its address.
    pub address: IpAddr,
}

/// The bridge and the hosts on it; all of it is gone when this is dropped.
pub struct Hosts {
    /// Of the bridge and the nft table; every other name begins with it.
    name: String,
    subnet: u8,
    nodes: Vec<usize>,
    rough: Vec<Rough>,
    clean_up: Child,
}

/// Whether hosts can be made here, or what is missing.
pub fn available() -> Result<(), String> {
    // Once: tests that run side by side would get in each other's way.
    static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
    AVAILABLE.get_or_init(probe).clone()
}

fn probe() -> Result<(), String> {
    let probe = format!("rcprobe{}", std::process::id());
    run("nft", &["list", "tables"])?;
    run("ip", &["netns", "add", &probe])?;
    run("ip", &["netns", "delete", &probe])?;
    run("ip", &["link", "add", &probe, "type", "bridge"])?;
    run("ip", &["link", "delete", &probe])
}

impl Hosts {
    /// A bridge without hosts.
    pub fn new() -> Result<Self, String> {
        let (name, subnet) = claim_subnet()?;
        let clean_up = clean_up(&name).inspect_err(|_| {
            let _ = run("ip", &["link", "delete", &name]);
        })?;
        let hosts = Self { name, subnet, nodes: Vec::new(), rough: Vec::new(), clean_up };
        let address = format!("{}/24", hosts.address(1));
        run("ip", &["address", "add", &address, "dev", &hosts.name])?;
        run("ip", &["link", "set", &hosts.name, "up"])?;
        hosts.rules("add chain bridge NAME cut { type filter hook forward priority 0; }")?;
        Ok(hosts)
    }

    /// The host of the node at `index`, made when it is first asked for.
    pub fn host(&mut self, index: usize) -> Result<Host, String> {
        let namespace = self.cable(index);
        let address = self.host_address(index)?;
        if !self.nodes.contains(&index) {
            self.make(&namespace, address)?;
            self.nodes.push(index);
        }
        Ok(Host { namespace, address: address.into() })
    }

    /// A namespace, and a cable of the same name from its eth0 to the bridge.
    fn make(&self, name: &str, address: Ipv4Addr) -> Result<(), String> {
        let address = format!("{address}/24");
        run("ip", &["netns", "add", name])?;
        let cable = ["type", "veth", "peer", "name", "eth0", "netns", name];
        run("ip", &[&["link", "add", name][..], &cable].concat())?;
        run("ip", &["link", "set", name, "master", &self.name, "up"])?;
        run("ip", &["-n", name, "address", "add", &address, "dev", "eth0"])?;
        run("ip", &["-n", name, "link", "set", "lo", "up"])?;
        run("ip", &["-n", name, "link", "set", "eth0", "up"])
    }

    /// Makes a cut, beside those that there are.
    pub fn cut(&mut self, cut: Cut) -> Result<(), String> {
        let (from, to) = ("iifname", "oifname");
        let way = |a, b| format!("{from} {} {to} {}", self.cable(a), self.cable(b));
        match cut {
            Cut::Apart { node } => {
                self.drop_all(&[format!("{from} {}", self.cable(node))])?;
                self.drop_all(&[format!("{to} {}", self.cable(node))])
            }
            Cut::Pair { a, b } => self.drop_all(&[way(a, b), way(b, a)]),
            // Address resolution has to go on: it takes both ways, and would cut the other one too.
            Cut::OneWay { from, to } => {
                self.drop_all(&[format!("{} ether type ip", way(from, to))])
            }
            Cut::Gossip => self.drop_all(&[self.any_cable("udp")]),
            Cut::Mesh => self.drop_all(&[self.any_cable("tcp")]),
            Cut::Unplugged { node } => run("ip", &["link", "set", &self.cable(node), "down"]),
            Cut::Rough => self.make_rough(),
            Cut::Slow { a, b } => self.make_narrow(a, b, SLOW),
            Cut::Narrow { a, b } => self.make_narrow(a, b, NARROW),
        }
    }

    /// Ends all cuts.
    pub fn heal(&mut self) -> Result<(), String> {
        self.rough.clear();
        self.rules("flush chain bridge NAME cut")?;
        for &node in &self.nodes {
            let cable = self.cable(node);
            run("ip", &["link", "set", &cable, "up"])?;
            // Where nothing was slow there is nothing to be taken away.
            let _ = run("tc", &["qdisc", "delete", "dev", &cable, "root"]);
        }
        Ok(())
    }

    /// Resets every link that a node has to others, once. Its clients keep their connections.
    pub fn reset_links(&self, node: usize) -> Result<(), String> {
        for &other in self.nodes.iter().filter(|it| **it != node) {
            let (host, address) = (self.cable(node), self.host_address(other)?.to_string());
            run("ip", &["netns", "exec", &host, "ss", "-K", "dst", &address])?;
        }
        Ok(())
    }

    fn make_rough(&mut self) -> Result<(), String> {
        for &node in &self.nodes {
            let others = self.nodes.iter().filter(|it| **it != node);
            let others: Vec<_> =
                others.map(|it| self.host_address(*it)).collect::<Result<_, _>>()?;
            self.rough.push(Rough::new(&self.cable(node), &others)?);
        }
        Ok(())
    }

    fn make_narrow(&self, a: usize, b: usize, rate: &str) -> Result<(), String> {
        self.limit(a, b, rate).and_then(|()| self.limit(b, a, rate))
    }

    /// At the end of the cable where it goes into the host: the others' way there stays wide.
    fn limit(&self, from: usize, to: usize, rate: &str) -> Result<(), String> {
        let (cable, from) = (self.cable(to), self.host_address(from)?);
        let tc = |words: String| run("tc", &words.split(' ').collect::<Vec<_>>());
        tc(format!("qdisc add dev {cable} root handle 1: htb default 1"))?;
        tc(format!("class add dev {cable} parent 1: classid 1:1 htb rate 1gbit quantum 60000"))?;
        tc(format!("class add dev {cable} parent 1: classid 1:2 htb rate {rate}"))?;
        let tcp = "match ip protocol 6 0xff flowid 1:2";
        tc(format!("filter add dev {cable} parent 1: protocol ip u32 match ip src {from} {tcp}"))
    }

    /// The bridge forwards nothing that matches. Every table sees the traffic of all
    /// bridges, so a match has to name a cable of this one.
    fn drop_all(&self, matches: &[String]) -> Result<(), String> {
        let rule = |it: &String| format!("add rule bridge NAME cut {it} drop\n");
        self.rules(&matches.iter().map(rule).collect::<String>())
    }

    /// Runs nft commands on this network's table, which are all done or none.
    fn rules(&self, commands: &str) -> Result<(), String> {
        nft(None, &format!("add table bridge NAME\n{commands}\n").replace("NAME", &self.name))
    }

    fn any_cable(&self, protocol: &str) -> String {
        format!("iifname \"{}-*\" ether type ip ip protocol {protocol}", self.name)
    }

    fn cable(&self, index: usize) -> String {
        format!("{}-{}", self.name, node_name(index))
    }

    fn host_address(&self, index: usize) -> Result<Ipv4Addr, String> {
        let number = u8::try_from(10 + index).map_err(|_| "too many nodes".to_owned())?;
        Ok(self.address(number))
    }

    fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.subnet, host)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        drop(self.clean_up.stdin.take());
        let _ = self.clean_up.wait();
    }
}

/// Makes a bridge whose name says its subnet: whoever could make it has the
/// subnet to itself. Begins at the process id, so that runs seldom meet.
fn claim_subnet() -> Result<(String, u8), String> {
    let mut why = String::new();
    for turn in 0..250 {
        let subnet = ((std::process::id() % 250 + turn) % 250) as u8;
        let name = format!("rcast{subnet}");
        match run("ip", &["link", "add", &name, "type", "bridge"]) {
            Ok(()) => return Ok((name, subnet)),
            Err(taken) => why = taken,
        }
    }
    Err(format!("no subnet is free: {why}"))
}

/// Starts the process that outlives this one and cleans up. In a session of its
/// own, since an interrupt from the keyboard goes to all of this one's.
fn clean_up(name: &str) -> Result<Child, String> {
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", CLEAN_UP, name]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().map_err(|e| format!("setsid: {e}"))
}

/// Runs a script of nft's, in a namespace if one is named.
pub(crate) fn nft(namespace: Option<&str>, script: &str) -> Result<(), String> {
    let within = namespace.map(|it| ["ip", "netns", "exec", it]);
    let words = [within.as_ref().map_or(&[][..], |it| it), &["nft", "-f", "-"]].concat();
    let mut nft = Command::new(words[0]);
    nft.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut nft = nft.spawn().map_err(|e| format!("nft: {e}"))?;
    let mut stdin = nft.stdin.take().expect("stdin is piped");
    stdin.write_all(script.as_bytes()).map_err(|e| format!("nft: {e}"))?;
    drop(stdin);
    let output = nft.wait_with_output().map_err(|e| format!("nft: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure(output.status.success(), || format!("nft refused {script}: {said}"))
}

pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let args = args.join(" ");
    ensure(output.status.success(), || format!("{program} {args}: {}", said.trim()))
}
