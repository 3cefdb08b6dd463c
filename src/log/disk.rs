//! SHELL. The files of a log in a directory.
//!
//! What comes in: what [`Files`] asks for. What goes out: system calls. One process at a time has a directory: it
//! holds the lock of the file `lock` in it for as long as it lives.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, Flock, FlockArg, PosixFadviseAdvice, fallocate, posix_fadvise},
};

use super::files::{Fault, FaultKind, File, Files};

/// Files that are kept open.
const MAX_OPEN: usize = 256;
const LOCK: &str = "lock";
/// What the system says of what the disk can't give back.
const EIO: i32 = Errno::EIO as i32;
/// Bytes that are read to see whether the disk gives back anything, and how far from what it does not.
const PROBE: usize = 4 << 10;
const PROBE_APART: u64 = 64 << 10;

/// A directory with a log's files. Clones are the same directory: others may read while one writes.
#[derive(Debug, Clone)]
pub struct Directory {
    path: PathBuf,
    opened: Arc<Mutex<HashMap<File, Opened>>>,
    _lock: Arc<Flock<fs::File>>,
}

/// A file that is kept open.
#[derive(Debug, Clone)]
struct Opened {
    file: Arc<fs::File>,
    can_write: bool,
}

/// A directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error(
        "{path} is in use by another process: stop it, or give this one another data_dir; two must not \
         write to one log"
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// It can't be made, or locked.
    #[error("{path}: {why}")]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

impl Directory {
    /// Makes the directory if there is none, and locks it.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, DirectoryError> {
        let path: PathBuf = path.into();
        let failed = |why| DirectoryError::Io { path: path.clone(), why };
        fs::create_dir_all(&path).map_err(failed)?;
        let mut options = fs::OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = match lock {
            Err(why) if is_read_only(&why) => fs::File::open(path.join(LOCK)),
            lock => lock,
        };
        let lock = Flock::lock(lock.map_err(failed)?, FlockArg::LockExclusiveNonblock);
        match lock {
            Ok(lock) => Ok(Self { path, opened: Arc::default(), _lock: Arc::new(lock) }),
            Err((_, Errno::EWOULDBLOCK)) => Err(DirectoryError::InUse { path }),
            Err((_, why)) => Err(failed(why.into())),
        }
    }

    fn path(&self, file: File) -> PathBuf {
        self.path.join(file.to_string())
    }

    fn file(&self, file: File, to_write: bool) -> Result<Arc<fs::File>, Fault> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(it) = opened.get(&file).filter(|it| it.can_write || !to_write) {
            return Ok(it.file.clone());
        }
        if opened.len() >= MAX_OPEN {
            opened.clear();
        }
        let path = self.path(file);
        let (it, can_write) = match fs::OpenOptions::new().read(true).write(true).open(&path) {
            // It can still be read.
            Err(why) if is_read_only(&why) && !to_write => (fs::File::open(&path), false),
            it => (it, true),
        };
        let it = Opened { file: Arc::new(it.map_err(fault)?), can_write };
        opened.insert(file, it.clone());
        Ok(it.file)
    }

    /// Whether this of a file can't be read, and something else can. Otherwise it is not the place: a disk that is gone
    /// for a while gives nothing back, and nothing of what is on it is to be given up for that.
    fn is_bad_sector(&self, file: &fs::File, at: u64, bytes: usize) -> bool {
        let length = file.metadata().map_or(0, |it| it.len());
        let apart = |probe: &u64| probe.abs_diff(at) >= (bytes as u64).max(PROBE_APART);
        let mut others =
            [0, length / 2, length.saturating_sub(PROBE as u64)].into_iter().filter(apart);
        let identity = || self.file(File::Identity, false).is_ok_and(|it| can_be_read(&it, 0));
        let others_can = others.any(|probe| can_be_read(file, probe)) || identity();
        others_can && read_at(file, at, &mut vec![0; bytes]).is_err()
    }

    fn forget(&self, file: File) {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(&file);
    }
}

fn is_read_only(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

fn fault(why: io::Error) -> Fault {
    let kind = match why.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FaultKind::Full,
        io::ErrorKind::ReadOnlyFilesystem => FaultKind::ReadOnly,
        io::ErrorKind::NotFound => FaultKind::Missing,
        _ => FaultKind::Io,
    };
    Fault { kind, why: why.to_string() }
}

fn read_at(file: &fs::File, at: u64, into: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < into.len() {
        match file.read_at(&mut into[done..], at + done as u64) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
    }
    Ok(done)
}

/// Whether the disk gives back what begins here, and not only memory.
fn can_be_read(file: &fs::File, at: u64) -> bool {
    let (from, advice) =
        (i64::try_from(at).unwrap_or(i64::MAX), PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    let forgotten = posix_fadvise(file, from, PROBE as i64, advice);
    forgotten.is_ok() && read_at(file, at, &mut [0; PROBE]).is_ok_and(|it| it > 0)
}

/// Gives a file so many bytes, with space behind them where the file system can do that.
fn allocate(file: &fs::File, size: u64) -> io::Result<()> {
    let length = i64::try_from(size).unwrap_or(i64::MAX);
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.set_len(size),
        Err(why) => Err(why.into()),
        Ok(()) => Ok(()),
    }
}

impl Files for Directory {
    fn list(&self) -> Result<Vec<String>, Fault> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name().to_string_lossy().into_owned();
            if name != LOCK {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&mut self, file: File, size: u64) -> Result<(), Fault> {
        self.forget(file);
        let mut options = fs::OpenOptions::new();
        let options = options.create(true).truncate(true).read(true).write(true);
        let made = options.open(self.path(file)).map_err(fault)?;
        if size > 0 {
            allocate(&made, size).map_err(fault)?;
        }
        Ok(())
    }

    fn len(&self, file: File) -> Result<u64, Fault> {
        Ok(self.file(file, false)?.metadata().map_err(fault)?.len())
    }

    fn read(&self, file: File, at: u64, into: &mut [u8]) -> Result<usize, Fault> {
        let opened = self.file(file, false)?;
        read_at(&opened, at, into).map_err(|why| match why.raw_os_error() {
            Some(EIO) if self.is_bad_sector(&opened, at, into.len()) => {
                Fault { kind: FaultKind::Unreadable, why: why.to_string() }
            }
            _ => fault(why),
        })
    }

    fn write(&mut self, file: File, at: u64, bytes: &[u8]) -> Result<(), Fault> {
        self.file(file, true)?.write_all_at(bytes, at).map_err(fault)
    }

    fn cut(&mut self, file: File, keep: u64, size: u64) -> Result<(), Fault> {
        let opened = self.file(file, true)?;
        opened.set_len(keep).map_err(fault)?;
        if size > keep { allocate(&opened, size).map_err(fault) } else { Ok(()) }
    }

    fn sync(&mut self, file: File) -> Result<(), Fault> {
        self.file(file, true)?.sync_data().map_err(fault)
    }

    fn remove(&mut self, file: File) -> Result<(), Fault> {
        let removed = fs::remove_file(self.path(file)).map_err(fault);
        // Afterwards, or who reads meanwhile would open it once more, and its space would stay taken.
        self.forget(file);
        removed
    }

    fn sync_dir(&mut self) -> Result<(), Fault> {
        sync_dir(&self.path).map_err(fault)
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{
        super::{Op, Options, Query, Store},
        *,
    };

    /// A directory that is removed at the end.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new(name: &str) -> Self {
            let name = format!("roomcast-log-{name}-{}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn rooms_are_there_after_the_directory_was_closed() {
        let scratch = Scratch::new("there");
        let options = || Options { segment_bytes: 64 << 10, ..Options::default() };
        for round in 0..3 {
            let directory = Directory::open(&scratch.0).expect("nobody has it");
            let (mut store, opened) = Store::open(directory, options(), 7).expect("it opens");
            assert_eq!((opened.fresh, opened.torn), (round == 0, 0));
            for offset in round * 500..(round + 1) * 500 {
                let ops = [Op::Append { room: "a", offset, time: 0, bytes: &[1; 100] }];
                store.commit(&ops).expect("written");
            }
            store.close().expect("synced");
        }
        let directory = Directory::open(&scratch.0).expect("nobody has it");
        let (mut store, opened) = Store::open(directory, options(), 7).expect("it opens");
        assert_eq!((opened.indexed, opened.damage), (0, vec![]));
        let query = Query { since: None, reverse: false, count: 5_000, bytes: 1 << 20 };
        assert_eq!(store.read("a", &query).expect("read").entries.len(), 1_500);
    }

    #[test]
    fn a_bad_sector_is_told_from_a_disk_that_is_gone() {
        let scratch = Scratch::new("sector");
        let mut directory = Directory::open(&scratch.0).expect("nobody has it");
        // Nothing of it can be read: the same error as a bad sector's.
        let memory = scratch.0.join(File::Segment(1).to_string());
        std::os::unix::fs::symlink("/proc/self/mem", memory).expect("linked");
        let kind = |directory: &Directory| {
            let read = directory.read(File::Segment(1), 0, &mut [0; 10]);
            read.expect_err("it can't be read").kind
        };
        assert_eq!(kind(&directory), FaultKind::Io);
        directory.create(File::Identity, 64).expect("made");
        assert_eq!(kind(&directory), FaultKind::Unreadable, "something else can be read");
    }

    #[test]
    fn two_processes_do_not_share_a_directory() {
        let scratch = Scratch::new("shared");
        let first = Directory::open(&scratch.0).expect("nobody has it");
        let error = Directory::open(&scratch.0).expect_err("it is locked").to_string();
        assert!(error.contains("in use by another process: stop it"), "{error}");
        drop(first);
        Directory::open(&scratch.0).expect("nobody has it any more");
    }
}
