//! What answers mean.

use serde_json::{Value, json};

use super::*;
use crate::backend::{
    options::Status,
    request::{OperationKind, tests::backend},
};

fn read_as(kind: OperationKind, answer: Value) -> Result<BackendResponse, InvalidResponse> {
    read(kind, &backend(), 200, answer.to_string().as_bytes())
}

#[test]
fn a_connect_may_give_everything() {
    let answer = json!({"result": {"user": "ann", "expire_at": 99, "info": {"n": 1},
        "data": {"hello": 1}, "channels": ["a", "b"], "meta": {"m": 1}, "unknown": 1,
        "subs": {"b": {"b64info": "eA==", "override": {"presence": {"value": false}}}}}});
    let Ok(BackendResponse::Connect(Some(it))) = read_as(OperationKind::Connect, answer) else {
        panic!("no user")
    };
    assert_eq!((&*it.user, it.expires_at), ("ann", Some(99)));
    assert_eq!((&it.info[..], &it.meta[..]), (&b"{\"n\":1}"[..], &b"{\"m\":1}"[..]));
    assert_eq!(&it.data[..], b"{\"hello\":1}");
    let names: Vec<&str> = it.rooms.iter().map(|(room, _)| room.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(&it.rooms[1].1.info[..], b"x");
    assert_eq!(it.rooms[1].1.overrides.presence.map(|it| it.value), Some(false));
}

#[test]
fn a_connect_may_leave_it_open() {
    for answer in [json!({}), json!({"result": null})] {
        assert_eq!(
            read_as(OperationKind::Connect, answer).ok(),
            Some(BackendResponse::Connect(None))
        );
    }
}

#[test]
fn a_permission_has_to_be_said() {
    for kind in [OperationKind::Subscribe, OperationKind::Publish] {
        for answer in [json!({}), json!({"result": null}), json!({"allowed": false})] {
            assert!(matches!(read_as(kind, answer), Err(InvalidResponse::Empty)), "{kind:?}");
        }
        assert!(read_as(kind, json!({"result": {}})).is_ok(), "{kind:?}");
    }
}

#[test]
fn a_permission_may_say_what_is_done_with_groups() {
    for (result, expected) in [
        (json!({}), None),
        (json!({"allow": null}), None),
        (json!({"allow": []}), Some(Rights::default())),
        (
            json!({"allow": ["consume", "pub", "seek"]}),
            Some(Rights { consume: true, ack: false, seek: true }),
        ),
    ] {
        let answer = read_as(OperationKind::Subscribe, json!({ "result": result }));
        let Ok(BackendResponse::Subscribe(grant)) = answer else { panic!("{result}") };
        assert_eq!(grant.queue, expected, "{result}");
    }
}

#[test]
fn refusals_are_the_backends_own_words() {
    for kind in [
        OperationKind::Connect,
        OperationKind::Subscribe,
        OperationKind::Publish,
        OperationKind::Rpc,
        OperationKind::Refresh,
    ] {
        let answer =
            json!({"result": {}, "error": {"code": 1000, "message": "no", "temporary": true}});
        let error = message::Error { code: 1000, message: "no".into(), temporary: true };
        let refused = Some(BackendResponse::Refused(Verdict::Error(error)));
        assert_eq!(read_as(kind, answer).ok(), refused, "{kind:?}");
        let answer = json!({"disconnect": {"code": 4500, "reason": "x".repeat(200)}});
        let closed = Disconnect::Custom(4500, "x".repeat(MAX_REASON).into());
        let refused = Some(BackendResponse::Refused(Verdict::Disconnect(closed)));
        assert_eq!(read_as(kind, answer).ok(), refused, "{kind:?}");
    }
    assert!(disconnect(4000, "é".repeat(100)).is_ok_and(|it| it.parts().1.len() == 122));
}

#[test]
fn what_clients_can_not_be_told_is_not_used() {
    for answer in [
        json!({"error": {"code": 0}}),
        json!({"error": {"code": 99}}),
        json!({"disconnect": {"code": 1000}}),
        json!({"disconnect": {"code": 5000}}),
        json!({"disconnect": {"code": 70_000}}),
        json!({"result": {"b64data": "?"}}),
        json!({"result": 7}),
        json!([]),
        json!("text"),
    ] {
        assert!(read_as(OperationKind::Rpc, answer.clone()).is_err(), "{answer}");
    }
    assert!(matches!(
        read(OperationKind::Rpc, &backend(), 200, b"<html>"),
        Err(InvalidResponse::Json(_))
    ));
    assert!(matches!(
        read(OperationKind::Rpc, &backend(), 204, b""),
        Err(InvalidResponse::Status(204))
    ));
}

#[test]
fn a_status_may_have_a_meaning() {
    let verdict = Verdict::Error(message::Error { code: 404, ..Default::default() });
    let statuses = vec![Status { status: 404, verdict: verdict.clone() }];
    let backend = Backend { statuses, ..backend() };
    let meant = read(OperationKind::Subscribe, &backend, 404, b"not found");
    assert_eq!(meant.ok(), Some(BackendResponse::Refused(verdict)));
    assert!(matches!(
        read(OperationKind::Subscribe, &backend, 500, b""),
        Err(InvalidResponse::Status(500))
    ));
}

#[test]
fn what_a_refresh_does_not_say_ends() {
    let goes_on = |until| Refreshed::GoesOn { until, info: Bytes::new(), meta: Bytes::new() };
    for (answer, meant) in [
        (json!({}), Refreshed::Expired),
        (json!({"result": {"expired": true, "expire_at": 99}}), Refreshed::Expired),
        (json!({"result": {"expire_at": 99}}), goes_on(Some(99))),
        (json!({"result": {"expire_at": 0}}), goes_on(None)),
    ] {
        assert_eq!(
            read_as(OperationKind::Refresh, answer.clone()).ok(),
            Some(BackendResponse::Refresh(meant.clone()))
        );
        assert_eq!(
            read_as(OperationKind::SubRefresh, answer).ok(),
            Some(BackendResponse::SubRefresh(meant))
        );
    }
}

#[test]
fn a_publication_may_be_another_than_the_clients() {
    let answer = json!({"result": {"data": {"n": 2}, "b64data": "eA==", "skip_history": true,
        "tags": {"t": "1"}, "idempotency_key": "k", "delta": true, "version": 3, "version_epoch": "e"}});
    let Ok(BackendResponse::Publish(it)) = read_as(OperationKind::Publish, answer) else {
        panic!("refused")
    };
    let expected = Publish {
        data: Some(Bytes::from_static(b"x")),
        skip_history: true,
        tags: [("t".to_owned(), "1".to_owned())].into_iter().collect(),
        idempotency_key: Some("k".into()),
        delta: true,
        version: Some(Version { number: 3, epoch: "e".into() }),
    };
    assert_eq!(*it, expected);
    let answer = json!({"result": {"b64data": "eA=="}});
    let Ok(BackendResponse::Publish(it)) = read_as(OperationKind::Publish, answer) else {
        panic!("refused")
    };
    assert_eq!(it.data.as_deref(), Some(&b"x"[..]));
}
