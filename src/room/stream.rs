//! A room's order: epoch, lineage, history, and what is needed to drop repeats.
//!
//! A home appends to its stream, a mirror follows it: the same type, so that a mirror can become a home.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    history::History,
    options::RoomOptions,
    types::{Epoch, Position, Publication, Recovery, Since},
};
use crate::{cluster::node::NodeId, time::Time};

/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_WINDOW: Duration = Duration::from_secs(300);
/// The most idempotency keys that a room remembers.
const MAX_KEYS: usize = 10_000;
/// The most forwarded publications that a room remembers the origins of.
const MAX_FORWARDS: usize = 256;
/// The most earlier epochs that a room remembers.
const MAX_LINEAGE: usize = 16;

/// Where a forwarded publication came from: the node, and the node's number for it.
pub type ForwardId = (NodeId, u64);

/// A publication in its place, with what identifies repeats of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The publication.
    pub publication: Arc<Publication>,
    /// Which forward it was, if a node other than the home took it from its client.
    pub forward: Option<ForwardId>,
    /// The publisher's key.
    pub key: Option<Box<str>>,
}

/// All that another node needs to go on with a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Epoch of the stream.
    pub epoch: Epoch,
    /// Earlier epochs, and up to which offset each is this stream too.
    pub lineage: Vec<(Epoch, u64)>,
    /// Offset of the newest publication.
    pub top: u64,
    /// The newest publications with their ages, as many as a message may carry.
    pub newest: Vec<(Duration, Arc<Publication>)>,
    /// The idempotency keys with their ages.
    pub keys: Vec<(Duration, Box<str>, u64)>,
    /// The forwards that may be sent again.
    pub forwards: Vec<(ForwardId, u64)>,
}

impl Snapshot {
    /// Whether it reaches further than `other`: a later epoch of the same line, or a later offset.
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        let descends = |a: &Self, b: &Self| a.lineage.iter().any(|(epoch, _)| *epoch == b.epoch);
        match (descends(self, other), descends(other, self)) {
            (true, false) => true,
            (false, true) => false,
            _ => (self.top, self.epoch) > (other.top, other.epoch),
        }
    }

    /// Where it ends.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.top }
    }
}

/// The order of one room.
#[derive(Debug, Clone)]
pub struct Stream {
    epoch: Epoch,
    lineage: Vec<(Epoch, u64)>,
    /// The publications that are kept.
    pub history: History,
    keys: HashMap<Box<str>, u64>,
    keys_by_age: VecDeque<(Time, Box<str>)>,
    forwards: VecDeque<(ForwardId, u64)>,
}

impl Stream {
    /// A stream in which nothing was said yet.
    pub fn new(epoch: Epoch) -> Self {
        Self {
            epoch,
            lineage: Vec::new(),
            history: History::default(),
            keys: HashMap::new(),
            keys_by_age: VecDeque::new(),
            forwards: VecDeque::new(),
        }
    }

    /// Goes on where another node's stream ended.
    pub fn from_snapshot(snapshot: Snapshot, options: &RoomOptions, now: Time) -> Self {
        let mut stream = Self::new(snapshot.epoch);
        stream.lineage = snapshot.lineage;
        let before = snapshot.top - (snapshot.newest.len() as u64).min(snapshot.top);
        stream.history = History::at(before);
        for (age, publication) in snapshot.newest {
            stream.history.push(publication, now.ago(age), options.history_size);
        }
        for (age, key, offset) in snapshot.keys {
            stream.remember_key(key, offset, now.ago(age));
        }
        stream.forwards = snapshot.forwards.into();
        stream
    }

    /// What another node needs to go on, with up to `bytes` of publications.
    pub fn snapshot(&self, now: Time, bytes: usize) -> Snapshot {
        let keys = self.keys_by_age.iter().filter_map(|(at, key)| {
            self.keys.get(key).map(|offset| (now.since(*at), key.clone(), *offset))
        });
        Snapshot {
            epoch: self.epoch,
            lineage: self.lineage.clone(),
            top: self.history.top(),
            newest: self.history.newest(now, bytes),
            keys: keys.collect(),
            forwards: self.forwards.iter().copied().collect(),
        }
    }

    /// Where the stream stands.
    pub fn position(&self) -> Position {
        Position { epoch: self.epoch, offset: self.history.top() }
    }

    /// Opens a new epoch that holds all of the old one up to here.
    pub fn succeed(&mut self, epoch: Epoch) {
        self.lineage.push((self.epoch, self.history.top()));
        let excess = self.lineage.len().saturating_sub(MAX_LINEAGE);
        self.lineage.drain(..excess);
        self.epoch = epoch;
    }

    /// The offset that a publication with this key already has.
    pub fn find_key(&self, key: &str) -> Option<u64> {
        self.keys.get(key).copied()
    }

    /// The offset that a forward already has.
    pub fn find_forward(&self, forward: ForwardId) -> Option<u64> {
        self.forwards.iter().rev().find(|(id, _)| *id == forward).map(|(_, offset)| *offset)
    }

    /// Appends an entry at its offset. Returns by how much the bytes kept have grown.
    pub fn append(&mut self, entry: Entry, options: &RoomOptions, now: Time) -> isize {
        let offset = entry.publication.offset;
        self.remember(entry.key, entry.forward, offset, now);
        self.history.push(entry.publication, now, options.history_size)
    }

    /// Remembers what identifies repeats of a publication.
    pub fn remember(
        &mut self,
        key: Option<Box<str>>,
        forward: Option<ForwardId>,
        offset: u64,
        now: Time,
    ) {
        if let Some(key) = key {
            self.remember_key(key, offset, now);
        }
        if let Some(forward) = forward {
            self.forwards.push_back((forward, offset));
            if self.forwards.len() > MAX_FORWARDS {
                self.forwards.pop_front();
            }
        }
    }

    fn remember_key(&mut self, key: Box<str>, offset: u64, at: Time) {
        if self.keys.insert(key.clone(), offset).is_none() {
            self.keys_by_age.push_back((at, key));
        }
        if self.keys_by_age.len() > MAX_KEYS {
            self.forget_oldest_key();
        }
    }

    fn forget_oldest_key(&mut self) {
        if let Some((_, key)) = self.keys_by_age.pop_front() {
            self.keys.remove(&key);
        }
    }

    /// Forgets keys and publications that are old enough. Returns the bytes of publications freed.
    pub fn expire(&mut self, options: &RoomOptions, now: Time) -> isize {
        while (self.keys_by_age.front()).is_some_and(|(at, _)| now.since(*at) >= IDEMPOTENCY_WINDOW)
        {
            self.forget_oldest_key();
        }
        self.history.expire(now, options.history_ttl)
    }

    /// When there will be something to forget.
    pub fn next_expiry(&self, options: &RoomOptions) -> Option<Time> {
        let keys = self.keys_by_age.front().map(|(at, _)| *at + IDEMPOTENCY_WINDOW);
        keys.into_iter().chain(self.history.next_expiry(options.history_ttl)).min()
    }

    /// Up to where `position` lies on this stream's line: then all that follows it here is what follows
    /// it there.
    pub fn covers(&self, position: Position) -> bool {
        let end_of = |epoch| {
            let earlier = self.lineage.iter().rev().find(|(earlier, _)| *earlier == epoch);
            earlier.map(|(_, end)| *end)
        };
        match position.epoch == self.epoch {
            true => position.offset <= self.history.top(),
            false => end_of(position.epoch).is_some_and(|end| position.offset <= end),
        }
    }

    /// All that follows `position`, oldest first; none if the ring does not reach back that far, or the
    /// position lies on another line.
    pub fn after(&self, position: Position) -> Option<Vec<Arc<Publication>>> {
        if !self.covers(position) {
            return None;
        }
        self.history.after(position.offset).map(|after| after.cloned().collect())
    }

    /// A client's position on this stream, whichever of its epochs the client knew. None if it is no
    /// position of this stream.
    pub fn resolve(&self, since: &Since) -> Option<Position> {
        let epochs = self.lineage.iter().rev().map(|(epoch, _)| *epoch);
        let epoch = std::iter::once(self.epoch)
            .chain(epochs)
            .find(|epoch| since.epoch.is_empty() || since.epoch == epoch.to_string())?;
        let position = Position { epoch, offset: since.offset };
        self.covers(position).then_some(position)
    }

    /// What a client missed since it stopped. `None` if this stream has it no more (or, in a mirror, not
    /// yet: then the home may).
    pub fn recover(
        &self,
        since: &Since,
        options: &RoomOptions,
        limit: usize,
    ) -> Option<Vec<Arc<Publication>>> {
        if options.recovery_cache {
            let known = self.resolve(since).is_some_and(|at| at.offset == self.history.top());
            let newest = self.history.last().filter(|_| !known).cloned();
            return (known || newest.is_some()).then(|| newest.into_iter().collect());
        }
        self.after(self.resolve(since)?).filter(|missed| missed.len() <= limit)
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

    const NOW: Time = Time::from_millis(1_000_000);

    fn options() -> RoomOptions {
        RoomOptions { history_size: 5, history_ttl: Duration::from_secs(60), ..Default::default() }
    }

    fn entry(offset: u64) -> Entry {
        let publication =
            Publication { offset, data: Bytes::from("1"), info: None, tags: Default::default() };
        Entry {
            publication: Arc::new(publication),
            forward: Some((NodeId(1), offset)),
            key: Some(format!("k{offset}").into()),
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
        let missed = stream.recover(&since(epoch, offset), &options(), 300)?;
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
        assert_eq!(stream.recover(&since("e1", 3), &options(), 4), None, "over the limit");
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
            let missed = stream.recover(&since(epoch, offset), &cache, 300)?;
            Some(missed.iter().map(|publication| publication.offset).collect::<Vec<_>>())
        };
        assert_eq!(missed(&stream(8), "old", 1), Some(vec![8]));
        assert_eq!(missed(&stream(8), "e1", 8), Some(vec![]));
        assert_eq!(missed(&stream(0), "old", 1), None);
    }

    #[test]
    fn a_snapshot_goes_on_where_the_stream_was() {
        let stream = stream(8);
        let copy = Stream::from_snapshot(stream.snapshot(NOW, 1 << 20), &options(), NOW);
        assert_eq!(copy.position(), stream.position());
        assert_eq!(recovered(&copy, "e1", 4), recovered(&stream, "e1", 4));
        assert_eq!((copy.find_key("k7"), copy.find_forward((NodeId(1), 7))), (Some(7), Some(7)));
        let short = Stream::from_snapshot(stream.snapshot(NOW, 2 * 65), &options(), NOW);
        assert_eq!(recovered(&short, "e1", 6), Some(vec![7, 8]));
        assert_eq!(recovered(&short, "e1", 5), None);
    }

    #[test]
    fn keys_are_forgotten_after_the_window() {
        let mut stream = stream(2);
        stream.expire(&options(), NOW + IDEMPOTENCY_WINDOW);
        assert_eq!(stream.find_key("k2"), None);
        assert!(stream.keys.is_empty() && stream.keys_by_age.is_empty());
        assert_eq!(stream.next_expiry(&options()), None);
    }

    #[test]
    fn the_later_epoch_of_a_line_is_ahead_of_more_offsets_in_the_earlier() {
        let old = stream(8);
        let mut new = stream(4);
        new.succeed(Epoch(1));
        let (old, new) = (old.snapshot(NOW, 0), new.snapshot(NOW, 0));
        assert!(new.is_ahead_of(&old) && !old.is_ahead_of(&new));
    }
}
