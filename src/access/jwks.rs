//! SHELL. Fetches the public keys that an issuer publishes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use tokio::sync::Mutex;

use super::keys::{KeySet, PublishedKeys};

/// How often they are fetched without need.
const AGAIN: Duration = Duration::from_secs(3600);
/// How long to wait before they are fetched after it has failed, and the least time between two fetches:
/// clients name the keys, and must not make us ask at will.
const PAUSE: Duration = Duration::from_secs(5);
/// How long it may take.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The largest set of keys.
const LIMIT: usize = 1 << 20;

/// The keys published at one URL.
pub struct Fetcher {
    url: String,
    keys: PublishedKeys,
    client: reqwest::Client,
    /// When they were fetched last, and whether that went well. Held while they are.
    last: Mutex<Option<(Instant, bool)>>,
}

impl Fetcher {
    /// Fetches what is at `url`, and goes on doing so.
    ///
    /// # Errors
    /// If no HTTP client can be made.
    pub fn start(url: &str, keys: PublishedKeys) -> anyhow::Result<Arc<Self>> {
        let fetcher = Arc::new(Self::new(url, keys)?);
        let keeper = fetcher.clone();
        actix_rt::spawn(async move {
            loop {
                let pause = if keeper.refresh().await { AGAIN } else { PAUSE };
                tokio::time::sleep(pause).await;
            }
        });
        Ok(fetcher)
    }

    /// Fetches what is at `url` once, and puts it into `keys`.
    ///
    /// # Errors
    /// If that can't be done.
    pub async fn once(url: &str, keys: PublishedKeys) -> anyhow::Result<()> {
        Self::new(url, keys)?.fetch().await.map(drop)
    }

    fn new(url: &str, keys: PublishedKeys) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(TIMEOUT)
            // A redirect could lead somewhere that the issuer does not mean.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .context("can't make an HTTP client for the keys of tokens")?;
        Ok(Self { url: url.to_owned(), keys, client, last: Mutex::new(None) })
    }

    /// Fetches the keys unless that was done just now. Returns whether they are those of now.
    pub async fn refresh(&self) -> bool {
        let mut last = self.last.lock().await;
        if let Some((at, went_well)) = *last
            && at.elapsed() < PAUSE
        {
            return went_well;
        }
        let fetched = self.fetch().await;
        match &fetched {
            Ok(count) => tracing::debug!(url = self.url, count, "fetched the keys of tokens"),
            Err(error) => {
                tracing::warn!(url = self.url, %error, "can't fetch the keys of tokens; those of before stay");
            }
        }
        *last = Some((Instant::now(), fetched.is_ok()));
        fetched.is_ok()
    }

    async fn fetch(&self) -> anyhow::Result<usize> {
        let response = self.client.get(&self.url).send().await?.error_for_status()?;
        let mut chunks = response.bytes_stream();
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            body.extend_from_slice(&chunk?);
            anyhow::ensure!(body.len() <= LIMIT, "more than {LIMIT} bytes");
        }
        let set: KeySet = serde_json::from_slice(&body).context("not a JSON web key set")?;
        let count = self.keys.replace(&set);
        anyhow::ensure!(count > 0, "there is no key among them that tokens can be checked with");
        Ok(count)
    }
}

/// The fetchers of both kinds of tokens.
#[derive(Clone, Default)]
pub struct Fetchers {
    /// Of connection tokens.
    pub connection: Option<Arc<Fetcher>>,
    /// Of subscription tokens.
    pub subscription: Option<Arc<Fetcher>>,
}
