//! The judgement when everything is at rest.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::room::{
    registry::In,
    types::{Answer, ClientId, HistoryFilter, Position, Query, ReplyTo, Request, RoomName},
};

use super::{
    World,
    links::LONGEST_DELAY,
    publishers::label,
    record::{Acked, Split, Try},
};
use crate::sim::{
    Faults,
    client::{Client, Place, Pushes, said},
};

/// API calls of the judgement; publishes have smaller numbers.
pub(super) const JUDGEMENT: u64 = 1 << 40;
/// How many rooms are read at a time.
const AT_ONCE: usize = 1_000;
/// How long an answer may take.
const PATIENCE: u64 = 3_000;
/// The largest page that a node sends another; a frame may carry one, and the largest publication.
pub(super) const PAGE: usize = 64 << 10;
/// The most outputs of one input: more of them would hold the registry's thread for longer than 20 ms.
pub(super) const MOST_OUTPUTS: usize = 2_000;

/// A room as it is in the end.
struct Kept {
    top: Position,
    /// What is in it, by offset.
    messages: BTreeMap<u64, String>,
    texts: BTreeSet<String>,
}

impl Kept {
    fn new(room: &RoomName, answer: Answer) -> Result<Self, String> {
        let Answer::History(publications, top) = answer else {
            return Err(format!("{room} can't be read at the end: {answer:?}"));
        };
        let messages: BTreeMap<u64, String> =
            publications.iter().map(|it| (it.offset, said(&it.data))).collect();
        let texts: BTreeSet<String> = messages.values().cloned().collect();
        if texts.len() != publications.len() {
            return Err(format!("{room} has a message twice"));
        }
        Ok(Self { top, messages, texts })
    }

    fn has(&self, number: u64) -> bool {
        self.texts.contains(&label(number))
    }

    /// Whether a message is where it was acknowledged. One that was placed so long before that its place is
    /// forgotten can be anywhere.
    fn has_at(&self, number: u64, position: Option<Position>) -> bool {
        position.is_none_or(|it| {
            it.epoch == self.top.epoch && self.messages.get(&it.offset) == Some(&label(number))
        })
    }
}

/// Where a node reaches both sides of a cut, what was acknowledged in one epoch was by one of them: the epochs
/// since the cut. That in which the room is counts if anything is there that was not acknowledged in another.
fn epochs_in_use(kept: &Kept, acked: &[(u64, Acked)], split: &Split) -> BTreeSet<u64> {
    let since = acked.iter().filter(|(_, it)| it.at >= split.at);
    let epochs = since.filter_map(|(_, it)| split.side(it));
    let elsewhere: BTreeSet<String> = (acked.iter())
        .filter(|(_, it)| it.position.is_some_and(|it| it.epoch != kept.top.epoch))
        .map(|(number, _)| label(*number))
        .collect();
    let last = kept.texts.iter().any(|it| !elsewhere.contains(it));
    epochs.chain(last.then_some(kept.top.epoch.0)).collect()
}

impl World {
    /// At rest, everyone must agree, and nothing that was promised may be missing.
    pub(super) fn judge(&mut self) -> Result<(), String> {
        let pace = self.judge_pace();
        let asleep = self.judge_idle_rooms();
        // Who judges is in nobody's way.
        self.network.capacity = None;
        let all = |limit| Query::History(HistoryFilter { limit, since: None, reverse: false });
        let rooms: Vec<usize> = (0..self.rooms.len()).collect();
        let answers = self.ask_all(&rooms, &|| all(usize::MAX))?;
        let mut acked: BTreeMap<usize, Vec<(u64, Acked)>> = BTreeMap::new();
        for (number, it) in &self.record.acked {
            acked.entry(it.room).or_default().push((*number, *it));
        }
        let mut clients: BTreeMap<RoomName, Vec<usize>> = BTreeMap::new();
        for (index, client) in self.clients.iter().enumerate() {
            clients.entry(client.room.clone()).or_default().push(index);
        }
        for (number, answer) in answers {
            let room = self.rooms[number].clone();
            let kept = Kept::new(&room, answer)?;
            let acked = acked.remove(&number).unwrap_or_default();
            self.judge_acked(number, &kept, &acked)?;
            self.judge_positions(number, &kept, &acked)?;
            let here = clients.get(&room).into_iter().flatten();
            let ids: BTreeSet<ClientId> = here.clone().map(|it| self.clients[*it].id).collect();
            for client in here {
                self.judge_client(*client, &kept)?;
                self.judge_pushes(*client, &ids)?;
            }
        }
        self.judge_seen_by_application()?;
        self.judge_presence(&clients)?;
        self.judge_consumers()?;
        self.judge_maps()?;
        pace.and(asleep)
    }

    /// Rooms on disk that nobody uses are out of memory, on every node, unless idempotency keys are remembered in them or
    /// nothing in them was acknowledged.
    fn judge_idle_rooms(&self) -> Result<(), String> {
        if !self.plan.idle {
            return Ok(());
        }
        let keyed = self.record.asked.iter().filter(|(number, _)| self.has_key(**number));
        let mut in_use: BTreeSet<&RoomName> = keyed.map(|(_, it)| &self.rooms[it.room]).collect();
        in_use.extend(self.clients.iter().map(|it| &it.room));
        let counts: BTreeSet<usize> = self.record.acked.values().map(|it| it.room).collect();
        let all = self.rooms.iter().enumerate().filter(|(room, _)| counts.contains(room));
        for name in all.map(|(_, name)| name).filter(|it| !in_use.contains(it)) {
            let awake = self.nodes.iter().filter(|node| {
                let room = node.state.as_ref().and_then(|it| it.room(name));
                room.and_then(|it| it.copy()).is_some_and(|it| it.position().offset > 0)
            });
            let awake: Vec<&str> = awake.map(|it| &*it.name).collect();
            if !awake.is_empty() {
                return Err(format!("nobody uses {name}, and it is in the memory of {awake:?}"));
            }
        }
        Ok(())
    }

    /// What was acknowledged is there.
    fn judge_acked(
        &self,
        number: usize,
        kept: &Kept,
        acked: &[(u64, Acked)],
    ) -> Result<(), String> {
        let lost: Vec<(u64, Acked)> =
            acked.iter().copied().filter(|(number, _)| !kept.has(*number)).collect();
        let Some((first, _)) = lost.first() else { return Ok(()) };
        let (room, all, many) = (&self.rooms[number], acked.len(), lost.len());
        if self.keeps_what_is_acked() {
            return Err(format!(
                "message {first} was acknowledged and is not in {room}; so are {many} of {all}"
            ));
        }
        match &self.record.split {
            Some(_) => self.judge_sides((number, kept), acked, &lost),
            None => Ok(()),
        }
    }

    /// Without a quorum either side of a cut goes on, and one of them wins: all that it acknowledged is
    /// there, and all from before the cut. What was still under way to the other side then is one side's alone.
    /// A side without any copy of what is from before can't win. If only such sides are in use, one wins that has
    /// acknowledged nothing since.
    fn judge_sides(
        &self,
        (number, kept): (usize, &Kept),
        acked: &[(u64, Acked)],
        lost: &[(u64, Acked)],
    ) -> Result<(), String> {
        let (room, Some(split)) = (&self.rooms[number], &self.record.split) else { return Ok(()) };
        if let Some((number, _)) = lost.iter().find(|(_, it)| it.at + LONGEST_DELAY < split.at) {
            return Err(format!(
                "message {number} was acknowledged before the cut and is not in {room}"
            ));
        }
        let losers: BTreeSet<u64> = lost.iter().filter_map(|(_, it)| split.side(it)).collect();
        let winners = match &split.sides {
            Some(_) => self.sides_in_use(number, split),
            None => epochs_in_use(kept, acked, split),
        };
        let none_can_win = split.sides.is_some()
            && !winners.is_empty()
            && !winners.iter().any(|side| split.can_win(number, *side));
        if winners.is_subset(&losers)
            && !none_can_win
            && !self.was_placed_unheard((number, kept), split)
        {
            let numbers: Vec<u64> = lost.iter().map(|(number, _)| *number).collect();
            return Err(format!(
                "{room} lacks what each side of the cut has acknowledged: messages {numbers:?}"
            ));
        }
        Ok(())
    }

    /// The sides of a cut through which something was published into a room since, or so shortly before that
    /// it may have been placed since.
    fn sides_in_use(&self, room: usize, split: &Split) -> BTreeSet<u64> {
        self.tries_since(room, split).filter_map(|it| split.side_of(it.node)).collect()
    }

    fn tries_since(&self, room: usize, split: &Split) -> impl Iterator<Item = &Try> {
        let since = split.at.saturating_sub(PATIENCE);
        self.record.tries.iter().filter(move |it| it.room == room && it.at >= since)
    }

    /// Whether a side that nobody published through has placed what the other side could still send it, but
    /// could not say so: it is in use then as well, and has acknowledged nothing.
    fn was_placed_unheard(&self, (room, kept): (usize, &Kept), split: &Split) -> bool {
        let acked_here = |number| {
            let acked = self.record.acked.get(number);
            acked.and_then(|it| it.position).is_some_and(|it| it.epoch == kept.top.epoch)
        };
        let mut tries = self.tries_since(room, split).filter(|it| it.at < split.until);
        split.one_way && tries.any(|it| kept.has(it.number) && !acked_here(&it.number))
    }

    /// No position means two things: neither to those who were told that a message is there, nor to those
    /// who have seen one there. And where nothing was lost, a room has the epoch that it had.
    fn judge_positions(
        &self,
        number: usize,
        kept: &Kept,
        acked: &[(u64, Acked)],
    ) -> Result<(), String> {
        let (room, top) = (&self.rooms[number], kept.top);
        let moved = acked.iter().find(|(number, it)| {
            let of_this_epoch = it.position.is_some_and(|it| it.epoch == top.epoch);
            (of_this_epoch || self.keeps_epochs()) && !kept.has_at(*number, it.position)
        });
        if let Some((number, it)) = moved {
            let at = it.position;
            return Err(format!(
                "message {number} was acknowledged at {at:?} of {room}, which is at {top:?} now, and is not there"
            ));
        }
        let epoch = top.epoch.to_string();
        let range = (room.clone(), epoch.clone(), 0)..=(room.clone(), epoch.clone(), u64::MAX);
        for ((_, _, offset), text) in self.seen.range(range) {
            let here = kept.messages.get(offset);
            if here.is_some_and(|here| here != text) || *offset > top.offset {
                return Err(format!(
                    "a client saw {text} at {epoch}/{offset} of {room}, where {here:?} is now"
                ));
            }
        }
        self.judge_probe(number, kept)
    }

    /// A room is in the epoch in which it was when nodes had yet to come and go.
    fn judge_probe(&self, number: usize, kept: &Kept) -> Result<(), String> {
        let (room, now) = (&self.rooms[number], kept.top);
        match self.probed.get(&number) {
            Some(before) if before.epoch != now.epoch || before.offset > now.offset => Err(
                format!("{room} was at {before:?} before nodes came and went, and is at {now:?}"),
            ),
            _ => Ok(()),
        }
    }

    fn judge_client(&self, index: usize, kept: &Kept) -> Result<(), String> {
        let Client { place, room, gaps_told, .. } = &self.clients[index];
        let end = Some((kept.top.epoch.to_string(), kept.top.offset));
        let at = self.clients[index].position();
        if *place != Place::In || at != end {
            return Err(format!("client {index} is {place:?} at {at:?}, {room} at {end:?}"));
        }
        if self.faults.leave_no_gap() && *gaps_told > 0 {
            return Err(format!("client {index} was told of {gaps_told} gaps without need"));
        }
        Ok(())
    }

    /// What a client was told of who came and went ends in the truth.
    fn judge_pushes(&self, index: usize, here: &BTreeSet<ClientId>) -> Result<(), String> {
        if !self.faults.is_clean() {
            return Ok(());
        }
        for (id, pushes) in &self.clients[index].pushes {
            let Pushes { joins, leaves, is_in } = *pushes;
            let many = self.faults.tells_once() && (joins > 1 || leaves > 1);
            if is_in != here.contains(id) || many {
                let room = &self.clients[index].room;
                return Err(format!(
                    "client {index} in {room} was told {joins} joins and {leaves} leaves of {id}, so that it is in: {is_in}"
                ));
            }
        }
        Ok(())
    }

    /// The application is told of each join and leave once. A home that dies takes along what it has told
    /// last, and the next one may tell it again; and in [`Faults::Joins`] who leaves in the moment in which a
    /// link breaks while a room moves may leave unheard.
    fn judge_seen_by_application(&self) -> Result<(), String> {
        if self.faults.is_clean() && self.record.repeats > 0 {
            let times = self.record.repeats;
            return Err(format!("the application was told of joins {times} times too often"));
        }
        if !self.faults.tells_once() {
            return Ok(());
        }
        for (id, stay) in &self.record.stays {
            let left = u32::from(stay.left);
            let right = match stay.entered {
                // While a link is broken someone can come and go unheard.
                true if self.faults == Faults::Links => {
                    stay.told == (1, left) || (stay.left && stay.told == (0, 0))
                }
                true => stay.told == (1, left),
                false => stay.told.0 <= 1 && stay.told.0 == stay.told.1,
            };
            if !right {
                let (came, went) = stay.told;
                let room = &stay.room;
                return Err(format!(
                    "{id} came to {room} once and left {left} times; told were {came} and {went}"
                ));
            }
        }
        Ok(())
    }

    fn judge_presence(&mut self, clients: &BTreeMap<RoomName, Vec<usize>>) -> Result<(), String> {
        let crowded = self.faults == Faults::ManyRooms;
        let rooms: Vec<usize> = (0..self.rooms.len())
            .filter(|it| !crowded || clients.contains_key(&self.rooms[*it]))
            .collect();
        for (number, answer) in self.ask_all(&rooms, &|| Query::Presence)? {
            let room = &self.rooms[number];
            let Answer::Presence(present) = answer else {
                return Err(format!("who is in {room} can't be read at the end: {answer:?}"));
            };
            let present: BTreeSet<ClientId> = present.iter().map(|info| info.client).collect();
            let here = clients.get(room).into_iter().flatten();
            let expected: BTreeSet<ClientId> = here.map(|it| self.clients[*it].id).collect();
            if present != expected {
                return Err(format!("in {room} are {expected:?}, but presence says {present:?}"));
            }
        }
        Ok(())
    }

    /// Whether nodes have spared each other, and themselves.
    fn judge_pace(&self) -> Result<(), String> {
        if self.faults != Faults::ManyRooms {
            return Ok(());
        }
        let (traffic, outputs) = (self.network.traffic, self.record.most_outputs);
        let frame = PAGE + self.record.largest;
        let broken = [
            (traffic.slow > 0).then(|| format!("links were too slow {} times", traffic.slow)),
            (traffic.largest > frame)
                .then(|| format!("a frame had {} bytes, of at most {frame}", traffic.largest)),
            (outputs > MOST_OUTPUTS)
                .then(|| format!("an input had {outputs} outputs, of at most {MOST_OUTPUTS}")),
        ];
        let broken: Vec<String> = broken.into_iter().flatten().collect();
        if broken.is_empty() { Ok(()) } else { Err(broken.join("; ")) }
    }

    /// Notes where every room stands.
    pub(super) fn probe(&mut self) -> Result<(), String> {
        self.tell(|| "where every room stands is noted".to_owned());
        let rooms: Vec<usize> = (0..self.rooms.len()).collect();
        let top = || Query::History(HistoryFilter { limit: 0, since: None, reverse: false });
        for (room, answer) in self.ask_all(&rooms, &top)? {
            let Answer::History(_, position) = answer else {
                return Err(format!("{} can't be read: {answer:?}", self.rooms[room]));
            };
            // A room that nobody uses need not be remembered.
            if position.offset > 0 || self.clients.iter().any(|it| it.room == self.rooms[room]) {
                self.probed.insert(room, position);
            }
        }
        self.move_crowd();
        Ok(())
    }

    /// Asks about rooms through any nodes, some at a time, and lets as much happen as the answers take.
    fn ask_all(
        &mut self,
        rooms: &[usize],
        query: &dyn Fn() -> Query,
    ) -> Result<Vec<(usize, Answer)>, String> {
        let mut answers = Vec::new();
        for some in rooms.chunks(AT_ONCE) {
            self.record.answers.clear();
            for room in some {
                let node = self.any_serving().ok_or("no node is left")?;
                let request = Request::Query(query(), ReplyTo::Api(JUDGEMENT + *room as u64));
                self.input(node, In::Request(self.rooms[*room].clone(), request))?;
            }
            self.pass_until(self.now + PATIENCE, |it| it.record.answers.len() >= some.len())?;
            for room in some {
                let answer = self.record.answers.remove(&(JUDGEMENT + *room as u64));
                let name = &self.rooms[*room];
                let answer = answer.ok_or_else(|| format!("no answer about {name}"))?;
                answers.push((*room, answer));
            }
        }
        Ok(answers)
    }

    /// Asks one thing of a room through any node.
    pub(super) fn ask_once(
        &mut self,
        room: &RoomName,
        request: impl FnOnce(ReplyTo) -> Request,
    ) -> Result<Answer, String> {
        self.record.answers.clear();
        let node = self.any_serving().ok_or("no node is left")?;
        self.input(node, In::Request(room.clone(), request(ReplyTo::Api(JUDGEMENT))))?;
        self.pass_until(self.now + PATIENCE, |it| !it.record.answers.is_empty())?;
        let answer = self.record.answers.remove(&JUDGEMENT);
        answer.ok_or_else(|| format!("no answer about {room:?}"))
    }
}
