//! Networks that break between nodes: real processes on hosts of their own, cut
//! off each other while people talk on every node, in so many rooms that each
//! node is the home of some. Skipped where no hosts can be made,
//! but not in CI.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster_tests::check::{self, Entry, Message, messages_of};
use cluster_tests::control::{self, Control};
use cluster_tests::driver::Pending;
use cluster_tests::hosts::Cut;
use cluster_tests::sdk::Format::{Json, Protobuf};
use cluster_tests::sdk::Sdk::Js;
use cluster_tests::step::Step::*;
use cluster_tests::wait::ensure;
use cluster_tests::world::World;
use serde_json::{Value, json};

/// One client per node; each is in all rooms and talks in all of them.
const PEOPLE: [&str; 3] = ["ann", "bob", "cid"];
const ROOMS: [&str; 8] = ["one", "two", "three", "four", "five", "six", "seven", "eight"];
/// How long a cut lasts: longer than links and gossip take to notice it.
const CUT: Duration = Duration::from_secs(8);
/// How long a node that comes and goes is away, and how long it is there.
const FLAP: Duration = Duration::from_secs(3);
/// In this time everything must be as if nothing had happened.
const RECOVERED: Duration = Duration::from_secs(30);
/// Messages of each person in each room before a cut, and after it.
const CALM: u64 = 5;

/// What the people said, in each room, from before a cut to after it.
#[derive(Default)]
struct Said {
    /// What was acknowledged while all was well: no cut may cost it.
    safe: BTreeMap<&'static str, Vec<Message>>,
    /// What was acknowledged while a cut came and went.
    acked: BTreeMap<&'static str, Vec<Message>>,
    /// Codes of what was refused meanwhile.
    refused: Vec<u64>,
}

type Talk = Vec<(&'static str, &'static str, Pending)>;

/// Three nodes and their people, who have said something in every room.
fn meet() -> Option<(World, Said)> {
    let mut world = World::on_hosts(3)?;
    let mut said = Said::default();
    for (node, client) in PEOPLE.into_iter().enumerate() {
        let format = if node == 1 { Protobuf } else { Json };
        world.play([Connect { client, sdk: Js, format, node }]);
        world.play(ROOMS.map(|room| Subscribe { client, room }));
    }
    calm(&mut world, &mut said, "before");
    Some((world, said))
}

/// Everyone says something in every room, and everyone hears all of it.
fn calm(world: &mut World, said: &mut Said, when: &str) {
    for room in ROOMS {
        let what = format!("everyone talks in {room}, {when}, and is heard everywhere");
        let mut spoken = Vec::new();
        world.check(&what, |world| {
            for client in PEOPLE {
                let from = format!("{client} {when}");
                for seq in 1..=CALM {
                    let data = json!({"from": from, "seq": seq});
                    let published = world.clients.publish(client, room, data);
                    published.map_err(|e| format!("{client}: {e}"))?;
                }
                spoken.extend(messages_of(&from, CALM));
            }
            Ok(())
        });
        world.eventually(&format!("{when}: {room} has come through"), RECOVERED, |world| {
            let logs = world.logs(&PEOPLE, room);
            let heard = logs.iter().try_for_each(|log| check::nothing_lost(log, &spoken));
            heard.map_err(|why| format!("{why}{}", standing(world, room)))
        });
        said.safe.entry(room).or_default().extend(spoken);
    }
}

/// Everyone begins to talk in every room, and goes on until [`hush`].
fn talk(world: &mut World) -> Talk {
    let all = PEOPLE.into_iter().flat_map(|client| ROOMS.map(|room| (client, room)));
    let talk = all.map(|(client, room)| {
        (client, room, world.clients.start_talking(client, room, &meanwhile(client)))
    });
    talk.collect()
}

fn hush(world: &mut World, talk: Talk, said: &mut Said) {
    world.check("all stop talking", |world| {
        for client in PEOPLE {
            world.clients.hush(client).map_err(|e| e.to_string())?;
        }
        for (client, room, pending) in talk {
            let outcome = world.clients.finish_publishing(client, pending);
            let outcome = outcome.map_err(|e| format!("{client} in {room}: {e}"))?;
            let refused: BTreeSet<u64> = outcome.refused.iter().map(|(seq, _)| *seq).collect();
            let sent = messages_of(&meanwhile(client), outcome.sent);
            let acked = sent.into_iter().filter(|(_, seq)| !refused.contains(seq));
            said.acked.entry(room).or_default().extend(acked);
            said.refused.extend(outcome.refused.iter().map(|(_, code)| *code));
        }
        Ok(())
    });
}

fn meanwhile(client: &str) -> String {
    format!("{client} meanwhile")
}

/// After a cut: one cluster, one log in every room, and nobody was left in the
/// dark about what it lacks or what became of it.
fn judge(world: &mut World, mut said: Said) {
    world.play([Converge]);
    // Until a room has one home again, its other one may take something and lose it with its log.
    world.eventually("all nodes tell one story of every room", RECOVERED, |world| {
        ROOMS.iter().try_for_each(|room| story(world, room).map(drop))
    });
    all_hear(world);
    calm(world, &mut said, "after");
    for room in ROOMS {
        let mut stands = Vec::new();
        world.check(&format!("all nodes still tell one story of {room}"), |world| {
            stands = story(world, room)?;
            Ok(())
        });
        world.check(&format!("{room} lacks nothing that was said in calm"), |_| {
            let lost = said.safe[room].iter().find(|message| !stands.contains(message));
            lost.map_or(Ok(()), |lost| Err(format!("{lost:?} is not in its history")))
        });
        world.check(&format!("{room}: nobody lacks anything untold"), |world| {
            let logs = world.logs(&PEOPLE, room);
            check::one_log(&logs, &stands)?;
            let lost = said.acked[room].iter().find(|message| !stands.contains(message));
            let told = logs.iter().any(check::gap_announced);
            ensure(lost.is_none() || told, || {
                format!("{lost:?} was acked, is lost, and no one told")
            })
        });
    }
}

/// Everyone is subscribed to what its room is now: whoever has yet to be told of a gap is told before it hears of
/// anything else, and would take what is said meanwhile for a part of the gap.
fn all_hear(world: &mut World) {
    let mut seq = 0;
    world.eventually("everyone hears what is said now", RECOVERED, |world| {
        seq += 1;
        let data = json!({"from": "probe", "seq": seq});
        for room in ROOMS {
            world.cluster.api(0, "publish", &json!({"channel": room, "data": data}))?;
        }
        for (client, room) in PEOPLE.into_iter().flat_map(|it| ROOMS.map(|room| (it, room))) {
            world.clients.until(client, Duration::from_secs(1), |events| {
                let mut heard = events.iter().filter(|it| it["room"] == room && it["ev"] == "pub");
                let hears = heard.any(|it| it["data"] == data);
                ensure(hears, || format!("{client} does not hear in {room} what is said now"))
            })?;
        }
        Ok(())
    });
}

/// A room's history, if all nodes agree on it.
fn story(world: &World, room: &str) -> Result<Vec<Message>, String> {
    let request = json!({"channel": room, "limit": -1});
    let pages: Vec<Value> = (0..PEOPLE.len())
        .map(|node| world.cluster.api(node, "history", &request))
        .collect::<Result<_, _>>()?;
    for page in &pages[1..] {
        let brief = |page: &Value| format!("{} at {}", page["epoch"], page["offset"]);
        ensure(*page == pages[0], || format!("{} or {}", brief(&pages[0]), brief(page)))?;
    }
    let publications = pages[0]["publications"].as_array().ok_or("no publications")?;
    let message = |it: &Value| {
        let data = &it["data"];
        Some((data["from"].as_str()?.to_owned(), data["seq"].as_u64()?))
    };
    publications.iter().map(|it| message(it).ok_or_else(|| it.to_string())).collect()
}

/// Where a room stands as each node and each client tells it, for a failure's report.
fn standing(world: &World, room: &str) -> String {
    let mut text = String::new();
    for (node, client) in PEOPLE.into_iter().enumerate() {
        let request = json!({"channel": room, "limit": 0});
        let page = world.cluster.api(node, "history", &request).unwrap_or_default();
        let entries = world.clients.log(client, room).entries;
        let last = &entries[entries.len().saturating_sub(3)..];
        let turn = entries.iter().rev().find(|it| !matches!(it, Entry::Publication { .. }));
        text +=
            &format!("\n          {client}'s node is at {} {}; ", page["epoch"], page["offset"]);
        text += &format!("{client} last saw {last:?}, and before that {turn:?}");
    }
    text
}

/// A node's clients can say something in every room.
fn is_served(world: &mut World, node: usize) {
    let what = format!("{} is served in every room during the cut", PEOPLE[node]);
    world.eventually(&what, CUT, |world| {
        for room in ROOMS {
            let data = json!({"from": format!("{} served", PEOPLE[node]), "seq": 1});
            let key = format!("served {node}");
            let body = json!({"channel": room, "data": data, "idempotency_key": key});
            world.cluster.api(node, "publish", &body)?;
        }
        Ok(())
    });
}

/// Nothing that a client can't simply try again was answered.
fn only_temporary(world: &mut World, said: &Said) {
    world.check("what was refused was refused with a temporary error", |_| {
        let odd = said.refused.iter().find(|code| **code != 100);
        ensure(odd.is_none(), || format!("codes {:?}", said.refused))
    });
}

/// Nobody lost the connection, waited in vain or was told of a gap.
fn unnoticed(world: &mut World, said: &Said) {
    world.check("nobody has noticed anything", |world| {
        ensure(said.refused.is_empty(), || format!("refused: {:?}", said.refused))?;
        for room in ROOMS {
            let logs = world.logs(&PEOPLE, room);
            check::complete(&logs, &[&said.safe[room][..], &said.acked[room]].concat())?;
            let told = logs.iter().find(|log| check::gap_announced(log));
            ensure(told.is_none(), || format!("{told:?}"))?;
        }
        Ok(())
    });
}

#[test]
fn both_sides_of_a_partition_serve_and_become_one_again() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Apart { node: 0 }), Hold(CUT / 2)]);
    for node in 0..PEOPLE.len() {
        is_served(&mut world, node);
    }
    world.play([Hold(CUT / 2), Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn two_nodes_that_only_a_third_one_reaches_leave_no_silent_gap() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Pair { a: 0, b: 2 }), Hold(CUT), Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn a_node_that_hears_and_is_not_heard_leaves_no_silent_gap() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::OneWay { from: 1, to: 2 }), Hold(CUT), Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

/// Gossip pauses for `time` while links live, and nobody notices.
fn pause_of_gossip(time: Duration) {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Gossip), Hold(time), Heal]);
    world.play([Hold(Duration::from_secs(2))]);
    hush(&mut world, talking, &mut said);
    world.play([Converge]);
    unnoticed(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn a_short_pause_of_gossip_is_not_noticed() {
    pause_of_gossip(Duration::from_secs(2));
}

#[test]
fn a_pause_of_gossip_is_not_noticed_while_links_live() {
    pause_of_gossip(Duration::from_secs(6));
}

#[test]
fn nodes_that_have_links_and_no_gossip_leave_no_silent_gap() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Gossip), Hold(CUT), Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn nodes_that_gossip_and_have_no_links_leave_no_silent_gap() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Mesh), Hold(CUT), Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn a_node_whose_cable_is_pulled_gets_its_clients_back() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    world.play([Cut(Cut::Unplugged { node: 0 }), Hold(CUT / 2)]);
    world.play([TurnTo { client: "ann", node: 1 }, Unplug { client: "ann" }]);
    world.play([MoveTo { client: "ann", node: 1, room: "one" }]);
    world.play([Hold(CUT / 2), Heal]);
    hush(&mut world, talking, &mut said);
    judge(&mut world, said);
}

/// A client on node b talks to one on node c, in a room that node a has no part in.
fn control(world: &World) -> Control {
    let (b, c) = (world.cluster.node(1).http, world.cluster.node(2).http);
    Control::start(b, c, &control::room_at(1, 2, 3)).expect("all is well yet")
}

#[test]
fn gossip_that_is_late_lost_and_repeated_is_not_noticed() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    let mut control = control(&world);
    world.play([Hold(CUT / 2)]);
    control.fault_begins();
    world.play([Cut(Cut::Rough), Hold(CUT)]);
    world.undisturbed(control);
    world.play([Heal]);
    hush(&mut world, talking, &mut said);
    unnoticed(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn a_slow_link_leaves_no_silent_gap() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    let mut control = control(&world);
    world.play([Hold(CUT / 2)]);
    control.fault_begins();
    world.play([Cut(Cut::Slow { a: 0, b: 1 }), Hold(CUT)]);
    world.undisturbed(control);
    world.play([Heal]);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn links_that_are_reset_every_second_lose_and_repeat_nothing() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    for node in [0, 1, 2].repeat(4) {
        world.play([ResetLinks { node }, Hold(Duration::from_secs(1))]);
    }
    hush(&mut world, talking, &mut said);
    world.play([Converge]);
    unnoticed(&mut world, &said);
    judge(&mut world, said);
}

#[test]
fn a_node_that_comes_and_goes_all_the_time_does_not_disturb_the_others() {
    let Some((mut world, mut said)) = meet() else { return };
    let talking = talk(&mut world);
    let mut control = control(&world);
    world.play([Hold(CUT / 2)]);
    control.fault_begins();
    for _ in 0..6 {
        world.play([Cut(Cut::Apart { node: 0 }), Hold(FLAP), Heal, Hold(FLAP)]);
    }
    world.undisturbed(control);
    hush(&mut world, talking, &mut said);
    only_temporary(&mut world, &said);
    judge(&mut world, said);
}
