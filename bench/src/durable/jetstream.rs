//! JetStream: one stream on disk with a subject for each room, published to over a connection for each caller.

use super::Publication;
use crate::conn::Care;
use crate::fleet::Fleet;
use crate::queue::jetstream::{answered, hearing, request, stored};
use crate::target::Node;
use anyhow::{Result, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

const STREAM: &str = "durable";
/// Publications that a room keeps, as with Roomcast.
const HISTORY: u64 = 100;
/// How long all acknowledgements may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection, and the stream that the first of them has made.
pub struct JetStream {
    fleet: Fleet,
    /// Where acknowledgements come. Its last part sets this connection's batches apart, too.
    inbox: String,
    batches: u64,
}

impl JetStream {
    /// Connects to `node`, and makes the stream if it is not there. Each connection has a `number` of its own.
    pub fn open(node: &Node, number: u64) -> Result<Self> {
        let (mut fleet, inbox) = (Fleet::new()?, format!("_INBOX.durable{number}"));
        fleet.open(node.plan(hearing([inbox.clone()]), Care::Need), 1)?;
        let subjects = [format!("{STREAM}.>")];
        let config = json!({
            "name": STREAM, "subjects": subjects, "storage": "file", "max_msgs_per_subject": HISTORY,
            "allow_atomic": true,
        });
        let create = format!("$JS.API.STREAM.CREATE.{STREAM}");
        fleet.send(0, &request(&create, &inbox, &config.to_string()))?;
        let answer = answered(&mut fleet)?;
        ensure!(answer["error"].is_null(), "the server answered {create} with {answer}");
        Ok(Self { fleet, inbox, batches: 0 })
    }

    /// Publishes each by itself. Returns once all are acknowledged.
    pub fn publish(&mut self, publications: &[Publication<'_>]) -> Result<()> {
        let one = |it: &Publication<'_>| request(&subject(it.room), &self.inbox, it.data);
        let all: Vec<u8> = publications.iter().flat_map(one).collect();
        self.fleet.send(0, &all)?;
        self.acknowledged(publications.len() as u64)
    }

    /// Publishes all or none. Returns once they are acknowledged.
    pub fn publish_atomically(&mut self, publications: &[Publication<'_>]) -> Result<()> {
        self.batches += 1;
        let Self { inbox, batches, .. } = &*self;
        let mut all = Vec::new();
        for (index, it) in publications.iter().enumerate() {
            let (sequence, last) = (index + 1, index + 1 == publications.len());
            let (commit, reply) =
                if last { ("Nats-Batch-Commit: 1\r\n", &**inbox) } else { ("", "") };
            let headers = format!(
                "NATS/1.0\r\nNats-Batch-Id: {inbox}.{batches}\r\nNats-Batch-Sequence: {sequence}\r\n{commit}\r\n"
            );
            let (before, size) = (headers.len(), headers.len() + it.data.len());
            let subject = subject(it.room);
            all.extend(format!("HPUB {subject} {reply} {before} {size}\r\n").into_bytes());
            all.extend(headers.into_bytes());
            all.extend(it.data.as_bytes());
            all.extend(b"\r\n");
        }
        self.fleet.send(0, &all)?;
        self.acknowledged(1)
    }

    fn acknowledged(&mut self, wanted: u64) -> Result<()> {
        let (mut acked, begun) = (0, Instant::now());
        while acked < wanted {
            acked += stored(&mut self.fleet, Duration::from_millis(100))?;
            ensure!(begun.elapsed() < PATIENCE, "{acked} of {wanted} were acknowledged");
        }
        Ok(())
    }
}

fn subject(room: u64) -> String {
    format!("{STREAM}.{room}")
}
