//! SHELL. Asks backends over HTTP, and keeps the streams of those that have some.
//!
//! No backend holds up anything that does not need it: calls under way are bounded for each, those that wait
//! for their turn too, and one that does not answer is given up for a while.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self as streams, StreamExt as _};
use hyper::body::Body as _;
use reqwest::{
    RequestBuilder, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::{
    Semaphore,
    mpsc::{self, error::TrySendError},
};

use super::{
    breaker::Breaker,
    messages,
    options::{Backend, Protocol},
    poll::{self, PollAnswer, PollRequest},
    request::{BackendRequest, OperationKind, TransportInfo},
    response::{self, BackendResponse, InvalidResponse},
    stream::{self, FromStream, Reader, Said, StreamPublication, ToStream},
};
use crate::{
    metrics::Metrics,
    protocol::{codec::Format, grpc::framing},
    runtime::{clock, http_client},
};

/// The largest answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// The largest that brings the data of many keys.
const POLL_LIMIT: usize = 16 << 20;
/// So many calls for each that may be under way may wait.
const WAITING: usize = 16;
/// How often a connection for gRPC is looked after, and how long its backend may take to say that it is there.
const PING: Duration = Duration::from_secs(20);
const PONG: Duration = Duration::from_secs(5);
/// How long a connection is kept for the next call: shorter than servers keep theirs, so that they don't
/// close it in the moment of a call.
const KEEP: Duration = Duration::from_secs(4);
/// The most publications of a client that wait for the backend that has a stream for it.
const PUBLICATIONS: usize = 256;
/// The least time between two lines of log about one backend.
const QUIET: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it is not asked, since it has not answered lately")]
    GivenUp,
    #[error("too much waits for it")]
    Busy,
    #[error("it has not answered in time")]
    Timeout,
    #[error("its answer has more than {0} bytes")]
    TooLarge(usize),
    #[error("{0:#}")]
    Http(#[from] anyhow::Error),
    #[error("its answer can't be used: {0}")]
    InvalidResponse(#[from] InvalidResponse),
}

impl Failed {
    const fn name(&self) -> &'static str {
        match self {
            Self::GivenUp => "given_up",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::TooLarge(_) => "too_large",
            Self::Http(_) => "connection",
            Self::InvalidResponse(_) => "unusable",
        }
    }
}

/// One backend.
struct BackendClient {
    backend: Backend,
    static_headers: HeaderMap,
    places: Semaphore,
    waiting: AtomicUsize,
    state: Mutex<ClientState>,
}

#[derive(Default)]
struct ClientState {
    breaker: Breaker,
    /// When a failure was logged last, and how many were not since then.
    logged: Option<(Instant, u64)>,
}

/// All backends of a node; worker threads share them.
pub struct BackendClients {
    http: reqwest::Client,
    grpc: reqwest::Client,
    clients: Vec<BackendClient>,
    metrics: Metrics,
}

/// Counts a call that waits for as long as it is there, also if it ends with its client.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize, most: usize) -> Result<Self, Failed> {
        let waiting = Self(count);
        match count.fetch_add(1, Ordering::Relaxed) < most {
            true => Ok(waiting),
            false => Err(Failed::Busy),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl BackendClients {
    /// Makes what asks these backends. Their places in the list are their ids.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn new(backends: Vec<Backend>, metrics: Metrics) -> anyhow::Result<Arc<Self>> {
        let http = http_client::builder()
            .pool_idle_timeout(KEEP)
            .build()
            .context("can't make an HTTP client for backends")?;
        let grpc = http_client::builder()
            .http2_prior_knowledge()
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PONG)
            .build()
            .context("can't make a client of gRPC for backends")?;
        let clients =
            backends.into_iter().map(BackendClient::new).collect::<anyhow::Result<_>>()?;
        Ok(Arc::new(Self { http, grpc, clients, metrics }))
    }

    /// Asks. None if there is no answer; why is logged.
    pub async fn ask(
        &self,
        request: BackendRequest,
        transport: TransportInfo,
    ) -> Option<BackendResponse> {
        let client = self.clients.get(usize::from(request.to.0))?;
        let kind = request.operation.kind();
        let asked = match client.backend.protocol {
            Protocol::Http => client.ask(&self.http, &request, transport).await,
            Protocol::Grpc => client.ask_by_grpc(&self.grpc, &request, transport).await,
        };
        self.noted(client, kind, asked)
    }

    /// Asks about keys. None if there is no answer; why is logged.
    pub async fn poll(&self, request: &PollRequest) -> Option<PollAnswer> {
        let client = self.clients.get(usize::from(request.to.0))?;
        let asked = client.poll(&self.http, request).await;
        self.noted(client, OperationKind::SharedPollRefresh, asked)
    }

    /// Opens a stream for a subscriber, and passes on what comes of it until either side ends it. `opened` is told what the
    /// backend has decided, as by [`Self::ask`]; `tell` what follows, once the session has said [`ToStream::Go`].
    pub async fn stream(
        &self,
        request: BackendRequest,
        transport: TransportInfo,
        both_ways: bool,
        mut orders: mpsc::UnboundedReceiver<ToStream>,
        opened: impl FnOnce(Option<BackendResponse>),
        tell: impl Fn(FromStream),
    ) {
        let Some(client) = self.clients.get(usize::from(request.to.0)) else { return opened(None) };
        let kind = OperationKind::SubscribeStream;
        let (publications, published) = mpsc::channel(PUBLICATIONS);
        let opening =
            client.open_stream(&self.grpc, &request, transport, both_ways.then_some(published));
        let begun = tokio::select! {
            begun = opening => begun,
            // The client has gone, or does not want it any more.
            _ = orders.recv() => return opened(None),
        };
        let (response, stream) = match begun {
            Ok((response, stream)) => (self.noted(client, kind, Ok(response)), Some(stream)),
            Err(error) => (self.noted(client, kind, Err(error)), None),
        };
        opened(response);
        let (Some(mut stream), Some(ToStream::Go)) = (stream, orders.recv().await) else { return };
        loop {
            let next = tokio::select! {
                next = stream.next() => next,
                order = orders.recv() => match order {
                    Some(ToStream::Publish(data)) => {
                        match publications.try_send(stream::publication(data)) {
                            Err(TrySendError::Full(_)) => Err(Failed::Busy),
                            // If it is over, the next that comes says so.
                            Ok(()) | Err(TrySendError::Closed(_)) => continue,
                        }
                    }
                    Some(ToStream::Go) => continue,
                    Some(ToStream::End) | None => return,
                },
            };
            match next {
                Ok(Some(it)) if transport.format == Format::Json && !is_json(&it.data) => {
                    client.complain(kind, &Failed::InvalidResponse(InvalidResponse::NoJson));
                    return tell(FromStream::Broken);
                }
                Ok(Some(publication)) => tell(FromStream::Publication(publication)),
                Ok(None) => return tell(FromStream::Ended),
                Err(error) => {
                    client.complain(kind, &error);
                    return tell(FromStream::Broken);
                }
            }
        }
    }

    /// Counts what has become of a call, and says why there is no answer.
    fn noted<T>(
        &self,
        client: &BackendClient,
        kind: OperationKind,
        asked: Result<T, Failed>,
    ) -> Option<T> {
        let outcome = asked.as_ref().map_or_else(Failed::name, |_| "answered");
        let name = client.backend.name.as_str();
        self.metrics.backend_calls.with_label_values(&[name, kind.name(), outcome]).inc();
        asked.map_err(|error| client.complain(kind, &error)).ok()
    }
}

impl BackendClient {
    fn new(backend: Backend) -> anyhow::Result<Self> {
        let mut static_headers = HeaderMap::new();
        for (name, value) in &backend.static_headers {
            static_headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        let places = Semaphore::new(backend.concurrency);
        let (waiting, state) = (AtomicUsize::new(0), Mutex::default());
        Ok(Self { backend, static_headers, places, waiting, state })
    }

    fn state(&self) -> MutexGuard<'_, ClientState> {
        // Nothing here can panic half way, so a poisoned lock holds nothing wrong.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask(
        &self,
        http: &reqwest::Client,
        request: &BackendRequest,
        transport: TransportInfo,
    ) -> Result<BackendResponse, Failed> {
        let body = request.body(&self.backend, transport).map_err(anyhow::Error::from)?;
        let headers = with_content_type(self.headers(request));
        let post = http.post(&self.backend.endpoint).headers(headers).body(body);
        let Answered { status, body, .. } = self.exchange(post, ANSWER_LIMIT).await?;
        let kind = request.operation.kind();
        Ok(response::read(kind, &self.backend, status.as_u16(), &body)?)
    }

    async fn ask_by_grpc(
        &self,
        http: &reqwest::Client,
        request: &BackendRequest,
        transport: TransportInfo,
    ) -> Result<BackendResponse, Failed> {
        let kind = request.operation.kind();
        // A little more than there is: an answer that says that it is over would count as one.
        let timeout = self.backend.timeout.as_millis() + 100;
        let call = http
            .post(format!("{}{}", self.backend.endpoint, messages::path(kind)))
            .headers(self.headers(request))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("grpc-timeout", format!("{timeout}m"))
            .body(messages::body(request, &self.backend, transport));
        let Answered { status, end, body } = self.exchange(call, ANSWER_LIMIT).await?;
        if status != StatusCode::OK {
            return Err(InvalidResponse::Status(status.as_u16()).into());
        }
        check_status(&end)?;
        let message = framing::only_message(body).map_err(InvalidResponse::from)?;
        Ok(messages::read(kind, message)?)
    }

    /// Calls, and waits for the first message. What is `published` follows the request.
    async fn open_stream(
        &self,
        http: &reqwest::Client,
        request: &BackendRequest,
        transport: TransportInfo,
        published: Option<mpsc::Receiver<Bytes>>,
    ) -> Result<(BackendResponse, OpenStream), Failed> {
        let path = messages::stream_path(published.is_some());
        let first = messages::stream_body(request, &self.backend, transport, published.is_some());
        let body = match published {
            None => reqwest::Body::from(first),
            Some(published) => {
                let rest = streams::unfold(published, |mut published| async {
                    published.recv().await.map(|it| (it, published))
                });
                let all = streams::once(async { first }).chain(rest);
                reqwest::Body::wrap_stream(all.map(Ok::<_, Infallible>))
            }
        };
        let post = http
            .post(format!("{}{path}", self.backend.endpoint))
            .headers(self.headers(request))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .body(body);
        let open = async {
            let response = post.send().await.map_err(anyhow::Error::from)?;
            if response.status() != StatusCode::OK {
                return Err(InvalidResponse::Status(response.status().as_u16()).into());
            }
            let end = response.headers().clone();
            let body = Box::pin(reqwest::Body::from(response));
            let mut stream = OpenStream { body, end, reader: Reader::default() };
            match stream.next_said().await? {
                Some(Said::Response(response)) => Ok((*response, stream)),
                Some(Said::Publication(_)) | None => Err(InvalidResponse::Empty.into()),
            }
        };
        self.in_time(open).await
    }

    async fn poll(
        &self,
        http: &reqwest::Client,
        request: &PollRequest,
    ) -> Result<PollAnswer, Failed> {
        if self.backend.protocol == Protocol::Grpc {
            // Keys are asked for by HTTP only.
            return Err(InvalidResponse::Empty.into());
        }
        let body = request.body().map_err(anyhow::Error::from)?;
        let headers = with_content_type(self.static_headers.clone());
        let post = http.post(&self.backend.endpoint).headers(headers).body(body);
        let Answered { status, body, .. } = self.exchange(post, POLL_LIMIT).await?;
        Ok(poll::read(status.as_u16(), &body)?)
    }

    /// Posts once there is a place for it. An answer may have so many bytes.
    async fn exchange(&self, post: RequestBuilder, limit: usize) -> Result<Answered, Failed> {
        self.in_time(Self::call(post, limit)).await
    }

    /// Calls once there is a place for it, unless that takes too long.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
        let timeout = self.backend.timeout;
        let deadline = tokio::time::Instant::now() + timeout;
        let waiting = Waiting::new(&self.waiting, self.backend.concurrency * WAITING)?;
        let place = tokio::time::timeout_at(deadline, self.places.acquire()).await;
        drop(waiting);
        // They are never closed.
        let Ok(Ok(_place)) = place else { return Err(Failed::Busy) };
        if !self.state().breaker.admits(clock::now(), timeout) {
            return Err(Failed::GivenUp);
        }
        match tokio::time::timeout_at(deadline, call).await {
            Ok(called) => {
                self.state().breaker.answered();
                called
            }
            Err(_) => {
                if self.state().breaker.unanswered(clock::now()) {
                    tracing::error!(backend = self.backend.name, "given up until it answers again");
                }
                Err(Failed::Timeout)
            }
        }
    }

    async fn call(post: RequestBuilder, limit: usize) -> Result<Answered, Failed> {
        let response = post.send().await.map_err(anyhow::Error::from)?;
        let (status, mut end) = (response.status(), response.headers().clone());
        let mut whole = BytesMut::new();
        if status == StatusCode::OK {
            let mut body = std::pin::pin!(reqwest::Body::from(response));
            while let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                match frame.map_err(anyhow::Error::from)?.into_data() {
                    Ok(chunk) if whole.len() + chunk.len() > limit => {
                        return Err(Failed::TooLarge(limit));
                    }
                    Ok(chunk) => whole.extend_from_slice(&chunk),
                    Err(frame) => end = frame.into_trailers().unwrap_or(end),
                }
            }
        }
        Ok(Answered { status, end, body: whole.freeze() })
    }

    /// Those of the configuration, and over them those of the client that are wanted.
    fn headers(&self, request: &BackendRequest) -> HeaderMap {
        let (wanted, said) = (&self.backend.http_headers, &self.backend.emulated_headers);
        let mut client = HeaderMap::new();
        let of_client = request.headers.iter().flat_map(|it| it.of(wanted, said));
        for (name, value) in of_client {
            if let (Ok(name), Ok(value)) =
                (HeaderName::try_from(name), HeaderValue::from_bytes(value))
            {
                client.append(name, value);
            }
        }
        let mut headers = self.static_headers.clone();
        for name in client.keys() {
            headers.remove(name);
        }
        headers.extend(client);
        headers
    }

    /// One line a second is enough to know.
    fn complain(&self, kind: OperationKind, error: &Failed) {
        let mut state = self.state();
        let (now, missed) = (Instant::now(), state.logged.map_or(0, |(_, missed)| missed));
        if state.logged.is_some_and(|(at, _)| now.duration_since(at) < QUIET) {
            state.logged = state.logged.map(|(at, missed)| (at, missed + 1));
            return;
        }
        state.logged = Some((now, 0));
        drop(state);
        let (backend, kind) = (self.backend.name.as_str(), kind.name());
        tracing::warn!(backend, kind, %error, missed, "a backend could not be asked");
    }
}

/// An answer as it came; of a status other than 200 without its body.
struct Answered {
    status: StatusCode,
    /// What came after the body, or else before it.
    end: HeaderMap,
    body: Bytes,
}

/// A stream that a backend has opened.
struct OpenStream {
    body: Pin<Box<reqwest::Body>>,
    /// What came before the body, until something comes after it.
    end: HeaderMap,
    reader: Reader,
}

impl OpenStream {
    /// What is said next; none: it is over.
    async fn next_said(&mut self) -> Result<Option<Said>, Failed> {
        loop {
            if let Some(said) = self.reader.next()? {
                return Ok(Some(said));
            }
            let body = &mut self.body;
            let Some(frame) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await else {
                self.reader.is_whole().map_err(InvalidResponse::from)?;
                check_status(&self.end)?;
                return Ok(None);
            };
            match frame.map_err(anyhow::Error::from)?.into_data() {
                Ok(chunk) => self.reader.push(&chunk),
                Err(frame) => self.end = frame.into_trailers().unwrap_or_default(),
            }
        }
    }

    /// The next publication; none: it is over.
    async fn next(&mut self) -> Result<Option<StreamPublication>, Failed> {
        loop {
            match self.next_said().await? {
                Some(Said::Publication(it)) => return Ok(Some(it)),
                Some(Said::Response(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

fn is_json(data: &[u8]) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(data).is_ok()
}

/// Whether a call by gRPC came to its end.
fn check_status(end: &HeaderMap) -> Result<(), InvalidResponse> {
    let of = |name: &str| end.get(name).map(|it| String::from_utf8_lossy(it.as_bytes()));
    match of("grpc-status").as_deref() {
        Some("0") => Ok(()),
        Some(code) => {
            let message = of("grpc-message").unwrap_or_default();
            Err(InvalidResponse::Grpc(code.to_owned(), message.into_owned()))
        }
        None => Err(InvalidResponse::Grpc("unknown".to_owned(), "there is none".to_owned())),
    }
}

fn with_content_type(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}
