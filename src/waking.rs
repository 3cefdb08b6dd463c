//! SHELL. Wakes an actor when something of it is due, and not before: a node that only waits costs nothing.

use std::{
    pin::Pin,
    task::{Context as TaskContext, Poll, ready},
    time::Duration,
};

use actix::{Actor, ActorFuture, AsyncContext as _, Context};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{clock, time::Time};

/// An actor that has something to do at times that it knows.
pub trait Due: Actor<Context = Context<Self>> {
    /// How precisely it is woken. What is due within the same grain comes up together.
    const GRAIN: Duration;

    /// When it has something to do; none: not before it has handled another message.
    fn due(&self) -> Option<Time>;

    /// Does what is due.
    fn wake(&mut self);
}

/// Wakes the actor of `ctx` for as long as it lives.
pub fn keep<A: Due>(ctx: &mut Context<A>) {
    ctx.spawn(Waking {
        sleep: Box::pin(sleep_until(Instant::now())),
        due: None,
        woken: Time::default(),
    });
}

/// An actor's context polls what it has spawned after all that it handles, so this sees each change of what
/// is due.
struct Waking {
    sleep: Pin<Box<Sleep>>,
    /// What `sleep` was set for, while it runs.
    due: Option<Time>,
    /// When it was woken last.
    woken: Time,
}

impl<A: Due> ActorFuture<A> for Waking {
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
            let Some(due) = due else { return Poll::Pending };
            if !same {
                let at = due.max(self.woken + Duration::from_millis(1)).round_up(A::GRAIN);
                self.sleep.as_mut().reset(Instant::now() + at.since(clock::now()));
            } else if !self.sleep.is_elapsed() {
                return Poll::Pending;
            }
            ready!(self.sleep.as_mut().poll(task));
            self.due = None;
            self.woken = clock::now();
            actor.wake();
        }
    }
}
