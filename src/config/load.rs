//! SHELL. Reads the configuration: a file, then `ROOMCAST_…` variables over it, then flags over both.
//!
//! All three name the same keys, those of [`Raw`]'s defaults; anything else is an error that names the
//! nearest key that exists.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use config::{File, FileFormat};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Config, Invalid, MAX_WORKERS, nearest, raw};
use crate::{cluster::node::stable_hash, config::raw::Raw};

const PREFIX: &str = "ROOMCAST_";

/// Reads and checks all of it. `flags` are keys with dots and their values.
///
/// # Errors
/// If anything is wrong, with the first thing that is.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: Vec<(&'static str, Value)>,
) -> Result<Config, Invalid> {
    let schema = schema();
    let mut ignored = Vec::new();
    let mut typed = match file {
        Some(path) => read(path)?,
        None => Value::Object(Map::new()),
    };
    check_keys(&typed, &schema, "")?;
    for (name, value) in environment {
        let Some(suffix) = name.strip_prefix(PREFIX) else { continue };
        match from_environment(&schema, &name, suffix, &value) {
            Ok((key, value)) => set(&mut typed, &key, value),
            Err(_) if is_of_kubernetes(suffix, &value) => ignored.push(name),
            Err(invalid) => return Err(invalid),
        }
    }
    for (key, value) in flags {
        set(&mut typed, key, value);
    }
    check_namespaces(&typed)?;
    let mut raw: Raw = deserialize(typed, "")?;
    fill_in(&mut raw);
    let mut config = Config::try_from(raw)?;
    config.ignored = ignored;
    Ok(config)
}

fn deserialize<T: DeserializeOwned>(value: Value, path: &str) -> Result<T, Invalid> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let key = format!("{path}{}", error.path());
        Invalid::new(key, error.inner().to_string())
    })
}

/// Tries the options of each namespace by themselves: once they are flattened into it, an error no longer
/// knows its key.
fn check_namespaces(typed: &Value) -> Result<(), Invalid> {
    let namespaces = typed.pointer("/channel/namespaces").and_then(Value::as_array);
    for (index, namespace) in namespaces.into_iter().flatten().enumerate() {
        let Value::Object(mut options) = namespace.clone() else { continue };
        options.remove("name");
        let path = format!("channel.namespaces[{index}].");
        deserialize::<raw::Channel>(Value::Object(options), &path)?;
    }
    Ok(())
}

/// Kubernetes gives every container the addresses of the services beside it: of one called `roomcast` or
/// `roomcast-…` in variables that look like ours.
fn is_of_kubernetes(suffix: &str, value: &str) -> bool {
    let parts: Vec<&str> = suffix.split('_').collect();
    let digits = |it: &&str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
    let ends = |tail: &[&str]| parts.ends_with(tail);
    let has = |names: [&str; 2]| parts.windows(2).any(|pair| pair == names);
    let port_of_protocol = parts
        .windows(3)
        .any(|it| it[0] == "PORT" && digits(&it[1]) && ["TCP", "UDP", "SCTP"].contains(&it[2]));
    ends(&["SERVICE", "HOST"])
        || has(["SERVICE", "PORT"])
        || port_of_protocol
        || (ends(&["PORT"]) && value.contains("://"))
        || parts[0] == "PORT"
}

/// The defaults that depend on the machine.
fn fill_in(raw: &mut Raw) {
    if raw.http_server.workers == 0 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        raw.http_server.workers = cores.min(MAX_WORKERS);
    }
    if raw.node.name.is_empty() {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let names = ["/etc/hostname", "/proc/sys/kernel/hostname"].map(file);
        let host = host(&names, &raw.cluster, &file("/etc/machine-id"));
        raw.node.name = format!("{host}:{}", raw.http_server.port);
    }
}

/// What tells this machine from others: its own name, but not one that any machine has; else the address under
/// which others reach it; else a name made of the machine's id, which is not told itself.
fn host(names: &[String], cluster: &raw::Cluster, machine: &str) -> String {
    let own = |name: &&str| {
        let first = name.split('.').next().unwrap_or_default();
        !["", "localhost", "(none)"].contains(&first)
    };
    if let Some(name) = names.iter().map(|it| it.trim()).find(own) {
        return name.to_owned();
    }
    let gossip = cluster.gossip.parse::<SocketAddr>().map(|it| it.ip());
    let address = cluster.advertise.parse::<IpAddr>().or(gossip);
    match address {
        Ok(ip) if !ip.is_unspecified() && !ip.is_loopback() => ip.to_string(),
        _ if machine.trim().is_empty() => "roomcast".to_owned(),
        _ => format!("roomcast-{:08x}", stable_hash(&[machine.trim().as_bytes()]) >> 32),
    }
}

/// Every key, with its default.
pub(super) fn schema() -> Value {
    let mut raw = Raw::default();
    raw.channel.namespaces.push(raw::Namespace::default());
    raw.rpc.namespaces.push(raw::RpcNamespace::default());
    raw.proxies.push(raw::NamedProxy::default());
    // The defaults are plain data.
    serde_json::to_value(raw).unwrap_or_default()
}

fn read(path: &Path) -> Result<Value, Invalid> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Invalid::new(&name, format!("can't be read: {error}")))?;
    let format = match path.extension().and_then(|it| it.to_str()) {
        Some("json") => FileFormat::Json,
        Some("yaml" | "yml") => FileFormat::Yaml,
        _ => FileFormat::Toml,
    };
    config::Config::builder()
        .add_source(File::from_str(&text, format))
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(|error| Invalid::new(&name, error.to_string()))
}

fn check_keys(typed: &Value, schema: &Value, path: &str) -> Result<(), Invalid> {
    match (typed, schema) {
        // The keys are whatever one likes.
        (Value::Object(_), Value::Object(schema)) if schema.is_empty() => Ok(()),
        (Value::Object(typed), Value::Object(schema)) => {
            for (key, value) in typed {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                match schema.get(key) {
                    Some(schema) => check_keys(value, schema, &full)?,
                    None => {
                        let hint = nearest(key, schema.keys().map(String::as_str));
                        return Err(Invalid::new(full, format!("there is no such key{hint}")));
                    }
                }
            }
            Ok(())
        }
        (Value::Array(typed), Value::Array(schema)) => match schema.first() {
            Some(schema) => (typed.iter().enumerate())
                .try_for_each(|(index, it)| check_keys(it, schema, &format!("{path}[{index}]"))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Every key that is not a section, with dots, and its default.
fn leaves(schema: &Value, path: &str, leaves: &mut Vec<(String, Value)>) {
    match schema {
        Value::Object(section) if !section.is_empty() => {
            for (key, value) in section {
                let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                self::leaves(value, &full, leaves);
            }
        }
        value => leaves.push((path.to_owned(), value.clone())),
    }
}

fn from_environment(
    schema: &Value,
    name: &str,
    suffix: &str,
    value: &str,
) -> Result<(String, Value), Invalid> {
    let mut known = Vec::new();
    leaves(schema, "", &mut known);
    let variable = |key: &str| key.replace('.', "_").to_uppercase();
    let Some((key, default)) = known.iter().find(|(key, _)| variable(key) == suffix) else {
        let names: Vec<String> =
            known.iter().map(|(key, _)| format!("{PREFIX}{}", variable(key))).collect();
        let hint = nearest(name, names.iter().map(String::as_str));
        return Err(Invalid::new(name, format!("there is no such variable{hint}")));
    };
    let parsed = match default {
        Value::String(_) => Ok(Value::String(value.to_owned())),
        Value::Array(_) if !value.trim_start().starts_with('[') => {
            let items = value.split(',').map(str::trim).filter(|it| !it.is_empty());
            Ok(items.map(Value::from).collect())
        }
        _ => serde_json::from_str(value),
    };
    let value = parsed.map_err(|_| {
        Invalid::new(name, format!("{value:?} is not of the kind of the default, {default}"))
    })?;
    check_keys(&value, default, name)?;
    Ok((key.clone(), value))
}

fn set(typed: &mut Value, key: &str, value: Value) {
    let mut place = typed;
    for part in key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn load_text(extension: &str, text: &str) -> Result<Config, Invalid> {
        let directory = std::env::temp_dir();
        let unique = format!("roomcast-{}-{:p}.{extension}", std::process::id(), text.as_ptr());
        let path = directory.join(unique);
        std::fs::File::create(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .expect("a file in the temporary directory");
        let config = load(Some(&path), [], Vec::new());
        std::fs::remove_file(path).expect("it was just written");
        config
    }

    fn problem(text: &str) -> String {
        load_text("toml", text).expect_err("invalid").to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        let config = load(None, [], Vec::new()).expect("valid");
        assert_eq!(config.listen.port(), 8000);
        assert!(config.cluster.is_none());
    }

    #[test]
    fn a_node_without_a_name_is_called_after_what_only_its_machine_has() {
        let name = |names: [&str; 2], gossip: &str, advertise: &str, machine: &str| {
            let cluster = raw::Cluster {
                gossip: gossip.into(),
                advertise: advertise.into(),
                ..Default::default()
            };
            host(&names.map(str::to_owned), &cluster, machine)
        };
        assert_eq!(name(["web-1\n", "other"], "10.0.0.1:1", "", ""), "web-1");
        for nobodys in ["localhost\n", "localhost.localdomain", "(none)", ""] {
            assert_eq!(name([nobodys, "web-1\n"], "10.0.0.1:1", "", ""), "web-1");
            assert_eq!(name([nobodys, nobodys], "10.0.0.1:1", "", "x"), "10.0.0.1");
            assert_eq!(name([nobodys, nobodys], "0.0.0.0:1", "10.0.0.2", "x"), "10.0.0.2");
            let (one, other) = (
                name([nobodys, nobodys], "127.0.0.1:1", "", "6f9e\n"),
                name([nobodys, nobodys], "", "", "6f9f\n"),
            );
            assert!(one != other && !one.contains("6f9e"), "{one} {other}");
            assert_eq!(name([nobodys, nobodys], "", "", ""), "roomcast");
        }
    }

    #[test]
    fn one_meaning_in_three_formats() {
        let toml =
            "[[channel.namespaces]]\nname = \"chat\"\nhistory_size = 5\nhistory_ttl = \"1m30s\"";
        let json = r#"{"channel":{"namespaces":[{"name":"chat","history_size":5,"history_ttl":"1m30s"}]}}"#;
        let yaml = "channel:\n  namespaces:\n    - name: chat\n      history_size: 5\n      history_ttl: 1m30s";
        for (extension, text) in [("toml", toml), ("json", json), ("yaml", yaml)] {
            let config = load_text(extension, text).expect(extension);
            let options = config.namespaces.options("chat:x").expect("configured").clone();
            assert_eq!((options.history_size, options.history_ttl.as_secs()), (5, 90));
        }
    }

    #[test]
    fn the_sample_files_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
        let files = std::fs::read_dir(folder).expect("the samples are there");
        let mut checked = 0;
        for file in files {
            let path = file.expect("readable").path();
            load(Some(&path), [], Vec::new())
                .unwrap_or_else(|it| panic!("{}: {it}", path.display()));
            checked += 1;
        }
        assert_eq!(checked, 5);
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        assert_eq!(
            problem("[client]\nallowed_origin = []"),
            "client.allowed_origin: there is no such key; did you mean allowed_origins?"
        );
        assert_eq!(
            problem("[[channel.namespaces]]\nname = \"ab\"\nhistory_sise = 5"),
            "channel.namespaces[0].history_sise: there is no such key; did you mean history_size?"
        );
        let env = [("ROOMCAST_CLIENT_INSECUR".to_owned(), "true".to_owned())];
        let error = load(None, env, Vec::new()).expect_err("unknown").to_string();
        assert_eq!(
            error,
            "ROOMCAST_CLIENT_INSECUR: there is no such variable; did you mean ROOMCAST_CLIENT_INSECURE?"
        );
    }

    #[test]
    fn variables_of_kubernetes_are_ignored_and_told() {
        let names = [
            ("ROOMCAST_SERVICE_HOST", "10.0.0.1"),
            ("ROOMCAST_SERVICE_PORT", "8000"),
            ("ROOMCAST_SERVICE_PORT_HTTP", "8000"),
            ("ROOMCAST_PORT", "tcp://10.0.0.1:8000"),
            ("ROOMCAST_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
            ("ROOMCAST_PORT_8000_TCP_PROTO", "tcp"),
            ("ROOMCAST_MESH_SERVICE_HOST", "10.0.0.1"),
            ("ROOMCAST_MESH_PORT", "tcp://10.0.0.1:7947"),
        ];
        let env = names.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = load(None, env, Vec::new()).expect("valid");
        assert_eq!(config.ignored, names.map(|(name, _)| name));
    }

    #[test]
    fn keys_and_values_in_a_variable_are_checked() {
        let problem = |value: &str| {
            let env = [("ROOMCAST_CHANNEL_NAMESPACES".to_owned(), value.to_owned())];
            load(None, env, Vec::new()).expect_err("invalid").to_string()
        };
        assert_eq!(
            problem(r#"[{"name": "ab", "history_sise": 5}]"#),
            "ROOMCAST_CHANNEL_NAMESPACES[0].history_sise: there is no such key; did you mean history_size?"
        );
        assert!(
            problem(r#"[{"name": "ab", "history_size": "x"}]"#)
                .starts_with("channel.namespaces[0].history_size: invalid type")
        );
    }

    #[test]
    fn values_out_of_range_name_the_key_and_what_fits() {
        let cases = [
            ("[client]\nconcurrency = 0", "client.concurrency: 1 to 65535"),
            ("[client]\nconcurrency = 65536", "client.concurrency: 1 to 65535"),
            ("[websocket]\nmessage_size_limit = 0", "websocket.message_size_limit: at least 1"),
            ("[log]\nlevel = \"inof\"", "log.level: \"inof\" is no level; did you mean info?"),
            (
                "[log]\nlevel = \"info,roomcast::mesh=debgu\"",
                "log.level: \"debgu\" is no level; did you mean debug?",
            ),
            ("[log]\nformat = \"jsn\"", "log.format: \"jsn\" is no format; did you mean json?"),
        ];
        for (text, expected) in cases {
            assert_eq!(problem(text), expected);
        }
        let cluster = |join: &str| {
            format!(
                "[cluster]\ngossip = \"127.0.0.1:1\"\nmesh = \"127.0.0.1:2\"\njoin = [\"{join}\"]"
            )
        };
        for bad in ["a", "a:", ":1", "a:b", "a:70000", "http://a:1", "a:0"] {
            assert!(problem(&cluster(bad)).starts_with("cluster.join: "), "{bad}");
        }
        for good in ["a:1", "10.0.0.1:7946", "[::1]:7946", "node-1.example:7946"] {
            load_text("toml", &cluster(good)).expect(good);
        }
        let cluster = |lines: &str| {
            let cluster = "[cluster]\ngossip = \"127.0.0.1:1\"\nmesh = \"127.0.0.1:2\"\n";
            format!("{cluster}{lines}")
        };
        assert_eq!(
            problem(&cluster("queue_max_size = 2097151")),
            "cluster.queue_max_size: at least 2097152: 1 MiB and twice the largest publication that is allowed, which has 524288 bytes (client.queue_max_size / 2, websocket.message_size_limit, emulation.max_request_body_size)"
        );
        load_text("toml", &cluster("queue_max_size = 2097152")).expect("just enough");
        let small = "queue_max_size = 1200000\n[client]\nqueue_max_size = 131072";
        load_text("toml", &cluster(small)).expect("publications are smaller, too");
        load_text("toml", "[log]\nlevel = \"WARN,roomcast::mesh=trace,off\"").expect("valid");
    }

    #[test]
    fn wrong_values_name_the_key() {
        assert!(
            problem("[client]\nping_interval = \"soon\"").starts_with("client.ping_interval: ")
        );
        assert!(problem("[http_server]\nport = 70000").starts_with("http_server.port: "));
        assert!(
            problem("[[channel.namespaces]]\nname = \"ab\"\n[[channel.namespaces]]\nname = \"cd\"\nhistory_ttl = 5")
                .starts_with("channel.namespaces[1].history_ttl: ")
        );
        assert!(
            problem("[channel.without_namespace]\nforce_recovery = true")
                .starts_with("channel.without_namespace.force_recovery: needs history_size")
        );
        for (option, why) in [
            ("auto_cache_recover = true", "auto_cache_recover: needs force_recovery"),
            ("allowed_delta_types = [\"xdelta\"]", "allowed_delta_types: \"xdelta\" is no delta"),
            (
                "publication_data_format = \"jsn\"",
                "publication_data_format: \"jsn\" is no format; did you mean json?",
            ),
        ] {
            let problem = problem(&format!("[channel.without_namespace]\n{option}"));
            let expected = format!("channel.without_namespace.{why}");
            assert!(problem.starts_with(&expected), "{problem}");
        }
        assert!(
            problem("[cluster]\ngossip = \"10.0.0.1:1\"\nmesh = \"10.0.0.1:2\"")
                .starts_with("cluster.secret: needed")
        );
        assert!(problem("not toml at all").contains(".toml: "));
    }

    #[test]
    fn variables_go_over_the_file_and_flags_over_both() {
        let env = [
            ("ROOMCAST_HTTP_SERVER_PORT".to_owned(), "1".to_owned()),
            ("ROOMCAST_NODE_NAME".to_owned(), "5".to_owned()),
            ("ROOMCAST_CLIENT_ALLOWED_ORIGINS".to_owned(), "http://a, http://b".to_owned()),
            ("PATH".to_owned(), "x".to_owned()),
        ];
        let config = load(None, env, vec![("http_server.port", 2.into())]).expect("valid");
        assert_eq!((config.listen.port(), config.name.as_str()), (2, "5"));
        assert_eq!(config.client.allowed_origins, ["http://a", "http://b"]);
    }
}
