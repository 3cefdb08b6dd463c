//! Clients: where they come and go, and what they and the application are told.

use std::sync::Arc;

use roomcast::room::{
    attendance::AttendanceEvent,
    registry::In,
    types::{
        ClientId, ClientInfo, Event, MemberFlags, ReplyTo, Request, RoomName, SocketRef, Subscribe,
        Subscribed,
    },
};

use super::{Happening, World, record::Stay};
use crate::sim::client::{Client, Place};

impl World {
    pub(super) fn come_back(&mut self, index: usize) -> Result<(), String> {
        let Some(node) = self.any_serving() else {
            self.later(100, Happening::Return(index));
            return Ok(());
        };
        if self.clients[index].place != Place::Away {
            return Ok(());
        }
        self.sockets += 1;
        let id = ClientId(u128::from(self.sockets));
        let client = &mut self.clients[index];
        self.by_socket.remove(&client.socket);
        client.socket = SocketRef { worker: 0, slot: self.sockets, generation: 0 };
        (client.id, client.node) = (id, node);
        self.by_socket.insert(client.socket, index);
        let room = client.room.clone();
        self.record.stays.insert(id, Stay { room, entered: false, left: false, told: (0, 0) });
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("client {index} comes to {name} as {id}"));
        self.subscribe(index)
    }

    pub(super) fn send_away(&mut self, client: usize) {
        self.clients[client].place = Place::Away;
        let delay = self.rng.u64(1..self.longest_away());
        self.later(delay, Happening::Return(client));
    }

    /// A node that leaves tells a client to go to another.
    pub(super) fn dismiss(&mut self, client: usize, socket: SocketRef) -> Result<(), String> {
        let Client { place, socket: current, .. } = self.clients[client];
        if current == socket && place != Place::Away {
            self.unsubscribe(client)?;
            self.send_away(client);
        }
        Ok(())
    }

    pub(super) fn subscribe(&mut self, index: usize) -> Result<(), String> {
        let client = &mut self.clients[index];
        client.place = Place::Subscribing;
        if let Some(stay) = self.record.stays.get_mut(&client.id) {
            stay.left = false;
        }
        let info = ClientInfo::new(client.id, &format!("user {index}"));
        let subscribe = Subscribe {
            socket: client.socket,
            id: index as u32,
            info: Arc::new(info),
            flags: MemberFlags { positioned: true, join_leave: true },
            delivery: None,
            recover: client.since(),
            must_recover: false,
        };
        let (node, room) = (client.node, client.room.clone());
        self.input(node, In::Request(room, Request::Subscribe(subscribe)))
    }

    pub(super) fn subscribed(
        &mut self,
        node: usize,
        socket: SocketRef,
        room: RoomName,
        result: Result<Subscribed, impl std::fmt::Debug>,
    ) -> Result<(), String> {
        let Some(client) = self.client_of(node, socket) else { return Ok(()) };
        match result {
            Ok(subscribed) => {
                self.nodes[node].members.entry(room).or_default().insert(socket);
                let (it, seen) = (&mut self.clients[client], &mut self.seen);
                if let Some(stay) = self.record.stays.get_mut(&it.id) {
                    stay.entered = true;
                }
                let gaps = it.gaps_told;
                it.subscribed(&subscribed, seen).map_err(|it| format!("client {client}: {it}"))?;
                if self.clients[client].gaps_told > gaps {
                    self.tell(|| {
                        format!("client {client} is told that it may have missed something")
                    });
                }
            }
            Err(error) => {
                self.tell(|| format!("client {client} is not let in: {error:?}"));
                self.send_away(client);
            }
        }
        Ok(())
    }

    pub(super) fn again(&mut self, client: usize, socket: SocketRef) -> Result<(), String> {
        let Client { place, socket: current, .. } = self.clients[client];
        if current == socket && place != Place::Away {
            self.unsubscribe(client)?;
            self.subscribe(client)?;
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, client: usize) -> Result<(), String> {
        let Client { socket, id, node, room, .. } = &self.clients[client];
        if let Some(stay) = self.record.stays.get_mut(id) {
            stay.left = true;
        }
        let request = Request::Unsubscribe { socket: *socket, client: *id, reply: ReplyTo::Nobody };
        let (node, room) = (*node, room.clone());
        self.input(node, In::Request(room, request))
    }

    fn client_of(&self, node: usize, socket: SocketRef) -> Option<usize> {
        self.by_socket.get(&socket).copied().filter(|client| {
            let client = &self.clients[*client];
            client.node == node && client.place != Place::Away
        })
    }

    pub(super) fn event(
        &mut self,
        node: usize,
        room: &RoomName,
        event: &Event,
    ) -> Result<(), String> {
        let Some(members) = self.nodes[node].members.get_mut(room) else { return Ok(()) };
        let sockets: Vec<SocketRef> = members.iter().copied().collect();
        if *event == Event::InsufficientState {
            members.clear();
        }
        for socket in sockets {
            let Some(client) = self.client_of(node, socket) else { continue };
            match event {
                Event::Publication(publication) => {
                    let (it, seen) = (&mut self.clients[client], &mut self.seen);
                    it.publication(publication, seen)
                        .map_err(|it| format!("client {client}: {it}"))?;
                }
                Event::InsufficientState => {
                    self.tell(|| format!("client {client} has to subscribe again"));
                    self.clients[client].place = Place::Subscribing;
                    let delay = self.rng.u64(0..20);
                    self.later(delay, Happening::Again(client, socket));
                }
                Event::Join(who) => self.clients[client].pushed(who.client, true),
                Event::Leave(who) => self.clients[client].pushed(who.client, false),
            }
        }
        Ok(())
    }

    /// Takes note of who has come and gone as a room's home says it, and of what it says once more.
    pub(super) fn application_hears(&mut self, node: usize, event: AttendanceEvent) {
        let name = self.nodes[node].name.clone();
        match event {
            AttendanceEvent::Join(room, info) => {
                self.tell(|| format!("{name} says that {} has come to {room}", info.client));
                if !self.record.application_hears_join(&room, info.client) {
                    self.tell(|| {
                        format!("once more: {name} says that {} is in {room}", info.client)
                    });
                }
            }
            AttendanceEvent::Leave(room, info) => {
                self.tell(|| format!("{name} says that {} has left {room}", info.client));
                self.record.application_hears_leave(room, info.client);
            }
            _ => {}
        }
    }
}
