//! Payloads of a client into a session, in JSON or in Protobuf, with rooms that answer.
//!
//! The first byte says how: its bits are the format, whether rooms answer at
//! once, or late to a client that reads as late, and whether everything is permitted. Payloads are separated by
//! a byte 0xff, which is in no JSON text. Nothing may panic, each command gets at
//! most one reply, and what comes out stays in proportion to what went in.

use std::{sync::OnceLock, time::Duration};

use bytes::{Bytes, BytesMut};
use roomcast::{
    config::load,
    protocol::codec::{self, Format},
    room::types::{
        Answer, ClientId, Epoch, Position, Query, Recovery, ReplyTo, Request, RoomName, SocketRef,
        Subscribed,
    },
    runtime::time::Time,
    server::parts::session_settings,
    session::{
        settings::{Env, SessionSettings},
        state::{CallFailed, In, Out, Session},
    },
    shared_poll::state as polls,
};
use serde_json::json;

const SOCKET: SocketRef = SocketRef { worker: 1, slot: 2, generation: 3 };
const POSITION: Position = Position { epoch: Epoch(0xe), offset: 7 };
const WALL: i64 = 1_000_000;
/// What the outbox of the session can take.
const SPACE: usize = 1_143;

/// Plays one input.
pub fn run(input: &[u8]) {
    let Some((&how, bytes)) = input.split_first() else { return };
    let mut talk = Talk::new(how);
    talk.input(In::Opened);
    for payload in bytes.split(|byte| *byte == 0xff) {
        talk.input(In::Payload(Bytes::copy_from_slice(payload)));
        talk.pass(u64::from(how) * 40);
    }
    talk.answer_all();
    talk.congested = false;
    talk.input(In::GoOn);
    talk.answer_all();
    talk.input(In::Closed);
    // Every command is at least two bytes, and of each there is one reply; the rest are pings.
    assert!(talk.replies <= input.len() * 2 + 64, "{} replies", talk.replies);
}

struct Talk {
    settings: &'static SessionSettings,
    session: Session,
    format: Format,
    late: bool,
    congested: bool,
    now: Time,
    waiting: Vec<(RoomName, Request)>,
    polls: Vec<(RoomName, polls::Request)>,
    replies: usize,
}

impl Talk {
    fn new(how: u8) -> Self {
        let format = if how & 1 == 0 { Format::Json } else { Format::Protobuf };
        Self {
            settings: settings_of(how & 4 != 0),
            session: Session::new(SOCKET, format, ClientId(5)),
            format,
            late: how & 2 != 0,
            congested: how & 2 != 0,
            now: Time::from_millis(1000),
            waiting: Vec::new(),
            polls: Vec::new(),
            replies: 0,
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.input(In::Wake);
    }

    fn input(&mut self, input: In) {
        self.handle(input);
        self.go_on();
        if !self.late {
            self.answer_all();
        }
    }

    /// As a socket does it: no further than the client takes what it gets.
    fn go_on(&mut self) {
        while !self.congested && self.session.can_go_on(self.settings) {
            self.handle(In::GoOn);
        }
    }

    fn handle(&mut self, input: In) {
        let (mut out, mut calls) = (Vec::new(), Vec::new());
        let env = Env {
            settings: self.settings,
            now: self.now,
            wall: WALL,
            congested: self.congested,
            space: SPACE,
        };
        self.session.handle(input, env, &mut out);
        for out in out {
            match out {
                Out::Reply(reply) => {
                    self.replies += 1;
                    let mut frame = BytesMut::new();
                    codec::encode(self.format, &reply, &mut frame);
                }
                Out::Request(room, request) => {
                    assert!(room.len() <= self.settings.channel_max_length);
                    self.waiting.push((room, request));
                }
                Out::Poll(room, request) => {
                    assert!(room.len() <= self.settings.channel_max_length);
                    self.polls.push((room, request));
                }
                Out::Call(number, _) => calls.push(number),
                Out::WakeAt(_) | Out::Close(_) | Out::Authenticated(_) | Out::Stream(..) => {}
            }
        }
        // No one outside answers.
        for number in calls {
            self.handle(In::Called(number, Err(CallFailed)));
        }
        let most = self.settings.in_flight_limit + self.settings.channel_limit + 64;
        let waiting = self.waiting.len() + self.polls.len();
        assert!(waiting <= most, "{waiting} requests in flight");
    }

    /// What rooms would answer, whether or not anyone still waits for it.
    fn answer_all(&mut self) {
        while let Some((room, request)) = self.waiting.pop() {
            let input = match request {
                Request::Subscribe(it) => {
                    let recovery = match it.recover {
                        None => Recovery::NotAsked,
                        Some(since) if since.offset % 2 == 0 => Recovery::Recovered(Vec::new()),
                        Some(_) => Recovery::Failed,
                    };
                    let result = Ok(Subscribed { position: Some(POSITION), recovery });
                    In::Subscribed { room, id: it.id, result }
                }
                Request::Unsubscribe { reply: ReplyTo::Command { id, .. }, .. } => {
                    In::Unsubscribed { id }
                }
                Request::Publish(_, ReplyTo::Command { id, .. }) => {
                    In::Answer { id, answer: Answer::Published(Some(POSITION)) }
                }
                Request::Query(query, ReplyTo::Command { id, .. }) => {
                    In::Answer { id, answer: answer(&query) }
                }
                _ => continue,
            };
            self.handle(input);
            self.go_on();
        }
        self.answer_polls();
    }

    /// What the node's shared polls would.
    fn answer_polls(&mut self) {
        while let Some((room, request)) = self.polls.pop() {
            let (id, reply) = match request {
                polls::Request::Enter { id, .. } => (id, polls::Reply::Entered(Ok("e".into()))),
                polls::Request::Leave { id: Some(id), .. } => (id, polls::Reply::Left),
                polls::Request::Leave { id: None, .. } => continue,
                polls::Request::Track { id, expires_at, .. } => {
                    (id, polls::Reply::Tracked(Ok(expires_at)))
                }
                polls::Request::Untrack { id, .. } => (id, polls::Reply::Untracked),
            };
            self.handle(In::Polled { room, id, reply });
            self.go_on();
        }
    }
}

fn answer(query: &Query) -> Answer {
    match query {
        Query::Presence => Answer::Presence(Vec::new()),
        Query::PresenceStats => Answer::PresenceStats { clients: 1, users: 1 },
        _ => Answer::History(Vec::new(), POSITION),
    }
}

/// Made once: inputs are many.
fn settings_of(insecure: bool) -> &'static SessionSettings {
    static SETTINGS: OnceLock<[SessionSettings; 2]> = OnceLock::new();
    &SETTINGS.get_or_init(|| [false, true].map(settings))[usize::from(insecure)]
}

/// As the configuration makes them: everyone may do everything.
fn settings(insecure: bool) -> SessionSettings {
    let room = json!({
        "presence": true,
        "history_size": 10,
        "history_ttl": "60s",
        "allow_recovery": true,
        "allow_positioning": true,
        "allow_tags_filter": true,
        "allowed_delta_types": ["fossil"],
        "allow_subscribe_for_client": true,
        "allow_subscribe_for_anonymous": true,
        "allow_publish_for_subscriber": true,
        "allow_publish_for_anonymous": true,
        "allow_presence_for_client": true,
        "allow_presence_for_subscriber": true,
        "allow_presence_for_anonymous": true,
        "allow_history_for_client": true,
        "allow_history_for_subscriber": true,
        "allow_history_for_anonymous": true,
    });
    let mut named = room.clone();
    named["name"] = "named".into();
    let polled = json!({
        "name": "poll",
        "subscription_type": "shared_poll",
        "allow_subscribe_for_client": true,
        "allow_subscribe_for_anonymous": true,
    });
    let options = vec![
        ("channel.without_namespace", room),
        ("channel.namespaces", json!([named, polled])),
        ("channel.proxy.shared_poll_refresh.endpoint", json!("http://127.0.0.1:1")),
        ("shared_poll.hmac_secret_key", json!("secret")),
        ("channel.max_length", json!(40)),
        ("client.insecure", json!(insecure)),
        ("client.allow_anonymous_connect_without_token", json!(true)),
        ("client.token.hmac_secret_key", json!("secret")),
        ("client.channel_limit", json!(4)),
        ("client.concurrency", json!(8)),
    ];
    let config = load::load(None, [], options).unwrap_or_else(|why| panic!("{why}"));
    session_settings(&config, "n".into()).unwrap_or_else(|why| panic!("{why}")).0
}
