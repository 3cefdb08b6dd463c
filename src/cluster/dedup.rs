//! Gossip deduplication: which messages need not be sent, since they would tell the other node nothing new.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use chitchat::ChitchatMessage;

use crate::runtime::time::Time;

/// The most nodes that are remembered; with the rest, everything is sent.
const MAX_REMEMBERED: usize = 4096;

/// Remembers who has asked this node lately. After an exchange both sides know the same, so neither has to ask
/// the other again at once.
#[derive(Debug)]
pub struct Deduplicator {
    /// How long an exchange lasts.
    lasts: Duration,
    asked: HashMap<SocketAddr, Time>,
}

impl Deduplicator {
    /// Exchanges last as long as the time after which each node asks again.
    pub fn new(lasts: Duration) -> Self {
        Self { lasts, asked: HashMap::new() }
    }

    /// Takes note of what came from `from`.
    pub fn received(&mut self, from: SocketAddr, message: &ChitchatMessage, now: Time) {
        let ChitchatMessage::Syn { .. } = message else { return };
        if self.asked.len() >= MAX_REMEMBERED {
            self.asked.retain(|_, at| now.since(*at) < self.lasts);
        }
        if self.asked.len() < MAX_REMEMBERED {
            self.asked.insert(from, now);
        }
    }

    /// Whether `message` need not be sent to `to`: a question to a node that has just asked, or an
    /// acknowledgement that brings nothing.
    pub fn is_redundant(&self, to: SocketAddr, message: &ChitchatMessage, now: Time) -> bool {
        match message {
            ChitchatMessage::Syn { .. } => {
                self.asked.get(&to).is_some_and(|at| now.since(*at) < self.lasts)
            }
            ChitchatMessage::Ack { delta } => *delta == Default::default(),
            ChitchatMessage::SynAck { .. } | ChitchatMessage::BadCluster => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(200);

    fn question() -> ChitchatMessage {
        ChitchatMessage::Syn { cluster_id: "c".into(), digest: Default::default() }
    }

    fn node(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], number).into()
    }

    #[test]
    fn of_two_nodes_one_asks() {
        let mut questions = [0; 2];
        let mut dedup = [Deduplicator::new(INTERVAL), Deduplicator::new(INTERVAL)];
        // Both look every 200 ms, the second 80 ms after the first.
        for turn in 0..20 {
            let (me, now) = (turn % 2, Time::from_millis(turn / 2 * 200 + turn % 2 * 80));
            let (me, other) = (me as usize, 1 - me as usize);
            if !dedup[me].is_redundant(node(other as u16), &question(), now) {
                questions[me] += 1;
                dedup[other].received(node(me as u16), &question(), now);
            }
        }
        assert_eq!(questions, [10, 0]);
    }

    #[test]
    fn a_node_that_asks_no_more_is_asked() {
        let mut dedup = Deduplicator::new(INTERVAL);
        dedup.received(node(1), &question(), Time::from_millis(1_000));
        assert!(dedup.is_redundant(node(1), &question(), Time::from_millis(1_199)));
        assert!(!dedup.is_redundant(node(1), &question(), Time::from_millis(1_200)));
        assert!(!dedup.is_redundant(node(2), &question(), Time::from_millis(1_000)));
    }

    #[test]
    fn answers_are_always_sent_and_acknowledgements_if_they_bring_something() {
        let mut dedup = Deduplicator::new(INTERVAL);
        let now = Time::from_millis(1_000);
        dedup.received(node(1), &question(), now);
        let answer =
            ChitchatMessage::SynAck { digest: Default::default(), delta: Default::default() };
        assert!(!dedup.is_redundant(node(1), &answer, now));
        let empty = ChitchatMessage::Ack { delta: Default::default() };
        assert!(dedup.is_redundant(node(2), &empty, now));
    }

    #[test]
    fn forged_addresses_do_not_fill_the_memory() {
        let mut dedup = Deduplicator::new(INTERVAL);
        for number in 0..3 * MAX_REMEMBERED as u16 {
            dedup.received(node(number), &question(), Time::from_millis(1_000));
        }
        assert_eq!(dedup.asked.len(), MAX_REMEMBERED);
        dedup.received(node(1), &question(), Time::from_millis(2_000));
        assert_eq!(dedup.asked.len(), 1);
    }
}
