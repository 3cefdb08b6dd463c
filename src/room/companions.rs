//! The nodes that a node on disk was with last: those that may have what it has not, when it comes back.
//!
//! In: who is there, again and again. Out: the names to write down. One that comes is written down at once; one that
//! goes is left out after a while, when what it had has a copy elsewhere. Were it left out at once, nodes that die one
//! after the other would come back and wait for nobody.

use std::{collections::BTreeSet, time::Duration};

use crate::runtime::time::Time;

/// How long a node has to be gone.
const GONE: Duration = Duration::from_secs(10);

/// Who was there.
#[derive(Debug, Default)]
pub struct Companions {
    written: BTreeSet<String>,
    here: BTreeSet<String>,
    /// Since when those are here, and no others; none before anything was noted.
    since: Option<Time>,
    /// What was to be written last may not be.
    unsure: bool,
}

impl Companions {
    /// As they were written down.
    pub fn new(written: BTreeSet<String>) -> Self {
        Self { written, ..Self::default() }
    }

    /// These are here. Returns what to write down, if it is not what was written down last.
    pub fn note(&mut self, here: BTreeSet<String>, now: Time) -> Option<BTreeSet<String>> {
        if here != self.here {
            (self.here, self.since) = (here, Some(now));
        }
        let since = *self.since.get_or_insert(now);
        let wanted = match now.since(since) >= GONE {
            true => self.here.clone(),
            false => &self.here | &self.written,
        };
        let is_new = std::mem::take(&mut self.unsure) || wanted != self.written;
        is_new.then(|| {
            self.written = wanted.clone();
            wanted
        })
    }

    /// What was to be written could not be: it is to be written again.
    pub fn not_written(&mut self) {
        self.unsure = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|it| (*it).to_owned()).collect()
    }

    #[test]
    fn who_comes_is_written_down_at_once_and_who_goes_is_left_out_later() {
        let (mut companions, now) = (Companions::default(), Time::from_millis(100_000));
        assert_eq!(companions.note(names(&["a", "b"]), now), Some(names(&["a", "b"])));
        assert_eq!(companions.note(names(&["a", "b"]), now + GONE), None);
        let now = now + GONE;
        assert_eq!(companions.note(names(&["a"]), now), None);
        assert_eq!(
            companions.note(names(&["a", "c"]), now + GONE / 2),
            Some(names(&["a", "b", "c"]))
        );
        assert_eq!(companions.note(names(&["a", "c"]), now + GONE), None, "it began anew");
        assert_eq!(companions.note(names(&["a", "c"]), now + GONE * 2), Some(names(&["a", "c"])));
    }

    #[test]
    fn what_could_not_be_written_is_written_again_though_nobody_comes_or_goes() {
        let (mut companions, now) = (Companions::default(), Time::from_millis(100_000));
        assert_eq!(companions.note(names(&["a", "b"]), now), Some(names(&["a", "b"])));
        companions.not_written();
        assert_eq!(companions.note(names(&["a", "b"]), now + GONE / 2), Some(names(&["a", "b"])));
        assert_eq!(companions.note(names(&["a", "b"]), now + GONE), None);
    }

    #[test]
    fn a_node_that_comes_back_alone_remembers_the_others_for_a_while() {
        let (mut companions, now) =
            (Companions::new(names(&["a", "b"])), Time::from_millis(90_000));
        assert_eq!(companions.note(names(&[]), now), None, "it has not seen itself yet");
        assert_eq!(companions.note(names(&["a"]), now), None);
        assert_eq!(companions.note(names(&["a"]), now + GONE), Some(names(&["a"])));
    }
}
