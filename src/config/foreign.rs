//! Keys of Centrifugo that have no meaning here: which do no harm, and what to do about the others.

use serde_json::Value;

/// What a key of Centrifugo comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It asks for nothing that is not so anyway.
    Fine,
    /// What it asks for isn't there, and nothing fails for it. Whoever runs the node is told this.
    Noted(&'static str),
    /// What it asks for isn't there. This is what to do.
    Refused(&'static str),
}

/// When a key does no harm.
enum Harmless {
    /// Whatever it says: it is so anyway, or it is about something that isn't here.
    Always,
    /// Whatever it says, but unless that is nothing, it should be known that it has no effect.
    Noted,
    /// A part that is off: `enabled` isn't true, or all that is in it is off; of engines: the one in memory.
    Off,
    /// It has one of these values.
    At(&'static [&'static str]),
}

use Harmless::{Always, At, Noted, Off};

const EMPTY: Harmless = At(&[""]);
const NO_OWN_TLS: &str = "take it out: the certificates of backends are those that the system trusts (SSL_CERT_FILE says more)";
const NO_MAP_PROXY: &str =
    "take it out: no backend is asked about maps. Let the application put values by the server API";
const NO_STORE: &str = "take it out: there is nothing to connect to. Nodes keep rooms in memory, and find each other; see [cluster] for more than one";
const ONE_PORT: &str = "take it out: all is on http_server.port. Let the proxy in front pass on only /connection and /emulation from outside";
const SYMBOLS: &str = "take it out: the symbols in names of rooms are always `$`, `:`, `#` and `,`";
const BUFFERS: &str = "it has no effect: buffers are not sized by hand here";
const COMPRESSION: &str =
    "it has no effect: messages to clients that only listen are not compressed";
const PREFIX: &str = "take it out: paths are always those of Centrifugo's defaults. A proxy in front can change them";
const OWN_WRITE: &str = "take it out: it is client.write_timeout here, for every transport";
const NO_CLIENT_CERTIFICATES: &str =
    "take it out: certificates of clients are not checked. A proxy in front can";
const UNI_CODES: &str = "take it out: clients that only listen get the protocol's own codes";

/// A key without the indexes in it, when it does no harm, and what to do if it does. Of namespaces and of what is
/// without one it is one entry, of backends too (`*`).
const KEYS: &[(&str, Harmless, &str)] = &[
    (
        "admin",
        Off,
        "take it out, or say enabled = false: there is no web interface. /metrics, and `info` and `channels` of the server API, tell what a node does",
    ),
    ("engine", Off, NO_STORE),
    ("broker", Off, NO_STORE),
    ("presence_manager", Off, NO_STORE),
    ("map_broker", Off, NO_STORE),
    ("controller", Off, NO_STORE),
    ("redis", Off, NO_STORE),
    ("nats", Off, NO_STORE),
    (
        "consumers",
        Off,
        "take it out: nothing is consumed from elsewhere. Let the application publish by the server API",
    ),
    ("prometheus", Always, ""),
    ("prometheus.handler_prefix", At(&["", "/metrics"]), PREFIX),
    ("health", Always, ""),
    ("health.handler_prefix", At(&["", "/health"]), PREFIX),
    ("swagger", Off, "take it out: the server API's description is at /openapi.json"),
    ("debug", Off, "take it out: there is no such endpoint; use the system's profiler"),
    ("init", Off, "take it out: there is no such endpoint"),
    ("usage_stats", Always, ""),
    ("graphite", Off, "take it out: let a collector read /metrics"),
    ("opentelemetry", Off, "take it out: let a collector read /metrics"),
    (
        "grpc_api.reflection",
        Off,
        "take it out: give the tools that ask for it the file proto/api.proto",
    ),
    ("grpc_api.tls.client_ca_pem", EMPTY, NO_CLIENT_CERTIFICATES),
    ("grpc_api.tls.server_ca_pem", Always, ""),
    ("grpc_api.tls.server_name", Always, ""),
    ("grpc_api.tls.insecure_skip_verify", Always, ""),
    ("uni_grpc.tls.client_ca_pem", EMPTY, NO_CLIENT_CERTIFICATES),
    ("uni_grpc.tls.server_ca_pem", Always, ""),
    ("uni_grpc.tls.server_name", Always, ""),
    ("uni_grpc.tls.insecure_skip_verify", Always, ""),
    (
        "webtransport",
        Off,
        "take it out: clients use WebSockets, with sse and http_stream where they can't",
    ),
    ("pid_file", EMPTY, "take it out: whatever starts the node knows its process id"),
    ("enable_unreleased_features", Noted, "it has no effect"),
    ("node.info_metrics_aggregate_interval", Noted, "it has no effect: `info` tells what is now"),
    (
        "log.file",
        EMPTY,
        "take it out: the log goes to standard error, which whatever starts the node can send to a file (2>>FILE)",
    ),
    ("http_server.internal_address", EMPTY, ONE_PORT),
    ("http_server.internal_port", EMPTY, ONE_PORT),
    ("http_server.internal_tls", Off, ONE_PORT),
    ("http_server.tls_external", At(&["false"]), ONE_PORT),
    (
        "http_server.tls_autocert",
        Off,
        "take it out: give http_server.tls the files of a certificate; a renewed one is taken into use by itself",
    ),
    ("http_server.http3", Off, "take it out: there is HTTP/1.1"),
    (
        "http_server.h2c_external",
        At(&["false"]),
        "take it out: there is HTTP/1.1; proxies in front can speak HTTP/2 with clients",
    ),
    ("http_server.tls.client_ca_pem", EMPTY, NO_CLIENT_CERTIFICATES),
    ("http_server.tls.server_ca_pem", Always, ""),
    ("http_server.tls.server_name", Always, ""),
    ("http_server.tls.insecure_skip_verify", Always, ""),
    (
        "http_api.disabled",
        At(&["false"]),
        "take it out, and leave http_api.key empty: then every call is refused",
    ),
    ("http_api.external", Always, ""),
    (
        "http_api.error_mode",
        EMPTY,
        "take it out: callers ask for HTTP statuses with the header `X-Centrifugo-Error-Mode: transport`",
    ),
    ("http_api.handler_prefix", At(&["", "/api"]), PREFIX),
    (
        "websocket.disabled",
        At(&["false"]),
        "take it out: WebSockets are always served. A proxy in front can keep clients from /connection/websocket",
    ),
    ("websocket.handler_prefix", At(&["", "/connection/websocket"]), PREFIX),
    ("websocket.decompressed_message_size_limit", Always, ""),
    ("websocket.read_buffer_size", Noted, BUFFERS),
    ("websocket.write_buffer_size", Noted, BUFFERS),
    ("websocket.use_write_buffer_pool", Noted, BUFFERS),
    ("websocket.write_timeout", At(&["1s", "1000ms"]), OWN_WRITE),
    ("uni_websocket.handler_prefix", At(&["", "/connection/uni_websocket"]), PREFIX),
    ("uni_websocket.compression", Noted, COMPRESSION),
    ("uni_websocket.compression_min_size", Always, ""),
    ("uni_websocket.compression_level", Always, ""),
    ("uni_websocket.decompressed_message_size_limit", Always, ""),
    ("uni_websocket.read_buffer_size", Noted, BUFFERS),
    ("uni_websocket.write_buffer_size", Noted, BUFFERS),
    ("uni_websocket.use_write_buffer_pool", Noted, BUFFERS),
    ("uni_websocket.write_timeout", At(&["1s", "1000ms"]), OWN_WRITE),
    (
        "uni_websocket.message_size_limit",
        Noted,
        "it has no effect: websocket.message_size_limit is for these clients, too",
    ),
    (
        "uni_websocket.disable_closing_handshake",
        At(&["false"]),
        "take it out: connections are always closed with a closing handshake",
    ),
    (
        "uni_websocket.disable_disconnect_push",
        At(&["false"]),
        "take it out: clients are always told why they are disconnected",
    ),
    (
        "uni_websocket.join_push_messages",
        At(&["false"]),
        "take it out: each push is a message of its own",
    ),
    ("sse.handler_prefix", At(&["", "/connection/sse"]), PREFIX),
    ("http_stream.handler_prefix", At(&["", "/connection/http_stream"]), PREFIX),
    ("uni_sse.handler_prefix", At(&["", "/connection/uni_sse"]), PREFIX),
    ("uni_http_stream.handler_prefix", At(&["", "/connection/uni_http_stream"]), PREFIX),
    ("emulation.handler_prefix", At(&["", "/emulation"]), PREFIX),
    ("uni_sse.connect_code_to_http_response", Off, UNI_CODES),
    ("uni_http_stream.connect_code_to_http_response", Off, UNI_CODES),
    ("client.connect_code_to_unidirectional_disconnect", Off, UNI_CODES),
    (
        "client.connect_include_server_time",
        At(&["false"]),
        "take it out: the reply to a connect does not say the time. Let the application's backend say it",
    ),
    (
        "client.presence_update_interval",
        Noted,
        "it has no effect: nodes know who is there without being told again and again",
    ),
    (
        "client.channel_position_check_delay",
        Noted,
        "it has no effect: positions are watched all the time",
    ),
    (
        "client.channel_position_max_time_lag",
        Noted,
        "it has no effect: positions are watched all the time",
    ),
    (
        "client.insecure_skip_token_signature_verify",
        At(&["false"]),
        "it is client.token.insecure_skip_signature_verify here",
    ),
    ("client.token.insecure_skip_jwks_endpoint_safety_check", Always, ""),
    ("client.subscription_token.insecure_skip_jwks_endpoint_safety_check", Always, ""),
    ("channel.private_prefix", At(&["$"]), SYMBOLS),
    ("channel.namespace_boundary", At(&[":"]), SYMBOLS),
    ("channel.user_boundary", At(&["#"]), SYMBOLS),
    ("channel.user_separator", At(&[","]), SYMBOLS),
    ("rpc.namespace_boundary", At(&[":"]), SYMBOLS),
    ("rpc.ping", Off, "take it out, or have a backend answer the method (rpc.proxy)"),
    ("channel.proxy.map_publish", Off, NO_MAP_PROXY),
    ("channel.proxy.map_remove", Off, NO_MAP_PROXY),
    (
        "channel.namespaces.map.stream_ttl",
        Noted,
        "it has no effect: changes are kept as stream_size says",
    ),
    ("channel.namespaces.map.live_transition_max_publication_limit", Noted, "it has no effect"),
    (
        "channel.namespaces.map.subscribe_catch_up_timeout",
        Noted,
        "it has no effect: it is a minute",
    ),
    ("channel.namespaces.map.publish_proxy_enabled", At(&["false"]), NO_MAP_PROXY),
    ("channel.namespaces.map.publish_proxy_name", Always, ""),
    ("channel.namespaces.map.remove_proxy_enabled", At(&["false"]), NO_MAP_PROXY),
    ("channel.namespaces.map.remove_proxy_name", Always, ""),
    (
        "channel.namespaces.shared_poll.publish_enabled",
        At(&["false"]),
        "take it out: the data of keys comes from the backend. What is published goes to rooms of other namespaces",
    ),
    ("*.grpc.compression", Off, "take it out: what is asked by gRPC is not compressed"),
    ("*.grpc.tls.cert_pem", EMPTY, NO_OWN_TLS),
    ("*.grpc.tls.key_pem", EMPTY, NO_OWN_TLS),
    ("*.grpc.tls.client_ca_pem", Always, ""),
    ("*.grpc.tls.server_ca_pem", EMPTY, NO_OWN_TLS),
    ("*.grpc.tls.server_name", EMPTY, NO_OWN_TLS),
    ("*.grpc.tls.insecure_skip_verify", Off, NO_OWN_TLS),
    (
        "*.grpc_metadata",
        Off,
        "take it out: metadata of clients by gRPC goes along as headers do; name it in http_headers",
    ),
    (
        "*.http.tls",
        Off,
        "take it out: the system's authorities are trusted. Certificates of its own need to be signed by one of them",
    ),
];

/// What to make of a key that is not one of ours, and of what is in it; nothing if Centrifugo doesn't have it either.
pub(super) fn judge(path: &str, value: &Value) -> Vec<(String, Verdict)> {
    let name = without_indexes(path);
    let Some((_, harmless, instead)) = KEYS.iter().find(|(key, ..)| is_named(key, &name)) else {
        return Vec::new();
    };
    let mut verdicts = vec![(path.to_owned(), verdict(harmless, instead, value))];
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{path}.{key}");
        if KEYS.iter().any(|(key, ..)| *key == path) {
            verdicts.extend(judge(&path, value));
        }
    }
    verdicts
}

/// The same for a variable: `suffix` is its name behind the prefix.
pub(super) fn judge_variable(suffix: &str, value: &str) -> Option<Verdict> {
    let value = Value::from(value);
    KEYS.iter().find_map(|(key, harmless, instead)| {
        let key = key.replace("channel.namespaces", "channel.without_namespace");
        let rest = suffix.strip_prefix(&super::environment::variable(&key))?;
        match (rest, harmless) {
            ("", _) => Some(verdict(harmless, instead, &value)),
            ("_ENABLED" | "_TYPE", Off) => Some(verdict(harmless, instead, &value)),
            // What is in a part counts where the part is on.
            (rest, Off | Always) if rest.starts_with('_') => Some(Verdict::Fine),
            _ => None,
        }
    })
}

fn is_named(key: &str, name: &str) -> bool {
    match key.strip_prefix('*') {
        Some(end) => name.ends_with(end) && name.contains("prox"),
        None => key == name,
    }
}

fn without_indexes(path: &str) -> String {
    let parts = path.split('.').map(|it| it.split('[').next().unwrap_or_default());
    let name: Vec<&str> = parts.collect();
    name.join(".").replacen("channel.without_namespace.", "channel.namespaces.", 1)
}

fn verdict(harmless: &Harmless, instead: &'static str, value: &Value) -> Verdict {
    let fine = match harmless {
        Always => true,
        Noted => return if is_off(value) { Verdict::Fine } else { Verdict::Noted(instead) },
        Off => is_off(value),
        At(values) => value.is_null() || values.contains(&text(value).as_str()),
    };
    if fine { Verdict::Fine } else { Verdict::Refused(instead) }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Nothing, or a part that isn't `enabled`, or whose `type` is the one in memory, or that doesn't say either and has
/// nothing in it that is on.
fn is_off(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => {
            ["", "0", "f", "false", "memory"].contains(&text.to_ascii_lowercase().as_str())
        }
        Value::Array(items) => items.iter().all(is_off),
        Value::Object(part) => match (part.get("enabled"), part.get("type")) {
            (Some(enabled), _) if is_off(enabled) => true,
            (_, Some(kind)) => is_off(kind),
            (Some(_), None) => false,
            // What an engine or a page that is off would connect to or be protected by.
            (None, None) => part.iter().all(|(key, value)| {
                ["password", "secret", "redis", "nats", "postgres"].contains(&key.as_str())
                    || is_off(value)
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worst(path: &str, value: Value) -> &'static str {
        let verdicts = judge(path, &value);
        assert!(!verdicts.is_empty(), "{path}");
        match verdicts.iter().map(|(_, it)| it).find(|it| **it != Verdict::Fine) {
            None => "fine",
            Some(Verdict::Noted(_)) => "noted",
            Some(_) => "refused",
        }
    }

    #[test]
    fn what_is_off_is_accepted_and_what_is_on_says_what_to_do() {
        for (path, value, expected) in [
            ("admin", json!({"enabled": false, "password": "p", "secret": "s"}), "fine"),
            ("admin", json!({"password": "p", "secret": "s"}), "fine"),
            ("admin", json!({"enabled": true}), "refused"),
            ("engine", json!({"type": "memory"}), "fine"),
            ("engine", json!("memory"), "fine"),
            ("engine", json!({"type": "redis"}), "refused"),
            ("broker", json!({"enabled": false, "type": "nats"}), "fine"),
            ("broker", json!({"enabled": true, "type": "nats"}), "refused"),
            ("consumers", json!([]), "fine"),
            ("consumers", json!([{"name": "a", "enabled": false, "type": "kafka"}]), "fine"),
            ("consumers", json!([{"name": "a", "enabled": true, "type": "kafka"}]), "refused"),
            ("prometheus", json!({"enabled": true}), "fine"),
            ("prometheus", json!({"enabled": true, "handler_prefix": "/m"}), "refused"),
            ("http_server.internal_port", json!(""), "fine"),
            ("http_server.internal_port", json!("9000"), "refused"),
            ("websocket.read_buffer_size", json!(512), "noted"),
            ("uni_websocket.compression", json!(true), "noted"),
            ("uni_websocket.compression", json!(false), "fine"),
            ("channel.namespaces[3].map.publish_proxy_enabled", json!(true), "refused"),
            ("channel.namespaces[3].map.stream_ttl", json!("1m"), "noted"),
            ("channel.namespaces[3].shared_poll.publish_enabled", json!(true), "refused"),
            ("channel.without_namespace.shared_poll.publish_enabled", json!(false), "fine"),
            ("client.proxy.connect.grpc.compression", json!(false), "fine"),
            ("proxies[0].grpc.tls.server_ca_pem", json!("ca.pem"), "refused"),
            ("proxies[0].grpc_metadata", json!(["x-user"]), "refused"),
        ] {
            assert_eq!(worst(path, value.clone()), expected, "{path} {value}");
        }
        assert!(judge("admim", &json!({})).is_empty());
    }

    #[test]
    fn the_same_of_variables() {
        for (suffix, value, fine) in [
            ("ADMIN_ENABLED", "true", Some(false)),
            ("ADMIN_ENABLED", "false", Some(true)),
            ("ADMIN_PASSWORD", "x", Some(true)),
            ("ENGINE_TYPE", "redis", Some(false)),
            ("LOG_FILE", "/var/log/x", Some(false)),
            ("USAGE_STATS_DISABLED", "true", Some(true)),
            ("VERSION", "1.2.3", None),
        ] {
            let verdict = judge_variable(suffix, value);
            assert_eq!(verdict.map(|it| it == Verdict::Fine), fine, "{suffix}={value}");
        }
    }
}
