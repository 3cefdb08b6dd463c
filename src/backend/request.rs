//! What backends are asked: requests of sessions, and their form as JSON.

use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::{
    headers::Headers,
    options::{Backend, BackendId},
};
use crate::{protocol::codec::Format, room::types::ClientInfo};

/// What a session asks a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendRequest {
    /// Of whom.
    pub to: BackendId,
    /// About which client.
    pub client: Arc<ClientInfo>,
    /// What is kept about its connection for backends; empty if nothing.
    pub meta: Bytes,
    /// Its headers, as far as any backend wants them.
    pub headers: Option<Arc<Headers>>,
    /// What.
    pub operation: Operation,
}

/// What is asked about a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Who it is.
    Connect {
        /// What it says.
        data: Bytes,
        /// What it calls itself.
        name: String,
        /// Which version of that it is.
        version: String,
    },
    /// Whether its connection goes on.
    Refresh,
    /// Whether it may subscribe.
    Subscribe {
        /// To this room.
        room: String,
        /// What it says.
        data: Bytes,
    },
    /// Whether it may publish.
    Publish {
        /// In this room.
        room: String,
        /// This.
        data: Bytes,
    },
    /// Whether its subscription goes on.
    SubRefresh {
        /// To this room.
        room: String,
    },
    /// It calls the application itself.
    Rpc {
        /// The method.
        method: String,
        /// What it says.
        data: Bytes,
    },
}

/// Kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// See [`Operation::Connect`].
    Connect,
    /// See [`Operation::Refresh`].
    Refresh,
    /// See [`Operation::Subscribe`].
    Subscribe,
    /// See [`Operation::Publish`].
    Publish,
    /// See [`Operation::SubRefresh`].
    SubRefresh,
    /// See [`Operation::Rpc`].
    Rpc,
    /// The same as [`Self::Subscribe`], by a [stream](super::stream).
    SubscribeStream,
    /// See [`PollRequest`](super::poll::PollRequest).
    SharedPollRefresh,
}

impl OperationKind {
    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Refresh => "refresh",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::SubRefresh => "sub_refresh",
            Self::Rpc => "rpc",
            Self::SubscribeStream => "subscribe_stream",
            Self::SharedPollRefresh => "shared_poll_refresh",
        }
    }
}

impl Operation {
    /// Its kind.
    pub const fn kind(&self) -> OperationKind {
        match self {
            Self::Connect { .. } => OperationKind::Connect,
            Self::Refresh => OperationKind::Refresh,
            Self::Subscribe { .. } => OperationKind::Subscribe,
            Self::Publish { .. } => OperationKind::Publish,
            Self::SubRefresh { .. } => OperationKind::SubRefresh,
            Self::Rpc { .. } => OperationKind::Rpc,
        }
    }
}

/// How a client is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportInfo {
    /// The transport, as in the path that it connected to.
    pub transport: &'static str,
    /// The format of its messages.
    pub format: Format,
}

#[derive(Serialize, Default)]
struct Body<'a> {
    client: String,
    transport: &'a str,
    protocol: &'a str,
    encoding: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<&'a RawValue>,
}

impl<'a> Body<'a> {
    /// As base64 if the backend wants that, or if it can't be said otherwise: what a client says in Protobuf
    /// need not be JSON.
    fn says(mut self, data: &'a Bytes, backend: &Backend) -> Self {
        if data.is_empty() {
            return self;
        }
        self.data = json(data).filter(|_| !backend.binary);
        if self.data.is_none() {
            self.b64data = Some(base64::engine::general_purpose::STANDARD.encode(data));
        }
        self
    }
}

fn json(data: &Bytes) -> Option<&RawValue> {
    serde_json::from_slice(data).ok()
}

fn some(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

impl BackendRequest {
    /// What is posted to `backend`.
    ///
    /// # Errors
    /// None that any input causes: `data` and `meta` are checked to be JSON, all else is text.
    pub fn body(
        &self,
        backend: &Backend,
        transport: TransportInfo,
    ) -> Result<Vec<u8>, serde_json::Error> {
        let base = Body {
            client: self.client.client.to_string(),
            transport: transport.transport,
            protocol: if transport.format == Format::Protobuf { "protobuf" } else { "json" },
            encoding: if backend.binary { "binary" } else { "json" },
            ..Body::default()
        };
        let known = Body {
            user: Some(&self.client.user),
            meta: json(&self.meta).filter(|_| backend.with_meta),
            ..base
        };
        let body = match &self.operation {
            Operation::Connect { data, name, version } => {
                // Who it is, is what is asked.
                Body { user: None, meta: None, name: some(name), version: some(version), ..known }
                    .says(data, backend)
            }
            Operation::Refresh => known,
            Operation::Subscribe { room, data } | Operation::Publish { room, data } => {
                Body { channel: Some(room), ..known }.says(data, backend)
            }
            Operation::SubRefresh { room } => Body { channel: Some(room), ..known },
            Operation::Rpc { method, data } => {
                Body { method: Some(method), ..known }.says(data, backend)
            }
        };
        serde_json::to_vec(&body)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;
    use crate::{backend::options::Protocol, room::types::ClientId};

    /// A backend of which nothing is special.
    pub fn backend() -> Backend {
        Backend {
            name: "b".into(),
            protocol: Protocol::Http,
            endpoint: "http://b".into(),
            timeout: Duration::from_secs(1),
            http_headers: Vec::new(),
            emulated_headers: Vec::new(),
            static_headers: Default::default(),
            binary: false,
            with_meta: true,
            concurrency: 1,
            statuses: Vec::new(),
        }
    }

    fn said(operation: Operation, backend: &Backend) -> Value {
        let request = BackendRequest {
            to: BackendId(0),
            client: Arc::new(ClientInfo::new(ClientId(0), "ann")),
            meta: Bytes::from_static(b"{\"m\":1}"),
            headers: None,
            operation,
        };
        let transport = TransportInfo { transport: "websocket", format: Format::Json };
        let body = request.body(backend, transport).expect("plain data");
        serde_json::from_slice(&body).expect("JSON")
    }

    const CLIENT: &str = "00000000-0000-4000-8000-000000000000";

    #[test]
    fn a_connect_says_nothing_of_a_user() {
        let (name, version) = ("js".to_owned(), String::new());
        let operation =
            Operation::Connect { data: Bytes::from_static(b"{\"a\": 1}"), name, version };
        let expected = json!({"client": CLIENT, "transport": "websocket", "protocol": "json",
            "encoding": "json", "data": {"a": 1}, "name": "js"});
        assert_eq!(said(operation, &backend()), expected);
    }

    #[test]
    fn what_is_no_json_goes_along_in_base64() {
        let operation = |data: &'static [u8]| Operation::Rpc {
            method: "m".into(),
            data: Bytes::from_static(data),
        };
        let expected = json!({"client": CLIENT, "transport": "websocket", "protocol": "json",
            "encoding": "json", "user": "ann", "method": "m", "b64data": "AAE=", "meta": {"m": 1}});
        assert_eq!(said(operation(&[0, 1]), &backend()), expected);
        let binary = Backend { binary: true, with_meta: false, ..backend() };
        let expected = json!({"client": CLIENT, "transport": "websocket", "protocol": "json",
            "encoding": "binary", "user": "ann", "method": "m", "b64data": "e30="});
        assert_eq!(said(operation(b"{}"), &binary), expected);
    }

    #[test]
    fn rooms_are_named() {
        let room = || "chat:a".to_owned();
        let data = Bytes::new;
        for operation in [
            Operation::Subscribe { room: room(), data: data() },
            Operation::Publish { room: room(), data: data() },
            Operation::SubRefresh { room: room() },
        ] {
            let said = said(operation, &backend());
            assert_eq!((&said["channel"], &said["user"]), (&json!("chat:a"), &json!("ann")));
            assert_eq!(said.get("data"), None);
        }
    }
}
