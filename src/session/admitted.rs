//! What is known of a client when it is let in, before its session begins.

use crate::{access::connection_counter::ConnectionPermit, backend::headers::Headers};

/// A client that was let in.
pub struct Admitted {
    /// Counts it until it is dropped, where clients are counted.
    pub permit: Option<ConnectionPermit>,
    /// The user that a proxy in front of the node has named.
    pub user: Option<Box<str>>,
    /// Its headers, as far as backends want them.
    pub headers: Option<Headers>,
}
