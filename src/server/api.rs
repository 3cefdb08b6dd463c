//! SHELL. The server API by HTTP: `POST /api/<method>` with a JSON body, or `POST /api` with commands, for backends
//! that publish and look. [`calls_json`] reads what is asked, [`execution`] does it.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use bytes::Bytes;
use serde::Serialize;

use super::{
    admission::Refusal,
    body,
    calls_json::{self, Batch, Line, Unread},
    cors, execution, key,
    parts::Parts,
    results::{self, Called, Done, Outcome},
};
use crate::{config::BODY_LIMIT, protocol::message};

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
        return match calls_json::batch(&body) {
            Ok(calls) => HttpResponse::Ok().json(batch(&parts, calls).await),
            Err(error) => malformed(error),
        };
    }
    let result = match calls_json::read(&method, &body) {
        Ok(call) => execution::execute(&parts, call).await,
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
    let lines = match calls_json::lines(&body) {
        Ok(lines) => lines,
        Err(error) => return malformed(error),
    };
    let mut replies = Vec::new();
    for Line { id, call } in lines {
        let outcome = match call {
            Ok(call) => execution::execute(&parts, call).await,
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
    replies: Vec<BTreeMap<String, BatchReply>>,
}

/// A reply names the method that it is for; a failure is an `error` in its place.
#[derive(Serialize)]
#[serde(untagged)]
enum BatchReply {
    Done(Done),
    Error(message::Error),
}

async fn batch(parts: &Parts, batch: Batch) -> Replies {
    let (methods, calls): (Vec<String>, Vec<_>) = (batch.calls.into_iter())
        .map(|call| match call {
            Ok((method, call)) => (method, Ok(call)),
            Err(error) => (String::new(), Err(error)),
        })
        .unzip();
    let results = execution::execute_all(parts, calls.into_iter(), batch.parallel).await;
    let reply = |(method, result): (String, Called)| {
        let (name, reply) = match result {
            Ok(done) => (method, BatchReply::Done(done)),
            Err(error) => ("error".to_owned(), BatchReply::Error(results::plain(error))),
        };
        BTreeMap::from([(name, reply)])
    };
    Replies { replies: methods.into_iter().zip(results).map(reply).collect() }
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
            assert_ne!(calls_json::read(method, b"{}").err(), Some(Unread::Method), "{method}");
        }
        assert_eq!(calls_json::read("batch", b"{}").err(), Some(Unread::Method));
    }
}
