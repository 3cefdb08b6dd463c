//! Where the messages begin that are not older than some time, found by halves.
//!
//! In: the offsets between which it is, and when some messages were published. Out: which to look at next, and the place.
//!
//! What is assumed: times rise with offsets. Each copy of a room has the times of one clock, so they do, but for what a
//! copy took on its way and a clock that was set back. Where they don't, the message before the place that is found is
//! older, and the one at the place is not; others on either side may be where they would not be looked for.

use crate::runtime::time::Time;

/// A search for the first message that is not older than some moment. Each look leaves half of the rest, but for those at
/// a stretch that can't be read, of which the end is looked for in the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinceSearch {
    since: Time,
    /// What is before this offset is older.
    low: u64,
    /// What is at this offset, or behind it, is not.
    high: u64,
    /// The first and the last of a stretch that can't be read, before `high`.
    hole: Option<(u64, u64)>,
}

impl SinceSearch {
    /// What is before `low` is older than this moment, and what is at `high` or behind it is not.
    pub fn new(since: Time, low: u64, high: u64) -> Self {
        Self { since, low: low.min(high), high, hole: None }
    }

    /// The message to look at next; none: the place is found.
    pub fn wants(&self) -> Option<u64> {
        let low = self.hole.map_or(self.low, |(_, last)| last + 1);
        (low < self.high).then(|| low + (self.high - low) / 2)
    }

    /// The first message that can be read from the wanted one on is at this offset, and was published then.
    pub fn found(&mut self, offset: u64, at: Time) {
        if at < self.since {
            // What can't be read before it is older too.
            (self.low, self.hole) = (offset.saturating_add(1).clamp(self.low, self.high), None);
        } else {
            self.high = self.wants().unwrap_or(self.high);
            self.leave_hole();
        }
    }

    /// The wanted message can't be read.
    pub fn unreadable(&mut self) {
        let Some(wanted) = self.wants() else { return };
        self.hole = Some((self.hole.map_or(wanted, |(first, _)| first), wanted));
        self.leave_hole();
    }

    /// What can't be read up to one that is not older may be as young as that one.
    fn leave_hole(&mut self) {
        if let Some((first, _)) = self.hole.take_if(|(_, last)| *last + 1 >= self.high) {
            self.high = first;
        }
    }

    /// The place, once it is found: this one is not older, and what is before it is.
    pub fn place(&self) -> u64 {
        self.low
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Searches messages whose times rise, of which some can't be read: the place, and how many looks it took.
    fn search(times: &[u64], unreadable: &[bool], since: u64) -> (u64, usize) {
        let mut search = SinceSearch::new(Time::from_millis(since), 1, times.len() as u64 + 1);
        let mut looks = 0;
        while let Some(offset) = search.wants() {
            looks += 1;
            let index = offset as usize - 1;
            match unreadable.get(index) {
                Some(true) => search.unreadable(),
                _ => search.found(offset, Time::from_millis(times[index])),
            }
        }
        (search.place(), looks)
    }

    #[test]
    fn what_is_as_old_as_asked_for_is_not_older() {
        for (since, place) in [(0, 1), (10, 1), (11, 2), (20, 2), (21, 4), (99, 4)] {
            assert_eq!(search(&[10, 20, 20], &[], since).0, place, "{since}");
        }
        assert_eq!(search(&[], &[], 5), (1, 0));
    }

    #[test]
    fn what_was_let_go_of_meanwhile_is_not_looked_for() {
        // All up to 70 is gone, so the first that can be read is 71.
        let mut search = SinceSearch::new(Time::from_millis(80), 1, 101);
        while let Some(offset) = search.wants() {
            let offset = offset.max(71);
            search.found(offset, Time::from_millis(offset));
        }
        assert_eq!(search.place(), 80);
        let mut search = SinceSearch::new(Time::from_millis(80), 1, 51);
        search.found(71, Time::from_millis(71));
        assert_eq!((search.wants(), search.place()), (None, 51));
    }

    #[test]
    fn a_million_messages_take_twenty_looks() {
        let times: Vec<u64> = (0..1_000_000).collect();
        let (place, looks) = search(&times, &[], 123_456);
        assert_eq!(place, 123_457);
        assert!(looks <= 20, "{looks}");
        // All but the last are damaged.
        let mut unreadable = vec![true; times.len()];
        unreadable[999_999] = false;
        let (_, looks) = search(&times, &unreadable, 123_456);
        assert!(looks <= 20 * 21, "{looks}");
    }

    proptest! {
        #[test]
        fn nothing_that_is_asked_for_is_left_out(
            steps in prop::collection::vec(0u64..3, 0..200),
            unreadable in prop::collection::vec(any::<bool>(), 200),
            hole in (0usize..200, 0usize..100),
            since in 0u64..400,
        ) {
            let times: Vec<u64> = steps.iter().scan(0, |at, it| { *at += it; Some(*at) }).collect();
            let exact = times.partition_point(|at| *at < since) as u64 + 1;
            prop_assert_eq!(search(&times, &[], since).0, exact);
            prop_assert!(search(&times, &unreadable, since).0 <= exact);
            // Nor does anything older come with it but what can't be read.
            let within = |it: usize| (hole.0..hole.0 + hole.1).contains(&it);
            let damaged: Vec<bool> = (0..times.len()).map(within).collect();
            let (place, _) = search(&times, &damaged, since);
            prop_assert!(place <= exact);
            prop_assert!((place..exact).all(|it| within(it as usize - 1)));
        }
    }
}
