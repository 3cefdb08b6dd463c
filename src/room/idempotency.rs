//! The idempotency keys that a room has seen recently, and the offset of each one's publication.
//!
//! In: keys with offsets and times. Out: whether a key is known. Bounded by count and age.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use crate::runtime::time::Time;

/// How long a key is remembered.
pub const WINDOW: Duration = Duration::from_secs(300);
/// The most keys that a room remembers.
const MAX_KEYS: usize = 10_000;

/// Keys as nodes tell them each other: age, key, and the publication's offset (0 where none has one).
pub type Aged = (Duration, Box<str>, u64);

/// The keys of one room.
#[derive(Debug, Clone, Default)]
pub struct IdempotencyKeys {
    offsets: HashMap<Arc<str>, u64>,
    by_age: VecDeque<(Time, Arc<str>)>,
}

impl IdempotencyKeys {
    /// The offset of the publication that came with `key`.
    pub fn get(&self, key: &str) -> Option<u64> {
        self.offsets.get(key).copied()
    }

    /// Remembers a key that was not known, and forgets the oldest of too many.
    pub fn remember(&mut self, key: &str, offset: u64, at: Time) {
        if self.offsets.contains_key(key) {
            return;
        }
        let key: Arc<str> = key.into();
        self.offsets.insert(key.clone(), offset);
        self.by_age.push_back((at, key));
        if self.by_age.len() > MAX_KEYS {
            self.forget_oldest();
        }
    }

    /// Takes over what another node remembers.
    pub fn learn(&mut self, keys: Vec<Aged>, now: Time) {
        for (age, key, offset) in keys {
            self.remember(&key, offset, now.ago(age));
        }
    }

    /// The keys of publications after `offset`, oldest first.
    pub fn after(&self, offset: u64, now: Time) -> Vec<Aged> {
        let keys = self.by_age.iter().filter_map(|(at, key)| {
            let of = *self.offsets.get(key)?;
            (of > offset).then(|| (now.since(*at), key.as_ref().into(), of))
        });
        keys.collect()
    }

    /// All keys, oldest first.
    pub fn all(&self, now: Time) -> Vec<Aged> {
        let keys = self.by_age.iter().filter_map(|(at, key)| {
            Some((now.since(*at), key.as_ref().into(), *self.offsets.get(key)?))
        });
        keys.collect()
    }

    /// Forgets the oldest key.
    pub fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.by_age.pop_front() {
            self.offsets.remove(&key);
        }
        if self.by_age.is_empty() {
            *self = Self::default();
        }
    }

    /// Forgets keys that are old enough.
    pub fn expire(&mut self, now: Time) {
        while self.next_expiry().is_some_and(|at| at <= now) {
            self.forget_oldest();
        }
    }

    /// When the oldest will be old enough.
    pub fn next_expiry(&self) -> Option<Time> {
        self.by_age.front().map(|(at, _)| *at + WINDOW)
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.by_age.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Time = Time::from_millis(1_000_000);

    #[test]
    fn the_first_offset_of_a_key_stays() {
        let mut keys = IdempotencyKeys::default();
        keys.remember("k", 1, NOW);
        keys.remember("k", 2, NOW + WINDOW / 2);
        assert_eq!(keys.get("k"), Some(1));
        keys.expire(NOW + WINDOW);
        assert!(keys.is_empty() && keys.get("k").is_none());
    }

    #[test]
    fn what_another_node_learns_is_as_old_there() {
        let mut keys = IdempotencyKeys::default();
        keys.remember("a", 0, NOW);
        keys.remember("b", 7, NOW + WINDOW / 2);
        let later = NOW + WINDOW / 2;
        assert_eq!(keys.after(0, later), [(Duration::ZERO, "b".into(), 7)]);
        let mut other = IdempotencyKeys::default();
        other.learn(keys.all(later), later);
        other.expire(NOW + WINDOW);
        assert_eq!((other.get("a"), other.get("b")), (None, Some(7)));
    }

    proptest! {
        #[test]
        fn they_are_bounded_and_the_newest_stay(count in 1..3 * MAX_KEYS) {
            let mut keys = IdempotencyKeys::default();
            for n in 0..count {
                keys.remember(&n.to_string(), n as u64, NOW);
            }
            prop_assert_eq!(keys.offsets.len(), count.min(MAX_KEYS));
            prop_assert_eq!(keys.by_age.len(), count.min(MAX_KEYS));
            prop_assert!(keys.get(&(count - 1).to_string()).is_some());
        }
    }
}
