//! Requests as calls, and results as messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::{
    protocol::message::{Empty, HistoryResult, PresenceResult, Publication, StreamPosition},
    room::{control::Action, types::Since},
    server::results::{Controlled, Responses},
};

#[test]
fn a_publication_is_what_it_is_by_http() {
    let request = api::PublishRequest {
        channel: "a".into(),
        data: Bytes::from_static(b"\xff\0"),
        skip_history: true,
        tags: BTreeMap::from([("k".into(), "v".into())]),
        idempotency_key: "i".into(),
        delta: true,
        version: 3,
        version_epoch: "e".into(),
        ..Default::default()
    };
    let Call::Publish(call) = request.clone().call() else { panic!("another call") };
    assert_eq!(call.channel, "a");
    let it = call.publication(1 << 20, 0.0).expect("a publication");
    assert_eq!((&it.data[..], it.tags["k"].as_str()), (&b"\xff\0"[..], "v"));
    assert_eq!((it.idempotency_key.as_deref(), it.skip_history, it.delta), (Some("i"), true, true));
    assert_eq!(it.version.map(|it| (it.number, it.epoch.to_string())), Some((3, "e".into())));
    let request = api::BroadcastRequest {
        channels: vec!["a".into(), "b".into()],
        data: Bytes::from_static(b"1"),
        b64data: "Mg==".into(),
        ..Default::default()
    };
    let Call::Broadcast(call) = request.call() else { panic!("another call") };
    assert_eq!(call.channels, ["a", "b"]);
    assert_eq!(call.publication(1 << 20, 0.0).expect("a publication").data, "2");
}

#[test]
fn what_is_done_to_connections_is_what_it_is_by_http() {
    let request = api::SubscribeRequest {
        channel: "a".into(),
        user: Some("ann".into()),
        info: Bytes::from_static(b"1"),
        b64data: "Mg==".into(),
        expire_at: 7,
        recover_since: Some(api::StreamPosition { offset: 5, epoch: "e".into() }),
        r#override: Some(api::SubscribeOptionOverride {
            presence: Some(api::BoolValue { value: false }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let Call::Subscribe(target, call) = request.call() else { panic!("another call") };
    let control = target.control(call.action().expect("an action")).expect("someone");
    let Action::Subscribe { room, grant, since } = control.action else { panic!("another action") };
    assert_eq!((control.user.as_str(), room.as_str()), ("ann", "a"));
    assert_eq!((grant.info, grant.data, grant.expires_at), ("1".into(), "2".into(), Some(7)));
    assert_eq!(grant.overrides.presence, Some(Flag { value: false }));
    assert_eq!(grant.overrides.join_leave, None);
    assert_eq!(since, Some(Since { offset: 5, epoch: "e".into() }));
    let request = api::DisconnectRequest {
        session: "s".into(),
        disconnect: Some(api::Disconnect { code: 4500, reason: "r".into() }),
        whitelist: vec!["c".into()],
        ..Default::default()
    };
    let Call::Disconnect(target, call) = request.call() else { panic!("another call") };
    let control = target.control(call.action().expect("an action")).expect("someone");
    let closes = Action::Disconnect { code: 4500, reason: "r".into(), except: vec!["c".into()] };
    assert_eq!((control.session.as_str(), control.action), ("s", closes));
}

/// Libraries of others can't say that a text is there and empty. Then nobody is meant, not everybody without a user.
#[test]
fn who_is_not_named_is_not_meant() {
    let control = |request: api::RefreshRequest| match request.call() {
        Call::Refresh(target, it) => target.control(it.action()),
        other => panic!("{other:?}"),
    };
    let nobody = api::RefreshRequest { expired: true, ..Default::default() };
    let nobody = api::RefreshRequest::decode(&nobody.encode_to_vec()[..]).expect("a message");
    assert_eq!(control(nobody).expect_err("nobody").code, 107);
    let anonymous = api::RefreshRequest { user: Some(String::new()), ..Default::default() };
    let anonymous = api::RefreshRequest::decode(&anonymous.encode_to_vec()[..]).expect("a message");
    assert_eq!(control(anonymous).expect("those without a user").user, "");
}

#[test]
fn results_have_their_fields() {
    let position = || StreamPosition { offset: 3, epoch: "e".into() };
    let published = result::<api::PublishRequest>(Ok(Done::Published(position())));
    assert_eq!(published, Ok(api::PublishResult { offset: 3, epoch: "e".into() }));
    let published = result::<api::PublishRequest>(Ok(Done::nothing()));
    assert_eq!(published, Ok(api::PublishResult::default()));
    let failure = message::Error::from(ErrorCode::UnknownChannel);
    let responses = vec![Ok(Done::Published(position())).into(), Err(failure.clone()).into()];
    let it = result::<api::BroadcastRequest>(Ok(Done::Broadcast(Responses { responses })));
    let responses = it.expect("a result").responses;
    assert_eq!(responses[0].result, Some(api::PublishResult { offset: 3, epoch: "e".into() }));
    assert_eq!(responses[1].error.as_ref().map(|it| it.code), Some(102));
    let client = message::ClientInfo { user: "u".into(), client: "c".into(), ..Default::default() };
    let presence = PresenceResult { presence: BTreeMap::from([("c".into(), client.clone())]) };
    let it = result::<api::PresenceRequest>(Ok(Done::Presence(presence))).expect("a result");
    assert_eq!(it.presence["c"].user, "u");
    let publication = Publication {
        data: "1".into(),
        info: Some(client),
        offset: 2,
        tags: BTreeMap::from([("k".into(), "v".into())]),
        ..Default::default()
    };
    let history = HistoryResult { publications: vec![publication], offset: 9, epoch: "e".into() };
    let it = result::<api::HistoryRequest>(Ok(Done::History(history))).expect("a result");
    let publication = &it.publications[0];
    assert_eq!((it.offset, it.epoch.as_str(), publication.offset), (9, "e", 2));
    assert_eq!((&publication.data[..], publication.tags["k"].as_str()), (&b"1"[..], "v"));
    let missing = Done::Controlled(Controlled { missing: vec!["n".into()] });
    assert!(result::<api::RefreshRequest>(Ok(missing)).is_ok());
    assert_eq!(result::<api::InfoRequest>(Ok(Done::nothing())).expect_err("another").code, 100);
    let failed: api::InfoResponse = result::<api::InfoRequest>(Err(failure)).map_err(error).into();
    assert_eq!(failed.error.map(|it| it.message), Some("unknown channel".into()));
}

#[test]
fn a_batch_has_one_method_to_a_command() {
    let request = api::PresenceStatsRequest { channel: "a".into() };
    let commands = vec![
        api::Command { info: Some(api::InfoRequest {}), ..Default::default() },
        api::Command { presence_stats: Some(request), ..Default::default() },
        api::Command::default(),
        api::Command {
            info: Some(api::InfoRequest {}),
            rpc: Some(api::RpcRequest::default()),
            ..Default::default()
        },
    ];
    let read = batch(api::BatchRequest { commands, parallel: true }).expect("a batch");
    let codes: Vec<_> = read.iter().map(|it| it.as_ref().err().map(|it| it.code)).collect();
    assert_eq!(codes, [None, None, Some(107), Some(107)]);
    let (_, made) = read.into_iter().nth(1).expect("the second").expect("a call");
    let stats = message::PresenceStatsResult { num_clients: 2, num_users: 1 };
    let expected = api::PresenceStatsResult { num_clients: 2, num_users: 1 };
    let it = reply(Some(made), Ok(Done::PresenceStats(stats)));
    assert_eq!(it, api::Reply { presence_stats: Some(expected), ..Default::default() });
    let it = reply(Some(made), Ok(Done::Nothing(Empty {})));
    assert_eq!(it.error.map(|it| it.code), Some(100));
    let many = vec![api::Command::default(); BATCH_LIMIT + 1];
    let error = batch(api::BatchRequest { commands: many, parallel: false }).expect_err("too many");
    assert_eq!(error.code, 107);
}
