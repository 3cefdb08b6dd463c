//! Which rooms a segment may have something of: twelve bits per room, wrong one time in some hundreds.
//!
//! What comes in: hashes of names. What goes out: "no", or "perhaps".

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

const BITS_PER_ROOM: usize = 12;
const PROBES: u64 = 6;

/// A Bloom filter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter(Vec<u8>);

/// A room's hash: its place in the order of rooms. The same in every version.
pub fn hash(name: &str) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x726f_6f6d, 0x006c_6f67);
    hasher.write(name.as_bytes());
    hasher.finish()
}

impl Filter {
    /// A filter with room for so many.
    pub fn new(rooms: usize) -> Self {
        Self(vec![0; (rooms * BITS_PER_ROOM).div_ceil(8).next_multiple_of(8)])
    }

    /// A filter as it was written.
    pub fn read(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// To be written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bits(&self, hash: u64) -> impl Iterator<Item = u64> + use<> {
        let all = self.0.len() as u64 * 8;
        let step = hash.rotate_left(32) | 1;
        (0..PROBES).map(move |it| hash.wrapping_add(it.wrapping_mul(step)) % all.max(1))
    }

    /// There is something of this room.
    pub fn add(&mut self, hash: u64) {
        for bit in self.bits(hash) {
            if let Some(byte) = self.0.get_mut((bit / 8) as usize) {
                *byte |= 1 << (bit % 8);
            }
        }
    }

    /// Whether there may be something of this room.
    pub fn may_have(&self, hash: u64) -> bool {
        self.bits(hash).all(|bit| {
            self.0.get((bit / 8) as usize).is_some_and(|byte| byte & (1 << (bit % 8)) > 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_forgets_none_and_takes_few_for_others() {
        let mut filter = Filter::new(10_000);
        (0..10_000).for_each(|it| filter.add(hash(&format!("room:{it}"))));
        assert!((0..10_000).all(|it| filter.may_have(hash(&format!("room:{it}")))));
        let wrong = (0..10_000).filter(|it| filter.may_have(hash(&format!("other:{it}"))));
        assert!(wrong.count() < 100);
        assert_eq!(filter.bytes().len(), 15_000);
    }

    #[test]
    fn an_empty_one_has_none() {
        assert!(!Filter::new(0).may_have(7));
    }

    #[test]
    fn hashes_stay_what_they_are() {
        assert_eq!(hash("chat:index"), 8_575_516_044_784_902_576);
    }
}
