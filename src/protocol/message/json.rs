//! How fields are written in JSON: `bytes` as JSON embedded in the message, defaults not at all.

use std::borrow::Cow;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// `bytes` fields are embedded JSON in the JSON format.
pub(super) fn raw_from_json<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let raw = <Option<Box<RawValue>>>::deserialize(from)?;
    Ok(raw.map_or_else(Bytes::new, |raw| {
        Bytes::from(String::from(Box::<str>::from(raw)).into_bytes())
    }))
}

/// The same where `null` is as good a value as any.
pub(super) fn raw_or_null_from_json<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    let raw = Box::<RawValue>::deserialize(from)?;
    Ok(Bytes::from(String::from(Box::<str>::from(raw)).into_bytes()))
}

/// Data published in Protobuf need not be JSON; a JSON client then gets it as a base64 string rather
/// than a broken frame.
pub(super) fn raw_to_json<S: Serializer>(data: &Bytes, to: S) -> Result<S::Ok, S::Error> {
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

pub(super) fn bytes_of_string<'de, D: Deserializer<'de>>(from: D) -> Result<Bytes, D::Error> {
    String::deserialize(from).map(Bytes::from)
}
