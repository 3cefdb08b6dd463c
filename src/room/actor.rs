//! SHELL. The room-registry actor: one per node, around [`State`].
//!
//! It translates messages of sockets, API calls, links and membership to inputs, and performs the outputs:
//! to hubs, to API calls, to links, to the log, all at the end of a [`Turn`]. It decides nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::{
    attendance::AttendanceEvent,
    control::Control,
    disk::{DiskLog, LogReplied},
    messages::{Message as PeerMessage, RoomMessage},
    options::Namespaces,
    registry::{In, Out, State},
    replies::Reply,
    turn::Turn,
    types::{Answer, Failure, Findings, NodeFacts, ReplyTo, Request, RoomName, SocketRef, Survey},
    users::Users,
};
use crate::{
    cluster::{membership::NewView, mesh_version::MeshVersion, node::NodeId},
    metrics::Metrics,
    queue::group::Counts,
    runtime::{
        clock,
        longest::Longest,
        memory,
        reclaim::Reclaim,
        time::Time,
        timers::{self, Timed},
    },
};

/// How precisely the core's timers fire.
pub const TICK: Duration = Duration::from_millis(50);
/// How often gauges and the facts about this node are brought up to date.
const FACTS: Duration = Duration::from_secs(1);

/// The actor that owns a node's rooms.
pub struct RoomRegistry {
    state: State,
    facts: NodeFacts,
    /// When they were last brought up to date.
    facts_at: Time,
    metrics: Metrics,
    users: Arc<Users>,
    application: Option<Arc<dyn Application>>,
    /// None: no room of this node is on disk.
    log: Option<DiskLog>,
    hubs: FxHashMap<u16, Recipient<ToHub>>,
    links: FxHashMap<NodeId, PeerLink>,
    encode: Encode,
    turn: Turn,
    next_call: u64,
    calls: HashMap<u64, Call>,
    /// Of the rooms and subscriptions.
    reclaim: Reclaim,
    /// Of the inputs: nothing else of any room happens meanwhile.
    longest: Longest,
    /// What had come of messages of groups when they were counted last.
    counted: Counts,
    address: Option<Addr<Self>>,
    /// A [`GoOn`] is on its way.
    goes_on: bool,
}

/// Makes a frame of a message to peers, or says why it can't be sent.
pub type Encode = fn(&PeerMessage) -> Result<Bytes, Failure>;

/// The application, where it wants to be notified who comes and goes.
pub trait Application: Send + Sync {
    /// Queues an event for it.
    fn notify(&self, event: AttendanceEvent);
}

/// The link to a peer.
struct PeerLink {
    version: MeshVersion,
    link: Recipient<ToLink>,
}

enum Call {
    Room(Reply),
    Survey(oneshot::Sender<Findings>),
}

impl RoomRegistry {
    /// The actor around `state`. `facts` says what does not change about the node.
    pub fn new(
        state: State,
        facts: NodeFacts,
        metrics: Metrics,
        users: Arc<Users>,
        application: Option<Arc<dyn Application>>,
        log: Option<DiskLog>,
        encode: Encode,
    ) -> Self {
        Self {
            state,
            facts,
            facts_at: clock::now(),
            metrics,
            users,
            application,
            log,
            hubs: FxHashMap::default(),
            links: FxHashMap::default(),
            encode,
            turn: Turn::default(),
            next_call: 0,
            calls: HashMap::new(),
            reclaim: Reclaim::default(),
            longest: Longest::default(),
            counted: Counts::default(),
            address: None,
            goes_on: false,
        }
    }

    fn handle(&mut self, input: In) {
        let now = clock::now();
        self.handle_at(input, now);
        if now.since(self.facts_at) >= 2 * FACTS {
            self.refresh_facts();
        }
        // A busy mailbox is emptied before anything else of the actor runs.
        if now.since(self.state.ticked()) >= TICK {
            self.tick();
        }
    }

    /// It may take long, and nobody should wait for it.
    fn tick(&mut self) {
        self.flush();
        self.handle_at(In::Tick, clock::now());
    }

    fn handle_at(&mut self, input: In, now: Time) {
        for out in self.state.handle(input, now) {
            self.perform(out);
        }
        // Queued behind what waits already: work that concerns many rooms holds up no one.
        if self.state.has_work()
            && let Some(address) = &self.address
            && !std::mem::replace(&mut self.goes_on, true)
        {
            address.do_send(GoOn);
        }
        let uptime = clock::uptime();
        self.longest.note(clock::at(uptime).since(now));
        if self.turn.is_long(uptime) {
            self.flush();
        }
    }

    fn perform(&mut self, out: Out) {
        match out {
            Out::Subscribed { socket, .. } | Out::Unsubscribed { socket, .. } => {
                self.turn.to_hub(socket.worker, ForHub::Out(out));
            }
            Out::Answer { to: ReplyTo::Command { socket, .. }, .. } => {
                self.turn.to_hub(socket.worker, ForHub::Out(out));
            }
            Out::Answer { to: ReplyTo::Api(call), answer } => {
                if let Some(Call::Room(reply)) = self.calls.remove(&call) {
                    self.turn.answer(reply, answer);
                }
            }
            Out::Answer { to: ReplyTo::Nobody | ReplyTo::Burial(_), .. } => {}
            Out::Push { socket, .. } => self.turn.to_hub(socket.worker, ForHub::Out(out)),
            Out::Event { workers, room, event } => {
                for worker in (0..64).filter(|worker| workers & (1 << worker) != 0) {
                    let (room, event) = (room.clone(), event.clone());
                    self.turn.to_hub(worker, ForHub::Out(Out::Event { workers, room, event }));
                }
            }
            Out::Send { to, message } => self.send(&to, message),
            Out::Log { room, request } => self.turn.to_log(room, request),
            Out::Control(control) => {
                for socket in self.users.of(&control.user) {
                    self.turn.to_hub(socket.worker, ForHub::Control(socket, control.clone()));
                }
            }
            Out::Notify(event) => {
                if let Some(application) = &self.application {
                    application.notify(event);
                }
            }
            Out::Findings { to, findings } => {
                if let Some(Call::Survey(reply)) = self.calls.remove(&to) {
                    self.turn.found(reply, findings);
                }
            }
        }
    }

    /// What has come of messages of groups since they were counted last.
    fn count_messages(&mut self) {
        let (groups, before) = (self.state.groups(), self.counted);
        let now = groups.counts();
        self.metrics.queue_groups.set(groups.len() as i64);
        for (outcome, now, before) in [
            ("delivered", now.delivered, before.delivered),
            ("redelivered", now.redelivered, before.redelivered),
            ("acked", now.acked, before.acked),
            ("dead", now.dead, before.dead),
            ("expired", now.expired, before.expired),
            ("lost", now.lost, before.lost),
            ("stale", now.stale, before.stale),
        ] {
            self.metrics.queue_messages.with_label_values(&[outcome]).inc_by(now - before);
        }
        self.counted = now;
    }

    /// Encodes once, however many peers it goes to.
    fn send(&mut self, to: &[NodeId], message: PeerMessage) {
        let frame = match (self.encode)(&message) {
            Ok(frame) => frame,
            Err(error) => return self.unsendable(to, message, error),
        };
        let since = message.since();
        for peer in to {
            match self.links.get(peer) {
                Some(link) if link.version >= since => self.turn.to_link(*peer, frame.clone()),
                Some(_) if let Some(answer) = message.answer_of_older() => {
                    self.handle(In::Peer(*peer, answer));
                }
                // The core has something older to say to such a peer, so this is an error of ours.
                Some(PeerLink { version, .. }) => {
                    tracing::error!(%peer, version, since, "a node can't read what it was to be sent");
                }
                None => {}
            }
        }
    }

    /// A request that is too large is answered as if the peer had refused it; in place of an answer that is too large
    /// the peer gets the failure.
    fn unsendable(&mut self, to: &[NodeId], message: PeerMessage, error: Failure) {
        tracing::error!(
            ?to,
            "a message to a node is too large to be sent; its sender gets an error"
        );
        let PeerMessage::Room(room, message) = message else { return };
        let answer = |id| RoomMessage::Answer { id, answer: Answer::Failed(error) };
        match message {
            RoomMessage::Request { id, .. } => {
                for peer in to {
                    self.handle(In::Peer(*peer, PeerMessage::Room(room.clone(), answer(id))));
                }
            }
            RoomMessage::Answer { id, .. } => {
                self.send(to, PeerMessage::Room(room, answer(id)));
            }
            _ => {}
        }
    }

    /// Ends the turn.
    fn flush(&mut self) {
        let Self { links, hubs, .. } = self;
        let link = |peer| links.get(&peer).map(|it| &it.link);
        self.turn.end(link, |worker| hubs.get(&worker), self.log.as_ref());
    }

    fn call(&mut self, call: Call) -> u64 {
        self.next_call += 1;
        self.calls.insert(self.next_call, call);
        self.next_call
    }

    /// Copies are what keeps what was acknowledged when this node is lost, so people should know where there are too few.
    fn say_whether_behind(&mut self) {
        let (rooms, before) = (self.state.rooms_behind() as i64, self.metrics.rooms_behind.get());
        self.metrics.rooms_behind.set(rooms);
        match (before, rooms) {
            (0, 1..) => tracing::warn!(
                rooms,
                "a node that is to keep copies is too slow: what is published is acknowledged without it until it has \
                 caught up. See to its disk and its load (roomcast_rooms_behind says how many rooms)"
            ),
            (1.., 0) => tracing::info!("all nodes that are to keep copies have caught up"),
            _ => {}
        }
    }

    fn refresh_facts(&mut self) {
        self.facts_at = clock::now();
        let facts = NodeFacts {
            num_clients: self.metrics.connections.get() as u32,
            num_users: self.users.count(),
            uptime: clock::uptime().as_secs() as u32,
            ..self.facts.clone()
        };
        self.metrics.rooms.set(self.state.rooms() as i64);
        self.metrics.dormant_rooms.set(self.state.dormant_rooms() as i64);
        self.say_whether_behind();
        self.metrics.history_bytes.set(self.state.history_bytes() as i64);
        self.metrics.subscriptions.set(self.state.subscriptions() as i64);
        self.metrics.mesh_links.set(self.links.len() as i64);
        self.count_messages();
        if let Some(log) = &mut self.log {
            log.measure();
            log.note_companions(self.state.companions());
        }
        self.handle(In::Facts(facts));
        let now = clock::now();
        self.metrics.longest_input.set(self.longest.get(now).as_secs_f64());
        self.reclaim.update(self.state.rooms_in_memory() + self.state.subscriptions(), now);
        // It takes long, and there is more to give back once the work is done.
        if !self.state.has_work() && self.reclaim.take_due(now) {
            self.flush();
            memory::give_back();
        }
    }
}

impl Actor for RoomRegistry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.address = Some(ctx.address());
        if let Some(log) = &self.log {
            log.answer_to(ctx.address().recipient());
        }
        self.refresh_facts();
        timers::run(ctx);
        ctx.run_interval(FACTS, |registry, _| {
            registry.refresh_facts();
            // The timer was polled before this.
            registry.end_turn();
        });
    }
}

impl Timed for RoomRegistry {
    const GRAIN: Duration = TICK;

    fn due(&self) -> Option<Time> {
        Some(self.state.next_due())
    }

    fn run_due(&mut self) {
        self.tick();
    }

    fn end_turn(&mut self) {
        self.flush();
    }
}

/// Go on with what is left to be done.
#[derive(Message)]
#[rtype(result = "()")]
struct GoOn;

impl Handler<GoOn> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, _: GoOn, _: &mut Self::Context) {
        self.goes_on = false;
        self.tick();
    }
}

/// New rooms are of these namespaces.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SetNamespaces(pub Arc<Namespaces>);

impl Handler<SetNamespaces> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, SetNamespaces(namespaces): SetNamespaces, _: &mut Self::Context) {
        self.state.set_namespaces(namespaces);
    }
}

/// How many rooms would lose something if the node left now?
#[derive(Message)]
#[rtype(result = "usize")]
pub struct ToBeTaken;

impl Handler<ToBeTaken> for RoomRegistry {
    type Result = usize;

    fn handle(&mut self, _: ToBeTaken, _: &mut Self::Context) -> usize {
        // Whoever asks may end the node next.
        self.flush();
        self.state.to_be_taken()
    }
}

/// What the registry has for the sockets of a worker, which their hub passes on: all of a turn.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ToHub(pub Vec<ForHub>);

/// One thing that a hub passes on.
#[expect(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum ForHub {
    /// What the rooms say to them.
    Out(Out),
    /// What the application does to one of them.
    Control(SocketRef, Arc<Control>),
}

/// A worker's hub has started.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AddHub(pub u16, pub Recipient<ToHub>);

impl Handler<AddHub> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, AddHub(worker, hub): AddHub, _: &mut Self::Context) {
        self.hubs.insert(worker, hub);
    }
}

/// A socket asks something of a room. The answer comes through its hub.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SocketRequest(pub RoomName, pub Request);

impl Handler<SocketRequest> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, SocketRequest(room, request): SocketRequest, _: &mut Self::Context) {
        if let Request::Publish(..) = request {
            self.metrics.publications.inc();
        }
        self.handle(In::Request(room, request));
    }
}

/// An API call asks something of a room; the function makes the request, given whom to answer.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ApiRequest {
    /// The room.
    pub room: RoomName,
    /// What is asked.
    pub request: Box<dyn FnOnce(ReplyTo) -> Request + Send>,
    /// Where the answer goes.
    pub reply: Reply,
}

impl Handler<ApiRequest> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, ask: ApiRequest, _: &mut Self::Context) {
        let to = ReplyTo::Api(self.call(Call::Room(ask.reply)));
        let request = (ask.request)(to);
        if let Request::Publish(..) = request {
            self.metrics.publications.inc();
        }
        self.handle(In::Request(ask.room, request));
    }
}

/// An API call asks every node.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ApiSurvey(pub Survey, pub oneshot::Sender<Findings>);

impl Handler<ApiSurvey> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, ApiSurvey(survey, reply): ApiSurvey, _: &mut Self::Context) {
        let call = self.call(Call::Survey(reply));
        self.handle(In::Survey(call, survey));
    }
}

/// Send something that is not about rooms to a node. The answer is whether there is a link to it.
#[derive(Message)]
#[rtype(result = "bool")]
pub struct Forward {
    /// The node.
    pub to: NodeId,
    /// A frame that every version can read.
    pub frame: Bytes,
}

impl Handler<Forward> for RoomRegistry {
    type Result = bool;

    fn handle(&mut self, Forward { to, frame }: Forward, _: &mut Self::Context) -> bool {
        let is_there = self.links.contains_key(&to);
        if is_there {
            self.turn.to_link(to, frame);
        }
        is_there
    }
}

impl Handler<LogReplied> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, _: LogReplied, _: &mut Self::Context) {
        let replies = self.log.as_ref().map(DiskLog::take_replies).unwrap_or_default();
        for (room, reply) in replies {
            self.handle(In::Log(room, reply));
        }
    }
}

/// The node ends: close the log on disk, if there is one.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CloseLog;

impl Handler<CloseLog> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, _: CloseLog, _: &mut Self::Context) {
        self.flush();
        for (room, reply) in self.log.take().map(DiskLog::close).unwrap_or_default() {
            self.handle(In::Log(room, reply));
        }
        self.flush();
    }
}

/// Answered when all is dealt with that came before.
#[derive(Message)]
#[rtype(result = "()")]
pub struct CatchUp;

impl Handler<CatchUp> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, _: CatchUp, _: &mut Self::Context) {}
}

impl Handler<NewView> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, NewView(view): NewView, _: &mut Self::Context) {
        // All rooms may have to turn to it.
        self.flush();
        self.handle(In::View(view));
    }
}

/// What the registry has for a link.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToLink {
    /// Send these to the peer.
    Frames(Vec<Bytes>),
    /// Close: a newer link to the same peer replaces it.
    Replaced,
}

/// What links tell.
#[derive(Message)]
#[rtype(result = "()")]
pub enum FromLink {
    /// A link is up.
    LinkUp(NodeId, MeshVersion, Recipient<ToLink>),
    /// A link is down.
    LinkDown(NodeId, Recipient<ToLink>),
    /// A peer says something: all that was read at once.
    Peer(NodeId, Vec<PeerMessage>),
}

impl Handler<FromLink> for RoomRegistry {
    type Result = ();

    fn handle(&mut self, message: FromLink, _: &mut Self::Context) {
        match message {
            FromLink::LinkUp(peer, version, link) => {
                // A second link replaces the first: whatever was under way on that is lost.
                // What is for the old link is not for the new one.
                self.flush();
                if let Some(old) = self.links.insert(peer, PeerLink { version, link }) {
                    old.link.do_send(ToLink::Replaced);
                    self.handle(In::LinkDown(peer));
                }
                self.metrics.mesh_links.set(self.links.len() as i64);
                self.handle(In::LinkUp(peer));
            }
            FromLink::LinkDown(peer, link) => {
                self.flush();
                if self.links.get(&peer).is_some_and(|it| it.link == link) {
                    self.links.remove(&peer);
                    self.metrics.mesh_links.set(self.links.len() as i64);
                    self.handle(In::LinkDown(peer));
                }
            }
            FromLink::Peer(peer, messages) => {
                for message in messages {
                    self.handle(In::Peer(peer, message));
                }
            }
        }
    }
}
