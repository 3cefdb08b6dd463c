//! Which node is home to which room: rendezvous hashing over a fixed number of slots.
//!
//! Every node computes the same from the same view. When a node comes or goes, only the slots that it
//! ranks first in move.

use super::{
    node::{NodeId, mix, stable_hash},
    view::View,
};

/// Rooms are placed by slot, so that a change of view is a table of this size and not of rooms.
pub const SLOTS: usize = 4096;

/// The home of every slot.
#[derive(Debug, Clone, Default)]
pub struct Placement {
    homes: Vec<NodeId>,
}

impl Placement {
    /// Places the slots on the nodes of `view`.
    pub fn new(view: &View) -> Self {
        // The name alone counts, so that a restarted node gets its share back.
        let nodes: Vec<(NodeId, u64)> = (view.nodes().iter())
            .map(|(id, info)| (*id, stable_hash(&[info.name.as_bytes()])))
            .collect();
        let homes = (0..SLOTS as u64).filter_map(|slot| {
            let score = |name: u64| mix(name ^ mix(slot + 1));
            nodes.iter().max_by_key(|(id, name)| (score(*name), *id)).map(|(id, _)| *id)
        });
        Self { homes: homes.collect() }
    }

    /// The home of a slot; none in an empty view.
    pub fn home(&self, slot: u16) -> Option<NodeId> {
        self.homes.get(usize::from(slot)).copied()
    }
}

/// The slot of a room.
pub fn slot(room: &str) -> u16 {
    (stable_hash(&[room.as_bytes()]) % SLOTS as u64) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::node::NodeInfo;

    fn view(names: &[u8]) -> View {
        View::new(names.iter().map(|name| NodeInfo {
            name: format!("node-{name}"),
            generation: 1,
            mesh: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 1).into(),
        }))
    }

    #[test]
    fn three_nodes_share_the_slots_evenly() {
        let view = view(&[1, 2, 3]);
        let placement = Placement::new(&view);
        for id in view.nodes().keys() {
            let share = placement.homes.iter().filter(|home| *home == id).count();
            assert!((SLOTS / 4..SLOTS / 2).contains(&share), "{share} of {SLOTS}");
        }
        assert_eq!(Placement::new(&View::default()).home(0), None);
    }

    proptest! {
        #[test]
        fn a_node_that_comes_takes_its_share_and_moves_nothing_else(names in prop::collection::btree_set(0u8..50, 1..9), new in 50u8..60) {
            let names: Vec<u8> = names.into_iter().collect();
            let (before, after) = (view(&names), view(&[&names[..], &[new]].concat()));
            let newcomer = *after.nodes().keys().find(|id| !before.contains(**id)).expect("one more");
            let (old, new) = (Placement::new(&before), Placement::new(&after));
            for slot in 0..SLOTS as u16 {
                prop_assert!(new.home(slot) == old.home(slot) || new.home(slot) == Some(newcomer));
            }
        }
    }
}
