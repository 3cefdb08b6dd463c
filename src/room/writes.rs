//! What a room has its node's log write: in order, and again after a failure.
//!
//! In: changes, and what the log answers. Out: requests to it, and up to where the stream is synced. A write that fails
//! is tried again, with all that follow it, some at a time.

use std::{collections::VecDeque, time::Duration};

use super::{
    logged::{LogChange, LogRequest},
    node::Node,
    types::RoomName,
};
use crate::runtime::time::Time;

/// How long after a failure the log is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// The most writes that are under way after a failure.
const AGAIN_AT_ONCE: usize = 64;

/// A write without an answer.
#[derive(Debug, Clone)]
struct Unsynced {
    /// The number of the request; 0: it is to be sent (again).
    id: u64,
    /// Up to where the stream is in the log then.
    through: u64,
    changes: Vec<LogChange>,
}

/// The writes of a room that are under way.
#[derive(Debug, Clone, Default)]
pub struct Writes {
    synced: u64,
    unsynced: VecDeque<Unsynced>,
    /// After a failure: when all of those are to be written again.
    retry_at: Option<Time>,
}

impl Writes {
    /// Of a stream that is synced up to this offset.
    pub fn after(synced: u64) -> Self {
        Self { synced, ..Self::default() }
    }

    /// Up to where everything is synced.
    pub fn synced(&self) -> u64 {
        self.synced
    }

    /// Up to where everything is synced once the log has answered.
    pub fn through(&self) -> u64 {
        self.unsynced.back().map_or(self.synced, |it| it.through)
    }

    /// How many writes are under way.
    pub fn len(&self) -> usize {
        self.unsynced.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Whether the log does not take what it is to write.
    pub fn is_failing(&self) -> bool {
        self.retry_at.is_some()
    }

    /// When the log is to be asked again.
    pub fn next_due(&self) -> Option<Time> {
        self.retry_at
    }

    /// Has the log write this, after which it has the stream up to `through`.
    pub fn write(
        &mut self,
        room: &RoomName,
        changes: Vec<LogChange>,
        through: u64,
        node: &mut Node,
    ) {
        let id = node.next_id();
        // Not before what is to be written again.
        let waits = self.is_failing() || self.unsynced.back().is_some_and(|it| it.id == 0);
        if !waits {
            node.log(room, LogRequest::Write(id, changes.clone()));
        }
        let id = if waits { 0 } else { id };
        self.unsynced.push_back(Unsynced { id, through, changes });
    }

    /// The log says what became of the write `id`. Returns whether it was one of these, and is synced.
    pub fn answered(&mut self, id: u64, written: bool, now: Time) -> bool {
        let Some(index) = self.unsynced.iter().position(|it| it.id == id) else { return false };
        if !written {
            self.retry_at.get_or_insert(now + RETRY);
            // What is under way behind it can't be told from what will be written again.
            self.unsynced.iter_mut().for_each(|it| it.id = 0);
            return false;
        }
        for synced in self.unsynced.drain(..=index) {
            self.synced = synced.through;
        }
        true
    }

    /// Writes again what could not be written, once it is time.
    pub fn retry(&mut self, room: &RoomName, node: &mut Node) {
        if self.retry_at.take_if(|at| *at <= node.now).is_some() {
            // What was refused may be there after all, or a part of what followed it.
            self.send_waiting(room, Some(LogChange::Truncate(self.synced)), node);
        }
    }

    /// Sends what is to be written again and was not sent yet, some of it.
    pub fn send_more(&mut self, room: &RoomName, node: &mut Node) {
        if !self.is_failing() {
            self.send_waiting(room, None, node);
        }
    }

    fn send_waiting(&mut self, room: &RoomName, mut before: Option<LogChange>, node: &mut Node) {
        for write in self.unsynced.iter_mut().take(AGAIN_AT_ONCE).filter(|it| it.id == 0) {
            write.id = node.next_id();
            let changes = before.take().into_iter().chain(write.changes.clone()).collect();
            node.log(room, LogRequest::Write(write.id, changes));
        }
    }

    /// What follows `top` was another line's.
    pub fn end_at(&mut self, top: u64) {
        self.synced = self.synced.min(top);
        // What is on its way there is cut off as well: it does not say that what takes its place is there.
        self.unsynced.iter_mut().for_each(|it| it.through = it.through.min(top));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cluster::node::NodeId,
        room::node::{Out, RoomSettings},
    };

    fn node() -> Node {
        let mut node = Node::new(NodeId(1), RoomSettings::default(), 1);
        node.now = Time::from_millis(100_000);
        node
    }

    /// The numbers of what was sent to the log.
    fn sent(node: &mut Node) -> Vec<u64> {
        let all = std::mem::take(&mut node.out).into_iter().filter_map(|out| match out {
            Out::Log { request: LogRequest::Write(id, _), .. } => Some(id),
            _ => None,
        });
        all.collect()
    }

    fn write(writes: &mut Writes, offset: u64, node: &mut Node) {
        writes.write(&"a".into(), vec![LogChange::Trim(offset)], offset, node);
    }

    #[test]
    fn what_is_written_again_goes_in_parts_and_what_follows_waits_for_it() {
        let (mut writes, mut node) = (Writes::default(), node());
        (1..=200).for_each(|offset| write(&mut writes, offset, &mut node));
        let first = sent(&mut node);
        assert_eq!(first.len(), 200);
        assert!(!writes.answered(first[0], false, node.now));
        assert!(!writes.answered(first[1], true, node.now), "it is written again");
        node.now = node.now + RETRY;
        writes.retry(&"a".into(), &mut node);
        let mut through = 0;
        write(&mut writes, 201, &mut node);
        loop {
            let again = sent(&mut node);
            if again.is_empty() {
                break;
            }
            assert!(again.len() <= AGAIN_AT_ONCE);
            for id in again {
                through += 1;
                assert!(writes.answered(id, true, node.now));
                assert_eq!(writes.synced(), through);
                writes.send_more(&"a".into(), &mut node);
            }
        }
        assert_eq!((writes.synced(), writes.len()), (201, 0));
    }

    #[test]
    fn what_was_cut_off_is_not_said_to_be_there_when_its_write_is_answered() {
        let (mut writes, mut node) = (Writes::default(), node());
        (1..=3).for_each(|offset| write(&mut writes, offset, &mut node));
        let ids = sent(&mut node);
        writes.end_at(1);
        write(&mut writes, 1, &mut node);
        assert!(writes.answered(ids[2], true, node.now));
        assert_eq!((writes.synced(), writes.through()), (1, 1));
    }
}
