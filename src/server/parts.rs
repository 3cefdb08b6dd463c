//! SHELL. What the workers of a node share, and what the sockets of one of them do.

use std::{
    cell::RefCell,
    net::IpAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use actix::prelude::*;
use actix_http::header::HeaderMap;

use super::leaving::Leaving;
use crate::{
    access::{
        connection_counter::ConnectionCounter,
        jwks::{Fetcher, Fetchers},
        keys::PublishedKeys,
        verifier::Verifier,
    },
    backend::{
        client::BackendClients,
        headers::{self, Headers, TooLarge},
    },
    cluster::{names::Reach, view::View},
    config::{Config, Invalid, tokens::Tokens},
    hub::Hub,
    metrics::Metrics,
    room::{
        actor::{AddHub, RoomRegistry},
        users::Users,
    },
    runtime::live::Live,
    session::{
        context::Wire, driver::Shared, emulated::EmulatedSessions, settings::SessionSettings,
    },
    shared_poll::actor::{AddPollHub, SharedPolls},
    webhooks::sender::Webhooks,
};

/// Who may call the server API, and which pages may connect.
#[derive(Debug)]
pub struct Access {
    /// Key of the server API; none: every call is refused unless the API is insecure.
    pub api_key: Option<String>,
    /// The same of the server API by gRPC.
    pub grpc_api_key: Option<String>,
    /// Origins of pages.
    pub allowed_origins: Vec<String>,
}

impl From<&Config> for Access {
    fn from(config: &Config) -> Self {
        let allowed_origins = config.client.allowed_origins.clone();
        let (api_key, grpc_api_key) = (config.api_key.clone(), config.grpc_api_key.clone());
        Self { api_key, grpc_api_key, allowed_origins }
    }
}

/// What all workers share.
#[derive(Clone)]
pub struct Parts {
    /// The configuration.
    pub config: Arc<Config>,
    /// Settings of sessions.
    pub sessions: Live<SessionSettings>,
    /// Who may call the server API, and which pages may connect.
    pub access: Live<Access>,
    /// Fetches the keys of tokens.
    pub keys: Fetchers,
    /// Sends requests to the application's backends.
    pub backends: Arc<BackendClients>,
    /// Delivers events to the application, if it has an endpoint for them.
    pub webhooks: Option<Arc<Webhooks>>,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// What polls for clients, if any room's keys are polled.
    pub polls: Option<Addr<SharedPolls>>,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub users: Arc<Users>,
    /// How many clients there are, where they are limited.
    pub counter: Option<ConnectionCounter>,
    /// The sessions whose clients send by requests of their own.
    pub emulated: Arc<EmulatedSessions>,
    /// Where the workers' hubs are announced, so that they can be told to stop.
    pub hubs: tokio::sync::mpsc::UnboundedSender<Addr<Hub>>,
    /// Whether the node is to leave.
    pub leaving: Arc<Leaving>,
    /// Who is in the cluster.
    pub view: tokio::sync::watch::Receiver<View>,
    /// How many workers have begun to serve clients.
    pub workers: Arc<AtomicU16>,
    /// Which of them this node can reach.
    pub reach: tokio::sync::watch::Receiver<Reach>,
}

impl Parts {
    /// Of the request of a client at `address` those headers that some backend wants; none if there are none.
    ///
    /// # Errors
    /// If they are too large to be kept.
    pub fn headers_for_backends(
        &self,
        all: &HeaderMap,
        address: IpAddr,
    ) -> Result<Option<Headers>, TooLarge> {
        let wanted = &self.config.proxies.http_headers;
        if wanted.is_empty() {
            return Ok(None);
        }
        let all = all.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let mut sent = headers::pick(all, wanted)?;
        if self.config.proxy_protocol {
            // A proxy that speaks it passes headers on as the client wrote them.
            headers::state_address(&mut sent, wanted, address);
        }
        Ok((!sent.is_empty()).then(|| Headers { sent, said: Vec::new() }))
    }
}

/// The settings of sessions as configured, and what fetches the keys of tokens for them.
///
/// # Errors
/// If the keys of tokens can't be used or fetched.
pub fn session_settings(
    config: &Config,
    node: String,
) -> anyhow::Result<(SessionSettings, Fetchers)> {
    let client = &config.client;
    let (tokens, connection) = token_checks(&config.tokens)?;
    let (subscription_tokens, subscription) = match &config.subscription_tokens {
        Some(own) => token_checks(own)?,
        None => (tokens.clone(), connection.clone()),
    };
    let personal = &client.subscribe_to_user_personal_channel;
    let settings = SessionSettings {
        insecure: client.insecure,
        allow_anonymous: client.allow_anonymous_connect_without_token,
        refuse_anonymous_tokens: client.disallow_anonymous_connection_tokens,
        tokens,
        subscription_tokens,
        subscribe_to: client.subscribe_to.clone(),
        personal_rooms: personal.enabled.then(|| personal.personal_channel_namespace.clone()),
        single_connection: personal.single_connection,
        expired_close_delay: client.expired_close_delay.0,
        expired_sub_close_delay: client.expired_sub_close_delay.0,
        namespaces: config.namespaces.clone(),
        proxies: config.proxies.clone(),
        shared_polls: config.shared_polls.clone(),
        ping_interval: client.ping_interval.0,
        pong_timeout: client.pong_timeout.0,
        stale_close_delay: client.stale_close_delay.0,
        channel_limit: client.channel_limit,
        channel_max_length: config.channel_max_length,
        history_limit: client.history_max_publication_limit,
        in_flight_limit: client.concurrency,
        node,
    };
    Ok((settings, Fetchers { connection, subscription }))
}

/// The same settings, but for what can be another while the node runs. Keys that were fetched stay.
///
/// # Errors
/// If the keys of tokens can't be used.
pub fn changed_settings(
    settings: &SessionSettings,
    config: &Config,
) -> Result<SessionSettings, Invalid> {
    let fetched = |it: &Verifier| it.published.clone();
    let tokens = Arc::new(config.tokens.verifier(fetched(&settings.tokens))?);
    let subscription_tokens = match &config.subscription_tokens {
        Some(own) => Arc::new(own.verifier(fetched(&settings.subscription_tokens))?),
        None => tokens.clone(),
    };
    let (namespaces, shared_polls) = (config.namespaces.clone(), config.shared_polls.clone());
    Ok(SessionSettings {
        tokens,
        subscription_tokens,
        namespaces,
        shared_polls,
        ..settings.clone()
    })
}

/// What checks one kind of tokens, and who fetches the keys for it.
fn token_checks(tokens: &Tokens) -> anyhow::Result<(Arc<Verifier>, Option<Arc<Fetcher>>)> {
    let keys = PublishedKeys::default();
    let verifier = Arc::new(tokens.verifier(Some(keys.clone()))?);
    let fetcher = tokens.keys_url().map(|url| Fetcher::start(url, keys)).transpose()?;
    Ok((verifier, fetcher))
}

/// What the sockets of one worker thread share. Made with the first of them, on their thread.
pub struct Worker {
    /// What all workers share.
    pub parts: Parts,
    shared: RefCell<Option<Rc<Shared>>>,
}

impl Worker {
    /// A worker whose first socket is yet to come.
    pub fn new(parts: Parts) -> Self {
        Self { parts, shared: RefCell::new(None) }
    }

    /// The thread's hub and what else its sockets need.
    pub fn shared(&self) -> Rc<Shared> {
        self.shared.borrow_mut().get_or_insert_with(|| self.start_hub()).clone()
    }

    fn start_hub(&self) -> Rc<Shared> {
        let parts = &self.parts;
        let worker = parts.workers.fetch_add(1, Ordering::Relaxed);
        let hub = Hub::new(worker, parts.metrics.clone()).start();
        parts.registry.do_send(AddHub(worker, hub.clone().recipient()));
        if let Some(polls) = &parts.polls {
            polls.do_send(AddPollHub(worker, hub.clone().recipient()));
        }
        // The receiver is gone only when the process ends.
        let _ = parts.hubs.send(hub.clone());
        let wire = Wire {
            message_limit: parts.config.message_size_limit,
            write_timeout: parts.config.client.write_timeout.0,
            messages_sent: parts.metrics.messages_sent.clone(),
            bytes_sent: parts.metrics.bytes_sent.clone(),
        };
        Rc::new(Shared {
            hub: hub.into(),
            wire: Rc::new(wire),
            registry: parts.registry.clone(),
            polls: parts.polls.clone(),
            settings: parts.sessions.clone(),
            keys: parts.keys.clone(),
            backends: parts.backends.clone(),
            webhooks: parts.webhooks.clone(),
            user_limit: parts.config.client.user_connection_limit,
            outbox_limit: parts.config.client.queue_max_size,
            metrics: parts.metrics.clone(),
            users: parts.users.clone(),
            outputs: RefCell::default(),
        })
    }
}
