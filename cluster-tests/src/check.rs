//! The offline checker: judges what clients saw, after the fact.
//!
//! In: each subscriber's log of one room. Out: `Err` with a sentence that says
//! what promise was broken, by which client, at which message. Nothing here
//! talks to a server, so the same judge serves processes and simulations.

use std::collections::{BTreeMap, BTreeSet};

/// One thing that happened to a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The server confirmed the subscription.
    Subscribed {
        /// The stream's epoch.
        epoch: String,
        /// The position from which live publications follow.
        offset: u64,
        /// Whether the client asked for what it missed.
        was_recovering: bool,
        /// Whether it was promised all that it missed.
        recovered: bool,
    },
    /// The subscription waits to be resumed: lost connection, or code ≥ 2500.
    Interrupted {
        /// Why.
        code: u64,
    },
    /// The subscription ended.
    Unsubscribed {
        /// Why.
        code: u64,
    },
    /// A message.
    Publication {
        /// Its position in the room, 0 where rooms keep nothing.
        offset: u64,
        /// Who published it.
        from: String,
        /// The publisher's own count.
        seq: u64,
    },
}

/// What one client saw of one room, in order.
#[derive(Clone, Debug)]
pub struct Log {
    /// The client's name, for the verdict.
    pub client: String,
    /// What it saw.
    pub entries: Vec<Entry>,
}

/// A message's identity: (publisher, the publisher's count).
pub type Message = (String, u64);

impl Log {
    /// The messages, in the order in which they came.
    pub fn messages(&self) -> Vec<Message> {
        let message = |entry: &Entry| match entry {
            Entry::Publication { from, seq, .. } => Some((from.clone(), *seq)),
            _ => None,
        };
        self.entries.iter().filter_map(message).collect()
    }
}

/// The messages `(from, 1)..=(from, count)`.
pub fn messages_of(from: &str, count: u64) -> Vec<Message> {
    (1..=count).map(|seq| (from.to_owned(), seq)).collect()
}

/// No message came twice, by identity and by position.
pub fn no_duplicates(log: &Log) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for message in log.messages() {
        let (from, seq) = &message;
        if seen.contains(&message) {
            return Err(format!("{} got {from}#{seq} twice", log.client));
        }
        seen.insert(message);
    }
    Ok(())
}

/// Every expected message came.
pub fn nothing_lost(log: &Log, expected: &[Message]) -> Result<(), String> {
    let seen: BTreeSet<Message> = log.messages().into_iter().collect();
    let lost: Vec<String> = expected
        .iter()
        .filter(|message| !seen.contains(message))
        .map(|(from, seq)| format!("{from}#{seq}"))
        .collect();
    if lost.is_empty() {
        return Ok(());
    }
    let shown = &lost[..lost.len().min(5)];
    let total = lost.len();
    Err(format!("{} never got {total} messages: {shown:?} …", log.client))
}

/// Each publisher's messages came in the order in which it sent them.
pub fn publishers_order(log: &Log) -> Result<(), String> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for (from, seq) in log.messages() {
        let before = last.insert(from.clone(), seq).unwrap_or(0);
        if seq <= before {
            return Err(format!("{} got {from}#{seq} after {from}#{before}", log.client));
        }
    }
    Ok(())
}

/// Every two clients saw the messages that both have in the same order.
pub fn same_order(logs: &[Log]) -> Result<(), String> {
    let Some((first, others)) = logs.split_first() else {
        return Ok(());
    };
    let reference = first.messages();
    let place: BTreeMap<&Message, usize> =
        reference.iter().enumerate().map(|(i, m)| (m, i)).collect();
    for other in others {
        let mut last: Option<(usize, Message)> = None;
        for message in other.messages() {
            let Some(&index) = place.get(&message) else {
                continue;
            };
            if let Some((before, earlier)) = &last
                && index < *before
            {
                let (a, b) = (&first.client, &other.client);
                return Err(format!("{b} got {earlier:?} before {message:?}, {a} the reverse"));
            }
            last = Some((index, message));
        }
    }
    // Transitive only through the reference, so the others are compared too.
    same_order(others)
}

/// Positions go up one by one while the subscription is whole; any step that is
/// not one must follow an announcement: a confirmation that is not `recovered`.
///
/// A first confirmation announces where the client starts, so nothing before it
/// counts as missed. After a confirmation that *is* recovered the positions go
/// on exactly where the client was.
pub fn no_silent_gap(log: &Log) -> Result<(), String> {
    let mut position: Option<u64> = None;
    for entry in &log.entries {
        match entry {
            Entry::Subscribed { was_recovering: true, recovered: true, offset, .. } => {
                let at = position.unwrap_or(*offset);
                if *offset != at {
                    return Err(format!(
                        "{} was at {at} and told it recovered from {offset}",
                        log.client
                    ));
                }
                position = Some(at);
            }
            Entry::Subscribed { offset, .. } => position = Some(*offset),
            Entry::Interrupted { .. } | Entry::Unsubscribed { .. } => {}
            Entry::Publication { offset, from, seq } => {
                if let Some(before) = position
                    && *offset != before + 1
                {
                    return Err(format!(
                        "{} was at {before} and got {from}#{seq} at {offset}, unannounced",
                        log.client
                    ));
                }
                position = Some(*offset);
            }
        }
    }
    Ok(())
}

/// Whether the client was told, at least once, that it may have missed messages.
pub fn gap_announced(log: &Log) -> bool {
    log.entries.iter().any(announces_gap)
}

fn announces_gap(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::Subscribed { was_recovering: true, recovered: false, .. }
            | Entry::Interrupted { code: 2500.. }
    )
}

/// Everything at once, for subscribers that were there all the time: all
/// `expected` messages, none twice, one order everywhere, no silent gap.
pub fn complete(logs: &[Log], expected: &[Message]) -> Result<(), String> {
    for log in logs {
        no_duplicates(log)?;
        nothing_lost(log, expected)?;
        publishers_order(log)?;
        no_silent_gap(log)?;
    }
    same_order(logs)
}

/// What holds even when nodes die: none twice, one order, no silent gap, and
/// what was acknowledged is there unless the client was told of a gap.
pub fn never_silent(logs: &[Log], acked: &[Message]) -> Result<(), String> {
    for log in logs {
        no_duplicates(log)?;
        no_silent_gap(log)?;
        if !gap_announced(log) {
            nothing_lost(log, acked)?;
        }
    }
    same_order(logs)
}

/// What holds when parts of a cluster went on by themselves and one log, `kept`,
/// stands in the end: whoever was not told of a gap has all of it and nothing
/// else, and whoever was told has its end, from then on.
///
/// What a part acknowledged can be lost with its log, or be there once more in
/// the log that stands, so what came before the last announcement is judged by
/// its positions alone.
pub fn one_log(logs: &[Log], kept: &[Message]) -> Result<(), String> {
    for log in logs {
        no_silent_gap(log)?;
        let since = log.entries.iter().rposition(announces_gap);
        let Some(since) = since else {
            no_duplicates(log)?;
            nothing_lost(log, kept)?;
            ends_like(log, kept)?;
            continue;
        };
        let entries = log.entries[since..].to_vec();
        ends_like(&Log { client: log.client.clone(), entries }, kept)?;
    }
    Ok(())
}

/// The log's messages are the last ones of `kept`.
fn ends_like(log: &Log, kept: &[Message]) -> Result<(), String> {
    let seen = log.messages();
    let mut pairs = seen.iter().rev().zip(kept.iter().rev());
    if let Some((got, stands)) = pairs.find(|(got, stands)| got != stands) {
        return Err(format!("{} has {got:?} where {stands:?} stands", log.client));
    }
    let (seen, kept) = (seen.len(), kept.len());
    let more = || Err(format!("{} has {seen} messages, and {kept} stand", log.client));
    if seen > kept { more() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publication(offset: u64, from: &str, seq: u64) -> Entry {
        Entry::Publication { offset, from: from.to_owned(), seq }
    }

    fn subscribed(offset: u64, was_recovering: bool, recovered: bool) -> Entry {
        let epoch = "e".to_owned();
        Entry::Subscribed { epoch, offset, was_recovering, recovered }
    }

    fn log(client: &str, entries: Vec<Entry>) -> Log {
        Log { client: client.to_owned(), entries }
    }

    #[test]
    fn a_good_run_passes() {
        let entries = vec![
            subscribed(0, false, false),
            publication(1, "x", 1),
            publication(2, "y", 1),
            Entry::Interrupted { code: 1 },
            subscribed(2, true, true),
            publication(3, "x", 2),
        ];
        let logs = [log("a", entries.clone()), log("b", entries)];
        let mut expected = messages_of("x", 2);
        expected.extend(messages_of("y", 1));
        complete(&logs, &expected).unwrap();
    }

    #[test]
    fn each_broken_promise_is_named() {
        let twice = log("a", vec![publication(1, "x", 1), publication(2, "x", 1)]);
        assert!(no_duplicates(&twice).unwrap_err().contains("x#1 twice"));
        let lost = nothing_lost(&twice, &messages_of("x", 2)).unwrap_err();
        assert!(lost.contains("x#2"));
        let backwards = log("a", vec![publication(1, "x", 2), publication(2, "x", 1)]);
        assert!(publishers_order(&backwards).is_err());
    }

    #[test]
    fn orders_are_compared_between_all_pairs() {
        let none = log("a", vec![]);
        let one = log("b", vec![publication(1, "x", 1), publication(2, "y", 1)]);
        let other = log("c", vec![publication(1, "y", 1), publication(2, "x", 1)]);
        assert!(same_order(&[none, one, other]).is_err());
    }

    #[test]
    fn a_gap_must_be_announced() {
        let mut entries = vec![subscribed(0, false, false), publication(1, "x", 1)];
        entries.push(publication(3, "x", 3));
        assert!(no_silent_gap(&log("a", entries.clone())).is_err());
        entries.insert(2, subscribed(2, true, false));
        let told = log("a", entries.clone());
        no_silent_gap(&told).unwrap();
        assert!(gap_announced(&told));
        entries[2] = subscribed(2, true, true);
        assert!(no_silent_gap(&log("a", entries)).is_err());
    }

    #[test]
    fn what_the_standing_log_lacks_must_be_told() {
        let kept = [messages_of("x", 1), messages_of("y", 1)].concat();
        let mut entries = vec![subscribed(0, false, false), publication(1, "x", 1)];
        entries.push(publication(2, "lost", 1));
        let untold = |entries: &[Entry]| one_log(&[log("a", entries.to_vec())], &kept);
        assert!(untold(&entries).unwrap_err().contains("never got"));
        entries.extend([Entry::Interrupted { code: 2500 }, subscribed(1, true, false)]);
        untold(&entries).unwrap();
        entries.push(publication(2, "y", 1));
        untold(&entries).unwrap();
        entries.push(publication(3, "lost", 2));
        assert!(untold(&entries).unwrap_err().contains("where"));
    }

    #[test]
    fn what_was_acked_may_only_be_missing_after_an_announcement() {
        let silent = log("a", vec![subscribed(0, false, false), publication(1, "x", 1)]);
        assert!(never_silent(std::slice::from_ref(&silent), &messages_of("x", 2)).is_err());
        let mut told = silent;
        told.entries.push(subscribed(2, true, false));
        never_silent(&[told], &messages_of("x", 2)).unwrap();
    }
}
