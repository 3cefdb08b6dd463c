//! SHELL. Who is in the cluster, as a live feed: a WebSocket that says it at once, and again whenever it changes.
//!
//! In: the view, as this node sees it. Out: one text frame for each state of it, `{"node": NAME, "nodes": [{"name",
//! "url", "phase"}, …]}`; `node` is who says it. Nothing that the peer says is looked at, but for the protocol's
//! own frames.
//!
//! Gossip takes some seconds to give up a node that has crashed, while the links to it break at once. So a node
//! whose link is gone for longer than a moment is left out, even if the view still has it.
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
    io,
    pin::pin,
    time::{Duration, Instant},
};

use actix::prelude::*;
use actix_codec::{AsyncRead, AsyncWrite, BytesCodec, Framed};
use actix_http::{error::PayloadError, ws::Codec};
use actix_web_actors::ws::{CloseCode, Message, ProtocolError, WebsocketContext};
use bytes::BytesMut;
use futures_util::{SinkExt as _, Stream, StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::parts::Parts;
use crate::cluster::{
    names::Reach,
    node::{NodeInfo, Phase},
    view::View,
};

/// Between one ping and the next. A peer that has not answered two is gone.
const PING: Duration = Duration::from_secs(15);
/// The most that a peer may say in a frame. It has nothing to say.
const FRAME_LIMIT: usize = 1024;
/// How long a link may be gone until its node is left out: one that broke is dialled again meanwhile.
const MOMENT: Duration = Duration::from_millis(500);

/// The view as the feed of the node of this name describes it.
pub fn description(node: &str, view: &View) -> Value {
    let mut nodes: Vec<&NodeInfo> = view.nodes().values().collect();
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
    let feed = Feed { parts: parts.clone(), last: Value::Null, heard: Instant::now() };
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
    /// What was said last.
    last: Value,
    /// When the peer last gave a sign of life.
    heard: Instant,
}

impl Actor for Feed {
    type Context = WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(views(self.parts.view.clone(), self.parts.reach.clone()));
        ctx.run_interval(PING, |feed, ctx| {
            if feed.heard.elapsed() > PING * 2 {
                ctx.stop();
            } else {
                ctx.ping(b"");
            }
        });
    }
}

/// The view as it is, without nodes that can't be reached, and then as it becomes; states that follow each other at
/// once may be left out.
fn views(
    mut view: watch::Receiver<View>,
    reach: watch::Receiver<Reach>,
) -> impl Stream<Item = View> {
    view.mark_changed();
    stream::unfold((view, reach), |(mut view, mut reach)| async move {
        tokio::select! {
            changed = view.changed() => changed.ok()?,
            Ok(()) = reach.changed() => sleep(MOMENT).await,
        }
        let now = reached(&view.borrow_and_update(), &reach.borrow_and_update());
        Some((now, (view, reach)))
    })
}

fn reached(view: &View, reach: &Reach) -> View {
    let here = view.nodes().iter().filter(|(id, _)| !reach.is_gone(**id));
    View::new(here.map(|(_, info)| info.clone()))
}

impl StreamHandler<View> for Feed {
    fn handle(&mut self, view: View, ctx: &mut Self::Context) {
        let now = description(&self.parts.config.name, &view);
        if self.last != now {
            ctx.text(now.to_string());
            self.last = now;
        }
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
        assert_eq!(description("a", &view), json!({"node": "a", "nodes": nodes}));
    }

    #[test]
    fn the_present_view_comes_first_and_the_stream_ends_with_the_node() {
        System::new().block_on(async {
            let (sender, receiver) = watch::channel(View::default());
            let (links, reach) = watch::channel(Reach::default());
            let mut views = Box::pin(views(receiver, reach));
            assert_eq!(views.next().await, Some(View::default()));
            let (a, b) = (node("a", Phase::Ready), node("b", Phase::Ready));
            let grown = View::new([a.clone(), b.clone()]);
            sender.send_replace(grown.clone());
            assert_eq!(views.next().await, Some(grown.clone()));
            links.send_modify(|it| it.failed(b.id()));
            assert_eq!(views.next().await, Some(View::new([a])), "b can't be reached");
            links.send_modify(|it| it.up(b.id()));
            assert_eq!(views.next().await, Some(grown));
            drop(sender);
            assert_eq!(views.next().await, None);
        });
    }
}
