//! Every number that a client may be told: error codes, disconnect codes, unsubscribe codes.
//!
//! They are part of the public protocol: SDKs decide by them whether to retry, resubscribe or give up.

use std::sync::Arc;

use super::message;

/// Why a command failed. The connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ErrorCode {
    /// The server could not do it now; the same command may work later.
    Internal,
    /// The connection has no valid credentials.
    Unauthorized,
    /// The room's namespace is not configured.
    UnknownChannel,
    /// The client may not do this in this room.
    PermissionDenied,
    /// No such method.
    MethodNotFound,
    /// The client is subscribed to the room already.
    AlreadySubscribed,
    /// A configured limit was reached.
    LimitExceeded,
    /// The command makes no sense as sent.
    BadRequest,
    /// The feature is off for this room or this server.
    NotAvailable,
    /// The token has expired: get a new one.
    TokenExpired,
    /// The connection or subscription has expired.
    Expired,
    /// Too many commands at once; try again later.
    TooManyRequests,
    /// The history no longer reaches back to the position asked for.
    UnrecoverablePosition,
}

impl ErrorCode {
    /// Code, message, and whether a client should simply try again.
    pub const fn parts(self) -> (u32, &'static str, bool) {
        match self {
            Self::Internal => (100, "internal server error", true),
            Self::Unauthorized => (101, "unauthorized", false),
            Self::UnknownChannel => (102, "unknown channel", false),
            Self::PermissionDenied => (103, "permission denied", false),
            Self::MethodNotFound => (104, "method not found", false),
            Self::AlreadySubscribed => (105, "already subscribed", false),
            Self::LimitExceeded => (106, "limit exceeded", false),
            Self::BadRequest => (107, "bad request", false),
            Self::NotAvailable => (108, "not available", false),
            Self::TokenExpired => (109, "token expired", false),
            Self::Expired => (110, "expired", false),
            Self::TooManyRequests => (111, "too many requests", true),
            Self::UnrecoverablePosition => (112, "unrecoverable position", false),
        }
    }
}

impl From<ErrorCode> for message::Error {
    fn from(code: ErrorCode) -> Self {
        let (code, text, temporary) = code.parts();
        Self { code, message: text.to_owned(), temporary }
    }
}

/// Why the server closes a connection; sent as the WebSocket close code.
///
/// Clients reconnect unless the code is in 3500–3999.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Disconnect {
    /// The transport is gone already, or is to go without a close frame.
    ConnectionClosed,
    /// This node is stopping.
    Shutdown,
    /// Something broke on the server's side.
    InternalServerError,
    /// The connection's token expired and was not refreshed in time.
    ConnectionExpired,
    /// The client reads too slowly: its outbox is full.
    Slow,
    /// A write to the socket failed.
    WriteError,
    /// The node lost track of the stream; the client has to recover.
    InsufficientState,
    /// No pong came back in time.
    NoPong,
    /// The client sends more than it may.
    TooManyRequests,
    /// The token is not valid and will not become so.
    InvalidToken,
    /// The client broke the protocol.
    BadRequest,
    /// The connection was never authenticated.
    Stale,
    /// An operator closed it.
    ForceNoReconnect,
    /// Something the client asked for is not available on this server.
    NotAvailable,
    /// The WebSocket protocol itself was violated (1002).
    WebSocketProtocol,
    /// A text message was not UTF-8 (1007).
    WebSocketInvalidPayload,
    /// A message was larger than allowed (1009).
    MessageTooBig,
    /// The client said goodbye (1000 echoes a normal close).
    Normal,
    /// The subscription that the server had put the client into has expired.
    SubscriptionExpired,
    /// The server wants the client to connect anew.
    ForceReconnect,
    /// The user has as many connections as it may.
    ConnectionLimit,
    /// The server would put the client into more rooms than it may be in.
    ChannelLimit,
    /// The client may not connect.
    PermissionDenied,
    /// Whatever the application says: code and reason.
    Custom(u16, Arc<str>),
}

impl Disconnect {
    /// What the application says. By its code a connection can be dropped without a word, too: then SDKs take it for
    /// a network that failed, and come back.
    pub fn custom(code: u16, reason: &str) -> Self {
        if code == Self::ConnectionClosed.parts().0 {
            return Self::ConnectionClosed;
        }
        Self::Custom(code, reason.into())
    }

    /// What an error of this code comes to where there are no error replies.
    pub const fn for_error(code: u32) -> Self {
        match code {
            103 => Self::PermissionDenied,
            109 | 110 => Self::ConnectionExpired,
            111 => Self::TooManyRequests,
            _ => Self::InternalServerError,
        }
    }

    /// Close code and reason as they go on the wire.
    pub fn parts(&self) -> (u16, &str) {
        match self {
            Self::Normal => (1000, ""),
            Self::WebSocketProtocol => (1002, "protocol error"),
            Self::WebSocketInvalidPayload => (1007, "invalid UTF-8"),
            Self::MessageTooBig => (1009, "message too big"),
            Self::ConnectionClosed => (3000, "connection closed"),
            Self::Shutdown => (3001, "shutdown"),
            Self::InternalServerError => (3004, "internal server error"),
            Self::ConnectionExpired => (3005, "connection expired"),
            Self::Slow => (3008, "slow"),
            Self::WriteError => (3009, "write error"),
            Self::InsufficientState => (3010, "insufficient state"),
            Self::NoPong => (3012, "no pong"),
            Self::TooManyRequests => (3013, "too many requests"),
            Self::InvalidToken => (3500, "invalid token"),
            Self::BadRequest => (3501, "bad request"),
            Self::Stale => (3502, "stale"),
            Self::ForceNoReconnect => (3503, "force disconnect"),
            Self::NotAvailable => (3508, "not available"),
            Self::SubscriptionExpired => (3006, "subscription expired"),
            Self::ForceReconnect => (3011, "force reconnect"),
            Self::ConnectionLimit => (3504, "connection limit"),
            Self::ChannelLimit => (3505, "channel limit"),
            Self::PermissionDenied => (3507, "permission denied"),
            Self::Custom(code, reason) => (*code, reason),
        }
    }
}

/// Why the server ends a subscription. From 2500 on, clients subscribe again by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unsubscribed {
    /// The server took the client out of the room.
    Server,
    /// The node can no longer vouch that the client has seen everything.
    InsufficientState,
    /// The subscription's token expired and was not refreshed in time.
    Expired,
}

impl Unsubscribed {
    /// Code and reason as they go on the wire.
    pub const fn parts(self) -> (u32, &'static str) {
        match self {
            Self::Server => (2000, "server unsubscribe"),
            Self::InsufficientState => (2500, "insufficient state"),
            Self::Expired => (2501, "expired"),
        }
    }
}
