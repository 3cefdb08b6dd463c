//! SHELL. The methods of the server API that do something to the connections of a user, on whichever nodes
//! they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    api::{Called, bad_request, bytes, check_channel, names, parse, survey, written},
    parts::Parts,
};
use crate::{
    access::grant::{Grant, Overrides},
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{Error, StreamPosition},
    },
    room::{
        control::{Action, Control},
        types::{Since, Survey},
    },
};

/// Whose connections are meant.
#[derive(Deserialize)]
struct Target {
    #[serde(default)]
    user: String,
    #[serde(default)]
    client: String,
    #[serde(default)]
    session: String,
}

impl Target {
    /// Without any of the three it would be every connection that has no user.
    fn control(self, action: Action) -> Result<Control, Error> {
        let Self { user, client, session } = self;
        if user.is_empty() && client.is_empty() && session.is_empty() {
            return Err(bad_request(
                "user is needed, or client or session of one that has no user",
            ));
        }
        Ok(Control { user, client, session, action })
    }
}

/// What is done, or on which nodes it could not be.
#[derive(Serialize)]
struct Done {
    /// The nodes that did not answer: a connection there may not have been reached.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<String>,
}

async fn everywhere(parts: &Parts, control: Control) -> Called {
    let findings = survey(parts, Survey::Control(control)).await?;
    written(&Done { missing: names(&findings.missing) })
}

#[derive(Deserialize)]
struct Subscribe {
    channel: String,
    #[serde(default)]
    expire_at: i64,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    recover_since: Option<StreamPosition>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

pub(super) async fn subscribe(parts: &Parts, body: &[u8]) -> Called {
    let call: Subscribe = parse(body)?;
    check_channel(parts, &call.channel)?;
    if parts.sessions.load().namespaces.options(&call.channel).is_none() {
        return Err(ErrorCode::UnknownChannel.into());
    }
    let grant = Grant {
        expires_at: (call.expire_at > 0).then_some(call.expire_at),
        info: bytes("b64info", call.info.as_deref(), call.b64info.as_deref())?,
        data: bytes("b64data", call.data.as_deref(), call.b64data.as_deref())?,
        overrides: call.overrides.unwrap_or_default(),
    };
    let since = call.recover_since.map(|it| Since { epoch: it.epoch, offset: it.offset });
    let action = Action::Subscribe { room: call.channel, grant, since };
    everywhere(parts, parse::<Target>(body)?.control(action)?).await
}

#[derive(Deserialize)]
struct Unsubscribe {
    channel: String,
}

pub(super) async fn unsubscribe(parts: &Parts, body: &[u8]) -> Called {
    let call: Unsubscribe = parse(body)?;
    check_channel(parts, &call.channel)?;
    let action = Action::Unsubscribe { room: call.channel };
    everywhere(parts, parse::<Target>(body)?.control(action)?).await
}

#[derive(Deserialize)]
struct Disconnection {
    #[serde(default)]
    whitelist: Vec<String>,
    disconnect: Option<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    reason: String,
}

/// The longest reason: that of a close frame and its code are 125 bytes.
const MAX_REASON: usize = 123;

pub(super) async fn disconnect(parts: &Parts, body: &[u8]) -> Called {
    let call: Disconnection = parse(body)?;
    let (code, reason) = match call.disconnect {
        Some(it) if it.code != 0 => {
            let code = u16::try_from(it.code).ok().filter(|it| (3000..5000).contains(it));
            let code =
                code.ok_or_else(|| bad_request("disconnect.code must be in 3000 to 4999"))?;
            (code, it.reason)
        }
        _ => {
            let (code, reason) = Disconnect::ForceNoReconnect.parts();
            (code, reason.to_owned())
        }
    };
    if reason.len() > MAX_REASON {
        return Err(bad_request(format!("disconnect.reason has more than {MAX_REASON} bytes")));
    }
    let action = Action::Disconnect { code, reason, except: call.whitelist };
    everywhere(parts, parse::<Target>(body)?.control(action)?).await
}

#[derive(Deserialize)]
struct Refresh {
    #[serde(default)]
    expired: bool,
    #[serde(default)]
    expire_at: i64,
    info: Option<Box<RawValue>>,
}

pub(super) async fn refresh(parts: &Parts, body: &[u8]) -> Called {
    let call: Refresh = parse(body)?;
    let action = Action::Refresh {
        expired: call.expired,
        expires_at: (call.expire_at > 0).then_some(call.expire_at),
        info: call.info.map(|it| Bytes::copy_from_slice(it.get().as_bytes())),
    };
    everywhere(parts, parse::<Target>(body)?.control(action)?).await
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Vec<BTreeMap<String, &'a RawValue>>,
    #[serde(default)]
    parallel: bool,
}

/// The most calls of one batch.
const BATCH_LIMIT: usize = 1_000;

/// One for each call, in their order.
#[derive(Serialize)]
pub(super) struct Replies {
    replies: Vec<BTreeMap<String, Box<RawValue>>>,
}

/// Several calls in one: one after the other, or all at once.
pub(super) async fn batch(parts: &Parts, body: &[u8]) -> Result<Replies, Error> {
    let batch: Batch<'_> = parse(body)?;
    if batch.commands.len() > BATCH_LIMIT {
        return Err(bad_request(format!("commands must be no more than {BATCH_LIMIT}")));
    }
    let calls = batch.commands.iter().map(|command| one_of_batch(parts, command));
    let replies = if batch.parallel {
        futures_util::future::join_all(calls).await
    } else {
        let mut replies = Vec::with_capacity(batch.commands.len());
        for call in calls {
            replies.push(call.await);
        }
        replies
    };
    Ok(Replies { replies: replies.into_iter().collect::<Result<_, _>>()? })
}

/// A reply names the method that it is for; a failure is an `error` in its place.
async fn one_of_batch(
    parts: &Parts,
    command: &BTreeMap<String, &RawValue>,
) -> Result<BTreeMap<String, Box<RawValue>>, Error> {
    let called = match command.iter().next() {
        Some((method, request)) if command.len() == 1 && method != "batch" => {
            let called = super::api::dispatch(parts, method, request.get().as_bytes()).await;
            called.map(|result| (method.clone(), result))
        }
        _ => Err(bad_request("a command is an object with one key, the method, which is no batch")),
    };
    let (name, value) = match called {
        Ok(it) => it,
        Err(error) => ("error".to_owned(), written(&super::api::plain(error))?),
    };
    Ok([(name, value)].into_iter().collect())
}
