//! Configurations of Centrifugo, v6 and v5, as they are to be here. What has no place here is dropped, and said.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{
    foreign::{self, Verdict},
    former, former_proxies,
    typed::{self, join, set},
};

/// What a configuration has become.
pub(super) struct Migrated {
    /// Ours.
    pub typed: Value,
    /// What was dropped, and why, and what is to be known beside.
    pub said: Vec<String>,
}

/// Makes ours of a configuration of Centrifugo.
pub(super) fn convert(theirs: Value) -> Migrated {
    let mut said = Vec::new();
    let mut typed = match theirs {
        Value::Object(flat) if is_v5(&flat) => v6_of(flat, &mut said),
        other => other,
    };
    rename(&mut typed);
    keep_ours(&mut typed, &typed::schema(), "", &mut said);
    for transport in ["sse", "http_stream"] {
        // They are off there unless they are asked for, and on here.
        if typed.pointer(&format!("/{transport}/enabled")).is_none() {
            set(&mut typed, &format!("{transport}.enabled"), false.into());
            said.push(format!(
                "{transport}.enabled = false is added, since here it is on by default"
            ));
        }
    }
    let grpc = |key: &str| typed.pointer(&format!("/grpc_api/{key}"));
    if grpc("enabled") == Some(&true.into()) && grpc("key").is_none_or(|key| key == "") {
        set(&mut typed, "grpc_api.insecure", true.into());
        said.push(
            "grpc_api.insecure = true is added, since there anyone may call by gRPC where there is no key; set \
             grpc_api.key instead, and let callers give it"
                .to_owned(),
        );
    }
    Migrated { typed, said }
}

/// v6 has sections everywhere.
fn is_v5(typed: &Map<String, Value>) -> bool {
    typed.iter().any(|(key, value)| former::key(key).is_some() && !value.is_object())
}

/// Options that were renamed inside of namespaces.
const OF_NAMESPACES: [(&str, &str); 5] = [
    ("proxy_subscribe", "subscribe_proxy_enabled"),
    ("proxy_publish", "publish_proxy_enabled"),
    ("proxy_sub_refresh", "sub_refresh_proxy_enabled"),
    ("proxy_subscribe_stream", "subscribe_stream_proxy_enabled"),
    ("proxy_subscribe_stream_bidirectional", "subscribe_stream_proxy_bidirectional"),
];

/// Puts the options of v5 into the sections of v6.
fn v6_of(flat: Map<String, Value>, said: &mut Vec<String>) -> Value {
    let mut typed = Value::Object(Map::new());
    let (proxies, flat) = former_proxies::split(flat);
    for (key, value) in flat {
        match (key.as_str(), former::key(&key)) {
            ("engine", _) => set(&mut typed, "engine.type", value),
            ("namespaces", Some(now)) => {
                let items = value.as_array().cloned().unwrap_or_default();
                set(&mut typed, now, items.into_iter().map(namespace).collect());
            }
            // An empty file name beside PEM, or the other way around.
            (_, Some(now)) if value == "" && typed.pointer(&pointer(now)).is_some() => {}
            (_, Some(now)) => set(&mut typed, now, value),
            ("consumers", None) => set(&mut typed, "consumers", value),
            (key, None) => said.push(format!("{key} is dropped: {}", why_dropped(key))),
        }
    }
    former_proxies::put(&mut typed, proxies, said);
    typed
}

fn pointer(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}

fn namespace(mut it: Value) -> Value {
    if let Value::Object(options) = &mut it {
        for (former, now) in OF_NAMESPACES {
            if let Some(value) = options.remove(former) {
                options.insert(now.to_owned(), value);
            }
        }
    }
    it
}

fn why_dropped(v5: &str) -> String {
    match former::judge(v5) {
        Some(verdict) => reason(&verdict),
        None => "it is no option here".to_owned(),
    }
}

/// Why a key is dropped.
fn reason(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Fine => "it asks for nothing that is not so anyway".to_owned(),
        Verdict::Noted(what) => (*what).to_owned(),
        Verdict::Refused(what) => match what.split_once(": ") {
            Some((advice, why)) if advice.starts_with("take it out") => why.to_owned(),
            _ => (*what).to_owned(),
        },
    }
}

/// Options that are called otherwise here.
fn rename(typed: &mut Value) {
    let unsigned = take(typed, "/client", "insecure_skip_token_signature_verify");
    if unsigned == Some(true.into()) {
        for section in ["token", "subscription_token"] {
            set(typed, &format!("client.{section}.insecure_skip_signature_verify"), true.into());
        }
    }
    if let Some(timeout) = take(typed, "/websocket", "write_timeout") {
        set(typed, "client.write_timeout", timeout);
    }
    if let Some(level) = typed.pointer_mut("/log/level").filter(|it| **it == "none") {
        *level = "off".into();
    }
    for key in [
        "http_server/tls/cert_pem",
        "http_server/tls/key_pem",
        "grpc_api/tls/cert_pem",
        "grpc_api/tls/key_pem",
        "uni_grpc/tls/cert_pem",
        "uni_grpc/tls/key_pem",
    ] {
        let value = typed.pointer_mut(&format!("/{key}"));
        if let Some((value, pem)) = value.and_then(|it| pem_in_base64(it).map(|pem| (it, pem))) {
            *value = pem.into();
        }
    }
}

fn take(typed: &mut Value, section: &str, key: &str) -> Option<Value> {
    typed.pointer_mut(section)?.as_object_mut()?.remove(key)
}

fn pem_in_base64(value: &Value) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(value.as_str()?.trim()).ok()?;
    String::from_utf8(bytes).ok().filter(|it| it.starts_with("-----BEGIN"))
}

/// Drops what is no option here, and says why; and writes lengths of time as they are written here.
fn keep_ours(typed: &mut Value, schema: &Value, path: &str, said: &mut Vec<String>) {
    typed::read_as(typed, schema);
    match (typed, schema) {
        (Value::Object(_), Value::Object(schema)) if schema.is_empty() => {}
        (Value::Object(typed), Value::Object(schema)) => typed.retain(|key, value| {
            let full = join(path, key);
            if value.is_null() {
                return false;
            }
            let Some(schema) = schema.get(key) else {
                drop_key(&full, value, said);
                return false;
            };
            if let (Some(nanoseconds), true) = (value.as_u64(), is_length_of_time(key, schema)) {
                *value = format!("{nanoseconds}ns").into();
            }
            keep_ours(value, schema, &full, said);
            // A section of which nothing is left.
            !value.as_object().is_some_and(Map::is_empty)
                || schema.as_object().is_some_and(Map::is_empty)
        }),
        (Value::Array(typed), Value::Array(schema)) => {
            for (index, it) in typed.iter_mut().enumerate() {
                if let Some(schema) = schema.first() {
                    keep_ours(it, schema, &format!("{path}[{index}]"), said);
                }
            }
        }
        _ => {}
    }
}

fn drop_key(full: &str, value: &Value, said: &mut Vec<String>) {
    let verdicts = foreign::judge(full, value);
    if verdicts.is_empty() {
        said.push(format!("{full} is dropped: there is no such option, nor one like it"));
    }
    // What is in a section is worth a word of its own only where it asks for something.
    let said_before = said.len();
    for (key, verdict) in verdicts {
        if said.len() == said_before || verdict != Verdict::Fine {
            said.push(format!("{key} is dropped: {}", reason(&verdict)));
        }
    }
}

/// A number is one in nanoseconds there.
fn is_length_of_time(key: &str, default: &Value) -> bool {
    let names = ["ttl", "timeout", "delay", "interval"];
    default.is_string() && names.iter().any(|it| key.ends_with(it))
}

#[cfg(test)]
#[path = "migrate_tests.rs"]
mod tests;
