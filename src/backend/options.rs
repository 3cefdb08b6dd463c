//! Which backends there are, how each is asked, and which is asked about what: the checked configuration.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    protocol::{codes::Disconnect, message},
    room::options::namespace,
};

/// The place of a backend in the node's list of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendId(pub u16);

/// How a backend is asked. Names and meaning are those of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// Where the configuration has it, for logs and metrics.
    pub name: String,
    /// In which protocol it is asked.
    pub protocol: Protocol,
    /// URL that is posted to; of one that is asked by gRPC what stands before the paths of methods.
    pub endpoint: String,
    /// How long it may take.
    pub timeout: Duration,
    /// Names, in lower case, of the client's headers that go along.
    pub http_headers: Vec<String>,
    /// Names of headers that the client may say in its connect command.
    pub emulated_headers: Vec<String>,
    /// Headers of every request, or its metadata.
    pub static_headers: BTreeMap<String, String>,
    /// What the client says goes along in base64.
    pub binary: bool,
    /// What is kept about the connection for backends goes along.
    pub with_meta: bool,
    /// The most calls under way.
    pub concurrency: usize,
    /// What some HTTP statuses mean.
    pub statuses: Vec<Status>,
}

/// In which protocol a backend is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// By a POST of JSON.
    Http,
    /// By a call of gRPC.
    Grpc,
}

/// What an HTTP status of a backend means.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// The status.
    pub status: u16,
    /// How its client is refused.
    pub verdict: Verdict,
}

/// How a client is refused something by a backend.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// An error of the backend's own.
    Error(message::Error),
    /// Its connection is closed.
    Disconnect(Disconnect),
}

/// Who is asked about a room of one namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RoomProxies {
    /// Whether a client may subscribe.
    pub subscribe: Option<BackendId>,
    /// Whether a client may publish, and what.
    pub publish: Option<BackendId>,
    /// Whether a subscription goes on.
    pub sub_refresh: Option<BackendId>,
    /// Whether a client may subscribe, by a stream that brings what it gets.
    pub stream: Option<StreamBackend>,
}

/// Who has a stream for each subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamBackend {
    /// This backend.
    pub id: BackendId,
    /// What the subscriber publishes goes there.
    pub both_ways: bool,
}

/// Who is asked about rooms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoomBackends {
    /// About rooms without a namespace in their name.
    pub default: RoomProxies,
    /// By namespace, if any backend is asked about its rooms.
    pub named: BTreeMap<Box<str>, RoomProxies>,
}

impl RoomBackends {
    /// Who is asked about this room.
    pub fn of(&self, room: &str) -> RoomProxies {
        match namespace(room) {
            None => self.default,
            Some(namespace) => self.named.get(namespace).copied().unwrap_or_default(),
        }
    }
}

/// Who is asked about what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Who a client without a token is.
    pub connect: Option<BackendId>,
    /// Whether a connection goes on.
    pub refresh: Option<BackendId>,
    /// Rooms.
    pub rooms: RoomBackends,
    /// Calls of clients.
    pub rpc: Methods,
    /// Headers of clients' requests that some backend wants.
    pub http_headers: Vec<String>,
    /// Headers in their connect commands that some wants.
    pub emulated_headers: Vec<String>,
    /// Whether any that is asked after the connect wants headers.
    pub keeps_headers: bool,
    /// Whether any wants what is kept about the connection.
    pub keeps_meta: bool,
}

/// Who answers which calls of clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Methods {
    /// Methods without a `:` in their name.
    pub default: Option<BackendId>,
    /// By what stands before the first `:` of a method's name.
    pub named: BTreeMap<Box<str>, Option<BackendId>>,
}

/// Who answers a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RpcBackend {
    /// This backend.
    Backend(BackendId),
    /// No one answers such calls.
    NoOne,
    /// There are no such calls.
    Unknown,
}

impl Methods {
    /// Who answers calls of `method`.
    pub fn responsible(&self, method: &str) -> RpcBackend {
        let backend = match method.split_once(':') {
            None => Some(&self.default),
            Some((namespace, _)) => self.named.get(namespace),
        };
        match backend {
            Some(Some(id)) => RpcBackend::Backend(*id),
            Some(None) => RpcBackend::NoOne,
            // Where no calls are served at all, that is what is to be said.
            None if self.default.is_none() && self.named.values().all(Option::is_none) => {
                RpcBackend::NoOne
            }
            None => RpcBackend::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_of_a_room_says_who_is_asked() {
        let asked = |id| RoomProxies { publish: Some(BackendId(id)), ..Default::default() };
        let named = [("chat".into(), asked(1))].into_iter().collect();
        let rooms = RoomBackends { default: asked(0), named };
        assert_eq!(rooms.of("lobby"), asked(0));
        assert_eq!((rooms.of("chat:a:b"), rooms.of("$chat:a")), (asked(1), asked(1)));
        assert_eq!(rooms.of("news:a"), RoomProxies::default());
    }

    #[test]
    fn the_namespace_of_a_method_says_who_answers() {
        let (first, second) = (BackendId(0), BackendId(1));
        let named = [("shop".into(), Some(second)), ("off".into(), None)].into_iter().collect();
        let methods = Methods { default: Some(first), named };
        assert_eq!(methods.responsible("time"), RpcBackend::Backend(first));
        assert_eq!(methods.responsible("shop:buy:now"), RpcBackend::Backend(second));
        assert_eq!(methods.responsible("off:x"), RpcBackend::NoOne);
        assert_eq!(methods.responsible("other:x"), RpcBackend::Unknown);
        assert_eq!(Methods::default().responsible("other:x"), RpcBackend::NoOne);
    }
}
