//! The cluster's secret, and the keys that are made of it.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

/// What every node of the cluster knows and no one else.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// The shortest secret that is taken.
    pub const MIN_LENGTH: usize = 16;

    /// A secret; none if it is too short to be one.
    pub fn new(secret: &str) -> Option<Self> {
        (secret.len() >= Self::MIN_LENGTH).then(|| Self(secret.into()))
    }

    /// The key for one purpose. Different purposes have keys that say nothing of each other.
    pub fn key(&self, purpose: &str) -> [u8; 32] {
        let mut key = [0; 32];
        // 32 bytes are always within what HKDF-SHA256 can give.
        let _ = Hkdf::<Sha256>::new(Some(b"roomcast"), self.0.as_bytes())
            .expand(purpose.as_bytes(), &mut key);
        key
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}
