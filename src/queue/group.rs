//! A group: which messages of a room its consumers have, which are settled, which are to be given again.
//!
//! ```text
//!            take (a consumer has room)             ack, reject, dead letter, gone
//!   to come ───────────────────────────► leased ─────────────────────────────────► settled
//!      │                                 │    ▲                                       ▲
//!      │ its time has not come,          │    │ its time has come,                    │
//!      │ or its key is busy              ▼    │ and a consumer has room               │
//!      └─────────────────────────────► parked ──────────────────────────────────────-─┘
//!                          nack, ack_wait, a consumer that is gone
//! ```
//!
//! In: who consumes, what they say, the room's messages ([`Source`]), and time. Out: [`Effect`]s. What of it another
//! node needs is in the [`Change`]s: whoever applies them in their order has the same group.

mod giving;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    change::{Change, Given, Leased, Put, Reason, State},
    options::{Mode, QueueOptions},
    settled::Settled,
    tag::Delivery,
};
use crate::runtime::time::Time;

/// How long the leases of a consumer last that is gone: its connection may have moved with its home.
const GRACE: Duration = Duration::from_secs(1);
/// How long a group that comes to another home waits for consumers that have leases.
const SETTLING: Duration = Duration::from_secs(3);

/// The messages of the room.
pub trait Source {
    /// The newest that may be given.
    fn top(&self) -> u64;
    /// One of them.
    fn look(&self, offset: u64) -> Look;
}

/// What there is of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It is here.
    Here {
        /// How long it is still to wait.
        wait: Duration,
        /// It is too late for it.
        over: bool,
        /// What it shares with those that go to the same consumer; 0: nothing.
        key: u64,
    },
    /// It has to be read first.
    Absent,
    /// It is not kept any more.
    Gone,
}

/// What a group wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Keep this, and have it copied.
    Change(Change),
    /// Give a message to a consumer.
    Deliver(u128, Lent),
    /// Answer a pull, which is over.
    Pulled(u64, Vec<Lent>),
    /// Put a message into the room for dead letters, and say so by [`Group::buried`].
    Bury {
        /// The message.
        offset: u64,
        /// How often it was given.
        attempts: u32,
        /// Why.
        reason: Reason,
    },
    /// Read messages from this one on, and offer them again.
    Read(u64),
}

/// A message that is given to someone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// Which delivery it is.
    pub delivery: Delivery,
    /// How often it was given, this time included.
    pub attempts: u32,
}

/// What is said of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Verdict {
    /// They are done.
    Ack,
    /// They are to be given again, after this time or as is configured.
    Nack(Option<Duration>),
    /// Nobody can do them.
    Reject,
    /// They take longer: so much from now on, or as long as is configured.
    Extend(Option<Duration>),
}

/// What has come of messages, since the group is here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Given to someone.
    pub delivered: u64,
    /// Of those, not for the first time.
    pub redelivered: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Given up: too often given, or rejected.
    pub dead: u64,
    /// Their time was over before they were given.
    pub expired: u64,
    /// Not kept any more before they were settled.
    pub lost: u64,
    /// What was said of them came too late.
    pub stale: u64,
}

/// How a group stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Facts {
    /// Everything up to here is settled.
    pub floor: u64,
    /// The newest message of the room.
    pub top: u64,
    /// Messages that consumers have.
    pub leased: u64,
    /// Messages that are to be given later or again.
    pub parked: u64,
    /// Messages that nobody has been given yet.
    pub waiting: u64,
    /// How old the oldest message is that is not settled, if that is known.
    pub oldest: Option<Duration>,
    /// Who consumes.
    pub consumers: Vec<ConsumerFacts>,
}

/// How a consumer stands. One with a prefetch of 0 pulls.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ConsumerFacts {
    /// Who it is.
    pub client: u128,
    /// Whose; empty: an anonymous one.
    pub user: Box<str>,
    /// How many messages it has.
    pub leased: u32,
    /// How many it may have.
    pub prefetch: u32,
}

#[derive(Debug, Clone)]
struct Lease {
    holder: u128,
    term: u64,
    serial: u64,
    attempts: u32,
    until: Time,
    key: u64,
}

#[derive(Debug, Clone, Copy)]
struct Parked {
    attempts: u32,
    at: Time,
    key: u64,
    dead: Option<Reason>,
}

#[derive(Debug, Default)]
struct Consumer {
    prefetch: u32,
    leases: BTreeSet<u64>,
    /// It is among those that take turns.
    in_turn: bool,
}

impl Consumer {
    fn has_room(&self) -> bool {
        self.leases.len() < self.prefetch as usize
    }
}

/// Messages with the same key: one at a time is given.
#[derive(Debug, Default)]
struct Key {
    leased: bool,
    parked: BTreeSet<u64>,
}

#[derive(Debug)]
struct Pull {
    id: u64,
    /// Who pulls; 0: someone without a connection.
    who: u128,
    most: usize,
    until: Time,
    got: Vec<Lent>,
}

/// A group, at its room's home.
#[derive(Debug)]
pub struct Group {
    options: Arc<QueueOptions>,
    /// The run of the room's messages that it is of; none before it has begun.
    origin: Option<u64>,
    epoch: u64,
    settled: Settled,
    next: u64,
    leases: BTreeMap<u64, Lease>,
    ends: BTreeSet<(Time, u64)>,
    parked: BTreeMap<u64, Parked>,
    /// Of the parked ones, those whose time has not come.
    later: BTreeSet<(Time, u64)>,
    /// Of the parked ones, those that can be given.
    ready: BTreeSet<u64>,
    keys: HashMap<u64, Key>,
    consumers: BTreeMap<u128, Consumer>,
    /// Those that may have room, in turn.
    turn: VecDeque<u128>,
    /// Holders of leases that are not here, and until when they are waited for.
    gone: BTreeMap<u128, Time>,
    /// Messages that were passed by, of which nothing has come here: see [`Self::resume`].
    missing: BTreeSet<u64>,
    pulls: VecDeque<Pull>,
    term: u64,
    serial: u64,
    /// Changes since all was written.
    changes: usize,
    /// It has messages to give and could not look at all of them.
    more: bool,
    /// Where to look among those that can be given, if not at their beginning: what is before it waits for consumers
    /// without room.
    look_from: u64,
    counts: Counts,
}

impl Group {
    /// A group of which nothing is known, at a home whose term has this number.
    pub fn new(options: Arc<QueueOptions>, term: u64) -> Self {
        Self {
            options,
            origin: None,
            epoch: 0,
            settled: Settled::default(),
            next: 1,
            leases: BTreeMap::new(),
            ends: BTreeSet::new(),
            parked: BTreeMap::new(),
            later: BTreeSet::new(),
            ready: BTreeSet::new(),
            keys: HashMap::new(),
            consumers: BTreeMap::new(),
            turn: VecDeque::new(),
            gone: BTreeMap::new(),
            missing: BTreeSet::new(),
            pulls: VecDeque::new(),
            term,
            serial: 0,
            changes: 0,
            more: false,
            look_from: 0,
            counts: Counts::default(),
        }
    }

    /// All changes were applied that there are, so many since all was written: those who hold messages and are not here
    /// yet are waited for.
    ///
    /// A look at the messages brings several changes, and the home may have died with some of them copied: others may be
    /// put off by one that is here, and the one before them given by one that is not.
    pub fn resume(&mut self, changes: usize, now: Time) {
        self.changes = changes;
        let open = self.settled.open_before(self.next);
        let is_missing = |it: &u64| !self.leases.contains_key(it) && !self.parked.contains_key(it);
        self.missing = open.filter(is_missing).take(giving::MOST_AT_ONCE).collect();
        let holders: BTreeSet<u128> =
            self.leases.values().map(|it| it.holder).filter(|it| *it != 0).collect();
        self.gone = holders.into_iter().map(|holder| (holder, now + SETTLING)).collect();
    }

    /// The run of the room's messages that it is of, and the last epoch that it has seen; none before it has begun.
    pub fn run(&self) -> Option<(u64, u64)> {
        Some((self.origin?, self.epoch))
    }

    /// What another node needs to know of it: everything up to here is settled.
    pub fn floor(&self) -> Option<u64> {
        self.origin.map(|_| self.settled.floor())
    }

    /// The last message that was taken.
    pub fn taken(&self) -> u64 {
        self.next - 1
    }

    /// What has come of messages since this was asked last.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Whether it may have messages to give that it has not looked at.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// How many messages are leased or parked.
    fn pending(&self) -> usize {
        self.leases.len() + self.parked.len()
    }

    /// How it stands.
    pub fn facts(&self, top: u64) -> Facts {
        let consumer = |(who, it): (&u128, &Consumer)| ConsumerFacts {
            client: *who,
            leased: it.leases.len() as u32,
            prefetch: it.prefetch,
            ..ConsumerFacts::default()
        };
        Facts {
            floor: self.settled.floor(),
            top,
            leased: self.leases.len() as u64,
            parked: self.parked.len() as u64,
            waiting: top.saturating_add(1).saturating_sub(self.next),
            oldest: None,
            consumers: self.consumers.iter().map(consumer).collect(),
        }
    }

    /// Does what a change says that was made at `at`, here or on another node.
    pub fn apply(&mut self, change: &Change, at: Time) {
        match change {
            Change::State(state) => self.restore(state, at),
            Change::Begun { origin, floor } => self.begin(*origin, *floor),
            Change::Continued(epoch) => self.epoch = *epoch,
            Change::Leased { term, serial, holders, given } => {
                for (index, it) in given.iter().enumerate() {
                    let holder = holders.get(it.holder as usize).copied().unwrap_or(0);
                    let delivery =
                        Delivery { offset: it.offset, term: *term, serial: serial + index as u64 };
                    self.lease(delivery, holder, it.key, at);
                }
            }
            Change::Settled(offsets) => offsets.iter().for_each(|it| self.settle_one(*it)),
            Change::Parked(all) => all.iter().for_each(|it| self.park(*it, at)),
            Change::Extended(offsets, millis) => {
                offsets.iter().for_each(|it| self.extend(*it, at + Duration::from_millis(*millis)));
            }
            Change::Removed => self.end_all(at),
        }
    }

    /// Forgets everything but who consumes.
    fn clear(&mut self, origin: Option<u64>) {
        self.origin = origin;
        self.leases.clear();
        self.ends.clear();
        self.parked.clear();
        self.later.clear();
        self.ready.clear();
        self.keys.clear();
        self.gone.clear();
        self.missing.clear();
        for (who, consumer) in &mut self.consumers {
            consumer.leases.clear();
            if !std::mem::replace(&mut consumer.in_turn, true) {
                self.turn.push_back(*who);
            }
        }
    }

    /// Nobody consumes any more, or waits for messages.
    fn end_all(&mut self, at: Time) {
        self.clear(None);
        self.consumers.clear();
        self.turn.clear();
        for pull in &mut self.pulls {
            (pull.most, pull.until) = (0, at);
        }
    }

    fn begin(&mut self, origin: u64, floor: u64) {
        self.clear(Some(origin));
        (self.epoch, self.settled, self.next) = (origin, Settled::up_to(floor), floor + 1);
    }

    fn restore(&mut self, state: &State, at: Time) {
        self.clear(Some(state.origin));
        self.epoch = state.epoch;
        self.settled = Settled::with(state.floor, state.above.iter().copied());
        for it in &state.leased {
            let delivery = Delivery { offset: it.offset, term: it.term, serial: it.serial };
            self.lease(delivery, it.holder, it.key, at);
            let until = at + Duration::from_millis(it.left);
            self.extend(it.offset, until);
            if let Some(lease) = self.leases.get_mut(&it.offset) {
                lease.attempts = it.attempts;
            }
        }
        for (put, attempts) in &state.parked {
            self.park(*put, at);
            if let Some(parked) = self.parked.get_mut(&put.offset) {
                parked.attempts = *attempts;
            }
        }
        self.next = state.next.max(1);
    }

    /// All that there is.
    fn state(&self, now: Time) -> State {
        let millis = |until: Time| until.since(now).as_millis() as u64;
        State {
            origin: self.origin.unwrap_or_default(),
            epoch: self.epoch,
            floor: self.settled.floor(),
            above: self.settled.above().collect(),
            next: self.next,
            leased: (self.leases.iter())
                .map(|(offset, it)| Leased {
                    offset: *offset,
                    holder: it.holder,
                    term: it.term,
                    serial: it.serial,
                    attempts: it.attempts,
                    left: millis(it.until),
                    key: it.key,
                })
                .collect(),
            parked: (self.parked.iter())
                .map(|(offset, it)| {
                    let (key, dead) = (it.key, it.dead);
                    // When a dead letter is sent again is this home's own affair.
                    let wait = if dead.is_some() { 0 } else { millis(it.at) };
                    (Put { offset: *offset, wait, key, dead }, it.attempts)
                })
                .collect(),
        }
    }

    fn lease(&mut self, delivery: Delivery, holder: u128, key: u64, at: Time) {
        let offset = delivery.offset;
        let before = self.unpark(offset).map_or(0, |it| it.attempts);
        self.release(offset);
        self.next = self.next.max(offset + 1);
        if self.settled.contains(offset) {
            return;
        }
        if key != 0 {
            self.keys.entry(key).or_default().leased = true;
            self.refile_key(key, at);
        }
        let until = at + self.options.ack_wait;
        let (Delivery { term, serial, .. }, attempts) = (delivery, before.saturating_add(1));
        self.leases.insert(offset, Lease { holder, term, serial, attempts, until, key });
        self.ends.insert((until, offset));
        match self.consumers.get_mut(&holder) {
            Some(consumer) => drop(consumer.leases.insert(offset)),
            // Someone who pulls and is not known to be here yet, or any more.
            None if holder != 0 => drop(self.gone.entry(holder).or_insert(at + SETTLING)),
            None => {}
        }
    }

    /// Ends a lease. Returns it.
    fn release(&mut self, offset: u64) -> Option<Lease> {
        let lease = self.leases.remove(&offset)?;
        self.ends.remove(&(lease.until, offset));
        if let Some(consumer) = self.consumers.get_mut(&lease.holder) {
            consumer.leases.remove(&offset);
            if consumer.has_room() && !std::mem::replace(&mut consumer.in_turn, true) {
                self.turn.push_back(lease.holder);
            }
        }
        if let Some(key) = self.keys.get_mut(&lease.key) {
            key.leased = false;
        }
        Some(lease)
    }

    fn settle_one(&mut self, offset: u64) {
        let parked = self.unpark(offset).map(|it| (it.key, it.at));
        let leased = self.release(offset).map(|it| (it.key, it.until));
        self.settled.insert(offset);
        self.next = self.next.max(offset + 1);
        if let Some((key, at)) = parked.or(leased) {
            self.refile_key(key, at);
        }
    }

    fn extend(&mut self, offset: u64, until: Time) {
        if let Some(lease) = self.leases.get_mut(&offset) {
            self.ends.remove(&(lease.until, offset));
            lease.until = until;
            self.ends.insert((until, offset));
        }
    }

    fn park(&mut self, put: Put, at: Time) {
        let Put { offset, wait, key, dead } = put;
        let before = self.unpark(offset).map(|it| it.attempts);
        let attempts = self.release(offset).map(|it| it.attempts).or(before).unwrap_or(0);
        self.next = self.next.max(offset + 1);
        if self.settled.contains(offset) {
            return self.refile_key(key, at);
        }
        let due = at + Duration::from_millis(wait);
        self.parked.insert(offset, Parked { attempts, at: due, key, dead });
        match key {
            0 => self.file(offset, at),
            _ => {
                self.keys.entry(key).or_default().parked.insert(offset);
                self.refile_key(key, at);
            }
        }
    }

    fn unpark(&mut self, offset: u64) -> Option<Parked> {
        let parked = self.parked.remove(&offset)?;
        self.later.remove(&(parked.at, offset));
        self.ready.remove(&offset);
        if let Some(key) = self.keys.get_mut(&parked.key) {
            key.parked.remove(&offset);
        }
        Some(parked)
    }

    /// A parked message is among those that can be given, or among those whose time is yet to come.
    fn file(&mut self, offset: u64, now: Time) {
        let Some(parked) = self.parked.get(&offset) else { return };
        match parked.at > now {
            true => drop(self.later.insert((parked.at, offset))),
            false => drop(self.ready.insert(offset)),
        }
    }

    /// Of the messages with a key, only the first can be given, and only while no other is.
    fn refile_key(&mut self, key: u64, now: Time) {
        let Some(it) = self.keys.get(&key) else { return };
        if !it.leased && it.parked.is_empty() {
            self.keys.remove(&key);
            return;
        }
        let first = it.parked.first().copied().filter(|_| !it.leased);
        for offset in it.parked.iter().take(2) {
            self.ready.remove(offset);
            if let Some(parked) = self.parked.get(offset) {
                self.later.remove(&(parked.at, *offset));
            }
        }
        if let Some(first) = first {
            self.file(first, now);
        }
    }

    /// Someone consumes from now on, or with another prefetch.
    pub fn consumer_came(&mut self, who: u128, prefetch: u32) {
        self.gone.remove(&who);
        let leases = match self.consumers.get(&who) {
            Some(consumer) => consumer.leases.clone(),
            None => {
                let own = self.leases.iter().filter(|(_, it)| it.holder == who);
                own.map(|(offset, _)| *offset).collect()
            }
        };
        let prefetch = prefetch.min(self.options.max_prefetch.max(1));
        self.turn.retain(|it| *it != who);
        self.turn.push_back(who);
        self.consumers.insert(who, Consumer { prefetch, leases, in_turn: true });
    }

    /// Someone consumes no more.
    pub fn consumer_left(&mut self, who: u128, now: Time) {
        let Some(consumer) = self.consumers.remove(&who) else { return };
        self.turn.retain(|it| *it != who);
        // What it still waits for would be nobody's.
        for pull in self.pulls.iter_mut().filter(|it| it.who == who) {
            (pull.most, pull.until) = (0, now);
        }
        if !consumer.leases.is_empty() {
            self.gone.insert(who, now + GRACE);
        }
    }

    /// Those who consume.
    pub fn consumers(&self) -> impl Iterator<Item = u128> {
        self.consumers.keys().copied()
    }

    /// Someone wants up to `most` messages under this number, and waits for the first until then. What a consumer pulls
    /// is its own, as what it is given is.
    pub fn pull(&mut self, id: u64, who: Option<u128>, most: usize, until: Time) {
        let most = most.clamp(1, self.options.max_prefetch.max(1) as usize);
        self.pulls.push_back(Pull { id, who: who.unwrap_or(0), most, until, got: Vec::new() });
    }

    /// Someone says something of deliveries: of its own, or of any if it is `None`. Returns whether it holds, for each.
    pub fn judge(
        &mut self,
        verdict: Verdict,
        deliveries: &[Delivery],
        by: Option<u128>,
        now: Time,
        out: &mut Vec<Effect>,
    ) -> Vec<bool> {
        let mut meant = Vec::new();
        let holds = deliveries.iter().map(|it| {
            let lease = self.leases.get(&it.offset);
            let holds = lease.is_some_and(|lease| {
                (lease.term, lease.serial) == (it.term, it.serial)
                    && by.is_none_or(|by| by == lease.holder)
            });
            let holds = holds && !meant.contains(&it.offset);
            if holds {
                meant.push(it.offset);
            }
            holds
        });
        let holds: Vec<bool> = holds.collect();
        self.counts.stale += (deliveries.len() - meant.len()) as u64;
        if meant.is_empty() {
            return holds;
        }
        let change = match verdict {
            Verdict::Ack => {
                self.counts.acked += meant.len() as u64;
                Change::Settled(meant)
            }
            Verdict::Extend(by) => {
                let by = by.unwrap_or(self.options.ack_wait);
                Change::Extended(meant, by.as_millis() as u64)
            }
            Verdict::Nack(wait) => {
                let back = meant.into_iter().map(|it| self.given_back(it, wait, None));
                Change::Parked(back.collect())
            }
            Verdict::Reject => {
                let rejected = Some(Reason::Rejected);
                let back = meant.into_iter().map(|it| self.given_back(it, None, rejected));
                Change::Parked(back.collect())
            }
        };
        self.make(change, now, out);
        holds
    }

    /// Deliveries that never left are given to others at once, however often they were given.
    pub fn take_unsent(&mut self, unsent: &[Delivery], now: Time, out: &mut Vec<Effect>) {
        let put = |it: &Delivery| {
            let key = self.leases.get(&it.offset).map_or(0, |lease| lease.key);
            Put { offset: it.offset, wait: 0, key, dead: None }
        };
        let back: Vec<Put> = unsent.iter().map(put).collect();
        if !back.is_empty() {
            self.make(Change::Parked(back), now, out);
        }
    }

    /// How a message is parked that someone had.
    fn given_back(&self, offset: u64, wait: Option<Duration>, dead: Option<Reason>) -> Put {
        let (attempts, key) =
            self.leases.get(&offset).map_or((0, 0), |lease| (lease.attempts, lease.key));
        let too_often = self.options.is_too_often(attempts).then_some(Reason::MaxDeliveries);
        let dead = dead.or(too_often);
        let wait = wait.unwrap_or_else(|| self.options.wait_after(attempts));
        let wait = if dead.is_some() { 0 } else { wait.as_millis() as u64 };
        Put { offset, wait, key, dead }
    }

    /// A dead letter is in its room.
    pub fn buried(&mut self, offset: u64, now: Time, out: &mut Vec<Effect>) {
        if self.parked.get(&offset).is_some_and(|it| it.dead.is_some()) {
            self.counts.dead += 1;
            self.make(Change::Settled(vec![offset]), now, out);
        }
    }

    /// It begins, or begins again, behind `floor`.
    pub fn start(&mut self, origin: u64, floor: u64, now: Time, out: &mut Vec<Effect>) {
        self.make(Change::Begun { origin, floor }, now, out);
    }

    /// The room's messages go on in this epoch.
    pub fn go_on_in(&mut self, epoch: u64, now: Time, out: &mut Vec<Effect>) {
        self.make(Change::Continued(epoch), now, out);
    }

    /// Everything up to `floor` is settled from now on, and what follows is given, whether it was before or not. The
    /// messages keep their names, in whatever epoch they are now; those of a group that had not begun are of this run.
    pub fn move_to(
        &mut self,
        floor: u64,
        origin: u64,
        epoch: u64,
        now: Time,
        out: &mut Vec<Effect>,
    ) {
        self.begin(self.origin.unwrap_or(origin), floor);
        self.epoch = epoch;
        self.changes = 0;
        out.push(Effect::Change(Change::State(self.state(now))));
    }

    /// There is no such group any more, and nobody consumes.
    pub fn remove(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.make(Change::Removed, now, out);
    }

    fn make(&mut self, change: Change, now: Time, out: &mut Vec<Effect>) {
        self.apply(&change, now);
        self.changes += 1;
        out.push(Effect::Change(change));
    }

    /// When something is due.
    pub fn next_due(&self) -> Option<Time> {
        let later = self.later.first().map(|(at, _)| *at);
        let ends = self.ends.first().map(|(at, _)| *at);
        let gone = self.gone.values().min().copied();
        let pulls = self.pulls.iter().map(|it| it.until).min();
        [later, ends, gone, pulls].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
