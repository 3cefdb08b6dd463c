//! Variables of the environment: which option each is, and which are none.

use std::{collections::BTreeMap, ffi::OsString};

use serde_json::Value;

use super::{
    foreign::{self, Verdict},
    former,
    problems::{Invalid, Problems, nearest},
    typed::{leaves, set},
};

/// What the names of ours begin with.
pub(super) const PREFIX: &str = "ROOMCAST_";
const CENTRIFUGO: &str = "CENTRIFUGO_";
/// Lists whose entries have names, and so variables of their own: `…_CHANNEL_NAMESPACES_CHAT_HISTORY_SIZE`.
const NAMED: [&str; 3] = ["channel.namespaces", "rpc.namespaces", "proxies"];

/// A key's variable, behind the prefix.
pub(super) fn variable(key: &str) -> String {
    key.replace('.', "_").to_uppercase()
}

/// What was found beside options.
#[derive(Default)]
pub(super) struct Found {
    pub problems: Problems,
    /// What whoever runs the node should be told.
    pub notes: Vec<String>,
    /// The variables that options come from, by the options' keys.
    pub origins: BTreeMap<String, String>,
}

/// Puts what variables say over what was typed, as text. One that says nothing is as if it weren't there, as it is
/// with Centrifugo.
pub(super) fn put_over(
    typed: &mut Value,
    schema: &Value,
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> Found {
    let known = leaves(schema);
    let (mut found, mut others) = (Found::default(), Vec::new());
    for (name, value) in variables {
        let (name, value) = match (name.to_str(), value.to_str()) {
            (Some(name), Some(value)) => (name, value),
            (Some(name), None) if key_of(name, &known).is_some() => {
                found.problems.add(Invalid::new(name, "its value is not UTF-8"));
                continue;
            }
            _ => {
                let name = name.to_string_lossy();
                found.notes.push(format!("the variable {name} is ignored: it is not UTF-8"));
                continue;
            }
        };
        found
            .notes
            .extend(name.strip_prefix(CENTRIFUGO).and_then(|it| of_centrifugo(it, value, &known)));
        let Some(suffix) = name.strip_prefix(PREFIX).filter(|_| !value.is_empty()) else {
            continue;
        };
        match known.iter().find(|(key, _)| variable(key) == suffix) {
            Some((_, default)) if is_of_kubernetes(suffix, value) && !fits(default, value) => {
                found.notes.push(kubernetes(name));
            }
            Some((key, _)) => {
                set(typed, key, value.into());
                found.origins.insert(key.clone(), name.to_owned());
            }
            None => others.push((suffix.to_owned(), value.to_owned())),
        }
    }
    for (suffix, value) in others {
        if !put_into_entry(typed, schema, &suffix, &value) {
            found.unknown(&suffix, &value, &known);
        }
    }
    found
}

fn key_of<'a>(name: &str, known: &'a [(String, Value)]) -> Option<&'a str> {
    let suffix = name.strip_prefix(PREFIX)?;
    known.iter().find(|(key, _)| variable(key) == suffix).map(|(key, _)| key.as_str())
}

/// Whether a value may be meant for an option with this default.
fn fits(default: &Value, value: &str) -> bool {
    !(default.is_number() || default.is_boolean()) || value.parse::<f64>().is_ok()
}

/// Puts the value into an entry of a list, which the variable names. Whether it does.
fn put_into_entry(typed: &mut Value, schema: &Value, suffix: &str, value: &str) -> bool {
    for list in NAMED {
        let pointer = format!("/{}", list.replace('.', "/"));
        let Some(rest) = suffix.strip_prefix(&format!("{}_", variable(list))) else { continue };
        let Some(place) = typed.pointer_mut(&pointer) else { continue };
        // Another variable may have said all of it.
        if let Some(entries) = place.as_str().and_then(|it| serde_json::from_str(it).ok()) {
            *place = entries;
        }
        let options = schema.pointer(&pointer).and_then(|it| it.get(0)).map(leaves);
        for entry in place.as_array_mut().into_iter().flatten() {
            let name = entry["name"].as_str().unwrap_or_default();
            let own = rest.strip_prefix(&in_variables(name)).and_then(|it| it.strip_prefix('_'));
            let mut options = options.iter().flatten();
            let option = options.find(|(key, _)| Some(variable(key).as_str()) == own);
            if let Some((key, _)) = option {
                set(entry, key, value.into());
                return true;
            }
        }
    }
    false
}

/// A name as a part of a variable's.
fn in_variables(name: &str) -> String {
    let letter = |it: char| if it.is_ascii_alphanumeric() { it.to_ascii_uppercase() } else { '_' };
    name.chars().map(letter).collect()
}

impl Found {
    /// A variable with our prefix that is no option.
    fn unknown(&mut self, suffix: &str, value: &str, known: &[(String, Value)]) {
        let name = format!("{PREFIX}{suffix}");
        if is_of_kubernetes(suffix, value) {
            self.notes.push(kubernetes(&name));
            return;
        }
        if let Some(key) = former::key(&suffix.to_lowercase()) {
            let problem = format!("its name is {PREFIX}{} since Centrifugo v6", variable(key));
            self.problems.add(Invalid::new(name, problem));
            return;
        }
        match foreign::judge_variable(suffix, value) {
            Some(Verdict::Fine) => return,
            Some(Verdict::Noted(what)) => {
                self.notes.push(format!("{name}: {what}"));
                return;
            }
            Some(Verdict::Refused(what)) => {
                self.problems.add(Invalid::new(name, what));
                return;
            }
            None => {}
        }
        let names: Vec<String> =
            known.iter().map(|(key, _)| format!("{PREFIX}{}", variable(key))).collect();
        let hint = nearest(&name, names.iter().map(String::as_str));
        let of_section = |key: &str| {
            key.split_once('.').is_some_and(|(section, _)| {
                suffix.strip_prefix(&variable(section)).is_some_and(|rest| rest.starts_with('_'))
            })
        };
        if hint.is_empty() && !known.iter().any(|(key, _)| of_section(key)) {
            self.notes.push(format!("the variable {name} is ignored: there is no such option"));
        } else {
            let problem = format!("there is no such variable{hint}");
            self.problems.add(Invalid::new(name, problem));
        }
    }
}

/// Says that a variable for Centrifugo is not read, and what ours is called.
fn of_centrifugo(suffix: &str, value: &str, known: &[(String, Value)]) -> Option<String> {
    // Every container beside a service of this name has them. One sets v5's port by the same name.
    if is_of_kubernetes(suffix, value) && (suffix != "PORT" || value.contains("://")) {
        return None;
    }
    let ours = |suffix: &str| known.iter().any(|(key, _)| variable(key) == suffix);
    let renamed = former::key(&suffix.to_lowercase()).map(variable);
    let ours = match renamed {
        Some(renamed) if ours(&renamed) => Some(renamed),
        _ if ours(suffix) => Some(suffix.to_owned()),
        _ => None,
    };
    let name = format!("the variable {CENTRIFUGO}{suffix} is not read");
    match ours {
        Some(ours) => Some(format!("{name}; ours is {PREFIX}{ours}")),
        None if NAMED.iter().any(|it| suffix.starts_with(&format!("{}_", variable(it)))) => {
            Some(format!("{name}; ours is {PREFIX}{suffix}"))
        }
        None => Some(format!("{name}, and there is none like it")),
    }
}

fn kubernetes(name: &str) -> String {
    format!(
        "the variable {name} is taken for one of Kubernetes and ignored; a service called `roomcast` makes it"
    )
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
