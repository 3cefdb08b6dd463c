//! The rooms that a connection is in: who puts it there, on what terms, for how long.

use std::sync::Arc;

use super::{
    commands::{Outcome, Refusal},
    consuming::{self, Consumes},
    filter,
    maps::{self, Entering},
    polling, reply,
    settings::Env,
    state::{Call, Out, Session},
    subscription::{Initiator, More, Pending, Subscription},
};
use crate::{
    access::{
        fault::TokenError,
        grant::{self, Grant, Overrides},
    },
    backend::{request::Operation, stream::ToStream},
    protocol::{
        codec::Format,
        codes::{Disconnect, ErrorCode},
        message::{
            ReplyBody, Request as ClientRequest, SHARED_POLL, SubscribeRequest, SubscribeResult,
        },
    },
    queue::{name, rights::Rights},
    room::{
        delivery::DeliveryOption,
        options::{self, Audience, RoomOptions},
        types::{
            ClientInfo, InRoom, MemberFlags, ReplyTo, Request, RoomName, Since, Subscribe,
            Subscribed,
        },
    },
};

/// Whether a client may enter a room.
enum Decided {
    /// It may, and gets this.
    Granted(Grant),
    /// Someone else has to say it.
    Ask(Call),
}

/// What the client, or the server that puts it there, asks of the room and may have.
pub(super) struct Wanted {
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) join_leave: bool,
    /// Its user may have only one connection.
    pub(super) single_connection: bool,
    pub(super) since: Option<Since>,
    pub(super) must_recover: bool,
    pub(super) delivery: Option<DeliveryOption>,
    pub(super) consumes: Option<Consumes>,
    pub(super) map: Option<Box<Entering>>,
}

/// The delta format that clients may ask for.
const FOSSIL: &str = "fossil";

/// The delivery options of a subscriber, if any. With a filter it gets no deltas: it lacks the publications they are based on.
fn delivery_option(
    request: &SubscribeRequest,
    options: &RoomOptions,
) -> Result<Option<DeliveryOption>, Refusal> {
    match &request.tf {
        _ if !["", FOSSIL].contains(&request.delta.as_str()) => Err(Disconnect::BadRequest.into()),
        Some(_) if !options.allow_tags_filter => Err(ErrorCode::BadRequest.into()),
        Some(node) => {
            let filter = filter::parse(node).map_err(|_| ErrorCode::BadRequest)?;
            Ok(Some(DeliveryOption::Filter(Arc::new(filter))))
        }
        None => {
            Ok((options.allow_delta && request.delta == FOSSIL).then_some(DeliveryOption::Delta))
        }
    }
}

/// What is special about the client in the room, if anything.
fn in_room(grant: &Grant, single_connection: bool, options: &RoomOptions) -> Option<InRoom> {
    let Overrides { presence, join_leave, .. } = grant.overrides;
    let in_room = InRoom {
        info: grant.info[..].into(),
        hidden: !grant::or(presence, true),
        announced: join_leave.map(|it| it.value).filter(|it| *it != options.join_leave),
        single_connection,
    };
    (in_room != InRoom::default()).then_some(in_room)
}

impl Session {
    pub(super) fn subscription(&mut self, room: &str) -> Option<&mut Subscription> {
        self.subscriptions.iter_mut().find(|it| name::is_of(&it.room, room))
    }

    /// Who the client is in a room.
    pub(super) fn info_in(&self, room: &str) -> Arc<ClientInfo> {
        // What is noted of a consumer is for its group.
        let here = self.subscriptions.iter().find(|it| *it.room == *room);
        let own = here.and_then(|it| it.more.as_ref()?.info.as_ref());
        own.unwrap_or(&self.info).clone()
    }

    /// Takes a subscribe command. `retried`: the keys of tokens were fetched for it.
    pub(super) fn subscribe(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        retried: bool,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        let options = self.options(&request.channel, env)?;
        if self.is_asked_for(&request.channel) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        match &options.map {
            None => polling::check_kind(&request, env)?,
            Some(_) if request.kind != maps::kind(options) => {
                return Err(ErrorCode::BadRequest.into());
            }
            Some(_) => {
                if let Some(asked) = self.load_more(id, &request, env, out)? {
                    return Ok(Some(asked));
                }
            }
        }
        let rooms = self.subscriptions.len() + self.rooms_asked_for() + self.maps_loading();
        if rooms >= env.settings.channel_limit {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let delivery = delivery_option(&request, options)?;
        match self.grant(&request, options, retried, env)? {
            Decided::Granted(grant) => {
                Ok(self.enter_as_asked(id, request, delivery, &grant, env, out)?)
            }
            Decided::Ask(call) => {
                self.call(id, ClientRequest::Subscribe(request), call, out);
                Ok(None)
            }
        }
    }

    /// A backend lets the client in, if it may still be in one room more.
    pub(super) fn subscribe_granted(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        grant: &Grant,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        let options = self.options(&request.channel, env)?;
        if self.is_asked_for(&request.channel) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if self.subscriptions.len() >= env.settings.channel_limit {
            return Err(ErrorCode::LimitExceeded.into());
        }
        if grant.expires_at.is_some_and(|at| at <= env.wall) {
            return Err(ErrorCode::Expired.into());
        }
        let delivery = delivery_option(&request, options)?;
        Ok(self.enter_as_asked(id, request, delivery, grant, env, out)?)
    }

    fn enter_as_asked(
        &mut self,
        id: u32,
        request: SubscribeRequest,
        delivery: Option<DeliveryOption>,
        grant: &Grant,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Result<Option<(RoomName, Request)>, ErrorCode> {
        if request.kind == SHARED_POLL {
            self.enter_polled(id, &request, grant, out);
            return Ok(None);
        }
        let options = self.options(&request.channel, env)?;
        if options.map.is_some() {
            return self.begin_with_map(id, &request, delivery, grant, env).map(Some);
        }
        let may = |audience: Audience| {
            env.settings.insecure || audience.includes(self.info.user.is_empty(), true)
        };
        // Permission to read history includes recovery, and permission to read presence includes join and leave.
        let past = may(options.permissions.history);
        let rights = self.queue_rights(grant, options, env);
        let consumes = consuming::wanted(&request.data, rights, options)?;
        let wanted = Wanted {
            recoverable: request.recoverable && (options.allow_recovery || past),
            positioned: request.positioned && (options.allow_positioning || past),
            join_leave: request.join_leave
                && options.join_leave
                && may(options.permissions.presence),
            single_connection: false,
            since: request
                .recover
                .then_some(Since { epoch: request.epoch, offset: request.offset }),
            must_recover: request.flag & 2 != 0,
            delivery: delivery.filter(|_| consumes.is_none()),
            consumes,
            map: None,
        };
        Ok(Some(self.enter(&request.channel, options, grant, wanted, Initiator::Client(id))))
    }

    /// What the client may do with the room's groups.
    fn queue_rights(&self, grant: &Grant, options: &RoomOptions, env: Env<'_>) -> Rights {
        match env.settings.insecure {
            true => Rights::ALL,
            false => grant.queue.unwrap_or(options.permissions.queue(self.info.user.is_empty())),
        }
    }

    /// A consumer has brought a new token, which may say something else of what it may do.
    ///
    /// # Errors
    /// If it may not consume any more.
    pub(super) fn renew_rights(
        &mut self,
        room: &str,
        grant: &Grant,
        env: Env<'_>,
    ) -> Result<(), ErrorCode> {
        let rights = self.queue_rights(grant, self.options(room, env)?, env);
        let more = self.subscription(room).and_then(|it| it.more.as_mut());
        match more.filter(|it| it.rights.consume) {
            Some(_) if !rights.consume => Err(ErrorCode::PermissionDenied),
            Some(more) => {
                more.rights = rights;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn is_asked_for(&self, room: &str) -> bool {
        self.subscriptions.iter().any(|it| name::is_of(&it.room, room))
            || self.is_being_asked_for(room)
    }

    /// What the client is given in the room, if it may enter, or whom to ask.
    fn grant(
        &self,
        request: &SubscribeRequest,
        options: &RoomOptions,
        retried: bool,
        env: Env<'_>,
    ) -> Result<Decided, Refusal> {
        let (settings, room) = (env.settings, request.channel.as_str());
        if !request.token.is_empty() && !settings.insecure {
            return match settings.subscription_tokens.subscription(&request.token, env.wall) {
                Ok(it) if it.room != room => Err(Disconnect::InvalidToken.into()),
                Ok(it) if !self.is_for_me(&it.user, &it.client) => {
                    Err(Disconnect::InvalidToken.into())
                }
                Ok(it) => Ok(Decided::Granted(it.grant)),
                Err(error) if error.is_of_time() => Err(ErrorCode::TokenExpired.into()),
                Err(TokenError::UnknownKey) if !retried => {
                    Ok(Decided::Ask(Call::SubscriptionTokenKeys))
                }
                Err(_) => Err(ErrorCode::PermissionDenied.into()),
            };
        }
        let user = &*self.info.user;
        let private = options::is_private(room);
        let listed = options.allow_user_limited.then(|| options::is_limited_to(room, user));
        let asked = settings.proxies.rooms.of(room);
        let may_be_asked = !private || settings.insecure;
        let operation =
            || Operation::Subscribe { room: room.to_owned(), data: request.data.clone() };
        let open = match (listed.flatten(), asked.subscribe, asked.stream) {
            (Some(listed), ..) => listed,
            (None, Some(backend), _) if may_be_asked => {
                return Ok(Decided::Ask(self.backend_request(backend, operation())));
            }
            (None, None, Some(stream)) if may_be_asked => {
                return Ok(Decided::Ask(self.stream_request(stream, operation())));
            }
            (None, ..) => options.permissions.may_subscribe(user.is_empty()),
        };
        let permitted = settings.insecure || (!private && open);
        permitted
            .then(|| Decided::Granted(Grant::default()))
            .ok_or(ErrorCode::PermissionDenied.into())
    }

    pub(super) fn is_for_me(&self, user: &str, client: &str) -> bool {
        *user == *self.info.user && (client.is_empty() || client == self.info.client.to_string())
    }

    /// Puts the client into a room without its asking.
    pub(super) fn put_into(
        &mut self,
        room: &str,
        grant: &Grant,
        since: Option<Since>,
        initiator: Initiator,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let options = env.has_publications(room).and_then(|()| self.options(room, env));
        let options = match options {
            Ok(options) if options.map.is_none() => options,
            // Whoever is put into a room can't load its entries.
            Ok(_) => {
                return self.not_entered(room, initiator, ErrorCode::NotAvailable, env, out);
            }
            Err(error) => return self.not_entered(room, initiator, error, env, out),
        };
        if self.is_asked_for(room) {
            return;
        }
        if self.subscriptions.len() >= env.settings.channel_limit {
            return self.close(Disconnect::ChannelLimit, out);
        }
        // A server-side subscription gets whatever the options allow.
        let wanted = Wanted {
            recoverable: options.allow_recovery,
            positioned: options.allow_positioning,
            join_leave: false,
            single_connection: initiator == Initiator::Connect
                && self.is_for_one_connection(room, env),
            since,
            must_recover: false,
            delivery: None,
            consumes: None,
            map: None,
        };
        let (room, request) = self.enter(room, options, grant, wanted, initiator);
        out.push(Out::Request(room, request));
    }

    /// Whether the room is that of the client's user, who is to have one connection only.
    fn is_for_one_connection(&self, room: &str, env: Env<'_>) -> bool {
        let (settings, user) = (env.settings, &*self.info.user);
        let personal = settings.personal_rooms.as_ref().filter(|_| settings.single_connection);
        personal.is_some_and(|it| !user.is_empty() && room == options::personal(it, user))
    }

    pub(super) fn enter(
        &mut self,
        room: &str,
        options: &RoomOptions,
        grant: &Grant,
        wanted: Wanted,
        initiator: Initiator,
    ) -> (RoomName, Request) {
        let (options, group) = match (&wanted.consumes, &options.queue) {
            (Some(it), Some(queue)) => (&*queue.rooms, Some(name::of_group(room, &it.group))),
            _ => (options, None),
        };
        self.forget_refresh(group.as_deref().unwrap_or(room));
        let overrides = &grant.overrides;
        // A group's messages are for one consumer each, and have no positions.
        let history = options.keeps_history() && group.is_none();
        let recoverable = history
            && (grant::or(overrides.force_recovery, options.force_recovery) || wanted.recoverable);
        let positioned = recoverable
            || history
                && (grant::or(overrides.force_positioning, options.force_positioning)
                    || wanted.positioned);
        // A client that gives no position has received nothing.
        let nothing = || options.auto_cache_recover.then(Since::nothing);
        let since = wanted.since.or_else(nothing).filter(|_| recoverable);
        // Where only the latest counts, not to have it is no reason to load everything again.
        let must_recover = wanted.must_recover && !options.recovery_cache;
        let in_room = match &wanted.consumes {
            Some(it) => {
                let info = it.prefetch.to_string().into_bytes().into();
                Some(InRoom { info, ..InRoom::default() })
            }
            None => in_room(grant, wanted.single_connection, options),
        };
        let info = in_room.map(|in_room| {
            Arc::new(ClientInfo { in_room: Some(Box::new(in_room)), ..(*self.info).clone() })
        });
        let pending = Pending {
            initiator,
            recoverable,
            positioned,
            since: since.clone(),
            must_recover,
            data: grant.data.clone(),
            delivery: wanted.delivery.clone(),
            map: wanted.map,
        };
        let more = More {
            pending: Some(pending),
            expires_at: grant.expires_at,
            server_side: !matches!(initiator, Initiator::Client(_)),
            info: info.clone(),
            rights: wanted.consumes.map(|it| it.rights).unwrap_or_default(),
            stand_ins: Vec::new(),
            polled: false,
            stream: None,
        };
        // Most clients are in very few rooms.
        if self.subscriptions.is_empty() {
            self.subscriptions.reserve_exact(1);
        }
        let room = RoomName::from(group.as_deref().unwrap_or(room));
        self.subscriptions.push(Subscription { room: room.clone(), more: Some(Box::new(more)) });
        let push = grant::or(overrides.force_push_join_leave, options.force_push_join_leave)
            && group.is_none();
        let flags = MemberFlags { join_leave: push || wanted.join_leave, positioned };
        let subscribe = Subscribe {
            socket: self.socket,
            id: initiator.id(),
            info: info.unwrap_or_else(|| self.info.clone()),
            flags,
            delivery: wanted.delivery,
            recover: since,
            must_recover,
        };
        (room, Request::Subscribe(subscribe))
    }

    /// A room has answered.
    pub(super) fn subscribed(
        &mut self,
        room: RoomName,
        id: u32,
        result: Result<Subscribed, ErrorCode>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let is_it = |it: &Subscription| {
            it.room == room && it.pending().is_some_and(|it| it.initiator.id() == id)
        };
        let Some(index) = self.subscriptions.iter().position(is_it) else { return };
        let Some(pending) = self.subscriptions[index].take_pending() else { return };
        if let Initiator::Client(_) = pending.initiator {
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        let delivery = pending.delivery.as_ref();
        let delta = (delivery == Some(&DeliveryOption::Delta)).then_some(self.format);
        // As a JSON text, a quote takes two bytes.
        let most = env.reply_limit() / if delta == Some(Format::Json) { 2 } else { 1 };
        let wanted =
            |it| reply::bounded(reply::wanted(it, delivery.and_then(DeliveryOption::filter)), most);
        match result.map(wanted) {
            Ok(it) if pending.fails(&it) => {
                self.end_stream(index, out);
                self.subscriptions.swap_remove(index);
                out.push(self.leave(room.clone(), ReplyTo::Nobody));
                let error = ErrorCode::UnrecoverablePosition;
                self.not_entered(&room, pending.initiator, error, env, out);
            }
            Ok(it) => {
                // From here on the name that the whole node shares.
                self.subscriptions[index].room = room.clone();
                let expires_at = self.subscriptions[index].expires_at();
                // A client learns of an expiry only if refreshing is its job.
                let deadline = expires_at.filter(|_| env.sub_refresh_backend(&room).is_none());
                let (expires, ttl) = env.time_to_live(deadline);
                let Pending { initiator, recoverable, positioned, since, data, map, .. } = pending;
                let since = since.as_ref();
                let result = match map {
                    Some(entering) => entering.result(&it, delta),
                    None => reply::subscribe_result(&it, since, recoverable, positioned, delta),
                };
                let publish_debounce = self.options(&room, env).map_or(0, |it| {
                    u32::try_from(it.publish_debounce.as_millis()).unwrap_or(u32::MAX)
                });
                let result = SubscribeResult { expires, ttl, data, publish_debounce, ..result };
                let stream = self.subscriptions[index].stream();
                self.tell_entered(&room, initiator, result, env, out);
                out.extend(stream.map(|it| Out::Stream(it.number, ToStream::Go)));
                self.stand_in(&room, env, out);
                if expires_at.is_some() {
                    self.wake_later(env, out);
                }
            }
            Err(error) => {
                self.end_stream(index, out);
                self.subscriptions.swap_remove(index);
                self.not_entered(&room, pending.initiator, error, env, out);
            }
        }
    }

    fn tell_entered(
        &mut self,
        room: &str,
        initiator: Initiator,
        result: SubscribeResult,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match initiator {
            Initiator::Client(id) => {
                out.push(Out::Reply(reply::result(id, ReplyBody::Subscribe(result))));
            }
            Initiator::Connect => self.entered(room, Ok(result), env, out),
            Initiator::Application => {
                out.extend(reply::subscribe_pushes(room, result).map(Out::Reply));
            }
        }
    }

    fn not_entered(
        &mut self,
        room: &str,
        initiator: Initiator,
        error: ErrorCode,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match initiator {
            Initiator::Client(id) => out.push(Out::Reply(reply::failure(id, error))),
            Initiator::Connect => self.entered(room, Err(error), env, out),
            // The application was told what is wrong with its call; what fails later, the client notices
            // as little as before.
            Initiator::Application => {}
        }
    }
}
