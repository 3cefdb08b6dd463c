//! The ring of a room's newest publications, bounded by count and age.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::types::Publication;
use crate::runtime::time::Time;

/// A publication and when this node first had it.
#[derive(Debug, Clone)]
struct Kept {
    at: Time,
    publication: Arc<Publication>,
}

/// The newest publications of a room without a gap between them: the last one has offset `top`.
#[derive(Debug, Clone, Default)]
pub struct History {
    top: u64,
    kept: VecDeque<Kept>,
}

impl History {
    /// An empty history of a stream that has come to `top`.
    pub fn at(top: u64) -> Self {
        Self { top, kept: VecDeque::new() }
    }

    /// Offset of the newest publication, kept or not; 0 before the first.
    pub fn top(&self) -> u64 {
        self.top
    }

    /// How many publications are kept.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Offset of the oldest publication kept, or of the one to come.
    pub fn first(&self) -> u64 {
        self.top.saturating_add(1).saturating_sub(self.kept.len() as u64)
    }

    /// Appends the publication that follows `top`. Returns the bytes kept in addition.
    ///
    /// One at any other offset starts the ring anew there, since the ring has no gaps.
    pub fn push(&mut self, publication: Arc<Publication>, at: Time, size: usize) -> isize {
        let mut change = 0;
        if publication.offset != self.top.saturating_add(1) {
            change -= self.clear();
        }
        self.top = publication.offset;
        change += publication.weight() as isize;
        self.kept.push_back(Kept { at, publication });
        while self.kept.len() > size.max(1) {
            change -= self.drop_oldest();
        }
        change
    }

    /// Drops what is older than `ttl`. Returns the bytes freed.
    pub fn expire(&mut self, now: Time, ttl: Duration) -> isize {
        let mut freed = 0;
        while self.kept.front().is_some_and(|kept| now.since(kept.at) >= ttl) {
            freed += self.drop_oldest();
        }
        freed
    }

    /// When the oldest publication will have been kept for `ttl`.
    pub fn next_expiry(&self, ttl: Duration) -> Option<Time> {
        self.kept.front().map(|kept| kept.at + ttl)
    }

    /// Drops publications up to and including `offset`. Returns the bytes freed.
    pub fn drop_through(&mut self, offset: u64) -> isize {
        let mut freed = 0;
        while self.first() <= offset && !self.kept.is_empty() {
            freed += self.drop_oldest();
        }
        freed
    }

    /// Forgets what follows `offset`, which is the top from then on. Returns the bytes freed, as a loss.
    pub fn truncate(&mut self, offset: u64) -> isize {
        let mut change = 0;
        while self.top > offset {
            change -= self.kept.pop_back().map_or(0, |kept| kept.publication.weight() as isize);
            self.top = if self.kept.is_empty() { offset } else { self.top - 1 };
        }
        change
    }

    /// Puts publications before those that are kept, newest first, as far as they follow on each other and there are
    /// no more than `size`. Returns the bytes kept in addition.
    pub fn fill(
        &mut self,
        earlier: impl IntoIterator<Item = (Time, Arc<Publication>)>,
        size: usize,
    ) -> isize {
        let mut change = 0;
        for (at, publication) in earlier {
            if self.kept.len() >= size.max(1)
                || publication.offset.saturating_add(1) != self.first()
            {
                break;
            }
            change += publication.weight() as isize;
            self.kept.push_front(Kept { at, publication });
        }
        change
    }

    /// Drops everything; the top stays. Returns the bytes freed.
    pub fn clear(&mut self) -> isize {
        let freed = self.bytes() as isize;
        self.kept = VecDeque::new();
        freed
    }

    /// Bytes kept, all told.
    pub fn bytes(&self) -> usize {
        self.kept.iter().map(|kept| kept.publication.weight()).sum()
    }

    /// All that follow `offset`, oldest first; none if the ring does not reach back that far or `offset`
    /// is beyond the top.
    pub fn after(&self, offset: u64) -> Option<impl ExactSizeIterator<Item = &Arc<Publication>>> {
        if offset > self.top || offset.saturating_add(1) < self.first() {
            return None;
        }
        let skip = (offset + 1 - self.first()) as usize;
        Some(self.kept.range(skip..).map(|kept| &kept.publication))
    }

    /// Up to `limit` publications after `since` (or from the oldest kept), oldest first; in reverse those
    /// before it (or from the newest), newest first.
    pub fn page(&self, since: Option<u64>, reverse: bool, limit: usize) -> Vec<Arc<Publication>> {
        let first = self.first();
        let all = self.kept.iter().map(|kept| kept.publication.clone());
        let index = |offset: u64| {
            usize::try_from(offset.saturating_sub(first)).unwrap_or(usize::MAX).min(self.kept.len())
        };
        match (since, reverse) {
            (None, false) => all.take(limit).collect(),
            (None, true) => all.rev().take(limit).collect(),
            (Some(since), false) => all.skip(index(since.saturating_add(1))).take(limit).collect(),
            (Some(since), true) => all.take(index(since)).rev().take(limit).collect(),
        }
    }

    /// The newest publication kept.
    pub fn last(&self) -> Option<&Arc<Publication>> {
        self.kept.back().map(|kept| &kept.publication)
    }

    /// The publication at `offset` with its age, if it is kept.
    pub fn get(&self, offset: u64, now: Time) -> Option<(Duration, Arc<Publication>)> {
        let index = usize::try_from(offset.checked_sub(self.first())?).ok()?;
        self.kept.get(index).map(|kept| (now.since(kept.at), kept.publication.clone()))
    }

    /// Offset of the first publication kept that this node did not have before `since`, or of the one to come.
    pub fn first_since(&self, since: Time) -> u64 {
        self.first() + self.kept.partition_point(|kept| kept.at < since) as u64
    }

    fn drop_oldest(&mut self) -> isize {
        let freed = self.kept.pop_front().map_or(0, |kept| kept.publication.weight() as isize);
        if self.kept.is_empty() {
            self.kept = VecDeque::new();
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    /// What a publication of one digit counts.
    const WEIGHT: usize = Publication::OVERHEAD + 1;

    fn publication(offset: u64) -> Arc<Publication> {
        let data = Bytes::from(offset.to_string());
        Arc::new(Publication { offset, data, ..Default::default() })
    }

    fn filled(count: u64, size: usize) -> History {
        let mut history = History::default();
        for offset in 1..=count {
            history.push(publication(offset), Time::from_millis(offset * 10), size);
        }
        history
    }

    fn offsets(page: Vec<Arc<Publication>>) -> Vec<u64> {
        page.iter().map(|publication| publication.offset).collect()
    }

    #[test]
    fn pages_go_both_ways() {
        let history = filled(10, 5);
        assert_eq!(offsets(history.page(None, false, 2)), [6, 7]);
        assert_eq!(offsets(history.page(None, true, 2)), [10, 9]);
        assert_eq!(offsets(history.page(Some(7), false, 9)), [8, 9, 10]);
        assert_eq!(offsets(history.page(Some(8), true, 9)), [7, 6]);
        assert_eq!(offsets(history.page(Some(99), true, 1)), [10]);
        assert_eq!(offsets(history.page(Some(99), false, 1)), Vec::<u64>::new());
        assert_eq!(offsets(history.page(Some(u64::MAX), false, 1)), Vec::<u64>::new());
        assert_eq!(offsets(history.page(Some(1), false, 2)), [6, 7]);
    }

    #[test]
    fn what_is_kept_since_some_moment_is_found() {
        let history = filled(10, 5);
        for (since, first) in [(0, 6), (60, 6), (61, 7), (100, 10), (101, 11)] {
            assert_eq!(history.first_since(Time::from_millis(since)), first, "{since}");
        }
        assert_eq!(History::at(4).first_since(Time::from_millis(9)), 5);
    }

    #[test]
    fn what_follows_an_offset_can_be_forgotten_and_what_came_before_put_back() {
        let mut history = filled(5, 3);
        assert_eq!(history.truncate(9), 0);
        assert_eq!(history.truncate(4), -(WEIGHT as isize));
        assert_eq!((history.first(), history.top()), (3, 4));
        assert_eq!(history.truncate(1), -2 * WEIGHT as isize);
        assert_eq!((history.first(), history.top(), history.len()), (2, 1, 0));
        let earlier = |offsets: &[u64]| {
            let kept = offsets.iter().map(|it| (Time::default(), publication(*it)));
            kept.collect::<Vec<_>>()
        };
        let mut history = History::at(9);
        assert_eq!(history.fill(earlier(&[9, 8, 6]), 5), 2 * WEIGHT as isize);
        assert_eq!(history.fill(earlier(&[7, 6, 5, 4]), 5), 3 * WEIGHT as isize);
        assert_eq!((history.first(), history.top(), history.len()), (5, 9, 5));
    }

    #[test]
    fn age_empties_the_ring_but_not_the_top() {
        let mut history = filled(3, 5);
        assert_eq!(
            history.expire(Time::from_millis(40), Duration::from_millis(20)),
            2 * WEIGHT as isize
        );
        assert_eq!((history.len(), history.first(), history.top()), (1, 3, 3));
        history.expire(Time::from_millis(400), Duration::from_millis(20));
        assert_eq!((history.len(), history.first(), history.top()), (0, 4, 3));
        assert_eq!(history.after(3).map(Iterator::count), Some(0));
        assert!(history.after(2).is_none());
    }

    proptest! {
        #[test]
        fn what_follows_an_offset_has_no_gap(count in 0u64..30, size in 1usize..20, offset in 0u64..40) {
            let history = filled(count, size);
            prop_assert!(history.len() <= size);
            prop_assert_eq!(history.bytes(), history.page(None, false, 99).iter().map(|p| p.weight()).sum::<usize>());
            match history.after(offset) {
                None => prop_assert!(offset > count || offset + 1 < history.first()),
                Some(after) => prop_assert_eq!(
                    after.map(|publication| publication.offset).collect::<Vec<_>>(),
                    (offset + 1..=count).collect::<Vec<_>>()
                ),
            }
        }
    }
}
