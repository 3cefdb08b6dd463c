//! The messages of the protocol, each defined once for both formats: `prost` gives Protobuf by the
//! field numbers, `serde` gives JSON by the field names.
//!
//! Only the fields that Roomcast reads or writes are listed; both formats skip unknown ones.
//!
//! [`Command`] is what clients send, [`Reply`] what the server does: an answer, or a [`Push`].

mod command;
mod json;
mod push;
mod reply;

use serde::{Deserialize, Serialize};

pub use self::{command::*, json::json_of, push::*, reply::*};

/// A message without fields.
#[derive(Clone, PartialEq, prost::Message, Serialize, Deserialize)]
pub struct Empty {}

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
