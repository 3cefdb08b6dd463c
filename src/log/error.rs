//! What can go wrong, where: when a directory is opened, written, or read.

use super::files::{Fault, FaultKind, File};

/// A directory can't be opened. Nothing was changed in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It can't be read, or what a crash has left can't be tidied up.
    #[error("{doing} {file}: {fault}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// The file.
        file: String,
        /// What happened.
        fault: Fault,
    },
    /// A file has another format.
    #[error(
        "{file} has format {found}, and this version of roomcast reads format {known}: start the version \
         that wrote it{hint}"
    )]
    Version {
        /// The file.
        file: String,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
        /// What else can be done.
        hint: &'static str,
    },
    /// A file belongs to another node's directory.
    #[error(
        "{file} belongs to the log of another node: put it back there, or move it out of the way"
    )]
    Foreign {
        /// The file.
        file: String,
    },
    /// A file is a second copy of another.
    #[error("{file} is a second copy of {of}: move the copy out of the way")]
    Doubled {
        /// The file.
        file: String,
        /// The other.
        of: String,
    },
    /// A file is not there.
    #[error(
        "{file} is missing: restore it; or move the whole directory out of the way, and the node fetches \
         what others have"
    )]
    Missing {
        /// The file.
        file: String,
    },
    /// A file is not what it should be.
    #[error(
        "{file} is damaged ({why}): restore it; or move the whole directory out of the way, and the node \
         fetches what others have"
    )]
    Damaged {
        /// The file.
        file: String,
        /// How.
        why: &'static str,
    },
}

impl OpenError {
    /// For `map_err`.
    pub(super) fn failed(doing: &'static str, file: File) -> impl FnOnce(Fault) -> Self {
        move |fault| Self::Failed { doing, file: file.to_string(), fault }
    }
}

/// Something was not written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The log is closed, since a sync failed: what was not synced before may be lost. It has to be opened again,
    /// which finds out.
    #[error("the log is closed until it is opened again: {why}")]
    Closed {
        /// Why it was closed.
        why: String,
    },
    /// Nothing was changed: this of the batch can't be done.
    #[error("{room}: {refusal}")]
    Refused {
        /// Its place in the batch.
        op: usize,
        /// The room.
        room: String,
        /// Why.
        refusal: Refusal,
    },
    /// Nothing was changed; the next try may succeed (`Full`: once there is space). If `torn`, a crash before the
    /// next write that succeeds may bring back the batch that was refused.
    #[error("{doing} {file}: {fault}")]
    Failed {
        /// What was tried.
        doing: &'static str,
        /// The file.
        file: String,
        /// What happened.
        fault: Fault,
        /// A part of the batch may have been written.
        torn: bool,
    },
}

impl WriteError {
    /// For `map_err`.
    pub(super) fn failed(doing: &'static str, file: File) -> impl FnOnce(Fault) -> Self {
        move |fault| Self::Failed { doing, file: file.to_string(), fault, torn: false }
    }

    /// Whether there was no space.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Failed { fault: Fault { kind: FaultKind::Full, .. }, .. })
    }

    /// Whether the next try may succeed.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Failed { .. } => true,
            Self::Refused { refusal, .. } => matches!(refusal, Refusal::Unreadable(_)),
        }
    }
}

impl From<ReadError> for WriteError {
    fn from(error: ReadError) -> Self {
        let ReadError { file, fault } = error;
        Self::Failed { doing: "reading", file: file.to_string(), fault, torn: false }
    }
}

/// Why something can't be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Offsets rise by one.
    #[error("offset {offset} does not follow: the next is {expected}")]
    OutOfOrder {
        /// The next.
        expected: u64,
        /// What was asked for.
        offset: u64,
    },
    /// What there is of the room can't be read, and it is not known what would follow it. The next try may succeed.
    #[error("{0}")]
    Unreadable(ReadError),
    /// It does not fit.
    #[error("{size} bytes are more than fit into a batch ({max})")]
    TooLarge {
        /// Of the batch up to here.
        size: usize,
        /// What fits.
        max: usize,
    },
}

/// Something can't be read. The next try may succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("reading {file}: {fault}")]
pub struct ReadError {
    /// The file.
    pub file: File,
    /// What happened.
    pub fault: Fault,
}

impl ReadError {
    /// Whether the file is not there: if it was planned to be read, its segment was compacted since.
    pub fn is_gone(&self) -> bool {
        self.fault.kind == FaultKind::Missing
    }

    /// An index was made again, and is bad at once.
    pub(super) fn unusable(file: File) -> Self {
        let why = "it was made again from its segment, and can't be read back".to_owned();
        Self { file, fault: Fault { kind: FaultKind::Io, why } }
    }

    /// For `map_err`.
    pub(super) fn of(file: File) -> impl FnOnce(Fault) -> Self {
        move |fault| Self { file, fault }
    }
}

/// What is wrong on disk, and is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// These publications, from the first to before the second, can't be read. Fetch them from another copy
    /// ([`super::Op::Repair`]).
    Publications {
        /// The room.
        room: String,
        /// The first.
        first: u64,
        /// The one after the last.
        end: u64,
    },
    /// What else is known of the room can't be read.
    Head {
        /// The room.
        room: String,
    },
    /// These bytes held records, and it can't be told of which rooms. What was after them in their rooms shows as
    /// [`Self::Publications`]; if nothing was, the room seems to end before them.
    Bytes {
        /// The segment.
        segment: u64,
        /// The first.
        first: u32,
        /// The one after the last.
        end: u32,
    },
}
