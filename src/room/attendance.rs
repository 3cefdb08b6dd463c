//! Who comes and goes, as a room's home announces it: each join and each leave once, also when the home has
//! changed meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    presence::Presence,
    types::{ClientId, ClientInfo},
};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// Clients by their ids.
pub type Clients = BTreeMap<ClientId, Arc<ClientInfo>>;

/// Who is there, and, while a new home settles, who was there under the last one.
#[derive(Debug, Default)]
pub struct Attendance {
    /// Who is there.
    pub presence: Presence,
    settling: Option<Box<Settling>>,
}

/// A home that has just opened.
#[derive(Debug)]
struct Settling {
    until: Time,
    /// Whom the last home knew, if that is known.
    before: Option<Clients>,
    /// The nodes that have said who their clients are: whoever else comes there is new.
    heard: BTreeSet<NodeId>,
}

impl Attendance {
    /// A home opens with its own clients. `before` is who was there under the last home, if it is known;
    /// the nodes that they are on have until `until` to say that they still are.
    pub fn open(
        me: NodeId,
        own: Vec<Arc<ClientInfo>>,
        before: Option<Clients>,
        until: Time,
    ) -> Self {
        let settling = Box::new(Settling { until, before, heard: BTreeSet::new() });
        let mut attendance = Self { presence: Presence::default(), settling: Some(settling) };
        attendance.replace(me, own);
        attendance
    }

    /// A client comes. Returns whether that is news.
    pub fn join(&mut self, node: NodeId, info: Arc<ClientInfo>) -> bool {
        let client = info.client;
        self.presence.join(node, info) && !self.was_there(client)
    }

    /// A client goes. Returns it if that is news.
    pub fn leave(&mut self, node: NodeId, client: ClientId) -> Option<Arc<ClientInfo>> {
        self.presence.leave(node, client)
    }

    /// A node says who all of its clients are. Returns who has come and who has gone.
    pub fn replace(
        &mut self,
        node: NodeId,
        clients: Vec<Arc<ClientInfo>>,
    ) -> (Vec<Arc<ClientInfo>>, Vec<Arc<ClientInfo>>) {
        let (mut come, gone) = self.presence.replace(node, clients);
        let first = self.settling.as_mut().is_some_and(|it| it.heard.insert(node));
        let unknown = first && self.settling.as_ref().is_some_and(|it| it.before.is_none());
        // Whoever comes with a node that attaches to a new home was there before it was.
        come.retain(|info| !self.was_there(info.client) && !unknown);
        (come, gone)
    }

    fn was_there(&mut self, client: ClientId) -> bool {
        let before = self.settling.as_mut().and_then(|it| it.before.as_mut());
        before.is_some_and(|it| it.remove(&client).is_some())
    }

    /// Whether anyone is there, or may yet say that it still is.
    pub fn is_anyone_expected(&self) -> bool {
        let before = self.settling.as_ref().and_then(|it| it.before.as_ref());
        !self.presence.is_empty() || before.is_some_and(|it| !it.is_empty())
    }

    /// Ends the settling when its time is up. Returns who did not come back.
    pub fn settle(&mut self, now: Time) -> Vec<Arc<ClientInfo>> {
        let over = self.settling.take_if(|it| it.until <= now);
        let before = over.and_then(|it| it.before).unwrap_or_default();
        before.into_values().collect()
    }

    /// When the settling ends.
    pub fn next_due(&self) -> Option<Time> {
        self.settling.as_ref().map(|it| it.until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIL: Time = Time::from_millis(10);
    const AFTER: Time = Time::from_millis(11);

    fn client(id: u128) -> Arc<ClientInfo> {
        Arc::new(ClientInfo::new(ClientId(id), "ann"))
    }

    fn known(ids: &[u128]) -> Option<Clients> {
        Some(ids.iter().map(|id| (ClientId(*id), client(*id))).collect())
    }

    #[test]
    fn who_was_there_before_is_no_news_and_who_does_not_come_back_has_left() {
        let mut attendance = Attendance::open(NodeId(1), vec![client(1)], known(&[1, 2, 3]), UNTIL);
        assert_eq!(attendance.replace(NodeId(2), vec![client(2), client(4)]).0, [client(4)]);
        assert!(attendance.settle(Time::from_millis(9)).is_empty());
        assert_eq!(attendance.settle(AFTER), [client(3)]);
        assert!(attendance.settle(AFTER).is_empty());
        assert!(attendance.join(NodeId(2), client(3)), "it comes again, and that is news");
    }

    #[test]
    fn without_knowledge_only_those_who_come_now_are_news() {
        let mut attendance = Attendance::open(NodeId(1), vec![], None, UNTIL);
        assert!(attendance.replace(NodeId(2), vec![client(2)]).0.is_empty());
        let again = attendance.replace(NodeId(2), vec![client(2), client(4)]);
        assert_eq!(again.0, [client(4)], "it came while the link was down");
        assert!(attendance.join(NodeId(2), client(3)));
        assert!(attendance.settle(AFTER).is_empty());
        assert_eq!(attendance.replace(NodeId(3), vec![client(5)]).0, [client(5)]);
    }
}
