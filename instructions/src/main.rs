//! Sees a change that makes Roomcast slower: counts the instructions of what it does most, and compares
//! them with those that are recorded in the repository.
//!
//! What comes in: the code, built as it ships, and `recorded.json`. What goes out: a table, and a failure if
//! something needs more than before by more than its tolerance. Times would not do: on a machine that others
//! use they differ by more than the changes that one looks for. Instructions are the same to a few in a
//! thousand, on any machine with the same compiler. What they don't see is how long an instruction takes,
//! what the kernel does, and waiting; `roomcast-bench` measures those.
//!
//! ```text
//! main ── starts itself under callgrind, once for each operation ──► --play OPERATION
//!   ▲                                                                  [operations], [mesh], [fan_out]
//!   └── [callgrind]: instructions inside of `measured` ◄──────────────┘
//!   └── [record]: compares, or records
//! ```
//!
//! Each run also counts an operation that was made slower on purpose, and fails if that is not seen.
//!
//! # Why no library
//!
//! The one that is kept well is gungraun (it was iai-callgrind). It needs a runner of its own version, which
//! every machine and CI would build or fetch first. It compares with the last run's results below `target`,
//! not with numbers in the repository that a change has to change with it. And it takes Cargo's profile for
//! benchmarks, which is never `panic = "abort"`: it would count other code than what ships, and build all
//! dependencies once more. All that is needed of callgrind is a line of its output.

mod callgrind;
mod fan_out;
mod mesh;
mod operations;
mod record;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;

use operations::{OPERATIONS, SLOWER};
use record::{Counts, Verdict};

/// The server's own, since it is a part of what everything costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Counts the instructions of what Roomcast does most, and compares them with those recorded.
#[derive(Parser)]
struct Arguments {
    /// Take the counts of now for those to compare with.
    #[arg(long)]
    record: bool,
    /// Run one operation; for callgrind.
    #[arg(long, hide = true)]
    play: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.play {
        Some(name) => operations::play(name).map(|()| true),
        None => guard(arguments.record),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("instructions: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether nothing has become slower.
fn guard(record: bool) -> anyhow::Result<bool> {
    ensure!(env!("OPTIMIZED") == "3", "built without optimization: use instructions/run");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recorded.json");
    let mut now = Counts::of_this_compiler();
    for operation in &OPERATIONS {
        let count = callgrind::count(operation).with_context(|| operation.name)?;
        now.counts.insert(operation.name.to_owned(), count);
    }
    let slower = callgrind::count(&SLOWER).with_context(|| SLOWER.name)?;
    let seen = record::change(now.counts[operations::SLOWER_THAN], slower);
    ensure!(
        seen > SLOWER.tolerance,
        "an operation made slower on purpose was not seen to be: {seen:+.1} %"
    );
    if record {
        now.write(&path)?;
        println!("{}recorded in {}", record::table(&now, &now).0, path.display());
        return Ok(true);
    }
    let (table, verdict) = record::table(&Counts::read(&path)?, &now);
    print!("{table}");
    println!("{}", verdict.advice());
    Ok(verdict != Verdict::Slower)
}
