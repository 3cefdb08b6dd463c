//! One room on one node: what came in for it, and which role the node has in it.
//!
//! In: requests of local sockets and API calls ([`Room::request`]), messages of peers ([`Room::message`]),
//! and the passing of time, of links and of slots ([`Room::settle`]). Out: pushed onto [`Node::out`].
//!
//! ```text
//!           the slot is this node's                      every newer copy is here
//!  Guest ───────────────────────────────► Opening ──────────────────────────────────► Home
//!    │ ▲                                  ([`super::opening`])                ([`super::home`])
//!    │ │ nobody needs it                     │                                           │
//!    ▼ │                                     ▼        the slot is another's              ▼
//!  Mirror ([`super::mirror`]) ◄──────────────┴───────────────────────────────────────────┘
//! ```
//!
//! Which role a room has follows from whose its slot is ([`crate::cluster::slots`]). A change of that, or of a
//! link, is looked for whenever something happens in the room, so none has to be told to all rooms at once.

use std::{collections::VecDeque, sync::Arc};

use super::{
    home::Home,
    idempotency::IdempotencyKeys,
    line::Standing,
    local::Local,
    messages::{Held, Refused, RoomMessage},
    mirror::Mirror,
    node::{Node, Out},
    opening::Opening,
    options::RoomOptions,
    presence::Presence,
    requests::{Asker, Pending, Requests},
    stream::Stream,
    transfer::{Outgoing, weight_of_answer},
    types::{Answer, Failure, HomeRequest, Publication, Request, RoomName, Subscribe},
};
use crate::{
    cluster::{
        node::NodeId,
        placement,
        slots::{Ownership, Term},
    },
    runtime::time::Time,
};

/// One room on one node. There may be very many, most of them without history and with nothing under way, so what
/// those don't need is boxed.
#[derive(Debug)]
pub struct Room {
    pub(super) name: RoomName,
    pub(super) slot: u16,
    pub(super) options: Arc<RoomOptions>,
    pub(super) role: Role,
    /// The home's own, or a copy of it. Stays when the role changes.
    pub(super) stream: Option<Box<Stream>>,
    /// In a room without history: the idempotency keys that its home has seen lately.
    pub(super) keys: Option<Box<IdempotencyKeys>>,
    /// Who is there, as the home knows it, and its successors.
    pub(super) present: Option<Box<Presence>>,
    /// How often someone has come or gone.
    pub(super) attendance: u64,
    /// Quorum: what waits for a majority to have it before members may.
    #[expect(clippy::box_collection, reason = "smaller while there is none, as in most rooms")]
    pub(super) uncommitted: Option<Box<VecDeque<Arc<Publication>>>>,
    pub(super) local: Local,
    /// What needs the home and has no answer yet.
    pub(super) requests: Requests,
    /// Subscribers that came before the room was live here, and until when they wait.
    pub(super) waiting: VecDeque<(Subscribe, Time)>,
    /// What is held here was a home's or a successor's: it is kept until the home says that others have it.
    pub(super) owed: bool,
    /// This node was home until the claim of this term.
    pub(super) given: Option<Box<Term>>,
    /// What is sent to peers in pages.
    pub(super) outgoing: Vec<Outgoing>,
    pub(super) last_used: Time,
    /// When the registry is to call [`Room::settle`] next.
    pub(super) due: Option<Time>,
    /// What [`Room::idle_since`] said when the registry asked last.
    pub(super) noted_idle: Option<Time>,
    /// What [`Room::is_to_be_taken`] said when the registry asked last.
    pub(super) noted_to_be_taken: bool,
    /// What [`Room::is_behind`] said when the registry asked last.
    pub(super) noted_behind: bool,
    /// What [`Room::is_moving`] said when the registry asked last.
    pub(super) noted_moving: bool,
}

/// What a node is in a room.
#[derive(Debug)]
pub enum Role {
    /// Nothing: another is home, and this node does not listen to it.
    Guest,
    /// It listens to the home: it has subscribers, or had until just now, or is a successor.
    Mirror(Box<Mirror>),
    /// It is to be home, and has yet to get the newest copy.
    Opening(Box<Opening>),
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
            present: None,
            attendance: 0,
            uncommitted: None,
            local: Local::default(),
            requests: Requests::default(),
            waiting: VecDeque::new(),
            owed: false,
            given: None,
            outgoing: Vec::new(),
            last_used: now,
            due: None,
            noted_idle: None,
            noted_to_be_taken: false,
            noted_behind: false,
            noted_moving: false,
        }
    }

    /// This node's subscribers.
    pub fn local(&self) -> &Local {
        &self.local
    }

    /// The stream as far as this node has it.
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_deref()
    }

    /// Whether this node is home.
    pub fn is_home(&self) -> bool {
        matches!(self.role, Role::Home(_))
    }

    /// Whether something would be lost if the node left now, or would have a copy less: a home that is without one of
    /// its successors finds another for all of its rooms at once, and has nobody beside it until then.
    pub fn is_to_be_taken(&self) -> bool {
        let is_needed = match &self.role {
            Role::Opening(_) | Role::Home(_) => true,
            Role::Mirror(mirror) => mirror.is_invited(),
            Role::Guest => false,
        };
        self.holds_something() && (is_needed || self.owed)
    }

    /// Whether it has yet to come to this node, or to those that are to have copies beside it.
    pub(super) fn is_moving(&self) -> bool {
        match &self.role {
            Role::Opening(_) => true,
            Role::Home(home) => home.has_holders() || home.replication.is_changing(),
            Role::Guest | Role::Mirror(_) => false,
        }
    }

    /// Whether acknowledgements do without a successor that is too slow, until it has caught up.
    pub(super) fn is_behind(&self) -> bool {
        matches!(&self.role, Role::Home(home) if home.replication.is_behind())
    }

    /// What is held here that the next home needs: a stream, if only its epoch, keys, or who is there.
    pub(super) fn held(&self) -> Option<Held> {
        self.holds_something()
            .then(|| Held { standing: self.standing(), given: self.given.as_deref().copied() })
    }

    pub(super) fn standing(&self) -> Standing {
        let standing = self.copy().map(Stream::standing).unwrap_or_default();
        Standing { attendance: self.attendance, ..standing }
    }

    pub(super) fn holds_something(&self) -> bool {
        let present =
            || self.needs_copies() && self.present.as_ref().is_some_and(|it| !it.is_empty());
        self.copy().is_some() || self.keys.is_some() || present()
    }

    /// The stream, if it is a copy that a home can go on from. A mirror that is no successor has only the end of what
    /// is on disk elsewhere: that serves its subscribers, and is nobody's beginning.
    pub fn copy(&self) -> Option<&Stream> {
        let on_disk = self.options.is_on_disk();
        self.stream.as_deref().filter(|it| !on_disk || it.logged.is_some())
    }

    /// A local socket or API call asks for something.
    pub fn request(&mut self, request: Request, node: &mut Node) {
        self.last_used = node.now;
        match request {
            Request::Subscribe(subscribe) => {
                self.add_local(subscribe.socket, node);
                let until = node.now + node.settings.publish_timeout;
                self.waiting.push_back((subscribe, until));
            }
            Request::Unsubscribe { socket, client, reply } => {
                self.unsubscribe(socket, client, node);
                node.out.push(Out::Unsubscribed { socket, reply, room: self.name.clone() });
            }
            Request::Publish(publication, reply) => {
                self.ask(HomeRequest::Publish(publication), Asker::To(reply), node);
            }
            Request::Query(query, reply) => {
                self.ask(HomeRequest::Query(query), Asker::To(reply), node)
            }
            Request::Group(request, reply) => {
                self.ask(HomeRequest::Group(request), Asker::To(reply), node)
            }
            Request::Map(request, reply) => {
                self.ask(HomeRequest::Map(request), Asker::To(reply), node)
            }
        }
        self.settle(node);
    }

    pub(super) fn ask(&mut self, ask: HomeRequest, reply: Asker, node: &mut Node) {
        let deadline = node.now + node.settings.publish_timeout;
        let pending = Pending { id: node.next_id(), ask, reply, deadline };
        if let Err(pending) = self.requests.push(pending) {
            self.fail(pending, Failure::Overloaded, node);
        }
    }

    /// A peer says something about the room.
    pub fn message(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        // What it says may have been true before the slot or the link changed.
        self.follow_slot(node);
        match message {
            RoomMessage::Answer { id, answer } => {
                if let Some(weight) = weight_of_answer(&answer) {
                    node.dealt_with(from, weight);
                }
                self.answered(from, id, answer, node);
            }
            RoomMessage::Part { id, answer } => {
                if let Some(weight) = weight_of_answer(&answer) {
                    node.dealt_with(from, weight);
                }
                self.requests.part_came(from, id, answer);
            }
            RoomMessage::NotHome(refused) => self.refused(from, refused, node),
            RoomMessage::Page(page) => self.page_came(from, *page, node),
            RoomMessage::Fetch(id) => self.fetched_by(from, id, node),
            RoomMessage::Invite => self.invited(from, node),
            RoomMessage::Push(messages) => self.push_local(messages, node),
            RoomMessage::Release => self.released(from, node),
            RoomMessage::FetchPublication { id, root, term, at } => {
                self.publication_wanted((from, id), (root, term), at, node);
            }
            RoomMessage::Publication { id, age, entry } => {
                self.publication_came((from, id), age, entry, node);
            }
            RoomMessage::Deliver { .. }
            | RoomMessage::Committed(_)
            | RoomMessage::Joined(..)
            | RoomMessage::Left(_)
            | RoomMessage::HistoryRemoved
            | RoomMessage::Dismiss => {
                self.last_used = node.now;
                self.follow(from, message, node);
            }
            RoomMessage::Request { .. }
            | RoomMessage::Attach { .. }
            | RoomMessage::Clients { .. }
            | RoomMessage::Detach
            | RoomMessage::Join(_)
            | RoomMessage::Leave(_)
            | RoomMessage::Has(_) => {
                self.last_used = node.now;
                self.asked_by_peer(from, message, node);
            }
        }
        self.settle(node);
    }

    /// Requests of peers are for the home; who isn't says so.
    pub(super) fn asked_by_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        let asks = matches!(message, RoomMessage::Request { .. } | RoomMessage::Attach { .. });
        // Whoever has answered the claim knows before this node does that the slot is its own.
        let claimed = !matches!(self.ownership(node), Ownership::Theirs(_));
        if asks && claimed {
            self.begin_to_open_unless_home(node);
            self.try_to_open(node);
        }
        match &mut self.role {
            Role::Home(_) => self.serve_peer(from, message, node),
            // All of it or nothing: what comes later is about what came before.
            Role::Opening(opening) => {
                let Some(link) = node.link(from) else { return };
                if let Some(message) = opening.hold((from, link), message) {
                    self.refuse_peer(from, &message, node);
                }
            }
            _ => self.refuse_peer(from, &message, node),
        }
    }

    pub(super) fn refuse_peer(&self, from: NodeId, message: &RoomMessage, node: &mut Node) {
        let refused = match message {
            RoomMessage::Request { run, .. } => Refused::Run(*run),
            RoomMessage::Attach { id, .. } => Refused::Attach(*id),
            _ => return,
        };
        self.send_to(from, RoomMessage::NotHome(refused), node);
    }

    fn answered(&mut self, from: NodeId, id: u64, answer: Answer, node: &mut Node) {
        let Some((pending, answer)) = self.requests.answered(from, id, answer) else { return };
        match pending.reply {
            Asker::To(to) => node.out.push(Out::Answer { to, answer }),
            Asker::Subscriber(subscribe) => self.admit_recovered(*subscribe, answer, node),
        }
    }

    fn refused(&mut self, from: NodeId, refused: Refused, node: &mut Node) {
        match (refused, &mut self.role) {
            (Refused::Run(run), _) => {
                node.slots.denied(from, self.slot);
                self.requests.refused(from, run, node.now);
            }
            (Refused::Attach(id), role) => {
                node.slots.denied(from, self.slot);
                if let Role::Mirror(mirror) = role {
                    mirror.refused(from, id, node.now);
                }
            }
            (Refused::Fetch(id), role) => {
                if let Role::Opening(opening) = role
                    && opening.has_no_copy(from, id)
                {
                    node.fetches.end(&self.name);
                }
                self.repair_refused((from, id), node);
            }
            (Refused::Delivery(term), Role::Home(_) | Role::Opening(_)) => {
                node.claim_anew.extend(node.slots.refused(None, &[(self.slot, term)]));
            }
            _ => {}
        }
    }

    /// What was sent on a link that is gone.
    fn lose_requests(&mut self, node: &mut Node) {
        let Some((peer, link)) = self.requests.sent_on() else { return };
        if node.link(peer) != Some(link) {
            for pending in self.requests.lose(peer, self.options.keeps_history()) {
                self.fail(pending, Failure::Unavailable, node);
            }
        }
    }

    /// Who the room's slot belongs to.
    pub(super) fn ownership(&self, node: &Node) -> Ownership {
        node.ownership(self.slot, self.options.keeps_history())
    }

    /// The node that is home, or should be, as far as this one knows.
    pub(super) fn owner(&self, node: &Node) -> Option<NodeId> {
        match self.ownership(node) {
            Ownership::Mine(_) => Some(node.me),
            _ => node.owner(self.slot),
        }
    }

    /// Takes the role that follows from whose the slot is.
    pub(super) fn follow_slot(&mut self, node: &mut Node) {
        let ownership = self.ownership(node);
        match (&self.role, ownership) {
            (Role::Home(home), Ownership::Mine(term)) if home.term == term => {}
            (Role::Home(_), _) => self.stop_being_home(node),
            (Role::Opening(_), Ownership::Theirs(_))
                if self.owner(node).is_some_and(|owner| owner != node.me) =>
            {
                self.stop_opening(node);
            }
            _ => {}
        }
        if self.owner(node) != Some(node.me) {
            return;
        }
        let owned = matches!(ownership, Ownership::Mine(_));
        // What is on disk waits there until someone needs it, unless another node may have to have a copy.
        let rests = self.is_cold() && !node.wakes_guests(self.slot);
        let wanted = match self.role {
            Role::Guest => self.is_needed() || owned && self.holds_something() && !rests,
            // What the last home said last may still be on its way.
            Role::Mirror(_) => owned || !self.requests.is_empty() || !self.waiting.is_empty(),
            _ => false,
        };
        if wanted {
            self.begin_to_open_unless_home(node);
        }
    }

    /// Does whatever can be done now. Calling it once more changes nothing.
    pub fn settle(&mut self, node: &mut Node) {
        self.follow_slot(node);
        self.lose_requests(node);
        self.outgoing.retain(|it| node.link(it.to) == Some(it.link));
        self.give_up_overdue(node);
        self.retry_log(node);
        self.read_again_for_copies(node);
        self.go_on_with_repairs(node);
        match &mut self.role {
            Role::Opening(_) => self.try_to_open(node),
            Role::Home(_) => self.settle_home(node),
            Role::Mirror(_) | Role::Guest => self.settle_mirror(node),
        }
        if let Some(stream) = &mut self.stream {
            node.memory.add(-stream.expire(&self.options, node.now));
        }
        if let Some(keys) = &mut self.keys {
            keys.expire(node.now);
            self.keys.take_if(|keys| keys.is_empty());
        }
    }

    pub(super) fn is_needed(&self) -> bool {
        !self.local.is_empty() || !self.requests.is_empty() || !self.waiting.is_empty()
    }

    /// Whether someone waits for the room.
    pub(super) fn is_waited_for(&self) -> bool {
        let held = matches!(&self.role, Role::Opening(it) if it.is_waited_for());
        !self.requests.is_empty() || !self.waiting.is_empty() || held
    }

    fn give_up_overdue(&mut self, node: &mut Node) {
        let minority = self.options.keeps_history() && node.is_in_minority();
        while let Some(pending) = match minority {
            // What is published could not be kept, and what is read here may be out of date.
            true => self.requests.take(),
            false => self.requests.overdue(node.now),
        } {
            self.fail(pending, Failure::Unavailable, node);
        }
        while self.waiting.front().is_some_and(|(_, until)| *until <= node.now) {
            let Some((subscribe, _)) = self.waiting.pop_front() else { break };
            self.refuse(subscribe, Failure::Unavailable, node);
        }
    }

    fn fail(&mut self, pending: Pending, error: Failure, node: &mut Node) {
        match pending.reply {
            Asker::To(to) => node.out.push(Out::Answer { to, answer: Answer::Failed(error) }),
            Asker::Subscriber(subscribe) => self.refuse(*subscribe, error, node),
        }
    }

    pub(super) fn send_to(&self, to: NodeId, message: RoomMessage, node: &mut Node) {
        node.send_to(vec![to], &self.name, message);
    }
}
