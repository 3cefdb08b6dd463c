//! What is so for all maps of a namespace.

use std::time::Duration;

/// What a subscriber can do after it was away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// It loads all entries again. Entries expire.
    #[default]
    Ephemeral,
    /// It gets the changes that it missed. Entries expire.
    Recoverable,
    /// The same. Entries stay until they are removed.
    Persistent,
}

/// Which key a client writes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientKey {
    /// Any that it names.
    #[default]
    Any,
    /// Its connection's id.
    Client,
    /// Its user.
    User,
}

/// Whom the entries of a map stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// Whatever the application says.
    #[default]
    Map,
    /// The connections that are in another room.
    Clients,
    /// The users that are.
    Users,
}

/// What is so for all maps of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapOptions {
    /// Whom the entries stand for.
    pub kind: Kind,
    /// What a subscriber can do after it was away.
    pub mode: Mode,
    /// How long an entry stays that is not put again; none: until it is removed.
    pub key_ttl: Option<Duration>,
    /// How many changes a subscriber may have missed that goes on from where it was.
    pub stream_size: usize,
    /// Entries come by their scores, the highest first, and not by their keys.
    pub ordered: bool,
    /// How long an empty map is remembered that nobody uses.
    pub meta_ttl: Duration,
    /// The most entries of one map.
    pub max_keys: usize,
    /// Which key a client writes to.
    pub client_key: ClientKey,
    /// The entry of a client is removed when it leaves the room.
    pub remove_client_on_unsubscribe: bool,
    /// Entries in a page, where the client does not say.
    pub default_page_size: usize,
    /// The least that it may ask for.
    pub min_page_size: usize,
    /// The most.
    pub max_page_size: usize,
}

impl Default for MapOptions {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            mode: Mode::default(),
            key_ttl: None,
            stream_size: 100,
            ordered: false,
            meta_ttl: Duration::from_secs(3_600),
            max_keys: 100_000,
            client_key: ClientKey::default(),
            remove_client_on_unsubscribe: false,
            default_page_size: 100,
            min_page_size: 100,
            max_page_size: 1_000,
        }
    }
}

impl MapOptions {
    /// Whether a subscriber goes on from where it was.
    pub fn is_recoverable(&self) -> bool {
        self.mode != Mode::Ephemeral
    }

    /// How many entries a client gets at a time that asks for `limit`.
    pub fn page_size(&self, limit: i32) -> usize {
        let wanted = usize::try_from(limit).ok().filter(|it| *it > 0);
        let least = self.min_page_size.min(self.max_page_size);
        wanted.unwrap_or(self.default_page_size).clamp(least, self.max_page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_as_large_as_asked_for_within_what_may_be() {
        let options = MapOptions { min_page_size: 10, ..MapOptions::default() };
        let sizes = [-5, 0, 1, 10, 50, 1_000, i32::MAX].map(|it| options.page_size(it));
        assert_eq!(sizes, [100, 100, 10, 10, 50, 1_000, 1_000]);
    }
}
