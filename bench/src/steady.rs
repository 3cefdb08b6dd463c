//! Publishing steadily by the server API, on a thread of its own, while something else happens.
//!
//! In: a rate and rooms with history. Out: [`Published`]: what was acknowledged, and after which time.

use crate::callers::Callers;
use crate::fleet::{Fleet, time_left};
use crate::http;
use crate::kept::{self, Acked};
use crate::publisher::payload;
use crate::table::quantile;
use crate::target::Node;
use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long answers are waited for in the end: longer than a server lets a publication wait, and not as long as it
/// keeps a connection that is silent, as those without a call are by then.
const GRACE: Duration = Duration::from_secs(4);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The options of a steady load.
#[derive(Args, Clone, Copy, Debug)]
pub struct SteadyLoad {
    /// Publications a second meanwhile, to rooms that nothing else is published to
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    pub rate: u32,
    /// Rooms that they go to, in turn
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub load_rooms: u32,
}

impl SteadyLoad {
    /// What the goals are said of.
    pub fn of_readme() -> Self {
        Self { rate: 500, load_rooms: 1000 }
    }

    /// Connections to publish on. Each is used every other second or so, unless answers take that long.
    pub fn connections(&self) -> usize {
        self.rate.clamp(64, 2_000) as usize
    }
}

/// A publication, and when it had its answer.
#[derive(Clone, Debug)]
struct Answered {
    due: Instant,
    took: Duration,
    /// None: it was refused.
    acked: Option<Acked>,
}

/// What was published.
#[derive(Clone, Debug)]
pub struct Published {
    answered: Vec<Answered>,
    /// What the first refusal said.
    pub first_refusal: Option<String>,
    /// Publications that had no answer at all.
    pub unanswered: u64,
}

/// How long publications took, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Latencies {
    /// Half of them stayed within this.
    pub p50: f64,
    /// 99 % did.
    pub p99: f64,
    /// All did.
    pub max: f64,
}

impl Published {
    /// Of those due within `span`, refused ones too: somebody waited for them.
    pub fn latencies(&self, span: Range<Instant>) -> Latencies {
        let within = self.answered.iter().filter(|it| span.contains(&it.due));
        let millis: Vec<f64> = within.map(|it| it.took.as_secs_f64() * 1e3).collect();
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|it| quantile(millis.iter().copied(), it));
        Latencies { p50, p99, max }
    }

    /// The same of each `step` of `span`.
    pub fn timeline(&self, span: Range<Instant>, step: Duration) -> Vec<Latencies> {
        let starts = std::iter::successors(Some(span.start), |start| Some(*start + step));
        let steps = starts.take_while(|start| *start < span.end);
        steps.map(|start| self.latencies(start..start + step)).collect()
    }

    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.answered.iter().filter(|it| it.acked.is_none()).count() as u64
    }

    /// Those that were acknowledged.
    pub fn acked(&self) -> impl Iterator<Item = &Acked> {
        self.answered.iter().filter_map(|it| it.acked.as_ref())
    }
}

/// A load that goes on until it is told to stop, or dropped.
#[derive(Debug)]
pub struct Steady {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Published>>>,
}

impl Steady {
    /// Publishes through `node` to rooms numbered from `first_room` on.
    pub fn start(load: SteadyLoad, node: &Node, api_key: &str, first_room: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (plan, host, api_key) = (node.api_plan(), node.host(), api_key.to_owned());
        let stopped = Arc::clone(&stop);
        let publish = move || {
            let mut fleet = Fleet::new()?;
            let callers = Callers::open(&mut fleet, plan, load.connections())?;
            let published = Published { answered: Vec::new(), first_refusal: None, unanswered: 0 };
            let began = Instant::now();
            let run = Run { load, fleet, callers, host, api_key, first_room, began, published };
            run.publish(&stopped)
        };
        Self { stop, thread: Some(thread::spawn(publish)) }
    }

    /// Ends it. Returns what was published.
    pub fn finish(mut self) -> Result<Published> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load has ended already")?;
        thread.join().map_err(|_| anyhow!("the load ended with a bug"))?.context("the load")
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        // What else has failed is told; the thread ends by itself.
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// When a publication was due, and its number.
type UnderWay = (Instant, u64);

struct Run {
    load: SteadyLoad,
    fleet: Fleet,
    callers: Callers<UnderWay>,
    host: String,
    api_key: String,
    first_room: usize,
    began: Instant,
    published: Published,
}

impl Run {
    fn publish(mut self, stopped: &AtomicBool) -> Result<Published> {
        let (start, mut number) = (self.began, 0);
        while !stopped.load(Ordering::Relaxed) {
            // Latencies count from here, also if every connection waits for an answer.
            let due = start + Duration::from_secs_f64(number as f64 / f64::from(self.load.rate));
            match time_left(due) {
                Some(left) => self.listen(left.min(LOOK_AGAIN))?,
                None if !self.callers.are_free() => self.listen(LOOK_AGAIN)?,
                None => {
                    self.publish_one(due, number)?;
                    number += 1;
                }
            }
        }
        let deadline = Instant::now() + GRACE;
        while self.callers.under_way() > 0
            && let Some(left) = time_left(deadline)
        {
            self.listen(left)?;
        }
        let most = (kept::OF_A_ROOM as u64).saturating_mul(self.load.load_rooms.into());
        ensure!(number <= most, "so much was published that the first of it is not kept any more");
        self.published.unanswered = self.callers.under_way() as u64;
        Ok(self.published)
    }

    fn room(&self, number: u64) -> usize {
        self.first_room + (number % u64::from(self.load.load_rooms)) as usize
    }

    fn publish_one(&mut self, due: Instant, number: u64) -> Result<()> {
        let (room, data) = (kept::room(self.room(number)), payload(128, number));
        let request = http::publish_request(&self.host, &self.api_key, &room, &data);
        self.callers.call(&mut self.fleet, &request, (due, number))
    }

    fn listen(&mut self, timeout: Duration) -> Result<()> {
        let mut answers = Vec::new();
        self.fleet.pump(timeout, |id, body| {
            answers.push((id, Instant::now(), kept::published(body)));
        })?;
        for (id, at, answer) in answers {
            let Some((due, stamp)) = self.callers.answered(id) else { continue };
            let acked = match answer {
                Ok(position) => Some(Acked { room: self.room(stamp), stamp, position }),
                Err(error) => {
                    let (room, at) = (kept::room(self.room(stamp)), due.duration_since(self.began));
                    self.published.first_refusal.get_or_insert_with(|| {
                        format!(
                            "{error} (to {room}, {:.1} s after the load began)",
                            at.as_secs_f64()
                        )
                    });
                    None
                }
            };
            let took = at.saturating_duration_since(due);
            self.published.answered.push(Answered { due, took, acked });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Since;

    #[test]
    fn latencies_are_those_of_a_span_and_refusals_count() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let answered = |number: u64| {
            let acked = Acked { room: 0, stamp: number, position: Since::default() };
            let (due, took) = (start + ms(number), ms(number));
            Answered { due, took, acked: number.is_multiple_of(2).then_some(acked) }
        };
        let answered: Vec<_> = (0..200).map(answered).collect();
        let published = Published { answered, first_refusal: None, unanswered: 0 };
        let Latencies { p50, p99, max } = published.latencies(start..start + ms(100));
        assert_eq!((p50, p99, max), (49.0, 98.0, 99.0));
        assert_eq!((published.refused(), published.acked().count()), (100, 100));
    }
}
