//! One room on one node: what came in for it, and which role the node has in it.
//!
//! In: requests of local sockets and API calls ([`Room::request`]), messages of peers ([`Room::message`]),
//! and the passing of time and change of view ([`Room::settle`]). Out: pushed onto [`Node::out`]. What the
//! home does is in [`super::home`], what a mirror does in [`super::mirror`], how a node becomes a home in
//! [`super::activation`].

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::{
    activation::Activation,
    home::Home,
    mirror::Mirror,
    node::{Node, Out},
    options::RoomOptions,
    stream::Stream,
    types::{
        Answer, ClientId, ClientInfo, Event, NewPublication, Query, ReplyTo, Request, RoomName,
        SocketRef, Subscribe,
    },
};
use crate::{
    cluster::{node::NodeId, placement},
    mesh::wire::{Message, Refused, RoomMessage},
    protocol::codes::ErrorCode,
    time::Time,
};

/// How long a room that nobody uses and in which nothing was ever said keeps its epoch.
const UNUSED: Duration = Duration::from_secs(60);

/// One room on one node.
#[derive(Debug)]
pub struct Room {
    pub(super) name: RoomName,
    pub(super) slot: u16,
    pub(super) options: Arc<RoomOptions>,
    pub(super) role: Role,
    /// The home's own, or a mirror's copy. Stays when the role changes.
    pub(super) stream: Option<Stream>,
    pub(super) local: Local,
    /// What needs the home and has no answer yet, in the order in which it came.
    pub(super) pending: VecDeque<Pending>,
    /// Subscribers that came before the room was live here.
    pub(super) waiting: Vec<(Subscribe, Time)>,
    /// The node that this one gave the room to before its own view said so.
    pub(super) handed_to: Option<NodeId>,
    last_used: Time,
    /// When the registry is to call [`Room::settle`] next.
    pub(super) due: Option<Time>,
}

/// What a node is in a room.
#[derive(Debug)]
pub enum Role {
    /// Nothing: no subscriber here, and another is home.
    Guest,
    /// It has subscribers, or had until just now, and listens to the home.
    Mirror(Mirror),
    /// It is to be home and asks the others what they know.
    Activating(Activation),
    /// It is home.
    Home(Home),
}

/// This node's own subscribers.
#[derive(Debug, Default)]
pub struct Local {
    sockets: HashSet<SocketRef, FxBuildHasher>,
    /// How many of them each worker has.
    per_worker: Vec<u32>,
    /// Who they are, where the room's home has to know.
    pub(super) clients: FxHashMap<ClientId, Arc<ClientInfo>>,
}

impl Local {
    fn add(&mut self, socket: SocketRef) {
        if self.sockets.insert(socket) {
            let worker = usize::from(socket.worker);
            self.per_worker.resize(self.per_worker.len().max(worker + 1), 0);
            self.per_worker[worker] += 1;
        }
    }

    pub(super) fn remove(&mut self, socket: SocketRef) -> bool {
        let there = self.sockets.remove(&socket);
        if let (true, Some(count)) = (there, self.per_worker.get_mut(usize::from(socket.worker))) {
            *count -= 1;
        }
        there
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn contains(&self, socket: SocketRef) -> bool {
        self.sockets.contains(&socket)
    }

    fn workers(&self) -> u64 {
        let bits = self.per_worker.iter().enumerate().filter(|(_, count)| **count > 0);
        bits.fold(0, |mask, (worker, _)| mask | 1 << worker)
    }
}

/// Something that only the home can do.
#[derive(Debug)]
pub(super) struct Pending {
    pub id: u64,
    pub ask: Ask,
    pub reply: Reply,
    pub deadline: Time,
    /// The node that it was sent to, and that has neither answered nor refused it.
    pub sent: Option<NodeId>,
    /// Whether a node that can't be asked any more may have done it.
    pub maybe_done: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Ask {
    Publish(NewPublication),
    Query(Query),
}

/// Who gets the home's answer.
#[derive(Debug)]
pub(super) enum Reply {
    To(ReplyTo),
    Subscriber(Subscribe),
}

impl Room {
    /// A room that this node hears of for the first time.
    pub fn new(name: RoomName, options: Arc<RoomOptions>, now: Time) -> Self {
        Self {
            slot: placement::slot(&name),
            name,
            options,
            role: Role::Guest,
            stream: None,
            local: Local::default(),
            pending: VecDeque::new(),
            waiting: Vec::new(),
            handed_to: None,
            last_used: now,
            due: None,
        }
    }

    /// This node's subscribers.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The stream as far as this node has it.
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_ref()
    }

    /// Whether this node is home.
    pub fn is_home(&self) -> bool {
        matches!(self.role, Role::Home(_))
    }

    /// A local socket or API call asks for something.
    pub fn request(&mut self, request: Request, node: &mut Node) {
        self.last_used = node.now;
        let deadline = node.now + node.settings.publish_timeout;
        match request {
            Request::Subscribe(subscribe) => {
                self.local.add(subscribe.socket);
                self.waiting.push((subscribe, deadline));
            }
            Request::Unsubscribe { socket, client, reply } => {
                self.unsubscribe(socket, client, node);
                node.out.push(Out::Unsubscribed { socket, reply, room: self.name.clone() });
            }
            Request::Publish(publication, reply) => {
                self.ask(Ask::Publish(publication), Reply::To(reply), node)
            }
            Request::Query(query, reply) => self.ask(Ask::Query(query), Reply::To(reply), node),
        }
        self.settle(node);
    }

    pub(super) fn ask(&mut self, ask: Ask, reply: Reply, node: &mut Node) {
        let deadline = node.now + node.settings.publish_timeout;
        let id = node.next_id();
        let pending = Pending { id, ask, reply, deadline, sent: None, maybe_done: false };
        self.pending.push_back(pending);
    }

    fn unsubscribe(&mut self, socket: SocketRef, client: ClientId, node: &mut Node) {
        if !self.local.remove(socket) {
            return;
        }
        self.waiting.retain(|(waiting, _)| waiting.socket != socket);
        if self.local.clients.remove(&client).is_some() {
            match &mut self.role {
                Role::Home(_) => self.client_left(node.me, client, node),
                Role::Mirror(mirror) if mirror.attached() => {
                    let home = mirror.home;
                    self.send(home, RoomMessage::Leave(client), node);
                }
                _ => {}
            }
        }
    }

    /// A peer says something about the room.
    pub fn message(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        self.last_used = node.now;
        match message {
            RoomMessage::Answer { id, answer } => self.answered(id, answer, node),
            RoomMessage::NotHome(refused) => self.refused(from, refused),
            RoomMessage::Claim => self.claimed_by(from, node),
            RoomMessage::Claimed { stream, clean } => self.claim_answered(from, stream, clean),
            RoomMessage::Attached(_)
            | RoomMessage::Deliver(..)
            | RoomMessage::Joined(_)
            | RoomMessage::Left(_)
            | RoomMessage::HistoryRemoved => self.follow(from, message, node),
            RoomMessage::Publish { .. }
            | RoomMessage::Query { .. }
            | RoomMessage::Attach { .. }
            | RoomMessage::Detach
            | RoomMessage::Join(_)
            | RoomMessage::Leave(_) => self.asked_by_peer(from, message, node),
        }
        self.settle(node);
    }

    /// Requests of peers are for the home; who isn't says so.
    fn asked_by_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        if self.home(node) == Some(node.me) && matches!(self.role, Role::Guest | Role::Mirror(_)) {
            self.activate(node);
        }
        match &mut self.role {
            Role::Home(_) => self.serve_peer(from, message, node),
            Role::Activating(activation) => activation.hold(from, message),
            Role::Guest | Role::Mirror(_) => {
                let refused = match message {
                    RoomMessage::Publish { id, .. } | RoomMessage::Query { id, .. } => {
                        Refused::Request(id)
                    }
                    RoomMessage::Attach { .. } => Refused::Attach,
                    _ => return,
                };
                self.send(from, RoomMessage::NotHome(refused), node);
            }
        }
    }

    fn answered(&mut self, id: u64, answer: Answer, node: &mut Node) {
        let Some(index) = self.pending.iter().position(|pending| pending.id == id) else { return };
        let Some(pending) = self.pending.remove(index) else { return };
        match pending.reply {
            Reply::To(to) => node.out.push(Out::Answer { to, answer }),
            Reply::Subscriber(subscribe) => self.admit_recovered(subscribe, answer, node),
        }
    }

    fn refused(&mut self, from: NodeId, refused: Refused) {
        match refused {
            Refused::Request(id) => {
                let is_it = |it: &&mut Pending| it.id == id && it.sent == Some(from);
                self.pending.iter_mut().filter(is_it).for_each(|it| it.sent = None);
            }
            Refused::Attach => {
                if let Role::Mirror(mirror) = &mut self.role {
                    mirror.detached_from(from);
                }
            }
        }
    }

    /// The link to a peer is gone, and with it all that was under way on it.
    pub fn link_down(&mut self, peer: NodeId, node: &mut Node) {
        match &mut self.role {
            Role::Home(home) => home.lose(peer, node.now),
            Role::Mirror(mirror) => mirror.detached_from(peer),
            Role::Activating(activation) => activation.link_down(peer),
            Role::Guest => {}
        }
        for pending in self.pending.iter_mut().filter(|it| it.sent == Some(peer)) {
            (pending.sent, pending.maybe_done) = (None, true);
            // Where nothing is kept no one can tell a repeat, so it must not be sent again.
            if matches!(pending.ask, Ask::Publish(_)) && !self.options.keeps_history() {
                pending.deadline = node.now;
            }
        }
        self.settle(node);
    }

    /// The node that is home, as far as this one knows.
    pub(super) fn home(&self, node: &Node) -> Option<NodeId> {
        self.handed_to.or_else(|| node.placement.home(self.slot))
    }

    /// The view has changed: a room given away early is wherever the view says.
    pub fn view_changed(&mut self, node: &mut Node) {
        self.handed_to = None;
        self.settle(node);
    }

    /// Does whatever can be done now. Calling it once more changes nothing.
    pub fn settle(&mut self, node: &mut Node) {
        match self.home(node) {
            Some(home) if home == node.me => self.activate_if_needed(node),
            Some(_) => self.stop_being_home(node),
            None => {}
        }
        match &mut self.role {
            Role::Activating(_) => self.advance_activation(node),
            Role::Home(_) => self.settle_home(node),
            Role::Mirror(_) | Role::Guest => self.settle_mirror(node),
        }
        self.give_up_overdue(node);
        if let Some(stream) = &mut self.stream {
            node.memory.add(-stream.expire(&self.options, node.now));
        }
    }

    /// Another node is home: stop being it, and leave what is to be decided to it.
    fn stop_being_home(&mut self, node: &mut Node) {
        match std::mem::replace(&mut self.role, Role::Guest) {
            Role::Home(_) => {}
            Role::Activating(activation) => {
                for (from, message) in activation.into_held() {
                    self.asked_by_peer(from, message, node);
                }
            }
            role => self.role = role,
        }
    }

    fn activate_if_needed(&mut self, node: &mut Node) {
        if self.is_needed() && matches!(self.role, Role::Guest | Role::Mirror(_)) {
            self.activate(node);
        }
    }

    fn is_needed(&self) -> bool {
        !self.local.is_empty() || !self.pending.is_empty() || !self.waiting.is_empty()
    }

    fn give_up_overdue(&mut self, node: &mut Node) {
        let now = node.now;
        while let Some(index) = self.pending.iter().position(|pending| pending.deadline <= now) {
            let Some(pending) = self.pending.remove(index) else { break };
            match pending.reply {
                Reply::To(to) => {
                    node.out.push(Out::Answer { to, answer: Answer::Failed(ErrorCode::Internal) })
                }
                Reply::Subscriber(subscribe) => self.refuse(subscribe, ErrorCode::Internal, node),
            }
        }
        while let Some(index) = self.waiting.iter().position(|(_, deadline)| *deadline <= now) {
            let (subscribe, _) = self.waiting.swap_remove(index);
            self.refuse(subscribe, ErrorCode::Internal, node);
        }
    }

    pub(super) fn refuse(&mut self, subscribe: Subscribe, error: ErrorCode, node: &mut Node) {
        self.local.remove(subscribe.socket);
        self.local.clients.remove(&subscribe.info.client);
        self.subscribed(subscribe, Err(error), node);
    }

    pub(super) fn send(&self, to: NodeId, message: RoomMessage, node: &mut Node) {
        self.send_all(vec![to], message, node);
    }

    pub(super) fn send_all(&self, to: Vec<NodeId>, message: RoomMessage, node: &mut Node) {
        if !to.is_empty() {
            node.out.push(Out::Send { to, message: Message::Room(self.name.clone(), message) });
        }
    }

    /// Tells the members on this node, and no other.
    pub(super) fn deliver_local(&self, event: Event, node: &mut Node) {
        let workers = self.local.workers();
        if workers != 0 {
            node.out.push(Out::Event { workers, room: self.name.clone(), event });
        }
    }

    /// When something will be due if nothing comes in.
    pub fn next_due(&self) -> Option<Time> {
        let pending = self.pending.iter().map(|pending| pending.deadline);
        let waiting = self.waiting.iter().map(|(_, deadline)| *deadline);
        let expiry = self.stream.as_ref().and_then(|stream| stream.next_expiry(&self.options));
        let role = match &self.role {
            Role::Home(home) => home.next_due(),
            Role::Mirror(mirror) => mirror.next_due(),
            Role::Activating(activation) => Some(activation.deadline),
            Role::Guest => None,
        };
        let end = (!self.is_needed()).then(|| self.last_used + self.keep_for());
        pending.chain(waiting).chain(expiry).chain(role).chain(end).min()
    }

    fn keep_for(&self) -> Duration {
        let said = self.stream.as_ref().is_some_and(|stream| stream.history.top() > 0);
        match (&self.role, said) {
            (Role::Home(_), true) => self.options.history_meta_ttl,
            (Role::Home(_), false) if self.options.keeps_history() => UNUSED,
            (Role::Home(home), _) if !home.is_idle() => UNUSED,
            (Role::Mirror(_) | Role::Activating(_), _) => UNUSED,
            // What a former mirror knows may be all that is left if the home dies now.
            (Role::Guest, true) => UNUSED,
            _ => Duration::ZERO,
        }
    }

    /// Whether the node can forget the room without anyone noticing.
    pub fn is_over(&self, now: Time) -> bool {
        let idle = match &self.role {
            Role::Guest => true,
            Role::Home(home) => home.is_idle(),
            Role::Mirror(_) | Role::Activating(_) => false,
        };
        idle && !self.is_needed() && now.since(self.last_used) >= self.keep_for()
    }
}
