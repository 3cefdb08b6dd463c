//! `kill`: one of three nodes is killed. When can its rooms be published to again, when do they deliver again, and
//! what is lost of what was acknowledged?
//!
//! In: how many rooms, and how many of them have a subscriber. Out: [`Kill`], round by round.
//!
//! Nothing outside tells where a room has its home. But a room whose home has died goes on under a new epoch, and
//! every other one under its old: which is how the killed node's rooms are told from the rest afterwards.

use crate::callers::Callers;
use crate::conn::Heard;
use crate::dialect::{Dialect, Meaning, Since, Wanted, Who};
use crate::fleet::{Fleet, time_left};
use crate::http;
use crate::kept::{self, Acked, Fate};
use crate::limits;
use crate::publisher::{payload, stamp};
use crate::settling::Watch;
use crate::steady::{Steady, SteadyLoad};
use crate::table::{Report, Table, count, median, quantile};
use crate::target::{Node, TargetArgs};
use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::{Value, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// How long rooms may take to publish and deliver again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is published steadily before the kill.
const BEFORE: Duration = Duration::from_secs(2);
/// What half of the killed node's rooms have to stay within, in milliseconds.
const GOAL: f64 = 1_000.0;
/// Stamps of the publications that follow the kill, clear of those before it.
const FIRST_PROBE: u64 = 1 << 40;

/// The options of `kill`.
#[derive(Args, Clone, Debug)]
pub struct KillArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Rooms with one acknowledged publication each
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    rooms: u32,
    /// Of these, rooms with a subscriber on a node that stays; about a third have their home on the other
    #[arg(long, default_value_t = 900, value_parser = clap::value_parser!(u32).range(30..=10_000))]
    subscribed: u32,
    /// Rounds, each with nodes of its own; figures are the median round's
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    load: SteadyLoad,
}

impl KillArgs {
    /// The settings that the goals are said of.
    pub fn of_readme(target: TargetArgs) -> Self {
        let load = SteadyLoad::of_readme();
        Self { target, rooms: 20_000, subscribed: 900, rounds: 3, load }
    }
}

/// What a kill came to.
#[derive(Clone, Debug, Default)]
struct Round {
    /// Of each room whose home was killed: milliseconds until it took a publication and delivered one.
    orphans: Vec<f64>,
    /// The same of the other rooms.
    others: Vec<f64>,
    /// Rooms that did not, in time.
    never: u64,
    /// Subscribers that were told that they had missed something.
    told: u64,
    /// Of all that was acknowledged, by rooms that nobody is in and by the load too.
    fate: Fate,
    /// Publications of the load that were refused or not answered.
    refused: u64,
}

/// The rounds.
#[derive(Clone, Debug)]
pub struct Kill {
    args: KillArgs,
    rounds: Vec<Round>,
}

/// Runs the measurement.
pub fn run(args: &KillArgs) -> Result<Kill> {
    ensure!(!args.target.is_attached(), "a node is killed, so it is started here");
    ensure!(args.subscribed <= args.rooms, "more rooms with subscribers than rooms");
    limits::require_files(2 * u64::from(args.subscribed) + args.load.connections() as u64)?;
    let rounds = (0..args.rounds).map(|_| round(args)).collect::<Result<_>>()?;
    Ok(Kill { args: args.clone(), rounds })
}

fn round(args: &KillArgs) -> Result<Round> {
    let (key, rooms, busy) = (args.target.api_key(), args.rooms as usize, args.load.load_rooms);
    let mut nodes = args.target.nodes(3)?;
    let killed = nodes.pop().context("there is no node to kill")?;
    let mut acked = kept::fill(&nodes[0], key, rooms + busy as usize, 64)?;
    let mut run = Run::connect(args, &nodes)?;
    let load = Steady::start(args.load, &nodes[0], key, rooms);
    thread::sleep(BEFORE);
    run.open_publishers(&nodes)?;
    let start = Instant::now();
    drop(killed);
    run.go_on_until_all_are_live(start)?;
    let published = load.finish()?;
    // Before that a room may be on its way.
    Watch::new(args.rooms.into(), busy.into()).wait(&nodes, PATIENCE)?;
    let mut found = Round::of(&run.rooms, &acked, start);
    found.refused = published.refused() + published.unanswered;
    let probes = run.rooms.into_iter().enumerate().filter_map(|(room, it)| {
        let (position, _) = it.acked?;
        Some(Acked { room, stamp: FIRST_PROBE + room as u64, position })
    });
    acked.extend(probes);
    acked.extend(published.acked().cloned());
    found.fate = kept::fate(acked, &nodes, key)?;
    Ok(found)
}

/// A room with a subscriber.
#[derive(Debug, Default)]
struct Room {
    /// Where its subscriber is.
    position: Since,
    /// Where the publication after the kill was placed, and when that was said.
    acked: Option<(Since, Instant)>,
    /// When the subscriber had it.
    delivered: Option<Instant>,
    /// How often the subscriber was told that it had missed something.
    told: u64,
}

impl Room {
    /// Milliseconds after which it had taken a publication and delivered one; none: it has not.
    fn live_after(&self, start: Instant) -> Option<f64> {
        let (_, acked) = self.acked.as_ref()?;
        let live = self.delivered?.max(*acked);
        Some((live - start).as_secs_f64() * 1e3)
    }
}

/// What is to be done about a room.
enum Todo {
    Publish,
    Subscribe,
}

struct Run<'a> {
    api_key: &'a str,
    fleet: Fleet,
    dialect: &'static dyn Dialect,
    /// Rooms by their numbers, which are also those of their subscribers' connections.
    rooms: Vec<Room>,
    /// Those that publish through each node, with the rooms that they publish to.
    publishers: Vec<(String, Callers<usize>)>,
}

impl<'a> Run<'a> {
    /// Subscribers, on every node in turn.
    fn connect(args: &'a KillArgs, nodes: &[Node]) -> Result<Self> {
        let plan = |room: usize| {
            Arc::new(nodes[room % nodes.len()].client_plan(&[kept::room(room)], true))
        };
        let mut fleet = Fleet::new()?;
        let mut rooms: Vec<Room> = (0..args.subscribed).map(|_| Room::default()).collect();
        let plans: Vec<_> = (0..rooms.len()).map(plan).collect();
        fleet.open_each_hearing(plans.into_iter(), |id, heard| {
            if let (Heard::Subscribed(0, answer), Some(room)) = (heard, rooms.get_mut(id)) {
                room.position = answer.position.clone().unwrap_or_default();
            }
        })?;
        let (api_key, dialect) = (args.target.api_key(), nodes[0].dialect());
        Ok(Self { api_key, fleet, dialect, rooms, publishers: Vec::new() })
    }

    /// Connections for one publication to each room at the same time.
    fn open_publishers(&mut self, nodes: &[Node]) -> Result<()> {
        let each = self.rooms.len().div_ceil(nodes.len());
        for node in nodes {
            let callers = Callers::open(&mut self.fleet, node.api_plan(), each)?;
            self.publishers.push((node.host(), callers));
        }
        Ok(())
    }

    /// Publishes to each room until it has taken it, and has subscribers come back, as an SDK does.
    fn go_on_until_all_are_live(&mut self, start: Instant) -> Result<()> {
        (0..self.rooms.len()).try_for_each(|room| self.publish(room))?;
        let deadline = start + PATIENCE;
        while self.rooms.iter().any(|room| room.live_after(start).is_none())
            && let Some(left) = time_left(deadline)
        {
            for (room, todo) in self.listen(left)? {
                match todo {
                    Todo::Publish => self.publish(room)?,
                    Todo::Subscribe => self.subscribe(room)?,
                }
            }
        }
        Ok(())
    }

    /// Publishes through another node than the subscriber's.
    fn publish(&mut self, room: usize) -> Result<()> {
        let node = (room + 1) % self.publishers.len();
        let (host, callers) = &mut self.publishers[node];
        let data = payload(64, FIRST_PROBE + room as u64);
        let request = http::publish_request(host, self.api_key, &kept::room(room), &data);
        callers.call(&mut self.fleet, &request, room)
    }

    fn subscribe(&mut self, room: usize) -> Result<()> {
        let since = Some(self.rooms[room].position.clone());
        let who =
            Who { rooms: vec![Wanted { room: kept::room(room), since }], token: None, data: None };
        let first = self.dialect.first_subscription();
        let command = self.dialect.set_up(first, &who).context("clients can't subscribe again")?;
        self.fleet.send(room, &command)
    }

    /// Listens for at most `timeout`. Returns what is to be done then.
    fn listen(&mut self, timeout: Duration) -> Result<Vec<(usize, Todo)>> {
        let Self { fleet, rooms, publishers, dialect, .. } = self;
        let mut todo = Vec::new();
        fleet.pump(timeout, |id, message| {
            let called = publishers.iter_mut().find_map(|(_, callers)| callers.answered(id));
            match (called, rooms.get_mut(id)) {
                (Some(room), _) => match kept::published(message) {
                    Ok(position) => rooms[room].acked = Some((position, Instant::now())),
                    Err(_) => todo.push((room, Todo::Publish)),
                },
                (None, Some(room)) => {
                    todo.extend(room.hear(id, *dialect, message).map(|it| (id, it)))
                }
                (None, None) => {}
            }
        })?;
        Ok(todo)
    }
}

impl Room {
    /// Its subscriber hears something.
    fn hear(&mut self, number: usize, dialect: &dyn Dialect, message: &[u8]) -> Option<Todo> {
        match dialect.meaning(message) {
            Meaning::Unsubscribed | Meaning::Refusal => return Some(Todo::Subscribe),
            Meaning::Delivery => {
                self.position.offset = dialect.offset(message).unwrap_or(self.position.offset);
            }
            Meaning::Ack => {
                let answer = dialect.answer(dialect.first_subscription(), message).ok()??;
                self.told += u64::from(!answer.recovered);
                self.position = answer.position?;
            }
            Meaning::Ping | Meaning::Other => return None,
        }
        // Pushed, or recovered with the new subscription.
        if stamp(message) == Some(FIRST_PROBE + number as u64) {
            self.delivered.get_or_insert_with(Instant::now);
        }
        None
    }
}

impl Kill {
    /// Milliseconds until half of the killed node's rooms published and delivered again, in the median round.
    pub fn median_millis(&self) -> f64 {
        self.median_of_rounds(0.5)
    }

    /// Acknowledged publications that are lost.
    pub fn lost(&self) -> u64 {
        self.sum(|round| round.fate.lost)
    }

    /// Rooms that did not publish or deliver again.
    pub fn never(&self) -> u64 {
        self.sum(|round| round.never)
    }

    /// Everything that can be said about it.
    pub fn report(&self) -> Report {
        let KillArgs { rooms, subscribed, load, .. } = self.args;
        let title = format!(
            "Kill: one of three nodes with {} rooms, {} of them with a subscriber elsewhere, at {} publications/s",
            count(rooms.into()),
            count(subscribed.into()),
            load.rate
        );
        let note = "Times are from the kill until a room has both taken a publication and delivered one to its \
                    subscriber. Refused are publications of the load, which a backend would repeat; told are \
                    subscribers that were told that they had missed something.";
        Report { title, table: self.table(), notes: vec![note.to_owned()], json: self.json() }
    }

    fn table(&self) -> Table {
        let mut table = Table::new([
            "round",
            "its rooms",
            "median ms",
            "p99 ms",
            "max ms",
            "others p99 ms",
            "never",
            "told",
            "refused",
            "lost",
        ]);
        for (index, round) in self.rounds.iter().enumerate() {
            let [half, most, all] =
                [0.5, 0.99, 1.0].map(|it| format!("{:.0}", round.orphans_at(it)));
            table.row([
                (index + 1).to_string(),
                round.orphans.len().to_string(),
                half,
                most,
                all,
                format!("{:.0}", quantile(round.others.iter().copied(), 0.99)),
                count(round.never),
                count(round.told),
                count(round.refused),
                count(round.fate.lost),
            ]);
        }
        let [half, most, all] =
            [0.5, 0.99, 1.0].map(|it| format!("{:.0}", self.median_of_rounds(it)));
        let sum = |of: fn(&Round) -> u64| count(self.sum(of));
        let sums =
            [sum(|it| it.never), sum(|it| it.told), sum(|it| it.refused), sum(|it| it.fate.lost)];
        let [never, told, refused, lost] = sums;
        let (name, none) = ("median, in all".to_owned(), String::new());
        table.row([name, none.clone(), half, most, all, none, never, told, refused, lost]);
        let goal = ["goal", "", &format!("≤ {GOAL}"), "", "", "", "0", "0", "", "0"];
        table.row(goal.map(str::to_owned));
        table
    }

    fn json(&self) -> Value {
        json!({
            "bench": "kill", "rooms": self.args.rooms, "subscribed": self.args.subscribed,
            "rounds": self.rounds.len(),
            "its_rooms": self.sum(|it| it.orphans.len() as u64),
            "median_ms": self.median_of_rounds(0.5), "p99_ms": self.median_of_rounds(0.99),
            "max_ms": self.median_of_rounds(1.0),
            "never": self.never(), "lost": self.lost(),
            "told": self.sum(|it| it.told), "refused": self.sum(|it| it.refused),
        })
    }

    fn sum(&self, of: impl Fn(&Round) -> u64) -> u64 {
        self.rounds.iter().map(of).sum()
    }

    /// What this share of the killed node's rooms stayed within, in the median round.
    fn median_of_rounds(&self, share: f64) -> f64 {
        median(self.rounds.iter().map(|round| round.orphans_at(share)))
    }
}

impl Round {
    /// What rooms with subscribers came to after `start`; `before` is the publication that each had until then.
    fn of(rooms: &[Room], before: &[Acked], start: Instant) -> Self {
        let mut found = Self::default();
        for (room, before) in rooms.iter().zip(before) {
            found.told += room.told;
            match (room.live_after(start), &room.acked) {
                (Some(millis), Some((position, _))) if position.epoch == before.position.epoch => {
                    found.others.push(millis);
                }
                (Some(millis), Some(_)) => found.orphans.push(millis),
                _ => found.never += 1,
            }
        }
        found
    }

    fn orphans_at(&self, share: f64) -> f64 {
        quantile(self.orphans.iter().copied(), share)
    }
}
