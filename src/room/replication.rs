//! Which nodes keep a copy of what a home has, how much of it they have, and who waits for that.

use std::{collections::VecDeque, time::Duration};

use litemap::LiteMap;

use super::{requests::Pending, types::Answer};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// How often a successor is asked to attach: it may not agree yet who is home.
const INVITE_AGAIN: Duration = Duration::from_millis(200);

/// A node that has to have everything before it is acknowledged.
#[derive(Debug, Default)]
struct Successor {
    /// It is one of those that are to keep a copy. Others go once those have one.
    wanted: bool,
    /// It listens.
    attached: bool,
    /// When it was last asked to.
    asked: Time,
    /// Up to where it has everything.
    has: u64,
    /// It has had everything since it attached.
    complete: bool,
    /// It was too slow, so nothing waits for it until it has caught up.
    lags: bool,
}

/// An answer that is not given yet.
#[derive(Debug)]
pub struct Unacked {
    /// Offset of the publication that the successors must have first; 0: none.
    pub offset: u64,
    /// Since when it waits.
    pub since: Time,
    /// The answer.
    pub answer: Answer,
    /// Who gets it.
    pub whom: Whom,
}

/// Who waits for an acknowledgement.
#[derive(Debug)]
pub enum Whom {
    /// This node's own client or API call; the request is kept in case that another node has to do it.
    Own(Pending),
    /// Another node's: its number for the request, and the run that it is in.
    Peer(NodeId, u64, u64),
    /// The group whose room it is: nobody is answered.
    Group,
}

/// A home's successors.
#[derive(Debug, Default)]
pub struct Replication {
    successors: LiteMap<NodeId, Successor>,
    unacked: VecDeque<Unacked>,
    acknowledged: bool,
}

impl Replication {
    /// These successors have all that there is, up to `top`, and all of that was acknowledged.
    pub fn at_rest(successors: impl Iterator<Item = NodeId>, top: u64) -> Self {
        let successor = |peer| {
            let it = Successor {
                wanted: true,
                attached: true,
                has: top,
                complete: true,
                ..Default::default()
            };
            (peer, it)
        };
        Self {
            successors: successors.map(successor).collect(),
            acknowledged: true,
            ..Self::default()
        }
    }

    /// Whether it is so with the successors `wanted`.
    pub fn is_at_rest(&self, wanted: &[NodeId], top: u64) -> bool {
        let is_at_rest = |peer: &NodeId, it: &Successor| {
            let has_all = it.attached && it.complete && !it.lags && it.has >= top;
            it.wanted && has_all && wanted.contains(peer)
        };
        self.unacked.is_empty()
            && self.successors.len() == wanted.len()
            && self.successors.iter().all(|(peer, it)| is_at_rest(peer, it))
    }

    /// Whether `peer` is a successor.
    pub fn includes(&self, peer: NodeId) -> bool {
        self.successors.contains_key(&peer)
    }

    /// The successors.
    pub fn successors(&self) -> Vec<NodeId> {
        self.successors.keys().copied().collect()
    }

    /// Whether anyone waits.
    pub fn waits(&self) -> bool {
        !self.unacked.is_empty()
    }

    /// Whether anything was acknowledged.
    pub fn has_acknowledged(&self) -> bool {
        self.acknowledged
    }

    /// Makes `wanted` the successors, as far as they are reached. Returns whom to invite now, and whom to
    /// dismiss: those that are wanted no more, once the others have what they have, and are as many as `others` says of
    /// each. Where nodes come back together, more may be wanted in a moment, and those that have a copy are all that
    /// there is.
    pub fn choose(
        &mut self,
        wanted: &[NodeId],
        others: impl Fn(NodeId) -> usize,
        reaches: impl Fn(NodeId) -> bool,
        now: Time,
    ) -> (Vec<NodeId>, Vec<NodeId>) {
        let mut absent = Vec::new();
        self.successors.iter_mut().for_each(|(peer, it)| it.wanted = wanted.contains(peer));
        for peer in wanted.iter().copied().filter(|peer| reaches(*peer)) {
            let successor = self.successors.entry(peer).or_default();
            successor.wanted = true;
            if !successor.attached && now.since(successor.asked) >= INVITE_AGAIN {
                successor.asked = now;
                absent.push(peer);
            }
        }
        if !self.is_changing() {
            return (absent, Vec::new());
        }
        let wanted = || self.successors.values().filter(|it| it.wanted);
        let (complete, many) = (wanted().all(|it| it.complete), wanted().count());
        // Without a link it keeps what it has by itself.
        let may_go = |peer| !reaches(peer) || complete && many >= others(peer);
        let unwanted = self.successors.iter().filter(|(_, it)| !it.wanted).map(|(peer, _)| *peer);
        let unwanted: Vec<NodeId> = unwanted.filter(|peer| may_go(*peer)).collect();
        self.successors.retain(|peer, _| !unwanted.contains(peer));
        (absent, unwanted)
    }

    /// Whether every successor that is reached has had all that there is.
    pub fn is_safe(&self, reaches: impl Fn(NodeId) -> bool) -> bool {
        self.successors.iter().all(|(peer, it)| it.complete || !reaches(*peer))
    }

    /// Whether a successor that listens is done without, because it was too slow.
    pub fn is_behind(&self) -> bool {
        self.successors.values().any(|it| it.lags && it.attached)
    }

    /// Whether there are successors that go once others have what they have.
    pub fn is_changing(&self) -> bool {
        self.successors.values().any(|it| !it.wanted)
    }

    /// Whether some would come and others go if `wanted` were to be the successors from now on.
    pub fn would_change(&self, wanted: &[NodeId]) -> bool {
        !self.is_changing() && wanted.iter().any(|peer| !self.includes(*peer))
    }

    /// Whether so many successors that are reached have had all that there is.
    pub fn is_complete(&self, many: usize, reaches: impl Fn(NodeId) -> bool) -> bool {
        let complete = self.successors.iter().filter(|(peer, it)| it.complete && reaches(**peer));
        complete.count() >= many
    }

    /// `peer` takes itself for a successor: another home has asked it to be one, or this one before a link was lost.
    /// So it is, if only until others have what it has; then it is told that it is none.
    pub fn keep(&mut self, peer: NodeId) {
        self.successors.entry(peer).or_default();
    }

    /// `peer` listens as a successor from now on, or it does not.
    pub fn attached(&mut self, peer: NodeId, attached: bool) {
        if let Some(successor) = self.successors.get_mut(&peer) {
            (successor.attached, successor.complete, successor.has) = (attached, false, 0);
        }
    }

    /// The link to `peer` is gone. It may come back with what it had.
    pub fn lose(&mut self, peer: NodeId) {
        self.attached(peer, false);
        if let Some(successor) = self.successors.get_mut(&peer) {
            successor.asked = Time::default();
        }
    }

    /// `peer` has everything up to `offset`; the stream is at `top`.
    pub fn has(&mut self, peer: NodeId, offset: u64, top: u64) {
        if let Some(successor) = self.successors.get_mut(&peer).filter(|it| it.attached) {
            successor.has = offset;
            successor.complete |= offset >= top;
            successor.lags &= offset < top;
        }
    }

    /// Up to where everything is where it has to be: here, where it is `kept` up to some offset, and on all that live;
    /// or on `needed` others beside one.
    pub fn acked(&self, kept: u64, needed: Option<usize>) -> u64 {
        let Some(needed) = needed else {
            let counted = self.successors.values().filter(|it| !it.lags);
            return counted.map(|it| it.has).min().unwrap_or(kept).min(kept);
        };
        let attached = self.successors.values().filter(|it| it.attached);
        let mut has: Vec<u64> = attached.map(|it| it.has).chain([kept]).collect();
        has.sort_unstable_by(|a, b| b.cmp(a));
        has.get(needed).copied().unwrap_or(0)
    }

    /// Keeps an answer until its time has come; gives it back if that is now.
    pub fn wait(&mut self, unacked: Unacked, kept: u64, needed: Option<usize>) -> Option<Unacked> {
        let is_next = self.unacked.is_empty();
        if unacked.offset == 0 || is_next && unacked.offset <= self.acked(kept, needed) {
            self.acknowledged |= unacked.offset > 0;
            return Some(unacked);
        }
        self.unacked.push_back(unacked);
        None
    }

    /// The answers whose time has come. A successor that keeps someone waiting for longer than `patience` is
    /// done without until it has caught up, unless so many are needed.
    pub fn acknowledge(
        &mut self,
        kept: u64,
        now: Time,
        patience: Duration,
        needed: Option<usize>,
    ) -> Vec<Unacked> {
        if let Some(front) = self.unacked.front()
            && needed.is_none()
            && now.since(front.since) >= patience
        {
            let offset = front.offset;
            self.successors.iter_mut().for_each(|(_, it)| it.lags |= it.has < offset);
        }
        let acked = self.acked(kept, needed);
        let mut ready = Vec::new();
        while self.unacked.front().is_some_and(|it| it.offset <= acked) {
            ready.extend(self.unacked.pop_front());
        }
        self.acknowledged |= !ready.is_empty();
        ready
    }

    /// The answers that have waited for too long.
    pub fn overdue(&mut self, now: Time, patience: Duration) -> Vec<Unacked> {
        let mut overdue = Vec::new();
        while self.unacked.front().is_some_and(|it| now.since(it.since) >= patience) {
            overdue.extend(self.unacked.pop_front());
        }
        overdue
    }

    /// The answers that were never given.
    pub fn into_unacked(self) -> VecDeque<Unacked> {
        self.unacked
    }

    /// When something will be due.
    pub fn next_due(&self, patience: Duration) -> Option<Time> {
        let absent = self.successors.values().filter(|it| !it.attached);
        let invite = absent.map(|it| it.asked + INVITE_AGAIN).min();
        let wait = self.unacked.front().map(|it| it.since + patience);
        [invite, wait].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const PATIENCE: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Time {
        Time::from_millis(100_000 + millis)
    }

    fn unacked(offset: u64) -> Unacked {
        let whom = Whom::Peer(B, offset, 0);
        Unacked { offset, since: at(0), answer: Answer::Published(None), whom }
    }

    fn with_successors(successors: &[NodeId]) -> Replication {
        let mut replication = Replication::default();
        assert_eq!(replication.choose(successors, |_| 0, |_| true, at(0)).0, successors);
        replication
    }

    fn offsets(ready: Vec<Unacked>) -> Vec<u64> {
        ready.iter().map(|it| it.offset).collect()
    }

    /// `peers` have attached.
    fn attach(replication: &mut Replication, peers: &[NodeId]) {
        peers.iter().for_each(|peer| replication.attached(*peer, true));
    }

    #[test]
    fn all_successors_must_have_it() {
        let mut replication = with_successors(&[A, B]);
        attach(&mut replication, &[A, B]);
        assert!(replication.wait(unacked(1), 1, None).is_none());
        assert!(replication.wait(unacked(2), 2, None).is_none());
        replication.has(A, 2, 2);
        assert_eq!(offsets(replication.acknowledge(2, at(1), PATIENCE, None)), [0; 0]);
        replication.has(B, 1, 2);
        assert_eq!(offsets(replication.acknowledge(2, at(1), PATIENCE, None)), [1]);
        replication.has(B, 2, 2);
        assert_eq!(offsets(replication.acknowledge(2, at(1), PATIENCE, None)), [2]);
    }

    #[test]
    fn without_successors_nothing_waits() {
        let mut replication = with_successors(&[]);
        assert!(replication.wait(unacked(1), 1, None).is_some());
    }

    #[test]
    fn a_successor_that_is_too_slow_is_done_without_until_it_has_caught_up() {
        let mut replication = with_successors(&[A]);
        replication.wait(unacked(1), 1, None);
        assert_eq!(replication.next_due(PATIENCE), Some(at(200)), "to be invited again");
        attach(&mut replication, &[A]);
        assert_eq!(replication.next_due(PATIENCE), Some(at(1_000)));
        assert_eq!(offsets(replication.acknowledge(1, at(1_000), PATIENCE, None)), [1]);
        assert!(replication.wait(unacked(2), 2, None).is_some(), "it lags");
        replication.has(A, 2, 2);
        assert!(replication.wait(unacked(3), 3, None).is_none(), "it has caught up");
    }

    #[test]
    fn a_quorum_waits_for_as_many_as_it_needs_and_for_no_others() {
        let mut replication = with_successors(&[A, B]);
        attach(&mut replication, &[A, B]);
        assert!(replication.wait(unacked(1), 1, Some(1)).is_none());
        assert!(replication.acknowledge(1, at(5_000), PATIENCE, Some(1)).is_empty(), "never less");
        replication.has(A, 1, 1);
        assert_eq!(offsets(replication.acknowledge(1, at(1), PATIENCE, Some(1))), [1]);
        assert!(replication.wait(unacked(2), 2, Some(1)).is_none());
        assert_eq!(offsets(replication.overdue(at(1_000), PATIENCE)), [2], "its publisher is told");
    }

    #[test]
    fn the_own_disk_is_one_more_copy_that_is_waited_for() {
        let mut replication = with_successors(&[A]);
        attach(&mut replication, &[A]);
        replication.has(A, 3, 3);
        assert_eq!(replication.acked(1, None), 1);
        assert!(replication.wait(unacked(2), 1, None).is_none());
        assert!(replication.acknowledge(1, at(5_000), PATIENCE, None).is_empty(), "never less");
        assert_eq!(offsets(replication.acknowledge(2, at(1), PATIENCE, None)), [2]);
        let mut replication = with_successors(&[A, B]);
        attach(&mut replication, &[A, B]);
        replication.has(A, 3, 3);
        replication.has(B, 2, 3);
        assert_eq!(replication.acked(0, Some(1)), 2, "a majority without the home");
        assert_eq!(replication.acked(3, Some(1)), 3);
    }

    #[test]
    fn successors_are_invited_until_they_come() {
        let mut replication = with_successors(&[A]);
        assert_eq!(replication.choose(&[A], |_| 1, |_| true, at(100)), (vec![], vec![]));
        assert_eq!(replication.choose(&[A], |_| 1, |_| true, at(200)), (vec![A], vec![]));
        attach(&mut replication, &[A]);
        assert_eq!(replication.choose(&[A], |_| 1, |_| true, at(900)), (vec![], vec![]));
    }

    #[test]
    fn who_takes_itself_for_a_successor_is_one_until_it_is_told_otherwise() {
        let mut replication = with_successors(&[A]);
        replication.keep(B);
        attach(&mut replication, &[A, B]);
        assert_eq!(replication.choose(&[A], |_| 1, |_| true, at(100)), (vec![], vec![]));
        replication.has(A, 1, 1);
        assert_eq!(replication.choose(&[A], |_| 1, |_| true, at(101)), (vec![], vec![B]));
        // If it is wanted after all, it listens already.
        replication.keep(B);
        attach(&mut replication, &[B]);
        assert_eq!(replication.choose(&[A, B], |_| 1, |_| true, at(900)), (vec![], vec![]));
        assert_eq!(replication.successors(), [A, B]);
    }

    #[test]
    fn the_only_copy_beside_the_home_stays_until_those_that_come_have_one() {
        let mut replication = with_successors(&[A]);
        attach(&mut replication, &[A]);
        replication.has(A, 1, 1);
        assert_eq!(
            replication.choose(&[], |_| 1, |_| true, at(900)),
            (vec![], vec![]),
            "B is on its way"
        );
        assert_eq!(replication.choose(&[B], |_| 1, |_| true, at(901)), (vec![B], vec![]));
        attach(&mut replication, &[B]);
        replication.has(B, 1, 1);
        assert_eq!(replication.choose(&[B], |_| 1, |_| true, at(902)), (vec![], vec![A]));
        assert_eq!(
            replication.choose(&[], |_| 0, |_| true, at(903)),
            (vec![], vec![B]),
            "nobody is"
        );
    }

    #[test]
    fn a_successor_is_dismissed_once_the_next_one_has_everything() {
        let mut replication = with_successors(&[A]);
        attach(&mut replication, &[A]);
        assert_eq!(replication.choose(&[B], |_| 1, |_| true, at(900)), (vec![B], vec![]));
        attach(&mut replication, &[B]);
        assert!(!replication.is_safe(|_| true));
        replication.has(A, 1, 1);
        replication.has(B, 1, 1);
        assert!(replication.is_safe(|_| true));
        assert_eq!(replication.choose(&[B], |_| 1, |_| true, at(901)), (vec![], vec![A]));
        assert_eq!(replication.successors(), [B]);
    }
}
