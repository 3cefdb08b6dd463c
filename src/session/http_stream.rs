//! SHELL. The actor of one connection whose server side is a streamed HTTP response.
//!
//! What its client sends comes by requests of their own, as [`Emulated`]; what the client gets goes through a
//! [`Tap`]. Everything between is its [`Driver`]'s, as with a WebSocket.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    context::Progress,
    driver::{Driver, Line as _},
    id::SessionId,
    messages::ToSocket,
    pipe::Tap,
    sessions::Sessions,
    state::In,
};
use crate::protocol::codes::Disconnect;

/// How long the dispatcher may take until it has offered a burst to the client.
const DOUBT: Duration = Duration::from_millis(50);

/// The most bytes of commands that wait while the client has to be slowed down, in messages of the greatest
/// size: it is not held up by what it sends, so this has to be bounded.
const WAITING: usize = 4;

/// One client connection.
pub struct HttpStream {
    driver: Driver,
    tap: Tap,
    /// Where requests find it, unless its client only listens.
    entry: Option<(Arc<Sessions>, SessionId)>,
    /// Commands that wait until fewer are under way.
    waiting: VecDeque<Bytes>,
    /// Whether it is being watched if the client takes something, and if it is slow.
    watching: bool,
    doubting: bool,
}

impl HttpStream {
    /// The actor of what `driver` drives; `first` is what came with the request.
    pub fn new(
        driver: Driver,
        tap: Tap,
        first: Bytes,
        entry: Option<(Arc<Sessions>, SessionId)>,
    ) -> Self {
        let waiting = VecDeque::from([first]);
        Self { driver, tap, entry, waiting, watching: false, doubting: false }
    }

    /// To be called after whatever has happened.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        while !self.tap.held && self.tap.is_open() {
            let Some(payload) = self.waiting.pop_front() else { break };
            self.driver.payload(payload, &mut self.tap);
        }
        self.waiting.shrink_to(4);
        if !self.tap.is_open() {
            return ctx.stop();
        }
        self.watch(ctx);
        self.doubt(ctx);
    }

    /// Sees to it that a client is let go that takes nothing of what waits for it.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        let timeout = self.driver.shared().wire.write_timeout;
        if self.watching || self.tap.queued() == 0 || timeout.is_zero() {
            return;
        }
        self.watching = true;
        self.tap.take_progress();
        ctx.run_later(timeout, |stream, ctx| {
            stream.watching = false;
            if stream.tap.queued() > 0 && !stream.tap.take_progress() {
                stream.driver.progress(Progress::Stalled, &mut stream.tap);
            }
            stream.settle(ctx);
        });
    }

    /// Lets a client go for which more waits than may, if that is still so in a moment.
    fn doubt(&mut self, ctx: &mut Context<Self>) {
        if self.doubting || !std::mem::take(&mut self.tap.in_doubt) {
            return;
        }
        self.doubting = true;
        ctx.run_later(DOUBT, |stream, ctx| {
            stream.doubting = false;
            stream.tap.judged = true;
            stream.driver.regulate(&mut stream.tap);
            stream.tap.judged = false;
            stream.tap.in_doubt = false;
            stream.settle(ctx);
        });
    }
}

impl Actor for HttpStream {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some((sessions, id)) = &self.entry {
            sessions.enter(*id, ctx.address());
        }
        self.driver.input(In::Opened, &mut self.tap);
        self.settle(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some((sessions, id)) = &self.entry {
            sessions.leave(id);
        }
        self.driver.stopped(&mut self.tap);
        // Also when nobody has said goodbye: the body must not wait for more.
        self.tap.close(Disconnect::ConnectionClosed.parts().0, "");
    }
}

/// Commands that came by a request of their own.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Emulated(pub Bytes);

impl Handler<Emulated> for HttpStream {
    type Result = ();

    fn handle(&mut self, Emulated(payload): Emulated, ctx: &mut Self::Context) {
        self.waiting.push_back(payload);
        self.settle(ctx);
        let waiting: usize = self.waiting.iter().map(Bytes::len).sum();
        if waiting > WAITING * self.driver.shared().wire.message_limit {
            self.driver.input(In::Disconnect(Disconnect::TooManyRequests), &mut self.tap);
            self.settle(ctx);
        }
    }
}

/// The response is done, or its connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Gone;

impl Handler<Gone> for HttpStream {
    type Result = ();

    fn handle(&mut self, _: Gone, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Progress> for HttpStream {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Self::Context) {
        self.driver.progress(progress, &mut self.tap);
        self.settle(ctx);
    }
}

impl Handler<ToSocket> for HttpStream {
    type Result = ();

    fn handle(&mut self, message: ToSocket, ctx: &mut Self::Context) {
        self.driver.told(message, &mut self.tap);
        self.settle(ctx);
    }
}
