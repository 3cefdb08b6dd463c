//! The control client: one that has nothing to do with a fault, and must not notice it.
//!
//! In: two nodes and a room. Out: how long each message took from a client on the one to a client on the
//! other, before the fault and during it, and whether that is as it should be (I6: the fault of one does
//! not raise the others' 99th percentile beyond three times).

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use roomcast::cluster::node::{NodeInfo, Phase};
use roomcast::cluster::placement::{Placement, slot};
use serde_json::{Value, json};

use crate::node::node_name;
use crate::wait::{ensure, until};
use crate::ws::{Event, Socket};

/// Between one message and the next.
const PAUSE: Duration = Duration::from_millis(10);
/// A message that takes longer never comes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a machine that is shared with others may add to any message. What a fault
/// makes wait waits for a failure detector, which takes seconds.
const NOISE: Duration = Duration::from_millis(300);
/// By how much the others may be slowed down.
const FACTOR: u32 = 3;
/// Of fewer messages nothing can be said.
const ENOUGH: usize = 100;
/// How long it is waited for that many.
const LIMIT: Duration = Duration::from_secs(30);

/// A room whose home and first successor, of so many nodes, are these.
pub fn room_at(home: usize, successor: usize, nodes: usize) -> String {
    let address = ([127, 0, 0, 1], 1).into();
    let node = |index| NodeInfo {
        name: node_name(index),
        generation: 0,
        mesh: address,
        http: address,
        phase: Phase::Ready,
    };
    let nodes: Vec<NodeInfo> = (0..nodes).map(node).collect();
    let placement = Placement::new(&nodes, 1);
    let fits = |room: &String| {
        let slot = slot(room);
        placement.home(slot) == Some(nodes[home].id())
            && placement.successors(slot) == [nodes[successor].id()]
    };
    (0..).map(|number| format!("control-{number}")).find(fits).expect("there are many rooms")
}

/// The control client while it runs.
pub struct Control {
    stop: Arc<AtomicBool>,
    took: Arc<Mutex<Vec<Duration>>>,
    before: usize,
    talking: Option<JoinHandle<Result<(), String>>>,
}

/// How long messages took.
pub struct Report {
    before: Vec<Duration>,
    during: Vec<Duration>,
}

impl Control {
    /// Begins to say something on node `from`, again and again, and to hear it on node `to`.
    pub fn start(from: SocketAddr, to: SocketAddr, room: &str) -> Result<Self, String> {
        let (speaker, mut listener) = (enter(from)?, enter(to)?);
        let subscribed = json!({"id": 2, "subscribe": {"channel": room}});
        let subscribed = listener.command(&subscribed)?;
        ensure(subscribed["error"].is_null(), || subscribed.to_string())?;
        let (stop, took) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Duration>>>::default());
        let mut pair = Pair { speaker, listener, room: room.to_owned(), said: 2 };
        let (stopped, taken) = (stop.clone(), took.clone());
        let talking = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let time = pair.round()?;
                taken.lock().unwrap_or_else(PoisonError::into_inner).push(time);
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        Ok(Self { stop, took, before: 0, talking: Some(talking) })
    }

    /// What comes from now on is during the fault. Waits until enough has come before.
    pub fn fault_begins(&mut self) {
        self.await_enough();
        self.before = self.count();
    }

    /// Stops, once enough has come. An error if a message was refused or never came.
    pub fn finish(mut self) -> Result<Report, String> {
        self.await_enough();
        self.stop.store(true, Ordering::Relaxed);
        let talking = self.talking.take().ok_or("it has stopped already")?;
        talking.join().map_err(|_| "the control client has panicked".to_owned())??;
        let mut before = std::mem::take(&mut *self.took.lock().expect("no one else has it"));
        let during = before.split_off(self.before.min(before.len()));
        Ok(Report { before, during })
    }

    fn count(&self) -> usize {
        self.took.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// A slow machine takes its time. Where too few come all the same, the report is judged so.
    fn await_enough(&self) {
        let _ = until(LIMIT, || {
            let has_ended = self.talking.as_ref().is_none_or(JoinHandle::is_finished);
            ensure(has_ended || self.count() >= self.before + ENOUGH, String::new)
        });
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn enter(node: SocketAddr) -> Result<Socket, String> {
    let mut socket = Socket::open(node, None)?;
    let connected = socket.connect()?;
    ensure(connected["error"].is_null(), || connected.to_string())?;
    Ok(socket)
}

struct Pair {
    speaker: Socket,
    listener: Socket,
    room: String,
    said: u64,
}

impl Pair {
    /// One message: how long it took to come.
    fn round(&mut self) -> Result<Duration, String> {
        self.said += 1;
        let (id, room) = (self.said, &self.room);
        let began = Instant::now();
        let publish = json!({"id": id, "publish": {"channel": room, "data": id}});
        self.speaker.send_text(&publish.to_string())?;
        hear(&mut self.listener, |line| line["push"]["pub"]["data"] == id)?;
        let took = began.elapsed();
        let reply = hear(&mut self.speaker, |line| line["id"] == id)?;
        ensure(reply["error"].is_null(), || format!("message {id}: {reply}"))?;
        Ok(took)
    }
}

/// Waits for a line, and answers the server's pings meanwhile.
fn hear(socket: &mut Socket, wanted: impl Fn(&Value) -> bool) -> Result<Value, String> {
    let deadline = Instant::now() + PATIENCE;
    let mut found = None;
    while found.is_none() {
        let left = deadline.saturating_duration_since(Instant::now());
        let text = match socket.event(left)? {
            Event::Text(text) => text,
            other => return Err(format!("the control client got {other:?}")),
        };
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
            if line == json!({}) {
                socket.send_text("{}")?;
            } else if wanted(&line) {
                found = Some(line);
            }
        }
    }
    found.ok_or_else(|| "nothing".to_owned())
}

impl Report {
    /// Whether the fault went unnoticed.
    pub fn judge(&self) -> Result<(), String> {
        let enough = self.before.len() >= ENOUGH && self.during.len() >= ENOUGH;
        ensure(enough, || format!("too few messages: {self}"))?;
        let limit = (p99(&self.before) * FACTOR).max(NOISE);
        ensure(p99(&self.during) <= limit, || format!("more than {limit:?}: {self}"))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, during) = (p99(&self.before), p99(&self.during));
        let (first, then) = (self.before.len(), self.during.len());
        write!(
            f,
            "p99 {before:?} of {first} messages before, {during:?} of {then} during the fault"
        )
    }
}

fn p99(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_hundredth_is_noticed() {
        let quick = vec![Duration::from_millis(5); 200];
        let mut slow = quick.clone();
        slow[..5].fill(Duration::from_secs(2));
        let report = |during: &[Duration]| Report { before: quick.clone(), during: during.into() };
        report(&quick).judge().unwrap();
        assert!(report(&slow).judge().unwrap_err().contains("2s"));
        assert!(report(&quick[..50]).judge().is_err());
    }
}
