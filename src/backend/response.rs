//! What backends answer, and what that means for the session that asked.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    options::{Backend, Verdict},
    request::OperationKind,
};
use crate::{
    access::{
        claims::Seconds,
        grant::{Credentials, Grant, Overrides},
    },
    protocol::{codes::Disconnect, grpc::framing::Unframed, message, nulls},
    queue::rights::Rights,
    room::types::{Tags, Version},
};

/// What a backend has decided.
#[derive(Debug, Clone, PartialEq)]
pub enum BackendResponse {
    /// Who the client is; none: that is left to the configuration.
    Connect(Option<Box<Credentials>>),
    /// What becomes of the connection.
    Refresh(Refreshed),
    /// The client may subscribe.
    Subscribe(Box<Grant>),
    /// The client may publish.
    Publish(Box<Publish>),
    /// What becomes of the subscription.
    SubRefresh(Refreshed),
    /// What the client's call comes to.
    Rpc(Bytes),
    /// It is refused.
    Refused(Verdict),
}

/// What becomes of a connection or a subscription that would end now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refreshed {
    /// It ends.
    Expired,
    /// It goes on.
    GoesOn {
        /// Until then, in seconds of Unix time, if the backend says it.
        until: Option<i64>,
        /// What others may know of the client from now on; empty: as before.
        info: Bytes,
        /// What is kept for backends from now on; empty: as before.
        meta: Bytes,
    },
}

/// How a publication of a client is placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    /// What is published; none: what the client said.
    pub data: Option<Bytes>,
    /// Don't keep it.
    pub skip_history: bool,
    /// Its labels.
    pub tags: Tags,
    /// A publication with a key that the room has seen lately is not repeated.
    pub idempotency_key: Option<Box<str>>,
    /// Subscribers that want it may get it as what is new.
    pub delta: bool,
    /// Don't place it if the room has come to this version.
    pub version: Option<Version>,
}

/// Why an answer can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidResponse {
    /// Neither 200 nor one that the configuration gives a meaning.
    #[error("HTTP status {0}")]
    Status(u16),
    /// Not the JSON that is expected.
    #[error("not the JSON that is expected: {0}")]
    Json(#[from] serde_json::Error),
    /// A status of gRPC that is no answer, and what is said with it.
    #[error("gRPC status {0}: {1}")]
    Grpc(String, String),
    /// Not the messages of gRPC that are expected.
    #[error("not the message that is expected: {0}")]
    Message(#[from] prost::DecodeError),
    /// Not one message.
    #[error("{0}")]
    Framing(#[from] Unframed),
    /// A field that should be base64 is not.
    #[error("{0} is not base64")]
    Base64(&'static str),
    /// There is no `result`, and no refusal either.
    #[error("there is no result, no error and no disconnect in it")]
    Empty,
    /// A code that clients can't be told.
    #[error("{0} is no code of an error (100 or more)")]
    ErrorCode(u32),
    /// A code that clients can't be told.
    #[error("{0} is no code of a disconnect (3000 to 4999)")]
    DisconnectCode(u32),
    /// A client of JSON is to get it.
    #[error("it is not JSON, and its client speaks no other")]
    NoJson,
    /// The application can't say, where there is no client to be told.
    #[error("it says that it can't: {0}")]
    Refused(String),
}

#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
struct Answer<T> {
    result: Option<T>,
    error: Option<Error>,
    disconnect: Option<Disconnection>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Error {
    code: u32,
    message: String,
    temporary: bool,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Disconnection {
    code: u32,
    reason: String,
}

/// The result of a connect, a subscribe and both refreshes: each has some of these.
#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    user: String,
    #[serde(default)]
    expired: bool,
    expire_at: Option<Seconds>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Granted>>,
    meta: Option<Box<RawValue>>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
    allow: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct Published {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(default)]
    skip_history: bool,
    tags: Option<Tags>,
    idempotency_key: Option<Box<str>>,
    #[serde(default)]
    delta: bool,
    #[serde(default)]
    version: u64,
    version_epoch: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Done {
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
}

fn raw(json: Option<Box<RawValue>>) -> Bytes {
    json.map_or_else(Bytes::new, bytes)
}

/// JSON as it was written.
pub(super) fn bytes(json: Box<RawValue>) -> Bytes {
    String::from(Box::<str>::from(json)).into_bytes().into()
}

/// What is there in base64, or else as JSON.
fn payload(
    key: &'static str,
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Bytes, InvalidResponse> {
    match base64.filter(|it| !it.is_empty()) {
        None => Ok(raw(json)),
        Some(text) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| InvalidResponse::Base64(key)),
    }
}

fn moment(at: Option<Seconds>) -> Option<i64> {
    at.map(|it| it.0).filter(|at| *at > 0)
}

impl Granted {
    fn credentials(self) -> Result<Credentials, InvalidResponse> {
        let mut rooms = BTreeMap::new();
        for (room, grant) in self.subs.unwrap_or_default() {
            rooms.insert(room, grant.grant()?);
        }
        for room in self.channels.unwrap_or_default() {
            rooms.entry(room).or_default();
        }
        Ok(Credentials {
            user: self.user.into(),
            info: payload("b64info", self.info, self.b64info)?,
            expires_at: moment(self.expire_at),
            meta: raw(self.meta),
            data: payload("b64data", self.data, self.b64data)?,
            rooms: rooms.into_iter().collect(),
        })
    }

    fn grant(self) -> Result<Grant, InvalidResponse> {
        Ok(Grant {
            expires_at: moment(self.expire_at),
            info: payload("b64info", self.info, self.b64info)?,
            data: payload("b64data", self.data, self.b64data)?,
            overrides: self.overrides.unwrap_or_default(),
            queue: self.allow.as_deref().map(Rights::listed),
        })
    }

    fn refreshed(self) -> Result<Refreshed, InvalidResponse> {
        if self.expired {
            return Ok(Refreshed::Expired);
        }
        Ok(Refreshed::GoesOn {
            until: moment(self.expire_at),
            info: payload("b64info", self.info, self.b64info)?,
            meta: raw(self.meta),
        })
    }
}

impl Published {
    fn publish(self) -> Result<Publish, InvalidResponse> {
        let base64 = self.b64data.filter(|it| !it.is_empty());
        let data = match (self.data, base64) {
            (None, None) => None,
            (json, base64) => Some(payload("b64data", json, base64)?),
        };
        let epoch = self.version_epoch.unwrap_or_default();
        Ok(Publish {
            data,
            skip_history: self.skip_history,
            tags: self.tags.unwrap_or_default(),
            idempotency_key: self.idempotency_key.filter(|it| !it.is_empty()),
            delta: self.delta,
            version: (self.version > 0).then_some(Version { number: self.version, epoch }),
        })
    }
}

/// What a backend's answer to a question of this kind means.
///
/// # Errors
/// If it can't be told.
pub fn read(
    kind: OperationKind,
    backend: &Backend,
    status: u16,
    body: &[u8],
) -> Result<BackendResponse, InvalidResponse> {
    if status != 200 {
        let meant = backend.statuses.iter().find(|it| it.status == status);
        let meant = meant.map(|it| BackendResponse::Refused(it.verdict.clone()));
        return meant.ok_or(InvalidResponse::Status(status));
    }
    Ok(match kind {
        OperationKind::Connect => match decided::<Granted>(body)? {
            Ok(result) => {
                let credentials = result.map(Granted::credentials).transpose()?;
                BackendResponse::Connect(credentials.map(Box::new))
            }
            Err(refused) => refused,
        },
        OperationKind::Refresh => match decided(body)? {
            Ok(result) => BackendResponse::Refresh(refreshed(result)?),
            Err(refused) => refused,
        },
        OperationKind::SubRefresh => match decided(body)? {
            Ok(result) => BackendResponse::SubRefresh(refreshed(result)?),
            Err(refused) => refused,
        },
        // A permission has to be said: an answer in which there is nothing may have meant something else.
        OperationKind::Subscribe => match decided::<Granted>(body)? {
            Ok(result) => {
                BackendResponse::Subscribe(Box::new(result.ok_or(InvalidResponse::Empty)?.grant()?))
            }
            Err(refused) => refused,
        },
        OperationKind::Publish => match decided::<Published>(body)? {
            Ok(result) => {
                BackendResponse::Publish(Box::new(result.ok_or(InvalidResponse::Empty)?.publish()?))
            }
            Err(refused) => refused,
        },
        // Has no client, and so no answer for one.
        // By gRPC, or in another form.
        OperationKind::SharedPollRefresh | OperationKind::SubscribeStream => {
            return Err(InvalidResponse::Empty);
        }
        OperationKind::Rpc => match decided::<Done>(body)? {
            Ok(None) => BackendResponse::Rpc(Bytes::new()),
            Ok(Some(it)) => BackendResponse::Rpc(payload("b64data", it.data, it.b64data)?),
            Err(refused) => refused,
        },
    })
}

/// The result where no client waits for it, so that nothing but that is an answer.
///
/// # Errors
/// If it can't be told, or the application has refused.
pub(super) fn answered<T: DeserializeOwned>(
    status: u16,
    body: &[u8],
) -> Result<Option<T>, InvalidResponse> {
    if status != 200 {
        return Err(InvalidResponse::Status(status));
    }
    let answer: Answer<T> = nulls::from_slice(body)?;
    match (answer.error, answer.disconnect) {
        (None, None) => Ok(answer.result),
        (Some(it), _) => Err(InvalidResponse::Refused(format!("{} ({})", it.message, it.code))),
        (None, Some(it)) => Err(InvalidResponse::Refused(it.reason)),
    }
}

/// Who says nothing about the end of something lets it end.
fn refreshed(result: Option<Granted>) -> Result<Refreshed, InvalidResponse> {
    result.map_or(Ok(Refreshed::Expired), Granted::refreshed)
}

/// The result, if there is one, or the refusal.
fn decided<T: DeserializeOwned>(
    body: &[u8],
) -> Result<Result<Option<T>, BackendResponse>, InvalidResponse> {
    let answer: Answer<T> = nulls::from_slice(body)?;
    if let Some(it) = answer.disconnect {
        return Ok(Err(BackendResponse::Refused(Verdict::Disconnect(disconnect(
            it.code, it.reason,
        )?))));
    }
    if let Some(it) = answer.error {
        let error = error(it.code, it.message, it.temporary)?;
        return Ok(Err(BackendResponse::Refused(Verdict::Error(error))));
    }
    Ok(Ok(answer.result))
}

/// An error that a client can be told.
///
/// # Errors
/// If the code is none.
pub fn error(
    code: u32,
    message: String,
    temporary: bool,
) -> Result<message::Error, InvalidResponse> {
    // What is below belongs to the SDKs.
    if code < 100 {
        return Err(InvalidResponse::ErrorCode(code));
    }
    Ok(message::Error { code, message, temporary })
}

/// The longest reason: a close frame has room for 123 bytes of it.
const MAX_REASON: usize = 123;

/// A disconnect that a client can be told. A reason that is too long is cut.
///
/// # Errors
/// If the code is none.
pub fn disconnect(code: u32, mut reason: String) -> Result<Disconnect, InvalidResponse> {
    let close = u16::try_from(code).ok().filter(|it| (3000..5000).contains(it));
    let close = close.ok_or(InvalidResponse::DisconnectCode(code))?;
    let cut = (0..=MAX_REASON.min(reason.len())).rev().find(|it| reason.is_char_boundary(*it));
    reason.truncate(cut.unwrap_or(0));
    Ok(Disconnect::custom(close, &reason))
}

#[cfg(test)]
#[path = "response_tests.rs"]
mod tests;
