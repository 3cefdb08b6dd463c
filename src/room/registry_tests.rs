//! Tests of the registry: what of many rooms is done when, what is dropped first, and groups beside their rooms.

use super::*;
use crate::{
    queue::{
        name,
        options::{QueueOptions, Start},
    },
    room::{
        control::Action,
        options::RoomOptions,
        types::{
            ClientId, ClientInfo, GroupAnswer, GroupRequest, MemberFlags, NewPublication, ReplyTo,
            SocketRef, Subscribe,
        },
    },
};

fn alone(settings: RoomSettings) -> State {
    let keeps = RoomOptions {
        history_size: 10,
        history_ttl: Duration::from_secs(60),
        history_meta_ttl: Duration::from_secs(3_600),
        ..Default::default()
    };
    let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
    let me = NodeInfo {
        name: "a".into(),
        generation: 1,
        mesh: ([127, 0, 0, 1], 1).into(),
        http: ([127, 0, 0, 1], 1).into(),
        phase: Phase::Ready,
    };
    let mut state = State::new(me.id(), Arc::new(namespaces), settings, 1);
    state.handle(In::View(View::new([me])), Time::from_millis(1_000));
    state
}

#[test]
fn no_input_tells_a_claimer_of_more_rooms_than_one_may_go_through() {
    use crate::{
        cluster::{slot_set::SlotSet, slots::Claim},
        room::messages::SlotMessage,
    };
    let mut state = alone(RoomSettings::default());
    for room in 0..3_000 {
        publish(&mut state, &format!("r{room}"), 10, 0);
    }
    let (peer, at) = (NodeId(7), Time::from_millis(2_000));
    state.handle(In::LinkUp(peer), at);
    let slots = BTreeMap::from([(9, SlotSet::all())]);
    let asked = vec![state.node.me];
    let claim = Claim { id: 1, slots, held: true, asked };
    let mut input = In::Peer(peer, Message::Slots(SlotMessage::Claim(claim)));
    let mut told = 0;
    while told < 3_000 {
        let rooms = |out: &Out| match out {
            Out::Send { message: Message::Slots(SlotMessage::Inventory { rooms, .. }), .. } => {
                rooms.len()
            }
            _ => 0,
        };
        let now: usize = state.handle(input, at).iter().map(rooms).sum();
        assert!(now <= state.node.settings.slice, "{now} at once");
        assert!(now > 0 || state.has_work(), "{told} were told of");
        told += now;
        input = In::Tick;
    }
}

fn publish(state: &mut State, room: &str, bytes: usize, at: u64) -> Vec<Out> {
    let publication =
        NewPublication { data: vec![b'x'; bytes].into(), ..NewPublication::default() };
    let request = Request::Publish(publication, ReplyTo::Api(at));
    state.handle(In::Request(room.into(), request), Time::from_millis(1_000 + at))
}

#[test]
fn what_someone_waits_for_is_not_due_behind_rooms_that_nobody_waits_for() {
    const ROOMS: usize = 3_000;
    let mut state = alone(RoomSettings::default());
    for room in 0..ROOMS {
        publish(&mut state, &format!("r{room}"), 10, 0);
    }
    // All of them have something to drop. It is done in slices that follow one another, and then it is done.
    let now = Time::from_millis(1_000 + 61_000);
    let slices = (0..ROOMS).take_while(|_| {
        state.handle(In::Tick, now);
        state.next_due() <= now
    });
    let slices = slices.count();
    let slice = state.node.settings.slice;
    assert!((ROOMS / slice - 1..=ROOMS / slice + 1).contains(&slices), "{slices}");
    assert_eq!(state.history_bytes(), 0);
}

#[test]
fn the_rooms_that_nobody_used_for_the_longest_go_first() {
    let mut state = alone(RoomSettings { room_limit: 3, ..Default::default() });
    for (at, room) in ["a", "b", "c", "a", "d"].into_iter().enumerate() {
        publish(&mut state, room, 10, at as u64);
    }
    let known: Vec<&str> =
        ["a", "b", "c", "d"].into_iter().filter(|it| state.room(it).is_some()).collect();
    assert_eq!(known, ["a", "c", "d"]);
    assert_eq!(state.agenda.lens(), (3, 3));
}

#[test]
fn the_oldest_publications_go_when_there_are_too_many_bytes() {
    let mut state = alone(RoomSettings { history_bytes: 5_000, ..Default::default() });
    for at in 0..50 {
        publish(&mut state, ["a", "b"][at % 2], 1_000, at as u64);
        assert!(state.history_bytes() <= 5_000);
    }
    assert!(state.history_bytes() > 3_000, "{}", state.history_bytes());
}

/// A node whose rooms all have a group `one`.
fn with_groups(settings: RoomSettings) -> State {
    let mut state = alone(settings);
    let keeps = RoomOptions {
        history_size: 100,
        history_ttl: Duration::from_secs(60),
        history_meta_ttl: Duration::from_secs(3_600),
        ..Default::default()
    };
    let groups = vec!["one".to_owned()];
    let keeps = keeps.with_queue(QueueOptions { groups, ..QueueOptions::default() });
    let namespaces = Namespaces { default: Arc::new(keeps), named: BTreeMap::new() };
    state.namespaces = Arc::new(namespaces);
    state
}

/// What the group of a room answers at once.
fn ask_group(state: &mut State, room: &str, request: GroupRequest, at: u64) -> Option<GroupAnswer> {
    let request = Request::Group(request.into(), ReplyTo::Api(at));
    let room = name::of_group(room, "one").into();
    let out = state.handle(In::Request(room, request), Time::from_millis(1_000 + at));
    out.into_iter().find_map(|out| match out {
        Out::Answer { answer: Answer::Group(answer), .. } => Some(answer),
        _ => None,
    })
}

#[test]
fn a_group_is_told_where_to_go_on_before_its_room_has_been_used() {
    let mut state = with_groups(RoomSettings::default());
    for (at, room, request) in [
        (1, "a", GroupRequest::Seek(Start::Last)),
        (2, "b", GroupRequest::Purge),
        (3, "c", GroupRequest::Remove),
    ] {
        let answer = ask_group(&mut state, room, request, at);
        assert_eq!(answer, Some(GroupAnswer::Done), "{room}");
    }
}

/// Someone consumes what the group of room `a` gives.
fn consume(state: &mut State, client: u128, at: u64) -> Vec<Out> {
    let info = ClientInfo::new(ClientId(client), "ann");
    let subscribe = Subscribe {
        socket: SocketRef { worker: 0, slot: client as u32, generation: 0 },
        id: 1,
        info: Arc::new(info),
        flags: MemberFlags::default(),
        delivery: None,
        recover: None,
        must_recover: false,
    };
    let room = name::of_group("a", "one").into();
    state.handle(In::Request(room, Request::Subscribe(subscribe)), Time::from_millis(1_000 + at))
}

#[test]
fn a_group_that_is_removed_does_not_begin_again_for_those_who_consumed() {
    let mut state = with_groups(RoomSettings::default());
    let pushed = |out: Vec<Out>| out.iter().any(|it| matches!(it, Out::Push { .. }));
    publish(&mut state, "a", 10, 1);
    assert!(pushed(consume(&mut state, 1, 2)));
    let request = Request::Group(GroupRequest::Remove.into(), ReplyTo::Api(1));
    let room: RoomName = name::of_group("a", "one").into();
    let out = state.handle(In::Request(room.clone(), request), Time::from_millis(1_003));
    let told = out.iter().any(|it| match it {
        Out::Control(control) => {
            control.client == ClientId(1).to_string()
                && control.action == Action::Unsubscribe { room: room.to_string() }
        }
        _ => false,
    });
    assert!(told, "{out:?}");
    assert!(!pushed(publish(&mut state, "a", 10, 4)));
    assert_eq!(state.node.groups.floor(&"a".into()), None, "it holds up no publication");
    assert!(pushed(consume(&mut state, 2, 5)), "a new one begins");
}

#[test]
fn what_a_group_has_not_settled_is_not_dropped_for_want_of_memory() {
    let mut state = with_groups(RoomSettings { history_bytes: 5_000, ..Default::default() });
    let pull = |state: &mut State, at: u64| {
        let request =
            GroupRequest::Pull { most: 100, wait: Duration::ZERO, by: None, bytes: 1 << 20 };
        match ask_group(state, "a", request, at) {
            Some(GroupAnswer::Pulled(it)) => Some(it.len()),
            _ => None,
        }
    };
    publish(&mut state, "a", 1_000, 1);
    assert_eq!(pull(&mut state, 2), Some(1));
    let refused = |out: &[Out]| {
        let full = Answer::Failed(Failure::Overloaded);
        out.iter().any(|it| matches!(it, Out::Answer { answer, .. } if *answer == full))
    };
    let taken = (0..20).filter(|at| !refused(&publish(&mut state, "a", 1_000, 10 + at))).count();
    assert!((2..8).contains(&taken), "{taken} were taken");
    assert_eq!(pull(&mut state, 50), Some(taken), "all that were taken are there");
    // Rooms without groups make way.
    publish(&mut state, "b", 1_000, 60);
    assert_eq!(state.room("b").and_then(|it| it.stream()).map(|it| it.history.len()), Some(0));
}

#[test]
fn a_room_that_nobody_uses_is_forgotten_in_time_and_leaves_nothing() {
    let mut state = alone(RoomSettings::default());
    publish(&mut state, "a", 10, 0);
    for seconds in 0..3_700 {
        state.handle(In::Tick, Time::from_millis(1_100 + seconds * 1_000));
    }
    assert_eq!((state.rooms(), state.history_bytes()), (0, 0));
    assert_eq!(state.agenda.lens(), (0, 0));
}

#[test]
fn a_core_that_was_told_of_time_waits_for_what_is_due_or_a_lull() {
    let mut state = alone(RoomSettings::default());
    let at = Time::from_millis(5_000);
    state.handle(In::Tick, at);
    assert_eq!((state.ticked(), state.next_due()), (at, at + LULL));
    let short = RoomOptions {
        history_size: 10,
        history_ttl: LULL / 5,
        history_meta_ttl: LULL / 5,
        ..Default::default()
    };
    let namespaces = Namespaces { default: Arc::new(short), named: BTreeMap::new() };
    state.namespaces = Arc::new(namespaces);
    publish(&mut state, "a", 10, 4_100);
    assert_eq!(state.next_due(), at + LULL / 5 * 2);
}

#[test]
fn the_application_is_told_who_comes_and_goes() {
    use crate::room::{
        attendance::AttendanceEvent,
        types::{ClientId, ClientInfo, MemberFlags, SocketRef, Subscribe},
    };
    let mut state = alone(RoomSettings::default());
    let told = RoomOptions { webhooks: true, ..Default::default() };
    let namespaces = Namespaces { default: Arc::new(told), named: BTreeMap::new() };
    state.namespaces = Arc::new(namespaces);
    let socket = |slot| SocketRef { worker: 0, slot, generation: 0 };
    let mut ask = |slot: u32, request: Request| {
        let now = Time::from_millis(2_000 + u64::from(slot));
        let out = state.handle(In::Request("a".into(), request), now);
        let events = out.into_iter().filter_map(|out| match out {
            Out::Notify(event) => Some(event),
            _ => None,
        });
        let words = events.map(|event| match event {
            AttendanceEvent::Join(..) => "join",
            AttendanceEvent::Leave(..) => "leave",
            AttendanceEvent::Occupied(_) => "occupied",
            AttendanceEvent::Vacated(_) => "vacated",
        });
        words.collect::<Vec<_>>()
    };
    let come = |slot: u32| {
        Request::Subscribe(Subscribe {
            socket: socket(slot),
            id: 1,
            info: Arc::new(ClientInfo::new(ClientId(slot.into()), "ann")),
            flags: MemberFlags::default(),
            recover: None,
            must_recover: false,
            delivery: None,
        })
    };
    let go = |slot: u32| Request::Unsubscribe {
        socket: socket(slot),
        client: ClientId(slot.into()),
        reply: ReplyTo::Nobody,
    };
    assert_eq!(ask(1, come(1)), ["occupied", "join"]);
    assert_eq!(ask(2, come(2)), ["join"]);
    assert_eq!(ask(1, go(1)), ["leave"]);
    assert_eq!(ask(2, go(2)), ["leave", "vacated"]);
    assert_eq!(ask(3, come(3)), ["occupied", "join"]);
}
