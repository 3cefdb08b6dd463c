//! The same work with the pull consumers of a NATS server's JetStream: a stream and a durable consumer for each room.
//!
//! As [`super::run`] does it: each message is published and its acknowledgement awaited (500 may be on their way), given to one
//! consumer, and acknowledged there with an answer. Streams keep everything, which is less work than to keep what is
//! not acknowledged.

use super::{AT_ONCE, Done, PATIENCE, Work};
use crate::conn::Care;
use crate::dialect::{Wanted, Who};
use crate::fleet::Fleet;
use crate::publisher::{Clock, payload, stamp};
use crate::target::Node;
use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long the server may take to make a stream or a consumer.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a pull waits for its messages: longer than any run.
const PULL_NANOS: u64 = 600_000_000_000;
/// How long a consumer has a message, as with Roomcast.
const ACK_WAIT_NANOS: u64 = 30_000_000_000;
/// Messages of a consumer that are not acknowledged, as with Roomcast.
const MAX_ACK_PENDING: u64 = 100_000;

/// Does the work at `node`, a NATS server with JetStream, with streams in `storage`: `memory` or `file`.
pub fn run(work: &Work, consumers: u64, node: &Node, storage: &str) -> Result<Done> {
    prepare(work, node, storage)?;
    let mut fleet = Fleet::new()?;
    let plan = |consumer: u64| node.plan(hearing([messages(consumer), acks(consumer)]), Care::Need);
    fleet.open_each((0..consumers).map(plan).map(Arc::new).collect::<Vec<_>>().into_iter())?;
    for consumer in 0..consumers {
        pull(&mut fleet, work, consumer, work.prefetch)?;
    }
    let (mut done, clock, begun) = (Done::new()?, Clock::start(), Instant::now());
    let publisher = publish(work.clone(), node.address(), clock);
    let mut given: Vec<Vec<u8>> = vec![Vec::new(); consumers as usize];
    let mut free = vec![0_u64; consumers as usize];
    let mut last = begun;
    while done.acked < work.messages && last.elapsed() < PATIENCE {
        let mut refused = None;
        fleet.pump(Duration::from_millis(100), |consumer, message| {
            if message.starts_with(b"-ERR") {
                refused.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
            } else if let Some(reply) = reply_to(message) {
                given[consumer].extend(ack(reply, consumer as u64));
                let waited = stamp(message).map(|at| clock.now().saturating_sub(at));
                done.latency.saturating_record(waited.unwrap_or_default());
            } else if memmem::find(message, b".acks.").is_some() {
                (done.acked, last) = (done.acked + 1, Instant::now());
                free[consumer] += 1;
            }
        })?;
        if let Some(answer) = refused {
            bail!("the server answered {answer}");
        }
        for (consumer, given) in given.iter_mut().enumerate().filter(|(_, it)| !it.is_empty()) {
            fleet.send(consumer, &std::mem::take(given))?;
        }
        for (consumer, free) in free.iter_mut().enumerate().filter(|(_, it)| **it > 0) {
            if *free >= work.prefetch.div_ceil(2) {
                pull(&mut fleet, work, consumer as u64, std::mem::take(free))?;
            }
        }
    }
    done.took = begun.elapsed();
    ensure!(done.acked == work.messages, "{} of {} were acknowledged", done.acked, work.messages);
    publisher.join().ok().context("the publisher has panicked")??;
    Ok(done)
}

fn messages(consumer: u64) -> String {
    format!("_INBOX.messages.{consumer}")
}

fn acks(consumer: u64) -> String {
    format!("_INBOX.acks.{consumer}")
}

pub(crate) fn hearing<const N: usize>(subjects: [String; N]) -> Who {
    let wanted = |room| Wanted { room, since: None };
    Who { rooms: subjects.into_iter().map(wanted).collect(), ..Who::default() }
}

/// A publication that wants an answer.
pub(crate) fn request(subject: &str, inbox: &str, body: &str) -> Vec<u8> {
    format!("PUB {subject} {inbox} {}\r\n{body}\r\n", body.len()).into_bytes()
}

fn ack(reply: &[u8], consumer: u64) -> Vec<u8> {
    request(&String::from_utf8_lossy(reply), &acks(consumer), "+ACK")
}

/// The subject that a message is acknowledged at, if it is one of a stream.
fn reply_to(message: &[u8]) -> Option<&[u8]> {
    let line = &message[..memmem::find(message, b"\r\n")?];
    line.split(|it| *it == b' ').nth(3).filter(|it| it.starts_with(b"$JS.ACK."))
}

fn pull(fleet: &mut Fleet, work: &Work, consumer: u64, batch: u64) -> Result<()> {
    let subject =
        format!("$JS.API.CONSUMER.MSG.NEXT.{}.{}", stream(work.room(consumer)), work.group);
    let body = json!({"batch": batch, "expires": PULL_NANOS}).to_string();
    fleet.send(consumer as usize, &request(&subject, &messages(consumer), &body))
}

/// The name of a room's stream.
fn stream(room: &str) -> String {
    room.replace([':', '.'], "-")
}

/// Makes the streams and their consumers.
fn prepare(work: &Work, node: &Node, storage: &str) -> Result<()> {
    let (mut fleet, inbox) = (Fleet::new()?, "_INBOX.prepare");
    fleet.open(node.plan(hearing([inbox.to_owned()]), Care::Need), 1)?;
    for room in &work.rooms {
        let name = stream(room);
        let config = json!({"name": name, "subjects": [name], "storage": storage});
        let durable = json!({
            "durable_name": work.group, "ack_policy": "explicit", "ack_wait": ACK_WAIT_NANOS,
            "max_ack_pending": MAX_ACK_PENDING,
        });
        let consumer = json!({"stream_name": name, "config": durable});
        for (subject, body) in [
            (format!("$JS.API.STREAM.CREATE.{name}"), config),
            (format!("$JS.API.CONSUMER.CREATE.{name}.{}", work.group), consumer),
        ] {
            fleet.send(0, &request(&subject, inbox, &body.to_string()))?;
            let answer = answered(&mut fleet)?;
            ensure!(answer["error"].is_null(), "the server answered {subject} with {answer}");
        }
    }
    Ok(())
}

/// The next answer in JSON.
pub(crate) fn answered(fleet: &mut Fleet) -> Result<Value> {
    let (mut answer, deadline) = (None, Instant::now() + ANSWER);
    while answer.is_none() && Instant::now() < deadline {
        fleet.pump(Duration::from_millis(100), |_, message| {
            let body = memmem::find(message, b"\r\n").map(|at| &message[at + 2..]);
            answer = body.and_then(|it| serde_json::from_slice(it).ok()).or(answer.take());
        })?;
    }
    answer.context("the server does not answer")
}

/// How many publications are acknowledged, of those whose answers come within `timeout`.
pub(crate) fn stored(fleet: &mut Fleet, timeout: Duration) -> Result<u64> {
    let (mut stored, mut refused) = (0, None);
    fleet.pump(timeout, |_, message| match memmem::find(message, b"\"seq\"") {
        Some(_) => stored += 1,
        None => refused = Some(String::from_utf8_lossy(message).into_owned()),
    })?;
    match refused {
        Some(answer) => bail!("the server refused a publication: {answer}"),
        None => Ok(stored),
    }
}

/// Publishes all messages on a thread of its own.
fn publish(work: Work, server: SocketAddr, clock: Clock) -> JoinHandle<Result<()>> {
    thread::spawn(move || {
        let (mut fleet, inbox) = (Fleet::new()?, "_INBOX.publisher");
        let node = Node::at(server, "/", crate::dialect::Protocol::JetStream, Vec::new());
        fleet.open(node.plan(hearing([inbox.to_owned()]), Care::Need), 1)?;
        let (mut sent, mut taken, begun) = (0, 0, Instant::now());
        while taken < work.messages {
            let due = work.due(begun).min(taken + AT_ONCE);
            let mut batch = Vec::new();
            for number in sent..due {
                let data = payload(work.size, clock.now());
                batch.extend(request(&stream(work.room(number)), inbox, &data));
            }
            sent = sent.max(due);
            if !batch.is_empty() {
                fleet.send(0, &batch)?;
            }
            taken += stored(&mut fleet, Duration::from_millis(1))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_a_stream_are_acknowledged() {
        let message = b"MSG queue-a 1 $JS.ACK.s.c.1.2.3.4.5 2\r\n{}";
        assert_eq!(reply_to(message), Some(&b"$JS.ACK.s.c.1.2.3.4.5"[..]));
        assert_eq!(reply_to(b"MSG _INBOX.acks.1 2 0\r\n"), None);
        assert_eq!(ack(b"$JS.ACK.s", 7), b"PUB $JS.ACK.s _INBOX.acks.7 4\r\n+ACK\r\n");
    }
}
