//! What a session does with the stream that a backend has for a subscriber.

use serde_json::{Value, json};

use super::{
    tests::{Talk, settings},
    *,
};
use crate::{
    backend::{
        options::{BackendId, Proxies, RoomBackends, RoomProxies, StreamBackend, Verdict},
        request::Operation,
        stream::StreamPublication,
    },
    protocol::message,
    room::types::Recovery,
};

const BACKEND: BackendId = BackendId(0);

fn streamed(both_ways: bool) -> SessionSettings {
    let stream = Some(StreamBackend { id: BACKEND, both_ways });
    let asked = RoomProxies { stream, ..RoomProxies::default() };
    let rooms = RoomBackends {
        named: [("chat".into(), asked)].into_iter().collect(),
        ..RoomBackends::default()
    };
    SessionSettings { proxies: Proxies { rooms, ..Proxies::default() }, ..settings() }
}

fn connected(both_ways: bool) -> Talk {
    let mut talk = Talk::new(streamed(both_ways));
    talk.say(&json!({"id": 1, "connect": {}}));
    talk.out.clear();
    talk
}

/// The number of the stream that is to be opened.
fn opens(talk: &mut Talk) -> u32 {
    let out = std::mem::take(&mut talk.out);
    let [Out::Call(number, Call::Stream(request, _))] = &out[..] else { panic!("{out:?}") };
    let Operation::Subscribe { room, .. } = &request.operation else { panic!("{request:?}") };
    assert_eq!((request.to, room.as_str()), (BACKEND, "chat:a"));
    *number
}

fn decide(talk: &mut Talk, number: u32, response: BackendResponse) {
    talk.input(In::Called(number, Ok(Called::Backend(response))));
}

fn subscribe(talk: &mut Talk, id: u32) -> u32 {
    talk.say(&json!({"id": id, "subscribe": {"channel": "chat:a"}}));
    opens(talk)
}

/// A client that is in the room, and the number of its stream.
fn in_a_room(both_ways: bool) -> (Talk, u32) {
    let mut talk = connected(both_ways);
    let number = subscribe(&mut talk, 2);
    decide(&mut talk, number, BackendResponse::Subscribe(Box::default()));
    assert!(!orders(&mut talk).contains(&(number, ToStream::Go)), "it is not in the room yet");
    let result = Ok(Subscribed { position: None, recovery: Recovery::NotAsked });
    talk.input(In::Subscribed { room: "chat:a".into(), id: 2, result });
    assert_eq!(orders(&mut talk), [(number, ToStream::Go)]);
    (talk, number)
}

/// What streams hear.
fn orders(talk: &mut Talk) -> Vec<(u32, ToStream)> {
    let orders = std::mem::take(&mut talk.out).into_iter().filter_map(|out| match out {
        Out::Stream(number, order) => Some((number, order)),
        _ => None,
    });
    orders.collect()
}

fn publication(data: &'static str) -> FromStream {
    let tags = [("k".to_owned(), "v".to_owned())].into();
    FromStream::Publication(StreamPublication { data: data.into(), tags })
}

#[test]
fn what_a_stream_brings_is_for_its_subscriber() {
    let (mut talk, number) = in_a_room(false);
    talk.input(In::Streamed(number, publication("{\"n\":1}")));
    let expected =
        json!({"push": {"channel": "chat:a", "pub": {"data": {"n": 1}, "tags": {"k": "v"}}}});
    assert_eq!(talk.replies(), [expected]);
    talk.input(In::Streamed(number + 1, publication("2")));
    assert_eq!(talk.replies(), [Value::Null; 0], "no stream of its own");
}

#[test]
fn the_end_of_a_stream_is_that_of_its_subscription() {
    for (end, code) in [(FromStream::Ended, 2000), (FromStream::Broken, 2500)] {
        let (mut talk, number) = in_a_room(false);
        talk.input(In::Streamed(number, end));
        assert!(talk.out.contains(&Out::Stream(number, ToStream::End)));
        let replies = talk.replies();
        assert_eq!(replies[0]["push"]["unsubscribe"]["code"], code, "{replies:?}");
        talk.input(In::Streamed(number, publication("1")));
        assert_eq!(talk.replies(), [Value::Null; 0]);
        // It may subscribe again.
        assert!(subscribe(&mut talk, 3) > number);
    }
}

#[test]
fn a_stream_ends_with_its_subscription() {
    let (mut talk, number) = in_a_room(false);
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "chat:a"}}));
    assert_eq!(orders(&mut talk), [(number, ToStream::End)]);
    // Before the backend has answered.
    let mut talk = connected(false);
    let number = subscribe(&mut talk, 2);
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "chat:a"}}));
    assert_eq!(orders(&mut talk), [(number, ToStream::End)]);
    decide(&mut talk, number, BackendResponse::Subscribe(Box::default()));
    assert_eq!((talk.out.len(), talk.session.in_flight), (0, 0), "{:?}", talk.out);
}

#[test]
fn who_is_refused_has_no_stream() {
    let mut talk = connected(false);
    let number = subscribe(&mut talk, 2);
    let error = message::Error { code: 1042, message: "no".into(), temporary: false };
    decide(&mut talk, number, BackendResponse::Refused(Verdict::Error(error)));
    assert!(talk.out.contains(&Out::Stream(number, ToStream::End)));
    assert_eq!(talk.replies()[0]["error"]["code"], 1042);
    let number = subscribe(&mut talk, 3);
    talk.input(In::Called(number, Err(CallFailed)));
    assert!(talk.out.contains(&Out::Stream(number, ToStream::End)));
    assert_eq!(talk.replies()[0]["error"]["code"], 100);
    assert_eq!(talk.session.in_flight, 0);
}

#[test]
fn what_a_client_publishes_goes_to_a_stream_in_both_directions_only() {
    let publish = json!({"id": 3, "publish": {"channel": "chat:a", "data": {"n": 1}}});
    let (mut talk, number) = in_a_room(true);
    talk.say(&publish);
    assert!(talk.out.contains(&Out::Stream(number, ToStream::Publish("{\"n\":1}".into()))));
    assert_eq!(talk.replies(), [json!({"id": 3, "publish": {}})]);
    assert!(talk.requests().is_empty(), "the room hears nothing");
    let (mut talk, _) = in_a_room(false);
    talk.say(&publish);
    assert_eq!(orders(&mut talk), []);
}
