//! Copies on their way from one node to another, in pages.
//!
//! Out: [`Outgoing`] is what one room sends one peer: its copy, to a mirror that attaches or to an owner that
//! fetches it, or its clients, to the home. It is cut into [`Page`]s that go as the link has room for them:
//! [`Flow`] counts what is under way. In: [`Incoming`] is the copy that pages are put together to.
//!
//! What happens while a copy is under way is kept, and follows it.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::{
    logged::Logged,
    messages::{Begin, End, Item, Page, RoomMessage},
    options::RoomOptions,
    stream::Stream,
    types::{Answer, ClientId, ClientInfo, GroupAnswer, RoomName},
};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// The most that may happen in a room while its copy is under way; beyond that it is begun again.
const MAX_AFTER: usize = 4_096;

/// The pages under way to one peer.
#[derive(Debug, Default)]
pub struct Flow {
    /// Bytes that the peer has not dealt with yet, as far as this node knows.
    under_way: usize,
    /// Who has pages for the peer, in turn.
    ready: VecDeque<Source>,
    queued: BTreeSet<Source>,
    /// Large answers that wait for the link to have room, each with its weight.
    answers: VecDeque<(RoomName, RoomMessage, usize)>,
    /// Bytes of the peer's pages that were dealt with here and not yet credited to it.
    dealt_with: usize,
}

/// Who has pages to send.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The answer to a claim of this number.
    Inventory(u64),
    /// A room.
    Room(RoomName),
    /// The answer to a survey of this number.
    Search(u64),
}

impl Flow {
    /// `source` has pages.
    pub fn ready(&mut self, source: Source) {
        if self.queued.insert(source.clone()) {
            self.ready.push_back(source);
        }
    }

    /// `source` has pages that someone waits for.
    pub fn urgent(&mut self, source: Source) {
        if self.queued.insert(source.clone()) {
            self.ready.push_front(source);
        }
    }

    /// Whose turn it is, if the link has room for a page.
    pub fn next(&mut self, window: usize) -> Option<Source> {
        if self.under_way >= window {
            return None;
        }
        let source = self.ready.pop_front()?;
        self.queued.remove(&source);
        Some(source)
    }

    /// Whether a page can go.
    pub fn is_ready(&self, window: usize) -> bool {
        self.under_way < window && !self.is_idle()
    }

    /// Whether nobody has pages.
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.answers.is_empty()
    }

    /// Whether a large answer has to wait: for the link to have room, or for earlier ones.
    pub fn is_busy(&self, window: usize) -> bool {
        self.under_way >= window || !self.answers.is_empty()
    }

    /// A large answer waits.
    pub fn wait(&mut self, room: &RoomName, answer: RoomMessage, weight: usize) {
        self.answers.push_back((room.clone(), answer, weight));
    }

    /// The next answer that has waited, if the link has room for it.
    pub fn next_answer(&mut self, window: usize) -> Option<(RoomName, RoomMessage)> {
        if self.under_way >= window {
            return None;
        }
        let (room, answer, weight) = self.answers.pop_front()?;
        self.sent(weight);
        Some((room, answer))
    }

    /// A page or a large answer of so many bytes is sent.
    pub fn sent(&mut self, bytes: usize) {
        self.under_way += bytes;
    }

    /// The peer has dealt with so many bytes.
    pub fn credit(&mut self, bytes: usize) {
        self.under_way = self.under_way.saturating_sub(bytes);
    }

    /// A page of the peer's is dealt with here. Returns how many bytes to tell it, once that is worth it.
    pub fn received(&mut self, bytes: usize, window: usize) -> Option<u32> {
        self.dealt_with += bytes;
        (self.dealt_with >= window / 16).then(|| std::mem::take(&mut self.dealt_with) as u32)
    }
}

/// What a page counts, on both sides: its content, and what is around it.
pub fn weight(items: &[Item]) -> usize {
    200 + items.iter().map(Item::weight).sum::<usize>()
}

/// The same of a page of clients.
pub fn weight_of_clients(clients: &[Arc<ClientInfo>]) -> usize {
    200 + clients.iter().map(|it| it.weight() + 40).sum::<usize>()
}

/// Answers that weigh less than this are not counted.
const SMALL: usize = 4_096;

/// A large answer in parts of at most `most` bytes each, unless a single item is larger; at least one part.
pub fn parts(answer: Answer, most: usize) -> Vec<Answer> {
    match answer {
        Answer::History(page, position) => {
            let parts = divided(page, most, |it| it.weight());
            parts.into_iter().map(|part| Answer::History(part, position)).collect()
        }
        Answer::Presence(clients) => {
            let parts = divided(clients, most, |it| it.weight() + 40);
            parts.into_iter().map(Answer::Presence).collect()
        }
        answer => vec![answer],
    }
}

fn divided<T>(all: Vec<T>, most: usize, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut parts, mut part, mut bytes) = (Vec::new(), Vec::new(), 0);
    for it in all {
        let more = weight(&it);
        if bytes + more > most && !part.is_empty() {
            parts.push(std::mem::take(&mut part));
            bytes = 0;
        }
        bytes += more;
        part.push(it);
    }
    parts.push(part);
    parts
}

/// What an answer counts, on both sides; none if it is small.
pub fn weight_of_answer(answer: &Answer) -> Option<usize> {
    let weight = match answer {
        Answer::History(page, _) => page.iter().map(|it| it.weight()).sum(),
        Answer::Presence(clients) => weight_of_clients(clients),
        Answer::Group(GroupAnswer::Pulled(messages)) => messages.iter().map(|it| it.weight()).sum(),
        _ => 0,
    };
    (weight >= SMALL).then_some(weight)
}

/// What one room sends to one peer in pages.
#[derive(Debug)]
pub struct Outgoing {
    /// The peer.
    pub to: NodeId,
    /// The link that it goes on.
    pub link: u64,
    /// The number of the attach or the fetch.
    pub id: u64,
    /// What is sent.
    pub what: What,
    /// What the log has of it was read once, and what is damaged repaired.
    pub checked: bool,
}

impl Outgoing {
    /// What is to be sent.
    pub fn new(to: NodeId, link: u64, id: u64, what: What) -> Self {
        Self { to, link, id, what, checked: false }
    }

    /// Whether it waits for the log.
    pub fn is_reading(&self) -> bool {
        matches!(&self.what, What::Copy(copy) if copy.is_reading())
    }

    /// When the log is to be asked again, if it could not read.
    pub fn again_at(&self) -> Option<Time> {
        match &self.what {
            What::Copy(copy) => copy.again_at(),
            _ => None,
        }
    }
}

/// What is sent in pages.
#[derive(Debug)]
pub enum What {
    /// A copy, to a listener of this home. None of it was sent yet.
    Listener,
    /// A copy, to an owner that has asked for it. None of it was sent yet.
    Fetched,
    /// A copy of which some was sent.
    Copy(Box<CopyUnderWay>),
    /// This node's clients, to the home.
    Clients(std::vec::IntoIter<ClientId>),
}

/// A copy of which some was sent.
#[derive(Debug)]
pub struct CopyUnderWay {
    begin: Option<Begin>,
    /// The offset of the publication that comes next.
    cursor: u64,
    /// The last one that belongs to it.
    until: u64,
    repeats: VecDeque<(u64, Item)>,
    rest: VecDeque<Item>,
    end: Option<End>,
    /// It is for a listener, which gets what has happened since.
    followed: bool,
    /// What memory has not comes from the log.
    logged: bool,
    /// Before any of it is sent, the log is read from this offset on, to have repaired what is damaged: its receiver may be
    /// the one who has that, until this copy takes the place of its own.
    check: Option<u64>,
    /// The number under which the log is reading for it.
    reading: Option<u64>,
    /// The log could not read, and is asked again then.
    again_at: Option<Time>,
    /// That.
    after: Vec<RoomMessage>,
}

impl CopyUnderWay {
    /// A copy that begins with `begin`: publications after `from`, `repeats` after those that they belong to, and
    /// then `rest`.
    pub fn new(
        begin: Begin,
        stream: Option<&Stream>,
        from: u64,
        repeats: Vec<(u64, Item)>,
        rest: Vec<Item>,
        end: End,
    ) -> Self {
        let until = stream.map_or(0, |stream| stream.history.top());
        Self {
            begin: Some(begin),
            cursor: from + 1,
            until,
            repeats: repeats.into(),
            rest: rest.into(),
            end: Some(end),
            followed: false,
            logged: false,
            check: None,
            reading: None,
            again_at: None,
            after: Vec::new(),
        }
    }

    /// The same, with what the log has, or not.
    pub fn logged(self, logged: bool) -> Self {
        Self { logged, ..self }
    }

    /// The same; if it is to take the place of what its receiver has, what the log has of it is read first.
    pub fn checked_first(mut self, stream: Option<&Stream>) -> Self {
        let is_afresh = matches!(self.begin, Some(Begin::Afresh { .. }));
        let first = self.to_read(stream).filter(|_| is_afresh).map(|(first, _)| first);
        self.check = first;
        self
    }

    /// Whether the log is read to see what is damaged, and none of it was sent.
    pub fn is_checking(&self) -> bool {
        self.check.is_some()
    }

    /// The log was read up to before `next`, to see what is damaged. Returns whether there is more to be read; if that was
    /// all in one page, it may as well be sent.
    pub fn has_checked(&mut self, next: u64, stream: Option<&Stream>) -> bool {
        if self.check == Some(self.cursor) && next > self.last_to_read(stream) {
            self.check = None;
            return false;
        }
        self.check = Some(next);
        true
    }

    fn last_to_read(&self, stream: Option<&Stream>) -> u64 {
        let in_memory = stream.map_or(0, |it| it.history.first());
        self.until.min(in_memory.saturating_sub(1))
    }

    /// The first and the last offset that the log has to read next, if it is its turn.
    pub fn to_read(&self, stream: Option<&Stream>) -> Option<(u64, u64)> {
        let (first, last) = (self.check.unwrap_or(self.cursor), self.last_to_read(stream));
        (self.logged && first <= last).then_some((first, last))
    }

    /// Whether the log is reading for it, or is to be asked again later.
    pub fn is_reading(&self) -> bool {
        self.reading.is_some() || self.again_at.is_some()
    }

    /// When the log is to be asked again, if it could not read.
    pub fn again_at(&self) -> Option<Time> {
        self.again_at
    }

    /// The log could not read: it is asked again then; none: now.
    pub fn read_again(&mut self, at: Option<Time>) {
        self.again_at = at;
    }

    /// The log reads for it under this number.
    pub fn reads(&mut self, id: u64) {
        self.reading = Some(id);
    }

    /// Whether the log was reading for it under this number: it is done.
    pub fn has_read(&mut self, id: u64) -> bool {
        self.reading.take_if(|it| *it == id).is_some()
    }

    /// The page with what the log has read; `next` is the offset that comes after it.
    pub fn page_of(&mut self, id: u64, items: Vec<Item>, next: u64) -> Page {
        self.cursor = self.cursor.max(next);
        Page { id, begin: self.begin.take(), items, end: None }
    }

    /// The same, for a listener or not.
    pub fn followed(self, followed: bool) -> Self {
        Self { followed, ..self }
    }

    /// Whether it is for a listener.
    pub fn is_followed(&self) -> bool {
        self.followed
    }

    /// Something happens in the room. Returns whether the copy goes on: else too much has happened.
    pub fn follow(&mut self, message: &RoomMessage) -> bool {
        if self.check.is_some_and(|it| it > self.cursor) {
            // There is more than a page: all of it begins anew, with this in it.
            return true;
        }
        self.after.push(message.clone());
        self.after.len() <= MAX_AFTER
    }

    /// The next page, of about `most` bytes.
    pub fn page(&mut self, id: u64, stream: Option<&Stream>, now: Time, most: usize) -> Page {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let begin = self.begin.take();
        let add = |item: Item, bytes: &mut usize, items: &mut Vec<Item>| {
            *bytes += item.weight();
            items.push(item);
        };
        loop {
            while let Some((of, _)) = self.repeats.front()
                && *of < self.cursor
                && (bytes < most || *of + 1 == self.cursor)
            {
                let Some((_, item)) = self.repeats.pop_front() else { break };
                add(item, &mut bytes, &mut items);
            }
            let Some(stream) = stream.filter(|_| self.cursor <= self.until) else { break };
            // What was dropped meanwhile is not sent any more.
            self.cursor = self.cursor.max(stream.history.first());
            let Some((age, publication)) = stream.history.get(self.cursor, now) else {
                self.cursor = self.until + 1;
                continue;
            };
            let item = Item::Publication(age, publication);
            if bytes > 0 && bytes + item.weight() > most || bytes >= most {
                return Page { id, begin, items, end: None };
            }
            add(item, &mut bytes, &mut items);
            self.cursor += 1;
        }
        while let Some(item) = self.rest.front() {
            if bytes > 0 && bytes + item.weight() > most {
                return Page { id, begin, items, end: None };
            }
            bytes += item.weight();
            items.extend(self.rest.pop_front());
        }
        if !self.repeats.is_empty() && bytes >= most {
            return Page { id, begin, items, end: None };
        }
        items.extend(self.repeats.drain(..).map(|(_, item)| item));
        Page { id, begin, items, end: self.end.take() }
    }

    /// Whether the last page was made.
    pub fn is_over(&self) -> bool {
        self.end.is_none()
    }

    /// What has happened since it began.
    pub fn into_after(self) -> Vec<RoomMessage> {
        self.after
    }
}

/// A copy that pages are put together to.
#[derive(Debug, Default)]
pub struct Incoming {
    /// None: it goes on from what is here, or there is none.
    pub stream: Option<Stream>,
    /// What has no place in a stream, and the clients.
    pub others: Vec<Item>,
    /// It goes on from what is here.
    pub follows: bool,
    /// Quorum: up to where a majority has it.
    pub committed: Option<u64>,
    /// How much of it is on this node's disk, if it goes there and begins afresh.
    pub logged: Option<Box<Logged>>,
}

impl Incoming {
    /// The first page has come.
    pub fn begin(begin: Begin) -> Self {
        let (stream, follows) = match begin {
            Begin::Nothing => (None, false),
            Begin::Follow { .. } | Begin::Rejoin { .. } => (None, true),
            Begin::Afresh { line, standing, first } => {
                (Some(Stream::copy(line, &standing, first)), false)
            }
        };
        Self { stream, others: Vec::new(), follows, committed: None, logged: None }
    }

    /// A part of it has come.
    pub fn take(&mut self, items: Vec<Item>, options: &RoomOptions, now: Time) {
        for item in items {
            match (&mut self.stream, item) {
                (Some(stream), item) if !matches!(item, Item::Client(..)) => {
                    stream.take(item, options, now);
                }
                (_, item) => self.others.push(item),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::types::{Epoch, Position, Publication};

    #[test]
    fn a_large_answer_is_divided_and_put_together_again() {
        let position = Position { epoch: Epoch(1), offset: 9 };
        let publication = |offset| {
            let data = vec![b'x'; if offset == 5 { 5_000 } else { 1_000 }].into();
            Arc::new(Publication { offset, data, ..Publication::default() })
        };
        let page: Vec<_> = (1..=9).map(publication).collect();
        let whole = Answer::History(page, position);
        let divided = parts(whole.clone(), 2_500);
        let sizes = divided.iter().map(|part| match part {
            Answer::History(page, _) => page.len(),
            _ => 0,
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [2, 2, 1, 2, 2], "one alone may be larger");
        let together = divided.into_iter().reduce(Answer::followed_by);
        assert_eq!(together, Some(whole));
        assert_eq!(parts(Answer::Presence(Vec::new()), 1), [Answer::Presence(Vec::new())]);
    }
}
