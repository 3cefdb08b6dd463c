//! What the nodes of a cluster do for each other: one polls a room, the others tell it what they track.
//!
//! In: links and nodes that come and go, what other nodes say. Out: what they are told. A node that is refused, or that can't
//! reach the one that should poll, polls by itself.

use std::{collections::BTreeMap, time::Duration};

use super::{
    channel::{News, Source, Who},
    peers::{PeerItem, PollMessage},
    state::{KeyUpdate, Out, Room, State},
};
use crate::{
    backend::poll::{PollAnswer, PolledItem},
    cluster::node::NodeId,
    room::types::RoomName,
    runtime::time::Time,
};

/// How long a node polls by itself after another has refused to do it.
const RETRY: Duration = Duration::from_secs(2);
/// The most bytes of data in one message to another node, but for a single item that is larger.
const PAGE: usize = 64 * 1024;

/// What other nodes are to get, in pages with their sizes.
#[derive(Default)]
struct Parcels(BTreeMap<NodeId, Vec<(usize, Vec<PeerItem>)>>);

impl Parcels {
    /// Adds an update, or only that something is to be said.
    fn add(&mut self, node: NodeId, update: Option<&KeyUpdate>) {
        let pages = self.0.entry(node).or_default();
        let size = update.map_or(0, |it| it.data.len() + it.key.len() + 16);
        if pages.last().is_none_or(|(filled, _)| filled + size > PAGE) {
            pages.push((0, Vec::new()));
        }
        let (Some((filled, items)), Some(it)) = (pages.last_mut(), update) else { return };
        *filled += size;
        items.push(PeerItem {
            key: Box::from(&*it.key),
            data: it.data.clone(),
            version: it.version,
            removed: it.removed,
        });
    }
}

impl State {
    pub(super) fn link_down(&mut self, node: NodeId, now: Time, out: &mut Vec<Out>) {
        let tracks = |it: &(&RoomName, &Room)| it.1.channel.run_of(node).is_some();
        let rooms: Vec<RoomName> =
            self.rooms.iter().filter(tracks).map(|(name, _)| name.clone()).collect();
        for room in rooms {
            self.with(&room, now, |it| it.leave(Who::Node(node), now));
        }
        if self.peers.remove(node) {
            self.turn_all(now, out);
        }
    }

    /// Who polls which room may be another than before.
    pub(super) fn turn_all(&mut self, now: Time, out: &mut Vec<Out>) {
        for room in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.turn(&room, now, out);
        }
    }

    /// Has the keys of a room polled by whom they are to be.
    pub(super) fn turn(&mut self, name: &RoomName, now: Time, out: &mut Vec<Out>) {
        let Some(room) = self.rooms.get(name) else { return };
        let poller = self.peers.poller(name).filter(|_| !room.channel.is_refused(now));
        let used = match room.channel.source() {
            Source::Backend => None,
            Source::Node(node, _) => Some(node),
        };
        if poller == used {
            return;
        }
        let source = match poller {
            None => Source::Backend,
            Some(node) => {
                self.last_run += 1;
                Source::Node(node, self.last_run)
            }
        };
        // Those who have turned to this node have to look for another, or poll by themselves.
        let nodes = if poller.is_some() { room.channel.nodes() } else { Vec::new() };
        for (node, run) in nodes {
            out.push(Out::Send(node, PollMessage::NotMine { room: name.clone(), run }));
            self.with(name, now, |it| it.leave(Who::Node(node), now));
        }
        self.with(name, now, |it| it.set_source(source, now));
        self.told.insert(name.clone());
    }

    pub(super) fn peer(
        &mut self,
        node: NodeId,
        message: PollMessage,
        now: Time,
        out: &mut Vec<Out>,
    ) {
        match message {
            PollMessage::Ready => {
                if self.peers.add(node) {
                    self.turn_all(now, out);
                }
            }
            PollMessage::Track { room, run, keys } => {
                if self.peers.poller(&room).is_none() {
                    self.open(&room, now, out);
                }
                let polls = |it: &Room| it.channel.source() == Source::Backend;
                if self.peers.poller(&room).is_some() || !self.rooms.get(&room).is_some_and(polls) {
                    return out.push(Out::Send(node, PollMessage::NotMine { room, run }));
                }
                self.with(&room, now, |it| it.track_for(node, run, keys, now));
            }
            PollMessage::Untrack { room, run, keys } => {
                self.with(&room, now, |it| it.untrack_for(node, run, &keys, now));
            }
            PollMessage::NotMine { room, run } => {
                let used = self.rooms.get(&room).map(|it| it.channel.source());
                if used == Some(Source::Node(node, run)) {
                    self.with(&room, now, |it| it.refused(now + RETRY, now));
                }
            }
            PollMessage::Items { room, run, epoch, items } => {
                let used = self.rooms.get(&room).map(|it| it.channel.source());
                if used != Some(Source::Node(node, run)) {
                    return;
                }
                let items = items.into_iter().map(|it| {
                    let PeerItem { key, data, version, removed } = it;
                    PolledItem { key, data, version, removed }
                });
                let (answer, limit) =
                    (PollAnswer { items: items.collect(), epoch }, self.settings.item_limit);
                let news = self.with(&room, now, |it| it.hear(answer, limit, now));
                self.pass_on(&room, news.unwrap_or_default(), out);
            }
        }
    }

    /// Tells the nodes that poll what has changed.
    pub(super) fn tell(&mut self, out: &mut Vec<Out>) {
        for room in std::mem::take(&mut self.told) {
            let changes = self.rooms.get_mut(&room).and_then(|it| it.channel.changes(&room));
            if let Some((node, messages)) = changes {
                out.extend(messages.into_iter().map(|it| Out::Send(node, it)));
            }
        }
    }

    /// Gives what is new to those who lack it, here and on other nodes.
    pub(super) fn pass_on(&self, room: &RoomName, news: News, out: &mut Vec<Out>) {
        let News { updates, outdated, too_large } = news;
        let mut parcels = Parcels::default();
        let mut sockets = Vec::new();
        for who in outdated {
            match who {
                Who::Socket(socket) => sockets.push(socket),
                Who::Node(node) => parcels.add(node, None),
            }
        }
        if !sockets.is_empty() {
            out.push(Out::Outdated { room: room.clone(), sockets });
        }
        out.extend(too_large.map(|(key, size)| Out::TooLarge { room: room.clone(), key, size }));
        for (update, trackers) in updates {
            let mut to = Vec::new();
            for who in trackers {
                match who {
                    Who::Socket(socket) => to.push(socket),
                    Who::Node(node) => parcels.add(node, Some(&update)),
                }
            }
            if !to.is_empty() {
                out.push(Out::Push { room: room.clone(), update, to });
            }
        }
        let Some(channel) = self.rooms.get(room).map(|it| &it.channel) else { return };
        for (node, pages) in parcels.0 {
            let Some(run) = channel.run_of(node) else { continue };
            for (_, items) in pages {
                let (room, epoch) = (room.clone(), channel.epoch().to_owned());
                out.push(Out::Send(node, PollMessage::Items { room, run, epoch, items }));
            }
        }
    }
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
