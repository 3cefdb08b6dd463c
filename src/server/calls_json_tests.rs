//! How calls are read: what stands for what, and what is refused.

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::room::{control::Action, types::NewPublication};

fn call(method: &str, body: Value) -> Call {
    read(method, body.to_string().as_bytes()).unwrap_or_else(|it| panic!("{method} {body}: {it:?}"))
}

fn publication(body: Value) -> Result<NewPublication, Error> {
    match call("publish", body) {
        Call::Publish(publish) => publish.publication(1 << 20, 1_000_000.0),
        other => panic!("{other:?}"),
    }
}

fn data(body: Value) -> Bytes {
    publication(body).expect("a publication").data
}

fn action(method: &str, body: Value) -> Result<Action, Error> {
    match call(method, body) {
        Call::Subscribe(_, it) => it.action(),
        Call::Disconnect(_, it) => it.action(),
        Call::Refresh(_, it) => Ok(it.action()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn null_is_as_good_as_nothing_in_every_option() {
    let none = json!({"channel": "x", "data": 1, "b64data": null, "skip_history": null, "tags": null,
        "idempotency_key": null, "delta": null, "version": null, "version_epoch": null, "channels": null});
    let plain = json!({"channel": "x", "data": 1});
    assert_eq!(publication(none), publication(plain));
    let subscribe = json!({"channel": "x", "user": null, "client": null, "session": null, "expire_at": null,
        "info": null, "b64info": null, "data": null, "b64data": null, "recover_since": null, "override": null});
    assert_eq!(action("subscribe", subscribe), action("subscribe", json!({"channel": "x"})));
    let some = json!({"channel": "x", "recover_since": {"offset": null, "epoch": null},
        "override": {"presence": null, "join_leave": {"value": null}}});
    assert!(matches!(action("subscribe", some), Ok(Action::Subscribe { since: Some(_), .. })));
    let refresh =
        json!({"user": "ann", "client": null, "expired": null, "expire_at": null, "info": null});
    assert_eq!(action("refresh", refresh), action("refresh", json!({"user": "ann"})));
    for disconnect in [json!(null), json!({}), json!({"code": null, "reason": null})] {
        let body =
            json!({"user": "ann", "session": null, "whitelist": null, "disconnect": disconnect});
        assert_eq!(action("disconnect", body), action("disconnect", json!({"user": "ann"})));
    }
    for (method, body) in [
        ("history", json!({"channel": "x", "limit": null, "since": null, "reverse": null})),
        ("presence", json!({"channel": null})),
        ("channels", json!({"pattern": null})),
        ("unsubscribe", json!({"channel": "x", "user": null, "client": null, "session": null})),
        ("broadcast", json!({"channels": null, "data": 1})),
        ("info", json!(null)),
        ("rpc", json!({"method": "m", "params": null})),
    ] {
        call(method, body);
    }
}

#[test]
fn data_may_be_null_and_base64_goes_first() {
    assert_eq!(data(json!({"data": null})), "null");
    assert_eq!(data(json!({"data": {"x": [1, null]}})), r#"{"x":[1,null]}"#);
    assert_eq!(data(json!({"data": "", "b64data": "eyJ4IjoxfQ=="})), r#"{"x":1}"#);
    assert_eq!(data(json!({"data": "", "b64data": ""})), r#""""#);
    assert_eq!(data(json!({})), "");
    let both = json!({"channel": "x", "info": 1, "b64info": "Mg==", "data": 1, "b64data": "Mw=="});
    let Ok(Action::Subscribe { grant, .. }) = action("subscribe", both) else { panic!("no grant") };
    assert_eq!((grant.info, grant.data), ("2".into(), "3".into()));
    let error = publication(json!({"b64data": "?"})).expect_err("no base64");
    assert_eq!((error.code, error.message.as_str()), (107, "bad request: b64data is not base64"));
}

#[test]
fn an_error_names_the_limit_that_a_publication_is_over() {
    assert!(publication(json!({"data": "x".repeat((1 << 19) - 2)})).is_ok());
    let error = publication(json!({"data": "x".repeat(1 << 19)})).expect_err("too large");
    assert_eq!(error.code, 106);
    for part in ["524290 bytes", "524288", "client.queue_max_size"] {
        assert!(error.message.contains(part), "{}", error.message);
    }
}

#[test]
fn wrong_types_are_no_call() {
    for (method, body) in [
        ("publish", r#"{"channel": 1, "data": 1}"#),
        ("publish", r#"{"channel": "x", "data": 1, "tags": []}"#),
        ("publish", r#"{"channel": "x", "data": 1, "skip_history": "yes"}"#),
        ("publish", r#"{"channel": "x", "data": 1, "version": -1}"#),
        ("publish", r#"["x", 1]"#),
        ("publish", r#"{"channel": "#),
        ("broadcast", r#"{"channels": "x", "data": 1}"#),
        ("disconnect", r#"{"user": 42}"#),
        ("disconnect", r#"{"user": "42", "disconnect": {"code": "3000"}}"#),
        ("disconnect", r#"{"user": "42", "whitelist": "x"}"#),
        ("subscribe", r#"{"user": "42", "channel": "x", "override": {"presence": true}}"#),
        ("history", r#"{"channel": "x", "limit": "10"}"#),
        ("info", "[]"),
        ("rpc", "1"),
    ] {
        match read(method, body.as_bytes()) {
            Err(Unread::Body(error)) => {
                assert_eq!(error.code, 107);
                assert!(error.message.starts_with("bad request: "), "{}", error.message);
            }
            other => panic!("{method} {body}: {other:?}"),
        }
    }
    assert_eq!(read("nothing", b"{}").err(), Some(Unread::Method));
}

#[test]
fn connections_are_told_what_the_application_says() {
    let told = |disconnect: Value| action("disconnect", json!({"disconnect": disconnect}));
    let closes = |code, reason: &str| {
        Ok(Action::Disconnect { code, reason: reason.to_owned(), except: Vec::new() })
    };
    assert_eq!(told(json!(null)), closes(3503, "force disconnect"));
    assert_eq!(told(json!({"code": 0, "reason": "x"})), closes(3503, "force disconnect"));
    assert_eq!(told(json!({"code": 3000})), closes(3000, ""));
    assert_eq!(told(json!({"code": 4500, "reason": "banned"})), closes(4500, "banned"));
    for wrong in [json!({"code": 1000}), json!({"code": 5000}), json!({"code": 70_000})] {
        assert_eq!(told(wrong).expect_err("no code").code, 107);
    }
    let long = json!({"code": 4500, "reason": "x".repeat(124)});
    assert_eq!(told(long).expect_err("too long").code, 107);
}

#[test]
fn an_empty_user_stands_for_those_without_one_and_no_user_for_nobody() {
    let control = |body: Value| match call("disconnect", body) {
        Call::Disconnect(target, it) => target.control(it.action()?),
        other => panic!("{other:?}"),
    };
    let named = |body| control(body).map(|it| (it.user, it.client, it.session));
    let none = String::new;
    assert_eq!(named(json!({"user": ""})), Ok((none(), none(), none())));
    assert_eq!(named(json!({"user": null, "client": "c"})), Ok((none(), "c".into(), none())));
    assert_eq!(named(json!({"session": "s"})), Ok((none(), none(), "s".into())));
    for nobody in [json!({}), json!({"user": null, "client": null}), json!({"client": ""})] {
        assert_eq!(named(nobody).expect_err("nobody").code, 107);
    }
}

#[test]
fn a_batch_is_read_before_any_of_it_is_done() {
    let read = |body: Value| batch(body.to_string().as_bytes());
    let body = json!({"parallel": null, "commands": [
        {"publish": {"channel": "x", "data": null}, "history": null},
        {"info": {}},
        {"nothing": {}},
        {},
        null,
        {"info": {}, "publish": {}},
        {"batch": {}},
    ]});
    let read_batch = read(body).expect("a batch");
    let got = read_batch.calls.iter().map(|it| match it {
        Ok((method, _)) => method.clone(),
        Err(error) => error.code.to_string(),
    });
    let got: Vec<String> = got.collect();
    assert_eq!(got, ["publish", "info", "104", "107", "107", "107", "107"]);
    assert!(!read_batch.parallel);
    let wrong = json!({"commands": [{"info": {}}, {"publish": {"channel": 1}}]});
    for wrong in [wrong, json!([]), json!({"commands": [1]}), json!({"commands": {}})] {
        assert_eq!(read(wrong.clone()).expect_err("malformed").code, 107, "{wrong}");
    }
    let many = vec![json!({"info": {}}); BATCH_LIMIT + 1];
    assert_eq!(read(json!({"commands": many})).expect_err("too many").code, 107);
}

#[test]
fn commands_come_one_to_a_line() {
    let body = br#"{"method": "publish", "params": {"channel": "x", "data": {}}}
{"id": 7, "method": "INFO"}
{"method": "info", "params": null, "id": null}

{"method": "history",
 "params": {"channel": "x"}}{"method": "presence", "params": {"channel": 1}}
{"method": "connections", "params": {}}
"#;
    let read = lines(body).expect("commands");
    let got = read.iter().map(|it| (it.id, it.call.as_ref().map_err(|it| it.code).map(|_| ())));
    let got: Vec<_> = got.collect();
    let (done, malformed, unknown) = (Ok(()), Err(107), Err(104));
    let expected = [(0, done), (7, done), (0, done), (0, done), (0, malformed), (0, unknown)];
    assert_eq!(got, expected);
}

#[test]
fn what_is_no_command_refuses_all() {
    for body in [
        "",
        " \n",
        "[]",
        "{}",
        r#"{"params": {}}"#,
        r#"{"method": 1}"#,
        r#"{"method": "info"} x"#,
        "{\"method\": \"info\"}\n{\"method\": ",
        "{\"method\": \"info\"}\n3",
    ] {
        assert_eq!(lines(body.as_bytes()).map(|_| ()).expect_err(body).code, 107);
    }
    let error = lines(b"{\"method\": \"info\"}\n{\"method\": 1}").expect_err("no method");
    assert!(error.message.contains("command 2"), "{}", error.message);
    let many = "{\"method\": \"info\"}".repeat(LINES_LIMIT + 1);
    assert!(lines(many.as_bytes()).is_err() && lines(&many.as_bytes()[18..]).is_ok());
}
