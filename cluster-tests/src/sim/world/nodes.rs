//! The nodes: how they start, see and reach each other, and what becomes of what their cores say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use roomcast::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        view::View,
    },
    room::{
        messages::Message,
        options::{Namespaces, RoomOptions},
        registry::{In, Out, Settings, State},
        types::{ReplyTo, RoomName, SocketRef},
    },
    runtime::time::Time,
};

use super::{Happening, TICK, World};
use crate::sim::{Faults, mutants::Mutant};

/// How long a node can stand still before gossip takes it for dead.
pub(super) const UNHEARD: u64 = 3_000;

/// A node, whether it runs or not.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) state: Option<State>,
    /// Since when it stands still, and what has come in meanwhile.
    pub(super) frozen: Option<(u64, Vec<In>)>,
    /// Which sockets are in which room: what hubs know.
    pub(super) members: BTreeMap<RoomName, BTreeSet<SocketRef>>,
}

impl Node {
    pub(super) fn info(&self) -> NodeInfo {
        let address = ([127, 0, 0, 1], 1).into();
        NodeInfo {
            name: self.name.clone(),
            generation: self.generation,
            mesh: address,
            http: address,
            phase: Phase::Ready,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        self.info().id()
    }

    /// Whether the actor would tell the core now that time has passed.
    pub(super) fn is_due(&self, now: u64) -> bool {
        self.state.as_ref().is_some_and(|state| state.next_due() <= Time::from_millis(now))
    }
}

impl World {
    pub(super) fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.state.is_some() && node.id() == id)
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| self.nodes[*index].state.is_some()).collect()
    }

    pub(super) fn any_alive(&mut self) -> Option<usize> {
        let alive = self.alive();
        (!alive.is_empty()).then(|| alive[self.rng.usize(..alive.len())])
    }

    pub(super) fn start(&mut self, index: usize) {
        if self.nodes[index].state.is_some() {
            return;
        }
        let keeps = RoomOptions {
            presence: true,
            join_leave: true,
            webhooks: true,
            history_size: 1_000,
            history_ttl: Duration::from_secs(3_600),
            history_meta_ttl: Duration::from_secs(36_000),
            force_recovery: true,
            force_positioning: true,
            ..Default::default()
        };
        let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
        let node = &mut self.nodes[index];
        node.generation = self.now;
        node.members.clear();
        let seed = self.rng.u64(..);
        let settings = Settings { replicas: Mutant::replicas(self.mutant), ..Default::default() };
        let state = State::new(node.id(), Arc::new(namespaces), settings, seed);
        node.state = Some(state);
        let name = node.name.clone();
        self.tell(|| format!("{name} starts"));
        let phase = self.rng.u64(1..TICK);
        self.later(phase, Happening::Tick(index));
        self.everyone_looks();
    }

    /// Gossip takes its time, and a different one to each node.
    pub(super) fn everyone_looks(&mut self) {
        for node in 0..self.nodes.len() {
            let delay = self.rng.u64(1..400);
            self.later(delay, Happening::See(node));
        }
    }

    pub(super) fn see(&mut self, index: usize) -> Result<(), String> {
        if self.nodes[index].state.is_none() {
            return Ok(());
        }
        let me = self.nodes[index].id();
        let silent = |node: &Node| {
            node.frozen.as_ref().is_some_and(|(since, _)| self.now - since >= UNHEARD)
        };
        let here = self.nodes.iter().filter(|node| node.state.is_some());
        let here = here.filter(|node| node.id() == me || !silent(node));
        let here: Vec<NodeInfo> =
            here.filter(|node| !self.network.is_cut(me, node.id())).map(Node::info).collect();
        // Gossip may lose sight of one for a moment.
        let unseen = (self.faults == Faults::Everything && self.rng.u8(..10) == 0)
            .then(|| here[self.rng.usize(..here.len())].id())
            .filter(|it| *it != me);
        if unseen.is_some() {
            let delay = self.rng.u64(100..1_500);
            self.later(delay, Happening::See(index));
        }
        let view = View::new(here.into_iter().filter(|it| Some(it.id()) != unseen));
        let peers: Vec<NodeId> = view.nodes().keys().copied().filter(|id| *id != me).collect();
        self.input(index, In::View(view))?;
        for peer in peers {
            let delay = self.rng.u64(1..50);
            self.later(delay, Happening::Dial(me, peer));
        }
        Ok(())
    }

    pub(super) fn dial(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        let (Some(first), Some(second)) = (self.index(a), self.index(b)) else { return Ok(()) };
        if self.network.connect(a, b) {
            self.input(first, In::LinkUp(b))?;
            self.input(second, In::LinkUp(a))?;
        }
        Ok(())
    }

    pub(super) fn disconnect(&mut self, a: NodeId, b: NodeId) -> Result<(), String> {
        if self.network.disconnect(a, b) {
            for (node, peer) in [(a, b), (b, a)] {
                if let Some(index) = self.index(node) {
                    self.input(index, In::LinkDown(peer))?;
                }
            }
        }
        Ok(())
    }

    /// Gives a node an input and does what it says.
    pub(super) fn input(&mut self, node: usize, input: In) -> Result<(), String> {
        let now = Time::from_millis(self.now);
        if let Some((_, missed)) = &mut self.nodes[node].frozen {
            // Time does not pass for it, so it misses no ticks.
            if !matches!(input, In::Tick) {
                missed.push(input);
            }
            return Ok(());
        }
        let Some(state) = &mut self.nodes[node].state else { return Ok(()) };
        let outs = state.handle(input, now);
        for out in outs {
            self.outputs += 1;
            let spoiled = match self.mutant {
                None => vec![out],
                Some(mutant) => mutant.spoil(out, self.outputs),
            };
            for out in spoiled {
                self.perform(node, out)?;
            }
        }
        Ok(())
    }

    pub(super) fn perform(&mut self, node: usize, out: Out) -> Result<(), String> {
        match out {
            Out::Send { to, message } => self.send(node, &to, &message),
            Out::Subscribed { socket, room, result, .. } => {
                let Some(client) = self.client_of(node, socket) else { return Ok(()) };
                match result {
                    Ok(subscribed) => {
                        self.nodes[node].members.entry(room).or_default().insert(socket);
                        let (it, seen) = (&mut self.clients[client], &mut self.seen);
                        it.subscribed(&subscribed, seen)
                            .map_err(|it| format!("client {client}: {it}"))
                    }
                    Err(_) => {
                        self.send_away(client);
                        Ok(())
                    }
                }
            }
            Out::Unsubscribed { socket, room, .. } => {
                self.nodes[node].members.entry(room).or_default().remove(&socket);
                Ok(())
            }
            Out::Event { room, event, .. } => self.event(node, &room, &event),
            Out::Answer { to: ReplyTo::Api(number), answer } => {
                self.answered(number, answer);
                Ok(())
            }
            Out::Tell(what) => {
                self.application_hears(node, what);
                Ok(())
            }
            Out::Answer { .. } | Out::Findings { .. } | Out::Control(_) => Ok(()),
        }
    }

    pub(super) fn send(
        &mut self,
        node: usize,
        to: &[NodeId],
        message: &Message,
    ) -> Result<(), String> {
        let from = self.nodes[node].id();
        if std::env::var_os("SIMULATOR_TRACE").is_some() {
            let to: Vec<String> = to
                .iter()
                .map(|it| match self.index(*it) {
                    Some(i) => self.nodes[i].name.clone(),
                    None => it.to_string(),
                })
                .collect();
            let name = self.nodes[node].name.clone();
            let text = format!("{message:?}");
            self.tell(|| {
                format!("      {name} -> {to:?}: {}", text.chars().take(300).collect::<String>())
            });
        }
        for peer in to {
            let arrival = self.now + self.rng.u64(1..80);
            if let Some((at, frame)) = self.network.send(from, *peer, message, arrival)? {
                self.later(at - self.now, Happening::Arrive(frame));
            }
        }
        Ok(())
    }
}
