//! The state machine of one connection.
//!
//! In: [`In`]. Out: [`Out`]s, in the order in which they are to be done. A session takes commands from its
//! connect to its close, checks what they may do, hands them to their rooms, and answers each exactly once.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    reply,
    token::{TokenError, Verifier},
};
use crate::{
    protocol::{
        codec::{Commands, Format},
        codes::{Disconnect, ErrorCode, Unsubscribed},
        message::{
            Body, ChannelRequest, Command, ConnectRequest, ConnectResult, Empty, HistoryRequest,
            PublishRequest, RefreshResult, Reply, Request as Asked, SubscribeRequest,
        },
    },
    room::{
        filter::Filter,
        options::{Audience, Namespaces, RoomOptions},
        types::{
            Answer, ClientId, ClientInfo, HistoryFilter, MemberFlags, NewPublication, Query,
            Recovery, ReplyTo, Request, RoomName, Since, SocketRef, Subscribe, Subscribed,
        },
        wishes::Wish,
    },
    time::Time,
};

/// How long an expired connection may take to refresh.
const REFRESH_GRACE: Duration = Duration::from_secs(25);
/// The most commands that one call takes on, so that the answers can be sent before more are made.
const COMMANDS_PER_CALL: usize = 64;
/// The delta format that clients may ask for.
const FOSSIL: &str = "fossil";
/// Name and version that clients are told.
const SERVER_VERSION: &str = concat!("Roomcast ", env!("CARGO_PKG_VERSION"));

/// What every session of a node goes by.
#[derive(Debug)]
pub struct Settings {
    /// Let everyone in and permit everything.
    pub insecure: bool,
    /// Let clients in that have no token.
    pub allow_anonymous: bool,
    /// Checks tokens; none: no token is valid.
    pub verifier: Option<Verifier>,
    /// The namespaces of rooms.
    pub namespaces: Arc<Namespaces>,
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

/// What every call of [`State::handle`] may look at.
#[derive(Debug, Clone, Copy)]
pub struct Env<'a> {
    /// The node's settings.
    pub settings: &'a Settings,
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
    fn reply_limit(&self) -> usize {
        self.space - self.space / 8
    }
}

/// Something that a session has to deal with.
#[derive(Debug)]
pub enum In {
    /// The connection is open; nothing was received yet.
    Opened,
    /// The payload of a message from the client.
    Payload(Bytes),
    /// Take on more of the commands that are here; see [`State::can_go_on`].
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waits for the connect command.
    New,
    /// Connect was answered with an error: nothing more is expected.
    Refused,
    Open,
    Closed,
}

#[derive(Debug)]
struct Subscription {
    room: RoomName,
    /// Until the room has answered.
    pending: Option<Box<Pending>>,
}

#[derive(Debug)]
struct Pending {
    /// The number of the subscribe command.
    id: u32,
    recoverable: bool,
    positioned: bool,
    since: Option<Since>,
    must_recover: bool,
    wish: Option<Wish>,
}

/// One connection.
#[derive(Debug)]
pub struct State {
    socket: SocketRef,
    format: Format,
    phase: Phase,
    info: Arc<ClientInfo>,
    subscriptions: Vec<Subscription>,
    in_flight: u16,
    /// Commands that came with others, and wait until fewer are in flight.
    held: Commands,
    /// Large answers that wait until the client has taken what it has. Boxed: hardly any session has them.
    #[expect(clippy::box_collection, reason = "a word in each of very many sessions")]
    deferred: Option<Box<VecDeque<(u32, Answer)>>>,
    /// When the next ping is due, or, while one is unanswered, its pong.
    next_ping: Time,
    ping_unanswered: bool,
    /// Unix time at which the token ends, if it does.
    expires_at: Option<i64>,
}

impl State {
    /// A connection that has said nothing yet.
    pub fn new(socket: SocketRef, format: Format, client: ClientId) -> Self {
        let info = ClientInfo::new(client, "");
        Self {
            socket,
            format,
            phase: Phase::New,
            info: Arc::new(info),
            subscriptions: Vec::new(),
            in_flight: 0,
            held: Commands::default(),
            deferred: None,
            next_ping: Time::default(),
            ping_unanswered: false,
            expires_at: None,
        }
    }

    /// The format of its messages.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Takes one input and says what is to be done, in order.
    pub fn handle(&mut self, input: In, env: Env<'_>, out: &mut Vec<Out>) {
        if self.phase == Phase::Closed {
            return;
        }
        match input {
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
                out.push(Out::Reply(reply::result(id, Body::Unsubscribe(Empty {}))));
            }
            In::Answer { id, answer } => self.answered(id, answer, env, out),
            In::InsufficientState(room) => self.insufficient_state(&room, out),
            In::Wake => self.wake(env, out),
            In::Disconnect(why) => self.close(why, out),
            In::Closed => self.end(out),
        }
    }

    /// A client that has yet to take what it has gets large answers later, one at a time.
    fn answered(&mut self, id: u32, answer: Answer, env: Env<'_>, out: &mut Vec<Out>) {
        let large = matches!(answer, Answer::History(..) | Answer::Presence(_));
        if large && (env.congested || self.deferred.is_some()) {
            self.deferred.get_or_insert_default().push_back((id, answer));
        } else {
            self.answer(id, answer, env, out);
        }
    }

    fn answer(&mut self, id: u32, answer: Answer, env: Env<'_>, out: &mut Vec<Out>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        out.push(Out::Reply(reply::answer(id, answer, env.reply_limit())));
    }

    /// Whether nothing more should be read of its client: some commands must be answered first, or there
    /// are some that were not taken on yet. A client that sends faster than it is answered is slowed down,
    /// not refused.
    pub fn is_busy(&self, settings: &Settings) -> bool {
        self.phase != Phase::Closed && (!self.held.is_empty() || self.is_full(settings))
    }

    /// Whether there are answers to be given, or commands to be taken on, with [`In::GoOn`] as soon as the
    /// client has taken what it has.
    pub fn can_go_on(&self, settings: &Settings) -> bool {
        let commands = !self.held.is_empty() && !self.is_full(settings);
        self.phase != Phase::Closed && (commands || self.deferred.is_some())
    }

    fn is_full(&self, settings: &Settings) -> bool {
        usize::from(self.in_flight) >= settings.in_flight_limit
    }

    fn go_on(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if let Some((id, answer)) = self.deferred.as_mut().and_then(|it| it.pop_front()) {
            self.deferred.take_if(|it| it.is_empty());
            return self.answer(id, answer, env, out);
        }
        for _ in 0..COMMANDS_PER_CALL {
            if self.phase == Phase::Closed || self.is_full(env.settings) {
                return;
            }
            match self.held.next(self.format) {
                Ok(Some(command)) => self.command(command, env, out),
                Ok(None) => return,
                Err(_) => return self.close(Disconnect::BadRequest, out),
            }
        }
    }

    fn close(&mut self, why: Disconnect, out: &mut Vec<Out>) {
        if self.phase != Phase::Closed {
            out.push(Out::Close(why));
            self.end(out);
        }
    }

    /// Leaves every room. After the close, so that no one hears of the leaving before the client does.
    fn end(&mut self, out: &mut Vec<Out>) {
        self.phase = Phase::Closed;
        self.held = Commands::default();
        self.deferred = None;
        for subscription in std::mem::take(&mut self.subscriptions) {
            out.push(self.leave(subscription.room, ReplyTo::Nobody));
        }
    }

    fn leave(&self, room: RoomName, reply: ReplyTo) -> Out {
        let (socket, client) = (self.socket, self.info.client);
        Out::Request(room, Request::Unsubscribe { socket, client, reply })
    }

    fn command(&mut self, command: Command, env: Env<'_>, out: &mut Vec<Out>) {
        let (id, request) = command.into_request();
        match (self.phase, request) {
            (Phase::New, Some(Asked::Connect(request))) if id > 0 => {
                self.connect(id, request, env, out);
            }
            (Phase::Open, Some(Asked::Send(_))) => self.close(Disconnect::NotAvailable, out),
            (Phase::Open, _) if id == 0 => self.pong(env, out),
            (Phase::Open, Some(Asked::Subscribe(request)))
                if !["", FOSSIL].contains(&request.delta.as_str()) =>
            {
                self.close(Disconnect::BadRequest, out);
            }
            (Phase::Open, Some(request)) => self.request(id, request, env, out),
            _ => self.close(Disconnect::BadRequest, out),
        }
    }

    fn connect(&mut self, id: u32, request: ConnectRequest, env: Env<'_>, out: &mut Vec<Out>) {
        let settings = env.settings;
        if !settings.insecure {
            match (&settings.verifier, request.token.as_str()) {
                (_, "") if settings.allow_anonymous => {}
                (_, "") => return self.close(Disconnect::BadRequest, out),
                (None, _) => return self.close(Disconnect::InvalidToken, out),
                (Some(verifier), token) => match verifier.connection(token, env.wall) {
                    Ok(claims) => {
                        let client = self.info.client;
                        let conn_info = claims.info[..].into();
                        let info =
                            ClientInfo { conn_info, ..ClientInfo::new(client, &claims.user) };
                        self.info = Arc::new(info);
                        self.expires_at = claims.expires_at;
                    }
                    Err(TokenError::Expired) => {
                        self.phase = Phase::Refused;
                        out.push(Out::Reply(reply::failure(id, ErrorCode::TokenExpired)));
                        return;
                    }
                    Err(TokenError::Invalid) => return self.close(Disconnect::InvalidToken, out),
                },
            }
        }
        self.phase = Phase::Open;
        out.push(Out::Authenticated(self.info.user.clone()));
        let ping = settings.ping_interval;
        let (expires, ttl) = self.time_to_live(env);
        let result = ConnectResult {
            client: self.info.client.to_string(),
            version: SERVER_VERSION.to_owned(),
            expires,
            ttl,
            ping: ping.as_secs() as u32,
            pong: !ping.is_zero() && !settings.pong_timeout.is_zero(),
            node: settings.node.clone(),
            ..Default::default()
        };
        out.push(Out::Reply(reply::result(id, Body::Connect(result))));
        // Connections that came together must not be pinged together.
        let spread = (self.info.client.0 % 1024) as u32;
        self.next_ping = env.now + ping / 2 + ping * spread / 2048;
        self.wake_later(env, out);
    }

    fn time_to_live(&self, env: Env<'_>) -> (bool, u32) {
        let ttl = self
            .expires_at
            .map(|at| u32::try_from(at.saturating_sub(env.wall).max(0)).unwrap_or(u32::MAX));
        (ttl.is_some(), ttl.unwrap_or_default())
    }

    fn wake_later(&self, env: Env<'_>, out: &mut Vec<Out>) {
        let ping = (!env.settings.ping_interval.is_zero()).then_some(self.next_ping);
        let expiry = self.until_expiry(env).map(|left| env.now + left);
        out.extend(ping.into_iter().chain(expiry).min().map(Out::WakeAt));
    }

    fn until_expiry(&self, env: Env<'_>) -> Option<Duration> {
        let left = u64::try_from(self.expires_at?.saturating_sub(env.wall)).unwrap_or(0);
        Some(Duration::from_secs(left).saturating_add(REFRESH_GRACE))
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
        if self.phase != Phase::Open {
            return self.close(Disconnect::Stale, out);
        }
        let over = |at: i64| env.wall >= at.saturating_add(REFRESH_GRACE.as_secs() as i64);
        if self.expires_at.is_some_and(over) {
            return self.close(Disconnect::ConnectionExpired, out);
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

    fn ping(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        if !self.ping_unanswered {
            out.push(Out::Reply(Reply::default()));
        }
        let pong_timeout = env.settings.pong_timeout;
        self.ping_unanswered = !pong_timeout.is_zero();
        let wait = if self.ping_unanswered { pong_timeout } else { env.settings.ping_interval };
        self.next_ping = env.now + wait;
    }

    fn request(&mut self, id: u32, request: Asked, env: Env<'_>, out: &mut Vec<Out>) {
        let to = ReplyTo::Command { socket: self.socket, id };
        let asked = match request {
            Asked::Subscribe(request) => self.subscribe(id, request, env),
            Asked::Publish(request) => self.publish(request, to, env),
            Asked::Presence(request) => self.presence(request, Query::Presence, to, env),
            Asked::PresenceStats(request) => self.presence(request, Query::PresenceStats, to, env),
            Asked::History(request) => self.history(request, to, env),
            Asked::Unsubscribe(request) => return self.unsubscribe(id, &request, to, env, out),
            Asked::Refresh(request) => return self.refresh(id, &request.token, env, out),
            Asked::SubRefresh(request) if !self.is_in(&request.channel) => {
                Err(ErrorCode::PermissionDenied)
            }
            Asked::SubRefresh(request) if request.token.is_empty() => Err(ErrorCode::BadRequest),
            Asked::SubRefresh(_) | Asked::Rpc(_) => Err(ErrorCode::NotAvailable),
            Asked::Connect(_) | Asked::Ping | Asked::Send(_) => {
                return self.close(Disconnect::BadRequest, out);
            }
        };
        match asked {
            Ok((room, request)) => {
                self.in_flight += 1;
                out.push(Out::Request(room, request));
            }
            Err(error) => out.push(Out::Reply(reply::failure(id, error))),
        }
    }

    fn is_in(&self, room: &str) -> bool {
        let live = |it: &Subscription| it.pending.is_none() && &*it.room == room;
        self.subscriptions.iter().any(live)
    }

    /// The options of a room whose name is acceptable.
    fn options<'a>(&self, room: &str, env: Env<'a>) -> Result<&'a Arc<RoomOptions>, ErrorCode> {
        if room.is_empty() || room.len() > env.settings.channel_max_length {
            return Err(ErrorCode::BadRequest);
        }
        env.settings.namespaces.options(room).ok_or(ErrorCode::UnknownChannel)
    }

    fn permitted(&self, audience: Audience, room: &str, env: Env<'_>) -> Result<(), ErrorCode> {
        let permitted =
            env.settings.insecure || audience.includes(self.info.user.is_empty(), self.is_in(room));
        permitted.then_some(()).ok_or(ErrorCode::PermissionDenied)
    }

    fn subscribe(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), ErrorCode> {
        let options = self.options(&request.channel, env)?;
        if self.subscriptions.iter().any(|it| *it.room == *request.channel) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if self.subscriptions.len() >= env.settings.channel_limit {
            return Err(ErrorCode::LimitExceeded);
        }
        if request.kind != 0 {
            return Err(ErrorCode::NotAvailable);
        }
        self.may_subscribe(&request.channel, options, env)?;
        let wish = wish(&request, options)?;
        let recoverable = options.keeps_history()
            && (options.force_recovery || (options.allow_recovery && request.recoverable));
        let positioned = recoverable
            || options.keeps_history()
                && (options.force_positioning || (options.allow_positioning && request.positioned));
        let recover = (recoverable && (request.recover || options.auto_cache_recover))
            .then_some(Since { epoch: request.epoch, offset: request.offset });
        let room = RoomName::from(request.channel);
        // Where only the latest counts, not to have it is no reason to load everything again.
        let must_recover = request.flag & 2 != 0 && !options.recovery_cache;
        let since = recover.clone();
        let wished = wish.clone();
        let pending = Pending { id, recoverable, positioned, since, must_recover, wish: wished };
        let pending = Some(Box::new(pending));
        // Most clients are in very few rooms.
        if self.subscriptions.is_empty() {
            self.subscriptions.reserve_exact(1);
        }
        self.subscriptions.push(Subscription { room: room.clone(), pending });
        let flags = MemberFlags {
            protobuf: self.format == Format::Protobuf,
            join_leave: options.force_push_join_leave || request.join_leave,
            positioned,
        };
        let subscribe = Subscribe {
            socket: self.socket,
            id,
            info: self.info.clone(),
            flags,
            wish,
            recover,
            must_recover,
        };
        Ok((room, Request::Subscribe(subscribe)))
    }

    fn may_subscribe(
        &self,
        room: &str,
        options: &RoomOptions,
        env: Env<'_>,
    ) -> Result<(), ErrorCode> {
        // Private rooms need a subscription token.
        let open =
            !room.starts_with('$') && options.permissions.may_subscribe(self.info.user.is_empty());
        let permitted = env.settings.insecure || open;
        permitted.then_some(()).ok_or(ErrorCode::PermissionDenied)
    }

    fn subscribed(
        &mut self,
        room: RoomName,
        id: u32,
        result: Result<Subscribed, ErrorCode>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let is_it = |it: &Subscription| it.pending.as_ref().is_some_and(|it| it.id == id);
        let Some(index) = self.subscriptions.iter().position(is_it) else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        let pending = self.subscriptions[index].pending.take();
        let wish = pending.as_ref().and_then(|it| it.wish.as_ref());
        let delta = (wish == Some(&Wish::Delta)).then_some(self.format);
        // As a JSON text, a quote takes two bytes.
        let most = env.reply_limit() / if delta == Some(Format::Json) { 2 } else { 1 };
        let result =
            result.map(|it| reply::bounded(reply::wanted(it, wish.and_then(Wish::filter)), most));
        let reply = match (result, pending) {
            (Ok(subscribed), Some(pending))
                if pending.must_recover && subscribed.recovery == Recovery::Failed =>
            {
                self.subscriptions.swap_remove(index);
                out.push(self.leave(room, ReplyTo::Nobody));
                reply::failure(id, ErrorCode::UnrecoverablePosition)
            }
            (Ok(subscribed), Some(pending)) => {
                // From here on the name that the whole node shares.
                self.subscriptions[index].room = room;
                let Pending { recoverable, positioned, since, .. } = *pending;
                let since = since.as_ref();
                let result =
                    reply::subscribe_result(&subscribed, since, recoverable, positioned, delta);
                reply::result(id, Body::Subscribe(result))
            }
            (Err(error), _) => {
                self.subscriptions.swap_remove(index);
                reply::failure(id, error)
            }
            (Ok(_), None) => return,
        };
        out.push(Out::Reply(reply));
    }

    fn unsubscribe(
        &mut self,
        id: u32,
        request: &ChannelRequest,
        to: ReplyTo,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        if request.channel.is_empty() || request.channel.len() > env.settings.channel_max_length {
            out.push(Out::Reply(reply::failure(id, ErrorCode::BadRequest)));
            return;
        }
        match self.subscriptions.iter().position(|it| *it.room == *request.channel) {
            Some(index) => {
                let subscription = self.subscriptions.swap_remove(index);
                match subscription.pending {
                    // Its subscribe gets no other answer any more.
                    Some(it) => out.push(Out::Reply(reply::failure(it.id, ErrorCode::Internal))),
                    None => self.in_flight += 1,
                }
                out.push(self.leave(subscription.room, to));
            }
            None => out.push(Out::Reply(reply::result(id, Body::Unsubscribe(Empty {})))),
        }
    }

    fn insufficient_state(&mut self, room: &RoomName, out: &mut Vec<Out>) {
        let live = |it: &Subscription| it.pending.is_none() && it.room == *room;
        if let Some(index) = self.subscriptions.iter().position(live) {
            let subscription = self.subscriptions.swap_remove(index);
            let push = reply::unsubscribe(room, Unsubscribed::InsufficientState);
            out.push(self.leave(subscription.room, ReplyTo::Nobody));
            out.push(Out::Reply(push));
        }
    }

    fn publish(
        &self,
        request: PublishRequest,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), ErrorCode> {
        let options = self.options(&request.channel, env)?;
        if !options.data_format.accepts(&request.data) {
            return Err(ErrorCode::BadRequest);
        }
        if request.kind != 0 {
            return Err(ErrorCode::NotAvailable);
        }
        self.permitted(options.permissions.publish, &request.channel, env)?;
        let publication = NewPublication {
            // Protobuf lends the buffer of the whole message, which a history would keep with it.
            data: Bytes::copy_from_slice(&request.data),
            info: Some(self.info.clone()),
            delta: options.delta_publish,
            ..NewPublication::default()
        };
        Ok((request.channel.into(), Request::Publish(publication, to)))
    }

    fn presence(
        &self,
        request: ChannelRequest,
        query: Query,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), ErrorCode> {
        let options = self.options(&request.channel, env)?;
        self.permitted(options.permissions.presence, &request.channel, env)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable);
        }
        Ok((request.channel.into(), Request::Query(query, to)))
    }

    fn history(
        &self,
        request: HistoryRequest,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), ErrorCode> {
        let options = self.options(&request.channel, env)?;
        self.permitted(options.permissions.history, &request.channel, env)?;
        if !options.keeps_history() {
            return Err(ErrorCode::NotAvailable);
        }
        let most = env.settings.history_limit;
        let filter = HistoryFilter {
            limit: usize::try_from(request.limit).unwrap_or(most).min(most),
            since: request.since.map(|it| Since { epoch: it.epoch, offset: it.offset }),
            reverse: request.reverse,
        };
        Ok((request.channel.into(), Request::Query(Query::History(filter), to)))
    }

    fn refresh(&mut self, id: u32, token: &str, env: Env<'_>, out: &mut Vec<Out>) {
        let Some(verifier) = env.settings.verifier.as_ref().filter(|_| !token.is_empty()) else {
            return self.close(Disconnect::BadRequest, out);
        };
        match verifier.connection(token, env.wall) {
            Ok(claims) if claims.user == self.info.user => {
                self.expires_at = claims.expires_at;
                let (expires, ttl) = self.time_to_live(env);
                let result = RefreshResult {
                    client: self.info.client.to_string(),
                    version: SERVER_VERSION.to_owned(),
                    expires,
                    ttl,
                };
                out.push(Out::Reply(reply::result(id, Body::Refresh(result))));
                self.wake_later(env, out);
            }
            Err(TokenError::Expired) => self.close(Disconnect::ConnectionExpired, out),
            Ok(_) | Err(TokenError::Invalid) => self.close(Disconnect::InvalidToken, out),
        }
    }
}

/// What a subscriber wants otherwise than most. With a filter it gets no deltas: it has not what they follow.
fn wish(request: &SubscribeRequest, options: &RoomOptions) -> Result<Option<Wish>, ErrorCode> {
    match &request.tf {
        Some(_) if !options.allow_tags_filter => Err(ErrorCode::BadRequest),
        Some(node) => {
            let filter = Filter::new(node).map_err(|_| ErrorCode::BadRequest)?;
            Ok(Some(Wish::Filter(Arc::new(filter))))
        }
        None => Ok((options.allow_delta && request.delta == FOSSIL).then_some(Wish::Delta)),
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
