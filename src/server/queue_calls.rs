//! The calls of the server API about groups of consumers. Pure.
//!
//! In: JSON. Out: what is asked of a group, if it is well formed.

use std::time::Duration;

use serde::Deserialize;

use super::calls::bad_request;
use crate::{
    protocol::message::Error,
    queue::{group::Verdict, options::Start, tag::Delivery},
    session::consuming::{Length, MOST_DELIVERIES},
};

/// The longest that a pull waits for its first message.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many messages a pull brings that does not say.
const LIMIT: u32 = 16;

/// A group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Group {
    /// The room whose messages it shares.
    pub channel: String,
    /// Its name.
    pub group: String,
}

/// Which messages are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Pull {
    limit: u32,
    wait: Option<Length>,
}

/// What is said of deliveries.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The room.
    pub channel: String,
    deliveries: Vec<String>,
    delay: Option<Length>,
    by: Option<Length>,
}

/// Where a group is to go on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Seek {
    to: String,
    offset: Option<u64>,
    age: Option<Length>,
}

/// What is said of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// They are done.
    Ack,
    /// They are to be given again.
    Nack,
    /// Nobody can do them.
    Reject,
    /// They take longer.
    Extend,
}

impl Pull {
    /// The most messages that are wanted.
    pub fn most(&self) -> u32 {
        if self.limit == 0 { LIMIT } else { self.limit }
    }

    /// How long to wait for the first.
    pub fn wait(&self) -> Duration {
        self.wait.unwrap_or_default().bounded().min(LONGEST_WAIT)
    }
}

impl Said {
    /// What is said.
    pub fn verdict(&self, word: Word) -> Verdict {
        match word {
            Word::Ack => Verdict::Ack,
            Word::Nack => Verdict::Nack(self.delay.map(Length::bounded)),
            Word::Reject => Verdict::Reject,
            Word::Extend => Verdict::Extend(self.by.map(Length::bounded)),
        }
    }

    /// The group, and of which deliveries it is said.
    ///
    /// # Errors
    /// If there are none, too many, one that is none, or some of different groups.
    pub fn deliveries(&self) -> Result<(String, Vec<Delivery>), Error> {
        let tags = &self.deliveries;
        if tags.is_empty() || tags.len() > MOST_DELIVERIES {
            return Err(bad_request(format!(
                "deliveries must name 1 to {MOST_DELIVERIES} of them"
            )));
        }
        let (mut group, mut deliveries) = (None, Vec::new());
        for tag in tags {
            let (delivery, of) = Delivery::parse(tag)
                .ok_or_else(|| bad_request(format!("{tag:?} is no delivery of a message")))?;
            if *group.get_or_insert(of) != of {
                return Err(bad_request("deliveries must be of one group"));
            }
            deliveries.push(delivery);
        }
        Ok((group.unwrap_or_default().to_owned(), deliveries))
    }
}

impl Seek {
    /// Where the group goes on.
    ///
    /// # Errors
    /// If that is not said, or said twice.
    pub fn start(&self) -> Result<Start, Error> {
        Ok(match (self.to.as_str(), self.offset, self.age) {
            ("first", None, None) => Start::First,
            ("last", None, None) => Start::Last,
            ("", Some(offset), None) => Start::After(offset.saturating_sub(1)),
            ("", None, Some(age)) => Start::Since(age.0),
            _ => {
                return Err(bad_request(
                    "say one of to (\"first\" or \"last\"), offset (of the next message), or age (of the oldest)",
                ));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_group_goes_on_is_said_in_one_way() {
        for (body, start) in [
            (r#"{"to": "first"}"#, Some(Start::First)),
            (r#"{"to": "last"}"#, Some(Start::Last)),
            (r#"{"offset": 5}"#, Some(Start::After(4))),
            (r#"{"age": "1h"}"#, Some(Start::Since(Duration::from_secs(3_600)))),
            (r#"{"to": "last", "offset": 5}"#, None),
            ("{}", None),
        ] {
            let seek: Seek = serde_json::from_str(body).expect("JSON");
            assert_eq!(seek.start().ok(), start, "{body}");
        }
    }

    #[test]
    fn deliveries_are_of_one_group() {
        let said = |deliveries: &[&str]| Said {
            deliveries: deliveries.iter().map(|it| (*it).to_owned()).collect(),
            ..Said::default()
        };
        let (group, deliveries) = said(&["1.2.3.a", "4.2.5.a"]).deliveries().expect("fine");
        assert_eq!((group.as_str(), deliveries.len()), ("a", 2));
        for wrong in [&["1.2.3.a", "4.2.5.b"][..], &["x"], &[], &["1.2.3.a"; 1_001]] {
            assert!(said(wrong).deliveries().is_err());
        }
    }
}
