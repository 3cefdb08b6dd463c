//! What a namespace says of the groups of its rooms.

use std::time::Duration;

/// The settings of the groups of one namespace, checked. Names and meaning are those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueOptions {
    /// The names that groups may have; `*` among them: any.
    pub groups: Vec<String>,
    /// How messages are divided.
    pub mode: Mode,
    /// How long a consumer has a message before it is given to another.
    pub ack_wait: Duration,
    /// How long a message waits after it was given back for the first time, the second time, and so on; the last one
    /// is for all that follow. Empty: it does not wait.
    pub backoff: Vec<Duration>,
    /// How often a message is given before it is a dead letter; 0: as often as it takes.
    pub max_deliveries: u32,
    /// The room for dead letters; none: they are settled, and counted.
    pub dead_letter: Option<Box<str>>,
    /// The most messages that a consumer may have at a time.
    pub max_prefetch: u32,
    /// The most messages of a group that are leased or parked; more are taken once some are settled.
    pub max_pending: usize,
    /// The most groups of one room.
    pub max_groups: usize,
    /// What becomes of a publication that would push one out of the history that a group has not settled.
    pub when_full: WhenFull,
    /// Where a new group starts.
    pub start: Start,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            mode: Mode::Shared,
            ack_wait: Duration::from_secs(30),
            backoff: Vec::new(),
            max_deliveries: 0,
            dead_letter: None,
            max_prefetch: 1_000,
            max_pending: 100_000,
            max_groups: 100,
            when_full: WhenFull::Refuse,
            start: Start::First,
        }
    }
}

/// How a group's messages are divided among its consumers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// Each to whoever has room for it.
    #[default]
    Shared,
    /// All to one consumer, until it goes.
    Exclusive,
    /// Those with the same value of this tag to one consumer, one after the other.
    KeyShared(Box<str>),
}

/// What becomes of a publication for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Its publisher gets a temporary error.
    #[default]
    Refuse,
    /// The oldest message goes, settled or not.
    DropOldest,
}

/// Where a group starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub enum Start {
    /// With the oldest message that is kept.
    #[default]
    First,
    /// With the next one that is published.
    Last,
    /// Behind this offset.
    After(u64),
    /// With the first one that is not older than this.
    Since(Duration),
}

impl QueueOptions {
    /// Whether there may be a group of this name.
    pub fn allows(&self, group: &str) -> bool {
        !group.is_empty() && self.groups.iter().any(|it| it == "*" || it == group)
    }

    /// How long a message waits that was given so often.
    pub fn wait_after(&self, deliveries: u32) -> Duration {
        let index = (deliveries.max(1) as usize - 1).min(self.backoff.len().saturating_sub(1));
        self.backoff.get(index).copied().unwrap_or_default()
    }

    /// Whether a message that was given so often is given no more.
    pub fn is_too_often(&self, deliveries: u32) -> bool {
        self.max_deliveries > 0 && deliveries >= self.max_deliveries
    }
}
