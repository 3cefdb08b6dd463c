//! Which rooms' keys are polled, and how: the checked configuration.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::signature::SigningKeys;
use crate::{backend::options::BackendId, room::options::namespace};

/// How it is told that a key's data is new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// By its content: the backend knows no versions, so they are made here.
    #[default]
    Versionless,
    /// By the version that the backend gives it.
    Versioned,
}

/// How the keys of one namespace's rooms are polled. Names and meaning are those of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PollOptions {
    /// Who is asked.
    pub backend: BackendId,
    /// How it is told what is new.
    pub mode: Mode,
    /// How often each key is asked for.
    pub refresh_interval: Duration,
    /// The most keys of one request.
    pub refresh_batch_size: usize,
    /// The most keys that a client may track in a room.
    pub max_keys_per_connection: usize,
    /// The most keys of a room that this node's clients may track together.
    pub max_keys_per_channel: usize,
    /// How long a room that nobody is in any more is remembered.
    pub shutdown_delay: Duration,
    /// How long a key stays tracked after its signature has expired.
    pub expired_delay: Duration,
}

/// Which rooms' keys are polled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolledNamespaces {
    /// Rooms without a namespace in their name.
    pub default: Option<Arc<PollOptions>>,
    /// By namespace.
    pub named: BTreeMap<Box<str>, Arc<PollOptions>>,
}

impl PolledNamespaces {
    /// How this room's keys are polled, if they are.
    pub fn of(&self, room: &str) -> Option<&Arc<PollOptions>> {
        match namespace(room) {
            None => self.default.as_ref(),
            Some(namespace) => self.named.get(namespace),
        }
    }

    /// Whether no room's are.
    pub fn is_empty(&self) -> bool {
        self.default.is_none() && self.named.is_empty()
    }
}

/// All that is configured of shared polls.
#[derive(Debug, Clone, Default)]
pub struct SharedPollOptions {
    /// Which rooms' keys are polled.
    pub namespaces: Arc<PolledNamespaces>,
    /// What signs the keys that clients may track.
    pub keys: SigningKeys,
    /// The most requests under way.
    pub concurrency: usize,
}
