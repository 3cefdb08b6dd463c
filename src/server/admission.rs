//! SHELL. Who may connect, whatever the transport: the one place for what is asked of every client before
//! anything is kept for it.

use actix_http::{RequestHead, StatusCode, header};

use super::parts::Parts;
use crate::pattern;

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
pub fn admit(parts: &Parts, head: &RequestHead) -> Result<(), Refusal> {
    if parts.leaving.has_begun() {
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "this node is leaving"));
    }
    check_origin(parts, head)
}

/// Pages of other sites must not connect in the name of whoever looks at them.
///
/// # Errors
/// If the request is one of a page that may not.
pub fn check_origin(parts: &Parts, head: &RequestHead) -> Result<(), Refusal> {
    let Some(origin) = head.headers().get(header::ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().unwrap_or_default().to_lowercase();
    let allowed = &parts.config.client.allowed_origins;
    let fits = |it: &String| !it.is_empty() && pattern::matches(&it.to_lowercase(), &origin);
    if allowed.iter().any(fits) {
        return Ok(());
    }
    tracing::info!(origin, "refused a page of an origin that is not in client.allowed_origins");
    Err(Refusal::new(StatusCode::FORBIDDEN, "this origin may not connect"))
}
