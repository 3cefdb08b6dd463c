//! SHELL. The HTTP service: ordinary requests go to an actix-web application, WebSocket upgrades leave it.

use std::{net::TcpListener, rc::Rc, sync::Arc, time::Duration};

use actix_codec::Framed;
use actix_http::{ConnectionType, HttpService, Request, h1};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::{
    IntoServiceFactory as _, Service as _, ServiceFactoryExt as _, fn_service, map_config,
};
use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{App, dev::AppConfig, web};
use socket2::SockRef;

use super::{
    api, cors, demo, emulation,
    parts::{Parts, Worker},
    peers::{Closed, Peers, Tls},
    status, streams,
    tls::Certificate,
    upgrade,
};

/// How long a client may take to send the head of its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what a client still sends is taken, and thrown away, after its request was answered before all of it was
/// there: were the connection closed at once, the answer could be lost.
const LINGER: Duration = Duration::from_secs(5);

/// How much longer than `client.write_timeout` a connection may stall before the kernel ends it.
const STALL: Duration = Duration::from_secs(10);

/// The service of a worker's connections, over TCP or TLS. Its type has no name that a function could give.
macro_rules! service {
    ($worker:expr, $connected:expr) => {{
        let worker: Rc<Worker> = $worker;
        let (upgrading, connected) = (worker.clone(), $connected);
        let keep_alive = worker.parts.config.keep_alive;
        let upgrades = fn_service(move |(request, io): (Request, Framed<_, h1::Codec>)| {
            let worker = upgrading.clone();
            async move {
                upgrade::upgrade(&worker, request, io).await;
                Ok::<_, actix_http::Error>(())
            }
        });
        HttpService::build()
            .client_request_timeout(REQUEST_TIMEOUT)
            .keep_alive((!keep_alive.is_zero()).then_some(keep_alive))
            .client_disconnect_timeout(LINGER)
            // A stream is over when its client is gone, not when a write fails.
            .h1_allow_half_closed(false)
            .on_connect_ext(move |io, _| connected(io))
            .upgrade(upgrades)
            .h1(map_config(application(worker).into_factory(), |()| AppConfig::default()))
            .map_err(|_| Closed)
    }};
}

/// Serves on `listener`, which listens already, until the server is stopped, with TLS if there is a certificate.
///
/// # Errors
/// If the listener or the certificate can't be used.
pub fn start(
    listener: TcpListener,
    parts: Parts,
    certificate: Option<Arc<Certificate>>,
) -> anyhow::Result<Server> {
    let server = Server::build()
        .workers(parts.config.workers)
        .max_concurrent_connections(1_000_000)
        .disable_signals()
        .shutdown_timeout(1);
    let write_timeout = parts.config.client.write_timeout.0;
    let stall = (!write_timeout.is_zero()).then_some(write_timeout + STALL);
    let peers = Arc::new(Peers::from(&*parts.config));
    let meet = move |io| {
        let peers = peers.clone();
        async move { peers.meet(io).await }
    };
    let worker = move || Rc::new(Worker::new(parts.clone()));
    let server = match certificate {
        None => server.listen("clients", listener, move || {
            let connected = move |io: &TcpStream| prepare(io, stall);
            fn_service(meet.clone()).and_then(service!(worker(), connected))
        })?,
        Some(certificate) => {
            let tls = certificate.config(b"http/1.1")?;
            server.listen("clients", listener, move || {
                let connected = move |io: &TlsStream<TcpStream>| prepare(io.get_ref().0, stall);
                let tls = Tls::new(tls.clone());
                fn_service(meet.clone()).and_then(tls).and_then(service!(worker(), connected))
            })?
        }
    };
    Ok(server.run())
}

/// Small messages go out at once, and the kernel ends a connection whose client has taken nothing for so long:
/// nothing else does where a dispatcher of requests writes.
fn prepare(io: &TcpStream, stall: Option<Duration>) {
    let socket = SockRef::from(io);
    let prepared = socket.set_tcp_nodelay(true).and_then(|()| socket.set_tcp_user_timeout(stall));
    if let Err(error) = prepared {
        tracing::debug!(%error, "the options of a connection can't be set");
    }
}

fn application(
    worker: Rc<Worker>,
) -> App<
    impl actix_service::ServiceFactory<
        actix_web::dev::ServiceRequest,
        Config = (),
        Response = actix_web::dev::ServiceResponse,
        Error = actix_web::Error,
        InitError = (),
    > + use<>,
> {
    let parts = worker.parts.clone();
    let demo = parts.config.demo;
    let config = parts.config.clone();
    App::new()
        .app_data(web::Data::new(parts))
        .app_data(worker)
        .configure(status::routes)
        .configure(api::routes)
        .configure(move |app| {
            upgrade::routes(app, &config);
            streams::routes(app, &config);
        })
        .configure(emulation::routes)
        .configure(|app| demo::routes(app, demo))
        .default_service(web::to(cors::nothing_here))
        .wrap_fn(|request, service| {
            let connection = request.head().connection_type();
            let response = service.call(request);
            async move {
                let mut response = response.await?;
                // A request that got here is no upgrade, and its connection can't be kept: actix would end it
                // without a word, while a proxy that always passes `Connection: upgrade` sends the next request.
                if connection == ConnectionType::Upgrade {
                    let head = response.response_mut().head_mut();
                    head.set_connection_type(ConnectionType::Close);
                }
                Ok(response)
            }
        })
}
