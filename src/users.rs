//! SHELL. How many connections each user has on this node, over all of its worker threads.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Connections per user. Locked only when one opens or closes.
#[derive(Debug, Default)]
pub struct Users(Mutex<HashMap<Box<str>, u32>>);

impl Users {
    /// A connection of `user` is authenticated.
    pub fn enter(&self, user: &str) {
        *self.lock().entry(user.into()).or_default() += 1;
    }

    /// It is closed.
    pub fn leave(&self, user: &str) {
        let mut users = self.lock();
        if let Some(count) = users.get_mut(user) {
            *count -= 1;
            if *count == 0 {
                users.remove(user);
            }
        }
    }

    /// Distinct users.
    pub fn count(&self) -> u32 {
        self.lock().len() as u32
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Box<str>, u32>> {
        // Counting can't panic half way, so a poisoned lock holds nothing wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
