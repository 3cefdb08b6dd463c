//! Tests of the stream: what it recovers, and what it takes for repeats.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::room::idempotency::WINDOW;

const NOW: Time = Time::from_millis(1_000_000);
const TERM: Term = Term { count: 1, node: NodeId(1) };

fn options() -> RoomOptions {
    RoomOptions { history_size: 5, history_ttl: Duration::from_secs(60), ..Default::default() }
}

fn entry(offset: u64) -> Entry {
    let publication = Publication { offset, data: Bytes::from("1"), ..Default::default() };
    Entry {
        publication: Arc::new(publication),
        forward: Some((NodeId(1), offset)),
        key: Some(format!("k{offset}").into()),
        version: None,
    }
}

fn stream(count: u64) -> Stream {
    let mut stream = Stream::new(Epoch(0xe1), Root::default());
    for offset in 1..=count {
        stream.append(entry(offset), TERM, &options(), NOW);
    }
    stream
}

fn since(epoch: &str, offset: u64) -> Since {
    Since { epoch: epoch.into(), offset }
}

fn recovered(stream: &Stream, epoch: &str, offset: u64) -> Option<Vec<u64>> {
    let missed = stream.recover(&since(epoch, offset), None, &options(), 300)?;
    Some(missed.iter().map(|publication| publication.offset).collect())
}

#[test]
fn recovers_what_the_ring_holds_and_nothing_else() {
    let stream = stream(8);
    assert_eq!(recovered(&stream, "e1", 6), Some(vec![7, 8]));
    assert_eq!(recovered(&stream, "e1", 8), Some(vec![]));
    assert_eq!(recovered(&stream, "", 3), Some(vec![4, 5, 6, 7, 8]));
    assert_eq!(recovered(&stream, "e1", 2), None, "the ring begins at 4");
    assert_eq!(recovered(&stream, "e1", 9), None, "nobody has said that yet");
    assert_eq!(recovered(&stream, "e2", 6), None, "another epoch");
    assert_eq!(recovered(&stream, "0e1", 6), None, "not how the epoch is written");
    assert_eq!(stream.recover(&since("e1", 3), None, &options(), 4), None, "over the limit");
}

#[test]
fn a_later_epoch_vouches_for_the_earlier_up_to_where_it_ended() {
    let mut stream = stream(4);
    stream.succeed(Epoch(0xe2));
    stream.append(entry(5), TERM, &options(), NOW);
    assert_eq!(recovered(&stream, "e1", 3), Some(vec![4, 5]));
    assert_eq!(recovered(&stream, "e1", 4), Some(vec![5]));
    assert_eq!(recovered(&stream, "e1", 5), None, "e1's own fifth was another one");
    assert_eq!(recovered(&stream, "e2", 5), Some(vec![]));
}

#[test]
fn cache_mode_gives_the_newest_unless_it_is_known() {
    let cache = RoomOptions { recovery_cache: true, ..options() };
    let missed = |stream: &Stream, epoch, offset| {
        let missed = stream.recover(&since(epoch, offset), None, &cache, 300)?;
        Some(missed.iter().map(|publication| publication.offset).collect::<Vec<_>>())
    };
    assert_eq!(missed(&stream(8), "old", 1), Some(vec![8]));
    assert_eq!(missed(&stream(8), "e1", 8), Some(vec![]));
    assert_eq!(missed(&stream(0), "old", 1), None);
    assert_eq!(missed(&stream(0), "", 0), None, "there is nothing to have");
    assert_eq!(missed(&stream(8), "", 8), Some(vec![8]), "it can't tell what it has");
}

#[test]
fn keys_are_forgotten_after_the_window() {
    let mut stream = stream(2);
    stream.expire(&options(), NOW + WINDOW);
    assert_eq!(stream.find(Some("k2"), None), Repeat::No);
    assert!(stream.placed.as_ref().is_none_or(|placed| placed.keys.is_empty()));
    assert_eq!(stream.next_expiry(&options()), None);
}

#[test]
fn a_room_comes_to_later_versions_only() {
    let version = |number, epoch: &str| Version { number, epoch: epoch.into() };
    let mut stream = stream(1);
    assert!(!stream.has_come_to(&version(1, "")));
    stream.append(Entry { version: Some(version(3, "a")), ..entry(2) }, TERM, &options(), NOW);
    stream.append(entry(3), TERM, &options(), NOW);
    let mut follower = stream.clone();
    follower.version = None;
    for item in stream.origins() {
        follower.take(item, &options(), NOW);
    }
    for stream in [stream, follower] {
        assert!(stream.has_come_to(&version(2, "a")) && stream.has_come_to(&version(3, "a")));
        assert!(stream.has_come_to(&version(3, "")), "whatever the epoch");
        assert!(!stream.has_come_to(&version(4, "a")) && !stream.has_come_to(&version(4, "")));
        assert!(!stream.has_come_to(&version(1, "b")), "numbers begin anew");
    }
}

#[test]
fn of_many_nodes_those_that_were_silent_for_the_longest_are_forgotten() {
    let mut stream = stream(1);
    let later = NOW + Duration::from_secs(1);
    for node in 0..MAX_ORIGINS as u64 {
        stream.remember(None, Some((NodeId(1_000_000 + node), 1)), 1, later);
    }
    assert_eq!(stream.find(None, Some((NodeId(1), 1))), Repeat::No);
    let all = (0..MAX_ORIGINS as u64).map(|node| (NodeId(1_000_000 + node), 1));
    assert!(all.into_iter().all(|it| stream.find(None, Some(it)) != Repeat::No));
}

#[test]
fn members_have_only_what_a_majority_has() {
    let mut stream = stream(5);
    stream.commit(3);
    assert_eq!(recovered(&stream, "e1", 1), Some(vec![2, 3]));
    assert_eq!(stream.visible().offset, 3);
    let offsets = |page: Vec<Arc<Publication>>| page.iter().map(|it| it.offset).collect::<Vec<_>>();
    assert_eq!(offsets(stream.page(None, true, 2)), [3, 2]);
    assert_eq!(offsets(stream.uncommitted()), [4, 5]);
    stream.commit(5);
    assert_eq!(recovered(&stream, "e1", 1), Some(vec![2, 3, 4, 5]));
}

#[test]
fn what_waits_for_a_majority_is_all_that_memory_has_of_it() {
    let mut stream = stream(5);
    stream.commit(1);
    stream.history.drop_through(3);
    let waiting: Vec<u64> = stream.uncommitted().iter().map(|it| it.offset).collect();
    assert_eq!(waiting, [4, 5]);
}

#[test]
fn a_forward_is_a_repeat_however_long_ago_it_was_placed() {
    let stream = stream(MAX_FORWARDS as u64 + 10);
    assert_eq!(stream.find(None, Some((NodeId(1), 2))), Repeat::Somewhere);
    assert_eq!(stream.find(None, Some((NodeId(1), 200))), Repeat::At(200));
    assert_eq!(stream.find(None, Some((NodeId(1), 300))), Repeat::No);
    assert_eq!(stream.find(None, Some((NodeId(2), 2))), Repeat::No, "another node's");
}
