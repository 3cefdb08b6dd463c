//! The messages of the protocol, each defined once for both formats: `prost` gives Protobuf by the
//! field numbers, `serde` gives JSON by the field names.
//!
//! Only the fields that Roomcast reads or writes are listed; both formats skip unknown ones.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `bytes` fields are embedded JSON in the JSON format.
fn raw_from_json<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let raw = <Option<Box<RawValue>>>::deserialize(from)?;
    Ok(raw.map_or_else(Bytes::new, |raw| {
        Bytes::from(String::from(Box::<str>::from(raw)).into_bytes())
    }))
}

/// Data published in Protobuf need not be JSON; a JSON client then gets it as a base64 string rather
/// than a broken frame.
fn raw_to_json<S: Serializer>(data: &Bytes, to: S) -> Result<S::Ok, S::Error> {
    match embeddable(data) {
        Some(raw) => raw.serialize(to),
        None => to.serialize_str(&base64::engine::general_purpose::STANDARD.encode(data)),
    }
}

/// Data as JSON that can be part of a message, if it is JSON. Line feeds separate messages, so those between
/// JSON tokens become spaces.
fn embeddable(data: &[u8]) -> Option<Cow<'_, RawValue>> {
    let raw: &RawValue = serde_json::from_str(std::str::from_utf8(data).ok()?).ok()?;
    if raw.get().contains('\n') {
        return RawValue::from_string(raw.get().replace('\n', " ")).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(raw))
}

/// The JSON by which a JSON client gets this data.
pub fn json_of(data: &[u8]) -> Cow<'_, str> {
    match embeddable(data) {
        Some(Cow::Borrowed(raw)) => raw.get().into(),
        Some(Cow::Owned(raw)) => String::from(Box::<str>::from(raw)).into(),
        None => format!("\"{}\"", base64::engine::general_purpose::STANDARD.encode(data)).into(),
    }
}

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

fn subs_as_map<S: Serializer>(subs: &[Sub], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(subs.iter().map(|it| (&it.channel, &it.result)))
}

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

/// A message without fields.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Empty {}

/// Credentials and what the application says about itself.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct ConnectRequest {
    /// JSON web token that says who the user is.
    #[prost(string, tag = "1")]
    pub token: String,
    /// Anything the application wants to say.
    #[prost(bytes = "bytes", tag = "2")]
    #[serde(deserialize_with = "raw_from_json")]
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
    #[serde(deserialize_with = "raw_from_json")]
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
    /// 0: stream. Other kinds are not served.
    #[prost(int32, tag = "15")]
    #[serde(rename = "type")]
    pub kind: i32,
}

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
    #[serde(deserialize_with = "raw_from_json")]
    pub data: Bytes,
    /// 0: regular. Other kinds are not served.
    #[prost(int32, tag = "3")]
    #[serde(rename = "type")]
    pub kind: i32,
}

/// A position in a room's stream.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    /// Offset; the first publication has 1.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Epoch of the stream.
    #[prost(string, tag = "2")]
    pub epoch: String,
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
    #[serde(deserialize_with = "raw_from_json")]
    pub data: Bytes,
}

/// A call to the application.
#[derive(Clone, PartialEq, prost::Message, Deserialize)]
#[serde(default)]
pub struct RpcRequest {
    /// The payload.
    #[prost(bytes = "bytes", tag = "1")]
    #[serde(deserialize_with = "raw_from_json")]
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
    #[serde(deserialize_with = "bytes_of_string")]
    pub data: Bytes,
}

fn bytes_of_string<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    String::deserialize(from).map(Bytes::from)
}

/// What the server sends: the reply to a command, or a push; all empty, it is a ping.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Reply {
    /// The command's number; 0 for pushes and pings.
    #[prost(uint32, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
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

/// Why a command failed; see [`ErrorCode`](super::codes::ErrorCode).
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
    #[serde(skip_serializing_if = "is_default")]
    pub temporary: bool,
}

/// Something happened in a room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Push {
    /// Room name.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
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
    #[serde(serialize_with = "raw_to_json")]
    pub data: Bytes,
}

/// The server put the client into the room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SubscribePush {
    /// Whether the client can recover what it missed.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// Where the live stream goes on.
    #[prost(uint64, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether the server checks the client's position.
    #[prost(bool, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// What the application says with it.
    #[prost(bytes = "bytes", tag = "7")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub data: Bytes,
}

/// The session is open; told on transports that go one way. The fields are those of [`ConnectResult`].
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
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub data: Bytes,
    /// The rooms that the server has put the client into.
    #[prost(message, repeated, tag = "4")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "subs_as_map")]
    pub subs: Vec<Sub>,
    /// Whether the connection has a time to live.
    #[prost(bool, tag = "5")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Seconds between the server's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether the client must answer pings.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// Session id.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// Id of the node that serves the connection.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// The session is over; told on transports that have no close frame.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct DisconnectPush {
    /// See [`Disconnect`](super::codes::Disconnect).
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
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
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
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub conn_info: Bytes,
    /// What the subscription token says of it.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub chan_info: Bytes,
}

/// A message in a room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct Publication {
    /// The payload.
    #[prost(bytes = "bytes", tag = "4")]
    #[serde(serialize_with = "raw_to_json")]
    pub data: Bytes,
    /// The client that published it; none when it came through the server API.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<ClientInfo>,
    /// Its place in the room's stream; 0 where no history is kept.
    #[prost(uint64, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// The application's labels.
    #[prost(btree_map = "string, string", tag = "7")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<String, String>,
    /// `data` is what is new against the publication before.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
}

/// The server ended the subscription.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct UnsubscribePush {
    /// See [`Unsubscribed`](super::codes::Unsubscribed).
    #[prost(uint32, tag = "2")]
    pub code: u32,
    /// The same in words.
    #[prost(string, tag = "3")]
    pub reason: String,
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
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// What the application says to the client.
    #[prost(bytes = "bytes", tag = "5")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub data: Bytes,
    /// The rooms that the server has put the client into.
    #[prost(message, repeated, tag = "6")]
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "subs_as_map")]
    pub subs: Vec<Sub>,
    /// Seconds between the server's pings.
    #[prost(uint32, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub ping: u32,
    /// Whether the client must answer pings.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub pong: bool,
    /// Session id.
    #[prost(string, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub session: String,
    /// Id of the node that serves the connection.
    #[prost(string, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub node: String,
}

/// The client is in the room.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct SubscribeResult {
    /// Whether the subscription has a time to live.
    #[prost(bool, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
    /// Whether the client can recover what it missed.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub recoverable: bool,
    /// Epoch of the stream.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub epoch: String,
    /// What the client missed, oldest first.
    #[prost(message, repeated, tag = "7")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub publications: Vec<Publication>,
    /// Whether all that the client missed is here.
    #[prost(bool, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub recovered: bool,
    /// The position: as asked for when recovered, else the top of the stream.
    #[prost(uint64, tag = "9")]
    #[serde(skip_serializing_if = "is_default")]
    pub offset: u64,
    /// Whether the server checks the client's position.
    #[prost(bool, tag = "10")]
    #[serde(skip_serializing_if = "is_default")]
    pub positioned: bool,
    /// What the application says with it.
    #[prost(bytes = "bytes", tag = "11")]
    #[serde(skip_serializing_if = "Bytes::is_empty", serialize_with = "raw_to_json")]
    pub data: Bytes,
    /// Whether a recovery was tried.
    #[prost(bool, tag = "12")]
    #[serde(skip_serializing_if = "is_default")]
    pub was_recovering: bool,
    /// Publications come in the delta format that was asked for.
    #[prost(bool, tag = "13")]
    #[serde(skip_serializing_if = "is_default")]
    pub delta: bool,
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
    #[serde(serialize_with = "raw_to_json")]
    pub data: Bytes,
}

/// A new time to live.
#[derive(Clone, PartialEq, prost::Message, Serialize)]
pub struct RefreshResult {
    /// Connection id, for connections.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub client: String,
    /// Server and its version.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub version: String,
    /// Whether there is a time to live.
    #[prost(bool, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub expires: bool,
    /// Seconds to live.
    #[prost(uint32, tag = "4")]
    #[serde(skip_serializing_if = "is_default")]
    pub ttl: u32,
}
