//! When which keys of a room are asked for.
//!
//! In: the keys, the time, what became of requests. Out: the next batch. All keys are asked for once in an interval, in
//! batches that are spread over it; keys that somebody waits for are asked for at once, all that came meanwhile
//! together. Where the backend does not answer, everything waits, longer each time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use crate::runtime::time::Time;

/// A key of a room.
pub(super) type Key = Arc<str>;

/// The longest pause because of a backend that does not answer, unless the interval is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Why a batch is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// Its time has come.
    Round,
    /// Somebody waits for it.
    Urgent,
}

/// When the keys of one room are asked for.
#[derive(Debug)]
pub(super) struct Schedule {
    interval: Duration,
    batch_size: usize,
    urgent: BTreeSet<Key>,
    /// A batch of those is under way.
    urgent_asked: bool,
    round: Option<Round>,
    /// When the next round begins, while none is under way; none: there are no keys.
    next_round: Option<Time>,
    /// Rounds in a row that failed.
    failures: u32,
}

/// All keys, asked for once.
#[derive(Debug)]
struct Round {
    began: Time,
    /// The last key of the last batch.
    last: Option<Key>,
    /// When the next batch is asked for; none: all were.
    next_batch: Option<Time>,
    spacing: Duration,
    under_way: usize,
    failed: bool,
}

impl Schedule {
    /// Nothing is asked for yet.
    pub(super) fn new(interval: Duration, batch_size: usize) -> Self {
        Self {
            interval,
            batch_size: batch_size.max(1),
            urgent: BTreeSet::new(),
            urgent_asked: false,
            round: None,
            next_round: None,
            failures: 0,
        }
    }

    /// There are keys to be asked for.
    pub(super) fn start(&mut self, now: Time) {
        if self.round.is_none() && self.next_round.is_none() {
            self.next_round = Some(now + self.interval);
        }
    }

    /// Nothing was asked for lately: all keys are, at once.
    pub(super) fn start_now(&mut self, now: Time) {
        if self.round.is_none() {
            self.next_round = Some(now);
        }
    }

    /// Nothing is asked for any more.
    pub(super) fn stop(&mut self) {
        *self = Self::new(self.interval, self.batch_size);
    }

    /// Somebody waits for a key.
    pub(super) fn hurry(&mut self, key: Key) {
        self.urgent.insert(key);
    }

    /// A key is not tracked any more.
    pub(super) fn forget(&mut self, key: &str) {
        self.urgent.remove(key);
    }

    fn is_urgent(&self) -> bool {
        // A backend that does not answer gets no more than one request at a time, and not at once.
        !self.urgent.is_empty() && !self.urgent_asked && self.failures == 0
    }

    /// When there is a batch to be asked for.
    pub(super) fn due(&self) -> Option<Time> {
        if self.is_urgent() {
            return Some(Time::default());
        }
        match &self.round {
            Some(round) => round.next_batch,
            None => self.next_round,
        }
    }

    /// The next batch that is due.
    pub(super) fn next<T>(
        &mut self,
        keys: &BTreeMap<Key, T>,
        now: Time,
    ) -> Option<(Reason, Vec<Key>)> {
        if self.is_urgent() {
            let batch: Vec<Key> = self.urgent.iter().take(self.batch_size).cloned().collect();
            for key in &batch {
                self.urgent.remove(key);
            }
            self.urgent_asked = true;
            return Some((Reason::Urgent, batch));
        }
        if self.round.is_none() && self.next_round.is_some_and(|at| at <= now) {
            self.next_round = None;
            if keys.is_empty() {
                return None;
            }
            let batches = u32::try_from(keys.len().div_ceil(self.batch_size)).unwrap_or(u32::MAX);
            self.round = Some(Round {
                began: now,
                last: None,
                next_batch: Some(now),
                spacing: self.interval / batches,
                under_way: 0,
                failed: false,
            });
        }
        let round = self.round.as_mut().filter(|it| it.next_batch.is_some_and(|at| at <= now))?;
        let from = round.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut left = keys.range::<Key, _>((from, Bound::Unbounded)).map(|(key, _)| key);
        let batch: Vec<Key> = left.by_ref().take(self.batch_size).cloned().collect();
        round.next_batch = left.next().map(|_| now + round.spacing);
        let Some(last) = batch.last() else {
            // Those that were left are gone.
            self.end_round(now);
            return None;
        };
        round.last = Some(last.clone());
        round.under_way += 1;
        for key in &batch {
            self.urgent.remove(key);
        }
        Some((Reason::Round, batch))
    }

    /// What was asked for is answered, or not.
    pub(super) fn done(&mut self, reason: Reason, answered: bool, now: Time) {
        match (reason, &mut self.round) {
            (Reason::Urgent, _) => {
                self.urgent_asked = false;
                if !answered {
                    self.failures = self.failures.max(1);
                }
            }
            (Reason::Round, Some(round)) => {
                round.under_way = round.under_way.saturating_sub(1);
                round.failed |= !answered;
                self.end_round(now);
            }
            (Reason::Round, None) => {}
        }
    }

    fn end_round(&mut self, now: Time) {
        let over = |it: &mut Round| it.next_batch.is_none() && it.under_way == 0;
        let Some(round) = self.round.take_if(over) else { return };
        self.failures = if round.failed { self.failures.saturating_add(1) } else { 0 };
        self.next_round = Some((round.began + self.pause()).max(now));
    }

    /// From the beginning of one round to that of the next.
    fn pause(&self) -> Duration {
        let longer = self.interval.saturating_mul(1 << self.failures.min(16));
        longer.min(LONGEST_PAUSE.max(self.interval))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn keys(names: &str) -> BTreeMap<Key, ()> {
        names.split_whitespace().map(|it| (it.into(), ())).collect()
    }

    fn schedule() -> Schedule {
        let mut schedule = Schedule::new(INTERVAL, 2);
        schedule.start(at(0));
        schedule
    }

    fn next(schedule: &mut Schedule, keys: &BTreeMap<Key, ()>, millis: u64) -> Option<String> {
        schedule.next(keys, at(millis)).map(|(_, batch)| batch.join(" "))
    }

    #[test]
    fn a_round_asks_for_each_key_once_and_is_spread_over_the_interval() {
        let (mut it, keys) = (schedule(), keys("a b c d e"));
        assert_eq!((it.due(), next(&mut it, &keys, 999)), (Some(at(1000)), None));
        assert_eq!(next(&mut it, &keys, 1000).as_deref(), Some("a b"));
        assert_eq!((it.due(), next(&mut it, &keys, 1332)), (Some(at(1333)), None));
        assert_eq!(next(&mut it, &keys, 1333).as_deref(), Some("c d"));
        assert_eq!(next(&mut it, &keys, 1700).as_deref(), Some("e"));
        assert_eq!(it.due(), None, "the next waits for the answers");
        (0..2).for_each(|_| it.done(Reason::Round, true, at(1800)));
        assert_eq!(it.due(), None);
        it.done(Reason::Round, true, at(1800));
        assert_eq!(it.due(), Some(at(2000)), "from beginning to beginning");
    }

    #[test]
    fn a_backend_slower_than_the_interval_is_asked_again_at_once_and_not_before() {
        let (mut it, keys) = (schedule(), keys("a"));
        assert_eq!(next(&mut it, &keys, 1000).as_deref(), Some("a"));
        assert_eq!((it.due(), next(&mut it, &keys, 4000)), (None, None));
        it.done(Reason::Round, true, at(5000));
        assert_eq!(next(&mut it, &keys, 5000).as_deref(), Some("a"));
    }

    #[test]
    fn keys_that_come_and_go_during_a_round_do_not_disturb_it() {
        let mut it = schedule();
        assert_eq!(next(&mut it, &keys("b d f"), 1000).as_deref(), Some("b d"));
        assert_eq!(next(&mut it, &keys("a b c e"), 1500).as_deref(), Some("e"));
        (0..2).for_each(|_| it.done(Reason::Round, true, at(1500)));
        assert_eq!(next(&mut it, &keys("a b c"), 2000).as_deref(), Some("a b"));
        it.done(Reason::Round, true, at(2000));
        assert_eq!(next(&mut it, &keys(""), 2500), None);
        assert_eq!(it.due(), Some(at(3000)));
        assert_eq!((next(&mut it, &keys(""), 3000), it.due()), (None, None), "no keys, no rounds");
        it.start(at(9000));
        assert_eq!(it.due(), Some(at(10_000)));
    }

    #[test]
    fn what_somebody_waits_for_is_asked_for_at_once_together_and_one_batch_at_a_time() {
        let (mut it, keys) = (schedule(), keys("a b c d"));
        ["c", "a", "b"].into_iter().for_each(|key| it.hurry(key.into()));
        it.forget("b");
        assert_eq!(next(&mut it, &keys, 1).as_deref(), Some("a c"));
        it.hurry("d".into());
        assert_eq!((it.due(), next(&mut it, &keys, 2)), (Some(at(1000)), None));
        it.done(Reason::Urgent, true, at(3));
        assert_eq!(next(&mut it, &keys, 3).as_deref(), Some("d"));
        it.hurry("a".into());
        assert_eq!(next(&mut it, &keys, 1000).as_deref(), Some("a b"));
        it.done(Reason::Urgent, true, at(1001));
        assert_eq!(next(&mut it, &keys, 1001), None, "a round has asked for it");
    }

    #[test]
    fn a_backend_that_does_not_answer_is_asked_less_and_less_often() {
        let (mut it, keys) = (schedule(), keys("a"));
        it.hurry("a".into());
        assert!(next(&mut it, &keys, 0).is_some());
        it.done(Reason::Urgent, false, at(0));
        it.hurry("a".into());
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..5 {
            let due = it.due().expect("a round").since(at(0)).as_millis() as u64;
            pauses.push(due - now);
            now = due;
            assert_eq!(next(&mut it, &keys, now).as_deref(), Some("a"));
            it.hurry("a".into());
            it.done(Reason::Round, false, at(now));
        }
        assert_eq!(pauses, [1000, 4000, 8000, 10_000, 10_000]);
        now += 10_000;
        assert!(next(&mut it, &keys, now).is_some());
        it.done(Reason::Round, true, at(now));
        assert_eq!(it.due(), Some(at(now + 1000)), "and as ever once it has");
    }
}
