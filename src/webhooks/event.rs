//! Events for the application, and their form as JSON.

use std::sync::Arc;

use serde::Serialize;

use crate::{
    cluster::node::NodeId,
    room::{attendance::AttendanceEvent, types::ClientInfo},
};

/// Something that the application may be notified of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookEvent {
    /// A client is authenticated.
    Connect(Arc<ClientInfo>),
    /// Its connection is over; with the code that the server closed it with, or 0.
    Disconnect(Arc<ClientInfo>, u16),
    /// Someone has come into a room, or gone.
    Attendance(AttendanceEvent),
    /// A node is gone, and all connections to it with it.
    NodeGone(NodeId),
}

/// The names of all kinds of events.
pub const KINDS: [&str; 7] =
    ["connect", "disconnect", "join", "leave", "occupied", "vacated", "node_gone"];

impl WebhookEvent {
    /// Its name.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Disconnect(..) => "disconnect",
            Self::Attendance(AttendanceEvent::Join(..)) => "join",
            Self::Attendance(AttendanceEvent::Leave(..)) => "leave",
            Self::Attendance(AttendanceEvent::Occupied(_)) => "occupied",
            Self::Attendance(AttendanceEvent::Vacated(_)) => "vacated",
            Self::NodeGone(_) => "node_gone",
        }
    }
}

/// A [`WebhookEvent`] as it is delivered: with an id, a time and a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEnvelope {
    /// Different for each, and the same however often it is sent.
    pub id: String,
    /// When it happened, in milliseconds of Unix time.
    pub time_ms: u64,
    /// The node that tells it; of [`WebhookEvent::NodeGone`] the node that is gone.
    pub node: String,
    /// What.
    pub event: WebhookEvent,
}

#[derive(Serialize, Default)]
struct Written<'a> {
    id: &'a str,
    time_ms: u64,
    #[serde(rename = "type")]
    kind: &'a str,
    node: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

impl<'a> Written<'a> {
    fn client(self, info: &'a ClientInfo) -> Self {
        Self { client: Some(info.client.to_string()), user: Some(&info.user), ..self }
    }
}

impl EventEnvelope {
    fn written(&self) -> Written<'_> {
        let Self { id, time_ms, node, event } = self;
        let base =
            Written { id, time_ms: *time_ms, kind: event.kind(), node, ..Written::default() };
        match event {
            WebhookEvent::Connect(info) => base.client(info),
            WebhookEvent::Disconnect(info, code) => {
                Written { code: (*code > 0).then_some(*code), ..base.client(info) }
            }
            WebhookEvent::Attendance(
                AttendanceEvent::Join(room, info) | AttendanceEvent::Leave(room, info),
            ) => Written { channel: Some(room), ..base.client(info) },
            WebhookEvent::Attendance(
                AttendanceEvent::Occupied(room) | AttendanceEvent::Vacated(room),
            ) => Written { channel: Some(room), ..base },
            WebhookEvent::NodeGone(_) => base,
        }
    }
}

#[derive(Serialize)]
struct Batch<'a> {
    events: Vec<Written<'a>>,
}

/// What is posted.
///
/// # Errors
/// None that could happen.
pub fn body(events: &[EventEnvelope]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Batch { events: events.iter().map(EventEnvelope::written).collect() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::room::types::ClientId;

    #[test]
    fn events_say_what_they_are_about_and_no_more() {
        let ann = Arc::new(ClientInfo::new(ClientId(0), "ann"));
        let event = |event| EventEnvelope { id: "n-1".into(), time_ms: 5, node: "n".into(), event };
        let events = [
            event(WebhookEvent::Disconnect(ann.clone(), 3001)),
            event(WebhookEvent::Attendance(AttendanceEvent::Join("chat:a".into(), ann))),
            event(WebhookEvent::Attendance(AttendanceEvent::Vacated("chat:a".into()))),
            event(WebhookEvent::NodeGone(NodeId(1))),
        ];
        let client = "00000000-0000-4000-8000-000000000000";
        let base = |kind: &str| json!({"id": "n-1", "time_ms": 5, "node": "n", "type": kind});
        let with = |kind: &str, more: Value| {
            let mut all = base(kind);
            let more = more.as_object().cloned().unwrap_or_default();
            all.as_object_mut().into_iter().for_each(|it| it.extend(more.clone()));
            all
        };
        let expected = json!({"events": [
            with("disconnect", json!({"client": client, "user": "ann", "code": 3001})),
            with("join", json!({"client": client, "user": "ann", "channel": "chat:a"})),
            with("vacated", json!({"channel": "chat:a"})),
            base("node_gone"),
        ]});
        let body = body(&events).expect("plain data");
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON"), expected);
    }
}
