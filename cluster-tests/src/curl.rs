//! curl: the client of HTTP that also speaks HTTP/2 and TLS, as anyone's does.
//!
//! Comes in: a request. Goes out: the answer, or its lines as they come.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::Response;
use crate::node::spawn_bound;

/// How long a request may take, in seconds.
const LIMIT: &str = "20";

/// How requests are made.
pub struct Curl {
    server: String,
    authority: PathBuf,
    version: &'static str,
    from: Option<String>,
}

impl Curl {
    /// To this server (`https://127.0.0.1:443`), whose certificate this authority has issued.
    pub fn to(server: &str, authority: &Path) -> Self {
        let (server, authority) = (server.to_owned(), authority.to_owned());
        Self { server, authority, version: "--http1.1", from: None }
    }

    /// By this version of HTTP: `--http1.1`, `--http2`.
    pub fn version(mut self, version: &'static str) -> Self {
        self.version = version;
        self
    }

    /// From this address of the machine.
    pub fn from(mut self, address: &str) -> Self {
        self.from = Some(address.to_owned());
        self
    }

    fn command(&self, path: &str, headers: &[(&str, &str)]) -> Command {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--no-buffer", "--noproxy", "*", self.version]);
        command.arg("--cacert").arg(&self.authority);
        if let Some(address) = &self.from {
            command.args(["--interface", address]);
        }
        for (name, value) in headers {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        command.arg(format!("{}{path}", self.server));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// GETs `path`.
    pub fn get(&self, path: &str) -> Result<Response, String> {
        self.exchange(self.command(path, &[]), "")
    }

    /// POSTs `body` to `path`.
    pub fn post(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Response, String> {
        let mut command = self.command(path, headers);
        // Without `Expect: 100-continue`: many clients don't wait, either.
        command.args(["--header", "Expect:", "--header", "Content-Type: application/json"]);
        command.args(["--data-binary", "@-"]);
        self.exchange(command, body)
    }

    fn exchange(&self, mut command: Command, body: &str) -> Result<Response, String> {
        command.args(["--max-time", LIMIT, "--write-out", "\n%{http_code}"]);
        let mut child = spawn_bound(command).map_err(|e| format!("curl does not start: {e}"))?;
        let mut stdin = child.stdin.take().ok_or("curl takes nothing")?;
        let body = body.to_owned();
        // It may have ended before it has read all.
        let writing = thread::spawn(move || drop(stdin.write_all(body.as_bytes())));
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        let _ = writing.join();
        let told = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(format!("curl {}: {why}{told}", self.version));
        }
        let (body, status) = told.rsplit_once('\n').ok_or("no status")?;
        let status = status.trim().parse().map_err(|e| format!("{status:?}: {e}"))?;
        Ok(Response { status, headers: String::new(), body: body.to_owned() })
    }

    /// POSTs `body` to `path`, whose response goes on.
    pub fn stream(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Streaming, String> {
        let mut command = self.command(path, headers);
        command.args(["--fail", "--data-binary", body]).stdin(Stdio::null());
        let mut child = spawn_bound(command).map_err(|e| format!("curl does not start: {e}"))?;
        let stdout = child.stdout.take().ok_or("curl says nothing")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Streaming { child, lines })
    }
}

/// A response that goes on. It ends when this is dropped.
pub struct Streaming {
    child: Child,
    lines: Receiver<String>,
}

impl Streaming {
    /// The next line.
    pub fn line(&mut self, limit: Duration) -> Result<String, String> {
        self.lines.recv_timeout(limit).map_err(|e| format!("no line within {limit:?}: {e}"))
    }

    /// The next line that has this in it.
    pub fn line_with(&mut self, word: &str, limit: Duration) -> Result<String, String> {
        let deadline = Instant::now() + limit;
        loop {
            let line = self.line(deadline.saturating_duration_since(Instant::now()));
            let line = line.map_err(|why| format!("nothing with {word}: {why}"))?;
            if line.contains(word) {
                return Ok(line);
            }
        }
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
