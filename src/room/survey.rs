//! Questions to every node at once: who has answered, and who is missing when time is up.
//!
//! What goes through all rooms of a node goes in slices, and its answer in pages, as the link has room for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    messages::Message,
    node::Out,
    pattern,
    registry::State,
    transfer::Source,
    types::{Finding, Findings, NodeFacts, RoomName, Survey},
};
use crate::{
    cluster::{node::NodeId, slot_set::SlotSet},
    runtime::time::Time,
};

/// How long the nodes have to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// What a room counts in an answer, beside its name.
const WEIGHT: usize = 8;

/// A survey under way.
#[derive(Debug)]
struct Asked {
    /// The API call that waits for it.
    to: u64,
    waiting: BTreeSet<NodeId>,
    found: Vec<(NodeId, Finding)>,
    /// What has come of answers that come in parts.
    parts: BTreeMap<NodeId, Finding>,
    deadline: Time,
}

/// The surveys under way, by their numbers.
#[derive(Debug, Default)]
pub struct Surveys(BTreeMap<u64, Asked>);

impl Surveys {
    /// A survey for the API call `to` begins: `found` is known already, `waiting` have to answer.
    pub fn begin(
        &mut self,
        id: u64,
        to: u64,
        found: Vec<(NodeId, Finding)>,
        waiting: BTreeSet<NodeId>,
        now: Time,
    ) {
        let (parts, deadline) = (BTreeMap::new(), now + TIMEOUT);
        self.0.insert(id, Asked { to, waiting, found, parts, deadline });
    }

    /// When time is up for the first of them.
    pub fn next_due(&self) -> Option<Time> {
        self.0.values().map(|it| it.deadline).min()
    }

    /// A node has sent a part of its answer.
    pub fn part_came(&mut self, id: u64, from: NodeId, part: Finding) {
        let Some(asked) = self.0.get_mut(&id).filter(|it| it.waiting.contains(&from)) else {
            return;
        };
        let whole = match asked.parts.remove(&from) {
            Some(earlier) => earlier.followed_by(part),
            None => part,
        };
        asked.parts.insert(from, whole);
    }

    /// A node answers.
    pub fn answered(&mut self, id: u64, from: NodeId, finding: Finding) {
        if let Some(asked) = self.0.get_mut(&id)
            && asked.waiting.remove(&from)
        {
            let finding = match asked.parts.remove(&from) {
                Some(earlier) => earlier.followed_by(finding),
                None => finding,
            };
            asked.found.push((from, finding));
        }
    }

    /// The surveys that are over: time is up, or nobody who can still be reached is waited for.
    pub fn over(&mut self, now: Time, reaches: impl Fn(NodeId) -> bool) -> Vec<(u64, Findings)> {
        let goes_on =
            |asked: &Asked| now < asked.deadline && asked.waiting.iter().any(|peer| reaches(*peer));
        let (on, over) = std::mem::take(&mut self.0).into_iter().partition(|(_, it)| goes_on(it));
        self.0 = on;
        let over: BTreeMap<u64, Asked> = over;
        over.into_values()
            .map(|Asked { to, found, waiting, .. }| {
                (to, Findings { found, missing: waiting.into_iter().collect() })
            })
            .collect()
    }
}

/// Rooms of this node that match a pattern, for a survey.
#[derive(Debug)]
struct Search {
    pattern: String,
    /// The slots that are left.
    slots: SlotSet,
    /// What was found and is not sent.
    found: Vec<(RoomName, u32)>,
    /// Bytes of that.
    bytes: usize,
}

/// The searches under way: for whom, and the number of the survey.
#[derive(Debug, Default)]
pub struct Searches(BTreeMap<(NodeId, u64), Search>);

impl Searches {
    /// The link to a peer is gone.
    pub(super) fn lose(&mut self, peer: NodeId) {
        self.0.retain(|(to, _), _| *to != peer);
    }

    /// Whether this node searches for an API call of its own.
    pub(super) fn is_left(&self, me: NodeId) -> bool {
        !self.0.is_empty() && self.0.range((me, 0)..=(me, u64::MAX)).next().is_some()
    }
}

impl State {
    /// An API call asks every node.
    pub(super) fn survey(&mut self, to: u64, survey: Survey) {
        // Nodes that can't be asked are listed as missing in the answer.
        let view = self.node.view.nodes().keys().copied();
        let mut waiting: BTreeSet<NodeId> = view.chain(self.node.peers()).collect();
        waiting.insert(self.node.me);
        let peers: Vec<NodeId> =
            waiting.iter().copied().filter(|it| self.node.reaches(*it)).collect();
        let id = self.node.next_id();
        self.surveys.begin(id, to, Vec::new(), waiting, self.node.now);
        self.find(self.node.me, id, &survey);
        if !peers.is_empty() {
            self.node.out.push(Out::Send { to: peers, message: Message::Survey(id, survey) });
        }
        self.close_surveys();
    }

    /// A node asks this one, or it asks itself.
    pub(super) fn find(&mut self, from: NodeId, id: u64, survey: &Survey) {
        let finding = match survey {
            Survey::Info => Finding::Info(NodeFacts {
                num_subs: self.node.subscriptions as u32,
                num_channels: self.node.subscribed_rooms as u32,
                ..self.facts.clone()
            }),
            Survey::Channels(pattern) => return self.begin_search(from, id, pattern),
            Survey::Control(control) => {
                self.node.out.push(Out::Control(Arc::new(control.clone())));
                Finding::Controlled
            }
        };
        self.found(from, id, finding, true);
    }

    fn begin_search(&mut self, from: NodeId, id: u64, pattern: &str) {
        let slots = self.rooms.occupied().clone();
        let (pattern, found) = (pattern.to_owned(), Vec::new());
        self.work.searches.0.insert((from, id), Search { pattern, slots, found, bytes: 0 });
        if from != self.node.me {
            self.node.flow_to(from).ready(Source::Search(id));
        }
    }

    /// Goes on with what API calls of this node search for.
    pub(super) fn search_some(&mut self) {
        if self.work.searches.0.is_empty() {
            return;
        }
        let me = self.node.me;
        let own = self.work.searches.0.range((me, 0)..=(me, u64::MAX));
        let own: Vec<u64> = own.map(|((_, id), _)| *id).collect();
        for id in own {
            self.search(me, id);
        }
    }

    /// Looks at as many rooms as one input may. Returns whether there are more.
    pub(super) fn search(&mut self, to: NodeId, id: u64) -> bool {
        let Some(mut search) = self.work.searches.0.remove(&(to, id)) else { return false };
        let most = self.node.settings.page;
        let mut looked = 0;
        while looked < self.slice && search.bytes < most {
            let Some(slot) = search.slots.pop_first() else { break };
            for name in self.rooms.of_slot(slot) {
                looked += 1;
                let subscribers = self.rooms.get(name).map_or(0, |room| room.local().len());
                if subscribers > 0 && pattern::matches(&search.pattern, name) {
                    search.bytes += name.len() + WEIGHT;
                    search.found.push((name.clone(), subscribers as u32));
                }
            }
        }
        let last = search.slots.is_empty();
        if last || search.bytes >= most {
            search.bytes = 0;
            let found = std::mem::take(&mut search.found);
            self.found(to, id, Finding::Channels(found), last);
        }
        if !last {
            self.work.searches.0.insert((to, id), search);
        }
        !last
    }

    /// Sends a part of an answer, or the last of it, to the node that asked.
    fn found(&mut self, to: NodeId, id: u64, finding: Finding, last: bool) {
        if to == self.node.me {
            return self.finding_came(to, id, finding, last);
        }
        self.node.flows.entry(to).or_default().sent(finding.weight());
        let message = match last {
            true => Message::Finding(id, finding),
            false => Message::FindingPart(id, finding),
        };
        self.node.out.push(Out::Send { to: vec![to], message });
    }

    /// A node has answered, or has sent a part of its answer.
    pub(super) fn finding_came(&mut self, from: NodeId, id: u64, finding: Finding, last: bool) {
        if from != self.node.me {
            self.node.dealt_with(from, finding.weight());
        }
        if !last {
            return self.surveys.part_came(id, from, finding);
        }
        self.surveys.answered(id, from, finding);
        self.close_surveys();
    }

    pub(super) fn close_surveys(&mut self) {
        let node = &self.node;
        let answers = |peer| peer == node.me || node.reaches(peer);
        for (to, findings) in self.surveys.over(node.now, answers) {
            self.node.out.push(Out::Findings { to, findings });
        }
    }
}

impl Finding {
    /// Puts a part of an answer and what follows it together.
    fn followed_by(self, rest: Self) -> Self {
        match (self, rest) {
            (Self::Channels(mut part), Self::Channels(rest)) => {
                part.extend(rest);
                Self::Channels(part)
            }
            (_, rest) => rest,
        }
    }

    /// What it counts on a link, on both sides.
    fn weight(&self) -> usize {
        match self {
            Self::Channels(rooms) => rooms.iter().map(|(name, _)| name.len() + WEIGHT).sum(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::types::NodeFacts;

    #[test]
    fn whoever_does_not_answer_is_missing() {
        let (a, b) = (NodeId(1), NodeId(2));
        let fact = || Finding::Info(NodeFacts::default());
        let mut surveys = Surveys::default();
        let now = Time::from_millis(0);
        surveys.begin(7, 1, Vec::new(), [a, b].into(), now);
        assert!(surveys.over(now, |_| true).is_empty());
        surveys.answered(7, a, fact());
        surveys.answered(8, b, fact());
        assert!(surveys.over(now, |_| true).is_empty(), "b may still answer");
        let over = surveys.over(now + TIMEOUT, |_| true);
        assert_eq!(over, [(1, Findings { found: vec![(a, fact())], missing: vec![b] })]);
        surveys.begin(9, 2, Vec::new(), [b].into(), now);
        assert_eq!(surveys.over(now, |_| false).len(), 1, "b can't be asked at all");
    }

    #[test]
    fn rooms_are_searched_in_slices_and_all_of_them_are_found() {
        use crate::room::{
            options::Namespaces,
            registry::{In, RoomSettings},
            types::{ClientId, ClientInfo, MemberFlags, Request, SocketRef, Subscribe},
        };
        let settings = RoomSettings { slice: 3, page: 40, ..RoomSettings::default() };
        let mut state = State::new(NodeId(1), Arc::new(Namespaces::default()), settings, 1);
        let now = Time::from_millis(1_000);
        for number in 0..50_u32 {
            let subscribe = Subscribe {
                socket: SocketRef { worker: 0, slot: number, generation: 0 },
                id: 1,
                info: Arc::new(ClientInfo::new(ClientId(number.into()), "ann")),
                flags: MemberFlags::default(),
                recover: None,
                must_recover: false,
                delivery: None,
            };
            let room = format!("{}-{number}", if number % 2 == 0 { "even" } else { "odd" });
            state.handle(In::Request(room.into(), Request::Subscribe(subscribe)), now);
        }
        let mut out = state.handle(In::Survey(7, Survey::Channels("even-*".to_owned())), now);
        let mut inputs = 1;
        while !out.iter().any(|it| matches!(it, Out::Findings { .. })) {
            assert!(inputs < 50 && state.has_work(), "after {inputs} inputs there is no answer");
            out = state.handle(In::Tick, now);
            inputs += 1;
        }
        assert!(inputs > 5, "all rooms were gone through in {inputs} inputs");
        let found = out.into_iter().find_map(|it| match it {
            Out::Findings { to: 7, findings } => Some(findings),
            _ => None,
        });
        let found = found.expect("an answer");
        assert!(found.missing.is_empty());
        assert!(matches!(&found.found[..], [(_, Finding::Channels(rooms))] if rooms.len() == 25));
    }
}
