//! A simulated client: where it is, what it has seen, and what it may never see.

use std::collections::{BTreeMap, BTreeSet};

use roomcast::room::types::{
    ClientId, Publication, Recovery, RoomName, Since, SocketRef, Subscribed,
};

/// What every client has seen at each position: they must all have seen the same.
pub type Seen = BTreeMap<(RoomName, String, u64), String>;

/// What a publication says, without what follows the bar and only makes it large.
pub fn said(data: &[u8]) -> String {
    let text = data.split(|it| *it == b'|').next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere; it will come back.
    Away,
    /// It has asked to enter its room.
    Subscribing,
    /// It is in.
    In,
}

/// What a client was told of another one since it entered.
#[derive(Debug, Default, Clone, Copy)]
pub struct Pushes {
    /// How often it came.
    pub joins: u32,
    /// How often it went.
    pub leaves: u32,
    /// Whether it is in, by what was told last.
    pub is_in: bool,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its connection id, new with every connection.
    pub id: ClientId,
    /// Its socket.
    pub socket: SocketRef,
    /// Index of its node.
    pub node: usize,
    /// Its room.
    pub room: RoomName,
    /// Where it is.
    pub place: Place,
    /// Where it was in the stream last.
    position: Option<(String, u64)>,
    /// What it has seen since it was last told of a gap.
    unbroken: BTreeSet<String>,
    /// How often it was told that it may have missed something.
    pub gaps_told: u32,
    /// Who came and went, as it was told since it entered.
    pub pushes: BTreeMap<ClientId, Pushes>,
}

impl Client {
    /// A client that was nowhere yet.
    pub fn new(room: RoomName) -> Self {
        Self {
            id: ClientId(0),
            socket: SocketRef { worker: 0, slot: 0, generation: 0 },
            node: 0,
            room,
            place: Place::Away,
            position: None,
            unbroken: BTreeSet::new(),
            gaps_told: 0,
            pushes: BTreeMap::new(),
        }
    }

    /// Where it wants to go on.
    pub fn since(&self) -> Option<Since> {
        let (epoch, offset) = self.position.clone()?;
        Some(Since { epoch, offset })
    }

    /// Its position, as it knows it.
    pub fn position(&self) -> Option<(String, u64)> {
        self.position.clone()
    }

    /// It is let in.
    pub fn subscribed(&mut self, subscribed: &Subscribed, seen: &mut Seen) -> Result<(), String> {
        self.place = Place::In;
        self.pushes.clear();
        let top = subscribed.position.ok_or("a room with history gave no position")?;
        match &subscribed.recovery {
            Recovery::Recovered(missed) => {
                let (_, at) = self.position.take().ok_or("recovered without having asked")?;
                self.position = Some((top.epoch.to_string(), at));
                for publication in missed {
                    self.publication(publication, seen)?;
                }
                let reached = self.position.as_ref().map(|(_, at)| *at);
                if reached != Some(top.offset) {
                    return Err(format!("recovered to {reached:?}, but the stream is at {top:?}"));
                }
            }
            Recovery::Failed => {
                self.gaps_told += 1;
                self.unbroken.clear();
                self.position = Some((top.epoch.to_string(), top.offset));
            }
            Recovery::NotAsked => self.position = Some((top.epoch.to_string(), top.offset)),
        }
        Ok(())
    }

    /// It is told who came, or went.
    pub fn pushed(&mut self, who: ClientId, is_in: bool) {
        let pushes = self.pushes.entry(who).or_default();
        pushes.joins += u32::from(is_in);
        pushes.leaves += u32::from(!is_in);
        pushes.is_in = is_in;
    }

    /// It gets a publication.
    pub fn publication(&mut self, new: &Publication, seen: &mut Seen) -> Result<(), String> {
        let (epoch, at) =
            self.position.as_mut().ok_or("a publication before the subscribe reply")?;
        if new.offset != *at + 1 {
            return Err(format!("a silent gap or a repeat: at {at}, got {}", new.offset));
        }
        *at = new.offset;
        let data = said(&new.data);
        let place = (self.room.clone(), epoch.clone(), new.offset);
        if let Some(other) = seen.insert(place, data.clone())
            && other != data
        {
            return Err(format!("{epoch}/{}: {data} here, {other} for another", new.offset));
        }
        if !self.unbroken.insert(data.clone()) {
            return Err(format!("{data} twice, and no gap was told in between"));
        }
        Ok(())
    }
}
