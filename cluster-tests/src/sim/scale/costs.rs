//! CPU time of single steps of the core and of the links, by number of nodes and rooms.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use roomcast::{
    cluster::placement::Placement,
    mesh::{
        noise::Handshake,
        wire::{self, Frame},
    },
    room::{
        messages::{Message, RoomMessage},
        registry::In,
        stream::Entry,
        types::{Epoch, Publication},
    },
};

use super::{
    cluster::{Cluster, info},
    scenario::{SIZE, Scenario, Stage, Use, room_name},
    timed,
};

/// What a node with links to all others and no rooms does.
#[derive(Debug, Clone, Copy)]
pub struct NodeCosts {
    /// Nodes.
    pub nodes: usize,
    /// To place the slots anew.
    pub placement: Duration,
    /// When time passes, which it does 20 times a second.
    pub tick: Duration,
    /// When a link comes up.
    pub link_up: Duration,
}

/// Measures them.
pub fn of_nodes(nodes: usize) -> NodeCosts {
    const ROUNDS: u32 = 20;
    let infos: Vec<_> = (0..nodes).map(info).collect();
    let (_, placement) = timed(|| (0..ROUNDS).for_each(|_| drop(Placement::new(&infos, 1))));
    let mut cluster = Cluster::new(nodes, Default::default());
    let peer = infos[1].id();
    let mut many = |input: &dyn Fn() -> In| {
        let all = || (0..ROUNDS).map(|_| cluster.input(0, input())).sum::<Duration>();
        timed(all).1 / ROUNDS
    };
    let (tick, link_up) = (many(&|| In::Tick), many(&|| In::LinkUp(peer)));
    NodeCosts { nodes, placement: placement / ROUNDS, tick, link_up }
}

/// What a node does that knows many rooms and has to look through them.
#[derive(Debug, Clone, Copy)]
pub struct RoomCosts {
    /// Rooms that the node knows.
    pub rooms: usize,
    /// When a link breaks.
    pub link_down: Duration,
    /// When the node behind it counts as gone.
    pub rerouted: Duration,
    /// When the gauges are brought up to date, which they are every second.
    pub gauges: Duration,
}

/// Measures them on one of three nodes with `rooms` rooms of one client each. A third of them moves.
pub fn of_rooms(rooms: usize) -> RoomCosts {
    let mut stage = Stage::new(Scenario { nodes: 3, what: Use::Notices, rooms, history: false });
    stage.play();
    let (known, gauges) = {
        let state = stage.cluster.state(0);
        let known = state.map_or(0, |it| it.rooms());
        (known, timed(|| std::hint::black_box(state.map(|it| it.subscriptions()))).1)
    };
    // The last one, so that the first of the work is that of the node looked at.
    let work = stage.cluster.kill(2).first().copied().unwrap_or_default();
    RoomCosts { rooms: known, link_down: work.link_down, rerouted: work.rerouted, gauges }
}

/// What one publication of 128 bytes costs on a link, at each end, without what the kernel does.
#[derive(Debug, Clone, Copy)]
pub struct FrameCosts {
    /// Its bytes, sealed.
    pub bytes: usize,
    /// To write it.
    pub encode: Duration,
    /// To seal it.
    pub seal: Duration,
    /// The same where many are sealed as one record.
    pub sealed_together: Duration,
    /// To open it.
    pub open: Duration,
    /// To read it.
    pub decode: Duration,
}

/// Measures them; none if there is no sealed link, which no input can bring about.
pub fn of_frames() -> Option<FrameCosts> {
    const ROUNDS: u32 = 50_000;
    let (mut a, mut b) =
        (Handshake::new(&[7; 32], true).ok()?, Handshake::new(&[7; 32], false).ok()?);
    b.read(&a.write().ok()?).ok()?;
    a.read(&b.write().ok()?).ok()?;
    let ((mut sealer, _), (mut dialled, mut opener)) = (a.finish().ok()?, b.finish().ok()?);
    let message = delivery();
    let (frames, encode) =
        timed(|| (0..ROUNDS).filter_map(|_| wire::encode(&message).ok()).collect::<Vec<_>>());
    let (mut sealed, mut opened) =
        (BytesMut::with_capacity(1 << 24), BytesMut::with_capacity(1 << 24));
    let (_, seal) = timed(|| frames.iter().for_each(|it| drop(sealer.seal(it, &mut sealed))));
    let bytes = sealed.len() / ROUNDS as usize;
    let together = frames.concat();
    let mut out = BytesMut::with_capacity(1 << 24);
    let (_, sealed_together) = timed(|| dialled.seal(&together, &mut out));
    let (_, open) = timed(|| opener.open(&mut sealed, &mut opened));
    let (count, decode) =
        timed(|| std::iter::from_fn(|| wire::decode(&mut opened).ok().flatten()).count());
    (count == ROUNDS as usize).then_some(FrameCosts {
        bytes,
        encode: encode / ROUNDS,
        seal: seal / ROUNDS,
        sealed_together: sealed_together / ROUNDS,
        open: open / ROUNDS,
        decode: decode / ROUNDS,
    })
}

fn delivery() -> Frame {
    let publication = Publication {
        offset: 1_000,
        data: Bytes::from(vec![b'x'; SIZE]),
        ..Publication::default()
    };
    let publication = Arc::new(publication);
    let entry = Entry { publication, forward: None, key: None, version: None };
    let epoch = Some(Epoch(u64::MAX));
    let deliver = RoomMessage::Deliver { count: 1, epoch, entry };
    Frame::Rooms(Message::Room(room_name(1), deliver))
}
