//! The calls of the server API, as they are read from the bodies of requests: one to a body, several in a batch, or
//! one to a line. Pure.
//!
//! In: a method and JSON, or a whole body. Out: a [`Call`] that is well formed; whether it can be done is for
//! [`super::rooms`] and [`super::control`] to say. What is not well formed is refused before anything of its body is
//! done.

use std::{collections::BTreeMap, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::map_calls::{MapPublish, MapReadState, MapReadStream, MapRemove};
use crate::{
    access::grant::{Grant, Overrides},
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{Error, StreamPosition},
        nulls,
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
const BATCH_LIMIT: usize = 1_000;
/// The most commands of one body that has one to a line.
const LINES_LIMIT: usize = 10_000;

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

/// Why there is no call.
#[derive(Debug, PartialEq)]
pub enum Unread {
    /// There is no such method.
    Method,
    /// The body is not what the method takes.
    Body(Error),
}

impl From<Unread> for Error {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Method => ErrorCode::MethodNotFound.into(),
            Unread::Body(error) => error,
        }
    }
}

/// Reads the body of a method that is called alone.
///
/// # Errors
/// If there is no such method, or it takes something else.
pub fn read(method: &str, body: &[u8]) -> Result<Call, Unread> {
    Ok(match method {
        "publish" => Call::Publish(fields(body)?),
        "broadcast" => Call::Broadcast(fields(body)?),
        "subscribe" => Call::Subscribe(fields(body)?, fields(body)?),
        "unsubscribe" => Call::Unsubscribe(fields(body)?, fields(body)?),
        "disconnect" => Call::Disconnect(fields(body)?, fields(body)?),
        "refresh" => Call::Refresh(fields(body)?, fields(body)?),
        "presence" => Call::Query(Query::Presence, fields(body)?),
        "presence_stats" => Call::Query(Query::PresenceStats, fields(body)?),
        "history" => Call::History(fields(body)?),
        "history_remove" => Call::Query(Query::RemoveHistory, fields(body)?),
        "info" => fields::<Nothing>(body).map(|_| Call::Info)?,
        "channels" => Call::Channels(fields(body)?),
        "drain" => fields::<Nothing>(body).map(|_| Call::Drain)?,
        "queue_pull" => Call::Pull(fields(body)?, fields(body)?),
        "queue_ack" => Call::Judge(queue::Word::Ack, fields(body)?),
        "queue_nack" => Call::Judge(queue::Word::Nack, fields(body)?),
        "queue_reject" => Call::Judge(queue::Word::Reject, fields(body)?),
        "queue_extend" => Call::Judge(queue::Word::Extend, fields(body)?),
        "queue_info" => Call::QueueInfo(fields(body)?),
        "queue_seek" => Call::Seek(fields(body)?, fields(body)?),
        "queue_purge" => Call::Purge(fields(body)?),
        "queue_remove" => Call::RemoveQueue(fields(body)?),
        "map_publish" => Call::MapPublish(fields(body)?),
        "map_remove" => Call::MapRemove(fields(body)?),
        "map_read_state" => Call::MapReadState(fields(body)?),
        "map_read_stream" => Call::MapReadStream(fields(body)?),
        "map_stats" => Call::MapStats(fields(body)?),
        "map_clear" => Call::MapClear(fields(body)?),
        "rpc" => fields::<Nothing>(body).map(|_| Call::Rpc)?,
        _ => return Err(Unread::Method),
    })
}

fn fields<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unread> {
    nulls::from_slice(body).map_err(|error| Unread::Body(bad_request(error)))
}

/// An error that says what is wrong with a request.
pub fn bad_request(why: impl std::fmt::Display) -> Error {
    let mut error = Error::from(ErrorCode::BadRequest);
    error.message = format!("bad request: {why}");
    error
}

/// What is said in base64, or else as JSON.
fn bytes(key: &str, json: Option<Box<RawValue>>, base64: &str) -> Result<Bytes, Error> {
    if base64.is_empty() {
        return Ok(json.map_or_else(Bytes::new, raw));
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
pub fn payload(
    key: &str,
    json: Option<Box<RawValue>>,
    base64: &str,
    most: usize,
) -> Result<Bytes, Error> {
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

/// A request that says nothing.
#[derive(Deserialize)]
struct Nothing {}

/// A payload, which may be any JSON, and so `null` as well.
#[derive(Debug, Default)]
pub struct Payload(pub(super) Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(from).map(|it| Self(Some(it)))
    }
}

/// A message for rooms.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Publish {
    /// The room, where there is one.
    pub channel: String,
    /// The rooms, where there are several.
    pub channels: Vec<String>,
    data: Payload,
    b64data: String,
    skip_history: bool,
    tags: Tags,
    idempotency_key: String,
    delta: bool,
    version: u64,
    version_epoch: String,
    /// Groups give it no earlier than after this time,
    delay: Option<queue::Length>,
    /// or than at this one, in Unix time,
    publish_at: Option<f64>,
    /// and no later than after this.
    ttl: Option<queue::Length>,
}

impl Publish {
    /// The publication, `now` in Unix time; `outbox` is what may wait for a client: what does not fit in would close every subscriber,
    /// and more than the half might.
    ///
    /// # Errors
    /// If it is too large, or its payload is said in base64 that is none.
    pub fn publication(self, outbox: usize, now: f64) -> Result<NewPublication, Error> {
        let data = payload("b64data", self.data.0, &self.b64data, outbox / 2)?;
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
    user: Option<String>,
    client: String,
    session: String,
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
    expire_at: i64,
    info: Option<Box<RawValue>>,
    b64info: String,
    data: Option<Box<RawValue>>,
    b64data: String,
    recover_since: Option<StreamPosition>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
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
    whitelist: Vec<String>,
    disconnect: Option<Reason>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    code: u32,
    reason: String,
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
    expired: bool,
    expire_at: i64,
    info: Option<Box<RawValue>>,
}

impl Refresh {
    /// What is done to the connections.
    pub fn action(self) -> Action {
        Action::Refresh {
            expired: self.expired,
            expires_at: (self.expire_at > 0).then_some(self.expire_at),
            info: self.info.map(raw),
        }
    }
}

/// Several calls in one body.
#[derive(Debug)]
pub struct Batch {
    /// Each with its method, or why there is none.
    pub calls: Vec<Result<(String, Call), Error>>,
    /// All at once, not one after the other.
    pub parallel: bool,
}

/// Reads a batch.
///
/// # Errors
/// If it is none, or what one of its methods is given is not what it takes.
pub fn batch(body: &[u8]) -> Result<Batch, Error> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Typed {
        commands: Vec<BTreeMap<String, Payload>>,
        parallel: bool,
    }
    let typed: Typed = nulls::from_slice(body).map_err(bad_request)?;
    if typed.commands.len() > BATCH_LIMIT {
        return Err(bad_request(format!("commands must be no more than {BATCH_LIMIT}")));
    }
    let calls = typed.commands.into_iter().map(one_of_batch).collect::<Result<_, _>>()?;
    Ok(Batch { calls, parallel: typed.parallel })
}

/// A command of a batch: an object whose one key is the method. The outer error is for the whole batch.
fn one_of_batch(
    command: BTreeMap<String, Payload>,
) -> Result<Result<(String, Call), Error>, Error> {
    let given = command.into_iter().filter_map(|(method, Payload(request))| {
        Some((method, request.filter(|it| it.get() != "null")?))
    });
    let given: Vec<(String, Box<RawValue>)> = given.collect();
    let [(method, request)] = given.as_slice() else {
        return Ok(Err(bad_request("a command is an object with one key, the method")));
    };
    match read(method, request.get().as_bytes()) {
        Ok(call) => Ok(Ok((method.clone(), call))),
        Err(Unread::Method) if method == "batch" => Ok(Err(bad_request("no batch in a batch"))),
        Err(Unread::Method) => Ok(Err(Unread::Method.into())),
        Err(Unread::Body(error)) => Err(error),
    }
}

/// A command of a body that has one to a line.
#[derive(Debug)]
pub struct Line {
    /// The caller's number for it; its reply has the same.
    pub id: u32,
    /// What is called, or why it can't be.
    pub call: Result<Call, Error>,
}

/// Reads the commands of a body that has one to a line, or otherwise one after the other.
///
/// # Errors
/// If one of them is no command. Whether its method takes what it is given, is its own affair.
pub fn lines(body: &[u8]) -> Result<Vec<Line>, Error> {
    #[derive(Deserialize)]
    struct Command {
        #[serde(default)]
        id: u32,
        method: String,
        #[serde(default)]
        params: Option<Box<RawValue>>,
    }
    let mut lines = Vec::new();
    let commands = serde_json::Deserializer::from_slice(body).into_iter::<Box<RawValue>>();
    for (index, command) in commands.enumerate() {
        if index == LINES_LIMIT {
            return Err(bad_request(format!("no more than {LINES_LIMIT} commands at once")));
        }
        let command = command.and_then(|it| nulls::from_slice::<Command>(it.get().as_bytes()));
        let Command { id, method, params } =
            command.map_err(|error| bad_request(format!("command {}: {error}", index + 1)))?;
        let params = params.as_ref().map_or("{}", |it| it.get());
        let call = read(&method.to_ascii_lowercase(), params.as_bytes()).map_err(Error::from);
        lines.push(Line { id, call });
    }
    if lines.is_empty() {
        return Err(bad_request(r#"no command: {"method": …, "params": {…}}, one to a line"#));
    }
    Ok(lines)
}

#[cfg(test)]
#[path = "calls_tests.rs"]
mod tests;
