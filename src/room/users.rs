//! SHELL. Which connections each user has on this node, over all of its worker threads.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustc_hash::FxHashSet;

use super::types::SocketRef;

/// Connections by user. Locked only when one opens or closes, or the application does something to a user.
#[derive(Debug, Default)]
pub struct Users(Mutex<HashMap<Box<str>, Sockets>>);

/// Most users have one connection; those that have none in common may have very many.
#[derive(Debug)]
enum Sockets {
    One(SocketRef),
    Many(Box<FxHashSet<SocketRef>>),
}

impl Users {
    /// A connection of `user` is authenticated. Says how many there are with it.
    pub fn enter(&self, user: &str, socket: SocketRef) -> usize {
        let mut users = self.lock();
        match users.get_mut(user) {
            None => {
                users.insert(user.into(), Sockets::One(socket));
                1
            }
            Some(Sockets::Many(sockets)) => {
                sockets.insert(socket);
                sockets.len()
            }
            Some(sockets) => {
                let Sockets::One(first) = *sockets else { return 0 };
                *sockets = Sockets::Many(Box::new([first, socket].into_iter().collect()));
                2
            }
        }
    }

    /// It is closed.
    pub fn leave(&self, user: &str, socket: SocketRef) {
        let mut users = self.lock();
        let over = match users.get_mut(user) {
            None => false,
            Some(Sockets::One(only)) => *only == socket,
            Some(Sockets::Many(sockets)) => {
                sockets.remove(&socket);
                sockets.is_empty()
            }
        };
        if over {
            users.remove(user);
        }
    }

    /// The connections of `user`.
    pub fn of(&self, user: &str) -> Vec<SocketRef> {
        match self.lock().get(user) {
            None => Vec::new(),
            Some(Sockets::One(only)) => vec![*only],
            Some(Sockets::Many(sockets)) => sockets.iter().copied().collect(),
        }
    }

    /// Distinct users.
    pub fn count(&self) -> u32 {
        self.lock().len() as u32
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Sockets>> {
        // Nothing here can panic half way, so a poisoned lock holds nothing wrong.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_there_as_long_as_one_of_its_connections_is() {
        let users = Users::default();
        let socket = |slot| SocketRef { worker: 0, slot, generation: 0 };
        for slot in 1..=3 {
            assert_eq!(users.enter("ann", socket(slot)), slot as usize);
        }
        users.enter("bob", socket(4));
        assert_eq!((users.count(), users.of("ann").len(), users.of("eve").len()), (2, 3, 0));
        users.leave("bob", socket(5));
        assert_eq!(users.of("bob"), [socket(4)]);
        users.leave("bob", socket(4));
        (1..=2).for_each(|slot| users.leave("ann", socket(slot)));
        assert_eq!((users.count(), users.of("ann")), (1, vec![socket(3)]));
        users.leave("ann", socket(3));
        assert_eq!(users.count(), 0);
    }
}
