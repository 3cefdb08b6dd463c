//! SHELL. The server API: `POST /api/<method>` with a JSON body, or `POST /api` with commands, for backends that
//! publish and look. [`calls`] reads what is asked; methods about rooms are in [`rooms`], those about users'
//! connections in [`control`].

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{
    admission::Refusal,
    body,
    calls::{self, Batch, Call, Channels, Line, Unread, bad_request},
    control, cors, key, maps,
    parts::Parts,
    queues, rooms,
};
use crate::{
    cluster::node::NodeId,
    config::BODY_LIMIT,
    protocol::{codes::ErrorCode, message},
    queue::name,
    room::{
        actor::ApiSurvey,
        types::{Finding, Findings, NodeFacts, RoomName, Survey},
    },
};

/// The methods, under `/api`.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/api", web::post().to(commands));
    app.route("/api/{method}", web::post().to(call));
    app.route("/openapi.json", web::get().to(description));
}

/// The API as OpenAPI describes it. It is public: calls need the key all the same.
const DESCRIPTION: &str = include_str!("openapi.json");

async fn description() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DESCRIPTION)
}

/// One call, or a batch of them.
async fn call(
    parts: web::Data<Parts>,
    method: web::Path<String>,
    request: HttpRequest,
    body: web::Payload,
) -> HttpResponse {
    let body = match admitted(&parts, &request, body).await {
        Ok(body) if body.is_empty() => Bytes::from_static(b"{}"),
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    if *method == "batch" {
        return match calls::batch(&body) {
            Ok(batch) => HttpResponse::Ok().json(perform_all(&parts, batch).await),
            Err(error) => malformed(error),
        };
    }
    let result = match calls::read(&method, &body) {
        Ok(call) => perform(&parts, call).await,
        Err(Unread::Body(error)) => return malformed(error),
        Err(Unread::Method) => {
            return HttpResponse::NotFound().json(Outcome::Error(Unread::Method.into()));
        }
    };
    let transport_errors = (request.headers().get("X-Centrifugo-Error-Mode"))
        .is_some_and(|mode| mode.as_bytes() == b"transport");
    let status = match &result {
        Err(it) if transport_errors => status_of(it.code),
        _ => StatusCode::OK,
    };
    HttpResponse::build(status).json(Outcome::from(result))
}

/// Commands that name their methods, one to a line, as many libraries have sent them since before each method had
/// a path of its own. They are done one after the other, and answered in the same way.
async fn commands(
    parts: web::Data<Parts>,
    request: HttpRequest,
    body: web::Payload,
) -> HttpResponse {
    let body = match admitted(&parts, &request, body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    let lines = match calls::lines(&body) {
        Ok(lines) => lines,
        Err(error) => return malformed(error),
    };
    let mut replies = Vec::new();
    for Line { id, call } in lines {
        let outcome = match call {
            Ok(call) => perform(&parts, call).await,
            Err(error) => Err(error),
        };
        if !replies.is_empty() {
            replies.push(b'\n');
        }
        let reply = Reply { id, outcome: outcome.into() };
        if let Err(error) = serde_json::to_writer(&mut replies, &reply) {
            tracing::error!(%error, "a reply of the API could not be written");
            return HttpResponse::InternalServerError().finish();
        }
    }
    HttpResponse::Ok().content_type("application/json").body(replies)
}

/// The answer to one of those commands.
#[derive(Serialize)]
struct Reply {
    #[serde(skip_serializing_if = "is_zero")]
    id: u32,
    #[serde(flatten)]
    outcome: Outcome,
}

fn is_zero(id: &u32) -> bool {
    *id == 0
}

/// One for each call of a batch, in their order, where other methods have their result.
#[derive(Serialize)]
struct Replies {
    replies: Vec<BTreeMap<String, Box<RawValue>>>,
}

/// Does the calls of a batch: one after the other, or all at once.
async fn perform_all(parts: &Parts, batch: Batch) -> Replies {
    let calls = batch.calls.into_iter().map(|call| one_of_batch(parts, call));
    let replies = if batch.parallel {
        futures_util::future::join_all(calls).await
    } else {
        let mut replies = Vec::new();
        for call in calls {
            replies.push(call.await);
        }
        replies
    };
    Replies { replies }
}

/// A reply names the method that it is for; a failure is an `error` in its place.
async fn one_of_batch(
    parts: &Parts,
    call: Result<(String, Call), message::Error>,
) -> BTreeMap<String, Box<RawValue>> {
    let called = match call {
        Ok((method, call)) => perform(parts, call).await.map(|result| (method, result)),
        Err(error) => Err(error),
    };
    let (name, value) = match called {
        Ok((method, result)) => (method, result),
        Err(error) => ("error".to_owned(), written(&plain(error)).unwrap_or_default()),
    };
    [(name, value)].into_iter().collect()
}

/// Does what is asked.
async fn perform(parts: &Parts, call: Call) -> Called {
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
        Call::Drain => drain(parts),
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

/// The answer to a body that is not what it should be. Nothing of it has been done.
fn malformed(error: message::Error) -> HttpResponse {
    HttpResponse::BadRequest().json(Outcome::Error(error))
}

/// The body of a request with the key.
async fn admitted(
    parts: &Parts,
    request: &HttpRequest,
    mut body: web::Payload,
) -> Result<Bytes, HttpResponse> {
    let read = match authorized(parts, request) {
        true => body::read(&mut body, BODY_LIMIT).await,
        // Nothing of the body is kept: callers without the key must not fill the memory.
        false => Err(Refusal::new(StatusCode::UNAUTHORIZED, WITHOUT_KEY)),
    };
    match read {
        Ok(read) => Ok(read),
        Err(refusal) => {
            body::discard(&mut body).await;
            Err(cors::refuse(parts, request.head(), refusal))
        }
    }
}

/// What callers are told whose key is missing or wrong.
const WITHOUT_KEY: &str = "the key (http_api.key) is missing or wrong: give it as `X-API-Key: KEY` or \
                           `Authorization: apikey KEY`";

fn status_of(code: u32) -> StatusCode {
    match code {
        102 | 104 => StatusCode::NOT_FOUND,
        107 | 108 => StatusCode::BAD_REQUEST,
        112 => StatusCode::RANGE_NOT_SATISFIABLE,
        113 => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The key may come in a header of its own, as `Authorization: apikey K`, or in the query.
fn authorized(parts: &Parts, request: &HttpRequest) -> bool {
    if parts.config.api_insecure {
        return true;
    }
    let access = parts.access.load();
    let Some(expected) = &access.api_key else { return false };
    let header = |name: &str| request.headers().get(name).and_then(|it| it.to_str().ok());
    let given = header("X-API-Key")
        .or_else(|| header("Authorization").and_then(key::in_authorization))
        .map(str::to_owned)
        .or_else(|| key::in_query(request.query_string()))
        .unwrap_or_default();
    key::ApiKey::new(expected).is(&given)
}

/// A call's result as it is written: payloads go through unread, so that no number is rounded on the way.
pub(super) type Called = Result<Box<RawValue>, message::Error>;

/// The outcome of a call: `{"result": …}` or `{"error": …}`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It is done.
    Result(Box<RawValue>),
    /// It is not.
    Error(#[serde(serialize_with = "without_temporary")] message::Error),
}

impl From<Called> for Outcome {
    fn from(called: Called) -> Self {
        called.map_or_else(Self::Error, Self::Result)
    }
}

/// An error of the API has a code and a message only.
fn without_temporary<S: serde::Serializer>(
    error: &message::Error,
    to: S,
) -> Result<S::Ok, S::Error> {
    plain(error.clone()).serialize(to)
}

/// An error as callers of the API are told it.
pub(super) fn plain(error: message::Error) -> message::Error {
    message::Error { temporary: false, ..error }
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

pub(super) fn written<T: Serialize>(result: &T) -> Called {
    serde_json::value::to_raw_value(result).map_err(|error| {
        tracing::error!(%error, "a result of the API could not be written");
        ErrorCode::Internal.into()
    })
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
    written(&Info { nodes, missing: names(&findings.missing) })
}

#[derive(Serialize)]
struct Info {
    nodes: Vec<NodeFacts>,
    /// The nodes that did not answer, so that no one takes a part for the whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

/// Asks this node to hand its rooms over, let its clients go, and end.
fn drain(parts: &Parts) -> Called {
    parts.leaving.ask();
    written(&serde_json::json!({}))
}

async fn channels(parts: &Parts, call: Channels) -> Called {
    let findings = survey(parts, Survey::Channels(call.pattern)).await?;
    let mut channels: BTreeMap<RoomName, Subscribers> = BTreeMap::new();
    for (_, finding) in findings.found {
        if let Finding::Channels(rooms) = finding {
            for (room, clients) in rooms {
                channels.entry(room).or_default().num_clients += clients;
            }
        }
    }
    written(&Rooms { channels, missing: names(&findings.missing) })
}

#[derive(Serialize)]
struct Rooms {
    channels: BTreeMap<RoomName, Subscribers>,
    /// As in [`Info`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

#[derive(Default, Serialize)]
struct Subscribers {
    num_clients: u32,
}

pub(super) fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every method, in the order of the alphabet.
    const METHODS: [&str; 30] = [
        "batch",
        "broadcast",
        "channels",
        "disconnect",
        "drain",
        "history",
        "history_remove",
        "info",
        "map_clear",
        "map_publish",
        "map_read_state",
        "map_read_stream",
        "map_remove",
        "map_stats",
        "presence",
        "presence_stats",
        "publish",
        "queue_ack",
        "queue_extend",
        "queue_info",
        "queue_nack",
        "queue_pull",
        "queue_purge",
        "queue_reject",
        "queue_remove",
        "queue_seek",
        "refresh",
        "rpc",
        "subscribe",
        "unsubscribe",
    ];

    #[test]
    fn every_method_is_described_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(DESCRIPTION).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        let mut described: Vec<&str> =
            paths.keys().filter_map(|path| path.strip_prefix("/api/")).collect();
        described.sort_unstable();
        assert_eq!(described, METHODS);
        for method in METHODS.into_iter().filter(|it| *it != "batch") {
            assert_ne!(calls::read(method, b"{}").err(), Some(Unread::Method), "{method}");
        }
        assert_eq!(calls::read("batch", b"{}").err(), Some(Unread::Method));
    }
}
