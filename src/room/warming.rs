//! How a room that was found in this node's log comes back into memory, before it opens.
//!
//! In: pages of the log, newest first. Out: the ring of the newest publications, and what identifies repeats of all
//! that are not older than a key is remembered. A room that nobody opens is not read.

use std::time::Duration;

use super::{
    idempotency,
    logged::{LogPage, LogRequest, Logged},
    node::Node,
    options::RoomOptions,
    room::{Role, Room},
    stream::Entry,
};
use crate::{log, runtime::time::Time};

/// Bytes of one page.
const PAGE: usize = 4 << 20;
/// The most publications that are read of a room: no more keys are remembered.
const MOST: usize = 10_000;
/// How long after a failure the log is asked again.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// What is being read of a room.
#[derive(Debug, Default)]
pub(super) struct Warming {
    /// The number of the request to the log; none: the last one failed.
    id: Option<u64>,
    /// When it is tried again then.
    again_at: Time,
    /// Newest first.
    entries: Vec<(Time, Entry)>,
}

/// The most publications that are read of such a room: a map needs all that there are.
fn most(options: &RoomOptions) -> usize {
    if options.map.is_some() { usize::MAX } else { MOST }
}

impl Warming {
    /// When the log is asked again, if it has failed.
    pub(super) fn again_at(&self) -> Option<Time> {
        self.id.is_none().then_some(self.again_at)
    }
}

impl Room {
    /// Whether the room was found in the log, and not read yet.
    pub(super) fn is_cold(&self) -> bool {
        let logged = self.stream.as_deref().and_then(|it| it.logged.as_deref());
        logged.is_some_and(Logged::is_cold)
    }

    /// Whether the log reads under this number for a room that is to open.
    pub(super) fn is_opening_with(&mut self, id: u64) -> bool {
        let Role::Opening(opening) = &mut self.role else { return false };
        opening.warming().as_ref().is_some_and(|it| it.id == Some(id))
    }

    /// Has the log read what it has, unless it does so already.
    pub(super) fn warm(&mut self, node: &mut Node) {
        let top = self.top();
        let Role::Opening(opening) = &mut self.role else { return };
        let warming = opening.warming().get_or_insert_default();
        if warming.id.is_some() || node.now < warming.again_at {
            return;
        }
        let since = warming.entries.last().map_or(top + 1, |(_, it)| it.publication.offset);
        let id = node.next_id();
        warming.id = Some(id);
        let count = most(&self.options).saturating_sub(warming.entries.len());
        let query = log::Query { since: Some(since), reverse: true, count, bytes: PAGE };
        node.log(&self.name, LogRequest::Read(id, query));
    }

    /// The log has read a page, or can't now.
    pub(super) fn warmed(&mut self, page: Option<LogPage>, node: &mut Node) {
        let Role::Opening(opening) = &mut self.role else { return };
        let Some(warming) = opening.warming() else { return };
        let Some(page) = page else {
            (warming.id, warming.again_at) = (None, node.now + AGAIN);
            return;
        };
        (warming.id, warming.again_at) = (None, node.now);
        let before = warming.entries.len();
        warming.entries.extend(page.entries);
        let last = warming.entries.last();
        let is_recent = |at: Time| node.now.since(at) < idempotency::WINDOW;
        let lacks = warming.entries.len() < self.options.ring_size();
        let more = warming.entries.len() > before
            && warming.entries.len() < most(&self.options)
            && page.damaged.is_none()
            && last.is_some_and(|(at, it)| {
                it.publication.offset > page.first && (lacks || is_recent(*at))
            });
        if more {
            return self.warm(node);
        }
        let entries = opening.warming().take().map_or_else(Vec::new, |it| it.entries);
        node.fetches.end(&self.name);
        self.note_first(page.first);
        self.is_warm(entries, node);
    }

    fn is_warm(&mut self, entries: Vec<(Time, Entry)>, node: &mut Node) {
        let Some(stream) = &mut self.stream else { return };
        for (at, entry) in entries.iter().rev() {
            stream.learn(entry, *at);
            if entry.key.is_some() {
                node.memory.keyed(&self.name, node.now);
            }
        }
        let ttl = self.options.history_ttl;
        // The newest may have come from the home meanwhile.
        let first = stream.history.first();
        let earlier = entries.into_iter().skip_while(|(_, it)| it.publication.offset >= first);
        let kept = earlier.take_while(|(at, _)| node.now.since(*at) < ttl);
        let kept = kept.map(|(at, entry)| (at, entry.publication));
        let change = stream.history.fill(kept, self.options.ring_size());
        if let Some(logged) = stream.logged.as_deref_mut() {
            logged.is_warm();
        }
        let top = stream.history.top();
        self.note_kept(top, change, node);
    }
}
