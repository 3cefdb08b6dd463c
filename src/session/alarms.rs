//! When whom to wake: one alarm for each slot of a table. The last wish counts.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::runtime::time::Time;

/// Alarms of many sockets.
#[derive(Debug, Default)]
pub struct Alarms {
    /// By slot.
    due: Vec<Option<Time>>,
    /// Earliest first. An entry that `due` does not confirm is withdrawn and stays until it comes up, or
    /// until there are too many of them.
    heap: BinaryHeap<Reverse<(Time, u32)>>,
}

impl Alarms {
    /// Wakes `slot` at that time and no other.
    pub fn set(&mut self, slot: u32, at: Time) {
        let index = slot as usize;
        if self.due.len() <= index {
            self.due.resize(index + 1, None);
        }
        if self.due[index].replace(at) != Some(at) {
            self.heap.push(Reverse((at, slot)));
            self.compact();
        }
    }

    /// When to ask for the next that is due; none: not before another alarm is set. A withdrawn alarm may be
    /// asked for in vain.
    pub fn first(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Withdraws the alarm of `slot`.
    pub fn clear(&mut self, slot: u32) {
        if let Some(due) = self.due.get_mut(slot as usize) {
            *due = None;
        }
    }

    /// A slot whose time has come, and whose alarm that ends; none if there is no more.
    pub fn next_due(&mut self, now: Time) -> Option<u32> {
        while let Some(&Reverse((at, slot))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            if self.due[slot as usize] == Some(at) {
                self.due[slot as usize] = None;
                return Some(slot);
            }
        }
        None
    }

    /// Whoever sets its alarm again and again must not fill the memory with withdrawn ones.
    fn compact(&mut self) {
        if self.heap.len() > 64 + 4 * self.due.len() {
            let due = self.due.iter().enumerate();
            self.heap = due.filter_map(|(slot, at)| Some(Reverse(((*at)?, slot as u32)))).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn the_last_wish_counts() {
        let mut alarms = Alarms::default();
        alarms.set(1, at(10));
        alarms.set(0, at(5));
        alarms.set(1, at(20));
        alarms.set(2, at(6));
        alarms.clear(2);
        assert_eq!((alarms.first(), alarms.next_due(at(4))), (Some(at(5)), None));
        assert_eq!((alarms.next_due(at(15)), alarms.next_due(at(15))), (Some(0), None));
        assert_eq!((alarms.next_due(at(20)), alarms.next_due(at(20))), (Some(1), None));
        alarms.set(1, at(30));
        alarms.set(1, at(20));
        alarms.set(1, at(30));
        assert_eq!((alarms.next_due(at(99)), alarms.next_due(at(99))), (Some(1), None));
        assert_eq!(alarms.first(), None);
    }

    #[test]
    fn withdrawn_alarms_do_not_pile_up() {
        let mut alarms = Alarms::default();
        for millis in 0..10_000 {
            alarms.set(3, at(1_000_000 + millis));
        }
        assert!(alarms.heap.len() < 100, "{}", alarms.heap.len());
        assert_eq!(alarms.next_due(at(2_000_000)), Some(3));
    }
}
