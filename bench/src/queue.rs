//! Messages through groups of consumers: published, given to one consumer each, acknowledged.
//!
//! In: [`Work`], and the connections of the consumers. Out: [`Done`]. Consumers acknowledge what they have as soon as
//! they have it, with all that has come meanwhile; publishing is a thread of its own. [`jetstream`] does the same
//! work with the pull consumers of a NATS server.

pub mod jetstream;

use crate::conn::Plan;
use crate::dialect::Wanted;
use crate::fleet::Fleet;
use crate::http;
use crate::publisher::{Clock, payload, stamp};
use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use memchr::memmem;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Messages published in one call.
const AT_ONCE: u64 = 500;
/// Without an acknowledgement for so long, some are lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a full room is left alone.
const FULL: Duration = Duration::from_millis(10);
/// Latencies up to a minute, in nanoseconds, to three digits.
const LONGEST: u64 = 60_000_000_000;
/// The first id of an RPC, clear of those of a connection's set-up.
const FIRST_RPC: u32 = 100;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Work {
    /// The rooms; consumers and messages are spread over them.
    pub rooms: Vec<String>,
    /// The group.
    pub group: String,
    /// Messages that a consumer has at a time.
    pub prefetch: u64,
    /// Messages in all.
    pub messages: u64,
    /// Messages a second; 0: as fast as they are taken.
    pub rate: u32,
    /// Bytes of a message's data.
    pub size: usize,
}

impl Work {
    /// What a consumer says as it subscribes.
    pub fn data(&self) -> Value {
        json!({"group": self.group, "prefetch": self.prefetch})
    }

    /// The room of consumer or message `number`.
    pub fn room(&self, number: u64) -> &str {
        &self.rooms[(number % self.rooms.len() as u64) as usize]
    }

    /// The same as what a client subscribes to.
    pub fn wanted(&self, consumer: u64) -> Wanted {
        Wanted { room: self.room(consumer).to_owned(), since: None }
    }

    /// When message `number` is due, in nanoseconds, if the first is at `first`; none: as soon as it can be.
    fn due_at(&self, number: u64, first: u64) -> Option<u64> {
        (self.rate > 0).then(|| first + number * 1_000_000_000 / u64::from(self.rate))
    }

    /// How many messages are due.
    fn due(&self, since: Instant) -> u64 {
        match self.rate {
            0 => self.messages,
            rate => self.messages.min((since.elapsed().as_secs_f64() * f64::from(rate)) as u64),
        }
    }
}

/// What it came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// From the first publication to the last acknowledgement.
    pub took: Duration,
    /// Messages that a consumer was told are settled.
    pub acked: u64,
    /// Messages that were given again.
    pub again: u64,
    /// Acknowledgements that came too late.
    pub stale: u64,
    /// How often a room was full.
    pub refused: u64,
    /// From when a message was due until a consumer had it, in nanoseconds.
    pub latency: Histogram<u64>,
}

impl Done {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, LONGEST, 3).context("making a histogram")?;
        Ok(Self { took: Duration::ZERO, acked: 0, again: 0, stale: 0, refused: 0, latency })
    }
}

/// Does the work with consumers that connect as `plans` say, in their order, and a publisher that calls the server API.
/// Ends early, with fewer acknowledged, if nothing comes any more.
pub fn run(work: &Work, plans: Vec<Plan>, api: SocketAddr, api_key: &str) -> Result<Done> {
    let (mut fleet, consumers) = (Fleet::new()?, plans.len());
    fleet.open_each(plans.into_iter().map(Arc::new))?;
    let (mut done, clock, begun) = (Done::new()?, Clock::start(), Instant::now());
    let refused = Arc::new(AtomicU64::new(0));
    let publisher = publish(work.clone(), api, api_key.to_owned(), clock, refused.clone());
    let mut given: Vec<Vec<String>> = vec![Vec::new(); consumers];
    let (mut id, mut last) = (FIRST_RPC, begun);
    while done.acked < work.messages && last.elapsed() < PATIENCE {
        let mut failed = None;
        fleet.pump(Duration::from_millis(100), |consumer, message| {
            if let Some(delivery) = quoted(message, br#""roomcast-delivery":""#) {
                given[consumer].push(String::from_utf8_lossy(delivery).into_owned());
                done.again += u64::from(quoted(message, br#""roomcast-attempt":""#) != Some(b"1"));
                let waited = stamp(message).map(|at| clock.now().saturating_sub(at));
                done.latency.saturating_record(waited.unwrap_or_default());
            } else if memmem::find(message, br#""results":"#).is_some() {
                done.acked += memmem::find_iter(message, br#""ok""#).count() as u64;
                done.stale += memmem::find_iter(message, br#""stale""#).count() as u64;
                last = Instant::now();
            } else if memmem::find(message, br#""error":"#).is_some() {
                failed.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
            }
        })?;
        if let Some(answer) = failed {
            bail!("the server refused an acknowledgement: {answer}");
        }
        for (consumer, given) in given.iter_mut().enumerate().filter(|(_, it)| !it.is_empty()) {
            id += 1;
            let deliveries = std::mem::take(given);
            let data = json!({"channel": work.room(consumer as u64), "deliveries": deliveries});
            let ack = json!({"id": id, "rpc": {"method": "queue.ack", "data": data}});
            fleet.send(consumer, ack.to_string().as_bytes())?;
        }
        if publisher.is_finished() && done.acked == 0 && last.elapsed() > PATIENCE / 2 {
            break;
        }
    }
    done.took = begun.elapsed();
    if done.acked == work.messages || publisher.is_finished() {
        publisher.join().ok().context("the publisher has panicked")??;
    }
    done.refused = refused.load(Ordering::Relaxed);
    Ok(done)
}

/// What comes between this text and the next quote.
fn quoted<'a>(message: &'a [u8], before: &[u8]) -> Option<&'a [u8]> {
    let rest = &message[memmem::find(message, before)? + before.len()..];
    Some(&rest[..memchr::memchr(b'"', rest)?])
}

/// Publishes all messages on a thread of its own. A room that is full is tried again: how often, `refused` says.
fn publish(
    work: Work,
    api: SocketAddr,
    key: String,
    clock: Clock,
    refused: Arc<AtomicU64>,
) -> JoinHandle<Result<()>> {
    thread::spawn(move || {
        let (mut left, mut next): (Vec<Value>, u64) = (Vec::new(), 0);
        let (begun, first) = (Instant::now(), clock.now());
        while next < work.messages || !left.is_empty() {
            let due = work.due(begun).min(next + AT_ONCE - left.len() as u64);
            for number in next..due {
                let at = work.due_at(number, first).unwrap_or_else(|| clock.now());
                let data: Value = serde_json::from_str(&payload(work.size, at))?;
                left.push(json!({"channel": work.room(number), "data": data}));
            }
            next = next.max(due);
            if left.is_empty() {
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            let replies = http::post_batch(api, "publish", &key, left.clone())?;
            ensure!(replies.len() == left.len(), "the server answered only some publications");
            let before = left.len();
            let mut taken = replies.iter().map(|it| !it["publish"].is_null());
            left.retain(|_| !taken.next().unwrap_or_default());
            let fatal = replies.iter().find(|it| !it["error"].is_null() && !is_temporary(it));
            if let Some(reply) = fatal {
                bail!("the server refused a publication: {reply}");
            }
            refused.fetch_add(left.len() as u64, Ordering::Relaxed);
            if left.len() == before {
                thread::sleep(FULL);
            }
        }
        Ok(())
    })
}

/// Whether a publication may be taken later: the room is full, or its node busy.
fn is_temporary(reply: &Value) -> bool {
    matches!(reply["error"]["code"].as_u64(), Some(100 | 111))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_grows_with_time_up_to_all() {
        let work = Work {
            rooms: vec!["a".to_owned(), "b".to_owned()],
            group: "g".to_owned(),
            prefetch: 1,
            messages: 10,
            rate: 5,
            size: 40,
        };
        let Some(second_ago) = Instant::now().checked_sub(Duration::from_secs(1)) else { return };
        assert!((5..10).contains(&work.due(second_ago)), "{}", work.due(second_ago));
        assert_eq!(Work { rate: 0, ..work.clone() }.due(second_ago), 10);
        assert_eq!((work.room(2), work.room(3)), ("a", "b"));
    }

    #[test]
    fn what_is_quoted_is_found() {
        let message = br#"{"tags":{"roomcast-attempt":"2","roomcast-delivery":"1.2.3.g"}}"#;
        assert_eq!(quoted(message, br#""roomcast-delivery":""#), Some(&b"1.2.3.g"[..]));
        assert_eq!(quoted(message, br#""roomcast-message":""#), None);
    }
}
