//! A room that a client is in, or is about to be: as small as it can be, since there is one for each of very many.

use std::sync::Arc;

use bytes::Bytes;

use super::maps::{Entering, StandIn};
use crate::{
    queue::rights::Rights,
    room::{
        delivery::DeliveryOption,
        types::{ClientInfo, RoomName, Since},
    },
};

/// A room that the client is in, or is about to be.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) room: RoomName,
    /// Boxed, since most have none.
    pub(super) more: Option<Box<More>>,
}

/// What a subscription has only for a while, or seldom.
#[derive(Debug, Default)]
pub(super) struct More {
    /// Until the room has answered.
    pub(super) pending: Option<Pending>,
    /// When it ends unless it is refreshed, in Unix time.
    pub(super) expires_at: Option<i64>,
    /// The server has put the client there.
    pub(super) server_side: bool,
    /// Who the client is, if it is somebody else here.
    pub(super) info: Option<Arc<ClientInfo>>,
    /// What it may do with the group that it consumes of.
    pub(super) rights: Rights,
    /// What stands for the client in maps.
    pub(super) stand_ins: Vec<StandIn>,
    /// Its client tracks keys.
    pub(super) polled: bool,
    /// A backend's stream brings what the client gets, beside what is published in the room.
    pub(super) stream: Option<Stream>,
}

/// A backend's stream for one subscriber.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stream {
    /// The number under which it was opened.
    pub(super) number: u32,
    /// What the client publishes goes there.
    pub(super) both_ways: bool,
}

impl More {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_none()
            && self.expires_at.is_none()
            && !self.server_side
            && self.info.is_none()
            && self.rights == Rights::default()
            && self.stand_ins.is_empty()
            && !self.polled
            && self.stream.is_none()
    }
}

/// Who wants the client in a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Initiator {
    /// The client, by the command of this number.
    Client(u32),
    /// The server, as the client connects.
    Connect,
    /// The application, later.
    Application,
}

impl Initiator {
    /// The number that the room's answer bears. Commands of clients have none that is 0.
    pub(super) fn id(self) -> u32 {
        match self {
            Self::Client(id) => id,
            Self::Connect | Self::Application => 0,
        }
    }
}

/// What a subscribe is about, until the room has answered it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) initiator: Initiator,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) since: Option<Since>,
    pub(super) must_recover: bool,
    pub(super) data: Bytes,
    pub(super) delivery: Option<DeliveryOption>,
    /// What it gets in a map.
    pub(super) map: Option<Box<Entering>>,
}

impl Subscription {
    /// Whether the client knows that it is there.
    pub(super) fn is_live(&self) -> bool {
        self.pending().is_none()
    }

    /// When it ends unless it is refreshed, in Unix time.
    pub(super) fn expires_at(&self) -> Option<i64> {
        self.more.as_ref()?.expires_at
    }

    pub(super) fn pending(&self) -> Option<&Pending> {
        self.more.as_ref()?.pending.as_ref()
    }

    /// What the client may do with the group that it consumes of.
    pub(super) fn rights(&self) -> Rights {
        self.more.as_ref().map(|it| it.rights).unwrap_or_default()
    }

    /// What stands for the client in maps.
    pub(super) fn stand_ins(&self) -> &[StandIn] {
        self.more.as_ref().map_or(&[], |it| &it.stand_ins)
    }

    pub(super) fn is_server_side(&self) -> bool {
        self.more.as_ref().is_some_and(|it| it.server_side)
    }

    /// Whether its client tracks keys.
    pub(super) fn is_polled(&self) -> bool {
        self.more.as_ref().is_some_and(|it| it.polled)
    }

    /// The backend's stream that is for it.
    pub(super) fn stream(&self) -> Option<Stream> {
        self.more.as_ref()?.stream
    }

    pub(super) fn take_pending(&mut self) -> Option<Pending> {
        let pending = self.more.as_mut()?.pending.take();
        self.more.take_if(|it| it.is_empty());
        pending
    }
}
