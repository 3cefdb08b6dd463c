//! The Centrifuge client protocol in JSON: text frames with one message a line.

use super::{Answer, Cut, Dialect, Meaning, Since, Who};
use anyhow::{Context, Result, ensure};
use memchr::memmem;
use serde_json::{Value, json};

/// The empty message: a ping from the server, a pong from the client.
const PING: &[u8] = b"{}";

/// The dialect.
#[derive(Debug)]
pub struct Json;

impl Dialect for Json {
    fn cut(&self, bytes: &[u8], message_ends: bool) -> Result<Option<Cut>> {
        Ok(match memchr::memchr(b'\n', bytes) {
            Some(end) => Some(Cut { start: 0, end, used: end + 1 }),
            None => Cut::whole(bytes.len(), message_ends),
        })
    }

    fn set_up(&self, step: usize, who: &Who) -> Option<Vec<u8>> {
        let id = step + 1;
        let command = match step {
            0 => {
                let token = who.token.as_ref().map(|token| json!({"token": token}));
                json!({"id": id, "connect": token.unwrap_or_else(|| json!({}))})
            }
            step => {
                let mut subscribe = json!({"channel": who.rooms.get(step - 1)?});
                if let Some(Since { epoch, offset }) = &who.since {
                    subscribe["recover"] = true.into();
                    subscribe["epoch"] = epoch.as_str().into();
                    subscribe["offset"] = (*offset).into();
                }
                json!({"id": id, "subscribe": subscribe})
            }
        };
        Some(command.to_string().into_bytes())
    }

    fn answer(&self, step: usize, who: &Who, message: &[u8]) -> Result<Option<Answer>> {
        if step > 0 && who.since.is_some() && memmem::find(message, b"\"error\"").is_none() {
            // A recovery can be large, and nothing else in it matters here.
            let recovered = memmem::find(message, b"\"recovered\":true").is_some();
            return Ok(Some(Answer { recovered, ..Answer::default() }));
        }
        let reply: Value = serde_json::from_slice(message)
            .with_context(|| format!("not JSON: {:?}", String::from_utf8_lossy(message)))?;
        if reply.get("id").is_none() {
            return Ok(None);
        }
        ensure!(reply.get("error").is_none(), "the server answered {reply}");
        let subscribed = &reply["subscribe"];
        let position = subscribed["epoch"].as_str().map(|epoch| Since {
            epoch: epoch.to_owned(),
            offset: subscribed["offset"].as_u64().unwrap_or(0),
        });
        let pong = reply["connect"]["pong"].as_bool().unwrap_or(false);
        Ok(Some(Answer { pong, recovered: false, position }))
    }

    fn publish(&self, id: u32, room: &str, data: &str) -> Vec<u8> {
        let room = Value::from(room);
        format!(r#"{{"id":{id},"publish":{{"channel":{room},"data":{data}}}}}"#).into_bytes()
    }

    fn meaning(&self, message: &[u8]) -> Meaning {
        if message == PING {
            return Meaning::Ping;
        }
        if message.starts_with(b"{\"push\":") {
            let publication = memmem::find(message, b"\"pub\":").is_some();
            return if publication { Meaning::Delivery } else { Meaning::Other };
        }
        match memmem::find(message, b"\"error\"") {
            Some(_) => Meaning::Refusal,
            None => Meaning::Ack,
        }
    }

    fn pong(&self) -> &'static [u8] {
        PING
    }

    fn offset(&self, message: &[u8]) -> Option<u64> {
        // The last one: data may have a member of that name, but nothing that we publish has.
        super::digits(&message[memmem::rfind(message, b"\"offset\":")? + 9..])
    }
}
