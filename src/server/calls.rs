//! The calls of the server API, whichever way they come: as JSON ([`super::calls_json`]) or by gRPC
//! ([`super::grpc`]). Pure.
//!
//! A [`Call`] is well formed; whether it can be done is for [`super::execution`] to say, and what it comes to is a
//! [`super::results::Done`].

use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::map_calls::{MapPublish, MapReadState, MapReadStream, MapRemove};
use crate::{
    access::grant::{Grant, Overrides},
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{Error, StreamPosition},
    },
    queue::{call as queue, tag},
    room::{
        control::{Action, Control},
        types::{NewPublication, Query, Since, Tags, Version},
    },
};

/// The longest idempotency key and version epoch, in bytes.
pub(super) const MAX_KEY: usize = 256;
/// The most calls of one batch.
pub const BATCH_LIMIT: usize = 1_000;

/// Something that a backend asks for.
#[derive(Debug)]
pub enum Call {
    /// Put a message into a room.
    Publish(Publish),
    /// Put one into many rooms.
    Broadcast(Publish),
    /// Put connections into a room.
    Subscribe(Target, Subscribe),
    /// Take them out of it.
    Unsubscribe(Target, Room),
    /// Close connections.
    Disconnect(Target, Disconnection),
    /// Change how long they live.
    Refresh(Target, Refresh),
    /// Ask something of a room that takes no more than its name.
    Query(Query, Room),
    /// Read what was said in a room.
    History(History),
    /// Tell of the nodes.
    Info,
    /// Tell of the rooms that have subscribers.
    Channels(Channels),
    /// Let this node leave.
    Drain,
    /// Give messages of a group.
    Pull(queue::Name, queue::Pull),
    /// Something is said of messages that were given.
    Judge(queue::Word, queue::Said),
    /// Tell how a group stands.
    QueueInfo(queue::Name),
    /// Let a group go on elsewhere.
    Seek(queue::Name, queue::Seek),
    /// Settle all that a group has not settled.
    Purge(queue::Name),
    /// Remove a group.
    RemoveQueue(queue::Name),
    /// Give a key of a map a value.
    MapPublish(MapPublish),
    /// Take it away.
    MapRemove(MapRemove),
    /// Read entries of a map.
    MapReadState(MapReadState),
    /// Read its changes.
    MapReadStream(MapReadStream),
    /// Count its entries.
    MapStats(Room),
    /// Take all of them away.
    MapClear(Room),
    /// Call an extension, of which there are none.
    Rpc,
}

/// An error that says what is wrong with a request.
pub fn bad_request(why: impl std::fmt::Display) -> Error {
    let mut error = Error::from(ErrorCode::BadRequest);
    error.message = format!("bad request: {why}");
    error
}

/// What is said in base64, or else as it is.
fn bytes(key: &str, plain: Bytes, base64: &str) -> Result<Bytes, Error> {
    if base64.is_empty() {
        return Ok(plain);
    }
    base64::engine::general_purpose::STANDARD
        .decode(base64)
        .map(Bytes::from)
        .map_err(|_| bad_request(format!("{key} is not base64")))
}

/// A payload of `most` bytes at most, which is half of what may wait for a client.
///
/// # Errors
/// If it has more, or is said in base64 that is none.
pub fn payload(key: &str, json: Bytes, base64: &str, most: usize) -> Result<Bytes, Error> {
    let data = bytes(key, json, base64)?;
    if data.len() <= most {
        return Ok(data);
    }
    let mut error = Error::from(ErrorCode::LimitExceeded);
    error.message = format!(
        "limit exceeded: data has {} bytes, {most} are allowed, half of client.queue_max_size",
        data.len()
    );
    Err(error)
}

fn raw(json: Box<RawValue>) -> Bytes {
    String::from(Box::<str>::from(json)).into()
}

/// A payload in JSON, which may be `null`.
pub(super) fn any<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    Box::<RawValue>::deserialize(from).map(raw)
}

/// A payload in JSON, of which `null` is none.
fn some<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    Option::<Box<RawValue>>::deserialize(from).map(|it| it.map_or_else(Bytes::new, raw))
}

/// A message for rooms.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Publish {
    /// The room, where there is one.
    pub channel: String,
    /// The rooms, where there are several.
    pub channels: Vec<String>,
    /// The message,
    #[serde(deserialize_with = "any")]
    pub data: Bytes,
    /// or the same in base64, which goes first.
    pub b64data: String,
    /// It is not to be kept.
    pub skip_history: bool,
    /// What else is said of it.
    pub tags: Tags,
    /// A repeat with the same key publishes nothing; empty: there is none.
    pub idempotency_key: String,
    /// Subscribers that can may get only what differs from the message before.
    pub delta: bool,
    /// What is not newer than what the room has is not published; 0: it has none.
    pub version: u64,
    /// Versions are compared with those of the same epoch.
    pub version_epoch: String,
    /// Groups give it no earlier than after this time,
    pub delay: Option<queue::Length>,
    /// or than at this one, in Unix time,
    pub publish_at: Option<f64>,
    /// and no later than after this.
    pub ttl: Option<queue::Length>,
}

impl Publish {
    /// The publication, `now` in Unix time; `outbox` is what may wait for a client: what does not fit in would close every subscriber,
    /// and more than the half might.
    ///
    /// # Errors
    /// If it is too large, or its payload is said in base64 that is none.
    pub fn publication(self, outbox: usize, now: f64) -> Result<NewPublication, Error> {
        let data = payload("b64data", self.data, &self.b64data, outbox / 2)?;
        let key = self.idempotency_key;
        for (name, value) in [("idempotency_key", &key), ("version_epoch", &self.version_epoch)] {
            if value.len() > MAX_KEY {
                return Err(bad_request(format!("{name} has more than {MAX_KEY} bytes")));
            }
        }
        let mut tags = self.tags;
        let millis = |it: Duration| it.as_millis().to_string();
        let delay = match (self.delay, self.publish_at) {
            (Some(_), Some(_)) => return Err(bad_request("say delay or publish_at, not both")),
            (Some(delay), None) => Some(delay.0),
            (None, Some(at)) => Some(
                Duration::try_from_secs_f64((at - now).max(0.0))
                    .map_err(|_| bad_request("publish_at is no Unix time"))?,
            ),
            (None, None) => None,
        };
        tags.extend(delay.map(|it| (tag::DELAY.to_owned(), millis(it))));
        tags.extend(self.ttl.map(|it| (tag::TTL.to_owned(), millis(it.0))));
        let version = Version { number: self.version, epoch: self.version_epoch.into() };
        Ok(NewPublication {
            data,
            info: None,
            tags,
            idempotency_key: (!key.is_empty()).then(|| key.into()),
            skip_history: self.skip_history,
            version: (version.number > 0).then_some(version),
            delta: self.delta,
        })
    }
}

/// A room.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Room {
    /// Its name.
    pub channel: String,
}

/// What is to be read of a room's history.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct History {
    /// The room.
    pub channel: String,
    /// The most publications; 0: none, only the position; less: as many as may be.
    pub limit: i64,
    /// Where to begin.
    pub since: Option<StreamPosition>,
    /// The newest first.
    pub reverse: bool,
}

/// Which rooms are to be told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Channels {
    /// What their names look like.
    pub pattern: String,
}

/// Whose connections are meant: those of a user, or of an empty one those that have no user; of them only one, if it
/// is named.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Target {
    /// The user; none: whoever is named below.
    pub user: Option<String>,
    /// The id of a connection; empty: any.
    pub client: String,
    /// The session of a connection; empty: any.
    pub session: String,
}

impl Target {
    /// What is done to those connections.
    ///
    /// # Errors
    /// If nobody is named: whoever forgets the user does not mean everyone who has none.
    pub fn control(self, action: Action) -> Result<Control, Error> {
        let Self { user, client, session } = self;
        if user.is_none() && client.is_empty() && session.is_empty() {
            return Err(bad_request(
                "user is needed, or client or session; an empty user stands for all connections without one",
            ));
        }
        Ok(Control { user: user.unwrap_or_default(), client, session, action })
    }
}

/// What comes with a room that connections are put into.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Subscribe {
    /// The room.
    pub channel: String,
    /// When the subscription ends, in seconds of Unix time; 0: it does not.
    pub expire_at: i64,
    /// What others may know of the client in the room,
    #[serde(deserialize_with = "some")]
    pub info: Bytes,
    /// or the same in base64, which goes first.
    pub b64info: String,
    /// What the application says to the client,
    #[serde(deserialize_with = "some")]
    pub data: Bytes,
    /// or the same in base64, which goes first.
    pub b64data: String,
    /// Where the client stopped, if it is to get what it missed.
    pub recover_since: Option<StreamPosition>,
    /// Where the subscription differs from the room's options.
    #[serde(rename = "override")]
    pub overrides: Option<Overrides>,
}

impl Subscribe {
    /// What is done to the connections.
    ///
    /// # Errors
    /// If something is said in base64 that is none.
    pub fn action(self) -> Result<Action, Error> {
        let grant = Grant {
            expires_at: (self.expire_at > 0).then_some(self.expire_at),
            info: bytes("b64info", self.info, &self.b64info)?,
            data: bytes("b64data", self.data, &self.b64data)?,
            overrides: self.overrides.unwrap_or_default(),
            queue: None,
        };
        let since = self.recover_since.map(|it| Since { epoch: it.epoch, offset: it.offset });
        Ok(Action::Subscribe { room: self.channel, grant, since })
    }
}

/// How connections are closed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Disconnection {
    /// The ids of connections that stay.
    pub whitelist: Vec<String>,
    /// What clients are told.
    pub disconnect: Option<Reason>,
}

/// What clients are told whose connections are closed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// A code from 3000 to 4999; 0: the usual one.
    pub code: u32,
    /// The same in words.
    pub reason: String,
}

/// The longest reason: that of a close frame and its code are 125 bytes.
const MAX_REASON: usize = 123;

impl Disconnection {
    /// What is done to the connections. Without a code they are told to stay away.
    ///
    /// # Errors
    /// If they can't be told that code, or that reason.
    pub fn action(self) -> Result<Action, Error> {
        let except = self.whitelist;
        let Some(Reason { code, reason }) = self.disconnect.filter(|it| it.code != 0) else {
            let (code, reason) = Disconnect::ForceNoReconnect.parts();
            return Ok(Action::Disconnect { code, reason: reason.to_owned(), except });
        };
        let code = u16::try_from(code).ok().filter(|it| (3000..5000).contains(it));
        let code = code.ok_or_else(|| bad_request("disconnect.code must be in 3000 to 4999"))?;
        if reason.len() > MAX_REASON {
            return Err(bad_request(format!("disconnect.reason has more than {MAX_REASON} bytes")));
        }
        Ok(Action::Disconnect { code, reason, except })
    }
}

/// How long connections live from now on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refresh {
    /// They end now.
    pub expired: bool,
    /// When they end, in seconds of Unix time; 0: they don't.
    pub expire_at: i64,
    /// What others may know of the user from now on; empty: as before.
    #[serde(deserialize_with = "some")]
    pub info: Bytes,
}

impl Refresh {
    /// What is done to the connections.
    pub fn action(self) -> Action {
        Action::Refresh {
            expired: self.expired,
            expires_at: (self.expire_at > 0).then_some(self.expire_at),
            info: (!self.info.is_empty()).then_some(self.info),
        }
    }
}
