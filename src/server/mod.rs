//! SHELL. The one port that clients, callers of the API, operators and browsers talk to.
//!
//! [`http`] builds the service of a worker, [`parts`] is what workers share; [`upgrade`] turns a WebSocket request into a socket actor;
//! [`api`] is the server API ([`control`]: what it does to connections) and [`key`] its key (pure), [`status`] health and metrics, [`demo`] the demo's
//! page, [`leaving`] whether the node is to leave.

pub mod api;
pub mod control;
pub mod demo;
pub mod http;
pub mod key;
pub mod leaving;
pub mod parts;
pub mod status;
pub mod upgrade;
