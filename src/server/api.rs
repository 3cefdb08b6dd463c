//! SHELL. The server API: `POST /api/<method>` with a JSON body, for backends that publish and look.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, web};
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;

use super::http::Parts;
use crate::{
    protocol::{codes::ErrorCode, message},
    room::{
        actor::{ApiAsk, ApiSurvey},
        types::{
            Answer, Finding, Findings, HistoryFilter, NewPublication, Query, ReplyTo, Request,
            Since, Survey, Tags,
        },
    },
    session::reply,
};

/// The most publications that one call returns.
const HISTORY_LIMIT: usize = 10_000;
/// The most rooms that one broadcast goes to.
const BROADCAST_LIMIT: usize = 10_000;

/// The methods, under `/api`.
pub fn routes(app: &mut web::ServiceConfig) {
    app.route("/api/{method}", web::post().to(call));
}

async fn call(
    parts: web::Data<Parts>,
    method: web::Path<String>,
    request: HttpRequest,
    body: Bytes,
) -> HttpResponse {
    if !authorized(&parts, &request) {
        return HttpResponse::Unauthorized().finish();
    }
    // An empty body is an empty request.
    let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
    if let Err(problem) = serde_json::from_slice::<serde::de::IgnoredAny>(&body) {
        return HttpResponse::BadRequest().json(error(bad_request(problem)));
    }
    let result = match method.as_str() {
        "publish" => publish(&parts, &body).await,
        "broadcast" => broadcast(&parts, &body).await,
        "presence" => room(&parts, &body, Query::Presence).await,
        "presence_stats" => room(&parts, &body, Query::PresenceStats).await,
        "history" => history(&parts, &body).await,
        "history_remove" => room(&parts, &body, Query::RemoveHistory).await,
        "info" => info(&parts).await,
        "channels" => channels(&parts, &body).await,
        _ => return HttpResponse::NotFound().json(error(ErrorCode::MethodNotFound.into())),
    };
    let transport_errors = (request.headers().get("X-Centrifugo-Error-Mode"))
        .is_some_and(|mode| mode.as_bytes() == b"transport");
    match result {
        Ok(result) => HttpResponse::Ok().json(json!({ "result": result })),
        Err(it) if transport_errors => HttpResponse::build(status_of(it.code)).json(error(it)),
        Err(it) => HttpResponse::Ok().json(error(it)),
    }
}

fn error(error: message::Error) -> Value {
    json!({"error": {"code": error.code, "message": error.message}})
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
    let in_query = || {
        let pairs = request.query_string().split('&').filter_map(|it| it.split_once('='));
        pairs.into_iter().find(|(name, _)| *name == "api_key").map(|(_, key)| key)
    };
    let given = header("X-API-Key")
        .or_else(|| header("Authorization").and_then(|it| it.strip_prefix("apikey ")))
        .or_else(in_query)
        .unwrap_or_default();
    given.as_bytes().ct_eq(expected.as_bytes()).into()
}

type Outcome = Result<Value, message::Error>;

fn bad_request(why: impl std::fmt::Display) -> message::Error {
    let mut error = message::Error::from(ErrorCode::BadRequest);
    error.message = format!("bad request: {why}");
    error
}

fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, message::Error> {
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
}

impl Publish {
    fn publication(&self) -> Result<NewPublication, message::Error> {
        let data = match (&self.data, self.b64data.as_str()) {
            (Some(data), _) => Bytes::copy_from_slice(data.get().as_bytes()),
            (None, "") => return Err(bad_request("data or b64data is needed")),
            (None, data) => base64::engine::general_purpose::STANDARD
                .decode(data)
                .map_err(|_| bad_request("b64data is not base64"))?
                .into(),
        };
        let key = self.idempotency_key.as_str();
        Ok(NewPublication {
            data,
            info: None,
            tags: self.tags.clone(),
            idempotency_key: (!key.is_empty()).then(|| key.into()),
            skip_history: self.skip_history,
        })
    }
}

async fn publish(parts: &Parts, body: &[u8]) -> Outcome {
    let call: Publish = parse(body)?;
    let publication = call.publication()?;
    ask(parts, &call.channel, move |to| Request::Publish(publication, to)).await
}

async fn broadcast(parts: &Parts, body: &[u8]) -> Outcome {
    let call: Publish = parse(body)?;
    let publication = call.publication()?;
    if call.channels.is_empty() || call.channels.len() > BROADCAST_LIMIT {
        return Err(bad_request(format!("channels must name 1 to {BROADCAST_LIMIT} rooms")));
    }
    let answers = call.channels.iter().map(|channel| {
        let publication = publication.clone();
        ask(parts, channel, move |to| Request::Publish(publication, to))
    });
    // Asked in order, all at once; the answers come in order too.
    let mut answers: Vec<_> = answers.map(Box::pin).collect();
    let mut responses: Vec<Value> = Vec::new();
    futures_util::future::join_all(&mut answers).await.into_iter().for_each(|answer| {
        responses.push(match answer {
            Ok(result) => json!({ "result": result }),
            Err(it) => error(it),
        });
    });
    Ok(json!({ "responses": responses }))
}

#[derive(Deserialize)]
struct Room {
    channel: String,
}

async fn room(parts: &Parts, body: &[u8], query: Query) -> Outcome {
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

async fn history(parts: &Parts, body: &[u8]) -> Outcome {
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
) -> Outcome {
    if channel.is_empty() || channel.len() > parts.config.channel_max_length {
        let most = parts.config.channel_max_length;
        return Err(bad_request(format!("channel must have 1 to {most} bytes")));
    }
    let (reply, answer) = oneshot::channel();
    let request = Box::new(request);
    parts.registry.do_send(ApiAsk { room: channel.into(), request, reply });
    match answer.await {
        Ok(answer) => result(answer),
        Err(_) => Err(ErrorCode::Internal.into()),
    }
}

fn result(answer: Answer) -> Outcome {
    let value = match answer {
        Answer::Failed(code) => return Err(code.into()),
        Answer::Published(None) => json!({}),
        Answer::Published(Some(position)) => {
            json!({"offset": position.offset, "epoch": position.epoch.to_string()})
        }
        Answer::Presence(clients) => to_json(&reply::by_id(&clients), "presence"),
        Answer::PresenceStats { clients, users } => {
            json!({"num_clients": clients, "num_users": users})
        }
        Answer::History(publications, position) => {
            let publications: Vec<_> = publications.iter().map(reply::publication).collect();
            let mut value = to_json(&publications, "publications");
            value["offset"] = position.offset.into();
            value["epoch"] = position.epoch.to_string().into();
            value
        }
    };
    Ok(value)
}

fn to_json<T: serde::Serialize>(content: &T, name: &str) -> Value {
    // Payloads are JSON, or were made strings: nothing that can't be a value.
    json!({ name: serde_json::to_value(content).unwrap_or_default() })
}

async fn survey(parts: &Parts, survey: Survey) -> Result<Findings, message::Error> {
    let (reply, findings) = oneshot::channel();
    parts.registry.do_send(ApiSurvey(survey, reply));
    findings.await.map_err(|_| ErrorCode::Internal.into())
}

async fn info(parts: &Parts) -> Outcome {
    let findings = survey(parts, Survey::Info).await?;
    let nodes: Vec<Value> = (findings.found.into_iter())
        .filter_map(|(_, finding)| match finding {
            Finding::Info(facts) => serde_json::to_value(facts).ok(),
            Finding::Channels(_) => None,
        })
        .collect();
    Ok(with_missing(json!({ "nodes": nodes }), &findings.missing))
}

#[derive(Deserialize)]
struct Channels {
    #[serde(default)]
    pattern: String,
}

async fn channels(parts: &Parts, body: &[u8]) -> Outcome {
    let call: Channels = parse(body)?;
    let findings = survey(parts, Survey::Channels(call.pattern)).await?;
    let mut channels: BTreeMap<String, u32> = BTreeMap::new();
    for (_, finding) in findings.found {
        if let Finding::Channels(rooms) = finding {
            for (room, clients) in rooms {
                *channels.entry(room.to_string()).or_default() += clients;
            }
        }
    }
    let channels: BTreeMap<_, _> = (channels.into_iter())
        .map(|(room, clients)| (room, json!({ "num_clients": clients })))
        .collect();
    Ok(with_missing(json!({ "channels": channels }), &findings.missing))
}

/// Says which nodes did not answer, so that no one takes a part for the whole.
fn with_missing(mut value: Value, missing: &[crate::cluster::node::NodeId]) -> Value {
    if !missing.is_empty() {
        value["missing"] = missing.iter().map(ToString::to_string).collect();
    }
    value
}
