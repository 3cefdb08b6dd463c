//! The `roomcast` program: arguments → [`Config`] → [`roomcast::node::run`] → exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Arguments, Command};
use roomcast::{
    config::{Config, Invalid},
    runtime::memory,
};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a load that lost messages.
const LOST: u8 = 3;

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Serve(serve) => serve.with(run),
        Command::Bench(load) => match roomcast_bench::load::run(&load) {
            Ok(false) => return ExitCode::from(LOST),
            other => other.map(|_| ()),
        },
        Command::Checkconfig(serve) => serve.with(|config| {
            for warning in config.warnings() {
                println!("Warning: {warning}.");
            }
            println!("The configuration is valid.");
            Ok(())
        }),
        Command::Defaultconfig => {
            print!("{}", roomcast::config::reference::reference());
            Ok(())
        }
        Command::Demo { port } => cli::demo::run(port),
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
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    actix_rt::System::new().block_on(roomcast::node::run(config))
}
