//! SHELL. Does what calls of the server API ask, whichever way they came. Methods about rooms are in [`rooms`], those
//! about users' connections in [`control`], those about groups in [`queues`].

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{
    calls::{self, Call, bad_request},
    control, maps,
    parts::Parts,
    queues,
    results::{Called, Channels, Done, Info, Subscribers, names},
    rooms,
};
use crate::{
    protocol::{codes::ErrorCode, message},
    queue::name,
    room::{
        actor::ApiSurvey,
        types::{Finding, Findings, RoomName, Survey},
    },
};

/// Does what is asked.
pub(super) async fn execute(parts: &Parts, call: Call) -> Called {
    match call {
        Call::Publish(call) => rooms::publish(parts, call).await,
        Call::Broadcast(call) => rooms::broadcast(parts, call).await,
        Call::Subscribe(target, call) => control::subscribe(parts, target, call).await,
        Call::Unsubscribe(target, room) => control::unsubscribe(parts, target, room).await,
        Call::Disconnect(target, call) => control::disconnect(parts, target, call).await,
        Call::Refresh(target, call) => control::refresh(parts, target, call).await,
        Call::Query(query, room) => rooms::query(parts, query, room).await,
        Call::History(call) => rooms::history(parts, call).await,
        Call::Info => info(parts).await,
        Call::Channels(call) => channels(parts, call).await,
        Call::Drain => Ok(drain(parts)),
        Call::Pull(group, call) => queues::pull(parts, group, call).await,
        Call::Judge(word, said) => queues::judge(parts, word, said).await,
        Call::QueueInfo(group) => queues::info(parts, group).await,
        Call::Seek(group, call) => queues::seek(parts, group, call).await,
        Call::Purge(group) => queues::purge(parts, group).await,
        Call::RemoveQueue(group) => queues::remove(parts, group).await,
        Call::MapPublish(call) => maps::publish(parts, call).await,
        Call::MapRemove(call) => maps::remove(parts, call).await,
        Call::MapReadState(call) => maps::read_state(parts, call).await,
        Call::MapReadStream(call) => maps::read_stream(parts, call).await,
        Call::MapStats(room) => maps::stats(parts, room).await,
        Call::MapClear(room) => maps::clear(parts, room).await,
        Call::Rpc => Err(ErrorCode::MethodNotFound.into()),
    }
}

/// Does the calls of a batch: one after the other, or all at once. What could not be read is as it is.
pub(super) async fn execute_all(
    parts: &Parts,
    calls: impl Iterator<Item = Result<Call, message::Error>>,
    parallel: bool,
) -> Vec<Called> {
    let calls = calls.map(|call| async move { execute(parts, call?).await });
    if parallel {
        return futures_util::future::join_all(calls).await;
    }
    let mut results = Vec::new();
    for call in calls {
        results.push(call.await);
    }
    results
}

/// Whether a room may have such a name.
pub(super) fn check_channel(parts: &Parts, channel: &str) -> Result<(), message::Error> {
    let most = parts.config.channel_max_length;
    if channel.is_empty() || channel.len() > most {
        return Err(bad_request(format!("channel must have 1 to {most} bytes")));
    }
    if !name::is_allowed(channel) {
        return Err(bad_request("channel must not have a NUL"));
    }
    Ok(())
}

/// Asks every node through its link.
pub(super) async fn survey(parts: &Parts, survey: Survey) -> Result<Findings, message::Error> {
    let (reply, findings) = oneshot::channel();
    parts.registry.do_send(ApiSurvey(survey, reply));
    findings.await.map_err(|_| ErrorCode::Internal.into())
}

async fn info(parts: &Parts) -> Called {
    let findings = survey(parts, Survey::Info).await?;
    let nodes = (findings.found.into_iter())
        .filter_map(|(_, finding)| match finding {
            Finding::Info(facts) => Some(facts),
            Finding::Channels(_) | Finding::Controlled => None,
        })
        .collect();
    Ok(Done::Info(Info { nodes, missing: names(&findings.missing) }))
}

/// Asks this node to hand its rooms over, let its clients go, and end.
fn drain(parts: &Parts) -> Done {
    parts.leaving.ask();
    Done::nothing()
}

async fn channels(parts: &Parts, call: calls::Channels) -> Called {
    let findings = survey(parts, Survey::Channels(call.pattern)).await?;
    let mut channels: BTreeMap<RoomName, Subscribers> = BTreeMap::new();
    for (_, finding) in findings.found {
        if let Finding::Channels(rooms) = finding {
            for (room, clients) in rooms {
                channels.entry(room).or_default().num_clients += clients;
            }
        }
    }
    Ok(Done::Channels(Channels { channels, missing: names(&findings.missing) }))
}
