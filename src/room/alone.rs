//! For tests: a node that is alone, with a log that takes everything.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    logged::{LogChange, LogPage, LogReply, LogRequest, LoggedRoom},
    node::{Out, RoomSettings},
    options::{LogKind, Namespaces, RoomOptions},
    persisted::Head,
    registry::{In, State},
    stream::Entry,
    types::{Answer, HistoryFilter, NewPublication, Position, Query, ReplyTo, Request, RoomName},
};
use crate::{
    cluster::{
        node::{NodeInfo, Phase},
        view::View,
    },
    log,
    runtime::time::Time,
};

pub(super) const SECOND: u64 = 1_000;

/// The most publications of a page of the log, so that there is more than one.
const PAGE: usize = 7;

/// The publications of each room that a log has.
type Kept = BTreeMap<RoomName, BTreeMap<u64, (Time, Entry)>>;

/// A node that is alone, and its log.
pub(super) struct Alone {
    pub(super) state: State,
    options: Arc<RoomOptions>,
    pub(super) log: Kept,
    pub(super) heads: BTreeMap<RoomName, Head>,
    pub(super) answers: Vec<Answer>,
    pub(super) reads: usize,
    pub(super) now: u64,
    /// The log takes its time: what it is to read waits.
    pub(super) is_slow: bool,
    waiting: Vec<(RoomName, u64, log::Query)>,
    /// What can't be read any more.
    pub(super) damaged: BTreeSet<u64>,
}

pub(super) fn options() -> RoomOptions {
    RoomOptions {
        presence: true,
        join_leave: true,
        history_size: 100,
        history_ttl: Duration::from_secs(3_600),
        history_meta_ttl: Duration::from_secs(86_400),
        log: LogKind::Disk,
        ..RoomOptions::default()
    }
}

pub(super) fn settings() -> RoomSettings {
    RoomSettings { idle_timeout: Duration::from_secs(60), ..RoomSettings::default() }
}

impl Alone {
    /// With these rooms in its log.
    pub(super) fn with(options: RoomOptions, heads: BTreeMap<RoomName, Head>, log: Kept) -> Self {
        let options = Arc::new(options);
        let namespaces = Namespaces { default: options.clone(), named: BTreeMap::new() };
        // Another run than the one before.
        let now = 100_000 + log.len() as u64;
        let me = NodeInfo {
            name: "a".into(),
            generation: now,
            mesh: ([127, 0, 0, 1], 1).into(),
            http: ([127, 0, 0, 1], 1).into(),
            phase: Phase::Ready,
        };
        let mut state = State::new(me.id(), Arc::new(namespaces), settings(), 1);
        for (name, head) in &heads {
            let next = log.get(name).and_then(|it| it.keys().last()).map_or(1, |it| it + 1);
            let found = LoggedRoom { name: name.clone(), head: head.clone(), first: 1, next };
            assert!(state.find_in_log(found, Time::from_millis(now)));
        }
        let mut node = Self {
            state,
            options,
            log,
            heads,
            answers: Vec::new(),
            reads: 0,
            now,
            is_slow: false,
            waiting: Vec::new(),
            damaged: BTreeSet::new(),
        };
        node.input(In::View(View::new([me])));
        node
    }

    pub(super) fn empty() -> Self {
        Self::with_options(options())
    }

    pub(super) fn with_options(options: RoomOptions) -> Self {
        Self::with(options, BTreeMap::new(), BTreeMap::new())
    }

    /// The same after it was killed and started again.
    pub(super) fn again(self) -> Self {
        Self::with((*self.options).clone(), self.heads, self.log)
    }

    pub(super) fn input(&mut self, input: In) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for out in self.state.handle(input, Time::from_millis(self.now)) {
                match out {
                    Out::Answer { answer, .. } => self.answers.push(answer),
                    Out::Log { room, request: LogRequest::Read(id, query) } if self.is_slow => {
                        self.waiting.push((room, id, query));
                    }
                    Out::Log { room, request } => {
                        let reply = self.logs(&room, request);
                        inputs.push_back(In::Log(room, reply));
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
                    match change {
                        LogChange::Append(at, entry) => {
                            kept.insert(entry.publication.offset, (at, entry));
                        }
                        LogChange::Head(head) => drop(self.heads.insert(room.clone(), head)),
                        LogChange::Remove => kept.clear(),
                        _ => {}
                    }
                }
                if kept.is_empty() {
                    self.log.remove(room);
                }
                LogReply::Written(id)
            }
            LogRequest::Read(id, query) => {
                self.reads += 1;
                LogReply::Read(id, Some(self.read(room, &query)))
            }
        }
    }

    fn read(&self, room: &RoomName, query: &log::Query) -> LogPage {
        let kept = self.log.get(room).into_iter().flatten();
        let most = query.count.min(PAGE);
        let mut entries: Vec<(Time, Entry)> = match (query.since, query.reverse) {
            (since, true) => {
                let before = since.unwrap_or(u64::MAX);
                let all = kept.filter(|(offset, _)| **offset < before).map(|(_, it)| it.clone());
                all.collect::<Vec<_>>().into_iter().rev().take(most).collect()
            }
            (since, false) => {
                let after = kept.filter(|(offset, _)| **offset > since.unwrap_or(0));
                after.take(most).map(|(_, it)| it.clone()).collect()
            }
        };
        let is_damaged =
            |(_, entry): &(Time, Entry)| self.damaged.contains(&entry.publication.offset);
        let end = entries.iter().position(is_damaged);
        let damaged = end.map(|end| entries[end].1.publication.offset);
        entries.truncate(end.unwrap_or(entries.len()));
        LogPage { entries, first: 1, damaged }
    }

    /// The log reads what it was to read.
    pub(super) fn answer_reads(&mut self) {
        for (room, id, query) in std::mem::take(&mut self.waiting) {
            let page = self.read(&room, &query);
            self.input(In::Log(room, LogReply::Read(id, Some(page))));
        }
    }

    /// Time passes, and whatever is due happens.
    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SECOND;
            self.input(In::Tick);
        }
    }

    pub(super) fn publish_with(&mut self, room: &str, publication: NewPublication) -> Position {
        self.input(In::Request(room.into(), Request::Publish(publication, ReplyTo::Api(1))));
        match self.answers.pop() {
            Some(Answer::Published(Some(position))) => position,
            other => panic!("it was answered {other:?}"),
        }
    }

    pub(super) fn publish(&mut self, room: &str) -> Position {
        self.publish_with(room, NewPublication { data: "x".into(), ..NewPublication::default() })
    }

    /// Up to so many publications of a room, and where it stands.
    pub(super) fn history(&mut self, room: &str, limit: usize) -> (usize, Position) {
        let query = Query::History(HistoryFilter { limit, since: None, reverse: false });
        self.input(In::Request(room.into(), Request::Query(query, ReplyTo::Api(1))));
        match self.answers.pop() {
            Some(Answer::History(publications, position)) => (publications.len(), position),
            other => panic!("it was answered {other:?}"),
        }
    }

    pub(super) fn sleeps(&self, room: &str) -> bool {
        assert_ne!(self.state.is_dormant(room), self.state.room(room).is_some());
        self.state.is_dormant(room)
    }
}
