//! SHELL. What is served by gRPC, on ports of its own: the server API ([`api`]; [`messages`] and [`maps`]: which call a request
//! is, and how its result is written, pure) and the stream of clients that only listen ([`consume`]). [`connections`] takes
//! the connections of a port, bounded in number and in what they may send.

pub mod api;
pub mod connections;
pub mod consume;
pub mod maps;
pub mod messages;
