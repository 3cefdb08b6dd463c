//! What a consumer is told of a message beside its content, in tags, and says again when it settles it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The tag with the message's own name: the same however often it is given, and to whomever.
pub const MESSAGE: &str = "roomcast-message";
/// The tag that says which delivery this is: what is acknowledged.
pub const DELIVERY: &str = "roomcast-delivery";
/// The tag with the number of the delivery: 1 for the first.
pub const ATTEMPT: &str = "roomcast-attempt";
/// The tag of a publication that is not to be given before so many milliseconds have passed.
pub const DELAY: &str = "roomcast-delay";
/// The tag of a publication that is not to be given after so many milliseconds have passed.
pub const TTL: &str = "roomcast-ttl";
/// The tags of a dead letter: where it comes from, why, and how often it was given.
pub const DEAD_ROOM: &str = "roomcast-dead-room";
/// The group that gave it up.
pub const DEAD_GROUP: &str = "roomcast-dead-group";
/// Why it did.
pub const DEAD_REASON: &str = "roomcast-dead-reason";
/// How often it was given.
pub const DEAD_ATTEMPTS: &str = "roomcast-dead-attempts";
/// The message that it was.
pub const DEAD_MESSAGE: &str = "roomcast-dead-message";

/// One delivery of a message: its lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Delivery {
    /// The message.
    pub offset: u64,
    /// The number of the term of the home that has given it.
    pub term: u64,
    /// Its number there.
    pub serial: u64,
}

impl Delivery {
    /// As a consumer is told it.
    pub fn in_group(self, group: &str) -> String {
        format!("{self}.{group}")
    }

    /// A delivery and its group, as a consumer says them; none if it is none.
    pub fn parse(tag: &str) -> Option<(Self, &str)> {
        let mut parts = tag.splitn(4, '.');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let delivery = Self { offset: number()?, term: number()?, serial: number()? };
        parts.next().filter(|group| !group.is_empty()).map(|group| (delivery, group))
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}.{:x}", self.offset, self.term, self.serial)
    }
}

/// A message's own name, given the run of the room's messages that it is of.
pub fn message(origin: u64, offset: u64) -> String {
    format!("{origin:x}-{offset}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_read_as_it_was_told() {
        let delivery = Delivery { offset: 300, term: 7, serial: u64::MAX };
        let tag = delivery.in_group("mail.er");
        assert_eq!(Delivery::parse(&tag), Some((delivery, "mail.er")));
        for none in
            ["", "1.2.3", "1.2.3.", "1.2.x.a", "1..3.a", "-1.2.3.a", "fffffffffffffffff.1.1.a"]
        {
            assert_eq!(Delivery::parse(none), None, "{none}");
        }
    }
}
