//! How batches are signed, so that the application knows who sent them and when.

use std::fmt::Write as _;

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// The header that has the signature.
pub const HEADER: &str = "X-Roomcast-Signature";

/// `t=<Unix time in seconds>,v1=<HMAC-SHA256 in hex>`; what is signed is the time, a dot, and the body.
pub fn signature(secret: &str, now: i64, body: &[u8]) -> String {
    let mut header = format!("t={now},v1=");
    // A key of any length will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return header };
    mac.update(format!("{now}.").as_bytes());
    mac.update(body);
    for byte in mac.finalize().into_bytes() {
        // Writing to memory does not fail.
        let _ = write!(header, "{byte:02x}");
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_what_openssl_says() {
        // printf '1700000000.{"events":[]}' | openssl dgst -sha256 -hmac secret
        let expected =
            "t=1700000000,v1=3947de27ec923573170fccda604ddfb25583ff98dc51e96cca2e11c59545026a";
        assert_eq!(signature("secret", 1_700_000_000, b"{\"events\":[]}"), expected);
    }
}
