//! The messages of the server API by gRPC that are about maps: as [`super::messages`], which calls this. Pure.

use crate::{
    protocol::{
        grpc::api,
        message::{Publication, StreamPosition},
    },
    server::{
        map_calls::{MapPublish, MapReadState, MapReadStream, MapRemove},
        results::{Changed, Done, Entries},
    },
};

impl From<api::MapPublishRequest> for MapPublish {
    fn from(it: api::MapPublishRequest) -> Self {
        Self {
            channel: it.channel,
            key: it.key,
            data: it.data,
            b64data: it.b64data,
            tags: it.tags,
            idempotency_key: it.idempotency_key,
            delta: it.delta,
            version: it.version,
            version_epoch: it.version_epoch,
            score: it.score,
            key_mode: it.key_mode,
        }
    }
}

impl From<api::MapRemoveRequest> for MapRemove {
    fn from(it: api::MapRemoveRequest) -> Self {
        Self { channel: it.channel, key: it.key, idempotency_key: it.idempotency_key }
    }
}

impl From<api::MapReadStateRequest> for MapReadState {
    fn from(it: api::MapReadStateRequest) -> Self {
        Self {
            channel: it.channel,
            cursor: it.cursor,
            limit: it.limit.into(),
            key: it.key,
            asc: it.asc,
            revision_offset: it.revision_offset,
            revision_epoch: it.revision_epoch,
        }
    }
}

impl From<api::MapReadStreamRequest> for MapReadStream {
    fn from(it: api::MapReadStreamRequest) -> Self {
        Self {
            channel: it.channel,
            since_offset: it.since_offset,
            since_epoch: it.since_epoch,
            limit: it.limit.into(),
            reverse: it.reverse,
        }
    }
}

/// What became of a put.
pub fn published(done: Done) -> Option<api::MapPublishResult> {
    let Done::Changed(Changed { position, suppressed: why }) = done else { return None };
    let StreamPosition { offset, epoch } = position;
    let (suppressed, suppress_reason) = (!why.is_empty(), why.to_owned());
    Some(api::MapPublishResult { offset, epoch, suppressed, suppress_reason })
}

/// What became of a removal.
pub fn removed(done: Done) -> Option<api::MapRemoveResult> {
    let api::MapPublishResult { offset, epoch, suppressed, suppress_reason } = published(done)?;
    Some(api::MapRemoveResult { offset, epoch, suppressed, suppress_reason })
}

fn entry(it: Publication) -> api::MapEntry {
    let Publication { key, data, tags, offset, score, removed, .. } = it;
    api::MapEntry { key, data, tags, offset, score, removed }
}

/// The entries of a map.
pub fn state(done: Done) -> Option<api::MapReadStateResult> {
    let Done::Entries(Entries { entries, position, cursor }) = done else { return None };
    let StreamPosition { offset, epoch } = position;
    let entries = entries.into_iter().map(entry).collect();
    Some(api::MapReadStateResult { entries, offset, epoch, cursor })
}

/// The changes of a map.
pub fn stream(done: Done) -> Option<api::MapReadStreamResult> {
    let api::MapReadStateResult { entries, offset, epoch, .. } = state(done)?;
    Some(api::MapReadStreamResult { entries, offset, epoch })
}

/// How many entries a map has.
pub fn stats(done: Done) -> Option<api::MapStatsResult> {
    let Done::Stats(it) = done else { return None };
    Some(api::MapStatsResult { num_keys: i32::try_from(it.num_keys).unwrap_or(i32::MAX) })
}

/// A map is empty.
pub fn cleared(done: Done) -> Option<api::MapClearResult> {
    matches!(done, Done::Nothing(_)).then_some(api::MapClearResult {})
}
