//! SHELL. Posts events to the application's endpoint.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use tokio::sync::{Notify, watch};

use super::{
    event::{self, EventEnvelope, WebhookEvent},
    queue::{Next, Queue, QueueLimits},
    sign,
};
use crate::{
    cluster::{node::NodeId, view::View},
    metrics::Metrics,
    room::{actor::Application, attendance::AttendanceEvent},
    runtime::{clock, http_client},
};

/// Which events are delivered, where and how.
#[derive(Clone)]
pub struct WebhookOptions {
    /// URL that is posted to.
    pub endpoint: String,
    /// What batches are signed with.
    pub secret: String,
    /// The kinds of events that are delivered.
    pub kinds: Vec<String>,
    /// How long a post may take.
    pub timeout: Duration,
    /// How many events wait, and go together.
    pub limits: QueueLimits,
}

impl std::fmt::Debug for WebhookOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // There is a secret in it.
        f.write_str("WebhookOptions")
    }
}

/// Tells the application what happens; all threads share it.
pub struct Webhooks {
    options: WebhookOptions,
    node: String,
    client: reqwest::Client,
    queue: Mutex<Queue>,
    /// There is something new.
    news: Notify,
    /// Numbers the events.
    last: AtomicU64,
    metrics: Metrics,
}

impl Application for Webhooks {
    fn notify(&self, event: AttendanceEvent) {
        self.enqueue(WebhookEvent::Attendance(event));
    }
}

impl Webhooks {
    /// Starts to deliver on this thread.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn start(
        options: WebhookOptions,
        node: NodeId,
        metrics: Metrics,
    ) -> anyhow::Result<Arc<Self>> {
        let client = http_client::builder()
            .timeout(options.timeout)
            .build()
            .context("can't make an HTTP client for webhooks")?;
        let (queue, news) = (Mutex::new(Queue::new(options.limits)), Notify::new());
        let (node, last) = (node.to_string(), AtomicU64::new(0));
        let webhooks = Arc::new(Self { options, node, client, queue, news, last, metrics });
        actix_rt::spawn(webhooks.clone().run());
        Ok(webhooks)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing here can panic half way, so a poisoned lock holds nothing wrong.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an event, if the application wants events of its kind.
    pub fn enqueue(&self, event: WebhookEvent) {
        if !self.options.kinds.iter().any(|it| it == event.kind()) {
            return;
        }
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let id = format!("{}-{number}", self.node);
        let node = match &event {
            WebhookEvent::NodeGone(gone) => gone.to_string(),
            _ => self.node.clone(),
        };
        let envelope = EventEnvelope { id, time_ms: clock::unix_millis(), node, event };
        let (dropped, waiting) = {
            let mut queue = self.queue();
            (queue.push(envelope, clock::now()), queue.len())
        };
        if dropped {
            self.metrics.webhook_events.with_label_values(&["dropped"]).inc();
        }
        self.metrics.webhook_waiting.set(waiting as i64);
        self.news.notify_one();
    }

    async fn run(self: Arc<Self>) {
        loop {
            let next = self.queue().next(clock::now());
            match next {
                Next::Send(events) => self.send(&events).await,
                Next::Nothing => self.news.notified().await,
                Next::At(at) => {
                    let wait = at.since(clock::now());
                    // Either is a reason to look again.
                    let _ = tokio::time::timeout(wait, self.news.notified()).await;
                }
            }
        }
    }

    async fn send(&self, events: &[EventEnvelope]) {
        let sent = self.post(events).await;
        let mut queue = self.queue();
        let outcome = match sent {
            Ok(()) => {
                queue.delivered();
                self.metrics
                    .webhook_events
                    .with_label_values(&["delivered"])
                    .inc_by(events.len() as u64);
                "delivered"
            }
            Err(error) => {
                queue.failed(clock::now());
                let waiting = queue.len();
                tracing::warn!(%error, waiting, "events could not be delivered; they are sent again");
                "failed"
            }
        };
        self.metrics.webhook_waiting.set(queue.len() as i64);
        self.metrics.webhook_posts.with_label_values(&[outcome]).inc();
    }

    async fn post(&self, events: &[EventEnvelope]) -> anyhow::Result<()> {
        let body = event::body(events)?;
        let signature = sign::signature(&self.options.secret, clock::unix_seconds(), &body);
        let request = self.client.post(&self.options.endpoint);
        let request = request.header("Content-Type", "application/json");
        let response = request.header(sign::HEADER, signature).body(body).send().await?;
        let status = response.status();
        anyhow::ensure!(status.is_success(), "HTTP status {}", status.as_u16());
        Ok(())
    }

    /// Tells of nodes that are gone, as long as the cluster has a view. The first two of those that are left
    /// do: one of them may be about to go too.
    pub async fn watch(self: Arc<Self>, me: NodeId, mut view: watch::Receiver<View>) {
        let nodes = |view: &View| view.nodes().keys().copied().collect::<BTreeSet<NodeId>>();
        let mut known = nodes(&view.borrow_and_update());
        while view.changed().await.is_ok() {
            let now = nodes(&view.borrow_and_update());
            if now.iter().take(2).any(|it| *it == me) {
                known.difference(&now).for_each(|gone| self.enqueue(WebhookEvent::NodeGone(*gone)));
            }
            known = now;
        }
    }

    /// Waits until all events are delivered, or until the deadline.
    pub async fn finish(&self, deadline: tokio::time::Instant) {
        self.queue().hurry();
        self.news.notify_one();
        let delivered = async {
            while !self.queue().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout_at(deadline, delivered).await.is_err() {
            tracing::warn!(
                events = self.queue().len(),
                "not all events could be delivered in time"
            );
        }
    }
}
