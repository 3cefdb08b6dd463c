//! Directories that are not to be opened, and what is said then.

use super::{
    super::{files::File, segment::Start, *},
    Disk, Last, Model, SEGMENT, append, fill, open, options, sweep,
};

fn filled() -> (Disk, Model) {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 3, 40);
    (disk, model)
}

fn error(disk: &Disk) -> String {
    let before: Vec<_> = disk.names().iter().map(|it| (it.clone(), disk.bytes(it))).collect();
    let error = Store::open(disk.clone(), options(), 7).expect_err("it is not to be opened");
    let after: Vec<_> = disk.names().iter().map(|it| (it.clone(), disk.bytes(it))).collect();
    assert_eq!(before, after, "nothing is changed");
    error.to_string()
}

fn name(segment: u64) -> String {
    File::Segment(segment).to_string()
}

#[test]
fn an_empty_directory_gets_a_log() {
    let disk = Disk::new(1);
    assert!(open(&disk).1.fresh);
    let (_, opened) = Store::open(disk.clone(), options(), 99).expect("it opens");
    assert_eq!((opened.id, opened.fresh), (7, false), "the id stays");
}

#[test]
fn a_segment_that_is_missing_is_named() {
    let (disk, _) = filled();
    disk.delete(&name(2));
    assert!(error(&disk).contains("000000000002.segment is missing: restore it"));
}

#[test]
fn one_that_was_given_back_is_not_missing() {
    let (disk, _) = filled();
    let (mut store, _) = open(&disk);
    sweep(&mut store, &Last(1));
    assert!(!disk.names().contains(&name(1)));
    store.sync().expect("synced");
    assert_eq!(open(&disk).1.damage, []);
}

#[test]
fn one_that_was_given_back_and_is_there_again_is_removed() {
    let (disk, _) = filled();
    let first = disk.bytes(&name(1));
    let (mut store, _) = open(&disk);
    sweep(&mut store, &Last(1));
    let model = Model::of(&mut store).expect("whole");
    disk.put(&name(1), first);
    let (mut store, opened) = open(&disk);
    assert_eq!(opened.removed, [name(1)]);
    assert_eq!(Model::of(&mut store), Ok(model));
}

#[test]
fn a_segment_of_another_node_is_named() {
    let (disk, _) = filled();
    let other = Disk::new(2);
    let (mut store, _) = Store::open(other.clone(), options(), 8).expect("it opens");
    store.commit(&[append("theirs", 1, b"x")]).expect("written");
    disk.put(&name(2), other.bytes(&name(1)));
    assert!(error(&disk).starts_with("000000000002.segment belongs to the log of another node"));
}

#[test]
fn an_index_of_another_node_is_named() {
    let (disk, _) = filled();
    let other = Disk::new(2);
    let (mut store, _) = Store::open(other.clone(), options(), 8).expect("it opens");
    fill(&mut store, &mut Model::default(), 3, 40);
    let index = File::Index(1).to_string();
    disk.put(&index, other.bytes(&index));
    assert!(error(&disk).starts_with("000000000001.index belongs to the log of another node"));
}

#[test]
fn a_second_copy_of_a_segment_is_named() {
    let (disk, _) = filled();
    let copy = disk.copy();
    copy.put(&name(50), disk.bytes(&name(1)));
    let said = "000000000050.segment is a second copy of 000000000001.segment";
    assert!(error(&copy).starts_with(said));
    let copy = disk.copy();
    copy.put("1.segment", disk.bytes(&name(1)));
    assert!(error(&copy).starts_with("1.segment is a second copy of 000000000001.segment"));
}

#[test]
fn another_version_is_named() {
    let (disk, _) = filled();
    let copy = disk.copy();
    let mut bytes = disk.bytes(&name(1));
    let start = Start { version: 2, ..Start::new(7, 1, 1) }.encode();
    bytes[..start.len()].copy_from_slice(&start);
    copy.put(&name(1), bytes);
    let said = "000000000001.segment has format 2, and this version of roomcast reads format 1";
    assert!(error(&copy).starts_with(said));
}

#[test]
fn a_lost_identity_is_named() {
    let (disk, _) = filled();
    let copy = disk.copy();
    copy.flip("identity", 14, 0);
    assert!(error(&copy).starts_with("identity is damaged"));
    copy.delete("identity");
    assert!(error(&copy).starts_with("identity is missing"));
}

#[test]
fn files_of_others_are_left_alone() {
    let (disk, model) = filled();
    disk.put("notes.txt", b"hello".to_vec());
    let (mut store, opened) = open(&disk);
    assert_eq!(opened.strangers, ["notes.txt"]);
    assert_eq!(Model::of(&mut store), Ok(model));
}

#[test]
fn a_segment_that_was_being_made_is_removed() {
    let (disk, model) = filled();
    let last = 1 + *open(&disk).0.segments().last().expect("one");
    for bytes in [Vec::new(), vec![0; SEGMENT as usize], Start::new(7, last, 1).encode()] {
        disk.put(&name(last), bytes);
        let (mut store, opened) = open(&disk);
        assert_eq!(opened.removed, [name(last)]);
        assert_eq!(Model::of(&mut store), Ok(model.clone()));
    }
}

#[test]
fn what_was_closed_is_not_taken_for_torn_whatever_is_damaged() {
    let disk = Disk::new(1);
    let (mut store, _) = open(&disk);
    store.commit(&[append("a", 1, &[1; 90])]).expect("written");
    store.close().expect("closed");
    let found = segment::walk(&disk.bytes(&name(1)), record::seed(7, 1)).found;
    disk.flip(&name(1), found[2].place as usize + 70, 1);
    let (_, opened) = open(&disk);
    let said = Damage::Publications { room: "a".into(), first: 1, end: 2 };
    assert_eq!((opened.torn, opened.damage), (0, vec![said]));
}

#[test]
fn a_look_at_a_room_does_not_take_it_into_memory() {
    let disk = Disk::new(1);
    let (mut store, mut model) = (open(&disk).0, Model::default());
    fill(&mut store, &mut model, 2, 80);
    let (mut store, _) = open(&disk);
    let query = Query { since: None, reverse: false, count: 100, bytes: 1 << 20 };
    store.read("room1", &query).expect("read");
    for (room, known) in [("room0", 1), ("room1", 1)] {
        let looked = store.plan_apart(room, &query).expect("planned").read(&disk).expect("read");
        assert_eq!((looked.entries.len(), store.stats().rooms), (80, known), "{room}");
    }
}
