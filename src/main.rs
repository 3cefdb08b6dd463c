//! The `roomcast` program: arguments → [`Config`] → [`roomcast::node::run`] → exit code.

mod tokens;

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use roomcast::{
    config::{Config, Invalid, load},
    runtime::memory,
};
use serde_json::Value;
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a load that lost messages.
const LOST: u8 = 3;

/// Real-time messages to WebSocket clients, from a cluster that needs nothing else.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Serve(Serve),
    /// Run three nodes on loopback with a chat page on each.
    Demo {
        /// Port of the first node, the others follow; 0: any free ports.
        #[arg(long, default_value_t = 8000)]
        port: u16,
    },
    /// Put load on a server that runs: clients, rooms, rates, storms. Exits with 3 if a message was lost.
    Bench(roomcast_bench::load::LoadArgs),
    /// Check a configuration and say what is wrong with it.
    Checkconfig(Serve),
    /// Print a configuration file with every option, its default and what it means.
    Defaultconfig,
    /// Sign a connection token with client.token.hmac_secret_key, to try things with.
    Gentoken(tokens::Connection),
    /// Sign a subscription token.
    Gensubtoken(tokens::Subscription),
    /// Check a connection token as a node would, and print what it says.
    Checktoken(tokens::Check),
    /// Check a subscription token as a node would, and print what it says.
    Checksubtoken(tokens::Check),
}

#[derive(Args)]
struct Serve {
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
    fn with(&self, action: impl FnOnce(Config) -> anyhow::Result<()>) -> anyhow::Result<()> {
        action(self.load()?)
    }

    fn load(&self) -> anyhow::Result<Config> {
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
        Ok(load::load(self.config.as_deref(), std::env::vars(), flags)?)
    }
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(serve) => serve.with(run),
        Command::Bench(load) => match roomcast_bench::load::run(&load) {
            Ok(false) => return ExitCode::from(LOST),
            other => other.map(|_| ()),
        },
        Command::Checkconfig(serve) => serve.with(|_| {
            println!("The configuration is valid.");
            Ok(())
        }),
        Command::Defaultconfig => {
            print!("{}", roomcast::config::reference::reference());
            Ok(())
        }
        Command::Demo { port } => roomcast::demo::run(port),
        Command::Gentoken(it) => it.serve.load().and_then(|config| it.make(&config)),
        Command::Gensubtoken(it) => it.connection.serve.load().and_then(|config| it.make(&config)),
        Command::Checktoken(it) => it.serve.load().and_then(|config| it.connection(&config)),
        Command::Checksubtoken(it) => it.serve.load().and_then(|config| it.subscription(&config)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Invalid>() {
            Some(invalid) => {
                eprintln!("roomcast: the configuration is not valid: {invalid}");
                ExitCode::from(2)
            }
            None => {
                eprintln!("roomcast: {error:#}");
                ExitCode::FAILURE
            }
        },
    }
}

/// A node whose registry or hub is gone would look well and answer nothing; its clients are better off on
/// another node. Without this the runtime would catch the panic and go on.
fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!(%panic, %trace, "a bug: the node ends itself");
        std::process::abort();
    }));
}

fn run(config: Config) -> anyhow::Result<()> {
    memory::use_small_pages();
    let filter = EnvFilter::try_new(&config.log.level)?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.log.format.eq_ignore_ascii_case("json") {
        logs.json().flatten_event(true).init();
    } else {
        logs.init();
    }
    abort_on_panic();
    for name in &config.ignored {
        tracing::warn!(
            name,
            "this variable is taken for one of Kubernetes and ignored; a service called `roomcast` makes it"
        );
    }
    actix_rt::System::new().block_on(roomcast::node::run(config))
}
