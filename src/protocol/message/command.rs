//! What clients send: commands, and the request that each of them carries.

use std::collections::HashMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{Empty, StreamPosition, json};

/// A command as a client sent it. The first request field that is set wins.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct Command {
    /// The client's number for it; the reply repeats it. 0 for pongs and `send`.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Open the session.
    #[prost(message, optional, tag = "4")]
    pub connect: Option<ConnectRequest>,
    /// Enter a room.
    #[prost(message, optional, tag = "5")]
    pub subscribe: Option<SubscribeRequest>,
    /// Leave a room.
    #[prost(message, optional, tag = "6")]
    pub unsubscribe: Option<ChannelRequest>,
    /// Send a message to a room.
    #[prost(message, optional, tag = "7")]
    pub publish: Option<PublishRequest>,
    /// Ask who is in a room.
    #[prost(message, optional, tag = "8")]
    pub presence: Option<ChannelRequest>,
    /// Ask how many are in a room.
    #[prost(message, optional, tag = "9")]
    pub presence_stats: Option<ChannelRequest>,
    /// Read a room's past publications.
    #[prost(message, optional, tag = "10")]
    pub history: Option<HistoryRequest>,
    /// Not allowed in this version of the protocol.
    #[prost(message, optional, tag = "11")]
    pub ping: Option<Empty>,
    /// A message to the application without a reply.
    #[prost(message, optional, tag = "12")]
    pub send: Option<SendRequest>,
    /// A call to the application.
    #[prost(message, optional, tag = "13")]
    pub rpc: Option<RpcRequest>,
    /// A new connection token.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<RefreshRequest>,
    /// A new subscription token.
    #[prost(message, optional, tag = "15")]
    pub sub_refresh: Option<SubRefreshRequest>,
}

/// The one thing that a command asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// See [`Command::connect`].
    Connect(ConnectRequest),
    /// See [`Command::subscribe`].
    Subscribe(SubscribeRequest),
    /// See [`Command::unsubscribe`].
    Unsubscribe(ChannelRequest),
    /// See [`Command::publish`].
    Publish(PublishRequest),
    /// See [`Command::presence`].
    Presence(ChannelRequest),
    /// See [`Command::presence_stats`].
    PresenceStats(ChannelRequest),
    /// See [`Command::history`].
    History(HistoryRequest),
    /// See [`Command::ping`].
    Ping,
    /// See [`Command::send`].
    Send(SendRequest),
    /// See [`Command::rpc`].
    Rpc(RpcRequest),
    /// See [`Command::refresh`].
    Refresh(RefreshRequest),
    /// See [`Command::sub_refresh`].
    SubRefresh(SubRefreshRequest),
}

impl Command {
    /// The command's number and what it asks for; nothing asked for is a pong.
    pub fn into_request(self) -> (u32, Option<Request>) {
        let request = None
            .or(self.connect.map(Request::Connect))
            .or(self.subscribe.map(Request::Subscribe))
            .or(self.unsubscribe.map(Request::Unsubscribe))
            .or(self.publish.map(Request::Publish))
            .or(self.presence.map(Request::Presence))
            .or(self.presence_stats.map(Request::PresenceStats))
            .or(self.history.map(Request::History))
            .or(self.ping.map(|_| Request::Ping))
            .or(self.send.map(Request::Send))
            .or(self.rpc.map(Request::Rpc))
            .or(self.refresh.map(Request::Refresh))
            .or(self.sub_refresh.map(Request::SubRefresh));
        (self.id, request)
    }
}

/// Credentials and what the application says about itself.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// JSON web token that says who the user is.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Anything the application wants to say.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "json::raw_from_json")]
    pub data: Bytes,
    /// Server-side subscriptions to recover, by room.
    #[prost(map = "string, message", tag = "3")]
    pub subs: HashMap<String, SubscribeRequest>,
    /// Name of the client application.
    #[prost(string, tag = "4")]
    pub name: String,
    /// Version of the client application.
    #[prost(string, tag = "5")]
    pub version: String,
    /// What a page would say in HTTP headers if it could.
    #[prost(map = "string, string", tag = "6")]
    pub headers: HashMap<String, String>,
}

/// What a client wants of a room.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubscribeRequest {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Subscription token.
    #[prost(string, tag = "2")]
    pub token: String,
    /// Whether `epoch` and `offset` say where the client stopped.
    #[prost(bool, tag = "3")]
    pub recover: bool,
    /// Epoch of the last position seen; empty matches any.
    #[prost(string, tag = "6")]
    pub epoch: String,
    /// Offset of the last position seen.
    #[prost(uint64, tag = "7")]
    pub offset: u64,
    /// Anything the application wants to say.
    #[prost(bytes = "bytes", tag = "8")]
    #[serde(deserialize_with = "json::raw_from_json")]
    pub data: Bytes,
    /// Wants to be told when it can't have seen everything.
    #[prost(bool, tag = "9")]
    pub positioned: bool,
    /// Wants to recover what it missed.
    #[prost(bool, tag = "10")]
    pub recoverable: bool,
    /// Wants to be told who joins and leaves.
    #[prost(bool, tag = "11")]
    pub join_leave: bool,
    /// Delta format asked for.
    #[prost(string, tag = "12")]
    pub delta: String,
    /// Publications wanted, by their tags.
    #[prost(message, optional, boxed, tag = "13")]
    pub tf: Option<Box<FilterNode>>,
    /// Bit 2: answer 112 instead of `recovered: false`.
    #[prost(int64, tag = "14")]
    pub flag: i64,
    /// 0: stream; 1: map; 2: map of connections; 3: map of users; [`SHARED_POLL`]. Other kinds are not served.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type")]
    pub kind: i32,
    /// Of a map: 2 loads a page of entries, 1 and 0 go on from a position.
    #[prost(int32, tag = "16")]
    pub phase: i32,
    /// Of a map: what came with the page before.
    #[prost(string, tag = "17")]
    pub cursor: String,
    /// Of a map: the most entries in a page; 0: as many as usual.
    #[prost(int32, tag = "18")]
    pub limit: i32,
    /// Of an ordered map: the lowest score first.
    #[prost(bool, tag = "19")]
    pub asc: bool,
}

/// The kind of a subscription whose client tracks keys, which the server polls.
pub const SHARED_POLL: i32 = 4;

/// Which publications are wanted: a tree of tests.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct FilterNode {
    /// `and`, `or`, `not`, or empty: a test.
    #[prost(string, tag = "1")]
    pub op: String,
    /// The tag that is tested.
    #[prost(string, tag = "2")]
    pub key: String,
    /// What it is tested for: `eq`, `neq`, `in`, `nin`, `ex`, `nex`, `sw`, `ew`, `ct`, `gt`, `gte`, `lt`, `lte`.
    #[prost(string, tag = "3")]
    pub cmp: String,
    /// What it is compared with.
    #[prost(string, tag = "4")]
    pub val: String,
    /// The same for `in` and `nin`.
    #[prost(string, repeated, tag = "5")]
    pub vals: Vec<String>,
    /// What `and`, `or` and `not` combine.
    #[prost(message, repeated, tag = "6")]
    pub nodes: Vec<FilterNode>,
}

/// A request that needs nothing but a room.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ChannelRequest {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
}

/// A message for a room.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct PublishRequest {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// The payload.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "json::raw_or_null_from_json")]
    pub data: Bytes,
    /// 0: for a stream; 1: for a map. Other kinds are not served.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type")]
    pub kind: i32,
    /// Of a map: the key that has this value from now on.
    #[prost(string, tag = "4")]
    pub key: String,
    /// Of a map: the key is to have no value any more.
    #[prost(bool, tag = "5")]
    pub removed: bool,
}

/// Which part of the past to read.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct HistoryRequest {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// Most publications to return; 0: none, only the position; negative: all that is allowed.
    #[prost(int32, tag = "7")]
    pub limit: i32,
    /// Where to start, exclusive.
    #[prost(message, optional, tag = "8")]
    pub since: Option<StreamPosition>,
    /// Newest first.
    #[prost(bool, tag = "9")]
    pub reverse: bool,
}

/// A message to the application.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SendRequest {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "json::raw_or_null_from_json")]
    pub data: Bytes,
}

/// A call to the application.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "json::raw_or_null_from_json")]
    pub data: Bytes,
    /// Name of the method.
    #[prost(string, tag = "2")]
    pub method: String,
}

/// A new connection token.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RefreshRequest {
    /// JSON web token.
    #[prost(string, tag = "1")]
    pub token: String,
}

/// A new subscription token.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct SubRefreshRequest {
    /// Room name.
    #[prost(string, tag = "1")]
    pub channel: String,
    /// JSON web token.
    #[prost(string, tag = "2")]
    pub token: String,
    /// 0: a new token; [`TRACK`]; [`UNTRACK`].
    #[prost(int32, tag = "3")]
    #[serde(rename = "type")]
    pub kind: i32,
    /// The keys to be tracked.
    #[prost(message, repeated, tag = "4")]
    pub track: Vec<TrackBatch>,
    /// The keys not to be tracked any more.
    #[prost(string, repeated, tag = "5")]
    pub untrack: Vec<String>,
}

/// The kind of a subscription's refresh that tracks keys.
pub const TRACK: i32 = 1;
/// The kind that tracks some no more.
pub const UNTRACK: i32 = 2;

/// Keys that the application has allowed a client to track together.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct TrackBatch {
    /// By which it has.
    #[prost(string, tag = "1")]
    pub signature: String,
    /// The keys, in the order in which they are signed.
    #[prost(message, repeated, tag = "2")]
    pub items: Vec<KeyedItem>,
}

/// A key to be tracked.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct KeyedItem {
    /// The key.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The version that the client has; 0: none.
    #[prost(uint64, tag = "2")]
    pub version: u64,
}

/// Commands for a session, brought by a request of their own.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct EmulationRequest {
    /// The node that has the session.
    #[prost(string, tag = "1")]
    pub node: String,
    /// The session's name.
    #[prost(string, tag = "2")]
    pub session: String,
    /// The commands: what would be the payload of a WebSocket message. A string in JSON.
    #[prost(bytes = "bytes", tag = "3")]
    #[serde(deserialize_with = "json::bytes_of_string")]
    pub data: Bytes,
}
