//! What comes in: an operation. What goes out: the instructions that one round of it takes, as callgrind
//! counts them in a process of its own.

use std::{env, fs, process::Command};

use anyhow::{Context as _, bail, ensure};

use crate::operations::Operation;

/// The only function inside of which instructions are counted. By its name, as it is written in the symbols
/// of older compilers, with a hash, or newer ones.
const MEASURED: [&str; 2] = [
    "roomcast_instructions::operations::measured::h*",
    "roomcast_instructions::operations::measured",
];

/// Counts the instructions of a round.
///
/// # Errors
/// If valgrind is not there, the operation fails, or nothing was counted.
pub fn count(operation: &Operation) -> anyhow::Result<u64> {
    let output = env::temp_dir().join(format!("roomcast-instructions-{}", std::process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args(MEASURED.map(|it| format!("--toggle-collect={it}")))
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(env::current_exe()?)
        .args(["--play", operation.name])
        .output()
        .context("can't run valgrind: instructions/run installs it")?;
    let profile = fs::read_to_string(&output);
    let _ = fs::remove_file(&output);
    if !run.status.success() {
        bail!("{}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    let total =
        total(&profile?).context("callgrind has not said how many instructions there were")?;
    ensure!(total > 0, "nothing was counted: is `measured` still called that?");
    Ok(total.div_ceil(operation.units))
}

fn total(profile: &str) -> Option<u64> {
    profile.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_in_a_line_of_its_own() {
        assert_eq!(total("summary: 7\nfn=a\n1 5\ntotals: 1234\n"), Some(1234));
        assert_eq!(total("version: 1\n"), None);
    }
}
