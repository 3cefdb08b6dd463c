//! How much history a node keeps, which publication is the oldest, and how many idempotency keys it remembers.

use super::{idempotency, long_queue::LongQueue, types::RoomName};
use crate::runtime::time::Time;

/// How much history the node keeps, and which is the oldest.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: usize,
    /// Every publication kept, oldest first; some are gone already.
    by_age: LongQueue<(RoomName, u64)>,
    /// While those that are gone are looked for: the ones older than all of `by_age`, which are not.
    sifted: Option<LongQueue<(RoomName, u64)>>,
    /// Length of `by_age` at which it is worth looking for those that are gone.
    sift_at: usize,
    /// The rooms that have remembered an idempotency key, oldest first, one entry for each key.
    keys: LongQueue<(Time, RoomName)>,
}

/// Publications that one input looks at: many more than one brings.
const SIFTED_AT_ONCE: usize = 64;

/// The most idempotency keys that a node remembers, over all rooms.
const MAX_KEYS: usize = 1_000_000;

impl Memory {
    /// Bytes kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes note of a change.
    pub fn add(&mut self, change: isize) {
        self.bytes = self.bytes.saturating_add_signed(change);
    }

    /// Takes note of an idempotency key that `room` remembers.
    pub fn keyed(&mut self, room: &RoomName, now: Time) {
        self.keys.push_back((now, room.clone()));
    }

    /// A room that is to forget its oldest key, because the node has too many.
    pub(super) fn too_many_keys(&mut self, now: Time) -> Option<RoomName> {
        while self.keys.front().is_some_and(|(at, _)| now.since(*at) >= idempotency::WINDOW) {
            self.keys.pop_front();
        }
        if self.keys.len() <= MAX_KEYS {
            return None;
        }
        self.keys.pop_front().map(|(_, room)| room)
    }

    /// Takes the oldest publication off; it may be gone already.
    pub(super) fn pop_oldest(&mut self) -> Option<(RoomName, u64)> {
        let sifted = self.sifted.as_mut().and_then(LongQueue::pop_front);
        sifted.or_else(|| self.by_age.pop_front())
    }

    /// Forgets publications that are gone, once they may be half of all. Looks at some of them at a time: at all at
    /// once would take long.
    pub(super) fn sift(&mut self, is_there: impl Fn(&RoomName, u64) -> bool) {
        if self.sifted.is_none() && self.by_age.len() <= self.sift_at {
            return;
        }
        let sifted = self.sifted.get_or_insert_default();
        for _ in 0..SIFTED_AT_ONCE {
            let Some((room, offset)) = self.by_age.pop_front() else {
                self.by_age = self.sifted.take().unwrap_or_default();
                self.sift_at = self.by_age.len() * 2 + 1024;
                return;
            };
            if is_there(&room, offset) {
                sifted.push_back((room, offset));
            }
        }
    }

    /// Takes note of a publication kept.
    pub fn kept(&mut self, room: &RoomName, offset: u64, change: isize) {
        self.add(change);
        self.by_age.push_back((room.clone(), offset));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publications_that_are_gone_are_sifted_out_in_parts_and_the_others_stay_in_order() {
        let (mut memory, room): (_, RoomName) = (Memory::default(), "a".into());
        let mut oldest = Vec::new();
        for offset in 0..3_000 {
            memory.kept(&room, offset, 1);
            memory.sift(|_, offset| offset % 100 == 0);
            if offset % 200 == 199 {
                oldest.extend(memory.pop_oldest());
            }
        }
        let left = memory.by_age.len() + memory.sifted.as_ref().map_or(0, LongQueue::len);
        assert!(left < 1_100, "{left} are remembered");
        oldest.extend(std::iter::from_fn(|| memory.pop_oldest()));
        let oldest: Vec<u64> = oldest.into_iter().map(|(_, offset)| offset).collect();
        assert!(oldest.is_sorted(), "{oldest:?}");
        assert!((0..3_000).step_by(100).all(|offset| oldest.contains(&offset)), "{oldest:?}");
    }
}
