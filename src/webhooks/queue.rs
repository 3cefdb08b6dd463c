//! Events that wait for delivery: what is sent next and when, and what is dropped when too many wait. In: events,
//! and what became of batches. Out: batches.

use std::{collections::VecDeque, time::Duration};

use super::event::EventEnvelope;
use crate::runtime::time::Time;

/// How long to wait after the first failure; twice as long after each more.
const BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait.
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How many events wait, and are sent at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// The most that wait.
    pub waiting: usize,
    /// The most of one batch.
    pub batch: usize,
    /// How long an event waits for others.
    pub linger: Duration,
}

/// Events that wait, oldest first.
#[derive(Debug)]
pub struct Queue {
    limits: QueueLimits,
    waiting: VecDeque<(Time, EventEnvelope)>,
    /// How many, from the front, are under way.
    under_way: usize,
    failures: u32,
    not_before: Time,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Send this.
    Send(Vec<EventEnvelope>),
    /// Ask again then, or when there is something new.
    At(Time),
    /// Ask again when there is something new.
    Nothing,
}

impl Queue {
    /// An empty one.
    pub fn new(limits: QueueLimits) -> Self {
        let (waiting, not_before) = (VecDeque::new(), Time::default());
        Self { limits, waiting, under_way: 0, failures: 0, not_before }
    }

    /// Takes an event. Returns whether one was dropped for it: of those that are not under way the oldest,
    /// since what is newest says most of how things are.
    pub fn push(&mut self, event: EventEnvelope, now: Time) -> bool {
        let full = self.waiting.len() >= self.limits.waiting;
        if full && self.waiting.remove(self.under_way).is_none() {
            return true;
        }
        self.waiting.push_back((now, event));
        full
    }

    /// How many wait, those under way among them.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none do.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What is to be done now. One batch is under way at a time, so they come in order.
    pub fn next(&mut self, now: Time) -> Next {
        let Some((oldest, _)) = self.waiting.front().filter(|_| self.under_way == 0) else {
            return Next::Nothing;
        };
        let full = self.waiting.len() >= self.limits.batch;
        let ready = if full { *oldest } else { *oldest + self.limits.linger };
        let at = ready.max(self.not_before);
        if at > now {
            return Next::At(at);
        }
        self.under_way = self.waiting.len().min(self.limits.batch);
        Next::Send(self.waiting.iter().take(self.under_way).map(|(_, it)| it.clone()).collect())
    }

    /// The batch has arrived.
    pub fn delivered(&mut self) {
        self.waiting.drain(..self.under_way);
        (self.under_way, self.failures) = (0, 0);
    }

    /// It may not have: its events are sent again.
    pub fn failed(&mut self, now: Time) {
        let pause = BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        (self.under_way, self.not_before) = (0, now + pause);
    }

    /// What waits is sent without waiting for more.
    pub fn hurry(&mut self) {
        (self.limits.linger, self.not_before) = (Duration::ZERO, Time::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cluster::node::NodeId, webhooks::event::WebhookEvent};

    const LIMITS: QueueLimits =
        QueueLimits { waiting: 4, batch: 2, linger: Duration::from_millis(100) };

    fn event(id: u32) -> EventEnvelope {
        let event = WebhookEvent::NodeGone(NodeId(0));
        EventEnvelope { id: id.to_string(), time_ms: 0, node: String::new(), event }
    }

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn filled(count: u32) -> Queue {
        let mut queue = Queue::new(LIMITS);
        (1..=count).for_each(|id| assert!(!queue.push(event(id), at(0))));
        queue
    }

    #[test]
    fn events_wait_for_others_but_not_for_long() {
        let mut queue = filled(1);
        assert_eq!(queue.next(at(0)), Next::At(at(100)));
        assert_eq!(queue.next(at(100)), Next::Send(vec![event(1)]));
        let mut queue = filled(3);
        assert_eq!(queue.next(at(0)), Next::Send(vec![event(1), event(2)]));
        assert_eq!(queue.next(at(500)), Next::Nothing, "one batch at a time");
        queue.delivered();
        assert_eq!(queue.next(at(0)), Next::At(at(100)));
        assert_eq!(queue.next(at(100)), Next::Send(vec![event(3)]));
        queue.delivered();
        assert_eq!((queue.next(at(100)), queue.is_empty()), (Next::Nothing, true));
    }

    #[test]
    fn what_may_not_have_arrived_is_sent_again_later_and_later() {
        let mut queue = filled(2);
        let (mut now, mut pauses) = (0, Vec::new());
        for _ in 0..9 {
            assert_eq!(queue.next(at(now)), Next::Send(vec![event(1), event(2)]));
            queue.failed(at(now));
            let Next::At(again) = queue.next(at(now)) else { panic!("at once") };
            pauses.push(again.since(at(now)).as_millis() as u64);
            now += pauses.last().copied().unwrap_or_default();
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
        queue.hurry();
        assert_eq!(queue.next(at(now)), Next::Send(vec![event(1), event(2)]));
        queue.delivered();
        assert!(queue.is_empty());
    }

    #[test]
    fn when_too_many_wait_the_oldest_that_is_not_under_way_goes() {
        let mut queue = filled(4);
        assert_eq!(queue.next(at(0)), Next::Send(vec![event(1), event(2)]));
        assert!(queue.push(event(5), at(0)));
        queue.delivered();
        assert_eq!(queue.next(at(0)), Next::Send(vec![event(4), event(5)]));
        let mut queue = Queue::new(QueueLimits { waiting: 1, ..LIMITS });
        queue.push(event(1), at(0));
        assert_eq!(queue.next(at(100)), Next::Send(vec![event(1)]));
        assert!(queue.push(event(2), at(0)), "there is no other to drop");
        assert_eq!(queue.len(), 1);
    }
}
