//! Publishing, by a client's command or by the server API, and the payload that is published.
//!
//! In: a room and a payload. Out: a command on the publisher's connection, and a tally of its acks.

use crate::conn::Plan;
use crate::dialect::{self, Dialect, Meaning, Protocol};
use crate::fleet::Fleet;
use crate::http;
use crate::target::Node;
use anyhow::{Result, bail};
use clap::ValueEnum;
use memchr::memmem;
use std::time::Instant;

/// The smallest payload: room for the largest timestamp.
pub const SMALLEST_PAYLOAD: usize = 33;

/// The ids of publications, clear of those of a connection's set-up.
pub const FIRST_ID: u32 = 1 << 20;

/// Which way a publication goes into the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Via {
    /// The `publish` command of a WebSocket client
    Ws,
    /// `POST /api/publish`
    Api,
}

/// One connection that publishes.
#[derive(Debug)]
pub struct Publisher {
    id: usize,
    via: Via,
    dialect: &'static dyn Dialect,
    host: String,
    api_key: String,
    /// Publications sent so far.
    pub sent: u64,
    /// Publications that the server has acked so far.
    pub acked: u64,
    refused: Option<String>,
}

impl Publisher {
    /// Opens the publisher's connection to `node`.
    pub fn open(fleet: &mut Fleet, node: &Node, via: Via, api_key: &str) -> Result<Self> {
        let plan: Plan = match via {
            Via::Ws => node.client_plan(&[], true),
            Via::Api => node.api_plan(),
        };
        let id = fleet.open(plan, 1)?.start;
        let (host, api_key) = (node.host(), api_key.to_owned());
        let dialect = node.dialect();
        Ok(Self { id, via, dialect, host, api_key, sent: 0, acked: 0, refused: None })
    }

    /// Sends one publication; its ack comes later, to [`Self::take`].
    pub fn publish(&mut self, fleet: &mut Fleet, room: &str, data: &str) -> Result<()> {
        self.sent += 1;
        match self.via {
            Via::Ws => {
                let id = FIRST_ID.wrapping_add(self.sent as u32);
                fleet.send(self.id, &self.dialect.publish(id, room, data))
            }
            Via::Api => {
                let request = http::publish_request(&self.host, &self.api_key, room, data);
                fleet.send(self.id, &request)
            }
        }
    }

    /// Looks at a message that connection `id` received; true if it was for the publisher.
    pub fn take(&mut self, id: usize, message: &[u8]) -> bool {
        if id != self.id {
            return false;
        }
        let meaning = match self.via {
            Via::Ws => self.dialect.meaning(message),
            Via::Api => Protocol::Json.dialect().meaning(message),
        };
        match meaning {
            Meaning::Refusal => {
                self.refused.get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
            }
            Meaning::Ack => self.acked += 1,
            Meaning::Ping | Meaning::Delivery | Meaning::Unsubscribed | Meaning::Other => {}
        }
        true
    }

    /// [`Self::take`] where no one else receives messages.
    pub fn read(&mut self, id: usize, message: &[u8]) {
        self.take(id, message);
    }

    /// An error once the server has refused a publication.
    pub fn check(&self) -> Result<()> {
        match &self.refused {
            Some(answer) => bail!("the server refused a publication: {answer}"),
            None => Ok(()),
        }
    }
}

/// A clock that timestamps are taken from; the same process publishes and receives.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the clock's start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What payloads are made of.
const WORDS: [&str; 48] = [
    "the ",
    "of ",
    "and ",
    "to ",
    "in ",
    "is ",
    "you ",
    "that ",
    "it ",
    "he ",
    "was ",
    "for ",
    "on ",
    "are ",
    "with ",
    "as ",
    "his ",
    "they ",
    "be ",
    "at ",
    "one ",
    "have ",
    "this ",
    "from ",
    "room ",
    "message ",
    "server ",
    "client ",
    "history ",
    "presence ",
    "publish ",
    "goal ",
    "score ",
    "minute ",
    "player ",
    "price ",
    "order ",
    "status ",
    "42, ",
    "1.37, ",
    "2026, ",
    "17:05, ",
    "user_381, ",
    "true, ",
    "null, ",
    "yes! ",
    "thanks. ",
    "why? ",
];

/// JSON of exactly `size` bytes (at least [`SMALLEST_PAYLOAD`]) that carries a timestamp.
pub fn payload(size: usize, stamp: u64) -> String {
    let mut data = format!(r#"{{"t":{stamp},"p":""#);
    let padding = size.max(SMALLEST_PAYLOAD) - data.len() - 2;
    // Words, so that what is compressed shrinks as texts do.
    let mut dice = fastrand::Rng::with_seed(stamp);
    let end = data.len() + padding;
    while data.len() < end {
        data.push_str(WORDS[dice.usize(..WORDS.len())]);
    }
    data.truncate(end);
    data.push_str("\"}");
    data
}

/// The timestamp in a message that carries a [`payload`].
pub fn stamp(message: &[u8]) -> Option<u64> {
    let start = memmem::find(message, b"\"t\":")? + 4;
    dialect::digits(&message[start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_the_size_asked_for_and_carry_their_stamp() {
        for size in [SMALLEST_PAYLOAD, 34, 128, 4096] {
            for at in [0, 7, 1_234_567_890_123, u64::MAX] {
                let data = payload(size, at);
                assert_eq!(data.len(), size);
                assert!(serde_json::from_str::<serde_json::Value>(&data).is_ok(), "{data}");
                let push = format!(r#"{{"push":{{"channel":"r","pub":{{"data":{data}}}}}}}"#);
                assert_eq!(stamp(push.as_bytes()), Some(at));
            }
        }
    }

    #[test]
    fn messages_without_a_stamp_have_none() {
        for message in ["", "{}", r#"{"t":}"#, r#"{"t":"x"}"#, r#"{"t":99999999999999999999}"#] {
            assert_eq!(stamp(message.as_bytes()), None, "{message}");
        }
    }
}
