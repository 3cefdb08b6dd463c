//! Which key a token must be signed with.
//!
//! The algorithm that a token names never chooses the kind of key: each family of algorithms has keys of its
//! own, so a public key can't be passed off as a shared secret.

use std::sync::{Arc, PoisonError, RwLock};

use jsonwebtoken::{Algorithm, DecodingKey, jwk};
use p521::{ecdsa::signature::Verifier as _, pkcs8::DecodePublicKey as _};
use serde::Deserialize;

/// A way to sign a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// One that the token library knows.
    Known(Algorithm),
    /// ECDSA on P-521, which it does not.
    Es512,
}

/// Whose keys can check a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// A secret that the application shares with us.
    Hmac,
    /// RSA.
    Rsa,
    /// Elliptic curves.
    Ec,
    /// Edwards curves.
    Ed,
}

impl Method {
    /// The method of this name; none if tokens may not be signed so.
    pub fn named(name: &str) -> Option<Self> {
        Some(Self::Known(match name {
            "HS256" => Algorithm::HS256,
            "HS384" => Algorithm::HS384,
            "HS512" => Algorithm::HS512,
            "RS256" => Algorithm::RS256,
            "RS384" => Algorithm::RS384,
            "RS512" => Algorithm::RS512,
            "ES256" => Algorithm::ES256,
            "ES384" => Algorithm::ES384,
            "EdDSA" => Algorithm::EdDSA,
            "ES512" => return Some(Self::Es512),
            _ => return None,
        }))
    }

    /// Its family.
    pub fn family(self) -> Family {
        match self {
            Self::Known(Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) => Family::Hmac,
            Self::Known(Algorithm::EdDSA) => Family::Ed,
            Self::Es512 | Self::Known(Algorithm::ES256 | Algorithm::ES384) => Family::Ec,
            Self::Known(_) => Family::Rsa,
        }
    }
}

/// A key that checks signatures.
#[derive(Clone)]
pub enum Key {
    /// One that the token library can use.
    Known(DecodingKey),
    /// One on P-521.
    P521(p521::ecdsa::VerifyingKey),
}

impl Key {
    /// A shared secret.
    pub fn secret(secret: &str) -> Self {
        Self::Known(DecodingKey::from_secret(secret.as_bytes()))
    }

    /// An RSA public key.
    ///
    /// # Errors
    /// If it is none in PEM.
    pub fn rsa(pem: &str) -> Result<Self, String> {
        DecodingKey::from_rsa_pem(pem.as_bytes()).map(Self::Known).map_err(|it| it.to_string())
    }

    /// A public key on P-256, P-384 or P-521.
    ///
    /// # Errors
    /// If it is none in PEM.
    pub fn ec(pem: &str) -> Result<Self, String> {
        if let Ok(key) = p521::PublicKey::from_public_key_pem(pem) {
            let key = p521::ecdsa::VerifyingKey::from_affine(*key.as_affine());
            return key.map(Self::P521).map_err(|it| it.to_string());
        }
        DecodingKey::from_ec_pem(pem.as_bytes()).map(Self::Known).map_err(|it| it.to_string())
    }

    /// Whether `signature` (in base64url) is that of `message`.
    pub fn verifies(&self, method: Method, signature: &str, message: &[u8]) -> bool {
        match (self, method) {
            (Self::Known(key), Method::Known(algorithm)) => {
                jsonwebtoken::crypto::verify(signature, message, key, algorithm).unwrap_or(false)
            }
            (Self::P521(key), Method::Es512) => {
                use base64::Engine as _;
                let signature = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(signature);
                let signature = signature.ok().map(|it| p521::ecdsa::Signature::from_slice(&it));
                matches!(signature, Some(Ok(it)) if key.verify(message, &it).is_ok())
            }
            _ => false,
        }
    }
}

/// A public key that an issuer publishes.
#[derive(Clone)]
struct Published {
    id: String,
    family: Family,
    /// The only method that it is for, if it says so.
    method: Option<Method>,
    key: Key,
}

/// The public keys that the issuer publishes, as they were when they were fetched last.
#[derive(Clone, Default)]
pub struct PublishedKeys(Arc<RwLock<Arc<Vec<Published>>>>);

impl PublishedKeys {
    /// Takes over what was fetched: all keys that tokens can be checked with. Returns how many they are.
    pub fn replace(&self, set: &KeySet) -> usize {
        let keys: Vec<Published> = set.keys.iter().filter_map(published).collect();
        let count = keys.len();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        count
    }

    /// The key of this id for tokens signed so.
    pub fn find(&self, id: &str, method: Method) -> Option<Key> {
        let keys = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fits = |it: &&Published| {
            it.id == id
                && it.family == method.family()
                && it.method.is_none_or(|only| only == method)
        };
        keys.iter().find(fits).map(|it| it.key.clone())
    }
}

/// A set of keys (RFC 7517) as it was fetched. Those that we can't use may be anything.
#[derive(Debug, Deserialize)]
pub struct KeySet {
    keys: Vec<serde_json::Value>,
}

fn published(key: &serde_json::Value) -> Option<Published> {
    let text = |name: &str| key.get(name).and_then(serde_json::Value::as_str);
    // One that is for something that we don't do is not for anything else either.
    let method = match text("alg") {
        None => None,
        Some(name) => Some(Method::named(name)?),
    };
    let id = text("kid").filter(|_| matches!(text("use"), None | Some("sig")))?.to_owned();
    let family = match text("kty")? {
        "RSA" => Family::Rsa,
        "EC" => Family::Ec,
        "OKP" => Family::Ed,
        // A secret that is published is none.
        _ => return None,
    };
    let key = match text("crv") {
        Some("P-521") => Key::P521(p521(text("x")?, text("y")?)?),
        _ => {
            let mut key = key.clone();
            // What else the key may say is of no use here, and the library knows only some of it.
            key.as_object_mut()?
                .retain(|name, _| ["kty", "crv", "x", "y", "n", "e"].contains(&name.as_str()));
            let jwk: jwk::Jwk = serde_json::from_value(key).ok()?;
            Key::Known(DecodingKey::from_jwk(&jwk).ok()?)
        }
    };
    Some(Published { id, family, method, key })
}

fn p521(x: &str, y: &str) -> Option<p521::ecdsa::VerifyingKey> {
    use base64::Engine as _;
    let decode = |it: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(it).ok();
    let point = [&[4][..], &decode(x)?, &decode(y)?].concat();
    p521::ecdsa::VerifyingKey::from_sec1_bytes(&point).ok()
}
