//! SHELL. Asks backends over HTTP.
//!
//! No backend holds up anything that does not need it: calls under way are bounded for each, those that wait
//! for their turn too, and one that does not answer is given up for a while.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use reqwest::{
    RequestBuilder, StatusCode,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::sync::Semaphore;

use super::{
    breaker::Breaker,
    options::Backend,
    poll::{self, PollAnswer, PollRequest},
    request::{BackendRequest, OperationKind, TransportInfo},
    response::{self, BackendResponse, InvalidResponse},
};
use crate::{
    metrics::Metrics,
    runtime::{clock, http_client},
};

/// The largest answer, in bytes.
const ANSWER_LIMIT: usize = 1 << 20;
/// The largest that brings the data of many keys.
const POLL_LIMIT: usize = 16 << 20;
/// So many calls for each that may be under way may wait.
const WAITING: usize = 16;
/// How long a connection is kept for the next call: shorter than servers keep theirs, so that they don't
/// close it in the moment of a call.
const KEEP: Duration = Duration::from_secs(4);
/// The least time between two lines of log about one backend.
const QUIET: Duration = Duration::from_secs(1);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("it is not asked, since it has not answered lately")]
    GivenUp,
    #[error("too many calls wait for it")]
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
        let clients =
            backends.into_iter().map(BackendClient::new).collect::<anyhow::Result<_>>()?;
        Ok(Arc::new(Self { http, clients, metrics }))
    }

    /// Asks. None if there is no answer; why is logged.
    pub async fn ask(
        &self,
        request: BackendRequest,
        transport: TransportInfo,
    ) -> Option<BackendResponse> {
        let client = self.clients.get(usize::from(request.to.0))?;
        let kind = request.operation.kind();
        let asked = client.ask(&self.http, &request, transport).await;
        self.noted(client, kind, asked)
    }

    /// Asks about keys. None if there is no answer; why is logged.
    pub async fn poll(&self, request: &PollRequest) -> Option<PollAnswer> {
        let client = self.clients.get(usize::from(request.to.0))?;
        let asked = client.poll(&self.http, request).await;
        self.noted(client, OperationKind::SharedPollRefresh, asked)
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
        let post = http.post(&self.backend.endpoint).headers(self.headers(request)).body(body);
        let (status, body) = self.exchange(post, ANSWER_LIMIT).await?;
        let kind = request.operation.kind();
        Ok(response::read(kind, &self.backend, status.as_u16(), &body)?)
    }

    async fn poll(
        &self,
        http: &reqwest::Client,
        request: &PollRequest,
    ) -> Result<PollAnswer, Failed> {
        let body = request.body().map_err(anyhow::Error::from)?;
        let headers = with_content_type(self.static_headers.clone());
        let post = http.post(&self.backend.endpoint).headers(headers).body(body);
        let (status, body) = self.exchange(post, POLL_LIMIT).await?;
        Ok(poll::read(status.as_u16(), &body)?)
    }

    /// Posts once there is a place for it. An answer may have so many bytes.
    async fn exchange(
        &self,
        post: RequestBuilder,
        limit: usize,
    ) -> Result<(StatusCode, Vec<u8>), Failed> {
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
        match tokio::time::timeout_at(deadline, Self::call(post, limit)).await {
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

    async fn call(post: RequestBuilder, limit: usize) -> Result<(StatusCode, Vec<u8>), Failed> {
        let response = post.send().await.map_err(anyhow::Error::from)?;
        let status = response.status();
        let (mut chunks, mut body) = (response.bytes_stream(), Vec::new());
        // Of an answer that is of no use anyway, nothing is read.
        while status == StatusCode::OK
            && let Some(chunk) = chunks.next().await
        {
            body.extend_from_slice(&chunk.map_err(anyhow::Error::from)?);
            if body.len() > limit {
                return Err(Failed::TooLarge(limit));
            }
        }
        Ok((status, body))
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
        with_content_type(headers)
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

fn with_content_type(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers
}
