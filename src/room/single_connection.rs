//! Users that may have only one connection: the newest stays.
//!
//! In: clients that join the user's own room. Out: closes for the user's other connections. All of them are in that
//! room, and its home sees them in one order, so one always stays.

use std::sync::Arc;

use super::{
    control::{Action, Control},
    node::Node,
    presence::Presence,
    room::Room,
    types::{ClientId, ClientInfo},
};
use crate::{cluster::node::NodeId, protocol::codes::Disconnect};

impl Presence {
    /// Of the clients that a node reports: those that have to be closed, because a newer connection of their user was
    /// already here.
    pub fn surplus(&self, clients: &[Arc<ClientInfo>]) -> Vec<Arc<ClientInfo>> {
        let unknown = clients.iter().filter(|it| it.is_single_connection() && !self.has(it.client));
        unknown.filter(|it| !self.others_of(it).is_empty()).cloned().collect()
    }
}

impl Room {
    /// A client has come, and is the newest.
    pub(super) fn close_older_than(&mut self, newest: &ClientInfo, node: &mut Node) {
        let Some(present) = self.present.as_ref().filter(|_| newest.is_single_connection()) else {
            return;
        };
        for (at, client) in present.others_of(newest) {
            close(at, newest, client, node);
        }
    }

    /// Closes a client that was replaced before the home heard of it.
    pub(super) fn close_surplus(&self, at: NodeId, older: &ClientInfo, node: &mut Node) {
        close(at, older, older.client, node);
    }
}

/// Closes another connection of the user.
fn close(at: NodeId, user: &ClientInfo, client: ClientId, node: &mut Node) {
    let (code, reason) = Disconnect::ConnectionLimit.parts();
    let action = Action::Disconnect { code, reason: reason.to_owned(), except: Vec::new() };
    node.control(at, Control::of_client(&user.user, client, action));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::types::InRoom;

    fn single(client: u128, user: &str) -> Arc<ClientInfo> {
        let in_room = Some(Box::new(InRoom { single_connection: true, ..InRoom::default() }));
        Arc::new(ClientInfo { in_room, ..ClientInfo::new(ClientId(client), user) })
    }

    #[test]
    fn whoever_has_come_elsewhere_meanwhile_is_one_too_many() {
        let mut presence = Presence::default();
        presence.join(NodeId(1), single(1, "ann"));
        let said = [single(1, "ann"), single(2, "ann"), single(3, "bob")];
        assert_eq!(presence.surplus(&said), [single(2, "ann")]);
        let many = [Arc::new(ClientInfo::new(ClientId(4), "ann"))];
        assert_eq!(presence.surplus(&many), [], "where users may have several");
        assert_eq!(presence.others_of(&single(2, "ann")), [(NodeId(1), ClientId(1))]);
    }
}
