//! Payloads of a client into a session, in JSON or in Protobuf, with rooms that answer.
//!
//! The first byte says how: its bits are the format, whether rooms answer at
//! once or late, and whether everything is permitted. Payloads are separated by
//! a byte 0xff, which is in no JSON text. Nothing may panic, each command gets at
//! most one reply, and what comes out stays in proportion to what went in.
#![no_main]

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use roomcast::{
    access::verifier::Verifier,
    protocol::codec::{self, Format},
    room::{
        options::{Audience, Namespaces, Permissions, RoomOptions},
        types::{
            Answer, ClientId, Epoch, Position, Query, Recovery, ReplyTo, Request, RoomName,
            SocketRef, Subscribed,
        },
    },
    session::{
        state::{Env, In, Out, Settings, State},
    },
    time::Time,
};

const SOCKET: SocketRef = SocketRef { worker: 1, slot: 2, generation: 3 };
const POSITION: Position = Position { epoch: Epoch(0xe), offset: 7 };
const WALL: i64 = 1_000_000;
/// What the outbox of the session can take.
const SPACE: usize = 1_143;

fuzz_target!(|input: &[u8]| {
    let Some((&how, bytes)) = input.split_first() else { return };
    let mut talk = Talk::new(how);
    talk.input(In::Opened);
    for payload in bytes.split(|byte| *byte == 0xff) {
        talk.input(In::Payload(Bytes::copy_from_slice(payload)));
        talk.pass(u64::from(how) * 40);
    }
    talk.answer_all();
    talk.input(In::Closed);
    // Every command is at least two bytes, and of each there is one reply; the rest are pings.
    assert!(talk.replies <= input.len() * 2 + 64, "{} replies", talk.replies);
});

struct Talk {
    settings: Settings,
    session: State,
    format: Format,
    late: bool,
    now: Time,
    waiting: Vec<(RoomName, Request)>,
    replies: usize,
}

impl Talk {
    fn new(how: u8) -> Self {
        let format = if how & 1 == 0 { Format::Json } else { Format::Protobuf };
        Self {
            settings: settings(how & 4 != 0),
            session: State::new(SOCKET, format, ClientId(5)),
            format,
            late: how & 2 != 0,
            now: Time::from_millis(1000),
            waiting: Vec::new(),
            replies: 0,
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
        self.input(In::Wake);
    }

    fn input(&mut self, input: In) {
        self.handle(input);
        while self.session.can_go_on(&self.settings) {
            self.handle(In::GoOn);
        }
        if !self.late {
            self.answer_all();
        }
    }

    fn handle(&mut self, input: In) {
        let mut out = Vec::new();
        let env = Env {
            settings: &self.settings,
            now: self.now,
            wall: WALL,
            congested: self.late,
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
                Out::WakeAt(_) | Out::Close(_) | Out::Authenticated(_) => {}
            }
        }
        let most = self.settings.in_flight_limit + self.settings.channel_limit + 64;
        assert!(self.waiting.len() <= most, "{} requests in flight", self.waiting.len());
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
            while self.session.can_go_on(&self.settings) {
                self.handle(In::GoOn);
            }
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

fn settings(insecure: bool) -> Settings {
    let all = Audience { client: true, subscriber: true, anonymous: true };
    let options = RoomOptions {
        presence: true,
        history_size: 10,
        history_ttl: Duration::from_secs(60),
        allow_recovery: true,
        allow_positioning: true,
        allow_tags_filter: true,
        allow_delta: true,
        permissions: Permissions {
            subscribe_for_client: true,
            subscribe_for_anonymous: true,
            publish: Audience { client: false, ..all },
            presence: all,
            history: all,
        },
        ..RoomOptions::default()
    };
    let options = Arc::new(options);
    let namespaces = Namespaces {
        default: options.clone(),
        named: [("n".into(), options)].into_iter().collect(),
    };
    Settings {
        insecure,
        allow_anonymous: true,
        verifier: Some(Verifier::new("secret")),
        namespaces: Arc::new(namespaces),
        ping_interval: Duration::from_secs(25),
        pong_timeout: Duration::from_secs(8),
        stale_close_delay: Duration::from_secs(10),
        channel_limit: 4,
        channel_max_length: 40,
        history_limit: 300,
        in_flight_limit: 8,
        node: "n".into(),
    }
}
