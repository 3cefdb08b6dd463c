//! The ways that clients connect.

use serde::{Deserialize, Serialize};

section! {
    /// The WebSocket transport.
    WebSocket {
        /// The largest message from a client, in bytes; more is closed with 1009.
        message_size_limit: usize = 65536,
    }
}

section! {
    /// A transport with a streamed response.
    Streamed {
        /// Serve it.
        enabled: bool = true,
        /// The largest body of a request that opens a stream, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// What clients with a streamed response send.
    Emulation {
        /// The largest body of such a request, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// A transport with a streamed response for clients that only listen.
    OneWay {
        /// Serve it.
        enabled: bool = false,
        /// The largest body of a request that opens a stream, in bytes; more is answered with 413.
        max_request_body_size: usize = 65536,
    }
}

section! {
    /// WebSockets for clients that only listen.
    OneWaySocket {
        /// Serve them.
        enabled: bool = false,
    }
}
