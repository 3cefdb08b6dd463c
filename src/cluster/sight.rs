//! SHELL. What a node sees of the others, while it waits for something to be so.

use std::{collections::BTreeSet, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    names::{self, KnownNodes, Reach},
    node::{NodeInfo, Phase},
    view::View,
};

/// How long a starting node waits to see another of those it joins, before it serves alone.
const JOIN_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the view of a starting node has to stay the same before it takes part.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a node that takes part yields its name to one that bore it before, from its first link on: it may have
/// begun alone, or heard of that one late.
const NEWCOMER: Duration = Duration::from_secs(5);
/// How long a node waits before it leaves because another has its name. A newcomer ends sooner.
const ENDURANCE: Duration = Duration::from_secs(3);
/// How long a leaving node waits for one that takes its rooms: a link that broke is dialled again meanwhile.
const NO_TAKER: Duration = Duration::from_secs(1);

/// The node, and what it sees.
pub struct Sight {
    me: NodeInfo,
    view: watch::Receiver<View>,
    known: watch::Receiver<KnownNodes>,
    reach: watch::Receiver<Reach>,
}

/// Another run bears the node's name.
#[derive(Debug, thiserror::Error)]
pub enum NameTaken {
    /// It did so before, and goes on.
    #[error(
        "the node name {:?} is taken by a node that runs: links at {}, clients at {}. It goes on after \
         {waited:?} of waiting (cluster.name_timeout). Give this node a name of its own (node.name), or stop that one",
        by.name, by.mesh, by.http
    )]
    Borne {
        /// That run.
        by: NodeInfo,
        /// How long this one has waited for it to leave.
        waited: Duration,
    },
    /// It has taken part since, while this one was out of reach.
    #[error(
        "a later node under the name {:?} has taken over: links at {}, clients at {}. Only one can have it; give \
         one of them another name (node.name)",
        by.name, by.mesh, by.http
    )]
    TakenOver {
        /// That run.
        by: NodeInfo,
    },
}

/// The cluster is complete without this node.
#[derive(Debug, thiserror::Error)]
#[error(
    "the cluster is made of {expected} nodes (cluster.expected_nodes), and they are there: {}. With \
     cluster.minority = \"refuse\" there may be no more: stop one of them first, or raise expected_nodes on \
     every node and restart them all",
    names.join(", ")
)]
pub struct TooMany {
    expected: usize,
    names: Vec<String>,
}

/// One of the looks of [`names`].
type Which = for<'a> fn(&'a KnownNodes, &'a NodeInfo, &'a Reach) -> Option<&'a NodeInfo>;

impl Sight {
    /// What node `me` sees: who is here, of whom gossip tells, and who can be reached.
    pub fn new(
        me: NodeInfo,
        view: watch::Receiver<View>,
        known: watch::Receiver<KnownNodes>,
        reach: watch::Receiver<Reach>,
    ) -> Self {
        Self { me, view, known, reach }
    }

    /// Who can be reached, from now on.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.clone()
    }

    fn look<T>(&self, look: impl Fn(&View, &Reach) -> T) -> T {
        look(&self.view.borrow(), &self.reach.borrow())
    }

    /// Waits for a change. One that sees nothing more, because the node ends, waits for ever.
    async fn change(&mut self) {
        let changed = tokio::select! {
            changed = self.view.changed() => changed,
            changed = self.known.changed() => changed,
            changed = self.reach.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until there is what is looked for.
    async fn until<T>(&mut self, look: impl Fn(&View, &Reach) -> Option<T>) -> T {
        loop {
            self.view.mark_unchanged();
            self.reach.mark_unchanged();
            if let Some(found) = self.look(&look) {
                return found;
            }
            self.change().await;
        }
    }

    /// The run under this node's name, if there is one, that is looked for.
    fn namesake(&self, which: Which) -> Option<NodeInfo> {
        which(&self.known.borrow(), &self.me, &self.reach.borrow()).cloned()
    }

    /// Waits until there is one.
    async fn until_namesake(&mut self, which: Which) -> NodeInfo {
        loop {
            if let Some(found) = self.namesake(which) {
                return found;
            }
            self.change().await;
        }
    }

    /// Waits until there is none.
    async fn until_no_namesake(&mut self, which: Which) {
        while self.namesake(which).is_some() {
            self.change().await;
        }
    }

    /// A node that took part before it has seen the others would make rooms of its own that exist already: it
    /// waits until it has links to all that it sees, and sees no more of them. `join` are those to begin with.
    pub async fn get_to_know(&mut self, join: &[String]) {
        if join.is_empty() {
            return;
        }
        let others = |view: &View, _: &Reach| (view.nodes().len() > 1).then_some(());
        if timeout(JOIN_TIMEOUT, self.until(others)).await.is_err() {
            tracing::warn!(
                ?join,
                "none of the nodes to join has answered; serving alone until one does"
            );
            return;
        }
        let settled =
            async { while timeout(SETTLED, self.change()).await.is_ok() || self.unlinked() > 0 {} };
        if timeout(JOIN_TIMEOUT, settled).await.is_err() {
            let (unlinked, nodes) = (self.unlinked(), self.view.borrow().nodes().len());
            tracing::warn!(unlinked, nodes, "taking part without links to all nodes");
        }
    }

    /// A node with rooms on disk waits for those that it was with last: one of them may have what it has not. Unless one
    /// of them takes part, and so has waited itself.
    pub async fn meet_again(&mut self, companions: &BTreeSet<String>, patience: Duration) {
        let me = self.me.clone();
        let met = |view: &View, reach: &Reach| {
            let linked = |id| reach.is_linked(id);
            names::missing(companions, &me, view, linked).is_empty().then_some(())
        };
        if met(&self.view.borrow(), &self.reach.borrow()).is_some() {
            return;
        }
        let missing = self
            .look(|view, reach| names::missing(companions, &me, view, |id| reach.is_linked(id)));
        tracing::info!(
            ?missing,
            patience = ?patience,
            "waiting for the nodes that this one was with last, which may have later publications"
        );
        if timeout(patience, self.until(met)).await.is_err() {
            let missing = self.look(|view, reach| {
                names::missing(companions, &me, view, |id| reach.is_linked(id))
            });
            tracing::warn!(
                ?missing,
                "taking part without nodes that may have later publications (cluster.restart_timeout)"
            );
        }
    }

    /// How many of the others there is no link to.
    fn unlinked(&self) -> usize {
        let me = self.me.id();
        self.look(|view, reach| {
            view.nodes().keys().filter(|id| **id != me && !reach.is_linked(**id)).count()
        })
    }

    /// Waits until no other node that lives bears this node's name.
    ///
    /// # Errors
    /// If one still does after `patience`.
    pub async fn claim_name(&mut self, patience: Duration) -> Result<(), NameTaken> {
        let Some(by) = self.namesake(names::bearer) else { return Ok(()) };
        tracing::warn!(
            name = by.name,
            mesh = %by.mesh,
            http = %by.http,
            patience = ?patience,
            "the name of this node is taken by one that runs; waiting for it to leave"
        );
        if timeout(patience, self.until_no_namesake(names::bearer)).await.is_ok() {
            tracing::info!(name = by.name, "the name is free");
            return Ok(());
        }
        let by = self.namesake(names::bearer).unwrap_or(by);
        Err(NameTaken::Borne { by, waited: patience })
    }

    /// Refuses to be one node more than the cluster is made of: a majority would be no majority any more.
    ///
    /// # Errors
    /// If there are `expected` others that take part, or came before this node.
    pub fn fits(&self, expected: usize) -> Result<(), TooMany> {
        let me = &self.me;
        let names: BTreeSet<String> = self.look(|view, _| {
            let others = view.nodes().values().filter(|it| it.name != me.name);
            let before = others.filter(|it| {
                it.phase != Phase::Joining || (it.generation, it.id()) < (me.generation, me.id())
            });
            before.map(|it| it.name.clone()).collect()
        });
        match names.len() < expected {
            true => Ok(()),
            false => Err(TooMany { expected, names: names.into_iter().collect() }),
        }
    }

    /// Waits, for ever if it has to, until this node must give its name up.
    pub async fn lose_name(&mut self) -> NameTaken {
        self.until(|_, reach| reach.has_links().then_some(())).await;
        if let Ok(by) = timeout(NEWCOMER, self.until_namesake(names::elder)).await {
            return NameTaken::Borne { by, waited: Duration::ZERO };
        }
        loop {
            let by = self.until_namesake(names::usurper).await;
            sleep(ENDURANCE).await;
            if self.namesake(names::usurper).is_some() {
                return NameTaken::TakenOver { by };
            }
        }
    }

    /// Waits until the others know that this node leaves, as far as it can tell: until it sees so itself, it
    /// goes on as home. Whether there is one to take its rooms.
    pub async fn see_myself_leave(&mut self) -> bool {
        let me = self.me.id();
        let taker = self.until(|view, _| {
            let others = || view.nodes().values().filter(|it| it.id() != me);
            let ready = others().any(|it| it.phase == Phase::Ready);
            // One that is still joining will take them.
            let joins = others().any(|it| it.phase == Phase::Joining);
            (ready || !joins).then_some(ready)
        });
        if !taker.await {
            return false;
        }
        let leaves = |it: &NodeInfo| it.phase == Phase::Draining;
        self.until(|view, _| view.nodes().get(&me).is_some_and(leaves).then_some(())).await;
        true
    }

    /// Whether there is a node that takes rooms, or one is back within a moment.
    pub async fn has_taker(&mut self) -> bool {
        let me = self.me.id();
        let taker = self.until(|view, reach| {
            let takes = |it: &NodeInfo| {
                it.id() != me && it.phase != Phase::Draining && reach.is_linked(it.id())
            };
            view.nodes().values().any(takes).then_some(())
        });
        timeout(NO_TAKER, taker).await.is_ok()
    }
}
