//! Events for the application: who connects and disconnects, who comes into rooms and goes,
//! which rooms have anyone, which nodes are gone.
//!
//! In: what sockets, rooms and the view of the cluster say. Out: signed batches of [`event::EventEnvelope`]s, posted
//! to one endpoint, each at least once unless too many wait. What is sent when is decided in [`queue`], how it
//! is signed in [`sign`]: pure. [`sender`] posts it.

pub mod event;
pub mod queue;
pub mod sender;
pub mod sign;
