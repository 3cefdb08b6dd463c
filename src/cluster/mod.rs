//! Who is here, and who is home to what.
//!
//! In: gossip, from which [`dedup`] leaves out what a node knows already. Out: a [`view::View`] of the routable
//! nodes, and from it the [`placement::Placement`] of rooms. Pure but for [`membership`] (the actor around
//! chitchat) and [`gossip`] (its sealed transport).

pub mod datagram;
pub mod dedup;
pub mod gossip;
pub mod membership;
pub mod node;
pub mod placement;
pub mod secret;
pub mod slot_set;
pub mod slots;
pub mod view;
