//! SHELL. How many files the process may have open: each client is one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit as far as the process may by itself: the one that most systems begin with is for programs that
/// can't have many. Returns what it is then.
///
/// # Errors
/// If the system refuses.
pub fn raise_limit() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}
