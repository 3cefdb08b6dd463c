//! One room whose keys are polled: who is in it, which keys they track, and what of an answer is new to whom.
//!
//! In: members and keys that come and go, what a backend says of keys. Out: what has to be asked, and what whom has to
//! be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hasher as _,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rustc_hash::FxHashMap;
use siphasher::sip::SipHasher13;

use super::{
    options::{Mode, PollOptions},
    schedule::{Key, Reason, Schedule},
    state::{KeyUpdate, Track},
};
use crate::{
    backend::poll::{PollAnswer, PolledItem},
    cluster::node::NodeId,
    protocol::codes::ErrorCode,
    room::types::SocketRef,
    runtime::time::Time,
};

/// A key, and the version that is known of it.
type Known = (Box<str>, u64);

/// How long at least a room is remembered whose clients have to subscribe again.
const RETURN: Duration = Duration::from_secs(10);
/// How often it is looked for signatures that have expired.
const EXPIRY_GRAIN: Duration = Duration::from_secs(1);

/// Who tracks keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Who {
    /// A client of this node.
    Socket(SocketRef),
    /// Another node, for its clients.
    Node(NodeId),
}

/// Where the data of keys comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This node asks the backend.
    Backend,
    /// Another node does, and knows by this number what this one tracks.
    Node(NodeId, u64),
}

/// How one of them tracks a key.
#[derive(Debug)]
pub(super) struct Tracker {
    /// The version that it has; 0: none.
    pub(super) version: u64,
    /// When it ends.
    expires_at: Option<Time>,
}

/// A key that somebody tracks.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    /// The newest version that was heard of; 0: none.
    pub(super) version: u64,
    /// Of that version's data, where that says what is new.
    hash: u64,
    /// Somebody lacks that version, so it has to be asked for although it is known.
    pub(super) wanted: bool,
    pub(super) trackers: FxHashMap<Who, Tracker>,
}

/// A room whose keys are polled.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) options: Arc<PollOptions>,
    /// What clients compare when they come back: if it is another, their versions mean nothing.
    pub(super) epoch: String,
    /// The last version that was made here.
    last_version: u64,
    pub(super) members: FxHashMap<Who, BTreeSet<Key>>,
    /// What the nodes among them call what they track here.
    pub(super) runs: FxHashMap<NodeId, u64>,
    pub(super) source: Source,
    /// Keys that the node that polls has to be told of.
    pub(super) changed: BTreeSet<Key>,
    /// When that node may be asked again, which did not want to be.
    pub(super) retry_at: Option<Time>,
    pub(super) keys: BTreeMap<Key, Tracked>,
    pub(super) schedule: Schedule,
    /// When the first signature may expire.
    expiry: Option<Time>,
    /// When it is forgotten, while nobody is in it.
    pub(super) gone_at: Option<Time>,
}

/// What comes of an answer.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What is new, and to whom.
    pub(super) updates: Vec<(KeyUpdate, Vec<Who>)>,
    /// Those whose versions mean nothing any more.
    pub(super) outdated: Vec<Who>,
    /// The largest item that no client could take, in bytes.
    pub(super) too_large: Option<(Box<str>, usize)>,
}

impl Channel {
    /// A room that nobody is in yet. `epoch` is for versions that are made here.
    pub(super) fn new(options: Arc<PollOptions>, epoch: String) -> Self {
        Self {
            schedule: Schedule::new(options.refresh_interval, options.refresh_batch_size),
            epoch: if options.mode == Mode::Versionless { epoch } else { String::new() },
            options,
            last_version: 0,
            members: FxHashMap::default(),
            runs: FxHashMap::default(),
            source: Source::Backend,
            changed: BTreeSet::new(),
            retry_at: None,
            keys: BTreeMap::new(),
            expiry: None,
            gone_at: None,
        }
    }

    /// How it is polled.
    pub(super) fn options(&self) -> &PollOptions {
        &self.options
    }

    /// How many keys are tracked.
    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    /// A client comes. Returns the epoch of its versions.
    pub(super) fn enter(&mut self, socket: SocketRef) -> &str {
        self.gone_at = None;
        self.members.entry(Who::Socket(socket)).or_default();
        &self.epoch
    }

    /// Somebody goes, and tracks nothing any more.
    pub(super) fn leave(&mut self, who: Who, now: Time) {
        if let Who::Node(node) = who {
            self.runs.remove(&node);
        }
        for key in self.members.remove(&who).unwrap_or_default() {
            self.drop_tracker(&key, who);
        }
        self.note_empty(now);
    }

    /// A key has to be asked for at once.
    fn hurry(&mut self, key: Key) {
        match self.source {
            Source::Backend => self.schedule.hurry(key),
            Source::Node(..) => {
                self.changed.insert(key);
            }
        }
    }

    pub(super) fn start(&mut self, now: Time) {
        if self.source == Source::Backend {
            self.schedule.start(now);
        }
    }

    fn note_empty(&mut self, now: Time) {
        if self.members.is_empty() && self.gone_at.is_none() {
            self.gone_at = Some(now + self.options.shutdown_delay);
        }
    }

    /// A client tracks keys, but none of `untrack`.
    ///
    /// # Errors
    /// If they are more than may be tracked: then none is.
    pub(super) fn track(
        &mut self,
        socket: SocketRef,
        items: Vec<Track>,
        untrack: &[Box<str>],
        now: Time,
    ) -> Result<(), ErrorCode> {
        let untracked: BTreeSet<&str> = untrack.iter().map(|it| &**it).collect();
        // Of what is there twice, the last counts.
        let items: BTreeMap<Box<str>, Track> = (items.into_iter())
            .filter(|it| !untracked.contains(&*it.key))
            .map(|it| (it.key.clone(), it))
            .collect();
        let who = Who::Socket(socket);
        let mine = self.members.get(&who).ok_or(ErrorCode::PermissionDenied)?;
        let new = items.keys().filter(|it| !mine.contains(&***it)).count();
        let freed = untracked.iter().filter(|it| mine.contains(**it)).count();
        if mine.len() + new - freed > self.options.max_keys_per_connection {
            return Err(ErrorCode::LimitExceeded);
        }
        let unknown = items.keys().filter(|it| !self.keys.contains_key(&***it)).count();
        if self.keys.len() + unknown > self.options.max_keys_per_channel {
            return Err(ErrorCode::LimitExceeded);
        }
        self.untrack(who, untrack);
        for (_, item) in items {
            self.track_one(who, item);
        }
        self.start(now);
        Ok(())
    }

    pub(super) fn track_one(&mut self, who: Who, item: Track) {
        let Some(mine) = self.members.get_mut(&who) else { return };
        let known = self.keys.get_key_value(&*item.key).map(|(key, _)| key.clone());
        let is_new = known.is_none();
        let key = known.unwrap_or_else(|| Key::from(&*item.key));
        mine.insert(key.clone());
        let tracked = self.keys.entry(key.clone()).or_default();
        let tracker = Tracker { version: item.version, expires_at: item.expires_at };
        tracked.trackers.insert(who, tracker);
        self.expiry = [self.expiry, item.expires_at].into_iter().flatten().min();
        let lacks = tracked.version > item.version;
        let waits = is_new && item.version == 0 || lacks && !tracked.wanted;
        tracked.wanted |= lacks;
        // Another node has to know what the least is that anyone has here.
        let unknown = tracked.version == 0 && self.source != Source::Backend;
        if waits || unknown {
            self.hurry(key);
        }
    }

    /// Somebody does not track these keys any more.
    pub(super) fn untrack(&mut self, who: Who, keys: &[Box<str>]) {
        for key in keys {
            if self.members.get_mut(&who).is_some_and(|it| it.remove(&**key)) {
                self.drop_tracker(key, who);
            }
        }
    }

    fn drop_tracker(&mut self, key: &str, who: Who) {
        let Some(tracked) = self.keys.get_mut(key) else { return };
        tracked.trackers.remove(&who);
        if tracked.trackers.is_empty()
            && let Some((key, _)) = self.keys.remove_entry(key)
        {
            self.forget(key);
        }
    }

    /// Nobody tracks a key any more.
    fn forget(&mut self, key: Key) {
        match self.source {
            Source::Backend => self.schedule.forget(&key),
            Source::Node(..) => {
                self.changed.insert(key);
            }
        }
    }

    /// Ends what signatures no longer allow. Nobody is told: clients bring new signatures in time, or know.
    pub(super) fn expire(&mut self, now: Time) {
        self.retry_at.take_if(|at| *at <= now);
        if self.expiry.is_none_or(|at| at > now) {
            return;
        }
        let (mut over, mut next) = (Vec::new(), None::<Time>);
        for (key, tracked) in &self.keys {
            for (who, tracker) in &tracked.trackers {
                match tracker.expires_at {
                    Some(at) if at <= now => over.push((key.clone(), *who)),
                    Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                    None => {}
                }
            }
        }
        for (key, who) in over {
            if let Some(mine) = self.members.get_mut(&who) {
                mine.remove(&key);
            }
            self.drop_tracker(&key, who);
        }
        self.expiry = next.map(|at| at.max(now + EXPIRY_GRAIN));
    }

    /// The next batch to be asked for, and why: keys, with the version of each that need not be said again.
    pub(super) fn next_batch(&mut self, now: Time) -> Option<(Reason, Vec<Known>)> {
        let (reason, batch) = self.schedule.next(&self.keys, now)?;
        let versioned = self.options.mode == Mode::Versioned;
        let version = |key: &Key| {
            let tracked = self.keys.get(key).filter(|it| versioned && !it.wanted);
            tracked.map_or(0, |it| it.version)
        };
        Some((reason, batch.iter().map(|key| (Box::from(&**key), version(key))).collect()))
    }

    /// When there is something to be asked for.
    pub(super) fn asks_at(&self) -> Option<Time> {
        self.schedule.due()
    }

    /// When there is something else to be done.
    pub(super) fn due(&self) -> Option<Time> {
        [self.expiry, self.gone_at, self.retry_at].into_iter().flatten().min()
    }

    /// Whether nobody has been in it for long enough.
    pub(super) fn is_gone(&self, now: Time) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }

    /// What was asked for is answered, or it is not. Items of more than `item_limit` bytes are left out.
    pub(super) fn answered(
        &mut self,
        reason: Reason,
        answer: Option<PollAnswer>,
        item_limit: usize,
        now: Time,
    ) -> News {
        self.schedule.done(reason, answer.is_some(), now);
        answer.map(|it| self.hear(it, item_limit, now)).unwrap_or_default()
    }

    /// What a backend says, be it to another node.
    pub(super) fn hear(&mut self, answer: PollAnswer, item_limit: usize, now: Time) -> News {
        let mut news = News::default();
        if self.options.mode == Mode::Versioned && answer.epoch != self.epoch {
            news.outdated = self.begin_epoch(answer.epoch, now);
        }
        for item in answer.items {
            let size = item.data.len();
            if size > item_limit {
                news.too_large = Some((item.key, size));
            } else if let Some(update) = self.take(item) {
                news.updates.push(update);
            }
        }
        news
    }

    /// The versions from now on can't be compared with those from before. Returns who has to be told: clients have to
    /// subscribe again, nodes go on to track their keys, and have nothing of them.
    fn begin_epoch(&mut self, epoch: String, now: Time) -> Vec<Who> {
        self.epoch = epoch;
        let is_node = |who: &Who| matches!(who, Who::Node(_));
        for (key, mut tracked) in std::mem::take(&mut self.keys) {
            tracked.trackers.retain(|who, _| is_node(who));
            if tracked.trackers.is_empty() {
                self.forget(key);
                continue;
            }
            (tracked.version, tracked.wanted) = (0, false);
            tracked.trackers.values_mut().for_each(|it| it.version = 0);
            self.keys.insert(key, tracked);
        }
        let members = self.members.keys().copied().collect();
        self.members.retain(|who, _| is_node(who));
        if self.members.is_empty() {
            // Until then clients are to be back, and told the epoch that is known by now.
            self.gone_at = Some(now + self.options.shutdown_delay.max(RETURN));
        }
        members
    }

    /// What a backend says of a key. Returns what is new in it, and to whom.
    fn take(&mut self, item: PolledItem) -> Option<(KeyUpdate, Vec<Who>)> {
        let (key, _) = self.keys.get_key_value(&*item.key)?;
        let key = key.clone();
        if item.removed {
            let tracked = self.keys.remove(&key)?;
            self.forget(key.clone());
            let trackers: Vec<Who> = tracked.trackers.into_keys().collect();
            for who in &trackers {
                if let Some(mine) = self.members.get_mut(who) {
                    mine.remove(&key);
                }
            }
            let update = KeyUpdate { key, version: 0, data: Bytes::new(), removed: true };
            return Some((update, trackers));
        }
        let tracked = self.keys.get_mut(&key)?;
        match self.options.mode {
            // An answer that was overtaken by a newer one.
            Mode::Versioned if item.version < tracked.version => return None,
            Mode::Versioned => tracked.version = item.version,
            Mode::Versionless => {
                let hash = hash(&item.data);
                if tracked.version == 0 || tracked.hash != hash {
                    self.last_version += 1;
                    (tracked.version, tracked.hash) = (self.last_version, hash);
                }
            }
        }
        tracked.wanted = false;
        let version = tracked.version;
        let lack = tracked.trackers.iter_mut().filter(|(_, it)| it.version < version);
        let mut trackers = Vec::new();
        for (who, tracker) in lack {
            tracker.version = version;
            trackers.push(*who);
        }
        let update = KeyUpdate { key, version, data: item.data, removed: false };
        (!trackers.is_empty()).then_some((update, trackers))
    }
}

/// Of data; two of them are alike by chance less often than anything else goes wrong.
fn hash(data: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(data);
    hasher.finish()
}
