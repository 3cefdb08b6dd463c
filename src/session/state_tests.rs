//! What a session answers, command by command.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::{
    access::verifier::Verifier,
    backend::options::Proxies,
    protocol::codec,
    room::{
        options::{Audience, Namespaces, Permissions, RoomOptions},
        types::{Epoch, Failure, Position, Publication, Recovery, Since},
    },
};

const SOCKET: SocketRef = SocketRef { worker: 1, slot: 2, generation: 3 };
pub(super) const WALL: i64 = 1_000_000;
/// What the outbox of these sessions can take.
const SPACE: usize = 1_143;

pub(super) fn settings() -> SessionSettings {
    let open = Audience { client: true, subscriber: true, anonymous: true };
    let chat = RoomOptions {
        presence: true,
        history_size: 10,
        history_ttl: Duration::from_secs(60),
        force_recovery: true,
        permissions: Permissions {
            subscribe_for_client: true,
            subscribe_for_anonymous: true,
            publish: Audience { client: false, ..open },
            presence: open,
            history: open,
            ..Permissions::default()
        },
        ..RoomOptions::default()
    };
    let namespaces = Namespaces {
        default: Arc::default(),
        named: [("chat".into(), Arc::new(chat))].into_iter().collect(),
    };
    SessionSettings {
        insecure: false,
        allow_anonymous: true,
        refuse_anonymous_tokens: false,
        tokens: Arc::new(Verifier::of_secret("secret")),
        subscription_tokens: Arc::new(Verifier::of_secret("secret")),
        subscribe_to: Vec::new(),
        personal_rooms: None,
        single_connection: false,
        expired_close_delay: Duration::from_secs(25),
        expired_sub_close_delay: Duration::from_secs(25),
        namespaces: Arc::new(namespaces),
        proxies: Proxies::default(),
        shared_polls: Default::default(),
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        stale_close_delay: Duration::from_secs(10),
        channel_limit: 2,
        channel_max_length: 20,
        history_limit: 300,
        in_flight_limit: 4,
        node: "n".into(),
    }
}

/// A session, and what came out of it since it was last asked.
pub(super) struct Talk {
    settings: SessionSettings,
    pub(super) session: Session,
    now: Time,
    congested: bool,
    wall: i64,
    pub(super) out: Vec<Out>,
}

impl Talk {
    pub(super) fn new(settings: SessionSettings) -> Self {
        let session = Session::new(SOCKET, Format::Json, ClientId(5));
        let (now, out) = (Time::default(), Vec::new());
        let mut talk = Self { settings, session, now, congested: false, wall: WALL, out };
        talk.input(In::Opened);
        talk.out.clear();
        talk
    }

    fn connected() -> Self {
        let mut talk = Self::new(settings());
        talk.say(&json!({"id": 1, "connect": {}}));
        talk.out.clear();
        talk
    }

    /// A client that is in chat:a.
    fn in_a_room() -> Self {
        let mut talk = Self::connected();
        talk.say(&json!({"id": 2, "subscribe": {"channel": "chat:a"}}));
        talk.let_in("chat:a", 2, Recovery::NotAsked);
        talk.out.clear();
        talk
    }

    pub(super) fn input(&mut self, input: In) {
        let (settings, congested) = (&self.settings, self.congested);
        let env = Env { settings, now: self.now, wall: self.wall, congested, space: SPACE };
        self.session.handle(input, env, &mut self.out);
        while !self.congested && self.session.can_go_on(settings) {
            self.session.handle(In::GoOn, env, &mut self.out);
        }
    }

    pub(super) fn say(&mut self, command: &Value) {
        self.input(In::Payload(Bytes::from(command.to_string())));
    }

    fn let_in(&mut self, room: &str, id: u32, recovery: Recovery) {
        let position = Some(Position { epoch: Epoch(0xe), offset: 7 });
        let result = Ok(Subscribed { position, recovery });
        self.input(In::Subscribed { room: room.into(), id, result });
    }

    pub(super) fn later(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.input(In::Wake);
    }

    /// The replies since the last call, as a client reads them.
    pub(super) fn replies(&mut self) -> Vec<Value> {
        let replies = std::mem::take(&mut self.out).into_iter().filter_map(|out| match out {
            Out::Reply(reply) => {
                let mut frame = bytes::BytesMut::new();
                codec::encode(Format::Json, &reply, &mut frame);
                Some(serde_json::from_slice(&frame).expect("a reply is JSON"))
            }
            _ => None,
        });
        replies.collect()
    }

    pub(super) fn answer(&mut self, command: &Value) -> Value {
        self.say(command);
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1, "{command} was answered by {replies:?}");
        replies.remove(0)
    }

    fn error(&mut self, command: &Value) -> Value {
        self.answer(command)["error"]["code"].clone()
    }

    pub(super) fn closed(&self) -> Option<u16> {
        self.out.iter().find_map(|out| match out {
            Out::Close(why) => Some(why.parts().0),
            _ => None,
        })
    }

    pub(super) fn requests(&self) -> Vec<&Request> {
        let requests = self.out.iter().filter_map(|out| match out {
            Out::Request(_, request) => Some(request),
            _ => None,
        });
        requests.collect()
    }
}

#[test]
fn connects_and_says_who_the_client_is() {
    let mut talk = Talk::new(settings());
    let reply = talk.answer(&json!({"id": 1, "connect": {}}));
    let expected = json!({
        "client": ClientId(5).to_string(), "version": crate::session::connecting::SERVER_VERSION, "ping": 25, "pong": true, "node": "n",
    });
    assert_eq!(reply, json!({"id": 1, "connect": expected}));
}

#[test]
fn what_comes_before_connect_or_breaks_the_protocol_closes_with_3501() {
    for command in
        [json!({}), json!({"id": 1, "subscribe": {"channel": "chat:a"}}), json!({"connect": {}})]
    {
        let mut talk = Talk::new(settings());
        talk.say(&command);
        assert_eq!(talk.closed(), Some(3501), "{command}");
    }
    for command in [json!({"id": 2, "connect": {}}), json!({"id": 2, "ping": {}}), json!({})] {
        let mut talk = Talk::connected();
        talk.say(&command);
        assert_eq!(talk.closed(), Some(3501), "{command}");
    }
    let mut talk = Talk::connected();
    talk.say(&json!({"send": {"data": 1}}));
    assert_eq!(talk.closed(), Some(3508));
}

#[test]
fn tokens_decide_who_may_connect() {
    let strict = || SessionSettings { allow_anonymous: false, ..settings() };
    let connect = |token: &str| {
        let mut talk = Talk::new(strict());
        talk.say(&json!({"id": 1, "connect": {"token": token}}));
        talk
    };
    let sign = |secret, claims: Value| crate::access::sign::sign(secret, &claims).expect("signs");
    assert_eq!(connect("").closed(), Some(3501));
    assert_eq!(connect(&sign("other", json!({"sub": "ann"}))).closed(), Some(3500));
    let mut good = connect(&sign("secret", json!({"sub": "ann", "exp": WALL + 60})));
    assert!(good.out.contains(&Out::Authenticated("ann".into())));
    assert_eq!(good.replies()[0]["connect"]["ttl"], 60);

    let mut eternal = connect(&sign("secret", json!({"sub": "ann", "exp": 1e300})));
    assert_eq!(eternal.replies()[0]["connect"]["ttl"], u32::MAX);
    eternal.later(25);
    assert_eq!(eternal.closed(), None);

    let mut expired = connect(&sign("secret", json!({"sub": "ann", "exp": WALL - 1})));
    assert_eq!(expired.replies()[0]["error"]["code"], 109);
    expired.say(&json!({"id": 2, "subscribe": {"channel": "chat:a"}}));
    assert_eq!(expired.closed(), Some(3501), "nothing is expected after an error to connect");
}

#[test]
fn a_connection_that_says_nothing_is_stale() {
    let mut talk = Talk::new(settings());
    talk.later(10);
    assert_eq!(talk.closed(), Some(3502));
}

#[test]
fn pings_want_one_pong_each() {
    let mut talk = Talk::connected();
    talk.later(25);
    assert_eq!(talk.replies(), [json!({})]);
    talk.say(&json!({}));
    talk.later(20);
    assert_eq!(talk.replies(), Vec::<Value>::new(), "not yet time for another");
    talk.later(5);
    assert_eq!(talk.replies(), [json!({})]);
    talk.later(8);
    assert_eq!(talk.closed(), Some(3012));
}

#[test]
fn subscribing_is_refused_with_the_documented_codes() {
    let mut talk = Talk::in_a_room();
    let long = "x".repeat(21);
    for (room, code) in
        [("", 107), (long.as_str(), 107), ("nowhere:x", 102), ("chat:a", 105), ("lobby", 103)]
    {
        let error = talk.error(&json!({"id": 9, "subscribe": {"channel": room}}));
        assert_eq!(error, code, "{room:?}");
    }
    let map = json!({"id": 9, "subscribe": {"channel": "chat:b", "type": 1}});
    assert_eq!(talk.error(&map), 108);
    talk.say(&json!({"id": 10, "subscribe": {"channel": "chat:b"}}));
    assert_eq!(talk.error(&json!({"id": 11, "subscribe": {"channel": "chat:c"}})), 106);
}

#[test]
fn what_was_recovered_is_told_with_the_position_asked_for() {
    let mut talk = Talk::connected();
    let recover = json!({"channel": "chat:a", "recover": true, "epoch": "e", "offset": 6});
    talk.say(&json!({"id": 2, "subscribe": recover}));
    let data = Bytes::from_static(b"1");
    let missed = Publication { offset: 7, data, ..Default::default() };
    talk.let_in("chat:a", 2, Recovery::Recovered(vec![Arc::new(missed)]));
    let expected = json!({
        "recoverable": true, "epoch": "e", "publications": [{"data": 1, "offset": 7}],
        "recovered": true, "offset": 6, "positioned": true, "was_recovering": true,
    });
    assert_eq!(talk.replies(), [json!({"id": 2, "subscribe": expected})]);
}

/// Publications from offset 1 on, of 400 bytes each.
fn large(count: u64) -> Vec<Arc<Publication>> {
    let data = Bytes::from(format!("\"{}\"", "x".repeat(398)));
    let one = |offset| Publication { offset, data: data.clone(), ..Default::default() };
    (1..=count).map(one).map(Arc::new).collect()
}

#[test]
fn a_recovery_larger_than_a_reply_has_failed() {
    let ask = |flag: u32, count: u64| {
        let mut talk = Talk::connected();
        let recover =
            json!({"channel": "chat:a", "recover": true, "epoch": "e", "offset": 0, "flag": flag});
        talk.say(&json!({"id": 2, "subscribe": recover}));
        talk.out.clear();
        talk.let_in("chat:a", 2, Recovery::Recovered(large(count)));
        let left = talk.requests().len();
        (talk.replies().remove(0), left)
    };
    let (reply, _) = ask(0, 2);
    assert_eq!(reply["subscribe"]["publications"].as_array().map(Vec::len), Some(2));
    let (reply, left) = ask(0, 3);
    assert_eq!((&reply["subscribe"]["recovered"], left), (&Value::Null, 0), "{reply}");
    assert_eq!(
        (&reply["subscribe"]["was_recovering"], &reply["subscribe"]["offset"]),
        (&json!(true), &json!(7))
    );
    let (reply, left) = ask(2, 3);
    assert_eq!((&reply["error"]["code"], left), (&json!(112), 1), "it is out of the room again");
}

#[test]
fn a_history_larger_than_a_reply_is_cut() {
    let mut talk = Talk::in_a_room();
    let mut read = |history: Vec<Arc<Publication>>| {
        talk.say(&json!({"id": 3, "history": {"channel": "chat:a", "limit": -1}}));
        let position = Position { epoch: Epoch(0xe), offset: 9 };
        talk.input(In::Answer { id: 3, answer: Answer::History(history, position) });
        talk.replies()[0]["history"]["publications"].as_array().map(Vec::len)
    };
    assert_eq!(read(large(3)), Some(2));
    assert_eq!(read(Vec::new()), Some(0));
    let huge = Publication {
        data: Bytes::from(format!("\"{}\"", "x".repeat(5000))),
        ..(*large(1)[0]).clone()
    };
    assert_eq!(read(vec![Arc::new(huge)]), Some(1), "one at least, or no one gets past it");
}

#[test]
fn what_is_published_does_not_hold_the_message_it_came_in() {
    let mut talk = Talk::in_a_room();
    talk.session.format = Format::Protobuf;
    let payload = Bytes::from_static(b"\x12\x08\x03\x3a\x0e\x0a\x06chat:a\x12\x04true");
    talk.input(In::Payload(payload.clone()));
    let Request::Publish(publication, _) = talk.requests()[0] else { panic!("not a publish") };
    assert_eq!(publication.data, b"true"[..]);
    assert!(!payload.as_ptr_range().contains(&publication.data.as_ptr()));
}

#[test]
fn only_who_may_publishes_and_reads() {
    let mut talk = Talk::connected();
    let publish = json!({"id": 3, "publish": {"channel": "chat:a", "data": {}}});
    assert_eq!(talk.error(&publish), 103, "not a subscriber");
    let mut talk = Talk::in_a_room();
    talk.say(&publish);
    assert!(matches!(talk.requests()[..], [Request::Publish(..)]));
    talk.out.clear();
    talk.input(In::Answer { id: 3, answer: Answer::Failed(Failure::Unavailable) });
    let error = json!({"code": 100, "message": "internal server error", "temporary": true});
    assert_eq!(talk.replies(), [json!({"id": 3, "error": error})]);
    let nothing = json!({"id": 4, "publish": {"channel": "chat:a"}});
    assert_eq!(talk.error(&nothing), 107);
    assert_eq!(talk.error(&json!({"id": 5, "rpc": {"method": "m", "data": 1}})), 108);
}

#[test]
fn commands_over_the_limit_wait_for_answers_in_order() {
    let mut talk = Talk::in_a_room();
    let lines: Vec<String> = (10..16)
        .map(|id| json!({"id": id, "publish": {"channel": "chat:a", "data": id}}).to_string())
        .collect();
    talk.input(In::Payload(Bytes::from(lines.join("\n"))));
    assert_eq!(talk.requests().len(), 4);
    assert!(talk.session.is_busy(&talk.settings));
    talk.out.clear();
    talk.input(In::Answer { id: 10, answer: Answer::Published(None) });
    let Request::Publish(publication, _) = talk.requests()[0] else { panic!("not a publish") };
    assert_eq!(publication.data, Bytes::from_static(b"14"));
}

#[test]
fn commands_wait_while_the_client_does_not_take_the_answers() {
    let mut talk = Talk::connected();
    talk.congested = true;
    let lines = |ids: std::ops::Range<u32>| {
        ids.map(|id| format!("{{\"id\":{id},\"unsubscribe\":{{\"channel\":\"a\"}}}}\n"))
            .collect::<String>()
    };
    talk.input(In::Payload(lines(2..1002).into()));
    assert_eq!(talk.replies().len(), COMMANDS_PER_CALL);
    assert!(talk.session.is_busy(&talk.settings));
    talk.congested = false;
    talk.input(In::GoOn);
    assert_eq!(talk.replies().len(), 1000 - COMMANDS_PER_CALL);
    assert!(!talk.session.is_busy(&talk.settings));
}

#[test]
fn large_answers_wait_until_the_client_has_taken_what_it_has() {
    let mut talk = Talk::in_a_room();
    let history = |id| json!({"id": id, "history": {"channel": "chat:a", "limit": 1}}).to_string();
    talk.input(In::Payload(format!("{}\n{}", history(5), history(6)).into()));
    talk.out.clear();
    talk.congested = true;
    let position = Position { epoch: Epoch(1), offset: 0 };
    for id in [5, 6] {
        talk.input(In::Answer { id, answer: Answer::History(Vec::new(), position) });
    }
    assert_eq!(talk.replies(), Vec::<Value>::new());
    talk.congested = false;
    talk.input(In::GoOn);
    let ids: Vec<Value> = talk.replies().iter().map(|reply| reply["id"].clone()).collect();
    assert_eq!(ids, [5, 6]);
}

#[test]
fn what_comes_before_a_bad_command_is_done() {
    let mut talk = Talk::in_a_room();
    let publish = json!({"id": 3, "publish": {"channel": "chat:a", "data": 1}});
    talk.input(In::Payload(format!("{publish}\n{{\"id\":").into()));
    assert!(matches!(talk.requests()[0], Request::Publish(..)));
    assert_eq!(talk.closed(), Some(3501));
}

#[test]
fn a_client_that_still_takes_what_came_before_the_ping_is_alive() {
    let mut talk = Talk::connected();
    talk.later(25);
    assert_eq!(talk.replies(), [json!({})]);
    talk.congested = true;
    talk.later(8);
    assert_eq!((talk.replies(), talk.closed()), (Vec::new(), None));
    talk.congested = false;
    talk.later(8);
    assert_eq!(talk.closed(), Some(3012));
}

#[test]
fn only_the_earliest_wake_up_is_set() {
    let connected = |ping_interval| {
        let token = crate::access::sign::sign("secret", &json!({"sub": "ann", "exp": WALL + 5}));
        let mut talk = Talk::new(SessionSettings { ping_interval, ..settings() });
        talk.say(&json!({"id": 1, "connect": {"token": token.expect("signs")}}));
        talk
    };
    let mut talk = connected(Duration::from_secs(25));
    let wake_ups = |talk: &Talk| {
        let wake_ups = talk.out.iter().filter_map(|out| match out {
            Out::WakeAt(at) => Some(at.since(Time::default()).as_secs()),
            _ => None,
        });
        wake_ups.collect::<Vec<_>>()
    };
    assert_eq!(wake_ups(&talk), [12], "the ping, not the end of the token");
    talk.out.clear();
    talk.later(13);
    assert_eq!(wake_ups(&talk), [21], "its pong");
    talk.say(&json!({}));
    talk.out.clear();
    talk.later(10);
    assert_eq!(wake_ups(&talk), [38], "the next ping");
    let talk = connected(Duration::from_secs(100));
    assert_eq!(wake_ups(&talk), [30], "not the ping, but the end of the token and its grace");
}

#[test]
fn leaving_while_entering_answers_both() {
    let mut talk = Talk::connected();
    talk.say(&json!({"id": 2, "subscribe": {"channel": "chat:a"}}));
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "chat:a"}}));
    talk.say(&json!({"id": 4, "subscribe": {"channel": "chat:a"}}));
    assert_eq!(talk.replies()[0]["error"]["code"], 100);
    talk.let_in("chat:a", 2, Recovery::NotAsked);
    assert_eq!(talk.replies(), Vec::<Value>::new(), "the first subscribe is history");
    talk.let_in("chat:a", 4, Recovery::NotAsked);
    assert_eq!(talk.replies()[0]["id"], 4);
}

#[test]
fn insufficient_state_ends_the_subscription_with_2500() {
    let mut talk = Talk::in_a_room();
    talk.input(In::InsufficientState("chat:a".into()));
    assert!(matches!(talk.requests()[..], [Request::Unsubscribe { reply: ReplyTo::Nobody, .. }]));
    let unsubscribe = json!({"code": 2500, "reason": "insufficient state"});
    assert_eq!(
        talk.replies(),
        [json!({"push": {"channel": "chat:a", "unsubscribe": unsubscribe}})]
    );
    talk.say(&json!({"id": 5, "subscribe": {"channel": "chat:a"}}));
    assert_eq!(talk.requests().len(), 1, "it may come back at once");
}

#[test]
fn the_close_comes_before_the_leaving() {
    let mut talk = Talk::in_a_room();
    talk.input(In::Disconnect(Disconnect::Shutdown));
    assert!(matches!(
        talk.out[..],
        [Out::Close(Disconnect::Shutdown), Out::Request(_, Request::Unsubscribe { .. })]
    ));
    talk.out.clear();
    talk.input(In::Closed);
    assert!(talk.out.is_empty(), "it has left already");
}

#[test]
fn unsubscribing_from_nowhere_succeeds() {
    let mut talk = Talk::connected();
    let reply = talk.answer(&json!({"id": 2, "unsubscribe": {"channel": "chat:z"}}));
    assert_eq!(reply, json!({"id": 2, "unsubscribe": {}}));
}

#[test]
fn refresh_prolongs_only_the_same_user() {
    let sign = |user: &str, exp: i64| {
        crate::access::sign::sign("secret", &json!({"sub": user, "exp": exp})).expect("signs")
    };
    let connected = || {
        let mut talk = Talk::new(settings());
        talk.say(&json!({"id": 1, "connect": {"token": sign("ann", WALL + 5)}}));
        talk.out.clear();
        talk
    };
    let refresh = |token: String| json!({"id": 2, "refresh": {"token": token}});
    assert_eq!(connected().answer(&refresh(sign("ann", WALL + 60)))["refresh"]["ttl"], 60);
    for (token, code) in
        [(sign("bob", WALL + 60), 3500), (sign("ann", WALL - 1), 3005), (String::new(), 3501)]
    {
        let mut talk = connected();
        talk.say(&refresh(token));
        assert_eq!(talk.closed(), Some(code));
    }
}

pub(super) fn token(claims: Value) -> String {
    crate::access::sign::sign("secret", &claims).expect("signs")
}

/// A session that has sent a connect with this token.
pub(super) fn connecting(settings: SessionSettings, claims: Value) -> Talk {
    let mut talk = Talk::new(settings);
    talk.say(&json!({"id": 1, "connect": {"token": token(claims)}}));
    talk
}

/// One of user ann, that is connected.
fn ann() -> Talk {
    let mut talk = connecting(settings(), json!({"sub": "ann"}));
    talk.out.clear();
    talk
}

#[test]
fn a_client_is_connected_once_it_is_in_the_rooms_that_it_is_put_into() {
    let everyone = || SessionSettings { subscribe_to: vec!["all".into()], ..settings() };
    let subs = json!({"chat:a": {"data": {"x": 1}}});
    let mut talk = connecting(everyone(), json!({"sub": "ann", "subs": subs}));
    assert!(talk.session.is_connecting() && talk.replies().is_empty());
    talk.say(&json!({"id": 2, "publish": {"channel": "chat:a", "data": 1}}));
    talk.let_in("chat:a", 0, Recovery::NotAsked);
    assert_eq!(talk.replies(), Vec::<Value>::new());
    talk.let_in("all", 0, Recovery::NotAsked);
    let asked = talk.requests().into_iter().filter(|it| matches!(it, Request::Publish(..)));
    assert_eq!(asked.count(), 1, "what came meanwhile is taken on now");
    let replies = talk.replies();
    let subs = json!({
        "all": {},
        "chat:a": {"recoverable": true, "positioned": true, "epoch": "e", "offset": 7, "data": {"x": 1}},
    });
    assert_eq!(replies[0]["connect"]["subs"], subs);
    assert!(!talk.session.is_connecting());
}

#[test]
fn a_room_that_does_not_let_in_is_an_error_of_the_connect() {
    let mut talk = connecting(settings(), json!({"sub": "ann", "channels": ["chat:a", "nope:b"]}));
    assert_eq!(talk.replies()[0]["error"]["code"], 102);
    let mut talk = connecting(settings(), json!({"channels": ["chat:a"]}));
    talk.input(In::Subscribed { room: "chat:a".into(), id: 0, result: Err(ErrorCode::Internal) });
    assert_eq!(talk.replies()[0]["error"]["code"], 100);
    let many = json!({"channels": ["chat:a", "chat:b", "chat:c"]});
    assert_eq!(connecting(settings(), many).closed(), Some(3505));
}

#[test]
fn what_was_missed_in_rooms_that_it_is_put_into_is_recovered() {
    let mut talk = Talk::new(settings());
    let since = json!({"chat:a": {"recover": true, "epoch": "e", "offset": 5}});
    let token = token(json!({"channels": ["chat:a"]}));
    talk.say(&json!({"id": 1, "connect": {"token": token, "subs": since}}));
    let Some(Request::Subscribe(subscribe)) = talk.requests().last() else {
        panic!("no subscribe")
    };
    assert_eq!(subscribe.recover, Some(Since { epoch: "e".into(), offset: 5 }));
    talk.let_in("chat:a", 0, tagged(&["x", "x"]));
    let sub = talk.replies()[0]["connect"]["subs"]["chat:a"].clone();
    assert_eq!((&sub["recovered"], &sub["offset"]), (&json!(true), &json!(5)));
}

#[test]
fn a_client_of_a_room_that_it_was_put_into_connects_anew_for_what_it_missed() {
    let mut talk = connecting(settings(), json!({"channels": ["chat:a"]}));
    talk.let_in("chat:a", 0, Recovery::NotAsked);
    talk.input(In::InsufficientState("chat:a".into()));
    assert_eq!(talk.closed(), Some(3010));
}

#[test]
fn a_private_room_needs_a_token_for_it_and_for_its_user() {
    let subscribe = |claims: Value| {
        let mut talk = ann();
        let token = token(claims);
        talk.say(&json!({"id": 2, "subscribe": {"channel": "$chat:p", "token": token}}));
        talk
    };
    let mut good = subscribe(
        json!({"sub": "ann", "channel": "$chat:p", "info": {"seat": 1}, "exp": WALL + 9}),
    );
    let Some(Request::Subscribe(request)) = good.requests().last() else { panic!("no subscribe") };
    assert_eq!(request.info.chan_info(), b"{\"seat\":1}");
    good.let_in("$chat:p", 2, Recovery::NotAsked);
    let reply = good.replies().remove(0);
    assert_eq!(
        (&reply["subscribe"]["expires"], &reply["subscribe"]["ttl"]),
        (&json!(true), &json!(9))
    );
    for (claims, closed, error) in [
        (json!({"sub": "bob", "channel": "$chat:p"}), Some(3500), Value::Null),
        (json!({"sub": "ann", "channel": "$chat:q"}), Some(3500), Value::Null),
        (json!({"sub": "ann", "channel": "$chat:p", "client": "x"}), Some(3500), Value::Null),
        (json!({"sub": "ann"}), Some(3500), Value::Null),
        (json!({"sub": "ann", "channel": "$chat:p", "exp": WALL}), None, json!(109)),
    ] {
        let mut talk = subscribe(claims.clone());
        assert_eq!(talk.closed(), closed, "{claims}");
        let said = talk.replies().pop().map(|it| it["error"]["code"].clone());
        assert_eq!(said.unwrap_or_default(), error, "{claims}");
    }
    for token in ["", "junk"] {
        let subscribe = json!({"id": 2, "subscribe": {"channel": "$chat:p", "token": token}});
        assert_eq!(ann().error(&subscribe), 103);
    }
}

#[test]
fn a_subscription_ends_unless_it_is_refreshed() {
    let in_room = || {
        let mut talk = ann();
        let token = token(json!({"sub": "ann", "channel": "chat:a", "exp": WALL + 5}));
        talk.say(&json!({"id": 2, "subscribe": {"channel": "chat:a", "token": token}}));
        talk.let_in("chat:a", 2, Recovery::NotAsked);
        talk.out.clear();
        talk
    };
    let refresh = |claims: Value| {
        let token = if claims.is_null() { String::new() } else { token(claims) };
        json!({"id": 3, "sub_refresh": {"channel": "chat:a", "token": token}})
    };
    let good = refresh(json!({"sub": "ann", "channel": "chat:a", "exp": WALL + 60}));
    assert_eq!(in_room().answer(&good)["sub_refresh"], json!({"expires": true, "ttl": 60}));
    let late = refresh(json!({"sub": "ann", "channel": "chat:a", "exp": WALL - 1}));
    assert_eq!(in_room().error(&late), 110);
    assert_eq!(in_room().error(&refresh(Value::Null)), 107);
    assert_eq!(ann().error(&good), 103);
    let mut talk = in_room();
    talk.say(&refresh(json!({"sub": "bob", "channel": "chat:a"})));
    assert_eq!(talk.closed(), Some(3500));
    // Five seconds, and then the grace.
    let mut talk = in_room();
    talk.wall = WALL + 29;
    talk.later(1);
    assert!(talk.replies().iter().all(|it| it["push"].is_null()));
    talk.wall = WALL + 30;
    talk.later(1);
    let push = talk.replies().into_iter().find(|it| !it["push"].is_null()).expect("a push");
    assert_eq!(push["push"]["unsubscribe"]["code"], 2501);
    assert_eq!(talk.closed(), None);
}

#[test]
fn a_room_may_be_for_some_users_only() {
    let mut namespaces = (*settings().namespaces).clone();
    let chat = namespaces.named.get_mut("chat").expect("it is there");
    *chat = Arc::new(RoomOptions { allow_user_limited: true, ..(**chat).clone() });
    let namespaces = Arc::new(namespaces);
    let connected = || {
        let settings = SessionSettings { namespaces: namespaces.clone(), ..settings() };
        let mut talk = connecting(settings, json!({"sub": "ann"}));
        talk.out.clear();
        talk
    };
    let subscribe = |room: &str| json!({"id": 2, "subscribe": {"channel": room}});
    assert_eq!(connected().error(&subscribe("chat:a#bob,eve")), 103);
    let mut talk = connected();
    talk.say(&subscribe("chat:a#bob,ann"));
    assert_eq!((talk.requests().len(), talk.replies().len()), (1, 0));
}

#[test]
fn a_key_that_is_not_known_is_fetched_once() {
    let keys = crate::access::keys::PublishedKeys::default();
    let verifier = Verifier { published: Some(keys), ..Verifier::of_secret("secret") };
    let settings = || SessionSettings {
        tokens: Arc::new(Verifier {
            published: verifier.published.clone(),
            ..Verifier::of_secret("secret")
        }),
        ..settings()
    };
    // {"alg":"RS256","kid":"new"}.{"sub":"42"}
    let connect = json!({"id": 1, "connect": {"token": "eyJhbGciOiJSUzI1NiIsImtpZCI6Im5ldyJ9.eyJzdWIiOiI0MiJ9.AA"}});
    let mut talk = Talk::new(settings());
    talk.say(&connect);
    assert!(talk.out.contains(&Out::Call(1, Call::TokenKeys)) && talk.session.is_connecting());
    talk.input(In::Called(1, Err(CallFailed)));
    assert_eq!((talk.replies()[0]["error"]["code"].clone(), talk.closed()), (json!(100), None));
    let mut talk = Talk::new(settings());
    talk.say(&connect);
    talk.input(In::Called(1, Ok(Called::Keys)));
    assert_eq!(talk.closed(), Some(3500));
}

#[test]
fn the_application_does_things_to_a_users_connections() {
    use crate::room::control::{Action, Control};
    let control = |user: &str, action: Action| {
        let (client, session) = Default::default();
        In::Control(Arc::new(Control { user: user.into(), client, session, action }))
    };
    let subscribe = |room: &str| Action::Subscribe {
        room: room.into(),
        grant: Default::default(),
        since: None,
    };
    let mut talk = ann();
    talk.input(control("bob", subscribe("chat:a")));
    assert!(talk.requests().is_empty(), "not meant");
    talk.input(control("ann", subscribe("chat:a")));
    assert_eq!(talk.requests().len(), 1);
    let missed = Publication { offset: 6, data: "1".into(), ..Publication::default() };
    talk.let_in("chat:a", 0, Recovery::Recovered(vec![Arc::new(missed)]));
    let pushes = talk.replies();
    assert_eq!(pushes[0]["push"]["subscribe"]["recoverable"], true);
    assert_eq!(pushes[1]["push"]["pub"]["offset"], 6);
    talk.input(control("ann", Action::Unsubscribe { room: "chat:a".into() }));
    assert_eq!(talk.replies()[0]["push"]["unsubscribe"]["code"], 2000);
    let refresh =
        Action::Refresh { expired: false, expires_at: Some(WALL + 7), info: Some("2".into()) };
    talk.input(control("ann", refresh));
    assert_eq!(talk.replies()[0]["push"]["refresh"], json!({"expires": true, "ttl": 7}));
    let me = ClientId(5).to_string();
    let disconnect = |except| Action::Disconnect { code: 4321, reason: "bye".into(), except };
    talk.input(control("ann", disconnect(vec![me])));
    assert_eq!(talk.closed(), None);
    talk.input(control("ann", disconnect(vec![])));
    assert_eq!(talk.closed(), Some(4321));
}

/// A client that asks to subscribe to a room where filters and deltas are allowed, or not.
fn subscribing_with(allowed: bool, subscribe: Value) -> Talk {
    let mut settings = settings();
    let chat = settings.namespaces.named["chat"].as_ref().clone();
    let chat = RoomOptions { allow_tags_filter: allowed, allow_delta: allowed, ..chat };
    let named = [("chat".into(), Arc::new(chat))].into_iter().collect();
    settings.namespaces = Arc::new(Namespaces { default: Arc::default(), named });
    let mut talk = Talk::new(settings);
    talk.say(&json!({"id": 1, "connect": {}}));
    talk.out.clear();
    talk.say(&json!({"id": 2, "subscribe": subscribe}));
    talk
}

/// Publications from offset 6 on with a tag each.
fn tagged(tags: &[&str]) -> Recovery {
    let one = |(offset, tag): (u64, &&str)| Publication {
        offset,
        data: Bytes::from(format!(
            "{{\"text\": \"a longer text that stays the same\", \"n\": {offset}}}"
        )),
        tags: [("t".to_owned(), (*tag).to_owned())].into_iter().collect(),
        ..Publication::default()
    };
    Recovery::Recovered((6..).zip(tags).map(one).map(Arc::new).collect())
}

#[test]
fn a_filter_holds_for_what_was_missed_too() {
    let tf = json!({"key": "t", "cmp": "eq", "val": "a"});
    let subscribe =
        json!({"channel": "chat:a", "tf": tf, "recover": true, "epoch": "e", "offset": 5});
    for (tags, offsets, offset) in
        [(["a", "b"], vec![6], 5), (["b", "a"], vec![7], 5), (["b", "b"], vec![], 7)]
    {
        let mut talk = subscribing_with(true, subscribe.clone());
        assert!(matches!(&talk.requests()[..], [Request::Subscribe(it)] if it.delivery.is_some()));
        talk.let_in("chat:a", 2, tagged(&tags));
        let result = talk.replies().remove(0)["subscribe"].clone();
        let got = result["publications"].as_array().cloned().unwrap_or_default();
        let got: Vec<u64> = got.iter().filter_map(|it| it["offset"].as_u64()).collect();
        assert_eq!((got, result["offset"].as_u64()), (offsets, Some(offset)), "{tags:?}");
        assert_eq!(result["recovered"], true);
    }
}

#[test]
fn a_filter_that_is_not_allowed_or_invalid_is_a_bad_request() {
    for (allowed, tf) in [(false, json!({"key": "t", "cmp": "ex"})), (true, json!({}))] {
        let mut talk = subscribing_with(allowed, json!({"channel": "chat:a", "tf": tf}));
        assert_eq!(talk.replies()[0]["error"]["code"], 107);
    }
}

#[test]
fn who_wants_deltas_gets_texts_and_what_is_new_in_them() {
    let subscribe = json!({
        "channel": "chat:a", "delta": "fossil", "recover": true, "epoch": "e", "offset": 5,
    });
    let mut talk = subscribing_with(true, subscribe.clone());
    talk.out.clear();
    talk.let_in("chat:a", 2, tagged(&["a", "a"]));
    let result = talk.replies().remove(0)["subscribe"].clone();
    assert_eq!((&result["delta"], &result["offset"]), (&json!(true), &json!(5)));
    let [full, delta] = [0, 1].map(|index| result["publications"][index].clone());
    let text = "{\"text\": \"a longer text that stays the same\", \"n\": 6}";
    assert_eq!((&full["data"], &full["delta"]), (&json!(text), &Value::Null));
    let new = delta["data"].as_str().expect("a text");
    assert!(delta["delta"] == true && new.len() < text.len() && new.contains(":7}"), "{new}");

    let mut talk = subscribing_with(false, subscribe);
    talk.let_in("chat:a", 2, tagged(&["a"]));
    let result = talk.replies().remove(0)["subscribe"].clone();
    assert!(result["delta"].is_null() && result["publications"][0]["data"]["n"] == 6, "{result}");
}

#[test]
fn a_filter_goes_before_deltas_and_an_unknown_format_ends_the_connection() {
    let tf = json!({"key": "t", "cmp": "ex"});
    let mut talk =
        subscribing_with(true, json!({"channel": "chat:a", "delta": "fossil", "tf": tf}));
    talk.let_in("chat:a", 2, Recovery::NotAsked);
    assert!(talk.replies()[0]["subscribe"]["delta"].is_null());
    let talk = subscribing_with(true, json!({"channel": "chat:a", "delta": "other"}));
    assert!(talk.out.contains(&Out::Close(Disconnect::BadRequest)), "{:?}", talk.out);
}

#[path = "calls_tests.rs"]
mod calls;
