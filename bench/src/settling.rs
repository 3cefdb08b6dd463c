//! Whether rooms still move between nodes, and how long one input has kept all rooms of a node waiting: both as
//! the nodes' metrics say.
//!
//! In: nodes, looked at again and again. Out: since when nothing moves any more, and the longest input.

use crate::fleet::time_left;
use crate::target::{Node, sum_of_metric};
use anyhow::{Result, bail};
use std::thread;
use std::time::{Duration, Instant};

/// No registry may work on one input for longer, in milliseconds.
pub const LONGEST_INPUT: f64 = 20.0;
/// Metrics are brought up to date once a second: what stands still for this long does.
const QUIET: Duration = Duration::from_secs(3);
const BETWEEN_ASKING: Duration = Duration::from_millis(50);
/// A longest input stands for two minutes at most.
const FORGOTTEN: Duration = Duration::from_secs(125);
/// The other nodes that keep a copy of a room.
const REPLICAS: u64 = 1;

/// The longest input of all these nodes, of the last one to two minutes, in milliseconds.
pub fn longest_input(nodes: &[Node]) -> Result<f64> {
    let longest = |node: &Node| node.metric("roomcast_registry_longest_input_seconds");
    nodes.iter().try_fold(0.0, |most, node| Ok(f64::max(most, longest(node)? * 1e3)))
}

/// Waits until no long input from before is remembered. What is read later is then of later.
pub fn wait_until_calm(nodes: &[Node]) -> Result<f64> {
    let deadline = Instant::now() + FORGOTTEN;
    loop {
        let longest = longest_input(nodes)?;
        if longest < LONGEST_INPUT || time_left(deadline).is_none() {
            return Ok(longest);
        }
        thread::sleep(BETWEEN_ASKING);
    }
}

/// Rooms that nodes know, added up over them.
pub fn copies(nodes: &[Node]) -> Result<u64> {
    Ok(sum_of_metric(nodes, "roomcast_rooms")? as u64)
}

/// How many there are once each room is on its home and its successors, and nowhere else.
pub fn copies_at_rest(rooms: u64) -> u64 {
    rooms * (1 + REPLICAS)
}

/// What moving rooms look like from outside.
#[derive(Debug)]
pub struct Watch {
    /// How many copies there are at rest, and how many more that others may ask after at any time.
    expected: u64,
    slack: u64,
    /// What every node knew when it last changed.
    held: Vec<u64>,
    /// When that was.
    since: Instant,
    /// The longest input so far, in milliseconds.
    pub longest_input: f64,
}

impl Watch {
    /// Of so many rooms; in `busy` others something happens all the time.
    pub fn new(rooms: u64, busy: u64) -> Self {
        let expected = copies_at_rest(rooms + busy);
        let (held, since) = (Vec::new(), Instant::now());
        Self { expected, slack: busy, held, since, longest_input: 0.0 }
    }

    /// Looks at the nodes. Returns since when they have been at rest, once that is certain.
    pub fn look(&mut self, nodes: &[Node]) -> Result<Option<Instant>> {
        let now = Instant::now();
        let known = |node: &Node| Ok(node.metric("roomcast_rooms")? as u64);
        let known = nodes.iter().map(known).collect::<Result<Vec<u64>>>()?;
        self.longest_input = self.longest_input.max(longest_input(nodes)?);
        if self.moves(&known) {
            (self.held, self.since) = (known, now);
        }
        Ok((now - self.since >= QUIET).then_some(self.since))
    }

    /// A node's first link to a busy room may come at any time; that is no move.
    fn moves(&self, known: &[u64]) -> bool {
        let all: u64 = known.iter().sum();
        let changed = |(now, before): (&u64, &u64)| now.abs_diff(*before) > self.slack;
        let placed = (self.expected..=self.expected + self.slack).contains(&all);
        !placed || known.len() != self.held.len() || known.iter().zip(&self.held).any(changed)
    }

    /// Looks until the nodes are at rest; an error if they aren't within `patience`.
    pub fn wait(&mut self, nodes: &[Node], patience: Duration) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(since) = self.look(nodes)? {
                return Ok(since);
            }
            if time_left(deadline).is_none() {
                let (held, expected) = (&self.held, self.expected);
                bail!(
                    "after {patience:?} the nodes know {held:?} rooms; at rest it is {expected} in all"
                );
            }
            self.pause();
        }
    }

    /// The time between two looks.
    pub fn pause(&self) {
        thread::sleep(BETWEEN_ASKING);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_at_rest_when_each_is_where_it_should_be_and_none_moves() {
        let mut watch = Watch::new(300, 10);
        assert!(watch.moves(&[310, 310]), "nothing is known of before");
        watch.held = vec![310, 310];
        assert!(!watch.moves(&[310, 310]));
        assert!(!watch.moves(&[318, 311]), "asked after by the load");
        assert!(watch.moves(&[310, 310, 0]), "a node more, with its share to come");
        assert!(watch.moves(&[290, 330]), "they move");
        watch.held = vec![210, 210, 200];
        assert!(watch.moves(&[210, 210, 190]), "copies are missing");
        assert!(watch.moves(&[210, 210, 240]), "copies are to be let go of");
    }
}
