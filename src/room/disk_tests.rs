//! SHELL. Tests of the log of a node's rooms, on a disk.

use std::{path::Path, time::Instant};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;
use crate::{
    log::{File, Op, disk::tests::Scratch},
    room::{
        line::Line,
        options::{LogKind, RoomOptions},
        types::Publication,
    },
};

fn open(data_dir: &Path, found: impl FnMut(LoggedRoom)) -> DiskLog {
    let options = DiskOptions {
        data_dir: data_dir.into(),
        sync_interval: None,
        max_bytes: None,
        segment_bytes: 1 << 20,
        scrub_interval: None,
    };
    let default = Arc::new(RoomOptions::default());
    let namespaces = Arc::new(Namespaces { default, ..Namespaces::default() });
    let metrics = Metrics::new().expect("registered");
    DiskLog::open(&options, namespaces, metrics, 9, found).expect("it opens").0
}

struct Registry(UnboundedSender<()>);

impl Actor for Registry {
    type Context = Context<Self>;
}

impl Handler<LogReplied> for Registry {
    type Result = ();

    fn handle(&mut self, _: LogReplied, _: &mut Self::Context) {
        self.0.send(()).expect("the test is there");
    }
}

#[test]
fn one_message_stands_for_all_replies_that_wait_and_none_is_forgotten() {
    let scratch = Scratch::new("replies");
    let log = open(&scratch.0, |_| {});
    System::new().block_on(async {
        let ask = |id| {
            let query = log::Query { since: None, reverse: false, count: 1, bytes: 1 };
            log.request("room".into(), LogRequest::Read(id, query));
        };
        (1..=3).for_each(ask);
        let deadline = Instant::now() + Duration::from_secs(10);
        while locked(&log.outcome.replies).len() < 3 {
            assert!(Instant::now() < deadline, "the log answers");
            tokio::task::yield_now().await;
        }
        let (told, mut came) = unbounded_channel();
        log.answer_to(Registry(told).start().recipient());
        assert_eq!(came.recv().await, Some(()), "of those that came before it was there");
        assert_eq!(log.take_replies().len(), 3);
        ask(4);
        assert_eq!(came.recv().await, Some(()));
        assert_eq!(log.take_replies().len(), 1);
        assert!(came.try_recv().is_err(), "one for each time");
    });
    assert!(log.close().is_empty());
}

#[test]
fn a_room_whose_head_is_damaged_is_found_and_any_other_copy_takes_its_place() {
    let scratch = Scratch::new("head");
    let directory = Directory::open(&scratch.0).expect("it can be made");
    let sizes = log::Options { segment_bytes: 1 << 20, ..Default::default() };
    let (mut store, _) = Store::open(directory, sizes, 7).expect("it opens");
    let head = Head { line: Line::new(Epoch(0x1122_3344_5566_7788)), ..Head::lost(Epoch(0)) };
    let (head, publication) = (head.to_bytes(), Publication { offset: 1, ..Default::default() });
    let entry = Entry { publication: publication.into(), ..Entry::default() }.to_bytes();
    let append = Op::Append { room: "room", offset: 1, time: 0, bytes: &entry };
    store.commit(&[append, Op::Head { room: "room", bytes: &head }]).expect("written");
    store.close().expect("synced");
    let segment = scratch.0.join(File::Segment(1).to_string());
    let mut bytes = std::fs::read(&segment).expect("it is there");
    let at = bytes.windows(head.len()).position(|it| it == head).expect("it has the head");
    bytes[at + 3] ^= 1;
    std::fs::write(&segment, bytes).expect("written");
    let mut rooms = Vec::new();
    open(&scratch.0, |it| rooms.push(it)).close();
    let [LoggedRoom { head, first: 1, next: 2, .. }] = &rooms[..] else { panic!("{rooms:?}") };
    assert!(head.root.tentative && head.line.epoch != Epoch(0x1122_3344_5566_7788));
}

#[test]
fn as_much_of_a_room_is_kept_as_its_namespace_says() {
    let options = RoomOptions {
        history_size: 10,
        history_ttl: Duration::from_secs(60),
        history_bytes: Some(5_000),
        log: LogKind::Disk,
        ..RoomOptions::default()
    };
    let in_memory = Arc::new(RoomOptions { log: LogKind::Memory, ..options.clone() });
    let named = [("disk".into(), Arc::new(options))].into();
    let namespaces = Arc::new(Namespaces { default: in_memory, named });
    let policy = ByNamespace { namespaces, max_bytes: Some(7) };
    let Keep { count, age, bytes, whole } = policy.keep("disk:a");
    assert_eq!((count, age, bytes, whole), (Some(10), Some(60_000), Some(5_000), false));
    let Keep { count, age, bytes, .. } = policy.keep("a");
    assert_eq!((count, age, bytes), (None, None, None), "nobody knows");
    assert_eq!(policy.max_bytes(), Some(7));
}

#[test]
fn no_room_has_the_name_of_what_the_node_notes_for_itself() {
    for room in ["a", COMPANIONS, "\0", "\0\0", "\0\0nodes"] {
        let room: RoomName = room.into();
        let on_disk = name_on_disk(&room);
        assert_ne!(&*on_disk, COMPANIONS);
        assert_eq!(name_of(&on_disk), Some(room));
    }
    assert_eq!(name_of(&COMPANIONS.into()), None);
}
