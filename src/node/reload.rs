//! SHELL. Reads the configuration again while the node runs, and hands out what of it can be taken over.

use std::sync::Arc;

use super::{Node, grpc::Certificates};
use crate::{
    config::{Config, Problems, reload::Reloaded},
    mesh::dialer::Reseal,
    room::actor::SetNamespaces,
    runtime::live::Live,
    server::{
        parts::{Access, changed_settings},
        tls::Certificate,
    },
    session::settings::SessionSettings,
};

/// How a node comes by its configuration again.
pub struct Source {
    /// Reads it, as it was read at the start.
    pub read: Box<dyn Fn() -> anyhow::Result<Config>>,
    /// Logs as much as this from then on.
    pub change_log_level: Box<ChangeLevel>,
}

/// What takes a level as `log.level` has it.
pub type ChangeLevel = dyn Fn(&str) -> anyhow::Result<()>;

/// What workers look at each time that it counts.
pub(super) struct LiveParts {
    pub sessions: Live<SessionSettings>,
    pub access: Live<Access>,
    pub certificate: Option<Arc<Certificate>>,
    pub grpc_certificates: Certificates,
}

impl LiveParts {
    pub(super) fn new(
        config: &Config,
        sessions: SessionSettings,
        certificate: Option<Arc<Certificate>>,
        grpc_certificates: Certificates,
    ) -> Self {
        let (sessions, access) = (Live::new(sessions), Live::new(Access::from(config)));
        Self { sessions, access, certificate, grpc_certificates }
    }
}

impl Node {
    /// Reads the configuration again. One that is not valid changes nothing.
    pub(super) fn reload(&mut self, source: &Source) {
        tracing::info!("reading the configuration again");
        let reloaded = match (source.read)() {
            Ok(read) => self.config.reloaded(&read).map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        let done = reloaded.and_then(|it| self.take_over(it, source));
        if let Err(error) = done {
            match error.downcast_ref::<Problems>() {
                Some(problems) => problems.list().iter().for_each(|problem| {
                    tracing::error!(%problem, "the configuration is not valid");
                }),
                None => tracing::error!(error = format!("{error:#}"), "it can't be used"),
            }
            tracing::error!("the configuration stays as it is");
        }
    }

    fn take_over(&mut self, it: Reloaded, source: &Source) -> anyhow::Result<()> {
        let Reloaded { config, taken, waiting } = it;
        let sessions = changed_settings(&self.live.sessions.load(), &config)?;
        (source.change_log_level)(&config.log.level)?;
        self.registry.do_send(SetNamespaces(config.namespaces.clone()));
        self.live.sessions.store(sessions);
        self.live.access.store(Access::from(&config));
        if let (Some(certificate), Some(options)) = (&self.live.certificate, &config.tls) {
            certificate.look(options);
        }
        self.live.grpc_certificates.look(&config);
        if let (Some(joined), Some(cluster)) = (&self.membership, &config.cluster) {
            joined.sealing.dialer.do_send(Reseal(cluster.secrets.keys("mesh")));
            let _ = joined.sealing.gossip.send(cluster.secrets.keys("gossip"));
        }
        for note in &config.notes {
            tracing::warn!("{note}");
        }
        for option in &waiting {
            tracing::warn!(option, "has changed, and waits for the node to start again");
        }
        tracing::info!(?taken, waiting = waiting.len(), "the configuration was read again");
        self.config = Arc::new(config);
        Ok(())
    }
}
