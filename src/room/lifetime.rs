//! When a room is due, how long the node keeps it, and how it is forgotten.

use std::time::Duration;

use super::{
    idempotency,
    logged::Logged,
    messages::RoomMessage,
    mirror::OFFER_AGAIN,
    node::Node,
    room::{Role, Room},
    stream::Stream,
    transfer::Outgoing,
};
use crate::{
    cluster::{node::NodeId, slots::Ownership},
    runtime::time::Time,
};

/// How long a room that nobody uses and in which nothing was ever said keeps its epoch, and how long a copy
/// is kept that no home has asked for.
const UNUSED: Duration = Duration::from_secs(60);

impl Room {
    /// When something will be due if nothing comes in.
    pub fn next_due(&self, node: &Node) -> Option<Time> {
        let waiting = self.waiting.front().map(|(_, until)| *until);
        let logged = self.stream.as_deref().and_then(|it| it.logged.as_deref());
        let incoming = match &self.role {
            Role::Mirror(mirror) => mirror.incoming.as_deref(),
            Role::Opening(opening) => opening.incoming(),
            _ => None,
        };
        let copied = incoming.and_then(|it| it.logged.as_deref());
        let log = logged.into_iter().chain(copied).filter_map(Logged::next_due).min();
        let expiry = self.stream.as_deref().and_then(|stream| stream.next_expiry(&self.options));
        let keys = self.keys.as_ref().and_then(|keys| keys.next_expiry());
        let role = match &self.role {
            Role::Home(home) => self.home_due(home, node),
            Role::Mirror(mirror) if self.is_to_be_offered(node) => {
                mirror.next_due(node).into_iter().chain([mirror.offer_due()]).min()
            }
            Role::Mirror(mirror) => mirror.next_due(node),
            Role::Guest if self.is_to_be_offered(node) => Some(node.now + OFFER_AGAIN),
            Role::Opening(opening) => opening.next_due(),
            Role::Guest => None,
        };
        let repairs = logged.and_then(|it| it.repairs.as_deref()?.next_due());
        let copies = self.outgoing.iter().filter_map(Outgoing::again_at).min();
        let all = [self.requests.next_due(), waiting, expiry, keys, role, log, repairs, copies];
        all.into_iter().chain([self.keep_until(node.settings.linger)]).flatten().min()
    }

    /// Until when the node keeps the room for nobody; none while it is in use.
    pub(super) fn keep_until(&self, linger: Duration) -> Option<Time> {
        let said = self.stream.as_deref().is_some_and(|stream| stream.history.top() > 0);
        let keep = match &self.role {
            _ if self.is_needed() || !self.outgoing.is_empty() => return None,
            Role::Opening(_) | Role::Mirror(_) => return None,
            Role::Home(home) if !self.is_idle_home(home) => return None,
            // A group that was removed.
            Role::Home(home) if home.group().is_some_and(|it| it.floor().is_none()) => UNUSED,
            Role::Home(home) if said => {
                home.empty_map_ttl().unwrap_or(self.options.history_meta_ttl)
            }
            Role::Guest if self.owed && self.holds_something() => {
                self.options.history_meta_ttl.max(UNUSED)
            }
            Role::Home(_) if self.options.keeps_history() => UNUSED,
            Role::Guest if self.stream.is_some() || self.present.is_some() => UNUSED,
            Role::Home(_) | Role::Guest if self.keys.is_some() => idempotency::WINDOW,
            // Whoever has attached may be about to let its first subscriber in.
            Role::Home(home) if home.has_listeners() => linger,
            Role::Home(_) | Role::Guest => Duration::ZERO,
        };
        Some(self.last_used + keep)
    }

    /// Since when nobody uses the room; none while someone does.
    pub(super) fn idle_since(&self) -> Option<Time> {
        // What is on disk would have to go from there too.
        let on_disk = self.stream.as_deref().is_some_and(|it| it.logged.is_some());
        // Nor is a group forgotten because nobody consumes, or a map because nobody looks.
        self.keep_until(Duration::ZERO)
            .filter(|_| !on_disk && !self.options.is_made_of_changes())
            .map(|_| self.last_used)
    }

    /// Whether the node can forget the room without anyone noticing.
    pub fn is_over(&self, node: &Node) -> bool {
        self.keep_until(node.settings.linger).is_some_and(|until| until <= node.now)
    }

    /// The node forgets the room.
    pub fn end(&mut self, node: &mut Node) {
        if let Role::Home(home) = &self.role {
            node.send_to(home.replication.successors(), &self.name, RoomMessage::Dismiss);
            node.send_to(home.holders(), &self.name, RoomMessage::Release);
        }
        node.fetches.end(&self.name);
        self.forget_stream(node);
    }

    /// Lets go of the stream. Returns it.
    pub(super) fn forget_stream(&mut self, node: &mut Node) -> Option<Stream> {
        self.stop_logging(node);
        let old = *self.stream.take()?;
        node.memory.add(-(old.history.bytes() as isize));
        Some(old)
    }

    /// The home says that others have what is held here.
    pub(super) fn released(&mut self, from: NodeId, node: &mut Node) {
        let owner = Ownership::Theirs(Some(from));
        if node.slots.ownership(self.slot) != owner {
            return;
        }
        (self.owed, self.given) = (false, None);
        match &self.role {
            Role::Guest => self.forget_copy(node),
            Role::Mirror(mirror) if !mirror.is_invited() => self.stop_logging(node),
            _ => {}
        }
    }

    pub(super) fn forget_copy(&mut self, node: &mut Node) {
        self.forget_stream(node);
        (self.keys, self.present, self.uncommitted) = (None, None, None);
    }
}
