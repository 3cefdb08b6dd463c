//! One client connection: what it may do, what it waits for, what it is told.
//!
//! In: payloads from its socket, answers from the rooms, the passing of time. Out: replies, requests to
//! rooms, a reason to close. [`state`] decides (with `connecting` for how a connection begins and how long it
//! lives, `subscribing` for the rooms it is in, and `asking` for what others have to say), [`reply`] puts answers into the protocol's words, [`id`]
//! names a session, [`handshake`] opens and closes as WebSocket wants it, [`outbox`] holds what is not written
//! yet, [`alarms`] when whom to wake: all pure. The rest is the shell. [`driver`] performs what a session says.
//! [`socket`], [`context`] and [`incoming`] are its actor on a WebSocket, the actix context that runs it on a
//! bare connection ([`io`]), and what it reads of that. [`stream`] and [`pipe`] are its actor over a streamed
//! response, and the way to that; [`sessions`] finds a session by its id,
//! [`users`] finds the connections of a user.

pub mod alarms;
mod asking;
mod connecting;
pub mod context;
pub mod driver;
pub mod handshake;
pub mod id;
pub mod incoming;
pub mod io;
pub mod outbox;
pub mod pipe;
pub mod reply;
pub mod sessions;
pub mod socket;
pub mod state;
pub mod stream;
mod subscribing;
pub mod users;
