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
    protocol::codes::ErrorCode,
    room::types::SocketRef,
    runtime::time::Time,
};

/// How long at least a room is remembered whose clients have to subscribe again.
const RETURN: Duration = Duration::from_secs(10);
/// How often it is looked for signatures that have expired.
const EXPIRY_GRAIN: Duration = Duration::from_secs(1);

/// How one client tracks a key.
#[derive(Debug)]
struct Tracker {
    /// The version that it has; 0: none.
    version: u64,
    /// When it ends.
    expires_at: Option<Time>,
}

/// A key that somebody tracks.
#[derive(Debug, Default)]
struct Tracked {
    /// The newest version that was heard of; 0: none.
    version: u64,
    /// Of that version's data, where that says what is new.
    hash: u64,
    /// Somebody lacks that version, so it has to be asked for although it is known.
    wanted: bool,
    trackers: FxHashMap<SocketRef, Tracker>,
}

/// A room whose keys are polled.
#[derive(Debug)]
pub(super) struct Channel {
    options: Arc<PollOptions>,
    /// What clients compare when they come back: if it is another, their versions mean nothing.
    epoch: String,
    /// The last version that was made here.
    last_version: u64,
    members: FxHashMap<SocketRef, BTreeSet<Key>>,
    keys: BTreeMap<Key, Tracked>,
    schedule: Schedule,
    /// When the first signature may expire.
    expiry: Option<Time>,
    /// When it is forgotten, while nobody is in it.
    gone_at: Option<Time>,
}

/// What comes of an answer.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What is new, and to whom.
    pub(super) updates: Vec<(KeyUpdate, Vec<SocketRef>)>,
    /// Those who have to subscribe again, since what they know of versions means nothing any more.
    pub(super) outdated: Vec<SocketRef>,
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
        self.members.entry(socket).or_default();
        &self.epoch
    }

    /// A client goes, and tracks nothing any more.
    pub(super) fn leave(&mut self, socket: SocketRef, now: Time) {
        for key in self.members.remove(&socket).unwrap_or_default() {
            self.drop_tracker(&key, socket);
        }
        self.note_empty(now);
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
        let mine = self.members.get(&socket).ok_or(ErrorCode::PermissionDenied)?;
        let new = items.keys().filter(|it| !mine.contains(&***it)).count();
        let freed = untracked.iter().filter(|it| mine.contains(**it)).count();
        if mine.len() + new - freed > self.options.max_keys_per_connection {
            return Err(ErrorCode::LimitExceeded);
        }
        let unknown = items.keys().filter(|it| !self.keys.contains_key(&***it)).count();
        if self.keys.len() + unknown > self.options.max_keys_per_channel {
            return Err(ErrorCode::LimitExceeded);
        }
        self.untrack(socket, untrack);
        for (_, item) in items {
            self.track_one(socket, item);
        }
        self.schedule.start(now);
        Ok(())
    }

    fn track_one(&mut self, socket: SocketRef, item: Track) {
        let Some(mine) = self.members.get_mut(&socket) else { return };
        let known = self.keys.get_key_value(&*item.key).map(|(key, _)| key.clone());
        let is_new = known.is_none();
        let key = known.unwrap_or_else(|| Key::from(&*item.key));
        mine.insert(key.clone());
        let tracked = self.keys.entry(key.clone()).or_default();
        let tracker = Tracker { version: item.version, expires_at: item.expires_at };
        tracked.trackers.insert(socket, tracker);
        self.expiry = [self.expiry, item.expires_at].into_iter().flatten().min();
        let lacks = tracked.version > item.version;
        if is_new && item.version == 0 || lacks && !tracked.wanted {
            self.schedule.hurry(key);
        }
        tracked.wanted |= lacks;
    }

    /// A client does not track these keys any more.
    pub(super) fn untrack(&mut self, socket: SocketRef, keys: &[Box<str>]) {
        for key in keys {
            if self.members.get_mut(&socket).is_some_and(|it| it.remove(&**key)) {
                self.drop_tracker(key, socket);
            }
        }
    }

    fn drop_tracker(&mut self, key: &str, socket: SocketRef) {
        let Some(tracked) = self.keys.get_mut(key) else { return };
        tracked.trackers.remove(&socket);
        if tracked.trackers.is_empty() {
            self.keys.remove(key);
            self.schedule.forget(key);
        }
    }

    /// Ends what signatures no longer allow. Nobody is told: clients bring new signatures in time, or know.
    pub(super) fn expire(&mut self, now: Time) {
        if self.expiry.is_none_or(|at| at > now) {
            return;
        }
        let (mut over, mut next) = (Vec::new(), None::<Time>);
        for (key, tracked) in &self.keys {
            for (socket, tracker) in &tracked.trackers {
                match tracker.expires_at {
                    Some(at) if at <= now => over.push((key.clone(), *socket)),
                    Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
                    None => {}
                }
            }
        }
        for (key, socket) in over {
            if let Some(mine) = self.members.get_mut(&socket) {
                mine.remove(&key);
            }
            self.drop_tracker(&key, socket);
        }
        self.expiry = next.map(|at| at.max(now + EXPIRY_GRAIN));
    }

    /// The next batch to be asked for, and why: keys, with the version of each that need not be said again.
    pub(super) fn next_batch(&mut self, now: Time) -> Option<(Reason, Vec<(Box<str>, u64)>)> {
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
        [self.expiry, self.gone_at].into_iter().flatten().min()
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
        let mut news = News::default();
        let Some(answer) = answer else { return news };
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

    /// The versions from now on can't be compared with those from before. Returns who has to subscribe again.
    fn begin_epoch(&mut self, epoch: String, now: Time) -> Vec<SocketRef> {
        self.epoch = epoch;
        for key in std::mem::take(&mut self.keys).into_keys() {
            self.schedule.forget(&key);
        }
        let members = std::mem::take(&mut self.members).into_keys().collect();
        // Until then they are to be back, and told the epoch that is known by now.
        self.gone_at = Some(now + self.options.shutdown_delay.max(RETURN));
        members
    }

    /// What a backend says of a key. Returns what is new in it, and to whom.
    fn take(&mut self, item: PolledItem) -> Option<(KeyUpdate, Vec<SocketRef>)> {
        let (key, _) = self.keys.get_key_value(&*item.key)?;
        let key = key.clone();
        if item.removed {
            let tracked = self.keys.remove(&key)?;
            self.schedule.forget(&key);
            let sockets: Vec<SocketRef> = tracked.trackers.into_keys().collect();
            for socket in &sockets {
                if let Some(mine) = self.members.get_mut(socket) {
                    mine.remove(&key);
                }
            }
            let update = KeyUpdate { key, version: 0, data: Bytes::new(), removed: true };
            return Some((update, sockets));
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
        let mut sockets = Vec::new();
        for (socket, tracker) in lack {
            tracker.version = version;
            sockets.push(*socket);
        }
        let update = KeyUpdate { key, version, data: item.data, removed: false };
        (!sockets.is_empty()).then_some((update, sockets))
    }
}

/// Of data; two of them are alike by chance less often than anything else goes wrong.
fn hash(data: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(data);
    hasher.finish()
}
