//! A node's own subscribers of a room.

use std::{collections::HashSet, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::types::{ClientId, ClientInfo, SocketRef};

/// This node's own subscribers.
#[derive(Debug, Default)]
pub struct Local {
    sockets: HashSet<SocketRef, FxBuildHasher>,
    /// How many of them each worker has.
    per_worker: Vec<u32>,
    /// Who they are, where the room's home has to know.
    pub clients: FxHashMap<ClientId, Arc<ClientInfo>>,
}

impl Local {
    /// Adds a subscriber. Returns whether it is new.
    pub fn add(&mut self, socket: SocketRef) -> bool {
        let new = self.sockets.insert(socket);
        if new {
            let worker = usize::from(socket.worker);
            self.per_worker.resize(self.per_worker.len().max(worker + 1), 0);
            self.per_worker[worker] += 1;
        }
        new
    }

    /// Removes one. Returns whether it was there.
    pub fn remove(&mut self, socket: SocketRef) -> bool {
        let there = self.sockets.remove(&socket);
        if let (true, Some(count)) = (there, self.per_worker.get_mut(usize::from(socket.worker))) {
            *count -= 1;
        }
        there
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Whether `socket` is one.
    pub fn contains(&self, socket: SocketRef) -> bool {
        self.sockets.contains(&socket)
    }

    /// The workers that have any, a bit for each.
    pub fn workers(&self) -> u64 {
        let bits = self.per_worker.iter().enumerate().filter(|(_, count)| **count > 0);
        bits.fold(0, |mask, (worker, _)| mask | 1 << worker)
    }
}
