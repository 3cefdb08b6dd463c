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
use tokio::sync::watch;

use super::{
    gossip::Gossip,
    mesh_version::{OURS, Versions},
    names::{self, Reach},
    node::{NodeInfo, Phase},
    seeds,
    view::View,
};
use crate::metrics::Metrics;

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
/// The newest version of what is said on links that a node speaks: see [`crate::cluster::mesh_version`].
pub const NEWEST: &str = "mesh_version";
/// The oldest.
pub const OLDEST: &str = "mesh_oldest_version";

/// What gossip needs to know to begin.
pub struct MembershipSettings {
    /// This node.
    pub me: NodeInfo,
    /// Where its gossip arrives.
    pub gossip: SocketAddr,
    /// Nodes to begin with, by their addresses: see [`seeds`].
    pub join: Vec<String>,
    /// Name of the cluster.
    pub cluster: String,
}

/// Starts to gossip.
///
/// # Errors
/// If the transport can't be opened.
pub async fn start(
    settings: &MembershipSettings,
    transport: &Gossip,
) -> anyhow::Result<ChitchatHandle> {
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
        (NEWEST.into(), OURS.newest.to_string()),
        (OLDEST.into(), OURS.oldest.to_string()),
    ];
    spawn_chitchat(config, facts, transport).await
}

/// What the actor is connected with.
pub struct Connections {
    /// The node's rooms, which go by the view.
    pub registry: Recipient<NewView>,
    /// Who links this node to all that gossip knows of.
    pub dialer: Recipient<Known>,
    /// What comes of that.
    pub reach: watch::Receiver<Reach>,
    /// Everyone else who goes by the view.
    pub views: watch::Sender<View>,
    /// Who has to know of all nodes that gossip knows of.
    pub known: watch::Sender<names::KnownNodes>,
    /// What is counted.
    pub metrics: Metrics,
}

/// The actor that makes a view of what gossip tells, and passes it on.
pub struct Membership {
    handle: ChitchatHandle,
    me: NodeInfo,
    /// Names of nodes to begin with.
    names: Vec<String>,
    to: Connections,
    /// Where their gossip arrives.
    live: BTreeSet<SocketAddr>,
    /// How often nodes to begin with were greeted.
    turn: usize,
    last: Option<View>,
}

impl Membership {
    /// Makes views of what `handle` tells to node `me`. `names` are those of nodes to begin with.
    pub fn new(handle: ChitchatHandle, me: NodeInfo, names: Vec<String>, to: Connections) -> Self {
        Self { handle, me, names, to, live: BTreeSet::new(), turn: 0, last: None }
    }

    /// Makes a new view, and passes it on if it has changed.
    fn look(&mut self) {
        let known = self.to.known.borrow().clone();
        let view = names::view(known.into_values(), &self.me, &self.to.reach.borrow());
        if self.last.as_ref() != Some(&view) {
            self.last = Some(view.clone());
            self.know(view);
        }
    }

    fn know(&self, view: View) {
        let name = |info: &NodeInfo| format!("{} ({})", info.name, info.phase.word());
        let names: Vec<String> = view.nodes().values().map(name).collect();
        tracing::info!(nodes = ?names, "the cluster has changed");
        self.to.metrics.cluster_nodes.set(view.nodes().len() as i64);
        let ready = view.nodes().values().filter(|it| it.phase == Phase::Ready).count();
        self.to.metrics.cluster_nodes_ready.set(ready as i64);
        self.to.registry.do_send(NewView(view.clone()));
        self.to.views.send_replace(view);
    }
}

impl Actor for Membership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (chitchat, membership) = (self.handle.chitchat(), ctx.address());
        let watching = async move {
            let mut nodes = Box::pin(chitchat.lock().await.live_nodes_watch_stream());
            let mut left_out = BTreeSet::new();
            while let Some(nodes) = std::future::poll_fn(|cx| nodes.as_mut().poll_next(cx)).await {
                left_out = leave_out(&nodes, &left_out);
                membership.do_send(Gossiped(nodes));
            }
        };
        ctx.spawn(watching.into_actor(self));
        let (mut reach, membership) = (self.to.reach.clone(), ctx.address());
        let reaching = async move {
            while reach.changed().await.is_ok() {
                membership.do_send(Reached);
            }
        };
        ctx.spawn(reaching.into_actor(self));
        for name in std::mem::take(&mut self.names) {
            let (view, membership) = (self.to.views.subscribe(), ctx.address());
            let found = move |addresses| membership.do_send(Found(addresses));
            ctx.spawn(seeds::look_up(name, view, found).into_actor(self));
        }
        // A node that gossips no more has a view that is wrong, and is seen by no one: end it, so that it is
        // started again, and its clients go elsewhere.
        let end = self.handle.termination_watcher();
        ctx.spawn(end.into_actor(self).map(|result, _, _| {
            tracing::error!(?result, "gossip has ended, so this node ends as well");
            std::process::exit(1);
        }));
    }
}

/// The mesh versions that a node speaks; none while gossip has not brought them.
fn versions(state: &NodeState) -> Option<Versions> {
    let version = |key| state.get(key)?.parse().ok();
    Some(Versions { oldest: version(OLDEST)?, newest: version(NEWEST)? })
}

/// The nodes that speak no mesh version that this one speaks. Links to them are refused, so rooms that were placed on them
/// could not be reached. Says so of those that were not there `before`.
fn leave_out(
    nodes: &BTreeMap<ChitchatId, NodeState>,
    before: &BTreeSet<ChitchatId>,
) -> BTreeSet<ChitchatId> {
    let others = nodes.iter().filter_map(|(id, state)| {
        let theirs = versions(state).filter(|it| OURS.agree(*it).is_none())?;
        if !before.contains(id) {
            let node = &*id.node_id;
            tracing::warn!(
                node,
                %theirs,
                ours = %OURS,
                "a node speaks other mesh versions, and is left out: upgrade one version at a time"
            );
        }
        Some(id.clone())
    });
    others.collect()
}

/// What a node says of itself; none while gossip has not brought all of it, and of one that speaks no mesh version
/// that this one speaks.
fn node_info(id: &ChitchatId, state: &NodeState) -> Option<NodeInfo> {
    OURS.agree(versions(state)?)?;
    Some(NodeInfo {
        name: id.node_id.to_string(),
        generation: id.generation_id,
        mesh: state.get(MESH)?.parse().ok()?,
        http: state.get(HTTP)?.parse().ok()?,
        phase: Phase::from_word(state.get(PHASE)?),
    })
}

/// The view has changed: this is the new one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NewView(pub View);

/// These are all nodes that gossip knows of.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Known(pub names::KnownNodes);

/// Tell everyone how far this node is in its life.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Enter(pub Phase);

impl Handler<Enter> for Membership {
    type Result = ();

    fn handle(&mut self, Enter(phase): Enter, ctx: &mut Self::Context) {
        self.me.phase = phase;
        let chitchat = self.handle.chitchat();
        let telling = async move {
            chitchat.lock().await.self_node_state().set(PHASE, phase.word());
        };
        ctx.spawn(telling.into_actor(self));
    }
}

/// These are the nodes that gossip sees alive.
#[derive(Message)]
#[rtype(result = "()")]
struct Gossiped(BTreeMap<ChitchatId, NodeState>);

impl Handler<Gossiped> for Membership {
    type Result = ();

    fn handle(&mut self, Gossiped(nodes): Gossiped, _: &mut Self::Context) {
        self.live = nodes.keys().map(|id| id.gossip_advertise_addr).collect();
        let known = nodes.iter().filter_map(|(id, state)| node_info(id, state));
        let known: names::KnownNodes = known.map(|info| (info.id(), info)).collect();
        if *self.to.known.borrow() != known {
            self.to.dialer.do_send(Known(known.clone()));
            self.to.known.send_replace(known);
            self.look();
        }
    }
}

/// There are links to other nodes than before.
#[derive(Message)]
#[rtype(result = "()")]
struct Reached;

impl Handler<Reached> for Membership {
    type Result = ();

    fn handle(&mut self, _: Reached, _: &mut Self::Context) {
        self.look();
    }
}

/// Nodes to begin with are at these addresses.
#[derive(Message)]
#[rtype(result = "()")]
struct Found(Vec<SocketAddr>);

impl Handler<Found> for Membership {
    type Result = ();

    fn handle(&mut self, Found(addresses): Found, _: &mut Self::Context) {
        let me = self.handle.chitchat_id().gossip_advertise_addr;
        self.turn = self.turn.wrapping_add(1);
        for address in seeds::greeted(&addresses, me, &self.live, self.turn) {
            // If gossip has ended, so does the node.
            let _ = self.handle.gossip(address);
        }
    }
}
