//! Gossip on a rough way: late, out of order, now and then lost, now and then twice.
//!
//! In: a host's namespace, and the addresses of the others. Out: while the value lives, every datagram that
//! comes to the host waits in a queue of the kernel's for a thread here, which lets it in late or not at
//! all; and some that it sends are sent twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nfq::{Message, Queue, Verdict};
use nix::sched::{CloneFlags, setns};

use crate::hosts::{nft, run};

/// A datagram is late by 50 to 150 ms.
const DELAY: std::ops::Range<u64> = 50..150;
/// Of so many one is lost.
const LOST: u32 = 20;
/// Percent of them that are sent twice.
const TWICE: u32 = 10;
/// Between two looks at the queue.
const PAUSE: Duration = Duration::from_millis(2);
const NUMBER: &str = "7946";

/// One host's rough way.
pub struct Rough {
    namespace: String,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Rough {
    /// Makes the way rough.
    pub fn new(namespace: &str, others: &[Ipv4Addr]) -> Result<Self, String> {
        let mut queue = queue_of(namespace)?;
        let mut rules = String::from(
            "add table ip rough\nadd chain ip rough out { type filter hook postrouting priority 0; }\n",
        );
        for other in others {
            let which = format!("ip daddr {other} ip protocol udp");
            let twice = format!("numgen random mod 100 < {TWICE} dup to {other}");
            rules += &format!("add rule ip rough out {which} {twice}\n");
        }
        nft(Some(namespace), &rules)?;
        let stop = Arc::<AtomicBool>::default();
        let stopped = stop.clone();
        let thread = thread::spawn(move || hold_up(&mut queue, &stopped));
        let rough = Self { namespace: namespace.to_owned(), stop, thread: Some(thread) };
        rough.queueing("-A")?;
        Ok(rough)
    }

    /// By iptables: nft's own queueing is not in every kernel.
    fn queueing(&self, action: &str) -> Result<(), String> {
        let within = ["netns", "exec", &self.namespace, "iptables", action, "INPUT"];
        let what = ["-p", "udp", "-j", "NFQUEUE", "--queue-num", NUMBER];
        run("ip", &[&within[..], &what].concat())
    }
}

impl Drop for Rough {
    fn drop(&mut self) {
        // What can't be undone goes with the host.
        let _ = self.queueing("-D");
        let _ = nft(Some(&self.namespace), "delete table ip rough\n");
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A queue of the host's: sockets belong to the namespace that their thread was in.
fn queue_of(namespace: &str) -> Result<Queue, String> {
    let path = format!("/run/netns/{namespace}");
    let opened = thread::spawn(move || -> Result<Queue, String> {
        let host = File::open(&path).map_err(|e| format!("{path}: {e}"))?;
        setns(host, CloneFlags::CLONE_NEWNET).map_err(|e| format!("{path}: {e}"))?;
        let mut queue = Queue::open().map_err(|e| format!("no queue: {e}"))?;
        let number = NUMBER.parse().map_err(|e| format!("{NUMBER}: {e}"))?;
        queue.bind(number).map_err(|e| format!("no queue {number}: {e}"))?;
        queue.set_nonblocking(true);
        Ok(queue)
    });
    opened.join().map_err(|_| "opening a queue has panicked".to_owned())?
}

fn hold_up(queue: &mut Queue, stopped: &AtomicBool) {
    let mut random = fastrand::Rng::with_seed(u64::from(std::process::id()));
    let mut waiting: VecDeque<(Instant, Message)> = VecDeque::new();
    while !stopped.load(Ordering::Relaxed) {
        match queue.recv() {
            Ok(mut message) if random.u32(..LOST) == 0 => {
                message.set_verdict(Verdict::Drop);
                let _ = queue.verdict(message);
            }
            Ok(message) => {
                let late = Duration::from_millis(random.u64(DELAY));
                waiting.push_back((Instant::now() + late, message));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return,
        }
        let now = Instant::now();
        for _ in 0..waiting.len() {
            let Some((due, message)) = waiting.pop_front() else { break };
            if due > now {
                waiting.push_back((due, message));
            } else {
                let _ = queue.verdict(message);
            }
        }
    }
}
