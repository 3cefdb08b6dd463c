//! SHELL. One worker's fan-out: which of its sockets are in which room.
//!
//! In: what the registry has decided, one message per worker however many sockets it concerns. Out: one
//! message per socket, on the same thread. A push is encoded once per worker and encoding: as a whole WebSocket
//! frame that all sockets share, or as what the bodies of streamed responses share.

use std::{collections::HashMap, sync::Arc, time::Duration};

use actix::prelude::*;
use bytes::Bytes;

use crate::{
    metrics::Metrics,
    protocol::{codec::Format, codes::Disconnect, encoding::Encoding, message::Reply},
    room::{
        actor::{ForHub, ToHub},
        delivery::{DeliveryOption, DeliveryOptions, Form},
        node::Out,
        types::{Event, MemberFlags, Publication, ReplyTo, RoomName, SocketRef},
    },
    runtime::{
        clock, memory,
        reclaim::Reclaim,
        time::Time,
        timers::{self, Timed},
    },
    session::{
        messages::{ConnectionAddress, FromSocket, Register, SocketInput, ToSocket},
        reply,
        state::In,
        timers::Timers,
    },
    shared_poll::{actor::FromPolls, state::KeyUpdate},
};

/// How precisely the sockets' timers fire, and how often some sockets are disconnected as the node stops.
const TICK: Duration = Duration::from_millis(100);

/// A socket in the hub's table.
struct Slot {
    generation: u32,
    /// None once the socket is closed; then the slot waits for its memberships to end.
    socket: Option<ConnectionAddress>,
    memberships: u32,
}

/// A socket in a room.
struct Member {
    slot: u32,
    flags: MemberFlags,
}

/// The sockets of one worker thread.
pub struct Hub {
    worker: u16,
    metrics: Metrics,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// In each room the members are in the order of their slots. Clients choose the names, so the hash has a
    /// secret key.
    rooms: HashMap<RoomName, Vec<Member>>,
    /// Of the rooms where some members have delivery options.
    delivery_options: HashMap<RoomName, DeliveryOptions>,
    timers: Timers,
    /// Of the sockets.
    reclaim: Reclaim,
    stopping: Option<Stopping>,
}

/// How far a hub is that closes its sockets.
struct Stopping {
    why: Disconnect,
    /// When the last is to be notified.
    until: Time,
    /// The slots before this one are notified.
    notified: usize,
}

impl Hub {
    /// The hub of worker `worker`.
    pub fn new(worker: u16, metrics: Metrics) -> Self {
        Self {
            worker,
            metrics,
            slots: Vec::new(),
            free: Vec::new(),
            rooms: HashMap::new(),
            delivery_options: HashMap::new(),
            timers: Timers::default(),
            reclaim: Reclaim::default(),
            stopping: None,
        }
    }

    fn tell(&self, socket: SocketRef, input: In) {
        if let Some(addr) = self.socket(socket) {
            addr.do_send(ToSocket::Input(Box::new(input)));
        }
    }

    fn socket(&self, socket: SocketRef) -> Option<&ConnectionAddress> {
        let slot = self.slots.get(socket.slot as usize)?;
        slot.socket.as_ref().filter(|_| slot.generation == socket.generation)
    }

    fn enter(
        &mut self,
        room: &RoomName,
        socket: SocketRef,
        flags: MemberFlags,
        delivery: Option<DeliveryOption>,
    ) {
        if self.socket(socket).is_none() {
            return;
        }
        let members = match self.rooms.get_mut(room) {
            Some(members) => members,
            None => self.rooms.entry(room.clone()).or_default(),
        };
        if let Err(index) = members.binary_search_by_key(&socket.slot, |member| member.slot) {
            members.insert(index, Member { slot: socket.slot, flags });
            self.slots[socket.slot as usize].memberships += 1;
            if let Some(delivery) = delivery {
                self.delivery_options
                    .entry(room.clone())
                    .or_default()
                    .enter(socket.slot, &delivery);
            }
        }
    }

    fn leave(&mut self, room: &RoomName, socket: SocketRef) {
        let current = self.slots.get(socket.slot as usize).map(|slot| slot.generation);
        let Some(members) = self.rooms.get_mut(room) else { return };
        if current != Some(socket.generation) {
            return;
        }
        if let Ok(index) = members.binary_search_by_key(&socket.slot, |member| member.slot) {
            members.remove(index);
            if members.is_empty() {
                self.rooms.remove(room);
            }
            self.end_membership(room, socket.slot);
        }
    }

    fn end_membership(&mut self, room: &RoomName, slot: u32) {
        if self.delivery_options.get_mut(room).is_some_and(|options| options.leave(slot)) {
            self.delivery_options.remove(room);
        }
        let index = slot as usize;
        self.slots[index].memberships -= 1;
        self.release(index);
    }

    /// A slot is used again only when nothing refers to its last socket any more.
    fn release(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.socket.is_none() && slot.memberships == 0 {
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(index as u32);
        }
    }

    fn watch(&mut self) {
        self.reclaim.update(self.slots.len() - self.free.len(), clock::now());
    }

    fn event(&mut self, room: &RoomName, event: &Event) {
        if *event == Event::InsufficientState {
            return self.insufficient_state(room);
        }
        let Some(members) = self.rooms.get(room) else { return };
        let Some(push) = reply::event(room, event) else { return };
        let only_listeners = matches!(event, Event::Join(_) | Event::Leave(_));
        let mut offer = Offer::new(room, event, self.delivery_options.get_mut(room));
        let mut frames = [const { None::<Bytes> }; Form::COUNT * Encoding::COUNT];
        let mut delivered = 0;
        for member in members.iter().filter(|it| it.flags.join_leave || !only_listeners) {
            let Some(form) = offer.as_mut().map_or(Some(Form::Plain), |it| it.form(member.slot))
            else {
                continue;
            };
            if let Some(socket) = &self.slots[member.slot as usize].socket {
                let encoding = socket.encoding();
                let place = form as usize * Encoding::COUNT + encoding.index();
                let frame = frames[place].get_or_insert_with(|| match &offer {
                    Some(offer) => encoding.message(&offer.push(form, encoding.format())),
                    None => encoding.message(&push),
                });
                socket.do_send(ToSocket::Frame(frame.clone()));
                delivered += 1;
            }
        }
        self.metrics.deliveries.inc_by(delivered);
    }

    /// A message for one member only.
    fn push(&self, socket: SocketRef, room: &RoomName, publication: Arc<Publication>) {
        let Some(push) = reply::event(room, &Event::Publication(publication)) else { return };
        if let Some(socket) = self.socket(socket) {
            socket.do_send(ToSocket::Frame(socket.encoding().message(&push)));
            self.metrics.deliveries.inc();
        }
    }

    /// What is new about a key, for those who track it.
    fn key_update(&self, room: &RoomName, update: &KeyUpdate, sockets: &[SocketRef]) {
        let mut frames: [Option<Bytes>; Encoding::COUNT] = Default::default();
        let mut delivered = 0;
        for socket in sockets.iter().filter_map(|it| self.socket(*it)) {
            let encoding = socket.encoding();
            let frame = frames[encoding.index()].get_or_insert_with(|| {
                encoding.message(&reply::key_update(room, update, encoding.format()))
            });
            socket.do_send(ToSocket::Frame(frame.clone()));
            delivered += 1;
        }
        self.metrics.deliveries.inc_by(delivered);
    }

    /// Those who watch their position are out of the room at once, so that nothing reaches them after
    /// they are notified.
    fn insufficient_state(&mut self, room: &RoomName) {
        let Some(members) = self.rooms.remove(room) else { return };
        let (out, stay): (Vec<Member>, Vec<Member>) =
            members.into_iter().partition(|member| member.flags.positioned);
        if !stay.is_empty() {
            self.rooms.insert(room.clone(), stay);
        }
        for member in out {
            if let Some(socket) = &self.slots[member.slot as usize].socket {
                socket.do_send(ToSocket::Input(Box::new(In::InsufficientState(room.clone()))));
            }
            self.end_membership(room, member.slot);
        }
    }

    fn wake_due(&mut self) {
        let now = clock::now();
        while let Some(slot) = self.timers.next_due(now) {
            if let Some(socket) = &self.slots[slot as usize].socket {
                socket.do_send(ToSocket::Input(Box::new(In::Wake)));
            }
        }
    }

    /// Disconnects the next of the sockets, as many as it takes to be done in time.
    fn disconnect_some(&mut self) {
        let Some(stopping) = &mut self.stopping else { return };
        let left = &self.slots[stopping.notified.min(self.slots.len())..];
        let open = left.iter().filter(|slot| slot.socket.is_some()).count();
        let mut quota = share(open, stopping.until.since(clock::now()));
        for slot in left {
            if quota == 0 {
                break;
            }
            stopping.notified += 1;
            if let Some(socket) = &slot.socket {
                socket.do_send(disconnect(stopping.why.clone()));
                quota -= 1;
            }
        }
    }
}

impl Actor for Hub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        timers::run(ctx);
    }
}

impl Timed for Hub {
    const GRAIN: Duration = TICK;

    fn due(&self) -> Option<Time> {
        let pending = self.stopping.as_ref().filter(|it| it.notified < self.slots.len());
        let pending = pending.map(|_| Time::default());
        pending.into_iter().chain(self.timers.first()).chain(self.reclaim.due()).min()
    }

    fn run_due(&mut self) {
        self.wake_due();
        self.disconnect_some();
        if self.reclaim.take_due(clock::now()) {
            memory::give_back();
        }
    }
}

/// A publication that the members of a room are offered, some of whom have delivery options.
struct Offer<'a> {
    room: &'a RoomName,
    publication: &'a Arc<Publication>,
    before: Option<Arc<Publication>>,
    delivery_options: &'a mut DeliveryOptions,
}

impl<'a> Offer<'a> {
    /// None where all of them get the same.
    fn new(
        room: &'a RoomName,
        event: &'a Event,
        delivery_options: Option<&'a mut DeliveryOptions>,
    ) -> Option<Self> {
        let Event::Publication(publication) = event else { return None };
        let delivery_options = delivery_options?;
        let before = delivery_options.offer(publication);
        Some(Self { room, publication, before, delivery_options })
    }

    fn form(&mut self, slot: u32) -> Option<Form> {
        self.delivery_options.form(slot, self.before.is_some())
    }

    fn push(&self, form: Form, format: Format) -> Reply {
        reply::publication_push(self.room, self.publication, form, self.before.as_deref(), format)
    }
}

/// How many of the `open` sockets to notify in this tick, so that all are notified in the time that is left.
fn share(open: usize, left: Duration) -> usize {
    let ticks = left.as_millis() / TICK.as_millis() + 1;
    open.div_ceil(usize::try_from(ticks).unwrap_or(usize::MAX))
}

fn disconnect(why: Disconnect) -> ToSocket {
    ToSocket::Input(Box::new(In::Disconnect(why)))
}

impl Handler<Register> for Hub {
    type Result = MessageResult<Register>;

    fn handle(&mut self, Register(socket): Register, _: &mut Self::Context) -> Self::Result {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, socket: None, memberships: 0 });
            (self.slots.len() - 1) as u32
        });
        // It came in while the node was about to stop.
        if let Some(stopping) = &self.stopping {
            socket.do_send(disconnect(stopping.why.clone()));
        }
        let place = &mut self.slots[slot as usize];
        place.socket = Some(socket);
        let socket = SocketRef { worker: self.worker, slot, generation: place.generation };
        self.metrics.connections.inc();
        self.metrics.connections_opened.inc();
        self.watch();
        MessageResult(socket)
    }
}

impl Handler<FromSocket> for Hub {
    type Result = ();

    fn handle(&mut self, message: FromSocket, _: &mut Self::Context) {
        match message {
            FromSocket::WakeAt(socket, at) => {
                if self.socket(socket).is_some() {
                    self.timers.set(socket.slot, at);
                }
            }
            FromSocket::Closed(socket) => {
                let index = socket.slot as usize;
                let Some(slot) = self.slots.get_mut(index) else { return };
                if slot.generation == socket.generation && slot.socket.take().is_some() {
                    self.metrics.connections.dec();
                    self.timers.clear(socket.slot);
                    self.release(index);
                    self.watch();
                }
            }
        }
    }
}

impl Handler<ToHub> for Hub {
    type Result = ();

    fn handle(&mut self, ToHub(all): ToHub, _: &mut Self::Context) {
        for it in all {
            match it {
                ForHub::Control(socket, control) => self.tell(socket, In::Control(control)),
                ForHub::Out(out) => self.pass_on(out),
            }
        }
    }
}

impl Hub {
    /// To those that it concerns.
    fn pass_on(&mut self, out: Out) {
        match out {
            Out::Subscribed { socket, id, room, flags, delivery, result } => {
                if result.is_ok() {
                    self.enter(&room, socket, flags, delivery);
                }
                let result = result.map_err(Into::into);
                self.tell(socket, In::Subscribed { room, id, result });
            }
            Out::Unsubscribed { socket, reply, room } => {
                self.leave(&room, socket);
                if let ReplyTo::Command { id, .. } = reply {
                    self.tell(socket, In::Unsubscribed { id });
                }
            }
            Out::Answer { to: ReplyTo::Command { socket, id }, answer } => {
                self.tell(socket, In::Answer { id, answer });
            }
            Out::Event { room, event, .. } => self.event(&room, &event),
            Out::Push { socket, room, publication } => self.push(socket, &room, publication),
            Out::Answer { .. }
            | Out::Send { .. }
            | Out::Findings { .. }
            | Out::Log { .. }
            | Out::Control(_)
            | Out::Notify(_) => {}
        }
    }
}

impl Handler<FromPolls> for Hub {
    type Result = ();

    fn handle(&mut self, message: FromPolls, _: &mut Self::Context) {
        match message {
            FromPolls::Reply { socket, room, id, reply } => {
                self.tell(socket, In::Polled { room, id, reply });
            }
            FromPolls::Push { room, update, sockets } => self.key_update(&room, &update, &sockets),
            FromPolls::Outdated { room, sockets } => {
                for socket in sockets {
                    self.tell(socket, In::InsufficientState(room.clone()));
                }
            }
        }
    }
}

impl Handler<SocketInput> for Hub {
    type Result = ();

    fn handle(&mut self, SocketInput(socket, input): SocketInput, _: &mut Self::Context) {
        self.tell(socket, input);
    }
}

/// Close every connection, and each that comes from now on at once.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct DisconnectAll {
    /// What the clients are told.
    pub why: Disconnect,
    /// The time over which to spread it, so that not all of them connect elsewhere in the same moment.
    pub over: Duration,
}

impl Handler<DisconnectAll> for Hub {
    type Result = ();

    fn handle(&mut self, DisconnectAll { why, over }: DisconnectAll, _: &mut Self::Context) {
        self.stopping = Some(Stopping { why, until: clock::now() + over, notified: 0 });
        self.disconnect_some();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disconnects_are_spread_evenly_and_end_in_time() {
        assert_eq!(share(1000, Duration::ZERO), 1000);
        let (mut open, mut left, mut notified) = (1000, Duration::from_secs(5), Vec::new());
        while open > 0 {
            notified.push(share(open, left));
            open -= share(open, left);
            left = left.saturating_sub(TICK);
        }
        assert!(notified.len() <= 51, "{notified:?}");
        assert!(notified.iter().all(|count| (19..=20).contains(count)), "{notified:?}");
    }
}
