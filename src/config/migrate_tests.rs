use serde_json::json;

use super::*;

fn converted(theirs: Value) -> (Value, Vec<String>) {
    let it = convert(theirs);
    (it.typed, it.said)
}

/// What is off there and on here.
fn with_quiet(mut typed: Value) -> Value {
    for transport in ["sse", "http_stream"] {
        set(&mut typed, &format!("{transport}.enabled"), false.into());
    }
    typed
}

#[test]
fn what_is_the_same_stays_and_what_has_no_place_is_dropped_with_a_word() {
    let (typed, said) = converted(json!({
        "client": {
            "token": {"hmac_secret_key": "x"},
            "allowed_origins": ["https://a"],
            "ping_interval": 10_000_000_000_u64,
            "presence_update_interval": "27s",
            "insecure_skip_token_signature_verify": true,
        },
        "engine": {"type": "redis", "redis": {"address": "redis://a"}},
        "admin": {"enabled": true, "password": "p"},
        "websocket": {"write_timeout": "2s", "compression": true},
        "uni_websocket": {"compression": true},
        "sse": {"enabled": true},
        "log": {"level": "none"},
        "nonsense": 1,
        "channel": {"namespaces": [
            {"name": "chat", "history_size": 5, "history_ttl": "1m", "shared_poll": {"publish_enabled": false}},
        ]},
    }));
    assert_eq!(
        typed,
        json!({
            "client": {
                "token": {"hmac_secret_key": "x", "insecure_skip_signature_verify": true},
                "subscription_token": {"insecure_skip_signature_verify": true},
                "allowed_origins": ["https://a"],
                "ping_interval": "10000000000ns",
                "write_timeout": "2s",
            },
            "websocket": {"compression": true},
            "sse": {"enabled": true},
            "http_stream": {"enabled": false},
            "log": {"level": "off"},
            "channel": {"namespaces": [{"name": "chat", "history_size": 5, "history_ttl": "1m"}]},
        })
    );
    for (key, why) in [
        ("engine", "there is nothing to connect to"),
        ("admin", "there is no web interface"),
        ("uni_websocket.compression", "it has no effect"),
        ("client.presence_update_interval", "it has no effect"),
        ("nonsense", "there is no such option"),
        ("channel.namespaces[0].shared_poll.publish_enabled", "it asks for nothing"),
    ] {
        let expected = format!("{key} is dropped: {why}");
        assert!(said.iter().any(|it| it.starts_with(&expected)), "{expected}: {said:?}");
    }
}

#[test]
fn options_of_v5_get_their_sections() {
    let (typed, said) = converted(json!({
        "token_hmac_secret_key": "x",
        "admin_password": "p",
        "api_key": "k",
        "allowed_origins": ["https://a"],
        "engine": "redis",
        "redis_address": "redis://a",
        "presence": true,
        "history_size": 10,
        "history_ttl": "300s",
        "proxy_publish": true,
        "proxy_publish_endpoint": "http://b/publish",
        "proxy_connect_endpoint": "http://b/connect",
        "proxy_connect_timeout": "2s",
        "proxy_http_headers": ["Cookie"],
        "proxy_static_http_headers": {"X-A": "b"},
        "namespaces": [{"name": "chat", "proxy_subscribe": true}],
        "tls": true,
        "tls_cert": "a.pem",
        "tls_key": "k.pem",
        "port": "9000",
    }));
    let backend = |more: Value| {
        let mut it = json!({"http_headers": ["Cookie"], "http": {"static_headers": {"X-A": "b"}}});
        for (key, value) in more.as_object().expect("options") {
            it[key] = value.clone();
        }
        it
    };
    let connect = json!({"endpoint": "http://b/connect", "timeout": "2s", "enabled": true});
    assert_eq!(
        typed,
        with_quiet(json!({
            "client": {
                "token": {"hmac_secret_key": "x"},
                "allowed_origins": ["https://a"],
                "proxy": {"connect": backend(connect)},
            },
            "http_api": {"key": "k"},
            "http_server": {"port": 9000, "tls": {"enabled": true, "cert_pem": "a.pem", "key_pem": "k.pem"}},
            "channel": {
                "proxy": {"publish": backend(json!({"endpoint": "http://b/publish"}))},
                "without_namespace": {
                    "presence": true,
                    "history_size": 10,
                    "history_ttl": "300s",
                    "publish_proxy_enabled": true,
                },
                "namespaces": [{"name": "chat", "subscribe_proxy_enabled": true}],
            },
        }))
    );
    for key in ["admin", "engine", "redis_address"] {
        let expected = format!("{key} is dropped: ");
        assert!(said.iter().any(|it| it.starts_with(&expected)), "{expected}: {said:?}");
    }
}

#[test]
fn named_backends_of_v5_are_asked_where_they_are_named() {
    let (typed, said) = converted(json!({
        "granular_proxy_mode": true,
        "proxies": [{"name": "main", "endpoint": "http://b", "static_http_headers": {"X": "y"}}],
        "connect_proxy_name": "main",
        "rpc_proxy_name": "main",
        "rpc_namespaces": [{"name": "shop", "rpc_proxy_name": "main"}, {"name": "free"}],
        "namespaces": [{"name": "chat", "publish_proxy_name": "main"}],
        "presence": false,
    }));
    let http = json!({"static_headers": {"X": "y"}});
    assert_eq!(
        typed,
        with_quiet(json!({
            "proxies": [{"name": "main", "endpoint": "http://b", "http": http}],
            "client": {"proxy": {"connect": {"enabled": true, "endpoint": "http://b", "http": http}}},
            "rpc": {
                "without_namespace": {"proxy_enabled": true, "proxy_name": "main"},
                "namespaces": [
                    {"name": "shop", "proxy_enabled": true, "proxy_name": "main"},
                    {"name": "free", "proxy_enabled": true},
                ],
            },
            "channel": {
                "without_namespace": {"presence": false},
                "namespaces": [
                    {"name": "chat", "publish_proxy_name": "main", "publish_proxy_enabled": true},
                ],
            },
        }))
    );
    assert_eq!(said.len(), 2, "{said:?}");
}

#[test]
fn certificates_in_base64_become_pem() {
    let pem = "-----BEGIN CERTIFICATE-----\n";
    let theirs = json!({"http_server": {"tls": {"cert_pem": BASE64_STANDARD.encode(pem)}}});
    let (typed, _) = converted(theirs);
    assert_eq!(typed["http_server"]["tls"]["cert_pem"], pem);
}

#[test]
fn who_may_call_by_grpc_stays_as_it_was() {
    let (typed, said) =
        converted(json!({"grpc_api": true, "grpc_api_port": 10001, "grpc_api_tls_cert": "a.pem"}));
    let expected =
        json!({"enabled": true, "port": 10001, "insecure": true, "tls": {"cert_pem": "a.pem"}});
    assert_eq!(typed["grpc_api"], expected);
    assert!(said.iter().any(|it| it.starts_with("grpc_api.insecure = true is added")), "{said:?}");
    let (typed, said) = converted(json!({
        "grpc_api": {"enabled": true, "key": "k", "error_mode": "transport", "reflection": true},
    }));
    assert_eq!(typed["grpc_api"], json!({"enabled": true, "key": "k", "error_mode": "transport"}));
    assert!(said.iter().any(|it| it.contains("proto/api.proto")), "{said:?}");
    let (typed, said) = converted(json!({"grpc_api": {"enabled": false}}));
    assert_eq!(typed["grpc_api"], json!({"enabled": false}));
    assert!(!said.iter().any(|it| it.contains("insecure")), "{said:?}");
}
