//! SHELL. Reads the configuration: a file, then `ROOMCAST_…` variables over it, then flags over both.
//!
//! All three name the same keys, those of [`Raw`]'s defaults. Keys of Centrifugo that have no meaning here are
//! accepted where they do no harm; anything else is an error that says what to do.

use std::{
    ffi::OsString,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use config::{File, FileFormat};
use serde_json::{Map, Value};

use super::{
    Config, Invalid, MAX_WORKERS, Problems,
    environment::{self, Found},
    migrate, raw, typed,
};
use crate::{cluster::node::stable_hash, config::raw::Raw};

/// Reads and checks all of it. `flags` are keys with dots and their values.
///
/// # Errors
/// If anything is wrong, with all that is.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Vec<(&'static str, Value)>,
) -> Result<Config, Problems> {
    let mut it = match file {
        Some(path) => read(path)?,
        None => Value::Object(Map::new()),
    };
    let mut found = environment::put_over(&mut it, &typed::schema(), environment);
    for (key, value) in flags {
        typed::set(&mut it, key, value);
        found.origins.remove(key);
    }
    check(it, found)
}

fn check(mut typed: Value, mut found: Found) -> Result<Config, Problems> {
    typed::tidy(&mut typed, &typed::schema(), "", &mut found);
    let mut raw = typed::read(typed, &mut found);
    fill_in(&mut raw);
    let mut problems = found.problems;
    let checked = Config::check(raw).map_err(|more| problems.extend(more));
    problems.name_variables(&found.origins);
    match checked {
        Ok(config) => problems.check(Config { notes: found.notes, ..config }),
        Err(()) => Err(problems),
    }
}

/// A configuration of Centrifugo as it is to be here.
pub struct Migrated {
    /// Ours.
    pub toml: String,
    /// What was dropped, and why.
    pub said: Vec<String>,
    /// What is still wrong with it.
    pub result: Result<(), Problems>,
}

/// Makes ours of a configuration file of Centrifugo.
///
/// # Errors
/// If the file can't be read.
pub fn migrate(file: &Path) -> Result<Migrated, Invalid> {
    let it = migrate::convert(read(file)?);
    let toml = toml::to_string_pretty(&it.typed)
        .map_err(|error| Invalid::new(file.display().to_string(), error.to_string()))?;
    let toml = format!("# Of Centrifugo's {}, by `roomcast migrate`.\n\n{toml}", file.display());
    Ok(Migrated { toml, said: it.said, result: check(it.typed, Found::default()).map(drop) })
}

/// Reads a file as what it is by its name: JSON, YAML, and else TOML.
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

/// The defaults that depend on the machine.
fn fill_in(raw: &mut Raw) {
    if raw.http_server.workers == 0 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        raw.http_server.workers = cores.min(MAX_WORKERS);
    }
    if raw.node.name.is_empty() {
        let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let names = ["/proc/sys/kernel/hostname", "/etc/hostname"].map(file);
        let host = host(&names, &raw.cluster, &file("/etc/machine-id"));
        raw.node.name = match raw.http_server.port {
            // The port is known only later, and another node of the host has said the same.
            0 => format!("{host}:process-{}", std::process::id()),
            port => format!("{host}:{port}"),
        };
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

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
