//! What a client may do with the groups of a room.

/// Three rights, each for itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rights {
    /// To be given messages.
    pub consume: bool,
    /// To say what became of the messages that it was given.
    pub ack: bool,
    /// To have its group go on elsewhere, whatever was settled.
    pub seek: bool,
}

impl Rights {
    /// Every one.
    pub const ALL: Self = Self { consume: true, ack: true, seek: true };

    /// Those of a list, as tokens and backends give them: `["consume", "ack"]`. What else is in it is about something
    /// else, or for another server.
    pub fn listed(names: &[String]) -> Self {
        let has = |right| names.iter().any(|it| it == right);
        Self { consume: has("consume"), ack: has("ack"), seek: has("seek") }
    }
}
