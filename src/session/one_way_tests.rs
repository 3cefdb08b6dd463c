//! Sessions over transports on which the server only sends.

use serde_json::json;

use super::tests::{Talk, settings};
use super::*;

const NAME: [u8; 16] = [7; 16];

fn over(settings: SessionSettings, one_way: bool) -> Talk {
    let mut talk = Talk::new(settings);
    let session =
        std::mem::replace(&mut talk.session, Session::new(SOCKET, Format::Json, ClientId(5)));
    talk.session = session.over(SessionId::new(NAME), one_way);
    talk
}

const SOCKET: SocketRef = SocketRef { worker: 1, slot: 2, generation: 3 };

#[test]
fn a_client_is_told_the_name_of_its_session_if_it_needs_one() {
    let name = SessionId::new(NAME).to_string();
    for one_way in [false, true] {
        let mut talk = over(settings(), one_way);
        let request = if one_way { json!({}) } else { json!({"id": 1, "connect": {}}) };
        let reply = talk.answer(&request);
        assert_eq!(
            (&reply["connect"]["session"], &reply["connect"]["node"]),
            (&json!(name), &json!("n"))
        );
    }
    let mut socket = Talk::new(settings());
    assert!(socket.answer(&json!({"id": 1, "connect": {}}))["connect"]["session"].is_null());
}

#[test]
fn the_application_finds_a_connection_by_its_session() {
    use crate::room::control::Action;
    let mut talk = over(settings(), false);
    talk.say(&json!({"id": 1, "connect": {}}));
    talk.out.clear();
    let disconnect = |session: String| {
        let (code, reason) = (3503, String::new());
        let action = Action::Disconnect { code, reason, except: Vec::new() };
        let (user, client) = (String::new(), String::new());
        In::Control(Arc::new(Control { user, client, session, action }))
    };
    for other in ["x".to_owned(), SessionId::new([8; 16]).to_string()] {
        talk.input(disconnect(other));
        assert_eq!(talk.out, []);
    }
    talk.input(disconnect(SessionId::new(NAME).to_string()));
    assert_eq!(talk.out, [Out::Close(Disconnect::Custom(3503, "".into()))]);
}

#[test]
fn who_only_listens_is_pinged_and_answers_nothing() {
    let mut talk = over(settings(), true);
    let connected = talk.answer(&json!({}));
    assert!(connected["connect"]["pong"].is_null() && connected["connect"]["ping"] == 25);
    // Whatever it says is not read, however little sense it makes.
    talk.input(In::Payload(Bytes::from_static(b"nonsense")));
    for _ in 0..5 {
        talk.later(25);
        assert_eq!(talk.replies(), [json!({})]);
    }
}

#[test]
fn who_only_listens_is_closed_where_others_get_an_error() {
    let refused = |settings: SessionSettings, request: &'static [u8]| {
        let mut talk = over(settings, true);
        talk.input(In::Payload(Bytes::from_static(request)));
        talk.out
    };
    assert_eq!(refused(settings(), b"[]"), [Out::Close(Disconnect::BadRequest)]);
    let junk = br#"{"token":"junk"}"#;
    assert_eq!(refused(settings(), junk), [Out::Close(Disconnect::InvalidToken)]);
    // {"exp":1}, signed with "secret".
    let mut talk = over(settings(), true);
    let token = crate::access::sign::sign("secret", &json!({"exp": 1})).expect("signs");
    talk.say(&json!({"token": token}));
    assert_eq!(talk.out, [Out::Close(Disconnect::ConnectionExpired)]);
}
