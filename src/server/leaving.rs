//! SHELL. Whether the node is to leave: asked by a signal or an API call, and seen by everything that serves clients.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Shared by all workers and the node's wiring.
#[derive(Debug, Default)]
pub struct Leaving {
    asked: Notify,
    begun: AtomicBool,
}

impl Leaving {
    /// Asks the node to leave.
    pub fn ask(&self) {
        self.asked.notify_one();
    }

    /// Waits until it is asked to.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// The node takes no new clients from now on.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Whether it takes none any more.
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}
