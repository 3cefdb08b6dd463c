//! What was typed, against every option that there is: takes out what is no option, reads text as what the option
//! takes, and says what is wrong, all of it.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::{
    environment::Found,
    foreign::{self, Verdict},
    former,
    problems::{Invalid, nearest},
    raw::{self, Raw},
};

/// Every key, with its default.
pub(super) fn schema() -> Value {
    let mut raw = Raw::default();
    raw.channel.namespaces.push(raw::Namespace::default());
    raw.rpc.namespaces.push(raw::RpcNamespace::default());
    raw.proxies.push(raw::NamedProxy::default());
    // The defaults are plain data.
    serde_json::to_value(raw).unwrap_or_default()
}

/// Every key that is not a section, with dots, and its default.
pub(super) fn leaves(schema: &Value) -> Vec<(String, Value)> {
    fn collect(schema: &Value, path: &str, leaves: &mut Vec<(String, Value)>) {
        match schema {
            Value::Object(section) if !section.is_empty() => {
                for (key, value) in section {
                    collect(value, &join(path, key), leaves);
                }
            }
            value => leaves.push((path.to_owned(), value.clone())),
        }
    }
    let mut all = Vec::new();
    collect(schema, "", &mut all);
    all
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Sets an option, and makes the sections that it is in.
pub(super) fn set(typed: &mut Value, key: &str, value: Value) {
    let mut place = typed;
    for part in key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = &mut place[part];
    }
    *place = value;
}

/// Takes out all that is no option, and reads text where the option is of another kind.
pub(super) fn tidy(typed: &mut Value, schema: &Value, path: &str, found: &mut Found) {
    read_as(typed, schema);
    match (typed, schema) {
        // The keys are whatever one likes.
        (Value::Object(_), Value::Object(schema)) if schema.is_empty() => {}
        (Value::Object(typed), Value::Object(schema)) => typed.retain(|key, value| {
            let full = join(path, key);
            match schema.get(key) {
                // An empty value in YAML.
                Some(_) if value.is_null() => false,
                Some(Value::Object(section)) if !section.is_empty() => {
                    tidy(value, &schema[key], &full, found);
                    value.is_object() || found.no_section(&full, value)
                }
                Some(schema) => {
                    tidy(value, schema, &full, found);
                    true
                }
                None => {
                    found.unknown_key(&full, key, value, schema);
                    false
                }
            }
        }),
        (Value::Array(typed), Value::Array(schema)) => {
            if let Some(schema) = schema.first() {
                for (index, it) in typed.iter_mut().enumerate() {
                    tidy(it, schema, &format!("{path}[{index}]"), found);
                }
            }
        }
        _ => {}
    }
}

impl Found {
    /// Says what to do about a key that is no option.
    fn unknown_key(&mut self, full: &str, key: &str, value: &Value, known: &Map<String, Value>) {
        let renamed = former::key(full).filter(|_| !value.is_object());
        if let Some(now) = renamed {
            let problem = format!(
                "is {now} since Centrifugo v6; `roomcast migrate FILE` writes the file as it is to be here"
            );
            self.problems.add(Invalid::new(full, problem));
            return;
        }
        let mut verdicts = foreign::judge(full, value);
        if verdicts.is_empty() {
            verdicts.extend(former::judge(full).map(|it| (full.to_owned(), it)));
        }
        if verdicts.is_empty() {
            let hint = nearest(key, known.keys().map(String::as_str));
            let problem = format!("there is no such key{hint}");
            self.problems.add_unread(full, Invalid::new(full, problem));
        }
        for (key, verdict) in verdicts {
            match verdict {
                Verdict::Fine => {}
                Verdict::Noted(what) => self.notes.push(format!("{key}: {what}")),
                Verdict::Refused(what) => self.problems.add(Invalid::new(key, what)),
            }
        }
    }

    /// Says that there must be a section. Returns whether what is there can stay, which it can't.
    fn no_section(&mut self, path: &str, value: &Value) -> bool {
        let problem = match former::key(path) {
            Some(now) => format!(
                "is {now} since Centrifugo v6; `roomcast migrate FILE` writes the file as it is to be here"
            ),
            None => format!("is a section with options of its own, not {value}"),
        };
        self.problems.add_unread(&format!("{path}."), Invalid::new(path, problem));
        false
    }
}

/// Reads a value as the kind of the default: variables are text, and files that were made by templates have text
/// in them, too. What can't be read so stays, and is refused later.
pub(super) fn read_as(value: &mut Value, default: &Value) {
    let read = match (&*value, default) {
        (Value::String(text), Value::Bool(_)) => boolean(text).map(Value::Bool),
        (Value::Number(number), Value::Bool(_)) => match number.as_u64() {
            Some(0) => Some(false.into()),
            Some(1) => Some(true.into()),
            _ => None,
        },
        (Value::String(text), Value::Number(_)) => {
            serde_json::from_str(text.trim()).ok().filter(Value::is_number)
        }
        (Value::Number(number), Value::String(_)) => Some(number.to_string().into()),
        (Value::String(text), Value::Object(_)) => {
            serde_json::from_str(text).ok().filter(Value::is_object)
        }
        (Value::String(text), Value::Array(_)) => list(text),
        (Value::Array(pairs), Value::Object(map)) if map.is_empty() => map_of(pairs),
        _ => None,
    };
    if let Some(read) = read {
        *value = read;
    }
}

/// Booleans as Go reads them.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A list: JSON, or items between spaces or commas.
fn list(text: &str) -> Option<Value> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).ok();
    }
    let separates = |it: char| it == ',' || it.is_whitespace();
    Some(text.split(separates).filter(|it| !it.is_empty()).map(Value::from).collect())
}

/// A map that is written as a list of `{ key, value }`, where keys have characters or cases that names can't.
fn map_of(pairs: &[Value]) -> Option<Value> {
    let pair = |it: &Value| {
        let (key, value) = (it.get("key")?.as_str()?, it.get("value")?);
        Some((key.to_owned(), value.clone()))
    };
    pairs.iter().map(pair).collect::<Option<Map<_, _>>>().map(Value::Object)
}

/// Reads all options. Each that can't be read is reported, and left at its default.
pub(super) fn read(mut typed: Value, found: &mut Found) -> Raw {
    read_namespaces(&mut typed, found);
    read_all(typed, "", found).1
}

/// Reads the options of each namespace by themselves: once they are flattened into it, an error no longer knows
/// its key.
fn read_namespaces(typed: &mut Value, found: &mut Found) {
    let namespaces = typed.pointer_mut("/channel/namespaces").and_then(Value::as_array_mut);
    for (index, namespace) in namespaces.into_iter().flatten().enumerate() {
        let Value::Object(options) = namespace else { continue };
        let name = options.remove("name");
        let path = format!("channel.namespaces[{index}].");
        let (mut read, _) = read_all::<raw::Channel>(Value::Object(options.clone()), &path, found);
        if let (Value::Object(read), Some(name)) = (&mut read, name) {
            read.insert("name".to_owned(), name);
        }
        *namespace = read;
    }
}

/// Returns what could be read of the typed as well.
fn read_all<T: DeserializeOwned + Default>(
    mut typed: Value,
    path: &str,
    found: &mut Found,
) -> (Value, T) {
    loop {
        let error = match serde_path_to_error::deserialize(&typed) {
            Ok(read) => return (typed, read),
            Err(error) => error,
        };
        let key = format!("{path}{}", error.path());
        let problem = Invalid::new(&key, error.inner().to_string());
        found.problems.add_unread(&key, problem);
        let place: Vec<Segment> = error.path().iter().cloned().collect();
        if !remove(&mut typed, &place) {
            return (typed, T::default());
        }
    }
}

/// Removes what is at a place, or the least that has it. Whether there was anything.
fn remove(typed: &mut Value, place: &[Segment]) -> bool {
    let Some((first, rest)) = place.split_first() else { return false };
    match (first, typed) {
        (Segment::Map { key }, Value::Object(section)) => {
            let inner = section.get_mut(key).is_some_and(|it| remove(it, rest));
            inner || section.remove(key).is_some()
        }
        (Segment::Seq { index }, Value::Array(items)) if *index < items.len() => {
            if !remove(&mut items[*index], rest) {
                items.remove(*index);
            }
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_is_read_as_the_option_takes_it() {
        for (text, default, read) in [
            (json!("T"), json!(false), json!(true)),
            (json!("True"), json!(false), json!(true)),
            (json!("0"), json!(true), json!(false)),
            (json!(1), json!(false), json!(true)),
            (json!("yes"), json!(false), json!("yes")),
            (json!("8000"), json!(1), json!(8000)),
            (json!("x"), json!(1), json!("x")),
            (json!(42), json!(""), json!("42")),
            (json!("https://a https://b"), json!([]), json!(["https://a", "https://b"])),
            (json!("a, b,c\n"), json!([]), json!(["a", "b", "c"])),
            (json!("[{\"name\": \"chat\"}]"), json!([]), json!([{"name": "chat"}])),
            (json!("{\"a\": \"b\"}"), json!({}), json!({"a": "b"})),
            (json!([{"key": "X-A", "value": "b"}]), json!({}), json!({"X-A": "b"})),
            (json!([{"key": "X-A"}]), json!({}), json!([{"key": "X-A"}])),
        ] {
            let mut value = text.clone();
            read_as(&mut value, &default);
            assert_eq!(value, read, "{text}");
        }
    }

    #[test]
    fn each_value_that_cannot_be_read_is_said_and_the_rest_is_read() {
        let mut found = Found::default();
        let typed = json!({
            "http_server": {"port": 70000, "workers": "many"},
            "channel": {"namespaces": [{"name": "ab", "history_size": -1, "presence": true}]},
            "cluster": {"join": ["a:1", {}]},
        });
        let raw = read(typed, &mut found);
        let keys: Vec<_> = found.problems.list().iter().map(|it| it.key.as_str()).collect();
        let expected = [
            "channel.namespaces[0].history_size",
            "http_server.port",
            "http_server.workers",
            "cluster.join[1]",
        ];
        assert_eq!(keys, expected);
        assert!(raw.channel.namespaces[0].options.presence);
        assert_eq!(raw.cluster.join, ["a:1"]);
    }
}
