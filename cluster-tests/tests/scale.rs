//! What ten nodes say to each other, counted, and what the formulas of `sim::scale::model` say that they do.
//! `cargo run --release -p cluster-tests --example scale` does it with up to 1,000.

use cluster_tests::sim::scale::{
    model::Plan,
    scenario::{Scenario, Stage, Use},
};

const NODES: usize = 10;

fn stage(what: Use, rooms: usize, history: bool) -> Stage {
    Stage::new(Scenario { nodes: NODES, what, rooms, history })
}

#[test]
fn a_hot_room_goes_once_to_each_node() {
    for history in [false, true] {
        let outcome = stage(Use::Hot, 1, history).play();
        let publishing = &outcome.publishing;
        assert_eq!((publishing.fan_outs, publishing.acknowledged), (1_000, 100));
        assert_eq!(publishing.kinds["deliver"].frames, 900);
        assert_eq!(publishing.most_sent().frames, 900 + publishing.kinds["request"].frames);
        assert_eq!(publishing.kinds.get("has").map(|it| it.frames), history.then_some(100));
    }
}

#[test]
fn a_room_that_opens_asks_nobody() {
    for history in [true, false] {
        let outcome = stage(Use::Notices, 50, history).play();
        let claims_of = |it: &str| outcome.opening.kinds.get(it).map_or(0, |it| it.frames);
        assert_eq!((claims_of("claim"), claims_of("claimed")), (0, 0));
    }
}

#[test]
fn the_formulas_say_what_is_counted() {
    for (what, rooms) in [(Use::Hot, 1), (Use::Chat, 100), (Use::Notices, 2_000)] {
        for history in [false, true] {
            let outcome = stage(what, rooms, history).play();
            assert_eq!(outcome.publishing.fan_outs, outcome.expected);
            let counted = outcome.publishing.all().frames as f64 / outcome.publications as f64;
            let clients = outcome.subscriptions as f64;
            let plan = Plan { nodes: NODES as f64, clients, what, history };
            let expected = match what {
                // Its few clients are one on each node, not at random.
                Use::Hot => Plan { clients: 1e6, ..plan }.frames(),
                _ => plan.frames(),
            };
            let off = (counted - expected).abs() / expected;
            assert!(off < 0.05, "{what:?}: {counted} frames, by the formula {expected}");
        }
    }
}

#[test]
fn rooms_of_a_node_that_dies_are_published_into_again() {
    for (what, rooms) in [(Use::Hot, 1), (Use::Chat, 500), (Use::Notices, 5_000)] {
        for history in [false, true] {
            let mut stage = stage(what, rooms, history);
            stage.play();
            let death = stage.kill_a_home();
            let frames = death.traffic.all().frames as f64;
            let plan = Plan { nodes: NODES as f64, clients: 1e6, what, history };
            let expected = death.moved as f64 * plan.move_frames() + plan.claim_frames();
            assert!(
                (frames - expected).abs() < 0.2 * expected,
                "{frames}, by the formula {expected}"
            );
            let (delivered, expected) = stage.publish_everywhere();
            assert_eq!(delivered, expected, "{what:?}, history: {history}");
        }
    }
}
