//! Servers on some cores, their load on another.
//!
//! Where both share cores, the kernel may wake a client on the very core on which its server is sending, and
//! then goes to and fro between the two with every message; or it may not. CPU times of two servers side by
//! side then tell more of that than of the servers.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The thread that asks for it.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// The cores that this thread had, which it gets back in the end.
#[derive(Debug)]
pub struct Apart {
    all: CpuSet,
    load: usize,
}

impl Apart {
    /// What this thread starts from now on runs on all cores but the last. None where there is but one.
    pub fn servers() -> Result<Option<Self>> {
        let all = sched_getaffinity(THIS_THREAD).context("reading which cores there are")?;
        let mut cores = (0..CpuSet::count()).filter(|core| all.is_set(*core) == Ok(true));
        let (Some(_), Some(load)) = (cores.next(), cores.next_back()) else { return Ok(None) };
        let mut servers = all;
        servers.unset(load).context("leaving a core out")?;
        stay_on(&servers)?;
        Ok(Some(Self { all, load }))
    }

    /// This thread goes on on the core that was left.
    pub fn load(&self) -> Result<()> {
        let mut cores = CpuSet::new();
        cores.set(self.load).context("naming a core")?;
        stay_on(&cores)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It worked when the thread was taken off them.
        let _ = stay_on(&self.all);
    }
}

fn stay_on(cores: &CpuSet) -> Result<()> {
    sched_setaffinity(THIS_THREAD, cores).context("choosing cores")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores() -> usize {
        let set = sched_getaffinity(THIS_THREAD).expect("readable");
        (0..CpuSet::count()).filter(|core| set.is_set(*core) == Ok(true)).count()
    }

    #[test]
    fn the_load_has_a_core_of_its_own_for_a_while() {
        let all = cores();
        let Some(apart) = Apart::servers().expect("cores") else {
            return assert_eq!(all, 1);
        };
        assert_eq!(cores(), all - 1);
        apart.load().expect("the last core");
        assert_eq!(cores(), 1);
        drop(apart);
        assert_eq!(cores(), all);
    }
}
