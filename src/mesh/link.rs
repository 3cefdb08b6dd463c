//! SHELL. The actor of one link to one peer, over one TCP connection.
//!
//! It introduces itself, checks who answers, and from then on carries frames both ways. What waits to be
//! sent is bounded: a peer that does not take it is cut off, and catches up from the rooms' history when it
//! is back, rather than holding up the others.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix::prelude::*;
use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use super::{
    dialer::{Dialer, Ended},
    life::Life,
    noise::{self, Handshake, Opener, Sealer},
    wire::{self, Frame, Hello},
};
use crate::{
    cluster::{
        mesh_version::{MeshVersion, OURS, Versions},
        node::{NodeId, NodeInfo},
        secret::SealingKeys,
    },
    metrics::Metrics,
    room::actor::{CatchUp, FromLink, RoomRegistry, ToLink},
    runtime::clock,
    session::emulated::EmulatedSessions,
    shared_poll::actor::{FromPollLink, SharedPolls},
};

/// How often a link that has nothing to say says that it is there. A timer of the link's thread sees to it, so
/// busy rooms don't keep it from doing so.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long nothing at all may come, not even a part of something long, while this node reads: see [`Life`]. The
/// kernel alone would take a quarter of an hour to notice.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a link that seems dead gets to read what may be in its socket: if this process stood still, its
/// timers come up before its sockets.
const LAST_LOOK: Duration = Duration::from_millis(200);
/// How long the introduction may take.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// Bytes that are read before the registry has dealt with those read before.
const AHEAD: usize = 256 * 1024;
/// The same in messages: many small ones take the registry long, and what this node's own clients want is behind.
const MESSAGES_AHEAD: usize = 512;
/// Bytes that go into one write.
const WRITE: usize = 64 * 1024;

/// What every link of a node goes by.
#[derive(Clone)]
pub struct LinkSettings {
    /// This node.
    pub me: NodeInfo,
    /// Name of the cluster.
    pub cluster: String,
    /// Keys of sealed links, the first is the one to dial with; empty: links are not sealed.
    pub keys: SealingKeys,
    /// The most bytes that may wait for one peer.
    pub queue_limit: usize,
    /// What is counted.
    pub metrics: Metrics,
    /// The node's rooms.
    pub registry: Addr<RoomRegistry>,
    /// The sessions that commands may be for.
    pub emulated: Arc<EmulatedSessions>,
    /// What polls for the node's clients, if any room's keys are polled.
    pub polls: Option<Addr<SharedPolls>>,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The network said no.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The other side does not know the cluster's secret, or this one does not.
    #[error("the secrets differ, or one side has none (cluster.secret): {0}")]
    Noise(#[from] snow::Error),
    /// The other side does not speak our language.
    #[error("{0}")]
    Frame(#[from] wire::FrameError),
    /// The other side speaks it, but is not whom we want.
    #[error("{0}")]
    Refused(String),
    /// The other side said nothing for too long.
    #[error("no introduction within {} s", HANDSHAKE.as_secs())]
    Timeout,
}

/// A TCP connection on which both sides have introduced themselves.
pub struct Introduced {
    /// Who is on the other end.
    pub peer: NodeInfo,
    /// What the link uses.
    version: MeshVersion,
    reader: Reader,
    write: OwnedWriteHalf,
    sealer: Sealer,
}

struct Reader {
    read: OwnedReadHalf,
    opener: Opener,
    sealed: BytesMut,
    open: BytesMut,
}

impl Reader {
    /// The next messages, at least one. Counts in `read` what it reads for them.
    async fn next(
        &mut self,
        life: &RefCell<Life>,
        read: &mut usize,
    ) -> Result<Vec<Frame>, LinkError> {
        loop {
            let mut messages = Vec::new();
            while let Some(message) = wire::decode(&mut self.open)? {
                messages.push(message);
            }
            if !messages.is_empty() {
                return Ok(messages);
            }
            self.sealed.reserve(WRITE);
            let count = self.read.read_buf(&mut self.sealed).await?;
            if count == 0 {
                return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
            }
            life.borrow_mut().heard();
            *read += count;
            self.opener.open(&mut self.sealed, &mut self.open)?;
        }
    }
}

/// Introduces this node to the other end. `to` is the node that was dialled.
///
/// # Errors
/// See [`LinkError`]. The connection is closed then.
pub async fn introduce(
    io: TcpStream,
    to: Option<NodeId>,
    settings: &LinkSettings,
) -> Result<Introduced, LinkError> {
    let introduction = tokio::time::timeout(HANDSHAKE, try_introduce(io, to, settings));
    introduction.await.unwrap_or(Err(LinkError::Timeout))
}

async fn try_introduce(
    mut io: TcpStream,
    to: Option<NodeId>,
    settings: &LinkSettings,
) -> Result<Introduced, LinkError> {
    io.set_nodelay(true)?;
    let (mut sealer, opener) = match (settings.keys.as_slice(), to) {
        ([], _) => noise::plain(),
        ([key, ..], Some(_)) => dial_sealed(&mut io, Handshake::new(key, true)?).await?,
        (keys, None) => answer_sealed(&mut io, keys).await?,
    };
    let (read, mut write) = io.into_split();
    let mut reader = Reader { read, opener, sealed: BytesMut::new(), open: BytesMut::new() };
    let hello = Hello {
        newest: OURS.newest,
        cluster: settings.cluster.clone(),
        node: settings.me.clone(),
        to,
        oldest: OURS.oldest,
    };
    let frame = wire::encode(&Frame::Hello(hello))
        .map_err(|_| LinkError::Refused("this node's own hello is too large".into()))?;
    let mut sealed = BytesMut::new();
    sealer.seal(&frame, &mut sealed)?;
    write.write_all(&sealed).await?;
    let (peer, version) = loop {
        // No more than the hello: what follows it belongs to the link.
        if let Some(message) = wire::decode(&mut reader.open)? {
            break check_hello(message, to, &settings.me, &settings.cluster)?;
        }
        if reader.read.read_buf(&mut reader.sealed).await? == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        reader.opener.open(&mut reader.sealed, &mut reader.open)?;
    };
    Ok(Introduced { peer, version, reader, write, sealer })
}

async fn dial_sealed(
    io: &mut TcpStream,
    mut handshake: Handshake,
) -> Result<(Sealer, Opener), LinkError> {
    send_handshake(io, &mut handshake).await?;
    handshake.read(&read_handshake(io).await?)?;
    Ok(handshake.finish()?)
}

async fn answer_sealed(
    io: &mut TcpStream,
    keys: &[[u8; 32]],
) -> Result<(Sealer, Opener), LinkError> {
    let mut handshake = Handshake::answer(keys, &read_handshake(io).await?)?;
    send_handshake(io, &mut handshake).await?;
    Ok(handshake.finish()?)
}

async fn read_handshake(io: &mut TcpStream) -> Result<Vec<u8>, LinkError> {
    let length = usize::from(io.read_u16().await?);
    if length > 128 {
        return Err(LinkError::Refused(format!("a handshake of {length} bytes")));
    }
    let mut message = vec![0; length];
    io.read_exact(&mut message).await?;
    Ok(message)
}

async fn send_handshake(io: &mut TcpStream, handshake: &mut Handshake) -> Result<(), LinkError> {
    let message = handshake.write()?;
    io.write_u16(message.len() as u16).await?;
    io.write_all(&message).await?;
    Ok(())
}

fn check_hello(
    message: Frame,
    dialled: Option<NodeId>,
    me: &NodeInfo,
    cluster: &str,
) -> Result<(NodeInfo, MeshVersion), LinkError> {
    let refuse = |why: String| Err(LinkError::Refused(why));
    let Frame::Hello(hello) = message else {
        return refuse("it did not introduce itself".into());
    };
    let id = hello.node.id();
    let theirs = Versions { oldest: hello.oldest, newest: hello.newest };
    let Some(version) = OURS.agree(theirs) else {
        return refuse(format!(
            "it speaks mesh version {theirs}, this node {OURS}: upgrade one version at a time"
        ));
    };
    if hello.cluster != cluster {
        return refuse(format!("it belongs to cluster {:?} (cluster.id)", hello.cluster));
    }
    // Another run under this node's name is let in: they have to settle who bears it.
    if id == me.id() {
        return refuse("it is this node itself".into());
    }
    if hello.to.is_some_and(|to| to != me.id()) || dialled.is_some_and(|to| to != id) {
        return refuse(format!("{:?} is another run of that node", hello.node.name));
    }
    Ok((hello.node, version))
}

/// What waits to be sent.
#[derive(Default)]
struct Outgoing {
    frames: RefCell<VecDeque<Bytes>>,
    bytes: Cell<usize>,
    more: Notify,
}

/// The actor of one link.
pub struct Link {
    settings: LinkSettings,
    peer: NodeInfo,
    version: MeshVersion,
    outgoing: Rc<Outgoing>,
    /// Shared with the task that reads.
    life: Rc<RefCell<Life>>,
    /// Whether there was something to say since the last heartbeat was due.
    spoke: bool,
    halves: Option<(Reader, OwnedWriteHalf, Sealer)>,
    dialer: Addr<Dialer>,
    reason: &'static str,
}

impl Link {
    /// The actor of a connection on which both sides are known.
    pub fn new(introduced: Introduced, settings: LinkSettings, dialer: Addr<Dialer>) -> Self {
        let Introduced { peer, version, reader, write, sealer } = introduced;
        Self {
            settings,
            peer,
            version,
            outgoing: Rc::default(),
            life: Rc::new(RefCell::new(Life::new(HEARTBEAT, SILENCE, clock::now()))),
            spoke: false,
            halves: Some((reader, write, sealer)),
            dialer,
            reason: "lost",
        }
    }

    fn queue(&mut self, frames: Vec<Bytes>, ctx: &mut Context<Self>) {
        let bytes = self.outgoing.bytes.get() + frames.iter().map(Bytes::len).sum::<usize>();
        if bytes > self.settings.queue_limit {
            tracing::warn!(peer = %self.peer.name, bytes, "a node does not take what it is sent; closing the link");
            self.reason = "slow";
            ctx.stop();
            return;
        }
        self.outgoing.bytes.set(bytes);
        self.outgoing.frames.borrow_mut().extend(frames);
        self.outgoing.more.notify_one();
    }

    fn tell_polls(&self, message: FromPollLink) {
        if let Some(polls) = &self.settings.polls {
            polls.do_send(message);
        }
    }

    fn give_up(&mut self, ctx: &mut Context<Self>) {
        if self.life.borrow_mut().is_over(clock::now()) {
            self.reason = "silent";
            ctx.stop();
        }
    }

    fn check(&mut self, ctx: &mut Context<Self>) {
        if self.life.borrow_mut().is_over(clock::now()) {
            ctx.run_later(LAST_LOOK, Self::give_up);
        }
        self.settings
            .metrics
            .mesh_queue_bytes
            .with_label_values(&[&self.peer.name])
            .set(self.outgoing.bytes.get() as i64);
        // Both sides do, so neither has to ask the other.
        if !std::mem::take(&mut self.spoke)
            && let Ok(frame) = wire::encode(&Frame::Alive)
        {
            self.queue(vec![frame], ctx);
        }
    }
}

impl Actor for Link {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some((reader, write, sealer)) = self.halves.take() else { return };
        let id = self.peer.id();
        tracing::info!(peer = %self.peer.name, %id, version = self.version, "link up");
        self.settings.registry.do_send(FromLink::LinkUp(
            id,
            self.version,
            ctx.address().recipient(),
        ));
        self.tell_polls(FromPollLink::Up(id, ctx.address().recipient()));
        let metrics = self.settings.metrics.clone();
        let reading = receive(reader, id, self.settings.clone(), self.life.clone());
        let writing = send(write, sealer, self.outgoing.clone(), metrics);
        for half in [
            Box::pin(reading) as std::pin::Pin<Box<dyn Future<Output = LinkError>>>,
            Box::pin(writing),
        ] {
            ctx.spawn(half.into_actor(self).map(|error, link, ctx| {
                tracing::info!(peer = %link.peer.name, %error, "link down");
                ctx.stop();
            }));
        }
        ctx.run_interval(HEARTBEAT, Self::check);
    }

    fn stopped(&mut self, ctx: &mut Self::Context) {
        let metrics = &self.settings.metrics;
        metrics.mesh_links_closed.with_label_values(&[self.reason]).inc();
        // A label that no node has any more would stay for ever.
        let _ = metrics.mesh_queue_bytes.remove_label_values(&[&self.peer.name]);
        self.settings
            .registry
            .do_send(FromLink::LinkDown(self.peer.id(), ctx.address().recipient()));
        self.tell_polls(FromPollLink::Down(self.peer.id(), ctx.address().recipient()));
        self.dialer.do_send(Ended(self.peer.id()));
    }
}

/// Takes what the peer sends, and not much more than the registry has dealt with: a busy one slows the peer
/// down by TCP.
async fn receive(
    mut reader: Reader,
    peer: NodeId,
    settings: LinkSettings,
    life: Rc<RefCell<Life>>,
) -> LinkError {
    let (counter, bytes) = (
        settings.metrics.mesh_messages.with_label_values(&["in"]),
        settings.metrics.mesh_bytes.with_label_values(&["in"]),
    );
    let (mut ahead, mut messages_ahead) = (0, 0);
    loop {
        let mut read = 0;
        let messages = match reader.next(&life, &mut read).await {
            Ok(messages) => messages,
            Err(error) => return error,
        };
        counter.inc_by(messages.len() as u64);
        bytes.inc_by(read as u64);
        ahead += read;
        messages_ahead += messages.len();
        let mut about_rooms = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Frame::Alive => {}
                Frame::Emulation(session, commands) => {
                    settings.emulated.give(&session, commands);
                }
                Frame::Rooms(message) => about_rooms.push(message),
                Frame::Polls(message) => {
                    if let Some(polls) = &settings.polls {
                        polls.do_send(FromPollLink::Peer(peer, message));
                    }
                }
                // Once is enough.
                Frame::Hello(_) => {}
            }
        }
        if !about_rooms.is_empty() {
            settings.registry.do_send(FromLink::Peer(peer, about_rooms));
        }
        if ahead >= AHEAD || messages_ahead >= MESSAGES_AHEAD {
            (ahead, messages_ahead) = (0, 0);
            life.borrow_mut().pause();
            if settings.registry.send(CatchUp).await.is_err() {
                return LinkError::Refused("the registry is gone".into());
            }
            life.borrow_mut().resume(clock::now());
        }
    }
}

/// Writes what waits, small frames together.
async fn send(
    mut write: OwnedWriteHalf,
    mut sealer: Sealer,
    outgoing: Rc<Outgoing>,
    metrics: Metrics,
) -> LinkError {
    let (messages, bytes) = (
        metrics.mesh_messages.with_label_values(&["out"]),
        metrics.mesh_bytes.with_label_values(&["out"]),
    );
    let (mut batch, mut sealed) = (BytesMut::new(), BytesMut::new());
    loop {
        batch.clear();
        sealed.clear();
        while batch.len() < WRITE {
            let Some(frame) = outgoing.frames.borrow_mut().pop_front() else { break };
            messages.inc();
            batch.extend_from_slice(&frame);
        }
        if batch.is_empty() {
            (batch, sealed) = (BytesMut::new(), BytesMut::new());
            outgoing.more.notified().await;
            continue;
        }
        // All as one: to seal a small frame by itself takes ten times as long.
        if let Err(error) = sealer.seal(&batch, &mut sealed) {
            return error.into();
        }
        if let Err(error) = write.write_all(&sealed).await {
            return error.into();
        }
        bytes.inc_by(sealed.len() as u64);
        outgoing.bytes.set(outgoing.bytes.get() - batch.len());
    }
}

impl Handler<ToLink> for Link {
    type Result = ();

    fn handle(&mut self, message: ToLink, ctx: &mut Self::Context) {
        match message {
            ToLink::Frames(frames) => {
                self.spoke = true;
                self.queue(frames, ctx);
            }
            ToLink::Replaced => {
                self.reason = "replaced";
                ctx.stop();
            }
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
