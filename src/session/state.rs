//! The state machine of one connection.
//!
//! In: [`In`]. Out: [`Out`]s, in the order in which they are to be done. A session takes commands from its
//! connect to its close, checks what they may do, hands them to their rooms, and answers each exactly once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    calls::Calls,
    connecting::Connecting,
    id::SessionId,
    reply,
    subscribing::{Asker, Subscription},
};
use crate::{
    access::verifier::Verifier,
    backend::{
        headers::Headers,
        options::{BackendId, Proxies, Verdict},
        request::BackendRequest,
        response::BackendResponse,
    },
    protocol::{
        codec::{self, Commands, Format},
        codes::{Disconnect, ErrorCode},
        message::{
            self, ChannelRequest, Command, Empty, HistoryRequest, PublishRequest, Reply, ReplyBody,
            Request as ClientRequest,
        },
    },
    room::{
        control::Control,
        options::{Audience, Namespaces, RoomOptions},
        types::{
            Answer, ClientId, ClientInfo, HistoryFilter, NewPublication, Query, ReplyTo, Request,
            RoomName, Since, SocketRef, Subscribed,
        },
    },
    runtime::time::Time,
};

/// The most commands that one call takes on, so that the answers can be sent before more are made.
const COMMANDS_PER_CALL: usize = 64;
/// What every session of a node goes by.
#[derive(Debug)]
pub struct SessionSettings {
    /// Let everyone in and permit everything.
    pub insecure: bool,
    /// Let clients in that have no token.
    pub allow_anonymous: bool,
    /// Let no one in whose token names no user.
    pub refuse_anonymous_tokens: bool,
    /// Checks connection tokens.
    pub tokens: Arc<Verifier>,
    /// Checks subscription tokens.
    pub subscription_tokens: Arc<Verifier>,
    /// Rooms that the server puts every client into.
    pub subscribe_to: Vec<String>,
    /// The namespace of the rooms of their own that the server puts users into, if it does.
    pub personal_rooms: Option<String>,
    /// Whoever of a user comes last into that room is the only one that stays connected.
    pub single_connection: bool,
    /// How long an expired connection may take to refresh.
    pub expired_close_delay: Duration,
    /// How long an expired subscription may.
    pub expired_sub_close_delay: Duration,
    /// The namespaces of rooms.
    pub namespaces: Arc<Namespaces>,
    /// What the application's backends are asked.
    pub proxies: Proxies,
    /// Time between the server's pings.
    pub ping_interval: Duration,
    /// Time in which a pong must come.
    pub pong_timeout: Duration,
    /// Time in which a connection must be authenticated.
    pub stale_close_delay: Duration,
    /// The most rooms that a client may be in.
    pub channel_limit: usize,
    /// The longest room name, in bytes.
    pub channel_max_length: usize,
    /// The most publications that one history call returns.
    pub history_limit: usize,
    /// The most commands of one client that wait for answers; the rest wait to be read.
    pub in_flight_limit: usize,
    /// Id of this node.
    pub node: String,
}

/// What every call of [`Session::handle`] may look at.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The node's settings.
    pub settings: &'a SessionSettings,
    /// The moment of the input.
    pub now: Time,
    /// Unix time in seconds: tokens follow the wall clock.
    pub wall: i64,
    /// Whether so much waits for the client that it can't have seen the latest of it.
    pub congested: bool,
    /// Bytes that may still be added to what waits for the client.
    pub space: usize,
}

impl Env<'_> {
    /// The most bytes of publications that one reply may bring.
    pub(super) fn reply_limit(&self) -> usize {
        self.space - self.space / 8
    }

    /// When a moment of Unix time, and what may pass after it, will be over.
    pub(super) fn over_at(&self, at: i64, grace: Duration) -> Time {
        let left = u64::try_from(at.saturating_sub(self.wall)).unwrap_or(0);
        self.now + Duration::from_secs(left).saturating_add(grace)
    }

    /// Whether that is now.
    pub(super) fn is_over(&self, at: i64, grace: Duration) -> bool {
        self.wall >= at.saturating_add(i64::try_from(grace.as_secs()).unwrap_or(i64::MAX))
    }

    /// What may pass after the end of a connection. A backend that decides about it is asked at once.
    pub(super) fn connection_grace(&self) -> Duration {
        match self.settings.proxies.refresh {
            Some(_) => Duration::ZERO,
            None => self.settings.expired_close_delay,
        }
    }

    /// Who decides whether a subscription to this room goes on, if that is not the client's business.
    pub(super) fn sub_refresh_backend(&self, room: &str) -> Option<BackendId> {
        self.settings.namespaces.options(room)?.proxies.sub_refresh
    }

    /// What may pass after its end.
    pub(super) fn subscription_grace(&self, room: &str) -> Duration {
        match self.sub_refresh_backend(room) {
            Some(_) => Duration::ZERO,
            None => self.settings.expired_sub_close_delay,
        }
    }

    /// How long it is until then, as clients are told: whether there is an end, and seconds.
    pub(super) fn time_to_live(&self, ends_at: Option<i64>) -> (bool, u32) {
        let left = |at: i64| u32::try_from(at.saturating_sub(self.wall).max(0)).unwrap_or(u32::MAX);
        (ends_at.is_some(), ends_at.map(left).unwrap_or_default())
    }
}

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
    /// What was asked by [`Out::Call`] under this number is done, or could not be.
    Called(u32, Result<Called, CallFailed>),
    /// The application does something to the connection.
    Control(Arc<Control>),
    /// The client can't have seen everything that was said in a room.
    InsufficientState(RoomName),
    /// Time that was asked for has passed.
    Wake,
    /// The server wants to be rid of the connection.
    Disconnect(Disconnect),
    /// The connection is closed, whoever closed it.
    Closed,
}

/// What a session wants done.
#[derive(Debug, PartialEq)]
pub enum Out {
    /// Send this.
    Reply(Reply),
    /// Ask this of a room.
    Request(RoomName, Request),
    /// Call again with [`In::Wake`] at about this time, and not at any that was asked for before.
    WakeAt(Time),
    /// Send a close frame and forget the client.
    Close(Disconnect),
    /// The client is authenticated as this user.
    Authenticated(Box<str>),
    /// Ask this of someone outside the node; the answer is [`In::Called`] with the same number.
    Call(u32, Call),
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

/// Why a command is not done.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// The client is told, and the connection goes on.
    Error(ErrorCode),
    /// The same in the words of the application.
    Custom(message::Error),
    /// The connection is closed.
    Close(Disconnect),
}

impl From<ErrorCode> for Refusal {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<Verdict> for Refusal {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Error(error) => Self::Custom(error),
            Verdict::Disconnect(why) => Self::Close(why),
        }
    }
}

impl From<Disconnect> for Refusal {
    fn from(why: Disconnect) -> Self {
        Self::Close(why)
    }
}

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
    pub(super) calls: Calls,
    /// Headers of the client that backends want.
    pub(super) headers: Option<Arc<Headers>>,
    /// What the application wants its backends to be told of the connection.
    pub(super) meta: Bytes,
    /// The user that a trusted proxy in front of the node has named.
    pub(super) trusted_user: Option<Box<str>>,
    /// The name of the session, if its client needs one: see [`Session::over`].
    pub(super) session: Option<SessionId>,
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
    }
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    pub(super) socket: SocketRef,
    pub(super) format: Format,
    /// Whether the client only listens, once it has sent its connect request.
    one_way: bool,
    pub(super) state: ConnectionState,
    pub(super) info: Arc<ClientInfo>,
    pub(super) subscriptions: Vec<Subscription>,
    pub(super) in_flight: u16,
    /// Commands that came with others, and wait until fewer are in flight.
    held: Commands,
    pub(super) rare: Option<Box<Rare>>,
    /// When the next ping is due, or, while one is unanswered, its pong.
    pub(super) next_ping: Time,
    ping_unanswered: bool,
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

    /// Lets go of what is rare once there is nothing of it.
    pub(super) fn tidy(&mut self) {
        self.rare.take_if(|it| it.is_empty());
    }

    /// Whether the client has yet to be told that it is connected: until then it must hear of no room.
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
            In::Called(id, result) => self.called(id, result, env, out),
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

    /// A client that only listens sends its connect request; whatever else it sends is nothing to us.
    fn listen(&mut self, payload: &[u8], env: Env<'_>, out: &mut Vec<Out>) {
        if self.state != ConnectionState::New {
            return;
        }
        match codec::decode_connect(payload) {
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
        let large = matches!(answer, Answer::History(..) | Answer::Presence(_));
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

    /// Leaves every room. After the close, so that no one hears of the leaving before the client does.
    fn end(&mut self, out: &mut Vec<Out>) {
        self.state = ConnectionState::Closed;
        self.held = Commands::default();
        self.rare = None;
        for subscription in std::mem::take(&mut self.subscriptions) {
            out.push(self.leave(subscription.room, ReplyTo::Nobody));
        }
    }

    pub(super) fn leave(&self, room: RoomName, reply: ReplyTo) -> Out {
        let (socket, client) = (self.socket, self.info.client);
        Out::Request(room, Request::Unsubscribe { socket, client, reply })
    }

    fn command(&mut self, command: Command, env: Env<'_>, out: &mut Vec<Out>) {
        let (id, request) = command.into_request();
        match (self.state, request) {
            (ConnectionState::New, Some(ClientRequest::Connect(request))) if id > 0 => {
                self.connect(id, request, false, env, out);
            }
            (ConnectionState::Open, Some(ClientRequest::Send(_))) => {
                self.close(Disconnect::NotAvailable, out)
            }
            (ConnectionState::Open, _) if id == 0 => self.pong(env, out),
            (ConnectionState::Open, Some(request)) => self.request(id, request, env, out),
            _ => self.close(Disconnect::BadRequest, out),
        }
    }

    /// When to look again: for the ping, for the end of the connection, for that of a subscription.
    pub(super) fn wake_later(&self, env: Env<'_>, out: &mut Vec<Out>) {
        let settings = env.settings;
        let ping = (!settings.ping_interval.is_zero()).then_some(self.next_ping);
        // While a backend is asked about an end, its answer is what wakes.
        let end = self.expires_at.filter(|_| !self.is_being_judged());
        let end = end.map(|at| env.over_at(at, env.connection_grace()));
        let judged = |it: &&Subscription| self.is_subscription_being_judged(&it.room);
        let subscriptions = self.subscriptions.iter().filter(|it| it.expires_at().is_some());
        let ends = subscriptions.filter(|it| !judged(it)).filter_map(|it| {
            let grace = env.subscription_grace(&it.room);
            Some(env.over_at(it.expires_at()?, grace))
        });
        out.extend(ping.into_iter().chain(end).chain(ends).min().map(Out::WakeAt));
    }

    fn pong(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if !self.ping_unanswered {
            return self.close(Disconnect::BadRequest, out);
        }
        self.ping_unanswered = false;
        self.next_ping = env.now + env.settings.ping_interval;
        self.wake_later(env, out);
    }

    fn wake(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if self.state != ConnectionState::Open {
            return self.close(Disconnect::Stale, out);
        }
        if self.expires_at.is_some_and(|at| env.is_over(at, env.connection_grace())) {
            match env.settings.proxies.refresh {
                Some(_) if self.is_being_judged() => {}
                Some(backend) => self.ask_about_connection(backend, out),
                None => return self.close(Disconnect::ConnectionExpired, out),
            }
        }
        self.end_expired(env, out);
        if self.state == ConnectionState::Closed {
            return;
        }
        if !env.settings.ping_interval.is_zero() && env.now >= self.next_ping {
            // As long as a client is still taking what came before a ping, it is neither dead nor able to
            // answer, and its pong may be among what is not read.
            if self.ping_unanswered && !env.congested {
                return self.close(Disconnect::NoPong, out);
            }
            self.ping(env, out);
        }
        self.wake_later(env, out);
    }

    /// Zero: no pong is expected.
    pub(super) fn pong_timeout(&self, env: Env<'_>) -> Duration {
        if self.one_way { Duration::ZERO } else { env.settings.pong_timeout }
    }

    fn ping(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if !self.ping_unanswered {
            out.push(Out::Reply(Reply::default()));
        }
        let pong_timeout = self.pong_timeout(env);
        self.ping_unanswered = !pong_timeout.is_zero();
        let wait = if self.ping_unanswered { pong_timeout } else { env.settings.ping_interval };
        self.next_ping = env.now + wait;
    }

    fn request(&mut self, id: u32, request: ClientRequest, env: Env<'_>, out: &mut Vec<Out>) {
        let to = ReplyTo::Command { socket: self.socket, id };
        let asked = match request {
            ClientRequest::Subscribe(request) => self.subscribe(id, request, false, env, out),
            ClientRequest::Publish(request) => self.publish(id, request, to, env, out),
            ClientRequest::Presence(request) => {
                self.presence(request, Query::Presence, to, env).map(Some)
            }
            ClientRequest::PresenceStats(request) => {
                self.presence(request, Query::PresenceStats, to, env).map(Some)
            }
            ClientRequest::History(request) => self.history(request, to, env).map(Some),
            ClientRequest::Unsubscribe(request) => self.unsubscribe(id, &request, to, env, out),
            ClientRequest::Refresh(request) => self.refresh(id, request, false, env, out),
            ClientRequest::SubRefresh(request) => self.sub_refresh(id, request, false, env, out),
            ClientRequest::Rpc(request) => self.rpc(id, request, env, out),
            ClientRequest::Connect(_) | ClientRequest::Ping | ClientRequest::Send(_) => {
                Err(Disconnect::BadRequest.into())
            }
        };
        self.outcome(id, asked, out);
    }

    /// Asks the room, if there is something to ask, or says why not.
    pub(super) fn outcome(&mut self, id: u32, asked: Outcome, out: &mut Vec<Out>) {
        match asked {
            Ok(Some((room, request))) => {
                self.in_flight += 1;
                out.push(Out::Request(room, request));
            }
            Ok(None) => {}
            Err(Refusal::Error(error)) => out.push(Out::Reply(reply::failure(id, error))),
            Err(Refusal::Custom(error)) => out.push(Out::Reply(reply::failure(id, error))),
            Err(Refusal::Close(why)) => self.close(why, out),
        }
    }

    fn is_in(&self, room: &str) -> bool {
        self.subscriptions.iter().any(|it| it.is_live() && &*it.room == room)
    }

    /// The options of a room whose name is acceptable.
    pub(super) fn options<'a>(
        &self,
        room: &str,
        env: Env<'a>,
    ) -> Result<&'a Arc<RoomOptions>, ErrorCode> {
        if room.is_empty() || room.len() > env.settings.channel_max_length {
            return Err(ErrorCode::BadRequest);
        }
        let options = env.settings.namespaces.options(room).ok_or(ErrorCode::UnknownChannel)?;
        options.allows_name(room).then_some(options).ok_or(ErrorCode::BadRequest)
    }

    fn permitted(&self, audience: Audience, room: &str, env: Env<'_>) -> Result<(), ErrorCode> {
        let permitted =
            env.settings.insecure || audience.includes(self.info.user.is_empty(), self.is_in(room));
        permitted.then_some(()).ok_or(ErrorCode::PermissionDenied)
    }

    fn publish(
        &mut self,
        id: u32,
        request: PublishRequest,
        to: ReplyTo,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        let options = self.options(&request.channel, env)?;
        if !options.data_format.accepts(&request.data) {
            return Err(ErrorCode::BadRequest.into());
        }
        if request.kind != 0 {
            return Err(ErrorCode::NotAvailable.into());
        }
        if let Some(backend) = options.proxies.publish {
            self.ask_to_publish(id, request, backend, out);
            return Ok(None);
        }
        self.permitted(options.permissions.publish, &request.channel, env)?;
        let publication = NewPublication {
            // Protobuf lends the buffer of the whole message, which a history would keep with it.
            data: Bytes::copy_from_slice(&request.data),
            info: Some(self.info_in(&request.channel)),
            delta: options.delta_publish,
            ..NewPublication::default()
        };
        Ok(Some((request.channel.into(), Request::Publish(publication, to))))
    }

    fn presence(
        &self,
        request: ChannelRequest,
        query: Query,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), Refusal> {
        let options = self.options(&request.channel, env)?;
        self.permitted(options.permissions.presence, &request.channel, env)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        Ok((request.channel.into(), Request::Query(query, to)))
    }

    fn history(
        &self,
        request: HistoryRequest,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), Refusal> {
        let options = self.options(&request.channel, env)?;
        self.permitted(options.permissions.history, &request.channel, env)?;
        if !options.keeps_history() {
            return Err(ErrorCode::NotAvailable.into());
        }
        let most = env.settings.history_limit;
        let filter = HistoryFilter {
            limit: usize::try_from(request.limit).unwrap_or(most).min(most),
            since: request.since.map(|it| Since { epoch: it.epoch, offset: it.offset }),
            reverse: request.reverse,
        };
        Ok((request.channel.into(), Request::Query(Query::History(filter), to)))
    }

    fn control(&mut self, control: &Control, env: Env<'_>, out: &mut Vec<Out>) {
        use crate::room::control::Action;
        let client = self.info.client.to_string();
        let meant = |id: &str| id.is_empty() || *id == *client;
        let is_it = *control.user == *self.info.user
            && meant(&control.client)
            && (control.session.is_empty() || self.is_session(&control.session));
        // One that is about to be let in can be turned away.
        let ends = self.is_connecting() && matches!(control.action, Action::Disconnect { .. });
        if !is_it || self.state != ConnectionState::Open && !ends {
            return;
        }
        match &control.action {
            Action::Subscribe { room, grant, since } => {
                self.put_into(room, grant, since.clone(), Asker::Application, env, out);
            }
            Action::Unsubscribe { room } => self.take_out_of(room, out),
            Action::Disconnect { code, reason, except } => {
                if !except.contains(&client) {
                    self.close(Disconnect::Custom(*code, reason.as_str().into()), out);
                }
            }
            Action::Refresh { expired: true, .. } => self.close(Disconnect::ConnectionExpired, out),
            Action::Refresh { expires_at, info, .. } => {
                self.refreshed_by_application(*expires_at, info.as_deref(), env, out);
            }
        }
    }
}

/// What is to be asked of a room for a command, if anything is; or why it is not done.
pub(super) type Outcome = Result<Option<(RoomName, Request)>, Refusal>;

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "terms_tests.rs"]
mod terms_tests;

#[cfg(test)]
#[path = "one_way_tests.rs"]
mod one_way_tests;
