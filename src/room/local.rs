//! A node's own subscribers of a room.

use std::{collections::HashSet, sync::Arc};

use rustc_hash::{FxBuildHasher, FxHashMap};

use super::types::{ClientId, ClientInfo, SocketRef};

/// This node's own subscribers.
#[derive(Debug, Default)]
pub struct Local {
    sockets: HashSet<SocketRef, FxBuildHasher>,
    /// How many of them each worker has.
    per_worker: Box<[u32]>,
    /// Who they are, where the room's home has to know.
    pub clients: FxHashMap<ClientId, Arc<ClientInfo>>,
    /// Their sockets, in the room of a group: what it gives is for one of them. Boxed: few rooms have any.
    consumers: Option<Box<FxHashMap<ClientId, SocketRef>>>,
}

impl Local {
    /// Adds a subscriber. Returns whether it is new.
    pub fn add(&mut self, socket: SocketRef) -> bool {
        let new = self.sockets.insert(socket);
        if new {
            let worker = usize::from(socket.worker);
            if self.per_worker.len() <= worker {
                let mut more = std::mem::take(&mut self.per_worker).into_vec();
                more.resize(worker + 1, 0);
                self.per_worker = more.into();
            }
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

    /// A consumer's socket is this.
    pub fn add_consumer(&mut self, client: ClientId, socket: SocketRef) {
        self.consumers.get_or_insert_default().insert(client, socket);
    }

    /// A consumer has gone.
    pub fn remove_consumer(&mut self, client: ClientId) {
        if let Some(consumers) = &mut self.consumers {
            consumers.remove(&client);
        }
        self.consumers.take_if(|it| it.is_empty());
    }

    /// A consumer's socket.
    pub fn consumer(&self, client: ClientId) -> Option<SocketRef> {
        self.consumers.as_ref()?.get(&client).copied()
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
