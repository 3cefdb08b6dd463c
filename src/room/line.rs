//! Where a stream stands and what it goes on from: enough to compare two copies of a room's past.

use serde::{Deserialize, Serialize};

use super::types::{Epoch, Position, Since};
use crate::cluster::slots::Term;

/// The most earlier epochs that a line remembers.
const MAX_LINEAGE: usize = 16;

/// A stream's epoch and top, and the earlier epochs that it goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The epoch that the stream is in.
    pub epoch: Epoch,
    /// Earlier epochs, oldest first, and up to which offset each is this stream too.
    pub lineage: Vec<(Epoch, u64)>,
    /// Offset of the newest publication; 0 before the first.
    pub top: u64,
}

/// How a stream began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Root {
    /// It may not be the room's stream: the owner before was not heard when it began, or nothing that was said in
    /// it was acknowledged.
    pub tentative: bool,
    /// The term of the owner that began it.
    pub term: Term,
    /// Tells it from others that this owner began; later ones are greater.
    pub serial: u64,
}

impl Root {
    /// Whether both are the beginning of one stream.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.term, self.serial) == (other.term, other.serial)
    }
}

/// How far a copy of a room reaches: what decides which of several copies is the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Standing {
    /// How its stream began.
    pub root: Root,
    /// The term in which its newest publication was placed; none yet: the lowest of all.
    pub term: Term,
    /// The offset of that.
    pub top: u64,
    /// How often someone has come or gone.
    pub attendance: u64,
}

impl Standing {
    /// Whether this copy is newer than `other`.
    ///
    /// Newest is what was placed in the highest term, and of that the most. A stream in which nothing was placed
    /// is never newer than one in which something was; nor is a tentative one newer than one that is not, unless both
    /// are copies of one stream: then only one of them was told that it is the room's.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let one = self.root.is_same(&other.root);
        let key = |it: &Self| {
            let began = (it.root.term, it.root.serial);
            (it.top > 0, one || !it.root.tentative, it.term, began, it.top, it.attendance)
        };
        key(self) > key(other)
    }

    /// Whether both are the same as far as publications go.
    pub fn is_level_with(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.root.term, it.root.serial, it.term, it.top);
        key(self) == key(other)
    }
}

impl Line {
    /// A line on which nothing was said yet.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, lineage: Vec::new(), top: 0 }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.top }
    }

    /// The epoch in which the publication at `offset` was placed, as far back as is remembered.
    pub fn epoch_at(&self, offset: u64) -> Epoch {
        let earlier = self.lineage.iter().find(|(_, end)| *end >= offset);
        earlier.map_or(self.epoch, |(epoch, _)| *epoch)
    }

    /// Opens a new epoch that holds all of the old one up to here.
    pub fn succeed(&mut self, epoch: Epoch) {
        self.lineage.push((self.epoch, self.top));
        if self.lineage.len() > MAX_LINEAGE {
            self.lineage.remove(self.least_needed());
        }
        self.epoch = epoch;
    }

    /// Which of the earlier epochs, of which there are some, is forgotten first: the oldest in which nothing was placed, or
    /// else the oldest.
    fn least_needed(&self) -> usize {
        let mut before = 0;
        let is_empty = |(_, end): &(Epoch, u64)| std::mem::replace(&mut before, *end) == *end;
        // Not the last, which clients are in.
        let earlier = &self.lineage[..self.lineage.len() - 1];
        earlier.iter().position(is_empty).unwrap_or(0)
    }

    /// Whether `position` lies on this line: then all that follows it here is what follows it there.
    pub fn covers(&self, position: Position) -> bool {
        if position.epoch == self.epoch {
            return position.offset <= self.top;
        }
        let earlier = self.lineage.iter().rev().find(|(epoch, _)| *epoch == position.epoch);
        earlier.is_some_and(|(_, end)| position.offset <= *end)
    }

    /// Up to which offset a stream that stands at `position` is this one too; none if its epoch is not on this line.
    pub fn shared_with(&self, position: Position) -> Option<u64> {
        let earlier = self.lineage.iter().rev().find(|(epoch, _)| *epoch == position.epoch);
        let end = match position.epoch == self.epoch {
            true => Some(self.top),
            false => earlier.map(|(_, end)| *end),
        };
        end.map(|end| end.min(position.offset))
    }

    /// A client's position on this line, whichever of its epochs the client knew. None if it is no
    /// position of this line.
    pub fn resolve(&self, since: &Since) -> Option<Position> {
        let earlier = self.lineage.iter().rev().map(|(epoch, _)| *epoch);
        let epoch = std::iter::once(self.epoch)
            .chain(earlier)
            .find(|epoch| since.epoch.is_empty() || since.epoch == epoch.to_string())?;
        let position = Position { epoch, offset: since.offset };
        self.covers(position).then_some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(epoch: u64, top: u64) -> Line {
        Line { top, ..Line::new(Epoch(epoch)) }
    }

    fn standing(count: u64, top: u64) -> Standing {
        let term = Term { count, ..Term::default() };
        Standing { term, top, ..Standing::default() }
    }

    #[test]
    fn newest_is_the_higher_term_then_the_higher_offset() {
        assert!(standing(2, 4).is_newer_than(&standing(1, 8)));
        assert!(standing(2, 5).is_newer_than(&standing(2, 4)));
        assert!(!standing(2, 4).is_newer_than(&standing(2, 4)));
    }

    #[test]
    fn an_epoch_in_which_nothing_was_placed_beats_none_in_which_something_was() {
        assert!(standing(1, 1).is_newer_than(&standing(9, 0)));
        let mut began_later = standing(1, 1);
        began_later.root.serial = 7;
        assert!(began_later.is_newer_than(&standing(1, 9)), "the earlier was forgotten");
    }

    #[test]
    fn a_stream_that_began_without_asking_does_not_beat_the_one_that_was_there() {
        let mut tentative = standing(2, 3);
        (tentative.root.tentative, tentative.root.serial) = (true, 9);
        assert!(standing(1, 1).is_newer_than(&tentative));
        assert!(tentative.is_newer_than(&standing(1, 0)));
    }

    #[test]
    fn a_copy_that_was_not_told_that_its_stream_is_the_rooms_is_compared_as_one_that_was() {
        let mut tentative = standing(5, 4);
        tentative.root.tentative = true;
        assert!(tentative.is_newer_than(&standing(4, 2)), "they began as one stream");
    }

    #[test]
    fn an_earlier_epoch_is_covered_up_to_where_it_ended() {
        let mut line = line(1, 4);
        line.succeed(Epoch(2));
        line.top = 6;
        let covers = |epoch, offset| line.covers(Position { epoch: Epoch(epoch), offset });
        assert!(covers(1, 4) && covers(2, 6));
        assert!(!covers(1, 5) && !covers(2, 7) && !covers(3, 1));
    }

    #[test]
    fn a_publication_is_of_the_epoch_in_which_it_was_placed() {
        let mut line = line(1, 4);
        line.succeed(Epoch(2));
        line.succeed(Epoch(3));
        line.top = 6;
        let at = |offset| line.epoch_at(offset).0;
        assert_eq!([0, 1, 4, 5, 6].map(at), [1, 1, 1, 3, 3]);
    }

    #[test]
    fn only_the_last_epochs_are_remembered() {
        let mut line = line(0, 1);
        for epoch in 1..=40 {
            line.succeed(Epoch(epoch));
            line.top += 1;
        }
        assert_eq!(line.lineage.len(), MAX_LINEAGE);
        assert_eq!(line.lineage.last(), Some(&(Epoch(39), 40)));
    }

    #[test]
    fn epochs_in_which_nothing_was_placed_are_forgotten_first() {
        let mut line = line(0, 3);
        (1..=40).for_each(|epoch| line.succeed(Epoch(epoch)));
        assert_eq!(line.lineage.len(), MAX_LINEAGE);
        assert!(line.covers(Position { epoch: Epoch(0), offset: 3 }));
        assert_eq!(line.lineage.last(), Some(&(Epoch(39), 3)));
    }

    #[test]
    fn the_epoch_that_has_just_ended_is_remembered_whether_anything_was_placed_in_it_or_not() {
        let mut line = line(0, 1);
        for epoch in 1..=MAX_LINEAGE as u64 {
            line.succeed(Epoch(epoch));
            line.top += 1;
        }
        line.succeed(Epoch(98));
        line.succeed(Epoch(99));
        let covers = |epoch| line.covers(Position { epoch: Epoch(epoch), offset: 1 });
        assert!(covers(98) && covers(99) && !covers(0));
    }
}
