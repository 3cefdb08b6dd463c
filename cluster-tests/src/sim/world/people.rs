//! Clients and publishers: what they do, and what they are told.

use std::sync::Arc;

use bytes::Bytes;
use roomcast::{
    room::{
        registry::In,
        types::{
            Answer, ClientId, ClientInfo, Event, MemberFlags, NewPublication, ReplyTo, Request,
            RoomName, SocketRef, Subscribe,
        },
    },
    webhooks::event::Happening as Told,
};

use super::{Happening, World, judge::JUDGEMENT};
use crate::sim::client::{Client, Place};

/// How often a publisher tries again.
const RETRIES: u8 = 5;

impl World {
    pub(super) fn publish(&mut self) -> Result<(), String> {
        let Some(node) = self.any_alive() else { return Ok(()) };
        let room = self.rooms[self.rng.usize(..self.rooms.len())].clone();
        self.published += 1;
        let number = self.published;
        self.asked.insert(number, room.clone());
        self.try_on(node, room, number)?;
        Ok(())
    }

    pub(super) fn try_to_publish(&mut self, number: u64, tries: u8) -> Result<(), String> {
        let (Some(node), Some(room)) = (self.any_alive(), self.asked.get(&number).cloned()) else {
            return Ok(());
        };
        self.tries.insert(number, tries);
        self.try_on(node, room, number)
    }

    pub(super) fn try_on(
        &mut self,
        node: usize,
        room: RoomName,
        number: u64,
    ) -> Result<(), String> {
        let publication = NewPublication {
            data: Bytes::from(format!("message {number}")),
            // Every other publisher tries again when it is told that it failed.
            idempotency_key: number.is_multiple_of(2).then(|| format!("key {number}").into()),
            ..NewPublication::default()
        };
        let request = Request::Publish(publication, ReplyTo::Api(number));
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("message {number} to {room} through {name}"));
        self.input(node, In::Request(room, request))
    }

    pub(super) fn answered(&mut self, number: u64, answer: Answer) {
        if number >= JUDGEMENT {
            self.answers.insert(number, answer);
        } else if let (Answer::Published(position), Some(room)) =
            (&answer, self.asked.get(&number).cloned())
        {
            let position = *position;
            self.tell(|| format!("message {number} is acknowledged at {position:?}"));
            self.acked.insert(number, room);
        } else if number.is_multiple_of(2) {
            let tries = self.tries.get(&number).copied().unwrap_or_default();
            if tries < RETRIES {
                let delay = self.rng.u64(1..300);
                self.later(delay, Happening::Retry(number, tries + 1));
            }
        }
    }

    pub(super) fn come_back(&mut self, index: usize) -> Result<(), String> {
        let Some(node) = self.any_alive() else {
            self.later(100, Happening::Return(index));
            return Ok(());
        };
        if self.clients[index].place != Place::Away {
            return Ok(());
        }
        self.sockets += 1;
        let id = ClientId(u128::from(self.sockets));
        let client = &mut self.clients[index];
        client.socket = SocketRef { worker: 0, slot: self.sockets, generation: 0 };
        (client.id, client.node) = (id, node);
        let name = self.nodes[node].name.clone();
        self.tell(|| format!("client {index} comes to {name}"));
        self.subscribe(index)
    }

    pub(super) fn send_away(&mut self, client: usize) {
        self.clients[client].place = Place::Away;
        let delay = self.rng.u64(1..1_500);
        self.later(delay, Happening::Return(client));
    }

    pub(super) fn subscribe(&mut self, index: usize) -> Result<(), String> {
        let client = &mut self.clients[index];
        client.place = Place::Subscribing;
        let info = ClientInfo::new(client.id, &format!("user {index}"));
        let subscribe = Subscribe {
            socket: client.socket,
            id: index as u32,
            info: Arc::new(info),
            flags: MemberFlags { positioned: true, join_leave: true },
            wish: None,
            recover: client.since(),
            must_recover: false,
        };
        let (node, room) = (client.node, client.room.clone());
        self.input(node, In::Request(room, Request::Subscribe(subscribe)))
    }

    pub(super) fn unsubscribe(&mut self, client: usize) -> Result<(), String> {
        let Client { socket, id, node, room, .. } = &self.clients[client];
        let request = Request::Unsubscribe { socket: *socket, client: *id, reply: ReplyTo::Nobody };
        let (node, room) = (*node, room.clone());
        self.input(node, In::Request(room, request))
    }

    pub(super) fn client_of(&self, node: usize, socket: SocketRef) -> Option<usize> {
        self.clients.iter().position(|client| {
            client.node == node && client.socket == socket && client.place != Place::Away
        })
    }

    pub(super) fn event(
        &mut self,
        node: usize,
        room: &RoomName,
        event: &Event,
    ) -> Result<(), String> {
        let members = self.nodes[node].members.entry(room.clone()).or_default();
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
                Event::Join(_) | Event::Leave(_) => {}
            }
        }
        Ok(())
    }

    /// Takes note of who has come and gone as a room's home says it, and of what it says once more.
    pub(super) fn application_hears(&mut self, node: usize, what: Told) {
        let name = self.nodes[node].name.clone();
        match what {
            Told::Join(room, info) => {
                self.tell(|| format!("{name} says that {:?} has come to {room}", info.client));
                if !self.told.insert((room.clone(), info.client)) {
                    self.repeats += 1;
                    self.tell(|| {
                        format!("once more: {name} says that {:?} is in {room}", info.client)
                    });
                }
            }
            Told::Leave(room, info) => {
                self.tell(|| format!("{name} says that {:?} has left {room}", info.client));
                self.told.remove(&(room, info.client));
            }
            _ => {}
        }
    }
}
