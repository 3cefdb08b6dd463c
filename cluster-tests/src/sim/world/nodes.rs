//! The nodes: how they start and end, and what becomes of what their cores say.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use roomcast::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        view::View,
    },
    queue::options::QueueOptions,
    room::{
        logged::{LogReply, LogRequest},
        options::{LogKind, Namespaces, RoomOptions},
        registry::{In, Out, RoomSettings, State},
        types::{ReplyTo, RoomName, SocketRef},
    },
    runtime::time::Time,
};

use super::{Happening, TICK, World, consumers::Consumers, judge::MOST_OUTPUTS, maps};
use crate::sim::{Faults, client::Place, disk::Disk, mutants::Mutant};

/// The most bytes of one write to a disk, where little is written at a time: two publications.
const SMALL_WRITE: usize = 600;

/// A node, whether it runs or not.
pub(super) struct Node {
    pub(super) name: String,
    pub(super) generation: u64,
    pub(super) state: Option<State>,
    /// It is about to go on with what is left to do.
    pub(super) goes_on: bool,
    pub(super) phase: Phase,
    /// It has handed over, and takes no clients and publications any more.
    pub(super) leaving: bool,
    /// The most milliseconds that its view lags.
    pub(super) lag: u64,
    /// Who is there, as it sees it, and which of all views that is.
    pub(super) view: View,
    pub(super) version: u64,
    /// When it started, first saw another node, and last saw a change.
    pub(super) started: u64,
    pub(super) met: Option<u64>,
    pub(super) viewed: u64,
    /// Since when it stands still, and what has come in meanwhile.
    pub(super) frozen: Option<(u64, Vec<In>)>,
    pub(super) disk: Disk,
    /// When the disk is done with what it was asked last.
    pub(super) disk_busy: u64,
    /// What has come for it while what came before is being done; none: nothing is.
    waiting: Option<VecDeque<In>>,
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
            phase: self.phase,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        NodeId::new(&self.name, self.generation)
    }

    /// Whether clients and publishers can use it.
    pub(super) fn serves(&self) -> bool {
        self.state.is_some() && self.phase != Phase::Joining && !self.leaving
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state.is_some() && self.phase == Phase::Ready
    }

    /// Whether the actor would tell the core now that time has passed.
    fn is_due(&self, now: u64) -> bool {
        self.state.as_ref().is_some_and(|state| state.next_due() <= Time::from_millis(now))
    }
}

/// The most milliseconds that a slow disk takes for what it is asked, once in a while.
const SLOW: u64 = 3_000;
/// The publications of a room on disk that are in memory.
const RING: usize = 5;

fn namespaces(log: LogKind, queue: Option<QueueOptions>) -> Namespaces {
    let keeps = RoomOptions {
        log,
        ring_limit: RING,
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
    let maps = Arc::new(maps::options(&keeps));
    let keeps = match queue {
        Some(queue) => keeps.with_queue(queue),
        None => keeps,
    };
    Namespaces { default: Arc::new(keeps), named: [(maps::NAMESPACE.into(), maps)].into() }
}

/// What an input is, in words.
fn kind(input: &In) -> &'static str {
    match input {
        In::Request(..) => "a request",
        In::Peer(..) => "what a peer says",
        In::LinkUp(..) => "a link that is up",
        In::LinkDown(_) => "a link that is down",
        In::View(_) => "a view",
        In::Tick => "time that has passed",
        In::Log(..) => "what its log says",
        In::Survey(..) | In::Facts(_) => "a survey",
    }
}

impl World {
    pub(super) fn add_node(&mut self, name: String, lag: u64) {
        self.nodes.push(Node {
            name,
            generation: 0,
            state: None,
            goes_on: false,
            phase: Phase::Joining,
            leaving: false,
            lag,
            view: View::default(),
            version: 0,
            started: 0,
            met: None,
            viewed: 0,
            frozen: None,
            disk: Disk::default(),
            disk_busy: 0,
            waiting: None,
            members: BTreeMap::new(),
        });
    }

    pub(super) fn index(&self, id: NodeId) -> Option<usize> {
        self.nodes.iter().position(|node| node.state.is_some() && node.id() == id)
    }

    /// Whether a node still is in this run.
    pub(super) fn runs(&self, index: usize, generation: u64) -> bool {
        self.nodes[index].state.is_some() && self.nodes[index].generation == generation
    }

    fn those(&self, which: impl Fn(&Node) -> bool) -> Vec<usize> {
        (0..self.nodes.len()).filter(|index| which(&self.nodes[*index])).collect()
    }

    pub(super) fn alive(&self) -> Vec<usize> {
        self.those(|node| node.state.is_some())
    }

    pub(super) fn ready_ones(&self) -> Vec<usize> {
        self.those(Node::is_ready)
    }

    fn any_of(&mut self, nodes: &[usize]) -> Option<usize> {
        (!nodes.is_empty()).then(|| nodes[self.rng.usize(..nodes.len())])
    }

    pub(super) fn any_alive(&mut self) -> Option<usize> {
        let alive = self.alive();
        self.any_of(&alive)
    }

    /// Any node that clients and publishers can use.
    pub(super) fn any_serving(&mut self) -> Option<usize> {
        let serving = self.those(Node::serves);
        self.any_of(&serving)
    }

    pub(super) fn start(&mut self, index: usize) {
        if self.nodes[index].state.is_some() {
            return;
        }
        let seed = self.rng.u64(..);
        let replicas = Mutant::replicas(self.mutant, self.plan.replicas);
        let idle_timeout = Duration::from_millis(if self.plan.idle { 200 } else { 5_000 });
        let quorum_of = self.plan.quorum_of;
        let syncs_late = self.plan.late_syncs;
        let default = RoomSettings::default();
        let log_batch = if self.plan.small_writes { SMALL_WRITE } else { default.log_batch };
        let settings =
            RoomSettings { replicas, quorum_of, idle_timeout, syncs_late, log_batch, ..default };
        let (now, node) = (self.now, &mut self.nodes[index]);
        let before = node.id();
        node.generation = now;
        (node.phase, node.leaving, node.goes_on) = (Phase::Joining, false, false);
        (node.view, node.version) = (View::default(), 0);
        (node.started, node.met, node.viewed) = (now, None, now);
        node.members.clear();
        let id = node.id();
        let on_disk = self.faults == Faults::Disks || self.plan.idle;
        let log = if on_disk { LogKind::Disk } else { LogKind::Memory };
        let queue = self.consumers.as_ref().map(Consumers::options);
        let mut state = State::new(id, Arc::new(namespaces(log, queue)), settings, seed);
        for mut room in node.disk.found() {
            if self.mutant == Some(Mutant::ForgottenTerms) {
                (room.head.term, room.head.root.term) = Default::default();
            }
            state.find_in_log(room, Time::from_millis(now));
        }
        node.state = Some(state);
        self.network.renamed(before, id);
        self.disturbed = now;
        let name = self.nodes[index].name.clone();
        let with: Vec<&str> = self.nodes[index].disk.companions().iter().map(|it| &**it).collect();
        let with = if with.is_empty() { String::new() } else { format!(", was with {with:?}") };
        self.tell(|| format!("{name} starts as {id}{with}"));
        let phase = self.rng.u64(1..TICK);
        self.later(phase, Happening::Tick(index, now));
        self.later(1, Happening::GetToKnow(index, now));
        if self.plan.rots {
            let scrubbed = self.rng.u64(500..5_000);
            self.later(scrubbed, Happening::Scrubbed(index, now));
        }
        self.everyone_looks();
    }

    /// A node is gone at once, with all that it had.
    pub(super) fn take_down(&mut self, index: usize) -> Result<(), String> {
        let id = self.nodes[index].id();
        (self.nodes[index].state, self.nodes[index].frozen) = (None, None);
        self.nodes[index].disk.crash(&mut self.rng);
        // Its own ends go with it; whoever is cut off from it does not notice yet.
        for peer in self.network.peers(id) {
            self.network.close(id, peer);
        }
        for peer in self.network.linked_to(id) {
            self.disconnect(id, peer)?;
        }
        for client in 0..self.clients.len() {
            if self.clients[client].node == index && self.clients[client].place != Place::Away {
                self.send_away(client);
            }
        }
        self.give_up_on(index);
        self.consumers_lose(index);
        self.maps_lose(index);
        self.disturbed = self.now;
        self.shake_consumers();
        self.everyone_looks();
        Ok(())
    }

    pub(super) fn tick(&mut self, index: usize, generation: u64) -> Result<(), String> {
        if !self.runs(index, generation) {
            return Ok(());
        }
        if self.nodes[index].is_due(self.now) {
            self.input(index, In::Tick)?;
        }
        let (now, node) = (Time::from_millis(self.now), &mut self.nodes[index]);
        if let Some(state) = &node.state {
            node.disk.note_companions(state.companions(), now);
        }
        self.later(TICK, Happening::Tick(index, generation));
        Ok(())
    }

    /// Gives a node an input and does what it says. What comes of that for the same node waits until all of it is
    /// done, as with an actor: else a link would carry what follows before what comes first.
    pub(super) fn input(&mut self, node: usize, input: In) -> Result<(), String> {
        if let Some(waiting) = &mut self.nodes[node].waiting {
            waiting.push_back(input);
            return Ok(());
        }
        self.nodes[node].waiting = Some(VecDeque::from([input]));
        while let Some(input) =
            self.nodes[node].waiting.as_mut().and_then(|waiting| waiting.pop_front())
        {
            self.handle(node, input)?;
        }
        self.nodes[node].waiting = None;
        Ok(())
    }

    fn handle(&mut self, node: usize, input: In) -> Result<(), String> {
        let now = Time::from_millis(self.now);
        if let Some((_, missed)) = &mut self.nodes[node].frozen {
            // Time does not pass for it, so it misses no ticks.
            if !matches!(input, In::Tick) {
                missed.push(input);
            }
            return Ok(());
        }
        let Some(state) = &mut self.nodes[node].state else { return Ok(()) };
        let kind = kind(&input);
        let outs = state.handle(input, now);
        self.note_outputs(node, kind, outs.len());
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
        self.go_on_later(node);
        Ok(())
    }

    /// What is left to do for many rooms is done as soon as nothing else waits, as the actor does it.
    fn go_on_later(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        if it.state.as_ref().is_some_and(State::has_work) && !it.goes_on {
            it.goes_on = true;
            let generation = it.generation;
            self.later(1, Happening::GoOn(node, generation));
        }
    }

    pub(super) fn go_on(&mut self, node: usize, generation: u64) -> Result<(), String> {
        if self.nodes[node].generation != generation || self.nodes[node].state.is_none() {
            return Ok(());
        }
        self.nodes[node].goes_on = false;
        if self.nodes[node].frozen.is_some() {
            return Ok(());
        }
        self.input(node, In::Tick)
    }

    /// All that is on the disk of a node was read.
    pub(super) fn scrubbed(&mut self, node: usize, generation: u64) -> Result<(), String> {
        if !self.runs(node, generation) {
            return Ok(());
        }
        for (room, offset) in self.nodes[node].disk.damaged() {
            self.input(node, In::Log(room, LogReply::Damaged(offset, offset + 1)))?;
        }
        Ok(())
    }

    /// The disk of a node has done what it was asked first.
    pub(super) fn written(&mut self, node: usize, generation: u64) -> Result<(), String> {
        if !self.runs(node, generation) {
            return Ok(());
        }
        match self.nodes[node].disk.answer() {
            Some((room, reply)) => self.input(node, In::Log(room, reply)),
            None => Ok(()),
        }
    }

    fn note_outputs(&mut self, node: usize, kind: &str, outputs: usize) {
        if outputs > MOST_OUTPUTS.max(self.record.most_outputs) {
            let name = self.nodes[node].name.clone();
            self.tell(|| format!("{name} does {outputs} things at once because of {kind}"));
        }
        self.record.most_outputs = self.record.most_outputs.max(outputs);
    }

    fn perform(&mut self, node: usize, out: Out) -> Result<(), String> {
        if self.map_hears(node, &out)? || self.consumer_hears(node, &out)? {
            return Ok(());
        }
        match out {
            Out::Send { to, message } => return self.send(node, &to, &message),
            Out::Subscribed { socket, room, result, .. } => {
                return self.subscribed(node, socket, room, result);
            }
            Out::Unsubscribed { socket, room, .. } => {
                self.nodes[node].members.entry(room).or_default().remove(&socket);
            }
            Out::Event { room, event, .. } => return self.event(node, &room, &event),
            Out::Answer { to: ReplyTo::Api(number), answer } => {
                self.answered(node, number, answer);
            }
            Out::Notify(event) => self.application_hears(node, event),
            Out::Log { room, request } => {
                if let (Some(Mutant::UnsyncedAcks), LogRequest::Write(id, _)) =
                    (self.mutant, &request)
                {
                    let synced = In::Log(room.clone(), LogReply::Written(*id));
                    self.nodes[node].disk.ask(room, request);
                    return self.input(node, synced);
                }
                if self.traced {
                    let name = self.nodes[node].name.clone();
                    self.tell(|| format!("      {name}'s disk, {room}: {request:?}"));
                }
                self.nodes[node].disk.ask(room, request);
                let delay = match self.rng.u8(..20) {
                    0 if self.plan.slow_disks && !self.healed => SLOW,
                    0 => 200,
                    _ => 10,
                };
                let done = self.nodes[node].disk_busy.max(self.now) + self.rng.u64(0..delay);
                let generation = self.nodes[node].generation;
                self.nodes[node].disk_busy = done;
                self.later(done - self.now, Happening::Written(node, generation));
            }
            Out::Answer { .. } | Out::Findings { .. } | Out::Control(_) | Out::Push { .. } => {}
        }
        Ok(())
    }
}
