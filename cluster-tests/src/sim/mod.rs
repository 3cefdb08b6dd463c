//! Whole histories of a cluster, from one seed each, in memory.
//!
//! What comes in: a seed, and which [`Faults`] may happen. What goes out: nothing, or a [`Failure`] that
//! names the seed and tells the story. The registries are the real ones; what they say to each other goes
//! through the real wire codec, over links that delay, and lose what is under way when they break.
//! Clients subscribe, are cut off, come back to any node and recover; publishers publish anywhere.
//!
//! [`faults`] is the kinds of histories, [`network`] the links, [`disk`] what outlives a node, [`client`] a client and what it may never see,
//! [`world`] the clock, what happens and the judgement, [`mutants`] what must be caught. [`scale`] counts what
//! large clusters say, without faults.

pub mod client;
pub mod disk;
pub mod faults;
pub mod mutants;
pub mod network;
pub mod scale;
pub mod world;

use std::fmt;

pub use faults::Faults;

/// A promise that was broken.
pub struct Failure {
    /// The history that did it.
    pub seed: u64,
    /// What could go wrong in it.
    pub faults: Faults,
    /// What must never happen, and did.
    pub broken: String,
    /// What had happened.
    pub story: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} with {:?}: {}", self.seed, self.faults, self.broken)?;
        let short = self.story.len() <= LONG;
        let mut lines = self.story.iter().filter(|line| short || self.concerns(line));
        lines.try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// A story with more lines than this is told without what happened in other rooms.
const LONG: usize = 400;

fn rooms(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|it: char| !(it.is_alphanumeric() || it == '-'));
    words.filter(|it| it.starts_with("room-"))
}

impl Failure {
    /// Whether a line of the story is about the room of which the promise was broken, or about none.
    fn concerns(&self, line: &str) -> bool {
        rooms(&self.broken).next().is_none()
            || rooms(line).next().is_none()
            || rooms(line).any(|room| rooms(&self.broken).any(|it| it == room))
    }
}

/// Runs one history.
///
/// # Errors
/// If a promise was broken in it.
pub fn run(seed: u64, faults: Faults) -> Result<(), Box<Failure>> {
    run_with(seed, faults, None)
}

/// Runs one history of cores that may be broken on purpose.
///
/// # Errors
/// If a promise was broken in it.
pub fn run_with(
    seed: u64,
    faults: Faults,
    mutant: Option<mutants::Mutant>,
) -> Result<(), Box<Failure>> {
    let (broken, story) = play(seed, faults, mutant);
    broken.map_err(|broken| Box::new(Failure { seed, faults, broken, story }))
}

/// Runs one history, and tells it whether or not a promise was broken in it.
pub fn play(
    seed: u64,
    faults: Faults,
    mutant: Option<mutants::Mutant>,
) -> (Result<(), String>, Vec<String>) {
    let mut world = world::World::new(seed, faults, mutant);
    let outcome = world.run();
    (outcome, world.story)
}

/// The same with maps, beside the rooms.
pub fn play_with_maps(
    seed: u64,
    faults: Faults,
    mutant: Option<mutants::Mutant>,
) -> (Result<(), String>, Vec<String>) {
    let mut world = world::World::new(seed, faults, mutant).with_maps(seed);
    let outcome = world.run();
    (outcome, world.story)
}

/// The same with rooms on disk that are often out of memory.
pub fn play_with_idle_rooms(
    seed: u64,
    faults: Faults,
    mutant: Option<mutants::Mutant>,
) -> (Result<(), String>, Vec<String>) {
    let mut world = world::World::new(seed, faults, mutant).with_idle_rooms();
    let outcome = world.run();
    (outcome, world.story)
}

/// The same with groups of consumers in every room.
pub fn play_with_consumers(
    seed: u64,
    faults: Faults,
    mutant: Option<mutants::Mutant>,
) -> (Result<(), String>, Vec<String>) {
    let mut world = world::World::new(seed, faults, mutant).with_consumers(seed);
    let outcome = world.run();
    (outcome, world.story)
}
