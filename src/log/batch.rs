//! A batch on its way to the disk: what rooms are to be, and the bytes that say so.
//!
//! What comes in: [`Op`]s, and the lines of their rooms. What goes out: records, side by side, and what to learn of
//! them once they are written; or a refusal, and the lines as they were.

use std::{collections::HashMap, sync::Arc};

use super::{
    error::Refusal,
    record::{self, Header, Kind, MAX_NAME},
    room::{Line, Room},
};

/// Something to be written.
#[derive(Debug, Clone, Copy)]
pub enum Op<'a> {
    /// Replaces what else is known of a room.
    Head {
        /// The room.
        room: &'a str,
        /// What is known.
        bytes: &'a [u8],
    },
    /// Adds a publication. The first of a room may have any offset.
    Append {
        /// The room.
        room: &'a str,
        /// One more than the last.
        offset: u64,
        /// When it was published, in milliseconds since 1970.
        time: u64,
        /// The publication.
        bytes: &'a [u8],
    },
    /// Forgets the publications before `first`. If the room does not reach there, it goes on from there.
    Trim {
        /// The room.
        room: &'a str,
        /// The first to be kept.
        first: u64,
    },
    /// Forgets the publications after `last`, since another copy overrules them.
    Truncate {
        /// The room.
        room: &'a str,
        /// The last to be kept.
        last: u64,
    },
    /// Writes a publication once more, which can't be read any more; unless it is not kept any more.
    Repair {
        /// The room.
        room: &'a str,
        /// Its offset.
        offset: u64,
        /// When it was published.
        time: u64,
        /// The publication.
        bytes: &'a [u8],
    },
    /// Forgets a room.
    Remove {
        /// The room.
        room: &'a str,
    },
}

impl<'a> Op<'a> {
    /// The room that it is about.
    pub fn room(&self) -> &'a str {
        match *self {
            Self::Head { room, .. }
            | Self::Append { room, .. }
            | Self::Trim { room, .. }
            | Self::Truncate { room, .. }
            | Self::Repair { room, .. }
            | Self::Remove { room } => room,
        }
    }

    fn bytes(&self) -> &'a [u8] {
        match *self {
            Self::Head { bytes, .. } | Self::Append { bytes, .. } | Self::Repair { bytes, .. } => {
                bytes
            }
            _ => &[],
        }
    }

    /// Whether it only gives space back, so that it may be written when there is hardly any.
    pub fn is_small(&self) -> bool {
        matches!(self, Self::Trim { .. } | Self::Truncate { .. } | Self::Remove { .. })
    }

    /// The most bytes that it takes.
    pub fn size(&self, line: &Line) -> usize {
        let mark = record::size(self.room().len(), (line.older.len() + 1) * 16);
        mark + record::size(self.room().len(), self.bytes().len())
    }
}

/// A record that is on its way to the disk.
#[derive(Debug)]
pub struct Pending {
    /// Its room.
    pub room: Arc<str>,
    /// Its header.
    pub header: Header,
    /// Where it will be.
    pub place: u32,
}

/// A batch on its way to the disk.
#[derive(Debug, Default)]
pub struct Batch {
    /// The records.
    pub bytes: Vec<u8>,
    /// What to learn of them.
    pub pending: Vec<Pending>,
    undo: Vec<(Arc<str>, Line)>,
    /// Where the segment will go on.
    base: u32,
    synced: u32,
    seed: u32,
    last: usize,
}

impl Batch {
    /// Begins a batch in a segment with this seed, which ends at `base` and is synced up to `synced`.
    pub fn begin(&mut self, base: u32, synced: u32, seed: u32) {
        self.bytes.clear();
        self.pending.clear();
        self.undo.clear();
        (self.base, self.synced, self.seed) = (base, synced, seed);
    }

    /// Adds a record.
    pub fn put(&mut self, room: &Arc<str>, header: Header, body: &[u8]) {
        let place = self.base + self.bytes.len() as u32;
        let mut header = Header { synced: self.synced, more: true, ..header };
        self.last = self.bytes.len();
        record::encode(&header, room, body, self.seed, &mut self.bytes);
        // Lengths are set by the encoder.
        (header.name, header.body) = (room.len() as u16, body.len() as u32);
        self.pending.push(Pending { room: room.clone(), header, place });
    }

    /// Ends the batch with what is its last record now.
    pub fn end(&mut self) {
        if let Some(last) = self.bytes.get_mut(self.last..) {
            record::end_batch(last, self.seed);
        }
    }

    /// Adds what `op` asks for, and changes the line of its room. `number` is the next number to be given.
    pub fn stage(
        &mut self,
        op: &Op<'_>,
        name: &Arc<str>,
        line: &mut Line,
        number: &mut u64,
    ) -> Result<(), Refusal> {
        if op.room().len() > MAX_NAME {
            return Err(Refusal::TooLarge { size: op.room().len(), max: MAX_NAME });
        }
        self.undo.push((name.clone(), line.clone()));
        match *op {
            Op::Head { bytes, .. } => {
                let header = Header::new(Kind::Head, line.generation, line.from, take(number));
                line.headed = true;
                self.put(name, header, bytes);
            }
            Op::Append { offset, time, bytes, .. } => {
                if line.generation == 0 {
                    self.give_birth(name, line, offset, number);
                }
                if offset != line.next || offset == u64::MAX {
                    return Err(Refusal::OutOfOrder { expected: line.next, offset });
                }
                let header = Header::new(Kind::Append, line.generation, line.from, offset);
                line.next += 1;
                self.put(name, Header { time, ..header }, bytes);
            }
            Op::Trim { first, .. } if line.generation == 0 => {
                self.give_birth(name, line, first, number);
            }
            Op::Trim { first, .. } if first > line.first => {
                line.trim(first);
                self.mark(name, line);
            }
            Op::Truncate { last, .. } if last.saturating_add(1) < line.next => {
                line.turn(take(number), last + 1);
                self.mark(name, line);
            }
            Op::Repair { offset, time, bytes, .. } => {
                // Where it is kept no more, there is nothing to be repaired.
                if let Some((generation, from)) = line.generation_of(offset) {
                    let header = Header::new(Kind::Append, generation, from, offset);
                    self.put(name, Header { time, ..header }, bytes);
                }
            }
            Op::Remove { .. } if line.exists() => {
                let gone = take(number);
                *line = Line { gone, ..Line::default() };
                self.put(name, Header::new(Kind::Gone, gone, 0, 0), b"");
            }
            Op::Trim { .. } | Op::Truncate { .. } | Op::Remove { .. } => {}
        }
        Ok(())
    }

    fn give_birth(&mut self, name: &Arc<str>, line: &mut Line, first: u64, number: &mut u64) {
        (line.generation, line.from, line.first, line.next) = (take(number), 0, first, first);
        self.mark(name, line);
    }

    fn mark(&mut self, name: &Arc<str>, line: &Line) {
        let older = line.older.iter();
        let body: Vec<u8> =
            older.flat_map(|it| [it.0.to_le_bytes(), it.1.to_le_bytes()].concat()).collect();
        let header = Header::new(Kind::Mark, line.generation, line.from, line.first);
        self.put(name, header, &body);
    }

    /// Makes the lines what they were before the batch.
    pub fn undo(&mut self, rooms: &mut HashMap<Arc<str>, Room>) {
        for (name, line) in self.undo.drain(..).rev() {
            if let Some(room) = rooms.get_mut(&name) {
                room.line = line;
            }
        }
    }
}

/// What a mark says of earlier generations.
pub fn read_older(body: &[u8]) -> Vec<(u64, u64)> {
    let pairs = body.chunks_exact(16);
    pairs.filter_map(|it| Some((record::u64_at(it, 0)?, record::u64_at(it, 8)?))).collect()
}

fn take(number: &mut u64) -> u64 {
    let taken = *number;
    *number = taken.saturating_add(1);
    taken
}
