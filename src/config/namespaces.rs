//! The options of rooms, by namespace: as typed, checked.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Invalid,
    backends::Register,
    check_name, nearest,
    raw::{Channel, Raw},
    tokens::regex,
};
use crate::room::options::{
    Audience, DataFormat, LogKind, NamePattern, Namespaces, Permissions, RoomOptions,
};

/// Every namespace.
///
/// # Errors
/// If one has options that can't be had together.
pub(super) fn check(raw: &Raw, register: &mut Register<'_>) -> Result<Namespaces, Invalid> {
    let tells = !raw.webhooks.endpoint.is_empty();
    let mut named = BTreeMap::new();
    let format = &raw.channel.publication_data_format;
    let data_format = data_format("channel", format)?.unwrap_or_default();
    for (index, namespace) in raw.channel.namespaces.iter().enumerate() {
        let key = format!("channel.namespaces[{index}].name");
        check_name(&key, &namespace.name)?;
        let key_of_options = format!("channel.namespaces[{index}]");
        let mut options = namespace.options.check(&key_of_options, data_format)?;
        register.room(Some(&namespace.name), &key_of_options, &namespace.options)?;
        options.webhooks = namespace.options.webhooks && tells;
        let options = Arc::new(options);
        if named.insert(namespace.name.as_str().into(), options).is_some() {
            return Err(Invalid::new(key, format!("{:?} is there twice", namespace.name)));
        }
    }
    let (key, options) = ("channel.without_namespace", &raw.channel.without_namespace);
    let mut default = options.check(key, data_format)?;
    register.room(None, key, options)?;
    default.webhooks = options.webhooks && tells;
    Ok(Namespaces { default: Arc::new(default), named })
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
    fn check(&self, key: &str, default_format: DataFormat) -> Result<RoomOptions, Invalid> {
        self.check_history(key)?;
        let recovery_cache = match self.force_recovery_mode.as_str() {
            "" | "stream" => false,
            "cache" => true,
            other => {
                let problem = format!("{other:?} is neither \"stream\" nor \"cache\"");
                return Err(Invalid::new(format!("{key}.force_recovery_mode"), problem));
            }
        };
        if self.auto_cache_recover && !(recovery_cache && self.force_recovery) {
            let problem = "needs force_recovery and force_recovery_mode = \"cache\"";
            return Err(Invalid::new(format!("{key}.auto_cache_recover"), problem));
        }
        if let Some(other) = self.allowed_delta_types.iter().find(|it| *it != "fossil") {
            let problem = format!("{other:?} is no delta format; there is \"fossil\"");
            return Err(Invalid::new(format!("{key}.allowed_delta_types"), problem));
        }
        let format = data_format(key, &self.publication_data_format)?;
        Ok(RoomOptions {
            presence: self.presence,
            join_leave: self.join_leave,
            force_push_join_leave: self.force_push_join_leave,
            history_size: self.history_size,
            history_ttl: self.history_ttl.0,
            history_meta_ttl: self.history_meta_ttl.0,
            log: self.log(key)?,
            ring_limit: 0,
            force_positioning: self.force_positioning,
            allow_positioning: self.allow_positioning,
            force_recovery: self.force_recovery,
            allow_recovery: self.allow_recovery,
            recovery_cache,
            auto_cache_recover: self.auto_cache_recover,
            allow_user_limited: self.allow_user_limited_channels,
            name_pattern: regex("channel_regex", &self.channel_regex)
                .map_err(|it| it.under(key))?
                .map(NamePattern),
            allow_tags_filter: self.allow_tags_filter,
            allow_delta: !self.allowed_delta_types.is_empty(),
            delta_publish: self.delta_publish,
            data_format: format.unwrap_or(default_format),
            webhooks: self.webhooks,
            permissions: self.permissions(),
        })
    }

    /// What needs history has it.
    fn check_history(&self, key: &str) -> Result<(), Invalid> {
        let history = self.history_size > 0 && !self.history_ttl.0.is_zero();
        if (self.history_size > 0) == self.history_ttl.0.is_zero() {
            let problem = "history needs both history_size and history_ttl";
            return Err(Invalid::new(format!("{key}.history_size"), problem));
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
                return Err(Invalid::new(format!("{key}.{option}"), problem));
            }
        }
        Ok(())
    }

    fn log(&self, key: &str) -> Result<LogKind, Invalid> {
        match self.log.as_str() {
            "memory" => Ok(LogKind::Memory),
            "disk" if self.history_size == 0 => {
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
        }
    }
}
