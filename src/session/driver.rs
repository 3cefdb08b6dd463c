//! SHELL. What every connection does with its session, whatever it goes over.
//!
//! In: what the client sends, what the hub has for it, how the writing goes. Out: what the session says, done:
//! replies to the connection's [`Line`], requests to the rooms, wishes to be woken to the hub.

use std::{cell::RefCell, io, rc::Rc, sync::Arc};

use actix::prelude::*;
use bytes::Bytes;

use super::{
    admitted::Admitted,
    context::{Progress, Wire},
    id::SessionId,
    messages::{ConnectionAddress, FromSocket, HubAddress, Register, Tell, ToSocket},
    state::{Call, CallFailed, Called, Env, In, Out, Session, SessionSettings},
};
use crate::{
    access::{connection_counter::ConnectionPermit, jwks::Fetchers},
    backend::{
        client::BackendClients,
        request::{BackendRequest, TransportInfo},
    },
    metrics::Metrics,
    protocol::{codec::Format, codes::Disconnect, encoding::Encoding, message::Reply},
    room::{
        actor::{Ask, RoomRegistry},
        types::{ClientId, ClientInfo, SocketRef},
    },
    runtime::{clock, time::Time},
    session::users::Users,
    webhooks::{event::WebhookEvent, sender::Webhooks},
};

/// What all connections of a worker share.
pub struct Shared {
    /// The worker's hub.
    pub hub: HubAddress,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// What sessions go by.
    pub settings: Arc<SessionSettings>,
    /// Who fetches the keys of tokens.
    pub keys: Fetchers,
    /// Who asks the application's backends.
    pub backends: Arc<BackendClients>,
    /// Who tells the application what happens, if anyone does.
    pub webhooks: Option<Arc<Webhooks>>,
    /// What connections go by.
    pub wire: Rc<Wire>,
    /// The most bytes that may wait for one client.
    pub outbox_limit: usize,
    /// The most connections of one user; 0: any number.
    pub user_limit: usize,
    /// What is counted.
    pub metrics: Metrics,
    /// Who is connected.
    pub users: Arc<Users>,
    /// Reused by all connections of the thread, so that a session's outputs cost no allocation.
    pub outputs: RefCell<Vec<Out>>,
}

/// The way to a client: what a driver needs of a connection.
pub trait Line {
    /// Adds a reply or push for this client alone.
    fn push_reply(&mut self, reply: &Reply);
    /// Adds bytes that are complete, and may be shared with other connections.
    fn push_frame(&mut self, frame: Bytes);
    /// Adds some that must not leave before [`Line::release`].
    fn hold_frame(&mut self, frame: Bytes);
    /// What was held may leave.
    fn release(&mut self);
    /// The replies so far leave together.
    fn end_batch(&mut self);
    /// What waits, in bytes, with what it costs to keep them.
    fn queued(&self) -> usize;
    /// Whether the client has had its chance to take what waits, and left more than this.
    fn exceeds(&mut self, bytes: usize) -> bool;
    /// Forgets what waits.
    fn clear(&mut self);
    /// Offers the client what waits, if that can be done now.
    fn flush(&mut self);
    /// Whether messages still go to and fro.
    fn is_open(&self) -> bool;
    /// Says goodbye. If the client's own goodbye is awaited, it says until when.
    fn close(&mut self, code: u16, reason: &str) -> Option<Time>;
    /// Ends a connection whose client has not said goodbye in time. If there is time left, it says until when.
    fn give_up(&mut self) -> Option<Time>;
    /// Whether to take no more from the client for now.
    fn hold(&mut self, hold: bool);
    /// Sends [`Progress::Drained`] once no more than this waits.
    fn tell_when_down_to(&mut self, bytes: usize);
}

/// A session and what it takes to run it.
pub struct Driver {
    shared: Rc<Shared>,
    place: SocketRef,
    session: Session,
    /// Set once the client is authenticated.
    user: Option<Box<str>>,
    /// Its user has too many: from there on it gets nothing but its goodbye.
    barred: bool,
    encoding: Encoding,
    /// The code that the server closed it with; 0 if it did not.
    closed_with: u16,
    /// Counts the client as long as it is held.
    _permit: Option<ConnectionPermit>,
}

impl Driver {
    /// Begins the session of a client that was let in. `id` names it, if its client needs that.
    ///
    /// # Errors
    /// If there is no randomness, or the hub is gone.
    pub async fn begin(
        shared: Rc<Shared>,
        address: ConnectionAddress,
        id: Option<SessionId>,
        admitted: Admitted,
    ) -> io::Result<Self> {
        let encoding = address.encoding();
        let client = ClientId(u128::from_be_bytes(random()?));
        let place = shared.hub.register.send(Register(address)).await.map_err(io::Error::other)?;
        let mut session = Session::new(place, encoding.format(), client);
        if let Some(id) = id {
            session = session.over(id, encoding.is_one_way());
        }
        if let Some(user) = admitted.user {
            session.trust(user);
        }
        if let Some(headers) = admitted.headers {
            session.came_with(headers);
        }
        Ok(Self {
            shared,
            place,
            session,
            user: None,
            barred: false,
            encoding,
            closed_with: 0,
            _permit: admitted.permit,
        })
    }

    /// What the connections of the thread share.
    pub fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// The format of the client's messages.
    pub fn format(&self) -> Format {
        self.session.format()
    }

    /// A message of the client.
    pub fn payload(&mut self, payload: Bytes, line: &mut impl Line) {
        self.shared.metrics.messages_received.inc();
        self.shared.metrics.bytes_received.inc_by(payload.len() as u64);
        self.input(In::Payload(payload), line);
    }

    /// Anything for the session to decide on.
    pub fn input(&mut self, input: In, line: &mut impl Line) {
        self.step(input, line);
        while !self.is_congested(line) && self.session.can_go_on(&self.shared.settings) {
            self.step(In::GoOn, line);
        }
        self.regulate(line);
    }

    fn step(&mut self, input: In, line: &mut impl Line) {
        let shared = self.shared.clone();
        let mut outputs = shared.outputs.take();
        let env = Env {
            settings: &shared.settings,
            now: clock::now(),
            wall: clock::unix_seconds(),
            congested: self.is_congested(line),
            space: shared.outbox_limit.saturating_sub(line.queued()),
        };
        self.session.handle(input, env, &mut outputs);
        for output in outputs.drain(..) {
            self.perform(output, line);
        }
        shared.outputs.replace(outputs);
        line.end_batch();
        if self.barred && line.is_open() {
            return self.step(In::Disconnect(Disconnect::ConnectionLimit), line);
        }
        if !self.session.is_connecting() {
            line.release();
        }
    }

    fn perform(&mut self, output: Out, line: &mut impl Line) {
        match output {
            // Nothing has come of what it asks for before it is let in, so there is nothing to undo.
            Out::Reply(_) | Out::Request(..) if self.barred => {}
            Out::Reply(reply) => line.push_reply(&reply),
            Out::Request(room, request) => self.shared.registry.do_send(Ask(room, request)),
            Out::WakeAt(at) => self.wake_at(at),
            Out::Call(number, call) => self.call(number, call),
            Out::Authenticated(user) => {
                let connections = self.shared.users.enter(&user, self.place);
                let limit = self.shared.user_limit;
                self.barred = limit > 0 && connections > limit && !user.is_empty();
                self.user = Some(user);
                self.notify_application(WebhookEvent::Connect);
            }
            Out::Close(why) => {
                let (code, reason) = why.parts();
                self.shared.metrics.disconnects.with_label_values(&[&code.to_string()]).inc();
                tracing::debug!(socket = ?self.place, code, reason, "closing a connection");
                self.closed_with = code;
                if let Some(until) = line.close(code, reason) {
                    self.wake_at(until);
                }
            }
        }
    }

    fn call(&self, number: u32, call: Call) {
        let keys = &self.shared.keys;
        let fetcher = match call {
            Call::Backend(request) => return self.ask(number, *request),
            Call::TokenKeys => keys.connection.clone(),
            Call::SubscriptionTokenKeys => keys.subscription.clone(),
        };
        let (hub, place) = (self.shared.hub.to_socket.clone(), self.place);
        actix_rt::spawn(async move {
            let fetched = match fetcher {
                Some(fetcher) => fetcher.refresh().await,
                None => false,
            };
            let result = if fetched { Ok(Called::Keys) } else { Err(CallFailed) };
            hub.do_send(Tell(place, In::Called(number, result)));
        });
    }

    /// A task of its own, which may outlive the client: what a backend was asked is heard out.
    fn ask(&self, number: u32, request: BackendRequest) {
        let transport =
            TransportInfo { transport: self.encoding.transport(), format: self.encoding.format() };
        let backends = self.shared.backends.clone();
        let (hub, place) = (self.shared.hub.to_socket.clone(), self.place);
        actix_rt::spawn(async move {
            let reply = backends.ask(request, transport).await;
            let result = reply.map(Called::Backend).ok_or(CallFailed);
            hub.do_send(Tell(place, In::Called(number, result)));
        });
    }

    /// Sends an event to the webhooks; of a client that is turned away for too many connections there are none.
    fn notify_application(&self, event: impl FnOnce(Arc<ClientInfo>) -> WebhookEvent) {
        if let Some(webhooks) = self.shared.webhooks.as_ref().filter(|_| !self.barred) {
            webhooks.enqueue(event(self.session.client().clone()));
        }
    }

    fn wake_at(&self, at: Time) {
        self.shared.hub.from_socket.do_send(FromSocket::WakeAt(self.place, at));
    }

    /// Whether more than half of what may wait for the client does, after it was offered.
    fn is_congested(&self, line: &mut impl Line) -> bool {
        let half = self.shared.outbox_limit / 2;
        if line.queued() > half {
            line.flush();
        }
        line.queued() > half
    }

    /// Slows down a client that does not take the answers to what it sends, and lets go of one that takes
    /// far too little: it holds up no one but itself.
    pub fn regulate(&mut self, line: &mut impl Line) {
        let congested = self.is_congested(line);
        if congested && line.is_open() && line.exceeds(self.shared.outbox_limit) {
            line.clear();
            self.step(In::Disconnect(Disconnect::Slow), line);
        }
        if congested {
            line.tell_when_down_to(self.shared.outbox_limit / 2);
        }
        // Of a client that is being let go everything is read, since its close frame is among it.
        let busy = congested || self.session.is_busy(&self.shared.settings);
        line.hold(busy && line.is_open());
    }

    /// How the writing goes.
    pub fn progress(&mut self, progress: Progress, line: &mut impl Line) {
        match progress {
            Progress::Drained => self.input(In::GoOn, line),
            Progress::Stalled => {
                line.clear();
                self.input(In::Disconnect(Disconnect::WriteError), line);
            }
        }
    }

    /// What the hub has for the client.
    pub fn told(&mut self, message: ToSocket, line: &mut impl Line) {
        match message {
            ToSocket::Frame(frame) if line.is_open() => {
                if self.session.is_connecting() {
                    line.hold_frame(frame);
                } else {
                    line.push_frame(frame);
                }
                if line.queued() > self.shared.outbox_limit / 2 {
                    self.regulate(line);
                }
            }
            ToSocket::Frame(_) => {}
            ToSocket::Input(input) => match *input {
                In::Wake if !line.is_open() => {
                    if let Some(until) = line.give_up() {
                        self.wake_at(until);
                    }
                }
                input => self.input(input, line),
            },
        }
    }

    /// The connection is gone.
    pub fn stopped(&mut self, line: &mut impl Line) {
        self.input(In::Closed, line);
        if let Some(user) = self.user.take() {
            self.shared.users.leave(&user, self.place);
            let code = self.closed_with;
            self.notify_application(|info| WebhookEvent::Disconnect(info, code));
        }
        self.shared.hub.from_socket.do_send(FromSocket::Closed(self.place));
    }
}

/// Bytes that no one can guess.
///
/// # Errors
/// If the system has none.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}
