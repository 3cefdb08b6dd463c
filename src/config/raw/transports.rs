//! The ways that clients connect.

use serde::{Deserialize, Serialize};

use super::Tls;

section! {
    /// The WebSocket transport.
    WebSocket {
        /// The largest message from a client, in bytes; more is closed with 1009.
        message_size_limit: usize = 65536,
        /// Compress messages for clients that offer it (permessage-deflate; browsers do). Nothing is kept for a connection,
        /// and what many get is compressed once for each worker.
        compression: bool = false,
        /// Messages to clients of fewer bytes leave as they are.
        compression_min_size: u16 = 256,
        /// From 1 (fast) to 9 (small).
        compression_level: u8 = 1,
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
    /// Streams of gRPC for clients that only listen, on a port of their own.
    UniGrpc {
        /// Serve them.
        enabled: bool = false,
        /// IP address to listen on. Empty: all, of IPv6 and IPv4.
        address: String = String::new(),
        /// Port to listen on; 0: any free one.
        port: u16 = 11000,
        /// The largest request that opens a stream, in bytes; a larger one is answered with RESOURCE_EXHAUSTED. 0: 64 KiB.
        max_receive_message_size: usize = 65536,
        /// TLS on that port.
        tls: Tls = Tls::default(),
    }
}

section! {
    /// WebSockets for clients that only listen.
    OneWaySocket {
        /// Serve them.
        enabled: bool = false,
    }
}
