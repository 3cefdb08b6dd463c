//! A disk in memory, which does what the worst one may do.
//!
//! What was written and not synced is a list of changes. A crash keeps any of them, in pieces, torn at any byte; the
//! same for which files there are. It can be told to crash, fail or lie at any call.

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    super::files::{Fault, FaultKind, File, Files},
    Dice,
};

/// What is written is kept or lost in pieces of so many bytes.
const PIECE: usize = 128;

#[derive(Debug, Clone, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    changes: Vec<Change>,
    /// What can't be given back.
    bad: Option<Range<usize>>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Cut(usize, usize),
}

impl Change {
    fn end(&self) -> usize {
        match self {
            Self::Write(at, bytes) => at + bytes.len(),
            Self::Cut(_, size) => *size,
        }
    }

    fn apply(&self, to: &mut Vec<u8>) {
        match self {
            Self::Write(at, bytes) => {
                let end = at + bytes.len();
                if to.len() < end {
                    to.resize(end, 0);
                }
                to[*at..end].copy_from_slice(bytes);
            }
            Self::Cut(keep, size) => {
                to.truncate(*keep);
                to.resize(*size, 0);
            }
        }
    }
}

/// What goes wrong next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// This call and all after it fail; of a write, some of it was done.
    Crash,
    /// This call fails; of a write, some of it was done.
    Fail(FaultKind),
    /// The next sync from this call on fails, as on a disk that can't write: what was to be synced can be read still,
    /// and counts as written for every later sync, but a crash loses it.
    Lose,
    /// This call, and all after it, say that they have synced, and have not.
    Lie,
}

#[derive(Debug, Default)]
struct State {
    contents: Vec<Content>,
    dir: BTreeMap<String, usize>,
    synced_dir: BTreeMap<String, usize>,
    capacity: Option<u64>,
    /// Calls that changed something.
    calls: u64,
    trouble: Option<(u64, Trouble)>,
    crashed: bool,
    lying: bool,
    losing: bool,
    failing_cuts: bool,
    failing_reads: bool,
    /// After so many reads, one fails.
    failing_read: Option<u64>,
    read_only: bool,
    /// What was done, for whoever looks into a failure.
    story: Vec<String>,
    telling: bool,
    dice: Option<Dice>,
}

/// A disk that is shared between a store and the test.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

fn fault(kind: FaultKind, why: &str) -> Fault {
    Fault { kind, why: why.to_owned() }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A disk that decides by this seed what it keeps.
    pub fn new(seed: u64) -> Self {
        let disk = Self::default();
        disk.state().dice = Some(Dice(seed));
        disk
    }

    /// After so many calls that change something.
    pub fn trouble(&self, after: u64, trouble: Trouble) {
        let mut state = self.state();
        state.trouble = Some((state.calls + after, trouble));
    }

    pub fn no_trouble(&self) {
        let mut state = self.state();
        (state.trouble, state.crashed, state.lying, state.read_only) = (None, false, false, false);
    }

    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    pub fn set_read_only(&self) {
        self.state().read_only = true;
    }

    /// Cuts fail, or do not any more.
    pub fn fail_cuts(&self, fail: bool) {
        self.state().failing_cuts = fail;
    }

    /// Reads fail, or do not any more.
    pub fn fail_reads(&self, fail: bool) {
        self.state().failing_reads = fail;
    }

    /// After so many reads, one fails.
    pub fn fail_a_read(&self, after: u64) {
        self.state().failing_read = Some(after);
    }

    /// This of a file can't be given back any more.
    pub fn spoil(&self, name: &str, bad: Range<usize>) {
        let mut state = self.state();
        let number = state.dir[name];
        state.contents[number].bad = Some(bad);
    }

    pub fn used(&self) -> u64 {
        self.state().used()
    }

    /// The power goes, and comes back.
    pub fn crash(&self) {
        let mut state = self.state();
        let mut dice = state.dice.take().unwrap_or(Dice(1));
        // All, none, or any.
        let keep = [0, 50, 90, 100][dice.below(4) as usize];
        for content in &mut state.contents {
            let mut kept = std::mem::take(&mut content.synced);
            for change in content.changes.drain(..) {
                keep_some(&change, keep, &mut dice, &mut kept);
            }
            (content.now, content.synced) = (kept.clone(), kept);
        }
        let names: Vec<String> = state.dir.keys().chain(state.synced_dir.keys()).cloned().collect();
        for name in names {
            let (now, before) =
                (state.dir.get(&name).copied(), state.synced_dir.get(&name).copied());
            let survives = if dice.chance(keep) { now } else { before };
            match survives {
                Some(it) => _ = state.dir.insert(name, it),
                None => _ = state.dir.remove(&name),
            }
        }
        state.synced_dir = state.dir.clone();
        (state.trouble, state.crashed) = (None, false);
        (state.lying, state.losing) = (false, false);
        state.dice = Some(dice);
        if state.telling {
            state.story.push("-- crash".into());
        }
    }

    pub fn names(&self) -> Vec<String> {
        self.state().dir.keys().cloned().collect()
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.contents[state.dir[name]].now.clone()
    }

    /// Puts a file there, synced.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.state();
        let content = Content { now: bytes.clone(), synced: bytes, ..Content::default() };
        state.contents.push(content);
        let number = state.contents.len() - 1;
        state.dir.insert(name.to_owned(), number);
        state.synced_dir.insert(name.to_owned(), number);
    }

    pub fn delete(&self, name: &str) {
        let mut state = self.state();
        state.dir.remove(name);
        state.synced_dir.remove(name);
    }

    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut bytes = self.bytes(name);
        bytes[byte] ^= 1 << bit;
        self.put(name, bytes);
    }

    /// A disk with the same on it.
    pub fn copy(&self) -> Self {
        let state = self.state();
        let copy = State {
            contents: state.contents.clone(),
            dir: state.dir.clone(),
            synced_dir: state.synced_dir.clone(),
            dice: state.dice.clone(),
            ..State::default()
        };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// From here on, the story is written down.
    pub fn tell(&self) {
        self.state().telling = true;
    }

    pub fn story(&self) -> String {
        self.state().story.join("\n")
    }
}

/// What a crash leaves of a change.
fn keep_some(change: &Change, keep: u64, dice: &mut Dice, kept: &mut Vec<u8>) {
    let Change::Write(at, bytes) = change else {
        if dice.chance(keep) {
            change.apply(kept);
        }
        return;
    };
    let mut from = 0;
    while from < bytes.len() {
        let end = ((at + from) / PIECE + 1) * PIECE - at;
        let end = end.min(bytes.len());
        let torn =
            if dice.chance(5) { dice.below((end - from) as u64) as usize } else { end - from };
        if dice.chance(keep) {
            Change::Write(at + from, bytes[from..from + torn].to_vec()).apply(kept);
        }
        from = end;
    }
}

impl State {
    fn used(&self) -> u64 {
        self.dir.values().map(|it| self.contents[*it].now.len() as u64).sum()
    }

    /// Counts a call. Whether it is to fail, and how.
    fn call(&mut self, what: fmt::Arguments<'_>) -> Result<(), Fault> {
        if self.telling {
            self.story.push(what.to_string());
        }
        if self.crashed {
            return Err(fault(FaultKind::Io, "the power is gone"));
        }
        if self.read_only {
            return Err(fault(FaultKind::ReadOnly, "read-only file system"));
        }
        self.calls += 1;
        let Some((at, trouble)) = self.trouble else { return Ok(()) };
        if self.calls <= at {
            return Ok(());
        }
        self.trouble = None;
        if self.telling {
            self.story.push(format!("   !! {trouble:?}"));
        }
        match trouble {
            Trouble::Crash => {
                self.crashed = true;
                Err(fault(FaultKind::Io, "the power is gone"))
            }
            Trouble::Fail(kind) => Err(fault(kind, "as was asked for")),
            Trouble::Lose => {
                self.losing = true;
                Ok(())
            }
            Trouble::Lie => {
                self.lying = true;
                Ok(())
            }
        }
    }

    fn content(&self, file: File) -> Result<&Content, Fault> {
        let number = self.dir.get(&file.to_string());
        number.map(|it| &self.contents[*it]).ok_or(fault(FaultKind::Missing, "no such file"))
    }

    fn change(&mut self, file: File, change: Change) -> Result<(), Fault> {
        let number = self.dir.get(&file.to_string()).copied();
        let number = number.ok_or(fault(FaultKind::Missing, "no such file"))?;
        let content = &self.contents[number];
        let grown = change.end().saturating_sub(content.now.len()) as u64;
        if grown > 0 && self.capacity.is_some_and(|it| self.used() + grown > it) {
            return Err(fault(FaultKind::Full, "no space left on device"));
        }
        change.apply(&mut self.contents[number].now);
        self.contents[number].changes.push(change);
        Ok(())
    }
}

impl Files for Disk {
    fn list(&self) -> Result<Vec<String>, Fault> {
        Ok(self.names())
    }

    fn create(&mut self, file: File, size: u64) -> Result<(), Fault> {
        let mut state = self.state();
        let called = state.call(format_args!("create {file} {size}"));
        if state.crashed {
            return called;
        }
        if state.read_only {
            return called;
        }
        // Whatever fails, the name may be there already.
        state.contents.push(Content::default());
        let number = state.contents.len() - 1;
        state.dir.insert(file.to_string(), number);
        called?;
        state.change(file, Change::Cut(0, size as usize))
    }

    fn len(&self, file: File) -> Result<u64, Fault> {
        Ok(self.state().content(file)?.now.len() as u64)
    }

    fn read(&self, file: File, at: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let mut state = self.state();
        let fails = state.failing_reads || state.failing_read == Some(0);
        state.failing_read = state.failing_read.and_then(|it| it.checked_sub(1));
        if fails {
            return Err(fault(FaultKind::Io, "input/output error"));
        }
        let content = state.content(file)?;
        let bytes = content.now.get(at as usize..).unwrap_or_default();
        let read = bytes.len().min(into.len());
        let (from, to) = (at as usize, at as usize + read);
        if content.bad.as_ref().is_some_and(|bad| bad.start < to && from < bad.end) {
            return Err(fault(FaultKind::Unreadable, "input/output error"));
        }
        into[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write(&mut self, file: File, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let mut state = self.state();
        let already = state.crashed || state.read_only;
        let called = state.call(format_args!("write {file} {at} +{}", bytes.len()));
        if called.is_err() && !already {
            let mut dice = state.dice.take().unwrap_or(Dice(1));
            let part = dice.below(bytes.len() as u64 + 1) as usize;
            state.dice = Some(dice);
            state.change(file, Change::Write(at as usize, bytes[..part].to_vec()))?;
        }
        called?;
        state.change(file, Change::Write(at as usize, bytes.to_vec()))
    }

    fn cut(&mut self, file: File, keep: u64, size: u64) -> Result<(), Fault> {
        let mut state = self.state();
        state.call(format_args!("cut {file} {keep} {size}"))?;
        if state.failing_cuts {
            return Err(fault(FaultKind::Io, "input/output error"));
        }
        state.change(file, Change::Cut(keep as usize, size as usize))
    }

    fn sync(&mut self, file: File) -> Result<(), Fault> {
        let mut state = self.state();
        state.call(format_args!("sync {file}"))?;
        let number = state.dir.get(&file.to_string()).copied();
        let number = number.ok_or(fault(FaultKind::Missing, "no such file"))?;
        if std::mem::take(&mut state.losing) {
            state.contents[number].changes.clear();
            return Err(fault(FaultKind::Io, "input/output error"));
        }
        if !state.lying {
            let content = &mut state.contents[number];
            for change in content.changes.drain(..) {
                change.apply(&mut content.synced);
            }
        }
        Ok(())
    }

    fn remove(&mut self, file: File) -> Result<(), Fault> {
        let mut state = self.state();
        state.call(format_args!("remove {file}"))?;
        let gone = state.dir.remove(&file.to_string());
        gone.map(|_| ()).ok_or(fault(FaultKind::Missing, "no such file"))
    }

    fn sync_dir(&mut self) -> Result<(), Fault> {
        let mut state = self.state();
        state.call(format_args!("sync the directory"))?;
        if !state.lying {
            state.synced_dir = state.dir.clone();
        }
        Ok(())
    }
}
