//! Sees a change that makes Roomcast slower: counts the instructions of what it does most, and compares
//! them with those that are recorded in the repository.
//!
//! What comes in: the code, built much as it ships, and `recorded.json`. What goes out: a table, and a failure
//! if something needs more than before by more than its tolerance. Times would not do: on a machine that
//! others use they differ by more than the changes that one looks for. Instructions are the same to a few in
//! a thousand, on any machine with the same compiler, valgrind and C library. What they don't show is how
//! long each takes, what the kernel does, and waiting; `roomcast-bench` measures those.
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
//! every machine and CI would have to build first. It compares with callgrind's files of an earlier run, which
//! it keeps below `target`, where here a change brings its new numbers with it. And it builds as `cargo bench`
//! does, never with `panic = "abort"` as the server is built. All that is needed of callgrind is one line of
//! its output.

mod callgrind;
mod fan_out;
mod mesh;
mod operations;
mod record;

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use anyhow::{Context as _, ensure};
use clap::Parser;

use operations::{OPERATIONS, SLOWER};
use record::{Counts, Verdict, change, table};

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
    let mut now = Counts { with: callgrind::tools()?, counts: BTreeMap::new() };
    for operation in &OPERATIONS {
        let count = callgrind::count(operation).with_context(|| operation.name)?;
        now.counts.insert(operation.name.to_owned(), count);
    }
    let slower = callgrind::count(&SLOWER).with_context(|| SLOWER.name)?;
    let seen = change(now.counts[operations::SLOWER_THAN], slower);
    ensure!(
        seen > SLOWER.tolerance,
        "an operation made slower on purpose was not seen to be: {seen:+.1} %"
    );
    if record {
        now.write(&path)?;
        println!("{}recorded in {}", table(&now, &now).0, path.display());
        return Ok(true);
    }
    let (lines, verdict) = table(&Counts::read(&path)?, &now);
    print!("{lines}");
    println!("{}", verdict.advice());
    Ok(verdict != Verdict::Slower)
}
