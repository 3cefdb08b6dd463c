//! SHELL. What connections and their worker's hub say to each other.
//!
//! The hub knows the connections' actors; they know of it only that it takes these messages, as a [`HubAddress`].

use actix::{dev::ToEnvelope, prelude::*};
use bytes::Bytes;

use super::{http_stream::HttpStream, socket::Socket, state::In};
use crate::{protocol::encoding::Encoding, room::types::SocketRef, runtime::time::Time};

/// Where a connection's actor is reached, and in which encoding its client reads. To the hub all connections are sockets.
pub enum ConnectionAddress {
    /// A WebSocket.
    WebSocket(Encoding, Addr<Socket>),
    /// A streamed response.
    HttpStream(Encoding, Addr<HttpStream>),
}

impl ConnectionAddress {
    /// Sends it there, in the order of the calls.
    pub fn do_send(&self, message: ToSocket) {
        match self {
            Self::WebSocket(_, addr) => addr.do_send(message),
            Self::HttpStream(_, addr) => addr.do_send(message),
        }
    }

    /// How what is for the client is written.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::WebSocket(encoding, _) | Self::HttpStream(encoding, _) => *encoding,
        }
    }
}

/// What a hub sends to one of its connections.
#[derive(Message)]
#[rtype(result = "()")]
pub enum ToSocket {
    /// Bytes to be written as they are.
    Frame(Bytes),
    /// Something for the session to decide on.
    Input(Box<In>),
}

/// A new socket; the answer is its place.
#[derive(Message)]
#[rtype(result = "SocketRef")]
pub struct Register(pub ConnectionAddress);

/// What a socket tells its hub.
#[derive(Message)]
#[rtype(result = "()")]
pub enum FromSocket {
    /// Wake it at about this time, and at no other.
    WakeAt(SocketRef, Time),
    /// It is closed.
    Closed(SocketRef),
}

/// Something for one socket.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SocketInput(pub SocketRef, pub In);

/// Where a worker's connections reach their hub.
#[derive(Clone)]
pub struct HubAddress {
    /// Takes new connections.
    pub register: Recipient<Register>,
    /// Hears of those that it has.
    pub from_socket: Recipient<FromSocket>,
    /// Passes on what others have for one of them.
    pub to_socket: Recipient<SocketInput>,
}

impl<H> From<Addr<H>> for HubAddress
where
    H: Actor + Handler<Register> + Handler<FromSocket> + Handler<SocketInput>,
    H::Context: ToEnvelope<H, Register> + ToEnvelope<H, FromSocket> + ToEnvelope<H, SocketInput>,
{
    fn from(hub: Addr<H>) -> Self {
        Self {
            register: hub.clone().recipient(),
            from_socket: hub.clone().recipient(),
            to_socket: hub.recipient(),
        }
    }
}
