//! The name of a session: what a client proves by when it sends commands by requests of their own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::room::types::ClientId;

/// A random UUID that only the client learns: anyone who knows it can act as that client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SessionId(u128);

impl SessionId {
    /// The name made of these random bytes.
    pub fn new(random: [u8; 16]) -> Self {
        // Only the bits that are written, so that it equals what is read.
        let text = ClientId(u128::from_be_bytes(random)).to_string();
        text.parse().unwrap_or(Self(0))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ClientId(self.0), f)
    }
}

/// It does not get into logs by accident.
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId")
    }
}

/// Not the name of any session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a session")]
pub struct NoSession;

impl FromStr for SessionId {
    type Err = NoSession;

    fn from_str(text: &str) -> Result<Self, NoSession> {
        let groups = text.split('-').map(str::len);
        if !groups.eq([8, 4, 4, 4, 12]) || text.contains('+') {
            return Err(NoSession);
        }
        u128::from_str_radix(&text.replace('-', ""), 16).map(Self).map_err(|_| NoSession)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_as_it_was_written() {
        for random in [[0; 16], [0xff; 16], [0x5a; 16]] {
            let id = SessionId::new(random);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        let junk = ["", "x", "00000000-0000-0000-0000-00000000000", &"-".repeat(4)];
        assert!(junk.iter().all(|it| it.parse::<SessionId>() == Err(NoSession)));
        assert_ne!(SessionId::new([1; 16]), SessionId::new([2; 16]));
    }
}
