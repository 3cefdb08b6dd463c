//! What the WebSocket protocol itself asks of a connection: pongs and the close handshake. In: the client's
//! frames. Out: what they come to.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    protocol::websocket::{self, Violation, WebSocketMessage},
    runtime::time::Time,
};

/// How long a client may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// What has come from the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A text message.
    Text(Bytes),
    /// A binary message.
    Binary(Bytes),
    /// It broke RFC 6455; to be closed.
    Violation(Violation),
    /// It wants a pong with this payload.
    Ping(Bytes),
    /// The connection is over, once this frame is sent, if there is one.
    Over(Option<Bytes>),
    /// Nothing that asks for anything.
    Nothing,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Open,
    /// The close frame is sent; the client's is awaited until then.
    Closing(Time),
    Over,
}

/// How far a connection is.
#[derive(Debug, Default)]
pub struct Handshake(Phase);

impl Handshake {
    /// Whether messages can still be sent and received.
    pub fn is_open(&self) -> bool {
        self.0 == Phase::Open
    }

    /// When to give up on a client that does not answer the close frame; none while that is not awaited.
    pub fn closing_until(&self) -> Option<Time> {
        match self.0 {
            Phase::Closing(until) => Some(until),
            Phase::Open | Phase::Over => None,
        }
    }

    /// Begins to close, and gives the close frame; none if it is sent already.
    pub fn close(&mut self, code: u16, reason: &str, now: Time) -> Option<Bytes> {
        if !self.is_open() {
            return None;
        }
        self.0 = Phase::Closing(now + CLOSE_TIMEOUT);
        Some(websocket::close_frame(code, reason))
    }

    /// The connection is gone, or given up.
    pub fn end(&mut self) {
        self.0 = Phase::Over;
    }

    /// Takes the next frame of the client.
    pub fn receive(&mut self, frame: Result<WebSocketMessage, Violation>) -> Received {
        match (self.0, frame) {
            (Phase::Open, Ok(WebSocketMessage::Text(payload))) => Received::Text(payload),
            (Phase::Open, Ok(WebSocketMessage::Binary(payload))) => Received::Binary(payload),
            (Phase::Open, Ok(WebSocketMessage::Ping(payload))) => Received::Ping(payload),
            (Phase::Open, Ok(WebSocketMessage::Close(code))) => {
                self.end();
                Received::Over(Some(websocket::close_frame(code.unwrap_or(1000), "")))
            }
            (Phase::Open, Err(violation)) => Received::Violation(violation),
            (Phase::Closing(_), Ok(WebSocketMessage::Close(_)) | Err(_)) => {
                self.end();
                Received::Over(None)
            }
            (Phase::Open, Ok(WebSocketMessage::Pong)) | (Phase::Closing(_) | Phase::Over, _) => {
                Received::Nothing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time::from_millis(1000);

    #[test]
    fn the_client_closes() {
        let mut handshake = Handshake::default();
        let frame = websocket::close_frame(1001, "");
        assert_eq!(
            handshake.receive(Ok(WebSocketMessage::Close(Some(1001)))),
            Received::Over(Some(frame))
        );
        assert_eq!(handshake.receive(Ok(WebSocketMessage::Ping(Bytes::new()))), Received::Nothing);
        assert_eq!(handshake.close(3001, "", NOW), None);
    }

    #[test]
    fn the_server_closes_once_and_waits_for_the_client() {
        let mut handshake = Handshake::default();
        assert_eq!(handshake.close(3501, "why", NOW), Some(websocket::close_frame(3501, "why")));
        assert_eq!(handshake.close(3001, "", NOW), None);
        assert_eq!(handshake.closing_until(), Some(NOW + CLOSE_TIMEOUT));
        assert_eq!(handshake.receive(Ok(WebSocketMessage::Text(Bytes::new()))), Received::Nothing);
        assert_eq!(handshake.receive(Ok(WebSocketMessage::Close(None))), Received::Over(None));
        assert_eq!(handshake.closing_until(), None);
    }
}
