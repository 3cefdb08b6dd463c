//! Questions as messages, and what answers mean.

use std::sync::Arc;

use super::*;
use crate::{
    backend::{options::BackendId, request::tests::backend},
    protocol::codes::Disconnect,
    room::types::{ClientId, ClientInfo},
};

fn asked(operation: Operation, backend: &Backend) -> Bytes {
    let request = BackendRequest {
        to: BackendId(0),
        client: Arc::new(ClientInfo::new(ClientId(0), "ann")),
        meta: Bytes::from_static(b"{\"m\":1}"),
        headers: None,
        operation,
    };
    let transport = TransportInfo { transport: "websocket", format: Format::Protobuf };
    framing::only_message(body(&request, backend, transport)).expect("one message")
}

#[test]
fn questions_say_who_asks_what() {
    let (data, name, version) = (Bytes::from_static(&[0, 255]), "js".to_owned(), "1".to_owned());
    let connect = Operation::Connect { data: data.clone(), name, version };
    let it = proxy::ConnectRequest::decode(asked(connect, &backend())).expect("a message");
    assert_eq!(it.client, "00000000-0000-4000-8000-000000000000");
    assert_eq!((it.transport.as_str(), it.protocol.as_str()), ("websocket", "protobuf"));
    assert_eq!((it.encoding.as_str(), it.name.as_str(), it.version.as_str()), ("json", "js", "1"));
    assert_eq!((it.data, it.b64data.as_str()), (data.clone(), ""));
    let binary = Backend { binary: true, with_meta: false, ..backend() };
    let rpc = || Operation::Rpc { method: "m".into(), data: data.clone() };
    let it = proxy::RpcRequest::decode(asked(rpc(), &binary)).expect("a message");
    assert_eq!((it.encoding.as_str(), it.b64data.as_str(), it.meta), ("binary", "AP8=", "".into()));
    let it = proxy::RpcRequest::decode(asked(rpc(), &backend())).expect("a message");
    assert_eq!((it.user.as_str(), it.method.as_str()), ("ann", "m"));
    assert_eq!(it.meta, "{\"m\":1}");
    let room = || "chat:a".to_owned();
    let it = asked(Operation::Subscribe { room: room(), data: data.clone() }, &backend());
    assert_eq!(proxy::SubscribeRequest::decode(it).map(|it| it.channel), Ok(room()));
    let it = asked(Operation::Publish { room: room(), data }, &backend());
    assert_eq!(proxy::PublishRequest::decode(it).map(|it| it.channel), Ok(room()));
    let it = asked(Operation::SubRefresh { room: room() }, &backend());
    assert_eq!(proxy::SubRefreshRequest::decode(it).map(|it| it.channel), Ok(room()));
    let it = asked(Operation::Refresh, &backend());
    assert_eq!(proxy::RefreshRequest::decode(it).map(|it| it.user), Ok("ann".to_owned()));
}

fn answer(kind: OperationKind, message: &impl prost::Message) -> Result<BackendResponse, String> {
    read(kind, message.encode_to_vec().into()).map_err(|error| error.to_string())
}

#[test]
fn answers_mean_what_they_mean_by_http() {
    let result = proxy::ConnectResult {
        user: "ann".into(),
        expire_at: 7,
        b64info: "MQ==".into(),
        channels: vec!["a".into(), "b".into()],
        subs: [("b".into(), proxy::SubscribeOptions { expire_at: 9, ..Default::default() })].into(),
        meta: "{}".into(),
        ..Default::default()
    };
    let response = proxy::ConnectResponse { result: Some(result), ..Default::default() };
    let expected = Credentials {
        user: "ann".into(),
        info: "1".into(),
        expires_at: Some(7),
        meta: "{}".into(),
        data: Bytes::new(),
        rooms: vec![
            ("a".into(), Grant::default()),
            ("b".into(), Grant { expires_at: Some(9), ..Default::default() }),
        ],
    };
    let expected = BackendResponse::Connect(Some(Box::new(expected)));
    assert_eq!(answer(OperationKind::Connect, &response), Ok(expected));
    let nobody = answer(OperationKind::Connect, &proxy::ConnectResponse::default());
    assert_eq!(nobody, Ok(BackendResponse::Connect(None)));

    let goes_on = |until| Refreshed::GoesOn { until, info: Bytes::new(), meta: Bytes::new() };
    let result = Some(proxy::RefreshResult { expire_at: 5, ..Default::default() });
    let response = proxy::RefreshResponse { result, ..Default::default() };
    let expected = BackendResponse::Refresh(goes_on(Some(5)));
    assert_eq!(answer(OperationKind::Refresh, &response), Ok(expected));
    let result = Some(proxy::SubRefreshResult { expired: true, ..Default::default() });
    for response in [proxy::SubRefreshResponse { result, ..Default::default() }, Default::default()]
    {
        let expected = Ok(BackendResponse::SubRefresh(Refreshed::Expired));
        assert_eq!(answer(OperationKind::SubRefresh, &response), expected);
    }

    let result = proxy::SubscribeResult {
        r#override: Some(proxy::SubscribeOptionOverride {
            presence: Some(proxy::BoolValue { value: true }),
            ..Default::default()
        }),
        data: "1".into(),
        ..Default::default()
    };
    let response = proxy::SubscribeResponse { result: Some(result), ..Default::default() };
    let overrides = Overrides { presence: Some(Flag { value: true }), ..Default::default() };
    let grant = Grant { overrides, data: "1".into(), ..Default::default() };
    let expected = Ok(BackendResponse::Subscribe(Box::new(grant)));
    assert_eq!(answer(OperationKind::Subscribe, &response), expected);
    let unsaid = answer(OperationKind::Subscribe, &proxy::SubscribeResponse::default());
    assert!(unsaid.is_err(), "a permission has to be said");

    let result = Some(proxy::PublishResult { version: 3, ..Default::default() });
    let response = proxy::PublishResponse { result, ..Default::default() };
    let version = Some(Version { number: 3, epoch: "".into() });
    let expected =
        Ok(BackendResponse::Publish(Box::new(Publish { version, ..Default::default() })));
    assert_eq!(answer(OperationKind::Publish, &response), expected);
    let result = Some(proxy::RpcResult { data: "x".into(), ..Default::default() });
    let response = proxy::RpcResponse { result, ..Default::default() };
    assert_eq!(answer(OperationKind::Rpc, &response), Ok(BackendResponse::Rpc("x".into())));
}

#[test]
fn refusals_go_before_results_and_have_codes_that_clients_may_be_told() {
    let error = |code| Some(proxy::Error { code, message: "no".into(), temporary: true });
    let disconnect = |code| Some(proxy::Disconnect { code, reason: "away".into() });
    let response = |error, disconnect| {
        let result = Some(proxy::RpcResult::default());
        answer(OperationKind::Rpc, &proxy::RpcResponse { result, error, disconnect })
    };
    let refused = |verdict| Ok(BackendResponse::Refused(verdict));
    let told = response::error(1000, "no".into(), true).expect("a code");
    assert_eq!(response(error(1000), None), refused(Verdict::Error(told)));
    let told = Verdict::Disconnect(Disconnect::custom(4000, "away"));
    assert_eq!(response(error(1000), disconnect(4000)), refused(told));
    assert!(response(error(1), None).is_err() && response(None, disconnect(1)).is_err());
    assert!(read(OperationKind::Rpc, Bytes::from_static(b"\xff")).is_err());
}
