//! What carries a session's messages to its client: a WebSocket or a streamed response.

use bytes::Bytes;

use crate::{protocol::message::Reply, runtime::time::Time};

/// What a driver needs of a connection.
pub trait Transport {
    /// Adds a reply or push for this client alone.
    fn push_reply(&mut self, reply: &Reply);
    /// Adds bytes that are complete, and may be shared with other connections.
    fn push_frame(&mut self, frame: Bytes);
    /// Adds some that must not leave before [`Transport::release`].
    fn hold_frame(&mut self, frame: Bytes);
    /// What was held may leave.
    fn release(&mut self);
    /// The replies so far leave together.
    fn end_batch(&mut self);
    /// What waits, in bytes, with what it costs to keep them.
    fn queued(&self) -> usize;
    /// Whether the client has had its chance to take what waits, and left more than this.
    fn exceeds(&mut self, bytes: usize) -> bool;
    /// Forgets what waits.
    fn clear(&mut self);
    /// Offers the client what waits, if that can be done now.
    fn flush(&mut self);
    /// Whether messages can still be sent and received.
    fn is_open(&self) -> bool;
    /// Starts the close. Returns the deadline for the client's side of it, if that is awaited.
    fn close(&mut self, code: u16, reason: &str) -> Option<Time>;
    /// Ends a connection whose client has not closed in time. Returns the deadline instead, if that has yet to come.
    fn give_up(&mut self) -> Option<Time>;
    /// Whether to take no more from the client for now.
    fn pause_reading(&mut self, pause: bool);
    /// Sends [`Progress::Drained`](super::context::Progress::Drained) once no more than this waits.
    fn notify_when_drained_to(&mut self, bytes: usize);
}
