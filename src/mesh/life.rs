//! When a link is dead, pure: nothing has arrived at its socket for too long, although this node was there to
//! take it.
//!
//! In: what arrives, when this node stops and goes on reading, and looks at regular times. Out: whether the
//! peer is silent. Only time in which this node reads counts: while it waits for its own rooms, or while its
//! process stands still, what the peer has sent stays in the socket, and says nothing about the peer.

use std::time::Duration;

use crate::runtime::time::Time;

/// How long a peer has been silent, as far as this node can tell.
#[derive(Debug)]
pub struct Life {
    /// How often it is looked at.
    every: Duration,
    /// How long a living peer may be silent.
    patience: Duration,
    /// How long this node has read, and nothing came.
    silent: Duration,
    /// Since when it reads, or when it was last looked at; none while it doesn't read.
    reading: Option<Time>,
}

impl Life {
    /// A link that is up since `now`, and looked at `every` so often.
    pub fn new(every: Duration, patience: Duration, now: Time) -> Self {
        Self { every, patience, silent: Duration::ZERO, reading: Some(now) }
    }

    /// Something has arrived, be it a part of something long.
    pub fn heard(&mut self) {
        self.silent = Duration::ZERO;
    }

    /// This node reads no more for now: it has enough to do with what it has read.
    pub fn pause(&mut self) {
        self.reading = None;
    }

    /// It reads again.
    pub fn resume(&mut self, now: Time) {
        self.reading = Some(now);
    }

    /// Whether the peer has been silent for too long. A look that comes late counts as one in time: this
    /// process stood still as well, and nobody has read what has come meanwhile.
    pub fn is_over(&mut self, now: Time) -> bool {
        if let Some(since) = &mut self.reading {
            self.silent += now.since(*since).min(self.every);
            *since = now;
        }
        self.silent > self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(1);
    const PATIENCE: Duration = Duration::from_secs(4);

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    #[test]
    fn a_peer_that_says_nothing_is_over_in_time() {
        let mut life = Life::new(EVERY, PATIENCE, at(0));
        assert!((1..=4).all(|second| !life.is_over(at(second))));
        assert!(life.is_over(at(5)));
    }

    #[test]
    fn anything_that_arrives_gives_it_all_its_time_again() {
        let mut life = Life::new(EVERY, PATIENCE, at(0));
        for second in 1..100 {
            if second % 4 == 0 {
                life.heard();
            }
            assert!(!life.is_over(at(second)), "{second}");
        }
    }

    #[test]
    fn time_in_which_this_node_does_not_read_is_not_the_peers() {
        let mut life = Life::new(EVERY, PATIENCE, at(0));
        life.pause();
        assert!((1..=60).all(|second| !life.is_over(at(second))));
        life.resume(at(60));
        assert!((61..=64).all(|second| !life.is_over(at(second))));
        assert!(life.is_over(at(65)));
    }

    #[test]
    fn a_process_that_stood_still_has_heard_nobody_and_blames_nobody() {
        let mut life = Life::new(EVERY, PATIENCE, at(0));
        assert!(!life.is_over(at(600)));
        life.heard();
        assert!(!life.is_over(at(601)));
    }
}
