//! Rooms on disk: one log per node, in segments.
//!
//! What comes in: batches of [`Op`]s, each about a room by its name; offsets, times and bytes are the caller's.
//! What goes out: calls to a few files ([`Files`]), and pages of what was written. Nothing here has a thread, a
//! clock or a file system: [disk] and [writer] have.
//!
//! # The files
//!
//! ```text
//! identity               whose directory this is: an id that no other has, and the version of the format
//! 000000000001.segment   records, of all rooms as they come; the highest number is the one that is written
//! 000000000001.index     what is where in it; written when it is sealed, and a cache: it can be made again
//! ```
//!
//! A **segment** is preallocated, and zero where nothing was written yet:
//!
//! ```text
//! start (64)   magic, version, directory, number, the next number to be given, checksum
//! manifest     a record: which other segments there are, and where each ends
//! records      each at a multiple of 8:
//!              checksum of header and name | checksum of the body | body length | synced | kind | more |
//!              name length | magic | generation | from | offset | time | name | body
//! ```
//!
//! Checksums are CRC-32, and begin with directory and segment: what is no record of this very segment is none,
//! whoever wrote it. An **index** is in blocks of 4 KiB with a checksum each: which rooms (a filter, the only part
//! that stays in memory), what there is of each, in the order of the hashes of their names, and where.
//!
//! # What records say
//!
//! Replaying them in order is never needed: the numbers in them say which counts, so it does no harm if one is
//! copied forward, nor if a crash leaves both.
//!
//! - **Publication**: (generation, offset). A room's **generation** begins where a copy was overruled, or when the
//!   room began. Every publication says where its generation began (*from*): what earlier ones have from there on
//!   is void.
//! - **Mark**: the room's generation, the first offset that is kept, and where earlier generations end. The highest
//!   (generation, first) counts.
//! - **Head**: a blob; the highest number counts. **Removal**: everything with a lower number is void.
//! - **Retired**: this segment is not needed. **Note**: nothing, but that what is before it was synced.
//!
//! # Invariants
//!
//! - *A batch is all or nothing.* Its records, but the last, say that there is more; it is never divided between
//!   segments.
//! - *After a crash there is what was synced, and perhaps the batches that follow, in order.* Every record says up to
//!   where its segment was synced when it was written. What is bad before such a place is corruption; what is bad
//!   behind all of them was not synced for all that can be known, is cut off, and counted in [`Opened`].
//!   If something before it is damaged, nothing is cut: what would be cut may be all that says so. The segment is
//!   sealed as it is, which says where it ended.
//! - *What is cut off is gone before anything is written in its place*; the same for what a failed write may have
//!   left. Otherwise its rest would be taken for records one day.
//! - *A segment is begun only when the one before it is synced; it is whole on disk before anything is written to
//!   it; and while it can't be made, the one before it goes on.* So only the last can be torn.
//! - *A segment is removed only after the copies of what is needed of it are synced, and then what says that it is
//!   not needed.* So a segment that is missing, and was not said to be, is an error.
//! - *A removal is kept as long as a segment that was begun before it may have something of the room.*
//! - *Nothing is served whose checksum, room, generation and offset are not what was asked for.* What is missing in a
//!   room is told as [`Damage`], by offsets where that can be known, and the segment that has something damaged and
//!   needed is kept.
//! - *A failed sync closes the store*: nobody knows what is on the disk, and what is read of it may be in memory only.
//!   It is opened again with what was synced before, and nothing else ([`Store::open_again`]).
//! - *When a log is opened, nothing is removed before its tail was written once more and synced*: what says that a
//!   segment is not needed may have been in memory only.
//! - *A room that nobody uses costs twelve bits per segment that has something of it.* One in use costs what says in
//!   which segments it is, but not where each publication is: pages read that from the index.
//! - *Nothing on disk is believed before its checksum*, and no length is allocated that the file has not.
//!
//! What can't be known: whether the last batch before a crash was torn or has been damaged since. [`Store::close`]
//! leaves a note behind it, and so does everything that is written later. And where the header of a record is
//! damaged in a segment without an index, whose it was ([`Damage::Bytes`]): what it said (a mark, a head, a removal)
//! may show as what was before it. Whoever is told that should take the end of any room for one that may be wrong.

mod ages;
mod batch;
pub mod disk;
mod error;
mod files;
mod filter;
mod index;
mod opening;
mod part;
mod read;
mod record;
mod reopening;
mod request;
mod retention;
mod room;
pub mod scrub;
mod segment;
mod sizes;
mod store;
#[cfg(test)]
mod tests;
pub mod unchanged;
mod work;
pub mod writer;

pub use ages::{Now, WallClock};
pub use batch::Op;
pub use error::{Damage, OpenError, ReadError, Refusal, WriteError};
pub use files::{Fault, FaultKind, File, Files};
pub use opening::Opened;
pub use read::{MAX_PAGE, Page, Plan, Publication, Query, RoomInfo, WithHead};
pub use record::MAX_NAME;
pub use retention::{Keep, Policy, Progress};
pub use sizes::largest_body;
pub use store::{Options, Stats, Store};
