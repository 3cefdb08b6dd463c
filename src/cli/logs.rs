//! SHELL. Where a node's log goes: to standard error, for as long as anyone takes it. That nobody does, or that the
//! disk is full, must not end the node.

use std::{
    collections::HashMap,
    io::{self, IsTerminal as _, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use roomcast::{config::raw::Log, runtime::limiter::Limiter};
use tracing::{Event, Metadata, Subscriber, callsite::Identifier};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    layer::{Context, SubscriberExt as _},
    reload,
    util::SubscriberInitExt as _,
};

/// Where lines come from that strangers can cause, as many as they like.
const LIMITED: [&str; 3] =
    ["roomcast::server::admission", "roomcast::server::peers", "roomcast::mesh::dialer"];
/// How many of one kind are logged in each [`PERIOD`].
const MOST: u64 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// The log of this process.
pub struct Logs {
    level: reload::Handle<EnvFilter, Registry>,
    limit: Limit,
}

impl Logs {
    /// From now on all that is logged goes where it belongs.
    ///
    /// # Errors
    /// If the level can't be used, or there is a log already.
    pub fn start(options: &Log) -> anyhow::Result<Self> {
        let (filter, level) = reload::Layer::new(EnvFilter::try_new(&options.level)?);
        let limit = Limit::default();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(|| Lenient(io::stderr()))
            .with_ansi(shows_colours())
            .log_internal_errors(false);
        let lines = if options.format.eq_ignore_ascii_case("json") {
            lines.json().flatten_event(true).boxed()
        } else {
            lines.boxed()
        };
        Registry::default().with(filter).with(limit.clone()).with(lines).try_init()?;
        Ok(Self { level, limit })
    }

    /// Logs as much as this from now on.
    ///
    /// # Errors
    /// If the level can't be used.
    pub fn change_level(&self, level: &str) -> anyhow::Result<()> {
        Ok(self.level.reload(EnvFilter::try_new(level)?)?)
    }

    /// Says, every now and then, how much was not logged.
    pub async fn report(limit: Limit) {
        loop {
            tokio::time::sleep(PERIOD).await;
            for (place, lines) in limit.take_missed() {
                tracing::info!(
                    lines,
                    from = place,
                    "more like the last ones from there were not logged"
                );
            }
        }
    }

    /// What keeps strangers from filling the log.
    pub fn limit(&self) -> Limit {
        self.limit.clone()
    }
}

fn shows_colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|it| !it.is_empty());
    io::stderr().is_terminal() && !refused
}

/// Takes everything, also what can't be written: there is nowhere to say so.
struct Lenient<W>(W);

impl<W: Write> Write for Lenient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
        Ok(())
    }
}

/// Lets a few lines of each kind through where strangers can cause them.
#[derive(Clone)]
pub struct Limit {
    kinds: Arc<Mutex<Kinds>>,
}

struct Kinds {
    limiter: Limiter<Identifier>,
    places: HashMap<Identifier, &'static str>,
}

impl Default for Limit {
    fn default() -> Self {
        let kinds = Kinds { limiter: Limiter::new(MOST), places: HashMap::new() };
        Self { kinds: Arc::new(Mutex::new(kinds)) }
    }
}

impl Limit {
    fn admits(&self, line: &'static Metadata<'static>) -> bool {
        if !LIMITED.contains(&line.target()) {
            return true;
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.places.insert(line.callsite(), line.target());
        kinds.limiter.admit(line.callsite())
    }

    fn take_missed(&self) -> Vec<(&'static str, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = kinds.limiter.take_missed();
        let place = |kind| kinds.places.get(&kind).copied().unwrap_or_default();
        missed.into_iter().map(|(kind, lines)| (place(kind), lines)).collect()
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }
    }

    #[test]
    fn what_can_not_be_written_is_taken() {
        let mut log = Lenient(Full);
        assert!(log.write_all(b"line").and_then(|()| log.flush()).is_ok());
    }
}
