//! SHELL. The actor of a node's shared polls, around [`State`].
//!
//! It takes requests of sessions, asks backends, and gives hubs what is for their sockets. It decides nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use super::{
    peers::PollMessage,
    state::{In, KeyUpdate, Out, PollSettings, Reply, Request, State},
};
use crate::{
    backend::{
        client::BackendClients,
        poll::{PollAnswer, PollRequest},
    },
    cluster::{node::NodeId, view::View},
    metrics::Metrics,
    room::{
        actor::ToLink,
        types::{Failure, RoomName, SocketRef},
    },
    runtime::{
        clock,
        time::Time,
        timers::{self, Timed},
    },
};

/// The least time between two lines of log about data that is too large.
const QUIET: Duration = Duration::from_secs(1);

/// The actor that polls for a node's clients.
pub struct SharedPolls {
    state: State,
    backends: Arc<BackendClients>,
    metrics: Metrics,
    hubs: FxHashMap<u16, Recipient<FromPolls>>,
    links: FxHashMap<NodeId, Recipient<ToLink>>,
    encode: EncodePoll,
    address: Option<Addr<Self>>,
    /// When something was said of data that is too large.
    complained: Option<Instant>,
}

/// Makes a frame of what is said to another node, or says why it can't be sent.
pub type EncodePoll = fn(PollMessage) -> Result<Bytes, Failure>;

impl SharedPolls {
    /// Starts it on a thread of its own: what many clients track takes time that no socket should wait for.
    pub fn start_on_thread(
        settings: PollSettings,
        backends: Arc<BackendClients>,
        metrics: Metrics,
        encode: EncodePoll,
    ) -> Addr<Self> {
        let polls = Self {
            state: State::new(settings),
            backends,
            metrics,
            hubs: FxHashMap::default(),
            links: FxHashMap::default(),
            encode,
            address: None,
            complained: None,
        };
        Self::start_in_arbiter(&Arbiter::new().handle(), |_| polls)
    }

    fn handle(&mut self, input: In) {
        for out in self.state.handle(input, clock::now()) {
            self.perform(out);
        }
        let (rooms, keys) = self.state.counts();
        self.metrics.shared_poll_rooms.set(rooms as i64);
        self.metrics.shared_poll_keys.set(keys as i64);
    }

    fn perform(&mut self, out: Out) {
        match out {
            Out::Reply { socket, room, id, reply } => {
                self.to_hub(socket.worker, FromPolls::Reply { socket, room, id, reply });
            }
            Out::Ask(call, request) => self.ask(call, request),
            Out::Send(node, message) => match (self.encode)(message) {
                Ok(frame) => {
                    if let Some(link) = self.links.get(&node) {
                        link.do_send(ToLink::Frames(vec![frame]));
                    }
                }
                Err(_) => tracing::error!(%node, "what is new about a key is too large for a link"),
            },
            Out::Push { room, update, to } => {
                self.metrics.shared_poll_updates.inc();
                let update = Arc::new(update);
                for (worker, sockets) in by_worker(to) {
                    let (room, update) = (room.clone(), update.clone());
                    self.to_hub(worker, FromPolls::Push { room, update, sockets });
                }
            }
            Out::Outdated { room, sockets } => {
                for (worker, sockets) in by_worker(sockets) {
                    self.to_hub(worker, FromPolls::Outdated { room: room.clone(), sockets });
                }
            }
            Out::TooLarge { room, key, size } => {
                let now = Instant::now();
                if self.complained.is_none_or(|at| now.duration_since(at) >= QUIET) {
                    self.complained = Some(now);
                    tracing::warn!(
                        room = &*room,
                        key = &*key,
                        size,
                        "a backend has more for a key than may wait for a client (client.queue_max_size): its clients go without"
                    );
                }
            }
        }
    }

    fn to_hub(&self, worker: u16, message: FromPolls) {
        if let Some(hub) = self.hubs.get(&worker) {
            hub.do_send(message);
        }
    }

    fn ask(&self, call: u64, request: PollRequest) {
        let Some(address) = self.address.clone() else { return };
        let backends = self.backends.clone();
        actix_rt::spawn(async move {
            let answer = backends.poll(&request).await;
            address.do_send(Answered(call, answer));
        });
    }
}

/// The sockets of each worker.
fn by_worker(sockets: Vec<SocketRef>) -> FxHashMap<u16, Vec<SocketRef>> {
    let mut workers = FxHashMap::<u16, Vec<SocketRef>>::default();
    for socket in sockets {
        workers.entry(socket.worker).or_default().push(socket);
    }
    workers
}

impl Actor for SharedPolls {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.address = Some(ctx.address());
        timers::run(ctx);
    }
}

impl Timed for SharedPolls {
    const GRAIN: Duration = Duration::from_millis(10);

    fn due(&self) -> Option<Time> {
        self.state.due()
    }

    fn run_due(&mut self) {
        self.handle(In::Tick);
    }
}

/// What the polls have for the sockets of a worker, which their hub passes on.
#[derive(Message)]
#[rtype(result = "()")]
pub enum FromPolls {
    /// The answer to a command.
    Reply {
        /// Whose.
        socket: SocketRef,
        /// The room.
        room: RoomName,
        /// The number of the command.
        id: u32,
        /// The answer.
        reply: Reply,
    },
    /// What is new about a key.
    Push {
        /// The room.
        room: RoomName,
        /// What is new.
        update: Arc<KeyUpdate>,
        /// To whom.
        sockets: Vec<SocketRef>,
    },
    /// These are out of the room, and have to subscribe again.
    Outdated {
        /// The room.
        room: RoomName,
        /// Who.
        sockets: Vec<SocketRef>,
    },
}

/// A worker's hub has started.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AddPollHub(pub u16, pub Recipient<FromPolls>);

impl Handler<AddPollHub> for SharedPolls {
    type Result = ();

    fn handle(&mut self, AddPollHub(worker, hub): AddPollHub, _: &mut Self::Context) {
        self.hubs.insert(worker, hub);
    }
}

/// A socket wants something of a room whose keys are polled. The answer comes through its hub.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PollCommand(pub RoomName, pub Request);

impl Handler<PollCommand> for SharedPolls {
    type Result = ();

    fn handle(&mut self, PollCommand(room, request): PollCommand, _: &mut Self::Context) {
        self.handle(In::Request(room, request));
    }
}

/// What a link to a node that knows shared polls has for them.
#[derive(Message)]
#[rtype(result = "()")]
pub enum FromPollLink {
    /// It is up.
    Up(NodeId, Recipient<ToLink>),
    /// It is down.
    Down(NodeId, Recipient<ToLink>),
    /// The other node says something.
    Peer(NodeId, PollMessage),
}

impl Handler<FromPollLink> for SharedPolls {
    type Result = ();

    fn handle(&mut self, message: FromPollLink, _: &mut Self::Context) {
        match message {
            FromPollLink::Up(node, link) => {
                // A second link replaces the first: whatever was under way on that is lost.
                if self.links.insert(node, link).is_some() {
                    self.handle(In::LinkDown(node));
                }
                self.handle(In::LinkUp(node));
            }
            FromPollLink::Down(node, link) => {
                if self.links.get(&node).is_some_and(|known| *known == link) {
                    self.links.remove(&node);
                    self.handle(In::LinkDown(node));
                }
            }
            FromPollLink::Peer(node, message) => self.handle(In::Peer(node, message)),
        }
    }
}

/// The cluster is this now.
#[derive(Message)]
#[rtype(result = "()")]
struct See(View);

impl Handler<See> for SharedPolls {
    type Result = ();

    fn handle(&mut self, See(view): See, _: &mut Self::Context) {
        self.handle(In::View(view));
    }
}

/// Tells the polls who is in the cluster, for as long as anyone knows.
pub async fn watch(polls: Addr<SharedPolls>, mut view: watch::Receiver<View>) {
    loop {
        polls.do_send(See(view.borrow_and_update().clone()));
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// A backend has answered, or has not.
#[derive(Message)]
#[rtype(result = "()")]
struct Answered(u64, Option<PollAnswer>);

impl Handler<Answered> for SharedPolls {
    type Result = ();

    fn handle(&mut self, Answered(call, answer): Answered, _: &mut Self::Context) {
        self.handle(In::Answered(call, answer));
    }
}
