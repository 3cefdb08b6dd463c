//! NATS over WebSocket: its text protocol as a stream, cut into binary frames anywhere.

use super::{Answer, Cut, Dialect, Meaning, Wanted, Who};
use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;

/// The longest line that a server has a reason to send: its greeting.
const LONGEST_LINE: usize = 64 << 10;

/// The dialect.
#[derive(Debug)]
pub struct Nats {
    /// Every command is answered, also a publication that asks for no answer.
    pub verbose: bool,
}

impl Dialect for Nats {
    fn is_binary(&self) -> bool {
        true
    }

    /// A message is a line, and what the line announces.
    fn cut(&self, bytes: &[u8], _: bool) -> Result<Option<Cut>> {
        let Some(line) = memmem::find(bytes, b"\r\n") else {
            ensure!(bytes.len() <= LONGEST_LINE, "a line of NATS has no end");
            return Ok(None);
        };
        let mut end = line;
        if bytes.starts_with(b"MSG ") {
            let size = bytes[..line].rsplit(|byte| *byte == b' ').next().and_then(super::digits);
            end += 2 + usize::try_from(size.context("a MSG without a size")?)?;
        }
        Ok((end + 2 <= bytes.len()).then_some(Cut { start: 0, end, used: end + 2 }))
    }

    fn set_up(&self, step: usize, who: &Who) -> Option<Vec<u8>> {
        let mut commands = String::new();
        match step {
            0 => {}
            1 => {
                let verbose = self.verbose;
                commands.push_str(&format!(
                    "CONNECT {{\"verbose\":{verbose},\"pedantic\":false,\"headers\":true}}\r\n"
                ));
                for (index, Wanted { room, .. }) in who.rooms.iter().enumerate() {
                    commands.push_str(&format!("SUB {room} {}\r\n", index + 1));
                }
                commands.push_str("PING\r\n");
            }
            _ => return None,
        }
        Some(commands.into_bytes())
    }

    fn answer(&self, step: usize, message: &[u8]) -> Result<Option<Answer>> {
        if message.starts_with(b"-ERR") {
            bail!("the server answered {}", String::from_utf8_lossy(message));
        }
        let awaited: &[u8] = if step == 0 { b"INFO " } else { b"PONG" };
        Ok(message.starts_with(awaited).then(|| Answer { pong: true, ..Answer::default() }))
    }

    fn publish(&self, _: u32, room: &str, data: &str) -> Vec<u8> {
        format!("PUB {room} {}\r\n{data}\r\n", data.len()).into_bytes()
    }

    fn meaning(&self, message: &[u8]) -> Meaning {
        match message {
            message if message.starts_with(b"MSG ") => Meaning::Delivery,
            b"+OK" => Meaning::Ack,
            b"PING" => Meaning::Ping,
            message if message.starts_with(b"-ERR") => Meaning::Refusal,
            _ => Meaning::Other,
        }
    }

    fn pong(&self) -> &'static [u8] {
        b"PONG\r\n"
    }

    fn offset(&self, _: &[u8]) -> Option<u64> {
        None
    }
}
