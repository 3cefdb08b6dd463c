//! Socket.IO (Engine.IO 4 over WebSocket), with three events: `join` and `publish`, which are answered, and
//! `message`, by which a room's publications come.

use super::{Answer, Cut, Dialect, Meaning, Who};
use anyhow::{Result, bail};
use serde_json::Value;

/// The dialect.
#[derive(Debug)]
pub struct SocketIo;

impl Dialect for SocketIo {
    fn cut(&self, bytes: &[u8], message_ends: bool) -> Result<Option<Cut>> {
        Ok(Cut::whole(bytes.len(), message_ends))
    }

    fn first_subscription(&self) -> usize {
        2
    }

    fn set_up(&self, step: usize, who: &Who) -> Option<Vec<u8>> {
        match step {
            0 => Some(Vec::new()),
            1 => Some(b"40".to_vec()),
            step => {
                let room = Value::from(who.rooms.get(step - 2)?.room.as_str());
                Some(format!(r#"42{step}["join",{room}]"#).into_bytes())
            }
        }
    }

    fn answer(&self, step: usize, message: &[u8]) -> Result<Option<Answer>> {
        if message.starts_with(b"44") {
            bail!("the server answered {}", String::from_utf8_lossy(message));
        }
        let awaited: &[u8] = match step {
            0 => b"0",
            1 => b"40",
            _ => b"43",
        };
        Ok(message.starts_with(awaited).then(|| Answer { pong: true, ..Answer::default() }))
    }

    fn publish(&self, id: u32, room: &str, data: &str) -> Vec<u8> {
        let room = Value::from(room);
        format!(r#"42{id}["publish",{room},{data}]"#).into_bytes()
    }

    fn meaning(&self, message: &[u8]) -> Meaning {
        match message {
            b"2" => Meaning::Ping,
            message if message.starts_with(b"42") => Meaning::Delivery,
            message if message.starts_with(b"43") => Meaning::Ack,
            message if message.starts_with(b"44") => Meaning::Refusal,
            _ => Meaning::Other,
        }
    }

    fn pong(&self) -> &'static [u8] {
        b"3"
    }

    fn offset(&self, _: &[u8]) -> Option<u64> {
        None
    }
}
