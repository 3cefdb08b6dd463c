//! Where a stream stands and what it goes on from: enough to compare two copies of a room's past.

use serde::{Deserialize, Serialize};

use super::types::{Epoch, Position, Since};

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

impl Line {
    /// A line on which nothing was said yet.
    pub fn new(epoch: Epoch) -> Self {
        Self { epoch, lineage: Vec::new(), top: 0 }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.top }
    }

    /// Opens a new epoch that holds all of the old one up to here.
    pub fn succeed(&mut self, epoch: Epoch) {
        self.lineage.push((self.epoch, self.top));
        let excess = self.lineage.len().saturating_sub(MAX_LINEAGE);
        self.lineage.drain(..excess);
        self.epoch = epoch;
    }

    /// Whether `position` lies on this line: then all that follows it here is what follows it there.
    pub fn covers(&self, position: Position) -> bool {
        if position.epoch == self.epoch {
            return position.offset <= self.top;
        }
        let earlier = self.lineage.iter().rev().find(|(epoch, _)| *epoch == position.epoch);
        earlier.is_some_and(|(_, end)| position.offset <= *end)
    }

    /// Whether it reaches further than `other`: a later epoch of the same line, or a later offset.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        let descends = |a: &Self, b: &Self| a.lineage.iter().any(|(epoch, _)| *epoch == b.epoch);
        match (descends(self, other), descends(other, self)) {
            (true, false) => true,
            (false, true) => false,
            _ => (self.top, self.epoch) > (other.top, other.epoch),
        }
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

    #[test]
    fn the_later_epoch_of_a_line_is_ahead_of_more_offsets_in_the_earlier() {
        let old = line(1, 8);
        let mut new = line(1, 4);
        new.succeed(Epoch(2));
        assert!(new.is_ahead_of(&old) && !old.is_ahead_of(&new));
        assert!(line(1, 5).is_ahead_of(&line(2, 4)), "strangers are compared by what they hold");
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
    fn only_the_last_epochs_are_remembered() {
        let mut line = line(0, 0);
        (1..=40).for_each(|epoch| line.succeed(Epoch(epoch)));
        assert_eq!(line.lineage.len(), MAX_LINEAGE);
        assert_eq!(line.lineage.last(), Some(&(Epoch(39), 0)));
    }
}
