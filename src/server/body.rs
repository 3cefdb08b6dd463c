//! SHELL. The bodies of requests: read whole, bounded in size and time.

use std::time::Duration;

use actix_http::StatusCode;
use actix_web::web;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::admission::Refusal;

/// How long a body may take to arrive.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much more of a body is taken whose request is refused already, and for how long.
const DISCARDED: usize = 4 << 20;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The whole body.
///
/// # Errors
/// If it is larger than `limit`, or does not arrive.
pub async fn read(body: &mut web::Payload, limit: usize) -> Result<Bytes, Refusal> {
    tokio::time::timeout(TIMEOUT, collect(body, limit)).await.unwrap_or_else(|_| {
        Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time"))
    })
}

async fn collect(body: &mut web::Payload, limit: usize) -> Result<Bytes, Refusal> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk =
            chunk.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))?;
        if whole.len() + chunk.len() > limit {
            let why = format!("the body has more than {limit} bytes");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// Takes what is left of the body of a request that is refused, within bounds. While it is still being sent, many
/// clients and proxies don't look for an answer: they would find the connection closed, and never learn why.
pub async fn discard(body: &mut web::Payload) {
    let rest = async {
        let mut taken = 0;
        while let Some(Ok(chunk)) = body.next().await {
            taken += chunk.len();
            if taken > DISCARDED {
                break;
            }
        }
    };
    // What comes later than that is its own fault.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, rest).await;
}
