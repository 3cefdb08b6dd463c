//! SHELL. What may be another while the node runs, shared by its threads.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

/// A value to be looked at each time that it counts. Looking costs next to nothing.
#[derive(Debug)]
pub struct Live<T>(Arc<ArcSwap<T>>);

impl<T> Clone for Live<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Live<T> {
    /// Begins with this.
    pub fn new(value: T) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(value)))
    }

    /// What it is now.
    pub fn load(&self) -> Guard<Arc<T>> {
        self.0.load()
    }

    /// Makes it another for all who look from now on.
    pub fn store(&self, value: T) {
        self.0.store(Arc::new(value));
    }
}
