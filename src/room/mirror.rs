//! What a mirror does: listen to the home, keep a copy of the stream, serve this node's subscribers.

use super::{
    node::Node,
    room::{Ask, Reply, Role, Room},
    stream::{Entry, Snapshot, Stream},
    types::{Answer, Epoch, Event, Query, Recovery, Subscribe, Subscribed},
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{Catchup, RoomMessage},
    time::Time,
};

/// How a node listens to a room's home.
#[derive(Debug)]
pub struct Mirror {
    /// The home.
    pub(super) home: NodeId,
    state: State,
    /// When the last subscriber left; after a while the mirror detaches.
    unused: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Detached,
    Attaching,
    Live,
}

impl Mirror {
    /// Whether the home knows of this mirror, so that it has to be told who comes and goes.
    pub(super) fn attached(&self) -> bool {
        self.state != State::Detached
    }

    fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// The home does not listen any more, or can't be reached.
    pub(super) fn detached_from(&mut self, peer: NodeId) {
        if self.home == peer {
            self.state = State::Detached;
        }
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.unused
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
        let Some(home) = self.home(node) else { return };
        if !self.local.is_empty() {
            self.listen_to(home, node);
        } else {
            self.linger(home, node);
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

    fn listen_to(&mut self, home: NodeId, node: &mut Node) {
        let state = match &mut self.role {
            Role::Mirror(mirror) if mirror.home == home => {
                mirror.unused = None;
                mirror.state
            }
            Role::Mirror(mirror) if mirror.attached() => {
                // The old home may live on, and not know yet that it is none.
                let old = mirror.home;
                self.send(old, RoomMessage::Detach, node);
                State::Detached
            }
            _ => State::Detached,
        };
        if state != State::Detached {
            return;
        }
        let state = match node.reaches(home) {
            false => State::Detached,
            true => {
                let position = self.stream.as_ref().map(Stream::position);
                let clients = self.local.clients.values().cloned().collect();
                self.send(home, RoomMessage::Attach { position, clients }, node);
                State::Attaching
            }
        };
        self.role = Role::Mirror(Mirror { home, state, unused: None });
    }

    /// No subscriber is left. One may come back soon, so stay attached for a while.
    fn linger(&mut self, home: NodeId, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        let until = *mirror.unused.get_or_insert(node.now + node.settings.linger);
        if node.now < until && mirror.home == home && mirror.attached() {
            return;
        }
        let (old, attached) = (mirror.home, mirror.attached());
        self.role = Role::Guest;
        if attached {
            self.send(old, RoomMessage::Detach, node);
        }
    }

    /// Sends the home what waits for it, in the order in which it came. What another node was sent before
    /// is first answered or refused by that; what came after it waits too, so that nothing is overtaken.
    fn forward(&mut self, home: NodeId, node: &mut Node) {
        let mut messages = Vec::new();
        for pending in &mut self.pending {
            match pending.sent {
                Some(earlier) if earlier == home => continue,
                Some(_) => break,
                None => pending.sent = Some(home),
            }
            let (id, again) = (pending.id, pending.maybe_done);
            messages.push(match pending.ask.clone() {
                Ask::Publish(publication) => RoomMessage::Publish { id, publication, again },
                Ask::Query(query) => RoomMessage::Query { id, query },
            });
        }
        messages.into_iter().for_each(|message| self.send(home, message, node));
    }

    fn admit_at_mirror(&mut self, subscribe: Subscribe, node: &mut Node) {
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        let recovery = match (&subscribe.recover, stream) {
            (None, _) => Recovery::NotAsked,
            (Some(_), None) => Recovery::Failed,
            (Some(since), Some(stream)) => {
                let limit = node.settings.recovery_limit;
                match stream.recover(since, &self.options, limit) {
                    Some(missed) => Recovery::Recovered(missed),
                    // The home's ring may reach further back than this one.
                    None if stream.resolve(since).is_some() => {
                        let ask = Ask::Query(Query::Recover(since.clone()));
                        self.ask(ask, Reply::Subscriber(subscribe), node);
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
            let deadline = node.now + node.settings.publish_timeout;
            self.waiting.push((subscribe, deadline));
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
        if mirror.home != from || !mirror.attached() {
            return;
        }
        match message {
            RoomMessage::Attached(catchup) => {
                mirror.state = State::Live;
                self.catch_up(catchup, node);
            }
            RoomMessage::Deliver(epoch, entry) if mirror.is_live() => {
                self.delivered(epoch, entry, node);
            }
            RoomMessage::Joined(info) => self.deliver_local(Event::Join(info), node),
            RoomMessage::Left(info) => self.deliver_local(Event::Leave(info), node),
            RoomMessage::HistoryRemoved => {
                if let Some(stream) = &mut self.stream {
                    node.memory.add(-stream.history.clear());
                }
            }
            _ => {}
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
        let change = stream.append(entry, &self.options, node.now);
        node.memory.kept(&self.name, publication.offset, change);
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
            Catchup::Follow { position, missed } => {
                for (age, publication) in missed {
                    let at = node.now.ago(age);
                    let Some(stream) = &mut self.stream else { return };
                    let offset = publication.offset;
                    let change =
                        stream.history.push(publication.clone(), at, self.options.history_size);
                    node.memory.kept(&self.name, offset, change);
                    self.deliver_local(Event::Publication(publication), node);
                }
                if self.stream.as_ref().map(Stream::position) != Some(position) {
                    self.deliver_local(Event::InsufficientState, node);
                    self.stream = None;
                    self.lose_track();
                }
            }
            Catchup::Afresh(snapshot) => self.begin_afresh(snapshot, node),
        }
    }

    /// The home's stream is another than the one known here, or a later epoch of it. Subscribers who watch
    /// their position must learn the new epoch, so they subscribe again, and recover if that line holds
    /// what they have; the others get what they missed, if it does.
    fn begin_afresh(&mut self, snapshot: Snapshot, node: &mut Node) {
        let old = self.stream.take();
        let new = Stream::from_snapshot(snapshot, &self.options, node.now);
        if let Some(old) = &old {
            node.memory.add(-(old.history.bytes() as isize));
        }
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
