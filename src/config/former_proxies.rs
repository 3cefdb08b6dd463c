//! Backends as Centrifugo v5 had them: what is asked of all of them said once, or (in its granular mode) each with a
//! name that others name.

use serde_json::{Map, Value, json};

use super::typed::set;

/// Where v6 has the backend that v5 has at `proxy_…_endpoint`.
const PLACES: [(&str, &str); 6] = [
    ("connect", "client.proxy.connect"),
    ("refresh", "client.proxy.refresh"),
    ("subscribe", "channel.proxy.subscribe"),
    ("publish", "channel.proxy.publish"),
    ("sub_refresh", "channel.proxy.sub_refresh"),
    ("rpc", "rpc.proxy"),
];

/// What was said once for all, and its name in each backend.
const COMMON: [(&str, &str); 8] = [
    ("proxy_http_headers", "http_headers"),
    ("proxy_grpc_metadata", "grpc_metadata"),
    ("proxy_grpc_credentials_key", "grpc.credentials_key"),
    ("proxy_grpc_credentials_value", "grpc.credentials_value"),
    ("proxy_binary_encoding", "binary_encoding"),
    ("proxy_include_connection_meta", "include_connection_meta"),
    ("proxy_static_http_headers", "http.static_headers"),
    ("proxy_http_status_code_transforms", "http.status_to_code_transforms"),
];

/// What in v5 is about backends.
pub(super) struct FormerProxies {
    options: Map<String, Value>,
}

/// Takes all that is about backends apart from the rest.
pub(super) fn split(flat: Map<String, Value>) -> (FormerProxies, Map<String, Value>) {
    let own = |key: &str| {
        let named = ["connect_proxy_name", "refresh_proxy_name", "rpc_proxy_name"];
        let of_kind = PLACES.iter().any(|(kind, _)| {
            key == format!("proxy_{kind}_endpoint") || key == format!("proxy_{kind}_timeout")
        });
        let common = COMMON.iter().any(|(former, _)| *former == key);
        let others = ["proxies", "granular_proxy_mode", "rpc_namespaces"].contains(&key);
        of_kind || common || others || named.contains(&key)
    };
    let (options, rest) = flat.into_iter().partition(|(key, _)| own(key));
    (FormerProxies { options }, rest)
}

/// Puts them where v6 has them.
pub(super) fn put(typed: &mut Value, former: FormerProxies, said: &mut Vec<String>) {
    let mut options = former.options;
    let granular = options.remove("granular_proxy_mode").is_some_and(|it| it == true);
    let named: Vec<Value> = match options.remove("proxies") {
        Some(Value::Array(named)) => named.into_iter().map(with_sections).collect(),
        _ => Vec::new(),
    };
    let rpc_asks = if granular {
        put_named(typed, &options, &named, said)
    } else {
        put_common(typed, &options)
    };
    if rpc_asks {
        set(typed, "rpc.without_namespace.proxy_enabled", true.into());
    }
    if let Some(Value::Array(namespaces)) = options.remove("rpc_namespaces") {
        let namespaces = namespaces.into_iter().map(|it| rpc_namespace(it, rpc_asks));
        set(typed, "rpc.namespaces", namespaces.collect());
    }
    if granular && !named.is_empty() {
        set(typed, "proxies", named.into());
    }
}

fn is_said(value: Option<&Value>) -> bool {
    value.and_then(Value::as_str).is_some_and(|it| !it.is_empty())
}

/// Backends that are asked because they have an endpoint. Returns whether calls are among what they are asked.
fn put_common(typed: &mut Value, options: &Map<String, Value>) -> bool {
    for (kind, place) in PLACES {
        let endpoint = options.get(&format!("proxy_{kind}_endpoint"));
        if !is_said(endpoint) {
            continue;
        }
        let of_kind = ["endpoint", "timeout"].map(|it| (format!("proxy_{kind}_{it}"), it));
        let common = COMMON.map(|(former, now)| (former.to_owned(), now));
        for (former, now) in of_kind.into_iter().chain(common) {
            if let Some(value) = options.get(&former) {
                set(typed, &format!("{place}.{now}"), value.clone());
            }
        }
        if place.starts_with("client.") {
            set(typed, &format!("{place}.enabled"), true.into());
        }
    }
    is_said(options.get("proxy_rpc_endpoint"))
}

/// Backends that are asked because they are named. Returns whether there is one for calls without a namespace.
fn put_named(
    typed: &mut Value,
    options: &Map<String, Value>,
    named: &[Value],
    said: &mut Vec<String>,
) -> bool {
    for (kind, place) in &PLACES[..2] {
        let Some(name) = options.get(&format!("{kind}_proxy_name")).filter(|it| is_said(Some(it)))
        else {
            continue;
        };
        match named.iter().find(|it| it["name"] == *name) {
            Some(Value::Object(proxy)) => {
                let mut proxy = proxy.clone();
                proxy.remove("name");
                proxy.insert("enabled".to_owned(), true.into());
                set(typed, place, proxy.into());
            }
            _ => said.push(format!("{kind}_proxy_name is dropped: no proxy is named {name}")),
        }
    }
    let of_rooms = typed.pointer_mut("/channel");
    let namespaces = of_rooms.into_iter().flat_map(|channel| {
        let Value::Object(channel) = channel else { return Vec::new() };
        let mut all = Vec::new();
        for (key, value) in channel {
            match (key.as_str(), value) {
                ("without_namespace", value) => all.push(value),
                ("namespaces", Value::Array(namespaces)) => all.extend(namespaces),
                _ => {}
            }
        }
        all
    });
    namespaces.for_each(enable_named);
    let rpc = options.get("rpc_proxy_name");
    if let Some(name) = rpc.filter(|it| is_said(Some(it))) {
        set(typed, "rpc.without_namespace.proxy_name", name.clone());
    }
    is_said(rpc)
}

/// A namespace asks a backend if it names one.
fn enable_named(namespace: &mut Value) {
    for what in ["subscribe", "publish", "sub_refresh", "subscribe_stream"] {
        if is_said(namespace.get(format!("{what}_proxy_name"))) {
            namespace[format!("{what}_proxy_enabled")] = true.into();
        }
    }
}

fn rpc_namespace(mut it: Value, asks: bool) -> Value {
    if let Value::Object(options) = &mut it {
        let name = options.remove("rpc_proxy_name").filter(|it| is_said(Some(it)));
        let enabled = asks || name.is_some();
        options.insert("proxy_enabled".to_owned(), enabled.into());
        options.extend(name.map(|it| ("proxy_name".to_owned(), it)));
    }
    it
}

/// A named backend of v5 as one of v6.
fn with_sections(mut proxy: Value) -> Value {
    if let Value::Object(options) = &mut proxy {
        options.remove("type");
        let mut http = Map::new();
        for (former, now) in [
            ("static_http_headers", "static_headers"),
            ("http_status_code_transforms", "status_to_code_transforms"),
        ] {
            http.extend(options.remove(former).map(|it| (now.to_owned(), it)));
        }
        if !http.is_empty() {
            options.insert("http".to_owned(), json!(http));
        }
    }
    proxy
}
