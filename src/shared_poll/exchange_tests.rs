//! Three nodes, the links between them, and a backend that counts who asks it what.

use std::{collections::VecDeque, sync::Arc};

use super::*;
use crate::{
    backend::{options::BackendId, poll::PollRequest},
    cluster::{
        node::{NodeInfo, Phase},
        view::View,
    },
    room::types::SocketRef,
    shared_poll::{
        options::{Mode, PollOptions, PolledNamespaces},
        state::{In, PollSettings, Request, Track},
    },
};

const INTERVAL: u64 = 1000;
const ROOM: &str = "room";

fn info(name: &str, phase: Phase) -> NodeInfo {
    let address = ([127, 0, 0, 1], 1).into();
    NodeInfo { name: name.into(), generation: 1, mesh: address, http: address, phase }
}

fn socket() -> SocketRef {
    SocketRef { worker: 0, slot: 1, generation: 0 }
}

struct World {
    names: Vec<&'static str>,
    states: Vec<State>,
    /// Pairs of nodes that have a link.
    links: Vec<(usize, usize)>,
    messages: VecDeque<(usize, usize, PollMessage)>,
    now: u64,
    epoch: String,
    /// What the backend knows.
    table: BTreeMap<String, (u64, &'static str, bool)>,
    /// Who has asked the backend for what.
    asked: Vec<(usize, String)>,
    /// What the client of each node was told.
    told: Vec<Vec<String>>,
}

impl World {
    fn new(mode: Mode) -> Self {
        let names = vec!["a", "b", "c"];
        let options = PollOptions {
            backend: BackendId(0),
            mode,
            refresh_interval: Duration::from_millis(INTERVAL),
            refresh_batch_size: 10,
            max_keys_per_connection: 3_000,
            max_keys_per_channel: 5_000,
            shutdown_delay: Duration::from_secs(1),
            expired_delay: Duration::from_secs(25),
        };
        let namespaces =
            Arc::new(PolledNamespaces { default: Some(Arc::new(options)), ..Default::default() });
        let state = |(seed, name): (usize, &&str)| {
            State::new(PollSettings {
                namespaces: namespaces.clone(),
                concurrency: 10,
                item_limit: 1_000_000,
                seed: seed as u64,
                me: Some(info(name, Phase::Ready).id()),
            })
        };
        let mut world = Self {
            states: names.iter().enumerate().map(state).collect(),
            told: vec![Vec::new(); names.len()],
            names,
            links: Vec::new(),
            messages: VecDeque::new(),
            now: 0,
            epoch: String::new(),
            table: BTreeMap::new(),
            asked: Vec::new(),
        };
        for node in 0..3 {
            world.see(node, &[0, 1, 2]);
        }
        [(0, 1), (0, 2), (1, 2)].into_iter().for_each(|(a, b)| world.link(a, b));
        for node in 0..3 {
            world.input(node, In::Request(ROOM.into(), Request::Enter { socket: socket(), id: 1 }));
        }
        world.deliver();
        world
    }

    fn id(&self, node: usize) -> NodeId {
        info(self.names[node], Phase::Ready).id()
    }

    fn index(&self, id: NodeId) -> usize {
        (0..3).find(|it| self.id(*it) == id).expect("a node")
    }

    /// Gossip tells a node that these are there.
    fn see(&mut self, node: usize, others: &[usize]) {
        let infos = others.iter().map(|it| info(self.names[*it], Phase::Ready));
        let view = View::new(infos);
        self.input(node, In::View(view));
    }

    fn link(&mut self, a: usize, b: usize) {
        self.links.push((a, b));
        let (id_a, id_b) = (self.id(a), self.id(b));
        self.input(a, In::LinkUp(id_b));
        self.input(b, In::LinkUp(id_a));
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.links.retain(|it| *it != (a, b) && *it != (b, a));
        self.messages.retain(|(from, to, _)| ![(a, b), (b, a)].contains(&(*from, *to)));
        let (id_a, id_b) = (self.id(a), self.id(b));
        self.input(a, In::LinkDown(id_b));
        self.input(b, In::LinkDown(id_a));
        self.deliver();
    }

    fn input(&mut self, node: usize, input: In) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for out in self.states[node].handle(input, Time::from_millis(self.now)) {
                match out {
                    Out::Ask(call, request) => {
                        inputs.push_back(In::Answered(call, Some(self.answer(node, &request))));
                    }
                    Out::Send(to, message) => {
                        let to = self.index(to);
                        if self.links.iter().any(|it| [(node, to), (to, node)].contains(it)) {
                            self.messages.push_back((node, to, message));
                        }
                    }
                    Out::Push { update, .. } => {
                        let data = String::from_utf8_lossy(&update.data).into_owned();
                        let data = if update.removed { "removed".to_owned() } else { data };
                        self.told[node].push(format!("{} {data}", update.key));
                    }
                    Out::Outdated { .. } => self.told[node].push("outdated".to_owned()),
                    Out::Reply { .. } | Out::TooLarge { .. } => {}
                }
            }
        }
    }

    /// A backend that leaves out what is known already.
    fn answer(&mut self, node: usize, request: &PollRequest) -> PollAnswer {
        let keys: Vec<&str> = request.items.iter().map(|(key, _)| &**key).collect();
        self.asked.push((node, keys.join(" ")));
        let known = request.items.iter().filter_map(|(key, version)| {
            let (newest, data, removed) = *self.table.get(&**key)?;
            let item = PolledItem { key: key.clone(), data: data.into(), version: newest, removed };
            (newest == 0 || newest > *version).then_some(item)
        });
        PollAnswer { items: known.collect(), epoch: self.epoch.clone() }
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.messages.pop_front() {
            let from = self.id(from);
            self.input(to, In::Peer(from, message));
        }
    }

    fn track(&mut self, node: usize, keys: &[&str]) {
        let items =
            keys.iter().map(|key| Track { key: (*key).into(), version: 0, expires_at: None });
        let track = Request::Track {
            socket: socket(),
            id: 2,
            items: items.collect(),
            untrack: Vec::new(),
            expires_at: None,
        };
        self.input(node, In::Request(ROOM.into(), track));
        self.deliver();
    }

    fn untrack(&mut self, node: usize, key: &str) {
        let keys = vec![key.into()];
        let untrack = Request::Untrack { socket: socket(), id: 3, keys };
        self.input(node, In::Request(ROOM.into(), untrack));
        self.deliver();
    }

    fn go_on(&mut self, millis: u64) {
        let until = self.now + millis;
        while self.now < until {
            self.now += 10;
            for node in 0..3 {
                if self.states[node].due().is_some_and(|it| it <= Time::from_millis(self.now)) {
                    self.input(node, In::Tick);
                }
            }
            self.deliver();
        }
    }

    /// What was asked since the last call.
    fn asked(&mut self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.asked)
    }

    fn told(&mut self, node: usize) -> Vec<String> {
        std::mem::take(&mut self.told[node])
    }

    /// The node that polls the room, and the others.
    fn roles(&self) -> (usize, [usize; 2]) {
        let poller = |it: &usize| self.states[*it].peers.poller(ROOM).is_none();
        let poller = (0..3).find(poller).expect("somebody polls");
        let others: Vec<usize> = (0..3).filter(|it| *it != poller).collect();
        (poller, [others[0], others[1]])
    }
}

#[test]
fn one_node_asks_for_the_keys_of_all_and_each_gets_what_it_tracks() {
    for mode in [Mode::Versioned, Mode::Versionless] {
        let version = |it| if mode == Mode::Versioned { it } else { 0 };
        let mut world = World::new(mode);
        let (poller, [one, other]) = world.roles();
        world.table.insert("k".into(), (version(1), "1", false));
        world.table.insert("own".into(), (version(4), "own", false));
        world.track(one, &["k", "own"]);
        assert_eq!(world.told(one), ["k 1", "own own"]);
        world.track(other, &["k"]);
        assert_eq!(world.told(other), ["k 1"], "what is known already is asked for again");
        world.track(poller, &["k"]);
        assert_eq!(world.told(poller), ["k 1"]);
        assert!(world.told(one).is_empty());
        assert!(world.asked().iter().all(|(node, _)| *node == poller));
        world.go_on(INTERVAL);
        assert_eq!(world.asked(), [(poller, "k own".to_owned())], "once in an interval");
        world.table.insert("k".into(), (version(2), "2", false));
        world.go_on(INTERVAL);
        for node in 0..3 {
            assert_eq!(world.told(node), ["k 2"]);
        }
        world.table.insert("k".into(), (version(3), "", true));
        world.go_on(INTERVAL);
        for node in 0..3 {
            assert_eq!(world.told(node), ["k removed"]);
        }
        world.asked();
        world.untrack(one, "own");
        world.go_on(2 * INTERVAL);
        assert!(world.asked().is_empty(), "nobody tracks anything");
    }
}

#[test]
fn who_can_not_reach_the_node_that_polls_polls_by_itself() {
    let mut world = World::new(Mode::Versioned);
    let (poller, [one, other]) = world.roles();
    world.table.insert("k".into(), (1, "1", false));
    (0..3).for_each(|node| world.track(node, &["k"]));
    // It dies.
    world.cut(poller, one);
    world.cut(poller, other);
    world.table.insert("k".into(), (2, "2", false));
    (0..3).for_each(|node| drop(world.told(node)));
    world.asked();
    world.go_on(INTERVAL);
    assert_eq!((world.told(one), world.told(other)), (vec!["k 2".into()], vec!["k 2".into()]));
    // One may have asked the other too early, and polls by itself for a while then.
    world.go_on(3 * INTERVAL);
    world.asked();
    world.go_on(INTERVAL);
    let asked: Vec<usize> = world.asked().into_iter().map(|(node, _)| node).collect();
    let next = asked.iter().find(|it| **it != poller).copied().expect("one of the others");
    assert!(asked.iter().all(|it| [poller, next].contains(it)), "one for both: {asked:?}");
    // It is back, and polls for all.
    world.link(poller, one);
    world.link(poller, other);
    world.deliver();
    world.go_on(INTERVAL);
    world.asked();
    world.table.insert("k".into(), (3, "3", false));
    world.go_on(INTERVAL);
    assert_eq!(world.asked(), [(poller, "k".to_owned())]);
    for node in 0..3 {
        assert_eq!(world.told(node).last().map(String::as_str), Some("k 3"), "{node}");
    }
}

#[test]
fn nodes_that_do_not_see_the_same_leave_no_one_without_data() {
    let mut world = World::new(Mode::Versioned);
    let (poller, [one, other]) = world.roles();
    // The one that should poll thinks that it is another: it does not see itself take part.
    world.see(poller, &[one, other]);
    world.deliver();
    world.table.insert("k".into(), (1, "1", false));
    (0..3).for_each(|node| world.track(node, &["k"]));
    world.table.insert("k".into(), (2, "2", false));
    world.go_on(6 * INTERVAL);
    for node in 0..3 {
        assert_eq!(world.told(node).last().map(String::as_str), Some("k 2"), "{node}");
    }
    world.see(poller, &[0, 1, 2]);
    world.deliver();
    world.go_on(4 * INTERVAL);
    world.asked();
    world.go_on(INTERVAL);
    assert_eq!(world.asked(), [(poller, "k".to_owned())]);
}

#[test]
fn a_node_that_knows_no_shared_polls_is_not_asked() {
    let mut world = World::new(Mode::Versioned);
    let (poller, [one, other]) = world.roles();
    world.cut(poller, one);
    world.cut(poller, other);
    // The links are back, but of an older version: nothing is said of them.
    world.table.insert("k".into(), (1, "1", false));
    (0..3).for_each(|node| world.track(node, &["k"]));
    for node in 0..3 {
        assert_eq!(world.told(node), ["k 1"]);
    }
    assert!(world.messages.is_empty());
}

#[test]
fn another_epoch_reaches_the_clients_of_all_nodes() {
    let mut world = World::new(Mode::Versioned);
    let (_, [one, other]) = world.roles();
    for (epoch, version, data) in [("e1", 9, "9"), ("e2", 1, "1")] {
        world.epoch = epoch.into();
        world.table.insert("k".into(), (version, data, false));
        [one, other].into_iter().for_each(|node| world.track(node, &["k"]));
        world.go_on(INTERVAL);
        for node in [one, other] {
            assert_eq!(world.told(node), ["outdated"], "{epoch}");
            world.input(node, In::Request(ROOM.into(), Request::Enter { socket: socket(), id: 1 }));
            world.track(node, &["k"]);
        }
        world.go_on(INTERVAL);
        for node in [one, other] {
            assert_eq!(world.told(node).last(), Some(&format!("k {data}")), "{epoch}");
        }
    }
}

#[test]
fn a_node_that_begins_to_poll_learns_the_epoch_and_forgets_no_one() {
    let mut world = World::new(Mode::Versioned);
    let (poller, [one, other]) = world.roles();
    world.cut(poller, one);
    world.cut(poller, other);
    let next = if world.states[one].peers.poller(ROOM).is_none() { one } else { other };
    let last = one + other - next;
    world.link(poller, one);
    world.link(poller, other);
    world.deliver();
    let leave = Request::Leave { socket: socket(), id: None };
    world.input(next, In::Request(ROOM.into(), leave));
    world.epoch = "e".into();
    world.table.insert("k".into(), (1, "1", false));
    world.track(last, &["k"]);
    world.input(last, In::Request(ROOM.into(), Request::Enter { socket: socket(), id: 1 }));
    world.track(last, &["k"]);
    world.go_on(20 * INTERVAL);
    assert_eq!(world.told(last), ["outdated", "k 1"]);
    // The next one has never heard of the room, nor of the epoch.
    world.cut(poller, one);
    world.cut(poller, other);
    world.go_on(2 * INTERVAL);
    world.asked();
    world.table.insert("k".into(), (2, "2", false));
    world.go_on(INTERVAL);
    assert_eq!(world.told(last), ["k 2"]);
    assert_eq!(world.asked(), [(next, "k".to_owned())]);
}

#[test]
fn many_keys_go_in_pages() {
    let mut world = World::new(Mode::Versioned);
    let (_, [one, _]) = world.roles();
    let keys: Vec<String> = (0..2_000).map(|it| format!("{it:0100}")).collect();
    for key in &keys {
        world.table.insert(key.clone(), (1, "1", false));
    }
    let names: Vec<&str> = keys.iter().map(String::as_str).collect();
    let items = names.iter().map(|key| Track { key: (*key).into(), version: 0, expires_at: None });
    let (items, untrack) = (items.collect(), Vec::new());
    let track = Request::Track { socket: socket(), id: 2, items, untrack, expires_at: None };
    world.input(one, In::Request(ROOM.into(), track));
    let sizes: Vec<usize> = (world.messages.iter())
        .map(|(_, _, message)| match message {
            PollMessage::Track { keys, .. } => keys.iter().map(|(key, _)| key.len()).sum(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(sizes.len() > 2 && sizes.iter().all(|it| *it <= PAGE), "{sizes:?}");
    assert_eq!(sizes.iter().sum::<usize>(), 200_000);
    world.deliver();
    // One batch at a time, as they are answered.
    world.go_on(10);
    assert_eq!(world.told(one).len(), 2_000);
}
