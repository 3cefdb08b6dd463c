//! What the kernel says about a server's processes: their memory and the CPU time they have used.
//!
//! In: process ids. Out: [`Memory`] and CPU time, those of all of them together.

use crate::fleet::{Fleet, time_left};
use anyhow::{Context, Result};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

/// Two readings this far apart, relative to the larger, are the same level.
const SAME_LEVEL: f64 = 0.005;
const BETWEEN_READINGS: Duration = Duration::from_secs(1);
const SETTLE_DEADLINE: Duration = Duration::from_secs(30);

/// A process's memory, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident set size: every resident page, shared ones in full.
    pub rss: u64,
    /// Proportional set size: shared pages divided among those who share them.
    pub pss: u64,
    /// Pages that only this process has.
    pub private: u64,
}

/// A level of memory, and whether it held still.
#[derive(Clone, Copy, Debug)]
pub struct Level {
    /// The last reading.
    pub memory: Memory,
    /// False if it was still moving at the deadline.
    pub settled: bool,
}

/// The processes that are measured as one.
#[derive(Clone, Debug)]
pub struct Processes(Vec<u32>);

impl Processes {
    /// Those with these ids.
    pub fn new(pids: Vec<u32>) -> Self {
        Self(pids)
    }

    /// Their memory.
    pub fn memory(&self) -> Result<Memory> {
        self.0.iter().try_fold(Memory::default(), |sum, pid| {
            let Memory { rss, pss, private } = memory(*pid)?;
            Ok(Memory { rss: sum.rss + rss, pss: sum.pss + pss, private: sum.private + private })
        })
    }

    /// The CPU time that they have used.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.0.iter().map(|pid| cpu_time(*pid)).sum()
    }

    /// Waits until their memory holds still, keeping the fleet's connections served.
    pub fn settled_memory(&self, fleet: &mut Fleet) -> Result<Level> {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        let mut last = self.memory()?;
        loop {
            fleet.idle(BETWEEN_READINGS)?;
            let now = self.memory()?;
            let settled = same_level(last.private, now.private) && same_level(last.rss, now.rss);
            if settled || time_left(deadline).is_none() {
                return Ok(Level { memory: now, settled });
            }
            last = now;
        }
    }
}

impl FromIterator<Self> for Processes {
    fn from_iter<I: IntoIterator<Item = Self>>(parts: I) -> Self {
        Self(parts.into_iter().flat_map(|part| part.0).collect())
    }
}

/// Reads the memory of process `pid`.
fn memory(pid: u32) -> Result<Memory> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("reading {path} (is the server still running, and yours?)"))?;
    parse_rollup(&text).with_context(|| format!("{path} lacks a field"))
}

fn parse_rollup(text: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let private = field("Private_Clean")? + field("Private_Dirty")?;
    Some(Memory { rss: field("Rss")?, pss: field("Pss")?, private })
}

fn same_level(a: u64, b: u64) -> bool {
    a.abs_diff(b) as f64 <= SAME_LEVEL * a.max(b) as f64
}

/// The CPU time that all threads of process `pid` have used, those that have ended included.
///
/// The process's CPU-time clock is the sum of what `/proc/PID/task/*/schedstat` shows, in ns, plus
/// the threads that are gone, and it doesn't wait for the next scheduler tick.
fn cpu_time(pid: u32) -> Result<Duration> {
    let what = || format!("reading the CPU time of process {pid} (is it still running?)");
    let raw = i32::try_from(pid).with_context(what)?;
    let clock = clock_getcpuclockid(Pid::from_raw(raw)).with_context(what)?;
    Ok(clock_gettime(clock).with_context(what)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read() {
        let text = "5581-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 5000 kB\nPss:  4100 kB\n\
                    Pss_Dirty: 900 kB\nPrivate_Clean: 1000 kB\nPrivate_Dirty: 3000 kB\n";
        let expected = Memory { rss: 5000, pss: 4100, private: 4000 };
        assert_eq!(parse_rollup(text), Some(expected));
        assert_eq!(parse_rollup("Rss: 5000 kB\n"), None);
    }

    #[test]
    fn half_a_percent_is_the_same_level() {
        assert!(same_level(1000, 1005) && same_level(1005, 1000) && same_level(0, 0));
        assert!(!same_level(1000, 1006));
    }

    #[test]
    fn this_process_has_memory_and_cpu_time() {
        let pid = std::process::id();
        assert!(memory(pid).expect("own memory").rss > 0);
        let before = cpu_time(pid).expect("own CPU time");
        while cpu_time(pid).expect("own CPU time") == before {}
    }
}
