//! What is new in a text against an earlier one, in the delta format of the Fossil version control system,
//! which SDKs read.
//!
//! In: both texts. Out: a delta, if it is shorter than the text. The format: the length of the text and a line
//! feed; then runs that are in the earlier text (`LENGTH@OFFSET,`) and runs that are not (`LENGTH:BYTES`);
//! then a checksum and `;`. Numbers have base 64.
//!
//! Our own, since in JSON a delta travels as a string, and so nothing that is quoted in it may begin or end
//! within a character.

use rustc_hash::FxHashMap;

/// How many bytes must be the same for a run to be found.
const BLOCK: usize = 16;
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The delta from `base` to `target`, unless the target itself is no longer.
pub fn of_bytes(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    Delta::new(base, target, |_| true).made()
}

/// The same for texts; the delta is a text.
pub fn of_text(base: &str, target: &str) -> Option<String> {
    let cut = |at| target.is_char_boundary(at);
    String::from_utf8(Delta::new(base.as_bytes(), target.as_bytes(), cut).made()?).ok()
}

/// A delta in the making.
struct Delta<'a, F> {
    base: &'a [u8],
    target: &'a [u8],
    /// Whether the target may be cut there.
    cut: F,
    written: Vec<u8>,
    /// Up to where the target is written.
    done: usize,
}

/// A run that is in both.
#[derive(Clone, Copy)]
struct Run {
    in_base: usize,
    in_target: usize,
    length: usize,
}

impl<'a, F: Fn(usize) -> bool> Delta<'a, F> {
    fn new(base: &'a [u8], target: &'a [u8], cut: F) -> Self {
        Self { base, target, cut, written: Vec::new(), done: 0 }
    }

    /// First what both begin with and what both end with: most often that is all there is to find.
    fn made(mut self) -> Option<Vec<u8>> {
        let (base, target) = (self.base, self.target);
        if u32::try_from(base.len().max(target.len())).is_err() {
            return None;
        }
        number(target.len(), &mut self.written);
        self.written.push(b'\n');
        let head = same(base.iter(), target.iter());
        let (base_left, target_left) = (&base[head..], &target[head..]);
        let tail = same(base_left.iter().rev(), target_left.iter().rev());
        self.copy(Run { in_base: 0, in_target: 0, length: head });
        self.find_runs(head, target.len() - tail);
        let (in_base, in_target) = (base.len() - tail, target.len() - tail);
        self.copy(Run { in_base, in_target, length: tail });
        self.quote(target.len());
        number(checksum(target) as usize, &mut self.written);
        self.written.push(b';');
        (self.written.len() < target.len()).then_some(self.written)
    }

    /// Looks for runs of the target between `from` and `to` anywhere in the base.
    fn find_runs(&mut self, from: usize, to: usize) {
        if to - from < BLOCK || self.base.len() < BLOCK {
            return;
        }
        let mut blocks: FxHashMap<&[u8], usize> = FxHashMap::default();
        for (index, block) in self.base.chunks_exact(BLOCK).enumerate() {
            blocks.entry(block).or_insert(index * BLOCK);
        }
        let mut at = from;
        while let Some(block) = self.target.get(at..at + BLOCK).filter(|_| at + BLOCK <= to) {
            let Some(in_base) = blocks.get(block).copied() else {
                at += 1;
                continue;
            };
            let before = self.base[..in_base].iter().rev();
            let before = same(before, self.target[self.done.min(at)..at].iter().rev());
            let after = same(self.base[in_base..].iter(), self.target[at..to].iter());
            let run =
                Run { in_base: in_base - before, in_target: at - before, length: before + after };
            at += if self.copy(run) { after } else { 1 };
        }
    }

    /// Writes a run that is in the base, and what is before it, if that is shorter than to quote it.
    fn copy(&mut self, mut run: Run) -> bool {
        while run.length > 0 && !(self.cut)(run.in_target) {
            (run.in_base, run.in_target) = (run.in_base + 1, run.in_target + 1);
            run.length -= 1;
        }
        while run.length > 0 && !(self.cut)(run.in_target + run.length) {
            run.length -= 1;
        }
        let quoted = run.in_target.saturating_sub(self.done);
        if run.length <= digits(run.length) + digits(run.in_base) + digits(quoted) + 3 {
            return false;
        }
        self.quote(run.in_target);
        number(run.length, &mut self.written);
        self.written.push(b'@');
        number(run.in_base, &mut self.written);
        self.written.push(b',');
        self.done = run.in_target + run.length;
        true
    }

    /// Writes the target up to `to` as it is.
    fn quote(&mut self, to: usize) {
        if to > self.done {
            number(to - self.done, &mut self.written);
            self.written.push(b':');
            self.written.extend_from_slice(&self.target[self.done..to]);
            self.done = to;
        }
    }
}

/// How long both are the same.
fn same<'a>(one: impl Iterator<Item = &'a u8>, other: impl Iterator<Item = &'a u8>) -> usize {
    one.zip(other).take_while(|(one, other)| one == other).count()
}

fn digits(number: usize) -> usize {
    (number.max(1).ilog2() / 6) as usize + 1
}

fn number(number: usize, to: &mut Vec<u8>) {
    for place in (0..digits(number)).rev() {
        to.push(DIGITS[(number >> (6 * place)) & 63]);
    }
}

/// The sum of all words of four bytes, the last filled up with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0, |sum: u32, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(u32::from_be_bytes(word))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a reader of the format makes of a delta.
    fn applied(base: &[u8], delta: &[u8]) -> Option<Vec<u8>> {
        let mut rest = delta;
        let mut read = || {
            let end = rest.iter().position(|it| !DIGITS.contains(it))?;
            let value = |it: &u8| DIGITS.iter().position(|digit| digit == it);
            let number = rest[..end].iter().try_fold(0, |sum, it| Some(sum * 64 + value(it)?))?;
            let sign = rest[end];
            rest = &rest[end + 1..];
            let mut bytes = Vec::new();
            if sign == b':' {
                bytes = rest.get(..number)?.to_vec();
                rest = &rest[number..];
            }
            Some((number, sign, bytes))
        };
        let (length, b'\n', _) = read()? else { return None };
        let mut target = Vec::new();
        loop {
            match read()? {
                (_, b':', bytes) => target.extend(bytes),
                (count, b'@', _) => {
                    let (offset, b',', _) = read()? else { return None };
                    target.extend(base.get(offset..offset + count)?);
                }
                (sum, b';', _) => {
                    let right = sum == checksum(&target) as usize && length == target.len();
                    return right.then_some(target);
                }
                _ => return None,
            }
        }
    }

    #[test]
    fn numbers_and_checksum_are_written_as_the_format_wants() {
        let written = |value| {
            let mut bytes = Vec::new();
            number(value, &mut bytes);
            String::from_utf8(bytes).expect("digits")
        };
        assert_eq!(
            [0, 9, 10, 63, 64, 4095, 4096].map(written),
            ["0", "9", "A", "~", "10", "~~", "100"]
        );
        assert_eq!(written(u32::MAX as usize), "3~~~~~");
        assert_eq!(checksum(b"\x01\x02\x03\x04\x05"), 0x0602_0304);
    }

    #[test]
    fn little_that_is_new_makes_a_small_delta() {
        let base = r#"{"score": {"home": 1, "away": 0}, "minute": 23, "events": ["kick-off"]}"#;
        let target = base.replace("\"home\": 1", "\"home\": 2");
        let delta = of_text(base, &target).expect("a delta");
        assert_eq!(delta, format!("17\nJ@0,1:2o@K,{};", &delta[delta.len() - 7..delta.len() - 1]));
        let moved = format!("{}{}", &target[30..], &target[..30]);
        assert!(of_text(base, &moved).expect("a delta").len() < base.len());
        assert_eq!(of_text(base, "1"), None, "nothing is gained");
        assert_eq!(of_text("", ""), None);
    }

    #[test]
    fn no_character_is_cut() {
        // The first bytes of these are the same, and so are the last.
        let words = ["жъщ", "жъѩ", "ѩъщ", "жѩщ"];
        let text =
            |word: &str| format!("{word} {} {word} {}", "длинный".repeat(9), "текст".repeat(9));
        for base in words {
            for target in words {
                let (base, target) = (text(base), text(target));
                let delta = of_text(&base, &target).expect("a delta");
                let made = applied(base.as_bytes(), delta.as_bytes());
                assert_eq!(made.as_deref(), Some(target.as_bytes()), "{base} {target}");
            }
        }
    }

    /// A text, and another that is made of parts of it and something new.
    fn related() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let byte = prop_oneof![0u8..4, any::<u8>()];
        let parts =
            prop::collection::vec((any::<prop::sample::Index>(), 0..200usize, "[ab]{0,9}"), 0..8);
        (prop::collection::vec(byte, 0..400), parts).prop_map(|(base, parts)| {
            let mut target = Vec::new();
            for (from, length, new) in parts {
                let from = if base.is_empty() { 0 } else { from.index(base.len()) };
                target.extend(&base[from..(from + length).min(base.len())]);
                target.extend(new.into_bytes());
            }
            (base, target)
        })
    }

    proptest! {
        #[test]
        fn a_delta_gives_the_target((base, target) in related()) {
            if let Some(delta) = of_bytes(&base, &target) {
                prop_assert!(delta.len() < target.len());
                prop_assert_eq!(applied(&base, &delta), Some(target));
            }
        }

        #[test]
        fn a_delta_of_texts_gives_the_target(base in "[aж€😀]{0,80}", target in "[aж€😀]{0,80}", same in "[aж€😀]{0,80}") {
            for (base, target) in [(&base, &target), (&format!("{base}{same}{target}"), &format!("{target}{same}"))] {
                if let Some(delta) = of_text(base, target) {
                    prop_assert_eq!(applied(base.as_bytes(), delta.as_bytes()), Some(target.clone().into_bytes()));
                }
            }
        }
    }
}
