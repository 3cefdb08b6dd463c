//! Rounds of a fan-out: publish for a while, receive everything, read the CPU time it took.
//!
//! In: a server and a floor server, both connected to one fleet. Out: a [`Round`] of either.

use crate::fleet::{Fleet, time_left};
use crate::floor::Floor;
use crate::publisher::{Publisher, SMALLEST_PAYLOAD, Via, payload};
use crate::reading::Processes;
use crate::target::{self, Node};
use anyhow::{Result, ensure};
use clap::Args;
use std::time::{Duration, Instant};

/// Without any progress for this long, what is missing counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// How fast to publish.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// So many publications a second, so many in all.
    Rate {
        /// Publications a second.
        per_second: u32,
        /// Publications in all.
        messages: u64,
    },
    /// As fast as the server takes them, for a time: at most `window` publications are on their
    /// way, that is not acked or not delivered to everyone.
    Saturate {
        /// Publications that may be on their way.
        window: u64,
        /// How long to go on.
        time: Duration,
    },
}

/// What a round came to.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Publications, each to be delivered to every subscriber.
    pub messages: u64,
    /// Deliveries that should have come.
    pub expected: u64,
    /// Deliveries that came.
    pub received: u64,
    /// Bytes that they took on the wire.
    pub bytes: u64,
    /// CPU time of the sending process.
    pub cpu: Duration,
    /// From the first publication to the last delivery.
    pub wall: Duration,
}

impl Round {
    /// CPU time for one delivery, in microseconds.
    pub fn micros_per_delivery(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.received.max(1) as f64
    }

    /// Deliveries for one second of CPU time.
    pub fn per_cpu_second(&self) -> f64 {
        self.received as f64 / self.cpu.as_secs_f64()
    }

    /// Deliveries a second, by the wall clock.
    pub fn per_second(&self) -> f64 {
        self.received as f64 / self.wall.as_secs_f64()
    }

    /// Deliveries that did not come.
    pub fn lost(&self) -> u64 {
        self.expected.saturating_sub(self.received)
    }

    /// The size of one delivery on the wire, frame header included.
    pub fn frame_bytes(&self) -> u64 {
        self.bytes / self.received.max(1)
    }
}

/// What is published where.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// The room that everybody is subscribed to.
    pub room: String,
    /// How many there are.
    pub subscribers: u64,
    /// Bytes of a publication's data.
    pub size: usize,
}

/// The options of measurements of one room with many subscribers.
#[derive(Args, Clone, Copy, Debug)]
pub struct RoomLoad {
    /// Clients subscribed to one room, spread over the nodes
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub subscribers: u64,
    /// Publications a second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Bytes of a publication's data, JSON
    #[arg(long, default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(SMALLEST_PAYLOAD as i64..=60_000))]
    pub size: u32,
}

impl RoomLoad {
    /// The settings that the README's figures are from.
    pub fn of_readme() -> Self {
        Self { subscribers: 1000, rate: 20, size: 128 }
    }

    /// What is published to `room`.
    pub fn traffic(&self, room: &str) -> Traffic {
        let (subscribers, size) = (self.subscribers, self.size as usize);
        Traffic { room: room.to_owned(), subscribers, size }
    }
}

/// Publications before anything is measured.
pub const WARM_UP_MESSAGES: u64 = 20;

/// A server (or several nodes) with subscribers and a publisher, connected and warm.
pub struct Served {
    /// The connections.
    pub fleet: Fleet,
    /// What is published.
    pub traffic: Traffic,
    /// The bytes of one delivery on the wire.
    pub frame_bytes: u64,
    publisher: Publisher,
    processes: Processes,
}

impl Served {
    /// Connects subscribers, spread over `nodes`, and a publisher to the first of these.
    pub fn set_up(traffic: Traffic, nodes: &[Node], via: Via, api_key: &str) -> Result<Self> {
        let (mut fleet, processes) = (Fleet::new()?, target::processes(nodes)?);
        let clients = traffic.subscribers as usize;
        for (index, node) in nodes.iter().enumerate() {
            let share = clients * (index + 1) / nodes.len() - clients * index / nodes.len();
            fleet.open(node.client_plan(std::slice::from_ref(&traffic.room), false), share)?;
        }
        let publisher = Publisher::open(&mut fleet, &nodes[0], via, api_key)?;
        let mut served = Self { fleet, traffic, frame_bytes: 0, publisher, processes };
        let warm = served.round(Pace::Rate { per_second: 20, messages: WARM_UP_MESSAGES })?;
        ensure!(
            warm.received > 0,
            "nothing was delivered of {} publications ({} acked)",
            warm.messages,
            served.publisher.acked
        );
        served.frame_bytes = warm.frame_bytes();
        Ok(served)
    }

    /// Publishes at this pace, and reads what it took.
    pub fn round(&mut self, pace: Pace) -> Result<Round> {
        let Self { fleet, publisher, traffic, processes, .. } = self;
        server_round(fleet, publisher, traffic, processes, pace)
    }
}

/// Runs a round on the server that runs as `processes`.
fn server_round(
    fleet: &mut Fleet,
    publisher: &mut Publisher,
    traffic: &Traffic,
    processes: &Processes,
    pace: Pace,
) -> Result<Round> {
    let mut meter = Meter::start(fleet, processes)?;
    let (sent_before, acked_before) = (publisher.sent, publisher.acked);
    loop {
        let (sent, acked) = (publisher.sent - sent_before, publisher.acked - acked_before);
        let received = meter.received(fleet);
        match next_step(pace, meter.start, sent, acked.min(received / traffic.subscribers)) {
            Step::Publish => {
                let data = payload(traffic.size, sent);
                publisher.publish(fleet, &traffic.room, &data)?;
                continue;
            }
            Step::Drain if acked == sent && received >= sent * traffic.subscribers => break,
            Step::Drain | Step::Wait(_) if meter.is_stuck(received + acked, sent) => break,
            Step::Drain => fleet.pump(GRACE, |id, message| publisher.read(id, message))?,
            Step::Wait(time) => fleet.pump(time, |id, message| publisher.read(id, message))?,
        }
        publisher.check()?;
    }
    meter.finish(fleet, publisher.sent - sent_before, traffic.subscribers)
}

/// Runs a round on the floor server: `messages` to each of its clients.
pub fn floor_round(
    fleet: &mut Fleet,
    floor: &mut Floor,
    clients: u64,
    messages: u64,
    rate: u32,
) -> Result<Round> {
    let mut meter = Meter::start(fleet, &Processes::new(vec![floor.pid()]))?;
    floor.run(messages, rate)?;
    while meter.received(fleet) < messages * clients {
        fleet.pump(GRACE, |_, _| {})?;
        if meter.is_stuck(meter.received(fleet), messages) {
            break;
        }
    }
    meter.finish(fleet, messages, clients)
}

enum Step {
    Publish,
    Wait(Duration),
    Drain,
}

/// What the pace allows after `sent` publications, `arrived` of which are done with.
fn next_step(pace: Pace, start: Instant, sent: u64, arrived: u64) -> Step {
    match pace {
        Pace::Rate { messages, .. } if sent >= messages => Step::Drain,
        Pace::Rate { per_second, .. } => match time_left(start + due_after(sent, per_second)) {
            Some(left) => Step::Wait(left),
            None => Step::Publish,
        },
        Pace::Saturate { window, time } => match time_left(start + time) {
            None => Step::Drain,
            Some(_) if sent < arrived + window => Step::Publish,
            Some(left) => Step::Wait(left),
        },
    }
}

fn due_after(messages: u64, per_second: u32) -> Duration {
    Duration::from_secs_f64(messages as f64 / f64::from(per_second))
}

/// Readings at the start of a round, and the last time that something moved.
struct Meter {
    start: Instant,
    cpu: Duration,
    deliveries: u64,
    bytes: u64,
    processes: Processes,
    progress: (u64, u64),
    progress_at: Instant,
}

impl Meter {
    fn start(fleet: &Fleet, processes: &Processes) -> Result<Self> {
        let (deliveries, bytes) = (fleet.counts().deliveries, fleet.counts().bytes);
        let processes = processes.clone();
        let (cpu, start) = (processes.cpu_time()?, Instant::now());
        let (progress, progress_at) = ((0, 0), start);
        Ok(Self { start, cpu, deliveries, bytes, processes, progress, progress_at })
    }

    fn received(&self, fleet: &Fleet) -> u64 {
        fleet.counts().deliveries - self.deliveries
    }

    fn is_stuck(&mut self, received: u64, sent: u64) -> bool {
        if self.progress != (received, sent) {
            (self.progress, self.progress_at) = ((received, sent), Instant::now());
        }
        self.progress_at.elapsed() >= GRACE
    }

    fn finish(self, fleet: &Fleet, messages: u64, subscribers: u64) -> Result<Round> {
        let (received, expected) = (self.received(fleet), messages * subscribers);
        // Waiting for what never came is not part of the round.
        let lost = received < expected;
        let end = if lost { self.progress_at } else { Instant::now() };
        Ok(Round {
            messages,
            expected,
            received,
            bytes: fleet.counts().bytes - self.bytes,
            cpu: self.processes.cpu_time()?.saturating_sub(self.cpu),
            wall: end - self.start,
        })
    }
}
