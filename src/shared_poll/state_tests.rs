use std::time::Duration;

use super::*;
use crate::{
    backend::{options::BackendId, poll::PolledItem},
    shared_poll::options::{Mode, PollOptions},
};

const INTERVAL: u64 = 1000;

fn options(mode: Mode) -> PollOptions {
    PollOptions {
        backend: BackendId(0),
        mode,
        refresh_interval: Duration::from_millis(INTERVAL),
        refresh_batch_size: 10,
        max_keys_per_connection: 3,
        max_keys_per_channel: 5,
        shutdown_delay: Duration::from_secs(1),
        expired_delay: Duration::from_secs(25),
    }
}

fn socket(slot: u32) -> SocketRef {
    SocketRef { worker: 0, slot, generation: 0 }
}

fn item(key: &str, version: u64, data: &'static str) -> PolledItem {
    PolledItem { key: key.into(), data: data.into(), version, removed: false }
}

/// A node with rooms in which clients track keys, and a backend that answers when the test lets it.
struct Node {
    state: State,
    now: u64,
    /// What was asked and is not answered yet.
    asked: VecDeque<(u64, PollRequest)>,
}

impl Node {
    fn new(mode: Mode) -> Self {
        Self::with(options(mode), 10)
    }

    fn with(options: PollOptions, concurrency: usize) -> Self {
        let namespaces =
            PolledNamespaces { default: Some(Arc::new(options)), ..Default::default() };
        let settings = PollSettings {
            namespaces: Arc::new(namespaces),
            concurrency,
            item_limit: 100,
            seed: 7,
            me: None,
        };
        Self { state: State::new(settings), now: 0, asked: VecDeque::new() }
    }

    /// What comes of an input, but for what is asked.
    fn handle(&mut self, input: In) -> Vec<Out> {
        let (asks, rest): (Vec<_>, Vec<_>) = (self.state)
            .handle(input, Time::from_millis(self.now))
            .into_iter()
            .partition(|it| matches!(it, Out::Ask(..)));
        self.asked.extend(asks.into_iter().filter_map(|it| match it {
            Out::Ask(call, request) => Some((call, request)),
            _ => None,
        }));
        rest
    }

    fn request(&mut self, request: Request) -> Reply {
        match self.handle(In::Request("room".into(), request)).as_slice() {
            [Out::Reply { reply, .. }] => reply.clone(),
            other => panic!("no reply: {other:?}"),
        }
    }

    fn enter(&mut self, slot: u32) -> String {
        match self.request(Request::Enter { socket: socket(slot), id: 1 }) {
            Reply::Entered(Ok(epoch)) => epoch,
            other => panic!("not in: {other:?}"),
        }
    }

    fn track(&mut self, slot: u32, keys: &[(&str, u64)]) -> Reply {
        self.track_but(slot, keys, &[], None)
    }

    fn track_but(
        &mut self,
        slot: u32,
        keys: &[(&str, u64)],
        untrack: &[&str],
        until: Option<u64>,
    ) -> Reply {
        let expires_at = until.map(Time::from_millis);
        let items = keys.iter();
        let items =
            items.map(|(key, version)| Track { key: (*key).into(), version: *version, expires_at });
        self.request(Request::Track {
            socket: socket(slot),
            id: 2,
            items: items.collect(),
            untrack: untrack.iter().map(|it| (*it).into()).collect(),
            expires_at: Some(9),
        })
    }

    fn untrack(&mut self, slot: u32, keys: &[&str]) {
        let keys = keys.iter().map(|it| (*it).into()).collect();
        let reply = self.request(Request::Untrack { socket: socket(slot), id: 3, keys });
        assert_eq!(reply, Reply::Untracked);
    }

    fn leave(&mut self, slot: u32) {
        let leave = Request::Leave { socket: socket(slot), id: None };
        assert_eq!(self.handle(In::Request("room".into(), leave)), []);
    }

    /// Lets time pass up to this moment, but no request be answered.
    fn go_to(&mut self, millis: u64) -> Vec<Out> {
        let mut out = Vec::new();
        while let Some(due) = self.state.due().filter(|it| *it <= Time::from_millis(millis)) {
            self.now = self.now.max(due.since(Time::default()).as_millis() as u64);
            out.extend(self.handle(In::Tick));
        }
        self.now = millis;
        out
    }

    /// The oldest request that is not answered: keys and their versions.
    fn asked(&self) -> Option<Vec<(&str, u64)>> {
        let (_, request) = self.asked.front()?;
        Some(request.items.iter().map(|(key, version)| (&**key, *version)).collect())
    }

    fn answer_with(&mut self, answer: Option<PollAnswer>) -> Vec<Out> {
        let (call, _) = self.asked.pop_front().expect("something was asked");
        self.handle(In::Answered(call, answer))
    }

    /// Answers the oldest. Returns who was told what: slots, key, version, data.
    fn answer(&mut self, items: Vec<PolledItem>) -> Vec<String> {
        let out = self.answer_with(Some(PollAnswer { items, epoch: String::new() }));
        out.into_iter().map(|it| told(&it)).collect()
    }
}

fn told(out: &Out) -> String {
    match out {
        Out::Push { update, to, .. } => {
            let mut slots: Vec<u32> = to.iter().map(|it| it.slot).collect();
            slots.sort_unstable();
            let data = String::from_utf8_lossy(&update.data);
            let what = if update.removed { "removed".into() } else { data };
            format!("{slots:?} {} {} {what}", update.key, update.version)
        }
        other => format!("{other:?}"),
    }
}

#[test]
fn all_keys_of_all_clients_are_asked_for_together_and_each_gets_what_it_lacks() {
    let mut node = Node::new(Mode::Versioned);
    (1..=2).for_each(|slot| assert_eq!(node.enter(slot), "", "the backend says it"));
    node.track(1, &[("a", 0), ("b", 5)]);
    assert_eq!(node.asked(), Some(vec![("a", 0)]), "who has nothing does not wait");
    assert_eq!(node.answer(vec![item("a", 1, "x")]), ["[1] a 1 x"]);
    node.track(2, &[("b", 6), ("c", 7)]);
    assert_eq!(node.asked(), None);
    node.go_to(INTERVAL);
    assert_eq!(node.asked(), Some(vec![("a", 1), ("b", 0), ("c", 0)]));
    let items = vec![item("b", 6, "y"), item("c", 7, "z"), item("other", 9, "")];
    assert_eq!(node.answer(items), ["[1] b 6 y"]);
    node.go_to(2 * INTERVAL);
    assert_eq!(node.asked(), Some(vec![("a", 1), ("b", 6), ("c", 7)]));
    let older = vec![item("b", 5, "old"), item("a", 2, "new")];
    assert_eq!(node.answer(older), ["[1] a 2 new"]);
}

#[test]
fn who_comes_later_gets_what_is_known_already() {
    let mut node = Node::new(Mode::Versioned);
    (1..=3).for_each(|slot| drop(node.enter(slot)));
    node.track(1, &[("a", 0)]);
    node.answer(vec![item("a", 3, "x")]);
    node.track(2, &[("a", 0)]);
    assert_eq!(node.asked(), Some(vec![("a", 0)]), "asked as if nothing were known");
    node.track(3, &[("a", 2)]);
    assert_eq!(node.asked.len(), 1, "once for both");
    assert_eq!(node.answer(vec![item("a", 3, "x")]), ["[2, 3] a 3 x"]);
    node.go_to(INTERVAL);
    assert_eq!(node.asked(), Some(vec![("a", 3)]));
    assert!(node.answer(Vec::new()).is_empty());
    // An answer that does not reach what is known leaves the question open.
    node.untrack(3, &["a"]);
    node.track(3, &[("a", 0)]);
    assert!(node.answer(vec![item("a", 2, "old")]).is_empty());
    node.go_to(2 * INTERVAL);
    assert_eq!(node.asked(), Some(vec![("a", 0)]));
    assert_eq!(node.answer(vec![item("a", 3, "x")]), ["[3] a 3 x"]);
}

#[test]
fn without_versions_of_the_backend_content_says_what_is_new() {
    let mut node = Node::new(Mode::Versionless);
    let epoch = node.enter(1);
    assert_eq!(epoch.len(), 8);
    assert_eq!(node.enter(2), epoch);
    node.track(1, &[("a", 0), ("b", 0)]);
    let same = || vec![item("a", 0, "x"), item("b", 99, "y")];
    assert_eq!(node.answer(same()), ["[1] a 1 x", "[1] b 2 y"]);
    node.go_to(INTERVAL);
    assert_eq!(node.asked(), Some(vec![("a", 0), ("b", 0)]), "versions are not told");
    assert!(node.answer(same()).is_empty());
    node.track(2, &[("b", 0)]);
    assert_eq!(node.answer(same()), ["[2] b 2 y"]);
    node.go_to(2 * INTERVAL);
    assert_eq!(node.answer(vec![item("b", 0, "z"), item("a", 0, "x")]), ["[1, 2] b 3 z"]);
}

#[test]
fn a_removed_key_is_told_and_forgotten() {
    let mut node = Node::new(Mode::Versioned);
    (1..=2).for_each(|slot| drop(node.enter(slot)));
    node.track(1, &[("a", 4)]);
    node.track(2, &[("a", 4), ("b", 1)]);
    node.go_to(INTERVAL);
    let gone = PolledItem { removed: true, ..item("a", 5, "null") };
    assert_eq!(node.answer(vec![gone.clone(), gone]), ["[1, 2] a 0 removed"]);
    assert_eq!(node.state.counts(), (1, 1));
    let full = [("c", 1), ("d", 1)];
    assert_eq!(node.track(2, &full), Reply::Tracked(Ok(Some(9))), "it counts no more");
}

#[test]
fn limits_hold_for_each_client_and_for_the_room() {
    let mut node = Node::new(Mode::Versioned);
    (1..=3).for_each(|slot| drop(node.enter(slot)));
    let (ok, full) = (Reply::Tracked(Ok(Some(9))), Reply::Tracked(Err(ErrorCode::LimitExceeded)));
    assert_eq!(node.track(1, &[("a", 0), ("b", 0), ("c", 0), ("d", 0)]), full);
    assert_eq!(node.state.counts(), (1, 0), "all or nothing");
    assert_eq!(node.track(1, &[("a", 0), ("b", 0), ("c", 0), ("c", 7)]), ok);
    assert_eq!(node.track(1, &[("a", 3), ("d", 0)]), full);
    assert_eq!(node.track_but(1, &[("a", 3), ("d", 0)], &["b", "x"], None), ok);
    assert_eq!(
        node.track_but(1, &[("e", 0)], &["e"], None),
        ok,
        "what is not wanted is not tracked"
    );
    assert_eq!(node.state.counts(), (1, 3), "a c d");
    assert_eq!(node.track(2, &[("e", 0), ("f", 0), ("g", 0)]), full, "the room is full");
    assert_eq!(node.track(2, &[("e", 0), ("f", 0), ("a", 0)]), ok);
    assert_eq!(node.track(9, &[("a", 0)]), Reply::Tracked(Err(ErrorCode::PermissionDenied)));
}

#[test]
fn nobody_gets_what_it_does_not_track_any_more() {
    let mut node = Node::new(Mode::Versioned);
    (1..=2).for_each(|slot| drop(node.enter(slot)));
    node.track(1, &[("a", 0), ("b", 0)]);
    node.track(2, &[("a", 0)]);
    node.untrack(1, &["a", "x"]);
    node.leave(2);
    assert!(node.answer(vec![item("a", 1, "x")]).is_empty());
    node.go_to(INTERVAL);
    assert_eq!(node.asked(), Some(vec![("b", 0)]));
    node.leave(1);
    assert!(node.answer(vec![item("b", 1, "x")]).is_empty());
    assert_eq!(node.state.counts(), (1, 0));
    node.go_to(INTERVAL + 999);
    assert_eq!(node.state.counts(), (1, 0), "it may come back");
    node.go_to(INTERVAL + 1000);
    assert_eq!((node.state.counts(), node.state.due()), ((0, 0), None));
}

#[test]
fn an_answer_for_a_room_of_before_means_nothing_for_the_one_of_now() {
    let mut node = Node::new(Mode::Versionless);
    let before = node.enter(1);
    node.track(1, &[("a", 0)]);
    node.leave(1);
    node.go_to(5000);
    assert_ne!(node.enter(1), before);
    node.track(1, &[("a", 0)]);
    assert!(node.answer(vec![item("a", 0, "old")]).is_empty());
    assert_eq!(node.answer(vec![item("a", 0, "new")]), ["[1] a 1 new"]);
}

#[test]
fn signatures_expire_without_a_word() {
    let mut node = Node::new(Mode::Versioned);
    (1..=2).for_each(|slot| drop(node.enter(slot)));
    node.track_but(1, &[("a", 1), ("b", 1)], &[], Some(5500));
    node.track_but(1, &[("b", 1)], &[], Some(9000));
    node.track(2, &[("a", 1)]);
    node.go_to(5499);
    node.asked.clear();
    assert_eq!(node.state.counts(), (1, 2));
    assert!(node.go_to(5500).is_empty());
    let full = [("x", 1), ("y", 1)];
    assert_eq!(node.track(1, &full), Reply::Tracked(Ok(Some(9))), "one of three has ended");
    assert_eq!(node.state.counts(), (1, 4));
    node.go_to(20_000);
    assert_eq!(node.state.counts(), (1, 3), "b has ended, too");
}

#[test]
fn versions_of_another_epoch_are_not_compared() {
    let answer = |epoch: &str, items| Some(PollAnswer { items, epoch: epoch.into() });
    let mut node = Node::new(Mode::Versioned);
    let mut before = String::new();
    for (epoch, version) in [("e1", 9), ("e2", 1)] {
        // Clients have to know by which epoch their versions are, so the first is one, too.
        for slot in [1, 2] {
            assert_eq!(node.enter(slot), before);
            node.track(slot, &[("a", 7)]);
        }
        node.go_to(node.now + INTERVAL);
        let mut out = node.answer_with(answer(epoch, vec![item("a", version, "x")]));
        let [Out::Outdated { sockets, .. }] = &mut out[..] else { panic!("{out:?}") };
        sockets.sort_unstable();
        assert_eq!(sockets[..], [socket(1), socket(2)]);
        node.go_to(node.now + 9_000);
        assert_eq!(node.enter(1), epoch, "it is remembered until they are back");
        node.track(1, &[("a", 0)]);
        let out = node.answer_with(answer(epoch, vec![item("a", version, "x")]));
        assert_eq!(out.iter().map(told).collect::<Vec<_>>(), [format!("[1] a {version} x")]);
        node.leave(1);
        epoch.clone_into(&mut before);
    }
}

#[test]
fn what_no_client_could_take_is_left_out() {
    let mut node = Node::new(Mode::Versioned);
    node.enter(1);
    node.track(1, &[("a", 0), ("b", 0)]);
    let large = PolledItem { data: vec![b'1'; 101].into(), ..item("a", 1, "") };
    let told = node.answer(vec![large, item("b", 1, "x")]);
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("TooLarge") && told[1] == "[1] b 1 x", "{told:?}");
}

#[test]
fn no_more_requests_are_under_way_than_are_allowed_and_rooms_take_turns() {
    let mut node = Node::with(options(Mode::Versioned), 2);
    let rooms = ["r1", "r2", "r3", "r4"];
    for room in rooms {
        let (socket, id) = (socket(1), 1);
        node.handle(In::Request(room.into(), Request::Enter { socket, id }));
        let items = vec![Track { key: "a".into(), version: 0, expires_at: None }];
        let (untrack, expires_at) = (Vec::new(), None);
        let track = Request::Track { socket, id, items, untrack, expires_at };
        node.handle(In::Request(room.into(), track));
    }
    let mut turns = Vec::new();
    while let Some((_, request)) = node.asked.front() {
        assert!(node.asked.len() <= 2);
        turns.push(request.room.clone());
        node.answer_with(None);
    }
    assert_eq!(turns.iter().map(|it| &**it).collect::<Vec<_>>(), rooms);
    node.go_to(INTERVAL);
    assert_eq!(node.asked.len(), 2);
}

#[test]
fn a_backend_that_fails_takes_nothing_away() {
    let mut node = Node::new(Mode::Versioned);
    node.enter(1);
    node.track(1, &[("a", 0)]);
    assert!(node.answer_with(None).is_empty());
    node.go_to(INTERVAL);
    assert!(node.answer_with(None).is_empty());
    node.go_to(2 * INTERVAL);
    assert_eq!(node.asked(), None, "less often");
    node.go_to(10 * INTERVAL);
    assert_eq!(node.answer(vec![item("a", 1, "x")]), ["[1] a 1 x"]);
}
