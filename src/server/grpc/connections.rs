//! SHELL. The connections of a port for gRPC: HTTP/2, with TLS if there is a certificate; bounded in number, and in what
//! each may send ahead.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use actix_rt::Arbiter;
use bytes::Bytes;
use hyper::{
    body::{Body, Frame, Incoming, SizeHint},
    rt::Executor,
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, oneshot, watch},
    task::JoinSet,
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;
use tonic::codegen::http;

/// How many requests of one connection may be under way.
const STREAMS: u32 = 256;
/// How many bytes of requests a connection may send ahead of what is read of them, in all and of one.
const WINDOW: u32 = 256 << 10;
const STREAM_WINDOW: u32 = 64 << 10;
/// How many bytes of answers are kept ready for one request.
const SEND_BUFFER: usize = 64 << 10;
/// The most metadata of a request, in bytes.
const METADATA: u32 = 16 << 10;
/// How long a client may take for TLS, and then for the first bytes of HTTP/2.
const GREETING: Duration = Duration::from_secs(5);
/// What every connection of HTTP/2 begins with has so many bytes.
const PREFACE: usize = 24;
/// How often an idle connection is looked after, and how long its client may take to answer.
const PING: Duration = Duration::from_secs(25);
const PONG: Duration = Duration::from_secs(10);
/// How long a client without requests under way may take to hear that the node leaves.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be taken: mostly, there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// What answers the requests of a port, on one of its threads.
pub trait Serve: Clone + 'static {
    /// The bodies of its answers.
    type Body: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static;

    /// Answers a request of this client.
    fn serve(
        self,
        request: http::Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = http::Response<Self::Body>>;
}

/// Any error.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How a port is served.
#[derive(Clone)]
pub struct Serving {
    /// On how many threads.
    pub threads: usize,
    /// How many connections there may be on each. More are closed at once.
    pub connections: usize,
    /// TLS, if it is on.
    pub tls: Option<TlsAcceptor>,
}

/// A port that is served, on threads of its own.
pub struct Port {
    address: SocketAddr,
    stopping: watch::Sender<bool>,
    /// One for each thread.
    stopped: Vec<oneshot::Receiver<()>>,
}

impl Port {
    /// Serves what `listener` listens on already.
    ///
    /// # Errors
    /// If the system does not say where that is.
    pub fn serve<S: Serve>(
        listener: std::net::TcpListener,
        serving: &Serving,
        service: impl FnOnce() -> S + Clone + Send + 'static,
    ) -> io::Result<Self> {
        let (address, (stopping, stops)) = (listener.local_addr()?, watch::channel(false));
        let mut stopped = Vec::new();
        for _ in 0..serving.threads {
            let (listener, serving) = (listener.try_clone()?, serving.clone());
            let (service, stops) = (service.clone(), stops.clone());
            let (done, ended) = oneshot::channel();
            stopped.push(ended);
            Arbiter::new().spawn_fn(move || {
                actix_rt::spawn(async move {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => accept(listener, &serving, service(), stops).await,
                        Err(error) => tracing::error!(%error, "a port for gRPC can't be served"),
                    }
                    // Nobody need wait for it.
                    let _ = done.send(());
                });
            });
        }
        Ok(Self { address, stopping, stopped })
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes nothing new, and waits for what is under way.
    pub async fn stop(self, deadline: Instant) {
        self.stopping.send_replace(true);
        let stopped = futures_util::future::join_all(self.stopped);
        if tokio::time::timeout_at(deadline, stopped).await.is_err() {
            tracing::warn!("not all calls by gRPC were done in time");
        }
    }
}

async fn accept(
    listener: TcpListener,
    serving: &Serving,
    service: impl Serve,
    mut stops: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(serving.connections));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stopped(&mut stops) => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((io, peer)) => {
                    let Ok(place) = room.clone().try_acquire_owned() else {
                        tracing::warn!(%peer, "a connection for gRPC was closed: there are {}", serving.connections);
                        continue;
                    };
                    let (tls, service) = (serving.tls.clone(), service.clone());
                    let stops = stops.clone();
                    connections.spawn_local(async move {
                        connection(io, peer, tls, service, stops).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for gRPC can't be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    io: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: impl Serve,
    stops: watch::Receiver<bool>,
) {
    if let Err(error) = io.set_nodelay(true) {
        tracing::debug!(%peer, %error, "the options of a connection can't be set");
    }
    let Some(tls) = tls else { return requests(io, peer, service, stops).await };
    match tokio::time::timeout(GREETING, tls.accept(io)).await {
        Ok(Ok(io)) => requests(io, peer, service, stops).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a connection was closed: no TLS"),
        Err(_) => tracing::debug!(%peer, "a connection was closed: TLS took too long"),
    }
}

async fn requests<T: AsyncRead + AsyncWrite + Unpin + 'static>(
    io: T,
    peer: SocketAddr,
    service: impl Serve,
    mut stops: watch::Receiver<bool>,
) {
    let held = Arc::new(());
    let under_way = Arc::downgrade(&held);
    let answer = service_fn(move |request| {
        let (answer, held) = (service.clone().serve(request, peer), held.clone());
        async move { Ok::<_, Infallible>(answer.await.map(|body| Held { body, _held: held })) }
    });
    let served = http2::Builder::new(OnThread)
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_connection_window_size(WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_header_list_size(METADATA)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(Greeted::new(io)), answer);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped(&mut stops) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            loop {
                match tokio::time::timeout(FAREWELL, served.as_mut()).await {
                    Ok(ended) => break ended,
                    // The client does not say that it has heard of the end, and asks for nothing.
                    Err(_) if under_way.strong_count() <= 1 => break Ok(()),
                    Err(_) => {}
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection for gRPC broke");
    }
}

/// What a connection has to do beside itself stays on its thread.
#[derive(Clone, Copy)]
struct OnThread;

impl<F: Future<Output: 'static> + 'static> Executor<F> for OnThread {
    fn execute(&self, task: F) {
        tokio::task::spawn_local(task);
    }
}

async fn stopped(stops: &mut watch::Receiver<bool>) {
    // Whoever could say so is gone with the node.
    let _ = stops.wait_for(|stops| *stops).await;
}

/// The body of an answer, which shows as long as it is there that a request is under way.
struct Held<B> {
    body: B,
    _held: Arc<()>,
}

impl<B: Body + Unpin> Body for Held<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection that breaks if what it begins with does not come in time. Nothing else looks after it before that.
struct Greeted<T> {
    io: T,
    /// How many bytes are still to come, and until when.
    awaited: Option<(usize, Pin<Box<Sleep>>)>,
}

impl<T> Greeted<T> {
    fn new(io: T) -> Self {
        Self { io, awaited: Some((PREFACE, Box::pin(tokio::time::sleep(GREETING)))) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Greeted<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = to.filled().len();
        let read = Pin::new(&mut this.io).poll_read(cx, to);
        if let Some((left, until)) = &mut this.awaited {
            if read.is_pending() {
                ready!(until.as_mut().poll(cx));
                let why = "what HTTP/2 begins with did not come in time";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            *left = left.saturating_sub(to.filled().len() - before);
            if *left == 0 {
                this.awaited = None;
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Greeted<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
