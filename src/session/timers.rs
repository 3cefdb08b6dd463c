//! When to wake which socket: one timer for each slot of a table. Setting it again replaces it.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::runtime::time::Time;

/// The timers of many sockets.
#[derive(Debug, Default)]
pub struct Timers {
    /// By slot.
    due: Vec<Option<Time>>,
    /// Earliest first. An entry that `due` does not confirm is withdrawn and stays until it comes up, or
    /// until there are too many of them.
    heap: BinaryHeap<Reverse<(Time, u32)>>,
}

impl Timers {
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

    /// When to ask for the next that is due; none: not before another timer is set. May be that of a withdrawn
    /// timer; then nothing is due.
    pub fn first(&self) -> Option<Time> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Withdraws the timer of `slot`.
    pub fn clear(&mut self, slot: u32) {
        if let Some(due) = self.due.get_mut(slot as usize) {
            *due = None;
        }
    }

    /// A slot whose time has come, and whose timer ends with that; none if there is no more.
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

    /// A timer that is set again and again must not fill the memory with withdrawn entries.
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
    fn a_timer_that_is_set_again_is_replaced() {
        let mut timers = Timers::default();
        timers.set(1, at(10));
        timers.set(0, at(5));
        timers.set(1, at(20));
        timers.set(2, at(6));
        timers.clear(2);
        assert_eq!((timers.first(), timers.next_due(at(4))), (Some(at(5)), None));
        assert_eq!((timers.next_due(at(15)), timers.next_due(at(15))), (Some(0), None));
        assert_eq!((timers.next_due(at(20)), timers.next_due(at(20))), (Some(1), None));
        timers.set(1, at(30));
        timers.set(1, at(20));
        timers.set(1, at(30));
        assert_eq!((timers.next_due(at(99)), timers.next_due(at(99))), (Some(1), None));
        assert_eq!(timers.first(), None);
    }

    #[test]
    fn withdrawn_timers_do_not_pile_up() {
        let mut timers = Timers::default();
        for millis in 0..10_000 {
            timers.set(3, at(1_000_000 + millis));
        }
        assert!(timers.heap.len() < 100, "{}", timers.heap.len());
        assert_eq!(timers.next_due(at(2_000_000)), Some(3));
    }
}
