//! The configuration: as typed ([`raw`]), read from file, environment and flags ([`load`]), and checked
//! ([`Config`]). [`mod@reference`] writes down every option.
//!
//! A [`Config`] can be used as it is; all that is wrong with what was typed are [`Problems`], each of which names
//! its key.

pub mod backends;
mod cluster;
mod environment;
mod foreign;
mod former;
mod former_proxies;
pub mod grpc;
mod http_server;
pub mod load;
mod maps;
mod migrate;
mod namespaces;
mod problems;
pub mod raw;
pub mod reference;
pub mod reload;
mod secrets;
mod shared_poll;
pub mod tokens;
mod typed;
mod webhooks;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use backends::Register;
pub use cluster::Cluster;
use grpc::{GrpcApi, UniGrpc};
pub use http_server::Listen;
use ipnet::IpNet;
use problems::nearest;
pub use problems::{Invalid, Problems};
use raw::Raw;
use reload::Options;
use tokens::Tokens;

use crate::{
    access::connection_limits::ConnectionLimits,
    backend::options::{Backend, Proxies},
    protocol::deflate::Deflate,
    room::{disk::DiskOptions, options::Namespaces, registry::RoomSettings},
    shared_poll::options::SharedPollOptions,
    webhooks::sender::WebhookOptions,
};

/// The most worker threads: a room's workers are a bit each.
pub const MAX_WORKERS: usize = 64;
/// `disk.sync`: before anything is answered.
const ALWAYS: &str = "always";
/// The largest body of a call of the server API, in bytes.
pub const BODY_LIMIT: usize = 16 << 20;
/// How much can be logged.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub name: String,
    /// Where clients connect.
    pub listen: Listen,
    /// Worker threads that serve clients.
    pub workers: usize,
    /// How long a connection is kept for the next request; 0: for none.
    pub keep_alive: Duration,
    /// Proxies whose statements about a client's address are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Their connections begin with a header of the PROXY protocol; everyone's, if none are named.
    pub proxy_protocol: bool,
    /// How many connections clients may open.
    pub connection_limits: ConnectionLimits,
    /// TLS for clients, if it is on.
    pub tls: Option<raw::Tls>,
    /// Sessions.
    pub client: raw::Client,
    /// How connection tokens are checked.
    pub tokens: Tokens,
    /// How subscription tokens are checked, if differently.
    pub subscription_tokens: Option<Tokens>,
    /// The largest WebSocket message from a client, in bytes.
    pub message_size_limit: usize,
    /// How messages are compressed for WebSockets that agree to it, if at all.
    pub deflate: Option<Deflate>,
    /// Server-sent events.
    pub sse: raw::Streamed,
    /// Streamed responses.
    pub http_stream: raw::Streamed,
    /// The largest body with commands for a streamed response's session, in bytes.
    pub emulation_body_limit: usize,
    /// WebSockets for clients that only listen.
    pub uni_websocket: raw::OneWaySocket,
    /// Server-sent events for clients that only listen.
    pub uni_sse: raw::OneWay,
    /// Streamed responses for clients that only listen.
    pub uni_http_stream: raw::OneWay,
    /// Rooms by namespace.
    pub namespaces: Arc<Namespaces>,
    /// The application's backends, by their ids.
    pub backends: Vec<Backend>,
    /// Which is asked about what, beside rooms.
    pub proxies: Proxies,
    /// Rooms whose keys are polled.
    pub shared_polls: SharedPollOptions,
    /// The longest room name, in bytes.
    pub channel_max_length: usize,
    /// Settings of the room registry.
    pub rooms: RoomSettings,
    /// Which events are delivered to the application, and how; none: no events.
    pub webhooks: Option<WebhookOptions>,
    /// Key of the server API; none: every call is refused unless the API is insecure.
    pub api_key: Option<String>,
    /// Take API calls without a key.
    pub api_insecure: bool,
    /// The server API by gRPC, if it is served.
    pub grpc_api: Option<GrpcApi>,
    /// Its key; none: every call is refused unless it is insecure.
    pub grpc_api_key: Option<String>,
    /// Streams of gRPC for clients that only listen, if they are served.
    pub uni_grpc: Option<UniGrpc>,
    /// The cluster; none: the node takes part in none.
    pub cluster: Option<Cluster>,
    /// How rooms are kept on disk, where they are.
    pub disk: DiskOptions,
    /// How to log.
    pub log: raw::Log,
    /// How long a stopping node may take to hand its rooms over, and then to let its connections go.
    pub shutdown_timeout: Duration,
    /// How many clients a second each other node is asked to take from a stopping one; 0: any number.
    pub reconnect_rate: usize,
    /// Serve the chat page, and sign tokens for anyone who asks.
    pub demo: bool,
    /// All options, to see what has changed when they are read again.
    pub options: Options,
    /// What whoever runs the node should be told: of what was typed and has no effect.
    pub notes: Vec<String>,
}

impl Config {
    /// Checks all of what was typed.
    fn check(mut raw: Raw) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        raw.tidy_secrets(&mut problems);
        if raw.log.level == "none" {
            // Centrifugo's word.
            "off".clone_into(&mut raw.log.level);
        }
        raw.check_values(&mut problems);
        let Some(parts) = Parts::check(&raw, &mut problems) else { return Err(problems) };
        let options = Options::of(&raw);
        let config = Self { options, ..Self::of(raw, parts) };
        problems.check(config)
    }

    fn of(raw: Raw, parts: Parts) -> Self {
        let Parts { tokens: (tokens, subscription_tokens), backends: (backends, proxies), .. } =
            parts;
        Self {
            name: raw.node.name.clone(),
            listen: parts.listen,
            workers: raw.http_server.workers,
            keep_alive: raw.http_server.keep_alive.0,
            trusted_proxies: parts.trusted_proxies,
            proxy_protocol: raw.http_server.proxy_protocol,
            connection_limits: ConnectionLimits {
                rate: raw.client.connection_rate_limit,
                of_address: raw.client.ip_connection_limit,
                rate_of_address: raw.client.ip_connection_rate_limit,
            },
            tls: parts.tls,
            message_size_limit: raw.websocket.message_size_limit,
            deflate: raw.websocket.deflate(),
            sse: raw.sse,
            http_stream: raw.http_stream,
            emulation_body_limit: raw.emulation.max_request_body_size,
            uni_websocket: raw.uni_websocket,
            uni_sse: raw.uni_sse,
            uni_http_stream: raw.uni_http_stream,
            namespaces: Arc::new(parts.namespaces),
            backends,
            proxies,
            shared_polls: parts.shared_polls,
            channel_max_length: raw.channel.max_length,
            rooms: parts.rooms,
            webhooks: parts.webhooks,
            api_key: Some(raw.http_api.key).filter(|key| !key.is_empty()),
            api_insecure: raw.http_api.insecure,
            grpc_api: parts.grpc_api,
            uni_grpc: parts.uni_grpc,
            grpc_api_key: Some(raw.grpc_api.key).filter(|key| !key.is_empty()),
            tokens,
            subscription_tokens,
            client: raw.client,
            cluster: parts.cluster,
            disk: parts.disk,
            log: raw.log,
            shutdown_timeout: raw.shutdown.timeout.0,
            reconnect_rate: raw.shutdown.reconnect_rate,
            demo: raw.demo.enabled,
            options: Options::default(),
            notes: Vec::new(),
        }
    }
}

/// What is made of several options, or of the text of one.
struct Parts {
    listen: Listen,
    trusted_proxies: Vec<IpNet>,
    tls: Option<raw::Tls>,
    tokens: (Tokens, Option<Tokens>),
    rooms: RoomSettings,
    cluster: Option<Cluster>,
    webhooks: Option<WebhookOptions>,
    namespaces: Namespaces,
    backends: (Vec<Backend>, Proxies),
    shared_polls: SharedPollOptions,
    disk: DiskOptions,
    grpc_api: Option<GrpcApi>,
    uni_grpc: Option<UniGrpc>,
}

impl Parts {
    /// None if something can't be made, which is among the problems then.
    fn check(raw: &Raw, problems: &mut Problems) -> Option<Self> {
        // All is checked before the first problem counts.
        let listen = problems.take(raw.http_server.listen());
        let trusted_proxies = problems.take(raw.http_server.proxies());
        let tls = problems.take(raw.http_server.tls.check("http_server.tls"));
        let tokens = problems.take(raw.client.tokens());
        let rooms = problems.take(raw.room_settings());
        let cluster = problems.take(raw.cluster.check());
        let webhooks = problems.take(raw.webhooks.check());
        let disk = problems.take(raw.disk.check());
        let grpc_api = problems.take(raw.grpc_api.check());
        let uni_grpc = problems.take(raw.uni_grpc.check(raw.http_server.workers));
        let mut register = Register::new(raw, problems);
        let namespaces = namespaces::check(raw, &mut register, problems);
        let shared_polls = shared_poll::check(raw, &mut register, problems);
        let backends = problems.take(register.proxies());
        Some(Self {
            listen: listen?,
            trusted_proxies: trusted_proxies?,
            tls: tls?,
            tokens: tokens?,
            rooms: rooms?,
            cluster: cluster?,
            webhooks: webhooks?,
            namespaces,
            backends: backends?,
            shared_polls,
            disk: disk?,
            grpc_api: grpc_api?,
            uni_grpc: uni_grpc?,
        })
    }
}

impl Config {
    /// What is allowed, and may not be what is meant.
    pub fn warnings(&self) -> Vec<String> {
        let tokens = [
            ("client.token", Some(&self.tokens)),
            ("client.subscription_token", self.subscription_tokens.as_ref()),
        ];
        let doubled = tokens
            .into_iter()
            .filter(|(_, it)| it.is_some_and(Tokens::secret_beside_published_keys));
        let warning = |(section, _): (&str, _)| {
            format!(
                "{section}: with hmac_secret_key beside jwks_public_endpoint, tokens signed by either are accepted; \
                 take the secret out if all tokens are to come from the issuer of those keys"
            )
        };
        let anyone = self.proxy_protocol && self.trusted_proxies.is_empty();
        let anyone = anyone.then(|| {
            "http_server.proxy_protocol: without http_server.trusted_proxies, whoever reaches the port may say that it \
             is anyone; name the proxies"
                .to_owned()
        });
        let keyless =
            self.grpc_api.as_ref().filter(|it| !it.insecure && self.grpc_api_key.is_none());
        let keyless =
            keyless.map(|_| "grpc_api.key is empty: every call by gRPC is refused".to_owned());
        doubled.map(warning).chain(anyone).chain(keyless).collect()
    }
}

impl raw::WebSocket {
    fn deflate(&self) -> Option<Deflate> {
        let (min_size, level) = (self.compression_min_size, self.compression_level);
        self.compression.then_some(Deflate { min_size, level })
    }
}

impl Raw {
    /// Checks what stays as it was typed.
    fn check_values(&self, problems: &mut Problems) {
        if !(1..=MAX_WORKERS).contains(&self.http_server.workers) {
            let problem = format!("1 to {MAX_WORKERS}, or 0 for one a core");
            problems.add(Invalid::new("http_server.workers", problem));
        }
        if self.websocket.message_size_limit == 0 {
            problems.add(Invalid::new("websocket.message_size_limit", "at least 1"));
        }
        if !(1..=9).contains(&self.websocket.compression_level) {
            problems.add(Invalid::new("websocket.compression_level", "1 to 9"));
        }
        self.client.check(problems);
        self.log.check(problems);
        problems.take(self.check_segments());
        if !self.cluster.is_alone() {
            problems.take(self.check_link_queue());
        }
    }

    fn room_settings(&self) -> Result<RoomSettings, Invalid> {
        let quorum_of = self.cluster.quorum()?;
        Ok(RoomSettings {
            publish_timeout: self.cluster.publish_timeout.0,
            // The home and half of the nodes are a majority.
            replicas: self.cluster.replicas.max(quorum_of.unwrap_or(0) / 2),
            quorum_of,
            recovery_limit: self.client.recovery_max_publication_limit,
            history_bytes: self.channel.history_max_bytes,
            room_limit: self.channel.max_rooms,
            idle_timeout: self.disk.idle_timeout.0,
            syncs_late: self.disk.sync != ALWAYS,
            ..Default::default()
        })
    }
}

impl raw::Client {
    /// How connection tokens are checked, and subscription tokens, if otherwise.
    fn tokens(&self) -> Result<(Tokens, Option<Tokens>), Invalid> {
        let tokens = Tokens::from(self.token.clone());
        tokens.verifier(None).map_err(|it| it.under("client.token"))?;
        let own = self.subscription_token.clone();
        let subscription_tokens = own.enabled.then(|| Tokens::from(own));
        if let Some(tokens) = &subscription_tokens {
            tokens.verifier(None).map_err(|it| it.under("client.subscription_token"))?;
        }
        Ok((tokens, subscription_tokens))
    }

    fn check(&self, problems: &mut Problems) {
        let pings = self.ping_interval.0 > Duration::ZERO;
        if pings && self.pong_timeout.0 >= self.ping_interval.0 {
            let problem =
                "must be shorter than client.ping_interval, or a ping could overtake a pong";
            problems.add(Invalid::new("client.pong_timeout", problem));
        }
        if !(1..=usize::from(u16::MAX)).contains(&self.concurrency) {
            let problem = format!("1 to {}", u16::MAX);
            problems.add(Invalid::new("client.concurrency", problem));
        }
    }
}

impl raw::Disk {
    fn check(&self) -> Result<DiskOptions, Invalid> {
        if self.data_dir.is_empty() {
            return Err(Invalid::new("disk.data_dir", "a directory"));
        }
        let sync_interval = match self.sync.as_str() {
            ALWAYS => None,
            span => Some(humantime::parse_duration(span).map_err(|_| {
                let problem =
                    format!("{span:?} is neither \"always\" nor a length of time like \"100ms\"");
                Invalid::new("disk.sync", problem)
            })?),
        };
        let segments = 1 << 20..=1 << 30;
        let segment_bytes = u32::try_from(self.segment_bytes).ok();
        let segment_bytes = segment_bytes.filter(|it| segments.contains(it)).ok_or_else(|| {
            Invalid::new("disk.segment_bytes", "1 MiB to 1 GiB (1048576 to 1073741824)")
        })?;
        if self.idle_timeout.0 < Duration::from_secs(1) {
            return Err(Invalid::new("disk.idle_timeout", "at least \"1s\""));
        }
        Ok(DiskOptions {
            data_dir: self.data_dir.clone().into(),
            sync_interval,
            max_bytes: (self.max_bytes > 0).then_some(self.max_bytes),
            segment_bytes,
            scrub_interval: Some(self.scrub_interval.0).filter(|it| !it.is_zero()),
        })
    }
}

impl raw::Log {
    fn check(&self, problems: &mut Problems) {
        let mut one_of = |key: &str, what: &str, value: &str, known: &[&str]| {
            if !known.iter().any(|it| it.eq_ignore_ascii_case(value)) {
                let hint = nearest(value, known.iter().copied());
                problems.add(Invalid::new(key, format!("{value:?} is no {what}{hint}")));
            }
        };
        for directive in self.level.split(',').map(str::trim) {
            match directive.rsplit_once('=') {
                // The path of a module stands for all that is logged there.
                None if directive.contains("::") => {}
                None => one_of("log.level", "level", directive, &LEVELS),
                Some((_, level)) => one_of("log.level", "level", level, &LEVELS),
            }
        }
        one_of("log.format", "format", &self.format, &["text", "json"]);
    }
}

fn check_name(key: &str, name: &str) -> Result<(), Invalid> {
    let letters = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    if name.len() < 2 || !name.chars().all(letters) {
        let problem = "at least two of the characters a-z A-Z 0-9 - _ .";
        return Err(Invalid::new(key, problem));
    }
    Ok(())
}

impl raw::Tls {
    fn check(&self, section: &str) -> Result<Option<Self>, Invalid> {
        let options = [("cert_pem", &self.cert_pem), ("key_pem", &self.key_pem)];
        match options.iter().find(|(_, value)| value.is_empty()) {
            Some((option, _)) if self.enabled => {
                let problem = "needed for TLS: a file of PEM, or PEM itself";
                Err(Invalid::new(format!("{section}.{option}"), problem))
            }
            _ => Ok(self.enabled.then(|| self.clone())),
        }
    }
}

fn address(key: &str, value: &str) -> Result<SocketAddr, Invalid> {
    value
        .parse()
        .map_err(|_| Invalid::new(key, format!("{value:?} is no address of the form IP:PORT")))
}
