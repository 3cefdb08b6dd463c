//! SHELL. The actix context that runs a [`Socket`] on a bare TCP stream.
//!
//! It keeps no buffers while a connection is idle: reads go through one buffer per thread, and bytes stay
//! with a socket only while a frame is unfinished or the client has not taken what is in its outbox.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context as TaskContext, Poll},
};

use actix::{
    dev::{AsyncContextParts, ContextFut, ContextParts, Envelope, Mailbox, ToEnvelope},
    prelude::*,
};
use bytes::BytesMut;
use futures_core::Stream;
use tokio::{net::TcpStream, sync::oneshot};

use super::{outbox::Outbox, socket::Socket};
use crate::protocol::websocket::{Decoded, Decoder, Message as Frame, Violation};

/// The most buffers that one write takes.
const WRITE_BATCH: usize = 16;
/// Bytes that one read takes at most, per thread and not per socket.
const READ_BUFFER: usize = 64 * 1024;

/// Fragments that one connection may have decoded before the thread's others get their turn.
const FRAGMENTS_PER_TURN: usize = 128;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BUFFER].into_boxed_slice());
}

/// The context of a socket actor.
pub struct SocketContext {
    parts: ContextParts<Socket>,
    /// What is to be written.
    pub outbox: Outbox,
}

impl SocketContext {
    /// A context, and the mailbox that belongs to it.
    pub fn new() -> (Self, Mailbox<Socket>) {
        let mailbox = Mailbox::default();
        let parts = ContextParts::new(mailbox.sender_producer());
        (Self { parts, outbox: Outbox::default() }, mailbox)
    }
}

impl ActorContext for SocketContext {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl AsyncContext<Socket> for SocketContext {
    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<Socket, Output = ()> + 'static,
    {
        self.parts.spawn(future)
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<Socket, Output = ()> + 'static,
    {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }

    fn address(&self) -> Addr<Socket> {
        self.parts.address()
    }
}

impl AsyncContextParts<Socket> for SocketContext {
    fn parts(&mut self) -> &mut ContextParts<Socket> {
        &mut self.parts
    }
}

impl<M> ToEnvelope<Socket, M> for SocketContext
where
    Socket: Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, reply: Option<oneshot::Sender<M::Result>>) -> Envelope<Socket> {
        Envelope::new(message, reply)
    }
}

/// The client's frames, as they come in. Ends with the connection.
pub struct Incoming {
    io: Rc<TcpStream>,
    /// Bytes of an unfinished frame.
    rest: BytesMut,
    decoder: Decoder,
    limit: usize,
    /// Set while no more is to be taken.
    busy: Rc<Cell<bool>>,
    /// The client broke the protocol: what else it sends is read and thrown away, since a socket that is
    /// closed with bytes unread is reset, and then the client never sees the close frame.
    broken: bool,
    ended: bool,
}

impl Incoming {
    /// Reads from `io`, after what was read of it already, unless `busy`. `limit` is the largest message
    /// allowed.
    pub fn new(io: Rc<TcpStream>, rest: BytesMut, limit: usize, busy: Rc<Cell<bool>>) -> Self {
        Self { io, rest, decoder: Decoder::default(), limit, busy, broken: false, ended: false }
    }

    fn decode(&mut self) -> Option<Result<Decoded, Violation>> {
        if self.broken {
            self.rest.clear();
        }
        if self.rest.is_empty() {
            return None;
        }
        match self.decoder.decode(&mut self.rest, self.limit) {
            Ok(Decoded::Incomplete) => None,
            Ok(decoded) => {
                if self.rest.is_empty() {
                    self.rest = BytesMut::new();
                }
                Some(Ok(decoded))
            }
            Err(violation) => {
                self.broken = true;
                Some(Err(violation))
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        BUFFER.with_borrow_mut(|buffer| {
            let count = self.io.try_read(buffer)?;
            self.ended = count == 0;
            self.rest.extend_from_slice(&buffer[..count]);
            Ok(())
        })
    }
}

impl Stream for Incoming {
    type Item = Result<Frame, Violation>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let mut fragments = 0;
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            // The answer that ends it comes through the actor's mailbox, and that polls this again.
            if self.busy.get() {
                return Poll::Pending;
            }
            match self.decode() {
                Some(Ok(Decoded::Message(frame))) => return Poll::Ready(Some(Ok(frame))),
                Some(Err(violation)) => return Poll::Ready(Some(Err(violation))),
                Some(Ok(_)) if fragments < FRAGMENTS_PER_TURN => {
                    fragments += 1;
                    continue;
                }
                Some(Ok(_)) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                None => {}
            }
            match self.io.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(())) => {}
            }
            match self.read() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(None),
            }
        }
    }
}

/// Runs the actor until it stops and its last frames are written.
pub struct Run {
    actor: ContextFut<Socket, SocketContext>,
    io: Rc<TcpStream>,
    done: bool,
}

impl Run {
    /// Runs `socket` in `context`, writing to `io`.
    pub fn new(
        context: SocketContext,
        socket: Socket,
        mailbox: Mailbox<Socket>,
        io: Rc<TcpStream>,
    ) -> Self {
        Self { actor: ContextFut::new(context, socket, mailbox), io, done: false }
    }
}

impl Future for Run {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.done {
            this.done = Pin::new(&mut this.actor).poll(cx).is_ready();
        }
        let written = write(&this.io, &mut this.actor.ctx().outbox, cx);
        match written {
            Poll::Ready(Ok(())) if this.done => Poll::Ready(()),
            Poll::Ready(Ok(())) => Poll::Pending,
            // The reading side will see that the connection is gone and stop the actor.
            Poll::Ready(Err(_)) if this.done => Poll::Ready(()),
            Poll::Ready(Err(_)) => {
                this.actor.ctx().outbox = Outbox::default();
                Poll::Pending
            }
            // A client that takes nothing must not keep a stopped actor.
            Poll::Pending if this.done => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Writes as much as the socket takes. Frames that wait leave in one write.
fn write(io: &TcpStream, outbox: &mut Outbox, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
    while !outbox.is_empty() {
        let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
        let count = outbox.slices(&mut slices);
        let result = match &slices[..count] {
            [] => return Poll::Ready(Ok(())),
            [only] => io.try_write(only),
            several => io.try_write_vectored(several),
        };
        match result {
            Ok(written) => outbox.advance(written),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match io.poll_write_ready(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
    Poll::Ready(Ok(()))
}
