//! Links between nodes.
//!
//! [`wire`] is what they say to each other and how it is written (in which version: [`crate::cluster::mesh_version`]),
//! [`noise`] how a link is sealed when the cluster has a secret, and [`life`] when one is dead: all pure. The
//! shell: [`link`] is the actor of one link, over one TCP connection, and [`dialer`] keeps a link to every node of the view.

pub mod dialer;
pub mod life;
pub mod link;
pub mod noise;
pub mod wire;

#[cfg(test)]
mod recorded_tests;
