//! One client connection: its permissions, its requests under way, and what it is sent.
//!
//! In: payloads from its socket, answers from the rooms, the passing of time. Out: replies, requests to
//! rooms, a reason to close.
//!
//! Pure: [`state`] takes inputs and says what is to be done. Its parts are `connecting` (how a connection begins, and
//! its refreshes), `commands` (what a client may ask of rooms), `subscribing`, `subscription` and `unsubscribing` (the
//! rooms it is in), `polling` (those whose keys it tracks), `streaming` (those for which a
//! backend has a stream), `filter` (which of their publications it wants), `calls` (what backends and key servers are asked)
//! and `keepalive` (pings and expiry); [`settings`] is what all of them go by. [`reply`] puts answers into the
//! protocol's words, [`id`] names a session, [`admitted`] is what is known when it begins, [`handshake`] opens and
//! closes as WebSocket wants it, [`outbox`] holds what is not written yet, [`timers`] say when to wake which socket,
//! [`transport`] is what carries a session's messages.
//!
//! Shell: [`driver`] performs what a session says, [`messages`] is what it and the worker's hub say to each other.
//! [`socket`], [`context`] and [`incoming`] are its actor on a WebSocket, the actix context that runs it on a bare
//! connection ([`io`]), and what it reads of that. [`http_stream`] and [`pipe`] are its actor over a streamed response, and
//! the way to that; [`emulated`] finds a session by its id.

pub mod admitted;
mod calls;
mod commands;
mod connecting;
pub mod consuming;
pub mod context;
pub mod driver;
pub mod emulated;
mod filter;
pub mod handshake;
pub mod http_stream;
pub mod id;
pub mod incoming;
pub mod io;
mod keepalive;
mod maps;
pub mod messages;
pub mod outbox;
pub mod pipe;
mod polling;
pub mod reply;
pub mod settings;
pub mod socket;
pub mod state;
mod streaming;
mod subscribing;
mod subscription;
pub mod timers;
pub mod transport;
mod unsubscribing;
