//! How old something is, though the clock on the wall jumps.
//!
//! What comes in: both clocks, again and again. What goes out: ages of what was published at some Unix time.
//!
//! On disk are Unix times, since only they mean something after a restart; and someone sets that clock, or a virtual
//! machine sleeps. So while a log is open, how far Unix time was ahead of the uptime is remembered, as long as
//! something may have been published by it: nothing is taken for older than by any clock that there was since. After
//! a restart the clock on the wall is all there is.

use std::time::Duration;

/// Clocks that differ by so much are two: it is slewed, and can't be read at the very moment of the other.
const TOLERANCE: i64 = 1_000;
/// So many jumps are told apart.
const JUMPS: usize = 64;

/// What time it is, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since any beginning. It only ever goes on.
    pub uptime: Duration,
    /// Since 1970. It jumps when someone sets the clock.
    pub unix: Duration,
}

/// What Unix time was, since the log was opened.
#[derive(Debug, Clone, Default)]
pub struct WallClock {
    /// By how many milliseconds it is ahead of the uptime; none: it was not read yet.
    ahead: Option<i64>,
    /// By how many it was before it jumped, each less than the next. One that was as much ahead as a later one, or
    /// more, makes nothing younger.
    before: Vec<Before>,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    ahead: i64,
    /// The uptime when it jumped, in milliseconds.
    until: i64,
}

impl WallClock {
    /// Both clocks were read.
    pub fn read(&mut self, now: Now) {
        let (ahead, until) =
            (millis(now.unix).saturating_sub(millis(now.uptime)), millis(now.uptime));
        let Some(was) = self.ahead else { return self.ahead = Some(ahead) };
        if ahead.abs_diff(was) <= TOLERANCE.unsigned_abs() {
            return;
        }
        self.before.push(Before { ahead: was, until });
        self.before.retain(|it| it.ahead < ahead);
        if self.before.len() > JUMPS {
            // The first two become one, which makes younger what was published by the second.
            self.before[0].until = self.before.remove(1).until;
        }
        self.ahead = Some(ahead);
    }

    /// What was published before this Unix time (in milliseconds) is older than `age`, by every clock that there was
    /// in that time.
    pub fn since(&self, age: Duration, now: Now) -> u64 {
        let (uptime, age) = (millis(now.uptime), millis(age));
        let begin = uptime.saturating_sub(age);
        let before = self.before.iter().filter(|it| it.until >= begin).map(|it| it.ahead);
        let ahead = before.chain([self.ahead(now)]).min().unwrap_or(0);
        u64::try_from(begin.saturating_add(ahead)).unwrap_or(0)
    }

    /// How old is what was published at this Unix time (in milliseconds): by the clock by which it is the youngest.
    pub fn age(&self, published: u64, now: Now) -> Duration {
        let published = i64::try_from(published).unwrap_or(i64::MAX);
        let uptime = |ahead: i64| published.saturating_sub(ahead);
        let before = self.before.iter().map(|it| (uptime(it.ahead), it.until));
        let before = before.filter(|(at, until)| at <= until).map(|(at, _)| at);
        let at = before.chain([uptime(self.ahead(now))]).max().unwrap_or(0);
        let age = millis(now.uptime).saturating_sub(at);
        Duration::from_millis(u64::try_from(age).unwrap_or(0))
    }

    fn ahead(&self, now: Now) -> i64 {
        self.ahead.unwrap_or_else(|| millis(now.unix).saturating_sub(millis(now.uptime)))
    }
}

fn millis(it: Duration) -> i64 {
    i64::try_from(it.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    /// So many minutes after the beginning, with the clock on the wall so many minutes ahead.
    fn at(minutes: u32, ahead: u32) -> Now {
        Now { uptime: MINUTE * minutes, unix: MINUTE * (minutes + ahead) }
    }

    /// The Unix time in milliseconds.
    fn unix(now: Now) -> u64 {
        now.unix.as_millis() as u64
    }

    #[test]
    fn a_jump_forward_makes_nothing_older_and_is_over_once_nothing_is_left_from_before_it() {
        let mut clock = WallClock::default();
        clock.read(at(5, 1_000));
        let published = at(5, 1_000);
        clock.read(at(6, 1_060));
        assert_eq!(clock.since(MINUTE * 10, at(6, 1_060)), unix(at(0, 996)));
        assert_eq!(clock.age(unix(published), at(6, 1_060)), MINUTE);
        assert_eq!(clock.age(unix(at(6, 1_060)), at(8, 1_060)), MINUTE * 2);
        // From before the log was opened.
        assert_eq!(clock.age(unix(at(0, 990)), at(6, 1_060)), MINUTE * 16);
        clock.read(at(17, 1_060));
        assert_eq!(clock.since(MINUTE * 10, at(17, 1_060)), unix(at(7, 1_060)));
    }

    #[test]
    fn a_clock_that_was_wrong_for_a_while_takes_nothing_away() {
        let mut clock = WallClock::default();
        for (minutes, ahead) in [(0, 1_000), (1, 9_000), (2, 1_000), (3, 500)] {
            clock.read(at(minutes, ahead));
        }
        for (minutes, ahead) in [(0, 1_000), (1, 9_000), (2, 1_000), (3, 500)] {
            let published = unix(at(minutes, ahead));
            assert!(clock.since(MINUTE * 4, at(4, 500)) <= published);
            assert!(clock.age(published, at(4, 500)) <= MINUTE * (4 - minutes));
        }
    }

    #[test]
    fn a_clock_that_is_slewed_is_one_clock_and_many_jumps_take_no_memory() {
        let mut clock = WallClock::default();
        let read = |number: u32, step: Duration| Now {
            uptime: SECOND * number,
            unix: MINUTE + SECOND * number + step * number,
        };
        (0..90).for_each(|it| clock.read(read(it, SECOND / 100)));
        assert!(clock.before.is_empty());
        (0..1_000).for_each(|it| clock.read(read(it, MINUTE)));
        assert!(clock.before.len() <= JUMPS);
        // What was published by the first of them still counts as young.
        let now = read(999, MINUTE);
        assert!(clock.since(SECOND * 999, now) <= unix(read(0, MINUTE)) + 1_000);
    }
}
