//! What the log's threads are asked.
//!
//! What comes in: what is to be written of a room, or read; and what to call with the answer. What goes out: [`Op`]s
//! of a batch, and pages.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{Damage, Op, Page, Plan, Query, ReadError, RoomInfo, Stats, WriteError, files::Files};

/// Something to be written about one room.
#[derive(Debug, Clone)]
pub enum Change {
    /// See [`Op::Head`].
    Head(Bytes),
    /// See [`Op::Append`]: offset, time, and what was published.
    Append(u64, u64, Bytes),
    /// See [`Op::Trim`].
    Trim(u64),
    /// See [`Op::Truncate`].
    Truncate(u64),
    /// See [`Op::Repair`].
    Repair(u64, u64, Bytes),
    /// See [`Op::Remove`].
    Remove,
}

impl Change {
    pub(super) fn op<'a>(&'a self, room: &'a str) -> Op<'a> {
        match self {
            Self::Head(bytes) => Op::Head { room, bytes },
            Self::Append(offset, time, bytes) => {
                Op::Append { room, offset: *offset, time: *time, bytes }
            }
            Self::Trim(first) => Op::Trim { room, first: *first },
            Self::Truncate(last) => Op::Truncate { room, last: *last },
            Self::Repair(offset, time, bytes) => {
                Op::Repair { room, offset: *offset, time: *time, bytes }
            }
            Self::Remove => Op::Remove { room },
        }
    }

    /// Bytes that it takes, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Head(bytes) | Self::Append(_, _, bytes) | Self::Repair(_, _, bytes) => {
                bytes.len() + 128
            }
            _ => 128,
        }
    }
}

/// Called once, with how it ended.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// What is to be written together, all or nothing.
pub struct Request {
    /// The room.
    pub room: Arc<str>,
    /// What is to be written.
    pub changes: Vec<Change>,
    /// Called once it is synced, or was refused.
    pub done: Done<Result<(), WriteError>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Request").field("room", &self.room).finish_non_exhaustive()
    }
}

/// A page that is asked for.
pub(super) struct Read {
    pub room: Arc<str>,
    pub query: Query,
    /// Nobody uses the room: it does not stay in memory for this.
    pub apart: bool,
    /// It was planned before, and what was planned to be read is gone.
    pub again: bool,
    pub done: Done<Result<Page, ReadError>>,
}

/// A page that is asked for, and where its publications are.
pub(super) struct Planned {
    pub plan: Plan,
    pub read: Read,
}

impl Planned {
    /// Reads the page, and answers. If a segment of it was compacted since it was planned, what was asked for comes
    /// back, to be planned once more: then the publications are elsewhere.
    pub fn answer(self, files: &impl Files) -> Option<(Read, ReadError)> {
        let Self { plan, mut read } = self;
        match plan.read(files) {
            Err(error) if error.is_gone() && !read.again => {
                read.again = true;
                Some((read, error))
            }
            page => {
                (read.done)(page);
                None
            }
        }
    }
}

/// What the writing thread is asked.
pub(super) enum Ask {
    Write(Request),
    Read(Read),
    Rooms(Option<Arc<str>>, usize, Done<Result<Vec<RoomInfo>, ReadError>>),
    Head(Arc<str>, Done<Result<Option<Vec<u8>>, ReadError>>),
    State(Done<(Stats, Vec<Damage>)>),
    Close(Done<Result<(), WriteError>>),
}
