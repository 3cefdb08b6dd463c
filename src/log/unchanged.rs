//! The files of a log that nobody is to change: what is written is kept in memory, and seen there. So a log is opened as
//! always, with what that makes anew and cuts off, also where nothing can be written: a disk that is read-only, a backup.
//!
//! What comes in: what [`Files`] asks for. What goes out: reads of the files behind it.

use std::collections::BTreeMap;

use super::files::{Fault, FaultKind, File, Files};

/// Files that stay as they are.
#[derive(Debug, Clone)]
pub struct Unchanged<F> {
    files: F,
    /// All that is in a file that would have been changed; none: it would have been removed.
    changed: BTreeMap<File, Option<Vec<u8>>>,
}

impl<F: Files> Unchanged<F> {
    /// These.
    pub fn new(files: F) -> Self {
        Self { files, changed: BTreeMap::new() }
    }

    /// A file to be changed, with so much of what is in it.
    fn change(&mut self, file: File, keep: u64) -> Result<&mut Vec<u8>, Fault> {
        if !self.changed.contains_key(&file) {
            let mut bytes = vec![0; size(self.files.len(file)?.min(keep))];
            let read = self.files.read(file, 0, &mut bytes)?;
            bytes.truncate(read);
            self.changed.insert(file, Some(bytes));
        }
        self.changed.get_mut(&file).and_then(Option::as_mut).ok_or_else(missing)
    }
}

fn missing() -> Fault {
    Fault { kind: FaultKind::Missing, why: "no such file".to_owned() }
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl<F: Files> Files for Unchanged<F> {
    fn list(&self) -> Result<Vec<String>, Fault> {
        let stays =
            |name: &String| File::parse(name).is_none_or(|it| !self.changed.contains_key(&it));
        let mut names: Vec<String> = self.files.list()?.into_iter().filter(stays).collect();
        let there = self.changed.iter().filter(|(_, it)| it.is_some());
        names.extend(there.map(|(file, _)| file.to_string()));
        Ok(names)
    }

    fn create(&mut self, file: File, bytes: u64) -> Result<(), Fault> {
        self.changed.insert(file, Some(vec![0; size(bytes)]));
        Ok(())
    }

    fn len(&self, file: File) -> Result<u64, Fault> {
        match self.changed.get(&file) {
            None => self.files.len(file),
            Some(changed) => changed.as_ref().map(|it| it.len() as u64).ok_or_else(missing),
        }
    }

    fn read(&self, file: File, at: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let Some(changed) = self.changed.get(&file) else { return self.files.read(file, at, into) };
        let bytes = changed.as_ref().ok_or_else(missing)?.get(size(at)..).unwrap_or_default();
        let read = bytes.len().min(into.len());
        into[..read].copy_from_slice(&bytes[..read]);
        Ok(read)
    }

    fn write(&mut self, file: File, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        let (content, at) = (self.change(file, u64::MAX)?, size(at));
        let end = at + bytes.len();
        content.resize(content.len().max(end), 0);
        content[at..end].copy_from_slice(bytes);
        Ok(())
    }

    fn cut(&mut self, file: File, keep: u64, to: u64) -> Result<(), Fault> {
        let content = self.change(file, keep)?;
        content.truncate(size(keep));
        content.resize(content.len().max(size(to)), 0);
        Ok(())
    }

    fn sync(&mut self, _: File) -> Result<(), Fault> {
        Ok(())
    }

    fn remove(&mut self, file: File) -> Result<(), Fault> {
        self.len(file)?;
        self.changed.insert(file, None);
        Ok(())
    }

    fn sync_dir(&mut self) -> Result<(), Fault> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Op, Options, Query, Store,
            disk::{Directory, tests::Scratch},
        },
        *,
    };

    fn contents(directory: &Directory) -> BTreeMap<String, u64> {
        let names = directory.list().expect("listed");
        let length = |it: &String| File::parse(it).map(|it| directory.len(it).expect("there"));
        names.into_iter().map(|it| (it.clone(), length(&it).unwrap_or(0))).collect()
    }

    #[test]
    fn a_log_is_opened_and_read_and_nothing_of_it_changes() {
        let scratch = Scratch::new("unchanged");
        let options = || Options { segment_bytes: 64 << 10, ..Options::default() };
        let directory = Directory::open(&scratch.0).expect("nobody has it");
        let (mut store, _) = Store::open(directory.clone(), options(), 7).expect("it opens");
        for offset in 1..=1_500 {
            let ops = [Op::Append { room: "a", offset, time: 0, bytes: &[1; 100] }];
            store.commit(&ops).expect("written");
        }
        store.sync().expect("synced");
        // Its process ends just so, and the first index is lost.
        drop(store);
        let mut files = directory.clone();
        files.remove(File::Index(1)).expect("removed");
        let before = contents(&directory);
        assert!(before.len() > 4, "{before:?}");
        let query = Query { since: None, reverse: false, count: 5_000, bytes: 1 << 20 };
        for _ in 0..2 {
            let files = Unchanged::new(directory.clone());
            let (mut store, opened) = Store::open(files, options(), 8).expect("it opens");
            assert_eq!((opened.indexed, opened.damage), (1, vec![]));
            assert_eq!(store.read("a", &query).expect("read").entries.len(), 1_500);
            assert_eq!(contents(&directory), before);
        }
        // There all of it is seen.
        let mut files = Unchanged::new(directory.clone());
        files.remove(File::Segment(1)).expect("removed");
        files.write(File::Segment(2), 3, b"xy").expect("written");
        files.cut(File::Segment(2), 4, 10).expect("cut");
        let mut read = [9; 20];
        assert_eq!(files.read(File::Segment(2), 2, &mut read), Ok(8));
        assert_eq!((read[1], read[2], files.len(File::Segment(2))), (b'x', 0, Ok(10)));
        assert!(files.len(File::Segment(1)).is_err());
        assert!(!files.list().expect("listed").contains(&File::Segment(1).to_string()));
    }
}
