//! What a history of each kind consists of.

use fastrand::Rng;

use super::{Happening, World};
use crate::sim::{Faults, client::Client, network::Capacity};

/// When clients and publishers begin where nodes are not watched as they start, in milliseconds: by then all
/// are ready and seen to be, however late.
const OPENING: u64 = 5_000;
/// The most that a view lags, in most histories and in some.
const LAG: (u64, u64) = (500, 1_500);

/// The most bytes that may wait for a link in a crowded history: some windows of pages, and far less than
/// all that moves when a node joins.
const QUEUE: u64 = 2 << 20;
/// Bytes that the narrowest links carry in a millisecond: some 10,000 rooms go over one in the time in which
/// 1,000,000 go over a link of 1 Gbit/s.
const NARROWEST: u64 = 1_000;
/// The most milliseconds until a client comes back, and in histories in which rooms are idle.
const AWAY: (u64, u64) = (1_500, 9_000);
/// How many more rooms such histories have.
const IDLE_ROOMS: usize = 9;

/// When a crowd is there, and how long it then has to move.
const FILLED: u64 = 10_000;
const MOVED: u64 = 22_000;

/// The numbers of one history.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    /// How many of them come late.
    pub(super) late: usize,
    pub(super) rooms: usize,
    pub(super) clients: usize,
    pub(super) publications: usize,
    /// How many other nodes keep a copy of a room.
    pub(super) replicas: usize,
    /// The nodes that a quorum is of.
    pub(super) quorum_of: Option<usize>,
    /// The most milliseconds that any node's view lags.
    pub(super) lag: u64,
    /// The most milliseconds from when a node sees a peer until they have a link.
    pub(super) link_delay: u64,
    /// Whether two nodes that don't reach each other hear of each other by way of a third.
    pub(super) relayed: bool,
    /// When clients and publishers begin.
    pub(super) opening: u64,
    /// How long things go wrong then.
    pub(super) trouble: u64,
    pub(super) capacity: Option<Capacity>,
    /// Whether a node crashes while all come back from their disks.
    pub(super) again: bool,
    /// Whether what a disk has can be damaged when it comes back; others have it then, and none is lost.
    pub(super) rots: bool,
    /// Whether a disk is full for long, at first: its node does without it, and has all again before anything else happens.
    pub(super) long_full: bool,
    /// Whether nodes come back with disks of the past instead of empty ones.
    pub(super) past_disks: bool,
    /// Whether a disk takes seconds for some of what it is asked.
    pub(super) slow_disks: bool,
    /// Whether disks answer before they sync, so that what was acknowledged may be lost when the power fails.
    pub(super) late_syncs: bool,
    /// Whether so little is written to disks at a time that most copies take the place of those before when they begin.
    pub(super) small_writes: bool,
    /// Whether some nodes are one mesh version behind the others.
    pub(super) mixed: bool,
    /// Whether rooms are on disk in any case, and go out of memory as soon as nobody uses them, which is often.
    pub(super) idle: bool,
}

impl Plan {
    pub(super) fn new(seed: u64, faults: Faults, rng: &mut Rng) -> Self {
        let nodes = rng.usize(2..6);
        let plan = Self {
            nodes,
            late: 0,
            rooms: rng.usize(1..4),
            clients: rng.usize(3..9),
            publications: rng.usize(5..60),
            replicas: 1,
            quorum_of: None,
            lag: if rng.u8(..4) == 0 { LAG.1 } else { LAG.0 },
            link_delay: 50,
            relayed: rng.bool(),
            opening: OPENING,
            trouble: 6_000,
            capacity: None,
            again: false,
            rots: false,
            long_full: faults == Faults::Disks && matches!(seed % 32, 12 | 28 | 29),
            past_disks: faults == Faults::Disks && matches!(seed % 64, 0 | 11 | 13 | 16),
            slow_disks: faults == Faults::Disks && matches!(seed % 32, 4 | 22 | 25),
            small_writes: faults == Faults::Disks && (seed / 128).is_multiple_of(2),
            late_syncs: faults == Faults::Disks && matches!(seed % 128, 8 | 41 | 56 | 61),
            mixed: seed % 4 == 3,
            idle: false,
        };
        match faults {
            Faults::Delays | Faults::Links | Faults::Standstills => plan,
            // With many rooms some are new when a node joins.
            Faults::Joins if rng.bool() => {
                Self { late: nodes / 2, rooms: rng.usize(5..41), ..plan }
            }
            Faults::Joins | Faults::Everything => Self { late: nodes / 2, ..plan },
            Faults::Deaths => Self { trouble: 16_000, ..plan },
            Faults::Disks if seed % 4 == 1 => {
                let (again, rots) = (seed % 8 == 5, matches!(seed % 32, 17 | 25));
                Self { nodes: 3, quorum_of: Some(3), trouble: 32_000, again, rots, ..plan }
            }
            Faults::Disks => {
                let (nodes, rots) = (rng.usize(1..5), seed % 4 == 2);
                Self { nodes, rots, trouble: 32_000, ..plan }
            }
            Faults::Starts => Self { rooms: rng.usize(5..41), link_delay: 300, opening: 0, ..plan },
            Faults::Drains => Self {
                nodes: rng.usize(2..5),
                late: rng.usize(0..2),
                rooms: rng.usize(3..30),
                clients: rng.usize(3..13),
                publications: rng.usize(30..120),
                trouble: 25_000,
                ..plan
            }
            .with_late_ones(),
            Faults::Cuts => Self { trouble: 16_000, ..plan },
            Faults::Quorum => {
                let nodes = if rng.bool() { 3 } else { 5 };
                let (replicas, quorum_of) = (nodes / 2, Some(nodes));
                Self { nodes, replicas, quorum_of, ..plan }
            }
            Faults::ManyRooms => plan.crowded(seed, rng),
        }
    }

    /// The nodes that come late are beside the others.
    fn with_late_ones(self) -> Self {
        Self { nodes: self.nodes + self.late, ..self }
    }

    /// One history in ten has 10,000 rooms.
    fn crowded(self, seed: u64, rng: &mut Rng) -> Self {
        let rooms = if seed % 10 == 9 { 10_000 } else { rng.usize(50..500) };
        let capacity = Capacity { bytes_per_ms: NARROWEST << rng.u8(0..5), queue: QUEUE };
        Self {
            nodes: rng.usize(2..4),
            late: 1,
            rooms,
            clients: rooms / 10,
            publications: 100,
            capacity: Some(capacity),
            ..self
        }
        .with_late_ones()
    }
}

impl World {
    pub(super) fn prepare(&mut self) {
        let Plan { nodes, late, opening, trouble, .. } = self.plan;
        for index in 0..nodes {
            let lag = self.rng.u64(20..=self.plan.lag);
            self.add_node(format!("node-{index}"), lag);
            self.nodes[index].disk.late = self.plan.late_syncs;
            let at = match (index < nodes - late, self.faults) {
                (true, _) => self.rng.u64(0..50),
                (false, Faults::ManyRooms) => continue,
                (false, _) => opening + self.rng.u64(500..trouble),
            };
            self.later(at, Happening::Start(index));
        }
        for index in 0..self.plan.clients {
            let room = if self.faults == Faults::ManyRooms { index } else { self.any_room() };
            self.clients.push(Client::new(self.rooms[room].clone()));
            let at = opening + self.rng.u64(1..1_500);
            self.later(at, Happening::Return(index));
        }
        if self.faults == Faults::ManyRooms {
            self.plan_crowd();
        } else {
            for _ in 0..self.plan.publications {
                let at = opening + self.rng.u64(1..trouble);
                self.later(at, Happening::Publish);
            }
        }
        self.plan_trouble();
    }

    /// Whether an acknowledged message must be in its room's history at the end: see [`Faults::keep_what_is_acked`].
    pub(super) fn keeps_what_is_acked(&self) -> bool {
        self.faults.keep_what_is_acked() && !self.plan.late_syncs
    }

    /// Whether every room keeps its epoch, and each message where it was acknowledged: see [`Faults::leave_no_gap`]. So it is
    /// with a quorum of nodes with disks too, whatever becomes of them.
    pub(super) fn keeps_epochs(&self) -> bool {
        let all_is_synced = self.faults == Faults::Disks && !self.plan.late_syncs;
        self.faults.leave_no_gap() || all_is_synced && self.plan.quorum_of.is_some()
    }

    /// More rooms than are in use at a time.
    pub(super) fn plan_idle_rooms(&mut self) {
        self.plan.idle = true;
        let rooms = self.rooms.len();
        self.rooms.extend((rooms..rooms + IDLE_ROOMS).map(|it| format!("room-{it}").into()));
    }

    /// The most milliseconds until a client comes back.
    pub(super) fn longest_away(&self) -> u64 {
        if self.plan.idle { AWAY.1 } else { AWAY.0 }
    }

    pub(super) fn any_room(&mut self) -> usize {
        self.rng.usize(..self.rooms.len())
    }

    /// Most rooms get a publication or two, in some histories larger ones; some rooms get many large ones, all
    /// slowly enough for the links. A tenth has subscribers, and some of those stay empty.
    fn plan_crowd(&mut self) {
        let (opening, rooms) = (self.plan.opening, self.rooms.len());
        // What fills the rooms has to be far less than the links carry.
        let rate = self.plan.capacity.map_or(NARROWEST, |it| it.bytes_per_ms) as usize;
        let most =
            if self.rng.u8(..3) == 0 { (rate * 1_300 / rooms).clamp(200, 30_000) } else { 200 };
        for room in (0..rooms).filter(|room| room % 4 != 0) {
            for _ in 0..self.rng.usize(1..3) {
                let (at, size) = (self.rng.u64(1..FILLED - 2_000), self.rng.usize(20..most));
                self.later(opening + at, Happening::PublishTo(room, size));
            }
        }
        for _ in 0..self.rng.usize(2..7) {
            let (room, size) = (self.any_room(), self.rng.usize(1_000..50_000).min(rate * 8));
            for _ in 0..self.rng.usize(10..40) {
                let at = opening + self.rng.u64(1..FILLED - 2_000);
                self.later(at, Happening::PublishTo(room, size));
            }
        }
        self.later(opening + FILLED, Happening::Probe);
    }

    /// What follows once it is noted where all rooms stand: one node joins, another drains, perhaps before
    /// that is done, and a few publications come meanwhile.
    pub(super) fn move_crowd(&mut self) {
        let (nodes, late) = (self.plan.nodes, self.plan.late);
        for node in nodes - late..nodes {
            let at = self.rng.u64(100..1_000);
            self.later(at, Happening::Start(node));
        }
        for _ in 0..self.plan.publications {
            let at = self.rng.u64(1..MOVED);
            self.later(at, Happening::Publish);
        }
        let at = self.rng.u64(2_500..7_000);
        self.later(at, Happening::Drain(0));
        self.later(MOVED, Happening::Heal);
    }
}
