//! What the server sends unasked: events of rooms and of the connection.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;

use super::{Sub, json, reply::subs_as_map};

/// Something happened in a room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Push {
    /// Room name.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub channel: String,
    /// What happened.
    #[prost(oneof = "PushBody", tags = "4, 5, 6, 7, 8, 9, 10, 11, 12")]
    #[serde(flatten)]
    pub event: Option<PushBody>,
}

/// What happened in a room.
#[derive(Clone, PartialEq, prost::Oneof, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PushBody {
    /// A message.
    #[prost(message, tag = "4")]
    Pub(Publication),
    /// Someone came.
    #[prost(message, tag = "5")]
    Join(JoinLeavePush),
    /// Someone went.
    #[prost(message, tag = "6")]
    Leave(JoinLeavePush),
    /// The server ended the subscription.
    #[prost(message, tag = "7")]
    Unsubscribe(UnsubscribePush),
    /// A message of the application to the client alone.
    #[prost(message, tag = "8")]
    Message(MessagePush),
    /// The server put the client into the room.
    #[prost(message, tag = "9")]
    Subscribe(SubscribePush),
    /// The session is open; told on transports that go one way.
    #[prost(message, tag = "10")]
    Connect(ConnectPush),
    /// The session is over; told on transports that have no close frame.
    #[prost(message, tag = "11")]
    Disconnect(DisconnectPush),
    /// The connection has a new time to live.
    #[prost(message, tag = "12")]
    Refresh(Refresh),
}

/// A message of the application to the client alone.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct MessagePush {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "json::raw_to_json")]
    pub data: Bytes,
}

/// The server put the client into the room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SubscribePush {
    /// Whether the client can recover what it missed.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub epoch: String,
    /// Where the live stream goes on.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub offset: u64,
    /// Whether the server checks the client's position.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub positioned: bool,
    /// What the application says with it.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub data: Bytes,
}

/// The session is open; told on transports that go one way. The fields are those of [`ConnectResult`](super::ConnectResult).
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ConnectPush {
    /// Connection id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Server and its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// What the application says to the client.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub data: Bytes,
    /// The rooms that the server has put the client into.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "subs_as_map")]
    pub subs: Vec<Sub>,
    /// Whether the connection has a time to live.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "6")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ttl: u32,
    /// Seconds between the server's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ping: u32,
    /// Whether the client must answer pings.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub pong: bool,
    /// Session id.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub session: String,
    /// Id of the node that serves the connection.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub node: String,
}

/// The session is over; told on transports that have no close frame.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct DisconnectPush {
    /// See [`Disconnect`](crate::protocol::codes::Disconnect).
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "2")]
    pub reason: String,
}

/// The connection has a new time to live.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Refresh {
    /// Whether there is one.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ttl: u32,
}

/// Who came or went.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct JoinLeavePush {
    /// The client.
    #[prost(message, optional, tag = "1")]
    pub info: Option<ClientInfo>,
}

/// Who a client is.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ClientInfo {
    /// User id; empty for anonymous clients.
    #[prost(string, tag = "1")]
    pub user: String,
    /// Connection id.
    #[prost(string, tag = "2")]
    pub client: String,
    /// What the connection token says of it.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub conn_info: Bytes,
    /// What the subscription token says of it.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub chan_info: Bytes,
}

/// A message in a room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Publication {
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "json::raw_to_json")]
    pub data: Bytes,
    /// The client that published it; none when it came through the server API.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its place in the room's stream; 0 where no history is kept.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub offset: u64,
    /// The application's labels.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// `data` is what is new against the publication before.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub delta: bool,
    /// The key of a map that has this value, or that is tracked.
    #[prost(string, tag = "11")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub key: String,
    /// The key has no value any more.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub removed: bool,
    /// In an ordered map: where it stands.
    #[prost(sint64, tag = "13")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub score: i64,
    /// The version of the key's data.
    #[prost(uint64, tag = "16")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub version: u64,
}

/// The server ended the subscription.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct UnsubscribePush {
    /// See [`Unsubscribed`](crate::protocol::codes::Unsubscribed).
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "3")]
    pub reason: String,
}
