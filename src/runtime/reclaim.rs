//! Decides when freed memory is given back to the system: a second after many clients or rooms have gone, once
//! for all of them.
//!
//! In: how many there are. Out: when to call [`memory::give_back`](super::memory::give_back).

use std::time::Duration;

use super::time::Time;

/// This many have to go. The memory of fewer is soon used again.
const MANY: usize = 1_000;
/// How long to wait from then on, for the rest of those that are going.
const DELAY: Duration = Duration::from_secs(1);

/// Watches a count of things that take memory, and says when enough of them have gone.
#[derive(Debug, Default)]
pub struct Reclaim {
    count: usize,
    /// The highest count since memory was last given back.
    highest: usize,
    due: Option<Time>,
}

impl Reclaim {
    /// Takes note of how many there are now.
    pub fn update(&mut self, count: usize, now: Time) {
        self.count = count;
        self.highest = self.highest.max(count);
        if self.due.is_none() && self.highest - count >= MANY {
            self.due = Some(now + DELAY);
        }
    }

    /// When to give memory back; none: not before more have gone.
    pub fn due(&self) -> Option<Time> {
        self.due
    }

    /// Whether memory is to be given back now. Says so once; the caller has to do it.
    pub fn take_due(&mut self, now: Time) -> bool {
        let due = self.due.is_some_and(|at| at <= now);
        if due {
            self.due = None;
            self.highest = self.count;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn when_many_go_memory_is_given_back_once_a_second_later() {
        let mut reclaim = Reclaim::default();
        reclaim.update(5_000, at(0));
        reclaim.update(4_001, at(10));
        assert_eq!(reclaim.due(), None);
        reclaim.update(4_000, at(20));
        reclaim.update(100, at(500));
        assert_eq!(reclaim.due(), Some(at(1_020)));
        assert!(!reclaim.take_due(at(1_019)));
        assert!(reclaim.take_due(at(1_020)));
        assert!(!reclaim.take_due(at(5_000)));
        assert_eq!(reclaim.due(), None);
    }

    #[test]
    fn a_count_that_goes_up_and_down_gives_nothing_back() {
        let mut reclaim = Reclaim::default();
        for turn in 0..10_000 {
            reclaim.update(5_000 - turn % 900, at(turn as u64));
        }
        assert_eq!(reclaim.due(), None);
    }

    #[test]
    fn after_that_the_count_starts_anew() {
        let mut reclaim = Reclaim::default();
        reclaim.update(3_000, at(0));
        reclaim.update(2_000, at(1));
        assert!(reclaim.take_due(at(1_001)));
        reclaim.update(1_001, at(1_002));
        assert_eq!(reclaim.due(), None);
        reclaim.update(1_000, at(1_003));
        assert_eq!(reclaim.due(), Some(at(2_003)));
    }
}
