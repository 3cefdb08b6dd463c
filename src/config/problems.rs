//! What is wrong with a configuration: all of it at once, so that nobody has to start a node ten times to find ten
//! mistakes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What is wrong with one thing of a configuration.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {problem}")]
pub struct Invalid {
    /// The key, or the file or variable that it is in.
    pub key: String,
    /// What is wrong, and what to do.
    pub problem: String,
}

impl Invalid {
    /// Says what is wrong with a key.
    pub fn new(key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { key: key.into(), problem: problem.into() }
    }

    /// The same, of a key in a section.
    pub(super) fn under(self, section: &str) -> Self {
        Self { key: format!("{section}.{}", self.key), ..self }
    }
}

/// All that is wrong with a configuration, in the order in which it was found.
#[derive(Debug, Default, thiserror::Error)]
pub struct Problems {
    list: Vec<Invalid>,
    /// Sections in which something could not be read, so that what they say is not all that was typed.
    incomplete: BTreeSet<String>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.list.iter().enumerate() {
            let before = if index == 0 { "" } else { "\n" };
            write!(f, "{before}{problem}")?;
        }
        Ok(())
    }
}

impl From<Invalid> for Problems {
    fn from(problem: Invalid) -> Self {
        Self { list: vec![problem], ..Self::default() }
    }
}

impl Problems {
    /// Each of them.
    pub fn list(&self) -> &[Invalid] {
        &self.list
    }

    /// Another one. The same is said once, however many come upon it.
    pub(super) fn add(&mut self, problem: Invalid) {
        if !self.list.contains(&problem) {
            self.list.push(problem);
        }
    }

    /// Another one, because of which the option at this key is taken for not said.
    pub(super) fn add_unread(&mut self, key: &str, problem: Invalid) {
        self.incomplete.insert(section_of(key).to_owned());
        self.add(problem);
    }

    /// Takes the problem out of a result.
    pub(super) fn take<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        result.map_err(|problem| self.add(problem)).ok()
    }

    /// Adds what was found later, but what only follows from something that could not be read: where
    /// `history_ttl` is misspelled, nobody need be told that `history_size` lacks it.
    pub(super) fn extend(&mut self, later: Self) {
        let incomplete = &self.incomplete;
        let own = later.list.into_iter().filter(|it| !incomplete.contains(section_of(&it.key)));
        self.list.extend(own);
    }

    /// Names the variables that the options with problems come from. `origins` has them by the options' keys.
    pub(super) fn name_variables(&mut self, origins: &BTreeMap<String, String>) {
        for problem in &mut self.list {
            let of_key = |(key, _): &(&String, _)| {
                let rest = problem.key.strip_prefix(key.as_str());
                rest.is_some_and(|it| it.is_empty() || it.starts_with(['.', '[']))
            };
            if let Some((key, variable)) = origins.iter().find(of_key) {
                problem.key.replace_range(..key.len(), variable);
            }
        }
    }

    /// Fails if there are any.
    pub(super) fn check<T>(self, value: T) -> Result<T, Self> {
        if self.list.is_empty() { Ok(value) } else { Err(self) }
    }
}

fn section_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

/// Names the known word that is most like `key`, if one is so like it that it may be meant.
pub(super) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .filter(|it| may_be_meant(key, it))
        .min_by_key(|it| strsim::damerau_levenshtein(key, it))
        .map_or_else(String::new, |it| format!("; did you mean {it}?"))
}

/// A typing mistake or two, or one is the beginning of the other. A guess that leads elsewhere is worse than none.
fn may_be_meant(key: &str, known: &str) -> bool {
    let (short, long) = if key.len() < known.len() { (key, known) } else { (known, key) };
    let begins = short.len() >= 4 && long.len() < 2 * short.len() && long.starts_with(short);
    begins || strsim::damerau_levenshtein(key, known) <= short.len().div_ceil(5).min(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_is_made_only_where_it_may_be_right() {
        let guess = |key: &str| {
            let known = ["proxies", "websocket", "cluster", "allowed_origins", "warn", "json"];
            nearest(key, known.into_iter())
        };
        for (key, meant) in [
            ("proxis", "proxies"),
            ("alowed_orgins", "allowed_origins"),
            ("allowed_origin", "allowed_origins"),
            ("warning", "warn"),
            ("jsn", "json"),
        ] {
            assert_eq!(guess(key), format!("; did you mean {meant}?"));
        }
        for key in ["prometheus", "broker", "consumers", "subscription_type", "x", ""] {
            assert_eq!(guess(key), "", "{key}");
        }
    }

    #[test]
    fn what_only_follows_is_not_said() {
        let mut problems = Problems::default();
        problems.add_unread("channel.a.history_tll", Invalid::new("channel.a.history_tll", "?"));
        let mut later = Problems::from(Invalid::new("channel.a.history_size", "lacks it"));
        later.add(Invalid::new("channel.b.history_size", "lacks it"));
        problems.extend(later);
        let said = problems.to_string();
        assert_eq!(said, "channel.a.history_tll: ?\nchannel.b.history_size: lacks it");
        assert!(problems.check(()).is_err() && Problems::default().check(()).is_ok());
    }
}
