//! What a session waits for that neither it nor a room knows: keys of tokens, and what the application's
//! backends say. In: answers, by the numbers of the calls. Out: what goes on with them.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    commands::{Outcome, Refusal},
    reply,
    settings::Env,
    state::{Call, CallFailed, Called, ConnectionState, Out, Session},
    subscription::Stream,
};
use crate::{
    backend::{
        options::{BackendId, RpcBackend, StreamBackend, Verdict},
        request::{BackendRequest, Operation},
        response::{BackendResponse, Publish, Refreshed},
        stream::ToStream,
    },
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{
            PublishRequest, ReplyBody, Request as ClientRequest, RpcRequest, RpcResult,
            SubscribeRequest,
        },
    },
    queue::name,
    room::types::{ClientInfo, NewPublication, ReplyTo, Request, RoomName},
};

/// How long a connection or subscription goes on when the backend that should say so does not answer, in
/// seconds.
const REPRIEVE: i64 = 60;

/// PendingCalls that are under way.
///
/// Their numbers are their own, and not those of the commands: a client may use one of those again while the
/// answer to the first is still to come, and must not get it for the second.
#[derive(Debug, Default)]
pub(super) struct PendingCalls {
    last: u32,
    /// Streams have the numbers under which they were opened, so none is given again.
    has_opened_streams: bool,
    /// In the order in which they were made.
    parked: Vec<Parked>,
}

#[derive(Debug)]
struct Parked {
    number: u32,
    waits: Waits,
    /// It is answered, but has to wait for an earlier one.
    answer: Option<Result<Called, CallFailed>>,
}

/// What waits for a call.
#[derive(Debug)]
enum Waits {
    /// This command, which has this number.
    Command(u32, ClientRequest),
    /// This subscribe command, for which a backend opens a stream, in both directions or not.
    Stream(u32, SubscribeRequest, bool),
    /// Nothing any more: the client has got another answer meanwhile. It counts until the call is over, or
    /// clients could make more of them than they may.
    Nobody,
    /// The connection's end.
    Connection,
    /// The end of a subscription.
    Subscription(RoomName),
}

impl PendingCalls {
    pub(super) fn is_empty(&self) -> bool {
        self.parked.is_empty() && !self.has_opened_streams
    }

    fn park(&mut self, waits: Waits) -> u32 {
        self.last = self.last.wrapping_add(1);
        self.has_opened_streams |= matches!(waits, Waits::Stream(..));
        self.parked.push(Parked { number: self.last, waits, answer: None });
        self.last
    }

    /// The subscribe commands that wait.
    fn subscribes(&self) -> impl Iterator<Item = &str> {
        self.parked.iter().filter_map(|it| match &it.waits {
            Waits::Command(_, ClientRequest::Subscribe(it)) | Waits::Stream(_, it, _) => {
                Some(it.channel.as_str())
            }
            _ => None,
        })
    }

    /// The room of a publish command that waits at this place.
    fn publish_at(&self, index: usize) -> Option<&str> {
        match &self.parked.get(index)?.waits {
            Waits::Command(_, ClientRequest::Publish(it)) => Some(&it.channel),
            _ => None,
        }
    }

    /// Whether another publish of the room was there before the one at this place.
    fn has_earlier_publish(&self, index: usize) -> bool {
        let room = self.publish_at(index);
        room.is_some() && (0..index).any(|earlier| self.publish_at(earlier) == room)
    }

    /// Takes the answer, and then the next of those that waited for it to come first.
    fn next_answered(&mut self) -> Option<(u32, Waits, Result<Called, CallFailed>)> {
        let ready = |index: &usize| {
            self.parked[*index].answer.is_some() && !self.has_earlier_publish(*index)
        };
        let index = (0..self.parked.len()).find(ready)?;
        // Keeps the order of the others.
        let Parked { number, waits, answer } = self.parked.remove(index);
        Some((number, waits, answer?))
    }
}

impl Session {
    /// A command waits for something that neither the session nor a room knows.
    pub(super) fn call(&mut self, id: u32, command: ClientRequest, call: Call, out: &mut Vec<Out>) {
        self.in_flight += 1;
        let waits = match (&call, command) {
            (Call::Stream(_, both_ways), ClientRequest::Subscribe(it)) => {
                Waits::Stream(id, it, *both_ways)
            }
            (_, command) => Waits::Command(id, command),
        };
        let number = self.rare_mut().calls.park(waits);
        out.push(Out::Call(number, call));
    }

    /// What to ask a backend.
    pub(super) fn backend_request(&self, to: BackendId, operation: Operation) -> Call {
        Call::Backend(Box::new(self.request_to(to, operation)))
    }

    /// What to ask a backend that has a stream for each subscriber.
    pub(super) fn stream_request(&self, to: StreamBackend, operation: Operation) -> Call {
        Call::Stream(Box::new(self.request_to(to.id, operation)), to.both_ways)
    }

    fn request_to(&self, to: BackendId, operation: Operation) -> BackendRequest {
        let rare = self.rare();
        BackendRequest {
            to,
            client: self.info.clone(),
            meta: rare.map_or_else(Bytes::new, |it| it.meta.clone()),
            headers: rare.and_then(|it| it.headers.clone()),
            operation,
        }
    }

    /// How many rooms the client has asked for and that are still to be decided.
    pub(super) fn rooms_asked_for(&self) -> usize {
        self.rare().map_or(0, |it| it.calls.subscribes().count())
    }

    /// Whether the room is one of them.
    pub(super) fn is_being_asked_for(&self, room: &str) -> bool {
        self.rare().is_some_and(|it| it.calls.subscribes().any(|it| it == room))
    }

    /// Ends a subscribe command that waits for a call.
    pub(super) fn forget_call(&mut self, room: &str, out: &mut Vec<Out>) {
        if !self.is_being_asked_for(room) {
            return;
        }
        for parked in &mut self.rare_mut().calls.parked {
            match &parked.waits {
                Waits::Command(id, ClientRequest::Subscribe(it)) | Waits::Stream(id, it, _)
                    if it.channel == room =>
                {
                    out.push(Out::Reply(reply::failure(*id, ErrorCode::Internal)));
                    if matches!(parked.waits, Waits::Stream(..)) {
                        out.push(Out::Stream(parked.number, ToStream::End));
                    }
                    parked.waits = Waits::Nobody;
                }
                _ => {}
            }
        }
    }

    /// What is said of a subscription that is over does not hold for the next.
    pub(super) fn forget_refresh(&mut self, room: &str) {
        let Some(rare) = &mut self.rare else { return };
        for parked in &mut rare.calls.parked {
            if matches!(&parked.waits, Waits::Subscription(it) if **it == *room) {
                // It took no place of a command.
                self.in_flight += 1;
                parked.waits = Waits::Nobody;
            }
        }
    }

    pub(super) fn called(
        &mut self,
        number: u32,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let Some(rare) = &mut self.rare else { return };
        match rare.calls.parked.iter_mut().find(|it| it.number == number) {
            Some(parked) => parked.answer = Some(result),
            None => return,
        }
        // One session's publishes to a room stay in their order, whatever the backend's answers do.
        while let Some(rare) = &mut self.rare
            && let Some((number, waits, result)) = rare.calls.next_answered()
        {
            self.tidy();
            self.go_on_with(number, waits, result, env, out);
        }
    }

    fn go_on_with(
        &mut self,
        number: u32,
        waits: Waits,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match waits {
            Waits::Nobody => self.in_flight = self.in_flight.saturating_sub(1),
            Waits::Connection => self.connection_judged(result, env, out),
            Waits::Subscription(room) => self.subscription_judged(&room, result, env, out),
            Waits::Stream(id, request, both_ways) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                let stream = Stream { number, both_ways };
                self.stream_opened(id, request, stream, result, env, out);
            }
            Waits::Command(id, command) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                match command {
                    ClientRequest::Connect(request) => {
                        self.connect_decided(id, request, result, env, out)
                    }
                    command => {
                        let asked = self.decided(id, command, result, env, out);
                        self.outcome(id, asked, out);
                    }
                }
            }
        }
    }

    fn decided(
        &mut self,
        id: u32,
        command: ClientRequest,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        let Ok(called) = result else { return Err(ErrorCode::Internal.into()) };
        match (called, command) {
            (Called::Keys, ClientRequest::Subscribe(it)) => self.subscribe(id, it, true, env, out),
            (Called::Keys, ClientRequest::Refresh(it)) => self.refresh(id, it, true, env, out),
            (Called::Keys, ClientRequest::SubRefresh(it)) => {
                self.sub_refresh(id, it, true, env, out)
            }
            (Called::Backend(BackendResponse::Refused(verdict)), _) => Err(verdict.into()),
            (Called::Backend(BackendResponse::Subscribe(grant)), ClientRequest::Subscribe(it)) => {
                self.subscribe_granted(id, it, &grant, env, out)
            }
            (Called::Backend(BackendResponse::Publish(changes)), ClientRequest::Publish(it)) => {
                let to = ReplyTo::Command { socket: self.socket, id };
                self.publish_as(it, *changes, to, env).map(Some)
            }
            (Called::Backend(BackendResponse::Rpc(data)), ClientRequest::Rpc(_)) => {
                out.push(Out::Reply(reply::result(id, ReplyBody::Rpc(RpcResult { data }))));
                Ok(None)
            }
            _ => Err(ErrorCode::Internal.into()),
        }
    }

    /// Asks a backend whether the client may publish.
    pub(super) fn ask_to_publish(
        &mut self,
        id: u32,
        request: PublishRequest,
        to: BackendId,
        out: &mut Vec<Out>,
    ) {
        let (room, data) = (request.channel.clone(), request.data.clone());
        let call = self.backend_request(to, Operation::Publish { room, data });
        self.call(id, ClientRequest::Publish(request), call, out);
    }

    fn publish_as(
        &self,
        request: PublishRequest,
        changes: Publish,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), Refusal> {
        let options = self.options(&request.channel, env)?;
        // Protobuf lends the buffer of the whole message, which a history would keep with it.
        let data = changes.data.unwrap_or_else(|| Bytes::copy_from_slice(&request.data));
        if !options.data_format.accepts(&data) {
            return Err(ErrorCode::BadRequest.into());
        }
        let publication = NewPublication {
            data,
            info: Some(self.info_in(&request.channel)),
            tags: changes.tags,
            idempotency_key: changes.idempotency_key,
            skip_history: changes.skip_history,
            delta: changes.delta || options.delta_publish,
            version: changes.version,
        };
        Ok((request.channel.into(), Request::Publish(publication, to)))
    }

    /// Takes a call of the client to the application.
    pub(super) fn rpc(
        &mut self,
        id: u32,
        request: RpcRequest,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        if Self::is_about_groups(&request.method) {
            return self.queue_rpc(id, &request, env);
        }
        let to = match env.settings.proxies.rpc.responsible(&request.method) {
            RpcBackend::Backend(to) => to,
            RpcBackend::NoOne => return Err(ErrorCode::NotAvailable.into()),
            RpcBackend::Unknown => return Err(ErrorCode::MethodNotFound.into()),
        };
        let RpcRequest { method, data } = request;
        let call = self.backend_request(to, Operation::Rpc { method, data });
        // What it says is not needed twice.
        self.call(id, ClientRequest::Rpc(RpcRequest::default()), call, out);
        Ok(None)
    }

    /// Whether a backend is being asked about the connection's end.
    pub(super) fn is_being_judged(&self) -> bool {
        let connection = |it: &Parked| matches!(it.waits, Waits::Connection);
        self.rare().is_some_and(|it| it.calls.parked.iter().any(connection))
    }

    /// Whether one is being asked about the end of this subscription.
    pub(super) fn is_subscription_being_judged(&self, room: &str) -> bool {
        let subscription =
            |it: &Parked| matches!(&it.waits, Waits::Subscription(it) if **it == *room);
        self.rare().is_some_and(|it| it.calls.parked.iter().any(subscription))
    }

    /// Asks whether the connection goes on.
    pub(super) fn ask_about_connection(&mut self, to: BackendId, out: &mut Vec<Out>) {
        let call = self.backend_request(to, Operation::Refresh);
        let number = self.rare_mut().calls.park(Waits::Connection);
        out.push(Out::Call(number, call));
    }

    /// Asks whether a subscription goes on.
    pub(super) fn ask_about_subscription(
        &mut self,
        to: BackendId,
        room: RoomName,
        out: &mut Vec<Out>,
    ) {
        let call =
            self.backend_request(to, Operation::SubRefresh { room: name::room(&room).to_owned() });
        let number = self.rare_mut().calls.park(Waits::Subscription(room));
        out.push(Out::Call(number, call));
    }

    fn connection_judged(
        &mut self,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match result {
            // A backend that is down must not take everyone's connection with it.
            Err(CallFailed) => self.expires_at = Some(env.wall + REPRIEVE),
            Ok(Called::Backend(BackendResponse::Refresh(Refreshed::GoesOn {
                until: Some(until),
                info,
                meta,
            }))) if until > env.wall => {
                self.expires_at = Some(until);
                if !info.is_empty() {
                    let known = ClientInfo { conn_info: info[..].into(), ..(*self.info).clone() };
                    self.info = Arc::new(known);
                }
                if !meta.is_empty() && env.settings.proxies.keeps_meta {
                    self.rare_mut().meta = meta;
                }
            }
            Ok(Called::Backend(BackendResponse::Refused(Verdict::Disconnect(why)))) => {
                return self.close(why, out);
            }
            Ok(_) => return self.close(Disconnect::ConnectionExpired, out),
        }
        self.wake_later(env, out);
    }

    fn subscription_judged(
        &mut self,
        room: &str,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match result {
            Err(CallFailed) => self.prolong(room, Some(env.wall + REPRIEVE), &[]),
            Ok(Called::Backend(BackendResponse::SubRefresh(Refreshed::GoesOn {
                until,
                info,
                ..
            }))) if until.is_none_or(|until| until > env.wall) => {
                self.prolong(room, until, &info);
            }
            Ok(Called::Backend(BackendResponse::Refused(Verdict::Disconnect(why)))) => {
                return self.close(why, out);
            }
            Ok(_) => return self.end_as_expired(room, out),
        }
        self.wake_later(env, out);
    }

    /// What is kept of the connection for backends from its connect on.
    pub(super) fn keep_for_backends(&mut self, meta: Bytes, env: Env<'_>) {
        let proxies = &env.settings.proxies;
        if let Some(rare) = self.rare_if(|it| it.headers.is_some())
            && !proxies.keeps_headers
        {
            rare.headers = None;
        }
        if !meta.is_empty() && proxies.keeps_meta {
            self.rare_mut().meta = meta;
        }
    }

    /// The connect command failed: no other is expected.
    pub(super) fn refuse_connect(&mut self, id: u32, why: Refusal, out: &mut Vec<Out>) {
        if !matches!(why, Refusal::Close(_)) {
            self.state = ConnectionState::Refused;
        }
        self.outcome(id, Err(why), out);
    }
}
