//! What tokens say, once their signature is checked.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    fault::Fault,
    grant::{Credentials, Grant, Overrides},
};
use crate::queue::rights::Rights;

/// Unix time in whole seconds. JSON web tokens may say it in fractions (RFC 7519, NumericDate), and some
/// libraries do; those are rounded down.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Seconds(pub i64);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        let whole = number.as_i64().or_else(|| number.as_f64().map(|it| it.floor() as i64));
        whole.map(Self).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}

/// One or several, as JSON web tokens write who they are for.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
        .map(String::as_str)
    }
}

/// All that a token may say. Which of it may be there depends on what the token is for.
#[derive(Debug, Deserialize)]
pub struct Claims {
    /// The user.
    #[serde(default)]
    pub sub: String,
    /// From when on it is not valid any more.
    pub exp: Option<Seconds>,
    /// From when on it is valid.
    pub nbf: Option<Seconds>,
    /// Overrides `exp` for the life of what the token gives; 0 or less: it does not end.
    expire_at: Option<Seconds>,
    /// Whom it is for.
    pub aud: Option<OneOrMany>,
    /// Who made it.
    pub iss: Option<String>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    /// Of a subscription token: the room.
    pub channel: Option<String>,
    /// Of a subscription token: the connection, if it is for one alone.
    pub client: Option<String>,
    #[serde(default, rename = "override")]
    overrides: Option<Overrides>,
    /// Of a subscription token: what may be done with the groups of the room.
    allow: Option<Vec<String>>,
    /// Of a connection token: rooms that the server puts the client into.
    channels: Option<Vec<String>>,
    /// The same, with what comes with each.
    subs: Option<BTreeMap<String, Sub>>,
    meta: Option<Box<RawValue>>,
}

/// What comes with a room of a connection token.
#[derive(Debug, Deserialize)]
struct Sub {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

impl Claims {
    /// As those of a connection token.
    ///
    /// # Errors
    /// If they are those of a subscription token, or what they say in base64 is no base64.
    pub fn connection(self) -> Result<Credentials, Fault> {
        if self.channel.is_some() {
            return Err(Fault::ForRoom);
        }
        let mut rooms = BTreeMap::new();
        for (room, sub) in self.subs.unwrap_or_default() {
            let grant = Grant {
                expires_at: None,
                info: bytes("b64info", sub.info, sub.b64info)?,
                data: bytes("b64data", sub.data, sub.b64data)?,
                overrides: sub.overrides.unwrap_or_default(),
                queue: None,
            };
            rooms.insert(room, grant);
        }
        for room in self.channels.unwrap_or_default() {
            rooms.entry(room).or_default();
        }
        Ok(Credentials {
            user: self.sub.into(),
            info: bytes("b64info", self.info, self.b64info)?,
            expires_at: ends_at(self.expire_at, self.exp),
            meta: bytes("meta", self.meta, None)?,
            data: Bytes::new(),
            rooms: rooms.into_iter().collect(),
        })
    }

    /// As those of a subscription token.
    ///
    /// # Errors
    /// If what they say in base64 is no base64.
    pub fn subscription(self) -> Result<Subscription, Fault> {
        let grant = Grant {
            expires_at: ends_at(self.expire_at, self.exp),
            info: bytes("b64info", self.info, self.b64info)?,
            data: bytes("b64data", self.data, self.b64data)?,
            overrides: self.overrides.unwrap_or_default(),
            queue: self.allow.as_deref().map(Rights::listed),
        };
        let room = self.channel.unwrap_or_default();
        Ok(Subscription { user: self.sub, room, client: self.client.unwrap_or_default(), grant })
    }
}

/// What a subscription token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The user that it is for.
    pub user: String,
    /// The room that it is for.
    pub room: String,
    /// The connection that it is for; empty: any of the user.
    pub client: String,
    /// What it gives.
    pub grant: Grant,
}

fn ends_at(expire_at: Option<Seconds>, exp: Option<Seconds>) -> Option<i64> {
    expire_at.or(exp).map(|at| at.0).filter(|at| *at > 0)
}

/// What is said in base64, or else as JSON.
fn bytes(
    name: &'static str,
    json: Option<Box<RawValue>>,
    base64: Option<String>,
) -> Result<Bytes, Fault> {
    match (base64.filter(|it| !it.is_empty()), json) {
        (Some(text), _) => base64::engine::general_purpose::STANDARD
            .decode(text)
            .map(Bytes::from)
            .map_err(|_| Fault::Base64(name)),
        (None, Some(json)) => Ok(Bytes::from(String::from(Box::<str>::from(json)))),
        (None, None) => Ok(Bytes::new()),
    }
}
