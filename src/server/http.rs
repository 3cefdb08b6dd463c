//! SHELL. The HTTP service: ordinary requests go to an actix-web application, WebSocket upgrades leave it.

use std::{
    net::TcpListener,
    rc::Rc,
    sync::{Arc, atomic::AtomicU16},
    time::Duration,
};

use actix_codec::Framed;
use actix_http::{HttpService, Request, h1};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::{IntoServiceFactory as _, fn_service, map_config};
use actix_web::{App, dev::AppConfig, web};

use super::{
    api, demo,
    parts::{Parts, Worker},
    status, upgrade,
};

/// How long a client may take to send the head of its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves on `listener` until the server is stopped.
///
/// # Errors
/// If the listener can't be used.
pub fn start(listener: TcpListener, parts: Parts) -> std::io::Result<Server> {
    let next_worker = Arc::new(AtomicU16::new(0));
    let server = Server::build()
        .workers(parts.config.workers)
        .backlog(4096)
        .max_concurrent_connections(1_000_000)
        .disable_signals()
        .shutdown_timeout(1)
        .listen("clients", listener, move || {
            let worker = Rc::new(Worker::new(parts.clone(), next_worker.clone()));
            let upgrades =
                fn_service(move |(request, io): (Request, Framed<TcpStream, h1::Codec>)| {
                    let worker = worker.clone();
                    async move {
                        upgrade::upgrade(&worker, request, io).await;
                        Ok::<_, actix_http::Error>(())
                    }
                });
            HttpService::build()
                .client_request_timeout(REQUEST_TIMEOUT)
                .upgrade(upgrades)
                .h1(map_config(application(&parts).into_factory(), |()| AppConfig::default()))
                .tcp()
        })?;
    Ok(server.run())
}

fn application(
    parts: &Parts,
) -> App<
    impl actix_service::ServiceFactory<
        actix_web::dev::ServiceRequest,
        Config = (),
        Response = actix_web::dev::ServiceResponse,
        Error = actix_web::Error,
        InitError = (),
    > + use<>,
> {
    let demo = parts.config.demo;
    App::new()
        .app_data(web::Data::new(parts.clone()))
        .configure(status::routes)
        .configure(api::routes)
        .configure(|app| demo::routes(app, demo))
}
