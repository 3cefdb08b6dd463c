//! By what the application allows clients to track keys: a signature over the user, the room and the keys.
//!
//! It is a text `ISSUED:EXPIRES:HEX`: two moments in seconds of Unix time, and the HMAC-SHA256, in hexadecimal digits, of
//! `ISSUED`, `EXPIRES`, the user, the room and the hexadecimal SHA-256 of the keys, with a NUL between each two of them as
//! between each two keys. `EXPIRES` 0: never.

use std::fmt;

use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};

/// How long after its end a signature is still good, in seconds: clocks differ.
const GRACE: i64 = 5;

/// The secrets that sign.
#[derive(Clone, Default)]
pub struct SigningKeys {
    /// The one in use; empty: nothing is signed.
    pub secret: String,
    /// The one before it; empty: there is none.
    pub previous: String,
    /// What that has signed after this, in seconds of Unix time, is not good; 0: all is.
    pub previous_until: i64,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKeys")
    }
}

/// Why keys may not be tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The application has not allowed it.
    Unsigned,
    /// It has, for a time that is over.
    Expired,
}

/// What is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Who may track the keys.
    pub user: &'a str,
    /// In which room.
    pub room: &'a str,
    /// The keys, in the order of the signature.
    pub keys: &'a [&'a str],
}

impl SigningKeys {
    /// Until when a client may track keys by this `signature`, if it may at `now`, both in seconds of Unix time; none:
    /// without end.
    ///
    /// # Errors
    /// If it may not.
    pub fn check(
        &self,
        signature: &str,
        signed: Signed<'_>,
        now: i64,
    ) -> Result<Option<i64>, Refused> {
        let mut parts = signature.splitn(3, ':');
        let (Some(issued), Some(expires), Some(mac)) = (parts.next(), parts.next(), parts.next())
        else {
            return Err(Refused::Unsigned);
        };
        let mac = unhex(mac).ok_or(Refused::Unsigned)?;
        let (Ok(issued_at), Ok(expires_at)) = (issued.parse::<i64>(), expires.parse::<i64>())
        else {
            return Err(Refused::Unsigned);
        };
        let by = |secret: &str| !secret.is_empty() && signed.is_by(secret, issued, expires, &mac);
        let in_time = self.previous_until <= 0 || issued_at <= self.previous_until;
        let signed = by(&self.secret) || in_time && by(&self.previous);
        if !signed {
            return Err(Refused::Unsigned);
        }
        match expires_at {
            ..=0 => Ok(None),
            at if at.saturating_add(GRACE) < now => Err(Refused::Expired),
            at => Ok(Some(at)),
        }
    }
}

impl Signed<'_> {
    fn is_by(&self, secret: &str, issued: &str, expires: &str, mac: &[u8]) -> bool {
        self.mac(secret, issued, expires).is_some_and(|it| it.verify_slice(mac).is_ok())
    }

    fn mac(&self, secret: &str, issued: &str, expires: &str) -> Option<Hmac<Sha256>> {
        let mut keys = Sha256::new();
        for (index, key) in self.keys.iter().enumerate() {
            if index > 0 {
                keys.update([0]);
            }
            keys.update(key);
        }
        // A key of any length will do.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        for part in [issued, expires, self.user, self.room] {
            mac.update(part.as_bytes());
            mac.update(&[0]);
        }
        mac.update(hex(&keys.finalize()).as_bytes());
        Some(mac)
    }

    /// The signature by `secret`.
    pub fn sign(&self, secret: &str, issued: i64, expires: i64) -> String {
        let mac = self.mac(secret, &issued.to_string(), &expires.to_string());
        let mac = mac.map(|it| hex(&it.finalize().into_bytes())).unwrap_or_default();
        format!("{issued}:{expires}:{mac}")
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|it| [it >> 4, it & 15]);
    digits.map(|it| char::from(DIGITS[usize::from(it)])).collect()
}

/// Lower-case digits only: there is one signature of one thing.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |it: u8| match it {
        b'0'..=b'9' => Some(it - b'0'),
        b'a'..=b'f' => Some(it - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    bytes.collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn keys() -> SigningKeys {
        SigningKeys { secret: "new".into(), previous: "old".into(), previous_until: NOW }
    }

    fn signed() -> Signed<'static> {
        Signed { user: "ann", room: "poll:a", keys: &["k1", "k2"] }
    }

    #[test]
    fn a_signature_is_what_others_compute_it_to_be() {
        // Computed by Python's hmac and hashlib.
        let signature = "1700000000:1700003600:a671da0365b817af543b25091eb0b541de5d0c81da1d1ea47c0803d0a45ceaff";
        assert_eq!(signed().sign("test-poll-secret", NOW, NOW + 3600), signature);
    }

    #[test]
    fn only_what_was_signed_is_allowed() {
        let signature = signed().sign("new", NOW, NOW + 60);
        let check = |signature: &str, signed| keys().check(signature, signed, NOW);
        assert_eq!(check(&signature, signed()), Ok(Some(NOW + 60)));
        for other in [
            Signed { user: "bob", ..signed() },
            Signed { room: "poll:b", ..signed() },
            Signed { keys: &["k1"], ..signed() },
            Signed { keys: &["k2", "k1"], ..signed() },
        ] {
            assert_eq!(check(&signature, other), Err(Refused::Unsigned), "{other:?}");
        }
        let later = signature.replace(&(NOW + 60).to_string(), &(NOW + 61).to_string());
        let upper = signature.to_uppercase();
        for wrong in ["", ":", "::", "a:b:c", &later, &upper, &signature[..signature.len() - 1]] {
            assert_eq!(check(wrong, signed()), Err(Refused::Unsigned), "{wrong}");
        }
        let nobody = SigningKeys::default();
        let signature = signed().sign("", NOW, NOW + 60);
        assert_eq!(nobody.check(&signature, signed(), NOW), Err(Refused::Unsigned));
    }

    #[test]
    fn signatures_end() {
        let check =
            |expires| keys().check(&signed().sign("new", NOW - 100, expires), signed(), NOW);
        assert_eq!(check(0), Ok(None));
        assert_eq!(check(NOW - 5), Ok(Some(NOW - 5)), "clocks differ");
        assert_eq!(check(NOW - 6), Err(Refused::Expired));
    }

    #[test]
    fn the_secret_before_is_good_for_what_it_signed_in_its_time() {
        let check = |issued| keys().check(&signed().sign("old", issued, 0), signed(), NOW);
        assert_eq!(check(NOW), Ok(None));
        assert_eq!(check(NOW + 1), Err(Refused::Unsigned));
        let always = SigningKeys { previous_until: 0, ..keys() };
        assert_eq!(always.check(&signed().sign("old", NOW + 1, 0), signed(), NOW), Ok(None));
    }
}
