//! SHELL. The server API: `POST /api/<method>` with a JSON body, for backends that publish and look. Methods about
//! rooms are in [`rooms`], those about users' connections in [`control`].

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::{body, control, key, parts::Parts, rooms};
use crate::{
    cluster::node::NodeId,
    config::BODY_LIMIT,
    protocol::{codes::ErrorCode, message},
    room::{
        actor::ApiSurvey,
        types::{Finding, Findings, NodeFacts, Query, RoomName, Survey},
    },
};

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
        "publish" => rooms::publish(parts, body).await,
        "broadcast" => rooms::broadcast(parts, body).await,
        "subscribe" => control::subscribe(parts, body).await,
        "unsubscribe" => control::unsubscribe(parts, body).await,
        "disconnect" => control::disconnect(parts, body).await,
        "refresh" => control::refresh(parts, body).await,
        "presence" => rooms::query(parts, body, Query::Presence).await,
        "presence_stats" => rooms::query(parts, body, Query::PresenceStats).await,
        "history" => rooms::history(parts, body).await,
        "history_remove" => rooms::query(parts, body, Query::RemoveHistory).await,
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
    match body::read(body, BODY_LIMIT).await {
        Err(refusal) => Err(refuse(HttpResponse::build(refusal.status)).finish()),
        Ok(body) if body.is_empty() => Ok(Bytes::from_static(b"{}")),
        Ok(body) => Ok(body),
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
    use super::*;

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
