//! SHELL. The methods of the server API about maps.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    calls::{Room, bad_request},
    execution::check_channel,
    map_calls::{MapPublish, MapReadState, MapReadStream, MapRemove},
    parts::Parts,
    results::{Called, Changed, Done, Entries, MapStats},
    rooms::{answer_of, failed},
};
use crate::{
    protocol::{codes::ErrorCode, message},
    room::{
        options::RoomOptions,
        types::{Answer, Keyed, MapAnswer, MapRequest, Position, Publication, Request},
    },
};

/// Gives a key a value.
pub(super) async fn publish(parts: &Parts, call: MapPublish) -> Called {
    let channel = call.channel.clone();
    let options = options(parts, &channel)?;
    let mut request = call.request(parts.config.client.queue_max_size / 2)?;
    if let MapRequest::Put { value, .. } = &mut request {
        value.delta |= options.delta_publish;
        if !options.data_format.accepts(&value.data) {
            return Err(bad_request(match value.data.is_empty() {
                true => "data or b64data is needed",
                false => "data is not in the namespace's publication_data_format",
            }));
        }
    }
    ask(parts, &channel, request).await
}

/// Takes a key's value away.
pub(super) async fn remove(parts: &Parts, call: MapRemove) -> Called {
    let channel = call.channel.clone();
    ask(parts, &channel, call.request()?).await
}

/// Reads entries.
pub(super) async fn read_state(parts: &Parts, call: MapReadState) -> Called {
    let answer = asked(parts, &call.channel, call.request()).await?;
    if let MapAnswer::Entries { position, .. } = &answer
        && !call.revision_epoch.is_empty()
        && call.revision_epoch != position.epoch.to_string()
    {
        return Err(ErrorCode::UnrecoverablePosition.into());
    }
    let MapAnswer::Entries { mut entries, position, cursor } = answer else {
        return Err(ErrorCode::Internal.into());
    };
    if call.revision_offset > 0 {
        // What has changed since comes with the changes.
        entries.retain(|(_, it)| it.offset <= call.revision_offset);
    }
    Ok(told(entries, position, cursor.into()))
}

/// Reads changes.
pub(super) async fn read_stream(parts: &Parts, call: MapReadStream) -> Called {
    ask(parts, &call.channel, call.request()).await
}

/// Counts the entries.
pub(super) async fn stats(parts: &Parts, call: Room) -> Called {
    ask(parts, &call.channel, MapRequest::Count).await
}

/// Takes all values away.
pub(super) async fn clear(parts: &Parts, call: Room) -> Called {
    asked(parts, &call.channel, MapRequest::Clear).await?;
    Ok(Done::nothing())
}

/// The options of a channel that is a map.
fn options(parts: &Parts, channel: &str) -> Result<Arc<RoomOptions>, message::Error> {
    check_channel(parts, channel)?;
    let settings = parts.sessions.load();
    let options = settings.namespaces.options(channel).ok_or(ErrorCode::UnknownChannel)?;
    if options.map.is_none() {
        let why = "the channel is no map: see subscription_type of its namespace";
        return Err(bad_request(why));
    }
    Ok(options.clone())
}

async fn asked(
    parts: &Parts,
    channel: &str,
    request: MapRequest,
) -> Result<MapAnswer, message::Error> {
    options(parts, channel)?;
    match answer_of(parts, channel, move |to| Request::Map(request.into(), to)).await? {
        Answer::Map(answer) => Ok(answer),
        Answer::Failed(why) => Err(failed(why)),
        _ => Err(ErrorCode::Internal.into()),
    }
}

async fn ask(parts: &Parts, channel: &str, request: MapRequest) -> Called {
    Ok(match asked(parts, channel, request).await? {
        MapAnswer::Changed(position) => changed(position, ""),
        MapAnswer::Suppressed(why, position) => changed(position, why.name()),
        MapAnswer::Entries { entries, position, cursor } => told(entries, position, cursor.into()),
        MapAnswer::Count(num_keys) => Done::Stats(MapStats { num_keys }),
    })
}

fn position(it: Position) -> message::StreamPosition {
    message::StreamPosition { offset: it.offset, epoch: it.epoch.to_string() }
}

fn changed(here: Position, suppressed: &'static str) -> Done {
    Done::Changed(Changed { position: position(here), suppressed })
}

fn told(entries: Vec<(Keyed, Arc<Publication>)>, here: Position, cursor: String) -> Done {
    let told = |(keyed, it): (Keyed, Arc<Publication>)| message::Publication {
        // A removal has none.
        data: if keyed.removed { Bytes::from_static(b"null") } else { it.data.clone() },
        offset: it.offset,
        tags: it.tags.clone(),
        key: keyed.key.into(),
        removed: keyed.removed,
        score: keyed.score,
        ..message::Publication::default()
    };
    let entries = entries.into_iter().map(told).collect();
    Done::Entries(Entries { entries, position: position(here), cursor })
}
