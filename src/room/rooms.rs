//! A node's rooms by their names: one table for each slot, so that what happens to a slot happens to one table.
//!
//! Names come from clients. The hash has a secret key, so names that collide can't be made up.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::BuildHasher,
};

use siphasher::sip::SipHasher13;

use super::{room::Room, types::RoomName};
use crate::cluster::{
    node::mix,
    placement::{self, SLOTS},
    slot_set::SlotSet,
};

#[derive(Debug, Clone, Copy)]
pub(super) struct Keyed(u64, u64);

impl Keyed {
    pub(super) fn new(secret: u64) -> Self {
        Self(mix(secret), mix(!secret))
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> Self::Hasher {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// Boxed, so that a table that has just grown is not mostly empty rooms.
type Table = HashMap<RoomName, Box<Room>, Keyed>;

/// The rooms of one node.
#[derive(Debug)]
pub struct Rooms {
    tables: Vec<Table>,
    /// The slots that have any.
    occupied: SlotSet,
    count: usize,
}

impl Rooms {
    /// No rooms. `secret` is the hash's key.
    pub fn new(secret: u64) -> Self {
        let keyed = Keyed::new(secret);
        let tables = (0..SLOTS).map(|_| HashMap::with_hasher(keyed));
        Self { tables: tables.collect(), occupied: SlotSet::default(), count: 0 }
    }

    fn table(&self, name: &str) -> &Table {
        &self.tables[usize::from(placement::slot(name))]
    }

    fn table_mut(&mut self, name: &str) -> &mut Table {
        &mut self.tables[usize::from(placement::slot(name))]
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The room of this name.
    pub fn get(&self, name: &str) -> Option<&Room> {
        self.table(name).get(name).map(Box::as_ref)
    }

    /// The room of this name.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Room> {
        self.table_mut(name).get_mut(name).map(Box::as_mut)
    }

    /// The room of this name, made by `new` if there is none yet and it makes one.
    pub fn get_or_insert(
        &mut self,
        name: &RoomName,
        new: impl FnOnce() -> Option<Room>,
    ) -> Option<&mut Room> {
        let slot = placement::slot(name);
        match self.tables[usize::from(slot)].entry(name.clone()) {
            Entry::Occupied(room) => Some(room.into_mut()),
            Entry::Vacant(place) => {
                let room = place.insert(Box::new(new()?));
                self.count += 1;
                self.occupied.insert(slot);
                Some(room)
            }
        }
    }

    /// Removes a room.
    pub fn remove(&mut self, name: &str) -> Option<Box<Room>> {
        let slot = placement::slot(name);
        let table = &mut self.tables[usize::from(slot)];
        let room = table.remove(name)?;
        if table.is_empty() {
            table.shrink_to_fit();
            self.occupied.remove(slot);
        }
        self.count -= 1;
        Some(room)
    }

    /// The slots that have any.
    pub fn occupied(&self) -> &SlotSet {
        &self.occupied
    }

    /// The names of a slot's rooms.
    pub fn of_slot(&self, slot: u16) -> impl ExactSizeIterator<Item = &RoomName> {
        self.tables[usize::from(slot)].keys()
    }

    /// Every room.
    pub fn iter(&self) -> impl Iterator<Item = (&RoomName, &Room)> {
        self.tables.iter().flatten().map(|(name, room)| (name, room.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::room::home::Home;

    #[test]
    fn a_room_fits_the_allocations_that_are_counted_on() {
        // By the allocator's size classes. A node may know a million rooms: what most of them don't need is boxed.
        assert!(size_of::<Room>() <= 384, "{}", size_of::<Room>());
        assert!(size_of::<Home>() <= 192, "{}", size_of::<Home>());
    }
}
