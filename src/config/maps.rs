//! Namespaces of maps: as typed, checked.

use std::time::Duration;

use super::{
    Invalid, Problems, nearest,
    raw::{Channel, Map},
};
use crate::{
    map::options::{ClientKey, Kind, MapOptions, Mode},
    room::options::{Audience, Namespaces, RoomOptions},
};

/// What rooms may be.
const TYPES: [&str; 5] = ["stream", "map", "map_clients", "map_users", "shared_poll"];

impl Channel {
    /// Whether the rooms are maps.
    pub(super) fn is_map(&self) -> bool {
        ["map", "map_clients", "map_users"].contains(&self.subscription_type.as_str())
    }
}

/// The options of rooms, as those of maps if they are.
pub(super) fn check(
    channel: &Channel,
    key: &str,
    rooms: RoomOptions,
    problems: &mut Problems,
) -> RoomOptions {
    let prefix = |prefix: &str| (!prefix.is_empty()).then(|| prefix.into());
    let rooms = RoomOptions {
        clients_map: prefix(&channel.map_clients_presence_channel_prefix),
        users_map: prefix(&channel.map_users_presence_channel_prefix),
        publish_debounce: channel.client_publish_debounce_interval.0,
        ..rooms
    };
    let kind = match channel.subscription_type.as_str() {
        // What is polled is looked at elsewhere.
        "" | "stream" | "shared_poll" => return rooms,
        "map" => Kind::Map,
        "map_clients" => Kind::Clients,
        "map_users" => Kind::Users,
        other => {
            let problem = format!("{other:?} is no type{}", nearest(other, TYPES.into_iter()));
            problems.add(Invalid::new(format!("{key}.subscription_type"), problem));
            return rooms;
        }
    };
    if channel.history_size > 0 || rooms.queue.is_some() {
        let problem = "is for rooms that are no maps: a map has map.stream_size";
        let option = if channel.history_size > 0 { "history_size" } else { "queue.groups" };
        problems.add(Invalid::new(format!("{key}.{option}"), problem));
    }
    let (map, meta_ttl) = (&channel.map, channel.map.meta_ttl.0);
    let meta_ttl = if meta_ttl.is_zero() { rooms.history_meta_ttl } else { meta_ttl };
    let options = map.options(kind, &format!("{key}.map"), problems);
    let audience = |client, subscriber, anonymous| Audience { client, subscriber, anonymous };
    RoomOptions {
        map_publish: audience(
            map.allow_publish_for_client,
            map.allow_publish_for_subscriber,
            map.allow_publish_for_anonymous,
        ),
        map_remove: audience(
            map.allow_remove_for_client,
            map.allow_remove_for_subscriber,
            map.allow_remove_for_anonymous,
        ),
        ..rooms
    }
    .with_map(MapOptions { meta_ttl, ..options })
}

/// Connections and users are kept in maps of theirs.
pub(super) fn check_presence(namespaces: &Namespaces, problems: &mut Problems) {
    let all = namespaces.named.iter().map(|(name, it)| (format!("channel.namespaces.{name}"), it));
    for (key, options) in all.chain([("channel.without_namespace".to_owned(), &namespaces.default)])
    {
        for (option, prefix, kind, name) in [
            (
                "map_clients_presence_channel_prefix",
                &options.clients_map,
                Kind::Clients,
                "map_clients",
            ),
            ("map_users_presence_channel_prefix", &options.users_map, Kind::Users, "map_users"),
        ] {
            let Some(prefix) = prefix else { continue };
            let of = namespaces.options(&format!("{prefix}room")).and_then(|it| it.map.as_ref());
            if of.is_none_or(|it| it.kind != kind) {
                let problem = format!(
                    "{prefix:?} begins no names of a namespace whose subscription_type is {name:?}"
                );
                problems.add(Invalid::new(format!("{key}.{option}"), problem));
            }
        }
    }
}

/// What is said, or else what is usual.
fn or(said: usize, usual: usize) -> usize {
    if said == 0 { usual } else { said }
}

impl Map {
    fn options(&self, kind: Kind, key: &str, problems: &mut Problems) -> MapOptions {
        let mut wrong = |option: &str, problem: String| {
            problems.add(Invalid::new(format!("{key}.{option}"), problem));
        };
        let ttl = self.key_ttl.0;
        let (mode, expires) = match self.mode.as_str() {
            "ephemeral" => (Mode::Ephemeral, true),
            "recoverable" => (Mode::Recoverable, true),
            "persistent" => (Mode::Persistent, false),
            other => {
                let modes = ["ephemeral", "recoverable", "persistent"];
                let hint = nearest(other, modes.into_iter());
                let modes = "\"ephemeral\", \"recoverable\" or \"persistent\"";
                wrong("mode", format!("{other:?} is no mode of a map: say {modes}{hint}"));
                (Mode::Ephemeral, !ttl.is_zero())
            }
        };
        if expires && ttl.is_zero() {
            wrong("key_ttl", format!("is needed with mode = {:?}", self.mode));
        }
        if !expires && !ttl.is_zero() {
            wrong("key_ttl", "entries don't expire with mode = \"persistent\"".to_owned());
        }
        if !expires && kind != Kind::Map {
            let problem = "who is there has to expire: say \"ephemeral\" or \"recoverable\"";
            wrong("mode", problem.to_owned());
        }
        let client_key = match self.client_key.as_str() {
            "" => ClientKey::Any,
            "client_id" => ClientKey::Client,
            "user_id" => ClientKey::User,
            other => {
                let problem = format!("{other:?} is neither \"client_id\" nor \"user_id\"");
                wrong("client_key", problem);
                ClientKey::Any
            }
        };
        let usual = MapOptions::default();
        let most = or(self.max_page_size, usual.max_page_size);
        let least = or(self.min_page_size, usual.min_page_size);
        if least > most {
            wrong("min_page_size", format!("is more than max_page_size, which is {most}"));
        }
        if self.max_keys == 0 || self.max_keys > MOST_KEYS {
            wrong("max_keys", format!("must be 1 to {MOST_KEYS}"));
        }
        if self.stream_size > MOST_KEYS {
            wrong("stream_size", format!("must be no more than {MOST_KEYS}"));
        }
        MapOptions {
            kind,
            mode,
            key_ttl: Some(ttl).filter(|it| expires && *it > Duration::ZERO),
            stream_size: or(self.stream_size, usual.stream_size),
            ordered: self.ordered,
            max_keys: self.max_keys,
            client_key,
            remove_client_on_unsubscribe: self.remove_client_on_unsubscribe,
            default_page_size: or(self.default_page_size, usual.default_page_size),
            min_page_size: least,
            max_page_size: most,
            ..usual
        }
    }
}

/// The most entries of one map.
const MOST_KEYS: usize = 1_000_000;
