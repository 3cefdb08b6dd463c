//! Exactly once, where it can be had: payments that are published with keys, and consumers that store each one's name
//! with its effect. Whoever is killed and whatever is cut meanwhile, each payment is booked once.
//!
//! The consumers are the examples of `examples/exactly-once`, all of one group and on one database.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

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
name = "jobs"
history_size = 100000
history_ttl = "300s"
[channel.namespaces.queue]
groups = ["bank"]
ack_wait = "5s"
"#;

/// What the examples consume.
const ROOM: &str = "jobs:pay";
const GROUP: &str = "bank";
const ACCOUNTS: u64 = 7;
/// Of those who publish.
const PUBLISHERS: u64 = 2;
/// Between two payments of one publisher.
const PACE: Duration = Duration::from_millis(5);
/// How often each node is killed.
const ROUNDS: usize = 2;
/// How long a node is there before it is killed, and how long it is away, in milliseconds.
const BETWEEN: Range<u64> = 1_500..3_000;
/// Between two faults of consumers and connections, in milliseconds.
const FAULTS: Range<u64> = 200..900;
/// How long connections swallow what is said before they are cut, in milliseconds.
const SILENCE: Range<u64> = 20..200;
/// What there has to be at least, or the test has tried nothing.
const MANY: usize = 500;
/// SIGTERM.
const LEAVE: i32 = 15;

/// What the test knows the seed by.
const SEED: &str = "EXACTLY_ONCE_SEED";

fn seed() -> u64 {
    let given = env::var(SEED).ok().map(|it| it.parse().expect("a seed is a number"));
    given.unwrap_or_else(|| fastrand::u64(..))
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
    child: Child,
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
    folder: Arc<Folder>,
    killed: usize,
    cut: usize,
}

impl Consumers {
    fn start(languages: &[Language], relays: Arc<Relays>, folder: Arc<Folder>) -> Self {
        let mut consumers = Self { all: Vec::new(), relays, folder, killed: 0, cut: 0 };
        for language in languages {
            let child = consumers.launch(*language);
            consumers.all.push(Consumer { language: *language, child });
        }
        consumers
    }

    fn launch(&self, language: Language) -> Child {
        let complaints =
            File::options().create(true).append(true).open(self.folder.0.join("complaints"));
        let mut command = language.command();
        command
            .arg(format!("ws://{}/connection/websocket", self.relays.consume.address))
            .arg(self.folder.database())
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
                0 | 1 => self.kill(random.usize(..self.all.len()))?,
                2 => self.cut += self.relays.cut_consumers(silence),
                _ => self.cut += self.relays.cut_publishers(silence),
            }
        }
        Ok(())
    }

    fn kill(&mut self, index: usize) -> Result<(), String> {
        let Consumer { language, child } = &mut self.all[index];
        let language = *language;
        // None ends but by us.
        let ended = child.try_wait().map_err(|e| e.to_string())?;
        ensure(ended.is_none(), || format!("{language:?} has ended: {ended:?}"))?;
        child.kill().and_then(|()| child.wait()).map_err(|e| e.to_string())?;
        self.killed += 1;
        self.all[index].child = self.launch(language);
        Ok(())
    }

    /// Asks all to leave, which they do at once and without an error.
    fn leave(&mut self) -> Result<(), String> {
        for Consumer { language, child } in &mut self.all {
            send(child.id(), LEAVE)?;
            let status: ExitStatus = until(REACTION, || match child.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{language:?} goes on: {other:?}")),
            })?;
            ensure(status.success(), || format!("{language:?} has left with {status}"))?;
        }
        Ok(())
    }
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
    /// How often it was sent.
    tries: usize,
}

/// All that was published.
#[derive(Default)]
struct Paid {
    /// By account: how much, and how many payments.
    accounts: BTreeMap<String, (u64, u64)>,
    offsets: BTreeSet<u64>,
    /// How often one was sent again.
    again: usize,
}

impl Paid {
    fn add(&mut self, Payment { account, amount, offset, tries }: Payment) {
        let (balance, payments) = self.accounts.entry(account).or_default();
        (*balance, *payments) = (*balance + amount, *payments + 1);
        self.again += tries - 1;
        assert!(self.offsets.insert(offset), "two payments are at offset {offset}");
    }

    fn count(&self) -> usize {
        self.offsets.len()
    }
}

/// Publishes payments until it is told to stop, each again and again until it is acknowledged.
fn pay(publisher: u64, relay: SocketAddr, stop: &AtomicBool) -> Vec<Payment> {
    let mut api = None;
    let mut paid = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let account = format!("account-{}", number % ACCOUNTS);
        let amount = 1 + number * PUBLISHERS + publisher;
        let body = json!({
            "channel": ROOM,
            "data": {"account": account, "amount": amount},
            "idempotency_key": format!("payment {publisher} {number}"),
        });
        let mut tries = 0;
        let offset = until(REACTION * 4, || {
            tries += 1;
            publish(&mut api, relay, &body)
        });
        let offset = offset.expect("it is acknowledged in the end");
        paid.push(Payment { account, amount, offset, tries });
        hold(PACE);
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
            world.check(&format!("node {node} is killed"), |world| {
                world.cluster.node_mut(node).kill();
                lead_to_all(relays, world);
                Ok(())
            });
            hold(some_time(random, &BETWEEN));
            world.check("it comes back", |world| {
                world.cluster.restart(node)?;
                lead_to_all(relays, world);
                world.cluster.converged()
            });
        }
    }
}

/// Kills all nodes at once, and starts them again.
fn kill_all_nodes(world: &mut World, relays: &Relays, random: &mut fastrand::Rng) {
    for _ in 0..ROUNDS {
        hold(some_time(random, &BETWEEN) * 2);
        world.check("all nodes are killed, and come back", |world| {
            (0..3).for_each(|node| world.cluster.node_mut(node).kill());
            world.cluster.restart_all()?;
            lead_to_all(relays, world);
            world.cluster.converged()
        });
    }
    hold(some_time(random, &BETWEEN));
}

/// Whether the group has nothing left to do.
fn all_settled(world: &World, count: usize, consumers: usize) -> Result<(), String> {
    let body = json!({"channel": ROOM, "group": GROUP});
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
    // Two of each.
    there.repeat(2)
}

/// Threads that look at it stop when this is dropped: with the scenario, if that fails.
#[derive(Default)]
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Payments are published and booked while `faults` goes on, and consumers and connections have faults of their own.
fn booked_once_through(config: &str, faults: impl FnOnce(&mut World, &Relays, &mut fastrand::Rng)) {
    let seed = seed();
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = Arc::new(Folder::new());
    let languages = languages();
    let mut world = World::with(3, config);
    let nodes: Vec<_> = (0..3).map(|it| world.cluster.node(it).http).collect();
    let relays = Arc::new(Relays::start(&nodes).expect("ports are free"));
    let mut consumers = Consumers::start(&languages, relays.clone(), folder.clone());
    let running = Running::default();
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|number| {
            let (address, stop) = (relays.publish.address, running.0.clone());
            thread::spawn(move || pay(number, address, &stop))
        })
        .collect();
    let (stop, mut own) = (running.0.clone(), random.fork());
    let disturbing = thread::spawn(move || {
        let outcome = consumers.disturb(&mut own, &stop);
        (consumers, outcome)
    });
    faults(&mut world, &relays, &mut random);
    drop(running);
    let (mut consumers, undisturbed) = disturbing.join().expect("faults do not panic");
    world.check("no consumer has ended by itself", |_| {
        undisturbed.map_err(|why| format!("{why}\n{}", folder.complaints()))
    });
    let mut paid = Paid::default();
    let payments = publishers.into_iter().map(|it| it.join().expect("all are acknowledged"));
    payments.flatten().for_each(|it| paid.add(it));
    world.eventually("all are settled, and all consumers there", REACTION * 2, |world| {
        all_settled(world, paid.count(), languages.len())
    });
    world.check("consumers leave when they are asked to", |_| consumers.leave());
    let repeats = repeats(&folder).expect("the database can be read");
    println!(
        "{} payments, {} sent again; {} consumers killed, {} connections cut, {repeats} messages met again",
        paid.count(),
        paid.again,
        consumers.killed,
        consumers.cut
    );
    print!("{}", folder.complaints());
    world.check("each payment is booked once", |_| each_once(&paid, &folder));
    // Or nothing of this was tried.
    assert!(paid.count() > MANY && paid.again > 0 && repeats > 0);
    assert!(consumers.killed > 0 && consumers.cut > 0);
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
