//! What every client has had of every room, and what it should have had. Pure.
//!
//! In: subscriptions, deliveries, publications taken. Out: [`Totals`]. In a room with positions everything is
//! counted by offsets, so a gap is seen where it is, and what a client misses while it is away is known to be
//! recovered or lost. Without positions deliveries are counted, as long as no client goes away.

use crate::dialect::{Answer, Since};

/// Everything that clients had.
#[derive(Debug, Default)]
pub struct Book {
    rooms: Vec<Room>,
    /// What each client is subscribed to.
    clients: Vec<Vec<Entry>>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct Room {
    epoch: Option<String>,
    /// The offset before the first publication of ours.
    base: u64,
    taken: u64,
    top: u64,
}

/// A client in a room.
#[derive(Clone, Debug, Default)]
struct Entry {
    room: usize,
    subscribed: bool,
    /// The last offset it has had.
    last: u64,
    /// Deliveries, in a room without positions.
    received: u64,
}

/// What it comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Publications that clients received as they were published.
    pub delivered: u64,
    /// Publications that they recovered after they had been away.
    pub recovered: u64,
    /// Publications that they should have had and didn't.
    pub lost: u64,
    /// Publications that they missed while away, and were told of (`recovered: false`).
    pub told: u64,
    /// Publications that came again.
    pub repeated: u64,
}

impl Book {
    /// Clients, each with the numbers of its rooms.
    pub fn new(rooms: usize, clients: impl Iterator<Item = Vec<usize>>) -> Self {
        let entry = |room| Entry { room, ..Entry::default() };
        Self {
            rooms: (0..rooms).map(|_| Room::default()).collect(),
            clients: clients.map(|rooms| rooms.into_iter().map(entry).collect()).collect(),
            totals: Totals::default(),
        }
    }

    /// The rooms of a client, and where it is in them.
    pub fn rooms_of(&self, client: usize) -> impl Iterator<Item = (usize, Option<Since>)> {
        self.clients[client].iter().map(|entry| {
            let epoch = self.rooms[entry.room].epoch.clone().filter(|_| entry.subscribed);
            (entry.room, epoch.map(|epoch| Since { epoch, offset: entry.last }))
        })
    }

    /// A client's subscription number `index` was answered.
    pub fn subscribed(&mut self, client: usize, index: usize, answer: &Answer) {
        let Some(entry) = self.clients[client].get_mut(index) else { return };
        let room = &mut self.rooms[entry.room];
        let Some(Since { epoch, offset }) = &answer.position else {
            entry.subscribed = true;
            return;
        };
        if room.epoch.is_none() {
            (room.base, room.top) = (*offset, *offset);
        }
        if entry.subscribed && room.epoch.is_some() {
            let missed = offset.saturating_sub(entry.last);
            let known =
                if answer.recovered { &mut self.totals.recovered } else { &mut self.totals.told };
            *known += missed;
        }
        if room.epoch.as_ref() != Some(epoch) {
            room.epoch = Some(epoch.clone());
        }
        (entry.subscribed, entry.last) = (true, *offset);
        room.top = room.top.max(*offset);
    }

    /// A client received a publication of a room, at this offset if it has one.
    pub fn delivered(&mut self, client: usize, room: usize, offset: Option<u64>) {
        let Some(entry) = self.clients[client].iter_mut().find(|entry| entry.room == room) else {
            return;
        };
        let Some(offset) = offset else {
            entry.received += 1;
            self.totals.delivered += 1;
            return;
        };
        if offset <= entry.last {
            self.totals.repeated += 1;
            return;
        }
        self.totals.lost += offset - entry.last - 1;
        self.totals.delivered += 1;
        entry.last = offset;
        let room = &mut self.rooms[room];
        room.top = room.top.max(offset);
    }

    /// The server has taken a publication.
    pub fn taken(&mut self, room: usize) {
        let room = &mut self.rooms[room];
        room.taken += 1;
        room.top = room.top.max(if room.epoch.is_some() { room.base + room.taken } else { 0 });
    }

    /// What there is so far, without what is on its way.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Publications that clients of rooms like these have yet to receive. `count_all` says that no client has
    /// been away, so that rooms without positions count.
    pub fn missing(&self, count_all: bool) -> u64 {
        let missing = |entry: &Entry| {
            let room = &self.rooms[entry.room];
            match room.epoch {
                Some(_) => room.top.saturating_sub(entry.last),
                None if count_all => room.taken.saturating_sub(entry.received),
                None => 0,
            }
        };
        self.clients.iter().flatten().map(missing).sum()
    }

    /// Whether some room has no positions.
    pub fn has_rooms_without_positions(&self) -> bool {
        self.rooms.iter().any(|room| room.epoch.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64, recovered: bool) -> Answer {
        let position = Some(Since { epoch: "e".to_owned(), offset });
        Answer { pong: false, recovered, position }
    }

    fn book() -> Book {
        let mut book = Book::new(1, [vec![0], vec![0]].into_iter());
        book.subscribed(0, 0, &at(5, false));
        book.subscribed(1, 0, &at(5, false));
        book
    }

    #[test]
    fn a_gap_is_a_loss_and_a_repeat_is_none() {
        let mut book = book();
        (0..3).for_each(|_| book.taken(0));
        let deliveries = [(0, 6), (0, 8), (0, 8), (1, 6), (1, 7), (1, 8)];
        deliveries.into_iter().for_each(|(client, at)| book.delivered(client, 0, Some(at)));
        let expected = Totals { delivered: 5, lost: 1, repeated: 1, ..Totals::default() };
        assert_eq!((book.totals(), book.missing(true)), (expected, 0));
    }

    #[test]
    fn what_was_taken_and_reached_no_one_is_missing() {
        let mut book = book();
        (0..3).for_each(|_| book.taken(0));
        assert_eq!(book.missing(false), 6);
    }

    #[test]
    fn what_is_missed_while_away_is_recovered_or_told() {
        let mut book = book();
        (0..4).for_each(|_| book.taken(0));
        let since = Since { epoch: "e".to_owned(), offset: 5 };
        assert_eq!(book.rooms_of(0).collect::<Vec<_>>(), [(0, Some(since))]);
        book.subscribed(0, 0, &at(9, true));
        book.subscribed(1, 0, &at(9, false));
        let expected = Totals { recovered: 4, told: 4, ..Totals::default() };
        assert_eq!((book.totals(), book.missing(true)), (expected, 0));
    }

    #[test]
    fn rooms_without_positions_are_counted() {
        let mut book = Book::new(2, [vec![0, 1]].into_iter());
        book.subscribed(0, 0, &Answer::default());
        book.subscribed(0, 1, &Answer::default());
        book.taken(0);
        book.taken(1);
        book.delivered(0, 1, None);
        assert_eq!((book.missing(true), book.missing(false)), (1, 0));
        assert!(book.has_rooms_without_positions());
    }
}
