//! SHELL. The actor of one connection whose server side is a streamed HTTP response.
//!
//! What its client sends comes by requests of their own, as [`EmulatedCommands`]; what the client gets goes through a
//! [`StreamWriter`]. Everything between is its [`Driver`]'s, as with a WebSocket.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    context::Progress, driver::Driver, emulated::EmulatedSessions, id::SessionId,
    messages::ToSocket, pipe::StreamWriter, state::In, transport::Transport as _,
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
    writer: StreamWriter,
    /// Where requests find it, unless its client only listens.
    entry: Option<(Arc<EmulatedSessions>, SessionId)>,
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
        writer: StreamWriter,
        first: Bytes,
        entry: Option<(Arc<EmulatedSessions>, SessionId)>,
    ) -> Self {
        let waiting = VecDeque::from([first]);
        Self { driver, writer, entry, waiting, watching: false, doubting: false }
    }

    /// To be called after whatever has happened.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        while !self.writer.paused && self.writer.is_open() {
            let Some(payload) = self.waiting.pop_front() else { break };
            self.driver.payload(payload, &mut self.writer);
        }
        self.waiting.shrink_to(4);
        if !self.writer.is_open() {
            return ctx.stop();
        }
        self.watch(ctx);
        self.doubt(ctx);
    }

    /// Closes the connection of a client that reads nothing while output waits for it.
    fn watch(&mut self, ctx: &mut Context<Self>) {
        let timeout = self.driver.shared().wire.write_timeout;
        if self.watching || self.writer.queued() == 0 || timeout.is_zero() {
            return;
        }
        self.watching = true;
        self.writer.take_progress();
        ctx.run_later(timeout, |stream, ctx| {
            stream.watching = false;
            if stream.writer.queued() > 0 && !stream.writer.take_progress() {
                stream.driver.progress(Progress::Stalled, &mut stream.writer);
            }
            stream.settle(ctx);
        });
    }

    /// Closes the connection of a client whose backlog is over the limit, if it still is a moment later.
    fn doubt(&mut self, ctx: &mut Context<Self>) {
        if self.doubting || !std::mem::take(&mut self.writer.in_doubt) {
            return;
        }
        self.doubting = true;
        ctx.run_later(DOUBT, |stream, ctx| {
            stream.doubting = false;
            stream.writer.judged = true;
            stream.driver.regulate(&mut stream.writer);
            stream.writer.judged = false;
            stream.writer.in_doubt = false;
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
        self.driver.input(In::Opened, &mut self.writer);
        self.settle(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Some((sessions, id)) = &self.entry {
            sessions.leave(id);
        }
        self.driver.stopped(&mut self.writer);
        // Also without a close before: the body must not wait for more.
        self.writer.close(Disconnect::ConnectionClosed.parts().0, "");
    }
}

/// Commands that came by a request of their own.
#[derive(Message)]
#[rtype(result = "()")]
pub struct EmulatedCommands(pub Bytes);

impl Handler<EmulatedCommands> for HttpStream {
    type Result = ();

    fn handle(&mut self, EmulatedCommands(payload): EmulatedCommands, ctx: &mut Self::Context) {
        self.waiting.push_back(payload);
        self.settle(ctx);
        let waiting: usize = self.waiting.iter().map(Bytes::len).sum();
        if waiting > WAITING * self.driver.shared().wire.message_limit {
            self.driver.input(In::Disconnect(Disconnect::TooManyRequests), &mut self.writer);
            self.settle(ctx);
        }
    }
}

/// The response is done, or its connection is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub struct StreamEnded;

impl Handler<StreamEnded> for HttpStream {
    type Result = ();

    fn handle(&mut self, _: StreamEnded, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Progress> for HttpStream {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Self::Context) {
        self.driver.progress(progress, &mut self.writer);
        self.settle(ctx);
    }
}

impl Handler<ToSocket> for HttpStream {
    type Result = ();

    fn handle(&mut self, message: ToSocket, ctx: &mut Self::Context) {
        self.driver.from_hub(message, &mut self.writer);
        self.settle(ctx);
    }
}
