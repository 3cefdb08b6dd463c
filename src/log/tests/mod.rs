//! The store on a disk that forgets, tears, flips bits, and is full; beside a plain model.

mod corruption;
mod crashes;
mod disk;
mod model;
mod opening;
mod random;
mod retention;
mod sectors;
mod work;

use disk::Disk;
use model::Model;

use super::*;

/// Tiny, so that there are many.
const SEGMENT: u32 = 4096;

fn options() -> Options {
    Options { segment_bytes: SEGMENT, rooms_in_memory: 3 }
}

fn open(disk: &Disk) -> (Store<Disk>, Opened) {
    Store::open(disk.clone(), options(), 7).expect("it opens")
}

fn append<'a>(room: &'a str, offset: u64, bytes: &'a [u8]) -> Op<'a> {
    Op::Append { room, offset, time: offset * 10, bytes }
}

/// So many publications in each of some rooms, each batch synced.
fn fill(store: &mut Store<Disk>, model: &mut Model, rooms: u64, each: u64) {
    for offset in 1..=each {
        for room in 0..rooms {
            let room = format!("room{room}");
            let bytes = [offset as u8; 50];
            let ops = [append(&room, offset, &bytes)];
            store.commit(&ops).expect("written");
            model.apply(&ops);
        }
        store.sync().expect("synced");
    }
}

/// Keeps so many publications of each room.
struct Last(u64);

impl Policy for Last {
    fn keep(&self, _: &str) -> Keep {
        Keep { count: Some(self.0), ..Keep::default() }
    }

    fn max_bytes(&self) -> Option<u64> {
        None
    }
}

/// One round of retention.
fn sweep(store: &mut Store<Disk>, policy: &impl Policy) {
    while store.step(0, policy).expect("done") == Progress::More {}
}

/// Numbers that look random, and are the same for the same seed.
#[derive(Debug, Clone)]
pub(super) struct Dice(pub u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut it = self.0;
        it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        it ^ (it >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
