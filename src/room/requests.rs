//! What a node has yet to get from a room's home: publishes and queries, in the order in which they came.
//!
//! They go to the home in runs. A home that takes the first of a run takes the rest in order; one that
//! refuses any refuses the rest of the run, and then all of them go, in their old order, to the next
//! home. So no request of a node is overtaken by a later one, and a home that has placed some of them
//! already knows them by their rising numbers.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::types::{Answer, GroupRequest, HomeRequest, MapRequest, ReplyTo, SocketRef, Subscribe};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// The most requests of one room that wait on one node.
const MAX_WAITING: usize = 20_000;
/// The most bytes of them.
const MAX_BYTES: usize = 32 << 20;
/// How long after a refusal the same home is not asked again: its view may be about to change.
const BACKOFF: Duration = Duration::from_millis(50);

/// Who gets the home's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asker {
    /// A client command, an API call, or nobody.
    To(ReplyTo),
    /// A subscriber that recovers from the home's history.
    Subscriber(Box<Subscribe>),
}

/// A request without an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// The node's number for it.
    pub id: u64,
    /// What is asked.
    pub ask: HomeRequest,
    /// Who waits.
    pub reply: Asker,
    /// When it is given up.
    pub deadline: Time,
}

impl Pending {
    fn weight(&self) -> usize {
        match &self.ask {
            HomeRequest::Publish(publication) => publication.data.len() + 200,
            HomeRequest::Query(_) => 200,
            HomeRequest::Map(request) => match &**request {
                MapRequest::Put { key, value, .. } => key.len() + value.data.len() + 200,
                _ => 200,
            },
            HomeRequest::Group(request) => match &**request {
                GroupRequest::Judge { deliveries, .. } => 200 + deliveries.len() * 24,
                _ => 200,
            },
        }
    }
}

/// Where the front of the queue went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    to: NodeId,
    /// The link that it goes on.
    link: u64,
    id: u64,
    /// How many were sent in it.
    next: u32,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Requests {
    queue: VecDeque<Pending>,
    bytes: usize,
    /// The first of the queue that were sent, in this run.
    sent: usize,
    run: Option<Run>,
    /// No one is asked before.
    not_before: Time,
    /// What has come of answers that come in parts. Boxed: few do.
    #[expect(clippy::box_collection, reason = "smaller while there is none, as in most rooms")]
    parts: Option<Box<BTreeMap<u64, Answer>>>,
}

impl Requests {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Adds a request, or gives it back because too many wait.
    #[expect(clippy::result_large_err, reason = "the request is what is given back")]
    pub fn push(&mut self, pending: Pending) -> Result<(), Pending> {
        let weight = pending.weight();
        if self.queue.len() >= MAX_WAITING || self.bytes + weight > MAX_BYTES {
            return Err(pending);
        }
        self.bytes += weight;
        self.queue.push_back(pending);
        Ok(())
    }

    /// Puts requests back that were taken before everything that waits now.
    pub fn put_back(&mut self, earlier: Vec<Pending>) {
        self.restart();
        for pending in earlier.into_iter().rev() {
            self.bytes += pending.weight();
            self.queue.push_front(pending);
        }
    }

    /// Takes the first, to be done by this node as the home, or to be refused.
    pub fn take(&mut self) -> Option<Pending> {
        self.restart();
        self.remove(0)
    }

    fn remove(&mut self, index: usize) -> Option<Pending> {
        let pending = self.queue.remove(index)?;
        self.bytes -= pending.weight();
        if index < self.sent {
            self.sent -= 1;
        }
        self.take_parts(pending.id);
        if self.queue.is_empty() {
            // Most rooms wait for nothing most of the time, and there may be very many.
            self.queue = VecDeque::new();
        }
        Some(pending)
    }

    /// What is to be sent to `home` now, as (run, place in the run, request). `new_run` numbers a run.
    ///
    /// With `repeatable` false the home can't tell a repeat, so what another node was sent has to be
    /// answered or refused there before anything goes to this one.
    pub fn next(
        &mut self,
        (home, link): (NodeId, u64),
        repeatable: bool,
        now: Time,
        mut new_run: impl FnMut() -> u64,
    ) -> Vec<(u64, u32, &Pending)> {
        if self.sent == self.queue.len() || now < self.not_before {
            return Vec::new();
        }
        if self.run.is_some_and(|run| run.to != home) {
            if self.sent > 0 && !repeatable {
                return Vec::new();
            }
            self.restart();
        }
        if self.sent == 0 {
            // Nothing is under way that the next could overtake, and the home may have begun anew.
            self.run = None;
        }
        let run = self.run.get_or_insert_with(|| Run { to: home, link, id: new_run(), next: 0 });
        let first = run.next;
        let unsent = self.queue.range(self.sent..);
        run.next += unsent.len() as u32;
        self.sent = self.queue.len();
        let id = run.id;
        unsent.enumerate().map(|(index, it)| (id, first + index as u32, it)).collect()
    }

    /// Begins again with the first request, at whichever node is home.
    fn restart(&mut self) {
        (self.sent, self.run) = (0, None);
        self.parts = None;
    }

    /// A home has refused a run.
    pub fn refused(&mut self, from: NodeId, run: u64, now: Time) {
        if self.run.is_some_and(|it| (it.to, it.id) == (from, run)) {
            self.restart();
            self.not_before = now + BACKOFF;
        }
    }

    /// Where the front of the queue went, and on which link.
    pub fn sent_on(&self) -> Option<(NodeId, u64)> {
        self.run.map(|run| (run.to, run.link))
    }

    /// `peer` is gone, and whatever was under way to it or back. Without `repeatable` no one can tell what
    /// it has done, so its publishes have failed; they are returned.
    pub fn lose(&mut self, peer: NodeId, repeatable: bool) -> Vec<Pending> {
        if self.run.is_none_or(|run| run.to != peer) {
            return Vec::new();
        }
        let sent = self.sent;
        self.restart();
        if repeatable {
            return Vec::new();
        }
        let front: Vec<Pending> = self.queue.drain(..sent).collect();
        let (failed, again): (Vec<_>, Vec<_>) =
            front.into_iter().partition(|it| matches!(it.ask, HomeRequest::Publish(_)));
        self.bytes -= failed.iter().chain(&again).map(Pending::weight).sum::<usize>();
        self.put_back(again);
        failed
    }

    /// Where the request is that a home answers, if it was sent there.
    fn sent_to(&self, from: NodeId, id: u64) -> Option<usize> {
        self.run.filter(|run| run.to == from)?;
        let index = self.queue.binary_search_by_key(&id, |pending| pending.id).ok()?;
        (index < self.sent).then_some(index)
    }

    /// What has come of the answer to a request.
    fn take_parts(&mut self, id: u64) -> Option<Answer> {
        let answer = self.parts.as_mut()?.remove(&id);
        self.parts.take_if(|it| it.is_empty());
        answer
    }

    /// A part of what a home answers has come.
    pub fn part_came(&mut self, from: NodeId, id: u64, part: Answer) {
        if self.sent_to(from, id).is_none() {
            return;
        }
        let whole = match self.take_parts(id) {
            Some(earlier) => earlier.followed_by(part),
            None => part,
        };
        self.parts.get_or_insert_default().insert(id, whole);
    }

    /// The request that a home answers, if it was sent there, and all of its answer.
    pub fn answered(&mut self, from: NodeId, id: u64, answer: Answer) -> Option<(Pending, Answer)> {
        let index = self.sent_to(from, id)?;
        let answer = match self.take_parts(id) {
            Some(earlier) => earlier.followed_by(answer),
            None => answer,
        };
        Some((self.remove(index)?, answer))
    }

    /// The first whose time is up.
    pub fn overdue(&mut self, now: Time) -> Option<Pending> {
        // All have the same time to wait, so the first is the first to be due.
        if self.queue.front()?.deadline > now {
            return None;
        }
        self.remove(0)
    }

    /// Drops what a subscriber waits for that has gone.
    pub fn forget(&mut self, socket: SocketRef) {
        let is_it =
            |it: &Pending| matches!(&it.reply, Asker::Subscriber(it) if it.socket == socket);
        while let Some(index) = self.queue.iter().position(is_it) {
            self.remove(index);
        }
    }

    /// When something is due if nothing comes in.
    pub fn next_due(&self) -> Option<Time> {
        let deadline = self.queue.front()?.deadline;
        let unsent = self.sent < self.queue.len();
        Some(if unsent && self.not_before != Time::default() {
            deadline.min(self.not_before)
        } else {
            deadline
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::room::types::{Epoch, NewPublication, Position, Publication, Query};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const NOW: Time = Time::from_millis(1_000);

    fn publish(id: u64) -> Pending {
        let publication = NewPublication { data: "x".into(), ..NewPublication::default() };
        let reply = Asker::To(ReplyTo::Api(id));
        Pending { id, ask: HomeRequest::Publish(publication), reply, deadline: NOW }
    }

    fn done() -> Answer {
        Answer::Published(None)
    }

    fn waiting(ids: std::ops::RangeInclusive<u64>) -> Requests {
        let mut requests = Requests::default();
        ids.for_each(|id| requests.push(publish(id)).expect("few"));
        requests
    }

    fn sent(requests: &mut Requests, home: NodeId, repeatable: bool) -> Vec<(u64, u32, u64)> {
        let mut run = 100 * home.0;
        let next = requests.next((home, 1), repeatable, NOW, || {
            run += 1;
            run
        });
        next.into_iter().map(|(run, seq, pending)| (run, seq, pending.id)).collect()
    }

    #[test]
    fn each_is_sent_once_and_in_order() {
        let mut requests = waiting(1..=2);
        assert_eq!(sent(&mut requests, A, true), [(101, 0, 1), (101, 1, 2)]);
        assert_eq!(sent(&mut requests, A, true), []);
        requests.push(publish(3)).expect("few");
        assert_eq!(sent(&mut requests, A, true), [(101, 2, 3)]);
        (1..=3).for_each(|id| drop(requests.answered(A, id, done())));
        requests.push(publish(4)).expect("few");
        assert_eq!(sent(&mut requests, A, true), [(101, 0, 4)], "a run of its own");
    }

    #[test]
    fn parts_of_an_answer_are_put_together_unless_it_is_asked_for_again() {
        let part = |offset| {
            let publication = Publication { offset, ..Publication::default() };
            let position = Position { epoch: Epoch(1), offset: 2 };
            Answer::History(vec![Arc::new(publication)], position)
        };
        let offsets = |answer| match answer {
            Some((_, Answer::History(page, _))) => page.iter().map(|it| it.offset).collect(),
            _ => Vec::new(),
        };
        let mut requests = waiting(1..=2);
        sent(&mut requests, A, true);
        requests.part_came(A, 1, part(1));
        requests.part_came(A, 2, part(1));
        requests.part_came(A, 7, part(9));
        assert_eq!(offsets(requests.answered(A, 1, part(2))), [1, 2]);
        requests.lose(A, true);
        sent(&mut requests, B, true);
        requests.part_came(A, 2, part(1));
        assert_eq!(offsets(requests.answered(B, 2, part(2))), [2], "B has said no more");
    }

    #[test]
    fn a_refused_run_goes_again_as_a_whole() {
        let mut requests = waiting(1..=3);
        sent(&mut requests, A, true);
        assert_eq!(requests.answered(A, 1, done()).map(|(it, _)| it.id), Some(1));
        requests.refused(A, 99, NOW);
        assert_eq!(sent(&mut requests, A, true), [], "another run was refused");
        requests.refused(A, 101, NOW);
        assert_eq!(sent(&mut requests, A, true), [], "not at once");
        requests.not_before = NOW;
        assert_eq!(sent(&mut requests, B, true), [(201, 0, 2), (201, 1, 3)]);
        assert_eq!(requests.answered(A, 2, done()), None, "it was asked of another since");
    }

    #[test]
    fn what_can_not_be_repeated_is_not_sent_elsewhere() {
        let mut requests = waiting(1..=2);
        sent(&mut requests, A, false);
        requests.push(publish(3)).expect("few");
        assert_eq!(sent(&mut requests, B, false), []);
        let lost: Vec<u64> = requests.lose(A, false).iter().map(|it| it.id).collect();
        assert_eq!(lost, [1, 2]);
        assert_eq!(sent(&mut requests, B, false), [(201, 0, 3)]);
    }

    #[test]
    fn queries_of_a_lost_home_are_asked_again() {
        let mut requests = waiting(1..=1);
        requests
            .push(Pending { ask: HomeRequest::Query(Query::Presence), ..publish(2) })
            .expect("few");
        sent(&mut requests, A, false);
        assert_eq!(requests.lose(A, false).len(), 1);
        assert_eq!(sent(&mut requests, B, false), [(201, 0, 2)]);
    }

    #[test]
    fn too_much_is_given_back() {
        let mut requests = waiting(1..=MAX_WAITING as u64);
        assert!(requests.push(publish(0)).is_err());
        while requests.take().is_some() {}
        assert_eq!((requests.bytes, requests.next_due()), (0, None));
    }
}
