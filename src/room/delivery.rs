//! Delivery options of members of a room: publications with certain tags only, or as deltas. One worker's members
//! of one room.
//!
//! In: who comes with which option, who goes, and each publication that all of them are offered. Out: in which form
//! each gets it, if at all. Equal filters are evaluated once. A room whose members have no options needs none of this.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use rustc_hash::FxHashMap;

use super::{filter::Filter, types::Publication};

/// The delivery option of a member that does not get every publication in full.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryOption {
    /// Only what this filter lets through.
    Filter(Arc<Filter>),
    /// Publications as changes of the one before.
    Delta,
}

impl DeliveryOption {
    /// Which publications are wanted, if not all.
    pub fn filter(&self) -> Option<&Filter> {
        match self {
            Self::Filter(filter) => Some(filter),
            Self::Delta => None,
        }
    }
}

/// What a member is to get of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Form {
    /// All of it, as everyone does.
    Plain,
    /// All of it, in the form that changes can follow.
    Base,
    /// What is new against the publication before, which it has.
    Delta,
}

impl Form {
    /// How many there are.
    pub const COUNT: usize = 3;
}

/// The delivery options of a room's members, by their slots.
#[derive(Debug, Default)]
pub struct DeliveryOptions {
    of: FxHashMap<u32, Kept>,
    filters: Vec<Known>,
    /// Clients choose the filters, so the hash has a secret key.
    by_filter: HashMap<Arc<Filter>, usize>,
    unused: Vec<usize>,
    /// How many want deltas.
    deltas: usize,
    /// What those who want deltas got last.
    last: Option<Arc<Publication>>,
    /// The publication at hand is one of a key of a map: whoever is there has the value before it.
    is_keyed: bool,
}

#[derive(Debug, Clone, Copy)]
enum Kept {
    Filter(usize),
    /// Whether it has the last publication.
    Delta(bool),
}

/// A filter of one member or more.
#[derive(Debug)]
struct Known {
    filter: Arc<Filter>,
    members: usize,
    /// Whether the publication at hand gets through.
    lets_through: bool,
}

impl DeliveryOptions {
    /// A member comes.
    pub fn enter(&mut self, slot: u32, option: &DeliveryOption) {
        self.leave(slot);
        let kept = match option {
            DeliveryOption::Filter(filter) => Kept::Filter(self.know(filter)),
            DeliveryOption::Delta => {
                self.deltas += 1;
                Kept::Delta(false)
            }
        };
        self.of.insert(slot, kept);
    }

    fn know(&mut self, filter: &Arc<Filter>) -> usize {
        let index = match self.by_filter.entry(filter.clone()) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(place) => {
                let known = Known { filter: filter.clone(), members: 0, lets_through: false };
                let index = self.unused.pop().unwrap_or(self.filters.len());
                match self.filters.get_mut(index) {
                    Some(unused) => *unused = known,
                    None => self.filters.push(known),
                }
                *place.insert(index)
            }
        };
        self.filters[index].members += 1;
        index
    }

    /// A member goes. Returns whether no option is left.
    pub fn leave(&mut self, slot: u32) -> bool {
        match self.of.remove(&slot) {
            Some(Kept::Filter(index)) => {
                let known = &mut self.filters[index];
                known.members -= 1;
                if known.members == 0 {
                    self.by_filter.remove(&known.filter);
                    self.unused.push(index);
                }
            }
            Some(Kept::Delta(_)) => {
                self.deltas -= 1;
                self.last.take_if(|_| self.deltas == 0);
            }
            None => {}
        }
        self.of.is_empty()
    }

    /// Every member is about to be offered a publication. Returns the one before, as far as it can be the
    /// base of a delta.
    pub fn offer(&mut self, publication: &Arc<Publication>) -> Option<Arc<Publication>> {
        for known in self.filters.iter_mut().filter(|it| it.members > 0) {
            known.lets_through = known.filter.matches(&publication.tags);
        }
        self.is_keyed = publication.keyed.is_some();
        let next = (self.deltas > 0).then(|| publication.clone());
        let before = match &publication.keyed {
            None => std::mem::replace(&mut self.last, next),
            Some(keyed) => keyed.before.clone(),
        };
        before.filter(|_| publication.delta)
    }

    /// How a member gets the publication that was offered; none: not at all. `has_base` says whether there is
    /// one before it. Call it for every member, or some will miss the base of the next.
    pub fn form(&mut self, slot: u32, has_base: bool) -> Option<Form> {
        match self.of.get_mut(&slot) {
            None => Some(Form::Plain),
            Some(Kept::Filter(index)) => self.filters[*index].lets_through.then_some(Form::Plain),
            Some(Kept::Delta(ready)) => {
                let ready = std::mem::replace(ready, true) || self.is_keyed;
                Some(if ready && has_base { Form::Delta } else { Form::Base })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::{filter::Test, types::Keyed};

    fn filter(value: &str) -> DeliveryOption {
        let filter = Filter::Tag("k".into(), Test::Equals(value.into()));
        DeliveryOption::Filter(Arc::new(filter))
    }

    fn publication(tag: &str, delta: bool) -> Arc<Publication> {
        let tags = [("k".to_owned(), tag.to_owned())].into_iter().collect();
        Arc::new(Publication { tags, delta, ..Publication::default() })
    }

    #[test]
    fn a_filter_keeps_from_its_member_what_does_not_match() {
        let mut options = DeliveryOptions::default();
        options.enter(1, &filter("a"));
        options.enter(2, &filter("b"));
        options.enter(3, &filter("a"));
        options.offer(&publication("a", false));
        let forms = [0, 1, 2, 3].map(|slot| options.form(slot, false).is_some());
        assert_eq!(forms, [true, true, false, true], "a member without an option gets everything");
    }

    #[test]
    fn equal_filters_are_one_and_end_with_their_last_member() {
        let mut options = DeliveryOptions::default();
        options.enter(1, &filter("a"));
        options.enter(2, &filter("a"));
        options.enter(3, &filter("b"));
        assert_eq!((options.filters.len(), options.by_filter.len()), (2, 2));
        assert!(!options.leave(1) && !options.leave(2));
        options.enter(4, &filter("c"));
        assert_eq!(
            (options.filters.len(), options.by_filter.len()),
            (2, 2),
            "its place is used again"
        );
        options.offer(&publication("c", false));
        assert_eq!([3, 4].map(|slot| options.form(slot, false)), [None, Some(Form::Plain)]);
        assert!(!options.leave(9) && !options.leave(3) && options.leave(4));
    }

    #[test]
    fn whoever_is_in_a_map_has_the_value_before() {
        let of = |before: Option<Arc<Publication>>| {
            let keyed = Some(Box::new(Keyed { key: "a".into(), before, ..Keyed::default() }));
            Arc::new(Publication { delta: true, keyed, ..Publication::default() })
        };
        let mut options = DeliveryOptions::default();
        options.enter(1, &DeliveryOption::Delta);
        let mut offer = |before| {
            let base = options.offer(&of(before)).is_some();
            options.form(1, base)
        };
        assert_eq!(offer(Some(Arc::default())), Some(Form::Delta), "also as it has just come");
        assert_eq!(offer(None), Some(Form::Base), "it had no value");
    }

    #[test]
    fn a_delta_follows_what_the_member_has() {
        let mut options = DeliveryOptions::default();
        options.enter(1, &DeliveryOption::Delta);
        let offer = |options: &mut DeliveryOptions, slots: &[u32], delta| {
            let base = options.offer(&publication("", delta)).is_some();
            let forms = slots.iter().map(|slot| options.form(*slot, base));
            forms.collect::<Option<Vec<_>>>().expect("all get it")
        };
        assert_eq!(offer(&mut options, &[1], true), [Form::Base], "the first has none before it");
        assert_eq!(offer(&mut options, &[1], true), [Form::Delta]);
        options.enter(2, &DeliveryOption::Delta);
        assert_eq!(offer(&mut options, &[0, 1, 2], true), [Form::Plain, Form::Delta, Form::Base]);
        assert_eq!(
            offer(&mut options, &[1, 2], false),
            [Form::Base; 2],
            "not as the publisher says"
        );
        assert_eq!(offer(&mut options, &[1, 2], true), [Form::Delta; 2]);
        options.enter(2, &DeliveryOption::Delta);
        assert_eq!(offer(&mut options, &[1, 2], true), [Form::Delta, Form::Base], "it came anew");
        options.leave(1);
        assert!(options.leave(2) && options.last.is_none());
    }
}
