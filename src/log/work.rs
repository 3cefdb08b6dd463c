//! What the writing thread of a log does, a piece at a time.
//!
//! What comes in: requests, and the time. What goes out: a call of each request's `done`, plans for who reads, and
//! [`Notice`]s of what no answer tells.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    Files, Keep, Now, Op, Policy, Progress, Refusal, Store, WallClock, WriteError,
    request::{Ask, Change, Planned, Read, Request},
};

/// After a round of retention, the next one begins so much later.
const REST: Duration = Duration::from_secs(5);

/// What happened that no answer tells of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A sync has failed. What was written since the one before it may be gone, whatever is read of it now: the log
    /// is closed, and opened again at once.
    SyncFailed {
        /// What the system said.
        why: String,
    },
    /// It can't be opened again now. The next write tries it again.
    NotOpened {
        /// Why.
        why: String,
        /// The try before has failed in the same way.
        again: bool,
    },
    /// It was opened again.
    OpenedAgain {
        /// Bytes cut off: what was written since the last sync that succeeded.
        cut: u32,
        /// Requests that had been said to be done (where syncs have an interval), and were written again.
        rewritten: usize,
        /// Those that could not be.
        lost: usize,
    },
    /// Nothing is trimmed or given back, until it succeeds: it is tried again after a rest.
    RetentionFailed {
        /// Why.
        why: String,
        /// The try before has failed in the same way.
        again: bool,
    },
}

/// What was said to be done, and is not synced yet.
struct Unsynced {
    /// Where its batch ends: segment, and place.
    end: (u64, u32),
    room: Arc<str>,
    changes: Vec<Change>,
}

/// The writing side of a log.
pub(super) struct Work<F, P> {
    store: Store<F>,
    sync_interval: Option<Duration>,
    /// When it was synced last, if there is an interval; by the uptime.
    synced: Duration,
    /// The originals of what an interval leaves unsynced, in order: a sync that fails may lose what was written. No
    /// more than a segment, since a segment that is full is synced.
    unsynced: VecDeque<Unsynced>,
    /// A sync has failed, and the log could not be opened again since: why.
    closed: Option<String>,
    policy: P,
    /// Why the last step of retention has failed, if it has.
    stuck: Option<String>,
    /// Something failed in this round of retention.
    failed: bool,
    wall_clock: WallClock,
    /// When the last round of retention ended.
    rested: Option<Duration>,
    notify: Box<dyn FnMut(Notice) + Send>,
}

impl<F: Files + Clone, P: Policy> Work<F, P> {
    /// The work on this store.
    pub fn new(
        store: Store<F>,
        sync_interval: Option<Duration>,
        policy: P,
        notify: Box<dyn FnMut(Notice) + Send>,
    ) -> Self {
        Self {
            store,
            sync_interval,
            synced: Duration::ZERO,
            unsynced: VecDeque::new(),
            closed: None,
            policy,
            stuck: None,
            failed: false,
            wall_clock: WallClock::default(),
            rested: None,
            notify,
        }
    }

    /// Does what is asked; requests are taken down, and pages are planned for who reads them.
    pub fn take(&mut self, ask: Ask, requests: &mut Vec<Request>) -> Option<Planned> {
        match ask {
            Ask::Write(request) => requests.push(request),
            Ask::Read(read) => return self.plan(read),
            Ask::Rooms(after, limit, done) => done(self.store.rooms(after.as_deref(), limit)),
            Ask::Head(room, done) => done(self.store.head(&room)),
            Ask::State(done) => done((self.store.stats(), self.store.take_damage())),
            Ask::Close(_) => {}
        }
        None
    }

    fn plan(&mut self, read: Read) -> Option<Planned> {
        let plan = match read.apart {
            true => self.store.plan_apart(&read.room, &read.query),
            false => self.store.plan(&read.room, &read.query),
        };
        match plan {
            Ok(plan) => Some(Planned { plan, read }),
            Err(error) => {
                (read.done)(Err(error));
                None
            }
        }
    }

    /// Writes all that wait in one batch. What is refused is taken out of it, and the rest is tried again.
    pub fn write(&mut self, requests: &mut Vec<Request>) {
        while !requests.is_empty() {
            let ops: Vec<Op<'_>> =
                requests.iter().flat_map(|it| ops(&it.room, &it.changes)).collect();
            let written = self.store.commit(&ops);
            let written = match self.sync_interval {
                None => written.and_then(|()| self.store.sync()),
                Some(_) => written,
            };
            match written {
                Ok(()) => self.wrote(requests),
                Err(WriteError::Closed { why }) => {
                    self.open_again(&why);
                    let closed = Err(WriteError::Closed { why });
                    requests.drain(..).for_each(|it| (it.done)(closed.clone()));
                }
                Err(WriteError::Refused { op, refusal: Refusal::TooLarge { .. }, .. })
                    if owner(requests, op) > 0 =>
                {
                    // Only together.
                    let rest = requests.split_off(owner(requests, op));
                    self.write(requests);
                    *requests = rest;
                }
                Err(WriteError::Refused { op, room, refusal }) => {
                    let place = owner(requests, op);
                    let request = requests.remove(place);
                    (request.done)(Err(WriteError::Refused { op, room, refusal }));
                }
                failed => requests.drain(..).for_each(|it| (it.done)(failed.clone())),
            }
        }
    }

    /// These were written, and are synced if there is no interval.
    fn wrote(&mut self, requests: &mut Vec<Request>) {
        let end = self.store.end();
        for Request { room, changes, done } in requests.drain(..) {
            if self.sync_interval.is_some() {
                self.unsynced.push_back(Unsynced { end, room, changes });
            }
            done(Ok(()));
        }
        self.forget_synced();
    }

    /// A segment that was filled was synced on the way.
    fn forget_synced(&mut self) {
        if self.closed.is_some() {
            // It ends somewhere else, and has nothing of them.
            return;
        }
        let synced = self.store.synced();
        while self.unsynced.front().is_some_and(|it| it.end <= synced) {
            self.unsynced.pop_front();
        }
    }

    /// If there is an interval, and it is over.
    pub fn sync_now_and_then(&mut self, now: Now) {
        let Some(interval) = self.sync_interval else { return };
        if now.uptime.saturating_sub(self.synced) < interval {
            return;
        }
        self.synced = now.uptime;
        match self.store.sync() {
            Ok(()) => self.unsynced.clear(),
            Err(why) => self.open_again(&why.to_string()),
        }
    }

    /// After a failed sync nobody knows what is on the disk of what was written since the one before. It is cut off,
    /// and whoever waits for an answer writes it again; what was answered already is written again from here. If
    /// this fails, the next write tries it again.
    fn open_again(&mut self, why: &str) {
        if self.closed.is_none() {
            (self.notify)(Notice::SyncFailed { why: why.to_owned() });
            self.forget_synced();
        }
        let opened = self.store.open_again().map_err(|why| why.to_string());
        let written = opened.and_then(|(store, cut)| {
            self.store = store;
            let (rewritten, lost) = self.write_again().map_err(|why| why.to_string())?;
            Ok(Notice::OpenedAgain { cut, rewritten, lost })
        });
        let notice = match written {
            Ok(opened) => {
                self.closed = None;
                opened
            }
            Err(why) => {
                let again = self.closed.replace(why.clone()).is_some_and(|it| it == why);
                Notice::NotOpened { why, again }
            }
        };
        (self.notify)(notice);
    }

    /// Writes again what was answered and not synced. Says how many requests that are, and how many can't be.
    fn write_again(&mut self) -> Result<(usize, usize), WriteError> {
        let mut lost = 0;
        for it in &self.unsynced {
            let ops: Vec<_> = ops(&it.room, &it.changes).collect();
            match self.store.commit(&ops) {
                Ok(()) => {}
                // Without it, what follows it could not be written. All of it waits for the next try.
                Err(why) if why.may_pass() => return Err(self.store.close_for(why.to_string())),
                Err(_) => lost += 1,
            }
        }
        self.store.sync()?;
        let all = std::mem::take(&mut self.unsynced).len();
        Ok((all - lost, lost))
    }

    /// Some work of retention, unless it rests.
    pub fn retain(&mut self, now: Now) {
        let rested = |it: Duration| now.uptime.saturating_sub(it) < REST;
        if self.rested.is_some_and(rested) {
            return;
        }
        self.wall_clock.read(now);
        let policy = ByAge { policy: &self.policy, wall_clock: &self.wall_clock, now };
        let stepped = self.store.step(millis(now.unix), &policy);
        self.forget_synced();
        match stepped {
            Ok(Progress::More) => return,
            Ok(Progress::Done) => {
                // Of a round in which all went well.
                if !std::mem::take(&mut self.failed) {
                    self.stuck = None;
                }
            }
            Err(WriteError::Closed { why }) => self.open_again(&why),
            Err(why) => {
                self.failed = true;
                let why = why.to_string();
                let again = self.stuck.replace(why.clone()).is_some_and(|it| it == why);
                (self.notify)(Notice::RetentionFailed { why, again });
            }
        }
        self.rested = Some(now.uptime);
    }

    /// Syncs, and ends.
    pub fn close(mut self) -> Result<(), WriteError> {
        if let Err(WriteError::Closed { why }) = self.store.sync() {
            self.open_again(&why);
        }
        self.store.close()
    }
}

/// Keeps what is not older than its age by the uptime, though the clock on the wall has jumped.
struct ByAge<'a, P> {
    policy: &'a P,
    wall_clock: &'a WallClock,
    now: Now,
}

impl<P: Policy> Policy for ByAge<'_, P> {
    fn keep(&self, room: &str) -> Keep {
        let keep = self.policy.keep(room);
        let since = |age| self.wall_clock.since(Duration::from_millis(age), self.now);
        let age = keep.age.map(|age| millis(self.now.unix).saturating_sub(since(age)));
        Keep { age, ..keep }
    }

    fn max_bytes(&self) -> Option<u64> {
        self.policy.max_bytes()
    }
}

fn millis(it: Duration) -> u64 {
    u64::try_from(it.as_millis()).unwrap_or(u64::MAX)
}

fn ops<'a>(room: &'a str, changes: &'a [Change]) -> impl Iterator<Item = Op<'a>> {
    changes.iter().map(move |it| it.op(room))
}

/// The request that an op of the batch belongs to.
fn owner(requests: &[Request], op: usize) -> usize {
    let mut end = 0;
    let ends = requests.iter().map(|it| {
        end += it.changes.len();
        end
    });
    ends.take_while(|end| *end <= op).count().min(requests.len().saturating_sub(1))
}
