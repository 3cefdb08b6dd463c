//! SHELL. Counts the open connections of a node over all of its worker threads.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::connection_limits::{ConnectionLimiter, ConnectionLimits, Full};
use crate::runtime::clock;

/// The connections of a node, as far as they are limited.
#[derive(Clone)]
pub struct ConnectionCounter(Arc<Mutex<ConnectionLimiter>>);

impl ConnectionCounter {
    /// Counts from nothing, and enforces these limits.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Mutex::new(ConnectionLimiter::new(limits))))
    }

    /// Counts a connection from `address` for as long as its permit is held.
    ///
    /// # Errors
    /// If there are too many.
    pub fn enter(&self, address: IpAddr) -> Result<ConnectionPermit, Full> {
        self.lock().enter(address, clock::now())?;
        Ok(ConnectionPermit(Box::new((self.clone(), address))))
    }

    /// Whether it is time again to report that clients are rejected.
    pub fn take_report(&self) -> bool {
        self.lock().take_report(clock::now())
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionLimiter> {
        // Counting can't panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a connection as long as it is open. Boxed: most nodes limit nothing, and every connection has room for one.
pub struct ConnectionPermit(Box<(ConnectionCounter, IpAddr)>);

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let (counter, address) = &*self.0;
        counter.lock().leave(*address, clock::now());
    }
}
