//! SHELL. The one port that clients, callers of the API, operators and browsers talk to.
//!
//! [`listener`] is where they come, [`peers`] who each of them is ([`introduction`]: what a proxy says of it; pure).
//! [`http`] builds the service of a worker, [`parts`] is what workers share. [`admission`] says who may connect
//! ([`origin`] from where; pure);
//! then [`upgrade`] turns a WebSocket request into a socket actor, and [`streams`] another request into one that
//! streams its response, whose client sends through [`emulation`]; [`cors`] and [`body`] serve those, and
//! [`tls`] has the certificate. [`api`] is the server API by HTTP ([`calls_json`]: how its bodies are read, pure);
//! what it asks is one of the [`calls`] (pure), [`execution`] does it ([`rooms`]: in rooms; [`queues`]: in their
//! groups; [`control`]: to connections) and says what it came to ([`results`], pure). [`grpc`] serves the same
//! calls on a port of its own. [`key`] is the key of callers (pure),
//! [`status`] health and metrics, [`demo`] the demo's page, [`feed`] who is in the cluster, live, for pages like it, [`leaving`] whether the node is to leave.

pub mod admission;
pub mod api;
pub mod body;
pub mod calls;
pub mod calls_json;
pub mod control;
pub mod cors;
pub mod demo;
pub mod emulation;
pub mod execution;
pub mod feed;
pub mod grpc;
pub mod http;
pub mod introduction;
pub mod key;
pub mod leaving;
pub mod listener;
pub mod map_calls;
pub mod maps;
pub mod origin;
pub mod parts;
pub mod peers;
pub mod queues;
pub mod results;
pub mod rooms;
pub mod status;
pub mod streams;
pub mod tls;
pub mod upgrade;
