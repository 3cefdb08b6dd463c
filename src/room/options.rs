//! What a namespace of rooms keeps, promises and permits.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    persisted,
    types::{ClientInfo, Publication},
};
use crate::{
    map::options::MapOptions,
    queue::{
        name,
        options::{Mode, QueueOptions, WhenFull},
        rights::Rights,
    },
};

/// The settings of one namespace, checked. Names and meaning are those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoomOptions {
    /// Keep who is in the room.
    pub presence: bool,
    /// Announce who joins and leaves.
    pub join_leave: bool,
    /// Announce it to every subscriber, even if it has not asked.
    pub force_push_join_leave: bool,
    /// The most publications to keep.
    pub history_size: usize,
    /// How long to keep one.
    pub history_ttl: Duration,
    /// The most bytes of them on disk; none: no limit.
    pub history_bytes: Option<u64>,
    /// How long to remember the stream's epoch and offset after its last publication.
    pub history_meta_ttl: Duration,
    /// Where what is kept survives.
    pub log: LogKind,
    /// The most publications of a room on disk that are in memory as well; 0: as many as usual.
    pub ring_limit: usize,
    /// Watch every subscriber's position.
    pub force_positioning: bool,
    /// Watch it if the subscriber asks.
    pub allow_positioning: bool,
    /// Every subscriber can recover.
    pub force_recovery: bool,
    /// A subscriber that asks can recover.
    pub allow_recovery: bool,
    /// Recover the latest publication only.
    pub recovery_cache: bool,
    /// Every subscriber recovers, asked or not: the latest publication comes with every subscribe.
    pub auto_cache_recover: bool,
    /// Subscribers may ask for publications with certain tags only.
    pub allow_tags_filter: bool,
    /// Subscribers may ask for deltas in Fossil's format.
    pub allow_delta: bool,
    /// Every publication may become a delta, not only those whose publisher says so.
    pub delta_publish: bool,
    /// What a publication must be.
    pub data_format: DataFormat,
    /// Notify the application of joins and leaves.
    pub webhooks: bool,
    /// Who may subscribe, publish, and read.
    pub permissions: Permissions,
    /// Users may enter rooms whose names end in `#` and a list of users with them in it.
    pub allow_user_limited: bool,
    /// What a room's name must look like behind its namespace.
    pub name_pattern: Option<NamePattern>,
    /// Rooms may have groups of consumers.
    pub queue: Option<Arc<Queue>>,
    /// It is the room of such a group.
    pub group: Option<Arc<QueueOptions>>,
    /// It is a map.
    pub map: Option<Arc<MapOptions>>,
    /// Begins the names of the maps with the connections that are in a room of these.
    pub clients_map: Option<Box<str>>,
    /// Begins the names of the maps with the users.
    pub users_map: Option<Box<str>>,
    /// How often a client is to publish at most.
    pub publish_debounce: Duration,
    /// Clients may put values into the map.
    pub map_publish: Audience,
    /// Clients may remove them.
    pub map_remove: Audience,
}

/// The groups of consumers of a namespace's rooms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// What is so for each of them.
    pub options: Arc<QueueOptions>,
    /// The options of the rooms that they live in.
    pub rooms: Arc<RoomOptions>,
}

/// Longer than anything is kept.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);
/// The most changes of a group that are kept: all that there is is written anew long before.
const MOST_CHANGES: usize = 1 << 16;
/// The most changes of a map that are kept: its floor rises long before.
const MOST_MAP_CHANGES: usize = 1 << 22;

/// Where what a room keeps survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogKind {
    /// In the memory of the nodes that have a copy: as long as one of them lives.
    #[default]
    Memory,
    /// On the disks of those nodes.
    Disk,
}

/// The most publications of a room on disk that are in memory as well.
const RING: usize = 1_000;

/// What a name must look like.
#[derive(Debug, Clone)]
pub struct NamePattern(pub regex::Regex);

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for NamePattern {}

/// What the data of a publication must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataFormat {
    /// Anything but empty.
    #[default]
    NotEmpty,
    /// JSON.
    Json,
    /// A JSON object.
    JsonObject,
    /// Anything, also nothing.
    Binary,
}

impl DataFormat {
    /// Whether `data` is that.
    pub fn accepts(self, data: &[u8]) -> bool {
        let json = || serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
        match self {
            Self::NotEmpty => !data.is_empty(),
            Self::Json => json(),
            Self::JsonObject => data.trim_ascii_start().first() == Some(&b'{') && json(),
            Self::Binary => true,
        }
    }
}

/// Who may do what without a subscription token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Permissions {
    /// Clients may subscribe.
    pub subscribe_for_client: bool,
    /// Anonymous ones too.
    pub subscribe_for_anonymous: bool,
    /// Publishing.
    pub publish: Audience,
    /// Asking for presence.
    pub presence: Audience,
    /// Reading history.
    pub history: Audience,
    /// Consuming messages of a group.
    pub consume: Audience,
    /// Saying what became of them: those who consume.
    pub ack_for_consumer: bool,
    /// Having the group go on elsewhere: those who consume.
    pub seek_for_consumer: bool,
}

/// Who may do one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Audience {
    /// Any client.
    pub client: bool,
    /// Any subscriber of the room.
    pub subscriber: bool,
    /// Of those, the anonymous ones too.
    pub anonymous: bool,
}

impl Audience {
    /// Whether a client may, given whether it is anonymous and in the room.
    ///
    /// As in Centrifugo, `anonymous` permits nothing alone: it only widens the other two to clients
    /// without a user.
    pub fn includes(self, anonymous: bool, subscribed: bool) -> bool {
        (self.client || (self.subscriber && subscribed)) && (!anonymous || self.anonymous)
    }
}

impl Permissions {
    /// Whether a client may subscribe, given whether it is anonymous.
    pub fn may_subscribe(self, anonymous: bool) -> bool {
        self.subscribe_for_client && (!anonymous || self.subscribe_for_anonymous)
    }

    /// What a subscriber may do with the room's groups, given whether it is anonymous.
    pub fn queue(self, anonymous: bool) -> Rights {
        let consume = self.consume.includes(anonymous, true);
        let (ack, seek) = (self.ack_for_consumer, self.seek_for_consumer);
        Rights { consume, ack: consume && ack, seek: consume && seek }
    }
}

impl RoomOptions {
    /// Whether a room of this namespace may have such a name.
    pub fn allows_name(&self, room: &str) -> bool {
        let rest = room.split_once(NAMESPACE).map_or(room, |(_, rest)| rest);
        self.name_pattern.as_ref().is_none_or(|it| it.0.is_match(rest))
    }

    /// Whether publications get positions and are kept.
    pub fn keeps_history(&self) -> bool {
        self.history_size > 0 && !self.history_ttl.is_zero()
    }

    /// Whether what is kept is on disk.
    pub fn is_on_disk(&self) -> bool {
        self.keeps_history() && self.log == LogKind::Disk
    }

    /// The most publications of a room that are in memory.
    pub fn ring_size(&self) -> usize {
        let limit = if self.ring_limit == 0 { RING } else { self.ring_limit };
        if self.is_on_disk() { self.history_size.min(limit) } else { self.history_size }
    }

    /// The same rooms, with groups of consumers.
    pub fn with_queue(self, options: QueueOptions) -> Self {
        let options = Arc::new(options);
        let rooms = Arc::new(Self {
            // Who consumes has to be known at the home.
            presence: true,
            history_size: MOST_CHANGES,
            history_ttl: FOR_EVER,
            history_meta_ttl: FOR_EVER,
            log: self.log,
            ring_limit: MOST_CHANGES,
            group: Some(options.clone()),
            ..Self::default()
        });
        Self { queue: Some(Arc::new(Queue { options, rooms })), ..self }
    }

    /// The same rooms, as maps.
    pub fn with_map(self, options: MapOptions) -> Self {
        let history_meta_ttl = options.key_ttl.map_or(FOR_EVER, |ttl| ttl.max(options.meta_ttl));
        Self {
            history_size: MOST_MAP_CHANGES,
            history_ttl: FOR_EVER,
            history_meta_ttl,
            ring_limit: MOST_MAP_CHANGES,
            allow_recovery: true,
            map: Some(Arc::new(options)),
            ..self
        }
    }

    /// Whether its publications are changes of something that follows from all of them.
    pub fn is_made_of_changes(&self) -> bool {
        self.group.is_some() || self.map.is_some()
    }

    /// The first publication that is needed once this one is there, if it says so.
    pub(super) fn needed_from(&self, publication: &Publication) -> Option<u64> {
        if self.map.is_some() {
            return persisted::map_floor(&publication.data);
        }
        let is_state = self.group.is_some() && persisted::is_state(&publication.data);
        is_state.then_some(publication.offset)
    }

    /// Whether a publication is refused that would push one out that a group has not settled.
    pub fn refuses_when_full(&self) -> bool {
        self.queue.as_ref().is_some_and(|it| it.options.when_full == WhenFull::Refuse)
    }

    /// The tag by whose value a group's messages go to one consumer, if they do.
    pub fn queue_key(&self) -> Option<&str> {
        match &self.queue.as_ref()?.options.mode {
            Mode::KeyShared(tag) => Some(tag),
            Mode::Shared | Mode::Exclusive => None,
        }
    }

    /// Whether the home must know that this client is there.
    pub fn knows(&self, client: &ClientInfo) -> bool {
        self.presence && client.is_shown() || client.is_single_connection() || self.tells_of(client)
    }

    /// Whether joins and leaves of this client are announced to anyone.
    pub fn tells_of(&self, client: &ClientInfo) -> bool {
        self.webhooks || client.is_announced(self.join_leave)
    }
}

/// Begins the names of rooms that need a subscription token.
const PRIVATE: char = '$';
/// Ends the namespace in a room's name.
const NAMESPACE: char = ':';
/// Begins the list of the only users of a room, at the end of its name.
const USERS: char = '#';
/// Separates those users.
const USER: char = ',';

/// The namespace in a room's name, if there is one.
pub fn namespace(room: &str) -> Option<&str> {
    let (namespace, _) = room.split_once(NAMESPACE)?;
    Some(namespace.strip_prefix(PRIVATE).unwrap_or(namespace))
}

/// Whether a room needs a subscription token.
pub fn is_private(room: &str) -> bool {
    room.starts_with(PRIVATE)
}

/// Whether a room is for some users only, and this one of them; none if it is for all.
pub fn is_limited_to(room: &str, user: &str) -> Option<bool> {
    let (_, users) = room.rsplit_once(USERS)?;
    Some(!user.is_empty() && users.split(USER).any(|it| it == user))
}

/// The room that is a user's own.
pub fn personal(namespace: &str, user: &str) -> String {
    match namespace {
        "" => format!("{USERS}{user}"),
        namespace => format!("{namespace}{NAMESPACE}{USERS}{user}"),
    }
}

/// Every namespace of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Namespaces {
    /// For rooms without a namespace in their name.
    pub default: Arc<RoomOptions>,
    /// By what stands before the first `:` of a room's name.
    pub named: BTreeMap<Box<str>, Arc<RoomOptions>>,
}

impl Namespaces {
    /// The options of a room; none if its namespace is not configured.
    pub fn options(&self, room: &str) -> Option<&Arc<RoomOptions>> {
        let (room, group) = name::split(room);
        let options = match namespace(room) {
            None => &self.default,
            Some(namespace) => self.named.get(namespace)?,
        };
        match group {
            None => Some(options),
            Some(_) => options.queue.as_ref().map(|it| &it.rooms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_what_it_must_be() {
        let cases: [(&[u8], [bool; 4]); 5] = [
            (b"", [false, false, false, true]),
            (b"[1]", [true, true, false, true]),
            (b" {\"a\": 1} ", [true, true, true, true]),
            (b"{", [true, false, false, true]),
            (b"\xff", [true, false, false, true]),
        ];
        for (data, accepted) in cases {
            use DataFormat::{Binary, Json, JsonObject, NotEmpty};
            let all = [NotEmpty, Json, JsonObject, Binary];
            assert_eq!(all.map(|format| format.accepts(data)), accepted, "{data:?}");
        }
    }

    #[test]
    fn anonymous_clients_need_both_options() {
        // Columns: client, subscriber, anonymous; then who asks: anonymous, subscribed.
        let cases = [
            ((true, false, false), (false, false), true),
            ((true, false, false), (true, true), false),
            ((true, false, true), (true, false), true),
            ((false, false, true), (true, true), false),
            ((false, true, false), (false, true), true),
            ((false, true, false), (true, true), false),
            ((false, true, true), (true, true), true),
            ((false, true, true), (true, false), false),
        ];
        for ((client, subscriber, anonymous), (is_anonymous, subscribed), may) in cases {
            let audience = Audience { client, subscriber, anonymous };
            let it = format!("{audience:?} {is_anonymous} {subscribed}");
            assert_eq!(audience.includes(is_anonymous, subscribed), may, "{it}");
        }
        let only = Permissions { subscribe_for_anonymous: true, ..Permissions::default() };
        assert!(!only.may_subscribe(true) && !only.may_subscribe(false));
        let both = Permissions { subscribe_for_client: true, ..only };
        assert!(both.may_subscribe(true) && both.may_subscribe(false));
    }

    #[test]
    fn the_namespace_stands_before_the_first_colon() {
        let chat = Arc::new(RoomOptions { presence: true, ..Default::default() });
        let namespaces = Namespaces {
            default: Arc::default(),
            named: [("chat".into(), chat.clone())].into_iter().collect(),
        };
        assert_eq!(namespaces.options("lobby"), Some(&Arc::default()));
        assert_eq!(namespaces.options("chat:a:b"), Some(&chat));
        assert_eq!(namespaces.options("$chat:a"), Some(&chat));
        assert_eq!(namespaces.options("other:a"), None);
        assert_eq!(namespaces.options("$$chat:a"), None);
    }

    #[test]
    fn a_room_may_name_its_users() {
        assert_eq!(is_limited_to("chat:a", "42"), None);
        assert_eq!(is_limited_to("chat:a#42", "42"), Some(true));
        assert_eq!(is_limited_to("chat:a#b#41,42", "42"), Some(true));
        assert_eq!(is_limited_to("chat:a#42#41", "42"), Some(false), "the last list counts");
        assert_eq!(is_limited_to("chat:a#4,2", "42"), Some(false));
        assert_eq!(is_limited_to("chat:a#", ""), Some(false), "nobody is not a user");
        assert_eq!(is_limited_to(&personal("chat", "42"), "42"), Some(true));
        assert_eq!(personal("", "42"), "#42");
    }

    #[test]
    fn the_pattern_is_for_what_follows_the_namespace() {
        let pattern = regex::Regex::new("^[a-z]+$").ok().map(NamePattern);
        let options = RoomOptions { name_pattern: pattern, ..Default::default() };
        assert!(options.allows_name("chat1:abc") && options.allows_name("abc"));
        assert!(!options.allows_name("chat:abc1") && !options.allows_name("chat:"));
    }
}
