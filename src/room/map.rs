//! A map, in its room: see [`crate::map`].
//!
//! ```text
//! put, remove ───────────► the home's entries say whether anything changes
//!                             │ a change: published in the room, so it is copied, logged and recovered as
//!                             ▼ any publication is
//! members ◄── its value ── every node with members
//! read ──────────────────► the home: its entries say where in the stream the values are
//! ```
//!
//! In: requests, and time. Out: changes, and answers, which are given once all that they tell of is acknowledged.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    node::Node,
    persisted::{map_change_from_bytes, map_change_to_bytes},
    publishing::Repeated,
    replication::Whom,
    room::{Role, Room},
    stream::{Entry, ForwardId},
    types::{
        Answer, Event, Failure, Keyed, MapAnswer, MapRequest, NewPublication, Position,
        Publication, Recovery, Since, Subscribed,
    },
};
use crate::{
    map::{
        change::{Change, KeyVersion, Put, What},
        options::{MapOptions, Mode},
        request::{KeyMode, Page, Suppressed},
        state::{self, State},
    },
    runtime::time::Time,
};

/// Records more than needed that a stream may have, so that the floor does not rise with every change.
const SLACK: u64 = 16;
/// The most records that are looked at after a change: more than come by it.
const LOOKED_AT: usize = 4;
/// The most entries that expire at a time.
const EXPIRED: usize = 128;
/// The most bytes of entries in one answer, unless a single one is larger.
const MOST_BYTES: u32 = 1 << 20;

/// A map, at the home of its room.
#[derive(Debug)]
pub struct MapHome {
    options: Arc<MapOptions>,
    /// Of each entry how many bytes its value has: where it is the record says.
    state: State<usize>,
    floor: u64,
}

impl MapHome {
    fn new(options: Arc<MapOptions>) -> Self {
        let state = State::new(options.ordered, options.key_ttl);
        Self { options, state, floor: 1 }
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.state.next_expiry()
    }

    /// How long it is remembered if nobody uses it, unless it has entries.
    pub(super) fn empty_ttl(&self) -> Option<Duration> {
        self.state.is_empty().then_some(self.options.meta_ttl)
    }

    /// The change at this offset happens.
    fn apply(&mut self, change: &Change, offset: u64, at: Time) {
        self.floor = self.floor.max(change.floor);
        let entry = |of: u64, at: Time, put: &Put| state::Entry {
            offset: of,
            record: offset,
            at,
            score: put.score,
            version: put.version.clone(),
            value: put.value.len(),
        };
        match &change.what {
            What::Put(put) => self.state.put(&put.key, entry(offset, at, put)),
            What::Again(of, age, put) => self.state.put(&put.key, entry(*of, at.ago(*age), put)),
            What::Removed(key) => drop(self.state.remove(key)),
            What::Cleared => self.state.clear(),
        }
    }

    /// Why a put changes nothing, if so.
    fn suppresses(&self, key: &str, version: &KeyVersion, mode: KeyMode) -> Option<Suppressed> {
        match (self.state.get(key), mode) {
            (Some(_), KeyMode::IfNew) => Some(Suppressed::KeyExists),
            (None, KeyMode::IfExists) => Some(Suppressed::KeyNotFound),
            (Some(it), _) if !version.follows(&it.version) => Some(Suppressed::Version),
            _ => None,
        }
    }

    /// How many records the stream is to have.
    fn needed(&self) -> u64 {
        (self.options.stream_size as u64).max(2 * self.state.len() as u64) + SLACK
    }
}

/// The value that a record gives a key; none if it gives none.
fn value_of(record: &Publication) -> Option<Put> {
    match map_change_from_bytes(&record.data)?.what {
        What::Put(put) | What::Again(_, _, put) => Some(put),
        What::Removed(_) | What::Cleared => None,
    }
}

/// A publication of a map's room as members get it; none if it is not for them.
fn as_member_sees(
    publication: &Publication,
    options: &MapOptions,
    before: impl FnOnce(u64) -> Option<Arc<Publication>>,
) -> Option<Arc<Publication>> {
    let change = map_change_from_bytes(&publication.data)?;
    let (keyed, data) = match change.what {
        What::Put(put) => {
            let before = before(change.before).filter(|_| publication.delta);
            (Keyed { key: put.key, removed: false, score: put.score, before }, put.value)
        }
        What::Removed(key) => (Keyed { key, removed: true, ..Keyed::default() }, Bytes::new()),
        What::Again(..) | What::Cleared => return None,
    };
    // Who loads everything again has no use for positions.
    let offset = if options.is_recoverable() { publication.offset } else { 0 };
    let keyed = Some(Box::new(keyed));
    Some(Arc::new(Publication { offset, data, keyed, ..publication.clone() }))
}

impl Room {
    /// This node is home of a map from now on: its entries follow from the stream.
    pub(super) fn begin_map(&mut self, node: &mut Node) {
        let Some(options) = self.options.map.clone() else { return };
        let mut map = MapHome::new(options);
        if let Some(stream) = self.stream() {
            for offset in stream.history.first()..=stream.history.top() {
                let Some((age, it)) = stream.history.get(offset, node.now) else { continue };
                let Some(change) = map_change_from_bytes(&it.data) else { continue };
                map.apply(&change, offset, node.now.ago(age));
            }
        }
        if let Role::Home(home) = &mut self.role {
            home.derived.get_or_insert_default().map = Some(map);
        }
    }

    fn map_mut(&mut self) -> Option<&mut MapHome> {
        self.home_mut()?.derived.as_deref_mut()?.map.as_mut()
    }

    fn map(&self) -> Option<&MapHome> {
        match &self.role {
            Role::Home(home) => home.derived.as_deref()?.map.as_ref(),
            _ => None,
        }
    }

    /// Something is asked of the map, at its home.
    pub(super) fn map_asked(
        &mut self,
        request: &MapRequest,
        forward: ForwardId,
        whom: Whom,
        node: &mut Node,
    ) {
        let (answer, offset) = match request {
            _ if self.map().is_none() => (Answer::Failed(Failure::NoHistory), 0),
            _ if node.is_in_minority() => (Answer::Failed(Failure::Unavailable), 0),
            MapRequest::Read(page) => (self.read_map(page, node), self.top()),
            MapRequest::Changes { since, limit, reverse } => {
                (self.changes_of_map(since.as_ref(), *limit as usize, *reverse), self.top())
            }
            MapRequest::Count => {
                let count = self.map().map_or(0, |it| it.state.len());
                let count = u32::try_from(count).unwrap_or(u32::MAX);
                (Answer::Map(MapAnswer::Count(count)), self.top())
            }
            change => self.change_map(change, forward, node),
        };
        self.answer_when_acked(offset, answer, whom, node);
    }

    /// Changes the map. Returns the answer, and the offset that must be acknowledged before it is given.
    fn change_map(
        &mut self,
        request: &MapRequest,
        forward: ForwardId,
        node: &mut Node,
    ) -> (Answer, u64) {
        let idempotency_key = match request {
            MapRequest::Put { value, .. } => value.idempotency_key.as_deref(),
            MapRequest::Remove { idempotency_key, .. } => idempotency_key.as_deref(),
            _ => None,
        };
        let changed = |position: Position| Answer::Map(MapAnswer::Changed(position));
        let here = match self.repeated(idempotency_key, forward) {
            Repeated::Failed(failure) => return (Answer::Failed(failure), 0),
            Repeated::As(at, here) => {
                let position = at.unwrap_or(here);
                return (changed(position), position.offset);
            }
            Repeated::No(here) => here,
        };
        let suppressed = |why| (Answer::Map(MapAnswer::Suppressed(why, here)), here.offset);
        match request {
            MapRequest::Put { key, value, score, mode, renews } => {
                let put = put(key, value, *score);
                let Some(map) = self.map() else { return (Answer::Failed(Failure::NoHistory), 0) };
                if let Some(why) = map.suppresses(key, &put.version, *mode) {
                    if *renews {
                        self.renew(key, node);
                    }
                    return suppressed(why);
                }
                let is_new = map.state.get(key).is_none();
                if is_new && map.state.len() >= map.options.max_keys {
                    return (Answer::Failed(Failure::LimitExceeded), 0);
                }
                if is_new && node.memory.bytes() > node.settings.history_bytes {
                    return (Answer::Failed(Failure::Overloaded), 0);
                }
                self.keep_map_change(What::Put(put), value.clone(), Some(forward), node);
            }
            MapRequest::Remove { key, idempotency_key } => {
                let Some(removal) = self.removal(key, node) else {
                    return suppressed(Suppressed::KeyNotFound);
                };
                let idempotency_key = idempotency_key.clone();
                let removal = NewPublication { idempotency_key, ..removal };
                self.keep_map_change(What::Removed(key.clone()), removal, Some(forward), node);
            }
            MapRequest::Clear => self.clear_map(forward, node),
            MapRequest::Read(_) | MapRequest::Changes { .. } | MapRequest::Count => {}
        }
        let offset = self.top();
        self.raise_floor(node);
        (changed(Position { offset, ..here }), offset)
    }

    /// The removal of an entry, with its tags: whoever wants only some of the entries has to hear that one of them is gone.
    fn removal(&self, key: &str, node: &Node) -> Option<NewPublication> {
        let entry = self.map()?.state.get(key)?;
        let record = self.record(entry.record, node);
        let tags = record.map(|(_, it)| it.tags.clone()).unwrap_or_default();
        Some(NewPublication { tags, ..NewPublication::default() })
    }

    /// The publication with a record, and when it was published.
    fn record(&self, offset: u64, node: &Node) -> Option<(Time, Arc<Publication>)> {
        let (age, publication) = self.stream()?.history.get(offset, node.now)?;
        Some((node.now.ago(age), publication))
    }

    /// Publishes a change, with what `new` says beside the value.
    fn keep_map_change(
        &mut self,
        what: What,
        new: NewPublication,
        forward: Option<ForwardId>,
        node: &mut Node,
    ) {
        let Some(map) = self.map() else { return };
        let before = match &what {
            What::Put(put) if new.delta => map.state.get(&put.key).map_or(0, |it| it.record),
            _ => 0,
        };
        let change = Change { floor: map.floor, before, what };
        let offset = self.top() + 1;
        let key = new.idempotency_key.clone();
        let publication = Publication { data: map_change_to_bytes(&change), ..new.at(offset) };
        let publication = Arc::new(publication);
        self.keep(Entry { publication, forward, key, version: None }, node);
        let now = node.now;
        if let Some(map) = self.map_mut() {
            map.apply(&change, offset, now);
        }
    }

    /// Writes an entry again, as it was given its value, or, if it is renewed, as if that were now.
    fn write_again(&mut self, key: &str, renewed: bool, node: &mut Node) {
        let Some(entry) = self.map().and_then(|it| it.state.get(key)) else { return };
        let (of, at) = (entry.offset, if renewed { node.now } else { entry.at });
        let Some((_, record)) = self.record(entry.record, node) else { return };
        let Some(put) = value_of(&record) else { return };
        let Publication { info, tags, delta, .. } = Publication::clone(&record);
        let new = NewPublication { info, tags, delta, ..NewPublication::default() };
        self.keep_map_change(What::Again(of, node.now.since(at), put), new, None, node);
    }

    /// An entry is said to be alive. That is written down now and then, so that the next home knows.
    fn renew(&mut self, key: &str, node: &mut Node) {
        let Some(map) = self.map() else { return };
        let (Some(ttl), Some(entry)) = (map.options.key_ttl, map.state.get(key)) else { return };
        if node.now.since(entry.at) >= ttl / 4 {
            self.write_again(key, true, node);
            self.raise_floor(node);
        }
    }

    /// No key has a value any more, and nobody can go on from before.
    fn clear_map(&mut self, forward: ForwardId, node: &mut Node) {
        let new = NewPublication::default();
        self.keep_map_change(What::Cleared, new, Some(forward), node);
        self.remove_history(node);
        self.deliver_local(Event::InsufficientState, node);
    }

    /// Has the next change say that the oldest records are needed no more, where there are many: the entries that are
    /// written there are written again.
    fn raise_floor(&mut self, node: &mut Node) {
        for _ in 0..LOOKED_AT {
            let (first, top) = match self.stream() {
                Some(stream) => (stream.history.first(), stream.history.top()),
                None => return,
            };
            let Some(map) = self.map_mut() else { return };
            let oldest = map.floor.max(first);
            if (top + 1).saturating_sub(oldest) <= map.needed() {
                return;
            }
            let key = map.state.written_at(oldest).cloned();
            map.floor = oldest;
            if let Some(key) = key {
                self.write_again(&key, false, node);
            }
            if let Some(map) = self.map_mut() {
                map.floor = oldest + 1;
            }
        }
    }

    /// Removes what has expired.
    pub(super) fn settle_map(&mut self, node: &mut Node) {
        for _ in 0..EXPIRED {
            let now = node.now;
            let Some(key) = self.map().and_then(|it| it.state.expired(now)).cloned() else {
                return;
            };
            if node.is_in_minority() {
                return;
            }
            let removal = self.removal(&key, node).unwrap_or_default();
            self.keep_map_change(What::Removed((*key).into()), removal, None, node);
            self.raise_floor(node);
        }
    }

    /// A page of entries.
    fn read_map(&self, page: &Page, node: &Node) -> Answer {
        let (Some(map), Some(stream)) = (self.map(), self.stream()) else {
            return Answer::Failed(Failure::NoHistory);
        };
        let page = Page { bytes: page.bytes.min(MOST_BYTES), ..page.clone() };
        let weight = |value: &usize| value + Publication::OVERHEAD;
        let (found, cursor) = map.state.page(&page, weight);
        let mut entries = Vec::with_capacity(found.len());
        for entry in found {
            let Some((_, record)) = self.record(entry.record, node) else { continue };
            let Some(put) = value_of(&record) else { continue };
            let keyed = Keyed { key: put.key, score: put.score, ..Keyed::default() };
            let Publication { info, tags, delta, .. } = Publication::clone(&record);
            let (offset, data) = (entry.offset, put.value);
            let publication = Publication { offset, data, info, tags, delta, keyed: None };
            entries.push((keyed, Arc::new(publication)));
        }
        let (position, cursor) = (stream.position(), cursor.into());
        Answer::Map(MapAnswer::Entries { entries, position, cursor })
    }

    /// Changes, as members were told of them.
    fn changes_of_map(&self, since: Option<&Since>, limit: usize, reverse: bool) -> Answer {
        let (Some(map), Some(stream)) = (self.map(), self.stream()) else {
            return Answer::Failed(Failure::NoHistory);
        };
        if since.is_some_and(|since| stream.resolve(since).is_none()) {
            return Answer::Failed(Failure::UnrecoverablePosition);
        }
        let recoverable = MapOptions { mode: Mode::Recoverable, ..(*map.options).clone() };
        let (mut entries, mut bytes, all) = (Vec::new(), 0, stream.history.len());
        for it in stream.page(since.map(|it| it.offset), reverse, all) {
            let Some(it) = as_member_sees(&it, &recoverable, |_| None) else { continue };
            bytes += it.weight();
            if entries.len() >= limit || bytes > MOST_BYTES as usize && !entries.is_empty() {
                break;
            }
            let keyed = it.keyed.as_deref().cloned().unwrap_or_default();
            entries.push((keyed, it));
        }
        let (position, cursor) = (stream.position(), "".into());
        Answer::Map(MapAnswer::Entries { entries, position, cursor })
    }

    /// The value that is written at this offset, if memory has it.
    fn value_at(&self, offset: u64) -> Option<Arc<Publication>> {
        let history = &self.stream()?.history;
        let index = offset.checked_sub(1).filter(|it| it + 1 >= history.first())?;
        let record = history.page(Some(index), false, 1).pop()?;
        let data = value_of(&record)?.value;
        Some(Arc::new(Publication { data, ..Publication::default() }))
    }

    /// An event as the members of the room see it; none if it is not for them.
    pub(super) fn as_members_see(&self, event: Event) -> Option<Event> {
        match (event, &self.options.map) {
            (Event::Publication(it), Some(options)) => {
                as_member_sees(&it, options, |at| self.value_at(at)).map(Event::Publication)
            }
            (event, _) => Some(event),
        }
    }

    /// What a member has recovered, as it sees it.
    pub(super) fn recovered_as_members_see(&self, mut subscribed: Subscribed) -> Subscribed {
        if let (Recovery::Recovered(missed), Some(options)) =
            (&mut subscribed.recovery, &self.options.map)
        {
            let all = std::mem::take(missed);
            *missed = all.iter().filter_map(|it| as_member_sees(it, options, |_| None)).collect();
        }
        subscribed
    }
}

/// A value for a key, as its change has it.
fn put(key: &str, value: &NewPublication, score: i64) -> Put {
    let version = value.version.as_ref();
    let version = version.map(|it| KeyVersion { number: it.number, epoch: it.epoch.clone() });
    let (key, value, version) = (key.into(), value.data.clone(), version.unwrap_or_default());
    Put { key, value, score, version }
}
