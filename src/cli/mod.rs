//! SHELL. The command line: the program's commands and their flags. [`tokens`] makes and checks tokens, [`demo`]
//! runs a small cluster to try, [`files`] writes configurations, [`log`] looks into a log on disk, and [`logs`] is
//! where a node's log goes.

pub mod demo;
pub mod files;
pub mod log;
pub mod logs;
pub mod tokens;

use std::{io::Write as _, net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};
use roomcast::config::{Config, load};
use serde_json::Value;

/// Real-time messages to WebSocket clients, from a cluster that needs nothing else.
#[derive(Parser)]
#[command(version, about, arg_required_else_help = true, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    // `roomcast -c FILE` runs a node, as `roomcast serve -c FILE` does.
    #[command(flatten)]
    serve: Serve,
}

impl Arguments {
    /// What to do.
    pub fn command(self) -> Command {
        self.command.unwrap_or(Command::Serve(self.serve))
    }
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a node.
    Serve(Serve),
    /// Run three nodes on loopback with a chat page on each.
    Demo {
        /// Port of the first node, the others follow; 0: any free ports.
        #[arg(long, default_value_t = 8000)]
        port: u16,
    },
    /// Put load on a server that runs: clients, rooms, rates, storms. Exits with 3 if a message was lost.
    Bench(roomcast_bench::load::BenchArgs),
    /// Check a configuration and say what is wrong with it.
    Checkconfig(Serve),
    /// Print a configuration file with every option, its default and what it means.
    Defaultconfig,
    /// Look into a log on disk, check it, back it up, move it.
    #[command(subcommand)]
    Log(log::Log),
    /// Write a configuration file to begin with, with new secrets.
    Genconfig(files::Generate),
    /// Print what a configuration file of Centrifugo (v5 or v6) comes to here, and say what has no place here.
    Migrate(files::Migrate),
    /// Print the version.
    Version,
    /// Sign a connection token with client.token.hmac_secret_key, to try things with.
    Gentoken(tokens::Connection),
    /// Sign a subscription token.
    Gensubtoken(tokens::Subscription),
    /// Check a connection token as a node would, and print what it says.
    Checktoken(tokens::Check),
    /// Check a subscription token as a node would, and print what it says.
    Checksubtoken(tokens::Check),
}

#[derive(Args, Clone)]
pub struct Serve {
    /// Configuration file: .toml, .json, .yaml or .yml.
    #[arg(long, short)]
    config: Option<PathBuf>,
    /// Where clients connect, as IP:PORT.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Name of the node, different from all others of the cluster.
    #[arg(long)]
    node_name: Option<String>,
    /// Where gossip arrives (UDP), as IP:PORT.
    #[arg(long)]
    gossip: Option<SocketAddr>,
    /// Where links of other nodes arrive (TCP), as IP:PORT.
    #[arg(long)]
    mesh: Option<SocketAddr>,
    /// Gossip address of a node to join; may be given more than once.
    #[arg(long)]
    join: Vec<String>,
}

impl Serve {
    /// The configuration: the file, then the environment, then these flags.
    pub fn load(&self) -> anyhow::Result<Config> {
        let mut flags: Vec<(&'static str, Value)> = Vec::new();
        if let Some(listen) = self.listen {
            flags.push(("http_server.address", listen.ip().to_string().into()));
            flags.push(("http_server.port", listen.port().into()));
        }
        let addresses = [("cluster.gossip", self.gossip), ("cluster.mesh", self.mesh)];
        for (key, address) in addresses {
            flags.extend(address.map(|address| (key, address.to_string().into())));
        }
        flags.extend(self.node_name.as_ref().map(|name| ("node.name", name.as_str().into())));
        if !self.join.is_empty() {
            flags.push(("cluster.join", self.join.clone().into()));
        }
        Ok(load::load(self.config.as_deref(), std::env::vars_os(), flags)?)
    }
}

/// Prints to standard output. Whoever reads it may have enough: then there is no one to tell.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Says something to whoever runs the program, who may not listen.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "roomcast: {text}");
}
