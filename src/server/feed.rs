//! SHELL. Who is in the cluster, as a live feed: a WebSocket that says it at once, and again whenever it changes.
//!
//! In: the view, as this node sees it. Out: one text frame for each state of it, `{"node": NAME, "nodes": [{"name",
//! "url", "phase"}, …]}`; `node` is who says it. Nothing that the peer says is looked at, but for the protocol's
//! own frames.
//!
//! Gossip takes some seconds to give up a node that has crashed, while the links to it break at once. So a node
//! that refuses connections when a link is missing is left out, even if the view still has it.
//!
//! The feed knows neither its path nor who may read it: [`upgrade`] decides both, today for the demo's page
//! ([`demo`]). A page for operators can be given the same feed, under a path and rules of its own.
//!
//! It is an actor of `actix-web-actors`, whose two buffers take 8 KiB each: of no account for the few pages that
//! look at a cluster. Clients, of which there are very many, are served by [`session::socket`] instead.
//!
//! [`upgrade`]: super::upgrade
//! [`demo`]: super::demo
//! [`session::socket`]: crate::session::socket

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    pin::pin,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_codec::{AsyncRead, AsyncWrite, BytesCodec, Framed};
use actix_http::{error::PayloadError, ws::Codec};
use actix_web_actors::ws::{CloseCode, Message, ProtocolError, WebsocketContext};
use bytes::BytesMut;
use futures_util::{SinkExt as _, Stream, StreamExt as _, TryStreamExt as _, future, stream};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch, time};

use super::parts::Parts;
use crate::cluster::{
    node::{NodeId, NodeInfo, Phase},
    view::View,
};

/// Between one ping and the next. A peer that has not answered two is gone.
const PING: Duration = Duration::from_secs(15);
/// The most that a peer may say in a frame. It has nothing to say.
const FRAME_LIMIT: usize = 1024;

/// How often it is looked whether a link is missing.
const LOOK: Duration = Duration::from_millis(500);

/// The view in the words of the feed, as told by the node of this name.
pub fn told(node: &str, view: &View) -> Value {
    told_without(&BTreeSet::new(), node, view)
}

fn told_without(gone: &BTreeSet<NodeId>, node: &str, view: &View) -> Value {
    let here = view.nodes().iter().filter(|(id, _)| !gone.contains(id));
    let mut nodes: Vec<&NodeInfo> = here.map(|(_, info)| info).collect();
    // Of several runs under one name the last is the one that takes part.
    nodes.sort_by_key(|it| (&it.name, it.phase == Phase::Ready));
    let nodes = nodes.into_iter().map(
        |it| json!({"name": it.name, "url": format!("http://{}", it.http), "phase": it.phase.word()}),
    );
    json!({"node": node, "nodes": nodes.collect::<Value>()})
}

/// Feeds a connection that has become a WebSocket, until either side ends it.
///
/// # Errors
/// If the connection breaks.
pub async fn run<T>(parts: &Parts, io: Framed<T, BytesCodec>) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let (mut out, heard) = io.split();
    let heard = heard.map_ok(BytesMut::freeze).map_err(PayloadError::Io);
    let feed = Feed {
        parts: parts.clone(),
        view: View::default(),
        gone: BTreeSet::new(),
        last: Value::Null,
        heard: Instant::now(),
    };
    let codec = Codec::new().max_size(FRAME_LIMIT);
    let frames = WebsocketContext::with_codec(feed, heard, codec);
    let mut frames = pin!(frames.map_err(|error| io::Error::other(error.to_string())));
    // To close does not flush: the last frame, which says why, would not go out.
    out.send_all(&mut frames).await?;
    out.close().await
}

/// The actor of one connection.
struct Feed {
    parts: Parts,
    view: View,
    /// Nodes of the view that refuse connections.
    gone: BTreeSet<NodeId>,
    /// What was said last.
    last: Value,
    /// When the peer last gave a sign of life.
    heard: Instant,
}

impl Feed {
    fn tell(&mut self, ctx: &mut WebsocketContext<Self>) {
        let now = told_without(&self.gone, &self.parts.config.name, &self.view);
        if self.last != now {
            ctx.text(now.to_string());
            self.last = now;
        }
    }

    /// Whether this node has fewer links than there are others.
    fn misses_links(&self) -> bool {
        let links = usize::try_from(self.parts.metrics.mesh_links.get()).unwrap_or(0);
        links + 1 < self.view.nodes().len()
    }

    fn look(&mut self, ctx: &mut WebsocketContext<Self>) {
        if !self.misses_links() {
            self.gone.clear();
            return self.tell(ctx);
        }
        let nodes = self.view.nodes().iter().map(|(id, info)| (*id, info.http));
        let asking = future::join_all(nodes.map(|(id, at)| async move { (id, refuses(at).await) }));
        ctx.spawn(asking.into_actor(self).map(|answers, feed, ctx| {
            let gone = answers.into_iter().filter(|(_, refuses)| *refuses);
            feed.gone = gone.map(|(id, _)| id).collect();
            feed.tell(ctx);
        }));
    }
}

/// Whether nothing is bound there any more; a node that only does not answer may be there.
async fn refuses(address: SocketAddr) -> bool {
    let connected = time::timeout(LOOK, TcpStream::connect(address)).await;
    matches!(connected, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

impl Actor for Feed {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(views(self.parts.view.clone()));
        ctx.run_interval(LOOK, Self::look);
        ctx.run_interval(PING, |feed, ctx| {
            if feed.heard.elapsed() > PING * 2 {
                ctx.stop();
            } else {
                ctx.ping(b"");
            }
        });
    }
}

/// The view as it is, and then as it becomes; states that follow each other at once may be left out.
fn views(mut view: watch::Receiver<View>) -> impl Stream<Item = View> {
    view.mark_changed();
    stream::unfold(view, |mut view| async move {
        view.changed().await.ok()?;
        let now = view.borrow_and_update().clone();
        Some((now, view))
    })
}

impl StreamHandler<View> for Feed {
    fn handle(&mut self, view: View, ctx: &mut Self::Context) {
        self.view = view;
        self.tell(ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.close(Some(CloseCode::Away.into()));
        ctx.stop();
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Feed {
    fn handle(&mut self, said: Result<Message, ProtocolError>, ctx: &mut Self::Context) {
        self.heard = Instant::now();
        match said {
            Ok(Message::Ping(data)) => ctx.pong(&data),
            Ok(Message::Close(why)) => {
                ctx.close(why);
                ctx.stop();
            }
            Ok(_) => {}
            Err(_) => {
                ctx.close(Some(CloseCode::Protocol.into()));
                ctx.stop();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, phase: Phase) -> NodeInfo {
        let address = ([127, 0, 0, 1], 80).into();
        NodeInfo { name: name.into(), generation: 0, mesh: address, http: address, phase }
    }

    #[test]
    fn a_view_is_told_by_name() {
        let view = View::new([node("b", Phase::Draining), node("a", Phase::Ready)]);
        let url = "http://127.0.0.1:80";
        let nodes = [("a", "ready"), ("b", "draining")];
        let nodes = nodes.map(|(name, phase)| json!({"name": name, "url": url, "phase": phase}));
        assert_eq!(told("a", &view), json!({"node": "a", "nodes": nodes}));
        let gone = BTreeSet::from([NodeId::new("b", 0)]);
        let told = told_without(&gone, "a", &view);
        assert_eq!(told, json!({"node": "a", "nodes": nodes[..1]}));
    }

    #[test]
    fn the_present_view_comes_first_and_the_stream_ends_with_the_node() {
        System::new().block_on(async {
            let (sender, receiver) = watch::channel(View::default());
            let mut views = Box::pin(views(receiver));
            assert_eq!(views.next().await, Some(View::default()));
            let grown = View::new([node("a", Phase::Ready)]);
            sender.send_replace(grown.clone());
            assert_eq!(views.next().await, Some(grown));
            drop(sender);
            assert_eq!(views.next().await, None);
        });
    }
}
