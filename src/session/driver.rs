//! SHELL. What every connection does with its session, whatever it goes over.
//!
//! In: what the client sends, what the hub has for it, how the writing goes. Out: what the session says, done:
//! replies to the connection's [`Transport`], requests to the rooms, timers to the hub.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc, sync::Arc};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    admitted::Admitted,
    context::{Progress, Wire},
    id::SessionId,
    messages::{ConnectionAddress, FromSocket, HubAddress, Register, SocketInput, ToSocket},
    settings::{Env, SessionSettings},
    state::{Call, CallFailed, Called, In, Out, Session},
    transport::Transport,
};
use crate::{
    access::{connection_counter::ConnectionPermit, jwks::Fetchers},
    backend::{
        client::BackendClients,
        request::{BackendRequest, TransportInfo},
        stream::ToStream,
    },
    metrics::Metrics,
    protocol::{codec::Format, codes::Disconnect, encoding::Encoding},
    room::{
        actor::{RoomRegistry, SocketRequest},
        types::{ClientId, ClientInfo, SocketRef},
        users::Users,
    },
    runtime::{clock, live::Live, time::Time},
    shared_poll::actor::{PollCommand, SharedPolls},
    webhooks::{event::WebhookEvent, sender::Webhooks},
};

/// What all connections of a worker share.
pub struct Shared {
    /// The worker's hub.
    pub hub: HubAddress,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// What polls for clients, if any room's keys are polled.
    pub polls: Option<Addr<SharedPolls>>,
    /// Settings of sessions.
    pub settings: Live<SessionSettings>,
    /// Fetches the keys of tokens.
    pub keys: Fetchers,
    /// Sends requests to the application's backends.
    pub backends: Arc<BackendClients>,
    /// Delivers events to the application, if it has an endpoint for them.
    pub webhooks: Option<Arc<Webhooks>>,
    /// Settings of connections.
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

/// A session and what it takes to run it.
pub struct Driver {
    shared: Rc<Shared>,
    place: SocketRef,
    session: Session,
    /// Set once the client is authenticated.
    user: Option<Box<str>>,
    /// Its user has too many connections: it gets nothing but a close.
    barred: bool,
    encoding: Encoding,
    /// The code that the server closed it with; 0 if it did not.
    closed_with: u16,
    /// Where the streams of backends for subscriptions hear of this end, by their numbers; few have any.
    streams: BTreeMap<u32, mpsc::UnboundedSender<ToStream>>,
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
            streams: BTreeMap::new(),
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
    pub fn payload(&mut self, payload: Bytes, transport: &mut impl Transport) {
        self.shared.metrics.messages_received.inc();
        self.shared.metrics.bytes_received.inc_by(payload.len() as u64);
        self.input(In::Payload(payload), transport);
    }

    /// Anything for the session to decide on.
    pub fn input(&mut self, input: In, transport: &mut impl Transport) {
        self.step(input, transport);
        while !self.is_congested(transport) && self.session.can_go_on(&self.shared.settings.load())
        {
            self.step(In::GoOn, transport);
        }
        self.regulate(transport);
    }

    fn step(&mut self, input: In, transport: &mut impl Transport) {
        let shared = self.shared.clone();
        let mut outputs = shared.outputs.take();
        let settings = shared.settings.load();
        let env = Env {
            settings: &settings,
            now: clock::now(),
            wall: clock::unix_seconds(),
            congested: self.is_congested(transport),
            space: shared.outbox_limit.saturating_sub(transport.queued()),
        };
        self.session.handle(input, env, &mut outputs);
        for output in outputs.drain(..) {
            self.perform(output, transport);
        }
        shared.outputs.replace(outputs);
        transport.end_batch();
        if self.barred && transport.is_open() {
            return self.step(In::Disconnect(Disconnect::ConnectionLimit), transport);
        }
        if !self.session.is_connecting() {
            transport.release();
        }
    }

    fn perform(&mut self, output: Out, transport: &mut impl Transport) {
        match output {
            // What it asks for is done only after it is admitted, so there is nothing to undo.
            Out::Reply(_) | Out::Request(..) | Out::Poll(..) if self.barred => {}
            Out::Reply(reply) => transport.push_reply(&reply),
            Out::Request(room, request) => {
                self.shared.registry.do_send(SocketRequest(room, request))
            }
            Out::Poll(room, request) => {
                if let Some(polls) = &self.shared.polls {
                    polls.do_send(PollCommand(room, request));
                }
            }
            Out::WakeAt(at) => self.wake_at(at),
            Out::Call(number, call) => self.call(number, call),
            Out::Stream(number, ToStream::End) => _ = self.streams.remove(&number),
            Out::Stream(number, order) => {
                if let Some(orders) = self.streams.get(&number) {
                    // If it is over, it has said so.
                    let _ = orders.send(order);
                }
            }
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
                if let Some(until) = transport.close(code, reason) {
                    self.wake_at(until);
                }
            }
        }
    }

    fn call(&mut self, number: u32, call: Call) {
        let keys = &self.shared.keys;
        let fetcher = match call {
            Call::Backend(request) => return self.ask(number, *request),
            Call::Stream(request, both_ways) => {
                return self.open_stream(number, *request, both_ways);
            }
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
            hub.do_send(SocketInput(place, In::Called(number, result)));
        });
    }

    /// Runs as a task of its own, which may outlive the client: calls to backends are not cancelled.
    fn ask(&self, number: u32, request: BackendRequest) {
        let transport =
            TransportInfo { transport: self.encoding.transport(), format: self.encoding.format() };
        let backends = self.shared.backends.clone();
        let (hub, place) = (self.shared.hub.to_socket.clone(), self.place);
        actix_rt::spawn(async move {
            let reply = backends.ask(request, transport).await;
            let result = reply.map(Called::Backend).ok_or(CallFailed);
            hub.do_send(SocketInput(place, In::Called(number, result)));
        });
    }

    /// Runs as a task of its own, which ends with the sender of what the session has for it.
    fn open_stream(&mut self, number: u32, request: BackendRequest, both_ways: bool) {
        let transport =
            TransportInfo { transport: self.encoding.transport(), format: self.encoding.format() };
        let backends = self.shared.backends.clone();
        let (hub, place) = (self.shared.hub.to_socket.clone(), self.place);
        let (orders, ordered) = mpsc::unbounded_channel();
        self.streams.insert(number, orders);
        actix_rt::spawn(async move {
            let opened = |reply: Option<_>| {
                let result = reply.map(Called::Backend).ok_or(CallFailed);
                hub.do_send(SocketInput(place, In::Called(number, result)));
            };
            let tell = |it| hub.do_send(SocketInput(place, In::Streamed(number, it)));
            backends.stream(request, transport, both_ways, ordered, opened, tell).await;
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
    fn is_congested(&self, transport: &mut impl Transport) -> bool {
        let half = self.shared.outbox_limit / 2;
        if transport.queued() > half {
            transport.flush();
        }
        transport.queued() > half
    }

    /// Slows down a client that does not take the answers to what it sends, and lets go of one that takes
    /// far too little: it holds up no one but itself.
    pub fn regulate(&mut self, transport: &mut impl Transport) {
        let congested = self.is_congested(transport);
        if congested && transport.is_open() && transport.exceeds(self.shared.outbox_limit) {
            transport.clear();
            self.step(In::Disconnect(Disconnect::Slow), transport);
        }
        if congested {
            transport.notify_when_drained_to(self.shared.outbox_limit / 2);
        }
        // While a connection closes everything is read, since the client's close frame is part of it.
        let busy = congested || self.session.is_busy(&self.shared.settings.load());
        transport.pause_reading(busy && transport.is_open());
    }

    /// How the writing goes.
    pub fn progress(&mut self, progress: Progress, transport: &mut impl Transport) {
        match progress {
            Progress::Drained => self.input(In::GoOn, transport),
            Progress::Stalled => {
                transport.clear();
                self.input(In::Disconnect(Disconnect::WriteError), transport);
            }
        }
    }

    /// Takes what the hub has for the client.
    pub fn from_hub(&mut self, message: ToSocket, transport: &mut impl Transport) {
        match message {
            ToSocket::Frame(frame) if transport.is_open() => {
                if self.session.is_connecting() {
                    transport.hold_frame(frame);
                } else {
                    transport.push_frame(frame);
                }
                if transport.queued() > self.shared.outbox_limit / 2 {
                    self.regulate(transport);
                }
            }
            ToSocket::Frame(_) => {}
            ToSocket::Input(input) => match *input {
                In::Wake if !transport.is_open() => {
                    if let Some(until) = transport.give_up() {
                        self.wake_at(until);
                    }
                }
                input => self.input(input, transport),
            },
        }
    }

    /// The connection is gone.
    pub fn stopped(&mut self, transport: &mut impl Transport) {
        self.streams.clear();
        self.input(In::Closed, transport);
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
