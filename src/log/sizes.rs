//! What fits into a segment.
//!
//! What comes in: how large segments are, and how many there are. What goes out: the largest batch, and the largest
//! body of a record.

use super::{
    record::{self, ALIGN, HEADER},
    segment::START,
};

/// The most bytes of one [`super::Op::Append`], [`super::Op::Repair`] or [`super::Op::Head`] that a log with segments
/// of `segment_bytes` takes when it has `segments` of them, in a room whose name has `name` bytes. More is refused as
/// [`super::Refusal::TooLarge`]; so are several ops that are to be written together and together have more.
///
/// A record is never divided, so this is a segment, but for: its start, 64 bytes; the list of the other segments, 12
/// bytes for each (a log of 1 TiB in segments of 64 MiB: 192 KiB of each); a sixteenth that is left for what gives
/// space back; and some 200 bytes with twice the name for what is said of the room. A room that was overruled (by
/// [`super::Op::Truncate`]) takes 16 bytes more for each time of which something is kept.
pub fn largest_body(segment_bytes: u32, segments: usize, name: usize) -> usize {
    let mark = record::size(name, 16);
    let rest = max_batch(segment_bytes, segments).saturating_sub(mark);
    // What a record takes is rounded up.
    (rest / ALIGN * ALIGN).saturating_sub(HEADER + name)
}

/// The most bytes of a batch where there are so many segments.
pub(super) fn max_batch(segment_bytes: u32, segments: usize) -> usize {
    // A manifest is at the beginning, and as much at the end is for what gives space back.
    let manifest = record::size(0, segments.saturating_mul(12));
    let taken = (START + reserve(segment_bytes)).saturating_add(manifest);
    (segment_bytes as usize).saturating_sub(taken)
}

/// Bytes at the end of a segment that are left for what gives space back.
pub(super) fn reserve(segment_bytes: u32) -> usize {
    segment_bytes as usize / 16
}
