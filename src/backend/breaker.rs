//! When to stop asking a backend that does not answer, and when to try again. In: what became of calls. Out:
//! whether the next may be made.
//!
//! A call that waits in vain holds a place among those under way; without this, everything that needs a
//! backend that hangs would wait for it, each for the whole timeout.

use std::time::Duration;

use crate::runtime::time::Time;

/// So many calls in a row without an answer, and no more are made for a while.
const PATIENCE: u32 = 5;
/// How long that while is.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of one backend.
#[derive(Debug, Default)]
pub struct Breaker {
    unanswered: u32,
    /// Set while it is given up; then one call may try it.
    try_at: Option<Time>,
}

impl Breaker {
    /// Whether a call may be made. If it is the one that tries, no other may until `timeout` has passed: it
    /// may end without a word, with its client.
    pub fn admits(&mut self, now: Time, timeout: Duration) -> bool {
        match self.try_at {
            None => true,
            Some(at) if now < at => false,
            Some(_) => {
                self.try_at = Some(now + timeout + PAUSE);
                true
            }
        }
    }

    /// A call was answered, be it with an error: the backend does not hang.
    pub fn answered(&mut self) {
        *self = Self::default();
    }

    /// A call was not answered in time. Whether that is why the backend is given up now.
    pub fn unanswered(&mut self, now: Time) -> bool {
        self.unanswered = self.unanswered.saturating_add(1);
        if self.unanswered < PATIENCE {
            return false;
        }
        let given_up = self.try_at.is_none();
        self.try_at = Some(now + PAUSE);
        given_up
    }

    /// Whether it is given up for now.
    pub fn is_open(&self) -> bool {
        self.try_at.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(3);

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn given_up() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 1..PATIENCE {
            assert!(!breaker.unanswered(at(0)) && breaker.admits(at(0), TIMEOUT));
        }
        assert!(breaker.unanswered(at(0)), "the last straw is told of once");
        breaker
    }

    #[test]
    fn a_backend_that_hangs_is_left_alone_and_tried_by_one() {
        let mut breaker = given_up();
        assert!(!breaker.unanswered(at(0)));
        assert!(!breaker.admits(at(999), TIMEOUT));
        assert!(breaker.admits(at(1000), TIMEOUT));
        assert!(!breaker.admits(at(1000), TIMEOUT), "one is enough to try");
        breaker.answered();
        assert!(breaker.admits(at(1001), TIMEOUT) && !breaker.is_open());
    }

    #[test]
    fn one_that_still_hangs_is_left_alone_again() {
        let mut breaker = given_up();
        assert!(breaker.admits(at(1000), TIMEOUT));
        breaker.unanswered(at(4000));
        assert!(!breaker.admits(at(4999), TIMEOUT) && breaker.admits(at(5000), TIMEOUT));
    }

    #[test]
    fn a_try_that_ends_without_a_word_does_not_close_it_for_ever() {
        let mut breaker = given_up();
        assert!(breaker.admits(at(1000), TIMEOUT));
        assert!(!breaker.admits(at(4999), TIMEOUT) && breaker.admits(at(5000), TIMEOUT));
    }

    #[test]
    fn an_answer_now_and_then_is_enough() {
        let mut breaker = Breaker::default();
        for _ in 0..100 {
            (1..PATIENCE).for_each(|_| assert!(!breaker.unanswered(at(0))));
            breaker.answered();
            assert!(breaker.admits(at(0), TIMEOUT));
        }
    }
}
