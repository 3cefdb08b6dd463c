//! SHELL. The actor of one WebSocket connection, around [`State`].
//!
//! It hands the client's messages and the rooms' answers to the session and performs what that says. What
//! is the WebSocket protocol's own (pings, the close handshake) it answers itself.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    context::SocketContext,
    state::{Env, In, Out, Settings, State},
};
use crate::{
    clock,
    hub::{FromSocket, Hub},
    metrics::Metrics,
    protocol::{
        codec::Format,
        codes::Disconnect,
        websocket::{self, Message as Frame, Opcode, Violation},
    },
    room::{
        actor::{Ask, RoomRegistry},
        types::SocketRef,
    },
    users::Users,
};

/// How long a client may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What all sockets of a worker share.
pub struct Shared {
    /// The worker's hub.
    pub hub: Addr<Hub>,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// What sessions go by.
    pub settings: Arc<Settings>,
    /// The most bytes that may wait for one client.
    pub outbox_limit: usize,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub users: Arc<Users>,
    /// Reused by all sockets of the thread, so that a session's outputs cost no allocation.
    pub outputs: RefCell<Vec<Out>>,
}

/// One client connection.
pub struct Socket {
    shared: Rc<Shared>,
    place: SocketRef,
    session: State,
    phase: Phase,
    /// Whether the client has to wait before more is read of it.
    busy: Rc<Cell<bool>>,
    /// Set once the client is authenticated.
    user: Option<Box<str>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The close frame is sent; the client's is awaited.
    Closing,
    Closed,
}

impl Socket {
    /// The actor of `session`, which is at `place` in its hub.
    ///
    /// It keeps `busy` up to date, for whoever reads from the connection.
    pub fn new(shared: Rc<Shared>, place: SocketRef, session: State, busy: Rc<Cell<bool>>) -> Self {
        Self { shared, place, session, phase: Phase::Open, busy, user: None }
    }

    fn input(&mut self, input: In, ctx: &mut SocketContext) {
        let shared = self.shared.clone();
        let mut outputs = shared.outputs.take();
        let env =
            Env { settings: &shared.settings, now: clock::now(), wall: clock::unix_seconds() };
        self.session.handle(input, env, &mut outputs);
        for output in outputs.drain(..) {
            self.perform(output, ctx);
        }
        shared.outputs.replace(outputs);
        self.busy.set(self.session.is_busy(&shared.settings));
        self.check_outbox(ctx);
    }

    fn perform(&mut self, output: Out, ctx: &mut SocketContext) {
        match output {
            Out::Reply(reply) => ctx.outbox.push_reply(self.session.format(), &reply),
            Out::Request(room, request) => self.shared.registry.do_send(Ask(room, request)),
            Out::WakeAt(at) => self.shared.hub.do_send(FromSocket::WakeAt(self.place, at)),
            Out::Authenticated(user) => {
                self.shared.users.enter(&user);
                self.user = Some(user);
            }
            Out::Close(why) => {
                let (code, reason) = why.parts();
                self.shared.metrics.disconnects.with_label_values(&[&code.to_string()]).inc();
                tracing::debug!(socket = ?self.place, code, reason, "closing a connection");
                self.close(code, reason, ctx);
            }
        }
    }

    /// Sends a close frame, and gives the client time to send its own.
    fn close(&mut self, code: u16, reason: &str, ctx: &mut SocketContext) {
        if self.phase != Phase::Open {
            return;
        }
        self.phase = Phase::Closing;
        let frame = websocket::close_frame(code, reason);
        ctx.outbox.push_frame(self.session.format(), frame);
        let at = clock::now() + CLOSE_TIMEOUT;
        self.shared.hub.do_send(FromSocket::WakeAt(self.place, at));
    }

    /// A client that does not take what it is sent holds up no one but itself.
    fn check_outbox(&mut self, ctx: &mut SocketContext) {
        ctx.outbox.frame_replies(self.session.format());
        if self.phase == Phase::Open && ctx.outbox.queued() > self.shared.outbox_limit {
            ctx.outbox.clear();
            self.input(In::Disconnect(Disconnect::Slow), ctx);
        }
    }

    fn end(&mut self, ctx: &mut SocketContext) {
        self.phase = Phase::Closed;
        ctx.stop();
    }

    fn frame(&mut self, frame: Frame, ctx: &mut SocketContext) {
        match (frame, self.session.format()) {
            (Frame::Text(payload), Format::Json) | (Frame::Binary(payload), Format::Protobuf) => {
                self.shared.metrics.messages_received.inc();
                self.shared.metrics.bytes_received.inc_by(payload.len() as u64);
                self.input(In::Payload(payload), ctx);
            }
            (Frame::Text(_) | Frame::Binary(_), _) => {
                self.input(In::Disconnect(Disconnect::BadRequest), ctx);
            }
            (Frame::Ping(payload), format) => {
                ctx.outbox.push_frame(format, websocket::frame(Opcode::Pong, &payload));
                self.check_outbox(ctx);
            }
            (Frame::Pong, _) => {}
            (Frame::Close(code), _) => {
                self.close(code.unwrap_or(1000), "", ctx);
                self.end(ctx);
            }
        }
    }

    fn violation(&mut self, violation: Violation, ctx: &mut SocketContext) {
        self.shared.metrics.protocol_violations.inc();
        self.input(
            In::Disconnect(match violation {
                Violation::Protocol(_) => Disconnect::WebSocketProtocol,
                Violation::Utf8 => Disconnect::WebSocketInvalidPayload,
                Violation::TooBig => Disconnect::MessageTooBig,
            }),
            ctx,
        );
    }
}

impl Actor for Socket {
    type Context = SocketContext;

    fn started(&mut self, ctx: &mut SocketContext) {
        self.input(In::Opened, ctx);
    }

    fn stopped(&mut self, ctx: &mut SocketContext) {
        self.input(In::Closed, ctx);
        if let Some(user) = self.user.take() {
            self.shared.users.leave(&user);
        }
        self.shared.hub.do_send(FromSocket::Closed(self.place));
    }
}

impl StreamHandler<Result<Frame, Violation>> for Socket {
    fn handle(&mut self, frame: Result<Frame, Violation>, ctx: &mut SocketContext) {
        match (self.phase, frame) {
            (Phase::Open, Ok(frame)) => self.frame(frame, ctx),
            (Phase::Open, Err(violation)) => self.violation(violation, ctx),
            (Phase::Closing, Ok(Frame::Close(_)) | Err(_)) => self.end(ctx),
            (Phase::Closing, Ok(_)) | (Phase::Closed, _) => {}
        }
    }

    fn finished(&mut self, ctx: &mut SocketContext) {
        self.end(ctx);
    }
}

/// What a hub sends to one of its sockets.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToSocket {
    /// A frame to be written as it is.
    Frame(Bytes),
    /// Something for the session to decide on.
    Input(Box<In>),
}

impl Handler<ToSocket> for Socket {
    type Result = ();

    fn handle(&mut self, message: ToSocket, ctx: &mut SocketContext) {
        match message {
            ToSocket::Frame(frame) if self.phase == Phase::Open => {
                self.shared.metrics.bytes_sent.inc_by(frame.len() as u64);
                ctx.outbox.push_frame(self.session.format(), frame);
                self.check_outbox(ctx);
            }
            ToSocket::Frame(_) => {}
            ToSocket::Input(input) => match (self.phase, *input) {
                (Phase::Closing, In::Wake) => self.end(ctx),
                (_, input) => self.input(input, ctx),
            },
        }
    }
}
