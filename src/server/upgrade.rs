//! SHELL. From a WebSocket request to a socket actor on the bare connection. Every request for an upgrade comes
//! here and none gets to the application, so the [`feed`] is opened here as well.

use std::sync::Once;

use actix::prelude::*;
use actix_codec::{AsyncRead, AsyncWrite, BytesCodec, Framed};
use actix_http::{
    HttpMessage as _, Request, Response, ResponseBuilder, StatusCode,
    body::BodySize,
    h1,
    header::{self, HeaderValue},
    ws,
};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;

use super::{
    admission::{self, Refusal},
    cors, demo, feed,
    parts::{Parts, Worker},
    streams,
};
use crate::{
    config::Config,
    protocol::{
        codec::{self, Format},
        deflate,
        encoding::Encoding,
    },
    session::{
        admitted::Admitted,
        context::SocketContext,
        driver::{self, Driver},
        id::SessionId,
        io::Io,
        messages::ConnectionAddress,
        socket::Socket,
    },
};

const PATH: &str = "/connection/websocket";
const ONE_WAY_PATH: &str = "/connection/uni_websocket";
const JSON: &str = "centrifuge-json";
const PROTOBUF: &str = "centrifuge-protobuf";

/// The only version of the WebSocket protocol there is.
const VERSION: &str = "13";

/// Takes over a connection that asks for an upgrade. One that breaks meanwhile is simply gone.
pub async fn upgrade<T>(worker: &Worker, request: Request, io: Framed<T, h1::Codec>)
where
    T: AsyncRead + AsyncWrite + Unpin + Into<Io> + 'static,
{
    let parts = &worker.parts;
    let done = if request.path() == demo::FEED && parts.config.demo {
        match accept_feed(parts, &request) {
            Ok(response) => open_feed(parts, io, response).await,
            Err(refusal) => refuse(io, refusal).await,
        }
    } else {
        match accept(worker, &request) {
            Ok(accepted) => open(worker, io, accepted).await,
            Err(refusal) => refuse(io, refusal).await,
        }
    };
    if let Err(error) = done {
        tracing::debug!(%error, "a connection broke during its upgrade");
    }
}

/// A request that becomes a WebSocket.
struct Accepted {
    encoding: Encoding,
    response: Response<()>,
    /// What came with the request, of a client that only listens.
    first: Option<String>,
    admitted: Admitted,
}

fn accept(worker: &Worker, request: &Request) -> Result<Accepted, Refusal> {
    let parts = &worker.parts;
    let one_way = request.path() == ONE_WAY_PATH && parts.config.uni_websocket.enabled;
    if request.path() != PATH && !one_way {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "no WebSocket is served here"));
    }
    let mut response = handshake(request)?;
    let admitted = admission::admit(parts, request.head())?;
    let query = request.uri().query().unwrap_or_default();
    if one_way {
        let first = streams::in_query(query);
        if let Some(Err(error)) =
            first.as_ref().map(|it| codec::decode_connect(Format::Json, it.as_bytes()))
        {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error.to_string()));
        }
        let response = response.finish().drop_body();
        return Ok(Accepted { encoding: Encoding::OneWaySocket, response, first, admitted });
    }
    let offered = offered_protocols(request);
    let format = format(&offered, query);
    let chosen = if format == Format::Protobuf { PROTOBUF } else { JSON };
    if offered.iter().any(|it| it == chosen) {
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(chosen)));
    }
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let offers = offers.filter_map(|it| it.to_str().ok());
    let deflate = parts.config.deflate.zip(deflate::agree(offers)).map(|(deflate, agreed)| {
        let agreed = HeaderValue::from_static(agreed);
        response.insert_header((header::SEC_WEBSOCKET_EXTENSIONS, agreed));
        deflate
    });
    let (encoding, response) = (Encoding::socket(format, deflate), response.finish().drop_body());
    Ok(Accepted { encoding, response, first: None, admitted })
}

/// What those are told whose request for a WebSocket has lost on its way that it is one.
const NO_UPGRADE: &str = "this is for WebSockets, and the request does not ask for one. A proxy in front must speak \
    HTTP/1.1 to this server and pass the headers `Upgrade: websocket` and `Connection: upgrade` (nginx: \
    proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection \"upgrade\";)";

/// Where WebSockets are opened, for requests that come without asking for an upgrade.
pub fn routes(app: &mut web::ServiceConfig, config: &Config) {
    app.route(PATH, web::get().to(without_upgrade));
    if config.uni_websocket.enabled {
        app.route(ONE_WAY_PATH, web::get().to(without_upgrade));
    }
}

async fn without_upgrade(parts: web::Data<Parts>, request: HttpRequest) -> HttpResponse {
    warn_of_proxy(request.path());
    let refusal = Refusal::new(StatusCode::BAD_REQUEST, NO_UPGRADE);
    cors::refuse(&parts, request.head(), refusal)
}

/// Says it to whoever runs the node: once, since every client comes again and again.
fn warn_of_proxy(path: &str) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            path,
            "a request without an upgrade came to where WebSockets are opened, and more may, of \
            which nothing is said here: {NO_UPGRADE}"
        );
    });
}

fn handshake(request: &Request) -> Result<ResponseBuilder, Refusal> {
    ws::handshake(request.head()).map_err(|error| match error {
        ws::HandshakeError::NoWebsocketUpgrade | ws::HandshakeError::NoConnectionUpgrade => {
            warn_of_proxy(request.path());
            Refusal::new(StatusCode::BAD_REQUEST, NO_UPGRADE)
        }
        ws::HandshakeError::UnsupportedVersion => {
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "this version of the protocol is not served")
        }
        error => Refusal::new(StatusCode::BAD_REQUEST, error.to_string()),
    })
}

/// Any client of the page may see the feed; it is not counted as a client.
fn accept_feed(parts: &Parts, request: &Request) -> Result<Response<()>, Refusal> {
    let response = handshake(request)?.finish().drop_body();
    if parts.leaving.has_begun() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving"));
    }
    admission::check_origin(parts, request.head())?;
    Ok(response)
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

async fn refuse<T: AsyncRead + AsyncWrite + Unpin>(
    mut io: Framed<T, h1::Codec>,
    Refusal { status, why }: Refusal,
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

async fn open<T>(
    worker: &Worker,
    mut io: Framed<T, h1::Codec>,
    Accepted { encoding, response, first, admitted }: Accepted,
) -> std::io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + Into<Io>,
{
    io.send(h1::Message::Item((response, BodySize::None))).await?;
    let shared = worker.shared();
    let parts = io.into_parts();
    let io: Io = parts.io.into();
    // A copy of what is there, so that the buffer it came in can go.
    let rest = BytesMut::from(&parts.read_buf[..]);
    drop((parts.read_buf, parts.write_buf));
    let (context, mailbox) = SocketContext::new(io, rest, encoding, shared.wire.clone());
    let connection = ConnectionAddress::WebSocket(encoding, context.address());
    let session = encoding.is_one_way().then(driver::random).transpose()?.map(SessionId::new);
    let driver = Driver::begin(shared, connection, session, admitted).await?;
    context.run(Socket::new(driver, first.map(Bytes::from)), mailbox);
    Ok(())
}

async fn open_feed<T>(
    parts: &Parts,
    mut io: Framed<T, h1::Codec>,
    response: Response<()>,
) -> std::io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    io.send(h1::Message::Item((response, BodySize::None))).await?;
    feed::run(parts, io.replace_codec(BytesCodec)).await
}
