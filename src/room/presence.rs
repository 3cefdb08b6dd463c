//! Who is in a room, as its home knows it: the union of what the attached nodes report.

use std::{collections::HashMap, sync::Arc};

use litemap::LiteMap;
use rustc_hash::{FxHashMap, FxHashSet};

use super::types::{ClientId, ClientInfo};
use crate::cluster::node::NodeId;

/// How many connections each user has. Boxed: most rooms have no presence.
type Users = Option<Box<HashMap<Box<str>, u32>>>;

/// The clients in a room and the node that each is connected to.
#[derive(Debug, Default)]
pub struct Presence {
    clients: FxHashMap<ClientId, (NodeId, Arc<ClientInfo>)>,
    /// How many of them each node has.
    nodes: LiteMap<NodeId, u32>,
    /// How many of them are not shown.
    hidden: usize,
    /// Connections per user, so that counting users needs no walk. Of those that are shown.
    users: Users,
}

impl Presence {
    /// Adds a client. Returns whether it is new.
    pub fn join(&mut self, node: NodeId, info: Arc<ClientInfo>) -> bool {
        self.count(&info);
        *self.nodes.entry(node).or_default() += 1;
        let before = self.clients.insert(info.client, (node, info));
        if let Some((at, before)) = &before {
            self.discount(before);
            self.discount_node(*at);
        }
        before.is_none()
    }

    fn count(&mut self, info: &ClientInfo) {
        match info.is_shown() {
            true => *self.users.get_or_insert_default().entry(info.user.clone()).or_default() += 1,
            false => self.hidden += 1,
        }
    }

    fn discount_node(&mut self, node: NodeId) {
        if let Some(count) = self.nodes.get_mut(&node) {
            *count -= 1;
            if *count == 0 {
                self.nodes.remove(&node);
            }
        }
    }

    fn discount(&mut self, info: &ClientInfo) {
        if !info.is_shown() {
            self.hidden -= 1;
        } else if let Some(users) = &mut self.users
            && let Some(count) = users.get_mut(&info.user)
        {
            *count -= 1;
            if *count == 0 {
                users.remove(&info.user);
            }
        }
    }

    /// Removes a client that `node` reports gone. Returns it if it was there.
    pub fn leave(&mut self, node: NodeId, client: ClientId) -> Option<Arc<ClientInfo>> {
        if self.clients.get(&client).is_none_or(|(at, _)| *at != node) {
            return None;
        }
        let (at, info) = self.clients.remove(&client)?;
        self.discount(&info);
        self.discount_node(at);
        Some(info)
    }

    /// Makes `clients` all that `node` has. Returns those that are new and those that are gone.
    pub fn replace(
        &mut self,
        node: NodeId,
        clients: Vec<Arc<ClientInfo>>,
    ) -> (Vec<Arc<ClientInfo>>, Vec<Arc<ClientInfo>>) {
        let stay: FxHashSet<ClientId> = clients.iter().map(|info| info.client).collect();
        let gone: Vec<ClientId> = (self.clients.iter())
            .filter(|(client, (at, _))| *at == node && !stay.contains(client))
            .map(|(client, _)| *client)
            .collect();
        let gone = gone.into_iter().filter_map(|client| self.leave(node, client)).collect();
        let new = clients.into_iter().filter(|info| self.join(node, info.clone())).collect();
        (new, gone)
    }

    /// The other connections of a client's user, and the nodes that they are on.
    pub fn others_of(&self, client: &ClientInfo) -> Vec<(NodeId, ClientId)> {
        let of_user = |it: &ClientInfo| it.user == client.user && it.client != client.client;
        let others = self.clients.values().filter(|(_, it)| of_user(it));
        others.map(|(node, it)| (*node, it.client)).collect()
    }

    /// Who a client is.
    pub fn info_of(&self, client: ClientId) -> Option<&Arc<ClientInfo>> {
        self.clients.get(&client).map(|(_, info)| info)
    }

    /// Whether a client is there.
    pub fn has(&self, client: ClientId) -> bool {
        self.clients.contains_key(&client)
    }

    /// The node that a client is on.
    pub fn node_of(&self, client: ClientId) -> Option<NodeId> {
        self.clients.get(&client).map(|(node, _)| *node)
    }

    /// Whether a node has a client there.
    pub fn has_any_of(&self, node: NodeId) -> bool {
        self.nodes.contains_key(&node)
    }

    /// The nodes that have clients there.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> {
        self.nodes.keys().copied()
    }

    /// Every client and the node that it is on, in the order of their ids.
    pub fn all(&self) -> Vec<(NodeId, Arc<ClientInfo>)> {
        let mut all: Vec<_> = self.clients.values().cloned().collect();
        all.sort_unstable_by_key(|(_, info)| info.client);
        all
    }

    /// A client goes, wherever it was.
    pub fn remove(&mut self, client: ClientId) -> Option<Arc<ClientInfo>> {
        let at = self.clients.get(&client)?.0;
        self.leave(at, client)
    }

    /// Every client that is wanted, in the order of their ids.
    pub fn clients(&self, wanted: impl Fn(&ClientInfo) -> bool) -> Vec<Arc<ClientInfo>> {
        let all = self.clients.values().map(|(_, info)| info);
        let mut clients: Vec<_> = all.filter(|info| wanted(info)).cloned().collect();
        clients.sort_unstable_by_key(|info| info.client);
        clients
    }

    /// How many clients and how many distinct users are shown.
    pub fn stats(&self) -> (u32, u32) {
        (
            (self.clients.len() - self.hidden) as u32,
            self.users.as_ref().map_or(0, |users| users.len() as u32),
        )
    }

    /// Whether no one is there.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::types::InRoom;

    fn client(id: u128, user: &str) -> Arc<ClientInfo> {
        Arc::new(ClientInfo::new(ClientId(id), user))
    }

    #[test]
    fn counts_users_once() {
        let mut presence = Presence::default();
        assert!(presence.join(NodeId(1), client(1, "ann")));
        assert!(presence.join(NodeId(2), client(2, "ann")));
        assert!(!presence.join(NodeId(2), client(2, "ann")), "the same client again");
        assert_eq!(presence.stats(), (2, 1));
        assert!(presence.leave(NodeId(1), ClientId(2)).is_none(), "not that node's client");
        assert_eq!(presence.leave(NodeId(2), ClientId(2)), Some(client(2, "ann")));
        assert_eq!(presence.stats(), (1, 1));
    }

    #[test]
    fn a_node_that_attaches_again_announces_only_what_changed() {
        let mut presence = Presence::default();
        presence.replace(NodeId(1), vec![client(1, "ann"), client(2, "bob")]);
        presence.join(NodeId(2), client(9, "eve"));
        let (new, gone) = presence.replace(NodeId(1), vec![client(2, "bob"), client(3, "cyd")]);
        assert_eq!((new, gone), (vec![client(3, "cyd")], vec![client(1, "ann")]));
        let (_, gone) = presence.replace(NodeId(1), vec![]);
        assert_eq!(gone.len(), 2);
        assert_eq!(presence.clients(|_| true), [client(9, "eve")]);
    }

    #[test]
    fn whoever_is_hidden_is_there_and_not_counted() {
        let mut presence = Presence::default();
        let in_room = Some(Box::new(InRoom { hidden: true, ..InRoom::default() }));
        let hidden = Arc::new(ClientInfo { in_room, ..(*client(1, "ann")).clone() });
        assert!(presence.join(NodeId(1), hidden.clone()));
        presence.join(NodeId(1), client(2, "bob"));
        assert_eq!((presence.stats(), presence.is_empty()), ((1, 1), false));
        assert_eq!(presence.clients(ClientInfo::is_shown), [client(2, "bob")]);
        assert!(!presence.join(NodeId(1), client(1, "ann")), "the same client, shown now");
        assert_eq!(presence.stats(), (2, 2));
        assert!(!presence.join(NodeId(1), hidden.clone()));
        assert_eq!(presence.leave(NodeId(1), ClientId(1)), Some(hidden));
        assert_eq!(presence.stats(), (1, 1));
    }
}
