//! Retention: what goes, when, and that space is given back.

use super::{super::*, Disk, Last, Model, SEGMENT, append, fill, open, sweep};

struct Keeps(Keep, Option<u64>);

impl Policy for Keeps {
    fn keep(&self, room: &str) -> Keep {
        if room == "kept" { Keep::default() } else { self.0 }
    }

    fn max_bytes(&self) -> Option<u64> {
        self.1
    }
}

fn filled() -> (Disk, Store<Disk>) {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    fill(&mut store, &mut Model::default(), 4, 100);
    (disk, store)
}

fn sweep_at(store: &mut Store<Disk>, now: u64, policy: &Keeps) {
    while store.step(now, policy).expect("done") == Progress::More {}
}

fn firsts(store: &mut Store<Disk>) -> Vec<u64> {
    store.rooms(None, 100).expect("read").iter().map(|it| it.first).collect()
}

#[test]
fn by_count() {
    let (disk, mut store) = filled();
    let before = disk.used();
    sweep(&mut store, &Last(10));
    assert_eq!(firsts(&mut store), [91; 4]);
    assert!(disk.used() < before / 2, "{} of {before}", disk.used());
}

#[test]
fn by_age_to_the_very_publication() {
    let (_, mut store) = filled();
    // They are published at ten times their offsets.
    let policy = Keeps(Keep { age: Some(100), ..Keep::default() }, None);
    sweep_at(&mut store, 845, &policy);
    assert_eq!(firsts(&mut store), [75; 4]);
    sweep_at(&mut store, 5_000, &policy);
    assert_eq!(firsts(&mut store), [101; 4]);
    assert_eq!(store.rooms(None, 9).expect("read")[0].next, 101, "positions stay");
}

#[test]
fn what_a_room_can_not_do_without_stays_whatever_the_limits_are() {
    struct Whole(bool);

    impl Policy for Whole {
        fn keep(&self, _: &str) -> Keep {
            let (count, age, bytes) = (Some(1), Some(1), Some(1));
            Keep { count, age, bytes, whole: self.0 }
        }

        fn max_bytes(&self) -> Option<u64> {
            Some(1)
        }
    }

    let (_, mut store) = filled();
    for (whole, first) in [(true, 1), (false, 101)] {
        // What is to be shed goes in the round after that in which it is found.
        for _ in 0..2 {
            while store.step(5_000, &Whole(whole)).expect("done") == Progress::More {}
        }
        assert_eq!(firsts(&mut store), [first; 4]);
    }
}

#[test]
fn by_bytes_of_a_room() {
    let (_, mut store) = filled();
    let policy = Keeps(Keep { bytes: Some(2_000), ..Keep::default() }, None);
    sweep_at(&mut store, 0, &policy);
    for room in store.rooms(None, 100).expect("read") {
        assert!((1_500..=2_000).contains(&room.bytes), "{room:?}");
    }
}

#[test]
fn by_bytes_of_all() {
    let (_, mut store) = filled();
    let max = 20_000;
    assert!(store.stats().bytes > max * 2);
    let policy = Keeps(Keep::default(), Some(max));
    (0..8).for_each(|_| sweep_at(&mut store, 0, &policy));
    let stats = store.stats();
    assert!(stats.bytes <= max && stats.bytes > max / 3, "{stats:?}");
    // The newest of every room is still there.
    assert!(firsts(&mut store).iter().all(|it| *it <= 100));
}

#[test]
fn what_a_clock_that_was_ahead_has_dated_does_not_take_the_rest_with_it() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    let mut model = Model::default();
    fill(&mut store, &mut model, 4, 20);
    let ahead = Op::Append { room: "ahead", offset: 1, time: 1_000_000, bytes: b"x" };
    store.commit(&[ahead]).expect("written");
    for offset in 21..=100 {
        for room in ["room0", "room1", "room2", "room3"] {
            store.commit(&[append(room, offset, &[0; 50])]).expect("written");
        }
    }
    let max = 20_000;
    assert!(store.stats().bytes > max * 2);
    let policy = Keeps(Keep::default(), Some(max));
    (0..8).for_each(|_| sweep_at(&mut store, 0, &policy));
    assert!(store.stats().bytes <= max, "{:?}", store.stats());
    assert!(firsts(&mut store).iter().all(|it| *it <= 100), "{:?}", firsts(&mut store));
}

#[test]
fn what_was_too_much_once_takes_nothing_that_is_older_and_comes_later() {
    let (_, mut store) = filled();
    let policy = Keeps(Keep::default(), Some(20_000));
    (0..8).for_each(|_| sweep_at(&mut store, 0, &policy));
    assert!(firsts(&mut store).iter().all(|it| *it > 20));
    // There is space now, and another node hands over a room.
    let policy = Keeps(Keep::default(), Some(200_000));
    for offset in 1..=20 {
        store.commit(&[append("moved", offset, &[0; 50])]).expect("written");
    }
    (0..4).for_each(|_| sweep_at(&mut store, 0, &policy));
    let rooms = store.rooms(None, 100).expect("read");
    let moved = rooms.iter().find(|it| &*it.name == "moved").expect("there");
    assert_eq!((moved.first, moved.next), (1, 21));
}

#[test]
fn a_full_disk_gives_space_back_though_there_is_none_to_copy_what_is_needed() {
    let disk = Disk::new(1);
    let options = Options { segment_bytes: 64 << 10, rooms_in_memory: 3 };
    let mut store = Store::open(disk.clone(), options, 7).expect("it opens").0;
    fill(&mut store, &mut Model::default(), 4, 1_000);
    disk.set_capacity(Some(disk.used()));
    let full = |offset| append("other", offset, &[0; 50]);
    let refused = (1..).find_map(|offset| store.commit(&[full(offset)]).err()).expect("it ends");
    assert!(refused.is_full(), "{refused}");
    let before = disk.used();
    // A little more of each segment is not needed any more from round to round, and in the end nothing.
    for now in [1_500, 4_000, 6_500, 9_000, 20_000, 20_001] {
        let policy = Keeps(Keep { age: Some(100), ..Keep::default() }, None);
        let mut steps = (0..1_000).map(|_| store.step(now, &policy));
        let ended = steps.find(|it| !matches!(it, Ok(Progress::More))).expect("it ends");
        assert!(ended.as_ref().err().is_none_or(WriteError::is_full), "{ended:?}");
    }
    assert!(disk.used() < before / 3, "{} of {before}", disk.used());
    store.commit(&[append("later", 1, &[0; 50])]).expect("there is space");
}

#[test]
fn what_nobody_trims_stays_and_is_not_copied_again_and_again() {
    let (_, mut store) = filled();
    store.commit(&[append("kept", 1, b"x")]).expect("written");
    let policy = Keeps(Keep { count: Some(1), ..Keep::default() }, None);
    (0..5).for_each(|_| sweep_at(&mut store, 0, &policy));
    let copied = store.stats().copied;
    (0..5).for_each(|_| sweep_at(&mut store, 0, &policy));
    assert_eq!(store.stats().copied, copied);
    let query = Query { since: None, reverse: false, count: 9, bytes: 9_999 };
    assert_eq!(store.read("kept", &query).expect("read").entries.len(), 1);
}

#[test]
fn a_removed_room_leaves_nothing() {
    let (disk, mut store) = filled();
    for room in ["room0", "room1", "room2", "room3"] {
        store.commit(&[Op::Remove { room }]).expect("removed");
    }
    // What says that they were removed goes once nothing is left that it could be about.
    for round in 0..40 {
        let bytes = [0; 700];
        store.commit(&[append("other", round + 1, &bytes)]).expect("written");
        sweep(&mut store, &Last(1));
    }
    assert!(disk.used() < 4 * u64::from(SEGMENT), "{}", disk.used());
    for room in ["room0", "room1", "room2", "room3"] {
        assert!(!store.may_be_sealed(room), "{room}");
    }
    assert_eq!(store.rooms(None, 9).expect("read").len(), 1);
}

#[test]
fn a_step_is_a_bounded_amount_of_work() {
    let (disk, mut store) = filled();
    let mut most = 0;
    loop {
        let before = store.stats().written;
        let progress = store.step(0, &Last(10)).expect("done");
        most = most.max(store.stats().written - before);
        if progress == Progress::Done {
            break;
        }
    }
    assert!(most < u64::from(SEGMENT), "{most}");
    assert!(disk.used() > 0);
}

#[test]
fn the_same_room_is_read_while_it_is_copied_forward() {
    let (_, mut store) = filled();
    let query = Query { since: None, reverse: true, count: 50, bytes: 99_999 };
    let plan = store.plan("room1", &query).expect("planned");
    sweep(&mut store, &Last(40));
    match plan.read(&store.files) {
        Ok(page) => assert_eq!(page.entries.len(), 50),
        Err(error) => assert!(error.is_gone(), "{error}"),
    }
    let page = store.read("room1", &query).expect("read");
    assert_eq!((page.entries.len(), page.first), (40, 61));
}
