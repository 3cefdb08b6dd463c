//! This node's subscribers of a room: how they come in and go, the same in a home and in a mirror.

use super::{
    messages::RoomMessage,
    node::{Node, Out},
    room::{Role, Room},
    types::{ClientId, Event, Failure, Recovery, SocketRef, Subscribe, Subscribed},
};

impl Room {
    pub(super) fn add_local(&mut self, socket: SocketRef, node: &mut Node) {
        let first = self.local.is_empty();
        node.subscriptions += usize::from(self.local.add(socket));
        node.subscribed_rooms += usize::from(first);
    }

    /// Returns whether it was there.
    fn remove_local(&mut self, socket: SocketRef, node: &mut Node) -> bool {
        let there = self.local.remove(socket);
        node.subscriptions -= usize::from(there);
        node.subscribed_rooms -= usize::from(there && self.local.is_empty());
        there
    }

    pub(super) fn unsubscribe(&mut self, socket: SocketRef, client: ClientId, node: &mut Node) {
        if !self.remove_local(socket, node) {
            return;
        }
        self.waiting.retain(|(waiting, _)| waiting.socket != socket);
        self.requests.forget(socket);
        self.local.remove_consumer(client);
        if self.local.clients.remove(&client).is_some() {
            match &mut self.role {
                Role::Home(_) => self.client_left(node.me, client, node),
                Role::Mirror(mirror) if mirror.is_attached(node) => {
                    let home = mirror.home;
                    self.send_to(home, RoomMessage::Leave(client), node);
                }
                _ => {}
            }
        }
    }

    pub(super) fn refuse(&mut self, subscribe: Subscribe, error: Failure, node: &mut Node) {
        self.remove_local(subscribe.socket, node);
        self.local.clients.remove(&subscribe.info.client);
        self.subscribed(subscribe, Err(error), node);
    }

    pub(super) fn subscribed(
        &self,
        subscribe: Subscribe,
        result: Result<Subscribed, Failure>,
        node: &mut Node,
    ) {
        let Subscribe { socket, id, flags, delivery, .. } = subscribe;
        node.out.push(Out::Subscribed {
            socket,
            id,
            room: self.name.clone(),
            flags,
            delivery,
            result,
        });
    }

    /// Lets a subscriber in, or tells it why not. The same in a home and in a mirror.
    pub(super) fn admit(&mut self, subscribe: Subscribe, subscribed: Subscribed, node: &mut Node) {
        if subscribe.must_recover && subscribed.recovery == Recovery::Failed {
            return self.refuse(subscribe, Failure::UnrecoverablePosition, node);
        }
        let (info, socket) = (subscribe.info.clone(), subscribe.socket);
        let subscribed = self.recovered_as_members_see(subscribed);
        self.subscribed(subscribe, Ok(subscribed), node);
        if !self.options.knows(&info) {
            return;
        }
        self.local.clients.insert(info.client, info.clone());
        if self.is_group() {
            self.local.add_consumer(info.client, socket);
        }
        match &self.role {
            Role::Home(_) => self.client_joined(node.me, info, node),
            Role::Mirror(mirror) => {
                let home = mirror.home;
                self.send_to(home, RoomMessage::Join(info), node);
            }
            _ => {}
        }
    }

    /// Tells the members on this node, and no other.
    pub(super) fn deliver_local(&self, event: Event, node: &mut Node) {
        let workers = self.local.workers();
        // What is said in the room of a group is for its homes.
        if workers == 0 || self.is_group() {
            return;
        }
        if let Some(event) = self.as_members_see(event) {
            node.out.push(Out::Event { workers, room: self.name.clone(), event });
        }
    }
}
