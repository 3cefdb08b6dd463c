//! Measures a Roomcast server on this machine: memory per client, CPU per delivery, latency.
//!
//! In: arguments. Out: tables on standard output, servers that are gone when it ends.

use anyhow::Result;
use clap::{Parser, Subcommand};
use roomcast_bench::measure::{
    all, compare, connect, durable, fanout, grow, hot, kill, latency, memory, mesh, moves,
    presence, queue, rooms, stored, storm,
};
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
    /// Server CPU time to take a client in: connect and subscribe
    Connect(connect::ConnectArgs),
    /// CPU time per delivery on several nodes, beside that on one
    Mesh(mesh::MeshArgs),
    /// Many rooms with one subscriber each: memory per room, CPU time per delivery
    Rooms(rooms::RoomsArgs),
    /// One room with many publishers: one order, latency, nothing that piles up
    Hot(hot::HotArgs),
    /// Coming and going in a large room
    Presence(presence::PresenceArgs),
    /// All clients of a killed node come to the others and recover
    Storm(storm::StormArgs),
    /// A node joins two that have many rooms: nothing lost, how long, and what publishers notice
    Join(moves::MovesArgs),
    /// One of three nodes that have many rooms drains: the same figures
    Drain(moves::MovesArgs),
    /// One of three nodes is killed: when its rooms publish and deliver again, and nothing lost
    Kill(kill::KillArgs),
    /// Publications that are synced to disk before they are acknowledged, beside those in memory
    Durable(durable::DurableArgs),
    /// A server that starts with very many publications on its disk: how long, how much memory, how fast they are read
    Stored(stored::StoredArgs),
    /// Messages through a group of consumers: published, given, acknowledged
    Queue(queue::QueueArgs),
    /// How costs grow with clients, rooms, size and nodes: tables and plots
    Grow(grow::GrowArgs),
    /// Everything but `join`, `drain`, `durable`, `stored` and `queue`, with the README's settings
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
        Command::Connect(options) => connect::run(options)?.report(),
        Command::Mesh(options) => mesh::run(options)?.report(),
        Command::Rooms(options) => rooms::run(options)?.report(),
        Command::Join(options) => moves::join(options)?.report(),
        Command::Drain(options) => moves::drain(options)?.report(),
        Command::Kill(options) => kill::run(options)?.report(),
        Command::Durable(options) => durable::run(options)?.report(),
        Command::Stored(options) => stored::run(options)?.report(),
        Command::Queue(options) => queue::run(options)?.report(),
        Command::Grow(options) => grow::run(options)?,
        Command::Hot(options) => hot::run(options)?.report(),
        Command::Presence(options) => presence::run(options)?.report(),
        Command::Storm(options) => storm::run(options)?.report(),
        Command::All(options) => all::run(options)?,
        Command::Compare(options) => compare::run(options)?.report(),
        Command::FloorServer(options) => return floor::serve(options),
        Command::Guard { parent, command } => return server::guard(*parent, command),
    };
    report.print(args.json);
    Ok(())
}
