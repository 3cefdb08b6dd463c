//! The options of rooms, by namespace: as typed, checked.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Invalid, Problems,
    backends::Register,
    check_name, maps, nearest,
    raw::{Channel, Queue, Raw},
    tokens::regex,
};
use crate::{
    queue::{
        name,
        options::{Mode, QueueOptions, Start, WhenFull},
    },
    room::options::{
        Audience, DataFormat, LogKind, NamePattern, Namespaces, Permissions, RoomOptions,
    },
};

/// Every namespace.
pub(super) fn check(raw: &Raw, register: &mut Register<'_>, problems: &mut Problems) -> Namespaces {
    let mut named = BTreeMap::new();
    let data_format = data_format("channel", &raw.channel.publication_data_format);
    let defaults = Defaults {
        data_format: problems.take(data_format).flatten().unwrap_or_default(),
        meta_ttl: raw.channel.history_meta_ttl.0,
        webhooks: !raw.webhooks.endpoint.is_empty(),
    };
    for (index, namespace) in raw.channel.namespaces.iter().enumerate() {
        let key = format!("channel.namespaces[{index}]");
        let name_key = format!("{key}.name");
        problems.take(check_name(&name_key, &namespace.name));
        let options = namespace.options.check(&key, &defaults, problems);
        let options = namespace.options.queue.check(&key, options, problems);
        let options = maps::check(&namespace.options, &key, options, problems);
        problems.take(register.room(Some(&namespace.name), &key, &namespace.options));
        if named.insert(namespace.name.as_str().into(), Arc::new(options)).is_some() {
            problems.add(Invalid::new(name_key, format!("{:?} is there twice", namespace.name)));
        }
    }
    let (key, options) = ("channel.without_namespace", &raw.channel.without_namespace);
    let default = options.check(key, &defaults, problems);
    let default = options.queue.check(key, default, problems);
    let default = maps::check(options, key, default, problems);
    problems.take(register.room(None, key, options));
    let namespaces = Namespaces { default: Arc::new(default), named };
    check_dead_letters(&namespaces, problems);
    maps::check_presence(&namespaces, problems);
    namespaces
}

/// Rooms for dead letters keep them.
fn check_dead_letters(namespaces: &Namespaces, problems: &mut Problems) {
    let all = namespaces.named.iter().map(|(name, it)| (format!("channel.namespaces.{name}"), it));
    let default = ("channel.without_namespace".to_owned(), &namespaces.default);
    for (key, options) in all.chain([default]) {
        let queue = options.queue.as_ref().map(|it| &it.options);
        let Some(room) = queue.and_then(|it| it.dead_letter.as_deref()) else { continue };
        let problem = match namespaces.options(room) {
            Some(it) if it.keeps_history() => continue,
            Some(_) => {
                format!("the namespace of {room:?} keeps no history: dead letters would be lost")
            }
            None => format!("there is no namespace for {room:?}"),
        };
        problems.add(Invalid::new(format!("{key}.queue.dead_letter"), problem));
    }
}

/// What is so where a namespace says nothing else.
struct Defaults {
    data_format: DataFormat,
    meta_ttl: Duration,
    /// Whether there is anyone to tell.
    webhooks: bool,
}

/// None if nothing is said.
fn data_format(key: &str, format: &str) -> Result<Option<DataFormat>, Invalid> {
    Ok(Some(match format {
        "" => return Ok(None),
        "json" => DataFormat::Json,
        "json_object" => DataFormat::JsonObject,
        "binary" => DataFormat::Binary,
        other => {
            let hint = nearest(other, ["json", "json_object", "binary"].into_iter());
            let problem = format!("{other:?} is no format{hint}");
            return Err(Invalid::new(format!("{key}.publication_data_format"), problem));
        }
    }))
}

impl Channel {
    fn check(&self, key: &str, defaults: &Defaults, problems: &mut Problems) -> RoomOptions {
        self.check_history(key, problems);
        let mut wrong = |option: &str, problem: String| {
            problems.add(Invalid::new(format!("{key}.{option}"), problem));
        };
        let recovery_cache = self.force_recovery_mode == "cache";
        if !["", "stream", "cache"].contains(&self.force_recovery_mode.as_str()) {
            let problem =
                format!("{:?} is neither \"stream\" nor \"cache\"", self.force_recovery_mode);
            wrong("force_recovery_mode", problem);
        }
        if self.auto_cache_recover && !(recovery_cache && self.force_recovery) {
            let problem = "needs force_recovery and force_recovery_mode = \"cache\"";
            wrong("auto_cache_recover", problem.to_owned());
        }
        if let Some(other) = self.allowed_delta_types.iter().find(|it| *it != "fossil") {
            let problem = format!("{other:?} is no delta format; there is \"fossil\"");
            wrong("allowed_delta_types", problem);
        }
        let format = problems.take(data_format(key, &self.publication_data_format)).flatten();
        let pattern = regex("channel_regex", &self.channel_regex).map_err(|it| it.under(key));
        let meta_ttl = self.history_meta_ttl.0;
        RoomOptions {
            presence: self.presence,
            join_leave: self.join_leave,
            force_push_join_leave: self.force_push_join_leave,
            history_size: self.history_size,
            history_ttl: self.history_ttl.0,
            history_bytes: problems.take(self.bytes(key)).flatten(),
            history_meta_ttl: if meta_ttl.is_zero() { defaults.meta_ttl } else { meta_ttl },
            log: problems.take(self.log(key)).unwrap_or_default(),
            ring_limit: 0,
            force_positioning: self.force_positioning,
            allow_positioning: self.allow_positioning,
            force_recovery: self.force_recovery,
            allow_recovery: self.allow_recovery,
            recovery_cache,
            auto_cache_recover: self.auto_cache_recover,
            allow_user_limited: self.allow_user_limited_channels,
            name_pattern: problems.take(pattern).flatten().map(NamePattern),
            allow_tags_filter: self.allow_tags_filter,
            allow_delta: !self.allowed_delta_types.is_empty(),
            delta_publish: self.delta_publish,
            data_format: format.unwrap_or(defaults.data_format),
            webhooks: self.webhooks && defaults.webhooks,
            permissions: self.permissions(),
            ..RoomOptions::default()
        }
    }

    /// What needs history has it.
    fn check_history(&self, key: &str, problems: &mut Problems) {
        let history = self.history_size > 0 && !self.history_ttl.0.is_zero();
        if (self.history_size > 0) == self.history_ttl.0.is_zero() {
            let problem = "history needs both history_size and history_ttl";
            problems.add(Invalid::new(format!("{key}.history_size"), problem));
            return;
        }
        let needs_history = [
            ("force_recovery", self.force_recovery),
            ("allow_recovery", self.allow_recovery),
            ("force_positioning", self.force_positioning),
            ("allow_positioning", self.allow_positioning),
        ];
        for (option, on) in needs_history {
            if on && !history {
                let problem = "needs history_size and history_ttl in the same namespace";
                problems.add(Invalid::new(format!("{key}.{option}"), problem));
            }
        }
    }

    fn bytes(&self, key: &str) -> Result<Option<u64>, Invalid> {
        let problem = if self.history_bytes == 0 {
            return Ok(None);
        } else if self.log != "disk" {
            "needs log = \"disk\" in the same namespace; channel.history_max_bytes bounds what is in memory"
        } else if self.is_map() {
            "a map is bounded by map.max_keys"
        } else if !self.queue.groups.is_empty() {
            "would drop messages that groups have not settled; history_size bounds how many wait"
        } else {
            return Ok(Some(self.history_bytes));
        };
        Err(Invalid::new(format!("{key}.history_bytes"), problem))
    }

    fn log(&self, key: &str) -> Result<LogKind, Invalid> {
        match self.log.as_str() {
            "memory" => Ok(LogKind::Memory),
            "disk" if self.history_size == 0 && !self.is_map() => {
                let problem = "\"disk\" needs history_size and history_ttl in the same namespace";
                Err(Invalid::new(format!("{key}.log"), problem))
            }
            "disk" => Ok(LogKind::Disk),
            other => {
                let problem = format!("{other:?} is neither \"memory\" nor \"disk\"");
                Err(Invalid::new(format!("{key}.log"), problem))
            }
        }
    }

    fn permissions(&self) -> Permissions {
        let audience = |client, subscriber, anonymous| Audience { client, subscriber, anonymous };
        Permissions {
            subscribe_for_client: self.allow_subscribe_for_client,
            subscribe_for_anonymous: self.allow_subscribe_for_anonymous,
            publish: audience(
                self.allow_publish_for_client,
                self.allow_publish_for_subscriber,
                self.allow_publish_for_anonymous,
            ),
            presence: audience(
                self.allow_presence_for_client,
                self.allow_presence_for_subscriber,
                self.allow_presence_for_anonymous,
            ),
            history: audience(
                self.allow_history_for_client,
                self.allow_history_for_subscriber,
                self.allow_history_for_anonymous,
            ),
            ..Permissions::default()
        }
    }
}

impl Queue {
    /// The options of rooms, with those of their groups, if they may have any.
    fn check(&self, key: &str, rooms: RoomOptions, problems: &mut Problems) -> RoomOptions {
        if self.groups.is_empty() {
            return rooms;
        }
        let mut wrong = |option: &str, problem: String| {
            problems.add(Invalid::new(format!("{key}.queue.{option}"), problem));
        };
        if !rooms.keeps_history() {
            let problem = "needs history_size and history_ttl in the same namespace";
            wrong("groups", problem.to_owned());
        }
        if let Some(group) = self.groups.iter().find(|it| it.is_empty() || !name::is_allowed(it)) {
            wrong("groups", format!("{group:?} is no name of a group"));
        }
        let mode = match (self.mode.as_str(), self.key.as_str()) {
            ("shared", "") => Mode::Shared,
            ("exclusive", "") => Mode::Exclusive,
            ("key_shared", "") => {
                wrong("key", "\"key_shared\" needs the name of a tag here".to_owned());
                Mode::Shared
            }
            ("key_shared", key) => Mode::KeyShared(key.into()),
            ("shared" | "exclusive", _) => {
                wrong("key", "is for the mode \"key_shared\" only".to_owned());
                Mode::Shared
            }
            (other, _) => {
                let modes = ["shared", "exclusive", "key_shared"];
                let hint = nearest(other, modes.into_iter());
                wrong("mode", format!("{other:?} is no mode{hint}"));
                Mode::Shared
            }
        };
        for (option, value) in [
            ("ack_wait", self.ack_wait.0.as_millis()),
            ("max_prefetch", u128::from(self.max_prefetch)),
            ("max_pending", self.max_pending as u128),
            ("max_groups", self.max_groups as u128),
        ] {
            if value == 0 {
                wrong(option, "must be more than 0".to_owned());
            }
        }
        let when_full = match self.when_full.as_str() {
            "refuse" => WhenFull::Refuse,
            "drop_oldest" => WhenFull::DropOldest,
            other => {
                let problem = format!("{other:?} is neither \"refuse\" nor \"drop_oldest\"");
                wrong("when_full", problem);
                WhenFull::Refuse
            }
        };
        let start = match self.start.as_str() {
            "first" => Start::First,
            "last" => Start::Last,
            other => {
                let offset = other.parse().map(|it: u64| Start::After(it.saturating_sub(1)));
                let age = || humantime::parse_duration(other).map(Start::Since);
                offset.ok().or_else(|| age().ok()).unwrap_or_else(|| {
                    wrong(
                        "start",
                        format!(
                            "{other:?} is neither \"first\" nor \"last\", nor an offset or an age like \"1h\""
                        ),
                    );
                    Start::First
                })
            }
        };
        let permissions = Permissions {
            consume: Audience {
                client: self.allow_consume_for_client,
                subscriber: false,
                anonymous: self.allow_consume_for_anonymous,
            },
            ack_for_consumer: self.allow_ack_for_consumer,
            seek_for_consumer: self.allow_seek_for_consumer,
            ..rooms.permissions
        };
        RoomOptions { permissions, ..rooms }.with_queue(QueueOptions {
            groups: self.groups.clone(),
            mode,
            ack_wait: self.ack_wait.0,
            backoff: self.backoff.iter().map(|it| it.0).collect(),
            max_deliveries: self.max_deliveries,
            dead_letter: (!self.dead_letter.is_empty()).then(|| self.dead_letter.as_str().into()),
            max_prefetch: self.max_prefetch,
            max_pending: self.max_pending,
            max_groups: self.max_groups,
            when_full,
            start,
        })
    }
}
