//! Filters by tags as clients write them.
//!
//! In: a [`FilterNode`]. Out: the room's [`Filter`], or why it can't be used.

use std::cmp::Ordering;

use crate::{
    protocol::message::FilterNode,
    room::filter::{Filter, Test},
};

/// How deep a filter may be.
const MAX_DEPTH: usize = 16;
/// The most nodes of a filter.
const MAX_NODES: usize = 100;
/// The most values that a filter compares with.
const MAX_VALUES: usize = 500;
/// The most bytes of its keys and values.
const MAX_BYTES: usize = 8 << 10;

/// Why a filter can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
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
    fn spend(&mut self, node: &FilterNode) -> Result<(), InvalidFilter> {
        let left = |budget: usize, spent| budget.checked_sub(spent).ok_or(InvalidFilter::TooLarge);
        let texts = node.vals.iter().chain([&node.key, &node.val]);
        self.nodes = left(self.nodes, 1)?;
        self.values = left(self.values, node.vals.len())?;
        self.bytes = left(self.bytes, texts.map(String::len).sum())?;
        Ok(())
    }
}

/// Reads a filter as a client wrote it.
///
/// # Errors
/// See [`InvalidFilter`].
pub(super) fn parse(node: &FilterNode) -> Result<Filter, InvalidFilter> {
    let mut budget = Budget { nodes: MAX_NODES, values: MAX_VALUES, bytes: MAX_BYTES };
    checked(node, MAX_DEPTH, &mut budget)
}

fn checked(node: &FilterNode, depth: usize, budget: &mut Budget) -> Result<Filter, InvalidFilter> {
    let depth = depth.checked_sub(1).ok_or(InvalidFilter::TooLarge)?;
    budget.spend(node)?;
    let mut children = || {
        let nodes = node.nodes.iter().map(|child| checked(child, depth, budget));
        let nodes: Vec<Filter> = nodes.collect::<Result<_, _>>()?;
        if nodes.is_empty() { Err(InvalidFilter::Malformed) } else { Ok(nodes) }
    };
    match node.op.as_str() {
        "" => leaf(node),
        "and" => Ok(Filter::All(children()?.into())),
        "or" => Ok(Filter::Any(children()?.into())),
        "not" => match <[Filter; 1]>::try_from(children()?) {
            Ok([child]) => Ok(Filter::Not(child.into())),
            Err(_) => Err(InvalidFilter::Malformed),
        },
        _ => Err(InvalidFilter::Unknown),
    }
}

fn leaf(node: &FilterNode) -> Result<Filter, InvalidFilter> {
    use Ordering::{Equal, Greater, Less};
    let value = || Box::from(node.val.as_str());
    let (takes, test, wanted): (Takes, Test, bool) = match node.cmp.as_str() {
        "eq" => (Takes::Value, Test::Equals(value()), true),
        "neq" => (Takes::Value, Test::Equals(value()), false),
        "in" => (Takes::Values, among(&node.vals), true),
        "nin" => (Takes::Values, among(&node.vals), false),
        "ex" => (Takes::Nothing, Test::Exists, true),
        "nex" => (Takes::Nothing, Test::Exists, false),
        "sw" => (Takes::Value, Test::StartsWith(value()), true),
        "ew" => (Takes::Value, Test::EndsWith(value()), true),
        "ct" => (Takes::Value, Test::Contains(value()), true),
        "gt" => (Takes::Value, Test::Compares(value(), &[Greater]), true),
        "gte" => (Takes::Value, Test::Compares(value(), &[Greater, Equal]), true),
        "lt" => (Takes::Value, Test::Compares(value(), &[Less]), true),
        "lte" => (Takes::Value, Test::Compares(value(), &[Less, Equal]), true),
        "" => return Err(InvalidFilter::Malformed),
        _ => return Err(InvalidFilter::Unknown),
    };
    let right = match takes {
        Takes::Nothing => node.val.is_empty() && node.vals.is_empty(),
        Takes::Value => !node.val.is_empty() && node.vals.is_empty() && !node.key.is_empty(),
        Takes::Values => node.val.is_empty() && !node.vals.is_empty() && !node.key.is_empty(),
    };
    if !right {
        return Err(InvalidFilter::Malformed);
    }
    let tag = Filter::Tag(node.key.as_str().into(), test);
    Ok(if wanted { tag } else { Filter::Not(tag.into()) })
}

fn among(values: &[String]) -> Test {
    Test::In(values.iter().map(|it| it.as_str().into()).collect())
}

/// What a test compares with.
enum Takes {
    Nothing,
    Value,
    Values,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::room::types::Tags;

    fn filter(json: Value) -> Result<Filter, InvalidFilter> {
        parse(&serde_json::from_value(json).expect("a filter node"))
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
    fn invalid_filters_are_refused() {
        use InvalidFilter::{Malformed, TooLarge, Unknown};
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
}
