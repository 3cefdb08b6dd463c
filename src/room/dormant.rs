//! Rooms on disk that nobody uses: what is remembered of them instead of the room itself.
//!
//! In: a room in which nothing is under way, and whose copies are all where they should be. Out: some bytes, from which the
//! room is made again as soon as anyone needs it. Neither its clients nor other nodes are told: its role, its epoch and who
//! listens to it are what they were. Only its ring of publications is empty then, as that of any room on disk may be:
//! they are read from the log.
//!
//! ```text
//!           nothing has happened for a while ([`Room::dormant_due`])
//!   Room ─────────────────────────────────────────────────────────────► bytes
//!     ▲                                                                   │
//!     └───────────────────────────────────────────────────────────────────┘
//!           a request, a message of a peer, damage on its disk; its slot, its successors or a link
//!           between them have changed ([`State::is_disturbed`]); its time is over
//! ```

use std::{
    borrow::Borrow,
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

use super::{
    home::Home,
    line::{Line, Standing},
    logged::{Logged, LoggedRoom},
    messages::Held,
    mirror::Mirror,
    node::Node,
    options::RoomOptions,
    persisted::{self, Head},
    registry::State,
    room::{Role, Room},
    rooms::Keyed,
    stream::Stream,
    types::RoomName,
};
use crate::{
    cluster::{
        node::NodeId,
        placement::{self, SLOTS},
        slot_set::SlotSet,
        slots::{Ownership, Term},
    },
    runtime::time::Time,
};

/// Bytes of the length of a name.
const LENGTH: usize = 2;
/// How much later than its time a room may be forgotten.
const TOGETHER: Duration = Duration::from_secs(10);

/// A room that is out of memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dormant {
    head: Head,
    /// The first offset that the log may have.
    first: u64,
    /// Milliseconds of this process's clock.
    last_used: u64,
    attendance: u64,
    owed: bool,
    given: Option<Term>,
    /// What the log has was not read since the node started.
    cold: bool,
    /// Members may have all of it.
    visible: bool,
    role: DormantRole,
}

/// What its node is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum DormantRole {
    /// It holds a copy, until the home says that others have it. It reads it anew should it have to.
    Guest,
    /// It is a successor, attached to this home under this number and on this link.
    Successor(NodeId, u64, u64),
    Home(DormantHome),
}

/// What a home remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DormantHome {
    pub term: Term,
    /// Its successors, with the numbers under which they have attached, and the links.
    pub successors: Vec<(NodeId, u64, u64)>,
    /// The run of requests that each node is in, and which of it comes next.
    pub runs: Vec<(NodeId, u64, u32)>,
}

impl Dormant {
    /// A room as it was found in the log.
    fn found(LoggedRoom { head, first, next, .. }: LoggedRoom, now: Time) -> Self {
        let line = Line { top: next.saturating_sub(1), ..head.line };
        Self {
            head: Head { line, ..head },
            first,
            last_used: millis(now),
            attendance: 0,
            owed: true,
            given: None,
            cold: true,
            visible: false,
            role: DormantRole::Guest,
        }
    }

    /// As it is kept.
    fn to_bytes(&self, name: &str) -> Option<Record> {
        let mut bytes = u16::try_from(name.len()).ok()?.to_le_bytes().to_vec();
        bytes.extend_from_slice(name.as_bytes());
        persisted::pack(self, &mut bytes);
        Some(Record(bytes.into()))
    }

    fn is_guest(&self) -> bool {
        matches!(self.role, DormantRole::Guest)
    }

    /// When it is forgotten; none: others say so.
    fn over_at(&self, options: &RoomOptions) -> Option<Time> {
        let at = Time::from_millis(self.last_used) + options.history_meta_ttl;
        (!matches!(self.role, DormantRole::Successor(..))).then_some(at)
    }

    /// The room again.
    fn wake(self, name: RoomName, options: Arc<RoomOptions>, is_quorum: bool) -> Room {
        let Self { head, first, last_used, attendance, owed, given, cold, visible, role } = self;
        let top = head.line.top;
        let mut logged = Logged::found(&head, first, top + 1);
        if !cold {
            logged.goes_on();
            logged.is_warm();
        }
        let mut stream = Stream::from_log(head, logged, top + 1);
        if is_quorum {
            // Of what was found in the log it is not known whether a majority has it.
            stream.commit(if visible { top } else { 0 });
        }
        let mut room = Room::new(name, options, Time::from_millis(last_used));
        room.stream = Some(Box::new(stream));
        (room.attendance, room.owed, room.given) = (attendance, owed, given.map(Box::new));
        match role {
            DormantRole::Guest => {}
            DormantRole::Successor(home, id, link) => {
                room.role = Role::Mirror(Box::new(Mirror::successor(home, id, link)));
            }
            DormantRole::Home(home) => room.role = Role::Home(Box::new(Home::woken(home, top))),
        }
        room
    }

    /// What the node holds of it.
    fn held(&self) -> Held {
        let Head { line, root, term, .. } = &self.head;
        let (attendance, top) = (self.attendance, line.top);
        let standing = Standing { root: *root, term: *term, top, attendance };
        Held { standing, given: self.given }
    }
}

fn millis(at: Time) -> u64 {
    u64::try_from(at.since(Time::default()).as_millis()).unwrap_or(u64::MAX)
}

impl Room {
    /// When it may go out of memory, if nothing happens in it until then; none while something is under way.
    pub(super) fn dormant_due(&self, node: &Node) -> Option<Time> {
        let options = &*self.options;
        // What follows from its publications, or its newest one, is to be had at once.
        let is_kept = || options.is_made_of_changes() || options.recovery_cache;
        if !options.is_on_disk() || is_kept() || self.is_needed() {
            return None;
        }
        let stream = self.stream.as_deref()?;
        let nobody = self.present.as_ref().is_none_or(|it| it.is_empty());
        let nothing = self.outgoing.is_empty() && self.uncommitted.is_none();
        let is_at_rest = nobody
            && nothing
            && stream.is_at_rest()
            && node.groups.of_room(&self.name) == 0
            && match &self.role {
                Role::Guest => self.owed && !node.wakes_guests(self.slot),
                Role::Mirror(mirror) => {
                    stream.is_visible()
                        && mirror.attachment(node).is_some()
                        && self.owner(node) == Some(mirror.home)
                }
                Role::Home(home) => {
                    stream.is_visible()
                        && self.is_on_a_majority(node.acks_needed())
                        && node.slots.ownership(self.slot) == Ownership::Mine(home.term)
                        && home.is_at_rest(&self.wanted_successors(node), self.top(), node)
                }
                Role::Opening(_) => false,
            };
        let settings = &node.settings;
        // A request is sent again for no longer than it waits for its answer.
        let repeats = stream.last_forward().map(|at| at + settings.publish_timeout * 3);
        let due = self.last_used + settings.idle_timeout;
        is_at_rest.then(|| repeats.map_or(due, |it| due.max(it)))
    }

    /// What is remembered of it while it is out of memory.
    fn to_dormant(&self, node: &Node) -> Option<Dormant> {
        let stream = self.stream.as_deref()?;
        let role = match &self.role {
            Role::Guest => DormantRole::Guest,
            Role::Mirror(mirror) => {
                let (id, link) = mirror.attachment(node)?;
                DormantRole::Successor(mirror.home, id, link)
            }
            Role::Home(home) => DormantRole::Home(home.to_dormant(node)),
            Role::Opening(_) => return None,
        };
        Some(Dormant {
            head: stream.head(),
            first: stream.logged.as_deref()?.first_known(),
            last_used: millis(self.last_used),
            attendance: self.attendance,
            owed: self.owed,
            given: self.given.as_deref().copied(),
            cold: self.is_cold() || matches!(self.role, Role::Guest),
            visible: stream.is_visible(),
            role,
        })
    }
}

impl Node {
    /// Whether copies that were found in the log are to be opened or offered in this slot, although nobody uses their
    /// rooms: where other nodes have to have copies too, or this one is about to leave.
    pub(super) fn wakes_guests(&self, slot: u16) -> bool {
        let mine = matches!(self.slots.ownership(slot), Ownership::Mine(_));
        let alone = self.routable.len() <= 1;
        let owner = self.owner(slot);
        let offers = self.is_draining() && owner.is_some_and(|it| it != self.me);
        mine && !alone || offers
    }

    /// All that homes and successors in a slot depend on while nothing happens in their rooms. If it is another, they have
    /// to look what that means to them.
    fn surroundings(&self, slot: u16) -> u64 {
        let owner = self.owner(slot);
        let home = self.placement.home(slot);
        let successors = self.placement.successors(slot);
        let nodes = owner.iter().chain(&home).chain(successors);
        let links: Vec<Option<u64>> = nodes.map(|it| self.link(*it)).collect();
        let ownership = match self.slots.ownership(slot) {
            Ownership::Mine(term) => (0, Some(term), None),
            Ownership::Claimed(term) => (1, Some(term), None),
            Ownership::Theirs(owner) => (2, None, owner),
        };
        let phase = (self.is_draining(), self.is_in_minority());
        FxBuildHasher.hash_one((ownership, owner, home, successors, links, phase))
    }
}

/// The bytes of a dormant room: the length of its name, its name, and the rest.
struct Record(Box<[u8]>);

impl Record {
    fn split(&self) -> (&str, &[u8]) {
        let Some((length, rest)) = self.0.split_first_chunk::<LENGTH>() else { return ("", &[]) };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (name, rest) = rest.split_at(length);
        (std::str::from_utf8(name).unwrap_or_default(), rest)
    }

    fn name(&self) -> &str {
        self.split().0
    }

    fn room(&self) -> Option<Dormant> {
        persisted::unpack(self.split().1)
    }
}

impl Borrow<str> for Record {
    fn borrow(&self) -> &str {
        self.name()
    }
}

impl Hash for Record {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Record {}

/// Those of one slot.
struct Table {
    records: HashSet<Record, Keyed>,
    /// How many of them are of guests.
    guests: usize,
    /// Under which circumstances the others are at rest.
    surroundings: u64,
    /// Before that, none is forgotten.
    over_at: Option<Time>,
}

/// The rooms of one node that are out of memory.
pub(super) struct DormantRooms {
    tables: Vec<Table>,
    /// The slots that have any.
    occupied: SlotSet,
    count: usize,
    /// When which slot's are looked through for those that are over.
    over: BTreeSet<(Time, u16)>,
}

impl std::fmt::Debug for DormantRooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DormantRooms").field("count", &self.count).finish_non_exhaustive()
    }
}

impl DormantRooms {
    /// None. `secret` is the key of the hash.
    pub(super) fn new(secret: u64) -> Self {
        let table = || Table {
            records: HashSet::with_hasher(Keyed::new(secret)),
            guests: 0,
            surroundings: 0,
            over_at: None,
        };
        Self {
            tables: std::iter::repeat_with(table).take(SLOTS).collect(),
            occupied: SlotSet::default(),
            count: 0,
            over: BTreeSet::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The slots that have any.
    pub(super) fn occupied(&self) -> &SlotSet {
        &self.occupied
    }

    /// Whether there is one of this name.
    pub(super) fn contains(&self, slot: u16, name: &str) -> bool {
        self.count > 0 && self.tables[usize::from(slot)].records.contains(name)
    }

    fn of_slot(&self, slot: u16) -> impl Iterator<Item = (&str, Dormant)> {
        let records = self.tables[usize::from(slot)].records.iter();
        records.filter_map(|it| Some((it.name(), it.room()?)))
    }

    /// Whether all of a slot are of homes of this term.
    pub(super) fn are_all_of(&self, slot: u16, term: Term) -> bool {
        let is_of = |it: Dormant| matches!(it.role, DormantRole::Home(home) if home.term == term);
        self.of_slot(slot).all(|(_, it)| is_of(it))
    }

    /// The names of those of a slot.
    pub(super) fn names(&self, slot: u16) -> impl Iterator<Item = RoomName> {
        self.tables[usize::from(slot)].records.iter().map(|it| it.name().into())
    }

    /// Takes in a room of which nothing is needed before `over_at`. Returns whether it is here; not if the others of its slot
    /// are to wake up.
    fn insert(
        &mut self,
        slot: u16,
        name: &str,
        room: &Dormant,
        surroundings: u64,
        over_at: Option<Time>,
    ) -> bool {
        let table = &mut self.tables[usize::from(slot)];
        if !room.is_guest() {
            if table.guests == table.records.len() {
                table.surroundings = surroundings;
            }
            if table.surroundings != surroundings {
                return false;
            }
        }
        let Some(record) = room.to_bytes(name) else { return false };
        if table.records.insert(record) {
            self.count += 1;
            table.guests += usize::from(room.is_guest());
        }
        self.occupied.insert(slot);
        self.look_at(slot, over_at);
        true
    }

    /// A slot is to be looked through at this time.
    fn look_at(&mut self, slot: u16, at: Option<Time>) {
        let table = &mut self.tables[usize::from(slot)];
        // Those that end at about the same time are looked through together.
        if let Some(at) = at.map(|at| at.round_up(TOGETHER))
            && table.over_at.is_none_or(|known| at < known)
        {
            if let Some(known) = table.over_at.replace(at) {
                self.over.remove(&(known, slot));
            }
            self.over.insert((at, slot));
        }
    }

    fn take(&mut self, slot: u16, name: &str) -> Option<Dormant> {
        let table = &mut self.tables[usize::from(slot)];
        let room = table.records.take(name)?.room();
        self.count -= 1;
        table.guests -= usize::from(room.as_ref().is_some_and(Dormant::is_guest));
        if table.records.is_empty() {
            table.records.shrink_to_fit();
            self.occupied.remove(slot);
        }
        room
    }

    /// When a slot is to be looked through.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.over.first().map(|(at, _)| *at)
    }

    fn pop_over(&mut self, now: Time) -> Option<u16> {
        self.over.first().filter(|(at, _)| *at <= now)?;
        let (_, slot) = self.over.pop_first()?;
        self.tables[usize::from(slot)].over_at = None;
        Some(slot)
    }
}

impl State {
    /// Takes in a room that was found in this node's log, to be forgotten if nobody uses it for so long.
    pub(super) fn find_dormant(&mut self, found: LoggedRoom, keep: Duration) -> bool {
        let Self { dormant, node, .. } = self;
        let slot = placement::slot(&found.name);
        let name = found.name.clone();
        node.slots.resume(slot, found.head.term.max(found.head.root.term));
        let room = Dormant::found(found, node.now);
        dormant.insert(slot, &name, &room, 0, Some(node.now + keep))
    }

    /// A room goes out of memory, if nothing is to happen in its slot.
    pub(super) fn put_to_sleep(&mut self, name: &RoomName) {
        let Self { rooms, dormant, node, agenda, .. } = self;
        let Some(room) = rooms.get(name) else { return };
        let Some(it) = room.to_dormant(node) else { return };
        let over_at = room.keep_until(node.settings.linger);
        let surroundings = node.surroundings(room.slot);
        if !dormant.insert(room.slot, name, &it, surroundings, over_at) {
            // Others of its slot have to look first what has changed.
            return self.work.sweep([room.slot]);
        }
        if let Some(room) = rooms.remove(name) {
            agenda.forget(&room, node);
            let bytes = room.stream.as_deref().map_or(0, |it| it.history.bytes());
            node.memory.add(-(bytes as isize));
        }
    }

    /// Brings a room back into memory, if it is out of it. Something has to be done with it at once.
    pub(super) fn wake(&mut self, name: &RoomName) {
        if self.dormant.len() == 0 {
            return;
        }
        let Some(room) = self.dormant.take(placement::slot(name), name) else { return };
        // Its namespace may have gone meanwhile, or be on disk no more: then it is left there, as it is at a start.
        let options = self.namespaces.options(name).filter(|it| it.is_on_disk());
        if let Some(options) = options.cloned() {
            let is_quorum = self.node.is_quorum();
            self.rooms.get_or_insert(name, || Some(room.wake(name.clone(), options, is_quorum)));
        }
    }

    /// Does something with a room that is in memory or out of it.
    pub(super) fn with_woken<T>(
        &mut self,
        name: &RoomName,
        action: impl FnOnce(&mut Room, &mut Node) -> T,
    ) -> Option<T> {
        self.wake(name);
        self.with_room(name, action)
    }

    /// Whether the dormant rooms of a slot have to look what has changed.
    fn is_disturbed(&self, slot: u16) -> bool {
        let table = &self.dormant.tables[usize::from(slot)];
        let (all, guests) = (table.records.len(), table.guests);
        all > guests && table.surroundings != self.node.surroundings(slot)
            || guests > 0 && self.node.wakes_guests(slot)
    }

    /// The dormant rooms of a slot that have to look what has changed, which they are about to do.
    pub(super) fn disturbed(&mut self, slot: u16) -> Vec<RoomName> {
        if !self.is_disturbed(slot) {
            return Vec::new();
        }
        self.dormant.tables[usize::from(slot)].surroundings = self.node.surroundings(slot);
        self.dormant.names(slot).collect()
    }

    /// What this node holds of a dormant room whose slot is another's, if the room itself has nothing to do with that.
    pub(super) fn held_dormant(&self, name: &str) -> Option<Held> {
        let slot = placement::slot(name);
        let table = &self.dormant.tables[usize::from(slot)];
        let room = table.records.get(name)?.room().filter(Dormant::is_guest)?;
        (!self.node.wakes_guests(slot)).then(|| room.held())
    }

    /// Forgets dormant rooms that are over, of no more slots than one input may go through rooms.
    pub(super) fn look_for_old_rooms(&mut self) {
        let mut left = self.node.settings.slice;
        while left > 0
            && let Some(slot) = self.dormant.pop_over(self.node.now)
        {
            let (mut over, mut next, mut looked) = (Vec::new(), None, 1);
            for (name, room) in self.dormant.of_slot(slot) {
                looked += 1;
                let options = self.namespaces.options(name);
                match options.and_then(|options| room.over_at(options)) {
                    Some(at) if at <= self.node.now => over.push(RoomName::from(name)),
                    at => next = [next, at].into_iter().flatten().min(),
                }
            }
            left -= looked.min(left);
            self.dormant.look_at(slot, next);
            for name in &over {
                self.with_woken(name, Room::settle);
            }
        }
    }
}

#[cfg(test)]
#[path = "dormant_tests.rs"]
mod tests;
