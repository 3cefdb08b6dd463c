//! Acknowledged publications in rooms with history, and what becomes of them.
//!
//! In: rooms by their numbers. Out: [`Acked`] publications, and later their [`Fate`].

use crate::dialect::Since;
use crate::http;
use crate::publisher::{payload, stamp};
use crate::target::Node;
use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

/// Rooms of one broadcast: it is answered well within the time that a call may take.
const OF_A_BROADCAST: usize = 2_000;
/// Rooms that one batch reads; the server takes no more.
const OF_A_BATCH: usize = 1_000;
/// The most publications of a room that are kept, and so can be looked for.
pub const OF_A_ROOM: usize = 1_000;

/// A publication that the server has acknowledged.
#[derive(Clone, Debug)]
pub struct Acked {
    /// The room's number.
    pub room: usize,
    /// What its payload carries.
    pub stamp: u64,
    /// Its place in the room.
    pub position: Since,
}

/// What has become of acknowledged publications.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Publications that are not where they were acknowledged, or can't be read.
    pub lost: u64,
    /// Rooms that have another epoch now.
    pub new_epochs: u64,
}

/// The room of this number, in a namespace that keeps history.
pub fn room(number: usize) -> String {
    format!("kept:{number}")
}

/// The position in an answer to a publication.
pub fn position(result: &Value) -> Result<Since> {
    let epoch = result["epoch"].as_str().map(str::to_owned);
    let position = epoch.zip(result["offset"].as_u64());
    let (epoch, offset) =
        position.with_context(|| format!("a publication without a position: {result}"))?;
    Ok(Since { epoch, offset })
}

/// Publishes once to each of so many rooms.
pub fn fill(node: &Node, api_key: &str, rooms: usize, size: usize) -> Result<Vec<Acked>> {
    let mut acked = Vec::with_capacity(rooms);
    for first in (0..rooms).step_by(OF_A_BROADCAST) {
        let numbers = first..rooms.min(first + OF_A_BROADCAST);
        let channels: Vec<String> = numbers.clone().map(room).collect();
        let stamp = first as u64;
        let data: Value = serde_json::from_str(&payload(size, stamp))?;
        let body = json!({"channels": channels, "data": data});
        let answer = node.call("broadcast", api_key, &body)?;
        let responses = answer["responses"].as_array().map_or(&[][..], Vec::as_slice);
        ensure!(responses.len() == numbers.len(), "a broadcast was not answered for every room");
        for (room, response) in numbers.zip(responses) {
            let position = position(&response["result"])
                .with_context(|| format!("a broadcast was answered {response}"))?;
            acked.push(Acked { room, stamp, position });
        }
    }
    Ok(acked)
}

/// Looks for publications through all of `nodes` in turn, by their rooms' histories.
pub fn fate(mut acked: Vec<Acked>, nodes: &[Node], api_key: &str) -> Result<Fate> {
    acked.sort_by_key(|it| it.room);
    let rooms: Vec<&[Acked]> = acked.chunk_by(|a, b| a.room == b.room).collect();
    let mut fate = Fate::default();
    for (batch, node) in rooms.chunks(OF_A_BATCH).zip(nodes.iter().cycle()) {
        let request = |of_room: &&[Acked]| json!({"channel": room(of_room[0].room), "limit": -1});
        let replies = node.calls("history", api_key, batch.iter().map(request).collect())?;
        ensure!(replies.len() == batch.len(), "a batch was not answered for every room");
        for (of_room, reply) in batch.iter().zip(replies) {
            let found = fate_in_room(of_room, serde_json::from_value(reply)?);
            fate.lost += found.lost;
            fate.new_epochs += found.new_epochs;
        }
    }
    Ok(fate)
}

/// The answer to a `history` in a batch; without one it is an error.
#[derive(Deserialize)]
struct Reply {
    history: Option<History>,
}

#[derive(Deserialize)]
struct History {
    epoch: String,
    #[serde(default)]
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    offset: u64,
    data: Value,
}

fn fate_in_room(acked: &[Acked], reply: Reply) -> Fate {
    let Some(history) = reply.history else {
        return Fate { lost: acked.len() as u64, new_epochs: 0 };
    };
    let is_there = |it: &&Acked| {
        history.publications.iter().any(|publication| {
            let data = publication.data.to_string();
            publication.offset == it.position.offset && stamp(data.as_bytes()) == Some(it.stamp)
        })
    };
    let there = acked.iter().filter(is_there).count();
    let new_epoch = acked.iter().any(|it| it.position.epoch != history.epoch);
    Fate { lost: (acked.len() - there) as u64, new_epochs: u64::from(new_epoch) }
}

/// What the body of an answer to a publication says: where it is, or why it isn't.
pub fn published(body: &[u8]) -> Result<Since> {
    position(&http::answer(body, "result")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acked(stamp: u64, epoch: &str, offset: u64) -> Acked {
        Acked { room: 7, stamp, position: Since { epoch: epoch.to_owned(), offset } }
    }

    fn reply(value: Value) -> Reply {
        serde_json::from_value(value).expect("a reply")
    }

    #[test]
    fn a_publication_is_where_it_was_acknowledged_or_it_is_lost() {
        let publication = |offset, stamp| json!({"offset": offset, "data": {"t": stamp, "p": ""}});
        let history = |publications: &[Value]| {
            let history = json!({"epoch": "e", "offset": 9, "publications": publications});
            reply(json!({"history": history}))
        };
        let both = [acked(10, "e", 1), acked(20, "e", 2)];
        let fate = |reply| fate_in_room(&both, reply);
        let lost = |lost| Fate { lost, new_epochs: 0 };
        assert_eq!(fate(history(&[publication(1, 10), publication(2, 20)])), lost(0));
        assert_eq!(fate(history(&[publication(1, 10), publication(2, 30)])), lost(1));
        assert_eq!(fate(history(&[publication(2, 10), publication(3, 20)])), lost(2));
        assert_eq!(fate(reply(json!({"error": {"code": 100}}))), lost(2));
        let older = fate_in_room(&[acked(10, "d", 1)], history(&[publication(1, 10)]));
        assert_eq!(older, Fate { lost: 0, new_epochs: 1 });
    }

    #[test]
    fn an_answer_without_a_position_is_no_acknowledgement() {
        let at = Since { epoch: "e".to_owned(), offset: 3 };
        assert_eq!(published(br#"{"result":{"offset":3,"epoch":"e"}}"#).ok(), Some(at));
        for body in [&br#"{"result":{}}"#[..], br#"{"error":{"code":100}}"#, b"<html>"] {
            assert!(published(body).is_err());
        }
    }
}
