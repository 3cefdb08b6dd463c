//! A crash at every single call that changes something, and what fails is said.

use super::{
    super::{files::FaultKind, *},
    Disk, Last, Model, append,
    disk::Trouble,
    fill, open, options,
};

/// What a crash may leave: the first is what was synced last.
struct Ledger(Vec<Model>);

impl Ledger {
    fn commit(&mut self, store: &mut Store<Disk>, ops: &[Op<'_>]) -> Result<(), WriteError> {
        let mut model = self.0.last().cloned().unwrap_or_default();
        model.apply(ops);
        // If the power goes meanwhile, it may be there or not.
        self.0.push(model);
        store.commit(ops)
    }

    fn sync(&mut self, store: &mut Store<Disk>) -> Result<(), WriteError> {
        store.sync()?;
        self.0.drain(..self.0.len() - 1);
        Ok(())
    }
}

/// Some rooms that are written, trimmed, overruled, removed and compacted. Ends at the first error.
fn history(store: &mut Store<Disk>, ledger: &mut Ledger) -> Result<(), WriteError> {
    let mut offset = 1;
    for round in 0..6 {
        let bytes = [round as u8; 90];
        for _ in 0..6 {
            ledger.commit(store, &[append("a", offset, &bytes), append("b", offset, &bytes)])?;
            offset += 1;
        }
        let more = match round {
            1 => vec![Op::Head { room: "a", bytes: b"1" }, Op::Head { room: "c", bytes: b"c" }],
            2 => {
                let (a, b) =
                    (Op::Truncate { room: "a", last: 10 }, Op::Truncate { room: "b", last: 9 });
                vec![a, b, append("b", 10, b"x"), Op::Remove { room: "c" }]
            }
            3 => {
                vec![Op::Remove { room: "b" }, append("c", 50, b"y"), append("b", offset - 1, b"z")]
            }
            _ => vec![],
        };
        ledger.commit(store, &more)?;
        ledger.sync(store)?;
        offset = if round == 2 { 11 } else { offset };
        ledger.commit(store, &[Op::Trim { room: "a", first: offset - 4 }])?;
        ledger.sync(store)?;
        while store.step(0, &Last(1_000))? == Progress::More {}
    }
    Ok(())
}

#[test]
fn a_crash_at_any_call_loses_nothing_that_was_synced_and_doubles_nothing() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    let begun = disk.calls();
    history(&mut store, &mut Ledger(vec![Model::default()])).expect("no trouble");
    let calls = disk.calls() - begun;
    let stats = store.stats();
    assert!(calls > 100 && stats.retired > 2 && stats.copied > 0, "{calls} calls, {stats:?}");
    for at in 0..calls {
        for seed in 0..8 {
            let disk = Disk::new(seed);
            let mut store = open(&disk).0;
            disk.trouble(at, Trouble::Crash);
            let mut ledger = Ledger(vec![Model::default()]);
            assert!(history(&mut store, &mut ledger).is_err(), "call {at}");
            disk.crash();
            let (mut store, opened) = open(&disk);
            assert_eq!(opened.damage, [], "call {at}, seed {seed}");
            let held = Model::of(&mut store).expect("whole");
            let known = ledger.0.contains(&held);
            assert!(known, "call {at}, seed {seed}: {held:?} is none of {:?}", ledger.0);
            store.commit(&[append("new", 1, b"z")]).expect("it goes on");
            store.sync().expect("it goes on");
        }
    }
}

#[test]
fn a_failed_sync_closes_the_store() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    store.commit(&[append("a", 1, b"x")]).expect("written");
    disk.trouble(0, Trouble::Fail(FaultKind::Io));
    let error = store.sync().expect_err("it failed");
    assert!(
        matches!(&error, WriteError::Closed { why } if why.contains("000000000001.segment")),
        "{error}"
    );
    // The next sync would succeed, and say nothing of what the first has lost.
    assert_eq!(store.sync(), Err(error.clone()));
    assert_eq!(store.commit(&[append("a", 2, b"x")]), Err(error));
    assert!(store.step(0, &Last(1)).is_err());
}

#[test]
fn what_a_failed_write_has_left_does_not_come_back() {
    for seed in 0..50 {
        let disk = Disk::new(seed);
        let (mut store, mut model) = (open(&disk).0, Model::default());
        fill(&mut store, &mut model, 2, 2);
        disk.trouble(0, Trouble::Fail(FaultKind::Io));
        // Five batches that begin where the next ones will.
        let refused: Vec<_> = (3..8).map(|offset| append("room0", offset, b"refused")).collect();
        let error = store.commit(&refused).expect_err("it failed");
        assert!(matches!(error, WriteError::Failed { torn: true, .. }), "{error}");
        let ops = [append("room0", 3, b"allowed")];
        store.commit(&ops).expect("written");
        model.apply(&ops);
        store.sync().expect("synced");
        disk.crash();
        let held = Model::of(&mut open(&disk).0).expect("whole");
        assert_eq!(held, model);
    }
}

#[test]
fn when_the_disk_is_full_nothing_changes_and_it_goes_on_once_there_is_space() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 3, 40);
    disk.set_capacity(Some(disk.used()));
    let bytes = [1; 200];
    let mut offset = 41;
    let error = loop {
        let ops = [append("room0", offset, &bytes)];
        match store.commit(&ops) {
            Ok(()) => model.apply(&ops),
            Err(error) => break error,
        }
        offset += 1;
    };
    assert!(error.is_full() && error.to_string().contains("no space"), "{error}");
    assert_eq!(Model::of(&mut store).expect("whole"), model);
    // What gives space back can still be written, and does.
    for room in ["room0", "room1", "room2"] {
        let ops = [Op::Trim { room, first: 40 }];
        store.commit(&ops).expect("there is a reserve");
        model.apply(&ops);
    }
    while !matches!(store.step(0, &Last(1_000)), Ok(Progress::Done)) {}
    let ops = [append("room0", offset, &bytes)];
    store.commit(&ops).expect("there is space");
    model.apply(&ops);
    store.sync().expect("synced");
    disk.crash();
    assert_eq!(Model::of(&mut open(&disk).0).expect("whole"), model);
}

#[test]
fn a_read_only_disk_can_be_read() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 2, 30);
    disk.set_read_only();
    let error = store.commit(&[append("room0", 31, b"x")]).expect_err("read-only");
    assert!(error.to_string().contains("read-only"), "{error}");
    assert_eq!(Model::of(&mut store).expect("whole"), model);
    disk.no_trouble();
    store.commit(&[append("room0", 31, b"x")]).expect("it can be written again");
}

#[test]
fn what_is_refused_changes_nothing() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 1, 2);
    let batch = [append("other", 1, b"x"), append("room0", 4, b"y")];
    let error = store.commit(&batch).expect_err("3 is next");
    assert!(matches!(error, WriteError::Refused { op: 1, .. }));
    assert_eq!(error.to_string(), "room0: offset 4 does not follow: the next is 3");
    let large = vec![0; options().segment_bytes as usize];
    let error = store.commit(&[append("room0", 3, &large)]).expect_err("too large");
    assert!(matches!(error, WriteError::Refused { refusal: Refusal::TooLarge { .. }, .. }));
    assert_eq!(Model::of(&mut store).expect("whole"), model);
    store.commit(&batch[..1]).expect("nothing of it was there");
}

#[test]
fn the_largest_body_is_taken_and_one_byte_more_is_too_large() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    for round in 0..3 {
        let segments = store.segments().len();
        for room in ["r", "a room with a longer name"] {
            let most = largest_body(options().segment_bytes, segments, room.len());
            let large = vec![1; most + 1];
            let error = store.commit(&[append(room, 1, &large)]).expect_err("too large");
            assert!(matches!(error, WriteError::Refused { refusal: Refusal::TooLarge { .. }, .. }));
        }
        let before = store.segments().len();
        let room = format!("large{round}");
        let most = largest_body(options().segment_bytes, before, room.len());
        store.commit(&[append(&room, 1, &vec![1; most])]).expect("it fits");
    }
    // A log of 1 TiB.
    assert!(largest_body(64 << 20, 1 << 14, 4_096) > 59 << 20);
    assert_eq!(largest_body(4_096, 1_000, 10), 0);
}

/// The process ends, but what it has written stays in memory; then the power goes while the log is opened.
#[test]
fn a_crash_while_it_is_opened_loses_nothing_that_was_synced() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    let begun = disk.calls();
    history(&mut store, &mut Ledger(vec![Model::default()])).expect("no trouble");
    let calls = disk.calls() - begun;
    for at in 0..calls {
        let disk = Disk::new(at);
        let mut store = open(&disk).0;
        disk.trouble(at, Trouble::Crash);
        let mut ledger = Ledger(vec![Model::default()]);
        assert!(history(&mut store, &mut ledger).is_err(), "call {at}");
        disk.no_trouble();
        for call in 0..12 {
            let disk = disk.copy();
            disk.trouble(call, Trouble::Crash);
            let _ = Store::open(disk.clone(), options(), 7);
            disk.crash();
            let (mut store, opened) = open(&disk);
            assert_eq!(opened.damage, [], "call {at}, then {call}");
            let held = Model::of(&mut store).expect("whole");
            let known = ledger.0.contains(&held);
            assert!(known, "call {at}, then {call}: {held:?} is none of {:?}", ledger.0);
        }
    }
}
