//! Joins and leaves, as a room's home knows and announces them: each once, even if the home has changed meanwhile.
//! They go to members, to successors and to the application.
//!
//! Who is there is a part of the room's copy, so a new home begins with what the last one knew. A node that
//! attaches says who its clients are: what differs is news.

use std::sync::Arc;

use super::{
    messages::RoomMessage,
    node::{Node, Out},
    room::{Role, Room},
    types::{ClientId, ClientInfo, Event, RoomName},
};
use crate::cluster::node::NodeId;

/// What the application may be notified of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttendanceEvent {
    /// A client has come into a room.
    Join(RoomName, Arc<ClientInfo>),
    /// It has gone from there.
    Leave(RoomName, Arc<ClientInfo>),
    /// A room has its first client.
    Occupied(RoomName),
    /// It has lost its last one.
    Vacated(RoomName),
}

impl Room {
    /// A client has come to a node.
    pub(super) fn client_joined(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        self.close_older_than(&info, node);
        if let Some(said) = self.home_mut().and_then(|home| home.clients_said(at)) {
            said.push(info.clone());
        }
        if self.present.get_or_insert_default().join(at, info.clone()) {
            self.announce_join(at, info, node);
        }
        self.note_occupants();
        self.note_consumers(node);
    }

    /// A client has left a node.
    pub(super) fn client_left(&mut self, at: NodeId, client: ClientId, node: &mut Node) {
        if let Some(said) = self.home_mut().and_then(|home| home.clients_said(at)) {
            said.retain(|it| it.client != client);
        }
        let left = self.present.as_mut().and_then(|present| present.leave(at, client));
        if let Some(info) = left {
            self.announce_leave(info, node);
        }
        self.note_vacancy(node);
        self.note_consumers(node);
    }

    /// These are all clients of a node. What differs from what is known is news.
    pub(super) fn all_clients_of(
        &mut self,
        at: NodeId,
        clients: Vec<Arc<ClientInfo>>,
        node: &mut Node,
    ) {
        let unknown = self.home_mut().and_then(|home| home.unknown.as_mut());
        let first = unknown.is_some_and(|unknown| unknown.1.insert(at));
        if clients.is_empty() && self.present.is_none() {
            return;
        }
        self.readmit_consumers(&clients);
        let present = self.present.get_or_insert_default();
        let surplus = present.surplus(&clients);
        let (mut come, gone) = present.replace(at, clients);
        if first {
            // To a home that knows nothing yet, these are not new: they were there under the last one.
            come.clear();
        }
        come.into_iter().for_each(|info| self.announce_join(at, info, node));
        gone.into_iter().for_each(|info| self.announce_leave(info, node));
        surplus.iter().for_each(|info| self.close_surplus(at, info, node));
        self.note_occupants();
        self.note_vacancy(node);
        self.note_consumers(node);
    }

    /// The same of this node, which has just become home.
    pub(super) fn own_clients_are_there(&mut self, node: &mut Node) {
        let own: Vec<_> = self.local.clients.values().cloned().collect();
        self.all_clients_of(node.me, own, node);
    }

    /// Clients that came without an announcement were there under the last home, which announced them.
    fn note_occupants(&mut self) {
        let anyone = self.present.as_ref().is_some_and(|it| !it.is_empty());
        if let Some(home) = self.home_mut() {
            home.occupied |= anyone;
        }
    }

    /// Notifies the application when the last one has gone.
    pub(super) fn note_vacancy(&mut self, node: &mut Node) {
        let anyone = self.present.as_ref().is_some_and(|it| !it.is_empty());
        if !anyone {
            self.present = None;
        }
        let (tells, name) = (self.options.webhooks, self.name.clone());
        let Some(home) = self.home_mut().filter(|home| home.occupied && !anyone) else { return };
        home.occupied = false;
        if tells {
            node.out.push(Out::Notify(AttendanceEvent::Vacated(name)));
        }
    }

    /// Notifies the application of a client that has come, and before that, if it is the first, that someone has.
    fn notify_join(&mut self, info: &Arc<ClientInfo>, node: &mut Node) {
        let name = self.name.clone();
        if let Some(home) = self.home_mut()
            && !std::mem::replace(&mut home.occupied, true)
        {
            node.out.push(Out::Notify(AttendanceEvent::Occupied(name.clone())));
        }
        node.out.push(Out::Notify(AttendanceEvent::Join(name, info.clone())));
    }

    fn announce_join(&mut self, at: NodeId, info: Arc<ClientInfo>, node: &mut Node) {
        self.attendance += 1;
        if self.options.webhooks {
            self.notify_join(&info, node);
        }
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Join(info.clone()), node);
        }
        self.tell_of(&info.clone(), RoomMessage::Joined(at, info), node);
    }

    fn announce_leave(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        self.attendance += 1;
        if self.options.webhooks {
            node.out.push(Out::Notify(AttendanceEvent::Leave(self.name.clone(), info.clone())));
        }
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Leave(info.clone()), node);
        }
        self.tell_of(&info.clone(), RoomMessage::Left(info), node);
    }

    /// Sends a join or leave to the nodes that need it: those with subscribers, if it is announced to them, and
    /// successors in any case.
    fn tell_of(&mut self, info: &ClientInfo, message: RoomMessage, node: &mut Node) {
        let announced = info.is_announced(self.options.join_leave);
        let Role::Home(home) = &self.role else { return };
        let successors = home.replication.successors();
        self.tell_listeners(message, |peer| announced || successors.contains(&peer), node);
    }
}
