//! SHELL. How clients send that receive through a streaming response: `POST /emulation` brings commands for
//! a session, to any node of the cluster.

use std::str::FromStr as _;

use actix_http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, http::Method, web};
use bytes::Bytes;
use prost::Message as _;

use super::{
    admission::{self, Refusal},
    body, cors,
    parts::Parts,
    streams,
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{self, Frame},
    protocol::{codec::Format, message::EmulationRequest, nulls},
    room::actor::Forward,
    session::id::SessionId,
};

/// The endpoint.
pub fn routes(app: &mut web::ServiceConfig) {
    app.service(
        web::resource("/emulation")
            .route(web::method(Method::OPTIONS).to(cors::preflight))
            .route(web::post().to(emulate)),
    );
}

async fn emulate(
    parts: web::Data<Parts>,
    request: HttpRequest,
    mut body: web::Payload,
) -> HttpResponse {
    match take(&parts, &request, &mut body).await {
        Ok(()) => cors::allow(&mut HttpResponse::NoContent(), request.head()).finish(),
        Err(refusal) => {
            body::discard(&mut body).await;
            cors::refuse(&parts, request.head(), refusal)
        }
    }
}

async fn take(
    parts: &Parts,
    request: &HttpRequest,
    body: &mut web::Payload,
) -> Result<(), Refusal> {
    admission::check_origin(parts, request.head())?;
    let body = body::read(body, parts.config.emulation_body_limit).await?;
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let asked = match streams::format(request) {
        Format::Json => nulls::from_slice(&body).map_err(|error| bad(error.to_string())),
        Format::Protobuf => EmulationRequest::decode(body).map_err(|error| bad(error.to_string())),
    };
    let asked = asked?;
    let here = asked.node == parts.sessions.load().node;
    let to = if here { None } else { Some(other(parts, &asked.node)?) };
    // A client that guesses a session id learns nothing from the answer.
    let Ok(session) = SessionId::from_str(&asked.session) else { return Ok(()) };
    match to {
        None => {
            parts.emulated.give(&session, asked.data);
            Ok(())
        }
        Some(to) => {
            let frame = wire::encode(&Frame::Emulation(session, asked.data)).map_err(|_| {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too much for one message to a node")
            })?;
            forward(parts, to, frame).await
        }
    }
}

fn other(parts: &Parts, node: &str) -> Result<NodeId, Refusal> {
    let id = NodeId::from_str(node).ok();
    id.filter(|id| parts.view.borrow().nodes().contains_key(id))
        .ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "there is no such node"))
}

/// Hands it to the node that has the session.
async fn forward(parts: &Parts, to: NodeId, frame: Bytes) -> Result<(), Refusal> {
    match parts.registry.send(Forward { to, frame }).await {
        Ok(true) => Ok(()),
        _ => {
            let why = "the node that has the session is not reached now";
            Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}
