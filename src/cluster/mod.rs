//! Who is here, and who is home to what.
//!
//! In: gossip, from which [`dedup`] leaves out what a node knows already. Out: a [`view::View`] of the routable
//! nodes ([`names`] sees to it that no two bear one name), and from it the [`placement::Placement`] of rooms;
//! [`slots`] is who owns which. [`mesh_version`]: which versions of what is said on links a node speaks.
//! Pure except [`membership`] (the actor around chitchat), [`gossip`] (its sealed transport), [`seeds`] (the
//! nodes to begin with) and [`sight`] (how a node waits for others).

pub mod datagram;
pub mod dedup;
pub mod gossip;
pub mod membership;
pub mod mesh_version;
pub mod names;
pub mod node;
pub mod placement;
pub mod secret;
pub mod seeds;
pub mod sight;
pub mod slot_set;
pub mod slots;
pub mod view;
