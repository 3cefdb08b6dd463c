//! Time as the pure code knows it: milliseconds since some moment before the process did anything.
//!
//! Only shells read clocks; they hand the result in as [`Time`].

use std::{ops::Add, time::Duration};

/// A moment on this process's monotonic clock. Never sent to another node: ages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(u64);

impl Time {
    /// The moment `millis` milliseconds after the clock's start.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// How long ago `earlier` was; zero if it is yet to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The first moment from this one on that is a whole number of `grain`s after the clock's start.
    pub fn round_up(self, grain: Duration) -> Self {
        let grain = u64::try_from(grain.as_millis()).unwrap_or(u64::MAX).max(1);
        Self(self.0.div_ceil(grain).saturating_mul(grain))
    }

    /// The moment `age` ago, as far as the clock reaches back.
    pub fn ago(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(age.as_millis() as u64))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }
}
