//! The judgement when everything is at rest.

use std::collections::BTreeSet;

use roomcast::room::{
    registry::In,
    types::{Answer, ClientId, HistoryFilter, Query, ReplyTo, Request, RoomName},
};

use super::World;
use crate::sim::{Faults, client::Place};

/// API calls of the final judgement; publishes have smaller numbers.
pub(super) const JUDGEMENT: u64 = 1 << 40;

impl World {
    /// At rest, everyone must agree, and nothing that was promised may be missing.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        for (number, room) in self.rooms.clone().into_iter().enumerate() {
            let history = self.ask(JUDGEMENT + 2 * number as u64, &room, || {
                let limit = usize::MAX;
                Query::History(HistoryFilter { limit, since: None, reverse: false })
            })?;
            let Answer::History(publications, top) = history else {
                return Err(format!("{room} can't be read at the end: {history:?}"));
            };
            let kept: BTreeSet<String> = (publications.iter())
                .map(|it| String::from_utf8_lossy(&it.data).into_owned())
                .collect();
            if kept.len() != publications.len() {
                return Err(format!("{room} has a message twice"));
            }
            for (message, _) in self.acked.iter().filter(|(_, at)| **at == room) {
                let there = kept.contains(&format!("message {message}"));
                if self.faults.keep_what_is_acked() && !there {
                    return Err(format!("message {message} was acknowledged and is not in {room}"));
                }
            }
            for (index, client) in self.clients.iter().enumerate().filter(|(_, it)| it.room == room)
            {
                let end = Some((top.epoch.to_string(), top.offset));
                if client.place != Place::In || client.position() != end {
                    let at = client.position();
                    return Err(format!(
                        "client {index} is {:?} at {at:?}, {room} at {end:?}",
                        client.place
                    ));
                }
                let gaps = client.gaps_told;
                if self.faults.leave_no_gap() && gaps > 0 {
                    return Err(format!("client {index} was told of {gaps} gaps without need"));
                }
            }
            self.judge_presence(number, &room)?;
        }
        Ok(())
    }

    pub(super) fn judge_presence(&mut self, number: usize, room: &RoomName) -> Result<(), String> {
        let answer = self.ask(JUDGEMENT + 2 * number as u64 + 1, room, || Query::Presence)?;
        let Answer::Presence(present) = answer else {
            return Err(format!("who is in {room} can't be read at the end: {answer:?}"));
        };
        let present: BTreeSet<ClientId> = present.iter().map(|info| info.client).collect();
        let clients = self.clients.iter().filter(|client| client.room == *room);
        let expected: BTreeSet<ClientId> = clients.map(|client| client.id).collect();
        if present != expected {
            return Err(format!("in {room} are {expected:?}, but presence says {present:?}"));
        }
        // A home that dies takes along what it has told last; the next one may tell it again. And who leaves in
        // the moment in which a room moves leaves unheard.
        if self.faults.leave_no_gap() {
            let here = self.told.iter().filter(|(at, _)| at == room);
            let told: BTreeSet<ClientId> = here.map(|(_, id)| *id).collect();
            let times = self.repeats;
            if told != expected && self.faults != Faults::Joins || times > 0 {
                let told = format!("the application was told of {told:?}, {times} times too often");
                return Err(format!("in {room} are {expected:?}, {told}"));
            }
        }
        Ok(())
    }

    /// Asks through any node, and lets as much happen as the answer takes.
    pub(super) fn ask(
        &mut self,
        number: u64,
        room: &RoomName,
        query: impl FnOnce() -> Query,
    ) -> Result<Answer, String> {
        let node = self.any_alive().ok_or("no node is left")?;
        let request = Request::Query(query(), ReplyTo::Api(number));
        self.input(node, In::Request(room.clone(), request))?;
        self.pass_until(self.now + 3_000, |world| world.answers.contains_key(&number))?;
        self.answers.remove(&number).ok_or_else(|| format!("no answer about {room} at the end"))
    }
}
