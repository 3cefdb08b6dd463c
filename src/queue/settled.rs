//! Which messages of a room are settled: all up to a floor, and ranges above it.

use std::collections::BTreeMap;

/// The settled ones, by their offsets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    floor: u64,
    /// From the first of a range to its last.
    above: BTreeMap<u64, u64>,
}

impl Settled {
    /// All up to `floor`.
    pub fn up_to(floor: u64) -> Self {
        Self { floor, above: BTreeMap::new() }
    }

    /// The same and these ranges, each with its first and last.
    pub fn with(floor: u64, above: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut settled = Self::up_to(floor);
        for (first, last) in above.into_iter().filter(|(first, last)| first <= last) {
            settled.insert_range(first, last);
        }
        settled
    }

    /// Everything up to here is settled.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The ranges above the floor.
    pub fn above(&self) -> impl ExactSizeIterator<Item = (u64, u64)> {
        self.above.iter().map(|(first, last)| (*first, *last))
    }

    /// Those before `end` that are not settled.
    pub fn open_before(&self, end: u64) -> impl Iterator<Item = u64> {
        let firsts = std::iter::once(self.floor).chain(self.above.values().copied());
        let lasts = self.above.keys().copied().chain([end]);
        firsts.zip(lasts).flat_map(move |(last, next)| last.saturating_add(1)..next.min(end))
    }

    /// Whether a message is settled.
    pub fn contains(&self, offset: u64) -> bool {
        offset <= self.floor
            || self.above.range(..=offset).next_back().is_some_and(|(_, last)| *last >= offset)
    }

    /// One more is. Returns whether it was not yet.
    pub fn insert(&mut self, offset: u64) -> bool {
        let new = !self.contains(offset);
        if new {
            self.insert_range(offset, offset);
        }
        new
    }

    /// All of these are.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        let (mut first, mut last) = (first.max(self.floor.saturating_add(1)), last);
        if first > last {
            return;
        }
        if let Some((before, until)) = self.above.range(..=first).next_back()
            && until.saturating_add(1) >= first
        {
            (first, last) = (*before, last.max(*until));
        }
        while let Some((next, until)) = self.above.range(first..).next()
            && *next <= last.saturating_add(1)
        {
            last = last.max(*until);
            let next = *next;
            self.above.remove(&next);
        }
        match first == self.floor.saturating_add(1) {
            true => self.floor = last,
            false => drop(self.above.insert(first, last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_floor_rises_when_the_gap_above_it_is_closed() {
        let mut settled = Settled::up_to(3);
        assert!(!settled.insert(2), "it was");
        for offset in [6, 8, 7, 5] {
            assert!(settled.insert(offset));
        }
        assert_eq!((settled.floor(), settled.above().collect::<Vec<_>>()), (3, vec![(5, 8)]));
        assert!(settled.insert(4));
        assert_eq!((settled.floor(), settled.above().count()), (8, 0));
    }

    proptest! {
        #[test]
        fn it_is_a_set(ranges in prop::collection::vec((0u64..60, 0u64..8), 0..40)) {
            let (mut settled, mut model) = (Settled::default(), BTreeSet::from([0]));
            for (first, more) in ranges {
                settled.insert_range(first, first + more);
                model.extend(first..=first + more);
            }
            for offset in 0..80 {
                prop_assert_eq!(settled.contains(offset), model.contains(&offset), "{}", offset);
            }
            for end in [0, 1, 30, 80] {
                let open = (0..end).filter(|it| !model.contains(it));
                prop_assert!(settled.open_before(end).eq(open), "{}", end);
            }
            let next = (0..).find(|it| !model.contains(it)).unwrap_or(0);
            prop_assert_eq!(settled.floor() + 1, next);
            let ends: Vec<(u64, u64)> = settled.above().collect();
            prop_assert!(ends.windows(2).all(|it| it[0].1 + 1 < it[1].0), "{:?}", ends);
            prop_assert_eq!(Settled::with(settled.floor(), settled.above()), settled);
        }
    }
}
