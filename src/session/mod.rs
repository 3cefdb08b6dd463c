//! One client connection: what it may do, what it waits for, what it is told.
//!
//! In: payloads from its socket, answers from the rooms, the passing of time. Out: replies, requests to
//! rooms, a reason to close.
//!
//! Pure: [`state`] decides (with `connecting` for how a connection begins and how long it lives, `subscribing`
//! for the rooms it is in, and `calls` for answers of backends and keys that it waits for), [`reply`] puts
//! answers into the protocol's words, [`id`] names a session, [`handshake`] opens and closes as WebSocket wants
//! it, [`admitted`] is what is known when it begins, [`outbox`] holds what is not written yet, [`timers`] say when to wake which socket,
//! [`transport`] is what carries its messages.
//!
//! Shell: [`driver`] performs what a session says, [`messages`] is what it and the worker's hub say to each other.
//! [`socket`], [`context`] and [`incoming`] are its actor on a
//! WebSocket, the actix context that runs it on a bare connection ([`io`]), and what it reads of that. [`http_stream`]
//! and [`pipe`] are its actor over a streamed response, and the way to that; [`emulated`] finds a session by its
//! id, [`users`] the connections of a user.

pub mod admitted;
mod calls;
mod commands;
mod connecting;
pub mod context;
pub mod driver;
pub mod emulated;
pub mod handshake;
pub mod http_stream;
pub mod id;
pub mod incoming;
pub mod io;
mod keepalive;
pub mod messages;
pub mod outbox;
pub mod pipe;
pub mod reply;
pub mod settings;
pub mod socket;
pub mod state;
mod subscribing;
pub mod timers;
pub mod transport;
pub mod users;
