//! SHELL. The thread that writes a log, and one that reads it.
//!
//! What comes in: [`Request`]s, whose ops are written together with all that wait (group commit: one write and one
//! sync for all of them); and [`Query`]s. What goes out: a call of each request's `done`, once it is synced or was
//! refused. When nothing waits, retention does some work; it does as well every now and then when something does.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Damage, Files, Now, Page, Policy, Query, ReadError, RoomInfo, Stats, Store, WriteError,
    request::{Ask, Planned, Read},
    work::Work,
};
pub use super::{
    request::{Change, Done, Request},
    work::Notice,
};

/// Requests that may wait.
const WAITING: usize = 65_536;
/// Bytes of a batch, about.
const BATCH: usize = 1 << 20;
/// How long nothing has to be asked before there is time for retention.
const IDLE: Duration = Duration::from_millis(20);
/// While there are always requests, retention gets a turn after so many batches.
const TURN: u32 = 16;

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
    /// The reading thread has it too, to ask for what it finds gone, but does not keep the writing one alive by it.
    asks: Arc<Sender<(Place, Ask)>>,
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
    /// so often. `notify` is told what no answer says.
    pub fn start<F: Files + Clone + Send + 'static>(
        store: Store<F>,
        files: F,
        sync_interval: Option<Duration>,
        policy: impl Policy + Send + 'static,
        notify: impl FnMut(Notice) + Send + 'static,
    ) -> Self {
        let ((asks, asked), (plans, planned)) = (channel(), channel());
        let asks = Arc::new(asks);
        let again = Arc::downgrade(&asks);
        let reading = thread::spawn(move || read(&files, &planned, &again));
        let work = Work::new(store, sync_interval, policy, Box::new(notify));
        let writing = thread::spawn(move || run(work, &asked, &plans));
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
        self.ask(Ask::Read(Read { room, query, apart: false, again: false, done }))
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
        self.ask(Ask::Read(Read { room, query, apart: true, again: false, done }))
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

/// Reads pages while the other thread writes on.
fn read(
    files: &impl Files,
    planned: &Receiver<(Place, Planned)>,
    asks: &Weak<Sender<(Place, Ask)>>,
) {
    while let Ok((place, planned)) = planned.recv() {
        let Some((read, error)) = planned.answer(files) else { continue };
        match asks.upgrade() {
            Some(asks) => _ = asks.send((place, Ask::Read(read))),
            // Nobody is left who could plan it.
            None => (read.done)(Err(error)),
        }
    }
}

fn run<F: Files + Clone, P: Policy>(
    mut work: Work<F, P>,
    asked: &Receiver<(Place, Ask)>,
    plans: &Sender<(Place, Planned)>,
) {
    let begun = Instant::now();
    let now = || Now {
        uptime: begun.elapsed(),
        unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
    };
    let (mut requests, mut batches) = (Vec::new(), 0u32);
    let take = |work: &mut Work<F, P>, place, ask, requests: &mut Vec<Request>| {
        if let Some(planned) = work.take(ask, requests) {
            // The reading thread ends after this one.
            let _ = plans.send((place, planned));
        }
    };
    loop {
        match asked.recv_timeout(IDLE) {
            Ok((_, Ask::Close(done))) => return done(work.close()),
            Ok((place, ask)) => take(&mut work, place, ask, &mut requests),
            Err(RecvTimeoutError::Timeout) => {
                work.sync_now_and_then(now());
                work.retain(now());
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
            take(&mut work, place, ask, &mut requests);
            let changes = requests.last().map(|it| it.changes.iter().map(Change::size).sum());
            size += changes.unwrap_or(0);
        }
        work.write(&mut requests);
        work.sync_now_and_then(now());
        batches += 1;
        if batches % TURN == 0 {
            work.retain(now());
        }
        if let Some(done) = closing {
            return done(work.close());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{Sender, channel},
        time::Instant,
    };

    use bytes::Bytes;

    use super::{
        super::{
            Keep, Op, Options, Progress,
            disk::{Directory, tests::Scratch},
        },
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
        let (store, _) = Store::open(directory.clone(), options, 7).expect("it opens");
        Writer::start(store, directory, None, Last(keep), |_| {})
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
