//! A set of slots, as a bit for each.

use serde::{Deserialize, Serialize};

use super::placement::SLOTS;

const WORDS: usize = SLOTS / 64;

/// A set of slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(Vec<u64>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(vec![0; WORDS])
    }
}

impl SlotSet {
    /// All of them.
    pub fn all() -> Self {
        Self(vec![u64::MAX; WORDS])
    }

    /// Adds a slot. One that there is not is left out.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word &= !(1 << (slot % 64));
        }
    }

    /// Whether a slot is in it.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| word & (1 << (slot % 64)) != 0)
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, more)| *word |= more);
    }

    /// Leaves only what `other` has too.
    pub fn retain(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, too)| *word &= too);
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The first of them.
    pub fn first(&self) -> Option<u16> {
        let index = self.0.iter().position(|word| *word != 0)?;
        Some((index * 64) as u16 + self.0[index].trailing_zeros() as u16)
    }

    /// Takes the first of them out.
    pub fn pop_first(&mut self) -> Option<u16> {
        let first = self.first()?;
        self.remove(first);
        Some(first)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros() as u16;
                    left &= left - 1;
                    (index * 64) as u16 + bit
                })
            })
        })
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(slots in prop::collection::btree_set(0..SLOTS as u16, 0..50), gone in 0..SLOTS as u16) {
            let mut set: SlotSet = slots.iter().copied().collect();
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), slots.clone());
            prop_assert_eq!(set.contains(gone), slots.contains(&gone));
            set.remove(gone);
            prop_assert!(!set.contains(gone));
            let mut popped = Vec::new();
            while let Some(slot) = set.pop_first() {
                popped.push(slot);
            }
            let left: Vec<u16> = slots.into_iter().filter(|slot| *slot != gone).collect();
            prop_assert_eq!(popped, left);
        }
    }

    #[test]
    fn a_slot_that_there_is_not_is_left_out() {
        let mut set = SlotSet::default();
        set.insert(u16::MAX);
        assert!(set.is_empty() && !set.contains(u16::MAX));
        assert_eq!(SlotSet::all().iter().count(), SLOTS);
    }
}
