//! Links between the nodes of a simulated cluster: in order, late, and gone when they break.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use roomcast::{
    cluster::node::NodeId,
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

/// The links that are up, and what is known of their order.
#[derive(Debug, Default)]
pub struct Network {
    up: BTreeMap<(NodeId, NodeId), u64>,
    /// Pairs that can't reach each other.
    cut: BTreeSet<(NodeId, NodeId)>,
    /// When the last frame of each direction arrives: the next one does not before it.
    arrivals: BTreeMap<(NodeId, NodeId), u64>,
    links: u64,
}

fn pair(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
    (a.min(b), a.max(b))
}

impl Network {
    /// Opens a link. Returns whether it can be.
    pub fn connect(&mut self, a: NodeId, b: NodeId) -> bool {
        if self.cut.contains(&pair(a, b)) || self.up.contains_key(&pair(a, b)) {
            return false;
        }
        self.links += 1;
        self.up.insert(pair(a, b), self.links);
        true
    }

    /// Breaks a link. Returns whether there was one.
    pub fn disconnect(&mut self, a: NodeId, b: NodeId) -> bool {
        self.up.remove(&pair(a, b)).is_some()
    }

    /// Lets two nodes reach each other, or not.
    pub fn set_cut(&mut self, a: NodeId, b: NodeId, cut: bool) {
        if cut {
            self.cut.insert(pair(a, b));
        } else {
            self.cut.remove(&pair(a, b));
        }
    }

    /// Whether two nodes can't reach each other.
    pub fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.cut.contains(&pair(a, b))
    }

    /// Heals every cut.
    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// The peers that a node has links to.
    pub fn peers(&self, node: NodeId) -> Vec<NodeId> {
        let ends = self.up.keys().filter(|(a, b)| *a == node || *b == node);
        ends.map(|(a, b)| if *a == node { *b } else { *a }).collect()
    }

    /// Puts a message on a link, if there is one. Returns the frame and when it arrives.
    pub fn send(
        &mut self,
        from: NodeId,
        to: NodeId,
        message: &Message,
        arrival: u64,
    ) -> Result<Option<(u64, Frame)>, String> {
        let Some(link) = self.up.get(&pair(from, to)) else { return Ok(None) };
        let bytes = wire::encode(&WireFrame::Rooms(message.clone())).map_err(|code| format!("can't be encoded: {code:?}"))?;
        let last = self.arrivals.entry((from, to)).or_default();
        *last = arrival.max(*last);
        Ok(Some((*last, Frame { from, to, link: *link, bytes })))
    }

    /// What arrives; nothing if the link has broken meanwhile.
    pub fn receive(&self, frame: &Frame) -> Result<Option<Message>, String> {
        if self.up.get(&pair(frame.from, frame.to)) != Some(&frame.link) {
            return Ok(None);
        }
        let decoded = wire::decode(&mut BytesMut::from(&frame.bytes[..]));
        Ok(match decoded.map_err(|error| error.to_string())? {
            Some(WireFrame::Rooms(message)) => Some(message),
            _ => None,
        })
    }
}
