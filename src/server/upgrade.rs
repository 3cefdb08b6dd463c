//! SHELL. From a WebSocket request to a socket actor on the bare connection.

use actix::prelude::*;
use actix_codec::Framed;
use actix_http::{
    HttpMessage as _, Request, Response, StatusCode,
    body::BodySize,
    h1,
    header::{self, HeaderValue},
    ws,
};
use actix_rt::net::TcpStream;
use bytes::BytesMut;
use futures_util::SinkExt as _;

use super::parts::Worker;
use crate::{
    backend::headers::Headers,
    hub::Register,
    pattern,
    protocol::codec::Format,
    room::types::ClientId,
    session::{context::SocketContext, socket::Socket, state::State},
};

const PATH: &str = "/connection/websocket";
const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// The only version of the WebSocket protocol there is.
const VERSION: &str = "13";

/// Why an upgrade is not made.
type Refusal = (StatusCode, String);

/// Takes over a connection that asks for an upgrade. One that breaks meanwhile is simply gone.
pub async fn upgrade(worker: &Worker, request: Request, io: Framed<TcpStream, h1::Codec>) {
    let done = match accept(worker, &request) {
        Ok((accepted, response)) => open(worker, io, accepted, response).await,
        Err((status, why)) => refuse(io, status, why).await,
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection broke during its upgrade");
    }
}

/// What is known of a client from its request.
struct Accepted {
    format: Format,
    /// Those headers that backends want.
    headers: Option<Headers>,
}

fn accept(worker: &Worker, request: &Request) -> Result<(Accepted, Response<()>), Refusal> {
    if request.path() != PATH {
        return Err((StatusCode::NOT_FOUND, "no WebSocket is served here".into()));
    }
    if worker.parts.leaving.has_begun() {
        return Err((StatusCode::SERVICE_UNAVAILABLE, "this node is leaving".into()));
    }
    let mut response = ws::handshake(request.head()).map_err(|error| match error {
        ws::HandshakeError::UnsupportedVersion => {
            (StatusCode::UPGRADE_REQUIRED, "this version of the protocol is not served".into())
        }
        error => (StatusCode::BAD_REQUEST, error.to_string()),
    })?;
    check_origin(worker, request)?;
    let offered = offered_protocols(request);
    let format = format(&offered, request.uri().query().unwrap_or_default());
    let chosen = if format == Format::Protobuf { PROTOBUF } else { JSON };
    if offered.iter().any(|it| it == chosen) {
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen)));
    }
    let headers = worker.parts.headers_for_backends(request.headers());
    let headers = headers.map_err(|_| {
        (
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the headers for backends are too large".into(),
        )
    })?;
    Ok((Accepted { format, headers }, response.finish().drop_body()))
}

/// Pages of other sites must not connect in the name of whoever looks at them.
fn check_origin(worker: &Worker, request: &Request) -> Result<(), Refusal> {
    let Some(origin) = request.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default().to_lowercase();
    let allowed = &worker.parts.config.client.allowed_origins;
    let fits = |it: &String| !it.is_empty() && pattern::matches(&it.to_lowercase(), &origin);
    if allowed.iter().any(fits) {
        return Ok(());
    }
    tracing::info!(origin, "refused a page of an origin that is not in client.allowed_origins");
    Err((StatusCode::FORBIDDEN, "this origin may not connect".into()))
}

fn offered_protocols(request: &Request) -> Vec<String> {
    let headers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let values = headers.filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).map(|it| it.trim().to_owned()).collect()
}

fn format(offered: &[String], query: &str) -> Format {
    let asked = |it: &str| it == "cf_protocol=protobuf" || it == "format=protobuf";
    if offered.iter().any(|it| it == PROTOBUF) || query.split('&').any(asked) {
        Format::Protobuf
    } else {
        Format::Json
    }
}

async fn refuse(
    mut io: Framed<TcpStream, h1::Codec>,
    status: StatusCode,
    why: String,
) -> std::io::Result<()> {
    let response = Response::build(status)
        .insert_header((header::CONNECTION, "close"))
        .insert_header((header::SEC_WEBSOCKET_VERSION, VERSION))
        .insert_header((header::CONTENT_TYPE, "text/plain; charset=utf-8"))
        .finish()
        .drop_body();
    let size = BodySize::Sized(why.len() as u64);
    io.send(h1::Message::Item((response, size))).await?;
    io.send(h1::Message::Chunk(Some(why.into()))).await?;
    io.send(h1::Message::Chunk(None)).await
}

async fn open(
    worker: &Worker,
    mut io: Framed<TcpStream, h1::Codec>,
    Accepted { format, headers }: Accepted,
    response: Response<()>,
) -> std::io::Result<()> {
    io.send(h1::Message::Item((response, BodySize::None))).await?;
    let shared = worker.shared();
    let parts = io.into_parts();
    parts.io.set_nodelay(true)?;
    // A copy of what is there, so that the buffer it came in can go.
    let rest = BytesMut::from(&parts.read_buf[..]);
    drop((parts.read_buf, parts.write_buf));
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(std::io::Error::other)?;
    let (context, mailbox) = SocketContext::new(parts.io, rest, format, shared.wire.clone());
    let place = shared.hub.send(Register(context.address())).await;
    let place = place.map_err(std::io::Error::other)?;
    let mut session = State::new(place, format, ClientId(u128::from_be_bytes(id)));
    if let Some(headers) = headers {
        session.came_with(headers);
    }
    context.run(Socket::new(shared, place, session), mailbox);
    Ok(())
}
