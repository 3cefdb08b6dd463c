//! The counts in the repository, and what those of now are against them. Pure but for the file.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::operations::{OPERATIONS, Operation};

/// Instructions for one unit of each operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counts {
    /// The compiler and what else they depend on; with another one they can't be compared strictly.
    pub with: String,
    /// By the operation's name.
    pub counts: BTreeMap<String, u64>,
}

impl Counts {
    /// Reads the record.
    ///
    /// # Errors
    /// If there is none, or it can't be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path);
        let text = text.with_context(|| format!("no record at {} (--record)", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no record", path.display()))
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        Ok(fs::write(path, serde_json::to_string_pretty(self)? + "\n")?)
    }
}

/// What the counts of now are, all in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As recorded.
    Same,
    /// Something takes more, or is not recorded.
    Slower,
    /// Something takes less, and nothing takes more.
    Faster,
    /// They differ, but so does what they were made with.
    OtherTools,
}

impl Verdict {
    /// What to do.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Same => "No operation needs more instructions than recorded.",
            Self::Slower => {
                "Something needs more instructions than recorded. If it is worth that, say so in the commit and\n\
                 record the new counts with it: instructions/run --record"
            }
            Self::Faster => {
                "Something needs fewer instructions. To keep it so, record that: instructions/run --record"
            }
            Self::OtherTools => {
                "The counts were recorded with another compiler, valgrind or C library, so this is a warning and no failure.\n\
                 `instructions/run --record` on a commit that is known to be good makes them comparable again."
            }
        }
    }
}

/// By how many per cent `now` is more than `before`.
pub fn change(before: u64, now: u64) -> f64 {
    (now as f64 / before.max(1) as f64 - 1.0) * 100.0
}

/// How one operation compares, in a word, and what that means for all.
fn judge(operation: &Operation, before: Option<u64>, now: u64) -> (Verdict, String) {
    let Some(before) = before else { return (Verdict::Slower, "not recorded".into()) };
    let change = change(before, now);
    let (verdict, word) = match change {
        more if more > operation.tolerance => (Verdict::Slower, "  SLOWER"),
        less if less < -operation.tolerance => (Verdict::Faster, "  faster"),
        _ => (Verdict::Same, ""),
    };
    (verdict, format!("{change:+.2} %{word}"))
}

/// A line for each operation, and what they come to.
pub fn table(before: &Counts, now: &Counts) -> (String, Verdict) {
    let mut table = String::new();
    let mut worst = Verdict::Same;
    let _ = writeln!(
        table,
        "{:<17}{:>12}{:>12}  {:<18}tolerance  instructions for one",
        "operation", "recorded", "now", "change"
    );
    for operation in &OPERATIONS {
        let Some(&count) = now.counts.get(operation.name) else { continue };
        let recorded = before.counts.get(operation.name).copied();
        let (verdict, change) = judge(operation, recorded, count);
        if worst != Verdict::Slower && verdict != Verdict::Same {
            worst = verdict;
        }
        let recorded = recorded.map_or_else(|| "-".into(), thousands);
        let (name, tolerance, unit) = (operation.name, operation.tolerance, operation.unit);
        let now = thousands(count);
        let _ = writeln!(
            table,
            "{name:<17}{recorded:>12}{now:>12}  {change:<18}{tolerance:>7} %  {unit}"
        );
    }
    if before.with == now.with {
        return (table, worst);
    }
    let _ = writeln!(table, "recorded with: {}\nnow:           {}", before.with, now.with);
    let unlike = worst != Verdict::Same;
    (table, if unlike { Verdict::OtherTools } else { worst })
}

fn thousands(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIKE: u64 = 100_000;

    /// What it comes to if these are as they are said to be, and all others as recorded.
    fn compared(with: &str, changed: &[(&str, u64)]) -> (String, Verdict) {
        let counts = OPERATIONS.iter().map(|it| (it.name.to_owned(), ALIKE)).collect();
        let before = Counts { with: "rustc 1".into(), counts };
        let mut now = Counts { with: with.into(), ..before.clone() };
        now.counts.extend(changed.iter().map(|(name, count)| ((*name).to_owned(), *count)));
        table(&before, &now)
    }

    fn line<'a>(table: &'a str, operation: &str) -> &'a str {
        table.lines().find(|line| line.starts_with(operation)).unwrap_or_default()
    }

    #[test]
    fn more_than_the_tolerance_is_a_failure_and_named() {
        let changed = [("fan-out", 103_100), ("mesh-forward", 50_000)];
        let (table, verdict) = compared("rustc 1", &changed);
        assert_eq!(verdict, Verdict::Slower);
        let seen = line(&table, "fan-out");
        assert!(seen.contains("100,000     103,100  +3.10 %  SLOWER"), "{table}");
        assert!(line(&table, "mesh-forward").contains("-50.00 %  faster"), "{table}");
        assert!(line(&table, "encode-json").contains("+0.00 %   "), "{table}");
    }

    #[test]
    fn within_the_tolerance_or_below_is_none() {
        assert_eq!(compared("rustc 1", &[("fan-out", 102_900)]).1, Verdict::Same);
        assert_eq!(compared("rustc 1", &[("fan-out", 90_000)]).1, Verdict::Faster);
    }

    #[test]
    fn what_is_not_recorded_is_a_failure() {
        let counts = BTreeMap::from([("fan-out".to_owned(), 1)]);
        let now = Counts { with: "rustc 1".into(), counts };
        let before = Counts { counts: BTreeMap::new(), ..now.clone() };
        let (table, verdict) = table(&before, &now);
        assert_eq!(verdict, Verdict::Slower);
        assert!(line(&table, "fan-out").contains("not recorded"), "{table}");
    }

    #[test]
    fn another_compiler_is_a_reason_and_named() {
        let (table, verdict) = compared("rustc 2", &[("fan-out", 200_000)]);
        assert_eq!(verdict, Verdict::OtherTools);
        assert!(table.contains("recorded with: rustc 1\nnow:           rustc 2"), "{table}");
        assert_eq!(compared("rustc 2", &[]).1, Verdict::Same);
    }
}
