//! SHELL. An actor's timer: it fires when something of the actor is due, and not before, so that a node that
//! only waits costs nothing. It also tells the actor when all that had come is handled.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use actix::{Actor, ActorFuture, AsyncContext as _, Context};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{clock, time::Time};

/// An actor that has something to do at times that it knows.
pub trait Timed: Actor<Context = Context<Self>> {
    /// How precisely its timer fires. What is due within the same grain is done together.
    const GRAIN: Duration;

    /// When it has something to do; none: not before it has handled another message.
    fn due(&self) -> Option<Time>;

    /// Does what is due.
    fn run_due(&mut self);

    /// It has handled all that had come, and done what is due.
    fn end_turn(&mut self) {}
}

/// Runs the timer of the actor of `ctx` for as long as it lives.
pub fn run<A: Timed>(ctx: &mut Context<A>) {
    ctx.spawn(Timer {
        sleep: Box::pin(sleep_until(Instant::now())),
        due: None,
        fired: Time::default(),
    });
}

/// An actor's context polls what it has spawned after all that it handles, so this sees each change of what
/// is due.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` was set for, while it runs.
    due: Option<Time>,
    /// When it fired last.
    fired: Time,
}

impl<A: Timed> ActorFuture<A> for Timer {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        _: &mut Context<A>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        loop {
            let due = actor.due();
            let same = self.due == due;
            self.due = due;
            let Some(due) = due else { break };
            if !same {
                let at = due.max(self.fired + Duration::from_millis(1)).round_up(A::GRAIN);
                self.sleep.as_mut().reset(Instant::now() + at.since(clock::now()));
            } else if !self.sleep.is_elapsed() {
                break;
            }
            if self.sleep.as_mut().poll(task).is_pending() {
                break;
            }
            self.due = None;
            self.fired = clock::now();
            actor.run_due();
        }
        actor.end_turn();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use actix::{Handler, Message, System};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    use super::*;

    #[derive(Message)]
    #[rtype(result = "()")]
    struct Work(u32);

    struct Worker {
        handled: Vec<u32>,
        told: UnboundedSender<Vec<u32>>,
    }

    impl Actor for Worker {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Self::Context) {
            run(ctx);
        }
    }

    impl Handler<Work> for Worker {
        type Result = ();

        fn handle(&mut self, Work(number): Work, _: &mut Self::Context) {
            self.handled.push(number);
        }
    }

    impl Timed for Worker {
        const GRAIN: Duration = Duration::from_millis(50);

        fn due(&self) -> Option<Time> {
            None
        }

        fn run_due(&mut self) {
            panic!("nothing is due");
        }

        fn end_turn(&mut self) {
            if !self.handled.is_empty() {
                self.told.send(std::mem::take(&mut self.handled)).expect("the test is there");
            }
        }
    }

    #[test]
    fn an_actor_that_nothing_is_due_for_is_told_when_all_that_came_is_handled() {
        System::new().block_on(async {
            let (told, mut turns) = unbounded_channel();
            let worker = Worker { handled: Vec::new(), told }.start();
            [1, 2].into_iter().for_each(|it| worker.do_send(Work(it)));
            assert_eq!(turns.recv().await, Some(vec![1, 2]));
            worker.do_send(Work(3));
            assert_eq!(turns.recv().await, Some(vec![3]));
        });
    }
}
