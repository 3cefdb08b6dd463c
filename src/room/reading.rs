//! What a home reads from its log for someone: history and recoveries that reach further back than its memory.
//!
//! In: queries that memory can't answer, and pages that the log reads. Out: answers, and subscribers that are let in.
//! While something is read the room goes on; what is said meanwhile is added when the answer is given, so that the
//! answer ends where the live stream goes on.

use std::sync::Arc;

use super::{
    groups::GroupRead,
    home::Home,
    logged::LogPage,
    node::{Node, Out},
    queries::{MAX_PUBLICATIONS, fitting},
    replication::Whom,
    requests::{Asker, Pending},
    room::{Role, Room},
    types::{
        Answer, Failure, HistoryFilter, Publication, Query, Recovery, RoomName, Since, Subscribe,
        Subscribed,
    },
};
use crate::{log, runtime::time::Time};

/// The most bytes of messages that are read for a group at a time, unless one is larger.
const GROUP_BYTES: usize = 1 << 20;

/// Something that is read for someone.
#[derive(Debug)]
pub(super) struct Reading {
    /// The number of the request to the log.
    id: u64,
    /// When it is given up.
    until: Time,
    who: Reader,
    what: Wanted,
    /// What has come of it.
    read: Vec<Arc<Publication>>,
    /// Before all that is read there was this one, which nobody can read.
    passed: Option<u64>,
}

/// For whom it is read.
#[derive(Debug)]
pub(super) enum Reader {
    /// Someone who waits for the answer to a request.
    Asked(Whom),
    /// A subscriber of this node, which recovers.
    Subscriber(Box<Subscribe>),
    /// A group that shares the room's messages: its room, and from which offset on.
    Group(RoomName, u64),
}

/// What is read.
#[derive(Debug, Clone)]
pub(super) enum Wanted {
    /// A page of history.
    History(HistoryFilter),
    /// All that was missed.
    Missed(Since),
    /// Some messages, in one page.
    Some,
}

impl Wanted {
    /// What a query asks for that a log may have.
    pub(super) fn of(query: &Query) -> Option<Self> {
        match query {
            Query::History(filter) => Some(Self::History(filter.clone())),
            Query::Recover(since) => Some(Self::Missed(since.clone())),
            _ => None,
        }
    }
}

impl Home {
    /// Whether something is being read for someone.
    pub(super) fn is_reading(&self) -> bool {
        self.readings.is_some()
    }
}

impl Room {
    /// Has the log read what is wanted, if memory does not have all of it and the log has more. Gives back for whom, if
    /// not.
    pub(super) fn read_if_needed(
        &mut self,
        wanted: &Wanted,
        who: Reader,
        until: Time,
        node: &mut Node,
    ) -> Option<Reader> {
        let read = self.in_memory(wanted);
        let Some(query) = self.log_query(wanted, &read, None, node) else { return Some(who) };
        let id = node.next_id();
        self.read_log(id, query, node);
        let Role::Home(home) = &mut self.role else { return Some(who) };
        let what = wanted.clone();
        let passed = None;
        let reading = Reading { id, until, who, what, read, passed };
        home.readings.get_or_insert_default().push(reading);
        None
    }

    /// Has the log read so many messages for a group, from this offset on.
    pub(super) fn read_for_group(
        &mut self,
        group: RoomName,
        offset: u64,
        count: usize,
        node: &mut Node,
    ) {
        let (id, until) = (node.next_id(), node.now + node.settings.publish_timeout);
        if !self.is_home() {
            return give_group(group, offset, None, node);
        }
        let since = Some(offset.saturating_sub(1));
        let query = log::Query { since, reverse: false, count, bytes: GROUP_BYTES };
        self.read_log(id, query, node);
        if let Role::Home(home) = &mut self.role {
            let (who, what, read) = (Reader::Group(group, offset), Wanted::Some, Vec::new());
            let reading = Reading { id, until, who, what, read, passed: None };
            home.readings.get_or_insert_default().push(reading);
        }
    }

    /// What memory has of a page that begins with the newest, as it is now: it goes on from there while the log reads what
    /// is before.
    fn in_memory(&self, wanted: &Wanted) -> Vec<Arc<Publication>> {
        match (wanted, self.stream.as_deref()) {
            (Wanted::History(filter), Some(stream)) if filter.reverse => {
                stream.page(filter.since.as_ref().map(|it| it.offset), true, filter.limit)
            }
            _ => Vec::new(),
        }
    }

    /// What the log is to read next, after this was read, or nothing but one that was `passed`; none: memory has the rest, or
    /// nobody has.
    fn log_query(
        &self,
        wanted: &Wanted,
        read: &[Arc<Publication>],
        passed: Option<u64>,
        node: &Node,
    ) -> Option<log::Query> {
        let stream = self.stream.as_deref()?;
        let logged = stream.logged.as_deref()?;
        let (ring, visible) = (stream.history.first(), stream.visible().offset);
        let first = logged.first(stream.history.top(), &self.options);
        let bytes = read.iter().map(|it| it.weight()).sum::<usize>();
        let bytes = MAX_PUBLICATIONS.checked_sub(bytes).filter(|left| *left > 0)?;
        let last = read.last().map(|it| it.offset).or(passed);
        let forward = |after: u64, most: u64| {
            let (low, high) = (first.max(after.saturating_add(1)), ring.min(visible + 1));
            let count = high.saturating_sub(low).min(most);
            (count > 0).then_some(log::Query {
                since: Some(low - 1),
                reverse: false,
                count: count as usize,
                bytes,
            })
        };
        match wanted {
            Wanted::Some => None,
            Wanted::Missed(since) => {
                let at = stream.resolve(since)?.offset;
                let missed = visible.saturating_sub(at);
                let possible = at + 1 >= first && missed <= node.settings.recovery_limit as u64;
                if self.options.recovery_cache || !possible {
                    return None;
                }
                forward(last.unwrap_or(at), missed)
            }
            Wanted::History(filter)
                if self.options.map.is_some() || self.check_history(filter).is_err() =>
            {
                None
            }
            Wanted::History(filter) => {
                let left = filter.limit.saturating_sub(read.len()) as u64;
                let since = filter.since.as_ref().map(|it| it.offset);
                if !filter.reverse {
                    return forward(last.or(since).unwrap_or(0), left);
                }
                let high = last.or(since).unwrap_or(u64::MAX).min(visible + 1);
                let count = high.saturating_sub(first).min(left);
                (count > 0).then_some(log::Query {
                    since: Some(high),
                    reverse: true,
                    count: count as usize,
                    bytes,
                })
            }
        }
    }

    /// The log has read something that someone waits for, or can't.
    pub(super) fn read_for_someone(&mut self, id: u64, page: Option<LogPage>, node: &mut Node) {
        let Role::Home(home) = &mut self.role else { return };
        let Some(readings) = &mut home.readings else { return };
        let Some(index) = readings.iter().position(|it| it.id == id) else { return };
        let mut reading = readings.swap_remove(index);
        home.readings.take_if(|it| it.is_empty());
        if let Reader::Group(group, from) = reading.who {
            if let Some(page) = &page {
                self.note_first(page.first);
            }
            return give_group(group, from, page, node);
        }
        let Some(page) = page else {
            return self.give_read(reading.who, Answer::Failed(Failure::Unavailable), node);
        };
        self.note_first(page.first);
        let (before, ttl) = (reading.read.len(), self.options.history_ttl);
        let kept = page.entries.into_iter().filter(|(at, _)| node.now.since(*at) < ttl);
        reading.read.extend(kept.map(|(_, entry)| entry.publication));
        let is_history = matches!(reading.what, Wanted::History(_));
        // A page that would be empty is rather one without what nobody can read.
        let passes = page.damaged.filter(|_| is_history && reading.read.is_empty());
        reading.passed = passes.or(reading.passed);
        let more = reading.read.len() > before && page.damaged.is_none() || passes.is_some();
        let query = self.log_query(&reading.what, &reading.read, reading.passed, node);
        if let Some(query) = query.filter(|_| more) {
            reading.id = node.next_id();
            self.read_log(reading.id, query, node);
            if let Role::Home(home) = &mut self.role {
                home.readings.get_or_insert_default().push(reading);
            }
            return;
        }
        let ends = page.damaged.is_some() && passes.is_none();
        let answer = self.answer_with(&reading, ends);
        self.give_read(reading.who, answer, node);
    }

    /// The answer, of what was read and what memory has. `ends` if what follows can't be read: then so does the answer.
    fn answer_with(&self, Reading { what, read, passed, .. }: &Reading, ends: bool) -> Answer {
        let Some(stream) = &self.stream else { return Answer::Failed(Failure::NoHistory) };
        let (position, last) = (stream.visible(), read.last().map(|it| it.offset).or(*passed));
        match what {
            Wanted::Some => Answer::Failed(Failure::Unavailable),
            Wanted::Missed(since) => {
                let at = stream.resolve(since).map(|it| it.offset);
                let follow = |at: u64| (at + 1..).zip(read).all(|(next, it)| it.offset == next);
                let whole = at.is_some_and(follow);
                let rest = last.or(at).and_then(|offset| stream.history.after(offset));
                let (true, Some(rest)) = (whole, rest) else {
                    return Answer::Failed(Failure::UnrecoverablePosition);
                };
                let rest = rest.filter(|it| it.offset <= position.offset).cloned();
                Answer::History(read.iter().cloned().chain(rest).collect(), position)
            }
            Wanted::History(filter) => {
                let since = filter.since.as_ref().map(|it| it.offset);
                let (mut page, mut position) = (read.clone(), position);
                if !filter.reverse {
                    // What was too large for one answer is for the next.
                    let joined = last.is_none_or(|last| last + 1 >= stream.history.first());
                    let left = if joined && !ends { filter.limit - page.len() } else { 0 };
                    page.extend(stream.page(last.or(since), false, left));
                } else if since.is_none() {
                    // What was said since is not on it.
                    position.offset = page.first().map_or(position.offset, |it| it.offset);
                }
                page.truncate(filter.limit.min(fitting(&page)));
                Answer::History(page, position)
            }
        }
    }

    fn give_read(&mut self, who: Reader, answer: Answer, node: &mut Node) {
        match who {
            Reader::Asked(Whom::Own(Pending { reply: Asker::To(to), .. })) => {
                node.out.push(Out::Answer { to, answer });
            }
            Reader::Asked(Whom::Own(_) | Whom::Group) => {}
            Reader::Asked(Whom::Peer(peer, id, _)) => {
                node.answer((peer, id), &self.name, answer, false);
            }
            Reader::Subscriber(subscribe) => self.admit_reader(*subscribe, answer, node),
            Reader::Group(group, from) => give_group(group, from, None, node),
        }
    }

    fn admit_reader(&mut self, subscribe: Subscribe, answer: Answer, node: &mut Node) {
        if !self.local.contains(subscribe.socket) {
            return;
        }
        let recovery = match answer {
            Answer::History(missed, _) => Recovery::Recovered(missed),
            Answer::Failed(Failure::Unavailable) => {
                return self.refuse(subscribe, Failure::Unavailable, node);
            }
            _ => Recovery::Failed,
        };
        let position = self.stream.as_deref().map(|it| it.visible());
        self.admit(subscribe, Subscribed { position, recovery }, node);
    }

    /// What was waited for too long is not to be had now.
    pub(super) fn give_up_reading(&mut self, node: &mut Node) {
        let Role::Home(home) = &mut self.role else { return };
        let Some(readings) = &mut home.readings else { return };
        let overdue: Vec<Reading> = readings.extract_if(.., |it| it.until <= node.now).collect();
        home.readings.take_if(|it| it.is_empty());
        for reading in overdue {
            self.give_read(reading.who, Answer::Failed(Failure::Unavailable), node);
        }
    }

    /// The log has nothing before this offset.
    pub(super) fn note_first(&mut self, first: u64) {
        if let Some(logged) = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut()) {
            logged.begins_at(first);
        }
    }

    /// Stops being home: those for whom something is read ask the next one.
    pub(super) fn stop_reading(&mut self, readings: Vec<Reading>) -> Vec<Whom> {
        let mut asked = Vec::new();
        for Reading { until, who, .. } in readings {
            match who {
                Reader::Asked(whom) => asked.push(whom),
                Reader::Subscriber(subscribe) => self.waiting.push_back((*subscribe, until)),
                // It reads anew where it is home next.
                Reader::Group(..) => {}
            }
        }
        asked
    }
}

/// What was read for a group, or could not be.
fn give_group(group: RoomName, from: u64, page: Option<LogPage>, node: &mut Node) {
    let unreadable = page.as_ref().and_then(|it| it.damaged);
    let messages = page
        .map(|page| page.entries.into_iter().map(|(at, entry)| (at, entry.publication)).collect());
    node.groups.has_read.push(GroupRead { group, from, messages, unreadable });
}

impl Reading {
    /// When it is given up.
    pub(super) fn until(&self) -> Time {
        self.until
    }
}

/// For whom a request is answered.
impl From<Whom> for Reader {
    fn from(whom: Whom) -> Self {
        Self::Asked(whom)
    }
}

#[cfg(test)]
#[path = "reading_tests.rs"]
mod tests;
