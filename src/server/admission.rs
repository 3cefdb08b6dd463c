//! SHELL. Who may connect, whatever the transport: the one place for what is asked of every client before
//! anything is kept for it.

use std::net::{IpAddr, Ipv4Addr};

use actix_http::{RequestHead, StatusCode, header};

use super::{origin, parts::Parts};
use crate::{
    access::{connection_counter::ConnectionPermit, connection_limits::Full},
    room::pattern,
    session::admitted::Admitted,
};

/// Why a client is not let in.
#[derive(Debug)]
pub struct Refusal {
    /// What it is told.
    pub status: StatusCode,
    /// The same in words.
    pub why: String,
}

impl Refusal {
    /// Says it with this status.
    pub fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self { status, why: why.into() }
    }
}

/// Whether a new client may connect.
///
/// # Errors
/// If it may not.
pub fn admit(parts: &Parts, head: &RequestHead) -> Result<Admitted, Refusal> {
    if parts.leaving.has_begun() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving"));
    }
    check_origin(parts, head)?;
    let address = address(parts, head);
    let headers = parts.headers_for_backends(head.headers(), address).map_err(|_| {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        Refusal::new(status, "the headers for backends are too large")
    })?;
    let permit = count(parts, address).map_err(|full| turn_away(parts, address, full))?;
    tracing::debug!(%address, path = head.uri.path(), "a client connects");
    let named = parts.config.client.user_id_http_header.as_str();
    let user = head.headers().get(named).filter(|_| !named.is_empty());
    let user = user.and_then(|it| it.to_str().ok()).filter(|it| !it.is_empty());
    Ok(Admitted { permit, user: user.map(Into::into), headers })
}

/// Where a client connects from.
fn address(parts: &Parts, head: &RequestHead) -> IpAddr {
    let peer = head.peer_addr.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |it| it.ip());
    let trusted = &parts.config.trusted_proxies;
    if trusted.is_empty() {
        return peer;
    }
    let of = |name| head.headers().get_all(name).filter_map(|it| it.to_str().ok());
    let said = origin::Said {
        forwarded_for: of("x-forwarded-for").collect(),
        forwarded: of("forwarded").collect(),
        real_ip: of("x-real-ip").next(),
    };
    origin::client(peer, &said, trusted)
}

fn count(parts: &Parts, address: IpAddr) -> Result<Option<ConnectionPermit>, Full> {
    let most = parts.config.client.connection_limit;
    let open = usize::try_from(parts.metrics.connections.get()).unwrap_or(0);
    if most > 0 && open >= most {
        return Err(Full("client.connection_limit"));
    }
    let Some(counter) = &parts.counter else { return Ok(None) };
    counter.enter(address).map(Some)
}

fn turn_away(parts: &Parts, address: IpAddr, full: Full) -> Refusal {
    parts.metrics.connections_refused.inc();
    if parts.counter.as_ref().is_none_or(|it| it.take_report()) {
        tracing::warn!(%address, "a client is turned away: {full}");
    }
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many connections")
}

/// Whether a request comes from a page that may connect, or from none.
pub fn is_origin_allowed(parts: &Parts, head: &RequestHead) -> bool {
    let Some(origin) = head.headers().get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default().to_lowercase();
    let access = parts.access.load();
    let fits = |it: &String| !it.is_empty() && pattern::matches(&it.to_lowercase(), &origin);
    access.allowed_origins.iter().any(fits)
}

/// Pages of other sites must not connect on behalf of their visitors.
///
/// # Errors
/// If the request is one of a page that may not.
pub fn check_origin(parts: &Parts, head: &RequestHead) -> Result<(), Refusal> {
    if is_origin_allowed(parts, head) {
        return Ok(());
    }
    let origin = head.headers().get(header::ORIGIN).and_then(|it| it.to_str().ok());
    tracing::info!(origin, "refused a page of an origin that is not in client.allowed_origins");
    Err(Refusal::new(StatusCode::FORBIDDEN, "this origin may not connect"))
}
