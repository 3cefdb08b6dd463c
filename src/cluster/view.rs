//! Who is here, as one node sees it.

use std::collections::BTreeMap;

use super::node::{NodeId, NodeInfo};

/// The nodes that gossip says are alive, this one included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, NodeInfo>,
}

impl View {
    /// A view of these nodes. Of several runs under one name only the latest counts: the earlier are over,
    /// whether or not gossip has noticed.
    pub fn new(infos: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut latest: BTreeMap<String, NodeInfo> = BTreeMap::new();
        for info in infos {
            match latest.get(&info.name) {
                Some(known) if known.generation >= info.generation => {}
                _ => drop(latest.insert(info.name.clone(), info)),
            }
        }
        Self { nodes: latest.into_values().map(|info| (info.id(), info)).collect() }
    }

    /// The nodes by their ids.
    pub fn nodes(&self) -> &BTreeMap<NodeId, NodeInfo> {
        &self.nodes
    }

    /// Whether `node` is here.
    pub fn contains(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::node::Phase;

    #[test]
    fn a_restarted_node_replaces_its_earlier_run() {
        let run = |generation| NodeInfo {
            name: "a".into(),
            generation,
            mesh: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 1).into(),
            phase: Phase::Ready,
        };
        for runs in [[1, 2], [2, 1]] {
            let view = View::new(runs.map(run));
            assert_eq!(view.nodes().keys().copied().collect::<Vec<_>>(), [NodeId::new("a", 2)]);
        }
    }
}
