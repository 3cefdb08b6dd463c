//! SHELL. The actor of a node's shared polls, around [`State`].
//!
//! It takes requests of sessions, asks backends, and gives hubs what is for their sockets. It decides nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix::prelude::*;
use rustc_hash::FxHashMap;

use super::state::{In, KeyUpdate, Out, PollSettings, Reply, Request, State};
use crate::{
    backend::{
        client::BackendClients,
        poll::{PollAnswer, PollRequest},
    },
    metrics::Metrics,
    room::types::{RoomName, SocketRef},
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
    address: Option<Addr<Self>>,
    /// When something was said of data that is too large.
    complained: Option<Instant>,
}

impl SharedPolls {
    /// Starts it on a thread of its own: what many clients track takes time that no socket should wait for.
    pub fn start_on_thread(
        settings: PollSettings,
        backends: Arc<BackendClients>,
        metrics: Metrics,
    ) -> Addr<Self> {
        let polls = Self {
            state: State::new(settings),
            backends,
            metrics,
            hubs: FxHashMap::default(),
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
