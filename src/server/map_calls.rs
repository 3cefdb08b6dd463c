//! What is asked of maps by the server API, by HTTP or gRPC: calls → requests.

use bytes::Bytes;
use serde::Deserialize;

use super::calls::{bad_request, payload};
use crate::{
    map::request::{KeyMode, MAX_KEY, Page, is_key},
    protocol::message::Error,
    room::types::{MapRequest, NewPublication, Since, Tags, Version},
};

/// The most entries that one call returns.
const LIMIT: u32 = 10_000;
/// The most bytes of them.
const BYTES: u32 = 1 << 20;

/// A key and what is done to it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MapPublish {
    /// The map.
    pub channel: String,
    pub(super) key: String,
    #[serde(deserialize_with = "super::calls::any")]
    pub(super) data: Bytes,
    pub(super) b64data: String,
    pub(super) tags: Tags,
    pub(super) idempotency_key: String,
    pub(super) delta: bool,
    pub(super) version: u64,
    pub(super) version_epoch: String,
    pub(super) score: i64,
    pub(super) key_mode: String,
}

/// A key, which is to have no value any more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MapRemove {
    /// The map.
    pub channel: String,
    pub(super) key: String,
    pub(super) idempotency_key: String,
}

/// Which entries are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MapReadState {
    /// The map.
    pub channel: String,
    pub(super) cursor: String,
    pub(super) limit: i64,
    pub(super) key: String,
    pub(super) asc: bool,
    /// Where the map was when the first page was read; nothing if it is not said.
    pub revision_offset: u64,
    /// In which epoch.
    pub revision_epoch: String,
}

/// Which changes are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MapReadStream {
    /// The map.
    pub channel: String,
    pub(super) since_offset: u64,
    pub(super) since_epoch: String,
    pub(super) limit: i64,
    pub(super) reverse: bool,
}

fn key(key: String) -> Result<Box<str>, Error> {
    match is_key(&key) {
        true => Ok(key.into()),
        false => Err(bad_request(format!("key must have 1 to {MAX_KEY} bytes, and no NUL"))),
    }
}

fn idempotency_key(key: String) -> Result<Option<Box<str>>, Error> {
    match key.len() > super::calls::MAX_KEY {
        true => Err(bad_request("idempotency_key is too long")),
        false => Ok((!key.is_empty()).then(|| key.into())),
    }
}

/// The most entries that are wanted: none, or as many as may be if it is less than that.
fn limit(limit: i64) -> u32 {
    u32::try_from(limit).map_or(if limit < 0 { LIMIT } else { u32::MAX }, |it| it).min(LIMIT)
}

impl MapPublish {
    /// What is to be done; `most` is how many bytes a value may have.
    ///
    /// # Errors
    /// If the value is too large, or something else is not as it should be.
    pub fn request(self, most: usize) -> Result<MapRequest, Error> {
        let data = payload("b64data", self.data, &self.b64data, most)?;
        let mode = match self.key_mode.as_str() {
            "" => KeyMode::Replace,
            "if_new" => KeyMode::IfNew,
            "if_exists" => KeyMode::IfExists,
            other => {
                let why = format!("key_mode {other:?} is neither \"if_new\" nor \"if_exists\"");
                return Err(bad_request(why));
            }
        };
        let version = Version { number: self.version, epoch: self.version_epoch.into() };
        let value = NewPublication {
            data,
            tags: self.tags,
            idempotency_key: idempotency_key(self.idempotency_key)?,
            delta: self.delta,
            version: (version.number > 0).then_some(version),
            ..NewPublication::default()
        };
        Ok(MapRequest::Put { key: key(self.key)?, value, score: self.score, mode, renews: false })
    }
}

impl MapRemove {
    /// What is to be done.
    ///
    /// # Errors
    /// If the key can be none.
    pub fn request(self) -> Result<MapRequest, Error> {
        let idempotency_key = idempotency_key(self.idempotency_key)?;
        Ok(MapRequest::Remove { key: key(self.key)?, idempotency_key })
    }
}

impl MapReadState {
    /// What is to be read.
    pub fn request(&self) -> MapRequest {
        MapRequest::Read(Page {
            key: (!self.key.is_empty()).then(|| self.key.as_str().into()),
            cursor: self.cursor.as_str().into(),
            limit: limit(self.limit),
            bytes: BYTES,
            ascending: self.asc,
        })
    }
}

impl MapReadStream {
    /// What is to be read.
    pub fn request(&self) -> MapRequest {
        let (epoch, offset) = (self.since_epoch.clone(), self.since_offset);
        let said = offset > 0 || !epoch.is_empty();
        MapRequest::Changes {
            since: said.then_some(Since { epoch, offset }),
            limit: limit(self.limit),
            reverse: self.reverse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(json: &str) -> Result<MapRequest, Error> {
        let call: MapPublish = serde_json::from_str(json).expect("JSON");
        call.request(10)
    }

    #[test]
    fn a_put_says_what_it_needs() {
        for (json, refused) in [
            (r#"{"key": "k", "data": {"a": 1}}"#, false),
            (r#"{"key": "k", "b64data": "YQ=="}"#, false),
            (r#"{"key": "k", "b64data": "?"}"#, true),
            (r#"{"key": "", "data": 1}"#, true),
            (r#"{"key": "k", "data": [1, 2, 3, 4, 5]}"#, true),
            (r#"{"key": "k", "data": 1, "key_mode": "if_new"}"#, false),
            (r#"{"key": "k", "data": 1, "key_mode": "new"}"#, true),
        ] {
            assert_eq!(publish(json).is_err(), refused, "{json}");
        }
    }

    #[test]
    fn a_limit_is_none_some_or_all_that_may_be() {
        assert_eq!([-1, 0, 5, i64::MAX].map(limit), [LIMIT, 0, 5, LIMIT]);
    }
}
