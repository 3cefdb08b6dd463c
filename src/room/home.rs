//! What a room's home does: give every publication its place, send it to who listens, answer for it once the
//! successors have it, and know who is there.

use std::{collections::BTreeMap, sync::Arc};

use litemap::LiteMap;

use super::{
    attendance::Attendance,
    node::{Node, Out, Settings},
    queries::catch_up,
    replication::{Replication, Unacked, Whom},
    requests::{Pending, Reply},
    room::{Role, Room},
    stream::Stream,
    types::{Answer, Ask, ClientId, ClientInfo, Position, Recovery, Subscribe, Subscribed},
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{Refused, RoomMessage},
    runtime::time::Time,
};

/// What only the home knows of a room.
#[derive(Debug, Default)]
pub struct Home {
    /// A sorted list, like [`Self::runs`]: most rooms have a node or two here, and there may be very many rooms.
    listeners: LiteMap<NodeId, Listener>,
    pub(super) attendance: Attendance,
    pub(super) replication: Replication,
    /// The run of requests that each node is in, and which of it comes next.
    runs: LiteMap<NodeId, (u64, u32)>,
    /// Whether the application takes the room for one that someone is in.
    pub(super) occupied: bool,
}

/// A node that listens.
#[derive(Debug)]
struct Listener {
    /// Its number for the attach.
    attach: u64,
    /// When its link broke, if it did. It may come back.
    lost: Option<Time>,
}

impl Home {
    /// A home in which `attendance` are.
    pub(super) fn new(attendance: Attendance) -> Self {
        // Whoever is in it already was so under the last home, which has told it.
        let occupied = attendance.is_anyone_expected();
        Self { attendance, occupied, ..Self::default() }
    }

    /// The link to `peer` is gone. Its clients stay in the room for the grace that a link has.
    pub(super) fn lose(&mut self, peer: NodeId, now: Time) {
        if let Some(listener) = self.listeners.get_mut(&peer) {
            listener.lost.get_or_insert(now);
        }
        self.replication.lose(peer);
        self.runs.remove(&peer);
    }

    /// Whether no one listens but the successors, and no one is there.
    pub(super) fn is_idle(&self) -> bool {
        self.attendance.presence.is_empty()
            && !self.replication.waits()
            && self.listeners.keys().all(|peer| self.replication.includes(*peer))
    }

    pub(super) fn next_due(&self, settings: &Settings) -> Option<Time> {
        let lost = self.listeners.values().filter_map(|it| it.lost).min();
        let due = [
            lost.map(|lost| lost + settings.link_grace),
            self.replication.next_due(settings.replica_timeout),
            self.attendance.next_due(),
        ];
        due.into_iter().flatten().min()
    }

    fn listens(&self, peer: NodeId) -> bool {
        self.listeners.get(&peer).is_some_and(|it| it.lost.is_none())
    }

    pub(super) fn listeners(&self) -> Vec<NodeId> {
        let listening = self.listeners.iter().filter(|(_, it)| it.lost.is_none());
        listening.map(|(peer, _)| *peer).collect()
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
            Role::Home(home) => home.replication.answered(self.top()),
            _ => 0,
        }
    }

    pub(super) fn listeners(&self) -> Vec<NodeId> {
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
        self.note_vacancy(node);
        self.acknowledge(node);
    }

    /// Asks the slot's next nodes to keep a copy, as often as it takes.
    pub(super) fn choose_successors(&mut self, node: &mut Node) {
        if !self.options.keeps_history() {
            return;
        }
        let Role::Home(home) = &mut self.role else { return };
        let wanted = node.placement.successors(self.slot);
        let (absent, unwanted) =
            home.replication.choose(wanted, |peer| node.reaches(peer), node.now);
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

    /// Answers once all live successors have what is at `offset` (0: nothing to wait for).
    fn answer_when_acked(&mut self, offset: u64, answer: Answer, whom: Whom, node: &mut Node) {
        let (top, now) = (self.top(), node.now);
        let unacked = Unacked { offset, since: now, answer, whom };
        if let Some(home) = self.home_mut()
            && let Some(ready) = home.replication.wait(unacked, top)
        {
            self.acked_by_all(ready, node);
        }
    }

    fn acked_by_all(&self, Unacked { answer, whom, .. }: Unacked, node: &mut Node) {
        match whom {
            Whom::Own(Pending { reply: Reply::To(to), .. }) => {
                node.out.push(Out::Answer { to, answer });
            }
            Whom::Own(_) => {}
            Whom::Peer(peer, id, _) => self.send(peer, RoomMessage::Answer { id, answer }, node),
        }
    }

    /// Answers for what the successors have, and does without those that are too slow.
    fn acknowledge(&mut self, node: &mut Node) {
        let (top, now, patience) = (self.top(), node.now, node.settings.replica_timeout);
        let Some(home) = self.home_mut() else { return };
        for ready in home.replication.acknowledge(top, now, patience) {
            self.acked_by_all(ready, node);
        }
    }

    fn has(&mut self, from: NodeId, position: Position) {
        let here = self.stream.as_ref().map(Stream::position);
        let Some(here) = here.filter(|here| here.epoch == position.epoch) else { return };
        if let Some(home) = self.home_mut() {
            home.replication.has(from, position.offset, here.offset);
        }
    }

    /// Stops being home: whoever listens or waits is told to look for the next one.
    pub(super) fn give_up(&mut self, home: Home, node: &mut Node) {
        for (peer, listener) in home.listeners.iter().filter(|(_, it)| it.lost.is_none()) {
            let refused = Refused::Attach(listener.attach);
            self.send(*peer, RoomMessage::NotHome(refused), node);
        }
        let (mut own, mut runs) = (Vec::new(), BTreeMap::new());
        for unacked in home.replication.into_unacked() {
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

    /// A peer listens no more. Whoever has no subscribers left has said so of each before; one that still has
    /// some has turned to another home, of which this node is about to hear: no one has left.
    fn detached(&mut self, peer: NodeId, node: &mut Node) {
        let Some(home) = self.home_mut() else { return };
        if home.attendance.presence.has_any_of(peer) {
            home.replication.attached(peer, false);
            home.lose(peer, node.now);
        } else {
            self.detach(peer, node);
        }
    }

    fn detach(&mut self, peer: NodeId, node: &mut Node) {
        let Some(home) = self.home_mut() else { return };
        home.listeners.remove(&peer);
        home.replication.attached(peer, false);
        let (_, left) = home.attendance.replace(peer, Vec::new());
        left.into_iter().for_each(|info| self.announce_leave(info, node));
        self.note_vacancy(node);
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
            RoomMessage::Detach => self.detached(from, node),
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
        let options = self.options.clone();
        let Some(home) = self.home_mut() else { return };
        let surplus = home.attendance.presence.surplus(&clients);
        let succeeds = invited && home.replication.includes(from);
        home.replication.attached(from, succeeds);
        home.listeners.insert(from, Listener { attach: id, lost: None });
        let (joined, left) = home.attendance.replace(from, clients);
        // Whose going it would have to announce, if it was home.
        let present = match succeeds {
            true => home.attendance.presence.clients(|it| options.tells_of(it)),
            false => Vec::new(),
        };
        self.send(from, RoomMessage::Attached { id, catchup, present }, node);
        joined.into_iter().for_each(|info| self.announce_join(info, node));
        left.into_iter().for_each(|info| self.announce_leave(info, node));
        surplus.iter().for_each(|info| self.close_surplus(from, info, node));
        self.note_occupants();
        self.note_vacancy(node);
    }

    fn admit_at_home(&mut self, subscribe: Subscribe, node: &mut Node) {
        if !self.local.contains(subscribe.socket) {
            return;
        }
        let stream = self.stream.as_ref().filter(|_| self.options.keeps_history());
        let recovery = match (&subscribe.recover, stream) {
            (Some(since), Some(stream)) => {
                let limit = node.settings.recovery_limit;
                stream.recover(since, subscribe.filter(), &self.options, limit).into()
            }
            (Some(_), None) => Recovery::Failed,
            (None, _) => Recovery::NotAsked,
        };
        let position = stream.map(Stream::position);
        self.admit(subscribe, Subscribed { position, recovery }, node);
    }

    pub(super) fn client_joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        self.close_older_than(&info, node);
        if self.home_mut().is_some_and(|home| home.attendance.join(at, info.clone())) {
            self.announce_join(info, node);
        }
        self.note_occupants();
    }

    pub(super) fn client_left(&mut self, at: NodeId, client: ClientId, node: &mut Node) {
        if let Some(info) = self.home_mut().and_then(|home| home.attendance.leave(at, client)) {
            self.announce_leave(info, node);
        }
        self.note_vacancy(node);
    }
}
