//! The words that sockets, rooms and nodes share.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{control::Control, delivery::DeliveryOption, filter::Filter};
use crate::{
    cluster::node::NodeId,
    map::request::{KeyMode, Page, Suppressed},
    queue::{
        group::{Facts, Verdict},
        options::Start,
        tag::Delivery,
    },
};

/// Name of a room; what the protocol calls a channel.
pub type RoomName = Arc<str>;

/// The application's labels on a publication.
pub type Tags = BTreeMap<String, String>;

/// One run of a room's stream. A new one begins whenever positions of the old could mean something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A place in a room's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which run of the stream.
    pub epoch: Epoch,
    /// How many publications it had then; the first one has 1.
    pub offset: u64,
}

/// A position as a client gave it. An epoch that isn't one of the room's matches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// As the client gave it; empty matches any.
    pub epoch: String,
    /// The last offset that the client has.
    pub offset: u64,
}

impl Since {
    /// That of a client that has nothing yet.
    pub fn nothing() -> Self {
        Self { epoch: String::new(), offset: 0 }
    }
}

/// Id of a client connection, a random UUID.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ClientId(pub u128);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The version and variant bits of a random UUID.
        let bits = self.0 & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
        let (a, b, c, d, e) = (bits >> 96, bits >> 80, bits >> 64, bits >> 48, bits);
        let (b, c, d, e) = (b & 0xffff, c & 0xffff, d & 0xffff, e & 0xffff_ffff_ffff);
        write!(f, "{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What others may know about a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    /// The connection.
    pub client: ClientId,
    /// The user; empty when anonymous.
    pub user: Box<str>,
    /// Info about the connection (from its token, say), or empty. Boxed like the next field: there is one of these
    /// for each client.
    pub conn_info: Box<[u8]>,
    /// What is special about it in this room, if anything.
    pub in_room: Option<Box<InRoom>>,
}

/// What is special about a client in one room: its token, a backend or the configuration says so.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InRoom {
    /// Info about it in this room, or empty.
    pub info: Box<[u8]>,
    /// It does not appear in presence.
    pub hidden: bool,
    /// Whether its joins and leaves are announced, where that differs from the room's options.
    pub announced: Option<bool>,
    /// A newer connection of the same user replaces it: it is disconnected.
    pub single_connection: bool,
}

impl ClientInfo {
    /// A client without any info.
    pub fn new(client: ClientId, user: &str) -> Self {
        Self { client, user: user.into(), ..Self::default() }
    }

    /// Info about it in this room, or empty.
    pub fn chan_info(&self) -> &[u8] {
        self.in_room.as_ref().map_or(&[], |it| &it.info)
    }

    /// Whether it appears in presence, in rooms that have it.
    pub fn is_shown(&self) -> bool {
        self.in_room.as_ref().is_none_or(|it| !it.hidden)
    }

    /// Whether its joins and leaves are announced, given whether those of others in the room are.
    pub fn is_announced(&self, others: bool) -> bool {
        self.in_room.as_ref().and_then(|it| it.announced).unwrap_or(others)
    }

    /// Whether its user may have only one connection.
    pub fn is_single_connection(&self) -> bool {
        self.in_room.as_ref().is_some_and(|it| it.single_connection)
    }

    /// The bytes that it takes beside itself.
    pub fn weight(&self) -> usize {
        let in_room = self.in_room.as_ref().map_or(0, |it| size_of::<InRoom>() + it.info.len());
        self.user.len() + self.conn_info.len() + in_room
    }
}

/// A message in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Its place; 0 in rooms that keep no history.
    pub offset: u64,
    /// The payload.
    pub data: Bytes,
    /// The client that published it; none for the server API.
    pub info: Option<Arc<ClientInfo>>,
    /// The application's labels.
    pub tags: Tags,
    /// Subscribers that ask for deltas may get it as the difference to the one before.
    pub delta: bool,
    /// What it says of a key of a map. Only members see it so: between nodes it is a part of the data.
    #[serde(skip)]
    pub keyed: Option<Box<Keyed>>,
}

/// What a publication says of a key of a map.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keyed {
    /// The key.
    pub key: Box<str>,
    /// It has no value any more.
    pub removed: bool,
    /// Where it stands in an ordered map.
    pub score: i64,
    /// The value before it, where subscribers may get it as a change of that. Known on each node by itself.
    #[serde(skip)]
    pub before: Option<Arc<Publication>>,
}

impl Publication {
    /// What a publication costs beside its content: its place in the ring, its reference count, its headers.
    pub const OVERHEAD: usize = 160;

    /// The bytes that keeping it costs, about.
    pub fn weight(&self) -> usize {
        let tags: usize = self.tags.iter().map(|(name, value)| name.len() + value.len() + 64).sum();
        let info = self.info.as_ref().map_or(0, |it| it.weight());
        Self::OVERHEAD + self.data.len() + tags + info
    }
}

/// The application's own version number of what it publishes: an update that arrives late does not undo a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The count; more than 0.
    pub number: u64,
    /// Counts of different epochs are not compared; an empty one is compared with any.
    pub epoch: Box<str>,
}

impl Version {
    /// Whether this version replaces `last` in a room.
    pub fn follows(&self, last: &Self) -> bool {
        let comparable = self.epoch.is_empty() || self.epoch == last.epoch;
        !comparable || self.number > last.number
    }
}

/// A message that is yet to get its place in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPublication {
    /// The payload.
    pub data: Bytes,
    /// The client that publishes it; none for the server API.
    pub info: Option<Arc<ClientInfo>>,
    /// The application's labels.
    pub tags: Tags,
    /// A publication with a key that the room has seen recently is answered, not repeated.
    pub idempotency_key: Option<Box<str>>,
    /// Deliver it only; don't keep it.
    pub skip_history: bool,
    /// In a room with history: drop it if the room has this version or a later one.
    pub version: Option<Version>,
    /// See [`Publication::delta`].
    pub delta: bool,
}

impl NewPublication {
    /// The publication in its place.
    pub fn at(&self, offset: u64) -> Publication {
        Publication {
            offset,
            data: self.data.clone(),
            info: self.info.clone(),
            tags: self.tags.clone(),
            delta: self.delta,
            keyed: None,
        }
    }
}

/// One client socket of this node. `generation` tells it from earlier sockets in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketRef {
    /// The worker thread whose hub knows the socket.
    pub worker: u16,
    /// Its place in that hub's table.
    pub slot: u32,
    /// How often the place was used before.
    pub generation: u32,
}

/// Who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyTo {
    /// A client command.
    Command {
        /// The client's socket.
        socket: SocketRef,
        /// The command's number.
        id: u32,
    },
    /// An API call.
    Api(u64),
    /// The group that has a dead letter put into another room, by this number.
    Burial(u64),
    /// No one.
    Nobody,
}

/// How a subscriber takes part in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    /// The subscriber's socket.
    pub socket: SocketRef,
    /// The number of its command.
    pub id: u32,
    /// Who it is.
    pub info: Arc<ClientInfo>,
    /// What the hub has to know.
    pub flags: MemberFlags,
    /// Its delivery options, unless it gets every publication in full.
    pub delivery: Option<DeliveryOption>,
    /// Where it stopped, if it wants what it missed.
    pub recover: Option<Since>,
    /// Answer 112 rather than `recovered: false`.
    pub must_recover: bool,
}

impl Subscribe {
    /// Which publications it wants, if not all.
    pub fn filter(&self) -> Option<&Filter> {
        self.delivery.as_ref()?.filter()
    }
}

/// What a hub has to know of a subscriber to deliver to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberFlags {
    /// It gets joins and leaves.
    pub join_leave: bool,
    /// Its position is watched: it is unsubscribed when it can't have seen everything.
    pub positioned: bool,
}

/// What a socket or an API call asks of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Enter the room.
    Subscribe(Subscribe),
    /// Leave it.
    Unsubscribe {
        /// The subscriber's socket.
        socket: SocketRef,
        /// Its connection id.
        client: ClientId,
        /// Whether it waits for the answer, and under which number.
        reply: ReplyTo,
    },
    /// Put a message into it.
    Publish(NewPublication, ReplyTo),
    /// Read of it.
    Query(Query, ReplyTo),
    /// Do this to the group whose room it is.
    Group(Box<GroupRequest>, ReplyTo),
    /// Do this to the map that it is.
    Map(Box<MapRequest>, ReplyTo),
}

/// What only the room's home can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HomeRequest {
    /// Give this its place.
    Publish(NewPublication),
    /// Answer this.
    Query(Query),
    /// Do this to the group whose room it is.
    Group(Box<GroupRequest>),
    /// Do this to the map that it is.
    Map(Box<MapRequest>),
}

/// What is asked of a map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapRequest {
    /// Give a key a value.
    Put {
        /// The key.
        key: Box<str>,
        /// The value, as the publication that tells of it. A map's versions are those of its keys.
        value: NewPublication,
        /// Where it stands in an ordered map.
        score: i64,
        /// When it is done.
        mode: KeyMode,
        /// If the key has a value and keeps it, that one lives as long as if it were put now.
        renews: bool,
    },
    /// Take its value away.
    Remove {
        /// The key.
        key: Box<str>,
        /// A request with a key that the room has seen recently is answered, not repeated.
        idempotency_key: Option<Box<str>>,
    },
    /// Give me entries.
    Read(Page),
    /// Give me changes, as they were told to members.
    Changes {
        /// Those that follow this position; none: from the first that there is, or from the last in reverse.
        since: Option<Since>,
        /// The most of them.
        limit: u32,
        /// The last first.
        reverse: bool,
    },
    /// How many are there?
    Count,
    /// Take all values away.
    Clear,
}

/// What a map answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapAnswer {
    /// It is done, by the change there.
    Changed(Position),
    /// It changes nothing; the map is there.
    Suppressed(Suppressed, Position),
    /// Entries or changes.
    Entries {
        /// In the order of the map, or in which they were published.
        entries: Vec<(Keyed, Arc<Publication>)>,
        /// Where the map is.
        position: Position,
        /// For the next page; empty if there is none.
        cursor: Box<str>,
    },
    /// So many are there.
    Count(u32),
}

/// What is asked of a group of consumers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupRequest {
    /// Something is said of messages that were given out.
    Judge {
        /// What.
        verdict: Verdict,
        /// Of which deliveries.
        deliveries: Vec<Delivery>,
        /// Only those that this consumer has been given.
        by: Option<ClientId>,
    },
    /// Give me messages.
    Pull {
        /// The most that are wanted.
        most: u32,
        /// How long to wait for the first.
        wait: std::time::Duration,
        /// For this consumer.
        by: Option<ClientId>,
        /// The most bytes that they may have together; one comes in any case.
        bytes: u32,
    },
    /// How does it stand?
    Facts,
    /// Go on from there, whatever was settled.
    Seek(Start),
    /// Everything that there is now is settled.
    Purge,
    /// There is to be no such group any more.
    Remove,
}

/// What a group answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupAnswer {
    /// Whether it holds what was said, for each of the deliveries.
    Judged(Vec<bool>),
    /// Messages, with the tags of their deliveries.
    Pulled(Vec<Arc<Publication>>),
    /// How it stands.
    Facts(Box<Facts>),
    /// It is done.
    Done,
}

/// A question that only the room's home can answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Query {
    /// Who is there.
    Presence,
    /// How many are there.
    PresenceStats,
    /// What was said.
    History(HistoryFilter),
    /// What a subscriber missed; asked by a mirror whose own ring is too short.
    Recover(Since),
    /// Forget what was said.
    RemoveHistory,
}

/// Which part of the past to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryFilter {
    /// The most publications to return.
    pub limit: usize,
    /// Where to start, exclusive; none: the oldest, or the newest in reverse.
    pub since: Option<Since>,
    /// Newest first.
    pub reverse: bool,
}

/// What comes back for a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The message has its place, if the room keeps positions.
    ///
    /// None as well for the repeat of one that was placed so long ago that its offset is forgotten.
    Published(Option<Position>),
    /// Who is there.
    Presence(Vec<Arc<ClientInfo>>),
    /// How many are there.
    PresenceStats {
        /// Connections.
        clients: u32,
        /// Distinct users.
        users: u32,
    },
    /// What was said, and where the stream stands.
    History(Vec<Arc<Publication>>, Position),
    /// It couldn't be done.
    Failed(Failure),
    /// What a group answers.
    Group(GroupAnswer),
    /// What a map answers.
    Map(MapAnswer),
}

impl Answer {
    /// Puts a part of an answer and what follows it together.
    pub fn followed_by(self, rest: Self) -> Self {
        match (self, rest) {
            (Self::History(mut part, _), Self::History(rest, position)) => {
                part.extend(rest);
                Self::History(part, position)
            }
            (Self::Presence(mut part), Self::Presence(rest)) => {
                part.extend(rest);
                Self::Presence(part)
            }
            (_, rest) => rest,
        }
    }
}

/// Why a room could not do what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Failure {
    /// The node that could do it was not reached in time, or must not do it now. The same may work later.
    Unavailable,
    /// Too much waits for the room already. The same may work later.
    Overloaded,
    /// The room's namespace is not configured.
    UnknownNamespace,
    /// The room keeps no history.
    NoHistory,
    /// Nothing can be read from this position on.
    BadPosition,
    /// The history no longer reaches back to this position.
    UnrecoverablePosition,
    /// It does not fit into what nodes may send each other, or the room has as many groups as it may have.
    LimitExceeded,
}

/// The answer to [`Request::Subscribe`]. It reaches the socket through its hub, before any publication
/// that is newer than it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribed {
    /// Where the live stream goes on, if the room keeps positions.
    pub position: Option<Position>,
    /// What became of the request to recover.
    pub recovery: Recovery,
}

/// What became of a subscriber's request to get what it missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// It had none.
    NotAsked,
    /// The history no longer reaches back to where it stopped.
    Failed,
    /// Here is all of it, oldest first.
    Recovered(Vec<Arc<Publication>>),
}

/// Something that happens to the members of a room on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message.
    Publication(Arc<Publication>),
    /// Someone came.
    Join(Arc<ClientInfo>),
    /// Someone went.
    Leave(Arc<ClientInfo>),
    /// Positioned members can't have seen everything: they have to subscribe again.
    InsufficientState,
}

/// A node in the answer to `info`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Node id.
    pub uid: String,
    /// Node name.
    pub name: String,
    /// Version of Roomcast.
    pub version: String,
    /// Client connections.
    pub num_clients: u32,
    /// Distinct users with a connection to this node.
    pub num_users: u32,
    /// Subscriptions.
    pub num_subs: u32,
    /// Rooms with a subscriber on this node.
    pub num_channels: u32,
    /// Seconds since it started.
    pub uptime: u32,
}

/// What is asked of every node at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Survey {
    /// How each node is.
    Info,
    /// Which rooms have subscribers; `*` in the pattern stands for anything, empty means all.
    Channels(String),
    /// Do this to connections of a user.
    Control(Control),
}

/// What one node says to a [`Survey`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// How it is.
    Info(NodeFacts),
    /// Its rooms, with the number of subscribers there.
    Channels(Vec<(RoomName, u32)>),
    /// What was to be done is under way.
    Controlled,
}

/// All that came back to a survey.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// One per node that answered.
    pub found: Vec<(NodeId, Finding)>,
    /// The nodes that did not answer in time.
    pub missing: Vec<NodeId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_few_clients_have_costs_the_others_nothing() {
        assert!(size_of::<ClientInfo>() <= 64, "{}", size_of::<ClientInfo>());
    }

    #[test]
    fn client_ids_are_version_4_uuids() {
        assert_eq!(
            ClientId(u128::MAX).to_string(),
            "ffffffff-ffff-4fff-bfff-ffffffffffff".to_owned()
        );
        assert_eq!(ClientId(0).to_string(), "00000000-0000-4000-8000-000000000000");
    }
}
