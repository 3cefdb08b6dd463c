//! Three nodes: the publisher's, the room's home, and one with a subscriber, which is the home's successor.
//!
//! In: a publication. Out: what came of it. The registries are the real ones, and what they say to each
//! other is encoded and decoded as on a link. Sealing is left out: which instructions that takes depends on
//! the processor.

use std::collections::VecDeque;

use anyhow::{Context as _, ensure};
use bytes::BytesMut;
use roomcast::{
    cluster::{
        node::NodeId,
        placement::{Placement, slot},
        view::View,
    },
    mesh::wire::{self, Frame},
    room::{
        messages::Message,
        registry::{In, Out, RoomSettings, State},
        types::{
            Answer, Event, MemberFlags, NewPublication, ReplyTo, Request, RoomName, SocketRef,
            Subscribe,
        },
    },
    runtime::time::Time,
};

use crate::operations::{client, namespaces, new_publication, node};

const NAMES: [&str; 3] = ["a", "b", "c"];

/// The nodes.
pub struct Mesh {
    nodes: Vec<(NodeId, State)>,
    now: Time,
    room: RoomName,
    /// The node that the publications come from.
    publisher: NodeId,
    /// Made once: what it takes to make one is not counted.
    publication: NewPublication,
}

/// What has come of a publication.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The times that it was handed to a hub.
    pub deliveries: u64,
    /// The times that its publisher was told that it has its place.
    acknowledged: u64,
}

impl Mesh {
    /// Nodes that know each other, and the room where all of it happens.
    ///
    /// # Errors
    /// If it doesn't happen there.
    pub fn new() -> anyhow::Result<Self> {
        let infos = NAMES.map(node);
        let settings = RoomSettings::default();
        let placement = Placement::new(&infos, settings.replicas);
        let [home, mirror, publisher] = infos.each_ref().map(|it| it.id());
        let placed = |room: &RoomName| {
            let slot = slot(room);
            placement.home(slot) == Some(home) && placement.successors(slot) == [mirror]
        };
        let mut rooms = (0..1_000).map(|it| RoomName::from(format!("chat:{it:03}")));
        let room = rooms.find(placed).context("no room is placed that way")?;
        let state = |(seed, id)| (id, State::new(id, namespaces(), settings.clone(), seed));
        let nodes = (1..).zip(infos.iter().map(|it| it.id())).map(state).collect();
        let now = Time::from_millis(1_000_000);
        let mut mesh = Self { nodes, now, room, publisher, publication: new_publication() };
        let ids = [home, mirror, publisher];
        for id in ids {
            mesh.play(id, In::View(View::new(infos.clone())));
        }
        for (id, peer) in ids.into_iter().flat_map(|id| ids.map(|peer| (id, peer))) {
            if id != peer {
                mesh.play(id, In::LinkUp(peer));
            }
        }
        while let Some(busy) = mesh.nodes.iter().position(|(_, state)| state.has_work()) {
            mesh.play(mesh.nodes[busy].0, In::Tick);
        }
        mesh.play(mirror, In::Request(mesh.room.clone(), Request::Subscribe(subscribe())));
        let outcome = mesh.publish();
        ensure!(outcome == Outcome { deliveries: 1, acknowledged: 1 }, "{outcome:?}");
        Ok(mesh)
    }

    /// A publication, and all that it leads to.
    pub fn publish(&mut self) -> Outcome {
        self.now = self.now + std::time::Duration::from_millis(1);
        let request = Request::Publish(self.publication.clone(), ReplyTo::Api(1));
        self.play(self.publisher, In::Request(self.room.clone(), request))
    }

    /// Gives a node something to deal with, and then the others what they are told, until nobody says more.
    fn play(&mut self, at: NodeId, input: In) -> Outcome {
        let mut outcome = Outcome::default();
        let mut inputs = VecDeque::from([(at, input)]);
        while let Some((at, input)) = inputs.pop_front() {
            let Some((_, state)) = self.nodes.iter_mut().find(|(id, _)| *id == at) else {
                continue;
            };
            for out in state.handle(input, self.now) {
                match out {
                    Out::Send { to, message } => send(at, &to, message, &mut inputs),
                    Out::Event { event: Event::Publication(_), .. } => outcome.deliveries += 1,
                    Out::Answer { answer: Answer::Published(Some(_)), .. } => {
                        outcome.acknowledged += 1;
                    }
                    _ => {}
                }
            }
        }
        outcome
    }
}

/// As registry and link do: encoded once for all peers, and decoded by each.
fn send(from: NodeId, to: &[NodeId], message: Message, inputs: &mut VecDeque<(NodeId, In)>) {
    let Ok(frame) = wire::encode(&Frame::Rooms(message)) else { return };
    for peer in to {
        let mut received = BytesMut::from(&frame[..]);
        if let Ok(Some(Frame::Rooms(message))) = wire::decode(&mut received) {
            inputs.push_back((*peer, In::Peer(from, message)));
        }
    }
}

fn subscribe() -> Subscribe {
    Subscribe {
        socket: SocketRef { worker: 0, slot: 0, generation: 0 },
        id: 1,
        info: client(2),
        flags: MemberFlags { positioned: true, ..MemberFlags::default() },
        delivery: None,
        recover: None,
        must_recover: false,
    }
}
