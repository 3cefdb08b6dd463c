//! The store: rooms on disk.
//!
//! What comes in: batches of [`Op`]s, and questions. What goes out: writes and syncs of its files, and answers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
};

use super::{
    batch::{self, Batch, Op},
    error::{Damage, ReadError, Refusal, WriteError},
    files::{Fault, FaultKind, File, Files},
    filter,
    index::{self, Reader, Summary, Unusable},
    part::{Part, Places},
    record::{self, Header, Kind, seed},
    retention::Sweep,
    room::{Room, Span},
    segment::{Manifest, Start},
    sizes::{max_batch, reserve},
};

/// How a store is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes of a segment.
    pub segment_bytes: u32,
    /// Rooms whose indexes are kept in memory, at least while they are used.
    pub rooms_in_memory: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, rooms_in_memory: 100_000 }
    }
}

/// What a store has done, and has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Segment files.
    pub segments: usize,
    /// Bytes of them, with their indexes.
    pub bytes: u64,
    /// Of those, what is needed, as far as is known: what was not looked through yet counts whole.
    pub live: u64,
    /// Rooms in memory.
    pub rooms: usize,
    /// Bytes of what is in memory of sealed segments, about.
    pub memory: usize,
    /// Records written.
    pub records: u64,
    /// Bytes written.
    pub written: u64,
    /// Syncs of segments.
    pub syncs: u64,
    /// Bytes copied forward.
    pub copied: u64,
    /// Segments given back.
    pub retired: u64,
}

/// A segment that is written no more.
#[derive(Debug)]
pub(super) struct Sealed {
    /// What its index says.
    pub summary: Summary,
    /// Bytes of it that are needed, if that is known.
    pub live: Option<u64>,
}

impl Sealed {
    /// Bytes that it takes on the disk, with its index.
    pub fn bytes(&self) -> u64 {
        self.with_index(self.summary.end.into())
    }

    /// So many bytes of it, with what its index has of them.
    pub fn with_index(&self, bytes: u64) -> u64 {
        let all = u64::from(self.summary.end).max(1);
        bytes + bytes.saturating_mul(self.summary.bytes()) / all
    }
}

/// The segment that is being written.
#[derive(Debug)]
pub(super) struct Active {
    pub number: u64,
    pub begun: u64,
    pub end: u32,
    pub synced: u32,
    pub parts: HashMap<Arc<str>, Part>,
    /// The rooms of `parts` in their order.
    pub order: BTreeSet<(u64, Arc<str>)>,
}

impl Active {
    pub fn new(number: u64, begun: u64, end: u32) -> Self {
        Self { number, begun, end, synced: end, parts: HashMap::new(), order: BTreeSet::new() }
    }

    pub fn note(&mut self, room: &Arc<str>, header: &Header, place: u32) {
        if let Some(part) = self.parts.get_mut(room) {
            return part.note(header, place);
        }
        self.order.insert((filter::hash(room), room.clone()));
        self.parts.entry(room.clone()).or_default().note(header, place);
    }

    /// Its publications of a room.
    pub fn runs(&self, room: &str) -> (u64, &[super::part::Run]) {
        (self.number, self.parts.get(room).map_or(&[][..], |it| &it.runs))
    }
}

/// Rooms on disk.
#[derive(Debug)]
pub struct Store<F> {
    pub(super) files: F,
    pub(super) id: u128,
    pub(super) options: Options,
    /// The next number of a generation, head or removal.
    pub(super) number: u64,
    pub(super) active: Active,
    pub(super) sealed: BTreeMap<u64, Sealed>,
    /// Those in use. What is in them can be read from the indexes again.
    pub(super) rooms: HashMap<Arc<str>, Room>,
    pub(super) ring: VecDeque<Arc<str>>,
    pub(super) batch: Batch,
    /// Why nothing is written any more.
    pub(super) closed: Option<String>,
    /// After the end of the active segment there may be a part of a batch that was refused.
    pub(super) torn: bool,
    pub(super) sweep: Sweep,
    pub(super) damage: Vec<Damage>,
    /// The gaps of rooms that were told already, so that each is told once.
    pub(super) told: HashMap<Arc<str>, Vec<(u64, u64)>>,
    pub(super) stats: Stats,
}

impl<F: Files> Store<F> {
    /// Writes a batch, all of it or nothing. It is durable once [`Self::sync`] has succeeded; until then a crash may
    /// undo it, with all that were written after it.
    pub fn commit(&mut self, ops: &[Op<'_>]) -> Result<(), WriteError> {
        self.can_write()?;
        self.make_space();
        let size = self.size(ops)?;
        self.fit(size, ops.iter().all(Op::is_small))?;
        let number = self.number;
        for (place, op) in ops.iter().enumerate() {
            if let Err(refusal) = self.stage(op) {
                self.batch.undo(&mut self.rooms);
                self.number = number;
                return Err(WriteError::Refused { op: place, room: op.room().to_owned(), refusal });
            }
        }
        self.write()
    }

    /// The most bytes that a batch takes. All its rooms are in memory then.
    fn size(&mut self, ops: &[Op<'_>]) -> Result<usize, WriteError> {
        let (mut size, max) = (0, self.max_batch());
        for (number, op) in ops.iter().enumerate() {
            let room = self.room(op.room()).map_err(|why| WriteError::Refused {
                op: number,
                room: op.room().to_owned(),
                refusal: Refusal::Unreadable(why),
            })?;
            size += op.size(&room.line);
            if size > max {
                let (room, refusal) = (op.room().to_owned(), Refusal::TooLarge { size, max });
                return Err(WriteError::Refused { op: number, room, refusal });
            }
        }
        // An index that had to be made again has emptied the memory.
        let all = ops.iter().all(|op| self.rooms.contains_key(op.room()));
        if all { Ok(size) } else { self.size(ops) }
    }

    fn stage(&mut self, op: &Op<'_>) -> Result<(), Refusal> {
        let Some((name, _)) = self.rooms.get_key_value(op.room()) else { return Ok(()) };
        let name = name.clone();
        let Some(room) = self.rooms.get_mut(&name) else { return Ok(()) };
        self.batch.stage(op, &name, &mut room.line, &mut self.number)
    }

    /// Makes all that was written durable. If it fails, nobody knows what is on the disk, and a second sync would
    /// say nothing about that: the store closes.
    pub fn sync(&mut self) -> Result<(), WriteError> {
        if let Some(why) = &self.closed {
            return Err(WriteError::Closed { why: why.clone() });
        }
        if self.active.synced == self.active.end {
            return Ok(());
        }
        let file = File::Segment(self.active.number);
        self.files
            .sync(file)
            .map_err(|fault| self.close_for(format!("syncing {file}: {fault}")))?;
        self.active.synced = self.active.end;
        self.stats.syncs += 1;
        Ok(())
    }

    /// Where what was written ends: segment, and place.
    pub(super) fn end(&self) -> (u64, u32) {
        (self.active.number, self.active.end)
    }

    /// Up to where it was synced.
    pub(super) fn synced(&self) -> (u64, u32) {
        (self.active.number, self.active.synced)
    }

    /// Syncs, and leaves a note of it, so that nothing of what was synced can be taken for torn.
    pub fn close(mut self) -> Result<(), WriteError> {
        self.sync()?;
        self.fit(record::size(0, 0), true)?;
        self.batch.put(&Arc::from(""), Header::new(Kind::Note, 0, 0, 0), b"");
        self.write()?;
        self.sync()
    }

    /// Damage that was found since this was last asked.
    pub fn take_damage(&mut self) -> Vec<Damage> {
        std::mem::take(&mut self.damage)
    }

    /// What it has done, and has.
    pub fn stats(&self) -> Stats {
        let sealed = || self.sealed.values();
        let active = u64::from(self.active.end);
        let needed = |it: &Sealed| it.live.unwrap_or_else(|| it.bytes());
        Stats {
            segments: self.sealed.len() + 1,
            bytes: sealed().map(Sealed::bytes).sum::<u64>() + active,
            live: sealed().map(needed).sum::<u64>() + active,
            rooms: self.rooms.len(),
            memory: sealed().map(|it| it.summary.weight()).sum(),
            ..self.stats
        }
    }

    pub(super) fn close_for(&mut self, why: String) -> WriteError {
        self.closed = Some(why.clone());
        WriteError::Closed { why }
    }

    pub(super) fn max_batch(&self) -> usize {
        max_batch(self.options.segment_bytes, self.sealed.len() + 1)
    }

    fn reserve(&self) -> usize {
        reserve(self.options.segment_bytes)
    }

    /// Whether so many bytes, and what says that they are all that was needed of a segment, leave half of the reserve to
    /// trims.
    pub(super) fn leaves_half_of_the_reserve(&self, bytes: u64) -> bool {
        let end = u64::from(self.active.end) + bytes + record::size(0, 0) as u64;
        end + self.reserve() as u64 / 2 <= self.options.segment_bytes.into()
    }

    /// Whether anything can be written: not after a failed sync, and after a failed write only once its traces are
    /// gone, since a crash would bring them back.
    pub(super) fn can_write(&mut self) -> Result<(), WriteError> {
        if let Some(why) = &self.closed {
            return Err(WriteError::Closed { why: why.clone() });
        }
        if self.torn {
            let file = File::Segment(self.active.number);
            let (end, size) = (self.active.end.into(), self.options.segment_bytes.into());
            self.files.cut(file, end, size).map_err(WriteError::failed("cutting", file))?;
            self.files
                .sync(file)
                .map_err(|fault| self.close_for(format!("syncing {file}: {fault}")))?;
            (self.active.synced, self.torn) = (self.active.end, false);
        }
        Ok(())
    }

    /// Begins a batch of at most so many bytes: in the active segment, or in a new one.
    pub(super) fn fit(&mut self, size: usize, small: bool) -> Result<(), WriteError> {
        let end = self.active.end as usize + size;
        let limit = self.options.segment_bytes as usize;
        if end > limit - self.reserve() {
            match self.roll() {
                Err(error) if error.is_full() && small && end <= limit => {}
                rolled => rolled?,
            }
        }
        let seed = seed(self.id, self.active.number);
        self.batch.begin(self.active.end, self.active.synced, seed);
        Ok(())
    }

    /// Writes the batch, and learns what is in it.
    pub(super) fn write(&mut self) -> Result<(), WriteError> {
        self.batch.end();
        if self.batch.bytes.is_empty() {
            return Ok(());
        }
        let file = File::Segment(self.active.number);
        if let Err(fault) = self.files.write(file, self.active.end.into(), &self.batch.bytes) {
            self.batch.undo(&mut self.rooms);
            self.torn = true;
            let file = file.to_string();
            return Err(WriteError::Failed { doing: "writing", file, fault, torn: true });
        }
        self.active.end += self.batch.bytes.len() as u32;
        self.stats.written += self.batch.bytes.len() as u64;
        self.stats.records += self.batch.pending.len() as u64;
        let pending = std::mem::take(&mut self.batch.pending);
        for it in pending.iter().filter(|it| it.header.kind.is_of_room()) {
            self.active.note(&it.room, &it.header, it.place);
            if it.header.kind != Kind::Append
                && let Some(room) = self.rooms.get_mut(&it.room)
                && let Some(part) = self.active.parts.get(&it.room)
            {
                room.learn(self.active.number, part);
            }
        }
        self.batch.pending = pending;
        Ok(())
    }

    /// Seals the active segment, and begins another. Until the new one is whole on disk, the old one stays.
    pub(super) fn roll(&mut self) -> Result<(), WriteError> {
        self.sync()?;
        let old = self.active.number;
        let (summary, bytes) = self.index();
        let file = File::Index(old);
        let written = self.files.create(file, bytes.len() as u64);
        let written = written.and_then(|()| self.files.write(file, 0, &bytes));
        // A cache; but what can't be synced now is better found out before anything depends on it.
        written
            .and_then(|()| self.files.sync(file))
            .map_err(WriteError::failed("writing", file))?;
        let end = self.begin_segment(old + 1, Some((old, self.active.end)))?;
        let parts = std::mem::take(&mut self.active.parts);
        self.pass_on(old, parts);
        self.sealed.insert(old, Sealed { summary, live: None });
        self.active = Active::new(old + 1, self.number, end);
        // The rest is given back. If that fails, it stays.
        let kept = u64::from(self.sealed[&old].summary.end);
        let _ = self.files.cut(File::Segment(old), kept, kept);
        Ok(())
    }

    /// The index of the active segment.
    fn index(&self) -> (Summary, Vec<u8>) {
        let Active { number, begun, end, .. } = self.active;
        let summary = Summary::of(number, begun, end);
        let parts = self.active.order.iter();
        let parts =
            parts.filter_map(|(hash, name)| Some((*hash, name, self.active.parts.get(name)?)));
        index::build(self.id, summary, parts)
    }

    /// Makes a segment with nothing in it but which others there are. Returns where it ends.
    pub(super) fn begin_segment(
        &mut self,
        number: u64,
        last: Option<(u64, u32)>,
    ) -> Result<u32, WriteError> {
        let sealed = self.sealed.iter().map(|(number, it)| (*number, it.summary.end));
        let manifest = Manifest(sealed.chain(last).collect()).encode();
        let mut bytes = Start::new(self.id, number, self.number).encode();
        let header = Header::new(Kind::Manifest, 0, 0, 0);
        record::encode(&header, "", &manifest, seed(self.id, number), &mut bytes);
        let file = File::Segment(number);
        let size = u64::from(self.options.segment_bytes).max(bytes.len() as u64);
        let made = self.files.create(file, size);
        let made = made.and_then(|()| self.files.write(file, 0, &bytes));
        if let Err(fault) = made {
            // Were it found after a crash, it would end the one that is still written.
            let gone = match self.files.len(file) {
                Err(Fault { kind: FaultKind::Missing, .. }) => Ok(()),
                _ => self.files.remove(file),
            };
            let gone = gone.and_then(|()| self.files.sync_dir());
            return match gone {
                Ok(()) => Err(WriteError::failed("making", file)(fault)),
                Err(_) => Err(self.close_for(format!("making {file}: {fault}"))),
            };
        }
        let synced = self.files.sync(file).and_then(|()| self.files.sync_dir());
        synced.map_err(|fault| self.close_for(format!("syncing {file}: {fault}")))?;
        Ok(bytes.len() as u32)
    }

    /// What was in memory as being in the active segment is in its index from here on.
    fn pass_on(&mut self, segment: u64, parts: HashMap<Arc<str>, Part>) {
        let mut next = 0;
        for (_, name) in &self.active.order {
            let Some(part) = parts.get(name) else { continue };
            let mut room = self.rooms.get_mut(name);
            if let Some(room) = &mut room {
                room.spans.retain(|it| self.sealed.contains_key(&it.segment));
            }
            for run in &part.runs {
                if let Some(room) = &mut room
                    && run.generation > room.line.gone
                {
                    let run = super::part::Run { places: Places::Index(next), ..run.clone() };
                    room.spans.push(Span { segment, run });
                }
                next += run.count;
            }
        }
    }

    /// The room, from memory or from the indexes.
    pub(super) fn room(&mut self, name: &str) -> Result<&mut Room, ReadError> {
        if !self.rooms.contains_key(name) {
            let room = self.assemble(name)?;
            self.remember(&name.into(), room);
        }
        let room = self.rooms.get_mut(name).expect("it was there, or was put there");
        room.used = true;
        Ok(room)
    }

    /// Takes a room that was put together into memory, unless it is there.
    pub(super) fn remember(&mut self, name: &Arc<str>, room: Room) {
        if !self.rooms.contains_key(name) {
            self.ring.push_back(name.clone());
            self.rooms.insert(name.clone(), room);
        }
    }

    fn assemble(&mut self, name: &str) -> Result<Room, ReadError> {
        let hash = filter::hash(name);
        let mut room = Room::default();
        let numbers: Vec<u64> = self.sealed.keys().copied().collect();
        for number in numbers {
            let part =
                self.with_index(number, |reader, summary| reader.find(summary, hash, name))?;
            if let Some(part) = part {
                room.learn(number, &part);
                room.spans.extend(part.runs.into_iter().map(|run| Span { segment: number, run }));
            }
        }
        self.finish(name, room)
    }

    /// Settles a room of which all sealed segments were asked.
    pub(super) fn finish(&mut self, name: &str, mut room: Room) -> Result<Room, ReadError> {
        if let Some(part) = self.active.parts.get(name) {
            room.learn(self.active.number, part);
        }
        let older = match room.mark {
            Some((segment, mark)) if mark.deep => self.older(name, segment, mark.place)?,
            _ => Vec::new(),
        };
        room.settle(older, self.active.runs(name).1);
        Ok(room)
    }

    fn older(&self, name: &str, segment: u64, place: u32) -> Result<Vec<(u64, u64)>, ReadError> {
        let read = super::read::record_at(&self.files, self.id, segment, place)?;
        // Of what is damaged nothing is believed: earlier generations are not served then.
        let read = read.filter(|it| it.header.kind == Kind::Mark && it.name == name);
        Ok(read.map_or_else(Vec::new, |it| batch::read_older(&it.body)))
    }

    /// Asks the index of a sealed segment, and makes it again if it is bad.
    pub(super) fn with_index<T>(
        &mut self,
        segment: u64,
        ask: impl Fn(&Reader<'_, F>, &Summary) -> Result<T, Unusable>,
    ) -> Result<T, ReadError> {
        for again in [true, false] {
            let Some(sealed) = self.sealed.get(&segment) else { break };
            let reader = Reader { files: &self.files, id: self.id, segment };
            match ask(&reader, &sealed.summary) {
                Ok(answer) => return Ok(answer),
                Err(Unusable::Fault(fault)) => {
                    return Err(ReadError { file: File::Index(segment), fault });
                }
                Err(_) if again => self.index_again(segment)?,
                Err(_) => {}
            }
        }
        Err(ReadError::unusable(File::Index(segment)))
    }

    /// Makes the index of a sealed segment again, from the segment.
    pub(super) fn index_again(&mut self, segment: u64) -> Result<(), ReadError> {
        let Some(end) = self.sealed.get(&segment).map(|it| it.summary.end) else { return Ok(()) };
        let (summary, damage) =
            super::opening::index_again(&mut self.files, self.id, segment, end)?;
        // What is in memory says where things are in the index that was.
        self.rooms.clear();
        self.ring.clear();
        self.sealed.insert(segment, Sealed { summary, live: None });
        self.damage.extend(damage);
        Ok(())
    }

    /// Forgets rooms that were not used for a while, if there are too many in memory.
    pub(super) fn make_space(&mut self) {
        while self.rooms.len() > self.options.rooms_in_memory {
            let Some(name) = self.ring.pop_front() else { break };
            match self.rooms.get_mut(&name) {
                Some(room) if room.used => {
                    room.used = false;
                    self.ring.push_back(name);
                }
                _ => {
                    self.rooms.remove(&name);
                }
            }
        }
    }
}
