//! SHELL. The bodies of requests: read whole, bounded in size and time.

use std::time::Duration;

use actix_http::StatusCode;
use actix_web::web;
use bytes::Bytes;

use super::admission::Refusal;

/// How long a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The whole body.
///
/// # Errors
/// If it is larger than `limit`, or does not arrive.
pub async fn read(body: web::Payload, limit: usize) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(TIMEOUT, body.to_bytes_limited(limit)).await {
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
        Ok(Err(_)) => {
            let why = format!("the body has more than {limit} bytes");
            Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why))
        }
        Ok(Ok(Err(error))) => Err(Refusal::new(StatusCode::BAD_REQUEST, error.to_string())),
        Ok(Ok(Ok(body))) => Ok(body),
    }
}
