//! Which changes of the configuration a running node takes over, and which wait until it starts again.
//!
//! In: the options in use, and those that were read just now. Out: the ones in use from now on, which are checked
//! together like any others.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{Config, Invalid, Problems, raw::Raw, typed::join};

/// Options that can be taken over. Those of tokens are of subscription tokens, too.
const LIVE: [&str; 27] = [
    "log.level",
    "client.allowed_origins",
    "client.token.hmac_secret_key",
    "client.token.hmac_previous_secret_key",
    "client.token.hmac_previous_secret_key_valid_until",
    "client.token.rsa_public_key",
    "client.token.ecdsa_public_key",
    "client.token.audience",
    "client.token.audience_regex",
    "client.token.issuer",
    "client.token.issuer_regex",
    "client.token.user_id_claim",
    "client.token.insecure_skip_signature_verify",
    "http_api.key",
    "grpc_api.key",
    "grpc_api.tls.cert_pem",
    "grpc_api.tls.key_pem",
    "uni_grpc.tls.cert_pem",
    "uni_grpc.tls.key_pem",
    "http_server.tls.cert_pem",
    "http_server.tls.key_pem",
    "cluster.secret",
    "cluster.other_secrets",
    "channel.namespaces",
    "shared_poll.hmac_secret_key",
    "shared_poll.hmac_previous_secret_key",
    "shared_poll.hmac_previous_secret_key_valid_until",
];

/// Options of namespaces that only sessions look at: they count for what clients ask from then on; who consumes
/// keeps the rights that it began with. What rooms keep and
/// promise is theirs from the beginning.
const LIVE_OF_ROOMS: [&str; 17] = [
    "allow_subscribe_for_client",
    "allow_subscribe_for_anonymous",
    "allow_publish_for_client",
    "allow_publish_for_subscriber",
    "allow_publish_for_anonymous",
    "allow_presence_for_client",
    "allow_presence_for_subscriber",
    "allow_presence_for_anonymous",
    "allow_history_for_client",
    "allow_history_for_subscriber",
    "allow_history_for_anonymous",
    "allow_consume_for_client",
    "allow_consume_for_anonymous",
    "allow_ack_for_consumer",
    "allow_seek_for_consumer",
    "allow_user_limited_channels",
    "channel_regex",
];

/// Every option as it was checked. Secrets are among them.
#[derive(Clone, Default, PartialEq)]
pub struct Options(Arc<Value>);

impl Options {
    pub(super) fn of(raw: &Raw) -> Self {
        // They are plain data.
        Self(Arc::new(serde_json::to_value(raw).unwrap_or_default()))
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Options")
    }
}

/// A configuration that was read again.
#[derive(Debug)]
pub struct Reloaded {
    /// What is in use from now on.
    pub config: Config,
    /// The options that are taken over.
    pub taken: Vec<String>,
    /// The options that are not what was read until the node starts again.
    pub waiting: Vec<String>,
}

impl Config {
    /// What this one becomes when `read` is read.
    ///
    /// # Errors
    /// If what can be taken over does not go together with what can't.
    pub fn reloaded(&self, read: &Self) -> Result<Reloaded, Problems> {
        let (mut options, mut merged) = ((*self.options.0).clone(), Merged::default());
        merged.take_over(&mut options, &read.options.0, "");
        merged.taken.sort_unstable();
        merged.waiting.sort_unstable();
        let raw: Raw = serde_json::from_value(options)
            .map_err(|error| Invalid::new("the configuration", error.to_string()))?;
        let config = Self { notes: read.notes.clone(), ..Self::check(raw)? };
        Ok(Reloaded { config, taken: merged.taken, waiting: merged.waiting })
    }
}

#[derive(Default)]
struct Merged {
    taken: Vec<String>,
    waiting: Vec<String>,
}

impl Merged {
    fn take_over(&mut self, used: &mut Value, read: &Value, path: &str) {
        match (used, read) {
            (Value::Object(used), Value::Object(read)) if !is_map(path) => {
                for (key, used) in used {
                    self.take_over(used, &read[key], &join(path, key));
                }
            }
            (Value::Array(used), Value::Array(read)) if path == "channel.namespaces" => {
                self.take_namespaces(used, read);
            }
            (used, read) if used == read => {}
            (used, read) => {
                if is_live(path, used, read) {
                    *used = read.clone();
                    self.taken.push(path.to_owned());
                } else {
                    self.waiting.push(path.to_owned());
                }
            }
        }
    }

    fn take_namespaces(&mut self, used: &mut Vec<Value>, read: &[Value]) {
        for namespace in read {
            let name = namespace["name"].as_str().unwrap_or_default();
            let path = format!("channel.namespaces.{name}");
            match used.iter_mut().find(|it| it["name"] == name) {
                Some(used) => self.take_over(used, namespace, &path),
                None if asks_backends(namespace) || is_on_disk(namespace) => {
                    self.waiting.push(path);
                }
                None => {
                    used.push(namespace.clone());
                    self.taken.push(path);
                }
            }
        }
        let gone = used.iter().filter(|it| read.iter().all(|read| read["name"] != it["name"]));
        let gone = gone.filter_map(|it| it["name"].as_str());
        self.waiting.extend(gone.map(|name| format!("channel.namespaces.{name}")));
    }
}

/// Its keys are whatever one likes, so it is one value.
fn is_map(path: &str) -> bool {
    path.ends_with(".static_headers") || path.ends_with(".static_metadata")
}

/// Which backends there are is settled when the node starts.
fn asks_backends(namespace: &Value) -> bool {
    let kinds = ["subscribe", "publish", "sub_refresh"];
    kinds.iter().any(|it| namespace[format!("{it}_proxy_enabled")] == true)
        || namespace["subscription_type"] == "shared_poll"
}

/// Whether there is a log on disk is too.
fn is_on_disk(namespace: &Value) -> bool {
    namespace["log"] == "disk"
}

fn is_live(path: &str, used: &Value, read: &Value) -> bool {
    let option = path.rsplit('.').next().unwrap_or_default();
    if path.starts_with("channel.namespaces.") || path.starts_with("channel.without_namespace.") {
        return LIVE_OF_ROOMS.contains(&option);
    }
    // Nodes that seal and nodes that don't can't hear each other.
    if path == "cluster.secret" && (used == "" || read == "") {
        return false;
    }
    LIVE.contains(&path.replace("client.subscription_token.", "client.token.").as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(options: &Value) -> Config {
        let mut raw: Raw = serde_json::from_value(options.clone()).expect("of the right form");
        raw.http_server.workers = 1;
        Config::check(raw).expect("valid")
    }

    fn reloaded(used: &Value, read: &Value) -> Reloaded {
        config(used).reloaded(&config(read)).expect("valid")
    }

    #[test]
    fn what_can_be_taken_over_is_and_the_rest_is_named() {
        let used = json!({
            "log": {"level": "info"},
            "http_server": {"port": 1},
            "client": {"token": {"hmac_secret_key": "a"}, "channel_limit": 5},
            "http_api": {"key": "k"},
        });
        let read = json!({
            "log": {"level": "debug"},
            "http_server": {"port": 2},
            "client": {
                "token": {"hmac_secret_key": "b", "hmac_previous_secret_key": "a"},
                "channel_limit": 6,
                "allowed_origins": ["https://a"],
            },
            "http_api": {"key": "l"},
        });
        let it = reloaded(&used, &read);
        let taken = [
            "client.allowed_origins",
            "client.token.hmac_previous_secret_key",
            "client.token.hmac_secret_key",
            "http_api.key",
            "log.level",
        ];
        assert_eq!(it.taken, taken);
        assert_eq!(it.waiting, ["client.channel_limit", "http_server.port"]);
        let now = &it.config;
        assert_eq!((now.tokens.secret(), now.api_key.as_deref()), ("b", Some("l")));
        assert_eq!((now.client.channel_limit, now.listen.port()), (5, 1));
        let again = now.reloaded(&config(&read)).expect("valid");
        assert_eq!((again.taken.len(), again.waiting.len()), (0, 2));
    }

    #[test]
    fn namespaces_come_and_permissions_change() {
        let used = json!({"channel": {"namespaces": [
            {"name": "chat", "presence": true},
            {"name": "old"},
        ]}});
        let read = json!({
            "channel": {
                "namespaces": [
                    {"name": "new", "history_size": 1, "history_ttl": "1m"},
                    {"name": "chat", "allow_publish_for_client": true, "presence": false},
                    {"name": "asks", "publish_proxy_enabled": true},
                    {"name": "kept", "log": "disk", "history_size": 1, "history_ttl": "1m"},
                ],
                "proxy": {"publish": {"endpoint": "http://a"}},
            },
        });
        let it = reloaded(&used, &read);
        let taken = ["channel.namespaces.chat.allow_publish_for_client", "channel.namespaces.new"];
        assert_eq!(it.taken, taken);
        let waiting = [
            "channel.namespaces.asks",
            "channel.namespaces.chat.presence",
            "channel.namespaces.kept",
            "channel.namespaces.old",
            "channel.proxy.publish.endpoint",
        ];
        assert_eq!(it.waiting, waiting);
        let chat = it.config.namespaces.options("chat:a").expect("configured");
        assert!(chat.presence && chat.permissions.publish.client);
        assert!(it.config.namespaces.options("old:a").is_some(), "its rooms go on");
        assert!(it.config.namespaces.options("asks:a").is_none());
    }

    #[test]
    fn a_secret_changes_and_does_not_come_or_go() {
        let cluster = |secret: &str| json!({"cluster": {"gossip": "127.0.0.1:1", "mesh": "127.0.0.1:2", "secret": secret}});
        let (one, two) = (cluster("0123456789abcdef"), cluster("fedcba9876543210"));
        assert_eq!(reloaded(&one, &two).taken, ["cluster.secret"]);
        assert_eq!(reloaded(&one, &cluster("")).waiting, ["cluster.secret"]);
        assert_eq!(reloaded(&cluster(""), &one).waiting, ["cluster.secret"]);
    }
}
