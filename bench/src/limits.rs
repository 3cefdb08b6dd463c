//! The limit of open files, which bounds how many clients one process can be.
//!
//! In: how many connections are needed. Out: a limit that suffices, or an error that says so.

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files other than connections: epoll, pipes, the log.
const OTHER_FILES: u64 = 64;

/// Raises the limit of open files as far as it goes; servers started later inherit it.
pub fn raise_open_files() -> Result<()> {
    let (soft, hard) = open_files()?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .context("raising the limit of open files")?;
    }
    Ok(())
}

/// An error unless this process may open `connections` sockets.
pub fn require_files(connections: u64) -> Result<()> {
    let (soft, _) = open_files()?;
    ensure!(
        connections + OTHER_FILES <= soft,
        "{connections} connections at once need more open files than the {soft} that this process \
         may have: ask for fewer clients, or raise the hard limit (ulimit -Hn)"
    );
    Ok(())
}

fn open_files() -> Result<(u64, u64)> {
    getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit of open files")
}
