//! SHELL. Starts what polls for a node's clients.

use std::sync::Arc;

use actix::prelude::*;
use tokio::sync::watch;

use crate::{
    backend::client::BackendClients,
    cluster::{node::NodeId, view::View},
    config::Config,
    mesh::wire,
    metrics::Metrics,
    shared_poll::{
        actor::{self, SharedPolls},
        state::PollSettings,
    },
};

/// Starts it, if any room's keys are polled. It follows the `view`.
///
/// # Errors
/// If there is no randomness.
pub(super) fn start(
    config: &Config,
    me: NodeId,
    backends: &Arc<BackendClients>,
    metrics: &Metrics,
    view: watch::Receiver<View>,
) -> anyhow::Result<Option<Addr<SharedPolls>>> {
    let polls = &config.shared_polls;
    if polls.namespaces.is_empty() {
        return Ok(None);
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)?;
    let settings = PollSettings {
        namespaces: polls.namespaces.clone(),
        concurrency: polls.concurrency,
        item_limit: config.client.queue_max_size / 2,
        seed: u64::from_be_bytes(seed),
        me: config.cluster.is_some().then_some(me),
    };
    let (backends, metrics) = (backends.clone(), metrics.clone());
    let polls = SharedPolls::start_on_thread(settings, backends, metrics, wire::encode_polls);
    actix_rt::spawn(actor::watch(polls.clone(), view));
    Ok(Some(polls))
}
