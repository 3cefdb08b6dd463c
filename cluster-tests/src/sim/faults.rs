//! The kinds of histories, and what each of them has to keep.

/// What may go wrong in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Faults {
    /// Nothing: messages are slow, no more.
    Delays,
    /// All nodes start at once, and are published through as soon as each is ready.
    Starts,
    /// Links break, shortly.
    Links,
    /// Links break, and nodes join while rooms are busy.
    Joins,
    /// Nodes drain one after the other, leave, and come back; some join meanwhile.
    Drains,
    /// A node joins and one drains, with very many rooms, large histories and narrow links.
    ManyRooms,
    /// Nodes crash and restart under their names, one after the other.
    Deaths,
    /// Rooms are on disk: nodes crash and restart, one after the other or all at once, with what their disks have;
    /// disks are slow, full for a while, or lost.
    Disks,
    /// Nodes stand still for a while, as if stopped, and go on as if nothing had happened.
    Standstills,
    /// The cluster is cut in two or in part, once; there is no quorum, so either side goes on.
    Cuts,
    /// With a quorum: cuts of every shape, standstills, and crashes of as many nodes as a quorum bears.
    Quorum,
    /// All of it at once, and nodes are cut off from all others, or from one, for long.
    Everything,
}

impl Faults {
    /// Every kind, the harshest last.
    pub const ALL: [Self; 12] = [
        Self::Delays,
        Self::Starts,
        Self::Links,
        Self::Joins,
        Self::Drains,
        Self::ManyRooms,
        Self::Deaths,
        Self::Disks,
        Self::Standstills,
        Self::Cuts,
        Self::Quorum,
        Self::Everything,
    ];

    /// Whether an acknowledged message must be in its room's history at the end: the home or one of its
    /// successors has always lived, or a majority remembers.
    pub fn keep_what_is_acked(self) -> bool {
        !matches!(self, Self::Cuts | Self::Everything)
    }

    /// Whether no client may be told of a gap: no home has died with what it alone had. The same kinds keep
    /// every room's epoch, and each message where it was acknowledged.
    pub fn leave_no_gap(self) -> bool {
        self.is_clean() || self == Self::Quorum
    }

    /// Whether nothing happens but what an operator does every day: all of a room goes from home to home.
    pub fn is_clean(self) -> bool {
        self.tells_once() || self == Self::Joins
    }

    /// Whether the application is told of each join and leave once, and of nothing else.
    pub fn tells_once(self) -> bool {
        matches!(self, Self::Delays | Self::Starts | Self::Links | Self::Drains | Self::ManyRooms)
    }
}
