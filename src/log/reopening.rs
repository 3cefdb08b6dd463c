//! Opening a log again after a failed sync.
//!
//! What comes in: a store that has closed, which knows what was synced before. What goes out: one that has that and
//! nothing else.

use super::{
    error::OpenError,
    files::{File, Files},
    store::{Active, Stats, Store},
};

impl<F: Files + Clone> Store<F> {
    /// Opens the directory of this store again, after a sync has failed. Returns as well how many bytes were cut off:
    /// what was written since the last sync that succeeded. Whoever wrote it has to write it again.
    ///
    /// It can still be read, from memory, and a second sync would even succeed, since the system takes for written
    /// what it has failed to write: so nothing of it is believed. Were a copy that retention has made among it, its
    /// original would be removed; were a note that a segment is not needed, that segment would be.
    ///
    /// # Errors
    /// If the directory can't be opened. This store knows still what was synced: it can be tried again.
    pub fn open_again(&self) -> Result<(Self, u32), OpenError> {
        let mut files = self.files.clone();
        let Active { number, synced, end, .. } = self.active;
        remove_after(&mut files, number)?;
        let file = File::Segment(number);
        let (at, size) = (synced.into(), synced.into());
        files.cut(file, at, size).map_err(OpenError::failed("cutting", file))?;
        files.sync(file).map_err(OpenError::failed("syncing", file))?;
        let options = self.options.clone();
        let (mut store, opened) = Self::open_knowing(files, options, self.id, (number, synced))?;
        store.damage = [self.damage.clone(), opened.damage].concat();
        store.told = self.told.clone();
        let Stats { records, written, syncs, copied, retired, .. } = self.stats;
        store.stats = Stats { records, written, syncs, copied, retired, ..store.stats };
        // What the disk could not take, it is not asked to take in the same place. Without space for another segment
        // this one goes on; and what fails otherwise has closed the store, or shows when something is written.
        let _ = store.roll();
        Ok((store, end.saturating_sub(synced)))
    }
}

/// Removes segments that were being begun: nothing was written to them, and what is read of them may be in memory
/// only. The last goes first, since each says that those before it are there.
fn remove_after(files: &mut impl Files, number: u64) -> Result<(), OpenError> {
    let names = files.list().map_err(OpenError::failed("listing", File::Identity))?;
    let mut begun: Vec<u64> = names
        .iter()
        .filter_map(|name| match File::parse(name)? {
            File::Segment(it) if it > number => Some(it),
            _ => None,
        })
        .collect();
    begun.sort_unstable_by(|a, b| b.cmp(a));
    for it in begun {
        let file = File::Segment(it);
        files.remove(file).map_err(OpenError::failed("removing", file))?;
        files.sync_dir().map_err(OpenError::failed("syncing", file))?;
    }
    Ok(())
}
