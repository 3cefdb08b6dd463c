//! What a home answers from its stream and its presence, and what it tells a mirror that attaches.

use std::sync::Arc;

use super::{
    home::Home,
    node::Node,
    room::Room,
    stream::Stream,
    types::{Answer, ClientInfo, HistoryFilter, Position, Publication, Query, Since},
};
use crate::{
    mesh::wire::{Catchup, MAX_PUBLICATIONS, RoomMessage},
    protocol::codes::ErrorCode,
    runtime::time::Time,
};

impl Room {
    /// Answers a question that only the home can.
    pub(super) fn answer(&mut self, query: &Query, node: &mut Node) -> Answer {
        match query {
            Query::Presence => {
                let shown =
                    |home: &mut Home| home.attendance.presence.clients(ClientInfo::is_shown);
                Answer::Presence(self.home_mut().map_or_else(Vec::new, shown))
            }
            Query::PresenceStats => {
                let home = self.home_mut();
                let (clients, users) = home.map_or((0, 0), |it| it.attendance.presence.stats());
                Answer::PresenceStats { clients, users }
            }
            Query::History(filter) => self.history(filter),
            Query::Recover(since) => match (&self.stream, self.recover(since, node)) {
                (Some(stream), Some(missed)) => Answer::History(missed, stream.position()),
                _ => Answer::Failed(ErrorCode::UnrecoverablePosition),
            },
            Query::RemoveHistory => self.remove_history(node),
        }
    }

    fn recover(&self, since: &Since, node: &Node) -> Option<Vec<Arc<Publication>>> {
        let limit = node.settings.recovery_limit;
        self.stream.as_ref()?.recover(since, None, &self.options, limit)
    }

    fn history(&self, filter: &HistoryFilter) -> Answer {
        let Some(stream) = &self.stream else { return Answer::Failed(ErrorCode::NotAvailable) };
        let since = match &filter.since {
            None => None,
            Some(since) if since.offset == 0 && filter.reverse => {
                return Answer::Failed(ErrorCode::BadRequest);
            }
            Some(since) => {
                let of_this_stream = stream.resolve(since).is_some()
                    || since.epoch.is_empty()
                    || since.epoch == stream.position().epoch.to_string();
                if !of_this_stream {
                    return Answer::Failed(ErrorCode::UnrecoverablePosition);
                }
                Some(since.offset)
            }
        };
        let mut page = stream.history.page(since, filter.reverse, filter.limit);
        page.truncate(fitting(&page));
        Answer::History(page, stream.position())
    }

    fn remove_history(&mut self, node: &mut Node) -> Answer {
        let Some(stream) = &mut self.stream else { return Answer::Failed(ErrorCode::NotAvailable) };
        node.memory.add(-stream.history.clear());
        let position = stream.position();
        self.send_all(self.listeners(), RoomMessage::HistoryRemoved, node);
        Answer::Published(Some(position))
    }
}

/// How many of the publications fit into one message; one at least.
fn fitting(page: &[Arc<Publication>]) -> usize {
    let mut bytes = 0;
    let fits = |it: &&Arc<Publication>| {
        bytes += it.weight();
        bytes <= MAX_PUBLICATIONS
    };
    page.iter().take_while(fits).count().max(1)
}

/// What a mirror that stands at `position` needs to follow `stream`.
pub(super) fn catch_up(stream: Option<&Stream>, position: Option<Position>, now: Time) -> Catchup {
    let Some(stream) = stream else { return Catchup::Nothing };
    // A mirror follows within an epoch; into a new one it goes by a snapshot, which has the lineage.
    let same_epoch = position.filter(|it| it.epoch == stream.position().epoch);
    let follow = same_epoch.and_then(|position| {
        let missed = stream.after(position)?.len();
        let newest = stream.history.newest(now, MAX_PUBLICATIONS);
        let missed = newest.get(newest.len().checked_sub(missed)?..)?.to_vec();
        Some(Catchup::Follow {
            position: stream.position(),
            first: stream.history.first(),
            missed,
            repeats: stream.repeats(position.offset, now),
        })
    });
    follow.unwrap_or_else(|| Catchup::Afresh(stream.snapshot(now, MAX_PUBLICATIONS)))
}
