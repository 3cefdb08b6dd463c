//! SHELL. Tests of links: who is let in, and when one is given up.

use std::collections::BTreeMap;

use tokio::net::TcpListener;

use super::*;
use crate::{
    cluster::node::Phase,
    room::{options::Namespaces, registry::State, types::NodeFacts},
    session::id::SessionId,
};

fn node(name: &str, generation: u64) -> NodeInfo {
    let address = ([127, 0, 0, 1], 1).into();
    NodeInfo { name: name.into(), generation, mesh: address, http: address, phase: Phase::Ready }
}

/// What node a, of the cluster "c", says to `change` of a good hello of node b.
fn answer(change: impl FnOnce(&mut Hello)) -> Result<NodeInfo, String> {
    let me = node("a", 1);
    let mut hello = Hello {
        newest: OURS.newest,
        cluster: "c".into(),
        node: node("b", 1),
        to: Some(me.id()),
        oldest: OURS.oldest,
    };
    change(&mut hello);
    let checked = check_hello(Frame::Hello(hello), None, &me, "c");
    checked.map(|(peer, _)| peer).map_err(|error| error.to_string())
}

#[test]
fn a_node_of_another_version_is_refused_in_words_that_help() {
    assert_eq!(answer(|_| {}).map(|it| it.name), Ok("b".to_owned()));
    let newer = answer(|it| (it.oldest, it.newest) = (OURS.newest + 1, OURS.newest + 2));
    let newer = newer.expect_err("another version");
    let (from, to) = (OURS.newest + 1, OURS.newest + 2);
    assert_eq!(
        newer,
        format!(
            "it speaks mesh version {from} to {to}, this node {OURS}: upgrade one version at a time"
        )
    );
    let next = answer(|it| (it.oldest, it.newest) = (OURS.newest, OURS.newest + 1));
    assert_eq!(next.map(|it| it.name), Ok("b".to_owned()), "one version apart");
}

#[test]
fn whoever_is_not_meant_is_refused() {
    for (change, why) in [
        (Box::new(|it: &mut Hello| it.cluster = "d".into()) as Box<dyn Fn(&mut Hello)>, "cluster"),
        (Box::new(|it: &mut Hello| it.node = node("a", 1)), "itself"),
        (Box::new(|it: &mut Hello| it.to = Some(node("a", 2).id())), "another run"),
    ] {
        let refused = answer(change).expect_err(why);
        assert!(refused.contains(why), "{refused}");
    }
    let namesake = answer(|hello| hello.node = node("a", 2)).expect("they settle it");
    assert_eq!(namesake.generation, 2);
    let me = node("a", 1);
    assert!(check_hello(Frame::Alive, None, &me, "c").is_err());
}

/// One end of a link: its node, whose rooms have a thread of their own.
struct End {
    rooms: Arbiter,
    settings: LinkSettings,
}

impl End {
    fn new(name: &str) -> Self {
        let (me, metrics) = (node(name, 1), Metrics::new().expect("metrics"));
        let namespaces = Namespaces { default: Arc::default(), named: BTreeMap::new() };
        let state = State::new(me.id(), Arc::new(namespaces), Default::default(), 1);
        let counted = metrics.clone();
        let rooms = Arbiter::new();
        let registry = RoomRegistry::start_in_arbiter(&rooms.handle(), move |_| {
            let (facts, users) = (NodeFacts::default(), Arc::default());
            RoomRegistry::new(state, facts, counted, users, None, None, wire::encode_rooms)
        });
        let settings = LinkSettings {
            me,
            cluster: "c".into(),
            keys: SealingKeys::new(),
            queue_limit: 64 << 20,
            metrics,
            registry,
            emulated: Arc::default(),
            polls: None,
        };
        Self { rooms, settings }
    }

    fn link(&self, introduced: Introduced) -> Addr<Link> {
        let dialer = Dialer::new(self.settings.clone()).start();
        Link::new(introduced, self.settings.clone(), dialer).start()
    }
}

/// A connection of two nodes that know each other, as each of them has it.
async fn introduced(a: &End, b: &End) -> (Introduced, Introduced) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (dialled, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    let (dialled, accepted) = (dialled.expect("connects"), accepted.expect("accepts").0);
    let to = Some(b.settings.me.id());
    let (on_a, on_b) =
        tokio::join!(introduce(dialled, to, &a.settings), introduce(accepted, None, &b.settings));
    (on_a.expect("b is let in"), on_b.expect("a is let in"))
}

/// A link between them.
async fn linked(a: &End, b: &End) -> (Addr<Link>, Addr<Link>) {
    let (on_a, on_b) = introduced(a, b).await;
    (a.link(on_a), b.link(on_b))
}

/// What a node does with rooms must not take long, but if it does, that is no reason to take others for dead,
/// nor for others to take it for dead.
#[test]
fn a_node_whose_rooms_are_busy_for_long_keeps_its_links() {
    System::new().block_on(async {
        let (a, b) = (End::new("a"), End::new("b"));
        let (on_a, on_b) = linked(&a, &b).await;
        let busy = SILENCE + 2 * HEARTBEAT;
        assert!(b.rooms.spawn_fn(move || std::thread::sleep(busy)));
        // More than is read ahead of the rooms, so that what follows is not read.
        let commands = vec![b'x'; AHEAD].into();
        let large = Frame::Emulation(SessionId::new([7; 16]), commands);
        on_a.do_send(ToLink::Frames(vec![wire::encode(&large).expect("it fits a frame")]));
        tokio::time::sleep(busy + HEARTBEAT).await;
        assert!(on_a.connected() && on_b.connected());
        let read = || b.settings.metrics.mesh_messages.with_label_values(&["in"]).get();
        let before = read();
        tokio::time::sleep(2 * HEARTBEAT).await;
        assert!(read() > before, "it reads on");
    });
}

#[test]
fn a_process_that_stood_still_keeps_its_links() {
    System::new().block_on(async {
        let (a, b) = (End::new("a"), End::new("b"));
        let (on_a, on_b) = linked(&a, &b).await;
        tokio::time::sleep(HEARTBEAT).await;
        // The thread of the links, and so all that they do.
        std::thread::sleep(SILENCE + 2 * HEARTBEAT);
        tokio::time::sleep(2 * HEARTBEAT).await;
        assert!(on_a.connected() && on_b.connected());
    });
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    System::new().block_on(async {
        let (a, b) = (End::new("a"), End::new("b"));
        let (on_a, _silent) = introduced(&a, &b).await;
        // The other end is there, but nobody says anything on it.
        let on_a = a.link(on_a);
        tokio::time::sleep(SILENCE - HEARTBEAT).await;
        assert!(on_a.connected());
        tokio::time::sleep(4 * HEARTBEAT).await;
        assert!(!on_a.connected());
        let closed = &a.settings.metrics.mesh_links_closed;
        assert_eq!(closed.with_label_values(&["silent"]).get(), 1);
    });
}
