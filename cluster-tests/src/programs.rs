//! Programs of others that a scenario runs: proxies.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::node::{bound, spawn_bound};
use crate::paths;

/// Where a program is, if it is on this machine: the path, what is for administrators only, and where the run script
/// puts what comes from PyPI.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let more =
        [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin"), paths::venv().join("bin")];
    env::split_paths(&path).chain(more).map(|it| it.join(program)).find(|it| it.is_file())
}

/// A program that runs until this is dropped.
pub struct Running {
    child: Child,
    folder: PathBuf,
}

impl Running {
    /// Starts it. Its folder, in which it leaves what it says, goes with it.
    pub fn start(command: Command, folder: PathBuf) -> Result<Self, String> {
        let program = Path::new(command.get_program()).to_owned();
        let program = program.to_string_lossy();
        let path = find(&program).ok_or_else(|| format!("there is no {program}"))?;
        let mut started = bound(&path);
        started.args(command.get_args()).stdin(std::process::Stdio::null());
        for (name, value) in command.get_envs() {
            started.env(name, value.unwrap_or_default());
        }
        let log = File::create(folder.join("log")).map_err(|e| e.to_string())?;
        started.stdout(log.try_clone().map_err(|e| e.to_string())?).stderr(log);
        let child = spawn_bound(started).map_err(|e| format!("{program} does not start: {e}"))?;
        Ok(Self { child, folder })
    }

    /// What it said.
    pub fn log(&self) -> String {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        format!("{}{}", read("log"), read("error.log"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
