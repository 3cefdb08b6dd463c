//! Thousands of histories of a cluster, and those that once failed.
//!
//! `SIMULATOR_SEEDS=100000 cargo test --release -p cluster-tests --test simulator` runs more of them than
//! the default does.

use cluster_tests::sim::{self, Faults};

/// Histories of each kind in an ordinary run.
const SEEDS: u64 = 600;

fn seeds() -> u64 {
    std::env::var("SIMULATOR_SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(SEEDS)
}

fn run_all(faults: Faults) {
    for seed in 0..seeds() {
        if let Err(failure) = sim::run(seed, faults) {
            panic!("{failure}");
        }
    }
}

#[test]
fn slow_messages_change_nothing() {
    run_all(Faults::Delays);
}

#[test]
fn links_that_break_lose_nothing() {
    run_all(Faults::Links);
}

#[test]
fn nodes_that_join_take_rooms_over_without_loss() {
    run_all(Faults::Joins);
}

#[test]
fn crashes_and_partitions_leave_no_silent_gap() {
    run_all(Faults::Crashes);
}
