//! The settings of all sessions of a node, and what a session may look at as it takes an input.

use std::{sync::Arc, time::Duration};

use crate::{
    access::verifier::Verifier,
    backend::options::{BackendId, Proxies},
    room::options::Namespaces,
    runtime::time::Time,
    shared_poll::options::SharedPollOptions,
};

/// The settings of all sessions of a node.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    /// Admit everyone and permit everything.
    pub insecure: bool,
    /// Let clients in that have no token.
    pub allow_anonymous: bool,
    /// Let no one in whose token names no user.
    pub refuse_anonymous_tokens: bool,
    /// Checks connection tokens.
    pub tokens: Arc<Verifier>,
    /// Checks subscription tokens.
    pub subscription_tokens: Arc<Verifier>,
    /// Rooms that the server puts every client into.
    pub subscribe_to: Vec<String>,
    /// The namespace of the rooms of their own that the server puts users into, if it does.
    pub personal_rooms: Option<String>,
    /// A newer connection of the same user in that room replaces the older ones.
    pub single_connection: bool,
    /// How long an expired connection may take to refresh.
    pub expired_close_delay: Duration,
    /// How long an expired subscription may.
    pub expired_sub_close_delay: Duration,
    /// The namespaces of rooms.
    pub namespaces: Arc<Namespaces>,
    /// What the application's backends are asked.
    pub proxies: Proxies,
    /// Rooms whose keys are polled.
    pub shared_polls: SharedPollOptions,
    /// Time between the server's pings.
    pub ping_interval: Duration,
    /// Time in which a pong must come.
    pub pong_timeout: Duration,
    /// Time in which a connection must be authenticated.
    pub stale_close_delay: Duration,
    /// The most rooms that a client may be in.
    pub channel_limit: usize,
    /// The longest room name, in bytes.
    pub channel_max_length: usize,
    /// The most publications that one history call returns.
    pub history_limit: usize,
    /// The most commands of one client that wait for answers; the rest wait to be read.
    pub in_flight_limit: usize,
    /// Id of this node.
    pub node: String,
}

/// What every call of [`Session::handle`](super::state::Session::handle) may look at.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The node's settings.
    pub settings: &'a SessionSettings,
    /// The moment of the input.
    pub now: Time,
    /// Unix time in seconds: tokens follow the wall clock.
    pub wall: i64,
    /// Whether so much waits for the client that it can't have seen the latest of it.
    pub congested: bool,
    /// Bytes that may still be added to what waits for the client.
    pub space: usize,
}

impl Env<'_> {
    /// The most bytes of publications that one reply may bring.
    pub(super) fn reply_limit(&self) -> usize {
        self.space - self.space / 8
    }

    /// When a moment of Unix time, and what may pass after it, will be over.
    pub(super) fn over_at(&self, at: i64, grace: Duration) -> Time {
        let left = u64::try_from(at.saturating_sub(self.wall)).unwrap_or(0);
        self.now + Duration::from_secs(left).saturating_add(grace)
    }

    /// Whether that is now.
    pub(super) fn is_over(&self, at: i64, grace: Duration) -> bool {
        self.wall >= at.saturating_add(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX))
    }

    /// What may pass after the end of a connection. A backend that decides about it is asked at once.
    pub(super) fn connection_grace(&self) -> Duration {
        match self.settings.proxies.refresh {
            Some(_) => Duration::ZERO,
            None => self.settings.expired_close_delay,
        }
    }

    /// Who decides whether a subscription to this room goes on, if that is not the client's business.
    pub(super) fn sub_refresh_backend(&self, room: &str) -> Option<BackendId> {
        self.settings.proxies.rooms.of(room).sub_refresh
    }

    /// What may pass after its end.
    pub(super) fn subscription_grace(&self, room: &str) -> Duration {
        match self.sub_refresh_backend(room) {
            Some(_) => Duration::ZERO,
            None => self.settings.expired_sub_close_delay,
        }
    }

    /// The time until then in the protocol's form: whether it expires, and in how many seconds.
    pub(super) fn time_to_live(&self, ends_at: Option<i64>) -> (bool, u32) {
        let left = |at: i64| u32::try_from(at.saturating_sub(self.wall).max(0)).unwrap_or(u32::MAX);
        (ends_at.is_some(), ends_at.map(left).unwrap_or_default())
    }
}
