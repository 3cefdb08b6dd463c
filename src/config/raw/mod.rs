//! The configuration as typed: every option, its default, and what it means.

use std::{collections::BTreeMap, time::Duration};

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
        humantime::parse_duration(&text).map(Self).map_err(|error| {
            serde::de::Error::custom(format!("{text:?} is no length of time like \"25s\": {error}"))
        })
    }
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
        /// What rooms keep, promise and permit.
        channel: Channels = Channels::default(),
        /// Calls of clients to the application.
        rpc: Rpc = Rpc::default(),
        /// Backends that namespaces name, beside those of `channel.proxy` and `rpc.proxy`.
        proxies: Vec<NamedProxy> = Vec::new(),
        /// What is told to the application.
        webhooks: Webhooks = Webhooks::default(),
        /// The server API.
        http_api: HttpApi = HttpApi::default(),
        /// The other nodes.
        cluster: Cluster = Cluster::default(),
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
        /// Name of the node, different from all others of the cluster. Empty: host name and port. If the host's
        /// name is `localhost`, or it has none, `cluster.advertise` or the address of `cluster.gossip` stands for
        /// it, or else a name made of the machine's id.
        name: String = String::new(),
    }
}

section! {
    /// Where clients and API calls connect.
    HttpServer {
        /// IP address to listen on. Empty: all.
        address: String = String::new(),
        /// Port to listen on; 0: any free one.
        port: u16 = 8000,
        /// Threads that serve clients, at most 64. 0: one for each core.
        workers: usize = 0,
        /// Proxies in front of the node, as IP addresses or networks (`10.0.0.0/8`): what they say in
        /// `X-Forwarded-For` or `X-Real-IP` is taken for the address of the client. Nobody else is believed.
        trusted_proxies: Vec<String> = Vec::new(),
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
    /// What clients may do.
    Client {
        /// Let everyone in without a token and permit everything. For development only.
        insecure: bool = false,
        /// Let clients in that have no token, as anonymous ones.
        allow_anonymous_connect_without_token: bool = false,
        /// Origins (`https://example.com`, `*` stands for anything) of pages that may connect. Empty: only
        /// clients that send no Origin header, so no browsers.
        allowed_origins: Vec<String> = Vec::new(),
        /// Let no one in whose token names no user (3507).
        disallow_anonymous_connection_tokens: bool = false,
        /// A header of the upgrade request that names the user of a client without a token. Only behind a proxy
        /// that sets it on every request: whoever can send it is whoever it says. Empty: none.
        user_id_http_header: String = String::new(),
        /// Which backends are asked about connections.
        proxy: ClientProxies = ClientProxies::default(),
        /// How tokens are checked: those of connections, and of subscriptions unless `subscription_token` is on.
        token: Token = Token::default(),
        /// How subscription tokens are checked, if otherwise.
        subscription_token: SubscriptionToken = SubscriptionToken::default(),
        /// Rooms that the server puts every client into.
        subscribe_to: Vec<String> = Vec::new(),
        /// A room of its own that the server puts each user into.
        subscribe_to_user_personal_channel: PersonalChannel = PersonalChannel::default(),
        /// How long a client whose token has expired may take to bring a new one.
        expired_close_delay: Span = seconds(25),
        /// How long it may for a subscription.
        expired_sub_close_delay: Span = seconds(25),
        /// The most clients that the node takes; more are answered with 503. 0: any number.
        connection_limit: usize = 0,
        /// The most new clients in a second; more are answered with 503. 0: any number.
        connection_rate_limit: u32 = 0,
        /// The most clients of the node from one IP address (of IPv6: from one /64 network); more are answered
        /// with 503. 0: any number.
        ip_connection_limit: u32 = 0,
        /// The most new clients in a second from one IP address; more are answered with 503. 0: any number.
        ip_connection_rate_limit: u32 = 0,
        /// The most clients of the node of one user; more are closed with 3504. 0: any number.
        user_connection_limit: usize = 0,
        /// The most rooms that one client may be in.
        channel_limit: usize = 128,
        /// Bytes that may wait for one client; more, and it is closed with 3008.
        queue_max_size: usize = 1 << 20,
        /// How long a client may take nothing of what waits for it; then it is closed with 3009. 0: for ever.
        write_timeout: Span = seconds(1),
        /// Commands of one client that may wait for their answers; meanwhile no more are read of it.
        concurrency: usize = 512,
        /// The most publications that one history call returns. Nor are they more than 7/8 of
        /// `queue_max_size`.
        history_max_publication_limit: usize = 300,
        /// The most publications that a recovery brings, and no more than 7/8 of `queue_max_size`; a client
        /// that missed more gets `recovered: false`.
        recovery_max_publication_limit: usize = 300,
        /// Time between pings of the server. 0: none.
        ping_interval: Span = seconds(25),
        /// Time in which a pong must come. 0: no pongs.
        pong_timeout: Span = seconds(8),
        /// Time in which a new connection must authenticate.
        stale_close_delay: Span = seconds(10),
    }
}

/// The options of both kinds of tokens are the same.
macro_rules! token_section {
    ($(#[$doc:meta])* $name:ident { $($first:tt)* }) => {
        section! {
            $(#[$doc])*
            $name {
                $($first)*
                /// Secret of tokens signed by HS256, HS384 or HS512.
                hmac_secret_key: String = String::new(),
                /// The secret before it, accepted as well while it is being changed.
                hmac_previous_secret_key: String = String::new(),
                /// Until when that is accepted, in seconds of Unix time. 0: as long as it is here.
                hmac_previous_secret_key_valid_until: i64 = 0,
                /// Public key, in PEM, of tokens signed by RS256, RS384 or RS512.
                rsa_public_key: String = String::new(),
                /// Public key, in PEM, of tokens signed by ES256 (P-256), ES384 (P-384) or ES512 (P-521).
                ecdsa_public_key: String = String::new(),
                /// URL of the keys (JSON web key set) of tokens signed by RS…, ES… or EdDSA. A token must name its
                /// key (`kid`). They are fetched at the start, every hour, and when a token names a key that is not
                /// among them, but no more than every five seconds. Stands in for the two public keys.
                jwks_public_endpoint: String = String::new(),
                /// Whom tokens must be for (`aud`). Empty: anyone.
                audience: String = String::new(),
                /// A regular expression that one of those whom a token is for must match. Empty: any does.
                audience_regex: String = String::new(),
                /// Who must have made them (`iss`). Empty: anyone.
                issuer: String = String::new(),
                /// A regular expression that whoever made them must match. Empty: anyone does.
                issuer_regex: String = String::new(),
                /// The claim that says the user. Empty: `sub`.
                user_id_claim: String = String::new(),
                /// Don't check signatures. For development only: anyone is whoever they say.
                insecure_skip_signature_verify: bool = false,
            }
        }
    };
}

token_section! {
    /// How tokens are checked. Without any key, none is valid.
    Token {}
}

token_section! {
    /// How subscription tokens are checked, if otherwise than connection tokens.
    SubscriptionToken {
        /// Check them by what is here. Off: by `client.token`.
        enabled: bool = false,
    }
}

section! {
    /// A room of its own that the server puts each user into.
    PersonalChannel {
        /// Put each user into the room `#USER`.
        enabled: bool = false,
        /// The namespace of these rooms. Empty: none.
        personal_channel_namespace: String = String::new(),
        /// Let each user have one connection, on whichever node: the newest. The ones before are closed with
        /// 3504.
        single_connection: bool = false,
    }
}

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
    }
}

/// The options of all backends are the same.
macro_rules! proxy_section {
    ($(#[$doc:meta])* $name:ident { $($first:tt)* }) => {
        section! {
            $(#[$doc])*
            $name {
                $($first)*
                /// URL (http or https) that questions are posted to, as JSON.
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

section! {
    /// The WebSocket transport.
    WebSocket {
        /// The largest message from a client, in bytes; more is closed with 1009.
        message_size_limit: usize = 65536,
    }
}

section! {
    /// A transport with a streamed response.
    Streamed {
        /// Serve it.
        enabled: bool = true,
        /// The largest body of a request that opens a stream, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// What clients with a streamed response send.
    Emulation {
        /// The largest body of such a request, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// A transport with a streamed response for clients that only listen.
    OneWay {
        /// Serve it.
        enabled: bool = false,
        /// The largest body of a request that opens a stream, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// WebSockets for clients that only listen.
    OneWaySocket {
        /// Serve them.
        enabled: bool = false,
    }
}

section! {
    /// What rooms keep, promise and permit.
    Channels {
        /// The longest room name, in bytes.
        max_length: usize = 255,
        /// Bytes of publications that the node keeps over all of its rooms; the oldest go first.
        history_max_bytes: usize = 512 << 20,
        /// Rooms that the node knows. Over it, those go that nobody has used for the longest; a client that comes
        /// back to one of them is told that it can't recover. Rooms in use don't go.
        max_rooms: usize = 500_000,
        /// What the data of a publication must be, where the namespace says nothing else: `json`, `json_object`,
        /// `binary` (anything, also nothing), or empty: anything but nothing.
        publication_data_format: String = String::new(),
        /// Which backends are asked about rooms of namespaces that name no other.
        proxy: ChannelProxies = ChannelProxies::default(),
        /// Rooms without a `:` in their name.
        without_namespace: Channel = Channel::default(),
        /// Rooms with a namespace before the first `:` of their name.
        namespaces: Vec<Namespace> = Vec::new(),
    }
}

section! {
    /// A namespace: the options of its rooms, and its name.
    Namespace {
        /// What stands before the first `:` of the rooms' names.
        name: String = String::new(),
        /// The options, side by side with the name.
        #[serde(flatten)]
        options: Channel = Channel::default(),
    }
}

section! {
    /// The options of the rooms of one namespace.
    Channel {
        /// Keep who is in the room.
        presence: bool = false,
        /// Tell subscribers who joins and leaves: those that ask for it and may ask for presence.
        join_leave: bool = false,
        /// Tell it to all subscribers, asked or not.
        force_push_join_leave: bool = false,
        /// The most publications to keep. History needs this and `history_ttl`.
        history_size: usize = 0,
        /// How long to keep a publication.
        history_ttl: Span = seconds(0),
        /// How long to remember a room's epoch and offset after its last publication.
        history_meta_ttl: Span = seconds(720 * 3600),
        /// Watch every subscriber's position.
        force_positioning: bool = false,
        /// Watch the position of those that ask. Who may read history can ask anyway.
        allow_positioning: bool = false,
        /// Every subscriber can recover what it missed.
        force_recovery: bool = false,
        /// Those that ask can. Who may read history can ask anyway.
        allow_recovery: bool = false,
        /// `stream`: all that was missed; `cache`: the latest publication.
        force_recovery_mode: String = "stream".to_owned(),
        /// Give every subscriber the latest publication, also one that comes for the first time. Needs
        /// `force_recovery` and the recovery mode `cache`.
        auto_cache_recover: bool = false,
        /// Subscribers may ask for publications with certain tags only.
        allow_tags_filter: bool = false,
        /// The formats in which subscribers may ask for what is new against the publication before, instead of
        /// whole publications. There is one: `fossil`.
        allowed_delta_types: Vec<String> = Vec::new(),
        /// Send every publication so to those that ask, not only those published with `delta`.
        delta_publish: bool = false,
        /// What the data of a publication must be: `json`, `json_object`, `binary` (anything, also nothing), or
        /// empty: what `channel.publication_data_format` says.
        publication_data_format: String = String::new(),
        /// Clients may subscribe without a subscription token.
        allow_subscribe_for_client: bool = false,
        /// Anonymous clients may subscribe too, where clients may.
        allow_subscribe_for_anonymous: bool = false,
        /// Users may enter rooms whose names end in `#` and a list of users (`room#42`, `room#42,43`) with them in
        /// it; no one else may.
        allow_user_limited_channels: bool = false,
        /// A regular expression that names of rooms must match behind the namespace; clients get error 107 for
        /// others. Empty: any does.
        channel_regex: String = String::new(),
        /// Clients may publish.
        allow_publish_for_client: bool = false,
        /// Subscribers may publish.
        allow_publish_for_subscriber: bool = false,
        /// Anonymous clients may publish too, where clients or subscribers may.
        allow_publish_for_anonymous: bool = false,
        /// Clients may ask for presence.
        allow_presence_for_client: bool = false,
        /// Subscribers may ask for presence.
        allow_presence_for_subscriber: bool = false,
        /// Anonymous clients may ask for presence too, where clients or subscribers may.
        allow_presence_for_anonymous: bool = false,
        /// Clients may read history.
        allow_history_for_client: bool = false,
        /// Subscribers may read history.
        allow_history_for_subscriber: bool = false,
        /// Anonymous clients may read history too, where clients or subscribers may.
        allow_history_for_anonymous: bool = false,
        /// Tell the endpoint of `webhooks` who comes and goes, and when the room has its first client and when it
        /// has lost its last.
        webhooks: bool = false,
        /// Ask a backend whether a client may subscribe.
        subscribe_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.subscribe`.
        subscribe_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask a backend whether a client may publish, and what. It alone decides.
        publish_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.publish`.
        publish_proxy_name: String = DEFAULT_PROXY.to_owned(),
        /// Ask a backend whether a subscription that ends goes on, instead of its client for a new token.
        sub_refresh_proxy_enabled: bool = false,
        /// Which: one of `proxies`, or `default`: `channel.proxy.sub_refresh`.
        sub_refresh_proxy_name: String = DEFAULT_PROXY.to_owned(),
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
