//! Tests of rooms that go out of memory and come back, on a node that is alone with a log that takes everything.

use super::*;
use crate::{
    queue::{name, options::QueueOptions},
    room::{
        alone::{Alone, SECOND, options, settings},
        line::Root,
        logged::LogReply,
        registry::In,
        types::{
            Answer, ClientId, ClientInfo, Epoch, GroupAnswer, GroupRequest, MemberFlags,
            NewPublication, Position, ReplyTo, Request, SocketRef, Subscribe, Version,
        },
    },
};

#[test]
fn a_room_that_nobody_uses_goes_out_of_memory_and_goes_on_where_it_was() {
    let mut node = Alone::empty();
    let first = node.publish("room");
    node.pass(59);
    assert!(!node.sleeps("room"));
    node.pass(2);
    assert!(node.sleeps("room"));
    assert_eq!((node.state.rooms(), node.state.history_bytes(), node.reads), (1, 0, 0));
    let second = node.publish("room");
    assert_eq!(second, Position { offset: 2, ..first }, "in the same epoch, and at once");
    assert!(!node.sleeps("room") && node.reads == 0);
    assert_eq!(node.history("room", 9), (2, second), "what is not in memory is read");
    assert_eq!(node.reads, 1);
    // Reading is use as well.
    node.pass(50);
    node.history("room", 1);
    node.pass(50);
    assert!(!node.sleeps("room"));
}

#[test]
fn a_room_whose_keys_are_remembered_stays_in_memory_until_they_are_not() {
    let mut node = Alone::empty();
    let keyed = || NewPublication {
        data: "x".into(),
        idempotency_key: Some("key".into()),
        ..NewPublication::default()
    };
    let first = node.publish_with("room", keyed());
    node.pass(290);
    assert!(!node.sleeps("room"));
    assert_eq!(node.publish_with("room", keyed()), first);
    node.pass(61);
    assert!(node.sleeps("room"));
}

#[test]
fn a_version_that_a_room_has_come_to_is_known_when_it_comes_back() {
    let mut node = Alone::empty();
    let versioned = |number| NewPublication {
        data: "x".into(),
        version: Some(Version { number, epoch: "v".into() }),
        ..NewPublication::default()
    };
    node.publish_with("room", versioned(7));
    node.pass(61);
    assert!(node.sleeps("room"));
    node.publish_with("room", versioned(6));
    assert_eq!(node.history("room", 0).1.offset, 1, "it is an old one");
    node.publish_with("room", versioned(8));
    assert_eq!(node.history("room", 0).1.offset, 2);
}

#[test]
fn a_group_begins_over_a_room_that_is_out_of_memory() {
    let groups = vec!["one".to_owned()];
    let queue = QueueOptions { groups, ..QueueOptions::default() };
    let mut node = Alone::with_options(options().with_queue(queue));
    node.publish("room");
    node.pass(70);
    assert!(node.sleeps("room"));
    let pull =
        GroupRequest::Pull { most: 10, wait: Duration::from_secs(1), by: None, bytes: 1 << 20 };
    let room = name::of_group("room", "one").into();
    node.input(In::Request(room, Request::Group(pull.into(), ReplyTo::Api(1))));
    node.pass(2);
    match node.answers.pop() {
        Some(Answer::Group(GroupAnswer::Pulled(it))) => assert_eq!(it.len(), 1),
        other => panic!("it was answered {other:?}"),
    }
    node.pass(120);
    assert!(!node.sleeps("room"), "its messages are needed");
}

#[test]
fn a_room_of_which_only_the_latest_is_recovered_stays_in_memory() {
    let mut node = Alone::with_options(RoomOptions { recovery_cache: true, ..options() });
    node.publish("room");
    node.pass(120);
    assert!(!node.sleeps("room"), "the latest is in no ring then");
}

#[test]
fn a_room_that_someone_has_left_goes_out_of_memory() {
    // Nobody is notified of that, so nothing but the room itself has to forget it.
    let mut node = Alone::empty();
    node.publish("room");
    let (socket, client) = (SocketRef { worker: 0, slot: 1, generation: 0 }, ClientId(1));
    let subscribe = Subscribe {
        socket,
        id: 1,
        info: ClientInfo::new(client, "ann").into(),
        flags: MemberFlags { positioned: true, join_leave: true },
        delivery: None,
        recover: None,
        must_recover: false,
    };
    node.input(In::Request("room".into(), Request::Subscribe(subscribe)));
    node.pass(120);
    assert!(!node.sleeps("room"), "someone is there");
    let left = Request::Unsubscribe { socket, client, reply: ReplyTo::Nobody };
    node.input(In::Request("room".into(), left));
    node.pass(70);
    assert!(node.sleeps("room"));
}

#[test]
fn rooms_that_are_found_in_the_log_are_out_of_memory_until_they_are_used() {
    let mut node = Alone::empty();
    let names: Vec<String> = (0..500).map(|it| format!("room-{it}")).collect();
    for name in &names {
        node.publish(name);
    }
    let mut node = node.again();
    node.pass(5);
    assert_eq!((node.state.dormant_rooms(), node.reads), (500, 0), "nothing of them was read");
    assert!(node.state.to_be_taken() >= 500, "the node has what no other has");
    let after = node.publish("room-7");
    assert_eq!(after.offset, 2);
    assert_eq!((node.state.dormant_rooms(), node.state.rooms()), (499, 500));
    assert_eq!(node.history("room-7", 9), (2, after));
    node.pass(70);
    assert_eq!(node.state.dormant_rooms(), 500);
}

#[test]
fn a_dormant_room_is_forgotten_when_its_time_is_over() {
    let mut node = Alone::empty();
    node.publish("room");
    node.pass(61);
    assert!(node.sleeps("room"));
    node.now += 86_400 * SECOND;
    node.pass(15);
    assert_eq!((node.state.rooms(), node.log.len()), (0, 0), "on disk too");
}

#[test]
fn damage_that_is_found_in_a_dormant_room_is_told_to_it() {
    let mut node = Alone::empty();
    node.publish("room");
    node.pass(61);
    assert!(node.sleeps("room"));
    node.input(In::Log("room".into(), LogReply::Damaged(1, 2)));
    assert!(!node.sleeps("room"), "it looks for another copy");
}

fn dormant(role: DormantRole) -> Dormant {
    let term = Term { count: 9, node: NodeId(0x8877_6655_4433_2211) };
    let line = Line { epoch: Epoch(u64::MAX / 3), lineage: vec![(Epoch(5), 2)], top: 40_000 };
    let root = Root { tentative: false, term, serial: 77 };
    Dormant {
        head: Head { line, root, term, version: None },
        first: 39_000,
        last_used: 86_400_000,
        attendance: 12,
        owed: false,
        given: None,
        cold: false,
        visible: true,
        role,
    }
}

#[test]
fn what_is_remembered_is_read_again_and_is_small() {
    let (a, b) = (NodeId(u64::MAX / 7), NodeId(u64::MAX / 9));
    let home = DormantHome {
        term: Term { count: 9, node: a },
        successors: vec![(b, 123_456, 12)],
        runs: vec![(b, 123_457, 3)],
    };
    for role in [DormantRole::Guest, DormantRole::Successor(b, 70_000, 3), DormantRole::Home(home)]
    {
        let room = dormant(role);
        let record = room.to_bytes("chat:room-123456").expect("its name is short enough");
        assert_eq!((record.name(), record.room().as_ref()), ("chat:room-123456", Some(&room)));
        assert!(record.0.len() <= 150, "{} bytes for {room:?}", record.0.len());
    }
}

#[test]
fn a_home_is_the_same_when_it_comes_back() {
    let (home, b) = (NodeId(1), NodeId(2));
    let woken = DormantHome {
        term: Term { count: 9, node: home },
        successors: vec![(b, 5, 12)],
        runs: vec![(b, 6, 3)],
    };
    let mut node = Node::new(home, settings(), 1);
    node.links.insert(b, crate::room::node::LinkState { up: Some(12), since: Time::default() });
    let it = Home::woken(woken.clone(), 7);
    assert!(it.is_at_rest(&[b], 7, &node));
    assert_eq!(it.to_dormant(&node), woken);
    for (wanted, top, why) in [
        (&[][..], 7, "it has a successor that is not wanted"),
        (&[b, NodeId(3)], 7, "it lacks one"),
        (&[NodeId(3)], 7, "it has another"),
        (&[b], 8, "its successor has not all that there is"),
    ] {
        assert!(!it.is_at_rest(wanted, top, &node), "{why}");
    }
    node.links.insert(b, crate::room::node::LinkState { up: Some(13), since: Time::default() });
    assert!(!it.is_at_rest(&[b], 7, &node), "the link is another");
}
