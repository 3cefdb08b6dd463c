//! SHELL. The actor of one WebSocket connection, around [`State`].
//!
//! It hands the client's messages and the rooms' answers to the session and performs what that says.

use std::{cell::RefCell, rc::Rc, sync::Arc};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    context::{Data, Progress, SocketContext, Wire},
    incoming::FromClient,
    state::{Call, CallFailed, Called, Env, In, Out, Settings, State},
};
use crate::{
    access::jwks::Fetchers,
    backend::{
        caller::Callers,
        request::{Question, Via},
    },
    clock,
    hub::{FromSocket, Hub},
    metrics::Metrics,
    protocol::{codec::Format, codes::Disconnect, websocket::Violation},
    room::{
        actor::{Ask, RoomRegistry},
        types::{ClientInfo, SocketRef},
    },
    time::Time,
    users::Users,
    webhooks::{event::Happening, sender::Webhooks},
};

/// What all sockets of a worker share.
pub struct Shared {
    /// The worker's hub.
    pub hub: Addr<Hub>,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// What sessions go by.
    pub settings: Arc<Settings>,
    /// Who fetches the keys of tokens.
    pub keys: Fetchers,
    /// Who asks the application's backends.
    pub backends: Arc<Callers>,
    /// Who tells the application what happens, if anyone does.
    pub webhooks: Option<Arc<Webhooks>>,
    /// What connections go by.
    pub wire: Rc<Wire>,
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
    /// Set once the client is authenticated.
    user: Option<Box<str>>,
    /// The code that the server closed it with; 0 if it did not.
    closed_with: u16,
}

type Context = SocketContext<Socket>;

impl Socket {
    /// The actor of `session`, which is at `place` in its hub.
    pub fn new(shared: Rc<Shared>, place: SocketRef, session: State) -> Self {
        Self { shared, place, session, user: None, closed_with: 0 }
    }

    fn input(&mut self, input: In, ctx: &mut Context) {
        self.step(input, ctx);
        while !self.is_congested(ctx) && self.session.can_go_on(&self.shared.settings) {
            self.step(In::GoOn, ctx);
        }
        self.regulate(ctx);
    }

    fn step(&mut self, input: In, ctx: &mut Context) {
        let shared = self.shared.clone();
        let mut outputs = shared.outputs.take();
        let env = Env {
            settings: &shared.settings,
            now: clock::now(),
            wall: clock::unix_seconds(),
            congested: self.is_congested(ctx),
            space: shared.outbox_limit.saturating_sub(ctx.outbox.queued()),
        };
        self.session.handle(input, env, &mut outputs);
        for output in outputs.drain(..) {
            self.perform(output, ctx);
        }
        shared.outputs.replace(outputs);
        ctx.outbox.frame_replies();
        if !self.session.is_connecting() {
            ctx.outbox.release();
        }
    }

    fn perform(&mut self, output: Out, ctx: &mut Context) {
        match output {
            Out::Reply(reply) => ctx.outbox.push_reply(&reply),
            Out::Request(room, request) => self.shared.registry.do_send(Ask(room, request)),
            Out::WakeAt(at) => self.wake_at(at),
            Out::Call(id, call) => self.call(id, call, ctx),
            Out::Authenticated(user) => {
                self.shared.users.enter(&user, self.place);
                self.user = Some(user);
                self.tell(Happening::Connect);
            }
            Out::Close(why) => {
                let (code, reason) = why.parts();
                self.shared.metrics.disconnects.with_label_values(&[&code.to_string()]).inc();
                tracing::debug!(socket = ?self.place, code, reason, "closing a connection");
                self.closed_with = code;
                if let Some(until) = ctx.close(code, reason) {
                    self.wake_at(until);
                }
            }
        }
    }

    fn call(&self, id: u32, call: Call, ctx: &mut Context) {
        let keys = &self.shared.keys;
        let fetcher = match call {
            Call::Backend(question) => return self.ask(id, *question, ctx),
            Call::TokenKeys => keys.connection.clone(),
            Call::SubscriptionTokenKeys => keys.subscription.clone(),
        };
        let fetched = async move {
            match fetcher {
                Some(fetcher) => fetcher.refresh().await,
                None => false,
            }
        };
        ctx.spawn(fetched.into_actor(self).map(move |fetched, socket, ctx| {
            let result = if fetched { Ok(Called::Keys) } else { Err(CallFailed) };
            socket.input(In::Called(id, result), ctx);
        }));
    }

    fn ask(&self, number: u32, question: Question, ctx: &mut Context) {
        let backends = self.shared.backends.clone();
        let via = Via { transport: "websocket", format: self.session.format() };
        let asked = async move { backends.ask(question, via).await };
        ctx.spawn(asked.into_actor(self).map(move |reply, socket, ctx| {
            let result = reply.map(Called::Backend).ok_or(CallFailed);
            socket.input(In::Called(number, result), ctx);
        }));
    }

    fn tell(&self, what: impl FnOnce(Arc<ClientInfo>) -> Happening) {
        if let Some(webhooks) = &self.shared.webhooks {
            webhooks.tell(what(self.session.client().clone()));
        }
    }

    fn wake_at(&self, at: Time) {
        self.shared.hub.do_send(FromSocket::WakeAt(self.place, at));
    }

    /// Whether more than half of what may wait for the client does, after it was offered.
    fn is_congested(&self, ctx: &mut Context) -> bool {
        let half = self.shared.outbox_limit / 2;
        if ctx.outbox.queued() > half {
            ctx.flush();
        }
        ctx.outbox.queued() > half
    }

    /// Slows down a client that does not take the answers to what it sends, and lets go of one that takes
    /// far too little: it holds up no one but itself.
    fn regulate(&mut self, ctx: &mut Context) {
        let congested = self.is_congested(ctx);
        if congested && ctx.is_open() && ctx.outbox.queued() > self.shared.outbox_limit {
            ctx.outbox.clear();
            self.step(In::Disconnect(Disconnect::Slow), ctx);
        }
        if congested {
            ctx.tell_when_down_to(self.shared.outbox_limit / 2);
        }
        // Of a client that is being let go everything is read, since its close frame is among it.
        let busy = congested || self.session.is_busy(&self.shared.settings);
        ctx.hold(busy && ctx.is_open());
    }

    fn data(&mut self, data: Data, ctx: &mut Context) {
        match (data, self.session.format()) {
            (Data::Text(payload), Format::Json) | (Data::Binary(payload), Format::Protobuf) => {
                self.shared.metrics.messages_received.inc();
                self.shared.metrics.bytes_received.inc_by(payload.len() as u64);
                self.input(In::Payload(payload), ctx);
            }
            (Data::Text(_) | Data::Binary(_), _) => {
                self.input(In::Disconnect(Disconnect::BadRequest), ctx);
            }
        }
    }

    fn violation(&mut self, violation: Violation, ctx: &mut Context) {
        self.shared.metrics.protocol_violations.inc();
        let why = match violation {
            Violation::Protocol(_) => Disconnect::WebSocketProtocol,
            Violation::Utf8 => Disconnect::WebSocketInvalidPayload,
            Violation::TooBig => Disconnect::MessageTooBig,
        };
        self.input(In::Disconnect(why), ctx);
    }
}

impl Actor for Socket {
    type Context = Context;

    fn started(&mut self, ctx: &mut Context) {
        self.input(In::Opened, ctx);
    }

    fn stopped(&mut self, ctx: &mut Context) {
        self.input(In::Closed, ctx);
        if let Some(user) = self.user.take() {
            self.shared.users.leave(&user, self.place);
            let code = self.closed_with;
            self.tell(|info| Happening::Disconnect(info, code));
        }
        self.shared.hub.do_send(FromSocket::Closed(self.place));
    }
}

impl StreamHandler<FromClient> for Socket {
    fn handle(&mut self, frame: FromClient, ctx: &mut Context) {
        match ctx.receive(frame) {
            Some(Ok(data)) => self.data(data, ctx),
            Some(Err(violation)) => self.violation(violation, ctx),
            None => self.regulate(ctx),
        }
    }

    fn finished(&mut self, ctx: &mut Context) {
        ctx.end();
    }
}

impl Handler<Progress> for Socket {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Context) {
        match progress {
            Progress::Drained => self.input(In::GoOn, ctx),
            Progress::Stalled => {
                ctx.outbox.clear();
                self.input(In::Disconnect(Disconnect::WriteError), ctx);
            }
        }
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

    fn handle(&mut self, message: ToSocket, ctx: &mut Context) {
        match message {
            ToSocket::Frame(frame) if ctx.is_open() => {
                if self.session.is_connecting() {
                    ctx.outbox.hold(frame);
                } else {
                    ctx.outbox.push_frame(frame);
                }
                if ctx.outbox.queued() > self.shared.outbox_limit / 2 {
                    self.regulate(ctx);
                }
            }
            ToSocket::Frame(_) => {}
            ToSocket::Input(input) => match *input {
                In::Wake if !ctx.is_open() => {
                    if let Some(until) = ctx.give_up() {
                        self.wake_at(until);
                    }
                }
                input => self.input(input, ctx),
            },
        }
    }
}
