//! How rooms are written down in a log on disk: what is known of a room, and each publication.
//!
//! In: a [`Head`] or an [`Entry`]. Out: bytes that begin with the version of their format; and back. What comes from a
//! disk has passed the log's checksums, and may still have been written by a later version: then it is none.
//! Dormant rooms are packed in the same way, without a version: they never leave the process.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    line::{Line, Root},
    stream::{Entry, ForwardId},
    types::{ClientInfo, Epoch, Publication, Tags, Version},
};
use crate::{cluster::slots::Term, map, queue::change::Change};

/// The version of the format.
const FORMAT: u8 = 1;
/// That of a head with the application's version.
const VERSIONED: u8 = 2;
/// The most bytes that are read of one thing.
const MAX: usize = 64 << 20;

/// What is known of a room, beside its publications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Epoch and lineage. Its top is where the room was when this was written.
    pub line: Line,
    /// How its stream began.
    pub root: Root,
    /// The term in which its newest publication was placed.
    pub term: Term,
    /// The application's version that it has come to.
    pub version: Option<Version>,
}

/// A publication without its offset, which the log keeps beside it.
#[derive(Serialize, Deserialize)]
struct Written {
    data: Bytes,
    info: Option<ClientInfo>,
    tags: Tags,
    delta: bool,
    forward: Option<ForwardId>,
    key: Option<Box<str>>,
    version: Option<Version>,
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<MAX>()
}

/// Adds `value` to `bytes`.
pub(super) fn pack(value: &impl Serialize, bytes: &mut Vec<u8>) {
    // Into memory, and of values that have no lengths unknown: there is nothing that can fail.
    let written = bincode::serde::encode_into_std_write(value, bytes, config());
    debug_assert!(written.is_ok(), "{written:?}");
}

/// What was packed into all of `bytes`; none if they are anything else.
pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, read) = bincode::serde::decode_from_slice(bytes, config()).ok()?;
    (read == bytes.len()).then_some(value)
}

fn write(value: &impl Serialize) -> Bytes {
    write_as(FORMAT, value)
}

fn write_as(format: u8, value: &impl Serialize) -> Bytes {
    let mut bytes = vec![format];
    pack(value, &mut bytes);
    bytes.into()
}

fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    read_as(FORMAT, bytes)
}

fn read_as<T: DeserializeOwned>(expected: u8, bytes: &[u8]) -> Option<T> {
    let (format, rest) = bytes.split_first()?;
    (*format == expected).then(|| unpack(rest)).flatten()
}

impl Head {
    /// Of a room whose head can't be read any more, so that nobody knows of which stream it was: any other copy is
    /// rather the room's.
    pub fn lost(epoch: Epoch) -> Self {
        let root = Root { tentative: true, ..Root::default() };
        Self { line: Line::new(epoch), root, term: Term::default(), version: None }
    }

    /// As it is written.
    pub fn to_bytes(&self) -> Bytes {
        let Self { line, root, term, version } = self;
        match version {
            None => write(&(line, root, term)),
            Some(version) => write_as(VERSIONED, &(line, root, term, version)),
        }
    }

    /// What was written; none if it is no head, or one of a later version.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let plain = || {
            let (line, root, term) = read(bytes)?;
            Some(Self { line, root, term, version: None })
        };
        let versioned = || {
            let (line, root, term, version) = read_as(VERSIONED, bytes)?;
            Some(Self { line, root, term, version: Some(version) })
        };
        plain().or_else(versioned)
    }
}

impl Entry {
    /// As it is written, without its offset.
    pub fn to_bytes(&self) -> Bytes {
        let Publication { data, info, tags, delta, .. } = &*self.publication;
        write(&Written {
            data: data.clone(),
            info: info.as_deref().cloned(),
            tags: tags.clone(),
            delta: *delta,
            forward: self.forward,
            key: self.key.clone(),
            version: self.version.clone(),
        })
    }

    /// What was written at `offset`; none if it is no entry, or one of a later version.
    pub fn from_bytes(offset: u64, bytes: &[u8]) -> Option<Self> {
        let Written { data, info, tags, delta, forward, key, version } = read(bytes)?;
        let info = info.map(Into::into);
        let publication = Publication { offset, data, info, tags, delta, keyed: None };
        Some(Self { publication: publication.into(), forward, key, version })
    }
}

/// A group's change, as a publication of its room has it.
pub fn change_to_bytes(change: &Change) -> Bytes {
    write(change)
}

/// What was written; none if it is no change, or one of a later version.
pub fn change_from_bytes(bytes: &[u8]) -> Option<Change> {
    read(bytes)
}

/// Whether it is all that there is of a group, so that what was written before it is not needed.
pub fn is_state(bytes: &[u8]) -> bool {
    bytes.starts_with(&[FORMAT, 0])
}

/// What happens in a map, as a publication of its room has it.
pub fn map_change_to_bytes(change: &map::change::Change) -> Bytes {
    write(change)
}

/// What was written; none if it is no change, or one of a later version.
pub fn map_change_from_bytes(bytes: &[u8]) -> Option<map::change::Change> {
    read(bytes)
}

/// The floor that such a change carries.
pub fn map_floor(bytes: &[u8]) -> Option<u64> {
    let (format, rest) = bytes.split_first()?;
    let floor = || bincode::serde::decode_from_slice::<u64, _>(rest, config()).ok();
    (*format == FORMAT).then(floor)?.map(|(floor, _)| floor)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cluster::node::NodeId,
        room::types::{ClientId, Epoch},
    };

    #[test]
    fn what_was_written_is_read_again() {
        let publication = Publication {
            offset: 7,
            data: "hello".into(),
            info: Some(Arc::new(ClientInfo::new(ClientId(3), "ann"))),
            tags: [("a".to_owned(), "b".to_owned())].into(),
            delta: true,
            keyed: None,
        };
        let entry = Entry {
            publication: publication.into(),
            forward: Some((NodeId(1), 2)),
            key: Some("key".into()),
            version: Some(Version { number: 4, epoch: "x".into() }),
        };
        assert_eq!(Entry::from_bytes(7, &entry.to_bytes()), Some(entry));
        let mut line = Line::new(Epoch(1));
        line.succeed(Epoch(2));
        let term = Term { count: 9, node: NodeId(8) };
        let root = Root { term, ..Root::default() };
        for version in [None, Some(Version { number: 4, epoch: "x".into() })] {
            let head = Head { line: line.clone(), root, term, version };
            assert_eq!(Head::from_bytes(&head.to_bytes()), Some(head));
        }
    }

    #[test]
    fn what_is_not_ours_is_none() {
        let head = Head { root: Root::default(), ..Head::lost(Epoch(1)) };
        let mut bytes = head.to_bytes().to_vec();
        bytes.push(0);
        assert_eq!(Head::from_bytes(&bytes), None, "bytes too many");
        bytes.truncate(5);
        assert_eq!(Head::from_bytes(&bytes), None, "bytes too few");
        bytes[0] = VERSIONED + 1;
        assert_eq!(Head::from_bytes(&bytes), None, "a later format");
        assert_eq!(Head::from_bytes(b""), None);
    }

    #[test]
    fn changes_are_read_again_and_all_that_there_is_is_known_by_its_beginning() {
        use crate::queue::change::State;
        let state = Change::State(State { floor: 300, ..State::default() });
        let settled = Change::Settled(vec![1, 500]);
        assert_eq!(change_from_bytes(&change_to_bytes(&state)), Some(state.clone()));
        assert_eq!(change_from_bytes(&change_to_bytes(&settled)), Some(settled.clone()));
        assert!(is_state(&change_to_bytes(&state)) && !is_state(&change_to_bytes(&settled)));
        assert_eq!(change_from_bytes(b"x"), None);
    }

    #[test]
    fn changes_of_maps_are_read_again_and_their_floors_alone() {
        use crate::map::change::{Change, KeyVersion, Put, What};
        let version = KeyVersion { number: 3, epoch: "e".into() };
        let put = Put { key: "k".into(), value: "v".into(), score: -2, version };
        for what in [
            What::Put(put.clone()),
            What::Removed("k".into()),
            What::Again(7, std::time::Duration::from_millis(5), put),
            What::Cleared,
        ] {
            let change = Change { floor: 70_000, before: 9, what };
            let bytes = map_change_to_bytes(&change);
            assert_eq!(map_change_from_bytes(&bytes), Some(change));
            assert_eq!(map_floor(&bytes), Some(70_000));
        }
        assert_eq!(
            (map_change_from_bytes(b"x"), map_floor(b"x"), map_floor(b"")),
            (None, None, None)
        );
        let put = Put { key: "k".into(), value: "v".into(), ..Put::default() };
        let bytes = map_change_to_bytes(&Change { floor: 1, before: 0, what: What::Put(put) });
        assert_eq!(&bytes[..], [1, 1, 0, 0, 1, b'k', 1, b'v', 0, 0, 0], "as it is on disks");
    }

    #[test]
    fn the_format_stays_what_it_is() {
        // Whatever changes this changes what is on the disks of those who upgrade.
        let entry = Entry {
            publication: Publication { data: "x".into(), ..Publication::default() }.into(),
            key: Some("k".into()),
            ..Entry::default()
        };
        assert_eq!(&entry.to_bytes()[..], [1, 1, b'x', 0, 0, 0, 0, 1, 1, b'k', 0]);
        let head = Head { root: Root::default(), ..Head::lost(Epoch(5)) };
        assert_eq!(&head.to_bytes()[..], [1, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        let version = Some(Version { number: 4, epoch: "x".into() });
        let head = Head { version, ..head };
        assert_eq!(&head.to_bytes()[..], [2, 5, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, b'x']);
    }
}
