//! What a store should hold: rooms in a map.

use std::collections::BTreeMap;

use super::super::{Op, Query, Store, files::Files};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    pub first: u64,
    pub next: u64,
    /// There is an order, not only a head.
    pub placed: bool,
    pub head: Option<Vec<u8>>,
    pub entries: BTreeMap<u64, (u64, Vec<u8>)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model(pub BTreeMap<String, Room>);

impl Model {
    /// What the ops make of it. They are such as a store does not refuse.
    pub fn apply(&mut self, ops: &[Op<'_>]) {
        for op in ops {
            self.apply_one(op);
        }
    }

    fn apply_one(&mut self, op: &Op<'_>) {
        let there = self.0.contains_key(op.room());
        match *op {
            Op::Truncate { .. } | Op::Repair { .. } | Op::Remove { .. } if !there => return,
            _ => {}
        }
        let room = self.0.entry(op.room().to_owned()).or_default();
        match *op {
            Op::Head { bytes, .. } => room.head = Some(bytes.to_vec()),
            Op::Append { offset, time, bytes, .. } => {
                if !room.placed {
                    (room.first, room.placed) = (offset, true);
                }
                room.next = offset + 1;
                room.entries.insert(offset, (time, bytes.to_vec()));
            }
            Op::Trim { first, .. } => {
                if !room.placed {
                    (room.placed, room.first, room.next) = (true, first, first);
                }
                room.first = room.first.max(first);
                room.next = room.next.max(room.first);
                room.entries.retain(|it, _| *it >= first);
            }
            Op::Truncate { last, .. } => {
                if last + 1 < room.next {
                    room.next = last + 1;
                    room.first = room.first.min(room.next);
                    room.entries.retain(|it, _| *it <= last);
                }
            }
            Op::Repair { .. } => {}
            Op::Remove { .. } => _ = self.0.remove(op.room()),
        }
    }

    /// What a store holds, by all the ways there are to ask it.
    pub fn of(store: &mut Store<impl Files>) -> Result<Self, String> {
        let mut model = Self::default();
        let mut after: Option<String> = None;
        loop {
            let page = store.rooms(after.as_deref(), 3).map_err(|it| it.to_string())?;
            let Some(last) = page.last() else { break };
            after = Some(last.name.to_string());
            for info in page {
                let room = room(store, &info.name)?;
                if (info.first, info.next, info.headed)
                    != (room.first, room.next, room.head.is_some())
                {
                    return Err(format!("{info:?} is not {room:?}"));
                }
                if model.0.insert(info.name.to_string(), room).is_some() {
                    return Err(format!("{} is twice in the list", info.name));
                }
            }
        }
        Ok(model)
    }

    /// Whether `other` is the same, but that rooms may have been trimmed to so many publications.
    pub fn is(&self, other: &Self, keep: Option<u64>) -> bool {
        let same = |(mine, theirs): (&Room, &Room)| {
            if mine == theirs {
                return true;
            }
            let Some(keep) = keep else { return false };
            let mut trimmed = mine.clone();
            trimmed.first = mine.first.max(mine.next.saturating_sub(keep));
            trimmed.entries.retain(|it, _| *it >= trimmed.first);
            trimmed == *theirs
        };
        self.0.keys().eq(other.0.keys()) && self.0.values().zip(other.0.values()).all(same)
    }
}

/// A room as the store has it: read forth and back, in pages.
fn room(store: &mut Store<impl Files>, name: &str) -> Result<Room, String> {
    let mut found =
        Room { head: store.head(name).map_err(|it| it.to_string())?, ..Room::default() };
    let mut ways = Vec::new();
    for reverse in [false, true] {
        let (mut all, mut since) = (Vec::new(), None);
        loop {
            let query = Query { since, reverse, count: 5, bytes: 300 };
            let page = store.read(name, &query).map_err(|it| it.to_string())?;
            (found.first, found.next) = (page.first, page.next);
            if let Some((first, end)) = page.damaged.filter(|_| page.entries.is_empty()) {
                return Err(format!("{name}: {first}..{end} is damaged"));
            }
            let Some(last) = page.entries.last() else { break };
            since = Some(last.offset);
            all.extend(page.entries);
        }
        ways.push(all);
    }
    ways[1].reverse();
    if ways[0] != ways[1] {
        return Err(format!("{name}: forth {:?}, back {:?}", ways[0], ways[1]));
    }
    found.entries =
        ways.swap_remove(0).into_iter().map(|it| (it.offset, (it.time, it.bytes))).collect();
    found.placed = found.next > 0;
    Ok(found)
}
