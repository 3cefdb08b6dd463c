//! Keys that clients track and the node polls, for all of them together.
//!
//! In: which keys of which rooms clients track ([`state::Request`]), what the application's backend says of them, the
//! passing of time. Out: what to ask the backend, and what of its answers which client lacks.
//!
//! A client subscribes to a room of such a namespace, and tracks keys by a [`signature`] of the application. Every
//! `refresh_interval` the node asks the backend for all keys of the room that anyone tracks, in batches, and a client gets
//! what is newer than what it has. Nothing is kept but the versions: what a client lacks is asked for again.
//!
//! In a cluster one node polls a room for all of them ([`peers`]): the others tell it which keys their clients track, and it
//! passes on what the backend says. Whoever can't reach it polls by itself.
//!
//! Pure: [`state`] has all rooms, `channel` one of them (its keys, who tracks them, what is new to whom), `relay` and
//! `exchange` what goes from node to node, `schedule` says when which keys are asked for, [`options`] how. Shell: [`actor`], one per node.

pub mod actor;
mod channel;
mod exchange;
pub mod options;
pub mod peers;
mod relay;
mod schedule;
pub mod signature;
pub mod state;
