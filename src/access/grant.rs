//! What a client is given, whoever gives it: a token, a backend, or the configuration.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::queue::rights::Rights;

/// Who a connection belongs to, and what comes with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user; empty: anonymous.
    pub user: Box<str>,
    /// What others may know of the user; empty if nothing.
    pub info: Bytes,
    /// When the connection ends unless it is refreshed, in seconds of Unix time.
    pub expires_at: Option<i64>,
    /// What backends are told of the connection and clients are not; empty if nothing.
    pub meta: Bytes,
    /// What the application says to the client.
    pub data: Bytes,
    /// The rooms that the server puts the client into.
    pub rooms: Vec<(String, Grant)>,
}

/// What comes with a subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// When it ends unless it is refreshed, in seconds of Unix time.
    pub expires_at: Option<i64>,
    /// What others may know of the client in this room; empty if nothing.
    pub info: Bytes,
    /// What the application says to the client.
    pub data: Bytes,
    /// Where it differs from the options of the room.
    pub overrides: Overrides,
    /// What the client may do with the groups of the room; none: what the options of the room say. No client consumes that
    /// did not ask for it, so nodes don't tell each other.
    #[serde(skip)]
    pub queue: Option<Rights>,
}

/// Where a subscription differs from its room's options.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Whether the client can recover.
    pub force_recovery: Option<Flag>,
    /// Whether its position is watched.
    pub force_positioning: Option<Flag>,
    /// Whether it gets joins and leaves.
    pub force_push_join_leave: Option<Flag>,
    /// Whether it is among those who are in the room.
    pub presence: Option<Flag>,
    /// Whether its coming and going is announced.
    pub join_leave: Option<Flag>,
}

/// A yes or no that is given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flag {
    /// Which of both.
    #[serde(default)]
    pub value: bool,
}

/// The flag's value, or what goes without it.
pub fn or(flag: Option<Flag>, otherwise: bool) -> bool {
    flag.map_or(otherwise, |it| it.value)
}
