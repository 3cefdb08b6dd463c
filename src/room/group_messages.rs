//! The messages that a group shares, as its home has them: in memory, or read from the log.
//!
//! In: the room, what the log has read, time. Out: how each message is to be dealt with, and where a group begins that is
//! told so by a place or by an age. What is older than what memory has is looked for in the log, one message at a time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    room::Room,
    stream::Stream,
    types::{Epoch, Publication},
};
use crate::{
    cluster::node::stable_hash,
    queue::{
        group::{Look, Source},
        options::Start,
        since::SinceSearch,
        tag,
    },
    runtime::time::Time,
};

/// Messages that memory did not have, as the log has read them, each with when it was published.
pub(super) type Read = BTreeMap<u64, (Time, Arc<Publication>)>;

/// The messages that a group shares.
pub(super) struct Messages<'a> {
    pub(super) room: &'a Room,
    pub(super) stream: &'a Stream,
    /// What was read of them from the log.
    pub(super) read: &'a Read,
    pub(super) unreadable: Option<u64>,
    pub(super) top: u64,
    pub(super) now: Time,
}

impl Messages<'_> {
    pub(super) fn get(&self, offset: u64) -> Option<(Duration, Arc<Publication>)> {
        self.stream.history.get(offset, self.now).or_else(|| {
            let (at, publication) = self.read.get(&offset)?;
            Some((self.now.since(*at), publication.clone()))
        })
    }

    /// The epoch that a group notes which has taken the messages up to here: that of the newest which was acknowledged.
    /// Another home may not know of a later one, in which none was.
    pub(super) fn known_epoch(&self, taken: u64) -> u64 {
        self.stream.epoch_at(self.top.max(taken).min(self.stream.history.top())).0
    }

    /// The first that is kept, in memory or on disk.
    pub(super) fn first(&self) -> u64 {
        let (first, top) = (self.stream.history.first(), self.stream.history.top());
        let logged = self.stream.logged.as_deref();
        logged.map_or(first, |it| it.first(top, &self.room.options).min(first))
    }

    /// Everything up to here is settled of a group whose first message is to be this one.
    fn before(&self, offset: u64) -> u64 {
        let before = self.first().saturating_sub(1);
        offset.saturating_sub(1).clamp(before.min(self.top), self.top)
    }

    /// Up to where everything is settled of a group that starts there; or what has to be looked for first.
    pub(super) fn floor(&self, start: Start) -> Result<u64, PlaceSearch> {
        match start {
            Start::First => Ok(self.first().saturating_sub(1)),
            Start::Last => Ok(self.top),
            Start::After(offset) => Ok(self.before(offset.saturating_add(1))),
            Start::Since(age) => {
                let search = self.search(age);
                self.found(&search).ok_or(search)
            }
        }
    }

    /// A search for the first that is not older than this.
    fn search(&self, age: Duration) -> PlaceSearch {
        let (since, history) = (self.now.ago(age), &self.stream.history);
        let place = history.first_since(since);
        // Unless one in memory is older, so may those be that only the log has, or not.
        let low = if place > history.first() { place } else { self.first() };
        let epoch = self.stream.position().epoch;
        PlaceSearch { age, epoch, places: SinceSearch::new(since, low, place) }
    }

    /// Up to where everything is settled, if the place is found.
    fn found(&self, search: &PlaceSearch) -> Option<u64> {
        let PlaceSearch { places, .. } = search;
        places.wants().is_none().then(|| self.before(places.place()))
    }

    /// The same of a search that goes on; or that which is to go on, which is a new one if the messages are others now.
    pub(super) fn go_on(&self, search: PlaceSearch) -> Result<u64, PlaceSearch> {
        if search.epoch != self.stream.position().epoch {
            return self.floor(Start::Since(search.age));
        }
        self.found(&search).ok_or(search)
    }
}

/// A search in the log for the first message that is not older than some time.
#[derive(Debug, Clone)]
pub(super) struct PlaceSearch {
    /// How old it may be, from when the search began.
    pub(super) age: Duration,
    /// Of which messages.
    epoch: Epoch,
    places: SinceSearch,
}

impl PlaceSearch {
    /// The message to be read next.
    pub(super) fn wants(&self) -> Option<u64> {
        self.places.wants()
    }

    /// What the log has read from there on.
    pub(super) fn has_read(&mut self, read: &[(Time, Arc<Publication>)]) {
        match (read.first(), self.wants()) {
            (Some((at, it)), Some(wanted)) if it.offset >= wanted => {
                self.places.found(it.offset, *at);
            }
            _ => self.places.unreadable(),
        }
    }
}

/// A number of milliseconds in a tag.
fn millis(publication: &Publication, tag: &str) -> Option<Duration> {
    publication.tags.get(tag)?.parse().ok().map(Duration::from_millis)
}

impl Source for Messages<'_> {
    fn top(&self) -> u64 {
        self.top
    }

    fn look(&self, offset: u64) -> Look {
        let Some((age, publication)) = self.get(offset) else {
            let readable = offset >= self.first() && self.unreadable != Some(offset);
            return if readable { Look::Absent } else { Look::Gone };
        };
        let wait = millis(&publication, tag::DELAY).unwrap_or_default();
        let over = millis(&publication, tag::TTL).is_some_and(|ttl| age >= ttl);
        let key = self.room.options.queue_key().and_then(|it| publication.tags.get(it));
        let key = key.map_or(0, |value| stable_hash(&[value.as_bytes()]).max(1));
        Look::Here { wait: wait.saturating_sub(age), over, key }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::{
        cluster::{
            node::{NodeInfo, Phase},
            view::View,
        },
        queue::{name, options::QueueOptions},
        room::{
            logged::{LogChange, LogPage, LogReply, LogRequest},
            options::{LogKind, Namespaces, RoomOptions},
            registry::{In, Out, RoomSettings, State},
            stream::Entry,
            types::{
                Answer, Failure, GroupAnswer, GroupRequest, NewPublication, ReplyTo, Request,
                RoomName,
            },
        },
    };

    /// Publications of a room that are in memory.
    const RING: usize = 5;
    /// Publications that there are, and the time between two.
    const ALL: u64 = 40;
    const PACE: u64 = 100;
    const BEGIN: u64 = 1_000_000;

    /// A node with rooms on disk, and what its log has.
    struct OnDisk {
        state: State,
        log: BTreeMap<RoomName, BTreeMap<u64, (Time, Entry)>>,
        /// Whether the log can't read now.
        fails: bool,
        /// Publications that it can't read any more.
        damaged: std::ops::Range<u64>,
        /// What is not answered yet, while reads take their time, and what groups write.
        slow: Option<VecDeque<In>>,
        answers: Vec<Answer>,
        reads: usize,
        now: u64,
    }

    impl OnDisk {
        fn new(start: Start) -> Self {
            let keeps = RoomOptions {
                log: LogKind::Disk,
                ring_limit: RING,
                history_size: 1_000,
                history_ttl: Duration::from_secs(3_600),
                history_meta_ttl: Duration::from_secs(3_600),
                ..Default::default()
            };
            let groups = vec!["*".to_owned()];
            let keeps = keeps.with_queue(QueueOptions { groups, start, ..QueueOptions::default() });
            let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
            let me = NodeInfo {
                name: "a".into(),
                generation: 1,
                mesh: ([127, 0, 0, 1], 1).into(),
                http: ([127, 0, 0, 1], 1).into(),
                phase: Phase::Ready,
            };
            let settings = RoomSettings::default();
            let mut node = Self {
                state: State::new(me.id(), Arc::new(namespaces), settings, 1),
                log: BTreeMap::new(),
                fails: false,
                damaged: 0..0,
                slow: None,
                answers: Vec::new(),
                reads: 0,
                now: BEGIN,
            };
            node.input(In::View(View::new([me])));
            for number in 1..=ALL {
                let data = number.to_string().into_bytes().into();
                let publication = NewPublication { data, ..NewPublication::default() };
                node.ask("jobs", Request::Publish(publication, ReplyTo::Api(number)));
                node.now += PACE;
            }
            node.answers.clear();
            node
        }

        fn input(&mut self, input: In) {
            let mut inputs = VecDeque::from([input]);
            while let Some(input) = inputs.pop_front() {
                for out in self.state.handle(input, Time::from_millis(self.now)) {
                    match out {
                        Out::Answer { answer, .. } => self.answers.push(answer),
                        Out::Log { room, request } => {
                            let reads = matches!(request, LogRequest::Read(..));
                            let waits = reads || name::group(&room).is_some();
                            let reply = In::Log(room.clone(), self.logs(&room, request));
                            match &mut self.slow {
                                Some(slow) if waits => slow.push_back(reply),
                                _ => inputs.push_back(reply),
                            }
                        }
                        _ => {}
                    }
                }
            }
        }

        fn logs(&mut self, room: &RoomName, request: LogRequest) -> LogReply {
            let kept = self.log.entry(room.clone()).or_default();
            match request {
                LogRequest::Write(id, changes) => {
                    for change in changes {
                        if let LogChange::Append(at, entry) = change {
                            kept.insert(entry.publication.offset, (at, entry));
                        }
                    }
                    LogReply::Written(id)
                }
                LogRequest::Read(id, _) if self.fails => LogReply::Read(id, None),
                LogRequest::Read(id, query) => {
                    self.reads += 1;
                    let from = query.since.unwrap_or(0) + 1;
                    let all = kept.range(from..).take(query.count);
                    let good = all.take_while(|(offset, _)| !self.damaged.contains(offset));
                    let entries: Vec<_> = good.map(|(_, it)| it.clone()).collect();
                    let end = from + entries.len() as u64;
                    let damaged = self.damaged.contains(&end).then_some(end);
                    LogReply::Read(id, Some(LogPage { entries, first: 1, damaged }))
                }
            }
        }

        fn ask(&mut self, room: &str, request: Request) {
            self.input(In::Request(room.into(), request));
        }

        fn ask_group(&mut self, group: &str, request: GroupRequest) {
            let room = name::of_group("jobs", group);
            self.ask(&room, Request::Group(request.into(), ReplyTo::Api(1)));
        }

        fn pull(&mut self, group: &str) {
            let wait = Duration::from_secs(2);
            let pull = GroupRequest::Pull { most: 100, wait, by: None, bytes: 1 << 20 };
            self.ask_group(group, pull);
        }

        /// What was pulled, or else how someone was answered.
        fn pulled(&mut self) -> Result<Vec<u64>, Vec<Answer>> {
            let answers = std::mem::take(&mut self.answers);
            let number = |it: &Arc<Publication>| std::str::from_utf8(&it.data).ok()?.parse().ok();
            let pulled = answers.iter().find_map(|it| match it {
                Answer::Group(GroupAnswer::Pulled(all)) => {
                    Some(all.iter().filter_map(number).collect())
                }
                _ => None,
            });
            pulled.ok_or(answers)
        }

        fn pass(&mut self, millis: u64) {
            self.now += millis;
            self.input(In::Tick);
        }

        /// The log answers what it was asked, and all that it is asked then.
        fn catch_up(&mut self) {
            let slow = self.slow.take().unwrap_or_default();
            slow.into_iter().for_each(|it| self.input(it));
        }
    }

    /// An age that the message of this number has, and none before it.
    fn age_of(number: u64, now: u64) -> Start {
        Start::Since(Duration::from_millis(now - (BEGIN + (number - 1) * PACE)))
    }

    const DONE: Answer = Answer::Group(GroupAnswer::Done);

    #[test]
    fn a_group_that_goes_back_by_age_finds_in_the_log_what_memory_has_not() {
        let mut node = OnDisk::new(Start::First);
        for number in (1..=ALL).rev() {
            node.ask_group("one", GroupRequest::Seek(age_of(number, node.now)));
            assert_eq!(std::mem::take(&mut node.answers), [DONE], "{number}");
            node.pull("one");
            let pulled = node.pulled().expect("there are some");
            assert_eq!(pulled.first(), Some(&number));
        }
        // No more than it takes, and nothing where memory knows.
        node.reads = 0;
        node.ask_group("one", GroupRequest::Seek(age_of(7, node.now)));
        assert!((1..=7).contains(&node.reads), "{}", node.reads);
        node.reads = 0;
        node.ask_group("one", GroupRequest::Seek(age_of(ALL - 1, node.now)));
        assert_eq!(node.reads, 0);
        for (age, first) in [(Duration::from_secs(3_600), 1), (Duration::ZERO, ALL + 1)] {
            node.ask_group("one", GroupRequest::Seek(Start::Since(age)));
            node.answers.clear();
            node.ask_group("one", GroupRequest::Facts);
            let Some(Answer::Group(GroupAnswer::Facts(facts))) = node.answers.pop() else {
                panic!("no facts");
            };
            assert_eq!(facts.floor + 1, first, "{age:?}");
        }
    }

    #[test]
    fn a_new_group_begins_with_what_is_not_older_than_it_is_told() {
        for number in [1, 13, 34, 37] {
            let start = age_of(number, BEGIN + ALL * PACE);
            let mut node = OnDisk::new(start);
            node.pull("new");
            assert_eq!(node.pulled().expect("some").first(), Some(&number));
        }
    }

    #[test]
    fn nothing_is_given_before_it_is_known_where_a_group_goes_on() {
        let mut node = OnDisk::new(Start::First);
        node.pull("one");
        assert_eq!(node.pulled().map(|it| it.len()), Ok(ALL as usize));
        node.slow = Some(VecDeque::new());
        node.ask_group("one", GroupRequest::Seek(age_of(20, node.now)));
        node.pull("one");
        node.pass(100);
        assert_eq!(node.answers, []);
        node.catch_up();
        assert!(node.answers.contains(&DONE));
        assert_eq!(node.pulled().expect("some").first(), Some(&20));
        // Nor is one that begins there given anything else.
        let mut node = OnDisk::new(age_of(20, BEGIN + ALL * PACE));
        node.slow = Some(VecDeque::new());
        node.pull("new");
        assert_eq!(node.answers, []);
        node.catch_up();
        assert_eq!(node.pulled().expect("some").first(), Some(&20));
    }

    #[test]
    fn a_group_gives_nothing_before_it_is_kept_that_it_has_begun() {
        let mut node = OnDisk::new(Start::First);
        node.slow = Some(VecDeque::new());
        node.pull("new");
        node.ask_group("new", GroupRequest::Facts);
        node.pass(100);
        assert_eq!(node.answers, []);
        node.catch_up();
        assert_eq!(node.pulled().map(|it| it.len()), Ok(ALL as usize));
        // Without an answer they are told to ask again.
        node.slow = Some(VecDeque::new());
        node.pull("other");
        (0..60).for_each(|_| node.pass(100));
        assert_eq!(node.answers, [Answer::Failed(Failure::Unavailable)]);
    }

    #[test]
    fn a_log_that_can_not_read_moves_no_group() {
        let mut node = OnDisk::new(Start::First);
        node.ask_group("one", GroupRequest::Seek(Start::Last));
        node.answers.clear();
        node.fails = true;
        node.ask_group("one", GroupRequest::Seek(age_of(20, node.now)));
        node.pass(300);
        assert_eq!(node.answers, []);
        node.fails = false;
        node.pass(300);
        assert_eq!(std::mem::take(&mut node.answers), [DONE]);
        node.pull("one");
        assert_eq!(node.pulled().expect("some").first(), Some(&20));
        // It is told so in the end, and the group is where it was.
        node.ask_group("one", GroupRequest::Seek(Start::Last));
        node.answers.clear();
        node.fails = true;
        node.ask_group("one", GroupRequest::Seek(age_of(20, node.now)));
        (0..60).for_each(|_| node.pass(100));
        assert_eq!(std::mem::take(&mut node.answers), [Answer::Failed(Failure::Unavailable)]);
        node.ask_group("one", GroupRequest::Facts);
        let floor = |it: &Answer| match it {
            Answer::Group(GroupAnswer::Facts(facts)) => Some(facts.floor),
            _ => None,
        };
        assert_eq!(node.answers.iter().find_map(floor), Some(ALL));
    }

    #[test]
    fn what_is_damaged_in_the_log_hides_nothing_that_is_asked_for() {
        let mut node = OnDisk::new(Start::First);
        node.damaged = 10..25;
        for (number, first) in [(5, 5), (9, 9), (12, 25), (25, 25), (28, 28)] {
            node.ask_group("one", GroupRequest::Seek(age_of(number, node.now)));
            assert_eq!(std::mem::take(&mut node.answers), [DONE], "{number}");
            node.pull("one");
            let pulled = node.pulled().expect("there are some");
            assert_eq!(pulled.first(), Some(&first), "{number}");
        }
    }
}
