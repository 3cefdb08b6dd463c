//! Looking for damage while there are other copies: a scrub reads all that is kept, a little at a time.
//!
//! What comes in: the time, lists of rooms, and pages. What goes out: what is to be read next, and what is damaged.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    error::Damage,
    read::{MAX_PAGE, Page, Query, RoomInfo},
};

/// Rooms that are listed, and looked at, together.
const ROOMS: usize = 100;
/// Bytes that are read in one step, about.
const BYTES: usize = 1 << 20;

/// What a scrub needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The rooms after this one, at most so many of them.
    List(Option<Arc<str>>, usize),
    /// A page of each of these rooms.
    Read(Vec<(Arc<str>, Query)>),
}

/// How far a scrub is. Times are since any beginning.
#[derive(Debug, Default)]
pub struct Scrub {
    /// When the pass began that is under way.
    begun: Option<Duration>,
    /// When the last one began that is over.
    last: Option<Duration>,
    /// The rooms whose turn is next: after which offset, and bytes of each, about.
    rooms: VecDeque<(Arc<str>, u64, u64)>,
    /// The last room that was listed.
    listed: Option<Arc<str>>,
    /// Answers that are still to come.
    awaited: usize,
}

impl Scrub {
    /// What is to be done now, if anything, where a pass begins every `interval`.
    pub fn next(&mut self, now: Duration, interval: Duration) -> Option<Step> {
        if self.awaited > 0 {
            return None;
        }
        if self.begun.is_none() {
            if self.last.is_some_and(|last| now < last + interval) {
                return None;
            }
            (self.begun, self.listed) = (Some(now), None);
        }
        let (mut reads, mut bytes) = (Vec::new(), 0);
        while bytes < BYTES as u64
            && reads.len() < ROOMS
            && let Some((room, since, weight)) = self.rooms.pop_front()
        {
            bytes += weight;
            let query = Query { since: Some(since), reverse: false, count: MAX_PAGE, bytes: BYTES };
            reads.push((room, query));
        }
        self.awaited = reads.len().max(1);
        Some(match reads.is_empty() {
            true => Step::List(self.listed.clone(), ROOMS),
            false => Step::Read(reads),
        })
    }

    /// Rooms were listed; none: they can't be now. Returns whether the pass is over.
    pub fn listed(&mut self, rooms: Option<Vec<RoomInfo>>) -> bool {
        self.awaited = 0;
        let Some(rooms) = rooms else { return false };
        let Some(last) = rooms.last() else {
            self.last = self.begun.take();
            return true;
        };
        self.listed = Some(last.name.clone());
        let infos = rooms.into_iter().filter(|it| it.first < it.next);
        self.rooms.extend(infos.map(|it| (it.name, it.first.saturating_sub(1), it.bytes)));
        false
    }

    /// A page of this room was read; none: it can't be now. Returns what is damaged.
    pub fn read(&mut self, room: &Arc<str>, page: Option<&Page>) -> Option<Damage> {
        self.awaited = self.awaited.saturating_sub(1);
        let page = page?;
        let damaged = page.damaged;
        let last = damaged.map(|(_, end)| end - 1).or(page.entries.last().map(|it| it.offset))?;
        if last + 1 < page.next {
            self.rooms.push_front((room.clone(), last, BYTES as u64));
        }
        let room = room.to_string();
        damaged.map(|(first, end)| Damage::Publications { room, first, end })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(name: &str, next: u64) -> RoomInfo {
        RoomInfo { name: name.into(), first: 1, next, bytes: 100, newest: 0, headed: true }
    }

    fn page(last: u64, next: u64, damaged: Option<(u64, u64)>) -> Page {
        let entry = |offset| crate::log::Publication { offset, time: 0, bytes: b"x".to_vec() };
        Page { entries: (1..=last).map(entry).collect(), first: 1, next, damaged }
    }

    const HOUR: Duration = Duration::from_secs(3_600);

    /// The rooms that are read next, and after which offsets.
    fn reads(step: Option<Step>) -> Vec<(String, Option<u64>)> {
        let Some(Step::Read(reads)) = step else { panic!("{step:?}") };
        reads.into_iter().map(|(room, query)| (room.to_string(), query.since)).collect()
    }

    #[test]
    fn all_rooms_are_read_to_their_ends_and_damage_is_told_and_passed_by() {
        let (mut scrub, now) = (Scrub::default(), Duration::ZERO);
        assert_eq!(scrub.next(now, HOUR), Some(Step::List(None, ROOMS)));
        assert_eq!(scrub.next(now, HOUR), None, "it waits for the answer");
        assert!(!scrub.listed(Some(vec![info("a", 10), info("empty", 1), info("b", 3)])));
        let next = reads(scrub.next(now, HOUR));
        assert_eq!(next, [("a".into(), Some(0)), ("b".into(), Some(0))]);
        let damage = scrub.read(&"a".into(), Some(&page(4, 10, Some((5, 6)))));
        assert_eq!(damage, Some(Damage::Publications { room: "a".into(), first: 5, end: 6 }));
        assert_eq!(scrub.next(now, HOUR), None);
        assert_eq!(scrub.read(&"b".into(), Some(&page(2, 3, None))), None);
        assert_eq!(reads(scrub.next(now, HOUR)), [("a".into(), Some(5))]);
        // It can't be read now: another pass will.
        assert_eq!(scrub.read(&"a".into(), None), None);
        assert_eq!(scrub.next(now, HOUR), Some(Step::List(Some("b".into()), ROOMS)));
        assert!(scrub.listed(Some(Vec::new())));
    }

    #[test]
    fn a_pass_begins_an_interval_after_the_one_before_and_at_once_if_that_took_longer() {
        let mut scrub = Scrub::default();
        assert!(scrub.next(HOUR, HOUR).is_some());
        assert!(scrub.listed(Some(Vec::new())));
        assert_eq!(scrub.next(HOUR * 2 - Duration::from_secs(1), HOUR), None);
        assert!(scrub.next(HOUR * 2, HOUR).is_some());
        assert!(!scrub.listed(None), "they can't be listed now");
        assert!(scrub.next(HOUR * 2, HOUR).is_some(), "so it is tried again");
        assert!(scrub.listed(Some(Vec::new())));
        assert!(scrub.next(HOUR * 3, HOUR).is_some());
    }

    #[test]
    fn a_step_has_as_many_rooms_as_make_a_mebibyte() {
        let mut scrub = Scrub::default();
        assert!(scrub.next(HOUR, HOUR).is_some());
        let large = |number: u64| RoomInfo { bytes: 400 << 10, ..info(&number.to_string(), 9) };
        scrub.listed(Some((0..5).map(large).collect()));
        assert_eq!(reads(scrub.next(HOUR, HOUR)).len(), 3);
    }
}
