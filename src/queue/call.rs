//! What is asked of groups, as JSON says it: in the RPCs of clients and in the calls of the server API.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{group::Verdict, options::Start, tag::Delivery};

/// The most deliveries that are named at a time.
const MOST_DELIVERIES: usize = 1_000;
/// The longest that a message may wait, or be worked on, for one word.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3_600);
/// The longest that a pull waits for its first message.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many messages a pull brings that does not say.
const LIMIT: u32 = 16;

/// A length of time: seconds, or a text like "1m30s".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Length(pub Duration);

impl<'de> Deserialize<'de> for Length {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let wrong =
            || serde::de::Error::custom("a length of time is seconds or a text like \"1m30s\"");
        match Value::deserialize(from)? {
            Value::Number(it) => it.as_f64().and_then(|it| Duration::try_from_secs_f64(it).ok()),
            Value::String(it) => humantime::parse_duration(&it).ok(),
            _ => None,
        }
        .map(Self)
        .ok_or_else(wrong)
    }
}

impl Length {
    /// As long as that, if it is not longer than may be.
    pub fn bounded(self) -> Duration {
        self.0.min(LONGEST)
    }
}

/// A group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Name {
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

/// Of which deliveries something is said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Said {
    /// The room.
    pub channel: String,
    deliveries: Vec<String>,
    delay: Option<Length>,
    by: Option<Length>,
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
    /// If there are none, too many, one that is none, or some of different groups: which, in words.
    pub fn deliveries(&self) -> Result<(String, Vec<Delivery>), String> {
        let tags = &self.deliveries;
        if tags.is_empty() || tags.len() > MOST_DELIVERIES {
            return Err(format!("deliveries must name 1 to {MOST_DELIVERIES} of them"));
        }
        let (mut group, mut deliveries) = (None, Vec::new());
        for tag in tags {
            let (delivery, of) = Delivery::parse(tag)
                .ok_or_else(|| format!("{tag:?} is no delivery of a message"))?;
            if *group.get_or_insert(of) != of {
                return Err("deliveries must be of one group".to_owned());
            }
            deliveries.push(delivery);
        }
        Ok((group.unwrap_or_default().to_owned(), deliveries))
    }
}

/// Where a group is to go on.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Seek {
    to: String,
    offset: Option<u64>,
    age: Option<Length>,
}

impl Seek {
    /// Where the group goes on.
    ///
    /// # Errors
    /// If that is not said, or said twice: in words.
    pub fn start(&self) -> Result<Start, &'static str> {
        match (self.to.as_str(), self.offset, self.age) {
            ("first", None, None) => Ok(Start::First),
            ("last", None, None) => Ok(Start::Last),
            ("", Some(offset), None) => Ok(Start::After(offset.saturating_sub(1))),
            ("", None, Some(age)) => Ok(Start::Since(age.0)),
            _ => Err(
                "say one of to (\"first\" or \"last\"), offset (of the next message), or age (of the oldest)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_seconds_or_texts() {
        for (text, millis) in
            [("1.5", Some(1_500)), ("\"2m\"", Some(120_000)), ("-1", None), ("[]", None)]
        {
            let read = serde_json::from_str::<Length>(text).ok();
            assert_eq!(read.map(|it| it.0.as_millis()), millis, "{text}");
        }
    }

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
