//! SHELL. The clocks of this process, read by shells and handed to the pure code.

use std::{
    sync::OnceLock,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::runtime::time::Time;

/// What the clock reads first: ten years, so that the ages of what other nodes kept reach back before it.
const FIRST: Time = Time::from_millis(10 * 365 * 24 * 3_600_000);

/// The monotonic clock.
pub fn now() -> Time {
    at(uptime())
}

/// The moment when the clock had run for so long.
pub fn at(uptime: Duration) -> Time {
    FIRST + uptime
}

/// Time since the clock was first read.
pub fn uptime() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// Unix time in milliseconds.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}

/// Unix time in seconds.
pub fn unix_seconds() -> i64 {
    (unix_millis() / 1000) as i64
}
