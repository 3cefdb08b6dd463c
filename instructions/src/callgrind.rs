//! What comes in: an operation. What goes out: the instructions that one unit of it takes, as callgrind
//! counts them in a process of its own.

use std::{
    env, fs,
    process::{self, Command},
};

use anyhow::{Context as _, bail, ensure};

use crate::operations::Operation;

/// The only function inside of which instructions are counted, as valgrind writes its name: some versions
/// with the compiler's hash.
const MEASURED: [&str; 2] = [
    "roomcast_instructions::operations::measured::h*",
    "roomcast_instructions::operations::measured",
];

/// What the counts depend on beside the code. Not the processor: to the program under it valgrind always
/// looks like one of 2014, or an older one where there is no AVX2.
///
/// # Errors
/// If valgrind is not there.
pub fn tools() -> anyhow::Result<String> {
    let valgrind = said("valgrind", &["--version"]).context("instructions/run installs it")?;
    let libc = said("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|_| "no glibc".into());
    Ok(format!("{}, {valgrind}, {libc}", env!("COMPILER")))
}

fn said(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let run = Command::new(program).args(arguments).output();
    let run = run.with_context(|| format!("can't run {program}"))?;
    Ok(String::from_utf8_lossy(&run.stdout).trim().to_owned())
}

/// Counts the instructions of one unit.
///
/// # Errors
/// If the operation fails, or nothing was counted.
pub fn count(operation: &Operation) -> anyhow::Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..operation.runs {
        least = least.min(count_once(operation)?);
    }
    Ok(least.div_ceil(operation.units))
}

fn count_once(operation: &Operation) -> anyhow::Result<u64> {
    let output = env::temp_dir().join(format!("roomcast-instructions-{}", process::id()));
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--collect-atstart=no"])
        .args(MEASURED.map(|it| format!("--toggle-collect={it}")))
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(env::current_exe()?)
        .args(["--play", operation.name])
        .output()?;
    let profile = fs::read_to_string(&output);
    let _ = fs::remove_file(&output);
    if !run.status.success() {
        bail!("{}\n{}", run.status, String::from_utf8_lossy(&run.stderr));
    }
    let total = total(&profile?).context("callgrind has not said how many there were")?;
    ensure!(total > 0, "nothing was counted: is `measured` still called that?");
    Ok(total)
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
