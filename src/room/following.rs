//! What a mirror takes from its home: the copy, page by page, and from then on everything that happens.
//!
//! In: pages and messages of the home. Out: this node's copy of the stream and of presence, and what its members get.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{
    line::{Line, Root},
    logged::{Logged, log_page},
    messages::{Begin, End, Item, Page, Refused, RoomMessage},
    mirror::State,
    node::Node,
    presence::Presence,
    room::{Role, Room},
    stream::Entry,
    transfer::Incoming,
    types::{ClientInfo, Epoch, Event, Position, Subscribe},
};
use crate::cluster::{node::NodeId, slots::Term};

/// How long a home that has a lesser copy than this node is given to hear of it.
const UNHEARD: Duration = Duration::from_millis(200);

/// How long an ordinary mirror keeps a copy that is newer than the home's: after a cut, homes hear of each other's
/// rooms one link after the other.
const MAX_UNHEARD: Duration = Duration::from_secs(1);

impl Room {
    /// The home says something. What anyone else says as if it were home is out of date.
    pub(super) fn follow(&mut self, from: NodeId, message: RoomMessage, node: &mut Node) {
        if let RoomMessage::Deliver { count, .. } = message {
            let term = node.slots.promised(self.slot);
            if (Term { count, node: from }) < term {
                let refused = RoomMessage::NotHome(Refused::Delivery(term));
                return self.send_to(from, refused, node);
            }
        }
        let Role::Mirror(mirror) = &mut self.role else { return };
        if mirror.home != from {
            return;
        }
        match message {
            RoomMessage::Dismiss => self.dismissed(node),
            _ if !mirror.is_live(node) => {}
            RoomMessage::Deliver { count, epoch, entry } => {
                self.delivered(Term { count, node: from }, epoch, entry, node);
            }
            RoomMessage::Committed(offset) => self.commit(offset, node),
            RoomMessage::Joined(at, info) => self.joined(at, info, node),
            RoomMessage::Left(info) => self.left(info, node),
            RoomMessage::HistoryRemoved => {
                if let Some(stream) = &mut self.stream {
                    node.memory.add(-stream.history.clear());
                }
                self.log_removal(node);
                if self.options.map.is_some() {
                    // It was cleared.
                    self.deliver_local(Event::InsufficientState, node);
                }
            }
            _ => {}
        }
    }

    /// Whether a mirror keeps presence: successors do, and those whose members get joins and leaves.
    fn keeps_presence(&self) -> bool {
        let invited = matches!(&self.role, Role::Mirror(mirror) if mirror.invited);
        invited || self.options.join_leave
    }

    fn joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        let mut new = true;
        if self.keeps_presence() {
            new = self.present.get_or_insert_default().join(at, info.clone());
            self.attendance += 1;
        }
        if new && info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Join(info), node);
        }
    }

    fn left(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        let mut known = true;
        if self.keeps_presence() {
            let left = self.present.as_mut().and_then(|present| present.remove(info.client));
            known = left.is_some();
            self.attendance += 1;
        }
        if known && info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Leave(info), node);
        }
    }

    fn delivered(&mut self, term: Term, epoch: Option<Epoch>, entry: Entry, node: &mut Node) {
        let publication = entry.publication.clone();
        let Some(stream) = &mut self.stream else {
            return self.deliver_local(Event::Publication(publication), node);
        };
        if publication.offset == 0 {
            // It has no place, but a repeat of it has to be known.
            let top = stream.history.top();
            stream.remember(entry.key.as_deref(), entry.forward, top, node.now);
            if entry.key.is_some() {
                node.memory.keyed(&self.name, node.now);
            }
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
        let gated = stream.committed().is_some();
        self.append_entry(&entry, term, node);
        match self.stream.as_deref().is_some_and(|it| it.logged.is_some()) {
            // It says so once it is synced.
            true => self.log_entry(&entry, node),
            false => self.say_what_is_here(node),
        }
        match gated {
            true => self.uncommitted.get_or_insert_default().push_back(publication),
            false => self.deliver_local(Event::Publication(publication), node),
        }
    }

    /// A successor's word to its home, which acknowledges by it.
    pub(super) fn say_what_is_here(&mut self, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        // Quorum: a run that may have forgotten what it has answered to claims counts for nothing.
        if mirror.invited && mirror.is_live(node) && node.slots.is_informed(self.slot) {
            mirror.said = true;
            let home = mirror.home;
            self.send_to(home, RoomMessage::Has(self.kept()), node);
        }
    }

    fn lose_track(&mut self) {
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.state = State::Detached;
        }
    }

    /// A page of the home's copy has come.
    pub(super) fn page_for_mirror(&mut self, from: NodeId, page: Page, node: &mut Node) {
        let own = self.held().map(|held| held.standing);
        let Role::Mirror(mirror) = &mut self.role else { return };
        let State::Attaching { id, link } = mirror.state else { return };
        if mirror.home != from || id != page.id || node.link(from) != Some(link) {
            return;
        }
        if let Some(begin) = page.begin {
            if let Begin::Afresh { standing, .. } = &begin
                && own
                    .is_some_and(|own| own.is_newer_than(standing) && !own.is_level_with(standing))
                && (self.owed || node.now < mirror.keep_for(MAX_UNHEARD, node.now))
            {
                // The home has not heard yet what is held here, and is about to: until then it must not be lost.
                mirror.state = State::Detached;
                mirror.not_before = node.now + UNHEARD;
                return;
            }
            let invited = mirror.invited;
            self.copy_begins(begin, invited, node);
        }
        let Role::Mirror(mirror) = &mut self.role else { return };
        let Some(mut incoming) = mirror.incoming.take() else { return };
        self.log_copy(&mut incoming, &page.items, node);
        if incoming.follows {
            incoming.others.extend(self.follow_page(page.items, node));
        } else {
            incoming.take(page.items, &self.options, node.now);
        }
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.incoming = Some(incoming);
        }
        if let Some(end) = page.end {
            self.copy_is_here(id, link, end, node);
        }
    }

    fn copy_begins(&mut self, begin: Begin, invited: bool, node: &mut Node) {
        if let Begin::Follow { .. } | Begin::Rejoin { .. } = begin {
            self.log_again(node);
        }
        match (&begin, &mut self.stream) {
            (Begin::Follow { first }, Some(stream)) => {
                node.memory.add(-stream.history.drop_through(first.saturating_sub(1)));
                // An ordinary mirror is told what the home has in memory.
                if invited {
                    self.note_first(*first);
                }
            }
            (Begin::Rejoin { line, standing, through }, Some(_)) => {
                self.rejoin(line.clone(), standing.root, *through, node);
            }
            _ => {}
        }
        // Nor does one who is to keep a copy until others have it do without.
        let is_kept = || self.stream.as_deref().is_some_and(|it| it.logged.is_some());
        let keeps = invited || self.owed && is_kept();
        let logged = if keeps { self.log_begin(&begin) } else { None };
        let incoming = Incoming { logged, ..Incoming::begin(begin) };
        if let Role::Mirror(mirror) = &mut self.role {
            mirror.incoming = Some(Box::new(incoming));
        }
    }

    /// The home goes on from here in a later epoch: subscribers have to learn that, and recover.
    fn rejoin(&mut self, line: Line, root: Root, through: u64, node: &mut Node) {
        let Some(stream) = &mut self.stream else { return };
        let epoch = stream.position().epoch;
        node.memory.add(stream.rejoin(line, root, through));
        let changed = stream.position().epoch != epoch;
        self.given = None;
        self.log_rejoin(through, node);
        if changed {
            self.deliver_local(Event::InsufficientState, node);
        }
    }

    /// Writes the publications of a page to the log, if the copy is to be there.
    pub(super) fn log_copy(&mut self, incoming: &mut Incoming, items: &[Item], node: &mut Node) {
        let top = match &incoming.stream {
            Some(stream) => stream.history.top(),
            None => self.top(),
        };
        let stream = self.stream.as_deref_mut();
        if incoming.follows {
            if let Some(logged) = stream.and_then(|it| it.logged.as_deref_mut()) {
                log_page(logged, &self.name, top, items, node);
            }
        } else if let Some(logged) = &mut incoming.logged {
            log_page(logged, &self.name, top, items, node);
            if let Some(stream) = stream.filter(|_| logged.has_begun_to_replace()) {
                let first = stream.history.first();
                stream.logged.iter_mut().for_each(|it| it.be_replaced(first));
            }
        }
    }

    /// Takes over what follows this node's copy. Returns the clients among it.
    fn follow_page(&mut self, items: Vec<Item>, node: &mut Node) -> Vec<Item> {
        let (now, mut clients) = (node.now, Vec::new());
        for item in items {
            let Some(stream) = &mut self.stream else { break };
            match &item {
                Item::Client(..) => clients.push(item),
                Item::Publication(_, publication) => {
                    let (publication, top) = (publication.clone(), stream.history.top());
                    if publication.offset <= top {
                        continue;
                    }
                    let gap = publication.offset > top + 1;
                    let change = stream.take(item, &self.options, now);
                    let gated = stream.committed().is_some();
                    self.note_kept(publication.offset, change, node);
                    if gap {
                        // It was dropped at the home while it was on its way.
                        self.deliver_local(Event::InsufficientState, node);
                    }
                    match gated {
                        true => self.uncommitted.get_or_insert_default().push_back(publication),
                        false => self.deliver_local(Event::Publication(publication), node),
                    }
                }
                _ => drop(stream.take(item, &self.options, now)),
            }
        }
        clients
    }

    /// All of the home's copy is here.
    fn copy_is_here(&mut self, id: u64, link: u64, end: End, node: &mut Node) {
        let Role::Mirror(mirror) = &mut self.role else { return };
        mirror.state = State::Live { id, link };
        let Some(mut incoming) = mirror.incoming.take() else { return };
        let stream = match incoming.follows {
            true => self.stream.as_deref_mut(),
            false => incoming.stream.as_mut(),
        };
        let mut whole = true;
        if let (Some(stream), Some(have)) = (stream, end.have) {
            whole = stream.position() == have.position;
            stream.reach(have.term);
        }
        incoming.committed = node.is_quorum().then_some(end.committed);
        let with_presence = self.keeps_presence();
        if with_presence {
            // Without knowing who is there, it is no copy of that.
            self.attendance = end.attendance;
        }
        self.install(*incoming, with_presence, node);
        if !whole {
            // Its last publications were dropped at the home while it was on its way.
            self.deliver_local(Event::InsufficientState, node);
            self.forget_stream(node);
            return self.lose_track();
        }
        self.say_what_is_here(node);
    }

    /// Puts a copy in the place of what is here. Subscribers who watch their position must learn a new epoch, so
    /// they subscribe again, and recover if that line holds what they have; the others get what they missed, if
    /// it does. With `all`, who is there is a part of it.
    pub(super) fn install(&mut self, incoming: Incoming, all: bool, node: &mut Node) {
        let Incoming { stream, others, follows, committed, logged } = incoming;
        if follows {
            let here = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut());
            here.into_iter().for_each(Logged::goes_on);
        } else {
            // What this node gave is no more.
            self.given = None;
            self.begin_fetches_again(node);
            if let Some(old) = self.stream.as_deref_mut().filter(|_| logged.is_some()) {
                // What the log had of it is replaced already.
                old.logged = None;
            }
            let old = self.forget_stream(node).map(|old| old.visible());
            if let Some(mut new) = stream {
                new.logged = logged;
                if let Some(committed) = committed {
                    let same = old.filter(|old| old.epoch == new.position().epoch);
                    new.commit(committed.max(same.map_or(0, |old| old.offset)));
                }
                self.note_kept(new.history.top(), new.history.bytes() as isize, node);
                self.stream = Some(Box::new(new));
                if matches!(self.role, Role::Mirror(_)) {
                    self.tell_of_new_stream(old, node);
                }
            }
        }
        self.log_head(node);
        if !follows {
            self.keep_uncommitted();
        }
        if let Some(committed) = committed {
            self.commit(committed, node);
        }
        if !all {
            return;
        }
        let mut present = Presence::default();
        for item in others {
            match item {
                Item::Client(at, info) => drop(present.join(at, info)),
                Item::Key(key) => {
                    node.memory.keyed(&self.name, node.now);
                    self.keys.get_or_insert_default().learn(vec![key], node.now);
                }
                _ => {}
            }
        }
        let present = (!present.is_empty()).then(|| Box::new(present));
        let before = std::mem::replace(&mut self.present, present);
        self.tell_who_came_and_went(before, node);
    }

    /// Delivers the joins and leaves that this node missed while it was not attached.
    fn tell_who_came_and_went(&mut self, before: Option<Box<Presence>>, node: &mut Node) {
        if !self.options.join_leave || self.local.is_empty() {
            return;
        }
        let (before, now) = (before.unwrap_or_default(), self.present.take().unwrap_or_default());
        let announced = |it: &ClientInfo| it.is_announced(true);
        for gone in before.clients(|it| announced(it) && !now.has(it.client)) {
            self.deliver_local(Event::Leave(gone), node);
        }
        for new in now.clients(|it| announced(it) && !before.has(it.client)) {
            self.deliver_local(Event::Join(new), node);
        }
        self.present = (!now.is_empty()).then_some(now);
    }

    fn tell_of_new_stream(&mut self, old: Option<Position>, node: &mut Node) {
        let (Some(old), Some(stream)) = (old, &self.stream) else { return };
        let missed = stream.after(old);
        // In one epoch nothing that members have had is missing, be it another copy of it.
        let complete = old.epoch == stream.position().epoch && missed.is_some();
        if !complete {
            self.deliver_local(Event::InsufficientState, node);
        }
        for publication in missed.into_iter().flatten() {
            self.deliver_local(Event::Publication(publication), node);
        }
    }

    /// Quorum: whether a subscriber has to wait until this node knows more of what a majority has: it has seen more
    /// elsewhere than members may have here, or memory does not have all that members are to get next.
    pub(super) fn is_too_early(&self, subscribe: &Subscribe) -> bool {
        let Some(stream) = &self.stream else { return false };
        let visible = stream.visible().offset;
        let next = self.uncommitted.as_deref().and_then(VecDeque::front).map(|it| it.offset);
        let lacks_next = visible < stream.history.top() && next != Some(visible + 1);
        let is_ahead = |since| stream.resolve(since).is_some_and(|at| at.offset > visible);
        lacks_next || subscribe.recover.as_ref().is_some_and(is_ahead)
    }

    /// Quorum: what members may not have yet, of the stream that is here now. What memory does not have of it, nobody
    /// is let in to miss.
    pub(super) fn keep_uncommitted(&mut self) {
        let stream = self.stream.as_deref().filter(|it| it.committed().is_some());
        let waiting: VecDeque<_> = stream.map(|it| it.uncommitted()).unwrap_or_default().into();
        self.uncommitted = (!waiting.is_empty()).then(|| Box::new(waiting));
    }

    /// Quorum: a majority has the stream up to `offset`, so members may have it.
    pub(super) fn commit(&mut self, offset: u64, node: &mut Node) {
        if let Some(stream) = &mut self.stream {
            stream.commit(offset);
        }
        while let Some(waiting) = &mut self.uncommitted
            && waiting.front().is_some_and(|it| it.offset <= offset)
        {
            let Some(publication) = waiting.pop_front() else { break };
            self.deliver_local(Event::Publication(publication), node);
        }
        self.uncommitted.take_if(|it| it.is_empty());
    }
}
