//! Publishers that remember what was acknowledged.
//!
//! In: a node, and rooms. A [`Writer`] publishes into one room after the other by the server API, one message at a
//! time. Out: what was acknowledged and when, and whether all of it is in the histories at the end. What was refused
//! or not answered may be there or not.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::rooms::{self, Api, Standing};
use crate::wait::ensure;

/// Before the next try, after a node refused or could not be reached.
const PAUSE: Duration = Duration::from_millis(50);
/// Losses that are told in full.
const TOLD: usize = 3;

/// A publication that the server acknowledged.
#[derive(Clone, Debug)]
pub struct Acked {
    /// Into which room.
    pub room: String,
    /// What tells it from all others.
    pub id: String,
    /// When it was sent.
    pub sent: Instant,
    /// The position that it was given.
    pub position: Value,
}

/// What became of all that a writer sent.
#[derive(Default)]
pub struct Written {
    /// What was acknowledged.
    pub acked: Vec<Acked>,
    /// How much was refused, by the answer.
    pub refused: BTreeMap<String, usize>,
}

/// A publisher while it writes.
pub struct Writer {
    stop: Arc<AtomicBool>,
    writing: JoinHandle<Written>,
}

impl Writer {
    /// Begins to write into what `room` says, for the first message, the second, and so on.
    pub fn start(
        name: &str,
        node: SocketAddr,
        room: impl Fn(usize) -> String + Send + 'static,
    ) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let (stopped, name) = (stop.clone(), name.to_owned());
        let writing = thread::spawn(move || {
            let mut written = Written::default();
            let mut api = None;
            for number in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (room, id) = (room(number), format!("{name}-{number}"));
                if let Err(why) = write(&mut api, node, room, id, &mut written) {
                    *written.refused.entry(why).or_default() += 1;
                    api = None;
                    thread::sleep(PAUSE);
                }
            }
            written
        });
        Self { stop, writing }
    }

    /// Stops, when the message under way is answered.
    pub fn finish(self) -> Written {
        self.stop.store(true, Ordering::Relaxed);
        self.writing.join().expect("a writer does not panic")
    }
}

/// One message; an error if the connection is of no use any more.
fn write(
    api: &mut Option<Api>,
    node: SocketAddr,
    room: String,
    id: String,
    written: &mut Written,
) -> Result<(), String> {
    let api = match api {
        Some(api) => api,
        None => api.insert(Api::open(node)?),
    };
    let sent = Instant::now();
    let answer = api.answer("publish", &json!({"channel": room, "data": id}))?;
    match answer.get("result") {
        Some(position) => {
            let position = position.clone();
            written.acked.push(Acked { room, id, sent, position });
        }
        None => {
            *written.refused.entry(answer["error"].to_string()).or_default() += 1;
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Whether all that was acknowledged is in the histories, as a node tells them.
pub fn all_kept<'a>(
    node: SocketAddr,
    acked: impl IntoIterator<Item = &'a Acked>,
) -> Result<(), String> {
    all_there(node, acked, |standing, it| standing.kept.iter().any(|(_, data)| *data == it.id))
}

/// The same, and each is at the offset at which it was acknowledged.
pub fn all_at_their_offsets<'a>(
    node: SocketAddr,
    acked: impl IntoIterator<Item = &'a Acked>,
) -> Result<(), String> {
    all_there(node, acked, |standing, it| {
        let offset = it.position["offset"].as_u64();
        standing.kept.iter().any(|(at, data)| *data == it.id && Some(*at) == offset)
    })
}

fn all_there<'a>(
    node: SocketAddr,
    acked: impl IntoIterator<Item = &'a Acked>,
    holds: impl Fn(&Standing, &Acked) -> bool,
) -> Result<(), String> {
    let mut by_room = BTreeMap::<&str, Vec<&Acked>>::new();
    for one in acked {
        by_room.entry(&one.room).or_default().push(one);
    }
    let names: Vec<String> = by_room.keys().map(|it| (*it).to_owned()).collect();
    let standings = rooms::read(node, &names, -1)?;
    let mut lost = Vec::new();
    let mut all = 0;
    for (acked, standing) in by_room.values().zip(&standings) {
        all += acked.len();
        let missing = acked.iter().filter(|it| !holds(standing, it));
        lost.extend(missing.map(|it| (*it, standing)));
    }
    let told: Vec<_> = (lost.iter().take(TOLD))
        .map(|(it, standing)| format!("{} at {} in {} ({standing})", it.id, it.position, it.room))
        .collect();
    ensure(lost.is_empty(), || {
        format!("{} of {all} acknowledged publications are lost: {}", lost.len(), told.join("; "))
    })
}
