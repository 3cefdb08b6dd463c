//! SHELL. What is between the actor of a streamed response and the response's body: one outbox.
//!
//! The actor puts in what its client is to get; the HTTP dispatcher takes it out through [`StreamBody`] as fast as
//! the client does. So what waits is seen and bounded by the actor, and the dispatcher holds no more than one
//! write of it.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use actix::prelude::*;
use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;

use super::{
    context::{Progress, Wire},
    http_stream::{HttpStream, StreamEnded},
    outbox::Outbox,
    reply,
    transport::Transport,
};
use crate::{
    protocol::{codes::Disconnect, encoding::Encoding, message::Reply},
    runtime::time::Time,
};

/// Bytes that one chunk of a response takes at most, unless one message is longer.
const CHUNK: usize = 16 * 1024;

/// How often a body may be asked in vain, between two chunks, before it ends. The dispatcher asks when the client
/// sends something, which no client has reason to do on the connection of a stream; and, once more of that waits
/// than it reads ahead, without end.
const IN_VAIN: u32 = 1000;

struct Pipe {
    outbox: RefCell<Outbox>,
    /// Nothing more comes.
    ended: Cell<bool>,
    /// Set when something was taken.
    progress: Cell<bool>,
    drain_mark: Cell<Option<usize>>,
    taker: RefCell<Option<Waker>>,
}

/// The actor's end of a pipe.
pub struct StreamWriter {
    pipe: Rc<Pipe>,
    /// Set while no more is to be taken from the client.
    pub paused: bool,
    /// Set when more waits than may: whether the client is slow shows once the dispatcher had its turn.
    pub in_doubt: bool,
    /// The doubt is over: the next that exceeds the limit does.
    pub judged: bool,
}

/// The response's end of a pipe.
pub struct StreamBody {
    pipe: Rc<Pipe>,
    wire: Rc<Wire>,
    stream: Addr<HttpStream>,
    in_vain: u32,
}

/// A pipe to a client that reads this encoding, from the actor `stream`.
pub fn pipe(
    encoding: Encoding,
    wire: Rc<Wire>,
    stream: Addr<HttpStream>,
) -> (StreamWriter, StreamBody) {
    let mut outbox = Outbox::new(encoding);
    if !encoding.prelude().is_empty() {
        outbox.push_frame(Bytes::from_static(encoding.prelude()));
    }
    let pipe = Rc::new(Pipe {
        outbox: RefCell::new(outbox),
        ended: Cell::default(),
        progress: Cell::default(),
        drain_mark: Cell::default(),
        taker: RefCell::default(),
    });
    let writer = StreamWriter { pipe: pipe.clone(), paused: false, in_doubt: false, judged: false };
    (writer, StreamBody { pipe, wire, stream, in_vain: 0 })
}

impl StreamWriter {
    /// Whether something was taken since this was last asked.
    pub fn take_progress(&self) -> bool {
        self.pipe.progress.take()
    }

    fn wake(&self) {
        if let Some(taker) = self.pipe.taker.take() {
            taker.wake();
        }
    }
}

impl Transport for StreamWriter {
    fn push_reply(&mut self, reply: &Reply) {
        self.pipe.outbox.borrow_mut().push_reply(reply);
        self.wake();
    }

    fn push_frame(&mut self, frame: Bytes) {
        self.pipe.outbox.borrow_mut().push_frame(frame);
        self.wake();
    }

    fn hold_frame(&mut self, frame: Bytes) {
        self.pipe.outbox.borrow_mut().hold(frame);
    }

    fn release(&mut self) {
        self.pipe.outbox.borrow_mut().release();
        self.wake();
    }

    fn end_batch(&mut self) {
        self.pipe.outbox.borrow_mut().frame_replies();
    }

    fn queued(&self) -> usize {
        self.pipe.outbox.borrow().queued()
    }

    /// The dispatcher runs when the actor does not, so a burst may exceed the limit before the client was
    /// offered anything of it. Twice the limit is too much in any case.
    fn exceeds(&mut self, bytes: usize) -> bool {
        let queued = self.queued();
        self.in_doubt |= queued > bytes;
        queued > 2 * bytes || (self.judged && queued > bytes)
    }

    fn clear(&mut self) {
        self.pipe.outbox.borrow_mut().clear();
    }

    /// Only the dispatcher can.
    fn flush(&mut self) {}

    fn is_open(&self) -> bool {
        !self.pipe.ended.get()
    }

    fn close(&mut self, code: u16, reason: &str) -> Option<Time> {
        if code != Disconnect::ConnectionClosed.parts().0 && self.is_open() {
            self.push_reply(&reply::disconnect(code, reason));
        }
        self.pipe.ended.set(true);
        self.wake();
        None
    }

    fn give_up(&mut self) -> Option<Time> {
        None
    }

    fn pause_reading(&mut self, pause: bool) {
        self.paused = pause;
    }

    fn notify_when_drained_to(&mut self, bytes: usize) {
        self.pipe.drain_mark.set(Some(bytes));
    }
}

impl MessageBody for StreamBody {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        let pipe = self.pipe.clone();
        let mut outbox = pipe.outbox.borrow_mut();
        let Some(chunk) = outbox.take(CHUNK) else {
            self.in_vain += 1;
            if pipe.ended.get() || self.in_vain > IN_VAIN {
                return Poll::Ready(None);
            }
            pipe.taker.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        };
        self.in_vain = 0;
        pipe.progress.set(true);
        self.wire.bytes_sent.inc_by(chunk.len() as u64);
        self.wire.messages_sent.inc();
        if pipe.drain_mark.get().is_some_and(|mark| outbox.queued() <= mark) {
            pipe.drain_mark.set(None);
            self.stream.do_send(Progress::Drained);
        }
        Poll::Ready(Some(Ok(chunk)))
    }
}

/// The response is done, or its connection is gone.
impl Drop for StreamBody {
    fn drop(&mut self) {
        self.pipe.outbox.borrow_mut().forget();
        self.stream.do_send(StreamEnded);
    }
}
