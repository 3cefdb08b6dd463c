//! Which node is home to which room: rendezvous hashing over a fixed number of slots.
//!
//! Every node computes the same from the same view. When a node comes or goes, only the slots that it
//! ranks first in move.

use super::node::{NodeId, NodeInfo, mix, stable_hash};

/// Ends the part of a room's name by which it is placed: rooms that have that part in common have the same home. No name
/// that comes from outside has it.
pub const BESIDE: char = '\0';

/// Rooms are placed by slot, so that a change of view is a table of this size and not of rooms.
pub const SLOTS: usize = 4096;

/// The first nodes of every slot: its home, and the successors that have a copy of its rooms.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    /// The ranks of all slots, one slot after the other.
    ranked: Vec<NodeId>,
    /// How many ranks a slot has.
    ranks: usize,
}

impl Placement {
    /// Places the slots on `nodes`, each with up to `replicas` successors.
    pub fn new<'a>(nodes: impl IntoIterator<Item = &'a NodeInfo>, replicas: usize) -> Self {
        // The name alone counts, so that a restarted node gets its share back.
        let nodes: Vec<(NodeId, u64)> = (nodes.into_iter())
            .map(|info| (info.id(), stable_hash(&[info.name.as_bytes()])))
            .collect();
        let ranks = (replicas + 1).min(nodes.len());
        let mut ranked = Vec::with_capacity(SLOTS * ranks);
        // The best so far of one slot. Sorting all of them costs twenty times as much with 1,000 nodes.
        let mut best: Vec<(u64, NodeId)> = Vec::with_capacity(ranks + 1);
        for slot in 0..SLOTS as u64 {
            best.clear();
            for (id, name) in &nodes {
                let scored = (mix(name ^ mix(slot + 1)), *id);
                if best.len() < ranks || best.last().is_some_and(|last| *last < scored) {
                    best.insert(best.partition_point(|it| *it > scored), scored);
                    best.truncate(ranks);
                }
            }
            ranked.extend(best.iter().map(|(_, id)| *id));
        }
        Self { ranked, ranks }
    }

    fn of(&self, slot: u16) -> &[NodeId] {
        let first = usize::from(slot) * self.ranks;
        self.ranked.get(first..first + self.ranks).unwrap_or_default()
    }

    /// The home of a slot; none where there are no nodes.
    pub fn home(&self, slot: u16) -> Option<NodeId> {
        self.of(slot).first().copied()
    }

    /// The nodes that keep a copy of what the slot's home has, the next home first.
    pub fn successors(&self, slot: u16) -> &[NodeId] {
        self.of(slot).get(1..).unwrap_or_default()
    }
}

/// The slot of a room.
pub fn slot(room: &str) -> u16 {
    let name = room.as_bytes();
    let end = name.iter().position(|it| *it == BESIDE as u8).unwrap_or(name.len());
    (stable_hash(&[&name[..end]]) % SLOTS as u64) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::node::Phase;

    fn nodes(names: &[u8]) -> Vec<NodeInfo> {
        let node = |name: &u8| NodeInfo {
            name: format!("node-{name}"),
            generation: 1,
            mesh: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 1).into(),
            phase: Phase::Ready,
        };
        names.iter().map(node).collect()
    }

    #[test]
    fn three_nodes_share_the_slots_evenly() {
        let nodes = nodes(&[1, 2, 3]);
        let placement = Placement::new(&nodes, 1);
        for node in &nodes {
            let homes = (0..SLOTS as u16).filter(|slot| placement.home(*slot) == Some(node.id()));
            let share = homes.count();
            assert!((SLOTS / 4..SLOTS / 2).contains(&share), "{share} of {SLOTS}");
        }
        assert_eq!(Placement::new(&[], 1).home(0), None);
    }

    #[test]
    fn successors_are_other_nodes_as_far_as_there_are_any() {
        for (names, replicas, expected) in
            [(&[1, 2, 3][..], 1, 1), (&[1, 2, 3], 5, 2), (&[1], 1, 0), (&[1, 2], 0, 0)]
        {
            let placement = Placement::new(&nodes(names), replicas);
            for slot in 0..SLOTS as u16 {
                let successors = placement.successors(slot);
                assert_eq!(successors.len(), expected);
                assert!(!successors.contains(&placement.home(slot).expect("a node")));
            }
        }
    }

    #[test]
    fn ranks_are_those_of_a_sort_by_score() {
        let nodes = nodes(&[1, 2, 3, 4, 5, 6, 7]);
        let score = |node: &NodeInfo, slot: u16| {
            mix(stable_hash(&[node.name.as_bytes()]) ^ mix(u64::from(slot) + 1))
        };
        let placement = Placement::new(&nodes, 2);
        for slot in 0..SLOTS as u16 {
            let mut sorted: Vec<&NodeInfo> = nodes.iter().collect();
            sorted.sort_by_key(|node| std::cmp::Reverse(score(node, slot)));
            let expected: Vec<NodeId> = sorted[..3].iter().map(|node| node.id()).collect();
            assert_eq!(placement.of(slot), expected);
        }
    }

    proptest! {
        #[test]
        fn a_node_that_comes_takes_its_share_and_moves_nothing_else(names in prop::collection::btree_set(0u8..50, 1..9), new in 50u8..60) {
            let names: Vec<u8> = names.into_iter().collect();
            let newcomer = nodes(&[new])[0].id();
            let old = Placement::new(&nodes(&names), 1);
            let new = Placement::new(&nodes(&[&names[..], &[new]].concat()), 1);
            for slot in 0..SLOTS as u16 {
                prop_assert!(new.home(slot) == old.home(slot) || new.home(slot) == Some(newcomer));
            }
        }

        #[test]
        fn the_first_successor_is_home_once_the_home_is_gone(names in prop::collection::btree_set(0u8..50, 2..9)) {
            let all = nodes(&names.into_iter().collect::<Vec<_>>());
            let (gone, rest) = all.split_first().expect("two or more");
            let (before, after) = (Placement::new(&all, 1), Placement::new(rest, 1));
            for slot in (0..SLOTS as u16).filter(|slot| before.home(*slot) == Some(gone.id())) {
                prop_assert_eq!(after.home(slot), before.successors(slot).first().copied());
            }
        }
    }
}
