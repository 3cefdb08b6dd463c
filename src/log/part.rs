//! What one segment has of one room.
//!
//! What comes in: the headers of records, and where they are. What goes out: a [`Part`], which an index keeps.

use super::record::{Header, Kind};

/// What one segment has of one room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Its publications.
    pub runs: Vec<Run>,
    /// The last mark.
    pub mark: Option<Mark>,
    /// The last removal.
    pub gone: Option<Gone>,
    /// The last head.
    pub head: Option<Head>,
}

/// Publications of one generation, with offsets that rise by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The generation.
    pub generation: u64,
    /// Where the generation began.
    pub from: u64,
    /// The first offset.
    pub first: u64,
    /// How many there are.
    pub count: u32,
    /// Bytes of the records.
    pub bytes: u64,
    /// Time of the oldest.
    pub oldest: u64,
    /// Time of the newest.
    pub newest: u64,
    /// Where the records are.
    pub places: Places,
}

/// Where the records of a run are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Places {
    /// Here.
    Memory(Vec<u32>),
    /// In the index of the segment, from this number on.
    Index(u32),
}

impl Run {
    /// The offset after the last.
    pub fn end(&self) -> u64 {
        self.first.saturating_add(self.count.into())
    }

    /// Bytes of so many of its records, about.
    pub fn share(&self, count: u64) -> u64 {
        let all = u64::from(self.count).max(1);
        if count >= all { self.bytes } else { (self.bytes / all).saturating_mul(count) }
    }
}

/// From where to where a room reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The generation.
    pub generation: u64,
    /// Where the generation began.
    pub from: u64,
    /// The first offset that is kept.
    pub first: u64,
    /// Where the record is.
    pub place: u32,
    /// The record says which earlier generations reach up to where.
    pub deep: bool,
}

/// The room was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Every lower number is void.
    pub number: u64,
    /// Where the record is.
    pub place: u32,
}

/// What else is known of the room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The highest is the one that counts.
    pub number: u64,
    /// Where the record is.
    pub place: u32,
    /// Bytes of the record.
    pub bytes: u32,
}

impl Part {
    /// Learns of a record.
    pub fn note(&mut self, header: &Header, place: u32) {
        let Header { generation, from, at, .. } = *header;
        match header.kind {
            Kind::Append => self.note_append(header, place),
            Kind::Head => {
                let head = Head { number: at, place, bytes: header.size() as u32 };
                if self.head.is_none_or(|it| it.number <= at) {
                    self.head = Some(head);
                }
            }
            Kind::Mark => {
                let mark = Mark { generation, from, first: at, place, deep: header.body > 0 };
                if self.mark.is_none_or(|it| (it.generation, it.first) <= (generation, at)) {
                    self.mark = Some(mark);
                }
            }
            Kind::Gone => {
                if self.gone.is_none_or(|it| it.number <= generation) {
                    self.gone = Some(Gone { number: generation, place });
                }
            }
            Kind::Manifest | Kind::Retired | Kind::Note => {}
        }
    }

    fn note_append(&mut self, header: &Header, place: u32) {
        let (bytes, time) = (header.size() as u64, header.time);
        if let Some(run) = self.runs.last_mut()
            && (run.generation, run.end()) == (header.generation, header.at)
            && let Places::Memory(places) = &mut run.places
        {
            places.push(place);
            run.count += 1;
            run.bytes += bytes;
            run.oldest = run.oldest.min(time);
            run.newest = run.newest.max(time);
            return;
        }
        self.runs.push(Run {
            generation: header.generation,
            from: header.from,
            first: header.at,
            count: 1,
            bytes,
            oldest: time,
            newest: time,
            places: Places::Memory(vec![place]),
        });
    }

    /// The highest number of a generation, head or removal in it.
    pub fn highest(&self) -> u64 {
        let runs = self.runs.iter().map(|it| it.generation).max().unwrap_or(0);
        let mark = self.mark.map_or(0, |it| it.generation);
        let gone = self.gone.map_or(0, |it| it.number);
        let head = self.head.map_or(0, |it| it.number);
        runs.max(mark).max(gone).max(head)
    }
}
