//! Tests of what is read from the log while the room goes on, on a node that is alone.

use super::*;
use crate::room::{
    alone::{Alone, options},
    options::RoomOptions,
    registry::In,
    types::{NewPublication, Position, ReplyTo, Request, Version},
};

/// With five publications in memory, and the others in its log.
fn node() -> Alone {
    let mut node = Alone::with_options(RoomOptions { ring_limit: 5, ..options() });
    (0..20).for_each(|_| _ = node.publish("room"));
    node
}

fn ask(node: &mut Alone, since: Option<u64>, reverse: bool, limit: usize) {
    let since = since.map(|offset| Since { offset, epoch: String::new() });
    let query = Query::History(HistoryFilter { limit, since, reverse });
    node.input(In::Request("room".into(), Request::Query(query, ReplyTo::Api(1))));
}

/// The offsets that were answered, and where the room is said to stand.
fn answered(node: &mut Alone) -> (Vec<u64>, u64) {
    match node.answers.pop() {
        Some(Answer::History(page, Position { offset, .. })) => {
            (page.iter().map(|it| it.offset).collect(), offset)
        }
        other => panic!("it was answered {other:?}"),
    }
}

#[test]
fn no_page_has_a_hole_where_memory_moved_on_while_the_log_was_read() {
    let mut node = node();
    for (since, from) in [(None, 20), (Some(18), 17), (Some(10), 9)] {
        node.is_slow = true;
        ask(&mut node, since, true, 12);
        (0..8).for_each(|_| _ = node.publish("room"));
        assert!(node.answers.is_empty(), "it waits for the log");
        node.is_slow = false;
        node.answer_reads();
        let top = node.publish("room").offset - 1;
        let (page, position) = answered(&mut node);
        let from = if since.is_none() { position } else { from };
        assert_eq!(page, (1..=from).rev().take(12).collect::<Vec<_>>());
        assert!(position <= top);
    }
    node.is_slow = true;
    ask(&mut node, Some(3), false, 100);
    (0..8).for_each(|_| _ = node.publish("room"));
    node.is_slow = false;
    node.answer_reads();
    let (page, top) = answered(&mut node);
    let end = page.last().copied().unwrap_or(0);
    assert_eq!(page, (4..=end).collect::<Vec<_>>());
    assert!(end >= 39 && end <= top);
}

#[test]
fn a_page_ends_before_what_nobody_can_read_and_the_next_one_begins_behind_it() {
    let mut node = node();
    node.damaged.insert(4);
    ask(&mut node, Some(3), false, 100);
    assert_eq!(answered(&mut node).0, (5..=20).collect::<Vec<_>>());
    ask(&mut node, Some(3), false, 2);
    assert_eq!(answered(&mut node).0, [5, 6]);
    ask(&mut node, Some(1), false, 100);
    assert_eq!(answered(&mut node).0, [2, 3]);
    ask(&mut node, None, true, 100);
    assert_eq!(answered(&mut node).0, (5..=20).rev().collect::<Vec<_>>());
    ask(&mut node, Some(5), true, 2);
    assert_eq!(answered(&mut node).0, [3, 2]);
    node.damaged.extend([5, 6]);
    ask(&mut node, Some(3), false, 2);
    assert_eq!(answered(&mut node).0, [7, 8]);
    node.damaged.extend(7..=15);
    ask(&mut node, Some(3), false, 2);
    assert_eq!(answered(&mut node).0, [16, 17], "memory has the rest");
    node.damaged = [4].into();
    ask(&mut node, Some(4), false, 3);
    assert_eq!(answered(&mut node).0, [5, 6, 7]);
}

#[test]
fn a_version_is_known_after_a_restart_however_much_followed_it() {
    let mut node = Alone::with_options(RoomOptions { ring_limit: 5, ..options() });
    let versioned = |number| NewPublication {
        data: "x".into(),
        version: Some(Version { number, epoch: "v".into() }),
        ..NewPublication::default()
    };
    node.publish_with("room", versioned(7));
    (0..20).for_each(|_| _ = node.publish("room"));
    let mut node = node.again();
    node.now += 600_000;
    assert_eq!(node.publish_with("room", versioned(6)).offset, 21, "it is an old one");
    assert_eq!(node.publish_with("room", versioned(8)).offset, 22);
}
