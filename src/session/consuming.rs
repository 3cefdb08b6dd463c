//! A client that consumes messages of a group: how it asks for that, and what it says of the messages.
//!
//! It subscribes to the room with `{"group": …, "prefetch": …}` as the data of its subscribe, and is then a member of the
//! group's room. What it says of messages are RPCs whose names begin with `queue.`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    commands::{Outcome, Refusal},
    state::Session,
};
use crate::{
    protocol::{codes::ErrorCode, message::RpcRequest, nulls},
    queue::{group::Verdict, name, tag::Delivery},
    room::{
        options::RoomOptions,
        types::{GroupRequest, ReplyTo, Request},
    },
};

/// Begins the names of RPCs that are about groups.
const PREFIX: &str = "queue.";
/// How many messages a consumer has at a time that says nothing else.
const PREFETCH: u32 = 16;
/// The most deliveries that are named at a time.
pub const MOST_DELIVERIES: usize = 1_000;
/// The longest that a message may wait, or be worked on, for one word.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);

/// What a client consumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumes {
    pub(super) group: String,
    pub(super) prefetch: u32,
}

/// What a client wants to consume by this subscribe, if its room has groups and it names one.
pub(super) fn wanted(data: &[u8], options: &RoomOptions) -> Result<Option<Consumes>, ErrorCode> {
    let Some(queue) = &options.queue else { return Ok(None) };
    let Ok(data) = serde_json::from_slice::<Map<String, Value>>(data) else { return Ok(None) };
    let Some(group) = data.get("group").filter(|it| !it.is_null()) else { return Ok(None) };
    let group = group.as_str().filter(|it| name::is_allowed(it)).ok_or(ErrorCode::BadRequest)?;
    if !queue.options.allows(group) {
        return Err(ErrorCode::PermissionDenied);
    }
    let prefetch = match data.get("prefetch") {
        None | Some(Value::Null) => PREFETCH,
        // More than there can be is as many as there may be.
        Some(Value::Number(it)) if it.as_f64().is_some_and(|it| it >= 1.0) => {
            it.as_u64().and_then(|it| u32::try_from(it).ok()).unwrap_or(u32::MAX)
        }
        Some(_) => return Err(ErrorCode::BadRequest),
    };
    Ok(Some(Consumes { group: group.to_owned(), prefetch }))
}

/// A length of time in a request: seconds, or a text like "1m30s".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Length(pub Duration);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong =
            || serde::de::Error::custom("a length of time is seconds or a text like \"1m30s\"");
        match Value::deserialize(from)? {
            Value::Number(it) => it.as_f64().and_then(|it| Duration::try_from_secs_f64(it).ok()),
            Value::String(it) => humantime::parse_duration(&it).ok(),
            _ => None,
        }
        .map(Self)
        .ok_or_else(wrong)
    }
}

impl Length {
    /// As long as that, if it is not longer than may be.
    pub fn bounded(self) -> Duration {
        self.0.min(LONGEST)
    }
}

/// What is said of messages.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    channel: String,
    deliveries: Vec<String>,
    delay: Option<Length>,
    by: Option<Length>,
}

impl Session {
    /// Whether an RPC is about groups.
    pub(super) fn is_about_groups(method: &str) -> bool {
        method.starts_with(PREFIX)
    }

    /// Takes an RPC about groups.
    pub(super) fn queue_rpc(&mut self, id: u32, request: &RpcRequest) -> Outcome {
        let method = request.method.strip_prefix(PREFIX).unwrap_or_default();
        let said: Said = nulls::from_slice(&request.data).map_err(|_| ErrorCode::BadRequest)?;
        let verdict = match method {
            "ack" => Some(Verdict::Ack),
            "nack" => Some(Verdict::Nack(said.delay.map(Length::bounded))),
            "reject" => Some(Verdict::Reject),
            "extend" => Some(Verdict::Extend(said.by.map(Length::bounded))),
            "info" => None,
            // By the server API.
            "pull" | "seek" | "remove" | "purge" => return Err(ErrorCode::PermissionDenied.into()),
            _ => return Err(ErrorCode::MethodNotFound.into()),
        };
        let room = self.subscription(&said.channel).filter(|it| it.is_live());
        let room = room.map(|it| it.room.clone()).ok_or(ErrorCode::PermissionDenied)?;
        let group = name::group(&room).ok_or(ErrorCode::PermissionDenied)?;
        let to = ReplyTo::Command { socket: self.socket, id };
        let Some(verdict) = verdict else {
            return Ok(Some((room, Request::Group(GroupRequest::Facts.into(), to))));
        };
        let deliveries = deliveries(&said.deliveries, group).map_err(Refusal::Error)?;
        let by = Some(self.info.client);
        let request = GroupRequest::Judge { verdict, deliveries, by };
        Ok(Some((room, Request::Group(request.into(), to))))
    }
}

/// Deliveries of this group, as a consumer names them.
///
/// # Errors
/// If there are none, too many, or one that is none of this group.
pub fn deliveries(tags: &[String], group: &str) -> Result<Vec<Delivery>, ErrorCode> {
    if tags.is_empty() || tags.len() > MOST_DELIVERIES {
        return Err(ErrorCode::BadRequest);
    }
    let one = |tag: &String| match Delivery::parse(tag) {
        Some((delivery, of)) if of == group => Ok(delivery),
        _ => Err(ErrorCode::BadRequest),
    };
    tags.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::options::QueueOptions;

    #[test]
    fn a_consumer_names_its_group_and_how_much_it_has_at_a_time() {
        let groups = vec!["mailer".to_owned()];
        let queue = QueueOptions { groups, ..QueueOptions::default() };
        let options = RoomOptions::default().with_queue(queue);
        let consumes = |prefetch| Ok(Some(Consumes { group: "mailer".to_owned(), prefetch }));
        for (data, expected) in [
            ("", Ok(None)),
            ("[1]", Ok(None)),
            (r#"{"a": 1}"#, Ok(None)),
            (r#"{"group": null}"#, Ok(None)),
            (r#"{"group": "mailer"}"#, consumes(16)),
            (r#"{"group": "mailer", "prefetch": 3, "a": 1}"#, consumes(3)),
            (r#"{"group": "mailer", "prefetch": 18446744073709551616}"#, consumes(u32::MAX)),
            (r#"{"group": "mailer", "prefetch": 0}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": "mailer", "prefetch": "3"}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": 3}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": "other"}"#, Err(ErrorCode::PermissionDenied)),
        ] {
            assert_eq!(wanted(data.as_bytes(), &options), expected, "{data}");
        }
        let none = RoomOptions::default();
        assert_eq!(wanted(br#"{"group": "mailer"}"#, &none), Ok(None), "it is only data there");
    }

    #[test]
    fn lengths_of_time_are_seconds_or_texts() {
        for (text, millis) in
            [("1.5", Some(1_500)), ("\"2m\"", Some(120_000)), ("-1", None), ("[]", None)]
        {
            let read = serde_json::from_str::<Length>(text).ok();
            assert_eq!(read.map(|it| it.0.as_millis()), millis, "{text}");
        }
    }
}
