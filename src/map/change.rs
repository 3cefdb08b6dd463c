//! What a publication of a map's room says.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A count of the application's own for the values of one key: an update that arrives late does not undo a newer one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersion {
    /// The count; 0: there is none.
    pub number: u64,
    /// Counts of different epochs are not compared; an empty one is compared with any.
    pub epoch: Box<str>,
}

impl KeyVersion {
    /// Whether a value of this version replaces one of version `last`.
    pub fn follows(&self, last: &Self) -> bool {
        let comparable = self.epoch.is_empty() || self.epoch == last.epoch;
        self.number == 0 || !comparable || self.number > last.number
    }
}

/// A value for a key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The key.
    pub key: Box<str>,
    /// The value.
    pub value: Bytes,
    /// Where it stands in an ordered map.
    pub score: i64,
    /// The application's count.
    pub version: KeyVersion,
}

/// What happens in a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A key has this value from now on.
    Put(Put),
    /// It has none any more.
    Removed(Box<str>),
    /// It has still the value that it was given at this offset, so long ago.
    Again(u64, Duration, Put),
    /// No key has a value any more, and nobody can go on from before.
    Cleared,
}

/// What a publication of a map's room says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What was published before this offset is not needed any more.
    pub floor: u64,
    /// Where the value before it is written, that subscribers may get it as a change of; 0: nowhere.
    pub before: u64,
    /// What happens.
    pub what: What,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, epoch: &str) -> KeyVersion {
        KeyVersion { number, epoch: epoch.into() }
    }

    #[test]
    fn a_version_follows_those_that_are_lower_or_of_another_epoch() {
        let last = version(5, "a");
        for (next, follows) in [
            (version(0, ""), true),
            (version(5, ""), false),
            (version(6, ""), true),
            (version(5, "a"), false),
            (version(6, "a"), true),
            (version(1, "b"), true),
        ] {
            assert_eq!(next.follows(&last), follows, "{next:?}");
        }
        assert!(version(1, "").follows(&KeyVersion::default()));
    }
}
