//! A client that consumes messages of a group: how it asks for that, and what it says of the messages.
//!
//! It subscribes to the room with `{"group": …, "prefetch": …}` as the data of its subscribe, and is then a member of the
//! group's room. What it says of messages are RPCs whose names begin with `queue.`.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{commands::Outcome, settings::Env, state::Session};
use crate::{
    protocol::{codes::ErrorCode, message::RpcRequest, nulls},
    queue::{
        call::{self, Pull, Said, Seek, Word},
        name,
        rights::Rights,
    },
    room::{
        options::RoomOptions,
        types::{GroupRequest, ReplyTo, Request},
    },
};

/// Begins the names of RPCs that are about groups.
const PREFIX: &str = "queue.";
/// How many messages a consumer has at a time that says nothing else.
const PREFETCH: u32 = 16;

/// What a client consumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Consumes {
    pub(super) group: String,
    /// None: it pulls.
    pub(super) prefetch: u32,
    /// What the client may do with the group.
    pub(super) rights: Rights,
}

/// What a client wants to consume by this subscribe, if its room has groups and it names one.
///
/// # Errors
/// If it may not, given its rights in the room, or says it wrongly.
pub(super) fn wanted(
    data: &[u8],
    rights: Rights,
    options: &RoomOptions,
) -> Result<Option<Consumes>, ErrorCode> {
    let Some(queue) = &options.queue else { return Ok(None) };
    let Ok(data) = serde_json::from_slice::<Map<String, Value>>(data) else { return Ok(None) };
    let Some(group) = data.get("group").filter(|it| !it.is_null()) else { return Ok(None) };
    let group = group.as_str().filter(|it| name::is_allowed(it)).ok_or(ErrorCode::BadRequest)?;
    if !rights.consume || !queue.options.allows(group) {
        return Err(ErrorCode::PermissionDenied);
    }
    let prefetch = match data.get("prefetch") {
        None | Some(Value::Null) => PREFETCH,
        // More than there can be is as many as there may be.
        Some(Value::Number(it)) if it.as_f64().is_some_and(|it| it >= 0.0) => {
            it.as_u64().and_then(|it| u32::try_from(it).ok()).unwrap_or(u32::MAX)
        }
        Some(_) => return Err(ErrorCode::BadRequest),
    };
    Ok(Some(Consumes { group: group.to_owned(), prefetch, rights }))
}

impl Session {
    /// Whether an RPC is about groups.
    pub(super) fn is_about_groups(method: &str) -> bool {
        method.starts_with(PREFIX)
    }

    /// Takes an RPC about groups.
    pub(super) fn queue_rpc(&mut self, id: u32, request: &RpcRequest, env: Env<'_>) -> Outcome {
        let method = request.method.strip_prefix(PREFIX).unwrap_or_default();
        let about = parsed::<call::Name>(&request.data)?;
        let client = self.info.client;
        let subscription = self.subscription(&about.channel).filter(|it| it.is_live());
        let subscription = subscription.ok_or(ErrorCode::PermissionDenied)?;
        let (room, rights) = (subscription.room.clone(), subscription.rights());
        let group = name::group(&room).ok_or(ErrorCode::PermissionDenied)?;
        let judge = |word| -> Result<GroupRequest, ErrorCode> {
            let said = parsed::<Said>(&request.data)?;
            let (of, deliveries) = said.deliveries().map_err(|_| ErrorCode::BadRequest)?;
            if of != group {
                return Err(ErrorCode::BadRequest);
            }
            Ok(GroupRequest::Judge { verdict: said.verdict(word), deliveries, by: Some(client) })
        };
        let asked = match method {
            "info" => GroupRequest::Facts,
            "pull" => {
                let pull = parsed::<Pull>(&request.data)?;
                // As JSON in a JSON reply, bytes may take more than they are.
                let bytes = u32::try_from(env.reply_limit() / 2).unwrap_or(u32::MAX);
                let by = Some(client);
                GroupRequest::Pull { most: pull.most(), wait: pull.wait(), by, bytes }
            }
            "ack" if rights.ack => judge(Word::Ack)?,
            "nack" if rights.ack => judge(Word::Nack)?,
            "reject" if rights.ack => judge(Word::Reject)?,
            "extend" if rights.ack => judge(Word::Extend)?,
            "seek" if rights.seek => {
                let start = parsed::<Seek>(&request.data)?.start();
                GroupRequest::Seek(start.map_err(|_| ErrorCode::BadRequest)?)
            }
            "purge" if rights.seek => GroupRequest::Purge,
            "remove" if rights.seek => GroupRequest::Remove,
            "ack" | "nack" | "reject" | "extend" | "seek" | "purge" | "remove" => {
                return Err(ErrorCode::PermissionDenied.into());
            }
            _ => return Err(ErrorCode::MethodNotFound.into()),
        };
        let to = ReplyTo::Command { socket: self.socket, id };
        Ok(Some((room, Request::Group(asked.into(), to))))
    }
}

fn parsed<T: DeserializeOwned>(data: &[u8]) -> Result<T, ErrorCode> {
    nulls::from_slice(data).map_err(|_| ErrorCode::BadRequest)
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
        let rights = Rights { consume: true, ..Rights::default() };
        let consumes =
            |prefetch| Ok(Some(Consumes { group: "mailer".to_owned(), prefetch, rights }));
        for (data, expected) in [
            ("", Ok(None)),
            ("[1]", Ok(None)),
            (r#"{"a": 1}"#, Ok(None)),
            (r#"{"group": null}"#, Ok(None)),
            (r#"{"group": "mailer"}"#, consumes(16)),
            (r#"{"group": "mailer", "prefetch": 3, "a": 1}"#, consumes(3)),
            (r#"{"group": "mailer", "prefetch": 18446744073709551616}"#, consumes(u32::MAX)),
            (r#"{"group": "mailer", "prefetch": 0}"#, consumes(0)),
            (r#"{"group": "mailer", "prefetch": -1}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": "mailer", "prefetch": "3"}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": 3}"#, Err(ErrorCode::BadRequest)),
            (r#"{"group": "other"}"#, Err(ErrorCode::PermissionDenied)),
        ] {
            assert_eq!(wanted(data.as_bytes(), rights, &options), expected, "{data}");
        }
        let none = RoomOptions::default();
        let mailer = br#"{"group": "mailer"}"#;
        assert_eq!(wanted(mailer, rights, &none), Ok(None), "it is only data there");
        let refused = Err(ErrorCode::PermissionDenied);
        assert_eq!(wanted(mailer, Rights::default(), &options), refused);
    }
}
