//! Maps: who puts values into them, who follows them, and what must be true in the end.
//!
//! Each key has one writer, which does one thing after the other. Followers load all entries, page by page, and are then
//! told of every change, as sessions do it. They have a source of randomness of their own, so that a history without
//! them is the one it always was.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use fastrand::Rng;
use roomcast::{
    map::{
        options::{MapOptions, Mode},
        request::{KeyMode, Page},
    },
    room::{
        options::RoomOptions,
        registry::{In, Out},
        types::{
            Answer, ClientId, ClientInfo, Event, Keyed, MapAnswer, MapRequest, MemberFlags,
            NewPublication, Position, Publication, Recovery, ReplyTo, Request, RoomName, Since,
            SocketRef, Subscribe, Subscribed,
        },
    },
};

use super::{Happening, World};

/// Begins the names of maps.
pub(super) const NAMESPACE: &str = "map";
/// How many there are, and how many keys each may have.
const MAPS: usize = 2;
const KEYS: usize = 12;
/// Few, so that floors rise and copies lack what was before.
const STREAM: usize = 4;
/// Entries of a page.
const PAGE: u32 = 3;
/// How long a follower may take in the end, in milliseconds.
const PATIENCE: u64 = 30_000;

/// Something that a writer has done.
#[derive(Debug, Clone, Copy)]
struct Deed {
    /// The value; none: it was removed.
    value: Option<u64>,
    asked: u64,
    /// When it was acknowledged; none: nobody knows whether it is done, or will be.
    acked: Option<u64>,
}

/// One key, and who writes to it.
#[derive(Debug, Default)]
struct Writer {
    deeds: Vec<Deed>,
    /// The request that is not answered, and the node that it went to.
    asks: Option<(u32, usize)>,
}

/// How far a follower is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    Away,
    /// It has asked for a page under this number; where the map was when the first was read.
    Loading(u32, Option<Position>),
    /// It is about to enter, from there; whether it was there before.
    Entering(Since, bool),
    Live(Since),
}

/// Someone who follows a map.
#[derive(Debug)]
struct Follower {
    map: RoomName,
    socket: SocketRef,
    node: usize,
    stage: Stage,
    entries: BTreeMap<String, u64>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Maps {
    rng: Rng,
    writers: BTreeMap<(usize, usize), Writer>,
    followers: Vec<Follower>,
    values: u64,
}

/// Something that happens to maps.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// Someone writes to a key.
    Write(usize, usize),
    /// A follower comes to some node.
    Come(usize),
    /// It is cut off, if it is still on this socket.
    Go(usize, SocketRef),
}

/// What namespaces of maps say.
pub(super) fn options(rooms: &RoomOptions) -> RoomOptions {
    let options = MapOptions {
        mode: Mode::Persistent,
        stream_size: STREAM,
        max_keys: 1_000,
        meta_ttl: Duration::from_secs(36_000),
        ..MapOptions::default()
    };
    let rooms =
        RoomOptions { presence: false, join_leave: false, webhooks: false, ..rooms.clone() };
    rooms.with_map(options)
}

fn name(map: usize) -> RoomName {
    format!("{NAMESPACE}:{map}").into()
}

/// The number that a value says.
fn number(data: &[u8]) -> u64 {
    std::str::from_utf8(data).ok().and_then(|it| it.parse().ok()).unwrap_or_default()
}

impl Follower {
    fn take(&mut self, keyed: &Keyed, it: &Publication) {
        match keyed.removed {
            true => drop(self.entries.remove(&*keyed.key)),
            false => drop(self.entries.insert(keyed.key.to_string(), number(&it.data))),
        }
    }

    /// Takes a change that it is told of.
    fn follow(&mut self, it: &Publication) {
        if let Some(keyed) = &it.keyed {
            self.take(keyed, it);
        }
        if let Stage::Live(since) = &mut self.stage {
            since.offset = since.offset.max(it.offset);
        }
    }
}

impl World {
    /// Maps with writers and followers.
    pub(super) fn plan_maps(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(seed ^ 0x6d61_7073);
        let (opening, trouble) = (self.plan.opening, self.plan.trouble);
        let mut maps = Maps::default();
        for map in 0..MAPS {
            for key in 0..KEYS {
                maps.writers.insert((map, key), Writer::default());
                for _ in 0..rng.usize(1..9) {
                    let at = opening + rng.u64(1..trouble);
                    self.later(at, Happening::Map(Act::Write(map, key)));
                }
            }
            for _ in 0..rng.usize(1..4) {
                let socket = SocketRef { worker: 0, slot: 0, generation: 0 };
                let (map, entries) = (name(map), BTreeMap::new());
                maps.followers.push(Follower { map, socket, node: 0, stage: Stage::Away, entries });
            }
        }
        for follower in 0..maps.followers.len() {
            let at = opening + rng.u64(1..3_000);
            self.later(at, Happening::Map(Act::Come(follower)));
        }
        maps.rng = rng;
        self.maps = Some(maps);
    }

    pub(super) fn map_acts(&mut self, act: &Act) -> Result<(), String> {
        match act {
            Act::Write(map, key) => self.write(*map, *key),
            Act::Come(follower) => self.follower_comes(*follower),
            Act::Go(index, socket) => {
                let Some(it) = self.follower(*index).filter(|it| it.socket == *socket) else {
                    return Ok(());
                };
                let (map, node) = (it.map.clone(), it.node);
                let leave = Request::Unsubscribe {
                    socket: *socket,
                    client: ClientId(u128::from(socket.slot)),
                    reply: ReplyTo::Nobody,
                };
                self.tell(|| format!("follower {index} of {map} is cut off"));
                self.follower_is_away(*index);
                self.input(node, In::Request(map, leave))
            }
        }
    }

    fn follower(&mut self, index: usize) -> Option<&mut Follower> {
        self.maps.as_mut()?.followers.get_mut(index)
    }

    fn map_chance(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.maps.as_mut().map_or(range.start, |it| it.rng.u64(range))
    }

    fn some_serving(&mut self) -> Option<usize> {
        let serving: Vec<usize> =
            (0..self.nodes.len()).filter(|it| self.nodes[*it].serves()).collect();
        let at = self.map_chance(0..serving.len().max(1) as u64) as usize;
        serving.get(at).copied()
    }

    fn write(&mut self, map: usize, key: usize) -> Result<(), String> {
        let Some(node) = self.some_serving() else { return Ok(()) };
        let removes = self.map_chance(0..5) == 0;
        let (id, asked) = (self.sockets + 1, self.now);
        let Some(maps) = &mut self.maps else { return Ok(()) };
        let writer = maps.writers.entry((map, key)).or_default();
        if writer.asks.is_some() {
            return Ok(());
        }
        self.sockets = id;
        maps.values += 1;
        let value = (!removes).then_some(maps.values);
        writer.asks = Some((id, node));
        writer.deeds.push(Deed { value, asked, acked: None });
        let name_of_key: Box<str> = format!("key-{key}").into();
        let request = match value {
            None => MapRequest::Remove { key: name_of_key, idempotency_key: None },
            Some(value) => MapRequest::Put {
                key: name_of_key,
                value: NewPublication {
                    data: Bytes::from(value.to_string()),
                    ..NewPublication::default()
                },
                score: 0,
                mode: KeyMode::Replace,
                renews: false,
            },
        };
        let through = self.nodes[node].name.clone();
        self.tell(|| format!("key-{key} of {} becomes {value:?} through {through}", name(map)));
        let socket = SocketRef { worker: 0, slot: id, generation: 0 };
        let to = ReplyTo::Command { socket, id };
        self.input(node, In::Request(name(map), Request::Map(request.into(), to)))
    }

    fn follower_comes(&mut self, index: usize) -> Result<(), String> {
        let Some(node) = self.some_serving() else {
            self.later(100, Happening::Map(Act::Come(index)));
            return Ok(());
        };
        self.sockets += 1;
        let slot = self.sockets;
        let stays = self.map_chance(800..9_000);
        let Some(it) = self.follower(index).filter(|it| it.stage == Stage::Away) else {
            return Ok(());
        };
        it.socket = SocketRef { worker: 0, slot, generation: 0 };
        it.node = node;
        let (socket, map) = (it.socket, it.map.clone());
        let at = self.nodes[node].name.clone();
        self.tell(|| format!("follower {index} of {map} comes to {at} as {slot}"));
        if !self.healed {
            self.later(stays, Happening::Map(Act::Go(index, socket)));
        }
        self.load(index, None, String::new())
    }

    /// A follower asks for a page of entries.
    fn load(
        &mut self,
        index: usize,
        began: Option<Position>,
        cursor: String,
    ) -> Result<(), String> {
        self.sockets += 1;
        let id = self.sockets;
        let Some(it) = self.follower(index) else { return Ok(()) };
        if began.is_none() {
            it.entries.clear();
        }
        it.stage = Stage::Loading(id, began);
        let (node, map, socket) = (it.node, it.map.clone(), it.socket);
        let cursor = cursor.into();
        let page = Page { key: None, cursor, limit: PAGE, bytes: 1 << 20, ascending: false };
        let to = ReplyTo::Command { socket, id };
        self.input(node, In::Request(map, Request::Map(MapRequest::Read(page).into(), to)))
    }

    /// A follower enters the room from where it is.
    fn enter_map(&mut self, index: usize, since: Since, was_there: bool) -> Result<(), String> {
        let Some(it) = self.follower(index) else { return Ok(()) };
        it.stage = Stage::Entering(since.clone(), was_there);
        let (node, map, socket) = (it.node, it.map.clone(), it.socket);
        let subscribe = Subscribe {
            socket,
            id: socket.slot,
            info: Arc::new(ClientInfo::new(ClientId(u128::from(socket.slot)), "follower")),
            flags: MemberFlags { join_leave: false, positioned: true },
            delivery: None,
            recover: Some(since),
            must_recover: true,
        };
        self.input(node, In::Request(map, Request::Subscribe(subscribe)))
    }

    fn follower_is_away(&mut self, index: usize) {
        if let Some(it) = self.follower(index) {
            it.stage = Stage::Away;
        }
        let back = self.map_chance(1..1_500);
        self.later(back, Happening::Map(Act::Come(index)));
    }

    /// The node of some followers is gone, and nobody knows what became of what it was asked.
    pub(super) fn maps_lose(&mut self, node: usize) {
        let Some(maps) = &mut self.maps else { return };
        for writer in maps.writers.values_mut() {
            writer.asks.take_if(|(_, through)| *through == node);
        }
        let on_it = |it: &(usize, &Follower)| it.1.node == node && it.1.stage != Stage::Away;
        let lost: Vec<usize> =
            maps.followers.iter().enumerate().filter(on_it).map(|(index, _)| index).collect();
        lost.into_iter().for_each(|index| self.follower_is_away(index));
    }

    /// What a node says, if it is for one who writes or follows. Returns whether it is.
    pub(super) fn map_hears(&mut self, node: usize, out: &Out) -> Result<bool, String> {
        if self.maps.is_none() {
            return Ok(false);
        }
        match out {
            Out::Answer { to: ReplyTo::Command { id, .. }, answer } => {
                self.map_answers(node, *id, answer)
            }
            Out::Subscribed { socket, result, room, .. } if room.starts_with(NAMESPACE) => {
                let result = result.as_ref().map_err(|why| format!("{why:?}"));
                self.map_entered(node, *socket, result.ok()).map(|()| true)
            }
            Out::Event { room, event, .. } if room.starts_with(NAMESPACE) => {
                self.map_tells(node, room, event).map(|()| true)
            }
            Out::Unsubscribed { room, .. } => Ok(room.starts_with(NAMESPACE)),
            _ => Ok(false),
        }
    }

    fn map_answers(&mut self, node: usize, id: u32, answer: &Answer) -> Result<bool, String> {
        let now = self.now;
        let Some(maps) = &mut self.maps else { return Ok(false) };
        let asked = |it: &&mut Writer| it.asks == Some((id, node));
        if let Some(writer) = maps.writers.values_mut().find(asked) {
            writer.asks = None;
            let done =
                matches!(answer, Answer::Map(MapAnswer::Changed(_) | MapAnswer::Suppressed(..)));
            if let Some(deed) = writer.deeds.last_mut().filter(|_| done) {
                deed.acked = Some(now);
            }
            let value = writer.deeds.last().and_then(|it| it.value);
            self.tell(|| format!("that a key becomes {value:?} is answered: {answer:?}"));
            return Ok(true);
        }
        let loads = |it: &Follower| matches!(it.stage, Stage::Loading(asked, _) if asked == id);
        let Some(index) = maps.followers.iter().position(loads) else { return Ok(false) };
        let Answer::Map(MapAnswer::Entries { entries, position, cursor }) = answer else {
            self.tell(|| format!("follower {index} can't load: {answer:?}"));
            self.follower_is_away(index);
            return Ok(true);
        };
        let it = &mut maps.followers[index];
        let Stage::Loading(_, began) = &it.stage else { return Ok(true) };
        let began = began.unwrap_or(*position);
        if began.epoch != position.epoch {
            return self.load(index, None, String::new()).map(|()| true);
        }
        for (keyed, entry) in entries.iter().filter(|(_, it)| it.offset <= began.offset) {
            it.take(keyed, entry);
        }
        if !cursor.is_empty() {
            return self.load(index, Some(began), cursor.to_string()).map(|()| true);
        }
        let since = Since { epoch: began.epoch.to_string(), offset: began.offset };
        self.enter_map(index, since, false).map(|()| true)
    }

    fn map_entered(
        &mut self,
        node: usize,
        socket: SocketRef,
        entered: Option<&Subscribed>,
    ) -> Result<(), String> {
        let Some(maps) = &mut self.maps else { return Ok(()) };
        let is_it = |it: &Follower| it.node == node && it.socket == socket;
        let Some(index) = maps.followers.iter().position(is_it) else { return Ok(()) };
        let it = &mut maps.followers[index];
        let Stage::Entering(since, was_there) = it.stage.clone() else { return Ok(()) };
        let Some(Subscribed { position: Some(here), recovery: Recovery::Recovered(missed) }) =
            entered
        else {
            self.tell(|| format!("follower {index} can't go on from {since:?}"));
            return self.load(index, None, String::new());
        };
        let missed_too_much = was_there && here.offset.saturating_sub(since.offset) > STREAM as u64;
        if here.epoch.to_string() != since.epoch || missed_too_much {
            // As a session does it: it leaves, and loads everything.
            let (map, client) = (it.map.clone(), ClientId(u128::from(socket.slot)));
            let leave = Request::Unsubscribe { socket, client, reply: ReplyTo::Nobody };
            it.stage = Stage::Away;
            self.input(node, In::Request(map, leave))?;
            return self.load(index, None, String::new());
        }
        it.stage = Stage::Live(since);
        for publication in missed {
            it.follow(publication);
        }
        if let Stage::Live(since) = &mut it.stage {
            since.offset = since.offset.max(here.offset);
        }
        self.tell(|| format!("follower {index} is in, at {here:?}"));
        Ok(())
    }

    fn map_tells(&mut self, node: usize, map: &RoomName, event: &Event) -> Result<(), String> {
        let Some(maps) = &mut self.maps else { return Ok(()) };
        let mut again = Vec::new();
        for (index, it) in maps.followers.iter_mut().enumerate() {
            let Stage::Live(since) = &it.stage else { continue };
            if it.node != node || it.map != *map {
                continue;
            }
            match event {
                Event::Publication(publication) => it.follow(publication),
                Event::InsufficientState => again.push((index, since.clone())),
                Event::Join(_) | Event::Leave(_) => {}
            }
        }
        for (index, since) in again {
            self.tell(|| format!("follower {index} may have missed something"));
            let Some(it) = self.follower(index) else { continue };
            let (map, socket) = (it.map.clone(), it.socket);
            let client = ClientId(u128::from(socket.slot));
            let leave = Request::Unsubscribe { socket, client, reply: ReplyTo::Nobody };
            it.stage = Stage::Away;
            self.input(node, In::Request(map, leave))?;
            self.enter_map(index, since, true)?;
        }
        Ok(())
    }

    /// In the end every value is one that its writer may have left there, and all followers have the same.
    pub(super) fn judge_maps(&mut self) -> Result<(), String> {
        if self.maps.is_none() {
            return Ok(());
        }
        for map in 0..MAPS {
            let entries = self.read_map(map)?;
            self.judge_writers(map, &entries)?;
            self.await_followers(map, &entries)?;
        }
        Ok(())
    }

    fn read_map(&mut self, map: usize) -> Result<BTreeMap<String, u64>, String> {
        let page =
            Page { key: None, cursor: "".into(), limit: 1_000, bytes: 1 << 20, ascending: false };
        let request = |to| Request::Map(MapRequest::Read(page).into(), to);
        match self.ask_once(&name(map), request)? {
            Answer::Map(MapAnswer::Entries { entries, .. }) => Ok(entries
                .iter()
                .map(|(keyed, it)| (keyed.key.to_string(), number(&it.data)))
                .collect()),
            other => Err(format!("{} can't be read in the end: {other:?}", name(map))),
        }
    }

    fn judge_writers(&self, map: usize, entries: &BTreeMap<String, u64>) -> Result<(), String> {
        let Some(maps) = self.maps.as_ref().filter(|_| self.keeps_what_is_acked()) else {
            return Ok(());
        };
        for key in 0..KEYS {
            let Some(writer) = maps.writers.get(&(map, key)) else { continue };
            let value = entries.get(&format!("key-{key}")).copied();
            // Nothing was asked for after it was done, and acknowledged.
            let may_be = |resolved: Option<u64>| {
                let later = |it: &Deed| resolved.is_some_and(|at| it.asked > at);
                !writer.deeds.iter().any(|it| it.acked.is_some() && later(it))
            };
            let never = value.is_none() && may_be(Some(0));
            let by = writer.deeds.iter().any(|it| it.value == value && may_be(it.acked));
            if !never && !by {
                let deeds = &writer.deeds;
                return Err(format!("key-{key} of {} is {value:?} after {deeds:?}", name(map)));
            }
        }
        Ok(())
    }

    fn await_followers(
        &mut self,
        map: usize,
        entries: &BTreeMap<String, u64>,
    ) -> Result<(), String> {
        let end = self.now + PATIENCE;
        loop {
            let Some(maps) = &self.maps else { return Ok(()) };
            let behind = |it: &&Follower| {
                it.map == name(map)
                    && !(matches!(it.stage, Stage::Live(_)) && it.entries == *entries)
            };
            let Some(it) = maps.followers.iter().find(behind) else { return Ok(()) };
            if self.now > end {
                return Err(format!("{} has {entries:?} in the end, and {it:?}", name(map)));
            }
            self.pass_until(self.now + 500, |_| false)?;
            self.now += 1;
        }
    }
}
