//! A room's order: epoch, lineage, history, and what is needed to drop repeats.
//!
//! A home appends to its stream, a mirror follows it: the same type, so that a mirror can become a home.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{
    filter::Filter,
    history::History,
    idempotency::IdempotencyKeys,
    line::{Line, Root, Standing},
    logged::Logged,
    messages::{Have, Item},
    options::RoomOptions,
    persisted::Head,
    types::{Epoch, Position, Publication, Recovery, Since, Version},
};
use crate::{
    cluster::{node::NodeId, slots::Term},
    runtime::time::Time,
};

/// The most forwarded publications that a room remembers the offsets of.
const MAX_FORWARDS: usize = 256;
/// The most nodes that a room remembers the forwards of; a restarted node is another. Those that were silent for
/// the longest are forgotten.
const MAX_ORIGINS: usize = 4_096;

/// Where a forwarded publication came from: the node, and the node's number for it. A node's numbers rise,
/// and a room gets them in that order.
pub type ForwardId = (NodeId, u64);

/// A publication in its place, with what identifies repeats of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The publication.
    pub publication: Arc<Publication>,
    /// Which forward it was: of the node that took it from its client.
    pub forward: Option<ForwardId>,
    /// The publisher's key.
    pub key: Option<Box<str>>,
    /// The publisher's version.
    pub version: Option<Version>,
}

/// The order of one room.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Epoch and lineage; its top is that of the history.
    line: Line,
    /// The publications that are kept.
    pub history: History,
    /// How it began.
    root: Root,
    /// The term in which the newest publication was placed.
    term: Term,
    /// Quorum: up to here a majority has it, and members may; none: they may have all.
    committed: Option<u64>,
    /// Of the newest publication that had one. Boxed: few rooms have any.
    version: Option<Box<Version>>,
    /// Boxed: nothing was said in most rooms, or nothing is kept of it.
    placed: Option<Box<Placed>>,
    /// How much of it is on this node's disk; none: it is not kept there.
    pub(super) logged: Option<Box<Logged>>,
}

/// What identifies repeats of publications that were placed.
#[derive(Debug, Clone, Default)]
struct Placed {
    keys: IdempotencyKeys,
    /// The last forward of each node, and when it came.
    origins: BTreeMap<NodeId, (u64, Time)>,
    forwards: VecDeque<(ForwardId, u64)>,
}

/// Whether a publication was placed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It is new.
    No,
    /// It has this offset.
    At(u64),
    /// It was, longer ago than its offset is remembered.
    Somewhere,
}

impl Stream {
    /// A stream in which nothing was said yet.
    pub fn new(epoch: Epoch, root: Root) -> Self {
        let (line, history) = (Line::new(epoch), History::default());
        Self {
            line,
            history,
            root,
            term: Term::default(),
            committed: None,
            version: None,
            placed: None,
            logged: None,
        }
    }

    /// A stream as a log has it, which goes on with the offset `next`.
    pub fn from_log(head: Head, logged: Logged, next: u64) -> Self {
        let (top, mut line) = (next.saturating_sub(1), head.line);
        // What earlier epochs had beyond that was not synced.
        line.lineage.iter_mut().for_each(|(_, end)| *end = top.min(*end));
        Self {
            history: History::at(top),
            root: head.root,
            term: head.term,
            version: head.version.map(Box::new),
            logged: Some(Box::new(logged)),
            ..Self::new(line.epoch, head.root)
        }
        .on(line)
    }

    fn on(self, line: Line) -> Self {
        Self { line, ..self }
    }

    /// A copy of a stream that is yet to be filled, from the publication at `first` on.
    pub fn copy(line: Line, standing: &Standing, first: u64) -> Self {
        let history = History::at(first.saturating_sub(1).min(line.top));
        let (root, term) = (standing.root, standing.term);
        Self { history, term, ..Self::new(line.epoch, root) }.on(line)
    }

    fn placed_mut(&mut self) -> &mut Placed {
        self.placed.get_or_insert_default()
    }

    /// What identifies repeats of the publications after `offset`: by the offset that each follows.
    pub fn repeats(&self, offset: u64, now: Time) -> Vec<(u64, Item)> {
        let Some(placed) = &self.placed else { return Vec::new() };
        let keys = placed.keys.after(offset, now).into_iter();
        let forwards = placed.forwards.iter().filter(|(_, of)| *of > offset);
        let mut repeats: Vec<(u64, Item)> = keys
            .map(|key| (key.2, Item::Key(key)))
            .chain(forwards.map(|(forward, of)| (*of, Item::Forward(*forward, *of))))
            .collect();
        repeats.sort_by_key(|(of, _)| *of);
        repeats
    }

    /// What identifies repeats of publications whose offsets are forgotten, and the version that the room is at.
    pub fn origins(&self) -> Vec<Item> {
        let origins = self.placed.iter().flat_map(|placed| &placed.origins);
        let origins = origins.map(|(node, (last, _))| Item::Origin(*node, *last));
        origins.chain(self.version.as_deref().cloned().map(Item::Version)).collect()
    }

    /// Takes over a part of another node's copy. Returns by how much the bytes kept have grown.
    pub fn take(&mut self, item: Item, options: &RoomOptions, now: Time) -> isize {
        match item {
            Item::Publication(age, publication) => {
                return self.history.push(publication, now.ago(age), options.ring_size());
            }
            Item::Key(key) => self.placed_mut().keys.learn(vec![key], now),
            Item::Forward(forward, offset) => {
                self.placed_mut().remember_forward(forward, offset, now);
            }
            Item::Origin(node, id) => self.placed_mut().remember_origin((node, id), now),
            Item::Version(version) => self.come_to(Some(version)),
            Item::Client(..) => {}
        }
        0
    }

    /// Its newest publication was placed in this term.
    pub fn reach(&mut self, term: Term) {
        self.term = term;
    }

    /// Whether something was said in it, and all of that is on disk and nothing of it in use.
    pub(super) fn is_at_rest(&self) -> bool {
        let top = self.history.top();
        let keyed = self.placed.as_deref().is_some_and(|it| !it.keys.is_empty());
        let logged = self.logged.as_deref();
        top > 0 && !keyed && logged.is_some_and(|it| it.is_at_rest(self))
    }

    /// When the last publication came that another node might send again.
    pub(super) fn last_forward(&self) -> Option<Time> {
        self.placed.as_deref()?.origins.values().map(|(_, at)| *at).max()
    }

    /// The version that it has come to.
    pub(super) fn version(&self) -> Option<&Version> {
        self.version.as_deref()
    }

    /// What a log keeps of it, beside its publications.
    pub fn head(&self) -> Head {
        let version = self.version().cloned();
        Head { line: self.line(), root: self.root, term: self.term, version }
    }

    /// Goes on as `line` does, which holds all of this stream up to `top`.
    pub fn rejoin(&mut self, line: Line, root: Root, top: u64) -> isize {
        (self.line, self.root) = (line, root);
        self.history.truncate(top)
    }

    /// How far it reaches.
    pub fn standing(&self) -> Standing {
        let (root, term) = (self.root, self.term);
        Standing { root, term, top: self.history.top(), attendance: 0 }
    }

    /// What a mirror says that it has.
    pub fn have(&self) -> Have {
        Have { position: self.position(), term: self.term }
    }

    /// Where the stream stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.line.epoch, offset: self.history.top() }
    }

    /// Where members of the room are to stand.
    pub fn visible(&self) -> Position {
        let top = self.history.top();
        let offset = self.committed.map_or(top, |committed| committed.min(top));
        Position { offset, ..self.position() }
    }

    /// Whether members may have all of it.
    pub(super) fn is_visible(&self) -> bool {
        self.visible().offset == self.history.top()
    }

    /// Quorum: up to where a majority has it, as far as this node knows.
    pub fn committed(&self) -> Option<u64> {
        self.committed
    }

    /// Quorum: a majority has it up to `offset`.
    pub fn commit(&mut self, offset: u64) {
        self.committed = self.committed.max(Some(offset));
    }

    /// Whether it may not be the room's stream: see [`Root::tentative`].
    pub fn doubt(&mut self, tentative: bool) {
        self.root.tentative = tentative;
    }

    /// Quorum: all of it counts as placed in `term`, whose owner has found it to be the newest.
    pub fn mark(&mut self, term: Term) {
        if self.history.top() > 0 {
            self.term = term;
        }
    }

    /// Where it stands and what it goes on from.
    pub fn line(&self) -> Line {
        Line { top: self.history.top(), ..self.line.clone() }
    }

    /// The epoch in which the publication at `offset` was placed: see [`Line::epoch_at`].
    pub fn epoch_at(&self, offset: u64) -> Epoch {
        self.line.epoch_at(offset)
    }

    /// Opens a new epoch that holds all of the old one up to here.
    pub fn succeed(&mut self, epoch: Epoch) {
        self.line = self.line();
        self.line.succeed(epoch);
    }

    /// Whether a publication with this key or of this forward was placed before.
    pub fn find(&self, key: Option<&str>, forward: Option<ForwardId>) -> Repeat {
        let Some(placed) = &self.placed else { return Repeat::No };
        if let Some(offset) = key.and_then(|key| placed.keys.get(key)) {
            return Repeat::At(offset);
        }
        let Some((node, id)) = forward else { return Repeat::No };
        if placed.origins.get(&node).is_none_or(|(last, _)| id > *last) {
            return Repeat::No;
        }
        let known = placed.forwards.iter().rev().find(|(it, _)| *it == (node, id));
        known.map_or(Repeat::Somewhere, |(_, offset)| Repeat::At(*offset))
    }

    /// Appends an entry at its offset, placed in `term`. Returns by how much the bytes kept have grown.
    pub fn append(&mut self, entry: Entry, term: Term, options: &RoomOptions, now: Time) -> isize {
        let offset = entry.publication.offset;
        self.term = term;
        self.remember(entry.key.as_deref(), entry.forward, offset, now);
        self.come_to(entry.version);
        self.history.push(entry.publication, now, options.ring_size())
    }

    /// Remembers what identifies repeats of a publication.
    pub fn remember(
        &mut self,
        key: Option<&str>,
        forward: Option<ForwardId>,
        offset: u64,
        now: Time,
    ) {
        if let Some(key) = key {
            self.placed_mut().keys.remember(key, offset, now);
        }
        if let Some(forward) = forward {
            self.placed_mut().remember_forward(forward, offset, now);
        }
    }

    /// Remembers what identifies a repeat of an entry that was placed at `at`, and the version that it came to.
    pub fn learn(&mut self, entry: &Entry, at: Time) {
        let offset = entry.publication.offset;
        self.remember(entry.key.as_deref(), entry.forward, offset, at);
        self.come_to(entry.version.clone());
    }

    /// Forgets the oldest idempotency key.
    pub fn forget_oldest_key(&mut self) {
        if let Some(placed) = &mut self.placed {
            placed.keys.forget_oldest();
        }
    }

    /// Whether the room has come to this version already, or to a later one.
    pub fn has_come_to(&self, version: &Version) -> bool {
        self.version.as_ref().is_some_and(|last| !version.follows(last))
    }

    /// A publication without a version leaves the last one as it is.
    pub(super) fn come_to(&mut self, version: Option<Version>) {
        if let Some(version) = version {
            self.version = Some(Box::new(version));
        }
    }

    /// Forgets keys and publications that are old enough. Returns the bytes of publications freed.
    pub fn expire(&mut self, options: &RoomOptions, now: Time) -> isize {
        if let Some(placed) = &mut self.placed {
            placed.keys.expire(now);
        }
        self.history.expire(now, options.history_ttl)
    }

    /// When there will be something to forget.
    pub fn next_expiry(&self, options: &RoomOptions) -> Option<Time> {
        let keys = self.placed.as_ref().and_then(|placed| placed.keys.next_expiry());
        keys.into_iter().chain(self.history.next_expiry(options.history_ttl)).min()
    }

    /// Whether `position` lies on this stream's line.
    pub fn covers(&self, position: Position) -> bool {
        self.line().covers(position)
    }

    /// All that follows `position`, oldest first; none if the ring does not reach back that far, or the
    /// position lies on another line.
    pub fn after(&self, position: Position) -> Option<Vec<Arc<Publication>>> {
        if !self.covers(position) {
            return None;
        }
        let visible = self.visible().offset;
        let after = self.history.after(position.offset)?;
        Some(after.filter(|it| it.offset <= visible).cloned().collect())
    }

    /// Whether a mirror that has this can go on from there.
    pub fn continues(&self, have: &Have) -> bool {
        let same = have.position.epoch == self.line.epoch;
        // Where takeovers keep the epoch, only what was placed in one term is surely the same.
        let same = same && (self.committed.is_none() || have.term == self.term);
        same && self.history.after(have.position.offset).is_some()
    }

    /// Up to which offset another copy, which stands at `position`, is the same as this one; none if its epoch is not
    /// one of this line.
    pub fn shared_with(&self, position: Position) -> Option<u64> {
        self.line().shared_with(position)
    }

    /// What members may not have yet, as far as memory has it.
    pub fn uncommitted(&self) -> Vec<Arc<Publication>> {
        self.history.page(Some(self.visible().offset), false, usize::MAX)
    }

    /// Up to `limit` of what members may have: see [`History::page`].
    pub fn page(&self, since: Option<u64>, reverse: bool, limit: usize) -> Vec<Arc<Publication>> {
        let visible = self.visible().offset;
        let since = match (since, reverse) {
            (None, true) if visible < self.history.top() => Some(visible + 1),
            (since, _) => since,
        };
        let mut page = self.history.page(since, reverse, limit);
        page.retain(|it| it.offset <= visible);
        page
    }

    /// A client's position on this stream; see [`Line::resolve`].
    pub fn resolve(&self, since: &Since) -> Option<Position> {
        self.line().resolve(since)
    }

    /// Whether the home may have what a client missed since then, and this copy of the stream has not.
    pub fn may_hold(&self, since: &Since, options: &RoomOptions) -> bool {
        if options.recovery_cache {
            return self.history.is_empty() && self.history.top() > 0;
        }
        self.resolve(since).is_some() || since.epoch == self.line.epoch.to_string()
    }

    /// What a client missed since it stopped. `None` if this stream has it no more (or, in a mirror, not
    /// yet: then the home may).
    ///
    /// Where only the latest publication is recovered, that is the latest that the client's `filter` lets
    /// through. Everywhere else it is for the session to filter.
    pub fn recover(
        &self,
        since: &Since,
        filter: Option<&Filter>,
        options: &RoomOptions,
        limit: usize,
    ) -> Option<Vec<Arc<Publication>>> {
        if options.recovery_cache {
            let positioned = since.offset > 0 && !since.epoch.is_empty();
            let top = self.visible().offset;
            if positioned && self.resolve(since).is_some_and(|at| at.offset == top) {
                return Some(Vec::new());
            }
            let most = filter.map_or(1, |_| limit);
            let mut latest = self.page(None, true, most).into_iter();
            let wanted =
                |it: &Arc<Publication>| filter.is_none_or(|filter| filter.matches(&it.tags));
            return Some(vec![latest.find(wanted)?]);
        }
        let at = self.resolve(since)?;
        if at.offset == self.visible().offset {
            // Nothing is missed, however much there is that members may not have yet.
            return Some(Vec::new());
        }
        self.after(at).filter(|missed| missed.len() <= limit)
    }
}

impl Placed {
    fn remember_forward(&mut self, forward: ForwardId, offset: u64, now: Time) {
        self.remember_origin(forward, now);
        self.forwards.push_back((forward, offset));
        if self.forwards.len() > MAX_FORWARDS {
            self.forwards.pop_front();
        }
    }

    fn remember_origin(&mut self, (node, id): ForwardId, now: Time) {
        let (last, used) = self.origins.entry(node).or_default();
        (*last, *used) = (id.max(*last), now);
        if self.origins.len() > MAX_ORIGINS {
            let oldest = self.origins.iter().min_by_key(|(_, (_, used))| *used);
            let oldest = oldest.map(|(node, _)| *node);
            oldest.map(|node| self.origins.remove(&node));
        }
    }
}

impl From<Option<Vec<Arc<Publication>>>> for Recovery {
    fn from(missed: Option<Vec<Arc<Publication>>>) -> Self {
        missed.map_or(Self::Failed, Self::Recovered)
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
