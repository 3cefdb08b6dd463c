//! The Centrifuge client protocol in JSON: text frames with one message a line.

use super::{Answer, Cut, Dialect, Meaning, Since, Wanted, Who};
use anyhow::{Context, Result, ensure};
use memchr::memmem;
use serde::Deserialize;
use serde_json::{Value, json};

/// The empty message: a ping from the server, a pong from the client.
const PING: &[u8] = b"{}";

/// The dialect.
#[derive(Debug)]
pub struct Json;

/// What matters of a reply; what a recovery brings is skipped.
#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    id: u32,
    error: Option<Value>,
    connect: Option<Connected>,
    subscribe: Option<Subscribed>,
}

#[derive(Deserialize)]
struct Connected {
    #[serde(default)]
    pong: bool,
}

#[derive(Default, Deserialize)]
struct Subscribed {
    epoch: Option<String>,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    publications: Vec<Publication>,
}

#[derive(Deserialize)]
struct Publication {
    #[serde(default)]
    offset: u64,
}

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
                let Wanted { room, since } = who.rooms.get(step - 1)?;
                let mut subscribe = json!({"channel": room});
                if let Some(data) = &who.data {
                    subscribe["data"] = data.clone();
                }
                if let Some(Since { epoch, offset }) = since {
                    subscribe["recover"] = true.into();
                    subscribe["epoch"] = epoch.as_str().into();
                    subscribe["offset"] = (*offset).into();
                }
                json!({"id": id, "subscribe": subscribe})
            }
        };
        Some(command.to_string().into_bytes())
    }

    fn answer(&self, _: usize, message: &[u8]) -> Result<Option<Answer>> {
        let text = || String::from_utf8_lossy(message);
        let reply: Reply = serde_json::from_slice(message)
            .with_context(|| format!("not a reply: {:?}", text()))?;
        if reply.id == 0 {
            return Ok(None);
        }
        ensure!(reply.error.is_none(), "the server answered {}", text());
        let Subscribed { epoch, offset, recovered, publications } =
            reply.subscribe.unwrap_or_default();
        // What a recovery brings may go on from the position that the reply says.
        let offset = publications.iter().map(|it| it.offset).fold(offset, u64::max);
        let position = epoch.map(|epoch| Since { epoch, offset });
        let pong = reply.connect.is_some_and(|connect| connect.pong);
        Ok(Some(Answer { pong, recovered, position }))
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
            let has = |key: &[u8]| memmem::find(message, key).is_some();
            return match has(b"\"pub\":") {
                true => Meaning::Delivery,
                false if has(b"\"unsubscribe\":") => Meaning::Unsubscribed,
                false => Meaning::Other,
            };
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
