//! The entries of a map, as they follow from its changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use super::{change::KeyVersion, request::Page};
use crate::runtime::time::Time;

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Entry<V> {
    /// The offset of the change that gave it its value.
    pub offset: u64,
    /// The offset of the change that it is written in.
    pub record: u64,
    /// When it was given its value, or was said to be alive.
    pub at: Time,
    /// Where it stands in an ordered map.
    pub score: i64,
    /// The application's count.
    pub version: KeyVersion,
    /// The value.
    pub value: V,
}

/// The entries of a map.
#[derive(Debug)]
pub struct State<V> {
    ordered: bool,
    /// Clients choose the keys, so the hash has a secret key.
    entries: HashMap<Arc<str>, Entry<V>>,
    /// By score, 0 where the map is not ordered, then by key.
    order: BTreeSet<(i64, Arc<str>)>,
    /// By the offsets of the changes that they are written in.
    records: BTreeMap<u64, Arc<str>>,
    /// The first to expire first, where entries do.
    expiry: BTreeSet<(Time, Arc<str>)>,
    ttl: Option<Duration>,
}

/// Between the score and the key in the cursor of an ordered map.
const SEPARATOR: char = '\0';

impl<V> State<V> {
    /// An empty map.
    pub fn new(ordered: bool, ttl: Option<Duration>) -> Self {
        Self {
            ordered,
            entries: HashMap::new(),
            order: BTreeSet::new(),
            records: BTreeMap::new(),
            expiry: BTreeSet::new(),
            ttl,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Entry<V>> {
        self.entries.get(key)
    }

    /// Gives a key its entry.
    pub fn put(&mut self, key: &str, entry: Entry<V>) {
        self.remove(key);
        let key: Arc<str> = key.into();
        self.order.insert((self.place(entry.score), key.clone()));
        self.records.insert(entry.record, key.clone());
        if let Some(ttl) = self.ttl {
            self.expiry.insert((entry.at + ttl, key.clone()));
        }
        self.entries.insert(key, entry);
    }

    /// Takes a key's entry away. Returns it.
    pub fn remove(&mut self, key: &str) -> Option<Entry<V>> {
        let (key, entry) = self.entries.remove_entry(key)?;
        self.records.remove(&entry.record);
        if let Some(ttl) = self.ttl {
            self.expiry.remove(&(entry.at + ttl, key.clone()));
        }
        self.order.remove(&(self.place(entry.score), key));
        Some(entry)
    }

    /// Takes all entries away.
    pub fn clear(&mut self) {
        *self = Self::new(self.ordered, self.ttl);
    }

    /// The key of the entry that is written in the change at this offset.
    pub fn written_at(&self, record: u64) -> Option<&Arc<str>> {
        self.records.get(&record)
    }

    /// When the next entry expires.
    pub fn next_expiry(&self) -> Option<Time> {
        self.expiry.first().map(|(at, _)| *at)
    }

    /// An entry that has expired.
    pub fn expired(&self, now: Time) -> Option<&Arc<str>> {
        self.expiry.first().filter(|(at, _)| *at <= now).map(|(_, key)| key)
    }

    fn place(&self, score: i64) -> i64 {
        if self.ordered { score } else { 0 }
    }

    /// A page of entries, and the cursor of the next one: empty if there is none. An ordered map begins with its highest
    /// score.
    pub fn page(&self, page: &Page, weight: impl Fn(&V) -> usize) -> (Vec<&Entry<V>>, String) {
        if let Some(key) = &page.key {
            return (self.get(key).into_iter().collect(), String::new());
        }
        match !self.ordered || page.ascending {
            true => {
                let from = self.from(&page.cursor).map_or(Bound::Unbounded, Bound::Excluded);
                self.take(page, self.order.range((from, Bound::Unbounded)), weight)
            }
            false => {
                let to = self.from(&page.cursor).map_or(Bound::Unbounded, Bound::Excluded);
                self.take(page, self.order.range((Bound::Unbounded, to)).rev(), weight)
            }
        }
    }

    /// What the last page ended with.
    fn from(&self, cursor: &str) -> Option<(i64, Arc<str>)> {
        let (score, key) = match cursor.split_once(SEPARATOR) {
            _ if cursor.is_empty() => return None,
            Some((score, key)) if self.ordered => (score.parse().ok()?, key),
            _ => (0, cursor),
        };
        Some((score, key.into()))
    }

    fn take<'a>(
        &'a self,
        page: &Page,
        mut places: impl Iterator<Item = &'a (i64, Arc<str>)>,
        weight: impl Fn(&V) -> usize,
    ) -> (Vec<&'a Entry<V>>, String) {
        let (mut taken, mut bytes, mut last) = (Vec::new(), 0, None);
        for place in places.by_ref() {
            let Some(entry) = self.entries.get(&place.1) else { continue };
            bytes += weight(&entry.value);
            let full = taken.len() >= page.limit as usize || bytes > page.bytes as usize;
            if full && !taken.is_empty() {
                return (taken, last.map(|it| self.cursor(it)).unwrap_or_default());
            }
            taken.push(entry);
            last = Some(place);
        }
        (taken, String::new())
    }

    fn cursor(&self, (score, key): &(i64, Arc<str>)) -> String {
        match self.ordered {
            true => format!("{score}{SEPARATOR}{key}"),
            false => key.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(offset: u64, score: i64) -> Entry<u64> {
        let (at, version) = (Time::from_millis(offset), KeyVersion::default());
        Entry { offset, record: offset, at, score, version, value: offset }
    }

    fn page(cursor: &str, limit: u32) -> Page {
        let cursor = cursor.into();
        Page { key: None, cursor, limit, bytes: u32::MAX, ascending: false }
    }

    fn all(state: &State<u64>, limit: u32, ascending: bool) -> Vec<u64> {
        let (mut offsets, mut cursor) = (Vec::new(), String::new());
        loop {
            let wanted = Page { ascending, ..page(&cursor, limit) };
            let (entries, next) = state.page(&wanted, |_| 1);
            assert!(entries.len() <= limit as usize);
            offsets.extend(entries.iter().map(|it| it.offset));
            if next.is_empty() {
                return offsets;
            }
            cursor = next;
        }
    }

    #[test]
    fn entries_come_by_key_or_by_score() {
        let mut plain = State::new(false, None);
        let mut ordered = State::new(true, None);
        for (offset, key, score) in [(1, "c", 5), (2, "a", 9), (3, "b", -2), (4, "d", 5)] {
            plain.put(key, entry(offset, score));
            ordered.put(key, entry(offset, score));
        }
        for limit in 1..6 {
            assert_eq!(all(&plain, limit, false), [2, 3, 1, 4]);
            assert_eq!(all(&ordered, limit, false), [2, 4, 1, 3]);
            assert_eq!(all(&ordered, limit, true), [3, 1, 4, 2]);
        }
    }

    #[test]
    fn a_page_is_bounded_in_bytes_but_never_empty() {
        let mut state = State::new(false, None);
        (1..=4).for_each(|it| state.put(&it.to_string(), entry(it, 0)));
        let wanted = Page { bytes: 5, ..page("", 100) };
        let sizes = |weight: usize| state.page(&wanted, |_| weight).0.len();
        assert_eq!([1, 2, 5, 9].map(sizes), [4, 2, 1, 1]);
    }

    #[test]
    fn a_key_that_is_put_again_expires_later() {
        let ttl = Duration::from_millis(10);
        let mut state = State::new(false, Some(ttl));
        state.put("a", entry(1, 0));
        state.put("b", entry(2, 0));
        state.put("a", entry(5, 0));
        assert_eq!(state.next_expiry(), Some(Time::from_millis(12)));
        assert_eq!(state.expired(Time::from_millis(11)), None);
        assert_eq!(state.expired(Time::from_millis(12)).map(|it| &**it), Some("b"));
        state.remove("b");
        assert_eq!(state.next_expiry(), Some(Time::from_millis(15)));
        state.clear();
        assert_eq!((state.next_expiry(), state.len()), (None, 0));
    }

    proptest! {
        /// Whatever is done, all indexes have the same entries, and pages bring each of them once.
        #[test]
        fn indexes_agree(steps in proptest::collection::vec((0u8..8, any::<bool>(), -3i64..3), 0..60)) {
            let mut state = State::new(true, Some(Duration::from_millis(7)));
            let mut model = BTreeMap::new();
            for (offset, (key, puts, score)) in (1..).zip(steps) {
                let key = key.to_string();
                if puts {
                    state.put(&key, entry(offset, score));
                    model.insert(key, offset);
                } else {
                    prop_assert_eq!(state.remove(&key).map(|it| it.offset), model.remove(&key));
                }
            }
            prop_assert_eq!(state.len(), model.len());
            prop_assert_eq!(state.order.len(), model.len());
            prop_assert_eq!(state.expiry.len(), model.len());
            let records: Vec<u64> = state.records.keys().copied().collect();
            let mut expected: Vec<u64> = model.values().copied().collect();
            expected.sort_unstable();
            prop_assert_eq!(&records, &expected);
            let mut paged = all(&state, 2, true);
            paged.sort_unstable();
            prop_assert_eq!(paged, expected);
        }
    }
}
