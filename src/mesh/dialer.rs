//! SHELL. Keeps a link to every node that gossip knows of: of any two nodes one dials ([`NodeInfo::dials`]).

use std::{collections::BTreeSet, time::Duration};

use actix::prelude::*;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::link::{self, Introduced, Link, LinkSettings};
use crate::cluster::{
    membership::Known,
    names::{KnownNodes, Reach},
    node::{NodeId, NodeInfo},
    secret::SealingKeys,
};

/// How long after a link has failed it is dialled again.
const REDIAL: Duration = Duration::from_millis(200);
/// How long a connect may take.
const CONNECT: Duration = Duration::from_secs(2);

/// The actor that dials and accepts links.
pub struct Dialer {
    settings: LinkSettings,
    /// All nodes that gossip knows of, with several runs of one name if there are.
    known: KnownNodes,
    /// Nodes that are dialled or linked just now.
    busy: BTreeSet<NodeId>,
    /// What comes of it.
    reach: watch::Sender<Reach>,
}

impl Dialer {
    /// A dialer that knows of no other node yet.
    pub fn new(settings: LinkSettings) -> Self {
        let (known, busy) = (KnownNodes::new(), BTreeSet::new());
        Self { settings, known, busy, reach: watch::Sender::default() }
    }

    /// Which nodes can be reached, from now on.
    pub fn reach(&self) -> watch::Receiver<Reach> {
        self.reach.subscribe()
    }

    fn dial_missing(&mut self, ctx: &mut Context<Self>) {
        let me = &self.settings.me;
        let missing: Vec<NodeInfo> = (self.known.iter())
            .filter(|(id, info)| me.dials(info) && !self.busy.contains(*id))
            .map(|(_, info)| info.clone())
            .collect();
        for peer in missing {
            self.busy.insert(peer.id());
            self.dial(peer, ctx);
        }
    }

    /// There is no link to `peer`, and for a moment none is dialled.
    fn dial_later(&self, peer: NodeId, ctx: &mut Context<Self>) {
        ctx.run_later(REDIAL, move |dialer, ctx| {
            dialer.busy.remove(&peer);
            dialer.dial_missing(ctx);
        });
    }

    fn dial(&self, peer: NodeInfo, ctx: &mut Context<Self>) {
        let settings = self.settings.clone();
        let id = peer.id();
        let dialling = async move {
            let connecting = tokio::time::timeout(CONNECT, TcpStream::connect(peer.mesh));
            let io = connecting.await.map_err(|_| link::LinkError::Timeout)??;
            link::introduce(io, Some(id), &settings).await
        };
        ctx.spawn(dialling.into_actor(self).map(move |result, dialer, ctx| match result {
            Ok(introduced) => dialer.open(introduced, ctx),
            Err(error) => {
                let address = dialer.known.get(&id).map(|peer| peer.mesh);
                tracing::debug!(?address, %error, "no link");
                dialer.reach.send_modify(|it| it.failed(id));
                dialer.dial_later(id, ctx);
            }
        }));
    }

    fn open(&mut self, introduced: Introduced, ctx: &mut Context<Self>) {
        let id = introduced.peer.id();
        self.busy.insert(id);
        self.reach.send_modify(|it| it.up(id));
        Link::new(introduced, self.settings.clone(), ctx.address()).start();
    }

    /// A connection that is not accepted gets no answer: it may come from anyone.
    fn accept(&mut self, io: TcpStream, ctx: &mut Context<Self>) {
        let settings = self.settings.clone();
        let from = io.peer_addr().ok();
        let introduction = async move { link::introduce(io, None, &settings).await };
        ctx.spawn(introduction.into_actor(self).map(move |result, dialer, ctx| match result {
            Ok(introduced) => dialer.open(introduced, ctx),
            Err(error) => {
                dialer
                    .settings
                    .metrics
                    .mesh_links_closed
                    .with_label_values(&["not_introduced"])
                    .inc();
                tracing::warn!(?from, %error, "a link was refused");
            }
        }));
    }
}

impl Actor for Dialer {
    type Context = Context<Self>;
}

impl Handler<Known> for Dialer {
    type Result = ();

    fn handle(&mut self, Known(nodes): Known, ctx: &mut Self::Context) {
        self.known = nodes;
        let known = &self.known;
        self.reach.send_modify(|it| it.keep(|node| known.contains_key(&node)));
        self.dial_missing(ctx);
    }
}

/// Seal and open new links with these keys from now on. Those that are there have keys of their own.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Reseal(pub SealingKeys);

impl Handler<Reseal> for Dialer {
    type Result = ();

    fn handle(&mut self, Reseal(keys): Reseal, _: &mut Self::Context) {
        self.settings.keys = keys;
    }
}

/// A link has ended: it may be dialled again.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ended(pub NodeId);

impl Handler<Ended> for Dialer {
    type Result = ();

    fn handle(&mut self, Ended(peer): Ended, ctx: &mut Self::Context) {
        self.reach.send_modify(|it| it.down(peer));
        self.dial_later(peer, ctx);
    }
}

/// Accept links on this listener.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Listen(pub TcpListener);

impl Handler<Listen> for Dialer {
    type Result = ();

    fn handle(&mut self, Listen(listener): Listen, ctx: &mut Self::Context) {
        let dialer = ctx.address();
        let accepting = async move {
            loop {
                match listener.accept().await {
                    Ok((io, _)) => dialer.do_send(Accepted(io)),
                    Err(error) => {
                        // Out of files, most likely: trying again at once would only burn time.
                        tracing::error!(%error, "can't accept links");
                        tokio::time::sleep(REDIAL).await;
                    }
                }
            }
        };
        ctx.spawn(accepting.into_actor(self));
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Accepted(TcpStream);

impl Handler<Accepted> for Dialer {
    type Result = ();

    fn handle(&mut self, Accepted(io): Accepted, ctx: &mut Self::Context) {
        self.accept(io, ctx);
    }
}
