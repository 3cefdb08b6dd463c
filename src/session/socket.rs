//! SHELL. The actor of one WebSocket connection.
//!
//! It hands the client's messages, and what the hub has for it, to its [`Driver`].

use actix::prelude::*;
use bytes::Bytes;

use super::{
    context::{Data, Progress, SocketContext},
    driver::Driver,
    incoming::FromClient,
    messages::ToSocket,
    reply,
    state::In,
    transport::Transport,
};
use crate::{
    protocol::{codec::Format, codes::Disconnect, message::Reply, websocket::Violation},
    runtime::time::Time,
};

/// One client connection.
pub struct Socket(Driver, Option<Box<Bytes>>);

type Context = SocketContext<Socket>;

impl Socket {
    /// The actor of what `driver` drives; `first` is what came with the request.
    pub fn new(driver: Driver, first: Option<Bytes>) -> Self {
        Self(driver, first.map(Box::new))
    }

    fn data(&mut self, data: Data, ctx: &mut Context) {
        match (data, self.0.format()) {
            (Data::Text(payload), Format::Json) | (Data::Binary(payload), Format::Protobuf) => {
                self.0.payload(payload, ctx);
            }
            (Data::Text(_) | Data::Binary(_), _) => {
                self.0.input(In::Disconnect(Disconnect::BadRequest), ctx);
            }
        }
    }

    fn violation(&mut self, violation: Violation, ctx: &mut Context) {
        self.0.shared().metrics.protocol_violations.inc();
        let why = match violation {
            Violation::Protocol(_) => Disconnect::WebSocketProtocol,
            Violation::Utf8 => Disconnect::WebSocketInvalidPayload,
            Violation::TooBig => Disconnect::MessageTooBig,
        };
        self.0.input(In::Disconnect(why), ctx);
    }
}

impl Actor for Socket {
    type Context = Context;

    fn started(&mut self, ctx: &mut Context) {
        self.0.input(In::Opened, ctx);
        if let Some(first) = self.1.take() {
            self.0.payload(*first, ctx);
        }
    }

    fn stopped(&mut self, ctx: &mut Context) {
        self.0.stopped(ctx);
    }
}

impl Handler<FromClient> for Socket {
    type Result = ();

    fn handle(&mut self, frame: FromClient, ctx: &mut Context) {
        match ctx.receive(frame) {
            Some(Ok(data)) => self.data(data, ctx),
            Some(Err(violation)) => self.violation(violation, ctx),
            None => self.0.regulate(ctx),
        }
    }
}

impl Handler<Progress> for Socket {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Context) {
        self.0.progress(progress, ctx);
    }
}

impl Handler<ToSocket> for Socket {
    type Result = ();

    fn handle(&mut self, message: ToSocket, ctx: &mut Context) {
        self.0.from_hub(message, ctx);
    }
}

impl Transport for Context {
    fn push_reply(&mut self, reply: &Reply) {
        self.outbox.push_reply(reply);
    }

    fn push_frame(&mut self, frame: Bytes) {
        self.outbox.push_frame(frame);
    }

    fn hold_frame(&mut self, frame: Bytes) {
        self.outbox.hold(frame);
    }

    fn release(&mut self) {
        self.outbox.release();
    }

    fn end_batch(&mut self) {
        self.outbox.frame_replies();
    }

    fn queued(&self) -> usize {
        self.outbox.queued()
    }

    fn exceeds(&mut self, bytes: usize) -> bool {
        self.outbox.queued() > bytes
    }

    fn clear(&mut self) {
        self.outbox.clear();
    }

    fn flush(&mut self) {
        SocketContext::flush(self);
    }

    fn is_open(&self) -> bool {
        SocketContext::is_open(self)
    }

    fn close(&mut self, code: u16, reason: &str) -> Option<Time> {
        if code == Disconnect::ConnectionClosed.parts().0 {
            self.end();
            return None;
        }
        // Who only listens may use a library that does not show close frames.
        if self.outbox.encoding().is_one_way() && code >= 3000 && SocketContext::is_open(self) {
            self.outbox.push_reply(&reply::disconnect(code, reason));
        }
        SocketContext::close(self, code, reason)
    }

    fn give_up(&mut self) -> Option<Time> {
        SocketContext::give_up(self)
    }

    fn pause_reading(&mut self, pause: bool) {
        SocketContext::pause_reading(self, pause);
    }

    fn notify_when_drained_to(&mut self, bytes: usize) {
        SocketContext::notify_when_drained_to(self, bytes);
    }
}
