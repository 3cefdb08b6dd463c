//! What a room's home does: give every publication its place, send it to who listens, answer for it once the
//! successors have it. Who listens is in [`super::listeners`], who is there in [`super::attendance`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use litemap::LiteMap;

use super::{
    dormant::DormantHome,
    group::GroupHome,
    listeners::Listener,
    map::MapHome,
    messages::{Refused, RoomMessage},
    node::{Node, Out},
    reading::{Reader, Reading, Wanted},
    replication::{Replication, Unacked, Whom},
    requests::{Asker, Pending},
    room::{Role, Room},
    stream::Stream,
    types::{Answer, Failure, HomeRequest, Query, Recovery, Subscribe, Subscribed},
};
use crate::{
    cluster::{node::NodeId, slots::Term},
    runtime::time::Time,
};

/// How often a home looks whether nodes that have not attached are still to come.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What only the home knows of a room.
#[derive(Debug)]
pub struct Home {
    /// The term in which this node owns the room's slot.
    pub(super) term: Term,
    /// A sorted list, like [`Self::runs`]: most rooms have a node or two here, and there may be very many rooms.
    pub(super) listeners: LiteMap<NodeId, Listener>,
    pub(super) replication: Replication,
    /// The run of requests that each node is in, and which of it comes next.
    runs: LiteMap<NodeId, (u64, u32)>,
    /// Whether the application takes the room for one that someone is in.
    pub(super) occupied: bool,
    /// Nothing is known of the home before: until when whoever attaches may have been there under it.
    pub(super) unknown: Option<Box<(Time, BTreeSet<NodeId>)>>,
    /// The nodes that hold a copy which they keep until they are told that others have it.
    holders: Vec<NodeId>,
    /// It is to have other successors, and waits for its turn.
    waits_to_change: bool,
    /// What is being read from the log for someone. Boxed: few rooms have any.
    #[expect(clippy::box_collection, reason = "smaller while there is none, as in most rooms")]
    pub(super) readings: Option<Box<Vec<Reading>>>,
    /// What follows from its publications. Boxed: few rooms have such.
    pub(super) derived: Option<Box<Derived>>,
    /// Up to where what is here may be given to consumers: all that had to have it have had it.
    pub(super) acked: u64,
}

/// What follows from the publications of a room, at its home.
#[derive(Debug, Default)]
pub(super) struct Derived {
    /// The group whose room it is; none while it is looked at.
    pub(super) group: Option<Box<GroupHome>>,
    /// The map that it is.
    pub(super) map: Option<MapHome>,
}

impl Home {
    /// A home in this term. With `unknown`, clients that come with a node that attaches for the first time until
    /// then were there before.
    pub(super) fn new(term: Term, unknown: Option<Time>) -> Self {
        Self {
            term,
            listeners: LiteMap::new(),
            replication: Replication::default(),
            runs: LiteMap::new(),
            occupied: false,
            unknown: unknown.map(|until| Box::new((until, BTreeSet::new()))),
            holders: Vec::new(),
            waits_to_change: false,
            readings: None,
            derived: None,
            acked: 0,
        }
    }

    /// A home that has come back into memory as it was.
    pub(super) fn woken(dormant: DormantHome, top: u64) -> Self {
        let DormantHome { term, successors, runs } = dormant;
        let listener = |(peer, attach, link)| (peer, Listener::at_rest(attach, link));
        Self {
            replication: Replication::at_rest(successors.iter().map(|it| it.0), top),
            listeners: successors.into_iter().map(listener).collect(),
            runs: runs.into_iter().map(|(peer, run, next)| (peer, (run, next))).collect(),
            acked: top,
            ..Self::new(term, None)
        }
    }

    /// What is remembered of one in which nothing is under way.
    pub(super) fn to_dormant(&self, node: &Node) -> DormantHome {
        let successors = self.listeners.iter();
        let successors = successors.filter_map(|(peer, it)| {
            it.attachment(node, *peer).map(|(attach, link)| (*peer, attach, link))
        });
        let runs = self.runs.iter().map(|(peer, (run, next))| (*peer, *run, *next));
        DormantHome { term: self.term, successors: successors.collect(), runs: runs.collect() }
    }

    /// Whether nothing is under way, nobody is there, and the nodes `wanted` have all that there is, up to `top`, and
    /// nobody else listens.
    pub(super) fn is_at_rest(&self, wanted: &[NodeId], top: u64, node: &Node) -> bool {
        let is_at_rest = |(peer, it): (&NodeId, &Listener)| it.attachment(node, *peer).is_some();
        let waits = self.occupied || self.unknown.is_some() || self.waits_to_change;
        let works = self.is_reading() || self.has_holders() || self.derived.is_some();
        !waits
            && !works
            && self.replication.is_at_rest(wanted, top)
            && self.listeners.len() == wanted.len()
            && self.listeners.iter().all(is_at_rest)
    }

    /// The group whose room it is.
    pub(super) fn group(&self) -> Option<&GroupHome> {
        self.derived.as_deref()?.group.as_deref()
    }

    /// How long the map that it is is remembered if nobody uses it, unless it has entries.
    pub(super) fn empty_map_ttl(&self) -> Option<Duration> {
        self.derived.as_deref()?.map.as_ref()?.empty_ttl()
    }

    /// Whether any node has attached.
    pub(super) fn has_listeners(&self) -> bool {
        !self.listeners.is_empty()
    }

    /// `peer` holds a copy, and is to be told when others have it.
    pub(super) fn holds_a_copy(&mut self, peer: NodeId) {
        if !self.holders.contains(&peer) {
            self.holders.push(peer);
        }
    }

    /// Whether `peer` holds a copy that it may not let go of yet.
    pub(super) fn is_holder(&self, peer: NodeId) -> bool {
        self.holders.contains(&peer)
    }

    /// Whether others hold copies that are not let go of yet.
    pub(super) fn has_holders(&self) -> bool {
        !self.holders.is_empty()
    }

    /// The nodes that keep a copy until they are told.
    pub(super) fn holders(&self) -> Vec<NodeId> {
        self.holders.clone()
    }
}

impl Room {
    pub(super) fn home_mut(&mut self) -> Option<&mut Home> {
        match &mut self.role {
            Role::Home(home) => Some(home),
            _ => None,
        }
    }

    pub(super) fn top(&self) -> u64 {
        self.stream.as_deref().map_or(0, |stream| stream.history.top())
    }

    /// Whether others have to have a copy of the room: of what was said, or of who is there, where someone is told
    /// of that.
    pub(super) fn needs_copies(&self) -> bool {
        let options = &self.options;
        options.keeps_history() || options.webhooks || options.join_leave
    }

    /// Whether no one listens but the successors, and no one is there.
    pub(super) fn is_idle_home(&self, home: &Home) -> bool {
        self.present.as_ref().is_none_or(|it| it.is_empty())
            && !home.replication.waits()
            && !home.is_reading()
            && home.holders.is_empty()
            && home.listeners.keys().all(|peer| home.replication.includes(*peer))
    }

    pub(super) fn home_due(&self, home: &Home, node: &Node) -> Option<Time> {
        let look_again = self.absent(home, node).next().map(|_| node.now + LOOK_AGAIN);
        let unknown = home.unknown.as_ref().map(|it| it.0);
        let readings = home.readings.iter().flat_map(|it| it.iter().map(Reading::until)).min();
        let derived = home.derived.as_deref();
        let group = derived.and_then(|it| it.group.as_ref()?.next_due());
        let map = derived.and_then(|it| it.map.as_ref()?.next_due());
        let replication = home.replication.next_due(node.patience());
        let due = [replication, look_again, unknown, readings, group, map];
        due.into_iter().flatten().min()
    }

    /// Does what has waited for the home.
    pub(super) fn settle_home(&mut self, node: &mut Node) {
        self.drop_lost_listeners(node);
        self.choose_successors(node);
        while let Some(pending) = self.requests.take() {
            self.do_own(pending, node);
        }
        // In a minority it may have been taken over without knowing.
        let minority = self.options.keeps_history() && node.is_in_minority();
        let waiting = if minority { VecDeque::new() } else { std::mem::take(&mut self.waiting) };
        for (subscribe, until) in waiting {
            self.admit_at_home(subscribe, until, node);
        }
        self.drop_absent(node);
        self.note_vacancy(node);
        self.acknowledge(node);
        self.release_holders(node);
        self.give_up_reading(node);
        self.note_begun(node);
        self.settle_group(node);
        self.settle_map(node);
        self.note_proof(node);
        self.note_acked(node);
    }

    /// The nodes that are to keep a copy beside this one.
    pub(super) fn wanted_successors(&self, node: &Node) -> Vec<NodeId> {
        let first = node.placement.home(self.slot);
        let next = node.placement.successors(self.slot).iter().copied();
        let wanted = first.into_iter().chain(next).filter(|peer| *peer != node.me);
        wanted.take(node.settings.replicas).collect()
    }

    /// Asks the slot's next nodes to keep a copy, as often as it takes.
    pub(super) fn choose_successors(&mut self, node: &mut Node) {
        if !self.needs_copies() {
            return;
        }
        let wanted = self.wanted_successors(node);
        let first = node.placement.home(self.slot);
        let Role::Home(home) = &mut self.role else { return };
        // The next home fetches its copy when it claims the slot. Until then those that have one do.
        let leaves = first.is_some_and(|it| it != node.me && node.reaches(it));
        let complete = home.replication.is_complete(wanted.len(), |peer| node.reaches(peer));
        if leaves && complete {
            return;
        }
        if complete && home.replication.would_change(&wanted) && !node.moves.is_free(node.now) {
            if !std::mem::replace(&mut home.waits_to_change, true) {
                node.moves.wait(&self.name);
            }
            return;
        }
        // Who leaves does not wait for those that come.
        let others = |peer| if node.stays(peer) { node.copies_to_come() } else { 0 };
        let reaches = |peer| node.reaches(peer);
        let (absent, unwanted) = home.replication.choose(&wanted, others, reaches, node.now);
        node.send_to(absent, &self.name, RoomMessage::Invite);
        node.send_to(unwanted, &self.name, RoomMessage::Dismiss);
    }

    /// The room's turn to have other successors has come.
    pub(super) fn change_successors(&mut self, node: &mut Node) {
        if let Role::Home(home) = &mut self.role {
            home.waits_to_change = false;
            self.settle(node);
        }
    }

    /// Tells those that hold a copy and are no successors that others have it.
    fn release_holders(&mut self, node: &mut Node) {
        let is_kept = self.kept() >= self.top();
        let needs_copies = self.needs_copies();
        let Some(home) = self.home_mut().filter(|it| it.has_holders() && is_kept) else { return };
        // Where nodes come back together, the first to open a room has nobody beside it yet.
        let many = if needs_copies { node.copies_to_come() } else { 0 };
        let reaches = |peer| node.reaches(peer);
        let replication = &home.replication;
        if !replication.is_safe(reaches) || !replication.is_complete(many, reaches) {
            return;
        }
        let holders = std::mem::take(&mut home.holders);
        node.send_to(holders, &self.name, RoomMessage::Release);
    }

    fn do_own(&mut self, pending: Pending, node: &mut Node) {
        let (answer, offset) = match &pending.ask {
            HomeRequest::Publish(publication) => {
                self.place(publication, (node.me, pending.id), node)
            }
            HomeRequest::Query(query) => {
                let reader = match (&pending.reply, Wanted::of(query)) {
                    (Asker::To(_), Some(wanted)) => {
                        let (until, whom) = (pending.deadline, Whom::Own(pending.clone()));
                        self.read_if_needed(&wanted, whom.into(), until, node)
                    }
                    _ => Some(Whom::Own(pending.clone()).into()),
                };
                if reader.is_none() {
                    return;
                }
                (self.answer(query, node), 0)
            }
            HomeRequest::Group(request) => {
                let (request, forward) = (request.clone(), (node.me, pending.id));
                return self.group_asked(&request, forward, Whom::Own(pending), node);
            }
            HomeRequest::Map(request) => {
                let (request, forward) = (request.clone(), (node.me, pending.id));
                return self.map_asked(&request, forward, Whom::Own(pending), node);
            }
        };
        match &pending.reply {
            Asker::To(_) => self.answer_when_acked(offset, answer, Whom::Own(pending), node),
            Asker::Subscriber(subscribe) => {
                self.admit_at_home((**subscribe).clone(), pending.deadline, node);
            }
        }
    }

    /// Answers once the successors have what is at `offset` (0: nothing to wait for).
    pub(super) fn answer_when_acked(
        &mut self,
        offset: u64,
        answer: Answer,
        whom: Whom,
        node: &mut Node,
    ) {
        let (kept, now, needed) = (self.kept(), node.now, node.acks_needed());
        let unacked = Unacked { offset, since: now, answer, whom };
        if let Some(home) = self.home_mut()
            && let Some(ready) = home.replication.wait(unacked, kept, needed)
        {
            self.commit_acknowledged(node);
            self.acked_by_all(ready, node);
        }
    }

    fn acked_by_all(&self, Unacked { answer, whom, .. }: Unacked, node: &mut Node) {
        match whom {
            Whom::Own(Pending { reply: Asker::To(to), .. }) => {
                node.out.push(Out::Answer { to, answer });
            }
            Whom::Own(_) | Whom::Group => {}
            Whom::Peer(peer, id, _) => self.send_to(peer, RoomMessage::Answer { id, answer }, node),
        }
    }

    /// Answers for what the successors have, and does without those that are too slow.
    fn acknowledge(&mut self, node: &mut Node) {
        let (kept, now, needed) = (self.kept(), node.now, node.acks_needed());
        let (patience, is_on_disk) = (node.patience(), self.options.is_on_disk());
        let Some(home) = self.home_mut() else { return };
        let given_up = match needed {
            Some(_) => home.replication.overdue(now, patience),
            // The disk of this node may take long, and nothing is acknowledged without it.
            None if is_on_disk => home.replication.overdue(now, node.settings.publish_timeout),
            None => Vec::new(),
        };
        let ready = home.replication.acknowledge(kept, now, patience, needed);
        self.commit_acknowledged(node);
        for ready in ready {
            self.acked_by_all(ready, node);
        }
        for unacked in given_up {
            let answer = Answer::Failed(Failure::Unavailable);
            self.acked_by_all(Unacked { answer, ..unacked }, node);
        }
    }

    /// Quorum: gives members what a majority has by now.
    fn commit_acknowledged(&mut self, node: &mut Node) {
        let (kept, needed) = (self.kept(), node.acks_needed());
        let Role::Home(home) = &self.role else { return };
        let acked = home.replication.acked(kept, needed);
        let committed = self.stream.as_deref().and_then(Stream::committed);
        if needed.is_some() && committed.is_some_and(|committed| committed < acked) {
            self.tell_listeners(RoomMessage::Committed(acked), |_| true, node);
            self.commit(acked, node);
        }
    }

    /// Quorum: whether all that there is here is on a majority.
    pub(super) fn is_on_a_majority(&self, needed: Option<usize>) -> bool {
        match &self.role {
            Role::Home(home) => home.replication.acked(self.kept(), needed) >= self.top(),
            _ => self.held().is_none(),
        }
    }

    fn has(&mut self, from: NodeId, offset: u64) {
        let top = self.top();
        if let Some(home) = self.home_mut() {
            home.replication.has(from, offset, top);
        }
    }

    /// Stops being home: whoever listens or waits is told to look for the next one.
    pub(super) fn give_up(&mut self, home: Home, node: &mut Node) {
        for (peer, listener) in home.listeners.iter() {
            if listener.is_on(node, *peer) {
                let refused = Refused::Attach(listener.attach);
                self.send_to(*peer, RoomMessage::NotHome(refused), node);
            }
        }
        let (mut own, mut runs) = (Vec::new(), BTreeMap::new());
        let readers = self.stop_reading(home.readings.map_or_else(Vec::new, |it| *it));
        let group = home.derived.and_then(|it| it.group);
        let groups = group.into_iter().flat_map(|it| it.into_asked());
        let unacked = home.replication.into_unacked().into_iter().map(|it| it.whom);
        for whom in unacked.chain(readers).chain(groups) {
            match whom {
                Whom::Own(pending) => own.push(pending),
                Whom::Peer(peer, _, run) => drop(runs.insert(peer, run)),
                Whom::Group => {}
            }
        }
        for (peer, run) in runs {
            self.send_to(peer, RoomMessage::NotHome(Refused::Run(run)), node);
        }
        self.requests.put_back(own);
    }

    /// A peer asks, and this node is home.
    pub(super) fn serve_peer(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        match message {
            RoomMessage::Request { id, run, seq, ask } => {
                self.serve_request(from, (run, seq), (id, ask), node);
            }
            RoomMessage::Attach { id, have, invited } => {
                self.attach(from, id, have, invited, node);
            }
            RoomMessage::Clients { id, clients, last } => {
                self.clients_came(from, id, clients, last, node);
            }
            RoomMessage::Detach => self.detached(from, node),
            RoomMessage::Join(info) => self.client_joined(from, info, node),
            RoomMessage::Leave(client) => self.client_left(from, client, node),
            RoomMessage::Has(offset) => self.has(from, offset),
            _ => {}
        }
    }

    fn serve_request(
        &mut self,
        from: NodeId,
        (run, seq): (u64, u32),
        (id, ask): (u64, HomeRequest),
        node: &mut Node,
    ) {
        let Some(home) = self.home_mut() else { return };
        let (known, next) = home.runs.get(&from).copied().unwrap_or((run, 0));
        if seq != if known == run { next } else { 0 } {
            let refused = RoomMessage::NotHome(Refused::Run(run));
            return self.send_to(from, refused, node);
        }
        home.runs.insert(from, (run, seq.wrapping_add(1)));
        let (answer, offset) = match &ask {
            _ if self.options.keeps_history() && node.is_in_minority() => {
                (Answer::Failed(Failure::Unavailable), 0)
            }
            HomeRequest::Publish(publication) => self.place(publication, (from, id), node),
            HomeRequest::Group(request) => {
                return self.group_asked(request, (from, id), Whom::Peer(from, id, run), node);
            }
            HomeRequest::Map(request) => {
                return self.map_asked(request, (from, id), Whom::Peer(from, id, run), node);
            }
            HomeRequest::Query(query) => {
                if let Some(wanted) = Wanted::of(query) {
                    let until = node.now + node.settings.publish_timeout;
                    let whom = Whom::Peer(from, id, run);
                    if self.read_if_needed(&wanted, whom.into(), until, node).is_none() {
                        return;
                    }
                }
                let answer = self.answer(query, node);
                // What a mirror lets a subscriber in with has to come before what is newer.
                let waits = !matches!(query, Query::Recover(_));
                return node.answer((from, id), &self.name, answer, waits);
            }
        };
        self.answer_when_acked(offset, answer, Whom::Peer(from, id, run), node);
    }

    fn admit_at_home(&mut self, subscribe: Subscribe, until: Time, node: &mut Node) {
        if !self.local.contains(subscribe.socket) {
            return;
        }
        if self.is_too_early(&subscribe) {
            return self.waiting.push_back((subscribe, until));
        }
        let stream = self.stream.as_deref().filter(|_| self.options.keeps_history());
        let recovery = match (&subscribe.recover, stream) {
            (Some(since), Some(stream)) => {
                let limit = node.settings.recovery_limit;
                match stream.recover(since, subscribe.filter(), &self.options, limit) {
                    Some(missed) => Recovery::Recovered(missed),
                    None => {
                        let (wanted, reader) =
                            (Wanted::Missed(since.clone()), Reader::Subscriber(subscribe.into()));
                        let reader = self.read_if_needed(&wanted, reader, until, node);
                        return self.admit_unrecovered(reader, node);
                    }
                }
            }
            (Some(_), None) => Recovery::Failed,
            (None, _) => Recovery::NotAsked,
        };
        let position = stream.map(Stream::visible);
        self.admit(subscribe, Subscribed { position, recovery }, node);
    }

    /// Lets a subscriber in that can't recover, unless it waits for what the log has.
    fn admit_unrecovered(&mut self, reader: Option<Reader>, node: &mut Node) {
        if let Some(Reader::Subscriber(subscribe)) = reader {
            let position = self.stream.as_deref().map(Stream::visible);
            let subscribed = Subscribed { position, recovery: Recovery::Failed };
            self.admit(*subscribe, subscribed, node);
        }
    }
}
