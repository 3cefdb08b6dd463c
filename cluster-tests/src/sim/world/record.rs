//! What was promised and told in a history, to be judged at its end.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::room::types::{Answer, ClientId, Position, RoomName};

/// A publication that a publisher wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    /// The number of its room.
    pub(super) room: usize,
    /// The bytes of its content.
    pub(super) size: usize,
    /// How often its publisher has tried again.
    pub(super) tries: u8,
    /// The node that has yet to answer.
    pub(super) through: Option<usize>,
}

/// An attempt to publish.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) number: u64,
    /// The number of its room.
    pub(super) room: usize,
    pub(super) node: usize,
    pub(super) at: u64,
}

/// A publication that a node has acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acked {
    /// The number of its room.
    pub(super) room: usize,
    /// Where it is, as was said.
    pub(super) position: Option<Position>,
    pub(super) at: u64,
    /// The node that said so.
    pub(super) node: usize,
}

/// A connection of a client, for one stay in one room.
#[derive(Debug, Clone)]
pub(super) struct Stay {
    pub(super) room: RoomName,
    /// Whether it was let in.
    pub(super) entered: bool,
    /// Whether it has left, in good order.
    pub(super) left: bool,
    /// How often the application was told that it came, and that it went.
    pub(super) told: (u32, u32),
}

/// A cut of a cluster without a quorum.
#[derive(Debug, Clone)]
pub(super) struct Split {
    pub(super) at: u64,
    /// The nodes of each side, if there are sides: a node may reach two that don't reach each other.
    pub(super) sides: Option<Vec<BTreeSet<usize>>>,
    /// Whether something still passes from one side to the other, but nothing back.
    pub(super) one_way: bool,
    /// When it was over.
    pub(super) until: u64,
    /// The nodes that had something of each room when it came.
    pub(super) holders: BTreeMap<usize, BTreeSet<usize>>,
}

impl Split {
    /// The side of a node.
    pub(super) fn side_of(&self, node: usize) -> Option<u64> {
        let sides = self.sides.as_ref()?;
        sides.iter().position(|side| side.contains(&node)).map(|it| it as u64)
    }

    /// Whether a side can win a room: it had a copy of what was said before the cut, if anything was.
    pub(super) fn can_win(&self, room: usize, side: u64) -> bool {
        let holders = self.holders.get(&room).filter(|it| !it.is_empty());
        holders.is_none_or(|it| it.iter().any(|node| self.side_of(*node) == Some(side)))
    }

    /// The side that has acknowledged something: that of the node, or else the epoch.
    pub(super) fn side(&self, acked: &Acked) -> Option<u64> {
        match self.sides {
            Some(_) => self.side_of(acked.node),
            None => acked.position.map(|it| it.epoch.0),
        }
    }
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) published: u64,
    pub(super) asked: BTreeMap<u64, Asked>,
    pub(super) acked: BTreeMap<u64, Acked>,
    pub(super) tries: Vec<Try>,
    pub(super) answers: BTreeMap<u64, Answer>,
    pub(super) stays: BTreeMap<ClientId, Stay>,
    /// Who is where, as the application was told.
    pub(super) told: BTreeSet<(RoomName, ClientId)>,
    /// How often it was told of someone of whom it knew.
    pub(super) repeats: u32,
    pub(super) split: Option<Split>,
    /// The most outputs of one input.
    pub(super) most_outputs: usize,
    /// The bytes of the largest publication.
    pub(super) largest: usize,
}

impl Record {
    /// The next publication.
    pub(super) fn ask(&mut self, room: usize, size: usize) -> u64 {
        self.published += 1;
        self.asked.insert(self.published, Asked { room, size, tries: 0, through: None });
        self.largest = self.largest.max(size);
        self.published
    }

    pub(super) fn application_hears_join(&mut self, room: &RoomName, client: ClientId) -> bool {
        if let Some(stay) = self.stays.get_mut(&client) {
            stay.told.0 += 1;
        }
        let new = self.told.insert((room.clone(), client));
        self.repeats += u32::from(!new);
        new
    }

    pub(super) fn application_hears_leave(&mut self, room: RoomName, client: ClientId) {
        if let Some(stay) = self.stays.get_mut(&client) {
            stay.told.1 += 1;
        }
        self.told.remove(&(room, client));
    }
}
