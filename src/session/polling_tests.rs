//! What a session does with commands about keys, and with what the node's shared polls answer.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    tests::{Talk, WALL, connecting, settings},
    *,
};
use crate::{
    backend::options::BackendId,
    room::options::{Namespaces, Permissions, RoomOptions},
    session::polling::MAX_KEY,
    shared_poll::{
        options::{Mode, PollOptions, PolledNamespaces, SharedPollOptions},
        signature::{Signed, SigningKeys},
        state::{Reply, Request, Track},
    },
};

fn polled() -> SessionSettings {
    let options = PollOptions {
        backend: BackendId(0),
        mode: Mode::Versioned,
        refresh_interval: Duration::from_secs(1),
        refresh_batch_size: 10,
        max_keys_per_connection: 10,
        max_keys_per_channel: 10,
        shutdown_delay: Duration::from_secs(1),
        expired_delay: Duration::from_secs(25),
    };
    let named = [("poll".into(), Arc::new(options))].into_iter().collect();
    let keys = SigningKeys { secret: "secret".into(), ..SigningKeys::default() };
    let permissions = Permissions {
        subscribe_for_client: true,
        subscribe_for_anonymous: true,
        ..Default::default()
    };
    let room = Arc::new(RoomOptions { permissions, presence: true, ..RoomOptions::default() });
    SessionSettings {
        namespaces: Arc::new(Namespaces {
            default: room.clone(),
            named: [("poll".into(), room)].into_iter().collect(),
        }),
        shared_polls: SharedPollOptions {
            namespaces: Arc::new(PolledNamespaces { default: None, named }),
            keys,
            concurrency: 1,
        },
        ..settings()
    }
}

fn connected() -> Talk {
    let mut talk = connecting(polled(), json!({"sub": "ann"}));
    talk.out.clear();
    talk
}

fn inside() -> Talk {
    let mut talk = connected();
    talk.say(&json!({"id": 2, "subscribe": {"channel": "poll:a", "type": 4}}));
    answer(&mut talk, 2, Reply::Entered(Ok("e".into())));
    talk.out.clear();
    talk
}

fn answer(talk: &mut Talk, id: u32, reply: Reply) {
    talk.input(In::Polled { room: "poll:a".into(), id, reply });
}

/// What the node's shared polls were asked since the last call.
fn asked(talk: &mut Talk) -> Vec<Request> {
    let asked = talk.out.drain(..).filter_map(|it| match it {
        Out::Poll(room, request) => Some((room, request)),
        _ => None,
    });
    let asked = asked.inspect(|(room, _)| assert_eq!(&**room, "poll:a"));
    asked.map(|(_, request)| request).collect()
}

fn signature(keys: &[&str], expires: i64) -> String {
    Signed { user: "ann", room: "poll:a", keys }.sign("secret", WALL, expires)
}

fn track(batches: &[Value]) -> Value {
    json!({"id": 3, "sub_refresh": {"channel": "poll:a", "type": 1, "track": batches, "untrack": ["z"]}})
}

fn error(talk: &mut Talk, command: &Value) -> Value {
    talk.answer(command)["error"]["code"].clone()
}

#[test]
fn a_room_is_entered_by_the_kind_of_subscription_that_it_is_for() {
    let mut talk = connected();
    let subscribe = |channel: &str, kind: i32| json!({"id": 2, "subscribe": {"channel": channel, "type": kind}});
    assert_eq!(error(&mut talk, &subscribe("poll:a", 0)), 107);
    assert_eq!(error(&mut talk, &subscribe("poll:a", 1)), 107);
    assert_eq!(error(&mut talk, &subscribe("lobby", 4)), 108);
    assert_eq!(error(&mut talk, &subscribe("lobby", 1)), 108);
    talk.say(&subscribe("poll:a", 4));
    assert!(matches!(asked(&mut talk)[..], [Request::Enter { id: 2, .. }]));
    assert_eq!(error(&mut talk, &subscribe("poll:a", 4)), 105);
    answer(&mut talk, 2, Reply::Entered(Ok("e".into())));
    assert_eq!(talk.replies(), [json!({"id": 2, "subscribe": {"type": 4, "epoch": "e"}})]);
    for command in [
        json!({"id": 4, "publish": {"channel": "poll:a", "data": 1}}),
        json!({"id": 4, "presence": {"channel": "poll:a"}}),
        json!({"id": 4, "history": {"channel": "poll:a"}}),
    ] {
        assert_eq!(error(&mut talk, &command), 108, "{command}");
    }
}

#[test]
fn keys_are_tracked_by_the_signatures_of_the_application() {
    let mut talk = inside();
    let items = |keys: &[(&str, u64)]| -> Vec<Value> {
        keys.iter().map(|(key, version)| json!({"key": key, "version": version})).collect()
    };
    let one = json!({"items": items(&[("a", 0), ("b", 7)]), "signature": signature(&["a", "b"], WALL + 60)});
    let two = json!({"items": items(&[("c", 0)]), "signature": signature(&["c"], 0)});
    talk.say(&track(&[one.clone(), two]));
    let requests = asked(&mut talk);
    let [Request::Track { id: 3, items: tracked, untrack, expires_at, .. }] = &requests[..] else {
        panic!("{requests:?}");
    };
    let ends = |it: &Track| it.expires_at.map(|at| at.since(Time::default()).as_secs());
    let tracked: Vec<_> = tracked.iter().map(|it| (&*it.key, it.version, ends(it))).collect();
    assert_eq!(tracked, [("a", 0, Some(85)), ("b", 7, Some(85)), ("c", 0, None)]);
    assert_eq!((untrack.as_slice(), *expires_at), (&["z".into()][..], Some(WALL + 60)));
    answer(&mut talk, 3, Reply::Tracked(Ok(Some(WALL + 60))));
    assert_eq!(talk.replies(), [json!({"id": 3, "sub_refresh": {"expires": true, "ttl": 60}})]);
    answer(&mut talk, 3, Reply::Tracked(Err(ErrorCode::LimitExceeded)));
    assert_eq!(talk.replies()[0]["error"]["code"], 106);
    let batch = |keys: &[(&str, u64)], signature: &str| json!({"items": items(keys), "signature": signature});
    let long = "k".repeat(MAX_KEY + 1);
    for (batches, code) in [
        (vec![], 107),
        (vec![batch(&[], &signature(&[], 0))], 107),
        (vec![batch(&[("", 0)], &signature(&[""], 0))], 107),
        (vec![batch(&[(&long, 0)], &signature(&[&long], 0))], 107),
        (vec![one.clone(), batch(&[("c", 0)], "invalid")], 103),
        (vec![batch(&[("b", 0), ("a", 0)], &signature(&["a", "b"], 0))], 103),
        (vec![one, batch(&[("c", 0)], &signature(&["c"], WALL - 60))], 109),
    ] {
        assert_eq!(error(&mut talk, &track(&batches)), code, "{batches:?}");
        assert!(asked(&mut talk).is_empty());
    }
}

#[test]
fn keys_are_not_tracked_any_more() {
    let mut talk = inside();
    let untrack = |keys: &[&str]| json!({"id": 3, "sub_refresh": {"channel": "poll:a", "type": 2, "untrack": keys}});
    assert_eq!(error(&mut talk, &untrack(&[])), 107);
    talk.say(&untrack(&["a"]));
    assert!(
        matches!(&asked(&mut talk)[..], [Request::Untrack { id: 3, keys, .. }] if **keys == ["a".into()])
    );
    answer(&mut talk, 3, Reply::Untracked);
    assert_eq!(talk.replies(), [json!({"id": 3, "sub_refresh": {}})]);
    let elsewhere =
        json!({"id": 3, "sub_refresh": {"channel": "lobby", "type": 2, "untrack": ["a"]}});
    assert_eq!(error(&mut talk, &elsewhere), 103);
}

#[test]
fn whoever_goes_tracks_nothing_any_more() {
    let mut talk = inside();
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "poll:a"}}));
    assert!(matches!(asked(&mut talk)[..], [Request::Leave { id: Some(3), .. }]));
    assert!(talk.replies().is_empty(), "what comes until then is for the subscription");
    answer(&mut talk, 3, Reply::Left);
    assert_eq!(talk.replies(), [json!({"id": 3, "unsubscribe": {}})]);
    let mut talk = inside();
    talk.input(In::InsufficientState("poll:a".into()));
    assert!(matches!(talk.out[..], [Out::Poll(_, Request::Leave { id: None, .. }), Out::Reply(_)]));
    assert_eq!(talk.replies()[0]["push"]["unsubscribe"]["code"], 2500);
    let mut talk = inside();
    talk.input(In::Closed);
    assert!(matches!(asked(&mut talk)[..], [Request::Leave { id: None, .. }]));
}

#[test]
fn who_leaves_before_it_is_in_gets_one_answer_to_each_command() {
    let mut talk = connected();
    talk.say(&json!({"id": 2, "subscribe": {"channel": "poll:a", "type": 4}}));
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "poll:a"}}));
    answer(&mut talk, 2, Reply::Entered(Ok(String::new())));
    answer(&mut talk, 3, Reply::Left);
    let ids: Vec<_> =
        talk.replies().iter().map(|it| (it["id"].clone(), it["error"]["code"].clone())).collect();
    assert_eq!(ids, [(json!(2), json!(100)), (json!(3), Value::Null)]);
}
