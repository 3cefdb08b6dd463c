//! How a connection begins, and how long it lives: credentials, the rooms that the server puts it into, refreshes.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use bytes::Bytes;

use super::{
    commands::{Outcome, Refusal},
    reply,
    settings::Env,
    state::{Call, CallFailed, Called, ConnectionState, Out, Session},
    subscription::Initiator,
};
use crate::{
    access::{
        fault::TokenError,
        grant::{Credentials, Grant},
    },
    backend::{headers, request::Operation, response::BackendResponse},
    protocol::{
        codes::{Disconnect, ErrorCode},
        message::{
            ConnectRequest, ConnectResult, PushBody, Refresh, RefreshRequest, RefreshResult,
            ReplyBody, Request as ClientRequest, Sub, SubscribeRequest, SubscribeResult,
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

/// Who a client is.
enum Who {
    /// This one.
    Is(Credentials),
    /// Someone else has to say it.
    Ask(Call),
}

impl Session {
    /// Takes the connect command. `retried`: the keys of tokens were fetched for it.
    pub(super) fn connect(
        &mut self,
        id: u32,
        request: ConnectRequest,
        retried: bool,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        if let Err(why) = self.take_headers(&request, env) {
            return self.close(why, out);
        }
        match self.credentials(&request, retried, env) {
            Ok(Who::Is(credentials)) => self.admit(id, credentials, &request.subs, env, out),
            Ok(Who::Ask(call)) => {
                self.state = ConnectionState::Connecting;
                // What it says is not needed twice.
                let request =
                    ConnectRequest { data: Bytes::new(), headers: HashMap::new(), ..request };
                self.call(id, ClientRequest::Connect(request), call, out);
            }
            Err(why) => self.refuse_connect(id, why, out),
        }
    }

    /// What stood in for the connect command is known, or won't be.
    pub(super) fn connect_decided(
        &mut self,
        id: u32,
        request: ConnectRequest,
        result: Result<Called, CallFailed>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let who = match result {
            Ok(Called::Keys) => return self.connect(id, request, true, env, out),
            Ok(Called::Backend(BackendResponse::Connect(Some(it)))) => Ok(*it),
            Ok(Called::Backend(BackendResponse::Connect(None))) => self.without_token(env),
            Ok(Called::Backend(BackendResponse::Refused(verdict))) => Err(verdict.into()),
            Ok(Called::Backend(_)) | Err(CallFailed) => Err(ErrorCode::Internal.into()),
        };
        match who {
            Ok(it) if it.expires_at.is_some_and(|at| at <= env.wall) => {
                self.refuse_connect(id, ErrorCode::Expired.into(), out);
            }
            Ok(credentials) => self.admit(id, credentials, &request.subs, env, out),
            Err(why) => self.refuse_connect(id, why, out),
        }
    }

    /// Keeps the headers that the client says rather than sends, as far as backends want them.
    fn take_headers(&mut self, request: &ConnectRequest, env: Env<'_>) -> Result<(), Disconnect> {
        let wanted = &env.settings.proxies.emulated_headers;
        if wanted.is_empty() || request.headers.is_empty() {
            return Ok(());
        }
        let all = request.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let said = headers::pick(all, wanted).map_err(|_| Disconnect::BadRequest)?;
        if !said.is_empty() {
            Arc::make_mut(self.rare_mut().headers.get_or_insert_default()).said = said;
        }
        Ok(())
    }

    /// Who a client without a token is that no backend has named.
    fn without_token(&self, env: Env<'_>) -> Result<Credentials, Refusal> {
        let settings = env.settings;
        let trusted = self.rare().and_then(|it| it.trusted_user.clone());
        match trusted {
            _ if settings.insecure => Ok(Credentials::default()),
            Some(user) => Ok(Credentials { user, ..Credentials::default() }),
            None if settings.allow_anonymous => Ok(Credentials::default()),
            None => Err(Disconnect::BadRequest.into()),
        }
    }

    /// Who the client is, or whom to ask.
    fn credentials(
        &self,
        request: &ConnectRequest,
        retried: bool,
        env: Env<'_>,
    ) -> Result<Who, Refusal> {
        let (settings, token) = (env.settings, request.token.as_str());
        match settings.proxies.connect {
            Some(backend) if token.is_empty() => {
                let data = request.data.clone();
                let (name, version) = (request.name.clone(), request.version.clone());
                let operation = Operation::Connect { data, name, version };
                return Ok(Who::Ask(self.backend_request(backend, operation)));
            }
            None if token.is_empty() => return self.without_token(env).map(Who::Is),
            _ if settings.insecure && !settings.tokens.has_keys() => {
                return Ok(Who::Is(Credentials::default()));
            }
            _ => {}
        }
        match settings.tokens.connection(token, env.wall) {
            Ok(it) if it.user.is_empty() && settings.refuse_anonymous_tokens => {
                Err(Disconnect::PermissionDenied.into())
            }
            Ok(credentials) => Ok(Who::Is(credentials)),
            Err(error) if error.is_of_time() => Err(ErrorCode::TokenExpired.into()),
            Err(TokenError::UnknownKey) if !retried => Ok(Who::Ask(Call::TokenKeys)),
            Err(_) => Err(Disconnect::InvalidToken.into()),
        }
    }

    /// The client is who it says: it is put into its rooms, and told when that is done.
    fn admit(
        &mut self,
        id: u32,
        credentials: Credentials,
        since: &HashMap<String, SubscribeRequest>,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) {
        let conn_info = credentials.info[..].into();
        let info = ClientInfo::new(self.info.client, &credentials.user);
        self.info = Arc::new(ClientInfo { conn_info, ..info });
        self.expires_at = credentials.expires_at;
        if let Some(rare) = self.rare_if(|it| it.trusted_user.is_some()) {
            rare.trusted_user = None;
        }
        self.keep_for_backends(credentials.meta, env);
        out.push(Out::Authenticated(self.info.user.clone()));
        let rooms = self.rooms_of(credentials.rooms, env);
        if rooms.len() > env.settings.channel_limit {
            return self.close(Disconnect::ChannelLimit, out);
        }
        self.state = ConnectionState::Connecting;
        let (data, waiting) = (credentials.data, rooms.len());
        self.rare_mut().connecting = Some(Connecting { id, data, waiting, rooms: Vec::new() });
        for (room, grant) in rooms {
            let since = since
                .get(&room)
                .filter(|it| it.recover)
                .map(|it| Since { epoch: it.epoch.clone(), offset: it.offset });
            self.put_into(&room, &grant, since, Initiator::Connect, env, out);
            if self.state != ConnectionState::Connecting {
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
                self.state = ConnectionState::Refused;
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
        self.state = ConnectionState::Open;
        self.tidy();
        let settings = env.settings;
        let ping = settings.ping_interval;
        let (expires, ttl) = self.connection_time_to_live(env);
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
        out.push(Out::Reply(reply::result(id, ReplyBody::Connect(result))));
        // Connections that came together must not be pinged together.
        let spread = (self.info.client.0 % 1024) as u32;
        self.next_ping = env.now + ping / 2 + ping * spread / 2048;
        self.wake_later(env, out);
    }

    /// When the client has to refresh its connection, as it is told: never, if that is not its business.
    fn connection_time_to_live(&self, env: Env<'_>) -> (bool, u32) {
        let deadline = self.expires_at.filter(|_| env.settings.proxies.refresh.is_none());
        env.time_to_live(deadline)
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
        // Where a backend decides, it is asked without the client's help.
        let decided = env.settings.proxies.refresh.is_some();
        if decided || request.token.is_empty() || !env.settings.tokens.has_keys() {
            return Err(Disconnect::BadRequest.into());
        }
        match env.settings.tokens.connection(&request.token, env.wall) {
            Ok(it) if it.user == self.info.user => {
                self.expires_at = it.expires_at;
                self.keep_for_backends(it.meta, env);
                let (expires, ttl) = env.time_to_live(self.expires_at);
                let result = RefreshResult {
                    client: self.info.client.to_string(),
                    version: SERVER_VERSION.to_owned(),
                    expires,
                    ttl,
                };
                out.push(Out::Reply(reply::result(id, ReplyBody::Refresh(result))));
                self.wake_later(env, out);
                Ok(None)
            }
            Err(error) if error.is_of_time() => Err(Disconnect::ConnectionExpired.into()),
            Err(TokenError::UnknownKey) if !retried => {
                self.call(id, ClientRequest::Refresh(request), Call::TokenKeys, out);
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
        let (expires, ttl) = self.connection_time_to_live(env);
        out.push(Out::Reply(reply::push("", PushBody::Refresh(Refresh { expires, ttl }))));
        self.wake_later(env, out);
    }
}
