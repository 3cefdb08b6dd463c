//! SHELL. What comes in on a bare connection, as WebSocket frames.

use std::{
    cell::RefCell,
    io,
    task::{Context, Poll},
};

use actix::Message;
use bytes::BytesMut;

use super::io::Io;
use crate::protocol::websocket::{Decoded, Decoder, Violation, WebSocketMessage};

/// Bytes that one read takes at most, per thread and not per socket.
const READ_BUFFER: usize = 64 * 1024;
/// Fragments that one connection may have decoded before the thread's others get their turn.
const FRAGMENTS_PER_TURN: usize = 128;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
}

/// A frame of the client, or how it broke the protocol.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromClient(pub Result<WebSocketMessage, Violation>);

/// The client's frames, as they come in. Ends with the connection.
pub struct Incoming {
    /// Bytes of an unfinished frame.
    rest: BytesMut,
    decoder: Decoder,
    /// See [`Io::poll_read`].
    awaited: bool,
    /// The client broke the protocol: what else it sends is read and thrown away, since a socket that is
    /// closed with bytes unread is reset, and then the client never sees the close frame.
    broken: bool,
    ended: bool,
}

impl Incoming {
    /// What comes after `rest`, which was read already.
    pub fn new(rest: BytesMut) -> Self {
        Self { rest, decoder: Decoder::default(), awaited: false, broken: false, ended: false }
    }

    fn decode(&mut self, limit: usize, deflate: bool) -> Result<Decoded, Violation> {
        if self.broken {
            self.rest.clear();
        }
        if self.rest.is_empty() {
            return Ok(Decoded::Incomplete);
        }
        let decoded = self.decoder.decode(&mut self.rest, limit, deflate);
        self.broken = decoded.is_err();
        if self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
        decoded
    }

    fn read(&mut self, io: &Io, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let count = std::task::ready!(io.poll_read(cx, buffer, &mut self.awaited))?;
            self.ended = count == 0;
            self.rest.extend_from_slice(&buffer[..count]);
            Poll::Ready(Ok(()))
        })
    }

    /// The next of them, read from `io`; none after the last. `limit` is the largest message allowed; with `deflate`,
    /// messages may be compressed.
    pub fn poll_next(
        &mut self,
        io: &Io,
        limit: usize,
        deflate: bool,
        cx: &mut Context<'_>,
    ) -> Poll<Option<FromClient>> {
        let mut fragments = 0;
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            match self.decode(limit, deflate) {
                Ok(Decoded::Message(frame)) => return Poll::Ready(Some(FromClient(Ok(frame)))),
                Err(violation) => return Poll::Ready(Some(FromClient(Err(violation)))),
                Ok(Decoded::Fragment) if fragments < FRAGMENTS_PER_TURN => {
                    fragments += 1;
                    continue;
                }
                Ok(Decoded::Fragment) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(Decoded::Incomplete) => {}
            }
            if std::task::ready!(self.read(io, cx)).is_err() {
                return Poll::Ready(None);
            }
        }
    }
}
