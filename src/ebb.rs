//! When many of what there was have gone, so that their memory can be given back all at once.

use std::time::Duration;

use crate::time::Time;

/// So many have to go. What fewer leave behind is soon used again.
const MANY: usize = 1_000;
/// How long they may take: what still goes in this time counts too.
const LASTS: Duration = Duration::from_secs(1);

/// Watches how many there are.
#[derive(Debug, Default)]
pub struct Ebb {
    level: usize,
    /// The highest level since the last ebb.
    high: usize,
    over: Option<Time>,
}

impl Ebb {
    /// There are so many now.
    pub fn level(&mut self, level: usize, now: Time) {
        self.level = level;
        self.high = self.high.max(level);
        if self.over.is_none() && self.high - level >= MANY {
            self.over = Some(now + LASTS);
        }
    }

    /// When to ask whether an ebb is over; none: not before fewer are left.
    pub fn due(&self) -> Option<Time> {
        self.over
    }

    /// Whether an ebb is over. Says so once.
    pub fn is_over(&mut self, now: Time) -> bool {
        let over = self.over.is_some_and(|at| at <= now);
        if over {
            self.over = None;
            self.high = self.level;
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn when_many_go_it_is_over_once_a_second_later() {
        let mut ebb = Ebb::default();
        ebb.level(5_000, at(0));
        ebb.level(4_001, at(10));
        assert_eq!(ebb.due(), None);
        ebb.level(4_000, at(20));
        ebb.level(100, at(500));
        assert_eq!(ebb.due(), Some(at(1_020)));
        assert!(!ebb.is_over(at(1_019)));
        assert!(ebb.is_over(at(1_020)));
        assert!(!ebb.is_over(at(5_000)));
        assert_eq!(ebb.due(), None);
    }

    #[test]
    fn those_who_come_and_go_are_no_ebb() {
        let mut ebb = Ebb::default();
        for turn in 0..10_000 {
            ebb.level(5_000 - turn % 900, at(turn as u64));
        }
        assert_eq!(ebb.due(), None);
    }

    #[test]
    fn what_goes_after_an_ebb_counts_from_there() {
        let mut ebb = Ebb::default();
        ebb.level(3_000, at(0));
        ebb.level(2_000, at(1));
        assert!(ebb.is_over(at(1_001)));
        ebb.level(1_001, at(1_002));
        assert_eq!(ebb.due(), None);
        ebb.level(1_000, at(1_003));
        assert_eq!(ebb.due(), Some(at(2_003)));
    }
}
