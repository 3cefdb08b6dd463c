//! What a room's home does: give every publication its place, send it to who listens, know who is there.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    node::{Node, Out},
    presence::Presence,
    room::{Ask, Reply, Role, Room},
    stream::{Entry, ForwardId, Stream},
    types::{
        Answer, ClientId, ClientInfo, Event, HistoryFilter, NewPublication, Position, Publication,
        Query, Recovery, Subscribe, Subscribed,
    },
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{Catchup, MAX_PUBLICATIONS, RoomMessage},
    protocol::codes::ErrorCode,
    time::Time,
};

/// What only the home knows of a room.
#[derive(Debug, Default)]
pub struct Home {
    /// The nodes that listen; with a time: those whose link broke then, and that may come back.
    attached: BTreeMap<NodeId, Option<Time>>,
    presence: Presence,
}

impl Home {
    /// The link to `peer` is gone. Its clients stay in the room for the grace that a link has.
    pub(super) fn lose(&mut self, peer: NodeId, now: Time) {
        if let Some(lost) = self.attached.get_mut(&peer) {
            lost.get_or_insert(now);
        }
    }

    /// Whether no one listens and no one is there.
    pub(super) fn is_idle(&self) -> bool {
        self.attached.is_empty() && self.presence.is_empty()
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        self.attached.values().flatten().min().copied()
    }

    fn listeners(&self) -> Vec<NodeId> {
        let listening = self.attached.iter().filter(|(_, lost)| lost.is_none());
        listening.map(|(node, _)| *node).collect()
    }
}

impl Room {
    fn home_mut(&mut self) -> Option<&mut Home> {
        match &mut self.role {
            Role::Home(home) => Some(home),
            _ => None,
        }
    }

    fn listeners(&self) -> Vec<NodeId> {
        match &self.role {
            Role::Home(home) => home.listeners(),
            _ => Vec::new(),
        }
    }

    /// The node is home from now on; `stream` is set. Its own clients are there already.
    pub(super) fn open(&mut self, node: &mut Node) {
        let mut home = Home::default();
        home.presence.replace(node.me, self.local.clients.values().cloned().collect());
        self.role = Role::Home(home);
    }

    /// Does what has waited for the home.
    pub(super) fn settle_home(&mut self, node: &mut Node) {
        while let Some(pending) = self.pending.pop_front() {
            let again = pending.sent.is_some() || pending.maybe_done;
            let answer = match pending.ask {
                Ask::Publish(publication) => {
                    self.place(publication, Some((node.me, pending.id)), again, node)
                }
                Ask::Query(query) => self.answer(&query, node),
            };
            match pending.reply {
                Reply::To(to) => node.out.push(Out::Answer { to, answer }),
                Reply::Subscriber(subscribe) => self.admit_at_home(subscribe, node),
            }
        }
        for (subscribe, _) in std::mem::take(&mut self.waiting) {
            self.admit_at_home(subscribe, node);
        }
        self.drop_lost(node);
    }

    /// Nodes that are gone take their clients with them.
    fn drop_lost(&mut self, node: &mut Node) {
        let grace = node.settings.link_grace;
        let Some(home) = self.home_mut() else { return };
        let gone: Vec<NodeId> = (home.attached.iter())
            .filter(|(_, lost)| lost.is_some_and(|lost| node.now.since(lost) >= grace))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            self.detach(peer, node);
        }
    }

    fn detach(&mut self, peer: NodeId, node: &mut Node) {
        let Some(home) = self.home_mut() else { return };
        home.attached.remove(&peer);
        let (_, left) = home.presence.replace(peer, Vec::new());
        left.into_iter().for_each(|info| self.announce_leave(info, node));
    }

    /// A peer asks, and this node is home.
    pub(super) fn serve_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        match message {
            RoomMessage::Publish { id, publication, again } => {
                let answer = self.place(publication, Some((from, id)), again, node);
                self.send(from, RoomMessage::Answer { id, answer }, node);
            }
            RoomMessage::Query { id, query } => {
                let answer = self.answer(&query, node);
                self.send(from, RoomMessage::Answer { id, answer }, node);
            }
            RoomMessage::Attach { position, clients } => self.attach(from, position, clients, node),
            RoomMessage::Detach => self.detach(from, node),
            RoomMessage::Join(info) => self.client_joined(from, info, node),
            RoomMessage::Leave(client) => self.client_left(from, client, node),
            _ => {}
        }
    }

    /// Gives a publication its place and sends it to all who listen.
    fn place(
        &mut self,
        new: NewPublication,
        forward: Option<ForwardId>,
        again: bool,
        node: &mut Node,
    ) -> Answer {
        let stream = self.stream.as_mut().filter(|_| self.options.keeps_history());
        let Some(stream) = stream else {
            let publication =
                Publication { offset: 0, data: new.data, info: new.info, tags: new.tags };
            self.send_out(
                Entry { publication: Arc::new(publication), forward: None, key: None },
                node,
            );
            return Answer::Published(None);
        };
        let repeat = (new.idempotency_key.as_deref().and_then(|key| stream.find_key(key)))
            .or_else(|| forward.filter(|_| again).and_then(|id| stream.find_forward(id)));
        if let Some(offset) = repeat {
            return Answer::Published(Some(Position { offset, ..stream.position() }));
        }
        if new.skip_history {
            // It has no place of its own, so a repeat is answered with where the stream stood.
            let position = stream.position();
            stream.remember(new.idempotency_key, None, position.offset, node.now);
            let publication =
                Publication { offset: 0, data: new.data, info: new.info, tags: new.tags };
            self.send_out(
                Entry { publication: Arc::new(publication), forward: None, key: None },
                node,
            );
            return Answer::Published(Some(position));
        }
        let offset = stream.history.top() + 1;
        let publication = Publication { offset, data: new.data, info: new.info, tags: new.tags };
        let entry = Entry { publication: Arc::new(publication), forward, key: new.idempotency_key };
        let change = stream.append(entry.clone(), &self.options, node.now);
        let position = stream.position();
        node.memory.kept(&self.name, offset, change);
        self.send_out(entry, node);
        Answer::Published(Some(position))
    }

    fn send_out(&mut self, entry: Entry, node: &mut Node) {
        self.deliver_local(Event::Publication(entry.publication.clone()), node);
        let epoch = self.stream.as_ref().map(|stream| stream.position().epoch);
        self.send_all(self.listeners(), RoomMessage::Deliver(epoch, entry), node);
    }

    fn answer(&mut self, query: &Query, node: &mut Node) -> Answer {
        match query {
            Query::Presence => Answer::Presence(
                self.home_mut().map_or_else(Vec::new, |home| home.presence.clients()),
            ),
            Query::PresenceStats => {
                let (clients, users) = self.home_mut().map_or((0, 0), |home| home.presence.stats());
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

    fn recover(&self, since: &super::types::Since, node: &Node) -> Option<Vec<Arc<Publication>>> {
        self.stream.as_ref()?.recover(since, &self.options, node.settings.recovery_limit)
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
        let page = stream.history.page(since, filter.reverse, filter.limit);
        Answer::History(page, stream.position())
    }

    fn remove_history(&mut self, node: &mut Node) -> Answer {
        let Some(stream) = &mut self.stream else { return Answer::Failed(ErrorCode::NotAvailable) };
        node.memory.add(-stream.history.clear());
        let position = stream.position();
        self.send_all(self.listeners(), RoomMessage::HistoryRemoved, node);
        Answer::Published(Some(position))
    }

    fn attach(
        &mut self,
        from: NodeId,
        position: Option<Position>,
        clients: Vec<Arc<ClientInfo>>,
        node: &mut Node,
    ) {
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        let catchup = catch_up(stream, position, node.now);
        self.send(from, RoomMessage::Attached(catchup), node);
        let Some(home) = self.home_mut() else { return };
        let known = home.attached.insert(from, None).is_some();
        let (joined, left) = home.presence.replace(from, clients);
        // Who comes with a node that is new here was there before this home was.
        if known {
            joined.into_iter().for_each(|info| self.announce_join(info, node));
            left.into_iter().for_each(|info| self.announce_leave(info, node));
        }
    }

    fn admit_at_home(&mut self, subscribe: Subscribe, node: &mut Node) {
        if !self.local.contains(subscribe.socket) {
            return;
        }
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        let recovery = match (&subscribe.recover, stream) {
            (Some(since), Some(stream)) => {
                stream.recover(since, &self.options, node.settings.recovery_limit).into()
            }
            (Some(_), None) => Recovery::Failed,
            (None, _) => Recovery::NotAsked,
        };
        let position = stream.map(Stream::position);
        self.admit(subscribe, Subscribed { position, recovery }, node);
    }

    /// Lets a subscriber in, or tells it why not. The same in a home and in a mirror.
    pub(super) fn admit(&mut self, subscribe: Subscribe, subscribed: Subscribed, node: &mut Node) {
        if subscribe.must_recover && subscribed.recovery == Recovery::Failed {
            return self.refuse(subscribe, ErrorCode::UnrecoverablePosition, node);
        }
        let info = subscribe.info.clone();
        self.subscribed(subscribe, Ok(subscribed), node);
        if !self.options.knows_clients() {
            return;
        }
        self.local.clients.insert(info.client, info.clone());
        match &self.role {
            Role::Home(_) => self.client_joined(node.me, info, node),
            Role::Mirror(mirror) => {
                let home = mirror.home;
                self.send(home, RoomMessage::Join(info), node);
            }
            _ => {}
        }
    }

    pub(super) fn subscribed(
        &self,
        subscribe: Subscribe,
        result: Result<Subscribed, ErrorCode>,
        node: &mut Node,
    ) {
        let Subscribe { socket, id, flags, .. } = subscribe;
        node.out.push(Out::Subscribed { socket, id, room: self.name.clone(), flags, result });
    }

    fn client_joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        if self.home_mut().is_some_and(|home| home.presence.join(at, info.clone())) {
            self.announce_join(info, node);
        }
    }

    pub(super) fn client_left(&mut self, at: NodeId, client: ClientId, node: &mut Node) {
        if let Some(info) = self.home_mut().and_then(|home| home.presence.leave(at, client)) {
            self.announce_leave(info, node);
        }
    }

    fn announce_join(&self, info: Arc<ClientInfo>, node: &mut Node) {
        if self.options.join_leave {
            self.deliver_local(Event::Join(info.clone()), node);
            self.send_all(self.listeners(), RoomMessage::Joined(info), node);
        }
    }

    fn announce_leave(&self, info: Arc<ClientInfo>, node: &mut Node) {
        if self.options.join_leave {
            self.deliver_local(Event::Leave(info.clone()), node);
            self.send_all(self.listeners(), RoomMessage::Left(info), node);
        }
    }
}

fn catch_up(stream: Option<&Stream>, position: Option<Position>, now: Time) -> Catchup {
    let Some(stream) = stream else { return Catchup::Nothing };
    // A mirror follows within an epoch; into a new one it goes by a snapshot, which has the lineage.
    let missed = position.filter(|position| position.epoch == stream.position().epoch).and_then(
        |position| {
            let missed = stream.after(position)?.len();
            let newest = stream.history.newest(now, MAX_PUBLICATIONS);
            (newest.len() >= missed).then(|| newest[newest.len() - missed..].to_vec())
        },
    );
    match missed {
        Some(missed) => Catchup::Follow { position: stream.position(), missed },
        None => Catchup::Afresh(stream.snapshot(now, MAX_PUBLICATIONS)),
    }
}
