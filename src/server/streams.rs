//! SHELL. Transports whose server side is a streamed response: server-sent events and plain HTTP streams,
//! bidirectional (see [`super::emulation`]) or unidirectional.

use std::{rc::Rc, time::Duration};

use actix::prelude::*;
use actix_http::{HttpMessage as _, StatusCode};
use actix_web::{
    HttpRequest, HttpResponse,
    http::{Method, header},
    web,
};
use bytes::Bytes;
use serde::Deserialize;

use super::{
    admission::{self, Refusal},
    body, cors,
    parts::Worker,
};
use crate::{
    config::Config,
    protocol::{
        codec::{self, Format},
        encoding::Encoding,
    },
    session::{
        admitted::Admitted,
        driver::{self, Driver},
        http_stream::HttpStream,
        id::SessionId,
        messages::ConnectionAddress,
        pipe::{self, StreamBody},
    },
};

/// How long after its request a stream begins that is the answer to a POST. Proxies that are written in Go (Caddy, Traefik)
/// and get an answer before they have noticed that the body which they pass on is over break the stream off.
const PROXY_NOTICES_END: Duration = Duration::from_millis(5);

/// The endpoints that are switched on.
pub fn routes(app: &mut web::ServiceConfig, config: &Config) {
    if config.sse.enabled {
        app.service(resource("/connection/sse").get(events).post(events));
    }
    if config.http_stream.enabled {
        app.service(resource("/connection/http_stream").post(stream));
    }
    if config.uni_sse.enabled {
        let resource = resource("/connection/uni_sse");
        app.service(resource.get(one_way_events).post(one_way_events));
    }
    if config.uni_http_stream.enabled {
        app.service(resource("/connection/uni_http_stream").post(one_way_stream));
    }
}

/// An endpoint that browsers may ask about.
fn resource(path: &str) -> Endpoint {
    Endpoint(web::resource(path).route(web::method(Method::OPTIONS).to(cors::preflight)))
}

async fn events(request: HttpRequest, body: web::Payload) -> HttpResponse {
    let limit = |config: &Config| config.sse.max_request_body_size;
    answer(&request, body, limit, |_| Encoding::Events).await
}

async fn stream(request: HttpRequest, body: web::Payload) -> HttpResponse {
    let limit = |config: &Config| config.http_stream.max_request_body_size;
    answer(&request, body, limit, |request| Encoding::stream(format(request))).await
}

async fn one_way_events(request: HttpRequest, body: web::Payload) -> HttpResponse {
    let limit = |config: &Config| config.uni_sse.max_request_body_size;
    answer(&request, body, limit, |_| Encoding::OneWayEvents).await
}

async fn one_way_stream(request: HttpRequest, body: web::Payload) -> HttpResponse {
    let limit = |config: &Config| config.uni_http_stream.max_request_body_size;
    answer(&request, body, limit, |_| Encoding::OneWayStream).await
}

/// The format of a request's body, and of what is streamed in answer.
pub(super) fn format(request: &HttpRequest) -> Format {
    let protobuf = request.content_type().eq_ignore_ascii_case("application/octet-stream");
    if protobuf { Format::Protobuf } else { Format::Json }
}

async fn answer(
    request: &HttpRequest,
    mut body: web::Payload,
    limit: fn(&Config) -> usize,
    encoding: fn(&HttpRequest) -> Encoding,
) -> HttpResponse {
    let encoding = encoding(request);
    let Some(worker) = request.app_data::<Rc<Worker>>().cloned() else {
        return HttpResponse::InternalServerError().finish();
    };
    match open(&worker, request, &mut body, limit, encoding).await {
        Ok(body) => respond(request, encoding, body),
        Err(refusal) => {
            body::discard(&mut body).await;
            cors::refuse(&worker.parts, request.head(), refusal)
        }
    }
}

fn respond(request: &HttpRequest, encoding: Encoding, body: StreamBody) -> HttpResponse {
    let kind = match encoding {
        Encoding::Events | Encoding::OneWayEvents => "text/event-stream; charset=utf-8",
        Encoding::StreamProtobuf => "application/octet-stream",
        _ => "application/x-ndjson",
    };
    let mut response = HttpResponse::Ok();
    cors::allow(&mut response, request.head())
        .content_type(kind)
        // For nginx, which else would keep what it gets until it has a lot.
        .insert_header(("X-Accel-Buffering", "no"))
        .insert_header((header::CACHE_CONTROL, "private, no-cache, no-store, max-age=0"))
        .body(body)
}

async fn open(
    worker: &Rc<Worker>,
    request: &HttpRequest,
    body: &mut web::Payload,
    limit: fn(&Config) -> usize,
    encoding: Encoding,
) -> Result<StreamBody, Refusal> {
    let worker = worker.clone();
    let admitted = admission::admit(&worker.parts, request.head())?;
    let first = match *request.method() {
        Method::GET => in_query(request.query_string()).unwrap_or_default().into(),
        _ => {
            let first = body::read(body, limit(&worker.parts.config)).await?;
            actix_rt::time::sleep(PROXY_NOTICES_END).await;
            first
        }
    };
    let problem = match encoding.is_one_way() {
        true => {
            codec::decode_connect(encoding.format(), &first).err().map(|error| error.to_string())
        }
        false => first.is_empty().then(|| "no connect command: see ?cf_connect".to_owned()),
    };
    if let Some(problem) = problem {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, problem));
    }
    // A task of its own: should the client go meanwhile, what was begun is still brought to its end.
    let started = actix_rt::spawn(async move { start(&worker, encoding, admitted, first).await });
    started.await.ok().flatten().ok_or_else(failed)
}

fn failed() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no session can be opened")
}

/// Starts the actor, and gives the body that brings what it sends.
pub(super) async fn start(
    worker: &Worker,
    encoding: Encoding,
    admitted: Admitted,
    first: Bytes,
) -> Option<StreamBody> {
    let shared = worker.shared();
    let context = Context::<HttpStream>::new();
    let address = context.address();
    let session = SessionId::new(driver::random().ok()?);
    let connection = ConnectionAddress::HttpStream(encoding, address.clone());
    let driver = Driver::begin(shared.clone(), connection, Some(session), admitted).await.ok()?;
    let listens = encoding.is_one_way();
    let entry = (!listens).then(|| (worker.parts.emulated.clone(), session));
    let (writer, body) = pipe::pipe(encoding, shared.wire.clone(), address);
    context.run(HttpStream::new(driver, writer, first, entry));
    Some(body)
}

#[derive(Deserialize)]
struct Connect {
    cf_connect: Option<String>,
}

/// What a client begins with that can send no body.
pub(super) fn in_query(query: &str) -> Option<String> {
    web::Query::<Connect>::from_query(query).ok()?.into_inner().cf_connect
}

/// Wraps a resource, so that its methods are listed briefly.
struct Endpoint(actix_web::Resource);

impl Endpoint {
    fn get<F, Args>(self, handler: F) -> Self
    where
        F: actix_web::Handler<Args, Output = HttpResponse>,
        Args: actix_web::FromRequest + 'static,
    {
        Self(self.0.route(web::get().to(handler)))
    }

    fn post<F, Args>(self, handler: F) -> Self
    where
        F: actix_web::Handler<Args, Output = HttpResponse>,
        Args: actix_web::FromRequest + 'static,
    {
        Self(self.0.route(web::post().to(handler)))
    }
}

impl actix_web::dev::HttpServiceFactory for Endpoint {
    fn register(self, config: &mut actix_web::dev::AppService) {
        self.0.register(config);
    }
}
