//! What a home answers from its stream and its presence.

use std::sync::Arc;

use super::{
    messages::RoomMessage,
    node::Node,
    room::Room,
    types::{Answer, ClientInfo, Failure, HistoryFilter, Publication, Query, Since},
};

/// The most bytes of publications in one answer, unless a single one is larger.
pub(super) const MAX_PUBLICATIONS: usize = 8 << 20;

impl Room {
    /// Answers a question that only the home can.
    pub(super) fn answer(&mut self, query: &Query, node: &mut Node) -> Answer {
        match query {
            Query::Presence => {
                let present = self.present.as_ref();
                let shown = present.map(|it| it.clients(ClientInfo::is_shown));
                Answer::Presence(shown.unwrap_or_default())
            }
            Query::PresenceStats => {
                let (clients, users) = self.present.as_ref().map_or((0, 0), |it| it.stats());
                Answer::PresenceStats { clients, users }
            }
            Query::Recover(since) => match (&self.stream, self.recover(since, node)) {
                (Some(stream), Some(missed)) => Answer::History(missed, stream.visible()),
                _ => Answer::Failed(Failure::UnrecoverablePosition),
            },
            // It is made of what would be read or removed.
            Query::History(_) | Query::RemoveHistory if self.options.map.is_some() => {
                Answer::Failed(Failure::NoHistory)
            }
            Query::History(filter) => self.history(filter),
            Query::RemoveHistory => self.remove_history(node),
        }
    }

    fn recover(&self, since: &Since, node: &Node) -> Option<Vec<Arc<Publication>>> {
        let limit = node.settings.recovery_limit;
        self.stream.as_deref()?.recover(since, None, &self.options, limit)
    }

    /// Whether a page of history can be told: it begins on this stream.
    pub(super) fn check_history(&self, filter: &HistoryFilter) -> Result<(), Failure> {
        let stream = self.stream.as_deref().ok_or(Failure::NoHistory)?;
        let Some(since) = &filter.since else { return Ok(()) };
        if since.offset == 0 && filter.reverse {
            return Err(Failure::BadPosition);
        }
        let of_this_stream = stream.resolve(since).is_some()
            || since.epoch.is_empty()
            || since.epoch == stream.position().epoch.to_string();
        if of_this_stream { Ok(()) } else { Err(Failure::UnrecoverablePosition) }
    }

    fn history(&self, filter: &HistoryFilter) -> Answer {
        if let Err(failure) = self.check_history(filter) {
            return Answer::Failed(failure);
        }
        let Some(stream) = &self.stream else { return Answer::Failed(Failure::NoHistory) };
        let since = filter.since.as_ref().map(|it| it.offset);
        let mut page = stream.page(since, filter.reverse, filter.limit);
        page.truncate(fitting(&page));
        Answer::History(page, stream.visible())
    }

    pub(super) fn remove_history(&mut self, node: &mut Node) -> Answer {
        let Some(stream) = &mut self.stream else { return Answer::Failed(Failure::NoHistory) };
        node.memory.add(-stream.history.clear());
        let position = stream.position();
        self.log_removal(node);
        self.tell_listeners(RoomMessage::HistoryRemoved, |_| true, node);
        Answer::Published(Some(position))
    }
}

/// How many of the publications fit into one message; one at least.
pub(super) fn fitting(page: &[Arc<Publication>]) -> usize {
    let mut bytes = 0;
    let fits = |it: &&Arc<Publication>| {
        bytes += it.weight();
        bytes <= MAX_PUBLICATIONS
    };
    page.iter().take_while(fits).count().max(1)
}
