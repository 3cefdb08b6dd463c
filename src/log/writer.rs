//! SHELL. The thread that writes a log, and one that reads it.
//!
//! What comes in: [`Request`]s, whose ops are written together with all that wait (group commit: one write and one
//! sync for all of them); and [`Query`]s. What goes out: a call of each request's `done`, once it is synced or was
//! refused. When nothing waits, retention does some work; it does as well every now and then when something does.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use super::{
    Damage, Op, Options, Page, Plan, Policy, Progress, Query, ReadError, Refusal, RoomInfo, Stats,
    Store, WriteError, disk::Directory,
};

/// Requests that may wait.
const WAITING: usize = 65_536;
/// Bytes of a batch, about.
const BATCH: usize = 1 << 20;
/// How long nothing has to be asked before there is time for retention.
const IDLE: Duration = Duration::from_millis(20);
/// While there are always requests, retention gets a turn after so many batches.
const TURN: u32 = 16;
/// After a round of retention, the next one begins so much later.
const REST: Duration = Duration::from_secs(5);

/// Something to be written about one room.
#[derive(Debug, Clone)]
pub enum Change {
    /// See [`Op::Head`].
    Head(Bytes),
    /// See [`Op::Append`]: offset, time, and what was published.
    Append(u64, u64, Bytes),
    /// See [`Op::Trim`].
    Trim(u64),
    /// See [`Op::Truncate`].
    Truncate(u64),
    /// See [`Op::Repair`].
    Repair(u64, u64, Bytes),
    /// See [`Op::Remove`].
    Remove,
}

impl Change {
    fn op<'a>(&'a self, room: &'a str) -> Op<'a> {
        match self {
            Self::Head(bytes) => Op::Head { room, bytes },
            Self::Append(offset, time, bytes) => {
                Op::Append { room, offset: *offset, time: *time, bytes }
            }
            Self::Trim(first) => Op::Trim { room, first: *first },
            Self::Truncate(last) => Op::Truncate { room, last: *last },
            Self::Repair(offset, time, bytes) => {
                Op::Repair { room, offset: *offset, time: *time, bytes }
            }
            Self::Remove => Op::Remove { room },
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Head(bytes) | Self::Append(_, _, bytes) | Self::Repair(_, _, bytes) => {
                bytes.len() + 128
            }
            _ => 128,
        }
    }
}

/// Called once, with how it ended.
pub type Done<T> = Box<dyn FnOnce(T) + Send>;

/// What is to be written together, all or nothing.
pub struct Request {
    /// The room.
    pub room: Arc<str>,
    /// What is to be written.
    pub changes: Vec<Change>,
    /// Called once it is synced, or was refused.
    pub done: Done<Result<(), WriteError>>,
}

impl fmt::Debug for Request {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Request").field("room", &self.room).finish_non_exhaustive()
    }
}

enum Ask {
    Write(Request),
    Read(Arc<str>, Query, Done<Result<Page, ReadError>>),
    Rooms(Option<Arc<str>>, usize, Done<Result<Vec<RoomInfo>, ReadError>>),
    Look(Arc<str>, Query, Done<Result<Page, ReadError>>),
    Head(Arc<str>, Done<Result<Option<Vec<u8>>, ReadError>>),
    State(Done<(Stats, Vec<Damage>)>),
    Close(Done<Result<(), WriteError>>),
}

/// What waits has one of the [`WAITING`] places. (A bounded channel would take memory for all of them at once.)
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(waiting: &Arc<AtomicUsize>) -> Result<Self, Behind> {
        let place = Self(waiting.clone());
        match waiting.fetch_add(1, Ordering::Relaxed) < WAITING {
            true => Ok(place),
            false => Err(Behind),
        }
    }

    /// One beside those.
    fn extra(waiting: &Arc<AtomicUsize>) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The thread that writes a log. The last one that is dropped ends it, without a last sync.
#[derive(Debug)]
pub struct Writer {
    asks: Sender<(Place, Ask)>,
    waiting: Arc<AtomicUsize>,
    /// The writing one, then the reading one, which ends after it.
    threads: [JoinHandle<()>; 2],
}

/// Too much waits already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log is behind with writing: try again later")]
pub struct Behind;

impl Writer {
    /// Begins to write and read. What is written is synced before it is said to be done, or if there is an interval,
    /// so often.
    pub fn start(
        store: Store<Directory>,
        directory: Directory,
        options: Options,
        sync_interval: Option<Duration>,
        policy: impl Policy + Send + 'static,
    ) -> Self {
        let ((asks, asked), (plans, planned)) = (channel(), channel());
        let files = directory.clone();
        let reading = thread::spawn(move || read(&files, &planned));
        let work = Work {
            store,
            directory,
            options,
            sync_interval,
            synced: SystemTime::now(),
            plans,
            policy,
            rested: None,
        };
        let writing = thread::spawn(move || work.run(&asked));
        Self { asks, waiting: Arc::default(), threads: [writing, reading] }
    }

    fn ask(&self, ask: Ask) -> Result<(), Behind> {
        let place = Place::take(&self.waiting)?;
        self.asks.send((place, ask)).map_err(|_| Behind)
    }

    /// Writes and syncs.
    pub fn write(&self, request: Request) -> Result<(), Behind> {
        self.ask(Ask::Write(request))
    }

    /// Reads a page.
    pub fn read(
        &self,
        room: Arc<str>,
        query: Query,
        done: Done<Result<Page, ReadError>>,
    ) -> Result<(), Behind> {
        self.ask(Ask::Read(room, query, done))
    }

    /// Lists rooms: see [`Store::rooms`].
    pub fn rooms(
        &self,
        after: Option<Arc<str>>,
        limit: usize,
        done: Done<Result<Vec<RoomInfo>, ReadError>>,
    ) -> Result<(), Behind> {
        self.ask(Ask::Rooms(after, limit, done))
    }

    /// Reads a page of a room that nobody uses, for all that it matters.
    pub fn look(
        &self,
        room: Arc<str>,
        query: Query,
        done: Done<Result<Page, ReadError>>,
    ) -> Result<(), Behind> {
        self.ask(Ask::Look(room, query, done))
    }

    /// Reads what else is known of a room.
    pub fn head(
        &self,
        room: Arc<str>,
        done: Done<Result<Option<Vec<u8>>, ReadError>>,
    ) -> Result<(), Behind> {
        self.ask(Ask::Head(room, done))
    }

    /// What it has done, and the damage that was found since this was last asked.
    pub fn state(&self, done: Done<(Stats, Vec<Damage>)>) -> Result<(), Behind> {
        self.ask(Ask::State(done))
    }

    /// Writes what waits, and ends. Blocks until then.
    pub fn close(self) -> Result<(), WriteError> {
        let (told, answer) = channel();
        let done = Box::new(move |closed| _ = told.send(closed));
        // If the thread has gone, there is no answer.
        let _ = self.asks.send((Place::extra(&self.waiting), Ask::Close(done)));
        let closed = answer.recv();
        // Then nobody holds the directory any more.
        self.threads.into_iter().for_each(|it| _ = it.join());
        closed.unwrap_or_else(|_| Err(WriteError::Closed { why: "its thread has ended".into() }))
    }
}

type Planned = (Place, Plan, Done<Result<Page, ReadError>>);

/// Reads pages while the other thread writes on.
fn read(directory: &Directory, planned: &Receiver<Planned>) {
    while let Ok((_place, plan, done)) = planned.recv() {
        done(plan.read(directory));
    }
}

struct Work<P> {
    store: Store<Directory>,
    /// To open it again with.
    directory: Directory,
    options: Options,
    sync_interval: Option<Duration>,
    /// When it was synced last, if there is an interval.
    synced: SystemTime,
    plans: Sender<Planned>,
    policy: P,
    /// When the last round of retention ended.
    rested: Option<SystemTime>,
}

impl<P: Policy> Work<P> {
    fn run(mut self, asked: &Receiver<(Place, Ask)>) {
        let (mut requests, mut batches) = (Vec::new(), 0u32);
        loop {
            match asked.recv_timeout(IDLE) {
                Ok((_, Ask::Close(done))) => return done(self.store.close()),
                Ok((place, ask)) => self.take(place, ask, &mut requests),
                Err(RecvTimeoutError::Timeout) => {
                    self.sync_now_and_then();
                    self.retain();
                    continue;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let mut closing = None;
            let mut size = 0;
            while size < BATCH
                && let Ok((place, ask)) = asked.try_recv()
            {
                if let Ask::Close(done) = ask {
                    closing = Some(done);
                    break;
                }
                self.take(place, ask, &mut requests);
                let changes = requests.last().map(|it| it.changes.iter().map(Change::size).sum());
                size += changes.unwrap_or(0);
            }
            self.write(&mut requests);
            self.sync_now_and_then();
            batches += 1;
            if batches % TURN == 0 {
                self.retain();
            }
            if let Some(done) = closing {
                return done(self.store.close());
            }
        }
    }

    fn take(&mut self, place: Place, ask: Ask, requests: &mut Vec<Request>) {
        match ask {
            Ask::Write(request) => requests.push(request),
            Ask::Read(room, query, done) => {
                let plan = self.store.plan(&room, &query);
                self.read_as_planned(place, plan, done);
            }
            Ask::Look(room, query, done) => {
                let plan = self.store.plan_apart(&room, &query);
                self.read_as_planned(place, plan, done);
            }
            Ask::Rooms(after, limit, done) => done(self.store.rooms(after.as_deref(), limit)),
            Ask::Head(room, done) => done(self.store.head(&room)),
            Ask::State(done) => done((self.store.stats(), self.store.take_damage())),
            Ask::Close(_) => {}
        }
    }

    fn read_as_planned(
        &self,
        place: Place,
        plan: Result<Plan, ReadError>,
        done: Done<Result<Page, ReadError>>,
    ) {
        match plan {
            Ok(plan) => _ = self.plans.send((place, plan, done)),
            Err(error) => done(Err(error)),
        }
    }

    /// Writes all that wait in one batch. What is refused is taken out of it, and the rest is tried again.
    fn write(&mut self, requests: &mut Vec<Request>) {
        while !requests.is_empty() {
            let ops: Vec<Op<'_>> = requests
                .iter()
                .flat_map(|it| it.changes.iter().map(|change| change.op(&it.room)))
                .collect();
            let written = self.store.commit(&ops);
            let written = match self.sync_interval {
                None => written.and_then(|()| self.store.sync()),
                Some(_) => written,
            };
            match written {
                Err(WriteError::Closed { why }) => {
                    self.open_again();
                    let closed = Err(WriteError::Closed { why });
                    requests.drain(..).for_each(|it| (it.done)(closed.clone()));
                }
                Err(WriteError::Refused { op, refusal: Refusal::TooLarge { .. }, .. })
                    if owner(requests, op) > 0 =>
                {
                    // Only together.
                    let rest = requests.split_off(owner(requests, op));
                    self.write(requests);
                    *requests = rest;
                }
                Err(WriteError::Refused { op, room, refusal }) => {
                    let place = owner(requests, op);
                    let request = requests.remove(place);
                    (request.done)(Err(WriteError::Refused { op, room, refusal }));
                }
                other => requests.drain(..).for_each(|it| (it.done)(other.clone())),
            }
        }
    }

    /// If there is an interval, and it is over.
    fn sync_now_and_then(&mut self) {
        let Some(interval) = self.sync_interval else { return };
        let now = SystemTime::now();
        if now.duration_since(self.synced).is_ok_and(|it| it < interval) {
            return;
        }
        self.synced = now;
        if self.store.sync().is_err() {
            self.open_again();
        }
    }

    /// After a failed sync nobody knows what is on the disk, so whoever waited writes it again: into a new segment,
    /// since what can be read of the old one may be in memory only. If that fails too, the next write tries again.
    fn open_again(&mut self) {
        let opened = Store::open(self.directory.clone(), self.options.clone(), 0);
        if let Ok((mut store, _)) = opened
            && store.roll().is_ok()
        {
            self.store = store;
        }
    }

    fn retain(&mut self) {
        let now = SystemTime::now();
        let rested = |it: SystemTime| now.duration_since(it).is_ok_and(|it| it < REST);
        if self.rested.is_some_and(rested) {
            return;
        }
        let millis = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        // What fails is tried again after a rest; what depends on it says so when it is written.
        if !matches!(self.store.step(millis, &self.policy), Ok(Progress::More)) {
            self.rested = Some(now);
        }
    }
}

/// The request that an op of the batch belongs to.
fn owner(requests: &[Request], op: usize) -> usize {
    let mut end = 0;
    let ends = requests.iter().map(|it| {
        end += it.changes.len();
        end
    });
    ends.take_while(|end| *end <= op).count().min(requests.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Sender, channel},
        time::Instant,
    };

    use super::{
        super::{Keep, Options, disk::tests::Scratch},
        *,
    };

    struct Last(u64);

    impl Policy for Last {
        fn keep(&self, _: &str) -> Keep {
            Keep { count: Some(self.0), ..Keep::default() }
        }

        fn max_bytes(&self) -> Option<u64> {
            None
        }
    }

    fn start(scratch: &Scratch, keep: u64) -> Writer {
        let directory = Directory::open(&scratch.0).expect("nobody has it");
        let options = Options { segment_bytes: 64 << 20, ..Options::default() };
        let (store, _) = Store::open(directory.clone(), options.clone(), 7).expect("it opens");
        Writer::start(store, directory, options, None, Last(keep))
    }

    type Ended = (usize, Result<(), WriteError>);

    fn append(writer: &Writer, room: &Arc<str>, offset: u64, slot: usize, ended: &Sender<Ended>) {
        let bytes = Bytes::from_static(&[7; 256]);
        let ended = ended.clone();
        let done = Box::new(move |it| _ = ended.send((slot, it)));
        let changes = vec![Change::Append(offset, offset, bytes)];
        writer.write(Request { room: room.clone(), changes, done }).expect("few wait");
    }

    #[test]
    fn what_was_done_is_there_and_one_that_is_refused_harms_no_other() {
        let scratch = Scratch::new("writer");
        let writer = start(&scratch, 1_000);
        let (told, ended) = channel();
        let rooms: Vec<Arc<str>> = vec!["a".into(), "b".into()];
        for offset in 1..=50 {
            append(&writer, &rooms[0], offset, 0, &told);
            // Every other one is out of order.
            append(&writer, &rooms[1], offset + offset % 2 * 7, 1, &told);
        }
        drop(told);
        let ended: Vec<Ended> = ended.iter().take(100).collect();
        assert_eq!(ended.iter().filter(|(slot, it)| *slot == 0 && it.is_ok()).count(), 50);
        assert!(ended.iter().any(|(slot, it)| *slot == 1 && it.is_err()));
        writer.close().expect("closed");
        let writer = start(&scratch, 1_000);
        let (told, page) = channel();
        let query = Query { since: Some(10), reverse: false, count: 5, bytes: 9_999 };
        let done = Box::new(move |it| _ = told.send(it));
        writer.read(rooms[0].clone(), query, done).expect("few wait");
        let page = page.recv().expect("answered").expect("read");
        assert_eq!(
            page.entries.iter().map(|it| it.offset).collect::<Vec<_>>(),
            [11, 12, 13, 14, 15]
        );
        writer.close().expect("closed");
    }

    /// Seconds that this process has computed.
    fn computed() -> f64 {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        fields.skip(11).take(2).filter_map(|it| it.parse::<f64>().ok()).sum::<f64>() / 100.0
    }

    /// By hand: `cargo test --release --lib log::writer -- --ignored --nocapture`.
    #[test]
    #[ignore = "a measurement"]
    fn appends_of_256_bytes_to_10_000_rooms_with_256_waiting() {
        let scratch = Scratch::new("bench");
        let writer = start(&scratch, 100);
        let rooms: Vec<Arc<str>> = (0..10_000).map(|it| format!("chat:{it}").into()).collect();
        let mut next = vec![1; rooms.len()];
        let (told, ended) = channel();
        let (total, waiting) = (2_000_000, 256);
        let mut sent = vec![Instant::now(); waiting];
        let mut latencies = Vec::with_capacity(total);
        let (begun, before) = (Instant::now(), computed());
        let mut at = 0;
        let mut send = |slot: usize, sent: &mut Vec<Instant>| {
            let room = at * 7_919 % rooms.len();
            at += 1;
            sent[slot] = Instant::now();
            append(&writer, &rooms[room], next[room], slot, &told);
            next[room] += 1;
        };
        (0..waiting).for_each(|slot| send(slot, &mut sent));
        while latencies.len() < total {
            let (slot, written) = ended.recv().expect("answered");
            written.expect("written");
            latencies.push(sent[slot].elapsed());
            send(slot, &mut sent);
        }
        let (took, cpu) = (begun.elapsed().as_secs_f64(), computed() - before);
        latencies.sort();
        let (told, state) = channel();
        writer.state(Box::new(move |it| _ = told.send(it))).expect("few wait");
        println!(
            "{:.0} appends/s, p50 {:?}, p99 {:?}, CPU {:.2} us per append (driver included), {:?}",
            total as f64 / took,
            latencies[total / 2],
            latencies[total * 99 / 100],
            cpu * 1e6 / total as f64,
            state.recv().expect("answered").0,
        );
        writer.close().expect("closed");
    }

    /// By hand. 200,000 rooms with 50 publications each.
    #[test]
    #[ignore = "a measurement"]
    fn opening_200_000_rooms_with_10_000_000_publications() {
        let scratch = Scratch::new("open");
        let directory = Directory::open(&scratch.0).expect("nobody has it");
        let options = || Options { rooms_in_memory: 1_000_000, ..Options::default() };
        let (mut store, _) = Store::open(directory.clone(), options(), 7).expect("it opens");
        let rooms: Vec<String> = (0..200_000).map(|it| format!("chat:{it}")).collect();
        let begun = Instant::now();
        for offset in 1..=50 {
            for some in rooms.chunks(1_000) {
                let op = |room| Op::Append { room, offset, time: offset, bytes: &[7; 200] };
                let ops: Vec<_> = some.iter().map(|it| op(it)).collect();
                store.commit(&ops).expect("written");
            }
        }
        store.sync().expect("synced");
        println!("written in {:?}, {:?}", begun.elapsed(), store.stats());
        drop(store);
        let begun = Instant::now();
        let (mut store, opened) = Store::open(directory, options(), 7).expect("it opens");
        println!("opened in {:?}: {opened:?}, {:?}", begun.elapsed(), store.stats());
        let begun = Instant::now();
        let query = Query { since: None, reverse: true, count: 50, bytes: 1 << 20 };
        (0..2_000).for_each(|it| _ = store.read(&rooms[it * 97], &query).expect("read"));
        println!("a page of 50 of a room that nobody used: {:?}", begun.elapsed() / 2_000);
        let (begun, mut after, mut count) = (Instant::now(), None, 0);
        loop {
            let page = store.rooms(after.as_deref(), 1_000).expect("read");
            let Some(last) = page.last() else { break };
            (after, count) = (Some(last.name.to_string()), count + page.len());
        }
        println!("a list of {count} rooms: {:?}", begun.elapsed());
        let (begun, mut longest, mut steps) = (Instant::now(), Duration::ZERO, 0);
        loop {
            let step = Instant::now();
            let progress = store.step(0, &Last(10)).expect("done");
            (longest, steps) = (longest.max(step.elapsed()), steps + 1);
            if progress == Progress::Done {
                break;
            }
        }
        println!(
            "all trimmed to 10: {:?}, {steps} steps, the longest {longest:?}",
            begun.elapsed()
        );
        println!("{:?}", store.stats());
    }
}
