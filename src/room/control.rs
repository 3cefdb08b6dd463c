//! What the application does to connections of a user, whichever nodes they are on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::types::{ClientId, Since};
use crate::access::grant::Grant;

/// Something that is done to some connections of a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The user; empty: those that have none.
    pub user: String,
    /// Only the connection of this id; empty: all of them.
    pub client: String,
    /// Only the connection of this session; empty: all of them.
    pub session: String,
    /// What is done.
    pub action: Action,
}

impl Control {
    /// This is done to one connection of a user.
    pub fn of_client(user: &str, client: ClientId, action: Action) -> Self {
        let (user, client) = (user.to_owned(), client.to_string());
        Self { user, client, session: String::new(), action }
    }
}

/// What is done to a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Put it into a room.
    Subscribe {
        /// The room.
        room: String,
        /// What comes with it.
        grant: Grant,
        /// Where the client stopped, if it is to get what it missed.
        since: Option<Since>,
    },
    /// Take it out of a room.
    Unsubscribe {
        /// The room.
        room: String,
    },
    /// Close it.
    Disconnect {
        /// The code that it is told.
        code: u16,
        /// The reason that it is told.
        reason: String,
        /// The connections that stay.
        except: Vec<String>,
    },
    /// Change how long it lives.
    Refresh {
        /// It ends now.
        expired: bool,
        /// When it ends, in seconds of Unix time; none: it does not.
        expires_at: Option<i64>,
        /// What others may know of the user from now on; none: as before.
        info: Option<Bytes>,
    },
}
