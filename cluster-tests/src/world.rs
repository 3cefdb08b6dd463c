//! A scenario as it happens: a cluster, its clients, and the story.
//!
//! Each step and check is remembered with its time; when one fails, the panic
//! tells the story so far and what the nodes logged.

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::check::Log;
use crate::cluster::{Cluster, sealed_config};
use crate::control::Control;
use crate::hosts::{self, Hosts};
use crate::node::node_name;
use crate::sdk::Clients;
use crate::step::Step;
use crate::wait::{ensure, hold, until};

/// How long a client may take to notice and get over what happened to it.
pub const REACTION: Duration = Duration::from_secs(15);

/// Says that a test is skipped, since the machine lacks what it takes.
///
/// # Panics
/// Where the machine has to have it: for root in a run with `CI` set, everything is installed.
pub fn skip(why: &str) {
    say_skipped(why);
    let root = fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0);
    assert!(!root || env::var_os("CI").is_none(), "skipped in CI, as root: {why}");
}

/// Says that a test is skipped, for a reason that is no lack of the machine.
pub fn say_skipped(why: &str) {
    // Not by a macro: what those print of a test that passes is not shown.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A cluster, its clients, and the story of what happened.
pub struct World {
    // Clients first: fields drop in order, and a client that closes while its
    // server lives makes no noise in the log.
    /// The SDK clients.
    pub clients: Clients,
    /// The nodes.
    pub cluster: Cluster,
    story: Vec<String>,
    began: Instant,
}

impl World {
    /// A cluster of `nodes` with the usual configuration.
    pub fn new(nodes: usize) -> Self {
        Self::with(nodes, crate::cluster::CONFIG)
    }

    /// A cluster of `nodes` with another configuration.
    pub fn with(nodes: usize, config: &str) -> Self {
        Self::of(nodes, Cluster::start_with(nodes, config))
    }

    /// A cluster of `nodes`, each on a host of its own, so that the network between
    /// them can be cut; none where that can't be done, see [`skip`].
    pub fn on_hosts(nodes: usize) -> Option<Self> {
        Self::on_hosts_with(nodes, &sealed_config())
    }

    /// The same with another configuration, one with a secret.
    pub fn on_hosts_with(nodes: usize, config: &str) -> Option<Self> {
        if let Err(why) = hosts::available() {
            skip(&format!("no hosts can be made here: {why}"));
            return None;
        }
        Some(Self::of(nodes, Cluster::start_on_hosts(nodes, config)))
    }

    fn of(nodes: usize, cluster: Result<Cluster, String>) -> Self {
        let cluster =
            cluster.unwrap_or_else(|why| panic!("a cluster of {nodes} does not start: {why}"));
        Self {
            clients: Clients::default(),
            cluster,
            story: vec![format!("   0.000  a cluster of {nodes} nodes runs")],
            began: Instant::now(),
        }
    }

    /// Plays the steps in order; panics with the story at the first that fails.
    pub fn play(&mut self, steps: impl IntoIterator<Item = Step>) {
        for step in steps {
            let result = self.run(&step);
            self.tell(&step.to_string(), result);
        }
    }

    /// One check as part of the story.
    pub fn check(&mut self, what: &str, look: impl FnOnce(&mut Self) -> Result<(), String>) {
        let result = look(self);
        self.tell(what, result);
    }

    /// A check that may take until `limit` to come true.
    pub fn eventually(
        &mut self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> Result<(), String>,
    ) {
        let result = until(limit, || look(self));
        self.tell(what, result);
    }

    /// Ends the control client, which must have noticed nothing of the fault.
    pub fn undisturbed(&mut self, control: Control) {
        let report = control.finish();
        let what = report.as_ref().map_or_else(Clone::clone, ToString::to_string);
        println!("{what}");
        self.check(&format!("the control client has noticed nothing: {what}"), |_| report?.judge());
    }

    /// Calls the API of a node; an error ends the scenario.
    pub fn api(&mut self, node: usize, method: &str, body: Value) -> Value {
        let result = self.cluster.api(node, method, &body);
        let what = format!("{method} {body} through the API of node {}", node_name(node));
        self.tell(&what, result.as_ref().map(drop).map_err(Clone::clone));
        result.unwrap_or_default()
    }

    /// What several clients saw of a room.
    pub fn logs(&self, clients: &[&str], room: &str) -> Vec<Log> {
        clients.iter().map(|c| self.clients.log(c, room)).collect()
    }

    fn tell(&mut self, what: &str, result: Result<(), String>) {
        let at = self.began.elapsed().as_secs_f64();
        match result {
            Ok(()) => self.story.push(format!("{at:8.3}  {what}")),
            Err(why) => {
                self.story.push(format!("{at:8.3}  FAILED: {what}\n          {why}"));
                panic!("\n{}\n{}", self.story.join("\n"), self.cluster.logs());
            }
        }
    }

    fn run(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Connect { client, sdk, format, node } => {
                let url = self.cluster.node(*node).ws_url();
                let connected = self.clients.connect(client, (*sdk, *format), &url);
                connected.map(drop).map_err(|e| e.to_string())
            }
            Step::Subscribe { client, room } => {
                let confirmed = self.clients.subscribe(client, room);
                confirmed.map(drop).map_err(|e| e.to_string())
            }
            Step::Unsubscribe { client, room } => {
                self.call(client, "unsubscribe", json!({"room": room}))
            }
            Step::Publish { clients, room, count, pipelined } => {
                self.publish(clients, room, *count, *pipelined)
            }
            Step::Receive { clients, room, count } => self.receive(clients, room, *count),
            Step::Unplug { client } => self.call(client, "drop", json!({"offline": true})),
            Step::MoveTo { client, node, room } => self.move_to(client, *node, room),
            Step::TurnTo { client, node } => {
                let url = self.cluster.node(*node).ws_url();
                self.call(client, "move", json!({"url": url, "cut": false}))
            }
            Step::Kill { node } => {
                self.cluster.node_mut(*node).kill();
                Ok(())
            }
            Step::Terminate { node } => self.terminate(*node),
            Step::Pause { node } => {
                self.cluster.node(*node).pause();
                Ok(())
            }
            Step::Resume { node } => {
                self.cluster.node(*node).resume();
                Ok(())
            }
            Step::Add => self.cluster.add().map(drop),
            Step::Restart { node } => self.cluster.restart(*node),
            Step::Cut(cut) => self.hosts()?.cut(*cut),
            Step::Heal => self.hosts()?.heal(),
            Step::ResetLinks { node } => self.hosts()?.reset_links(*node),
            Step::Hold(time) => {
                hold(*time);
                Ok(())
            }
            Step::Converge => self.cluster.converged(),
        }
    }

    fn hosts(&mut self) -> Result<&mut Hosts, String> {
        self.cluster.hosts.as_mut().ok_or_else(|| "the nodes have no hosts".to_owned())
    }

    fn call(&mut self, client: &str, cmd: &str, fields: Value) -> Result<(), String> {
        let done = self.clients.call(client, cmd, fields);
        done.map(drop).map_err(|e| e.to_string())
    }

    fn publish(
        &mut self,
        clients: &[&str],
        room: &str,
        count: u64,
        pipelined: bool,
    ) -> Result<(), String> {
        let start = |c: &&str| self.clients.start_publishing(c, room, count, pipelined);
        let pending: Vec<_> = clients.iter().map(start).collect();
        for (client, pending) in clients.iter().zip(pending) {
            let outcome = self.clients.finish_publishing(client, pending);
            let outcome = outcome.map_err(|e| format!("{client}: {e}"))?;
            ensure(outcome.acked == count, || format!("{client}: {outcome:?}"))?;
        }
        Ok(())
    }

    fn receive(&mut self, clients: &[&str], room: &str, count: usize) -> Result<(), String> {
        for client in clients {
            self.clients.until(client, Duration::from_secs(60), |events| {
                let own = events.iter().filter(|e| e["ev"] == "pub" && e["room"] == room);
                let got = own.count();
                ensure(got >= count, || format!("has {got} messages of {room}"))
            })?;
        }
        Ok(())
    }

    fn move_to(&mut self, client: &str, node: usize, room: &str) -> Result<(), String> {
        let before = self.confirmations(client, room);
        let url = self.cluster.node(node).ws_url();
        self.call(client, "move", json!({"url": url}))?;
        self.clients.until(client, REACTION, |events| {
            let now = events.iter().filter(|e| e["ev"] == "subscribed" && e["room"] == room);
            ensure(now.count() > before, || format!("is not back in {room}"))
        })
    }

    fn confirmations(&self, client: &str, room: &str) -> usize {
        let events = self.clients.events(client);
        let own = events.iter().filter(|e| e["ev"] == "subscribed" && e["room"] == room);
        own.count()
    }

    fn terminate(&mut self, node: usize) -> Result<(), String> {
        let node = self.cluster.node_mut(node);
        node.terminate();
        let status = node.exit_status(Duration::from_secs(40))?;
        ensure(status.success(), || format!("it ended with {status}"))
    }
}
