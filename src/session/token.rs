//! Who a client is: connection tokens, signed with the secret that the application shares with us.

use bytes::Bytes;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// What a connection token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The user.
    pub user: Box<str>,
    /// What others may know of the user, as JSON; empty if nothing.
    pub info: Bytes,
    /// When the connection ends unless it is refreshed, in seconds of Unix time.
    pub expires_at: Option<i64>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was valid once. The client should get a new one.
    #[error("the token has expired")]
    Expired,
    /// It never was, or is not meant for this.
    #[error("the token is not valid")]
    Invalid,
}

#[derive(Deserialize)]
struct Payload {
    #[serde(default)]
    sub: String,
    exp: Option<Seconds>,
    nbf: Option<Seconds>,
    expire_at: Option<Seconds>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    channel: Option<serde::de::IgnoredAny>,
}

/// Unix time in whole seconds. JSON web tokens may say it in fractions (RFC 7519, NumericDate), and some
/// libraries do; those are rounded down.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
struct Seconds(i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        let whole = number.as_i64().or_else(|| number.as_f64().map(|it| it.floor() as i64));
        whole.map(Self).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}

/// Checks connection tokens.
pub struct Verifier {
    key: DecodingKey,
    validation: Validation,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Verifier")
    }
}

impl Verifier {
    /// Accepts tokens signed with this secret by HS256, HS384 or HS512.
    pub fn new(secret: &str) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // Expiry is checked below, against the time that is handed in.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Self { key: DecodingKey::from_secret(secret.as_bytes()), validation }
    }

    /// Reads a connection token. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn connection(&self, token: &str, now: i64) -> Result<Claims, TokenError> {
        let decoded = jsonwebtoken::decode::<Payload>(token, &self.key, &self.validation)
            .map_err(|_| TokenError::Invalid)?;
        let payload = decoded.claims;
        // A subscription token does not open a connection.
        if payload.channel.is_some() || payload.nbf.is_some_and(|nbf| nbf.0 > now) {
            return Err(TokenError::Invalid);
        }
        if payload.exp.is_some_and(|exp| exp.0 <= now) {
            return Err(TokenError::Expired);
        }
        let info = match (payload.info, payload.b64info) {
            (Some(info), _) => Bytes::from(String::from(Box::<str>::from(info))),
            (None, Some(info)) => {
                use base64::Engine as _;
                let info = base64::engine::general_purpose::STANDARD.decode(info);
                Bytes::from(info.map_err(|_| TokenError::Invalid)?)
            }
            (None, None) => Bytes::new(),
        };
        let expires_at = payload.expire_at.or(payload.exp).map(|at| at.0).filter(|at| *at > 0);
        Ok(Claims { user: payload.sub.into(), info, expires_at })
    }
}

/// Signs a connection token for a user.
///
/// # Errors
/// If the claims can't be signed, which says that the secret is unusable.
pub fn sign<T: Serialize>(secret: &str, claims: &T) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn verify(claims: serde_json::Value) -> Result<Claims, TokenError> {
        let token = sign("secret", &claims).expect("signs");
        Verifier::new("secret").connection(&token, 1000)
    }

    #[test]
    fn says_who_the_user_is() {
        let claims = verify(json!({"sub": "ann", "exp": 1001, "info": {"name": "Ann"}}));
        let expected = Claims {
            user: "ann".into(),
            info: Bytes::from_static(b"{\"name\":\"Ann\"}"),
            expires_at: Some(1001),
        };
        assert_eq!(claims, Ok(expected));
        assert_eq!(verify(json!({"exp": 1001, "expire_at": 0})).map(|it| it.expires_at), Ok(None));
    }

    #[test]
    fn times_may_have_fractions() {
        let expires = |claims| verify(claims).map(|it| it.expires_at);
        assert_eq!(expires(json!({"exp": 1001.75, "nbf": 999.5})), Ok(Some(1001)));
        assert_eq!(expires(json!({"exp": 1e300})), Ok(Some(i64::MAX)));
        assert_eq!(expires(json!({"exp": 1000.9})), Err(TokenError::Expired));
        assert_eq!(expires(json!({"exp": "soon"})), Err(TokenError::Invalid));
    }

    #[test]
    fn fails_closed() {
        assert_eq!(verify(json!({"sub": "ann", "exp": 1000})), Err(TokenError::Expired));
        assert_eq!(verify(json!({"sub": "ann", "nbf": 1001})), Err(TokenError::Invalid));
        assert_eq!(verify(json!({"sub": "ann", "channel": "r"})), Err(TokenError::Invalid));
        assert_eq!(verify(json!({"sub": "ann", "b64info": "?"})), Err(TokenError::Invalid));
        let verifier = Verifier::new("other");
        let token = sign("secret", &json!({"sub": "ann"})).expect("signs");
        assert_eq!(verifier.connection(&token, 0), Err(TokenError::Invalid));
        // {"alg":"none"} and no signature
        let none = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4ifQ.";
        for token in [none, "", ".", "a.b.c"] {
            assert_eq!(verifier.connection(token, 0), Err(TokenError::Invalid), "{token}");
        }
    }
}
