//! The calls of the server API, as they are read from the bodies of requests: one to a body, several in a batch, or
//! one to a line. Pure.
//!
//! In: a method and JSON, or a whole body. Out: a [`Call`] that is well formed. What is not well formed is refused
//! before anything of its body is done.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::calls::{BATCH_LIMIT, Call, bad_request};
use crate::{
    protocol::{codes::ErrorCode, message::Error, nulls},
    queue::call as queue,
    room::types::Query,
};

/// The most commands of one body that has one to a line.
const LINES_LIMIT: usize = 10_000;

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

/// A request that says nothing.
#[derive(Deserialize)]
struct Nothing {}

/// A payload, which may be any JSON, and so `null` as well.
#[derive(Debug, Default)]
struct Payload(Option<Box<RawValue>>);

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(from).map(|it| Self(Some(it)))
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
#[path = "calls_json_tests.rs"]
mod tests;
