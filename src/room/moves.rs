//! How many rooms are on the move, and when others may follow.
//!
//! In: rooms that begin to move or have arrived, and peers that answer pings. Out: whether there is room for another,
//! and whose turn it is.

use std::{collections::BTreeSet, time::Duration};

use super::{long_queue::LongQueue, types::RoomName};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// The most rooms that are on the move before others change their successors. What is said about all of them holds
/// up whatever else happens for some ten milliseconds.
const MAX_MOVING: usize = 512;
/// How many rooms begin to move before the peers are waited for: so many, and more as long as those answer quickly.
const LOT: usize = 32;
const MAX_LOT: usize = 256;
/// How much longer than their quickest answer the peers may take to be quick: what the rooms hold up, others wait for.
const QUICK: Duration = Duration::from_millis(5);
/// How long rooms on the move hold up others if none of them arrives: one of their nodes may be slow.
const MOVE_PATIENCE: Duration = Duration::from_secs(2);

/// Rooms on the move: from another home to this node, or from here to other successors. Those whose successors have
/// all that there is wait for their turn.
#[derive(Debug)]
pub struct Moves {
    under_way: usize,
    /// When one of them was the last to arrive.
    arrived: Time,
    waiting: LongQueue<RoomName>,
    /// How many have begun to move since all peers had dealt with what was sent before.
    begun: usize,
    /// How many may.
    lot: usize,
    /// The quickest answer to a ping since none was on the move.
    quickest: Duration,
    /// The ping that is under way, if any, and the peers that have yet to answer it.
    ping: (u64, BTreeSet<NodeId>),
    /// When it was sent.
    pinged: Time,
}

impl Default for Moves {
    fn default() -> Self {
        Self {
            under_way: 0,
            arrived: Time::default(),
            waiting: LongQueue::default(),
            begun: 0,
            lot: LOT,
            quickest: Duration::MAX,
            ping: (0, BTreeSet::new()),
            pinged: Time::default(),
        }
    }
}

impl Moves {
    /// How many are under way.
    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Another one begins to move.
    pub(super) fn begin(&mut self, now: Time) {
        if self.under_way == 0 {
            // Nobody has been waited for until now.
            self.arrived = now;
            (self.lot, self.quickest) = (LOT, Duration::MAX);
        }
        self.under_way += 1;
        self.begun += 1;
    }

    /// One of them has arrived, or is forgotten.
    pub(super) fn end(&mut self, now: Time) {
        self.under_way -= 1;
        self.arrived = now;
    }

    /// Whether there is room for another.
    pub(super) fn is_free(&self, now: Time) -> bool {
        let few = self.under_way < MAX_MOVING || now.since(self.arrived) >= MOVE_PATIENCE;
        few && !self.has_begun_many()
    }

    /// Whether so many have begun to move that the peers are to be waited for.
    pub(super) fn has_begun_many(&self) -> bool {
        self.begun >= self.lot
    }

    /// Whether peers have yet to deal with what was sent to them.
    pub(super) fn waits_for_peers(&self) -> bool {
        !self.ping.1.is_empty()
    }

    /// These peers were sent the ping `id`.
    pub(super) fn pinged(&mut self, peers: &[NodeId], id: u64, now: Time) {
        (self.ping, self.pinged) = ((id, peers.iter().copied().collect()), now);
        self.begin_anew();
    }

    /// A peer has answered the ping `id`.
    pub(super) fn answered(&mut self, peer: NodeId, id: u64, now: Time) {
        if id == self.ping.0 && self.ping.1.remove(&peer) && self.ping.1.is_empty() {
            let took = now.since(self.pinged);
            self.quickest = self.quickest.min(took);
            self.lot = match took <= self.quickest + QUICK {
                true => (self.lot * 2).min(MAX_LOT),
                false => (self.lot / 2).max(LOT),
            };
            self.begin_anew();
        }
    }

    /// A peer is not waited for any more.
    pub(super) fn lose(&mut self, peer: NodeId) {
        if self.ping.1.remove(&peer) {
            self.begin_anew();
        }
    }

    /// Peers that have not answered for long are waited for no more.
    pub(super) fn give_up_on_peers(&mut self, now: Time) {
        if self.waits_for_peers() && now.since(self.pinged) >= MOVE_PATIENCE {
            self.ping.1.clear();
            self.begin_anew();
        }
    }

    fn begin_anew(&mut self) {
        if self.ping.1.is_empty() {
            self.begun = 0;
        }
    }

    /// `room` waits for its turn. It must not wait already.
    pub(super) fn wait(&mut self, room: &RoomName) {
        self.waiting.push_back(room.clone());
    }

    /// Whether it is a room's turn.
    pub(super) fn is_ready(&self, now: Time) -> bool {
        self.is_free(now) && !self.waiting.is_empty()
    }

    /// The room whose turn it is.
    pub(super) fn next(&mut self, now: Time) -> Option<RoomName> {
        self.is_free(now).then(|| self.waiting.pop_front()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_wait_for_those_on_the_move_but_not_for_ever() {
        let (mut moves, start) = (Moves::default(), Time::from_millis(100_000));
        (0..MAX_MOVING).for_each(|_| moves.begin(start));
        moves.pinged(&[], 1, start);
        moves.wait(&"a".into());
        assert!(!moves.is_ready(start), "none was on the move for long before");
        moves.end(start);
        assert_eq!(moves.next(start).as_deref(), Some("a"));
        moves.begin(start);
        moves.wait(&"b".into());
        assert!(!moves.is_ready(start) && moves.is_ready(start + MOVE_PATIENCE));
    }

    #[test]
    fn as_many_begin_as_the_peers_can_take_quickly() {
        let (mut moves, mut now) = (Moves::default(), Time::from_millis(100_000));
        let mut lot_after = |millis| {
            moves.pinged(&[NodeId(1)], millis, now);
            now = now + Duration::from_millis(millis);
            moves.answered(NodeId(1), millis, now);
            moves.lot
        };
        assert_eq!([50, 52, 50, 55].map(&mut lot_after), [64, 128, 256, 256]);
        assert_eq!([70, 90, 56, 57].map(&mut lot_after), [128, 64, 32, 32]);
        assert_eq!(lot_after(51), 64);
    }

    #[test]
    fn rooms_wait_for_peers_to_deal_with_those_before_but_not_for_ever() {
        let (mut moves, start) = (Moves::default(), Time::from_millis(100_000));
        let (a, b) = (NodeId(1), NodeId(2));
        moves.begin(start);
        let begin_many = |moves: &mut Moves| {
            (0..moves.lot).for_each(|_| moves.begin(start));
            (0..moves.lot).for_each(|_| moves.end(start));
            assert!(moves.has_begun_many() && !moves.is_free(start));
        };
        begin_many(&mut moves);
        moves.pinged(&[a, b], 1, start);
        moves.answered(a, 1, start);
        moves.answered(b, 7, start);
        assert!(!moves.is_free(start), "b has yet to answer");
        moves.answered(b, 1, start);
        assert!(moves.is_free(start));
        begin_many(&mut moves);
        moves.pinged(&[a], 2, start);
        moves.lose(a);
        assert!(moves.is_free(start), "the link to a is gone");
        begin_many(&mut moves);
        moves.pinged(&[a], 3, start);
        moves.give_up_on_peers(start + MOVE_PATIENCE);
        assert!(moves.is_free(start + MOVE_PATIENCE));
    }
}
