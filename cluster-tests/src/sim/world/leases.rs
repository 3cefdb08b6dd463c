//! What consumers have, and what must become of it in time.
//!
//! - What a consumer has and says nothing of is given again within [`ACK_WAIT`] and a second.
//! - What a consumer had whose connection has ended is given again within [`GRACE`] and a second, if that is sooner.
//! - No consumer has more at a time than its prefetch.
//!
//! The first two wait while a group can't give: for as long as nobody consumes who has room, and for [`SHAKEN`] after
//! something was wrong. What may be on its way to a consumer that goes just then has [`GRACE`] once more. They hold in
//! those kinds of histories in which nothing is lost that was acknowledged.

use std::{collections::BTreeMap, time::Duration};

use roomcast::{
    cluster::node::Phase,
    queue::{options::Mode, tag::Delivery},
    room::types::{ClientId, RoomName},
};

use super::{
    Happening, World,
    consumers::{ACK_WAIT, Act, Consumer, Consumers},
    links::LONGEST_DELAY,
    nodes::Node,
};

/// How long a consumer is waited for whose connection has ended.
const GRACE: Duration = Duration::from_secs(1);
/// How long a group may then take to give a message again, in milliseconds.
const SOON: u64 = 1_000;
/// How long after something was wrong what it concerned may take: others hear of it as late as views lag, the next home
/// waits three seconds for the consumers, and what was given meanwhile, and lost, is given again after [`ACK_WAIT`].
const SHAKEN: u64 = 6_000;
/// How long a home may not have heard that a connection has ended, or that it was given something, in milliseconds.
const UNHEARD: u64 = 3 * LONGEST_DELAY;
/// How far a disk may be behind, or what is read from it is late.
const SLOW_DISK: u64 = 200;
/// How often it is seen whether anything is late.
const LOOK_AGAIN: u64 = 50;

/// A message that a consumer has, and has said nothing of.
#[derive(Debug, Clone)]
struct Lease {
    by: ClientId,
    /// The term and the number of the delivery.
    delivery: (u64, u64),
    since: u64,
    /// When its connection ended.
    gone: Option<u64>,
    /// When the connection ended of one whom it may have been given to next.
    missed: Option<u64>,
    /// Someone has acknowledged the message, and was not answered: it may be given again, or not.
    unsure: bool,
}

impl Lease {
    /// When it is to be given again.
    fn due(&self) -> u64 {
        let over = self.since + millis(ACK_WAIT);
        let freed = |it: u64| it + millis(GRACE);
        let due = self.gone.map_or(over, |gone| over.min(freed(gone)));
        self.missed.map_or(due, |missed| due.max(freed(missed)))
    }
}

/// All that they have.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// By group and message.
    open: BTreeMap<(RoomName, String), Lease>,
    /// When something was wrong last.
    shaken: u64,
    /// By group, when it could not give last.
    hindered: BTreeMap<RoomName, u64>,
}

fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}

impl Leases {
    /// Whoever has this says something of it, or it is settled.
    pub(super) fn spoken_of(&mut self, group: &RoomName, text: &str) {
        self.open.remove(&(group.clone(), text.to_owned()));
    }

    /// The messages that someone has, of which neither anything was said nor their time is as good as over.
    fn of(&self, client: ClientId, now: u64) -> impl Iterator<Item = &Lease> {
        let over = move |it: &Lease| it.since + millis(ACK_WAIT) <= now + LONGEST_DELAY;
        self.open.values().filter(move |it| it.by == client && !over(it))
    }

    /// What should have been given again by now.
    fn late(&self, now: u64) -> Option<(&(RoomName, String), &Lease)> {
        self.open.iter().filter(|(_, lease)| !lease.unsure).find(|((group, _), lease)| {
            let hindered = self.hindered.get(group).copied().unwrap_or(0);
            now > lease.due().max(hindered) + SOON
        })
    }
}

impl Consumers {
    /// Whether a consumer has as many as it may, as far as can be told from here.
    fn is_full(&self, it: &Consumer, now: u64) -> bool {
        let unanswered = self.said.values().filter(|said| said.by == it.id).count();
        self.leases.of(it.id, now).count() + unanswered >= it.prefetch as usize
    }

    /// Whether nobody, or not the one whom a message must go to, can be given any.
    fn is_full_group(&self, group: &RoomName, now: u64) -> bool {
        let mut here = self.all.iter().filter(|it| it.group == *group && it.entered);
        let mut here = here.by_ref().filter(|it| it.node.is_some()).peekable();
        match self.mode {
            _ if here.peek().is_none() => true,
            Mode::Shared => here.all(|it| self.is_full(it, now)),
            Mode::KeyShared(_) | Mode::Exclusive => here.any(|it| self.is_full(it, now)),
        }
    }
}

impl World {
    pub(super) fn look_at_leases_later(&mut self) {
        self.later(LOOK_AGAIN, Happening::Consumer(Act::Look));
    }

    /// Something is wrong that groups have to get over.
    pub(super) fn shake_consumers(&mut self) {
        if let Some(consumers) = &mut self.consumers {
            consumers.leases.shaken = self.now;
        }
    }

    /// Whether something is wrong now.
    fn is_shaken(&self) -> bool {
        let now = self.now;
        let troubled = |it: &Node| {
            let leaves = it.state.is_some() && (it.phase == Phase::Draining || it.leaving);
            leaves || it.frozen.is_some() || it.disk.full || it.disk_busy > now + SLOW_DISK
        };
        self.network.is_cut() || self.nodes.iter().any(troubled)
    }

    /// Whether it has been calm for so long that all is to be as it should.
    fn is_at_rest(&self) -> bool {
        let shaken = self.consumers.as_ref().map_or(0, |it| it.leases.shaken);
        !self.is_shaken() && self.now > shaken + SHAKEN
    }

    /// A consumer gets a message.
    pub(super) fn leased(
        &mut self,
        index: usize,
        text: &str,
        delivery: Delivery,
    ) -> Result<(), String> {
        let (at_rest, now) = (self.is_at_rest(), self.now);
        let Some(consumers) = &mut self.consumers else { return Ok(()) };
        let Consumer { group, id, prefetch, .. } = &consumers.all[index];
        let (by, prefetch) = (*id, *prefetch as usize);
        let (key, delivery) = ((group.clone(), text.to_owned()), (delivery.term, delivery.serial));
        let known = consumers.leases.open.get(&key);
        if consumers.is_acked(&key.0, text) || known.is_some_and(|it| it.delivery > delivery) {
            return Ok(());
        }
        let unsure = consumers.is_unsure(&key.0, text);
        let lease = Lease { by, delivery, since: now, gone: None, missed: None, unsure };
        consumers.leases.open.insert(key, lease);
        let has = consumers.leases.of(by, now).filter(|it| !it.unsure).count();
        if at_rest && has > prefetch {
            return Err(format!(
                "consumer {index} has {has} messages, and wants {prefetch} at most: {text} is one too many"
            ));
        }
        Ok(())
    }

    /// The connection of a consumer has ended.
    pub(super) fn leases_end_of(&mut self, client: ClientId) {
        let now = self.now;
        let Some(consumers) = &mut self.consumers else { return };
        let Some(consumer) = consumers.all.iter().find(|it| it.id == client) else { return };
        let open = consumers.leases.open.iter_mut();
        for (_, lease) in open.filter(|((group, _), _)| *group == consumer.group) {
            if lease.due() <= now + UNHEARD {
                lease.missed = Some(now);
            }
            if lease.by == client {
                lease.gone = Some(now);
            }
        }
    }

    pub(super) fn look_at_leases(&mut self) -> Result<(), String> {
        self.look_at_leases_later();
        if self.is_shaken() {
            self.shake_consumers();
        }
        let (at_rest, now) = (self.is_at_rest(), self.now);
        let strict = self.keeps_what_is_acked();
        let Some(consumers) = &mut self.consumers else { return Ok(()) };
        let groups: Vec<RoomName> =
            consumers.leases.open.keys().map(|(group, _)| group.clone()).collect();
        for group in groups {
            if !at_rest || consumers.is_full_group(&group, now) {
                consumers.leases.hindered.insert(group, now);
            }
        }
        match consumers.leases.late(now).filter(|_| strict) {
            Some(((group, text), it)) => {
                let (since, by) = (now - it.since, it.by);
                let gone =
                    it.gone.map_or(String::new(), |at| format!(", is gone since {}", now - at));
                Err(format!(
                    "{text} of {group:?} was given to {by} {since} ms ago, who has not said anything{gone}, and is not given again"
                ))
            }
            None => Ok(()),
        }
    }
}
