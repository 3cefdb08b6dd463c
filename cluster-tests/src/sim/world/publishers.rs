//! Publishers: what they publish, through which node, and what they are told.

use bytes::Bytes;
use roomcast::room::{
    registry::In,
    types::{Answer, NewPublication, Position, ReplyTo, Request},
};

use super::{
    Happening, World,
    judge::JUDGEMENT,
    record::{Acked, Try},
};

/// How often a publisher tries again.
const RETRIES: u8 = 5;
/// With more rooms than this a story does not tell of every publication.
const MANY: usize = 1_000;

/// What a publication says: its number, and what makes it as large as it is to be.
fn content(number: u64, size: usize) -> Bytes {
    let mut content = format!("message {number}|").into_bytes();
    content.resize(size.max(content.len()), b'x');
    content.into()
}

/// What a publication says, without what makes it large.
pub(super) fn label(number: u64) -> String {
    format!("message {number}")
}

/// Where a publication is, in words.
fn at(position: Option<Position>) -> String {
    position.map_or("nowhere".to_owned(), |it| format!("at {}/{}", it.epoch, it.offset))
}

impl World {
    /// A publication to any room through any node.
    pub(super) fn publish(&mut self) -> Result<(), String> {
        let room = self.any_room();
        self.publish_to(room, 0)
    }

    pub(super) fn publish_to(&mut self, room: usize, size: usize) -> Result<(), String> {
        let Some(node) = self.any_serving() else { return Ok(()) };
        let number = self.record.ask(room, size);
        self.try_on(node, number)
    }

    pub(super) fn publish_through(&mut self, node: usize, generation: u64) -> Result<(), String> {
        if !self.runs(node, generation) || !self.nodes[node].serves() {
            return Ok(());
        }
        let room = self.any_room();
        let number = self.record.ask(room, 0);
        self.try_on(node, number)
    }

    pub(super) fn try_to_publish(&mut self, number: u64, tries: u8) -> Result<(), String> {
        let Some(node) = self.any_serving() else { return Ok(()) };
        if let Some(asked) = self.record.asked.get_mut(&number) {
            asked.tries = tries;
        }
        self.try_on(node, number)
    }

    /// Every other publisher tries again when it is told that it failed; not so many where rooms are to go out of memory,
    /// since a room whose keys are remembered stays.
    pub(super) fn has_key(&self, number: u64) -> bool {
        number.is_multiple_of(if self.plan.idle { 16 } else { 2 })
    }

    fn try_on(&mut self, node: usize, number: u64) -> Result<(), String> {
        let Some(asked) = self.record.asked.get_mut(&number) else { return Ok(()) };
        asked.through = Some(node);
        let asked = *asked;
        self.record.tries.push(Try { number, room: asked.room, node, at: self.now });
        let publication = NewPublication {
            data: content(number, asked.size),
            idempotency_key: self.has_key(number).then(|| format!("key {number}").into()),
            tags: self.tags_of(number),
            ..NewPublication::default()
        };
        let request = Request::Publish(publication, ReplyTo::Api(number));
        let (room, name) = (self.rooms[asked.room].clone(), self.nodes[node].name.clone());
        if self.rooms.len() < MANY {
            self.tell(|| format!("message {number} to {room} through {name}"));
        }
        self.input(node, In::Request(room, request))
    }

    pub(super) fn answered(&mut self, node: usize, number: u64, answer: Answer) {
        if number >= JUDGEMENT {
            self.record.answers.insert(number, answer);
            return;
        }
        let Some(asked) = self.record.asked.get_mut(&number) else { return };
        asked.through = None;
        let asked = *asked;
        if let Answer::Published(position) = answer {
            if self.rooms.len() < MANY {
                let (room, name) = (&self.rooms[asked.room], &self.nodes[node].name);
                let line = format!(
                    "message {number} to {room} is acknowledged by {name}, {}",
                    at(position)
                );
                self.tell(|| line);
            }
            let acked = Acked { room: asked.room, position, at: self.now, node };
            self.record.acked.insert(number, acked);
        } else {
            self.tell(|| format!("message {number} is refused: {answer:?}"));
            self.try_again(number, asked.tries);
        }
    }

    fn try_again(&mut self, number: u64, tries: u8) {
        if self.has_key(number) && tries < RETRIES {
            let delay = self.rng.u64(1..300);
            self.later(delay, Happening::Retry(number, tries + 1));
        }
    }

    /// Those who wait for an answer of a node that has ended don't know what became of their publications.
    pub(super) fn give_up_on(&mut self, node: usize) {
        let waiting = self.record.asked.iter_mut().filter(|(_, it)| it.through == Some(node));
        let waiting = waiting.map(|(number, asked)| {
            asked.through = None;
            (*number, asked.tries)
        });
        for (number, tries) in waiting.collect::<Vec<_>>() {
            self.try_again(number, tries);
        }
    }
}
