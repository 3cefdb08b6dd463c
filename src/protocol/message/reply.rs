//! What the server answers: replies to commands, and their results.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{ClientInfo, Empty, Publication, Push, Refresh, json};

/// A room that the server has put the client into: an entry of a map.
///
/// On the wire a map is a list of such entries. A value that is all defaults could be left out, and would be
/// by a map of ours, but the JavaScript library reads that as null and breaks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sub {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// What came of it. Always there.
    #[prost(message, optional, tag = "2")]
    pub result: Option<SubscribeResult>,
}

pub(super) fn subs_as_map<S: Serializer>(subs: &[Sub], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(subs.iter().map(|it| (&it.channel, &it.result)))
}

/// What the server sends: the reply to a command, or a push; all empty, it is a ping.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Reply {
    /// The command's number; 0 for pushes and pings.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub id: u32,
    /// Why the command failed.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
    /// The result, or the push.
    #[prost(oneof = "ReplyBody", tags = "4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15")]
    #[serde(flatten)]
    pub body: Option<ReplyBody>,
}

/// What a reply carries.
#[derive(Clone, PartialEq, prost::Oneof, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplyBody {
    /// Something happened in a room or to the connection.
    #[prost(message, tag = "4")]
    Push(Push),
    /// The session is open.
    #[prost(message, tag = "5")]
    Connect(ConnectResult),
    /// The client is in the room.
    #[prost(message, tag = "6")]
    Subscribe(SubscribeResult),
    /// The client is out of the room.
    #[prost(message, tag = "7")]
    Unsubscribe(Empty),
    /// The message has its place in the room.
    #[prost(message, tag = "8")]
    Publish(Empty),
    /// Who is in the room.
    #[prost(message, tag = "9")]
    Presence(PresenceResult),
    /// How many are in the room.
    #[prost(message, tag = "10")]
    PresenceStats(PresenceStatsResult),
    /// Past publications.
    #[prost(message, tag = "11")]
    History(HistoryResult),
    /// The application's answer.
    #[prost(message, tag = "13")]
    Rpc(RpcResult),
    /// The connection's new time to live.
    #[prost(message, tag = "14")]
    Refresh(RefreshResult),
    /// The subscription's new time to live.
    #[prost(message, tag = "15")]
    SubRefresh(Refresh),
}

/// Why a command failed; see [`ErrorCode`](crate::protocol::codes::ErrorCode).
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Error {
    /// One of the protocol's error codes.
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Whether trying again may help.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub temporary: bool,
}

/// The session is open.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct ConnectResult {
    /// Connection id.
    #[prost(string, tag = "1")]
    pub client: String,
    /// Server and its version.
    #[prost(string, tag = "2")]
    pub version: String,
    /// Whether the connection has a time to live.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ttl: u32,
    /// What the application says to the client.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub data: Bytes,
    /// The rooms that the server has put the client into.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "subs_as_map")]
    pub subs: Vec<Sub>,
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

/// The client is in the room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SubscribeResult {
    /// Whether the subscription has a time to live.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ttl: u32,
    /// Whether the client can recover what it missed.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub epoch: String,
    /// What the client missed, oldest first.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
    /// Whether all that the client missed is here.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub recovered: bool,
    /// The position: as asked for when recovered, else the top of the stream.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub offset: u64,
    /// Whether the server checks the client's position.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub positioned: bool,
    /// What the application says with it.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "json::raw_to_json")]
    pub data: Bytes,
    /// Whether a recovery was tried.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub was_recovering: bool,
    /// Publications come in the delta format that was asked for.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub delta: bool,
    /// The kind of the subscription; see [`SubscribeRequest`](super::SubscribeRequest). Of every map it is 1.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type", skip_serializing_if = "json::is_default")]
    pub kind: i32,
    /// Of a map: 2 if this is a page of its entries, 0 if the client is in.
    #[prost(int32, tag = "16")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub phase: i32,
    /// Of a map: asks for the next page.
    #[prost(string, tag = "17")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub cursor: String,
    /// Of a map: entries.
    #[prost(message, repeated, tag = "18")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub state: Vec<Publication>,
    /// Milliseconds in which the client is to publish no more than once.
    #[prost(uint32, tag = "19")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub publish_debounce: u32,
}

/// Who is in the room, by connection id.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct PresenceResult {
    /// The clients.
    #[prost(btree_map = "string, message", tag = "1")]
    pub presence: BTreeMap<String, ClientInfo>,
}

/// How many are in the room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct PresenceStatsResult {
    /// Connections.
    #[prost(uint32, tag = "1")]
    pub num_clients: u32,
    /// Distinct users.
    #[prost(uint32, tag = "2")]
    pub num_users: u32,
}

/// Past publications.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct HistoryResult {
    /// In the order asked for.
    #[prost(message, repeated, tag = "1")]
    pub publications: Vec<Publication>,
    /// Epoch of the stream.
    #[prost(string, tag = "2")]
    pub epoch: String,
    /// Offset of the newest publication of the room.
    #[prost(uint64, tag = "3")]
    pub offset: u64,
}

/// The application's answer.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct RpcResult {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(serialize_with = "json::raw_to_json")]
    pub data: Bytes,
}

/// A new time to live.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct RefreshResult {
    /// Connection id, for connections.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub client: String,
    /// Server and its version.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub version: String,
    /// Whether there is a time to live.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "json::is_default")]
    pub ttl: u32,
}
