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
    messages::{Have, Item},
    options::RoomOptions,
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
        }
    }

    /// A copy of a stream that is yet to be filled, from the publication at `first` on.
    pub fn copy(line: Line, standing: &Standing, first: u64) -> Self {
        let history = History::at(first.saturating_sub(1).min(line.top));
        let (root, term) = (standing.root, standing.term);
        Self { line, history, root, term, committed: None, version: None, placed: None }
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
                return self.history.push(publication, now.ago(age), options.history_size);
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
        self.history.push(entry.publication, now, options.history_size)
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
    fn come_to(&mut self, version: Option<Version>) {
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

    /// What members may not have yet.
    pub fn uncommitted(&self) -> Vec<Arc<Publication>> {
        let after = self.history.after(self.visible().offset);
        after.into_iter().flatten().cloned().collect()
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
        self.after(self.resolve(since)?).filter(|missed| missed.len() <= limit)
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
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::room::idempotency::WINDOW;

    const NOW: Time = Time::from_millis(1_000_000);
    const TERM: Term = Term { count: 1, node: NodeId(1) };

    fn options() -> RoomOptions {
        RoomOptions { history_size: 5, history_ttl: Duration::from_secs(60), ..Default::default() }
    }

    fn entry(offset: u64) -> Entry {
        let publication = Publication { offset, data: Bytes::from("1"), ..Default::default() };
        Entry {
            publication: Arc::new(publication),
            forward: Some((NodeId(1), offset)),
            key: Some(format!("k{offset}").into()),
            version: None,
        }
    }

    fn stream(count: u64) -> Stream {
        let mut stream = Stream::new(Epoch(0xe1), Root::default());
        for offset in 1..=count {
            stream.append(entry(offset), TERM, &options(), NOW);
        }
        stream
    }

    fn since(epoch: &str, offset: u64) -> Since {
        Since { epoch: epoch.into(), offset }
    }

    fn recovered(stream: &Stream, epoch: &str, offset: u64) -> Option<Vec<u64>> {
        let missed = stream.recover(&since(epoch, offset), None, &options(), 300)?;
        Some(missed.iter().map(|publication| publication.offset).collect())
    }

    #[test]
    fn recovers_what_the_ring_holds_and_nothing_else() {
        let stream = stream(8);
        assert_eq!(recovered(&stream, "e1", 6), Some(vec![7, 8]));
        assert_eq!(recovered(&stream, "e1", 8), Some(vec![]));
        assert_eq!(recovered(&stream, "", 3), Some(vec![4, 5, 6, 7, 8]));
        assert_eq!(recovered(&stream, "e1", 2), None, "the ring begins at 4");
        assert_eq!(recovered(&stream, "e1", 9), None, "nobody has said that yet");
        assert_eq!(recovered(&stream, "e2", 6), None, "another epoch");
        assert_eq!(recovered(&stream, "0e1", 6), None, "not how the epoch is written");
        assert_eq!(stream.recover(&since("e1", 3), None, &options(), 4), None, "over the limit");
    }

    #[test]
    fn a_later_epoch_vouches_for_the_earlier_up_to_where_it_ended() {
        let mut stream = stream(4);
        stream.succeed(Epoch(0xe2));
        stream.append(entry(5), TERM, &options(), NOW);
        assert_eq!(recovered(&stream, "e1", 3), Some(vec![4, 5]));
        assert_eq!(recovered(&stream, "e1", 4), Some(vec![5]));
        assert_eq!(recovered(&stream, "e1", 5), None, "e1's own fifth was another one");
        assert_eq!(recovered(&stream, "e2", 5), Some(vec![]));
    }

    #[test]
    fn cache_mode_gives_the_newest_unless_it_is_known() {
        let cache = RoomOptions { recovery_cache: true, ..options() };
        let missed = |stream: &Stream, epoch, offset| {
            let missed = stream.recover(&since(epoch, offset), None, &cache, 300)?;
            Some(missed.iter().map(|publication| publication.offset).collect::<Vec<_>>())
        };
        assert_eq!(missed(&stream(8), "old", 1), Some(vec![8]));
        assert_eq!(missed(&stream(8), "e1", 8), Some(vec![]));
        assert_eq!(missed(&stream(0), "old", 1), None);
        assert_eq!(missed(&stream(0), "", 0), None, "there is nothing to have");
        assert_eq!(missed(&stream(8), "", 8), Some(vec![8]), "it can't tell what it has");
    }

    #[test]
    fn keys_are_forgotten_after_the_window() {
        let mut stream = stream(2);
        stream.expire(&options(), NOW + WINDOW);
        assert_eq!(stream.find(Some("k2"), None), Repeat::No);
        assert!(stream.placed.as_ref().is_none_or(|placed| placed.keys.is_empty()));
        assert_eq!(stream.next_expiry(&options()), None);
    }

    #[test]
    fn a_room_comes_to_later_versions_only() {
        let version = |number, epoch: &str| Version { number, epoch: epoch.into() };
        let mut stream = stream(1);
        assert!(!stream.has_come_to(&version(1, "")));
        stream.append(Entry { version: Some(version(3, "a")), ..entry(2) }, TERM, &options(), NOW);
        stream.append(entry(3), TERM, &options(), NOW);
        let mut follower = stream.clone();
        follower.version = None;
        for item in stream.origins() {
            follower.take(item, &options(), NOW);
        }
        for stream in [stream, follower] {
            assert!(stream.has_come_to(&version(2, "a")) && stream.has_come_to(&version(3, "a")));
            assert!(stream.has_come_to(&version(3, "")), "whatever the epoch");
            assert!(!stream.has_come_to(&version(4, "a")) && !stream.has_come_to(&version(4, "")));
            assert!(!stream.has_come_to(&version(1, "b")), "numbers begin anew");
        }
    }

    #[test]
    fn of_many_nodes_those_that_were_silent_for_the_longest_are_forgotten() {
        let mut stream = stream(1);
        let later = NOW + Duration::from_secs(1);
        for node in 0..MAX_ORIGINS as u64 {
            stream.remember(None, Some((NodeId(1_000_000 + node), 1)), 1, later);
        }
        assert_eq!(stream.find(None, Some((NodeId(1), 1))), Repeat::No);
        let all = (0..MAX_ORIGINS as u64).map(|node| (NodeId(1_000_000 + node), 1));
        assert!(all.into_iter().all(|it| stream.find(None, Some(it)) != Repeat::No));
    }

    #[test]
    fn members_have_only_what_a_majority_has() {
        let mut stream = stream(5);
        stream.commit(3);
        assert_eq!(recovered(&stream, "e1", 1), Some(vec![2, 3]));
        assert_eq!(stream.visible().offset, 3);
        let offsets =
            |page: Vec<Arc<Publication>>| page.iter().map(|it| it.offset).collect::<Vec<_>>();
        assert_eq!(offsets(stream.page(None, true, 2)), [3, 2]);
        assert_eq!(offsets(stream.uncommitted()), [4, 5]);
        stream.commit(5);
        assert_eq!(recovered(&stream, "e1", 1), Some(vec![2, 3, 4, 5]));
    }

    #[test]
    fn a_forward_is_a_repeat_however_long_ago_it_was_placed() {
        let stream = stream(MAX_FORWARDS as u64 + 10);
        assert_eq!(stream.find(None, Some((NodeId(1), 2))), Repeat::Somewhere);
        assert_eq!(stream.find(None, Some((NodeId(1), 200))), Repeat::At(200));
        assert_eq!(stream.find(None, Some((NodeId(1), 300))), Repeat::No);
        assert_eq!(stream.find(None, Some((NodeId(2), 2))), Repeat::No, "another node's");
    }
}
