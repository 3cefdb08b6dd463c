//! The `roomcast` program: arguments → [`Config`] → [`roomcast::node::run`] → exit code.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use cli::{Arguments, Command, Serve, logs::Logs};
use roomcast::{
    config::{Config, Problems},
    node::Source,
    runtime::{files, memory},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit code of a load that lost messages.
const LOST: u8 = 3;

fn main() -> ExitCode {
    let result = match Arguments::parse().command() {
        Command::Serve(serve) => serve.load().and_then(|config| run(config, serve)),
        Command::Bench(load) => match load.run() {
            Ok(false) => return ExitCode::from(LOST),
            other => other.map(|_| ()),
        },
        Command::Checkconfig(serve) => serve.load().map(|config| {
            config.notes.iter().for_each(|note| cli::say(note));
            for warning in config.warnings() {
                cli::say(&format!("Warning: {warning}."));
            }
            cli::print("The configuration is valid.\n");
        }),
        Command::Defaultconfig => {
            cli::print(&roomcast::config::reference::reference());
            Ok(())
        }
        Command::Genconfig(it) => it.write(),
        Command::Migrate(it) => it.print(),
        Command::Version => {
            cli::print(concat!("roomcast ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(())
        }
        Command::Log(log) => log.run(),
        Command::Demo { port } => cli::demo::run(port),
        Command::Gentoken(it) => it.serve.load().and_then(|config| it.make(&config)),
        Command::Gensubtoken(it) => it.connection.serve.load().and_then(|config| it.make(&config)),
        Command::Checktoken(it) => it.serve.load().and_then(|config| it.connection(&config)),
        Command::Checksubtoken(it) => it.serve.load().and_then(|config| it.subscription(&config)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => match error.downcast_ref::<Problems>() {
            Some(problems) => {
                cli::say(&cli::files::say_all("the configuration is not valid", problems));
                ExitCode::from(2)
            }
            None => {
                cli::say(&format!("{error:#}"));
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

fn run(config: Config, serve: Serve) -> anyhow::Result<()> {
    memory::use_small_pages();
    let logs = Logs::start(&config.log)?;
    abort_on_panic();
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    match files::raise_limit() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files can't be raised"),
    }
    actix_rt::System::new().block_on(async {
        actix_rt::spawn(Logs::report(logs.limit()));
        let source = Source {
            read: Box::new(move || serve.load()),
            change_log_level: Box::new(move |level| logs.change_level(level)),
        };
        roomcast::node::run(config, source).await
    })
}
