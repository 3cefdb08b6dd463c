//! How a group gives its messages: which to whom, and when it takes them back.
//!
//! In: the room's messages, who has room for some, and time. Out: leases, and what follows from them.

use std::time::Duration;

use super::{
    Change, Consumer, Effect, Given, Group, Lease, Lent, Look, Mode, Parked, Pull, Put, Reason,
    Source,
};
use crate::{cluster::node::mix, queue::tag::Delivery, runtime::time::Time};

/// When a dead letter is sent again that was not answered for.
pub(super) const DEAD_AGAIN: Duration = Duration::from_secs(5);
/// The most messages that are given at a time, so that others get their turn.
const MOST: usize = 256;
/// The most messages that are looked at beyond those that can't be given yet.
const LOOK_PAST: usize = 256;
/// The most messages that one look passes by.
pub(super) const MOST_AT_ONCE: usize = 3 * MOST + LOOK_PAST;
/// After how many changes, and a part of what is pending, all that there is is written anew.
const CHANGES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taker {
    Consumer(u128),
    /// The pull at this place.
    Pull(usize),
}

impl Group {
    /// Gives what can be given, and takes back what was held for too long.
    pub fn settle(&mut self, source: &impl Source, now: Time, out: &mut Vec<Effect>) {
        self.more = false;
        self.take_back(now, out);
        if self.origin.is_some() {
            let mut round = Round::default();
            self.take_missing(source, now, &mut round);
            // Those with a key come before others with it.
            if self.missing.is_empty() {
                self.give_parked(source, now, &mut round, out);
                self.give_new(source, now, &mut round);
            }
            self.end(round, out);
        }
        self.answer_pulls(now, out);
        if self.changes > CHANGES + self.pending() / 4 {
            self.changes = 0;
            out.push(Effect::Change(Change::State(self.state(now))));
        }
    }

    /// The same but that nothing is given, since it is not known yet where the group goes on.
    pub fn hold(&mut self, now: Time, out: &mut Vec<Effect>) {
        self.more = false;
        self.take_back(now, out);
        self.answer_pulls(now, out);
    }

    fn take_back(&mut self, now: Time, out: &mut Vec<Effect>) {
        while let Some((at, offset)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.remove(&(at, offset));
            self.ready.insert(offset);
        }
        let over: Vec<u128> =
            self.gone.iter().filter(|(_, until)| **until <= now).map(|(who, _)| *who).collect();
        self.gone.retain(|who, _| !over.contains(who));
        let lost =
            |it: &Lease| over.contains(&it.holder) && !self.consumers.contains_key(&it.holder);
        let mut back: Vec<Put> = Vec::new();
        if !over.is_empty() {
            let held = self.leases.iter().filter(|(_, it)| lost(it));
            let none = Some(Duration::ZERO);
            back.extend(held.map(|(offset, _)| self.given_back(*offset, none, None)));
        }
        let ended = self.ends.iter().take_while(|(until, _)| *until <= now);
        let ended = ended.filter(|(_, offset)| !back.iter().any(|it| it.offset == *offset));
        let ended: Vec<Put> =
            ended.map(|(_, offset)| self.given_back(*offset, None, None)).collect();
        back.extend(ended);
        if !back.is_empty() {
            self.make(Change::Parked(back), now, out);
        }
    }

    /// Puts off those that were passed by, as if they had been then.
    fn take_missing(&mut self, source: &impl Source, now: Time, round: &mut Round) {
        while let Some(offset) = self.missing.first().copied() {
            let look = source.look(offset);
            match look {
                Look::Absent => return round.reads(offset),
                Look::Here { wait, key, over: false } => {
                    self.put_off(offset, wait, key, now, round)
                }
                Look::Gone | Look::Here { .. } => drop(self.is_past(offset, look, round)),
            }
            self.missing.pop_first();
        }
    }

    fn give_parked(
        &mut self,
        source: &impl Source,
        now: Time,
        round: &mut Round,
        out: &mut Vec<Effect>,
    ) {
        let mut from = std::mem::take(&mut self.look_from);
        for _ in 0..MOST + LOOK_PAST {
            let Some(offset) = self.ready.range(from..).next().copied() else { return };
            from = offset + 1;
            let Some(parked) = self.parked.get(&offset).copied() else { continue };
            let look = source.look(offset);
            // What goes to another room has to be here.
            if let Some(reason) = parked.dead
                && (self.options.dead_letter.is_none() || matches!(look, Look::Here { .. }))
            {
                self.bury(offset, parked, reason, now, round, out);
                continue;
            }
            if self.is_past(offset, look, round) {
                continue;
            }
            match look {
                Look::Absent | Look::Gone => return round.reads(offset),
                Look::Here { .. } if round.given.len() >= MOST => {
                    self.more = true;
                    return;
                }
                Look::Here { .. } => match self.taker(parked.key) {
                    Some(taker) => self.give(offset, parked.key, taker, now, round),
                    None if parked.key == 0 || !self.has_takers() => return,
                    None => {}
                },
            }
        }
        self.look_from = from;
    }

    fn give_new(&mut self, source: &impl Source, now: Time, round: &mut Round) {
        let top = source.top();
        let mut past = 0;
        while self.next <= top && self.pending() < self.options.max_pending {
            let offset = self.next;
            if past >= LOOK_PAST || round.given.len() >= MOST || round.settled.len() >= MOST {
                // Someone has room, or there would be no more to give.
                self.more = self.has_takers();
                return;
            }
            let look = source.look(offset);
            if self.is_past(offset, look, round) {
                continue;
            }
            match look {
                Look::Absent | Look::Gone if self.has_takers() => return round.reads(offset),
                Look::Absent | Look::Gone => return,
                Look::Here { wait, key, .. } if !wait.is_zero() => {
                    past += 1;
                    self.put_off(offset, wait, key, now, round);
                }
                Look::Here { key, .. } => {
                    let busy = self.keys.contains_key(&key);
                    match self.taker(key).filter(|_| !busy) {
                        Some(taker) => self.give(offset, key, taker, now, round),
                        None if key == 0 || !self.has_takers() => return,
                        None => {
                            past += 1;
                            self.put_off(offset, Duration::ZERO, key, now, round);
                        }
                    }
                }
            }
        }
    }

    /// Whether a message can't be given any more: it is settled then, and counted.
    fn is_past(&mut self, offset: u64, look: Look, round: &mut Round) -> bool {
        match look {
            Look::Gone => self.counts.lost += 1,
            Look::Here { over: true, .. } => self.counts.expired += 1,
            Look::Here { .. } | Look::Absent => return false,
        }
        self.end_one(offset, round);
        true
    }

    fn end_one(&mut self, offset: u64, round: &mut Round) {
        self.settle_one(offset);
        round.settled.push(offset);
    }

    fn put_off(&mut self, offset: u64, wait: Duration, key: u64, now: Time, round: &mut Round) {
        let put = Put { offset, wait: wait.as_millis() as u64, key, dead: None };
        self.park(put, now);
        round.parked.push(put);
    }

    fn bury(
        &mut self,
        offset: u64,
        parked: Parked,
        reason: Reason,
        now: Time,
        round: &mut Round,
        out: &mut Vec<Effect>,
    ) {
        if self.options.dead_letter.is_none() {
            self.counts.dead += 1;
            return self.end_one(offset, round);
        }
        // Only here: another home sends it again, and the room for dead letters knows it.
        self.ready.remove(&offset);
        self.parked.insert(offset, Parked { at: now + DEAD_AGAIN, ..parked });
        self.later.insert((now + DEAD_AGAIN, offset));
        out.push(Effect::Bury { offset, attempts: parked.attempts, reason });
    }

    fn give(&mut self, offset: u64, key: u64, taker: Taker, now: Time, round: &mut Round) {
        self.serial += 1;
        let delivery = Delivery { offset, term: self.term, serial: self.serial };
        let holder = match taker {
            Taker::Consumer(who) => who,
            Taker::Pull(at) => self.pulls[at].who,
        };
        self.lease(delivery, holder, key, now);
        let attempts = self.leases.get(&offset).map_or(1, |it| it.attempts);
        self.counts.delivered += 1;
        self.counts.redelivered += u64::from(attempts > 1);
        let lent = Lent { delivery, attempts };
        match taker {
            Taker::Consumer(who) => round.lent.push((who, lent)),
            Taker::Pull(at) => self.pulls[at].got.push(lent),
        }
        let index = match round.holders.last() {
            Some(last) if *last == holder => round.holders.len() - 1,
            _ => round.holders.iter().position(|it| *it == holder).unwrap_or_else(|| {
                round.holders.push(holder);
                round.holders.len() - 1
            }),
        };
        round.serial.get_or_insert(self.serial);
        round.given.push(Given { offset, holder: index as u32, key });
    }

    fn end(&mut self, round: Round, out: &mut Vec<Effect>) {
        let Round { holders, given, serial, settled, parked, lent, read } = round;
        let term = self.term;
        let leased = serial.map(|serial| Change::Leased { term, serial, holders, given });
        let settled = (!settled.is_empty()).then_some(Change::Settled(settled));
        let parked = (!parked.is_empty()).then_some(Change::Parked(parked));
        // In this order they lead others to the same: what is leased here was never settled or parked after it.
        for change in [settled, parked, leased].into_iter().flatten() {
            self.changes += 1;
            out.push(Effect::Change(change));
        }
        out.extend(lent.into_iter().map(|(who, it)| Effect::Deliver(who, it)));
        out.extend(read.map(Effect::Read));
    }

    fn answer_pulls(&mut self, now: Time, out: &mut Vec<Effect>) {
        let over = |it: &Pull| !it.got.is_empty() || it.until <= now;
        while let Some(at) = self.pulls.iter().position(over) {
            if let Some(pull) = self.pulls.remove(at) {
                out.push(Effect::Pulled(pull.id, pull.got));
            }
        }
    }

    /// Whether anyone has room.
    fn has_takers(&mut self) -> bool {
        self.next_in_turn().is_some() || self.pulls.iter().any(|it| self.wants(it))
    }

    /// The next consumer in turn that has room.
    fn next_in_turn(&mut self) -> Option<u128> {
        if self.options.mode == Mode::Exclusive {
            let holder = self.leases.values().map(|it| it.holder);
            let is_given = |it: &u128| self.consumers.get(it).is_some_and(|it| it.prefetch > 0);
            let holder = holder.into_iter().find(is_given);
            let first = || self.turn.iter().copied().find(is_given);
            let only = holder.or_else(first)?;
            // Whoever is first stays first.
            if self.turn.front() != Some(&only) {
                self.turn.retain(|it| *it != only);
                self.turn.push_front(only);
            }
            return self.consumers.get(&only).is_some_and(Consumer::has_room).then_some(only);
        }
        while let Some(who) = self.turn.front().copied() {
            match self.consumers.get_mut(&who) {
                Some(consumer) if consumer.has_room() => return Some(who),
                Some(consumer) => consumer.in_turn = false,
                None => {}
            }
            self.turn.pop_front();
        }
        None
    }

    /// Who is to get a message with this key now.
    fn taker(&mut self, key: u64) -> Option<Taker> {
        let score = |who: &u128| mix(key ^ mix(*who as u64 ^ (*who >> 64) as u64));
        let given = self.consumers.iter().filter(|(_, it)| key != 0 && it.prefetch > 0);
        if let Some((who, consumer)) = given.max_by_key(|(who, _)| score(who)) {
            return consumer.has_room().then_some(Taker::Consumer(*who));
        }
        if let Some(who) = self.next_in_turn() {
            if self.options.mode != Mode::Exclusive {
                self.turn.rotate_left(1);
            }
            return Some(Taker::Consumer(who));
        }
        let pull = self.pulls.iter().position(|it| self.wants(it))?;
        Some(Taker::Pull(pull))
    }

    /// Whether a pull can have one more.
    fn wants(&self, pull: &Pull) -> bool {
        if self.options.mode == Mode::Exclusive {
            // One has them all: a consumer that they are pushed to, or else whoever has some.
            let is_pushed_to = self.consumers.values().any(|it| it.prefetch > 0);
            let holder = self.leases.values().next().map_or(pull.who, |it| it.holder);
            if is_pushed_to || holder != pull.who {
                return false;
            }
        }
        let has = self.consumers.get(&pull.who).map_or(0, |it| it.leases.len());
        pull.got.len() < pull.most && has < self.options.max_prefetch as usize
    }
}

/// What comes of going through the messages once.
#[derive(Debug, Default)]
struct Round {
    holders: Vec<u128>,
    given: Vec<Given>,
    /// The number of the first lease.
    serial: Option<u64>,
    settled: Vec<u64>,
    parked: Vec<Put>,
    lent: Vec<(u128, Lent)>,
    read: Option<u64>,
}

impl Round {
    fn reads(&mut self, offset: u64) {
        self.read = Some(self.read.map_or(offset, |it| it.min(offset)));
    }
}
