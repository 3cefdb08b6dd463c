//! On what terms a client is in a room: what its options, what the client asks for and what it is granted come to.

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    tests::{Talk, connecting, settings, token},
    *,
};
use crate::room::{
    control::{Action, Control},
    options::{Audience, Namespaces, Permissions, RoomOptions},
    types::{InRoom, Subscribe},
};

/// Settings with these options for rooms without a namespace.
fn rooms(options: RoomOptions) -> SessionSettings {
    let permissions = Permissions { subscribe_for_client: true, ..options.permissions };
    let default = Arc::new(RoomOptions { permissions, ..options });
    SessionSettings {
        namespaces: Arc::new(Namespaces { default, named: Default::default() }),
        ..settings()
    }
}

/// The subscribe of a client of user ann that says this beside the room's name.
fn subscribed(options: RoomOptions, asked: Value) -> Subscribe {
    let mut talk = connecting(rooms(options), json!({"sub": "ann"}));
    talk.out.clear();
    let mut subscribe = json!({"channel": "a"});
    subscribe.as_object_mut().into_iter().for_each(|it| {
        it.extend(asked.as_object().cloned().unwrap_or_default());
    });
    talk.say(&json!({"id": 2, "subscribe": subscribe}));
    last(&talk)
}

fn last(talk: &Talk) -> Subscribe {
    match talk.requests().last() {
        Some(Request::Subscribe(it)) => it.clone(),
        other => panic!("no subscribe but {other:?}"),
    }
}

#[test]
fn a_token_says_who_is_shown_and_announced() {
    let in_room = |overrides: Value, join_leave: bool| {
        let claims = json!({"sub": "ann", "channel": "a", "override": overrides});
        let options = RoomOptions { presence: true, join_leave, ..RoomOptions::default() };
        subscribed(options, json!({"token": token(claims)})).info.in_room.clone()
    };
    let flags =
        |hidden, announced| Some(Box::new(InRoom { hidden, announced, ..InRoom::default() }));
    let (yes, no) = (json!({"value": true}), json!({"value": false}));
    for join_leave in [false, true] {
        assert_eq!(in_room(json!({}), join_leave), None);
        let as_it_is = json!({"presence": yes, "join_leave": {"value": join_leave}});
        assert_eq!(in_room(as_it_is, join_leave), None, "nothing is kept of what is so anyway");
    }
    assert_eq!(in_room(json!({"presence": no}), true), flags(true, None));
    assert_eq!(in_room(json!({"join_leave": no}), true), flags(false, Some(false)));
    assert_eq!(in_room(json!({"join_leave": yes, "presence": no}), false), flags(true, Some(true)));
}

#[test]
fn whoever_may_read_the_past_or_ask_who_is_there_may_have_it_pushed() {
    let options = |history: Audience, presence: Audience| RoomOptions {
        history_size: 1,
        history_ttl: Duration::from_secs(1),
        join_leave: true,
        permissions: Permissions { history, presence, ..Permissions::default() },
        ..RoomOptions::default()
    };
    let subscribers = Audience { subscriber: true, ..Audience::default() };
    let asked = json!({
        "recoverable": true, "positioned": true, "join_leave": true,
        "recover": true, "offset": 1, "epoch": "e",
    });
    let got = |history, presence| {
        let it = subscribed(options(history, presence), asked.clone());
        (it.recover.is_some(), it.flags.positioned, it.flags.join_leave)
    };
    let nobody = Audience::default();
    assert_eq!(got(nobody, nobody), (false, false, false));
    assert_eq!(got(subscribers, nobody), (true, true, false));
    assert_eq!(got(nobody, subscribers), (false, false, true));
}

#[test]
fn who_is_the_only_one_of_its_user_says_so_in_its_own_room_alone() {
    let settings = |single_connection| SessionSettings {
        personal_rooms: Some(String::new()),
        subscribe_to: vec!["all".into()],
        single_connection,
        ..rooms(RoomOptions::default())
    };
    let said = |single_connection, user: &str| {
        let talk = connecting(settings(single_connection), json!({"sub": user}));
        let requests = talk.requests().into_iter().filter_map(|it| match it {
            Request::Subscribe(it) => Some(it.info.is_single_connection()),
            _ => None,
        });
        requests.collect::<Vec<_>>()
    };
    assert_eq!(said(true, "ann"), [true, false]);
    assert_eq!(said(false, "ann"), [false, false]);
    assert_eq!(said(true, ""), [false]);
}

#[test]
fn a_client_that_is_still_being_let_in_can_be_closed() {
    let mut talk = connecting(
        SessionSettings { subscribe_to: vec!["all".into()], ..rooms(RoomOptions::default()) },
        json!({"sub": "ann"}),
    );
    assert!(talk.session.is_connecting());
    let control = |action| {
        let (client, session) = Default::default();
        In::Control(Arc::new(Control { user: "ann".into(), client, session, action }))
    };
    talk.input(control(Action::Unsubscribe { room: "all".into() }));
    assert!(talk.session.is_connecting(), "nothing else is done to it");
    let except = Vec::new();
    talk.input(control(Action::Disconnect { code: 3504, reason: "x".into(), except }));
    assert_eq!(talk.closed(), Some(3504));
}
