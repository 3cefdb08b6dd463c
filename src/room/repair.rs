//! How a room's log is mended: what this node's disk can't read any more comes from another node's copy.
//!
//! ```text
//! the log reads: all before 7, and 7 is damaged
//!    │ FetchPublication(7) ──────► who has a copy, one after the other
//!    │ ◄──────── Publication(7) or NotHome: what is there is not the same, or damaged too
//!    │    the log writes it once more, and whoever waits for the page gets it
//! ```
//!
//! In: pages of the log that end before something damaged, and what peers answer. Out: the same pages, with what was
//! damaged where someone has it.

use std::{collections::BTreeSet, time::Duration};

use super::{
    line::Root,
    logged::LogPage,
    messages::{Refused, RoomMessage},
    node::Node,
    room::{Role, Room},
    stream::Entry,
    types::Position,
};
use crate::{
    cluster::{node::NodeId, slots::Term},
    log,
    runtime::time::Time,
};

/// How long a node is given to answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// When nodes are asked again for what nobody waits for, if none is there that may have it.
const AGAIN: Duration = Duration::from_secs(5);
/// The same for what a group or a map can't begin without, or what one may have that has not answered; and for how long.
const SOON: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(30);
/// The most publications that are asked for though nobody waits for them: others once someone reads them.
const MOST: u64 = 1_000;
/// The most nodes that are asked for one.
const MOST_ASKED: usize = 8;
/// The number of pages that nobody waits for.
const NOBODY: u64 = 0;

/// What is being read once more for this node's log, or for another's.
#[derive(Debug, Clone, Default)]
pub struct Repairs {
    /// Pages that end before something damaged, each with the number of its request.
    waiting: Vec<(u64, LogPage)>,
    /// What was asked for, of those.
    asked: Option<Asked>,
    /// When somebody is looked for again.
    again_at: Option<Time>,
    /// Since when what is damaged is not done without, although nobody is left to be asked.
    waits_since: Option<Time>,
    /// What the log reads for peers: the number of that, and who has asked for it.
    for_peers: Vec<(u64, (NodeId, u64))>,
}

/// A publication that another node may have.
#[derive(Debug, Clone)]
struct Asked {
    at: Position,
    /// Who is asked, on which link, under which number, and until when.
    peer: NodeId,
    link: u64,
    id: u64,
    until: Time,
    /// Who is asked next.
    others: Vec<NodeId>,
    /// Somebody who was asked before has not answered: its disk may be slow.
    silent: bool,
}

impl Repairs {
    /// When something is to be done if nothing comes in.
    pub(super) fn next_due(&self) -> Option<Time> {
        self.asked.as_ref().map(|it| it.until).or(self.again_at)
    }

    /// Takes the pages that end before this publication.
    fn take_pages(&mut self, offset: u64) -> Vec<(u64, LogPage)> {
        self.waiting.extract_if(.., |(_, page)| page.damaged == Some(offset)).collect()
    }

    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_none() && self.for_peers.is_empty()
    }
}

impl Room {
    fn repairs(&mut self) -> Option<&mut Option<Box<Repairs>>> {
        Some(&mut self.stream.as_deref_mut()?.logged.as_deref_mut()?.repairs)
    }

    /// A page of the log ends before something damaged: it goes on once that is here again, or nobody has it.
    pub(super) fn repair(&mut self, id: u64, page: LogPage, node: &mut Node) {
        match self.repairs() {
            Some(repairs) => {
                let repairs = repairs.get_or_insert_default();
                repairs.waiting.push((id, page));
                repairs.again_at = None;
            }
            None => return self.use_read(id, Some(page), node),
        }
        self.ask_for_damaged(node);
    }

    /// The log has found damage that nobody has asked for.
    pub(super) fn found_damaged(&mut self, first: u64, end: u64, node: &mut Node) {
        let Some(repairs) = self.repairs() else { return };
        let repairs = repairs.get_or_insert_default();
        // It may be found again and again, while no node is there that has it.
        let known: BTreeSet<u64> =
            repairs.waiting.iter().filter_map(|(_, page)| page.damaged).collect();
        let offsets = (first..end.min(first.saturating_add(MOST))).filter(|it| !known.contains(it));
        let damaged = |offset| LogPage { damaged: Some(offset), ..LogPage::default() };
        repairs.waiting.extend(offsets.map(|it| (NOBODY, damaged(it))));
        self.ask_for_damaged(node);
    }

    /// Asks for the first that is damaged, unless something is asked for already.
    fn ask_for_damaged(&mut self, node: &mut Node) {
        loop {
            let Some(Some(repairs)) = self.repairs() else { return };
            if repairs.asked.is_some() || repairs.again_at.is_some_and(|at| at > node.now) {
                return;
            }
            let Some(offset) = repairs.waiting.iter().find_map(|(_, page)| page.damaged) else {
                break;
            };
            let nobody_waits = repairs.waiting.iter().all(|(id, _)| *id == NOBODY);
            let peers = self.who_may_have_it(node);
            if peers.is_empty() && nobody_waits {
                let repairs = self.repairs().and_then(|it| it.as_deref_mut());
                repairs.into_iter().for_each(|it| it.again_at = Some(node.now + AGAIN));
                return;
            }
            match self.damaged_at(offset) {
                Some(at) => self.ask_one(at, peers, false, node),
                // It is not kept any more.
                None => self.give_pages(offset, None, node),
            }
        }
        self.forget_repairs();
    }

    fn forget_repairs(&mut self) {
        if let Some(repairs) = self.repairs() {
            repairs.take_if(|it| it.is_idle());
        }
    }

    /// The publication at `offset`, if it is one of this node's copy.
    fn damaged_at(&self, offset: u64) -> Option<Position> {
        let stream = self.stream.as_deref()?;
        let has = stream.logged.as_deref()?.has(offset);
        has.then(|| Position { epoch: stream.epoch_at(offset), offset })
    }

    /// Who may have a copy on disk: first those of which that is known, then those that should, then any.
    fn who_may_have_it(&self, node: &Node) -> Vec<NodeId> {
        let mut peers = match &self.role {
            Role::Home(home) => [home.replication.successors(), home.holders()].concat(),
            Role::Opening(opening) => opening.holders(),
            Role::Mirror(mirror) => vec![mirror.home],
            Role::Guest => Vec::new(),
        };
        let next = node.placement.home(self.slot).into_iter();
        let next = next.chain(node.placement.successors(self.slot).iter().copied());
        for peer in next.chain(node.links.keys().copied()) {
            if !peers.contains(&peer) {
                peers.push(peer);
            }
        }
        peers.retain(|it| *it != node.me && node.link(*it).is_some());
        peers.truncate(MOST_ASKED);
        peers
    }

    /// Asks the first of these; if there is none, whoever waits does without.
    fn ask_one(&mut self, at: Position, mut peers: Vec<NodeId>, silent: bool, node: &mut Node) {
        peers.retain(|it| node.link(*it).is_some());
        let standing = self.stream.as_deref().map(|it| it.standing());
        let (Some(peer), Some(standing)) = (peers.first().copied(), standing) else {
            return self.do_without(at.offset, silent, node);
        };
        let Some(link) = node.link(peer) else { return };
        let (id, until) = (node.next_id(), node.now + PATIENCE);
        let others = peers.split_off(1);
        if let Some(repairs) = self.repairs() {
            let asked = Asked { at, peer, link, id, until, others, silent };
            repairs.get_or_insert_default().asked = Some(asked);
        }
        let (root, term) = (standing.root, standing.term);
        self.send_to(peer, RoomMessage::FetchPublication { id, root, term, at }, node);
    }

    /// Nobody has this publication, as far as they have answered. What follows from all that was published can't be had
    /// without it, and the nodes that have it may be about to come back; and copies that are made without it take the place of
    /// one that has it, so whoever is `silent`, or is about to be reached, is asked again.
    fn do_without(&mut self, offset: u64, silent: bool, node: &mut Node) {
        let begins = self.options.is_made_of_changes() && matches!(self.role, Role::Opening(_));
        let some_may_have_it = silent || node.has_yet_to_meet_some();
        if let Some(Some(repairs)) = self.repairs()
            && (begins || some_may_have_it)
            && node.now.since(*repairs.waits_since.get_or_insert(node.now)) < LONGEST
        {
            repairs.again_at = Some(node.now + SOON);
            return;
        }
        self.give_pages(offset, None, node);
    }

    /// Whoever waits for this publication goes on, with or without it.
    fn give_pages(&mut self, offset: u64, found: Option<&(Time, Entry)>, node: &mut Node) {
        let Some(Some(repairs)) = self.repairs() else { return };
        for (id, mut page) in repairs.take_pages(offset) {
            if let Some(found) = found {
                page.entries.push(found.clone());
                page.damaged = None;
            }
            if id != NOBODY {
                self.use_read(id, Some(page), node);
            }
        }
    }

    /// Takes what was asked for under this number.
    fn take_asked(&mut self, (from, id): (NodeId, u64)) -> Option<Asked> {
        let asked = &mut self.repairs()?.as_deref_mut()?.asked;
        asked.take_if(|it| (it.peer, it.id) == (from, id))
    }

    /// A peer has what was asked for.
    pub(super) fn publication_came(
        &mut self,
        answer: (NodeId, u64),
        age: Duration,
        entry: Entry,
        node: &mut Node,
    ) {
        let Some(asked) = self.take_asked(answer) else { return };
        if let Some(Some(repairs)) = self.repairs() {
            repairs.waits_since = None;
        }
        let at = asked.at;
        // By now there may be another copy here.
        let is_it = self.damaged_at(at.offset) == Some(at) && entry.publication.offset == at.offset;
        let found = is_it.then(|| (node.now.ago(age), entry));
        let logged = self.stream.as_deref_mut().and_then(|it| it.logged.as_deref_mut());
        if let (Some((at, entry)), Some(logged)) = (&found, logged) {
            logged.rewrite(&self.name, *at, entry.clone(), node);
        }
        self.give_pages(at.offset, found.as_ref(), node);
        self.ask_for_damaged(node);
    }

    /// A peer has not what was asked for under this number, if anything was.
    pub(super) fn repair_refused(&mut self, answer: (NodeId, u64), node: &mut Node) {
        let Some(asked) = self.take_asked(answer) else { return };
        self.ask_one(asked.at, asked.others, asked.silent, node);
        self.ask_for_damaged(node);
    }

    /// Asks the next if the one that was asked does not answer, and looks again who may have what is damaged.
    pub(super) fn go_on_with_repairs(&mut self, node: &mut Node) {
        let Some(Some(repairs)) = self.repairs() else { return };
        let silent = |it: &mut Asked| it.until <= node.now || node.link(it.peer) != Some(it.link);
        if let Some(asked) = repairs.asked.take_if(silent) {
            self.ask_one(asked.at, asked.others, true, node);
        } else if repairs.again_at.take_if(|at| *at <= node.now).is_none() {
            return;
        }
        self.ask_for_damaged(node);
    }

    /// A peer asks for a publication of this node's copy.
    pub(super) fn publication_wanted(
        &mut self,
        asker: (NodeId, u64),
        (root, term): (Root, Term),
        at: Position,
        node: &mut Node,
    ) {
        let is_same = self.stream.as_deref().is_some_and(|stream| {
            let own = stream.standing();
            // In a quorum one epoch may have had several homes; where the newest publications are of one home, all before
            // them are the same.
            let same_line =
                own.term == term || !node.is_quorum() && stream.epoch_at(at.offset) == at.epoch;
            own.root.is_same(&root) && same_line
        });
        if !is_same || self.damaged_at(at.offset).is_none() {
            return self.has_no_publication(asker, node);
        }
        let id = node.next_id();
        if let Some(repairs) = self.repairs() {
            repairs.get_or_insert_default().for_peers.push((id, asker));
        }
        let since = Some(at.offset.saturating_sub(1));
        self.read_log(id, log::Query { since, reverse: false, count: 1, bytes: 1 }, node);
    }

    fn has_no_publication(&self, (to, id): (NodeId, u64), node: &mut Node) {
        self.send_to(to, RoomMessage::NotHome(Refused::Fetch(id)), node);
    }

    /// Who has asked for what the log reads under this number.
    fn take_asker(&mut self, read: u64) -> Option<(NodeId, u64)> {
        let for_peers = &mut self.repairs()?.as_deref_mut()?.for_peers;
        let index = for_peers.iter().position(|(id, _)| *id == read)?;
        Some(for_peers.swap_remove(index).1)
    }

    /// The log has read something. Gives it back unless it was for a peer.
    pub(super) fn read_for_peer(
        &mut self,
        id: u64,
        page: Option<LogPage>,
        node: &mut Node,
    ) -> Option<Option<LogPage>> {
        let Some(asker) = self.take_asker(id) else { return Some(page) };
        self.forget_repairs();
        match page.and_then(|it| it.entries.into_iter().next()) {
            Some((at, entry)) => {
                let (age, (to, id)) = (node.now.since(at), asker);
                self.send_to(to, RoomMessage::Publication { id, age, entry }, node);
            }
            None => self.has_no_publication(asker, node),
        }
        None
    }
}
