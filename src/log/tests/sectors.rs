//! What a disk can't give back, though it gives back the rest.

use super::{super::*, Disk, Last, Model, fill, open, sweep};

const EVERYTHING: Query = Query { since: None, reverse: false, count: 1_000, bytes: 1 << 20 };

fn first() -> String {
    File::Segment(1).to_string()
}

/// A store with one room, and its disk, which can't give back the tenth publication.
fn spoilt() -> (Disk, Store<Disk>) {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    fill(&mut store, &mut Model::default(), 1, 60);
    let (segment, place) = store.plan("room0", &EVERYTHING).expect("planned").places()[9];
    assert_eq!(segment, 1);
    disk.spoil(&first(), place..place + 1);
    (disk, store)
}

#[test]
fn what_a_bad_sector_had_is_damaged_and_what_is_beside_it_is_served() {
    let (disk, store) = spoilt();
    for mut store in [store, open(&disk).0] {
        let page = store.read("room0", &EVERYTHING).expect("read");
        assert_eq!((page.entries.len(), page.damaged), (9, Some((10, 11))));
        let rest = Query { since: Some(10), ..EVERYTHING };
        let page = store.read("room0", &rest).expect("read");
        assert_eq!((page.entries.len(), page.damaged), (50, None));
    }
}

#[test]
fn what_a_bad_sector_had_can_be_repaired() {
    let (_, mut store) = spoilt();
    let bytes = [10; 50];
    let repair = Op::Repair { room: "room0", offset: 10, time: 100, bytes: &bytes };
    store.commit(&[repair]).expect("written");
    let page = store.read("room0", &EVERYTHING).expect("read");
    assert_eq!((page.entries.len(), page.damaged), (60, None));
}

#[test]
fn what_can_not_be_copied_holds_up_no_other_segment() {
    let (disk, mut store) = spoilt();
    let before = disk.names().len();
    // The tenth is needed still.
    sweep(&mut store, &Last(51));
    fill_on(&mut store);
    (0..3).for_each(|_| sweep(&mut store, &Last(51)));
    assert!(disk.names().len() < before + 2, "{:?}", disk.names());
    assert_eq!(store.rooms(None, 9).expect("read")[0].first, 150);
}

/// More publications in the room.
fn fill_on(store: &mut Store<Disk>) {
    for offset in 61..=200 {
        let bytes = [offset as u8; 50];
        store.commit(&[super::append("room0", offset, &bytes)]).expect("written");
    }
}

#[test]
fn what_is_needed_is_copied_though_an_index_can_not_be_read_in_the_middle_of_it() {
    // What is copied at a time begins at other places of the index each time.
    for kept in (2_100..2_400).step_by(40) {
        let disk = Disk::new(1);
        let options = Options { segment_bytes: 128 << 10, rooms_in_memory: 3 };
        let mut store = Store::open(disk.clone(), options, 7).expect("it opens").0;
        fill(&mut store, &mut Model::default(), 1, 3_000);
        let index = File::Index(1).to_string();
        let end = disk.bytes(&index).len();
        assert!(end > 4_096, "some of its places are in a block of their own");
        disk.spoil(&index, end - 1..end);
        sweep(&mut store, &Last(kept));
        assert!(store.stats().retired > 0, "{:?}", store.stats());
        let mut since = 3_000 - kept;
        while since < 3_000 {
            let query = Query { since: Some(since), ..EVERYTHING };
            let page = store.read("room0", &query).expect("read");
            assert_eq!(page.damaged, None, "after {since}, of {kept}");
            since = page.entries.last().map_or(3_000, |it| it.offset);
        }
    }
}

#[test]
fn an_index_that_can_not_be_read_is_made_again() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 4, 60);
    let index = File::Index(1).to_string();
    disk.spoil(&index, 0..1);
    assert_eq!(Model::of(&mut store), Ok(model.clone()), "while it runs");
    disk.spoil(&index, 0..1);
    drop(store);
    let (mut store, opened) = open(&disk);
    assert_eq!((opened.indexed, opened.damage), (1, vec![]));
    assert_eq!(Model::of(&mut store), Ok(model));
}
