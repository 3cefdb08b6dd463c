//! What calls of the server API come to, whichever way they came, and how that is written as JSON. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    cluster::node::NodeId,
    protocol::message::{
        Empty, Error, HistoryResult, PresenceResult, PresenceStatsResult, Publication,
        StreamPosition,
    },
    room::types::{NodeFacts, RoomName},
};

/// A call's result, or why there is none.
pub type Called = Result<Done, Error>;

/// What a call comes to.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Done {
    /// A room has the message at this position.
    Published(StreamPosition),
    /// There is nothing to say beside that it is done.
    Nothing(Empty),
    /// What became of the message in each room.
    Broadcast(Responses),
    /// It was done to the connections that are meant.
    Controlled(Controlled),
    /// Who is in a room.
    Presence(PresenceResult),
    /// How many are in a room.
    PresenceStats(PresenceStatsResult),
    /// What was said in a room.
    History(HistoryResult),
    /// How the nodes are.
    Info(Info),
    /// Which rooms have subscribers.
    Channels(Channels),
    /// What a group answers.
    Group(Box<RawValue>),
    /// What became of a put or a removal in a map.
    Changed(Changed),
    /// Entries of a map, or its changes.
    Entries(Entries),
    /// How many entries a map has.
    Stats(MapStats),
}

impl Done {
    /// There is nothing to say beside that it is done.
    pub fn nothing() -> Self {
        Self::Nothing(Empty {})
    }
}

/// The outcome of a call: `{"result": …}` or `{"error": …}`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It is done.
    Result(Done),
    /// It is not.
    Error(#[serde(serialize_with = "without_temporary")] Error),
}

impl From<Called> for Outcome {
    fn from(called: Called) -> Self {
        called.map_or_else(Self::Error, Self::Result)
    }
}

/// An error of the API has a code and a message only.
fn without_temporary<S: serde::Serializer>(error: &Error, to: S) -> Result<S::Ok, S::Error> {
    plain(error.clone()).serialize(to)
}

/// An error as callers of the API are told it.
pub fn plain(error: Error) -> Error {
    Error { temporary: false, ..error }
}

/// What became of a put or a removal in a map.
#[derive(Debug, Serialize)]
pub struct Changed {
    /// The change that did it, or where the map is.
    #[serde(flatten)]
    pub position: StreamPosition,
    /// Why nothing has changed; empty: something has.
    #[serde(flatten, serialize_with = "suppressed")]
    pub suppressed: &'static str,
}

fn suppressed<S: serde::Serializer>(why: &&'static str, to: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut fields = to.serialize_map(None)?;
    if !why.is_empty() {
        fields.serialize_entry("suppressed", &true)?;
        fields.serialize_entry("suppress_reason", why)?;
    }
    fields.end()
}

/// Entries of a map, or its changes.
#[derive(Debug, Serialize)]
pub struct Entries {
    /// In the order of the map, or in which they were published.
    pub entries: Vec<Publication>,
    /// Where the map is.
    #[serde(flatten)]
    pub position: StreamPosition,
    /// For the next page; empty if there is none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cursor: String,
}

/// How many entries a map has.
#[derive(Debug, Serialize)]
pub struct MapStats {
    /// So many.
    pub num_keys: u32,
}

/// One for each room of a broadcast, in their order.
#[derive(Debug, Serialize)]
pub struct Responses {
    /// What became of the message there.
    pub responses: Vec<Outcome>,
}

/// On which nodes something could not be done.
#[derive(Debug, Serialize)]
pub struct Controlled {
    /// The nodes that did not answer: a connection there may not have been reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// How the nodes are.
#[derive(Debug, Serialize)]
pub struct Info {
    /// Those that answered.
    pub nodes: Vec<NodeFacts>,
    /// The nodes that did not answer, so that no one takes a part for the whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// The rooms that have subscribers.
#[derive(Debug, Serialize)]
pub struct Channels {
    /// What is known of each.
    pub channels: BTreeMap<RoomName, Subscribers>,
    /// As in [`Info`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// The subscribers of a room.
#[derive(Debug, Default, Serialize)]
pub struct Subscribers {
    /// How many clients, on all nodes that answered.
    pub num_clients: u32,
}

/// How nodes are called in results.
pub fn names(nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::protocol::codes::ErrorCode;

    fn written(called: Called) -> serde_json::Value {
        serde_json::to_value(Outcome::from(called)).expect("JSON")
    }

    #[test]
    fn results_and_errors_are_written_as_clients_of_the_api_read_them() {
        let position = StreamPosition { offset: 3, epoch: "e".into() };
        let error = || Error::from(ErrorCode::Internal);
        let responses = vec![Ok(Done::Published(position.clone())).into(), Err(error()).into()];
        let failed = json!({"error": {"code": 100, "message": "internal server error"}});
        for (called, expected) in [
            (Ok(Done::Published(position)), json!({"result": {"offset": 3, "epoch": "e"}})),
            (Ok(Done::nothing()), json!({"result": {}})),
            (Ok(Done::Controlled(Controlled { missing: Vec::new() })), json!({"result": {}})),
            (
                Ok(Done::Controlled(Controlled { missing: vec!["n".into()] })),
                json!({"result": {"missing": ["n"]}}),
            ),
            (
                Ok(Done::Broadcast(Responses { responses })),
                json!({"result": {"responses": [{"result": {"offset": 3, "epoch": "e"}}, failed]}}),
            ),
            (Err(error()), failed.clone()),
        ] {
            assert_eq!(written(called), expected);
        }
    }
}
