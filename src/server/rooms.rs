//! SHELL. The methods of the server API that publish into rooms and read them.

use futures_util::{StreamExt as _, stream};

use super::{
    calls::{History, Publish, Room, bad_request},
    execution::check_channel,
    parts::Parts,
    results::{Called, Done, Outcome, Responses},
};
use crate::{
    protocol::{codes::ErrorCode, message},
    room::{
        actor::ApiRequest,
        replies,
        types::{Answer, Failure, HistoryFilter, NewPublication, Query, ReplyTo, Request, Since},
    },
    runtime::clock,
    session::reply,
};

/// The most publications that one call returns.
const HISTORY_LIMIT: usize = 10_000;
/// The most rooms that one broadcast goes to.
const BROADCAST_LIMIT: usize = 10_000;
/// The most publications of one broadcast that are under way: more than that would fill the rooms' mailbox and
/// the queues of links, and hold up or cut off what else goes there.
const UNDER_WAY: usize = 64;
/// The most bytes of them.
const BYTES_UNDER_WAY: usize = 1 << 20;

/// Puts a message into a room.
pub(super) async fn publish(parts: &Parts, mut call: Publish) -> Called {
    let room = std::mem::take(&mut call.channel);
    let publication = call.publication(parts.config.client.queue_max_size, now())?;
    publish_to(parts, &room, publication).await
}

/// Unix time in seconds.
#[expect(clippy::cast_precision_loss, reason = "exact for the next thousand centuries")]
fn now() -> f64 {
    clock::unix_millis() as f64 / 1_000.0
}

/// What the room's namespace says of publications holds here too. One without a namespace is refused there.
async fn publish_to(parts: &Parts, channel: &str, mut publication: NewPublication) -> Called {
    if let Some(options) = parts.sessions.load().namespaces.options(channel) {
        publication.delta |= options.delta_publish;
        if !options.data_format.accepts(&publication.data) {
            return Err(bad_request(match publication.data.is_empty() {
                true => "data or b64data is needed",
                false => "data is not in the namespace's publication_data_format",
            }));
        }
    }
    ask(parts, channel, move |to| Request::Publish(publication, to)).await
}

/// Puts a message into many rooms.
pub(super) async fn broadcast(parts: &Parts, mut call: Publish) -> Called {
    let rooms = std::mem::take(&mut call.channels);
    let publication = call.publication(parts.config.client.queue_max_size, now())?;
    if rooms.is_empty() || rooms.len() > BROADCAST_LIMIT {
        return Err(bad_request(format!("channels must name 1 to {BROADCAST_LIMIT} rooms")));
    }
    let most = under_way(publication.data.len());
    let publication = &publication;
    // By value: of a reference the compiler can't tell that this may go to another thread.
    let answers = rooms
        .into_iter()
        .map(|room| async move { publish_to(parts, &room, publication.clone()).await });
    let responses = paced(answers, most).await.into_iter().map(Outcome::from).collect();
    Ok(Done::Broadcast(Responses { responses }))
}

/// How many publications of `bytes` bytes each may be under way.
fn under_way(bytes: usize) -> usize {
    (BYTES_UNDER_WAY / bytes.max(1)).clamp(1, UNDER_WAY)
}

/// Does things in their order, up to `most` at a time: the next begins when the first of those under way is
/// done. What comes of them is in their order, too.
async fn paced<F: Future>(things: impl Iterator<Item = F>, most: usize) -> Vec<F::Output> {
    stream::iter(things).buffered(most).collect().await
}

/// Asks something of a room that takes no more than its name.
pub(super) async fn query(parts: &Parts, query: Query, call: Room) -> Called {
    let settings = parts.sessions.load();
    let options = settings.namespaces.options(&call.channel);
    let presence = matches!(query, Query::Presence | Query::PresenceStats);
    if options.is_some_and(|it| presence && !it.presence) {
        return Err(ErrorCode::NotAvailable.into());
    }
    ask(parts, &call.channel, move |to| Request::Query(query, to)).await
}

/// Reads what was said in a room.
pub(super) async fn history(parts: &Parts, call: History) -> Called {
    let filter = HistoryFilter {
        limit: usize::try_from(call.limit).unwrap_or(HISTORY_LIMIT).min(HISTORY_LIMIT),
        since: call.since.map(|it| Since { epoch: it.epoch, offset: it.offset }),
        reverse: call.reverse,
    };
    ask(parts, &call.channel, move |to| Request::Query(Query::History(filter), to)).await
}

async fn ask(
    parts: &Parts,
    channel: &str,
    request: impl FnOnce(ReplyTo) -> Request + Send + 'static,
) -> Called {
    check_channel(parts, channel)?;
    // There is nothing but keys there.
    if parts.sessions.load().shared_polls.namespaces.of(channel).is_some() {
        return Err(ErrorCode::NotAvailable.into());
    }
    result(answer_of(parts, channel, request).await?)
}

/// What a room answers.
pub(super) async fn answer_of(
    parts: &Parts,
    room: &str,
    request: impl FnOnce(ReplyTo) -> Request + Send + 'static,
) -> Result<Answer, message::Error> {
    let (reply, answer) = replies::channel();
    let request = Box::new(request);
    parts.registry.do_send(ApiRequest { room: room.into(), request, reply });
    answer.await.map_err(|_| ErrorCode::Internal.into())
}

/// Why a room could not do what was asked of it, in the words of the API.
pub(super) fn failed(why: Failure) -> message::Error {
    ErrorCode::from(why).into()
}

/// The words of the client protocol are those of the API, where both have them.
fn result(answer: Answer) -> Called {
    if let Answer::Published(position) = answer {
        let position = position
            .map(|it| message::StreamPosition { offset: it.offset, epoch: it.epoch.to_string() });
        return Ok(position.map_or_else(Done::nothing, Done::Published));
    }
    let reply = reply::answer(0, answer, usize::MAX);
    match (reply.error, reply.body) {
        (Some(error), _) => Err(error),
        (_, Some(message::ReplyBody::Presence(result))) => Ok(Done::Presence(result)),
        (_, Some(message::ReplyBody::PresenceStats(result))) => Ok(Done::PresenceStats(result)),
        (_, Some(message::ReplyBody::History(result))) => Ok(Done::History(result)),
        (_, _) => Err(ErrorCode::Internal.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        time::Duration,
    };

    use super::*;

    #[test]
    fn a_broadcast_is_taken_in_at_the_pace_of_its_rooms() {
        for (bytes, expected) in [(0, 64), (100, 64), (20_000, 52), (524_288, 2), (9 << 20, 1)] {
            assert_eq!(under_way(bytes), expected, "{bytes} bytes");
        }
        let (now, most, order) = (Cell::new(0), Cell::new(0), RefCell::new(Vec::new()));
        let (now, most, order) = (&now, &most, &order);
        let things = (0..500_u64).map(|number| async move {
            now.set(now.get() + 1);
            most.set(now.get().max(most.get()));
            order.borrow_mut().push(number);
            // Later ones are often answered sooner.
            tokio::time::sleep(Duration::from_micros(number * 7919 % 3000)).await;
            now.set(now.get() - 1);
            number
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let done = runtime.expect("a runtime").block_on(paced(things, 64));
        assert!(done.iter().copied().eq(0..500), "answers in order");
        assert!(order.borrow().iter().copied().eq(0..500), "asked in order");
        assert_eq!(most.get(), 64);
    }
}
