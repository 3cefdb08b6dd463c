//! What a room does for its group of consumers, or for the groups that share its messages.
//!
//! In: who comes and goes, what is asked of the group, what came of a look at it ([`super::groups`]). Out: changes, which
//! are publications of the group's room, messages for consumers of this and of other nodes, and answers.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    control::{Action, Control},
    group::{GroupHome, GroupOut},
    messages::RoomMessage,
    node::{Node, Out},
    persisted::{change_from_bytes, change_to_bytes},
    replication::{Unacked, Whom},
    room::{Role, Room},
    stream::{Entry, ForwardId, Repeat},
    types::{Answer, ClientId, ClientInfo, Failure, GroupAnswer, GroupRequest, Publication},
};
use crate::{
    cluster::node::NodeId,
    queue::{
        change::Change,
        group::{Effect, Facts, Group},
        name,
    },
};

/// Bytes of messages that are pushed to a node at a time, about.
const PUSH: usize = 1 << 20;

/// How many messages a consumer may have at a time, as its node has noted it.
fn prefetch(info: &ClientInfo) -> u32 {
    let noted = std::str::from_utf8(info.chan_info()).ok();
    noted.and_then(|it| it.parse().ok()).unwrap_or(1)
}

impl Room {
    /// Whether it is the room of a group.
    pub fn is_group(&self) -> bool {
        self.options.group.is_some()
    }

    pub(super) fn group_mut(&mut self) -> Option<&mut GroupHome> {
        match &mut self.role {
            Role::Home(home) => home.derived.as_deref_mut()?.group.as_deref_mut(),
            _ => None,
        }
    }

    /// The group, for as long as it is looked at beside the room whose messages it shares.
    pub(super) fn take_group(&mut self) -> Option<Box<GroupHome>> {
        match &mut self.role {
            Role::Home(home) => home.derived.as_deref_mut()?.group.take(),
            _ => None,
        }
    }

    /// Puts it back.
    pub(super) fn put_group(&mut self, group: Box<GroupHome>) {
        if let Role::Home(home) = &mut self.role {
            home.derived.get_or_insert_default().group = Some(group);
        }
    }

    /// This node is home of a group's room from now on.
    pub(super) fn begin_group(&mut self, node: &mut Node) {
        let Some(options) = self.options.group.clone() else { return };
        let mut group = Group::new(options, node.slots.term(self.slot).number());
        let mut changes = 0;
        if let Some(stream) = self.stream() {
            let (first, top) = (stream.history.first(), stream.history.top());
            for (age, it) in (first..=top).filter_map(|it| stream.history.get(it, node.now)) {
                let Some(change) = change_from_bytes(&it.data) else { continue };
                changes = if matches!(change, Change::State(_)) { 0 } else { changes + 1 };
                group.apply(&change, node.now.ago(age));
            }
        }
        group.resume(changes, node.now);
        let side = GroupHome::new(group, name::room(&self.name).into());
        if let Role::Home(home) = &mut self.role {
            home.derived.get_or_insert_default().group = Some(Box::new(side));
        }
        self.note_consumers(node);
    }

    /// Its consumers are those who are there.
    pub(super) fn note_consumers(&mut self, node: &mut Node) {
        if !self.is_group() {
            return;
        }
        let present = self.present.iter().flat_map(|it| it.all());
        let mut there: BTreeMap<u128, u32> =
            present.map(|(_, info)| (info.client.0, prefetch(&info))).collect();
        let now = node.now;
        let Some(GroupHome { group, dismissed, .. }) = self.group_mut() else { return };
        dismissed.retain(|it| there.remove(it).is_some());
        let known: Vec<u128> = group.consumers().collect();
        known
            .iter()
            .filter(|it| !there.contains_key(it))
            .for_each(|it| group.consumer_left(*it, now));
        let new = there.iter().filter(|(who, _)| known.binary_search(who).is_err());
        new.for_each(|(who, prefetch)| group.consumer_came(*who, *prefetch));
        node.groups.wake(&self.name);
    }

    /// Something is asked of the group, at its home.
    pub(super) fn group_asked(
        &mut self,
        request: &GroupRequest,
        forward: ForwardId,
        whom: Whom,
        node: &mut Node,
    ) {
        let until = node.now + node.settings.publish_timeout / 4 * 3;
        let repeat = self.stream().map_or(Repeat::No, |it| it.find(None, Some(forward)));
        let (now, name) = (node.now, self.name.clone());
        let Some(side) = self.group_mut() else {
            let failed = Answer::Failed(Failure::NoHistory);
            return self.answer_when_acked(0, failed, whom, node);
        };
        match request {
            GroupRequest::Judge { deliveries, .. } if repeat != Repeat::No => {
                // Whoever asks again has not heard that it holds.
                let offset = if let Repeat::At(offset) = repeat { offset } else { 0 };
                let judged = GroupAnswer::Judged(vec![true; deliveries.len()]);
                self.answer_when_acked(offset, Answer::Group(judged), whom, node);
            }
            GroupRequest::Judge { verdict, deliveries, by } => {
                let (mut out, by) = (Vec::new(), by.map(|it| it.0));
                let holds = side.group.judge(*verdict, deliveries, by, now, &mut out);
                let mut offset = 0;
                for effect in out {
                    if let Effect::Change(change) = effect {
                        offset = self.keep_change(&change, Some(forward), node);
                    }
                }
                let judged = Answer::Group(GroupAnswer::Judged(holds));
                self.answer_when_acked(offset, judged, whom, node);
            }
            GroupRequest::Pull { .. }
            | GroupRequest::Facts
            | GroupRequest::Seek(_)
            | GroupRequest::Purge
            | GroupRequest::Remove => side.asked.push_back((request.clone(), until, whom)),
        }
        node.groups.wake(&name);
    }

    /// Keeps a change of the group, as a publication of its room. Returns its offset.
    fn keep_change(&mut self, change: &Change, forward: Option<ForwardId>, node: &mut Node) -> u64 {
        let offset = self.top() + 1;
        let data = change_to_bytes(change);
        let publication = Publication { offset, data, ..Publication::default() };
        let publication = Arc::new(publication);
        self.keep(Entry { publication, forward, ..Entry::default() }, node);
        offset
    }

    /// Does what came of a look at the group.
    pub(super) fn perform_group(&mut self, all: Vec<GroupOut>, node: &mut Node) {
        let (mut pushes, mut offset) = (BTreeMap::<NodeId, Vec<_>>::new(), 0);
        for out in all {
            match out {
                GroupOut::Change(change) => {
                    if matches!(change, Change::Removed) {
                        self.dismiss_consumers(node);
                    }
                    offset = self.keep_change(&change, None, node);
                    self.group_mut().into_iter().for_each(|it| it.has_kept(&change, offset));
                }
                GroupOut::Push(client, message) => {
                    let at = self.present.as_ref().and_then(|it| it.node_of(client));
                    if let Some(at) = at {
                        pushes.entry(at).or_default().push((client, message));
                    }
                }
                GroupOut::Answer(whom, mut answer) => {
                    if let Answer::Group(GroupAnswer::Facts(facts)) = &mut answer {
                        self.name_consumers(facts);
                    }
                    let waits = matches!(answer, Answer::Group(GroupAnswer::Done));
                    self.answer_when_acked(if waits { offset } else { 0 }, answer, whom, node);
                }
                GroupOut::Bury(offset, letter) => {
                    let to = self.options.group.as_ref().and_then(|it| it.dead_letter.clone());
                    if let Some(to) = to {
                        let id = node.next_id();
                        node.groups.bury(id, &self.name, offset, to.as_ref().into(), letter);
                    }
                }
                GroupOut::Read(offset, count) => node.groups.read(&self.name, offset, count),
            }
        }
        for (at, messages) in pushes {
            self.push_to(at, messages, node);
        }
    }

    /// The group is removed: those who consume are told, by the end of their subscriptions.
    fn dismiss_consumers(&mut self, node: &mut Node) {
        let present = self.present.as_ref().map_or_else(Vec::new, |it| it.all());
        let Some(side) = self.group_mut() else { return };
        side.dismissed = present.iter().map(|(_, info)| info.client.0).collect();
        for (at, info) in present {
            let action = Action::Unsubscribe { room: self.name.to_string() };
            node.control(at, Control::of_client(&info.user, info.client, action));
        }
    }

    /// A node says anew who is there: whoever was dismissed and still is has not been told, or has come again.
    pub(super) fn readmit_consumers(&mut self, said: &[Arc<ClientInfo>]) {
        if let Some(side) = self.group_mut().filter(|it| !it.dismissed.is_empty()) {
            side.dismissed.retain(|it| said.iter().all(|said| said.client.0 != *it));
        }
    }

    /// Says whose each consumer is.
    fn name_consumers(&self, facts: &mut Facts) {
        for it in &mut facts.consumers {
            let info = self.present.as_ref().and_then(|all| all.info_of(ClientId(it.client)));
            it.user = info.map(|it| it.user.clone()).unwrap_or_default();
        }
    }

    fn push_to(
        &mut self,
        at: NodeId,
        messages: Vec<(ClientId, Arc<Publication>)>,
        node: &mut Node,
    ) {
        if at == node.me {
            return self.push_local(messages, node);
        }
        let (mut some, mut bytes) = (Vec::new(), 0);
        for message in messages {
            bytes += message.1.weight();
            if bytes > PUSH && !some.is_empty() {
                self.send_to(at, RoomMessage::Push(std::mem::take(&mut some)), node);
                bytes = message.1.weight();
            }
            some.push(message);
        }
        self.send_to(at, RoomMessage::Push(some), node);
    }

    /// Messages for consumers of this node. One that has gone meanwhile gets nothing: its home hears of that.
    pub(super) fn push_local(&self, messages: Vec<(ClientId, Arc<Publication>)>, node: &mut Node) {
        for (client, publication) in messages {
            if let Some(socket) = self.local.consumer(client) {
                node.out.push(Out::Push { socket, room: self.name.clone(), publication });
            }
        }
    }

    /// The group may give messages once all that have to have copies know that it has begun.
    pub(super) fn note_begun(&mut self, node: &mut Node) {
        let (kept, needed, now) = (self.kept(), node.acks_needed(), node.now);
        let Role::Home(home) = &mut self.role else { return };
        let Some(group) = home.derived.as_deref_mut().and_then(|it| it.group.as_mut()) else {
            return;
        };
        let Some(begun) = group.begun else { return };
        if begun <= home.replication.acked(kept, needed) {
            group.begun = None;
            node.groups.wake(&self.name);
        } else if !home.replication.waits() {
            // A successor that is too slow is done without once someone has waited for it.
            let answer = Answer::Group(GroupAnswer::Done);
            let unacked = Unacked { offset: begun, since: now, answer, whom: Whom::Group };
            home.replication.wait(unacked, kept, needed);
        }
    }

    /// The group is looked at when something of it is due; who has waited for too long is told.
    pub(super) fn settle_group(&mut self, node: &mut Node) {
        let now = node.now;
        let Some(side) = self.group_mut() else { return };
        if side.next_due().is_some_and(|at| at <= now) {
            let mut overdue = Vec::new();
            while side.asked.front().is_some_and(|(_, until, _)| *until <= now) {
                overdue.extend(side.asked.pop_front());
            }
            for (_, _, whom) in overdue {
                let failed = Answer::Failed(Failure::Unavailable);
                self.answer_when_acked(0, failed, whom, node);
            }
            node.groups.wake(&self.name);
        }
    }

    /// A dead letter is in its room.
    pub(super) fn buried(&mut self, offset: u64, node: &mut Node) {
        let now = node.now;
        let Some(side) = self.group_mut() else { return };
        let mut out = Vec::new();
        side.group.buried(offset, now, &mut out);
        for effect in out {
            if let Effect::Change(change) = effect {
                self.keep_change(&change, None, node);
            }
        }
        node.groups.wake(&self.name);
    }

    /// Takes note of how far the room's messages may be given to consumers.
    pub(super) fn note_acked(&mut self, node: &mut Node) {
        if self.options.queue.is_none() {
            return;
        }
        let (kept, needed) = (self.kept(), node.acks_needed());
        if let Role::Home(home) = &mut self.role {
            // A successor that is to come has nothing yet, and takes nothing back.
            home.acked = home.acked.max(home.replication.acked(kept, needed));
        }
        node.groups.reach(&self.name, self.acked_top());
    }

    /// Up to where the room's messages may be given to consumers: all that have to have copies have had them.
    pub(super) fn acked_top(&self) -> u64 {
        let Role::Home(home) = &self.role else { return 0 };
        let visible = self.stream().map_or(0, |it| it.visible().offset);
        home.acked.min(visible)
    }

    /// Whether a publication would push one out that a group has not settled.
    pub(super) fn is_full(&self, node: &Node) -> bool {
        if !self.options.refuses_when_full() {
            return false;
        }
        let over = node.memory.bytes() > node.settings.history_bytes;
        let oldest = (self.top() + 1).saturating_sub(self.options.history_size as u64);
        over || node.groups.floor(&self.name).is_some_and(|floor| floor < oldest)
    }

    /// Opens the room, whose slot is this node's, for a group.
    pub(super) fn open_for_group(&mut self, node: &mut Node) {
        self.last_used = node.now;
        if self.owner(node) == Some(node.me) {
            self.begin_to_open_unless_home(node);
            self.settle(node);
        }
    }
}
