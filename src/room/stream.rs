//! A room's order: epoch, lineage, history, and what is needed to drop repeats.
//!
//! A home appends to its stream, a mirror follows it: the same type, so that a mirror can become a home.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    filter::Filter,
    history::History,
    keys::{Aged, Keys},
    line::Line,
    options::RoomOptions,
    types::{Epoch, Position, Publication, Recovery, Since, Version},
};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// The most forwarded publications that a room remembers the offsets of.
const MAX_FORWARDS: usize = 256;
/// The most nodes that a room remembers the forwards of; a restarted node is another.
const MAX_ORIGINS: usize = 256;

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

/// What identifies repeats of publications that a stream holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repeats {
    /// The idempotency keys.
    pub keys: Vec<Aged>,
    /// The last forward of each node.
    pub origins: BTreeMap<NodeId, u64>,
    /// The newest forwards with their offsets.
    pub forwards: Vec<(ForwardId, u64)>,
    /// The version that the room is at.
    pub version: Option<Version>,
}

/// All that another node needs to go on with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Where the stream stands.
    pub line: Line,
    /// The newest publications with their ages, as many as a message may carry.
    pub newest: Vec<(Duration, Arc<Publication>)>,
    /// What identifies repeats.
    pub repeats: Repeats,
}

/// The order of one room.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Epoch and lineage; its top is that of the history.
    line: Line,
    /// The publications that are kept.
    pub history: History,
    /// Of the newest publication that had one. Boxed: few rooms have any.
    version: Option<Box<Version>>,
    /// Boxed: nothing was said in most rooms, or nothing is kept of it.
    placed: Option<Box<Placed>>,
}

/// What identifies repeats of publications that were placed.
#[derive(Debug, Clone, Default)]
struct Placed {
    keys: Keys,
    origins: BTreeMap<NodeId, u64>,
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
    pub fn new(epoch: Epoch) -> Self {
        Self { line: Line::new(epoch), history: History::default(), version: None, placed: None }
    }

    fn placed_mut(&mut self) -> &mut Placed {
        self.placed.get_or_insert_default()
    }

    /// Goes on where another node's stream ended.
    pub fn from_snapshot(snapshot: Snapshot, options: &RoomOptions, now: Time) -> Self {
        let Snapshot { line, newest, repeats } = snapshot;
        let mut stream = Self::new(line.epoch);
        stream.history = History::at(line.top.saturating_sub(newest.len() as u64));
        stream.line = line;
        for (age, publication) in newest {
            stream.history.push(publication, now.ago(age), options.history_size);
        }
        stream.learn(repeats, now);
        stream
    }

    /// What another node needs to go on, with up to `bytes` of publications.
    pub fn snapshot(&self, now: Time, bytes: usize) -> Snapshot {
        Snapshot {
            line: self.line(),
            newest: self.history.newest(now, bytes),
            repeats: self.repeats(0, now),
        }
    }

    /// What identifies repeats of the publications after `offset`.
    pub fn repeats(&self, offset: u64, now: Time) -> Repeats {
        let version = self.version.as_deref().cloned();
        let Some(placed) = &self.placed else { return Repeats { version, ..Repeats::default() } };
        Repeats {
            keys: placed.keys.after(offset, now),
            origins: placed.origins.clone(),
            forwards: placed.forwards.iter().filter(|(_, of)| *of > offset).copied().collect(),
            version,
        }
    }

    /// Takes over what identifies repeats elsewhere.
    pub fn learn(&mut self, repeats: Repeats, now: Time) {
        let Repeats { keys, origins, forwards, version } = repeats;
        self.come_to(version);
        if keys.is_empty() && origins.is_empty() && forwards.is_empty() {
            return;
        }
        let placed = self.placed_mut();
        placed.keys.learn(keys, now);
        for (forward, offset) in forwards {
            placed.remember_forward(forward, offset);
        }
        for (node, id) in origins {
            placed.remember_origin((node, id));
        }
    }

    /// Where the stream stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.line.epoch, offset: self.history.top() }
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
        if placed.origins.get(&node).is_none_or(|last| id > *last) {
            return Repeat::No;
        }
        let known = placed.forwards.iter().rev().find(|(it, _)| *it == (node, id));
        known.map_or(Repeat::Somewhere, |(_, offset)| Repeat::At(*offset))
    }

    /// Appends an entry at its offset. Returns by how much the bytes kept have grown.
    pub fn append(&mut self, entry: Entry, options: &RoomOptions, now: Time) -> isize {
        let offset = entry.publication.offset;
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
            self.placed_mut().remember_forward(forward, offset);
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
        self.history.after(position.offset).map(|after| after.cloned().collect())
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
            let told = since.offset > 0 && !since.epoch.is_empty();
            let top = self.history.top();
            if told && self.resolve(since).is_some_and(|at| at.offset == top) {
                return Some(Vec::new());
            }
            let most = filter.map_or(1, |_| limit);
            let mut latest = self.history.page(None, true, most).into_iter();
            let wanted =
                |it: &Arc<Publication>| filter.is_none_or(|filter| filter.matches(&it.tags));
            return Some(vec![latest.find(wanted)?]);
        }
        self.after(self.resolve(since)?).filter(|missed| missed.len() <= limit)
    }
}

impl Placed {
    fn remember_forward(&mut self, forward: ForwardId, offset: u64) {
        self.remember_origin(forward);
        self.forwards.push_back((forward, offset));
        if self.forwards.len() > MAX_FORWARDS {
            self.forwards.pop_front();
        }
    }

    fn remember_origin(&mut self, (node, id): ForwardId) {
        let last = self.origins.entry(node).or_default();
        *last = id.max(*last);
        if self.origins.len() > MAX_ORIGINS {
            // Which one goes is arbitrary; hundreds of restarts lie between it and now.
            self.origins.pop_first();
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
    use bytes::Bytes;

    use super::*;
    use crate::room::keys::WINDOW;

    const NOW: Time = Time::from_millis(1_000_000);
    /// What one publication of [`entry`] counts.
    const WEIGHT: usize = Publication::OVERHEAD + 1;

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
        let mut stream = Stream::new(Epoch(0xe1));
        for offset in 1..=count {
            stream.append(entry(offset), &options(), NOW);
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
        stream.append(entry(5), &options(), NOW);
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
    fn a_snapshot_goes_on_where_the_stream_was() {
        let stream = stream(8);
        let copy = Stream::from_snapshot(stream.snapshot(NOW, 1 << 20), &options(), NOW);
        assert_eq!(copy.position(), stream.position());
        assert_eq!(recovered(&copy, "e1", 4), recovered(&stream, "e1", 4));
        assert_eq!(copy.find(Some("k7"), None), Repeat::At(7));
        assert_eq!(copy.find(None, Some((NodeId(1), 7))), Repeat::At(7));
        let short = Stream::from_snapshot(stream.snapshot(NOW, 2 * WEIGHT), &options(), NOW);
        assert_eq!(recovered(&short, "e1", 6), Some(vec![7, 8]));
        assert_eq!(recovered(&short, "e1", 5), None);
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
        stream.append(Entry { version: Some(version(3, "a")), ..entry(2) }, &options(), NOW);
        stream.append(entry(3), &options(), NOW);
        let copy = Stream::from_snapshot(stream.snapshot(NOW, 1 << 20), &options(), NOW);
        let mut follower = stream.clone();
        follower.version = None;
        follower.learn(stream.repeats(3, NOW), NOW);
        for stream in [stream, copy, follower] {
            assert!(stream.has_come_to(&version(2, "a")) && stream.has_come_to(&version(3, "a")));
            assert!(stream.has_come_to(&version(3, "")), "whatever the epoch");
            assert!(!stream.has_come_to(&version(4, "a")) && !stream.has_come_to(&version(4, "")));
            assert!(!stream.has_come_to(&version(1, "b")), "numbers begin anew");
        }
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
