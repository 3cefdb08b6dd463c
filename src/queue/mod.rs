//! Queues: groups of consumers that share a room's messages, each message once, until someone says that it is done.
//!
//! In: who consumes, what they say of what they were given, the passing of time, and what the room has. Out: which
//! message goes to whom, and the [`change::Change`]s that another node needs to go on with the group. Nothing here
//! knows of rooms, nodes or sockets: see [`crate::room::group`] for how a group lives in them.
//!
//! # Words
//!
//! - **Group**: a cursor of its own in a room's messages ([`group`]): which are settled, which are leased, and which are to
//!   be given again. Several groups of one room know nothing of each other.
//! - **Consumer**: a connection that takes messages of a group. Its **prefetch** is the most that it has at a time.
//! - **Lease**: a message is one consumer's until it settles it, gives it back, or lets its time pass.
//! - **Settled**: done for the group: acknowledged, rejected, or gone.
//! - **Parked**: to be given later: it was given back, or its time has not come yet.
//! - **Dead letter**: what nobody could deal with, and goes to another room.
//!
//! # Invariants
//!
//! - *Every message at or before the room's top is settled, leased, parked, or yet to be taken:* one of these, never two.
//! - *Only the lease that a message has now settles it.* What an earlier holder says is stale, and changes nothing.
//! - *A lease is told by a number that no other lease has had,* on whichever node: the term of the room's home, and
//!   its count.

pub mod call;
pub mod change;
pub mod group;
pub mod name;
pub mod options;
pub mod rights;
pub mod settled;
pub mod since;
pub mod tag;
