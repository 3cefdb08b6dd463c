//! The longest of the recent durations: a peak that stands long enough to be read, and no longer.
//!
//! In: how long something took. Out: the most, of the last one to two minutes.

use std::time::Duration;

use super::time::Time;

/// For how long a peak stands at least. Monitoring reads more often than that.
const WINDOW: Duration = Duration::from_secs(60);

/// Keeps the longest duration of this window and of the one before.
#[derive(Debug, Default)]
pub struct Longest {
    began: Time,
    current: Duration,
    previous: Duration,
}

impl Longest {
    /// Something has taken this long.
    pub fn note(&mut self, took: Duration) {
        self.current = self.current.max(took);
    }

    /// The longest of the recent ones. Has to be called at least once a minute: that is when windows end.
    pub fn get(&mut self, now: Time) -> Duration {
        let longest = self.current.max(self.previous);
        if now.since(self.began) >= WINDOW {
            self.previous = std::mem::take(&mut self.current);
            self.began = now;
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_stands_for_a_minute_at_least_and_two_at_most() {
        let mut longest = Longest::default();
        let second = |it| Time::default() + Duration::from_secs(it);
        longest.note(Duration::from_millis(3));
        longest.note(Duration::from_millis(30));
        longest.note(Duration::from_millis(2));
        for it in 0..=61 {
            assert_eq!(longest.get(second(it)), Duration::from_millis(30), "after {it} s");
        }
        longest.note(Duration::from_millis(1));
        for it in 62..=120 {
            longest.get(second(it));
        }
        assert_eq!(longest.get(second(121)), Duration::from_millis(1));
    }
}
