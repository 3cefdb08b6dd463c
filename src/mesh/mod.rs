//! Links between nodes.
//!
//! [`wire`] is what they say to each other and how it is written, and [`noise`] how a link is sealed when the
//! cluster has a secret: both pure. The shell: [`link`] is the actor of one link, over one TCP connection,
//! and [`dialer`] keeps a link to every node of the view.

pub mod dialer;
pub mod link;
pub mod noise;
pub mod wire;
