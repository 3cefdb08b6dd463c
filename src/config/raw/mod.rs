//! The configuration as typed: every option, its default, and what it means, by section.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time, written like `"25s"` or `"1h30m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_duration(self.0))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        match humantime::parse_duration(&text) {
            Ok(it) => Ok(Self(it)),
            Err(error) => with_fractions(&text).map(Self).ok_or_else(|| {
                let problem = format!("{text:?} is no length of time like \"25s\": {error}");
                serde::de::Error::custom(problem)
            }),
        }
    }
}

/// A length of time as Go writes it: `1.5h`, `0.5s`.
fn with_fractions(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let unit = rest[number..].find(|it: char| it.is_ascii_digit() || it == '.');
        let unit = unit.map_or(rest.len(), |length| number + length);
        let seconds = match &rest[number..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        let number: f64 = rest[..number].parse().ok()?;
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
        rest = &rest[unit..];
    }
    (!text.is_empty()).then_some(sum)
}

const fn seconds(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident {
        $($(#[doc = $field_doc:literal])* $(#[serde($serde:ident)])? $field:ident: $type:ty = $default:expr,)*
    }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[doc = $field_doc])* $(#[serde($serde)])? pub $field: $type,)*
        }

        impl $name {
            /// What each of its keys means, in the order of the keys.
            pub const DOCS: &[(&str, &[&str])] = &[$((stringify!($field), &[$($field_doc),*]),)*];
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }
    };
}

mod backends;
mod client;
mod rooms;
mod transports;

pub use self::{
    backends::{
        ChannelProxies, ClientProxies, ConnectProxy, DEFAULT_PROXY, NamedProxy, Proxy, ProxyGrpc,
        ProxyHttp, ProxyTls, RefreshProxy, Rpc, RpcNamespace, RpcOptions, StatusTransform,
        TransformDisconnect, TransformError,
    },
    client::{Client, PersonalChannel, SubscriptionToken, Token},
    rooms::{Channel, ChannelPoll, Channels, Map, Namespace, Queue, SharedPoll},
    transports::{Emulation, OneWay, OneWaySocket, Streamed, UniGrpc, WebSocket},
};

section! {
    /// All of it.
    Raw {
        /// What the node is called.
        node: Node = Node::default(),
        /// Where clients and API calls connect.
        http_server: HttpServer = HttpServer::default(),
        /// What clients may do.
        client: Client = Client::default(),
        /// The WebSocket transport.
        websocket: WebSocket = WebSocket::default(),
        /// Server-sent events for clients that can't use WebSockets.
        sse: Streamed = Streamed::default(),
        /// Streamed responses for clients that can't use WebSockets.
        http_stream: Streamed = Streamed::default(),
        /// What those clients send, by requests of their own.
        emulation: Emulation = Emulation::default(),
        /// WebSockets for clients that only listen.
        uni_websocket: OneWaySocket = OneWaySocket::default(),
        /// Server-sent events for clients that only listen.
        uni_sse: OneWay = OneWay::default(),
        /// Streamed responses for clients that only listen.
        uni_http_stream: OneWay = OneWay::default(),
        /// Streams of gRPC for clients that only listen, on a port of their own.
        uni_grpc: UniGrpc = UniGrpc::default(),
        /// What rooms keep, promise and permit.
        channel: Channels = Channels::default(),
        /// Calls of clients to the application.
        rpc: Rpc = Rpc::default(),
        /// Keys that clients track and nodes ask backends for.
        shared_poll: SharedPoll = SharedPoll::default(),
        /// Backends that namespaces name, beside those of `channel.proxy` and `rpc.proxy`.
        proxies: Vec<NamedProxy> = Vec::new(),
        /// What is told to the application.
        webhooks: Webhooks = Webhooks::default(),
        /// The server API.
        http_api: HttpApi = HttpApi::default(),
        /// The server API by gRPC, on a port of its own.
        grpc_api: GrpcApi = GrpcApi::default(),
        /// The other nodes.
        cluster: Cluster = Cluster::default(),
        /// Rooms that are kept on disk.
        disk: Disk = Disk::default(),
        /// What is logged, and how.
        log: Log = Log::default(),
        /// How the node stops.
        shutdown: Shutdown = Shutdown::default(),
        /// The demo's page.
        demo: Demo = Demo::default(),
    }
}

section! {
    /// What the node is called.
    Node {
        /// Name of the node, different from all others of the cluster. Empty: host name and port, or the process id
        /// if that is 0. If the host's name is `localhost`, or it has none, `cluster.advertise` or the address of
        /// `cluster.gossip` stands for it, or else a name made of the machine's id.
        name: String = String::new(),
    }
}

section! {
    /// Where clients and API calls connect.
    HttpServer {
        /// IP address to listen on. Empty: all, of IPv6 and IPv4.
        address: String = String::new(),
        /// Port to listen on; 0: any free one.
        port: u16 = 8000,
        /// Threads that serve clients, at most 64. 0: one for each core.
        workers: usize = 0,
        /// How long a connection of HTTP requests is kept for the next one. Longer than a proxy in front keeps it
        /// (60 seconds with nginx), or some requests fail that it sends just then. 0: for none.
        keep_alive: Span = seconds(75),
        /// Proxies in front of the node, as IP addresses or networks (`10.0.0.0/8`): what they say in
        /// `X-Forwarded-For`, or else in `Forwarded`, or else in `X-Real-IP`, is taken for the address of the client.
        /// Nobody else is believed.
        trusted_proxies: Vec<String> = Vec::new(),
        /// Connections begin with a header of the PROXY protocol, version 1 or 2, and before TLS, that says who the
        /// client is. With `trusted_proxies` those must send it and nobody else may; without, everyone must, and
        /// can say what it likes.
        proxy_protocol: bool = false,
        /// TLS on that port.
        tls: Tls = Tls::default(),
    }
}

section! {
    /// TLS on a port.
    Tls {
        /// Take connections with TLS, and no others.
        enabled: bool = false,
        /// The certificate and those between it and its authority: a file of PEM, or PEM itself. A file is
        /// read again when it changes.
        cert_pem: String = String::new(),
        /// The certificate's private key, in the same way.
        key_pem: String = String::new(),
    }
}

section! {
    /// What is told to the application.
    Webhooks {
        /// URL (http or https) that events are posted to, as JSON. Empty: none are.
        endpoint: String = String::new(),
        /// What batches of them are signed with, of 16 characters at least: header `X-Roomcast-Signature`.
        secret: String = String::new(),
        /// The kinds of events that are told. Those about rooms need `webhooks` in the namespace, too.
        events: Vec<String> = crate::webhooks::event::KINDS.map(str::to_owned).to_vec(),
        /// How long a post may take. One that is not answered with a status from 200 to 299 is made again, after
        /// half a second at first, after 30 at most.
        timeout: Span = seconds(5),
        /// The most events of one post.
        batch_size: usize = 100,
        /// How long an event may wait for others.
        batch_interval: Span = Span(Duration::from_millis(100)),
        /// The most events that wait. Over it, the oldest are dropped, and counted.
        queue_max_events: usize = 10_000,
    }
}

section! {
    /// The server API.
    HttpApi {
        /// The key that callers must send. Empty: every call is refused.
        key: String = String::new(),
        /// Take calls without a key. For development only.
        insecure: bool = false,
    }
}

section! {
    /// The server API by gRPC, on a port of its own.
    GrpcApi {
        /// Serve it.
        enabled: bool = false,
        /// IP address to listen on. Empty: all, of IPv6 and IPv4.
        address: String = String::new(),
        /// Port to listen on; 0: any free one.
        port: u16 = 10000,
        /// The key that callers must send, as metadata `authorization: apikey KEY`. Empty: every call is refused.
        key: String = String::new(),
        /// Take calls without a key. For development only.
        insecure: bool = false,
        /// `transport`: errors are statuses of gRPC. Empty: they are in the answers, but for callers with the metadata
        /// `x-centrifugo-error-mode: transport`.
        error_mode: String = String::new(),
        /// The largest request, in bytes; a larger one is answered with RESOURCE_EXHAUSTED. 0: 4 MiB.
        max_receive_message_size: usize = 4 << 20,
        /// TLS on that port.
        tls: Tls = Tls::default(),
    }
}

section! {
    /// The other nodes.
    Cluster {
        /// Name of the cluster: nodes of different clusters refuse each other.
        id: String = "roomcast".to_owned(),
        /// Where gossip arrives (UDP), as IP:PORT. Empty, with `mesh` and `join`: the node is alone.
        gossip: String = String::new(),
        /// Where links arrive (TCP), as IP:PORT.
        mesh: String = String::new(),
        /// IP address under which the other nodes reach this one. Empty: that of `gossip`.
        advertise: String = String::new(),
        /// Gossip addresses of other nodes to begin with; one that lives is enough.
        join: Vec<String> = Vec::new(),
        /// How long a node whose name is borne by one that runs waits for that one to leave, before it ends
        /// with an error.
        name_timeout: Span = seconds(30),
        /// How long a node with rooms on disk waits, when it starts, for the nodes that it was with last: they may have
        /// publications that it has not. It goes on at once when one of them is there that takes part.
        restart_timeout: Span = seconds(30),
        /// What all nodes know and no one else: seals gossip and links. Needed beyond loopback.
        secret: String = String::new(),
        /// Other secrets that are accepted, while the secret is being changed: first add the new one here on
        /// every node, then make it the `secret` and keep the old one here, then take that out.
        other_secrets: Vec<String> = Vec::new(),
        /// How many other nodes keep a copy of each room with history, and have a publication before it is
        /// acknowledged. With `minority = "refuse"` at least half of `expected_nodes`.
        replicas: usize = 1,
        /// How many nodes the cluster should have. A node that sees less than half of them says so in
        /// `/health` (503). 0: any number is right.
        expected_nodes: usize = 0,
        /// What a node does with rooms with history while it does not reach a majority of `expected_nodes`:
        /// `serve`, or `refuse` with a temporary error. With `refuse`, acknowledged means on a majority of them, so
        /// that no cut and no loss of fewer loses it; and there may be no more nodes than that.
        minority: String = "serve".to_owned(),
        /// Bytes that may wait for one node; more, and its link is closed. At least 1 MiB and twice the largest
        /// publication that is allowed: half of `client.queue_max_size`, or what a client may send at once.
        queue_max_size: usize = 64 << 20,
        /// How long a publish may wait for its room's home before it fails with a temporary error.
        publish_timeout: Span = seconds(2),
    }
}

section! {
    /// Where and how rooms are kept whose namespace says `log = "disk"`.
    Disk {
        /// The directory, which belongs to this node alone. It is made if there is none.
        data_dir: String = "data".to_owned(),
        /// When what is written is synced to the disk: `always` before it is acknowledged (many publications share a
        /// sync), or so often, like `"100ms"`: then a node whose power fails may lose what it acknowledged since.
        sync: String = "always".to_owned(),
        /// Bytes that it may take, about. Over it, the oldest publications of all rooms go. 0: as many as there are.
        max_bytes: u64 = 0,
        /// Bytes of one file. A publication has to fit into one.
        segment_bytes: u64 = 64 << 20,
        /// How often all publications are read in search of damage, which is repaired from other nodes' copies; about a
        /// mebibyte a second. "0s": never.
        scrub_interval: Span = seconds(86_400),
        /// How long nobody has used a room on disk before it goes out of memory, but for some 150 bytes. Whoever uses it
        /// then does not notice, but that its history is read from disk. At least "1s".
        idle_timeout: Span = seconds(60),
    }
}

section! {
    /// What is logged, and how.
    Log {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`, or directives like `info,roomcast::mesh=debug`.
        level: String = "info".to_owned(),
        /// `text` or `json`.
        format: String = "text".to_owned(),
    }
}

section! {
    /// How the node stops.
    Shutdown {
        /// How long it may take to hand its rooms over, and then to let its connections go.
        timeout: Span = seconds(30),
        /// How many clients a second each other node is asked to take: a node that leaves lets its clients go
        /// no faster. 0: all at once.
        reconnect_rate: usize = 1000,
    }
}

section! {
    /// The demo's page.
    Demo {
        /// Serve the chat page, and sign a token for anyone who asks. Never on a real server.
        enabled: bool = false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_may_have_fractions() {
        for (text, milliseconds) in [
            ("1.5h", Some(5_400_000)),
            ("0.5s", Some(500)),
            ("1m0.25s", Some(60_250)),
            ("720h0m0s", Some(2_592_000_000)),
            ("10000000ns", Some(10)),
            ("0", Some(0)),
            ("", None),
            ("5", None),
            ("1.5", None),
            ("-1.5s", None),
            ("1..5s", None),
            ("soon", None),
        ] {
            let read: Option<Span> = serde_json::from_value(text.into()).ok();
            assert_eq!(read.map(|it| it.0.as_millis()), milliseconds, "{text:?}");
        }
    }
}
