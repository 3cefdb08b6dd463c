//! The cluster's secrets, and the keys that are made of them.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

/// What every node of the cluster knows and no one else. While it is being changed there are several: the
/// first seals, any opens.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secrets(Vec<Box<str>>);

/// The keys that are made of the secrets, in their order.
pub type SealingKeys = Vec<[u8; 32]>;

impl Secrets {
    /// The shortest secret that is taken.
    pub const MIN_LENGTH: usize = 16;

    /// Adds a secret; none if it is too short to be one.
    pub fn add(&mut self, secret: &str) -> Option<()> {
        (secret.len() >= Self::MIN_LENGTH).then(|| self.0.push(secret.into()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys for one purpose. Keys of different purposes reveal nothing about each other.
    pub fn keys(&self, purpose: &str) -> SealingKeys {
        self.0.iter().map(|secret| key(secret, purpose)).collect()
    }
}

fn key(secret: &str, purpose: &str) -> [u8; 32] {
    let mut key = [0; 32];
    // 32 bytes are always within what HKDF-SHA256 can give.
    let _ = Hkdf::<Sha256>::new(Some(b"roomcast"), secret.as_bytes())
        .expand(purpose.as_bytes(), &mut key);
    key
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.0.len())
    }
}
