//! Publications that are synced to disk before they are acknowledged, by servers that Roomcast is compared to: so many at
//! a time, each into a stream of a room, and the next once all are acknowledged.
//!
//! In: the server, and what is published. Out: nothing, or an error; the caller measures how long it took.

pub mod jetstream;
pub mod redis;

/// One publication.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// Its room's number.
    pub room: u64,
    /// What is published.
    pub data: &'a str,
}
