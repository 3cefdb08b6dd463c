//! SHELL. The signals that a node lives by: those that end it, the one that has it read its configuration again, and
//! the many that would end a process that says nothing about them.

use std::{ffi::c_int, io};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Those that by default end a process, and mean nothing to a node. Not SIGQUIT, SIGABRT and the like, which are there
/// to end one that is stuck; nor those that say what the process itself did wrong.
const MEANINGLESS: [SignalKind; 7] = [
    SignalKind::user_defined1(),
    SignalKind::user_defined2(),
    SignalKind::alarm(),
    SignalKind::io(),
    SignalKind::from_raw(nix::libc::SIGVTALRM),
    SignalKind::from_raw(nix::libc::SIGPROF),
    // A file may not become larger: the log's, which then is not written.
    SignalKind::from_raw(nix::libc::SIGXFSZ),
];

/// What arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// To leave.
    Leave,
    /// To read the configuration again.
    Reload,
}

/// The signals of a node.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on no signal that means nothing ends the process.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn listen() -> io::Result<Self> {
        for kind in MEANINGLESS {
            // It is caught from now on, whether anyone waits for it or not.
            drop(signal(kind)?);
        }
        for number in realtime() {
            drop(signal(SignalKind::from_raw(number))?);
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next.
    pub async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Leave,
            _ = self.interrupt.recv() => Asked::Leave,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }
}

#[cfg(target_os = "linux")]
fn realtime() -> std::ops::RangeInclusive<c_int> {
    nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()
}

#[cfg(not(target_os = "linux"))]
fn realtime() -> std::ops::Range<c_int> {
    0..0
}
