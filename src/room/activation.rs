//! How a node becomes a room's home, and how it stops being one.
//!
//! A node that is to be home asks every other what it knows of the room's stream, takes the best copy, and
//! serves. The same for a room that is new, whose home has left, has died, or has restarted. A home that
//! stops keeps its stream until the next one has it, and offers it until then.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use super::{
    attendance::{Attendance, Clients},
    home::Home,
    line::Line,
    node::Node,
    room::{Handed, Role, Room},
    stream::{Snapshot, Stream},
    types::{Event, Position, RoomName},
};
use crate::{
    cluster::node::NodeId,
    mesh::wire::{MAX_PUBLICATIONS, RoomMessage},
    runtime::time::Time,
};

/// The most requests of peers that wait for an activation; more are refused, and come again.
const MAX_HELD: usize = 1_000;
/// How often a stream is offered to the next home.
const OFFER_AGAIN: Duration = Duration::from_millis(500);

/// A claim under way.
#[derive(Debug)]
pub struct Activation {
    /// This node's number for it.
    claim: u64,
    to_ask: BTreeSet<NodeId>,
    asked: BTreeSet<NodeId>,
    best: Option<Best>,
    /// This node was the last home itself.
    own_clean: bool,
    /// Who was there under the last home, if this node was its successor.
    before: Option<Clients>,
    /// The copy of the best answer is on its way.
    fetching: bool,
    deadline: Time,
    /// What peers have asked meanwhile.
    held: VecDeque<(NodeId, RoomMessage)>,
}

/// The best answer so far.
#[derive(Debug)]
struct Best {
    from: NodeId,
    line: Line,
    /// The last home has given the room over: its epoch goes on.
    clean: bool,
}

/// What a stream is that the next home has yet to take.
#[derive(Debug)]
pub struct Former {
    /// This node was the last home, so the stream is complete.
    clean: bool,
    /// When it is offered next.
    pub(super) next_offer: Time,
}

impl Former {
    /// A stream that is offered from now on.
    pub(super) fn new(clean: bool, now: Time) -> Self {
        Self { clean, next_offer: now }
    }
}

impl Activation {
    /// Keeps a peer's message until it can be dealt with, or gives it back: there are too many.
    pub(super) fn hold(&mut self, from: NodeId, message: RoomMessage) -> Option<RoomMessage> {
        let asks = matches!(message, RoomMessage::Request { .. } | RoomMessage::Attach { .. });
        if asks && self.held.len() >= MAX_HELD {
            return Some(message);
        }
        self.held.push_back((from, message));
        None
    }

    /// The link is gone, and the question or its answer with it: ask again if it comes back in time.
    pub(super) fn lose(&mut self, peer: NodeId, room: &RoomName, node: &mut Node) {
        if self.asked.remove(&peer) {
            self.to_ask.insert(peer);
        }
        self.held.retain(|(from, _)| *from != peer);
        if self.best.as_ref().is_some_and(|best| best.from == peer) {
            self.best = None;
            self.to_ask.extend(node.peers());
            self.to_ask.insert(peer);
            if std::mem::take(&mut self.fetching) {
                node.fetches.end(room);
            }
            self.deadline = node.now + node.settings.claim_timeout;
        }
    }

    /// Whether `stream` is complete: all that the last home has said. `own` is what this node held before.
    fn vouches_for(&self, stream: &Stream, own: Option<&Stream>) -> bool {
        let here = stream.position();
        let clean = self.best.as_ref().filter(|best| best.clean);
        clean.is_some_and(|best| best.line.position() == here)
            || self.own_clean && own.is_some_and(|own| own.position() == here)
    }

    pub(super) fn next_due(&self) -> Option<Time> {
        (!self.fetching).then_some(self.deadline)
    }
}

impl Room {
    /// Begins to become home. Where nothing is kept there is nothing to ask.
    pub(super) fn activate(&mut self, node: &mut Node) {
        let before = match std::mem::replace(&mut self.role, Role::Guest) {
            Role::Mirror(mirror) => {
                if mirror.attached() {
                    self.send(mirror.home, RoomMessage::Detach, node);
                }
                mirror.into_present()
            }
            _ => None,
        };
        self.last_used = node.now;
        if !self.options.keeps_history() {
            self.forget_stream(node);
            return self.open(before, node);
        }
        self.role = Role::Activating(Box::new(Activation {
            claim: node.next_id(),
            to_ask: node.peers(),
            asked: BTreeSet::new(),
            best: None,
            own_clean: self.former.take().is_some_and(|former| former.clean),
            before,
            fetching: false,
            deadline: node.now + node.settings.claim_timeout,
            held: VecDeque::new(),
        }));
    }

    fn open(&mut self, before: Option<Clients>, node: &mut Node) {
        let own = self.local.clients.values().cloned().collect();
        let until = node.now + node.settings.settling;
        let attendance = Attendance::open(node.me, own, before, until);
        self.role = Role::Home(Box::new(Home::new(attendance)));
    }

    /// Asks who can be asked, fetches the best copy, and opens the room.
    pub(super) fn advance_activation(&mut self, node: &mut Node) {
        let Role::Activating(activation) = &mut self.role else { return };
        let (claim, routable) = (activation.claim, &node.routable);
        let reachable: Vec<NodeId> =
            activation.to_ask.iter().copied().filter(|peer| node.reaches(*peer)).collect();
        activation.to_ask.retain(|peer| !reachable.contains(peer) && routable.contains(peer));
        activation.asked.extend(&reachable);
        let answered = activation.asked.is_empty() && activation.to_ask.is_empty();
        let clean = activation.best.as_ref().is_some_and(|best| best.clean);
        let over = answered || clean || node.now >= activation.deadline;
        self.send_all(reachable, RoomMessage::Claim(claim), node);
        if over && !self.fetch_if_better(node) {
            self.finish_activation(None, node);
        }
    }

    /// Fetches the best copy if it is better than this node's own. Returns whether there is something to
    /// wait for.
    fn fetch_if_better(&mut self, node: &mut Node) -> bool {
        let own = self.stream.as_ref().map(Stream::line);
        let Role::Activating(activation) = &mut self.role else { return false };
        if activation.fetching {
            return true;
        }
        let Some(best) = &activation.best else { return false };
        let better = match &own {
            None => true,
            Some(own) if best.clean => own.position() != best.line.position(),
            Some(own) => best.line.is_ahead_of(own),
        };
        if !better {
            return false;
        }
        if node.fetches.begin(&self.name) {
            let (from, claim) = (best.from, activation.claim);
            activation.fetching = true;
            self.send(from, RoomMessage::Fetch(claim), node);
        }
        true
    }

    pub(super) fn claim_answered(
        &mut self,
        from: NodeId,
        claim: u64,
        line: Option<Line>,
        clean: bool,
    ) {
        let Role::Activating(activation) = &mut self.role else { return };
        if activation.claim != claim || !activation.asked.remove(&from) || activation.fetching {
            return;
        }
        let Some(line) = line else { return };
        let better = activation.best.as_ref().is_none_or(|best| match (clean, best.clean) {
            (true, false) => !best.line.is_ahead_of(&line),
            _ => line.is_ahead_of(&best.line),
        });
        if better {
            activation.best = Some(Best { from, line, clean });
        }
    }

    /// Another node asks for this one's copy.
    pub(super) fn fetched_by(&mut self, from: NodeId, claim: u64, node: &mut Node) {
        let snapshot = self.stream.as_ref().map(|it| it.snapshot(node.now, MAX_PUBLICATIONS));
        self.send(from, RoomMessage::Fetched { claim, snapshot }, node);
    }

    pub(super) fn fetched(
        &mut self,
        from: NodeId,
        claim: u64,
        snapshot: Option<Snapshot>,
        node: &mut Node,
    ) {
        let Role::Activating(activation) = &mut self.role else { return };
        let asked = activation.best.as_ref().is_some_and(|best| best.from == from);
        if activation.claim == claim && activation.fetching && asked {
            node.fetches.end(&self.name);
            self.finish_activation(snapshot, node);
        }
    }

    fn finish_activation(&mut self, fetched: Option<Snapshot>, node: &mut Node) {
        let Role::Activating(activation) = std::mem::replace(&mut self.role, Role::Guest) else {
            return;
        };
        let old = self.forget_stream(node);
        let found = match fetched {
            Some(snapshot) => Some(Stream::from_snapshot(snapshot, &self.options, node.now)),
            None => old.clone(),
        };
        let stream = match found {
            None => Stream::new(node.new_epoch()),
            Some(mut stream) => {
                if !activation.vouches_for(&stream, old.as_ref()) {
                    let epoch = node.new_epoch();
                    stream.succeed(epoch);
                }
                stream
            }
        };
        node.memory.kept(&self.name, stream.history.top(), stream.history.bytes() as isize);
        self.stream = Some(stream);
        self.open(activation.before, node);
        // Before anything is served, so that the first publication waits for them too.
        self.choose_successors(node);
        self.tell_own(old.as_ref().map(Stream::position), node);
        self.deal_with(activation.held, node);
        if self.is_home() {
            self.settle_home(node);
        }
    }

    /// Deals with what peers have asked meanwhile. A claim among it may end a home that has just opened.
    fn deal_with(&mut self, held: VecDeque<(NodeId, RoomMessage)>, node: &mut Node) {
        for (from, message) in held {
            match message {
                RoomMessage::Claim(claim) => self.claimed_by(from, claim, node),
                message => self.asked_by_peer(from, message, node),
            }
        }
    }

    /// This node's own subscribers stood at `old` until now, a mirror's or an earlier home's.
    fn tell_own(&mut self, old: Option<Position>, node: &mut Node) {
        let (Some(old), Some(stream)) = (old, &self.stream) else { return };
        let missed = stream.after(old);
        if old.epoch != stream.position().epoch || missed.is_none() {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
    }

    /// Another node is becoming home and asks what this one knows.
    pub(super) fn claimed_by(&mut self, from: NodeId, claim: u64, node: &mut Node) {
        if let Role::Activating(activation) = &mut self.role
            && from > node.me
        {
            // Of two that become home at once the lesser opens first and then gives the room over, so that
            // what it finds, and takes meanwhile, is not lost.
            activation.hold(from, RoomMessage::Claim(claim));
            return;
        }
        let mut clean = self.former.take().is_some_and(|former| former.clean);
        match std::mem::replace(&mut self.role, Role::Guest) {
            Role::Home(home) => {
                self.give_up(*home, node);
                clean = true;
            }
            role => self.role = role,
        }
        let leads = clean || !matches!(self.role, Role::Activating(_)) && self.has_no_other(node);
        if leads {
            // From here on the room is the other's, whatever this node's view still says. The stream stays
            // until it is fetched, and for a while.
            self.handed_to = Some(Handed { to: from, since: node.now, lost: None });
            self.last_used = node.now;
        }
        let line = self.stream.as_ref().map(Stream::line);
        self.send(from, RoomMessage::Claimed { claim, line, clean }, node);
    }

    /// Whether this node knows of no home that lives, or thinks that it should be it: then whoever claims the
    /// room first is it, or both would open it.
    fn has_no_other(&self, node: &Node) -> bool {
        self.home(node).is_none_or(|home| home == node.me || !node.reaches(home))
    }

    /// Another node is home: stop being it, and leave what is to be decided to it.
    pub fn stop_being_home(&mut self, node: &mut Node) {
        match std::mem::replace(&mut self.role, Role::Guest) {
            Role::Home(home) => {
                self.former = Some(Former::new(true, node.now));
                self.last_used = node.now;
                self.hand_over_keys(node);
                self.give_up(*home, node);
            }
            Role::Activating(activation) => {
                node.fetches.end(&self.name);
                let own = self.stream.as_ref();
                let clean = own.is_some_and(|own| activation.vouches_for(own, Some(own)));
                self.former = Some(Former::new(clean, node.now));
                self.last_used = node.now;
                self.deal_with(activation.held, node);
            }
            role => self.role = role,
        }
    }

    /// Offers what the last home held to the next one, until that has it.
    pub(super) fn offer_if_former(&mut self, home: NodeId, node: &mut Node) {
        if self.stream.is_none() {
            self.former = None;
        }
        let Some(former) = self.former.as_mut().filter(|it| node.now >= it.next_offer) else {
            return;
        };
        former.next_offer = node.now + OFFER_AGAIN;
        if node.reaches(home) {
            self.offer(home, node);
        }
    }

    pub(super) fn offer(&self, to: NodeId, node: &mut Node) {
        if let Some(stream) = &self.stream {
            self.send(to, RoomMessage::Offer(stream.line()), node);
        }
    }

    /// Another node holds a stream that it thinks is this one's to go on with.
    pub(super) fn offered(&mut self, from: NodeId, line: Line, node: &mut Node) {
        self.take_back(from);
        if self.home(node) != Some(node.me) {
            return;
        }
        let own = self.stream.as_ref().map(Stream::line);
        let acked = self.acked();
        match std::mem::replace(&mut self.role, Role::Guest) {
            Role::Home(home) => {
                let better = own.is_none_or(|own| {
                    let acked = Position { epoch: own.epoch, offset: acked };
                    (acked.offset == 0 || line.covers(acked)) && line.is_ahead_of(&own)
                });
                if better {
                    self.give_up(*home, node);
                    self.activate(node);
                } else {
                    self.role = Role::Home(home);
                    self.send(from, RoomMessage::Taken, node);
                }
            }
            Role::Activating(mut activation) => {
                // It may have answered before it was a home.
                activation.to_ask.insert(from);
                self.role = Role::Activating(activation);
            }
            role => {
                self.role = role;
                self.activate(node);
            }
        }
    }

    /// The next home has no need of what this one holds.
    pub(super) fn taken(&mut self, from: NodeId, node: &mut Node) {
        if self.home(node) == Some(from) && self.former.take().is_some() {
            self.last_used = node.now;
        }
    }
}
