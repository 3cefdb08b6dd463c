//! Cuts of every shape, and the troubles of a cluster with a quorum.

use std::collections::BTreeSet;

use super::{Happening, World, record::Split, views::UNHEARD};
use crate::sim::Faults;

/// How long a cluster with a quorum is left alone before the next trouble: a node that has lost what it had
/// counts for no majority until it has caught up, and by then it has.
const CALM: u64 = 5_000;

/// Who no longer reaches whom.
#[derive(Debug)]
enum Shape {
    /// Each of these groups is among itself.
    Groups(Vec<BTreeSet<usize>>),
    /// Two nodes don't reach each other; others reach both.
    Pair(usize, usize),
    /// Nothing passes from one node to another; all else does.
    OneWay(usize, usize),
    /// Nothing passes from this node to any other.
    Mute(usize),
    /// Nothing passes to this node from any other.
    Deaf(usize),
}

impl Shape {
    fn blocks(&self, from: usize, to: usize) -> bool {
        match self {
            Self::Groups(groups) => !groups.iter().any(|it| it.contains(&from) && it.contains(&to)),
            Self::Pair(a, b) => (from, to) == (*a, *b) || (from, to) == (*b, *a),
            Self::OneWay(a, b) => (from, to) == (*a, *b),
            Self::Mute(node) => from == *node,
            Self::Deaf(node) => to == *node,
        }
    }

    /// The groups of nodes that go on without each other, if no node goes on with two of them.
    fn sides(&self, nodes: usize) -> Option<Vec<BTreeSet<usize>>> {
        let all: BTreeSet<usize> = (0..nodes).collect();
        let without = |one: &usize| {
            vec![BTreeSet::from([*one]), all.iter().copied().filter(|it| it != one).collect()]
        };
        match self {
            Self::Groups(groups) => Some(groups.clone()),
            Self::Mute(node) | Self::Deaf(node) => Some(without(node)),
            Self::Pair(a, _) | Self::OneWay(a, _) if nodes == 2 => Some(without(a)),
            Self::Pair(..) | Self::OneWay(..) => None,
        }
    }
}

impl World {
    /// Some node is cut off from all others, or from one.
    pub(super) fn cut_off(&mut self) -> Result<(), String> {
        let nodes = self.nodes.len();
        let node = self.rng.usize(..nodes);
        let other = (node + self.rng.usize(1..nodes)) % nodes;
        let shape = if self.rng.bool() { self.alone(node) } else { Shape::Pair(node, other) };
        self.cut_along(&shape)
    }

    fn alone(&self, node: usize) -> Shape {
        let others = (0..self.nodes.len()).filter(|it| *it != node).collect();
        Shape::Groups(vec![BTreeSet::from([node]), others])
    }

    fn any_shape(&mut self) -> Shape {
        let nodes = self.nodes.len();
        let mut order: Vec<usize> = (0..nodes).collect();
        self.rng.shuffle(&mut order);
        let (a, b) = (order[0], order[1]);
        match self.rng.u8(..10) {
            0..4 => {
                // The smaller side is of one node or as large as it can be.
                let small = if self.rng.bool() { 1 } else { nodes / 2 };
                let (few, many) = order.split_at(small);
                Shape::Groups([few, many].map(|it| it.iter().copied().collect()).to_vec())
            }
            4 => Shape::Groups(order.into_iter().map(|it| BTreeSet::from([it])).collect()),
            5 | 6 => Shape::Pair(a, b),
            7 => Shape::OneWay(a, b),
            8 => Shape::Mute(a),
            _ => Shape::Deaf(a),
        }
    }

    /// The links break at once, or go silent, so that each end notices in its own time.
    fn cut_along(&mut self, shape: &Shape) -> Result<(), String> {
        let at_once = self.rng.bool();
        let how = if at_once { "at once" } else { "in silence" };
        self.tell(|| format!("nodes are cut off, {how}: {shape:?}"));
        let nodes = self.nodes.len();
        let pairs = (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to)));
        let blocked = pairs.filter(|(from, to)| from != to && shape.blocks(*from, *to));
        for (from, to) in blocked.collect::<Vec<_>>() {
            let (from, to) = (self.nodes[from].id(), self.nodes[to].id());
            if at_once {
                self.close(from, to)?;
                self.close(to, from)?;
                self.block(from, to, self.now - UNHEARD);
            } else {
                self.block(from, to, self.now);
            }
        }
        self.disturbed = self.now;
        self.everyone_looks();
        self.later(UNHEARD, Happening::Look);
        Ok(())
    }

    /// The one cut of a history without a quorum.
    pub(super) fn cut(&mut self, lasts: u64) -> Result<(), String> {
        let shape = self.any_shape();
        let sides = shape.sides(self.nodes.len());
        let one_way = matches!(shape, Shape::OneWay(..) | Shape::Mute(_) | Shape::Deaf(_));
        let (at, until) = (self.now, self.now + lasts);
        let holders = (0..self.rooms.len()).map(|room| (room, self.holders(room))).collect();
        self.record.split = Some(Split { at, sides, one_way, until, holders });
        self.later(lasts, Happening::Mend(0));
        for _ in 0..self.rng.usize(5..30) {
            let at = self.rng.u64(0..lasts + 1_000);
            self.later(at, Happening::Publish);
        }
        self.cut_along(&shape)
    }

    /// The nodes that have something of a room.
    fn holders(&self, room: usize) -> BTreeSet<usize> {
        let holds = |node: &usize| {
            let state = self.nodes[*node].state.as_ref();
            let name = &self.rooms[room];
            let stream = state.and_then(|it| it.room(name)?.copy());
            // Something was said in those that are out of memory.
            state.is_some_and(|it| it.is_dormant(name))
                || stream.is_some_and(|it| it.position().offset > 0)
        };
        (0..self.nodes.len()).filter(holds).collect()
    }

    fn is_calm(&self) -> bool {
        let all_ready = self.ready_ones().len() == self.nodes.len();
        all_ready && !self.network.is_cut() && self.now - self.disturbed >= CALM
    }

    /// The next trouble of a cluster with a quorum, once the one before is forgotten.
    pub(super) fn episode(&mut self, left: u8) -> Result<(), String> {
        if !self.is_calm() {
            self.later(200, Happening::Episode(left));
            return Ok(());
        }
        if left == 0 {
            self.later(0, Happening::Heal);
            return Ok(());
        }
        let lasts = self.rng.u64(500..10_000);
        self.later(lasts, Happening::Mend(left - 1));
        for _ in 0..self.rng.usize(5..40) {
            let at = self.rng.u64(0..lasts + 1_000);
            self.later(at, Happening::Publish);
        }
        let (cut, crashes, freeze, leave) =
            (self.rng.u8(..10) < 7, self.rng.u8(..10) < 4, self.rng.u8(..10) < 2, self.rng.bool());
        if crashes {
            self.plan_crashes(lasts);
        }
        for (planned, happening) in [(freeze, Happening::Freeze), (leave, Happening::LoseClient)] {
            if planned {
                let at = self.rng.u64(0..lasts);
                self.later(at, happening);
            }
        }
        if cut {
            let shape = self.any_shape();
            self.cut_along(&shape)?;
        }
        Ok(())
    }

    /// As many nodes crash as a quorum bears, or fewer.
    fn plan_crashes(&mut self, lasts: u64) {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).collect();
        self.rng.shuffle(&mut nodes);
        let many = self.rng.usize(1..=(nodes.len() - 1) / 2);
        for node in nodes.into_iter().take(many) {
            let at = self.rng.u64(0..lasts);
            self.later(at, Happening::CrashOf(node));
        }
    }

    pub(super) fn mended(&mut self, left: u8) -> Result<(), String> {
        self.mend()?;
        if self.faults == Faults::Quorum {
            self.later(200, Happening::Episode(left));
        }
        Ok(())
    }
}
