//! Reading: pages of a room's publications, heads, and lists of rooms.
//!
//! What comes in: a [`Query`]. What goes out: a [`Plan`], which says where the publications are, and from it a
//! [`Page`]. A plan needs nothing of the store: it can be read elsewhere, while the store writes on.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use super::{
    error::{Damage, ReadError},
    files::{Fault, FaultKind, File, Files},
    filter,
    index::Entry,
    part::{Part, Places},
    record::{self, Header, Kind, seed},
    room::{Room, Span, Stretch},
    store::Store,
};

/// The most publications of a page.
pub const MAX_PAGE: usize = 10_000;
/// Most records fit into so many bytes.
const FIRST_READ: usize = 1024;

/// Which publications of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Those after this offset, or before it if `reverse`; none: from the first, or the last.
    pub since: Option<u64>,
    /// Newest first.
    pub reverse: bool,
    /// At most so many.
    pub count: usize,
    /// At most so many bytes, but at least one publication.
    pub bytes: usize,
}

/// A publication.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// Its offset.
    pub offset: u64,
    /// When it was published, in milliseconds since 1970.
    pub time: u64,
    /// What was written.
    pub bytes: Vec<u8>,
}

/// Publications of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// In the order that was asked for.
    pub entries: Vec<Publication>,
    /// The first offset that the room has, if it has any.
    pub first: u64,
    /// The offset that its next publication will have.
    pub next: u64,
    /// It ends here, though there is more, since these can't be read: from the first to before the second.
    pub damaged: Option<(u64, u64)>,
}

/// Where the publications of a page are.
#[derive(Debug, Clone)]
pub struct Plan {
    id: u128,
    room: Arc<str>,
    places: Vec<Place>,
    bytes: usize,
    first: u64,
    next: u64,
    gap: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    generation: u64,
    segment: u64,
    place: u32,
}

/// A room's place in the order of rooms: hash and name.
pub(super) type Key = (u64, Arc<str>);

/// A record with all that is in it.
#[derive(Debug)]
pub(super) struct Record {
    pub header: Header,
    pub name: String,
    pub body: Vec<u8>,
}

/// A room in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoomInfo {
    /// Its name.
    pub name: Arc<str>,
    /// The first offset that it has, if it has any.
    pub first: u64,
    /// The offset that its next publication will have; 0 if it has only a head.
    pub next: u64,
    /// Bytes of its publications on disk, about.
    pub bytes: u64,
    /// Time of the newest, in milliseconds since 1970.
    pub newest: u64,
    /// Whether there is a head.
    pub headed: bool,
}

/// A room in a list, with what else is known of it.
pub type WithHead = (RoomInfo, Option<Vec<u8>>);

/// The record that is here. None if there is none, or it is damaged: also where the disk can't give it back.
pub(super) fn record_at(
    files: &impl Files,
    id: u128,
    segment: u64,
    place: u32,
) -> Result<Option<Record>, ReadError> {
    // What is beside it may be what the disk can't give back: without that, then.
    let read = match read_record(files, id, (segment, place), FIRST_READ) {
        Err(fault) if fault.kind == FaultKind::Unreadable => {
            read_record(files, id, (segment, place), record::HEADER)
        }
        read => read,
    };
    match read {
        Err(fault) if fault.kind == FaultKind::Unreadable => Ok(None),
        read => read.map_err(ReadError::of(File::Segment(segment))),
    }
}

/// The same, of which so many bytes are read at first.
fn read_record(
    files: &impl Files,
    id: u128,
    (segment, place): (u64, u32),
    at_first: usize,
) -> Result<Option<Record>, Fault> {
    let (file, seed) = (File::Segment(segment), seed(id, segment));
    let mut bytes = vec![0; at_first];
    let read = files.read(file, place.into(), &mut bytes)?;
    bytes.truncate(read);
    let name = bytes.get(18..20).and_then(|it| it.try_into().ok()).map_or(0, u16::from_le_bytes);
    read_on(files, file, place, record::HEADER + usize::from(name), &mut bytes)?;
    let Some((header, name)) = record::decode(seed, &bytes) else { return Ok(None) };
    let name = name.to_owned();
    let end = header.body_at() + header.body as usize;
    // The length is believed, since the checksum is right; but it is not allocated before the file has as much.
    if u64::from(place) + end as u64 > files.len(file)? {
        return Ok(None);
    }
    read_on(files, file, place, end, &mut bytes)?;
    bytes.truncate(end);
    let body = bytes.split_off(header.body_at().min(bytes.len()));
    Ok(header.has_body(seed, &body).then_some(Record { header, name, body }))
}

fn read_on(
    files: &impl Files,
    file: File,
    place: u32,
    end: usize,
    bytes: &mut Vec<u8>,
) -> Result<(), Fault> {
    let have = bytes.len();
    if have < end {
        bytes.resize(end, 0);
        let read = files.read(file, u64::from(place) + have as u64, &mut bytes[have..])?;
        bytes.truncate(have + read);
    }
    Ok(())
}

impl Plan {
    /// Segment and place of each publication.
    #[cfg(test)]
    pub(super) fn places(&self) -> Vec<(u64, usize)> {
        self.places.iter().map(|it| (it.segment, it.place as usize)).collect()
    }

    /// Reads the page. If a file is missing, its segment was compacted meanwhile: plan again.
    pub fn read(&self, files: &impl Files) -> Result<Page, ReadError> {
        let mut page =
            Page { entries: Vec::new(), first: self.first, next: self.next, damaged: self.gap };
        let mut bytes = 0;
        for place in &self.places {
            let Some(entry) = self.read_one(files, place)? else {
                page.damaged = Some((place.offset, place.offset + 1));
                break;
            };
            bytes += entry.bytes.len();
            if bytes > self.bytes && !page.entries.is_empty() {
                page.damaged = None;
                break;
            }
            page.entries.push(entry);
        }
        Ok(page)
    }

    fn read_one(
        &self,
        files: &impl Files,
        place: &Place,
    ) -> Result<Option<Publication>, ReadError> {
        let record = record_at(files, self.id, place.segment, place.place)?;
        let record = record.filter(|it| {
            let Header { kind, generation, at, .. } = it.header;
            (kind, generation, at) == (Kind::Append, place.generation, place.offset)
                && it.name == *self.room
        });
        let entry =
            |it: Record| Publication { offset: place.offset, time: it.header.time, bytes: it.body };
        Ok(record.map(entry))
    }
}

impl<F: Files> Store<F> {
    /// A page of a room's publications. What is damaged is not served: the page ends before it, and says so.
    pub fn read(&mut self, room: &str, query: &Query) -> Result<Page, ReadError> {
        self.plan(room, query)?.read(&self.files)
    }

    /// The same as [`Self::plan`], for a look at a room that nobody uses: it does not stay in memory for that.
    pub fn plan_apart(&mut self, room: &str, query: &Query) -> Result<Plan, ReadError> {
        let known = self.rooms.contains_key(room);
        let plan = self.plan(room, query);
        if !known && self.ring.back().is_some_and(|it| **it == *room) {
            self.ring.pop_back();
            self.rooms.remove(room);
        }
        plan
    }

    /// Where the publications of a page are.
    pub fn plan(&mut self, room: &str, query: &Query) -> Result<Plan, ReadError> {
        self.make_space();
        let line = &self.room(room)?.line;
        let (first, next) = (line.first, line.next);
        let (id, bytes) = (self.id, query.bytes);
        let mut plan =
            Plan { id, room: room.into(), places: Vec::new(), bytes, first, next, gap: None };
        let (low, high) = match (query.since, query.reverse) {
            (Some(since), false) => (first.max(since.saturating_add(1)), next),
            (Some(since), true) => (first, next.min(since)),
            (None, _) => (first, next),
        };
        let mut left = high.saturating_sub(low).min(query.count.min(MAX_PAGE) as u64);
        while left > 0 {
            let done = plan.places.len() as u64;
            let offset = if query.reverse { high - 1 - done } else { low + done };
            let found = match self.beside(room, offset, left, query.reverse)? {
                Some((from, to)) => self.places(room, from, to)?,
                None => Vec::new(),
            };
            if found.is_empty() {
                plan.gap = Some((offset, offset + 1));
                break;
            }
            left -= found.len() as u64;
            match query.reverse {
                true => plan.places.extend(found.into_iter().rev()),
                false => plan.places.extend(found),
            }
        }
        Ok(plan)
    }

    /// What is beside `offset` in its segment, up to `most` in the direction of the page.
    fn beside(
        &mut self,
        room: &str,
        offset: u64,
        most: u64,
        reverse: bool,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        Ok(self.locate(room, offset)?.map(|(stretch, ..)| match reverse {
            true => (stretch.first.max((offset + 1).saturating_sub(most)), offset + 1),
            false => (offset, stretch.end.min(offset.saturating_add(most))),
        }))
    }

    fn locate(
        &mut self,
        room: &str,
        offset: u64,
    ) -> Result<Option<(Stretch, u64, Places)>, ReadError> {
        self.room(room)?;
        let Some(known) = self.rooms.get(room) else { return Ok(None) };
        let there = |segment| self.sealed.contains_key(&segment);
        let located = known.locate(offset, self.active.runs(room), there);
        Ok(located.map(|(stretch, run)| {
            let places = match &run.places {
                Places::Index(at) => Places::Index(*at),
                // There may be many, and only some are wanted.
                Places::Memory(_) => Places::Memory(Vec::new()),
            };
            (stretch, run.first, places)
        }))
    }

    /// Where the publications from one to before another are, which are side by side in a segment.
    fn places(&mut self, room: &str, from: u64, to: u64) -> Result<Vec<Place>, ReadError> {
        let Some((stretch, first, places)) = self.locate(room, from)? else {
            return Ok(Vec::new());
        };
        let Stretch { segment, generation, .. } = stretch;
        let found = match places {
            Places::Memory(_) => {
                let runs = self.active.runs(room).1.iter().rev();
                let mut runs = runs.filter(|it| it.generation == generation && it.first == first);
                let run = runs.find(|it| it.end() >= to);
                run.map_or_else(Vec::new, |run| match &run.places {
                    Places::Memory(all) => {
                        let range = (from - first) as usize..(to - first) as usize;
                        all.get(range).unwrap_or_default().to_vec()
                    }
                    Places::Index(_) => Vec::new(),
                })
            }
            Places::Index(at) => {
                let (at, count) = (at.saturating_add((from - first) as u32), (to - from) as u32);
                self.with_index(segment, |reader, summary| reader.places(summary, at, count))?
            }
        };
        let offsets = from..to;
        let place = |(offset, place)| Place { offset, generation, segment, place };
        Ok(offsets.zip(found).map(place).collect())
    }

    /// What else is known of a room.
    pub fn head(&mut self, room: &str) -> Result<Option<Vec<u8>>, ReadError> {
        self.make_space();
        let head = self.room(room)?.head;
        self.head_of(room, head)
    }

    fn head_of(
        &mut self,
        room: &str,
        head: Option<(u64, super::part::Head)>,
    ) -> Result<Option<Vec<u8>>, ReadError> {
        let Some((segment, head)) = head else { return Ok(None) };
        let record = record_at(&self.files, self.id, segment, head.place)?;
        let record = record.filter(|it| {
            (it.header.kind, it.header.at) == (Kind::Head, head.number) && it.name == room
        });
        if record.is_none() {
            self.damage.push(Damage::Head { room: room.to_owned() });
        }
        Ok(record.map(|it| it.body))
    }

    /// Rooms in the order of their hashes, after the one that is named: some of them, at most `limit`. None are
    /// left if there are none.
    pub fn rooms(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<RoomInfo>, ReadError> {
        let mut after = after.map(|name| (filter::hash(name), Arc::from(name)));
        loop {
            let merged = self.merged(after.as_ref(), limit)?;
            let Some((hash, name, _)) = merged.last() else { return Ok(Vec::new()) };
            after = Some((*hash, name.clone()));
            let infos = merged.iter().filter(|(_, _, room)| room.line.exists());
            let infos: Vec<_> = infos.map(|(_, name, room)| self.info(name, room)).collect();
            if !infos.is_empty() {
                return Ok(infos);
            }
        }
    }

    /// The same, each with what else is known of it.
    pub fn heads(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<WithHead>, ReadError> {
        let mut after = after.map(|name| (filter::hash(name), Arc::from(name)));
        loop {
            let merged = self.merged(after.as_ref(), limit)?;
            let Some((hash, name, _)) = merged.last() else { return Ok(Vec::new()) };
            after = Some((*hash, name.clone()));
            let mut found = Vec::new();
            for (_, name, room) in merged.iter().filter(|(_, _, room)| room.line.exists()) {
                found.push((self.info(name, room), self.head_of(name, room.head)?));
            }
            if !found.is_empty() {
                return Ok(found);
            }
        }
    }

    fn info(&self, name: &Arc<str>, room: &Room) -> RoomInfo {
        let stretches = self.stretches(name, room);
        RoomInfo {
            name: name.clone(),
            first: room.line.first,
            next: room.line.next,
            bytes: stretches
                .iter()
                .fold(0, |sum: u64, (it, run)| sum.saturating_add(run.share(it.end - it.first))),
            newest: stretches.iter().map(|(_, run)| run.newest).max().unwrap_or(0),
            headed: room.line.headed,
        }
    }

    /// Rooms in their order, put together from all segments, without taking them into memory.
    pub(super) fn merged(
        &mut self,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(u64, Arc<str>, Room)>, ReadError> {
        // So much of every segment is in memory at once.
        let limit = limit.min(65_536 / (self.sealed.len() + 1)).clamp(8, 1_024);
        let mut rooms: BTreeMap<Key, Vec<(u64, Part)>> = BTreeMap::new();
        let mut complete: Option<Key> = None;
        let mut ends_at = |key: &Key| {
            if complete.as_ref().is_none_or(|it| key < it) {
                complete = Some(key.clone());
            }
        };
        let numbers: Vec<u64> = self.sealed.keys().copied().collect();
        for segment in numbers {
            let entries = self.entries_after(segment, after, limit)?;
            if entries.len() == limit
                && let Some(last) = entries.last()
            {
                ends_at(&(last.hash, last.name.clone()));
            }
            for Entry { hash, name, part } in entries {
                rooms.entry((hash, name)).or_default().push((segment, part));
            }
        }
        let from = after.map_or(Bound::Unbounded, |it| Bound::Excluded(it.clone()));
        let active: Vec<_> =
            self.active.order.range((from, Bound::Unbounded)).take(limit).cloned().collect();
        if active.len() == limit {
            active.last().into_iter().for_each(&mut ends_at);
        }
        active.into_iter().for_each(|key| _ = rooms.entry(key).or_default());
        let rooms = rooms.into_iter().take(limit);
        let rooms = rooms.take_while(|(key, _)| complete.as_ref().is_none_or(|it| key <= it));
        rooms
            .map(|((hash, name), parts)| {
                let mut room = Room::default();
                for (segment, part) in parts {
                    room.learn(segment, &part);
                    room.spans.extend(part.runs.into_iter().map(|run| Span { segment, run }));
                }
                Ok((hash, name.clone(), self.finish(&name, room)?))
            })
            .collect()
    }

    /// So many entries of a segment after this one; fewer only if there are no more.
    fn entries_after(
        &mut self,
        segment: u64,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        self.with_index(segment, |reader, summary| {
            let mut at = after.map_or(Ok(0), |(hash, _)| reader.seek(summary, *hash))?;
            let mut found = Vec::new();
            while found.len() < limit && at < summary.rooms {
                let wanted = (limit - found.len()) as u32;
                let entries = reader.entries(summary, at, wanted)?;
                at += wanted;
                let past = |it: &Entry| {
                    after.is_none_or(|(hash, name)| (it.hash, &it.name) > (*hash, name))
                };
                found.extend(entries.into_iter().filter(past));
            }
            Ok(found)
        })
    }

    /// All of a room that is there, oldest first.
    pub(super) fn stretches<'a>(
        &'a self,
        name: &str,
        room: &'a Room,
    ) -> Vec<(Stretch, &'a super::part::Run)> {
        let active = self.active.runs(name);
        let there = |segment| self.sealed.contains_key(&segment);
        let (mut at, mut all) = (room.line.first, Vec::new());
        while at < room.line.next {
            match room.locate(at, active, there) {
                Some((stretch, run)) => {
                    at = stretch.end;
                    all.push((stretch, run));
                }
                None => at = room.next_known(at, active.1),
            }
        }
        all
    }
}
