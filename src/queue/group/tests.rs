use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ACK_WAIT: Duration = Duration::from_secs(30);

fn at(millis: u64) -> Time {
    Time::from_millis(1_000_000 + millis)
}

/// A room's messages: those from `first` on are kept.
#[derive(Debug, Default, Clone)]
struct Messages {
    first: u64,
    top: u64,
    keys: u64,
    /// Those that have to be read first.
    absent: BTreeSet<u64>,
    /// Those that may not be given before then.
    delayed: BTreeMap<u64, Time>,
    now: Time,
}

impl Source for Messages {
    fn top(&self) -> u64 {
        self.top
    }

    fn look(&self, offset: u64) -> Look {
        if offset < self.first {
            return Look::Gone;
        }
        if self.absent.contains(&offset) {
            return Look::Absent;
        }
        let wait = self.delayed.get(&offset).map_or(Duration::ZERO, |it| it.since(self.now));
        let key = if self.keys == 0 { 0 } else { offset % self.keys + 1 };
        Look::Here { wait, over: false, key }
    }
}

/// A group, and one that follows it by its changes.
struct Both {
    group: Group,
    other: Group,
    messages: Messages,
    now: Time,
    options: Arc<QueueOptions>,
    /// What each consumer has been given and has not said anything of.
    given: BTreeMap<u128, Vec<Lent>>,
    buried: Vec<u64>,
    term: u64,
}

impl Both {
    fn new(options: QueueOptions) -> Self {
        let options = Arc::new(options);
        let mut both = Self {
            group: Group::new(options.clone(), 1),
            other: Group::new(options.clone(), 9),
            messages: Messages { first: 1, ..Messages::default() },
            now: at(0),
            options,
            given: BTreeMap::new(),
            buried: Vec::new(),
            term: 1,
        };
        let mut out = Vec::new();
        both.group.start(77, 0, both.now, &mut out);
        both.perform(out);
        both
    }

    fn perform(&mut self, out: Vec<Effect>) {
        for effect in out {
            match effect {
                Effect::Change(change) => self.other.apply(&change, self.now),
                Effect::Deliver(who, lent) => self.given.entry(who).or_default().push(lent),
                Effect::Bury { offset, .. } => self.buried.push(offset),
                Effect::Pulled(..) | Effect::Read(_) => {}
            }
        }
        assert_eq!(self.group.state(self.now), self.other.state(self.now));
    }

    fn settle(&mut self) {
        self.messages.now = self.now;
        let mut out = Vec::new();
        self.group.settle(&self.messages, self.now, &mut out);
        self.perform(out);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.settle();
    }

    fn publish(&mut self, count: u64) {
        self.messages.top += count;
        self.settle();
    }

    fn come(&mut self, who: u128, prefetch: u32) {
        self.group.consumer_came(who, prefetch);
        self.settle();
    }

    fn judge(&mut self, who: u128, verdict: Verdict, lent: &[Lent]) -> Vec<bool> {
        let deliveries: Vec<Delivery> = lent.iter().map(|it| it.delivery).collect();
        let mut out = Vec::new();
        let holds = self.group.judge(verdict, &deliveries, Some(who), self.now, &mut out);
        self.perform(out);
        self.settle();
        holds
    }

    fn taken(&mut self, who: u128) -> Vec<Lent> {
        self.given.remove(&who).unwrap_or_default()
    }

    fn offsets(&mut self, who: u128) -> Vec<u64> {
        self.taken(who).iter().map(|it| it.delivery.offset).collect()
    }

    /// Another node goes on with what it has.
    fn fail_over(&mut self) {
        self.term += 1;
        let mut group = Group::new(self.options.clone(), self.term);
        group.apply(&Change::State(self.other.state(self.now)), self.now);
        group.resume(0, self.now);
        let who: Vec<(u128, u32)> =
            self.group.consumers.iter().map(|(who, it)| (*who, it.prefetch)).collect();
        who.iter().for_each(|(who, prefetch)| group.consumer_came(*who, *prefetch));
        self.group = group;
    }

    fn check(&self) {
        let group = &self.group;
        for offset in 1..=self.messages.top {
            let places = [
                group.settled.contains(offset),
                group.leases.contains_key(&offset),
                group.parked.contains_key(&offset),
                offset >= group.next,
            ];
            assert_eq!(places.iter().filter(|it| **it).count(), 1, "{offset} is {places:?}");
        }
        for (who, consumer) in &group.consumers {
            let own = group.leases.iter().filter(|(_, it)| it.holder == *who);
            assert!(own.map(|(offset, _)| *offset).eq(consumer.leases.iter().copied()));
            assert!(consumer.leases.len() <= consumer.prefetch as usize, "{consumer:?}");
        }
        if self.messages.keys > 0 {
            let mut held = BTreeMap::<u64, u32>::new();
            group.leases.values().for_each(|it| *held.entry(it.key).or_default() += 1);
            assert!(held.values().all(|it| *it == 1), "{held:?}");
        }
    }
}

fn shared() -> QueueOptions {
    QueueOptions { groups: vec!["*".into()], ack_wait: ACK_WAIT, ..QueueOptions::default() }
}

#[test]
fn consumers_share_the_messages_and_have_no_more_than_they_want() {
    let mut both = Both::new(shared());
    both.come(1, 2);
    both.come(2, 1);
    both.publish(5);
    let (first, second) = (both.taken(1), both.taken(2));
    assert_eq!((first.len(), second.len()), (2, 1));
    assert_eq!(both.judge(1, Verdict::Ack, &first), [true, true]);
    assert_eq!(both.offsets(1).len(), 2);
    assert_eq!(both.judge(2, Verdict::Ack, &first), [false, false], "they are settled");
    both.check();
}

#[test]
fn what_is_not_settled_in_time_is_given_to_another_and_the_late_word_is_stale() {
    let mut both = Both::new(shared());
    both.come(1, 10);
    both.publish(1);
    let late = both.taken(1);
    both.come(2, 10);
    both.group.consumers.get_mut(&1).expect("there").prefetch = 0;
    both.pass(ACK_WAIT);
    let again = both.taken(2);
    assert_eq!(again[0].delivery.offset, 1);
    assert_eq!(again[0].attempts, 2);
    assert_eq!(both.judge(1, Verdict::Ack, &late), [false]);
    assert_eq!(both.judge(1, Verdict::Ack, &again), [false], "it is another's");
    assert_eq!(both.judge(2, Verdict::Ack, &again), [true]);
    assert_eq!(both.group.settled.floor(), 1);
}

#[test]
fn who_works_on_may_say_so() {
    let mut both = Both::new(shared());
    both.come(1, 10);
    both.publish(1);
    let lent = both.taken(1);
    both.pass(ACK_WAIT / 2);
    assert_eq!(both.judge(1, Verdict::Extend(None), &lent), [true]);
    both.pass(ACK_WAIT * 3 / 4);
    assert!(both.taken(1).is_empty());
    both.pass(ACK_WAIT / 4);
    assert_eq!(both.offsets(1), [1]);
}

#[test]
fn what_is_given_back_waits_and_is_dead_in_the_end() {
    let backoff = vec![Duration::from_secs(1), Duration::from_secs(5)];
    let options =
        QueueOptions { backoff, max_deliveries: 3, dead_letter: Some("dead".into()), ..shared() };
    let mut both = Both::new(options);
    both.come(1, 10);
    both.publish(1);
    for (attempt, wait) in [(1, 1_000), (2, 5_000)] {
        let lent = both.taken(1);
        assert_eq!(lent[0].attempts, attempt);
        both.judge(1, Verdict::Nack(None), &lent);
        both.pass(Duration::from_millis(wait - 1));
        assert!(both.taken(1).is_empty());
        both.pass(Duration::from_millis(1));
    }
    let lent = both.taken(1);
    both.judge(1, Verdict::Nack(Some(Duration::from_secs(60))), &lent);
    assert_eq!(both.buried, [1]);
    both.pass(giving::DEAD_AGAIN);
    assert_eq!(both.buried, [1, 1], "nobody has said that it is there");
    let mut out = Vec::new();
    both.group.buried(1, both.now, &mut out);
    both.perform(out);
    assert_eq!(both.group.settled.floor(), 1);
    assert_eq!(both.group.take_counts().dead, 1);
}

#[test]
fn a_dead_letter_that_memory_does_not_have_is_read_first() {
    let mut both = Both::new(QueueOptions { dead_letter: Some("dead".into()), ..shared() });
    both.come(1, 10);
    both.publish(1);
    let lent = both.taken(1);
    both.messages.absent = [1].into();
    both.judge(1, Verdict::Reject, &lent);
    assert!(both.buried.is_empty(), "it is not here");
    let mut out = Vec::new();
    both.group.settle(&both.messages, both.now, &mut out);
    assert_eq!(out, [Effect::Read(1)]);
    both.messages.absent.clear();
    both.settle();
    assert_eq!(both.buried, [1]);
}

#[test]
fn a_rejected_message_without_a_room_for_dead_letters_is_settled() {
    let mut both = Both::new(shared());
    both.come(1, 10);
    both.publish(1);
    let lent = both.taken(1);
    assert_eq!(both.judge(1, Verdict::Reject, &lent), [true]);
    assert_eq!((both.group.settled.floor(), both.taken(1).len()), (1, 0));
}

#[test]
fn what_a_consumer_had_that_is_gone_is_given_to_another_soon() {
    let mut both = Both::new(shared());
    both.come(1, 10);
    both.publish(3);
    both.come(2, 10);
    both.group.consumer_left(1, both.now);
    both.settle();
    assert!(both.taken(2).is_empty(), "it may come back");
    both.pass(GRACE);
    assert_eq!(both.offsets(2), [1, 2, 3]);
}

#[test]
fn another_home_goes_on_with_the_leases() {
    let mut both = Both::new(shared());
    both.come(1, 10);
    both.publish(3);
    let lent = both.taken(1);
    both.fail_over();
    both.settle();
    assert!(both.taken(1).is_empty(), "it has them");
    assert_eq!(both.judge(1, Verdict::Ack, &lent[..2]), [true, true]);
    both.group.consumer_left(1, both.now);
    both.fail_over();
    both.come(2, 10);
    both.pass(SETTLING);
    let again = both.taken(2);
    assert_eq!((again.len(), again[0].delivery.offset, again[0].attempts), (1, 3, 2));
    assert_ne!(again[0].delivery, lent[2].delivery);
}

#[test]
fn what_a_home_had_passed_by_when_it_died_is_given_by_the_next_before_what_follows_it() {
    let options = Arc::new(shared());
    let mut messages = Messages { first: 1, top: 9, keys: 3, now: at(0), ..Messages::default() };
    messages.delayed = [(2, at(900))].into();
    let mut out = Vec::new();
    let mut group = Group::new(options.clone(), 1);
    group.start(77, 0, at(0), &mut out);
    [(1, 1), (2, 1)].into_iter().for_each(|(who, prefetch)| group.consumer_came(who, prefetch));
    group.settle(&messages, at(0), &mut out);
    let changes: Vec<Change> = out.into_iter().filter_map(|it| change_of(&it).cloned()).collect();
    assert!(changes.len() > 2, "{changes:?}");
    for copied in 1..=changes.len() {
        let mut next = Group::new(options.clone(), 2);
        changes[..copied].iter().for_each(|it| next.apply(it, at(0)));
        next.resume(copied, at(0));
        next.consumer_came(1, 1);
        let mut given = Vec::new();
        for second in 0..200 {
            messages.now = at(second * 1_000);
            let mut out = Vec::new();
            next.settle(&messages, messages.now, &mut out);
            let lent = out.iter().filter_map(|it| match it {
                Effect::Deliver(1, lent) => Some(lent.delivery),
                _ => None,
            });
            let lent: Vec<Delivery> = lent.collect();
            given.extend(lent.iter().map(|it| it.offset));
            next.judge(Verdict::Ack, &lent, Some(1), messages.now, &mut out);
        }
        for key in 0..3 {
            let expected: Vec<u64> = (1..=9).filter(|it| it % 3 == key).collect();
            let of_key: Vec<u64> = given.iter().copied().filter(|it| it % 3 == key).collect();
            assert_eq!(of_key, expected, "{copied} of {changes:?}");
        }
    }
}

fn change_of(effect: &Effect) -> Option<&Change> {
    match effect {
        Effect::Change(change) => Some(change),
        _ => None,
    }
}

#[test]
fn delayed_messages_hold_up_no_others() {
    let mut both = Both::new(shared());
    both.messages.delayed = [(1, at(5_000)), (2, at(2_000))].into();
    both.come(1, 10);
    both.publish(4);
    assert_eq!(both.offsets(1), [3, 4]);
    both.pass(Duration::from_millis(1_999));
    assert!(both.taken(1).is_empty());
    assert_eq!(both.group.next_due(), Some(at(2_000)));
    both.pass(Duration::from_millis(1));
    assert_eq!(both.offsets(1), [2]);
    both.fail_over();
    both.pass(Duration::from_millis(3_000));
    assert_eq!(both.offsets(1), [1]);
}

#[test]
fn one_consumer_has_all_until_it_goes() {
    let mut both = Both::new(QueueOptions { mode: Mode::Exclusive, ..shared() });
    both.come(1, 2);
    both.come(2, 2);
    both.publish(5);
    let first = both.taken(1);
    assert_eq!((first.len(), both.taken(2).len()), (2, 0));
    both.judge(1, Verdict::Ack, &first);
    assert_eq!((both.offsets(1), both.taken(2).len()), (vec![3, 4], 0));
    both.group.consumer_left(1, both.now);
    both.pass(GRACE);
    assert_eq!(both.offsets(2), [3, 4]);
}

#[test]
fn messages_with_one_key_come_one_after_the_other() {
    let mode = Mode::KeyShared("user".into());
    let mut both = Both::new(QueueOptions { mode, ..shared() });
    both.messages.keys = 2;
    both.come(1, 10);
    both.come(2, 10);
    both.publish(6);
    let mut order = BTreeMap::<u64, Vec<u64>>::new();
    let mut who = BTreeMap::<u64, u128>::new();
    for turn in 0..20 {
        for consumer in [1, 2] {
            for lent in both.taken(consumer) {
                let offset = lent.delivery.offset;
                assert_eq!(*who.entry(offset % 2).or_insert(consumer), consumer);
                let again = turn == 0;
                match again {
                    true => both.judge(consumer, Verdict::Nack(None), &[lent]),
                    false => {
                        order.entry(offset % 2).or_default().push(offset);
                        both.judge(consumer, Verdict::Ack, &[lent])
                    }
                };
                both.check();
            }
        }
    }
    assert_eq!(order, [(0, vec![2, 4, 6]), (1, vec![1, 3, 5])].into());
}

#[test]
fn what_is_not_kept_any_more_is_passed_and_counted() {
    let mut both = Both::new(shared());
    both.messages.first = 4;
    both.come(1, 10);
    both.publish(5);
    assert_eq!(both.offsets(1), [4, 5]);
    assert_eq!(both.group.take_counts().lost, 3);
}

#[test]
fn a_pull_takes_what_is_there_or_waits_for_the_first() {
    let mut both = Both::new(shared());
    let mut out = Vec::new();
    both.group.pull(1, None, 10, both.now + Duration::from_secs(1));
    both.group.settle(&both.messages, both.now, &mut out);
    assert_eq!(out, []);
    both.messages.top = 3;
    both.group.settle(&both.messages, both.now, &mut out);
    let got = out.iter().find_map(|it| match it {
        Effect::Pulled(1, got) => Some(got.clone()),
        _ => None,
    });
    let got = got.expect("answered");
    assert_eq!(got.iter().map(|it| it.delivery.offset).collect::<Vec<_>>(), [1, 2, 3]);
    let deliveries: Vec<Delivery> = got.iter().map(|it| it.delivery).collect();
    let holds = both.group.judge(Verdict::Ack, &deliveries, None, both.now, &mut out);
    assert_eq!(holds, [true, true, true]);
    out.clear();
    both.group.pull(2, None, 10, both.now);
    both.group.settle(&both.messages, both.now, &mut out);
    assert_eq!(out, [Effect::Pulled(2, Vec::new())]);
}

#[test]
fn a_prefetch_without_bounds_is_bounded() {
    let mut both = Both::new(QueueOptions { max_prefetch: 7, ..shared() });
    both.come(1, u32::MAX);
    both.publish(100);
    assert_eq!(both.taken(1).len(), 7);
}

#[test]
fn no_more_is_pending_than_may_be() {
    let mut both = Both::new(QueueOptions { max_pending: 50, max_prefetch: 500, ..shared() });
    both.messages.delayed = (1..=500).map(|offset| (offset, at(60_000))).collect();
    both.come(1, 500);
    for _ in 0..10 {
        both.publish(50);
    }
    assert_eq!(both.group.pending(), 50);
}

#[test]
fn a_consumer_that_pulls_is_given_nothing_else_and_has_what_it_pulled() {
    for mode in [Mode::Shared, Mode::Exclusive, Mode::KeyShared("k".into())] {
        let mut both = Both::new(QueueOptions { mode: mode.clone(), max_prefetch: 3, ..shared() });
        both.messages.keys = u64::from(matches!(mode, Mode::KeyShared(_))) * 100;
        both.come(1, 0);
        both.publish(5);
        assert!(both.given.is_empty(), "{mode:?}");
        let pulled = |both: &mut Both, id| {
            both.group.pull(id, Some(1), 2, both.now);
            let mut out = Vec::new();
            both.group.settle(&both.messages, both.now, &mut out);
            let got = out.iter().find_map(|it| match it {
                Effect::Pulled(_, lent) => Some(lent.clone()),
                _ => None,
            });
            both.perform(out);
            got.unwrap_or_default()
        };
        let first = pulled(&mut both, 1);
        assert_eq!(first.len(), 2, "{mode:?}");
        assert_eq!(pulled(&mut both, 2).len(), 1, "{mode:?}: it has as many as it may");
        assert_eq!(pulled(&mut both, 3).len(), 0, "{mode:?}");
        // They are nobody else's, and its own to acknowledge.
        assert_eq!(both.judge(2, Verdict::Ack, &first), [false; 2], "{mode:?}");
        assert_eq!(both.judge(1, Verdict::Ack, &first), [true; 2], "{mode:?}");
        assert_eq!(pulled(&mut both, 4).len(), 2, "{mode:?}");
        // Once it is gone, another gets what it had.
        both.group.consumer_left(1, both.now);
        both.come(2, 10);
        both.pass(Duration::from_secs(10));
        assert_eq!(both.offsets(2), [3, 4, 5], "{mode:?}");
    }
}

#[test]
fn a_pull_that_its_consumer_has_left_behind_takes_nothing() {
    let mut both = Both::new(shared());
    both.come(1, 0);
    both.group.pull(1, Some(1), 10, both.now + Duration::from_secs(1));
    both.group.consumer_left(1, both.now);
    both.publish(3);
    assert_eq!(both.group.facts(3).leased, 0);
    // One whose coming is not known yet, and never is, keeps what it pulled for some seconds.
    both.group.pull(2, Some(7), 10, both.now + Duration::from_secs(1));
    both.settle();
    assert_eq!(both.group.facts(3).leased, 3);
    both.come(2, 10);
    both.pass(Duration::from_secs(5));
    assert_eq!(both.offsets(2), [1, 2, 3]);
}

#[test]
fn what_did_not_fit_into_an_answer_is_no_dead_letter() {
    let mut both = Both::new(QueueOptions { max_deliveries: 1, ..shared() });
    both.publish(2);
    both.group.pull(1, None, 10, both.now);
    let mut out = Vec::new();
    both.group.settle(&both.messages, both.now, &mut out);
    let pulled = out.iter().find_map(|it| match it {
        Effect::Pulled(_, lent) => lent.last().map(|it| it.delivery),
        _ => None,
    });
    both.group.take_unsent(&[pulled.expect("a message")], both.now, &mut out);
    both.perform(out);
    both.come(1, 10);
    assert_eq!(both.offsets(1), [2]);
    assert!(both.buried.is_empty());
}

#[test]
fn of_those_who_pull_from_an_exclusive_group_one_has_them_all() {
    let mut both = Both::new(QueueOptions { mode: Mode::Exclusive, ..shared() });
    both.come(1, 0);
    both.come(2, 0);
    both.publish(4);
    for who in [1, 2, 1] {
        both.group.pull(who as u64, Some(who), 1, both.now + Duration::from_secs(1));
    }
    both.settle();
    let has = |both: &Both, who| {
        let facts = both.group.facts(4);
        facts.consumers.iter().find(|it| it.client == who).map(|it| it.leased)
    };
    assert_eq!((has(&both, 1), has(&both, 2)), (Some(2), Some(0)));
    // Where one is pushed to, it has them all.
    both.come(3, 10);
    assert_eq!(has(&both, 2), Some(0));
}

#[test]
fn messages_keep_their_names_when_a_group_goes_back_to_them() {
    let mut both = Both::new(shared());
    both.come(1, 9);
    both.publish(3);
    let before = both.taken(1);
    let (origin, _) = both.group.run().expect("it has begun");
    let mut out = Vec::new();
    both.group.go_on_in(origin + 1, both.now, &mut out);
    both.group.move_to(0, origin + 5, origin + 1, both.now, &mut out);
    both.perform(out);
    both.fail_over();
    both.settle();
    assert_eq!(both.group.run(), Some((origin, origin + 1)));
    assert_eq!(both.offsets(1), [1, 2, 3]);
    assert_eq!(both.judge(1, Verdict::Ack, &before), [false; 3], "they were given again since");
}

#[test]
fn all_is_written_anew_from_time_to_time() {
    let mut both = Both::new(shared());
    both.come(1, 1);
    let mut states = 0;
    for _ in 0..500 {
        both.messages.top += 1;
        both.messages.now = both.now;
        let mut out = Vec::new();
        both.group.settle(&both.messages, both.now, &mut out);
        states += out.iter().filter(|it| matches!(it, Effect::Change(Change::State(_)))).count();
        both.perform(out);
        let lent = both.taken(1);
        both.judge(1, Verdict::Ack, &lent);
    }
    assert!((5..=20).contains(&states), "{states}");
}

proptest! {
    /// Whatever is done, every message is in one place, others follow by the changes, and in the end all are settled.
    #[test]
    fn whatever_happens_every_message_is_settled_once(
        steps in prop::collection::vec((0u8..12, 0u128..4, 0u64..4), 1..120),
        mode in 0u8..3,
    ) {
        let mode = match mode {
            0 => Mode::Shared,
            1 => Mode::Exclusive,
            _ => Mode::KeyShared("k".into()),
        };
        let keys = if mode == Mode::Shared { 0 } else { 3 };
        let keyed = matches!(mode, Mode::KeyShared(_));
        let mut both = Both::new(QueueOptions { mode, max_pending: 40, ..shared() });
        both.messages.keys = if keyed { keys } else { 0 };
        let mut acked = BTreeSet::new();
        for (step, who, many) in steps {
            let who = who + 1;
            match step {
                0 | 1 => both.publish(many),
                2 if both.group.consumers.contains_key(&who) => {}
                2 => both.come(who, who as u32),
                3 => {
                    both.group.consumer_left(who, both.now);
                    both.settle();
                }
                4..=6 => {
                    let lent = both.taken(who);
                    let holds = both.judge(who, Verdict::Ack, &lent);
                    for (it, _) in lent.iter().zip(holds).filter(|(_, holds)| *holds) {
                        prop_assert!(acked.insert(it.delivery.offset), "acked twice");
                    }
                }
                7 => {
                    let lent = both.taken(who);
                    both.judge(who, Verdict::Nack(Some(Duration::from_secs(many))), &lent);
                }
                8 => both.pass(Duration::from_secs(many * 8)),
                9 => both.fail_over(),
                10 => {
                    let offset = both.messages.top + 1;
                    both.messages.delayed.insert(offset, both.now + Duration::from_secs(many));
                    both.publish(1);
                }
                _ => {
                    let lent = both.taken(who);
                    let (ack, rest) = lent.split_at(lent.len() / 2);
                    both.judge(who, Verdict::Extend(None), rest);
                    let holds = both.judge(who, Verdict::Ack, ack);
                    acked.extend(
                        ack.iter().zip(holds).filter(|it| it.1).map(|(it, _)| it.delivery.offset),
                    );
                }
            }
            both.check();
            for lent in both.given.values().flatten() {
                let lease = both.group.leases.get(&lent.delivery.offset);
                let current = lease.is_some_and(|it| it.serial == lent.delivery.serial);
                prop_assert!(!current || !acked.contains(&lent.delivery.offset), "given again");
            }
        }
        both.come(9, 5);
        for _ in 0..2_000 {
            if both.group.settled.floor() == both.messages.top {
                break;
            }
            for who in both.given.keys().copied().collect::<Vec<_>>() {
                let lent = both.taken(who);
                both.judge(who, Verdict::Ack, &lent);
            }
            both.pass(Duration::from_secs(1));
        }
        prop_assert_eq!(both.group.settled.floor(), both.messages.top);
        both.check();
    }
}
