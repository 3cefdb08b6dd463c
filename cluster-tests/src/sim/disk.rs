//! A node's disk: what its log has of each room, and what it loses when the node crashes.
//!
//! It takes what rooms ask in order, and answers late. A crash loses what is not answered: all of it, or what follows
//! some place in it. It may refuse writes for a while, as one that is full. One that syncs late answers before what it was
//! asked is synced, and loses some of that too when the power fails.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use fastrand::Rng;
use roomcast::{
    log::Query,
    room::{
        companions::Companions,
        logged::{LogChange, LogPage, LogReply, LogRequest, LoggedRoom},
        persisted::Head,
        stream::Entry,
        types::RoomName,
    },
    runtime::time::Time,
};

/// The most publications of a page, so that there is more than one.
const PAGE: usize = 7;

/// How many writes one that syncs late syncs together.
const SYNCED_TOGETHER: usize = 16;

/// What the log has of a room.
#[derive(Debug, Clone, Default)]
struct Kept {
    head: Option<Head>,
    first: u64,
    next: u64,
    /// As bytes, in the format of the log.
    entries: BTreeMap<u64, (Time, Vec<u8>)>,
    /// Of those, what can't be read any more.
    damaged: BTreeSet<u64>,
}

/// The disk of a node. It outlives its runs.
#[derive(Debug, Default)]
pub struct Disk {
    rooms: BTreeMap<RoomName, Kept>,
    waiting: VecDeque<(RoomName, LogRequest)>,
    /// It takes no writes.
    pub full: bool,
    /// It answers before it syncs.
    pub late: bool,
    /// For such a one: what is synced, and what was written since.
    synced: BTreeMap<RoomName, Kept>,
    unsynced: Vec<(RoomName, Vec<LogChange>)>,
    /// What it had when a run of its node started.
    past: BTreeMap<RoomName, Kept>,
    names: BTreeSet<String>,
    companions: Companions,
}

impl Disk {
    /// A run of its node asks for something.
    pub fn ask(&mut self, room: RoomName, request: LogRequest) {
        self.waiting.push_back((room, request));
    }

    /// Does what was asked first.
    pub fn answer(&mut self) -> Option<(RoomName, LogReply)> {
        let (room, request) = self.waiting.pop_front()?;
        let reply = match request {
            LogRequest::Write(id, changes) => match self.write(&room, &changes) {
                true => {
                    self.sync_later(&room, changes);
                    LogReply::Written(id)
                }
                false => LogReply::Failed(id),
            },
            LogRequest::Read(id, query) => LogReply::Read(id, Some(self.read(&room, &query))),
        };
        Some((room, reply))
    }

    /// The node ends in good order: what waits is written.
    pub fn close(&mut self) {
        while self.answer().is_some() {}
    }

    /// The node crashes: of what waits, only what comes before some place may have been written.
    pub fn crash(&mut self, rng: &mut Rng) {
        let written = rng.usize(..=self.waiting.len());
        for (room, request) in std::mem::take(&mut self.waiting).into_iter().take(written) {
            if let LogRequest::Write(_, changes) = request {
                self.write(&room, &changes);
            }
        }
    }

    fn sync_later(&mut self, room: &RoomName, changes: Vec<LogChange>) {
        if !self.late {
            return;
        }
        self.unsynced.push((room.clone(), changes));
        if self.unsynced.len() == SYNCED_TOGETHER {
            self.synced = self.rooms.clone();
            self.unsynced.clear();
        }
    }

    /// The power fails: what was not synced is lost, all of it or what follows some place in it. Returns how many writes of
    /// one that syncs late are.
    pub fn lose_power(&mut self, rng: &mut Rng) -> usize {
        if !self.late {
            return 0;
        }
        let unsynced = std::mem::take(&mut self.unsynced);
        let kept = rng.usize(..=unsynced.len());
        self.waiting.clear();
        self.rooms = std::mem::take(&mut self.synced);
        let lost = unsynced.len() - kept;
        for (room, changes) in unsynced.into_iter().take(kept) {
            self.write(&room, &changes);
        }
        self.synced = self.rooms.clone();
        lost
    }

    /// The disk is lost, and the node has another, which is empty.
    pub fn replace(&mut self) {
        *self = Self { late: self.late, ..Self::default() };
    }

    /// It has what it had when the last run of its node started, as one that was restored from a copy.
    pub fn go_back(&mut self) {
        self.rooms = std::mem::take(&mut self.past);
        self.synced = self.rooms.clone();
        self.unsynced.clear();
    }

    /// Some of what another of these disks has as well can't be read any more. Returns how much.
    pub fn rot(&mut self, others: &[&Self], rng: &mut Rng) -> usize {
        let mut many = 0;
        for (name, kept) in &mut self.rooms {
            let has = |offset: &u64, bytes: &Vec<u8>| {
                let copies = others.iter().filter_map(|it| it.rooms.get(name));
                let mut whole = copies.filter(|it| !it.damaged.contains(offset));
                whole.any(|it| it.entries.get(offset).is_some_and(|(_, it)| it == bytes))
            };
            for (offset, (_, bytes)) in &kept.entries {
                if rng.u8(..4) == 0 && has(offset, bytes) {
                    kept.damaged.insert(*offset);
                    many += 1;
                }
            }
        }
        many
    }

    /// What a scrub finds: what can't be read any more.
    pub fn damaged(&self) -> Vec<(RoomName, u64)> {
        let of = |(name, kept): (&RoomName, &Kept)| {
            kept.damaged.iter().map(|it| (name.clone(), *it)).collect::<Vec<_>>()
        };
        self.rooms.iter().flat_map(of).collect()
    }

    /// What a run of its node finds when it starts.
    pub fn found(&mut self) -> Vec<LoggedRoom> {
        self.companions = Companions::new(self.names.clone());
        self.past = self.rooms.clone();
        let found = |(name, it): (&RoomName, &Kept)| {
            let (first, next) = (it.first, it.next);
            Some(LoggedRoom { name: name.clone(), head: it.head.clone()?, first, next })
        };
        self.rooms.iter().filter_map(found).collect()
    }

    /// The nodes that its node was with last.
    pub fn companions(&self) -> &BTreeSet<String> {
        &self.names
    }

    /// These are here.
    pub fn note_companions(&mut self, here: BTreeSet<String>, now: Time) {
        if let Some(names) = self.companions.note(here, now) {
            self.names = names;
        }
    }

    fn write(&mut self, room: &RoomName, changes: &[LogChange]) -> bool {
        if self.full {
            return false;
        }
        let mut kept = self.rooms.get(room).cloned();
        if !changes.iter().all(|change| apply(&mut kept, change)) {
            return false;
        }
        match kept {
            Some(kept) => drop(self.rooms.insert(room.clone(), kept)),
            None => drop(self.rooms.remove(room)),
        }
        true
    }

    fn read(&self, room: &RoomName, query: &Query) -> LogPage {
        let Some(kept) = self.rooms.get(room) else { return LogPage::default() };
        let all = kept
            .entries
            .iter()
            .filter_map(|(offset, (at, bytes))| Some((*at, Entry::from_bytes(*offset, bytes)?)));
        let most = query.count.min(PAGE);
        let mut entries: Vec<(Time, Entry)> = match (query.since, query.reverse) {
            (since, false) => {
                let since = since.unwrap_or(0);
                all.filter(|(_, it)| it.publication.offset > since).take(most).collect()
            }
            (since, true) => {
                let since = since.unwrap_or(u64::MAX);
                let before: Vec<_> = all.filter(|(_, it)| it.publication.offset < since).collect();
                before.into_iter().rev().take(most).collect()
            }
        };
        let is_damaged = |(_, it): &(Time, Entry)| kept.damaged.contains(&it.publication.offset);
        let end = entries.iter().position(is_damaged);
        let damaged = end.map(|end| entries[end].1.publication.offset);
        entries.truncate(end.unwrap_or(entries.len()));
        LogPage { entries, first: kept.first, damaged }
    }
}

/// The same as the log on a disk does. Returns whether it can be done.
fn apply(kept: &mut Option<Kept>, change: &LogChange) -> bool {
    if matches!(change, LogChange::Remove) {
        *kept = None;
        return true;
    }
    let new = || Kept { first: 1, next: 1, ..Kept::default() };
    let fresh = kept.as_ref().is_none_or(|it| it.entries.is_empty() && it.next <= 1);
    let it = kept.get_or_insert_with(new);
    match change {
        LogChange::Head(head) => it.head = Some(head.clone()),
        LogChange::Append(at, entry) => {
            let offset = entry.publication.offset;
            if fresh {
                (it.first, it.next) = (offset, offset);
            }
            if offset != it.next {
                return false;
            }
            it.next += 1;
            it.damaged.remove(&offset);
            it.entries.insert(offset, (*at, entry.to_bytes().to_vec()));
        }
        LogChange::Repair(at, entry) => {
            let offset = entry.publication.offset;
            if (it.first..it.next).contains(&offset) {
                it.entries.insert(offset, (*at, entry.to_bytes().to_vec()));
                it.damaged.remove(&offset);
            }
        }
        LogChange::Trim(first) => {
            it.first = it.first.max(*first);
            it.next = it.next.max(*first);
            it.entries.retain(|offset, _| offset >= first);
        }
        LogChange::Truncate(last) => {
            it.next = it.next.min(last + 1).max(1);
            it.entries.retain(|offset, _| offset <= last);
        }
        LogChange::Remove => {}
    }
    true
}
