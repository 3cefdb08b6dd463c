//! Which rooms' keys are polled, and how: as typed, checked.

use std::sync::Arc;

use super::{
    Invalid, Problems,
    backends::Register,
    nearest,
    raw::{Channel, Raw},
};
use crate::shared_poll::{
    options::{Mode, PollOptions, PolledNamespaces, SharedPollOptions},
    signature::SigningKeys,
};

/// What makes the data of a key new.
const MODES: [&str; 2] = ["versionless", "versioned"];
/// Requests under way, where the configuration leaves it open.
const CONCURRENCY: usize = 64;

/// All that is configured of shared polls.
pub(super) fn check(
    raw: &Raw,
    register: &mut Register<'_>,
    problems: &mut Problems,
) -> SharedPollOptions {
    let mut namespaces = PolledNamespaces::default();
    for (index, it) in raw.channel.namespaces.iter().enumerate() {
        let key = format!("channel.namespaces[{index}]");
        if let Some(options) = it.options.polled(&key, register, problems) {
            namespaces.named.insert(it.name.as_str().into(), Arc::new(options));
        }
    }
    let (key, options) = ("channel.without_namespace", &raw.channel.without_namespace);
    namespaces.default = options.polled(key, register, problems).map(Arc::new);
    let it = &raw.shared_poll;
    if !namespaces.is_empty() && it.hmac_secret_key.is_empty() {
        let problem = "needed for namespaces with subscription_type = \"shared_poll\": the application signs with it which keys a client may track";
        problems.add(Invalid::new("shared_poll.hmac_secret_key", problem));
    }
    SharedPollOptions {
        namespaces: Arc::new(namespaces),
        keys: SigningKeys {
            secret: it.hmac_secret_key.clone(),
            previous: it.hmac_previous_secret_key.clone(),
            previous_until: it.hmac_previous_secret_key_valid_until,
        },
        concurrency: if it.concurrency_limit == 0 { CONCURRENCY } else { it.concurrency_limit },
    }
}

impl Channel {
    /// How the keys of its rooms are polled, if they are.
    fn polled(
        &self,
        key: &str,
        register: &mut Register<'_>,
        problems: &mut Problems,
    ) -> Option<PollOptions> {
        if self.subscription_type != "shared_poll" {
            return None;
        }
        let (it, key) = (&self.shared_poll, format!("{key}.shared_poll"));
        let mode = match it.mode.as_str() {
            "" | "versionless" => Mode::Versionless,
            "versioned" => Mode::Versioned,
            other => {
                let hint = nearest(other, MODES.into_iter());
                let problem = format!("{other:?} is no mode{hint}");
                problems.add(Invalid::new(format!("{key}.mode"), problem));
                Mode::default()
            }
        };
        for (option, value) in [
            ("refresh_interval", it.refresh_interval.0.as_millis()),
            ("refresh_batch_size", it.refresh_batch_size as u128),
            ("max_keys_per_connection", it.max_keys_per_connection as u128),
            ("max_keys_per_channel", it.max_keys_per_channel as u128),
        ] {
            if value == 0 {
                problems.add(Invalid::new(format!("{key}.{option}"), "must be more than 0"));
            }
        }
        let backend = register.shared_poll(&format!("{key}.proxy_name"), &it.proxy_name);
        Some(PollOptions {
            backend: problems.take(backend)?,
            mode,
            refresh_interval: it.refresh_interval.0,
            refresh_batch_size: it.refresh_batch_size,
            max_keys_per_connection: it.max_keys_per_connection,
            max_keys_per_channel: it.max_keys_per_channel,
            shutdown_delay: it.channel_shutdown_delay.0,
            expired_delay: it.track_expired_extra_delay.0,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;

    fn check(secret: &str, namespace: &Value) -> Result<Config, Problems> {
        let mut namespace = namespace.clone();
        namespace["name"] = "poll".into();
        namespace["subscription_type"] = match &namespace["subscription_type"] {
            Value::Null => "shared_poll".into(),
            other => other.clone(),
        };
        let raw = json!({
            "http_server": {"workers": 1},
            "channel": {"namespaces": [namespace]},
            "shared_poll": {"hmac_secret_key": secret},
            "proxies": [{"name": "keys", "endpoint": "http://a/refresh"}],
        });
        Config::check(serde_json::from_value(raw).expect("of the right form"))
    }

    fn wrong(secret: &str, namespace: &Value) -> Vec<String> {
        let problems = check(secret, namespace).expect_err("something is wrong");
        problems.list().iter().map(|it| it.key.clone()).collect()
    }

    #[test]
    fn a_namespace_says_how_its_keys_are_polled() {
        let namespace = json!({"shared_poll": {
            "proxy_name": "keys", "mode": "versioned", "refresh_interval": "200ms",
            "max_keys_per_connection": 7,
        }});
        let config = check("s", &namespace).expect("valid");
        let options = config.shared_polls.namespaces.of("poll:a").expect("polled");
        assert_eq!(config.backends[usize::from(options.backend.0)].endpoint, "http://a/refresh");
        assert_eq!(options.mode, Mode::Versioned);
        assert_eq!(options.refresh_interval, Duration::from_millis(200));
        assert_eq!((options.max_keys_per_connection, options.refresh_batch_size), (7, 1000));
        assert!(config.shared_polls.namespaces.of("lobby").is_none());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let poll = |shared_poll: Value| json!({"shared_poll": shared_poll});
        let keys = || poll(json!({"proxy_name": "keys"}));
        assert_eq!(wrong("", &keys()), ["shared_poll.hmac_secret_key"]);
        let at = "channel.namespaces[0]";
        for (namespace, key) in [
            (poll(json!({})), "channel.proxy.shared_poll_refresh.endpoint".to_owned()),
            (poll(json!({"proxy_name": "kyes"})), format!("{at}.shared_poll.proxy_name")),
            (poll(json!({"proxy_name": "keys", "mode": "v"})), format!("{at}.shared_poll.mode")),
            (
                poll(json!({"proxy_name": "keys", "refresh_interval": "0s"})),
                format!("{at}.shared_poll.refresh_interval"),
            ),
            (json!({"subscription_type": "pull"}), format!("{at}.subscription_type")),
        ] {
            assert_eq!(wrong("s", &namespace), [key], "{namespace}");
        }
        assert!(check("", &json!({"subscription_type": ""})).is_ok());
    }
}
