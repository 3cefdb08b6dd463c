//! The key of the server API: where a request may carry it, and whether it is the right one.

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// The digest of a key. Digests are compared, so that the time taken tells neither where two keys differ
/// nor how long the right one is.
#[derive(Clone)]
pub struct ApiKey([u8; 32]);

impl ApiKey {
    /// The key that callers must give.
    pub fn new(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Whether `given` is this key.
    pub fn is(&self, given: &str) -> bool {
        let given: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        self.0.ct_eq(&given).into()
    }
}

/// The key in the value of an `Authorization` header: `apikey K`.
pub fn in_authorization(value: &str) -> Option<&str> {
    let (scheme, key) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("apikey").then(|| key.trim())
}

/// The key in a query: `api_key=K`, with whatever is special in URLs escaped.
pub fn in_query(query: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|it| it.split_once('='));
    pairs.find(|(name, _)| *name == "api_key").map(|(_, key)| unescape(key))
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let digit = |index: usize| after.get(index).and_then(|it| char::from(*it).to_digit(16));
        bytes.push(match (byte, digit(0), digit(1)) {
            (b'+', ..) => b' ',
            (b'%', Some(high), Some(low)) => {
                rest = &after[2..];
                (high * 16 + low) as u8
            }
            _ => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_key_itself_is_right() {
        let key = ApiKey::new("secret");
        assert!(key.is("secret"));
        for wrong in ["", "secre", "secret ", "Secret"] {
            assert!(!key.is(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn the_scheme_has_no_case() {
        for value in ["apikey a b", "ApiKey a b", "APIKEY  a b "] {
            assert_eq!(in_authorization(value), Some("a b"));
        }
        assert_eq!(in_authorization("Bearer a"), None);
        assert_eq!(in_authorization("apikeya"), None);
    }

    #[test]
    fn a_key_in_a_query_is_unescaped() {
        assert_eq!(in_query("a=1&api_key=a%2Fb%3d+c"), Some("a/b= c".to_owned()));
        assert_eq!(in_query("api_key=%e2%82%ac%zz%"), Some("€%zz%".to_owned()));
        assert_eq!(in_query("api_keys=a&b"), None);
    }
}
