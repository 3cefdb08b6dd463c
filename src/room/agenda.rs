//! When each room is due, which rooms nobody uses, and how many would lose something if the node left now.

use std::{collections::BTreeSet, time::Duration};

use super::{node::Node, room::Room, types::RoomName};
use crate::runtime::time::Time;

/// A room that is due and still is after settling comes up again after this.
const NOT_YET: Duration = Duration::from_millis(50);

/// What is to become of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It stays in memory.
    Stays,
    /// Nobody uses it, and it can be read from disk again.
    Sleeps,
    /// It is forgotten.
    Over,
}

/// What a node notes of its rooms, so that it need not look through them.
#[derive(Debug, Default)]
pub struct Agenda {
    /// Which room is due when, as said by [`Room::next_due`] when it was last asked.
    due: BTreeSet<(Time, RoomName)>,
    /// The rooms that nobody uses, by when they were used last.
    idle: BTreeSet<(Time, RoomName)>,
    /// Rooms that would lose something if the node left now.
    pub to_be_taken: usize,
    /// Rooms at home here whose acknowledgements do without a successor.
    pub behind: usize,
}

impl Agenda {
    /// Takes note of a room after something has happened in it. Returns what is to become of it.
    pub fn note(&mut self, room: &mut Room, node: &mut Node) -> Fate {
        if room.is_over(node) {
            return Fate::Over;
        }
        let to_be_taken = room.is_to_be_taken();
        let noted = std::mem::replace(&mut room.noted_to_be_taken, to_be_taken);
        self.to_be_taken += usize::from(to_be_taken);
        self.to_be_taken -= usize::from(noted);
        let behind = room.is_behind();
        let noted = std::mem::replace(&mut room.noted_behind, behind);
        self.behind += usize::from(behind);
        self.behind -= usize::from(noted);
        let moves = room.is_moving();
        let noted = std::mem::replace(&mut room.noted_moving, moves);
        match (noted, moves) {
            (false, true) => node.moves.begin(node.now),
            (true, false) => node.moves.end(node.now),
            _ => {}
        }
        let idle = room.idle_since();
        if idle != room.noted_idle {
            if let Some(since) = std::mem::replace(&mut room.noted_idle, idle) {
                self.idle.remove(&(since, room.name.clone()));
            }
            self.idle.extend(idle.map(|since| (since, room.name.clone())));
        }
        let sleeps = room.dormant_due(node);
        // A room may come up earlier than needed, so only an earlier time has to be noted.
        let next = room.next_due(node);
        if let Some(next) = sleeps.filter(|at| *at > node.now).into_iter().chain(next).min()
            && room.due.is_none_or(|due| next < due)
        {
            self.set_due(room, next);
        }
        match sleeps {
            Some(at) if at <= node.now => Fate::Sleeps,
            _ => Fate::Stays,
        }
    }

    fn set_due(&mut self, room: &mut Room, at: Time) {
        if let Some(due) = room.due.replace(at) {
            self.due.remove(&(due, room.name.clone()));
        }
        self.due.insert((at, room.name.clone()));
    }

    /// A room that has just settled is not due again at once.
    pub fn not_before(&mut self, room: &mut Room, now: Time) {
        if room.due.is_some_and(|due| due <= now) {
            self.set_due(room, now + NOT_YET);
        }
    }

    /// When the first room is due.
    pub fn next_due(&self) -> Option<Time> {
        self.due.first().map(|(due, _)| *due)
    }

    /// A room that is due.
    pub fn pop_due(&mut self, now: Time) -> Option<RoomName> {
        self.due.first().filter(|(due, _)| *due <= now)?;
        self.due.pop_first().map(|(_, room)| room)
    }

    /// The room that nobody has used for the longest.
    pub fn longest_idle(&self) -> Option<RoomName> {
        self.idle.first().map(|(_, room)| room.clone())
    }

    /// The node forgets a room.
    pub fn forget(&mut self, room: &Room, node: &mut Node) {
        if let Some(due) = room.due {
            self.due.remove(&(due, room.name.clone()));
        }
        if let Some(since) = room.noted_idle {
            self.idle.remove(&(since, room.name.clone()));
        }
        self.to_be_taken -= usize::from(room.noted_to_be_taken);
        self.behind -= usize::from(room.noted_behind);
        if room.noted_moving {
            node.moves.end(node.now);
        }
    }

    /// How many rooms are idle, and how many are due at some time.
    #[cfg(test)]
    pub fn lens(&self) -> (usize, usize) {
        (self.idle.len(), self.due.len())
    }
}
