//! The index file of a sealed segment: what is where in it. A cache: what is wrong with it costs a scan.
//!
//! What comes in: [`Part`]s by name. What goes out: blocks with a checksum each, and from them the part of one
//! room, or of all in the order of their hashes, without reading the rest.
//!
//! ```text
//! block: 4,092 bytes, checksum; the bytes of all blocks, one after the other:
//!   header (128) | filter | rooms (80 each, by hash and name) | runs (60 each) | names | places (4 each)
//! ```

use std::sync::Arc;

use super::{
    files::{Fault, File, Files},
    filter::{self, Filter},
    part::{Gone, Head, Mark, Part, Places, Run},
    record::{seed, sum, u32_at, u64_at},
};

const MAGIC: &[u8; 8] = b"RClogIDX";
/// The version of the format of indexes.
pub const VERSION: u32 = 1;
const BLOCK: usize = 4096;
const PAYLOAD: usize = BLOCK - 4;
const HEADER: usize = 128;
const ROOM: usize = 80;
const RUN: usize = 60;
const PLACE: usize = 4;

/// What an index says of its segment. In memory for every sealed segment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// The segment.
    pub segment: u64,
    /// Where its last record ends.
    pub end: u32,
    /// The number that was to be given next when the segment was begun.
    pub begun: u64,
    /// The highest number that was given in it.
    pub highest: u64,
    /// Time of its newest publication.
    pub newest: u64,
    /// How many rooms it has something of.
    pub rooms: u32,
    runs: u32,
    names: u32,
    places: u32,
    /// Which.
    pub filter: Filter,
}

/// Why an index can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// It is missing, torn, of an earlier end of the segment, or has a bad checksum.
    Bad,
    /// It was written by another version.
    Version(u32),
    /// It is of another directory or another segment.
    Foreign,
    /// It can't be read.
    Fault(Fault),
}

impl From<Fault> for Unusable {
    fn from(fault: Fault) -> Self {
        match fault.kind {
            super::files::FaultKind::Missing | super::files::FaultKind::Unreadable => Self::Bad,
            _ => Self::Fault(fault),
        }
    }
}

/// What a segment has of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Of its name.
    pub hash: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What there is.
    pub part: Part,
}

impl Summary {
    /// Of a segment of which no part is known yet.
    pub fn of(segment: u64, begun: u64, end: u32) -> Self {
        Self { segment, begun, end, highest: begun, ..Self::default() }
    }

    fn section(&self, section: usize) -> usize {
        let sizes = [
            HEADER,
            self.filter.bytes().len(),
            self.rooms as usize * ROOM,
            self.runs as usize * RUN,
            self.names as usize,
        ];
        sizes.iter().take(section + 1).sum()
    }

    /// Bytes of its file.
    pub fn bytes(&self) -> u64 {
        let content = self.section(4) + self.places as usize * PLACE;
        (content.div_ceil(PAYLOAD) * BLOCK) as u64
    }

    /// Bytes that it takes in memory, about.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.filter.bytes().len()
    }
}

/// An index as it is written, of `parts` in the order of (hash, name). `summary` says of which segment.
pub fn build<'a>(
    id: u128,
    mut summary: Summary,
    parts: impl Iterator<Item = (u64, &'a Arc<str>, &'a Part)> + Clone,
) -> (Summary, Vec<u8>) {
    let (mut rooms, mut runs, mut names, mut places) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    summary.filter = Filter::new(parts.clone().count());
    for (hash, name, part) in parts {
        summary.rooms += 1;
        summary.filter.add(hash);
        summary.highest = summary.highest.max(part.highest());
        put_room(&mut rooms, hash, (names.len(), name.len()), runs.len() / RUN, part);
        names.extend_from_slice(name.as_bytes());
        for run in &part.runs {
            summary.newest = summary.newest.max(run.newest);
            put_run(&mut runs, run, places.len() / PLACE);
            if let Places::Memory(at) = &run.places {
                at.iter().for_each(|it| places.extend_from_slice(&it.to_le_bytes()));
            }
        }
    }
    summary.runs = (runs.len() / RUN) as u32;
    summary.names = names.len() as u32;
    summary.places = (places.len() / PLACE) as u32;
    let header = put_header(id, &summary);
    let all = [&header, summary.filter.bytes(), &rooms, &runs, &names, &places].concat();
    let mut out = Vec::with_capacity(all.len().div_ceil(PAYLOAD) * BLOCK);
    for (number, payload) in all.chunks(PAYLOAD).enumerate() {
        out.extend_from_slice(payload);
        out.resize(number * BLOCK + PAYLOAD, 0);
        let checked = sum(block_seed(id, summary.segment, number), &out[number * BLOCK..]);
        out.extend_from_slice(&checked.to_le_bytes());
    }
    (summary, out)
}

fn block_seed(id: u128, segment: u64, block: usize) -> u32 {
    sum(seed(id, segment), &(block as u64).to_le_bytes())
}

fn put_header(id: u128, it: &Summary) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    let filter = it.filter.bytes().len() as u32;
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&it.end.to_le_bytes());
    out.extend_from_slice(&id.to_le_bytes());
    for field in [it.segment, it.begun, it.highest, it.newest] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for field in [it.rooms, it.runs, it.names, it.places, filter] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.resize(HEADER, 0);
    out
}

fn put_room(out: &mut Vec<u8>, hash: u64, name: (usize, usize), run: usize, part: &Part) {
    let begin = out.len();
    let mark =
        part.mark.unwrap_or(Mark { generation: 0, from: 0, first: 0, place: 0, deep: false });
    let gone = part.gone.unwrap_or(Gone { number: 0, place: 0 });
    let head = part.head.unwrap_or(Head { number: 0, place: 0, bytes: 0 });
    for field in [hash, mark.generation, mark.from, mark.first, gone.number, head.number] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for field in [mark.place, gone.place, head.place, head.bytes, name.0 as u32, run as u32] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(&(name.1 as u16).to_le_bytes());
    // A room's runs are those up to the next room's.
    out.push(u8::from(mark.deep));
    out.resize(begin + ROOM, 0);
}

fn put_run(out: &mut Vec<u8>, run: &Run, place: usize) {
    for field in [run.generation, run.from, run.first, run.bytes, run.oldest, run.newest] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for field in [run.count, place as u32, 0] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

/// The summary in an index file, with its filter.
pub fn open(files: &impl Files, id: u128, segment: u64) -> Result<Summary, Unusable> {
    let file = File::Index(segment);
    let mut start = [0; HEADER];
    if files.read(file, 0, &mut start)? < HEADER || &start[..8] != MAGIC {
        return Err(Unusable::Bad);
    }
    let found = u32_at(&start, 8).unwrap_or(0);
    let whole = Reader { files, id, segment }.read(0, HEADER);
    // A bit that flipped in the version is no other version.
    if found != VERSION {
        let known = (1..64).contains(&found) && whole.is_ok();
        return Err(if known { Unusable::Version(found) } else { Unusable::Bad });
    }
    let Ok(header) = whole else {
        return Err(foreign(files, &start, id, segment));
    };
    let u32_at = |at| u32_at(&header, at).unwrap_or(0);
    let u64_at = |at| u64_at(&header, at).unwrap_or(0);
    let mut summary = Summary {
        segment: u64_at(32),
        end: u32_at(12),
        begun: u64_at(40),
        highest: u64_at(48),
        newest: u64_at(56),
        rooms: u32_at(64),
        runs: u32_at(68),
        names: u32_at(72),
        places: u32_at(76),
        filter: Filter::default(),
    };
    let filter = u32_at(80) as usize;
    if filter as u64 > files.len(file)? {
        return Err(Unusable::Bad);
    }
    summary.filter = Filter::read(Reader { files, id, segment }.read(HEADER, filter)?);
    Ok(summary)
}

/// Whether an index is whole, but of another directory or segment.
fn foreign(files: &impl Files, start: &[u8], id: u128, segment: u64) -> Unusable {
    let its_id = start.get(16..32).and_then(|it| it.try_into().ok()).map(u128::from_le_bytes);
    let its_segment = u64_at(start, 32).unwrap_or(segment);
    let its_id = its_id.unwrap_or(id);
    let mut block = vec![0; BLOCK];
    let read = files.read(File::Index(segment), 0, &mut block);
    let whole = read.is_ok_and(|it| it == BLOCK)
        && u32_at(&block, PAYLOAD)
            == Some(sum(block_seed(its_id, its_segment, 0), &block[..PAYLOAD]));
    if whole && (its_id, its_segment) != (id, segment) { Unusable::Foreign } else { Unusable::Bad }
}

/// Reads an index file.
#[derive(Debug)]
pub struct Reader<'a, F> {
    /// Where it is.
    pub files: &'a F,
    /// Of the directory.
    pub id: u128,
    /// The segment.
    pub segment: u64,
}

impl<F: Files> Reader<'_, F> {
    fn read(&self, at: usize, len: usize) -> Result<Vec<u8>, Unusable> {
        if len == 0 {
            return Ok(Vec::new());
        }
        let (first, last) = (at / PAYLOAD, (at + len - 1) / PAYLOAD);
        let blocks = last - first + 1;
        let file = File::Index(self.segment);
        // What a header says of lengths is not believed before the file has as much.
        if self.files.len(file)? < ((last + 1) * BLOCK) as u64 {
            return Err(Unusable::Bad);
        }
        let mut read = vec![0; blocks * BLOCK];
        if self.files.read(file, (first * BLOCK) as u64, &mut read)? < read.len() {
            return Err(Unusable::Bad);
        }
        let mut out = Vec::with_capacity(blocks * PAYLOAD);
        for (number, block) in read.chunks_exact(BLOCK).enumerate() {
            let expected =
                sum(block_seed(self.id, self.segment, first + number), &block[..PAYLOAD]);
            if u32_at(block, PAYLOAD) != Some(expected) {
                return Err(Unusable::Bad);
            }
            out.extend_from_slice(&block[..PAYLOAD]);
        }
        let skip = at % PAYLOAD;
        out.truncate(skip + len);
        out.drain(..skip);
        Ok(out)
    }

    fn hash_at(&self, summary: &Summary, number: u32) -> Result<u64, Unusable> {
        let bytes = self.read(summary.section(1) + number as usize * ROOM, 8)?;
        u64_at(&bytes, 0).ok_or(Unusable::Bad)
    }

    /// The number of the first room whose hash is not below this one.
    pub fn seek(&self, summary: &Summary, hash: u64) -> Result<u32, Unusable> {
        let (mut low, mut high) = (0, summary.rooms);
        // Hashes are evenly spread, so the first guesses are nearly right.
        let (mut below, mut above) = (0, u64::MAX);
        let mut tries = 0;
        while low < high {
            let span = u128::from(high - low);
            let guess = if tries < 6 && above > below {
                span * u128::from(hash.clamp(below, above) - below)
                    / (u128::from(above - below) + 1)
            } else {
                span / 2
            };
            let middle = low + guess as u32;
            let found = self.hash_at(summary, middle)?;
            if found < hash {
                (low, below) = (middle + 1, found);
            } else {
                (high, above) = (middle, found);
            }
            tries += 1;
        }
        Ok(low)
    }

    /// So many entries, from this number on.
    pub fn entries(
        &self,
        summary: &Summary,
        first: u32,
        count: u32,
    ) -> Result<Vec<Entry>, Unusable> {
        let count = count.min(summary.rooms.saturating_sub(first)) as usize;
        // One more than are wanted, since it says where the runs and the name of the last end.
        let more = usize::from((first as usize + count) < summary.rooms as usize);
        let at = summary.section(1) + first as usize * ROOM;
        let rooms = self.read(at, (count + more) * ROOM)?;
        let edges = |number: usize| -> Option<(u32, u32)> {
            if number == count + more {
                return Some((summary.names, summary.runs));
            }
            Some((u32_at(&rooms, number * ROOM + 64)?, u32_at(&rooms, number * ROOM + 68)?))
        };
        let (name_from, run_from) = edges(0).ok_or(Unusable::Bad)?;
        let (name_to, run_to) = edges(count).ok_or(Unusable::Bad)?;
        if count == 0 || name_from > name_to || run_from > run_to {
            return if count == 0 { Ok(Vec::new()) } else { Err(Unusable::Bad) };
        }
        let names =
            self.read(summary.section(3) + name_from as usize, (name_to - name_from) as usize)?;
        let runs = (run_to - run_from) as usize * RUN;
        let runs = self.read(summary.section(2) + run_from as usize * RUN, runs)?;
        (0..count)
            .map(|number| {
                let ((name, run), (_, end)) = (edges(number)?, edges(number + 1)?);
                let entry = rooms.get(number * ROOM..(number + 1) * ROOM)?;
                let name = names.get(name.checked_sub(name_from)? as usize..)?;
                let from = run.checked_sub(run_from)? as usize * RUN;
                let to = end.checked_sub(run_from)? as usize * RUN;
                get_room(entry, name, runs.get(from..to)?)
            })
            .collect::<Option<Vec<Entry>>>()
            .ok_or(Unusable::Bad)
    }

    /// What the segment has of a room.
    pub fn find(&self, summary: &Summary, hash: u64, name: &str) -> Result<Option<Part>, Unusable> {
        if !summary.filter.may_have(hash) {
            return Ok(None);
        }
        let first = self.seek(summary, hash)?;
        for number in first..summary.rooms {
            let Some(entry) = self.entries(summary, number, 1)?.pop() else { break };
            if entry.hash != hash {
                break;
            }
            if &*entry.name == name {
                return Ok(Some(entry.part));
            }
        }
        Ok(None)
    }

    /// So many places, from this number on.
    pub fn places(&self, summary: &Summary, first: u32, count: u32) -> Result<Vec<u32>, Unusable> {
        if first.checked_add(count).is_none_or(|it| it > summary.places) {
            return Err(Unusable::Bad);
        }
        let bytes = self.read(summary.section(4) + first as usize * 4, count as usize * 4)?;
        Ok((0..count as usize).filter_map(|it| u32_at(&bytes, it * 4)).collect())
    }
}

fn get_room(bytes: &[u8], names: &[u8], runs: &[u8]) -> Option<Entry> {
    let length = u16::from_le_bytes(bytes.get(72..74)?.try_into().ok()?);
    let name = std::str::from_utf8(names.get(..length.into())?).ok()?;
    let mark = Mark {
        generation: u64_at(bytes, 8)?,
        from: u64_at(bytes, 16)?,
        first: u64_at(bytes, 24)?,
        place: u32_at(bytes, 48)?,
        deep: *bytes.get(74)? == 1,
    };
    let gone = Gone { number: u64_at(bytes, 32)?, place: u32_at(bytes, 52)? };
    let head =
        Head { number: u64_at(bytes, 40)?, place: u32_at(bytes, 56)?, bytes: u32_at(bytes, 60)? };
    let part = Part {
        runs: runs.chunks_exact(RUN).map(get_run).collect::<Option<Vec<_>>>()?,
        mark: (mark.generation > 0).then_some(mark),
        gone: (gone.number > 0).then_some(gone),
        head: (head.number > 0).then_some(head),
    };
    // Whoever goes on after this name gets to the same place.
    let hash = u64_at(bytes, 0).filter(|it| *it == filter::hash(name))?;
    Some(Entry { hash, name: name.into(), part })
}

fn get_run(bytes: &[u8]) -> Option<Run> {
    Some(Run {
        generation: u64_at(bytes, 0)?,
        from: u64_at(bytes, 8)?,
        first: u64_at(bytes, 16)?,
        bytes: u64_at(bytes, 24)?,
        oldest: u64_at(bytes, 32)?,
        newest: u64_at(bytes, 40)?,
        count: u32_at(bytes, 48)?,
        places: Places::Index(u32_at(bytes, 52)?),
    })
}
