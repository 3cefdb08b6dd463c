//! Thousands of histories of a cluster, and those that once failed.
//!
//! `SIMULATOR_SEEDS=17000 cargo test -p cluster-tests --test simulator` plays 102,000 of them: what to run
//! every night. `SIMULATOR_SEED=7 SIMULATOR_TRACE=1` tells the whole story of one.

use cluster_tests::sim::{self, Faults, mutants::Mutant};

/// Histories of each kind in an ordinary run.
const SEEDS: u64 = 600;

fn seeds() -> u64 {
    std::env::var("SIMULATOR_SEEDS").ok().and_then(|it| it.parse().ok()).unwrap_or(SEEDS)
}

/// One seed alone, or the first of all.
fn seeds_to_run() -> std::ops::Range<u64> {
    let one: Option<u64> = std::env::var("SIMULATOR_SEED").ok().and_then(|it| it.parse().ok());
    one.map_or(0..seeds(), |seed| seed..seed + 1)
}

fn run_all(faults: Faults) {
    for seed in seeds_to_run() {
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
fn a_node_that_dies_takes_nothing_with_it_that_was_acknowledged() {
    run_all(Faults::Deaths);
}

#[test]
fn a_node_that_stood_still_does_no_harm_when_it_goes_on() {
    run_all(Faults::Standstills);
}

#[test]
fn whatever_happens_no_gap_is_silent() {
    run_all(Faults::Everything);
}

/// Histories that once failed.
const ONCE_FAILED: [(u64, Faults); 10] = [
    (303, Faults::Joins),
    (485, Faults::Joins),
    (3974, Faults::Joins),
    (155, Faults::Deaths),
    (4795, Faults::Deaths),
    (710, Faults::Standstills),
    (2676, Faults::Standstills),
    (81, Faults::Everything),
    (816, Faults::Everything),
    (4323, Faults::Everything),
];

#[test]
fn what_once_failed_does_not_fail_again() {
    for (seed, faults) in ONCE_FAILED {
        if let Err(failure) = sim::run(seed, faults) {
            panic!("{failure}");
        }
    }
}

/// Histories of each kind in which a broken core has to show.
const MUTANT_SEEDS: u64 = 150;

fn caught(mutant: Mutant) -> bool {
    // The harshest kinds last: what a mild one catches needs no more.
    (0..MUTANT_SEEDS).any(|seed| {
        Faults::ALL.into_iter().any(|faults| sim::run_with(seed, faults, Some(mutant)).is_err())
    })
}

#[test]
fn every_broken_core_is_caught() {
    let missed: Vec<Mutant> = Mutant::ALL.into_iter().filter(|it| !caught(*it)).collect();
    assert!(missed.is_empty(), "the simulator can't tell these from the real core: {missed:?}");
}
