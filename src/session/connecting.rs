//! How a connection begins, and how long it lives: credentials, the rooms that the server puts it into, refreshes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    reply,
    state::{Call, Env, Out, Outcome, Phase, Refusal, State},
    subscribing::Asker,
};
use crate::{
    access::{
        grant::{Credentials, Grant},
        verifier::TokenError,
    },
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{
            Body, ConnectRequest, ConnectResult, Event, Refresh, RefreshRequest, RefreshResult,
            Request as Asked, Sub, SubscribeRequest, SubscribeResult,
        },
    },
    room::{
        options,
        types::{ClientInfo, Since},
    },
};

/// Name and version that clients are told.
pub(super) const SERVER_VERSION: &str = concat!("Roomcast ", env!("CARGO_PKG_VERSION"));

/// A connect command that is being answered: the client has yet to be put into some rooms.
#[derive(Debug)]
pub(super) struct Connecting {
    /// The number of the command.
    id: u32,
    /// What the application says to the client.
    data: Bytes,
    /// How many rooms have not answered.
    waiting: usize,
    rooms: Vec<Sub>,
}

impl State {
    /// Takes the connect command. `retried`: the keys of tokens were fetched for it.
    pub(super) fn connect(
        &mut self,
        id: u32,
        request: ConnectRequest,
        retried: bool,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        match self.credentials(&request.token, retried, env) {
            Ok(Some(credentials)) => self.admit(id, credentials, &request.subs, env, out),
            Ok(None) => {
                self.phase = Phase::Connecting;
                self.call(id, Asked::Connect(request), Call::TokenKeys, out);
            }
            Err(Refusal::Error(error)) => {
                self.phase = Phase::Refused;
                out.push(Out::Reply(reply::failure(id, error)));
            }
            Err(Refusal::Close(why)) => self.close(why, out),
        }
    }

    /// Who the client is; none if the keys of tokens have to be fetched to say it.
    fn credentials(
        &mut self,
        token: &str,
        retried: bool,
        env: Env<'_>,
    ) -> Result<Option<Credentials>, Refusal> {
        let settings = env.settings;
        if settings.insecure && (token.is_empty() || !settings.tokens.has_keys()) {
            return Ok(Some(Credentials::default()));
        }
        if token.is_empty() {
            let trusted = self.rare().and_then(|it| it.trusted_user.clone());
            return match trusted {
                Some(user) => Ok(Some(Credentials { user, ..Credentials::default() })),
                None if settings.allow_anonymous => Ok(Some(Credentials::default())),
                None => Err(Disconnect::BadRequest.into()),
            };
        }
        match settings.tokens.connection(token, env.wall) {
            Ok(it) if it.user.is_empty() && settings.refuse_anonymous_tokens => {
                Err(Disconnect::PermissionDenied.into())
            }
            Ok(credentials) => Ok(Some(credentials)),
            Err(TokenError::Expired) => Err(ErrorCode::TokenExpired.into()),
            Err(TokenError::UnknownKey) if !retried => Ok(None),
            Err(_) => Err(Disconnect::InvalidToken.into()),
        }
    }

    /// The client is who it says: it is put into its rooms, and told when that is done.
    fn admit(
        &mut self,
        id: u32,
        credentials: Credentials,
        since: &std::collections::HashMap<String, SubscribeRequest>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let conn_info = credentials.info[..].into();
        let info = ClientInfo::new(self.info.client, &credentials.user);
        self.info = Arc::new(ClientInfo { conn_info, ..info });
        self.expires_at = credentials.expires_at;
        if let Some(rare) = self.rare()
            && rare.trusted_user.is_some()
        {
            self.rare_mut().trusted_user = None;
        }
        out.push(Out::Authenticated(self.info.user.clone()));
        let rooms = self.rooms_of(credentials.rooms, env);
        if rooms.len() > env.settings.channel_limit {
            return self.close(Disconnect::ChannelLimit, out);
        }
        self.phase = Phase::Connecting;
        let (data, waiting) = (credentials.data, rooms.len());
        self.rare_mut().connecting = Some(Connecting { id, data, waiting, rooms: Vec::new() });
        for (room, grant) in rooms {
            let since = since
                .get(&room)
                .filter(|it| it.recover)
                .map(|it| Since { epoch: it.epoch.clone(), offset: it.offset });
            self.put_into(&room, &grant, since, Asker::Connect, env, out);
            if self.phase != Phase::Connecting {
                return;
            }
        }
        self.connected_if_complete(env, out);
    }

    /// All rooms that the server puts the client into: those of its credentials, its own, and everyone's.
    fn rooms_of(&self, given: Vec<(String, Grant)>, env: Env<'_>) -> BTreeMap<String, Grant> {
        let mut rooms: BTreeMap<String, Grant> = given.into_iter().collect();
        if let Some(namespace) = &env.settings.personal_rooms
            && !self.info.user.is_empty()
        {
            rooms.entry(options::personal(namespace, &self.info.user)).or_default();
        }
        for room in &env.settings.subscribe_to {
            rooms.entry(room.clone()).or_default();
        }
        rooms
    }

    /// The client is in one of the rooms that it is put into as it connects.
    pub(super) fn entered(
        &mut self,
        room: &str,
        result: Result<SubscribeResult, ErrorCode>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let Some(connecting) = &mut self.rare_mut().connecting else { return };
        match result {
            Ok(result) => {
                connecting.waiting -= 1;
                connecting.rooms.push(Sub { channel: room.to_owned(), result: Some(result) });
                self.connected_if_complete(env, out);
            }
            Err(error) => {
                let id = connecting.id;
                self.rare_mut().connecting = None;
                self.phase = Phase::Refused;
                out.push(Out::Reply(reply::failure(id, error)));
            }
        }
    }

    fn connected_if_complete(&mut self, env: Env<'_>, out: &mut Vec<Out>) {
        let connecting = &mut self.rare_mut().connecting;
        let Some(Connecting { id, data, rooms, .. }) = connecting.take_if(|it| it.waiting == 0)
        else {
            return;
        };
        let session = self.rare().and_then(|it| it.session);
        self.phase = Phase::Open;
        self.tidy();
        let settings = env.settings;
        let ping = settings.ping_interval;
        let (expires, ttl) = env.time_to_live(self.expires_at);
        let result = ConnectResult {
            client: self.info.client.to_string(),
            version: SERVER_VERSION.to_owned(),
            expires,
            ttl,
            data,
            subs: rooms,
            ping: ping.as_secs() as u32,
            pong: !ping.is_zero() && !self.pong_timeout(env).is_zero(),
            session: session.map(|it| it.to_string()).unwrap_or_default(),
            node: settings.node.clone(),
        };
        out.push(Out::Reply(reply::result(id, Body::Connect(result))));
        // Connections that came together must not be pinged together.
        let spread = (self.info.client.0 % 1024) as u32;
        self.next_ping = env.now + ping / 2 + ping * spread / 2048;
        self.wake_later(env, out);
    }

    /// Takes a new token for the connection. `retried`: the keys were fetched for it.
    pub(super) fn refresh(
        &mut self,
        id: u32,
        request: RefreshRequest,
        retried: bool,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Outcome {
        if request.token.is_empty() || !env.settings.tokens.has_keys() {
            return Err(Disconnect::BadRequest.into());
        }
        match env.settings.tokens.connection(&request.token, env.wall) {
            Ok(it) if it.user == self.info.user => {
                self.expires_at = it.expires_at;
                let (expires, ttl) = env.time_to_live(self.expires_at);
                let result = RefreshResult {
                    client: self.info.client.to_string(),
                    version: SERVER_VERSION.to_owned(),
                    expires,
                    ttl,
                };
                out.push(Out::Reply(reply::result(id, Body::Refresh(result))));
                self.wake_later(env, out);
                Ok(None)
            }
            Err(TokenError::Expired) => Err(Disconnect::ConnectionExpired.into()),
            Err(TokenError::UnknownKey) if !retried => {
                self.call(id, Asked::Refresh(request), Call::TokenKeys, out);
                Ok(None)
            }
            Ok(_) | Err(_) => Err(Disconnect::InvalidToken.into()),
        }
    }

    /// The application says how long the connection lives from now on.
    pub(super) fn refreshed_by_application(
        &mut self,
        expires_at: Option<i64>,
        info: Option<&[u8]>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        if let Some(info) = info {
            let known = ClientInfo { conn_info: info.into(), ..(*self.info).clone() };
            self.info = Arc::new(known);
        }
        self.expires_at = expires_at;
        let (expires, ttl) = env.time_to_live(expires_at);
        out.push(Out::Reply(reply::push("", Event::Refresh(Refresh { expires, ttl }))));
        self.wake_later(env, out);
    }
}
