//! What a backend is asked about keys that clients track, and what it answers.
//!
//! In: a room and its keys, each with the version that is known here. Out: the JSON that is posted, and what came back.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    options::BackendId,
    response::{self, InvalidResponse},
};

/// What a backend is asked about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollRequest {
    /// Who is asked.
    pub to: BackendId,
    /// The room.
    pub room: Box<str>,
    /// The keys, and the version of each; 0: none is known, or versions are not told.
    pub items: Vec<(Box<str>, u64)>,
}

/// What it answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PollAnswer {
    /// What it says of keys.
    pub items: Vec<PolledItem>,
    /// Within which versions can be compared; empty: all can.
    pub epoch: String,
}

/// What a backend says of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledItem {
    /// The key.
    pub key: Box<str>,
    /// Its data.
    pub data: Bytes,
    /// The version of that; 0: it has none.
    pub version: u64,
    /// There is no such key any more.
    pub removed: bool,
}

#[derive(Serialize)]
struct Body<'a> {
    channel: &'a str,
    items: Vec<Asked<'a>>,
}

#[derive(Serialize)]
struct Asked<'a> {
    key: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    version: u64,
}

fn is_zero(version: &u64) -> bool {
    *version == 0
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Polled {
    items: Vec<Item>,
    epoch: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Item {
    key: Box<str>,
    data: Option<Box<RawValue>>,
    version: u64,
    removed: bool,
}

impl PollRequest {
    /// What is posted.
    ///
    /// # Errors
    /// None that any input causes: all is text and numbers.
    pub fn body(&self) -> Result<Vec<u8>, serde_json::Error> {
        let items = self.items.iter().map(|(key, version)| Asked { key, version: *version });
        serde_json::to_vec(&Body { channel: &self.room, items: items.collect() })
    }
}

/// What a backend's answer means. No result is one without keys.
///
/// # Errors
/// If it can't be told, or the application says that it can't.
pub fn read(status: u16, body: &[u8]) -> Result<PollAnswer, InvalidResponse> {
    let polled: Option<Polled> = response::answered(status, body)?;
    let polled = polled.unwrap_or_default();
    let item = |it: Item| PolledItem {
        key: it.key,
        // Without data there is `null`, which is JSON, too.
        data: it.data.map_or(Bytes::from_static(b"null"), response::bytes),
        version: it.version,
        removed: it.removed,
    };
    Ok(PollAnswer { items: polled.items.into_iter().map(item).collect(), epoch: polled.epoch })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(answer: &Value) -> Result<PollAnswer, InvalidResponse> {
        super::read(200, answer.to_string().as_bytes())
    }

    #[test]
    fn what_is_asked_names_each_key_and_its_version() {
        let items = vec![("a".into(), 0), ("b".into(), 7)];
        let request = PollRequest { to: BackendId(0), room: "poll:x".into(), items };
        let body: Value =
            serde_json::from_slice(&request.body().expect("plain data")).expect("JSON");
        let items = json!([{"key": "a"}, {"key": "b", "version": 7}]);
        assert_eq!(body, json!({"channel": "poll:x", "items": items}));
    }

    #[test]
    fn what_is_answered_is_read_key_by_key() {
        let items = json!([
            {"key": "a", "data": {"x": 1}, "version": 3},
            {"key": "b", "data": null, "version": 4, "removed": true},
            {"key": "c"},
        ]);
        let answer = read(&json!({"result": {"items": items, "epoch": "e"}})).expect("an answer");
        let item = |key: &str, data: &'static str, version, removed| PolledItem {
            key: key.into(),
            data: data.into(),
            version,
            removed,
        };
        let expected = [
            item("a", "{\"x\":1}", 3, false),
            item("b", "null", 4, true),
            item("c", "null", 0, false),
        ];
        assert_eq!(answer.items, expected);
        assert_eq!(answer.epoch, "e");
        for nothing in [json!({}), json!({"result": null}), json!({"result": {"items": null}})] {
            assert_eq!(read(&nothing).expect("an answer"), PollAnswer::default());
        }
    }

    #[test]
    fn an_error_is_no_answer() {
        for refused in [
            json!({"error": {"code": 1000, "message": "busy"}}),
            json!({"error": {"message": "busy"}}),
            json!({"disconnect": {"code": 4000}}),
            json!({"result": {"items": [{"key": 1}]}}),
            json!([]),
        ] {
            assert!(read(&refused).is_err(), "{refused}");
        }
        assert!(super::read(500, b"{}").is_err());
    }
}
