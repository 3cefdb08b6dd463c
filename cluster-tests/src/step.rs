//! A scenario's words: steps that say what they do.
//!
//! A test writes [`Step`]s, [`crate::world::World`] plays them, and a failure
//! reads as the story of what happened.

use std::fmt;
use std::time::Duration;

use crate::hosts::Cut;
use crate::node::node_name;
use crate::sdk::{Format, Sdk};

/// One thing that happens in a scenario. Nodes are counted from 0 (named a, b, …).
#[derive(Clone, Debug)]
pub enum Step {
    /// A new client connects.
    Connect {
        /// Its name.
        client: &'static str,
        /// What it is made of.
        sdk: Sdk,
        /// How it talks.
        format: Format,
        /// To which node.
        node: usize,
    },
    /// A client subscribes and is confirmed.
    Subscribe {
        /// Who.
        client: &'static str,
        /// To what.
        room: &'static str,
    },
    /// A client leaves a room.
    Unsubscribe {
        /// Who.
        client: &'static str,
        /// From what.
        room: &'static str,
    },
    /// Clients publish `{"from", "seq"}` all at the same time, every message
    /// must be acknowledged.
    Publish {
        /// Who.
        clients: Vec<&'static str>,
        /// Where.
        room: &'static str,
        /// How many each.
        count: u64,
        /// Without waiting for each acknowledgement.
        pipelined: bool,
    },
    /// Waits until each client has got this many publications since it came.
    Receive {
        /// Who.
        clients: Vec<&'static str>,
        /// Where.
        room: &'static str,
        /// How many.
        count: usize,
    },
    /// A client's TCP connection is cut; it can't come back by itself.
    Unplug {
        /// Who.
        client: &'static str,
    },
    /// A client's connections go to another node from now on; waits until it is
    /// subscribed to the room again.
    MoveTo {
        /// Who.
        client: &'static str,
        /// The other node.
        node: usize,
        /// The room that it must be back in.
        room: &'static str,
    },
    /// From now on a client's connections go to another node; the present one stays.
    TurnTo {
        /// Who.
        client: &'static str,
        /// The other node.
        node: usize,
    },
    /// SIGKILL.
    Kill {
        /// Which node.
        node: usize,
    },
    /// SIGTERM; waits until the process has exited with status 0.
    Terminate {
        /// Which node.
        node: usize,
    },
    /// SIGSTOP.
    Pause {
        /// Which node.
        node: usize,
    },
    /// SIGCONT.
    Resume {
        /// Which node.
        node: usize,
    },
    /// One node more starts.
    Add,
    /// A node that ended starts again under its name.
    Restart {
        /// Which node.
        node: usize,
    },
    /// The network between the nodes breaks; see [`crate::world::World::on_hosts`].
    Cut(Cut),
    /// All cuts end.
    Heal,
    /// Every link of a node to others is reset.
    ResetLinks {
        /// Which node.
        node: usize,
    },
    /// What is wrong stays wrong for so long.
    Hold(Duration),
    /// Waits until all running nodes see each other.
    Converge,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { client, sdk, format, node } => {
                write!(f, "{client} ({sdk}, {format}) connects to node {}", node_name(*node))
            }
            Self::Subscribe { client, room } => write!(f, "{client} subscribes to {room}"),
            Self::Unsubscribe { client, room } => write!(f, "{client} leaves {room}"),
            Self::Publish { clients, room, count, pipelined } => {
                let how = if *pipelined { "at once" } else { "one by one" };
                let who = clients.join(", ");
                write!(f, "{who} publish {count} messages each to {room}, {how}")
            }
            Self::Receive { clients, room, count } => {
                write!(f, "{} have {count} messages of {room}", clients.join(", "))
            }
            Self::Unplug { client } => write!(f, "{client}'s cable is pulled"),
            Self::MoveTo { client, node, room } => {
                write!(f, "{client} comes back to {room} through node {}", node_name(*node))
            }
            Self::TurnTo { client, node } => {
                write!(f, "{client} will find node {} when it has to reconnect", node_name(*node))
            }
            Self::Kill { node } => write!(f, "node {} is killed", node_name(*node)),
            Self::Terminate { node } => write!(f, "node {} is asked to leave", node_name(*node)),
            Self::Pause { node } => write!(f, "node {} freezes", node_name(*node)),
            Self::Resume { node } => write!(f, "node {} thaws", node_name(*node)),
            Self::Add => write!(f, "a node joins"),
            Self::Restart { node } => write!(f, "node {} is started again", node_name(*node)),
            Self::Cut(cut) => write!(f, "{cut}"),
            Self::Heal => write!(f, "the network is whole again"),
            Self::ResetLinks { node } => {
                write!(f, "the links of node {} are reset", node_name(*node))
            }
            Self::Hold(time) => write!(f, "it stays so for {time:?}"),
            Self::Converge => write!(f, "all running nodes see each other"),
        }
    }
}
