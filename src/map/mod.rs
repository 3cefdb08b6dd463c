//! Maps: rooms that keep the latest value of each key, and tell of every change.
//!
//! In: puts and removals, the passing of time, and the changes that a node finds in a room's stream. Out: the entries, and
//! the [`change::Change`]s to be published. Nothing here knows of rooms, nodes or sockets: see [`crate::room::map`] for
//! how a map lives in a room.
//!
//! # Words
//!
//! - **Entry**: a key with its value ([`state`]).
//! - **Change**: what a publication of the room says of a key ([`change`]). The entries are what follows from all
//!   changes in their order, so whoever has the room's stream has the map.
//! - **Record**: the change that an entry is written in. The stream reaches back to the oldest of them.
//! - **Floor**: the offset before which no record is needed any more. Each change carries the floor of its time, so that
//!   all copies of the stream forget the same.
//!
//! # Invariants
//!
//! - *The stream has every entry.* Before the last record of an entry would go, it is written again.
//! - *An entry's offset is that of the change that gave it its value,* however often it was written since: whoever has
//!   seen the stream up to there has it.

pub mod change;
pub mod options;
pub mod request;
pub mod state;
