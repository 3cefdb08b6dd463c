//! What backends are asked and answer by gRPC: requests of sessions as messages, and what messages mean. Pure.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{
    options::{Backend, Verdict},
    request::{BackendRequest, Operation, OperationKind, TransportInfo},
    response::{self, BackendResponse, InvalidResponse, Publish, Refreshed},
    stream,
};
use crate::{
    access::grant::{Credentials, Flag, Grant, Overrides},
    protocol::{
        codec::Format,
        grpc::{framing, proxy},
    },
    queue::rights::Rights,
    room::types::Version,
};

/// The path of what is asked.
pub fn path(kind: OperationKind) -> &'static str {
    match kind {
        OperationKind::Connect => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Connect",
        OperationKind::Refresh => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Refresh",
        OperationKind::Subscribe => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Subscribe",
        OperationKind::Publish => "/centrifugal.centrifugo.proxy.CentrifugoProxy/Publish",
        OperationKind::SubRefresh => "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubRefresh",
        // Keys are asked for by HTTP only, and streams have paths of their own.
        OperationKind::SharedPollRefresh | OperationKind::SubscribeStream => "",
        OperationKind::Rpc => "/centrifugal.centrifugo.proxy.CentrifugoProxy/RPC",
    }
}

/// The path of a stream, in both directions or from the backend alone.
pub fn stream_path(both_ways: bool) -> &'static str {
    match both_ways {
        true => "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubscribeBidirectional",
        false => "/centrifugal.centrifugo.proxy.CentrifugoProxy/SubscribeUnidirectional",
    }
}

/// What a request says in each of the messages.
struct Common {
    client: String,
    transport: String,
    protocol: String,
    encoding: String,
    user: String,
    meta: Bytes,
    data: Bytes,
    b64data: String,
}

/// A message with some fields of [`Common`] under their names, and others.
macro_rules! message {
    ($it:ident, $kind:ident, [$($common:ident),*], $($own:tt)*) => {
        proxy::$kind {
            client: $it.client,
            transport: $it.transport,
            protocol: $it.protocol,
            encoding: $it.encoding,
            $($common: $it.$common,)*
            $($own)*
        }
    };
}

/// What a stream begins with, with what gRPC puts before a message.
pub fn stream_body(
    request: &BackendRequest,
    backend: &Backend,
    transport: TransportInfo,
    both_ways: bool,
) -> Bytes {
    match &request.operation {
        Operation::Subscribe { room, .. } if both_ways => {
            let it = common(request, backend, transport);
            stream::opening(subscribe_request(it, room))
        }
        _ => body(request, backend, transport),
    }
}

fn subscribe_request(it: Common, room: &str) -> proxy::SubscribeRequest {
    let channel = room.to_owned();
    message!(it, SubscribeRequest, [user, meta, data, b64data], channel)
}

/// The body of a request, with what gRPC puts before a message.
pub fn body(request: &BackendRequest, backend: &Backend, transport: TransportInfo) -> Bytes {
    let it = common(request, backend, transport);
    match &request.operation {
        // Who it is, is what is asked.
        Operation::Connect { name, version, .. } => {
            let (name, version) = (name.clone(), version.clone());
            framed(&message!(it, ConnectRequest, [data, b64data], name, version))
        }
        Operation::Refresh => framed(&message!(it, RefreshRequest, [user, meta],)),
        Operation::Subscribe { room, .. } => framed(&subscribe_request(it, room)),
        Operation::Publish { room, .. } => {
            let channel = room.clone();
            framed(&message!(it, PublishRequest, [user, meta, data, b64data], channel))
        }
        Operation::SubRefresh { room } => {
            let channel = room.clone();
            framed(&message!(it, SubRefreshRequest, [user, meta], channel))
        }
        Operation::Rpc { method, .. } => {
            let method = method.clone();
            framed(&message!(it, RpcRequest, [user, meta, data, b64data], method))
        }
    }
}

fn common(request: &BackendRequest, backend: &Backend, transport: TransportInfo) -> Common {
    let said = match &request.operation {
        Operation::Connect { data, .. }
        | Operation::Subscribe { data, .. }
        | Operation::Publish { data, .. }
        | Operation::Rpc { data, .. } => data.clone(),
        Operation::Refresh | Operation::SubRefresh { .. } => Bytes::new(),
    };
    let (data, b64data) = match backend.binary {
        true => (Bytes::new(), base64::engine::general_purpose::STANDARD.encode(&said)),
        false => (said, String::new()),
    };
    let protobuf = transport.format == Format::Protobuf;
    Common {
        client: request.client.client.to_string(),
        transport: transport.transport.to_owned(),
        protocol: if protobuf { "protobuf" } else { "json" }.to_owned(),
        encoding: if backend.binary { "binary" } else { "json" }.to_owned(),
        user: request.client.user.to_string(),
        meta: if backend.with_meta { request.meta.clone() } else { Bytes::new() },
        data,
        b64data,
    }
}

/// A message, with what gRPC puts before it.
pub(super) fn framed(message: &impl prost::Message) -> Bytes {
    let mut bytes = BytesMut::new();
    framing::append(message, &mut bytes);
    bytes.freeze()
}

/// What an answer of a backend has that is of any kind.
macro_rules! decided {
    ($message:ident, $kind:ident) => {{
        let answer = proxy::$kind::decode($message)?;
        match refused(answer.disconnect, answer.error)? {
            Some(refused) => return Ok(refused),
            None => answer.result,
        }
    }};
}

/// What a backend's answer to a question of this kind means.
///
/// # Errors
/// If it can't be told.
pub fn read(kind: OperationKind, message: Bytes) -> Result<BackendResponse, InvalidResponse> {
    Ok(match kind {
        OperationKind::Connect => {
            let result = decided!(message, ConnectResponse);
            BackendResponse::Connect(result.map(credentials).transpose()?.map(Box::new))
        }
        // Who says nothing about the end of something lets it end.
        OperationKind::Refresh => {
            BackendResponse::Refresh(match decided!(message, RefreshResponse) {
                Some(it) if !it.expired => Refreshed::GoesOn {
                    until: moment(it.expire_at),
                    info: payload("b64info", it.info, &it.b64info)?,
                    meta: it.meta,
                },
                _ => Refreshed::Expired,
            })
        }
        OperationKind::SubRefresh => {
            BackendResponse::SubRefresh(match decided!(message, SubRefreshResponse) {
                Some(it) if !it.expired => Refreshed::GoesOn {
                    until: moment(it.expire_at),
                    info: payload("b64info", it.info, &it.b64info)?,
                    meta: Bytes::new(),
                },
                _ => Refreshed::Expired,
            })
        }
        OperationKind::Subscribe => {
            return subscribed(proxy::SubscribeResponse::decode(message)?);
        }
        OperationKind::Publish => {
            let it = decided!(message, PublishResponse).ok_or(InvalidResponse::Empty)?;
            BackendResponse::Publish(Box::new(publish(it)?))
        }
        OperationKind::SharedPollRefresh | OperationKind::SubscribeStream => {
            return Err(InvalidResponse::Empty);
        }
        OperationKind::Rpc => {
            let it = decided!(message, RpcResponse).unwrap_or_default();
            BackendResponse::Rpc(payload("b64data", it.data, &it.b64data)?)
        }
    })
}

/// The same of an answer about a subscription, by itself or the first of a stream.
pub(super) fn subscribed(
    answer: proxy::SubscribeResponse,
) -> Result<BackendResponse, InvalidResponse> {
    if let Some(refused) = refused(answer.disconnect, answer.error)? {
        return Ok(refused);
    }
    // A permission has to be said.
    let it = answer.result.ok_or(InvalidResponse::Empty)?;
    Ok(BackendResponse::Subscribe(Box::new(Grant {
        expires_at: moment(it.expire_at),
        info: payload("b64info", it.info, &it.b64info)?,
        data: payload("b64data", it.data, &it.b64data)?,
        overrides: overrides(it.r#override),
        queue: (!it.allow.is_empty()).then(|| Rights::listed(&it.allow)),
    })))
}

fn refused(
    disconnect: Option<proxy::Disconnect>,
    error: Option<proxy::Error>,
) -> Result<Option<BackendResponse>, InvalidResponse> {
    if let Some(it) = disconnect {
        let verdict = Verdict::Disconnect(response::disconnect(it.code, it.reason)?);
        return Ok(Some(BackendResponse::Refused(verdict)));
    }
    let Some(it) = error else { return Ok(None) };
    let verdict = Verdict::Error(response::error(it.code, it.message, it.temporary)?);
    Ok(Some(BackendResponse::Refused(verdict)))
}

/// What is there in base64, or else as it is.
fn payload(key: &'static str, plain: Bytes, base64: &str) -> Result<Bytes, InvalidResponse> {
    if base64.is_empty() {
        return Ok(plain);
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(base64);
    decoded.map(Bytes::from).map_err(|_| InvalidResponse::Base64(key))
}

fn moment(at: i64) -> Option<i64> {
    (at > 0).then_some(at)
}

fn overrides(it: Option<proxy::SubscribeOptionOverride>) -> Overrides {
    let it = it.unwrap_or_default();
    let flag = |it: Option<proxy::BoolValue>| it.map(|it| Flag { value: it.value });
    Overrides {
        force_recovery: flag(it.force_recovery),
        force_positioning: flag(it.force_positioning),
        force_push_join_leave: flag(it.force_push_join_leave),
        presence: flag(it.presence),
        join_leave: flag(it.join_leave),
    }
}

fn credentials(it: proxy::ConnectResult) -> Result<Credentials, InvalidResponse> {
    let mut rooms = BTreeMap::new();
    for (room, it) in it.subs {
        let grant = Grant {
            expires_at: moment(it.expire_at),
            info: payload("b64info", it.info, &it.b64info)?,
            data: payload("b64data", it.data, &it.b64data)?,
            overrides: overrides(it.r#override),
            queue: None,
        };
        rooms.insert(room, grant);
    }
    for room in it.channels {
        rooms.entry(room).or_default();
    }
    Ok(Credentials {
        user: it.user.into(),
        info: payload("b64info", it.info, &it.b64info)?,
        expires_at: moment(it.expire_at),
        meta: it.meta,
        data: payload("b64data", it.data, &it.b64data)?,
        rooms: rooms.into_iter().collect(),
    })
}

fn publish(it: proxy::PublishResult) -> Result<Publish, InvalidResponse> {
    let data = payload("b64data", it.data, &it.b64data)?;
    let (key, epoch) = (it.idempotency_key, it.version_epoch.into());
    Ok(Publish {
        data: (!data.is_empty()).then_some(data),
        skip_history: it.skip_history,
        tags: it.tags,
        idempotency_key: (!key.is_empty()).then(|| key.into()),
        delta: it.delta,
        version: (it.version > 0).then_some(Version { number: it.version, epoch }),
    })
}

#[cfg(test)]
#[path = "messages_tests.rs"]
mod tests;
