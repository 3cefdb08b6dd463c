//! The nodes that listen to a room's home, and what they are sent.
//!
//! A node that attaches is sent a copy, in pages, and then everything that happens; what happens meanwhile
//! follows the copy.

use std::{mem, sync::Arc};

use super::{
    home::Home,
    idempotency,
    logged::LogPage,
    messages::{Begin, End, Have, Item, RoomMessage},
    node::Node,
    presence::Presence,
    room::{Role, Room},
    stream::Stream,
    transfer::{self, CopyUnderWay, Outgoing, What},
    types::ClientInfo,
    warming::AGAIN,
};
use crate::{cluster::node::NodeId, log};

/// A node that listens.
#[derive(Debug)]
pub(super) struct Listener {
    /// Its number for the attach.
    pub attach: u64,
    /// The link that it has attached on.
    link: u64,
    /// What it has said that it has. Boxed, like the next: in most rooms it has nothing.
    have: Option<Box<Have>>,
    /// It has all of the copy, and gets what happens from now on.
    live: bool,
    /// Those that it has said to be its clients, while it has not said all.
    #[expect(clippy::box_collection, reason = "smaller while there is none, as in most rooms")]
    clients: Option<Box<Vec<Arc<ClientInfo>>>>,
}

impl Listener {
    /// One that has had all of the copy, and has no clients.
    pub(super) fn at_rest(attach: u64, link: u64) -> Self {
        Self { attach, link, have: None, live: true, clients: None }
    }

    /// Of one for which nothing is under way: its number, and its link.
    pub(super) fn attachment(&self, node: &Node, peer: NodeId) -> Option<(u64, u64)> {
        let is_at_rest = self.live && self.clients.is_none() && self.is_on(node, peer);
        is_at_rest.then_some((self.attach, self.link))
    }

    /// Whether the link that it has attached on is up.
    pub(super) fn is_on(&self, node: &Node, peer: NodeId) -> bool {
        node.link(peer) == Some(self.link)
    }
}

impl Home {
    /// The clients that a node is about to say.
    pub(super) fn clients_said(&mut self, peer: NodeId) -> Option<&mut Vec<Arc<ClientInfo>>> {
        self.listeners.get_mut(&peer)?.clients.as_deref_mut()
    }
}

impl Room {
    /// A peer listens from now on.
    pub(super) fn attach(
        &mut self,
        from: NodeId,
        id: u64,
        have: Option<Have>,
        invited: bool,
        node: &mut Node,
    ) {
        let needs_copies = self.needs_copies();
        let (Some(link), Role::Home(home)) = (node.link(from), &mut self.role) else { return };
        if invited && needs_copies {
            home.replication.keep(from);
        }
        let succeeds = invited && home.replication.includes(from);
        home.replication.attached(from, succeeds);
        let (have, clients) = (have.map(Box::new), Some(Box::default()));
        home.listeners.insert(from, Listener { attach: id, link, have, live: false, clients });
        self.begin_copy(from, link, id, node);
    }

    /// Begins to send a listener its copy, from its beginning.
    fn begin_copy(&mut self, to: NodeId, link: u64, id: u64, node: &mut Node) {
        let is_other = |it: &Outgoing| {
            it.to != to || !matches!(it.what, What::Listener | What::Copy(_)) || it.id == id
        };
        self.outgoing.retain(|it| is_other(it) && !(it.to == to && it.id == id));
        self.outgoing.push(Outgoing::new(to, link, id, What::Listener));
        node.has_pages(to, &self.name);
    }

    /// Tells those of the listeners that are live, and keeps it for those that are not yet.
    pub(super) fn tell_listeners(
        &mut self,
        message: RoomMessage,
        wanted: impl Fn(NodeId) -> bool,
        node: &mut Node,
    ) {
        let Role::Home(home) = &mut self.role else { return };
        let (mut to, mut again) = (Vec::new(), Vec::new());
        for (peer, listener) in home.listeners.iter() {
            if !wanted(*peer) || !listener.is_on(node, *peer) {
                continue;
            }
            if listener.live {
                to.push(*peer);
                continue;
            }
            let own = |it: &&mut Outgoing| it.to == *peer && it.id == listener.attach;
            if let Some(Outgoing { what: What::Copy(copy), .. }) =
                self.outgoing.iter_mut().find(own)
                && !copy.follow(&message)
            {
                again.push((*peer, listener.link, listener.attach));
            }
        }
        node.send_to(to, &self.name, message);
        for (peer, link, attach) in again {
            self.begin_copy(peer, link, attach, node);
        }
    }

    /// Sends the next page to a peer. Returns whether there are more for it.
    pub(super) fn send_page(&mut self, to: NodeId, node: &mut Node) -> bool {
        let link = node.link(to);
        self.outgoing.retain(|it| it.to != to || Some(it.link) == link);
        let waits = |it: &Outgoing| it.to == to && !it.is_reading();
        let Some(index) = self.outgoing.iter().position(waits) else { return false };
        let mut outgoing = self.outgoing.swap_remove(index);
        let id = outgoing.id;
        if let What::Listener | What::Fetched = outgoing.what {
            let followed = matches!(outgoing.what, What::Listener);
            let copy = self.begin_pages(&outgoing, node).followed(followed);
            outgoing.what = What::Copy(Box::new(copy));
        }
        let most = node.settings.page;
        if let What::Copy(copy) = &mut outgoing.what
            && let Some((first, last)) = copy.to_read(self.stream.as_deref())
        {
            let (id, count) = (node.next_id(), (last - first + 1) as usize);
            copy.reads(id);
            let since = Some(first - 1);
            self.read_log(id, log::Query { since, reverse: false, count, bytes: most }, node);
            self.outgoing.push(outgoing);
            return self.outgoing.iter().any(waits);
        }
        let over = match &mut outgoing.what {
            What::Copy(copy) if copy.is_checking() => {
                // All was read: it begins with what there is now.
                outgoing.what = if copy.is_followed() { What::Listener } else { What::Fetched };
                outgoing.checked = true;
                self.outgoing.push(outgoing);
                return true;
            }
            What::Copy(copy) => {
                let page = copy.page(id, self.stream.as_deref(), node.now, most);
                let flow = node.flows.entry(to).or_default();
                flow.sent(transfer::weight(&page.items));
                self.send_to(to, RoomMessage::Page(Box::new(page)), node);
                copy.is_over()
            }
            What::Clients(ids) => {
                let (clients, over) = self.page_of_clients(ids, most);
                let flow = node.flows.entry(to).or_default();
                flow.sent(transfer::weight_of_clients(&clients));
                self.send_to(to, RoomMessage::Clients { id, clients, last: over }, node);
                over
            }
            What::Listener | What::Fetched => true,
        };
        match outgoing.what {
            What::Copy(copy) if over => self.is_sent(to, id, *copy, node),
            _ if over => {}
            _ => self.outgoing.push(outgoing),
        }
        self.outgoing.iter().any(waits)
    }

    /// The log has read for a copy that is sent. Gives back what is for none.
    pub(super) fn copy_read(
        &mut self,
        id: u64,
        page: Option<LogPage>,
        node: &mut Node,
    ) -> Option<Option<LogPage>> {
        let is_it = |it: &mut Outgoing| match &mut it.what {
            What::Copy(copy) => copy.has_read(id),
            _ => false,
        };
        let Some(index) = self.outgoing.iter_mut().position(is_it) else { return Some(page) };
        match (page, &mut self.outgoing[index].what) {
            (Some(page), _) => {
                self.note_first(page.first);
                self.send_read(index, page, node);
                node.has_pages(self.outgoing[index].to, &self.name);
            }
            (None, What::Copy(copy)) => copy.read_again(Some(node.now + AGAIN)),
            _ => {}
        }
        None
    }

    /// Has the log read again for copies for which it could not, once it is time.
    pub(super) fn read_again_for_copies(&mut self, node: &mut Node) {
        for outgoing in &mut self.outgoing {
            if let What::Copy(copy) = &mut outgoing.what
                && copy.again_at().is_some_and(|at| at <= node.now)
            {
                copy.read_again(None);
                node.has_pages(outgoing.to, &self.name);
            }
        }
    }

    fn send_read(&mut self, index: usize, page: LogPage, node: &mut Node) {
        let Outgoing { to, id, what, .. } = &mut self.outgoing[index];
        let (What::Copy(copy), stream) = (what, self.stream.as_deref()) else { return };
        let last = page.entries.last().map(|(_, entry)| entry.publication.offset);
        let in_memory = stream.map_or(0, |stream| stream.history.first());
        // What can't be read any more is not sent. If there is nothing, nothing before what is in memory is left.
        let next = match (last, page.damaged) {
            (_, Some(damaged)) => damaged + 1,
            (Some(last), None) => last + 1,
            (None, None) => in_memory,
        };
        if copy.is_checking() && copy.has_checked(next, stream) {
            return;
        }
        let items = page.entries.into_iter().flat_map(|(at, entry)| {
            let age = node.now.since(at);
            let offset = entry.publication.offset;
            let recent = age < idempotency::WINDOW;
            let key = entry.key.filter(|_| recent).map(|key| Item::Key((age, key, offset)));
            let forward = entry.forward.filter(|_| recent);
            let publication = Item::Publication(age, entry.publication);
            let version = entry.version.map(Item::Version);
            let forward = forward.map(|forward| Item::Forward(forward, offset));
            [Some(publication), key, forward, version].into_iter().flatten()
        });
        let (to, page) = (*to, copy.page_of(*id, items.collect(), next));
        node.flows.entry(to).or_default().sent(transfer::weight(&page.items));
        self.send_to(to, RoomMessage::Page(Box::new(page)), node);
    }

    /// The copy that is held here has become another: who fetches it begins again.
    pub(super) fn begin_fetches_again(&mut self, node: &mut Node) {
        let fetched =
            |it: &&mut Outgoing| matches!(&it.what, What::Copy(copy) if !copy.is_followed());
        let again: Vec<NodeId> = (self.outgoing.iter_mut().filter(fetched))
            .map(|it| {
                (it.what, it.checked) = (What::Fetched, false);
                it.to
            })
            .collect();
        again.into_iter().for_each(|to| node.has_pages(to, &self.name));
    }

    fn page_of_clients(
        &self,
        ids: &mut std::vec::IntoIter<super::types::ClientId>,
        most: usize,
    ) -> (Vec<Arc<ClientInfo>>, bool) {
        let (mut clients, mut bytes) = (Vec::new(), 0);
        for id in ids.by_ref() {
            // It may have gone meanwhile.
            if let Some(info) = self.local.clients.get(&id) {
                bytes += info.weight() + 40;
                clients.push(info.clone());
            }
            if bytes >= most {
                break;
            }
        }
        let over = ids.len() == 0;
        (clients, over)
    }

    /// A copy is sent. If its receiver listens, it gets all that has happened since.
    fn is_sent(&mut self, to: NodeId, id: u64, copy: CopyUnderWay, node: &mut Node) {
        let Role::Home(home) = &mut self.role else { return };
        let listener = home.listeners.get_mut(&to).filter(|it| it.attach == id);
        let Some(listener) = listener else { return };
        listener.live = true;
        for message in copy.into_after() {
            node.send_to(vec![to], &self.name, message);
        }
    }

    /// What a listener is to get, or an owner that fetches.
    fn begin_pages(&self, outgoing: &Outgoing, node: &Node) -> CopyUnderWay {
        let stream = self.copy().filter(|_| self.options.keeps_history());
        let (have, with_clients) = match (&self.role, &outgoing.what) {
            (Role::Home(home), What::Listener) => (
                home.listeners.get(&outgoing.to).and_then(|it| it.have.as_deref().copied()),
                home.replication.includes(outgoing.to) || self.options.join_leave,
            ),
            _ => (None, true),
        };
        let end = End {
            have: stream.map(Stream::have),
            committed: stream.and_then(Stream::committed).unwrap_or_default(),
            attendance: self.attendance,
        };
        let present = self.present.iter().filter(|_| with_clients).flat_map(|it| it.all());
        let clients = present.map(|(at, info)| Item::Client(at, info));
        let Some(stream) = stream else {
            let keys = self.keys.iter().filter(|_| with_clients).flat_map(|it| it.all(node.now));
            let rest = keys.map(Item::Key).chain(clients).collect();
            return CopyUnderWay::new(Begin::Nothing, None, 0, Vec::new(), rest, end);
        };
        // Who is to keep it on disk, if only until others have it, gets what is there; ordinary mirrors get what is in memory.
        let keeps = match (&self.role, &outgoing.what) {
            (Role::Home(home), What::Listener) => {
                home.replication.includes(outgoing.to) || home.is_holder(outgoing.to)
            }
            _ => true,
        };
        let logged = stream.logged.as_deref().filter(|_| keeps);
        let top = stream.history.top();
        let in_memory = stream.history.first();
        let first = logged.map_or(in_memory, |it| it.first(top, &self.options).min(in_memory));
        let rejoins = |have: &Have| {
            let through = stream.shared_with(have.position).filter(|it| it + 1 >= first)?;
            (logged.is_some() && !node.is_quorum()).then_some(through)
        };
        let continues = |have: &Have| {
            stream.continues(have) || {
                let position = have.position;
                let same = position.epoch == stream.position().epoch && !node.is_quorum();
                logged.is_some() && same && (first..=top + 1).contains(&(position.offset + 1))
            }
        };
        let (begin, follows) = match have {
            Some(have) if continues(&have) => (Begin::Follow { first }, Some(have.position.offset)),
            Some(have) if let Some(through) = rejoins(&have) => {
                let (line, standing) = (stream.line(), stream.standing());
                (Begin::Rejoin { line, standing, through }, Some(through))
            }
            _ => {
                let standing = stream.standing();
                (Begin::Afresh { line: stream.line(), standing, first }, None)
            }
        };
        // Who has nothing has nothing to lose.
        let may_have = matches!(outgoing.what, What::Fetched) || have.is_some();
        let repeats = stream.repeats(follows.unwrap_or(0), node.now);
        let rest = stream.origins().into_iter().chain(clients).collect();
        let from = follows.unwrap_or(first.saturating_sub(1));
        let copy = CopyUnderWay::new(begin, Some(stream), from, repeats, rest, end);
        let copy = copy.logged(logged.is_some());
        match may_have && !outgoing.checked {
            true => copy.checked_first(Some(stream)),
            false => copy,
        }
    }

    /// A listener has said more of its clients.
    pub(super) fn clients_came(
        &mut self,
        from: NodeId,
        id: u64,
        clients: Vec<Arc<ClientInfo>>,
        last: bool,
        node: &mut Node,
    ) {
        node.dealt_with(from, transfer::weight_of_clients(&clients));
        let Some(home) = self.home_mut() else { return };
        let listener = home.listeners.get_mut(&from).filter(|it| it.attach == id);
        let Some(said) = listener.and_then(|it| it.clients.as_mut()) else { return };
        said.extend(clients);
        if last {
            let all = mem::take(&mut **said);
            if let Some(listener) = home.listeners.get_mut(&from) {
                listener.clients = None;
            }
            self.all_clients_of(from, all, node);
        }
    }

    /// A peer listens no more. Whoever has no subscribers left has said so of each before; one that still has
    /// some has turned to another home, of which this node is about to hear: no one has left.
    pub(super) fn detached(&mut self, peer: NodeId, node: &mut Node) {
        self.outgoing.retain(|it| it.to != peer || matches!(it.what, What::Clients(_)));
        let has_clients = self.present.as_ref().is_some_and(|it| it.has_any_of(peer));
        let Role::Home(home) = &mut self.role else { return };
        home.replication.attached(peer, false);
        match home.listeners.get_mut(&peer) {
            Some(listener) if has_clients => listener.live = false,
            _ => drop(home.listeners.remove(&peer)),
        }
        self.note_vacancy(node);
    }

    /// Listeners whose links are gone have to attach again.
    pub(super) fn drop_lost_listeners(&mut self, node: &Node) {
        let Role::Home(home) = &mut self.role else { return };
        let gone: Vec<NodeId> = home
            .listeners
            .iter()
            .filter(|(peer, it)| !it.is_on(node, **peer))
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            home.listeners.remove(&peer);
            home.replication.lose(peer);
        }
    }

    /// The nodes that have clients in the room, as far as this home knows, and do not listen.
    pub(super) fn absent(&self, home: &Home, node: &Node) -> impl Iterator<Item = NodeId> {
        let nodes: Vec<NodeId> = self.present.iter().flat_map(|it| Presence::nodes(it)).collect();
        let absent = nodes.into_iter().filter(|peer| {
            *peer != node.me && !home.listeners.get(peer).is_some_and(|it| it.is_on(node, *peer))
        });
        absent.collect::<Vec<_>>().into_iter()
    }

    /// Nodes that are gone take their clients with them. So do those that have turned to this home with every
    /// room that they need it for, but not with this one.
    pub(super) fn drop_absent(&mut self, node: &mut Node) {
        if let Some(home) = self.home_mut() {
            home.unknown.take_if(|it| it.0 <= node.now);
        }
        let Role::Home(home) = &self.role else { return };
        let gone: Vec<NodeId> = self
            .absent(home, node)
            .filter(|peer| node.has_lost(*peer) || node.is_settled(*peer))
            .collect();
        for peer in gone {
            self.all_clients_of(peer, Vec::new(), node);
        }
    }
}
