//! Links between the nodes of a simulated cluster: in order, late, and gone when they break.
//!
//! Each end of a link is up or down for itself, as with TCP: where frames pass no more, either end notices
//! in its own time. A direction that is blocked holds its frames, and lets them go in order when it is open
//! again and both ends have kept the link. A link may be as slow as its [`Capacity`] says, and breaks when
//! too much waits for it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use roomcast::{
    cluster::{mesh_version::MeshVersion, node::NodeId},
    mesh::wire::{self, Frame as WireFrame},
    room::messages::Message,
};

/// A frame under way.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Who sent it.
    pub from: NodeId,
    /// Who gets it.
    pub to: NodeId,
    /// Which of the links that the two have had carries it.
    link: u64,
    bytes: Bytes,
}

/// How much a link carries, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Bytes that it takes in a millisecond.
    pub bytes_per_ms: u64,
    /// The most bytes that may wait for it. A node cuts a link off that has more to carry, as too slow.
    pub queue: u64,
}

/// What became of a message that was to be sent.
#[derive(Debug)]
pub enum Sent {
    /// There is no link.
    Nowhere,
    /// It arrives at this moment, unless the link breaks before.
    UnderWay(u64, Frame),
    /// Too much waits already: the link has to be broken, and carries nothing more.
    TooSlow,
}

/// What came of an attempt to open a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialled {
    /// It is up at both ends. The peer may have thought that an earlier one still was.
    Up {
        /// Whether it did.
        replaced: bool,
    },
    /// There was one already.
    Already,
    /// The peer can't be reached.
    Blocked,
}

/// What has gone over all links.
#[derive(Debug, Default, Clone, Copy)]
pub struct Traffic {
    /// Bytes of the largest frame.
    pub largest: usize,
    /// How often a link was cut off as too slow.
    pub slow: u32,
}

/// One direction of a link.
#[derive(Debug, Default, Clone, Copy)]
struct Lane {
    /// When its last frame arrives: the next one does not before it.
    arrival: u64,
    /// When it has carried all that waits for it, in microseconds.
    busy_until: u64,
}

/// A direction in which nothing passes.
#[derive(Debug)]
struct Blocked {
    since: u64,
    frames: Vec<Frame>,
}

/// The links that are up, and what is known of their order.
#[derive(Debug, Default)]
pub struct Network {
    /// The ends that are up: a node, its peer, and which of all links it is.
    ends: BTreeMap<(NodeId, NodeId), u64>,
    blocked: BTreeMap<(NodeId, NodeId), Blocked>,
    lanes: BTreeMap<(NodeId, NodeId), Lane>,
    /// Links that were too slow: nothing more goes over them.
    given_up: BTreeSet<u64>,
    /// None: links carry whatever they get.
    pub capacity: Option<Capacity>,
    /// What has gone over the links.
    pub traffic: Traffic,
    links: u64,
    /// The mesh version that each link uses.
    versions: BTreeMap<(NodeId, NodeId), MeshVersion>,
}

impl Network {
    /// Opens a link from `a` to `b`.
    pub fn connect(&mut self, a: NodeId, b: NodeId) -> Dialled {
        if self.is_blocked(a, b) || self.is_blocked(b, a) {
            return Dialled::Blocked;
        }
        if self.ends.contains_key(&(a, b)) {
            return Dialled::Already;
        }
        self.links += 1;
        self.ends.insert((a, b), self.links);
        let replaced = self.ends.insert((b, a), self.links).is_some();
        Dialled::Up { replaced }
    }

    /// The link between two nodes uses this mesh version.
    pub fn agree(&mut self, (a, b): (NodeId, NodeId), version: MeshVersion) {
        self.versions.extend([((a, b), version), ((b, a), version)]);
    }

    /// Which link a node thinks that it has to a peer.
    pub fn link(&self, node: NodeId, peer: NodeId) -> Option<u64> {
        self.ends.get(&(node, peer)).copied()
    }

    /// Closes one end. Returns whether it was up.
    pub fn close(&mut self, node: NodeId, peer: NodeId) -> bool {
        self.ends.remove(&(node, peer)).is_some()
    }

    /// The peers that a node has links to, as it sees it.
    pub fn peers(&self, node: NodeId) -> Vec<NodeId> {
        self.ends.keys().filter(|(it, _)| *it == node).map(|(_, peer)| *peer).collect()
    }

    /// The nodes that think that they have a link to `node`.
    pub fn linked_to(&self, node: NodeId) -> Vec<NodeId> {
        self.ends.keys().filter(|(_, peer)| *peer == node).map(|(it, _)| *it).collect()
    }

    /// Ends that are up while the other end is not: a node, its peer and the link.
    pub fn half_open(&self) -> Vec<(NodeId, NodeId, u64)> {
        let ends = self.ends.iter().map(|((node, peer), link)| (*node, *peer, *link));
        ends.filter(|(node, peer, link)| self.link(*peer, *node) != Some(*link)).collect()
    }

    /// From now on nothing passes from one node to another.
    pub fn block(&mut self, from: NodeId, to: NodeId, now: u64) {
        self.blocked.entry((from, to)).or_insert(Blocked { since: now, frames: Vec::new() });
    }

    /// Whether nothing passes from one node to another.
    pub fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.blocked.contains_key(&(from, to))
    }

    /// Since when nothing passes from one node to another, if so.
    pub fn blocked_since(&self, from: NodeId, to: NodeId) -> Option<u64> {
        self.blocked.get(&(from, to)).map(|it| it.since)
    }

    /// Whether anything is blocked.
    pub fn is_cut(&self) -> bool {
        !self.blocked.is_empty()
    }

    /// A node has started anew, and is where its former run was.
    pub fn renamed(&mut self, before: NodeId, after: NodeId) {
        let renamed = |it: NodeId| if it == before { after } else { it };
        let blocked = self.blocked.iter().filter(|((a, b), _)| *a == before || *b == before);
        let blocked = blocked.map(|((a, b), it)| (renamed(*a), renamed(*b), it.since));
        for (from, to, since) in blocked.collect::<Vec<_>>() {
            self.block(from, to, since);
        }
    }

    /// Opens every direction again. Returns the frames that waited, in order: those whose links have lasted
    /// arrive now.
    pub fn heal(&mut self) -> Vec<Frame> {
        std::mem::take(&mut self.blocked).into_values().flat_map(|it| it.frames).collect()
    }

    /// Puts a message on a link, if there is one.
    ///
    /// # Errors
    /// If it can't be encoded, or the peer can't read it.
    pub fn send(
        &mut self,
        (from, to): (NodeId, NodeId),
        message: &Message,
        now: u64,
        delay: u64,
    ) -> Result<Sent, String> {
        let Some(link) = self.ends.get(&(from, to)).copied() else { return Ok(Sent::Nowhere) };
        if self.given_up.contains(&link) {
            return Ok(Sent::Nowhere);
        }
        let frame = WireFrame::Rooms(message.clone());
        if self.versions.get(&(from, to)).is_some_and(|version| *version < frame.since()) {
            return Err(format!("{to} can't read what it is sent by {from}: {message:?}"));
        }
        let bytes = wire::encode(&frame).map_err(|code| format!("can't be encoded: {code:?}"))?;
        self.traffic.largest = self.traffic.largest.max(bytes.len());
        let lane = self.lanes.entry((from, to)).or_default();
        let Some(gone) = lane.carry(bytes.len() as u64, self.capacity, now) else {
            self.traffic.slow += 1;
            self.given_up.insert(link);
            return Ok(Sent::TooSlow);
        };
        lane.arrival = lane.arrival.max(gone + delay);
        Ok(Sent::UnderWay(lane.arrival, Frame { from, to, link, bytes }))
    }

    /// What arrives; nothing if the link has broken meanwhile at the end where it does, or if it has to wait
    /// until its direction is open again.
    ///
    /// # Errors
    /// If it is no message.
    pub fn receive(&mut self, frame: Frame) -> Result<Option<Message>, String> {
        if self.link(frame.to, frame.from) != Some(frame.link) {
            return Ok(None);
        }
        if let Some(blocked) = self.blocked.get_mut(&(frame.from, frame.to)) {
            blocked.frames.push(frame);
            return Ok(None);
        }
        let decoded = wire::decode(&mut BytesMut::from(&frame.bytes[..]));
        Ok(match decoded.map_err(|error| error.to_string())? {
            Some(WireFrame::Rooms(message)) => Some(message),
            _ => None,
        })
    }
}

impl Lane {
    /// When all of a frame has gone; none if too much waits before it.
    fn carry(&mut self, bytes: u64, capacity: Option<Capacity>, now: u64) -> Option<u64> {
        let Some(Capacity { bytes_per_ms, queue }) = capacity else { return Some(now) };
        let begins = self.busy_until.max(now * 1_000);
        let waiting = (begins - now * 1_000) * bytes_per_ms / 1_000;
        if waiting + bytes > queue {
            return None;
        }
        self.busy_until = begins + bytes * 1_000 / bytes_per_ms;
        Some(self.busy_until / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn send(network: &mut Network, now: u64) -> Sent {
        network.send((A, B), &Message::Settled(0), now, 5).expect("a message that can be encoded")
    }

    fn frame(sent: Sent) -> Frame {
        match sent {
            Sent::UnderWay(_, frame) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_blocked_direction_holds_its_frames_for_ends_that_last() {
        let mut network = Network::default();
        assert_eq!(network.connect(A, B), Dialled::Up { replaced: false });
        let under_way = frame(send(&mut network, 0));
        network.block(A, B, 1);
        assert!(matches!(network.receive(under_way), Ok(None)));
        let held = network.heal();
        assert_eq!(held.len(), 1);
        let message = network.receive(held[0].clone());
        assert!(matches!(message, Ok(Some(Message::Settled(0)))));
        assert!(network.close(B, A));
        assert!(matches!(network.receive(held[0].clone()), Ok(None)));
        assert_eq!(network.connect(B, A), Dialled::Up { replaced: true }, "A had not noticed");
    }

    #[test]
    fn frames_wait_for_those_ahead_of_them_and_too_many_break_the_link() {
        let mut network = Network::default();
        network.connect(A, B);
        let bytes =
            wire::encode(&WireFrame::Rooms(Message::Settled(0))).expect("a message").len() as u64;
        network.capacity = Some(Capacity { bytes_per_ms: bytes, queue: 3 * bytes });
        for expected in [106, 107, 108] {
            let sent = send(&mut network, 100);
            assert!(matches!(sent, Sent::UnderWay(at, _) if at == expected), "{sent:?}");
        }
        assert!(matches!(send(&mut network, 101), Sent::UnderWay(109, _)), "one has gone");
        assert!(matches!(send(&mut network, 101), Sent::TooSlow));
        assert!(matches!(send(&mut network, 200), Sent::Nowhere));
        assert_eq!(network.traffic.slow, 1);
    }
}
