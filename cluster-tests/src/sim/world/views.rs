//! What nodes know of each other: gossip that lags, and how a node that joins becomes ready.

use std::collections::BTreeSet;

use roomcast::{
    cluster::{
        names,
        node::{NodeId, Phase},
        view::View,
    },
    room::registry::In,
};

use super::{Happening, World, nodes::Node};
use crate::sim::{Faults, mutants::Mutant};

/// How long a node can stand still, or its gossip not come through, before others take it for dead.
pub(super) const UNHEARD: u64 = 3_000;
/// How often it is seen whether a joining node is done.
const LOOK_AGAIN: u64 = 20;
/// As in the shell: how long a node waits for the others when it starts, and how long its view has to stay
/// the same then.
const JOIN_TIMEOUT: u64 = 3_000;
const SETTLED: u64 = 1_000;
/// How long a node waits for those that it was with last: less than in the configuration, longer than any is away.
const RESTART_TIMEOUT: u64 = 10_000;

impl World {
    /// Something has changed: views of it are on their way, and take as long as they take to each node.
    pub(super) fn everyone_looks(&mut self) {
        for node in self.alive() {
            self.look(node, 0);
        }
    }

    /// A view leaves for one node. It shows what is so now, whenever it arrives.
    pub(super) fn look(&mut self, node: usize, after: u64) {
        self.version += 1;
        let (version, generation) = (self.version, self.nodes[node].generation);
        let view = View::new(self.heard_by(node).into_iter().map(|it| self.nodes[it].info()));
        let delay = after + self.rng.u64(1..=self.nodes[node].lag);
        self.later(delay, Happening::See { node, generation, version, view });
    }

    /// Whose gossip comes through to a node, directly or by way of others.
    fn heard_by(&self, node: usize) -> BTreeSet<usize> {
        let mut heard = BTreeSet::from([node]);
        let mut through = vec![node];
        while let Some(by) = through.pop() {
            for from in self.alive() {
                if self.is_heard(from, by) && heard.insert(from) && self.plan.relayed {
                    through.push(from);
                }
            }
        }
        heard
    }

    fn is_heard(&self, from: usize, by: usize) -> bool {
        let long_ago = |since: u64| self.now - since >= UNHEARD;
        let silent = self.nodes[from].frozen.as_ref().is_some_and(|(since, _)| long_ago(*since));
        let (from, by) = (self.nodes[from].id(), self.nodes[by].id());
        !silent && !self.network.blocked_since(from, by).is_some_and(long_ago)
    }

    pub(super) fn see(
        &mut self,
        index: usize,
        generation: u64,
        version: u64,
        mut view: View,
    ) -> Result<(), String> {
        if !self.runs(index, generation) || version < self.nodes[index].version {
            return Ok(());
        }
        let me = self.nodes[index].id();
        // Gossip may lose sight of one for a moment.
        let others: Vec<NodeId> = view.nodes().keys().copied().filter(|it| *it != me).collect();
        if self.faults == Faults::Everything && self.rng.u8(..10) == 0 && !others.is_empty() {
            let unseen = others[self.rng.usize(..others.len())];
            let rest = view.nodes().values().filter(|it| it.id() != unseen).cloned();
            view = View::new(rest.collect::<Vec<_>>());
            let delay = self.rng.u64(100..1_500);
            self.look(index, delay);
        }
        self.nodes[index].sees(view.clone(), version, self.now);
        self.input(index, In::View(view))?;
        for peer in others {
            let delay = self.rng.u64(1..self.plan.link_delay);
            self.dial_later(me, peer, delay);
        }
        Ok(())
    }

    /// As the shell does: a node is ready when it has seen another, sees no more of them for a while and has
    /// links to all that it sees, or after it has waited for that long enough.
    pub(super) fn get_to_know(&mut self, index: usize, generation: u64) {
        if !self.runs(index, generation) || self.nodes[index].phase != Phase::Joining {
            return;
        }
        let peers = self.network.peers(self.nodes[index].id());
        let node = &self.nodes[index];
        let waits = self.mutant != Some(Mutant::NobodyWaitedFor);
        let ready =
            node.knows_others(peers.len(), self.now) && node.has_met_again(&peers, self.now, waits);
        if node.frozen.is_none() && ready {
            self.ready(index);
        } else {
            self.later(LOOK_AGAIN, Happening::GetToKnow(index, generation));
        }
    }

    fn ready(&mut self, index: usize) {
        self.nodes[index].phase = Phase::Ready;
        self.disturbed = self.now;
        self.shake_consumers();
        let name = self.nodes[index].name.clone();
        self.tell(|| format!("{name} is ready"));
        self.everyone_looks();
        if self.faults == Faults::Starts {
            let generation = self.nodes[index].generation;
            for _ in 0..self.rng.usize(3..20) {
                let delay = self.rng.u64(0..1_000);
                self.later(delay, Happening::PublishThrough(index, generation));
            }
        }
    }
}

impl Node {
    fn sees(&mut self, view: View, version: u64, now: u64) {
        self.version = version;
        if view.nodes().len() > 1 {
            self.met.get_or_insert(now);
        }
        if self.view != view {
            self.viewed = now;
        }
        self.view = view;
    }

    /// A node with rooms on disk waits for those that it was with last.
    fn has_met_again(&self, peers: &[NodeId], now: u64, waits: bool) -> bool {
        let linked = |id| peers.contains(&id);
        let missing = names::missing(self.disk.companions(), &self.info(), &self.view, linked);
        missing.is_empty() || !waits || now - self.started >= RESTART_TIMEOUT
    }

    fn knows_others(&self, links: usize, now: u64) -> bool {
        let Some(met) = self.met else { return now - self.started >= JOIN_TIMEOUT };
        let settled = now - self.viewed.max(met) >= SETTLED && links + 1 >= self.view.nodes().len();
        settled || now - met >= JOIN_TIMEOUT
    }
}
