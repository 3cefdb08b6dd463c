//! Who is here, as one node sees it.

use std::collections::BTreeMap;

use super::node::{NodeId, NodeInfo, Phase};

/// The nodes that gossip says are alive, this one included.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct View {
    nodes: BTreeMap<NodeId, NodeInfo>,
}

impl View {
    /// A view of these nodes. Of several runs under one name that take part only the latest counts: the
    /// earlier are over, whether or not gossip has noticed. One that joins stands beside the one that takes
    /// part, since it may have to wait for its name; so does one that leaves and hands its rooms over.
    pub fn new(infos: impl IntoIterator<Item = NodeInfo>) -> Self {
        let mut nodes = BTreeMap::<NodeId, NodeInfo>::new();
        let mut latest = BTreeMap::<String, u64>::new();
        for info in infos {
            if info.phase == Phase::Ready {
                let generation = latest.entry(info.name.clone()).or_default();
                *generation = info.generation.max(*generation);
            }
            nodes.entry(info.id()).or_insert(info);
        }
        nodes.retain(|_, info| {
            info.phase != Phase::Ready || latest.get(&info.name) == Some(&info.generation)
        });
        Self { nodes }
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

    fn run(generation: u64, phase: Phase) -> NodeInfo {
        let address = ([127, 0, 0, 1], 1).into();
        NodeInfo { name: "a".into(), generation, mesh: address, http: address, phase }
    }

    /// The generations of the runs that count.
    fn counted(runs: impl IntoIterator<Item = NodeInfo>) -> Vec<u64> {
        let view = View::new(runs);
        let mut counted: Vec<u64> = view.nodes().values().map(|it| it.generation).collect();
        counted.sort_unstable();
        counted
    }

    #[test]
    fn a_restarted_node_replaces_its_earlier_run() {
        for runs in [[1, 2], [2, 1]] {
            assert_eq!(counted(runs.map(|it| run(it, Phase::Ready))), [2]);
        }
    }

    #[test]
    fn a_run_that_joins_or_leaves_stands_beside_the_one_that_takes_part() {
        for phase in [Phase::Joining, Phase::Draining] {
            for (other, ready) in [(1, 2), (2, 1)] {
                assert_eq!(counted([run(other, phase), run(ready, Phase::Ready)]), [1, 2]);
            }
        }
    }
}
