//! The files of a log, as its core sees them.
//!
//! What comes in: the store's wishes, by [`File`]. What goes out: bytes, or a [`Fault`] that says what kind of
//! failure it was. `disk` does it with a directory, the tests with a disk that forgets, tears and lies.

use std::fmt;

/// A file of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum File {
    /// Says whose directory this is.
    Identity,
    /// Records.
    Segment(u64),
    /// What is where in a segment. A cache.
    Index(u64),
}

impl File {
    /// The file of this name; none if it is none of a log's.
    pub fn parse(name: &str) -> Option<Self> {
        if name == Self::Identity.to_string() {
            return Some(Self::Identity);
        }
        let (number, kind) = name.split_once('.')?;
        let number: u64 = number.parse().ok()?;
        let file = match kind {
            "segment" => Self::Segment(number),
            "index" => Self::Index(number),
            _ => return None,
        };
        // "007.segment" or "+7.segment" would be a second name for one file.
        (file.to_string() == name).then_some(file)
    }
}

impl fmt::Display for File {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity => out.write_str("identity"),
            Self::Segment(number) => write!(out, "{number:012}.segment"),
            Self::Index(number) => write!(out, "{number:012}.index"),
        }
    }
}

/// What kind of failure it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// There is no space.
    Full,
    /// The file system is read-only.
    ReadOnly,
    /// There is no such file.
    Missing,
    /// The disk can't give back what is here, though it gives back what is elsewhere: a bad sector.
    Unreadable,
    /// Anything else.
    Io,
}

/// A file could not be read, written, synced, or removed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Fault {
    /// What kind of failure it was.
    pub kind: FaultKind,
    /// What the system said.
    pub why: String,
}

/// A directory with a log's files.
///
/// What was written is durable once the file was synced; that there is a file, or is none any more, once the
/// directory was. Until then any part of it may be lost, in any order.
pub trait Files {
    /// The names of all files.
    fn list(&self) -> Result<Vec<String>, Fault>;
    /// Makes a file of so many zeros, with disk space behind it. It replaces one of this name.
    fn create(&mut self, file: File, size: u64) -> Result<(), Fault>;
    /// The length of a file.
    fn len(&self, file: File) -> Result<u64, Fault>;
    /// Reads from this place on. Says how much: less than asked for only at the end of the file.
    fn read(&self, file: File, at: u64, into: &mut [u8]) -> Result<usize, Fault>;
    /// Writes at this place. After a failure, any part of it may have been written.
    fn write(&mut self, file: File, at: u64, bytes: &[u8]) -> Result<(), Fault>;
    /// Cuts a file at `keep`, and fills it up with zeros, to `size`, with disk space behind them.
    fn cut(&mut self, file: File, keep: u64, size: u64) -> Result<(), Fault>;
    /// Makes what was written to a file durable, and its length.
    fn sync(&mut self, file: File) -> Result<(), Fault>;
    /// Removes a file.
    fn remove(&mut self, file: File) -> Result<(), Fault>;
    /// Makes durable which files there are.
    fn sync_dir(&mut self) -> Result<(), Fault>;
}

/// Reads all of `into`, or says that there is no more.
pub fn read_exact(files: &impl Files, file: File, at: u64, into: &mut [u8]) -> Result<bool, Fault> {
    Ok(files.read(file, at, into)? == into.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_one_name() {
        for file in [File::Identity, File::Segment(7), File::Index(u64::MAX)] {
            assert_eq!(File::parse(&file.to_string()), Some(file));
        }
        for other in ["7.segment", "+00000000007.segment", "000000000007.segment~", "a", ""] {
            assert_eq!(File::parse(other), None, "{other}");
        }
    }
}
