//! Real clients of the official SDKs, by name.
//!
//! One process per SDK hosts all its clients; this module knows which client
//! lives where, speaks the drivers' commands and reads their events.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::check::{Entry, Log};
use crate::driver::{Driver, Pending, Refusal};
use crate::paths;

/// Which official SDK a client is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sdk {
    /// npm `centrifuge`, in Node.js.
    Js,
    /// PyPI `centrifuge-python`.
    Python,
    /// `centrifuge-go`.
    Go,
}

/// The protocol's encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Text frames.
    Json,
    /// Binary frames.
    Protobuf,
}

impl fmt::Display for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Js => "JS SDK",
            Self::Python => "Python SDK",
            Self::Go => "Go SDK",
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Json => "JSON",
            Self::Protobuf => "Protobuf",
        })
    }
}

/// Milliseconds between two messages of someone who talks.
const TALKING_PAUSE: u64 = 50;

/// What publishing many messages came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Messages that were sent; the JS SDK's driver counts them.
    pub sent: u64,
    /// Messages that the server acknowledged.
    pub acked: u64,
    /// Messages refused or without an answer: (sequence number, code).
    pub refused: Vec<(u64, u64)>,
}

/// All SDK clients of a scenario. Drivers start with their first client.
#[derive(Default)]
pub struct Clients {
    drivers: BTreeMap<Sdk, Driver>,
    homes: BTreeMap<String, Sdk>,
    /// A file with the authority that clients take certificates of.
    pub authority: Option<PathBuf>,
}

impl Clients {
    /// Connects a new client and waits until it is connected: its client id.
    pub fn connect(
        &mut self,
        client: &str,
        (sdk, format): (Sdk, Format),
        url: &str,
    ) -> Result<String, Refusal> {
        self.connect_with(client, (sdk, format), url, json!({}))
    }

    /// The same with SDK options, such as `{"token": "…"}`.
    pub fn connect_with(
        &mut self,
        client: &str,
        (sdk, format): (Sdk, Format),
        url: &str,
        options: Value,
    ) -> Result<String, Refusal> {
        self.begin(client, (sdk, format), url, json!({"options": options}))
    }

    fn begin(
        &mut self,
        client: &str,
        (sdk, format): (Sdk, Format),
        url: &str,
        mut fields: Value,
    ) -> Result<String, Refusal> {
        if let std::collections::btree_map::Entry::Vacant(slot) = self.drivers.entry(sdk) {
            let mut command = command(sdk);
            if let Some(authority) = &self.authority {
                command.env("NODE_EXTRA_CA_CERTS", authority);
            }
            let driver = Driver::start(command);
            slot.insert(driver.map_err(|message| Refusal { code: 0, message })?);
        }
        self.homes.insert(client.to_owned(), sdk);
        fields["format"] = if format == Format::Json { "json" } else { "protobuf" }.into();
        fields["url"] = url.into();
        let connected = self.call(client, "connect", fields)?;
        Ok(connected["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Connects a new client of the JS SDK over `transport` (`sse` or `http_stream`), whose commands go to each
    /// of the nodes in turn.
    pub fn connect_over(
        &mut self,
        client: &str,
        transport: &str,
        format: Format,
        url: &str,
        nodes: &[SocketAddr],
    ) -> Result<String, Refusal> {
        let fields = json!({"transport": transport, "emulation": nodes});
        self.begin(client, (Sdk::Js, format), url, fields)
    }

    /// Subscribes and waits for the outcome.
    pub fn subscribe(&mut self, client: &str, room: &str) -> Result<Value, Refusal> {
        self.call(client, "subscribe", json!({"room": room}))
    }

    /// Subscribes with SDK options, such as `{"since": {...}}`.
    pub fn subscribe_with(
        &mut self,
        client: &str,
        room: &str,
        options: Value,
    ) -> Result<Value, Refusal> {
        self.call(client, "subscribe", json!({"room": room, "options": options}))
    }

    /// Publishes one message and waits for the acknowledgement.
    pub fn publish(&mut self, client: &str, room: &str, data: Value) -> Result<(), Refusal> {
        self.call(client, "publish", json!({"room": room, "data": data})).map(drop)
    }

    /// Starts publishing `count` messages `{"from": client, "seq": 1..}`, each
    /// sent when the one before was acknowledged, or all at once (`pipelined`).
    pub fn start_publishing(
        &mut self,
        client: &str,
        room: &str,
        count: u64,
        pipelined: bool,
    ) -> Pending {
        let fields = json!({
            "room": room, "count": count, "prefix": client, "pipelined": pipelined,
        });
        self.send(client, "publish_many", fields)
    }

    /// Starts publishing messages `{"from": prefix, "seq": 1..}`, one after the other
    /// with a pause between them, until [`Clients::hush`].
    pub fn start_talking(&mut self, client: &str, room: &str, prefix: &str) -> Pending {
        let fields = json!({"room": room, "prefix": prefix, "pause": TALKING_PAUSE});
        self.send(client, "publish_many", fields)
    }

    /// Ends all of a client's [`Clients::start_talking`].
    pub fn hush(&mut self, client: &str) -> Result<(), Refusal> {
        self.call(client, "hush", json!({})).map(drop)
    }

    /// Waits until all that [`Clients::start_publishing`] sent is answered.
    pub fn finish_publishing(
        &mut self,
        client: &str,
        pending: Pending,
    ) -> Result<Published, Refusal> {
        let outcome = self.driver(client).reply(pending)?;
        let pairs = outcome["refused"].as_array().cloned().unwrap_or_default();
        let number = |v: &Value| v.as_u64().unwrap_or(0);
        Ok(Published {
            sent: number(&outcome["sent"]),
            acked: number(&outcome["acked"]),
            refused: pairs.iter().map(|p| (number(&p["seq"]), number(&p["code"]))).collect(),
        })
    }

    /// Any command of the drivers' vocabulary.
    pub fn call(&mut self, client: &str, cmd: &str, fields: Value) -> Result<Value, Refusal> {
        let pending = self.send(client, cmd, fields);
        self.driver(client).reply(pending)
    }

    /// Any command, without waiting for its reply.
    pub fn send(&mut self, client: &str, cmd: &str, mut fields: Value) -> Pending {
        fields["cmd"] = cmd.into();
        fields["client"] = client.into();
        self.driver(client).send(fields)
    }

    /// Everything that happened to a client, oldest first.
    pub fn events(&self, client: &str) -> Vec<Value> {
        let all = self.drivers[&self.homes[client]].events().into_iter();
        all.filter(|event| event["client"] == client).collect()
    }

    /// Everything that happened to a client and to all others of the same SDK, in that order.
    pub fn all_events(&self, client: &str) -> Vec<Value> {
        self.drivers[&self.homes[client]].events()
    }

    /// Waits until `look` is content with a client's events.
    pub fn until<T>(
        &self,
        client: &str,
        limit: Duration,
        mut look: impl FnMut(&[&Value]) -> Result<T, String>,
    ) -> Result<T, String> {
        let driver = &self.drivers[&self.homes[client]];
        let found = driver.until(limit, |events| {
            let own: Vec<&Value> = events.iter().filter(|e| e["client"] == client).collect();
            look(&own)
        });
        found.map_err(|why| format!("client {client}: {why}"))
    }

    /// How many publications of `room` a client has got.
    pub fn count(&self, client: &str, room: &str) -> usize {
        let publication = |e: &&Value| e["ev"] == "pub" && e["room"] == room;
        self.events(client).iter().filter(publication).count()
    }

    /// What a client saw of a room, for the checker.
    pub fn log(&self, client: &str, room: &str) -> Log {
        let events = self.events(client);
        let own = events.iter().filter(|event| event["room"] == room);
        Log { client: client.to_owned(), entries: own.filter_map(entry).collect() }
    }

    fn driver(&mut self, client: &str) -> &mut Driver {
        let sdk = self.homes.get(client).unwrap_or_else(|| panic!("no client {client}"));
        self.drivers.get_mut(sdk).expect("a home is a driver")
    }
}

fn command(sdk: Sdk) -> Command {
    match sdk {
        Sdk::Js => {
            let mut node = Command::new("node");
            node.arg(paths::js("driver.mjs"));
            node
        }
        Sdk::Python => {
            let mut python = Command::new(paths::python());
            python.arg(paths::crate_dir().join("clients/python/driver.py"));
            python
        }
        Sdk::Go => Command::new(paths::go_driver()),
    }
}

/// A driver's event as the checker's entry; joins, leaves and errors are none.
fn entry(event: &Value) -> Option<Entry> {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| event[name].as_u64().unwrap_or(0);
    match event["ev"].as_str()? {
        "subscribed" => Some(Entry::Subscribed {
            epoch: text("epoch"),
            offset: number("offset"),
            was_recovering: event["wasRecovering"] == true,
            recovered: event["recovered"] == true,
        }),
        "subscribing" => Some(Entry::Interrupted { code: number("code") }),
        "unsubscribed" => Some(Entry::Unsubscribed { code: number("code") }),
        "pub" => Some(Entry::Publication {
            offset: number("offset"),
            from: event["data"]["from"].as_str().unwrap_or_default().to_owned(),
            seq: event["data"]["seq"].as_u64().unwrap_or(0),
        }),
        _ => None,
    }
}
