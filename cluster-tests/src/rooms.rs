//! Very many rooms at once, through the server API: filled, read, and held against what they were.
//!
//! In: a node and the names of rooms. Out: each room's [`Standing`], and the first differences in words.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::API_KEY;
use crate::http::Connection;
use crate::wait::ensure;

/// Rooms of one broadcast; the server takes no more than 10,000.
const BROADCAST: usize = 5_000;
/// Rooms of one batch; the server takes no more than 1,000.
const BATCH: usize = 500;
/// How long rooms may answer with a temporary error.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(60);
/// Code of a temporary error.
const TEMPORARY: u64 = 100;
/// Differences that are told in full.
const TOLD: usize = 3;

/// What a node says of a room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The epoch of its stream.
    pub epoch: String,
    /// The position of its last publication.
    pub offset: u64,
    /// The publications that are asked for and kept: position and data.
    pub kept: Vec<(u64, Value)>,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, offset, kept } = self;
        write!(f, "{} publications, offset {offset}, epoch {epoch}", kept.len())
    }
}

/// `PREFIX-0`, `PREFIX-1`, …
pub fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// Publishes `data` into every room, through one node. All must be acknowledged.
pub fn fill(node: SocketAddr, rooms: &[String], data: &Value) -> Result<(), String> {
    let mut api = Api::open(node)?;
    // What waits for one node is bounded in bytes: a call of many large messages would exceed that by itself.
    let size = data.to_string().len().max(1);
    for some in rooms.chunks((8_000_000 / size).clamp(1, BROADCAST)) {
        let done = api.call("broadcast", &json!({"channels": some, "data": data}))?;
        let done = done["responses"].as_array().ok_or_else(|| done.to_string())?;
        let refused = done.iter().filter(|it| !it["error"].is_null());
        let (count, first) = (refused.clone().count(), refused.clone().next());
        ensure(count == 0 && done.len() == some.len(), || {
            format!("{count} of {} publications were refused: {first:?}", some.len())
        })?;
    }
    Ok(())
}

/// What a node says of every room, with at most `limit` publications of each (-1: all). Asks again where it
/// gets a temporary error, for some time.
pub fn read(node: SocketAddr, rooms: &[String], limit: i64) -> Result<Vec<Standing>, String> {
    let mut api = Api::open(node)?;
    let mut found: Vec<Option<Standing>> = vec![None; rooms.len()];
    let mut open: Vec<usize> = (0..rooms.len()).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut again = Vec::new();
        for some in open.chunks(BATCH) {
            let mut why = None;
            for (index, reply) in some.iter().zip(api.histories(rooms, some, limit)?) {
                match standing(&reply) {
                    Some(standing) => found[*index] = Some(standing),
                    None if reply["error"]["code"] == TEMPORARY => {
                        why = Some(reply);
                        again.push(*index);
                    }
                    None => return Err(format!("{}: {reply}", rooms[*index])),
                }
            }
            if let Some(why) = why.filter(|_| Instant::now() > deadline) {
                return Err(format!(
                    "{} rooms of {} are not served: {why}",
                    again.len(),
                    open.len()
                ));
            }
        }
        if again.is_empty() {
            return Ok(found.into_iter().flatten().collect());
        }
        open = again;
    }
}

/// Whether every room is as it was. The reason counts those that are not, and tells of the first.
pub fn same(rooms: &[String], before: &[Standing], now: &[Standing]) -> Result<(), String> {
    let pairs = rooms.iter().zip(before.iter().zip(now));
    let changed: Vec<_> = pairs.filter(|(_, (before, now))| before != now).collect();
    let lost = changed.iter().filter(|(_, (before, now))| now.kept.len() < before.kept.len());
    let anew = changed.iter().filter(|(_, (before, now))| now.epoch != before.epoch);
    let told: Vec<_> = (changed.iter().take(TOLD))
        .map(|(room, (before, now))| format!("{room} had {before}, and has {now}"))
        .collect();
    ensure(changed.is_empty() && before.len() == now.len(), || {
        format!(
            "{} of {} rooms are not as they were: {} lack publications, {} are in another epoch; {}",
            changed.len(),
            rooms.len(),
            lost.count(),
            anew.count(),
            told.join("; ")
        )
    })
}

fn standing(reply: &Value) -> Option<Standing> {
    let page = &reply["history"];
    let epoch = page["epoch"].as_str()?.to_owned();
    let publications = page["publications"].as_array().map_or(&[][..], Vec::as_slice);
    let kept =
        publications.iter().map(|it| (it["offset"].as_u64().unwrap_or(0), it["data"].clone()));
    Some(Standing { epoch, offset: page["offset"].as_u64().unwrap_or(0), kept: kept.collect() })
}

/// The API of one node, over one connection.
pub struct Api(Connection);

impl Api {
    /// Connects.
    pub fn open(node: SocketAddr) -> Result<Self, String> {
        Connection::open(node, CALL).map(Self)
    }

    /// The result of a call, or the error as text.
    pub fn call(&mut self, method: &str, body: &Value) -> Result<Value, String> {
        let mut answer = self.answer(method, body)?;
        match answer.get_mut("result") {
            Some(result) => Ok(result.take()),
            None => Err(format!("api {method}: {answer}")),
        }
    }

    /// The whole answer to a call, `result` or `error`.
    pub fn answer(&mut self, method: &str, body: &Value) -> Result<Value, String> {
        self.0.post(&format!("/api/{method}"), &[("X-API-Key", API_KEY)], body)?.json()
    }

    fn histories(
        &mut self,
        rooms: &[String],
        some: &[usize],
        limit: i64,
    ) -> Result<Vec<Value>, String> {
        let ask = |it: &usize| json!({"history": {"channel": rooms[*it], "limit": limit}});
        let commands: Vec<Value> = some.iter().map(ask).collect();
        let mut answer = self.answer("batch", &json!({"commands": commands, "parallel": true}))?;
        match answer["replies"].take() {
            Value::Array(replies) if replies.len() == some.len() => Ok(replies),
            _ => Err(format!("batch: {answer}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_room_that_was_lost_is_told_with_what_it_had() {
        let rooms = names("room", 2);
        let whole = Standing { epoch: "x".into(), offset: 1, kept: vec![(1, json!(7))] };
        let lost = Standing { epoch: "y".into(), offset: 0, kept: Vec::new() };
        let before = [whole.clone(), whole.clone()];
        same(&rooms, &before, &before).unwrap();
        let why = same(&rooms, &before, &[whole, lost]).unwrap_err();
        assert!(why.starts_with("1 of 2 rooms are not as they were: 1 lack"), "{why}");
        assert!(why.contains("room-1 had 1 publications, offset 1, epoch x"), "{why}");
    }
}
