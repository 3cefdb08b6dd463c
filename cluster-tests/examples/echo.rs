//! A WebSocket echo server around Roomcast's own sockets, for test suites that want one: the same context,
//! handshake and frames, with an actor that sends back what it gets. See `cluster-tests/autobahn`.
//!
//! Prints the address it listens on, and runs until it is killed.

use std::{convert::Infallible, net::TcpListener, rc::Rc, time::Duration};

use actix::prelude::*;
use actix_codec::Framed;
use actix_http::{HttpService, Request, Response, body::BodySize, h1, ws};
use actix_rt::net::TcpStream;
use actix_server::Server;
use actix_service::fn_service;
use bytes::BytesMut;
use futures_util::SinkExt as _;
use prometheus::IntCounter;
use roomcast::{
    protocol::{
        encoding::Encoding,
        websocket::{self, Opcode},
    },
    session::{
        context::{Data, Progress, SocketContext, Wire},
        incoming::FromClient,
    },
};

/// The suite sends messages of up to 16 MiB.
const MESSAGE_LIMIT: usize = 20 << 20;

/// Has its own address, since an actor that nobody can reach ends.
struct Echo(#[expect(dead_code, reason = "to be reachable")] Addr<Self>);

impl Actor for Echo {
    type Context = SocketContext<Self>;
}

impl Handler<FromClient> for Echo {
    type Result = ();

    fn handle(&mut self, frame: FromClient, ctx: &mut Self::Context) {
        match ctx.receive(frame) {
            Some(Ok(Data::Text(payload))) => {
                ctx.outbox.push_frame(websocket::frame(Opcode::Text, &payload));
            }
            Some(Ok(Data::Binary(payload))) => {
                ctx.outbox.push_frame(websocket::frame(Opcode::Binary, &payload));
            }
            Some(Err(violation)) => {
                ctx.close(violation.close_code(), "");
            }
            None => {}
        }
    }
}

impl Handler<Progress> for Echo {
    type Result = ();

    fn handle(&mut self, progress: Progress, ctx: &mut Self::Context) {
        if let Progress::Stalled = progress {
            ctx.end();
        }
    }
}

async fn upgrade(request: Request, mut io: Framed<TcpStream, h1::Codec>) -> std::io::Result<()> {
    let response = ws::handshake(request.head()).map(|mut it| it.finish().drop_body());
    let response = response.map_err(std::io::Error::other)?;
    io.send(h1::Message::Item((response, BodySize::None))).await?;
    let parts = io.into_parts();
    parts.io.set_nodelay(true)?;
    let wire = Wire {
        message_limit: MESSAGE_LIMIT,
        write_timeout: Duration::from_secs(60),
        messages_sent: IntCounter::new("messages", "Messages.").map_err(std::io::Error::other)?,
        bytes_sent: IntCounter::new("bytes", "Bytes.").map_err(std::io::Error::other)?,
    };
    let rest = BytesMut::from(&parts.read_buf[..]);
    let (context, mailbox) =
        SocketContext::new(parts.io.into(), rest, Encoding::SocketJson, Rc::new(wire));
    let echo = Echo(context.address());
    context.run(echo, mailbox);
    Ok(())
}

fn serve(listener: TcpListener) -> std::io::Result<Server> {
    let server = Server::build().workers(1).listen("echo", listener, || {
        HttpService::build()
            .upgrade(fn_service(|(request, io)| async {
                if let Err(error) = upgrade(request, io).await {
                    eprintln!("no upgrade: {error}");
                }
                Ok::<_, Infallible>(())
            }))
            .h1(fn_service(|_: Request| async { Ok::<_, Infallible>(Response::not_found()) }))
            .tcp()
    })?;
    Ok(server.run())
}

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?);
    System::new().block_on(async { serve(listener)?.await })
}
