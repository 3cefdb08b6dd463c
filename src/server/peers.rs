//! SHELL. Who is at the other end of a connection, before anything else is read of it: whoever opened it, or the client
//! for whom a proxy did that says so by the PROXY protocol ([`introduction`]).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
    time::Duration,
};

use actix_rt::net::TcpStream;
use actix_service::{Service, ServiceFactory};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream, reexports::ServerConfig};
use futures_util::future::LocalBoxFuture;
use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;

use super::introduction::{self, Header, LONGEST, Malformed};
use crate::config::Config;

/// How long a proxy may take to send its header.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A connection, and the address of its client, if that is known.
pub type Met<T> = (T, Option<SocketAddr>);

/// Why a connection is closed before it is served. It was logged.
#[derive(Debug)]
pub struct Closed;

/// Which connections begin with a header.
#[derive(Debug, Clone)]
pub struct Peers {
    introduced: bool,
    proxies: Vec<IpNet>,
}

impl From<&Config> for Peers {
    fn from(config: &Config) -> Self {
        Self { introduced: config.proxy_protocol, proxies: config.trusted_proxies.clone() }
    }
}

/// Why a connection that has to begin with a header doesn't.
#[derive(Debug, thiserror::Error)]
enum Unintroduced {
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("no header of the PROXY protocol came within {} s", TIMEOUT.as_secs())]
    Late,
    #[error("it ended within its header of the PROXY protocol")]
    Cut,
    /// Some load balancers look so whether a port is open.
    #[error("it ended before anything came")]
    Empty,
    #[error("it broke: {0}")]
    Io(#[from] io::Error),
}

impl Peers {
    /// Finds out whose connection it is.
    ///
    /// # Errors
    /// If it should begin with a header, and does not.
    pub async fn meet(&self, mut io: TcpStream) -> Result<Met<TcpStream>, Closed> {
        let Some(peer) = io.peer_addr().ok().map(canonical) else {
            // It is gone already.
            return Err(Closed);
        };
        if !self.must_be_introduced(peer.ip()) {
            return Ok((io, Some(peer)));
        }
        let introduced = tokio::time::timeout(TIMEOUT, introduce(&mut io)).await;
        match introduced.unwrap_or(Err(Unintroduced::Late)) {
            Ok(client) => Ok((io, Some(client.map_or(peer, canonical)))),
            Err(why @ (Unintroduced::Empty | Unintroduced::Io(_))) => {
                tracing::debug!(%peer, "a connection was closed: {why}");
                Err(Closed)
            }
            Err(why) => {
                tracing::warn!(
                    %peer,
                    "a connection was closed: {why}; http_server.proxy_protocol asks for one"
                );
                Err(Closed)
            }
        }
    }

    /// The protocol forbids to guess: who has to send a header always sends it, and who has not never does.
    fn must_be_introduced(&self, peer: IpAddr) -> bool {
        let proxies = &self.proxies;
        self.introduced && (proxies.is_empty() || proxies.iter().any(|it| it.contains(&peer)))
    }
}

/// A socket for both families shows IPv4 addresses as IPv6 ones. They are what they are.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Takes the header, and nothing after it: that is for whoever comes next, TLS or HTTP.
async fn introduce(io: &mut TcpStream) -> Result<Option<SocketAddr>, Unintroduced> {
    let mut bytes = Vec::new();
    loop {
        let known = bytes.len();
        // Never the last round: what fills this is too long.
        bytes.resize((known + 256).min(LONGEST), 0);
        // Only looked at, since there may be more than the header.
        let come = io.peek(&mut bytes[known..]).await?;
        bytes.truncate(known + come);
        if come == 0 {
            return Err(if known == 0 { Unintroduced::Empty } else { Unintroduced::Cut });
        }
        match introduction::read(&bytes)? {
            Header::Begun => drop(io.read_exact(&mut bytes[known..]).await?),
            Header::Whole { length, client } => {
                io.read_exact(&mut bytes[known..length]).await?;
                return Ok(client);
            }
        }
    }
}

/// Opens TLS on connections whose peers are known.
pub struct Tls(Acceptor);

impl Tls {
    /// With these settings.
    pub fn new(config: ServerConfig) -> Self {
        Self(Acceptor::new(config))
    }
}

impl ServiceFactory<Met<TcpStream>> for Tls {
    type Response = Met<TlsStream<TcpStream>>;
    type Error = Closed;
    type Config = ();
    type Service = TlsService<<Acceptor as ServiceFactory<TcpStream>>::Service>;
    type InitError = ();
    type Future = LocalBoxFuture<'static, Result<Self::Service, ()>>;

    fn new_service(&self, (): ()) -> Self::Future {
        let accepting = ServiceFactory::<TcpStream>::new_service(&self.0, ());
        Box::pin(async move { accepting.await.map(TlsService) })
    }
}

/// The same on one worker.
pub struct TlsService<S>(S);

impl<S> Service<Met<TcpStream>> for TlsService<S>
where
    S: Service<TcpStream, Response = TlsStream<TcpStream>>,
    S::Future: 'static,
    S::Error: std::fmt::Display,
{
    type Response = Met<TlsStream<TcpStream>>;
    type Error = Closed;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Closed>>;

    /// Not while too many handshakes are under way.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Closed>> {
        self.0.poll_ready(cx).map_err(|_| Closed)
    }

    fn call(&self, (io, peer): Met<TcpStream>) -> Self::Future {
        let opening = self.0.call(io);
        Box::pin(async move {
            let opened = opening.await.map_err(|error| {
                tracing::debug!(?peer, %error, "a connection was closed: no TLS");
                Closed
            });
            Ok((opened?, peer))
        })
    }
}
