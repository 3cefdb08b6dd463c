//! Retention: rooms are trimmed as their namespaces say, and space is given back.
//!
//! What comes in: the time, and what to keep of each room. What goes out: a bounded amount of work per call, until
//! all rooms were looked at once:
//!
//! ```text
//! Look   all rooms in their order, some per step: trims each, and sums up what is needed of each segment
//! Copy   what is needed of a segment that is mostly not, to the active segment, some per step
//! Retire say that the segment is not needed; sync that, and the copies before it; remove it
//! ```
//!
//! Copies are the same records as before, with the same numbers: it does no harm if a crash leaves both.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    batch::Op,
    error::{Damage, ReadError, WriteError},
    files::{File, Files},
    filter,
    index::Entry,
    part::{Part, Places, Run},
    read::{self, Record},
    record::{self, Header, Kind},
    room::Room,
    store::Store,
};

/// Rooms that are looked at in a step.
const ROOMS: usize = 128;
/// Bytes that are copied in a step, about.
const BYTES: usize = 256 << 10;

/// What to keep of a room. By default, everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many publications.
    pub count: Option<u64>,
    /// What was published in so many milliseconds.
    pub age: Option<u64>,
    /// So many bytes on disk, about.
    pub bytes: Option<u64>,
    /// All that the room has not trimmed itself, whatever the other limits say: it can't do without.
    pub whole: bool,
}

/// What to keep of which room.
pub trait Policy {
    /// Of this room.
    fn keep(&self, room: &str) -> Keep;
    /// Bytes of all segments. Above it, the oldest publications of all rooms go.
    fn max_bytes(&self) -> Option<u64>;
}

/// Whether there is more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Call again.
    More,
    /// All rooms were looked at, and what could be given back was.
    Done,
}

/// How far the work is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    phase: Phase,
    /// Bytes that are needed, of the segments that were sealed when it began.
    live: BTreeMap<u64, u64>,
    /// Segments that are to be given back, the next one last.
    victims: Vec<u64>,
    /// What is older goes, since there is too much.
    since: u64,
    /// Segments that could not be given back in this round, since something of them can't be read.
    stay: BTreeSet<u64>,
}

#[derive(Debug, Clone, Default)]
enum Phase {
    #[default]
    Begin,
    Look(Option<(u64, Arc<str>)>),
    Copy(Cursor),
    Retire(u64),
}

/// How far a segment was copied.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    segment: u64,
    /// What is copied may go where trims have their reserve: it is so little that enough is left for them.
    in_reserve: bool,
    room: u32,
    run: usize,
    skip: u64,
}

/// Records of rooms, and their size.
type Copies = (Vec<(Arc<str>, Record)>, usize);

impl<F: Files> Store<F> {
    /// Does some work. If it fails, the next call tries the same again; but segments that can't be copied for want of
    /// space, or since they can't be read, wait for the next round, so that rooms are trimmed meanwhile.
    pub fn step(&mut self, now: u64, policy: &impl Policy) -> Result<Progress, WriteError> {
        self.can_write()?;
        match self.sweep.phase.clone() {
            Phase::Begin => {
                self.sweep.live = self.sealed.keys().map(|it| (*it, 0)).collect();
                self.sweep.phase = Phase::Look(None);
            }
            Phase::Look(after) => self.look(after, now, policy)?,
            Phase::Copy(cursor) => self.copy(cursor)?,
            Phase::Retire(segment) => self.retire(segment)?,
        }
        let done = matches!(self.sweep.phase, Phase::Begin);
        Ok(if done { Progress::Done } else { Progress::More })
    }

    fn look(
        &mut self,
        after: Option<(u64, Arc<str>)>,
        now: u64,
        policy: &impl Policy,
    ) -> Result<(), WriteError> {
        let mut rooms = self.merged(after.as_ref(), ROOMS)?;
        let Some((hash, name, _)) = rooms.last() else {
            self.judge(policy);
            self.next_victim();
            return Ok(());
        };
        let last = (*hash, name.clone());
        let mut trims = Vec::new();
        for (_, name, room) in &mut rooms {
            let mut keep = policy.keep(name);
            if keep.whole {
                continue;
            }
            let since = keep.age.map_or(0, |age| now.saturating_sub(age)).max(self.sweep.since);
            keep.age = (since > 0).then_some(since);
            let first = self.first_kept(name, room, keep)?;
            if first > room.line.first {
                // Put together once, it need not be again to be written.
                self.remember(name, room.clone());
                room.line.trim(first);
                trims.push((name.clone(), first));
            }
        }
        // Now, since a trim may begin another segment.
        let found = rooms.iter().flat_map(|(hash, name, room)| self.weigh(*hash, name, room));
        let found: Vec<(u64, u64)> = found.collect();
        let gaps = rooms.iter().map(|(_, name, room)| (name.clone(), self.gaps(name, room)));
        let gaps: Vec<_> = gaps.collect();
        let ops = trims.iter().map(|(room, first)| Op::Trim { room, first: *first });
        let ops: Vec<_> = ops.collect();
        // All of them, or as many as fit at a time.
        for ops in ops.chunks(self.trims_per_batch()) {
            self.commit(ops)?;
        }
        for (segment, bytes) in found {
            self.sweep.live.entry(segment).and_modify(|it| *it = it.saturating_add(bytes));
        }
        gaps.into_iter().for_each(|(room, gaps)| self.tell_gaps(room, gaps));
        self.sweep.phase = Phase::Look(Some(last));
        Ok(())
    }

    fn trims_per_batch(&self) -> usize {
        (self.max_batch() / (2 * record::size(record::MAX_NAME, 256))).clamp(1, ROOMS)
    }

    /// The first publication of a room that is to be kept. `keep.age` is the time from which on here.
    fn first_kept(&mut self, name: &Arc<str>, room: &Room, keep: Keep) -> Result<u64, ReadError> {
        let line = &room.line;
        let mut first = line.first;
        if let Some(count) = keep.count {
            first = first.max(line.next.saturating_sub(count));
        }
        let all = self.stretches(name, room);
        if let Some(most) = keep.bytes {
            let mut left = most;
            for (stretch, run) in all.iter().rev() {
                let count = stretch.end - stretch.first;
                let bytes = run.share(count);
                if bytes > left {
                    let kept = left / (bytes / count.max(1)).max(1);
                    first = first.max(stretch.end.saturating_sub(kept));
                    break;
                }
                left -= bytes;
            }
        }
        let Some(since) = keep.age else { return Ok(first) };
        let old = all.iter().take_while(|(_, run)| run.oldest < since);
        let Some((stretch, run)) = old.last() else { return Ok(first) };
        let (low, high) = (stretch.first, stretch.end);
        if run.newest < since {
            return Ok(first.max(high));
        }
        Ok(first.max(self.first_since(name, (low, high), since)?))
    }

    /// The first of these publications that was published since then.
    fn first_since(
        &mut self,
        name: &str,
        (mut low, mut high): (u64, u64),
        since: u64,
    ) -> Result<u64, ReadError> {
        while low < high {
            let middle = low + (high - low) / 2;
            let query = read::Query {
                since: middle.checked_sub(1),
                reverse: false,
                count: 1,
                bytes: usize::MAX,
            };
            let page = self.read(name, &query)?;
            // What can't be read is kept: it may be repaired.
            if page.entries.first().is_some_and(|it| it.offset == middle && it.time < since) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// How many bytes of which segments are needed for a room.
    fn weigh(&self, hash: u64, name: &Arc<str>, room: &Room) -> Vec<(u64, u64)> {
        let all = self.stretches(name, room);
        let mut found: Vec<(u64, u64)> = all
            .iter()
            .map(|(stretch, run)| (stretch.segment, run.share(stretch.end - stretch.first).max(1)))
            .collect();
        let small = record::size(name.len(), room.line.older.len() * 16) as u64;
        found.extend(room.head.map(|(segment, head)| (segment, head.bytes.into())));
        found.extend(room.mark.map(|(segment, _)| (segment, small)));
        if let Some((segment, gone)) = room.gone
            && self.is_removal_needed(hash, name, segment, gone.number)
        {
            found.push((segment, small));
        }
        found
    }

    /// What a room should have, and no segment has.
    fn gaps(&self, name: &Arc<str>, room: &Room) -> Vec<(u64, u64)> {
        room.gaps(self.active.runs(name), |it| self.sealed.contains_key(&it))
    }

    /// Tells of the gaps of a room, but for those that it had in the round before: what can't be repaired is told
    /// once, not every few seconds.
    fn tell_gaps(&mut self, room: Arc<str>, gaps: Vec<(u64, u64)>) {
        let told = self.told.remove(&room).unwrap_or_default();
        for &(first, end) in gaps.iter().filter(|it| !told.contains(it)) {
            self.damage.push(Damage::Publications { room: room.to_string(), first, end });
        }
        if !gaps.is_empty() {
            self.told.insert(room, gaps);
        }
    }

    /// Whether another segment may have something of a room from before it was removed.
    fn is_removal_needed(&self, hash: u64, name: &str, segment: u64, number: u64) -> bool {
        let active = &self.active;
        let in_active =
            active.number != segment && active.begun <= number && active.parts.contains_key(name);
        in_active
            || self.sealed.iter().any(|(other, it)| {
                *other != segment && it.summary.begun <= number && it.summary.filter.may_have(hash)
            })
    }

    /// Decides what to give back, once all rooms were looked at.
    fn judge(&mut self, policy: &impl Policy) {
        for (segment, live) in std::mem::take(&mut self.sweep.live) {
            if let Some(sealed) = self.sealed.get_mut(&segment) {
                sealed.live = Some(live);
            }
        }
        let mut known: Vec<(u64, u64, u64)> = self
            .sealed
            .iter()
            .filter_map(|(segment, it)| Some((*segment, it.live?, it.summary.end.into())))
            .collect();
        // The emptiest last, so that it is first.
        known.sort_by_key(|(_, live, _)| std::cmp::Reverse(*live));
        let full = u64::from(self.options.segment_bytes);
        let total = self.stats().bytes;
        let excess = policy.max_bytes().map_or(0, |max| total.saturating_sub(max));
        let worth = |live: u64, end: u64| {
            live < full / 2 || (excess > 0 && live < end.saturating_sub(end / 8))
        };
        // They are tried again in the round after the next one.
        let stay = std::mem::take(&mut self.sweep.stay);
        known.retain(|(segment, live, end)| worth(*live, *end) && !stay.contains(segment));
        let saved = |(segment, live, end): &(u64, u64, u64)| {
            let freed = end.saturating_sub(*live);
            self.sealed.get(segment).map_or(freed, |it| it.with_index(freed))
        };
        let saved: u64 = known.iter().map(saved).sum();
        self.sweep.victims = known.into_iter().map(|(segment, ..)| segment).collect();
        // What was too much once is no reason to let go what comes later.
        self.sweep.since = 0;
        self.shed(excess.saturating_sub(saved));
    }

    /// What is older than so many bytes of the oldest segments goes in the next round. What was written later is not older,
    /// so a clock that was ahead for a while does not make all of it go.
    fn shed(&mut self, mut bytes: u64) {
        let mut newest = None;
        let mut oldest_last = Vec::new();
        for sealed in self.sealed.values().rev() {
            // 0: there is no publication in it.
            let own = Some(sealed.summary.newest).filter(|it| *it > 0);
            newest = newest.into_iter().chain(own).min();
            oldest_last.push((sealed.with_index(sealed.live.unwrap_or(0)), newest));
        }
        for (live, newest) in oldest_last.into_iter().rev() {
            if bytes == 0 {
                break;
            }
            bytes = bytes.saturating_sub(live);
            let since = newest.map_or(0, |it| it.saturating_add(1));
            self.sweep.since = self.sweep.since.max(since);
        }
    }

    fn next_victim(&mut self) {
        let live = |segment: u64| self.sealed.get(&segment).and_then(|it| it.live);
        self.sweep.phase = match self.sweep.victims.pop().map(|it| (it, live(it))) {
            Some((segment, Some(0))) => Phase::Retire(segment),
            Some((segment, live)) => {
                let in_reserve = live.is_some_and(|it| self.leaves_half_of_the_reserve(it));
                Phase::Copy(Cursor { segment, in_reserve, ..Cursor::default() })
            }
            None => Phase::Begin,
        };
    }

    fn copy(&mut self, mut cursor: Cursor) -> Result<(), WriteError> {
        self.make_space();
        let (copies, size) = match self.next_copies(&mut cursor) {
            // More would not fit, however empty the active segment is.
            Ok(Some((_, size))) if size > self.max_batch() => {
                self.next_victim();
                return Ok(());
            }
            Ok(Some(copies)) => copies,
            unreadable => {
                // The segment is kept, until what is damaged is repaired or not needed any more.
                self.sweep.stay.insert(cursor.segment);
                self.next_victim();
                return unreadable.map(|_| ()).map_err(WriteError::from);
            }
        };
        if let Err(why) = self.write_copies(&copies, size, cursor.in_reserve) {
            if why.is_full() {
                // The others have more to be copied. Trims need what is left, and give back what this can't.
                self.sweep.victims.clear();
                self.sweep.phase = Phase::Begin;
            }
            return Err(why);
        }
        self.sweep.phase = match cursor.room {
            u32::MAX => Phase::Retire(cursor.segment),
            _ => Phase::Copy(cursor),
        };
        Ok(())
    }

    /// What is to be copied next of a segment, and its size. None if something of it is damaged.
    fn next_copies(&mut self, cursor: &mut Cursor) -> Result<Option<Copies>, ReadError> {
        let most = BYTES.min(self.options.segment_bytes as usize / 8);
        let (mut copies, mut size, mut looked) = (Vec::new(), 0, 0);
        while size < most && looked < ROOMS {
            looked += 1;
            let Cursor { segment, room: number, .. } = *cursor;
            let entry = self.with_index(segment, |reader, summary| {
                Ok(reader.entries(summary, number, 1)?.pop())
            })?;
            let Some(entry) = entry else {
                cursor.room = u32::MAX;
                break;
            };
            let places = self.needed(&entry, cursor, most.saturating_sub(size))?;
            for (header_kind, place) in places {
                let record = read::record_at(&self.files, self.id, segment, place)?;
                let record = record.filter(|it| it.name == *entry.name);
                let Some(record) = record.filter(|it| it.header.kind == header_kind) else {
                    return Ok(None);
                };
                size += record.header.size();
                copies.push((entry.name.clone(), record));
            }
        }
        Ok(Some((copies, size)))
    }

    fn write_copies(
        &mut self,
        copies: &[(Arc<str>, Record)],
        size: usize,
        in_reserve: bool,
    ) -> Result<(), WriteError> {
        self.fit(size, in_reserve)?;
        for (name, record) in copies {
            let name = self.rooms.get_key_value(name).map_or(name, |(name, _)| name);
            self.batch.put(&name.clone(), record.header, &record.body);
        }
        self.write()?;
        self.stats.copied += size as u64;
        Ok(())
    }

    /// Where the records of a room are that are needed, from the cursor on; and moves the cursor: behind the room,
    /// or behind as many of its publications as were wanted.
    fn needed(
        &mut self,
        entry: &Entry,
        cursor: &mut Cursor,
        most: usize,
    ) -> Result<Vec<(Kind, u32)>, ReadError> {
        let Entry { hash, name, part } = entry;
        let segment = cursor.segment;
        self.room(name)?;
        let mut found = Vec::new();
        if (cursor.run, cursor.skip) == (0, 0) {
            self.needed_small(*hash, name, part, segment, &mut found);
        }
        let mut bytes = 0;
        while let Some(run) = part.runs.get(cursor.run) {
            let average = (run.bytes / u64::from(run.count).max(1)).max(1);
            while cursor.skip < run.count.into() {
                if bytes > most as u64 {
                    return Ok(found);
                }
                // An index that had to be made again has emptied the memory.
                self.room(name)?;
                let (needed, count) = self.needed_of(name, segment, run, cursor.skip);
                // Not more than was wanted.
                let count = count.min((most as u64 / average).max(1));
                if needed {
                    found.extend(self.run_places(segment, run, cursor.skip, count)?);
                    bytes = count.saturating_mul(average).saturating_add(bytes);
                }
                cursor.skip += count;
            }
            (cursor.run, cursor.skip) = (cursor.run + 1, 0);
        }
        (cursor.room, cursor.run, cursor.skip) = (cursor.room + 1, 0, 0);
        Ok(found)
    }

    fn needed_small(
        &self,
        hash: u64,
        name: &Arc<str>,
        part: &Part,
        segment: u64,
        found: &mut Vec<(Kind, u32)>,
    ) {
        let Some(room) = self.rooms.get(name) else { return };
        let mark = room.mark.zip(part.mark).filter(|(a, b)| *a == (segment, *b));
        found.extend(mark.map(|(_, it)| (Kind::Mark, it.place)));
        let head = room.head.zip(part.head).filter(|(a, b)| *a == (segment, *b));
        found.extend(head.map(|(_, it)| (Kind::Head, it.place)));
        let gone = room.gone.zip(part.gone).filter(|(a, b)| *a == (segment, *b));
        let gone = gone.filter(|(_, it)| self.is_removal_needed(hash, name, segment, it.number));
        found.extend(gone.map(|(_, it)| (Kind::Gone, it.place)));
    }

    /// Whether a publication of a run is needed, and how many that follow it are as well, or are not.
    fn needed_of(&self, name: &str, segment: u64, run: &Run, skip: u64) -> (bool, u64) {
        let Some(room) = self.rooms.get(name) else { return (false, 1) };
        let (offset, end) = (run.first.saturating_add(skip), run.end());
        let line = &room.line;
        if offset < line.first || offset >= line.next {
            let until = if offset < line.first { line.first.min(end) } else { end };
            return (false, until.saturating_sub(offset).max(1));
        }
        let there = |it| self.sealed.contains_key(&it);
        match room.locate(offset, self.active.runs(name), there) {
            Some((stretch, it)) => {
                let same = stretch.segment == segment
                    && (it.generation, it.first, it.count)
                        == (run.generation, run.first, run.count);
                (same, stretch.end.min(end).saturating_sub(offset).max(1))
            }
            None => {
                let next = room.next_known(offset, self.active.runs(name).1);
                (false, next.min(end).saturating_sub(offset).max(1))
            }
        }
    }

    fn run_places(
        &mut self,
        segment: u64,
        run: &Run,
        skip: u64,
        count: u64,
    ) -> Result<Vec<(Kind, u32)>, ReadError> {
        let Places::Index(at) = run.places else { return Ok(Vec::new()) };
        let (at, count) = (at.saturating_add(skip as u32), count as u32);
        let places =
            self.with_index(segment, |reader, summary| reader.places(summary, at, count))?;
        Ok(places.into_iter().map(|it| (Kind::Append, it)).collect())
    }

    fn retire(&mut self, segment: u64) -> Result<(), WriteError> {
        if self.sealed.contains_key(&segment) {
            // One sync for the copies and for what says that they are enough: of both a crash keeps the first, or
            // the first and the second.
            self.fit(record::size(0, 0), true)?;
            let header = Header::new(Kind::Retired, 0, 0, segment);
            self.batch.put(&Arc::from(""), header, b"");
            self.write()?;
            self.sync()?;
            self.sealed.remove(&segment);
            self.stats.retired += 1;
        }
        self.next_victim();
        // If they can't be removed now, they are when the directory is opened next.
        for file in [File::Index(segment), File::Segment(segment)] {
            self.files.remove(file).map_err(WriteError::failed("removing", file))?;
        }
        self.files.sync_dir().map_err(WriteError::failed("syncing", File::Segment(segment)))
    }

    /// Whether a room may have something in a sealed segment.
    pub fn may_be_sealed(&self, room: &str) -> bool {
        let hash = filter::hash(room);
        self.sealed.values().any(|it| it.summary.filter.may_have(hash))
    }
}
