//! What a room's home does: give every publication its place, send it to who listens, answer for it once the
//! successors have it, and know who is there.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    attendance::Attendance,
    node::{Node, Settings},
    requests::{Pending, Reply},
    room::{Role, Room},
    stream::{Entry, ForwardId, Repeat, Stream},
    types::{
        Answer, Ask, ClientId, ClientInfo, Event, HistoryFilter, NewPublication, Position,
        Publication, Query, Recovery, Since, Subscribe, Subscribed,
    },
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{Catchup, MAX_PUBLICATIONS, Refused, RoomMessage},
    protocol::codes::ErrorCode,
    time::Time,
};

/// How often a successor is asked to attach: it may not agree yet who is home.
const INVITE_AGAIN: Duration = Duration::from_millis(200);

/// What only the home knows of a room.
#[derive(Debug, Default)]
pub struct Home {
    listeners: BTreeMap<NodeId, Listener>,
    pub(super) attendance: Attendance,
    successors: BTreeMap<NodeId, Successor>,
    /// Publications that some successor has yet to have, with who waits for that.
    unacked: VecDeque<Unacked>,
    /// The run of requests that each node is in, and which of it comes next.
    runs: BTreeMap<NodeId, (u64, u32)>,
}

/// A node that listens.
#[derive(Debug)]
struct Listener {
    /// Its number for the attach.
    attach: u64,
    /// When its link broke, if it did. It may come back.
    lost: Option<Time>,
    /// It listens as a successor.
    succeeds: bool,
}

/// A node that has to have everything before it is acknowledged.
#[derive(Debug)]
struct Successor {
    /// When it was last asked to attach.
    asked: Time,
    /// Up to where it has everything.
    has: u64,
    /// It was too slow, so nothing waits for it until it has caught up.
    lags: bool,
}

#[derive(Debug)]
struct Unacked {
    offset: u64,
    since: Time,
    answer: Answer,
    whom: Whom,
}

/// Who waits for an acknowledgement.
#[derive(Debug)]
enum Whom {
    /// This node's own client or API call; the request is kept in case that another node has to do it.
    Own(Pending),
    /// Another node's: its number for the request, and the run that it is in.
    Peer(NodeId, u64, u64),
}

impl Home {
    /// A home in which `attendance` are.
    pub(super) fn new(attendance: Attendance) -> Self {
        Self { attendance, ..Self::default() }
    }

    /// The link to `peer` is gone. Its clients stay in the room for the grace that a link has.
    pub(super) fn lose(&mut self, peer: NodeId, now: Time) {
        if let Some(listener) = self.listeners.get_mut(&peer) {
            listener.lost.get_or_insert(now);
        }
        if let Some(successor) = self.successors.get_mut(&peer) {
            successor.asked = Time::default();
        }
        self.runs.remove(&peer);
    }

    /// Whether no one listens but the successors, and no one is there.
    pub(super) fn is_idle(&self) -> bool {
        self.attendance.presence.is_empty()
            && self.unacked.is_empty()
            && self.listeners.keys().all(|peer| self.successors.contains_key(peer))
    }

    pub(super) fn next_due(&self, settings: &Settings) -> Option<Time> {
        let lost = self.listeners.values().filter_map(|it| it.lost).min();
        let absent = self.successors.iter().filter(|(peer, _)| !self.has_successor(**peer));
        let due = [
            lost.map(|lost| lost + settings.link_grace),
            self.unacked.front().map(|it| it.since + settings.replica_timeout),
            absent.map(|(_, it)| it.asked + INVITE_AGAIN).min(),
            self.attendance.next_due(),
        ];
        due.into_iter().flatten().min()
    }

    fn listens(&self, peer: NodeId) -> bool {
        self.listeners.get(&peer).is_some_and(|it| it.lost.is_none())
    }

    fn has_successor(&self, peer: NodeId) -> bool {
        self.listeners.get(&peer).is_some_and(|it| it.lost.is_none() && it.succeeds)
    }

    fn listeners(&self) -> Vec<NodeId> {
        let listening = self.listeners.iter().filter(|(_, it)| it.lost.is_none());
        listening.map(|(peer, _)| *peer).collect()
    }

    /// The successors.
    pub(super) fn invited(&self) -> Vec<NodeId> {
        self.successors.keys().copied().collect()
    }

    /// Up to where everything is where it has to be.
    fn acked(&self, top: u64) -> u64 {
        self.successors.values().filter(|it| !it.lags).map(|it| it.has).min().unwrap_or(top)
    }
}

impl Room {
    pub(super) fn home_mut(&mut self) -> Option<&mut Home> {
        match &mut self.role {
            Role::Home(home) => Some(home),
            _ => None,
        }
    }

    fn top(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.history.top())
    }

    /// Up to where this home has acknowledged what was published.
    pub(super) fn acked(&self) -> u64 {
        match &self.role {
            Role::Home(home) => home.unacked.front().map_or(self.top(), |it| it.offset - 1),
            _ => 0,
        }
    }

    fn listeners(&self) -> Vec<NodeId> {
        match &self.role {
            Role::Home(home) => home.listeners(),
            _ => Vec::new(),
        }
    }

    /// Does what has waited for the home.
    pub(super) fn settle_home(&mut self, node: &mut Node) {
        self.choose_successors(node);
        while let Some(pending) = self.requests.take() {
            self.do_own(pending, node);
        }
        for (subscribe, _) in std::mem::take(&mut self.waiting) {
            self.admit_at_home(subscribe, node);
        }
        self.drop_lost(node);
        let Some(home) = self.home_mut() else { return };
        for info in home.attendance.settle(node.now) {
            self.announce_leave(info, node);
        }
        self.acknowledge(node);
    }

    /// Asks the slot's next nodes to keep a copy, as often as it takes.
    pub(super) fn choose_successors(&mut self, node: &mut Node) {
        if !self.options.keeps_history() {
            return;
        }
        let Role::Home(home) = &mut self.role else { return };
        let wanted = node.placement.successors(self.slot);
        let unwanted: Vec<NodeId> =
            home.successors.keys().copied().filter(|it| !wanted.contains(it)).collect();
        let mut absent = Vec::new();
        for peer in wanted.iter().copied().filter(|peer| node.reaches(*peer)) {
            let succeeds = home.has_successor(peer);
            let new = Successor { asked: Time::default(), has: 0, lags: false };
            let successor = home.successors.entry(peer).or_insert(new);
            if !succeeds && node.now.since(successor.asked) >= INVITE_AGAIN {
                successor.asked = node.now;
                absent.push(peer);
            }
        }
        home.successors.retain(|peer, _| !unwanted.contains(peer));
        self.send_all(absent, RoomMessage::Invite, node);
        self.send_all(unwanted, RoomMessage::Dismiss, node);
    }

    fn do_own(&mut self, pending: Pending, node: &mut Node) {
        let (answer, offset) = match &pending.ask {
            Ask::Publish(publication) => self.place(publication, (node.me, pending.id), node),
            Ask::Query(query) => (self.answer(query, node), 0),
        };
        match &pending.reply {
            Reply::To(_) => self.answer_when_acked(offset, answer, Whom::Own(pending), node),
            Reply::Subscriber(subscribe) => self.admit_at_home((**subscribe).clone(), node),
        }
    }

    fn answer_when_acked(&mut self, offset: u64, answer: Answer, whom: Whom, node: &mut Node) {
        let top = self.top();
        match self.home_mut() {
            Some(home) if offset > home.acked(top) || !home.unacked.is_empty() && offset > 0 => {
                home.unacked.push_back(Unacked { offset, since: node.now, answer, whom });
            }
            _ => self.acked_by_all(whom, answer, node),
        }
    }

    fn acked_by_all(&self, whom: Whom, answer: Answer, node: &mut Node) {
        match whom {
            Whom::Own(Pending { reply: Reply::To(to), .. }) => {
                node.out.push(super::node::Out::Answer { to, answer });
            }
            Whom::Own(_) => {}
            Whom::Peer(peer, id, _) => self.send(peer, RoomMessage::Answer { id, answer }, node),
        }
    }

    /// Answers for what the successors have, and does without those that are too slow.
    fn acknowledge(&mut self, node: &mut Node) {
        let top = self.top();
        let Some(home) = self.home_mut() else { return };
        if let Some(front) = home.unacked.front()
            && node.now.since(front.since) >= node.settings.replica_timeout
        {
            let offset = front.offset;
            home.successors.values_mut().for_each(|it| it.lags |= it.has < offset);
        }
        let acked = home.acked(top);
        let mut ready = Vec::new();
        while home.unacked.front().is_some_and(|it| it.offset <= acked) {
            ready.extend(home.unacked.pop_front());
        }
        for Unacked { answer, whom, .. } in ready {
            self.acked_by_all(whom, answer, node);
        }
    }

    fn has(&mut self, from: NodeId, position: Position) {
        let here = self.stream.as_ref().map(Stream::position);
        let Some(home) = self.home_mut() else { return };
        let Some(successor) = home.successors.get_mut(&from) else { return };
        if here.is_some_and(|here| here.epoch == position.epoch) {
            successor.has = position.offset;
            successor.lags &= here.is_some_and(|here| position.offset < here.offset);
        }
    }

    /// Stops being home: whoever listens or waits is told to look for the next one.
    pub(super) fn give_up(&mut self, home: Home, node: &mut Node) {
        for (peer, listener) in home.listeners.iter().filter(|(_, it)| it.lost.is_none()) {
            let refused = Refused::Attach(listener.attach);
            self.send(*peer, RoomMessage::NotHome(refused), node);
        }
        let (mut own, mut runs) = (Vec::new(), BTreeMap::new());
        for unacked in home.unacked {
            match unacked.whom {
                Whom::Own(pending) => own.push(pending),
                Whom::Peer(peer, _, run) => drop(runs.insert(peer, run)),
            }
        }
        for (peer, run) in runs {
            self.send(peer, RoomMessage::NotHome(Refused::Run(run)), node);
        }
        self.requests.put_back(own);
    }

    /// Nodes that are gone take their clients with them.
    fn drop_lost(&mut self, node: &mut Node) {
        let grace = node.settings.link_grace;
        let Some(home) = self.home_mut() else { return };
        let gone: Vec<NodeId> = (home.listeners.iter())
            .filter(|(_, it)| it.lost.is_some_and(|lost| node.now.since(lost) >= grace))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            self.detach(peer, node);
        }
    }

    fn detach(&mut self, peer: NodeId, node: &mut Node) {
        let Some(home) = self.home_mut() else { return };
        home.listeners.remove(&peer);
        let (_, left) = home.attendance.replace(peer, Vec::new());
        left.into_iter().for_each(|info| self.announce_leave(info, node));
    }

    /// A peer asks, and this node is home.
    pub(super) fn serve_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        match message {
            RoomMessage::Request { id, run, seq, ask } => {
                self.serve_request(from, (run, seq), (id, ask), node);
            }
            RoomMessage::Attach { id, position, invited, clients } => {
                self.attach(from, (id, invited), position, clients, node);
            }
            RoomMessage::Detach => self.detach(from, node),
            RoomMessage::Join(info) if self.home_mut().is_some_and(|it| it.listens(from)) => {
                self.client_joined(from, info, node);
            }
            RoomMessage::Leave(client) => self.client_left(from, client, node),
            RoomMessage::Have(position) => self.has(from, position),
            _ => {}
        }
    }

    fn serve_request(
        &mut self,
        from: NodeId,
        (run, seq): (u64, u32),
        (id, ask): (u64, Ask),
        node: &mut Node,
    ) {
        let Some(home) = self.home_mut() else { return };
        let (known, next) = home.runs.get(&from).copied().unwrap_or((run, 0));
        if seq != if known == run { next } else { 0 } {
            let refused = RoomMessage::NotHome(Refused::Run(run));
            return self.send(from, refused, node);
        }
        home.runs.insert(from, (run, seq.wrapping_add(1)));
        let (answer, offset) = match &ask {
            Ask::Publish(publication) => self.place(publication, (from, id), node),
            Ask::Query(query) => (self.answer(query, node), 0),
        };
        self.answer_when_acked(offset, answer, Whom::Peer(from, id, run), node);
    }

    /// Gives a publication its place and sends it to all who listen. Returns the answer, and the offset that
    /// the successors must have before it is given.
    fn place(
        &mut self,
        new: &NewPublication,
        forward: ForwardId,
        node: &mut Node,
    ) -> (Answer, u64) {
        let publication = |offset| Publication {
            offset,
            data: new.data.clone(),
            info: new.info.clone(),
            tags: new.tags.clone(),
        };
        let stream = self.stream.as_mut().filter(|_| self.options.keeps_history());
        let Some(stream) = stream else {
            self.pass_on(publication(0), node);
            return (Answer::Published(None), 0);
        };
        let here = stream.position();
        let key = new.idempotency_key.as_deref();
        match stream.find(key, Some(forward)) {
            Repeat::At(offset) => {
                return (Answer::Published(Some(Position { offset, ..here })), offset);
            }
            Repeat::Somewhere => return (Answer::Published(None), 0),
            Repeat::No => {}
        }
        if new.skip_history {
            // It has no place of its own, so a repeat is answered with where the stream stood.
            stream.remember(new.idempotency_key.clone(), None, here.offset, node.now);
            self.pass_on(publication(0), node);
            return (Answer::Published(Some(here)), 0);
        }
        let offset = here.offset + 1;
        let entry = Entry {
            publication: Arc::new(publication(offset)),
            forward: Some(forward),
            key: new.idempotency_key.clone(),
        };
        let change = stream.append(entry.clone(), &self.options, node.now);
        node.memory.kept(&self.name, offset, change);
        self.send_out(entry, node);
        (Answer::Published(Some(Position { offset, ..here })), offset)
    }

    /// Delivers what is kept nowhere.
    fn pass_on(&mut self, publication: Publication, node: &mut Node) {
        let publication = Arc::new(publication);
        self.send_out(Entry { publication, forward: None, key: None }, node);
    }

    fn send_out(&mut self, entry: Entry, node: &mut Node) {
        self.deliver_local(Event::Publication(entry.publication.clone()), node);
        let epoch = self.stream.as_ref().map(|stream| stream.position().epoch);
        self.send_all(self.listeners(), RoomMessage::Deliver(epoch, entry), node);
    }

    fn answer(&mut self, query: &Query, node: &mut Node) -> Answer {
        match query {
            Query::Presence => Answer::Presence(
                self.home_mut().map_or_else(Vec::new, |home| home.attendance.presence.clients()),
            ),
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

    fn attach(
        &mut self,
        from: NodeId,
        (id, invited): (u64, bool),
        position: Option<Position>,
        clients: Vec<Arc<ClientInfo>>,
        node: &mut Node,
    ) {
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        let catchup = catch_up(stream, position, node.now);
        let tells = self.options.join_leave;
        let Some(home) = self.home_mut() else { return };
        let succeeds = invited && home.successors.contains_key(&from);
        home.listeners.insert(from, Listener { attach: id, lost: None, succeeds });
        let (joined, left) = home.attendance.replace(from, clients);
        let present = match succeeds && tells {
            true => home.attendance.presence.clients(),
            false => Vec::new(),
        };
        self.send(from, RoomMessage::Attached { id, catchup, present }, node);
        joined.into_iter().for_each(|info| self.announce_join(info, node));
        left.into_iter().for_each(|info| self.announce_leave(info, node));
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

    pub(super) fn client_joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        if self.home_mut().is_some_and(|home| home.attendance.join(at, info.clone())) {
            self.announce_join(info, node);
        }
    }

    pub(super) fn client_left(&mut self, at: NodeId, client: ClientId, node: &mut Node) {
        if let Some(info) = self.home_mut().and_then(|home| home.attendance.leave(at, client)) {
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

/// How many of the publications fit into one message; one at least.
fn fitting(page: &[Arc<Publication>]) -> usize {
    let mut bytes = 0;
    let fits = |it: &&Arc<Publication>| {
        bytes += it.weight();
        bytes <= MAX_PUBLICATIONS
    };
    page.iter().take_while(fits).count().max(1)
}

fn catch_up(stream: Option<&Stream>, position: Option<Position>, now: Time) -> Catchup {
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
