//! SHELL. The ports for gRPC: bound with the others, served, and stopped.

use std::{rc::Rc, sync::Arc};

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::{
    config::{Config, raw},
    server::{
        grpc::{
            api::ApiService,
            connections::{Port, Serve, Serving},
            consume::ConsumeService,
        },
        listener::Listener,
        parts::{Parts, Worker},
        tls::Certificate,
    },
};

/// Ports that are bound, as far as they are to be served.
pub(super) struct BoundPorts {
    api: Option<Listener>,
    streams: Option<Listener>,
}

impl BoundPorts {
    pub(super) fn bind(config: &Config) -> anyhow::Result<Self> {
        let bind = |what: &str, listen| {
            Listener::bind(listen).with_context(|| format!("can't listen for {what} on {listen}"))
        };
        let api = config.grpc_api.as_ref().map(|it| bind("the API by gRPC", it.listen));
        let streams = config.uni_grpc.as_ref().map(|it| bind("clients by gRPC", it.listen));
        Ok(Self { api: api.transpose()?, streams: streams.transpose()? })
    }
}

/// The certificates that are shown there.
#[derive(Clone)]
pub(super) struct Certificates {
    api: Option<Arc<Certificate>>,
    streams: Option<Arc<Certificate>>,
}

impl Certificates {
    pub(super) fn read(config: &Config) -> anyhow::Result<Self> {
        let (api, streams) = options(config);
        let api = api.map(|it| Certificate::read("grpc_api.tls", it)).transpose()?;
        let streams = streams.map(|it| Certificate::read("uni_grpc.tls", it)).transpose()?;
        Ok(Self { api, streams })
    }

    /// Takes each new one into use, from now on.
    pub(super) fn watch(&self) {
        for certificate in [&self.api, &self.streams].into_iter().flatten() {
            actix_rt::spawn(certificate.clone().watch());
        }
    }

    /// Looks where a configuration says that was read again.
    pub(super) fn look(&self, config: &Config) {
        let (api, streams) = options(config);
        for (certificate, options) in [(&self.api, api), (&self.streams, streams)] {
            if let (Some(certificate), Some(options)) = (certificate, options) {
                certificate.look(options);
            }
        }
    }
}

/// Where the certificates are, of both ports.
fn options(config: &Config) -> (Option<&raw::Tls>, Option<&raw::Tls>) {
    let api = config.grpc_api.as_ref().and_then(|it| it.tls.as_ref());
    (api, config.uni_grpc.as_ref().and_then(|it| it.tls.as_ref()))
}

/// How many callers of the API may be connected.
const CALLERS: usize = 1_024;
/// How many clients may be connected on a thread; `client.connection_limit` may be lower.
const CLIENTS: usize = 1_000_000;

/// Ports that are served.
pub(super) struct Ports(Vec<Port>);

impl Ports {
    pub(super) fn serve(
        config: &Config,
        bound: BoundPorts,
        parts: &Parts,
        certificates: &Certificates,
    ) -> anyhow::Result<Self> {
        let mut ports = Vec::new();
        if let (Some(options), Some(listener)) = (&config.grpc_api, bound.api) {
            let tls = acceptor(certificates.api.as_ref())?;
            let serving = Serving { threads: 1, connections: CALLERS, tls };
            let service = ApiService::new(parts.clone(), options);
            let port = serve(listener, &serving, move || service)?;
            tracing::info!(address = %port.address(), "the API is served by gRPC");
            ports.push(port);
        }
        if let (Some(options), Some(listener)) = (&config.uni_grpc, bound.streams) {
            let tls = acceptor(certificates.streams.as_ref())?;
            let serving = Serving { threads: options.workers, connections: CLIENTS, tls };
            let (parts, size) = (parts.clone(), options.message_size_limit);
            let service = move || ConsumeService::new(Rc::new(Worker::new(parts)), size);
            let port = serve(listener, &serving, service)?;
            tracing::info!(address = %port.address(), "clients that only listen are served by gRPC");
            ports.push(port);
        }
        Ok(Self(ports))
    }

    /// Takes nothing new, and waits for what is under way.
    pub(super) async fn stop(self, deadline: Instant) {
        join_all(self.0.into_iter().map(|port| port.stop(deadline))).await;
    }
}

fn serve<S: Serve>(
    listener: Listener,
    serving: &Serving,
    service: impl FnOnce() -> S + Clone + Send + 'static,
) -> anyhow::Result<Port> {
    let listener = listener.listen().context("can't listen for gRPC")?;
    Port::serve(listener, serving, service).context("can't serve gRPC")
}

fn acceptor(certificate: Option<&Arc<Certificate>>) -> anyhow::Result<Option<TlsAcceptor>> {
    let config = certificate.map(|it| it.config(b"h2")).transpose()?;
    Ok(config.map(|it| TlsAcceptor::from(Arc::new(it))))
}
