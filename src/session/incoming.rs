//! SHELL. What comes in on a bare connection, as WebSocket frames.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use futures_core::Stream;

use super::io::Io;
use crate::protocol::websocket::{Decoded, Decoder, Message, Violation};

/// Bytes that one read takes at most, per thread and not per socket.
const READ_BUFFER: usize = 64 * 1024;
/// Fragments that one connection may have decoded before the thread's others get their turn.
const FRAGMENTS_PER_TURN: usize = 128;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
}

/// A frame of the client, or how it broke the protocol.
pub type FromClient = Result<Message, Violation>;

/// The client's frames, as they come in. Ends with the connection.
pub struct Incoming {
    io: Rc<Io>,
    /// Bytes of an unfinished frame.
    rest: BytesMut,
    decoder: Decoder,
    limit: usize,
    hold: Rc<Cell<bool>>,
    /// The client broke the protocol: what else it sends is read and thrown away, since a socket that is
    /// closed with bytes unread is reset, and then the client never sees the close frame.
    broken: bool,
    ended: bool,
}

impl Incoming {
    /// Reads from `io`, after what was read of it already, while `hold` is not set. `limit` is the largest
    /// message allowed.
    pub fn new(io: Rc<Io>, rest: BytesMut, limit: usize, hold: Rc<Cell<bool>>) -> Self {
        Self { io, rest, decoder: Decoder::default(), limit, hold, broken: false, ended: false }
    }

    fn decode(&mut self) -> Result<Decoded, Violation> {
        if self.broken {
            self.rest.clear();
        }
        if self.rest.is_empty() {
            return Ok(Decoded::Incomplete);
        }
        let decoded = self.decoder.decode(&mut self.rest, self.limit);
        self.broken = decoded.is_err();
        if self.rest.is_empty() {
            self.rest = BytesMut::new();
        }
        decoded
    }

    fn read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let count = std::task::ready!(self.io.poll_read(cx, buffer))?;
            self.ended = count == 0;
            self.rest.extend_from_slice(&buffer[..count]);
            Poll::Ready(Ok(()))
        })
    }
}

impl Stream for Incoming {
    type Item = FromClient;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut fragments = 0;
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            // What ends it comes through the actor's mailbox, and that polls this again.
            if self.hold.get() {
                return Poll::Pending;
            }
            match self.decode() {
                Ok(Decoded::Message(frame)) => return Poll::Ready(Some(Ok(frame))),
                Err(violation) => return Poll::Ready(Some(Err(violation))),
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
            if std::task::ready!(self.read(cx)).is_err() {
                return Poll::Ready(None);
            }
        }
    }
}
