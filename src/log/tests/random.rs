//! Random histories, each beside the model; with crashes, failures, and a disk that is full.
//!
//! `LOG_SEED=n` plays one, and tells what the disk did; `LOG_SEEDS=n` plays so many.

use super::{
    super::{files::FaultKind, *},
    Dice, Disk, Last, Model, SEGMENT,
    disk::Trouble,
};

const KEEP: u64 = 6;

struct World {
    dice: Dice,
    disk: Disk,
    store: Store<Disk>,
    /// What a crash may leave: the first is what was synced last; the last is what there is now.
    states: Vec<Model>,
    /// What a batch that failed would have made of it: it may be there after a crash.
    perhaps: Option<Model>,
    rooms_in_memory: usize,
}

/// A batch with what it needs to live.
struct Plan(Vec<(u64, String, u64, Vec<u8>)>);

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let disk = Disk::new(dice.roll());
        let rooms_in_memory = dice.below(8) as usize;
        let store = open(&disk, rooms_in_memory);
        let states = vec![Model::default()];
        Self { dice, disk, store, states, perhaps: None, rooms_in_memory }
    }

    fn now(&self) -> &Model {
        self.states.last().expect("there is always one")
    }

    fn play(&mut self) {
        for _ in 0..self.dice.below(120) + 20 {
            match self.dice.below(20) {
                0..=9 => self.commit(),
                10..=12 => self.sync(),
                13..=15 => self.step(),
                16 => self.compare(),
                17 => self.trouble(),
                18 if self.dice.chance(30) => self.reopen(),
                _ => self.crash_if_asked(),
            }
            if self.disk.has_crashed() {
                self.crash();
            }
        }
        self.crash();
    }

    fn plan(&mut self) -> Plan {
        let count = self.dice.below(5) + 1;
        let mut next = self.now().clone();
        let ops = (0..count).map(|_| {
            let room = format!("r{}", self.dice.below(6));
            let known = next.0.get(&room).cloned().unwrap_or_default();
            let kind = [0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5][self.dice.below(11) as usize];
            let at = match kind {
                0 if known.placed => known.next,
                0 => self.dice.below(5),
                // Offset 0 may be trimmed to, and shows as a room with only a head.
                2 => (known.first + self.dice.below(8)).max(1),
                3 => known.next.saturating_sub(1 + self.dice.below(4)),
                4 => known.first,
                _ => 0,
            };
            let kind = if kind == 4 && known.entries.is_empty() { 0 } else { kind };
            let at = if kind == 0 && known.placed { known.next } else { at };
            let size = if self.dice.chance(5) { 900 } else { 120 };
            let bytes = match known.entries.get(&at).filter(|_| kind == 4) {
                Some((_, bytes)) => bytes.clone(),
                None => vec![self.dice.roll() as u8; self.dice.below(size) as usize],
            };
            let op = (kind, room, at.max(u64::from(kind == 0)), bytes);
            next.apply(&Plan(vec![op.clone()]).ops(&next));
            op
        });
        Plan(ops.collect())
    }

    fn commit(&mut self) {
        let plan = self.plan();
        let before = self.now().clone();
        let ops = plan.ops(&before);
        let mut after = before.clone();
        after.apply(&ops);
        match self.store.commit(&ops) {
            Ok(()) => {
                self.perhaps = None;
                self.states.push(after);
            }
            Err(WriteError::Refused { refusal: Refusal::TooLarge { .. }, .. }) => {}
            Err(WriteError::Refused { room, refusal, .. }) => panic!("{room}: {refusal}"),
            Err(WriteError::Failed { torn: false, .. }) => {}
            Err(WriteError::Failed { torn: true, .. } | WriteError::Closed { .. }) => {
                self.perhaps = Some(after);
            }
        }
    }

    fn sync(&mut self) {
        match self.store.sync() {
            Ok(()) => self.states.drain(..self.states.len() - 1).for_each(drop),
            Err(WriteError::Closed { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn step(&mut self) {
        for _ in 0..self.dice.below(12) {
            if self.store.step(0, &Last(KEEP)).is_err() {
                break;
            }
        }
        if !self.disk.has_crashed() {
            self.learn();
        }
    }

    /// A step trims rooms, or not yet.
    fn learn(&mut self) {
        let held = Model::of(&mut self.store).expect("whole");
        if held != *self.now() {
            assert!(self.now().is(&held, Some(KEEP)), "{held:?} is not {:?}", self.now());
            self.states.push(held);
        }
    }

    fn compare(&mut self) {
        let held = Model::of(&mut self.store).expect("whole");
        assert_eq!(held, *self.now());
        assert_eq!(self.store.take_damage(), []);
    }

    fn trouble(&mut self) {
        let after = self.dice.below(12);
        match self.dice.below(8) {
            0 => {
                let bytes = self.disk.used() + self.dice.below(u64::from(SEGMENT) * 2);
                self.disk.set_capacity(Some(bytes));
            }
            1 | 2 => self.disk.set_capacity(None),
            3 => self.disk.trouble(after, Trouble::Fail(FaultKind::Io)),
            4 => self.disk.set_read_only(),
            5 => self.disk.no_trouble(),
            _ => self.disk.trouble(after, Trouble::Crash),
        }
    }

    fn crash_if_asked(&mut self) {
        // A store that has closed is of no more use.
        if self.store.closed.is_some() || self.dice.chance(10) {
            self.crash();
        }
    }

    fn crash(&mut self) {
        self.disk.no_trouble();
        self.disk.set_capacity(None);
        self.disk.crash();
        // While it recovers, it may crash again.
        while self.dice.chance(30) {
            self.disk.trouble(self.dice.below(6), Trouble::Crash);
            let opened = Store::open(self.disk.clone(), options(self.rooms_in_memory), 7);
            assert!(opened.is_ok() || self.disk.has_crashed(), "{:?}", opened.err());
            self.disk.crash();
        }
        self.store = open(&self.disk, self.rooms_in_memory);
        let held = Model::of(&mut self.store).expect("whole");
        let states = self.states.iter().chain(&self.perhaps);
        let known = states.clone().any(|it| it.is(&held, Some(KEEP)));
        assert!(known, "{held:#?}\nis none of\n{:#?}", states.collect::<Vec<_>>());
        assert_eq!(self.store.take_damage(), []);
        (self.states, self.perhaps) = (vec![held], None);
    }

    /// Without a crash.
    fn reopen(&mut self) {
        if self.store.sync().is_err() {
            return self.crash();
        }
        self.disk.no_trouble();
        self.disk.set_capacity(None);
        self.store = open(&self.disk, self.rooms_in_memory);
        let held = Model::of(&mut self.store).expect("whole");
        let perhaps = self.perhaps.take();
        let states = [Some(self.now().clone()), perhaps];
        assert!(states.iter().flatten().any(|it| it.is(&held, Some(KEEP))));
        self.states = vec![held];
    }
}

impl Plan {
    fn ops<'a>(&'a self, model: &Model) -> Vec<Op<'a>> {
        let op = |(kind, room, at, bytes): &'a (u64, String, u64, Vec<u8>)| {
            let (at, room) = (*at, room.as_str());
            let time = model.0.get(room).and_then(|it| it.entries.get(&at)).map(|(time, _)| *time);
            match kind {
                0 => Op::Append { room, offset: at, time: at * 10, bytes },
                1 => Op::Head { room, bytes },
                2 => Op::Trim { room, first: at },
                3 => Op::Truncate { room, last: at },
                4 => Op::Repair { room, offset: at, time: time.unwrap_or(at * 10), bytes },
                _ => Op::Remove { room },
            }
        };
        self.0.iter().map(op).collect()
    }
}

fn options(rooms_in_memory: usize) -> Options {
    Options { segment_bytes: SEGMENT, rooms_in_memory }
}

fn open(disk: &Disk, rooms_in_memory: usize) -> Store<Disk> {
    let (store, opened) = match Store::open(disk.clone(), options(rooms_in_memory), 7) {
        Ok(opened) => opened,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(opened.damage, []);
    store
}

/// Tells the seed, and what the disk did, if the test fails.
struct Told {
    seed: u64,
    disk: Disk,
    story: bool,
    whole: bool,
}

impl Drop for Told {
    fn drop(&mut self) {
        if !self.whole {
            if self.story {
                eprintln!("{}", self.disk.story());
            }
            eprintln!("LOG_SEED={} plays this again", self.seed);
        }
    }
}

#[test]
fn what_was_synced_is_there_and_nothing_else_is_ever_served() {
    let number = |name| std::env::var(name).ok().and_then(|it| it.parse::<u64>().ok());
    let (seeds, story) = match number("LOG_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (
            0..number("LOG_SEEDS").unwrap_or(if cfg!(debug_assertions) { 200 } else { 3_000 }),
            false,
        ),
    };
    for seed in seeds {
        let mut world = World::new(seed);
        if story {
            world.disk.tell();
        }
        let mut told = Told { seed, disk: world.disk.clone(), story, whole: false };
        world.play();
        told.whole = true;
    }
}
