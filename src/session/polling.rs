//! Rooms whose keys the client tracks: what it may track, and what became of its commands about that.
//!
//! Who tracks what is known to the node's [shared polls](crate::shared_poll) alone; a session knows that it is in the room.

use std::sync::Arc;

use super::{
    commands::{Outcome, Refusal},
    reply,
    settings::Env,
    state::{Out, Session},
    subscription::{Initiator, More, Pending, Subscription},
};
use crate::{
    access::grant::Grant,
    protocol::{
        codes::ErrorCode,
        message::{
            Empty, Refresh, ReplyBody, SHARED_POLL, SubRefreshRequest, SubscribeRequest,
            SubscribeResult, TRACK, TrackBatch, UNTRACK,
        },
    },
    room::types::RoomName,
    shared_poll::{
        options::PollOptions,
        signature::{Refused, Signed},
        state::{Reply, Request, Track},
    },
};

/// The longest key, in bytes.
pub(super) const MAX_KEY: usize = 1024;

impl From<Refused> for Refusal {
    fn from(why: Refused) -> Self {
        Self::Error(match why {
            Refused::Unsigned => ErrorCode::PermissionDenied,
            Refused::Expired => ErrorCode::TokenExpired,
        })
    }
}

/// Whether a subscription is of the kind that its room is for.
///
/// # Errors
/// If it is not.
pub(super) fn check_kind(request: &SubscribeRequest, env: Env<'_>) -> Result<(), ErrorCode> {
    match (env.polled(&request.channel).is_some(), request.kind) {
        (true, SHARED_POLL) | (false, 0) => Ok(()),
        (true, _) => Err(ErrorCode::BadRequest),
        (false, _) => Err(ErrorCode::NotAvailable),
    }
}

impl<'a> Env<'a> {
    /// How the keys of a room are polled, if they are.
    pub(super) fn polled(&self, room: &str) -> Option<&'a Arc<PollOptions>> {
        self.settings.shared_polls.namespaces.of(room)
    }

    /// There is nothing but keys in a room whose keys are polled.
    ///
    /// # Errors
    /// If it is such a room.
    pub(super) fn has_publications(&self, room: &str) -> Result<(), ErrorCode> {
        self.polled(room).is_none().then_some(()).ok_or(ErrorCode::NotAvailable)
    }
}

impl Session {
    /// The client may enter a room whose keys are polled.
    pub(super) fn enter_polled(
        &mut self,
        id: u32,
        request: &SubscribeRequest,
        grant: &Grant,
        out: &mut Vec<Out>,
    ) {
        self.forget_refresh(&request.channel);
        let pending = Pending {
            initiator: Initiator::Client(id),
            recoverable: false,
            positioned: false,
            since: None,
            must_recover: false,
            data: grant.data.clone(),
            delivery: None,
            map: None,
        };
        let (pending, expires_at) = (Some(pending), grant.expires_at);
        let more = More { pending, expires_at, polled: true, ..More::default() };
        let room = RoomName::from(request.channel.as_str());
        self.subscriptions.push(Subscription { room: room.clone(), more: Some(Box::new(more)) });
        self.ask_polls(room, Request::Enter { socket: self.socket, id }, out);
    }

    /// A command that is answered by the node's shared polls.
    pub(super) fn ask_polls(&mut self, room: RoomName, request: Request, out: &mut Vec<Out>) {
        self.in_flight += 1;
        out.push(Out::Poll(room, request));
    }

    /// Takes a command about the keys of a room that the client is in; none if it is about something else.
    pub(super) fn keys(
        &mut self,
        id: u32,
        request: &SubRefreshRequest,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Option<Outcome> {
        let subscription = self.subscription(&request.channel);
        let room = subscription.filter(|it| it.is_live() && it.is_polled())?.room.clone();
        let request = match request.kind {
            TRACK => self.track(id, request, env),
            UNTRACK => self.untrack(id, request),
            _ => return None,
        };
        Some(request.map(|request| {
            self.ask_polls(room, request, out);
            None
        }))
    }

    fn track(
        &self,
        id: u32,
        request: &SubRefreshRequest,
        env: Env<'_>,
    ) -> Result<Request, Refusal> {
        let options = env.polled(&request.channel).ok_or(ErrorCode::NotAvailable)?;
        let (mut items, mut ends) = (Vec::new(), None::<i64>);
        for batch in &request.track {
            let until = self.allowed(&request.channel, batch, env)?;
            ends = [ends, until].into_iter().flatten().min();
            let expires_at = until.map(|at| env.over_at(at, options.expired_delay));
            items.extend(batch.items.iter().map(|it| Track {
                key: it.key.as_str().into(),
                version: it.version,
                expires_at,
            }));
        }
        if items.is_empty() || items.iter().any(|it| !(1..=MAX_KEY).contains(&it.key.len())) {
            return Err(ErrorCode::BadRequest.into());
        }
        let untrack = request.untrack.iter().map(|it| it.as_str().into()).collect();
        Ok(Request::Track { socket: self.socket, id, items, untrack, expires_at: ends })
    }

    /// Until when the application allows the client to track keys, in Unix time; none: without end.
    fn allowed(
        &self,
        room: &str,
        batch: &TrackBatch,
        env: Env<'_>,
    ) -> Result<Option<i64>, Refused> {
        let keys: Vec<&str> = batch.items.iter().map(|it| it.key.as_str()).collect();
        let signed = Signed { user: &self.info.user, room, keys: &keys };
        env.settings.shared_polls.keys.check(&batch.signature, signed, env.wall)
    }

    fn untrack(&self, id: u32, request: &SubRefreshRequest) -> Result<Request, Refusal> {
        if request.untrack.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        let keys = request.untrack.iter().map(|it| it.as_str().into()).collect();
        Ok(Request::Untrack { socket: self.socket, id, keys })
    }

    /// The node's shared polls have answered a command.
    pub(super) fn polls_answered(
        &mut self,
        room: RoomName,
        id: u32,
        reply: Reply,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let body = match reply {
            Reply::Entered(epoch) => return self.entered_polled(room, id, epoch, env, out),
            Reply::Left => Ok(ReplyBody::Unsubscribe(Empty {})),
            Reply::Tracked(tracked) => tracked.map(|ends| {
                let (expires, ttl) = env.time_to_live(ends);
                ReplyBody::SubRefresh(Refresh { expires, ttl })
            }),
            Reply::Untracked => Ok(ReplyBody::SubRefresh(Refresh::default())),
        };
        self.in_flight = self.in_flight.saturating_sub(1);
        out.push(Out::Reply(match body {
            Ok(body) => reply::result(id, body),
            Err(error) => reply::failure(id, error),
        }));
    }

    fn entered_polled(
        &mut self,
        room: RoomName,
        id: u32,
        epoch: Result<String, ErrorCode>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let is_it = |it: &Subscription| {
            it.room == room
                && it.is_polled()
                && it.pending().is_some_and(|it| it.initiator == Initiator::Client(id))
        };
        // Who has left meanwhile was told so.
        let Some(index) = self.subscriptions.iter().position(is_it) else { return };
        let Some(pending) = self.subscriptions[index].take_pending() else { return };
        self.in_flight = self.in_flight.saturating_sub(1);
        let epoch = match epoch {
            Ok(epoch) => epoch,
            Err(error) => {
                self.subscriptions.swap_remove(index);
                return out.push(Out::Reply(reply::failure(id, error)));
            }
        };
        let expires_at = self.subscriptions[index].expires_at();
        let deadline = expires_at.filter(|_| env.sub_refresh_backend(&room).is_none());
        // From here on the name that the whole node shares.
        self.subscriptions[index].room = room;
        let (expires, ttl) = env.time_to_live(deadline);
        let data = pending.data;
        let result =
            SubscribeResult { kind: SHARED_POLL, epoch, expires, ttl, data, ..Default::default() };
        out.push(Out::Reply(reply::result(id, ReplyBody::Subscribe(result))));
        if expires_at.is_some() {
            self.wake_later(env, out);
        }
    }
}
