//! What the writing thread does, on the played disk and with played clocks.

use std::{
    sync::{Arc, Mutex, mpsc::channel},
    time::Duration,
};

use bytes::Bytes;

use super::{
    super::{
        request::{Ask, Change, Done, Read, Request},
        work::{Notice, Work},
        *,
    },
    Disk, Last,
    disk::Trouble,
    open,
};

const EVERYTHING: Query = Query { since: None, reverse: false, count: 1_000, bytes: 1 << 20 };
const INTERVAL: Duration = Duration::from_millis(100);
const HOUR: Duration = Duration::from_secs(3_600);

/// The work on a disk, and what was told of it.
struct Played<P> {
    work: Work<Disk, P>,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl<P: Policy> Played<P> {
    fn new(disk: &Disk, interval: Option<Duration>, policy: P) -> Self {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let noticing = notices.clone();
        let notify = move |it| noticing.lock().expect("whole").push(it);
        let work = Work::new(open(disk).0, interval, policy, Box::new(notify));
        Self { work, notices }
    }

    /// Appends together to these rooms.
    fn append(&mut self, appends: &[(&str, u64)]) -> Vec<Result<(), WriteError>> {
        let (told, ended) = channel();
        let request = |(room, offset): &(&str, u64)| {
            let told = told.clone();
            append(room, *offset, Box::new(move |it| told.send(it).expect("heard")))
        };
        let mut requests = appends.iter().map(request).collect();
        self.work.write(&mut requests);
        drop(told);
        ended.iter().collect()
    }

    fn syncs(&mut self) -> u64 {
        let (told, state) = channel();
        let done = Box::new(move |it: (Stats, _)| told.send(it.0).expect("heard"));
        self.work.take(Ask::State(done), &mut Vec::new());
        state.recv().expect("answered").syncs
    }

    /// Rounds of retention, until there is nothing to do.
    fn retain(&mut self, uptime: &mut Duration, unix: Duration) {
        for _ in 0..300 {
            *uptime += Duration::from_secs(1);
            self.work.retain(Now { uptime: *uptime, unix });
        }
    }

    fn notices(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.notices.lock().expect("whole"))
    }
}

fn append(room: &str, offset: u64, done: Done<Result<(), WriteError>>) -> Request {
    let changes = vec![Change::Append(offset, offset, Bytes::from(vec![offset as u8; 60]))];
    Request { room: room.into(), changes, done }
}

fn at(uptime: Duration) -> Now {
    Now { uptime, unix: HOUR * 1_000 + uptime }
}

/// The offsets of a room.
fn offsets(store: &mut Store<Disk>, room: &str) -> Vec<u64> {
    let page = store.read(room, &EVERYTHING).expect("read");
    assert_eq!(page.damaged, None, "{room}");
    assert!(page.entries.iter().all(|it| it.bytes == [it.offset as u8; 60]));
    page.entries.iter().map(|it| it.offset).collect()
}

#[test]
fn what_is_said_to_be_done_is_there_if_the_power_goes_at_that_very_moment() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let mut played = Played::new(&disk, None, Last(100));
        let (told, left) = channel();
        for offset in 1..=30 {
            let (disk, told) = (disk.clone(), told.clone());
            let done = move |written: Result<(), WriteError>| {
                written.expect("written");
                let left = disk.copy();
                left.crash();
                told.send((offset, left)).expect("heard");
            };
            played.work.write(&mut vec![append("a", offset, Box::new(done))]);
        }
        drop(told);
        for (offset, left) in left {
            assert_eq!(offsets(&mut open(&left).0, "a"), Vec::from_iter(1..=offset));
        }
    }
}

#[test]
fn what_can_not_be_synced_is_not_said_to_be_done_and_can_be_written_again() {
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, None, Last(100));
    assert_eq!(played.append(&[("a", 1)]), [Ok(())]);
    disk.trouble(1, Trouble::Lose);
    let ended = played.append(&[("a", 2), ("b", 1)]);
    assert!(ended.iter().all(|it| matches!(it, Err(WriteError::Closed { .. }))), "{ended:?}");
    let notices = played.notices();
    let [Notice::SyncFailed { .. }, Notice::OpenedAgain { rewritten: 0, lost: 0, .. }] =
        &notices[..]
    else {
        panic!("{notices:?}")
    };
    assert_eq!(played.append(&[("a", 2), ("b", 1)]), [Ok(()), Ok(())]);
    disk.crash();
    let store = &mut open(&disk).0;
    assert_eq!((offsets(store, "a"), offsets(store, "b")), (vec![1, 2], vec![1]));
}

#[test]
fn with_an_interval_it_is_answered_at_once_and_synced_when_the_interval_is_over() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let mut played = Played::new(&disk, Some(INTERVAL), Last(100));
        let early = at(INTERVAL - Duration::from_millis(1));
        assert_eq!(played.append(&[("a", 1), ("a", 2)]), [Ok(()), Ok(())]);
        played.work.sync_now_and_then(early);
        assert_eq!(played.syncs(), 0, "it was answered before");
        played.work.sync_now_and_then(at(INTERVAL));
        assert_eq!(played.syncs(), 1);
        disk.crash();
        assert_eq!(offsets(&mut open(&disk).0, "a"), [1, 2]);
    }
}

#[test]
fn what_was_acknowledged_before_a_failed_sync_is_written_again() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let mut played = Played::new(&disk, Some(INTERVAL), Last(1_000));
        let mut uptime = Duration::ZERO;
        // Some fill a segment, which syncs those before.
        for offset in 1..=40 + seed {
            assert_eq!(played.append(&[("a", offset)]), [Ok(())]);
        }
        disk.trouble(0, Trouble::Lose);
        uptime += INTERVAL;
        played.work.sync_now_and_then(at(uptime));
        let notices = played.notices();
        assert!(
            matches!(
                &notices[..],
                [Notice::SyncFailed { .. }, Notice::OpenedAgain { rewritten: 1.., lost: 0, .. }]
            ),
            "{notices:?}"
        );
        disk.crash();
        assert_eq!(offsets(&mut open(&disk).0, "a"), Vec::from_iter(1..=40 + seed), "{seed}");
    }
}

/// Publishes, compacts, and has one sync fail; whoever is refused writes again.
fn history(disk: &Disk, interval: Option<Duration>) -> Vec<Notice> {
    let mut played = Played::new(disk, interval, Last(12));
    let mut uptime = Duration::ZERO;
    let mut synced = |played: &mut Played<Last>| {
        uptime += HOUR;
        played.work.sync_now_and_then(at(uptime));
        played.retain(&mut uptime, HOUR);
    };
    assert!(played.append(&[("rare", 1)])[0].is_ok());
    for offset in 1..=150 {
        let appends = [("a", offset), ("b", offset)];
        let ended = played.append(&appends);
        if ended.iter().any(Result::is_err) {
            assert_eq!(played.append(&appends), [Ok(()), Ok(())], "{offset}");
        }
        if offset % 25 == 0 {
            synced(&mut played);
        }
    }
    synced(&mut played);
    played.notices()
}

#[test]
fn copies_whose_sync_has_failed_do_not_take_the_place_of_their_originals() {
    for interval in [None, Some(INTERVAL)] {
        let disk = Disk::new(1);
        history(&disk, interval);
        let (calls, mut failed) = (disk.calls(), 0);
        for call in 10..calls {
            let disk = Disk::new(call);
            disk.trouble(call, Trouble::Lose);
            failed += usize::from(!history(&disk, interval).is_empty());
            disk.crash();
            let (mut store, opened) = open(&disk);
            assert_eq!(opened.damage, [], "call {call}");
            assert_eq!(offsets(&mut store, "rare"), [1], "call {call}");
            for room in ["a", "b"] {
                let held = offsets(&mut store, room);
                assert_eq!(held.last(), Some(&150), "call {call}");
                assert!(held.len() >= 12, "call {call}: {held:?}");
            }
        }
        assert!(failed > calls as usize / 2, "{failed} of {calls}");
    }
}

#[test]
fn what_is_found_after_a_failed_sync_and_the_end_of_the_process_is_on_the_disk_once_it_is_opened() {
    for seed in 0..20 {
        let disk = Disk::new(seed);
        let mut store = open(&disk).0;
        store.commit(&[super::append("a", 1, &[1; 60])]).expect("written");
        disk.trouble(0, Trouble::Lose);
        store.sync().expect_err("it failed");
        drop(store);
        assert_eq!(offsets(&mut open(&disk).0, "a"), [1]);
        disk.crash();
        assert_eq!(offsets(&mut open(&disk).0, "a"), [1]);
    }
}

#[test]
fn a_log_that_can_not_be_opened_again_says_so_once_and_goes_on_when_it_can() {
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, Some(INTERVAL), Last(100));
    assert_eq!(played.append(&[("a", 1)]), [Ok(())]);
    disk.trouble(0, Trouble::Lose);
    disk.fail_cuts(true);
    for times in 1..=3 {
        played.work.sync_now_and_then(at(INTERVAL * times));
    }
    let notices = played.notices();
    let kinds = notices.iter().map(|it| match it {
        Notice::SyncFailed { .. } => "failed",
        Notice::NotOpened { again: false, .. } => "not opened",
        Notice::NotOpened { again: true, .. } => "nor now",
        _ => "other",
    });
    assert_eq!(Vec::from_iter(kinds), ["failed", "not opened", "nor now", "nor now"]);
    assert!(matches!(played.append(&[("a", 2)])[0], Err(WriteError::Closed { .. })));
    disk.fail_cuts(false);
    played.work.sync_now_and_then(at(INTERVAL * 4));
    let notices = played.notices();
    let opened = matches!(notices.last(), Some(Notice::OpenedAgain { rewritten: 1, lost: 0, .. }));
    assert!(opened, "{notices:?}");
    disk.crash();
    assert_eq!(offsets(&mut open(&disk).0, "a"), [1]);
}

#[test]
fn a_disk_that_can_not_be_read_for_a_while_loses_nothing_and_nothing_counts_as_damaged() {
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, Some(INTERVAL), Last(12));
    for offset in 1..=90 {
        assert_eq!(played.append(&[("a", offset)]), [Ok(())]);
    }
    let (told, pages) = channel();
    let done = Box::new(move |it| told.send(it).expect("heard"));
    let read = Read { room: "a".into(), query: EVERYTHING, apart: false, again: false, done };
    let planned = played.work.take(Ask::Read(read), &mut Vec::new()).expect("planned");
    disk.fail_reads(true);
    assert!(planned.answer(&disk).is_none(), "it is not gone");
    assert!(pages.recv().expect("answered").is_err_and(|it| !it.is_gone()));
    let mut uptime = Duration::ZERO;
    played.retain(&mut uptime, HOUR);
    let failed = |it: &Notice| matches!(it, Notice::RetentionFailed { .. });
    assert!(played.notices().iter().any(failed));
    // A sync fails as well, and the log can't be opened again before it can be read.
    disk.trouble(0, Trouble::Lose);
    uptime += HOUR;
    played.work.sync_now_and_then(at(uptime));
    assert!(matches!(played.notices().last(), Some(Notice::NotOpened { .. })));
    disk.fail_reads(false);
    uptime += HOUR;
    played.work.sync_now_and_then(at(uptime));
    assert!(matches!(played.notices().last(), Some(Notice::OpenedAgain { lost: 0, .. })));
    played.retain(&mut uptime, HOUR);
    played.work.sync_now_and_then(at(uptime + HOUR));
    disk.crash();
    let (mut store, opened) = open(&disk);
    assert_eq!((offsets(&mut store, "a"), opened.damage), (Vec::from_iter(79..=90), vec![]));
}

#[test]
fn retention_that_fails_says_so() {
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, None, Last(2));
    (1..=60).for_each(|offset| assert_eq!(played.append(&[("a", offset)]), [Ok(())]));
    disk.set_read_only();
    let mut uptime = Duration::ZERO;
    played.retain(&mut uptime, HOUR);
    let notices = played.notices();
    assert!(
        matches!(&notices[0], Notice::RetentionFailed { why, again: false } if why.contains("read-only"))
    );
    assert!(matches!(notices.last(), Some(Notice::RetentionFailed { again: true, .. })));
    disk.no_trouble();
    played.retain(&mut uptime, HOUR);
    assert_eq!(played.notices(), []);
    assert_eq!(offsets(&mut open(&disk).0, "a"), [59, 60]);
}

#[test]
fn a_page_that_was_compacted_between_plan_and_read_is_planned_again() {
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, None, Last(12));
    for offset in 1..=90 {
        assert!(played.append(&[("a", offset), ("b", offset)]).iter().all(Result::is_ok));
        if offset == 1 {
            assert_eq!(played.append(&[("rare", 1)]), [Ok(())]);
        }
    }
    let (told, pages) = channel();
    let done = Box::new(move |it| told.send(it).expect("heard"));
    let read = Read { room: "rare".into(), query: EVERYTHING, apart: false, again: false, done };
    let planned = played.work.take(Ask::Read(read), &mut Vec::new()).expect("planned");
    let mut uptime = HOUR;
    played.retain(&mut uptime, HOUR);
    let (read, error) = planned.answer(&disk).expect("its segment is gone");
    assert!(error.is_gone());
    let planned = played.work.take(Ask::Read(read), &mut Vec::new()).expect("planned");
    assert!(planned.answer(&disk).is_none(), "it is answered");
    let page = pages.recv().expect("answered").expect("read");
    assert_eq!(page.entries.len(), 1);
}

#[test]
fn what_can_not_be_repaired_is_told_once_and_not_in_every_round() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    super::fill(&mut store, &mut super::Model::default(), 2, 60);
    drop(store);
    // The header of a publication in the first segment.
    let first = File::Segment(1).to_string();
    let place = segment::walk(&disk.bytes(&first), record::seed(7, 1)).found[9].place as usize;
    disk.flip(&first, place + 30, 1);
    disk.delete(&File::Index(1).to_string());
    let mut store = open(&disk).0;
    super::sweep(&mut store, &Last(1_000));
    let told = store.take_damage();
    assert!(matches!(&told[..], [Damage::Publications { .. }]), "{told:?}");
    for _ in 0..3 {
        super::sweep(&mut store, &Last(1_000));
        assert_eq!(store.take_damage(), []);
    }
}

#[test]
fn a_room_that_can_not_be_read_keeps_no_other_from_being_written() {
    let disk = Disk::new(1);
    let mut store = open(&disk).0;
    super::fill(&mut store, &mut super::Model::default(), 1, 60);
    drop(store);
    let mut played = Played::new(&disk, None, Last(100));
    // Nor can what its index could be made again from.
    disk.spoil(&File::Index(1).to_string(), 0..1);
    disk.spoil(&File::Segment(1).to_string(), 0..1);
    let ended = played.append(&[("fresh", 1), ("room0", 61), ("other", 1)]);
    let refused = ended.iter().filter(|it| {
        let why = it.as_ref().err();
        matches!(why, Some(WriteError::Refused { refusal: Refusal::Unreadable(_), .. }))
    });
    assert_eq!(refused.count(), 1, "{ended:?}");
    assert_eq!(ended.iter().filter(|it| it.is_ok()).count(), 2, "{ended:?}");
}

#[test]
fn what_was_answered_is_written_again_after_a_failed_sync_though_a_read_fails_meanwhile() {
    for after in 0..40 {
        let disk = Disk::new(after);
        let mut played = Played::new(&disk, Some(INTERVAL), Last(1_000));
        for offset in 1..=60 {
            assert_eq!(played.append(&[("a", offset)]), [Ok(())]);
        }
        played.work.sync_now_and_then(at(INTERVAL));
        assert_eq!(played.append(&[("a", 61)]), [Ok(())]);
        disk.trouble(0, Trouble::Lose);
        disk.fail_a_read(after);
        played.work.sync_now_and_then(at(INTERVAL * 2));
        played.work.retain(at(INTERVAL * 3));
        // Others write on, and have it tried again.
        for offset in 1..=5 {
            played.append(&[("b", offset)]);
        }
        disk.fail_a_read(u64::MAX);
        assert_eq!(played.append(&[("a", 62)]), [Ok(())], "after {after} reads");
        assert_eq!(offsets(&mut open(&disk).0, "a"), Vec::from_iter(1..=62), "{after}");
    }
}

struct Young(Duration);

impl Policy for Young {
    fn keep(&self, _: &str) -> Keep {
        Keep { age: Some(self.0.as_millis() as u64), ..Keep::default() }
    }

    fn max_bytes(&self) -> Option<u64> {
        None
    }
}

#[test]
fn a_clock_that_jumps_erases_nothing() {
    let ttl = Duration::from_secs(600);
    let disk = Disk::new(1);
    let mut played = Played::new(&disk, None, Young(ttl));
    let (mut uptime, mut offset) = (Duration::from_secs(5), 0);
    let begun = HOUR * 1_000;
    // It stands right, then an hour ahead, then right again.
    for (minutes, ahead) in [(0, 0), (1, 0), (2, 3_600), (3, 3_600), (4, 0)] {
        uptime = uptime.max(Duration::from_secs(60 * minutes));
        let unix = begun + Duration::from_secs(ahead);
        offset += 1;
        let time = (unix + uptime).as_millis() as u64;
        let changes = vec![Change::Append(offset, time, Bytes::from(vec![offset as u8; 60]))];
        let done = Box::new(|it: Result<(), WriteError>| it.expect("written"));
        played.work.write(&mut vec![Request { room: "a".into(), changes, done }]);
        for _ in 0..20 {
            uptime += Duration::from_secs(1);
            played.work.retain(Now { uptime, unix: unix + uptime });
        }
    }
    assert_eq!(offsets(&mut open(&disk).0, "a"), [1, 2, 3, 4, 5]);
    // And in the end all of it goes.
    for _ in 0..100 {
        uptime += HOUR;
        played.work.retain(Now { uptime, unix: begun + uptime });
    }
    assert!(offsets(&mut open(&disk).0, "a").is_empty());
}
