//! One room on one node: what came in for it, and which role the node has in it.
//!
//! In: requests of local sockets and API calls ([`Room::request`]), messages of peers ([`Room::message`]),
//! and the passing of time and change of view ([`Room::settle`]). Out: pushed onto [`Node::out`]. What the
//! home does is in [`super::home`], what a mirror does in [`super::mirror`], how a node becomes a home and
//! stops being one in [`super::activation`].

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    activation::{Activation, Former},
    home::Home,
    keys::{self, Keys},
    local::Local,
    mirror::Mirror,
    node::{Node, Out},
    options::RoomOptions,
    requests::{Pending, Reply, Requests},
    stream::Stream,
    types::{Answer, Ask, ClientId, Event, Request, RoomName, SocketRef, Subscribe, Subscribed},
};
use crate::{
    cluster::{node::NodeId, placement},
    mesh::wire::{Message, Refused, RoomMessage},
    protocol::codes::ErrorCode,
    runtime::time::Time,
};

/// How long a room that nobody uses and in which nothing was ever said keeps its epoch, and how long a copy
/// of the stream is kept that no home has asked for.
const UNUSED: Duration = Duration::from_secs(60);

/// How long a node that was given a room has for letting others know.
const SILENT: Duration = Duration::from_secs(2);

/// One room on one node.
#[derive(Debug)]
pub struct Room {
    pub(super) name: RoomName,
    pub(super) slot: u16,
    pub(super) options: Arc<RoomOptions>,
    pub(super) role: Role,
    /// The home's own, or a copy of it. Stays when the role changes.
    pub(super) stream: Option<Stream>,
    /// In a room without history: the idempotency keys that its home has seen lately.
    pub(super) keys: Option<Box<Keys>>,
    pub(super) local: Local,
    /// What needs the home and has no answer yet.
    pub(super) requests: Requests,
    /// Subscribers that came before the room was live here, and until when they wait.
    pub(super) waiting: VecDeque<(Subscribe, Time)>,
    /// The node that this one gave the room to before its own view said so.
    pub(super) handed_to: Option<Handed>,
    /// What the stream held here is to the next home, until that has it.
    pub(super) former: Option<Former>,
    pub(super) last_used: Time,
    /// When the registry is to call [`Room::settle`] next.
    pub(super) due: Option<Time>,
    /// What [`Room::idle_since`] said when the registry asked last.
    pub(super) noted_idle: Option<Time>,
}

/// Whom a room was given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handed {
    /// The node.
    pub to: NodeId,
    /// Since when it has the room.
    pub since: Time,
    /// When the link to it broke. It has the room still, as long as the grace of a link lasts.
    pub lost: Option<Time>,
}

/// What a node is in a room.
#[derive(Debug)]
pub enum Role {
    /// Nothing: another is home, and this node does not listen to it.
    Guest,
    /// It listens to the home: it has subscribers, or had until just now, or is a successor.
    Mirror(Box<Mirror>),
    /// It is to be home and asks the others what they know.
    Activating(Box<Activation>),
    /// It is home.
    Home(Box<Home>),
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
            keys: None,
            local: Local::default(),
            requests: Requests::default(),
            waiting: VecDeque::new(),
            handed_to: None,
            former: None,
            last_used: now,
            due: None,
            noted_idle: None,
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

    /// Whether something would be lost if the node left now.
    pub fn is_to_be_taken(&self) -> bool {
        let is_home = matches!(self.role, Role::Activating(_) | Role::Home(_));
        self.holds_something() && (is_home || self.former.is_some())
    }

    /// A local socket or API call asks for something.
    pub fn request(&mut self, request: Request, node: &mut Node) {
        self.last_used = node.now;
        match request {
            Request::Subscribe(subscribe) => {
                node.subscriptions += usize::from(self.local.add(subscribe.socket));
                let until = node.now + node.settings.publish_timeout;
                self.waiting.push_back((subscribe, until));
            }
            Request::Unsubscribe { socket, client, reply } => {
                self.unsubscribe(socket, client, node);
                node.out.push(Out::Unsubscribed { socket, reply, room: self.name.clone() });
            }
            Request::Publish(_, to) if self.options.keeps_history() && node.is_in_minority() => {
                node.out.push(Out::Answer { to, answer: Answer::Failed(ErrorCode::Internal) });
            }
            Request::Publish(publication, reply) => {
                self.ask(Ask::Publish(publication), Reply::To(reply), node);
            }
            Request::Query(query, reply) => self.ask(Ask::Query(query), Reply::To(reply), node),
        }
        self.settle(node);
    }

    pub(super) fn ask(&mut self, ask: Ask, reply: Reply, node: &mut Node) {
        let deadline = node.now + node.settings.publish_timeout;
        let pending = Pending { id: node.next_id(), ask, reply, deadline };
        if let Err(pending) = self.requests.push(pending) {
            self.fail(pending, ErrorCode::TooManyRequests, node);
        }
    }

    fn unsubscribe(&mut self, socket: SocketRef, client: ClientId, node: &mut Node) {
        if !self.local.remove(socket) {
            return;
        }
        node.subscriptions -= 1;
        self.waiting.retain(|(waiting, _)| waiting.socket != socket);
        self.requests.forget(socket);
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
        match message {
            RoomMessage::Answer { id, answer } => self.answered(from, id, answer, node),
            RoomMessage::NotHome(refused) => self.refused(from, refused, node),
            RoomMessage::Claim(claim) => self.claimed_by(from, claim, node),
            RoomMessage::Fetch(claim) => self.fetched_by(from, claim, node),
            RoomMessage::Claimed { claim, line, clean } => {
                self.claim_answered(from, claim, line, clean);
            }
            RoomMessage::Fetched { claim, snapshot } => {
                self.fetched(from, claim, snapshot, node);
            }
            RoomMessage::Offer(line) => self.offered(from, line, node),
            RoomMessage::Taken => self.taken(from, node),
            RoomMessage::Invite => self.invited(from, node),
            RoomMessage::Keys(keys) => self.learn_keys(keys, node),
            RoomMessage::Attached { .. }
            | RoomMessage::Deliver(..)
            | RoomMessage::Joined(_)
            | RoomMessage::Left(_)
            | RoomMessage::HistoryRemoved
            | RoomMessage::Dismiss => self.follow(from, message, node),
            RoomMessage::Request { .. }
            | RoomMessage::Attach { .. }
            | RoomMessage::Detach
            | RoomMessage::Join(_)
            | RoomMessage::Leave(_)
            | RoomMessage::Have(_) => {
                self.last_used = node.now;
                self.asked_by_peer(from, message, node);
            }
        }
        self.settle(node);
    }

    /// Requests of peers are for the home; who isn't says so.
    pub(super) fn asked_by_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        let asks = matches!(message, RoomMessage::Request { .. } | RoomMessage::Attach { .. });
        if asks {
            self.take_back(from);
            self.take_back_from_the_silent(node);
        }
        if asks && self.home(node) == Some(node.me) {
            self.activate_if_not_home(node);
        }
        match &mut self.role {
            Role::Home(_) => self.serve_peer(from, message, node),
            Role::Activating(activation) => {
                if let Some(message) = activation.hold(from, message) {
                    self.refuse_peer(from, &message, node);
                }
            }
            Role::Guest | Role::Mirror(_) => self.refuse_peer(from, &message, node),
        }
    }

    pub(super) fn refuse_peer(&self, from: NodeId, message: &RoomMessage, node: &mut Node) {
        let refused = match message {
            RoomMessage::Request { run, .. } => Refused::Run(*run),
            RoomMessage::Attach { id, .. } => Refused::Attach(*id),
            _ => return,
        };
        self.send(from, RoomMessage::NotHome(refused), node);
    }

    fn answered(&mut self, from: NodeId, id: u64, answer: Answer, node: &mut Node) {
        let Some(pending) = self.requests.answered(from, id) else { return };
        match pending.reply {
            Reply::To(to) => node.out.push(Out::Answer { to, answer }),
            Reply::Subscriber(subscribe) => self.admit_recovered(*subscribe, answer, node),
        }
    }

    fn refused(&mut self, from: NodeId, refused: Refused, node: &mut Node) {
        self.take_back(from);
        match (refused, &mut self.role) {
            (Refused::Run(run), _) => self.requests.refused(from, run, node.now),
            (Refused::Attach(id), Role::Mirror(mirror)) => mirror.refused(from, id, node.now),
            (Refused::Attach(_), _) => {}
        }
    }

    /// The link to a peer is gone, and with it all that was under way on it.
    pub fn link_down(&mut self, peer: NodeId, node: &mut Node) {
        if let Some(handed) = self.handed_to.as_mut().filter(|handed| handed.to == peer) {
            handed.lost.get_or_insert(node.now);
        }
        match &mut self.role {
            Role::Home(home) => home.lose(peer, node.now),
            Role::Mirror(mirror) => mirror.lose(peer),
            Role::Activating(activation) => activation.lose(peer, &self.name, node),
            Role::Guest => {}
        }
        self.lose_requests(peer, node);
        self.settle(node);
    }

    fn lose_requests(&mut self, peer: NodeId, node: &mut Node) {
        for pending in self.requests.lose(peer, self.options.keeps_history()) {
            self.fail(pending, ErrorCode::Internal, node);
        }
    }

    /// The node that is home, as far as this one knows.
    pub(super) fn home(&self, node: &Node) -> Option<NodeId> {
        self.handed_to.map(|handed| handed.to).or_else(|| node.placement.home(self.slot))
    }

    /// A node that was given the room does not have it (any more).
    pub(super) fn take_back(&mut self, from: NodeId) {
        if self.handed_to.is_some_and(|handed| handed.to == from) {
            self.handed_to = None;
        }
    }

    /// Others still take this node for the home, and so does its own view: whoever was given the room may have
    /// stopped before it was home. If it has it after all, it will be asked.
    fn take_back_from_the_silent(&mut self, node: &Node) {
        let here = node.placement.home(self.slot) == Some(node.me);
        if here && self.handed_to.is_some_and(|it| node.now.since(it.since) >= SILENT) {
            self.handed_to = None;
        }
    }

    fn take_back_from_the_lost(&mut self, node: &Node) {
        let Some(handed) = &mut self.handed_to else { return };
        let grace = node.settings.link_grace;
        if node.reaches(handed.to) {
            handed.lost = None;
        } else if handed.lost.is_none_or(|lost| node.now.since(lost) >= grace) {
            self.handed_to = None;
        }
    }

    /// The view has changed. A room given away early is wherever the view says, unless that is still here.
    pub fn view_changed(&mut self, node: &mut Node) {
        if node.placement.home(self.slot) != Some(node.me) {
            self.handed_to = None;
        }
        self.requests.view_changed();
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.view_changed();
        }
        self.settle(node);
    }

    /// A peer is no longer one that rooms are routed to: what it was asked may never be answered.
    pub fn unroutable(&mut self, peer: NodeId, node: &mut Node) {
        self.lose_requests(peer, node);
    }

    /// Does whatever can be done now. Calling it once more changes nothing.
    pub fn settle(&mut self, node: &mut Node) {
        self.take_back_from_the_lost(node);
        match self.home(node) {
            Some(home) if home != node.me => self.stop_being_home(node),
            Some(_) if self.is_needed() || self.holds_something() => {
                self.activate_if_not_home(node);
            }
            _ => {}
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
        if let Some(keys) = &mut self.keys {
            keys.expire(node.now);
            self.keys.take_if(|keys| keys.is_empty());
        }
    }

    fn activate_if_not_home(&mut self, node: &mut Node) {
        if !matches!(self.role, Role::Home(_) | Role::Activating(_)) {
            self.activate(node);
        }
    }

    fn is_needed(&self) -> bool {
        !self.local.is_empty() || !self.requests.is_empty() || !self.waiting.is_empty()
    }

    /// Whether something was said in the room that would be lost with this copy.
    pub(super) fn holds_something(&self) -> bool {
        self.stream.as_ref().is_some_and(|stream| stream.history.top() > 0)
    }

    fn give_up_overdue(&mut self, node: &mut Node) {
        while let Some(pending) = self.requests.overdue(node.now) {
            self.fail(pending, ErrorCode::Internal, node);
        }
        while self.waiting.front().is_some_and(|(_, until)| *until <= node.now) {
            let Some((subscribe, _)) = self.waiting.pop_front() else { break };
            self.refuse(subscribe, ErrorCode::Internal, node);
        }
    }

    fn fail(&mut self, pending: Pending, error: ErrorCode, node: &mut Node) {
        match pending.reply {
            Reply::To(to) => node.out.push(Out::Answer { to, answer: Answer::Failed(error) }),
            Reply::Subscriber(subscribe) => self.refuse(*subscribe, error, node),
        }
    }

    pub(super) fn refuse(&mut self, subscribe: Subscribe, error: ErrorCode, node: &mut Node) {
        node.subscriptions -= usize::from(self.local.remove(subscribe.socket));
        self.local.clients.remove(&subscribe.info.client);
        self.subscribed(subscribe, Err(error), node);
    }

    pub(super) fn subscribed(
        &self,
        subscribe: Subscribe,
        result: Result<Subscribed, ErrorCode>,
        node: &mut Node,
    ) {
        let Subscribe { socket, id, flags, wish, .. } = subscribe;
        node.out.push(Out::Subscribed { socket, id, room: self.name.clone(), flags, wish, result });
    }

    /// Lets a subscriber in, or tells it why not. The same in a home and in a mirror.
    pub(super) fn admit(&mut self, subscribe: Subscribe, subscribed: Subscribed, node: &mut Node) {
        if subscribe.must_recover && subscribed.recovery == super::types::Recovery::Failed {
            return self.refuse(subscribe, ErrorCode::UnrecoverablePosition, node);
        }
        let info = subscribe.info.clone();
        self.subscribed(subscribe, Ok(subscribed), node);
        if !self.options.knows(&info) {
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
    pub fn next_due(&self, node: &Node) -> Option<Time> {
        let waiting = self.waiting.front().map(|(_, until)| *until);
        let expiry = self.stream.as_ref().and_then(|stream| stream.next_expiry(&self.options));
        let keys = self.keys.as_ref().and_then(|keys| keys.next_expiry());
        let role = match &self.role {
            Role::Home(home) => home.next_due(&node.settings),
            Role::Mirror(mirror) => mirror.next_due(),
            Role::Activating(activation) => activation.next_due(),
            Role::Guest => None,
        };
        let offer = self.former.as_ref().map(|former| former.next_offer);
        let lost = self.handed_to.and_then(|handed| handed.lost);
        let back = lost.map(|lost| lost + node.settings.link_grace);
        let all = [self.requests.next_due(), waiting, expiry, keys, role, offer, back];
        all.into_iter().chain([self.keep_until()]).flatten().min()
    }

    /// Until when the node keeps the room for nobody; none while it is in use.
    fn keep_until(&self) -> Option<Time> {
        let said = self.holds_something();
        let keep = match &self.role {
            _ if self.is_needed() => return None,
            Role::Activating(_) | Role::Mirror(_) => return None,
            Role::Home(home) if !home.is_idle() => return None,
            Role::Home(_) if said => self.options.history_meta_ttl,
            Role::Guest if said && self.former.is_some() => self.options.history_meta_ttl,
            Role::Home(_) if self.options.keeps_history() => UNUSED,
            Role::Guest if self.stream.is_some() => UNUSED,
            Role::Home(_) | Role::Guest if self.keys.is_some() => keys::WINDOW,
            Role::Home(_) | Role::Guest => Duration::ZERO,
        };
        Some(self.last_used + keep)
    }

    /// Since when nobody uses the room; none while someone does.
    pub(super) fn idle_since(&self) -> Option<Time> {
        self.keep_until().map(|_| self.last_used)
    }

    /// Whether the node can forget the room without anyone noticing.
    pub fn is_over(&self, now: Time) -> bool {
        self.keep_until().is_some_and(|until| until <= now)
    }

    /// The node forgets the room.
    pub fn end(&mut self, node: &mut Node) {
        if let Role::Home(home) = &self.role {
            self.send_all(home.replication.successors(), RoomMessage::Dismiss, node);
        }
        if let Some(stream) = self.stream.take() {
            node.memory.add(-(stream.history.bytes() as isize));
        }
    }
}
