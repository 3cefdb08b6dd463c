//! Answers of rooms in the protocol's words.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use serde::Serialize;
use serde_json::json;

use crate::{
    protocol::{
        codec::Format,
        codes::{ErrorCode, Unsubscribed},
        delta,
        message::{
            self, Empty, HistoryResult, PresenceResult, PresenceStatsResult, Push, Reply,
            ReplyBody, RpcResult, SubscribeResult,
        },
    },
    queue::{group::ConsumerFacts, name},
    room::{
        delivery::Form,
        filter::Filter,
        types::{
            Answer, ClientId, ClientInfo, Event, Failure, GroupAnswer, MapAnswer, Publication,
            Recovery, Since, Subscribed,
        },
    },
    shared_poll::state::KeyUpdate,
};

/// The reply to command `id` with a result.
pub fn result(id: u32, body: ReplyBody) -> Reply {
    Reply { id, error: None, body: Some(body) }
}

/// The reply to command `id` when it failed.
pub fn failure(id: u32, why: impl Into<message::Error>) -> Reply {
    Reply { id, error: Some(why.into()), body: None }
}

/// What a client is told when a room could not do what was asked.
impl From<Failure> for ErrorCode {
    fn from(why: Failure) -> Self {
        match why {
            Failure::Unavailable => Self::Internal,
            Failure::Overloaded => Self::TooManyRequests,
            Failure::UnknownNamespace => Self::UnknownChannel,
            Failure::NoHistory => Self::NotAvailable,
            Failure::BadPosition => Self::BadRequest,
            Failure::UnrecoverablePosition => Self::UnrecoverablePosition,
            Failure::LimitExceeded => Self::LimitExceeded,
        }
    }
}

/// The reply to command `id` for what a room answered. Of a history it brings as many publications as fit
/// into `limit` bytes, but one at least: the client goes on reading from the last of them. Of who is in a room
/// it brings all or, if that is more than `limit` bytes, none: a part would look like the whole.
pub fn answer(id: u32, answer: Answer, limit: usize) -> Reply {
    let body = match answer {
        Answer::Failed(why) => return failure(id, ErrorCode::from(why)),
        Answer::Presence(clients) if !are_within(&clients, limit) => {
            return failure(id, ErrorCode::LimitExceeded);
        }
        Answer::Published(_) => ReplyBody::Publish(Empty {}),
        Answer::Presence(clients) => {
            ReplyBody::Presence(PresenceResult { presence: by_id(&clients) })
        }
        Answer::PresenceStats { clients, users } => {
            ReplyBody::PresenceStats(PresenceStatsResult { num_clients: clients, num_users: users })
        }
        Answer::History(publications, position) => ReplyBody::History(HistoryResult {
            publications: fitting(&publications, limit).iter().map(publication).collect(),
            epoch: position.epoch.to_string(),
            offset: position.offset,
        }),
        Answer::Map(MapAnswer::Changed(_) | MapAnswer::Suppressed(..)) => {
            ReplyBody::Publish(Empty {})
        }
        // Whoever asks for those takes them as they are.
        Answer::Map(MapAnswer::Entries { .. } | MapAnswer::Count(_)) => {
            return failure(id, ErrorCode::Internal);
        }
        Answer::Group(mut answer) => {
            // Who is in a room is for those who may ask for presence.
            if let GroupAnswer::Facts(facts) = &mut answer {
                facts.consumers.clear();
            }
            ReplyBody::Rpc(RpcResult { data: group(&answer) })
        }
    };
    result(id, body)
}

#[derive(Serialize)]
struct Pulled {
    messages: Vec<message::Publication>,
}

/// What a group answers, as JSON: to the RPCs of clients and to the server API alike.
pub fn group(answer: &GroupAnswer) -> Bytes {
    let json = match answer {
        GroupAnswer::Judged(holds) => {
            let word = |holds: &bool| if *holds { "ok" } else { "stale" };
            json!({ "results": holds.iter().map(word).collect::<Vec<_>>() })
        }
        GroupAnswer::Facts(it) => {
            let consumer = |it: &ConsumerFacts| {
                let client = ClientId(it.client).to_string();
                json!({
                    "client": client,
                    "user": it.user,
                    "leased": it.leased,
                    "prefetch": it.prefetch,
                })
            };
            let consumers: Vec<_> = it.consumers.iter().map(consumer).collect();
            let mut json = json!({
                "settled": it.floor,
                "top": it.top,
                "leased": it.leased,
                "parked": it.parked,
                "waiting": it.waiting,
                "consumers": consumers,
            });
            if let Some(age) = it.oldest {
                json["oldest"] = (age.as_millis() as f64 / 1e3).into();
            }
            json
        }
        GroupAnswer::Pulled(messages) => {
            let messages: Vec<_> = messages.iter().map(publication).collect();
            return serde_json::to_vec(&Pulled { messages }).unwrap_or_default().into();
        }
        GroupAnswer::Done => json!({}),
    };
    json.to_string().into()
}

/// Whether these clients take no more than `limit` bytes in a reply.
fn are_within(clients: &[Arc<ClientInfo>], limit: usize) -> bool {
    let mut left = limit;
    clients.iter().all(|it| {
        let size = it.weight() + escapes(&it.user) + PRESENT;
        left.checked_sub(size).map(|less| left = less).is_some()
    })
}

/// What a client in presence takes in a reply beside its user and its infos: its id twice,
/// and the names of all that.
const PRESENT: usize = 160;

/// How many bytes more than it has a text may take in JSON.
fn escapes(text: &str) -> usize {
    let escaped = |it: &u8| *it < b' ' || b"\"\\".contains(it);
    text.bytes().filter(|it| escaped(it)).count() * 5
}

/// The first of the publications, as many as fit into `limit` bytes, but one at least.
fn fitting(publications: &[Arc<Publication>], limit: usize) -> &[Arc<Publication>] {
    let mut total = 0_usize;
    let fits = |it: &&Arc<Publication>| {
        total = total.saturating_add(size(it));
        total <= limit
    };
    let count = publications.iter().take_while(fits).count();
    &publications[..count.max(1).min(publications.len())]
}

/// Of what was recovered only what the client wants.
pub fn wanted(mut subscribed: Subscribed, filter: Option<&Filter>) -> Subscribed {
    if let (Recovery::Recovered(missed), Some(filter)) = (&mut subscribed.recovery, filter) {
        missed.retain(|it| filter.matches(&it.tags));
    }
    subscribed
}

/// Without what was recovered if that is more than `limit` bytes: the client has to do without, as it has
/// when the history does not reach back.
pub fn bounded(subscribed: Subscribed, limit: usize) -> Subscribed {
    match &subscribed.recovery {
        Recovery::Recovered(missed) if fitting(missed, limit).len() < missed.len() => {
            Subscribed { recovery: Recovery::Failed, ..subscribed }
        }
        _ => subscribed,
    }
}

/// About how many bytes a publication takes in a reply.
fn size(publication: &Publication) -> usize {
    let tags: usize = publication.tags.iter().map(|(name, tag)| name.len() + tag.len() + 8).sum();
    let info = publication.info.as_ref().map_or(0, |it| it.weight() + 80);
    publication.data.len() + tags + info + 40
}

/// The result of a subscribe. `since` is what the client asked to recover from. With `delta` it gets
/// publications as changes in this format.
pub fn subscribe_result(
    subscribed: &Subscribed,
    since: Option<&Since>,
    recoverable: bool,
    positioned: bool,
    delta: Option<Format>,
) -> SubscribeResult {
    let mut result = SubscribeResult { recoverable, positioned, ..Default::default() };
    result.delta = delta.is_some();
    if let Some(position) = subscribed.position.filter(|_| positioned || recoverable) {
        result.epoch = position.epoch.to_string();
        result.offset = position.offset;
    }
    result.was_recovering = subscribed.recovery != Recovery::NotAsked;
    if let Recovery::Recovered(missed) = &subscribed.recovery {
        result.recovered = true;
        result.publications = match delta {
            None => missed.iter().map(publication).collect(),
            Some(format) => as_changes(missed, format),
        };
        // The client counts from where it was, up to the last of these.
        let since = since.filter(|_| !missed.is_empty());
        result.offset = since.map_or(result.offset, |since| since.offset);
    }
    result
}

/// The push for what happened in a room; none for what has no push.
pub fn event(channel: &str, event: &Event) -> Option<Reply> {
    let presence =
        |info: &Arc<ClientInfo>| message::JoinLeavePush { info: Some(client_info(info)) };
    let event = match event {
        Event::Publication(it) => message::PushBody::Pub(publication(it)),
        Event::Join(info) => message::PushBody::Join(presence(info)),
        Event::Leave(info) => message::PushBody::Leave(presence(info)),
        Event::InsufficientState => return None,
    };
    Some(push(channel, event))
}

/// The push of a publication in a form that some members want; `before` is the publication before it.
pub fn publication_push(
    channel: &str,
    it: &Arc<Publication>,
    form: Form,
    before: Option<&Publication>,
    format: Format,
) -> Reply {
    push(channel, message::PushBody::Pub(in_form(it, form, before, format)))
}

/// The push of what is new about a key. Where there is no data any more, JSON says `null`.
pub fn key_update(channel: &str, it: &KeyUpdate, format: Format) -> Reply {
    let data = match format {
        Format::Json if it.removed => Bytes::from_static(b"null"),
        _ => it.data.clone(),
    };
    let publication = message::Publication {
        data,
        key: it.key.to_string(),
        removed: it.removed,
        version: it.version,
        ..message::Publication::default()
    };
    push(channel, message::PushBody::Pub(publication))
}

fn as_changes(publications: &[Arc<Publication>], format: Format) -> Vec<message::Publication> {
    let before = std::iter::once(None).chain(publications.iter().map(|it| Some(&**it)));
    let both = publications.iter().zip(before);
    both.map(|(it, before)| in_form(it, Form::Delta, before, format)).collect()
}

/// A publication in the form that a client wants. One that gets changes as JSON gets everything as a text: the JSON, or what is new in it.
pub fn in_form(
    it: &Arc<Publication>,
    form: Form,
    before: Option<&Publication>,
    format: Format,
) -> message::Publication {
    let before = before.filter(|_| form == Form::Delta);
    let plain = publication(it);
    let (data, delta) = match format {
        _ if form == Form::Plain => return plain,
        Format::Protobuf => {
            let new = before.and_then(|before| delta::of_bytes(&before.data, &it.data));
            new.map_or((plain.data.clone(), false), |new| (new.into(), true))
        }
        Format::Json => {
            let text = message::json_of(&it.data);
            let new = before.and_then(|it| delta::of_text(&message::json_of(&it.data), &text));
            let delta = new.is_some();
            let text = new.map_or(text, Into::into);
            (serde_json::Value::from(text).to_string().into(), delta)
        }
    };
    message::Publication { data, delta, ..plain }
}

/// The push that ends a subscription.
pub fn unsubscribe(channel: &str, why: Unsubscribed) -> Reply {
    let (code, reason) = why.parts();
    push(
        channel,
        message::PushBody::Unsubscribe(message::UnsubscribePush { code, reason: reason.into() }),
    )
}

/// The push that ends a session on transports without a close frame.
pub fn disconnect(code: u16, reason: &str) -> Reply {
    let disconnect = message::DisconnectPush { code: code.into(), reason: reason.to_owned() };
    push("", message::PushBody::Disconnect(disconnect))
}

/// The push that puts a client into a room, and those of what it missed there.
pub fn subscribe_pushes(channel: &str, result: SubscribeResult) -> impl Iterator<Item = Reply> {
    let SubscribeResult { recoverable, positioned, epoch, offset, data, publications, .. } = result;
    let subscribe = message::SubscribePush { recoverable, epoch, offset, positioned, data };
    let missed = publications.into_iter().map(message::PushBody::Pub);
    std::iter::once(message::PushBody::Subscribe(subscribe))
        .chain(missed)
        .map(|event| push(channel, event))
}

/// Something that happens in a room, or, without one, to the connection.
pub fn push(channel: &str, event: message::PushBody) -> Reply {
    // A consumer knows its group's room by the name of the room whose messages it gets.
    let push = Push { channel: name::room(channel).to_owned(), event: Some(event) };
    Reply { body: Some(ReplyBody::Push(push)), ..Default::default() }
}

/// Clients by their ids.
pub fn by_id(clients: &[Arc<ClientInfo>]) -> BTreeMap<String, message::ClientInfo> {
    clients.iter().map(|info| (info.client.to_string(), client_info(info))).collect()
}

/// A client in the protocol's words.
pub fn client_info(info: &Arc<ClientInfo>) -> message::ClientInfo {
    message::ClientInfo {
        user: info.user.to_string(),
        client: info.client.to_string(),
        conn_info: Bytes::copy_from_slice(&info.conn_info),
        chan_info: Bytes::copy_from_slice(info.chan_info()),
    }
}

/// A publication in the protocol's words.
pub fn publication(publication: &Arc<Publication>) -> message::Publication {
    let keyed = publication.keyed.as_deref().cloned().unwrap_or_default();
    message::Publication {
        data: publication.data.clone(),
        info: publication.info.as_ref().map(client_info),
        offset: publication.offset,
        tags: publication.tags.clone(),
        key: keyed.key.into(),
        removed: keyed.removed,
        score: keyed.score,
        ..message::Publication::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        protocol::encoding::Encoding,
        room::types::{ClientId, InRoom},
    };

    fn clients(count: u128) -> Vec<Arc<ClientInfo>> {
        let client = |number| ClientInfo {
            conn_info: br#"{"name":"Ann"}"#[..].into(),
            in_room: Some(Box::new(InRoom { info: b"{}"[..].into(), ..InRoom::default() })),
            ..ClientInfo::new(ClientId(number), "\"an\\n\u{1}\"")
        };
        (0..count).map(|number| Arc::new(client(number))).collect()
    }

    #[test]
    fn presence_is_whole_or_refused() {
        let present = || Answer::Presence(clients(100));
        for (limit, code) in [(usize::MAX, None), (100_000, None), (10_000, Some(106))] {
            let reply = answer(1, present(), limit);
            assert_eq!(reply.error.map(|it| it.code), code, "{limit}");
        }
        // What is let through fits, in either format.
        let least =
            (0..).map(|it| it * 100).find(|limit| answer(1, present(), *limit).error.is_none());
        let limit = least.expect("enough for all");
        for encoding in [Encoding::SocketJson, Encoding::SocketProtobuf] {
            let mut written = bytes::BytesMut::new();
            encoding.append(&answer(1, present(), limit), &mut written);
            assert!(written.len() <= limit, "{} > {limit}", written.len());
            assert!(written.len() * 3 > limit, "{} much less than {limit}", written.len());
        }
    }
}
