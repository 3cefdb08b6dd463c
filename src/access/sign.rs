//! Signs tokens, for the commands that make one to try things with, for the demo and for tests.

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;

/// Signs claims with a shared secret (HS256).
///
/// # Errors
/// If the claims can't be signed, which says that the secret is unusable.
pub fn sign<T: Serialize>(secret: &str, claims: &T) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
}
