//! A child process that takes commands and tells events as JSON lines: what
//! the SDK drivers and the browser have in common.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::node::spawn_bound;
use crate::wait;

/// How long a command may take before its scenario fails.
const REPLY_LIMIT: Duration = Duration::from_secs(60);

/// A refusal, as the driven program told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The protocol's code, or 0.
    pub code: u64,
    /// What was said.
    pub message: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

/// The process and all that it said so far.
pub struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    heard: Arc<Heard>,
    next_id: u64,
}

#[derive(Default)]
struct Heard {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    replies: HashMap<u64, Value>,
    events: Vec<Value>,
    ended: bool,
}

/// A command whose reply has not been waited for yet.
#[must_use]
#[derive(Debug)]
pub struct Pending(u64);

impl Driver {
    /// Starts the program.
    pub fn start(mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let shown = format!("{command:?}");
        let mut child = spawn_bound(command).map_err(|e| format!("{shown}: {e}"))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let heard = Arc::new(Heard::default());
        let listener = heard.clone();
        thread::spawn(move || listener.listen(BufReader::new(stdout)));
        Ok(Self { stdin: child.stdin.take(), child, heard, next_id: 1 })
    }

    /// Sends a command and waits for its reply.
    pub fn call(&mut self, command: Value) -> Result<Value, Refusal> {
        let pending = self.send(command);
        self.reply(pending)
    }

    /// Sends a command; its reply is waited for later, with [`Driver::reply`].
    pub fn send(&mut self, mut command: Value) -> Pending {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        let stdin = self.stdin.as_mut().expect("stdin is open until drop");
        // A driver that has ended is reported by the reply that never comes.
        let _ = writeln!(stdin, "{command}").and_then(|()| stdin.flush());
        Pending(id)
    }

    /// Waits for a command's reply.
    pub fn reply(&self, Pending(id): Pending) -> Result<Value, Refusal> {
        let deadline = Instant::now() + REPLY_LIMIT;
        let mut state = self.state();
        loop {
            if let Some(mut reply) = state.replies.remove(&id) {
                return match reply.get_mut("ok") {
                    Some(ok) => Ok(ok.take()),
                    None => Err(refusal(&reply["error"])),
                };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                let message = if state.ended { "the driver ended" } else { "no reply" };
                return Err(Refusal { code: 0, message: message.to_owned() });
            }
            let waited = self.heard.changed.wait_timeout(state, left);
            state = waited.expect("the driver's lock").0;
        }
    }

    /// All events so far, oldest first.
    pub fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    /// Looks at the events until `look` is content, or the driver has ended.
    pub fn until<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&[Value]) -> Result<T, String>,
    ) -> Result<T, String> {
        // Not woken by every event: a look may go through thousands of them.
        wait::until(limit, || look(&self.state().events))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.heard.state.lock().expect("the driver's lock")
    }
}

impl Heard {
    fn listen(&self, lines: impl BufRead) {
        for line in lines.lines().map_while(Result::ok) {
            let Ok(value) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            let mut state = self.state.lock().expect("the driver's lock");
            match value["re"].as_u64() {
                Some(id) => {
                    state.replies.insert(id, value);
                }
                None => state.events.push(value),
            }
            self.changed.notify_all();
        }
        self.state.lock().expect("the driver's lock").ended = true;
        self.changed.notify_all();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // End of input asks the driver to close its clients and leave.
        drop(self.stdin.take());
        let deadline = Instant::now() + Duration::from_secs(3);
        let mut state = self.state();
        while !state.ended && Instant::now() < deadline {
            let pause = Duration::from_millis(100);
            let waited = self.heard.changed.wait_timeout(state, pause);
            state = waited.expect("the driver's lock").0;
        }
        drop(state);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refusal(error: &Value) -> Refusal {
    Refusal {
        code: error["code"].as_u64().unwrap_or(0),
        message: error["message"].as_str().unwrap_or("no reason").to_owned(),
    }
}
