//! A group of consumers, at the home of the room that it lives in.
//!
//! A group has a room of its own beside the one whose messages it shares: in the same slot, so at the same home. Its
//! consumers are the members of that room, and its [`Change`]s are what is published there. So whatever keeps rooms, copies
//! them, hands them over, writes them to disk and knows who is there does the same for groups.
//!
//! ```text
//! members' nodes                     the home of both rooms
//!  subscribe, Join, Leave ─────────► presence ──► consumers ┐
//!  ack, nack, pull (requests) ─────────────────────────────►│ queue::Group ──► changes: the room's stream
//!                     the other room: its messages ────────►│
//!  a consumer's socket ◄───────────── Push ◄────────────────┘
//! ```
//!
//! In: requests, who comes and goes, the messages of the other room, time. Out: changes, pushes and answers.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    group_messages::{Messages, PlaceSearch, Read},
    groups::GroupRead,
    node::Node,
    queries::MAX_PUBLICATIONS,
    replication::Whom,
    room::Room,
    types::{
        Answer, ClientId, Epoch, GroupAnswer, GroupRequest, NewPublication, Position, Publication,
        RoomName,
    },
};
use crate::{
    queue::{
        change::{Change, Reason},
        group::{Effect, Facts, Group, Lent},
        name,
        options::Start,
        tag,
    },
    runtime::time::Time,
};

/// The most messages that are read from the log at a time.
const GROUP_PAGE: usize = 256;
/// When what could not be read from the log is read again.
const READ_AGAIN: Duration = Duration::from_millis(500);

/// A group, at the home of its room.
#[derive(Debug)]
pub struct GroupHome {
    pub(super) group: Group,
    /// The room whose messages it shares.
    source: RoomName,
    /// Those who wait for messages, and how many bytes each may get, by the numbers of their pulls.
    pulls: BTreeMap<u64, (Whom, usize)>,
    /// Where its room says that it has begun, as long as that is not copied. Until then it gives nothing: the next home
    /// would not know of it, begin elsewhere, and give messages under other names.
    pub(super) begun: Option<u64>,
    /// What is asked that needs the other room, until when, and who asks.
    pub(super) asked: VecDeque<(GroupRequest, Time, Whom)>,
    /// Messages that memory did not have, as the log has read them.
    read: Read,
    /// Where it is to begin or to go on, while that is looked for in the log. Until then it gives nothing.
    search: Option<PlaceSearch>,
    /// The log reads something: for that search, or messages to give.
    reading: Option<Reading>,
    /// The log could not read: when to ask it again.
    read_at: Option<Time>,
    /// A message that can't be read any more.
    unreadable: Option<u64>,
    /// Those who consumed when the group was removed, and have not gone yet: it does not begin again for them.
    pub(super) dismissed: BTreeSet<u128>,
}

/// What the log reads for a group, from which offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Messages to give.
    Messages(u64),
    /// When one was published.
    Time(u64),
}

impl Reading {
    fn offset(self) -> u64 {
        match self {
            Self::Messages(offset) | Self::Time(offset) => offset,
        }
    }
}

/// What comes of a look at a group.
pub(super) enum GroupOut {
    Change(Change),
    Push(ClientId, Arc<Publication>),
    Answer(Whom, Answer),
    Bury(u64, NewPublication),
    /// Have the log read from this offset on, so many.
    Read(u64, usize),
}

impl GroupHome {
    /// One that is to share the messages of `source`.
    pub(super) fn new(group: Group, source: RoomName) -> Self {
        Self {
            group,
            source,
            pulls: BTreeMap::new(),
            begun: None,
            asked: VecDeque::new(),
            read: BTreeMap::new(),
            search: None,
            reading: None,
            read_at: None,
            unreadable: None,
            dismissed: BTreeSet::new(),
        }
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        let asked = self.asked.front().map(|(_, until, _)| *until);
        [self.group.next_due(), asked, self.read_at].into_iter().flatten().min()
    }

    /// The room whose messages it shares.
    pub(super) fn source(&self) -> &RoomName {
        &self.source
    }

    /// Everything up to here is settled; none before it has begun.
    pub(super) fn floor(&self) -> Option<u64> {
        self.group.floor()
    }

    /// Whether it is to be looked at again at once.
    pub(super) fn has_more(&self) -> bool {
        self.group.has_more()
    }

    /// A change is kept at this offset of the group's room.
    pub(super) fn has_kept(&mut self, change: &Change, offset: u64) {
        // The epoch in which it begins belongs to its beginning.
        let continues = matches!(change, Change::Continued(_)) && self.begun.is_some();
        if continues || matches!(change, Change::Begun { .. }) {
            self.begun = Some(offset);
        }
    }

    /// Those who wait, who have to ask the next home.
    pub(super) fn into_asked(self) -> impl Iterator<Item = Whom> {
        self.pulls
            .into_values()
            .map(|(whom, _)| whom)
            .chain(self.asked.into_iter().map(|(_, _, whom)| whom))
    }

    /// The log has read something, or could not.
    pub(super) fn has_read(&mut self, read: GroupRead, now: Time) {
        let GroupRead { from, messages, unreadable, .. } = read;
        // What was asked for by one who was home before is of no use.
        let Some(reading) = self.reading.take_if(|it| it.offset() == from) else { return };
        let Some(messages) = messages else {
            self.read_at = Some(now + READ_AGAIN);
            return;
        };
        match reading {
            Reading::Messages(_) => {
                self.unreadable = unreadable.or(self.unreadable);
                self.read = messages.into_iter().map(|(at, it)| (it.offset, (at, it))).collect();
            }
            Reading::Time(_) => {
                let search = self.search.as_mut().filter(|it| it.wants() == Some(from));
                search.into_iter().for_each(|it| it.has_read(&messages));
            }
        }
    }

    /// Looks at the group and its messages, which are those of `source` up to `top`.
    pub(super) fn run(
        &mut self,
        name: &str,
        source: &Room,
        top: u64,
        node: &mut Node,
    ) -> Vec<GroupOut> {
        let now = node.now;
        let Some(stream) = source.stream() else { return Vec::new() };
        self.read_at.take_if(|at| *at <= now);
        let read = std::mem::take(&mut self.read);
        let unreadable = self.unreadable;
        let messages = Messages { room: source, stream, read: &read, unreadable, top, now };
        let (mut effects, mut out) = (Vec::new(), Vec::new());
        let ready = self.go_on_with(&messages, source, &mut effects);
        let begins = |it: &Effect| matches!(it, Effect::Change(Change::Begun { .. }));
        let mut waits = !ready || self.begun.is_some() || effects.iter().any(begins);
        while !waits && let Some((request, until, whom)) = self.asked.pop_front() {
            if let GroupRequest::Pull { most, wait, by, bytes } = request {
                let id = node.next_id();
                self.pulls.insert(id, (whom, MAX_PUBLICATIONS.min(bytes as usize)));
                let until = until.min(now + wait);
                self.group.pull(id, by.map(|it| it.0), most as usize, until);
                continue;
            }
            let answer = self.do_asked(&request, &messages, &mut effects);
            out.extend(self.performed(std::mem::take(&mut effects), name, &messages));
            match answer {
                Some(answer) => out.push(GroupOut::Answer(whom, Answer::Group(answer))),
                None => {
                    self.asked.push_front((request, until, whom));
                    waits = true;
                }
            }
        }
        match waits {
            true => self.group.hold(now, &mut effects),
            false => {
                // Whoever asked for it waits no more.
                self.search = None;
                self.group.settle(&messages, now, &mut effects);
            }
        }
        out.extend(self.performed(effects, name, &messages));
        out.extend(self.read_for_search());
        node.groups.count(self.group.take_counts());
        self.read = read;
        out
    }

    /// Begins, or goes on with what the room's stream is now. Returns whether it has: else it is being looked for where.
    fn go_on_with(
        &mut self,
        messages: &Messages<'_>,
        source: &Room,
        out: &mut Vec<Effect>,
    ) -> bool {
        let (line, now) = (messages.stream.line(), messages.now);
        let (current, taken) = (line.epoch.0, self.group.taken());
        let start = source.options.queue.as_ref().map_or(Start::First, |it| it.options.start);
        let floor = match self.group.run() {
            // Nor does one begin again that was removed, until someone wants it.
            None if !self.is_wanted() => return true,
            None => match self.place(start, messages) {
                Some(floor) => floor,
                None => return false,
            },
            Some((_, epoch)) => {
                let offset = taken.min(line.top);
                if !line.covers(Position { epoch: Epoch(epoch), offset }) {
                    // The room has begun anew, with other messages at these offsets.
                    messages.first().saturating_sub(1)
                } else if taken > line.top {
                    // What was taken last was never acknowledged, and others may come to its place.
                    self.group.floor().unwrap_or_default().min(line.top)
                } else {
                    let known = messages.known_epoch(taken);
                    if epoch != known {
                        self.group.go_on_in(known, now, out);
                    }
                    return true;
                }
            }
        };
        // Messages have names of an epoch that no other message was given in.
        self.group.start(current, floor, now, out);
        let known = messages.known_epoch(floor);
        if known != current {
            self.group.go_on_in(known, now, out);
        }
        true
    }

    /// Up to where everything is settled of a group that starts there; none: that is being looked for.
    fn place(&mut self, start: Start, messages: &Messages<'_>) -> Option<u64> {
        let search = self.search.take().filter(|it| start == Start::Since(it.age));
        let place = match search {
            Some(search) => messages.go_on(search),
            None => messages.floor(start),
        };
        place.map_err(|search| self.search = Some(search)).ok()
    }

    /// Has the log read what a search wants to see next.
    fn read_for_search(&mut self) -> Option<GroupOut> {
        let idle = self.reading.is_none() && self.read_at.is_none();
        let wanted = self.search.as_ref().filter(|_| idle)?.wants()?;
        self.reading = Some(Reading::Time(wanted));
        Some(GroupOut::Read(wanted, 1))
    }

    /// Whether someone consumes, or is about to.
    fn is_wanted(&self) -> bool {
        let begins = |(request, ..): &(GroupRequest, Time, Whom)| {
            matches!(
                request,
                GroupRequest::Seek(_) | GroupRequest::Purge | GroupRequest::Pull { .. }
            )
        };
        self.group.consumers().next().is_some()
            || !self.pulls.is_empty()
            || self.asked.iter().any(begins)
    }

    /// Does what is asked. Returns the answer; none: it waits for where to go on.
    fn do_asked(
        &mut self,
        request: &GroupRequest,
        messages: &Messages<'_>,
        out: &mut Vec<Effect>,
    ) -> Option<GroupAnswer> {
        let (current, now) = (messages.stream.position().epoch.0, messages.now);
        match request {
            GroupRequest::Facts => {
                let facts = self.group.facts(messages.top);
                let oldest = (facts.floor < facts.top).then(|| messages.get(facts.floor + 1));
                let oldest = oldest.flatten().map(|(age, _)| age);
                return Some(GroupAnswer::Facts(Facts { oldest, ..facts }.into()));
            }
            GroupRequest::Seek(start) => {
                let floor = self.place(*start, messages)?;
                self.group.move_to(floor, current, messages.known_epoch(floor), now, out);
            }
            GroupRequest::Purge => {
                let floor = messages.top;
                self.group.move_to(floor, current, messages.known_epoch(floor), now, out);
            }
            GroupRequest::Remove => self.group.remove(now, out),
            GroupRequest::Judge { .. } | GroupRequest::Pull { .. } => {}
        }
        Some(GroupAnswer::Done)
    }

    /// What of it is for others.
    fn performed(
        &mut self,
        effects: Vec<Effect>,
        name: &str,
        messages: &Messages<'_>,
    ) -> Vec<GroupOut> {
        let mut out = Vec::new();
        for effect in effects {
            match effect {
                Effect::Change(change) => out.push(GroupOut::Change(change)),
                Effect::Deliver(who, lent) => {
                    let message = self.message(lent, name, messages);
                    out.extend(message.map(|it| GroupOut::Push(ClientId(who), it)));
                }
                Effect::Pulled(id, lent) => {
                    let Some((whom, most)) = self.pulls.remove(&id) else { continue };
                    let (pulled, excess) = self.pulled(lent, most, name, messages);
                    out.extend(excess.into_iter().map(GroupOut::Change));
                    let answer = Answer::Group(GroupAnswer::Pulled(pulled));
                    out.push(GroupOut::Answer(whom, answer));
                }
                Effect::Bury { offset, attempts, reason } => {
                    let letter = self.letter(offset, attempts, reason, name, messages);
                    out.extend(letter.map(|it| GroupOut::Bury(offset, it)));
                }
                Effect::Read(_) if self.reading.is_some() || self.read_at.is_some() => {}
                Effect::Read(offset) => {
                    self.reading = Some(Reading::Messages(offset));
                    out.push(GroupOut::Read(offset, GROUP_PAGE));
                }
            }
        }
        out
    }

    /// The messages that were pulled, as many as fit into an answer; the others are given back.
    fn pulled(
        &mut self,
        lent: Vec<Lent>,
        most: usize,
        name: &str,
        messages: &Messages<'_>,
    ) -> (Vec<Arc<Publication>>, Vec<Change>) {
        let (mut pulled, mut excess, mut bytes) = (Vec::new(), Vec::new(), 0);
        for lent in lent {
            let Some(message) = self.message(lent, name, messages) else { continue };
            bytes += message.weight();
            match pulled.is_empty() || bytes <= most {
                true => pulled.push(message),
                false => excess.push(lent.delivery),
            }
        }
        let mut out = Vec::new();
        self.group.take_unsent(&excess, messages.now, &mut out);
        let changes = out.into_iter().filter_map(|it| match it {
            Effect::Change(change) => Some(change),
            _ => None,
        });
        (pulled, changes.collect())
    }

    /// A message as its consumer gets it.
    fn message(&self, lent: Lent, name: &str, messages: &Messages<'_>) -> Option<Arc<Publication>> {
        let Lent { delivery, attempts } = lent;
        let (_, publication) = messages.get(delivery.offset)?;
        let (origin, _) = self.group.run()?;
        let mut message =
            Publication { offset: 0, delta: false, ..Publication::clone(&publication) };
        let own = [tag::DELAY, tag::TTL];
        own.iter().for_each(|it| drop(message.tags.remove(*it)));
        message.tags.extend([
            (tag::MESSAGE.to_owned(), tag::message(origin, delivery.offset)),
            (tag::DELIVERY.to_owned(), delivery.in_group(name::group(name).unwrap_or_default())),
            (tag::ATTEMPT.to_owned(), attempts.to_string()),
        ]);
        Some(Arc::new(message))
    }

    /// A dead letter as it is put into its room.
    fn letter(
        &self,
        offset: u64,
        attempts: u32,
        reason: Reason,
        name: &str,
        messages: &Messages<'_>,
    ) -> Option<NewPublication> {
        let (_, publication) = messages.get(offset)?;
        let (origin, _) = self.group.run()?;
        let (room, group) = name::split(name);
        let (group, message) = (group.unwrap_or_default(), tag::message(origin, offset));
        let mut tags = publication.tags.clone();
        [tag::DELAY, tag::TTL].iter().for_each(|it| drop(tags.remove(*it)));
        tags.extend([
            (tag::DEAD_ROOM.to_owned(), room.to_owned()),
            (tag::DEAD_GROUP.to_owned(), group.to_owned()),
            (tag::DEAD_REASON.to_owned(), reason.as_str().to_owned()),
            (tag::DEAD_ATTEMPTS.to_owned(), attempts.to_string()),
            (tag::DEAD_MESSAGE.to_owned(), message.clone()),
        ]);
        Some(NewPublication {
            data: publication.data.clone(),
            info: publication.info.clone(),
            tags,
            idempotency_key: Some(format!("dead {message} {group} {room}").into()),
            ..NewPublication::default()
        })
    }
}
