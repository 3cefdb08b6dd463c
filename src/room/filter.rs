//! What a subscriber wants to get of a room, by the tags of publications.
//!
//! In: a [`FilterNode`] as a client sent it, and tags. Out: whether it makes sense, and whether it matches.

use std::{cmp::Ordering, collections::BTreeSet};

use super::types::Tags;
use crate::protocol::message::FilterNode;

/// How deep a filter may be.
const MAX_DEPTH: usize = 16;
/// The most nodes of a filter.
const MAX_NODES: usize = 100;
/// The most values that a filter compares with.
const MAX_VALUES: usize = 500;
/// The most bytes of its keys and values.
const MAX_BYTES: usize = 8 << 10;
/// The longest number that is compared, in bytes.
const MAX_NUMBER: usize = 200;

/// A filter that makes sense.
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

/// Why a filter can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    /// It is too deep, or has too many nodes, values or bytes.
    #[error("the filter is too large")]
    TooLarge,
    /// A node or a test that does not exist.
    #[error("the filter has an unknown operation")]
    Unknown,
    /// Something is missing, or is there that has no place.
    #[error("a node of the filter has too little or too much in it")]
    Malformed,
}

/// How much a filter may still have.
struct Budget {
    nodes: usize,
    values: usize,
    bytes: usize,
}

impl Budget {
    fn spend(&mut self, node: &FilterNode) -> Result<(), Nonsense> {
        let left = |budget: usize, spent| budget.checked_sub(spent).ok_or(Nonsense::TooLarge);
        let texts = node.vals.iter().chain([&node.key, &node.val]);
        self.nodes = left(self.nodes, 1)?;
        self.values = left(self.values, node.vals.len())?;
        self.bytes = left(self.bytes, texts.map(String::len).sum())?;
        Ok(())
    }
}

impl Filter {
    /// Checks a filter.
    ///
    /// # Errors
    /// See [`Nonsense`].
    pub fn new(node: &FilterNode) -> Result<Self, Nonsense> {
        let mut budget = Budget { nodes: MAX_NODES, values: MAX_VALUES, bytes: MAX_BYTES };
        Self::checked(node, MAX_DEPTH, &mut budget)
    }

    fn checked(node: &FilterNode, depth: usize, budget: &mut Budget) -> Result<Self, Nonsense> {
        let depth = depth.checked_sub(1).ok_or(Nonsense::TooLarge)?;
        budget.spend(node)?;
        let mut children = || {
            let nodes = node.nodes.iter().map(|child| Self::checked(child, depth, budget));
            let nodes: Vec<Self> = nodes.collect::<Result<_, _>>()?;
            if nodes.is_empty() { Err(Nonsense::Malformed) } else { Ok(nodes) }
        };
        match node.op.as_str() {
            "" => Self::leaf(node),
            "and" => Ok(Self::All(children()?.into())),
            "or" => Ok(Self::Any(children()?.into())),
            "not" => match <[Self; 1]>::try_from(children()?) {
                Ok([child]) => Ok(Self::Not(child.into())),
                Err(_) => Err(Nonsense::Malformed),
            },
            _ => Err(Nonsense::Unknown),
        }
    }

    fn leaf(node: &FilterNode) -> Result<Self, Nonsense> {
        use Ordering::{Equal, Greater, Less};
        let value = || Box::from(node.val.as_str());
        let (takes, test, wanted): (Takes, Test, bool) = match node.cmp.as_str() {
            "eq" => (Takes::Value, Test::Equals(value()), true),
            "neq" => (Takes::Value, Test::Equals(value()), false),
            "in" => (Takes::Values, Test::among(&node.vals), true),
            "nin" => (Takes::Values, Test::among(&node.vals), false),
            "ex" => (Takes::Nothing, Test::Exists, true),
            "nex" => (Takes::Nothing, Test::Exists, false),
            "sw" => (Takes::Value, Test::StartsWith(value()), true),
            "ew" => (Takes::Value, Test::EndsWith(value()), true),
            "ct" => (Takes::Value, Test::Contains(value()), true),
            "gt" => (Takes::Value, Test::Compares(value(), &[Greater]), true),
            "gte" => (Takes::Value, Test::Compares(value(), &[Greater, Equal]), true),
            "lt" => (Takes::Value, Test::Compares(value(), &[Less]), true),
            "lte" => (Takes::Value, Test::Compares(value(), &[Less, Equal]), true),
            "" => return Err(Nonsense::Malformed),
            _ => return Err(Nonsense::Unknown),
        };
        let right = match takes {
            Takes::Nothing => node.val.is_empty() && node.vals.is_empty(),
            Takes::Value => !node.val.is_empty() && node.vals.is_empty() && !node.key.is_empty(),
            Takes::Values => node.val.is_empty() && !node.vals.is_empty() && !node.key.is_empty(),
        };
        if !right {
            return Err(Nonsense::Malformed);
        }
        let leaf = Self::Tag(node.key.as_str().into(), test);
        Ok(if wanted { leaf } else { Self::Not(leaf.into()) })
    }

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

/// What a test compares with.
enum Takes {
    Nothing,
    Value,
    Values,
}

impl Test {
    fn among(values: &[String]) -> Self {
        Self::In(values.iter().map(|it| it.as_str().into()).collect())
    }

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
    use serde_json::{Value, json};

    use super::*;

    fn filter(json: Value) -> Result<Filter, Nonsense> {
        Filter::new(&serde_json::from_value(json).expect("a filter node"))
    }

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn each_test_does_what_it_says() {
        let leaf = |cmp: &str, val: &str| json!({"key": "k", "cmp": cmp, "val": val});
        let list = |cmp: &str, vals: &[&str]| json!({"key": "k", "cmp": cmp, "vals": vals});
        type Values = &'static [Option<&'static str>];
        // The filter, the tags that it wants, and those that it does not; none: the tag is missing.
        let cases: &[(Value, Values, Values)] = &[
            (leaf("eq", "a"), &[Some("a")], &[Some("b"), None]),
            (leaf("neq", "a"), &[Some("b"), None], &[Some("a")]),
            (list("in", &["a", "b"]), &[Some("a"), Some("b")], &[Some("c"), None]),
            (list("in", &[""]), &[Some(""), None], &[Some("c")]),
            (list("nin", &["a"]), &[Some("c"), None], &[Some("a")]),
            (json!({"key": "k", "cmp": "ex"}), &[Some("")], &[None]),
            (json!({"key": "k", "cmp": "nex"}), &[None], &[Some("")]),
            (leaf("sw", "ab"), &[Some("abc")], &[Some("cab"), None]),
            (leaf("ew", "ab"), &[Some("cab")], &[Some("abc"), None]),
            (leaf("ct", "ab"), &[Some("cabc")], &[Some("acb"), None]),
            (leaf("gt", "10"), &[Some("10.1"), Some("11")], &[Some("10"), Some("9"), None]),
            (leaf("gte", "10"), &[Some("10.0"), Some("+11")], &[Some("9.9"), Some("x")]),
            (leaf("lt", "-1"), &[Some("-1.5"), Some("-10")], &[Some("-1"), Some("0"), Some("")]),
            (leaf("lte", "0"), &[Some("-0"), Some("0.00")], &[Some("0.001"), Some("1e-9")]),
            (leaf("gt", "x"), &[], &[Some("1"), Some("y")]),
        ];
        for (json, wanted, unwanted) in cases {
            let filter = filter(json.clone()).expect("a filter");
            let matches = |tag: &Option<&str>| {
                filter.matches(&tags(&tag.map(|it| ("k", it)).into_iter().collect::<Vec<_>>()))
            };
            assert!(wanted.iter().all(matches) && !unwanted.iter().any(matches), "{json}");
        }
    }

    #[test]
    fn nodes_go_together() {
        let leaf = |key: &str, val: &str| json!({"key": key, "cmp": "eq", "val": val});
        let both = json!({"op": "and", "nodes": [leaf("a", "1"), leaf("b", "2")]});
        let either = json!({"op": "or", "nodes": [leaf("a", "1"), leaf("b", "2")]});
        let neither = json!({"op": "not", "nodes": [either]});
        let seen = |pairs| {
            let tags = tags(pairs);
            [&both, &either, &neither].map(|it| filter(it.clone()).expect("valid").matches(&tags))
        };
        assert_eq!(seen(&[("a", "1"), ("b", "2")]), [true, true, false]);
        assert_eq!(seen(&[("a", "1")]), [false, true, false]);
        assert_eq!(seen(&[("c", "1")]), [false, false, true]);
    }

    #[test]
    fn nonsense_is_refused() {
        use Nonsense::{Malformed, TooLarge, Unknown};
        let leaf = json!({"key": "k", "cmp": "eq", "val": "v"});
        let deep =
            |depth| (0..depth).fold(leaf.clone(), |it, _| json!({"op": "not", "nodes": [it]}));
        assert!(filter(deep(MAX_DEPTH - 1)).is_ok());
        let cases = [
            (json!({}), Malformed),
            (json!({"key": "k", "cmp": "eq"}), Malformed),
            (json!({"cmp": "eq", "val": "v"}), Malformed),
            (json!({"key": "k", "cmp": "eq", "val": "v", "vals": ["v"]}), Malformed),
            (json!({"key": "k", "cmp": "in", "val": "v"}), Malformed),
            (json!({"key": "k", "cmp": "ex", "val": "v"}), Malformed),
            (json!({"key": "k", "cmp": "like", "val": "v"}), Unknown),
            (json!({"op": "xor", "nodes": [leaf, leaf]}), Unknown),
            (json!({"op": "and"}), Malformed),
            (json!({"op": "not", "nodes": [leaf, leaf]}), Malformed),
            (deep(MAX_DEPTH), TooLarge),
            (json!({"op": "or", "nodes": vec![leaf.clone(); MAX_NODES]}), TooLarge),
            (json!({"key": "k", "cmp": "in", "vals": vec!["v"; MAX_VALUES + 1]}), TooLarge),
            (json!({"key": "k", "cmp": "eq", "val": "v".repeat(MAX_BYTES)}), TooLarge),
        ];
        for (json, why) in cases {
            assert_eq!(filter(json.clone()), Err(why), "{json}");
        }
    }

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
