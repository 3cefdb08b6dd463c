//! A client that has a map: it loads the entries, page by page, and is then told of every change.
//!
//! ```text
//! subscribe, phase 2 ───► read a page of the room ───► phase 2: entries, a cursor, where the map was
//!          … with the cursor of each page, until there is none:
//!                         enter the room from where the map was when the first page was read
//!                                               ───► phase 0: the last entries, and what has changed since
//! ```
//!
//! A client that was there before asks for phase 1 or 0 with its position, and gets what it missed; if that is not to be had,
//! it gets error 112, and loads the entries again.

use std::sync::Arc;

use super::{
    commands::{Outcome, Refusal},
    reply,
    settings::Env,
    state::{Out, Session},
    subscribing::Wanted,
    subscription::{Initiator, Pending},
};
use crate::{
    access::grant::Grant,
    map::{
        options::{ClientKey, Kind, MapOptions},
        request::{self, KeyMode, Page},
    },
    protocol::{
        codec::Format,
        codes::ErrorCode,
        message::{self, PublishRequest, ReplyBody, SubscribeRequest, SubscribeResult},
    },
    room::{
        delivery::{DeliveryOption, Form},
        options::RoomOptions,
        types::{
            Answer, Keyed, MapAnswer, MapRequest, NewPublication, Position, Publication, Recovery,
            ReplyTo, Request, RoomName, Since, Subscribed,
        },
    },
    runtime::time::Time,
};

/// The type of subscription that every reply about a map names.
const MAP: i32 = 1;
/// The phase in which a client loads entries.
const ENTRIES: i32 = 2;
/// How long a client may take to load all entries.
const LOADING: std::time::Duration = std::time::Duration::from_secs(60);

/// A page of entries, where the map is, and the cursor of the next page.
type Read = (Vec<(Keyed, Arc<Publication>)>, Position, Box<str>);

/// A map of which a client loads the entries.
#[derive(Debug)]
pub(super) struct Loading {
    room: RoomName,
    /// The client may enter the room, with this.
    grant: Grant,
    delivery: Option<DeliveryOption>,
    /// Where the map was when the first page was read.
    position: Option<Position>,
    /// The command that waits for a page.
    asked: Option<u32>,
    since: Time,
}

/// What a client that enters the room of a map gets beside what others get.
#[derive(Debug, Default)]
pub(super) struct Entering {
    /// The last entries.
    entries: Vec<message::Publication>,
    /// It was there before, and not longer ago than so many changes.
    recovers: Option<usize>,
    is_recoverable: bool,
}

/// An entry that stands for a client in some map, as long as the client is in a room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StandIn {
    map: RoomName,
    key: Box<str>,
    /// It is put, and put again: else it is only removed.
    is_put: bool,
    /// It is removed as the client leaves: else it expires.
    is_removed: bool,
}

/// The type of subscription that rooms with these options are for.
pub(super) fn kind(options: &RoomOptions) -> i32 {
    match options.map.as_deref().map(|it| it.kind) {
        None => 0,
        Some(Kind::Map) => MAP,
        Some(Kind::Clients) => 2,
        Some(Kind::Users) => 3,
    }
}

fn options_of(options: &RoomOptions) -> Result<&Arc<MapOptions>, ErrorCode> {
    options.map.as_ref().ok_or(ErrorCode::NotAvailable)
}

impl Entering {
    /// Whether the client can't go on from `since`, to where it came: it has to load the entries.
    pub(super) fn fails(&self, since: Option<&Since>, subscribed: &Subscribed) -> bool {
        let (Some(since), Some(position)) = (since, subscribed.position) else { return true };
        let same = since.epoch.is_empty() && since.offset == 0
            || since.epoch == position.epoch.to_string();
        let missed = position.offset.saturating_sub(since.offset);
        let too_many = self.recovers.is_some_and(|most| missed > most as u64);
        !same || too_many || matches!(subscribed.recovery, Recovery::Failed)
    }

    /// The result of the subscribe.
    pub(super) fn result(self, subscribed: &Subscribed, delta: Option<Format>) -> SubscribeResult {
        let missed = match &subscribed.recovery {
            Recovery::Recovered(missed) => missed.iter().map(|it| base(it, delta)).collect(),
            Recovery::NotAsked | Recovery::Failed => Vec::new(),
        };
        let recovers = self.recovers.is_some();
        let position = subscribed.position.filter(|_| self.is_recoverable);
        SubscribeResult {
            kind: MAP,
            delta: delta.is_some(),
            state: self.entries,
            publications: missed,
            recoverable: self.is_recoverable,
            was_recovering: recovers,
            recovered: recovers,
            epoch: position.map(|it| it.epoch.to_string()).unwrap_or_default(),
            offset: position.map_or(0, |it| it.offset),
            ..SubscribeResult::default()
        }
    }
}

impl Session {
    /// How many maps the client loads.
    pub(super) fn maps_loading(&self) -> usize {
        self.rare().map_or(0, |it| it.maps.len())
    }

    /// Forgets what the client has loaded of a map.
    pub(super) fn stop_loading(&mut self, room: &str) -> Option<Loading> {
        let rare = self.rare.as_deref_mut()?;
        let index = rare.maps.iter().position(|it| *it.room == *room)?;
        let loading = rare.maps.swap_remove(index);
        self.tidy();
        Some(loading)
    }

    /// A client does not want the map any more that it loads: a command that waits for a page of it is answered.
    pub(super) fn forget_loading(&mut self, room: &str, out: &mut Vec<Out>) {
        if let Some(id) = self.stop_loading(room).and_then(|it| it.asked) {
            self.in_flight = self.in_flight.saturating_sub(1);
            out.push(Out::Reply(reply::failure(id, ErrorCode::Internal)));
        }
    }

    /// A client that loads a map asks for more of it; none: it does not load it, and has to be let in first.
    pub(super) fn load_more(
        &mut self,
        id: u32,
        request: &SubscribeRequest,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Result<Option<(RoomName, Request)>, Refusal> {
        if request.phase == ENTRIES && request.cursor.is_empty() {
            // It begins anew.
            self.forget_loading(&request.channel, out);
            return Ok(None);
        }
        let Some(mut loading) = self.stop_loading(&request.channel) else {
            let continues =
                request.phase == ENTRIES || !request.recover && request.epoch.is_empty();
            return if continues { Err(ErrorCode::PermissionDenied.into()) } else { Ok(None) };
        };
        if loading.asked.is_some() {
            self.rare_mut().maps.push(loading);
            return Err(ErrorCode::BadRequest.into());
        }
        if env.now.since(loading.since) > LOADING {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }
        let options = self.options(&request.channel, env)?;
        let map = options_of(options)?;
        if request.phase == ENTRIES {
            let asked = self.read(id, request, map, env);
            loading.asked = Some(id);
            self.rare_mut().maps.push(loading);
            return Ok(Some(asked));
        }
        let is_recoverable = map.is_recoverable();
        // Else the client was not told where it is.
        let since = match loading.position.filter(|_| !is_recoverable) {
            Some(it) => Since { epoch: it.epoch.to_string(), offset: it.offset },
            None => Since { epoch: request.epoch.clone(), offset: request.offset },
        };
        let entering = Entering { is_recoverable, ..Entering::default() };
        let Loading { grant, delivery, .. } = loading;
        Ok(Some(self.enter_map(id, &request.channel, options, &grant, delivery, since, entering)))
    }

    /// A client is let into a map: it loads the entries, or goes on from where it was.
    pub(super) fn begin_with_map(
        &mut self,
        id: u32,
        request: &SubscribeRequest,
        delivery: Option<DeliveryOption>,
        grant: &Grant,
        env: Env<'_>,
    ) -> Result<(RoomName, Request), ErrorCode> {
        let options = self.options(&request.channel, env)?;
        let map = options_of(options)?;
        if request.phase == ENTRIES {
            let asked = self.read(id, request, map, env);
            let (room, grant, since) = (asked.0.clone(), grant.clone(), env.now);
            let asked_by = Some(id);
            let loading = Loading { room, grant, delivery, position: None, asked: asked_by, since };
            self.rare_mut().maps.push(loading);
            return Ok(asked);
        }
        if !map.is_recoverable() || !(0..ENTRIES).contains(&request.phase) {
            return Err(ErrorCode::BadRequest);
        }
        let since = Since { epoch: request.epoch.clone(), offset: request.offset };
        let entering = Entering {
            recovers: Some(map.stream_size),
            is_recoverable: true,
            ..Entering::default()
        };
        Ok(self.enter_map(id, &request.channel, options, grant, delivery, since, entering))
    }

    fn read(
        &self,
        id: u32,
        request: &SubscribeRequest,
        map: &MapOptions,
        env: Env<'_>,
    ) -> (RoomName, Request) {
        let page = Page {
            key: None,
            cursor: request.cursor.as_str().into(),
            limit: u32::try_from(map.page_size(request.limit)).unwrap_or(u32::MAX),
            // As JSON, a quote takes two bytes.
            bytes: u32::try_from(env.reply_limit() / 2).unwrap_or(u32::MAX),
            ascending: request.asc,
        };
        let to = ReplyTo::Command { socket: self.socket, id };
        (request.channel.as_str().into(), Request::Map(MapRequest::Read(page).into(), to))
    }

    #[expect(clippy::too_many_arguments, reason = "each is another thing that was decided before")]
    fn enter_map(
        &mut self,
        id: u32,
        room: &str,
        options: &RoomOptions,
        grant: &Grant,
        delivery: Option<DeliveryOption>,
        since: Since,
        entering: Entering,
    ) -> (RoomName, Request) {
        let wanted = Wanted {
            recoverable: true,
            positioned: true,
            join_leave: false,
            single_connection: false,
            since: Some(since),
            must_recover: true,
            delivery,
            consumes: None,
            map: Some(Box::new(entering)),
        };
        self.enter(room, options, grant, wanted, Initiator::Client(id))
    }

    /// A room has answered the command of this number with entries, if it was one that loads a map.
    pub(super) fn entries_came(
        &mut self,
        id: u32,
        answer: Answer,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Option<Answer> {
        let asked = |it: &Loading| it.asked == Some(id);
        let index = self.rare().and_then(|it| it.maps.iter().position(asked));
        let Some(index) = index else { return Some(answer) };
        let mut loading = self.rare_mut().maps.swap_remove(index);
        let replied = match answer {
            Answer::Map(MapAnswer::Entries { entries, position, cursor }) => {
                loading.asked = None;
                self.page_came(id, loading, (entries, position, cursor), env, out)
            }
            Answer::Failed(why) => Err(why.into()),
            _ => Err(ErrorCode::Internal),
        };
        self.tidy();
        match replied {
            // The client is about to enter: that answers its command.
            Ok(None) => {}
            Ok(Some(page)) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                out.push(Out::Reply(reply::result(id, ReplyBody::Subscribe(page))));
            }
            Err(error) => {
                self.in_flight = self.in_flight.saturating_sub(1);
                out.push(Out::Reply(reply::failure(id, error)));
            }
        }
        None
    }

    fn page_came(
        &mut self,
        id: u32,
        mut loading: Loading,
        (entries, here, cursor): Read,
        env: Env<'_>,
        out: &mut Vec<Out>,
    ) -> Result<Option<SubscribeResult>, ErrorCode> {
        let room = loading.room.clone();
        let options = self.options(&room, env)?;
        let map = options_of(options)?;
        let began = *loading.position.get_or_insert(here);
        if began.epoch != here.epoch {
            return Err(ErrorCode::UnrecoverablePosition);
        }
        let filter = loading.delivery.as_ref().and_then(DeliveryOption::filter);
        // What has changed since comes with the changes.
        let wanted = entries.iter().filter(|(_, it)| {
            it.offset <= began.offset && filter.is_none_or(|filter| filter.matches(&it.tags))
        });
        let is_recoverable = map.is_recoverable();
        let delta = loading.delivery == Some(DeliveryOption::Delta);
        let delta = delta.then_some(self.format);
        let told = |(keyed, it)| entry(keyed, it, is_recoverable, delta);
        let entries: Vec<_> = wanted.map(|(keyed, it)| told((keyed, it))).collect();
        let since = Since { epoch: began.epoch.to_string(), offset: began.offset };
        if cursor.is_empty() {
            let entering = Entering { entries, recovers: None, is_recoverable };
            let Loading { grant, delivery, .. } = loading;
            let (room, request) =
                self.enter_map(id, &room, options, &grant, delivery, since, entering);
            out.push(Out::Request(room, request));
            return Ok(None);
        }
        self.rare_mut().maps.push(loading);
        let since = if is_recoverable { since } else { Since::nothing() };
        let (kind, phase, cursor) = (MAP, ENTRIES, cursor.into());
        let Since { epoch, offset } = since;
        let page = SubscribeResult {
            kind,
            phase,
            cursor,
            epoch,
            offset,
            state: entries,
            ..Default::default()
        };
        Ok(Some(page))
    }

    /// Takes a publish command that is for a map.
    pub(super) fn publish_to_map(
        &self,
        request: PublishRequest,
        to: ReplyTo,
        env: Env<'_>,
    ) -> Outcome {
        let options = self.options(&request.channel, env)?;
        let map = options_of(options)?;
        let audience = if request.removed { options.map_remove } else { options.map_publish };
        self.permitted(audience, &request.channel, env)?;
        if map.kind != Kind::Map {
            return Err(ErrorCode::PermissionDenied.into());
        }
        let key: Box<str> = match map.client_key {
            ClientKey::Any => request.key.into(),
            ClientKey::Client => self.info.client.to_string().into(),
            ClientKey::User if self.info.user.is_empty() => {
                return Err(ErrorCode::PermissionDenied.into());
            }
            ClientKey::User => self.info.user.clone(),
        };
        if !request::is_key(&key) || !request.removed && !options.data_format.accepts(&request.data)
        {
            return Err(ErrorCode::BadRequest.into());
        }
        let change = match request.removed {
            true => MapRequest::Remove { key, idempotency_key: None },
            false => {
                let value = NewPublication {
                    // Protobuf lends the buffer of the whole message, which the map would keep with it.
                    data: bytes::Bytes::copy_from_slice(&request.data),
                    info: Some(self.info_in(&request.channel)),
                    delta: options.delta_publish,
                    ..NewPublication::default()
                };
                MapRequest::Put { key, value, score: 0, mode: KeyMode::Replace, renews: false }
            }
        };
        Ok(Some((request.channel.into(), Request::Map(change.into(), to))))
    }

    /// The client is in a room now: what stands for it in maps is put there.
    pub(super) fn stand_in(&mut self, room: &RoomName, env: Env<'_>, out: &mut Vec<Out>) {
        let Ok(options) = self.options(room, env) else { return };
        let stand_ins = self.stand_ins(room, options);
        if stand_ins.is_empty() {
            return;
        }
        let info = self.info_in(room);
        out.extend(stand_ins.iter().filter(|it| it.is_put).map(|it| it.put(&info)));
        if let Some(subscription) = self.subscription(room) {
            subscription.more.get_or_insert_default().stand_ins = stand_ins;
        }
    }

    fn stand_ins(&self, room: &RoomName, options: &RoomOptions) -> Vec<StandIn> {
        let is_left = options.map.as_ref().is_some_and(|it| it.remove_client_on_unsubscribe);
        if options.clients_map.is_none() && options.users_map.is_none() && !is_left {
            return Vec::new();
        }
        let client: Box<str> = self.info.client.to_string().into();
        let mut all = Vec::new();
        let mut put = |prefix: &Option<Box<str>>, key: &str, is_removed| {
            if let Some(prefix) = prefix.as_deref().filter(|_| !key.is_empty()) {
                let map = format!("{prefix}{room}").into();
                all.push(StandIn { map, key: key.into(), is_put: true, is_removed });
            }
        };
        put(&options.clients_map, &client, true);
        // Another connection of the user may be there.
        put(&options.users_map, &self.info.user, false);
        if is_left {
            let map = room.clone();
            all.push(StandIn { map, key: client, is_put: false, is_removed: true });
        }
        all
    }

    /// What stands for the client in maps lives on.
    pub(super) fn renew_stand_ins(&self, out: &mut Vec<Out>) {
        for subscription in &self.subscriptions {
            let Some(more) = &subscription.more else { continue };
            let info = more.info.as_ref().unwrap_or(&self.info);
            out.extend(more.stand_ins.iter().filter(|it| it.is_put).map(|it| it.put(info)));
        }
    }
}

impl StandIn {
    fn put(&self, info: &Arc<crate::room::types::ClientInfo>) -> Out {
        let value = NewPublication { info: Some(info.clone()), ..NewPublication::default() };
        let (key, mode) = (self.key.clone(), KeyMode::IfNew);
        let put = MapRequest::Put { key, value, score: 0, mode, renews: true };
        Out::Request(self.map.clone(), Request::Map(put.into(), ReplyTo::Nobody))
    }

    /// The client leaves.
    pub(super) fn removal(&self) -> Option<Out> {
        let key = self.key.clone();
        let remove = MapRequest::Remove { key, idempotency_key: None };
        let request = Request::Map(remove.into(), ReplyTo::Nobody);
        self.is_removed.then(|| Out::Request(self.map.clone(), request))
    }
}

/// An entry as a client gets it.
fn entry(
    keyed: &Keyed,
    it: &Arc<Publication>,
    is_recoverable: bool,
    delta: Option<Format>,
) -> message::Publication {
    let Keyed { key, score, .. } = keyed;
    let offset = if is_recoverable { it.offset } else { 0 };
    message::Publication { key: key.to_string(), score: *score, offset, ..base(it, delta) }
}

/// A publication, in the form that changes in this format can follow, if those are wanted.
fn base(it: &Arc<Publication>, delta: Option<Format>) -> message::Publication {
    match delta {
        Some(format) => reply::in_form(it, Form::Base, None, format),
        None => reply::publication(it),
    }
}

impl Pending {
    /// Whether a client that enters a map can't go on from where it is.
    pub(super) fn fails(&self, subscribed: &Subscribed) -> bool {
        match &self.map {
            Some(entering) => entering.fails(self.since.as_ref(), subscribed),
            None => self.must_recover && subscribed.recovery == Recovery::Failed,
        }
    }
}
