//! SHELL. A turn of the registry: what it has for other threads, while it handles what has come.
//!
//! In: what goes to links, to hubs, to the log and to API calls. Out: the same once the turn ends, all for a thread
//! together. A thread that was woken for each thing by itself would sleep again after each, and waking costs more than
//! most of them.

use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::{
    actor::{ForHub, ToHub, ToLink},
    disk::DiskLog,
    logged::LogRequest,
    replies::{Replies, Reply},
    types::{Answer, Findings, RoomName},
};
use crate::cluster::node::NodeId;

/// How long a turn may last while more and more waits. What is to go to others waits no longer than that and one input.
const LONGEST: Duration = Duration::from_millis(1);

/// What a turn has for other threads.
#[derive(Default)]
pub struct Turn {
    /// When its first input had been handled, as the clock's uptime.
    began: Option<Duration>,
    frames: FxHashMap<NodeId, Vec<Bytes>>,
    hubs: FxHashMap<u16, Vec<ForHub>>,
    log: Vec<(RoomName, LogRequest)>,
    replies: Replies,
    findings: Vec<(oneshot::Sender<Findings>, Findings)>,
}

impl Turn {
    /// An input has been handled, at this uptime of the clock. Returns whether the turn has to end.
    pub fn is_long(&mut self, uptime: Duration) -> bool {
        uptime.saturating_sub(*self.began.get_or_insert(uptime)) >= LONGEST
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

    /// The answer to a survey.
    pub fn found(&mut self, reply: oneshot::Sender<Findings>, findings: Findings) {
        self.findings.push((reply, findings));
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
        for (worker, all) in self.hubs.drain() {
            if let Some(hub) = hub(worker) {
                hub.do_send(ToHub(all));
            }
        }
        // Whoever is answered may take what was asked for done.
        self.replies.flush();
        for (reply, findings) in self.findings.drain(..) {
            // The caller may be gone.
            let _ = reply.send(findings);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    const BEGUN: Duration = Duration::from_secs(5);
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
        assert!(!turn.is_long(BEGUN));
        assert!(!turn.is_long(BEGUN + LONGEST / 2));
        assert!(turn.is_long(BEGUN + LONGEST));
        turn.end(|_| None, |_| None, None);
        assert!(!turn.is_long(BEGUN + LONGEST), "another one has begun");
    }
}
