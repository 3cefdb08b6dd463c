//! Frames as each version wrote them: what nodes of that version say is read by this one, and what this one says
//! to them is what they read.
//!
//! `recorded/` has a file for each version, a frame in each line: its name, and its bytes in hexadecimal digits.
//! A new version begins with a copy of the file before it, and has lines for what is new; a line that is there is
//! never changed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};

use super::wire::{Frame, Hello, decode, encode};
use crate::{
    access::grant::{Flag, Grant, Overrides},
    cluster::{
        mesh_version::{self, MeshVersion, OURS},
        node::{NodeId, NodeInfo, Phase},
        slot_set::SlotSet,
        slots::{Claim, Term},
    },
    map::request::{KeyMode, Page as MapPage, Suppressed},
    queue::{
        group::{ConsumerFacts, Facts, Verdict},
        options::Start,
        tag::Delivery,
    },
    room::{
        control::{Action, Control},
        line::{Line, Root, Standing},
        messages::{
            Begin, End, Have, Held, Item, Message, Page, Refused, RoomMessage, SlotMessage,
        },
        stream::Entry,
        types::{
            Answer, ClientId, ClientInfo, Epoch, Failure, Finding, GroupAnswer, GroupRequest,
            HistoryFilter, HomeRequest, InRoom, Keyed, MapAnswer, MapRequest, NewPublication,
            NodeFacts, Position, Publication, Query, Since, Survey, Version,
        },
    },
    session::id::SessionId,
    shared_poll::peers::{PeerItem, PollMessage},
};

const NODE: NodeId = NodeId(0x0102_0304_0506_0708);
const TERM: Term = Term { count: 300, node: NODE };

fn recorded(version: MeshVersion) -> &'static str {
    match version {
        10 => include_str!("recorded/10.txt"),
        11 => include_str!("recorded/11.txt"),
        _ => panic!("there are no recorded frames of version {version}"),
    }
}

fn client() -> Arc<ClientInfo> {
    let in_room = InRoom {
        info: b"{}"[..].into(),
        hidden: true,
        announced: Some(false),
        single_connection: true,
    };
    Arc::new(ClientInfo {
        client: ClientId(7),
        user: "ann".into(),
        conn_info: b"[1]"[..].into(),
        in_room: Some(Box::new(in_room)),
    })
}

fn tags() -> BTreeMap<String, String> {
    BTreeMap::from([("kind".to_owned(), "goal".to_owned())])
}

fn publication() -> Arc<Publication> {
    let data = Bytes::from_static(b"{\"text\":1}");
    Arc::new(Publication {
        offset: 5,
        data,
        info: Some(client()),
        tags: tags(),
        delta: true,
        keyed: None,
    })
}

fn new_publication() -> NewPublication {
    NewPublication {
        data: Bytes::from_static(b"1"),
        info: Some(client()),
        tags: tags(),
        idempotency_key: Some("key".into()),
        skip_history: true,
        version: Some(Version { number: 9, epoch: "e".into() }),
        delta: true,
    }
}

fn position() -> Position {
    Position { epoch: Epoch(11), offset: 5 }
}

fn standing() -> Standing {
    let root = Root { tentative: true, term: TERM, serial: 3 };
    Standing { root, term: TERM, top: 5, attendance: 2 }
}

fn hello() -> Hello {
    let node = NodeInfo {
        name: "a".into(),
        generation: 1,
        mesh: ([127, 0, 0, 1], 9_100).into(),
        http: ([127, 0, 0, 1], 8_000).into(),
        phase: Phase::Ready,
    };
    Hello { newest: 8, cluster: "roomcast".into(), node, to: Some(NODE), oldest: 8 }
}

fn asks() -> Vec<(&'static str, HomeRequest)> {
    let since = Some(Since { epoch: "b".into(), offset: 4 });
    vec![
        ("publish", HomeRequest::Publish(new_publication())),
        ("presence", HomeRequest::Query(Query::Presence)),
        ("presence stats", HomeRequest::Query(Query::PresenceStats)),
        (
            "history",
            HomeRequest::Query(Query::History(HistoryFilter { limit: 10, since, reverse: true })),
        ),
        ("recover", HomeRequest::Query(Query::Recover(Since::nothing()))),
        ("remove history", HomeRequest::Query(Query::RemoveHistory)),
        ("judge", HomeRequest::Group(judge().into())),
        (
            "pull",
            HomeRequest::Group(
                GroupRequest::Pull { most: 5, wait: Duration::new(1, 2), by: None, bytes: 9 }
                    .into(),
            ),
        ),
        ("facts", HomeRequest::Group(GroupRequest::Facts.into())),
        ("seek", HomeRequest::Group(GroupRequest::Seek(Start::After(3)).into())),
        ("purge", HomeRequest::Group(GroupRequest::Purge.into())),
        ("remove", HomeRequest::Group(GroupRequest::Remove.into())),
    ]
    .into_iter()
    .chain(map_requests().map(|(name, request)| (name, HomeRequest::Map(request.into()))))
    .collect()
}

fn map_requests() -> impl Iterator<Item = (&'static str, MapRequest)> {
    let since = Some(Since { epoch: "b".into(), offset: 4 });
    let page = MapPage {
        key: Some("k".into()),
        cursor: "c".into(),
        limit: 5,
        bytes: 1_000,
        ascending: true,
    };
    let put = |mode| MapRequest::Put {
        key: "k".into(),
        value: new_publication(),
        score: -3,
        mode,
        renews: true,
    };
    let remove = MapRequest::Remove { key: "k".into(), idempotency_key: Some("key".into()) };
    [
        ("put", put(KeyMode::Replace)),
        ("put new", put(KeyMode::IfNew)),
        ("put again", put(KeyMode::IfExists)),
        ("remove of a key", remove),
        ("entries", MapRequest::Read(page)),
        ("changes", MapRequest::Changes { since, limit: 5, reverse: true }),
        ("count", MapRequest::Count),
        ("clear", MapRequest::Clear),
    ]
    .into_iter()
}

fn map_answers() -> impl Iterator<Item = (&'static str, MapAnswer)> {
    let keyed = Keyed { key: "k".into(), removed: true, score: -3, before: None };
    let entries = MapAnswer::Entries {
        entries: vec![(keyed, publication())],
        position: position(),
        cursor: "c".into(),
    };
    [
        ("changed", MapAnswer::Changed(position())),
        ("version", MapAnswer::Suppressed(Suppressed::Version, position())),
        ("key exists", MapAnswer::Suppressed(Suppressed::KeyExists, position())),
        ("key not found", MapAnswer::Suppressed(Suppressed::KeyNotFound, position())),
        ("entries", entries),
        ("count", MapAnswer::Count(70_000)),
    ]
    .into_iter()
}

fn judge() -> GroupRequest {
    let deliveries = vec![Delivery { offset: 5, term: 300, serial: 2 }];
    let verdict = Verdict::Nack(Some(Duration::from_secs(3)));
    GroupRequest::Judge { verdict, deliveries, by: Some(ClientId(7)) }
}

fn group_facts() -> Facts {
    let user = "ann".into();
    let consumers = vec![ConsumerFacts { client: 7, user, leased: 2, prefetch: 16 }];
    let oldest = Some(Duration::from_millis(1_500));
    Facts { floor: 1, top: 9, leased: 2, parked: 3, waiting: 4, oldest, consumers }
}

fn answers() -> Vec<(&'static str, Answer)> {
    let failed = |why| Answer::Failed(why);
    vec![
        ("published", Answer::Published(Some(position()))),
        ("published nowhere", Answer::Published(None)),
        ("presence", Answer::Presence(vec![client()])),
        ("presence stats", Answer::PresenceStats { clients: 2, users: 1 }),
        ("history", Answer::History(vec![publication()], position())),
        ("unavailable", failed(Failure::Unavailable)),
        ("overloaded", failed(Failure::Overloaded)),
        ("unknown namespace", failed(Failure::UnknownNamespace)),
        ("no history", failed(Failure::NoHistory)),
        ("bad position", failed(Failure::BadPosition)),
        ("unrecoverable", failed(Failure::UnrecoverablePosition)),
        ("too large", failed(Failure::LimitExceeded)),
        ("judged", Answer::Group(GroupAnswer::Judged(vec![true, false]))),
        ("pulled", Answer::Group(GroupAnswer::Pulled(vec![publication()]))),
        ("facts", Answer::Group(GroupAnswer::Facts(group_facts().into()))),
        ("done", Answer::Group(GroupAnswer::Done)),
    ]
    .into_iter()
    .chain(map_answers().map(|(name, answer)| (name, Answer::Map(answer))))
    .collect()
}

fn pages() -> Vec<(&'static str, Page)> {
    let have = Have { position: position(), term: TERM };
    let line = Line { epoch: Epoch(11), lineage: vec![(Epoch(10), 2)], top: 5 };
    let items = vec![
        Item::Publication(Duration::new(1, 2), publication()),
        Item::Key((Duration::from_secs(3), "key".into(), 5)),
        Item::Forward((NODE, 8), 5),
        Item::Origin(NODE, 8),
        Item::Version(Version { number: 9, epoch: "e".into() }),
        Item::Client(NODE, client()),
    ];
    let end = End { have: Some(have), committed: 4, attendance: 2 };
    let rejoin = Begin::Rejoin { line: line.clone(), standing: standing(), through: 2 };
    let afresh = Begin::Afresh { line, standing: standing(), first: 2 };
    let page = |begin, items, end| Page { id: 6, begin, items, end };
    vec![
        ("nothing", page(Some(Begin::Nothing), vec![], None)),
        ("follow", page(Some(Begin::Follow { first: 2 }), vec![], Some(end.clone()))),
        ("afresh", page(Some(afresh), items, Some(end))),
        ("rejoin", page(Some(rejoin), vec![], None)),
    ]
}

fn about_rooms() -> Vec<(&'static str, RoomMessage)> {
    let have = Have { position: position(), term: TERM };
    let entry = Entry {
        publication: publication(),
        forward: Some((NODE, 8)),
        key: Some("key".into()),
        version: Some(Version { number: 9, epoch: "e".into() }),
    };
    vec![
        ("attach", RoomMessage::Attach { id: 6, have: Some(have), invited: true }),
        ("clients", RoomMessage::Clients { id: 6, clients: vec![client()], last: true }),
        ("detach", RoomMessage::Detach),
        ("join", RoomMessage::Join(client())),
        ("leave", RoomMessage::Leave(ClientId(7))),
        ("not home for an attach", RoomMessage::NotHome(Refused::Attach(6))),
        ("not home for a run", RoomMessage::NotHome(Refused::Run(6))),
        ("not home for a fetch", RoomMessage::NotHome(Refused::Fetch(6))),
        ("not home for a delivery", RoomMessage::NotHome(Refused::Delivery(TERM))),
        (
            "deliver",
            RoomMessage::Deliver { count: 300, epoch: Some(Epoch(11)), entry: entry.clone() },
        ),
        ("committed", RoomMessage::Committed(5)),
        ("joined", RoomMessage::Joined(NODE, client())),
        ("left", RoomMessage::Left(client())),
        ("history removed", RoomMessage::HistoryRemoved),
        ("invite", RoomMessage::Invite),
        ("dismiss", RoomMessage::Dismiss),
        ("has", RoomMessage::Has(5)),
        ("fetch", RoomMessage::Fetch(6)),
        ("release", RoomMessage::Release),
        ("part", RoomMessage::Part { id: 8, answer: Answer::Presence(vec![client()]) }),
        ("push", RoomMessage::Push(vec![(ClientId(7), publication())])),
        (
            "fetch publication",
            RoomMessage::FetchPublication {
                id: 6,
                root: standing().root,
                term: TERM,
                at: position(),
            },
        ),
        ("publication", RoomMessage::Publication { id: 6, age: Duration::from_millis(5), entry }),
    ]
}

fn about_slots() -> Vec<(&'static str, SlotMessage)> {
    let slots = [1, 2, 3, 900, 4_095].into_iter().collect::<SlotSet>();
    let claim = Claim { id: 4, slots: [(300, slots)].into(), held: true, asked: vec![NODE] };
    let held = Held { standing: standing(), given: Some(TERM) };
    vec![
        ("claim", SlotMessage::Claim(claim)),
        ("refused", SlotMessage::Refused { claim: 4, slots: vec![(900, TERM)] }),
        (
            "inventory",
            SlotMessage::Inventory {
                claim: 4,
                rooms: vec![("room".into(), held)],
                ended: vec![(900, TERM)],
                unsure: vec![901],
                last: true,
            },
        ),
        ("forgot", SlotMessage::Forgot),
        ("known", SlotMessage::Known(vec![(TERM, true)])),
        ("ask", SlotMessage::Ask(vec![(900, TERM)])),
        ("sure", SlotMessage::Sure(vec![(900, TERM)])),
    ]
}

fn controls() -> Vec<(&'static str, Action)> {
    let flag = Some(Flag { value: true });
    let overrides = Overrides {
        force_recovery: flag,
        force_positioning: flag,
        force_push_join_leave: flag,
        presence: None,
        join_leave: flag,
    };
    let (info, data) = (Bytes::from_static(b"{}"), Bytes::from_static(b"[]"));
    let grant = Grant { expires_at: Some(-1), info: info.clone(), data, overrides, queue: None };
    let room = "room".to_owned();
    let reason = "bye".to_owned();
    vec![
        ("subscribe", Action::Subscribe { room, grant, since: Some(Since::nothing()) }),
        ("unsubscribe", Action::Unsubscribe { room: "room".to_owned() }),
        ("disconnect", Action::Disconnect { code: 3_000, reason, except: vec!["c".to_owned()] }),
        ("refresh", Action::Refresh { expired: true, expires_at: Some(5), info: Some(info) }),
    ]
}

fn facts() -> NodeFacts {
    NodeFacts {
        uid: "u".into(),
        name: "a".into(),
        version: "1".into(),
        num_clients: 1,
        num_users: 2,
        num_subs: 3,
        num_channels: 4,
        uptime: 5,
    }
}

/// One of everything that nodes say.
fn frames() -> Vec<(String, Frame)> {
    let mut frames = vec![
        ("hello".to_owned(), Frame::Hello(hello())),
        ("alive".to_owned(), Frame::Alive),
        (
            "emulation".to_owned(),
            Frame::Emulation(SessionId::new([7; 16]), Bytes::from_static(b"{}")),
        ),
    ];
    let mut say = |kind: &str, name: &str, message| {
        frames.push((format!("{kind}: {name}"), Frame::Rooms(message)));
    };
    let about = |message| Message::Room("room".into(), message);
    for (name, ask) in asks() {
        say("request", name, about(RoomMessage::Request { id: 8, run: 2, seq: 1, ask }));
    }
    for (name, answer) in answers() {
        say("answer", name, about(RoomMessage::Answer { id: 8, answer }));
    }
    for (name, page) in pages() {
        say("page", name, about(RoomMessage::Page(Box::new(page))));
    }
    for (name, message) in about_rooms() {
        say("room", name, about(message));
    }
    for (name, message) in about_slots() {
        say("slots", name, Message::Slots(message));
    }
    for phase in [Phase::Joining, Phase::Ready, Phase::Draining] {
        say("phase", phase.word(), Message::Phase(phase));
    }
    say("node", "your phase", Message::YourPhase(Phase::Draining));
    say("node", "credit", Message::Credit(70_000));
    say("node", "settled", Message::Settled(4));
    say("node", "ping", Message::Ping(4));
    say("node", "pong", Message::Pong(4));
    say("survey", "info", Message::Survey(3, Survey::Info));
    say("survey", "channels", Message::Survey(3, Survey::Channels("room-*".to_owned())));
    for (name, action) in controls() {
        let (user, client, session) = ("ann".to_owned(), "c".to_owned(), "s".to_owned());
        let control = Control { user, client, session, action };
        say("control", name, Message::Survey(3, Survey::Control(control)));
    }
    say("finding", "info", Message::Finding(3, Finding::Info(facts())));
    let channels = || Finding::Channels(vec![("room".into(), 2)]);
    say("finding", "channels", Message::Finding(3, channels()));
    say("finding", "part", Message::FindingPart(3, channels()));
    say("finding", "controlled", Message::Finding(3, Finding::Controlled));
    let polls = about_polls().into_iter();
    frames.extend(polls.map(|(name, it)| (format!("polls: {name}"), Frame::Polls(it))));
    frames
}

fn about_polls() -> Vec<(&'static str, PollMessage)> {
    let (room, run) = (Arc::<str>::from("room"), 7);
    let data = Bytes::from_static(b"[1]");
    let item = PeerItem { key: "key".into(), data, version: 300, removed: true };
    let keys = vec!["key".into()];
    vec![
        ("ready", PollMessage::Ready),
        ("track", PollMessage::Track { room: room.clone(), run, keys: vec![("key".into(), 300)] }),
        ("untrack", PollMessage::Untrack { room: room.clone(), run, keys }),
        ("not mine", PollMessage::NotMine { room: room.clone(), run }),
        ("items", PollMessage::Items { room, run, epoch: "e".into(), items: vec![item] }),
    ]
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(digits: &str) -> BytesMut {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn what_every_version_says_is_read_and_said_as_it_was() {
    for version in OURS.oldest..=OURS.newest {
        let lines = recorded(version).lines().filter_map(|line| line.split_once(" = "));
        let recorded: BTreeMap<&str, &str> = lines.collect();
        let said: Vec<_> =
            frames().into_iter().filter(|(_, frame)| frame.since() <= version).collect();
        let now: Vec<String> = (said.iter())
            .map(|(name, frame)| (name, encode(frame).expect("it fits a frame")))
            .map(|(name, bytes)| format!("{name} = {}", hexadecimal(&bytes)))
            .collect();
        for (name, frame) in &said {
            let digits = recorded.get(&**name).unwrap_or_else(|| {
                panic!("version {version} has no {name:?}; all of it now:\n{}", now.join("\n"))
            });
            let read = decode(&mut bytes(digits));
            assert_eq!(read.expect("it can be read").as_ref(), Some(frame), "{version}: {name}");
            let written = hexadecimal(&encode(frame).expect("it fits a frame"));
            assert_eq!(&written, digits, "{version}: {name}");
        }
        assert_eq!(recorded.len(), said.len(), "version {version} has said more than that");
    }
}

#[test]
fn what_a_later_version_adds_to_its_hello_is_not_read() {
    let mut frame = BytesMut::from(&encode(&Frame::Hello(hello())).expect("small")[..]);
    frame.extend_from_slice(b"more");
    frame[3] += 4;
    assert_eq!(decode(&mut frame).expect("it can be read"), Some(Frame::Hello(hello())));
}

#[test]
fn every_version_in_use_is_one_from_which_on_nodes_work_together() {
    let versions = OURS.oldest..=OURS.newest;
    assert!(versions.clone().all(|it| it >= mesh_version::FIRST) && versions.count() <= 2);
}
