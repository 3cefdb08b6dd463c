//! From what was counted and measured to clusters that no machine here can hold.
//!
//! In: how many nodes and clients, and what the rooms are for. Out: what a node does every second, and what
//! it does when another dies. Frames are by formulas that the simulation confirms (`tests/scale.rs`); costs of
//! one step are the constants here, each with its source.

use roomcast::{cluster::placement::SLOTS, room::registry::LULL};

use super::scenario::{SIZE, Use};

/// CPU seconds per delivery to a client that is idle between two of them: README, 7.0 µs.
pub const DELIVERY_IDLE: f64 = 7.0e-6;
/// The same when many leave in one write: README, 1,939,000 deliveries per CPU-second.
pub const DELIVERY_BUSY: f64 = 1.0 / 1_939_000.0;
/// Bytes of memory per client: README, 1.72 KiB.
pub const CLIENT: f64 = 1.72 * 1024.0;
/// Bytes of memory per room and node that knows it: README, 977.
pub const ROOM: f64 = 977.0;
/// Bytes to a client per publication: JSON, the room's name, WebSocket header; not TCP's and IP's.
pub const TO_CLIENT: f64 = SIZE as f64 + 60.0;
/// Bytes of a publication on a sealed link: the simulation.
pub const DELIVER: f64 = SIZE as f64 + 47.0;
/// CPU seconds to send a frame on an otherwise idle link: a write (the floor of README's ratio, 6.0 µs), and
/// to queue, encode and seal it ([`super::costs`], 2.2 µs); rounded up.
pub const SEND_IDLE: f64 = 9e-6;
/// The same where many frames leave in one write and are sealed together: a guess of 0.5 µs to hand it to the
/// link, and 0.4 µs to encode and seal it.
pub const SEND_BUSY: f64 = 1e-6;
/// CPU seconds to receive one on an otherwise idle link: to open and decode it, and what the core does with it
/// ([`super::costs`] and the simulation, 4 µs), and a guess of 3 µs to wake and read.
pub const RECEIVE_IDLE: f64 = 7e-6;
/// The same where one read brings many.
pub const RECEIVE_BUSY: f64 = 2.5e-6;
/// CPU seconds to look through one room when a node comes or goes: [`super::costs::of_rooms`], with 556,000.
pub const WALK: f64 = 2.1e-6;
/// Frames that a link carries each way every second to show that it lives.
pub const HEARTBEATS: f64 = 1.0;
/// Times a second that a node for which nothing is due is told of time.
pub const TICKS: f64 = 1e3 / LULL.as_millis() as f64;
/// Bytes of memory of a link: one read buffer (`src/mesh/link.rs`).
pub const LINK: f64 = 64.0 * 1024.0;

/// A cluster and what it is for.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Nodes.
    pub nodes: f64,
    /// Clients.
    pub clients: f64,
    /// What the rooms are for.
    pub what: Use,
    /// Whether they keep what is said.
    pub history: bool,
}

/// What one node does, if all do the same.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Publications to clients, a second.
    pub deliveries: f64,
    /// Bytes to clients, a second.
    pub to_clients: f64,
    /// Frames to other nodes, a second; as many come in.
    pub frames: f64,
    /// Rooms that the node knows.
    pub rooms: f64,
    /// Bytes of memory: clients, rooms and links, without history.
    pub memory: f64,
    /// Frames that the home of the busiest room sends, a second.
    pub home: f64,
    /// When another node dies: rooms that move, in all.
    pub moved: f64,
    /// … and frames that this node gets for it. It sends as many.
    pub death_frames: f64,
    /// … and CPU seconds in which it does nothing else: it looks through its rooms twice.
    pub death_walks: f64,
    /// … and CPU seconds for those frames, in and out.
    pub death_talk: f64,
}

impl Plan {
    /// Members of a room.
    pub fn members(self) -> f64 {
        match self.what {
            Use::Hot => self.clients,
            Use::Chat => 100.0,
            Use::Notices => 1.0,
        }
    }

    /// Rooms, if every client is in one.
    pub fn rooms(self) -> f64 {
        self.clients / self.members()
    }

    /// Publications a second into one room.
    pub fn rate(self) -> f64 {
        match self.what {
            Use::Hot => 100.0,
            Use::Chat => 1.0,
            Use::Notices => 1.0 / 60.0,
        }
    }

    /// Nodes on which a room has members.
    pub fn spread(self) -> f64 {
        self.nodes * (1.0 - (1.0 - 1.0 / self.nodes).powf(self.members()))
    }

    /// Nodes that know a room: those with members, its home, and with history its successor.
    pub fn known_by(self) -> f64 {
        let empty = 1.0 - self.spread() / self.nodes;
        self.spread() + empty * if self.history { 2.0 } else { 1.0 }
    }

    /// Frames of one publication: to the home and its answer, if it is another node; to every other node that
    /// knows the room; and with history the successor's word that it has it.
    pub fn frames(self) -> f64 {
        let elsewhere = 1.0 - 1.0 / self.nodes;
        let copies = self.spread() * elsewhere;
        let successor = 1.0 - self.spread() / self.nodes;
        2.0 * elsewhere + copies + if self.history { successor + 1.0 } else { 0.0 }
    }

    /// Frames of a room that moves because its home has died: those that listen attach to the next one, say their
    /// clients and get their copy. With history they are told as well that it has what they hold. About as many
    /// rooms lose their successor, which is dismissed; new ones for both are invited, attach, say their clients,
    /// get their copy and say what they have.
    pub fn move_frames(self) -> f64 {
        let listening = self.spread() * (self.nodes - 2.0) / self.nodes;
        if self.history { 4.0 * listening + 11.0 } else { 3.0 * listening }
    }

    /// Frames with which those that are left share the slots of a node that has died, however many rooms there are:
    /// each that gets some claims them from each other one, which says what it holds, and that its rooms have
    /// followed.
    pub fn claim_frames(self) -> f64 {
        let (left, slots) = (self.nodes - 1.0, SLOTS as f64 / self.nodes);
        let claimers = left * (1.0 - (1.0 - 1.0 / left).powf(slots));
        3.0 * claimers * (self.nodes - 2.0)
    }

    /// What a node does.
    pub fn load(self) -> Load {
        let (nodes, rooms) = (self.nodes, self.rooms());
        let deliveries = self.clients / nodes * self.rate();
        let known = rooms * self.known_by() / nodes;
        let moved = rooms / nodes;
        let death_frames = (moved * self.move_frames() + self.claim_frames()) / (nodes - 1.0);
        let frames = rooms * self.rate() * self.frames() / nodes;
        Load {
            deliveries,
            to_clients: deliveries * TO_CLIENT,
            frames,
            rooms: known,
            memory: self.clients / nodes * CLIENT + known * ROOM + (nodes - 1.0) * LINK,
            home: self.rate() * (self.spread() - 1.0).max(1.0),
            moved,
            death_frames,
            death_walks: 2.0 * known * WALK,
            death_talk: death_frames * (SEND_BUSY + RECEIVE_BUSY),
        }
    }

    /// CPU seconds a second that deliveries take: where they leave together, and where each leaves alone.
    pub fn delivery_cores(self) -> (f64, f64) {
        let deliveries = self.load().deliveries;
        (deliveries * DELIVERY_BUSY, deliveries * DELIVERY_IDLE)
    }

    /// CPU seconds a second that frames between nodes take on one node, both ends, where they are many and
    /// where each is alone.
    pub fn mesh_cores(self) -> (f64, f64) {
        let frames = self.load().frames;
        (frames * (SEND_BUSY + RECEIVE_BUSY), frames * (SEND_IDLE + RECEIVE_IDLE))
    }
}
