//! The configuration: as typed ([`raw`]), read from file, environment and flags ([`load`]), and checked
//! ([`Config`]). [`mod@reference`] writes down every option.
//!
//! A [`Config`] can be used as it is; whatever is wrong with what was typed is an [`Invalid`] that names
//! the key.

pub mod backends;
pub mod load;
pub mod raw;
pub mod reference;
pub mod tokens;
mod webhooks;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use backends::Register;
use ipnet::IpNet;
use raw::{Channel, Raw};
use tokens::{Tokens, regex};

use crate::{
    access::connection_limits::ConnectionLimits,
    backend::options::{Backend, Proxies},
    cluster::secret::Secrets,
    room::{
        options::{Audience, DataFormat, NamePattern, Namespaces, Permissions, RoomOptions},
        registry,
    },
    webhooks::sender::WebhookOptions,
};

/// The most worker threads: a room's workers are a bit each.
pub const MAX_WORKERS: usize = 64;
/// The largest body of a call of the server API, in bytes.
pub const BODY_LIMIT: usize = 16 << 20;
/// How much can be logged.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {problem}")]
pub struct Invalid {
    /// The key, or the file or variable that it is in.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Invalid {
    /// Says what is wrong with a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// The same, of a key in a section.
    fn under(self, section: &str) -> Self {
        Self { key: format!("{section}.{}", self.key), ..self }
    }
}

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub name: String,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Worker threads that serve clients.
    pub workers: usize,
    /// Proxies whose word about a client's address is taken.
    pub trusted_proxies: Vec<IpNet>,
    /// How many connections clients may open.
    pub connection_limits: ConnectionLimits,
    /// TLS for clients, if it is on.
    pub tls: Option<raw::Tls>,
    /// Sessions.
    pub client: raw::Client,
    /// How connection tokens are checked.
    pub tokens: Tokens,
    /// How subscription tokens are, if otherwise.
    pub subscription_tokens: Option<Tokens>,
    /// The largest WebSocket message from a client, in bytes.
    pub message_size_limit: usize,
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
    /// The longest room name, in bytes.
    pub channel_max_length: usize,
    /// What the room registry goes by.
    pub rooms: registry::Settings,
    /// What is told to the application; none: nothing.
    pub webhooks: Option<WebhookOptions>,
    /// Key of the server API; none: every call is refused unless the API is insecure.
    pub api_key: Option<String>,
    /// Take API calls without a key.
    pub api_insecure: bool,
    /// The mesh; none: the node is alone.
    pub cluster: Option<Cluster>,
    /// How to log.
    pub log: raw::Log,
    /// How long a stopping node may take to hand its rooms over, and then to let its connections go.
    pub shutdown_timeout: Duration,
    /// How many clients a second each other node is asked to take from a stopping one; 0: any number.
    pub reconnect_rate: usize,
    /// Serve the chat page, and sign tokens for anyone who asks.
    pub demo: bool,
    /// Variables that look like ours and are not: whoever runs the node should be told.
    pub ignored: Vec<String>,
}

/// How the node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Name of the cluster.
    pub id: String,
    /// Where gossip arrives.
    pub gossip: SocketAddr,
    /// Where links arrive.
    pub mesh: SocketAddr,
    /// Under which IP address the other nodes reach this one.
    pub advertise: std::net::IpAddr,
    /// Gossip addresses of nodes to begin with.
    pub join: Vec<String>,
    /// How long the node waits for another that bears its name.
    pub name_timeout: Duration,
    /// What the nodes know and no one else; empty: links and gossip are not sealed.
    pub secrets: Secrets,
    /// How many nodes there should be; 0: any number.
    pub expected_nodes: usize,
    /// The most bytes that may wait for one peer.
    pub queue_limit: usize,
}

impl TryFrom<Raw> for Config {
    type Error = Invalid;

    fn try_from(raw: Raw) -> Result<Self, Invalid> {
        let listen = raw.http_server.listen()?;
        if !(1..=MAX_WORKERS).contains(&raw.http_server.workers) {
            let problem = format!("1 to {MAX_WORKERS}, or 0 for one a core");
            return Err(Invalid::new("http_server.workers", problem));
        }
        raw.client.check()?;
        let tokens = Tokens::from(raw.client.token.clone());
        tokens.verifier(None).map_err(|it| it.under("client.token"))?;
        let own = raw.client.subscription_token.clone();
        let subscription_tokens = own.enabled.then(|| Tokens::from(own));
        if let Some(tokens) = &subscription_tokens {
            tokens.verifier(None).map_err(|it| it.under("client.subscription_token"))?;
        }
        raw.log.check()?;
        if raw.websocket.message_size_limit == 0 {
            return Err(Invalid::new("websocket.message_size_limit", "at least 1"));
        }
        let quorum_of = raw.cluster.quorum()?;
        let rooms = registry::Settings {
            publish_timeout: raw.cluster.publish_timeout.0,
            // The home and half of the nodes are a majority.
            replicas: raw.cluster.replicas.max(quorum_of.unwrap_or(0) / 2),
            quorum_of,
            recovery_limit: raw.client.recovery_max_publication_limit,
            history_bytes: raw.channel.history_max_bytes,
            room_limit: raw.channel.max_rooms,
            ..Default::default()
        };
        let cluster = raw.cluster.check()?;
        if cluster.is_some() {
            raw.check_link_queue()?;
        }
        let mut register = Register::new(&raw)?;
        let namespaces = Arc::new(namespaces(&raw, &mut register)?);
        let (backends, proxies) = register.proxies()?;
        Ok(Self {
            name: raw.node.name.clone(),
            listen,
            workers: raw.http_server.workers,
            trusted_proxies: raw.http_server.proxies()?,
            connection_limits: ConnectionLimits {
                rate: raw.client.connection_rate_limit,
                of_address: raw.client.ip_connection_limit,
                rate_of_address: raw.client.ip_connection_rate_limit,
            },
            tls: raw.http_server.tls.check()?,
            message_size_limit: raw.websocket.message_size_limit,
            sse: raw.sse.clone(),
            http_stream: raw.http_stream.clone(),
            emulation_body_limit: raw.emulation.max_request_body_size,
            uni_websocket: raw.uni_websocket.clone(),
            uni_sse: raw.uni_sse.clone(),
            uni_http_stream: raw.uni_http_stream.clone(),
            namespaces,
            backends,
            proxies,
            channel_max_length: raw.channel.max_length,
            rooms,
            webhooks: raw.webhooks.check()?,
            api_key: Some(raw.http_api.key).filter(|key| !key.is_empty()),
            api_insecure: raw.http_api.insecure,
            tokens,
            subscription_tokens,
            client: raw.client,
            cluster,
            log: raw.log,
            shutdown_timeout: raw.shutdown.timeout.0,
            reconnect_rate: raw.shutdown.reconnect_rate,
            demo: raw.demo.enabled,
            ignored: Vec::new(),
        })
    }
}

fn namespaces(raw: &Raw, register: &mut Register<'_>) -> Result<Namespaces, Invalid> {
    let tells = !raw.webhooks.endpoint.is_empty();
    let mut named = BTreeMap::new();
    let format = &raw.channel.publication_data_format;
    let data_format = data_format("channel", format)?.unwrap_or_default();
    for (index, namespace) in raw.channel.namespaces.iter().enumerate() {
        let key = format!("channel.namespaces[{index}].name");
        check_name(&key, &namespace.name)?;
        let key_of_options = format!("channel.namespaces[{index}]");
        let mut options = namespace.options.check(&key_of_options, data_format)?;
        options.proxies = register.room(&key_of_options, &namespace.options)?;
        options.webhooks = namespace.options.webhooks && tells;
        let options = Arc::new(options);
        if named.insert(namespace.name.as_str().into(), options).is_some() {
            return Err(Invalid::new(key, format!("{:?} is there twice", namespace.name)));
        }
    }
    let (key, options) = ("channel.without_namespace", &raw.channel.without_namespace);
    let mut default = options.check(key, data_format)?;
    default.proxies = register.room(key, options)?;
    default.webhooks = options.webhooks && tells;
    Ok(Namespaces { default: Arc::new(default), named })
}

fn check_name(key: &str, name: &str) -> Result<(), Invalid> {
    let letters = |it: char| it.is_ascii_alphanumeric() || "-_.".contains(it);
    if name.len() < 2 || !name.chars().all(letters) {
        let problem = "at least two of the characters a-z A-Z 0-9 - _ .";
        return Err(Invalid::new(key, problem));
    }
    Ok(())
}

/// None if nothing is said.
fn data_format(key: &str, format: &str) -> Result<Option<DataFormat>, Invalid> {
    Ok(Some(match format {
        "" => return Ok(None),
        "json" => DataFormat::Json,
        "json_object" => DataFormat::JsonObject,
        "binary" => DataFormat::Binary,
        other => {
            let hint = nearest(other, ["json", "json_object", "binary"].into_iter());
            let problem = format!("{other:?} is no format{hint}");
            return Err(Invalid::new(format!("{key}.publication_data_format"), problem));
        }
    }))
}

impl Channel {
    fn check(&self, key: &str, default_format: DataFormat) -> Result<RoomOptions, Invalid> {
        let history = self.history_size > 0 && !self.history_ttl.0.is_zero();
        if (self.history_size > 0) == self.history_ttl.0.is_zero() {
            let problem = "history needs both history_size and history_ttl";
            return Err(Invalid::new(format!("{key}.history_size"), problem));
        }
        let needs_history = [
            ("force_recovery", self.force_recovery),
            ("allow_recovery", self.allow_recovery),
            ("force_positioning", self.force_positioning),
            ("allow_positioning", self.allow_positioning),
        ];
        for (option, on) in needs_history {
            if on && !history {
                let problem = "needs history_size and history_ttl in the same namespace";
                return Err(Invalid::new(format!("{key}.{option}"), problem));
            }
        }
        let recovery_cache = match self.force_recovery_mode.as_str() {
            "" | "stream" => false,
            "cache" => true,
            other => {
                let problem = format!("{other:?} is neither \"stream\" nor \"cache\"");
                return Err(Invalid::new(format!("{key}.force_recovery_mode"), problem));
            }
        };
        if self.auto_cache_recover && !(recovery_cache && self.force_recovery) {
            let problem = "needs force_recovery and force_recovery_mode = \"cache\"";
            return Err(Invalid::new(format!("{key}.auto_cache_recover"), problem));
        }
        if let Some(other) = self.allowed_delta_types.iter().find(|it| *it != "fossil") {
            let problem = format!("{other:?} is no delta format; there is \"fossil\"");
            return Err(Invalid::new(format!("{key}.allowed_delta_types"), problem));
        }
        let format = data_format(key, &self.publication_data_format)?;
        let audience = |client, subscriber, anonymous| Audience { client, subscriber, anonymous };
        Ok(RoomOptions {
            presence: self.presence,
            join_leave: self.join_leave,
            force_push_join_leave: self.force_push_join_leave,
            history_size: self.history_size,
            history_ttl: self.history_ttl.0,
            history_meta_ttl: self.history_meta_ttl.0,
            force_positioning: self.force_positioning,
            allow_positioning: self.allow_positioning,
            force_recovery: self.force_recovery,
            allow_recovery: self.allow_recovery,
            recovery_cache,
            auto_cache_recover: self.auto_cache_recover,
            allow_user_limited: self.allow_user_limited_channels,
            name_pattern: regex("channel_regex", &self.channel_regex)
                .map_err(|it| it.under(key))?
                .map(NamePattern),
            allow_tags_filter: self.allow_tags_filter,
            allow_delta: !self.allowed_delta_types.is_empty(),
            delta_publish: self.delta_publish,
            data_format: format.unwrap_or(default_format),
            webhooks: self.webhooks,
            proxies: Default::default(),
            permissions: Permissions {
                subscribe_for_client: self.allow_subscribe_for_client,
                subscribe_for_anonymous: self.allow_subscribe_for_anonymous,
                publish: audience(
                    self.allow_publish_for_client,
                    self.allow_publish_for_subscriber,
                    self.allow_publish_for_anonymous,
                ),
                presence: audience(
                    self.allow_presence_for_client,
                    self.allow_presence_for_subscriber,
                    self.allow_presence_for_anonymous,
                ),
                history: audience(
                    self.allow_history_for_client,
                    self.allow_history_for_subscriber,
                    self.allow_history_for_anonymous,
                ),
            },
        })
    }
}

/// What a link's queue needs beside two of the largest publications: pages of several transfers.
const LINK_QUEUE: usize = 1 << 20;

impl Raw {
    /// The most bytes that one publication may have, whoever publishes it.
    fn largest_publication(&self) -> usize {
        let by_api = (self.client.queue_max_size / 2).min(BODY_LIMIT);
        let by_client = self.websocket.message_size_limit.max(self.emulation.max_request_body_size);
        by_api.max(by_client)
    }

    /// A link whose queue can't hold what is sent as one would be closed as too slow, again and again.
    fn check_link_queue(&self) -> Result<(), Invalid> {
        let largest = self.largest_publication();
        let least = LINK_QUEUE.saturating_add(largest.saturating_mul(2));
        if self.cluster.queue_max_size >= least {
            return Ok(());
        }
        let problem = format!(
            "at least {least}: 1 MiB and twice the largest publication that is allowed, which has {largest} bytes \
             (client.queue_max_size / 2, websocket.message_size_limit, emulation.max_request_body_size)"
        );
        Err(Invalid::new("cluster.queue_max_size", problem))
    }
}

impl raw::Client {
    fn check(&self) -> Result<(), Invalid> {
        let pings = self.ping_interval.0 > Duration::ZERO;
        if pings && self.pong_timeout.0 >= self.ping_interval.0 {
            let problem =
                "must be shorter than client.ping_interval, or a ping could overtake a pong";
            return Err(Invalid::new("client.pong_timeout", problem));
        }
        if !(1..=usize::from(u16::MAX)).contains(&self.concurrency) {
            return Err(Invalid::new("client.concurrency", format!("1 to {}", u16::MAX)));
        }
        Ok(())
    }
}

impl raw::Log {
    fn check(&self) -> Result<(), Invalid> {
        let one_of = |key: &str, what: &str, value: &str, known: &[&str]| {
            if known.iter().any(|it| it.eq_ignore_ascii_case(value)) {
                return Ok(());
            }
            let hint = nearest(value, known.iter().copied());
            Err(Invalid::new(key, format!("{value:?} is no {what}{hint}")))
        };
        for directive in self.level.split(',').map(str::trim) {
            match directive.rsplit_once('=') {
                // The path of a module stands for all that is logged there.
                None if directive.contains("::") => {}
                None => one_of("log.level", "level", directive, &LEVELS)?,
                Some((_, level)) => one_of("log.level", "level", level, &LEVELS)?,
            }
        }
        one_of("log.format", "format", &self.format, &["text", "json"])
    }
}

/// Names the known word that is most like `key`, if one is like it at all.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|it| (strsim::normalized_damerau_levenshtein(key, it), it))
        .filter(|(similarity, _)| *similarity > 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map_or_else(String::new, |(_, it)| format!("; did you mean {it}?"))
}

impl raw::Cluster {
    fn check(&self) -> Result<Option<Cluster>, Invalid> {
        let (gossip, mesh) = match (self.gossip.as_str(), self.mesh.as_str()) {
            ("", "") if self.join.is_empty() => return Ok(None),
            ("", _) => {
                return Err(Invalid::new(
                    "cluster.gossip",
                    "a node of a cluster needs it, as IP:PORT",
                ));
            }
            (_, "") => {
                return Err(Invalid::new(
                    "cluster.mesh",
                    "a node of a cluster needs it, as IP:PORT",
                ));
            }
            (gossip, mesh) => (address("cluster.gossip", gossip)?, address("cluster.mesh", mesh)?),
        };
        let advertise = match self.advertise.as_str() {
            "" if gossip.ip().is_unspecified() => {
                let problem = "say under which IP address the other nodes reach this one, since cluster.gossip is 0.0.0.0";
                return Err(Invalid::new("cluster.advertise", problem));
            }
            "" => gossip.ip(),
            ip => ip.parse().map_err(|_| {
                Invalid::new("cluster.advertise", format!("{ip:?} is no IP address"))
            })?,
        };
        for peer in &self.join {
            check_peer(peer)?;
        }
        let secrets = self.secrets()?;
        let open = [gossip.ip(), mesh.ip()].iter().any(|ip| !ip.is_loopback());
        if open && secrets.is_empty() {
            let problem = "needed to listen for other nodes on anything but loopback: anyone who reaches the ports could take part. Set the same on every node, for example the output of `openssl rand -hex 32`";
            return Err(Invalid::new("cluster.secret", problem));
        }
        Ok(Some(Cluster {
            id: self.id.clone(),
            gossip,
            mesh,
            advertise,
            join: self.join.clone(),
            name_timeout: self.name_timeout.0,
            secrets,
            expected_nodes: self.expected_nodes,
            queue_limit: self.queue_max_size,
        }))
    }
}

impl raw::Cluster {
    /// The one that seals comes first.
    fn secrets(&self) -> Result<Secrets, Invalid> {
        let too_short =
            |key: &str| Invalid::new(key, format!("at least {} characters", Secrets::MIN_LENGTH));
        if self.secret.is_empty() {
            let problem = "needed when there are cluster.other_secrets";
            return match self.other_secrets.is_empty() {
                true => Ok(Secrets::default()),
                false => Err(Invalid::new("cluster.secret", problem)),
            };
        }
        let mut secrets = Secrets::default();
        secrets.add(&self.secret).ok_or_else(|| too_short("cluster.secret"))?;
        for other in &self.other_secrets {
            secrets.add(other).ok_or_else(|| too_short("cluster.other_secrets"))?;
        }
        Ok(secrets)
    }

    /// The number of nodes that a majority of must have what is acknowledged, if that is wanted.
    fn quorum(&self) -> Result<Option<usize>, Invalid> {
        match self.minority.as_str() {
            "serve" => Ok(None),
            "refuse" if self.expected_nodes > 0 => Ok(Some(self.expected_nodes)),
            "refuse" => Err(Invalid::new("cluster.minority", "needs cluster.expected_nodes")),
            other => {
                let problem = format!("{other:?} is neither \"serve\" nor \"refuse\"");
                Err(Invalid::new("cluster.minority", problem))
            }
        }
    }
}

impl raw::Tls {
    fn check(&self) -> Result<Option<Self>, Invalid> {
        let options = [("cert_pem", &self.cert_pem), ("key_pem", &self.key_pem)];
        match options.iter().find(|(_, value)| value.is_empty()) {
            Some((option, _)) if self.enabled => {
                let problem = "needed for TLS: a file of PEM, or PEM itself";
                Err(Invalid::new(format!("http_server.tls.{option}"), problem))
            }
            _ => Ok(self.enabled.then(|| self.clone())),
        }
    }
}

impl raw::HttpServer {
    fn proxies(&self) -> Result<Vec<IpNet>, Invalid> {
        let network = |it: &String| {
            let address = it.parse::<std::net::IpAddr>().map(IpNet::from);
            address.or_else(|_| it.parse::<IpNet>()).map_err(|_| {
                let problem =
                    format!("{it:?} is neither an IP address nor a network like 10.0.0.0/8");
                Invalid::new("http_server.trusted_proxies", problem)
            })
        };
        self.trusted_proxies.iter().map(network).collect()
    }

    fn listen(&self) -> Result<SocketAddr, Invalid> {
        let ip = match self.address.as_str() {
            "" => std::net::IpAddr::from([0, 0, 0, 0]),
            ip => ip.parse().map_err(|_| {
                Invalid::new("http_server.address", format!("{ip:?} is no IP address"))
            })?,
        };
        Ok(SocketAddr::new(ip, self.port))
    }
}

/// A peer may be given by its name, which is looked up again and again; so its form is all that can be
/// checked.
fn check_peer(peer: &str) -> Result<(), Invalid> {
    let named = peer.rsplit_once(':').is_some_and(|(host, port)| {
        let letter = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
        let port = port.parse::<u16>().is_ok_and(|port| port != 0);
        port && !host.is_empty() && host.chars().all(letter)
    });
    if named || peer.parse::<SocketAddr>().is_ok_and(|address| address.port() != 0) {
        return Ok(());
    }
    Err(Invalid::new("cluster.join", format!("{peer:?} is no address of the form HOST:PORT")))
}

fn address(key: &str, value: &str) -> Result<SocketAddr, Invalid> {
    value
        .parse()
        .map_err(|_| Invalid::new(key, format!("{value:?} is no address of the form IP:PORT")))
}
