//! SHELL. The actix context that runs an actor on a bare connection that speaks WebSocket.
//!
//! It keeps no buffers while a connection is idle: reads go through one buffer per thread, and bytes stay
//! with a socket only while a frame is unfinished or the client has not taken what is in its outbox. What
//! the WebSocket protocol itself asks for it does itself, so the actor sees messages only.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use actix::{
    dev::{AsyncContextParts, ContextFut, ContextParts, Envelope, Mailbox, ToEnvelope},
    prelude::*,
};
use bytes::{Bytes, BytesMut};
use prometheus::IntCounter;
use tokio::{
    sync::oneshot,
    time::{Sleep, sleep},
};

use super::{
    handshake::{Handshake, Received},
    incoming::{FromClient, Incoming},
    io::Io,
    outbox::Outbox,
};
use crate::{
    protocol::{encoding::Encoding, websocket::Violation},
    runtime::clock,
};

/// The most buffers that one write takes.
const WRITE_BATCH: usize = 16;
/// Frames of one client that are dealt with before the thread's others get their turn.
const FRAMES_PER_TURN: usize = 16;

/// What all connections of a thread go by.
pub struct Wire {
    /// The largest message from a client, in bytes.
    pub message_limit: usize,
    /// How long a client may read nothing while output waits for it; zero: for ever.
    pub write_timeout: Duration,
    /// Frames written.
    pub messages_sent: IntCounter,
    /// Bytes written.
    pub bytes_sent: IntCounter,
}

/// What a context tells its actor about the writing.
#[derive(Message)]
#[rtype(result = "()")]
pub enum Progress {
    /// No more waits than was asked by [`SocketContext::notify_when_drained_to`].
    Drained,
    /// Something waits, and for [`Wire::write_timeout`] the client has taken nothing.
    Stalled,
}

/// What a client sends to an actor.
pub enum Data {
    /// A text message.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
}

/// The context of an actor that is one end of a WebSocket connection.
pub struct SocketContext<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
    io: Io,
    wire: Rc<Wire>,
    handshake: Handshake,
    incoming: Incoming,
    /// Set while no more is to be taken from the client.
    paused: bool,
    /// The client broke the protocol: after the close frame, nothing more is sent.
    broken: bool,
    drain_mark: Option<usize>,
    /// Set when the client has taken something.
    progress: bool,
    /// What is to be written.
    pub outbox: Outbox,
}

impl<A> SocketContext<A>
where
    A: Actor<Context = Self> + Handler<FromClient> + Handler<Progress>,
{
    /// A context on `io`, of which `rest` was read already, and the mailbox that belongs to it.
    pub fn new(io: Io, rest: BytesMut, encoding: Encoding, wire: Rc<Wire>) -> (Self, Mailbox<A>) {
        let mailbox = Mailbox::default();
        let parts = ContextParts::new(mailbox.sender_producer());
        let context = Self {
            parts,
            io,
            wire,
            handshake: Handshake::default(),
            incoming: Incoming::new(rest),
            paused: false,
            broken: false,
            drain_mark: None,
            progress: false,
            outbox: Outbox::new(encoding),
        };
        (context, mailbox)
    }

    /// Runs `actor` on this thread until it stops and its last frames are written. As any actor, it stops when
    /// nobody has its address any more.
    pub fn run(self, actor: A, mailbox: Mailbox<A>) {
        actix_rt::spawn(Run {
            actor: ContextFut::new(self, actor, mailbox),
            done: false,
            stall: None,
        });
    }
}

impl<A: Actor<Context = Self>> SocketContext<A> {
    /// Takes what the client sent, and gives what the actor has to deal with: a message, or a violation to
    /// close the connection for. Pings and the close handshake are seen to.
    pub fn receive(&mut self, frame: FromClient) -> Option<Result<Data, Violation>> {
        match self.handshake.receive(frame.0) {
            Received::Text(payload) => return Some(Ok(Data::Text(payload))),
            Received::Binary(payload) => return Some(Ok(Data::Binary(payload))),
            Received::Violation(violation) => {
                self.broken = true;
                return Some(Err(violation));
            }
            Received::Ping(payload) => self.pong(&payload),
            Received::Over(answer) => {
                if let Some(answer) = answer {
                    self.outbox.push_frame(answer);
                }
                self.parts.stop();
            }
            Received::Nothing => {}
        }
        None
    }

    /// Each ping is answered while the client takes the answers; else only the last.
    fn pong(&mut self, payload: &[u8]) {
        if self.outbox.has_pong() {
            self.flush();
        }
        self.outbox.push_pong(payload);
    }

    /// Whether messages can still be sent and received.
    pub fn is_open(&self) -> bool {
        self.handshake.is_open()
    }

    /// Sends a close frame, and gives the client time to send its own. Says until when; whoever runs the
    /// actor has to call [`SocketContext::give_up`] then.
    pub fn close(&mut self, code: u16, reason: &str) -> Option<crate::runtime::time::Time> {
        let frame = self.handshake.close(code, reason, clock::now())?;
        self.outbox.push_frame(frame);
        self.handshake.closing_until()
    }

    /// Ends a connection whose client has not answered the close frame in time. If there is time left, it
    /// says until when.
    pub fn give_up(&mut self) -> Option<crate::runtime::time::Time> {
        let until = self.handshake.closing_until().filter(|until| *until > clock::now());
        if until.is_none() {
            self.end();
        }
        until
    }

    /// The connection is over.
    pub fn end(&mut self) {
        self.handshake.end();
        self.parts.stop();
    }

    /// Whether to take no more from the client for now.
    pub fn pause_reading(&mut self, pause: bool) {
        self.paused = pause;
    }

    /// What the client sent next, unless no more is to be taken from it. That ends by something that the actor
    /// handles, and then this is asked again.
    fn poll_incoming(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<FromClient>> {
        if self.paused {
            return Poll::Pending;
        }
        let deflate = self.outbox.encoding().is_deflated();
        self.incoming.poll_next(&self.io, self.wire.message_limit, deflate, cx)
    }

    /// Sends [`Progress::Drained`] once no more than this waits in the outbox.
    pub fn notify_when_drained_to(&mut self, bytes: usize) {
        self.drain_mark = Some(bytes);
    }

    /// Writes what the client takes at once.
    ///
    /// What an actor does comes before its context writes, so that frames leave together. Before it judges
    /// that a client takes too little, it has to offer it something; and to the socket itself, since the
    /// kernel reports that there is room again only when there is a lot.
    pub fn flush(&mut self) {
        self.outbox.frame_replies();
        while let Some(Ok(_)) = self.write_some(true) {}
    }

    /// One write; none if nothing waits.
    fn write_some(&mut self, direct: bool) -> Option<io::Result<usize>> {
        let result = match self.outbox.only() {
            Some(frame) => self.io.write(&[IoSlice::new(frame)], direct),
            None if self.outbox.is_empty() => return None,
            None => {
                let mut slices = [IoSlice::new(&[]); WRITE_BATCH];
                let count = self.outbox.slices(&mut slices);
                self.io.write(&slices[..count], direct)
            }
        };
        if let Ok(written) = result {
            self.progress = true;
            self.wire.bytes_sent.inc_by(written as u64);
            self.wire.messages_sent.inc_by(self.outbox.advance(written));
        }
        Some(result)
    }

    /// Writes as much as the client takes, and arranges to be called again when it takes more.
    fn poll_write(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        self.outbox.frame_replies();
        while let Some(result) = self.write_some(false) {
            match result {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.io.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.poll_push(cx)
    }

    /// Nothing waits any more, but TLS may hold the last of it.
    fn poll_push(&mut self, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.io.push(false) {
                Ok(pushed) => {
                    self.progress |= pushed;
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::task::ready!(self.io.poll_write_ready(cx))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ends the sending half of a connection that failed, after its last frame. Nothing the client sends
    /// can be made sense of any more, not even its close frame; this lets it see that it may go. The
    /// receiving half stays, since a socket closed with bytes unread is reset, and the close frame lost with it.
    fn finish_broken(&mut self) {
        if self.broken && !self.is_open() {
            self.broken = false;
            self.io.shutdown_write();
        }
    }

    /// Whether to notify the actor now that the outbox is down to the mark it set.
    fn is_drained(&mut self) -> bool {
        let drained = self.drain_mark.is_some_and(|mark| self.outbox.queued() <= mark);
        if drained {
            self.drain_mark = None;
        }
        drained
    }
}

impl<A: Actor<Context = Self>> ActorContext for SocketContext<A> {
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

impl<A: Actor<Context = Self>> AsyncContext<A> for SocketContext<A> {
    fn spawn<F>(&mut self, future: F) -> SpawnHandle
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.parts.spawn(future)
    }

    fn wait<F>(&mut self, future: F)
    where
        F: ActorFuture<A, Output = ()> + 'static,
    {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }

    fn address(&self) -> Addr<A> {
        self.parts.address()
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for SocketContext<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

impl<A, M> ToEnvelope<A, M> for SocketContext<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn pack(message: M, reply: Option<oneshot::Sender<M::Result>>) -> Envelope<A> {
        Envelope::new(message, reply)
    }
}

/// Runs the actor until it stops and its last frames are written.
struct Run<A: Actor<Context = SocketContext<A>>> {
    actor: ContextFut<A, SocketContext<A>>,
    done: bool,
    /// Runs while the client reads nothing although something waits for it.
    stall: Option<Pin<Box<Sleep>>>,
}

impl<A> Run<A>
where
    A: Actor<Context = SocketContext<A>> + Handler<Progress>,
{
    /// Whether a client that is `blocked` has taken nothing for too long. Arranges to be called again when
    /// that may be so.
    fn is_stalled(&mut self, blocked: bool, cx: &mut TaskContext<'_>) -> bool {
        let ctx = self.actor.ctx();
        let progress = std::mem::take(&mut ctx.progress);
        let timeout = ctx.wire.write_timeout;
        if !blocked || progress || !ctx.is_open() {
            self.stall = None;
        }
        if !blocked || timeout.is_zero() || !ctx.is_open() {
            return false;
        }
        let stall = self.stall.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if stall.as_mut().poll(cx).is_pending() {
            return false;
        }
        self.stall = None;
        ctx.flush();
        if std::mem::take(&mut ctx.progress) {
            // It took something after all, so its time begins again with the next call.
            cx.waker().wake_by_ref();
            return false;
        }
        true
    }
}

impl<A> Future for Run<A>
where
    A: Actor<Context = SocketContext<A>> + Handler<FromClient> + Handler<Progress>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let this = self.get_mut();
        let mut frames = 0;
        loop {
            if !this.done {
                this.done = Pin::new(&mut this.actor).poll(cx).is_ready();
            }
            let ctx = this.actor.ctx();
            // Before anything is written, so that what is answered leaves together.
            if !this.done
                && frames < FRAMES_PER_TURN
                && let Poll::Ready(frame) = ctx.poll_incoming(cx)
            {
                frames += 1;
                match frame {
                    Some(frame) => ctx.notify(frame),
                    None => ctx.end(),
                }
                continue;
            }
            let written = ctx.poll_write(cx);
            // A client that reads nothing must not keep a stopped actor.
            if this.done {
                ctx.io.say_goodbye();
                return Poll::Ready(());
            }
            match written {
                // The reading side will see that the connection is gone and stop the actor.
                Poll::Ready(Err(_)) => ctx.outbox.forget(),
                Poll::Ready(Ok(())) => ctx.finish_broken(),
                Poll::Pending => {}
            }
            if ctx.is_drained() {
                ctx.notify(Progress::Drained);
                continue;
            }
            if !this.is_stalled(written.is_pending(), cx) {
                if frames == FRAMES_PER_TURN {
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
            this.actor.ctx().notify(Progress::Stalled);
        }
    }
}

impl<A: Actor<Context = SocketContext<A>>> Unpin for Run<A> {}
