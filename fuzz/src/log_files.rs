//! Bytes on disk into the recovery of a log, and then everything that can be asked of it.
//!
//! ```text
//! input: byte whether checksums are made right, then files: kind, number, length (2), bytes
//! ```
//!
//! Nothing may panic or go on for ever, whatever is on the disk; and what was opened once is the same when it is
//! opened again, unless its checksums are right and it lies.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use crc32fast::Hasher;
use roomcast::log::{
    Fault, FaultKind, File, Files, Keep, Op, Options, Policy, Progress, Query, RoomInfo, Store,
};

const ID: u128 = 7;
const SEGMENT: u32 = 1024;
const START: usize = 64;
const HEADER: usize = 56;
const BLOCK: usize = 4096;

/// Files in memory.
#[derive(Debug, Clone, Default)]
struct Memory(Rc<RefCell<BTreeMap<String, Vec<u8>>>>);

impl Memory {
    fn with<T>(&self, file: File, act: impl FnOnce(&mut Vec<u8>) -> T) -> Result<T, Fault> {
        let mut files = self.0.borrow_mut();
        let missing = || Fault { kind: FaultKind::Missing, why: "no such file".into() };
        files.get_mut(&file.to_string()).map(act).ok_or_else(missing)
    }
}

impl Files for Memory {
    fn list(&self) -> Result<Vec<String>, Fault> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    fn create(&mut self, file: File, size: u64) -> Result<(), Fault> {
        assert!(size < 1 << 24, "{file} gets {size} bytes");
        self.0.borrow_mut().insert(file.to_string(), vec![0; size as usize]);
        Ok(())
    }

    fn len(&self, file: File) -> Result<u64, Fault> {
        self.with(file, |it| it.len() as u64)
    }

    fn read(&self, file: File, at: u64, into: &mut [u8]) -> Result<usize, Fault> {
        self.with(file, |it| {
            let bytes = it.get(at as usize..).unwrap_or_default();
            let read = bytes.len().min(into.len());
            into[..read].copy_from_slice(&bytes[..read]);
            read
        })
    }

    fn write(&mut self, file: File, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.with(file, |it| {
            let end = at as usize + bytes.len();
            it.resize(it.len().max(end), 0);
            it[at as usize..end].copy_from_slice(bytes);
        })
    }

    fn cut(&mut self, file: File, keep: u64, size: u64) -> Result<(), Fault> {
        self.with(file, |it| {
            it.truncate(keep as usize);
            it.resize(size as usize, 0);
        })
    }

    fn sync(&mut self, file: File) -> Result<(), Fault> {
        self.with(file, |_| ())
    }

    fn remove(&mut self, file: File) -> Result<(), Fault> {
        self.0.borrow_mut().remove(&file.to_string());
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

struct Last;

impl Policy for Last {
    fn keep(&self, room: &str) -> Keep {
        Keep {
            count: Some(2),
            age: Some(1_000),
            bytes: Some(300),
            whole: room.len().is_multiple_of(2),
        }
    }

    fn max_bytes(&self) -> Option<u64> {
        Some(u64::from(SEGMENT) * 3)
    }
}

/// Plays one input.
pub fn run(input: &[u8]) {
    let Some((&mend, rest)) = input.split_first() else { return };
    let memory = Memory::default();
    unpack(rest, mend % 2 == 1, &memory);
    let Ok((mut store, _)) = Store::open(memory.clone(), options(), ID) else { return };
    let Some(before) = everything(&mut store) else { return };
    let (mut store, _) = match Store::open(memory.clone(), options(), ID) {
        Ok(opened) => opened,
        Err(why) => panic!("it was opened, and can't be again: {why}"),
    };
    let after = everything(&mut store);
    // An index that lies, with checksums that are right, is found out only when it is asked.
    if mend % 2 == 0 {
        assert_eq!(after.as_ref(), Some(&before), "it was opened, and has changed");
    }
    for room in before.iter().map(|(it, _)| it.name.clone()).take(4).chain(["new".into()]) {
        let bytes = b"something";
        let next = before.iter().find(|(it, _)| it.name == room).map_or(1, |(it, _)| it.next);
        let _ = store.commit(&[Op::Append { room: &room, offset: next, time: 2_000, bytes }]);
        let _ = store.commit(&[Op::Truncate { room: &room, last: next.saturating_sub(2) }]);
    }
    for _ in 0..2_000 {
        match store.step(2_500, &Last) {
            Ok(Progress::More) => {}
            Ok(Progress::Done) | Err(_) => break,
        }
    }
    let _ = everything(&mut store);
    for segment in store.segments() {
        let _ = store.verify(segment);
    }
}

fn options() -> Options {
    Options { segment_bytes: SEGMENT, rooms_in_memory: 2 }
}

type Everything = Vec<(RoomInfo, Vec<(u64, Vec<u8>)>)>;

/// All rooms, and the ends of each.
fn everything(store: &mut Store<Memory>) -> Option<Everything> {
    let (mut all, mut after): (Everything, Option<String>) = (Vec::new(), None);
    loop {
        let page = store.rooms(after.as_deref(), 8).ok()?;
        let Some(last) = page.last() else { return Some(all) };
        after = Some(last.name.to_string());
        for info in page {
            let mut found = Vec::new();
            for reverse in [false, true] {
                let query = Query { since: None, reverse, count: 20, bytes: 2_000 };
                let page = store.read(&info.name, &query).ok()?;
                found.extend(page.entries.into_iter().map(|it| (it.offset, it.bytes)));
            }
            let _ = store.head(&info.name);
            all.push((info, found));
        }
    }
}

/// The files of an input.
fn unpack(mut rest: &[u8], mend: bool, memory: &Memory) {
    let identity = File::Identity.to_string();
    let mut bytes = [b"RClogDIR", &1u32.to_le_bytes()[..], &ID.to_le_bytes()].concat();
    bytes.extend_from_slice(&sum(0, &bytes).to_le_bytes());
    memory.0.borrow_mut().insert(identity, bytes);
    while let [kind, number, low, high, more @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(more.len());
        let (bytes, others) = more.split_at(length);
        rest = others;
        let mut bytes = bytes.to_vec();
        let number = u64::from(*number);
        let file = match kind % 2 {
            0 => File::Segment(number),
            _ => File::Index(number),
        };
        match file {
            _ if !mend => {}
            File::Segment(_) => mend_segment(&mut bytes, number),
            _ => mend_index(&mut bytes, number),
        }
        memory.0.borrow_mut().insert(file.to_string(), bytes);
    }
}

fn sum(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

fn seed(segment: u64) -> u32 {
    sum(0, &[&ID.to_le_bytes()[..], &segment.to_le_bytes()].concat())
}

fn mend_segment(bytes: &mut [u8], number: u64) {
    let Some(start) = bytes.get_mut(..START) else { return };
    let checked = sum(0, &start[..START - 4]);
    start[START - 4..].copy_from_slice(&checked.to_le_bytes());
    let (mut at, seed) = (START, seed(number));
    while let Some(record) = bytes.get_mut(at..).filter(|it| it.len() >= HEADER) {
        let name = usize::from(u16::from_le_bytes([record[18], record[19]]));
        let body = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
        let from = HEADER + name;
        if record[20..24] != *b"RCre" || from > record.len() {
            return;
        }
        let end = from + body;
        // A header may lie about where its record ends, with a checksum that is right.
        if let Some(body) = record.get(from..end) {
            let checked = sum(seed, body);
            record[4..8].copy_from_slice(&checked.to_le_bytes());
        }
        let checked = sum(seed, &record[4..from]);
        record[..4].copy_from_slice(&checked.to_le_bytes());
        at += end.next_multiple_of(8);
    }
}

fn mend_index(bytes: &mut Vec<u8>, number: u64) {
    // What is mostly zeros is left out of the input.
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    for (block, bytes) in bytes.chunks_exact_mut(BLOCK).enumerate() {
        let seed = sum(seed(number), &(block as u64).to_le_bytes());
        let checked = sum(seed, &bytes[..BLOCK - 4]);
        bytes[BLOCK - 4..].copy_from_slice(&checked.to_le_bytes());
    }
}

/// An input with what a log really writes: so many batches, and its indexes or not.
pub fn example(mend: bool, batches: u64, indexes: bool) -> Vec<u8> {
    let memory = Memory::default();
    let Ok((mut store, _)) = Store::open(memory.clone(), options(), ID) else { return Vec::new() };
    for offset in 1..=batches {
        let bytes = [offset as u8; 40];
        let ops = [
            Op::Append { room: "a", offset, time: offset * 100, bytes: &bytes },
            Op::Append { room: "b", offset, time: offset * 100, bytes: &bytes[..3] },
            Op::Head { room: "a", bytes: b"known" },
        ];
        let _ = store.commit(&ops);
        let _ = store.sync();
    }
    let _ =
        store.commit(&[Op::Truncate { room: "a", last: batches - 1 }, Op::Remove { room: "b" }]);
    let mut input = vec![u8::from(mend)];
    for (name, bytes) in memory.0.borrow().iter() {
        let (kind, number) = match File::parse(name) {
            Some(File::Segment(number)) => (0, number),
            Some(File::Index(number)) if indexes => (1, number),
            _ => continue,
        };
        let end = bytes.iter().take(BLOCK - 4).rposition(|it| *it != 0).map_or(0, |it| it + 1);
        input.extend_from_slice(&[kind, number as u8]);
        input.extend_from_slice(&(end as u16).to_le_bytes());
        input.extend_from_slice(&bytes[..end]);
    }
    input
}
