//! Whole histories of a cluster, from one seed each, in memory.
//!
//! What comes in: a seed, and which [`Faults`] may happen. What goes out: nothing, or a [`Failure`] that
//! names the seed and tells the story. The registries are the real ones; what they say to each other goes
//! through the real wire codec, over links that delay, and lose what is under way when they break.
//! Clients subscribe, are cut off, come back to any node and recover; publishers publish anywhere.
//!
//! [`network`] is the links, [`client`] a client and what it may never see, [`world`] the clock, the faults
//! and the judgement, [`mutants`] what must be caught. [`scale`] counts what large clusters say, without faults.

pub mod client;
pub mod mutants;
pub mod network;
pub mod scale;
pub mod world;

use std::fmt;

/// What may go wrong in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Nothing: messages are slow, no more.
    Delays,
    /// Links break, shortly.
    Links,
    /// Links break, and nodes join while rooms are busy.
    Joins,
    /// Nodes crash and restart under their names, one after the other.
    Deaths,
    /// Nodes stand still for a while, as if stopped, and go on as if nothing had happened.
    Standstills,
    /// All of it at once, and nodes are cut off from all others, or from one, for long.
    Everything,
}

impl Faults {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Delays, Self::Links, Self::Joins, Self::Deaths, Self::Standstills, Self::Everything];

    /// Whether an acknowledged message must be in its room's history at the end: the home or one of its
    /// successors has always lived.
    pub fn keep_what_is_acked(self) -> bool {
        self != Self::Everything
    }

    /// Whether no client may be told of a gap: no home has died with what it alone had.
    pub fn leave_no_gap(self) -> bool {
        matches!(self, Self::Delays | Self::Links | Self::Joins)
    }
}

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
        self.story.iter().try_for_each(|line| writeln!(f, "  {line}"))
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
    let mut world = world::World::new(seed, faults, mutant);
    world.run().map_err(|broken| {
        let story = std::mem::take(&mut world.story);
        Box::new(Failure { seed, faults, broken, story })
    })
}
