//! A queue of millions that never pauses: it grows and shrinks by parts, where a `VecDeque` copies all it has at once.

use std::collections::VecDeque;

/// Entries of a part: copying as many takes microseconds.
const PART: usize = 4_096;

/// First in, first out.
#[derive(Debug)]
pub struct LongQueue<T> {
    /// None of them is empty. All but the last were filled once, and only the first gives any away.
    parts: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Default for LongQueue<T> {
    fn default() -> Self {
        Self { parts: VecDeque::new(), len: 0 }
    }
}

impl<T> LongQueue<T> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The oldest entry.
    pub fn front(&self) -> Option<&T> {
        self.parts.front()?.front()
    }

    /// Takes an entry in.
    pub fn push_back(&mut self, entry: T) {
        self.len += 1;
        match self.parts.back_mut() {
            Some(part) if part.len() < PART => part.push_back(entry),
            _ => self.parts.push_back([entry].into()),
        }
    }

    /// Takes the oldest entry out.
    pub fn pop_front(&mut self) -> Option<T> {
        let part = self.parts.front_mut()?;
        let entry = part.pop_front();
        if part.is_empty() {
            self.parts.pop_front();
        }
        self.len -= 1;
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_gives_back_what_it_got_in_order_and_keeps_no_room_for_what_is_gone() {
        let mut queue = LongQueue::default();
        let (mut next, mut due) = (0, 0);
        for (pushed, popped) in [(3 * PART, PART), (1, 2 * PART), (PART, 1), (10, PART + 10)] {
            for _ in 0..pushed {
                queue.push_back(next);
                next += 1;
            }
            for _ in 0..popped {
                assert_eq!(queue.front(), Some(&due));
                assert_eq!(queue.pop_front(), Some(due));
                due += 1;
            }
            assert_eq!(queue.len(), next - due);
            assert!(
                queue.parts.len() <= queue.len() / PART + 2,
                "{} for {}",
                queue.parts.len(),
                queue.len()
            );
        }
        assert_eq!((queue.len(), queue.pop_front()), (0, None));
        assert!(queue.parts.is_empty());
    }
}
