//! What a mirror does: attach to the home, forward requests to it, serve this node's subscribers. What it takes from
//! the home is in [`super::following`].
//!
//! A successor is a mirror as well: one that the home has invited, that listens without subscribers, and
//! that says what it has.

use std::time::Duration;

use super::{
    messages::{Refused, RoomMessage, SlotMessage},
    node::Node,
    requests::Asker,
    room::{Role, Room},
    stream::Stream,
    transfer::{Incoming, Outgoing, What},
    types::{Answer, ClientId, HomeRequest, Query, Recovery, Subscribe, Subscribed},
};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// How long after a refusal the same home is not asked again: its view may be about to change.
const BACKOFF: Duration = Duration::from_millis(50);

/// How often a node that is about to leave says what it holds for a room's home to take.
pub(super) const OFFER_AGAIN: Duration = Duration::from_millis(500);

/// How a node listens to a room's home.
#[derive(Debug)]
pub struct Mirror {
    /// The home.
    pub(super) home: NodeId,
    pub(super) state: State,
    /// The home wants this node to be a successor.
    pub(super) invited: bool,
    /// When the last subscriber left; after a while the mirror detaches.
    unused: Option<Time>,
    /// The home is not asked before.
    pub(super) not_before: Time,
    /// The copy that is on its way.
    pub(super) incoming: Option<Box<Incoming>>,
    /// A successor has said what it has.
    pub(super) said: bool,
    /// Until when it does not take a lesser copy of the home's; none: none was offered.
    keeps_until: Time,
    /// When the home was told last what is held here, as long as it is to be offered.
    offered: Time,
}

/// How far it is. Another link than the one named ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Detached,
    /// It has asked under this number, and ignores what was said to an earlier one.
    Attaching {
        id: u64,
        link: u64,
    },
    Live {
        id: u64,
        link: u64,
    },
}

impl Mirror {
    fn new(home: NodeId) -> Self {
        Self {
            home,
            state: State::Detached,
            invited: false,
            unused: None,
            not_before: Time::default(),
            incoming: None,
            said: false,
            keeps_until: Time::default(),
            offered: Time::default(),
        }
    }

    /// A successor that has told its home that it has everything.
    pub(super) fn successor(home: NodeId, id: u64, link: u64) -> Self {
        let state = State::Live { id, link };
        Self { state, invited: true, said: true, ..Self::new(home) }
    }

    /// Of a successor in which nothing is under way: under which number it has attached, and on which link.
    pub(super) fn attachment(&self, node: &Node) -> Option<(u64, u64)> {
        let is_at_rest = self.invited && self.said && self.incoming.is_none();
        match self.state {
            State::Live { id, link } if is_at_rest && self.is_live(node) => Some((id, link)),
            _ => None,
        }
    }

    /// Whether the home knows of this mirror, which then has to report who comes and goes.
    pub(super) fn is_attached(&self, node: &Node) -> bool {
        match self.state {
            State::Detached => false,
            State::Attaching { link, .. } | State::Live { link, .. } => {
                node.link(self.home) == Some(link)
            }
        }
    }

    pub(super) fn is_live(&self, node: &Node) -> bool {
        matches!(self.state, State::Live { .. }) && self.is_attached(node)
    }

    /// Whether it is a successor.
    pub(super) fn is_invited(&self) -> bool {
        self.invited
    }

    /// The home says that it is none (any more).
    pub(super) fn refused(&mut self, from: NodeId, attach: u64, now: Time) {
        let asked = matches!(
            self.state,
            State::Attaching { id, .. } | State::Live { id, .. } if id == attach
        );
        if self.home == from && asked {
            self.state = State::Detached;
            self.not_before = now + BACKOFF;
        }
    }

    /// Until when a lesser copy of the home's is not taken: for so long from the first that is offered.
    pub(super) fn keep_for(&mut self, time: Duration, now: Time) -> Time {
        if self.keeps_until == Time::default() {
            self.keeps_until = now + time;
        }
        self.keeps_until
    }

    /// When what is held here may be offered.
    pub(super) fn offer_due(&self) -> Time {
        self.offered + OFFER_AGAIN
    }

    pub(super) fn next_due(&self, node: &Node) -> Option<Time> {
        let retry = (self.state == State::Detached && self.not_before > node.now)
            .then_some(self.not_before);
        [self.unused, retry].into_iter().flatten().min()
    }
}

impl Room {
    fn live_home(&self, node: &Node) -> Option<NodeId> {
        match &self.role {
            Role::Mirror(mirror) if mirror.is_live(node) => Some(mirror.home),
            _ => None,
        }
    }

    /// Attaches, detaches, sends what waits for the home, and lets in who waits for the mirror.
    pub(super) fn settle_mirror(&mut self, node: &mut Node) {
        let Some(home) = self.owner(node).filter(|home| *home != node.me) else { return };
        self.turn_to(home, node);
        self.offer_what_is_owed(home, node);
        if !self.local.is_empty() || matches!(&self.role, Role::Mirror(it) if it.invited) {
            self.listen(home, node);
        } else {
            self.linger(node);
        }
        self.forward(home, node);
        if self.live_home(node).is_some() {
            for (subscribe, until) in std::mem::take(&mut self.waiting) {
                self.admit_at_mirror(subscribe, until, node);
            }
            if matches!(&self.role, Role::Mirror(mirror) if !mirror.said) {
                self.say_what_is_here(node);
            }
        }
    }

    /// Whether this node can't leave until the home, which may not know of it, has what is held here.
    pub(super) fn is_to_be_offered(&self, node: &Node) -> bool {
        let is_of_no_successor = match &self.role {
            Role::Guest => true,
            Role::Mirror(mirror) => !mirror.invited,
            Role::Home(_) | Role::Opening(_) => false,
        };
        is_of_no_successor && self.owed && node.is_draining() && self.held().is_some()
    }

    /// Offers the home what this node came to hold only after it had answered the home's claim, as if in answer to it.
    fn offer_what_is_owed(&mut self, home: NodeId, node: &mut Node) {
        if let Role::Mirror(mirror) = &self.role
            && node.now < mirror.offer_due()
        {
            return;
        }
        if self.is_to_be_offered(node)
            && let Some(held) = self.held()
        {
            if let Role::Mirror(mirror) = &mut self.role {
                mirror.offered = node.now;
            }
            let (rooms, ended, unsure) = (vec![(self.name.clone(), held)], vec![], vec![]);
            let offer = SlotMessage::Inventory { claim: 0, rooms, ended, unsure, last: false };
            node.send_about_slots(vec![home], offer);
        }
    }

    /// Makes the mirror one of `home`.
    fn turn_to(&mut self, home: NodeId, node: &mut Node) {
        let Role::Mirror(mirror) = &self.role else { return };
        if mirror.home == home {
            return;
        }
        let (old, attached) = (mirror.home, mirror.is_attached(node));
        // If the old home has died, this is the copy that the next one needs.
        self.owed |= mirror.invited;
        self.role = Role::Mirror(Box::new(Mirror::new(home)));
        self.outgoing.retain(|it| !matches!(it.what, What::Clients(_)));
        if attached {
            // It may live on, and not know yet that it is none.
            self.send_to(old, RoomMessage::Detach, node);
        }
    }

    fn listen(&mut self, home: NodeId, node: &mut Node) {
        let keeps_on_disk = self.options.is_on_disk() && self.copy().is_some();
        if matches!(self.role, Role::Guest) {
            self.role = Role::Mirror(Box::new(Mirror::new(home)));
        }
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.unused = None;
        let Some(link) = node.link(home) else { return };
        if mirror.is_attached(node) || node.now < mirror.not_before {
            return;
        }
        let id = node.next_id();
        mirror.state = State::Attaching { id, link };
        // Who keeps a copy on disk until others have it is as good as a successor until then. The home may not know that, and
        // others are sent the end of what is on disk, which would take the copy's place.
        mirror.invited |= self.owed && keeps_on_disk;
        (mirror.not_before, mirror.incoming, mirror.said) = (Time::default(), None, false);
        let invited = mirror.invited;
        let stream = if invited { self.copy() } else { self.stream.as_deref() };
        // What another copy has replaced on disk, and never came as a whole, is to come again as a whole.
        let have = stream.filter(|it| !it.is_replaced()).map(Stream::have);
        self.send_to(home, RoomMessage::Attach { id, have, invited }, node);
        self.outgoing.retain(|it| !matches!(it.what, What::Clients(_)));
        if self.local.clients.is_empty() {
            let none = RoomMessage::Clients { id, clients: Vec::new(), last: true };
            return self.send_to(home, none, node);
        }
        let mut ids: Vec<ClientId> = self.local.clients.keys().copied().collect();
        ids.sort_unstable();
        let what = What::Clients(ids.into_iter());
        self.outgoing.push(Outgoing::new(home, link, id, what));
        node.has_pages(home, &self.name);
    }

    /// No subscriber is left. One may come back soon, so stay attached for a while.
    fn linger(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        let until = *mirror.unused.get_or_insert(node.now + node.settings.linger);
        if node.now < until && mirror.is_attached(node) {
            return;
        }
        let (home, attached) = (mirror.home, mirror.is_attached(node));
        self.role = Role::Guest;
        self.outgoing.retain(|it| !matches!(it.what, What::Clients(_)));
        // What it knows may be all that is left if the home dies now, so it is kept for a while.
        self.last_used = node.now;
        if attached {
            self.send_to(home, RoomMessage::Detach, node);
        }
    }

    /// The home wants a copy kept here. One that is not the home as this node sees it asks again.
    pub(super) fn invited(&mut self, from: NodeId, node: &mut Node) {
        if self.owner(node) != Some(from) {
            if node.is_quorum() {
                // This node has answered a later claim, which may have come to nothing. (Without a quorum owners that meet make
                // out whose the slot is.)
                let refused = Refused::Delivery(node.slots.promised(self.slot));
                self.send_to(from, RoomMessage::NotHome(refused), node);
            }
            return;
        }
        self.last_used = node.now;
        if matches!(self.role, Role::Guest) {
            self.role = Role::Mirror(Box::new(Mirror::new(from)));
        }
        self.turn_to(from, node);
        if let Role::Mirror(mirror) = &mut self.role
            && !std::mem::replace(&mut mirror.invited, true)
        {
            // It attached as an ordinary mirror: attach again, to get what successors get.
            mirror.state = State::Detached;
        }
    }

    fn forward(&mut self, home: NodeId, node: &mut Node) {
        let Some(link) = node.link(home) else { return };
        let (repeatable, now) = (self.options.keeps_history(), node.now);
        let next = self.requests.next((home, link), repeatable, now, || node.next_id());
        let messages: Vec<RoomMessage> = (next.into_iter())
            .map(|(run, seq, it)| RoomMessage::Request { id: it.id, run, seq, ask: it.ask.clone() })
            .collect();
        messages.into_iter().for_each(|message| self.send_to(home, message, node));
    }

    fn admit_at_mirror(&mut self, subscribe: Subscribe, until: Time, node: &mut Node) {
        if self.is_too_early(&subscribe) {
            return self.waiting.push_back((subscribe, until));
        }
        let stream = self.stream.as_deref().filter(|_| self.options.keeps_history());
        let recovery = match (&subscribe.recover, stream) {
            (None, _) => Recovery::NotAsked,
            (Some(_), None) => Recovery::Failed,
            (Some(since), Some(stream)) => {
                let limit = node.settings.recovery_limit;
                match stream.recover(since, subscribe.filter(), &self.options, limit) {
                    Some(missed) => Recovery::Recovered(missed),
                    // The home's ring may reach further back than this one, and a client that comes from
                    // another node may have what is still on its way to this one.
                    None if stream.may_hold(since, &self.options) => {
                        let ask = HomeRequest::Query(Query::Recover(since.clone()));
                        self.ask(ask, Asker::Subscriber(Box::new(subscribe)), node);
                        let Some(home) = self.live_home(node) else { return };
                        return self.forward(home, node);
                    }
                    None => Recovery::Failed,
                }
            }
        };
        let position = stream.map(Stream::visible);
        self.admit(subscribe, Subscribed { position, recovery }, node);
    }

    /// The home has said what a subscriber missed. Links keep order, so its answer ends where this mirror
    /// stands now.
    pub(super) fn admit_recovered(
        &mut self,
        subscribe: Subscribe,
        answer: Answer,
        node: &mut Node,
    ) {
        if !self.local.contains(subscribe.socket) {
            return;
        }
        let here = self.stream.as_deref().map(Stream::visible);
        if self.live_home(node).is_none() || self.is_too_early(&subscribe) {
            // The home was lost or has changed meanwhile: begin again with the current one. Or that is new, and does not
            // know yet that a majority has what its predecessor has given to this client.
            let until = node.now + node.settings.publish_timeout;
            self.waiting.push_back((subscribe, until));
            return;
        }
        let recovery = match answer {
            Answer::History(missed, position) if Some(position) == here => {
                Recovery::Recovered(missed)
            }
            _ => Recovery::Failed,
        };
        self.admit(subscribe, Subscribed { position: here, recovery }, node);
    }

    /// The home has other successors, and they have what this node has.
    pub(super) fn dismissed(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.invited = false;
        (self.owed, self.given) = (false, None);
        if !self.options.join_leave {
            self.present = None;
        }
        if !self.local.is_empty() {
            return self.stop_logging(node);
        }
        let Role::Mirror(mirror) = &self.role else { return };
        let (home, attached) = (mirror.home, mirror.is_attached(node));
        self.role = Role::Guest;
        self.forget_copy(node);
        if attached {
            self.send_to(home, RoomMessage::Detach, node);
        }
    }
}
