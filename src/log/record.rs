//! A record: bytes ⇄ meaning.
//!
//! What comes in: a record, or bytes of a segment. What goes out: the other one, or nothing if the checksum
//! says that the bytes are no record of this segment.

use crc32fast::Hasher;

/// Bytes before the name.
pub const HEADER: usize = 56;
/// The longest name of a room.
pub const MAX_NAME: usize = 4096;
/// Records begin at multiples of it.
pub const ALIGN: usize = 8;
const MAGIC: [u8; 4] = *b"RCre";

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A publication.
    Append = 1,
    /// What else is known of the room.
    Head = 2,
    /// From where to where the room reaches.
    Mark = 3,
    /// The room was removed.
    Gone = 4,
    /// Which segments there are. The first of every segment.
    Manifest = 5,
    /// A segment is not needed any more.
    Retired = 6,
    /// Nothing, but that what is before it was synced.
    Note = 7,
}

impl Kind {
    /// Whether it says something of a room.
    pub fn is_of_room(self) -> bool {
        matches!(self, Self::Append | Self::Head | Self::Mark | Self::Gone)
    }

    fn parse(byte: u8) -> Option<Self> {
        let all = [
            Self::Append,
            Self::Head,
            Self::Mark,
            Self::Gone,
            Self::Manifest,
            Self::Retired,
            Self::Note,
        ];
        all.into_iter().find(|it| *it as u8 == byte)
    }
}

/// A record without its name and body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What it says.
    pub kind: Kind,
    /// The batch goes on with the next record.
    pub more: bool,
    /// Up to where its segment was synced when it was written.
    pub synced: u32,
    /// The generation of the room that it belongs to; of a removal: its number.
    pub generation: u64,
    /// Where that generation began: what earlier ones said from here on is void.
    pub from: u64,
    /// The offset of a publication; the first that is kept, of a mark; the number of a head; a segment's number.
    pub at: u64,
    /// When it was published, in milliseconds since 1970.
    pub time: u64,
    /// Bytes of the name.
    pub name: u16,
    /// Bytes of the body.
    pub body: u32,
    /// Checksum of the body.
    pub(super) body_sum: u32,
}

impl Header {
    /// A header of an empty record.
    pub fn new(kind: Kind, generation: u64, from: u64, at: u64) -> Self {
        let (more, synced, time, name, body, body_sum) = (false, 0, 0, 0, 0, 0);
        Self { kind, more, synced, generation, from, at, time, name, body, body_sum }
    }

    /// Bytes that the record takes in its segment.
    pub fn size(&self) -> usize {
        size(self.name.into(), self.body as usize)
    }

    /// Where the body begins.
    pub fn body_at(&self) -> usize {
        HEADER + usize::from(self.name)
    }

    /// Whether this is the body.
    pub fn has_body(&self, seed: u32, body: &[u8]) -> bool {
        body.len() == self.body as usize && sum(seed, body) == self.body_sum
    }
}

/// Bytes that a record takes in its segment.
pub fn size(name: usize, body: usize) -> usize {
    HEADER.saturating_add(name).saturating_add(body).div_ceil(ALIGN).saturating_mul(ALIGN)
}

/// What the checksums of a segment begin with: what one segment or directory says is no record in another, and no
/// client can put a record into what it publishes.
pub fn seed(id: u128, segment: u64) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(&id.to_le_bytes());
    hasher.update(&segment.to_le_bytes());
    hasher.finalize()
}

/// A checksum.
pub fn sum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// Appends a record to `out`. The header's lengths and checksum are set here.
pub fn encode(header: &Header, name: &str, body: &[u8], seed: u32, out: &mut Vec<u8>) {
    let begin = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&sum(seed, body).to_le_bytes());
    out.extend_from_slice(&(body.len() as u32).to_le_bytes());
    out.extend_from_slice(&header.synced.to_le_bytes());
    out.extend_from_slice(&[header.kind as u8, u8::from(header.more)]);
    out.extend_from_slice(&(name.len() as u16).to_le_bytes());
    out.extend_from_slice(&MAGIC);
    for field in [header.generation, header.from, header.at, header.time] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    out.extend_from_slice(name.as_bytes());
    let checked = sum(seed, &out[begin + 4..]);
    out[begin..begin + 4].copy_from_slice(&checked.to_le_bytes());
    out.extend_from_slice(body);
    out.resize(begin + size(name.len(), body.len()), 0);
}

/// The batch ends with this record, which is the only one in `bytes`.
pub fn end_batch(bytes: &mut [u8], seed: u32) {
    let name = bytes.get(18..20).and_then(|it| it.try_into().ok()).map_or(0, u16::from_le_bytes);
    let end = HEADER + usize::from(name);
    if bytes.len() >= end {
        bytes[17] = 0;
        let checked = sum(seed, &bytes[4..end]);
        bytes[..4].copy_from_slice(&checked.to_le_bytes());
    }
}

/// The header and name of the record that begins here, if one does. The body may be missing or bad.
pub fn decode(seed: u32, bytes: &[u8]) -> Option<(Header, &str)> {
    if bytes.get(20..24)? != MAGIC || bytes.len() < HEADER {
        return None;
    }
    let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let name = bytes.get(HEADER..HEADER + usize::from(u16_at(18)?))?;
    let checked = bytes.get(4..HEADER + name.len())?;
    if name.len() > MAX_NAME || sum(seed, checked) != u32_at(bytes, 0)? || bytes[17] > 1 {
        return None;
    }
    let header = Header {
        kind: Kind::parse(bytes[16])?,
        more: bytes[17] == 1,
        synced: u32_at(bytes, 12)?,
        generation: u64_at(bytes, 24)?,
        from: u64_at(bytes, 32)?,
        at: u64_at(bytes, 40)?,
        time: u64_at(bytes, 48)?,
        name: name.len() as u16,
        body: u32_at(bytes, 8)?,
        body_sum: u32_at(bytes, 4)?,
    };
    Some((header, std::str::from_utf8(name).ok()?))
}

/// The number that is here.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The number that is here.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written() -> Vec<u8> {
        let mut out = Vec::new();
        let header = Header { time: 7, more: true, ..Header::new(Kind::Append, 3, 4, 5) };
        encode(&header, "chat:1", b"hello", 9, &mut out);
        out
    }

    #[test]
    fn a_record_comes_back() {
        let bytes = written();
        let (header, name) = decode(9, &bytes).expect("whole");
        assert_eq!((header.kind, header.at, header.time, name), (Kind::Append, 5, 7, "chat:1"));
        assert_eq!(bytes.len(), header.size());
        assert!(header.more && header.has_body(9, &bytes[header.body_at()..][..5]));
    }

    #[test]
    fn a_bit_that_differs_is_seen_wherever_it_is() {
        let bytes = written();
        for bit in 0..(HEADER + 6 + 5) * 8 {
            let mut bad = bytes.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let whole = decode(9, &bad)
                .is_some_and(|(header, _)| header.has_body(9, &bad[header.body_at()..][..5]));
            assert!(!whole, "bit {bit}");
        }
    }

    #[test]
    fn a_record_of_another_segment_is_none() {
        assert!(decode(8, &written()).is_none());
        assert_ne!(seed(1, 1), seed(1, 2));
        assert_ne!(seed(1, 1), seed(2, 1));
    }

    #[test]
    fn a_part_of_a_record_is_none() {
        let bytes = written();
        (0..HEADER + 6).for_each(|end| assert!(decode(9, &bytes[..end]).is_none()));
    }
}
