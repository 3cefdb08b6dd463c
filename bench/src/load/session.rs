//! The clients of a load: connect, publish at the rate, cut and redial clients, wait for what is on its way.

use super::book::Book;
use super::outcome::{Outcome, Progress};
use super::{Load, LoadArgs, SMALLEST, Servers};
use crate::conn::{Care, Heard};
use crate::dialect::{self, Dialect, Meaning, Wanted, Who};
use crate::fleet::{Fleet, OPENING_AT_ONCE, time_left};
use crate::http;
use crate::publisher::FIRST_ID;
use anyhow::{Result, bail};
use memchr::memmem;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Without any progress for this long, what is missing counts as lost.
const GRACE: Duration = Duration::from_secs(5);
/// How long a client that the server has closed stays away.
const BACKOFF: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Clients and publishers that are connected.
pub struct Session<'a> {
    args: &'a LoadArgs,
    servers: Servers,
    dialect: &'static dyn Dialect,
    fleet: Fleet,
    book: Book,
    outcome: Outcome,
    progress: Progress,
    start: Instant,
    /// Publications sent so far; they take turns in rooms and publishers.
    sent: u64,
    /// For every publisher, the rooms of publications that are not acked yet, oldest first.
    unacked: Vec<VecDeque<usize>>,
    refused: Option<String>,
    /// Clients that are to be dialed, from when on.
    absent: VecDeque<(Instant, usize)>,
    /// Clients in their set-up.
    opening: Vec<usize>,
    /// Clients that the server has closed since this was last looked at.
    closed: Vec<usize>,
    /// Since when all clients are on their way back.
    storm: Option<Instant>,
}

impl<'a> Session<'a> {
    /// The connections.
    pub fn fleet(&mut self) -> &mut Fleet {
        &mut self.fleet
    }

    /// What came of it.
    pub fn load(&self) -> Load {
        self.outcome.load(self.args, &self.book)
    }

    /// Connects every client and every publisher.
    pub fn connect(args: &'a LoadArgs) -> Result<Self> {
        let servers = Servers::new(args)?;
        let (rooms, each) = (args.rooms as usize, args.rooms_per_client as usize);
        let rooms_of = |client: usize| (0..each).map(move |nth| (client * each + nth) % rooms);
        let clients = args.clients as usize;
        let book = Book::new(rooms, (0..clients).map(|client| rooms_of(client).collect()));
        let mut session = Self {
            dialect: args.protocol.dialect(),
            servers,
            fleet: Fleet::new()?,
            book,
            outcome: Outcome::new()?,
            progress: Progress::new(args.quiet),
            start: Instant::now(),
            sent: 0,
            unacked: vec![VecDeque::new(); args.publishers as usize],
            refused: None,
            absent: VecDeque::new(),
            opening: Vec::new(),
            closed: Vec::new(),
            storm: None,
            args,
        };
        session.progress.connecting(u64::from(args.clients));
        // In parts, so that the bar moves.
        let step = (clients / 100).max(1);
        for first in (0..clients).step_by(step) {
            let plans: Vec<_> =
                (first..clients.min(first + step)).map(|client| session.plan(client)).collect();
            session.open(plans)?;
            session.progress.connected(session.fleet.counts().live as u64);
        }
        session.outcome.connected_in = session.start.elapsed();
        let publishers = (0..args.publishers as usize).map(|publisher| match args.api_key {
            Some(_) => Arc::new(session.servers.api(publisher)),
            None => {
                let who = Who { rooms: Vec::new(), token: args.token.clone(), data: None };
                Arc::new(session.servers.plan(publisher, who, Care::Need))
            }
        });
        let publishers: Vec<_> = publishers.collect();
        session.open(publishers)?;
        session.start = Instant::now();
        Ok(session)
    }

    fn open(&mut self, plans: Vec<Arc<crate::conn::Plan>>) -> Result<()> {
        let Self { fleet, book, .. } = self;
        let clients = self.args.clients as usize;
        let mut first_close = None;
        let opened = fleet.open_each_hearing(plans.into_iter(), |id, heard| match heard {
            Heard::Subscribed(index, answer) if id < clients => book.subscribed(id, index, answer),
            Heard::Closed(why) => {
                first_close.get_or_insert_with(|| format!("{why:#}"));
            }
            _ => {}
        });
        match (opened, first_close) {
            (Err(error), Some(why)) if self.args.token.is_none() => {
                Err(error.context(format!("{why} (does the server want a token? Give --token)")))
            }
            (Err(error), Some(why)) => Err(error.context(why)),
            (opened, _) => opened.map(|_| ()),
        }
    }

    /// How client `client` connects, where it left off.
    fn plan(&self, client: usize) -> Arc<crate::conn::Plan> {
        let prefix = &self.args.room_prefix;
        let rooms = self.book.rooms_of(client);
        let rooms = rooms.map(|(room, since)| Wanted { room: format!("{prefix}{room}"), since });
        let who = Who { rooms: rooms.collect(), token: self.args.token.clone(), data: None };
        Arc::new(self.servers.plan(client, who, Care::Hear))
    }

    /// Publishes at the rate, whatever the answers, while clients come and go.
    pub fn publish(&mut self) -> Result<()> {
        let args = self.args;
        let total = Duration::from_secs(args.seconds.into());
        let every = |per_second: u32| (per_second > 0).then(|| Duration::from_secs(1) / per_second);
        let mut churn = Ticks::new(every(args.churn));
        let storm = Duration::from_secs(args.storm_every.into());
        let mut storm = Ticks::new((!storm.is_zero()).then_some(storm));
        let mut publications = Ticks::new(every(args.rate));
        let mut victims = (0..args.clients as usize).cycle();
        self.progress.running(total);
        self.start = Instant::now();
        loop {
            let now = self.start.elapsed();
            if now >= total {
                return Ok(());
            }
            while let Some(due) = publications.take(now) {
                self.publish_one(due)?;
            }
            while churn.take(now).is_some() {
                self.cut(victims.next().unwrap_or(0));
            }
            if storm.take(now).is_some() {
                (0..args.clients as usize).for_each(|client| self.cut(client));
                self.storm = Some(Instant::now());
            }
            let next = [publications.next, churn.next, storm.next, Some(total)];
            let next = next.into_iter().flatten().min().unwrap_or(total);
            self.turn(next.saturating_sub(self.start.elapsed()))?;
        }
    }

    fn publish_one(&mut self, due: Duration) -> Result<()> {
        let room = (self.sent % u64::from(self.args.rooms)) as usize;
        let publisher = (self.sent % u64::from(self.args.publishers)) as usize;
        let size = self.outcome.size(self.args.size.from, self.args.size.to);
        // Stamped with when it was due: a generator that is late shows as latency.
        let data = payload(size, due, room);
        let name = format!("{}{room}", self.args.room_prefix);
        let command = match &self.args.api_key {
            None => {
                let id = FIRST_ID.wrapping_add(self.sent as u32);
                self.dialect.publish(id, &name, &data)
            }
            Some(key) => {
                let server = self.servers.of(publisher).url.address;
                http::publish_request(&server.to_string(), key, &name, &data)
            }
        };
        self.sent += 1;
        self.outcome.published += 1;
        self.unacked[publisher].push_back(room);
        self.fleet.send(self.args.clients as usize + publisher, &command)
    }

    /// A client loses its connection, and comes back at once.
    fn cut(&mut self, client: usize) {
        if self.fleet.is_live(client) {
            self.fleet.cut(client);
            self.outcome.cut += 1;
            self.absent.push_back((Instant::now(), client));
        }
    }

    /// Listens for at most `timeout`, and dials for those who are absent.
    fn turn(&mut self, timeout: Duration) -> Result<()> {
        self.listen(timeout.min(LOOK_AGAIN))?;
        for client in std::mem::take(&mut self.closed) {
            self.opening.retain(|it| *it != client);
            self.absent.push_back((Instant::now() + BACKOFF, client));
        }
        let fleet = &self.fleet;
        self.opening.retain(|client| !fleet.is_live(*client));
        let mut later = VecDeque::new();
        while self.opening.len() < OPENING_AT_ONCE
            && let Some((from, client)) = self.absent.pop_front()
        {
            if time_left(from).is_some() {
                later.push_back((from, client));
                continue;
            }
            let plan = self.plan(client);
            self.fleet.redial(client, plan)?;
            self.opening.push(client);
        }
        self.absent.append(&mut later);
        if self.everyone_is_here()
            && let Some(since) = self.storm.take()
        {
            self.outcome.storms.push(since.elapsed());
        }
        if let Some(answer) = &self.refused {
            bail!(
                "the server refused a publication: {answer}. May clients publish there \
                 (allow_publish_for_client)? Or give --api-key to publish by the server API"
            );
        }
        let live = self.fleet.counts().live as u64;
        let (args, totals) = (self.args, self.book.totals());
        self.progress.tick(
            self.start,
            live.saturating_sub(args.publishers.into()),
            totals,
            &self.outcome,
        );
        Ok(())
    }

    fn everyone_is_here(&self) -> bool {
        self.opening.is_empty() && self.absent.is_empty()
    }

    fn listen(&mut self, timeout: Duration) -> Result<()> {
        let Self { fleet, book, outcome, unacked, refused, closed, dialect, start, .. } = self;
        let clients = self.args.clients as usize;
        fleet.listen(timeout, |id, heard| match heard {
            Heard::Subscribed(index, answer) if id < clients => book.subscribed(id, index, answer),
            Heard::Closed(why) => {
                outcome.closed(why);
                closed.push(id);
            }
            Heard::Message(message) if id < clients => {
                if let Some((due, room)) = read_payload(message) {
                    book.delivered(id, room, dialect.offset(message));
                    outcome.latency(start.elapsed().saturating_sub(due));
                }
            }
            Heard::Message(message) | Heard::Response(message) => {
                let publisher = id - clients;
                let meaning = match heard {
                    Heard::Response(_) => dialect::Protocol::Json.dialect().meaning(message),
                    _ => dialect.meaning(message),
                };
                match meaning {
                    Meaning::Ack => {
                        if let Some(room) = unacked[publisher].pop_front() {
                            book.taken(room);
                            outcome.acked += 1;
                        }
                    }
                    Meaning::Refusal => {
                        refused
                            .get_or_insert_with(|| String::from_utf8_lossy(message).into_owned());
                    }
                    Meaning::Ping | Meaning::Delivery | Meaning::Unsubscribed | Meaning::Other => {}
                }
            }
            Heard::Subscribed(..) => {}
        })
    }

    /// Waits until everyone has everything, or nothing more comes.
    pub fn drain(&mut self) -> Result<()> {
        let stayed = self.outcome.cut == 0 && self.outcome.closed == 0;
        let left = |session: &Self| {
            let unacked: usize = session.unacked.iter().map(VecDeque::len).sum();
            session.book.missing(stayed) + unacked as u64
        };
        let (mut before, mut deadline) = (left(self), Instant::now() + GRACE);
        while (before > 0 || !self.everyone_is_here()) && time_left(deadline).is_some() {
            self.turn(LOOK_AGAIN)?;
            let now = left(self);
            if now != before {
                (before, deadline) = (now, Instant::now() + GRACE);
            }
        }
        self.outcome.finish(self.start, self.book.missing(stayed), stayed);
        self.progress.done();
        Ok(())
    }
}

/// Moments that come at equal distances.
struct Ticks {
    every: Option<Duration>,
    number: u32,
    next: Option<Duration>,
}

impl Ticks {
    fn new(every: Option<Duration>) -> Self {
        Self { every, number: 1, next: every }
    }

    /// The next moment, if `now` is not before it.
    fn take(&mut self, now: Duration) -> Option<Duration> {
        let due = self.next.filter(|next| *next <= now)?;
        self.number += 1;
        self.next = self.every.map(|every| every * self.number);
        Some(due)
    }
}

/// JSON of `size` bytes that says when it was due and to which room it was published.
fn payload(size: u32, due: Duration, room: usize) -> String {
    let due = u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
    let mut data = format!(r#"{{"t":{due},"r":{room},"p":""#);
    let padding = (size.max(SMALLEST) as usize).saturating_sub(data.len() + 2);
    data.extend(std::iter::repeat_n('x', padding));
    data.push_str("\"}");
    data
}

/// When a message's payload was due, and its room.
fn read_payload(message: &[u8]) -> Option<(Duration, usize)> {
    let start = memmem::find(message, b"{\"t\":")? + 5;
    let due = dialect::digits(&message[start..])?;
    let room = start + memmem::find(&message[start..], b",\"r\":")? + 5;
    let room = dialect::digits(&message[room..])?;
    Some((Duration::from_nanos(due), usize::try_from(room).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_size_and_are_read_again() {
        for (size, due, room) in [(80, 0, 0), (128, 7, 3), (4096, u64::MAX, 999_999)] {
            let data = payload(size, Duration::from_nanos(due), room);
            assert_eq!(data.len(), size as usize);
            let push = format!(r#"{{"push":{{"channel":"r","pub":{{"data":{data}}}}}}}"#);
            let read = read_payload(push.as_bytes());
            assert_eq!(read, Some((Duration::from_nanos(due), room)));
        }
        assert_eq!(read_payload(br#"{"t":"x"}"#), None);
    }

    #[test]
    fn ticks_come_as_often_as_they_should_also_after_a_pause() {
        let mut ticks = Ticks::new(Some(Duration::from_millis(10)));
        assert_eq!(ticks.take(Duration::from_millis(9)), None);
        let mut taken = Vec::new();
        while let Some(due) = ticks.take(Duration::from_millis(35)) {
            taken.push(due.as_millis());
        }
        assert_eq!(taken, [10, 20, 30]);
        assert_eq!(Ticks::new(None).take(Duration::from_secs(9)), None);
    }
}
