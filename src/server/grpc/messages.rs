//! The messages of the server API by gRPC: which call a request is, and how its result is written. Pure.
//!
//! In: the messages of [`api`]. Out: the same [`Call`]s that are read from JSON. And back: a [`Done`] to messages.

use super::maps;
use crate::{
    access::grant::{Flag, Overrides},
    protocol::{codes::ErrorCode, grpc::api, message},
    room::types::Query,
    server::{
        calls::{
            self, BATCH_LIMIT, Call, Disconnection, History, Publish, Reason, Refresh, Room,
            Subscribe, Target, bad_request,
        },
        results::{Called, Done, Outcome},
    },
};

/// A request of the API, and how it is answered.
pub trait Method: Send + 'static {
    /// What it comes to.
    type Result;
    /// That, or an error.
    type Response: From<Result<Self::Result, api::Error>> + Send;

    /// What is asked.
    fn call(self) -> Call;

    /// What came of it; none if that is not what this method comes to.
    fn result(done: Done) -> Option<Self::Result>;
}

macro_rules! methods {
    ($($request:ident, $response:ident, $result:ident: $call:expr, $made:expr;)+) => {$(
        impl Method for api::$request {
            type Result = api::$result;
            type Response = api::$response;

            fn call(self) -> Call {
                let call: fn(Self) -> Call = $call;
                call(self)
            }

            fn result(done: Done) -> Option<api::$result> {
                let made: fn(Done) -> Option<api::$result> = $made;
                made(done)
            }
        }

        impl From<Result<api::$result, api::Error>> for api::$response {
            fn from(outcome: Result<api::$result, api::Error>) -> Self {
                match outcome {
                    Ok(result) => Self { error: None, result: Some(result) },
                    Err(error) => Self { error: Some(error), result: None },
                }
            }
        }
    )+};
}

methods! {
    PublishRequest, PublishResponse, PublishResult: |it| Call::Publish(it.into()), published;
    BroadcastRequest, BroadcastResponse, BroadcastResult: |it| Call::Broadcast(it.into()), broadcast;
    SubscribeRequest, SubscribeResponse, SubscribeResult:
        subscribe, |it| controlled(&it).then_some(api::SubscribeResult {});
    UnsubscribeRequest, UnsubscribeResponse, UnsubscribeResult:
        |it| Call::Unsubscribe(target(it.user, it.client, it.session), Room { channel: it.channel }),
        |it| controlled(&it).then_some(api::UnsubscribeResult {});
    DisconnectRequest, DisconnectResponse, DisconnectResult:
        disconnect, |it| controlled(&it).then_some(api::DisconnectResult {});
    RefreshRequest, RefreshResponse, RefreshResult:
        refresh, |it| controlled(&it).then_some(api::RefreshResult {});
    PresenceRequest, PresenceResponse, PresenceResult:
        |it| Call::Query(Query::Presence, Room { channel: it.channel }), presence;
    PresenceStatsRequest, PresenceStatsResponse, PresenceStatsResult:
        |it| Call::Query(Query::PresenceStats, Room { channel: it.channel }), presence_stats;
    HistoryRequest, HistoryResponse, HistoryResult: history, history_result;
    HistoryRemoveRequest, HistoryRemoveResponse, HistoryRemoveResult:
        |it| Call::Query(Query::RemoveHistory, Room { channel: it.channel }),
        |it| published(it).map(|_| api::HistoryRemoveResult {});
    InfoRequest, InfoResponse, InfoResult: |_| Call::Info, info;
    ChannelsRequest, ChannelsResponse, ChannelsResult:
        |it| Call::Channels(calls::Channels { pattern: it.pattern }), channels;
    RpcRequest, RpcResponse, RpcResult: |_| Call::Rpc, |_| None;
    MapPublishRequest, MapPublishResponse, MapPublishResult:
        |it| Call::MapPublish(it.into()), maps::published;
    MapRemoveRequest, MapRemoveResponse, MapRemoveResult:
        |it| Call::MapRemove(it.into()), maps::removed;
    MapReadStateRequest, MapReadStateResponse, MapReadStateResult:
        |it| Call::MapReadState(it.into()), maps::state;
    MapReadStreamRequest, MapReadStreamResponse, MapReadStreamResult:
        |it| Call::MapReadStream(it.into()), maps::stream;
    MapStatsRequest, MapStatsResponse, MapStatsResult:
        |it| Call::MapStats(Room { channel: it.channel }), maps::stats;
    MapClearRequest, MapClearResponse, MapClearResult:
        |it| Call::MapClear(Room { channel: it.channel }), maps::cleared;
}

/// A call's result as the method has it.
pub fn result<M: Method>(called: Called) -> Result<M::Result, message::Error> {
    called.and_then(|done| M::result(done).ok_or_else(|| ErrorCode::Internal.into()))
}

/// An error as callers are told it.
pub fn error(error: message::Error) -> api::Error {
    api::Error { code: error.code, message: error.message }
}

macro_rules! publish {
    ($it:ident, $($room:ident),+) => {
        Publish {
            $($room: $it.$room,)+
            data: $it.data,
            b64data: $it.b64data,
            skip_history: $it.skip_history,
            tags: $it.tags,
            idempotency_key: $it.idempotency_key,
            delta: $it.delta,
            version: $it.version,
            version_epoch: $it.version_epoch,
            ..Publish::default()
        }
    };
}

impl From<api::PublishRequest> for Publish {
    fn from(it: api::PublishRequest) -> Self {
        publish!(it, channel)
    }
}

impl From<api::BroadcastRequest> for Publish {
    fn from(it: api::BroadcastRequest) -> Self {
        publish!(it, channels)
    }
}

fn target(user: Option<String>, client: String, session: String) -> Target {
    Target { user, client, session }
}

fn subscribe(it: api::SubscribeRequest) -> Call {
    let flag = |it: Option<api::BoolValue>| it.map(|it| Flag { value: it.value });
    let overrides = it.r#override.map(|it| Overrides {
        force_recovery: flag(it.force_recovery),
        force_positioning: flag(it.force_positioning),
        force_push_join_leave: flag(it.force_push_join_leave),
        presence: flag(it.presence),
        join_leave: flag(it.join_leave),
    });
    let subscribe = Subscribe {
        channel: it.channel,
        expire_at: it.expire_at,
        info: it.info,
        b64info: it.b64info,
        data: it.data,
        b64data: it.b64data,
        recover_since: it.recover_since.map(position),
        overrides,
    };
    Call::Subscribe(target(it.user, it.client, it.session), subscribe)
}

fn disconnect(it: api::DisconnectRequest) -> Call {
    let reason = |it: api::Disconnect| Reason { code: it.code, reason: it.reason };
    let disconnect =
        Disconnection { whitelist: it.whitelist, disconnect: it.disconnect.map(reason) };
    Call::Disconnect(target(it.user, it.client, it.session), disconnect)
}

fn refresh(it: api::RefreshRequest) -> Call {
    let refresh = Refresh { expired: it.expired, expire_at: it.expire_at, info: it.info };
    Call::Refresh(target(it.user, it.client, it.session), refresh)
}

fn history(it: api::HistoryRequest) -> Call {
    Call::History(History {
        channel: it.channel,
        limit: it.limit.into(),
        since: it.since.map(position),
        reverse: it.reverse,
    })
}

fn position(it: api::StreamPosition) -> message::StreamPosition {
    message::StreamPosition { offset: it.offset, epoch: it.epoch }
}

fn published(done: Done) -> Option<api::PublishResult> {
    match done {
        Done::Published(it) => Some(api::PublishResult { offset: it.offset, epoch: it.epoch }),
        Done::Nothing(_) => Some(api::PublishResult::default()),
        _ => None,
    }
}

fn broadcast(done: Done) -> Option<api::BroadcastResult> {
    let Done::Broadcast(it) = done else { return None };
    let response = |outcome| {
        let called = match outcome {
            Outcome::Result(done) => Ok(done),
            Outcome::Error(error) => Err(error),
        };
        result::<api::PublishRequest>(called).map_err(error).into()
    };
    Some(api::BroadcastResult { responses: it.responses.into_iter().map(response).collect() })
}

/// Which nodes did not answer has no field there.
fn controlled(done: &Done) -> bool {
    matches!(done, Done::Controlled(_))
}

fn client_info(it: message::ClientInfo) -> api::ClientInfo {
    let message::ClientInfo { user, client, conn_info, chan_info } = it;
    api::ClientInfo { user, client, conn_info, chan_info }
}

fn presence(done: Done) -> Option<api::PresenceResult> {
    let Done::Presence(it) = done else { return None };
    let presence = it.presence.into_iter().map(|(id, it)| (id, client_info(it))).collect();
    Some(api::PresenceResult { presence })
}

fn presence_stats(done: Done) -> Option<api::PresenceStatsResult> {
    let Done::PresenceStats(it) = done else { return None };
    Some(api::PresenceStatsResult { num_clients: it.num_clients, num_users: it.num_users })
}

fn history_result(done: Done) -> Option<api::HistoryResult> {
    let Done::History(it) = done else { return None };
    let publication = |it: message::Publication| api::Publication {
        data: it.data,
        info: it.info.map(client_info),
        offset: it.offset,
        tags: it.tags,
    };
    let publications = it.publications.into_iter().map(publication).collect();
    Some(api::HistoryResult { publications, epoch: it.epoch, offset: it.offset })
}

fn info(done: Done) -> Option<api::InfoResult> {
    let Done::Info(it) = done else { return None };
    let nodes = it.nodes.into_iter().map(|it| api::NodeResult {
        uid: it.uid,
        name: it.name,
        version: it.version,
        num_clients: it.num_clients,
        num_users: it.num_users,
        num_channels: it.num_channels,
        uptime: it.uptime,
        num_subs: it.num_subs,
    });
    Some(api::InfoResult { nodes: nodes.collect() })
}

fn channels(done: Done) -> Option<api::ChannelsResult> {
    let Done::Channels(it) = done else { return None };
    let channels = it
        .channels
        .into_iter()
        .map(|(room, it)| (room.to_string(), api::ChannelInfo { num_clients: it.num_clients }));
    Some(api::ChannelsResult { channels: channels.collect() })
}

/// How the reply to a command of a batch is made.
type MakeReply = fn(Done) -> Option<api::Reply>;

/// A command of a batch as a call, and how its reply is made.
type Command = Result<(Call, MakeReply), message::Error>;

macro_rules! command {
    ($command:ident, $($field:ident: $request:ident),+) => {{
        let mut given: Vec<(Call, MakeReply)> = Vec::new();
        $(if let Some(request) = $command.$field {
            let reply: MakeReply = |done| {
                let result = <api::$request as Method>::result(done)?;
                Some(api::Reply { $field: Some(result), ..api::Reply::default() })
            };
            given.push((request.call(), reply));
        })+
        given
    }};
}

fn command(command: api::Command) -> Command {
    let mut given = command!(
        command,
        publish: PublishRequest,
        broadcast: BroadcastRequest,
        subscribe: SubscribeRequest,
        unsubscribe: UnsubscribeRequest,
        disconnect: DisconnectRequest,
        presence: PresenceRequest,
        presence_stats: PresenceStatsRequest,
        history: HistoryRequest,
        history_remove: HistoryRemoveRequest,
        info: InfoRequest,
        rpc: RpcRequest,
        refresh: RefreshRequest,
        channels: ChannelsRequest,
        map_publish: MapPublishRequest,
        map_remove: MapRemoveRequest,
        map_read_state: MapReadStateRequest,
        map_read_stream: MapReadStreamRequest,
        map_stats: MapStatsRequest,
        map_clear: MapClearRequest
    );
    match (given.pop(), given.is_empty()) {
        (Some(one), true) => Ok(one),
        _ => Err(bad_request("a command has one field, that of its method")),
    }
}

/// The commands of a batch.
///
/// # Errors
/// If there are too many.
pub fn batch(batch: api::BatchRequest) -> Result<Vec<Command>, message::Error> {
    if batch.commands.len() > BATCH_LIMIT {
        return Err(bad_request(format!("commands must be no more than {BATCH_LIMIT}")));
    }
    Ok(batch.commands.into_iter().map(command).collect())
}

/// The reply to a command of a batch.
pub fn reply(made: Option<MakeReply>, called: Called) -> api::Reply {
    let reply = called
        .and_then(|done| made.and_then(|it| it(done)).ok_or_else(|| ErrorCode::Internal.into()));
    reply.unwrap_or_else(|why| api::Reply { error: Some(error(why)), ..api::Reply::default() })
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
