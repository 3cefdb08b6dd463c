//! A way to the cluster that stays where it is while nodes come and go, as a load balancer does.
//!
//! In: the nodes that there are now, and faults. Out: an address; each connection to it goes on to one of the nodes, the
//! next one to the next node. What is on its way to one side can be swallowed, and all connections can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a node may take to accept a connection.
const LIMIT: Duration = Duration::from_secs(1);

/// A direction.
#[derive(Clone, Copy, Debug)]
pub enum Towards {
    /// What clients say.
    Nodes,
    /// What nodes say.
    Clients,
}

/// The way. Its connections end when this is dropped.
pub struct Relay {
    /// Where clients connect.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    nodes: Mutex<Vec<SocketAddr>>,
    /// Whose turn it is to get a connection.
    turn: AtomicUsize,
    open: Mutex<Vec<Arc<Way>>>,
    closed: AtomicBool,
}

/// One connection.
struct Way {
    client: TcpStream,
    node: TcpStream,
    /// It carries nothing to the node any more, and neither side is told.
    node_hears_nothing: AtomicBool,
    /// Nor to the client.
    client_hears_nothing: AtomicBool,
}

impl Relay {
    /// A way to these nodes.
    pub fn start(nodes: &[SocketAddr]) -> Result<Self, String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let shared = Arc::<Shared>::default();
        *lock(&shared.nodes) = nodes.to_vec();
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closed.load(Ordering::Relaxed) {
                    break;
                }
                let shared = accepting.clone();
                thread::spawn(move || shared.carry(client));
            }
        });
        Ok(Self { address, shared })
    }

    /// From now on connections go to these nodes. Those that there are stay.
    pub fn lead_to(&self, nodes: &[SocketAddr]) {
        *lock(&self.shared.nodes) = nodes.to_vec();
    }

    /// Swallows from now on what the connections carry in one direction. Neither side is told.
    pub fn swallow(&self, towards: Towards) {
        for way in lock(&self.shared.open).iter() {
            way.hears_nothing(towards).store(true, Ordering::Relaxed);
        }
    }

    /// Ends the connections: how many.
    pub fn cut(&self) -> usize {
        let open = std::mem::take(&mut *lock(&self.shared.open));
        open.iter().for_each(|way| way.cut());
        open.len()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Relaxed);
        self.cut();
        // The thread that accepts sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn carry(&self, client: TcpStream) {
        // Where there is no node, the client is refused.
        let Some(node) = self.connect() else { return };
        let _ = (client.set_nodelay(true), node.set_nodelay(true));
        let (node_hears_nothing, client_hears_nothing) = Default::default();
        let way = Arc::new(Way { client, node, node_hears_nothing, client_hears_nothing });
        lock(&self.open).push(way.clone());
        thread::scope(|scope| {
            scope.spawn(|| way.carry(Towards::Nodes));
            way.carry(Towards::Clients);
        });
        lock(&self.open).retain(|it| !Arc::ptr_eq(it, &way));
    }

    /// To the node whose turn it is, or the next that accepts.
    fn connect(&self) -> Option<TcpStream> {
        let nodes = lock(&self.nodes).clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = nodes.iter().cycle().skip(turn % nodes.len().max(1)).take(nodes.len());
        in_turn.map(|node| TcpStream::connect_timeout(node, LIMIT)).find_map(Result::ok)
    }
}

impl Way {
    fn hears_nothing(&self, towards: Towards) -> &AtomicBool {
        match towards {
            Towards::Nodes => &self.node_hears_nothing,
            Towards::Clients => &self.client_hears_nothing,
        }
    }

    fn carry(&self, towards: Towards) {
        let (mut from, mut to) = match towards {
            Towards::Nodes => (&self.client, &self.node),
            Towards::Clients => (&self.node, &self.client),
        };
        let swallowed = self.hears_nothing(towards);
        let mut bytes = [0; 16 * 1024];
        loop {
            let count = match from.read(&mut bytes) {
                Ok(0) | Err(_) => break,
                Ok(count) => count,
            };
            if !swallowed.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        self.cut();
    }

    fn cut(&self) {
        // Either may be closed.
        let _ = (self.client.shutdown(Shutdown::Both), self.node.shutdown(Shutdown::Both));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
