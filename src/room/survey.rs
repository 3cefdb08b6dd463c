//! Questions to every node at once: who has answered, and who is missing when time is up.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::types::{Finding, Findings};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// How long the nodes have to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A survey under way.
#[derive(Debug)]
struct Asked {
    /// The API call that waits for it.
    to: u64,
    waiting: BTreeSet<NodeId>,
    found: Vec<(NodeId, Finding)>,
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
        self.0.insert(id, Asked { to, waiting, found, deadline: now + TIMEOUT });
    }

    /// When time is up for the first of them.
    pub fn next_due(&self) -> Option<Time> {
        self.0.values().map(|it| it.deadline).min()
    }

    /// A node answers.
    pub fn answered(&mut self, id: u64, from: NodeId, finding: Finding) {
        if let Some(asked) = self.0.get_mut(&id)
            && asked.waiting.remove(&from)
        {
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
}
