//! What a mirror does: listen to the home, keep a copy of the stream, serve this node's subscribers.
//!
//! A successor is a mirror as well: one that the home has invited, that listens without subscribers, and
//! that says what it has.

use std::{sync::Arc, time::Duration};

use super::{
    activation::Former,
    attendance::Clients,
    node::Node,
    requests::Reply,
    room::{Role, Room},
    stream::{Entry, Snapshot, Stream},
    types::{Answer, Ask, ClientInfo, Epoch, Event, Query, Recovery, Subscribe, Subscribed},
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{Catchup, RoomMessage},
    runtime::time::Time,
};

/// How long after a refusal the same home is not asked again: its view may be about to change.
const BACKOFF: Duration = Duration::from_millis(50);
/// The most clients that an attach names; the others follow as joins.
const MAX_CLIENTS: usize = 10_000;

/// How a node listens to a room's home.
#[derive(Debug)]
pub struct Mirror {
    /// The home.
    pub(super) home: NodeId,
    state: State,
    /// The home wants this node to be a successor.
    invited: bool,
    /// A successor's knowledge of who is there of those whose going is announced.
    present: Option<Clients>,
    /// When the last subscriber left; after a while the mirror detaches.
    unused: Option<Time>,
    /// The home is not asked before.
    not_before: Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Detached,
    /// It has asked under this number, and ignores what was said to an earlier one.
    Attaching(u64),
    Live(u64),
}

impl Mirror {
    fn new(home: NodeId) -> Self {
        Self {
            home,
            state: State::Detached,
            invited: false,
            present: None,
            unused: None,
            not_before: Time::default(),
        }
    }

    /// Whether the home knows of this mirror, so that it has to be told who comes and goes.
    pub(super) fn attached(&self) -> bool {
        self.state != State::Detached
    }

    fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// Who was in the room, as far as the home told.
    pub(super) fn into_present(self) -> Option<Clients> {
        self.present.filter(|_| self.invited)
    }

    /// The link to `peer` is gone.
    pub(super) fn lose(&mut self, peer: NodeId) {
        if self.home == peer {
            self.state = State::Detached;
        }
    }

    /// The home says that it is none (any more).
    pub(super) fn refused(&mut self, from: NodeId, attach: u64, now: Time) {
        if self.home == from
            && matches!(self.state, State::Attaching(id) | State::Live(id) if id == attach)
        {
            self.state = State::Detached;
            self.not_before = now + BACKOFF;
        }
    }

    pub(super) fn view_changed(&mut self) {
        self.not_before = Time::default();
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        let retry = (self.state == State::Detached && self.not_before != Time::default())
            .then_some(self.not_before);
        [self.unused, retry].into_iter().flatten().min()
    }
}

impl Room {
    fn live_home(&self) -> Option<NodeId> {
        match &self.role {
            Role::Mirror(mirror) if mirror.is_live() => Some(mirror.home),
            _ => None,
        }
    }

    /// Attaches, detaches, sends what waits for the home, and lets in who waits for the mirror.
    pub(super) fn settle_mirror(&mut self, node: &mut Node) {
        let Some(home) = self.home(node).filter(|home| *home != node.me) else { return };
        self.turn_to(home, node);
        // Before it attaches: what it holds must not be taken for out of date by a home that has nothing.
        self.offer_if_former(home, node);
        if !self.local.is_empty() || matches!(&self.role, Role::Mirror(it) if it.invited) {
            self.listen(node);
        } else {
            self.linger(node);
        }
        if node.reaches(home) {
            self.forward(home, node);
        }
        if self.live_home().is_some() {
            for (subscribe, _) in std::mem::take(&mut self.waiting) {
                self.admit_at_mirror(subscribe, node);
            }
        }
    }

    /// Makes the mirror one of `home`.
    fn turn_to(&mut self, home: NodeId, node: &mut Node) {
        let Role::Mirror(mirror) = &self.role else { return };
        if mirror.home == home {
            return;
        }
        let (old, attached) = (mirror.home, mirror.attached());
        if mirror.invited && self.former.is_none() {
            // If the old home has died, this is the copy that the next one needs.
            self.former = Some(Former::new(false, node.now));
        }
        self.role = Role::Mirror(Box::new(Mirror::new(home)));
        if attached {
            // It may live on, and not know yet that it is none.
            self.send(old, RoomMessage::Detach, node);
        }
    }

    fn listen(&mut self, node: &mut Node) {
        if matches!(self.role, Role::Guest)
            && let Some(home) = self.home(node)
        {
            self.role = Role::Mirror(Box::new(Mirror::new(home)));
        }
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.unused = None;
        let home = mirror.home;
        if mirror.attached() || node.now < mirror.not_before || !node.reaches(home) {
            return;
        }
        let id = node.next_id();
        (mirror.state, mirror.not_before) = (State::Attaching(id), Time::default());
        let invited = mirror.invited;
        let position = self.stream.as_ref().map(Stream::position);
        let mut clients: Vec<_> = self.local.clients.values().cloned().collect();
        let rest = clients.split_off(clients.len().min(MAX_CLIENTS));
        self.send(home, RoomMessage::Attach { id, position, invited, clients }, node);
        rest.into_iter().for_each(|info| self.send(home, RoomMessage::Join(info), node));
    }

    /// No subscriber is left. One may come back soon, so stay attached for a while.
    fn linger(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        let until = *mirror.unused.get_or_insert(node.now + node.settings.linger);
        if node.now < until && mirror.attached() {
            return;
        }
        let (home, attached) = (mirror.home, mirror.attached());
        self.role = Role::Guest;
        // What it knows may be all that is left if the home dies now, so it is kept for a while.
        self.last_used = node.now;
        if attached {
            self.send(home, RoomMessage::Detach, node);
        }
    }

    /// The home wants a copy kept here. One that is not the home as this node sees it is told what is held
    /// here, if that is a home's, and asks again in any case.
    pub(super) fn invited(&mut self, from: NodeId, node: &mut Node) {
        match &mut self.role {
            Role::Home(_) => self.offer(from, node),
            Role::Activating(_) => {}
            Role::Guest | Role::Mirror(_) => {
                if self.home(node) != Some(from) {
                    return;
                }
                if matches!(self.role, Role::Guest) {
                    self.role = Role::Mirror(Box::new(Mirror::new(from)));
                }
                self.turn_to(from, node);
                if let Role::Mirror(mirror) = &mut self.role {
                    if !mirror.invited {
                        // It attached as an ordinary mirror: again, to be told what successors are told.
                        mirror.state = State::Detached;
                    }
                    mirror.invited = true;
                }
            }
        }
    }

    fn forward(&mut self, home: NodeId, node: &mut Node) {
        let (repeatable, now) = (self.options.keeps_history(), node.now);
        let next = self.requests.next(home, repeatable, now, || node.next_id());
        let messages: Vec<RoomMessage> = (next.into_iter())
            .map(|(run, seq, it)| RoomMessage::Request { id: it.id, run, seq, ask: it.ask.clone() })
            .collect();
        messages.into_iter().for_each(|message| self.send(home, message, node));
    }

    fn admit_at_mirror(&mut self, subscribe: Subscribe, node: &mut Node) {
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
                        let ask = Ask::Query(Query::Recover(since.clone()));
                        self.ask(ask, Reply::Subscriber(Box::new(subscribe)), node);
                        let Some(home) = self.live_home() else { return };
                        return self.forward(home, node);
                    }
                    None => Recovery::Failed,
                }
            }
        };
        let position = stream.map(Stream::position);
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
        let here = self.stream.as_ref().map(Stream::position);
        if self.live_home().is_none() {
            // The home was lost or has changed meanwhile: begin again with whoever is home.
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
        let Role::Mirror(mirror) = &mut self.role else { return };
        if mirror.home != from {
            return;
        }
        match message {
            RoomMessage::Attached { id, catchup, present }
                if mirror.state == State::Attaching(id) =>
            {
                mirror.state = State::Live(id);
                mirror.present = (mirror.invited)
                    .then(|| present.into_iter().map(|info| (info.client, info)).collect());
                self.former = None;
                self.catch_up(catchup, node);
                self.say_what_is_here(node);
            }
            RoomMessage::Dismiss => mirror.invited = false,
            _ if !mirror.is_live() => {}
            RoomMessage::Deliver(epoch, entry) => self.delivered(epoch, entry, node),
            RoomMessage::Joined(info) => self.joined(info, node),
            RoomMessage::Left(info) => self.left(info, node),
            RoomMessage::HistoryRemoved => {
                if let Some(stream) = &mut self.stream {
                    node.memory.add(-stream.history.clear());
                }
            }
            _ => {}
        }
    }

    /// Where a successor notes who is there.
    fn present_mut(&mut self) -> Option<&mut Clients> {
        match &mut self.role {
            Role::Mirror(mirror) => mirror.present.as_mut(),
            _ => None,
        }
    }

    fn joined(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        if let Some(present) = self.present_mut() {
            present.insert(info.client, info.clone());
        }
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Join(info), node);
        }
    }

    fn left(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        if let Some(present) = self.present_mut() {
            present.remove(&info.client);
        }
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Leave(info), node);
        }
    }

    /// A successor's word to its home, which acknowledges by it.
    fn say_what_is_here(&self, node: &mut Node) {
        let (Role::Mirror(mirror), Some(stream)) = (&self.role, &self.stream) else { return };
        if mirror.invited && mirror.is_live() {
            self.send(mirror.home, RoomMessage::Have(stream.position()), node);
        }
    }

    fn delivered(&mut self, epoch: Option<Epoch>, entry: Entry, node: &mut Node) {
        let publication = entry.publication.clone();
        let Some(stream) = &mut self.stream else {
            return self.deliver_local(Event::Publication(publication), node);
        };
        if publication.offset == 0 {
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
        let change = stream.append(entry, &self.options, node.now);
        node.memory.kept(&self.name, publication.offset, change);
        self.say_what_is_here(node);
        self.deliver_local(Event::Publication(publication), node);
    }

    fn lose_track(&mut self) {
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.state = State::Detached;
        }
    }

    fn catch_up(&mut self, catchup: Catchup, node: &mut Node) {
        match catchup {
            Catchup::Nothing => {}
            Catchup::Follow { position, first, missed, repeats } => {
                let Some(stream) = &mut self.stream else { return self.lose_track() };
                let (mut news, now) = (Vec::new(), node.now);
                for (age, publication) in missed {
                    if publication.offset <= stream.history.top() {
                        continue;
                    }
                    let (at, offset) = (now.ago(age), publication.offset);
                    let size = self.options.history_size;
                    let change = stream.history.push(publication.clone(), at, size);
                    node.memory.kept(&self.name, offset, change);
                    news.push(publication);
                }
                node.memory.add(-stream.history.drop_through(first.saturating_sub(1)));
                stream.learn(repeats, now);
                let there = stream.position() == position;
                news.into_iter().for_each(|it| self.deliver_local(Event::Publication(it), node));
                if !there {
                    self.deliver_local(Event::InsufficientState, node);
                    self.forget_stream(node);
                    self.lose_track();
                }
            }
            Catchup::Afresh(snapshot) => self.begin_afresh(snapshot, node),
        }
    }

    /// Lets go of the stream. Returns it.
    pub(super) fn forget_stream(&mut self, node: &mut Node) -> Option<Stream> {
        let old = self.stream.take()?;
        node.memory.add(-(old.history.bytes() as isize));
        Some(old)
    }

    /// The home's stream is another than the one known here, or a later epoch of it. Subscribers who watch
    /// their position must learn the new epoch, so they subscribe again, and recover if that line holds
    /// what they have; the others get what they missed, if it does.
    fn begin_afresh(&mut self, snapshot: Snapshot, node: &mut Node) {
        let old = self.forget_stream(node);
        let new = Stream::from_snapshot(snapshot, &self.options, node.now);
        node.memory.kept(&self.name, new.history.top(), new.history.bytes() as isize);
        let missed = old.as_ref().and_then(|old| new.after(old.position()));
        self.stream = Some(new);
        if old.is_some() {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
    }
}
