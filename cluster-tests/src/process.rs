//! A server process of its own, started as a person or a supervisor would: with any arguments, environment and
//! standard streams.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::node::spawn_bound;
use crate::{http, paths, wait};

/// How long a node may take to start or to leave, on a machine that has other things to do.
pub const SECONDS: Duration = Duration::from_secs(20);

/// A process that is gone when the test is.
pub struct Process {
    /// Where it serves.
    pub http: SocketAddr,
    child: Child,
}

/// An address that nobody has.
pub fn free_address() -> Result<SocketAddr, String> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
    socket.local_addr().map_err(|e| e.to_string())
}

/// The server with these arguments, and no variables that are for it.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(paths::server());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ROOMCAST_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs the server with these arguments to its end.
pub fn run(arguments: &[&str]) -> Result<Output, String> {
    command(arguments).output().map_err(|e| e.to_string())
}

/// The server at `http`, started by a shell, which sees to its standard streams and limits: `before` are its
/// words before the server, `after` those behind it.
pub fn in_shell(before: &str, http: SocketAddr, after: &str) -> Command {
    let script = format!("{before} exec \"$0\" serve --listen {http} {after}");
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(paths::server());
    command.env_remove("ROOMCAST_BIN").stdin(Stdio::null());
    command
}

/// Sends a process a signal, by number.
pub fn send(pid: u32, number: i32) -> Result<(), String> {
    let status = Command::new("kill").args([format!("-{number}"), pid.to_string()]).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        other => Err(format!("kill -{number}: {other:?}")),
    }
}

impl Process {
    /// Starts it, and waits until it serves at `http`.
    pub fn start(command: Command, http: SocketAddr) -> Result<Self, String> {
        let mut process = Self::launch(command, http)?;
        wait::until(SECONDS, || match process.child.try_wait() {
            Ok(None) => http::get(http, "/health").map(drop),
            // Whoever asks for what has ended will see.
            _ => Ok(()),
        })?;
        Ok(process)
    }

    /// Starts it.
    pub fn launch(command: Command, http: SocketAddr) -> Result<Self, String> {
        let child = spawn_bound(command).map_err(|e| format!("the server does not start: {e}"))?;
        Ok(Self { http, child })
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by number.
    pub fn signal(&self, number: i32) -> Result<(), String> {
        send(self.pid(), number)
    }

    /// Whether it runs and answers.
    pub fn serves(&mut self) -> Result<(), String> {
        match self.child.try_wait() {
            Ok(None) => http::get(self.http, "/health").map(drop),
            other => Err(format!("it has ended: {other:?}")),
        }
    }

    /// Tells it to leave, and waits until it has.
    pub fn leave(&mut self) -> Result<ExitStatus, String> {
        self.signal(Signal::SIGTERM as i32)?;
        wait::until(SECONDS, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("it still runs: {other:?}")),
        })
    }

    /// The reader of its standard error, if that is piped.
    pub fn take_stderr(&mut self) -> Option<impl Read + use<>> {
        self.child.stderr.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid is small"));
        // It may have ended.
        let _ = kill(pid, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}
