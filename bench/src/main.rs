//! Measures a Roomcast server on this machine: memory per client, CPU per delivery, latency.
//!
//! In: arguments. Out: tables on standard output, servers that are gone when it ends.

use anyhow::Result;
use clap::{Parser, Subcommand};
use roomcast_bench::measure::{all, compare, fanout, latency, memory, storm};
use roomcast_bench::{floor, limits, server, target};
use std::ffi::OsString;
use std::process::ExitCode;

/// Measures a Roomcast server on this machine
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
    /// Print one line of JSON after the table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Server memory per idle client
    Memory(memory::MemoryArgs),
    /// Server CPU time per delivery, beside that of a plain send(2) loop
    Fanout(fanout::FanoutArgs),
    /// Publish-to-delivery latency, on one node and across the mesh
    Latency(latency::LatencyArgs),
    /// All clients of a killed node come to the others and recover
    Storm(storm::StormArgs),
    /// Everything, with the README's settings
    All(target::TargetArgs),
    /// Roomcast beside the servers that `bench/compare` has installed
    Compare(compare::CompareArgs),
    /// The send(2) loop that `fanout` compares with
    #[command(hide = true)]
    FloorServer(floor::FloorArgs),
    /// Becomes a command that ends with the process that started it
    #[command(hide = true)]
    Guard {
        parent: u32,
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            error.chain().skip(1).for_each(|cause| eprintln!("because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<()> {
    limits::raise_open_files()?;
    let report = match &args.command {
        Command::Memory(options) => memory::run(options)?.report(),
        Command::Fanout(options) => fanout::run(options)?.report(),
        Command::Latency(options) => latency::run(options)?.report(),
        Command::Storm(options) => storm::run(options)?.report(),
        Command::All(options) => all::run(options)?,
        Command::Compare(options) => compare::run(options)?.report(),
        Command::FloorServer(options) => return floor::serve(options),
        Command::Guard { parent, command } => return server::guard(*parent, command),
    };
    report.print(args.json);
    Ok(())
}
