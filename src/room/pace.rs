//! How fast slots are taken over from owners that serve them.
//!
//! In: the slots that are to be taken over, and how many rooms the last ones brought. Out: the slots to claim now.
//! Rooms of a slot are away between the claim and the copy, so few are claimed at a time, and the next when the
//! rooms of the last are here and have their successors. Slots with few rooms go many at a time.

use std::time::Duration;

use crate::runtime::time::Time;

/// How many slots are claimed first.
const FIRST: usize = 4;
/// How many rooms one go should bring: the next one has as many slots as that takes, going by the last.
const ROOMS: usize = 384;
/// How much larger the next go is at most.
const GROWTH: usize = 4;
/// How many rooms of the last go may be on the move when the next one begins.
const MOVING: usize = 256;
/// How long one go holds up the next at most: its rooms may wait for a node that is slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is to be claimed in which order.
#[derive(Debug)]
pub struct Pace {
    /// Slots in one go.
    many: usize,
    /// The slot after the last that was claimed: all have their turn, whatever is refused.
    next: u16,
    /// Rooms that the last go has brought.
    rooms: usize,
    /// When it began.
    began: Time,
    /// Whether slots were left for another go.
    left: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { many: FIRST, next: 0, rooms: 0, began: Time::default(), left: false }
    }
}

impl Pace {
    /// Another node has told of so many rooms in slots that this one claims.
    pub fn brought(&mut self, rooms: usize) {
        self.rooms += rooms;
    }

    /// Whether slots were left.
    pub fn is_left(&self) -> bool {
        self.left
    }

    /// Whether slots were left, and can be claimed now that so many rooms are on the move.
    pub fn is_due(&self, moving: usize, now: Time) -> bool {
        self.left && self.is_over(moving, now)
    }

    fn is_over(&self, moving: usize, now: Time) -> bool {
        moving <= MOVING || now.since(self.began) >= PATIENCE
    }

    /// Of slots that others serve, in order: those to claim now.
    pub fn choose(&mut self, slots: Vec<u16>, moving: usize, now: Time) -> Vec<u16> {
        if slots.is_empty() || !self.is_over(moving, now) {
            self.left = !slots.is_empty();
            return Vec::new();
        }
        self.many = match self.left {
            true => (self.many * ROOMS / self.rooms.max(1)).clamp(1, self.many * GROWTH),
            false => FIRST,
        };
        let first = slots.partition_point(|slot| *slot < self.next);
        let chosen: Vec<u16> =
            slots[first..].iter().chain(&slots[..first]).take(self.many).copied().collect();
        self.next = chosen.last().map_or(0, |slot| slot + 1);
        (self.rooms, self.began, self.left) = (0, now, slots.len() > chosen.len());
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(10_000);

    #[test]
    fn slots_with_few_rooms_go_many_at_a_time_and_those_with_many_few() {
        let mut pace = Pace::default();
        let all: Vec<u16> = (0..1_000).collect();
        assert_eq!(pace.choose(all.clone(), 0, NOW), (0..4).collect::<Vec<_>>());
        assert_eq!(pace.choose(all[4..].to_vec(), 0, NOW), (4..20).collect::<Vec<_>>());
        pace.brought(ROOMS);
        assert_eq!(pace.choose(all[20..].to_vec(), 0, NOW), (20..36).collect::<Vec<_>>());
        pace.brought(4 * ROOMS);
        assert_eq!(pace.choose(all[36..].to_vec(), 0, NOW), (36..40).collect::<Vec<_>>());
        pace.brought(100 * ROOMS);
        assert_eq!(pace.choose(all[40..].to_vec(), 0, NOW), [40]);
    }

    #[test]
    fn the_next_go_waits_for_the_rooms_of_the_last_but_not_for_ever() {
        let mut pace = Pace::default();
        let all: Vec<u16> = (0..100).collect();
        pace.choose(all.clone(), 0, NOW);
        assert!(!pace.is_due(MOVING + 1, NOW) && pace.is_due(MOVING, NOW));
        assert_eq!(pace.choose(all.clone(), MOVING + 1, NOW), [0u16; 0]);
        assert!(pace.is_due(MOVING + 1, NOW + PATIENCE));
    }

    #[test]
    fn slots_that_are_refused_do_not_hold_up_the_others() {
        let mut pace = Pace::default();
        let all: Vec<u16> = (0..20).collect();
        let first = pace.choose(all.clone(), 0, NOW);
        let second = pace.choose(all.clone(), 0, NOW);
        assert!(first.iter().all(|slot| !second.contains(slot)));
        assert_eq!(pace.choose(all, 0, NOW).len(), 20);
    }
}
