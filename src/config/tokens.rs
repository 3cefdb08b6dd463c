//! How tokens are checked, as the configuration says it.

use regex::Regex;

use super::{Invalid, raw};
use crate::access::{
    keys::{Key, PublishedKeys},
    verifier::{Expected, Previous, Verifier},
};

/// The options of one kind of tokens.
#[derive(Clone, Default)]
pub struct Tokens {
    /// See [`raw::Token`].
    options: raw::Token,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There are secrets in it.
        f.write_str("Tokens")
    }
}

impl From<raw::Token> for Tokens {
    fn from(options: raw::Token) -> Self {
        Self { options }
    }
}

impl From<raw::SubscriptionToken> for Tokens {
    fn from(it: raw::SubscriptionToken) -> Self {
        let options = raw::Token {
            hmac_secret_key: it.hmac_secret_key,
            hmac_previous_secret_key: it.hmac_previous_secret_key,
            hmac_previous_secret_key_valid_until: it.hmac_previous_secret_key_valid_until,
            rsa_public_key: it.rsa_public_key,
            ecdsa_public_key: it.ecdsa_public_key,
            jwks_public_endpoint: it.jwks_public_endpoint,
            audience: it.audience,
            audience_regex: it.audience_regex,
            issuer: it.issuer,
            issuer_regex: it.issuer_regex,
            user_id_claim: it.user_id_claim,
            insecure_skip_signature_verify: it.insecure_skip_signature_verify,
        };
        Self { options }
    }
}

impl Tokens {
    /// Where the public keys are published, if they are.
    pub fn keys_url(&self) -> Option<&str> {
        Some(self.options.jwks_public_endpoint.as_str()).filter(|it| !it.is_empty())
    }

    /// The shared secret; empty if there is none.
    pub fn secret(&self) -> &str {
        &self.options.hmac_secret_key
    }

    /// Whether tokens with the shared secret are good beside those with published keys, as not everyone expects.
    pub fn secret_beside_published_keys(&self) -> bool {
        let options = &self.options;
        let secrets = [&options.hmac_secret_key, &options.hmac_previous_secret_key];
        self.keys_url().is_some() && secrets.iter().any(|it| !it.is_empty())
    }

    /// What checks them. `published` are the keys of [`Tokens::keys_url`].
    ///
    /// # Errors
    /// If an option can't be used.
    pub fn verifier(&self, published: Option<PublishedKeys>) -> Result<Verifier, Invalid> {
        let options = &self.options;
        let until = options.hmac_previous_secret_key_valid_until;
        let previous = secret(&options.hmac_previous_secret_key);
        Ok(Verifier {
            secret: secret(&options.hmac_secret_key),
            previous: previous.map(|key| Previous { key, until: (until > 0).then_some(until) }),
            rsa: pem("rsa_public_key", &options.rsa_public_key, Key::rsa)?,
            ec: pem("ecdsa_public_key", &options.ecdsa_public_key, Key::ec)?,
            published: self.published(published)?,
            expected: Expected {
                audience: text(&options.audience),
                audience_regex: regex("audience_regex", &options.audience_regex)?,
                issuer: text(&options.issuer),
                issuer_regex: regex("issuer_regex", &options.issuer_regex)?,
                user_claim: text(&options.user_id_claim),
                unsigned: options.insecure_skip_signature_verify,
            },
        })
    }

    fn published(&self, keys: Option<PublishedKeys>) -> Result<Option<PublishedKeys>, Invalid> {
        match self.keys_url() {
            None => Ok(None),
            Some(url) if url.contains("{{") || url.contains("}}") => Err(Invalid::new(
                "jwks_public_endpoint",
                format!(
                    "{url:?} is a template, and nothing is put into those here: it has to be the URL of one set of keys"
                ),
            )),
            Some(url) if url.starts_with("https://") || url.starts_with("http://") => {
                Ok(Some(keys.unwrap_or_default()))
            }
            Some(url) => Err(Invalid::new(
                "jwks_public_endpoint",
                format!("{url:?} does not begin with https:// or http://"),
            )),
        }
    }
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned()).filter(|it| !it.is_empty())
}

fn secret(secret: &str) -> Option<Key> {
    (!secret.is_empty()).then(|| Key::secret(secret))
}

fn pem(
    key: &str,
    pem: &str,
    read: impl Fn(&str) -> Result<Key, String>,
) -> Result<Option<Key>, Invalid> {
    if pem.is_empty() {
        return Ok(None);
    }
    read(pem).map(Some).map_err(|error| {
        Invalid::new(
            key,
            format!("is no such public key in PEM (-----BEGIN PUBLIC KEY-----): {error}"),
        )
    })
}

/// A regular expression; none if it is empty.
pub(super) fn regex(key: &str, pattern: &str) -> Result<Option<Regex>, Invalid> {
    if pattern.is_empty() {
        return Ok(None);
    }
    let wrong = |error| Invalid::new(key, format!("is no regular expression: {error}"));
    Regex::new(pattern).map(Some).map_err(wrong)
}
