//! How a home gives a publication its place: unless it is the repeat of one that has its place already, or
//! comes too late by the application's own count.

use std::sync::Arc;

use super::{
    logged::Logged,
    messages::RoomMessage,
    node::Node,
    room::Room,
    stream::{Entry, ForwardId, Repeat},
    types::{Answer, Event, Failure, NewPublication, Position, Publication},
};
use crate::cluster::slots::Term;

/// Whether something that is to be kept was kept before.
pub(super) enum Repeated {
    /// It was not, and the stream is there.
    No(Position),
    /// It was, there; none: so long ago that its offset is forgotten. The stream is at the second of them.
    As(Option<Position>, Position),
    /// It can't be kept now.
    Failed(Failure),
}

impl Room {
    /// Whether something that is to be kept was kept before, by what identifies it.
    pub(super) fn repeated(&self, key: Option<&str>, forward: ForwardId) -> Repeated {
        let Some(stream) = self.stream() else { return Repeated::Failed(Failure::NoHistory) };
        let here = stream.position();
        if stream.logged.as_deref().is_some_and(|it: &Logged| it.is_stuck(&self.options)) {
            // It could not be kept, and would take memory until it can.
            return Repeated::Failed(Failure::Unavailable);
        }
        match stream.find(key, Some(forward)) {
            Repeat::At(offset) => Repeated::As(Some(Position { offset, ..here }), here),
            Repeat::Somewhere => Repeated::As(None, here),
            Repeat::No => Repeated::No(here),
        }
    }

    /// Gives a publication its place and sends it to all who listen. Returns the answer, and the offset that
    /// the successors must have before it is given.
    pub(super) fn place(
        &mut self,
        new: &NewPublication,
        forward: ForwardId,
        node: &mut Node,
    ) -> (Answer, u64) {
        let key = new.idempotency_key.as_deref();
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        if stream.is_none() {
            if !key.is_some_and(|key| self.is_known(key, node)) {
                self.pass_on(new.at(0), node);
            }
            return (Answer::Published(None), 0);
        }
        let here = match self.repeated(key, forward) {
            Repeated::Failed(failure) => return (Answer::Failed(failure), 0),
            Repeated::As(Some(position), _) => {
                return (Answer::Published(Some(position)), position.offset);
            }
            Repeated::As(None, _) => return (Answer::Published(None), 0),
            Repeated::No(here) => here,
        };
        if self.options.map.is_some() {
            // What has no key can be no entry.
            return (Answer::Failed(Failure::NoHistory), 0);
        }
        if self.is_full(node) {
            return (Answer::Failed(Failure::Overloaded), 0);
        }
        let Some(stream) = &mut self.stream else { return (Answer::Published(None), 0) };
        if new.skip_history {
            // It has no place of its own, so a repeat is answered with where the stream stood.
            stream.remember(key, Some(forward), here.offset, node.now);
            if key.is_some() {
                node.memory.keyed(&self.name, node.now);
            }
            let publication = Arc::new(new.at(0));
            let key = new.idempotency_key.clone();
            self.send_out(Entry { publication, forward: Some(forward), key, version: None }, node);
            return (Answer::Published(Some(here)), 0);
        }
        if new.version.as_ref().is_some_and(|version| stream.has_come_to(version)) {
            // Answered once what it came too late for can't be lost any more.
            return (Answer::Published(Some(here)), here.offset);
        }
        let offset = here.offset + 1;
        self.append(new, offset, forward, node);
        (Answer::Published(Some(Position { offset, ..here })), offset)
    }

    fn append(&mut self, new: &NewPublication, offset: u64, forward: ForwardId, node: &mut Node) {
        let entry = Entry {
            publication: Arc::new(new.at(offset)),
            forward: Some(forward),
            key: new.idempotency_key.clone(),
            version: new.version.clone(),
        };
        self.keep(entry, node);
    }

    /// Keeps an entry in its place, and sends it to all who listen.
    pub(super) fn keep(&mut self, entry: Entry, node: &mut Node) {
        let term = node.slots.term(self.slot);
        self.append_entry(&entry, term, node);
        if entry.key.is_some() {
            node.memory.keyed(&self.name, node.now);
        }
        self.log_entry(&entry, node);
        self.send_out(entry, node);
    }

    /// Appends an entry to this node's copy.
    pub(super) fn append_entry(&mut self, entry: &Entry, term: Term, node: &mut Node) {
        let Some(stream) = &mut self.stream else { return };
        let offset = entry.publication.offset;
        let mut change = stream.append(entry.clone(), term, &self.options, node.now);
        if let Some(needed) = self.options.needed_from(&entry.publication) {
            change -= stream.history.drop_through(needed.saturating_sub(1));
        }
        self.note_kept(offset, change, node);
    }

    /// The bytes kept have changed by so much, with the publication at `offset`.
    pub(super) fn note_kept(&self, offset: u64, change: isize, node: &mut Node) {
        // Neither a group nor a map can do without its changes.
        match self.options.is_made_of_changes() {
            true => node.memory.add(change),
            false => node.memory.kept(&self.name, offset, change),
        }
    }

    /// Delivers what is kept nowhere.
    fn pass_on(&mut self, publication: Publication, node: &mut Node) {
        let publication = Arc::new(publication);
        self.send_out(Entry { publication, ..Entry::default() }, node);
    }

    /// In a room without history: whether a publication came with this key before; from now on one has.
    fn is_known(&mut self, key: &str, node: &mut Node) -> bool {
        let keys = self.keys.get_or_insert_default();
        let known = keys.get(key).is_some();
        if !known {
            keys.remember(key, 0, node.now);
            node.memory.keyed(&self.name, node.now);
        }
        known
    }

    fn send_out(&mut self, entry: Entry, node: &mut Node) {
        let publication = entry.publication.clone();
        let stream = self.stream.as_deref();
        let epoch = stream.map(|stream| stream.position().epoch);
        // Members may have it once a majority has it.
        match publication.offset > 0 && stream.is_some_and(|it| it.committed().is_some()) {
            true => self.uncommitted.get_or_insert_default().push_back(publication),
            false => self.deliver_local(Event::Publication(publication), node),
        }
        let count = node.slots.term(self.slot).count;
        self.tell_listeners(RoomMessage::Deliver { count, epoch, entry }, |_| true, node);
    }

    /// The node remembers too many idempotency keys.
    pub(super) fn forget_oldest_key(&mut self) {
        if let Some(stream) = &mut self.stream {
            stream.forget_oldest_key();
        }
        if let Some(keys) = &mut self.keys {
            keys.forget_oldest();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::{
        cluster::{
            node::{NodeInfo, Phase},
            view::View,
        },
        room::{
            idempotency,
            node::Out,
            options::{Namespaces, RoomOptions},
            registry::{In, RoomSettings, State},
            types::{MemberFlags, ReplyTo, Request, SocketRef, Subscribe, Version},
        },
        runtime::time::Time,
    };

    /// Two nodes with a link between them.
    struct Pair {
        nodes: [(NodeInfo, State); 2],
        now: Time,
        /// What the members on the first node got.
        delivered: Vec<Arc<Publication>>,
    }

    impl Pair {
        fn new() -> Self {
            let keeps = RoomOptions {
                history_size: 10,
                history_ttl: Duration::from_secs(600),
                history_meta_ttl: Duration::from_secs(3_600),
                ..Default::default()
            };
            let named = BTreeMap::from([("log".into(), Arc::new(keeps))]);
            let namespaces = Arc::new(Namespaces { default: Arc::default(), named });
            let node = |name: &str, port| {
                let info = NodeInfo {
                    name: name.into(),
                    generation: 1,
                    mesh: ([127, 0, 0, 1], port).into(),
                    http: ([127, 0, 0, 1], port).into(),
                    phase: Phase::Ready,
                };
                let seed = u64::from(port);
                let state =
                    State::new(info.id(), namespaces.clone(), RoomSettings::default(), seed);
                (info, state)
            };
            let nodes = [node("a", 1), node("b", 2)];
            let mut pair = Self { nodes, now: Time::from_millis(100_000), delivered: Vec::new() };
            let infos = [0, 1].map(|index: usize| pair.nodes[index].0.clone());
            for (index, other) in [(0, 1), (1, 0)] {
                pair.input(index, In::View(View::new(infos.clone())));
                pair.input(index, In::LinkUp(infos[other].id()));
            }
            pair.pass(Duration::from_secs(3));
            pair
        }

        /// Does all that comes of an input; returns the answer to this node's call.
        fn input(&mut self, index: usize, input: In) -> Option<Answer> {
            let mut answered = None;
            let mut waiting = vec![(index, input)];
            while let Some((index, input)) = waiting.pop() {
                let from = self.nodes[index].0.id();
                for out in self.nodes[index].1.handle(input, self.now) {
                    match out {
                        Out::Send { message, .. } => {
                            waiting.insert(0, (1 - index, In::Peer(from, message)));
                        }
                        Out::Answer { answer, .. } => answered = Some(answer),
                        Out::Event { event: Event::Publication(it), .. } if index == 0 => {
                            self.delivered.push(it);
                        }
                        _ => {}
                    }
                }
            }
            answered
        }

        fn pass(&mut self, time: Duration) {
            for _ in 0..time.as_millis() / 500 {
                self.now = self.now + Duration::from_millis(500);
                self.input(0, In::Tick);
                self.input(1, In::Tick);
            }
        }

        fn subscribe(&mut self, room: &str) {
            let subscribe = Subscribe {
                socket: SocketRef { worker: 0, slot: 0, generation: 0 },
                id: 1,
                info: Arc::default(),
                flags: MemberFlags::default(),
                delivery: None,
                recover: None,
                must_recover: false,
            };
            self.input(0, In::Request(room.into(), Request::Subscribe(subscribe)));
        }

        fn publish(&mut self, index: usize, room: &str, new: NewPublication) -> Option<Answer> {
            self.input(index, In::Request(room.into(), Request::Publish(new, ReplyTo::Api(1))))
        }

        fn offset(&mut self, index: usize, room: &str, new: NewPublication) -> u64 {
            match self.publish(index, room, new) {
                Some(Answer::Published(Some(position))) => position.offset,
                other => panic!("{other:?}"),
            }
        }

        /// The second node leaves in good order, or dies.
        fn remove_second(&mut self, in_order: bool) {
            let (first, mut second) = (self.nodes[0].0.clone(), self.nodes[1].0.clone());
            let gone = second.id();
            if in_order {
                second.phase = Phase::Draining;
                let view = View::new([first.clone(), second]);
                self.input(0, In::View(view.clone()));
                self.input(1, In::View(view));
                self.pass(Duration::from_secs(2));
            }
            self.input(0, In::View(View::new([first])));
            self.input(0, In::LinkDown(gone));
            self.pass(Duration::from_secs(5));
        }
    }

    fn with_key(key: &str) -> NewPublication {
        NewPublication { idempotency_key: Some(key.into()), ..Default::default() }
    }

    fn with_version(number: u64) -> NewPublication {
        let version = Some(Version { number, epoch: "".into() });
        NewPublication { version, ..Default::default() }
    }

    #[test]
    fn a_key_is_known_through_any_node_also_where_nothing_is_kept() {
        for room in ["a", "b", "c", "d"] {
            let mut pair = Pair::new();
            pair.subscribe(room);
            for index in [1, 0, 1] {
                let answer = pair.publish(index, room, with_key("k"));
                assert_eq!(answer, Some(Answer::Published(None)));
            }
            assert_eq!(pair.delivered.len(), 1);
            pair.publish(0, room, with_key("other"));
            assert_eq!(pair.delivered.len(), 2);
            pair.pass(idempotency::WINDOW);
            pair.publish(0, room, with_key("k"));
            assert_eq!(pair.delivered.len(), 3, "as long ago as that it is forgotten");
        }
    }

    #[test]
    fn a_room_without_history_is_known_as_long_as_its_keys() {
        let mut pair = Pair::new();
        pair.publish(0, "a", with_key("k"));
        pair.pass(idempotency::WINDOW - Duration::from_secs(1));
        assert_eq!(pair.nodes[0].1.rooms() + pair.nodes[1].1.rooms(), 1);
        pair.pass(Duration::from_secs(2));
        assert_eq!(pair.nodes[0].1.rooms() + pair.nodes[1].1.rooms(), 0);
    }

    #[test]
    fn who_leaves_in_good_order_hands_over_the_keys() {
        for room in ["a", "b", "c", "d", "e", "f"] {
            let mut pair = Pair::new();
            pair.subscribe(room);
            pair.publish(0, room, with_key("k"));
            pair.remove_second(true);
            pair.publish(0, room, with_key("k"));
            assert_eq!(pair.delivered.len(), 1, "{room}");
        }
    }

    #[test]
    fn what_is_not_newer_by_its_version_is_answered_with_where_the_stream_stands() {
        for in_order in [true, false] {
            for room in ["log:a", "log:b", "log:c", "log:d"] {
                let mut pair = Pair::new();
                pair.subscribe(room);
                assert_eq!(pair.offset(0, room, with_version(5)), 1);
                assert_eq!(pair.offset(1, room, with_version(5)), 1);
                assert_eq!(pair.offset(1, room, NewPublication::default()), 2);
                assert_eq!(pair.offset(0, room, with_version(4)), 2);
                pair.remove_second(in_order);
                assert_eq!(pair.offset(0, room, with_version(5)), 2, "{room} {in_order}");
                assert_eq!(pair.offset(0, room, with_version(6)), 3);
                let offsets: Vec<u64> = pair.delivered.iter().map(|it| it.offset).collect();
                assert_eq!(offsets, [1, 2, 3], "{room} {in_order}");
            }
        }
    }

    #[test]
    fn where_nothing_is_kept_versions_are_not_compared() {
        let mut pair = Pair::new();
        pair.subscribe("a");
        pair.publish(0, "a", with_version(2));
        pair.publish(0, "a", with_version(1));
        assert_eq!(pair.delivered.len(), 2);
    }
}
