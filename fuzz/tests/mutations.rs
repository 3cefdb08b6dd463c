//! Every target with its seeds, and with thousands of inputs that are near to them.
//!
//! `PROPTEST_CASES=100000 cargo test -p roomcast-fuzz` plays more. What fails is made as small as it can
//! be and left in a file: once it is understood it belongs to the seeds.

use std::{fs, path::Path};

use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{TestError, TestRunner},
};
use roomcast_fuzz::TARGETS;

/// No longer than what libFuzzer is asked for.
const MAX_LENGTH: usize = 4096;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|why| panic!("{}: {why}", folder.display()))
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// One change of an input.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    /// A piece of one of the seeds goes into it.
    Splice(Index, Index, Index, u8),
    Truncate(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    let byte = || prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(0x7f), Just(0x80), 0..16u8];
    prop_oneof![
        4 => (place(), byte()).prop_map(|(at, it)| Edit::Set(at, it)),
        4 => (place(), 0..8u8).prop_map(|(at, bit)| Edit::Flip(at, bit)),
        3 => (place(), prop::collection::vec(byte(), 1..9)).prop_map(|(at, it)| Edit::Insert(at, it)),
        3 => (place(), 1..=32u8).prop_map(|(at, count)| Edit::Remove(at, count)),
        3 => (place(), place(), place(), any::<u8>())
            .prop_map(|(at, seed, from, count)| Edit::Splice(at, seed, from, count)),
        1 => place().prop_map(Edit::Truncate),
    ]
}

impl Edit {
    fn apply(&self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        // One beyond the end is a place too.
        let place = |at: &Index| at.index(input.len() + 1);
        match self {
            Self::Set(at, byte) => {
                let at = place(at);
                input.splice(at..(at + 1).min(input.len()), [*byte]);
            }
            Self::Flip(at, bit) => {
                let at = place(at);
                input.iter_mut().skip(at).take(1).for_each(|it| *it ^= 1 << bit);
            }
            Self::Insert(at, bytes) => {
                let at = place(at);
                input.splice(at..at, bytes.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = place(at);
                input.drain(at..(at + usize::from(*count)).min(input.len()));
            }
            Self::Splice(at, seed, from, count) => {
                let (at, seed) = (place(at), &seeds[seed.index(seeds.len())]);
                let from = from.index(seed.len() + 1);
                let piece = &seed[from..(from + usize::from(*count)).min(seed.len())];
                input.splice(at..at, piece.iter().copied());
            }
            Self::Truncate(at) => {
                let at = place(at);
                input.truncate(at);
            }
        }
    }
}

fn play(target: &str, cases: u32) {
    let run = TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1;
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| run(seed));
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    let inputs =
        (any::<Index>(), prop::collection::vec(edit(), 0..12)).prop_map(|(first, edits)| {
            let mut input = seeds[first.index(seeds.len())].clone();
            edits.iter().for_each(|edit| edit.apply(&mut input, &seeds));
            input.truncate(MAX_LENGTH);
            input
        });
    let played = TestRunner::new(config).run(&inputs, |input| {
        run(&input);
        Ok(())
    });
    match played {
        Ok(()) => {}
        Err(TestError::Fail(why, input)) => {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(target);
            let kept = fs::write(&path, &input).map(|()| path.display().to_string());
            panic!("{target}: {why}\nby \"{}\", kept as {kept:?}", input.escape_ascii());
        }
        Err(TestError::Abort(why)) => panic!("{target}: {why}"),
    }
}

/// A test for each target, so that a failure names it; and with how many inputs.
macro_rules! targets {
    ($($target:ident: $cases:literal,)*) => {
        $(#[test]
        fn $target() {
            play(stringify!($target), $cases);
        })*

        #[test]
        fn no_target_is_left_out() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($target)),*]);
        }
    };
}

targets! {
    config_files: 1_000,
    gossip_datagrams: 5_000,
    log_files: 1_000,
    mesh_frames: 10_000,
    registry_messages: 10_000,
    session_commands: 10_000,
    websocket_frames: 10_000,
}
