//! SHELL. The only wiring: starts a node's parts in order, and stops them in reverse.

mod grpc;
mod polls;
mod reload;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use actix::prelude::*;
use actix_rt::task::JoinHandle;
use actix_server::ServerHandle;
use anyhow::Context as _;
use grpc::{BoundPorts, Ports};
use reload::LiveParts;
pub use reload::Source;
use tokio::sync::{mpsc, watch};

use crate::{
    access::{connection_counter::ConnectionCounter, connection_limits::ConnectionLimits},
    backend::client::BackendClients,
    cluster::{
        gossip::Gossip,
        membership::{self, Connections, Enter, Membership, MembershipSettings, NewView},
        names::Reach,
        node::{self, NodeId, NodeInfo, Phase},
        secret::SealingKeys,
        seeds,
        sight::{NameTaken, Sight},
        view::View,
    },
    config::{self, Config},
    hub::{DisconnectAll, Hub},
    log::File,
    mesh::{
        dialer::{Dialer, Listen},
        link::LinkSettings,
        wire,
    },
    metrics::Metrics,
    protocol::codes::Disconnect,
    room::{
        actor::{Application, CloseLog, RoomRegistry, ToBeTaken},
        disk::DiskLog,
        options::Namespaces,
        registry::State,
        types::NodeFacts,
        users::Users,
    },
    runtime::{
        clock,
        signals::{Asked, Signals},
    },
    server::{
        http,
        leaving::Leaving,
        listener::Listener,
        parts::{Parts, session_settings},
        tls::Certificate,
    },
    session::emulated::EmulatedSessions,
    shared_poll::actor::SharedPolls,
    webhooks::sender::Webhooks,
};

/// How often a stopping node looks whether it is done.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where gossip and where links arrive.
type ClusterSockets = (tokio::net::UdpSocket, tokio::net::TcpListener);

/// Sockets that are bound, so that their addresses are known before they are announced.
struct Bound {
    clients: Listener,
    grpc: BoundPorts,
    cluster: Option<ClusterSockets>,
}

async fn bind(config: &Config) -> anyhow::Result<Bound> {
    let clients = Listener::bind(config.listen)
        .with_context(|| format!("can't listen for clients on {}", config.listen))?;
    let grpc = BoundPorts::bind(config)?;
    let cluster = match &config.cluster {
        None => None,
        Some(cluster) => {
            let gossip = tokio::net::UdpSocket::bind(cluster.gossip)
                .await
                .with_context(|| format!("can't listen for gossip on {} (UDP)", cluster.gossip))?;
            let mesh = tokio::net::TcpListener::bind(cluster.mesh)
                .await
                .with_context(|| format!("can't listen for links on {}", cluster.mesh))?;
            Some((gossip, mesh))
        }
    };
    Ok(Bound { clients, grpc, cluster })
}

/// Runs a node until it is asked to stop.
///
/// # Errors
/// If a part can't be started, or another node has taken the node's name.
pub async fn run(config: Config, source: Source) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("can't listen for signals")?;
    let mut node = tokio::select! {
        started = Node::start(Arc::new(config)) => started?,
        () = leave(&mut signals) => {
            tracing::info!("asked to leave before it was ready");
            return Ok(());
        }
    };
    let name_taken = node.serve(&mut signals, &source).await;
    node.stop().await;
    name_taken.map_or(Ok(()), |why| Err(why.into()))
}

/// What a node has of the cluster that it has joined.
struct Joined {
    membership: Addr<Membership>,
    sight: Sight,
    /// Where gossip arrives.
    gossip: SocketAddr,
    /// Who seals what, for when the secrets change.
    sealing: Sealing,
}

/// What seals what nodes say to each other.
struct Sealing {
    dialer: Addr<Dialer>,
    gossip: watch::Sender<SealingKeys>,
}

/// A node whose parts run.
struct Node {
    config: Arc<Config>,
    id: NodeId,
    metrics: Metrics,
    registry: Addr<RoomRegistry>,
    webhooks: Option<Arc<Webhooks>>,
    /// None: it takes part in no cluster.
    membership: Option<Joined>,
    view: watch::Receiver<View>,
    /// In no cluster: held so that those who wait for changes of the view go on waiting.
    _views: Option<watch::Sender<View>>,
    leaving: Arc<Leaving>,
    live: LiveParts,
    hubs: mpsc::UnboundedReceiver<Addr<Hub>>,
    server: ServerHandle,
    serving: JoinHandle<std::io::Result<()>>,
    grpc: Ports,
}

impl Node {
    /// Binds before anything is announced, and joins the cluster before clients are served.
    async fn start(config: Arc<Config>) -> anyhow::Result<Self> {
        let certificate = config.tls.as_ref().map(|it| Certificate::read("http_server.tls", it));
        let certificate = certificate.transpose()?;
        let grpc_certificates = grpc::Certificates::read(&config)?;
        let bound = bind(&config).await?;
        let http = bound.clients.address()?;
        let me = node_info(&config, &bound, http)?;
        let id = me.id();
        let metrics = Metrics::new()?;
        let users = Arc::new(Users::default());
        let emulated = Arc::new(EmulatedSessions::default());
        let webhooks = config.webhooks.clone();
        let webhooks = webhooks.map(|it| Webhooks::start(it, id, metrics.clone())).transpose()?;
        let (registry, companions) = start_registry(&config, &me, &metrics, (&users, &webhooks))?;
        let (views, view) = watch::channel(View::new([me.clone()]));
        metrics.cluster_nodes.set(1);
        let backends = BackendClients::new(config.backends.clone(), metrics.clone())?;
        let polls = polls::start(&config, id, &backends, &metrics, view.clone())?;
        let starting = Starting {
            config: &config,
            me: &me,
            metrics: &metrics,
            registry: &registry,
            polls: &polls,
            companions,
            views,
        };
        let (membership, _views) = starting.enter_cluster(bound.cluster, http, &emulated).await?;
        if let Some(certificate) = &certificate {
            actix_rt::spawn(certificate.clone().watch());
        }
        grpc_certificates.watch();
        let (hubs_started, hubs) = mpsc::unbounded_channel();
        let (sessions, keys) = session_settings(&config, id.to_string())?;
        let leaving = Arc::new(Leaving::default());
        let live = LiveParts::new(&config, sessions, certificate.clone(), grpc_certificates);
        let parts = Parts {
            config: config.clone(),
            sessions: live.sessions.clone(),
            access: live.access.clone(),
            keys,
            backends,
            polls,
            webhooks: webhooks.clone(),
            registry: registry.clone(),
            metrics: metrics.clone(),
            users,
            counter: counter(&config),
            emulated,
            hubs: hubs_started,
            leaving: leaving.clone(),
            view: view.clone(),
            workers: Arc::default(),
            reach: reach(membership.as_ref().map(|it| &it.sight)),
        };
        if let Some(webhooks) = &webhooks {
            actix_rt::spawn(webhooks.clone().watch(id, view.clone()));
        }
        let clients = bound
            .clients
            .listen()
            .with_context(|| format!("can't listen for clients on {http}"))?;
        let grpc = Ports::serve(&config, bound.grpc, &parts, &live.grpc_certificates)?;
        let serving = http::start(clients, parts, certificate)?;
        let server = serving.handle();
        let serving = actix_rt::spawn(serving);
        log_ready(&config, http, &me, membership.as_ref());
        Ok(Self {
            config,
            id,
            metrics,
            registry,
            webhooks,
            membership,
            view,
            _views,
            leaving,
            live,
            hubs,
            server,
            serving,
            grpc,
        })
    }

    /// Waits until the node is to leave. Returns why, if it has lost its name.
    async fn serve(&mut self, signals: &mut Signals, source: &Source) -> Option<NameTaken> {
        loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::Leave => return None,
                    Asked::Reload => self.reload(source),
                },
                () = self.leaving.asked() => return None,
                taken = lose_name(self.membership.as_mut().map(|it| &mut it.sight)) => {
                    tracing::error!(why = %taken, "this node leaves");
                    return Some(taken);
                }
            }
        }
    }

    /// Hands the rooms over, lets the clients go, and ends.
    async fn stop(mut self) {
        self.leaving.begin();
        let deadline = tokio::time::Instant::now() + self.config.shutdown_timeout;
        if let Some(Joined { membership, sight, .. }) = &mut self.membership {
            membership.do_send(Enter(Phase::Draining));
            let drained = hand_over(&self.registry, sight);
            if tokio::time::timeout_at(deadline, drained).await.is_err() {
                tracing::warn!("not all rooms were handed over in time");
            }
        }
        let clients = self.metrics.connections.get();
        let over = pace(clients, self.config.reconnect_rate, &self.view.borrow(), self.id);
        tracing::info!(
            clients,
            over_ms = over.as_millis() as u64,
            "telling clients to go elsewhere"
        );
        // No new connection, then no old one, and only then no thread: a worker's sockets go with it.
        self.server.pause().await;
        let clients = disconnect_all(self.hubs, &self.metrics, over, deadline);
        tokio::join!(self.grpc.stop(deadline), clients);
        if let Some(webhooks) = self.webhooks {
            webhooks.finish(deadline).await;
        }
        self.server.stop(true).await;
        let _ = self.serving.await;
        // It may have ended already.
        let _ = self.registry.send(CloseLog).await;
        tracing::info!("stopped");
    }
}

/// Says where the node is reached, once it is.
fn log_ready(config: &Config, http: SocketAddr, me: &NodeInfo, joined: Option<&Joined>) {
    let gossip = joined.map_or_else(String::new, |it| it.gossip.to_string());
    let mesh = joined.map_or_else(String::new, |_| me.mesh.to_string());
    tracing::info!(node = %config.name, %http, gossip, mesh, workers = config.workers, "ready");
}

/// Waits until the node is asked to leave.
async fn leave(signals: &mut Signals) {
    while signals.next().await != Asked::Leave {}
}

/// Waits until the node has lost its name to another; a node in no cluster never does.
async fn lose_name(sight: Option<&mut Sight>) -> NameTaken {
    match sight {
        Some(sight) => sight.lose_name().await,
        None => std::future::pending().await,
    }
}

/// Which nodes can be reached; none without a cluster.
fn reach(sight: Option<&Sight>) -> watch::Receiver<Reach> {
    sight.map_or_else(|| watch::channel(Reach::default()).1, Sight::reach)
}

/// Counts clients, if their number is limited in a way that needs it.
fn counter(config: &Config) -> Option<ConnectionCounter> {
    let limits = config.connection_limits;
    (limits != ConnectionLimits::default()).then(|| ConnectionCounter::new(limits))
}

/// How many others there are that take rooms and clients.
fn others(view: &View, me: NodeId) -> usize {
    view.nodes().iter().filter(|(id, info)| **id != me && info.phase == Phase::Ready).count()
}

/// Waits until the other nodes, which see that this one is leaving, have taken its rooms over, or there is none
/// left that could: all nodes may be asked to leave at once.
async fn hand_over(registry: &Addr<RoomRegistry>, sight: &mut Sight) {
    if !sight.see_myself_leave().await {
        return;
    }
    tracing::info!("handing rooms over");
    while registry.send(ToBeTaken).await.is_ok_and(|rooms| rooms > 0) {
        if !sight.has_taker().await {
            tracing::warn!("there is no other node left that takes rooms");
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Over how long to disconnect all clients: as long as the other nodes need to take them.
fn pace(clients: i64, rate: usize, view: &View, me: NodeId) -> Duration {
    match u32::try_from(rate * others(view, me)) {
        Ok(0) | Err(_) => Duration::ZERO,
        Ok(rate) => Duration::from_secs(u64::try_from(clients).unwrap_or(0)) / rate,
    }
}

fn node_info(config: &Config, bound: &Bound, http: SocketAddr) -> anyhow::Result<NodeInfo> {
    let advertised = |address: SocketAddr| match &config.cluster {
        Some(cluster) => SocketAddr::new(cluster.advertise, address.port()),
        None => address,
    };
    let mesh = match &bound.cluster {
        Some((_, mesh)) => advertised(mesh.local_addr()?),
        None => http,
    };
    let http = if http.ip().is_unspecified() { advertised(http) } else { http };
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let generation = node::generation(clock::unix_millis(), u64::from_be_bytes(random));
    let name = config.name.clone();
    Ok(NodeInfo { name, generation, mesh, http, phase: Phase::Joining })
}

fn start_registry(
    config: &Config,
    me: &NodeInfo,
    metrics: &Metrics,
    (users, webhooks): (&Arc<Users>, &Option<Arc<Webhooks>>),
) -> anyhow::Result<(Addr<RoomRegistry>, BTreeSet<String>)> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)?;
    let seed = u64::from_be_bytes(seed);
    let (namespaces, settings) = (config.namespaces.clone(), config.rooms.clone());
    let mut state = State::new(me.id(), namespaces.clone(), settings, seed);
    let (log, companions) = open_log(config, &namespaces, metrics, &mut state)?.unzip();
    let facts = NodeFacts {
        uid: me.id().to_string(),
        name: me.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Default::default()
    };
    let application = webhooks.clone().map(|it| it as Arc<dyn Application>);
    let registry = RoomRegistry::new(
        state,
        facts,
        metrics.clone(),
        users.clone(),
        application,
        log,
        wire::encode_rooms,
    );
    // On a thread of its own: busy rooms must not keep links and gossip from running.
    let registry = RoomRegistry::start_in_arbiter(&Arbiter::new().handle(), |_| registry);
    Ok((registry, companions.unwrap_or_default()))
}

/// Opens the log on disk, if any rooms are kept there, and takes in those that are found.
fn open_log(
    config: &Config,
    namespaces: &Arc<Namespaces>,
    metrics: &Metrics,
    state: &mut State,
) -> anyhow::Result<Option<(DiskLog, BTreeSet<String>)>> {
    let mut options = namespaces.named.values().chain([&namespaces.default]);
    if !options.any(|it| it.is_on_disk()) {
        let data_dir = &config.disk.data_dir;
        if data_dir.join(File::Identity.to_string()).exists() {
            tracing::warn!(
                data_dir = %data_dir.display(),
                "there is a log on disk, and no namespace of this configuration has log = \"disk\": its rooms are left \
                 there, and not served"
            );
        }
        return Ok(None);
    }
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    let (mut rooms, mut others) = (0_usize, 0_usize);
    let found = |room| match state.find_in_log(room, clock::now()) {
        true => rooms += 1,
        false => others += 1,
    };
    let id = u128::from_be_bytes(id);
    let opened = DiskLog::open(&config.disk, namespaces.clone(), metrics.clone(), id, found)?;
    if opened.0.has_lost_any() {
        state.has_lost_from_log();
    }
    if rooms > 0 {
        tracing::info!(rooms, data_dir = %config.disk.data_dir.display(), "found rooms in the log on disk");
    }
    if others > 0 {
        tracing::warn!(
            rooms = others,
            data_dir = %config.disk.data_dir.display(),
            "the log on disk has rooms of namespaces that are not kept on disk by this configuration: they are \
             left there, and not served from there"
        );
    }
    Ok(Some(opened))
}

/// What the parts of the cluster need of the rest.
struct Starting<'a> {
    config: &'a Config,
    me: &'a NodeInfo,
    metrics: &'a Metrics,
    registry: &'a Addr<RoomRegistry>,
    polls: &'a Option<Addr<SharedPolls>>,
    /// The nodes that this one was with last, if it has rooms on disk.
    companions: BTreeSet<String>,
    views: watch::Sender<View>,
}

impl Starting<'_> {
    /// Takes part in the cluster, if there is one. If not, the node is ready by itself, and keeps its own view.
    async fn enter_cluster(
        self,
        sockets: Option<ClusterSockets>,
        http: SocketAddr,
        emulated: &Arc<EmulatedSessions>,
    ) -> anyhow::Result<(Option<Joined>, Option<watch::Sender<View>>)> {
        let config = self.config;
        let (Some((gossip, mesh)), Some(cluster)) = (sockets, &config.cluster) else {
            let ready = NodeInfo { phase: Phase::Ready, ..self.me.clone() };
            self.metrics.cluster_nodes_ready.set(1);
            self.registry.do_send(NewView(View::new([ready])));
            return Ok((None, Some(self.views)));
        };
        let address = gossip.local_addr()?;
        tracing::info!(node = %config.name, %http, gossip = %address, mesh = %self.me.mesh, "starting");
        let companions = self.companions.clone();
        let (membership, mut sight, sealing) = self.join(cluster, gossip, mesh, emulated).await?;
        sight.get_to_know(&cluster.join).await;
        sight.meet_again(&companions, cluster.restart_timeout).await;
        sight.claim_name(cluster.name_timeout).await?;
        if let Some(expected) = config.rooms.quorum_of {
            sight.fits(expected)?;
        }
        membership.do_send(Enter(Phase::Ready));
        Ok((Some(Joined { membership, sight, gossip: address, sealing }), None))
    }

    async fn join(
        self,
        cluster: &config::Cluster,
        gossip: tokio::net::UdpSocket,
        mesh: tokio::net::TcpListener,
        emulated: &Arc<EmulatedSessions>,
    ) -> anyhow::Result<(Addr<Membership>, Sight, Sealing)> {
        let dialer = Dialer::new(LinkSettings {
            me: self.me.clone(),
            cluster: cluster.id.clone(),
            keys: cluster.secrets.keys("mesh"),
            queue_limit: cluster.queue_limit,
            metrics: self.metrics.clone(),
            registry: self.registry.clone(),
            emulated: emulated.clone(),
            polls: self.polls.clone(),
        });
        let reach = dialer.reach();
        let dialer = dialer.start();
        dialer.do_send(Listen(mesh));
        let (addresses, names) = seeds::divide(&cluster.join);
        seeds::first_look(&names).await;
        let address = SocketAddr::new(cluster.advertise, gossip.local_addr()?.port());
        let settings = MembershipSettings {
            me: self.me.clone(),
            gossip: address,
            join: addresses,
            cluster: cluster.id.clone(),
        };
        let transport = Gossip::new(gossip, &cluster.secrets.keys("gossip"), self.metrics.clone());
        let sealing = Sealing { dialer: dialer.clone(), gossip: transport.keys() };
        let handle = membership::start(&settings, &transport).await?;
        let known = watch::Sender::default();
        let (view, heard) = (self.views.subscribe(), known.subscribe());
        let sight = Sight::new(self.me.clone(), view, heard, reach.clone());
        let to = Connections {
            registry: self.registry.clone().recipient(),
            dialer: dialer.recipient(),
            reach,
            views: self.views,
            known,
            metrics: self.metrics.clone(),
        };
        Ok((Membership::new(handle, self.me.clone(), names, to).start(), sight, sealing))
    }
}

async fn disconnect_all(
    mut hubs: mpsc::UnboundedReceiver<Addr<Hub>>,
    metrics: &Metrics,
    over: Duration,
    deadline: tokio::time::Instant,
) {
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    // Half of the time is for those that are slow to close.
    let disconnect = DisconnectAll { why: Disconnect::Shutdown, over: over.min(left / 2) };
    let closed = async {
        loop {
            // A worker may get its first connection, and so its hub, after all others are notified.
            while let Ok(hub) = hubs.try_recv() {
                hub.do_send(disconnect.clone());
            }
            if metrics.connections.get() <= 0 {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout_at(deadline, closed).await.is_err() {
        tracing::warn!("{} connections did not close in time", metrics.connections.get());
    }
}
