//! SHELL. The ports for gRPC: bound with the others, served, and stopped.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::{
    config::Config,
    server::{
        grpc::{api::ApiService, connections::Port},
        listener::Listener,
        parts::Parts,
        tls::Certificate,
    },
};

/// Ports that are bound, as far as they are to be served.
pub(super) struct BoundPorts {
    api: Option<Listener>,
}

impl BoundPorts {
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let api = config.grpc_api.as_ref().map(|it| {
            Listener::bind(it.listen)
                .with_context(|| format!("can't listen for the API by gRPC on {}", it.listen))
        });
        Ok(Self { api: api.transpose()? })
    }
}

/// The certificates that are shown there.
#[derive(Clone)]
pub(super) struct Certificates {
    api: Option<Arc<Certificate>>,
}

impl Certificates {
    pub(super) fn read(config: &Config) -> anyhow::Result<Self> {
        let tls = config.grpc_api.as_ref().and_then(|it| it.tls.as_ref());
        let api = tls.map(|it| Certificate::read("grpc_api.tls", it)).transpose()?;
        Ok(Self { api })
    }

    /// Takes each new one into use, from now on.
    pub(super) fn watch(&self) {
        if let Some(certificate) = &self.api {
            actix_rt::spawn(certificate.clone().watch());
        }
    }

    /// Looks where a configuration says that was read again.
    pub(super) fn look(&self, config: &Config) {
        let tls = config.grpc_api.as_ref().and_then(|it| it.tls.as_ref());
        if let (Some(certificate), Some(options)) = (&self.api, tls) {
            certificate.look(options);
        }
    }
}

/// Ports that are served.
pub(super) struct Ports {
    api: Option<Port>,
}

impl Ports {
    pub(super) fn serve(
        config: &Config,
        bound: BoundPorts,
        parts: &Parts,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let (Some(options), Some(listener)) = (&config.grpc_api, bound.api) else {
            return Ok(Self { api: None });
        };
        let context = || format!("can't listen for the API by gRPC on {}", options.listen);
        let listener = listener.listen().with_context(context)?;
        let service = ApiService::new(parts.clone(), options);
        let tls = acceptor(certificates.api.as_ref())?;
        let port = Port::serve(listener, tls, service).with_context(context)?;
        tracing::info!(address = %port.address(), "the API is served by gRPC");
        Ok(Self { api: Some(port) })
    }

    /// Takes nothing new, and waits for what is under way.
    pub(super) async fn stop(self, deadline: Instant) {
        if let Some(port) = self.api {
            port.stop(deadline).await;
        }
    }
}

fn acceptor(certificate: Option<&Arc<Certificate>>) -> anyhow::Result<Option<TlsAcceptor>> {
    let config = certificate.map(|it| it.config(b"h2")).transpose()?;
    Ok(config.map(|it| TlsAcceptor::from(Arc::new(it))))
}
