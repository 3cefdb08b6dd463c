//! SHELL. The node's sessions whose clients send their commands by requests of their own, over all of its
//! worker threads: any of them may get such a request, also for a session of another.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use actix::Addr;
use bytes::Bytes;

use super::{
    http_stream::{EmulatedCommands, HttpStream},
    id::SessionId,
};

/// Sessions by their names.
#[derive(Default)]
pub struct EmulatedSessions(Mutex<HashMap<SessionId, Addr<HttpStream>>>);

impl EmulatedSessions {
    /// A session begins.
    pub fn enter(&self, id: SessionId, stream: Addr<HttpStream>) {
        self.lock().insert(id, stream);
    }

    /// It is over.
    pub fn leave(&self, id: &SessionId) {
        self.lock().remove(id);
    }

    /// Hands commands to a session of this node. Returns nothing about whether there is such a session:
    /// it may have ended just now, and its client learns that from its stream.
    pub fn give(&self, id: &SessionId, commands: Bytes) {
        let stream = self.lock().get(id).cloned();
        match stream {
            Some(stream) => stream.do_send(EmulatedCommands(commands)),
            None => tracing::debug!("commands for a session that is not here"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Addr<HttpStream>>> {
        // Nothing that is done under it can panic half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
