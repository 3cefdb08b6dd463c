//! The state machine of one connection.
//!
//! In: [`In`]. Out: [`Out`]s, in the order in which they are to be done. A session takes commands from its
//! connect to its close, checks what they may do, hands them to their rooms, and answers each exactly once.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;

use super::{
    calls::PendingCalls,
    connecting::Connecting,
    id::SessionId,
    maps::Loading,
    reply,
    settings::{Env, SessionSettings},
    subscription::{Initiator, Subscription},
};
use crate::{
    backend::{
        headers::Headers,
        request::BackendRequest,
        response::BackendResponse,
        stream::{FromStream, ToStream},
    },
    protocol::{
        codec::{self, Commands, Format},
        codes::{Disconnect, ErrorCode},
        message::{Empty, Reply, ReplyBody},
    },
    room::{
        control::Control,
        types::{
            Answer, ClientId, ClientInfo, GroupAnswer, ReplyTo, Request, RoomName, SocketRef,
            Subscribed,
        },
    },
    runtime::time::Time,
    shared_poll::state as polls,
};

/// The most commands that one call takes on, so that the answers can be sent before more are made.
const COMMANDS_PER_CALL: usize = 64;

/// Something that a session has to deal with.
#[derive(Debug)]
pub enum In {
    /// The connection is open; nothing was received yet.
    Opened,
    /// The payload of a message from the client.
    Payload(Bytes),
    /// Take on more of the commands that are here; see [`Session::can_go_on`].
    GoOn,
    /// A subscribe is decided.
    Subscribed {
        /// The room, by the node's own name for it.
        room: RoomName,
        /// The number of the command.
        id: u32,
        /// Whether the client is in.
        result: Result<Subscribed, ErrorCode>,
    },
    /// A subscription is over, as the client asked.
    Unsubscribed {
        /// The number of the command.
        id: u32,
    },
    /// A room answers.
    Answer {
        /// The number of the command.
        id: u32,
        /// The answer.
        answer: Answer,
    },
    /// The node's shared polls answer.
    Polled {
        /// The room, by the node's own name for it.
        room: RoomName,
        /// The number of the command.
        id: u32,
        /// The answer.
        reply: polls::Reply,
    },
    /// What was asked by [`Out::Call`] under this number is done, or could not be.
    Called(u32, Result<Called, CallFailed>),
    /// A stream that was opened by [`Call::Stream`] under this number brings something.
    Streamed(u32, FromStream),
    /// The application does something to the connection.
    Control(Arc<Control>),
    /// The client can't have seen everything that was said in a room.
    InsufficientState(RoomName),
    /// Time that was asked for has passed.
    Wake,
    /// The server wants to be rid of the connection.
    Disconnect(Disconnect),
    /// The connection is closed, by either side.
    Closed,
}

/// What a session wants done.
#[derive(Debug, PartialEq)]
pub enum Out {
    /// Send this.
    Reply(Reply),
    /// Ask this of a room.
    Request(RoomName, Request),
    /// Ask this of the node's shared polls.
    Poll(RoomName, polls::Request),
    /// Call again with [`In::Wake`] at about this time, and not at any that was asked for before.
    WakeAt(Time),
    /// Send a close frame and forget the client.
    Close(Disconnect),
    /// The client is authenticated as this user.
    Authenticated(Box<str>),
    /// Ask this of someone outside the node; the answer is [`In::Called`] with the same number.
    Call(u32, Call),
    /// For the stream that was opened under this number.
    Stream(u32, ToStream),
}

/// What a session can't know by itself, nor ask of a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// Fetch the public keys of connection tokens anew.
    TokenKeys,
    /// Fetch those of subscription tokens anew.
    SubscriptionTokenKeys,
    /// Ask one of the application's backends.
    Backend(Box<BackendRequest>),
    /// The same by a stream, which has the number of the call; in both directions or not.
    Stream(Box<BackendRequest>, bool),
}

/// What comes back for a [`Call`].
#[derive(Debug, Clone, PartialEq)]
pub enum Called {
    /// The keys are those of now.
    Keys,
    /// What the backend has decided.
    Backend(BackendResponse),
}

/// It did not come back, or not in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFailed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// Waits for the connect command.
    New,
    /// It is being answered: nothing else is taken on until it is.
    Connecting,
    /// Connect was answered with an error: nothing more is expected.
    Refused,
    Open,
    Closed,
}

/// What hardly any session has, or only for a while.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Large answers that wait until the client has taken what it has.
    deferred: VecDeque<(u32, Answer)>,
    /// While the connect command is being answered.
    pub(super) connecting: Option<Connecting>,
    /// What waits for a [`Call`].
    pub(super) calls: PendingCalls,
    /// Headers of the client that backends want.
    pub(super) headers: Option<Arc<Headers>>,
    /// What the application attached to the connection for its backends.
    pub(super) meta: Bytes,
    /// The user that a trusted proxy in front of the node has named.
    pub(super) trusted_user: Option<Box<str>>,
    /// The name of the session, if its client needs one: see [`Session::over`].
    pub(super) session: Option<SessionId>,
    /// The maps that the client loads.
    pub(super) maps: Vec<Loading>,
}

impl Rare {
    fn is_empty(&self) -> bool {
        self.deferred.is_empty()
            && self.connecting.is_none()
            && self.calls.is_empty()
            && self.headers.is_none()
            && self.meta.is_empty()
            && self.trusted_user.is_none()
            && self.session.is_none()
            && self.maps.is_empty()
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    pub(super) socket: SocketRef,
    pub(super) format: Format,
    /// Whether the client only listens, once it has sent its connect request.
    pub(super) one_way: bool,
    pub(super) state: ConnectionState,
    pub(super) info: Arc<ClientInfo>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) in_flight: u16,
    /// Commands that came with others, and wait until fewer are in flight.
    held: Commands,
    pub(super) rare: Option<Box<Rare>>,
    /// When the next ping is due, or, while one is unanswered, its pong.
    pub(super) next_ping: Time,
    pub(super) ping_unanswered: bool,
    /// Unix time at which the connection ends, if it does.
    pub(super) expires_at: Option<i64>,
}

impl Session {
    /// A connection that has said nothing yet.
    pub fn new(socket: SocketRef, format: Format, client: ClientId) -> Self {
        let info = ClientInfo::new(client, "");
        Self {
            socket,
            format,
            one_way: false,
            state: ConnectionState::New,
            info: Arc::new(info),
            subscriptions: Vec::new(),
            in_flight: 0,
            held: Commands::default(),
            rare: None,
            next_ping: Time::default(),
            ping_unanswered: false,
            expires_at: None,
        }
    }

    /// The same over a transport on which the server only sends: what the client sends comes by requests of
    /// their own, which name the `session`, or, if it is `one_way`, not at all.
    pub fn over(mut self, session: SessionId, one_way: bool) -> Self {
        self.rare_mut().session = Some(session);
        self.one_way = one_way;
        self
    }

    /// The user is this, as a trusted proxy in front of the node says.
    pub fn trust(&mut self, user: Box<str>) {
        self.rare_mut().trusted_user = Some(user);
    }

    /// The client sent headers that backends want.
    pub fn came_with(&mut self, headers: Headers) {
        self.rare_mut().headers = Some(Arc::new(headers));
    }

    fn is_session(&self, name: &str) -> bool {
        let session = self.rare().and_then(|it| it.session);
        session.is_some_and(|it| name.parse() == Ok(it))
    }

    pub(super) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// What is rare, if there is this of it.
    pub(super) fn rare_if(&mut self, there: impl Fn(&Rare) -> bool) -> Option<&mut Rare> {
        self.rare.as_deref_mut().filter(|it| there(it))
    }

    /// Frees the rarely used part once it is empty.
    pub(super) fn tidy(&mut self) {
        self.rare.take_if(|it| it.is_empty());
    }

    /// Whether connect is still being answered: until the client has that reply, it must get nothing from any room.
    pub fn is_connecting(&self) -> bool {
        self.state == ConnectionState::Connecting
    }

    /// Who the client is.
    pub fn client(&self) -> &Arc<ClientInfo> {
        &self.info
    }

    /// The format of its messages.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, env: Env<'_>, out: &mut Vec<Out>) {
        if self.state == ConnectionState::Closed {
            return;
        }
        let first = out.len();
        match input {
            In::Payload(payload) if self.one_way => self.listen(&payload, env, out),
            In::Opened => out.push(Out::WakeAt(env.now + env.settings.stale_close_delay)),
            In::Payload(payload) => match self.held.push(self.format, payload) {
                Ok(()) => self.go_on(env, out),
                Err(_) => self.close(Disconnect::BadRequest, out),
            },
            In::GoOn if env.congested => {}
            In::GoOn => self.go_on(env, out),
            In::Subscribed { room, id, result } => self.subscribed(room, id, result, env, out),
            In::Unsubscribed { id } => {
                self.in_flight = self.in_flight.saturating_sub(1);
                out.push(Out::Reply(reply::result(id, ReplyBody::Unsubscribe(Empty {}))));
            }
            In::Answer { id, answer } => self.answered(id, answer, env, out),
            In::Polled { room, id, reply } => self.polls_answered(room, id, reply, env, out),
            In::Called(id, result) => self.called(id, result, env, out),
            In::Streamed(number, it) => self.streamed(number, it, out),
            In::Control(control) => self.control(&control, env, out),
            In::InsufficientState(room) => self.insufficient_state(&room, out),
            In::Wake => self.wake(env, out),
            In::Disconnect(why) => self.close(why, out),
            In::Closed => self.end(out),
        }
        if self.one_way {
            self.close_for_errors(first, out);
        }
    }

    /// A client of a unidirectional transport sends its connect request; anything else that it sends is ignored.
    fn listen(&mut self, payload: &[u8], env: Env<'_>, out: &mut Vec<Out>) {
        if self.state != ConnectionState::New {
            return;
        }
        match codec::decode_connect(self.format, payload) {
            Ok(request) => self.connect(1, request, false, env, out),
            Err(_) => self.close(Disconnect::BadRequest, out),
        }
    }

    /// A client that only listens knows no error replies: the connection ends with what they mean.
    fn close_for_errors(&mut self, first: usize, out: &mut Vec<Out>) {
        let error = |it: &Out| match it {
            Out::Reply(reply) => reply.error.as_ref().map(|it| it.code),
            _ => None,
        };
        let found = out.iter().enumerate().skip(first).find_map(|(at, it)| Some((at, error(it)?)));
        if let Some((at, code)) = found {
            out.remove(at);
            self.close(Disconnect::for_error(code), out);
        }
    }

    /// A client that has yet to take what it has gets large answers later, one at a time.
    fn answered(&mut self, id: u32, answer: Answer, env: Env<'_>, out: &mut Vec<Out>) {
        let Some(answer) = self.entries_came(id, answer, env, out) else { return };
        let pulled = matches!(&answer, Answer::Group(GroupAnswer::Pulled(_)));
        let large = pulled || matches!(answer, Answer::History(..) | Answer::Presence(_));
        if large && (env.congested || self.has_deferred()) {
            self.rare_mut().deferred.push_back((id, answer));
        } else {
            self.answer(id, answer, env, out);
        }
    }

    fn has_deferred(&self) -> bool {
        self.rare().is_some_and(|it| !it.deferred.is_empty())
    }

    fn answer(&mut self, id: u32, answer: Answer, env: Env<'_>, out: &mut Vec<Out>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        out.push(Out::Reply(reply::answer(id, answer, env.reply_limit())));
    }

    /// Whether nothing more should be read of its client: some commands must be answered first, or there
    /// are some that were not taken on yet. A client that sends faster than it is answered is slowed down,
    /// not refused.
    pub fn is_busy(&self, settings: &SessionSettings) -> bool {
        self.state != ConnectionState::Closed && (!self.held.is_empty() || self.is_full(settings))
    }

    /// Whether there are answers to be given, or commands to be taken on, with [`In::GoOn`] as soon as the
    /// client has taken what it has.
    pub fn can_go_on(&self, settings: &SessionSettings) -> bool {
        let commands = !self.held.is_empty() && !self.is_full(settings);
        self.state != ConnectionState::Closed && (commands || self.has_deferred())
    }

    fn is_full(&self, settings: &SessionSettings) -> bool {
        self.is_connecting() || usize::from(self.in_flight) >= settings.in_flight_limit
    }

    fn go_on(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if let Some((id, answer)) = self.rare.as_mut().and_then(|it| it.deferred.pop_front()) {
            self.tidy();
            return self.answer(id, answer, env, out);
        }
        for _ in 0..COMMANDS_PER_CALL {
            if self.state == ConnectionState::Closed || self.is_full(env.settings) {
                return;
            }
            match self.held.next(self.format) {
                Ok(Some(command)) => self.command(command, env, out),
                Ok(None) => return,
                Err(_) => return self.close(Disconnect::BadRequest, out),
            }
        }
    }

    pub(super) fn close(&mut self, why: Disconnect, out: &mut Vec<Out>) {
        if self.state != ConnectionState::Closed {
            out.push(Out::Close(why));
            self.end(out);
        }
    }

    /// Leaves every room. After the close, so that the client learns of it before anyone else sees it leave.
    fn end(&mut self, out: &mut Vec<Out>) {
        self.state = ConnectionState::Closed;
        self.held = Commands::default();
        self.rare = None;
        for subscription in std::mem::take(&mut self.subscriptions) {
            out.extend(subscription.stand_ins().iter().filter_map(|it| it.removal()));
            out.push(self.leave_subscription(subscription));
        }
    }

    /// Leaves a room without being told when that is done.
    pub(super) fn leave_subscription(&self, it: Subscription) -> Out {
        if it.is_polled() {
            return Out::Poll(it.room, polls::Request::Leave { socket: self.socket, id: None });
        }
        self.leave(it.room, ReplyTo::Nobody)
    }

    pub(super) fn leave(&self, room: RoomName, reply: ReplyTo) -> Out {
        let (socket, client) = (self.socket, self.info.client);
        Out::Request(room, Request::Unsubscribe { socket, client, reply })
    }

    fn control(&mut self, control: &Control, env: Env<'_>, out: &mut Vec<Out>) {
        use crate::room::control::Action;
        let client = self.info.client.to_string();
        let meant = |id: &str| id.is_empty() || *id == *client;
        let is_it = *control.user == *self.info.user
            && meant(&control.client)
            && (control.session.is_empty() || self.is_session(&control.session));
        // A connection that is still being admitted can be disconnected, but nothing else can be done to it.
        let ends = self.is_connecting() && matches!(control.action, Action::Disconnect { .. });
        if !is_it || self.state != ConnectionState::Open && !ends {
            return;
        }
        match &control.action {
            Action::Subscribe { room, grant, since } => {
                self.put_into(room, grant, since.clone(), Initiator::Application, env, out);
            }
            Action::Unsubscribe { room } => self.take_out_of(room, out),
            Action::Disconnect { code, reason, except } => {
                if !except.contains(&client) {
                    self.close(Disconnect::custom(*code, reason), out);
                }
            }
            Action::Refresh { expired: true, .. } => self.close(Disconnect::ConnectionExpired, out),
            Action::Refresh { expires_at, info, .. } => {
                self.refreshed_by_application(*expires_at, info.as_deref(), env, out);
            }
        }
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "polling_tests.rs"]
mod polling_tests;

#[cfg(test)]
#[path = "terms_tests.rs"]
mod terms_tests;

#[cfg(test)]
#[path = "one_way_tests.rs"]
mod one_way_tests;

#[cfg(test)]
#[path = "streaming_tests.rs"]
mod streaming_tests;
