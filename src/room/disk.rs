//! SHELL. The log of a node's rooms on its disk: opens it, finds the rooms in it, and does what rooms ask of it.
//!
//! In: [`LogRequest`]s. Out: [`LogReply`]s, which the log's threads leave for the registry to take. Times are the node's
//! own inside, and Unix time on disk.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::prelude::*;

use super::{
    companions::Companions,
    logged::{LogChange, LogPage, LogReply, LogRequest, LoggedRoom},
    options::Namespaces,
    persisted::Head,
    stream::Entry,
    types::{Epoch, RoomName},
};
use crate::{
    log::{
        self, Damage, Keep, Page, Policy, Store, WallClock,
        disk::{Directory, DirectoryError},
        scrub::{Scrub, Step},
        writer::{Change, Notice, Request, Writer},
    },
    metrics::Metrics,
    runtime::{clock, time::Time},
};

/// Begins the names of what the node notes in its log for itself. Rooms whose names begin so have one more.
const OWN: char = '\0';
/// Under which name the log has the names of the nodes.
const COMPANIONS: &str = "\0nodes";
/// Rooms that are looked at together when the log is opened.
const AT_ONCE: usize = 1_024;

/// How a node keeps rooms on disk.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Where.
    pub data_dir: PathBuf,
    /// How often what was written is synced; none: always before it is acknowledged.
    pub sync_interval: Option<Duration>,
    /// Bytes of all of it, about; over it, the oldest publications of all rooms go.
    pub max_bytes: Option<u64>,
    /// Bytes of one file.
    pub segment_bytes: u32,
    /// How often all of it is read, in search of damage; none: never.
    pub scrub_interval: Option<Duration>,
}

/// Why the log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The directory can't be had.
    #[error("the log: {0}")]
    Directory(#[from] DirectoryError),
    /// Its files can't be.
    #[error("the log in {}: {why}", data_dir.display())]
    Open {
        /// Where.
        data_dir: PathBuf,
        /// Why.
        why: log::OpenError,
    },
    /// They can't be read.
    #[error("the log in {}: {why}", data_dir.display())]
    Read {
        /// Where.
        data_dir: PathBuf,
        /// Why.
        why: log::ReadError,
    },
}

/// The log has answered: see [`DiskLog::take_replies`].
#[derive(Message)]
#[rtype(result = "()")]
pub struct LogReplied;

/// The log of a node's rooms.
pub struct DiskLog {
    writer: Writer,
    outcome: Arc<Outcome>,
    companions: Companions,
    /// The names of the nodes could not be written.
    unnoted: Arc<AtomicBool>,
    /// What was found to be damaged when it was opened, and not told to its rooms yet.
    damage: Vec<Damage>,
    scrub_interval: Option<Duration>,
    scrub: Arc<Mutex<Scrub>>,
}

/// What comes of what was asked. The log's threads say it.
struct Outcome {
    metrics: Metrics,
    /// The last write has failed.
    failing: AtomicBool,
    /// What the registry has not taken yet.
    replies: Mutex<Vec<(RoomName, LogReply)>>,
    registry: OnceLock<Recipient<LogReplied>>,
    /// By which the ages of publications are known, though the clock of the system jumps.
    wall_clock: Mutex<WallClock>,
}

impl Outcome {
    /// One message stands for all that wait, so that a batch of the log is not many messages.
    fn reply(&self, room: RoomName, reply: LogReply) {
        let mut replies = locked(&self.replies);
        replies.push((room, reply));
        let is_first = replies.len() == 1;
        drop(replies);
        if is_first && let Some(registry) = self.registry.get() {
            registry.do_send(LogReplied);
        }
    }

    fn take_replies(&self) -> Vec<(RoomName, LogReply)> {
        std::mem::take(&mut locked(&self.replies))
    }

    fn failed(&self, what: &str) {
        self.metrics.log_errors.with_label_values(&[what]).inc();
    }

    fn wrote(&self, room: RoomName, write: &Write, written: Result<(), log::WriteError>) {
        let reply = match written {
            Ok(()) => {
                let took = clock::now().since(write.since);
                self.metrics.log_write_seconds.observe(took.as_secs_f64());
                if write.repairs > 0 {
                    tracing::info!(
                        room = &*room,
                        "wrote a damaged publication to the log again, as another node has it"
                    );
                }
                if self.failing.load(Ordering::Relaxed)
                    && self.failing.swap(false, Ordering::Relaxed)
                {
                    tracing::info!("the log on disk takes writes again");
                }
                LogReply::Written(write.id)
            }
            Err(why) => {
                self.failed("write");
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        %why,
                        "the log on disk does not take writes: publications into rooms on disk fail with a temporary \
                         error until it does. Give it space, or see to the disk"
                    );
                }
                LogReply::Failed(write.id)
            }
        };
        self.reply(room, reply);
    }

    fn read(&self, room: RoomName, id: u64, page: Result<Page, log::ReadError>) {
        let page = page.inspect_err(|why| {
            self.failed("read");
            tracing::error!(room = &*room, %why, "the log on disk can't be read");
        });
        self.reply(room, LogReply::Read(id, page.ok().map(|it| self.page(it))));
    }

    /// Reads both clocks, so that a jump of one is seen.
    fn read_clocks(&self) -> log::Now {
        let unix = Duration::from_millis(clock::unix_millis());
        let now = log::Now { uptime: clock::uptime(), unix };
        locked(&self.wall_clock).read(now);
        now
    }

    /// A page as rooms know it.
    fn page(&self, page: Page) -> LogPage {
        let now = self.read_clocks();
        let wall_clock = locked(&self.wall_clock);
        read_page(page, |time| clock::at(now.uptime).ago(wall_clock.age(time, now)))
    }

    /// Says what happened that no answer tells of, and counts it.
    fn noticed(&self, notice: &Notice) {
        match notice {
            Notice::SyncFailed { why } => {
                self.failed("sync");
                tracing::error!(
                    %why,
                    "the log on disk could not be synced: what was written since the sync before may not be on the \
                     disk. It is cut off and written again. See to the disk"
                );
            }
            Notice::NotOpened { why, again } => {
                self.failed("sync");
                if !again {
                    tracing::error!(
                        why,
                        "the log on disk can't be opened again after a failed sync: publications into rooms on disk \
                         fail with a temporary error until it can. See to the disk"
                    );
                }
            }
            Notice::OpenedAgain { cut, rewritten, lost: 0 } => {
                tracing::warn!(
                    cut,
                    rewritten,
                    "the log on disk was opened again after a failed sync"
                );
            }
            Notice::OpenedAgain { cut, rewritten, lost } => {
                self.metrics.log_errors.with_label_values(&["lost"]).inc_by(*lost as u64);
                tracing::error!(
                    cut,
                    rewritten,
                    lost,
                    "the log on disk was opened again after a failed sync, without some of what had been acknowledged: \
                     it could not be written again. Other nodes may have it; set disk.sync = \"always\" where that must \
                     not be"
                );
            }
            Notice::RetentionFailed { why, again } => {
                self.failed("retention");
                if !again {
                    tracing::error!(
                        why,
                        "the log on disk can't trim rooms or give space back: it tries again every few seconds. Give \
                         it space, or see to the disk"
                    );
                }
            }
        }
    }

    /// Tells everyone of damage that was found.
    fn found_damage(&self, damage: Vec<Damage>) {
        for damage in &damage {
            self.failed("damage");
            report_damage(damage);
        }
        self.tell_of(damage);
    }

    /// Tells rooms which of their publications are damaged.
    fn tell_of(&self, damage: Vec<Damage>) {
        for damage in damage {
            if let Damage::Publications { room, first, end } = damage
                && let Some(room) = name_of(&room.into())
            {
                self.reply(room, LogReply::Damaged(first, end));
            }
        }
    }
}

/// A write that is under way.
struct Write {
    id: u64,
    since: Time,
    /// How many damaged publications it writes again.
    repairs: u64,
}

/// How much of each room is kept on disk: as much as its namespace says.
struct ByNamespace {
    namespaces: Arc<Namespaces>,
    max_bytes: Option<u64>,
}

impl Policy for ByNamespace {
    fn keep(&self, room: &str) -> Keep {
        match self
            .namespaces
            .options(room.strip_prefix(OWN).unwrap_or(room))
            .filter(|it| it.is_on_disk())
        {
            // Nobody knows what it was to be.
            None => Keep::default(),
            Some(options) => Keep {
                count: Some(options.history_size as u64),
                age: u64::try_from(options.history_ttl.as_millis()).ok(),
                bytes: options.history_bytes,
                // What follows from its publications follows from all of them.
                whole: options.is_made_of_changes(),
            },
        }
    }

    fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }
}

impl DiskLog {
    /// Opens the log. `found` is told of every room in it. Also returns the names of the nodes that were there last.
    ///
    /// # Errors
    /// If it can't be used as it is: nothing is lost, and the error says what to do.
    pub fn open(
        options: &DiskOptions,
        namespaces: Arc<Namespaces>,
        metrics: Metrics,
        id: u128,
        mut found: impl FnMut(LoggedRoom),
    ) -> Result<(Self, BTreeSet<String>), DiskError> {
        let data_dir = &options.data_dir;
        let directory = Directory::open(data_dir)?;
        let sizes = log::Options { segment_bytes: options.segment_bytes, ..Default::default() };
        let opened = Store::open(directory.clone(), sizes, id);
        let (mut store, opened) =
            opened.map_err(|why| DiskError::Open { data_dir: data_dir.clone(), why })?;
        let mut damage = report(data_dir, opened);
        let failed = |why| DiskError::Read { data_dir: data_dir.clone(), why };
        let companions = store.head(COMPANIONS).map_err(failed)?;
        let companions: BTreeSet<String> =
            companions.and_then(|it| serde_json::from_slice(&it).ok()).unwrap_or_default();
        let mut after: Option<RoomName> = None;
        // It is another one at every start.
        let mut epoch = id as u64;
        loop {
            let rooms = store.heads(after.as_deref(), AT_ONCE).map_err(failed)?;
            let Some((last, _)) = rooms.last() else { break };
            after = Some(last.name.clone());
            for (info, head) in rooms {
                let Some(name) = name_of(&info.name) else { continue };
                let head = match head.as_deref().map(Head::from_bytes) {
                    Some(Some(head)) => head,
                    None if info.headed => {
                        tracing::error!(
                            room = &*info.name,
                            "what the log says of a room beside its publications is damaged: if no other node has the \
                             room, it goes on with its publications, in another epoch"
                        );
                        epoch = epoch.wrapping_add(1);
                        Head::lost(Epoch(epoch))
                    }
                    // A copy that was not complete when the node ended, or what a later version has written.
                    _ => {
                        tracing::warn!(
                            room = &*info.name,
                            "a room in the log is not complete: it is left alone"
                        );
                        continue;
                    }
                };
                found(LoggedRoom { name, head, first: info.first, next: info.next });
            }
        }
        // What an index had that had to be made again for that.
        let found_since = store.take_damage();
        found_since.iter().for_each(report_damage);
        damage.extend(found_since);
        let policy = ByNamespace { namespaces, max_bytes: options.max_bytes };
        let outcome = Arc::new(Outcome {
            metrics,
            failing: AtomicBool::new(false),
            replies: Mutex::default(),
            registry: OnceLock::new(),
            wall_clock: Mutex::default(),
        });
        outcome.read_clocks();
        let noticing = outcome.clone();
        let notify = move |notice| noticing.noticed(&notice);
        let writer = Writer::start(store, directory, options.sync_interval, policy, notify);
        let log = Self {
            writer,
            outcome,
            companions: Companions::new(companions.clone()),
            unnoted: Arc::default(),
            damage,
            scrub_interval: options.scrub_interval,
            scrub: Arc::default(),
        };
        Ok((log, companions))
    }

    /// Whether there was damage when it was opened that may have been the end of any room.
    pub fn has_lost_any(&self) -> bool {
        self.damage.iter().any(|it| matches!(it, Damage::Bytes { .. }))
    }

    /// Tells `registry` when there is an answer.
    pub fn answer_to(&self, registry: Recipient<LogReplied>) {
        // Once: there is one registry.
        let registry = self.outcome.registry.get_or_init(|| registry);
        if !locked(&self.outcome.replies).is_empty() {
            registry.do_send(LogReplied);
        }
    }

    /// What was answered since this was last asked.
    pub fn take_replies(&self) -> Vec<(RoomName, LogReply)> {
        self.outcome.take_replies()
    }

    /// Does what a room asks.
    pub fn request(&self, room: RoomName, request: LogRequest) {
        match request {
            LogRequest::Write(id, changes) => self.write(room, id, changes),
            LogRequest::Read(id, query) => self.read(room, id, query),
        }
    }

    fn write(&self, room: RoomName, id: u64, changes: Vec<LogChange>) {
        let (unix, since) = (clock::unix_millis(), clock::now());
        let repairs =
            changes.iter().filter(|it| matches!(it, LogChange::Repair(..))).count() as u64;
        let changes = changes.into_iter().map(|it| it.written(unix, since)).collect();
        let (name, outcome) = (room.clone(), self.outcome.clone());
        let write = Write { id, since, repairs };
        let done = Box::new(move |written| outcome.wrote(name, &write, written));
        self.outcome.metrics.log_writes.inc();
        self.outcome.metrics.log_repairs.inc_by(repairs);
        if self.writer.write(Request { room: name_on_disk(&room), changes, done }).is_err() {
            self.outcome.failed("behind");
            self.outcome.reply(room, LogReply::Failed(id));
        }
    }

    fn read(&self, room: RoomName, id: u64, query: log::Query) {
        let (name, outcome) = (room.clone(), self.outcome.clone());
        let done = Box::new(move |page| outcome.read(name, id, page));
        self.outcome.metrics.log_reads.inc();
        if self.writer.read(name_on_disk(&room), query, done).is_err() {
            self.outcome.failed("behind");
            self.outcome.reply(room, LogReply::Read(id, None));
        }
    }

    /// These nodes are here: writes it down, if that is to be.
    pub fn note_companions(&mut self, here: BTreeSet<String>) {
        let again = self.unnoted.swap(false, Ordering::Relaxed);
        if again {
            self.companions.not_written();
        }
        let Some(names) = self.companions.note(here, clock::now()) else { return };
        let bytes = serde_json::to_vec(&names).unwrap_or_default();
        let unnoted = self.unnoted.clone();
        let done = move |written: Result<(), log::WriteError>| {
            let Err(why) = written else { return };
            unnoted.store(true, Ordering::Relaxed);
            if !again {
                tracing::warn!(%why, "which nodes are here could not be written to the log on disk: it is tried again");
            }
        };
        let (room, changes) = (COMPANIONS.into(), vec![Change::Head(bytes.into())]);
        if self.writer.write(Request { room, changes, done: Box::new(done) }).is_err() {
            // Too busy.
            self.unnoted.store(true, Ordering::Relaxed);
        }
    }

    /// Brings the metrics up to date, and tells of damage that was found since.
    pub fn measure(&mut self) {
        self.outcome.read_clocks();
        self.outcome.tell_of(std::mem::take(&mut self.damage));
        self.scrub();
        let outcome = self.outcome.clone();
        // Too busy to say: it is asked again in a moment.
        let _ = self.writer.state(Box::new(move |(stats, damage)| {
            let metrics = &outcome.metrics;
            metrics.log_bytes.set(i64::try_from(stats.bytes).unwrap_or(i64::MAX));
            metrics.log_segments.set(i64::try_from(stats.segments).unwrap_or(i64::MAX));
            metrics.log_syncs.set(i64::try_from(stats.syncs).unwrap_or(i64::MAX));
            outcome.found_damage(damage);
        }));
    }

    /// Reads a little more of all that there is.
    fn scrub(&self) {
        let Some(interval) = self.scrub_interval else { return };
        let next = locked(&self.scrub).next(clock::uptime(), interval);
        match next {
            None => {}
            Some(Step::List(after, limit)) => {
                let (scrub, outcome) = (self.scrub.clone(), self.outcome.clone());
                let done = move |rooms: Result<_, log::ReadError>| {
                    if locked(&scrub).listed(rooms.ok()) {
                        outcome.metrics.log_scrubs.inc();
                    }
                };
                if self.writer.rooms(after, limit, Box::new(done)).is_err() {
                    locked(&self.scrub).listed(None);
                }
            }
            Some(Step::Read(pages)) => {
                pages.into_iter().for_each(|(room, query)| self.look(room, query));
            }
        }
    }

    /// Reads a page of a room in search of damage.
    fn look(&self, room: Arc<str>, query: log::Query) {
        let (name, scrub, outcome) = (room.clone(), self.scrub.clone(), self.outcome.clone());
        let done = move |page: Result<Page, log::ReadError>| {
            let damage = locked(&scrub).read(&name, page.ok().as_ref());
            outcome.found_damage(damage.into_iter().collect());
        };
        if self.writer.look(room.clone(), query, Box::new(done)).is_err() {
            locked(&self.scrub).read(&room, None);
        }
    }

    /// Writes what waits, syncs, and ends. Returns what was not taken yet.
    pub fn close(self) -> Vec<(RoomName, LogReply)> {
        if let Err(why) = self.writer.close() {
            tracing::error!(%why, "the log on disk was not closed in good order");
        }
        self.outcome.take_replies()
    }
}

/// Under which name the log has a room.
fn name_on_disk(room: &RoomName) -> Arc<str> {
    match room.starts_with(OWN) {
        true => format!("{OWN}{room}").into(),
        false => room.clone(),
    }
}

/// Which room the log has under this name; none if it is none.
fn name_of(on_disk: &Arc<str>) -> Option<RoomName> {
    match on_disk.strip_prefix(OWN) {
        None => Some(on_disk.clone()),
        Some(room) => room.starts_with(OWN).then(|| room.into()),
    }
}

/// Whatever has ended while it was locked, what it holds is whole.
fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report_damage(damage: &Damage) {
    tracing::error!(
        ?damage,
        "something in the log on disk is damaged: it is not served, and comes from another node if one has it"
    );
}

/// Tells what was found. Returns what is damaged.
fn report(data_dir: &std::path::Path, opened: log::Opened) -> Vec<Damage> {
    let log::Opened { torn, dropped, indexed, removed, strangers, damage, .. } = opened;
    if torn > 0 {
        tracing::info!(torn, dropped, "cut off what was being written when the node ended");
    }
    if indexed > 0 {
        tracing::info!(indexed, "made indexes of the log again");
    }
    for file in strangers {
        tracing::warn!(file, data_dir = %data_dir.display(), "a file that is none of the log's");
    }
    if !removed.is_empty() {
        tracing::debug!(?removed, "removed what nothing needed");
    }
    damage.iter().for_each(report_damage);
    damage
}

impl LogChange {
    /// As it is written at the Unix time `unix`, which is `now`.
    fn written(self, unix: u64, now: Time) -> Change {
        let unix_time = |at: Time| {
            let age = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
            unix.saturating_sub(age)
        };
        match self {
            Self::Head(head) => Change::Head(head.to_bytes()),
            Self::Append(at, entry) => {
                Change::Append(entry.publication.offset, unix_time(at), entry.to_bytes())
            }
            Self::Repair(at, entry) => {
                let offset = entry.publication.offset;
                Change::Repair(offset, unix_time(at), entry.to_bytes())
            }
            Self::Trim(first) => Change::Trim(first),
            Self::Truncate(last) => Change::Truncate(last),
            Self::Remove => Change::Remove,
        }
    }
}

/// A page as rooms know it, where `at` knows when something was published. What a later version has written counts as
/// damaged.
fn read_page(page: Page, at: impl Fn(u64) -> Time) -> LogPage {
    let (mut entries, mut damaged) = (Vec::new(), page.damaged.map(|(_, end)| end - 1));
    for it in page.entries {
        let Some(entry) = Entry::from_bytes(it.offset, &it.bytes) else {
            damaged = Some(it.offset);
            break;
        };
        entries.push((at(it.time), entry));
    }
    LogPage { entries, first: page.first, damaged }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
