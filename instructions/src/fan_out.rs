//! One worker of a node, and a thousand clients of its on loopback, in one thread.
//!
//! In: publications, for the registry. Out: frames, written to each client's connection. All between is what
//! a node has: the registry, the hub, and a socket's actor, session and outbox for each client. What the
//! kernel does is not counted. On one thread the order of things is always the same.

use std::{cell::RefCell, net::Ipv4Addr, rc::Rc, sync::Arc};

use actix::prelude::*;
use anyhow::Context as _;
use bytes::BytesMut;
use roomcast::{
    backend::client::BackendClients,
    cluster::{membership::NewView, view::View},
    config::load,
    hub::Hub,
    mesh::wire::encode_rooms,
    metrics::Metrics,
    protocol::encoding::Encoding,
    room::{
        actor::{AddHub, RoomRegistry, SocketRequest},
        registry::State,
        types::{NodeFacts, ReplyTo, Request},
        users::Users,
    },
    runtime::live::Live,
    server::parts::session_settings,
    session::{
        admitted::Admitted,
        context::{SocketContext, Wire},
        driver::{Driver, Shared},
        messages::ConnectionAddress,
        socket::Socket,
    },
};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use crate::operations::{CLIENTS, namespaces, new_publication, node, room};

/// What a client sends first, and which word is in the answer to the last of it.
const COMMANDS: &[u8] =
    b"{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"chat:lobby\"}}";
const IN_THE_ROOM: &[u8] = b"\"subscribe\"";

/// The worker and its clients.
pub struct FanOut {
    system: SystemRunner,
    registry: Addr<RoomRegistry>,
    metrics: Metrics,
    _clients: Vec<std::net::TcpStream>,
}

impl FanOut {
    /// All clients are in the room.
    ///
    /// # Errors
    /// If they can't be.
    pub fn new() -> anyhow::Result<Self> {
        let system = System::new();
        let (shared, clients) = system.block_on(async {
            let shared = worker().await?;
            anyhow::Ok((shared.clone(), connect_all(&shared).await?))
        })?;
        let (registry, metrics) = (shared.registry.clone(), shared.metrics.clone());
        Ok(Self { system, registry, metrics, _clients: clients })
    }

    /// Publishes so often, each when all clients have been sent the one before. Returns how many deliveries
    /// that was.
    pub fn publish(&mut self, times: u64) -> u64 {
        let (registry, sent) = (&self.registry, &self.metrics.messages_sent);
        let before = sent.get();
        self.system.block_on(async {
            for done in 1..=times {
                let publish = Request::Publish(new_publication(), ReplyTo::Nobody);
                registry.do_send(SocketRequest(room(), publish));
                while sent.get() < before + done * CLIENTS {
                    tokio::task::yield_now().await;
                }
            }
        });
        sent.get() - before
    }
}

/// What a node has for one worker.
async fn worker() -> anyhow::Result<Rc<Shared>> {
    // No ping comes between.
    let flags = vec![("client.insecure", true.into()), ("client.ping_interval", "1h".into())];
    let mut config = load::load(None, [], flags)?;
    config.namespaces = namespaces();
    let (metrics, users, me) = (Metrics::new()?, Arc::new(Users::default()), node("a"));
    let state = State::new(me.id(), config.namespaces.clone(), config.rooms.clone(), 1);
    let facts = NodeFacts::default();
    let (counted, online) = (metrics.clone(), users.clone());
    let registry =
        RoomRegistry::new(state, facts, counted, online, None, None, encode_rooms).start();
    registry.send(NewView(View::new([me.clone()]))).await?;
    let hub = Hub::new(0, metrics.clone()).start();
    registry.send(AddHub(0, hub.clone().recipient())).await?;
    let (settings, keys) = session_settings(&config, me.id().to_string())?;
    let wire = Wire {
        message_limit: config.message_size_limit,
        write_timeout: config.client.write_timeout.0,
        messages_sent: metrics.messages_sent.clone(),
        bytes_sent: metrics.bytes_sent.clone(),
    };
    Ok(Rc::new(Shared {
        hub: hub.into(),
        registry,
        polls: None,
        settings: Live::new(settings),
        keys,
        backends: BackendClients::new(Vec::new(), metrics.clone())?,
        webhooks: None,
        wire: Rc::new(wire),
        outbox_limit: config.client.queue_max_size,
        user_limit: 0,
        metrics,
        users,
        outputs: RefCell::default(),
    }))
}

async fn connect_all(shared: &Rc<Shared>) -> anyhow::Result<Vec<std::net::TcpStream>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let client = TcpStream::connect(listener.local_addr()?).await?;
        let (server, _) = listener.accept().await?;
        open(shared, server).await?;
        clients.push(enter(client).await.context("a client does not get into the room")?);
    }
    Ok(clients)
}

/// As after an upgrade, with what the client has sent right behind it.
async fn open(shared: &Rc<Shared>, server: TcpStream) -> anyhow::Result<()> {
    server.set_nodelay(true)?;
    let encoding = Encoding::SocketJson;
    // Masked with zeros, which changes nothing.
    let head = [0x81, 0x80 | COMMANDS.len() as u8, 0, 0, 0, 0];
    let sent = BytesMut::from(&[&head[..], COMMANDS].concat()[..]);
    let (context, mailbox) = SocketContext::new(server.into(), sent, encoding, shared.wire.clone());
    let connection = ConnectionAddress::WebSocket(encoding, context.address());
    let admitted = Admitted { permit: None, user: None, headers: None };
    let driver = Driver::begin(shared.clone(), connection, None, admitted).await?;
    context.run(Socket::new(driver, None), mailbox);
    Ok(())
}

/// Reads until the client is in the room. After that it reads nothing: what it is sent has room in the kernel.
async fn enter(mut client: TcpStream) -> anyhow::Result<std::net::TcpStream> {
    let mut received = Vec::new();
    while !received.windows(IN_THE_ROOM.len()).any(|it| it == IN_THE_ROOM) {
        anyhow::ensure!(client.read_buf(&mut received).await? > 0, "its connection was closed");
    }
    Ok(client.into_std()?)
}
