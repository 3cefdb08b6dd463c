//! SHELL. The server API: `POST /api/<method>` with a JSON body, for backends that publish and look.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{control, key, parts::Parts};
use crate::{
    cluster::node::NodeId,
    config::BODY_LIMIT,
    protocol::{codes::ErrorCode, message},
    room::{
        actor::{ApiRequest, ApiSurvey},
        types::{
            Answer, Finding, Findings, HistoryFilter, NewPublication, NodeFacts, Query, ReplyTo,
            Request, RoomName, Since, Survey, Tags, Version,
        },
    },
    session::reply,
};

/// The most publications that one call returns.
const HISTORY_LIMIT: usize = 10_000;
/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest idempotency key and version epoch, in bytes.
const MAX_KEY: usize = 256;
/// The most rooms that one broadcast goes to.
const BROADCAST_LIMIT: usize = 10_000;
/// The most publications of one broadcast that are under way: more than that would fill the rooms' mailbox and
/// the queues of links, and hold up or cut off what else goes there.
const UNDER_WAY: usize = 64;
/// The most bytes of them.
const BYTES_UNDER_WAY: usize = 1 << 20;

/// Every method that is called with one request.
const METHODS: &[&str] = &[
    "publish",
    "broadcast",
    "subscribe",
    "unsubscribe",
    "disconnect",
    "refresh",
    "presence",
    "presence_stats",
    "history",
    "history_remove",
    "info",
    "channels",
    "drain",
    "rpc",
];

/// The methods, under `/api`.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/api/{method}", web::post().to(call));
    app.route("/openapi.json", web::get().to(description));
}

/// The API as OpenAPI describes it. It is public: calls need the key all the same.
const DESCRIPTION: &str = include_str!("openapi.json");

async fn description() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(DESCRIPTION)
}

async fn call(
    parts: web::Data<Parts>,
    method: web::Path<String>,
    request: HttpRequest,
    body: web::Payload,
) -> HttpResponse {
    // Before any of the body is read: callers without the key must not fill the memory.
    if !authorized(&parts, &request) {
        return refuse(HttpResponse::Unauthorized()).finish();
    }
    let body = match read(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    if let Err(problem) = serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
        return HttpResponse::BadRequest().json(Outcome::Error(bad_request(problem)));
    }
    let result = match method.as_str() {
        // Its replies stand where other methods have their result.
        "batch" => match control::batch(&parts, &body).await {
            Ok(replies) => return HttpResponse::Ok().json(replies),
            Err(error) => Err(error),
        },
        method if METHODS.contains(&method) => dispatch(&parts, method, &body).await,
        _ => {
            let error = ErrorCode::MethodNotFound.into();
            return HttpResponse::NotFound().json(Outcome::Error(error));
        }
    };
    let transport_errors = (request.headers().get("X-Centrifugo-Error-Mode"))
        .is_some_and(|mode| mode.as_bytes() == b"transport");
    let status = match &result {
        Err(it) if transport_errors => status_of(it.code),
        _ => actix_web::http::StatusCode::OK,
    };
    HttpResponse::build(status).json(Outcome::from(result))
}

/// Calls a method.
pub(super) async fn dispatch(parts: &Parts, method: &str, body: &[u8]) -> Called {
    match method {
        "publish" => publish(parts, body).await,
        "broadcast" => broadcast(parts, body).await,
        "subscribe" => control::subscribe(parts, body).await,
        "unsubscribe" => control::unsubscribe(parts, body).await,
        "disconnect" => control::disconnect(parts, body).await,
        "refresh" => control::refresh(parts, body).await,
        "presence" => room(parts, body, Query::Presence).await,
        "presence_stats" => room(parts, body, Query::PresenceStats).await,
        "history" => history(parts, body).await,
        "history_remove" => room(parts, body, Query::RemoveHistory).await,
        "info" => info(parts).await,
        "channels" => channels(parts, body).await,
        "drain" => drain(parts),
        // Those of Centrifugo's extensions, of which there are none here.
        _ => Err(ErrorCode::MethodNotFound.into()),
    }
}

/// The connection ends with the answer: what else comes of the request is not read.
fn refuse(mut response: actix_web::HttpResponseBuilder) -> actix_web::HttpResponseBuilder {
    response.insert_header((header::CONNECTION, "close"));
    response
}

/// The whole body; an empty one is an empty request.
async fn read(body: web::Payload) -> Result<Bytes, HttpResponse> {
    match tokio::time::timeout(BODY_TIMEOUT, body.to_bytes_limited(BODY_LIMIT)).await {
        Err(_) => Err(refuse(HttpResponse::RequestTimeout()).finish()),
        Ok(Err(_)) => Err(refuse(HttpResponse::PayloadTooLarge()).finish()),
        Ok(Ok(Err(_))) => Err(refuse(HttpResponse::BadRequest()).finish()),
        Ok(Ok(Ok(body))) if body.is_empty() => Ok(Bytes::from_static(b"{}")),
        Ok(Ok(Ok(body))) => Ok(body),
    }
}

fn status_of(code: u32) -> actix_web::http::StatusCode {
    use actix_web::http::StatusCode;
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
    let Some(expected) = &parts.config.api_key else { return false };
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

/// `{"result": …}` or `{"error": …}`.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Result(Box<RawValue>),
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

/// What is given as JSON, or else in base64.
pub(super) fn bytes(
    key: &str,
    json: Option<&RawValue>,
    base64: Option<&str>,
) -> Result<Bytes, message::Error> {
    match (json, base64.unwrap_or_default()) {
        (Some(json), _) => Ok(Bytes::copy_from_slice(json.get().as_bytes())),
        (None, text) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| bad_request(format!("{key} is not base64"))),
    }
}

/// Whether a room may have such a name.
pub(super) fn check_channel(parts: &Parts, channel: &str) -> Result<(), message::Error> {
    let most = parts.config.channel_max_length;
    if channel.is_empty() || channel.len() > most {
        return Err(bad_request(format!("channel must have 1 to {most} bytes")));
    }
    Ok(())
}

pub(super) fn written<T: Serialize>(result: &T) -> Called {
    serde_json::value::to_raw_value(result).map_err(|error| {
        tracing::error!(%error, "a result of the API could not be written");
        ErrorCode::Internal.into()
    })
}

pub(super) fn bad_request(why: impl std::fmt::Display) -> message::Error {
    let mut error = message::Error::from(ErrorCode::BadRequest);
    error.message = format!("bad request: {why}");
    error
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, message::Error> {
    serde_json::from_slice(body).map_err(bad_request)
}

#[derive(Deserialize)]
struct Publish {
    #[serde(default)]
    channel: String,
    #[serde(default)]
    channels: Vec<String>,
    data: Option<Box<RawValue>>,
    #[serde(default)]
    b64data: String,
    #[serde(default)]
    skip_history: bool,
    #[serde(default)]
    tags: Tags,
    #[serde(default)]
    idempotency_key: String,
    #[serde(default)]
    delta: bool,
    #[serde(default)]
    version: u64,
    #[serde(default)]
    version_epoch: String,
}

impl Publish {
    /// The publication; `limit` is what an outbox holds: more would close every subscriber.
    fn publication(&self, limit: usize) -> Result<NewPublication, message::Error> {
        let data = bytes("b64data", self.data.as_deref(), Some(&self.b64data))?;
        if data.len() > limit / 2 {
            let mut error = message::Error::from(ErrorCode::LimitExceeded);
            let (has, most) = (data.len(), limit / 2);
            error.message =
                format!("data has {has} bytes, {most} (half of client.queue_max_size) are allowed");
            return Err(error);
        }
        let key = self.idempotency_key.as_str();
        for (name, value) in [("idempotency_key", key), ("version_epoch", &self.version_epoch)] {
            if value.len() > MAX_KEY {
                return Err(bad_request(format!("{name} has more than {MAX_KEY} bytes")));
            }
        }
        let version = Version { number: self.version, epoch: self.version_epoch.as_str().into() };
        Ok(NewPublication {
            data,
            info: None,
            tags: self.tags.clone(),
            idempotency_key: (!key.is_empty()).then(|| key.into()),
            skip_history: self.skip_history,
            version: (self.version > 0).then_some(version),
            delta: self.delta,
        })
    }
}

async fn publish(parts: &Parts, body: &[u8]) -> Called {
    let call: Publish = parse(body)?;
    let publication = call.publication(parts.config.client.queue_max_size)?;
    publish_to(parts, &call.channel, publication).await
}

/// What the room's namespace says of publications holds here too. One without a namespace is refused there.
async fn publish_to(parts: &Parts, channel: &str, mut publication: NewPublication) -> Called {
    if let Some(options) = parts.config.namespaces.options(channel) {
        publication.delta |= options.delta_publish;
        if !options.data_format.accepts(&publication.data) {
            return Err(bad_request(match publication.data.is_empty() {
                true => "data or b64data is needed",
                false => "data is not in the namespace's publication_data_format",
            }));
        }
    }
    ask(parts, channel, move |to| Request::Publish(publication, to)).await
}

async fn broadcast(parts: &Parts, body: &[u8]) -> Called {
    let call: Publish = parse(body)?;
    let publication = call.publication(parts.config.client.queue_max_size)?;
    if call.channels.is_empty() || call.channels.len() > BROADCAST_LIMIT {
        return Err(bad_request(format!("channels must name 1 to {BROADCAST_LIMIT} rooms")));
    }
    let most = under_way(publication.data.len());
    let answers = call.channels.iter().map(|it| publish_to(parts, it, publication.clone()));
    let responses = paced(answers, most).await.into_iter().map(Outcome::from).collect();
    written(&Responses { responses })
}

/// How many publications of `bytes` bytes each may be under way.
fn under_way(bytes: usize) -> usize {
    (BYTES_UNDER_WAY / bytes.max(1)).clamp(1, UNDER_WAY)
}

/// Does things in their order, up to `most` at a time: the next begins when the first of those under way is
/// done. What comes of them is in their order, too.
async fn paced<F: Future>(things: impl Iterator<Item = F>, most: usize) -> Vec<F::Output> {
    stream::iter(things).buffered(most).collect().await
}

#[derive(Serialize)]
struct Responses {
    responses: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Room {
    channel: String,
}

async fn room(parts: &Parts, body: &[u8], query: Query) -> Called {
    let call: Room = parse(body)?;
    let options = parts.config.namespaces.options(&call.channel);
    let presence = matches!(query, Query::Presence | Query::PresenceStats);
    if options.is_some_and(|it| presence && !it.presence) {
        return Err(ErrorCode::NotAvailable.into());
    }
    ask(parts, &call.channel, move |to| Request::Query(query, to)).await
}

#[derive(Deserialize)]
struct History {
    channel: String,
    #[serde(default)]
    limit: i64,
    since: Option<message::StreamPosition>,
    #[serde(default)]
    reverse: bool,
}

async fn history(parts: &Parts, body: &[u8]) -> Called {
    let call: History = parse(body)?;
    let filter = HistoryFilter {
        limit: usize::try_from(call.limit).unwrap_or(HISTORY_LIMIT).min(HISTORY_LIMIT),
        since: call.since.map(|it| Since { epoch: it.epoch, offset: it.offset }),
        reverse: call.reverse,
    };
    ask(parts, &call.channel, move |to| Request::Query(Query::History(filter), to)).await
}

async fn ask(
    parts: &Parts,
    channel: &str,
    request: impl FnOnce(ReplyTo) -> Request + Send + 'static,
) -> Called {
    check_channel(parts, channel)?;
    let (reply, answer) = oneshot::channel();
    let request = Box::new(request);
    parts.registry.do_send(ApiRequest { room: channel.into(), request, reply });
    match answer.await {
        Ok(answer) => result(answer),
        Err(_) => Err(ErrorCode::Internal.into()),
    }
}

/// The words of the client protocol are those of the API, where both have them.
fn result(answer: Answer) -> Called {
    if let Answer::Published(position) = answer {
        let position = position
            .map(|it| message::StreamPosition { offset: it.offset, epoch: it.epoch.to_string() });
        return position.map_or_else(|| written(&message::Empty {}), |it| written(&it));
    }
    let reply = reply::answer(0, answer, usize::MAX);
    match (reply.error, reply.body) {
        (Some(error), _) => Err(error),
        (_, Some(message::ReplyBody::Presence(result))) => written(&result),
        (_, Some(message::ReplyBody::PresenceStats(result))) => written(&result),
        (_, Some(message::ReplyBody::History(result))) => written(&result),
        (_, _) => Err(ErrorCode::Internal.into()),
    }
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

#[derive(Deserialize)]
struct Channels {
    #[serde(default)]
    pattern: String,
}

async fn channels(parts: &Parts, body: &[u8]) -> Called {
    let call: Channels = parse(body)?;
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
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn a_broadcast_is_taken_in_at_the_pace_of_its_rooms() {
        for (bytes, expected) in [(0, 64), (100, 64), (20_000, 52), (524_288, 2), (9 << 20, 1)] {
            assert_eq!(under_way(bytes), expected, "{bytes} bytes");
        }
        let (now, most, order) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let (now, most, order) = (&now, &most, &order);
        let things = (0..500_u64).map(|number| async move {
            now.set(now.get() + 1);
            most.set(now.get().max(most.get()));
            order.borrow_mut().push(number);
            // Later ones are often answered sooner.
            tokio::time::sleep(Duration::from_micros(number * 7919 % 3000)).await;
            now.set(now.get() - 1);
            number
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let done = runtime.expect("a runtime").block_on(paced(things, 64));
        assert!(done.iter().copied().eq(0..500), "answers in order");
        assert!(order.borrow().iter().copied().eq(0..500), "asked in order");
        assert_eq!(most.get(), 64);
    }

    #[test]
    fn every_method_is_described_and_no_other() {
        let description: serde_json::Value = serde_json::from_str(DESCRIPTION).expect("JSON");
        let paths = description["paths"].as_object().expect("paths");
        let mut described: Vec<&str> =
            paths.keys().filter_map(|path| path.strip_prefix("/api/")).collect();
        let mut methods = METHODS.to_vec();
        methods.push("batch");
        methods.sort_unstable();
        described.sort_unstable();
        assert_eq!(described, methods);
    }
}
