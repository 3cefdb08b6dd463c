//! Consumers of the rooms' groups: what they are given, what they say of it, and what must be true in the end. What must
//! become of it in time is in [`super::leases`].
//!
//! They have a source of randomness of their own, so that a history without them is the one it always was.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use roomcast::{
    queue::{
        group::{Facts, Verdict},
        name,
        options::{Mode, QueueOptions, Start, WhenFull},
        tag::{self, Delivery},
    },
    room::{
        registry::{In, Out},
        types::{
            Answer, ClientId, ClientInfo, GroupAnswer, GroupRequest, InRoom, MemberFlags,
            Publication, ReplyTo, Request, RoomName, SocketRef, Subscribe, Tags,
        },
    },
};

use super::{Happening, World, leases::Leases, publishers::label};
use crate::sim::client::said;

/// How long a consumer has a message.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(3);
/// How long consumers are as careless in the end as before, in milliseconds: so long that what they have then has to be
/// given again when the cluster has come to rest.
const CARELESS: u64 = 6_000;
/// How long slow consumers may take in the end, in milliseconds.
const PATIENCE: u64 = 120_000;
/// The group that every room has, and another that some have.
const GROUPS: [&str; 2] = ["one", "other"];

/// Someone who consumes.
#[derive(Debug)]
pub(super) struct Consumer {
    /// The room of its group.
    pub(super) group: RoomName,
    pub(super) id: ClientId,
    socket: SocketRef,
    /// The node that it is connected to, while it is.
    pub(super) node: Option<usize>,
    /// Whether it was let in there.
    pub(super) entered: bool,
    pub(super) prefetch: u32,
}

/// What was said of a message and not answered yet.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub(super) group: RoomName,
    /// Who said it.
    pub(super) by: ClientId,
    pub(super) text: String,
    /// The term and the number of the delivery.
    delivery: (u64, u64),
    acks: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    rng: Rng,
    pub(super) all: Vec<Consumer>,
    pub(super) said: BTreeMap<u32, Said>,
    /// Of each group, the messages whose acknowledgement was confirmed, each with the delivery that it was of.
    acked: BTreeMap<RoomName, BTreeMap<String, (u64, u64)>>,
    /// Those of which nobody can say whether they hold.
    unsure: BTreeSet<(RoomName, String)>,
    /// How messages are divided.
    pub(super) mode: Mode,
    /// Where groups begin: with the first message, in one way or another.
    start: Start,
    /// What they have.
    pub(super) leases: Leases,
    /// Of each group and key, the messages that were given, and the last of them.
    given: BTreeMap<(RoomName, u64), (BTreeSet<u64>, u64)>,
}

/// The tag by which messages are divided.
const KEY: &str = "key";
/// How many values it has.
const KEYS: u64 = 3;

impl Consumers {
    /// What namespaces say of groups.
    pub(super) fn options(&self) -> QueueOptions {
        QueueOptions {
            groups: vec!["*".to_owned()],
            mode: self.mode.clone(),
            ack_wait: ACK_WAIT,
            when_full: WhenFull::DropOldest,
            start: self.start,
            ..QueueOptions::default()
        }
    }

    /// Whether someone has acknowledged this.
    pub(super) fn is_acked(&self, group: &RoomName, text: &str) -> bool {
        self.acked.get(group).is_some_and(|it| it.contains_key(text))
    }

    /// Whether someone may have acknowledged this, and does not know.
    pub(super) fn is_unsure(&self, group: &RoomName, text: &str) -> bool {
        let said = |it: &Said| it.acks && it.group == *group && it.text == text;
        self.unsure.contains(&(group.clone(), text.to_owned())) || self.said.values().any(said)
    }

    /// Those with one key are given in their order.
    fn note_order(&mut self, group: &RoomName, text: &str, offset: u64) -> Result<(), String> {
        let number: Option<u64> = text.rsplit(' ').next().and_then(|it| it.parse().ok());
        let (Mode::KeyShared(_), Some(number)) = (&self.mode, number) else { return Ok(()) };
        let (given, last) = self.given.entry((group.clone(), number % KEYS)).or_default();
        if given.insert(offset) && offset < *last {
            return Err(format!("{text} of {group:?} is given after a later one with its key"));
        }
        *last = offset.max(*last);
        Ok(())
    }
}

/// Something that a consumer does.
#[derive(Debug)]
pub(super) enum Act {
    /// It comes to some node.
    Come(usize),
    /// It goes, if it is still on this socket.
    Go(usize, SocketRef),
    /// It says something of a delivery.
    Say(usize, SocketRef, Delivery, String),
    /// It is seen whether all have in time what they are to have.
    Look,
}

impl World {
    /// Some consumers of every room.
    pub(super) fn plan_consumers(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(!seed);
        let mut all = Vec::new();
        for room in &self.rooms {
            let groups = if rng.u8(..3) == 0 { &GROUPS[..] } else { &GROUPS[..1] };
            for group in groups {
                for _ in 0..rng.usize(1..4) {
                    let group = name::of_group(room, group).into();
                    let socket = SocketRef { worker: 0, slot: 0, generation: 0 };
                    let (id, prefetch) = (ClientId(0), rng.u32(1..6));
                    let (node, entered) = (None, false);
                    all.push(Consumer { group, id, socket, node, entered, prefetch });
                }
            }
        }
        // An age that all messages have, which those on disk have to be asked for.
        let by_age = seed % 4 < 2;
        let start = if by_age { Start::Since(Duration::from_secs(3_600)) } else { Start::First };
        let latest = if by_age && self.plan.trouble > 20_000 { 15_000 } else { 3_000 };
        for index in 0..all.len() {
            let at = self.plan.opening + rng.u64(1..latest);
            self.later(at, Happening::Consumer(Act::Come(index)));
        }
        let mode = match seed % 3 {
            0 => Mode::Shared,
            1 => Mode::KeyShared(KEY.into()),
            _ => Mode::Exclusive,
        };
        self.consumers = Some(Consumers { rng, all, mode, start, ..Consumers::default() });
        self.look_at_leases_later();
    }

    /// The tags of a publication.
    pub(super) fn tags_of(&self, number: u64) -> Tags {
        let tags = [(KEY.to_owned(), (number % KEYS).to_string())];
        self.consumers.iter().flat_map(|_| tags.clone()).collect()
    }

    fn chance(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.consumers.as_mut().map_or(range.start, |it| it.rng.u64(range))
    }

    pub(super) fn consumer_acts(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Come(index) => self.consumer_comes(index),
            Act::Go(index, socket) if self.is_on(index, socket) => self.consumer_goes(index),
            Act::Say(index, socket, delivery, text) if self.is_on(index, socket) => {
                self.consumer_says(index, delivery, text)
            }
            Act::Look => self.look_at_leases(),
            Act::Go(..) | Act::Say(..) => Ok(()),
        }
    }

    fn consumer(&mut self, index: usize) -> Option<&mut Consumer> {
        self.consumers.as_mut()?.all.get_mut(index)
    }

    fn is_on(&mut self, index: usize, socket: SocketRef) -> bool {
        self.consumer(index).is_some_and(|it| it.socket == socket && it.node.is_some())
    }

    fn consumer_of(&self, node: usize, socket: SocketRef) -> Option<usize> {
        let all = &self.consumers.as_ref()?.all;
        all.iter().position(|it| it.node == Some(node) && it.socket == socket)
    }

    fn consumer_comes(&mut self, index: usize) -> Result<(), String> {
        let serving: Vec<usize> =
            (0..self.nodes.len()).filter(|it| self.nodes[*it].serves()).collect();
        let again = Happening::Consumer(Act::Come(index));
        if serving.is_empty() {
            self.later(100, again);
            return Ok(());
        }
        let node = serving[self.chance(0..serving.len() as u64) as usize];
        self.sockets += 1;
        let (id, slot) = (ClientId(u128::from(self.sockets)), self.sockets);
        let socket = SocketRef { worker: 0, slot, generation: 0 };
        let Some(it) = self.consumer(index).filter(|it| it.node.is_none()) else { return Ok(()) };
        (it.id, it.socket, it.node, it.entered) = (id, socket, Some(node), false);
        let (group, prefetch) = (it.group.clone(), it.prefetch);
        let info = prefetch.to_string().into_bytes().into();
        let in_room = Some(Box::new(InRoom { info, ..InRoom::default() }));
        let info = ClientInfo { in_room, ..ClientInfo::new(id, "consumer") };
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("consumer {index} of {group:?} comes to {name} as {id}"));
        let subscribe = Subscribe {
            socket,
            id: slot,
            info: Arc::new(info),
            flags: MemberFlags::default(),
            delivery: None,
            recover: None,
            must_recover: false,
        };
        let stays = self.chance(500..9_000);
        if !self.healed {
            self.later(stays, Happening::Consumer(Act::Go(index, socket)));
        }
        self.input(node, In::Request(group, Request::Subscribe(subscribe)))
    }

    fn consumer_goes(&mut self, index: usize) -> Result<(), String> {
        if self.healed {
            return Ok(());
        }
        let Some(it) = self.consumer(index) else { return Ok(()) };
        let Some(node) = it.node.take() else { return Ok(()) };
        let (group, socket, client) = (it.group.clone(), it.socket, it.id);
        self.tell(|| format!("consumer {index} of {group:?} goes"));
        self.leases_end_of(client);
        let back = self.chance(1..3_000);
        self.later(back, Happening::Consumer(Act::Come(index)));
        let request = Request::Unsubscribe { socket, client, reply: ReplyTo::Nobody };
        self.input(node, In::Request(group, request))
    }

    /// The node of some consumers is gone.
    pub(super) fn consumers_lose(&mut self, node: usize) {
        let all = self.consumers.iter().flat_map(|it| it.all.iter().enumerate());
        let lost: Vec<usize> =
            all.filter(|(_, it)| it.node == Some(node)).map(|(index, _)| index).collect();
        for index in lost {
            let client = self.consumer(index).map(|it| {
                it.node = None;
                it.id
            });
            client.into_iter().for_each(|it| self.leases_end_of(it));
            let back = self.chance(1..1_500);
            self.later(back, Happening::Consumer(Act::Come(index)));
        }
    }

    fn consumer_says(
        &mut self,
        index: usize,
        delivery: Delivery,
        text: String,
    ) -> Result<(), String> {
        let careful = self.healed_since.is_some_and(|since| self.now - since > CARELESS);
        let lazy = if careful { 0 } else { self.chance(0..10) };
        let verdict = match lazy {
            9 => return Ok(()),
            8 => Verdict::Nack(Some(Duration::from_millis(self.chance(0..1_500)))),
            _ => Verdict::Ack,
        };
        self.sockets += 1;
        let number = self.sockets;
        let Some(consumers) = &mut self.consumers else { return Ok(()) };
        let it = &mut consumers.all[index];
        let Some(node) = it.node else { return Ok(()) };
        let (group, number_of) = (it.group.clone(), (delivery.term, delivery.serial));
        let (by, acks) = (it.id, verdict == Verdict::Ack);
        consumers.leases.spoken_of(&group, &text);
        let said = Said { group, by, text, delivery: number_of, acks };
        let (group, socket) = (it.group.clone(), it.socket);
        let request = GroupRequest::Judge { verdict, deliveries: vec![delivery], by: Some(it.id) };
        self.tell(|| {
            format!("consumer {index} of {group:?} says {verdict:?} of {} ({delivery})", said.text)
        });
        if let Some(consumers) = &mut self.consumers {
            consumers.said.insert(number, said);
        }
        let to = ReplyTo::Command { socket, id: number };
        self.input(node, In::Request(group, Request::Group(request.into(), to)))
    }

    /// What a node says, if it is for a consumer. Returns whether it is.
    pub(super) fn consumer_hears(&mut self, node: usize, out: &Out) -> Result<bool, String> {
        match out {
            Out::Subscribed { socket, result, .. } => {
                let Some(index) = self.consumer_of(node, *socket) else { return Ok(false) };
                if let (Ok(_), Some(it)) = (result, self.consumer(index)) {
                    it.entered = true;
                }
                if result.is_err() {
                    self.tell(|| format!("consumer {index} is not let in: {result:?}"));
                    if let Some(it) = self.consumer(index) {
                        it.node = None;
                    }
                    let back = self.chance(1..1_500);
                    self.later(back, Happening::Consumer(Act::Come(index)));
                }
            }
            Out::Push { socket, room, publication } => {
                let Some(index) = self.consumer_of(node, *socket) else { return Ok(true) };
                self.consumer_gets(index, room, publication)?;
            }
            Out::Answer { to: ReplyTo::Command { id, .. }, answer } => {
                let Some(consumers) = &mut self.consumers else { return Ok(false) };
                let Some(said) = consumers.said.remove(id) else { return Ok(false) };
                let Said { group, text, delivery, acks, .. } = said;
                match answer {
                    Answer::Group(GroupAnswer::Judged(holds)) if acks && *holds == [true] => {
                        let acked = consumers.acked.entry(group.clone()).or_default();
                        acked.insert(text.clone(), delivery);
                        consumers.leases.spoken_of(&group, &text);
                        self.tell(|| format!("{text} is settled for {group:?}"));
                    }
                    // It may hold all the same.
                    Answer::Failed(_) if acks => drop(consumers.unsure.insert((group, text))),
                    _ => {}
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn consumer_gets(
        &mut self,
        index: usize,
        room: &RoomName,
        publication: &Publication,
    ) -> Result<(), String> {
        let text = said(&publication.data);
        let strict = self.keeps_what_is_acked();
        let patience = if self.healed { 200 } else { 1_200 };
        let wait = self.chance(1..patience);
        let Some(consumers) = &mut self.consumers else { return Ok(()) };
        let Consumer { group, socket, .. } = &consumers.all[index];
        if group != room {
            return Err(format!("consumer {index} of {group:?} gets what is for {room:?}"));
        }
        let socket = *socket;
        let delivery = publication.tags.get(tag::DELIVERY).and_then(|it| Delivery::parse(it));
        let (delivery, _) = delivery.ok_or("a message without a delivery")?;
        // A node that stood still may bring what was given long before.
        let acked = consumers.acked.get(room).and_then(|it| it.get(&text));
        if strict && acked.is_some_and(|it| *it < (delivery.term, delivery.serial)) {
            return Err(format!("{text} of {room:?} is given again, and was acknowledged"));
        }
        if strict {
            consumers.note_order(room, &text, delivery.offset)?;
        }
        self.tell(|| format!("consumer {index} of {room:?} gets {text} ({delivery})"));
        self.leased(index, &text, delivery)?;
        self.later(wait, Happening::Consumer(Act::Say(index, socket, delivery, text)));
        Ok(())
    }

    /// In the end all that is in the rooms is settled for every group, and was given to someone who said so.
    pub(super) fn judge_consumers(&mut self) -> Result<(), String> {
        let all = self.consumers.iter().flat_map(|it| &it.all);
        let groups: BTreeSet<RoomName> = all.map(|it| it.group.clone()).collect();
        for group in &groups {
            self.await_done(group)?;
        }
        let Some(consumers) = self.consumers.take() else { return Ok(()) };
        for group in groups {
            if !self.keeps_what_is_acked() {
                continue;
            }
            let room = name::room(&group);
            let nothing = BTreeMap::new();
            let acked = consumers.acked.get(&group).unwrap_or(&nothing);
            let number = self.rooms.iter().position(|it| **it == *room);
            let published = self.record.acked.iter().filter(|(_, it)| Some(it.room) == number);
            // An acknowledgement whose answer was lost holds all the same.
            let unsure: BTreeSet<&String> = (consumers.said.values())
                .filter(|it| it.acks && it.group == group)
                .map(|it| &it.text)
                .collect();
            for (number, _) in published {
                let text = label(*number);
                let told = consumers.unsure.contains(&(group.clone(), text.clone()));
                if !acked.contains_key(&text) && !unsure.contains(&text) && !told {
                    return Err(format!("{text} was never settled by a consumer of {group:?}"));
                }
            }
        }
        Ok(())
    }

    /// Slow consumers take their time.
    fn await_done(&mut self, group: &RoomName) -> Result<(), String> {
        let end = self.now + PATIENCE;
        loop {
            let facts = self.ask_group(group)?;
            judge_prefetch(group, &facts)?;
            let open = facts.leased + facts.parked + facts.waiting;
            if facts.floor >= facts.top && open == 0 {
                return Ok(());
            }
            if self.now > end {
                return Err(format!("{group:?} is not done in the end: {facts:?}"));
            }
            self.pass_until(self.now + 1_000, |_| false)?;
            self.now += 1;
        }
    }

    fn ask_group(&mut self, group: &RoomName) -> Result<Facts, String> {
        let request = |to| Request::Group(GroupRequest::Facts.into(), to);
        match self.ask_once(group, request)? {
            Answer::Group(GroupAnswer::Facts(facts)) => Ok(*facts),
            other => Err(format!("{group:?} can't be asked in the end: {other:?}")),
        }
    }
}

/// No consumer has more than it may, nor have all together.
fn judge_prefetch(group: &RoomName, facts: &Facts) -> Result<(), String> {
    let most: u64 = facts.consumers.iter().map(|it| u64::from(it.prefetch)).sum();
    let one = facts.consumers.iter().find(|it| it.leased > it.prefetch);
    match one.is_some() || facts.leased > most {
        true => Err(format!("consumers of {group:?} have more than they may: {facts:?}")),
        false => Ok(()),
    }
}
