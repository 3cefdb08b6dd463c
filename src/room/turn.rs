//! SHELL. A turn of the registry: what it has for other threads, while it handles what has come.
//!
//! In: what goes to links, to hubs, to the log and to API calls. Out: the same once the turn ends, all for a thread
//! together. A thread that was woken for each thing by itself would sleep again after each, and waking costs more than
//! most of them.

use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use rustc_hash::FxHashMap;

use super::{
    actor::{ForHub, ToHub, ToLink},
    disk::DiskLog,
    logged::LogRequest,
    replies::{Replies, Reply},
    types::{Answer, RoomName},
};
use crate::{cluster::node::NodeId, runtime::time::Time};

/// How long a turn may last while more and more waits: what is to go to others waits no longer than that.
const LONGEST: Duration = Duration::from_micros(500);

/// What a turn has for other threads.
#[derive(Default)]
pub struct Turn {
    /// When it began: with its first input.
    began: Option<Time>,
    frames: FxHashMap<NodeId, Vec<Bytes>>,
    hubs: FxHashMap<u16, Vec<ForHub>>,
    log: Vec<(RoomName, LogRequest)>,
    replies: Replies,
}

impl Turn {
    /// An input was handled from `begun` to `ended`. Returns whether the turn has to end with it.
    pub fn is_long(&mut self, begun: Time, ended: Time) -> bool {
        ended.since(*self.began.get_or_insert(begun)) >= LONGEST
    }

    /// A frame for a peer.
    pub fn to_link(&mut self, peer: NodeId, frame: Bytes) {
        self.frames.entry(peer).or_default().push(frame);
    }

    /// Something for the sockets of a worker.
    pub fn to_hub(&mut self, worker: u16, it: ForHub) {
        self.hubs.entry(worker).or_default().push(it);
    }

    /// Something for the log on disk.
    pub fn to_log(&mut self, room: RoomName, request: LogRequest) {
        self.log.push((room, request));
    }

    /// The answer to an API call.
    pub fn answer(&mut self, reply: Reply, answer: Answer) {
        self.replies.push(reply, answer);
    }

    /// Ends it: all goes to those that are there, and the next one begins.
    pub fn end<'a>(
        &mut self,
        link: impl Fn(NodeId) -> Option<&'a Recipient<ToLink>>,
        hub: impl Fn(u16) -> Option<&'a Recipient<ToHub>>,
        log: Option<&DiskLog>,
    ) {
        self.began = None;
        for (peer, frames) in self.frames.drain() {
            if let Some(link) = link(peer) {
                link.do_send(ToLink::Frames(frames));
            }
        }
        for (room, request) in self.log.drain(..) {
            if let Some(log) = log {
                log.request(room, request);
            }
        }
        self.replies.flush();
        for (worker, all) in self.hubs.drain() {
            if let Some(hub) = hub(worker) {
                hub.do_send(ToHub(all));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    const BEGUN: Time = Time::from_millis(5);
    const PEER: NodeId = NodeId(1);

    struct Link(UnboundedSender<Vec<Bytes>>);

    impl Actor for Link {
        type Context = Context<Self>;
    }

    impl Handler<ToLink> for Link {
        type Result = ();

        fn handle(&mut self, message: ToLink, _: &mut Self::Context) {
            if let ToLink::Frames(frames) = message {
                self.0.send(frames).expect("the test is there");
            }
        }
    }

    #[test]
    fn all_for_a_link_goes_in_one_message_when_the_turn_ends() {
        System::new().block_on(async {
            let (came, mut frames) = unbounded_channel();
            let link = Link(came).start().recipient();
            let to = |peer| (peer == PEER).then_some(&link);
            let mut turn = Turn::default();
            for frame in ["a", "b"] {
                turn.to_link(PEER, frame.into());
                turn.to_link(NodeId(2), "to one that has gone".into());
            }
            turn.end(to, |_| None, None);
            turn.to_link(PEER, "c".into());
            turn.end(to, |_| None, None);
            assert_eq!(frames.recv().await, Some(vec!["a".into(), "b".into()]));
            assert_eq!(frames.recv().await, Some(vec!["c".into()]));
        });
    }

    #[test]
    fn a_turn_ends_when_it_was_long() {
        let mut turn = Turn::default();
        assert!(!turn.is_long(BEGUN, BEGUN + LONGEST / 2));
        assert!(turn.is_long(BEGUN + LONGEST / 2, BEGUN + LONGEST));
        turn.end(|_| None, |_| None, None);
        assert!(!turn.is_long(BEGUN + LONGEST, BEGUN + LONGEST * 3 / 2), "another one has begun");
    }
}
