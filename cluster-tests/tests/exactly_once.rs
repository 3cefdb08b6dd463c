//! Exactly once, where it can be had: payments that are published with keys, and consumers that store each one's name
//! with its effect. Whoever is killed and whatever is cut meanwhile, each payment is booked once.
//!
//! The consumers are the examples of `examples/exactly-once`, all of one group on one database. Two tests have six of them
//! for some 40 seconds each; another has twenty, in two groups, through as many faults as `EXACTLY_ONCE_FAULTS` says: 14
//! in an ordinary run, and 60 are what an hour brings with one in each minute, in some four minutes. `EXACTLY_ONCE_SEED`
//! repeats the choices of a run.

use std::collections::BTreeMap;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cluster_tests::node::{bound, spawn_bound};
use cluster_tests::process::send;
use cluster_tests::relay::{Relay, Towards};
use cluster_tests::rooms::Api;
use cluster_tests::wait::{ensure, hold, until};
use cluster_tests::world::{REACTION, World, skip};
use cluster_tests::{paths, programs};
use serde_json::{Value, json};

const CONFIG: &str = r#"
[client]
insecure = true
[http_api]
key = "test"
[[channel.namespaces]]
name = "dead"
history_size = 1000
history_ttl = "300s"
[[channel.namespaces]]
name = "jobs"
history_size = 100000
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["bank"]
ack_wait = "5s"
"#;

/// What the examples consume, unless they are told otherwise.
const ROOM: &str = "jobs:pay";
/// A room whose messages of one account are to be booked in order.
const KEYED: &str = "keyed:pay";
const GROUP: &str = "bank";
const ACCOUNTS: u64 = 7;
/// Of those who publish into a room.
const PUBLISHERS: u64 = 2;
/// Between two payments of one publisher.
const PACE: Duration = Duration::from_millis(20);
/// The same, where there has to be an acknowledgement under way whenever connections are cut.
const QUICKLY: Duration = Duration::from_millis(5);
/// How often each node is killed.
const ROUNDS: usize = 2;
/// How long a node is there before it is killed, and how long it is away, in milliseconds.
const BETWEEN: Range<u64> = 1_500..3_000;
/// Between two faults of consumers and connections, in milliseconds.
const FAULTS: Range<u64> = 200..900;
/// How long connections swallow what is said before they are cut, in milliseconds.
const SILENCE: Range<u64> = 20..200;
/// How long a node may take to drain.
const DRAINING: Duration = Duration::from_secs(40);
/// What there has to be at least, or the test has tried nothing.
const MANY: usize = 100;
/// How often the connections of consumers are cut that are to leave then, and how often at most all are until there was
/// everything that there has to be.
const CUTS: usize = 30;
/// SIGTERM.
const LEAVE: i32 = 15;
/// SIGQUIT.
const QUIT: i32 = 3;

/// What the test knows the seed by, and the number of faults.
const SEED: &str = "EXACTLY_ONCE_SEED";
const HOW_MANY: &str = "EXACTLY_ONCE_FAULTS";
/// How many there are in an ordinary run: each kind at least once.
const FEW: usize = 14;
/// Consumers of each of the two rooms that have many.
const CROWD: usize = 10;
/// Between two of many faults, and how long a node is away then, in milliseconds.
const RECOVERY: Range<u64> = 400..2_200;
const AWAY: Range<u64> = 100..1_500;

fn given(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|it| it.parse().expect("a number"))
}

fn seed() -> u64 {
    given(SEED).unwrap_or_else(|| fastrand::u64(..))
}

fn some_time(random: &mut fastrand::Rng, range: &Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range.clone()))
}

/// In which language an example is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Language {
    Js,
    Python,
    Go,
}

use Language::{Go, Js, Python};

impl Language {
    fn command(self) -> Command {
        let (program, script) = match self {
            Js => (programs::find("node").expect("there is Node.js"), Some("consumer.mjs")),
            Python => (paths::python(), Some("consumer.py")),
            Go => (paths::go_example(), None),
        };
        let mut command = bound(&program);
        command.args(script.map(paths::exactly_once));
        command
    }
}

/// One of the examples while it runs.
struct Consumer {
    language: Language,
    /// Which queue it is of.
    queue: usize,
    child: Child,
}

/// A room that is shared out.
struct Queue {
    room: &'static str,
    folder: Folder,
    /// How often a payment was sent again.
    again: Arc<AtomicUsize>,
}

impl Queue {
    fn again(&self) -> usize {
        self.again.load(Ordering::Relaxed)
    }
}

/// Where the consumers keep what they have done, and what they complain of. It goes when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let folder = paths::scratch("-bank");
        fs::create_dir_all(&folder).expect("a folder can be made");
        Self(folder)
    }

    fn database(&self) -> PathBuf {
        self.0.join("bank.db")
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.0.join("complaints")).unwrap_or_default()
    }

    /// What a query finds.
    fn ask(&self, query: &str) -> Result<Vec<Vec<Value>>, String> {
        let script = "import json, sqlite3, sys\n\
                      print(json.dumps(sqlite3.connect(sys.argv[1], timeout=10).execute(sys.argv[2]).fetchall()))";
        let mut python = Command::new(paths::python());
        let output = python.args(["-c", script]).arg(self.database()).arg(query).output();
        let output = output.map_err(|e| e.to_string())?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The ways to the cluster.
struct Relays {
    /// Of the consumers.
    consume: Relay,
    /// Of the publishers.
    publish: Relay,
}

impl Relays {
    fn start(nodes: &[SocketAddr]) -> Result<Self, String> {
        Ok(Self { consume: Relay::start(nodes)?, publish: Relay::start(nodes)? })
    }

    fn lead_to(&self, nodes: &[SocketAddr]) {
        [&self.consume, &self.publish].iter().for_each(|it| it.lead_to(nodes));
    }

    /// Cuts connections on which no acknowledgement has come through for some time: how many.
    fn cut_consumers(&self, time: Duration) -> usize {
        self.consume.swallow(Towards::Nodes);
        hold(time);
        self.consume.cut()
    }

    /// Cuts connections on which what was published was not answered for some time.
    fn cut_publishers(&self, time: Duration) -> usize {
        self.publish.swallow(Towards::Clients);
        hold(time);
        self.publish.cut()
    }
}

/// All consumers, and what was done to them.
struct Consumers {
    all: Vec<Consumer>,
    relays: Arc<Relays>,
    queues: Arc<[Queue]>,
    killed: usize,
    cut: usize,
}

impl Consumers {
    /// One in each of these languages, of each queue.
    fn start(languages: &[Language], relays: Arc<Relays>, queues: Arc<[Queue]>) -> Self {
        let mut consumers = Self { all: Vec::new(), relays, queues, killed: 0, cut: 0 };
        for queue in 0..consumers.queues.len() {
            for language in languages.iter().copied() {
                let child = consumers.launch(language, queue);
                consumers.all.push(Consumer { language, queue, child });
            }
        }
        consumers
    }

    fn launch(&self, language: Language, queue: usize) -> Child {
        let Queue { room, folder, .. } = &self.queues[queue];
        let complaints =
            File::options().create(true).append(true).open(folder.0.join("complaints"));
        let mut command = language.command();
        command
            .arg(format!("ws://{}/connection/websocket", self.relays.consume.address))
            .arg(folder.database())
            .args((*room != ROOM).then_some(room))
            .stdin(Stdio::null())
            .stderr(complaints.expect("a file can be written"));
        spawn_bound(command).unwrap_or_else(|why| panic!("{language:?} does not start: {why}"))
    }

    /// Kills consumers and cuts connections, those of publishers as well, until it is told to stop.
    fn disturb(&mut self, random: &mut fastrand::Rng, stop: &AtomicBool) -> Result<(), String> {
        while !stop.load(Ordering::Relaxed) {
            hold(some_time(random, &FAULTS));
            let silence = some_time(random, &SILENCE);
            match random.u8(..4) {
                0 | 1 => self.kill_any(random)?,
                2 => self.cut += self.relays.cut_consumers(silence),
                _ => self.cut += self.relays.cut_publishers(silence),
            }
        }
        Ok(())
    }

    fn kill_any(&mut self, random: &mut fastrand::Rng) -> Result<(), String> {
        self.kill(random.usize(..self.all.len()))
    }

    fn kill(&mut self, index: usize) -> Result<(), String> {
        let Consumer { language, queue, child } = &mut self.all[index];
        let (language, queue) = (*language, *queue);
        // None ends but by us.
        let ended = child.try_wait().map_err(|e| e.to_string())?;
        ensure(ended.is_none(), || format!("{language:?} has ended: {ended:?}"))?;
        child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
        self.killed += 1;
        self.all[index].child = self.launch(language, queue);
        Ok(())
    }

    /// Asks all to leave, which they do at once and without an error.
    fn leave(&mut self) -> Result<(), String> {
        for Consumer { child, .. } in &self.all {
            send(child.id(), LEAVE)?;
        }
        for Consumer { language, queue, child } in &mut self.all {
            let status = until(REACTION, || ended(child)).map_err(|why| {
                // Go says then where it is.
                let told = send(child.id(), QUIT).and_then(|()| until(REACTION, || ended(child)));
                let complaints = self.queues[*queue].folder.complaints();
                format!("{language:?}: {why}; asked where it is: {told:?}\n{complaints}")
            })?;
            ensure(status.success(), || format!("{language:?} has left with {status}"))?;
        }
        Ok(())
    }
}

fn ended(child: &mut Child) -> Result<ExitStatus, String> {
    child.try_wait().map_err(|e| e.to_string())?.ok_or_else(|| "goes on".to_owned())
}

impl Drop for Consumers {
    fn drop(&mut self) {
        for Consumer { child, .. } in &mut self.all {
            let _ = (child.kill(), child.wait());
        }
    }
}

/// A payment that was published.
struct Payment {
    account: String,
    amount: u64,
    /// Where it is in the room.
    offset: u64,
}

/// All that was published.
#[derive(Default)]
struct Paid {
    /// By account: how much, and how many payments.
    accounts: BTreeMap<String, (u64, u64)>,
    /// Whose payment is at each offset.
    offsets: BTreeMap<u64, String>,
}

impl Paid {
    fn add(&mut self, Payment { account, amount, offset }: Payment) {
        let (balance, payments) = self.accounts.entry(account.clone()).or_default();
        (*balance, *payments) = (*balance + amount, *payments + 1);
        let other = self.offsets.insert(offset, account);
        assert_eq!(other, None, "two payments are at offset {offset}");
    }

    fn count(&self) -> usize {
        self.offsets.len()
    }
}

/// Publishes payments until it is told to stop, each again and again until it is acknowledged.
fn pay(
    publisher: u64,
    room: &str,
    pace: Duration,
    relay: SocketAddr,
    again: &AtomicUsize,
    stop: &AtomicBool,
) -> Vec<Payment> {
    let mut api = None;
    let mut paid = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let account = format!("account-{}", number % ACCOUNTS);
        let amount = 1 + number * PUBLISHERS + publisher;
        let body = json!({
            "channel": room,
            "data": {"account": account, "amount": amount},
            "tags": {"account": account},
            "idempotency_key": format!("payment {publisher} {number}"),
        });
        let mut tries = 0;
        let offset = until(REACTION * 4, || {
            tries += 1;
            publish(&mut api, relay, &body)
        });
        let offset = offset.expect("it is acknowledged in the end");
        again.fetch_add(tries - 1, Ordering::Relaxed);
        paid.push(Payment { account, amount, offset });
        hold(pace);
    }
    paid
}

/// Publishes once: the offset, if that is acknowledged.
fn publish(api: &mut Option<Api>, relay: SocketAddr, body: &Value) -> Result<u64, String> {
    // Taken out: after an error the connection is of no use.
    let mut open = api.take().map_or_else(|| Api::open(relay), Ok)?;
    let answer = open.answer("publish", body)?;
    *api = Some(open);
    answer["result"]["offset"].as_u64().ok_or_else(|| answer.to_string())
}

/// Clients come to the nodes that run.
fn lead_to_all(relays: &Relays, world: &mut World) {
    let running = world.cluster.running();
    let nodes: Vec<_> = running.iter().map(|it| world.cluster.node(*it).http).collect();
    relays.lead_to(&nodes);
}

/// Kills each node in turn, in any order, and starts it again; the next when the cluster is whole.
fn kill_nodes(world: &mut World, relays: &Relays, random: &mut fastrand::Rng) {
    for _ in 0..ROUNDS {
        let mut order = [0, 1, 2];
        random.shuffle(&mut order);
        for node in order {
            hold(some_time(random, &BETWEEN));
            kill_node(world, relays, node, some_time(random, &BETWEEN));
        }
    }
}

/// Kills a node, and starts it again when it has been away for some time.
fn kill_node(world: &mut World, relays: &Relays, node: usize, away: Duration) {
    world.check(&format!("node {node} is killed"), |world| {
        world.cluster.node_mut(node).kill();
        lead_to_all(relays, world);
        Ok(())
    });
    hold(away);
    come_back(world, relays, node);
}

fn come_back(world: &mut World, relays: &Relays, node: usize) {
    world.check("it comes back", |world| {
        world.cluster.restart(node)?;
        lead_to_all(relays, world);
        world.cluster.converged()
    });
}

/// Asks a node to leave, which hands over what it has, and starts it again.
fn drain_node(world: &mut World, relays: &Relays, node: usize) {
    world.check(&format!("node {node} drains, and ends"), |world| {
        let others = (0..3).filter(|it| *it != node);
        let others: Vec<_> = others.map(|it| world.cluster.node(it).http).collect();
        relays.lead_to(&others);
        world.cluster.node(node).terminate();
        let status = world.cluster.node_mut(node).exit_status(DRAINING)?;
        ensure(status.success(), || format!("it ends with {status}"))
    });
    come_back(world, relays, node);
}

/// Kills all nodes at once, and starts them again.
fn kill_all_nodes(world: &mut World, relays: &Relays, random: &mut fastrand::Rng) {
    for _ in 0..ROUNDS {
        hold(some_time(random, &BETWEEN) * 2);
        kill_every_node(world, relays);
    }
    hold(some_time(random, &BETWEEN));
}

fn kill_every_node(world: &mut World, relays: &Relays) {
    world.check("all nodes are killed, and come back", |world| {
        (0..3).for_each(|node| world.cluster.node_mut(node).kill());
        world.cluster.restart_all()?;
        lead_to_all(relays, world);
        world.cluster.converged()
    });
}

/// Whether the group has nothing left to do.
fn all_settled(world: &World, room: &str, count: usize, consumers: usize) -> Result<(), String> {
    let body = json!({"channel": room, "group": GROUP});
    let facts = world.cluster.api(0, "queue_info", &body)?;
    let done = facts["settled"] == facts["top"] && facts["top"] == count;
    let rest = facts["leased"] == 0 && facts["parked"] == 0;
    // All are back by then, and none of those that were killed is still there.
    let there = facts["consumers"].as_array().map(Vec::len);
    ensure(done && rest && there == Some(consumers), || facts.to_string())
}

/// Whether each payment is booked, and none twice.
fn each_once(paid: &Paid, folder: &Folder) -> Result<(), String> {
    let rows = folder.ask("select name, balance, payments from account")?;
    let booked = |row: &Vec<Value>| -> Option<(String, (u64, u64))> {
        Some((row[0].as_str()?.to_owned(), (row[1].as_u64()?, row[2].as_u64()?)))
    };
    let booked: BTreeMap<_, _> = rows.iter().filter_map(booked).collect();
    ensure(booked == paid.accounts, || {
        format!("booked: {booked:?}\n          published: {:?}", paid.accounts)
    })?;
    let done = folder.ask("select count(*) from done")?;
    ensure(done[0][0] == paid.count(), || format!("{} of {}", done[0][0], paid.count()))
}

/// Whether the payments of each account were booked in their order.
fn in_order(paid: &Paid, folder: &Folder) -> Result<(), String> {
    let mut last = BTreeMap::new();
    for row in folder.ask("select message from done order by rowid")? {
        let message = row[0].as_str().unwrap_or_default();
        let offset: Option<u64> = message.rsplit('-').next().and_then(|it| it.parse().ok());
        let of = offset.and_then(|it| Some((it, paid.offsets.get(&it)?)));
        let (offset, account) = of.ok_or_else(|| format!("{message:?} was never published"))?;
        let before = last.insert(account, offset).unwrap_or(0);
        ensure(before < offset, || format!("{account}: {offset} was booked after {before}"))?;
    }
    Ok(())
}

/// How often a message came again that was done.
fn repeats(folder: &Folder) -> Result<u64, String> {
    let sum = folder.ask("select coalesce(sum(repeats), 0) from done")?;
    sum[0][0].as_u64().ok_or_else(|| format!("{sum:?}"))
}

/// The languages of the consumers, as far as the examples are installed.
fn languages() -> Vec<Language> {
    let there = |language: &Language| match language {
        Js => paths::exactly_once("node_modules/better-sqlite3").is_dir(),
        Python => true,
        Go => paths::go_example().exists(),
    };
    let (there, missing): (Vec<_>, Vec<_>) = [Js, Python, Go].into_iter().partition(there);
    if !missing.is_empty() {
        skip(&format!("not installed, so the others do it: the examples of {missing:?}"));
    }
    there
}

/// Threads that look at it stop when this is dropped: with the scenario, if that fails.
#[derive(Default)]
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Payments that are published and booked, while something goes wrong.
struct Run {
    world: World,
    relays: Arc<Relays>,
    queues: Arc<[Queue]>,
    /// By their queues.
    publishers: Vec<(usize, thread::JoinHandle<Vec<Payment>>)>,
    running: Running,
    random: fastrand::Rng,
}

impl Run {
    /// Three nodes, a consumer in each of these languages of each room, and their publishers.
    fn start(
        config: &str,
        rooms: &[&'static str],
        languages: &[Language],
        pace: Duration,
    ) -> (Self, Consumers) {
        let seed = seed();
        println!("{SEED}={seed}");
        let queues = rooms.iter().map(|room| {
            let (folder, again) = (Folder::new(), Arc::default());
            Queue { room, folder, again }
        });
        let queues: Arc<[Queue]> = queues.collect();
        let world = World::with(3, config);
        let nodes: Vec<_> = (0..3).map(|it| world.cluster.node(it).http).collect();
        let relays = Arc::new(Relays::start(&nodes).expect("ports are free"));
        let consumers = Consumers::start(languages, relays.clone(), queues.clone());
        let running = Running::default();
        let mut publishers = Vec::new();
        for (queue, room) in rooms.iter().copied().enumerate() {
            for number in 0..PUBLISHERS {
                let (address, stop) = (relays.publish.address, running.0.clone());
                let again = queues[queue].again.clone();
                let paying = thread::spawn(move || pay(number, room, pace, address, &again, &stop));
                publishers.push((queue, paying));
            }
        }
        let random = fastrand::Rng::with_seed(seed);
        (Self { world, relays, queues, publishers, running, random }, consumers)
    }

    /// Whether in each room something was sent again, and something came again that was done.
    fn has_all(&self) -> bool {
        let came_again = |it: &Queue| repeats(&it.folder).is_ok_and(|it| it > 0);
        self.queues.iter().all(|it| it.again() > 0 && came_again(it))
    }

    /// Cuts connections once more, and again, for as long as chance has left something out.
    fn make_up(&mut self, consumers: &mut Consumers) {
        for _ in 0..CUTS {
            if self.has_all() {
                break;
            }
            consumers.cut += self.relays.cut_consumers(some_time(&mut self.random, &SILENCE));
            consumers.cut += self.relays.cut_publishers(some_time(&mut self.random, &SILENCE));
            hold(some_time(&mut self.random, &FAULTS));
        }
    }

    /// No more is published; what was is booked, each payment once. What was published into each room.
    fn finish(mut self, mut consumers: Consumers) -> Vec<Paid> {
        self.make_up(&mut consumers);
        let Self { mut world, queues, publishers, running, .. } = self;
        drop(running);
        let mut paid: Vec<Paid> = queues.iter().map(|_| Paid::default()).collect();
        for (queue, paying) in publishers {
            let payments = paying.join().expect("all are acknowledged");
            payments.into_iter().for_each(|it| paid[queue].add(it));
        }
        let each = consumers.all.len() / queues.len();
        for (Queue { room, .. }, paid) in queues.iter().zip(&paid) {
            let what = format!("all in {room} are settled, and all consumers there");
            world.eventually(&what, REACTION * 4, |world| {
                all_settled(world, room, paid.count(), each)
            });
        }
        world.check("consumers leave when they are asked to", |_| consumers.leave());
        println!("{} consumers killed, {} connections cut", consumers.killed, consumers.cut);
        for (queue, paid) in queues.iter().zip(&paid) {
            let (Queue { room, folder, .. }, count, again) = (queue, paid.count(), queue.again());
            let repeats = repeats(folder).expect("the database can be read");
            println!("{room}: {count} payments, {again} sent again, {repeats} messages met again");
            print!("{}", folder.complaints());
            let once = format!("each payment of {room} is booked once");
            world.check(&once, |_| each_once(paid, folder));
            // Or nothing of this was tried.
            assert!(count > MANY && again > 0 && repeats > 0, "in {room}");
        }
        assert!(consumers.killed > 0 && consumers.cut > 0);
        world.check("there are no dead letters", |world| no_dead_letters(world));
        paid
    }
}

fn no_dead_letters(world: &World) -> Result<(), String> {
    let dead = world.cluster.api(0, "history", &json!({"channel": "dead:letters", "limit": 10}))?;
    let none = dead["publications"].as_array().is_none_or(Vec::is_empty);
    ensure(none, || dead.to_string())
}

/// Payments are published and booked while `faults` goes on, and consumers and connections have faults of their own.
fn booked_once_through(config: &str, faults: impl FnOnce(&mut World, &Relays, &mut fastrand::Rng)) {
    // Two of each.
    let (mut run, mut consumers) = Run::start(config, &[ROOM], &languages().repeat(2), PACE);
    let disturbed = Running::default();
    let (stop, mut own) = (disturbed.0.clone(), run.random.fork());
    let disturbing = thread::spawn(move || {
        let outcome = consumers.disturb(&mut own, &stop);
        (consumers, outcome)
    });
    faults(&mut run.world, &run.relays, &mut run.random);
    drop(disturbed);
    let (consumers, undisturbed) = disturbing.join().expect("faults do not panic");
    let complaints = run.queues[0].folder.complaints();
    run.world.check("no consumer has ended by itself", |_| {
        undisturbed.map_err(|why| format!("{why}\n{complaints}"))
    });
    run.finish(consumers);
}

/// One of many faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    ConsumersKilled,
    ConsumersCut,
    PublishersCut,
    /// The node that has given the most messages lately: a home of one of the rooms.
    HomeKilled,
    NodeKilled,
    NodeDrained,
    EveryNodeKilled,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Fault {
    /// Each as often as it is in it.
    const ALL: [Self; 12] = [
        Self::ConsumersKilled,
        Self::ConsumersKilled,
        Self::ConsumersKilled,
        Self::ConsumersCut,
        Self::ConsumersCut,
        Self::PublishersCut,
        Self::HomeKilled,
        Self::HomeKilled,
        Self::NodeKilled,
        Self::NodeDrained,
        Self::NodeDrained,
        Self::EveryNodeKilled,
    ];

    /// So many, in any order, in which all kinds are there soon.
    fn some(count: usize, random: &mut fastrand::Rng) -> Vec<Self> {
        let mut faults = Vec::new();
        while faults.len() < count {
            let mut round = Self::ALL;
            random.shuffle(&mut round);
            faults.extend(round);
        }
        faults.truncate(count);
        faults
    }

    fn happen(self, run: &mut Run, consumers: &mut Consumers) -> Result<(), String> {
        let Run { world, relays, random, .. } = run;
        let (any, silence) = (random.usize(..3), some_time(random, &SILENCE));
        match self {
            Self::ConsumersKilled => {
                (0..random.usize(1..4)).try_for_each(|_| consumers.kill_any(random))?;
            }
            Self::ConsumersCut => consumers.cut += relays.cut_consumers(silence),
            Self::PublishersCut => consumers.cut += relays.cut_publishers(silence),
            Self::HomeKilled => {
                let home = busiest(world)?;
                kill_node(world, relays, home, some_time(random, &AWAY));
            }
            Self::NodeKilled => kill_node(world, relays, any, some_time(random, &AWAY)),
            Self::NodeDrained => drain_node(world, relays, any),
            Self::EveryNodeKilled => kill_every_node(world, relays),
        }
        Ok(())
    }
}

/// The node that gives the most messages now: only homes do.
fn busiest(world: &World) -> Result<usize, String> {
    let given = || -> Result<Vec<f64>, String> {
        let metric = "roomcast_queue_messages_total";
        (0..3).map(|node| world.cluster.metric(node, metric)).collect()
    };
    let before = given()?;
    until(REACTION, || {
        let more = given()?.into_iter().zip(&before).map(|(now, before)| now - before);
        let most = more.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        let busy = most.filter(|(_, more)| *more >= 20.0);
        busy.map(|(node, _)| node).ok_or_else(|| "no node gives any messages".to_owned())
    })
}

/// Two rooms on disk, one of them shared by keys. Nothing is given so often that it would be a dead letter.
fn two_rooms() -> String {
    let letters = "max_deliveries = 200\ndead_letter = \"dead:letters\"";
    let disk = CONFIG.replace("name = \"jobs\"", "name = \"jobs\"\nlog = \"disk\"");
    let at = disk.rfind("[[channel").expect("a namespace");
    let jobs = format!("{}{letters}\n", &disk[at..]);
    let keyed =
        jobs.replace("\"jobs\"", "\"keyed\"") + "mode = \"key_shared\"\nkey = \"account\"\n";
    format!("{}{jobs}{keyed}", &disk[..at])
}

#[test]
fn each_payment_is_booked_once_whoever_is_killed() {
    booked_once_through(CONFIG, kill_nodes);
}

#[test]
fn each_payment_is_booked_once_though_all_nodes_are_killed_that_have_it_on_disk() {
    let on_disk = CONFIG.replace("name = \"jobs\"", "name = \"jobs\"\nlog = \"disk\"");
    booked_once_through(&on_disk, kill_all_nodes);
}

/// An RPC of the Go SDK whose connection goes while it is sent may never return.
#[test]
fn consumers_leave_when_they_are_asked_to_though_they_were_cut_off_while_they_acknowledged() {
    if !languages().contains(&Go) {
        return;
    }
    let (mut run, mut consumers) = Run::start(CONFIG, &[ROOM], &[Go; 6], QUICKLY);
    for _ in 0..CUTS {
        hold(some_time(&mut run.random, &FAULTS));
        consumers.cut += run.relays.cut_consumers(some_time(&mut run.random, &SILENCE));
    }
    run.world.check("consumers leave when they are asked to", |_| consumers.leave());
    assert!(consumers.cut >= CUTS, "{} connections cut", consumers.cut);
}

#[test]
fn twenty_consumers_book_each_payment_once_through_an_hour_of_faults_in_minutes() {
    let count = given(HOW_MANY).map_or(FEW, |it| it as usize);
    let crowd: Vec<Language> = languages().into_iter().cycle().take(CROWD).collect();
    let (mut run, mut consumers) = Run::start(&two_rooms(), &[ROOM, KEYED], &crowd, PACE);
    let began = Instant::now();
    let faults = Fault::some(count, &mut run.random);
    for (number, fault) in faults.iter().enumerate() {
        let result = fault.happen(&mut run, &mut consumers);
        let complaints = || run.queues.iter().map(|it| it.folder.complaints()).collect::<String>();
        let result = result.map_err(|why| format!("{why}\n{}", complaints()));
        run.world.check(&format!("{}. fault: {fault}", number + 1), |_| result);
        hold(some_time(&mut run.random, &RECOVERY));
    }
    let mut kinds = BTreeMap::<Fault, usize>::new();
    faults.iter().for_each(|it| *kinds.entry(*it).or_default() += 1);
    println!("{count} faults in {:?}: {kinds:?}", began.elapsed());
    let (queues, keyed) = (run.queues.clone(), 1);
    let paid = run.finish(consumers);
    println!("all was settled {:?} after the first", began.elapsed());
    in_order(&paid[keyed], &queues[keyed].folder).expect("in order of each account");
}
