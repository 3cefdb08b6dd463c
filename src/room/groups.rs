//! The groups of a node: which rooms have some, and which are to be looked at.
//!
//! In: what happens in the rooms whose messages they share, and in their own. Out: looks at groups, each with both rooms
//! at hand, after whatever an input has done in one of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    node::Out,
    registry::State,
    room::{Role, Room},
    types::{Answer, NewPublication, Publication, ReplyTo, Request, RoomName},
};
use crate::{queue::group::Counts, queue::name, runtime::time::Time};

/// The most looks at groups that one input brings.
const LOOKS: usize = 64;

/// What the log has read of a room's messages for a group.
#[derive(Debug)]
pub struct GroupRead {
    /// The group's room.
    pub group: RoomName,
    /// From which offset on they were to be read.
    pub from: u64,
    /// The messages, each with when it was published; none: they can't be read now.
    pub messages: Option<Vec<(Time, Arc<Publication>)>>,
    /// One that can't be read any more.
    pub unreadable: Option<u64>,
}

/// The groups of a node.
#[derive(Debug, Default)]
pub struct Groups {
    /// By the room whose messages they share.
    known: BTreeMap<RoomName, Known>,
    /// The rooms of those that are to be looked at.
    due: BTreeSet<RoomName>,
    /// By the room whose messages they share: those that are to be looked at once it is open here.
    waiting: BTreeMap<RoomName, BTreeSet<RoomName>>,
    /// Messages to be read: for which group, from which offset on, how many.
    to_read: Vec<(RoomName, u64, usize)>,
    /// What was read.
    pub(super) has_read: Vec<GroupRead>,
    /// Dead letters that are to be put into their rooms.
    to_bury: Vec<(u64, RoomName, NewPublication)>,
    /// Those that are on their way: of which group, and which message.
    burials: BTreeMap<u64, (RoomName, u64)>,
    counts: Counts,
}

/// The groups of one room.
#[derive(Debug, Default)]
struct Known {
    /// By their rooms: up to where each has settled everything; none: that is not known yet.
    floors: BTreeMap<RoomName, Option<u64>>,
    /// Up to where the room's messages could be given when the groups were looked at last.
    top: u64,
}

impl Groups {
    /// The group of this room is to be looked at.
    pub(super) fn wake(&mut self, group: &RoomName) {
        self.due.insert(group.clone());
    }

    /// The room's messages may be given up to `top` now.
    pub(super) fn reach(&mut self, room: &RoomName, top: u64) {
        if let Some(known) = self.known.get_mut(room)
            && std::mem::replace(&mut known.top, top) != top
        {
            self.due.extend(known.floors.keys().cloned());
        }
    }

    /// The group of this room can be looked at once `room` is open.
    fn wait(&mut self, room: &RoomName, group: &RoomName) {
        self.waiting.entry(room.clone()).or_default().insert(group.clone());
    }

    /// All groups of a room are to be looked at.
    pub(super) fn wake_all_of(&mut self, room: &RoomName) {
        self.due.extend(self.waiting.remove(room).unwrap_or_default());
        if let Some(known) = self.known.get(room) {
            self.due.extend(known.floors.keys().cloned());
        }
    }

    /// Up to where all groups of a room have settled everything; none if it has none.
    pub(super) fn floor(&self, room: &RoomName) -> Option<u64> {
        let floors = self.known.get(room)?.floors.values();
        floors.map(|it| it.unwrap_or_default()).min()
    }

    /// How many groups a room has here.
    pub(super) fn of_room(&self, room: &str) -> usize {
        self.known.get(room).map_or(0, |it| it.floors.len())
    }

    /// Takes note of a group's room after something has happened in it.
    pub(super) fn note(&mut self, room: &Room) {
        if !room.is_group() {
            return;
        }
        let floor = match &room.role {
            Role::Home(home) => home.group().and_then(|it| it.floor()),
            _ => None,
        };
        let source = name::room(&room.name);
        // At its home it is known whether it has begun; elsewhere there may be one.
        let is_there = if room.is_home() { floor.is_some() } else { room.holds_something() };
        if !is_there {
            return self.strike(&room.name);
        }
        if let Some(known) = self.known.get_mut(source) {
            match known.floors.get_mut(&room.name) {
                Some(known) => *known = floor,
                None => drop(known.floors.insert(room.name.clone(), floor)),
            }
            return;
        }
        let floors = BTreeMap::from([(room.name.clone(), floor)]);
        self.known.insert(source.into(), Known { floors, top: 0 });
    }

    /// A group's room is forgotten.
    pub(super) fn forget(&mut self, group: &RoomName) {
        self.strike(group);
        let source = name::room(group);
        if let Some(waiting) = self.waiting.get_mut(source) {
            waiting.remove(group);
            if waiting.is_empty() {
                self.waiting.remove(source);
            }
        }
    }

    /// Nothing is here of a group.
    fn strike(&mut self, group: &RoomName) {
        let source = name::room(group);
        if let Some(known) = self.known.get_mut(source) {
            known.floors.remove(group);
            if known.floors.is_empty() {
                self.known.remove(source);
            }
        }
    }

    /// So many messages are to be read for a group, from this offset on.
    pub(super) fn read(&mut self, group: &RoomName, offset: u64, count: usize) {
        self.to_read.push((group.clone(), offset, count));
    }

    /// A dead letter is to be put into its room.
    pub(super) fn bury(
        &mut self,
        id: u64,
        group: &RoomName,
        offset: u64,
        to: RoomName,
        letter: NewPublication,
    ) {
        self.burials.insert(id, (group.clone(), offset));
        self.to_bury.push((id, to, letter));
    }

    /// What has come of messages.
    pub(super) fn count(&mut self, counts: Counts) {
        let own = &mut self.counts;
        own.delivered += counts.delivered;
        own.redelivered += counts.redelivered;
        own.acked += counts.acked;
        own.dead += counts.dead;
        own.expired += counts.expired;
        own.lost += counts.lost;
        own.stale += counts.stale;
    }

    /// What has come of messages, since the node is here.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many groups there are here.
    pub fn len(&self) -> usize {
        self.known.values().map(|it| it.floors.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether there is nothing to be done for any.
    fn is_quiet(&self) -> bool {
        self.due.is_empty() && self.has_read.is_empty() && self.burials.is_empty()
    }

    /// Whether some are to be looked at.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }
}

impl State {
    /// Looks at groups for which something has happened.
    pub(super) fn settle_groups(&mut self) {
        if self.node.groups.is_quiet() {
            return;
        }
        for _ in 0..LOOKS {
            self.take_burials();
            self.take_reads();
            let Some(group) = self.node.groups.due.pop_first() else { break };
            self.look_at_group(&group);
            self.ask_for_groups();
        }
        self.take_burials();
    }

    fn look_at_group(&mut self, name: &RoomName) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let Some(mut group) = room.take_group() else {
            // It is not open here, and its room has messages for it.
            self.with_room(name, |room, node| room.open_for_group(node));
            return;
        };
        if self.is_dormant(group.source()) {
            self.with_woken(group.source(), |room, node| room.last_used = node.now);
        }
        let source = self.rooms.get(group.source()).filter(|it| it.is_home());
        let Some(source) = source else {
            let source = group.source().clone();
            self.with_room(name, |room, _| room.put_group(group));
            self.node.groups.wait(&source, name);
            self.in_room(&source, |room, node| room.open_for_group(node));
            return;
        };
        let top = source.acked_top();
        let out = group.run(name, source, top, &mut self.node);
        let more = group.has_more();
        self.with_room(name, |room, node| {
            room.put_group(group);
            room.perform_group(out, node);
            room.settle(node);
        });
        if more {
            self.node.groups.wake(name);
        }
    }

    /// Has messages read that groups need, and puts dead letters into their rooms.
    fn ask_for_groups(&mut self) {
        for (group, offset, count) in std::mem::take(&mut self.node.groups.to_read) {
            let source: RoomName = name::room(&group).into();
            self.with_room(&source, |room, node| room.read_for_group(group, offset, count, node));
        }
        for (id, to, letter) in std::mem::take(&mut self.node.groups.to_bury) {
            let request = Request::Publish(letter, ReplyTo::Burial(id));
            self.request(&to, request);
        }
    }

    /// What was read for groups.
    fn take_reads(&mut self) {
        for read in std::mem::take(&mut self.node.groups.has_read) {
            let group = read.group.clone();
            self.with_room(&group, |room, node| {
                let now = node.now;
                if let Some(side) = room.group_mut() {
                    side.has_read(read, now);
                    node.groups.wake(&room.name);
                }
            });
        }
    }

    /// What rooms have answered to dead letters. One that was not taken is sent again later.
    fn take_burials(&mut self) {
        if self.node.groups.burials.is_empty() {
            return;
        }
        let is_burial = |out: &mut Out| matches!(out, Out::Answer { to: ReplyTo::Burial(_), .. });
        let answers: Vec<Out> = self.node.out.extract_if(.., is_burial).collect();
        for answer in answers {
            let Out::Answer { to: ReplyTo::Burial(id), answer } = answer else { continue };
            let Some((group, offset)) = self.node.groups.burials.remove(&id) else { continue };
            if let Answer::Published(_) = answer {
                self.with_room(&group, |room, node| room.buried(offset, node));
            }
        }
    }
}
