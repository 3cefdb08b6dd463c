//! How long a subscription lasts, and how it ends: by the client, the application, its time, or what was missed.

use std::sync::Arc;

use super::{
    commands::Outcome,
    reply,
    settings::Env,
    state::{Call, ConnectionState, Out, Session},
    subscription::{Initiator, Pending, Subscription},
};
use crate::{
    access::fault::TokenError,
    protocol::{
        codes::{Disconnect, ErrorCode, Unsubscribed},
        message::{
            ChannelRequest, Empty, Refresh, ReplyBody, Request as ClientRequest, SubRefreshRequest,
        },
    },
    queue::name,
    room::types::{ReplyTo, Request, RoomName},
    shared_poll::state as polls,
};

impl Session {
    /// Takes an unsubscribe command.
    pub(super) fn unsubscribe(
        &mut self,
        id: u32,
        request: &ChannelRequest,
        to: ReplyTo,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        let room = request.channel.as_str();
        if room.is_empty() || room.len() > env.settings.channel_max_length {
            return Err(ErrorCode::BadRequest.into());
        }
        let Some(mut subscription) = self.remove(room, out) else {
            self.forget_call(room, out);
            self.forget_loading(room, out);
            out.push(Out::Reply(reply::result(id, ReplyBody::Unsubscribe(Empty {}))));
            return Ok(None);
        };
        if let Some(Pending { initiator: Initiator::Client(id), .. }) = subscription.take_pending()
        {
            // Its subscribe gets no other answer any more.
            self.in_flight = self.in_flight.saturating_sub(1);
            out.push(Out::Reply(reply::failure(id, ErrorCode::Internal)));
        }
        out.extend(subscription.stand_ins().iter().filter_map(|it| it.removal()));
        if subscription.is_polled() {
            let leave = polls::Request::Leave { socket: self.socket, id: Some(id) };
            self.ask_polls(subscription.room, leave, out);
            return Ok(None);
        }
        Ok(Some((subscription.room, self.unsubscribe_request(to))))
    }

    fn unsubscribe_request(&self, reply: ReplyTo) -> Request {
        Request::Unsubscribe { socket: self.socket, client: self.info.client, reply }
    }

    /// Takes a subscription out, and ends what there is for it outside the node.
    pub(super) fn remove(&mut self, room: &str, out: &mut Vec<Out>) -> Option<Subscription> {
        let index = self.subscriptions.iter().position(|it| name::is_of(&it.room, room))?;
        self.end_stream(index, out);
        Some(self.subscriptions.swap_remove(index))
    }

    /// The application takes the client out of a room.
    pub(super) fn take_out_of(&mut self, room: &str, out: &mut Vec<Out>) {
        self.forget_call(room, out);
        self.forget_loading(room, out);
        if let Some(mut subscription) = self.remove(room, out) {
            if let Some(Pending { initiator: Initiator::Client(id), .. }) =
                subscription.take_pending()
            {
                self.in_flight = self.in_flight.saturating_sub(1);
                out.push(Out::Reply(reply::failure(id, ErrorCode::PermissionDenied)));
            }
            self.end_subscription(subscription, Unsubscribed::Server, out);
        }
    }

    pub(super) fn end_subscription(&self, it: Subscription, why: Unsubscribed, out: &mut Vec<Out>) {
        let push = reply::unsubscribe(&it.room, why);
        out.extend(it.stand_ins().iter().filter_map(|it| it.removal()));
        out.push(self.leave_subscription(it));
        out.push(Out::Reply(push));
    }

    /// The client can't have seen everything that was said in a room.
    pub(super) fn insufficient_state(&mut self, room: &RoomName, out: &mut Vec<Out>) {
        match self.subscriptions.iter().find(|it| it.is_live() && it.room == *room) {
            None => {}
            // A client asks anew for rooms that it is put into by connecting.
            Some(it) if it.is_server_side() => self.close(Disconnect::InsufficientState, out),
            Some(_) => {
                if let Some(subscription) = self.remove(room, out) {
                    self.end_subscription(subscription, Unsubscribed::InsufficientState, out);
                }
            }
        }
    }

    /// Takes a new token for a subscription. `retried`: the keys were fetched for it.
    pub(super) fn sub_refresh(
        &mut self,
        id: u32,
        request: SubRefreshRequest,
        retried: bool,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        if let Some(outcome) = self.keys(id, &request, env, out) {
            return outcome;
        }
        let room = request.channel.as_str();
        match self.subscription(room) {
            // Where a backend decides, it is asked without the client's help.
            Some(it)
                if it.is_live()
                    && (it.is_server_side() || env.sub_refresh_backend(room).is_some()) =>
            {
                return Err(Disconnect::BadRequest.into());
            }
            Some(it) if it.is_live() => {}
            _ => return Err(ErrorCode::PermissionDenied.into()),
        }
        if request.token.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        let token = env.settings.subscription_tokens.subscription(&request.token, env.wall);
        match token {
            Ok(it) if it.room == room && self.is_for_me(&it.user, &it.client) => {
                let expires_at = it.grant.expires_at;
                self.renew_rights(room, &it.grant, env)?;
                self.prolong(room, expires_at, &[]);
                let (expires, ttl) = env.time_to_live(expires_at);
                let result = ReplyBody::SubRefresh(Refresh { expires, ttl });
                out.push(Out::Reply(reply::result(id, result)));
                self.wake_later(env, out);
                Ok(None)
            }
            Err(error) if error.is_of_time() => Err(ErrorCode::Expired.into()),
            Err(TokenError::UnknownKey) if !retried => {
                self.call(id, ClientRequest::SubRefresh(request), Call::SubscriptionTokenKeys, out);
                Ok(None)
            }
            Ok(_) | Err(_) => Err(Disconnect::InvalidToken.into()),
        }
    }

    /// Ends the subscriptions that were not refreshed in time.
    pub(super) fn end_expired(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        let over = |it: &&Subscription| {
            let over = |at| env.is_over(at, env.subscription_grace(&it.room));
            it.is_live() && it.expires_at().is_some_and(over)
        };
        let over = self.subscriptions.iter().filter(over);
        for room in over.map(|it| it.room.clone()).collect::<Vec<_>>() {
            match env.sub_refresh_backend(&room) {
                Some(_) if self.is_subscription_being_judged(&room) => {}
                Some(backend) => self.ask_about_subscription(backend, room, out),
                None => self.end_as_expired(&room, out),
            }
            if self.state == ConnectionState::Closed {
                return;
            }
        }
    }

    /// A subscription is over, since nobody has prolonged it.
    pub(super) fn end_as_expired(&mut self, room: &str, out: &mut Vec<Out>) {
        match self.subscription(room) {
            None => {}
            Some(it) if it.is_server_side() => self.close(Disconnect::SubscriptionExpired, out),
            Some(_) => {
                if let Some(subscription) = self.remove(room, out) {
                    self.end_subscription(subscription, Unsubscribed::Expired, out);
                }
            }
        }
    }

    /// A subscription goes on until then. What others may know of the client there stays if `info` is empty.
    pub(super) fn prolong(&mut self, room: &str, expires_at: Option<i64>, info: &[u8]) {
        let known = (!info.is_empty()).then(|| {
            let mut known = (*self.info_in(room)).clone();
            known.in_room.get_or_insert_default().info = info.into();
            Arc::new(known)
        });
        let Some(subscription) = self.subscription(room) else { return };
        let more = subscription.more.get_or_insert_default();
        more.expires_at = expires_at;
        if known.is_some() {
            more.info = known;
        }
        subscription.more.take_if(|it| it.is_empty());
    }
}
