//! A client's commands: which of them may be done, and what each asks of a room.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    reply,
    settings::Env,
    state::{ConnectionState, Out, Session},
};
use crate::{
    backend::options::Verdict,
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{
            self, ChannelRequest, Command, HistoryRequest, PublishRequest, Request as ClientRequest,
        },
    },
    queue::name,
    room::{
        options::{Audience, RoomOptions},
        types::{HistoryFilter, NewPublication, Query, ReplyTo, Request, RoomName, Since},
    },
};

/// Why a command is not done.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// The client gets an error, and the connection goes on.
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

/// What is to be asked of a room for a command, if anything is; or why it is not done.
pub(super) type Outcome = Result<Option<(RoomName, Request)>, Refusal>;

impl Session {
    /// Takes one command.
    pub(super) fn command(&mut self, command: Command, env: Env<'_>, out: &mut Vec<Out>) {
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
        self.subscriptions.iter().any(|it| it.is_live() && name::is_of(&it.room, room))
    }

    /// The options of a room whose name is acceptable.
    pub(super) fn options<'a>(
        &self,
        room: &str,
        env: Env<'a>,
    ) -> Result<&'a Arc<RoomOptions>, ErrorCode> {
        let length = 1..=env.settings.channel_max_length;
        if !length.contains(&room.len()) || !name::is_allowed(room) {
            return Err(ErrorCode::BadRequest);
        }
        let options = env.settings.namespaces.options(room).ok_or(ErrorCode::UnknownChannel)?;
        options.allows_name(room).then_some(options).ok_or(ErrorCode::BadRequest)
    }

    pub(super) fn permitted(
        &self,
        audience: Audience,
        room: &str,
        env: Env<'_>,
    ) -> Result<(), ErrorCode> {
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
        if request.kind == 1 && options.map.is_some() {
            return self.publish_to_map(request, to, env);
        }
        env.has_publications(&request.channel)?;
        if request.kind != 0 || options.map.is_some() {
            return Err(ErrorCode::NotAvailable.into());
        }
        if !options.data_format.accepts(&request.data) {
            return Err(ErrorCode::BadRequest.into());
        }
        let backends = env.settings.proxies.rooms.of(&request.channel);
        let may_have_a_stream = backends.stream.is_some_and(|it| it.both_ways);
        if may_have_a_stream && self.publish_to_stream(id, &request, out) {
            return Ok(None);
        }
        if let Some(backend) = backends.publish {
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
        env.has_publications(&request.channel)?;
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
        env.has_publications(&request.channel)?;
        self.permitted(options.permissions.history, &request.channel, env)?;
        if !options.keeps_history() || options.map.is_some() {
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
}
