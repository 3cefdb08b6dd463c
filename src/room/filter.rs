//! What a subscriber wants to get of a room, by the tags of publications.
//!
//! In: tags. Out: whether they match. How clients write filters is for sessions to know.

use std::{cmp::Ordering, collections::BTreeSet};

use super::types::Tags;

/// The longest number that is compared, in bytes.
const MAX_NUMBER: usize = 200;

/// Which publications are wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Filter {
    /// All of these must match.
    All(Box<[Filter]>),
    /// One of these must match.
    Any(Box<[Filter]>),
    /// This must not match.
    Not(Box<Filter>),
    /// The tag of this name must pass the test.
    Tag(Box<str>, Test),
}

/// What a tag is tested for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// It is there.
    Exists,
    /// It is one of these; one that is missing counts as empty.
    In(BTreeSet<Box<str>>),
    /// It is there and begins with this.
    StartsWith(Box<str>),
    /// It is there and ends with this.
    EndsWith(Box<str>),
    /// It is there and has this in it.
    Contains(Box<str>),
    /// It is there and the same as this.
    Equals(Box<str>),
    /// Both are numbers, and it compares with this in one of these ways.
    Compares(Box<str>, &'static [Ordering]),
}

impl Filter {
    /// Whether a publication with these tags is wanted.
    pub fn matches(&self, tags: &Tags) -> bool {
        match self {
            Self::All(all) => all.iter().all(|it| it.matches(tags)),
            Self::Any(any) => any.iter().any(|it| it.matches(tags)),
            Self::Not(filter) => !filter.matches(tags),
            Self::Tag(key, test) => test.passes(tags.get(&**key).map(String::as_str)),
        }
    }
}

impl Test {
    fn passes(&self, tag: Option<&str>) -> bool {
        match self {
            Self::Exists => tag.is_some(),
            Self::In(values) => values.contains(tag.unwrap_or_default()),
            Self::Equals(value) => tag.is_some_and(|tag| *tag == **value),
            Self::StartsWith(value) => tag.is_some_and(|tag| tag.starts_with(&**value)),
            Self::EndsWith(value) => tag.is_some_and(|tag| tag.ends_with(&**value)),
            Self::Contains(value) => tag.is_some_and(|tag| tag.contains(&**value)),
            Self::Compares(value, ways) => {
                let numbers = tag.and_then(Decimal::read).zip(Decimal::read(value));
                numbers.is_some_and(|(tag, value)| ways.contains(&tag.compare(&value)))
            }
        }
    }
}

/// A number as it is written, so that none is rounded.
#[derive(Debug)]
struct Decimal<'a> {
    negative: bool,
    /// Without leading zeros.
    whole: &'a str,
    /// Without trailing zeros.
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// Reads a sign, digits, and after a point more digits.
    fn read(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
        let digits = |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, "0"));
        if text.len() > MAX_NUMBER || !digits(whole) || !digits(fraction) {
            return None;
        }
        let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Self { negative: text.starts_with('-') && !zero, whole, fraction })
    }

    fn compare(&self, other: &Self) -> Ordering {
        let size = |it: &Self| (it.whole.len(), it.whole, it.fraction);
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => size(self).cmp(&size(other)),
            (true, true) => size(other).cmp(&size(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_compared_by_value(a in -999_999i64..999_999, b in -999_999i64..999_999) {
            let written = |n: i64| {
                let (sign, n) = (if n < 0 { "-" } else { "" }, n.unsigned_abs());
                format!("{sign}{}.{:03}", n / 1000, n % 1000)
            };
            let (one, other) = (written(a), written(b));
            let compared = Decimal::read(&one).zip(Decimal::read(&other));
            prop_assert_eq!(compared.map(|(a, b)| a.compare(&b)), Some(a.cmp(&b)));
        }
    }
}
