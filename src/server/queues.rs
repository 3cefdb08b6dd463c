//! SHELL. The methods of the server API about groups of consumers: for backends that consume without a socket, and for
//! operators.

use std::time::Instant;

use serde_json::value::RawValue;

use super::{
    calls::bad_request,
    execution::check_channel,
    parts::Parts,
    results::{Called, Done},
    rooms::{answer_of, failed},
};
use crate::{
    protocol::{codes::ErrorCode, message},
    queue::{
        call::{Name, Pull, Said, Seek, Word},
        name,
    },
    room::types::{Answer, GroupAnswer, GroupRequest, Request},
    session::reply,
};

/// Gives messages to whoever asks, as soon as there are any.
pub(super) async fn pull(parts: &Parts, group: Name, call: Pull) -> Called {
    let (most, until) = (call.most(), Instant::now() + call.wait());
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let request = GroupRequest::Pull { most, wait: left, by: None, bytes: u32::MAX };
        match ask(parts, &group.channel, &group.group, request).await? {
            GroupAnswer::Pulled(messages) if messages.is_empty() && !left.is_zero() => {}
            answer => return json(&answer),
        }
    }
}

/// Takes what is said of deliveries.
pub(super) async fn judge(parts: &Parts, word: Word, said: Said) -> Called {
    let (verdict, (group, deliveries)) =
        (said.verdict(word), said.deliveries().map_err(bad_request)?);
    let request = GroupRequest::Judge { verdict, deliveries, by: None };
    tell(parts, &said.channel, &group, request).await
}

/// Tells how a group stands.
pub(super) async fn info(parts: &Parts, group: Name) -> Called {
    tell(parts, &group.channel, &group.group, GroupRequest::Facts).await
}

/// Lets a group go on elsewhere, whatever was settled.
pub(super) async fn seek(parts: &Parts, group: Name, seek: Seek) -> Called {
    let start = seek.start().map_err(bad_request)?;
    tell(parts, &group.channel, &group.group, GroupRequest::Seek(start)).await
}

/// Settles everything that there is now.
pub(super) async fn purge(parts: &Parts, group: Name) -> Called {
    tell(parts, &group.channel, &group.group, GroupRequest::Purge).await
}

/// Removes a group.
pub(super) async fn remove(parts: &Parts, group: Name) -> Called {
    tell(parts, &group.channel, &group.group, GroupRequest::Remove).await
}

async fn tell(parts: &Parts, channel: &str, group: &str, request: GroupRequest) -> Called {
    let answer = ask(parts, channel, group, request).await?;
    json(&answer)
}

fn json(answer: &GroupAnswer) -> Called {
    let json = String::from_utf8(reply::group(answer).to_vec()).unwrap_or_default();
    RawValue::from_string(json).map(Done::Group).map_err(|_| ErrorCode::Internal.into())
}

/// Asks a group, which the namespace has to allow.
async fn ask(
    parts: &Parts,
    channel: &str,
    group: &str,
    request: GroupRequest,
) -> Result<GroupAnswer, message::Error> {
    check_channel(parts, channel)?;
    let settings = parts.sessions.load();
    let options = settings.namespaces.options(channel).ok_or(ErrorCode::UnknownChannel)?;
    let queue = options.queue.as_ref();
    if !queue.is_some_and(|it| name::is_allowed(group) && it.options.allows(group)) {
        return Err(bad_request(format!(
            "the namespace of the channel has no group {group:?}: see queue.groups of its options"
        )));
    }
    let room = name::of_group(channel, group);
    drop(settings);
    match answer_of(parts, &room, move |to| Request::Group(request.into(), to)).await? {
        Answer::Group(answer) => Ok(answer),
        Answer::Failed(why) => Err(failed(why)),
        _ => Err(ErrorCode::Internal.into()),
    }
}
