//! Backends of the application, and what they are asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Span, seconds};

/// The name of the backend that is beside those who ask it.
pub const DEFAULT_PROXY: &str = "default";

section! {
    /// Which backends are asked about connections.
    ClientProxies {
        /// Asked who a client is that has no token.
        connect: ConnectProxy = ConnectProxy::default(),
        /// Asked whether a connection that ends goes on, instead of its client for a new token.
        refresh: RefreshProxy = RefreshProxy::default(),
    }
}

section! {
    /// Which backends are asked about rooms.
    ChannelProxies {
        /// Asked whether a client may subscribe.
        subscribe: Proxy = Proxy::default(),
        /// Asked whether a client may publish, and what.
        publish: Proxy = Proxy::default(),
        /// Asked whether a subscription that ends goes on.
        sub_refresh: Proxy = Proxy::default(),
        /// Has a stream for each subscriber, by gRPC.
        subscribe_stream: Proxy = Proxy::default(),
        /// Asked for the keys that clients track.
        shared_poll_refresh: Proxy = Proxy::default(),
    }
}

/// The options of all backends are the same.
macro_rules! proxy_section {
    ($(#[$doc:meta])* $name:ident { $($first:tt)* }) => {
        section! {
            $(#[$doc])*
            $name {
                $($first)*
                /// URL (http or https) that questions are posted to, as JSON; or `grpc://HOST:PORT`, where they
                /// are asked by gRPC (proto/proxy.proto).
                endpoint: String = String::new(),
                /// How long an answer may take.
                timeout: Span = seconds(1),
                /// Names of headers of the client's HTTP request that go along.
                http_headers: Vec<String> = Vec::new(),
                /// Names of headers that the client says in its connect command and that go along, unless it sent
                /// them. Anyone can say anything there.
                emulated_headers: Vec<String> = Vec::new(),
                /// What clients say goes along in base64.
                binary_encoding: bool = false,
                /// What a token or the connect backend said as `meta` goes along.
                include_connection_meta: bool = false,
                /// The most questions under way from this node. 16 times as many may wait for their turn.
                concurrency: usize = 256,
                /// What belongs to HTTP.
                http: ProxyHttp = ProxyHttp::default(),
                /// What belongs to gRPC.
                grpc: ProxyGrpc = ProxyGrpc::default(),
            }
        }
    };
}

proxy_section! {
    /// How a backend is asked.
    Proxy {}
}

proxy_section! {
    /// Who is asked who a client is.
    ConnectProxy {
        /// Ask it.
        enabled: bool = false,
    }
}

proxy_section! {
    /// Who is asked whether a connection goes on.
    RefreshProxy {
        /// Ask it.
        enabled: bool = false,
    }
}

proxy_section! {
    /// A backend with a name.
    NamedProxy {
        /// The name by which namespaces have it.
        name: String = String::new(),
    }
}

/// What is special of some backends is elsewhere.
macro_rules! any_proxy {
    ($($name:ident)*) => {
        $(impl From<$name> for Proxy {
            fn from(it: $name) -> Self {
                Self {
                    endpoint: it.endpoint,
                    timeout: it.timeout,
                    http_headers: it.http_headers,
                    emulated_headers: it.emulated_headers,
                    binary_encoding: it.binary_encoding,
                    include_connection_meta: it.include_connection_meta,
                    concurrency: it.concurrency,
                    http: it.http,
                    grpc: it.grpc,
                }
            }
        })*
    };
}

any_proxy! { ConnectProxy RefreshProxy NamedProxy }

section! {
    /// What belongs to HTTP.
    ProxyHttp {
        /// Headers of every question. What goes along of the client goes over them.
        static_headers: BTreeMap<String, String> = BTreeMap::new(),
        /// What HTTP statuses other than 200 mean, each as `{ status_code, to_error = { code, message, temporary } }`
        /// or `{ status_code, to_disconnect = { code, reason } }`. All others: error 100.
        status_to_code_transforms: Vec<StatusTransform> = Vec::new(),
    }
}

section! {
    /// What belongs to gRPC.
    ProxyGrpc {
        /// Metadata of every question. What goes along of the client goes over it.
        static_metadata: BTreeMap<String, String> = BTreeMap::new(),
        /// Name of one more piece of metadata of every question. Empty: none.
        credentials_key: String = String::new(),
        /// Its value.
        credentials_value: String = String::new(),
        /// TLS to the backend.
        tls: ProxyTls = ProxyTls::default(),
    }
}

section! {
    /// TLS to a backend.
    ProxyTls {
        /// Ask it over TLS. Its certificate has to be one that the system trusts.
        enabled: bool = false,
    }
}

/// What an HTTP status means.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusTransform {
    /// The status.
    pub status_code: u16,
    /// The error that it means, if its code is not 0.
    pub to_error: TransformError,
    /// Or the disconnect.
    pub to_disconnect: TransformDisconnect,
}

/// An error of the application.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformError {
    /// 100 or more.
    pub code: u32,
    /// In words.
    pub message: String,
    /// Whether trying again may help.
    pub temporary: bool,
}

/// A disconnect of the application.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TransformDisconnect {
    /// 3000 to 4999.
    pub code: u32,
    /// In words.
    pub reason: String,
}

section! {
    /// Calls of clients to the application.
    Rpc {
        /// Who answers them, where the namespace names no other.
        proxy: Proxy = Proxy::default(),
        /// Methods without a `:` in their name.
        without_namespace: RpcOptions = RpcOptions::default(),
        /// Methods with a namespace before the first `:` of their name.
        namespaces: Vec<RpcNamespace> = Vec::new(),
    }
}

section! {
    /// Who answers calls.
    RpcOptions {
        /// Whether anyone does.
        proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `rpc.proxy`.
        proxy_name: String = DEFAULT_PROXY.to_owned(),
    }
}

section! {
    /// Who answers calls of one namespace.
    RpcNamespace {
        /// What stands before the first `:` of the methods' names.
        name: String = String::new(),
        /// Whether anyone answers them.
        proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `rpc.proxy`.
        proxy_name: String = DEFAULT_PROXY.to_owned(),
    }
}
