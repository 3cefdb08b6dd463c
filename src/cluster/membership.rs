//! SHELL. The membership actor: chitchat, and the view that it has of the cluster.
//!
//! Gossip carries what concerns nodes (addresses, names, generations), never rooms.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use actix::prelude::*;
use chitchat::{
    ChitchatConfig, ChitchatHandle, ChitchatId, FailureDetectorConfig, NodeState, spawn_chitchat,
};

use super::{
    gossip::Gossip,
    node::{NodeInfo, Phase},
    view::View,
};
use crate::{
    mesh::{
        dialer::{Dialer, Know},
        wire,
    },
    metrics::Metrics,
    room::actor::{FromCluster, RoomRegistry},
};

/// How often each node gossips.
pub const INTERVAL: Duration = Duration::from_millis(400);
/// How many usual intervals between heartbeats a node may be silent before it is taken for dead: some
/// seconds. A node that crashes is noticed long before, by its closed links.
const PATIENCE: f64 = 20.0;
/// How long a dead node is remembered. Many restarts must not fill the datagrams with the dead.
const REMEMBRANCE: Duration = Duration::from_secs(600);
const PHASE: &str = "phase";
const MESH: &str = "mesh";
const HTTP: &str = "http";
/// Version of what is said on links: see [`wire::VERSION`].
pub const VERSION: &str = "mesh_version";

/// What gossip needs to know to begin.
pub struct Settings {
    /// This node.
    pub me: NodeInfo,
    /// Where its gossip arrives.
    pub gossip: SocketAddr,
    /// Nodes to begin with.
    pub join: Vec<String>,
    /// Name of the cluster.
    pub cluster: String,
}

/// Starts to gossip.
///
/// # Errors
/// If the transport can't be opened.
pub async fn start(settings: &Settings, transport: &Gossip) -> anyhow::Result<ChitchatHandle> {
    let me = &settings.me;
    let config = ChitchatConfig {
        chitchat_id: ChitchatId::new(me.name.as_str(), me.generation, settings.gossip),
        cluster_id: settings.cluster.clone(),
        gossip_interval: INTERVAL,
        listen_addr: settings.gossip,
        seed_nodes: settings.join.clone(),
        failure_detector_config: FailureDetectorConfig {
            initial_interval: INTERVAL,
            phi_threshold: PATIENCE,
            dead_node_grace_period: REMEMBRANCE,
            ..Default::default()
        },
        marked_for_deletion_grace_period: REMEMBRANCE,
        catchup_callback: None,
        extra_liveness_predicate: None,
    };
    let facts = vec![
        (MESH.into(), me.mesh.to_string()),
        (HTTP.into(), me.http.to_string()),
        (PHASE.into(), me.phase.word().to_owned()),
        (VERSION.into(), wire::VERSION.to_string()),
    ];
    spawn_chitchat(config, facts, transport).await
}

/// The actor that passes chitchat's view on.
pub struct Membership {
    handle: ChitchatHandle,
    me: NodeInfo,
    registry: Addr<RoomRegistry>,
    dialer: Addr<Dialer>,
    views: tokio::sync::watch::Sender<View>,
    metrics: Metrics,
}

impl Membership {
    /// Passes the views of `handle` on to registry, dialer and `views`.
    pub fn new(
        handle: ChitchatHandle,
        me: NodeInfo,
        registry: Addr<RoomRegistry>,
        dialer: Addr<Dialer>,
        views: tokio::sync::watch::Sender<View>,
        metrics: Metrics,
    ) -> Self {
        Self { handle, me, registry, dialer, views, metrics }
    }

    fn know(&self, view: View) {
        let name = |info: &NodeInfo| format!("{} ({})", info.name, info.phase.word());
        let names: Vec<String> = view.nodes().values().map(name).collect();
        tracing::info!(nodes = ?names, "the cluster has changed");
        self.metrics.cluster_nodes.set(view.nodes().len() as i64);
        let ready = view.nodes().values().filter(|it| it.phase == Phase::Ready).count();
        self.metrics.cluster_nodes_ready.set(ready as i64);
        self.registry.do_send(FromCluster::View(view.clone()));
        self.dialer.do_send(Know(view.clone()));
        self.views.send_replace(view);
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let chitchat = self.handle.chitchat();
        let me = self.me.clone();
        let membership = ctx.address();
        let watching = async move {
            let mut nodes = Box::pin(chitchat.lock().await.live_nodes_watch_stream());
            let (mut last, mut left_out) = (None, BTreeSet::new());
            while let Some(nodes) = std::future::poll_fn(|cx| nodes.as_mut().poll_next(cx)).await {
                left_out = leave_out(&nodes, &left_out);
                let peers = nodes.iter().filter_map(|(id, state)| node_info(id, state));
                let view = View::new(peers.chain([me.clone()]));
                if last.as_ref() != Some(&view) {
                    last = Some(view.clone());
                    membership.do_send(NewView(view));
                }
            }
        };
        ctx.spawn(watching.into_actor(self));
        // A node that gossips no more has a view that is wrong, and is seen by no one: end it, so that it is
        // started again, and its clients go elsewhere.
        let end = self.handle.termination_watcher();
        ctx.spawn(end.into_actor(self).map(|result, _, _| {
            tracing::error!(?result, "gossip has ended, so this node ends as well");
            std::process::exit(1);
        }));
    }
}

/// The nodes that speak another mesh version. Links to them are refused, so rooms that were placed on them
/// could not be reached. Says so of those that were not there `before`.
fn leave_out(
    nodes: &BTreeMap<ChitchatId, NodeState>,
    before: &BTreeSet<ChitchatId>,
) -> BTreeSet<ChitchatId> {
    let ours = wire::VERSION.to_string();
    let others = nodes.iter().filter_map(|(id, state)| {
        let theirs = state.get(VERSION).filter(|it| *it != ours)?;
        if !before.contains(id) {
            let node = &*id.node_id;
            tracing::warn!(
                node,
                theirs,
                ours,
                "a node speaks another mesh version, and is left out: upgrade one"
            );
        }
        Some(id.clone())
    });
    others.collect()
}

/// What a node says of itself; none while gossip has not brought all of it, and of one that speaks another mesh version.
fn node_info(id: &ChitchatId, state: &NodeState) -> Option<NodeInfo> {
    (state.get(VERSION)?.parse() == Ok(wire::VERSION)).then_some(())?;
    Some(NodeInfo {
        name: id.node_id.to_string(),
        generation: id.generation_id,
        mesh: state.get(MESH)?.parse().ok()?,
        http: state.get(HTTP)?.parse().ok()?,
        phase: Phase::from_word(state.get(PHASE)?),
    })
}

/// Tell everyone how far this node is in its life.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enter(pub Phase);

impl Handler<Enter> for Membership {
    type Result = ();

    fn handle(&mut self, Enter(phase): Enter, ctx: &mut Self::Context) {
        let chitchat = self.handle.chitchat();
        let telling = async move {
            chitchat.lock().await.self_node_state().set(PHASE, phase.word());
        };
        ctx.spawn(telling.into_actor(self));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct NewView(View);

impl Handler<NewView> for Membership {
    type Result = ();

    fn handle(&mut self, NewView(view): NewView, _: &mut Self::Context) {
        self.know(view);
    }
}
