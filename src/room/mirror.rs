//! What a mirror does: listen to the home, keep a copy of the stream, serve this node's subscribers.
//!
//! A successor is a mirror as well: one that the home has invited, that listens without subscribers, and
//! that says what it has.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    messages::{Begin, End, Item, Page, Refused, RoomMessage, SlotMessage},
    node::Node,
    presence::Presence,
    requests::Asker,
    room::{Role, Room},
    stream::{Entry, Stream},
    transfer::{Incoming, Outgoing, What},
    types::{
        Answer, ClientId, ClientInfo, Epoch, Event, HomeRequest, Query, Recovery, Subscribe,
        Subscribed,
    },
};
use crate::{
    cluster::{node::NodeId, slots::Term},
    runtime::time::Time,
};

/// How long after a refusal the same home is not asked again: its view may be about to change.
const BACKOFF: Duration = Duration::from_millis(50);

/// How long a home that has a lesser copy than this node is given to hear of it.
const UNHEARD: Duration = Duration::from_millis(200);

/// How long an ordinary mirror keeps a copy that is newer than the home's: after a cut, homes hear of each other's
/// rooms one link after the other.
const MAX_UNHEARD: Duration = Duration::from_secs(1);

/// How a node listens to a room's home.
#[derive(Debug)]
pub struct Mirror {
    /// The home.
    pub(super) home: NodeId,
    state: State,
    /// The home wants this node to be a successor.
    invited: bool,
    /// When the last subscriber left; after a while the mirror detaches.
    unused: Option<Time>,
    /// The home is not asked before.
    not_before: Time,
    /// The copy that is on its way.
    incoming: Option<Box<Incoming>>,
    /// A successor has said what it has.
    said: bool,
    /// Until when it does not take a lesser copy of the home's; none: none was offered.
    keeps_until: Time,
}

/// How far it is. Another link than the one named ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
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

    fn is_live(&self, node: &Node) -> bool {
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
    fn keep_for(&mut self, time: Duration, now: Time) -> Time {
        if self.keeps_until == Time::default() {
            self.keeps_until = now + time;
        }
        self.keeps_until
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
        let waits = matches!(self.role, Role::Guest) && self.owed && node.is_draining();
        waits && self.held().is_some()
    }

    /// Offers the home what this node came to hold only after it had answered the home's claim, as if in answer to it.
    fn offer_what_is_owed(&mut self, home: NodeId, node: &mut Node) {
        if self.is_to_be_offered(node)
            && let Some(held) = self.held()
        {
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
        (mirror.not_before, mirror.incoming, mirror.said) = (Time::default(), None, false);
        let invited = mirror.invited;
        let have = self.stream.as_ref().map(Stream::have);
        self.send_to(home, RoomMessage::Attach { id, have, invited }, node);
        self.outgoing.retain(|it| !matches!(it.what, What::Clients(_)));
        if self.local.clients.is_empty() {
            let none = RoomMessage::Clients { id, clients: Vec::new(), last: true };
            return self.send_to(home, none, node);
        }
        let mut ids: Vec<ClientId> = self.local.clients.keys().copied().collect();
        ids.sort_unstable();
        let what = What::Clients(ids.into_iter());
        self.outgoing.push(Outgoing { to: home, link, id, what });
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
        if self.is_ahead(&subscribe) {
            // It waits until this node knows what a majority has.
            return self.waiting.push_back((subscribe, until));
        }
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
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
        let here = self.stream.as_ref().map(Stream::visible);
        if self.live_home(node).is_none() {
            // The home was lost or has changed meanwhile: begin again with the current one.
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

    /// The home says something. What anyone else says as if it were home is out of date.
    pub(super) fn follow(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        if let RoomMessage::Deliver { count, .. } = message {
            let term = node.slots.promised(self.slot);
            if (Term { count, node: from }) < term {
                let refused = RoomMessage::NotHome(Refused::Delivery(term));
                return self.send_to(from, refused, node);
            }
        }
        let Role::Mirror(mirror) = &mut self.role else { return };
        if mirror.home != from {
            return;
        }
        match message {
            RoomMessage::Dismiss => self.dismissed(node),
            _ if !mirror.is_live(node) => {}
            RoomMessage::Deliver { count, epoch, entry } => {
                self.delivered(Term { count, node: from }, epoch, entry, node);
            }
            RoomMessage::Committed(offset) => self.commit(offset, node),
            RoomMessage::Joined(at, info) => self.joined(at, info, node),
            RoomMessage::Left(info) => self.left(info, node),
            RoomMessage::HistoryRemoved => {
                if let Some(stream) = &mut self.stream {
                    node.memory.add(-stream.history.clear());
                }
            }
            _ => {}
        }
    }

    /// The home has other successors, and they have what this node has.
    fn dismissed(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.invited = false;
        (self.owed, self.given) = (false, None);
        if !self.options.join_leave {
            self.present = None;
        }
        if self.local.is_empty() {
            let (home, attached) = (mirror.home, mirror.is_attached(node));
            self.role = Role::Guest;
            self.forget_copy(node);
            if attached {
                self.send_to(home, RoomMessage::Detach, node);
            }
        }
    }

    /// Whether a mirror keeps presence: successors do, and those whose members get joins and leaves.
    fn keeps_presence(&self) -> bool {
        let invited = matches!(&self.role, Role::Mirror(mirror) if mirror.invited);
        invited || self.options.join_leave
    }

    fn joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        let mut new = true;
        if self.keeps_presence() {
            new = self.present.get_or_insert_default().join(at, info.clone());
            self.attendance += 1;
        }
        if new && info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Join(info), node);
        }
    }

    fn left(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        let mut known = true;
        if self.keeps_presence() {
            let left = self.present.as_mut().and_then(|present| present.remove(info.client));
            known = left.is_some();
            self.attendance += 1;
        }
        if known && info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Leave(info), node);
        }
    }

    /// A successor's word to its home, which acknowledges by it.
    fn say_what_is_here(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        // Quorum: a run that may have forgotten what it has answered to claims counts for nothing.
        if mirror.invited && mirror.is_live(node) && node.slots.is_informed(self.slot) {
            mirror.said = true;
            let home = mirror.home;
            self.send_to(home, RoomMessage::Has(self.top()), node);
        }
    }

    fn delivered(&mut self, term: Term, epoch: Option<Epoch>, entry: Entry, node: &mut Node) {
        let publication = entry.publication.clone();
        let Some(stream) = &mut self.stream else {
            return self.deliver_local(Event::Publication(publication), node);
        };
        if publication.offset == 0 {
            // It has no place, but a repeat of it has to be known.
            let top = stream.history.top();
            stream.remember(entry.key.as_deref(), entry.forward, top, node.now);
            if entry.key.is_some() {
                node.memory.keyed(&self.name, node.now);
            }
            return self.deliver_local(Event::Publication(publication), node);
        }
        let here = stream.position();
        if Some(here.epoch) != epoch || publication.offset > here.offset + 1 {
            // Nothing is lost on a link, so this can't be; if it is, say so and attach again.
            return self.lose_track();
        }
        if publication.offset <= here.offset {
            return;
        }
        if entry.key.is_some() {
            node.memory.keyed(&self.name, node.now);
        }
        let change = stream.append(entry, term, &self.options, node.now);
        let gated = stream.committed().is_some();
        node.memory.kept(&self.name, publication.offset, change);
        self.say_what_is_here(node);
        match gated {
            true => self.uncommitted.get_or_insert_default().push_back(publication),
            false => self.deliver_local(Event::Publication(publication), node),
        }
    }

    fn lose_track(&mut self) {
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.state = State::Detached;
        }
    }

    /// A page of the home's copy has come.
    pub(super) fn page_for_mirror(&mut self, from: NodeId, page: Page, node: &mut Node) {
        let own = self.held().map(|held| held.standing);
        let Role::Mirror(mirror) = &mut self.role else { return };
        let State::Attaching { id, link } = mirror.state else { return };
        if mirror.home != from || id != page.id || node.link(from) != Some(link) {
            return;
        }
        if let Some(begin) = page.begin {
            if let Begin::Afresh { standing, .. } = &begin
                && own
                    .is_some_and(|own| own.is_newer_than(standing) && !own.is_level_with(standing))
                && (self.owed || node.now < mirror.keep_for(MAX_UNHEARD, node.now))
            {
                // The home has not heard yet what is held here, and is about to: until then it must not be lost.
                mirror.state = State::Detached;
                mirror.not_before = node.now + UNHEARD;
                return;
            }
            if let Begin::Follow { first } = begin
                && let Some(stream) = &mut self.stream
            {
                node.memory.add(-stream.history.drop_through(first.saturating_sub(1)));
            }
            mirror.incoming = Some(Box::new(Incoming::begin(begin)));
        }
        let Some(mut incoming) = mirror.incoming.take() else { return };
        if incoming.follows {
            incoming.others.extend(self.follow_page(page.items, node));
        } else {
            incoming.take(page.items, &self.options, node.now);
        }
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.incoming = Some(incoming);
        }
        if let Some(end) = page.end {
            self.copy_is_here(id, link, end, node);
        }
    }

    /// Takes over what follows this node's copy. Returns the clients among it.
    fn follow_page(&mut self, items: Vec<Item>, node: &mut Node) -> Vec<Item> {
        let (now, mut clients) = (node.now, Vec::new());
        for item in items {
            let Some(stream) = &mut self.stream else { break };
            match &item {
                Item::Client(..) => clients.push(item),
                Item::Publication(_, publication) => {
                    let (publication, top) = (publication.clone(), stream.history.top());
                    if publication.offset <= top {
                        continue;
                    }
                    let gap = publication.offset > top + 1;
                    let change = stream.take(item, &self.options, now);
                    let gated = stream.committed().is_some();
                    node.memory.kept(&self.name, publication.offset, change);
                    if gap {
                        // It was dropped at the home while it was on its way.
                        self.deliver_local(Event::InsufficientState, node);
                    }
                    match gated {
                        true => self.uncommitted.get_or_insert_default().push_back(publication),
                        false => self.deliver_local(Event::Publication(publication), node),
                    }
                }
                _ => drop(stream.take(item, &self.options, now)),
            }
        }
        clients
    }

    /// All of the home's copy is here.
    fn copy_is_here(&mut self, id: u64, link: u64, end: End, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.state = State::Live { id, link };
        let Some(mut incoming) = mirror.incoming.take() else { return };
        let stream = if incoming.follows { &mut self.stream } else { &mut incoming.stream };
        let mut whole = true;
        if let (Some(stream), Some(have)) = (stream, end.have) {
            whole = stream.position() == have.position;
            stream.reach(have.term);
        }
        incoming.committed = node.is_quorum().then_some(end.committed);
        let with_presence = self.keeps_presence();
        if with_presence {
            // Without knowing who is there, it is no copy of that.
            self.attendance = end.attendance;
        }
        self.install(*incoming, with_presence, node);
        if !whole {
            // Its last publications were dropped at the home while it was on its way.
            self.deliver_local(Event::InsufficientState, node);
            self.forget_stream(node);
            return self.lose_track();
        }
        self.say_what_is_here(node);
    }

    /// Puts a copy in the place of what is here. Subscribers who watch their position must learn a new epoch, so
    /// they subscribe again, and recover if that line holds what they have; the others get what they missed, if
    /// it does. With `all`, who is there is a part of it.
    pub(super) fn install(&mut self, incoming: Incoming, all: bool, node: &mut Node) {
        let Incoming { stream, others, follows, committed, .. } = incoming;
        if !follows {
            // What this node gave is no more.
            self.given = None;
            self.begin_fetches_again(node);
            let old = self.forget_stream(node).map(|old| old.visible());
            if let Some(mut new) = stream {
                if let Some(committed) = committed {
                    let same = old.filter(|old| old.epoch == new.position().epoch);
                    new.commit(committed.max(same.map_or(0, |old| old.offset)));
                }
                node.memory.kept(&self.name, new.history.top(), new.history.bytes() as isize);
                self.stream = Some(new);
                if matches!(self.role, Role::Mirror(_)) {
                    self.tell_of_new_stream(old, node);
                }
            }
        }
        self.keep_uncommitted();
        if let Some(committed) = committed {
            self.commit(committed, node);
        }
        if !all {
            return;
        }
        let mut present = Presence::default();
        for item in others {
            match item {
                Item::Client(at, info) => drop(present.join(at, info)),
                Item::Key(key) => {
                    node.memory.keyed(&self.name, node.now);
                    self.keys.get_or_insert_default().learn(vec![key], node.now);
                }
                _ => {}
            }
        }
        let present = (!present.is_empty()).then(|| Box::new(present));
        let before = std::mem::replace(&mut self.present, present);
        self.tell_who_came_and_went(before, node);
    }

    /// Delivers the joins and leaves that this node missed while it was not attached.
    fn tell_who_came_and_went(&mut self, before: Option<Box<Presence>>, node: &mut Node) {
        if !self.options.join_leave || self.local.is_empty() {
            return;
        }
        let (before, now) = (before.unwrap_or_default(), self.present.take().unwrap_or_default());
        let announced = |it: &ClientInfo| it.is_announced(true);
        for gone in before.clients(|it| announced(it) && !now.has(it.client)) {
            self.deliver_local(Event::Leave(gone), node);
        }
        for new in now.clients(|it| announced(it) && !before.has(it.client)) {
            self.deliver_local(Event::Join(new), node);
        }
        self.present = (!now.is_empty()).then_some(now);
    }

    fn tell_of_new_stream(&mut self, old: Option<super::types::Position>, node: &mut Node) {
        let (Some(old), Some(stream)) = (old, &self.stream) else { return };
        let missed = stream.after(old);
        // Where takeovers keep the epoch, nothing that members have had is missing in it.
        let complete = stream.committed().is_some()
            && old.epoch == stream.position().epoch
            && missed.is_some();
        if !complete {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
    }

    /// Quorum: whether a client has seen more elsewhere than members may have here, as far as this node knows.
    pub(super) fn is_ahead(&self, subscribe: &Subscribe) -> bool {
        let (Some(since), Some(stream)) = (&subscribe.recover, &self.stream) else { return false };
        stream.resolve(since).is_some_and(|at| at.offset > stream.visible().offset)
    }

    /// Quorum: what members may not have yet, of the stream that is here now.
    pub(super) fn keep_uncommitted(&mut self) {
        let stream = self.stream.as_ref().filter(|it| it.committed().is_some());
        let waiting: VecDeque<_> = stream.map(Stream::uncommitted).unwrap_or_default().into();
        self.uncommitted = (!waiting.is_empty()).then_some(waiting);
    }

    /// Quorum: a majority has the stream up to `offset`, so members may have it.
    pub(super) fn commit(&mut self, offset: u64, node: &mut Node) {
        if let Some(stream) = &mut self.stream {
            stream.commit(offset);
        }
        while let Some(waiting) = &mut self.uncommitted
            && waiting.front().is_some_and(|it| it.offset <= offset)
        {
            let Some(publication) = waiting.pop_front() else { break };
            self.deliver_local(Event::Publication(publication), node);
        }
        self.uncommitted.take_if(|it| it.is_empty());
    }
}
