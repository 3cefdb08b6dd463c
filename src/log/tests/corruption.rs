//! Bits that flip, syncs that lie, files that are gone: what is served is right, and what is not served is told.

use std::collections::BTreeMap;

use super::{
    super::{
        files::File,
        segment::{self, START},
        *,
    },
    Dice, Disk, Last, Model, append,
    disk::Trouble,
    fill, open, options, sweep,
};

const EVERYTHING: Query = Query { since: None, reverse: false, count: 1_000, bytes: 1 << 20 };

fn first_segment() -> String {
    File::Segment(1).to_string()
}

/// Where a record of a segment is.
fn place(disk: &Disk, segment: u64, number: usize) -> usize {
    let bytes = disk.bytes(&File::Segment(segment).to_string());
    segment::walk(&bytes, record::seed(7, segment)).found[number].place as usize
}

fn offsets(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|it| it.offset).collect()
}

#[test]
fn a_flipped_bit_in_what_was_said_is_told_by_room_and_offset_and_can_be_repaired() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 1, 6);
    // The manifest, the mark, then the publications.
    disk.flip(&first_segment(), place(&disk, 1, 4) + record::HEADER + 20, 3);
    let (mut store, opened) = open(&disk);
    let third = Damage::Publications { room: "room0".into(), first: 3, end: 4 };
    assert_eq!((opened.damage, opened.torn), (vec![third.clone()], 0));
    let page = store.read("room0", &EVERYTHING).expect("read");
    assert_eq!((offsets(&page), page.damaged), (vec![1, 2], Some((3, 4))));
    let back = Query { reverse: true, ..EVERYTHING };
    let page = store.read("room0", &back).expect("read");
    assert_eq!((offsets(&page), page.damaged), (vec![6, 5, 4], Some((3, 4))));
    let on = Query { since: Some(3), ..EVERYTHING };
    assert_eq!(offsets(&store.read("room0", &on).expect("read")), [4, 5, 6]);
    assert_eq!(store.verify(1), Ok(vec![third]));
    let ops = [Op::Repair { room: "room0", offset: 3, time: 30, bytes: &[3; 50] }];
    store.commit(&ops).expect("repaired");
    store.sync().expect("synced");
    assert_eq!(Model::of(&mut store), Ok(model.clone()));
    assert_eq!(Model::of(&mut open(&disk).0), Ok(model));
}

#[test]
fn a_flipped_bit_in_a_header_is_a_gap_and_the_rest_stays_readable() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 2, 6);
    let at = place(&disk, 1, 5);
    disk.flip(&first_segment(), at + 30, 3);
    let (mut store, opened) = open(&disk);
    let [Damage::Bytes { segment: 1, first, .. }] = opened.damage[..] else {
        panic!("{:?}", opened.damage)
    };
    assert_eq!(first as usize, at);
    // One of the rooms has a gap, the other is whole.
    let pages = ["room0", "room1"].map(|it| store.read(it, &EVERYTHING).expect("read"));
    assert_eq!(pages.iter().filter(|it| it.damaged.is_none()).count(), 1);
    sweep(&mut store, &Last(100));
    let told = store.take_damage();
    assert!(matches!(&told[..], [Damage::Publications { first: 2, end: 3, .. }]), "{told:?}");
}

#[test]
fn what_is_damaged_is_not_compacted_away() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 1, 80);
    store.commit(&[append("other", 1, b"x")]).expect("written");
    store.sync().expect("synced");
    disk.flip(&first_segment(), place(&disk, 1, 25) + record::HEADER + 20, 3);
    let damaged = 24;
    // Most of the segment is not needed, but that is.
    store.commit(&[Op::Trim { room: "room0", first: damaged }]).expect("written");
    (0..2).for_each(|_| sweep(&mut store, &Last(1_000)));
    assert!(store.segments().contains(&1));
    let page = store.read("room0", &EVERYTHING).expect("read");
    assert_eq!((offsets(&page), page.damaged), (vec![], Some((damaged, damaged + 1))));
    // Once it is not needed any more, it goes.
    store.commit(&[Op::Trim { room: "room0", first: damaged + 1 }]).expect("written");
    (0..2).for_each(|_| sweep(&mut store, &Last(1_000)));
    assert!(!store.segments().contains(&1), "{:?}", store.segments());
}

/// Flips some bits of a log that was closed, and asks it for everything.
fn play_flips(seed: u64) {
    let mut dice = Dice(seed);
    let disk = Disk::new(seed);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 4, 4 + dice.below(12));
    let ops = [Op::Head { room: "room1", bytes: b"h" }, Op::Truncate { room: "room2", last: 2 }];
    store.commit(&ops).expect("written");
    let before = model.clone();
    model.apply(&ops);
    store.close().expect("closed");
    let names = disk.names();
    let flips = dice.below(3) + 1;
    for _ in 0..flips {
        let name = &names[dice.below(names.len() as u64) as usize];
        let byte = dice.below(disk.bytes(name).len() as u64) as usize;
        disk.flip(name, byte, dice.below(8) as u8);
    }
    let (mut store, opened) = match Store::open(disk.clone(), options(), 7) {
        Ok(opened) => opened,
        // Nothing is served at all.
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // If the note at the end is damaged too, what is before it may have been torn, for all that can be known.
    let torn = flips > 1 && opened.torn > 0;
    let mut damage = opened.damage;
    let mut whole = true;
    for (name, room) in &model.0 {
        let earlier = &before.0[name];
        let mut since = 0;
        let mut found = BTreeMap::new();
        while since < 40 {
            let query = Query { since: Some(since), ..EVERYTHING };
            let page = store.read(name, &query).expect("read");
            found.extend(page.entries.into_iter().map(|it| (it.offset, (it.time, it.bytes))));
            let Some((first, end)) = page.damaged else { break };
            damage.push(Damage::Publications { room: name.clone(), first, end });
            since = end - 1;
        }
        for (offset, entry) in &found {
            // A mark that can't be read leaves what it has overruled; that bytes were bad is told then.
            let unknown = torn || damage.iter().any(|it| matches!(it, Damage::Bytes { .. }));
            let right = room.entries.get(offset) == Some(entry)
                || (unknown && earlier.entries.get(offset) == Some(entry));
            assert!(right, "seed {seed}: {name} {offset} is {entry:?}; {damage:?}");
        }
        whole &= found == room.entries;
        let head = store.head(name).expect("read");
        whole &= head == room.head;
        assert!(head.is_none() || head == room.head, "seed {seed}");
    }
    damage.extend(store.take_damage());
    assert!(
        whole || torn || !damage.is_empty(),
        "seed {seed}: something is missing, and nobody says so"
    );
}

#[test]
fn whatever_bits_flip_nothing_wrong_is_served_and_nothing_is_missing_in_silence() {
    (0..3_000).for_each(play_flips);
}

#[test]
fn a_sync_that_lied_is_found_out() {
    let mut found = 0;
    for seed in 0..300 {
        let disk = Disk::new(seed);
        let (mut store, mut model) = (open(&disk).0, Model::default());
        fill(&mut store, &mut model, 2, 3);
        disk.trouble(2, Trouble::Lie);
        fill_on(&mut store, &mut model, 4, 30);
        disk.crash();
        let Ok((mut store, opened)) = Store::open(disk.clone(), options(), 7) else {
            found += 1;
            continue;
        };
        found += usize::from(!opened.damage.is_empty());
        // Whatever is there is right.
        for (name, room) in &model.0 {
            let page = store.read(name, &EVERYTHING).expect("read");
            for entry in page.entries {
                assert_eq!(room.entries.get(&entry.offset), Some(&(entry.time, entry.bytes)));
            }
        }
    }
    // If nothing that follows has reached the disk, nobody can know.
    assert!(found > 100, "{found} of 300");
}

fn fill_on(store: &mut Store<Disk>, model: &mut Model, from: u64, to: u64) {
    for offset in from..to {
        let ops = [append("room0", offset, &[9; 60]), append("room1", offset, &[8; 60])];
        store.commit(&ops).expect("written");
        model.apply(&ops);
        let _ = store.sync();
    }
}

#[test]
fn an_index_is_only_a_cache() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 5, 30);
    store.sync().expect("synced");
    let indexes: Vec<String> =
        disk.names().into_iter().filter(|it| it.ends_with(".index")).collect();
    assert!(indexes.len() > 2);
    for (number, name) in indexes.iter().enumerate() {
        let disk = disk.copy();
        match number % 3 {
            0 => disk.delete(name),
            1 => disk.put(name, disk.bytes(name)[..100].to_vec()),
            _ => disk.put(name, vec![0; 4096]),
        }
        let (mut store, opened) = open(&disk);
        assert_eq!((opened.indexed, opened.damage), (1, vec![]));
        assert_eq!(Model::of(&mut store), Ok(model.clone()));
        assert_eq!(open(&disk).1.indexed, 0);
    }
    // Or it turns bad while it is used.
    let (mut store, _) = open(&disk);
    for name in &indexes {
        disk.put(name, vec![0; 4096]);
    }
    assert_eq!(Model::of(&mut store), Ok(model));
    assert_eq!(store.take_damage(), []);
}

#[test]
fn what_is_behind_something_damaged_stays_however_often_it_is_opened() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 1, 2);
    let batch: Vec<_> = (3..6).map(|offset| append("room0", offset, b"x")).collect();
    for ops in [&batch[..], &[append("room0", 6, b"torn")]] {
        store.commit(ops).expect("written");
        store.sync().expect("synced");
    }
    // Only the last one says that the batch before it was synced, and it is bad itself.
    let (third, last) = (place(&disk, 1, 4), place(&disk, 1, 7));
    disk.flip(&first_segment(), third + 30, 3);
    disk.flip(&first_segment(), last + record::HEADER + 6, 1);
    for _ in 0..3 {
        let (mut store, _) = open(&disk);
        let page = store.read("room0", &Query { since: Some(3), ..EVERYTHING }).expect("read");
        assert_eq!((offsets(&page), page.next), (vec![4, 5], 6));
        assert_eq!(store.verify(1).expect("read").len(), 1);
    }
}

#[test]
fn a_start_that_is_damaged_is_told_and_the_rest_is_readable() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 2, 40);
    disk.flip(&first_segment(), 20, 0);
    let (mut store, opened) = open(&disk);
    let start = Damage::Bytes { segment: 1, first: 0, end: START as u32 };
    assert_eq!(opened.damage, [start]);
    assert_eq!(Model::of(&mut store), Ok(model));
}

#[test]
fn a_segment_that_ends_early_is_told_and_the_rest_is_readable() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 1, 60);
    let bytes = disk.bytes(&first_segment());
    disk.put(&first_segment(), bytes[..2_000].to_vec());
    let (mut store, opened) = open(&disk);
    assert!(matches!(opened.damage[..], [Damage::Bytes { segment: 1, first: 2_000, .. }]));
    let page = store.read("room0", &EVERYTHING).expect("read");
    let damaged = page.damaged.expect("told").0;
    let rest = Query { since: Some(damaged + 20), ..EVERYTHING };
    assert_eq!(offsets(&store.read("room0", &rest).expect("read")).last(), Some(&60));
}
