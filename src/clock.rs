//! SHELL. The clocks of this process, read by shells and handed to the pure code.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use crate::time::Time;

/// The monotonic clock. Its first reading is [`Time::default`] plus an hour, so that ages reach back
/// before the start.
pub fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let elapsed = START.get_or_init(Instant::now).elapsed();
    Time::from_millis(3_600_000 + elapsed.as_millis() as u64)
}

/// Unix time in milliseconds.
pub fn unix_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_millis() as u64)
}

/// Unix time in seconds.
pub fn unix_seconds() -> i64 {
    (unix_millis() / 1000) as i64
}
