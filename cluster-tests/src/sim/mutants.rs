//! Cores that are broken on purpose, each in one way: the simulator has to catch every one of them, or it
//! proves nothing.
//!
//! They are made of the real core by spoiling what comes out of it, so that no switch for them is in the
//! product.

use std::sync::Arc;

use roomcast::{
    cluster::{placement, slots::Term},
    map,
    queue::{change::Change, name, tag},
    room::{
        messages::{Item, Message, Refused, RoomMessage, SlotMessage},
        persisted::{
            change_from_bytes, change_to_bytes, map_change_from_bytes, map_change_to_bytes,
        },
        registry::Out,
        stream::Entry,
        types::{ClientInfo, Event, InRoom, Publication, Recovery, RoomName},
    },
};

/// One way to be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Homes do without successors.
    NoSuccessors,
    /// Successors say that they have what is yet to come.
    BoastfulSuccessors,
    /// Whoever answers a claim says that it was the last home, so that a dead home's epoch goes on.
    EpochsNeverEnd,
    /// Whoever answers a claim says that it holds nothing: as if the claimer did not wait for the answers.
    EmptyInventories,
    /// Nobody refuses a claim or a delivery for its term.
    NoTerms,
    /// Copies are compared by their offsets alone.
    NewestByOffset,
    /// Every fifth page is empty.
    LostPages,
    /// A copy is let go of as soon as another node asks for it.
    CopiesDroppedEarly,
    /// Nobody is told that others have what it holds.
    NoReleases,
    /// Subscribers are not told that they may have missed something.
    SilentGaps,
    /// Every seventh delivery is left out.
    LostDeliveries,
    /// Every seventh delivery comes twice.
    RepeatedDeliveries,
    /// A recovery leaves its first publication out.
    ShortRecoveries,
    /// Nobody remembers which forwarded publications were placed.
    ForgottenForwards,
    /// Nobody remembers idempotency keys but the home that took them.
    ForgottenKeys,
    /// A home does not hear of those who leave.
    GhostsInTheRoom,
    /// Peers are not told that someone else is home now.
    NoRefusals,
    /// What is to be written to disk counts as synced at once.
    UnsyncedAcks,
    /// Terms are not found on disk again.
    ForgottenTerms,
    /// A node that starts does not wait for those that it was with.
    NobodyWaitedFor,
    /// Nobody is asked for what a disk can't read any more.
    NothingRepaired,
    /// Successors of a group are not told what is settled.
    ForgottenAcks,
    /// What a consumer has had for too long is given again at the second time only, as by a timer that is late.
    LateRedeliveries,
    /// The home of a group does not hear that a consumer's connection has ended.
    NothingFreed,
    /// The home of a group takes consumers on other nodes for insatiable.
    IgnoredPrefetch,
    /// Successors of a map are told that nothing before a change is needed.
    RaisedFloors,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::NoSuccessors,
        Self::BoastfulSuccessors,
        Self::EpochsNeverEnd,
        Self::SilentGaps,
        Self::LostDeliveries,
        Self::RepeatedDeliveries,
        Self::ShortRecoveries,
        Self::ForgottenForwards,
        Self::ForgottenKeys,
        Self::GhostsInTheRoom,
        Self::EmptyInventories,
        Self::NoTerms,
        Self::NewestByOffset,
        Self::LostPages,
        Self::CopiesDroppedEarly,
        Self::NoReleases,
        Self::NoRefusals,
        Self::UnsyncedAcks,
        Self::ForgottenTerms,
        Self::NobodyWaitedFor,
        Self::NothingRepaired,
        Self::ForgottenAcks,
        Self::LateRedeliveries,
        Self::NothingFreed,
        Self::IgnoredPrefetch,
        Self::RaisedFloors,
    ];

    /// What a core that is broken this way does instead of `out`. `count` numbers the outputs.
    pub fn spoil(self, out: Out, count: u64) -> Vec<Out> {
        match out {
            Out::Event { event: Event::InsufficientState, .. } if self == Self::SilentGaps => {
                vec![]
            }
            Out::Event { event: Event::Publication(_), .. }
                if self == Self::LostDeliveries && count.is_multiple_of(7) =>
            {
                vec![]
            }
            Out::Event { event: Event::Publication(_), .. }
                if self == Self::RepeatedDeliveries && count.is_multiple_of(7) =>
            {
                vec![out.clone(), out]
            }
            Out::Subscribed { socket, id, room, flags, delivery, mut result } => {
                if let (Self::ShortRecoveries, Ok(subscribed)) = (self, &mut result)
                    && let Recovery::Recovered(missed) = &mut subscribed.recovery
                    && !missed.is_empty()
                {
                    missed.remove(0);
                }
                vec![Out::Subscribed { socket, id, room, flags, delivery, result }]
            }
            Out::Push { ref publication, .. }
                if self == Self::LateRedeliveries
                    && publication.tags.get(tag::ATTEMPT).is_some_and(|it| it == "2") =>
            {
                vec![]
            }
            Out::Send { to, message: Message::Room(room, message) } => self
                .spoil_message(&room, message, count)
                .into_iter()
                .map(|message| Out::Send {
                    to: to.clone(),
                    message: Message::Room(room.clone(), message),
                })
                .collect(),
            Out::Send { to, message: Message::Slots(message) } => self
                .spoil_claim(message)
                .map(|message| Out::Send { to, message: Message::Slots(message) })
                .into_iter()
                .collect(),
            out => vec![out],
        }
    }

    fn spoil_message(
        self,
        room: &RoomName,
        mut message: RoomMessage,
        count: u64,
    ) -> Vec<RoomMessage> {
        let of_group = name::group(room).is_some();
        match (self, &mut message) {
            (Self::NothingFreed, RoomMessage::Leave(_)) if of_group => return Vec::new(),
            (Self::IgnoredPrefetch, RoomMessage::Join(client)) if of_group => {
                Self::want_everything(client);
            }
            (Self::IgnoredPrefetch, RoomMessage::Clients { clients, .. }) if of_group => {
                clients.iter_mut().for_each(Self::want_everything);
            }
            (Self::BoastfulSuccessors, RoomMessage::Has(offset)) => *offset += 1_000,
            (Self::RaisedFloors, RoomMessage::Deliver { entry, .. }) => Self::raise_floor(entry),
            (Self::ForgottenAcks, RoomMessage::Deliver { entry, .. }) => Self::forget_ack(entry),
            (Self::ForgottenForwards, RoomMessage::Deliver { entry, .. }) => entry.forward = None,
            (Self::ForgottenKeys, RoomMessage::Deliver { entry, .. }) => entry.key = None,
            (Self::ForgottenForwards | Self::ForgottenKeys, RoomMessage::Page(page)) => {
                page.items.retain(|item| !self.forgets(item));
            }
            (Self::LostPages, RoomMessage::Page(page)) if count.is_multiple_of(5) => {
                page.items.clear();
            }
            (Self::CopiesDroppedEarly, RoomMessage::Fetch(_)) => {
                return vec![RoomMessage::Release, message];
            }
            (Self::NoReleases, RoomMessage::Release)
            | (Self::GhostsInTheRoom, RoomMessage::Leave(_))
            | (Self::NothingRepaired, RoomMessage::FetchPublication { .. })
            | (Self::NoRefusals, RoomMessage::NotHome(_))
            | (Self::NoTerms, RoomMessage::NotHome(Refused::Delivery(_))) => return Vec::new(),
            _ => {}
        }
        vec![message]
    }

    fn spoil_claim(self, mut message: SlotMessage) -> Option<SlotMessage> {
        match (self, &mut message) {
            (Self::NoTerms, SlotMessage::Refused { .. }) => return None,
            (Self::EmptyInventories, SlotMessage::Inventory { rooms, .. }) => rooms.clear(),
            (Self::NewestByOffset, SlotMessage::Inventory { rooms, .. }) => {
                rooms.iter_mut().for_each(|(_, held)| held.standing.term = Term::default());
            }
            (Self::EpochsNeverEnd, SlotMessage::Inventory { rooms, ended, .. }) => {
                let never = Term { count: u64::MAX, ..Term::default() };
                for (room, held) in rooms {
                    held.given = Some(never);
                    ended.push((placement::slot(room), never));
                }
            }
            _ => {}
        }
        Some(message)
    }

    fn forgets(self, item: &Item) -> bool {
        match item {
            Item::Key(_) => self == Self::ForgottenKeys,
            Item::Forward(..) | Item::Origin(..) => self == Self::ForgottenForwards,
            _ => false,
        }
    }

    /// Whether it shows only where there are consumers.
    pub fn is_of_queues(self) -> bool {
        matches!(
            self,
            Self::ForgottenAcks
                | Self::LateRedeliveries
                | Self::NothingFreed
                | Self::IgnoredPrefetch
        )
    }

    /// What has to be said of a history in which it shows, among other things.
    pub fn symptom(self) -> &'static str {
        match self {
            Self::LateRedeliveries => "is not given again",
            Self::NothingFreed => "is gone since",
            Self::IgnoredPrefetch => "wants",
            _ => "",
        }
    }

    /// What the home of a group is told of a consumer, instead of the truth.
    fn want_everything(client: &mut Arc<ClientInfo>) {
        let info = b"1000".to_vec().into();
        let in_room = Some(Box::new(InRoom { info, ..InRoom::default() }));
        *client = Arc::new(ClientInfo { in_room, ..ClientInfo::clone(client) });
    }

    /// Whether it shows only where there are maps.
    pub fn is_of_maps(self) -> bool {
        self == Self::RaisedFloors
    }

    /// What a successor is told of a change in a map, instead of the truth.
    fn raise_floor(entry: &mut Entry) {
        let publication = &entry.publication;
        if let Some(change) = map_change_from_bytes(&publication.data) {
            let change = map::change::Change { floor: publication.offset, ..change };
            let data = map_change_to_bytes(&change);
            entry.publication = Arc::new(Publication { data, ..Publication::clone(publication) });
        }
    }

    /// What a successor is told of a change in a group, instead of the truth.
    fn forget_ack(entry: &mut Entry) {
        let change = change_from_bytes(&entry.publication.data);
        if let Some(Change::Settled(_)) = change {
            let data = change_to_bytes(&Change::Settled(Vec::new()));
            entry.publication =
                Arc::new(Publication { data, ..Publication::clone(&entry.publication) });
        }
    }

    /// How many nodes keep a copy of a room, where `planned` should.
    pub fn replicas(mutant: Option<Self>, planned: usize) -> usize {
        if mutant == Some(Self::NoSuccessors) { 0 } else { planned }
    }
}
