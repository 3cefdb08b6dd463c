//! What a room's home tells of those who come and go: to its members, to its successors, to the application.
//!
//! In: who came or went, as [`super::attendance`] says it. Out: events, messages to the nodes that listen, and
//! happenings.

use std::sync::Arc;

use super::{
    node::{Node, Out},
    room::{Role, Room},
    types::{ClientInfo, Event},
};
use crate::{cluster::node::NodeId, mesh::wire::RoomMessage, webhooks::event::Happening};

impl Room {
    /// Whoever came without being news was there before: the last home has told of it.
    pub(super) fn note_occupants(&mut self) {
        if let Some(home) = self.home_mut() {
            home.occupied |= !home.attendance.presence.is_empty();
        }
    }

    /// Tells the application when the last one has gone.
    pub(super) fn note_vacancy(&mut self, node: &mut Node) {
        let (tells, name) = (self.options.webhooks, self.name.clone());
        let Some(home) = self.home_mut().filter(|_| tells) else { return };
        if home.occupied && !home.attendance.is_anyone_expected() {
            home.occupied = false;
            node.out.push(Out::Tell(Happening::Vacated(name)));
        }
    }

    /// Tells the application who has come, and before that, if it is the first, that someone has.
    fn tell_join(&mut self, info: &Arc<ClientInfo>, node: &mut Node) {
        let name = self.name.clone();
        if let Some(home) = self.home_mut()
            && !std::mem::replace(&mut home.occupied, true)
        {
            node.out.push(Out::Tell(Happening::Occupied(name.clone())));
        }
        node.out.push(Out::Tell(Happening::Join(name, info.clone())));
    }

    pub(super) fn announce_join(&mut self, info: Arc<ClientInfo>, node: &mut Node) {
        if self.options.webhooks {
            self.tell_join(&info, node);
        }
        let to = self.whom_to_tell_of(&info);
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Join(info.clone()), node);
        }
        self.send_all(to, RoomMessage::Joined(info), node);
    }

    pub(super) fn announce_leave(&self, info: Arc<ClientInfo>, node: &mut Node) {
        if self.options.webhooks {
            node.out.push(Out::Tell(Happening::Leave(self.name.clone(), info.clone())));
        }
        let to = self.whom_to_tell_of(&info);
        if info.is_announced(self.options.join_leave) {
            self.deliver_local(Event::Leave(info.clone()), node);
        }
        self.send_all(to, RoomMessage::Left(info), node);
    }

    /// The nodes that have to know that a client comes or goes: those with subscribers, if it is announced to
    /// them, and successors also if it is announced to the application alone.
    fn whom_to_tell_of(&self, info: &ClientInfo) -> Vec<NodeId> {
        match &self.role {
            Role::Home(home) if info.is_announced(self.options.join_leave) => home.listeners(),
            Role::Home(home) if self.options.tells_of(info) => {
                let listeners = home.listeners().into_iter();
                listeners.filter(|it| home.replication.includes(*it)).collect()
            }
            _ => Vec::new(),
        }
    }
}
