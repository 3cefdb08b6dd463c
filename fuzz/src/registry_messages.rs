//! Whatever a peer can say into the registry, mixed with local requests, changes
//! of the view, links that come and go, and time.
//!
//! The input is a list of steps: a byte says which, the next ones how. A peer's
//! message is in its wire form, so the fuzzer finds its way to all of them.
//! Nothing may panic, and one input makes no flood of outputs.

use std::{sync::Arc, time::Duration};

use arbitrary::{Result, Unstructured};
use bytes::{Bytes, BytesMut};
use roomcast::{
    cluster::{
        node::{NodeId, NodeInfo, Phase},
        view::View,
    },
    mesh::wire::{self, Frame, FrameError},
    room::{
        messages::Message,
        options::{Namespaces, RoomOptions},
        registry::{In, Out, RoomSettings, State},
        types::{
            ClientId, ClientInfo, HistoryFilter, MemberFlags, NewPublication, Query, ReplyTo,
            Request, RoomName, Since, SocketRef, Subscribe, Survey, Version,
        },
    },
    runtime::time::Time,
};

const ROOMS: [&str; 3] = ["r", "s", "plain:t"];
const STEPS: usize = 300;
/// Far more than a few rooms, peers and sockets have reason to say at once.
const MOST_OUTPUTS: usize = 2_000;

/// Plays one input.
pub fn run(input: &[u8]) {
    // An input that ends amid a step has been played up to there.
    let _ = play(&mut Unstructured::new(input));
}

fn play(input: &mut Unstructured<'_>) -> Result<()> {
    let settings = RoomSettings { history_bytes: 1 << 16, ..RoomSettings::default() };
    let mut state = State::new(node(0, Phase::Ready).id(), namespaces(), settings, 1);
    let mut now = Time::from_millis(1_000_000);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let step = match input.int_in_range(0..=15u8)? {
            0..=6 => match message(input)? {
                Some(message) => In::Peer(peer(input)?, message),
                None => continue,
            },
            7..=9 => In::Request(room(input)?, request(input)?),
            10 => In::LinkUp(peer(input)?),
            11 => In::LinkDown(peer(input)?),
            12 => In::View(view(input)?),
            13 => In::Survey(1, Survey::Channels("*".into())),
            _ => {
                now = now + Duration::from_millis(u64::from(input.arbitrary::<u8>()?) * 20);
                In::Tick
            }
        };
        let out = state.handle(step, now);
        assert!(out.len() <= MOST_OUTPUTS, "{} outputs", out.len());
        out.iter().for_each(fits_into_a_frame);
    }
    Ok(())
}

/// What is sent must be accepted by a peer, so it has to survive its own codec.
fn fits_into_a_frame(out: &Out) {
    let Out::Send { message, .. } = out else { return };
    let sent = Frame::Rooms(message.clone());
    let Ok(frame) = wire::encode(&sent) else { panic!("too large to be sent: {message:?}") };
    let again = wire::decode(&mut BytesMut::from(&frame[..]));
    assert_eq!(again.ok().flatten(), Some(sent));
}

/// A message about a room out of as many of the next bytes as it has. The index of
/// its variant and the room's name are given, so that no effort goes into those.
fn message(input: &mut Unstructured<'_>) -> Result<Option<Message>> {
    let name = room(input)?;
    let length = usize::from(input.arbitrary::<u8>()?).min(input.len());
    let rest = input.bytes(length)?;
    // One of the messages about rooms, most often about one room.
    let mut content = match input.int_in_range(0..=3u8)? {
        0 => vec![2],
        _ => [&[2, 0, name.len() as u8], name.as_bytes()].concat(),
    };
    content.extend(rest);
    let decode = |content: &[u8]| {
        let length = (content.len() as u32).to_be_bytes();
        wire::decode(&mut BytesMut::from(&[&length[..], content].concat()[..]))
    };
    let rooms = |frame: Option<Frame>| match frame {
        Some(Frame::Rooms(message)) => Some(message),
        _ => None,
    };
    Ok(match decode(&content) {
        Ok(frame) => rooms(frame),
        Err(FrameError::Trailing(count)) => {
            rooms(decode(&content[..content.len() - count]).ok().flatten())
        }
        Err(_) => None,
    })
}

fn request(input: &mut Unstructured<'_>) -> Result<Request> {
    let slot = input.int_in_range(0..=3)?;
    let socket = SocketRef { worker: 0, slot, generation: 0 };
    let client = ClientId(u128::from(slot));
    let info = Arc::new(ClientInfo::new(client, "u"));
    let since = |input: &mut Unstructured<'_>| -> Result<Option<Since>> {
        let epoch = if input.arbitrary()? { String::new() } else { format!("{:x}", slot) };
        Ok(input.arbitrary::<bool>()?.then_some(Since { epoch, offset: input.arbitrary()? }))
    };
    Ok(match input.int_in_range(0..=4u8)? {
        0 => Request::Subscribe(Subscribe {
            socket,
            id: 1,
            info,
            flags: MemberFlags { positioned: input.arbitrary()?, ..MemberFlags::default() },
            delivery: None,
            recover: since(input)?,
            must_recover: input.arbitrary()?,
        }),
        1 => Request::Unsubscribe { socket, client, reply: ReplyTo::Nobody },
        2 | 3 => {
            let key = input.int_in_range(0..=4u8)?;
            let publication = NewPublication {
                data: Bytes::from_static(b"data"),
                info: Some(info),
                idempotency_key: (key < 3).then(|| key.to_string().into()),
                skip_history: key == 4,
                version: match key {
                    3 => Some(Version { number: input.arbitrary()?, epoch: "".into() }),
                    _ => None,
                },
                ..NewPublication::default()
            };
            Request::Publish(publication, ReplyTo::Api(2))
        }
        _ => {
            let filter = HistoryFilter {
                limit: usize::from(input.arbitrary::<u8>()?),
                since: since(input)?,
                reverse: input.arbitrary()?,
            };
            let queries = [
                Query::Presence,
                Query::PresenceStats,
                Query::RemoveHistory,
                Query::History(filter),
            ];
            Request::Query(input.choose(&queries)?.clone(), ReplyTo::Api(3))
        }
    })
}

fn room(input: &mut Unstructured<'_>) -> Result<RoomName> {
    Ok((*input.choose(&ROOMS)?).into())
}

/// One of those that may be in the view, or one that never is.
fn peer(input: &mut Unstructured<'_>) -> Result<NodeId> {
    Ok(node(input.int_in_range(1..=4)?, Phase::Ready).id())
}

fn view(input: &mut Unstructured<'_>) -> Result<View> {
    let (here, phases) = (input.arbitrary::<u8>()?, input.arbitrary::<u8>()?);
    let present = (0..4u8).filter(|index| *index == 0 || here & (1 << index) != 0);
    let with_phase = present.map(|index| {
        let phase = match phases >> (index * 2) & 3 {
            0 => Phase::Joining,
            1 => Phase::Draining,
            _ => Phase::Ready,
        };
        node(index, phase)
    });
    Ok(View::new(with_phase))
}

fn node(index: u8, phase: Phase) -> NodeInfo {
    let address = ([127, 0, 0, 1], 1).into();
    let (name, generation) = (format!("node-{index}"), 1);
    NodeInfo { name, generation, mesh: address, http: address, phase }
}

fn namespaces() -> Arc<Namespaces> {
    let keeps = RoomOptions {
        presence: true,
        join_leave: true,
        history_size: 8,
        history_ttl: Duration::from_secs(2),
        history_meta_ttl: Duration::from_secs(10),
        force_recovery: true,
        ..RoomOptions::default()
    };
    let plain = RoomOptions { presence: true, ..RoomOptions::default() };
    let named = [("plain".into(), Arc::new(plain))].into_iter().collect();
    Arc::new(Namespaces { default: Arc::new(keeps), named })
}
