//! Waiting for conditions: a question asked again until it is answered or its
//! deadline has passed.

use std::thread;
use std::time::{Duration, Instant};

/// How long a pause between two looks is: short enough not to slow a test,
/// long enough not to take the CPU from what is being waited for.
const PAUSE: Duration = Duration::from_millis(20);

/// Asks `look` until it says `Ok`. After `limit` the last reason is the error.
///
/// `look` is asked at least once, and once more after the deadline, so a slow
/// machine does not fail a condition that holds by then.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, String> {
    let deadline = Instant::now() + limit;
    loop {
        let late = Instant::now() >= deadline;
        match look() {
            Ok(found) => return Ok(found),
            Err(why) if late => return Err(format!("not within {limit:?}: {why}")),
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// Keeps a fault on for `time`: the one place where time itself is the condition.
pub fn hold(time: Duration) {
    thread::sleep(time);
}

/// `Ok` if `holds`, else the reason: turns a comparison into a condition.
pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why()) }
}
