//! What the rooms of one node say to those of another.
//!
//! How it is written is for [`crate::mesh::wire`]. What can be large goes in pages: see [`super::transfer`].

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    idempotency::Aged,
    line::{Line, Root, Standing},
    stream::{Entry, ForwardId},
    types::{
        Answer, ClientId, ClientInfo, Epoch, Finding, HomeRequest, Position, Publication, RoomName,
        Survey, Version,
    },
};
use crate::cluster::{
    mesh_version::{self, MeshVersion},
    node::{NodeId, Phase},
    slots::{Claim, Term},
};

/// What the rooms of one node say to those of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// About one room.
    Room(RoomName, RoomMessage),
    /// About who owns which slots.
    Slots(SlotMessage),
    /// How far the sender is in its life. Said on the link, so that no claim comes before it.
    Phase(Phase),
    /// How far the receiver is in its life, as the sender has heard: it may not have heard so itself.
    YourPhase(Phase),
    /// So many bytes of pages are dealt with, and may be followed by others.
    Credit(u32),
    /// The sender has turned to every home that it needs, after the receiver's claim of this number (0: since
    /// there is a link).
    Settled(u64),
    /// A question to every node.
    Survey(u64, Survey),
    /// The answer to it.
    Finding(u64, Finding),
    /// A part of the answer to it: the rest follows.
    FindingPart(u64, Finding),
    /// Answered once all is dealt with that came before.
    Ping(u64),
    /// The answer to the ping of this number.
    Pong(u64),
}

impl Message {
    /// The version of what nodes say to each other since which there is such a message: a link that uses an
    /// older one must not carry it. See [`crate::cluster::mesh_version`].
    pub fn since(&self) -> MeshVersion {
        match self {
            Self::Room(
                _,
                RoomMessage::FetchPublication { .. } | RoomMessage::Publication { .. },
            ) => mesh_version::REPAIRS,
            _ => mesh_version::FIRST,
        }
    }
}

impl Message {
    /// What stands for the answer of a peer that can't read this, since it is older; none: there is something older to be
    /// said instead.
    pub fn answer_of_older(&self) -> Option<Self> {
        match self {
            Self::Room(room, RoomMessage::FetchPublication { id, .. }) => {
                Some(Self::Room(room.clone(), RoomMessage::NotHome(Refused::Fetch(*id))))
            }
            _ => None,
        }
    }
}

/// What nodes say about who owns which slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotMessage {
    /// These are mine, or are to be.
    Claim(Claim),
    /// To a claim: not all of them. What is granted is followed by inventories.
    Refused {
        /// The number of the claim.
        claim: u64,
        /// The slots, and the terms that are in the way.
        slots: Vec<(u16, Term)>,
    },
    /// To a claim: what I hold in the slots that are yours from here on. A page.
    Inventory {
        /// The number of the claim.
        claim: u64,
        /// The rooms, and what I have of each.
        rooms: Vec<(RoomName, Held)>,
        /// After the rooms: claims of mine that came to nothing, or that end now.
        ended: Vec<(u16, Term)>,
        /// Quorum, with the last page: the slots of which I may have forgotten something.
        unsure: Vec<u16>,
        /// This is all.
        last: bool,
    },
    /// Quorum: I have just started and have forgotten what I have answered. What do you know?
    Forgot,
    /// The answer: the highest term of every slot, and whether I have forgotten nothing about it.
    Known(Vec<(Term, bool)>),
    /// Quorum, to the owners of these slots: do others have all that was acknowledged in them?
    Ask(Vec<(u16, Term)>),
    /// The answer: in these they have, so it does no harm that you have forgotten them.
    Sure(Vec<(u16, Term)>),
}

/// What a node holds of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// How far its copy reaches.
    pub standing: Standing,
    /// It was home until the claim of this term.
    pub given: Option<Term>,
}

/// What nodes say about one room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoomMessage {
    /// To the home: do this.
    Request {
        /// The sender's number for it. Numbers rise.
        id: u64,
        /// Which run of requests it belongs to: a run ends with the first that is refused.
        run: u64,
        /// Its place in the run, from 0. The home takes a run in order or not at all.
        seq: u32,
        /// What is to be done.
        ask: HomeRequest,
    },
    /// From the home, to a request.
    Answer {
        /// The number that it answers.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// To the home: send me what is said. [`Self::Clients`] follow.
    Attach {
        /// The sender's number for it.
        id: u64,
        /// What I have already.
        have: Option<Have>,
        /// You have invited me to be a successor.
        invited: bool,
    },
    /// To the home: clients of mine in the room. A page.
    Clients {
        /// The number of the attach.
        id: u64,
        /// The clients.
        clients: Vec<Arc<ClientInfo>>,
        /// These are all.
        last: bool,
    },
    /// To the home: I need nothing more.
    Detach,
    /// To the home: a client of mine came.
    Join(Arc<ClientInfo>),
    /// To the home: a client of mine went.
    Leave(ClientId),
    /// I'm not the room's home (any more). Ask the node that is.
    NotHome(Refused),
    /// A part of the copy that was asked for, by an attach or a fetch.
    Page(Box<Page>),
    /// From the home: a publication.
    Deliver {
        /// Of the term that the home owns the slot in.
        count: u64,
        /// The epoch; none where nothing is kept.
        epoch: Option<Epoch>,
        /// The publication.
        entry: Entry,
    },
    /// Quorum, from the home: up to here a majority has what was delivered, so members may have it.
    Committed(u64),
    /// From the home: someone came, on this node.
    Joined(NodeId, Arc<ClientInfo>),
    /// From the home: someone went.
    Left(Arc<ClientInfo>),
    /// From the home: what was kept is forgotten.
    HistoryRemoved,
    /// From the home: you are a successor of mine. Attach, and say what you have.
    Invite,
    /// From the home: you are none any more, and others have what you have.
    Dismiss,
    /// To the home, from a successor: I have everything up to this offset.
    Has(u64),
    /// Give me your copy, under this number.
    Fetch(u64),
    /// From the home: others have what you hold.
    Release,
    /// From the home, to a request: a part of its answer, which ends with [`Self::Answer`].
    Part {
        /// The number of the request.
        id: u64,
        /// The part.
        answer: Answer,
    },
    /// From the home of a group's room: messages for these consumers, on this node.
    Push(Vec<(ClientId, Arc<Publication>)>),
    /// Give me this publication of your copy: mine can't be read any more. Since version 11.
    FetchPublication {
        /// The sender's number for it.
        id: u64,
        /// How its stream began.
        root: Root,
        /// The term of the newest publication in it.
        term: Term,
        /// The publication, and the epoch in which it was placed.
        at: Position,
    },
    /// The answer to it, if it is there and the same. Since version 11.
    Publication {
        /// The number that it answers.
        id: u64,
        /// How old it is.
        age: Duration,
        /// The publication, and what identifies repeats of it.
        entry: Entry,
    },
}

/// What a mirror has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Have {
    /// How far it reaches.
    pub position: Position,
    /// The term of the newest publication in it.
    pub term: Term,
}

/// A part of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The number of the attach or fetch.
    pub id: u64,
    /// With the first page: how it begins.
    pub begin: Option<Begin>,
    /// What is in it.
    pub items: Vec<Item>,
    /// With the last page: the end.
    pub end: Option<End>,
}

/// How a copy begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begin {
    /// The room keeps nothing, or there is nothing.
    Nothing,
    /// You are on my line: what you have not follows.
    Follow {
        /// Offset of the oldest publication that is still kept.
        first: u64,
    },
    /// You are not, or have nothing: begin with this.
    Afresh {
        /// Epoch and lineage.
        line: Line,
        /// How far it reaches.
        standing: Standing,
        /// Offset of the oldest publication that is still kept.
        first: u64,
    },
    /// What you have is on my line up to here: keep that, and what follows it is this.
    Rejoin {
        /// Epoch and lineage.
        line: Line,
        /// How far it reaches.
        standing: Standing,
        /// The last offset that is the same.
        through: u64,
    },
}

/// How a copy ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Where the stream stands, and the term of its newest publication.
    pub have: Option<Have>,
    /// Quorum: up to where a majority has it.
    pub committed: u64,
    /// How often someone has come or gone.
    pub attendance: u64,
}

/// One thing in a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Item {
    /// A publication and its age. They come in order.
    Publication(Duration, Arc<Publication>),
    /// An idempotency key, which follows its publication.
    Key(Aged),
    /// Which forward a publication was, which it follows.
    Forward(ForwardId, u64),
    /// The last forward of a node that was placed.
    Origin(NodeId, u64),
    /// The version that the room is at.
    Version(Version),
    /// A client, and the node that it is on.
    Client(NodeId, Arc<ClientInfo>),
}

impl Item {
    /// Whether it is a publication.
    pub fn is_publication(&self) -> bool {
        matches!(self, Self::Publication(..))
    }

    /// The bytes that it takes on a link, about.
    pub fn weight(&self) -> usize {
        match self {
            Self::Publication(_, publication) => publication.weight(),
            Self::Key((_, key, _)) => key.len() + 24,
            Self::Forward(..) | Self::Origin(..) => 24,
            Self::Version(version) => version.epoch.len() + 16,
            Self::Client(_, info) => info.weight() + 40,
        }
    }
}

/// What a home refused, so that the sender knows what to send to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The attach of this number, from its beginning or from now on.
    Attach(u64),
    /// This run of requests, all that are not answered.
    Run(u64),
    /// The fetch of this number, of a copy or of a publication: it is not here (any more).
    Fetch(u64),
    /// A delivery: another has claimed the slot in this term.
    Delivery(Term),
}
