//! A segment file: how it begins, and how its records are found again.
//!
//! What comes in: the bytes of a segment. What goes out: which records are in it, which bytes are bad, and where
//! to cut it if it was being written when the process ended.

use super::{
    files::{Fault, File, Files},
    record::{self, ALIGN, Header, Kind, sum, u32_at, u64_at},
};

const MAGIC: &[u8; 8] = b"RClogSEG";
/// The version of the format of segments.
pub const VERSION: u32 = 1;
/// Bytes before the first record.
pub const START: usize = 64;

/// How a segment begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// The format.
    pub version: u32,
    /// Of the directory.
    pub id: u128,
    /// The segment.
    pub segment: u64,
    /// The number that was to be given next.
    pub begun: u64,
}

impl Start {
    /// Of a new segment.
    pub fn new(id: u128, segment: u64, begun: u64) -> Self {
        Self { version: VERSION, id, segment, begun }
    }

    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.begun.to_le_bytes());
        out.resize(START - 4, 0);
        out.extend_from_slice(&sum(0, &out).to_le_bytes());
        out
    }

    /// None if it is damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..START)?;
        let (checked, expected) = bytes.split_at(START - 4);
        if &bytes[..8] != MAGIC || u32_at(expected, 0) != Some(sum(0, checked)) {
            return None;
        }
        Some(Self {
            version: u32_at(bytes, 8)?,
            id: u128::from_le_bytes(bytes.get(16..32)?.try_into().ok()?),
            segment: u64_at(bytes, 32)?,
            begun: u64_at(bytes, 40)?,
        })
    }
}

/// Which segments there were when another was begun, and where each ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest(pub Vec<(u64, u32)>);

impl Manifest {
    /// As it is written.
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.0.iter();
        entries
            .flat_map(|(number, end)| [&number.to_le_bytes()[..], &end.to_le_bytes()].concat())
            .collect()
    }

    /// As it was written.
    pub fn decode(bytes: &[u8]) -> Self {
        let entries = bytes.chunks_exact(12);
        Self(entries.filter_map(|it| Some((u64_at(it, 0)?, u32_at(it, 8)?))).collect())
    }
}

/// A record of a segment.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Where it is.
    pub place: u32,
    /// Its header, which is whole.
    pub header: Header,
    /// Its body is whole too.
    pub whole: bool,
}

impl Found {
    /// Where it ends.
    pub fn end(&self) -> u32 {
        self.place.saturating_add(self.header.size() as u32)
    }
}

/// What is in a segment.
#[derive(Debug, Clone, Default)]
pub struct Walk {
    /// Its records, in order.
    pub found: Vec<Found>,
    /// Bytes that are no records, though there should be some, in order.
    pub bad: Vec<(u32, u32)>,
    /// Where the last byte that is not zero was.
    pub used: u32,
}

/// Reads a segment.
pub fn load(files: &impl Files, segment: u64, limit: u64) -> Result<Vec<u8>, Fault> {
    let file = File::Segment(segment);
    let length = files.len(file)?.min(limit);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = files.read(file, 0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Finds all records in the bytes of a segment. What is between two of them and is none is bad.
pub fn walk(bytes: &[u8], seed: u32) -> Walk {
    let used = bytes.iter().rposition(|it| *it != 0).map_or(0, |it| it + 1);
    let mut walk = Walk { used: used as u32, ..Walk::default() };
    let mut at = START;
    while at < used {
        if let Some(found) = record_at(bytes, at, seed) {
            at = found.end() as usize;
            walk.found.push(found);
            continue;
        }
        let mut next = (at + ALIGN..used).step_by(ALIGN);
        let next = next.find(|it| record_at(bytes, *it, seed).is_some());
        walk.bad.push((at as u32, next.unwrap_or(used) as u32));
        at = next.unwrap_or(used);
    }
    walk
}

fn record_at(bytes: &[u8], at: usize, seed: u32) -> Option<Found> {
    let rest = bytes.get(at..)?;
    let (header, _) = record::decode(seed, rest)?;
    let end = header.body_at().checked_add(header.body as usize)?;
    // No segment reaches so far, so it is none that was written, whatever its checksum says.
    u32::try_from(at.checked_add(end)?.checked_next_multiple_of(ALIGN)?).ok()?;
    // Of a record that reaches beyond the file, the body is missing.
    let body = rest.get(header.body_at()..end);
    let whole = body.is_some_and(|body| header.has_body(seed, body));
    Some(Found { place: at as u32, header, whole })
}

/// Where the segment that was written last is to be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Here.
    pub at: u32,
    /// What is before was synced.
    pub synced: u32,
    /// Records after it that were whole: unsynced ones reach the disk in any order.
    pub dropped: usize,
}

impl Walk {
    /// The record that the segment begins with, if it is whole.
    pub fn manifest(&self) -> Option<&Found> {
        let first = self.found.first().filter(|it| it.whole && it.place == START as u32);
        first.filter(|it| it.header.kind == Kind::Manifest)
    }

    /// Whether there was time to write it: nothing is, before its manifest is synced.
    pub fn is_born(&self) -> bool {
        let after = |it: &Found| it.whole && it.header.synced > START as u32;
        self.manifest().is_some() || self.found.iter().any(after)
    }

    /// Where the last whole batch ends. What is bad before a place that was synced is corruption, and not cut.
    /// Beside what the records say of that, `known` was synced.
    pub fn cut_after(&self, known: u32) -> Cut {
        let manifest = self.manifest();
        // None was written before what it says was synced.
        let proofs = self.found.iter().filter(|it| it.header.synced <= it.place);
        let proven = proofs.map(|it| it.header.synced).max().unwrap_or(0).max(known);
        let synced = proven.max(manifest.map_or(START as u32, |it| it.end()));
        let bad = self.bad.iter().map(|(first, _)| *first);
        let bad = bad.chain(self.found.iter().filter(|it| !it.whole).map(|it| it.place));
        let bad = bad.filter(|it| *it >= synced).min().unwrap_or(u32::MAX);
        // Bytes that are bad may reach from before that place to behind it.
        let across = self.bad.iter().any(|(first, end)| *first < synced && *end > synced);
        let tail = self.found.iter().filter(|it| it.place >= synced);
        let kept = tail.clone().take_while(|it| !across && it.end() <= bad);
        let at = kept.filter(|it| !it.header.more).map(Found::end).last().unwrap_or(synced);
        let dropped = tail.filter(|it| it.place >= at && it.whole).count();
        Cut { at, synced, dropped }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 5;

    /// Batches of two records each; each says that what is before it was synced.
    fn segment(batches: u64) -> Vec<u8> {
        let mut bytes = Start::new(1, 2, 3).encode();
        record::encode(&Header::new(Kind::Manifest, 0, 0, 0), "", b"", SEED, &mut bytes);
        for batch in 0..batches {
            let synced = bytes.len() as u32;
            for more in [true, false] {
                let at = batch * 2 + u64::from(!more);
                let header = Header { synced, more, ..Header::new(Kind::Append, 1, 0, at) };
                record::encode(&header, "r", &[7; 30], SEED, &mut bytes);
            }
        }
        bytes
    }

    fn flip(bytes: &mut [u8], record: usize, within: usize) {
        let place = walk(bytes, SEED).found[record].place as usize;
        bytes[place + within] ^= 1;
    }

    #[test]
    fn a_start_comes_back_or_is_damaged() {
        let start = Start::new(1, 2, 3);
        let mut bytes = start.encode();
        assert_eq!(Start::decode(&bytes), Some(start));
        bytes[40] ^= 1;
        assert_eq!(Start::decode(&bytes), None);
    }

    #[test]
    fn preallocated_zeros_are_the_end() {
        let mut bytes = segment(3);
        let end = bytes.len() as u32;
        bytes.resize(10_000, 0);
        let walk = walk(&bytes, SEED);
        assert_eq!((walk.found.len(), walk.bad.len()), (7, 0));
        assert_eq!(walk.cut_after(0), Cut { at: end, synced: walk.found[5].place, dropped: 0 });
    }

    #[test]
    fn a_torn_batch_is_cut_off_as_a_whole() {
        let whole = segment(3);
        let place = walk(&whole, SEED).found[5].place;
        for end in place + 1..whole.len() as u32 {
            let torn = walk(&whole[..end as usize], SEED);
            // The last byte of a record may be padding.
            assert!([place, whole.len() as u32].contains(&torn.cut_after(0).at), "{end}");
        }
    }

    #[test]
    fn what_was_synced_is_not_cut_off_whatever_is_bad() {
        for within in [0, 20, 60] {
            let mut bytes = segment(3);
            flip(&mut bytes, 1, within);
            let walk = walk(&bytes, SEED);
            assert_eq!(walk.cut_after(0).at, bytes.len() as u32);
            assert_eq!(walk.bad.len() + walk.found.iter().filter(|it| !it.whole).count(), 1);
        }
    }

    #[test]
    fn what_was_not_synced_is_cut_off_even_if_something_whole_follows() {
        let mut bytes = segment(2);
        let synced = walk(&bytes, SEED).found[3].place;
        for at in 10..14 {
            let header = Header { synced, ..Header::new(Kind::Append, 1, 0, at) };
            record::encode(&header, "r", &[7; 30], SEED, &mut bytes);
        }
        flip(&mut bytes, 6, 60);
        let walk = walk(&bytes, SEED);
        let cut = walk.cut_after(0);
        assert_eq!((cut.at, cut.dropped), (walk.found[6].place, 2));
    }

    #[test]
    fn a_record_within_what_a_client_has_sent_is_none() {
        let mut inner = Vec::new();
        record::encode(&Header::new(Kind::Append, 1, 0, 9), "r", b"x", 77, &mut inner);
        let mut bytes = segment(1);
        record::encode(&Header::new(Kind::Append, 1, 0, 3), "r--", &inner, SEED, &mut bytes);
        flip(&mut bytes, 3, 0);
        assert_eq!(walk(&bytes, SEED).found.len(), 3);
    }

    #[test]
    fn a_length_that_reaches_around_to_its_own_beginning_does_not_go_on_for_ever() {
        for body in [u32::MAX - 55, u32::MAX - 63, u32::MAX] {
            let mut bytes = segment(1);
            let at = bytes.len();
            record::encode(&Header::new(Kind::Append, 1, 0, 3), "", b"", SEED, &mut bytes);
            bytes[at + 8..at + 12].copy_from_slice(&body.to_le_bytes());
            let checked = sum(SEED, &bytes[at + 4..at + record::HEADER]);
            bytes[at..at + 4].copy_from_slice(&checked.to_le_bytes());
            let walk = walk(&bytes, SEED);
            assert_eq!(walk.found.len(), 3, "{body}");
            assert_eq!(walk.bad, [(at as u32, walk.used)], "{body}");
        }
    }
}
