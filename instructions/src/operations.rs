//! What is counted. In: the name of an operation. Out: nothing; what it costs is seen from outside.
//!
//! Each prepares what it needs, runs some rounds so that buffers and tables have their size, and then all that
//! are counted inside of [`measured`]. Names, texts and seeds are fixed, and no table has random state.

use std::{hint::black_box, sync::Arc};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use roomcast::{
    cluster::{
        node::{NodeInfo, Phase},
        view::View,
    },
    protocol::{encoding::Encoding, message::Reply},
    room::{
        options::{Namespaces, RoomOptions},
        registry::{In, Out, RoomSettings, State},
        types::{
            Answer, ClientId, ClientInfo, Event, HistoryFilter, NewPublication, Publication, Query,
            ReplyTo, Request, RoomName,
        },
    },
    runtime::time::Time,
    session::reply,
};

use crate::{fan_out::FanOut, mesh::Mesh};

/// Something that a server does all the time.
pub struct Operation {
    /// Its name in the record.
    pub name: &'static str,
    /// What one of its units is.
    pub unit: &'static str,
    /// How many are counted.
    pub units: u64,
    /// How often; the least counts. More than once where timers run meanwhile.
    pub runs: u32,
    /// By how many per cent it may differ from the record.
    pub tolerance: f64,
    prepare: fn() -> anyhow::Result<Rounds>,
}

/// Does so many rounds of an operation. Returns something that depends on all that was done.
type Rounds = Box<dyn FnMut(u64) -> u64>;

/// Far more than runs of the same code differ by: pure code not at all, the fan-out by some tenths of a per
/// cent. It leaves room for changes elsewhere, which the compiler answers with other inlining here.
const TOLERANCE: f64 = 3.0;

/// The clients of the fan-out.
pub const CLIENTS: u64 = 1_000;
const PUBLICATIONS: u64 = 10;

/// All that are recorded.
pub const OPERATIONS: [Operation; 6] = [
    Operation {
        name: "encode-json",
        unit: "publication",
        units: 1_000,
        runs: 1,
        tolerance: TOLERANCE,
        prepare: || encode(Encoding::SocketJson),
    },
    Operation {
        name: "encode-protobuf",
        unit: "publication",
        units: 1_000,
        runs: 1,
        tolerance: TOLERANCE,
        prepare: || encode(Encoding::SocketProtobuf),
    },
    Operation {
        name: "fan-out",
        unit: "delivery, of 1,000 each",
        units: PUBLICATIONS * CLIENTS,
        runs: 3,
        tolerance: TOLERANCE,
        prepare: fan_out,
    },
    Operation {
        name: "mesh-forward",
        unit: "publication, by way of three nodes",
        units: 500,
        runs: 1,
        tolerance: TOLERANCE,
        prepare: mesh_forward,
    },
    Operation {
        name: "history-json",
        unit: "reply with 100 publications",
        units: 50,
        runs: 1,
        tolerance: TOLERANCE,
        prepare: || history(Encoding::SocketJson),
    },
    Operation {
        name: "history-protobuf",
        unit: "reply with 100 publications",
        units: 50,
        runs: 1,
        tolerance: TOLERANCE,
        prepare: || history(Encoding::SocketProtobuf),
    },
];

/// [`SLOWER_THAN`] with one needless thing: it looks whether the data is JSON. Must be seen.
pub const SLOWER: Operation = Operation {
    name: "encode-json-slower",
    unit: "publication",
    units: 1_000,
    runs: 1,
    tolerance: TOLERANCE,
    prepare: encode_slower,
};
/// What [`SLOWER`] is compared with.
pub const SLOWER_THAN: &str = "encode-json";

/// Runs the operation of that name.
///
/// # Errors
/// If there is none, or it does not do what it should.
pub fn play(name: &str) -> anyhow::Result<()> {
    let mut all = OPERATIONS.iter().chain([&SLOWER]);
    let operation = all.find(|it| it.name == name).context("there is no such operation")?;
    let mut rounds = (operation.prepare)()?;
    ensure!(measured(&mut rounds, operation.units) > 0, "{name} has done nothing");
    Ok(())
}

/// What happens in here is counted, and nothing else: callgrind knows it by its name. What it calls is of
/// another name, and it has something to do after the call, so that it is left only when all is done.
#[inline(never)]
fn measured(rounds: &mut Rounds, units: u64) -> u64 {
    black_box(rounds(black_box(units)))
}

/// The rounds of something that is done one by one, some of which are done already.
fn repeated(mut round: impl FnMut() -> u64 + 'static) -> Rounds {
    let mut rounds = move |units| (0..units).fold(0_u64, |sum, _| sum.wrapping_add(round()));
    rounds(300);
    Box::new(rounds)
}

/// The name of the room.
pub fn room() -> RoomName {
    "chat:lobby".into()
}

/// 128 bytes of JSON.
pub fn data() -> Bytes {
    let text = "The quick brown fox jumps over the lazy dog, and the dog gets up and follows it. ";
    let text: String = text.chars().cycle().take(117).collect();
    Bytes::from(format!("{{\"text\":\"{text}\"}}"))
}

/// Client `number`.
pub fn client(number: u128) -> Arc<ClientInfo> {
    let conn_info = b"{\"name\":\"Ann\"}"[..].into();
    Arc::new(ClientInfo { conn_info, ..ClientInfo::new(ClientId(number), "user-42") })
}

/// What a client publishes.
pub fn new_publication() -> NewPublication {
    NewPublication { data: data(), info: Some(client(1)), ..NewPublication::default() }
}

/// Rooms that keep a hundred publications.
pub fn namespaces() -> Arc<Namespaces> {
    let keeps = RoomOptions {
        history_size: 100,
        history_ttl: std::time::Duration::from_secs(600),
        history_meta_ttl: std::time::Duration::from_secs(86_400),
        force_recovery: true,
        ..RoomOptions::default()
    };
    let named = [("chat".into(), Arc::new(keeps))].into_iter().collect();
    Arc::new(Namespaces { named, ..Namespaces::default() })
}

/// A node that takes part.
pub fn node(name: &str) -> NodeInfo {
    let address = ([127, 0, 0, 1], 1).into();
    NodeInfo { name: name.into(), generation: 1, mesh: address, http: address, phase: Phase::Ready }
}

/// As a hub does once for each encoding among its sockets.
fn encode(encoding: Encoding) -> anyhow::Result<Rounds> {
    let (room, event) = (room(), Event::Publication(Arc::new(publication())));
    Ok(repeated(move || encoded(&room, &event, encoding)))
}

fn encode_slower() -> anyhow::Result<Rounds> {
    let (room, event) = (room(), Event::Publication(Arc::new(publication())));
    Ok(repeated(move || {
        let Event::Publication(it) = &event else { return 0 };
        let json = serde_json::from_slice::<serde::de::IgnoredAny>(black_box(&it.data)).is_ok();
        u64::from(black_box(json)) + encoded(&room, &event, Encoding::SocketJson)
    }))
}

fn publication() -> Publication {
    new_publication().at(7)
}

fn encoded(room: &RoomName, event: &Event, encoding: Encoding) -> u64 {
    let push = reply::event(black_box(room), black_box(event));
    push.map_or(0, |push| length(&push, encoding))
}

fn length(reply: &Reply, encoding: Encoding) -> u64 {
    black_box(encoding.message(reply)).len() as u64
}

/// From the registry's answer to a client's command to the bytes for its socket.
fn history(encoding: Encoding) -> anyhow::Result<Rounds> {
    let (me, room) = (node("a"), room());
    let mut state = State::new(me.id(), namespaces(), RoomSettings::default(), 1);
    let now = Time::from_millis(1_000_000);
    state.handle(In::View(View::new([me])), now);
    for _ in 0..100 {
        let publish = Request::Publish(new_publication(), ReplyTo::Nobody);
        state.handle(In::Request(room.clone(), publish), now);
    }
    let filter = HistoryFilter { limit: 100, since: None, reverse: false };
    let mut round = move || {
        let query = Request::Query(Query::History(filter.clone()), ReplyTo::Api(1));
        let out = state.handle(In::Request(room.clone(), query), now);
        let answers = out.into_iter().map(|out| match out {
            Out::Answer { answer: answer @ Answer::History(..), .. } => {
                length(&reply::answer(1, answer, usize::MAX), encoding)
            }
            _ => 0,
        });
        answers.sum()
    };
    ensure!(round() > 100 * data().len() as u64, "not all of the history was in the reply");
    Ok(repeated(round))
}

fn mesh_forward() -> anyhow::Result<Rounds> {
    let mut mesh = Mesh::new()?;
    Ok(repeated(move || mesh.publish().deliveries))
}

fn fan_out() -> anyhow::Result<Rounds> {
    let mut fan_out = FanOut::new()?;
    fan_out.publish(5);
    Ok(Box::new(move |deliveries| fan_out.publish(deliveries / CLIENTS)))
}
