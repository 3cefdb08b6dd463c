//! What a session asks backends, and what it does with their answers.

use std::collections::BTreeMap;

use super::*;
use crate::{
    access::grant::{Credentials, Grant},
    backend::{
        options::{BackendId, Methods, Proxies, RoomBackends, RoomProxies, Verdict},
        request::Operation,
        response::{Publish, Refreshed},
    },
    protocol::message,
    room::{
        options::{Namespaces, RoomOptions},
        types::NewPublication,
    },
};

const CONNECT: BackendId = BackendId(0);
const REFRESH: BackendId = BackendId(1);
const SUBSCRIBE: BackendId = BackendId(2);
const PUBLISH: BackendId = BackendId(3);
const SUB_REFRESH: BackendId = BackendId(4);
const RPC: BackendId = BackendId(5);

/// Everything is for backends to decide: in `chat:` rooms, and beside them.
fn with_backends() -> SessionSettings {
    let all = RoomProxies {
        subscribe: Some(SUBSCRIBE),
        publish: Some(PUBLISH),
        sub_refresh: Some(SUB_REFRESH),
        stream: None,
    };
    let chat = RoomOptions { allow_user_limited: true, ..RoomOptions::default() };
    let named = [("chat".into(), Arc::new(chat))].into_iter().collect();
    let rooms = RoomBackends {
        default: RoomProxies::default(),
        named: [("chat".into(), all)].into_iter().collect(),
    };
    SessionSettings {
        allow_anonymous: false,
        namespaces: Arc::new(Namespaces { default: Arc::default(), named }),
        proxies: Proxies {
            connect: Some(CONNECT),
            refresh: Some(REFRESH),
            rooms,
            rpc: Methods { default: Some(RPC), named: BTreeMap::new() },
            keeps_meta: true,
            ..Proxies::default()
        },
        channel_limit: 2,
        ..settings()
    }
}

impl Talk {
    /// The one request that is asked, and its number.
    fn backend_request(&mut self) -> (u32, BackendRequest) {
        let out = std::mem::take(&mut self.out);
        let mut questions = out.into_iter().filter_map(|out| match out {
            Out::Call(number, Call::Backend(request)) => Some((number, *request)),
            _ => None,
        });
        let request = questions.next().expect("something is asked");
        assert!(questions.next().is_none(), "more than one request");
        request
    }

    fn decide(&mut self, number: u32, decision: BackendResponse) {
        self.input(In::Called(number, Ok(Called::Backend(decision))));
    }

    /// The number of the request that a command makes.
    fn asks(&mut self, command: Value) -> u32 {
        self.say(&command);
        self.backend_request().0
    }
}

fn ann(expires_at: Option<i64>) -> BackendResponse {
    let meta = Bytes::from_static(b"{\"m\":1}");
    let it = Credentials { user: "ann".into(), expires_at, meta, ..Credentials::default() };
    BackendResponse::Connect(Some(Box::new(it)))
}

fn connected_as_ann(settings: SessionSettings, expires_at: Option<i64>) -> Talk {
    let mut talk = Talk::new(settings);
    let number = talk.asks(json!({"id": 1, "connect": {}}));
    talk.decide(number, ann(expires_at));
    talk
}

fn ann_with_backends() -> Talk {
    let mut talk = connected_as_ann(with_backends(), None);
    talk.out.clear();
    talk
}

fn subscribe(id: u32, room: &str) -> Value {
    json!({"id": id, "subscribe": {"channel": room, "data": {"n": id}}})
}

fn granted(grant: Grant) -> BackendResponse {
    BackendResponse::Subscribe(Box::new(grant))
}

fn error(code: u32) -> BackendResponse {
    let error = message::Error { code, message: "no".into(), temporary: true };
    BackendResponse::Refused(Verdict::Error(error))
}

fn disconnect() -> BackendResponse {
    BackendResponse::Refused(Verdict::Disconnect(Disconnect::Custom(4500, "go".into())))
}

fn goes_on(until: Option<i64>) -> Refreshed {
    Refreshed::GoesOn { until, info: Bytes::new(), meta: Bytes::new() }
}

#[test]
fn who_has_no_token_is_who_the_backend_says() {
    let mut talk = Talk::new(with_backends());
    talk.say(&json!({"id": 1, "connect": {"data": {"a": 1}, "name": "js"}}));
    let (number, request) = talk.backend_request();
    let data = Bytes::from_static(b"{\"a\":1}");
    let operation = Operation::Connect { data, name: "js".into(), version: String::new() };
    assert_eq!((request.to, request.operation), (CONNECT, operation));
    // Until that is known, nothing else is looked at.
    talk.say(&subscribe(2, "chat:a"));
    assert!(talk.out.is_empty());
    talk.decide(number, ann(Some(WALL + 100)));
    assert!(talk.out.contains(&Out::Authenticated("ann".into())));
    let (_, request) = talk.backend_request();
    assert_eq!((request.to, &*request.client.user), (SUBSCRIBE, "ann"));
    assert_eq!(&request.meta[..], b"{\"m\":1}");
}

#[test]
fn a_client_is_not_told_of_an_end_that_it_can_not_put_off() {
    let mut talk = connected_as_ann(with_backends(), Some(WALL + 100));
    let connected = talk.replies().remove(0);
    assert_eq!(connected["connect"].get("expires"), None);
    let settings = SessionSettings {
        proxies: Proxies { refresh: None, ..with_backends().proxies },
        ..with_backends()
    };
    let mut talk = connected_as_ann(settings, Some(WALL + 100));
    assert_eq!(talk.replies().remove(0)["connect"]["ttl"], 100);
}

#[test]
fn a_token_is_not_for_the_backend() {
    let mut talk = Talk::new(with_backends());
    talk.say(&json!({"id": 1, "connect": {"token": token(json!({"sub": "ann"}))}}));
    assert!(talk.replies().remove(0)["connect"].is_object());
}

#[test]
fn a_backend_refuses_a_connect_in_its_own_words() {
    for (decision, code) in [
        (error(1000), Ok(1000)),
        (disconnect(), Err(4500)),
        (BackendResponse::Connect(None), Err(3501)),
        (ann(Some(WALL)), Ok(110)),
        (BackendResponse::Rpc(Bytes::new()), Ok(100)),
    ] {
        let mut talk = Talk::new(with_backends());
        let number = talk.asks(json!({"id": 1, "connect": {}}));
        talk.decide(number, decision);
        match code {
            Ok(code) => {
                assert_eq!(talk.replies()[0]["error"]["code"], code);
                talk.say(&json!({"id": 2, "connect": {}}));
                assert_eq!(talk.closed(), Some(3501));
            }
            Err(code) => assert_eq!(talk.closed(), Some(code)),
        }
    }
    let mut talk = Talk::new(with_backends());
    let number = talk.asks(json!({"id": 1, "connect": {}}));
    talk.input(In::Called(number, Err(CallFailed)));
    let error = talk.replies().remove(0)["error"].clone();
    assert_eq!((&error["code"], &error["temporary"]), (&json!(100), &json!(true)));
}

#[test]
fn a_backend_that_says_nothing_leaves_it_to_the_configuration() {
    let mut talk = Talk::new(SessionSettings { allow_anonymous: true, ..with_backends() });
    let number = talk.asks(json!({"id": 1, "connect": {}}));
    talk.decide(number, BackendResponse::Connect(None));
    assert!(talk.out.contains(&Out::Authenticated("".into())));
}

#[test]
fn a_backend_lets_into_a_room() {
    let mut talk = ann_with_backends();
    talk.say(&subscribe(2, "chat:a"));
    let (number, request) = talk.backend_request();
    let data = Bytes::from_static(b"{\"n\":2}");
    assert_eq!(request.operation, Operation::Subscribe { room: "chat:a".into(), data });
    assert_eq!(talk.error(&subscribe(3, "chat:a")), 105);
    let (info, data) = (Bytes::from_static(b"\"i\""), Bytes::from_static(b"\"d\""));
    talk.decide(number, granted(Grant { info, data, ..Grant::default() }));
    let [Request::Subscribe(it)] = talk.requests()[..] else { panic!("no subscribe") };
    assert_eq!((it.id, it.info.chan_info()), (2, &b"\"i\""[..]));
    talk.let_in("chat:a", 2, Recovery::NotAsked);
    let result = talk.replies().remove(0)["subscribe"].clone();
    assert_eq!((&result["data"], result.get("expires")), (&json!("d"), None));
}

#[test]
fn a_backend_is_asked_only_about_rooms_that_it_decides_about() {
    let mut talk = ann_with_backends();
    assert_eq!(talk.error(&subscribe(2, "$chat:a")), 103, "a private room");
    assert_eq!(talk.error(&subscribe(3, "chat:a#bob")), 103, "a room of another user");
    assert_eq!(talk.error(&subscribe(4, "lobby")), 103, "a room of another namespace");
    talk.say(&subscribe(5, "chat:a#ann"));
    assert_eq!(talk.requests().len(), 1, "a room of the user's own");
}

#[test]
fn what_is_asked_counts_as_a_room() {
    let mut talk = ann_with_backends();
    let first = talk.asks(subscribe(2, "chat:a"));
    talk.asks(subscribe(3, "chat:b"));
    assert_eq!(talk.error(&subscribe(4, "chat:c")), 106);
    talk.decide(first, error(1000));
    assert_eq!(talk.replies()[0]["error"]["code"], 1000);
    talk.asks(subscribe(5, "chat:c"));
}

#[test]
fn a_grant_that_is_over_is_none() {
    let mut talk = ann_with_backends();
    let number = talk.asks(subscribe(2, "chat:a"));
    talk.decide(number, granted(Grant { expires_at: Some(WALL), ..Grant::default() }));
    assert_eq!(talk.replies()[0]["error"]["code"], 110);
}

#[test]
fn an_answer_is_for_the_question_and_not_for_whoever_has_its_number() {
    let mut talk = ann_with_backends();
    let first = talk.asks(subscribe(2, "chat:a"));
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "chat:a"}}));
    let replies = talk.replies();
    assert_eq!((&replies[0]["id"], &replies[0]["error"]["code"]), (&json!(2), &json!(100)));
    let second = talk.asks(subscribe(2, "chat:b"));
    talk.decide(first, granted(Grant::default()));
    assert!(talk.requests().is_empty(), "nobody wants to be in chat:a any more");
    talk.decide(second, granted(Grant::default()));
    assert!(
        matches!(&talk.out[..], [Out::Request(room, Request::Subscribe(_))] if **room == *"chat:b")
    );
}

#[test]
fn a_question_that_nobody_waits_for_still_counts() {
    let mut talk = ann_with_backends();
    let numbers: Vec<u32> = (0..4)
        .map(|n| {
            let number = talk.asks(subscribe(n * 2 + 2, "chat:a"));
            if n < 3 {
                talk.say(&json!({"id": n * 2 + 3, "unsubscribe": {"channel": "chat:a"}}));
                talk.out.clear();
            }
            number
        })
        .collect();
    assert!(talk.session.is_busy(&talk.settings), "four are under way, and no more may be");
    talk.decide(numbers[0], granted(Grant::default()));
    assert!(!talk.session.is_busy(&talk.settings));
}

fn publish(id: u32, n: u32) -> Value {
    json!({"id": id, "publish": {"channel": "chat:a", "data": n}})
}

fn published(talk: &mut Talk) -> Vec<NewPublication> {
    let out = std::mem::take(&mut talk.out);
    let all = out.into_iter().filter_map(|out| match out {
        Out::Request(_, Request::Publish(publication, _)) => Some(publication),
        _ => None,
    });
    all.collect()
}

fn publish_as(data: Option<&'static str>) -> BackendResponse {
    let data = data.map(|it| Bytes::from_static(it.as_bytes()));
    BackendResponse::Publish(Box::new(Publish { data, skip_history: true, ..Publish::default() }))
}

#[test]
fn a_backend_says_what_is_published() {
    let mut talk = ann_with_backends();
    let number = talk.asks(publish(2, 1));
    talk.decide(number, publish_as(Some("9")));
    let publication = published(&mut talk).remove(0);
    assert_eq!((&publication.data[..], publication.skip_history), (&b"9"[..], true));
    assert_eq!(publication.info.map(|it| it.user.clone()), Some("ann".into()));
    let number = talk.asks(publish(3, 1));
    talk.decide(number, publish_as(None));
    assert_eq!(&published(&mut talk)[0].data[..], b"1");
    let number = talk.asks(publish(4, 1));
    talk.decide(number, disconnect());
    assert_eq!(talk.closed(), Some(4500));
}

#[test]
fn publishes_stay_in_order_whatever_the_answers_do() {
    let mut talk = ann_with_backends();
    let numbers: Vec<u32> = (1..=3).map(|n| talk.asks(publish(n + 1, n))).collect();
    talk.decide(numbers[2], publish_as(None));
    talk.decide(numbers[1], error(1000));
    assert!(talk.out.is_empty());
    talk.decide(numbers[0], publish_as(None));
    let order: Vec<String> = talk
        .out
        .iter()
        .map(|out| match out {
            Out::Request(_, Request::Publish(it, _)) => {
                String::from_utf8_lossy(&it.data).into_owned()
            }
            Out::Reply(reply) => format!("error for {}", reply.id),
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(order, ["1", "error for 3", "3"]);
}

#[test]
fn a_call_is_answered_by_the_backend() {
    let mut talk = ann_with_backends();
    talk.say(&json!({"id": 2, "rpc": {"method": "time", "data": {}}}));
    let (number, request) = talk.backend_request();
    assert_eq!(request.operation, Operation::Rpc { method: "time".into(), data: "{}".into() });
    talk.decide(number, BackendResponse::Rpc(Bytes::from_static(b"{\"now\":1}")));
    assert_eq!(talk.replies()[0], json!({"id": 2, "rpc": {"data": {"now": 1}}}));
    assert_eq!(talk.error(&json!({"id": 3, "rpc": {"method": "other:x"}})), 104);
    let mut nobody = Talk::connected();
    assert_eq!(nobody.error(&json!({"id": 3, "rpc": {"method": "time"}})), 108);
}

#[test]
fn the_node_asks_whether_a_connection_goes_on() {
    let mut talk = connected_as_ann(with_backends(), Some(WALL + 20));
    talk.out.clear();
    talk.wall += 20;
    talk.later(20);
    let (number, request) = talk.backend_request();
    assert_eq!((request.to, &request.operation), (REFRESH, &Operation::Refresh));
    talk.later(1);
    assert!(talk.out.iter().all(|out| !matches!(out, Out::Call(..) | Out::Close(_))), "once");
    let meta = Bytes::from_static(b"2");
    let info = Bytes::from_static(b"3");
    let until = Some(talk.wall + 2);
    talk.decide(number, BackendResponse::Refresh(Refreshed::GoesOn { until, info, meta }));
    assert_eq!(talk.closed(), None);
    talk.wall += 2;
    talk.later(2);
    let (number, request) = talk.backend_request();
    assert_eq!((&request.meta[..], &request.client.conn_info[..]), (&b"2"[..], &b"3"[..]));
    talk.decide(number, BackendResponse::Refresh(Refreshed::Expired));
    assert_eq!(talk.closed(), Some(3005));
}

#[test]
fn a_connection_ends_if_the_backend_does_not_prolong_it() {
    for (decision, code) in [
        (BackendResponse::Refresh(goes_on(None)), 3005),
        (BackendResponse::Refresh(goes_on(Some(WALL))), 3005),
        (error(1000), 3005),
        (disconnect(), 4500),
    ] {
        let mut talk = connected_as_ann(with_backends(), Some(WALL + 1));
        talk.out.clear();
        talk.wall += 1;
        talk.later(1);
        let (number, _) = talk.backend_request();
        talk.decide(number, decision);
        assert_eq!(talk.closed(), Some(code));
    }
}

#[test]
fn a_backend_that_is_down_does_not_end_connections() {
    let mut talk = connected_as_ann(with_backends(), Some(WALL + 1));
    talk.out.clear();
    talk.wall += 1;
    talk.later(1);
    let (number, _) = talk.backend_request();
    talk.input(In::Called(number, Err(CallFailed)));
    assert_eq!(talk.closed(), None);
    talk.wall += 59;
    talk.input(In::Wake);
    assert!(talk.out.iter().all(|out| !matches!(out, Out::Call(..))));
    talk.wall += 1;
    talk.input(In::Wake);
    talk.backend_request();
}

#[test]
fn refreshing_is_not_the_clients_business() {
    let mut talk = ann_with_backends();
    talk.say(&json!({"id": 2, "refresh": {"token": token(json!({"sub": "ann"}))}}));
    assert_eq!(talk.closed(), Some(3501));
    let mut talk = in_for(WALL + 5);
    let it =
        json!({"channel": "chat:a", "token": token(json!({"sub": "ann", "channel": "chat:a"}))});
    talk.say(&json!({"id": 3, "sub_refresh": it}));
    assert_eq!(talk.closed(), Some(3501));
}

/// A client that a backend has let into chat:a until then.
fn in_for(until: i64) -> Talk {
    let mut talk = ann_with_backends();
    let number = talk.asks(subscribe(2, "chat:a"));
    talk.decide(number, granted(Grant { expires_at: Some(until), ..Grant::default() }));
    talk.let_in("chat:a", 2, Recovery::NotAsked);
    let result = talk.replies().remove(0)["subscribe"].clone();
    assert_eq!(result.get("expires"), None);
    talk
}

fn end_of_subscription(talk: &mut Talk) -> u32 {
    talk.wall += 5;
    talk.later(5);
    let (number, request) = talk.backend_request();
    let operation = Operation::SubRefresh { room: "chat:a".into() };
    assert_eq!((request.to, request.operation), (SUB_REFRESH, operation));
    number
}

#[test]
fn the_node_asks_whether_a_subscription_goes_on() {
    for (result, code) in [
        (Ok(Called::Backend(BackendResponse::SubRefresh(goes_on(Some(WALL + 90))))), None),
        (Ok(Called::Backend(BackendResponse::SubRefresh(goes_on(None)))), None),
        (Err(CallFailed), None),
        (Ok(Called::Backend(BackendResponse::SubRefresh(goes_on(Some(WALL))))), Some(2501)),
        (Ok(Called::Backend(BackendResponse::SubRefresh(Refreshed::Expired))), Some(2501)),
        (Ok(Called::Backend(error(1000))), Some(2501)),
    ] {
        let mut talk = in_for(WALL + 5);
        let number = end_of_subscription(&mut talk);
        talk.input(In::Called(number, result.clone()));
        let pushes = talk.replies();
        let told = pushes.first().map(|it| it["push"]["unsubscribe"]["code"].clone());
        assert_eq!(told, code.map(|code| json!(code)), "{result:?}");
    }
    let mut talk = in_for(WALL + 5);
    let number = end_of_subscription(&mut talk);
    talk.decide(number, disconnect());
    assert_eq!(talk.closed(), Some(4500));
}

#[test]
fn what_is_said_of_an_old_subscription_does_not_hold_for_a_new_one() {
    let mut talk = in_for(WALL + 5);
    let old = end_of_subscription(&mut talk);
    talk.say(&json!({"id": 3, "unsubscribe": {"channel": "chat:a"}}));
    talk.input(In::Unsubscribed { id: 3 });
    let number = talk.asks(subscribe(4, "chat:a"));
    talk.decide(number, granted(Grant { expires_at: Some(WALL + 99), ..Grant::default() }));
    talk.let_in("chat:a", 4, Recovery::NotAsked);
    talk.out.clear();
    talk.decide(old, BackendResponse::SubRefresh(Refreshed::Expired));
    assert!(talk.out.is_empty(), "{:?}", talk.out);
}

#[test]
fn headers_go_along_as_long_as_someone_wants_them() {
    let header = |name: &str| (name.into(), (*b"v").into());
    for keeps_headers in [true, false] {
        let emulated_headers = vec!["authorization".to_owned()];
        let proxies = Proxies { keeps_headers, emulated_headers, ..with_backends().proxies };
        let mut talk = Talk::new(SessionSettings { proxies, ..with_backends() });
        talk.session.came_with(Headers { sent: vec![header("cookie")], said: Vec::new() });
        let said = json!({"Authorization": "v", "X-Other": "v"});
        talk.say(&json!({"id": 1, "connect": {"headers": said}}));
        let (number, request) = talk.backend_request();
        let both = Headers { sent: vec![header("cookie")], said: vec![header("authorization")] };
        assert_eq!(request.headers.as_deref(), Some(&both));
        talk.decide(number, ann(None));
        talk.out.clear();
        talk.say(&subscribe(2, "chat:a"));
        let later = talk.backend_request().1.headers;
        assert_eq!(later.as_deref(), keeps_headers.then_some(&both));
    }
}
