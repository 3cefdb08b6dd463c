//! One client connection: what it may do, what it waits for, what it is told.
//!
//! In: payloads from its socket, answers from the rooms, the passing of time. Out: replies, requests to
//! rooms, a reason to close. [`state`] decides (with `connecting` for how a connection begins and
//! how long it lives, `subscribing` for the rooms it is in, and `asking` for what others have to say), [`reply`] puts answers into the protocol's
//! words, [`handshake`] opens and closes as WebSocket wants it, [`outbox`] holds what is not
//! written yet, [`alarms`] when whom to wake: all pure. [`socket`], [`context`] and [`incoming`] are the
//! shell: the actor, the actix context that runs it on a bare TCP stream, and what it reads of that.

pub mod alarms;
mod asking;
mod connecting;
pub mod context;
pub mod handshake;
pub mod incoming;
pub mod outbox;
pub mod reply;
pub mod socket;
pub mod state;
mod subscribing;
