//! What changes in a group: what another node needs to go on with it.

use serde::{Deserialize, Serialize};

/// One thing that has changed, or all that there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// All that there is: nothing before it is needed any more.
    State(State),
    /// The group begins, or begins again, behind `floor`.
    Begun {
        /// The run of the room's messages.
        origin: u64,
        /// Everything up to here is settled.
        floor: u64,
    },
    /// The room's messages go on in this epoch.
    Continued(u64),
    /// Messages were given to consumers.
    Leased {
        /// The number of the term of the home that has given them.
        term: u64,
        /// The number of the first lease; the others follow.
        serial: u64,
        /// The consumers; 0: someone who has pulled them.
        holders: Vec<u128>,
        /// The messages.
        given: Vec<Given>,
    },
    /// These are settled.
    Settled(Vec<u64>),
    /// These are to be given later.
    Parked(Vec<Put>),
    /// These leases last longer: from now on for so many milliseconds.
    Extended(Vec<u64>, u64),
    /// There is no such group any more.
    Removed,
}

/// A message that was given to a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Which.
    pub offset: u64,
    /// To which of the consumers.
    pub holder: u32,
    /// What it shares with those that go to the same consumer; 0: nothing.
    pub key: u64,
}

/// A message that is to be given later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// Which.
    pub offset: u64,
    /// After so many milliseconds.
    pub wait: u64,
    /// As in [`Given`].
    pub key: u64,
    /// It goes to the dead letters.
    pub dead: Option<Reason>,
}

/// Why a message is a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It was given too often.
    MaxDeliveries,
    /// A consumer has rejected it.
    Rejected,
}

impl Reason {
    /// As it is told.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxDeliveries => "max_deliveries",
            Self::Rejected => "rejected",
        }
    }
}

/// All of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The run of the room's messages.
    pub origin: u64,
    /// The epoch that the room was in.
    pub epoch: u64,
    /// Everything up to here is settled.
    pub floor: u64,
    /// These ranges as well, each with its first and last.
    pub above: Vec<(u64, u64)>,
    /// The first message that was not taken yet.
    pub next: u64,
    /// What consumers have.
    pub leased: Vec<Leased>,
    /// What is to be given later, and how often it was given.
    pub parked: Vec<(Put, u32)>,
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leased {
    /// The message.
    pub offset: u64,
    /// The consumer; 0: someone who has pulled it.
    pub holder: u128,
    /// The number of the term of the home that has given it.
    pub term: u64,
    /// Its number there.
    pub serial: u64,
    /// How often the message was given.
    pub attempts: u32,
    /// How many milliseconds are left.
    pub left: u64,
    /// As in [`Given`].
    pub key: u64,
}
