//! Which runs of a node count when there are several under one name, pure.
//!
//! In: the runs that gossip tells of, and what this node's links say of them ([`Reach`]). Out: those that are
//! here, who bears a name that another one wants, and who has taken it over. A run is known to be over long
//! before gossip stops to tell of it: nobody has a link to it. So a node that is started again need not wait,
//! and one whose name is borne by another that lives finds that out.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    node::{NodeId, NodeInfo, Phase},
    view::View,
};

/// What this node's links say of the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// How many links there are to a node. There may be two for a moment, when one replaces another.
    links: BTreeMap<NodeId, usize>,
    /// Nodes that this one could not reach, or has lost, since it had a link to them.
    gone: BTreeSet<NodeId>,
}

impl Reach {
    /// There is a link.
    pub fn up(&mut self, node: NodeId) {
        *self.links.entry(node).or_default() += 1;
        self.gone.remove(&node);
    }

    /// A link has ended.
    pub fn down(&mut self, node: NodeId) {
        let Some(links) = self.links.get_mut(&node) else { return };
        *links -= 1;
        if *links == 0 {
            self.links.remove(&node);
            self.gone.insert(node);
        }
    }

    /// A node can't be reached.
    pub fn failed(&mut self, node: NodeId) {
        if !self.is_linked(node) {
            self.gone.insert(node);
        }
    }

    /// Forgets nodes that gossip tells of no more.
    pub fn keep(&mut self, known: impl Fn(NodeId) -> bool) {
        self.gone.retain(|node| known(*node));
    }

    /// Whether there is any link.
    pub fn has_links(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether this node could not reach it, or has lost it, since it had a link to it.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.gone.contains(&node)
    }

    /// Whether there is a link.
    pub fn is_linked(&self, node: NodeId) -> bool {
        self.links.contains_key(&node)
    }
}

/// The view of node `me`: of several runs under one name those that can't be reached are left out.
pub fn view(infos: impl IntoIterator<Item = NodeInfo>, me: &NodeInfo, reach: &Reach) -> View {
    let (own, mut runs) = (me.id(), BTreeMap::<NodeId, NodeInfo>::new());
    for info in infos.into_iter().chain([me.clone()]) {
        runs.entry(info.id()).or_insert(info);
    }
    let lives = |info: &NodeInfo| {
        let id = info.id();
        // A node that takes part knows that the name is its own, unless another run turns up and lives. One that
        // joins can't know until it has tried.
        let doubts = info.name != me.name || me.phase == Phase::Joining;
        id == own || reach.is_linked(id) || (doubts && !reach.gone.contains(&id))
    };
    let live: BTreeSet<&str> =
        runs.values().filter(|it| lives(it)).map(|it| it.name.as_str()).collect();
    let here = runs.values().filter(|it| lives(it) || !live.contains(it.name.as_str()));
    View::new(here.cloned())
}

/// All runs that gossip knows of, also those that don't count.
pub type KnownNodes = BTreeMap<NodeId, NodeInfo>;

/// The other runs under the name of `me` that live.
fn namesakes<'a>(
    known: &'a KnownNodes,
    me: &'a NodeInfo,
    reach: &'a Reach,
) -> impl Iterator<Item = &'a NodeInfo> {
    let other = |it: &&NodeInfo| it.name == me.name && it.id() != me.id();
    known.values().filter(other).filter(|it| reach.is_linked(it.id()))
}

/// Who bears the name of `me`, which is joining, and keeps it: one that takes part, or that joins as well and
/// began before.
pub fn bearer<'a>(
    known: &'a KnownNodes,
    me: &'a NodeInfo,
    reach: &'a Reach,
) -> Option<&'a NodeInfo> {
    namesakes(known, me, reach).find(|it| match it.phase {
        Phase::Ready => true,
        Phase::Joining => it.generation < me.generation,
        Phase::Draining => false,
    })
}

/// Who bore the name of `me` before it, and still does: `me` took part before it could know.
pub fn elder<'a>(
    known: &'a KnownNodes,
    me: &'a NodeInfo,
    reach: &'a Reach,
) -> Option<&'a NodeInfo> {
    let elder = |it: &&NodeInfo| it.phase == Phase::Ready && it.generation < me.generation;
    namesakes(known, me, reach).find(elder)
}

/// Who has taken the name of `me` over, which takes part: a later run, since this one was out of reach.
pub fn usurper<'a>(
    known: &'a KnownNodes,
    me: &'a NodeInfo,
    reach: &'a Reach,
) -> Option<&'a NodeInfo> {
    let later = |it: &&NodeInfo| it.phase == Phase::Ready && it.generation > me.generation;
    namesakes(known, me, reach).find(later)
}

/// Which of `companions`, the nodes that this one was with last, it has yet to meet; none if one of them takes part.
pub fn missing(
    companions: &BTreeSet<String>,
    me: &NodeInfo,
    view: &View,
    is_linked: impl Fn(NodeId) -> bool,
) -> BTreeSet<String> {
    let others = view.nodes().values().filter(|it| it.name != me.name && is_linked(it.id()));
    let met = || others.clone().filter(|it| companions.contains(&it.name));
    if met().any(|it| it.phase == Phase::Ready) {
        return BTreeSet::new();
    }
    let here: BTreeSet<String> = met().map(|it| it.name.clone()).chain([me.name.clone()]).collect();
    companions - &here
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, generation: u64, phase: Phase) -> NodeInfo {
        let address = ([127, 0, 0, 1], 1).into();
        NodeInfo { name: name.into(), generation, mesh: address, http: address, phase }
    }

    fn reach(linked: &[&NodeInfo], gone: &[&NodeInfo]) -> Reach {
        let mut reach = Reach::default();
        linked.iter().for_each(|it| reach.up(it.id()));
        gone.iter().for_each(|it| reach.failed(it.id()));
        reach
    }

    fn known(runs: &[&NodeInfo]) -> KnownNodes {
        runs.iter().map(|it| (it.id(), (*it).clone())).collect()
    }

    fn generations(view: &View, name: &str) -> Vec<u64> {
        let runs = view.nodes().values().filter(|it| it.name == name);
        let mut generations: Vec<u64> = runs.map(|it| it.generation).collect();
        generations.sort_unstable();
        generations
    }

    #[test]
    fn a_run_that_died_does_not_count_as_soon_as_there_is_another() {
        let (dead, next) = (run("a", 1, Phase::Ready), run("a", 2, Phase::Joining));
        let me = run("b", 1, Phase::Ready);
        let both = || [dead.clone(), next.clone()];
        let reach = reach(&[&next], &[&dead]);
        assert_eq!(generations(&view(both(), &me, &reach), "a"), [2]);
        // Alone it stays until gossip drops it.
        assert_eq!(generations(&view([dead.clone()], &me, &reach), "a"), [1]);
    }

    #[test]
    fn one_that_joins_doubts_that_its_name_is_free_until_it_has_tried() {
        let (other, me) = (run("a", 1, Phase::Ready), run("a", 2, Phase::Joining));
        let seen = |me: &NodeInfo, reach: &Reach| view([other.clone()], me, reach);
        let tries = seen(&me, &Reach::default());
        assert_eq!(generations(&tries, "a"), [1, 2]);
        assert_eq!(bearer(&known(&[&other]), &me, &Reach::default()), None);
        let (lives, dead) = (reach(&[&other], &[]), reach(&[], &[&other]));
        assert_eq!(bearer(&known(&[&other]), &me, &lives), Some(&other));
        assert_eq!(generations(&seen(&me, &dead), "a"), [2]);
        // Who takes part is not put out by hearsay.
        let me = run("a", 0, Phase::Ready);
        assert_eq!(generations(&seen(&me, &Reach::default()), "a"), [0]);
    }

    #[test]
    fn of_two_that_join_the_earlier_has_the_name() {
        let (early, late) = (run("a", 1, Phase::Joining), run("a", 2, Phase::Joining));
        let reach = reach(&[&early, &late], &[]);
        let both = known(&[&early, &late]);
        assert_eq!(bearer(&both, &early, &reach), None);
        assert_eq!(bearer(&both, &late, &reach), Some(&early));
    }

    #[test]
    fn the_name_is_free_once_its_bearer_leaves_whatever_the_clocks_say() {
        for generation in [1, 9] {
            let me = run("a", 5, Phase::Joining);
            let bears = run("a", generation, Phase::Ready);
            let leaves = NodeInfo { phase: Phase::Draining, ..bears.clone() };
            let reach = reach(&[&bears], &[]);
            assert_eq!(bearer(&known(&[&bears]), &me, &reach), Some(&bears));
            assert_eq!(bearer(&known(&[&leaves]), &me, &reach), None);
            // And whoever leaves goes on seeing itself and who comes after it.
            let me = NodeInfo { phase: Phase::Ready, ..me };
            let reach = self::reach(&[&me], &[]);
            let mut both = [generation, 5];
            both.sort_unstable();
            assert_eq!(generations(&view([me], &leaves, &reach), "a"), both);
        }
    }

    #[test]
    fn a_later_run_takes_over_from_one_that_was_out_of_reach() {
        let (me, later) = (run("a", 1, Phase::Ready), run("a", 2, Phase::Ready));
        let (reach, both) = (reach(&[&later, &me], &[]), known(&[&me, &later]));
        assert_eq!(usurper(&both, &me, &reach), Some(&later));
        assert_eq!(usurper(&both, &later, &reach), None);
        // Unless that one began alone, and could not know.
        assert_eq!((elder(&both, &later, &reach), elder(&both, &me, &reach)), (Some(&me), None));
    }

    #[test]
    fn a_link_that_replaces_another_is_a_link() {
        let node = run("a", 1, Phase::Ready).id();
        let mut reach = Reach::default();
        reach.up(node);
        reach.up(node);
        reach.down(node);
        assert!(reach.is_linked(node));
        reach.down(node);
        assert!(!reach.is_linked(node) && reach.gone.contains(&node));
        reach.keep(|_| false);
        assert!(reach.gone.is_empty());
    }
}
