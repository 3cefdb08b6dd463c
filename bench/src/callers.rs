//! Connections to the server API, each with one call under way at most: who waits for an answer holds up nobody.
//!
//! In: requests, and what they are about. Out: that, with the answer.

use crate::conn::Plan;
use crate::fleet::Fleet;
use anyhow::{Context, Result};
use std::collections::{HashMap, VecDeque};

/// The connections, and what their calls are about.
#[derive(Debug)]
pub struct Callers<T> {
    /// Who has no call under way. They take turns: a server closes a connection that is silent for seconds.
    free: VecDeque<usize>,
    under_way: HashMap<usize, T>,
}

impl<T> Callers<T> {
    /// Opens `count` connections.
    pub fn open(fleet: &mut Fleet, plan: Plan, count: usize) -> Result<Self> {
        Ok(Self { free: fleet.open(plan, count)?.collect(), under_way: HashMap::new() })
    }

    /// Whether there is one without a call.
    pub fn are_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many calls have no answer yet.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Sends a request.
    pub fn call(&mut self, fleet: &mut Fleet, request: &[u8], about: T) -> Result<()> {
        let id = self.free.pop_front().context("more calls at once than connections for them")?;
        fleet.send(id, request)?;
        self.under_way.insert(id, about);
        Ok(())
    }

    /// Connection `id` has an answer. Returns what the call was about; none if it is not one of these.
    pub fn answered(&mut self, id: usize) -> Option<T> {
        let about = self.under_way.remove(&id)?;
        self.free.push_back(id);
        Some(about)
    }
}
